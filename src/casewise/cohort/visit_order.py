"""The order of visits in time where no days state it: by words such as screening and end of treatment, then numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from casewise.cohort.clinical_words import PLACES_OF_VISITS, unaccented
from casewise.cohort.table import natural, read_dates
from casewise.names import heading_words

_DURING, _UNKNOWN = 3, 7
_TIME_OF_DAY = re.compile(r"[T ](?!0?0:00(:00(\.0+)?)?$)\d{1,2}:\d\d")


def _order_in_time(name: str) -> int:
    text = unaccented(heading_words(name))
    orders = (
        order for order, words in PLACES_OF_VISITS.items() if re.search(rf"(?<![^\W\d_])({words})(?![^\W\d_])", text)
    )
    return next(orders, _DURING)


def is_named_visit(name: str) -> bool:
    """Whether a text is a visit with a name and nothing else.

    >>> [is_named_visit(text) for text in ("Follow-up", "Baseline visit", "Scores")]
    [True, False, False]
    """
    text = unaccented(heading_words(name))
    return any(re.fullmatch(words, text) for words in PLACES_OF_VISITS.values())


def days_of_dated_visits(names: Iterable[str]) -> dict[str, int]:
    """The ordinal day of each visit that is named by a date; a visit with a time of day is one of its own.

    >>> days = days_of_dated_visits(["2023-04-16", "16.04.2023", "2023-04-16 00:00:00", "2023-04-16 09:30", "V2"])
    >>> len(set(days.values())), list(days)
    (1, ['2023-04-16', '16.04.2023', '2023-04-16 00:00:00'])
    """
    return {name: day for name, day in read_dates(names).items() if not _TIME_OF_DAY.search(name)}


def visit_order(name: object) -> tuple[int, tuple[tuple[int, float, str], ...]]:
    """A sort key of visits: screening, baseline, visits with numbers, end of treatment, follow-up, unscheduled visits.

    >>> sorted(["Follow-up", "Week 12", "End of Treatment", "week 4", "Screening", "Baseline"], key=visit_order)
    ['Screening', 'Baseline', 'week 4', 'Week 12', 'End of Treatment', 'Follow-up']
    >>> sorted(["Woche 4", "Therapieende", "Ausgangsbefund"], key=visit_order)
    ['Ausgangsbefund', 'Woche 4', 'Therapieende']
    """
    return _order_in_time(str(name)), natural(name)


def unordered_visits(names: Iterable[str]) -> list[str]:
    """Those visits of a subject whose order in time neither words nor numbers show; [] if it is known.

    >>> unordered_visits(["Screening", "Week 2", "Week 4", "End of Treatment"]), unordered_visits(["0", "4"])
    ([], [])
    >>> unordered_visits(["Titration", "Maintenance"]), unordered_visits(["week 12", "month 2", "baseline"])
    (['Titration', 'Maintenance'], ['week 12', 'month 2'])
    """
    groups: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    names = list(dict.fromkeys(names))
    for name in names:
        # a letter behind a number orders as well: 1a, 1b
        letters = re.sub(r"[\W\d_]", "", re.sub(r"(?<=\d)[a-z]$", "", name.casefold()))
        groups[_order_in_time(name)][letters].append(name)
    unclear = {
        name
        for order, by_letters in groups.items() if len(names) > 1 and (order == _UNKNOWN or len(by_letters) > 1)
        for of_letters in by_letters.values() for name in of_letters
    }  # fmt: skip
    return [name for name in names if name in unclear]
