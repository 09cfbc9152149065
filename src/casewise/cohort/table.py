"""Reading tables as text, so that '007' stays '007' and every cell keeps its row number; dates and the natural order.

Dates are read in the forms that people and spreadsheets write, none of them guessed.
"""

from __future__ import annotations

import os
import re
from calendar import monthrange
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pandas as pd

from casewise.cohort import table_formats
from casewise.cohort.clinical_words import unaccented
from casewise.errors import CohortError, counted, cut, nearest, shortened
from casewise.files import PICTURES, PLAIN_NUMBER, read_regular
from casewise.names import one_form

_TIME = r"(?:[T ]\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[AaPp][Mm])?(?:Z|[+-]\d\d:?\d\d)?)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})([-/.]?)(\d\d?)\2(\d\d?){_TIME}", re.ASCII)
_YEAR_LAST = re.compile(rf"(\d\d?)([-/.])(\d\d?)\2(\d{{4}}){_TIME}", re.ASCII)
_NAMED = re.compile(r"(?:([0-9]{1,2})[. -]*([^\W\d_]{3,10})\.?|([^\W\d_]{3,10})\.? ([0-9]{1,2})),?[ -]*([0-9]{4})")
# The months in English, German, French and Spanish without accents, and how they are shortened.
_MONTHS = (
    ("january", "januar", "janvier", "enero", "jan", "ene", "janv"),
    ("february", "februar", "fevrier", "febrero", "feb", "fev", "fevr"),
    ("march", "marz", "maerz", "mars", "marzo", "mar", "mrz"),
    ("april", "avril", "abril", "apr", "avr", "abr"),
    ("may", "mai", "mayo"),
    ("june", "juni", "juin", "junio", "jun"),
    ("july", "juli", "juillet", "julio", "jul", "juil"),
    ("august", "aout", "agosto", "aug", "ago"),
    ("september", "septembre", "septiembre", "sep", "sept"),
    ("october", "oktober", "octobre", "octubre", "oct", "okt"),
    ("november", "novembre", "noviembre", "nov"),
    ("december", "dezember", "decembre", "diciembre", "dec", "dez", "dic"),
)


def month_of(name: str) -> int:
    """The number of a month; 0 for other words.

    >>> month_of("March"), month_of("März"), month_of("aout"), month_of("Visit")
    (3, 3, 8, 0)
    """
    plain = unaccented(name.casefold())
    return next((number for number, names in enumerate(_MONTHS, 1) if plain in names), 0)


def iso_day(text: str) -> int | None:
    """The day count of a date that begins with its year, from 1850 to 2199, with or without a time after it.

    >>> iso_day("2024-01-31") == iso_day("2024/1/31 09:30") == iso_day("20240131")
    True
    >>> iso_day("31.01.2024") is None
    True
    """
    match = _YEAR_FIRST.fullmatch(text)
    if not match or (not match[2] and len(match[3] + match[4]) < 4):
        return None
    return _count(match[1], match[3], match[4])


def read_dates(texts: Iterable[str]) -> dict[str, int]:
    """The day count of each text that is a date; texts that are none, or are ambiguous, are left out.

    With points the day comes first (31.1.2024). With / or - and the year last, day and month are ordered as those
    dates of the column state that have a number above 12; without any, such dates are ambiguous, unless day and month
    are equal.

    >>> days = read_dates(["31/01/2024", "01/02/2024"])
    >>> days["01/02/2024"] - days["31/01/2024"]
    1
    >>> read_dates(["01/02/2024"])
    {}
    """
    texts = list(dict.fromkeys(texts))
    days: dict[str, int | None] = {text: iso_day(text) or _named_day(text) for text in texts}
    year_last = {text: match for text in texts if (match := _YEAR_LAST.fullmatch(text))}
    ordered = [(int(match[1]), int(match[3])) for match in year_last.values() if match[2] != "."]
    day_first, month_first = any(a > 12 for a, _ in ordered), any(b > 12 for _, b in ordered)
    for text, match in year_last.items():
        if match[2] == "." or (day_first and not month_first) or match[1] == match[3]:
            days[text] = _count(match[4], match[3], match[1])
        elif month_first and not day_first:
            days[text] = _count(match[4], match[1], match[3])
    return {text: day for text, day in days.items() if day is not None}


def _named_day(text: str) -> int | None:
    match = _NAMED.fullmatch(text)
    if not match:
        return None
    month = month_of(match[2] or match[3])
    return _count(match[5], str(month), match[1] or match[4]) if month else None


def _count(year: str, month: str, day: str) -> int | None:
    if not 1850 <= int(year) <= 2199:
        return None
    try:
        return date(int(year), int(month), int(day)).toordinal()
    except ValueError:
        return None


