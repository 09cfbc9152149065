"""Splits that came with the data, in a column or as folders: subjects or pictures on both sides."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.audit.columns import INTERNAL, STANDARD, possible_folds, sides_in
from casewise.audit.findings import Finding, Level
from casewise.audit.metadata import columns_in_use, is_usual
from casewise.audit.sentences import exclusion, fill
from casewise.audit.twin_findings import registrations
from casewise.cohort.dates import natural
from casewise.cohort.table import names_text
from casewise.splits.predefined import WORDS, side_of

if TYPE_CHECKING:
    import pandas as pd

    from casewise.audit.twins import Twin
    from casewise.study.schema import Study

# A folder name of more words means something else: "test of lung function".
MOST_WORDS = 3
# The split was made by image if at least five subjects, and half of those with several images, are on both sides.
MOSTLY, FEWEST = 0.5, 5
EXAMPLES = 5


@dataclass(frozen=True)
class ImportedSplit:
    """A split that came with the data: its location, the side of each image or '', and whether the study uses it."""

    where: str
    sides: list[str]
    used: bool


def imported_findings(images: pd.DataFrame, study: Study, twins: Sequence[Twin]) -> list[Finding]:
    """Check the split column of the study, columns that look like a split, and a split by the images' folders.

    Args:
        images: `Cohort.images`.
        twins: pairs of its rows with the same picture.
    """
    findings = []
    for split in imported_splits(images, study):
        findings += [_subjects_unknown(split)] * (not study.subjects_known)
        findings += _subject_findings(split, images)
        findings += _twin_findings(split, images, twins, study)
    return findings


def imported_splits(images: pd.DataFrame, study: Study) -> list[ImportedSplit]:
    """The splits that came with the data and have at least two sides."""
    splits = []
    if (column := study.split.column) and column in images:
        sides = images[column].astype(str).map(side_of).tolist()
        splits.append(ImportedSplit(f"column {column}", sides, used=True))
    splits += _unused_columns(images, study)
    splits.append(ImportedSplit("the folders", _folder_sides(images["path"].astype(str).tolist()), used=False))
    return [split for split in splits if len(set(split.sides) - {""}) > 1]


def _unused_columns(images: pd.DataFrame, study: Study) -> list[ImportedSplit]:
    """The columns that look like a split and that the study does not use."""
    used = columns_in_use(study) | set(study.targets)
    subjects = images["subject"].tolist()
    splits = []
    for name in map(str, images.columns):
        plain = name.removeprefix("table_")
        if {name, plain} & used or name in STANDARD or plain.startswith(INTERNAL):
            continue
        text = images[name].astype(str).tolist()
        if sides := sides_in(plain, text):
            splits.append(ImportedSplit(f"column {plain}", sides, used=False))
        elif not is_usual(plain) and (sides := possible_folds(text, subjects)):
            splits.append(ImportedSplit(f"column {plain} (if its numbers are folds)", sides, used=False))
    return splits


def _folder_sides(paths: Sequence[str]) -> list[str]:
    # a folder that all paths share cannot divide them
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    folders = [Path(os.path.relpath(path, shared)).parts[:-1] for path in paths]
    return [next(filter(None, map(side_of_folder, names)), "") for names in folders]


def side_of_folder(name: str) -> str:
    """The side of a split that a folder name stands for, or ''.

    >>> [side_of_folder(name) for name in ("train", "a. Training Set", "val", "fold_2", "trained", "P01")]
    ['train', 'train', 'validation', 'fold 2', '', '']
    """
    words = re.findall(r"[a-z]+|\d+", name.casefold())
    if len(words) == 2 and words[0] == "fold" and words[1].isdecimal():
        return f"fold {int(words[1])}"
    return next((WORDS[word] for word in words if word in WORDS), "") if len(words) <= MOST_WORDS else ""


def _subjects_unknown(split: ImportedSplit) -> Finding:
    sentence = fill("split subjects unknown", where=split.where)
    remedy = fill("split subjects unknown remedy")
    return Finding("subjects-across-splits", "note", sentence, {"where": split.where}, remedy=remedy)


def _level(split: ImportedSplit) -> Level:
    return "error" if split.used else "note"


def _use(split: ImportedSplit) -> str:
    return "which the study uses" if split.used else "which the study does not use"


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
    by_image = len(both) >= max(FEWEST, MOSTLY * several)
    examples = table[table["subject"].isin(both)].drop_duplicates(["subject", "side"])
    pairs = [tuple(rows["path"].iloc[:2]) for _, rows in examples.groupby("subject")]
    subjects = sorted(both, key=natural)
    figures = {
        "where": split.where,
        "subjects_on_both_sides": len(both),
        "subjects": subjects,
        "subjects_with_several_images": several,
        "images": int(table["subject"].isin(both).sum()),
        "sides": {str(side): int(count) for side, count in table["side"].value_counts().items()},
    }
    code = "image-level-split" if by_image else "subjects-across-splits"
    names = names_text(subjects, EXAMPLES)
    sentence = fill(code, where=split.where, use=_use(split), subjects=len(both), several=several, names=names)
    remedy = fill("used split remedy" if split.used else "unused split remedy", where=split.where)
    return [Finding(code, _level(split), sentence, figures, [(first, second) for first, second in pairs], remedy)]


def _twin_findings(split: ImportedSplit, images: pd.DataFrame, twins: Sequence[Twin], study: Study) -> list[Finding]:
    """Similar pictures on two sides."""
    sides, paths = split.sides, images["path"].astype(str).tolist()
    across = [twin for twin in twins if sides[twin.i] and sides[twin.j] and sides[twin.i] != sides[twin.j]]
    if not across:
        return []
    first = across[0]
    sentence = fill(
        "imported twins",
        count="1 pair of similar pictures is" if len(across) == 1 else f"{len(across):,} pairs of similar pictures are",
        where=split.where,
        use=_use(split),
        example=f"{Path(paths[first.i]).name} ({sides[first.i]}) and {Path(paths[first.j]).name} ({sides[first.j]})",
    )
    figures = {
        "where": split.where,
        "pairs": len(across),
        "exact": sum(twin.kind != "near" for twin in across),
        "registrations": registrations(across),
    }
    pairs = [(paths[twin.i], paths[twin.j]) for twin in across]
    root = (study.root or study.cohort.parent).absolute()
    excluded = exclusion([second for _, second in pairs], column=study.columns.get("path", "path"), root=root)
    remedy = fill("imported twins remedy", exclusion=excluded)
    return [Finding("twins-across-splits", _level(split), sentence, figures, pairs, remedy)]
