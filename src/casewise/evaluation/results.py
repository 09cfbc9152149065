"""Everything that was measured of a study as frozen records, written to and read from `metrics.json`.

Figures are found by stage, learner, target key and metric: a key is a target over all its regions (`composite`) or in
one of them (`composite[upper]`). Undefined values are None, never NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, dataclass_transform

import numpy as np

from casewise.errors import DamagedError

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder

_DIGITS = 6
T = TypeVar("T")
# Whether the interval of a sensitivity lies above the one that is aimed at, includes it, or lies below.
Aim = Literal["reached", "uncertain", "missed"]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Record(Mapping[str, Any]):
    """A frozen dataclass, also read like a mapping of its fields; those that are None by default are missing then."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def __getitem__(self, name: str) -> Any:
        if name not in iter(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (item.name for item in fields(self) if item.default is not None or getattr(self, item.name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Threshold(float):
    """A threshold; it is written with all its digits, because scores are compared with it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.float_schema())


# ----------------------------------------------------------------------------------------------------------- figures


class Estimate(Record):
    """A figure with its interval; `rough` if it rests on too few subjects; a reason if something is undefined.

    `n_subjects` are all subjects. A figure of a class rests on those with a case of the class. `n_cases` counts what is
    evaluated: cases, or regions or images where each has a prediction.
    """

    value: float | None
    low: float | None
    high: float | None
    n_subjects: int
    n_cases: int
    rough: bool
    reason: str | None = None


# By metric.
Figures: TypeAlias = dict[str, Estimate]
# By stage, learner and target key.
Metrics: TypeAlias = dict[str, dict[str, dict[str, Figures]]]


class Interval(Record):
    """A value with its interval, without a count of subjects."""

    value: float
    low: float | None
    high: float | None


class SourceMean(Record):
    """A figure averaged over the sources in which it is defined, each with the same weight."""

    value: float | None
    sources: list[str]
    undefined: list[str]
    low: float | None
    high: float | None
    rough: bool | None = None
    reason: str | None = None


class WithinSources(Record):
    """The figures of the primary outcome within each source, by source, learner and metric, and their means."""

    by_site: dict[str, dict[str, Figures]]
    site_means: dict[str, dict[str, SourceMean]]


class Difference(Record):
    """A learner's figure minus another learner's, or a group's minus the mean of the other groups.

    The interval holds for all pairs of learners, or all groups, at once; only learners are `indistinguishable`.
    """

    difference: float
    low: float | None
    high: float | None
    indistinguishable: bool | None = None


class Comparison(Record):
    """The learners by one metric: the best, those that may be as good, and the differences of all others from it."""

    best: str
    indistinguishable: list[str]
    n_subjects: int
    rough: bool
    differences: dict[str, Difference]
    from_baseline: dict[str, dict[str, Difference]]


class AgainstBaseline(Record):
    """The reported learner against the best baseline.

    `chosen` is the number of baselines among which this one was chosen on the cases that are compared, else 0.
    """

    learner: str
    baseline: str
    stage: str
    merit: str
    n_subjects: int
    rough: bool
    chosen: int
    differences: dict[str, Difference]


class Headline(Record):
    """The learner that the report is about, the stage at which it is judged, and its figures by metric."""

    target: str
    stage: str | None
    learner: str | None
    chosen_on: str | None
    metrics: Figures | None
    kind: str


class Note(Record):
    """A caveat: its code, with the names and numbers of its sentence (see `casewise.evaluation.caveats`)."""

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.code if name == "code" else self.facts[name]

    def __iter__(self) -> Iterator[str]:
        yield from ("code", *self.facts)


# ----------------------------------------------------------------------------------------------------------- classes


class OperatingPoint(Record):
    """A threshold of a class's probability, chosen by a rule on other cases, and its figures on these."""

    label: str
    rule: str
    chosen_on: str
    threshold: Threshold | None
    prevalence: float | None
    aim: Aim | None
    figures: Figures
    threshold_by_fold: dict[str, Threshold | None] | None = None


class ReliabilityBin(Record):
    """Cases whose largest probability lies between two bounds: their number, mean probability and accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


class ClassFigures(Record):
    """Confusion counts (rows are the reference), temperature, curves and operating points of one learner."""

    names: list[str]
    positive: str | None
    support: list[int]
    confusion: list[list[int]]
    constant_class: str | None
    temperature: float | None
    temperature_fitted_on: str
    roc: dict[str, dict[str, list[float]]]
    reliability: list[ReliabilityBin]
    reliability_calibrated: list[ReliabilityBin]
    operating: list[OperatingPoint]
    temperature_by_fold: dict[str, Threshold | None] | None = None


# ----------------------------------------------------------------------------------------- numbers, readers, response


class GroupAgreement(Record):
    """Two groupings of cases: their confusion counts (rows are the reference), share of agreement and kappas."""

    confusion: list[list[int]]
    agreement: Estimate
    kappa: Estimate
    kappa_quadratic: Estimate


class Bands(Record):
    """The severity bands, name -> lower bound, and the agreement on them by stage and learner."""

    lower_bounds: dict[str, float]
    stages: dict[str, dict[str, GroupAgreement]]


class Readers(Record):
    """Agreement in pairs of readers, and of learners with readers.

    `between`: stage, or `all` -> target key -> 'first | second' -> figures; `learners`: stage -> learner -> target key
    -> reader -> figures.
    """

    between: dict[str, dict[str, dict[str, Figures]]]
    learners: dict[str, dict[str, dict[str, dict[str, Figures]]]]


class ResponseRates(Record):
    """The share of responders at a visit by the physician and by the model, by threshold in percent."""

    n_subjects: int
    rates: dict[str, dict[str, Interval]]


class Response(Record):
    """One learner's response over time and the physician's (see `casewise.evaluation.response.response`)."""

    baseline: str
    clear_rule: str
    n_subjects: int
    n_visits: int
    rough: bool
    undefined: dict[str, list[str]]
    change: Figures | None = None
    responders: dict[str, GroupAgreement] | None = None
    by_visit: dict[str, ResponseRates] | None = None


class TrialVisit(Record):
    """A visit after the baseline: subjects and change by arm, and effects by arm other than the control, by outcome.

    `casewise.evaluation.trial.OUTCOMES` lists the outcomes.
    """

    visit: str
    subjects: dict[str, int]
    change: dict[str, dict[str, Interval]]
    effect: dict[str, dict[str, Interval]]


class Trial(Record):
    """The change over time by arm of one learner and the physician (see `casewise.evaluation.trial.trial`).

    `problems` has the code of the reason why an outcome has no figures, `slopes` whether its model has a random slope,
    `responders` the shares by arm and visit, `risk_differences` the other arms' shares minus the control's.
    """

    control: str
    subjects: dict[str, int]
    baseline: str
    visits: list[TrialVisit]
    left_out: dict[str, int]
    problems: dict[str, str]
    slopes: dict[str, bool]
    responders: dict[str, dict[str, ResponseRates]]
    risk_differences: dict[str, dict[str, ResponseRates]]


class CurvePoint(Record):
    """A point of the smoothed calibration curve, with its pointwise band."""

    predicted: float
    observed: float
    low: float | None
    high: float | None


class Calibration(Record):
    """Slope and intercept of the calibration, the slope in each fold, and the points of the smoothed curve."""

    slope: Estimate
    intercept: Estimate
    slope_by_fold: dict[str, float | None]
    curve: list[CurvePoint]


class NetBenefit(Record):
    """The net benefit of treating above a threshold, of treating everyone, and their difference.

    `over_other` is the benefit minus another learner's.
    """

    threshold: float
    model: Estimate
    treat_all: Estimate
    over_all: Estimate
    declared: bool = False
    over_other: Estimate | None = None


class AddedValue(Record):
    """The value that images add to the covariates: the models that `Results.comparisons` compares.

    `images` are the learners whose mean is the image model, `columns` the kind of each covariate; `decision_curves`
    has, for two classes, the curves of the models with covariates at the headline's stage, by learner.
    """

    images: list[str]
    columns: dict[str, str]
    decision_curves: dict[str, list[NetBenefit]]


# ----------------------------------------------------------------------------------- prediction intervals and spread


class StageCoverage(Record):
    """How often intervals or sets contain the reference, as means over subjects.

    `width` is of intervals; `size`, `single` (the share of sets with one class) and `by_class` are of sets. `without`
    counts rows without an interval.
    """

    coverage: Estimate | None
    without: int
    width: Estimate | None = None
    size: Estimate | None = None
    single: Estimate | None = None
    by_class: dict[str, Estimate | None] | None = None


class TargetCoverage(Record):
    """The calibration of a target (see `casewise.predictions.conformal.fit_target`) and its coverage by stage."""

    calibration: Mapping[str, Any]
    stages: dict[str, StageCoverage]


class PredictionSets(Record):
    """Prediction intervals and sets of the reported learner at a level; `fewest` subjects are needed."""

    level: float
    learner: str
    fewest: int
    targets: dict[str, TargetCoverage]


class OverFolds(Record):
    """A metric of each fold in order, None where undefined, with their mean and standard deviation (n - 1)."""

    mean: float | None
    sd: float | None
    folds: list[float | None]


class OverSeeds(Record):
    """A metric of each seed in order, with mean, extremes and standard deviation (n - 1)."""

    by_seed: list[float | None]
    mean: float | None
    min: float | None
    max: float | None
    sd: float | None


class Seeds(Record):
    """The spread over seeds by stage, learner, target key and metric; the study's own seed comes first."""

    seeds: list[int]
    metrics: dict[str, dict[str, dict[str, dict[str, OverSeeds]]]]


# ------------------------------------------------------------------------------------------- other people, subgroups


class Drop(Record):
    """A figure of an external cohort minus the internal one (of a stage, or `within` sources), with its interval."""

    internal: float
    external: float
    difference: float
    low: float | None
    high: float | None
    internal_stage: str
    rough: bool
    reason: str | None = None


class Subgroup(Record):
    """The figures of one group; `small` names the figures with too few subjects."""

    name: str
    code: str
    n_subjects: int
    n_cases: int
    metrics: Figures
    small: list[str]
    differences: dict[str, Difference]
    subjects_by_class: dict[str, int] | None = None


class SubgroupTest(Record):
    """Whether a figure differs between the groups of a column, or the code of the reason why it is not tested."""

    p: float | None
    p_adjusted: float | None
    groups: list[int]
    reason: str | None = None


class SubgroupColumn(Record):
    """The groups of a column."""

    column: str
    tests: dict[str, SubgroupTest]
    groups: list[Subgroup]


class Subgroups(Record):
    """The reported learner's figures by group."""

    target: str
    stage: str
    learner: str
    figures: list[str]
    columns: list[SubgroupColumn]


class ColumnGroup(Record):
    """One value of a column: numbers of subjects and cases, also of each class, and the AUROC within it.

    Attributes:
        right: how many of its `rows` predictions are right.
        commonest: its most frequent class.
        of_commonest: how many rows have that class: always naming it would be right as often.
        classes: by class its subjects, cases and `rows`; how many of its rows were predicted as it (`found`), how many
            rows of other classes were (`mistaken`), and how many of its rows have it in their prediction set (`held`).
    """

    n_subjects: int
    n_cases: int
    classes: dict[str, dict[str, int]]
    metrics: Figures
    rows: int = 0
    right: int = 0
    commonest: str = ""
    of_commonest: int = 0


class GroupMean(Record):
    """A figure averaged over the groups in which it has an interval."""

    value: float | None
    groups: list[str]
    undefined: list[str]


class WithinColumn(Record):
    """The AUROC within each value of a column that predicts the classes."""

    column: str
    target: str
    stage: str
    learner: str
    groups: dict[str, ColumnGroup]
    means: dict[str, GroupMean]


# ------------------------------------------------------------------------------------- the cohort, altered images


class Flow(Record):
    """The steps that left rows out (`casewise.cohort.participants`) and the sizes of the cohort; `name` if external."""

    steps: Sequence[Mapping[str, Any]]
    cohort: dict[str, int]
    external: Flow | None = None
    name: str | None = None


class Side(Record):
    """A side of the split: `all`, `train`, `test`, a `fold` or `external`, with its name and sizes."""

    code: str
    name: str
    subjects: int
    cases: int
    images: int


class NumberSummary(Record):
    """A characteristic that is a number, on one side: mean, standard deviation, median and quartiles of `n` units."""

    n: int
    missing: int
    mean: float | None = None
    sd: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None


class CategoryCounts(Record):
    """A characteristic with categories, on one side: units by level."""

    counts: list[int]
    missing: int


class Characteristic(Record):
    """A column or target on each side of the split, by the side's position (see `casewise.cohort.participants`)."""

    name: str
    what: str
    unit: str
    kind: str
    sides: dict[str, NumberSummary | CategoryCounts]
    levels: list[dict[str, str]] | None = None


class Participants(Record):
    """The flow of participants, and their characteristics on each side of the split."""

    flow: Flow
    sides: list[Side]
    characteristics: list[Characteristic]
    evaluated: dict[str, dict[str, int]]


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


class DriftGap(Record):
    """The differences between two groups, where both have the figure."""

    rough: bool
    quality: Interval | None = None
    confidence: Interval | None = None


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
    external_minus_internal: DriftGap


class Drift(Record):
    """Drift of the external cohort, overall and by learner.

    `cohorts` says how well simple features distinguish the cohorts (see `casewise.audit.cohorts.compare_cohorts`).
    """

    cohorts: Mapping[str, Any]
    learners: dict[str, LearnerDrift]


class ClassChange(Record):
    """The number of answers that an alteration turns from one class into another."""

    before: str
    after: str
    answers: int


class CorrectAnswers(Record):
    """Answers that agree with the reference before and after an alteration, of those with one."""

    before: int
    after: int
    of: int


# From so few answers that a class loses, nothing is concluded.
FEWEST_OF_CLASS = 5


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
    def lost(self) -> tuple[str, int, float]:
        """The class that loses the largest share of its answers, how many and the share; of tiny losses none."""
        counts = {name: sum(change.answers for change in self.changes if change.before == name) for name in self.before}
        lost = [(n / self.before[name], name, n) for name, n in counts.items() if n >= FEWEST_OF_CLASS]
        share, name, count = max(lost, default=(0.0, "", 0))
        return name, count, share

    @property
    def effect(self) -> float:
        """The share of changed answers, or half the share that a class loses of its own, whichever is larger."""
        return max(self.share.value or 0.0, self.lost[2] / 2)


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


class ImageSplit(Record):
    """The figures of the primary outcome if images of a subject may be on both sides of the split."""

    metrics: Metrics
    main: dict[str, str | None]
    subjects_on_both_sides: int
    subjects_with_several_images: int
    subjects: int
    images: int


# ----------------------------------------------------------------------------------------------------------- results


class Results(Record):
    """Everything that was measured of a study.

    Attributes:
        metrics: figures by stage, learner, target key and metric.
        comparisons: of learners, by stage, target key and metric.
        classes: by stage, learner and target key.
        response: by stage and learner; `all` are the subjects out of fold and of the test set together.
        trials: of the reported learner by stage, as `response` has them.
        over_folds: by target, learner and metric.
        calibration: of the reported learner by stage and class; a number has one entry, with an empty name.
        decision_curves: of the reported learner by stage and class.
        by_site: by source, learner and metric, where each source was left out of training in turn.
        site_means: by learner and metric.
        known_sources: the same of models trained on other subjects of each source, if the study compares them.
        external_drop: by learner and metric.
        external_by: by column, group, learner and metric.
        counterfactuals: by learner and alteration.
        made_from: the checksums of the parts of the run by name.
        format: of `metrics.json`; another one would be misunderstood by programs that read this one.
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
    prediction_sets: PredictionSets | None = None
    added_value: AddedValue | None = None
    trials: dict[str, Trial] | None = None
    within_column: WithinColumn | None = None
    participants: Participants | None = None
    subgroups: Subgroups | None = None
    by_site: dict[str, dict[str, Figures]] | None = None
    site_means: dict[str, dict[str, SourceMean]] | None = None
    known_sources: WithinSources | None = None
    external_drop: dict[str, dict[str, Drop]] | None = None
    external_by: dict[str, dict[str, dict[str, Figures]]] | None = None
    drift: Drift | None = None
    counterfactuals: dict[str, dict[str, AlteredAnswers | AlteredNumbers]] | None = None
    seeds: Seeds | None = None
    image_split: ImageSplit | None = None
    made_from: dict[str, str] = field(default_factory=dict)
    format: Literal[1] = 1

    def __repr__(self) -> str:
        learners = sorted({learner for by_learner in self.metrics.values() for learner in by_learner})
        return (
            f"Results of {', '.join(self.metrics)}: {self.main.target} by {self.main.learner}; {len(learners)} learners"
        )

    def figures(self, stage: str, learner: str, key: str) -> Figures:
        """The figures of a learner for one target key, by metric; empty where it was not evaluated."""
        return self.metrics.get(stage, {}).get(learner, {}).get(key, {})


# -------------------------------------------------------------------------------------------------------------- JSON


def plain(value: Any) -> Any:
    """Plain values for JSON: floats of six digits, records as mappings without the fields at their default."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: plain(content)
            for item in fields(value)
            if (content := getattr(value, item.name)) is not None or item.default is not None
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
        ValueError: they do not fit such a record.
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