# Two digits of a year may be the last part alone.
_PARTS_OF_DAY = re.compile(r"(\d{4}|\d\d?)([./-])(\d\d?)\2(\d{4}|\d\d?)", re.ASCII)


def is_no_day(text: str) -> bool:
    """Whether a text is written as a date that the calendar does not have.

    >>> [is_no_day(text) for text in ("31.02.2021", "2021-02-31", "31.12.2021", "5/13/2021", "unknown")]
    [True, True, False, False, False]
    """
    parts = _PARTS_OF_DAY.fullmatch(text)
    if not parts:
        return False
    first, second, third = (int(part) for part in parts.group(1, 3, 4))
    year, month, day = (first, second, third) if len(parts[1]) == 4 else (third, second, first)
    return not any(_exists(year, *order) for order in ((month, day), (day, month)))


def _exists(year: int, month: int, day: int) -> bool:
    # years of two digits are of this century; 2000 is a leap year as is every fourth year
    year += 2000 * (year < 100)
    return 1 <= month <= 12 and 1 <= day <= monthrange(year, month)[1]


_DAY_FIRST = re.compile(r"\d{1,2}([./])\d{1,2}\1(\d{4}|\d{2})|\d{1,2}-\d{1,2}-\d{4}", re.ASCII)


def is_unsorted_date(name: str) -> bool:
    """Whether a name looks like a date with the year last, whose order by name is not the order in time.

    >>> [is_unsorted_date(name) for name in ("01.02.2024", "1/2/24", "2024-02-01", "week 1.2")]
    [True, True, False, False]
    """
    return _DAY_FIRST.fullmatch(name.strip()) is not None


def natural(name: object) -> tuple[tuple[int, float, str], ...]:
    """A sort key that reads numbers within names.

    >>> sorted(["week10", "week2", "Baseline", "baseline 2"], key=natural)
    ['Baseline', 'baseline 2', 'week2', 'week10']
    >>> sorted(["10", "-5", "2", "baseline"], key=natural)
    ['baseline', '-5', '2', '10']
    """
    text = str(name)
    if PLAIN_NUMBER.fullmatch(text):
        return ((2, float(text), ""), (0, 0.0, text))
    pieces = [piece for piece in re.split(r"([0-9]+)", text) if piece]
    # the text itself comes last, so that the order of names such as 'v1' and 'v01' is defined
    parts = ((2, float(p), "") if re.fullmatch("[0-9]+", p) else (1, 0.0, p.casefold()) for p in pieces)
    return (*parts, (0, 0.0, text))


