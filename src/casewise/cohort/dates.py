"""Dates in the forms that people and spreadsheets write, none of them guessed, and the natural order of names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

from casewise.files import PLAIN_NUMBER

_TIME = r"(?:[T ]\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[AaPp][Mm])?(?:Z|[+-]\d\d:?\d\d)?)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})([-/.]?)(\d\d?)\2(\d\d?){_TIME}", re.ASCII)
_YEAR_LAST = re.compile(rf"(\d\d?)([-/.])(\d\d?)\2(\d{{4}}){_TIME}", re.ASCII)
_NAMED = re.compile(r"(?:(\d\d?)[. -]+([A-Za-z]{3,9})\.?|([A-Za-z]{3,9})\.? (\d\d?)),?[ -]+(\d{4})", re.ASCII)
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august"),
    *("september", "october", "november", "december"),
)


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
    name = (match[2] or match[3]).casefold()
    month = next((n for n, month in enumerate(_MONTHS, 1) if name in (month, month[:3])), None)
    return _count(match[5], str(month), match[1] or match[4]) if month else None


def _count(year: str, month: str, day: str) -> int | None:
    if not 1850 <= int(year) <= 2199:
        return None
    try:
        return date(int(year), int(month), int(day)).toordinal()
    except ValueError:
        return None


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
    return (
        *((2, float(p), "") if re.fullmatch("[0-9]+", p) else (1, 0.0, p.casefold()) for p in pieces),
        (0, 0.0, text),
    )
