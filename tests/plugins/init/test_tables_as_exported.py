"""Tables as hospitals and registries export them: sums, merged cells, events, analysed records, centres in files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import openpyxl
import pytest

from casewise.errors import CasewiseError
from casewise.plugins.init.own_data import plan_study
from tests.plugins.init.own_data import table_of
from tests.plugins.init.test_forms_of_hospitals import PEOPLE, Rows, joined, pictures_at, plan_of

VISITS = ("V1", "V2")


def of_visits(ending: str = "png") -> list[str]:
    return [f"S{s:02}/{visit}/a.{ending}" for s in PEOPLE for visit in VISITS]


def scores() -> Rows:
    return [(f"S{s:02}", visit, s + 0.5 + 10 * n) for s in PEOPLE for n, visit in enumerate(VISITS)]


def expected() -> dict[str, str]:
    return {f"S{s:02}/{visit}/a.png": str(s + 0.5 + 10 * n) for s in PEOPLE for n, visit in enumerate(VISITS)}


@pytest.mark.parametrize(
    "sums",
    [
        [("Mean", "", 7.2)], [("", "Summe", 99.5)], [("Moyenne", "V1", 3.1), ("écart-type", "V1", 1.5)],
        [("Mittelwert", "", 8.1), ("SD", "", 2.2), ("n", "", 12)], [("max", "", 9.1)],
    ],
)  # fmt: skip
def test_rows_that_sum_others_up_are_no_subjects(sums: Rows, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "subject,visit,score", [*scores(), *sums], of_visits())
    assert joined(tmp_path, "score") == expected()
    (doubt,) = [doubt for doubt in plan.doubts if "because they sum others up" in doubt]
    assert f"{len(sums)} (" in doubt


def test_a_subject_named_like_a_count_is_one_also_in_the_last_row(tmp_path: Path) -> None:
    people = ("n", "anna", "ben", "carl", "min", "max")
    rows: Rows = [(name, visit, 1.5 * at) for at, name in enumerate(people, 1) for visit in VISITS]
    names = [f"{name}/{visit}/a.png" for name in people for visit in VISITS]
    plan_of(tmp_path, "subject,visit,score", rows, names)
    assert len(joined(tmp_path, "score")) == len(names)


def test_merged_cells_count_for_each_of_their_rows(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in [(None, None, "Scores of 2024"), ("subject", "visit", "score"), *scores()]:
        sheet.append(row)
    for at in range(len(PEOPLE)):
        sheet.merge_cells(start_row=3 + 2 * at, end_row=4 + 2 * at, start_column=1, end_column=1)
    book.save(tmp_path / "scores.xlsx")
    images = pictures_at(tmp_path / "photos", of_visits())
    plan = plan_study(table=tmp_path / "scores.xlsx", images=images, folder=tmp_path / "study")
    plan.write()
    assert joined(tmp_path, "score") == expected()
    assert any("Merged cells of column A" in note for note in plan.understood)
    assert any("in row 2" in note for note in plan.understood)


def test_events_of_redcap_are_visits(tmp_path: Path) -> None:
    rows: Rows = [
        (s, event, "", "", s + 0.5 + 10 * n)
        for s in PEOPLE for n, event in enumerate(("baseline_arm_1", "week_4_arm_1"))
    ]  # fmt: skip
    rows += [(2, "unscheduled_arm_1", "skin", number, number + 50.5) for number in (1, 2)]
    names = [f"{s:03}/{visit}/a.png" for s in PEOPLE for visit in ("Baseline", "Week 04")]
    names += [f"002/Unscheduled {number}/a.png" for number in (1, 2)]
    plan_of(
        tmp_path, "record_id,redcap_event_name,redcap_repeat_instrument,redcap_repeat_instance,score", rows, names
    )  # fmt: skip
    values = {f"{s:03}/{v}/a.png": str(s + 0.5 + 10 * n) for s in PEOPLE for n, v in enumerate(("Baseline", "Week 04"))}
    values |= {f"002/Unscheduled {number}/a.png": str(number + 50.5) for number in (1, 2)}
    assert joined(tmp_path, "score") == values


def test_of_two_rows_of_a_visit_the_analysed_one_counts(tmp_path: Path) -> None:
    rows: Rows = [(*row, "Y") for row in scores()]
    rows[3:3] = [("S02", "V1", 77.5, "")]
    plan = plan_of(tmp_path, "USUBJID,AVISIT,AVAL,ANL01FL", rows, of_visits())
    assert joined(tmp_path, "AVAL") == expected()
    assert any("has ANL01FL = Y: 1 (row 5)" in doubt for doubt in plan.doubts)
    rows[3] = ("S02", "V1", 77.5, "Y")
    with pytest.raises(CasewiseError, match="have the same USUBJID, AVISIT"):
        plan_of(tmp_path / "both", "USUBJID,AVISIT,AVAL,ANL01FL", rows, of_visits())


@pytest.mark.parametrize(("part", "side"), [("Region", "Seite"), ("body site", "laterality")])
def test_a_region_and_its_side_in_two_columns_are_one_region(part: str, side: str, tmp_path: Path) -> None:
    sides, parts = {"li": "left", "re": "right"}, ("Knie", "Ellbogen")
    rows: Rows = [
        (s, own_side, own_part, s + 4.5 * n + 20 * m)
        for s in PEOPLE for n, own_side in enumerate(sides) for m, own_part in enumerate(parts)
    ]  # fmt: skip
    names = {(own_side, own_part): f"{own_part}_{sides[own_side]}.png" for own_side in sides for own_part in parts}
    plan_of(
        tmp_path, f"Patient,{side},{part},Score", rows, [f"{s:02}/{name}" for s in PEOPLE for name in names.values()]
    )
    assert joined(tmp_path, "Score") == {f"{s:02}/{names[str(a), str(b)]}": str(value) for s, a, b, value in rows}


def test_a_subject_that_the_paths_divide_into_folders(tmp_path: Path) -> None:
    rows: Rows = [
        (f"XY-{site:02}-{s:03}", visit, n + 1, s + 3.5 * site + 20 * n)
        for site in (1, 2) for s in PEOPLE for n, visit in enumerate(("SCREENING", "BASELINE", "WEEK 2"))
    ]  # fmt: skip
    names = [f"Site {site:02}/Subject {s:03}/Visit {n}/a.png" for site in (1, 2) for s in PEOPLE for n in (1, 2, 3)]
    plan_of(tmp_path, "USUBJID,VISIT,VISITNUM,SCORE", rows, names)
    assert joined(tmp_path, "SCORE") == {
        f"Site {site:02}/Subject {s:03}/Visit {n + 1}/a.png": str(s + 3.5 * site + 20 * n)
        for site in (1, 2) for s in PEOPLE for n in range(3)
    }  # fmt: skip


def tables(folder: Path, names: list[str], rows: dict[str, Rows]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        lines = ["Patient,Visit,Score", *(",".join(map(str, row)) for row in rows[name])]
        (folder / f"scores_{name}.csv").write_text("\n".join(lines) + "\n")
    return [folder / f"scores_{name}.csv" for name in names]


def test_tables_of_centres_with_the_same_numbers_of_patients(tmp_path: Path) -> None:
    rows: dict[str, Rows] = {
        centre: [(s, visit, s + more + 20 * n) for s in PEOPLE for n, visit in enumerate(VISITS)]
        for centre, more in (("Kiel", 0.5), ("Ulm", 7.5))
    }
    names = [f"{centre}/{s:03}/{visit}/a.png" for centre in rows for s in PEOPLE for visit in VISITS]
    images = pictures_at(tmp_path / "photos", names)
    plan_study(table=tables(tmp_path, list(rows), rows), images=images, folder=tmp_path / "study").write()
    assert joined(tmp_path, "Score") == {
        f"{centre}/{s:03}/{visit}/a.png": str(value) for centre, own in rows.items() for s, visit, value in own
    }  # fmt: skip
    others = pictures_at(tmp_path / "others", [f"{s:03}/{visit}/a.png" for s in PEOPLE for visit in VISITS])
    with pytest.raises(CasewiseError, match="the paths must state both"):
        plan_study(table=tables(tmp_path, list(rows), rows), images=others, folder=tmp_path / "other").write()


def test_parts_of_one_table_are_one_and_equal_rows_count_once(tmp_path: Path) -> None:
    rows = scores()
    parts = tables(tmp_path, ["part1", "part2"], {"part1": rows[:8], "part2": rows[6:]})
    images = pictures_at(tmp_path / "photos", of_visits())
    plan = plan_study(table=parts, images=images, folder=tmp_path / "study")
    plan.write()
    assert joined(tmp_path, "Score") == expected()
    assert any("the same in several tables, used once: 2" in note for note in plan.understood)


def test_dates_with_short_years_are_read_and_said(tmp_path: Path) -> None:
    rows: Rows = [(s, f"0{month}.11.21", s + month * 10.5) for s in PEOPLE for month in (1, 8)]
    names = [f"{s:02}/2021-11-0{day}/a.png" for s in PEOPLE for day in (1, 8)]
    plan = plan_of(tmp_path, "PatID,Datum,PASI", rows, names)
    assert joined(tmp_path, "PASI") == {f"{s:02}/2021-11-0{d}/a.png": str(s + d * 10.5) for s in PEOPLE for d in (1, 8)}
    assert any("01.11.21 was read as 01.11.2021" in note for note in plan.understood)


def test_a_field_of_a_pattern_is_the_column_of_this_name(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s:02}", week, s + week * 10.3) for s in PEOPLE for week in (0, 4)]
    names = [f"S{s:02}-{week}-{n}.png" for s in PEOPLE for week in (0, 4) for n in (1, 2)]
    plan_of(tmp_path, "subject,Week,score", rows, names, pattern="{subject}-{week}-{n}.png")
    assert joined(tmp_path, "score") == {
        f"S{s:02}-{week}-{n}.png": str(s + week * 10.3) for s in PEOPLE for week in (0, 4) for n in (1, 2)
    }  # fmt: skip


def test_no_column_of_scores_is_read_as_people(tmp_path: Path) -> None:
    rows: Rows = [(f"patient {'abcdefghijk'[s]}", f"{s}.0" if s > 1 else "1.5") for s in PEOPLE]
    with pytest.raises(CasewiseError, match="No column of the table names the images"):
        plan_of(tmp_path, "subject,score", rows, [f"visit/{s}.png" for s in PEOPLE])


def test_rows_of_a_repeated_instrument_are_the_lesions_of_a_visit(tmp_path: Path) -> None:
    rows: Rows = []
    for s in PEOPLE:
        for n, event in enumerate(("baseline_arm_1", "month_3_arm_1")):
            rows.append((s, event, "", "", "AB", ""))
            rows += [(s, event, "lesion", lesion, "", s + n * 10 + lesion * 0.5) for lesion in (1, 2)]
    names = [f"rec{s:02}/{v}/lesion{k}.png" for s in PEOPLE for v in ("baseline", "month3") for k in (1, 2)]
    heads = "record_id,redcap_event_name,redcap_repeat_instrument,redcap_repeat_instance,clinician,lesion_score"
    plan_of(tmp_path, heads, rows, names)
    assert joined(tmp_path, "lesion_score") == {
        f"rec{s:02}/{v}/lesion{k}.png": str(s + n * 10 + k * 0.5)
        for s in PEOPLE for n, v in enumerate(("baseline", "month3")) for k in (1, 2)
    }  # fmt: skip


def test_columns_that_differ_in_a_number_are_refused_where_rows_have_several_visits(tmp_path: Path) -> None:
    rows: Rows = [(f"SS_{s:03}", s + 0.5, s + 10.5, s + 20.5) for s in PEOPLE]
    names = [f"SS_{s:03}/{v}/hand.png" for s in PEOPLE for v in ("Baseline", "Week 4", "Week 16")]
    with pytest.raises(
        CasewiseError, match="IGA_E1_C1 and IGA_E2_C1 and IGA_E3_C1 may be the values of several visits"
    ):
        plan_of(tmp_path, "StudySubjectID,IGA_E1_C1,IGA_E2_C1,IGA_E3_C1", rows, names)


def test_an_analysed_row_takes_no_photograph_of_the_visit_beside_it(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s:02}", f"Week {week}", "LSS", s + week * 10.5, "Y") for s in PEOPLE for week in (4, 8)]
    rows[2] = ("S02", "Week 4", "LSS", 9.5, "")
    rows.insert(3, ("S02", "Week 4", "LSS", 30.5, "Y"))
    names = [f"S{s:02}/W{week}_1.png" for s in PEOPLE for week in (4, 8)]
    with pytest.raises(CasewiseError, match=r"row 4: .*S02' was left out.*S02/UNS1_1.png has no row"):
        plan_of(tmp_path, "USUBJID,AVISIT,PARAMCD,AVAL,ANL01FL", rows, [*names, "S02/UNS1_1.png"])


def test_columns_of_visits_with_names_alone_beside_folders_of_visits(tmp_path: Path) -> None:
    visits = {"Baseline": 0, "Wk4": 1, "Wk12": 2, "FU": 3}
    rows: Rows = [(f"K{s:02}", *(s + n * 20 + 0.5 for n in visits.values())) for s in PEOPLE]
    names = [f"{visit}/K{s:02}_{n}.png" for visit in visits for s in PEOPLE for n in (1, 2)]
    plan_of(tmp_path, "ID,EASI_BL,EASI_W4,EASI_W12,EASI_FU", rows, names)
    assert joined(tmp_path, "easi") == {
        f"{visit}/K{s:02}_{n}.png": str(s + more * 20 + 0.5)
        for visit, more in visits.items() for s in PEOPLE for n in (1, 2)
    }  # fmt: skip


@pytest.mark.parametrize(("written", "ending"), [("05MAR{year}", "2024"), ("3/5/{year}", "24")])
def test_dates_of_trials_are_read_with_the_paths(written: str, ending: str, tmp_path: Path) -> None:
    days = {f"2024-{month:02}-{day:02}": written for month, day in ((3, 5), (3, 20))}
    cells = [written.format(year=ending), written.replace("05", "20").replace("/5/", "/20/").format(year=ending)]
    rows: Rows = [(f"S{s:02}", cell, s + n * 20 + 0.5) for s in PEOPLE for n, cell in enumerate(cells)]
    names = [f"S{s:02}/IMG_{day.replace('-', '')}_101500.png" for s in PEOPLE for day in days]
    plan_of(tmp_path, "SUBJID,EXAMDT,SCORE", rows, names)
    assert joined(tmp_path, "SCORE") == {
        f"S{s:02}/IMG_{day.replace('-', '')}_101500.png": str(s + n * 20 + 0.5)
        for s in PEOPLE for n, day in enumerate(days)
    }  # fmt: skip


def test_text_below_a_table_is_no_row(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "subject,visit,score", [*scores(), ("* imputed by the investigator", "", "")], of_visits())
    assert joined(tmp_path, "score") == expected()
    assert any("Text below the table was left out (row 22)" in note for note in plan.understood)


def test_another_number_of_the_people_in_the_paths_is_asked_for(tmp_path: Path) -> None:
    rows: Rows = [(s, f"R{500 + s}", visit, s + 0.5) for s in PEOPLE for visit in ("Day 1", "Week 6")]
    names = [f"R{500 + s}_{visit}_{n}.png" for s in PEOPLE for visit in ("Day1", "Week6") for n in (1, 2)]
    with pytest.raises(CasewiseError, match=r"--subject 'Randomisation No\.'"):
        plan_of(tmp_path, "Screening No.,Randomisation No.,Visit,Score", rows, names)


def test_sheets_of_centres_are_one_table(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for at, centre in enumerate(("Ulm", "Köln")):
        sheet = book.create_sheet(centre, at)
        sheet.append(("Pat", "Visit", "Score"))
        for s in PEOPLE:
            for n, visit in enumerate(VISITS):
                sheet.append((s, visit, s + 20 * n + at * 100.5))
    del book["Sheet"]
    book.save(tmp_path / "scores.xlsx")
    decomposed = unicodedata.normalize("NFD", "Köln")
    names = [f"{c}/Pat{s:03}/{v}{k}.png" for c in ("Ulm", decomposed) for s in PEOPLE for v in VISITS for k in "ab"]
    images = pictures_at(tmp_path / decomposed / "photos", names)
    stated = tmp_path / "Köln" / "photos"
    plan = plan_study(table=tmp_path / "scores.xlsx", images=stated, folder=tmp_path / "study")
    plan.write()
    assert images.is_dir()
    assert any("read as {site}/Pat{subject}/{visit}*.png" in note for note in plan.understood)
    values = {unicodedata.normalize("NFC", path): value for path, value in joined(tmp_path, "Score").items()}
    assert values == {
        f"{c}/Pat{s:03}/{v}{k}.png": f"{s + 20 * n + at * 100.5:g}"
        for at, c in enumerate(("Ulm", "Köln")) for s in PEOPLE for n, v in enumerate(VISITS) for k in "ab"
    }  # fmt: skip


def test_a_refusal_says_how_the_stated_pattern_reads(tmp_path: Path) -> None:
    names = [f"x{s}/W{week}.png" for s in PEOPLE for week in (0, 4)]
    with pytest.raises(CasewiseError, match=r"--pattern reads x\d+/W0.png as subject 'x\d+', visit 'W0'"):
        plan_of(tmp_path, "subject,visit,score", scores(), names, pattern="{subject}/{visit}.png")


def test_rows_that_are_no_longer_active_and_days_in_brackets(tmp_path: Path) -> None:
    rows: Rows = [
        (f"S{s:02}", f"Visit {n} (Day {1 + 28 * (n - 1)})", s + 20.5 * n, "1") for s in PEOPLE for n in (1, 2)
    ]  # fmt: skip
    rows.insert(1, ("S01", "Visit 1 (Day 1)", 99.5, "0"))
    names = [f"S{s:02}_V{n}.png" for s in PEOPLE for n in (1, 2)]
    plan = plan_of(tmp_path, "Subject,FolderName,Score,RecordActive", rows, names)
    assert joined(tmp_path, "Score") == {f"S{s:02}_V{n}.png": str(s + 20.5 * n) for s in PEOPLE for n in (1, 2)}
    assert any("no longer active: 1 (RecordActive; row 3)" in doubt for doubt in plan.doubts)


def test_a_row_of_units_below_the_headings_is_no_subject(tmp_path: Path) -> None:
    rows: Rows = [("", "dd.mm.yyyy", "points"), *((f"S{s:02}", f"{s:02}.03.2024", s + 0.5) for s in PEOPLE)]
    names = [f"S{s:02}/a.png" for s in PEOPLE]
    plan = plan_of(tmp_path, "subject,Exam date,score", rows, names)
    assert joined(tmp_path, "score") == {f"S{s:02}/a.png": str(s + 0.5) for s in PEOPLE}
    assert any("because they describe the columns: 1 (dd.mm.yyyy, points; row 2)" in doubt for doubt in plan.doubts)


def test_the_row_of_headings_below_titles_is_named(tmp_path: Path) -> None:
    head = "Study XY\n,,Knee,,Hip,\nsubject,visit,left,right,left,right\n"
    lines = [f"S{s:02},V1,{s},{s + 1},{s + 2},{s + 3}" for s in PEOPLE]
    (tmp_path / "t.csv").write_text(head + "\n".join(lines) + "\n")
    with pytest.raises(CasewiseError, match="If these are in row 3, delete the rows above it"):
        plan_study(
            table=tmp_path / "t.csv", images=pictures_at(tmp_path / "photos", of_visits()), folder=tmp_path / "study"
        )  # fmt: skip


def test_a_further_table_has_the_number_that_the_paths_state(tmp_path: Path) -> None:
    scores_of = [f"{100 + s},{visit},{s + 0.5 + 20 * n}" for s in PEOPLE for n, visit in enumerate(("Day 1", "Week 6"))]
    (tmp_path / "scores.csv").write_text("Screening No.,Visit,Score\n" + "\n".join(scores_of) + "\n")
    numbers = [f"{100 + s},{f'R{550 - s}' if s < 9 else ''}" for s in PEOPLE]
    (tmp_path / "numbers.csv").write_text("Screening No.,Randomisation No.\n" + "\n".join(numbers) + "\n")
    names = {(s, v): f"R{550 - s}_{v.replace(' ', '')}.png" for s in PEOPLE if s < 9 for v in ("Day 1", "Week 6")}
    plan_study(
        table=[tmp_path / "scores.csv", tmp_path / "numbers.csv"],
        images=pictures_at(tmp_path / "photos", list(names.values())),
        subject="Randomisation No.",
        folder=tmp_path / "study",
    ).write()
    expected_values = {names[s, v]: str(s + 0.5 + 20 * (v == "Week 6")) for s, v in names}
    assert joined(tmp_path, "Score") == expected_values


def test_brackets_that_tell_visits_apart_stay(tmp_path: Path) -> None:
    visits = ("Baseline", "Follow-up (3 months)")
    rows: Rows = [(f"S{s:02}", visit, s + 0.5 + n) for s in PEOPLE for n, visit in enumerate(visits)]
    names = [f"S{s:02}/{visit}/a.png" for s in PEOPLE for visit in (*visits, "Follow-up (6 months)")]
    plan_of(tmp_path, "subject,visit,score", rows, names)
    assert set(joined(tmp_path, "score")) == {name for name in names if "6 months" not in name}


@pytest.mark.parametrize(
    "names", [("left", "right"), ("OD", "OS"), ("Hand", "Foot"), ("2022", "2023"), ("Knie", "Hüfte")]
)
def test_tables_of_sides_parts_and_years_are_no_centres(names: tuple[str, str], tmp_path: Path) -> None:
    rows: dict[str, Rows] = {
        name: [(s, visit, s + more + 20 * n) for s in PEOPLE for n, visit in enumerate(VISITS)]
        for name, more in zip(names, (0.5, 7.5), strict=True)
    }
    images = pictures_at(tmp_path / "photos", [f"{n}/{s:03}/{v}/a.png" for n in names for s in PEOPLE for v in VISITS])
    with pytest.raises(CasewiseError, match="ONE PERSON OR SEVERAL"):
        plan_study(table=tables(tmp_path, list(names), rows), images=images, folder=tmp_path / "study")


def test_equal_rows_of_two_centres_are_of_two_people(tmp_path: Path) -> None:
    rows: dict[str, Rows] = {
        centre: [(s, visit, (s * more + n) % 4) for s in PEOPLE for n, visit in enumerate(VISITS)]
        for centre, more in (("Kiel", 1), ("Ulm", 3))
    }
    assert set(rows["Kiel"]) & set(rows["Ulm"])
    names = [f"{centre}/{s:03}/{visit}/a.png" for centre in rows for s in PEOPLE for visit in VISITS]
    images = pictures_at(tmp_path / "photos", names)
    plan = plan_study(
        table=tables(tmp_path, list(rows), rows), images=images, folder=tmp_path / "study", target="Score"
    )
    plan.write()
    assert joined(tmp_path, "Score") == {
        f"{centre}/{s:03}/{visit}/a.png": str(value) for centre, own in rows.items() for s, visit, value in own
    }  # fmt: skip
    assert any("ONE PERSON OR SEVERAL?" in doubt for doubt in plan.doubts)


def test_centres_whose_tables_name_files_have_people_of_their_own(tmp_path: Path) -> None:
    names = [f"{centre}{s:02}.png" for centre in ("Kiel", "Ulm") for s in PEOPLE]
    images, paths = pictures_at(tmp_path / "photos", names), []
    for at, centre in enumerate(("Kiel", "Ulm")):
        lines = ["file,Patient,Score", *(f"{centre}{s:02}.png,{s},{s + 0.5 + at}" for s in PEOPLE)]
        paths.append(tmp_path / f"s_{centre}.csv")
        paths[-1].write_text("\n".join(lines) + "\n")
    plan_study(table=paths, images=images, folder=tmp_path / "study").write()
    assert len({row["subject"] for row in table_of(tmp_path / "study")}) == 20


def test_a_folder_of_visits_is_no_site(tmp_path: Path) -> None:
    rows: Rows = [(f"XY-{site:02}-{s:03}", s + site * 20.5) for site in (1, 2) for s in PEOPLE]
    names = [f"Visit {v}/{s:03}/a.png" for v in (1, 2) for s in PEOPLE]
    with pytest.raises(CasewiseError):
        plan_of(tmp_path, "USUBJID,SCORE", rows, names)


def test_numbers_of_lesions_name_no_photographs(tmp_path: Path) -> None:
    rows: Rows = [(f"anna{'abcdefghijk'[s]}", s, s % 3) for s in PEOPLE]
    with pytest.raises(CasewiseError, match="No column of the table names the images"):
        plan_of(tmp_path, "subject,lesions,grade", rows, [f"p/{s:02}.png" for s in PEOPLE])


def test_the_last_person_of_a_table_is_no_footnote(tmp_path: Path) -> None:
    rows: Rows = [(f"Pat No {s}", s % 3, s + 0.5) for s in PEOPLE]
    rows[-1] = ("Pat No 10", "", "")
    plan = plan_of(tmp_path, "subject,grade,score", rows, [f"Pat No {s}/a.png" for s in PEOPLE])
    assert not any("Text below" in note for note in plan.understood)


def test_dates_that_may_begin_with_the_year_are_not_read(tmp_path: Path) -> None:
    rows: Rows = [(f"S{s:02}", f"21-01-0{s % 8 + 1}", s + 0.5) for s in PEOPLE]
    plan = plan_of(tmp_path, "subject,Datum,score", rows, [f"S{s:02}/a.png" for s in PEOPLE])
    assert not any("years of two digits" in note for note in plan.understood)


@pytest.mark.parametrize("differs", [True, False])
def test_two_visits_under_one_number_are_refused_or_doubted(differs: bool, tmp_path: Path) -> None:
    """The third visit of S02 has the number of the second one."""
    rows: Rows = [
        (f"S{s:02}", n, f"2024-0{n}-{s:02}", f"S{s:02}_{n}.png", s + 0.5) for s in range(1, 8) for n in (1, 2, 3)
    ]
    rows[5] = ("S02", 2, "2024-03-02", "S02_3.png", 9.5 if differs else 2.5)
    names = [f"S{s:02}_{n}.png" for s in range(1, 8) for n in (1, 2, 3)]
    if differs:
        with pytest.raises(CasewiseError, match=r"TWO VISITS UNDER ONE NAME.*S02 2 \(2024-02-02, 2024-03-02\)"):
            plan_of(tmp_path, "subject,visit,date,photo,score", rows, names)
    else:
        plan = plan_of(tmp_path, "subject,visit,date,photo,score", rows, names)
        (doubt,) = [doubt for doubt in plan.doubts if "TWO VISITS" in doubt]
        assert "S02 2 (2024-02-02, 2024-03-02)" in doubt
