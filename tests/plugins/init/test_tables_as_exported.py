"""Tables as hospitals and registries export them: sums, merged cells, events, analysed records, centres in files."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from casewise.errors import CasewiseError
from casewise.plugins.init.own_data import plan_study
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
    assert any("01.11.21 was read as 2021-11-01" in note for note in plan.understood)


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
