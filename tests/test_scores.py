"""Scores as formulas: what they work out, what they refuse, and what they do with gaps."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casewise.errors import StudyError
from casewise.predictions.scores import apply_scores, cases_with_missing_regions
from casewise.predictions.table import check
from casewise.study.scores import Score, check_scores

PARTS = ("erythema", "induration", "scaling", "area")
REGIONS = ("upper", "trunk", "lower")
COMPOSITE = Score("composite", "(erythema + induration + scaling) * area", "region", 0, 72)
PASI = Score("pasi", "0.2*composite[upper] + 0.3*composite[trunk] + 0.4*composite[lower]", "case", 0, 64.8)


def table(
    true: dict[tuple[str, str], float],
    predicted: dict[tuple[str, str], float] | None = None,
    *,
    case: str = "s/v",
    model: str = "net",
    stage: str = "oof",
    fold: int | None = 0,
    image: str = "",
) -> pd.DataFrame:
    """One case's rows from {(target, region): value}."""
    predicted = true if predicted is None else predicted
    facts = {"case": case, "subject": case.split("/")[0], "visit": case.split("/")[1], "day": 0.0, "image": image}
    facts |= {"model": model, "stage": stage, "outer_fold": fold, "inner_fold": None}
    rows = [
        {**facts, "target": target, "region": region, "y_true": true.get((target, region), np.nan), "y_pred": value}
        for (target, region), value in predicted.items()
    ]
    return check(pd.DataFrame(rows))


def whole(values: list[float]) -> dict[tuple[str, str], float]:
    return dict(zip([(part, region) for region in REGIONS for part in PARTS], values, strict=True))


