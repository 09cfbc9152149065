"""Stackers: the right fit, no leak between subjects, and plain words where something is missing."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GroupKFold

from casewise.errors import CasewiseError, SplitError
from casewise.predictions.stacking import EITHER_SIGN, STACKERS, combine, stack, weights_of_numbers
from casewise.predictions.table import check, final_rows

pytestmark = pytest.mark.filterwarnings("error")
RANGES = {"area": (0.0, 6.0)}


def cohort(
    *, learners: int = 3, subjects: int = 10, test_subjects: int = 2, folds: int = 5, noise: float = 0.5, seed: int = 0
) -> pd.DataFrame:
    """Learners that see the truth through noise and a slope of their own; two visits, two regions."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(subjects + test_subjects):
        test = number >= subjects
        for visit in ("1", "2"):
            for region in ("upper", "lower"):
                truth = rng.uniform(0.5, 5.5)
                for learner in range(learners):
                    for fold in range(folds) if test else [number % folds]:
                        facts = {"case": f"s{number}/{visit}", "subject": f"s{number}", "visit": visit}
                        facts |= {"region": region, "model": f"net{learner}"}
                        facts |= {"stage": "test" if test else "oof", "outer_fold": fold}
                        noisy = 0.8 * truth + 0.2 * learner + rng.normal(0, noise)
                        rows.append({**facts, "y_true": truth, "y_pred": noisy})
    return check(pd.DataFrame(rows).assign(day=0.0, image="", inner_fold=None, target="area"))


def features(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    wide = rows.pivot_table(index=["case", "region"], columns="model", values="y_pred", aggfunc="mean", sort=False)
    first = rows.drop_duplicates(["case", "region"])
    return wide.to_numpy(), first["y_true"].to_numpy(), first


def learned(rows: pd.DataFrame, name: str, stage: str) -> pd.DataFrame:
    found = rows[(rows["model"] == STACKERS[name].learner) & (rows["stage"] == stage)]
    return found.set_index(["case", "region"])


FITTED = ["linear", "linear+intercept", "ridge", "ridge+intercept"]


def test_the_mean_fits_nothing() -> None:
    table = cohort()
    stacked = stack(table, ["mean"], ranges=RANGES)
    for stage in ("oof", "test"):
        x, _, first = features(table[table["stage"] == stage])
        found = learned(stacked.rows, "mean", stage).loc[list(zip(first["case"], first["region"], strict=True))]
        np.testing.assert_allclose(found["y_pred"], np.clip(x.mean(axis=1), 0, 6), rtol=1e-12)


@pytest.mark.parametrize("name", FITTED)
def test_the_fit_is_scikit_learns_and_the_test_set_gets_the_mean_of_the_networks(name: str) -> None:
    table = cohort()
    stacked = stack(table, [name], ranges=RANGES)
    x, y, _ = features(table[table["stage"] == "oof"])
    told = stacked.coefficients[STACKERS[name].learner]["area"]
    kind = Ridge(alpha=told["penalty"]) if name.startswith("ridge") else LinearRegression()
    model = kind.set_params(fit_intercept=name.endswith("intercept")).fit(x, y)
    np.testing.assert_allclose(list(told["weights"].values()), model.coef_, rtol=1e-6)
    assert told["intercept"] == pytest.approx(model.intercept_, abs=1e-9)
    fresh, _, first = features(table[table["stage"] == "test"])
    found = learned(stacked.rows, name, "test").loc[list(zip(first["case"], first["region"], strict=True))]
    np.testing.assert_allclose(found["y_pred"], np.clip(model.predict(fresh), 0, 6), rtol=1e-6)
    np.testing.assert_allclose(combine(told, fresh), found["y_pred"])
    assert found["outer_fold"].isna().all()


def test_no_row_out_of_fold_comes_from_a_stacker_that_saw_its_subject() -> None:
    table = cohort(subjects=30, noise=0.3)
    table.loc[table["model"] != "net0", "y_pred"] = 3.0
    before, changed = learned(stack(table, ["weighted"], ranges=RANGES).rows, "weighted", "oof"), table.copy()
    changed.loc[changed["outer_fold"] == 3, "y_true"] = 5.9
    after = learned(stack(changed, ["weighted"], ranges=RANGES).rows, "weighted", "oof")
    same = before["outer_fold"] == 3
    np.testing.assert_array_equal(before.loc[same, "y_pred"], after.loc[same, "y_pred"])
    assert (before.loc[~same, "y_pred"] != after.loc[~same, "y_pred"]).all()


def test_a_learner_clearly_worse_than_the_best_has_no_weight() -> None:
    random = np.random.default_rng(0)
    truth, subjects = random.uniform(0, 6, 24), np.arange(24)
    good = truth[:, None] + random.normal(0, 0.5, (24, 2))
    poor = np.full(24, truth.mean())
    assert weights_of_numbers(np.column_stack([good, poor]), truth, subjects).tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("highest", "expected"), [(6.0, [1 / 2, 1 / 2, 0.0]), (0.1, [1 / 3] * 3)], ids=["signal", "none"]
)
def test_without_signal_a_learner_must_be_worse_by_more_to_have_no_weight(
    highest: float, expected: list[float]
) -> None:
    random = np.random.default_rng(1)
    truth = random.uniform(0, 1, 24)
    errors = np.column_stack([random.normal(0, 0.5, (24, 2)), random.normal(0, 1.0, 24)])
    weights = weights_of_numbers(highest * truth[:, None] + errors, highest * truth, np.arange(24))
    np.testing.assert_allclose(weights, expected)


