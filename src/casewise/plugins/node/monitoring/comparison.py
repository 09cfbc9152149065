"""How two samples of a series differ: population stability index, Kolmogorov and Smirnov, and the G-test of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, ks_2samp, power_divergence

from casewise.inference.drift import Quantiles, shares_below
from casewise.plugins.node.monitoring.sequential import Floats


@dataclass(frozen=True)
class Comparison:
    """How two samples differ.

    Attributes:
        psi: the population stability index.
        by_chance: the index that one in twenty samples of the same distribution exceeds.
        distance: the Kolmogorov-Smirnov distance; for classes None.
        p: of the G-test of classes, for one look, not for many; for numbers None.
    """

    psi: float
    by_chance: float
    distance: float | None
    p: float | None


def stability_index(expected: Floats, observed: Floats) -> float:
    """The population stability index of two vectors of counts (B,): Σ (o − e) · ln(o / e) over the shares.

    Half a study is added to each count, so that an empty class does not make it infinite.

    >>> round(stability_index(np.array([900.0, 100.0]), np.array([800.0, 200.0])), 3)
    0.081
    """
    e, o = ((counts + 0.5) / (counts + 0.5).sum() for counts in (expected, observed))
    return float(((o - e) * np.log(o / e)).sum())


def _index_by_chance(bins: int, first: float, second: float) -> float:
    """The stability index that one in twenty pairs of samples of these sizes exceeds without a change.

    It is chi-squared with bins - 1 degrees of freedom times 1/n + 1/m (Yurdakul, "Statistical properties of population
    stability index", 2018).

    >>> round(_index_by_chance(10, 200, 200), 3)
    0.169
    """
    return float(chi2.ppf(0.95, max(bins - 1, 1)) * (1 / max(first, 1) + 1 / max(second, 1)))


def compared(first: Floats, second: Floats) -> Comparison | None:
    """Two samples of numbers, in tenths of the first; None if one is empty."""
    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    if not len(first) or not len(second):
        return None
    edges = np.unique(np.quantile(first, np.linspace(0.1, 0.9, 9)))
    counts = [_binned(values, edges) for values in (first, second)]
    distance = float(ks_2samp(first, second, method="asymp").statistic)
    chance = _index_by_chance(len(edges) + 1, len(first), len(second))
    return Comparison(stability_index(*counts), chance, distance, None)


def _binned(values: Floats, edges: Floats) -> Floats:
    """(B + 1,) counts of values between edges (B,)."""
    return np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1).astype(float)


def compared_classes(first: Mapping[str, int], second: Mapping[str, int]) -> Comparison | None:
    """Two samples of classes by their counts, with the G-test; None if one is empty."""
    names = [name for name in dict.fromkeys([*first, *second]) if first.get(name, 0) + second.get(name, 0)]
    counts = np.array([[sample.get(name, 0) for name in names] for sample in (first, second)], dtype=float)
    if not counts.size or not counts.sum(axis=1).all():
        return None
    first_total, second_total = counts.sum(axis=1).tolist()
    chance, p = _index_by_chance(len(names), first_total, second_total), None
    if len(names) > 1:
        expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
        p = float(power_divergence(counts, expected, ddof=len(names), axis=None, lambda_="log-likelihood").pvalue)
    return Comparison(stability_index(*counts), chance, None, p)


def compared_with_quantiles(
    quantiles: Quantiles, subjects: int, values: Floats, cases: Sequence[str]
) -> Comparison | None:
    """The numbers of images (M,) against the quantiles of the training, each of the cases (M,) weighing the same."""
    finite = np.isfinite(values)
    values, own = values[finite], np.asarray(cases)[finite]
    if not len(values):
        return None
    points, shares = (np.array(each, dtype=float) for each in quantiles)
    below, count = shares_below(values, own, points), len(np.unique(own))
    chosen = np.unique(np.searchsorted(shares, np.linspace(0.1, 0.9, 9)).clip(0, len(points) - 1))
    expected, observed = (
        np.diff(each[chosen], prepend=0, append=1) * n for each, n in ((shares, subjects), (below, count))
    )
    chance = _index_by_chance(len(expected), subjects, count)
    return Comparison(stability_index(expected, observed), chance, float(np.abs(below - shares).max()), None)
