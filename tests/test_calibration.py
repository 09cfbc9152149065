"""Calibration slopes, intercepts and curves, predictive values, likelihood ratios, and decision curves."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.calibration import class_calibration, decision_curve, number_calibration
from casewise.evaluation.results import Headline, Results
from casewise.evaluation.thresholds import judge_thresholds
from casewise.metrics.calibration import logistic, logit, smoothed
from casewise.pipeline.evaluate import with_calibration
from tests.prediction_rows import prediction_rows
from tests.report_contexts import study_of_classes

PLAN = Plan(300, 0.95, 0)


def rows_of(p: np.ndarray, truth: np.ndarray, *, per_subject: int = 2, folds: int = 0) -> pd.DataFrame:
    """Scored rows of two classes: `p` is the probability of the first."""
    subject = np.arange(len(p)) // per_subject
    names, numbers = [f"S{number:03d}" for number in subject], subject % folds + 1 if folds else None
    rows = prediction_rows(names, truth, np.stack([p, 1 - p], axis=1), folds=numbers, target="finding")
    return rows.assign(y_pred=(p < 0.5) * 1.0)


def drawn(n: int, *, slope: float = 1.0, intercept: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and classes (0 is the one of interest) whose true logit is linear in theirs."""
    random = np.random.default_rng(seed)
    x = random.normal(0, 1.5, n)
    of_class = random.random(n) < 1 / (1 + np.exp(-(intercept + slope * x)))
    return 1 / (1 + np.exp(-x)), 1 - of_class.astype(int)


class TestLines:
    def test_slopes_of_weighted_cases_are_those_of_scikit_learn(self) -> None:
        p, truth = drawn(200)
        subject = np.arange(200) // 2
        counts = np.random.default_rng(1).multinomial(100, np.full(100, 0.01), size=5).astype(float)
        fitted = logistic(logit(p), truth == 0, subject, counts, sloped=True)
        for number in range(5):
            weights, model = counts[number][subject], LogisticRegression(C=1e10, tol=1e-10, max_iter=2000)
            model.fit(logit(p)[:, None], truth == 0, sample_weight=weights)
            assert fitted[number] == pytest.approx(model.coef_[0, 0], rel=1e-4)

    def test_an_intercept_is_found_wherever_the_probabilities_lie(self) -> None:
        random, ones = np.random.default_rng(0), np.ones((1, 100))
        for middle, width, share in product((-6, -3, 0, 5), (0.1, 0.5, 3), (0.05, 0.3, 0.9)):
            x, of_class = random.normal(middle, width, 100), random.permutation(100) < 100 * share
            found = logistic(x, of_class, np.arange(100), ones, sloped=False)[0]
            assert (1 / (1 + np.exp(-(found + x)))).sum() == pytest.approx(of_class.sum(), abs=1e-4)

    def test_an_intercept_stays_found_while_others_are_searched(self) -> None:
        x, of_class = np.array([-0.6, -0.2, -0.5, -1.4, 0.5, -1.3]), np.array([1, 0, 1, 0, 0, 1])
        counts = np.ones((6, 6)) - np.eye(6)
        found = logistic(x, of_class, np.arange(6), counts, sloped=False)
        sums = counts @ of_class - (counts / (1 + np.exp(-(found[:, None] + x)))).sum(axis=1)
        assert np.allclose(sums, 0, atol=1e-6)

    def test_undefined_slopes_are_nan(self) -> None:
        x, ones = np.array([-2.0, -1, 1, 2]), np.ones((1, 4))
        for values, of_class in ((x, x > 0), (np.ones(4), x > 0), (x, x > -9)):
            assert np.isnan(logistic(values, of_class, np.arange(4), ones, sloped=True)[0])
        assert np.isnan(logistic(x, x > -9, np.arange(4), ones, sloped=False)[0])

    def test_a_smoothed_line_is_a_line_and_stays_defined_at_ties(self) -> None:
        x = np.repeat([0.2, 0.8], 10)
        subjects, ones = np.arange(20).astype(str), np.ones((1, 20))
        values = smoothed(x, x, subjects, ones, np.array([0.2, 0.5, 0.8]))
        assert np.allclose(values, [[0.2, 0.5, 0.8]], atol=0.02)


