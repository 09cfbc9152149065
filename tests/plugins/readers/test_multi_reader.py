"""Readers and modalities: a published example, the classical F test, and the moments of the unbiased variance."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.stats import f as f_distribution
from sklearn.metrics import roc_auc_score

from casewise.plugins.readers.statistics.multi_reader import (
    compare_modalities,
    left_out,
    mean_over_readers,
    random_readers,
    unbiased_variance,
)

# Van Dyke et al. 1993: aortic dissection in spin-echo and cine MRI (two ratings a case, from 1 to 5) by five readers of
# 69 cases without and 45 with a dissection. Expected values: OR-DBM MRMC 2.51, trapezoidal areas with jackknife.
NEGATIVE = [
    "13 23 23 12 52 12 12 12 13 12 11 13 41 12 12 12 12 12 12 11 11 11 31 11 34 12 11 23 11 42 12 11 14 13 12 33 11 22"
    " 13 21 12 12 22 33 33 11 31 11 13 33 33 11 11 13 14 11 12 24 22 11 12 14 11 34 34 22 11 11 11",
    "23 32 22 22 22 22 22 22 23 32 22 22 52 22 22 21 32 22 22 22 21 22 22 22 43 22 22 22 22 32 22 21 22 22 21 22 22 22"
    " 22 22 23 21 22 22 23 22 22 22 22 22 22 22 22 22 23 22 22 43 32 22 22 32 22 22 22 22 21 22 22",
    "22 24 22 22 32 52 13 12 22 22 41 21 41 23 22 22 32 22 21 22 11 21 32 21 44 11 11 35 21 22 11 11 22 21 22 42 12 21"
    " 12 42 12 21 11 13 22 21 21 21 22 23 33 21 11 13 22 12 11 22 23 12 13 54 11 42 24 12 21 12 21",
    "12 12 11 11 11 11 33 11 12 11 11 11 11 12 12 11 11 11 12 11 21 11 11 11 23 12 11 12 11 22 11 11 11 11 12 12 11 11"
    " 12 11 11 11 11 11 12 11 12 11 32 31 12 12 11 11 11 11 11 12 11 12 11 11 11 33 12 13 12 11 11",
    "32 52 13 21 12 12 12 12 21 22 22 12 21 11 11 12 22 22 11 12 32 22 21 12 13 12 12 23 12 11 22 11 12 22 32 12 21 21"
    " 12 11 12 31 31 33 22 11 12 12 23 13 12 11 12 12 12 12 11 32 42 12 22 33 11 22 13 23 11 11 31",
]
POSITIVE = [
    "55 53 55 55 45 55 55 55 44 55 55 55 45 34 44 23 43 55 55 55 55 55 55 55 13 55 45 43 55 45 55 55 34 54 55 55 15 13"
    " 55 55 55 45 45 55 11",
    "55 33 55 55 55 55 55 45 22 55 55 55 43 44 24 22 24 55 54 55 55 55 54 55 22 45 32 33 55 45 55 53 22 44 22 55 25 22"
    " 55 55 55 55 35 55 22",
    "55 42 55 55 55 55 55 55 55 55 55 55 53 45 24 31 54 55 55 55 55 55 55 55 22 55 23 23 55 55 55 54 23 55 55 55 25 23"
    " 54 55 55 55 55 55 21",
    "55 54 55 55 55 55 55 55 54 55 55 55 54 55 55 15 55 55 55 55 55 55 55 55 54 55 45 54 44 45 55 55 35 55 55 55 15 23"
    " 55 55 55 55 55 55 55",
    "55 22 55 24 55 55 55 55 15 54 45 55 43 54 23 23 33 55 55 55 55 55 55 45 12 45 41 33 23 22 15 53 12 55 14 55 15 13"
    " 53 55 55 35 55 55 23",
]


@pytest.fixture(scope="module")
def van_dyke() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth (N,) and the scores (N, R) of both modalities."""
    pairs = np.array(
        [[[int(c) for c in pair] for pair in f"{n} {p}".split()] for n, p in zip(NEGATIVE, POSITIVE, strict=True)]
    )
    truth = np.repeat([0, 1], [69, 45])
    return truth, pairs[..., 0].T.astype(float), pairs[..., 1].T.astype(float)


