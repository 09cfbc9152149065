"""How the cohort is audited and how predictions are evaluated."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from casewise.errors import cut
from casewise.study.model import Fraction, MetricName, StudyModel
from casewise.study.presets.published import check_publication

Subgroup = str | dict[str, list[float]]
# A column that is estimated from photographs, unless the table has it.
SKIN_TONE = "estimated_skin_tone"
# Its value where the images of a subject do not tell the group; not a group that is compared with others.
UNCERTAIN = "uncertain"


class Audit(StudyModel):
    """What the audit examines, in addition to the usual columns."""

    columns: list[str] | None = None
    """Further columns of the table that should not predict the targets, besides [the usual
    ones](howto-audit.md#what-is-examined); one that is known to predict them needs a reason in `accept`."""
    outcomes: list[str] = []
    """Columns with other results of the same cases, such as a second score: they may be related to the targets, and are
    not tested, unless they have a usual name."""
    mask: str | None = None
    """Column with the mask of each image's anatomy, a path from `root`; the rest is then examined separately."""
    fields: bool = False
    """Whether each image is a field cut from tissue. A border is then a shortcut only by what distinguishes it from
    the interior. No effect on slides."""
    decisions: Path | None = None
    """A table of images that are left out, as `casewise audit --resolve` writes it: the columns `path`, `decision`
    (`leave out` or `keep`) and `reason`."""
    permutations: int = Field(999, ge=99, le=100_000)
    """Number of permutations of labels between subjects behind each p-value."""


class Evaluation(StudyModel):
    """How predictions are evaluated."""

    bootstrap_resamples: int = Field(2000, ge=100)
    """Number of resamples of subjects for comparisons, and for [intervals that are not made by leaving out one subject
    at a time](explanation-figures.md#intervals-leave-out-one-subject-at-a-time)."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence level of the intervals."""
    margin: float | None = Field(None, gt=0)
    """The largest difference that does not matter between the reported model and the simple model that it is [compared
    with first](explanation-figures.md#one-primary-comparison): in the mean absolute error of a number, the AUROC of
    classes, or the quadratic weighted kappa of grades. The report then says whether the model is worse by more."""
    prediction_coverage: float = Field(0.9, gt=0.5, lt=1)
    """Share of cases of new subjects whose [prediction interval or set](explanation-intervals.md) should contain the
    reference; for classes and grades, in each class, and for numbers, in each severity band or third with enough
    subjects (9 at 90 %, 19 at 95 %)."""
    bands: dict[str, float] = {}
    """Severity bands of the primary outcome: names and lower bounds, such as `{clear: 0, mild: 1}`."""
    response: bool = True
    """Compute the change from baseline. `false` if a lower score is not better, or visits are not follow-ups."""
    baseline: str = "first"
    """`first`: each subject's first scored visit. Or the name of a visit."""
    missing_baseline: Literal["refuse", "leave_out"] = "refuse"
    """What to do with subjects who lack a named baseline visit."""
    responders: list[Annotated[float, Field(gt=0, le=100)]] = [50, 75, 90, 100]
    """Percentages by which a score must have fallen to count as a response."""
    arm: str = ""
    """Column with the arm of each subject of a trial, such as `treatment`: [Effects of a
    treatment](explanation-figures.md#effects-of-a-treatment)."""
    control: str = ""
    """The arm that the others are compared with. Default: the first one by name."""
    readers: dict[str, dict[str, str]] = {}
    """Columns with the scores of readers, to compare their agreement: `{score: {reader: column}}`."""
    references: Annotated[str, AfterValidator(check_publication)] | dict[str, dict[str, dict[MetricName, float]]] = {}
    """Published metrics for tables of results: `{target: {name: {mae: 1.42, pcc: 0.67}}}`, or the name of [a
    publication](howto-paper.md#published-values), such as `covid-cxr`."""
    prevalence: dict[str, Annotated[Fraction, Field(gt=0)]] = {}
    """For predictive values, the share of the positive class where the model is to be used: `{finding: 2%}`."""
    decision_thresholds: list[Annotated[Fraction, Field(gt=0)]] = []
    """Probabilities of a class above which one would act, such as `[5%, 10%]`, for a decision curve (net benefit)."""
    subgroups: list[Subgroup] = []
    """Columns for which the headline is also computed by group, and differences are tested: `[sex, {age: [40, 60]}]`.
    Numbers are divided at the stated cut points, or into thirds of the subjects. `estimated_skin_tone` is [estimated
    from photographs](howto-photographs.md#skin-tone-as-a-subgroup)."""

    counterfactual_cases: int = Field(50, ge=0, le=1000)
    """Number of held-out cases, over all folds, that are predicted again with [altered
    images](howto-audit.md#altered-images). `0` omits it."""

    @property
    def subgroup_cuts(self) -> dict[str, tuple[float, ...]]:
        """The columns of subgroups in order, with the cut points of their numbers; empty where none are stated.

        >>> Evaluation(subgroups=["sex", {"age": [40, 60]}]).subgroup_cuts
        {'sex': (), 'age': (40.0, 60.0)}
        """
        entries: list[dict[str, list[float]]] = [e if isinstance(e, dict) else {e: []} for e in self.subgroups]
        return {column: tuple(cuts) for entry in entries for column, cuts in entry.items()}

    @field_validator("subgroups")
    @classmethod
    def _check_subgroups(cls, value: list[Subgroup]) -> list[Subgroup]:
        columns = [column for entry in value for column in (entry if isinstance(entry, dict) else [entry])]
        twice = next((column for column, count in Counter(columns).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"subgroups: {cut(twice)} is named twice; state it once")
        for entry in value:
            for column, cuts in entry.items() if isinstance(entry, dict) else ():
                if not cuts or any(low >= high for low, high in pairwise(cuts)):
                    raise ValueError(f"subgroups.{column}: cut points must increase, such as [40, 60]")
        return value

    @field_validator("bands")
    @classmethod
    def _check_bands(cls, value: dict[str, float]) -> dict[str, float]:
        if value and (len(value) < 2 or len(set(value.values())) < len(value)):
            raise ValueError("bands need two names or more, each with a different lower bound")
        return value
