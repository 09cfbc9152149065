"""Readers of sections as blocks, for the tests of single sections."""

from collections.abc import Iterable
from typing import TypeVar

from casewise.report.blocks import Block, Cell, Facts, Fold, Section, Table

B = TypeVar("B")


def flat(blocks: Iterable[Block]) -> list[Block]:
    """The blocks, also those within folds."""
    return [inner for block in blocks for inner in (flat(block.blocks) if isinstance(block, Fold) else [block])]


def blocks_of(section: Section | None, form: type[B]) -> list[B]:
    """The blocks of one form, also those within folds."""
    return [block for block in flat(section.blocks) if isinstance(block, form)]


def facts_of(section: Section | None) -> dict[str, str]:
    """The facts of a section by their name."""
    return dict(fact for block in blocks_of(section, Facts) for fact in block.facts)


def fold_of(section: Section | None, summary: str) -> Fold:
    """The fold whose summary begins with this."""
    return next(each for each in section.blocks if isinstance(each, Fold) and each.summary.startswith(summary))


def first_table(blocks: Iterable[object]) -> Table:
    """The first table among blocks."""
    return next(block for block in blocks if isinstance(block, Table))


def cells_of(table: Table | None, row: str) -> dict[str, Cell]:
    """The cells of a row by the heading of their column."""
    line = next(each for each in table.rows if each.name == row)
    return dict(zip(table.columns[1:], line.cells, strict=True))


def texts_of(table: Table | None) -> dict[str, list[str]]:
    """The texts of each row by its name."""
    return {row.name: [cell.text for cell in row.cells] for row in table.rows}
