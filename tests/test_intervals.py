"""Intervals of figures: closed forms, exact where nothing varies, and how often they contain the true value."""

import numpy as np
import pytest
from scipy import stats

from casewise.evaluation import intervals
from casewise.evaluation.bootstrap import Estimate, Plan, by_subject, mean_by_subject
from casewise.evaluation.classification import PredictionMatrix, judge_classes
from casewise.evaluation.intervals import Basis, ends
from casewise.metrics.classes import Classes, Samples, class_metrics
from casewise.metrics.numbers import moments, number_metrics, sum_by_subject

TWO = Classes(("negative", "positive"), "classification", 1)


def judged(samples: Samples, classes: Classes = TWO, plan: Plan = Plan(50)) -> dict[str, dict[str, Estimate]]:
    learners = [f"net{n}" for n in range(samples.decided.shape[1])]
    predicted = np.ones(samples.decided.shape, dtype=bool)
    matrix = PredictionMatrix(learners, samples, predicted, predicted * 1)
    return judge_classes(matrix, classes, plan, comparing=False)[0]


def binary(truth: list[int], decided: list[int], subjects: list[str] | None = None) -> Samples:
    """One learner whose probability of its decision is 0.8, a little different in each case."""
    sure = 0.8 + 0.01 * np.arange(len(truth)) / len(truth)
    positive = np.where(np.array(decided) == 1, sure, 1 - sure)
    p = np.stack([1 - positive, positive], axis=-1)[:, None]
    names = subjects or [f"s{n:03d}" for n in range(len(truth))]
    return Samples(np.array(truth), np.array(decided)[:, None], p, p * np.nan, np.array(names))


@pytest.mark.parametrize(("name", "largest"), [("brier", 2.0), ("log_loss", 36.05)])
def test_an_interval_that_reaches_the_largest_value_is_rough(name: str, largest: float) -> None:
    assert not intervals.rough(name, 200, 0.9 * largest)
    assert intervals.rough(name, 200, largest)


def test_a_few_confident_errors_give_a_rough_brier_score_and_log_loss() -> None:
    # of 12 subjects, one is wrong with a probability of 1
    truth = np.array([0, 1] * 6)
    positive = np.where(truth == 1, 0.999, 0.001)
    positive[0] = 1.0
    p = np.stack([1 - positive, positive], axis=-1)[:, None]
    names = np.array([f"s{number}" for number in range(12)])
    figures = judged(Samples(truth, (positive > 0.5).astype(int)[:, None], p, p * np.nan, names))["net0"]
    for name, largest in (("brier", 2.0), ("log_loss", 36.0437)):
        assert figures[name].high == pytest.approx(largest, abs=1e-4)
        assert figures[name].rough


def test_a_mean_absolute_error_of_few_subjects_is_rough_whatever_its_errors_look_like() -> None:
    """Of 12 subjects with skewed errors 91 % are covered, and 79 % where the sample happens not to look skewed."""
    errors = np.random.default_rng(0).normal(0, 1, 20)
    for count, is_rough in ((12, True), (19, True), (20, False)):
        figures = by_subject(np.zeros(count), {"net": errors[:count]}, np.arange(count))["net"]
        assert (figures["mae"].low is not None, figures["mae"].rough) == (True, is_rough)


def test_skewed_differences_are_covered_and_limits_miss_on_both_sides_alike() -> None:
    rng = np.random.default_rng(5)
    # mean and variance of a lognormal vary together, so that its upper limit varies more than the lower one
    errors, missed = rng.lognormal(0, 0.6, (80, 600)), {}
    mean, variance = np.exp(0.18), (np.exp(0.36) - 1) * np.exp(0.36)
    truth = {"loa_low": mean - 1.96 * np.sqrt(variance), "loa_high": mean + 1.96 * np.sqrt(variance)}
    truth["mse"] = mean**2 + variance
    found = by_subject(np.zeros(80), {str(n): errors[:, n] for n in range(600)}, np.arange(80))
    for name, true in truth.items():
        ends = np.array([[f[name].low, f[name].high] for f in found.values()], float)
        missed[name] = float(np.mean((ends[:, 0] > true) | (ends[:, 1] < true)))
    assert all(0.01 < share < 0.075 for share in missed.values())
    assert abs(missed["loa_low"] - missed["loa_high"]) < 0.05


