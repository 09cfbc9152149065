"""Calibration and net benefit of probabilities, and the coverage of prediction intervals and sets.

Out of fold, each case is predicted by the network of its fold, and every network has its own calibration. The slope,
the intercept and the curve are computed over all folds together, and so mix these networks; the slope within each fold
is given too.

Prediction intervals are never evaluated on the rows that they were calibrated on. The test set and an external cohort
get the intervals of the run (the record of `casewise.predictions.conformal.fit`); without a test set, the rows of each
fold get intervals calibrated on the other folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from casewise.evaluation import results as stored
from casewise.evaluation.bootstrap import (
    FEWEST_SUBJECTS,
    Plan,
    draw,
    mean_by_subject,
    percentiles,
    resample,
    with_intervals,
)
from casewise.evaluation.figures import Estimate
from casewise.metrics.calibration import line, logistic, logit, smoothed
from casewise.metrics.numbers import sum_by_subject
from casewise.predictions.conformal import ROUNDING, Entry, fit_target, interval, members, number_of_band, thirds
from casewise.predictions.table import SAMPLE_KEY, final_rows

_POINTS = 41
# The curve leaves out the most extreme predictions, where it would follow single cases.
TAIL = 0.01
# Below this many subjects of a class, percentile intervals of its slope cover 88 to 94 % instead of 95 %.
FEW_OF_CLASS = 30
# With a smaller standard deviation of the logits, such as probabilities of 49 to 51 %, a slope means nothing.
LEAST_SPREAD = 0.05
# The same for numbers: the least standard deviation of the predictions, in standard deviations of the reference.
LEAST_SPREAD_OF_NUMBERS = 0.01
# A curve over a smaller range of predictions is not drawn.
_LEAST_RANGE = 1e-9


def class_calibration(
    rows: pd.DataFrame, classes: Sequence[str], positive: str | None, plan: Plan
) -> dict[str, stored.Calibration]:
    """The calibration of each class's probability, against all other classes; of two classes only the positive one.

    `rows` are rows of one learner with a reference. Out of fold there is a slope of each fold, None if undefined; the
    curve has no points if the predictions are nearly all the same.
    """
    numbers = [number for number, name in enumerate(classes) if positive is None or name == positive]
    return {classes[number]: _class_calibration(rows, number, plan) for number in numbers}


def _class_calibration(rows: pd.DataFrame, number: int, plan: Plan) -> stored.Calibration:
    p, of_class = rows[f"p{number}"].to_numpy(dtype=float), rows["y_true"].to_numpy(dtype=int) == number
    x, subject = logit(p), np.unique(rows["subject"].astype(str), return_inverse=True)[1]
    varying = x.std() >= LEAST_SPREAD

    def fitted(times: np.ndarray) -> dict[str, np.ndarray]:
        slope = logistic(x if varying else np.zeros_like(x), of_class, subject, times, sloped=True)
        return {"slope": slope, "intercept": logistic(x, of_class, subject, times, sloped=False)}

    def slope(mask: np.ndarray) -> float:
        count = int(mask.sum())
        if x[mask].std() < LEAST_SPREAD:
            return np.nan
        return float(logistic(x[mask], of_class[mask], np.arange(count), np.ones((1, count)), sloped=True)[0])

    reason = "the probabilities separate the class from the others completely"
    if not of_class.any() or of_class.all():
        reason = "no case is truly of the class" if not of_class.any() else "every case is truly of the class"
    elif not varying:
        reason = "the probabilities are nearly all the same"
    fewest = min(rows.loc[mask, "subject"].nunique() for mask in (of_class, ~of_class))
    figures = _estimates(rows, fitted, reason, plan)
    return stored.Calibration(
        **{name: replace(figure, rough=figure.rough or fewest < FEW_OF_CLASS) for name, figure in figures.items()},
        slope_by_fold=_by_fold(rows, slope),
        curve=_curve(rows, p, of_class.astype(float), plan, bounds=(0.0, 1.0)) if varying else [],
    )


def number_calibration(rows: pd.DataFrame, plan: Plan) -> stored.Calibration:
    """The calibration of a number: the regression of the reference on the prediction; as in `class_calibration`."""
    subjects = rows["subject"].astype(str).to_numpy()
    predicted, truth = rows["y_pred"].to_numpy(dtype=float), rows["y_true"].to_numpy(dtype=float)
    least = LEAST_SPREAD_OF_NUMBERS * float(truth.std())
    varying = float(predicted.std()) >= least

    def fitted(times: np.ndarray) -> dict[str, np.ndarray]:
        intercept, slope = line(predicted if varying else np.zeros_like(predicted), truth, subjects, times)
        return {"slope": slope, "intercept": intercept}

    def slope(mask: np.ndarray) -> float:
        x, count = predicted[mask], int(mask.sum())
        return np.nan if x.std() < least else float(line(x, truth[mask], np.arange(count), np.ones((1, count)))[1][0])

    return stored.Calibration(
        **_estimates(rows, fitted, "the predictions are nearly all the same", plan),
        slope_by_fold=_by_fold(rows, slope),
        curve=_curve(rows, predicted, truth, plan, bounds=(-np.inf, np.inf)) if varying else [],
    )


def _estimates(
    rows: pd.DataFrame, fitted: Callable[[np.ndarray], dict[str, np.ndarray]], reason: str, plan: Plan
) -> dict[str, Estimate]:
    """Estimates with intervals of what `fitted` computes: values (R,) by name from the weights (R, S) of the subjects.

    `reason` says why a value is undefined.
    """
    n_subjects = rows["subject"].astype(str).nunique()
    points = fitted(np.ones((1, n_subjects)))
    samples = {name: values[:, None] for name, values in fitted(draw(n_subjects, plan)).items()}
    estimates = with_intervals(points, samples, lambda *_: reason, plan, n_subjects=n_subjects, n_cases=len(rows))[0]
    if n_subjects >= FEWEST_SUBJECTS:
        return estimates
    few = f"fewer than {FEWEST_SUBJECTS} {plan.unit}s: no interval"
    return {name: replace(own, low=None, high=None, reason=own.reason or few) for name, own in estimates.items()}


def _by_fold(rows: pd.DataFrame, slope: Callable[[np.ndarray], float]) -> dict[str, float | None]:
    """The slope of each fold, from a function of the mask of its rows; empty if rows belong to no fold."""
    folds = rows["outer_fold"]
    if folds.isna().any():
        return {}
    return {str(fold): _or_none(slope((folds == fold).to_numpy(dtype=bool))) for fold in sorted(folds.unique())}


def _curve(
    rows: pd.DataFrame, x: np.ndarray, y: np.ndarray, plan: Plan, *, bounds: tuple[float, float]
) -> list[stored.CurvePoint]:
    """The points of the smoothed curve with its pointwise band."""
    low, high = (float(value) for value in np.quantile(x, [TAIL, 1 - TAIL]))
    if high - low < _LEAST_RANGE or np.ptp(y) == 0:
        return []
    grid, subjects = np.linspace(low, high, _POINTS), rows["subject"].astype(str).to_numpy()
    n_subjects = len(np.unique(subjects))
    middle = np.clip(smoothed(x, y, subjects, np.ones((1, n_subjects)), grid)[0], *bounds)
    drawn = np.clip(smoothed(x, y, subjects, draw(n_subjects, plan), grid), *bounds)
    ends = percentiles(drawn, plan.confidence) if n_subjects >= FEWEST_SUBJECTS else np.full((2, _POINTS), np.nan)
    values = zip(grid, middle, *ends, strict=True)
    return [
        stored.CurvePoint(float(at), float(value), _or_none(bottom), _or_none(top)) for at, value, bottom, top in values
    ]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# ------------------------------------------------------------------------------------------------------ decisions


def decision_curve(
    rows: pd.DataFrame, number: int, thresholds: Sequence[float], plan: Plan, *, other: pd.DataFrame | None = None
) -> list[stored.NetBenefit]:
    """The net benefit of treating the cases whose probability of the class reaches each threshold, and of treating all.

    The net benefit is the share of true positives minus the share of false positives times the odds of the threshold
    (Vickers and Elkin 2006); treating none has 0. `over_all` is the model's net benefit minus the net benefit of
    treating all. All are estimates by resampling subjects. With `other`, the rows of another learner, `over_other` is
    the difference from this learner.
    """
    key = list(SAMPLE_KEY)
    compared = (rows if other is None else other).set_index(key).loc[pd.MultiIndex.from_frame(rows[key])]
    other_p = compared[[f"p{number}"]].to_numpy(dtype=float)
    p, of_class = rows[[f"p{number}"]].to_numpy(dtype=float), rows[["y_true"]].to_numpy(dtype=int) == number
    levels = np.asarray(thresholds, dtype=float)
    gain = np.where(of_class, 1.0, -levels / (1 - levels))
    treated = [np.where(shares >= levels, gain, 0.0) for shares in (p, other_p)]
    terms = np.stack([np.ones_like(gain), treated[0], gain, treated[0] - treated[1]], axis=-1)
    sums = sum_by_subject(terms, rows["subject"].to_numpy())

    def benefits(totals: np.ndarray) -> dict[str, np.ndarray]:
        n, model, everyone, gap = np.moveaxis(totals, -1, 0)
        return {"model": model / n, "treat_all": everyone / n, "over_all": (model - everyone) / n, "gap": gap / n}

    points = with_intervals(
        *resample(sums, benefits, plan), lambda *_: "no cases", plan, n_subjects=len(sums), n_cases=len(rows)
    )
    return [
        stored.NetBenefit(
            float(level),
            point["model"],
            point["treat_all"],
            point["over_all"],
            over_other=None if other is None else point["gap"],
        )
        for level, point in zip(levels, points, strict=True)
    ]


def coverage(
    predictions: pd.DataFrame,
    learner: str,
    record: Mapping[str, Any],
    classes: Mapping[str, Sequence[str]],
    plan: Plan,
    *,
    bands: Mapping[str, Mapping[str, float]] | None = None,
) -> stored.PredictionSets:
    """The coverage of each target of a learner, averaged within subjects first, with intervals by subject.

    Args:
        record: as `casewise.predictions.conformal.fit` returns it.
        classes: the names of the classes of each target that has them.
        bands: the severity bands, name -> lower bound, of each target that has them; other numbers have thirds.
    """
    rows = final_rows(predictions[predictions["model"] == learner])
    rows = rows[rows["y_true"].notna() & rows["y_pred"].notna()]
    targets: dict[str, stored.TargetCoverage] = {}
    for target, entry in record["learners"].get(learner, {}).items():
        own, names = rows[rows["target"] == target], classes.get(target, ())
        by_stage = {name: own[own["stage"] == name] for name in own["stage"].unique()}
        pairs = {stage: [(by_stage[stage], entry)] for stage in ("test", "external") if stage in by_stage}
        if "test" not in by_stage and "oof" in by_stage:
            crossed = _calibrated_on_other_folds(by_stage["oof"], entry, float(record["level"]))
            pairs = ({"oof": crossed} if crossed else {}) | pairs
        own_bands = (bands or {}).get(target, {})
        targets[target] = stored.TargetCoverage(
            dict(entry), {stage: _figures(of, names, own_bands, plan) for stage, of in pairs.items()}
        )
    return stored.PredictionSets(record["level"], learner, record["fewest"], targets)


def holding(rows: pd.DataFrame, record: Mapping[str, Any], learner: str, target: str) -> pd.Series:
    """Whether the prediction set of each row contains its reference class; out of fold, sets come from other folds.

    Args:
        rows: of one learner, target and stage, with a reference and a prediction.
        record: as `casewise.predictions.conformal.fit` returns it.

    Returns:
        By the index of the rows; empty where nothing was calibrated on other cases.
    """
    entry = record.get("learners", {}).get(learner, {}).get(target)
    pairs: list[tuple[pd.DataFrame, Entry]] = []
    if entry is not None and (rows["stage"] == "oof").all():
        pairs = _calibrated_on_other_folds(rows, entry, float(record["level"]))
    elif entry is not None and rows["stage"].isin(["test", "external"]).all():
        pairs = [(rows, entry)]
    holds = [
        pd.Series(members(own, calibration)[np.arange(len(own)), own["y_true"].to_numpy(dtype=int)], index=own.index)
        for own, calibration in pairs
    ]
    return pd.concat(holds).reindex(rows.index) if holds else pd.Series(dtype=bool)


def _calibrated_on_other_folds(rows: pd.DataFrame, entry: Entry, level: float) -> list[tuple[pd.DataFrame, Entry]]:
    """The rows of each fold, with the entry of a calibration on the other folds; none for a single fold."""
    limits, fold_of = entry.get("range", ()), rows["outer_fold"]  # of a number's values; classes have none
    if fold_of.isna().any() or fold_of.nunique() < 2:
        return []
    bounds = [band["upper"] for band in entry.get("bands", ())[:-1]]
    # what does not vary in the study does not vary with its folds, as in runs of 1.0
    constant = () if "bands" in entry else ("bands", "scale")
    # the rule of the record, although there is one fold less; without a scale if it has none
    fewest = 2 if "scale" in entry else fold_of.nunique() + 1
    pairs: list[tuple[pd.DataFrame, Entry]] = []
    for fold in fold_of.unique():
        others = fit_target(rows[fold_of != fold], limits, level, bounds, fewest_folds=fewest)
        pairs.append((rows[fold_of == fold], {key: value for key, value in others.items() if key not in constant}))
    return pairs


def _figures(
    pairs: Sequence[tuple[pd.DataFrame, Entry]], classes: Sequence[str], bands: Mapping[str, float], plan: Plan
) -> stored.StageCoverage:
    """The coverage in one stage; `pairs` are rows with the entry of the record from which their intervals follow."""
    rows = pd.concat([own for own, _ in pairs])
    subjects, truth = rows["subject"].astype(str).to_numpy(), rows["y_true"].to_numpy(dtype=float)

    def mean(values: np.ndarray, mask: np.ndarray, name: str = "mean") -> Estimate | None:
        """The mean over subjects of each subject's mean; None without rows."""
        if not mask.any():
            return None
        by_subject = pd.Series(values[mask].astype(float)).groupby(subjects[mask]).mean()
        figure = mean_by_subject(by_subject.to_numpy(), by_subject.index.to_numpy(), plan, name=name)
        return replace(figure, n_cases=int(mask.sum()))

    every = np.ones(len(rows), dtype=bool)
    if classes:
        inside = np.concatenate([members(own, entry) for own, entry in pairs])
        right, size = inside[np.arange(len(rows)), truth.astype(int)], inside.sum(axis=1)
        return stored.StageCoverage(
            coverage=mean(right, every, "share"),
            without=0,
            size=mean(size, every),
            single=mean(size == 1, every, "share"),
            by_class={name: mean(right, truth == number, "share") for number, name in enumerate(classes)},
        )
    ends = [interval(own["y_pred"].to_numpy(dtype=float), entry) for own, entry in pairs]
    low, high = (np.concatenate(side) for side in zip(*ends, strict=True))
    has = ~np.isnan(low)
    right = (truth >= low - ROUNDING) & (truth <= high + ROUNDING)
    names, bounds = sorted(bands, key=bands.__getitem__), sorted(bands.values())[1:] if bands else thirds(truth)
    band, figures = number_of_band(truth, bounds), []
    for number, ends_of in enumerate(pairwise([None, *bounds, None])):
        own = has & (band == number)
        if own.any() and bounds:
            name = names[number] if names else ""
            figures.append(stored.BandCoverage(name, *ends_of, mean(right, own, "share"), mean(high - low, own)))
    return stored.StageCoverage(
        mean(right, has, "share"), int((~has).sum()), width=mean(high - low, has), bands=figures or None
    )
