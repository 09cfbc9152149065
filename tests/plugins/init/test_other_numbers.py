"""Numbers and names that belong to people, tables, visits or files, and are none of the others."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from casewise.errors import CasewiseError
from casewise.plugins.init.new_study import NewStudy
from casewise.plugins.init.own_data import plan_study
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_forms_of_hospitals import PEOPLE, Rows, joined, pictures_at, plan_of

SITES = [f"{1 + s % 2:02}" for s in PEOPLE]
DAYS = ("2024-03-04", "2024-04-15")


def plan_of_tables(folder: Path, tables: dict[str, tuple[str, Rows]], names: list[str]) -> NewStudy:
    """The written study of several tables and of noise under these names."""
    for name, (heads, rows) in tables.items():
        (folder / name).write_text("\n".join([heads, *(",".join(map(str, row)) for row in rows)]) + "\n")
    images = pictures_at(folder / "photos", names)
    plan = plan_study(table=[folder / name for name in tables], images=images, folder=folder / "study")
    plan.write()
    return plan


def of_sites(suffix: str) -> list[str]:
    return [f"AB12-{site}-{s:03}{suffix}" for s, site in zip(PEOPLE, SITES, strict=True)]


@pytest.mark.parametrize(("suffix", "folder"), [("/20240304", "-"), ("", "/")])
def test_a_part_of_the_number_of_a_subject_is_no_visit(suffix: str, folder: str, tmp_path: Path) -> None:
    rows: Rows = [(name, n, s + 0.5 + 10 * n) for s, name in zip(PEOPLE, of_sites(""), strict=True) for n in (1, 2)]
    names = [f"{name}/IMG_{number}.jpg" for number, name in enumerate(of_sites(suffix), 7001)]
    names = [name.replace("-", folder, 2).replace(folder, "-", 1) for name in names]
    with pytest.raises(CasewiseError, match="No column of the table names the images"):
        plan_of(tmp_path, "USUBJID,VISITNUM,EASI", rows, names)


def test_the_domain_of_a_table_is_no_contradiction(tmp_path: Path) -> None:
    people = of_sites("")
    scores: Rows = [("QS", name, n, f"V{n}", s + 0.5 + 10 * n) for s, name in enumerate(people) for n in (1, 2)]
    visits: Rows = [("SV", name, n, f"V{n}", DAYS[n - 1]) for name in people for n in (1, 2)]
    tables = {
        "qs.csv": ("DOMAIN,USUBJID,VISITNUM,VISIT,EASI", scores),
        "sv.csv": ("DOMAIN,USUBJID,VISITNUM,VISIT,SVSTDTC", visits),
    }
    names = [f"{name}/{day.replace('-', '')}/a.png" for name in people for day in DAYS]
    plan_of_tables(tmp_path, tables, names)
    expected = {names[2 * s + n]: str(s + 0.5 + 10 * (n + 1)) for s in range(len(people)) for n in (0, 1)}
    assert joined(tmp_path, "EASI") == expected


def test_the_hospital_of_a_table_is_a_contradiction(tmp_path: Path) -> None:
    tables = {
        "a.csv": ("hospital,subject,score", [("Kiel", s, s + 0.5) for s in PEOPLE]),
        "b.csv": ("hospital,subject,age", [("Ulm", s, s + 40) for s in PEOPLE]),
    }
    with pytest.raises(CasewiseError, match="hospital differs"):
        plan_of_tables(tmp_path, tables, [f"{s}.png" for s in PEOPLE])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_tables_meet_by_a_number_that_both_have(order: tuple[int, int], tmp_path: Path) -> None:
    entries = [
        ("reports.csv", ("AccessionNumber,Reader,Severity", [(f"A{700 + s}", "JS", s % 4) for s in PEOPLE])),
        ("studies.csv", ("Accession Number,Patient ID", [(f"A{700 + s}", f"PAT{s:02}") for s in PEOPLE])),
    ]
    plan = plan_of_tables(tmp_path, dict(entries[at] for at in order), [f"PAT{s:02}/a.png" for s in PEOPLE])
    assert joined(tmp_path, "Severity") == {f"PAT{s:02}/a.png": str(s % 4) for s in PEOPLE}
    assert not any("joined by subject" in note for note in plan.understood)


def test_tables_without_a_name_in_common_are_not_joined(tmp_path: Path) -> None:
    tables = {
        "scores.csv": ("subject,score", [(f"S{s}", s + 0.5) for s in PEOPLE]),
        "others.csv": ("subject,age", [(f"Q{s + 50}", s + 40) for s in PEOPLE]),
    }
    with pytest.raises(CasewiseError, match="no row meets a row of"):
        plan_of_tables(tmp_path, tables, [f"S{s}.png" for s in PEOPLE])


@pytest.mark.parametrize("shared", ["No", "Exam date", "Age"])
def test_strangers_do_not_meet_by_a_number_of_rows_a_date_or_an_age(shared: str, tmp_path: Path) -> None:
    values = {"No": str, "Exam date": "2024-01-{:02}".format, "Age": lambda s: str(30 + s)}[shared]
    tables = {
        "a.csv": (f"{shared},Patient", [(values(s), f"S{s:02}") for s in PEOPLE]),
        "b.csv": (f"{shared},Subject,IGA", [(values(s), f"Q{50 + s}", s % 4) for s in PEOPLE]),
    }
    with pytest.raises(CasewiseError, match="no row meets a row of"):
        plan_of_tables(tmp_path, tables, [f"S{s:02}.png" for s in PEOPLE])


@pytest.mark.parametrize(
    ("names", "pattern"),
    [("P{s:02}_T{visit}.jpg", "P{subject}_T{zeit}.jpg"), ("P{s:02}/{visit}.jpg", "P{subject}/{zeit}.jpg")],
)
def test_visits_that_are_counted_from_zero_are_not_those_from_one(names: str, pattern: str, tmp_path: Path) -> None:
    rows: Rows = [(s, visit, s + visit / 2) for s in PEOPLE for visit in (1, 2, 3)]
    paths = [names.format(s=s, visit=visit) for s in PEOPLE for visit in (0, 1, 2)]
    paths.append(paths[-1].replace("2.jpg", "9.jpg"))
    with pytest.raises(CasewiseError, match=r"OFF BY 1\? zeit of the table is 1, 2, 3, and the paths have 0, 1, 2"):
        plan_of(tmp_path, "subject,zeit,score", rows, paths, pattern)


def test_numbers_of_which_some_have_no_photograph_are_joined(tmp_path: Path) -> None:
    rows: Rows = [(s, visit, s + visit / 2) for s in PEOPLE for visit in (1, 2, 3)]
    plan_of(tmp_path, "subject,zeit,score", rows, [f"P{s:02}_T{v}.jpg" for s in PEOPLE for v in (2, 3)],
            "P{subject}_T{zeit}.jpg")  # fmt: skip
    assert joined(tmp_path, "score")["P04_T3.jpg"] == "5.5"


def test_a_column_that_names_other_subjects_is_doubted(tmp_path: Path) -> None:
    again = {2003: 2103, 2007: 2107}
    people = [*range(2001, 2011), *again.values()]
    rows: Rows = [(s, n % 3, 30 + n, again.get(s, "")) for n, s in enumerate(people)]
    heads, names = "Subject No,IGA,Age,New Subject No", [f"{s}/a.png" for s in people]
    plan = plan_of(tmp_path, heads, rows, names, target="IGA")
    (doubt,) = [doubt for doubt in plan.doubts if doubt.startswith("ONE PERSON UNDER TWO NAMES?")]
    assert "2103 in a row of 2003 (2 such subjects)" in doubt


def test_small_numbers_and_ages_name_no_subjects(tmp_path: Path) -> None:
    rows: Rows = [(s, s % 3, 20 - s, 1 + s % 2) for s in PEOPLE]
    plan = plan_of(tmp_path, "subject,grade,age,twin", rows, [f"{s}/a.png" for s in PEOPLE], target="grade")
    assert not any("TWO NAMES" in doubt for doubt in plan.doubts)


def blocks() -> Rows:
    return [(880100 + s, f"H24/01{s:03}", block, "HE", s % 3) for s in PEOPLE for block in ("A 1", "B 2")]


def test_names_of_files_are_put_together_from_columns(tmp_path: Path) -> None:
    paths = {(s, block): f"H24-01{s:03}_{block}_HE.png" for s in PEOPLE for block in ("A1", "B2")}
    plan = plan_of(tmp_path, "MRN,E-Nr.,Block,Stain,Grading", blocks(), list(paths.values()), target="Grading")
    rows = {row["path"]: row for row in table_of(tmp_path / "study")}
    assert {path: (rows[path]["Grading"], rows[path]["subject"]) for path in paths.values()} == {
        path: (str(s % 3), str(880100 + s)) for (s, _), path in paths.items()
    }
    assert any("put together from 'E-Nr.', 'Block', 'Stain'" in note for note in plan.understood)


@pytest.mark.parametrize("name", ["H24-01{s:03}_{block}_Ki67.png", "week4/H24-01{s:03}-{block}_HE.png"])
def test_words_that_are_in_no_cell_are_not_left_out_of_names(name: str, tmp_path: Path) -> None:
    paths = [name.format(s=s, block=block) for s in PEOPLE for block in ("A1", "B2")]
    with pytest.raises(CasewiseError, match="No column of the table names the images"):
        plan_of(tmp_path, "MRN,E-Nr.,Block,Stain,Grading", blocks(), paths, target="Grading")


def test_scores_make_no_names_where_paths_state_the_subject(tmp_path: Path) -> None:
    rows: Rows = [((s * 3) % 11, f"S{s:02}", 1 + s % 3) for s in PEOPLE]
    names = [f"S{s:02}/{n}.jpg" for s in PEOPLE for n in (1, 2, 3)]
    plan_of(tmp_path, "No,subject,grade", rows, names, target="grade")
    assert joined(tmp_path, "grade") == {name: str(1 + int(name[1:3]) % 3) for name in names}


def test_two_files_of_one_row_are_not_chosen_from(tmp_path: Path) -> None:
    paths = [f"H24-01{s:03}_{block}_HE.png" for s in PEOPLE for block in ("A1", "B2", "A-1")]
    with pytest.raises(CasewiseError, match="No column of the table names the images"):
        plan_of(tmp_path, "MRN,E-Nr.,Block,Stain,Grading", blocks(), paths, target="Grading")


def test_a_column_and_a_pattern_may_both_name_the_subjects_of_a_join(tmp_path: Path) -> None:
    rows: Rows = [(family, twin, (family + twin) % 3) for family in PEOPLE for twin in (1, 2)]
    names = [f"F{family:02}T{twin}_{n}.jpg" for family in PEOPLE for twin in (1, 2) for n in (1, 2)]
    (tmp_path / "t.csv").write_text("\n".join(["Family,Twin,Grade", *(",".join(map(str, row)) for row in rows)]))
    images = pictures_at(tmp_path / "photos", names)
    options = {"subject": "Family", "pattern": "F{subject}T{twin}_{n}.jpg", "folder": tmp_path / "study"}
    plan = plan_study(table=tmp_path / "t.csv", images=images, target="Grade", **options)  # type: ignore[arg-type]
    plan.write()
    assert joined(tmp_path, "Grade") == {name: str((int(name[1:3]) + int(name[4])) % 3) for name in names}


def test_before_and_after_are_visits_also_in_other_words(tmp_path: Path) -> None:
    rows: Rows = [(s, s + 0.5, s + 20.5) for s in PEOPLE]
    names = [f"{folder}/HC{s:03}.png" for s in PEOPLE for folder in ("Before", "After")]
    plan_of(tmp_path, "subject,score pre,score post", rows, names)
    found = {(row["path"], row["visit"].casefold(), row["score"]) for row in table_of(tmp_path / "study")}
    assert found == {
        (f"{folder}/HC{s:03}.png", folder.casefold(), str(s + value))
        for s in PEOPLE for folder, value in (("Before", 0.5), ("After", 20.5))
    }  # fmt: skip


def test_headings_in_two_rows_become_one(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in [
        ("Scores of 2024", None, None, None, None, None),
        ("Patient", "Age", "Baseline", None, "Month 3", None),
        (None, None, "VASI", "VES", "VASI", "VES"),
        *((s, 30 + s, s + 0.5, s % 4, s + 20.5, (s + 1) % 4) for s in PEOPLE),
    ]:
        sheet.append(row)
    for cells in ("A1:F1", "A2:A3", "B2:B3", "C2:D2", "E2:F2"):
        sheet.merge_cells(cells)
    book.save(tmp_path / "scores.xlsx")
    images = pictures_at(tmp_path / "photos", [f"{s:02}/{visit}/a.png" for s in PEOPLE for visit in ("BL", "M3")])
    plan = plan_study(table=tmp_path / "scores.xlsx", images=images, target="vasi", folder=tmp_path / "study")
    plan.write()
    assert joined(tmp_path, "vasi") == {
        f"{s:02}/{visit}/a.png": str(s + value) for s in PEOPLE for visit, value in (("BL", 0.5), ("M3", 20.5))
    }
    assert any("in rows 2 and 3 and were joined" in note for note in plan.understood)


def test_the_first_patient_is_no_second_row_of_headings(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in [
        ("Patient", "Lesion", None, "HER2", None),
        *((f"P{s:02}", ("left", "right")[s % 2], "upper", f"{s % 3}+", ("low", "high")[s % 2]) for s in PEOPLE),
    ]:
        sheet.append(row)
    for cells in ("B1:C1", "D1:E1"):
        sheet.merge_cells(cells)
    book.save(tmp_path / "t.xlsx")
    images = pictures_at(tmp_path / "photos", [f"P{s:02}.png" for s in PEOPLE])
    with pytest.raises(CasewiseError, match="heading"):
        plan_study(table=tmp_path / "t.xlsx", images=images, folder=tmp_path / "study")


def test_the_date_of_a_reading_is_no_date_of_images(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s}", f"S{s}.png", s % 3, f"2024-02-{s:02}") for s in PEOPLE]
    plan = plan_of(tmp_path, "subject,file,grade,Read date", rows, [f"S{s}.png" for s in PEOPLE], target="grade")
    assert not any("date from" in note for note in plan.understood)
