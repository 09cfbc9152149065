"""Everything that was measured of a study: the table of its figures, and records of curves, counts and facts.

`casewise.evaluation.metrics_file` writes it to `metrics.json` and reads it. Undefined values are None, never NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

from casewise.evaluation.figures import LEFT_OUT, ByMetric, Estimate, Figures
from casewise.evaluation.record import Record, Threshold

# Whether the interval of a sensitivity lies above the one that is aimed at, includes it, or lies below.
Aim = Literal["reached", "uncertain", "missed"]


class Headline(Record):
    """The learner that the report is about, and the stage at which it is evaluated."""

    target: str
    stage: str | None
    learner: str | None
    chosen_on: str | None
    kind: str


class PrimaryContrast(Record):
    """The reported model compared with a simple model, a pair that was chosen without the cases that judge it.

    Attributes:
        learner: the reported model.
        baseline: the simple model.
        stage: where they are compared.
        chosen_on: the stage at which it was the best simple model; `order` where none precedes (the last one of the
            registry); empty in results of version 1.0, where it could be the best of `chosen` on these cases.
        chosen: in results of version 1.0 the number of simple models among which it was chosen on these cases.
        margin: the study's margin of the metric by which learners are compared; None without one.
    """

    learner: str
    baseline: str
    stage: str
    chosen_on: str = ""
    chosen: int = 0
    margin: float | None = None


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
    figures: ByMetric
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


class ResponseRates(Record):
    """The share of responders at a visit by the physician and by the model, by threshold in percent."""

    n_subjects: int
    rates: dict[str, dict[str, Estimate]]


class Response(Record):
    """One learner's response over time and the physician's (see `casewise.evaluation.response.response`)."""

    baseline: str
    clear_rule: str
    n_subjects: int
    n_visits: int
    rough: bool
    undefined: dict[str, list[str]]
    change: ByMetric | None = None
    responders: dict[str, GroupAgreement] | None = None
    by_visit: dict[str, ResponseRates] | None = None


class TrialVisit(Record):
    """A visit after the baseline: subjects and change by arm, and effects by arm other than the control, by outcome.

    `casewise.evaluation.trial.OUTCOMES` lists the outcomes.
    """

    visit: str
    subjects: dict[str, int]
    change: dict[str, dict[str, Estimate]]
    effect: dict[str, dict[str, Estimate]]


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


class WithoutGaps(Record):
    """The models of covariates whose missing values are drawn from other cases, by metric, at the headline's stage.

    `difference` is that of both from the covariates alone.
    """

    covariates: dict[str, Estimate]
    joined: dict[str, Estimate]
    difference: dict[str, Estimate]


class AddedValue(Record):
    """The value that images add to the covariates: the models that the contrasts of `Results.figures` compare.

    `images` are the learners whose mean is the image model, `columns` the kind of each covariate; `decision_curves`
    has, for two classes, the curves of the models with covariates at the headline's stage, by learner;
    `without_gaps` is there where a covariate has missing values.
    """

    images: list[str]
    columns: dict[str, str]
    decision_curves: dict[str, list[NetBenefit]]
    without_gaps: WithoutGaps | None = None


# ----------------------------------------------------------------------------------- prediction intervals and spread


class BandCoverage(Record):
    """Coverage and width of intervals whose reference lies from `low` to below `high`, None at the ends.

    `name` is that of a severity band of the study, and empty for thirds of the reference.
    """

    name: str
    low: float | None
    high: float | None
    coverage: Estimate | None
    width: Estimate | None


class StageCoverage(Record):
    """How often intervals or sets contain the reference, as means over subjects.

    `width` and `bands`, those with cases, are of intervals; `size`, `single` (the share of sets with one class) and
    `by_class` are of sets. `without` counts rows without an interval.
    """

    coverage: Estimate | None
    without: int
    width: Estimate | None = None
    size: Estimate | None = None
    single: Estimate | None = None
    by_class: dict[str, Estimate | None] | None = None
    bands: list[BandCoverage] | None = None


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


# ------------------------------------------------------------------------------------------- other people, subgroups


class Subgroup(Record):
    """The figures of one group; `small` names the figures with too few subjects."""

    name: str
    code: str
    n_subjects: int
    n_cases: int
    metrics: ByMetric
    small: list[str]
    differences: dict[str, Estimate]
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
    metrics: ByMetric
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


class Participants(Record):
    """The flow of participants, and their characteristics on each side of the split.

    Attributes:
        flow: the `steps` that left rows out (`casewise.cohort.participants`), the sizes of the `cohort`, and both for
            an `external` one with its `name`.
        sides: code (`all`, `train`, `test`, a `fold` or `external`), name and sizes of each.
        characteristics: a column or target each (`casewise.cohort.participants.characteristics`), whose values are by
            the position of the side.
        evaluated: numbers of subjects and cases by stage.
    """

    flow: Mapping[str, Any]
    sides: Sequence[Mapping[str, Any]]
    characteristics: Sequence[Mapping[str, Any]]
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
    quality: Estimate | None = None
    confidence: Estimate | None = None


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


# From so few answers that a class loses, nothing is concluded.
FEWEST_OF_CLASS = 5


class AlteredAnswers(Record):
    """An alteration's effect on classes: changed answers, most common change first.

    `before` are the answers by class for the unaltered images; `correct` counts the answers that agree with the
    reference `before` and `after`, `of` those with one; `confidence` is the mean change of the largest probability.
    """

    cases: int
    subjects: int
    answers: int
    changed: int
    share: Estimate
    changes: list[ClassChange]
    before: dict[str, int]
    correct: dict[str, int]
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
    """An alteration's effect on numbers: mean absolute change, mean change, and the learner's mean absolute error.

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
    """The split by image, where images of a subject may be on both sides."""

    main: dict[str, str | None]
    subjects_on_both_sides: int
    subjects_with_several_images: int
    subjects: int
    images: int


