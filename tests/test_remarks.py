from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from casewise.remarks import guess, headline, hopeless


def table(stage: str, truths: list[float], folds: list[int | None]) -> pd.DataFrame:
    cases = [f"{stage}{i}/1" for i in range(len(truths))]
    return pd.DataFrame(
        {
            "stage": stage,
            "case": cases,
            "region": "",
            "image": "",
            "target": "pasi",
            "y_true": truths,
            "outer_fold": folds,
        }
    )


def test_guessing_uses_training_subjects_only() -> None:
    oof = table("oof", [0.0, 2.0, 10.0, 20.0], [1, 1, 2, 2])
    tested = table("test", [9.0], [None])
    told = guess(pd.concat([oof, tested], ignore_index=True), "pasi")
    assert told[0].endswith("mean error of 1.00.")  # |9 − (0 + 2 + 10 + 20) / 4|
    assert told[1].endswith("mean error of 14.00.")  # fold 1 guesses 15, fold 2 guesses 1: (15 + 13 + 9 + 19) / 4


def test_a_network_that_learned_nothing_is_named(tmp_path: Path) -> None:
    for fold, losses in ((1, [1.4, 1.1]), (2, [1.2, 0.6])):
        place = tmp_path / "jobs" / "resnet18" / f"fold{fold}"
        place.mkdir(parents=True)
        (place / "job.json").write_text(json.dumps({"history": [{"stop_loss": loss} for loss in losses]}))
    study = SimpleNamespace(backbones=["resnet18"], recipe=SimpleNamespace(stop=SimpleNamespace(on="inner")))
    assert hopeless(study, tmp_path)[0].startswith("1 of 2 networks of resnet18")
    study.recipe.stop.on = "none"
    assert hopeless(study, tmp_path) == []


def test_the_headline_marks_rough_intervals() -> None:
    figure = {"value": 2.0, "low": 1.0, "high": 3.0, "n_cases": 9, "n_subjects": 4, "rough": True}
    main = {"stage": "test", "learner": "resnet18", "metrics": {"mae": figure, "ccc": {**figure, "low": None}}}
    said = headline(SimpleNamespace(outcome="pasi"), {"main": main})
    assert said == "pasi, test set, 9 cases of 4 subjects, resnet18: MAE 2.00 [1.00, 3.00, rough], CCC 2.00"
