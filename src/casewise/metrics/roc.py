"""ROC and precision-recall: areas under curves, for many resamples at once, and the curves.

Sources: Hanley and McNeil 1982 (the area under the ROC curve as the share of pairs in the right order, ties half);
average precision as in scikit-learn, a sum of steps without interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# size of an intermediate array that fits into the cache of a processor
_AT_ONCE = 2**19
# scores are rounded to a millionth of the largest, because equal images give slightly different matrix products
SCORE_STEPS = 1e6
# points of a drawn curve
MOST_POINTS = 200


@dataclass(frozen=True)
class _Ranking:
    """How the scores rank the cases of one class in each of R resamples, all (R,).

    `passed` is the weight of pairs of a case of the class and another case in the right order, ties half, and `pairs`
    the weight of all such pairs; `auprc` is the average precision, NaN where the class is missing.
    """

    passed: np.ndarray
    pairs: np.ndarray
    auprc: np.ndarray

    @property
    def auroc(self) -> np.ndarray:
        """The area under the ROC curve; NaN where the class is missing, or nothing else is there."""
        return _ratio(self.passed, self.pairs)


def ranking(scores: np.ndarray, of_class: np.ndarray, subject: np.ndarray, counts: np.ndarray) -> _Ranking:
    """Rank the cases of one class against the others in each of R resamples.

    Args:
        scores: (N,), higher where the class is likelier; equal scores are ties.
        of_class: (N,) whether the case is of the class.
        subject: (N,) the number of each case's subject, 0 to S-1.
        counts: (R, S) how often each subject is in each resample.

    >>> ranks = ranking(np.array([.9, .8, .8, .1]), np.array([1, 0, 1, 0]), np.arange(4), np.ones((1, 4)))
    >>> float(ranks.auroc[0]), round(float(ranks.auprc[0]), 4)
    (0.875, 0.8333)
    """
    order = np.argsort(-scores, kind="stable")
    of_class = np.asarray(of_class, dtype=float)[order]
    columns = np.asarray(subject)[order]
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))
    step = max(1, _AT_ONCE // max(len(scores), 1))
    ranks = _Ranking(np.zeros(len(counts)), np.zeros(len(counts)), np.full(len(counts), np.nan))
    for first in range(0, len(counts) if len(scores) else 0, step):
        weights = counts[first : first + step].take(columns, axis=1)
        inside = weights * of_class
        if len(starts) < len(order):
            weights, inside = (np.add.reduceat(w, starts, axis=1) for w in (weights, inside))
        outside = weights - inside
        reached, passed_weight = np.cumsum(inside, axis=1), np.cumsum(weights, axis=1)
        n_inside = reached[:, -1]
        n_outside = passed_weight[:, -1] - n_inside
        at = slice(first, first + step)
        ranks.pairs[at] = n_inside * n_outside
        # a case of another class is outranked by every case of the class before it, and by half of the tied ones
        ranks.passed[at] = np.einsum("rn,rn->r", outside, reached) - np.einsum("rn,rn->r", outside, inside) / 2
        precision = np.divide(reached, passed_weight, out=np.zeros_like(passed_weight), where=passed_weight > 0)
        ranks.auprc[at] = _ratio(np.einsum("rn,rn->r", inside, precision), n_inside)
    return ranks


def auroc_within(
    scores: np.ndarray, of_class: np.ndarray, subject: np.ndarray, folds: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """The mean over the folds of the area under the ROC curve within each, in each of R resamples, (R,).

    A fold counts by its number of pairs of a case of the class and another case. The mean is therefore the share of
    pairs of one fold that are in the right order, and a fold without such a pair does not count. NaN without any pair.
    `folds` (N,) is the fold of each case; the others are as in `ranking`.

    >>> scores, truth = np.array([.9, .8, .2, .1]), np.array([1, 0, 1, 0])
    >>> within = auroc_within(scores, truth, np.arange(4), np.array([1, 1, 2, 2]), np.ones((1, 4)))
    >>> float(within[0]), float(ranking(scores, truth, np.arange(4), np.ones((1, 4))).auroc[0])
    (1.0, 0.75)
    """
    passed, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    for fold in np.unique(folds):
        rows = folds == fold
        if np.unique(of_class[rows]).size == 2:
            ranks = ranking(scores[rows], of_class[rows], subject[rows], counts)
            passed, pairs = passed + ranks.passed, pairs + ranks.pairs
    return _ratio(passed, pairs)


def _ratio(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(count, total, out=np.full(np.shape(total), np.nan), where=total > 0)


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


def drawn_curve(
    scores: np.ndarray, of_class: np.ndarray, folds: np.ndarray | None = None, *, most: int = MOST_POINTS
) -> dict[str, list[float]] | None:
    """The ROC curve from (0, 0) to (1, 1) with at most `most` points; None if undefined.

    With `folds` (N,) it is the mean over the folds of their sensitivities at each false positive rate, weighted like
    `auroc_within`, whose value is the area under it. Points are left out evenly along the length of the curve, so that
    steep segments keep their points.

    >>> drawn_curve(np.array([.9, .8, .8, .1]), np.array([1, 0, 1, 0]))
    {'fpr': [0.0, 0.0, 0.5, 1.0], 'tpr': [0.0, 0.5, 1.0, 1.0]}
    >>> drawn_curve(np.array([.9, .8, .2, .1]), np.array([1, 0, 1, 0]), np.array([1, 1, 2, 2]))
    {'fpr': [0.0, 0.0, 1.0], 'tpr': [0.0, 1.0, 1.0]}
    """
    of_class = np.asarray(of_class, dtype=bool)
    folds = np.zeros(len(of_class), dtype=int) if folds is None else folds
    fold_rows = [rows for fold in np.unique(folds) if np.unique(of_class[rows := folds == fold]).size == 2]
    if not fold_rows:
        return None
    curves = [curve(scores[rows], of_class[rows])[:2] for rows in fold_rows]
    weights = np.array([of_class[rows].sum() * (~of_class[rows]).sum() for rows in fold_rows], dtype=float)
    fpr, tpr = curves[0] if len(curves) == 1 else _mean_curve(curves, weights / weights.sum())
    fpr, tpr = np.append(0.0, fpr), np.append(0.0, tpr)
    shown = _thinned(fpr + tpr, most)
    return {"fpr": fpr[shown].tolist(), "tpr": tpr[shown].tolist()}


def _thinned(length: np.ndarray, most: int) -> np.ndarray:
    """At most `most` positions, evenly along a curve whose length up to each is given."""
    if len(length) <= most:
        return np.arange(len(length))
    return np.unique(np.searchsorted(length, np.linspace(0, length[-1], most)).clip(max=len(length) - 1))


def drawn_precision_recall(scores: np.ndarray, of_class: np.ndarray) -> dict[str, list[float]] | None:
    """Recall and precision at every distinct score, falling, with at most `MOST_POINTS`; None if undefined.

    All cases are ranked together, as for the average precision (see `ranking`), which is the area below the steps.

    >>> drawn_precision_recall(np.array([.9, .8, .8, .1]), np.array([1, 0, 1, 0]))
    {'recall': [0.5, 1.0, 1.0], 'precision': [1.0, 0.6666666666666666, 0.5]}
    """
    order = np.argsort(-scores, kind="stable")
    inside = np.asarray(of_class, dtype=bool)[order]
    if not inside.any() or inside.all():
        return None
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    reached = np.cumsum(inside)[ends]
    recall, precision = reached / inside.sum(), reached / (ends + 1)
    steps = np.abs(np.diff(recall, prepend=0.0)) + np.abs(np.diff(precision, prepend=precision[0]))
    shown = _thinned(np.cumsum(steps), MOST_POINTS)
    return {"recall": recall[shown].tolist(), "precision": precision[shown].tolist()}


def _mean_curve(curves: list[tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean of sensitivities at every false positive rate: at each its lowest value, then its highest."""
    grid = np.unique(np.concatenate([[0.0], *(fpr for fpr, _ in curves)]))
    lowest, highest = np.zeros((2, len(grid)))
    for (fpr, tpr), weight in zip(curves, weights, strict=True):
        fpr, tpr = np.append(0.0, fpr), np.append(0.0, tpr)
        steps, first = np.unique(fpr, return_index=True)
        last = np.append(first[1:], len(fpr)) - 1
        # between two steps the curve is straight from the upper end of the one to the lower end of the other
        before = (np.searchsorted(steps, grid, side="right") - 1).clip(max=len(steps) - 1)
        after = np.minimum(before + 1, len(steps) - 1)
        share = (grid - steps[before]) / np.maximum(steps[after] - steps[before], 1e-300)
        between = tpr[last[before]] + share * (tpr[first[after]] - tpr[last[before]])
        on_step = steps[before] == grid
        lowest += weight * np.where(on_step, tpr[first[before]], between)
        highest += weight * np.where(on_step, tpr[last[before]], between)
    fpr, tpr = np.repeat(grid, 2), np.stack([lowest, highest], axis=1).ravel()
    kept = np.append(True, (np.diff(fpr) > 0) | (np.diff(tpr) > 0))
    kept[0] = False  # the caller adds the point (0, 0)
    return fpr[kept], tpr[kept]


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
