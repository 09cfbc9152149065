"""Stackers applied to new cases give what they give for the test set of their run."""

import json

import numpy as np
import pandas as pd
import pytest

from casewise.errors import RunError
from casewise.predictions.stacking import META_LEARNERS, stack, with_combined
from casewise.predictions.table import check, mean_over_folds
from tests.test_stacking import RANGES, cohort

NUMBERS = ["linear", "linear+intercept", "ridge", "ridge+intercept", "mean", "weighted"]
VALUES = ["case", "model", "y_pred", "p0", "p1", "p2", "distance"]


def of_classes(kind: str) -> pd.DataFrame:
    """The same cohort with probabilities of three classes in place of numbers, and distances."""
    rows, rng = cohort(folds=3), np.random.default_rng(1)
    truth = rows.groupby(["case", "region"])["y_true"].transform("first").floordiv(2).clip(0, 2).to_numpy()
    shares = rng.dirichlet(np.ones(3), len(rows))
    shares[np.arange(len(rows)), truth.astype(int)] += 0.5
    shares /= shares.sum(axis=1, keepdims=True)
    values = {f"p{number}": shares[:, number] for number in range(3)}
    return check(
        rows.assign(kind=kind, y_true=truth, y_pred=shares.argmax(axis=1), distance=rng.random(len(rows)), **values)
    )


@pytest.mark.parametrize("kind", ["regression", "classification", "ordinal"])
def test_new_cases_get_the_predictions_of_test_cases(kind: str) -> None:
    rows = cohort() if kind == "regression" else of_classes(kind)
    names = NUMBERS if kind == "regression" else ["mean", "weighted", "logistic"]
    stacked, tested = stack(rows, names, ranges=RANGES), mean_over_folds(rows[rows["stage"] == "test"])
    stored = json.loads(json.dumps(stacked.coefficients))
    new = with_combined(tested.assign(stage="external", y_true=np.nan), stored)
    columns = [name for name in VALUES if name in new and name != "distance"]
    expected, found = stacked.rows[stacked.rows["stage"] == "test"], new[new["model"].isin(META_LEARNERS)]
    key = ["model", "case", "region"]
    pd.testing.assert_frame_equal(
        found.sort_values(key)[columns].reset_index(drop=True),
        expected.sort_values(key)[columns].reset_index(drop=True),
        rtol=1e-12,
    )
    if "distance" in rows:
        means = tested.groupby(["case", "region"])["distance"].mean()
        assert np.allclose(found["distance"], means.loc[list(zip(found["case"], found["region"], strict=True))])


def test_the_network_of_nested_folds_predicts_under_that_name() -> None:
    tested = mean_over_folds(cohort().query("stage == 'test'"))
    new = with_combined(tested, {}, "net1")
    nested, alone = new[new["model"] == "nested"], tested[tested["model"] == "net1"]
    assert nested["y_pred"].tolist() == alone["y_pred"].tolist()


def test_a_stacker_without_one_of_its_learners_is_refused() -> None:
    stacked = stack(cohort(), ["mean"], ranges=RANGES)
    tested = mean_over_folds(cohort().query("stage == 'test' and model != 'net2'"))
    with pytest.raises(RunError, match="net2"):
        with_combined(tested, stacked.coefficients)
