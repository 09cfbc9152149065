"""Calibration of the headline's learner, net benefit, and the coverage of prediction intervals and sets.

Out of fold, each case is predicted by the network of its fold, and every network has its own calibration. The slope,
the intercept and the curve are those of all folds together, which mix these networks; the slope within each fold
stands beside them.

Prediction intervals are never judged on the rows that they were calibrated on. The test set and an external cohort get
those of the record; without a test set, the rows of each fold get intervals calibrated on the other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.evaluation.bootstrap import Plan, draw, mean_by_subject, percentiles, with_intervals
from casewise.evaluation.figures import (
    Calibration,
    CurvePoint,
    Estimate,
    NetBenefit,
    PredictionSets,
    StageCoverage,
    TargetCoverage,
)
from casewise.evaluation.intervals import FEWEST
from casewise.metrics.calibration import intercepts, line, logit, slopes, smoothed
from casewise.metrics.numbers import sum_by_subject
from casewise.predictions.conformal import ROUNDING, Entry, fit_target, interval, members
from casewise.predictions.table import final_rows

POINTS = 41
# The curve leaves out the most extreme predictions, where it would follow single cases.
TAIL = 0.01
# Below so many subjects of a class, percentile intervals of its slope cover 88 to 94 % instead of 95 %.
FEW_OF_CLASS = 30
# With a smaller standard deviation of the logits, such as probabilities of 49 to 51 %, a slope means nothing.
LEAST_SPREAD = 0.05
# The same for numbers: the least standard deviation of the predictions, in those of the reference.
LEAST_SPREAD_OF_NUMBERS = 0.01
SAME = 1e-9


def class_calibration(
    rows: pd.DataFrame, classes: Sequence[str], positive: str | None, plan: Plan
) -> dict[str, Calibration]:
    """For each class against the others (of two, the positive one), the calibration of its probability.

    `rows` are scored rows of one learner. Out of fold there is a slope of each fold, None where undefined; the curve
    has no points where the predictions are all the same.
    """
    shown = [classes.index(positive)] if positive is not None else list(range(len(classes)))
    subjects, subject, counts = _drawn(rows, plan)
    truth = rows["y_true"].to_numpy(dtype=int)
    p = rows[[f"p{number}" for number in range(len(classes))]].to_numpy(dtype=float)
    by_class: dict[str, Calibration] = {}
    for number in shown:
        x, of_class = logit(p[:, number]), truth == number

        def fitted(times: np.ndarray, x: np.ndarray = x, of_class: np.ndarray = of_class) -> dict[str, np.ndarray]:
            varying = x.std() >= LEAST_SPREAD
            return {
                "slope": slopes(x if varying else np.zeros_like(x), of_class, subject, times)[:, None],
                "intercept": intercepts(x, of_class, subject, times)[:, None],
            }

        why = _class_reason(x, of_class)
        curve: list[CurvePoint] = []
        if x.std() >= LEAST_SPREAD:
            curve = _curve(p[:, number], of_class.astype(float), subjects, counts, plan, bounds=(0.0, 1.0))
        by_class[classes[number]] = Calibration(
            **_rough_if_rare(_with_intervals(fitted, counts, why, plan, rows), rows, of_class),
            slope_by_fold=_by_fold(rows, partial(_slope, x, of_class)),
            curve=curve,
        )
    return by_class


def number_calibration(rows: pd.DataFrame, plan: Plan) -> Calibration:
    """The regression of the reference on the prediction: as an entry of `class_calibration`."""
    subjects, _, counts = _drawn(rows, plan)
    predicted, truth = rows["y_pred"].to_numpy(dtype=float), rows["y_true"].to_numpy(dtype=float)

    least = LEAST_SPREAD_OF_NUMBERS * float(truth.std())
    varying = float(predicted.std()) >= least

    def fitted(times: np.ndarray) -> dict[str, np.ndarray]:
        intercept, slope = line(predicted if varying else np.zeros_like(predicted), truth, subjects, times)
        return {"slope": slope[:, None], "intercept": intercept[:, None]}

    def in_fold(mask: np.ndarray) -> float:
        if predicted[mask].std() < least:
            return float("nan")
        return float(line(predicted[mask], truth[mask], np.arange(mask.sum()), np.ones((1, int(mask.sum()))))[1][0])

    return Calibration(
        **_with_intervals(fitted, counts, "the predictions are nearly all the same", plan, rows),
        slope_by_fold=_by_fold(rows, in_fold),
        curve=_curve(predicted, truth, subjects, counts, plan, bounds=(-np.inf, np.inf)) if varying else [],
    )


def _drawn(rows: pd.DataFrame, plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The subject of each row, its number, and how often each subject is in each resample."""
    subjects = rows["subject"].astype(str).to_numpy()
    names, subject = np.unique(subjects, return_inverse=True)
    return subjects, subject, draw(len(names), plan)


