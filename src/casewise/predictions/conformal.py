"""Prediction intervals of numbers and prediction sets of classes, from the errors of out-of-fold predictions.

Split-conformal prediction with clusters. The score of a row is one minus the probability of the true class for a
class, and |reference - prediction| / scale for a number. The scale is the error to expect at this prediction
(Papadopoulos, Gammerman and Vovk 2008, "Normalized nonconformity measures for regression conformal prediction"): the
mean error in each third of the predictions, interpolated. A row is calibrated with the scale that the other folds
give, and the scale is 1 unless it predicts the errors of other folds better than their mean does. Cases of different
subjects are not exchangeable, but subjects are: of K subjects, each has a weight of 1 / (K + 1), divided equally among
its rows, and the new subject has the remaining 1 / (K + 1), at infinity. The quantile of these weighted scores at the
level is the half width of an interval, or the largest score of a class that belongs to a set. It exists only if K / (K
+ 1) reaches the level: from 9 subjects on for 90 %. A random case of a new subject from the same population is then
covered with at least this probability (Lee, Barber and Willett 2023, "Distribution-free inference with hierarchical
data", hierarchical conformal prediction; Dunn, Wasserman and Ramdas 2023, "Distribution-free prediction sets for two-
layer hierarchical models", has the problem and other solutions). Subjects with many cases may be harder, so that fewer
of all cases are covered. The same quantile with equal weights of all cases, K / (K + 1) in total, covers about this
share of cases, and the larger one of both quantiles is taken.

Classes and grades have a quantile each, from the rows that truly belong to the class (Vovk, Lindsay, Nouretdinov and
Gammerman 2003, "Mondrian confidence machine"; the score comes from Sadinle, Lei and Wasserman 2019), so that the level
holds in each class. Numbers have a quantile for each band of the reference in the same way: a value belongs to the
interval of a case if its band does not exclude it, and the interval has no gaps. A band of too few subjects is joined
to its neighbour. A class without a quantile is in every set. If no class fits, the case is doubtful, and the set has
the two classes that come closest. A set always contains the prediction, and a set of grades has no gaps. These rules
only make it larger.

Out-of-fold rows are predicted by networks of single folds, and new cases by their mean. The level is proven for a
single network, and not for the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.predictions.table import probability_columns
from casewise.targets import by_form, kind_named

# By learner and target: what `fit` returns as `learners`.
Entry: TypeAlias = Mapping[str, Any]
# A level is reached, and a score is as small as a quantile, in spite of rounding.
ROUNDING = 1e-9
COLUMNS = ("low", "high", "set")
# Subjects with the mean error that count in each third of the predictions.
_DRAWN = 3
# A scale is used from this many folds on, so that the other folds of each give one, and with this relative gain.
_FEWEST_FOLDS, _LEAST_GAIN = 3, 0.02


def thirds(values: NDArray[np.float64]) -> list[float]:
    """The bounds between the thirds of values (N,), fewer where values are tied; a bound belongs to the upper third.

    >>> thirds(np.arange(9.0)), thirds(np.zeros(9))
    ([3.0, 6.0], [0.0])
    """
    bounds = np.quantile(values, [1 / 3, 2 / 3], method="higher") if len(values) else np.zeros(0)
    return list(dict.fromkeys(bounds.tolist()))


def number_of_band(values: NDArray[np.float64], bounds: Sequence[float]) -> NDArray[np.intp]:
    """The number of the band of each value (N,), from the bounds between bands in rising order.

    >>> number_of_band(np.array([-1.0, 0.99, 1.0, 40.0]), [1, 10]).tolist()
    [0, 0, 1, 2]
    """
    # rounding must not lower a band: 0.7 + 0.1 is computed as slightly less than a bound of 0.8
    return np.searchsorted(np.asarray(bounds, dtype=float), np.asarray(values) + ROUNDING, side="right")


def subject_quantile(scores: NDArray[np.float64], subjects: NDArray[Any], level: float) -> float | None:
    """The quantile at `level` of scores (N,), with the weights of the module; None if there are too few subjects.

    >>> subject_quantile(np.arange(1.0, 10.0), np.arange(9), 0.9), subject_quantile(np.arange(8.0), np.arange(8), 0.9)
    (9.0, None)
    """
    if not len(scores):
        return None
    _, number, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    by_subject = 1 / counts[number] / len(counts)
    order = np.argsort(scores, kind="stable")
    shares = np.cumsum(np.stack([by_subject, np.full(len(scores), 1 / len(scores))])[:, order], axis=1)
    reached = shares.min(axis=0) * len(counts) / (len(counts) + 1) >= level - ROUNDING
    return float(scores[order][reached.argmax()]) if reached.any() else None


def fewest_subjects(level: float) -> int:
    """The least number of subjects with which there is a quantile.

    >>> fewest_subjects(0.9), fewest_subjects(0.8), fewest_subjects(0.95)
    (9, 4, 19)
    """
    return int(np.ceil(level / (1 - level) - ROUNDING))


def fit(
    predictions: pd.DataFrame,
    ranges: Mapping[str, tuple[float, float]],
    level: float,
    bounds: Mapping[str, Sequence[float]] | None = None,
) -> Mapping[str, Any]:
    """The quantiles of every learner and target, from the out-of-fold rows with a reference.

    Args:
        predictions: rows of the predictions table; rows of other stages are ignored.
        ranges: the declared range of each target that is a number, to which its intervals are clipped.
        bounds: the bounds between the bands of targets that have such; others have thirds of the reference.

    Returns:
        `level`; `fewest`, the least number of subjects; and `learners`: by learner and target for a number `subjects`,
        `rows`, `quantile` (None with too few subjects) and `range`, and for classes the first three of each class as
        `classes`, in their order. A number whose intervals do not all have this half width has `bands`, the first three
        of each band with its `upper` bound (None for the last), whose quantiles are multiples of a `scale` if there is
        one: the `error` to expect at each `predicted` value. It is plain JSON.
    """
    rows = predictions[(predictions["stage"] == "oof") & predictions["inner_fold"].isna()]
    rows = rows[rows["y_true"].notna() & rows["y_pred"].notna()]
    learners: dict[str, dict[str, Entry]] = {}
    for (model, target), own in rows.groupby(["model", "target"], sort=False):
        limits = ranges.get(str(target), ())  # classes have none
        own_bounds = (bounds or {}).get(str(target))
        learners.setdefault(str(model), {})[str(target)] = fit_target(own, limits, level, own_bounds)
    return {"level": level, "fewest": fewest_subjects(level), "learners": learners}


def fit_target(
    rows: pd.DataFrame,
    limits: Sequence[float],
    level: float,
    bounds: Sequence[float] | None = None,
    *,
    fewest_folds: int = _FEWEST_FOLDS,
) -> Entry:
    """The entry of one learner and target (see `fit`), from its rows with a reference; with fewer folds, no scale."""
    if kind_named(str(rows["kind"].iloc[0])).form == "number":
        return _fit_number(rows, level, bounds, fewest_folds) | {"range": list(limits)}
    p = probabilities(rows)
    truth = rows["y_true"].to_numpy(dtype=int)
    classes = [_quantile(rows[truth == number], 1 - p[truth == number, number], level) for number in range(p.shape[1])]
    return {"classes": classes}


def _fit_number(rows: pd.DataFrame, level: float, bounds: Sequence[float] | None, fewest_folds: int) -> dict[str, Any]:
    truth, predicted = (rows[name].to_numpy(dtype=float) for name in ("y_true", "y_pred"))
    errors, subjects = np.abs(truth - predicted), rows["subject"].to_numpy()
    scale, expected = _crossed_scale(
        predicted, errors, subjects, rows["outer_fold"].to_numpy(dtype=float), fewest_folds
    )
    entry: dict[str, Any] = {**_quantile(rows, errors, level)}
    kept = _with_enough(truth, subjects, thirds(truth) if bounds is None else bounds, fewest_subjects(level))
    if entry["quantile"] is None or not (kept or scale):
        return entry
    scores, band = errors / expected, number_of_band(truth, kept)
    bands = [
        {"upper": upper, **_quantile(rows[band == number], scores[band == number], level)}
        for number, upper in enumerate([*kept, None])
    ]
    return entry | {"bands": bands} | ({"scale": scale} if scale else {})


def _with_enough(
    truth: NDArray[np.float64], subjects: NDArray[Any], bounds: Sequence[float], fewest: int
) -> list[float]:
    """The bounds between bands that have enough subjects each; bands with fewer are joined to the one above or below.

    >>> _with_enough(np.array([0.0, 0, 1, 2, 2]), np.arange(5), [1.0, 2.0], 2)
    [1.0]
    """
    kept: list[float] = []
    for bound in map(float, bounds):
        above = truth + ROUNDING >= bound
        below = ~above & (truth + ROUNDING >= (kept[-1] if kept else -np.inf))
        if min(len(np.unique(subjects[mask])) for mask in (below, above)) >= fewest:
            kept.append(bound)
    return kept


def _crossed_scale(
    predicted: NDArray[np.float64],
    errors: NDArray[np.float64],
    subjects: NDArray[Any],
    folds: NDArray[np.float64],
    fewest_folds: int,
) -> tuple[dict[str, list[float]], NDArray[np.float64]]:
    """The scale for new cases, and for each row (N,) the error to expect by the other folds; empty and ones without."""
    _, number, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    weights = 1 / counts[number]
    expected, means = np.ones(len(errors)), np.ones(len(errors))
    # the mean of the training cases, predicted for each case of a fold, differs between folds
    vary = any(not np.allclose(own, own[0]) for own in (predicted[folds == fold] for fold in np.unique(folds)))
    if len(np.unique(folds)) < fewest_folds or not vary:
        return {}, np.ones(len(errors))
    scale = _scale(predicted, errors, weights)
    for fold in np.unique(folds):
        own, others = folds == fold, folds != fold
        if not errors[others].any():
            return {}, np.ones(len(errors))
        expected[own] = _expected_error(predicted[own], _scale(predicted[others], errors[others], weights[others]))
        means[own] = np.average(errors[others], weights=weights[others])
    better = weights @ (errors - expected) ** 2 < (1 - _LEAST_GAIN) * (weights @ (errors - means) ** 2)
    return (scale, expected) if better else ({}, np.ones(len(errors)))


def _scale(
    predicted: NDArray[np.float64], errors: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, list[float]]:
    """The mean error in each third of the predictions, drawn towards the mean of all as if by three more subjects."""
    mean, third = np.average(errors, weights=weights), number_of_band(predicted, thirds(predicted))
    masks = [third == number for number in np.unique(third)]
    return {
        "predicted": [float(np.average(predicted[mask], weights=weights[mask])) for mask in masks],
        "error": [
            float((weights[mask] @ errors[mask] + _DRAWN * mean) / (weights[mask].sum() + _DRAWN)) for mask in masks
        ],
    }


def _expected_error(predicted: NDArray[np.float64], scale: Mapping[str, Sequence[float]] | None) -> NDArray[np.float64]:
    """The error to expect at each prediction (N,), by interpolation between those of a scale; ones without a scale."""
    return np.interp(predicted, scale["predicted"], scale["error"]) if scale else np.ones(len(predicted))


def _quantile(rows: pd.DataFrame, scores: NDArray[np.float64], level: float) -> Entry:
    subjects = rows["subject"].to_numpy()
    quantile = subject_quantile(scores, subjects, level)
    return {"subjects": int(rows["subject"].nunique()), "rows": len(rows), "quantile": quantile}


def probabilities(rows: pd.DataFrame) -> NDArray[np.float64]:
    """The probabilities (N, C) of rows of one target, without the columns beyond its last class."""
    columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
    return rows[columns].to_numpy(dtype=np.float64)


def interval(predicted: NDArray[np.float64], entry: Entry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends (N,) of the intervals of predicted numbers, clipped to the range; NaN where there is none."""
    bands = entry.get("bands") or [{"upper": None, "quantile": entry["quantile"]}]
    unit, lower = _expected_error(predicted, entry.get("scale")), -np.inf
    low, high = np.full(len(predicted), np.inf), np.full(len(predicted), -np.inf)
    for band in bands:
        half = unit * (np.nan if band["quantile"] is None else float(band["quantile"]))
        upper = np.inf if band["upper"] is None else float(band["upper"])
        ends = np.maximum(predicted - half, lower), np.minimum(predicted + half, upper)
        inside = ~(ends[0] > ends[1])  # also where there is no quantile
        low, high = np.where(inside, np.minimum(low, ends[0]), low), np.where(inside, np.maximum(high, ends[1]), high)
        lower = upper
    clipped = np.clip(np.stack([low, high]), *entry["range"])
    return clipped[0], clipped[1]


