"""Folds of neighbouring file numbers, for images whose subjects are not known.

Files are often numbered in the order in which patients came, so images of one person, of one day or of one severity
have neighbouring numbers. Runs of numbers that stay together keep most of them on one side of the split: all but those
where two runs meet. Files of several series (`001_left`, `001_right`) with the same number are in the same run, but not
where every class is numbered from the start (`benign_001`, `malignant_001`). A file without a number is a series of its
own.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from casewise.cohort.table import natural
from casewise.errors import SplitError, counted, cut
from casewise.splits.assignment import Assignment, ClassNeeds, assign

# Runs of a fold that are tried: the fewest that give every side the classes that it can have.
RUNS = (1, 2, 4, 8, 16, 32, 64)
# A series of file names has at least this many members on average; names of random digits have one each.
LEAST_SERIES = 4
# A number with at least this many values may identify people; one with fewer is a magnification, an eye or a year.
LEAST_VALUES = 8
# A series of at most this many files may show one person and is not cut.
MOST_OF_PERSON = 20
# How far a cut may move from equal lengths to a gap in the numbers, as a fraction of the length.
CUT_SHIFT = 0.25

# Classes are numbered each from the start if one ends before this part of the numbers of another, and this part of its
# numbers occurs in the other. Persons in several classes, as before and after treatment, have the same last numbers.
ENDS_BEFORE, OCCURS = 0.9, 0.1

# What identifies the person of a file: its series, or () where that does not matter, then numbers.
Key = tuple[Any, ...]


def series_of(path: str) -> str:
    """The folder and the name of a file with its numbers left open; '' if the name has no number.

    >>> series_of("a/IDRiD_012.jpg"), series_of("a/left.jpg")
    ('a/IDRiD_#', '')
    """
    stem = Path(path).stem
    return str(Path(path).parent / re.sub("[0-9]+", "#", stem)) if re.search("[0-9]", stem) else ""


def file_series(paths: Sequence[str], *, across_folders: bool = False) -> list[np.ndarray]:
    """The rows of each series of files, in the order of their numbers; a file without a number is a series.

    `across_folders`: folders are one series where no number occurs in two of them.

    >>> [rows.tolist() for rows in file_series(["b/x1.png", "b/x10.png", "b/x2.png", "b/x3.png"])]
    [[0, 2, 3, 1]]
    >>> [rows.tolist() for rows in file_series(["left.png", "x1.png", "x2.png"])]
    [[0], [1, 2]]
    >>> [rows.tolist() for rows in file_series(["a/1.png", "b/2.png", "a/3.png"], across_folders=True)]
    [[0, 1, 2]]
    """
    names = [series_of(path) or path for path in paths]
    if across_folders:
        files = Counter(Path(path).stem for path in paths)
        repeated = {Path(name).name for name, path in zip(names, paths, strict=True) if files[Path(path).stem] > 1}
        names = [name if Path(name).name in repeated else Path(name).name for name in names]
    rows: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        rows[name].append(row)
    by_name = (rows[name] for name in sorted(rows, key=natural))
    return [np.array(sorted(of_name, key=lambda row: natural(Path(paths[row]).stem))) for of_name in by_name]


def are_numbered(paths: Sequence[str]) -> bool:
    """Whether most files are numbered: series of names have `LEAST_SERIES` files on average.

    >>> are_numbered(["3f7a.png", "a01.png", "9cc2.png", "b.png"])
    False
    >>> are_numbered(["left.png", *(f"x{n}.png" for n in range(7))])
    True
    """
    return len(paths) >= LEAST_SERIES * len(file_series(paths))


def check_numbers(paths: Sequence[str]) -> None:
    """Check that files are numbered.

    Raises:
        SplitError: most names have no numbers, or numbers without an order.
    """
    if are_numbered(paths):
        return
    series = len(file_series(paths))
    raise SplitError(
        f"split.by: 'number' needs series of {LEAST_SERIES} numbered files on average; {counted(len(paths), 'name')}, "
        f"such as {cut(Path(paths[0]).name)}, form {series:,} series. Leave it out, or number the files in their order."
    )


def assign_runs(
    paths: Sequence[str], records: np.ndarray, shares: Sequence[float], needs: ClassNeeds, *, restarts: int, seed: int
) -> tuple[np.ndarray, Assignment]:
    """Assign runs of neighbouring file numbers to sides: (subjects,) the side of each, and how it was chosen.

    As few runs as possible: more are tried only if a side would lack a class that it could have. The record is as
    from `assign`, with the number of `runs`.

    Args:
        paths: the file of each subject.
        records, shares, needs: as of `casewise.splits.assignment.assign`, by subject.
    """
    best: tuple[np.ndarray, Assignment] | None = None
    for factor in RUNS:
        run, keys = file_runs(paths, needs.holders, round(1 / min(shares)), factor)
        count = int(run.max()) + 1
        if count < len(shares) or (best and count > keys // 2):
            continue
        members = run == np.arange(count)[:, None]
        holders = members.astype(int) @ needs.holders.astype(int) > 0
        needs_of_runs = ClassNeeds(holders, np.minimum(needs.least, 1), needs.spread)
        side, how = assign(members @ records, shares, needs_of_runs, restarts=restarts, seed=seed)
        if best is None or how["shortfall"] < best[1]["shortfall"]:
            best = side[run], how | {"runs": count, "longest_run": int(members.sum(axis=1).max())}
        if not best[1]["shortfall"]:
            break
    if best is None:
        raise SplitError(f"{keys:,} file numbers are too few for {len(shares)} sides of neighbouring numbers.")
    return best


def file_runs(paths: Sequence[str], holders: np.ndarray, sides: int, factor: int = 1) -> tuple[np.ndarray, int]:
    """(files,) the run of each file, and the number of files or persons that are never divided.

    Every line of numbers is cut into `factor` runs for each of `sides` sides of equal size. A run has at most one and a
    half times the files of an equal share, and the files of one number or person.

    Args:
        holders: (files, classes) whether a file has the class.
    """
    keys = _keys(paths, holders, sides)
    names, identity = sorted(set(keys)), _ranks(keys)
    classes = np.zeros((len(names), holders.shape[1]), bool)
    np.logical_or.at(classes, identity, holders.astype(bool))
    return _runs(_lines(paths, identity), names, classes, sides * factor), len(names)


def _identities(paths: Sequence[str], holders: np.ndarray) -> list[list[Key]]:
    """Candidates for the identity of each file's person, the likeliest first: keys, equal for files of one person.

    Folders and names that are more than the numbers in each of them; then the first number in folder and name with
    enough values, several of them in a class (a class may have a number for a name); or without one the number with
    most values.

    Args:
        holders: (files, classes) whether a file has the class.

    >>> names = ["Normal_100x_7.png", "Normal_100x_12.png", "Normal_400x_7.png", "Normal_400x_8.png"]
    >>> _identities(names, np.ones((4, 1)))[0]
    [((), 7), ((), 12), ((), 7), ((), 8)]
    """
    numbers, series = [_numbers(path) for path in paths], [(natural(_shape(path)),) for path in paths]
    position: dict[int, int] = {}
    for length in {len(row) for row in numbers} - {0}:
        rows = [row for row, values in enumerate(numbers) if len(values) == length]
        columns = [_ranks(values) for values in zip(*(numbers[row] for row in rows), strict=True)]
        counts = [int(column.max()) + 1 for column in columns]
        several = [_values_of_classes(column, holders[rows]) >= 2 for column in columns]
        enough = (index for index, count in enumerate(counts) if count >= LEAST_VALUES and several[index])
        position[length] = next(enough, counts.index(max(counts)))
    pairs = zip(numbers, series, strict=True)
    of_numbers: list[Key] = [((), row[position[len(row)]]) if row else name for row, name in pairs]
    of_class = _classes_numbered_apart(of_numbers, series, holders)
    of_numbers = [key if key[0] else (of_class[row], *key[1:]) for row, key in enumerate(of_numbers)]
    # more series than numbers in each of them
    people = len(set(series)) ** 2 > len(set(zip(series, of_numbers, strict=True)))
    return [list(series), of_numbers] if people else [of_numbers]


def _classes_numbered_apart(keys: Sequence[Key], series: Sequence[Key], holders: np.ndarray) -> list[Key]:
    """(files,) the class of each file where every class has series of its own, numbered from the start; else ().

    >>> names = [f"{name}_{n}" for name, count in [("benign", 60), ("normal", 20)] for n in range(count)]
    >>> holders = np.array([["benign" in name, "normal" in name] for name in names])
    >>> keys = [((), int(name.rpartition("_")[2])) for name in names]
    >>> set(_classes_numbered_apart(keys, [(_shape(name),) for name in names], holders))
    {(0,), (1,)}
    >>> holders = np.array([[n % 3 == 0, n % 3 > 0] for n in range(80)])
    >>> set(_classes_numbered_apart(keys, [(_shape(name),) for name in names], holders))
    {()}
    """
    nothing: list[Key] = [()] * len(keys)
    classes_of: dict[Key, set[int]] = defaultdict(set)
    for name, row in zip(series, holders.astype(bool), strict=True):
        classes_of[name].update(np.flatnonzero(row).tolist())
    if any(len(classes) != 1 for classes in classes_of.values()):
        return nothing
    numbers: dict[int, set[int]] = defaultdict(set)
    for key, name in zip(keys, series, strict=True):
        if not key[0]:
            numbers[min(classes_of[name])].add(key[1])
    by_end = sorted(numbers.values(), key=max)
    pairs = list(itertools.pairwise(by_end))
    occurring = all(len(first & second) >= OCCURS * min(len(first), len(second)) for first, second in pairs)
    restarted = occurring and any(max(first) < ENDS_BEFORE * max(second) for first, second in pairs)
    return [(min(classes_of[name]),) for name in series] if restarted else nothing


def _stem(path: str) -> str:
    return str(Path(path).with_suffix(""))


def _shape(path: str) -> str:
    """A path with the numbers of folders and name left open."""
    return re.sub("[0-9]+", "#", _stem(path))


def _ranks(values: Sequence[Any]) -> np.ndarray:
    rank = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([rank[value] for value in values])


def _numbers(path: str) -> list[int]:
    return [int(digits) for digits in re.findall("[0-9]+", _stem(path))]


def _keys(paths: Sequence[str], holders: np.ndarray, sides: int) -> list[Key]:
    """The identity of each file's person; files of a series too long for one person are identified by their numbers.

    What identifies people has several values for each class; folders of classes have one. A series is too long if it
    has more files, or more of a class, than a side should have, and more than `MOST_OF_PERSON`.
    """
    rankings = _identities(paths, holders)
    keys = next((keys for keys in rankings if _values_of_classes(_ranks(keys), holders) >= 2), rankings[-1])
    rows_of: dict[Key, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of[key].append(row)
    counts = np.column_stack([holders, np.ones(len(paths))])
    share = counts.sum(axis=0) / sides
    for (series, *number), rows in rows_of.items():
        if not number and len(rows) > MOST_OF_PERSON and (counts[rows].sum(axis=0) > share).any():
            for row in rows:
                keys[row] = (series, *_numbers(paths[row]))
    return keys


def _lines(paths: Sequence[str], identity: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The files of each line of numbers, and their identity: series whose numbers overlap are one line."""
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
    counts = [len(np.unique(identity[of_class])) for of_class in holders.T.astype(bool) if of_class.any()]
    return float(np.mean(counts)) if counts else np.inf