# ----------------------------------------------------------------------------------------------------------- results


class Results(Record):
    """Everything that was measured of a study.

    Attributes:
        figures: the table.
        classes: by stage, learner and target key.
        response: by stage and learner; `all` are the subjects out of fold and of the test set together.
        trials: of the reported learner by stage, as `response` has them.
        calibration: of the reported learner by stage and class; a number has one entry, with an empty name.
        decision_curves: of the reported learner by stage and class.
        counterfactuals: by learner and alteration.
        made_from: the checksums of the parts of the run by name.
        primary: the pair whose difference has an interval of its own; None without a simple model.
        other_folds: whether the trainings with further seeds had other folds.
        format: of `metrics.json`; another one would be misunderstood by programs that read this one.
    """

    main: Headline
    figures: Figures = field(default_factory=Figures)
    notes: list[Note] = field(default_factory=list)
    classes: dict[str, dict[str, dict[str, ClassFigures]]] = field(default_factory=dict)
    response: dict[str, dict[str, Response]] = field(default_factory=dict)
    bands: Bands | None = None
    calibration: dict[str, dict[str, Calibration]] | None = None
    decision_curves: dict[str, dict[str, list[NetBenefit]]] | None = None
    prediction_sets: PredictionSets | None = None
    added_value: AddedValue | None = None
    trials: dict[str, Trial] | None = None
    within_column: WithinColumn | None = None
    participants: Participants | None = None
    subgroups: Subgroups | None = None
    drift: Drift | None = None
    counterfactuals: dict[str, dict[str, AlteredAnswers | AlteredNumbers]] | None = None
    image_split: ImageSplit | None = None
    primary: PrimaryContrast | None = None
    other_folds: bool | None = None
    made_from: dict[str, str] = field(default_factory=dict)
    format: Literal[1] = 1

    def __repr__(self) -> str:
        count = len(self.figures.names("learner"))
        stages = ", ".join(self.stages)
        return f"Results of {stages}: {self.main.target} by {self.main.learner}; {count} learners"

    @property
    def stages(self) -> list[str]:
        """The stages that were evaluated."""
        return self.figures.names("stage")

    def learners(self, stage: str) -> list[str]:
        """The learners that were evaluated at a stage."""
        return self.figures.names("learner", stage=stage)

    @property
    def headline(self) -> ByMetric:
        """The figures of the headline's learner; empty where nothing was evaluated."""
        return self.figures.of(str(self.main.stage), str(self.main.learner), self.main.target)

    @property
    def sources(self) -> list[str]:
        """The sources, such as hospitals, that were left out of training in turn."""
        return self.figures.names("group", population=LEFT_OUT)

    def within_source(self, learner: str, source: str, population: str = LEFT_OUT) -> ByMetric:
        """A learner's figures within a source."""
        return self.figures.of("oof", learner, self.main.target, population, source)

    def drop(self, learner: str) -> ByMetric:
        """A learner's figures on the external cohort minus the figures of the study."""
        own = self.figures.select(stage="external", learner=learner, contrast="internal").cells.values()
        return next(iter(own), {})

    def over_sources(self, learner: str, population: str = LEFT_OUT) -> ByMetric:
        """The means of a learner's figures within the sources."""
        return self.figures.of("oof", learner, self.main.target, population, contrast="mean")