def members(rows: pd.DataFrame, entry: Entry) -> NDArray[np.bool_]:
    """Whether each class belongs to the set of each row, (N, C)."""
    limits = [
        np.inf if calibration["quantile"] is None else calibration["quantile"] + ROUNDING
        for calibration in entry["classes"]
    ]
    p = rows[[f"p{number}" for number in range(len(limits))]].to_numpy(dtype=np.float64)
    missing = 1 - p - np.array(limits)  # above 0 where a class does not fit
    inside = missing <= 0
    none = np.flatnonzero(~inside.any(axis=1))
    inside[none[:, None], np.argsort(missing[none], axis=1, kind="stable")[:, :2]] = True
    number = np.arange(len(limits))
    inside |= number == rows["y_pred"].to_numpy(dtype=float)[:, None]
    if by_form(str(rows["kind"].iloc[0]), {"number": False, "classes": False, "ordinal": True}):
        first, last = inside.argmax(axis=1), inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
        inside |= (number >= first[:, None]) & (number <= last[:, None])
    inside[np.isnan(p).any(axis=1)] = False
    return inside


def with_sets(rows: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    """Rows outside the calibration, such as new cases, with the columns `low`, `high` and `set`.

    `low` and `high` are floats, NaN for classes and where there is no interval; `set` has the numbers of the classes as
    text, such as `0 2`, and is empty for numbers. `record` comes from `fit`; rows without an entry in it have neither.
    """
    rows = rows.reset_index(drop=True)
    low, high = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    sets = np.full(len(rows), "", dtype=object)
    for (model, target), own in rows.groupby(["model", "target"], sort=False):
        entry = record.get("learners", {}).get(str(model), {}).get(str(target))
        if entry is None:
            continue
        at = own.index.to_numpy()
        if "classes" in entry:
            sets[at] = [" ".join(map(str, np.flatnonzero(inside))) for inside in members(own, entry)]
        else:
            low[at], high[at] = interval(own["y_pred"].to_numpy(dtype=float), entry)
    return rows.assign(low=low, high=high, set=sets)


def set_names(text: str, classes: Sequence[str]) -> str:
    """The classes of a set by name.

    >>> set_names("0 2", ["healthy", "mild", "ill"])
    'healthy | ill'
    """
    return " | ".join(classes[int(number)] for number in text.split())
