"""Tables of new cases in the form of the training's: without names of files, or with several in a row."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from casewise.analysis.run import Run
from casewise.errors import CasewiseError
from casewise.plugins.init.joined_cases import joined_cases
from casewise.study.schema import Study
from tests.plugins.init.test_forms_of_hospitals import pictures_at

STUDY = {"name": "draft", "cohort": "cohort.csv", "targets": {"label": {"range": "0..1"}}}
PEOPLE = [f"P{number:03}" for number in (4, 11, 25, 38)]
BY_VISIT = [f"{name}/{visit}/{n}.png" for name in PEOPLE for visit in ("week0", "week4") for n in (1, 2)]
BY_DATE = [f"{name}_{day}.png" for name in PEOPLE for day in ("20240305", "20240619")]
SINGLE = [f"{name}.png" for name in PEOPLE]
# By path of an image its subject and visit.
Cases = dict[str, tuple[str, str]]


def cases_of(folder: Path, table: str, paths: Sequence[str], **options: Any) -> Cases:
    """What the images of a table of new cases are read as; `table` has a line for each row."""
    pictures_at(folder / "images", list(paths))
    (folder / "new.csv").write_text(table, encoding="utf-8")
    study = Study.model_validate({**STUDY, **({"regions": ["hand", "foot"]} if "hand" in paths[0] else {})})
    frame, _, _ = joined_cases(folder / "new.csv", folder / "images", study, **options)
    visits = frame["visit"] if "visit" in frame else [""] * len(frame)
    return {path: (s, v) for path, s, v in zip(frame["path"], frame["subject"], visits, strict=True) if path}


def lines(heading: str, *rows: str) -> str:
    return "\n".join([heading, *rows]) + "\n"


def of_paths(paths: Sequence[str]) -> Cases:
    return {path: (path[:4], path.split("/")[1] if "/" in path else "") for path in paths}


@pytest.mark.parametrize(
    ("table", "paths", "expected"),
    [
        (
            lines("subject,visit", *(f"{s},{v}" for s in PEOPLE for v in ("week0", "week4"))),
            BY_VISIT,
            of_paths(BY_VISIT),
        ),
        (
            lines("Pat.-Nr.;Visite", *(f"{s};week4" for s in PEOPLE)),
            BY_VISIT,
            of_paths([path for path in BY_VISIT if "week4" in path]),
        ),
        (
            lines("patient_id,age,week", *(f"{int(s[1:])},40,{w}" for s in PEOPLE for w in (0, 4))),
            BY_VISIT,
            {path: (str(int(path[1:4])), path[9]) for path in BY_VISIT},
        ),
        (
            lines("patient,date of visit", *(f"{s},{d}" for s in PEOPLE for d in ("2024-03-05", "2024-06-19"))),
            BY_DATE,
            {path: (path[:4], f"{path[5:9]}-{path[9:11]}-{path[11:13]}") for path in BY_DATE},
        ),
        (lines("subject,sex", *(f"{s},f" for s in PEOPLE)), SINGLE, of_paths(SINGLE)),
        (
            lines("subject;Foto 1;Foto 2", *(f"{s};{s}/week0/1.png;{s}/week0/2" for s in PEOPLE)),
            BY_VISIT,
            {path: (path[:4], "") for path in BY_VISIT if "week0" in path},
        ),
        (
            lines("Nr,Film,Patient", *(f"{n},{p},{p[:4]}" for n, p in enumerate(SINGLE, 1))),
            SINGLE,
            of_paths(SINGLE),
        ),
    ],
)  # fmt: skip
def test_new_tables_in_many_forms_are_joined_to_the_right_images(
    table: str, paths: list[str], expected: Cases, tmp_path: Path
) -> None:
    assert cases_of(tmp_path, table, paths) == expected


def test_regions_come_from_the_names_of_files_where_the_table_has_none(tmp_path: Path) -> None:
    paths = [f"{name}/{region}_{n}.png" for name in PEOPLE for region in ("hand", "foot") for n in (1, 2)]
    table = lines("subject", *PEOPLE)
    assert cases_of(tmp_path, table, paths) == {path: (path[:4], "") for path in paths}
    study = Study.model_validate({**STUDY, "regions": ["hand", "foot"]})
    frame, *_ = joined_cases(tmp_path / "new.csv", tmp_path / "images", study)
    assert frame["region"].tolist() == [path.split("/")[1].split("_")[0] for path in frame["path"]]


def test_a_stated_pattern_and_a_stated_column_of_people_are_used(tmp_path: Path) -> None:
    paths = [f"x{name[1:]}-{n}.png" for name in PEOPLE for n in (1, 2)]
    table = lines("centre no,code", *(f"1,{name[1:]}" for name in PEOPLE))
    joined = cases_of(tmp_path, table, paths, subject="code", pattern="x{subject}-*.png")
    assert joined == {path: (path[1:4], "") for path in paths}


@pytest.mark.parametrize(
    ("heading", "rows", "message"),
    [
        ("Patient name", ["Meier, Anna", "Schulz, Ben", "Kunz, Carl", "Lang, Dora"], "results must not name them"),
        ("Foto,remark", [f"{path},ok" for path in SINGLE], "who is on the images"),
        ("subject", ["Q100", "Q200", "Q300", "Q400"], "names the images"),
    ],
)
def test_a_table_whose_people_or_images_are_unclear_is_refused(
    heading: str, rows: list[str], message: str, tmp_path: Path
) -> None:
    if heading == "Patient name":
        heading, rows = f"{heading},Foto", [f'"{name}",{path}' for name, path in zip(rows, SINGLE, strict=True)]
    with pytest.raises(CasewiseError, match=message):
        cases_of(tmp_path, lines(heading, *rows), SINGLE)


def test_a_model_predicts_a_table_without_names_of_files(
    chest_run: Run, chests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [chests.parent / path for path in pd.read_csv(chests)["path"].head(4)]
    for name, path in zip(PEOPLE, paths, strict=True):
        (tmp_path / "films" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "films" / name / f"film{path.suffix}")
    (tmp_path / "new.csv").write_text(lines("Patient,Week", *(f"{name},0" for name in [*PEOPLE, "P777"])))
    joined = chest_run.predict(tmp_path / "new.csv", root=tmp_path / "films").set_index("subject")
    named = pd.DataFrame({"path": [str(path) for path in paths], "subject": PEOPLE})
    expected = chest_run.predict(named).set_index("subject")
    assert joined.loc["P777", "problem"] == "no row of this case has an image."
    probabilities = [name for name in expected if name.startswith("probability of")]
    pd.testing.assert_frame_equal(joined.loc[PEOPLE, probabilities], expected.loc[PEOPLE, probabilities])
    assert "Rows with an image: 4 of 5" in caplog.text


def test_a_pattern_beside_a_table_that_names_its_images_is_refused(
    chest_run: Run, chests: Path, tmp_path: Path
) -> None:
    pd.read_csv(chests).head(2).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(CasewiseError, match="names its images"):
        chest_run.predict(tmp_path / "new.csv", root=chests.parent, pattern="{subject}/{file}")


def test_a_stated_date_states_the_visits(tmp_path: Path) -> None:
    """Of two columns of dates, the first would be taken."""
    days = ("2024-03-05", "2024-06-19")
    rows = [
        f"{s},{day[:5]}01-0{n},{day},{s}/week{4 * n}/1.png,{s}/week{4 * n}/2.png"
        for s in PEOPLE
        for n, day in enumerate(days)
    ]
    table = lines("subject,visit date,biopsy date,Foto 1,Foto 2", *(row.replace("-00,", "-03,") for row in rows))
    expected = {path: (path[:4], days["week4" in path]) for path in BY_VISIT}
    assert cases_of(tmp_path, table, BY_VISIT, columns={"date": "biopsy date"}) == expected
    assert cases_of(tmp_path, table, BY_VISIT, columns={"visit": "biopsy date"}) == expected
    with pytest.raises(CasewiseError, match="--column date=Foto 1"):
        cases_of(tmp_path, table, BY_VISIT, columns={"date": "Foto 1"})
