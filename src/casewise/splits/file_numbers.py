"""Folds of neighbouring file numbers, for images whose subjects are not known.

Files are often numbered in the order in which patients came, so images of one person, of one day or of one severity
have neighbouring numbers. Runs of numbers that stay together keep most of them on one side of the split.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casewise.cohort.natural_sort import natural
from casewise.errors import SplitError, cut
from casewise.splits.assignment import ClassNeeds, assign

# Runs of a fold and series of files that are tried: the fewest that give every side the classes that it can have.
RUNS = (1, 2, 4, 8)
# A series of file names has at least so many members on average; names of random digits have one each.
LEAST_SERIES = 4


def series_of(path: str) -> str:
    """The folder and the name of a file with its numbers left open; '' if the name has no number.

    >>> series_of("a/IDRiD_012.jpg"), series_of("a/left.jpg")
    ('a/IDRiD_#', '')
    """
    stem = Path(path).stem
    return str(Path(path).parent / re.sub("[0-9]+", "#", stem)) if re.search("[0-9]", stem) else ""


def file_series(paths: Sequence[str]) -> list[np.ndarray]:
    """The rows of each series of numbered files, in the order of their numbers; [] if the files are not numbered.

    >>> [rows.tolist() for rows in file_series(["b/x1.png", "b/x10.png", "b/x2.png", "b/x3.png"])]
    [[0, 2, 3, 1]]
    >>> file_series(["3f7a.png", "a01.png", "9cc2.png", "b.png"])
    []
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(paths):
        rows[series_of(path)].append(row)
    if "" in rows or len(paths) < LEAST_SERIES * len(rows):
        return []
    names = sorted(rows, key=natural)
    return [np.array(sorted(rows[name], key=lambda row: natural(Path(paths[row]).stem))) for name in names]


def check_numbers(paths: Sequence[str]) -> None:
    """Check that files are numbered.

    Raises:
        SplitError: names have no numbers, or numbers without an order.
    """
    if file_series(paths):
        return
    unnumbered = next((path for path in paths if not series_of(path)), None)
    what = f"{cut(Path(unnumbered).name)} has no number" if unnumbered else "the numbers belong to no common series"
    raise SplitError(
        f"split.by: 'number' keeps neighbouring file numbers together, and {what}. Leave out `by: number`, or name the "
        "files in the order in which the images were taken."
    )


def assign_runs(
    paths: Sequence[str],
    records: np.ndarray,
    shares: Sequence[float],
    needs: ClassNeeds,
    *,
    restarts: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Assign runs of neighbouring file numbers to sides: (subjects,) the side of each, and how it was chosen.

    As few runs as possible: more of them are tried only if a side would lack a class that it could have. The record is
    that of `assign`, and the number of `runs`.

    Args:
        paths: the file of each subject.
        records, shares, needs: as of `casewise.splits.assignment.assign`, by subject.
    """
    best: tuple[np.ndarray, dict[str, Any]] | None = None
    for factor in RUNS:
        run = _runs(paths, round(1 / min(shares)) * factor)
        count = int(run.max()) + 1
        if count < len(shares) or (best and count > len(paths) // 2):
            continue
        members = run == np.arange(count)[:, None]
        holders = members.astype(int) @ needs.holders.astype(int) > 0
        needs_of_runs = ClassNeeds(holders, np.minimum(needs.least, 1), needs.spread)
        side, how = assign(members @ records, shares, needs_of_runs, restarts=restarts, seed=seed)
        if best is None or how["shortfall"] < best[1]["shortfall"]:
            best = side[run], how | {"runs": count}
        if not best[1]["shortfall"]:
            break
    if best is None:
        raise SplitError(f"{len(paths):,} files are too few for {len(shares)} sides of neighbouring numbers.")
    return best


def _runs(paths: Sequence[str], pieces: int) -> np.ndarray:
    """(files,) the run of each: every long series is cut into `pieces`, the short ones together."""
    # too few files of each series may be left beside the test set
    series = file_series(paths) or [np.array(sorted(range(len(paths)), key=lambda row: natural(paths[row])))]
    long = [rows for rows in series if len(rows) >= 2 * pieces]
    short = [rows for rows in series if len(rows) < 2 * pieces]
    run, number = np.zeros(len(paths), int), 0
    for rows in [*long, *([np.concatenate(short)] if short else [])]:
        for piece in np.array_split(rows, min(pieces, len(rows))):
            run[piece], number = number, number + 1
    return run