class TestClasses:
    @pytest.mark.parametrize("slope", [0.3, 2.5, 1.0])
    def test_the_planted_slope_is_within_its_interval(self, slope: float) -> None:
        p, truth = drawn(800, slope=slope, seed=4)
        entry = class_calibration(rows_of(p, truth), ["ill", "well"], "ill", PLAN)["ill"]
        assert entry.slope.low < slope < entry.slope.high
        assert entry.slope_by_fold == {}
        assert all(point.low <= point.observed <= point.high for point in entry.curve[5:-5])

    def test_out_of_fold_each_folds_slope_stands_beside_the_pooled_one(self) -> None:
        p, truth = drawn(400, slope=1.0)
        rows = rows_of(p, truth, folds=2)
        first = (rows["outer_fold"] == 1).to_numpy()
        odds = np.where(first, 2.0, 0.5) * logit(p)
        p = 1 / (1 + np.exp(-odds))
        entry = class_calibration(rows.assign(p0=p, p1=1 - p), ["ill", "well"], "ill", PLAN)["ill"]
        assert entry.slope_by_fold["1"] < entry.slope.value < entry.slope_by_fold["2"]

    def test_separated_and_constant_probabilities_have_reasons_instead_of_slopes(self) -> None:
        truth = np.tile([0, 1], 30)
        separated = class_calibration(rows_of(np.where(truth == 0, 0.8, 0.2), truth), ["a", "b"], "a", PLAN)["a"]
        constant = class_calibration(rows_of(np.full(60, 0.4), truth), ["a", "b"], "a", PLAN)["a"]
        absent = class_calibration(rows_of(np.linspace(0.1, 0.9, 60), truth * 0), ["a", "b"], "a", PLAN)["a"]
        reasons = [entry.slope.reason for entry in (separated, constant, absent)]
        assert len(set(reasons)) == 3
        assert [entry.slope.value for entry in (separated, constant, absent)] == [None] * 3
        assert constant.intercept.value == pytest.approx(np.log(0.5 / 0.5) - logit(np.array([0.4]))[0])
        assert constant.curve == absent.curve == []


def test_the_line_of_a_number_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(20, 5, 120)
    rows = rows_of(np.full(120, 0.5), truth).assign(y_true=truth, y_pred=5 + 1.4 * truth + random.normal(0, 2, 120))
    entry, model = number_calibration(rows, PLAN), LinearRegression().fit(rows[["y_pred"]].to_numpy(), truth)
    assert entry.slope.value == pytest.approx(model.coef_[0])
    assert entry.intercept.value == pytest.approx(model.intercept_)
    two = number_calibration(rows.assign(subject=np.repeat(["a", "b"], 60)), PLAN)
    assert (two.slope.low, two.slope.reason) == (None, "two subjects: no interval")
    assert {point.low for point in two.curve} == {None}
    same = number_calibration(rows.assign(y_pred=3.0), PLAN)
    assert same.slope.value is None
    assert same.slope.reason


class TestPredictiveValues:
    def point(self, truth: list[int], called: list[int], **settings: Any) -> dict[str, Any]:
        arrays = (np.array(called, float)[:, None], np.full((len(truth), 1), 0.5), np.array(truth)[:, None] == 1)
        subjects = np.arange(len(truth)).astype(str)
        (point,) = judge_thresholds(*arrays, subjects, PLAN, n_cases=len(truth), **settings)
        return point

    def test_they_follow_bayes(self) -> None:
        # 8 of 10 positive cases and 5 of 20 negative ones are called positive
        truth, called = [1] * 10 + [0] * 20, [1] * 8 + [0] * 2 + [1] * 5 + [0] * 15
        point = self.point(truth, called, prevalence=0.02)
        values = {name: estimate.value for name, estimate in point.items()}
        assert (values["npv"], values["lr_positive"]) == (pytest.approx(15 / 17), pytest.approx(0.8 / 0.25))
        assert values["lr_negative"] == pytest.approx(0.2 / 0.75)
        odds = 0.02 / 0.98 * values["lr_positive"]
        assert values["ppv_at_prevalence"] == pytest.approx(odds / (1 + odds))
        at_own = self.point(truth, called, prevalence=1 / 3)
        assert at_own["ppv_at_prevalence"].value == pytest.approx(at_own["precision"].value)
        assert at_own["npv_at_prevalence"].value == pytest.approx(at_own["npv"].value)

    def test_without_a_case_on_one_side_no_predictive_value_is_stated(self) -> None:
        for truth, side in ((0, "no case"), (1, "every case")):
            point = self.point([truth] * 12, [1] * 5 + [0] * 7)
            for name in ("precision", "npv"):
                assert point[name].value is None
                assert point[name].reason == f"{side} is truly of the class"


class TestDecisions:
    def test_net_benefit_is_counted(self) -> None:
        p, truth = np.array([0.9, 0.6, 0.3, 0.2, 0.1]), np.array([0, 1, 0, 1, 1])
        low, high = decision_curve(rows_of(p, truth, per_subject=1), 0, [0.25, 0.5], PLAN)
        assert low.model.value == pytest.approx(2 / 5 - 1 / 5 * 0.25 / 0.75)
        assert low.treat_all.value == pytest.approx(2 / 5 - 3 / 5 * 0.25 / 0.75)
        assert high.model.value == pytest.approx(1 / 5 - 1 / 5)
        assert high.over_all.value == pytest.approx(high.model.value - high.treat_all.value)

    def test_only_declared_thresholds_are_evaluated_and_stated(self) -> None:
        p, truth = drawn(120)
        rows, outcome = rows_of(p, truth), study_of_classes("binary").primary_outcome
        rows = rows.assign(target=outcome)
        main = Headline(outcome, "test", "net", chosen_on="oof", kind="classification")
        results, settings = Results(main), {"bootstrap_resamples": 100}
        plain = with_calibration(study_of_classes("binary", evaluation=settings), rows, results)
        assert plain.decision_curves is None
        study = study_of_classes("binary", evaluation={**settings, "decision_thresholds": [0.1, "30%"]})
        results = with_calibration(study, rows, results)
        (points,) = results.decision_curves["test"].values()
        assert [point.threshold for point in points if point.declared] == [0.1, 0.3]
        assert all(0 < point.threshold < 1 for point in points)
