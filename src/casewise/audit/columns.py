"""Columns of the table with unusual names: columns with few values, and copies of a label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.audit.findings import PROBES
from casewise.audit.metadata import INTERNAL, MOST_LEVELS, RARE, STANDARD, columns_in_use, is_usual, levels
from casewise.audit.probes import ALPHA
from casewise.audit.subjects import sides_in
from casewise.cohort.groups import numbers_in, recorded
from casewise.cohort.missing_codes import missing_codes
from casewise.modalities.registry import modality_of
from casewise.study.schema import Study

# Each tested column takes time, and lowers the power of all tests; those with the fewest values are tested first.
MOST_COLUMNS = 30
# How the test of whether a column is filled in is named, behind the column.
FILLED_IN = "whether filled in"
FILLED = f" ({FILLED_IN})"
# A value occurs with one class in this share of images, if the column is a copy of the label.
PURE, NAMED = 0.99, 0.5
# Words of a name or a value that are about the origin of an image: such a column is never the label in other words.
ORIGIN = re.compile(
    "sources?|sites?|cent(re|er)|hospitals?|institut(ion|e)|clinic|data(set|base)?|collection|archive|repository|cohort|"
    "challenge|folder|dir(ectory)?|path|file(name)?|url|origin|provider|scanner|device|manufacturer|vendor|camera|room|"
    "station|machine|ward|department|unit|batch|protocol|view|date|year|reader|annotator|operator|technician|project|"
    "photographer|study"
)


def further_columns(study: Study, images: pd.DataFrame, audited: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns of few values besides those `audited`, and those beyond `MOST_COLUMNS`, which are not tested.

    Left out are targets, other outcomes, annotations of readers, columns that the study uses, and splits.
    """
    used = {*columns_in_use(study), *study.targets, *study.audit.outcomes, *STANDARD, *audited}
    subjects = images["subject"].astype(str).to_numpy()
    counts: dict[str, int] = {}
    for name in map(str, images.columns):
        plain = name.removeprefix("table_")
        if name in used or plain in used or plain.startswith(INTERNAL):
            continue
        cells = np.array(levels(images[name]))
        values = np.unique(cells)
        if not 2 <= len(values) <= MOST_LEVELS:
            continue
        frequent = sum(len(np.unique(subjects[cells == value])) >= RARE for value in values)
        if frequent >= 2 and not sides_in(name, cells.tolist()):
            counts[name] = len(values)
    ordered = sorted(counts, key=lambda name: (counts[name], name))
    return ordered[:MOST_COLUMNS], ordered[MOST_COLUMNS:]


def untested_numbers(study: Study, images: pd.DataFrame, tested: Sequence[str]) -> list[str]:
    """The columns of more numbers than `MOST_LEVELS` whose values are not among the `tested` columns.

    Left out are targets, other outcomes, annotations of readers and columns that the study uses except as covariates.
    """
    used = {*(columns_in_use(study) - {*study.covariates}), *study.targets, *study.audit.outcomes, *STANDARD, *tested}
    names = []
    for name in map(str, images.columns):
        plain = name.removeprefix("table_")
        if name in used or plain in used or plain.startswith(INTERNAL):
            continue
        numbers = numbers_in(recorded(images[name]))
        if numbers is not None and numbers.nunique() > MOST_LEVELS:
            names.append(plain)
    return names


def columns_with_gaps(study: Study, images: pd.DataFrame) -> list[str]:
    """The columns that are empty for at least `RARE` subjects and filled for as many; covariates first.

    Left out are targets and their annotations, names of subjects, visits and files, splits, and `audit.outcomes`.
    """
    masks = {study.audit.mask, *modality_of(study).mask_columns(study).values()}
    used = columns_in_use(study) - masks
    left_out = {*used, *study.targets, *study.audit.outcomes, *STANDARD} - {*study.covariates}
    subjects = images["subject"].astype(str).to_numpy()
    names = []
    for name in map(str, images.columns):
        plain = name.removeprefix("table_")
        if name in left_out or plain in left_out or plain.startswith(INTERNAL):
            continue
        filled = is_filled(images[name])
        if min(len(np.unique(subjects[filled])), len(np.unique(subjects[~filled]))) >= RARE:
            names.append(name)
    return sorted(names, key=lambda name: name.removeprefix("table_") not in study.covariates)


def is_filled(cells: pd.Series) -> NDArray[np.bool_]:
    """(n,) whether a cell has a value; words such as `-` and `none` are values among others of their kind.

    Numbers such as -999 are none if they are far from the others (`missing_codes`).

    >>> is_filled(pd.Series(["1", "", None, "NA", "-"])).tolist(), is_filled(pd.Series(["none", None, "mild"])).tolist()
    ([True, False, False, False, False], [True, False, True])
    >>> is_filled(pd.Series(["31", "-999", "45", "62", "-999"])).tolist()
    [True, False, True, True, False]
    """
    text = recorded(cells)
    numbers = numbers_in(text)
    codes = [] if numbers is None else missing_codes(numbers)
    return np.asarray((text != "") & ~(text if numbers is None else numbers).isin(codes), bool)


def label_gaps(record: Mapping[str, Any] | None, target: str, names: Iterable[str]) -> list[tuple[str, str, float]]:
    """Name, metric and value of columns whose gaps predict a target by the audit, strongest first.

    >>> test = {"target": "label", "evidence": f"age{FILLED}", "metric": "auroc", "value": 0.9, "p_adjusted": 0.01}
    >>> record = {"facts": {"tests": [test | {"by_filling": True}]}}
    >>> label_gaps(record, "label", ["age"]), label_gaps(record, "label", ["sex"])
    ([('age', 'auroc', 0.9)], [])
    """
    best: dict[str, tuple[str, str, float]] = {}
    for test in ((record or {}).get("facts") or {}).get("tests", []):
        name = str(test["evidence"]).removesuffix(FILLED)
        carries = test.get("by_filling") and test["p_adjusted"] <= ALPHA and test["target"] == target
        if carries and name in names and (name not in best or best[name][2] < test["value"]):
            best[name] = (name, test["metric"], test["value"])
    return sorted(best.values(), key=lambda entry: -entry[2])


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
    if any(ORIGIN.fullmatch(word) for text in (name, *values) for word in _words(text)):
        return False
    words = [_plain(label) for label in classes]
    named = next((n for n, word in enumerate(words) if len(word) >= 3 and word in _plain(name)), None)
    if len(values) == 2 and named is not None:
        return bool(max(np.mean((cells == value) == (numbers == named)) for value in values) >= PURE)
    pure = sum(np.bincount(numbers[cells == value]).max() for value in values) / len(cells)
    agree = np.mean([_names(_plain(cell), words[number]) for cell, number in zip(cells, numbers, strict=True)])
    return bool(pure >= PURE and agree >= NAMED)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold())


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _names(value: str, word: str) -> bool:
    return value == word or (min(len(value), len(word)) >= 3 and (value in word or word in value))


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
        name, by_class = str(figures.get("evidence") or ""), figures.get("by_class")
        column = name.partition(" (")[0] not in PROBES and (is_usual(name) or name in (named or ()))
        shortcut = finding["id"].startswith("shortcut-") and finding["level"] != "note"
        if shortcut and column and by_class and figures.get("target") == target:
            return {"name": name, "value": figures["value"], "by_class": by_class}
    return None
