"""Splits that the cohort table defines: a column with the sides, or one source held out at a time."""

from __future__ import annotations

import re

import pandas as pd

from casewise.cohort.table import names_text, natural
from casewise.errors import BothSidesError, SplitError, counted, cut, nearest

TEST = -1
# Training subjects of a hold-out design; its validation set is the only fold.
TRAIN = -2
FEW = 3
# `dev` is not included: some authors train on a development set, others choose on it.
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def one_source_a_fold(images: pd.DataFrame, column: str) -> tuple[list[str], dict[str, int]]:
    """Hold out each value of a column once: the values in order, and the fold of each subject.

    Raises:
        SplitError: a subject has two values, an image has none, or there is only one value.
    """
    if column not in images:
        raise SplitError(f"split.leave_out: the cohort has no column {cut(column)}.{nearest(column, images.columns)}")
    values = images[column].astype(str).str.strip()
    empty = images.loc[values.isin(["", "nan"]), "subject"]
    if len(empty):
        text = f"split.leave_out: {counted(len(empty), 'image has', 'images have')} no {column}, the first of subject "
        raise SplitError(f"{text}{cut(empty.iloc[0])}. Fill it in.")
    by_subject = values.groupby(images["subject"]).unique()
    several = [subject for subject, names in by_subject.items() if len(names) > 1]
    if several:
        more = f" (and {counted(len(several) - 1, 'more subject')} in several)" if len(several) > 1 else ""
        raise SplitError(
            f"split.leave_out: subject {cut(several[0])} is in {' and '.join(sorted(by_subject[several[0]]))}{more}. "
            "Held out with one source, it would be trained on with the other. Leave such rows out with `where_not`."
        )
    sources = sorted(values.unique(), key=natural)
    if len(sources) < 2:
        raise SplitError(f"split.leave_out: every image has {column} {cut(sources[0])}; there is nothing to train on.")
    return sources, {str(subject): sources.index(names[0]) for subject, names in by_subject.items()}


def side_of(cell: str) -> str:
    """The side that a cell of the split column names: `train`, `test`, `fold 2`, or '' if it names none.

    Validation belongs to training, because casewise makes its own folds and its own set for early stopping, unless
    `split: {validation: column}` states otherwise.

    >>> [side_of(cell) for cell in ("Test ", "training", "val", "2", "dev")]
    ['test', 'train', 'train', 'fold 2', '']
    """
    word = cell.strip().casefold()
    if re.fullmatch("[1-9][0-9]?", word):
        return f"fold {word}"
    return "train" if WORDS.get(word) == "validation" else WORDS.get(word, "")


def validation_in(cells: pd.Series) -> str:
    """The first cell that names validation, as it is written; '' if there is none."""
    return next((text for text in cells.astype(str) if WORDS.get(text.strip().casefold()) == "validation"), "")


def imported(images: pd.DataFrame, column: str, *, holdout: bool = False) -> dict[str, int]:
    """Read sides from a column: `test`, `train` (with `validation`), or the fold's number from 1.

    With `holdout`, `validation` is a side of its own, and there are no numbers.

    Raises:
        BothSidesError: subjects are on several sides; the message names the first.
        SplitError: a cell names no side, or the sides contradict each other.
    """
    cells = images[column].astype(str)
    table = images[["subject", "path"]].astype(str).assign(side=cells.map(side_of))
    if holdout:
        table["side"] = cells.map(lambda text: WORDS.get(text.strip().casefold(), ""))
    unknown = table.index[table["side"] == ""]
    if len(unknown):
        cell, subject = cells[unknown[0]], table["subject"][unknown[0]]
        raise SplitError(
            f"Column {cut(column)} contains {cut(cell)} for subject {cut(subject)}; allowed are train, validation, "
            f"test, or the fold's number from 1.{nearest(cell.strip().casefold(), WORDS)}"
        )
    validation = validation_in(cells)
    if validation and not holdout and "test" not in set(table["side"]):
        text = f"Column {cut(column)} contains {cut(validation)} and no test; some authors call the test set so."
        remedy = "Write test if these subjects are for testing, train if they are for training."
        raise SplitError(f"{text} {remedy} `split: {{validation: column}}` keeps it as the validation set.")
    if holdout and (lacking := sorted({"train", "validation"} - set(table["side"]))):
        raise SplitError(f"split.validation: column {cut(column)} has no row with {lacking[0]!r}.")
    counts = table.groupby("subject")["side"].nunique()
    both = sorted(counts.index[counts > 1], key=natural)
    if both:
        raise BothSidesError(
            f"The imported split in column {cut(column)} puts {counted(len(both), 'subject')} on several sides: "
            f"{names_text(both, FEW)}. Images of one person on both sides make all results too optimistic. Give each "
            "subject one side; `casewise audit` lists all of them with images."
        )
    sides = table.groupby("subject")["side"].first().items()
    if holdout:
        return {str(subject): {"train": TRAIN, "validation": 0, "test": TEST}[name] for subject, name in sides}
    side = {str(subject): _number(name) for subject, name in sides}
    if "train" in set(table["side"]) and any(name.startswith("fold") for name in table["side"]):
        word = next(text.strip() for text in cells if side_of(text) == "train")
        text = f"Column {cut(column)} mixes {cut(word)} with fold numbers."
        raise SplitError(f"{text} Number every fold, or write train and test.")
    numbers = sorted({s for s in side.values() if s != TEST})
    if numbers and numbers != list(range(len(numbers))):
        listed = [n + 1 for n in numbers]
        raise SplitError(f"Column {cut(column)} numbers its folds {listed}; they must run from 1 without gaps.")
    return side


def _number(side: str) -> int:
    """The side as in `Splits`; training subjects without a fold are in the first."""
    return TEST if side == "test" else 0 if side == "train" else int(side.removeprefix("fold ")) - 1
