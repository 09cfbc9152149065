"""Folds of neighbouring file numbers, for images whose subjects are not known.

Files are often numbered in the order in which patients came, so images of one person, of one day or of one severity
have neighbouring numbers. Runs of numbers that stay together keep most of them on one side of the split: all but those
where two runs meet. Files of several series (`001_left`, `001_right`) with the same number are in the same run.
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

# Runs of a fold that are tried: the fewest that give every side the classes that it can have.
RUNS = (1, 2, 4, 8, 16, 32, 64)
# A series of file names has at least so many members on average; names of random digits have one each.
LEAST_SERIES = 4
# A number with at least so many values may identify people; one with fewer is a magnification, an eye or a year.
LEAST_VALUES = 8


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
    lines = _lines(paths, needs.holders)
    units = sum(len(np.unique(values)) for _, values in lines)
    best: tuple[np.ndarray, dict[str, Any]] | None = None
    for factor in RUNS:
        run = _runs(lines, len(paths), round(1 / min(shares)) * factor)
        count = int(run.max()) + 1
        if count < len(shares) or (best and count > units // 2):
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
        raise SplitError(f"{units:,} file numbers are too few for {len(shares)} sides of neighbouring numbers.")
    return best


def identities(paths: Sequence[str]) -> list[np.ndarray]:
    """What may identify the person of each file, the likeliest first: ranks (files,), equal for files of one person.

    Folders and names that are more than the numbers in each of them; else the first number in folder and name with
    enough values, then the next such number; without one, the number with most values.

    >>> identities(["Normal_100x_7.png", "Normal_100x_12.png", "Normal_400x_7.png", "Normal_400x_8.png"])[0].tolist()
    [0, 2, 0, 1]
    """
    numbers = [[int(digits) for digits in re.findall("[0-9]+", _stem(path))] for path in paths]
    positions: dict[int, list[int]] = {}
    for length in {len(row) for row in numbers} - {0}:
        counts = [len(set(values)) for values in zip(*(row for row in numbers if len(row) == length), strict=True)]
        enough = [position for position, count in enumerate(counts) if count >= LEAST_VALUES]
        positions[length] = enough or [counts.index(max(counts))]
    rankings = []
    for level in range(max(map(len, positions.values()), default=1)):
        values = [row[positions[len(row)][min(level, len(positions[len(row)]) - 1)]] if row else 0 for row in numbers]
        rankings.append(_ranks(values))
    series = [_shape(path) for path in paths]
    pairs = len(set(zip(series, rankings[0].tolist(), strict=True)))
    if len(set(series)) ** 2 > pairs:  # more series than numbers in each of them
        rankings.insert(0, _ranks([natural(name) for name in series]))
    return rankings


def _stem(path: str) -> str:
    return str(Path(path).with_suffix(""))


def _shape(path: str) -> str:
    """A path with the numbers of folders and name left open."""
    return re.sub("[0-9]+", "#", _stem(path))


def _ranks(values: Sequence[Any]) -> np.ndarray:
    rank = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([rank[value] for value in values])


def _lines(paths: Sequence[str], holders: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The files of each line of numbers, and their identity: series whose numbers overlap are one line.

    What identifies people has several values for each class; folders of classes have one.
    """
    rankings = identities(paths)
    several = [identity for identity in rankings if _values_of_classes(identity, holders) >= 2]
    identity = (several or rankings[-1:])[0]
    of_series: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(paths):
        of_series[_shape(path)].append(row)
    spans = sorted((identity[rows].min(), identity[rows].max(), rows) for rows in of_series.values())
    lines: list[list[int]] = []
    last = -1
    for low, high, rows in spans:
        if lines and low <= last:
            lines[-1] += rows
        else:
            lines.append(list(rows))
        last = max(last, high)
    return [(np.array(rows), identity[rows]) for rows in lines]


def _values_of_classes(identity: np.ndarray, holders: np.ndarray) -> float:
    """How many values of an identity have a class, on average over classes."""
    counts = [len(np.unique(identity[of_class])) for of_class in holders.T if of_class.any()]
    return float(np.mean(counts)) if counts else np.inf


def _runs(lines: Sequence[tuple[np.ndarray, np.ndarray]], files: int, pieces: int) -> np.ndarray:
    """(files,) the run of each: every long line is cut into `pieces`, the short ones together; never within a value."""
    long = [line for line in lines if len(np.unique(line[1])) >= 2 * pieces]
    short = [line for line in lines if len(np.unique(line[1])) < 2 * pieces]
    if short:
        long.append((np.concatenate([rows for rows, _ in short]), np.concatenate([values for _, values in short])))
    run, number = np.zeros(files, int), 0
    for rows, values in long:
        _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
        middle = count.cumsum() - count / 2
        piece = np.unique((middle * pieces / len(rows)).astype(int), return_inverse=True)[1]
        run[rows] = number + piece[inverse]
        number += int(piece.max()) + 1
    return run
