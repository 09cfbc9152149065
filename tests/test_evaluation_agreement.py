"""Kappa against scikit-learn; bands; readers among themselves and beside the learners."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from casewise.evaluation.agreement import band_of, between_readers, category_agreement, group_agreement, with_readers
from casewise.evaluation.bootstrap import Plan
from tests.prediction_rows import metric_value

PLAN = Plan(resamples=200)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=40))
@settings(max_examples=60, deadline=None)
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    counts = confusion_matrix(truth, predicted, labels=range(4))
    found = category_agreement(counts.ravel())
    assert found["agreement"] == pytest.approx((truth == predicted).mean())
    if len(set(truth) | set(predicted)) < 2:
        assert np.isnan(found["kappa"])
        return
    assert found["kappa"] == pytest.approx(cohen_kappa_score(truth, predicted, labels=range(4)))
    quadratic = cohen_kappa_score(truth, predicted, labels=range(4), weights="quadratic")
    assert found["kappa_quadratic"] == pytest.approx(quadratic)


@pytest.mark.parametrize("side", ["reference", "model"])
def test_kappa_is_not_stated_where_one_side_has_one_group(side: str) -> None:
    several, one = np.tile([0, 1, 1], 12), np.ones(36, dtype=int)
    truth, predicted = (one, several) if side == "reference" else (several, one)
    found = group_agreement(truth, predicted, np.repeat(np.arange(12), 3), PLAN, n_groups=2)
    assert found.agreement.value == pytest.approx(2 / 3)
    for name in ("kappa", "kappa_quadratic"):
        assert found[name].value is found[name].low is found[name].high is None
        assert side in found[name].reason


def test_group_agreement_counts_and_resamples_subjects() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    predicted = np.where(rng.random(60) < 0.7, truth, rng.integers(0, 3, 60))
    subjects = np.repeat(np.arange(20), 3)
    found = group_agreement(truth, predicted, subjects, PLAN, n_groups=3)
    assert found.confusion == confusion_matrix(truth, predicted).tolist()
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert (found.kappa.n_subjects, found.kappa.n_cases) == (20, 60)
    tiled = group_agreement(*(np.tile(a, 4) for a in (truth, predicted, subjects)), PLAN, n_groups=3)
    assert tiled.kappa.low == pytest.approx(found.kappa.low)
    alike = group_agreement(np.ones(6), np.ones(6), np.arange(6), PLAN, n_groups=2)
    assert alike.agreement.value == 1
    assert alike.kappa.value is None
    assert "one group" in alike.kappa.reason


def test_bands() -> None:
    bands = {"moderate to severe": 10, "clear": 0, "mild": 1}
    assert band_of(np.array([-1, 0, 0.99, 1, 9.99, 10, 72]), bands).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert band_of(np.array([0.1 * 3]), {"a": 0, "b": 0.3}).tolist() == [1]


def test_readers_agree_with_each_other_and_with_learners_as_the_metrics_say() -> None:
    rng = np.random.default_rng(0)
    truth, subjects = rng.uniform(0, 3, 40), [f"s{n // 4}" for n in range(40)]
    cases = pd.DataFrame({"case": [f"{s}/{n}" for n, s in enumerate(subjects)], "subject": subjects, "target": "score"})
    scored = {name: truth + rng.normal(0, sd, 40) for name, sd in (("senior", 0.2), ("junior", 0.6))}
    readers = pd.concat([cases.assign(reader=name, value=values) for name, values in scored.items()])
    pair = between_readers(readers, PLAN)["score"]["junior | senior"]
    for name in ("mae", "pcc", "ccc", "icc", "bias"):
        assert pair[name].value == pytest.approx(metric_value(name, scored["junior"], scored["senior"]))
    assert (pair["mae"].n_subjects, pair["mae"].n_cases) == (10, 40)
    # two images of a case, whose predictions are averaged
    rows = [cases.assign(model="net", region="", image=f"film{n}", y_pred=truth + n) for n in (-1, 2)]
    found = with_readers(pd.concat(rows), readers.iloc[:-2], PLAN)["net"]["score"]
    assert found["senior"]["mae"].value == pytest.approx(metric_value("mae", scored["senior"], truth + 0.5))
    assert found["junior"]["mae"].n_cases == 38
