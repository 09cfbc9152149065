"""Percent change from baseline and responders, by the reference and by the model."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.record import plain
from casewise.evaluation.response import percent_change, rate, response

PLAN = Plan(resamples=200)


def visits(*rows: tuple[str, str, float | None, float | None, float]) -> pd.DataFrame:
    """Rows of (subject, visit, day, true, predicted)."""
    table = pd.DataFrame(rows, columns=["subject", "visit", "day", "y_true", "y_pred"])
    return table.astype({"day": float, "y_true": float, "y_pred": float})


def by_visit(table: pd.DataFrame, column: str) -> dict[str, Any]:
    return dict(zip(table["visit"], table[column], strict=True))


def test_change_is_from_the_first_visit_by_day() -> None:
    found = percent_change(visits(("s", "b", 28, 5, 6), ("s", "a", 56, 0, 1), ("s", "c", 0, 20, 10)))
    assert (found["visit"].tolist(), found["true_change"].tolist()) == (["c", "b", "a"], [0, -75, -100])
    assert found["predicted_change"].tolist() == pytest.approx([0, -40, -90])
    assert found["since"].tolist() == [0, 1, 2]


def test_a_named_baseline() -> None:
    rows = visits(
        ("s", "screening", 0, 40, 40), ("s", "start", 1, 20, 10), ("s", "end", 2, 10, 10), ("t", "end", 2, 1, 1)
    )
    found = percent_change(rows, baseline="start")
    assert by_visit(found[found["subject"] == "s"], "true_change") == {"screening": 100, "start": 0, "end": -50}
    assert found.loc[found["subject"] == "t", "since"].isna().all()
    told = response(rows, PLAN, baseline="start")
    assert (told.n_visits, told.undefined["no_baseline"]) == (1, ["t"])


@pytest.mark.filterwarnings("error")
def test_a_baseline_of_zero_is_listed_not_infinite() -> None:
    rows = visits(("z", "1", 0, 0, 2), ("z", "2", 1, 3, 1), ("m", "1", 0, 4, -0.1), ("m", "2", 1, 2, 1))
    rows = pd.concat([rows, visits(("s", "1", 0, 4, 4), ("s", "2", 1, 1, 1), ("only", "1", 0, 9, 9))])
    told = response(rows, PLAN)
    undefined = {"no_baseline": [], "baseline_not_scored": [], "physician_baseline_zero": ["z"]}
    assert told.undefined == undefined | {"no_later_score": ["only"], "model_baseline_zero": ["m"]}
    assert (told.n_subjects, told.n_visits) == (1, 1)
    assert np.isnan(percent_change(rows).query("subject == 'z'")["true_change"]).all()
    json.dumps(plain(told), allow_nan=False)


def test_every_subject_is_counted_or_left_out_for_one_reason() -> None:
    rows = visits(
        ("counted", "1", 0, 9, 9),
        ("counted", "2", 1, 3, 3),
        ("later unscored", "1", 0, 9, 9),
        ("later unscored", "2", 1, None, 3),
        ("zero and alone", "1", 0, 0, 0),
        ("alone, model zero", "1", 0, 4, 0),
        ("unscored", "2", 1, None, 3),
        ("start unscored", "1", 0, None, 3),
        ("start unscored", "2", 0, 3, 3),
    )
    for baseline in ("first", "1"):
        told = response(rows, PLAN, baseline=baseline)
        named = [subject for subjects in told.undefined.values() for subject in subjects]
        assert len(named) == len(set(named))
        assert told.n_subjects + len(named) == rows["subject"].nunique()
        assert "later unscored" in told.undefined["no_later_score"]
        assert told.undefined["physician_baseline_zero"] == ["zero and alone"]


def trial(subjects: int = 20, seed: int = 0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for subject in range(subjects):
        start = rng.integers(15, 40)
        for number, visit in enumerate(["baseline", "week 4", "week 16"]):
            true = 0.0 if number == 2 and subject % 5 == 0 else round(start * rng.uniform(0.02, 1) ** number, 1)
            rows.append((f"s{subject}", visit, 28.0 * number, true, max(0.0, true + rng.normal(0, 1.5))))
    return visits(*rows)


def test_responders_and_their_agreement() -> None:
    rows = trial()
    told, change = response(rows, PLAN, thresholds=(50, 75)), percent_change(rows).query("since > 0")
    for threshold in (50, 75):
        physician, model = change["true_change"] <= -threshold, change["predicted_change"] <= -threshold
        found = told.responders[str(threshold)]
        assert found.confusion == pd.crosstab(physician, model).to_numpy().tolist()
        assert found.agreement.value == pytest.approx((physician == model).mean())
        assert found.kappa.value == pytest.approx(cohen_kappa_score(physician, model))
        assert found.kappa.low < found.kappa.value <= found.kappa.high
        at = change["visit"] == "week 4"
        assert told.by_visit["week 4"].rates[str(threshold)]["model"].value == pytest.approx(model[at].mean())
        assert told.by_visit["week 4"].rates[str(threshold)]["physician"].value == pytest.approx(physician[at].mean())
    assert (list(told.by_visit), told.by_visit["week 4"].n_subjects) == (["week 4", "week 16"], 20)
    error = (change["predicted_change"] - change["true_change"]).abs().mean()
    assert told["change"]["mae"].value == pytest.approx(error)


def test_a_threshold_is_met_when_it_is_reached() -> None:
    rows = visits(("s", "1", 0, 30, 3.0), ("s", "2", 1, 7.5, 0.3), ("t", "1", 0, 10, 10), ("t", "2", 1, 2.6, 2.4))
    found = response(rows, PLAN, thresholds=(75, 90)).responders
    assert (found["75"].confusion, found["90"].confusion) == ([[0, 1], [0, 1]], [[1, 1], [0, 0]])
    # a rise from nearly nothing does not decide the mean
    assert response(visits(("s", "1", 0, 0.2, 4), ("s", "2", 1, 20, 4))).change["mae"].value == 100


def test_clear_skin_has_a_rule_that_a_regression_can_meet() -> None:
    rows = visits(("s", "1", 0, 10, 10), ("s", "2", 1, 0, 0.04), ("t", "1", 0, 10.1, 10), ("t", "2", 1, 0, 0.06))
    told = response(rows, PLAN, thresholds=(100,))
    assert told.responders["100"].confusion == [[0, 0], [1, 1]]
    assert "at most 0.05" in told["clear_rule"]
    assert "step of 0.1" in told["clear_rule"]


@pytest.mark.parametrize(("yes", "n"), [(0, 6), (1, 6), (6, 6), (20, 34)])
def test_rates_have_wilsons_interval(yes: int, n: int) -> None:
    found, expected = rate(np.arange(n) < yes), binomtest(yes, n).proportion_ci(method="wilson")
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high])
