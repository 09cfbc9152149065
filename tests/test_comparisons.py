"""Comparisons of learners: in pairs, simultaneous over all pairs, and no winner inside the noise."""

from __future__ import annotations

import numpy as np
import pytest

from casewise.evaluation.bootstrap import Plan, by_subject
from casewise.evaluation.comparisons import compare, effective_subjects, pair_intervals
from tests.test_evaluation_bootstrap import visits

PLAN = Plan(resamples=400, seed=3)


def test_differences_are_paired() -> None:
    truth, predicted, subjects = visits(30, 3, 6)
    learners = {"good": predicted, "shifted": predicted + 0.02 * np.abs(predicted - truth) * np.sign(predicted - truth)}
    found = compare(truth, learners, subjects, PLAN, metrics=["mae"])["mae"]
    figures = by_subject(truth, learners, subjects, PLAN)
    difference = found["differences"]["shifted"]
    assert found["best"] == "good"
    assert difference["difference"] == pytest.approx(figures["shifted"]["mae"].value - figures["good"]["mae"].value)
    # two per cent more error on every case: sure in pairs, though the two intervals overlap widely
    assert not difference["indistinguishable"]
    assert figures["good"]["mae"].high > figures["shifted"]["mae"].low


def test_no_winner_inside_the_noise() -> None:
    truth, _, subjects = visits(20, 3, 7)
    rng = np.random.default_rng(8)
    learners = {f"net{n}": truth + rng.normal(0, 3, len(truth)) for n in range(3)}
    learners |= {"bad": truth + rng.normal(0, 12, len(truth)), "same": learners["net0"]}
    for name, found in compare(truth, learners, subjects, PLAN).items():
        assert "bad" not in found["indistinguishable"], name
        assert found["best"] == found["indistinguishable"][0]
        for learner, difference in found["differences"].items():
            inside = difference["low"] <= 0 <= difference["high"]
            assert difference["indistinguishable"] == inside == (learner in found["indistinguishable"])
    best = compare(truth, learners, subjects, PLAN)["mae"]
    assert {"net0", "same"} <= set(best["indistinguishable"]) or not {"net0", "same"} & set(best["indistinguishable"])


def test_higher_is_better_where_it_is() -> None:
    truth, _, subjects = visits(20, 2, 9)
    rng = np.random.default_rng(0)
    learners = {"poor": truth + rng.normal(0, 20, len(truth)), "good": truth + rng.normal(0, 1, len(truth))}
    found = compare(truth, learners, subjects, PLAN)
    assert {told["best"] for told in found.values()} == {"good"}
    assert found["ccc"]["differences"]["poor"]["high"] < 0 < found["mae"]["differences"]["poor"]["low"]


def test_fewer_than_ten_subjects_name_no_winner() -> None:
    truth = np.arange(20.0)
    learners = {"near": truth + 0.1, "far": truth + 9}
    nine = compare(truth, learners, np.arange(20) % 9, PLAN, metrics=["mae"])["mae"]
    ten = compare(truth, learners, np.arange(20) % 10, PLAN, metrics=["mae"])["mae"]
    assert (nine["rough"], nine["indistinguishable"]) == (True, ["near", "far"])
    assert nine["differences"]["far"]["indistinguishable"] is True
    assert nine["differences"]["far"]["low"] > 0
    assert (ten["rough"], ten["indistinguishable"]) == (False, ["near"])
    assert ten["differences"]["far"]["indistinguishable"] is False


def test_one_subject_tells_no_learners_apart() -> None:
    truth = np.arange(4.0)
    found = compare(truth, {"a": truth, "b": truth + 9}, np.array(["s"] * 4), PLAN, metrics=["mae"])["mae"]
    assert found["indistinguishable"] == ["a", "b"]
    assert found["differences"]["b"]["low"] is None
