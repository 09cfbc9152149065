"""Subgroups: groups of a column, figures of each, the test of differences, and what the pages say of them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.cohort.groups import grouping
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.judges import judge_of
from casewise.evaluation.metrics_file import decoded, encoded
from casewise.evaluation.results import Headline, Results, Subgroups, SubgroupTest
from casewise.evaluation.subgroups import subgroups
from tests.prediction_rows import prediction_rows

PLAN = Plan(400, 0.95, 0)


def people(n: int) -> pd.Series:
    return pd.Series([f"S{i:03d}" for i in range(n)])


def numbers(n: int, errors: np.ndarray, *, cases: int = 2) -> pd.DataFrame:
    """Scored rows of a number: each subject has several cases, and its own error."""
    random, who = np.random.default_rng(5), np.repeat(np.arange(n), cases)
    truth = random.normal(20, 6, len(who))
    return prediction_rows(people(n)[who], truth, truth + errors[who] + random.normal(0, 1, len(who)), target="score")


def binary(truth: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    rows = numbers(len(truth), np.zeros(len(truth)), cases=1)
    values = {"y_true": truth * 1.0, "y_pred": (probability < 0.5) * 1.0, "p0": probability, "p1": 1 - probability}
    return rows.assign(kind="classification", **values)


def judged(rows: pd.DataFrame, columns: dict[str, list[str]], **settings: Any) -> Subgroups:
    names = people(rows["subject"].nunique())
    groupings = [(grouping(pd.Series(cells), names, names, name), rows["subject"]) for name, cells in columns.items()]
    kind, target = str(rows["kind"].iloc[0]), str(rows["target"].iloc[0])
    main = Headline(target, "test", "net", chosen_on="oof", kind=kind)
    return subgroups(rows, main, groupings, plan=PLAN, **settings)


class TestGroups:
    def test_a_unit_with_two_values_is_in_neither_group(self) -> None:
        units = pd.Series(["a", "a", "b", "b"])
        groups = grouping(pd.Series(["left", "right", "left", ""]), units, units, "side")
        assert [g.code for g in groups.groups] == ["value", "value", "several"]
        assert groups.of_units.to_dict() == {"a": 2, "b": 0}

    def test_thirds_are_of_subjects_and_not_of_images(self) -> None:
        who = pd.concat([people(30), pd.Series(["S000"] * 300)], ignore_index=True)
        ages = pd.Series([str(20 + i) for i in range(30)] + ["20"] * 300)
        groups = grouping(ages, who, who, "age")
        assert [group.name for group in groups.groups] == ["below 29.7", "29.7 to below 39.3", "39.3 and above"]
        assert np.bincount(groups.of_units).tolist() == [10, 10, 10]


class TestFigures:
    def test_a_groups_figures_are_those_of_its_rows(self) -> None:
        rows, cells = numbers(60, np.zeros(60)), ["a" if i % 2 else "b" for i in range(60)]
        result = judged(rows, {"ward": cells})
        (column,) = result["columns"]
        members = rows[rows["subject"].isin(people(60)[np.array(cells) == "a"])]
        alone, group = judge_of(members).judge(members, Plan(50), whole=False).metrics["net"], column["groups"][0]
        assert (group["name"], group.n_subjects) == ("a", 30)
        assert group.metrics["mae"].value == pytest.approx(alone["mae"].value)

    def test_a_planted_difference_is_reported_and_others_are_not(self) -> None:
        dark = np.arange(80) % 4 == 0
        rows = numbers(80, np.where(dark, -5.0, 0.0))
        columns = {"tone": ["dark" if d else "light" for d in dark], "ward": [f"w{i // 27}" for i in range(80)]}
        tone, ward = judged(rows, columns)["columns"]
        assert tone["tests"]["bias"]["p_adjusted"] < 0.01
        assert ward["tests"]["bias"]["p_adjusted"] > 0.05
        difference = tone["groups"][0].differences["bias"]
        assert difference.low < -5 < difference.high < 0

    @pytest.mark.parametrize("groups", [2, 3, 5])
    def test_intervals_of_differences_agree_with_their_test(self, groups: int) -> None:
        significant = set()
        for seed in range(12):
            random = np.random.default_rng(seed)
            cells = random.integers(0, groups, 120)
            rows = numbers(120, random.normal(0, 1, 120) + 0.12 * seed * (cells == 0))
            (column,) = judged(rows, {"ward": [f"w{cell}" for cell in cells]})["columns"]
            test, ends = column["tests"]["bias"], [group.differences["bias"] for group in column["groups"]]
            excluded = any(end.low > 0 or end.high < 0 for end in ends)
            assert excluded is (test["p"] <= 0.05)
            significant.add(excluded)
        assert significant == {True, False}

    def test_small_groups_are_small_and_below_ten_not_compared(self) -> None:
        cells = ["few"] * 9 + ["many"] * 40
        (column,) = judged(numbers(49, np.zeros(49)), {"ward": cells})["columns"]
        few, many = column["groups"]
        assert (few["small"], many["small"]) == (["mae", "ccc", "bias"], [])
        assert column.tests["mae"] == SubgroupTest(None, None, [], "too_few")

    def test_figures_of_single_classes_need_thirty_subjects_of_the_class(self) -> None:
        random, truth = np.random.default_rng(1), np.array([0] * 25 + [1] * 75 + [0] * 35 + [1] * 35)
        probability = np.clip(0.5 - 0.2 * (2 * truth - 1) + random.normal(0, 0.2, len(truth)), 0.01, 0.99)
        cells, settings = ["A"] * 100 + ["B"] * 70, {"classes": ["ill", "well"], "positive": "ill"}
        (column,) = judged(binary(truth, probability), {"ward": cells}, **settings)["columns"]
        first, second = column["groups"]
        assert (first["subjects_by_class"], first["small"]) == ({"ill": 25, "well": 75}, ["auroc", "sensitivity"])
        assert (second["small"], column["tests"]["sensitivity"]["groups"]) == ([], [0, 1])


def test_differences_have_their_own_key_in_the_file_of_metrics() -> None:
    groups = judged(numbers(20, np.repeat([0.0, 9.0], 10)), {"sex": ["f"] * 10 + ["m"] * 10})
    results = Results(Headline("score", "test", "net", chosen_on=None, kind="regression"), subgroups=groups)
    stored = encoded(results)
    assert all(
        list(gap) == ["difference", "low", "high"]
        for group in stored["subgroups"]["columns"][0]["groups"]
        for gap in group["differences"].values()
    )
    assert encoded(decoded(stored)) == stored


def test_false_alarms_are_few_without_any_difference() -> None:
    """Three columns without any difference, 40 subjects with two cases each; see also `benchmarks/multiplicity.py`."""
    alarms = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        rows = numbers(40, random.normal(0, 2, 40))
        columns = {f"c{k}": [str(v) for v in random.integers(0, levels, 40)] for k, levels in enumerate((2, 3, 3))}
        tests = [test for column in judged(rows, columns)["columns"] for test in column["tests"].values()]
        alarms += min((t["p_adjusted"] for t in tests if t["p_adjusted"] is not None), default=1) < 0.05
    assert alarms <= 2
