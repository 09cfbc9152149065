"""The evaluation of targets with classes: metrics, comparisons of learners, curves and operating points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from casewise.errors import CasewiseError
from casewise.evaluation import results as stored
from casewise.evaluation.bootstrap import (
    Comparison,
    Plan,
    draw,
    draw_within,
    effective_subjects,
    same_rows,
    with_intervals,
)
from casewise.evaluation.caveats import caveat
from casewise.evaluation.figures import ByMetric, Figures
from casewise.evaluation.intervals import Basis, by_group, groups_of, lowest_share
from casewise.evaluation.record import Threshold
from casewise.evaluation.thresholds import (
    ByFold,
    aim_of,
    choose,
    choose_threshold,
    judge_thresholds,
    of_rows,
    rules,
    stated,
)
from casewise.metrics.calibration import at_bound, fit_temperature, reliability, scaled
from casewise.metrics.classes import (
    Classes,
    Samples,
    class_metrics,
    one_against_rest,
    presence,
    reason,
    shifted_metrics,
    subjects_behind,
)
from casewise.metrics.records import GRADES
from casewise.metrics.registry import metric_of
from casewise.metrics.roc import drawn_curve
from casewise.predictions.table import SAMPLE_KEY, probability_columns


@dataclass(frozen=True)
class OutOfFoldChoice:
    """The temperature of each learner, and its threshold for each question and rule, chosen out of fold.

    Out of fold, one network predicts a case. At the stages 'test' and 'external' the values are applied to the mean of
    the folds' networks, which is slightly less confident.
    """

    temperatures: Mapping[str, ByFold]
    thresholds: Mapping[str, Mapping[tuple[str, str], ByFold]]


@dataclass(frozen=True)
class PredictionMatrix:
    """Predictions of L learners for N samples in K classes; values are NaN where a learner has no prediction.

    `samples.decided` is -1 there. `predicted` (N, L) marks the predictions, `folds` (N, L) is the outer fold of each
    row, -1 if it has none.
    """

    learners: list[str]
    samples: Samples
    predicted: np.ndarray
    folds: np.ndarray


def classes_of(rows: pd.DataFrame, names: Sequence[str] | None, positive: str | None) -> Classes:
    """The classes of the rows of one target, named by their numbers if `names` is None.

    Raises:
        CasewiseError: the numbers of names and probabilities differ; `positive` is not one of two names.
    """
    target = rows["target"].iloc[0]
    k = int(rows[probability_columns(rows)].notna().any(axis=0).sum())
    names = [str(number) for number in range(k)] if names is None else [str(name) for name in names]
    if len(names) != k:
        raise CasewiseError(
            f"evaluation: '{target}' has {len(names)} classes ({', '.join(names)}), but its predictions have {k} "
            "probabilities."
        )
    if positive is not None and (positive not in names or k != 2):
        raise CasewiseError(f"evaluation: '{positive}' is not one of two classes of '{target}': {', '.join(names)}.")
    number = None if k != 2 else names.index(positive) if positive is not None else 0
    return Classes(tuple(names), str(rows["kind"].iloc[0]), number)


def widen(
    scored: pd.DataFrame, classes: Classes, temperatures: Mapping[str, ByFold], *, crossed: bool
) -> PredictionMatrix:
    """Scored rows of one target as arrays, the samples in sorted order; `crossed` as in `of_rows`.

    If `crossed`, the samples know their folds, unless a row has none.
    """
    columns, key = probability_columns(scored)[: len(classes.names)], list(SAMPLE_KEY)
    scored = scored.assign(fold=scored["outer_fold"].astype("Float64").fillna(-1).astype(float))
    wide = scored.pivot(index=key, columns="model", values=["y_pred", "fold", *columns])
    learners = [str(learner) for learner in scored["model"].unique()]
    rows = scored.drop_duplicates(key).set_index(key).loc[wide.index]
    decided, folds = (wide[name][learners].to_numpy(dtype=float) for name in ("y_pred", "fold"))
    probabilities = np.stack([wide[name][learners].to_numpy(dtype=float) for name in columns], axis=-1).clip(min=0.0)
    folds = np.nan_to_num(folds, nan=-1).astype(int)
    temperature = np.stack(
        [of_rows(temperatures.get(name, {}), folds[:, n], crossed=crossed) for n, name in enumerate(learners)], axis=1
    )
    return PredictionMatrix(
        learners,
        Samples(
            truth=rows["y_true"].to_numpy(dtype=float).astype(int),
            decided=np.nan_to_num(decided, nan=-1).astype(int),
            probabilities=probabilities,
            calibrated=scaled(probabilities, temperature),
            subjects=rows["subject"].to_numpy(),
            folds=folds if crossed and (folds[~np.isnan(decided)] >= 0).all() else None,
        ),
        predicted=~np.isnan(decided),
        folds=folds,
    )


def choose_out_of_fold(oof: pd.DataFrame, classes: Classes, sensitivities: Sequence[float]) -> OutOfFoldChoice:
    """Choose temperatures and thresholds on the scored out-of-fold rows of one target."""
    if oof.empty:
        return OutOfFoldChoice({}, {})
    wide = widen(oof, classes, {}, crossed=True)
    temperatures: dict[str, ByFold] = {}
    thresholds: dict[str, dict[tuple[str, str], ByFold]] = {}
    for number, learner in enumerate(wide.learners):
        rows = wide.predicted[:, number]
        truth, p, folds = (wide.samples.truth[rows], wide.samples.probabilities[rows, number], wide.folds[rows, number])
        temperatures[learner] = choose(fit_temperature, folds, p, truth)
        thresholds[learner] = {
            (label, rule): choose(partial(choose_threshold, sensitivity=least), folds, score, holds)
            for label, (score, holds) in _questions(p, truth, classes).items()
            for rule, least in rules(sensitivities).items()
        }
    return OutOfFoldChoice(temperatures, thresholds)


def judge_classes(
    wide: PredictionMatrix, classes: Classes, plan: Plan, *, comparing: bool
) -> tuple[dict[str, ByMetric], Callable[..., Figures] | None]:
    """Every learner's metrics with their intervals and, if `comparing`, what gives their differences as in `compare`.

    A learner is evaluated on the samples that it predicted; learners are compared on those that all predicted.
    """
    by_learner: dict[str, ByMetric] = {}
    groups = same_rows(wide.predicted)
    for rows, members in groups:
        points, basis, n_subjects = left_out(_chosen(wide, rows, members), classes, plan)
        support = np.bincount(wide.samples.truth[rows], minlength=len(classes.names))
        of_group = with_intervals(
            points,
            {},
            partial(_reason, classes, support),
            plan,
            n_subjects=n_subjects,
            n_cases=int(rows.sum()),
            basis=basis,
        )
        by_learner |= {wide.learners[n]: of_group[position] for position, n in enumerate(members)}
    by_learner = {learner: by_learner[learner] for learner in wide.learners}
    shared = np.asarray(wide.predicted.all(axis=1))
    if not comparing or len(wide.learners) < 2 or not shared.any():
        return by_learner, None
    everyone = _chosen(wide, shared, np.arange(len(wide.learners)))
    points, samples, n_subjects = resampled(everyone, classes, plan)
    if len(groups) > 1:
        _, basis, _ = left_out(everyone, classes, plan)
    effective, behind = effective_subjects(everyone.subjects), subjects_behind(everyone, classes)
    metrics = {
        metric.name: min(effective, float(behind[metric.name].min()))
        for metric in classes.registered
        if classes.kind in metric.compared
    }
    samples = {name: samples[name] for name in metrics}
    return by_learner, Comparison(points, samples, basis, wide.learners, metrics, plan, n_subjects).figures


def _reason(classes: Classes, support: np.ndarray, name: str, _: int) -> str:
    return reason(name, classes, support)


def describe_classes(
    wide: PredictionMatrix,
    classes: Classes,
    choice: OutOfFoldChoice,
    plan: Plan,
    *,
    crossed: bool,
    prevalence: float | None = None,
) -> dict[str, stored.ClassFigures]:
    """For each learner its confusion counts, temperature, curves, reliability and operating points.

    With a `prevalence` of the positive class, operating points have the predictive values at that prevalence.
    """
    chosen_on = "the other folds" if crossed else "out of fold"
    by_learner: dict[str, stored.ClassFigures] = {}
    for number, learner in enumerate(wide.learners):
        rows, k = wide.predicted[:, number], len(classes.names)
        own = _chosen(wide, rows, np.array([number]))
        truth, decided, p = own.truth, own.decided[:, 0], own.probabilities[:, 0]
        scores = one_against_rest(p, classes)
        folds = None if own.folds is None else own.folds[:, 0]
        curves = {classes.names[c]: drawn_curve(scores[:, c], truth == c, folds) for c in _shown(classes)}
        temperatures, thresholds = choice.temperatures.get(learner, {}), choice.thresholds.get(learner, {})
        confusion = np.bincount(truth * k + decided, minlength=k * k).reshape(k, k)
        points = []
        if thresholds:
            by_label = _questions(p, truth, classes)
            points = judge_thresholds(
                np.stack([by_label[label][0] for label, _ in thresholds], axis=1),
                np.stack([of_rows(t, wide.folds[rows, number], crossed=crossed) for t in thresholds.values()], axis=1),
                np.stack([by_label[label][1] for label, _ in thresholds], axis=1),
                own.subjects,
                plan,
                n_cases=int(rows.sum()),
                prevalence=prevalence,
            )
        by_learner[learner] = stored.ClassFigures(
            names=list(classes.names),
            positive=None if classes.positive is None else classes.names[classes.positive],
            support=confusion.sum(axis=1).tolist(),
            confusion=confusion.tolist(),
            constant_class=_constant_class(confusion, classes),
            temperature=stated(temperatures, crossed=crossed),
            temperature_fitted_on=chosen_on,
            roc={name: curve for name, curve in curves.items() if curve},
            reliability=[stored.ReliabilityBin(*values) for values in reliability(p, truth)],
            reliability_calibrated=[
                stored.ReliabilityBin(*values) for values in reliability(own.calibrated[:, 0], truth)
            ],
            operating=[
                stored.OperatingPoint(
                    label=label,
                    rule=rule,
                    chosen_on=chosen_on,
                    threshold=None if (value := stated(by_fold, crossed=crossed)) is None else Threshold(value),
                    prevalence=prevalence,
                    aim=aim_of(rule, figures["sensitivity"]),
                    figures=figures,
                    threshold_by_fold=_by_fold(by_fold) if crossed else None,
                )
                for ((label, rule), by_fold), figures in zip(thresholds.items(), points, strict=True)
            ],
            temperature_by_fold=_by_fold(temperatures) if crossed else None,
        )
    return by_learner


def temperature_caveats(blocks: Mapping[str, Mapping[str, Mapping[str, stored.ClassFigures]]]) -> list[stored.Note]:
    """The learners with a temperature at the bound of its range; `blocks` is `Results.classes`."""
    return [
        caveat("temperature_at_bound", stage=stage, target=target, learner=learner)
        for stage, learners in blocks.items()
        for learner, targets in learners.items()
        for target, block in targets.items()
        if temperatures_at_bound(block.temperature, block.temperature_by_fold)[0]
    ]


def temperatures_at_bound(
    temperature: float | None, by_fold: Mapping[str, float | None] | None = None
) -> tuple[int, int]:
    """In how many folds of how many a learner's temperature lies at a bound of its range; one without folds is one.

    >>> temperatures_at_bound(20.0), temperatures_at_bound(1.3), temperatures_at_bound(0.4, {"1": 0.05, "2": 0.75})
    ((1, 1), (0, 1), (1, 2))
    """
    temperatures = list((by_fold or {"": temperature}).values())
    return sum(at_bound(t) for t in temperatures), len(temperatures)


def _constant_class(confusion: np.ndarray, classes: Classes) -> str | None:
    """The class that is predicted for every case although several are recorded; None otherwise."""
    named = np.flatnonzero(confusion.sum(axis=0))
    several = np.count_nonzero(confusion.sum(axis=1)) > 1
    return classes.names[int(named[0])] if several and len(named) == 1 else None


def _chosen(wide: PredictionMatrix, rows: np.ndarray, members: np.ndarray) -> Samples:
    """The predictions of some learners on some rows."""
    every = wide.samples
    return Samples(
        every.truth[rows],
        every.decided[rows][:, members],
        every.probabilities[rows][:, members],
        every.calibrated[rows][:, members],
        every.subjects[rows],
        None if every.folds is None else every.folds[rows][:, members],
    )


def left_out(samples: Samples, classes: Classes, plan: Plan) -> tuple[dict[str, np.ndarray], Basis, int]:
    """Metrics (L,), those without each subject, and the number of subjects."""
    true, _ = presence(samples, len(classes.names))
    groups = groups_of(len(true), plan.seed)
    counts = 1.0 - (groups == np.arange(groups.max() + 1)[:, None])
    points = {name: at[0] for name, at in class_metrics(samples, classes, np.ones((1, len(true)))).items()}
    subjects = subjects_behind(samples, classes)
    shifted = shifted_metrics(samples, classes, subjects, partial(lowest_share, confidence=plan.confidence))
    basis = Basis(
        class_metrics(samples, classes, counts), by_group(true, groups) > 0, subjects, plan.confidence, shifted=shifted
    )
    return points, basis, len(true)


def resampled(
    samples: Samples, classes: Classes, plan: Plan
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Metrics (L,) of the learners, metrics (R, L) of every resample, and the number of subjects.

    Metrics that are computed within folds are resampled within folds, if every subject is in the same fold for all
    learners.
    """
    n_subjects = len(np.unique(np.asarray(samples.subjects, dtype=str)))
    points = {name: at[0] for name, at in class_metrics(samples, classes, np.ones((1, n_subjects))).items()}
    folds = _fold_of_subject(samples)
    within_folds, factor = (None, 1.0) if folds is None else draw_within(folds, plan)
    drawn = class_metrics(samples, classes, draw(n_subjects, plan), within_folds)
    for name in drawn if factor > 1 else ():
        if metric_of(name).across_folds == "within":
            drawn[name] = np.clip(points[name] + factor * (drawn[name] - points[name]), 0.0, 1.0)
    return points, drawn, n_subjects


