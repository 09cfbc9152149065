"""Learners of two runs compared in pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from casewise.predictions import write
from casewise.report.results_beside import compared

STUDY = {"name": "b", "seed": 0, "evaluation": {"resamples": 200, "confidence": 0.95}}


def run_of(folder: Path, error: float, *, subjects: int = 30) -> Path:
    drawn = np.random.default_rng(1)
    truth = drawn.uniform(0, 10, subjects)
    rows = pd.DataFrame(
        {
            "case": [f"S{i}/1" for i in range(subjects)],
            "subject": [f"S{i}" for i in range(subjects)],
            "visit": "1",
            "day": np.nan,
            "region": "",
            "image": "",
            "model": "net",
            "stage": "oof",
            "outer_fold": 1,
            "inner_fold": pd.NA,
            "target": "extent",
            "kind": "regression",
            "y_true": truth,
            "y_pred": truth + error * drawn.normal(size=subjects),
        }
    )
    folder.mkdir()
    write(folder / "predictions.parquet", rows)
    return folder


def test_the_better_run_is_named_and_the_other_told_with_its_interval(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 3.0), run_of(tmp_path / "b", 0.1)]
    found = compared(runs, [STUDY | {"name": "a"}, STUDY], "oof", ["extent"])
    assert found is not None
    mae = found["oof"]["extent"]["mae"]
    assert mae["best"] == "net (b)"
    assert mae["differences"]["net"]["low"] > 0


def test_runs_that_judged_other_cases_are_not_compared(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, subjects=29)]
    assert compared(runs, [STUDY, STUDY], "oof", ["extent"]) is None
