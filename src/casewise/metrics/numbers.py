"""Metrics of numbers as functions of sums over cases; a resample of subjects is a weighted sum of their sums.

Sources: Lin 1989 (concordance correlation coefficient, with the 1/n variances); Shrout and Fleiss 1979, case 2
(ICC(2,1), two-way random effects, absolute agreement, one rater); Bland and Altman 1986 (limits: mean difference
± 1.96 sd) and 1999 (proportional bias: the slope of the difference on the mean).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from casewise.metrics.registry import metric_of, metrics_of


def moments(truth: np.ndarray, predicted: np.ndarray, *, centre: float = 0.0) -> np.ndarray:
    """The terms of each pair (x, y), (..., 8): 1, x, y, x², y², xy, |y − x|, (y − x)²; metrics use sums over cases.

    Metrics do not change if both values are shifted by the same amount. `centre`, a typical reference value, is
    subtracted from both to keep precision with a large mean. A pair with a NaN counts as absent.
    """
    x, y = np.broadcast_arrays(np.asarray(truth, dtype=float) - centre, np.asarray(predicted, dtype=float) - centre)
    present = ~(np.isnan(x) | np.isnan(y))
    x, y = np.where(present, x, 0.0), np.where(present, y, 0.0)
    d = y - x
    return np.stack([present.astype(float), x, y, x * x, y * y, x * y, np.abs(d), d * d], axis=-1)


class NumberSums:
    """Moments for the metrics of numbers: x is the reference, y the prediction, both in the target's units.

    Attributes:
        n: number of cases; this and all others have the shape of the sums without their last axis.
        mean_x: mean of x; `mean_y` of y.
        var_x: variance of x over n, 0 where it is below rounding; `var_y` of y.
        covariance: of x and y, over n.
        bias: mean of y − x.

    Args:
        sums: (..., 8) sums over cases of what `moments` returns, for each resample and learner.
    """

    def __init__(self, sums: np.ndarray) -> None:
        self.n, self.x, self.y, self.xx, self.yy, self.xy, self.absolute, self.squared = np.moveaxis(
            np.asarray(sums, dtype=float), -1, 0
        )
        self.mean_x, self.mean_y = self.x / self.n, self.y / self.n
        # a variance below the rounding of its terms counts as zero
        rounding = 1e-12 * (self.xx + self.yy) / self.n
        var_x, var_y = self.xx / self.n - self.mean_x**2, self.yy / self.n - self.mean_y**2
        self.var_x = np.where(var_x <= rounding, 0.0, var_x)
        self.var_y = np.where(var_y <= rounding, 0.0, var_y)
        self.covariance = self.xy / self.n - self.mean_x * self.mean_y
        self.bias = self.mean_y - self.mean_x
        self.mean_absolute_error = self.absolute / self.n
        self.mean_squared_error = self.squared / self.n

    @cached_property
    def residual(self) -> np.ndarray:
        """The residual mean square of two raters."""
        return np.asarray(np.maximum(self.squared - self.n * self.bias**2, 0.0) / 2 / (self.n - 1))

    @property
    def half_limits(self) -> np.ndarray:
        """1.96 standard deviations of the differences."""
        return np.asarray(1.96 * np.sqrt(2 * self.residual))

    @property
    def correlation(self) -> np.ndarray:
        """Pearson's; undefined unless truths and predictions vary."""
        pcc = np.clip(self.covariance / np.sqrt(self.var_x * self.var_y), -1.0, 1.0)
        return np.where((self.var_x > 0) & (self.var_y > 0), pcc, np.nan)

    @property
    def concordance(self) -> np.ndarray:
        """Lin's; undefined unless truths vary, 0 for constant predictions."""
        ccc = 1.0 - self.mean_squared_error / (self.var_x + self.var_y + self.bias**2)
        return np.where(self.var_x > 0, np.where(self.var_y > 0, ccc, 0.0), np.nan)

    @property
    def intraclass_correlation(self) -> np.ndarray:
        """ICC(2,1) from the two-way mean squares; undefined unless truths vary."""
        n = self.n
        between = n / 2 * (self.var_x + self.var_y + 2 * self.covariance) / (n - 1)
        raters = n * self.bias**2 / 2
        icc = (between - self.residual) / (between + self.residual + 2 * (raters - self.residual) / n)
        return np.where(self.var_x > 0, icc, np.nan)

    @property
    def slope_of_differences(self) -> np.ndarray:
        """The least-squares slope of the difference on the mean of both; undefined unless the means vary."""
        var_mean = (self.var_x + self.var_y + 2 * self.covariance) / 4
        varying = var_mean > 1e-12 * (self.xx + self.yy) / self.n
        return np.where(varying, (self.var_y - self.var_x) / 2 / np.where(varying, var_mean, 1.0), np.nan)


def number_metrics(sums: np.ndarray, kind: str = "regression") -> dict[str, np.ndarray]:
    """Return every metric of a kind of number from sums (..., 8); NaN where it is undefined.

    >>> truth, predicted = np.array([0., 1., 2., 3.]), np.array([1., 1., 3., 3.])
    >>> round(float(number_metrics(moments(truth, predicted).sum(axis=0))["ccc"]), 3)
    0.8
    """
    with np.errstate(all="ignore"):
        totals = NumberSums(sums)
        return {
            metric.name: np.where(totals.n >= metric.fewest_cases, metric.function(totals), np.nan)
            for metric in metrics_of(kind)
        }


def reason(name: str, sums: np.ndarray) -> str:
    """Return why a metric of these sums, (8,), is undefined."""
    count = int(sums[0])
    fewest = metric_of(name).fewest_cases
    if count < fewest:
        return f"{count} values; {fewest} are needed"
    if name == "proportional_bias":
        return "the means of true and predicted values are all the same"
    x, xx, yy = sums[1], sums[3], sums[4]
    constant = xx / count - (x / count) ** 2 <= 1e-12 * (xx + yy) / count
    return f"the {'true' if constant else 'predicted'} values are all the same"


def sum_by_subject(terms: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Add terms (N, ...) up by subject: (subjects, ...), the subjects in sorted order.

    >>> sum_by_subject(np.array([1., 2., 4.]), np.array(["b", "a", "b"]))
    array([2., 5.])
    """
    names, codes = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    if not len(names):
        return np.zeros((0, *terms.shape[1:]))
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names)))
    return np.asarray(np.add.reduceat(terms[order], starts, axis=0))
