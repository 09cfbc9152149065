"""Columns of numbers with a few cells that are none, or that may be read in two ways: both are refused, not guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from casewise.errors import CasewiseError, counted, cut
from casewise.initialise.columns import Column, decimal

# A column is one of numbers if this share of its values are numbers, with this many different ones.
MOSTLY, FEWEST = 0.8, 8
_SHOWN = 5
_COMMA = re.compile(r"[+-]?\d*,\d+", re.ASCII)
_POINT = re.compile(r"[+-]?\d*\.\d+", re.ASCII)


def mostly_numbers(column: Column) -> bool:
    """Whether a column has numbers and a few other texts.

    >>> mostly_numbers(Column("score", [*map(str, range(9)), ">8"])), mostly_numbers(Column("score", ["1", "2"] * 9))
    (True, False)
    """
    numbers = [value for text in column.values if (value := decimal(text)) is not None]
    return MOSTLY * len(column.values) <= len(numbers) < len(column.values) and len(set(numbers)) >= FEWEST


def check_numbers(name: str, cells: Sequence[str], rows: Sequence[int]) -> None:
    """Refuse a target of numbers in which some cells are no numbers, or some have decimal commas and others points.

    Raises:
        CasewiseError: with the rows and the cells.
    """
    column = Column(name, [cell.strip() for cell in cells])
    if mostly_numbers(column):
        values = set(column.values)
        bad = [
            (row, cell)
            for row, cell in zip(rows, column.cells, strict=True)
            if cell in values and decimal(cell) is None
        ]
        count = len(column.values)
        listed = "; ".join(f"row {row}: {cut(cell)}" for row, cell in bad[:_SHOWN])
        more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
        raise CasewiseError(
            f"{count - len(bad):,} of {count:,} cells of {name} are numbers; not so {listed}"
            f"{more}. Write a number into such a cell, or empty it if there is no value (then the row is "
            "not scored). To predict another column, state it with --target."
        )
    commas = [(row, cell) for row, cell in zip(rows, column.cells, strict=True) if _COMMA.fullmatch(cell)]
    points = [(row, cell) for row, cell in zip(rows, column.cells, strict=True) if _POINT.fullmatch(cell)]
    if column.numbers is not None and commas and points:
        raise CasewiseError(
            f"{name} has decimal commas and points: row {commas[0][0]}: {cut(commas[0][1])}, row {points[0][0]}: "
            f"{cut(points[0][1])} ({counted(len(commas), 'cell')} with a comma, {len(points):,} with a point). The "
            "point may separate thousands, so neither is read. Write all numbers of the column in one way, without "
            "separators of thousands."
        )
