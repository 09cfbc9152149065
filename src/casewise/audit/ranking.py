"""How well scores rank images, for thousands of rows at once: AUROC with weights and ties, and correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["auroc", "correlation", "ranked_pairs", "share"]

Floats = NDArray[np.floating[Any]]

# Scores are compared to a millionth of the largest, since equal images do not give equal bits in a matrix product.
STEPS_OF_SCORE = 1e6


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """(m,) area under the ROC curve of each row, images weighted, ties counted half; .5 where one side is empty.

    Args:
        scores: (m, n) a row a question; scores that agree to a millionth of the row's largest are ties.
        positive: (m, n) which images are positive.
        weights: (n,) above 0.

    >>> auroc(np.array([[0.1, 0.4, 0.4, 0.8]]), np.array([[False, False, True, True]]), np.ones(4))
    array([0.875])
    """
    return share(*ranked_pairs(scores, positive, weights))


def share(won: Floats, both: Floats) -> Floats:
    """(m,) the share of pairs that are ranked rightly; .5 where there are none."""
    return np.divide(won, both, out=np.full(len(won), 0.5), where=both > 0)


def ranked_pairs(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
    """(m,) weight of the pairs of a positive and a negative image that are ranked rightly, and of all such pairs."""
    largest = np.maximum(np.abs(scores).max(axis=1, keepdims=True), 1e-30)
    keys = np.rint(scores / largest * STEPS_OF_SCORE).astype(np.int64)
    # Sorting score, image and side as one number is several times faster than argsort and picking.
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
    # Sums only grow, so that the running maximum carries a group's start to its members, and likewise its end back.
    start = np.maximum.accumulate(np.where(new, below - against, -np.inf), axis=1)
    end = np.minimum.accumulate(np.where(last, below, np.inf)[:, ::-1], axis=1)[:, ::-1]
    favour = np.where(side, w, 0.0)
    both = favour.sum(axis=1) * total
    return (favour * (start + end)).sum(axis=1) / 2, both


def correlation(scores: Floats, values: Floats, weights: Floats) -> Floats:
    """(m,) weighted Pearson correlation of each row of `scores` with that of `values`; 0 where one is constant.

    >>> correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]]), np.ones(3)).round(6)
    array([1.])
    """
    w = weights / weights.sum()
    one = scores - (scores @ w)[:, None]
    two = values - (values @ w)[:, None]
    scale = np.sqrt((one**2 @ w) * (two**2 @ w))
    return np.divide((one * two) @ w, scale, out=np.zeros(len(scale)), where=scale > 1e-12)
