"""Calibration of probabilities: reliability, its error, and temperature scaling.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (expected calibration error; one temperature).
"""

from __future__ import annotations

from typing import Any

import numpy as np

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
    if temperature is None:
        return False
    return temperature <= TEMPERATURES[0] * 1.001 or temperature >= TEMPERATURES[1] / 1.001


def scaled(probabilities: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """softmax(log p / T) of probabilities (..., K), one temperature for each row (...).

    >>> scaled(np.array([[0.9, 0.1]]), np.array([2.0])).round(6).tolist()
    [[0.75, 0.25]]
    """
    logs = np.log(np.maximum(probabilities, SMALLEST)) / np.asarray(temperature, dtype=float)[..., None]
    shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The number of the bin of each confidence, of 15 bins of equal width that include their upper bound.

    >>> bin_of(np.array([0.0, 0.06, 1 / 15, 0.07, 1.0])).tolist()
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
    return np.where(np.isnan(gap)[..., None], np.nan, np.eye(BINS)[bin_of(top)] * np.nan_to_num(gap)[..., None])


def reliability(probabilities: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """For each non-empty bin of confidence its bounds, number of rows, mean confidence and accuracy.

    >>> bins = reliability(np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7]]), np.array([0, 1, 1]))
    >>> [(round(b["low"], 2), b["n"], b["confidence"], b["accuracy"]) for b in bins]
    [(0.67, 1, 0.7, 1.0), (0.87, 2, 0.9, 0.5)]
    """
    if np.isnan(probabilities).any():
        return []
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = bin_of(top)
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "n": int((bins == number).sum()),
            "confidence": float(top[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
        }
        for number in np.unique(bins).tolist()
    ]
