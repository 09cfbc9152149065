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


def by_words(heading: str = "Hospital", sites: tuple[str, ...] = ("Nord", "Süd-West")) -> pd.DataFrame:
    return grades(sites).rename(columns={"SITE": heading})


def study_by_words(
    table: pd.DataFrame, folder: Path, name: Callable[[str, str, int], str], pattern: str = ""
) -> list[dict[str, str]]:
    """The rows of a study of a table by hospital, with photographs of six people at Nord and at Süd-West."""
    draw = np.random.default_rng(5)
    for site in ("Nord", "Süd-West"):
        for s in range(1, 7):
            for v in (1, 2, 3):
                if path := name(site, f"{s:03}", v):
                    (folder / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
                    pixels = draw.integers(0, 255, (8, 8, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / "photos" / path)
    table.to_csv(folder / "table.csv", index=False)
    plan_study(
        table=folder / "table.csv", images=folder / "photos", target="grade", pattern=pattern, folder=folder / "study"
    ).write()
    return table_of(folder / "study")


@pytest.mark.parametrize("heading", ["Hospital", "Klinik", "study site", "centre"])
@pytest.mark.parametrize("pattern", ["", "{heading}/{subject}/v{visit}.png"])
def test_hospitals_named_by_words_keep_people_apart(heading: str, pattern: str, tmp_path: Path) -> None:
    table = by_words(heading)
    stated = pattern.replace("{heading}", f"{{{heading.replace(' ', '_')}}}")
    rows = study_by_words(table, tmp_path, lambda site, s, v: f"{site}/{s}/v{v}.png", stated)
    expected = {f"{r[1]}/{r[2]}/v{r[3]}.png": (f"{r[1]}-{r[2]}", r[4]) for r in table.itertuples()}
    assert {row["path"]: (row["subject"], row["grade"]) for row in rows} == expected


@pytest.mark.parametrize("written", [("Koeln", "Dusseldorf"), ("köln", "düsseldorf"), ("KOELN", "Duesseldorf")])
def test_umlauts_of_hospitals_may_be_written_out(written: tuple[str, str], tmp_path: Path) -> None:
    folders = dict(zip(("Nord", "Süd-West"), written, strict=True))
    table = by_words("Zentrum", ("Köln", "Düsseldorf"))
    if "Dusseldorf" in written:  # neither ü nor ue: another name
        rows = study_by_words(table, tmp_path, lambda site, s, v: f"{folders[site]}/{s}/v{v}.png")
        assert {row["subject"].partition("-")[0] for row in rows if row["path"]} == {"Köln"}
        return
    rows = study_by_words(table, tmp_path, lambda site, s, v: f"{folders[site]}/{s}/v{v}.png")
    assert len([row for row in rows if row["path"]]) == 36
    assert {row["subject"].partition("-")[0] for row in rows} == {"Köln", "Düsseldorf"}


@pytest.mark.parametrize(
    "absent",
    [
        lambda site, s: False,
        lambda site, s: site == "Süd-West" and s != "005",  # one person of the other hospital
        lambda site, s: (site == "Nord") == (s == "002"),  # whose own photographs are missing
    ],
)
def test_a_table_of_one_hospital_takes_no_photographs_of_another(
    absent: Callable[[str, str], bool], tmp_path: Path
) -> None:
    table = by_words(sites=("Nord",))

    def name(site: str, s: str, v: int) -> str:
        return "" if absent(site, s) else f"{site}/{s}/v{v}.png"

    with pytest.raises(CasewiseError, match=r"OF ANOTHER HOSPITAL\?.*\{hospital\}/\{subject\}"):
        study_by_words(table, tmp_path, name)
    rows = study_by_words(table, tmp_path, name, "{hospital}/{subject}/v{visit}.png")
    assert {row["path"].partition("/")[0] for row in rows if row["path"]} == {"Nord"}


@pytest.mark.parametrize(
    ("site", "name", "pattern"),
    [
        ("Nord", lambda site, s, v: f"Klinik {site}/{s}/v{v}.png", "Klinik {hospital}/{subject}/"),
        ("1", lambda site, s, v: f"site{1 if site == 'Nord' else 2}/{s}/v{v}.png", "site{hospital}/"),
        ("Nor", lambda site, s, v: f"{site[:3]}_{s}_v{v}.png", "{hospital}_{subject}_"),
        ("Nord", lambda site, s, v: f"a/{s}_{site}/v{v}.png", "a/{subject}_{hospital}/"),
    ],
)
def test_a_hospital_anywhere_in_the_path_keeps_those_of_another_apart(
    site: str, name: Callable[[str, str, int], str], pattern: str, tmp_path: Path
) -> None:
    """002 of the table has no photographs, but there is a 002 at the other hospital."""
    table = by_words(sites=(site,))

    def some(place: str, s: str, v: int) -> str:
        return name(place, s, v) if (place == "Nord") != (s == "002") else ""

    with pytest.raises(CasewiseError, match=r"OF ANOTHER HOSPITAL\?") as caught:
        study_by_words(table, tmp_path, some)
    proposed = str(caught.value).partition("--pattern '")[2].partition("'")[0]
    assert pattern in proposed
    rows = study_by_words(table, tmp_path, some, proposed)
    assert len([row for row in rows if row["path"]]) == 15
    assert {row["subject"] for row in rows if not row["path"]} == {"002"}


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        (lambda site, s, v: f"{site}/{s}/v{v}.png", True),
        (lambda site, s, v: f"{site}/{s}_v{v}.png", True),
        (lambda site, s, v: f"{'left' if site == 'Nord' else 'right'}/{s}/v{v}.png", False),
        (lambda site, s, v: f"{s}/{site}/v{v}.png", False),
    ],
)
def test_folders_without_a_column_are_people_or_views(
    name: Callable[[str, str, int], str], refused: bool, tmp_path: Path
) -> None:
    table = by_words(sites=("Nord",)).drop(columns="Hospital")
    if refused:
        with pytest.raises(CasewiseError, match=r"ONE PERSON OR SEVERAL\? Images of 6 subjects .*--pattern '\*/"):
            study_by_words(table, tmp_path, name)
        return
    rows = study_by_words(table, tmp_path, name)
    assert len(rows) == 36
    assert {row["subject"] for row in rows} == {f"{s:03}" for s in range(1, 7)}


@pytest.mark.parametrize(
    ("sites", "name", "pattern", "refused"),
    [
        (("Nord", "Süd-West"), lambda site, s, v: f"{site}/{s}_v{v}.png", "", True),
        (("Nord", "Süd-West"), lambda site, s, v: f"{site}/{s}_v{v}.png", "{region}/{subject}_v{visit}.png", False),
        (("Nord", "Süd-West"), lambda site, s, v: f"{s}/{site}_v{v}.png", "", False),
        (("legs", "arms"), lambda site, s, v: f"{'legs' if site == 'Nord' else 'arms'}/{s}_v{v}.png", "", False),
    ],
)
def test_a_column_site_is_of_the_body_only_where_that_is_clear(
    sites: tuple[str, ...], name: Callable[[str, str, int], str], pattern: str, refused: bool, tmp_path: Path
) -> None:
    table = by_words("site", sites)
    if refused:
        with pytest.raises(CasewiseError, match=r"PLACES OF THE BODY OR HOSPITALS\?.*`hospital`"):
            study_by_words(table, tmp_path, name, pattern)
        return
    rows = study_by_words(table, tmp_path, name, pattern)
    assert {row["subject"] for row in rows} == {f"{s:03}" for s in range(1, 7)}
    assert len({(row["subject"], row["visit"], row["site"]) for row in rows}) == 36
