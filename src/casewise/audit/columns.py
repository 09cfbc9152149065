"""Columns of the table with other than the usual names: those of few values, copies of a label, and unused splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from casewise.audit.metadata import MOST_LEVELS, RARE, columns_in_use, levels
from casewise.splits.predefined import WORDS

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study

__all__ = ["MOST_COLUMNS", "further_columns", "possible_folds", "restates", "sides_in"]

# Each tested column takes time, and lowers the power of all tests; those with the fewest values are tested first.
MOST_COLUMNS = 30
# A value occurs with one class in this share of images, if the column is a copy of the label.
PURE, NAMED = 0.99, 0.5
# Columns that casewise itself adds to a table, by their beginnings.
INTERNAL = ("tile_", "slide_", "sequence")
STANDARD = ("image", "path", "subject", "visit", "case", "day", "region", "panel")
# Numbers are folds if the column is called so, or if they are of similar size and keep most subjects together.
FOLD_NAMES = re.compile(r"fold|split|partition|subset|(^|_)(cv|set)(_|$)", re.IGNORECASE)
FEWEST_FOLDS, MOST_FOLDS, SIMILAR, TOGETHER = 3, 10, 1.5, 0.5


def further_columns(study: Study, images: pd.DataFrame, audited: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns of few values besides those `audited`, and those beyond `MOST_COLUMNS`, which are not tested.

    Left out are targets, annotations of readers, columns that the study uses, and splits.
    """
    used = {*columns_in_use(study), *study.targets, *STANDARD, *audited}
    subjects = images["subject"].astype(str).to_numpy()
    counts: dict[str, int] = {}
    for name in map(str, images.columns):
        plain = name.removeprefix("table_")
        if name in used or plain in used or plain.startswith(INTERNAL):
            continue
        cells = np.array(levels(images[name].astype(str).tolist()))
        values = np.unique(cells)
        if not 2 <= len(values) <= MOST_LEVELS:
            continue
        frequent = sum(len(np.unique(subjects[cells == value])) >= RARE for value in values)
        if frequent >= 2 and not sides_in(name, cells.tolist()):
            counts[name] = len(values)
    ordered = sorted(counts, key=lambda name: (counts[name], name))
    return ordered[:MOST_COLUMNS], ordered[MOST_COLUMNS:]


def restates(name: str, text: Sequence[str], labels: NDArray[np.floating[Any]], classes: Sequence[str]) -> bool:
    """Whether a column is the label in other words: its values, or its name, name the classes with which they occur.

    >>> labels = np.array([0.0, 0.0, 1.0, 1.0])
    >>> restates("finding", ["COVID-19", "COVID-19 (PCR)", "No Finding", "none seen"], labels, ["covid", "no_finding"])
    True
    >>> restates("ward", ["A", "A", "B", "B"], labels, ["covid", "no_finding"])
    False
    """
    labelled = ~np.isnan(labels)
    cells, numbers = np.array(levels(text))[labelled], labels[labelled].astype(int)
    filled = cells != ""
    if not classes or filled.mean() < PURE or len(np.unique(numbers)) < 2:
        return False
    words = [_plain(label) for label in classes]
    values = np.unique(cells)
    if len(values) == 2 and any(len(word) >= 3 and word in _plain(name) for word in words):
        named = next(number for number, word in enumerate(words) if len(word) >= 3 and word in _plain(name))
        return bool(max(np.mean((cells == value) == (numbers == named)) for value in values) >= PURE)
    pure = sum(np.bincount(numbers[cells == value]).max() for value in values) / len(cells)
    naming = {value: {n for n, word in enumerate(words) if _names(_plain(value), word)} for value in values}
    agree = np.array([number in naming[cell] for cell, number in zip(cells, numbers, strict=True)])
    return bool(pure >= PURE and agree.mean() >= NAMED)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(text).casefold())


def _names(value: str, word: str) -> bool:
    return value == word or (min(len(value), len(word)) >= 3 and (value in word or word in value))


def sides_in(name: str, text: Sequence[str]) -> list[str]:
    """The sides of a column that is a split by its values, whatever its name, or by its name; empty if it is not.

    >>> sides_in("remark", ["Train", "val", "test", ""])
    ['train', 'validation', 'test', '']
    >>> sides_in("k", ["fold 1", "fold_2"]), sides_in("cv_fold", ["0", "1", "2"]), sides_in("grade", ["0", "1", "2"])
    (['fold 1', 'fold 2'], ['fold 0', 'fold 1', 'fold 2'], [])
    """
    cells = levels(text)
    sides = [_side(cell) for cell in cells]
    filled = [side for cell, side in zip(cells, sides, strict=True) if cell]
    if len(set(filled)) >= 2 and all(filled):
        return sides
    return _folds(cells) if FOLD_NAMES.search(name.removeprefix("table_")) else []


def possible_folds(text: Sequence[str], subjects: Sequence[object]) -> list[str]:
    """The folds of a column of consecutive numbers, of similar size and with most subjects in one; empty otherwise.

    >>> possible_folds([str(n // 2 % 3) for n in range(30)], [n // 2 for n in range(30)])[:4]
    ['fold 0', 'fold 0', 'fold 1', 'fold 1']
    """
    cells = levels(text)
    folds = _folds(cells)
    counts = [folds.count(fold) for fold in set(folds) - {""}]
    by_subject: dict[object, list[str]] = {}
    for subject, fold in zip(subjects, folds, strict=False):
        by_subject.setdefault(subject, []).append(fold)
    several = [values for values in by_subject.values() if len(values) > 1]
    together = sum(len(set(values)) == 1 for values in several)
    enough = len(several) >= RARE and together > TOGETHER * len(several)
    return folds if folds and enough and max(counts) <= SIMILAR * min(counts) else []


def _folds(cells: Sequence[str]) -> list[str]:
    matches = [re.fullmatch(r"(\d{1,2})(\.0)?", cell) for cell in cells]
    if not all(match or not cell for match, cell in zip(matches, cells, strict=True)):
        return []
    numbers = [int(match[1]) if match else -1 for match in matches]
    present = sorted({*numbers} - {-1})
    if not FEWEST_FOLDS <= len(present) <= MOST_FOLDS or present[0] > 1 or present[-1] - present[0] >= len(present):
        return []
    return [f"fold {number}" if number >= 0 else "" for number in numbers]


def _side(cell: str) -> str:
    match = re.fullmatch(r"fold[ _-]?(\d{1,2})", cell)
    words = re.findall(r"[a-z]+", cell)
    if match:
        return f"fold {int(match[1])}"
    return next((WORDS[word] for word in words if word in WORDS), "") if len(words) <= 2 else ""
