"""Sides that the cohort's table gives: an imported split, or one source held out at a time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from casewise.errors import SplitError, nearest
from casewise.ordering import natural

if TYPE_CHECKING:
    import pandas as pd

TEST = -1


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
            "out with one it would be learned from in the other. Leave such rows out with `where`."
        )
    sources = sorted(values.unique(), key=natural)
    if len(sources) < 2:
        raise SplitError(f"split.leave_out: every image has {column} {sources[0]!r}; nothing is left to learn from.")
    return sources, {str(subject): sources.index(names[0]) for subject, names in found.items()}


def imported(images: pd.DataFrame, column: str) -> dict[str, int]:
    """Read sides from a column: `test`, `train`, or the fold's number from 1."""
    both = images.groupby("subject")[column].nunique()
    split_subjects = both[both > 1].index.tolist()
    if split_subjects:
        name = split_subjects[0]
        values = sorted(set(images.loc[images["subject"] == name, column].astype(str)))
        more = f" (and {len(split_subjects) - 1} more subjects)" if len(split_subjects) > 1 else ""
        raise SplitError(
            f"The imported split in column {column!r} puts subject {name!r} on several sides: {', '.join(values)}"
            f"{more}. "
            "Images of one person on both sides make every figure too good. Give each subject one side."
        )
    side: dict[str, int] = {}
    for subject, value in images.groupby("subject")[column].first().astype(str).items():
        text = value.strip().lower()
        if text in ("test", "train", "training"):
            side[str(subject)] = TEST if text == "test" else 0
        elif re.fullmatch("[1-9][0-9]?", text):
            side[str(subject)] = int(text) - 1
        else:
            raise SplitError(
                f"Column {column!r} holds {value!r} for subject {subject!r}; "
                "allowed are train, test, or the fold's number from 1."
            )
    words = set(images[column].astype(str).str.strip().str.lower())
    if words & {"train", "training"} and words - {"train", "training", "test"}:
        raise SplitError(
            f"Column {column!r} mixes 'train' with numbers of folds. Number every fold, or write train and test."
        )
    numbers = sorted({s for s in side.values() if s != TEST})
    if numbers and numbers != list(range(len(numbers))):
        raise SplitError(
            f"Column {column!r} numbers its folds {[n + 1 for n in numbers]}; they must run from 1 without gaps."
        )
    return side
