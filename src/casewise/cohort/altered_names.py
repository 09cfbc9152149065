"""Names of people and visits that a spreadsheet altered: rounded numbers, dates, and names that many people share.

Different people whose names were altered may have become one. Where that is certain the table is refused; where it is
likely, a sentence says so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from casewise.cohort.identity import AS_WRITTEN, Declared
from casewise.cohort.table import each, names_text, rows_text
from casewise.errors import counted, cut

# A spreadsheet writes one digit before the mark and a signed exponent; names such as 12E5 are not of this form.
_SCIENTIFIC = re.compile(r"[+-]?\d([.,]\d+)?[eE]\+\d{2,3}|[+-]?\d[.,]\d+[eE]-?\d{1,3}", re.ASCII)
_WHOLE = re.compile(r"[+-]?(\d+)([.,]0*)?", re.ASCII)
# Spreadsheets keep this many digits of a number; binary numbers are exact up to the second limit.
_DIGITS_KEPT, _LARGEST_EXACT = 15, 2**53
# This many zeros instead of digits, over all names, are not due to chance.
_ZEROS = 4
# English, German, French, Spanish, Italian, Dutch and Portuguese names, as spreadsheets write them
_MONTH = (
    r"(jan|january|januar|janvier|januari|janeiro|jän|jänner|ene|enero|gen|gennaio|janv|feb|february|februar|februari|"
    r"febrero|febbraio|fev|fevereiro|fév|févr|février|mar|march|mär|märz|mrz|mars|marzo|março|maart|mrt|apr|april|abr|"
    r"abril|avr|avril|aprile|may|mai|mei|mayo|maio|mag|maggio|jun|june|juni|juin|junio|junho|giu|giugno|jul|july|juli|"
    r"juil|juillet|julio|julho|lug|luglio|aug|august|augustus|août|ago|agosto|sep|sept|september|septembre|septiembre|"
    r"settembre|set|setembro|oct|october|okt|oktober|octobre|octubre|ott|ottobre|out|outubro|nov|november|novembre|"
    r"noviembre|novembro|dec|december|dez|dezember|déc|décembre|dic|diciembre|dicembre|dezembro)"
)
_DAY_MONTH = re.compile(rf"\d{{1,2}}(\.|[- /]|\. )(?P<month>{_MONTH})\.?([- /.]\d{{2,4}})?", re.IGNORECASE)
_MONTH_DAY = re.compile(rf"(?P<month>{_MONTH})\.?[- /]\d{{2}}", re.IGNORECASE)
_CLOCK = r"([T ]\d{1,2}:\d\d(:\d\d(\.\d+)?)?)?"
_FULL_DATE = re.compile(
    rf"(\d{{4}}([-/.])\d{{1,2}}\2\d{{1,2}}|\d{{1,2}}([-/.])\d{{1,2}}\3(\d{{4}}|\d\d)){_CLOCK}|\d{{1,2}}:\d\d(:\d\d)?",
    re.ASCII,
)
_NOBODY = re.compile(
    r"0+|9{2,}|-1|x+|tests?|unknown.*|unbekannt|anon|anonym\w*|nobody|dummy|tbd|k\.? ?a\.?|not available|--|–|—|\.",
    re.IGNORECASE,
)
# A name has far more rows than the others: at least this many, and this many times the next count.
_MANY_ROWS, _TIMES, _MOST_LARGE, _FEWEST_NAMES = 10, 4, 3, 5
_LONG_NUMBER, _ROUNDED_ZEROS = 10, 3
# So many names are written out in a setting.
_MOST_LISTED = 4


@dataclass(frozen=True)
class _Alteration:
    """Names that are not as they were written, the rows that have them, and whether that is certain."""

    text: str
    rows: list[int]
    certain: bool

    def sentence(self, column: str) -> str:
        """The alteration with its column and rows."""
        return f"{column}: {self.text} ({rows_text(self.rows, 4)})."


def alterations(raw: pd.Series, field: str, declared: Declared = "") -> list[_Alteration]:
    """What a spreadsheet or program did to the names of a column, indexed by row; `field` is subject or visit.

    With `as_written`, a study states that dates, trailing zeros and frequent names are as they were written; with
    lists of names, that these are.

    >>> altered = alterations(pd.Series(["1.23457E+12", "2.3E+05", "P1"], index=[2, 3, 4]), "subject")
    >>> [(alteration.rows, alteration.certain) for alteration in altered]
    [([2, 3], True)]
    >>> alterations(pd.Series(["2E5", "2A5", "2B7", "SEP-01", "SEP-02", "1-2"]), "subject")
    []
    """
    rows_of: dict[str, list[int]] = {}
    for row, name in each(raw.str.strip()):
        if name:
            rows_of.setdefault(name, []).append(row)
    stated = set() if isinstance(declared, str) else {name for group in declared for name in group}
    doubted = list(_rounded({name: rows for name, rows in rows_of.items() if name not in stated}, [*rows_of]))
    if declared != AS_WRITTEN:
        doubted += _dates(rows_of, field)
        if field == "subject":
            doubted += _shared(rows_of)
    return [
        _Alteration(text, sorted(row for name in altered for row in rows_of[name]), certain)
        for text, altered, certain in doubted
    ]


_Doubt = tuple[str, Sequence[str], bool]
_REMEDY = (
    "Format the column as text before the names are entered or pasted, and export the table again from where the names "
    "are complete"
)


def _consequence(names: Sequence[str], rows_of: dict[str, list[int]]) -> str:
    """What follows for names that lost digits: in several rows, one may stand for several people."""
    return ", so that different names may have become one" if any(len(rows_of[name]) > 1 for name in names) else ""


def _shown(names: Sequence[str]) -> str:
    return names_text([cut(name) for name in names], 3)


def _stated_as(names: Sequence[str], every: Sequence[str]) -> str:
    """The setting that states that these names, of all names of the column, are as they were written."""
    listed = [*names, *(name for name in every if name not in names)][: max(2, len(names))]
    if len(listed) < 2:
        return ""
    shown = ", ".join(json.dumps(name, ensure_ascii=False) for name in listed[:_MOST_LISTED])
    more, of_all = (", …", "with all of them ") if len(listed) > _MOST_LISTED else ("", "")
    return f"; if these are the real names, write `subject_names: [[{shown}{more}]]` {of_all}in the study"


def _rounded(rows_of: dict[str, list[int]], every: Sequence[str]) -> Iterator[_Doubt]:
    """Numbers that lost digits, of `every` name of the column."""
    if scientific := [name for name in rows_of if _SCIENTIFIC.fullmatch(name)]:
        yield (
            f"{_shown(scientific)} {'is a number' if len(scientific) == 1 else 'are numbers'} as a spreadsheet or "
            f"program rounds them{_consequence(scientific, rows_of)}. {_REMEDY}{_stated_as(scientific, every)}",
            scientific,
            True,
        )
    whole = {name: match[1].lstrip("0") for name in rows_of if (match := _WHOLE.fullmatch(name))}
    inexact = [
        name
        for name, number in whole.items()
        if not name.isdigit() and (len(number) > len(str(_LARGEST_EXACT)) or int(number or 0) >= _LARGEST_EXACT)
    ]
    zeroed = {
        name: len(number) - _DIGITS_KEPT
        for name, number in whole.items()
        if len(number) > _DIGITS_KEPT and not number[_DIGITS_KEPT:].strip("0")
    }
    longest = [name for name, number in whole.items() if len(number) > _DIGITS_KEPT]
    lost = list(dict.fromkeys([*inexact, *(zeroed if len(zeroed) == len(longest) else [])]))
    if lost:
        certain = bool(inexact) or sum(zeroed.values()) >= _ZEROS
        yield (
            f"{_shown(lost)} lost the digits after the first {_DIGITS_KEPT}, as happens to long "
            f"numbers{_consequence(lost, rows_of)}. {_REMEDY}{_stated_as(lost, every)}",
            lost,
            certain,
        )
        return
    long = [name for name, number in whole.items() if len(number) >= _LONG_NUMBER]
    if len(long) > 1 and all(whole[name].endswith("0" * _ROUNDED_ZEROS) for name in long):
        yield (
            f"{_shown(long)} all end with {_ROUNDED_ZEROS} zeros or more, as numbers do that were rounded before. If "
            "so, different names became one: export the table again with the column as text",
            long,
            False,
        )


def _dates(rows_of: dict[str, list[int]], field: str) -> Iterator[_Doubt]:
    """Names that a spreadsheet turned into dates or times, such as MAR1 and 1-2."""
    named = {name: match["month"].casefold()[:3] for name in rows_of if (match := _DAY_MONTH.fullmatch(name))}
    numbered = {
        name: match["month"].casefold()[:3]
        for name in rows_of
        # in capitals it is the name of a study or site, such as SEP-01
        if (match := _MONTH_DAY.fullmatch(name)) and not (match["month"].isupper() and len(match["month"]) > 1)
    }
    full = [name for name in rows_of if _FULL_DATE.fullmatch(name)]
    short = [*named, *(numbered if len({*numbered.values()}) > 1 or len(numbered) < len(rows_of) else ())]
    all_dates = len(full) == len(rows_of)
    if short and (field == "subject" or len(short) < len(rows_of)):
        yield (
            f"{_shown(short)} {'is a date' if len(short) == 1 else 'are dates'}, which a spreadsheet makes of names "
            f"such as MAR1 and 1-2. {_REMEDY}; if these are the real names, write `subject_names: as_written` in the "
            "study",
            short,
            field == "subject",
        )
    elif short or numbered:
        altered = list(short or numbered)
        yield f"{_shown(altered)} may be dates that a spreadsheet made of names such as MAR1 and 1-2", altered, False
    if full and (not all_dates or field == "subject"):
        text = (
            "are dates or times, which identify nobody" if all_dates else "among other names may be spreadsheet dates"
        )
        yield (
            f"{_shown(full)} {text}. If a spreadsheet made them of names such as 1-2, different names may have become "
            f"one. {_REMEDY}; if these are the real names, write `subject_names: as_written` in the study",
            full,
            not all_dates and field == "subject",
        )


def _shared(rows_of: dict[str, list[int]]) -> Iterator[_Doubt]:
    """Names that several people may share: placeholders, and names with far more rows than the others."""
    counts = Counter({name: len(rows) for name, rows in rows_of.items()}).most_common()
    sizes = [count for _, count in counts]
    large: list[str] = []
    for number in range(1, min(_MOST_LARGE, len(counts) - 1) + 1):
        if sizes[number - 1] >= max(_MANY_ROWS, _TIMES * sizes[number]) and len(counts) >= _FEWEST_NAMES:
            large = [name for name, _ in counts[:number]]
    median = sizes[len(sizes) // 2] if sizes else 0
    large += [
        name for name, count in counts if name not in large and count > max(1, median) and _NOBODY.fullmatch(name)
    ]
    if large:
        others = max((count for name, count in counts if name not in large), default=0)
        most = max(len(rows_of[name]) for name in large)
        yield (
            f"{_shown(large)} {'has' if len(large) == 1 else 'have'} up to {counted(most, 'row')}, the other names at "
            f"most {others:,}. If several people share such a name, correct it, or leave the rows out with "
            "`where_not`",
            large,
            False,
        )
