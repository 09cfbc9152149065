"""Metrics of agreement as functions of sums over cases, so that a resample of subjects is a weighted sum of sums.

Sources: Lin 1989 (concordance correlation coefficient, with the 1/n variances); Shrout and Fleiss 1979, case 2
(ICC(2,1), two-way random effects, absolute agreement, one rater); Bland and Altman 1986 (limits: mean difference
± 1.96 sd).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

SUMS = ("n", "x", "y", "xx", "yy", "xy", "abs", "dd")


@dataclass(frozen=True)
class Metric:
    """A metric's full name, the direction that is better (None: neither) and the fewest pairs it takes."""

    title: str
    better: Literal["low", "high"] | None
    least: int


METRICS: Mapping[str, Metric] = {
    "mae": Metric("mean absolute error", "low", 1),
    "mse": Metric("mean squared error", "low", 1),
    "pcc": Metric("Pearson's correlation coefficient", "high", 3),
    "ccc": Metric("Lin's concordance correlation coefficient", "high", 3),
    "icc": Metric("intraclass correlation, ICC(2,1)", "high", 3),
    "bias": Metric("mean difference, predicted minus true", None, 1),
    "loa_low": Metric("lower Bland-Altman limit of agreement", None, 3),
    "loa_high": Metric("upper Bland-Altman limit of agreement", None, 3),
}


def moments(truth: np.ndarray, predicted: np.ndarray, *, centre: float = 0.0) -> np.ndarray:
    """Return the sums' terms of each pair, (..., 8) in the order of `SUMS`; add them up over any cases.

    Every metric here stays the same when both sides are moved by the same amount; `centre`, a value amid the truths, is
    taken from both so that no digits are lost to a large mean. A pair with a NaN counts as absent.
    """
    x, y = np.broadcast_arrays(np.asarray(truth, dtype=float) - centre, np.asarray(predicted, dtype=float) - centre)
    there = ~(np.isnan(x) | np.isnan(y))
    x, y = np.where(there, x, 0.0), np.where(there, y, 0.0)
    d = y - x
    return np.stack([there.astype(float), x, y, x * x, y * y, x * y, np.abs(d), d * d], axis=-1)


def metrics_of(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric from sums (..., 8); NaN where it is undefined.

    PCC takes truths and predictions that vary; CCC and ICC take truths that vary (constant predictions: a CCC of 0).

    >>> truth, predicted = np.array([0., 1., 2., 3.]), np.array([1., 1., 3., 3.])
    >>> {k: round(float(v), 3) for k, v in metrics_of(moments(truth, predicted).sum(axis=0)).items()}["ccc"]
    0.8
    """
    n, x, y, xx, yy, xy, absolute, dd = np.moveaxis(np.asarray(sums, dtype=float), -1, 0)
    with np.errstate(all="ignore"):
        mean_x, mean_y = x / n, y / n
        # a variance below the rounding of its own terms is none
        rounding = 1e-12 * (xx + yy) / n
        var_x, var_y = xx / n - mean_x**2, yy / n - mean_y**2
        var_x = np.where(var_x <= rounding, 0.0, var_x)
        var_y = np.where(var_y <= rounding, 0.0, var_y)
        cov = xy / n - mean_x * mean_y
        bias, mse = mean_y - mean_x, dd / n
        enough, varies = n >= 3, var_x > 0
        pcc = np.clip(cov / np.sqrt(var_x * var_y), -1.0, 1.0)
        ccc = 1.0 - mse / (var_x + var_y + bias**2)
        # two-way mean squares of two raters: between cases, between raters, residual
        between = n / 2 * (var_x + var_y + 2 * cov) / (n - 1)
        raters = n * bias**2 / 2
        residual = np.maximum(dd - n * bias**2, 0.0) / 2 / (n - 1)
        icc = (between - residual) / (between + residual + 2 * (raters - residual) / n)
        half = 1.96 * np.sqrt(2 * residual)
        nan = np.nan
        return {
            "mae": np.where(n >= 1, absolute / n, nan),
            "mse": np.where(n >= 1, mse, nan),
            "pcc": np.where(enough & varies & (var_y > 0), pcc, nan),
            "ccc": np.where(enough & varies, np.where(var_y > 0, ccc, 0.0), nan),
            "icc": np.where(enough & varies, icc, nan),
            "bias": np.where(n >= 1, bias, nan),
            "loa_low": np.where(enough, bias - half, nan),
            "loa_high": np.where(enough, bias + half, nan),
        }


def reason(name: str, sums: np.ndarray) -> str:
    """Say why a metric of these sums, (8,), is undefined."""
    count = int(sums[0])
    if count < METRICS[name].least:
        return f"{count} values; {METRICS[name].least} are needed"
    x, xx, yy = sums[1], sums[3], sums[4]
    constant = xx / count - (x / count) ** 2 <= 1e-12 * (xx + yy) / count
    return f"the {'true' if constant else 'predicted'} values are all the same"


def value(name: str, truth: np.ndarray, predicted: np.ndarray) -> float | None:
    """Return one metric of two arrays, or None where it is undefined.

    >>> value("mae", np.array([0., 1., 2.]), np.array([0., 1., 5.]))
    1.0
    >>> value("pcc", np.array([2., 2., 2.]), np.array([0., 1., 5.])) is None
    True
    """
    truth = np.asarray(truth, dtype=float)
    there = truth[~np.isnan(truth)]
    centre = float(there.mean()) if there.size else 0.0
    result = float(metrics_of(moments(truth, predicted, centre=centre).sum(axis=0))[name])
    return None if np.isnan(result) else result
