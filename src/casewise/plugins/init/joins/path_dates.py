"""Dates in names of folders and files, in the forms that people write; a part of a date is no visit, site or number.

Dates whose form shows them are read alone. Others, such as 230311 or 5.12.23, count only where all paths that have such
a text at one where have a date there, and several of them are dates of the table or there are enough of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date

from casewise.cohort.table import month_of, read_dates

_YEAR, _MONTH, _END = r"(?P<y>(?:18|19|20)\d\d)", r"(?P<month>[^\W\d_]{3,10})", r"(?!\d)"
_APART, _START = r"[-_. ]?", r"(?<![^\W_])"
# Days and months have two digits without a mark, or with one that joins words: in `S1_2024_1_2`, 1 may be a visit.
_JOINING = {"_", " ", ""}
# How a date is written, and in which orders its parts may be; the first form that fits a text counts.
_DAY = r"(?P<d>\d\d?)"
_NAMED = [
    re.compile(rf"{_START}{_DAY}(?:st|nd|rd|th)?[-_. ]{{0,2}}{_MONTH}\.?{_APART}{_YEAR}{_END}"),
    re.compile(rf"(?<![^\W\d_]){_MONTH}\.?{_APART}{_DAY},?[-_ ]{{0,2}}{_YEAR}{_END}"),
    re.compile(rf"(?<!\d){_YEAR}{_APART}{_MONTH}{_APART}{_DAY}{_END}"),
]
_FORMS = {
    "year first": (re.compile(rf"(?<!\d){_YEAR}(?P<mark>{_APART})(\d\d?)(?P=mark)(\d\d?){_END}"), ("ymd",)),
    "year last": (re.compile(rf"{_START}(\d\d?)(?P<mark>[-_. ])(\d\d?)(?P=mark){_YEAR}{_END}"), ("dmy", "mdy")),
    "digits, year last": (re.compile(rf"(?<!\d)(?P<mark>)(\d\d)(\d\d){_YEAR}{_END}"), ("dmy", "mdy")),
    "short year": (
        re.compile(rf"{_START}(\d\d?)(?P<mark>[-_. ])(\d\d?)(?P=mark)(\d\d){_END}"),
        ("dmy", "mdy", "ymd"),
    ),
    "six digits": (re.compile(rf"(?<!\d)(?P<mark>)(\d\d)(\d\d)(\d\d){_END}"), ("ymd", "dmy", "mdy")),
}
_OF_MONTH = re.compile(
    rf"(?<!\d)(?:19|20)\d\d(?:[-.]?(?:0[1-9]|1[0-2])|[-_ ]?[Qq][1-4]){_END}|"
    rf"(?<![^\W\d_]){_MONTH}{_APART}(?:19|20)\d\d{_END}"
)
# A time behind a date; `-` between hour and minute stands for `:`, which names of files cannot have.
_TIME = re.compile(
    r"[T_ ]{1,2}(?:[01]\d|2[0-3])[-.:hH][0-5]\d(?:[-.:mM][0-5]\d)?s?(?![^\W_])|"
    r"[-T_ ](?:[01]\d|2[0-3])[0-5]\d[0-5]\d(?![^\W_])"
)
# A form is shown by so many different dates, of few years since 2010, or if half of its dates are in the table.
_ENOUGH, _SHARE, _MOST_YEARS = 5, 0.5, 5
_FIRST_SHORT_YEAR = 10
# So many dates of one hospital, none with a number above 12, do not follow the order of others.
_OWN_ORDER = 8


@dataclass(frozen=True)
class PathDate:
    """A date in a folder or file: its first letter and the one behind it, and its ordinal day; 0 where not known."""

    start: int
    end: int
    day: int


@dataclass(frozen=True)
class _Candidate:
    form: str
    match: re.Match[str]
    end: int


def table_days(cells: Mapping[str, Sequence[str]]) -> frozenset[int]:
    """The days of all dates in a table."""
    texts = ({cell for cell in column if cell} for column in cells.values())
    return frozenset(day for column in texts for day in read_dates(column).values())


def dates_in(paths: Sequence[Sequence[str]], days: Set[int] = frozenset()) -> list[dict[int, list[PathDate]]]:
    """The dates of each path, whose folders and file are counted from the end: -1 is the file.

    Args:
        paths: by path, its folders and the name of its file without ending.
        days: of the table, which show the order of day and month.

    >>> [date.fromordinal(d[-1][0].day).isoformat() for d in dates_in([["a_2024_01_31_1"], ["5Mar2024"]])]
    ['2024-01-31', '2024-03-05']
    >>> dates_in([["P01_05-12-2024"]]), dates_in([["P01_05-12-2024"], ["P01_31-12-2024"]])[0][-1][0].day
    ([{-1: [PathDate(start=4, end=14, day=0)]}], 739225)
    """
    texts = {text: _candidates(text) for segments in paths for text in dict.fromkeys(segments)}
    groups: dict[tuple[int, int, str, str], dict[str, _Candidate]] = defaultdict(dict)
    of_hospital: dict[tuple[int, int, str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for segments in paths:
        hospital = re.split(r"[\W\d_]", segments[0])[0]
        for segment, text in zip(range(-len(segments), 0), segments, strict=True):
            for number, candidate in enumerate(texts[text]):
                where = _where(segment, number, candidate)
                groups[where][candidate.match[0]] = candidate
                of_hospital[where][hospital].add(candidate.match[0])
    read = {where: _days(where[2], group, days) for where, group in groups.items()}
    for where, hospitals in of_hospital.items():
        for texts_of in hospitals.values() if len(hospitals) > 1 and len(_orders(where[2])) > 1 else ():
            if len(texts_of) >= _OWN_ORDER and read[where]:
                read[where] |= _days(where[2], {text: groups[where][text] for text in texts_of}, days)
    result = []
    for segments in paths:
        dates: dict[int, list[PathDate]] = {}
        for segment, text in zip(range(-len(segments), 0), segments, strict=True):
            for number, candidate in enumerate(texts[text]):
                of_group = read[_where(segment, number, candidate)]
                if candidate.match[0] in of_group:
                    own = PathDate(candidate.match.start(), candidate.end, of_group[candidate.match[0]])
                    dates.setdefault(segment, []).append(own)
        result.append(dates)
    return result


def _orders(form: str) -> tuple[str, ...]:
    """The orders in which the parts of a form may be."""
    return _FORMS[form][1] if form in _FORMS else ()


def _where(segment: int, number: int, candidate: _Candidate) -> tuple[int, int, str, str]:
    """Where a text stands, with its form and the mark between its parts."""
    return segment, number, candidate.form, candidate.match.groupdict().get("mark") or ""


def _candidates(text: str) -> list[_Candidate]:
    """The texts in a folder or file that may be dates, in their order, none over another one."""
    candidates: list[_Candidate] = []
    if not any(map(str.isdecimal, text)):
        return []
    numeric = [(name, expression) for name, (expression, _) in _FORMS.items()]
    for form, expression in [*(("named", own) for own in _NAMED), *numeric, ("month", _OF_MONTH)]:
        for match in expression.finditer(text):
            if not _may_be(form, match) or any(
                match.start() < f.end and f.match.start() < match.end() for f in candidates
            ):
                continue
            time = _TIME.match(text, match.end()) if form in ("named", "year first", "year last") else None
            candidates.append(_Candidate(form, match, time.end() if time else match.end()))
    return sorted(candidates, key=lambda each: each.match.start())


def _may_be(form: str, match: re.Match[str]) -> bool:
    """Whether a text has the letters or digits of a date."""
    if form == "named":
        return _named_day(match) is not None
    groups = match.groupdict()
    if form == "month":
        return not groups["month"] or month_of(groups["month"]) > 0
    if form in ("year first", "year last"):
        if groups["mark"] in _JOINING and any(len(digits) == 1 for digits in match.groups() if digits.isdecimal()):
            return False
        return any(_day(order, match) for order in _FORMS[form][1])
    return True


def _named_day(match: re.Match[str]) -> int | None:
    return _ordinal(int(match["y"]), month_of(match["month"]), int(match["d"]))


def _day(order: str, match: re.Match[str]) -> int | None:
    """The ordinal day of three numbers in an order such as `dmy`; None if there is no such day."""
    parts = [digits for digits in match.groups() if digits.isdecimal()]
    of_part = dict(zip(order, map(int, parts), strict=True))
    year = of_part["y"] + 2000 if of_part["y"] < 100 else of_part["y"]
    return _ordinal(year, of_part["m"], of_part["d"])


def _ordinal(year: int, month: int, day: int) -> int | None:
    try:
        return date(year, month, day).toordinal() if year <= date.today().year + 1 else None
    except ValueError:
        return None


def _days(form: str, group: Mapping[str, _Candidate], days: Set[int]) -> dict[str, int]:
    """The day of each text of one form at one where, 0 where its order is not known; {} if they are no dates."""
    if form == "named":
        return {text: _named_day(candidate.match) or 0 for text, candidate in group.items()}
    if form == "month":
        return dict.fromkeys(group, 0)
    orders = {
        order: {text: _day(order, candidate.match) for text, candidate in group.items()} for order in _FORMS[form][1]
    }
    if form == "year first":
        return {text: day for text, day in orders["ymd"].items() if day}
    if next(iter(group.values())).match["mark"] == "." and form == "year last":
        orders = {"dmy": orders["dmy"]}
    whole = {order: own for order, own in orders.items() if all(own.values())}
    hits = {order: sum(day in days for day in own.values()) for order, own in whole.items()}
    best = max(hits, key=hits.__getitem__, default="")
    if form != "year last" and not (best and _are_shown(form, group, whole, hits[best])):
        return {}
    only = len(whole) == 1 or sum(count == hits[best] for count in hits.values()) == 1 if best else False
    return {text: (whole[best][text] or 0) if only else 0 for text in group}


def _are_shown(
    form: str, group: Mapping[str, _Candidate], whole: Mapping[str, Mapping[str, int | None]], hits: int
) -> bool:
    """Whether texts whose form does not show it are dates, which in a number of a file they hardly are."""
    if len(group) > 1 and hits >= _SHARE * len(group):
        return True
    if form == "short year" and next(iter(group.values())).match["mark"] != ".":
        return False
    if form == "digits, year last":
        return len(group) >= _ENOUGH
    this_year = date.today().year % 100
    for own in whole.values():
        years = {date.fromordinal(day).year % 100 for day in own.values() if day}
        usual = len(years) <= _MOST_YEARS and min(years) >= _FIRST_SHORT_YEAR and max(years) <= this_year
        if usual and len(group) >= _ENOUGH:
            return True
    return False


def days_of_texts(texts: Iterable[str], days: Set[int] = frozenset()) -> dict[str, int]:
    """The ordinal day of each text that is a date and nothing else; 0 where its order is not known."""
    own = list(dict.fromkeys(texts))
    read = dates_in([[text] for text in own], days)
    whole = {text: dates.get(-1, []) for text, dates in zip(own, read, strict=True)}
    return {text: d[0].day for text, d in whole.items() if len(d) == 1 and (d[0].start, d[0].end) == (0, len(text))}
