from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.evaluation.caveats import constant_folds, guess, no_better
from casewise.pipeline.status import environment
from casewise.report.caveats import result_line


def plain_study(outcome: str) -> Any:
    """What the result line asks of a study."""
    return SimpleNamespace(primary_outcome=outcome, split=SimpleNamespace(leave_out=None), level_of=lambda name: "case")


def table(stage: str, truths: list[float], folds: list[int | None]) -> pd.DataFrame:
    cases = [f"{stage}{i}/1" for i in range(len(truths))]
    facts = {"stage": stage, "case": cases, "region": "", "image": "", "target": "pasi", "kind": "regression"}
    return pd.DataFrame({**facts, "y_true": truths, "outer_fold": folds})


def test_guessing_uses_training_subjects_only() -> None:
    oof = table("oof", [0.0, 2.0, 10.0, 20.0], [1, 1, 2, 2])
    tested = table("test", [9.0], [None])
    told = guess(pd.concat([oof, tested], ignore_index=True), "pasi")
    assert (told[0]["stage"], told[0]["error"]) == ("test", 1.0)  # |9 − (0 + 2 + 10 + 20) / 4|
    assert (told[1]["stage"], told[1]["error"]) == (
        "oof",
        14.0,
    )  # (15 + 13 + 9 + 19) / 4


def test_a_network_that_learned_nothing_is_found() -> None:
    for losses, nothing in (([1.4, 1.1], True), ([1.2, 0.6], False)):
        assert no_better({"history": [{"stop_loss": loss} for loss in losses]}) is nothing
    for loss, nothing in ((0.7, True), (0.6, False)):
        assert no_better({"inner": {"chosen": {"loss": loss, "guess_loss": 0.69}}}) is nothing
    assert no_better({"history": []}) is None


def test_the_headline_marks_rough_intervals() -> None:
    figure = {"value": 2.0, "low": 1.0, "high": 3.0, "n_cases": 9, "n_subjects": 4, "rough": True}
    main = {"stage": "test", "learner": "resnet18", "kind": "regression"}
    main |= {"metrics": {"mae": figure, "ccc": {**figure, "low": None}}}
    said = result_line(plain_study("pasi"), {"main": main})
    assert said == "pasi, test set, 9 cases of 4 subjects, resnet18: MAE 2.00 [1.00, 3.00, rough], CCC 2.00"


def test_the_headline_of_classes_and_grades() -> None:
    figure = {"value": 0.8, "low": 0.7, "high": 0.9, "n_cases": 9, "n_subjects": 9}
    names = ("accuracy", "auroc", "kappa_quadratic", "mae")
    main = {"stage": "oof", "learner": "net", "metrics": dict.fromkeys(names, figure), "kind": "classification"}
    study = plain_study("dx")
    said = result_line(study, {"main": main})
    assert said == "dx, out of fold, 9 cases of 9 subjects, net: Accuracy 0.80 [0.70, 0.90], AUROC 0.80 [0.70, 0.90]"
    said = result_line(study, {"main": {**main, "kind": "ordinal", "stage": "external"}})
    assert said.startswith("dx, external cohort, 9 cases")
    assert said.endswith("net: Weighted kappa 0.80 [0.70, 0.90], Accuracy 0.80 [0.70, 0.90]")


def test_the_command_is_recorded_with_its_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/casewise", "run", "my study.yaml", "--jobs", "2"])
    assert environment(1.0)["command"] == "casewise run 'my study.yaml' --jobs 2"
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert "Python" in environment(1.0)["command"]


def test_a_network_that_says_the_same_of_every_case_is_named() -> None:
    spreads = {("still", 1): 0.001, ("still", 2): 0.2, ("moved", 1): 0.2, ("moved", 2): 0.1}
    rows = [
        {"target": "t", "stage": "oof", "model": model, "outer_fold": fold, "y_true": case % 2, "y_pred": 1, "p1": p1}
        for (model, fold), spread in spreads.items()
        for case, p1 in enumerate(0.5 + spread * np.linspace(-1, 1, 6))
    ]
    table = pd.DataFrame(rows)
    assert [constant_folds(table, "t", name) for name in ("still", "moved", "nobody")] == [(1, 2), (0, 2), (0, 0)]
    numbers = table.drop(columns="p1").assign(y_pred=lambda table: 3 + 0.0001 * table.index)
    assert constant_folds(numbers, "t", "moved") == (2, 2)