# problems that are shown, of all kinds together, and characters of each
_SHOWN, _LINE = 10, 500
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass
class Problems:
    """All problems of a table, collected by kind, so that one message shows all of them.

    `section` is the section of the study file that the table belongs to, such as external; '' is the study itself.
    `hint` is a sentence on what was read if there was a choice, such as one of several sheets. `doubts` are sentences
    on cells that can be read in two ways.
    """

    by_kind: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    section: str = ""
    hint: str = ""
    doubts: list[str] = field(default_factory=list)

    def setting(self, text: str) -> str:
        """A setting as it is written in the study file for this table.

        >>> Problems().setting("root: x"), Problems(section="external").setting("root: x")
        ('`root: x`', '`external: {root: x}`')
        """
        return f"`{self.section}: {{{text}}}`" if self.section else f"`{text}`"

    def add(self, kind: str, text: str, rows: Iterable[int] = (), field: str = "") -> None:
        """Add a problem of some rows, which are named in front of the text, or of the whole table.

        Problems of the same `kind` are shown together, ordered by their rows.
        """
        numbers = [int(row) for row in rows]
        where = f"{rows_text(numbers, 4)}{', ' * bool(field)}{field}: " if numbers else ""
        self.by_kind.setdefault(kind, []).append((min(numbers, default=0), where + text))

    def wants_detail(self, kind: str) -> bool:
        """Whether the next problem of this kind may be shown in full, so that a hint is worth its computation."""
        return len(self.by_kind.get(kind, ())) < _SHOWN

    def raise_any(self, source: Path) -> None:
        """Raise all problems as one CohortError, if there are any: some of each kind, and the numbers of the others."""
        if not self.by_kind:
            return
        kinds = sorted((sorted(items) for items in self.by_kind.values()), key=lambda items: items[0])
        text, most = [f"{source}: {counted(sum(map(len, kinds)), 'problem')}."], max(1, _SHOWN // len(kinds))
        for items in kinds:
            text += [shortened(line, _LINE) for _, line in items[:most]]
            if more := items[most:]:
                rows = rows_text([row for row, _ in more if row])
                text.append(f"and {len(more):,} more of this kind" + (f" ({rows})." if rows else "."))
        raise CohortError("\n  ".join(text))


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
    noun = "row" if len(runs) == 1 and runs[0][0] == runs[0][1] else "rows"
    return f"{noun} {', '.join(ranges[:limit])}{' …' if len(ranges) > limit else ''}" if runs else ""


def names_text(names: Sequence[str], limit: int = 8) -> str:
    """Names as a list, shortened to the first ones.

    >>> names_text(["a", "b", "c"], limit=2)
    'a, b … (3 in all)'
    """
    text = ", ".join(shortened(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text} … ({len(names):,} in all)"


def read_text_table(path: Path, problems: Problems, *, sheet: str = "") -> tuple[pd.DataFrame, list[str]]:
    """Read delimited text (comma, semicolon or tab), an .xlsx workbook or Parquet with every cell as text.

    Args:
        sheet: the sheet of a workbook; '' is its first visible one.

    Returns:
        The cells, indexed by the row number that a spreadsheet shows (Parquet: counted from 1), and notes.

    Raises:
        CohortError: the file is missing, is not such a table, exceeds a limit, or has no rows.
    """
    if path.name.casefold().endswith(PICTURES) and os.path.isfile(path):
        raise CohortError(f"{path} is an image and no table. Name a table (.csv, .tsv, .xlsx or .parquet).")
    data = _bytes(path)
    workbook = data.startswith(b"PK\x03\x04")
    if sheet and not workbook:
        raise CohortError(f"{path}: sheet: only .xlsx workbooks have sheets, and this is none. Leave it out.")
    if data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise CohortError(f"{path} is a workbook of an old format, or has a password. Save it as .xlsx without one.")
    if path.suffix.casefold() in (".xlsx", ".parquet") and not (workbook or data.startswith(b"PAR1")):
        kind = "workbook" if path.suffix.casefold() == ".xlsx" else "Parquet file"
        raise CohortError(f"{path} is no {kind}, as its ending says. Write it again, or correct the ending.")
    if workbook:
        cells = table_formats.workbook_cells(path, data, problems, sheet=sheet)
    elif data.startswith(b"PAR1"):
        cells = table_formats.parquet_cells(path, data)
        table_formats.read_numbers(cells, problems)
    else:
        cells = table_formats.text_cells(path, data, problems)
    return _framed(path, cells, problems)


def _bytes(path: Path) -> bytes:
    if os.path.isdir(path):
        raise CohortError(f"The cohort table {path} is a folder. Name the table in it.")
    try:
        data = read_regular(path, table_formats.LARGEST)
    except FileNotFoundError:
        parent = path.parent
        hint = nearest(path.name, [p.name for p in parent.iterdir()]) if os.path.isdir(parent) else ""
        raise CohortError(f"There is no cohort table {path}.{hint}") from None
    except OSError as error:
        raise CohortError(f"The cohort table {path} cannot be read: {error.strerror or error}.") from None
    if not data.strip():
        raise CohortError(f"The cohort table {path} is empty. It needs a heading row and one row for each image.")
    return data


def _framed(path: Path, cells: table_formats.Cells, problems: Problems) -> tuple[pd.DataFrame, list[str]]:
    if not cells.numbers:
        raise CohortError(f"The cohort table {path} has no rows. It needs a heading and one row for each image.")
    if len(cells.heading) > table_formats.MOST_COLUMNS:
        raise CohortError(
            f"The cohort table {path} has {len(cells.heading):,} columns; allowed are {table_formats.MOST_COLUMNS:,}."
        )
    named: dict[str, list[str]] = {}
    for position, (raw, column) in enumerate(zip(cells.heading, cells.columns, strict=True), start=1):
        name, column = one_form(raw).strip(), list(map(one_form, column))
        if not name:
            # spreadsheets add empty columns at the end, and pandas a count in front; neither needs a name
            numbered = position == 1 and column == [str(i) for i in range(len(column))]
            if not numbered and any(cell.strip() for cell in column):
                problems.add("heading", f"heading: column {position} has values but no name. Name it.")
        elif name in named:
            problems.add("heading", f"heading: {cut(name)} is repeated in column {position}. Rename one of them.")
        else:
            named[name] = column
        row = next((n for n, cell in zip(cells.numbers, column, strict=True) if _NO_TEXT.search(cell)), 1)
        if row > 1 or _NO_TEXT.search(name):
            raise CohortError(f"{path}, row {row}, column {position}: contains a character that text cannot have.")
    if any(raw.strip() and raw != raw.strip() for raw in cells.heading):
        cells.notes.append("Spaces around column names were removed.")
    return pd.DataFrame(named, index=pd.Index(cells.numbers, name="row"), dtype="str"), cells.notes
