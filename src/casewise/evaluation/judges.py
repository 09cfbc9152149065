"""The evaluation of each form of target: numbers by sums over pairs, classes by counts and areas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Required, TypeAlias, TypedDict

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan, by_subject, compare, draw
from casewise.evaluation.classification import (
    OutOfFoldChoice,
    choose_out_of_fold,
    classes_of,
    describe_classes,
    judge_classes,
    resampled,
    widen,
)
from casewise.evaluation.figures import FOLD, ByMetric, Cell, Estimate, Figures
from casewise.evaluation.results import ClassFigures
from casewise.metrics.classes import Classes, class_metrics
from casewise.metrics.numbers import moments, number_metrics, sum_by_subject
from casewise.metrics.registry import columns
from casewise.predictions.table import SAMPLE_KEY
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study


@dataclass(frozen=True)
class Judgement:
    """The metrics of every learner, what compares them, and the curves of each (classes only)."""

    metrics: dict[str, ByMetric]
    comparer: Callable[..., Figures] | None = None
    blocks: dict[str, ClassFigures] = field(default_factory=dict)

    def compare(self, primary: tuple[str, str] | None = None) -> Figures:
        """The differences of learners, with a primary pair as in `casewise.evaluation.bootstrap.compare`."""
        return self.comparer(primary=primary) if self.comparer else Figures()


@dataclass(frozen=True)
class _NumberJudge:
    """The evaluation of one target that is a number; `kind` is the name of its kind."""

    kind: str
    classes: Classes | None = None

    def judge(self, rows: pd.DataFrame, plan: Plan, *, whole: bool) -> Judgement:
        """Evaluate scored rows of one stage and key; learners are compared only if `whole`, over all regions.

        Metrics are made from sums over pairs of reference and prediction.
        """
        key = list(SAMPLE_KEY)
        wide = rows.pivot(index=key, columns="model", values="y_pred")
        facts = rows.drop_duplicates(key).set_index(key).loc[wide.index]
        truth, subjects = facts["y_true"].to_numpy(dtype=float), facts["subject"].to_numpy()
        learners = [str(learner) for learner in rows["model"].unique()]
        predicted = {learner: wide[learner].to_numpy(dtype=float) for learner in learners}
        metrics = by_subject(truth, predicted, subjects, plan, kind=self._metrics_of)
        if not whole or len(predicted) < 2:
            return Judgement(metrics)
        return Judgement(metrics, partial(compare, truth, predicted, subjects, plan, kind=self._metrics_of))

    def resampled(self, rows: pd.DataFrame, plan: Plan) -> tuple[dict[str, float], dict[str, np.ndarray], int]:
        """One learner's metrics, also (R,) of every resample, and the number of subjects, from sums by subject."""
        n_subjects, truth = rows["subject"].nunique(), rows["y_true"].to_numpy(float)
        terms = moments(truth, rows["y_pred"].to_numpy(float), centre=float(truth.mean()))
        sums = sum_by_subject(terms, rows["subject"].to_numpy())
        points = number_metrics(sums.sum(axis=0), self._metrics_of)
        drawn = number_metrics(draw(n_subjects, plan) @ sums, self._metrics_of)
        return {name: float(value) for name, value in points.items()}, drawn, n_subjects

    def by_fold(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """One learner's metrics of the fold table, (F,) by fold, from sums by fold."""
        folds = rows["outer_fold"].to_numpy(dtype=int)
        truth, predicted = (rows[name].to_numpy(dtype=float) for name in ("y_true", "y_pred"))
        terms = moments(truth, predicted, centre=float(truth.mean()))
        fold_metrics = [number_metrics(terms[folds == fold].sum(axis=0), self._metrics_of) for fold in np.unique(folds)]
        return {
            name: np.array([metrics[name] for metrics in fold_metrics], dtype=float) for name in self.names("folds")
        }

    def names(self, table: str) -> list[str]:
        """The metrics that a table shows of this target."""
        return columns(table, self._metrics_of)

    @property
    def _metrics_of(self) -> str:
        return kind_named(self.kind).metrics_of


@dataclass(frozen=True)
class ClassJudge:
    """The evaluation of classes and grades; `choice` are the thresholds and temperatures chosen out of fold.

    With a `prevalence` of the positive class, predictive values are also given for it.
    """

    kind: str
    classes: Classes
    choice: OutOfFoldChoice = field(default_factory=lambda: OutOfFoldChoice({}, {}))
    prevalence: float | None = None

    def judge(self, rows: pd.DataFrame, plan: Plan, *, whole: bool) -> Judgement:
        """As `_NumberJudge.judge`, from counts, probabilities and ranks."""
        crossed = bool((rows["stage"] == "oof").all())
        wide = widen(rows, self.classes, self.choice.temperatures, crossed=crossed)
        metrics, compared = judge_classes(wide, self.classes, plan, comparing=whole)
        if not whole:
            return Judgement(metrics, compared)
        described = describe_classes(wide, self.classes, self.choice, plan, crossed=crossed, prevalence=self.prevalence)
        return Judgement(metrics, compared, described)

    def resampled(self, rows: pd.DataFrame, plan: Plan) -> tuple[dict[str, float], dict[str, np.ndarray], int]:
        """As `_NumberJudge.resampled`, from counts by subject."""
        wide = widen(rows, self.classes, {}, crossed=bool((rows["stage"] == "oof").all()))
        points, drawn, n_subjects = resampled(wide.samples, self.classes, plan)
        return (
            {name: float(value[0]) for name, value in points.items()},
            {name: value[:, 0] for name, value in drawn.items()},
            n_subjects,
        )

    def by_fold(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """As `_NumberJudge.by_fold`, from counts."""
        by_fold = []
        for _, own in rows.groupby("outer_fold"):
            samples = widen(own, self.classes, {}, crossed=False).samples
            by_fold.append(class_metrics(samples, self.classes, np.ones((1, own["subject"].nunique()))))
        return {name: np.array([metrics[name][0, 0] for metrics in by_fold]) for name in self.names("folds")}

    def names(self, table: str) -> list[str]:
        """As `_NumberJudge.names`, of its kind and number of classes."""
        return columns(table, self.classes.kind, len(self.classes.names))


Judge: TypeAlias = _NumberJudge | ClassJudge


class Judged(TypedDict, total=False):
    """How rows of a target are evaluated: the names of its classes, the positive one of two, and the intervals."""

    classes: Sequence[str]
    positive: str | None
    plan: Required[Plan]


def judge_of(
    rows: pd.DataFrame,
    names: Sequence[str] | None = None,
    positive: str | None = None,
    *,
    sensitivities: Sequence[float] | None = None,
    prevalence: float | None = None,
) -> Judge:
    """The judge of one target's rows; `names` are its classes, `sensitivities` those that operating points aim at.

    Without sensitivities no thresholds and temperatures are chosen.

    Raises:
        CasewiseError: the numbers of names and probabilities differ; `positive` is not one of two names.
    """
    kind = str(rows["kind"].iloc[0])
    if kind_named(kind).form == "number":
        return _NumberJudge(kind)
    classes = classes_of(rows, names or None, positive)
    if sensitivities is None:
        return ClassJudge(kind, classes)
    oof = shared_truth(rows[rows["stage"] == "oof"])
    return ClassJudge(kind, classes, choose_out_of_fold(oof[oof["y_true"].notna()], classes, sensitivities), prevalence)


def shared_truth(rows: pd.DataFrame) -> pd.DataFrame:
    """Give the rows of all learners the reference value of their sample, even if only one learner's row has it."""
    return rows.assign(y_true=rows.groupby(list(SAMPLE_KEY), sort=False)["y_true"].transform("first"))


def class_names(judges: Mapping[str, Judge]) -> dict[str, Classes]:
    """The classes of the targets that have classes."""
    return {target: judge.classes for target, judge in judges.items() if judge.classes is not None}


def over_folds(
    predictions: pd.DataFrame, targets: Sequence[str], classes: Mapping[str, Sequence[str]] | None = None
) -> Figures:
    """The out-of-fold rows, evaluated for each fold, with the `mean` and `sd` (with n − 1) over the folds with a value.

    Precision and recall are plain means over the classes, and undefined in a fold that lacks a class. A target that is
    scored in only one fold is left out.

    >>> rows = pd.DataFrame({
    ...     "case": list("abcd"), "subject": list("abcd"), "region": "", "image": "", "model": "net", "stage": "oof",
    ...     "outer_fold": [1, 1, 2, 2], "target": "t", "kind": "classification",
    ...     "y_true": [0, 1, 0, 1], "y_pred": [0, 1, 0, 0], "p0": [1, 0, 1, 1], "p1": [0, 1, 0, 0],
    ... })
    >>> mean, sd = (over_folds(rows, ["t"]).of("oof", "net", "t", "fold", contrast=name) for name in ("mean", "sd"))
    >>> {name: (mean[name].value, round(sd[name].value, 3)) for name in mean}
    {'accuracy': (0.75, 0.354), 'precision': (0.625, 0.53), 'recall': (0.75, 0.354)}
    """
    scored = predictions["y_true"].notna() & predictions["outer_fold"].notna()
    rows = predictions[(predictions["stage"] == "oof") & scored]
    cells: dict[Cell, ByMetric] = {}
    for target in targets:
        target_rows = rows[rows["target"] == target]
        if target_rows["outer_fold"].nunique() < 2:
            continue
        judge = judge_of(target_rows, (classes or {}).get(target))
        for learner, learner_rows in target_rows.groupby("model", sort=False):
            by_metric = judge.by_fold(learner_rows)
            at = Cell("oof", str(learner), target, FOLD)
            for number in range(max(map(len, by_metric.values()), default=0)):
                values = {metric: values[number] for metric, values in by_metric.items()}
                cells[at._replace(group=str(number + 1))] = _points(values)
            defined = {metric: values[~np.isnan(values)] for metric, values in by_metric.items()}
            means = {metric: own.mean() if len(own) else np.nan for metric, own in defined.items()}
            deviations = {metric: own.std(ddof=1) if len(own) > 1 else np.nan for metric, own in defined.items()}
            cells |= {at._replace(contrast="mean"): _points(means), at._replace(contrast="sd"): _points(deviations)}
    return Figures(cells)


def _points(values: Mapping[str, float]) -> ByMetric:
    """Figures without intervals."""
    return {name: Estimate(None if np.isnan(value) else float(value), None, None) for name, value in values.items()}


@dataclass(frozen=True)
class TrainMetrics:
    """Accuracy, sensitivity and specificity on `n` units, and their confusion counts (rows are the reference).

    Sensitivity and specificity are for two classes only, and None where a class has no units.
    """

    accuracy: float
    sensitivity: float | None
    specificity: float | None
    n: int
    confusion: list[list[int]]


def right_on(rows: pd.DataFrame, study: Study) -> TrainMetrics | None:
    """The metrics of the primary outcome; None where it has no classes.

    Args:
        rows: as `casewise.inference.predictor.prediction_rows` makes them, of one network; only rows of the main
            outcome are evaluated.
    """
    names, positive = study.classes_of(study.primary_outcome), study.positive_of(study.primary_outcome)
    labelled = rows[(rows["target"] == study.primary_outcome) & rows["y_true"].notna()]
    if not names or labelled.empty:
        return None
    codes = range(len(names))
    confusion = pd.crosstab(labelled["y_true"], labelled["y_pred"]).reindex(index=codes, columns=codes, fill_value=0)
    counts, right = confusion.sum(axis=1), np.diag(confusion)
    recall = [float(right[code] / counts[code]) if counts[code] else None for code in codes]
    sensitivity, specificity = None, None
    if positive is not None:
        sensitivity, specificity = recall[names.index(positive)], recall[1 - names.index(positive)]
    accuracy, counted = float(right.sum() / len(labelled)), confusion.to_numpy().tolist()
    return TrainMetrics(accuracy, sensitivity, specificity, len(labelled), counted)
