"""The contract of the table of predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import CasewiseError, DamagedError
from casewise.predictions.table import COLUMNS, check, final_rows, mean_over_folds
from casewise.run_folder import RunFolder


def row(**changes: Any) -> dict[str, Any]:
    facts = {"case": "s/1", "subject": "s", "visit": "1", "day": 0.0, "region": "", "image": "", "model": "net"}
    facts |= {"stage": "oof", "outer_fold": 0, "inner_fold": None, "target": "pasi", "kind": "regression"}
    return {**facts, "y_true": 1.0, "y_pred": 2.0, **changes}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([row(**changes) for changes in rows])


def test_check_gives_the_contracts_types_and_keeps_further_columns() -> None:
    loose = table({"region": None, "subject": 7, "y_true": None, "outer_fold": 2.0, "p_clear": 0.5})
    found = check(loose[["p_clear", *COLUMNS]])
    assert (tuple(found.columns), found.loc[0, "region"]) == ((*COLUMNS, "p_clear"), "")
    assert found.loc[0, "subject"] == "7"
    assert found["outer_fold"].dtype == found["inner_fold"].dtype == "Int64"
    assert np.isnan(found.loc[0, "y_true"])
    pd.testing.assert_frame_equal(check(found), found)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{}, {}], "occur twice"),
        ([{}, {"outer_fold": None}, {"outer_fold": None}], "row 2 .*occur twice"),
        ([{}, {"case": "t/1", "subject": "", "visit": "2"}], "row 1 .*'subject' is empty"),
        ([{"target": None}], "'target' is empty"),
        ([{"y_pred": None}], "'y_pred' is missing"),
        ([{"y_pred": np.inf}], "'y_pred' is infinite"),
        ([{"y_true": "many"}], "'y_true' is not a number"),
        ([{"outer_fold": 0.5}], "'outer_fold' is not a whole number"),
        ([{"stage": "train"}], "'train', not one of oof, test, validation, training, external"),
        ([{}, {"subject": "t", "model": "b"}], "more than one subject: 's', 't'"),
        ([{}, {"day": 3.0, "model": "b"}], "more than one day"),
        ([{}, {"y_true": 1.5, "model": "b"}], "reference of pasi of case 's/1' is both 1 and 1.5"),
        ([{"region": "upper"}, {"region": "upper", "y_true": 9.0, "model": "b"}], r"reference of pasi\[upper\]"),
    ],
)
def test_what_breaks_the_contract_is_told(rows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(CasewiseError, match=told):
        check(table(*rows))


def test_mean_over_folds() -> None:
    nets = [{"stage": "test", "outer_fold": fold, "y_pred": float(fold)} for fold in range(5)]
    others = [n | {"region": "upper", "y_pred": 7.0} for n in nets]
    done = {"stage": "test", "outer_fold": None, "y_pred": 99.0, "model": "meta_learner"}
    means = check(mean_over_folds(check(table(*nets, *others, done))))
    assert means[["model", "region", "y_pred"]].to_numpy().tolist() == [["net", "", 2.0], ["net", "upper", 7.0]]
    assert means["outer_fold"].isna().all()


def test_a_mean_over_folds_needs_a_number_of_each() -> None:
    nets = [{"stage": "test", "outer_fold": fold, "y_pred": float(fold) if fold else np.nan} for fold in range(3)]
    shares = [n | {"case": "t/1", "subject": "t", "target": "dx", "kind": "classification"} for n in nets]
    shares = [n | {"p0": 0.25 * n["outer_fold"] or np.nan, "p1": 1 - 0.25 * n["outer_fold"]} for n in shares]
    means = mean_over_folds(table(*nets, *shares).assign(distance=[np.nan, 1.0, 3.0] * 2))
    assert means[["y_pred", "p0"]].isna().all(axis=None)
    assert means["distance"].tolist() == [2.0, 2.0]
    alone = mean_over_folds(table(*(n | {"p1": np.nan} for n in shares[:1])))
    assert alone["y_pred"].isna().all()


def test_final_rows_take_the_mean_that_is_there_and_else_make_it() -> None:
    nets = [{"stage": "test", "outer_fold": fold, "y_pred": float(fold)} for fold in range(2)]
    rows = check(table({}, {"inner_fold": 1, "y_pred": 50.0}, *nets, *(n | {"model": "b"} for n in nets)))
    given = check(table({"stage": "test", "outer_fold": None, "y_pred": 9.0, "model": "b"}))
    found = final_rows(pd.concat([rows, given], ignore_index=True)).set_index(["model", "stage"])["y_pred"]
    assert found.to_dict() == {("net", "oof"): 2.0, ("b", "test"): 9.0, ("net", "test"): 0.5}


def test_a_case_out_of_fold_twice_is_refused() -> None:
    with pytest.raises(CasewiseError, match="several rows of net for pasi"):
        final_rows(check(table({}, {"outer_fold": 1})))


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    rows = check(table({}, {"stage": "test", "outer_fold": None, "y_true": None, "day": None, "case": "ü/1"}))
    rows.loc[rows["case"] == "s/1", "day"] = 3.0
    file = RunFolder(tmp_path).predictions
    file.write(rows)
    pd.testing.assert_frame_equal(check(file.read()), rows)
    file.path.write_bytes(b"no table")
    with pytest.raises(DamagedError):
        file.read()
