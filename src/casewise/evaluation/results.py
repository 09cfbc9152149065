"""Everything that was measured of a study, written to and read from `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from casewise.errors import DamagedError
from casewise.evaluation.figures import (
    AgainstBaseline,
    Bands,
    Calibration,
    ClassFigures,
    Comparison,
    Drop,
    Estimate,
    Figures,
    Headline,
    Interval,
    Metrics,
    NetBenefit,
    Note,
    OverFolds,
    PredictionSets,
    Readers,
    Record,
    Response,
    Seeds,
    SourceMean,
    Subgroups,
    Threshold,
    WithinColumn,
)

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder

_DIGITS = 6
T = TypeVar("T")


@dataclass(frozen=True)
class Flow(Record):
    """The steps that left rows out (`casewise.cohort.participants`) and the sizes of the cohort; `name` if external."""

    steps: list[dict[str, Any]]
    cohort: dict[str, int]
    external: Flow | None = None
    name: str | None = None


@dataclass(frozen=True)
class Side(Record):
    """A side of the split: `all`, `train`, `test`, a `fold` or `external`, with its name and sizes."""

    code: str
    name: str
    subjects: int
    cases: int
    images: int


@dataclass(frozen=True)
class NumberSummary(Record):
    """A characteristic that is a number, on one side: mean, standard deviation, median and quartiles of `n` units."""

    n: int
    missing: int
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class CategoryCounts(Record):
    """A characteristic with categories, on one side: units by level."""

    counts: list[int]
    missing: int


@dataclass(frozen=True)
class Characteristic(Record):
    """A column or target on each side of the split, by the side's position (see `casewise.cohort.participants`)."""

    name: str
    what: str
    unit: str
    kind: str
    sides: dict[str, NumberSummary | CategoryCounts]
    levels: list[dict[str, str]] | None = None


@dataclass(frozen=True)
class HalfWidth(Record):
    """Half the width of a figure's interval."""

    half_width: float
    rough: bool


@dataclass(frozen=True)
class Precision(Record):
    """The precision of the headline's figures, and the numbers of subjects and cases behind them.

    `subjects_by_class` are the events of each class; a subject may have several.
    """

    stage: str | None
    learner: str | None
    target: str
    figures: dict[str, HalfWidth]
    n_subjects: int
    n_cases: int
    subjects_by_class: dict[str, int]


@dataclass(frozen=True)
class Participants(Record):
    """The flow of participants, their characteristics on each side of the split, and what the sample size gives."""

    flow: Flow
    sides: list[Side]
    characteristics: list[Characteristic]
    evaluated: dict[str, dict[str, int]]
    precision: Precision | None


@dataclass(frozen=True)
class DriftGroup(Record):
    """A group of cases: predictions, subjects, quality where the reference is known, confidence, share outside.

    Confidence is the mean of the largest probability, of classes and grades.
    """

    answers: int
    subjects: int
    rough: bool
    quality: Estimate
    confidence: Estimate | None = None
    outside: Estimate | None = None


@dataclass(frozen=True)
class DriftGap(Record):
    """The differences between two groups, where both have the figure."""

    rough: bool
    quality: Interval | None = None
    confidence: Interval | None = None


@dataclass(frozen=True)
class LearnerDrift(Record):
    """One learner's cases of the study and of the external cohort, the latter also by whether they lie outside.

    `quality` names the metric: `accuracy`, or `mae` of a number.
    """

    internal_stage: str
    quality: str
    internal: DriftGroup
    external: DriftGroup
    inside: DriftGroup
    outside: DriftGroup
    outside_minus_inside: DriftGap
    external_minus_internal: DriftGap


@dataclass(frozen=True)
class Drift(Record):
    """How external cases differ from those of the training: of the cohorts, and by learner.

    `cohorts` is how well simple features tell the cohorts apart (see `casewise.audit.cohorts.compare_cohorts`).
    """

    cohorts: dict[str, Any]
    learners: dict[str, LearnerDrift]


@dataclass(frozen=True)
class ClassChange(Record):
    """The number of answers that an alteration turns from one class into another."""

    before: str
    after: str
    answers: int


@dataclass(frozen=True)
class CorrectAnswers(Record):
    """Answers that agree with the reference before and after an alteration, of those with one."""

    before: int
    after: int
    of: int


@dataclass(frozen=True)
class AlteredAnswers(Record):
    """An alteration's effect on classes: changed answers, most common change first.

    `before` are the answers by class for the unaltered images; `confidence` is the mean change of the largest
    probability.
    """

    cases: int
    subjects: int
    answers: int
    changed: int
    share: Estimate
    changes: list[ClassChange]
    before: dict[str, int]
    correct: CorrectAnswers
    confidence: float

    @property
    def effect(self) -> float:
        """The share of changed answers."""
        return self.share.value or 0.0


