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
# What a column of small numbers lacks, and the share of the rows, or of the paths, that must meet.
_TELLING, _NEARLY_ALL = re.compile(r"[^\W\d_]|\d{3}"), 0.8


def composed_names(cells: Mapping[str, Sequence[str]], paths: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The image of each row ('' if it has none), and the columns whose cells make the paths, in order; else [], ().

    All words of a path, but those with which all paths begin or end, must be cells of one row in this order, and one of
    the columns has letters or long numbers.

    >>> cells = {"entry": ["H24/012", "H24/012", "H24/13"], "block": ["A 1", "B1", "A1"]}
    >>> composed_names(cells, ["H24-012_A1.png", "H24-012_B1.png", "H24-13_A1.png"])
    (['H24-012_A1.png', 'H24-012_B1.png', 'H24-13_A1.png'], ('entry', 'block'))
    """
    names = {path: words(stem_of(path)) for path in paths}
    columns = {name: list(map(words, column)) for name, column in cells.items() if any(column)}
    telling = {
        name for name, column in cells.items() if sum(bool(_TELLING.search(cell)) for cell in column) > len(column) / 2
    }
    count = len(next(iter(columns.values()), []))
    # what is in all names may say nothing
    starts, ends = _in_common(list(names.values())), _in_common([name[::-1] for name in names.values()])
    parts = {
        path: [name[start : len(name) - end] for start in range(starts + 1) for end in range(ends + 1)]
        for path, name in names.items()
    }
    rows_of = {name: _rows(column) for name, column in columns.items()}
    tried = itertools.chain.from_iterable(list(parts.values())[:: max(1, len(parts) // _TRIED)])
    found = dict.fromkeys(itertools.chain.from_iterable(_sequences(part, rows_of, (), None) for part in tried))
    found = dict.fromkeys(sequence for sequence in found if telling.intersection(sequence))
    images: dict[tuple[str, ...], dict[int, str]] = {}
    for sequence in found:
        keys = _rows([tuple(itertools.chain(*row)) for row in zip(*(columns[name] for name in sequence), strict=True)])
        single = {key: min(rows) for key, rows in keys.items() if len(rows) == 1}
        matches = ((next((single[part] for part in own if part in single), None), path) for path, own in parts.items())
        images[sequence] = {row: path for row, path in matches if row is not None}
    best = max(images, key=lambda sequence: (len(images[sequence]), -len(sequence)), default=())
    others = [own for own in images.values() if best and len(own) == len(images[best])]
    if (
        not best
        or len(images[best]) < _NEARLY_ALL * min(count, len(paths))
        or any(own != images[best] for own in others)
    ):
        return [], ()
    return [images[best].get(row, "") for row in range(count)], best


def _in_common(names: Sequence[Words]) -> int:
    """With how many equal words all names begin, and have others besides."""
    fewest = min(map(len, names), default=1) - 1
    return next((at for at in range(fewest) if len({name[at] for name in names}) > 1), max(fewest, 0))


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
