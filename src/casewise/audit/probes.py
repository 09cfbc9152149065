"""Can a label be told from some numbers? Ridge regression by subject, out of fold, against labels moved about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casewise.audit.ranking import correlation, ranked_pairs, share

__all__ = ["FOLDS", "Labels", "ProbeResult", "adjusted", "enough", "moves", "probe"]

Floats = NDArray[np.floating[Any]]
Whole = NDArray[np.int64]

FOLDS = 5
# A class of fewer subjects, or a cohort of fewer, says nothing about a fold.
FEWEST_OF_CLASS, FEWEST = 5, 20
# One degree of freedom for so many subjects to learn from: thumbnails and embeddings are smoothed, columns are not.
SUBJECTS_A_DEGREE = 10
BLOCK = 4_000_000
FURTHEST = 4.0
# Equal statistics may differ in their last bits.
SAME = 1e-9
# Streams of their own, so that a cohort that was made with the same seed is not moved about as it was made.
MOVING, DEALING = 1993, 1974


@dataclass(frozen=True, eq=False)
class Labels:
    """What is to be told, image by image: class numbers where there are `names`, else numbers; `subjects` are 0, 1, ….

    Labels are moved between subjects by `moved`, (P, n) image numbers: what each image's label is taken from.
    """

    values: Floats
    subjects: Whole
    names: tuple[str, ...]
    moved: Whole

    @property
    def weights(self) -> Floats:
        """(n,) one over the number of the subject's images, so that every subject counts once."""
        return 1.0 / np.bincount(self.subjects)[self.subjects]

    @classmethod
    def of(
        cls, values: Floats, subjects: Sequence[object], names: Sequence[str], *, permutations: int, seed: int
    ) -> Labels | None:
        """Number the subjects and the classes that are there; None if there is nothing to tell apart."""
        codes = np.unique(np.asarray(subjects, str), return_inverse=True)[1].astype(np.int64)
        if len(codes) == 0 or codes.max() + 1 < FEWEST:
            return None
        if names:
            present, places = np.unique(values, return_inverse=True)
            names, values = [names[int(number)] for number in present], places.astype(float)
        if len(np.unique(values)) < 2:
            return None
        return cls(np.asarray(values, float), codes, tuple(names), moves(codes, permutations, seed))


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """How well it was told: macro one-vs-rest AUROC (classes) or Pearson's r (numbers), by subject and out of fold.

    `null` (P,) is the same after each move of the labels, `scores` (n, K) are the out-of-fold scores behind `value`.
    """

    value: float
    by_class: dict[str, float]
    null: Floats
    scores: Floats

    @property
    def p(self) -> float:
        """Permutation p-value, one-sided, never below 1 / (P + 1)."""
        return float((1 + np.sum(self.null >= self.value - SAME)) / (1 + len(self.null)))


def enough(values: Floats, subjects: Sequence[object], *, classed: bool) -> NDArray[np.bool_]:
    """(n,) the images that can be judged: with a label, and of a class that `FEWEST_OF_CLASS` subjects have.

    >>> enough(np.array([0.0] * 5 + [1.0, np.nan]), list("abcdefg"), classed=True).tolist()
    [True, True, True, True, True, False, False]
    """
    kept = ~np.isnan(values)
    if classed:
        names = np.asarray(subjects, str)
        for number in np.unique(values[kept]):
            if len(np.unique(names[values == number])) < FEWEST_OF_CLASS:
                kept &= values != number
    return kept


def moves(subjects: Whole, permutations: int, seed: int) -> Whole:
    """(P, n) from which image each image takes its label when whole subjects change places.

    Were the label nothing to do with what an image holds, subjects could be exchanged, not images. The labels of a
    subject move together and in their order. Where giver and taker have different numbers of images, the sequence is
    stretched or thinned; with one label a subject, the usual case, nothing is lost by that.

    >>> moves(np.array([0, 0, 1, 1]), 3, 1).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 0, 1]]
    """
    order = np.argsort(subjects, kind="stable")
    counts = np.bincount(subjects)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(subjects), int)
    place[order] = np.arange(len(subjects)) - np.repeat(starts, counts)
    random = np.random.default_rng([seed, MOVING])
    giver = random.permuted(np.tile(np.arange(len(counts)), (permutations, 1)), axis=1)[:, subjects]
    within = ((2 * place + 1) * counts[giver]) // (2 * counts[subjects])
    return order[starts[giver] + within]


