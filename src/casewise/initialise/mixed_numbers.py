"""Columns of numbers with a few cells that are none, or that may be read in two ways: both are refused, not guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from casewise.cohort.table import rows_text
from casewise.errors import CasewiseError, counted, cut
from casewise.initialise.columns import MOSTLY, Column, decimal

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
    texts = [count for text, count in column.counts.items() if decimal(text) is None]
    return len(set(numbers)) >= (FEW if max(texts) == 1 else FEWEST)


def not_chosen(names: Sequence[str], cells: Mapping[str, Sequence[str]], rows: Sequence[int]) -> list[str]:
    """A doubt for each column of numbers that another target came before, although a few cells are no numbers."""
    doubts = []
    for name in names:
        column = Column(name, [cell.strip() for cell in cells[name]])
        if mostly_numbers(column):
            bad = [row for row, cell in _bad_cells(column, rows)]
            doubts.append(
                f"Target: {name!r} was not chosen, because another column has a likelier name; the cells of its "
                f"{rows_text(bad)} are no numbers."
            )
    return doubts


def _bad_cells(column: Column, rows: Sequence[int]) -> list[tuple[int, str]]:
    values = set(column.values)
    return [
        (row, cell) for row, cell in zip(rows, column.cells, strict=True) if cell in values and decimal(cell) is None
    ]


def check_numbers(name: str, cells: Sequence[str], rows: Sequence[int]) -> None:
    """Refuse a target of numbers in which some cells are no numbers, or some have decimal commas and others points.

    Raises:
        CasewiseError: with the rows and the cells.
    """
    column = Column(name, [cell.strip() for cell in cells])
    if mostly_numbers(column):
        bad = _bad_cells(column, rows)
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
