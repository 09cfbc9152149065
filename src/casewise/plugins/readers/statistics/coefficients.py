"""Coefficients of agreement as functions of tables of values, and the number of readers for a wanted precision.

Sources: Shrout and Fleiss 1979, McGraw and Wong 1996 (ICC(2,1) of absolute agreement, ICC(3,1) of consistency); Fleiss
1971; Krippendorff 2004 (alpha with missing values); Bland and Altman 2007 (limits of agreement with several cases of a
subject, whose true values differ); Spearman 1910 and Brown 1910 (the mean of several readers).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

NUMBERS, GRADES, CLASSES = "regression", "ordinal", "classification"


@dataclass(frozen=True)
class _MeanSquares:
    """Two-way analysis of variance of n cases by k readers: mean squares of cases, of readers, and residual."""

    n: int
    k: int
    cases: float
    readers: float
    residual: float

    @property
    def error_variance(self) -> float:
        """The variance of one reading around the mean of all readers: of readers and residual."""
        return max(self.readers - self.residual, 0.0) / self.n + self.residual

    @property
    def agreement(self) -> float:
        """ICC(2,1)."""
        total = self.cases + (self.k - 1) * self.residual + self.k / self.n * (self.readers - self.residual)
        return (self.cases - self.residual) / total if total > 0 else np.nan

    @property
    def consistency(self) -> float:
        """ICC(3,1)."""
        total = self.cases + (self.k - 1) * self.residual
        return (self.cases - self.residual) / total if total > 0 else np.nan


def mean_squares(values: np.ndarray) -> _MeanSquares:
    """The analysis of variance of a complete table (n, k); NaN where fewer than two cases or readers.

    >>> table = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7.]])
    >>> squares = mean_squares(table)
    >>> round(squares.agreement, 2), round(squares.consistency, 2)
    (0.29, 0.71)
    """
    n, k = values.shape
    if n < 2 or k < 2:
        return _MeanSquares(n, k, np.nan, np.nan, np.nan)
    centred = values - values.mean()
    of_cases, of_readers = centred.mean(axis=1), centred.mean(axis=0)
    residual = centred - of_cases[:, None] - of_readers
    cases, readers = k * (of_cases**2).sum() / (n - 1), n * (of_readers**2).sum() / (k - 1)
    # differences below rounding are none
    rounding = 1e-12 * max(float((values**2).mean()), 1e-300)
    rest = float((residual**2).sum()) / ((n - 1) * (k - 1))
    return _MeanSquares(n, k, float(cases), float(readers), rest if rest > rounding else 0.0)


def krippendorff(values: np.ndarray, kind: str) -> float:
    """Krippendorff's alpha of values (N, R), NaN where missing; NaN if all values are the same.

    Differences are nominal for classes, ordinal for grades, and squared for numbers.

    >>> round(krippendorff(np.array([[1, 1], [2, 2], [3, 2], [3, 3.]]), "classification"), 3)
    0.667
    """
    pairable = values[(~np.isnan(values)).sum(axis=1) > 1]
    within, total, _ = _disagreement(_coordinates(pairable, kind))
    return 1 - within / total if total > 1e-12 else np.nan


def fleiss(values: np.ndarray) -> float:
    """Fleiss' kappa of a complete table of classes (n, k); NaN if all values are the same."""
    within, total, n = _disagreement(_coordinates(values, CLASSES))
    return 1 - within / total * n / (n - 1) if total > 1e-12 else np.nan


def _coordinates(values: np.ndarray, kind: str) -> np.ndarray:
    """(N, R, D): points whose squared distances are in proportion to the differences of a kind; NaN where missing."""
    if kind == CLASSES:
        of_class = (values[..., None] == np.unique(values[~np.isnan(values)])).astype(float)
        return np.where(np.isnan(values)[..., None], np.nan, of_class)
    if kind == GRADES:
        # the mean rank of each grade
        grades, counts = np.unique(values[~np.isnan(values)], return_counts=True)
        ranks = np.append(np.cumsum(counts) - counts / 2, np.nan)
        return ranks[np.where(np.isnan(values), -1, np.searchsorted(grades, values))][..., None]
    return values[..., None]


def _disagreement(points: np.ndarray) -> tuple[float, float, int]:
    """The mean squared distance of two values of one case, of any two values, and the number of values."""
    if not points.size:
        return np.nan, np.nan, 0
    present = ~np.isnan(points[..., 0])
    scale = np.nanstd(points) or 1.0
    x = np.where(present[..., None], (points - np.nanmean(points, axis=(0, 1))) / scale, 0.0)
    m, n = present.sum(axis=1), int(present.sum())
    squares = (x**2).sum(axis=(1, 2))
    within = (2 * (m * squares - (x.sum(axis=1) ** 2).sum(axis=-1)) / (m - 1)).sum() / n
    total = 2 * (n * squares.sum() - (x.sum(axis=(0, 1)) ** 2).sum()) / (n * (n - 1))
    return float(within), float(total), n


def limits(differences: np.ndarray, subjects: np.ndarray) -> tuple[float, float, float]:
    """The bias and the limits of agreement, where subjects have several cases whose true values differ.

    The variance is the sum of that between and within subjects, from the one-way analysis of variance.

    >>> [round(float(x), 2) for x in limits(np.array([1.0, 3.0, 2.0]), np.array(["a", "b", "c"]))]
    [2.0, 0.04, 3.96]
    """
    bias, n = differences.mean(), len(differences)
    _, codes, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    means = np.bincount(codes, differences) / counts
    k = len(counts)
    if k < 2:
        return float(bias), np.nan, np.nan
    between = (counts * (means - bias) ** 2).sum() / (k - 1)
    if n == k:
        variance = between
    else:
        within = ((differences - means[codes]) ** 2).sum() / (n - k)
        cases = (n**2 - (counts**2).sum()) / ((k - 1) * n)
        variance = max(between - within, 0.0) / cases + within
    half = 1.96 * np.sqrt(variance)
    return float(bias), float(bias - half), float(bias + half)


def reliability(icc: float, readers: int) -> float:
    """The reliability of the mean of several readers by the formula of Spearman and Brown; they are interchangeable.

    Readers without agreement have no reliable mean, however many they are: 0 where the ICC is not positive.

    >>> round(reliability(0.6, 3), 3), reliability(-1.25, 2)
    (0.818, 0.0)
    """
    return readers * icc / (1 + (readers - 1) * icc) if icc > 0 else 0.0


def readers_for(icc: float, wanted: float) -> int | None:
    """How many readers have a mean of the wanted reliability; None if no number of them has.

    >>> readers_for(0.6, 0.9), readers_for(0.95, 0.9), readers_for(-0.1, 0.9)
    (6, 1, None)
    """
    if not icc > 0:
        return None
    return 1 if icc >= wanted else ceil(round(wanted * (1 - icc) / (icc * (1 - wanted)), 9))


def readers_for_half_width(error: float, wanted: float) -> int:
    """The number of readers whose mean lies within ± `wanted` of the mean of all readers (95 %).

    Args:
        error: the standard deviation of one reader's readings around the mean of all readers, of readers drawn at
            random and with independent errors.

    >>> readers_for_half_width(1.0, 1.0)
    4
    """
    return max(1, ceil(round((1.96 * error / wanted) ** 2, 9)))
