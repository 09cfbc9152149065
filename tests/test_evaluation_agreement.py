"""Kappa against scikit-learn; bands; readers among themselves and beside the learners."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from casewise.errors import CasewiseError, StudyError
from casewise.evaluation.agreement import (
    band_of,
    between_readers,
    category_agreement,
    check_bands,
    check_readers,
    group_agreement,
    with_readers,
)
from casewise.evaluation.bootstrap import Plan
from casewise.metrics.numbers import value

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
    assert list(check_bands(bands)) == ["clear", "mild", "moderate to severe"]
    assert band_of(np.array([-1, 0, 0.99, 1, 9.99, 10, 72]), bands).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert band_of(np.array([0.1 * 3]), {"a": 0, "b": 0.3}).tolist() == [1]
    for wrong in ({"clear": 0}, {"clear": 0, "mild": 0}):
        with pytest.raises(StudyError, match="bands"):
            check_bands(wrong)


def scored(n: int = 40, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """The readers' table, two learners' rows, and the truth, over two regions."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 3, n)
    cases = pd.DataFrame(
        {
            "case": [f"s{i // 4}/{i // 2 % 2}" for i in range(n)],
            "subject": [f"s{i // 4}" for i in range(n)],
            "region": [("A", "B")[i % 2] for i in range(n)],
            "target": "zone",
        }
    )
    readers = [
        cases.assign(reader=name, value=truth + rng.normal(0, sd, n)) for name, sd in [("senior", 0.2), ("junior", 0.6)]
    ]
    rows = [
        cases.assign(model=name, image="", y_pred=truth + rng.normal(0, sd, n)) for name, sd in [("a", 0.3), ("b", 1.0)]
    ]
    return pd.concat(readers, ignore_index=True), pd.concat(rows, ignore_index=True), truth


def test_readers_agree_as_the_metrics_say() -> None:
    readers, _, _ = scored()
    found = between_readers(readers, PLAN)
    assert list(found) == ["zone", "zone[A]", "zone[B]"]
    pair = found["zone"]["junior | senior"]
    junior, senior = (readers.loc[readers["reader"] == r, "value"].to_numpy() for r in ("junior", "senior"))
    for name in ("mae", "pcc", "ccc", "icc", "bias"):
        assert pair[name].value == pytest.approx(value(name, junior, senior))
    assert (pair["mae"].n_subjects, pair["mae"].n_cases) == (10, 20)
    fewer = between_readers(readers, PLAN, only_cases={"s0/0", "s1/0", "s2/0"})
    assert fewer["zone"]["junior | senior"]["mae"].n_cases == 3


def test_learners_beside_each_reader() -> None:
    readers, rows, _ = scored()
    found = with_readers(rows, readers.iloc[:-2], PLAN)
    assert set(found) == {"a", "b"}
    senior = readers.loc[readers["reader"] == "senior", "value"].to_numpy()
    predicted = rows.loc[rows["model"] == "b", "y_pred"].to_numpy()
    assert found["b"]["zone"]["senior"]["mae"].value == pytest.approx(value("mae", senior, predicted))
    assert found["a"]["zone[A]"]["junior"]["mae"].n_cases == 19
    assert found["a"]["zone"]["senior"]["mae"].value < found["b"]["zone"]["senior"]["mae"].value


def test_readers_of_cases_stand_beside_the_mean_of_the_images() -> None:
    readers, rows, _ = scored()
    films = pd.concat([rows.assign(image=f"film{n}", y_pred=rows["y_pred"] + n) for n in (-1, 1)])
    assert with_readers(films, readers, PLAN)["a"]["zone"]["senior"]["mae"].value == pytest.approx(
        with_readers(rows, readers, PLAN)["a"]["zone"]["senior"]["mae"].value
    )
    by_film = pd.concat([readers.assign(image=f"film{n}", value=readers["value"] + n) for n in (-1, 1)])
    found = with_readers(films, by_film, PLAN)["a"]["zone"]["senior"]["mae"]
    assert found.value == pytest.approx(with_readers(rows, readers, PLAN)["a"]["zone"]["senior"]["mae"].value)
    assert found.n_cases == 20


def test_a_readers_table_that_cannot_be_used() -> None:
    readers, _, _ = scored()
    with pytest.raises(CasewiseError, match="lacks the column"):
        check_readers(readers.drop(columns="subject"))
    with pytest.raises(CasewiseError, match="scored zone of case 's0/0' twice"):
        check_readers(pd.concat([readers, readers.iloc[:1]]))
    with pytest.raises(CasewiseError, match="Did you mean 'zones'"):
        check_readers(readers, targets=["zones"])
    with pytest.raises(CasewiseError, match="as 'many'"):
        check_readers(readers.astype({"value": object}).replace({"value": {readers.loc[0, "value"]: "many"}}))
    assert len(check_readers(readers.assign(value=readers["value"].where(readers.index > 4)))) == len(readers) - 5
