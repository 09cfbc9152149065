"""Whether subjects are people: names, labels along file numbers, and both sides of splits that came with the data."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from casewise.audit.findings import NEIGHBOURS, Finding, Level
from casewise.audit.metadata import INTERNAL, STANDARD, columns_in_use, levels
from casewise.audit.sentences import fill
from casewise.cohort.cohort import Cohort
from casewise.cohort.identity import doubtful_pairs
from casewise.cohort.table import names_text, natural
from casewise.cohort.targets import panel_values
from casewise.errors import counted
from casewise.splits.file_numbers import file_series
from casewise.splits.predefined import WORDS, side_of
from casewise.study.schema import Study
from casewise.targets import kind_named

# An ending: a word (`left`), a number, or both (`v2`) after a separator; a letter or `v2` after a digit.
_ENDING = re.compile(
    r"(.*\w)(?:[ _.(-]+([a-z]{0,10}[ _.-]?\d{1,2}|[a-z]{1,10}|(?:19|20)\d\d)|(?<=\d)([a-z]|v\d))\)?", re.IGNORECASE
)
# Endings that follow a system are few, and occur with more stems than numbers of subjects within a site do.
MOST_ENDINGS, FEWEST_STEMS, STEMS_PER_ENDING, SHARE = 6, 3, 2, 0.5
# Of guessed subjects, where persons are known (docs/results/patients.md): the lowest and the highest percentage of the
# pairs of one person that are found, and of strangers among the joined pairs.
FOUND_PAIRS, STRANGERS = "28 to 99 %", "11 to 54 %"


def suffix_findings(subjects: Iterable[str]) -> list[Finding]:
    """A warning where many names are made of few endings after stems that occur several times.

    >>> [finding.figures["subjects"] for finding in suffix_findings(f"P{n}_v{v}" for n in range(9) for v in (1, 2))]
    [18]
    >>> suffix_findings(f"B{n % 2}-{n}" for n in range(90))
    []
    """
    names = sorted(set(subjects))
    by_stem: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        match = _ENDING.fullmatch(name)
        ending = (match[2] or match[3]).casefold() if match else ""
        # numbers after a number count a site's subjects
        if match and not (ending.isdecimal() and len(ending) < 3 and match[1].isdecimal()):
            by_stem[match[1].casefold()][ending] = name
    several = {stem: endings for stem, endings in by_stem.items() if len(endings) > 1}
    endings = sorted({ending for of_stem in several.values() for ending in of_stem})
    affected = sum(map(len, several.values()))
    few = len(endings) <= min(MOST_ENDINGS, len(several) / STEMS_PER_ENDING)
    if not few or len(several) < FEWEST_STEMS or affected < SHARE * len(names):
        return []
    first = next(iter(several.values()))
    sentence = fill(
        "subject-suffixes",
        subjects=affected,
        total=len(names),
        endings=", ".join(endings),
        example=" and ".join(repr(name) for name in list(first.values())[:2]),
    )
    figures = {"subjects": affected, "stems": len(several), "endings": endings}
    return [Finding("subject-suffixes", "warning", sentence, figures, remedy=fill("subject-suffixes remedy"))]


def name_findings(subjects: Iterable[str], study: Study, sides: Mapping[str, int]) -> list[Finding]:
    """A warning where names of subjects may mean one person; `sides` is the side of each subject in the split."""
    pairs = doubtful_pairs(subjects, declared=study.subject_names) if study.subjects_known else []
    if not pairs:
        return []
    across = sum(sides.get(name) != sides.get(other) for name, other in pairs)
    named = names_text([f"{name} and {other}" for name, other in pairs], EXAMPLES)
    where = f", {across:,} of them on two sides of the split" if across else ""
    sentence = fill("subject-names", pairs=counted(len(pairs), "pair"), across=where, names=named)
    figures = {"pairs": len(pairs), "across": across, "names": [list(pair) for pair in pairs]}
    return [Finding("subject-names", "warning", sentence, figures, remedy=fill("subject-names remedy"))]


PERMUTATIONS = 999
# A finding needs a p-value of at most the first, and neighbours that agree more often than by chance by the second.
HIGHEST_P, LEAST_EXCESS = 0.01, 0.05


def streak_findings(study: Study, cohort: Cohort) -> tuple[list[Finding], list[str]]:
    """A warning for each target whose labels agree between neighbouring file numbers more often than by chance.

    Only where subjects are not known and folds are random: neighbouring files may then show the same person. Files
    without a number have no neighbours. Folders of classes can only be tested if they share one numbering and it does
    not go from class to class. Also returns what cannot be tested, as in the facts of an audit.
    """
    if study.subjects_known or study.split.by == "number":
        return [], []
    panels = cohort.panels
    path_of = cohort.images.groupby(cohort.images["subject"].astype(str))["path"].first()
    paths = [str(path_of[subject]) for subject in panels["subject"].astype(str)]
    findings, not_tested = [], []
    for name in study.outputs:
        values = panel_values(panels, study, name)
        recorded = np.flatnonzero(~np.isnan(values))
        labels = kind_named(study.kind_of(name)).fold_labels(values, *study.range_of(name), len(study.classes_of(name)))
        series = [recorded[rows] for rows in file_series([paths[row] for row in recorded], across_folders=True)]
        testable = [labels[rows] for rows in series if not _class_by_class(labels[rows], [paths[row] for row in rows])]
        if not any(len(set(of_series.tolist())) > 1 for of_series in testable):
            not_tested.append(name + NEIGHBOURS)
            continue
        agreement, expected, p = neighbours(testable, study.seed)
        if p <= HIGHEST_P and agreement - expected >= LEAST_EXCESS:
            figures = {"target": name, "agreement": agreement, "expected": expected, "p": p, "images": len(labels)}
            sentence, remedy = fill("label-streaks", **figures), fill("label-streaks remedy")
            findings.append(Finding("label-streaks", "warning", sentence, figures, remedy=remedy))
    return findings, not_tested


def _class_by_class(labels: np.ndarray, paths: Sequence[str]) -> bool:
    """Whether folders with one label each share a numbering that gives each label at most two runs on average.

    Then neighbours agree because of the numbering, whoever they show.

    >>> _class_by_class(np.repeat([0, 1], 20), ["a/1.png"] * 20 + ["b/1.png"] * 20)
    True
    >>> _class_by_class(np.tile([0, 1], 20), ["a/1.png", "b/1.png"] * 20)
    False
    """
    of_folder = {(os.path.dirname(path), label) for path, label in zip(paths, labels.tolist(), strict=True)}
    folders = len({folder for folder, _ in of_folder})
    runs = 1 + np.count_nonzero(np.diff(labels))
    return len(of_folder) == folders > 1 and bool(runs <= 2 * len(set(labels.tolist())))


def guess_findings(study: Study) -> list[Finding]:
    """A note where subjects are guessed."""
    sentence = fill("subjects-guessed", found=FOUND_PAIRS, strangers=STRANGERS)
    note = Finding("subjects-guessed", "note", sentence, {}, remedy=fill("subjects-guessed remedy"))
    return [note] if study.subjects_guessed else []


def neighbours(series: list[np.ndarray], seed: int) -> tuple[float, float, float]:
    """How often neighbours have the same label, how often if each series is shuffled, and the p-value.

    >>> [round(figure, 3) for figure in neighbours([np.repeat([0, 1, 0, 1], 10)], 0)]
    [0.923, 0.489, 0.001]
    >>> neighbours([np.zeros(5, int), np.ones(5, int)], 0)  # folders of classes
    (1.0, 1.0, 1.0)
    """
    labels = np.concatenate([np.zeros(0, int), *series])
    number = np.repeat(np.arange(len(series)), list(map(len, series)))
    pairs = np.flatnonzero(np.diff(number) == 0)
    if not len(pairs):
        return 0.0, 0.0, 1.0
    random = np.random.default_rng([seed, 14])
    agreed = (labels[pairs] == labels[pairs + 1]).mean()
    shuffled = np.empty(PERMUTATIONS)
    for draw in range(PERMUTATIONS):
        mixed = labels[np.lexsort((random.random(len(labels)), number))]
        shuffled[draw] = (mixed[pairs] == mixed[pairs + 1]).mean()
    p = (1 + int((shuffled >= agreed - 1e-12).sum())) / (1 + PERMUTATIONS)
    return float(agreed), float(shuffled.mean()), p


# --------------------------------------------------------------------------------------- predefined splits

# A name of more words means something else: "test of lung function".
MOST_WORDS = 3
# Numbers are folds if the column is called so.
FOLD_NAMES = re.compile(r"fold|split|partition|subset|(^|_)(cv|set)(_|$)", re.IGNORECASE)
FEWEST_FOLDS, MOST_FOLDS = 3, 10
# A column with more different values is not a split.
MOST_VALUES = 20
# The split was made by image if at least five subjects, and half of those with several images, are on both sides.
MOSTLY, FEWEST = 0.5, 5
EXAMPLES = 5


@dataclass(frozen=True)
class _ImportedSplit:
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
    for split in _imported_splits(images, study):
        if not study.subjects_known:
            sentence, remedy = fill("split subjects unknown", where=split.where), fill("split subjects unknown remedy")
            findings.append(Finding("subjects-across-splits", "note", sentence, {"where": split.where}, remedy=remedy))
        findings += _subject_findings(split, images)
    return findings


def _imported_splits(images: pd.DataFrame, study: Study) -> list[_ImportedSplit]:
    """The splits that came with the data and have at least two sides."""
    splits, used = [], {*columns_in_use(study), *study.targets, *STANDARD}
    if (column := study.split.column) and column in images:
        splits.append(_ImportedSplit(f"column {column}", [side_of(cell) for cell in images[column].astype(str)], True))
    for name in map(str, images.columns):
        plain = name.removeprefix("table_")
        if not {name, plain} & used and not plain.startswith(INTERNAL):
            splits.append(_ImportedSplit(f"column {plain}", sides_in(plain, images[name].astype(str).tolist()), False))
    splits.append(_ImportedSplit("the folders", _folder_sides(images["path"].astype(str).tolist()), False))
    return [split for split in splits if len(set(split.sides) - {""}) > 1]


def sides_in(name: str, text: Sequence[str]) -> list[str]:
    """The sides of a column that is a split by its values, whatever its name, or by its name; empty if it is not.

    >>> sides_in("remark", ["Train", "val", "test", ""])
    ['train', 'validation', 'test', '']
    >>> sides_in("k", ["fold 1", "fold_2"]), sides_in("cv_fold", ["0", "1", "2"]), sides_in("grade", ["0", "1", "2"])
    (['fold 1', 'fold 2'], ['fold 0', 'fold 1', 'fold 2'], [])
    >>> sides_in("image", [f"{side}-{number}" for side in ("train", "test") for number in range(20)])
    []
    """
    cells = levels(text)
    side_by_cell = {cell: side_named(cell) for cell in set(cells) - {""}}
    if len(side_by_cell) > MOST_VALUES:  # names of images
        return []
    if len(set(side_by_cell.values())) < 2 or not all(side_by_cell.values()):
        matches = {cell: re.fullmatch(r"(\d{1,2})(\.0)?", cell) for cell in side_by_cell}
        numbers = sorted(int(match[1]) for match in matches.values() if match)
        if not FOLD_NAMES.search(name.removeprefix("table_")) or not all(matches.values()):
            return []
        count = len(set(numbers))
        if not FEWEST_FOLDS <= count <= MOST_FOLDS or numbers[0] > 1 or numbers[-1] - numbers[0] >= count:
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


def _subject_findings(split: _ImportedSplit, images: pd.DataFrame) -> list[Finding]:
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