def _with_intervals(
    fitted: Callable[[np.ndarray], dict[str, np.ndarray]], counts: np.ndarray, why: str, plan: Plan, rows: pd.DataFrame
) -> dict[str, Estimate]:
    points = {name: values[0] for name, values in fitted(np.ones((1, counts.shape[1]))).items()}
    (estimates,) = with_intervals(
        points, fitted(counts), lambda *_: why, plan, n_subjects=counts.shape[1], n_cases=int(rows["case"].nunique())
    )
    return estimates


def _rough_if_rare(entry: dict[str, Estimate], rows: pd.DataFrame, of_class: np.ndarray) -> dict[str, Estimate]:
    """Mark the figures of a class as rough where it, or the others together, have few subjects."""
    fewest = min(rows.loc[mask, "subject"].nunique() for mask in (of_class, ~of_class))
    return {name: replace(figure, rough=figure.rough or fewest < FEW_OF_CLASS) for name, figure in entry.items()}


def _class_reason(x: np.ndarray, of_class: np.ndarray) -> str:
    """Why a slope or an intercept is undefined."""
    if not of_class.any() or of_class.all():
        return "no case is truly of the class" if not of_class.any() else "every case is truly of the class"
    if x.std() < LEAST_SPREAD:
        return "the probabilities are nearly all the same"
    return "the probabilities separate the class from the others completely"


def _slope(x: np.ndarray, of_class: np.ndarray, mask: np.ndarray) -> float:
    count = int(mask.sum())
    if x[mask].std() < LEAST_SPREAD:
        return float("nan")
    return float(slopes(x[mask], of_class[mask], np.arange(count), np.ones((1, count)))[0])


def _by_fold(rows: pd.DataFrame, slope: Callable[[np.ndarray], float]) -> dict[str, float | None]:
    """The slope within each fold; empty where rows are not of single folds."""
    folds = rows["outer_fold"]
    if folds.isna().any():
        return {}
    values = {str(fold): slope((folds == fold).to_numpy(dtype=bool)) for fold in sorted(folds.unique())}
    return {fold: None if np.isnan(value) else value for fold, value in values.items()}


def _curve(
    x: np.ndarray, y: np.ndarray, subjects: np.ndarray, counts: np.ndarray, plan: Plan, *, bounds: tuple[float, float]
) -> list[CurvePoint]:
    """The points of the smoothed curve with its pointwise band."""
    low, high = (float(value) for value in np.quantile(x, [TAIL, 1 - TAIL]))
    if high - low < SAME or np.ptp(y) == 0:
        return []
    grid = np.linspace(low, high, POINTS)
    middle = np.clip(smoothed(x, y, subjects, np.ones((1, counts.shape[1])), grid)[0], *bounds)
    lows, highs = percentiles(np.clip(smoothed(x, y, subjects, counts, grid), *bounds), plan.confidence)
    if counts.shape[1] < FEWEST:
        lows = highs = np.full(POINTS, np.nan)
    values = zip(grid, middle, lows, highs, strict=True)
    return [CurvePoint(float(at), float(value), _or_none(bottom), _or_none(top)) for at, value, bottom, top in values]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# ------------------------------------------------------------------------------------------------------ decisions


def decision_curve(rows: pd.DataFrame, number: int, thresholds: Sequence[float], plan: Plan) -> list[NetBenefit]:
    """The net benefit of treating cases above each threshold of the class's probability, of treating all, and more.

    The net benefit is the share of true positives minus that of false positives times the odds of the threshold
    (Vickers and Elkin 2006); treating none has 0. `over_all` is the model's minus that of treating all. All are
    estimates by resampling subjects.
    """
    p, of_class = (
        rows[f"p{number}"].to_numpy(dtype=float)[:, None],
        rows["y_true"].to_numpy(dtype=int)[:, None] == number,
    )
    levels = np.asarray(thresholds, dtype=float)
    odds = levels / (1 - levels)
    treated = p >= levels
    gain = np.where(of_class, 1.0, -odds)
    terms = np.stack([np.ones_like(gain), np.where(treated, gain, 0.0), gain], axis=-1)
    sums = sum_by_subject(terms, rows["subject"].to_numpy())
    samples = (draw(len(sums), plan) @ sums.reshape(len(sums), -1)).reshape(plan.resamples, len(levels), 3)

    def benefits(totals: np.ndarray) -> dict[str, np.ndarray]:
        n, model, everyone = np.moveaxis(totals, -1, 0)
        return {"model": model / n, "treat_all": everyone / n, "over_all": (model - everyone) / n}

    points = with_intervals(
        benefits(sums.sum(axis=0)),
        benefits(samples),
        lambda *_: "no cases",
        plan,
        n_subjects=len(sums),
        n_cases=int(rows["case"].nunique()),
    )
    return [
        NetBenefit(float(level), point["model"], point["treat_all"], point["over_all"])
        for level, point in zip(levels, points, strict=True)
    ]


