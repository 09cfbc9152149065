"""The record of a metric, and the metrics that are built in, one record each, in the order of every table."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

NUMBERS = ("regression",)
CLASSES = ("classification", "ordinal")
GRADES = ("ordinal",)
# Suffix of the key of a metric that is computed after temperature scaling.
CALIBRATED = "_calibrated"


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in the study file and in metrics.json.
        function: computes it from sums over weighted cases: a `casewise.metrics.numbers.NumberSums` or a
            `casewise.metrics.classes.ClassSums`. Returns (R, L): a value for each resample and learner; with `by_class`
            (R, L, K): for each class as well.
        kinds: the kinds of target that it applies to.
        title: the heading of a column.
        phrase: what it is called within a sentence.
        glossary: one sentence for the glossary and the reference page.
        larger_is_better: None if neither a larger nor a smaller value is better, such as for `bias`.
        percent: whether it is a share, written in percent.
        digits: decimals; None: chosen by the range of the target.
        fewest_cases: with fewer cases it is undefined.
        by_class: whether each class has a value; the metric itself is the plain mean of them (macro).
        calibrated: whether it is also computed from probabilities after temperature scaling, as `NAME_calibrated`.
        n_classes: the smallest and the largest number of classes it applies to; None: no limit.
        compared: the kinds of target for which every pair of learners is compared by it.
        chance: its value for a guess, if that is a fixed number.
        across_folds: how it is computed from out-of-fold predictions. `within`: the mean of its values in each fold.
            `pooled`: over the cases of all folds, and only for such predictions. Empty: over the cases of all folds.
        tables: the tables that show it, among `TABLES`.
        interval: the scheme of its interval, among `casewise.evaluation.intervals.SCHEMES`; None: it has no interval.
        largest: where its interval ends at the latest; None if its scheme keeps to the possible values by itself.
        rests_on: for metrics of classes, selects the number of subjects that it rests on from a `_ClassSubjects` of
            `casewise.metrics.classes`: such as `every` subject, or the subjects of the `smallest` class. Returns (L,)
            or, with `by_class`, (L, K). Metrics of numbers rest on all subjects.
        fewest_subjects: if it rests on fewer subjects it has no interval.
        rough_below: if it rests on fewer subjects its 95 % intervals may contain the true value in fewer than 92 % of
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
    compared: tuple[str, ...] = ()
    chance: float | None = None
    across_folds: Literal["", "within", "pooled"] = ""
    tables: Collection[str] = ("learners", "page")
    interval: str | None = "mean"
    largest: float | None = None
    rests_on: Callable[[Any], Any] = lambda subjects: subjects.every
    fewest_subjects: int = 3
    rough_below: int = 10


# Tables of the report. `image_split`: comparison with a split by image. `points`: operating points. `page`: the tables
# of the Markdown page; `page_external`: its table of the external cohort. `folds`: mean and standard deviation over the
# folds. `drop`: difference between the external cohort and the study's own cases.
TABLES = (
    *("learners", "targets", "classes", "readers", "external", "image_split", "points", "subgroups"),
    *("page", "page_external", "folds", "drop"),
)
IN_MOST_TABLES = (
    *("learners", "targets", "readers", "external", "image_split"),
    *("page", "page_external", "drop", "subgroups"),
)

# one record a paragraph
# fmt: off
BUILT_IN = (
    Metric(
        "mae", lambda sums: sums.mean_absolute_error, (*NUMBERS, *GRADES), title="MAE", phrase="mean absolute error",
        glossary="Mean absolute error: the mean distance between prediction and reference, in points or grades.",
        larger_is_better=False, digits=None, compared=NUMBERS, tables=(*IN_MOST_TABLES, "folds"), interval="ratio",
        rough_below=20,
    ),
    Metric(
        "mse", lambda sums: sums.mean_squared_error, NUMBERS, title="MSE", phrase="mean squared error",
        glossary="Mean squared error: the mean of the squared differences, so that large errors count more.",
        larger_is_better=False, digits=None, compared=NUMBERS, tables=("learners", "page"), interval="squares",
        rough_below=80,
    ),
    Metric(
        "pcc", lambda sums: sums.correlation, NUMBERS, title="PCC", phrase="Pearson correlation",
        glossary="Pearson's correlation coefficient: whether predictions rise with the reference.",
        digits=2, fewest_cases=3, compared=NUMBERS,
        tables=("learners", "targets", "readers", "external", "image_split", "page", "folds", "drop"),
        interval="correlation", rough_below=20,
    ),
    Metric(
        "ccc", lambda sums: sums.concordance, NUMBERS, title="CCC", phrase="concordance (CCC)",
        glossary="Lin's concordance correlation coefficient: 1 where every prediction equals the reference, 0 without "
        "agreement; scatter, offset and scale errors all lower it.",
        digits=2, fewest_cases=3, compared=NUMBERS, chance=0.0, tables=IN_MOST_TABLES, interval="correlation",
        rough_below=20,
    ),
    Metric(
        "icc", lambda sums: sums.intraclass_correlation, NUMBERS, title="ICC(2,1)", phrase="intraclass correlation",
        glossary="Intraclass correlation ICC(2,1): the agreement of two raters who score the same cases; 1 is perfect.",
        digits=2, fewest_cases=3, compared=NUMBERS, tables=("learners", "targets", "readers", "page"),
        interval="correlation", rough_below=20,
    ),
    Metric(
        "bias", lambda sums: sums.bias, NUMBERS, title="Bias", phrase="mean difference",
        glossary="Mean difference, prediction minus reference.",
        larger_is_better=None, digits=None, tables=("targets", "external", "page", "subgroups", "drop"),
    ),
    Metric(
        "loa_low", lambda sums: sums.bias - sums.half_limits, NUMBERS, title="Lower limit",
        phrase="lower limit of agreement",
        glossary="Lower Bland-Altman limit of agreement: the mean difference minus 1.96 standard deviations.",
        larger_is_better=None, digits=None, fewest_cases=3, tables=(), interval="limits", rough_below=80,
    ),
    Metric(
        "loa_high", lambda sums: sums.bias + sums.half_limits, NUMBERS, title="Upper limit",
        phrase="upper limit of agreement",
        glossary="Upper Bland-Altman limit of agreement: the mean difference plus 1.96 standard deviations.",
        larger_is_better=None, digits=None, fewest_cases=3, tables=(), interval="limits", rough_below=80,
    ),
    Metric(
        "proportional_bias", lambda sums: sums.slope_of_differences, NUMBERS, title="Proportional bias",
        phrase="proportional bias",
        glossary="Slope of the difference, prediction minus reference, on the mean of both (Bland and Altman 1999): "
        "above 0 where predictions vary more than the reference, below 0 where they vary less.",
        larger_is_better=None, digits=2, fewest_cases=3, tables=(),
    ),
    Metric(
        "accuracy", lambda sums: sums.right.sum(axis=-1) / sums.n, CLASSES, title="Accuracy", phrase="accuracy",
        glossary="Share of cases whose reference class is predicted.",
        percent=True, digits=1, compared=CLASSES,
        tables=("learners", "external", "image_split", "page", "page_external", "folds", "drop", "subgroups"),
        interval="share",
    ),
    Metric(
        "balanced_accuracy", lambda sums: sums.recall.mean(axis=-1), CLASSES, title="Balanced accuracy",
        phrase="balanced accuracy",
        glossary="Mean recall over the classes, in which a common class counts no more than a rare one.",
        percent=True, digits=1, tables=("external", "page", "drop"), interval="share",
        rests_on=lambda subjects: subjects.smallest,
    ),
    Metric(
        "top2_accuracy", lambda sums: sums.in_top_two / sums.n, ("classification",), title="Top-2 accuracy",
        phrase="top-2 accuracy",
        glossary="Share of cases whose reference class is among the two most probable classes; for three classes or "
        "more.",
        percent=True, digits=1, n_classes=(3, None), tables=("learners",), interval="share",
    ),
    Metric(
        "auroc", lambda sums: sums.auroc, CLASSES, title="AUROC", phrase="AUROC",
        glossary="Area under the ROC curve of one class against the rest: the probability that a case of the class is "
        "ranked above a case of another class; 0.5 is chance. Out of fold, only cases of the same fold are ranked "
        "against each other, because each fold has models of its own: it is the mean of the areas within the folds, "
        "where a fold counts by its number of pairs of a case of the class and another case. A fold without such a "
        "pair does not count.",
        by_class=True, compared=CLASSES, chance=0.5, across_folds="within",
        tables=("learners", "classes", "external", "image_split", "page", "page_external", "drop", "subgroups"),
        interval="area", rests_on=lambda subjects: subjects.paired, fewest_subjects=2,
    ),
    Metric(
        "auroc_pooled", lambda sums: sums.auroc_pooled, CLASSES, title="AUROC, pooled", phrase="pooled AUROC",
        glossary="Out of fold only: the AUROC over the cases of all folds together. It also ranks cases of different "
        "folds against each other, whose models differ in calibration; models that predict one constant in each "
        "fold can have a pooled AUROC far from 0.5.",
        by_class=True, across_folds="pooled", tables=("learners", "classes", "page"), interval="area",
        rests_on=lambda subjects: subjects.both,
    ),
    Metric(
        "auprc", lambda sums: sums.auprc, CLASSES, title="AUPRC", phrase="AUPRC",
        glossary="Average precision of one class against the rest; chance is the share of the class. Out of fold it is"
        " pooled over the cases of all folds, because within a fold of few cases it is above the share of the class "
        "even by chance; like the pooled AUROC, it is therefore affected by calibrations that differ between folds.",
        by_class=True, tables=("classes", "page"), interval="area",
        rests_on=lambda subjects: subjects.both,
    ),
    Metric(
        "precision", lambda sums: sums.precision, CLASSES, title="Precision", phrase="precision",
        glossary="Of the cases predicted as a class, the share that belongs to this class.",
        percent=True, digits=1, by_class=True, tables=("learners", "classes", "folds", "drop"),
        interval="share", rests_on=lambda subjects: subjects.predicted,
    ),
    Metric(
        "recall", lambda sums: sums.recall, CLASSES, title="Recall", phrase="recall",
        glossary="Of the cases of a class, the share that is predicted as this class.",
        percent=True, digits=1, by_class=True, tables=("learners", "classes", "folds", "drop"),
        interval="share", rests_on=lambda subjects: subjects.of_class,
    ),
    Metric(
        "f1", lambda sums: sums.f1, CLASSES, title="F1", phrase="F1",
        glossary="Harmonic mean of precision and recall.",
        by_class=True, compared=CLASSES, tables=("learners", "classes", "external", "page", "drop"),
        interval="share", rests_on=lambda subjects: subjects.of_class,
    ),
    Metric(
        "kappa", lambda sums: sums.kappa["kappa"], CLASSES, title="Kappa", phrase="kappa",
        glossary="Cohen's kappa: agreement beyond chance; 1 is perfect, 0 is chance.",
        chance=0.0, tables=(), interval="kappa", rests_on=lambda subjects: subjects.smallest, fewest_subjects=1,
    ),
    Metric(
        "sensitivity", lambda sums: sums.recall[..., sums.classes.positive], CLASSES, title="Sensitivity",
        phrase="sensitivity",
        glossary="With two classes, the recall of the positive class.",
        percent=True, digits=1, n_classes=(2, 2), tables=("external", "image_split", "page", "subgroups", "drop"),
        interval="share", rests_on=lambda subjects: subjects.of_class[..., subjects.classes.positive],
    ),
    Metric(
        "specificity", lambda sums: sums.recall[..., 1 - sums.classes.positive], CLASSES, title="Specificity",
        phrase="specificity",
        glossary="With two classes, the recall of the negative class.",
        percent=True, digits=1, n_classes=(2, 2), tables=("external", "image_split", "page", "subgroups", "drop"),
        interval="share", rests_on=lambda subjects: subjects.of_class[..., 1 - subjects.classes.positive],
    ),
    Metric(
        "npv", lambda sums: sums.predictive_values[..., 1 - sums.classes.positive], CLASSES, title="NPV",
        phrase="negative predictive value",
        glossary="Negative predictive value, with two classes or one class against the others: of the cases called "
        "negative, the share that is negative. It holds for the share of positive cases in this cohort.",
        percent=True, digits=1, n_classes=(2, 2), tables=("points",), interval="share",
        rests_on=lambda subjects: subjects.predicted[..., 1 - subjects.classes.positive],
    ),
    Metric(
        "lr_positive", lambda sums: sums.likelihood_ratios[0], CLASSES, title="LR+", phrase="positive likelihood ratio",
        glossary="Positive likelihood ratio, with two classes or one class against the others: how many times as often"
        " a positive case is called positive as a negative one; sensitivity / (1 − specificity).",
        digits=2, n_classes=(2, 2), chance=1.0, tables=("points",), interval="ratio",
        rests_on=lambda subjects: subjects.smallest,
    ),
    Metric(
        "lr_negative", lambda sums: sums.likelihood_ratios[1], CLASSES, title="LR−", phrase="negative likelihood ratio",
        glossary="Negative likelihood ratio, with two classes or one class against the others: how many times as often"
        " a positive case is called negative as a negative one; (1 − sensitivity) / specificity.",
        larger_is_better=False, digits=2, n_classes=(2, 2), chance=1.0, tables=("points",),
        interval="ratio", rests_on=lambda subjects: subjects.smallest,
    ),
    Metric(
        "kappa_quadratic", lambda sums: sums.kappa["kappa_quadratic"], GRADES, title="Weighted kappa",
        phrase="quadratic weighted kappa",
        glossary="Cohen's kappa with quadratic weights: an error counts by the square of its distance in grades.",
        compared=GRADES, chance=0.0,
        tables=("learners", "external", "image_split", "page", "page_external", "drop", "subgroups"), interval="kappa",
        rests_on=lambda subjects: subjects.smallest, fewest_subjects=1,
    ),
    Metric(
        "log_loss", lambda sums: sums.log_loss, CLASSES, title="Log loss", phrase="log loss",
        glossary="Mean negative logarithm of the probability given to the reference class.",
        larger_is_better=False, calibrated=True, compared=CLASSES, tables=("external", "page", "drop"),
        interval="ratio", largest=-math.log(sys.float_info.epsilon),
    ),
    Metric(
        "ece", lambda sums: sums.calibration_error, CLASSES, title="ECE", phrase="calibration error (ECE)",
        glossary="Expected calibration error over 15 equal bins of the highest probability: the mean distance between "
        "this probability and the share of correct predictions.",
        larger_is_better=False, calibrated=True, tables=("external", "page", "drop"), interval=None,
    ),
    Metric(
        "brier", lambda sums: sums.brier, CLASSES, title="Brier", phrase="Brier score",
        glossary="Brier score: squared errors of the probabilities, summed over the classes.",
        larger_is_better=False, calibrated=True, tables=(), interval="ratio", largest=2.0,
    ),
)
# fmt: on
