"""Tests whether features predict a label: ridge regression, out of fold by subject, against permuted labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from casewise.metrics.roc import auroc_within, ranked_pairs, share

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

FOLDS = 5
# A test with an adjusted p of at most this is a finding.
ALPHA = 0.01
# The fewest subjects of a class and of a cohort for a meaningful fold.
FEWEST_OF_CLASS, FEWEST = 5, 20
# Training subjects per degree of freedom: thumbnails and embeddings are regularised, columns hardly.
SUBJECTS_PER_DEGREE = 10
BLOCK = 4_000_000
FURTHEST = 4.0
# Equal statistics may differ in their last bits.
TOLERANCE = 1e-9
# Separate random streams, so that permutations do not repeat the draws of a synthetic cohort with the same seed.
PERMUTATION_STREAM, FOLD_STREAM, _RESAMPLE_STREAM = 1993, 1974, 1979
# Resamples of an interval.
_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of images to predict, and their permutations.

    Attributes:
        values: class indices if there are `names`, else numbers.
        subjects: 0, 1, ….
        moved: (P, n) for each permutation the image whose label each image receives.
    """

    values: Floats
    subjects: Ints
    names: tuple[str, ...]
    moved: Ints

    @property
    def weights(self) -> Floats:
        """(n,) one over the number of images of the subject, so that every subject counts once."""
        return 1.0 / np.bincount(self.subjects)[self.subjects]

    @property
    def of_smallest(self) -> int | None:
        """The number of subjects of the class with the fewest; None for numbers."""
        counts = [len(np.unique(self.subjects[self.values == number])) for number in range(len(self.names))]
        return min(counts, default=None)

    @classmethod
    def of(
        cls, values: Floats, subjects: Sequence[object], names: Sequence[str], *, permutations: int, seed: int
    ) -> Labels | None:
        """Number the subjects and the present classes; None if there are too few subjects or fewer than two values."""
        codes = np.unique(np.asarray(subjects, str), return_inverse=True)[1].astype(np.int64)
        if len(codes) == 0 or codes.max() + 1 < FEWEST:
            return None
        if names:
            present, indices = np.unique(values, return_inverse=True)
            names, values = [names[int(number)] for number in present], indices.astype(float)
        if len(np.unique(values)) < 2:
            return None
        return cls(np.asarray(values, float), codes, tuple(names), moves(codes, permutations, seed))


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """The result of a test.

    Attributes:
        value: macro one-vs-rest AUROC (classes) or Pearson's r (numbers), out of fold and weighted by subject.
        null: (P,) the tested statistic after each permutation of the labels.
        scores: (n, K) the out-of-fold scores.
        statistic: what is tested, if not the value: with three classes or more the largest of the value and the AUROC
            of each class, in standard deviations of their null, because a shortcut may mark one class only.
    """

    value: float
    by_class: dict[str, float]
    null: Floats
    scores: Floats
    statistic: float | None = None

    @property
    def tested(self) -> float:
        """The value, or the statistic if there is one."""
        return self.value if self.statistic is None else self.statistic

    @property
    def p(self) -> float:
        """Permutation p-value, one-sided, never below 1 / (P + 1)."""
        return float((1 + np.sum(self.null >= self.tested - TOLERANCE)) / (1 + len(self.null)))


def enough(values: Floats, subjects: Sequence[object], *, classed: bool) -> NDArray[np.bool_]:
    """(n,) the images that can be tested: with a label, and of a class with at least `FEWEST_OF_CLASS` subjects.

    >>> enough(np.array([0.0] * 5 + [1.0, np.nan]), list("abcdefg"), classed=True).tolist()
    [True, True, True, True, True, False, False]
    """
    included = ~np.isnan(values)
    if classed:
        names = np.asarray(subjects, str)
        for number in np.unique(values[included]):
            if len(np.unique(names[values == number])) < FEWEST_OF_CLASS:
                included &= values != number
    return included


