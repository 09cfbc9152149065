"""Names of subjects, sites, visits and regions, compared in words without case and leading zeros."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from casewise.cohort.checks import number
from casewise.cohort.clinical_words import AFTER, BEFORE, UNITS, WORD, Words, region_phrases, unaccented
from casewise.cohort.folder_layout import find_region
from casewise.cohort.table import names_text, read_dates
from casewise.cohort.visit_order import is_named_visit
from casewise.names import one_form

_DAYS = {"day": 1.0, "week": 7.0, "month": 365.25 / 12, "year": 365.25}
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
_SINGLE = ("baseline", "screening")
_OF_VISITS = {*_DAYS, *_SINGLE, "visit", "time"}
_MOST_IN_REGION = 3


@lru_cache(100_000)
def words(text: str, role: str = "") -> Words:
    """A name in words: without case, separators and leading zeros; of visits with the usual word for each unit.

    >>> words("S-01") == words("s1"), words("W04", "visit") == words("Week 4", "visit"), words("1-11") == words("11-1")
    (True, True, False)
    >>> words("Follow-up 2", "visit") == words("followup_2", "visit")
    True
    """
    plain = str(int(value)) if (value := number(text)) is not None and value.is_integer() else one_form(text)
    if role == "visit" and (day := read_dates([plain]).get(plain)):
        return ("date", str(day))
    plain_words = (w.lstrip("0") or "0" if w.isdecimal() else w.casefold() for w in WORD.findall(plain))
    if role in ("region", "site"):  # `Köln` is `Koeln`
        return tuple(unaccented(w.translate(_UMLAUTS) if role == "site" else w) for w in plain_words)
    named = tuple(UNITS.get(unaccented(w), w) if role == "visit" else w for w in plain_words)
    if role == "visit" and not _OF_VISITS.intersection(named):  # `Follow-up` is `followup`
        runs = itertools.groupby(named, str.isdecimal)
        return tuple(itertools.chain.from_iterable(run if numbers else ["".join(run)] for numbers, run in runs))
    return named


def day_of_visit(name: str) -> int | None:
    """The day that a name of a visit states, from the baseline.

    >>> [day_of_visit(name) for name in ("week4", "Baseline", "Month 3", "D-7", "visit 2")]
    [28, 0, 91, -7, None]
    """
    named = words(name, "visit")
    if named[:1] == ("baseline",):
        return 0
    if len(named) == 2 and named[1].isdecimal():
        named = named if named[0] in _DAYS else named[::-1]
    if len(named) != 2 or named[0] not in _DAYS or not named[1].isdecimal():
        return None
    before = re.search(r"(?<![^\W\d_])-\d|^[A-Za-z]+ ?-\d", name) and named[0] == "day"
    return round(_DAYS[named[0]] * int(named[1])) * (-1 if before else 1)


def days_of_visits(visits: Sequence[str]) -> tuple[list[str], str]:
    """The day of each visit in text, and how it was made; all empty, with the reason, if a visit states none."""
    days = {visit: day_of_visit(visit) for visit in dict.fromkeys(visits)}
    unclear = [visit for visit, day in days.items() if day is None]
    if unclear:
        return [], f"Days: not created, because names of visits state none, such as {names_text(unclear, 3)}."
    shown = names_text([f"{visit} is day {day}" for visit, day in days.items()], 4)
    return [str(days[visit]) for visit in visits], f"Days: from the names of the visits: {shown}."


def _other_forms(role: str, name: Words, loose: bool, regions: Sequence[str]) -> Iterator[Words]:
    """Other ways in which a path may write the name of a subject, visit or region."""
    if role == "subject" and loose:
        yield from (name[start:] for start in range(1, len(name)))
    if role == "region":
        yield name[:1]
        yield (name[0][:1],)
        yield from region_phrases(" ".join(name))
        if 1 < len(name) <= _MOST_IN_REGION:  # `arm_L` is `left arm`
            forms = [[form[0] for form in region_phrases(word) if len(form) == 1] for word in name]
            for order in itertools.permutations(forms):
                yield from itertools.product(*order)
        if region := find_region(" ".join(name), list(regions)):
            yield words(region)
    if role == "visit":
        last = name[-1]
        yield from ((word,) for side in (BEFORE, AFTER) if unaccented(last) in side and len(name) == 1 for word in side)
        if name in (("baseline",), ("0",)) or (len(name) == 2 and name[0] in _DAYS and last == "0"):
            yield from [("baseline",), ("0",), *((unit, "0") for unit in _DAYS)]
        elif len(name) == 1 and last.isdecimal():
            yield from ((unit, last) for unit in (*_DAYS, "visit", "time"))
        elif last.isdecimal() and name[0] != "date" and sum(map(str.isdecimal, name)) == 1:
            yield (last,)


def readings(
    role: str, names: Iterable[Words], *, loose: bool = False, regions: Sequence[str] = ()
) -> dict[Words, Words]:
    """The name that each spelling means: its own words, or another form that only one of the names has."""
    own = {name: name for name in names if name}
    others: dict[Words, set[Words]] = defaultdict(set)
    for name in own:
        for form in _other_forms(role, name, loose, regions):
            others[form].add(name)
    return {form: min(of_form) for form, of_form in others.items() if form and len(of_form) == 1} | own


def one_of_each(first: Sequence[Words], second: Sequence[Words]) -> bool:
    """Whether each filled name of the first list goes with one of the second, and with no other."""
    pairs = {(a, b) for a, b in zip(first, second, strict=True) if a}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 1


def is_number(name: Words) -> bool:
    return all(word.isdecimal() for word in name)


def names_visit(text: str) -> bool:
    """Whether a text, such as the name of a sheet, is a visit and nothing else, also one without a number.

    >>> [names_visit(text) for text in ("Week 4", "V2", "Follow-up", "End of treatment", "Sheet1", "scores")]
    [True, True, True, True, False, False]
    """
    return is_visit(text) or is_named_visit(text)


def is_visit(text: str) -> bool:
    """Whether a text names a visit: a unit of time with its number, a baseline, or a date.

    >>> [is_visit(text) for text in ("week4", "Baseline", "2024-01-31", "upper", "7")]
    [True, True, True, False, False]
    """
    named = words(text, "visit")
    if len(named) == 2 and named[1].isdecimal():
        return named[0] in (*_DAYS, "visit", "time", "date")
    return len(named) == 1 and named[0] in _SINGLE


def named_visit(headings: Words) -> tuple[str, Words]:
    """The visit with which a heading ends or begins, and its other words; '' if it names none.

    >>> named_visit(("pasi", "week", "4")), named_visit(("visit",))
    (('week 4', ('pasi',)), ('', ('visit',)))
    """
    for length in (2, 1):
        for visit, rest in ((headings[-length:], headings[:-length]), (headings[:length], headings[length:])):
            if len(headings) >= length and names_visit(" ".join(visit)):
                return " ".join(visit), rest
    return "", headings
