"""The cohort table: what is read from it, and that every problem in it is told in one pass."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from casewise.cohort.cohort import read_cohort
from casewise.errors import CohortError
from casewise.study.schema import Study

GRADE = {"grade": {"range": (0, 4)}}
THREE = ["upper", "trunk", "lower"]


def study(folder: Path, table: str = "cohort.csv", **values: Any) -> Study:
    base = {"name": "s", "cohort": folder / table, "backbones": ["alexnet"], "targets": GRADE}
    return Study.model_validate(base | values)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a table from lines, and an image file for every first cell that is a plain .jpg path."""

    def written(*lines: str, images: bool = True, name: str = "cohort.csv") -> Path:
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for line in lines[1:] if images else ():
            file = tmp_path / line.split(",")[0]
            if file.suffix == ".jpg":
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"x")
        return tmp_path

    return written


def problems(folder: Path, **values: Any) -> str:
    with pytest.raises(CohortError) as caught:
        read_cohort(study(folder, **values))
    return str(caught.value)


@pytest.fixture
def regional(write: Callable[..., Path]) -> Path:
    """Two subjects, two visits, three regions; two images of the upper region; the rows are in no order."""
    lines = []
    for subject in ("S10", "S2"):
        for visit in ("week10", "week2"):
            for region, count in (("lower", 1), ("upper", 2), ("trunk", 1)):
                for k in range(count):
                    grade = {"upper": 1, "trunk": 2, "lower": 3}[region]
                    lines.append(f"{subject}_{visit}_{region}_{k}.jpg,{subject},{visit},{region},{grade},left")
    return write("path,subject,visit,region,grade,side", *lines)


def leave_out(folder: Path, start: str) -> None:
    """Take the rows of files with this start out of the table."""
    lines = (folder / "cohort.csv").read_text().splitlines()
    (folder / "cohort.csv").write_text("\n".join(line for line in lines if not line.startswith(start)))


def regional_study(folder: Path, **values: Any) -> Study:
    return study(folder, **{"regions": THREE, "panels": {"by": "region", "grid": "2x2"}, **values})


