"""Subjects whose numbers start again at each hospital: joined with their site, never two people as one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.cohort.cohort import read_cohort
from casewise.errors import CasewiseError
from casewise.plugins.init.new_study import NewStudy
from casewise.plugins.init.own_data import plan_study
from casewise.study.loading import read_study
from tests.plugins.init.own_data import table_of

GRADES = ["clear", "mild", "moderate", "severe"]
Name = Callable[[str, str, int, int], str]


def grades(sites: tuple[str, ...] = ("01", "02"), visit: str = "VISITNUM") -> pd.DataFrame:
    draw = np.random.default_rng(3)
    rows = [
        {"SITE": site, "SUBJID": f"{s:03}", visit: v, "grade": GRADES[draw.integers(4)]}
        for site in sites
        for s in range(1, 7)
        for v in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def study_of(table: pd.DataFrame, folder: Path, name: Name, pattern: str = "", *more: pd.DataFrame) -> NewStudy:
    """The study of a table and two photographs of each row, with other pixels in each."""
    draw = np.random.default_rng(4)
    for row in table.itertuples():
        for n in (1, 2):
            if path := name(row.SITE, row.SUBJID, row[3], n):
                file = folder / "photos" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(file)
    tables = []
    for number, frame in enumerate([table, *more]):
        frame.to_csv(folder / f"{number}.csv", index=False)
        tables.append(folder / f"{number}.csv")
    plan = plan_study(
        table=tables, images=folder / "photos", target="grade", pattern=pattern, folder=folder / "study"
    )  # fmt: skip
    plan.write()
    return plan


@pytest.mark.parametrize(
    ("sites", "name", "pattern"),
    [
        (("01", "02"), lambda site, s, v, n: f"{site}-{s}_v{v}_{n}.png", ""),
        (("01", "02"), lambda site, s, v, n: f"{site}-{s}_v{v}_{n}.png", "{site}-{subject}_v{visit}_{n}.png"),
        (("01", "02"), lambda site, s, v, n: f"{site}/{s}/v{v}_{n}.png", ""),
        (("1", "2"), lambda site, s, v, n: f"site {site}/{s}/visit{v}/{n + 4}.png", ""),
        (("DE01", "FR02", "ES09"), lambda site, s, v, n: f"{s}_{v}_{site}_{n + 6}.png", ""),
        (("1", "2"), lambda site, s, v, n: f"{s}/v{v}_{n}_c{site}.png", "{subject}/v{visit}_{n}_c{SITE}.png"),
    ],
)
def test_a_number_at_several_sites_is_several_people(
    sites: tuple[str, ...], name: Name, pattern: str, tmp_path: Path
) -> None:
    table = grades(sites)
    people = table[["SITE", "SUBJID"]].drop_duplicates().reset_index(drop=True).assign(age=lambda t: 40 + t.index)
    plan = study_of(table, tmp_path, name, pattern, people)
    assert any("SITE-SUBJID" in doubt for doubt in plan.doubts)
    cohort = read_cohort(read_study(tmp_path / "study" / "study.yaml"))
    assert set(cohort.cases["subject"]) == {f"{site}-{s:03}" for site in sites for s in range(1, 7)}
    expected = {name(r.SITE, r.SUBJID, r.VISITNUM, n): r.grade for r in table.itertuples() for n in (1, 2)}
    assert {row["path"]: row["grade"] for row in table_of(tmp_path / "study")} == expected
    ages = {(r.SITE, r.SUBJID): str(r.age) for r in people.itertuples()}
    assert all(
        ages[row["SITE"], row["subject"].rpartition("-")[2]] == row["age"] for row in table_of(tmp_path / "study")
    )


@pytest.mark.parametrize("sites", [("01", "02"), ("1", "2")])
def test_the_number_of_a_photograph_is_no_site(sites: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(CasewiseError, match=r"[Nn]umbers of .* start again"):
        study_of(grades(sites), tmp_path, lambda site, s, v, n: f"{s}/v{v}_{n}.png")
    assert not (tmp_path / "study").exists()


def test_a_further_table_without_sites_is_refused(tmp_path: Path) -> None:
    people = pd.DataFrame({"SUBJID": [f"{s:03}" for s in range(1, 7)], "age": range(6)})
    with pytest.raises(CasewiseError, match="no column SITE"):
        study_of(grades(), tmp_path, lambda site, s, v, n: f"{site}-{s}_v{v}_{n}.png", "", people)


def test_a_patient_who_changes_the_hospital_is_one(tmp_path: Path) -> None:
    table = grades(("01",)).assign(SITE=lambda t: ["01" if v < 3 else "02" for v in t["VISITNUM"]])
    study_of(table, tmp_path, lambda site, s, v, n: f"{s}/v{v}_{n}.png")
    assert {row["subject"] for row in table_of(tmp_path / "study")} == {f"{s:03}" for s in range(1, 7)}


def test_other_names_of_a_pattern_are_columns_or_take_part(tmp_path: Path) -> None:
    """`{arm}` is a column of the table, so that photographs in the folder of another arm are not joined."""
    table = grades(("01",)).assign(Arm=lambda t: ["A" if s < "004" else "B" for s in t["SUBJID"]])
    place: Name = lambda site, s, v, n: f"{'A' if s < '003' else 'B'}/{s}_{v}_cam7_{n}.png"  # noqa: E731
    study_of(table, tmp_path, place, "{arm}/{subject}_{visit}_{camera_name}_{n}.png")
    rows = table_of(tmp_path / "study")
    assert {row["subject"] for row in rows if row["image_found"] == "no"} == {"003"}
    assert {row["camera_name"] for row in rows if row["path"]} == {"cam7"}
