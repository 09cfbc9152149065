"""The formats of cohort tables, as people and their programs write them: the same cells from each."""

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.table import Problems, iso_day, read_dates, read_text_table
from casewise.errors import MESSAGE, CohortError
from casewise.files import guarded, unguarded
from casewise.study.schema import Study

HEADING = ["path", "subject", "date", "grade"]
ROWS = [["a.jpg", "Müller", "2024-01-31", "1.5"], ["b.jpg", "007", "2024-02-01", "2"]]


def study(folder: Path, table: str = "cohort.csv", **values: Any) -> Study:
    base = {"name": "s", "cohort": folder / table, "backbones": ["alexnet"], "targets": {"grade": {"range": (0, 4)}}}
    return Study.model_validate({**base, **values})


def cohort(folder: Path, **values: Any) -> Cohort:
    for row in ROWS:
        (folder / row[0]).write_bytes(row[0].encode())
    return read_cohort(study(folder, **values))


def text(delimiter: str = ",", end: str = "\n", rows: list[list[str]] | None = None) -> str:
    return "".join(delimiter.join(row) + end for row in [HEADING, *(rows or ROWS)])


def workbook(rows: list[list[Any]], *, sheets: tuple[str, ...] = ("Sheet",), at: int = 0) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, name in enumerate(sheets):
        sheet = book.create_sheet(name)
        for row in rows if number == at else [["nothing", "here"], [1, 2]]:
            sheet.append(row)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


COMMAS = [[cell.replace("1.5", "1,5") for cell in row] for row in ROWS]
DAYS = [["a.jpg", "Müller", datetime(2024, 1, 31), 1.5], ["b.jpg", "007", datetime(2024, 2, 1), 2]]


