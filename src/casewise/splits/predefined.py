"""Sides that the cohort's table gives: an imported split, or one source held out at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.natural_sort import natural
from casewise.errors import BothSidesError, SplitError, nearest

if TYPE_CHECKING:
    import pandas as pd

TEST = -1
FEW = 3
# `dev` is not among them: the development set is trained on for some and chosen on for others.
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def one_source_a_fold(images: pd.DataFrame, column: str) -> tuple[list[str], dict[str, int]]:
    """Each value of a column is held out once: the values in order, and the fold of each subject.

    Raises:
        SplitError: a subject stands in two of them, one has no value, or there is one value only.
    """
    if column not in images:
        raise SplitError(f"split.leave_out: the cohort has no column {column!r}.{nearest(column, images.columns)}")
    values = images[column].astype(str).str.strip()
    empty = images.loc[values.isin(["", "nan"]), "subject"]
    if len(empty):
        raise SplitError(
            f"split.leave_out: {len(empty)} images have no {column}, the first of subject {empty.iloc[0]!r}. "
            "Fill it in."
        )
    found = values.groupby(images["subject"]).unique()
    several = [subject for subject, names in found.items() if len(names) > 1]
    if several:
        more = f" (and {len(several) - 1} more subjects in several)" if len(several) > 1 else ""
        raise SplitError(
            f"split.leave_out: subject {several[0]!r} stands in {' and '.join(sorted(found[several[0]]))}{more}; held "
            "out with one it would be learned from in the other. Leave such rows out with `where_not`."
        )
    sources = sorted(values.unique(), key=natural)
    if len(sources) < 2:
        raise SplitError(f"split.leave_out: every image has {column} {sources[0]!r}; nothing is left to learn from.")
    return sources, {str(subject): sources.index(names[0]) for subject, names in found.items()}


def side_of(cell: str) -> str:
    """The side that a cell of a split's column names: `train`, `test`, `fold 2`, or '' where it names none.

    Validation is part of what is trained on: folds, and those on whom training stops, are chosen within it.

    >>> [side_of(cell) for cell in ("Test ", "training", "val", "2", "dev")]
    ['test', 'train', 'train', 'fold 2', '']
    """
    word = cell.strip().casefold()
    if re.fullmatch("[1-9][0-9]?", word):
        return f"fold {word}"
    return "train" if WORDS.get(word) == "validation" else WORDS.get(word, "")


def validation_in(cells: pd.Series) -> str:
    """The first cell that says validation, as it is written; '' where none does."""
    return next((text for text in cells.astype(str) if WORDS.get(text.strip().casefold()) == "validation"), "")


def imported(images: pd.DataFrame, column: str) -> dict[str, int]:
    """Read sides from a column: `test`, `train` (with `validation`), or the fold's number from 1.

    Raises:
        BothSidesError: subjects stand on several sides; it names them, and what stands where.
        SplitError: a cell names no side, or the sides do not go together.
    """
    cells = images[column].astype(str)
    table = images[["subject", "path"]].astype(str).assign(side=cells.map(side_of))
    unknown = table.index[table["side"] == ""]
    if len(unknown):
        found, subject = cells[unknown[0]], table["subject"][unknown[0]]
        raise SplitError(
            f"Column {column!r} holds {found!r} for subject {subject!r}; "
            f"allowed are {', '.join(dict.fromkeys(WORDS.values()))}, or the fold's number from 1."
            f"{nearest(found.strip().casefold(), WORDS)}"
        )
    validation = validation_in(cells)
    if validation and "test" not in set(table["side"]):
        raise SplitError(
            f"Column {column!r} holds {validation!r} and no test: some call the test set so. Write test if these "
            "subjects are tested on, train if they are learned from."
        )
    counts = table.groupby("subject")["side"].nunique()
    both = sorted(counts.index[counts > 1], key=natural)
    if both:
        named = ", ".join(f"{name} ({_placed(table[table['subject'] == name])})" for name in both[:FEW])
        more = f" … ({len(both):,} in all)" if len(both) > FEW else ""
        raise BothSidesError(
            f"The imported split in column {column!r} puts {len(both):,} subject{'s' if len(both) > 1 else ''} on "
            f"several sides: {named}{more}. Images of one person on both sides make every figure too good. Give each "
            "subject one side. `casewise audit` lists all of them in audit.json, with like pictures on two sides."
        )
    side = {str(subject): _number(name) for subject, name in table.groupby("subject")["side"].first().items()}
    if "train" in set(table["side"]) and any(name.startswith("fold") for name in table["side"]):
        word = next(text.strip() for text in cells if side_of(text) == "train")
        raise SplitError(
            f"Column {column!r} mixes {word!r} with numbers of folds. Number every fold, or write train and test."
        )
    numbers = sorted({s for s in side.values() if s != TEST})
    if numbers and numbers != list(range(len(numbers))):
        raise SplitError(
            f"Column {column!r} numbers its folds {[n + 1 for n in numbers]}; they must run from 1 without gaps."
        )
    return side


def _number(side: str) -> int:
    """The side as `Splits` has it; who is trained on without a fold stands in the first."""
    return TEST if side == "test" else 0 if side == "train" else int(side.removeprefix("fold ")) - 1


def _placed(rows: pd.DataFrame) -> str:
    """Which images of a subject stand on which side: the first of each by name."""
    told = []
    for side, paths in rows.groupby("side")["path"]:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        told.append(f"{side}: {Path(paths.iloc[0]).name}{more}")
    return "; ".join(told)