def only(scored: pd.DataFrame, target: str, region: str = "") -> pd.Series:
    rows = scored[(scored["target"] == target) & (scored["region"] == region)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_pasi_by_hand() -> None:
    true, predicted = whole([1, 2, 3, 4, 4, 4, 4, 6, 0, 0, 1, 1]), whole([1, 1, 1, 1, 2, 2, 2, 2, 0.5, 0.5, 0.5, 2])
    scored = check(apply_scores(table(true, predicted), [COMPOSITE, PASI]))
    assert [only(scored, "composite", region)["y_true"] for region in REGIONS] == [24, 72, 1]
    assert [only(scored, "composite", region)["y_pred"] for region in REGIONS] == [3, 12, 3]
    assert only(scored, "pasi")["y_true"] == pytest.approx(0.2 * 24 + 0.3 * 72 + 0.4 * 1)
    assert only(scored, "pasi")["y_pred"] == pytest.approx(0.2 * 3 + 0.3 * 12 + 0.4 * 3)


def test_a_case_score_of_several_images_is_one_row_a_case() -> None:
    brixia = Score("brixia", "a + b + c + d + e + f", "case", 0, 18)
    films = [table({(zone, ""): float(n) for zone in "abcdef"}, image=f"film{n}") for n in (1, 2)]
    scored = apply_scores(pd.concat(films), [brixia])
    assert only(scored, "brixia")[["image", "y_true", "y_pred"]].tolist() == ["", 9.0, 9.0]
    # the images are averaged before the formula: max(1, 2) of the means, not the mean of the images' largest
    turned = [table({("a", ""): a, ("b", ""): b}, image=f"film{a:g}") for a, b in ((1.0, 3.0), (3.0, 1.0))]
    assert only(apply_scores(pd.concat(turned), [Score("m", "max(a, b)", "case", 0, 9)]), "m")["y_pred"] == 2.0


part = st.floats(0, 4, allow_subnormal=False)


@given(st.lists(st.tuples(part, part, part, st.floats(0, 6)), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_scores_lie_in_their_range_and_equal_the_formula(values: list[tuple[float, ...]]) -> None:
    scored = apply_scores(table(whole([v for region in values for v in region])), [COMPOSITE, PASI])
    by_region = [(e + i + s) * b for e, i, s, b in values]
    for region, expected in zip(REGIONS, by_region, strict=True):
        assert only(scored, "composite", region)["y_pred"] == pytest.approx(expected)
    pasi = only(scored, "pasi")
    assert pasi["y_true"] == pytest.approx(np.dot([0.2, 0.3, 0.4], by_region))
    assert 0 <= pasi["y_pred"] <= 64.8


numbers = st.floats(-100, 100, allow_subnormal=False)


VALUES = {"a - b - 1": -2, "-(a + b) * 2": -6, "a + b * 2 / 4": 2, "sum(a, b, 3)": 6, "mean(a, b)": 1.5}
VALUES |= {"min(a, b) + max(a, b, 7)": 8, "+a": 1, "1e1 * a": 10, "a\n + b": 3}


@pytest.mark.parametrize(("formula", "expected"), VALUES.items())
def test_the_language(formula: str, expected: float) -> None:
    assert float(Score("s", formula, "case", -99, 99).value({("a", None): 1.0, ("b", None): 2.0})) == expected


FORBIDDEN = ("a ** 2", "a if b else c", "a.real", "sum()", "sum(*a)", "sum(a, axis=0)", "a[1]", "a[upper][lower]")
FORBIDDEN += ("True + a", "1j * a", "1e999 * a", "a < b", "(lambda: a)()", "[a for a in b]")
UNREADABLE = {"": "is empty", "   ": "is empty", "1 + 2": "names no target", "a +": "cannot be read"}
UNREADABLE |= {"__import__('os')": "calls '__import__'", "summ(a, b)": "Did you mean 'sum'", "a; b": "cannot be read"}
UNREADABLE |= {"(" * 300 + "a" + ")" * 300: "cannot be read", "-" * 300 + "a": "deep", "a + " * 900 + "a": "characters"}
UNREADABLE |= dict.fromkeys(("not " * 480 + "a", "x" + ".a" * 900, "-" * 1900 + "a", "a\0", "\ud800", "a[" * 300), "")


@pytest.mark.parametrize(("formula", "told"), [*UNREADABLE.items(), *((each, "may not contain") for each in FORBIDDEN)])
def test_a_formula_that_is_refused_says_why(formula: str, told: str) -> None:
    with pytest.raises(StudyError, match=told) as caught:
        Score("s", formula, "case", 0, 1)
    assert "Score 's'" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([Score("s", "erythem[upper]", "case", 0, 1)], "Did you mean 'erythema'"),
        ([Score("s", "erythema", "case", 0, 1)], r"write 'erythema\[upper\]'"),
        ([Score("s", "erythema[upper]", "region", 0, 1)], "write 'erythema'"),
        ([Score("s", "age", "region", 0, 1)], "is at case or image level. Write `level: case`"),
        ([PASI, COMPOSITE], "only declared later"),
        ([COMPOSITE, COMPOSITE], "declared twice"),
        ([Score("s", "s[upper]", "case", 0, 1)], "names the score itself"),
    ],
)
def test_names_are_checked(scores: list[Score], told: str) -> None:
    levels = {"age": "case"} | dict.fromkeys(PARTS, "region")
    with pytest.raises(StudyError, match=told):
        check_scores(scores, targets=levels, regions=REGIONS)  # type: ignore[arg-type]


def test_a_truth_is_given_only_where_all_truths_are_there() -> None:
    true = whole([1.0] * 12)
    lacking = {key: value for key, value in true.items() if key != ("scaling", "trunk")}
    scored = apply_scores(table(lacking, true), [COMPOSITE, PASI])
    assert np.isnan(only(scored, "composite", "trunk")["y_true"])
    assert only(scored, "composite", "upper")["y_true"] == 3
    assert np.isnan(only(scored, "pasi")["y_true"])
    assert only(scored, "pasi")["y_pred"] == pytest.approx(2.7)


def test_a_case_with_a_missing_region_is_scored_only_where_the_study_allows_it() -> None:
    full, twos = whole([1.0] * 12), whole([2.0] * 12)
    partly = {key: 3.0 if key == ("area", "trunk") else value for key, value in twos.items() if key[1] != "lower"}
    both = pd.concat([table(full), table(partly, case="t/v")])
    refused = apply_scores(both, [COMPOSITE, PASI])
    assert set(refused.loc[refused["target"] == "pasi", "case"]) == {"s/v"}
    allowed = apply_scores(both, [COMPOSITE, PASI], missing_regions="allow", regions=REGIONS)
    pasi = allowed[allowed["target"] == "pasi"].set_index("case")
    assert pasi.loc["t/v", "y_pred"] == pytest.approx(0.2 * 12 + 0.3 * 18 + 0.4 * 15)
    assert np.isnan(pasi.loc["t/v", "y_true"])
    assert cases_with_missing_regions(both, [COMPOSITE, PASI]) == {"pasi": 1}


def test_a_region_without_a_number_is_not_a_missing_region() -> None:
    values = whole([2.0] * 12)
    rows = table(values)
    rows.loc[(rows["target"] == "area") & (rows["region"] == "lower"), "y_pred"] = np.nan
    for missing in ("refuse", "allow"):
        scored = apply_scores(rows, [COMPOSITE, PASI], missing_regions=missing, regions=REGIONS)
        assert np.isnan(only(scored, "pasi")["y_pred"])
        assert np.isnan(only(scored, "composite", "lower")["y_pred"])
        assert only(scored, "composite", "upper")["y_pred"] == 12


def test_a_region_that_no_case_of_the_table_has_is_missing_not_unknown() -> None:
    partly = table({k: 2.0 for k in whole([0.0] * 12) if k[1] != "lower"})
    scored = apply_scores(partly, [COMPOSITE, PASI], missing_regions="allow", regions=REGIONS)
    assert only(scored, "pasi")["y_pred"] == pytest.approx(0.9 * 12)


def test_a_score_that_was_predicted_directly_is_kept() -> None:
    parts = table(whole([1.0] * 12))
    direct = table({}, {("composite", region): 10.0 for region in REGIONS}, model="direct")
    scored = check(apply_scores(pd.concat([parts, direct]), [COMPOSITE, PASI]))
    by_model = scored[scored["target"] == "pasi"].set_index("model")["y_pred"]
    assert (by_model["net"], by_model["direct"]) == (pytest.approx(2.7), pytest.approx(9.0))
    alone = check(apply_scores(direct, [COMPOSITE, PASI]))
    assert (only(alone, "pasi")["y_pred"], len(alone)) == (pytest.approx(9.0), 4)


def test_learners_stages_and_folds_are_kept_apart() -> None:
    some = [
        table(whole([float(n)] * 12), model=model, stage=stage, fold=fold, case=case)
        for n, (model, stage, fold, case) in enumerate(
            [("a", "oof", 0, "s/1"), ("b", "oof", 0, "s/1"), ("a", "test", 0, "t/1"), ("a", "test", None, "t/1")]
        )
    ]
    for n, part_table in enumerate(some):
        part_table["y_true"] = 0.0
        part_table["y_pred"] = float(n)
    scored = check(apply_scores(pd.concat(some), [COMPOSITE, PASI]))
    assert scored.loc[scored["target"] == "pasi", "y_pred"].tolist() == pytest.approx([0.0, 2.7, 10.8, 24.3])
    assert scored["outer_fold"].dtype == "Int64"
    assert not len(apply_scores(scored.iloc[:0], []))


def test_predictions_are_clipped_and_division_by_zero_gives_no_score() -> None:
    values = {("a", ""): 9.0, ("b", ""): 0.0}
    scored = apply_scores(table(values), [Score("sum", "a + b", "case", 0, 5), Score("ratio", "a / b", "case", 0, 5)])
    assert only(scored, "sum")[["y_true", "y_pred"]].tolist() == [9.0, 5.0]
    assert "ratio" not in set(scored["target"])