def _runs(
    lines: Sequence[tuple[np.ndarray, np.ndarray]], keys: Sequence[Key], classes: np.ndarray, pieces: int
) -> np.ndarray:
    """(files,) the run of each: every long line is cut into `pieces`, the short ones together; never within a key.

    Series that may be persons are not joined. `classes` (keys, classes) whether the files of a key have the class.
    """
    long: list[tuple[np.ndarray, np.ndarray]] = []
    short: list[tuple[np.ndarray, np.ndarray]] = []
    for rows, values in lines:
        (long if keys[values[0]][0] or len(np.unique(values)) >= 2 * pieces else short).append((rows, values))
    if short:
        long.append((np.concatenate([rows for rows, _ in short]), np.concatenate([values for _, values in short])))
    run, number = np.zeros(sum(len(rows) for rows, _ in lines), int), 0
    for rows, values in long:
        present, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
        gaps = np.array([_gap(keys[a], keys[b]) for a, b in itertools.pairwise(present)], float)
        changes = (classes[present[1:]] != classes[present[:-1]]).any(axis=1)
        run[rows] = number + _pieces(count, gaps, changes, pieces)[inverse]
        number = int(run.max()) + 1
    return run


def _gap(first: Key, second: Key) -> float:
    """The difference between two numbers of a series; infinite between two series.

    >>> _gap(("a", 3, 8), ("a", 5, 1)), _gap(("a",), ("b",))
    (2, inf)
    """
    if first[0] != second[0]:
        return np.inf
    return next(b - a for a, b in zip(first[1:], second[1:], strict=True) if a != b)


def _pieces(count: np.ndarray, gaps: np.ndarray, changes: np.ndarray, pieces: int) -> np.ndarray:
    """(keys,) the piece of each key of a line that is cut into pieces of about the same number of files.

    Each cut moves by up to `CUT_SHIFT` of the length of a piece to the widest gap there; of equal gaps to one where the
    classes change, then to the nearest.

    Args:
        count: (keys,) the files of each key.
        gaps: (keys - 1,) the difference to the next number.
        changes: (keys - 1,) whether the next key has other classes.

    >>> _pieces(np.ones(8), np.array([1, 1, 1, 1, 4, 1, 1]), np.zeros(7, bool), 2).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1]
    """
    length, ends = count.sum() / pieces, count.cumsum()[:-1]
    first = np.zeros(len(count), int)
    for end in length * np.arange(1, pieces) if len(ends) else ():
        distance = np.abs(ends - end)
        near = np.flatnonzero(distance <= max(CUT_SHIFT * length, distance.min()))
        first[near[np.lexsort((distance[near], ~changes[near], -gaps[near]))[0]] + 1] = 1
    return first.cumsum()
