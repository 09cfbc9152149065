"""Metrics of numbers and agreement against references and closed forms."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score, confusion_matrix, mean_absolute_error, mean_squared_error

from casewise.evaluation.agreement import band_of, between_readers, category_agreement, group_agreement, with_readers
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.figures import READERS
from casewise.metrics.numbers import moments, number_metrics, reason
from casewise.metrics.registry import metrics_of
from tests.prediction_rows import metric_value

RNG = np.random.default_rng(4)
TRUTH = RNG.uniform(0, 43, 34)
PREDICTED = 0.8 * TRUTH + RNG.normal(2, 4, 34)

NUMBER_METRICS = [metric.name for metric in metrics_of("regression")]


def test_error_and_correlation_are_the_libraries() -> None:
    assert metric_value("mae", TRUTH, PREDICTED) == pytest.approx(mean_absolute_error(TRUTH, PREDICTED))
    assert metric_value("mse", TRUTH, PREDICTED) == pytest.approx(mean_squared_error(TRUTH, PREDICTED))
    assert metric_value("pcc", TRUTH, PREDICTED) == pytest.approx(stats.pearsonr(TRUTH, PREDICTED).statistic)


def test_concordance_is_lins_formula() -> None:
    covariance = np.cov(TRUTH, PREDICTED, bias=True)
    expected = 2 * covariance[0, 1] / (covariance.trace() + (TRUTH.mean() - PREDICTED.mean()) ** 2)
    assert metric_value("ccc", TRUTH, PREDICTED) == pytest.approx(expected)


def test_icc_is_the_published_example() -> None:
    # Shrout and Fleiss 1979, Table 2, the first two of four judges; mean squares worked out by the textbook's sums
    one, two = np.array([9.0, 6, 8, 7, 10, 6]), np.array([2.0, 1, 4, 1, 5, 2])
    scores = np.stack([one, two], axis=1)
    grand, n, k = scores.mean(), 6, 2
    rows = k * ((scores.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    columns = n * ((scores.mean(axis=0) - grand) ** 2).sum() / (k - 1)
    rest = ((scores - grand) ** 2).sum() - rows * (n - 1) - columns * (k - 1)
    residual = rest / ((n - 1) * (k - 1))
    expected = (rows - residual) / (rows + (k - 1) * residual + k * (columns - residual) / n)
    assert metric_value("icc", one, two) == pytest.approx(expected)


def test_limits_of_agreement_are_mean_and_sd_of_the_difference() -> None:
    difference = PREDICTED - TRUTH
    half = 1.96 * difference.std(ddof=1)
    assert metric_value("bias", TRUTH, PREDICTED) == pytest.approx(difference.mean())
    assert metric_value("loa_low", TRUTH, PREDICTED) == pytest.approx(difference.mean() - half)
    assert metric_value("loa_high", TRUTH, PREDICTED) == pytest.approx(difference.mean() + half)


pairs = st.lists(st.tuples(st.floats(0, 72), st.floats(0, 72)), min_size=3, max_size=30)


@given(pairs, st.floats(-1e4, 1e4))
@example([(0, 1), (0, 1), (1, 0)], 0.0)
@settings(max_examples=80, deadline=None)
def test_moving_both_sides_changes_nothing(values: list[tuple[float, float]], shift: float) -> None:
    truth, predicted = np.array(values).T
    assume(truth.std() > 1e-2)
    assume(predicted.std() > 1e-2)
    # means of both that hardly vary leave the proportional bias to rounding
    assume(not 0 < np.ptp(truth + predicted) < 1e-2)
    for name in NUMBER_METRICS:
        original, moved = metric_value(name, truth, predicted), metric_value(name, truth + shift, predicted + shift)
        # an undefined metric stays undefined
        assert original == (moved if moved is None else pytest.approx(moved, rel=1e-5, abs=1e-6))


def test_a_drawn_subject_counts_as_often_as_it_was_drawn() -> None:
    terms, often = moments(TRUTH, PREDICTED), np.arange(34) % 3
    repeated = number_metrics((terms * often[:, None]).sum(axis=0))
    for name in NUMBER_METRICS:
        expected = metric_value(name, np.repeat(TRUTH, often), np.repeat(PREDICTED, often))
        assert float(repeated[name]) == pytest.approx(expected)


def test_what_is_undefined_is_none_with_a_reason_and_without_a_warning() -> None:
    flat, rising = np.full(5, 2.3), np.arange(5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("pcc", "ccc", "icc"):
            assert metric_value(name, flat, rising) is None
            assert metric_value(name, rising[:2], rising[:2]) is None
        assert metric_value("pcc", rising, flat) is None
        assert metric_value("ccc", rising, flat) == 0
        assert metric_value("mae", np.array([]), np.array([])) is None
        assert metric_value("mae", np.array([np.nan]), np.array([1.0])) is None
        assert metric_value("mae", np.array([np.nan, 1.0]), np.array([1.0, 3.0])) == 2
    assert reason("pcc", moments(flat, rising).sum(axis=0)) == "the true values are all the same"
    assert reason("pcc", moments(rising, flat).sum(axis=0)) == "the predicted values are all the same"
    assert reason("pcc", moments(rising[:2], flat[:2]).sum(axis=0)) == "2 values; 3 are needed"


PLAN = Plan(resamples=200)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=40))
@settings(max_examples=60, deadline=None)
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    counts = confusion_matrix(truth, predicted, labels=range(4))
    found = category_agreement(counts.ravel())
    assert found["agreement"] == pytest.approx((truth == predicted).mean())
    if len(set(truth) | set(predicted)) < 2:
        assert np.isnan(found["kappa"])
        return
    assert found["kappa"] == pytest.approx(cohen_kappa_score(truth, predicted, labels=range(4)))
    quadratic = cohen_kappa_score(truth, predicted, labels=range(4), weights="quadratic")
    assert found["kappa_quadratic"] == pytest.approx(quadratic)


@pytest.mark.parametrize("side", ["reference", "model"])
def test_kappa_is_not_stated_where_one_side_has_one_group(side: str) -> None:
    several, one = np.tile([0, 1, 1], 12), np.ones(36, dtype=int)
    truth, predicted = (one, several) if side == "reference" else (several, one)
    found = group_agreement(truth, predicted, np.repeat(np.arange(12), 3), PLAN, n_groups=2)
    assert found.agreement.value == pytest.approx(2 / 3)
    for name in ("kappa", "kappa_quadratic"):
        assert found[name].value is found[name].low is found[name].high is None
        assert side in found[name].reason


def test_group_agreement_counts_and_resamples_subjects() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    predicted, subjects = np.where(rng.random(60) < 0.7, truth, rng.integers(0, 3, 60)), np.repeat(np.arange(20), 3)
    found = group_agreement(truth, predicted, subjects, PLAN, n_groups=3)
    assert found.confusion == confusion_matrix(truth, predicted).tolist()
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert (found.kappa.n_subjects, found.kappa.n_cases) == (20, 60)
    tiled = group_agreement(*(np.tile(a, 4) for a in (truth, predicted, subjects)), PLAN, n_groups=3)
    assert tiled.kappa.low == pytest.approx(found.kappa.low)
    alike = group_agreement(np.ones(6), np.ones(6), np.arange(6), PLAN, n_groups=2)
    assert alike.agreement.value == 1
    assert alike.kappa.value is None
    assert "one group" in alike.kappa.reason


def test_bands() -> None:
    bands = {"moderate to severe": 10, "clear": 0, "mild": 1}
    assert band_of(np.array([-1, 0, 0.99, 1, 9.99, 10, 72]), bands).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert band_of(np.array([0.1 * 3]), {"a": 0, "b": 0.3}).tolist() == [1]


def test_readers_agree_with_each_other_and_with_learners_as_the_metrics_say() -> None:
    rng = np.random.default_rng(0)
    truth, subjects = rng.uniform(0, 3, 40), [f"s{n // 4}" for n in range(40)]
    cases = pd.DataFrame({"case": [f"{s}/{n}" for n, s in enumerate(subjects)], "subject": subjects, "target": "score"})
    scored = {name: truth + rng.normal(0, sd, 40) for name, sd in (("senior", 0.2), ("junior", 0.6))}
    readers = pd.concat([cases.assign(reader=name, value=values) for name, values in scored.items()])
    pair = between_readers(readers, PLAN).of("", "", "score", READERS, "junior | senior")
    for name in ("mae", "pcc", "ccc", "icc", "bias"):
        assert pair[name].value == pytest.approx(metric_value(name, scored["junior"], scored["senior"]))
    assert (pair["mae"].n_subjects, pair["mae"].n_cases) == (10, 40)
    # two images of a case, whose predictions are averaged
    rows = [cases.assign(model="net", region="", image=f"film{n}", y_pred=truth + n) for n in (-1, 2)]
    found = with_readers(pd.concat(rows), readers.iloc[:-2], PLAN)
    senior, junior = (found.of("", "net", "score", READERS, contrast=name)["mae"] for name in ("senior", "junior"))
    assert senior.value == pytest.approx(metric_value("mae", scored["senior"], truth + 0.5))
    assert junior.n_cases == 38
