"""Metrics from sums against scikit-learn, SciPy and closed forms."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error

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