@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_are_wider_than_the_jackknife_only_where_few_errors_decide(skewed: bool) -> None:
    rng, n = np.random.default_rng(3), 100
    truth = rng.normal(0, 2, (n, 500))
    errors = rng.lognormal(0, 1.2, (n, 500)) if skewed else rng.normal(0, 1, (n, 500))
    found = [by_subject(truth[:, k], {"net": truth[:, k] + errors[:, k]}, np.arange(n))["net"] for k in range(500)]
    squares = errors**2
    half = stats.t.ppf(0.975, n - 1) * stats.sem(squares) / squares.mean(axis=0)
    ends = np.array([[each["mse"].low, each["mse"].high] for each in found], float)
    ratio = np.median(np.log(ends[:, 1] / ends[:, 0]) / (2 * half))
    if skewed:
        assert ratio > 1.5
        return
    assert 1.0 <= ratio < 1.1
    for name, true in {"mse": 1.0, "ccc": 8 / 9, "loa_high": 1.96}.items():
        covered = np.mean([each[name].low <= true <= each[name].high for each in found])
        assert 0.92 <= covered <= 0.972, name


@pytest.mark.parametrize(("trainings", "spread"), [(3, 0.15), (5, 0.15), (5, 0.0)])
def test_the_interval_over_trainings_includes_their_variation(trainings: int, spread: float) -> None:
    rng, n, inside = np.random.default_rng(7), 60, []
    true = np.sqrt(2 / np.pi) * np.exp(spread**2 / 2)
    for _ in range(500):
        scale = np.exp(spread * rng.normal(size=trainings))
        errors = scale[:, None] * (0.8 * rng.normal(size=n) + 0.6 * rng.normal(size=(trainings, n)))
        predicted = {str(k): errors[k] for k in range(trainings)}
        found = [each["mae"] for each in by_subject(np.zeros(n), predicted, np.arange(n)).values()]
        low, high = intervals.over_trainings("mae", found[0], [each.value for each in found], 0.95)
        inside.append((found[0].low <= true <= found[0].high, low <= true <= high))
    conditional, joint = np.mean(inside, axis=0)
    assert joint >= 0.92
    assert (conditional < 0.85) == (spread > 0)


def test_the_interval_of_a_mean_of_single_cases_is_students() -> None:
    truth, error = np.zeros(12), np.random.default_rng(0).uniform(-1, 2, 12)
    found = by_subject(truth, {"net": error}, np.arange(12))["net"]["bias"]
    expected = stats.t.interval(0.95, 11, loc=error.mean(), scale=stats.sem(error))
    assert [found.low, found.high] == pytest.approx(list(expected))


def test_a_share_with_few_events_has_an_interval_between_none_and_more() -> None:
    found = [mean_by_subject([1] * k + [0] * (51 - k), range(51), name="share") for k in range(9)]
    for end in ("low", "high"):
        assert np.all(np.diff([share[end] for share in found]) > 0)
    exact = stats.binomtest(1, 51).proportion_ci(0.95, method="exact")
    assert (found[1].low, found[1].high) == pytest.approx((exact.low, exact.high), abs=0.005)
    mirrored = mean_by_subject([0] + [1] * 50, range(51), name="share")
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found[1].high, 1 - found[1].low))


def test_all_right_is_not_certainty() -> None:
    truth = [0, 1] * 3
    found = judged(binary(truth, truth))["net0"]
    for name, trials in (("accuracy", 6), ("sensitivity", 3), ("specificity", 3), ("auroc", 3), ("precision", 3)):
        exact = stats.binomtest(trials, trials).proportion_ci(0.95, method="exact")
        assert (found[name].value, found[name].high) == (1.0, 1.0)
        assert found[name].low == pytest.approx(exact.low)
    assert found["kappa"].low == pytest.approx(0.025 ** (1 / 3))
    wrong = judged(binary(truth, [1 - k for k in truth]))["net0"]["accuracy"]
    assert [wrong.value, wrong.low, wrong.high] == pytest.approx([0.0, 0.0, 1 - 0.025 ** (1 / 6)])


@pytest.mark.parametrize("k", [2, 3])
def test_points_are_those_of_the_formulas_to_the_last_bit(k: int) -> None:
    rng = np.random.default_rng(k)
    subjects, p = rng.integers(0, 25, 90).astype(str), rng.dirichlet(np.ones(k), (90, 4))
    samples = Samples(rng.integers(0, k, 90), p.argmax(-1), p, p, subjects)
    classes = Classes(tuple("abc"[:k]), "ordinal", 1 if k == 2 else None)
    points = class_metrics(samples, classes, np.ones((1, len(np.unique(subjects)))))
    for number, figures in enumerate(judged(samples, classes).values()):
        assert {name: figure.value for name, figure in figures.items()} == {
            name: float(point[0, number]) for name, point in points.items()
        }
    truth, predicted = rng.normal(size=90), rng.normal(size=90)
    terms = moments(truth[:, None], predicted[:, None], centre=float(truth.mean()))
    direct = number_metrics(sum_by_subject(terms, subjects).sum(axis=0))
    found = by_subject(truth, {"net": predicted}, subjects)["net"]
    assert {name: figure.value for name, figure in found.items()} == {n: float(v[0]) for n, v in direct.items()}


