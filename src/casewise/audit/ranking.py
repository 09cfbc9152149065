"""Weighted AUROC with ties, and correlation, for thousands of rows at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["auroc", "correlation", "ranked_pairs", "share"]

Floats = NDArray[np.floating[Any]]

# Scores are compared to a millionth of the largest, because equal images give slightly different matrix products.
SCORE_STEPS = 1e6


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """(m,) weighted area under the ROC curve of each row, ties counted half; 0.5 if one side is empty.

    Args:
        scores: (m, n), one row per test; scores that agree to a millionth of the row's largest are ties.
        positive: (m, n) whether an image is positive.
        weights: (n,) above 0.

    >>> auroc(np.array([[0.1, 0.4, 0.4, 0.8]]), np.array([[False, False, True, True]]), np.ones(4))
    array([0.875])
    """
    return share(*ranked_pairs(scores, positive, weights))


def share(correct: Floats, total: Floats) -> Floats:
    """(m,) the share of correctly ranked pairs; 0.5 if there are none."""
    return np.divide(correct, total, out=np.full(len(correct), 0.5), where=total > 0)


def ranked_pairs(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
    """(m,) the weight of correctly ranked pairs of a positive and a negative image, and of all such pairs."""
    largest = np.maximum(np.abs(scores).max(axis=1, keepdims=True), 1e-30)
    keys = np.rint(scores / largest * SCORE_STEPS).astype(np.int64)
    # sorting score, image and side as one integer is several times faster than argsort with indexing
    bits = int(scores.shape[1]).bit_length() + 1
    keys = np.sort((keys << bits) | (np.arange(scores.shape[1]) << 1) | positive, axis=1)
    w = weights[(keys & ((1 << bits) - 1)) >> 1]
    side = (keys & 1).astype(bool)
    against = np.where(side, 0.0, w)
    below = np.cumsum(against, axis=1)
    total = below[:, -1].copy()
    ranks = keys >> bits
    new = np.ones_like(side)
    new[:, 1:] = ranks[:, 1:] != ranks[:, :-1]
    last = np.ones_like(side)
    last[:, :-1] = new[:, 1:]
    # sums are monotone, so running maxima and minima carry the start and end of a group of ties to its members
    start = np.maximum.accumulate(np.where(new, below - against, -np.inf), axis=1)
    end = np.minimum.accumulate(np.where(last, below, np.inf)[:, ::-1], axis=1)[:, ::-1]
    favour = np.where(side, w, 0.0)
    pairs = favour.sum(axis=1) * total
    return (favour * (start + end)).sum(axis=1) / 2, pairs


def correlation(scores: Floats, values: Floats, weights: Floats) -> Floats:
    """(m,) weighted Pearson correlation of each row of `scores` with that of `values`; 0 if one is constant.

    >>> correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]]), np.ones(3)).round(6)
    array([1.])
    """
    w = weights / weights.sum()
    x = scores - (scores @ w)[:, None]
    y = values - (values @ w)[:, None]
    scale = np.sqrt((x**2 @ w) * (y**2 @ w))
    return np.divide((x * y) @ w, scale, out=np.zeros(len(scale)), where=scale > 1e-12)
