"""The cells of a target of numbers that are unlike the others: texts, other notations, and numbers far from them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from casewise.cohort.missing_codes import far_numbers, is_code, missing_codes
from casewise.cohort.table import rows_text
from casewise.errors import CasewiseError, counted, cut
from casewise.plugins.init.columns import MOSTLY, Column, decimal

# Among up to this many different whole numbers, up to this many of a single row may be errors.
_FEW, _MOST_SINGLE = 12, 2
# A column of numbers has this many different ones, or a few and no other text twice, which could be a class.
FEWEST, FEW = 8, 3
_SHOWN = 5
_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_POINT = re.compile(r"[+-]?\d*\.\d+", re.ASCII)


def mostly_numbers(column: Column) -> bool:
    """Whether a column has numbers and a few other texts.

    >>> mostly_numbers(Column("score", [*map(str, range(9)), ">8"])), mostly_numbers(Column("score", ["1", "2"] * 9))
    (True, False)

    >>> mostly_numbers(Column("grade", [*"01201201", "x1"])), mostly_numbers(Column("stage", [*"12" * 9, "3a", "3a"]))
    (True, False)
    """
    numbers = [value for text in column.values if (value := decimal(text)) is not None]
    if not MOSTLY * len(column.values) <= len(numbers) < len(column.values):
        return False
    most_frequent = max(count for text, count in column.counts.items() if decimal(text) is None)
    return len(set(numbers)) >= (FEW if most_frequent == 1 else FEWEST)


def check_numbers(name: str, cells: Sequence[str], rows: Sequence[int]) -> None:
    """Refuse a target of numbers in which some cells are not numbers, or some have decimal commas and others points.

    Raises:
        CasewiseError: with the rows and the cells.
    """
    column = Column(name, cells)
    if mostly_numbers(column):
        good = sum(decimal(value) is not None for value in column.values)
        raise CasewiseError(
            f"{good:,} of {len(column.values):,} cells of {name} are numbers; not so "
            f"{column.listed(rows, lambda cell: decimal(cell) is not None)}. Write a number into such a cell, or empty "
            "it if there is no value (then the row is not scored). To predict another column, state it with --target."
        )
    signs = [(row, cell) for row, cell in zip(rows, cells, strict=True) if cell in column.counts and cell.endswith("%")]
    others = [(row, cell) for row, cell in zip(rows, cells, strict=True) if cell in column.counts and cell[-1] != "%"]
    if column.are_percentages and others:
        few, many = sorted((signs, others), key=len)
        has, have = ("has a", "have none") if few is signs else ("has no", "have one")
        has = has if len(few) == 1 else has.replace("has", "have")
        raise CasewiseError(
            f"{name}: {counted(len(few), 'cell')} {has} percent sign, and the other {len(many):,} {have}: "
            f"{_in_rows(few)}. 45 % may be 45 or 0.45: write all numbers of the column in one way."
        )
    commas = [(row, cell) for row, cell in zip(rows, cells, strict=True) if _COMMA.fullmatch(cell)]
    points = [(row, cell) for row, cell in zip(rows, cells, strict=True) if _POINT.fullmatch(cell)]
    if column.numbers is not None and commas and points:
        few, many = sorted((commas, points), key=len)
        raise CasewiseError(
            f"{name} has decimal commas and points: {_in_rows(few)}, and {_in_rows(many[:1])} "
            f"({counted(len(commas), 'cell')} with a comma, {len(points):,} with a point). The point may separate "
            "thousands, so neither is read. Write all numbers of the column in one way, without "
            "separators of thousands."
        )


def _in_rows(cells: Sequence[tuple[int, str]]) -> str:
    """The first cells with their row numbers."""
    more = f"; and {len(cells) - _SHOWN:,} more" if len(cells) > _SHOWN else ""
    return "; ".join(f"row {row}: {cut(cell)}" for row, cell in cells[:_SHOWN]) + more


def doubtful_codes(name: str, cells: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Doubts on numbers that are far from all others or the only negative ones.

    They are codes such as 99 and -1, numbers of a single row beside a few repeated whole ones, and `far_numbers`.

    >>> doubtful_codes("grade", [*"0123", "99"], range(1, 6))[0].partition(" may ")[0]
    'grade: 99 in row 5'
    >>> doubtful_codes("score", [*"0123456789"], range(10)), doubtful_codes("change", ["-9", "-3", "2"], range(3))
    ([], [])
    """
    numbers = {row: value for row, cell in zip(rows, cells, strict=True) if (value := decimal(cell)) is not None}
    counts = Counter(numbers.values())
    single = {value for value, count in counts.items() if count == 1}
    few = len(single) <= _MOST_SINGLE and len(counts) <= _FEW and all(value == int(value) for value in counts)
    repeated = set(missing_codes(pd.Series(numbers, dtype=float), usual_only=False))
    beyond = set(far_numbers(numbers.values()))
    codes = {value for value in counts if is_code(value)} | (single if few else set()) | repeated | beyond
    others = set(counts) - codes
    if len(others) < 2:
        return []
    low, high = min(others), max(others)
    far = {code for code in codes if code in repeated | beyond or code < 0 <= low or code - high > (high - low) / 2}
    return [
        f"{name}: {code:g} in {rows_text(row for row, value in numbers.items() if value == code)} may be an error or "
        f"mean no value, because the others are {low:g} to {high:g}. If so, correct or empty the cell, and repeat "
        "`casewise init`."
        for code in sorted(far)
    ]