@dataclass(frozen=True)
class AlteredNumbers(Record):
    """An alteration's effect on numbers: mean absolute change, mean change, and the error of the unaltered images.

    `relative` is the mean absolute change divided by that error.
    """

    cases: int
    subjects: int
    answers: int
    moved: Estimate
    shift: Estimate
    mae: float | None
    relative: float | None

    @property
    def effect(self) -> float:
        """The change relative to the error."""
        return self.relative or 0.0


@dataclass(frozen=True)
class ImageSplit(Record):
    """The figures of the primary outcome if images of a subject may be on both sides of the split."""

    metrics: Metrics
    main: dict[str, str | None]
    subjects_on_both_sides: int
    subjects_with_several_images: int
    subjects: int
    images: int


# ----------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Results(Record):
    """Everything that was measured of a study.

    Attributes:
        metrics: figures by stage, learner, target key and metric.
        comparisons: of learners, by stage, target key and metric.
        classes: by stage, learner and target key.
        response: by stage and learner.
        over_folds: by target, learner and metric.
        calibration: of the reported learner by stage and class; a number has one entry, with an empty name.
        decision_curves: of the reported learner by stage and class.
        decision_rules: by target, how grades are decided (see `casewise.predictions.decisions`).
        by_site: by source, learner and metric, where each source was left out of training in turn.
        site_means: by learner and metric.
        external_drop: by learner and metric.
        external_by: by column, group, learner and metric.
        counterfactuals: by learner and alteration.
        made_from: the checksums of the parts of the run by name.
    """

    metrics: Metrics
    comparisons: dict[str, dict[str, dict[str, Comparison]]]
    classes: dict[str, dict[str, dict[str, ClassFigures]]]
    response: dict[str, dict[str, Response]]
    main: Headline
    notes: list[Note]
    bands: Bands | None = None
    readers: Readers | None = None
    over_folds: dict[str, dict[str, dict[str, OverFolds]]] = field(default_factory=dict)
    against_baselines: AgainstBaseline | None = None
    calibration: dict[str, dict[str, Calibration]] | None = None
    decision_curves: dict[str, dict[str, list[NetBenefit]]] | None = None
    decision_rules: dict[str, Any] | None = None
    prediction_sets: PredictionSets | None = None
    within_column: WithinColumn | None = None
    participants: Participants | None = None
    subgroups: Subgroups | None = None
    by_site: dict[str, dict[str, Figures]] | None = None
    site_means: dict[str, dict[str, SourceMean]] | None = None
    external_drop: dict[str, dict[str, Drop]] | None = None
    external_by: dict[str, dict[str, dict[str, Figures]]] | None = None
    drift: Drift | None = None
    counterfactuals: dict[str, dict[str, AlteredAnswers | AlteredNumbers]] | None = None
    seeds: Seeds | None = None
    image_split: ImageSplit | None = None
    made_from: dict[str, str] = field(default_factory=dict)

    def figures(self, stage: str, learner: str, key: str) -> Figures:
        """The figures of a learner for one target key, by metric; empty where it was not evaluated."""
        return self.metrics.get(stage, {}).get(learner, {}).get(key, {})


# -------------------------------------------------------------------------------------------------------------- JSON


def plain(value: Any) -> Any:
    """Plain values for JSON: floats of six digits, records as mappings without the fields at their default."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            each.name: plain(content)
            for each in fields(value)
            if (content := getattr(value, each.name)) is not None or each.default is not None
        }
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, Threshold):
        return float(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{_DIGITS}g}")
    return int(value) if isinstance(value, np.integer) else value


@cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def from_json(kind: type[T], value: Any) -> T:
    """The record of plain values.

    Raises:
        ValueError: they are not those of such a record.
    """
    record: T = _adapter(kind).validate_python(value)  # type: ignore[arg-type]
    return record


def as_stored(results: Results) -> Results:
    """The results with the digits with which they are stored."""
    return from_json(Results, plain(results))


def read_results(folder: RunFolder) -> Results:
    """The results of a finished run.

    Raises:
        RunError: there are none, or they cannot be read.
        DamagedError: they were changed after they were written, or were written by another version of casewise.
    """
    from pydantic import ValidationError

    values = folder.metrics.read()
    try:
        return from_json(Results, values)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"]))
        raise DamagedError(
            f"{folder.metrics.path} does not hold results of this version of casewise ({at[:80]}: {first['msg']}). "
            f"{folder.metrics.remedy}"
        ) from error


def write_results(folder: RunFolder, results: Results) -> Results:
    """Write the results of a run; return them as they are stored."""
    values = plain(results)
    folder.metrics.write(values)
    return from_json(Results, values)
