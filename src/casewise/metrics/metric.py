"""The record of a metric: what the study file, evaluation, report, pages and docs need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

NUMBERS = ("regression",)
CLASSES = ("classification", "ordinal")
GRADES = ("ordinal",)
# The end of the key of a metric on probabilities after temperature scaling.
CALIBRATED = "_calibrated"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in the study file and in metrics.json.
        function: of sums over weighted cases, a `NumberSums` or a `ClassSums`; gives one value for each resample and
            learner, or with `by_class` one for each class as well (in the last axis).
        kinds: the kinds of target that it applies to.
        title: the heading of a column.
        phrase: what it is called within a sentence.
        glossary: one sentence for the glossary and the reference page.
        larger_is_better: None where neither direction is.
        percent: whether it is a share, written in percent.
        digits: decimals; None for those that suit the target's range.
        fewest_cases: with fewer cases it is undefined.
        by_class: each class has a value; the metric itself is their plain mean (macro).
        calibrated: it is also computed on probabilities after temperature scaling, as `NAME_calibrated`.
        n_classes: the smallest and the largest number of classes it applies to; None: no limit.
        of_decisions: it judges the class that was decided on, not the probabilities.
        compared: the kinds of target whose learners are compared by it, pair by pair.
        chance: its value for a guess, where that is one number.
        chance_is_share: of a class, its value for a guess is about the share of the class among the cases.
        across_folds: `within`: out of fold it is a mean over the folds of its values within each; `pooled`: over the
            cases of all folds together, and given out of fold only.
        tables: the tables that show it, among `TABLES`.
        interval: the scheme of its interval, among `casewise.evaluation.intervals.SCHEMES`; None: it has no interval.
        largest: the largest value that it can have, where that is one number, its scheme does not keep to it, and no
            value is below 0.
        rests_on: of `casewise.metrics.classes.ClassSubjects`, the number of subjects that it rests on: for each
            learner, or with `by_class` for each class as well. For numbers it is that of all subjects.
        rough_below: with fewer such subjects, its 95 % intervals may contain the true value in fewer than 92 % of
            studies; see `docs/results/coverage.md`.
    """

    name: str
    function: Callable[[Any], Any]
    kinds: tuple[str, ...]
    title: str
    phrase: str
    glossary: str
    larger_is_better: bool | None = True
    percent: bool = False
    digits: int | None = 3
    fewest_cases: int = 1
    by_class: bool = False
    calibrated: bool = False
    n_classes: tuple[int, int | None] = (2, None)
    of_decisions: bool = False
    compared: tuple[str, ...] = ()
    chance: float | None = None
    chance_is_share: bool = False
    across_folds: Literal["", "within", "pooled"] = ""
    tables: Collection[str] = ("learners", "page")
    interval: str | None = "mean"
    largest: float | None = None
    rests_on: Callable[[Any], Any] = lambda subjects: subjects.every
    rough_below: int = 10


TABLES = {
    "learners": "the report's table of learners",
    "targets": "the report's table of all targets",
    "classes": "the report's table of single classes",
    "readers": "the report's table of readers",
    "external": "the report's table of the external cohort",
    "image_split": "the report's comparison with a split by image",
    "points": "the report's table of operating points",
    "subgroups": "the figures of subgroups",
    "page": "the Markdown page",
    "page_external": "the Markdown page's table of the external cohort",
    "folds": "mean and standard deviation over the folds",
    "drop": "the difference between the external cohort and the study's own cases",
}
