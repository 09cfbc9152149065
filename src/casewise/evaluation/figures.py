"""The figures of learners as frozen records, as `casewise.evaluation.results` stores them.

Figures are found by stage, learner, target key and metric: a key is a target over all its regions (`composite`) or in
one of them (`composite[upper]`). Undefined values are None, never NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeAlias


class Record(Mapping[str, Any]):
    """A record, also read like a mapping of its fields; those that are None by default are missing while they are."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __getitem__(self, name: str) -> Any:
        if name not in iter(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        every = fields(self)  # type: ignore[arg-type]
        return (each.name for each in every if each.default is not None or getattr(self, each.name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Threshold(float):
    """A threshold; it is written with all its digits, because scores are compared with it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.float_schema())


# ----------------------------------------------------------------------------------------------------------- figures


@dataclass(frozen=True)
class Estimate(Record):
    """A figure with its interval; `rough` if it rests on too few subjects; a reason if something is undefined.

    `n_subjects` are all subjects. A figure of a class rests on those with a case of the class.
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


@dataclass(frozen=True)
class Interval(Record):
    """A value with its interval, without a count of subjects."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SourceMean(Record):
    """A figure averaged over the sources in which it is defined, each with the same weight."""

    value: float | None
    sources: list[str]
    undefined: list[str]
    low: float | None
    high: float | None
    rough: bool | None = None
    fewest_subjects: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Difference(Record):
    """A learner's figure minus that of another, with the interval that holds for all pairs of learners at once."""

    difference: float
    low: float | None
    high: float | None
    indistinguishable: bool


@dataclass(frozen=True)
class Comparison(Record):
    """The learners by one metric: the best, those that may be as good, and the differences of all others from it."""

    best: str
    indistinguishable: list[str]
    n_subjects: int
    rough: bool
    differences: dict[str, Difference]
    from_baseline: dict[str, dict[str, Difference]]


@dataclass(frozen=True)
class AgainstBaseline(Record):
    """The reported learner, or the best network, against the best baseline.

    `chosen` is the number of networks among which the learner was chosen on the cases that are compared, else 0.
    """

    learner: str
    baseline: str
    stage: str
    merit: str
    n_subjects: int
    rough: bool
    chosen: int
    differences: dict[str, Difference]
    network: AgainstBaseline | None = None


@dataclass(frozen=True)
class Headline(Record):
    """The learner that the report is about, the stage at which it is judged, and its figures by metric."""

    target: str
    stage: str | None
    learner: str | None
    chosen_on: str | None
    metrics: Figures | None
    kind: str


@dataclass(frozen=True)
class Note(Record):
    """A caveat: its code, with the names and numbers of its sentence (see `casewise.evaluation.caveats`)."""

    code: str
    facts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.code if name == "code" else self.facts[name]

    def __iter__(self) -> Iterator[str]:
        yield from ("code", *self.facts)


# ----------------------------------------------------------------------------------------------------------- classes


@dataclass(frozen=True)
class OperatingPoint(Record):
    """A threshold of a class's probability, chosen by a rule on other cases, and its figures on these."""

    label: str
    rule: str
    chosen_on: str
    threshold: Threshold | None
    prevalence: float | None
    reached: bool | None
    figures: Figures
    threshold_by_fold: dict[str, Threshold | None] | None = None


@dataclass(frozen=True)
class ReliabilityBin(Record):
    """Cases whose largest probability lies between two bounds: their number, mean probability and accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class GroupAgreement(Record):
    """Two groupings of cases: their confusion counts (rows are the reference), share of agreement and kappas."""

    confusion: list[list[int]]
    agreement: Estimate
    kappa: Estimate
    kappa_quadratic: Estimate


@dataclass(frozen=True)
class Bands(Record):
    """The severity bands, name -> lower bound, and the agreement on them by stage and learner."""

    lower_bounds: dict[str, float]
    stages: dict[str, dict[str, GroupAgreement]]


@dataclass(frozen=True)
class Readers(Record):
    """Agreement in pairs of readers, and of learners with readers.

    `between`: stage, or `all` -> target key -> 'first | second' -> figures; `learners`: stage -> learner -> target key
    -> reader -> figures.
    """

    between: dict[str, dict[str, dict[str, Figures]]]
    learners: dict[str, dict[str, dict[str, dict[str, Figures]]]]


@dataclass(frozen=True)
class ResponseRates(Record):
    """The share of responders at a visit by the physician and by the model, by threshold in percent."""

    n_subjects: int
    rates: dict[str, dict[str, Interval]]


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class CurvePoint(Record):
    """A point of the smoothed calibration curve, with its pointwise band."""

    predicted: float
    observed: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Calibration(Record):
    """Slope and intercept of the calibration, the slope in each fold, and the points of the smoothed curve."""

    slope: Estimate
    intercept: Estimate
    slope_by_fold: dict[str, float | None]
    curve: list[CurvePoint]


@dataclass(frozen=True)
class NetBenefit(Record):
    """The net benefit of treating above a threshold, of treating everyone, and their difference."""

    threshold: float
    model: Estimate
    treat_all: Estimate
    over_all: Estimate
    declared: bool = False


# ----------------------------------------------------------------------------------- prediction intervals and spread


@dataclass(frozen=True)
class StageCoverage(Record):
    """How often intervals or sets contain the reference, as means over subjects.

    `width` is of intervals; `size`, `single` (the share of sets with one class) and `by_class` are of sets. `without`
    counts rows without an interval.
    """

    coverage: Estimate | None
    without: int
    cross_fitted: bool
    width: Estimate | None = None
    size: Estimate | None = None
    single: Estimate | None = None
    by_class: dict[str, Estimate | None] | None = None


@dataclass(frozen=True)
class TargetCoverage(Record):
    """The calibration of a target (see `casewise.predictions.conformal.fit_target`) and its coverage by stage."""

    calibration: dict[str, Any]
    stages: dict[str, StageCoverage]


@dataclass(frozen=True)
class PredictionSets(Record):
    """Prediction intervals and sets of the reported learner at a level; `fewest` subjects are needed."""

    level: float
    learner: str
    fewest: int
    targets: dict[str, TargetCoverage]


@dataclass(frozen=True)
class OverFolds(Record):
    """A metric of each fold in order, None where undefined, with their mean and standard deviation (n - 1)."""

    mean: float | None
    sd: float | None
    folds: list[float | None]


@dataclass(frozen=True)
class OverSeeds(Record):
    """A metric of each seed in order, with mean, extremes and standard deviation (n - 1)."""

    by_seed: list[float | None]
    mean: float | None
    min: float | None
    max: float | None
    sd: float | None


@dataclass(frozen=True)
class Seeds(Record):
    """The spread over seeds by stage, learner, target key and metric; the first value is that of the study."""

    seeds: list[int]
    metrics: dict[str, dict[str, dict[str, dict[str, OverSeeds]]]]


# ------------------------------------------------------------------------------------------- other people, subgroups


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class GroupDifference(Record):
    """A group's figure minus the mean of the other groups, with an interval that holds for all groups at once."""

    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Subgroup(Record):
    """The figures of one group; `small` names those of too few subjects."""

    name: str
    code: str
    n_subjects: int
    n_cases: int
    metrics: Figures
    small: list[str]
    differences: dict[str, GroupDifference]
    subjects_by_class: dict[str, int] | None = None


@dataclass(frozen=True)
class SubgroupTest(Record):
    """Whether a figure differs between the groups of a column, or the code of the reason why it is not tested."""

    p: float | None
    p_adjusted: float | None
    groups: list[int]
    reason: str | None = None


@dataclass(frozen=True)
class SubgroupColumn(Record):
    """The groups of a column; `varies` if a subject may be in several."""

    column: str
    cuts: list[float]
    planned: bool
    varies: bool
    tests: dict[str, SubgroupTest]
    groups: list[Subgroup]


@dataclass(frozen=True)
class Subgroups(Record):
    """The reported learner's figures by group; `n_tests` counts the tests that were adjusted together."""

    target: str
    stage: str
    learner: str
    figures: list[str]
    columns: list[SubgroupColumn]
    n_tests: int


@dataclass(frozen=True)
class ColumnGroup(Record):
    """One value of a column: numbers of subjects and cases, also of each class, and the AUROC within it."""

    n_subjects: int
    n_cases: int
    classes: dict[str, dict[str, int]]
    metrics: Figures


@dataclass(frozen=True)
class GroupMean(Record):
    """A figure averaged over the groups in which it has an interval."""

    value: float | None
    groups: list[str]
    undefined: list[str]


@dataclass(frozen=True)
class WithinColumn(Record):
    """The AUROC within each value of a column that predicts the classes."""

    column: str
    target: str
    stage: str
    learner: str
    groups: dict[str, ColumnGroup]
    means: dict[str, GroupMean]
