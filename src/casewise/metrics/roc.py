"""ROC and precision-recall: areas under curves, for many resamples at once, and the curves.

Sources: Hanley and McNeil 1982 (the area under the ROC curve as the share of pairs in the right order, ties half);
average precision as in scikit-learn, a sum of steps without interpolation.
"""

from __future__ import annotations

import numpy as np

# size of an intermediate array that fits into the cache of a processor
_AT_ONCE = 2**19
# scores are rounded to a millionth of the largest, because equal images give slightly different matrix products
SCORE_STEPS = 1e6


def areas(
    scores: np.ndarray, of_class: np.ndarray, subject: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the area under the ROC curve and the average precision of one class in each of R resamples, both (R,).

    Args:
        scores: (N,), higher where the class is likelier; equal scores are ties.
        of_class: (N,) whether the case is of the class.
        subject: (N,) the number of each case's subject, 0 to S-1.
        counts: (R, S) how often each subject is in each resample.

    Both are NaN where the class is missing; the ROC's area also where nothing else is there.

    >>> auroc, auprc = areas(np.array([.9, .8, .8, .1]), np.array([1, 0, 1, 0]), np.arange(4), np.ones((1, 4)))
    >>> float(auroc[0]), round(float(auprc[0]), 4)
    (0.875, 0.8333)
    """
    order = np.argsort(-scores, kind="stable")
    of_class = np.asarray(of_class, dtype=float)[order]
    columns = np.asarray(subject)[order]
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    step = max(1, _AT_ONCE // max(len(scores), 1))
    both = np.full((2, len(counts)), np.nan)
    for first in range(0, len(counts) if len(scores) else 0, step):
        weights = counts[first : first + step].take(columns, axis=1)
        inside = weights * of_class
        if len(starts) < len(order):
            weights, inside = (np.add.reduceat(w, starts, axis=1) for w in (weights, inside))
        outside = weights - inside
        reached, passed_weight = np.cumsum(inside, axis=1), np.cumsum(weights, axis=1)
        n_inside = reached[:, -1]
        n_outside = passed_weight[:, -1] - n_inside
        # a case of another class is outranked by every case of the class before it, and by half of the tied ones
        passed = np.einsum("rn,rn->r", outside, reached) - np.einsum("rn,rn->r", outside, inside) / 2
        precision = np.divide(reached, passed_weight, out=np.zeros_like(passed_weight), where=passed_weight > 0)
        with np.errstate(all="ignore"):
            both[0, first : first + step] = passed / (n_inside * n_outside)
            both[1, first : first + step] = np.einsum("rn,rn->r", inside, precision) / n_inside
    return both[0], both[1]


def curve(scores: np.ndarray, of_class: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (fpr, tpr, thresholds) at every distinct score, falling; without the point (0, 0) that takes nothing.

    A case counts as taken where its score is the threshold or above.

    >>> curve(np.array([.9, .8, .8, .1]), np.array([1, 0, 1, 0]))
    (array([0. , 0.5, 1. ]), array([0.5, 1. , 1. ]), array([0.9, 0.8, 0.1]))
    """
    order = np.argsort(-scores, kind="stable")
    inside = np.asarray(of_class, dtype=bool)[order]
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    tpr, fpr = np.cumsum(inside)[ends], np.cumsum(~inside)[ends]
    with np.errstate(all="ignore"):
        return fpr / (~inside).sum(), tpr / inside.sum(), scores[order][ends]


def drawn_curve(scores: np.ndarray, of_class: np.ndarray, *, most: int = 200) -> dict[str, list[float]] | None:
    """The ROC curve from (0, 0) to (1, 1) with at most `most` points; None if undefined.

    Points are left out evenly along the length of the curve, so that steep segments keep their points.

    >>> drawn_curve(np.array([.9, .8, .8, .1]), np.array([1, 0, 1, 0]))
    {'fpr': [0.0, 0.0, 0.5, 1.0], 'tpr': [0.0, 0.5, 1.0, 1.0]}
    """
    of_class = np.asarray(of_class, dtype=bool)
    if of_class.all() or not of_class.any():
        return None
    fpr, tpr, _ = curve(scores, of_class)
    fpr, tpr = np.append(0.0, fpr), np.append(0.0, tpr)
    if len(fpr) > most:
        length = fpr + tpr
        shown = np.unique(np.searchsorted(length, np.linspace(0, length[-1], most)).clip(max=len(length) - 1))
        fpr, tpr = fpr[shown], tpr[shown]
    return {"fpr": fpr.tolist(), "tpr": tpr.tolist()}


def share(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(m,) the share of correctly ranked pairs; 0.5 if there are none."""
    return np.divide(correct, total, out=np.full(len(correct), 0.5), where=total > 0)


def ranked_pairs(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