def probe(features: Floats, labels: Labels, *, seed: int) -> ProbeResult | None:
    """Tell `labels` from `features` (n, d) by ridge regression on standardised features, five folds by subject.

    Folds and penalty do not look at the labels, so that the labels as they are and as they are moved are treated
    alike; where all subjects have as many images, or one, the p-value is exact. What is fitted for one is fitted for
    all, since in ŷ = Z (Zᵀ W Z + λ)⁻¹ Zᵀ W y only y changes. Images are compared within their fold only: scores of
    two networks, one of which learned from more of a class, do not rank images of different folds.

    Returns None where no feature varies.
    """
    features = np.asarray(features, float)
    if len(features) == 0 or not (features != features[0]).any():
        return None
    weights, folds = labels.weights, _folds(labels.subjects, seed)
    hats = [_hat(features, weights, folds == fold) for fold in range(FOLDS)]
    kinds = len(labels.names)
    first, scores = _statistics(np.arange(len(features))[None], labels, hats, weights)
    rows = max(1, BLOCK // (len(features) * max(1, kinds)))
    null = [
        _statistics(labels.moved[start : start + rows], labels, hats, weights)[0].mean(axis=1)
        for start in range(0, len(labels.moved), rows)
    ]
    by_class = dict(zip(labels.names, first[0] if kinds > 2 else np.repeat(first[0], 2), strict=True)) if kinds else {}
    return ProbeResult(
        value=float(first[0].mean()),
        by_class={name: float(value) for name, value in by_class.items()},
        null=np.concatenate(null) if null else np.zeros(0),
        scores=scores[0].T,
    )


def _folds(subjects: Whole, seed: int) -> Whole:
    """(n,) the fold of each image: subjects in random order, dealt out like cards."""
    dealt = np.random.default_rng([seed, DEALING]).permutation(subjects.max() + 1) % FOLDS
    return dealt[subjects]


@dataclass(frozen=True, eq=False)
class _Hat:
    """From the labels of the training images to the scores of the held-out ones: `labels @ first (@ second)`."""

    train: NDArray[np.bool_]
    parts: tuple[Floats, ...]


def _hat(features: Floats, weights: Floats, held_out: NDArray[np.bool_]) -> _Hat:
    train = ~held_out
    w = weights[train]
    mean = np.average(features[train], axis=0, weights=w)
    spread = np.sqrt(np.average((features[train] - mean) ** 2, axis=0, weights=w))
    used = spread > 1e-9 * np.maximum(1.0, np.abs(mean))
    # One image with an extreme value must not turn the whole regression round.
    z = np.clip((features[:, used] - mean[used]) / spread[used], -FURTHEST, FURTHEST)
    z -= np.average(z[train], axis=0, weights=w)
    rooted = z[train] * np.sqrt(w)[:, None]
    wide = rooted.shape[1] > rooted.shape[0]
    values, vectors = np.linalg.eigh(rooted @ rooted.T if wide else rooted.T @ rooted)
    values = np.maximum(values, 0.0)
    inverse = (vectors / (values + _penalty(values, w.sum()))) @ vectors.T
    fit = rooted.T @ inverse if wide else inverse @ rooted.T
    fit = fit * np.sqrt(w)
    one, two = fit.T.astype(np.float32), z[held_out].T.astype(np.float32)
    direct = one.shape[0] * two.shape[1] < one.shape[1] * (one.shape[0] + two.shape[1])
    return _Hat(train, (one @ two,) if direct else (one, two))


def _penalty(values: Floats, subjects: float) -> float:
    """The ridge penalty that leaves one degree of freedom, Σ e / (e + λ), for every ten subjects; never none at all."""
    allowed = max(2.0, subjects / SUBJECTS_A_DEGREE)
    low, high = np.log(1e-3 * subjects), np.log(max(values.max() * len(values), 1.0) * 1e3)
    if (values / (values + np.exp(low))).sum() <= allowed:
        return float(np.exp(low))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (values / (values + np.exp(middle))).sum() > allowed else (low, middle)
    return float(np.exp(high))


def _statistics(take: Whole, labels: Labels, hats: list[_Hat], weights: Floats) -> tuple[Floats, Floats]:
    """(P, K) how well each class is told (two classes: once; numbers: r), and (P, K, n) the scores."""
    values = labels.values[take]
    kinds = len(labels.names)
    # Of two classes, one is the mirror image of the other.
    wanted = [1] if kinds == 2 else list(range(kinds))
    y = np.stack([values == k for k in wanted], axis=1) if kinds else (values - labels.values.mean())[:, None]
    flat = np.ascontiguousarray(y.reshape(-1, y.shape[-1]), np.float32)
    scores: Floats = np.zeros_like(flat)
    won, both = np.zeros(len(flat)), np.zeros(len(flat))
    for hat in hats:
        held_out = ~hat.train
        found: Floats = flat[:, hat.train]
        for part in hat.parts:
            found = found @ part
        scores[:, held_out] = found
        if kinds:
            pairs = ranked_pairs(found, flat[:, held_out] > 0, weights[held_out])
            won, both = won + pairs[0], both + pairs[1]
    if kinds:
        told = share(won, both)
    else:
        told = correlation(_centred(scores, hats, weights), _centred(flat, hats, weights), weights)
    return told.reshape(y.shape[:2]), scores.reshape(y.shape)


def _centred(values: Floats, hats: list[_Hat], weights: Floats) -> Floats:
    """(m, n) values without the mean of their fold."""
    values = values.copy()
    for hat in hats:
        fold = ~hat.train
        values[:, fold] -= (values[:, fold] @ weights[fold] / weights[fold].sum())[:, None]
    return values


def adjusted(told: Sequence[ProbeResult]) -> list[float]:
    """p-values that hold for all questions together: the step-down maxT of Westfall and Young (1993).

    Like Holm's it bounds the chance of any false alarm, but it can reach 1 / (P + 1) however many questions are
    asked, where Holm's stops at that times their number. Each statistic is first put on the scale of its own null.
    Questions about the same labels must have been asked with the same moves.

    >>> null = np.random.default_rng(0).normal(0.5, 0.02, 99)
    >>> adjusted([Told(0.9, {}, null, np.zeros(0)), Told(0.5, {}, null[::-1], np.zeros(0))])[0]
    0.01
    """
    if not told:
        return []
    null = np.stack([one.null for one in told])
    mean, spread = null.mean(axis=1), np.maximum(null.std(axis=1), 1e-12)
    z = (np.array([one.value for one in told]) - mean) / spread
    null = (null - mean[:, None]) / spread[:, None]
    order = np.argsort(-z)
    highest = np.maximum.accumulate(null[order][::-1], axis=0)[::-1]
    p = (1 + (highest >= z[order][:, None] - SAME).sum(axis=1)) / (1 + null.shape[1])
    result = np.empty(len(told))
    result[order] = np.maximum.accumulate(p)
    return [float(value) for value in result]
