"""Splits that were made elsewhere, in a column or in folders: does a subject or a picture stand on both sides?"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.audit.findings import Finding, Level
from casewise.audit.sentences import without
from casewise.cohort.natural_sort import natural
from casewise.cohort.table import names_text
from casewise.splits.predefined import WORDS, side_of

if TYPE_CHECKING:
    import pandas as pd

    from casewise.audit.twins import Twin
    from casewise.study.schema import Study

__all__ = ["ImportedSplit", "imported_findings", "imported_splits", "side_of_folder"]

# A folder of more words is about something else: "test of lung function".
MOST_WORDS = 3
# From so many subjects on, half of those with several images on both sides is no slip: the split was made by image.
MOSTLY, FEWEST = 0.5, 5
EXAMPLES = 5


@dataclass(frozen=True)
class ImportedSplit:
    """A split that came with the data: where it stands, each image's side ('' = none), and whether it is used."""

    where: str
    sides: list[str]
    used: bool


def imported_findings(images: pd.DataFrame, study: Study, twins: Sequence[Twin]) -> list[Finding]:
    """Check the split column of the study, and the split that the folders of the images tell, if there are any.

    Args:
        images: `Cohort.images`.
        twins: pairs of its rows that show the same picture.
    """
    found = []
    for split in imported_splits(images, study):
        found += [_unknown(split)] * (not study.subjects_known)
        found += _subjects(split, images)
        found += _twins(split, images, twins, study)
    return found


def imported_splits(images: pd.DataFrame, study: Study) -> list[ImportedSplit]:
    """The splits that came with the data; one side alone is no split."""
    found = []
    if (column := study.split.column) and column in images:
        sides = images[column].astype(str).map(side_of).tolist()
        found.append(ImportedSplit(f"column {column}", sides, used=True))
    found.append(ImportedSplit("the folders", _folder_sides(images["path"].astype(str).tolist()), used=False))
    return [split for split in found if len(set(split.sides) - {""}) > 1]


def _folder_sides(paths: Sequence[str]) -> list[str]:
    # What all paths have in common cannot divide them, whatever it is called.
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    parts = [Path(os.path.relpath(path, shared)).parts[:-1] for path in paths]
    return [next(filter(None, map(side_of_folder, folders)), "") for folders in parts]


def side_of_folder(name: str) -> str:
    """The side of a split that a folder's name means, or ''.

    >>> [side_of_folder(name) for name in ("train", "a. Training Set", "val", "fold_2", "trained", "P01")]
    ['train', 'train', 'validation', 'fold 2', '', '']
    """
    words = re.findall(r"[a-z]+|\d+", name.casefold())
    if len(words) == 2 and words[0] == "fold" and words[1].isdecimal():
        return f"fold {int(words[1])}"
    return next((WORDS[word] for word in words if word in WORDS), "") if len(words) <= MOST_WORDS else ""


def _unknown(split: ImportedSplit) -> Finding:
    sentence = (
        f"Subjects are not known: nobody can tell whether images of one person stand on both sides of the split in "
        f"{split.where}. Only like pictures can be looked for, and every figure may be too good."
    )
    remedy = "Ask whoever made the data for the subjects, and put them into the table."
    return Finding("subjects-across-splits", "note", sentence, {"where": split.where}, remedy=remedy)


def _level(split: ImportedSplit) -> Level:
    return "error" if split.used else "note"


def _use(split: ImportedSplit) -> str:
    return "and the study uses it" if split.used else "which the study does not use"


def _subjects(split: ImportedSplit, images: pd.DataFrame) -> list[Finding]:
    """Subjects whose images stand on several sides; a split by image where that is the rule."""
    table = images[["subject", "path"]].astype(str).assign(side=split.sides)
    table = table[table["side"] != ""]
    groups = table.groupby("subject")["side"]
    both = groups.nunique()
    both = both[both > 1].index
    if both.empty:
        return []
    several = int((groups.size() > 1).sum())
    by_image = len(both) >= max(FEWEST, MOSTLY * several)
    apart = table[table["subject"].isin(both)].drop_duplicates(["subject", "side"])
    pairs = [tuple(rows["path"].iloc[:2]) for _, rows in apart.groupby("subject")]
    stand = "stands" if len(both) == 1 else "stand"
    subjects = sorted(both, key=natural)
    named = names_text(subjects, EXAMPLES)
    figures = {
        "where": split.where,
        "subjects_on_both_sides": len(both),
        "subjects": subjects,
        "subjects_with_several_images": several,
        "images": int(table["subject"].isin(both).sum()),
        "sides": {str(side): int(count) for side, count in table["side"].value_counts().items()},
    }
    how = f"The split in {split.where} was made by image, not by subject, {_use(split)}:"
    what = f"{len(both):,} of {several:,} subjects with several images {stand} on both sides ({named})"
    begin = f"{how} {what}" if by_image else f"In the split in {split.where}, {_use(split)}, {what}"
    sentence = f"{begin}: who is tested was trained on, and the figures would be too good."
    remedy = (
        f"Leave `split.column` out, so that casewise splits by subject, or give each subject one side in {split.where}."
        if split.used
        else "Do not compare with figures that were made with it; casewise splits by subject."
    )
    id = "image-level-split" if by_image else "subjects-across-splits"
    return [Finding(id, _level(split), sentence, figures, [(one, two) for one, two in pairs], remedy)]


def _twins(split: ImportedSplit, images: pd.DataFrame, twins: Sequence[Twin], study: Study) -> list[Finding]:
    """Like pictures on two sides."""
    sides, paths = split.sides, images["path"].astype(str).tolist()
    apart = [twin for twin in twins if sides[twin.i] and sides[twin.j] and sides[twin.i] != sides[twin.j]]
    if not apart:
        return []
    first = apart[0]
    example = f"{Path(paths[first.i]).name} ({sides[first.i]}) and {Path(paths[first.j]).name} ({sides[first.j]})"
    count = "1 picture stands" if len(apart) == 1 else f"{len(apart):,} pairs of like pictures stand"
    sentence = (
        f"{count} on both sides of the split in {split.where}, {_use(split)}, such as {example}: "
        "what is tested was trained on."
    )
    figures = {"where": split.where, "pairs": len(apart), "exact": sum(twin.kind != "near" for twin in apart)}
    pairs = [(paths[twin.i], paths[twin.j]) for twin in apart]
    root = (study.root or study.cohort.parent).absolute()
    left_out = without([two for _, two in pairs], column=study.columns.get("path", "path"), root=root)
    remedy = f"Give both images the same subject and the same side, or leave one of them out with {left_out}."
    return [Finding("twins-across-splits", _level(split), sentence, figures, pairs, remedy)]