def test_altered_images_are_combined_as_their_cases_were() -> None:
    table = cohort(subjects=30, noise=0.3)
    table["y_pred"] *= table["model"].map({"net0": 0.6, "net1": 2.0, "net2": 0.0})  # so that weights are fitted
    held_out = table[table["stage"] == "oof"]
    stacked = stack(table, ["mean", "weighted", "linear"], ranges=RANGES)
    altered = [
        held_out.assign(alteration="unaltered"),
        held_out.assign(alteration="half", y_pred=held_out["y_pred"] / 2),
    ]
    rows = stacked.of_altered(pd.concat(altered))
    assert set(rows["model"]) == {"mean_of_learners", "meta_learner_weighted"}
    fitted = [
        entry["meta_learner_weighted"]["area"]["weights"] for entry in (*stacked.crossed.values(), stacked.coefficients)
    ]
    assert len({tuple(weights.values()) for weights in fitted}) == len(stacked.crossed) + 1
    for name in ("mean", "weighted"):
        same, half = (learned(part, name, "oof")["y_pred"] for _, part in rows.groupby("alteration", sort=False))
        known = learned(stacked.rows, name, "oof")["y_pred"]
        np.testing.assert_allclose(same.loc[known.index], known, rtol=1e-12)
        np.testing.assert_allclose(half.loc[known.index], known / 2, rtol=1e-12)  # weights only, and no intercept


@pytest.mark.parametrize("name", FITTED)
def test_weights_of_either_sign_are_not_judged_out_of_fold(name: str) -> None:
    rows = stack(cohort(), [name], ranges=RANGES).rows
    assert (set(rows["stage"]), set(EITHER_SIGN)) == ({"test"}, {*FITTED, "logistic"})


def test_weights_are_equal_unless_others_are_clearly_better() -> None:
    alike, better = cohort(subjects=30), cohort(subjects=30)
    better.loc[better["model"] != "net0", "y_pred"] = 3.0
    weights = [
        stack(table, ["weighted"], ranges=RANGES).coefficients["meta_learner_weighted"]["area"]["weights"]
        for table in (alike.assign(y_pred=alike["y_pred"].sample(frac=1, random_state=1).to_numpy()), better)
    ]
    assert set(weights[0].values()) == {1 / 3}
    assert weights[1]["net0"] > 0.9