def test_many_subjects_are_left_out_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    truth, subjects = rng.uniform(0, 40, 900), np.arange(900) % 300
    predicted = truth + rng.normal(0, 4, 900)
    singly = by_subject(truth, {"net": predicted}, subjects)["net"]
    monkeypatch.setattr(intervals, "GROUPS", 60)
    grouped = by_subject(truth, {"net": predicted}, subjects)["net"]
    for name, figure in grouped.items():
        alone = singly[name]
        assert figure.value == alone.value
        assert None not in (figure.low, figure.high, alone.low, alone.high)
        assert (figure.high - figure.low) / (alone.high - alone.low) == pytest.approx(1, abs=0.3)  # type: ignore[operator]


def test_figures_that_do_not_vary_have_no_interval() -> None:
    truth, subjects = np.arange(12.0), np.arange(12)
    perfect = by_subject(truth, {"net": truth}, subjects)["net"]
    shifted = by_subject(truth, {"net": truth + 1}, subjects)["net"]
    for figure in (*(perfect[name] for name in ("mae", "bias", "ccc")), *(shifted[name] for name in ("mae", "bias"))):
        assert (figure.low, figure.high) == (None, None)
        assert figure.reason


def test_the_difference_of_two_means_is_that_of_independent_samples() -> None:
    first, second = Estimate(5.0, 4.0, 6.0, 9, 9, rough=False), Estimate(3.0, 2.25, 3.75, 9, 9, rough=False)
    assert intervals.difference(first, second) == pytest.approx((2 - 1.25, 2 + 1.25))
    assert intervals.difference(first, Estimate(3.0, None, None, 2, 2, rough=True)) is None


def test_an_interval_ends_at_the_largest_value_of_a_metric() -> None:
    left_out = {name: np.array([[0.4], [0.5], [0.9], [1.2], [1.6]]) for name in ("brier", "log_loss")}
    presence, rests_on = np.ones((5, 1, 1), dtype=bool), {name: np.full(1, 5) for name in left_out}
    basis, points = Basis(left_out, presence, rests_on, 0.95), {name: np.array([0.9]) for name in left_out}
    assert ends("log_loss", points, basis)[1][0] > 2
    assert ends("brier", points, basis)[1][0] == 2


def test_no_mean_error_exceeds_the_scale() -> None:
    subjects, plan = [f"s{number}" for number in range(6)], Plan(50, scale=18.0)
    errors = [16.0, 17.0, 18.0, 4.0, 18.0, 18.0]
    free, bounded = (mean_by_subject(errors, subjects, each, name="mae") for each in (Plan(50), plan))
    assert free.high > 18
    assert (bounded.low, bounded.high) == (free.low, 18)
    beyond = mean_by_subject([20.0, 19.0, 22.0, 21.0], subjects[:4], plan, name="mae")
    assert beyond.low < beyond.value <= beyond.high


def test_a_class_without_any_right_case_widens_the_mean_over_classes() -> None:
    """None of 6 may be 46 % right by chance, so that the mean recall reaches 72 %, and the ratio 1.8."""
    import numpy as np

    from casewise.evaluation.bootstrap import Plan
    from casewise.evaluation.classification import left_out
    from casewise.evaluation.intervals import ends
    from casewise.metrics.classes import Classes, Samples

    of_positive = np.array([0.9] * 193 + [0.3] * 3 + [0.9] * 6)
    truth = np.array([1] * 196 + [0] * 6)
    p = np.stack([1 - of_positive, of_positive], -1)[:, None, :]
    samples = Samples(truth, p.argmax(-1), p, p, np.array([f"s{n}" for n in range(202)]))
    points, basis, _ = left_out(samples, Classes(("none", "pneumonia"), positive=1), Plan(100))
    for name, lowest, highest in (("balanced_accuracy", 0.482, 0.722), ("kappa", -0.042, 0.453)):
        low, high = ends(name, points, basis)
        assert (low[0], high[0]) == (pytest.approx(lowest, abs=1e-3), pytest.approx(highest, abs=1e-3))
    assert ends("lr_positive", points, basis)[1][0] == pytest.approx(1.82, abs=0.01)
    assert ends("specificity", points, basis)[1][0] == pytest.approx(0.459, abs=1e-3)
