"""Photographs that are numbered within the folder of a visit: their numbers are never read as visits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.errors import CasewiseError
from casewise.plugins.init.own_data import plan_study

GRADES = ["clear", "mild", "moderate", "severe"]


def table_of(folder: Path, names: list[str], *, dates: bool) -> Path:
    """Scores of eight people at three visits, whose folders have the names of the visits or their dates."""
    draw, rows = np.random.default_rng(5), []
    for person in range(1, 9):
        start = pd.Timestamp("2024-03-04") + pd.Timedelta(days=11 * person)
        for visit in (1, 2, 3):
            date = f"{start + pd.Timedelta(days=7 * visit):%Y-%m-%d}"
            row = {"Subject": f"N{person:02}", "Visit": str(visit), "Date": date, "grade": GRADES[draw.integers(4)]}
            rows.append(row if dates else {name: cell for name, cell in row.items() if name != "Date"})
            for number in range(1, 5):
                file = folder / f"photos/N{person:02}/{date if dates else names[visit - 1]}/{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(file)
    pd.DataFrame(rows).to_csv(folder / "scores.csv", index=False)
    return folder / "scores.csv"


def test_folders_of_dates_are_joined_by_the_date(tmp_path: Path) -> None:
    table = table_of(tmp_path, [], dates=True)
    plan_study(table=[table], images=tmp_path / "photos", target="grade", folder=tmp_path / "study").write()
    made = pd.read_csv(tmp_path / "study/cohort.csv", dtype=str)
    scores = pd.read_csv(table, dtype=str).set_index(["Subject", "Date"])["grade"]
    assert len(made) == 8 * 3 * 4
    for row in made.itertuples():
        subject, date, _ = Path(row.path).parts[-3:]
        assert (row.subject, row.grade) == (subject, scores[subject, date])


@pytest.mark.parametrize("names", [["A", "B", "C"], ["first", "second", "third"]])
def test_folders_that_no_column_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    table = table_of(tmp_path, names, dates=False)
    with pytest.raises(CasewiseError):
        plan_study(table=[table], images=tmp_path / "photos", target="grade", folder=tmp_path / "study").write()
