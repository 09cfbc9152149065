"""Splits that came with the data, in a column or as folders: subjects on both sides."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from casewise.audit.findings import Finding, Level
from casewise.audit.metadata import INTERNAL, STANDARD, columns_in_use, levels
from casewise.audit.sentences import fill
from casewise.cohort.dates import natural
from casewise.cohort.table import names_text
from casewise.splits.predefined import WORDS, side_of
from casewise.study.schema import Study

# A name of more words means something else: "test of lung function".
MOST_WORDS = 3
# Numbers are folds if the column is called so.
FOLD_NAMES = re.compile(r"fold|split|partition|subset|(^|_)(cv|set)(_|$)", re.IGNORECASE)
FEWEST_FOLDS, MOST_FOLDS = 3, 10
# The split was made by image if at least five subjects, and half of those with several images, are on both sides.
MOSTLY, FEWEST = 0.5, 5
EXAMPLES = 5


@dataclass(frozen=True)
class ImportedSplit:
    """A split that came with the data: its location, the side of each image or '', and whether the study uses it."""

    where: str
    sides: list[str]
    used: bool

    @property
    def level(self) -> Level:
        return "error" if self.used else "note"

    @property
    def use(self) -> str:
        """Words of a sentence."""
        return "which the study uses" if self.used else "which the study does not use"


def imported_findings(images: pd.DataFrame, study: Study) -> list[Finding]:
    """Check the split column of the study, columns that look like a split, and a split by the images' folders.

    Similar pictures on both sides of the split that the study uses are among the twins.
    """
    findings = []
    for split in imported_splits(images, study):
        if not study.subjects_known:
            sentence, remedy = fill("split subjects unknown", where=split.where), fill("split subjects unknown remedy")
            findings.append(Finding("subjects-across-splits", "note", sentence, {"where": split.where}, remedy=remedy))
        findings += _subject_findings(split, images)
    return findings


def imported_splits(images: pd.DataFrame, study: Study) -> list[ImportedSplit]:
    """The splits that came with the data and have at least two sides."""
    splits, used = [], {*columns_in_use(study), *study.targets, *STANDARD}
    if (column := study.split.column) and column in images:
        splits.append(ImportedSplit(f"column {column}", [side_of(cell) for cell in images[column].astype(str)], True))
    for name in map(str, images.columns):
        plain = name.removeprefix("table_")
        if not {name, plain} & used and not plain.startswith(INTERNAL):
            splits.append(ImportedSplit(f"column {plain}", sides_in(plain, images[name].astype(str).tolist()), False))
    splits.append(ImportedSplit("the folders", _folder_sides(images["path"].astype(str).tolist()), False))
    return [split for split in splits if len(set(split.sides) - {""}) > 1]


def sides_in(name: str, text: Sequence[str]) -> list[str]:
    """The sides of a column that is a split by its values, whatever its name, or by its name; empty if it is not.

    >>> sides_in("remark", ["Train", "val", "test", ""])
    ['train', 'validation', 'test', '']
    >>> sides_in("k", ["fold 1", "fold_2"]), sides_in("cv_fold", ["0", "1", "2"]), sides_in("grade", ["0", "1", "2"])
    (['fold 1', 'fold 2'], ['fold 0', 'fold 1', 'fold 2'], [])
    """
    cells = levels(text)
    side_by_cell = {cell: side_named(cell) for cell in set(cells) - {""}}
    if len(set(side_by_cell.values())) < 2 or not all(side_by_cell.values()):
        matches = {cell: re.fullmatch(r"(\d{1,2})(\.0)?", cell) for cell in side_by_cell}
        numbers = sorted(int(match[1]) for match in matches.values() if match)
        if not FOLD_NAMES.search(name.removeprefix("table_")) or not all(matches.values()):
            return []
        if (
            not FEWEST_FOLDS <= len({*numbers}) <= MOST_FOLDS
            or numbers[0] > 1
            or numbers[-1] - numbers[0] >= len({*numbers})
        ):
            return []
        side_by_cell = {cell: f"fold {int(match[1])}" for cell, match in matches.items() if match}
    return [side_by_cell.get(cell, "") for cell in cells]


def _folder_sides(paths: Sequence[str]) -> list[str]:
    # a folder that all paths share cannot divide them
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    folders = [Path(os.path.relpath(path, shared)).parts[:-1] for path in paths]
    return [next(filter(None, map(side_named, names)), "") for names in folders]


def side_named(name: str) -> str:
    """The side of a split that the name of a folder or a cell stands for, or ''.

    >>> [side_named(name) for name in ("train", "a. Training Set", "val", "fold_2", "trained", "P01")]
    ['train', 'train', 'validation', 'fold 2', '', '']
    """
    words = re.findall(r"[a-z]+|\d+", name.casefold())
    if len(words) == 2 and words[0] == "fold" and words[1].isdecimal():
        return f"fold {int(words[1])}"
    return next((WORDS[word] for word in words if word in WORDS), "") if len(words) <= MOST_WORDS else ""


def _subject_findings(split: ImportedSplit, images: pd.DataFrame) -> list[Finding]:
    """Subjects with images on several sides; if most are affected, the split was made by image."""
    table = images[["subject", "path"]].astype(str).assign(side=split.sides)
    table = table[table["side"] != ""]
    groups = table.groupby("subject")["side"]
    sides = groups.nunique()
    both = sides[sides > 1].index
    if both.empty:
        return []
    several = int((groups.size() > 1).sum())
    affected = table[table["subject"].isin(both)]
    examples = affected.drop_duplicates(["subject", "side"]).groupby("subject")["path"]
    subjects = sorted(both, key=natural)
    figures = {
        "where": split.where,
        "subjects_on_both_sides": len(both),
        "subjects": subjects,
        "subjects_with_several_images": several,
        "images": len(affected),
        "sides": {str(side): int(count) for side, count in table["side"].value_counts().items()},
    }
    code = "image-level-split" if len(both) >= max(FEWEST, MOSTLY * several) else "subjects-across-splits"
    names = names_text(subjects, EXAMPLES)
    sentence = fill(code, where=split.where, use=split.use, subjects=len(both), several=several, names=names)
    remedy = fill("used split remedy" if split.used else "unused split remedy", where=split.where)
    return [Finding(code, split.level, sentence, figures, [(p.iloc[0], p.iloc[1]) for _, p in examples], remedy)]
