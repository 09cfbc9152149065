"""Columns of the table with other than the usual names: those of few values, copies of a label, and unused splits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from casewise.audit.findings import PROBES
from casewise.audit.metadata import MOST_LEVELS, RARE, columns_in_use, is_usual, levels
from casewise.splits.predefined import WORDS

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study


# Each tested column takes time, and lowers the power of all tests; those with the fewest values are tested first.
MOST_COLUMNS = 30
# A value occurs with one class in this share of images, if the column is a copy of the label.
PURE, NAMED = 0.99, 0.5
# A code of the label: values per class, characters of a value, and subjects of a class that are needed to call it so.
MOST_OF_CLASS, LONGEST_CODE, FEWEST_CODED = 2, 3, 10
# Words beside the target's in the name of a code. Any other word may be about where or how images were taken.
CODE_WORDS = frozenset(
    (
        *("code", "codes", "coded", "encoded", "encoding", "id", "idx", "index", "no", "nr", "num", "number"),
        *("numeric", "int", "label", "class", "category", "cat", "value", "name", "text", "str", "string", "binary"),
        *("true", "truth", "gt", "reference", "target", "final", "consensus", "full", "short", "long", "histologic"),
        *("histological", "pathologic", "pathological", "clinical", "neoplasm", "tumor", "tumour", "lesion"),
        *("disease", "who"),
    )
)
# Words of a name or a value that are about the origin of an image: such a column is never the label in other words.
ORIGIN_WORDS = frozenset(
    (
        *("source", "sources", "site", "sites", "centre", "center", "hospital", "hospitals", "institution"),
        *("institute", "clinic", "dataset", "database", "data", "collection", "archive", "repository", "challenge"),
        *("cohort", "folder", "directory", "dir", "path", "file", "filename", "url", "origin", "provider", "scanner"),
        *("device", "manufacturer", "vendor", "camera", "station", "machine", "ward", "department", "unit", "room"),
        *("batch", "protocol", "view", "date", "year", "reader", "annotator", "operator", "technician"),
        *("photographer", "project", "study"),
    )
)
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


def repeats(name: str, text: Sequence[str], labels: NDArray[np.floating[Any]], classes: Sequence[str]) -> bool:
    """Whether a column is the label in other words: its values, or its name, name the classes with which they occur.

    >>> labels = np.array([0.0, 0.0, 1.0, 1.0])
    >>> repeats("finding", ["COVID-19", "COVID-19 (PCR)", "No Finding", "none seen"], labels, ["covid", "no_finding"])
    True
    >>> repeats("ward", ["A", "A", "B", "B"], labels, ["covid", "no_finding"])
    False
    >>> repeats("taken_from", ["covid-dataset"] * 2 + ["no finding archive"] * 2, labels, ["covid", "no_finding"])
    False
    """
    labelled = ~np.isnan(labels)
    cells, numbers = np.array(levels(text))[labelled], labels[labelled].astype(int)
    filled = cells != ""
    if not classes or filled.mean() < PURE or len(np.unique(numbers)) < 2:
        return False
    values = np.unique(cells)
    # a collection can be called after its class: "covid-dataset"
    if any(ORIGIN_WORDS.intersection(_words(text)) for text in (name, *values)):
        return False
    words = [_plain(label) for label in classes]
    if len(values) == 2 and any(len(word) >= 3 and word in _plain(name) for word in words):
        named = next(number for number, word in enumerate(words) if len(word) >= 3 and word in _plain(name))
        return bool(max(np.mean((cells == value) == (numbers == named)) for value in values) >= PURE)
    pure = sum(np.bincount(numbers[cells == value]).max() for value in values) / len(cells)
    naming = {value: {n for n, word in enumerate(words) if _names(_plain(value), word)} for value in values}
    agree = np.array([number in naming[cell] for cell, number in zip(cells, numbers, strict=True)])
    return bool(pure >= PURE and agree.mean() >= NAMED)


def has_code(
    name: str,
    text: Sequence[str],
    labels: NDArray[np.floating[Any]],
    classes: Sequence[str],
    target: str,
    subjects: Sequence[object],
) -> bool:
    """Whether a column is probably a code of a target, such as `histologic_grade_code` (1, 2) of `grade` (G2, G3).

    Three things are needed. Each value occurs with one class, each class has at most two values, and at least ten
    subjects of each class show it. The name has the words of the target and, besides them, only words for codes. The
    values are short, or have the name of the target in them. A column of another name that goes with the label one to
    one, such as a site, is tested like any other.

    >>> labels, cells = np.repeat([0.0, 1.0], 10), ["1"] * 10 + ["2"] * 10
    >>> names = ("histologic_grade_code", "ward", "grade_site")
    >>> [has_code(name, cells, labels, ["G2", "G3"], "grade", range(20)) for name in names]
    [True, False, False]
    """
    labelled = ~np.isnan(labels)
    cells, numbers = np.array(levels(text))[labelled], labels[labelled].astype(int)
    people = np.asarray(subjects, str)[labelled]
    filled = cells != ""
    if not classes or not len(cells) or filled.mean() < PURE:
        return False
    cells, numbers, people = cells[filled], numbers[filled], people[filled]
    wanted, words = _words(target), _words(name)
    places = [n for n in range(len(words)) if words[n : n + len(wanted)] == wanted]
    others = {word for n in places[:1] for word in words[:n] + words[n + len(wanted) :]}
    if not places or min(map(len, wanted)) < 3 or not others or not others <= CODE_WORDS:
        return False
    values, present = np.unique(cells), np.unique(numbers)
    short = all(len(_plain(value)) <= LONGEST_CODE or _plain(target) in _plain(value) for value in values)
    if not short or len(present) < 2 or any(ORIGIN_WORDS.intersection(_words(value)) for value in values):
        return False
    class_of = {value: int(np.bincount(numbers[cells == value]).argmax()) for value in values}
    of_class = [list(class_of.values()).count(number) for number in present]
    pure = all(class_of[cell] == number for cell, number in zip(cells, numbers, strict=True))
    enough = all(len(np.unique(people[numbers == number])) >= FEWEST_CODED for number in present)
    return enough and pure and min(of_class) >= 1 and max(of_class) <= MOST_OF_CLASS


def _words(text: str) -> list[str]:
    """The words of a name, in lower case: `tumorGrade_code` has three.

    >>> _words("tumorGrade_code 2")
    ['tumor', 'grade', 'code', '2']
    """
    return re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(text)).casefold())


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
    side_by_cell = {cell: _side(cell) for cell in set(cells)}
    sides = [side_by_cell[cell] for cell in cells]
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
    matches = {cell: re.fullmatch(r"(\d{1,2})(\.0)?", cell) for cell in set(cells)}
    if not all(match or not cell for cell, match in matches.items()):
        return []
    number_by_cell = {cell: int(match[1]) if match else -1 for cell, match in matches.items()}
    numbers = [number_by_cell[cell] for cell in cells]
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


def leading_column(
    record: Mapping[str, Any] | None, target: str, named: Sequence[str] | None = None
) -> dict[str, Any] | None:
    """The column of the most serious finding of `audit.json` on a target with classes: `name`, `value`, `by_class`.

    Columns with usual names and those `named` in the study count, because others may be a consequence of the disease.
    Of equally serious findings the source comes first, then the column that predicts best. None without such a finding.

    >>> figures = {"target": "label", "evidence": "site", "value": 0.9, "by_class": {"ill": 0.9, "well": 0.9}}
    >>> finding = {"id": "shortcut-site", "level": "error", "figures": figures}
    >>> leading_column({"findings": [finding]}, "label")["value"], leading_column({"findings": []}, "label")
    (0.9, None)
    """
    for finding in (record or {}).get("findings", []):
        figures = finding.get("figures") or {}
        name = str(figures.get("evidence") or "")
        if not finding["id"].startswith("shortcut-") or finding["level"] == "note" or figures.get("target") != target:
            continue
        if name.partition(" (")[0] in PROBES or not figures.get("by_class"):
            continue
        if is_usual(name) or name in (named or ()):
            return {"name": name, "value": figures["value"], "by_class": figures["by_class"]}
    return None