class TestWhatIsRead:
    def test_order_and_numbers_of_images_panels_and_cases(self, regional: Path) -> None:
        cohort = read_cohort(regional_study(regional))
        assert cohort.cases["case"].tolist() == ["S2/week2", "S2/week10", "S10/week2", "S10/week10"]
        assert cohort.panels["region"].tolist() == THREE * 4
        assert cohort.panels["tiles"].tolist()[:4] == [[0, 1], [2], [3], [4, 5]]
        assert cohort.panels["grade"].tolist() == [1, 2, 3] * 4
        assert cohort.images["image"].tolist() == list(range(16))
        assert cohort.panels["panel"].tolist() == list(range(12))
        assert [image for tiles in cohort.panels["tiles"] for image in tiles] == list(range(16))
        assert list(cohort.images)[:8] == ["image", "path", "subject", "visit", "case", "day", "region", "panel"]
        assert cohort.images["side"].eq("left").all()
        assert cohort.images["path"].map(os.path.isabs).all()
        assert "grade" not in cohort.cases
        assert any("week2, week10" in note for note in cohort.notes)

    @pytest.mark.parametrize(("by", "count"), [("image", 16), ("region", 12), ("case", 4)])
    def test_panels_by(self, regional: Path, by: str, count: int) -> None:
        targets = {"grade": {"range": (0, 4), "level": "region"}, "left": {"column": "side", "equals": "left"}}
        cohort = read_cohort(regional_study(regional, panels={"by": by}, targets=targets, outputs=["left"]))
        assert len(cohort.panels) == count
        assert cohort.panels["left"].eq(1).all()
        # A regional value has no place in a panel of all regions, but is kept with the images for the scores.
        assert cohort.panels["grade"].isna().all() == (by == "case")
        assert cohort.images["grade"].notna().all()

    def test_subjects_stay_text(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade", "a.jpg,007,1", "b.jpg,8,2", "c.jpg,1e3,3")
        assert read_cohort(study(folder)).cases["subject"].tolist() == ["007", "8", "1e3"]

    def test_columns_are_mapped_and_the_rest_is_kept(self, write: Callable[..., Path]) -> None:
        folder = write(
            "path,subject,visit,visit_order,score,panel,date", "a.jpg,A,14,1,3,x,May 2020", "b.jpg,A,-2.5,0,1,y,"
        )
        cohort = read_cohort(study(folder, columns={"visit": "visit_order", "day": "visit", "grade": "score"}))
        assert (cohort.cases["case"].tolist(), cohort.cases["day"].tolist()) == (["A/0", "A/1"], [-2.5, 14])
        assert cohort.images["visit_order"].tolist() == ["0", "1"]
        assert (cohort.images["table_panel"].tolist(), cohort.images["score"].tolist()) == (["y", "x"], ["1", "3"])
        assert (cohort.images["date"].tolist(), cohort.images["panel"].tolist()) == (["", "May 2020"], [0, 1])

    def test_where_keeps_rows(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,twin,view,grade", "a.jpg,A,,PA,1", "b.jpg,B,a.jpg,PA,1", "c.jpg,C,,L,1", ",,,X,1")
        cohort = read_cohort(study(folder, where={"twin": "", "view": ["PA", "L"]}))
        assert cohort.cases["subject"].tolist() == ["A", "C"]
        assert any("2 of 4 rows" in note for note in cohort.notes)

    def test_days_from_dates_order_the_visits(self, write: Callable[..., Path]) -> None:
        rows = ["a.jpg,A,z,2020-02-28,1", "b.jpg,A,a,2020-03-01T09:30:00Z,1", "c.jpg,B,q,2021-01-05,1", "d.jpg,A,a,,1"]
        folder = write("path,subject,visit,date,grade", *rows)
        cohort = read_cohort(study(folder))
        assert (cohort.cases["case"].tolist(), cohort.cases["day"].tolist()) == (["A/z", "A/a", "B/q"], [0, 2, 0])
        assert cohort.images["day"].tolist() == [0, 2, 2, 0]

    def test_a_subject_with_an_unknown_day_is_ordered_by_visit(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,visit,day,grade", "a.jpg,A,v10,3,1", "b.jpg,A,v9,,1", "c.jpg,A,v1,99,1")
        assert read_cohort(study(folder)).cases["visit"].tolist() == ["v1", "v9", "v10"]

    def test_targets_mean_indicator_and_missing(self, write: Callable[..., Path]) -> None:
        rows = ["a.jpg,A,1,2,ill", "b.jpg,B,3,,well", "c.jpg,C,,,", "d.jpg,D,0,4,ill"]
        folder = write("path,subject,one,two,label", *rows)
        targets = {"both": {"range": (0, 4), "column": ["one", "two"]}, "ill": {"column": "label", "equals": "ill"}}
        cohort = read_cohort(study(folder, targets=targets))
        np.testing.assert_array_equal(cohort.cases["both"], [1.5, np.nan, np.nan, 2])
        np.testing.assert_array_equal(cohort.panels["ill"], [1, 0, np.nan, 1])
        assert any("1 of 4 cases" in note and "C/1" in note for note in cohort.notes)

    def test_a_value_in_one_row_of_its_level_is_enough(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,visit,grade,age", "a.jpg,A,1,2,", "b.jpg,A,1,,9", "c.jpg,A,2,3,", "d.jpg,B,1,4,")
        targets = {**GRADE, "age": {"range": (0, 120), "level": "subject"}}
        cohort = read_cohort(study(folder, targets=targets))
        assert cohort.images["grade"].tolist() == [2, 2, 3, 4]
        np.testing.assert_array_equal(cohort.cases["age"], [9, 9, np.nan])
        np.testing.assert_array_equal(cohort.panels["age"], [9, 9, np.nan])

    def test_image_level_targets(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade", "a.jpg,A,1", "b.jpg,A,2")
        targets = {"grade": {"range": (0, 4), "level": "image"}, "whole": {"range": (0, 9), "column": "subject_grade"}}
        (folder / "cohort.csv").write_text("path,subject,grade,subject_grade\na.jpg,A,1,9\nb.jpg,A,2,9\n")
        cohort = read_cohort(study(folder, targets=targets, outputs=["whole"]))
        assert cohort.images["grade"].tolist() == [1, 2]
        assert cohort.panels["grade"].isna().all(), "one panel shows both, and neither value is its value"
        assert cohort.panels["whole"].tolist() == [9]
        assert "is predicted for a whole case" in problems(folder, targets=targets, outputs=["grade"])

    def test_paths_are_mended_only_if_the_file_is_there(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade", "d/a.jpg,A,1")
        (folder / "b .jpg").write_bytes(b"x")
        (folder / "cohort.csv").write_text("path,subject,grade\n d\\a.jpg ,A,1\nb .jpg,B,1\n")
        cohort = read_cohort(study(folder))
        assert cohort.images["path"].tolist() == [str(folder / "d" / "a.jpg"), str(folder / "b .jpg")]
        assert any("1 path," in note for note in cohort.notes)

    def test_settings_that_allow_what_is_missing(self, regional: Path) -> None:
        leave_out(regional, "S2_week2_trunk")
        assert len(read_cohort(regional_study(regional, missing_regions="allow")).panels) == 11
        leave_out(regional, "S2_week2")
        evaluation = {"baseline": "week2", "missing_baseline": "leave_out"}
        assert len(read_cohort(regional_study(regional, evaluation=evaluation)).cases) == 3

    def test_root(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade", "a.jpg,A,1", images=False)
        (folder / "photos").mkdir()
        (folder / "photos" / "a.jpg").write_bytes(b"x")
        cohort = read_cohort(study(folder, root=folder / "photos"))
        assert cohort.images["path"].tolist() == [str(folder / "photos" / "a.jpg")]

    def test_a_region_column_of_a_study_without_regions_is_kept_aside(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,region,grade", "a.jpg,A,Left lung,1", "b.jpg,A,left lung,1", "c.jpg,B,,2")
        cohort = read_cohort(study(folder))
        assert cohort.images["region"].eq("").all()
        assert cohort.panels["region"].eq("").all()
        assert cohort.images["table_region"].tolist() == ["Left lung", "left lung", ""]
        assert any("region is kept as table_region" in note for note in cohort.notes)
        assert "'region' is a reserved name" in problems(folder, split={"column": "region"})

    def test_blank_rows_and_unnamed_empty_columns_do_no_harm(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade,,", "a.jpg,A,1,,", ",,,,", "", "b.jpg,B,1,,")
        assert len(read_cohort(study(folder)).images) == 2
        (folder / "cohort.csv").write_text(",path,subject,grade\n0,a.jpg,A,1\n1,b.jpg,B,1\n")
        assert len(read_cohort(study(folder)).images) == 2

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(order=st.permutations(range(8)))
    def test_the_order_of_rows_changes_no_case(self, tmp_path: Path, order: list[int]) -> None:
        rows = [f"{s}{v}{k}.jpg,{s},v{v},{v}" for s in "AB" for v in (2, 10) for k in (0, 1)]
        for row in rows:
            (tmp_path / row.split(",")[0]).write_bytes(b"x")
        (tmp_path / "cohort.csv").write_text("\n".join(["path,subject,visit,grade", *(rows[i] for i in order)]))
        cohort = read_cohort(study(tmp_path, targets={"grade": {"range": (0, 10)}}))
        assert cohort.cases["case"].tolist() == ["A/v2", "A/v10", "B/v2", "B/v10"]
        assert cohort.cases["grade"].tolist() == [2, 10, 2, 10]
        assert cohort.panels["tiles"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert [Path(path).name for path in cohort.images["path"]] == [row.partition(",")[0] for row in rows]


class TestTheTableItself:
    @pytest.mark.parametrize(
        ("data", "told"),
        [
            (b"path,subject,grade", "cohort.xlsx is no workbook"),
            (b"path,subject,grade\na.jpg,A,1\n", "cohort.parquet is no Parquet file"),
            (b"", "is empty"),
            (b"path,subject,grade\n", "no rows"),
            (b"path,subject,grade\n,,\n", "no rows"),
            (b"PK\x03\x04 workbook", "as an .xlsx workbook"),
            ("path,subject\n".encode("utf-16")[:-1], "UTF-16"),
            (b"path,subject\na\x00b,c\n", "line 2 contains a zero byte"),
            (b'path,subject\na.jpg,"A\nb.jpg,B\n', "row 2: the quotes"),
            (b'path,subject\na.jpg,"A"x\n', "row 2: the quotes"),
            (b"PAR1 broken", "not a complete Parquet"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, data: bytes, told: str) -> None:
        table = told.split()[0] if told.startswith("cohort.") else "cohort.csv"
        (tmp_path / table).write_bytes(data)
        assert told in problems(tmp_path, table=table)

    def test_rows_of_another_width(self, write: Callable[..., Path]) -> None:
        message = problems(write("path,subject,grade", "a.jpg,A,1,5", "b.jpg,B", "c.jpg,C,1,"))
        assert "row 2: has 4 cells where the heading has 3" in message
        assert "row 3: has 2 cells" in message
        assert "row 4" not in message

    def test_missing_columns_and_their_likely_names(self, write: Callable[..., Path]) -> None:
        folder = write("Path,patient_id,Grade,zone", "a.jpg,A,1,upper")
        message = problems(folder, regions=THREE, split={"column": "fold"})
        assert "column path: is missing. Did you mean 'Path'?" in message
        assert "columns: {subject: patient_id}" in message
        assert "column region: is missing. Did you mean 'zone'?" in message
        assert "column grade: is missing. Did you mean 'Grade'?" in message
        assert "split.column: 'fold' is not a column" in message

    def test_settings_that_name_columns(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade,day,case", "a.jpg,A,1,1,2")
        message = problems(
            folder,
            columns={"visitt": "day", "visit": "dayy", "day": "day", "date": "day", "grade": "grade"},
            targets={"grade": {"range": (0, 4), "column": "grade"}, "region": {"range": (0, 1)}},
            split={"column": "case"},
        )
        assert "no standard name 'visitt'. Did you mean 'visit'?" in message
        assert "'dayy', which is not a column of the table. Did you mean 'day'?" in message
        assert "both day and date" in message
        assert "State it once" in message
        assert "targets: 'region' is a reserved name" in message
        assert "split.column: 'case' is a reserved name" in message

    def test_where_that_cannot_be(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,view,grade", "a.jpg,A,PA,9", "b.jpg,B,AP,1")
        message = problems(folder, where={"veiw": "PA", "view": "pa"})
        assert "where: 'veiw' is not a column. Did you mean 'view'?" in message
        assert "no row has view 'pa'. Did you mean 'PA'?" in message
        assert "row 2" not in message, "rows that were to be left out are not judged"
        assert "none of the 2 rows" in problems(folder, where={"view": "PA", "subject": "B"})


BAD_CELLS = [
    ("a.jpg,,v1,0,upper,1", "row 2, subject: is empty"),
    ("a.jpg,  ,v1,0,upper,1", "row 2, subject: is empty"),
    ("a.jpg,NA,v1,0,upper,1", "row 2, subject: 'NA' means no value"),
    ("a.jpg,A,,0,upper,1", "row 2, visit: is empty"),
    (",A,v1,0,upper,1", "row 2, path: is empty"),
    ("b.jpeg,A,v1,0,upper,1", "row 2, path: there is no file b.jpeg"),
    ("b.jpeg,A,v1,0,upper,1", "Did you mean 'b.jpg'?"),
    ("folder,A,v1,0,upper,1", "row 2, path: folder is a folder"),
    ("a.jpg,A,v1,soon,upper,1", "row 2, day: 'soon' is not a number of days"),
    ("a.jpg,A,v1,0,,1", "row 2, region: is empty"),
    ("a.jpg,A,v1,0,Upper,1", "row 2, region: 'Upper' is none of upper, lower. Did you mean 'upper'?"),
    ("a.jpg,A,v1,0,upper,high", "row 2, grade: 'high' is not a number"),
    ("a.jpg,A,v1,0,upper,nan", "row 2, grade: 'nan' is not a number"),
    ("a.jpg,A,v1,0,upper,1e999", "row 2, grade: '1e999' is not"),
    ("a.jpg,A,v1,0,upper,1_0", "row 2, grade: '1_0' is not a number"),
    ("a.jpg,A,v1,nan,upper,1", "row 2, day: 'nan' is not"),
    ("a.jpg,B ,v2,0,upper,1", "subject: 'B ' (row 2) and 'B' (rows 3-4) look alike"),
    ('a.jpg,A,v1,0,upper,"1,5"', "(write 1.5)"),
    ("a.jpg,A,v1,0,upper,4.5", "row 2, grade: 4.5 is outside 0..4"),
    ("a.jpg,A,v1,0,upper,1.5", "row 2, grade: 1.5 is not whole"),
    ("b.jpg,A,v1,0,upper,1", "rows 2-3: the same file is under subjects A, B"),
    ("./b.jpg,B,v1,0,lower,1", "rows 2-3: the same file is twice in case B/v1"),
    ("link.jpg,A,v1,0,upper,1", "rows 2-3: the same file is under subjects A, B"),
    ("b.jpg,B,v1,0,upper,1", "rows 2-3: are identical in every column"),
    ("a.jpg,B,v1,0,upper,2", "rows 2-3, grade: 2 and 1 in case B/v1, region upper; it is at region level"),
    ("a.jpg,B,v1,7,upper,1", "rows 2-4, day: case B/v1 has the days 7 and 0"),
    ("a.jpg,b,v2,0,upper,1", "subject: 'b' (row 2) and 'B' (rows 3-4) look alike"),
    ("a.jpg,B,V 1,0,upper,1", "visit of subject B: 'V 1' (row 2) and 'v1' (rows 3-4) look alike"),
    ("a.jpg,A,v1,0,upper,1", "row 2: case A/v1 has no image of region lower. Add it, or write `missing_regions"),
]


@pytest.mark.parametrize(("row", "told"), BAD_CELLS)
def test_bad_cells(write: Callable[..., Path], row: str, told: str) -> None:
    folder = write("path,subject,visit,day,region,grade", row, "b.jpg,B,v1,0,upper,1", "c.jpg,B,v1,0,lower,3")
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "link.jpg").unlink(missing_ok=True)
    (folder / "link.jpg").symlink_to(folder / "b.jpg")
    targets = {"grade": {"range": (0, 4), "integer": True}}
    message = problems(folder, regions=["upper", "lower"], panels={"by": "region"}, targets=targets)
    assert told in message
    if "look alike" in told:
        # names that differ in case or spaces only are the same also as they are written
        assert "as_written" not in message


class TestTogether:
    def test_all_problems_are_found_in_one_pass(self, write: Callable[..., Path]) -> None:
        rows = [row for row, _ in BAD_CELLS if not row.startswith(("./", "folder/", "link", '"'))]
        folder = write("path,subject,visit,day,region,grade", *rows, images=False)
        (folder / "a.jpg").write_bytes(b"x")
        targets = {"grade": {"range": (0, 4), "integer": True}, "absent": {"range": (0, 1)}}
        evaluation = {"baseline": "v1"}
        message = problems(folder, regions=THREE[::2], panels={"by": "region"}, targets=targets, evaluation=evaluation)
        expected = ["column absent: is missing", "subject: is empty", "visit: is empty", "path: is empty"]
        expected += ["no file b.jpeg", "not a number of days", "region: is empty", "'Upper' is none", "34 problems"]
        expected += ["'high' is not a number", "more lines", "the same file is"]
        for text in expected:
            assert text in message
        assert len(message) <= 2000


class TestFilesAndRoots:
    def test_no_ordinary_file(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade", "pipe,A,1", "x\0y.jpg,B,1", images=False)
        (folder / "cohort.csv").write_text("path,subject,grade\npipe,A,1\n" + "n" * 300 + ".jpg,B,1\n")
        os.mkfifo(folder / "pipe")
        message = problems(folder)
        assert "pipe is no ordinary file" in message
        assert "row 3, path" in message


class TestVisits:
    def test_days_without_visits(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,day,grade", "a.jpg,A,0,1", "b.jpg,A,7,1")
        assert "A/1 has the days 0 and 7; a visit has one. Write `columns: {visit: day}`" in problems(folder)
        assert read_cohort(study(folder, columns={"visit": "day"})).cases["case"].tolist() == ["A/0", "A/7"]

    @pytest.mark.parametrize("names", [("20.01.2024", "03.02.2024"), ("1/2/2024", "12/1/2024"), ("start", "3/2/24")])
    def test_visits_like_dates_that_sort_wrongly(self, write: Callable[..., Path], names: tuple[str, str]) -> None:
        lines = [f"{i}.jpg,A,{name},1" for i, name in enumerate(names)]
        folder = write("path,subject,visit,grade", "z.jpg,B,5.6.2024,1", *lines)
        told, first = problems(folder), next(name for name in names if name != "start")
        assert f"visit: {first!r} of subject A looks like a date" in told
        assert "2024-02-01 (year-month-day), or add a `day` column" in told
        # One visit needs no order, and days give one.
        read_cohort(study(write("path,subject,visit,grade", "z.jpg,B,5.6.2024,1")))
        days = [f"{line},{i}" for i, line in enumerate(lines)]
        dated = read_cohort(study(write("path,subject,visit,grade,day", *days)))
        assert dated.cases["visit"].tolist() == list(names)

    def test_baseline(self, regional: Path) -> None:
        leave_out(regional, "S2_week2")
        with pytest.raises(CohortError, match=r"subject S2 has no visit 'week2', the baseline.*leave_out"):
            read_cohort(regional_study(regional, evaluation={"baseline": "week2"}))
        with pytest.raises(CohortError, match=r"no visit 'week3'. Did you mean 'week2'\?"):
            read_cohort(regional_study(regional, evaluation={"baseline": "week3"}))
        read_cohort(regional_study(regional, evaluation={"baseline": "week2", "response": False}))


class TestTargets:
    def test_varying_below_its_level(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,visit,grade", "a.jpg,A,1,1", "b.jpg,A,2,2", "c.jpg,A,2,", "d.jpg,B,1,3")
        read_cohort(study(folder))
        message = problems(folder, targets={"grade": {"range": (0, 4), "level": "subject"}})
        assert "rows 2-3, grade: 1 and 2 in subject A; it is at subject level" in message

    def test_equals(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,label", "a.jpg,A,Covid", "b.jpg,B,normal")
        two = {"column": ["label", "path"], "equals": "x"}
        message = problems(folder, targets={"covid": {"column": "label", "equals": "covid"}, "two": two})
        assert "no row has 'covid'. Did you mean 'Covid'? There are: 'Covid', 'normal'." in message
        assert "targets.two: `equals` needs one column, found 2" in message

    def test_values_outside_a_range_are_one_problem_with_the_key_to_widen(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade", "a.jpg,A,1", "b.jpg,B,7", "a.jpg,A,8", "b.jpg,B,x")
        message = problems(folder)
        assert "rows 3-4, grade: 2 cells outside 0..4 (7 to 8)" in message
        assert "targets.grade.range" in message
        assert "row 5, grade: 'x' is not a number" in message

    def test_readers(self, write: Callable[..., Path]) -> None:
        folder = write("path,subject,grade,old,young", "a.jpg,A,1,1,x", "b.jpg,B,2,5,")
        readers = {"grade": {"o": "old", "y": "young", "z": "youngg", "v": "subject"}}
        message = problems(folder, evaluation={"readers": readers})
        assert "row 2, young (reader y of grade): 'x' is not a number" in message
        assert "row 3, old (reader o of grade): 5 is outside 0..4" in message
        assert "evaluation.readers.grade.z: 'youngg' is not a column. Did you mean 'young'?" in message
        assert "evaluation.readers.grade.v: 'subject' is a reserved name" in message


def test_a_file_is_left_out_however_its_path_is_written(write: Callable[..., Path]) -> None:
    folder = write("path,subject,grade", "a.jpg,A,1", "./b.jpg,B,1", "c.jpg,C,2")
    kept = read_cohort(study(folder, where_not={"path": [str(folder / "a.jpg"), "b.jpg"]}))
    assert kept.images["subject"].tolist() == ["C"]
    assert "no row has path 'd.jpg'" in problems(folder, where_not={"path": "d.jpg"})


def test_files_are_not_suggested_as_subjects_nor_taken_for_them(write: Callable[..., Path]) -> None:
    folder = write("path,subject,grade", "a.jpg,A,1", "b.jpg,B,2", "c.jpg,C,3")
    with pytest.raises(CohortError, match="subject is 'pat', which is not a column of the table") as refused:
        read_cohort(study(folder, columns={"subject": "pat"}))
    assert "'path'" not in str(refused.value)
    with pytest.raises(CohortError, match="subjects_known: false"):
        read_cohort(study(folder, columns={"subject": "path"}))
    unknown = read_cohort(study(folder, columns={"subject": "path"}, subjects_known=False))
    assert len(unknown.cases) == 3


def test_a_day_in_two_forms_is_one_visit(write: Callable[..., Path]) -> None:
    folder = write(
        "path,subject,visit,grade", "a.jpg,S1,2023-04-16,1", "b.jpg,S1,16.04.2023,1", "c.jpg,S2,16.04.2023,2"
    )
    told = problems(folder)
    assert "subject S1 has the visits 2023-04-16 and 16.04.2023, which are one day in two forms." in told
    assert "rows 2-3, visit: subject S1" in told
    assert "subject S2" not in told
