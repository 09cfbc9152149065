"""The formats of cohort tables: delimited text in its encodings, workbooks and Parquet, all read as cells of text."""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.cohort.number_columns import point_numbers
from casewise.errors import CohortError, counted, cut, nearest, shortened
from casewise.files import PLAIN_NUMBER, unguarded

if TYPE_CHECKING:
    from casewise.cohort.table import Problems

DELIMITERS = (",", ";", "\t")
# Cells that mean no value, whatever their case.
NO_VALUE = {"na", "n/a", "#n/a", "nan", "none", "null", "nil", "?", "-", "unknown", "missing"}
# Among other values that match, these words are values: grades, signs, states and continents.
_GRADES = r"(very ?)?(mild|slight|light|minimal|low|trace|some|moderate|medium|intermediate|marked|strong|severe|high)"
_IS_VALUE = {
    "-": r"[-+±()/]+|\(?\d?\++\)?|(weakly |strongly )?pos(itive?)?\.?",
    "none": rf"{_GRADES}|(?!.*\d).+",
    "nil": _GRADES,
    "null": r"ein(s|e|er)?|zwei|drei|vier",
    "missing": r"present|sound|intact|caries|carious|decayed|filled|restored|crown|implant|extracted|impacted",
    "unknown": r"known",
    "na": r"eu|as|af|sa|oc|an|la|us|uk|apac|emea|latam|mena|ww",
}
# Limits of a table: bytes of its file, bytes of its parts when uncompressed, cells, columns, and characters of a cell.
LARGEST, LARGEST_UNPACKED, MOST_CELLS = 200_000_000, 1_000_000_000, 20_000_000
MOST_COLUMNS, LONGEST_CELL = 5000, 131_072
# Binary numbers are exact up to here.
_LARGEST_EXACT = 2**53
# Rows above the heading, and the share of the rows below it that must have several cells.
MOST_TITLES, NEARLY_ALL = 5, 0.9
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_FORMULA_WITHOUT_VALUE = re.compile(
    rb'<(?:\w+:)?c r="([A-Z]+\d+)"[^>]*>\s*<(?:\w+:)?f\b[^>]*(?:/>|>[^<]*</(?:\w+:)?f>)\s*'
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
# The cells of one column that are shown as one: the column and the first and the last row.
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell ref="([A-Z]+)(\d+):\1(\d+)"')
# The cells of one row that are shown as one: the first column, the row, and the last column.
_ACROSS = re.compile(rb'<(?:\w+:)?mergeCell ref="([A-Z]+)(\d+):([A-Z]+)\2"')
_DAMAGED = (ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError)
_UNREADABLE = (*_DAMAGED, ValueError, zipfile.BadZipFile, zlib.error)


def missing_words(values: Iterable[str]) -> set[str]:
    """The words, without case, that mean no value among these values of a column.

    One of `NO_VALUE` is a value itself if all others say so: `-` among signs, `none` among texts or grades.

    >>> "-" in missing_words(["-", "+", "++"]), "-" in missing_words(["-", "benign", "malignant"])
    (False, True)
    >>> "none" in missing_words(["none", "mild"]), "none" in missing_words(["none", "1"])
    (False, True)
    """
    words = {value.strip().casefold() for value in values} - {""}
    others = words - NO_VALUE
    return NO_VALUE - {
        word
        for word, pattern in _IS_VALUE.items()
        if word in words and others and all(re.fullmatch(pattern, other) for other in others)
    }


@dataclass
class Cells:
    """The cells of a table as text: the heading, the columns, and the number of each row as the file counts it."""

    heading: list[str]
    columns: list[list[str]]
    numbers: list[int]
    notes: list[str] = field(default_factory=list)


# --------------------------------------------------------------------------------------------------------- text


def text_cells(path: Path, data: bytes, problems: Problems) -> Cells:
    """The cells of delimited text: comma, semicolon or tab; UTF-8, UTF-16 with its mark, or Windows-1252.

    Numbers are read in the notation of any country, in columns that contain only numbers.
    """
    text, notes = decoded(path, data)
    stated = re.match(r"sep=(.)\r?\n", text)
    delimiter = stated[1] if stated and stated[1] in DELIMITERS else _delimiter(text)
    previous = csv.field_size_limit(LONGEST_CELL)
    try:
        records = _records(path, text, delimiter)
    finally:
        csv.field_size_limit(previous)
    numbered = list(enumerate(records, start=1))[1 if stated else 0 :]
    first, titles = _heading_row([row for row in numbered if any(map(str.strip, row[1]))])
    numbered, footnotes = _without_footnotes([row for row in numbered if row[0] >= first])
    separator = "a tab" if delimiter == "\t" else repr(delimiter)
    cells = _rectangle(numbered[0][1] if numbered else [], numbered[1:], problems, separator=separator)
    cells.notes = [*notes, *titles, *footnotes, *cells.notes]
    read_numbers(cells, problems, delimiter)
    return cells


def read_numbers(cells: Cells, problems: Problems, delimiter: str = "") -> None:
    """Write numbers in one notation (see `casewise.cohort.number_columns`), with notes and doubts."""
    notes, doubts, unread = point_numbers(cells.heading, cells.columns, NO_VALUE, delimiter)
    cells.notes += notes
    problems.doubts += doubts
    for position, (value, text) in unread.items():
        rows = [row for row, cell in zip(cells.numbers, cells.columns[position], strict=True) if cell.strip() == value]
        problems.add("number notation", text, rows, cells.heading[position].strip())


def decoded(path: Path, data: bytes) -> tuple[str, list[str]]:
    """The text of a file, with a note where its encoding is not UTF-8.

    Text without a mark is UTF-8, or Windows-1252 if no byte beyond ASCII is valid UTF-8 and every one is a character.

    Raises:
        CohortError: the text has another encoding, or is damaged.
    """
    name = "UTF-16" if data.startswith(_UTF16) else "UTF-8"
    notes: list[str] = []
    try:
        text = data.decode("utf-8-sig" if name == "UTF-8" else name)
    except UnicodeDecodeError as error:
        windows = None if name != "UTF-8" else _windows_1252(data)
        if windows is None:
            raise CohortError(_undecodable(path, data, name, error)) from None
        text, row, characters = windows
        notes.append(
            f"The table is not UTF-8 and was read as Windows-1252, with the characters {characters} (the first one in "
            f"row {row}). If they are wrong, save the table as 'CSV UTF-8'."
        )
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CohortError(f"{path} is no text table: line {line:,} contains a zero byte. Save it as 'CSV UTF-8'.")
    return text, notes


def _windows_1252(data: bytes) -> tuple[str, int, str] | None:
    """The text, the row of its first character beyond ASCII, and these characters; None if it is not Windows-1252.

    No words of the table are quoted, because notes stand in reports, and words may be names of people.
    """
    if data.startswith(b"\xef\xbb\xbf") or set(re.findall(r"[^\x00-\x7f]", data.decode("utf-8", "replace"))) != {"�"}:
        return None
    if re.search(rb"\xed[\xa0-\xbf][\x80-\xbf]", data):
        return None  # half of a character pair, as some programs write it
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    characters = re.findall(r"[^\x00-\x7f]", text)
    return text, text.count("\n", 0, text.index(characters[0])) + 1, " ".join(sorted(set(characters))[:20])


def _undecodable(path: Path, data: bytes, name: str, error: UnicodeDecodeError) -> str:
    remedy = "In the spreadsheet, save it as 'CSV UTF-8'."
    if name != "UTF-8":
        return f"{path} begins as {name} text and is not ({error.reason}). {remedy}"
    # positions are counted after the mark that utf-8-sig skips
    start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
    line = data[data.rfind(b"\n", 0, start) + 1 :].partition(b"\n")[0][:80].decode("cp1252", "replace").strip()
    return (
        f"{path} is neither UTF-8 nor Windows-1252 text: byte {start:,} in line {data.count(10, 0, start) + 1} is "
        f"0x{data[start]:02x} (the line begins with {line!r}, read as Windows-1252). {remedy}"
    )


def _records(path: Path, text: str, delimiter: str) -> list[list[str]]:
    records: list[list[str]] = []
    count = 0
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            count += len(record)
            _check_size(path, count)
            records.append(record)
    except csv.Error as error:
        problem = f"the quotes are not closed or not doubled ({error})"
        if "field limit" in str(error):
            problem = f"a cell has more than {LONGEST_CELL:,} characters, probably because its quote is not closed"
        raise CohortError(
            f'{path}, row {len(records) + 1}: {problem}. Quote a cell as "…" and a quote within it as "".'
        ) from None
    return records


def _check_size(path: Path, cells: int, unpacked: int = 0) -> None:
    if cells > MOST_CELLS or unpacked > LARGEST_UNPACKED:
        raise CohortError(
            f"{path} has {cells:,} cells or {unpacked:,} bytes unpacked; at most {MOST_CELLS:,} cells and "
            f"{LARGEST_UNPACKED:,} bytes are read. Leave out columns that are not used."
        )


def _delimiter(text: str) -> str:
    """The delimiter that divides the first row of several cells, which is the heading, into the most cells."""
    head = text.lstrip("\r\n\t ,;")[:100_000]
    readers = {each: csv.reader(io.StringIO(head, newline=""), delimiter=each) for each in DELIMITERS}
    for _ in range(MOST_TITLES + 1):
        widths = {each: len(next(reader, [])) for each, reader in readers.items()}
        if max(widths.values()) > 1:
            return max(DELIMITERS, key=widths.__getitem__)
    return DELIMITERS[0]


def _heading_row(rows: Sequence[tuple[int, Sequence[str]]]) -> tuple[int, list[str]]:
    """The number of the row of headings among rows that are not blank, and a note if there are titles above it.

    Rows of one cell, or of at most two thirds of the cells of the widest row that begin in the first column, are titles
    if nearly all rows below have several cells, and the first of these rows looks like headings: its cells are filled,
    are not numbers, and do not occur again in their columns.
    """
    if not rows:
        return 0, []
    filled = [sum(bool(cell.strip()) for cell in record) for _, record in rows]
    most = max(1, min(2 * max(filled) // 3, max(filled) - 2))
    first = next((i for i, count in enumerate(filled[: MOST_TITLES + 1]) if count > most), 0)
    below = rows[first + 1 :]
    heading = [cell.strip() for cell in rows[first][1]]
    columns = zip(*([*record, *[""] * len(heading)][: len(heading)] for _, record in below), strict=True)
    if (
        not first
        or not all(record[0].strip() or cells == 1 for cells, (_, record) in zip(filled, rows[:first], strict=False))
        or not all(heading)
        or any(map(PLAIN_NUMBER.fullmatch, heading))
        or sum(count > 1 for count in filled[first:]) < NEARLY_ALL * len(filled[first:])
        or any(cell in map(str.strip, column) for cell, column in zip(heading, columns, strict=False))
    ):
        return rows[0][0], []
    return rows[first][0], [f"The headings of the table are in row {rows[first][0]}; what is above them was left out."]


def _without_footnotes(rows: list[tuple[int, list[str]]]) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The rows without texts below a table, each in one cell where the heading has three or more; a note if any."""
    width, end = sum(bool(cell.strip()) for cell in rows[0][1]) if rows else 0, len(rows)
    while width > 2 and end > 2:
        cells = [cell.strip() for cell in rows[end - 1][1] if cell.strip()]
        at = next((at for at, cell in enumerate(rows[end - 1][1]) if cell.strip()), 0)
        above = {re.sub(r"\d+", "0", record[at].strip()) for _, record in rows[1 : end - 1] if at < len(record)}
        is_text = len(cells) == 1 and (len(cells[0].split()) > 2 or re.match(r"[*†‡§]|note", cells[0], re.IGNORECASE))
        # `Pat No 11` below `Pat No 10` is a row
        if cells and (not is_text or re.sub(r"\d+", "0", cells[0]) in above):
            break
        end -= 1
    left_out = [number for number, cells in rows[end:] if any(map(str.strip, cells))]
    if not left_out:
        return rows, []
    shown = ", ".join(map(str, left_out[:4]))
    return rows[:end], [f"Text below the table was left out (row {shown})."]


def _rectangle(
    heading: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]], problems: Problems, *, separator: str
) -> Cells:
    """The rows as columns of the heading's width; a row with too few or too many cells is a problem."""
    width = len(heading)
    kept, numbers, blank = [], [], 0
    rows = list(rows)
    widths = {len(record) for _, record in rows if any(map(str.strip, record))}
    marks = [mark for mark in (*DELIMITERS, "|") if repr(mark) != separator]
    first = [record[0] for _, record in rows if record and record[0]]
    joined = widths == {1} and width > 1 and all(any(mark in cell for mark in marks) for cell in first)
    if joined:
        text = f"heading: has {counted(width, 'cell')}, separated by {separator}, and every row is one cell. "
        problems.add("heading", f"{text}Separate headings and rows in the same way.")
    elif width == 1 and "|" in heading[0]:
        problems.add("heading", "heading: cells are separated by '|'. Separate them by commas, semicolons or tabs.")
        joined = True
    wider = len(widths) == 1 and len(rows) > 1 and all(any(map(str.strip, record[width:])) for _, record in rows)
    longer = [row for row in rows if any(map(str.strip, row[1][width:]))]
    if wider or len(longer) > max(2, len(rows) / 2):
        counts = {number: sum(bool(cell.strip()) for cell in record) for number, record in longer}
        likely, begins = max(counts, key=counts.__getitem__), longer[0][0]
        others = f"all others have {widths.pop()}" if wider else "most others have more"
        text = f"heading: the first row has {counted(width, 'cell')}, and {others}. Name every column, and delete what"
        where = f" If these are in row {likely}, delete the rows above it." if likely != begins else ""
        problems.add("heading", f"{text} is above the headings.{where}")
        wider = True
    for number, record in rows:
        if not any(map(str.strip, record)):
            blank += 1
            continue
        if not (wider or joined) and (len(record) < width or any(map(str.strip, record[width:]))):
            text = f"has {counted(len(record), 'cell')} where the heading has {width}. Quote cells that contain "
            problems.add("cells", f"{text}{separator}, and fill up short rows.", [number])
        kept.append([unguarded(cell) for cell in record[:width]] + [""] * (width - len(record)))
        numbers.append(number)
    columns = [list(column) for column in zip(*kept, strict=True)]
    return Cells([unguarded(cell) for cell in heading], columns, numbers, _skipped(blank))


def _skipped(blank: int) -> list[str]:
    """A note on blank rows, if there are any."""
    return [f"{counted(blank, 'blank row of the table was', 'blank rows of the table were')} skipped."] if blank else []


# ----------------------------------------------------------------------------------------------------- workbooks


def workbook_cells(path: Path, data: bytes, problems: Problems, *, sheet: str) -> Cells:
    """The cells of a sheet of an .xlsx workbook: the stated one, else the first visible one, with a note if it chose.

    Raises:
        CohortError: the file is not such a workbook, or has no such sheet.
    """
    import openpyxl

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(path, 0, sum(entry.file_size for entry in archive.infolist()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            name, notes = _sheet(path, book, sheet, problems)
            rows = _sheet_rows(path, book[name])
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                stored = archive.read(book[name]._worksheet_path.lstrip("/"))
            without_value, merged = _FORMULA_WITHOUT_VALUE.findall(stored), _MERGED.findall(stored)
            across = _ACROSS.findall(stored)
    except _UNREADABLE as error:
        reason = shortened(str(error).partition("\n")[0])
        raise CohortError(f"{path} cannot be read as an .xlsx workbook ({reason}). Save it again.") from None
    if without_value:
        named = ", ".join(cell.decode() for cell in without_value[:8]) + (" …" if len(without_value) > 8 else "")
        formulas = counted(len(without_value), "formula has", "formulas have")
        problems.add("formula", f"cells {named}: {formulas} no value. Save the workbook in a spreadsheet program.")
    if not rows:
        return Cells([], [], [])
    rows, start, titles = _with_one_heading(rows, across) or (rows, *_heading_row(rows))
    rows, footnotes = _without_footnotes([row for row in rows if row[0] >= start])
    heading = rows[0][1]
    titles += footnotes
    titles += _fill_merged(dict(rows[1:]), [(column.decode(), int(top), int(end)) for column, top, end in merged])
    while not heading[-1].strip():
        heading = heading[:-1]
    # a workbook does not store empty cells at the ends of rows
    numbered = [(number, record + [""] * (len(heading) - len(record))) for number, record in rows[1:]]
    cells = _rectangle(heading, numbered, problems, separator="several values")
    blank = rows[-1][0] - rows[0][0] + 1 - len(rows)
    cells.notes = [*notes, *titles, *_skipped(blank)]
    read_numbers(cells, problems)
    return cells


def _with_one_heading(
    rows: Sequence[tuple[int, list[str]]], across: Sequence[tuple[bytes, bytes, bytes]]
) -> tuple[list[tuple[int, list[str]]], int, list[str]] | None:
    """The rows with headings in one row where they are in two, its number, and a note; None if they are in one.

    The upper row has several cells that stretch over columns with headings of their own, as `Baseline` does over `VASI`
    and `VES`, which become `VASI Baseline` and `VES Baseline`.

    Args:
        across: the cells that stretch: the first column, the row, and the last column.
    """
    from openpyxl.utils import column_index_from_string

    stretched: dict[int, list[slice]] = {}
    for first, row, last in across:
        columns = [column_index_from_string(column.decode()) for column in (first, last)]
        stretched.setdefault(int(row), []).append(slice(columns[0] - 1, columns[1]))
    at = next((at for at, (number, _) in enumerate(rows) if len(stretched.get(number, [])) > 1), len(rows))
    are_titles = all(sum(bool(cell.strip()) for cell in record) == 1 for _, record in rows[:at])
    if at + 1 >= len(rows) or rows[at + 1][0] != rows[at][0] + 1 or not are_titles:
        return None
    number, width = rows[at][0], max(len(record) for _, record in rows[at : at + 2])
    upper, lower = ([cell.strip() for cell in record] + [""] * (width - len(record)) for _, record in rows[at : at + 2])
    under = [cell for columns_below in stretched[number] if upper[columns_below.start] for cell in lower[columns_below]]
    covered = {at for columns_below in stretched[number] for at in range(columns_below.start, columns_below.stop)}
    beside = [below for at, below in enumerate(lower) if upper[at] and at not in covered]
    are_headings = len(set(under)) < len(under) or (beside and not any(beside))
    if not (all(under) and are_headings) or any(beside) or any(map(PLAIN_NUMBER.fullmatch, under)):
        return None
    for columns_below in stretched[number]:
        upper[columns_below] = [upper[columns_below.start]] * len(upper[columns_below])
    heading = [" ".join(filter(None, pair)) for pair in zip(lower, upper, strict=True)]
    example = heading[stretched[number][0].start]
    note = f"The headings of the table are in rows {number} and {number + 1} and were joined, such as {example}."
    return [(number + 1, heading), *rows[at + 2 :]], number + 1, [note]


def _fill_merged(rows: Mapping[int, list[str]], merged: Sequence[tuple[str, int, int]]) -> list[str]:
    """Write the value of cells of a column that are shown as one into each of their rows; a note if there are any."""
    from openpyxl.utils import column_index_from_string

    columns = []
    for column, top, end in merged:
        index = column_index_from_string(column) - 1
        value = rows[top][index] if top in rows and index < len(rows[top]) else ""
        for number in range(top + 1, end + 1) if value.strip() else ():
            if number in rows and index < len(rows[number]):
                rows[number][index] = value
                columns.append(column)
    if not columns:
        return []
    shown = ", ".join(dict.fromkeys(columns))
    return [f"Merged cells of column {shown} count for each of their rows ({counted(len(columns), 'cell')})."]


def sheet_headings(path: Path) -> dict[str, list[str]]:
    """The headings of each visible sheet of an .xlsx workbook, [] of one without rows; {} if it cannot be read."""
    import openpyxl

    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(path, 0, sum(entry.file_size for entry in archive.infolist()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            rows = {name: _sheet_rows(path, book[name]) for name in _visible(book)}
    except (OSError, CohortError, *_UNREADABLE):
        return {}
    headings = {}
    for name, own in rows.items():
        start = _heading_row(own)[0] if own else 0
        own = [row for row in own if row[0] >= start]
        headings[name] = [cell for cell in own[0][1] if cell.strip()] if len(own) > 1 else []
    return headings


def _visible(book: Any) -> list[str]:
    return [s.title for s in book.worksheets if s.sheet_state == "visible"] or [s.title for s in book.worksheets]


def _sheet(path: Path, book: Any, sheet: str, problems: Problems) -> tuple[str, list[str]]:
    names = _visible(book)
    listed = ", ".join(cut(name) for name in names[:8]) + (" …" if len(names) > 8 else "")
    if sheet:
        if sheet not in [s.title for s in book.worksheets]:
            hint = nearest(sheet, names)
            raise CohortError(f"{path}: sheet: there is no sheet {cut(sheet)}; there are {listed}.{hint}")
        return sheet, []
    if not names:
        raise CohortError(f"{path} is a workbook without a sheet.")
    if len(names) == 1:
        return names[0], []
    other = problems.setting(f"sheet: {shortened(names[1])}")
    problems.hint = f"The workbook has the sheets {listed}; the first one, {cut(names[0])}, was read."
    return names[0], [f"{problems.hint} {other} would read another."]


def _sheet_rows(path: Path, sheet: Any) -> list[tuple[int, list[str]]]:
    """The rows of a sheet that are not blank, with their numbers."""
    sheet.reset_dimensions()
    rows, count = [], 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        if not row:
            continue
        count += len(row)
        _check_size(path, count)
        texts = [text_of_value(value) for value in row]
        if any(map(str.strip, texts)):
            rows.append((number, texts))
    return rows


def text_of_value(value: object) -> str:
    """A value of a workbook or a Parquet file as text; missing ones are empty, whole numbers have no point.

    >>> text_of_value(3.0), text_of_value(None), text_of_value(datetime(2024, 1, 31)), text_of_value(1e17)
    ('3', '', '2024-01-31', '1.000000000000000E+17')
    """
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        # larger ones have lost digits, which their notation shows
        return str(int(value)) if abs(value) <= _LARGEST_EXACT else f"{value:.15E}"
    if isinstance(value, datetime) and value.time() == time() and value.tzinfo is None:
        return value.date().isoformat()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return str(value)


# ------------------------------------------------------------------------------------------------------- Parquet


def parquet_cells(path: Path, data: bytes) -> Cells:
    """The cells of a Parquet file; its rows are counted from 1.

    Raises:
        CohortError: the file is damaged, or exceeds a limit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        facts = file.metadata
        unpacked = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
        _check_size(path, facts.num_rows * facts.num_columns, unpacked)
        table = file.read(use_threads=False)
        columns = [[text_of_value(value) for value in column.to_pylist()] for column in table.columns]
    except (pa.ArrowException, *_UNREADABLE) as error:
        reason = shortened(str(error).partition("\n")[0]).rstrip(".")
        raise CohortError(f"{path} is not a complete Parquet file: {reason}. Write it again.") from None
    return Cells(list(table.column_names), columns, list(range(1, table.num_rows + 1)))