@pytest.mark.parametrize(
    "data",
    [
        text().encode(),
        text(end="\r\n").encode("utf-8-sig"),
        text(end="\r").encode(),
        text("\t").encode(),
        text(";", rows=COMMAS).encode(),
        ("sep=;\r\n" + text(";", "\r\n", COMMAS)).encode("cp1252"),
        text("\t", "\r\n").encode("utf-16"),
        b"\xfe\xff" + text().encode("utf-16-be"),
        text().encode("cp1252"),
        workbook([HEADING, *DAYS]),
        workbook([HEADING, *ROWS]),
        workbook([[], HEADING, [], *DAYS]),
        pd.DataFrame(DAYS, columns=HEADING).to_parquet(),
    ],
    ids=range(13),  # the contents of workbooks state the time
)
def test_every_format_has_the_same_cells(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / ("cohort.parquet" if data.startswith(b"PAR1") else "cohort.csv")
    path.write_bytes(data)
    read = cohort(tmp_path, cohort=path)
    assert read.images["subject"].tolist() == ["Müller", "007"] or sorted(read.images["subject"]) == ["007", "Müller"]
    assert read.images.set_index("subject")["grade"].to_dict() == {"Müller": 1.5, "007": 2.0}


class TestText:
    @pytest.mark.parametrize(
        "data",
        [
            text().encode() + "c.jpg,Jürgen,,1\n".encode("cp1252"),  # two encodings
            text().encode("cp1252") + b"c.jpg,\x81,,1\n",  # a byte that is no character
            text().encode("utf-8-sig") + b"c.jpg,\xe9,,1\n",
            text().encode() + b"c.jpg,\xed\xa0\x80,,1\n",  # half of a pair
            text().encode("utf-16-le"),  # without a mark
            text().encode() + b'c.jpg,"' + b"a" * 131_073 + b'",,1\n',
            "ä".encode("cp1252") + b"a" * 131_073,
            *(b"\xef\xbb\xbf", b"sep=;\n", text(rows=[[]]).encode()),  # no rows
        ],
    )
    def test_what_is_ambiguous_or_damaged_is_refused(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "cohort.csv").write_bytes(data)
        with pytest.raises(CohortError) as caught:
            cohort(tmp_path)
        assert len(str(caught.value)) <= MESSAGE

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                b"path;subject;score\na.jpg,P1,2\n\n;;\nb.jpg,P2,3\n",
                "has 3 cells, separated by ';', and every row is one cell",
            ),
            (b"path|subject|score\na.jpg|P1|2\n", "cells are separated by '[|]'. Separate them by commas"),
        ],
    )
    def test_separators_that_do_not_fit_are_named_once(self, tmp_path: Path, data: bytes, message: str) -> None:
        (tmp_path / "cohort.csv").write_bytes(data)
        with pytest.raises(CohortError, match=message):
            cohort(tmp_path)

    @pytest.mark.parametrize(
        ("cells", "read"),
        [
            (["1,5", "2", "NA", ""], ["1.5", "2", "NA", ""]),
            (["1,5", "-0,25"], ["1.5", "-0.25"]),
            (["1,5", "2.5"], ["1,5", "2.5"]),
            (["1,5", "left"], ["1,5", "left"]),
            (["1,2,3"], ["1,2,3"]),
            (["12"], ["12"]),
            (["1,5", "unknown", "Missing", "nil"], ["1.5", "unknown", "Missing", "nil"]),
        ],
    )
    def test_decimal_commas_in_columns_of_numbers(self, tmp_path: Path, cells: list[str], read: list[str]) -> None:
        (tmp_path / "t.csv").write_text("path;value\n" + "".join(f"a.jpg;{cell}\n" for cell in cells))
        table, notes = read_text_table(tmp_path / "t.csv", Problems())
        assert table["value"].tolist() == read
        assert any("decimal commas" in note for note in notes) == (cells != read)

    @pytest.mark.parametrize(
        ("separator", "cells", "read", "doubted"),
        [
            (";", ["1.234,5", "1,5"], ["1234.5", "1.5"], False),
            (";", ["922", "1.059"], ["922", "1059"], True),
            (";", ["922", "1.059", "1.059.200"], ["922", "1059", "1059200"], False),
            (",", ["2", "1.059", "1.196", "12.470"], ["2", "1.059", "1.196", "12.470"], True),
            (",", ["1.059", "1.196"], ["1.059", "1.196"], False),
            (",", ["922", "1.059", "1.5"], ["922", "1.059", "1.5"], False),
            (",", ["0.922", "1.059"], ["0.922", "1.059"], False),
            (",", ["1059", "1.059"], ["1059", "1.059"], False),
            ("\t", ["922", "1,059"], ["922", "1059"], True),
            (
                ";",
                ["922", "1'059", "1\u202f200", "2\u00a0000,5"],
                ["922", "1059", "1200", "2000.5"],
                False,
            ),
            (";", ["922", "1\u202f059", "2\u202f000,5"], ["922", "1059", "2000.5"], False),
            (";", ["\u22125", "３,5", "٤"], ["-5", "3.5", "4"], False),
            (",", ["3²", "1.059.200"], ["3²", "1.059.200"], False),
        ],
    )
    def test_marks_of_thousands_and_other_digits(
        self, tmp_path: Path, separator: str, cells: list[str], read: list[str], doubted: bool
    ) -> None:
        rows = "".join(f"a.jpg{separator}{cell}\n" for cell in cells)
        (tmp_path / "t.csv").write_text(f"path{separator}volume\n{rows}", encoding="utf-8")
        table, _ = read_text_table(tmp_path / "t.csv", problems := Problems())
        assert table["volume"].tolist() == read
        assert bool(problems.doubts) == doubted
        assert not problems.by_kind

    @pytest.mark.parametrize(
        ("separator", "cells", "row", "remedies"),
        [
            (",", ["922", "870", "1.059", "12.470"], 4, ["1059", "922.0"]),
            ("\t", ["1.059", "-922", "-1.200"], 2, ["1059", "922.0"]),
            (";", ["1", "2", "3", "1.059"], 5, ["1059", "1.0"]),
            (";", ["922", "1,059"], 3, ["1059", "922,0"]),
        ],
    )
    def test_numbers_a_thousand_times_apart_are_refused(
        self, tmp_path: Path, separator: str, cells: list[str], row: int, remedies: list[str]
    ) -> None:
        rows = "".join(f"a.jpg{separator}{cell}\n" for cell in cells)
        (tmp_path / "t.csv").write_text(f"path{separator}volume\n{rows}")
        read_text_table(tmp_path / "t.csv", problems := Problems())
        ((number, text),) = problems.by_kind["number notation"]
        assert number == row
        assert "volume" in text
        assert all(f" {remedy} " in text for remedy in remedies)

    def test_numbers_a_thousand_times_apart_are_read_where_the_notation_is_proven(self, tmp_path: Path) -> None:
        for text, doubted in (("1,922.0\n1,1.059", False), ("1,922\n1,1059", False), ("0.5,922\n1,1.059", True)):
            (tmp_path / "t.csv").write_text(f"age,volume\n{text}\n")
            read_text_table(tmp_path / "t.csv", problems := Problems())
            assert (bool(problems.doubts), problems.by_kind) == (doubted, {})

    @pytest.mark.parametrize(
        ("heading", "is_name"),
        [
            *(("patient", True), ("Study patient ID", True), ("id of the patient", True), ("case", True)),
            *(("visit", True), ("patient age", False), ("Patient_Weight", False), ("age at visit", False)),
        ],
    )
    def test_columns_of_names_are_no_numbers(self, tmp_path: Path, heading: str, is_name: bool) -> None:
        (tmp_path / "cohort.csv").write_text(f"path;{heading}\na.jpg;72,5\nb.jpg;80,1\n")
        cells, _ = read_text_table(tmp_path / "cohort.csv", Problems())
        assert cells[heading].tolist() == (["72,5", "80,1"] if is_name else ["72.5", "80.1"])

    def test_the_decimal_mark_of_one_column_decides_for_the_others(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("path;subject;age;volume\na.jpg;1.001;12,5;1.059\nb.jpg;1.002;3;922\n")
        table, _ = read_text_table(tmp_path / "t.csv", problems := Problems())
        assert table["volume"].tolist() == ["1059", "922"]
        assert table["subject"].tolist() == ["1.001", "1.002"]
        assert not problems.doubts

    def test_formulas_are_guarded_and_read_back(self, tmp_path: Path) -> None:
        for cell in ("=1+1", "+x", "-x", "@x", "\tx", "-1", "+2.5", "-1e-3", "x", "", "'x"):
            assert unguarded(guarded(cell)) == cell
            assert guarded(cell)[:1] not in ("=", "@", "\t")
        for cell in ("'=a.jpg", "''=a", "'-2.5", "'plain", "'"):
            assert unguarded(guarded(cell)) == cell
        assert [guarded(cell) for cell in ("-1", "+2.5", "-1e-3")] == ["-1", "+2.5", "-1e-3"]
        (tmp_path / "t.csv").write_text("'=path,subject\n'=a.jpg,'-x\n")
        table, _ = read_text_table(tmp_path / "t.csv", Problems())
        assert table.to_dict("list") == {"=path": ["=a.jpg"], "subject": ["-x"]}


@pytest.mark.parametrize("above", [["Study"], ["Study", "", "of 31 May"], ["Study;;;"]])
@pytest.mark.parametrize("name", ["cohort.csv", "cohort.xlsx"])
def test_titles_above_the_headings_are_left_out(name: str, above: list[str], tmp_path: Path) -> None:
    lines = [*above, text(";").strip()]
    rows = [[*line.split(";")] for line in "\n".join(lines).split("\n")]
    (tmp_path / name).write_bytes("\n".join(lines).encode() if name.endswith("csv") else workbook(rows))
    frame, notes = read_text_table(tmp_path / name, Problems())
    assert (list(frame.columns), frame.values.tolist()) == (HEADING, ROWS)
    assert frame.index.tolist() == [len(above) + 2, len(above) + 3]
    assert sum(f"row {len(above) + 1};" in note for note in notes) == 1


@pytest.mark.parametrize("rows", ["path,,\na.jpg,x,1\nb.jpg,x,2\n", "a b\n1,2\n", "Study, first\nu,v,w\nx,y,z\n"])
def test_a_row_above_the_headings_is_not_guessed(rows: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(rows)
    problems = Problems()
    frame, _ = read_text_table(tmp_path / "t.csv", problems)
    assert "u" not in frame
    with pytest.raises(CohortError, match="heading"):
        problems.raise_any(tmp_path / "t.csv")


class TestWorkbooks:
    def test_the_stated_sheet_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "cohort.xlsx").write_bytes(workbook([HEADING, *ROWS], sheets=("Notes", "Grades"), at=1))
        assert len(cohort(tmp_path, cohort=tmp_path / "cohort.xlsx", sheet="Grades").images) == 2
        with pytest.raises(CohortError, match=r"'Grade'.*'Notes', 'Grades'"):
            cohort(tmp_path, cohort=tmp_path / "cohort.xlsx", sheet="Grade")
        (tmp_path / "cohort.csv").write_text(text())
        with pytest.raises(CohortError, match="sheet"):
            cohort(tmp_path, sheet="Grades")

    def test_a_formula_without_its_value_is_not_an_empty_cell(self, tmp_path: Path) -> None:
        (tmp_path / "cohort.xlsx").write_bytes(workbook([HEADING, [*ROWS[0][:3], "=1+1"], ROWS[1]]))
        with pytest.raises(CohortError, match="cells D2: 1 formula"):
            cohort(tmp_path, cohort=tmp_path / "cohort.xlsx")

    def test_a_workbook_that_would_fill_the_memory_is_refused(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("casewise.cohort.table_formats.LARGEST_UNPACKED", 1000)
        (tmp_path / "cohort.xlsx").write_bytes(workbook([HEADING, *ROWS]))
        with pytest.raises(CohortError, match="1,000 bytes are read"):
            cohort(tmp_path, cohort=tmp_path / "cohort.xlsx")


class TestDates:
    @pytest.mark.parametrize(
        "form",
        [
            *("31.01.2024", "31/01/2024", "2024/01/31", "20240131", "31-1-2024", "31 Jan 2024", "January 31, 2024"),
            *("2024-01-31 09:30", "01/31/2024", "31. January 2024", "2024-01-31T09:30:00Z", "31.1.2024 9:30"),
        ],
    )
    def test_common_forms(self, form: str) -> None:
        assert read_dates([form]) == {form: iso_day("2024-01-31")}

    @pytest.mark.parametrize(
        "form", ["01/02/2024", "1.2.24", "2024-13-01", "31.02.2024", "20241", "week 2", "45322", "0001-01-01"]
    )
    def test_what_is_ambiguous_or_no_date(self, form: str) -> None:
        assert read_dates([form]) == {}

    def test_the_order_is_that_of_the_column(self) -> None:
        first, second = read_dates(["01/02/2024", "13/02/2024"]), read_dates(["01/02/2024", "02/13/2024"])
        assert first["01/02/2024"] == iso_day("2024-02-01")
        assert second["01/02/2024"] == iso_day("2024-01-02")
        assert "01/02/2024" not in read_dates(["01/02/2024", "13/02/2024", "02/13/2024"])