def _fold_of_subject(samples: Samples) -> tuple[int, ...] | None:
    """The fold of each subject, in sorted order; None if a subject has none, or several."""
    if samples.folds is None:
        return None
    names, first, subject = np.unique(np.asarray(samples.subjects, str), return_index=True, return_inverse=True)
    folds = samples.folds[first, 0]
    same = len(names) and (samples.folds == folds[np.ravel(subject)][:, None]).all()
    return tuple(folds.tolist()) if same else None


def _shown(classes: Classes) -> list[int]:
    """The classes of curves: each against the rest, of two only the positive one."""
    return list(range(len(classes.names))) if classes.positive is None else [classes.positive]


def _questions(
    probabilities: np.ndarray, truth: np.ndarray, classes: Classes
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What operating points are of: by label the probability (N,), and whether it is so (N,).

    It is each class, of two the positive one, and of grades each one or a higher one, as clinics act on them.
    """
    if classes.kind in GRADES and classes.positive is None:
        above = {n: name + " or higher" * (name != classes.names[-1]) for n, name in enumerate(classes.names) if n}
        return {label: (probabilities[:, n:].sum(axis=1), truth >= n) for n, label in above.items()}
    return {classes.names[c]: (probabilities[:, c], truth == c) for c in _shown(classes)}


def _by_fold(thresholds: ByFold) -> dict[str, Threshold | None]:
    return {str(f): None if np.isnan(v) else Threshold(v) for f, v in thresholds.items() if f is not None}
