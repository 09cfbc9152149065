"""Images whose names are put together from cells of several columns, such as `H24-01223_A1_HE.png`."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set

from casewise.cohort.clinical_words import Words
from casewise.cohort.folder_layout import stem_of
from casewise.plugins.init.key_names import words

# Columns that make a name, words of one cell, and paths in which the columns are sought.
_FEWEST_COLUMNS, _MOST_COLUMNS, _MOST_WORDS, _TRIED = 2, 4, 6, 20
# The share of the rows, or of the paths, that must meet.
_NEARLY_ALL = 0.8
# Cells of codes: with a letter or many digits. Small numbers may be scores, and words have no sign.
_CODE, _SIGNED = re.compile(r"[^\W\d_]|\d{5}"), re.compile(r"\s*[-−]\s*\d")


def composed_names(
    cells: Mapping[str, Sequence[str]], paths: Sequence[str], numbers: Set[str] = frozenset()
) -> tuple[list[str], tuple[str, ...]]:
    """The image of each row ('' if it has none), and the columns whose cells make the paths, in order; else [], ().

    All words of a path must be cells of one row in this order, and no other path may be of the same row.

    Args:
        numbers: columns that may have small numbers, such as visits; others have codes, with letters or many digits.

    >>> cells = {"entry": ["H24/012", "H24/012", "H24/13"], "block": ["A 1", "B1", "A1"]}
    >>> composed_names(cells, ["H24-012_A1.png", "H24-012_B1.png", "H24-13_A1.png"])
    (['H24-012_A1.png', 'H24-012_B1.png', 'H24-13_A1.png'], ('entry', 'block'))
    """
    names = {path: words(stem_of(path)) for path in paths}
    columns = {
        name: list(map(words, column)) for name, column in cells.items()
        if (name in numbers or _are_codes(column)) and not any(map(_SIGNED.match, column))
    }  # fmt: skip
    count, rows_of = len(next(iter(cells.values()), ())), {name: _rows(column) for name, column in columns.items()}
    tried = list(names.values())[:: max(1, len(names) // _TRIED)]
    sequences = dict.fromkeys(itertools.chain.from_iterable(_sequences(name, rows_of, (), None) for name in tried))
    images: dict[tuple[str, ...], dict[int, str]] = {}
    for sequence in sequences:
        keys = _rows([tuple(itertools.chain(*row)) for row in zip(*(columns[name] for name in sequence), strict=True)])
        matches = [(rows, path) for path, name in names.items() if len(rows := keys.get(name, set())) == 1]
        images[sequence] = {min(rows): path for rows, path in matches}
        if len(images[sequence]) < len(matches):
            return [], ()
    best = max(images, key=lambda sequence: (len(images[sequence]), -len(sequence)), default=())
    others = [own for own in images.values() if best and len(own) == len(images[best])]
    enough = best and len(images[best]) >= _NEARLY_ALL * min(count, len(paths))
    if not enough or any(own != images[best] for own in others):
        return [], ()
    return [images[best].get(row, "") for row in range(count)], best


def _are_codes(column: Sequence[str]) -> bool:
    return any(column) and all(_CODE.search(cell) for cell in column if cell)


def _rows(column: Sequence[Words]) -> dict[Words, set[int]]:
    """The rows of each filled cell."""
    rows: dict[Words, set[int]] = defaultdict(set)
    for row, cell in enumerate(column):
        rows[cell].add(row)
    rows.pop((), None)
    return rows


def _sequences(
    name: Words, rows_of: Mapping[str, Mapping[Words, Set[int]]], used: tuple[str, ...], rows: Set[int] | None
) -> Iterator[tuple[str, ...]]:
    """The columns, in order, whose cells in one row are all words of a name."""
    if not name and len(used) >= _FEWEST_COLUMNS:
        yield used
    for column, of_cells in rows_of.items() if len(used) < _MOST_COLUMNS else ():
        for length in range(1, min(_MOST_WORDS, len(name)) + 1) if column not in used else ():
            both = of_cells.get(name[:length], set())
            if both := both if rows is None else both & rows:
                yield from _sequences(name[length:], rows_of, (*used, column), both)
