"""Effects of a treatment: those of a t-test where the design is balanced, and none where nothing can be said."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from casewise.evaluation.evaluate import FollowUp, Outcomes, evaluate
from casewise.evaluation.response import FIRST_VISIT
from casewise.evaluation.trial import OUTCOMES, trial
from casewise.predictions.table import check

statsmodels = pytest.importorskip("statsmodels.api")


def patients(
    *, subjects: int = 30, visits: int = 2, effect: float = -2, missing: float = 0, slope: float = 0.5, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Scores of physician and model at visits w0, w1, …; the effect of arm b at the last visit is `effect`."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(subjects):
        level, trend, arm = rng.normal(20, 3), rng.normal(-1, slope), "ab"[number % 2]
        for visit in range(visits):
            share = visit / max(visits - 1, 1)
            truth = level + trend * visit + rng.normal(0, 1) + (effect * share if arm == "b" else 0)
            if not visit or rng.random() >= missing:
                rows.append({"subject": f"s{number}", "visit": f"w{visit}", "day": np.nan, "y_true": truth})
                rows[-1]["y_pred"] = 0.9 * truth + rng.normal(0, 1)
    return pd.DataFrame(rows), {f"s{number}": "ab"[number % 2] for number in range(subjects)}


def test_two_visits_are_a_t_test_of_the_changes() -> None:
    rows, arms = patients()
    result = trial(rows, arms, "a")
    assert (result.subjects, result.baseline) == ({"a": 15, "b": 15}, "w0")
    assert result.slopes == {"physician": False, "model": False}
    [visit] = result.visits
    for outcome, column in (("physician", "y_true"), ("model", "y_pred")):
        wide = rows.pivot(index="subject", columns="visit", values=column)
        changes, arm = wide["w1"] - wide["w0"], wide.index.map(arms)
        expected = stats.ttest_ind(changes[arm == "b"], changes[arm == "a"]).confidence_interval()
        figure = visit.effect["b"][outcome]
        assert figure.value == pytest.approx(changes[arm == "b"].mean() - changes[arm == "a"].mean(), abs=1e-6)
        assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high), abs=1e-3)
        assert visit.change["a"][outcome].value == pytest.approx(changes[arm == "a"].mean(), abs=1e-6)
    gap = visit.effect["b"]["model"].value - visit.effect["b"]["physician"].value
    assert visit.effect["b"]["difference"].value == pytest.approx(gap, abs=1e-5)


def test_several_visits_are_a_mixed_model_of_statsmodels() -> None:
    rows, arms = patients(visits=4, missing=0.2, slope=1.0, subjects=40)
    result = trial(rows, arms, "a")
    assert result.slopes["physician"]
    frame = rows.assign(arm=rows["subject"].map(arms), t=rows["visit"].str[1:].astype(float))
    model = statsmodels.MixedLM.from_formula("y_true ~ C(visit) * C(arm)", frame, groups="subject", re_formula="~t")
    fitted = model.fit(reml=True)
    for number, visit in enumerate(result.visits, start=1):
        name, figure = f"C(visit)[T.w{number}]:C(arm)[T.b]", visit.effect["b"]["physician"]
        assert figure.value == pytest.approx(fitted.params[name], abs=0.01)
        width = stats.t.ppf(0.975, 38) * fitted.bse[name]  # scores vary as the model assumes
        assert figure.high - figure.value == pytest.approx(width, rel=0.25)


def test_the_difference_is_paired_where_subjects_drop_out() -> None:
    rows, arms = patients(visits=3, subjects=40)
    number = rows["subject"].str[1:].astype(int)
    # those who drop out have another difference at their baseline
    rows["y_pred"] += np.where(number % 4 < 2, 5.0, 0.0)
    rows = rows[(number % 4 >= 2) | (number % 8 == 0) | (rows["visit"] != "w2")]
    last = trial(rows, arms, "a").visits[-1]
    gaps = rows.assign(gap=rows["y_pred"] - rows["y_true"]).pivot(index="subject", columns="visit", values="gap")
    changes = (gaps["w2"] - gaps["w0"]).dropna()
    own, control = (changes[changes.index.map(arms) == arm] for arm in "ba")
    assert (len(own), len(control)) == (last.subjects["b"], last.subjects["a"])
    expected = stats.ttest_ind(own, control, equal_var=False).confidence_interval()
    figure, alone = last.effect["b"]["difference"], last.change["a"]["difference"]
    assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high))
    assert alone.value == pytest.approx(control.mean())
    assert (alone.low, alone.high) == pytest.approx(tuple(stats.ttest_1samp(control, 0).confidence_interval()))


def test_intervals_do_not_rest_on_the_form_of_the_random_effects() -> None:
    rows, arms = patients(visits=4, slope=1.0, subjects=40)
    factors = rows["subject"].map({name: 0.2 + 0.04 * number for number, name in enumerate(sorted(arms))})
    rows["y_true"] = rows["y_true"].where(rows["visit"] == "w0", rows["y_true"] * factors)
    wide = rows.pivot(index="subject", columns="visit", values="y_true")
    for visit in trial(rows, arms, "a").visits:
        changes, arm = wide[visit.visit] - wide["w0"], wide.index.map(arms)
        expected = stats.ttest_ind(changes[arm == "b"], changes[arm == "a"]).confidence_interval()
        figure = visit.effect["b"]["physician"]
        assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_one_arm_has_changes_and_no_effect() -> None:
    rows, arms = patients()
    one = trial(rows, dict.fromkeys(arms, "a"), "a")
    assert (one.visits[0].effect, set(one.visits[0].change["a"])) == ({}, set(OUTCOMES))


def test_where_nothing_can_be_said_there_is_no_figure() -> None:
    rows, arms = patients(visits=3)
    singular = rows.assign(y_true=np.random.default_rng(1).normal(10, 1, len(rows)))
    centred = singular["y_true"] - singular.groupby("subject")["y_true"].transform("mean")
    result = trial(singular.assign(y_true=centred + 10), arms, "a")
    assert result.problems == {"physician": "singular"}
    assert "physician" not in result.visits[0].effect["b"]
    assert "model" in result.visits[0].effect["b"]
    assert trial(rows.assign(y_pred=3.0), arms, "a").problems == {"model": "constant"}
    few = trial(rows[rows["subject"].isin([f"s{n}" for n in range(6)])], arms, "a")
    assert (few.visits, set(few.problems.values())) == ([], {"too_few"})
    assert trial(rows.assign(y_true=np.nan), arms, "a").visits == []
    # unscored visits and subjects without an arm or baseline are counted; others remain
    partly = rows.copy()
    partly.loc[(partly["subject"] == "s2") & (partly["visit"] == "w0"), "y_true"] = np.nan
    named = trial(partly, {name: arm for name, arm in arms.items() if name != "s1"}, "a", FollowUp("w0"))
    assert (named.left_out["no_arm"], named.left_out["no_baseline"]) == (1, 1)
    assert named.subjects == {"a": 14, "b": 14}
    rare = rows[(rows["visit"] != "w2") | rows["subject"].isin(["s0", "s1"])]
    assert [visit.visit for visit in trial(rare, arms, "a").visits] == ["w1"]
    assert trial(rare, arms, "a").left_out["visits"] == 1
    # one who starts later is left out, and the visits of the others keep their names
    late = trial(rows[(rows["subject"] != "s2") | (rows["visit"] != "w0")], arms, "a")
    assert (late.left_out["no_baseline"], [visit.visit for visit in late.visits]) == (1, ["w1", "w2"])
    # visits of other names for each subject are compared by their number
    own = rows.assign(visit=rows["subject"] + rows["visit"])
    assert (len(trial(own, arms, "a").visits), trial(own, arms, "a").baseline) == (2, FIRST_VISIT)


def test_responders_are_counted_in_each_arm() -> None:
    rows, arms = patients(visits=3)
    by_arm = trial(rows, arms, "a", FollowUp(responders=(5,))).responders
    wide = rows.pivot(index="subject", columns="visit", values="y_pred")
    for arm, by_visit in by_arm.items():
        own, rates = wide[wide.index.map(arms) == arm], by_visit["w2"]
        assert rates.n_subjects == 15
        assert rates.rates["5"]["model"].value == pytest.approx((own["w2"] <= 0.95 * own["w0"]).mean())
    assert list(by_arm) == ["a", "b"]


def test_responders_of_the_arms_are_compared() -> None:
    rows, arms = patients(visits=3)
    result = trial(rows, arms, "a", FollowUp(responders=(20,)))
    share = {arm: by_visit["w2"].rates["20"]["physician"] for arm, by_visit in result.responders.items()}
    risk = result.risk_differences["b"]["w2"]
    figure = risk.rates["20"]["physician"]
    assert (list(result.risk_differences), risk.n_subjects) == (["b"], 30)
    assert figure.value == pytest.approx(share["b"].value - share["a"].value)
    # Newcombe (1998), method 10: from the Wilson intervals of both shares
    below = np.hypot(share["b"].value - float(share["b"].low or 0), float(share["a"].high or 0) - share["a"].value)
    assert figure.low == pytest.approx(figure.value - below, abs=1e-6)


def test_intervals_contain_the_effect() -> None:
    inside = []
    for seed in range(20):
        result = trial(*patients(visits=3, missing=0.1, effect=-2.0, seed=seed), "a")
        figure = result.visits[-1].effect["b"]["physician"]
        inside.append(float(figure.low or 0) <= -2 <= float(figure.high or 0))
    assert sum(inside) >= 17


def test_responders_of_every_stage_and_of_all_subjects() -> None:
    rows, _ = patients(visits=3)
    number = rows["subject"].str[1:].astype(int)
    rows = rows.assign(case=rows["subject"] + "/" + rows["visit"], region="", image="", model="net", target="score")
    rows = rows.assign(stage=np.where(number < 20, "oof", "test"), outer_fold=(number % 2).where(number < 20))
    rows = check(rows.assign(inner_fold=None, kind="regression"))
    results = evaluate(rows, Outcomes("score"), follow_up=FollowUp())
    assert list(results.response) == ["oof", "test", "all"]
    counts = {stage: by_learner["net"].n_subjects for stage, by_learner in results.response.items()}
    assert counts == {"oof": 20, "test": 10, "all": 30}
    everybody = results.response["all"]["net"]
    true, predicted = (rows.pivot(index="subject", columns="visit", values=name) for name in ("y_true", "y_pred"))
    changes = [100 * (wide[["w1", "w2"]].sub(wide["w0"], axis=0)).div(wide["w0"], axis=0) for wide in (predicted, true)]
    assert everybody.change["bias"].value == pytest.approx(float((changes[0] - changes[1]).to_numpy().mean()), abs=1e-4)