def coverage(
    predictions: pd.DataFrame, learner: str, record: Mapping[str, Any], classes: Mapping[str, Sequence[str]], plan: Plan
) -> PredictionSets:
    """The coverage of each target of a learner, averaged within subjects first, with intervals by subject.

    Args:
        record: that of `casewise.predictions.conformal.fit`.
        classes: the names of the classes of each target that has them.
    """
    rows = final_rows(predictions[predictions["model"] == learner])
    rows = rows[rows["y_true"].notna() & rows["y_pred"].notna()]
    targets: dict[str, TargetCoverage] = {}
    for target, entry in record["learners"].get(learner, {}).items():
        own = rows[rows["target"] == target]
        by_stage = {name: own[own["stage"] == name] for name in own["stage"].unique()}
        stages: dict[str, StageCoverage] = {}
        if "test" in by_stage:
            stages["test"] = _figures([(by_stage["test"], entry)], classes.get(target, ()), plan)
        elif "oof" in by_stage and by_stage["oof"]["outer_fold"].notna().all():
            pairs = _of_other_folds(by_stage["oof"], entry, float(record["level"]))
            if pairs:
                stages["oof"] = replace(_figures(pairs, classes.get(target, ()), plan), cross_fitted=True)
        if "external" in by_stage:
            stages["external"] = _figures([(by_stage["external"], entry)], classes.get(target, ()), plan)
        targets[target] = TargetCoverage(dict(entry), stages)
    return PredictionSets(record["level"], learner, record["fewest"], targets)


def _of_other_folds(rows: pd.DataFrame, entry: Entry, level: float) -> list[tuple[pd.DataFrame, Entry]]:
    """The rows of each fold, with the entry of a calibration on the other folds; none for a single fold."""
    limits = entry.get("range", ())  # classes have none
    folds = rows["outer_fold"].unique()
    if len(folds) < 2:
        return []
    return [
        (rows[rows["outer_fold"] == fold], fit_target(rows[rows["outer_fold"] != fold], limits, level))
        for fold in folds
    ]


def _figures(pairs: Sequence[tuple[pd.DataFrame, Entry]], classes: Sequence[str], plan: Plan) -> StageCoverage:
    """The figures of one stage, from rows with the entry that belongs to each."""
    rows = pd.concat([own for own, _ in pairs])
    subjects, truth = rows["subject"].astype(str).to_numpy(), rows["y_true"].to_numpy(dtype=float)
    if classes:
        inside = np.concatenate([members(own, entry) for own, entry in pairs])
        right = inside[np.arange(len(rows)), truth.astype(int)].astype(float)
        size = inside.sum(axis=1).astype(float)
        of_class = {name: truth == number for number, name in enumerate(classes)}
        return StageCoverage(
            coverage=_mean(right, subjects, plan, name="share"),
            without=0,
            cross_fitted=False,
            size=_mean(size, subjects, plan),
            single=_mean((size == 1).astype(float), subjects, plan, name="share"),
            by_class={
                name: _mean(right[mask], subjects[mask], plan, name="share") if mask.any() else None
                for name, mask in of_class.items()
            },
        )
    ends = [interval(own["y_pred"].to_numpy(dtype=float), entry) for own, entry in pairs]
    low, high = (np.concatenate([pair[side] for pair in ends]) for side in (0, 1))
    has = ~np.isnan(low)
    right = ((truth >= low - ROUNDING) & (truth <= high + ROUNDING)).astype(float)
    return StageCoverage(
        coverage=_mean(right[has], subjects[has], plan, name="share") if has.any() else None,
        without=int((~has).sum()),
        cross_fitted=False,
        width=_mean((high - low)[has], subjects[has], plan) if has.any() else None,
    )


def _mean(values: NDArray[np.float64], subjects: NDArray[Any], plan: Plan, *, name: str = "mean") -> Estimate:
    """The mean over subjects of each subject's mean."""
    by_subject = pd.Series(values).groupby(subjects).mean()
    figure = mean_by_subject(by_subject.to_numpy(), by_subject.index.to_numpy(), plan, name=name)
    return replace(figure, n_cases=len(values))