def drawn(seed: int, readers: int = 4, n: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = (np.arange(2 * n) >= n).astype(int)
    case = rng.normal(size=(2 * n, 1)) + 1.2 * truth[:, None]
    first, second = (case + rng.normal(size=(2 * n, readers)) + 0.2 * rng.normal(size=readers) for _ in range(2))
    return truth, first, second


def test_the_published_example(van_dyke: Any) -> None:
    truth, first, second = van_dyke
    result = compare_modalities("auroc", truth, first, second, np.arange(114))
    assert [each.value for each in result.first] == pytest.approx(
        [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066], abs=1e-8
    )
    assert [each.value for each in result.second] == pytest.approx(
        [0.94782609, 0.90531401, 0.92173913, 0.99935588, 0.92995169], abs=1e-8
    )
    gap = result.difference
    assert gap.value == pytest.approx(-0.04380032, abs=1e-8)
    random = gap.random
    assert (random.error, random.freedom, random.p) == pytest.approx((0.02075, 15.26, 0.0517), abs=5e-3)
    assert random.error == pytest.approx(0.02075, abs=5e-6)
    assert random.p == pytest.approx(0.0517, abs=5e-5)
    assert (random.low, random.high) == pytest.approx((-0.08796, 0.00036), abs=5e-6)
    assert gap.fixed.error == pytest.approx(0.01872, abs=5e-6)
    single = result.mean_first.random
    assert (single.error, single.freedom) == pytest.approx((0.03317360, 12.74), abs=5e-3)
    assert (single.low, single.high) == pytest.approx((0.82522360, 0.96885048), abs=1e-6)
    other = result.mean_second
    assert (other.random.low, other.random.high) == pytest.approx((0.89413783, 0.98753689), abs=1e-6)
    assert other.fixed.error == pytest.approx(0.01677632, abs=1e-7)


def classical(truth: np.ndarray, modalities: list[np.ndarray]) -> tuple[float, float]:
    """F and the denominator's degrees of freedom of Obuchowski and Rockette for t modalities, as in Hillis 2007."""
    n, r, t = len(truth), modalities[0].shape[1], len(modalities)
    theta = np.array([[roc_auc_score(truth, column) for column in scores.T] for scores in modalities])
    left = np.array(
        [
            [[roc_auc_score(np.delete(truth, k), np.delete(column, k)) for column in scores.T] for scores in modalities]
            for k in range(n)
        ]
    ).reshape(n, t * r)
    deviation = left - left.mean(axis=0)
    covariance = ((n - 1) / n * deviation.T @ deviation).reshape(t, r, t, r)
    readers, kinds = itertools.permutations(range(r), 2), range(t)
    pairs = list(readers)
    cov2 = np.mean([covariance[i, j, i, k] for i in kinds for j, k in pairs])
    cov3 = np.mean([covariance[i, j, h, k] for i, h in itertools.permutations(kinds, 2) for j, k in pairs])
    rows, columns = theta.mean(axis=1, keepdims=True), theta.mean(axis=0, keepdims=True)
    ms_t = r * ((rows - theta.mean()) ** 2).sum() / (t - 1)
    ms_tr = ((theta - rows - columns + theta.mean()) ** 2).sum() / ((t - 1) * (r - 1))
    error = ms_tr + max(r * (cov2 - cov3), 0.0)
    return ms_t / error, error**2 / (ms_tr**2 / ((t - 1) * (r - 1)))


@pytest.mark.parametrize("seed", range(4))
def test_two_modalities_equal_the_classical_f_test(seed: int) -> None:
    truth, first, second = drawn(seed)
    f, freedom = classical(truth, [first, second])
    random = mean_over_readers("auroc", truth, first, np.arange(60), minus=second).random
    assert random.freedom == pytest.approx(freedom)
    assert random.p == pytest.approx(f_distribution.sf(f, 1, freedom))


def test_two_readers_say_nothing_of_others() -> None:
    truth, first, second = drawn(0, readers=2)
    result = mean_over_readers("auroc", truth, first, np.arange(60), minus=second)
    assert (result.random.low, result.random.high) == (None, None)
    assert result.fixed.low < result.value < result.fixed.high


def test_left_out_is_the_figure_without_each_subject() -> None:
    truth, scores, _ = drawn(0, n=6)
    subjects = np.repeat(np.arange(6), 2)
    for metric, value in (("auroc", roc_auc_score), ("sensitivity", recall(1)), ("specificity", recall(0))):
        figures = left_out(metric, truth, scores, subjects)  # type: ignore[arg-type]
        for subject, column in itertools.product(range(6), range(4)):
            rest = subjects != subject
            assert figures.left_out[subject, column] == pytest.approx(value(truth[rest], scores[rest, column]))


def recall(side: int) -> Any:
    def value(truth: np.ndarray, scores: np.ndarray) -> float:
        return float(((scores > 0.5) == truth)[truth == side].mean())

    return value


@pytest.mark.parametrize("seed", range(3))
def test_the_unbiased_variance_has_the_moments_of_gallas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.choice([0.0, 0.5, 1.0], size=(3, 3, 4))
    indices = list(itertools.product(range(3), range(3), range(4)))
    products: dict[tuple[bool, ...], list[float]] = {}
    for one_index, other in itertools.product(indices, indices):
        same = tuple(a == b for a, b in zip(one_index, other, strict=True))
        products.setdefault(same, []).append(kernel[one_index] * kernel[other])
    share = {axis: {True: 1 / n, False: (n - 1) / n} for axis, n in enumerate(kernel.shape)}
    expected = sum(
        share[0][same[0]] * share[1][same[1]] * share[2][same[2]] * np.mean(values) for same, values in products.items()
    ) - np.mean(products[False, False, False])
    assert unbiased_variance(list(np.moveaxis(kernel, 2, 0))) == pytest.approx(expected)


def test_the_model_against_readers() -> None:
    truth, readers, _ = drawn(1)
    model = readers.mean(axis=1, keepdims=True)
    gap = compare_modalities("auroc", truth, model, readers, np.arange(60)).difference
    other = compare_modalities("auroc", truth, readers, model, np.arange(60)).difference
    expected = roc_auc_score(truth, model[:, 0]) - np.mean([roc_auc_score(truth, x) for x in readers.T])
    assert gap.value == pytest.approx(expected)
    assert other.value == pytest.approx(-expected)
    assert (gap.random.low, gap.random.high) == pytest.approx((-other.random.high, -other.random.low))
    assert gap.unbiased.error == pytest.approx(other.unbiased.error)


def test_sensitivity_and_specificity_of_calls() -> None:
    truth, first, second = drawn(2)
    calls = [(scores > 0.6).astype(float) for scores in (first, second)]
    result = compare_modalities("sensitivity", truth, *calls, np.arange(60))
    expected = (calls[0][30:].mean(axis=0) - calls[1][30:].mean(axis=0)).mean()
    assert result.difference.value == pytest.approx(expected)
    assert result.difference.unbiased is None
    assert result.mean_first.random.high <= 1
    assert result.mean_first.random.p is None


def test_subjects_with_several_cases_are_left_out_together() -> None:
    truth, first, second = drawn(3)
    twice = (np.repeat(each, 2, axis=0) for each in (truth, first, second))
    single = compare_modalities("auroc", truth, first, second, np.arange(60))
    double = compare_modalities("auroc", *twice, np.repeat(np.arange(60), 2))
    assert double.difference.random.error == pytest.approx(single.difference.random.error)
    assert double.difference.unbiased.low is None
    assert single.difference.unbiased.low is not None


def test_what_cannot_be_computed() -> None:
    truth, first, second = drawn(4)
    alone = compare_modalities("auroc", truth, first[:, :1], second[:, :1], np.arange(60)).difference
    assert (alone.random.low, bool(alone.random.reason)) == (None, True)
    assert alone.fixed.low is not None
    negative = compare_modalities("auroc", np.zeros(60), first, second, np.arange(60))
    assert negative.difference.value is None
    assert negative.first[0].value is None
    same = compare_modalities("auroc", truth, first, first, np.arange(60)).difference
    assert (same.value, same.random.low) == (0.0, None)
    first[0, 0] = np.nan
    assert compare_modalities("auroc", truth, first, second, np.arange(60)).n_cases == 59
    assert compare_modalities("auroc", truth[:0], first[:0], second[:0], np.arange(0)).difference.value is None


def test_readers_who_do_not_differ_have_the_variance_of_cases() -> None:
    result = random_readers(np.full(3, 0.1), np.full((3, 3), 0.01))
    assert result.error == pytest.approx(0.1)
    assert result.p == pytest.approx(0.3173, abs=1e-4)
