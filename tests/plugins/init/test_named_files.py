"""Photographs that a table names and that do not exist: each is named, kept in the cohort, and costs its case."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from casewise.analysis.run import Run
from casewise.cohort.checks import LACKS
from casewise.cohort.cohort import read_cohort
from casewise.errors import CasewiseError
from casewise.plugins.init.joined_cases import joined_cases
from casewise.plugins.init.new_study import NewStudy
from casewise.plugins.init.own_data import plan_study
from casewise.study.loading import read_study
from casewise.study.schema import Study
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_forms_of_hospitals import pictures_at

PEOPLE = [f"P-05{number:02}" for number in range(1, 13)]
STUDY = Study.model_validate({"name": "draft", "cohort": "cohort.csv", "targets": {"Grad": {"range": "0..1"}}})


def folder_of(person: str) -> str:
    return f"Klinik/{person}/2021-04-{int(person[-2:]):02}"


def hospital(folder: Path, lost: Sequence[str] = (), **cells: dict[int, str]) -> Path:
    """Twelve people with three photographs in a row each; `lost` do not exist, `cells` replaces cells by column."""
    paths = [f"{folder_of(person)}/IMG_{n:04}.JPG" for person in PEOPLE for n in (1, 2, 3)]
    pictures_at(folder / "Fotos", [path for path in paths if path not in lost])
    frame = pd.DataFrame({"Patient": PEOPLE, "Grad": [str(i % 3) for i in range(12)]})
    for n in (1, 2, 3):
        frame[f"Foto {n}"] = [f"{folder_of(person)}/IMG_{n:04}.JPG" for person in PEOPLE]
    for column, by_row in cells.items():
        for row, cell in by_row.items():
            frame.loc[row - 2, column.replace("_", " ")] = cell
    frame.to_csv(folder / "Tabelle.csv", index=False)
    return folder / "Tabelle.csv"


def planned(folder: Path, table: Path) -> NewStudy:
    plan = plan_study(table=table, images=folder / "Fotos", target="Grad", folder=folder / "study")
    plan.write()
    return plan


def doubt(plan: NewStudy, begin: str) -> str:
    (text,) = [own for own in plan.doubts if own.startswith(begin)]
    return text


def lacking(folder: Path, table: Path) -> dict[str, str]:
    """What `predict` says is missing, by subject."""
    frame, _, _ = joined_cases(table, folder / "Fotos", STUDY)
    frame = frame if LACKS in frame else frame.assign(**{LACKS: ""})
    return {s: text for s, text in zip(frame["subject"], frame[LACKS], strict=True) if text}


LOST = [f"{folder_of(PEOPLE[4])}/IMG_0002.JPG", f"{folder_of(PEOPLE[6])}/IMG_0003.JPG"]


def test_every_named_photograph_that_does_not_exist_is_named(tmp_path: Path) -> None:
    table = hospital(tmp_path, LOST, Foto_1={3: f"{folder_of(PEOPLE[1])}/IMG_0011.JPG"})
    text = doubt(planned(tmp_path, table), "NAMED IMAGES THAT WERE NOT FOUND in Fotos: 3, in 3 rows")
    for part in ("row 3 (P-0502), Foto 1", "IMG_0011.JPG", "row 6 (P-0505), Foto 2", "row 8 (P-0507), Foto 3"):
        assert part in text
    assert "has IMG_0001.JPG, in no row" in text, "the photograph of that folder that no row names"
    rows = table_of(tmp_path / "study")
    assert [(row["subject"], row["view"]) for row in rows if row["image_found"] == "no"] == [
        ("P-0502", "Foto 1"),
        ("P-0505", "Foto 2"),
        ("P-0507", "Foto 3"),
    ]
    cohort = read_cohort(read_study(tmp_path / "study" / "study.yaml"))
    assert (len(cohort.images), len(cohort.cases)) == (33, 12)
    found = lacking(tmp_path, table)
    assert list(found) == ["P-0502", "P-0505", "P-0507"]
    assert "row 3, Foto 1" in found["P-0502"]
    assert "IMG_0011.JPG" in found["P-0502"]


def test_empty_cells_and_remarks_are_no_missing_photographs(tmp_path: Path) -> None:
    table = hospital(tmp_path, Foto_3={2: "", 3: "k.A.", 4: "kein Foto"})
    plan = planned(tmp_path, table)
    assert not [own for own in plan.doubts if "NOT FOUND" in own or own.startswith("Rows without")]
    assert lacking(tmp_path, table) == {}


def test_a_column_whose_photographs_are_mostly_missing_is_still_read(tmp_path: Path) -> None:
    lost = [f"{folder_of(person)}/IMG_0003.JPG" for person in PEOPLE[2:]]
    table = hospital(tmp_path, lost)
    assert "10, in 10 rows" in doubt(planned(tmp_path, table), "NAMED IMAGES")
    assert list(lacking(tmp_path, table)) == PEOPLE[2:]
    shutil.rmtree(tmp_path / "Fotos")
    table = hospital(tmp_path, [f"{folder_of(person)}/IMG_0003.JPG" for person in PEOPLE])
    assert list(lacking(tmp_path, table)) == PEOPLE, "none of its photographs exists"


def test_another_column_of_files_that_do_not_exist_is_named(tmp_path: Path) -> None:
    table = hospital(tmp_path)
    frame = pd.read_csv(table, dtype=str)
    frame.assign(Übersicht=[f"uebersicht_{person}.jpg" for person in PEOPLE]).to_csv(table, index=False)
    text = doubt(planned(tmp_path, table), "A COLUMN OF IMAGES IS NOT USED")
    assert "'Übersicht'" in text
    assert "0 of 12" in text


def test_rows_without_any_photograph_are_named_with_their_subject(tmp_path: Path) -> None:
    lost = [f"{folder_of(PEOPLE[3])}/IMG_{n:04}.JPG" for n in (1, 2, 3)]
    table = hospital(tmp_path, lost, Foto_1={4: ""}, Foto_2={4: ""}, Foto_3={4: ""})
    text = doubt(planned(tmp_path, table), "Rows without image in Fotos: 2 (row 4 (P-0503): no image is named")
    assert "row 5 (P-0504), Foto 1: 'Klinik/P-0504/2021-04-04/IMG_0001.JPG'" in text
    assert "Did you mean" not in text


def test_no_name_is_suggested_that_equals_the_missing_one(tmp_path: Path) -> None:
    """All people have IMG_0001.JPG, and one such photograph is in no row."""
    table = hospital(tmp_path, [f"{folder_of(PEOPLE[3])}/IMG_0001.JPG"])
    frame = pd.read_csv(table, dtype=str).drop(columns=["Foto 2", "Foto 3"]).drop(index=5)
    frame.to_csv(table, index=False)
    assert "Did you mean" not in doubt(planned(tmp_path, table), "Rows without image in Fotos: 1 (row 5 (P-0504)")


@pytest.mark.parametrize("between", ["; ", "|", "\n", ", "])
def test_several_files_in_a_cell_are_read(between: str, tmp_path: Path) -> None:
    cells = {n + 2: between.join(f"{folder_of(p)}/IMG_{k:04}.JPG" for k in (1, 2, 3)) for n, p in enumerate(PEOPLE)}
    table = hospital(tmp_path, LOST, Foto_1=cells)
    pd.read_csv(table, dtype=str)[["Patient", "Grad", "Foto 1"]].to_csv(table, index=False)
    plan = planned(tmp_path, table)
    assert "row 6 (P-0505), Foto 1 (2)" in doubt(plan, "NAMED IMAGES THAT WERE NOT FOUND in Fotos: 2")
    assert len([row for row in table_of(tmp_path / "study") if row["path"]]) == 34
    assert list(lacking(tmp_path, table)) == ["P-0505", "P-0507"]


def test_a_range_whose_last_photograph_does_not_exist_is_not_read_as_its_first(tmp_path: Path) -> None:
    names = [f"IMG_{n:04}.JPG" for n in range(1, 37)]
    pictures_at(tmp_path / "Fotos", [name for name in names if name != "IMG_0009.JPG" and name != "IMG_0014.JPG"])
    rows = [(p, str(i % 3), names[3 * i], names[3 * i + 2]) for i, p in enumerate(PEOPLE)]
    pd.DataFrame(rows, columns=["Patient", "Grad", "Foto von", "Foto bis"]).to_csv(tmp_path / "t.csv", index=False)
    plan = planned(tmp_path, tmp_path / "t.csv")
    assert "row 4 (P-0503), Foto bis: 'IMG_0009.JPG'" in doubt(plan, "Rows without image")
    assert "row 6 has 2 of 3" in doubt(plan, "Ranges with numbers")
    kept = [row["path"] for row in table_of(tmp_path / "study") if row["path"]]
    assert kept == [
        name for name in names if name not in ("IMG_0007.JPG", "IMG_0008.JPG", "IMG_0009.JPG", "IMG_0014.JPG")
    ]
    assert list(lacking(tmp_path, tmp_path / "t.csv")) == ["P-0503"]


def test_what_agrees_of_a_path_and_what_does_not_is_said(tmp_path: Path) -> None:
    table = hospital(tmp_path)
    for cells in ("Foto 1", "Foto 2", "Foto 3"):
        frame = pd.read_csv(table, dtype=str)
        frame.assign(**{cells: "Export 2021/" + frame[cells]}).to_csv(table, index=False)
    shutil.move(tmp_path / "Fotos", tmp_path / "all" / "Neu 2022")
    frame, _, doubts = joined_cases(table, tmp_path / "all", STUDY)
    assert frame["path"].ne("").all()
    (text,) = [own for own in doubts if own.startswith("CELLS THAT NAME ANOTHER FOLDER")]
    for part in ("Klinik/P-0501/2021-04-01/IMG_0001.JPG agrees", "'Export 2021'", "'Neu 2022'", "--root '"):
        assert part in text
    root = text.partition("--root '")[2].partition("'")[0]
    assert not [own for own in joined_cases(table, Path(root), STUDY)[2] if own.startswith("CELLS THAT")]


def test_a_model_predicts_no_case_of_which_a_named_photograph_is_missing(
    chest_run: Run, chests: Path, tmp_path: Path
) -> None:
    """The verdict is one, whether a table has a row for each photograph or several of them in a row."""
    paths = [chests.parent / path for path in pd.read_csv(chests)["path"].head(4)]
    for number, path in enumerate(paths):
        (tmp_path / "films").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "films" / f"{number}{path.suffix}")
    end = paths[0].suffix
    rows = [("A", f"0{end}", f"1{end}"), ("B", f"2{end}", f"9{end}"), ("C", f"3{end}", "")]
    pd.DataFrame(rows, columns=["subject", "Foto 1", "Foto 2"]).to_csv(tmp_path / "wide.csv", index=False)
    tall = [(subject, file) for subject, *files in rows for file in files if file]
    pd.DataFrame(tall, columns=["subject", "path"]).to_csv(tmp_path / "tall.csv", index=False)
    problems = {}
    for name in ("wide", "tall"):
        table = chest_run.predict(tmp_path / f"{name}.csv", root=tmp_path / "films")
        problems[name] = table.groupby("subject")["problem"].agg(lambda texts: " ".join(map(str, texts)))
        assert f"9{end}" in problems[name]["B"]
    assert "row 3, Foto 2" in problems["wide"]["B"]
    assert problems["wide"]["C"] == problems["tall"]["C"]


def test_a_table_whose_only_column_of_files_is_wrong_is_refused(tmp_path: Path) -> None:
    table = hospital(tmp_path)
    frame = pd.read_csv(table, dtype=str)[["Patient", "Grad", "Foto 1"]]
    frame.assign(**{"Foto 1": [f"x/DSC{n}.JPG" for n in range(12)]}).to_csv(table, index=False)
    try:
        plan = planned(tmp_path, table)
    except CasewiseError:
        return
    assert "'Foto 1'" in doubt(plan, "A COLUMN OF IMAGES IS NOT USED")


def test_remarks_are_no_missing_photographs_and_a_last_separator_is_no_name(tmp_path: Path) -> None:
    lost = f"{folder_of('P-0504')}/IMG_0002.JPG"
    remarks = {4: "0", 6: "no photo 2021", 7: "kein Bild, Pat. verst. 12/2020", 5: f"{lost};"}
    table = hospital(tmp_path, [lost], Foto_2=remarks)
    assert list(lacking(tmp_path, table)) == ["P-0504"]


def test_codes_of_findings_are_not_divided_into_files(tmp_path: Path) -> None:
    pictures_at(tmp_path / "Fotos", [f"{n}.jpg" for n in range(1, 13)])
    findings = ["1;2" if n % 2 else "2;3" for n in range(12)]
    frame = pd.DataFrame({"Datei": [f"{n}.jpg" for n in range(1, 13)], "Befunde": findings, "Grad": list("012" * 4)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    plan = planned(tmp_path, tmp_path / "t.csv")
    assert not any("name up to" in note for note in plan.understood)
    assert [row["Befunde"] for row in table_of(tmp_path / "study")] == findings


def test_a_missing_photograph_without_its_ending_is_named(tmp_path: Path) -> None:
    lost = f"{folder_of('P-0505')}/IMG_0002"
    table = hospital(tmp_path, [f"{lost}.JPG"], Foto_2={6: lost.replace("/", "\\"), 7: "2021", 8: "entfällt"})
    assert list(lacking(tmp_path, table)) == ["P-0505"]
    assert "row 6 (P-0505), Foto 2" in doubt(planned(tmp_path, table), "NAMED IMAGES THAT WERE NOT FOUND in Fotos: 1")


def test_the_stated_column_of_visits_names_them_whoever_else_is_in_the_table(tmp_path: Path) -> None:
    table = hospital(tmp_path)
    frame = pd.read_csv(table, dtype=str).assign(**{"Untersucht am": [f"{n:02}.04.2021" for n in range(1, 13)]})
    frame.to_csv(table, index=False)
    rows, _, _ = joined_cases(table, tmp_path / "Fotos", STUDY, columns={"visit": "Untersucht am"})
    assert rows["visit"].tolist() == [f"2021-04-{n:02}" for n in range(1, 13) for _ in range(3)]
    frame[:2].to_csv(table, index=False)
    rows, _, _ = joined_cases(table, tmp_path / "Fotos", STUDY, subject="Patient", columns={"visit": "Untersucht am"})
    assert rows["visit"].tolist() == ["2021-04-01"] * 3 + ["2021-04-02"] * 3


def test_a_study_of_several_columns_of_photographs_knows_people_and_visits(tmp_path: Path) -> None:
    table = hospital(tmp_path)
    frame = pd.read_csv(table, dtype=str).assign(Termin=["V1", "V2"] * 6, Patient=[p for p in PEOPLE[:6] for _ in "12"])
    frame.to_csv(table, index=False)
    text = planned(tmp_path, table).files["study.yaml"].decode()
    assert "original_columns: {subject: Patient, visit: Termin}" in text


def test_a_date_that_does_not_exist_among_visits_is_named(tmp_path: Path) -> None:
    table = hospital(tmp_path)
    days = [f"{n:02}.04.2021" for n in range(1, 13)]
    frame = pd.read_csv(table, dtype=str).assign(
        **{"Untersuchung am": [*days[:8], "31.02.2021", *days[9:]], "Patient": [p for p in PEOPLE[:6] for _ in "12"]}
    )
    frame.to_csv(table, index=False)
    assert "row 10: '31.02.2021'" in doubt(planned(tmp_path, table), "VISITS OF 'Untersuchung am' ARE NOT IN ORDER")
