"""A whole run in which attention gathers the images of a case, up to the report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from casewise.run import run
from tests.chest_study import chest_study


def test_cases_of_unlike_many_images_are_gathered(chests: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(chests, dtype=str, keep_default_na=False)
    rows["path"] = [str((chests.parent / path).resolve()) for path in rows["path"]]
    for column in [name for name in rows if name.endswith("mask")]:
        rows[column] = ""
    # twelve people of two or three films each
    rows = rows.sort_values("label", ignore_index=True)
    rows["subject"] = [f"P{i // 2:02d}" for i in range(len(rows))]
    rows["label"] = rows.groupby("subject")["label"].transform("first")
    table = tmp_path / "cases.csv"
    rows.to_csv(table, index=False)
    study = chest_study(
        table,
        {"classes": sorted(set(rows["label"]))},
        columns={"visit": "", "date": ""},
        panels={"by": "case", "pooling": "attention", "bag": 2},
        compute={"precision": "auto"},
    )
    done = run(study, tmp_path / "run")
    assert done.report.is_file()
    assert done.rows["case"].nunique() == rows["subject"].nunique()
