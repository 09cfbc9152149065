"""Numbers that state no value, such as -999 and 99.9: repeated numbers far from all others of their column."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence, Set

import pandas as pd

from casewise.cohort.groups import numbers_in, recorded
from casewise.cohort.table import rows_text

_CODE = re.compile(r"-1|-?([789])\1*(\.\1+)?", re.ASCII)
# The other numbers of a column have this many different values.
_FEWEST_OTHERS = 3
# A number that is not a usual code occurs this often, and is this many times the range of the others away from them.
_REPEATED, _RANGES_AWAY = 3, 2
# At most so many numbers are far from all others, and so many others there are at least; see `far_numbers`.
_MOST_FAR, _FEWEST_BESIDE, _HALVES_AWAY = 3, 28, 1.5


def is_code(number: float) -> bool:
    """Whether a number is usual for no value: -1, or repeats the digit 7, 8 or 9.

    >>> [is_code(number) for number in (-1, 99, -999, 99.9, 9, 1, 79)]
    [True, True, True, True, True, False, False]
    """
    return _CODE.fullmatch(f"{number:.10g}") is not None


def missing_codes(numbers: pd.Series, *, usual_only: bool = True) -> list[float]:
    """The numbers of a column that probably state no value; without `usual_only`, also one that is not a usual code.

    A usual code occurs twice or more and is the only negative number, or is farther from the others than these are
    from each other; twice as far if it has two digits, such as 77.

    >>> missing_codes(pd.Series([65, 66, 70, 77, 77])), missing_codes(pd.Series([0, 1, 4, 99, 99]))
    ([], [99.0])
    >>> missing_codes(pd.Series([-999, -999, 31, 45, 62.5, 77])), missing_codes(pd.Series([-3, -1, -1, 2, 4, 5]))
    ([-999.0], [])
    >>> missing_codes(pd.Series([500, 500, 500, 31, 45, 62.5]), usual_only=False)
    [500.0]
    """
    counts = numbers.dropna().astype(float).value_counts()
    # single digits above 0 are usual values
    codes = [n for n, count in counts.items() if count > 1 and is_code(n) and not 0 < n < 10]
    others = {*counts.index} - {*codes}
    if not usual_only and len(counts) and counts.iloc[0] >= _REPEATED:
        most_frequent = counts.index[0]
        if most_frequent in others - {0} and _is_far(most_frequent, others - {most_frequent}, _RANGES_AWAY):
            codes, others = [*codes, most_frequent], others - {most_frequent}
    return sorted(float(n) for n in codes if _is_far(n, others, _RANGES_AWAY if 0 < n < 100 else 1))


def _is_far(number: float, others: Set[float], ranges: float = 1) -> bool:
    if len(others) < _FEWEST_OTHERS:
        return False
    low, high = min(others), max(others)
    return number < 0 <= low or max(low - number, number - high) > ranges * (high - low)


def far_numbers(numbers: Iterable[float]) -> list[float]:
    """Up to three numbers far beyond all others on their side, such as 3540 among percentages; [] of skewed numbers.

    The gap is twice the range of the others, and of positive numbers also 1.5 times the logarithmic distance between
    the median and the end of the others, which is rare in lognormal samples.

    >>> far_numbers([*range(1, 81), 3540.0]), far_numbers([*range(160, 190), 1.75]), far_numbers([*range(0, 90, 3)])
    ([3540.0], [1.75], [])
    >>> far_numbers([1.4**power for power in range(30)])
    []
    """
    values = sorted(numbers)
    for count in range(1, _MOST_FAR + 1):
        for sign in (1, -1):
            ordered = [sign * value for value in values][::sign]
            others, far = ordered[:-count], ordered[-count:]
            if len(others) < _FEWEST_BESIDE or others[0] == others[-1]:
                continue
            if far[0] - others[-1] > _RANGES_AWAY * (others[-1] - others[0]) and _is_unlike(others, far[0], sign):
                return sorted(sign * value for value in far)
    return []


def _is_unlike(others: Sequence[float], far: float, sign: int) -> bool:
    """Whether a number is beyond the end of others also by their logarithms; arguments are signed and rising."""
    logs = [math.log(sign * value) * sign for value in others if sign * value > 0]
    if len(logs) < _FEWEST_BESIDE or sign * far <= 0:
        return True
    return math.log(sign * far) * sign - logs[-1] > _HALVES_AWAY * (logs[-1] - logs[len(logs) // 2])


def code_doubts(cells: pd.DataFrame, columns: Iterable[str], remedy: Callable[[str], str]) -> list[str]:
    """A sentence for each number that may state no value in these columns of a table, by row.

    Args:
        remedy: what to do, for a setting of `where` that names the column and the cells.
    """
    sentences = []
    for name in columns:
        text = recorded(cells[name])
        if (numbers := numbers_in(text)) is None:
            continue
        codes = missing_codes(numbers, usual_only=False)
        others = numbers[~numbers.isin(codes)]
        for code in codes:
            written = text[numbers == code]
            setting = f"{{{json.dumps(name, ensure_ascii=False)}: {json.dumps(written.unique().tolist())}}}"
            audited = " The audit counts these cells as empty; models read the number." * is_code(code)
            sentences.append(
                f"{name}: {code:g} ({rows_text(written.index, 4)}) may mean no value: the other numbers are "
                f"{others.min():g} to {others.max():g}.{audited} {remedy(setting)}"
            )
    return sentences
