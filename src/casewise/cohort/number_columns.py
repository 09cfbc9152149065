"""Columns of numbers in the notation of any country, written with a decimal point and without marks of thousands.

A mark that is followed by three digits once, as in 1.059 and 1,059, has two meanings. The other cells of the column
decide, then the other columns, then what is usual in such a table, which is doubted. If that puts the numbers with and
without the mark far apart, as 922 and 1.059, and the other meaning would not, the column is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from casewise.cohort.clinical_words import AMBIGUOUS_SUBJECT, STRONG_SUBJECT
from casewise.errors import shortened
from casewise.names import heading_words

_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{FULLWIDTH HYPHEN-MINUS}": "-", "\N{FULLWIDTH PLUS SIGN}": "+"})
_MARKS = str.maketrans({"’": "'", "\u066b": ",", "\u066c": "'", "\N{FULLWIDTH FULL STOP}": ".", "，": ","})
_NUMBER = re.compile(r"(?P<sign>[+-]?)(?P<digits>\d[\d., ']*|[.,]\d+)(?P<end>([eE][+-]?\d+)?(?:\s*%)?)", re.ASCII)
_SPACED = re.compile(r"\d{1,3}(?:( |')\d{3})(?:\1\d{3})*(?=[.,]\d+$|$)", re.ASCII)
_UNCLEAR = re.compile(r"[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
_OTHER = {".": ",", ",": "."}
# So many different numbers with three digits behind the mark, among whole ones below 1000, are thousands.
_FEWEST = 3
# Numbers with and without the mark are far apart if this many times the largest of one kind is below the other kind.
_APART = 10
# Headings of names of people, cases and visits: `patient`, `study patient id`; not `patient age`.
_OF_PEOPLE = r"ids?|codes?|nr|no|number|names?|pseudonyms?|keys?|identifiers?"
_NAMES = (
    rf"(?!.* of )(.* )?({STRONG_SUBJECT})( ?\d*| (.* )?({_OF_PEOPLE}))|({_OF_PEOPLE})( .*)? ({STRONG_SUBJECT})|"
    r"ids?|cases?|codes?|pseudonyms?|keys?|identifiers?|records?|visits?|visite"
)


@dataclass
class _Notation:
    """The numbers of a column by their cell, and what they prove: marks of decimals and of thousands."""

    numbers: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    decimals: set[str] = field(default_factory=set)
    thousands: set[str] = field(default_factory=set)
    unclear: dict[str, str] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    is_ungrouped: bool = False

    @property
    def is_consistent(self) -> bool:
        marks = set(self.unclear.values())
        # 1055,0 together with 1.234 is neither with nor without marks of thousands
        unread = self.is_ungrouped and any(_OTHER[mark] in self.decimals for mark in marks)
        return len(self.decimals) < 2 and not self.decimals & self.thousands and len(marks) < 2 and not unread

    def is_open(self, mark: str) -> bool:
        """Whether the numbers with and without a mark are nearer to each other if the mark of thousands is not `mark`.

        >>> numbers = _notation(["922", "870", "1.059"])
        >>> numbers is not None and (numbers.is_open(""), numbers.is_open("."))
        (True, False)
        """
        whole = [number for digits in self.whole if (number := float(digits))]
        unclear = [float(self.numbers[value][1].replace(",", ".")) for value in self.unclear]
        if self.decimals or self.thousands or self.is_ungrouped or not whole or not unclear:
            return False
        decimals, thousands = (
            max(min(whole) / max(unclear) / factor, min(unclear) * factor / max(whole)) for factor in (1, 1000)
        )
        apart, other = (thousands, decimals) if mark else (decimals, thousands)
        return apart >= _APART and apart > other


def _ascii(text: str) -> str:
    """Digits of any alphabet, spaces, minus signs and marks as ASCII characters."""
    characters = (
        str(unicodedata.digit(c)) if unicodedata.category(c) == "Nd" else " " if unicodedata.category(c) == "Zs" else c
        for c in text
    )
    return "".join(characters).translate(_SIGNS).translate(_MARKS)


def _notation(values: Iterable[str]) -> _Notation | None:
    """The notation of a column; None if one of the values is not a number."""
    notation = _Notation()
    for value in values:
        match = _NUMBER.fullmatch(_ascii(value))
        if not match:
            return None
        digits = match["digits"]
        if spaced := _SPACED.match(digits):
            notation.thousands.add(spaced[1])
            digits = re.sub(r"[ ']", "", digits)
        if not _add(notation, value, digits, is_spaced=bool(spaced), has_exponent="e" in match["end"].casefold()):
            return None
        notation.numbers[value] = match["sign"], digits, match["end"]
    return notation


def _add(notation: _Notation, value: str, digits: str, *, is_spaced: bool, has_exponent: bool) -> bool:
    """Add what a number proves; whether it is one."""
    marks = re.findall(r"[^\d]", digits)
    notation.is_ungrouped |= not is_spaced and re.match(r"\d{4}", digits) is not None
    if not marks:
        notation.whole.append(digits)
    elif set(marks) - {".", ","}:
        return False
    elif len(marks) == 1 and not is_spaced and not has_exponent and _UNCLEAR.fullmatch(digits):
        notation.unclear[value] = marks[0]
    elif len(marks) == 1:
        notation.decimals.add(marks[0])
    else:
        last = marks[-1] if marks[-1] not in marks[:-1] else ""
        before = digits.rpartition(last)[0] if last else digits
        grouped = rf"[1-9]\d{{0,2}}(?:\{marks[0]}\d{{3}})+|[1-9]\d?(?:,\d\d)+,\d{{3}}"
        if not re.fullmatch(grouped, before):
            return False
        notation.decimals |= {last} - {""}
        notation.thousands.add(marks[0])
    return True


def point_numbers(
    headings: list[str], columns: list[list[str]], missing: Iterable[str], delimiter: str
) -> tuple[list[str], list[str], dict[int, tuple[str, str]]]:
    """Write the numbers of columns that contain only numbers in one notation.

    Returns notes, doubts, and by the position of a column a cell that has two meanings, and a sentence on it.

    Decimal commas without marks of thousands are read in tables with semicolons only. Columns named after subjects
    stay as they are.

    Args:
        missing: words for a missing value.
        delimiter: of a text table; empty for a workbook or Parquet file, whose numbers need no notation.
    """
    notations: dict[int, _Notation] = {}
    words = set(missing)
    for position, column in enumerate(columns):
        values = dict.fromkeys(text for cell in column if (text := cell.strip()) and text.casefold() not in words)
        notation = _notation(values) if values else None
        words_of_heading = heading_words(headings[position])
        # `PT` with decimals is the prothrombin time
        is_name = re.fullmatch(_NAMES, words_of_heading) and not (
            words_of_heading == AMBIGUOUS_SUBJECT and notation and notation.decimals
        )
        if notation and notation.is_consistent and not is_name:
            notations[position] = notation
    proven = {mark for notation in notations.values() for mark in notation.decimals}
    commas, grouped, doubts, unread = list[str](), list[str](), list[str](), dict[int, tuple[str, str]]()
    for position, notation in notations.items():
        name = shortened(headings[position].strip())
        mark, is_certain = _mark_of_thousands(notation, proven, delimiter)
        is_open = bool(delimiter) and notation.is_open(mark)
        if is_open and not proven:
            unread[position] = next(iter(notation.unclear)), _two_meanings(notation)
            continue
        if is_open or not is_certain:
            doubts.append(f"{name}: {_doubt(notation, is_thousands=bool(mark))}")
        thousands = notation.thousands | {mark} - {""}
        if not thousands and delimiter != ";" and "," in {*notation.decimals, *notation.unclear.values()}:
            continue
        written = {value: _written(*number, thousands) for value, number in notation.numbers.items()}
        changed = {value for value, text in written.items() if text != value}
        columns[position] = [written[cell.strip()] if cell.strip() in changed else cell for cell in columns[position]]
        if thousands & {".", ",", " ", "'"} and changed:
            grouped.append(name)
        elif any("," in value for value in changed):
            commas.append(name)
    notes = []
    if commas:
        names = ", ".join(commas[:8]) + (" …" if len(commas) > 8 else "")
        notes.append(f"The table is separated by semicolons, and decimal commas were read in {names}.")
    if grouped:
        names = ", ".join(grouped[:8]) + (" …" if len(grouped) > 8 else "")
        notes.append(f"Marks of thousands were left out in {names}.")
    return notes, doubts, unread


def clear_decimals(column: list[str], missing: Iterable[str]) -> list[str]:
    """Cells of a column, in which decimal points cannot be taken for marks of thousands: 1.059 becomes 1.0590.

    >>> clear_decimals(["12", "1.059", "900"], []), clear_decimals(["1.25", "1.059"], []), clear_decimals(["a"], [])
    (['12', '1.0590', '900'], ['1.25', '1.059'], ['a'])
    """
    words = set(missing)
    notation = _notation(
        dict.fromkeys(text for cell in column if (text := cell.strip()) and text.casefold() not in words)
    )
    if not notation or notation.decimals or {*notation.unclear.values()} != {"."}:
        return column
    written = {
        value: f"{sign}{digits}0{end}"
        for value, (sign, digits, end) in notation.numbers.items()
        if value in notation.unclear
    }
    return [written.get(cell.strip(), cell) for cell in column]


def _mark_of_thousands(notation: _Notation, proven: set[str], delimiter: str) -> tuple[str, bool]:
    """The mark of unclear numbers if it separates thousands, and whether this is certain."""
    mark = next(iter(notation.unclear.values()), "")
    if not mark or mark in notation.decimals or mark in notation.thousands:
        return (mark if mark in notation.thousands else ""), True
    if _OTHER[mark] in notation.decimals or _OTHER[mark] in notation.thousands:
        return (mark if _OTHER[mark] in notation.decimals else ""), True
    if notation.is_ungrouped or not delimiter:
        return "", True
    if len(proven) == 1:
        return ("" if mark in proven else mark), True
    mixed = len(notation.whole) > 0
    usual = (mark == ".") == (delimiter == ";")
    # a table that casewise wrote from a workbook has decimal points and commas between cells
    is_thousands = usual or (mixed and mark == "," and len(notation.unclear) >= _FEWEST)
    return (mark if is_thousands else ""), not mixed and not is_thousands


def _doubt(notation: _Notation, *, is_thousands: bool) -> str:
    value, mark, (thousands, decimals) = _first_unclear(notation)
    read, other = (thousands, decimals) if is_thousands else (decimals, thousands)
    return (
        f"{value} WAS READ AS {read}, and may be {other}: a {'point' if mark == '.' else 'comma'} separates decimals "
        "in some countries and thousands in others. Write the numbers of the table without marks of thousands."
    )


def _two_meanings(notation: _Notation) -> str:
    value, mark, (thousands, decimals) = _first_unclear(notation)
    whole = next(digits for digits in notation.whole if float(digits))
    return (
        f"{value} may be {decimals} or {thousands}, because other cells, such as {whole}, have no "
        f"{'point' if mark == '.' else 'comma'}. Write {thousands} if it separates thousands, or {whole}{mark}0 for "
        f"{whole} if it separates decimals."
    )


def _first_unclear(notation: _Notation) -> tuple[str, str, tuple[str, str]]:
    """The first unclear number, its mark, and how it reads with a mark of thousands and of decimals."""
    value, mark = next(iter(notation.unclear.items()))
    number = "".join(notation.numbers[value][:2])
    return value, mark, (number.replace(mark, ""), number.replace(mark, "."))


def _written(sign: str, digits: str, end: str, thousands: set[str]) -> str:
    for mark in thousands:
        digits = digits.replace(mark, "")
    return sign + digits.replace(",", ".") + end