def test_the_weights_of_each_fold_are_stored() -> None:
    stacked = stack(cohort(subjects=30), ["mean", "weighted"], ranges=RANGES)
    mean, weighted = (stacked.coefficients[STACKERS[name].learner]["area"] for name in ("mean", "weighted"))
    assert "weights_by_fold" not in mean
    of_folds = {str(fold): by["meta_learner_weighted"]["area"]["weights"] for fold, by in stacked.crossed.items()}
    assert weighted["weights_by_fold"] == of_folds


def test_combining_beats_the_best_learner_on_new_subjects() -> None:
    table = cohort(learners=6, subjects=40, test_subjects=20, folds=4)
    rows = pd.concat([table, stack(table, ["ridge+intercept"], ranges=RANGES).rows])
    tested = final_rows(rows[rows["stage"] == "test"])
    error = (tested["y_pred"] - tested["y_true"]).abs().groupby(tested["model"]).mean()
    assert error["meta_learner_ridge_w_intercept"] < 0.8 * error.drop("meta_learner_ridge_w_intercept").min()


def test_predictions_are_clipped_to_the_range() -> None:
    found = stack(cohort(noise=2.0), ["linear"], ranges={"area": (2.0, 3.0)}).rows["y_pred"]
    assert (found.min(), found.max()) == (2.0, 3.0)


@pytest.mark.parametrize("name", ["ridge", "ridge+intercept"])
def test_ridges_penalty_is_the_best_on_subjects_left_out(name: str) -> None:
    table = cohort(learners=8, noise=1.5, test_subjects=0)
    told = stack(table, [name], ranges=RANGES).coefficients[STACKERS[name].learner]["area"]
    x, y, first = features(table)

    def error(penalty: float) -> float:
        total = 0.0
        for train, left_out in GroupKFold(5).split(x, y, first["subject"]):
            model = Ridge(alpha=penalty * len(train) / len(y), fit_intercept=name.endswith("intercept"))
            total += ((model.fit(x[train], y[train]).predict(x[left_out]) - y[left_out]) ** 2).sum()
        return total

    step = 10 ** (7 / 28)
    assert error(told["penalty"]) < min(error(told["penalty"] * step), error(told["penalty"] / step))


def test_what_cannot_be_stacked_says_why() -> None:
    table = cohort()
    lacking = table[~((table["model"] == "net1") & (table["case"] == "s4/2") & (table["region"] == "upper"))]
    with pytest.raises(CasewiseError, match=r"net1 lacks 1 of 40 .* of case 's4/2'"):
        stack(lacking, ["linear"], ranges=RANGES)
    with pytest.raises(CasewiseError, match=r"net2 lacks 8 of 8 .* stage 'test'"):
        stack(table[~((table["model"] == "net2") & (table["stage"] == "test"))], ["linear"], ranges=RANGES)
    with pytest.raises(CasewiseError, match="no predictions of 'scaling'"):
        stack(table, ["linear"], ranges={"scaling": (0, 4)})
    with pytest.raises(CasewiseError, match="fewer than two folds"):
        stack(table[(table["stage"] == "test") | (table["outer_fold"] == 0)], ["linear"], ranges=RANGES)
    with pytest.raises(CasewiseError, match="fewer than two folds"):
        stack(table.assign(y_true=np.nan), ["linear"], ranges=RANGES)
    with pytest.raises(CasewiseError, match="have no fold"):
        stack(table.assign(outer_fold=pd.array([pd.NA] * len(table), dtype="Int64")), ["linear"], ranges=RANGES)


def test_a_subject_on_both_sides_stops_it() -> None:
    table = cohort()
    in_two = table.copy()
    in_two.loc[in_two["case"] == "s0/2", "outer_fold"] = 4
    with pytest.raises(SplitError, match="'s0' is in the folds 0, 4"):
        stack(in_two, ["linear"], ranges=RANGES)
    in_test = table.copy()
    in_test.loc[in_test["subject"] == "s10", "subject"] = "s0"
    with pytest.raises(SplitError, match="'s0' is out of fold and at stage 'test'"):
        stack(in_test, ["linear"], ranges=RANGES)
