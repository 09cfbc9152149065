"""Sequential tests of a change: evidence that grows study by study, with a stated rate of false alarms.

Numbers are compared by sequential ranks: the rank of a study among those before it and itself, of the same scanner, is
uniform and independent of all earlier ranks as long as the studies are exchangeable, whatever their distribution
(Gordon and Pollak, "An efficient sequential nonparametric scheme for detecting a change of distribution", Annals of
Statistics 1994; as conformal p values: Vovk, "Testing randomness online", Statistical Science 2021). Its normal score
is therefore exactly normal, and the likelihood ratio of another normal distribution has the expectation 1.

Yes or no, such as a flag, has the likelihood ratio of other odds to the share among the studies before it (the
predictive share of Krichevsky and Trofimov), whose expectation is 1 on average over the shares of Jeffreys' prior.

Likelihood ratios are collected by the procedure of Shiryaev and Roberts, R ← (R + 1 on a new day) · ratio, as an
e-detector (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", New
England Journal of Statistics in Data Science 2023). R minus the number of days is a martingale without a change, so
that the probability that R exceeds `A` within `d` days is at most d / A, however often one looks and however many
studies arrive. The mean over several alternatives keeps this, and probabilities add over series.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, xlogy

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.intp]
DAYS_OF_YEAR = 365.25
# Mean and standard deviation of the alternatives of normal scores, 0 and 1 without a change.
ALTERNATIVES = np.array([(-1.5, 1), (-0.75, 1), (-0.35, 1), (0.35, 1), (0.75, 1), (1.5, 1), (0, 0.5), (0, 2)])
# Alternatives for binary values and for calibration: factors of the odds.
ODDS = np.array([1 / 3, 1 / 1.7, 1.7, 3, 8])
# The first studies of a scanner are not tested: ranks and shares of so few are too coarse.
FEWEST_BEFORE = 20
# The lower limit of an estimated variance, which a few equal scores would make 0.
LEAST_VARIANCE = 0.05


def threshold(series: int, alarms_a_year: float = 1.0) -> float:
    """The logarithm of the evidence at which one of several series that are tested together is said to have changed.

    Together they raise at most `alarms_a_year` false alarms a year on average, however often one looks.

    >>> round(threshold(40), 2)
    9.59
    """
    return math.log(DAYS_OF_YEAR * max(series, 1) / alarms_a_year)


def sequential_scores(values: Floats, groups: Integers, uniforms: Floats) -> Floats:
    """(N,) normal scores of the rank of each value (N,) among those before it and itself in its group (N,).

    Ties are broken by `uniforms` (N,). The first `FEWEST_BEFORE` of a group are NaN: no evidence.

    >>> scores = sequential_scores(np.arange(100.0), np.zeros(100, dtype=int), np.full(100, 0.5))
    >>> bool(np.isnan(scores[:20]).all()), bool((scores[20:] > 1.5).all())
    (True, True)
    """
    scores = np.full(len(values), np.nan)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        below, equal = _before(values[rows])
        ranks = (below + uniforms[rows] * (equal + 1)) / (np.arange(len(rows)) + 1)
        scores[rows[FEWEST_BEFORE:]] = ndtri(ranks.clip(1e-12, 1 - 1e-12))[FEWEST_BEFORE:]
    return scores


def _before(values: Floats) -> tuple[Integers, Integers]:
    """How many of the earlier values are below each value (N,), and how many are equal to it.

    Blocks of twice the width are merged: in each, the values of the left half are before those of the right half.
    """
    size = 1 << max(len(values) - 1, 1).bit_length()
    keys = np.append(values, np.full(size - len(values), np.inf))
    not_above, order, width = np.zeros(size, dtype=np.intp), np.arange(size), 1
    while width < size:
        blocks = order.reshape(-1, 2 * width)
        positions = np.argsort(keys[blocks], axis=1, kind="stable")
        blocks, later = np.take_along_axis(blocks, positions, axis=1), positions >= width
        not_above[blocks[later]] += np.cumsum(~later, axis=1)[later]
        order, width = blocks.ravel(), 2 * width
    equal = pd.Series(values).groupby(values).cumcount().to_numpy(dtype=np.intp)
    return not_above[: len(values)] - equal, equal


def score_ratios(scores: Floats) -> Floats:
    """(N, K) log likelihood ratios of the `ALTERNATIVES` for normal scores (N,); 0 where a score is NaN.

    >>> score_ratios(np.array([np.nan, 0.0]))[:, 0].tolist()
    [0.0, -1.125]
    """
    means, deviations = ALTERNATIVES.T
    z = scores[:, None]
    ratios = -np.log(deviations) - (z - means) ** 2 / (2 * deviations**2) + z**2 / 2
    return np.asarray(np.where(np.isnan(z), 0.0, ratios))


def share_ratios(yes: Floats, groups: Integers) -> Floats:
    """(N, K) log likelihood ratios of the `ODDS` for yes (1) or no (0) (N,), by the share before it in its group."""
    expected = np.full(len(yes), np.nan)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        earlier = np.arange(len(rows))
        share = (np.cumsum(yes[rows]) - yes[rows] + 0.5) / (earlier + 1)
        expected[rows] = np.where(earlier < FEWEST_BEFORE, np.nan, share)
    return odds_ratios(yes, expected)


def odds_ratios(yes: Floats, expected: Floats) -> Floats:
    """(N, K) log likelihood ratios of odds that are `ODDS` times those expected, for yes (1) or no (0) (N,).

    These are the weights of the risk-adjusted CUSUM (Steiner, Cook, Farewell and Treasure, "Monitoring surgical
    performance using risk-adjusted cumulative sum charts", Biostatistics 2000). 0 where the expected probability (N,)
    is NaN.

    >>> odds_ratios(np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(3)[:, 3].tolist()
    [0.405, -0.693]
    """
    p = expected[:, None]
    ratios = np.where(yes[:, None] == 1, np.log(ODDS), 0.0) - np.log1p(p * (ODDS - 1))
    return np.asarray(np.where(np.isnan(p), 0.0, ratios))


def evidence(ratios: Floats, days: Integers) -> tuple[Integers, Floats]:
    """The logarithm of R after each day, from log likelihood ratios (N, K) of studies in the order of days (N,).

    Returns:
        The row of the last study of each day (D,), and the log evidence after it for each alternative (D, K).

    >>> rows, grown = evidence(np.zeros((3, 1)), np.array([1, 1, 2]))
    >>> rows.tolist(), grown[:, 0].round(3).tolist()
    ([1, 2], [0.0, 0.693])
    """
    last = np.flatnonzero(np.diff(days, append=days[-1:] + 1))
    sums = np.cumsum(ratios, axis=0)[last]
    before = np.vstack([np.zeros((1, ratios.shape[1])), sums[:-1]])
    return last, np.asarray(sums + np.logaddexp.accumulate(-before, axis=0))


def mixture(of_alternatives: Floats) -> Floats:
    """(N,) the logarithm of the mean of R (N, K) over the alternatives."""
    return np.asarray(np.logaddexp.reduce(of_alternatives, axis=1) - math.log(of_alternatives.shape[1]))


def full_scores(values: Floats, groups: Integers) -> Floats:
    """(N,) normal scores of the ranks of values (N,) among all of their group (N,).

    >>> full_scores(np.array([3.0, 1.0, 2.0]), np.zeros(3, dtype=int)).round(2).tolist()
    [0.67, -0.67, 0.0]
    """
    ranked = pd.Series(values).groupby(np.asarray(groups))
    return np.asarray(ndtri(ranked.rank() / (ranked.transform("size") + 1)))


def start_of_change(ratios: Floats, row: int) -> tuple[int, int]:
    """The row of the first changed study and the most likely alternative, given an alarm at this row.

    Args:
        ratios: (N, K) log likelihood ratios; studies after the alarm make the estimate better.

    >>> start_of_change(score_ratios(np.repeat([0.0, 1.5], [30, 9])), 35)
    (30, 5)
    """
    sums = np.vstack([np.zeros(ratios.shape[1]), np.cumsum(ratios, axis=0)])
    before, after = sums[: row + 1], sums[row + 1 :]
    alternative = int((after.max(axis=0) - before.min(axis=0)).argmax())
    return int(before[:, alternative].argmin()), alternative


def split(values: Floats, first: int, last: int, *, share: bool) -> int:
    """The number of values (N,) before a change, from `first` to `last`: the maximum of the likelihood.

    Values before and after are normal scores, with a mean and a variance each, or yes (1) and no (0) with two shares.
    Values after `last` make the estimate better.

    >>> split(np.repeat([0.1, 0.9, 0.2, 2.1, 2.9], 4), 1, 19, share=False)
    12
    >>> split(np.repeat([0.0, 1.0], [15, 9]), 1, 20, share=True)
    15
    """
    counts = np.arange(first, last + 1)
    sums, squares = ((np.cumsum(column)[counts - 1], column.sum()) for column in (values, values**2))
    before = _likelihood(counts, sums[0], squares[0], share=share)
    after = _likelihood(len(values) - counts, sums[1] - sums[0], squares[1] - squares[0], share=share)
    return int(counts[(before + after).argmax()])


def _likelihood(counts: Integers, sums: Floats, squares: Floats, *, share: bool) -> Floats:
    """(P,) the largest log likelihood of samples with these sums and sums of squares (P,)."""
    mean = sums / counts
    if share:
        return np.asarray(counts * (xlogy(mean, mean) + xlogy(1 - mean, 1 - mean)))
    return np.asarray(-counts / 2 * np.log(np.maximum(squares / counts - mean**2, LEAST_VARIANCE)))