def moves(subjects: Ints, permutations: int, seed: int) -> Ints:
    """(P, n) the image whose label each image receives when the labels of whole subjects are permuted.

    Under the null hypothesis subjects are exchangeable, single images are not. The labels of a subject move together
    and in order. If two subjects have different numbers of images, the sequence is stretched or thinned; with one
    label per subject, the usual case, this changes nothing.

    >>> moves(np.array([0, 0, 1, 1]), 3, 1).tolist()
    [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 0, 1]]
    """
    order = np.argsort(subjects, kind="stable")
    counts = np.bincount(subjects)
    starts = np.cumsum(counts) - counts
    position = np.empty(len(subjects), int)
    position[order] = np.arange(len(subjects)) - np.repeat(starts, counts)
    random = np.random.default_rng([seed, PERMUTATION_STREAM])
    donor = random.permuted(np.tile(np.arange(len(counts)), (permutations, 1)), axis=1)[:, subjects]
    within = ((2 * position + 1) * counts[donor]) // (2 * counts[subjects])
    return order[starts[donor] + within]


def probe(features: Floats, labels: Labels, *, seed: int) -> ProbeResult | None:
    """Predict `labels` from `features` (n, d) by ridge regression on standardised features, in five folds by subject.

    Folds and penalty do not depend on the labels, so observed and permuted labels are treated alike; if all subjects
    have the same number of images, the p-value is exact. One fit serves all permutations, because only y changes in
    ŷ = Z (Zᵀ W Z + λ)⁻¹ Zᵀ W y. Images are compared within their fold only, because scores of models that were
    trained on different class frequencies are not comparable.

    Returns None if no feature varies.
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
        _statistics(labels.moved[start : start + rows], labels, hats, weights)[0]
        for start in range(0, len(labels.moved), rows)
    ]
    moved = np.concatenate([*null, np.zeros((0, first.shape[1]))])
    values, statistic = moved.mean(axis=1), None
    if kinds > 2 and len(moved):
        both = np.vstack([first, moved])
        highest = _standardised(np.column_stack([both.mean(axis=1), both])).max(axis=1)
        statistic, values = float(highest[0]), highest[1:]
    by_class = dict(zip(labels.names, first[0] if kinds > 2 else np.repeat(first[0], 2), strict=True)) if kinds else {}
    return ProbeResult(
        value=float(first[0].mean()),
        by_class={name: float(value) for name, value in by_class.items()},
        null=values,
        scores=scores[0].T,
        statistic=statistic,
    )


def strength_interval(result: ProbeResult, labels: Labels, *, seed: int) -> tuple[float, float]:
    """The 90 % interval of the AUROC of the best predicted class, or of r: bootstrap of subjects, out of fold.

    Its lower end is a one-sided bound of 95 %. Where the best of several classes was picked, the bound is that of each
    at 5 % divided by their number (Bonferroni), and so is the upper end. That the best variant of an evidence was
    picked, such as of two ways to read a border, is not allowed for.
    The models stay as they were fitted (`seed` as in `probe`). With three classes or more the figure is the larger of
    the mean over the classes and the best class.
    """
    folds, count = _folds(labels.subjects, seed), int(labels.subjects.max()) + 1
    random = np.random.default_rng([seed, _RESAMPLE_STREAM])
    draws = random.multinomial(count, np.full(count, 1 / count), _RESAMPLES)
    # equal images give slightly different scores
    scores = np.round(result.scores / max(float(np.abs(result.scores).max()), 1e-12), 6).T
    of_draws = _aurocs if labels.names else _correlations
    chosen = of_draws(result, labels, scores, folds, draws)
    tail = 5 / (len(labels.names) if len(labels.names) > 2 else 1)
    low, high = np.nanpercentile(chosen, (tail, 100 - tail))
    return float(low), float(high)


def _aurocs(result: ProbeResult, labels: Labels, scores: Floats, folds: NDArray[Any], draws: NDArray[Any]) -> Floats:
    """(R,) the AUROC within folds of each resample: of the best predicted class, or the mean over the classes."""
    drawn = (draws[:, labels.subjects] * labels.weights).astype(float)
    columns = [1] if len(labels.names) == 2 else range(len(labels.names))
    figures = [
        auroc_within(own, labels.values == number, np.arange(len(own)), folds, drawn)
        for own, number in zip(scores, columns, strict=True)
    ]
    if len(figures) == 1:
        return figures[0]
    best = max(result.by_class, key=lambda name: result.by_class[name])
    is_best = result.by_class[best] >= result.value
    return figures[labels.names.index(best)] if is_best else np.asarray(np.mean(figures, axis=0))


def _correlations(
    result: ProbeResult, labels: Labels, scores: Floats, folds: NDArray[Any], draws: NDArray[Any]
) -> Floats:
    """(R,) the correlation of scores and values of each resample, both centred within folds."""

    def centred(numbers: Floats) -> Floats:
        means = np.zeros(len(numbers))
        for fold in np.unique(folds):
            own = folds == fold
            means[own] = np.average(numbers[own], weights=labels.weights[own])
        return np.asarray((numbers - means)[None])

    predicted, recorded = centred(scores[0]), centred(labels.values)
    return np.array([correlation(predicted, recorded, draw[labels.subjects] * labels.weights)[0] for draw in draws])


def _folds(subjects: Ints, seed: int) -> Ints:
    """(n,) the fold of each image: subjects in random order, assigned in turn."""
    fold_of_subject = np.random.default_rng([seed, FOLD_STREAM]).permutation(subjects.max() + 1) % FOLDS
    return fold_of_subject[subjects]


@dataclass(frozen=True, eq=False)
class _Hat:
    """The linear map from labels of training images to scores of held-out ones: `labels @ first (@ second)`."""

    train: NDArray[np.bool_]
    factors: tuple[Floats, ...]


def _hat(features: Floats, weights: Floats, held_out: NDArray[np.bool_]) -> _Hat:
    train = ~held_out
    w = weights[train]
    mean = np.average(features[train], axis=0, weights=w)
    std = np.sqrt(np.average((features[train] - mean) ** 2, axis=0, weights=w))
    used = std > 1e-9 * np.maximum(1.0, np.abs(mean))
    # an extreme value must not dominate the regression
    z = np.clip((features[:, used] - mean[used]) / std[used], -FURTHEST, FURTHEST)
    z -= np.average(z[train], axis=0, weights=w)
    rooted = z[train] * np.sqrt(w)[:, None]
    wide = rooted.shape[1] > rooted.shape[0]
    values, vectors = np.linalg.eigh(rooted @ rooted.T if wide else rooted.T @ rooted)
    values = np.maximum(values, 0.0)
    inverse = (vectors / (values + _penalty(values, w.sum()))) @ vectors.T
    fit = rooted.T @ inverse if wide else inverse @ rooted.T
    fit = fit * np.sqrt(w)
    first, second = fit.T.astype(np.float32), z[held_out].T.astype(np.float32)
    direct = first.shape[0] * second.shape[1] < first.shape[1] * (first.shape[0] + second.shape[1])
    return _Hat(train, (first @ second,) if direct else (first, second))


def _penalty(values: Floats, subjects: float) -> float:
    """The ridge penalty with one degree of freedom, Σ e / (e + λ), per ten subjects; always above 0."""
    allowed = max(2.0, subjects / SUBJECTS_PER_DEGREE)
    low, high = np.log(1e-3 * subjects), np.log(max(values.max(initial=0.0) * len(values), 1.0) * 1e3)
    if (values / (values + np.exp(low))).sum() <= allowed:
        return float(np.exp(low))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (values / (values + np.exp(middle))).sum() > allowed else (low, middle)
    return float(np.exp(high))


def _statistics(take: Ints, labels: Labels, hats: list[_Hat], weights: Floats) -> tuple[Floats, Floats]:
    """(P, K) the AUROC of each class (two classes: one value; numbers: r), and (P, K, n) the scores."""
    values = labels.values[take]
    kinds = len(labels.names)
    # with two classes, the second determines the first
    classes = [1] if kinds == 2 else list(range(kinds))
    y = np.stack([values == k for k in classes], axis=1) if kinds else (values - labels.values.mean())[:, None]
    flat = np.ascontiguousarray(y.reshape(-1, y.shape[-1]), np.float32)
    scores: Floats = np.zeros_like(flat)
    correct, total = np.zeros(len(flat)), np.zeros(len(flat))
    for hat in hats:
        held_out = ~hat.train
        predicted: Floats = flat[:, hat.train]
        for factor in hat.factors:
            predicted = predicted @ factor
        scores[:, held_out] = predicted
        if kinds:
            pairs = ranked_pairs(predicted, flat[:, held_out] > 0, weights[held_out])
            correct, total = correct + pairs[0], total + pairs[1]
    if kinds:
        statistics = share(correct, total)
    else:
        statistics = correlation(_centred(scores, hats, weights), _centred(flat, hats, weights), weights)
    return statistics.reshape(y.shape[:2]), scores.reshape(y.shape)


def _centred(values: Floats, hats: list[_Hat], weights: Floats) -> Floats:
    """(m, n) values minus the mean of their fold."""
    values = values.copy()
    for hat in hats:
        fold = ~hat.train
        values[:, fold] -= (values[:, fold] @ weights[fold] / weights[fold].sum())[:, None]
    return values


def correlation(scores: Floats, values: Floats, weights: Floats) -> Floats:
    """(m,) weighted Pearson correlation of each row of `scores` with the same row of `values`; 0 if one is constant.

    >>> correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 4.0, 6.0]]), np.ones(3)).round(6)
    array([1.])
    """
    w = weights / weights.sum()
    x = scores - (scores @ w)[:, None]
    y = values - (values @ w)[:, None]
    scale = np.sqrt((x**2 @ w) * (y**2 @ w))
    return np.divide((x * y) @ w, scale, out=np.zeros(len(scale)), where=scale > 1e-12)


def _standardised(statistics: Floats) -> Floats:
    """Each column of (P + 1, K), the observed row first, in its standard deviations.

    The observed row counts like the others: left out, it would be the highest too often where permutations are few.
    """
    return (statistics - statistics.mean(axis=0)) / np.maximum(statistics.std(axis=0), 1e-12)


def adjusted(results: Sequence[ProbeResult]) -> list[float]:
    """p-values adjusted for multiple tests by the step-down maxT of Westfall and Young (1993).

    It controls the family-wise error rate as Holm's method does, but can reach 1 / (P + 1) for any number of tests.
    Each statistic is first standardised together with its null distribution. Tests of the same labels must use the same
    permutations.

    >>> null = np.random.default_rng(0).normal(0.5, 0.02, 99)
    >>> first, second = (ProbeResult(0.9, {}, null, np.zeros(0)), ProbeResult(0.5, {}, null[::-1], np.zeros(0)))
    >>> adjusted([first, second])[0]
    0.01
    """
    if not results:
        return []
    table = _standardised(np.array([[result.tested, *result.null] for result in results]).T)
    z, null = table[0], table[1:].T
    order = np.argsort(-z)
    highest = np.maximum.accumulate(null[order][::-1], axis=0)[::-1]
    p = (1 + (highest >= z[order][:, None] - TOLERANCE).sum(axis=1)) / (1 + null.shape[1])
    ordered = np.empty(len(results))
    ordered[order] = np.maximum.accumulate(p)
    return [float(value) for value in ordered]
