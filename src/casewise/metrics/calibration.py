"""Calibration: reliability and its error, temperature scaling, and calibration lines and curves for many resamples.

Sources: Guo et al. 2017 (expected calibration error; one temperature); Cox 1958 and Van Calster et al. 2019 (slope of
logistic recalibration; intercept with the slope fixed at 1); Austin and Steyerberg 2014 (curve by local regression);
Cleveland 1979 (tricube weights of the nearest neighbours).
"""

from __future__ import annotations

import numpy as np

from casewise.metrics.numbers import sum_by_subject

BINS = 15
# as scikit-learn: a probability of 0 costs -log(2.2e-16), not infinity
SMALLEST = float(np.finfo(float).eps)
TEMPERATURES = (0.05, 20.0)


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The temperature T from 0.05 to 20 for which softmax(log p / T) has the smallest log loss.

    A temperature above 1 makes probabilities less confident. `probabilities` are (N, K), `truth` (N,) numbers of
    classes. NaN without rows.

    >>> truth = np.array([0, 0, 0, 1])
    >>> sure = np.tile([0.9, 0.1], (4, 1))  # correct in three of four cases: log 3 = log 9 / T
    >>> round(fit_temperature(sure, truth), 4)
    2.0
    """
    from scipy.optimize import minimize_scalar

    if not len(truth):
        return float("nan")
    logs = np.log(np.maximum(probabilities, SMALLEST))
    logs -= logs.max(axis=1, keepdims=True)
    true = np.take_along_axis(logs, np.asarray(truth, dtype=int)[:, None], axis=1)[:, 0]

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.log(np.exp(logs * scale).sum(axis=1)).mean() - true.mean() * scale)

    optimum = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-9})
    # if all temperatures are equally good, none is applied
    return float(np.exp(optimum.x)) if optimum.fun < loss(0.0) - 1e-12 else 1.0


def at_bound(temperature: float | None) -> bool:
    """Whether a temperature is the lowest or the highest that is tried, so that a better one may lie beyond.

    >>> at_bound(0.05), at_bound(1.3), at_bound(None)
    (True, False, False)
    """
    return temperature is not None and not TEMPERATURES[0] * 1.001 < temperature < TEMPERATURES[1] / 1.001


def scaled(probabilities: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """softmax(log p / T) of probabilities (..., K), one temperature for each row (...).

    >>> scaled(np.array([[0.9, 0.1]]), np.array([2.0])).round(6).tolist()
    [[0.75, 0.25]]
    """
    logs = np.log(np.maximum(probabilities, SMALLEST)) / np.asarray(temperature, dtype=float)[..., None]
    shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def _bin_of(confidence: np.ndarray) -> np.ndarray:
    """The number of the bin of each confidence, of 15 bins of equal width that include their upper bound.

    >>> _bin_of(np.array([0.0, 0.06, 1 / 15, 0.07, 1.0])).tolist()
    [0, 0, 0, 1, 14]
    """
    # rounding must not move 9/15 beyond the bound 0.6
    return (np.ceil(np.nan_to_num(confidence) * BINS - 1e-9).astype(int) - 1).clip(0, BINS - 1)


def gaps(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Confidence minus correctness of each row, in the column of its bin: (..., K) -> (..., 15).

    The expected calibration error is the sum over bins of |sum of gaps| divided by the number of rows. It refers to the
    most probable class, also for ordinal classes. NaN probabilities give NaN gaps.
    """
    top = np.take_along_axis(probabilities, probabilities.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    gap = top - (probabilities.argmax(axis=-1) == truth)
    return np.where(np.isnan(gap)[..., None], np.nan, np.eye(BINS)[_bin_of(top)] * np.nan_to_num(gap)[..., None])


def reliability(probabilities: np.ndarray, truth: np.ndarray) -> list[tuple[float, float, int, float, float]]:
    """For each non-empty bin of confidence its bounds, number of rows, mean confidence and accuracy.

    >>> bins = reliability(np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]]), np.array([0, 1, 1]))
    >>> [(round(low, 2), *figures) for low, _, *figures in bins]
    [(0.67, 1, 0.7, 1.0), (0.87, 2, 0.9, 0.5)]
    """
    if np.isnan(probabilities).any():
        return []
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins, result = _bin_of(top), []
    for number in np.unique(bins).tolist():
        rows = bins == number
        bounds = number / BINS, (number + 1) / BINS
        result.append((*bounds, int(rows.sum()), float(top[rows].mean()), float(right[rows].mean())))
    return result


# Probabilities of 0 and 1 count as this far from them.
CLIP = 1e-6
# A slope beyond this, or a fit that does not converge, means that the class is separated from the others.
STEEPEST = 100.0
ITERATIONS, CONVERGED = 40, 1e-8
SPAN = 0.75
# size of an intermediate array that fits into the cache of a processor
_AT_ONCE = 2**19


def logit(probability: np.ndarray) -> np.ndarray:
    """The logarithm of the odds.

    >>> logit(np.array([0.5, 1.0])).round(1).tolist()
    [0.0, 13.8]
    """
    p = np.clip(probability, CLIP, 1 - CLIP)
    return np.asarray(np.log(p / (1 - p)))


def logistic(
    x: np.ndarray, of_class: np.ndarray, subject: np.ndarray, counts: np.ndarray, *, sloped: bool
) -> np.ndarray:
    """The slope of a logistic regression of the class on `x` (N,), in each of R resamples, (R,).

    If it is not `sloped`, the intercept of that regression with the slope fixed at 1. `subject` (N,) is the number of
    each case's subject and `counts` (R, S) how often each is drawn. NaN where the class or every other one is missing,
    and for a slope where `x` is constant or separates them.

    >>> x, y = np.array([-1.0, -1, -1, 1, 1, 1]), np.array([0, 0, 1, 0, 1, 1])
    >>> round(float(logistic(x, y, np.arange(6), np.ones((1, 6)), sloped=True)[0]), 4)  # log 2, the odds 1:2 and 2:1
    0.6931
    >>> round(float(logistic(np.zeros(4), np.arange(4) < 3, np.arange(4), np.ones((1, 4)), sloped=False)[0]), 4)
    1.0986
    """
    y, step = np.asarray(of_class, dtype=float), max(1, _AT_ONCE // max(len(x), 1))
    blocks = (counts[first : first + step].take(subject, axis=1) for first in range(0, len(counts), step))
    return np.concatenate([_newton(x, y, weights, sloped=sloped) for weights in blocks])


def _newton(x: np.ndarray, y: np.ndarray, weights: np.ndarray, *, sloped: bool) -> np.ndarray:
    """Newton's method for all resamples of a block together."""
    total = weights.sum(axis=1)
    with np.errstate(all="ignore"):
        share = weights @ y / total
        mean = weights @ x / total
        variance = weights @ (x * x) / total - mean**2
        defined = (share > 0) & (share < 1) & ((variance > 1e-12) | (not sloped))
        a, b = np.zeros(len(weights)), np.full(len(weights), 0.0 if sloped else 1.0)
        if sloped:
            a = np.log(share / (1 - share))
        converged = np.zeros(len(weights), dtype=bool)
        low, high = np.full((2, len(weights)), [[-2 * STEEPEST], [2 * STEEPEST]])
        for _ in range(ITERATIONS):
            p = 1 / (1 + np.exp(-np.clip(a[:, None] + b[:, None] * x, -500, 500)))
            residual, curvature = weights * (y - p), weights * p * (1 - p)
            g0, h00 = residual.sum(axis=1), curvature.sum(axis=1)
            if sloped:
                g1, h01, h11 = residual @ x, curvature @ x, curvature @ (x * x)
                determinant = h00 * h11 - h01**2
                da, db = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
            else:
                # the sum falls with the intercept: a step out of the interval that holds the root is half of it
                low, high = np.where(g0 > 0, a, low), np.where(g0 > 0, high, a)
                inside = (a + g0 / h00 > low) & (a + g0 / h00 < high)
                inside |= np.abs(g0 / h00) < CONVERGED * (1 + np.abs(a))
                da, db = np.where(inside, g0 / h00, (low + high) / 2 - a), np.zeros(len(weights))
            # a step of Newton's method can go too far where few probabilities are near one half
            scale = np.minimum(1.0, 5.0 / np.maximum(np.abs(da), np.abs(db))) if sloped else 1.0
            a, b = a + scale * da, b + scale * db
            converged = (np.abs(da) < CONVERGED * (1 + np.abs(a))) & (np.abs(db) < CONVERGED * (1 + np.abs(b)))
            if (converged | ~defined | ~np.isfinite(a + b)).all():
                break
        value = b if sloped else a
        return np.where(defined & converged & (np.abs(value) < STEEPEST), value, np.nan)


def line(x: np.ndarray, y: np.ndarray, subjects: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intercept and slope of the least-squares line of `y` on `x` in each resample, (R,) each; NaN if `x` is constant.

    >>> line(np.array([0.0, 1, 2]), np.array([1.0, 3, 5]), np.array(list("abc")), np.ones((1, 3)))
    (array([1.]), array([2.]))
    """
    centre = x.mean() if len(x) else 0.0
    d = x - centre
    sums = counts @ sum_by_subject(np.stack([np.ones_like(d), d, y, d * d, d * y], axis=-1), subjects)
    n, sx, sy, sxx, sxy = np.moveaxis(sums, -1, 0)
    with np.errstate(all="ignore"):
        variance = sxx / n - (sx / n) ** 2
        slope = np.where(variance > 1e-12, (sxy / n - sx * sy / n**2) / variance, np.nan)
        return sy / n - slope * (sx / n + centre), slope


def smoothed(x: np.ndarray, y: np.ndarray, subjects: np.ndarray, counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Local linear regression of `y` on `x` at each point of `grid`, in each resample: (R, G).

    The neighbourhood of a point are the three quarters of all cases that are nearest to it, the same in all resamples.
    If all neighbours have the same `x`, the value is their mean.

    >>> x = np.linspace(0, 1, 21)
    >>> smoothed(x, 2 * x, np.arange(21).astype(str), np.ones((1, 21)), np.array([0.25, 0.5])).round(6).tolist()
    [[0.5, 1.0]]
    """
    distance = np.abs(x[:, None] - grid)
    nearest = max(2, int(np.ceil(SPAN * len(x))))
    width = np.partition(distance, min(nearest, len(x)) - 1, axis=0)[min(nearest, len(x)) - 1]
    weight = (1 - np.minimum(distance / np.maximum(width * 1.0001, 1e-9), 1.0) ** 3) ** 3
    d = x[:, None] - grid
    terms = np.stack([weight, weight * d, weight * d * d, weight * y[:, None], weight * d * y[:, None]], axis=-1)
    sums = sum_by_subject(terms, subjects)
    flat = counts @ sums.reshape(len(sums), -1)
    w, wd, wdd, wy, wdy = np.moveaxis(flat.reshape(len(counts), len(grid), 5), -1, 0)
    with np.errstate(all="ignore"):
        determinant = w * wdd - wd**2
        local = (wdd * wy - wd * wdy) / determinant
        return np.where(determinant > 1e-9 * w * w * np.maximum(width, 1e-9) ** 2, local, wy / w)
