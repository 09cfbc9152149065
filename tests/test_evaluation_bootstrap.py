"""Intervals: by subject, the same as the slow way, honest in size."""

import json
from dataclasses import replace

import numpy as np
import pytest

from casewise.evaluation.bootstrap import Plan, by_subject, draw, percentiles, resample
from casewise.evaluation.record import plain
from casewise.metrics.numbers import moments, number_metrics, sum_by_subject
from casewise.metrics.registry import metrics_of
from tests.prediction_rows import metric_value

PLAN = Plan(resamples=400, seed=3)

NUMBER_METRICS = [metric.name for metric in metrics_of("regression")]


def visits(subjects: int, each: int, seed: int, *, within: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths, predictions whose error is mostly the subject's own, and subjects."""
    rng, names = np.random.default_rng(seed), np.repeat([f"s{n:03d}" for n in range(subjects)], each)
    truth = rng.uniform(0, 40, subjects * each)
    error = np.repeat(rng.normal(0, 3, subjects), each) + rng.normal(0, within, subjects * each)
    return truth, truth + error, names


def test_resamples_are_of_whole_subjects_by_hand() -> None:
    truth, predicted, subjects = visits(12, 3, 0)
    terms = moments(truth[:, None], predicted[:, None], centre=float(truth.mean()))
    points, samples = resample(sum_by_subject(terms, subjects), number_metrics, PLAN)
    names = np.unique(subjects)
    for number, counts in enumerate(draw(12, PLAN)[:50]):
        rows = np.concatenate(
            [np.flatnonzero(subjects == n) for n, c in zip(names, counts, strict=True) for _ in range(int(c))]
        )
        for name in NUMBER_METRICS:
            assert samples[name][number, 0] == pytest.approx(metric_value(name, truth[rows], predicted[rows]))
    assert points["mae"][0] == pytest.approx(metric_value("mae", truth, predicted))


def test_rows_doubled_within_subjects_do_not_narrow_the_interval() -> None:
    truth, predicted, subjects = visits(15, 2, 1)
    once = by_subject(truth, {"net": predicted}, subjects, PLAN)["net"]
    often = by_subject(*(np.tile(truth, 5), {"net": np.tile(predicted, 5)}, np.tile(subjects, 5)), PLAN)["net"]
    for name in ("mae", "mse", "pcc", "ccc", "bias"):
        assert [often[name].low, often[name].high] == pytest.approx([once[name].low, once[name].high])
    rows = np.arange(5 * len(truth))
    rows_as_subjects = by_subject(np.tile(truth, 5), {"net": np.tile(predicted, 5)}, rows, PLAN)["net"]["mae"]
    assert rows_as_subjects.high - rows_as_subjects.low < 0.6 * (once["mae"].high - once["mae"].low)


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    plan, covered, rows_covered = Plan(resamples=300), 0, 0
    for seed in range(150):
        truth, predicted, subjects = visits(30, 5, seed)
        found = by_subject(truth, {"net": predicted}, subjects, plan)["net"]["bias"]
        covered += found.low <= 0 <= found.high
        by_row = by_subject(truth, {"net": predicted}, np.arange(150), plan)["net"]["bias"]
        rows_covered += by_row.low <= 0 <= by_row.high
    assert 0.88 <= covered / 150 <= 0.99
    assert rows_covered / 150 < 0.8  # taking rows for independent would promise too much


def test_percentiles_are_numpys_where_all_are_defined() -> None:
    samples = np.random.default_rng(0).normal(size=(501, 3))
    low, high = percentiles(samples, 0.9)
    np.testing.assert_allclose([low, high], np.percentile(samples, [5, 95], axis=0))
    samples[:20, 1], samples[:200, 2] = np.nan, np.nan
    low, high = percentiles(samples, 0.9)
    assert low[1] == pytest.approx(np.nanpercentile(samples[:, 1], 5))
    assert np.isnan(low[2])


@pytest.mark.filterwarnings("error")
def test_what_has_no_interval_says_why() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    one = by_subject(truth, {"net": truth + 1}, np.array(["s"] * 4), PLAN)["net"]
    flat = by_subject(truth * 0, {"net": truth}, np.array(list("abcd")), PLAN)["net"]
    none = by_subject(truth * np.nan, {"net": truth}, np.array(list("abcd")), PLAN)["net"]
    nearly_flat = by_subject(np.array([0.0, 0, 0, 4.0]), {"net": truth}, np.array(list("abcd")), PLAN)["net"]
    assert (one["mae"].value, one["mae"].low, one["mae"].reason) == (1.0, None, "one subject: no interval")
    assert (flat["pcc"].value, flat["pcc"].reason) == (None, "the true values are all the same")
    assert (none["mae"].value, none["mae"].n_cases, none["mae"].reason) == (None, 0, "0 values; 1 are needed")
    assert nearly_flat["pcc"].value is not None
    assert (nearly_flat["pcc"].low, nearly_flat["mae"].low is None) == (None, False)
    assert nearly_flat["pcc"].reason
    images = by_subject(truth, {"net": truth + 1}, np.array(["s"] * 4), replace(PLAN, unit="image"))["net"]
    assert images["mae"].reason == one["mae"].reason.replace("subject", "image")
    few = np.repeat(list("ab"), 2)
    pair = [by_subject(truth, {"net": truth + 1}, few, plan)["net"]["mae"] for plan in (PLAN, replace(PLAN, unit="x"))]
    assert pair[1].reason == str(pair[0].reason).replace("subject", "x") != pair[0].reason
    for figures in (one, flat, none, nearly_flat):
        json.dumps(plain(figures), allow_nan=False)


def test_a_learner_is_judged_on_the_rows_it_predicted() -> None:
    truth, predicted, subjects = visits(12, 2, 5)
    partly = predicted.copy()
    partly[:6] = np.nan
    found = by_subject(truth, {"all": predicted, "part": partly}, subjects, PLAN)
    alone = by_subject(truth[6:], {"part": predicted[6:]}, subjects[6:], PLAN)
    assert (list(found), found["part"]) == (["all", "part"], alone["part"])
    assert (found["all"]["mae"].n_subjects, found["part"]["mae"].n_subjects) == (12, 9)


def test_resamples_of_many_subjects_take_two_bytes_a_subject_and_are_the_same() -> None:
    plan, n_subjects = Plan(1_700, seed=3), 10_000
    counts, sums = draw(n_subjects, plan), np.arange(2.0 * n_subjects).reshape(n_subjects, 2)
    even = np.full(n_subjects, 1 / n_subjects)
    expected = np.random.default_rng(plan.seed).multinomial(n_subjects, even, size=plan.resamples)
    assert counts.nbytes == 2 * plan.resamples * n_subjects
    assert np.array_equal(counts[:], expected)
    assert np.array_equal(counts @ sums, expected @ sums)


def test_counts_of_resamples_may_be_subtracted() -> None:
    counts = draw(20, Plan(50))
    plain = counts[:]
    np.testing.assert_array_equal(counts - 1, plain - 1)
    np.testing.assert_array_equal(-counts, -plain)
    assert (counts - 1).min() == -1
