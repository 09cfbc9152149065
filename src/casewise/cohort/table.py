"""Reading CSV and Parquet tables as text, so that '007' stays '007' and every cell keeps its row number."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CohortError, cut, nearest

if TYPE_CHECKING:
    import pandas as pd

DELIMITERS = (",", ";", "\t")
_WHOLE, _SHOWN = 20, 5


@dataclass
class Problems:
    """All problems of a table, collected by kind, so that one message shows all of them.

    `section` is the section of the study file that the table belongs to, such as external; '' is the study itself.
    """

    by_kind: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    section: str = ""

    def setting(self, text: str) -> str:
        """A setting as it is written in the study file for this table.

        >>> Problems().setting("root: x"), Problems(section="external").setting("root: x")
        ('`root: x`', '`external: {root: x}`')
        """
        return f"`{self.section}: {{{text}}}`" if self.section else f"`{text}`"

    def add(self, kind: str, text: str, *, row: int = 0) -> None:
        """Add a problem; those of the same `kind` are shown together, ordered by `row` (0: the whole table)."""
        self.by_kind.setdefault(kind, []).append((int(row), text))

    def wants_detail(self, kind: str) -> bool:
        """Whether the next problem of this kind may be shown in full, so that a hint is worth its computation."""
        return len(self.by_kind.get(kind, ())) < _WHOLE

    def raise_any(self, source: Path) -> None:
        """Raise all problems as one CohortError, if there are any."""
        if not self.by_kind:
            return
        count = sum(len(items) for items in self.by_kind.values())
        lines = [f"{source}: {count:,} {'problem' if count == 1 else 'problems'}."]
        for items in sorted((sorted(items) for items in self.by_kind.values()), key=lambda items: items[0]):
            shown = items if len(items) <= _WHOLE else items[:_SHOWN]
            lines += [text for _, text in shown]
            if rest := items[len(shown) :]:
                where = rows_text([row for row, _ in rest if row])
                lines.append(f"and {len(rest):,} more of this kind" + (f" ({where})." if where else "."))
        raise CohortError("\n  ".join(lines))


def each(cells: pd.Series) -> Iterator[tuple[int, str]]:
    """Row number and text of each cell."""
    return zip(cells.index.tolist(), cells.tolist(), strict=True)


def text_of(value: object) -> str:
    """The text of a cell; empty if there is no value."""
    text = str(value).strip()
    return "" if text.lower() == "nan" else text


def rows_text(rows: Iterable[int], limit: int = 8) -> str:
    """Row numbers as text, with ranges.

    >>> rows_text([2, 3, 4, 9])
    'rows 2-4, 9'
    >>> rows_text([7])
    'row 7'
    """
    runs: list[list[int]] = []
    for row in sorted(set(rows)):
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    ranges = [f"{low}" if low == high else f"{low}-{high}" for low, high in runs]
    if not ranges:
        return ""
    single = len(runs) == 1 and runs[0][0] == runs[0][1]
    return f"{'row' if single else 'rows'} " + ", ".join(ranges[:limit]) + (" …" if len(ranges) > limit else "")


def names_text(names: Sequence[str], limit: int = 8) -> str:
    """Names as a list, shortened to the first ones.

    >>> names_text(["a", "b", "c"], limit=2)
    'a, b … (3 in all)'
    """
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text} … ({len(names):,} in all)"


def read_text_table(path: Path, problems: Problems) -> tuple[pd.DataFrame, list[str]]:
    """Read CSV (comma, semicolon or tab; UTF-8 with or without a mark) or Parquet with every cell as text.

    Returns:
        The cells, indexed by the row number that a spreadsheet shows (Parquet: counted from 1), and notes.

    Raises:
        CohortError: the file is missing, is no such table, is not UTF-8, or has no rows.
    """
    data = _bytes(path)
    if data[:4] == b"PAR1":
        return _parquet(path, data, problems)
    if data[:4] == b"PK\x03\x04" or data[:8] == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise CohortError(f"{path} is a workbook, not text. In the spreadsheet, save it as 'CSV UTF-8'.")
    return _delimited(path, _decoded(path, data), problems)


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise CohortError(f"The cohort table {path} is a folder. Name the CSV or Parquet file in it.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        hint = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise CohortError(f"There is no cohort table {path}.{hint}") from None
    except OSError as error:
        raise CohortError(f"The cohort table {path} cannot be read: {error.strerror or error}.") from None
    if not data.strip():
        raise CohortError(f"The cohort table {path} is empty. It needs a heading row and one row for each image.")
    return data


def _decoded(path: Path, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # the mark of UTF-16 is not valid UTF-8
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise CohortError(
                f"{path} is UTF-16 text, not UTF-8. In the spreadsheet, save it as 'CSV UTF-8'."
            ) from None
        # positions are counted after the mark that utf-8-sig skips
        start = error.start + (3 if data[:3] == b"\xef\xbb\xbf" else 0)
        row = len(list(csv.reader(io.StringIO(data[:start].decode("utf-8-sig", "replace") + "x", newline=""))))
        low, high = data.rfind(b"\n", 0, start) + 1, data.find(b"\n", start) % (len(data) + 1)
        near = data[max(low, start - 12) : min(high, start + 12)].decode("cp1252", "replace").strip()
        raise CohortError(
            f"{path} is not UTF-8 text: byte {start:,} in row {row} is 0x{data[start]:02x} (near {cut(near)}, read as "
            "Windows-1252). In the spreadsheet, save it as 'CSV UTF-8'."
        ) from None
    if "\0" in text:
        raise CohortError(
            f"{path} is not a text table: it contains zero bytes. In the spreadsheet, save it as 'CSV UTF-8'."
        )
    return text


def _delimited(path: Path, text: str, problems: Problems) -> tuple[pd.DataFrame, list[str]]:
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    try:
        for record in reader:
            records.append(record)
    except csv.Error as error:
        raise CohortError(
            f"{path}, row {len(records) + 1}: the quotes are not closed or not doubled ({error}). Quote a cell as "
            '"…" and a quote within it as "".'
        ) from None
    first = next((i for i, record in enumerate(records) if any(cell.strip() for cell in record)), 0)
    width = len(records[first])
    rows, numbers, blank = [], [], 0
    for number, record in enumerate(records[first + 1 :], start=first + 2):
        if not any(cell.strip() for cell in record):
            blank += 1
            continue
        if len(record) < width or any(cell.strip() for cell in record[width:]):
            problems.add(
                "cells",
                f"row {number}: has {len(record)} cells where the heading has {width}. Quote cells that contain "
                f"{'a tab' if delimiter == chr(9) else repr(delimiter)}, and fill up short rows.",
                row=number,
            )
        rows.append(record[:width] + [""] * (width - len(record)))
        numbers.append(number)
    notes = [f"{blank:,} blank rows of the table were skipped."] if blank else []
    return _framed(path, records[first], list(zip(*rows, strict=True)), numbers, problems, notes)


def _delimiter(text: str) -> str:
    """The delimiter that divides the heading into the most cells."""
    head = text.lstrip("\r\n\t ,;")[:100_000]

    def width(delimiter: str) -> int:
        return len(next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), []))

    return max(DELIMITERS, key=width)


def _parquet(path: Path, data: bytes, problems: Problems) -> tuple[pd.DataFrame, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise CohortError(
            f"{path} is not a complete Parquet file: {str(error).splitlines()[0]}. Write it again."
        ) from None
    columns = [_texts(column) for column in table.columns]
    return _framed(path, table.column_names, columns, list(range(1, table.num_rows + 1)), problems, [])


def _texts(column: Any) -> list[str]:
    """The cells of an Arrow column as text; missing ones are empty, whole numbers have no point."""
    values = column.to_pylist()
    cells = []
    for value in values:
        if value is None or value != value:
            cells.append("")
        elif isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            cells.append(str(int(value)))
        else:
            cells.append(str(value))
    return cells


def _framed(
    path: Path,
    heading: Sequence[str],
    columns: Sequence[Sequence[str]],
    numbers: list[int],
    problems: Problems,
    notes: list[str],
) -> tuple[pd.DataFrame, list[str]]:
    import pandas as pd

    if not numbers:
        raise CohortError(f"The cohort table {path} has a heading but no rows. It needs one row for each image.")
    named: dict[str, Sequence[str]] = {}
    for position, raw in enumerate(heading, start=1):
        name, cells = raw.strip(), columns[position - 1]
        if not name:
            # spreadsheets add empty columns at the end, and pandas a count in front; neither needs a name
            counted = position == 1 and list(cells) == [str(i) for i in range(len(cells))]
            if not counted and any(cell.strip() for cell in cells):
                problems.add("heading", f"heading: column {position} has values but no name. Name it.")
        elif name in named:
            problems.add("heading", f"heading: {cut(name)} is repeated in column {position}. Rename one of them.")
        else:
            named[name] = cells
    if any(raw.strip() and raw != raw.strip() for raw in heading):
        notes.append("Spaces around column names were removed.")
    return pd.DataFrame(named, index=pd.Index(numbers, name="row"), dtype="str"), notes
