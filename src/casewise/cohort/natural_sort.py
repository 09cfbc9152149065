"""The order of names: numbers within names by their value, words before numbers, without regard to case."""

from __future__ import annotations

import re

from casewise.files import PLAIN_NUMBER

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
