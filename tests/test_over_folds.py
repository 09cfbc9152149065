"""Figures over folds against scikit-learn and NumPy, fold by fold."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, precision_score, recall_score

from casewise.evaluation.judges import over_folds
from tests.prediction_rows import prediction_rows


def predicted(seed: int = 0, *, folds: int = 4, each: int = 20) -> pd.DataFrame:
    drawn = np.random.default_rng(seed)
    count = folds * each
    truth = np.concatenate([drawn.permutation(np.arange(each) % 3) for _ in range(folds)])
    subjects, folds_of = [f"s{n // 2}" for n in range(count)], np.repeat(np.arange(folds) + 1, each)
    options = {"folds": folds_of, "target": "label"}
    shares = {model: drawn.dirichlet([1, 1, 1], count) for model in ("net", "other")}
    rows = [prediction_rows(subjects, truth, p, model=model, **options) for model, p in shares.items()]
    return pd.concat(rows, ignore_index=True)


def test_classes_as_scikit_learn_has_them() -> None:
    table = predicted()
    found = over_folds(table, ["label"], {"label": ["a", "b", "c"]})["label"]
    for model, rows in table.groupby("model"):
        for name, function in (
            ("accuracy", accuracy_score),
            ("precision", lambda t, p: precision_score(t, p, average="macro", zero_division=0)),
            ("recall", lambda t, p: recall_score(t, p, average="macro")),
        ):
            each = [function(part["y_true"], part["y_pred"]) for _, part in rows.groupby("outer_fold")]
            told = found[model][name]
            assert told["folds"] == pytest.approx(each)
            assert (told["mean"], told["sd"]) == pytest.approx((np.mean(each), np.std(each, ddof=1)))


def test_numbers() -> None:
    table = predicted().assign(kind="regression", p0=np.nan, p1=np.nan, p2=np.nan)
    table["y_pred"] += np.random.default_rng(1).normal(size=len(table))
    told = over_folds(table, ["label"])["label"]["net"]
    parts = [part for _, part in table[table["model"] == "net"].groupby("outer_fold")]
    errors = [(part["y_true"] - part["y_pred"]).abs().mean() for part in parts]
    assert told["mae"]["folds"] == pytest.approx(errors)
    correlations = [np.corrcoef(part["y_true"], part["y_pred"])[0, 1] for part in parts]
    assert told["pcc"]["folds"] == pytest.approx(correlations)


def test_test_rows_unscored_rows_and_single_folds_are_left_out() -> None:
    table = predicted()
    tested = table.head(5).assign(stage="test", outer_fold=pd.array([pd.NA] * 5, dtype="Int64"))
    unscored = table.head(5).assign(case="x", y_true=np.nan)
    more = pd.concat([table, tested, unscored], ignore_index=True)
    assert over_folds(more, ["label"]) == over_folds(table, ["label"])
    assert over_folds(table[table["outer_fold"] == 1], ["label"]) == {}
