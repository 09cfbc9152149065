"""Targets of a cohort table: read and checked cell by cell, one value for every unit of their level, and of panels."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from casewise.cohort.checks import STORED, closest, number
from casewise.cohort.classes import read_classes
from casewise.cohort.table import Problems, each, names_text, natural
from casewise.errors import counted, cut
from casewise.study.schema import Level, Study, Target
from casewise.study.scores import study_scores
from casewise.targets import by_form, kind_named

_LEVELS: tuple[Level, ...] = ("image", "region", "case", "subject")


def target_columns(name: str, study: Study) -> list[str]:
    """The columns of the table that a target is read from."""
    column = study.targets[name].column
    column = column if column is not None else study.columns.get(name) or name
    return [column] if isinstance(column, str) else list(column)


def class_columns(study: Study, headers: list[str]) -> dict[str, str]:
    """The column of each target with classes, if the table has it."""
    names_needed = {*study.outputs, study.split.stratify_by}
    columns = {
        name: target_columns(name, study)[0]
        for name in study.targets
        if study.classes_of(name) and name in names_needed
    }
    return {name: column for name, column in columns.items() if column in headers}


def read_target(name: str, study: Study, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    """One target, row by row: NaN if not scored, the mean if read from several columns."""
    target = study.targets[name]
    columns = target_columns(name, study)
    missing = [column for column in columns if column not in cells]
    for column in missing if name not in study.columns else ():
        owner = "" if column == name else f" (target {name})"
        setting = problems.setting(f"columns: {{{name}: NAME}}")
        remedy = f"say {setting}" if problems.section else "name its column in the study's targets"
        hint = closest(column, cells.columns.tolist())
        problems.add("columns", f"column {column}{owner}: is missing.{hint} Add it, or {remedy}.")
    if missing:
        return pd.Series(float("nan"), index=cells.index)
    if target.equals is not None:
        return _read_indicator(name, target, cells[columns], problems)
    readers = {"number": _read_numbers, "classes": _read_class_names}
    return by_form(target.kind, readers)(name, target, cells[columns], problems)


def _read_class_names(name: str, target: Target, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    if len(cells.columns) > 1:
        problems.add("columns", f"targets.{name}: classes are read from one column, found {len(cells.columns)}.")
    return read_classes(target, cells.iloc[:, 0].str.strip())


def _read_numbers(name: str, target: Target, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    """The numbers of one column, or the mean of several."""
    labels = {column: column if column == name else f"{column} (target {name})" for column in cells}
    numbers = [
        _numbers(labels[column], target, cells[column].str.strip(), problems, setting=f"targets.{name}.range")
        for column in cells
    ]
    return pd.concat(numbers, axis=1).mean(axis=1, skipna=False) if len(numbers) > 1 else numbers[0]


def _read_indicator(name: str, target: Target, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    """1 where the column has the text of `equals`, 0 where it has another one, NaN where it is empty."""
    column, indicator = cells.columns[0], target.equals or ""
    if len(cells.columns) > 1:
        problems.add("columns", f"targets.{name}: `equals` needs one column, found {len(cells.columns)}.")
    text = cells[column].str.strip()
    present = sorted((value for value in text.unique() if value), key=natural)
    if present and indicator.strip() not in present:
        listed, hint = names_text([repr(value) for value in present], 6), closest(indicator, present)
        message = f"column {column} (target {name}): no row has {cut(indicator)}.{hint} There are: {listed}."
        problems.add("equals", message)
    return (text == indicator.strip()).astype(float).where(text != "")


def check_readers(study: Study, cells: pd.DataFrame, problems: Problems) -> None:
    """Check that the columns of readers exist and contain numbers in the range of their target or score."""
    for name, columns in study.evaluation.readers.items():
        for reader, column in columns.items():
            key = f"evaluation.readers.{name}.{reader}"
            if column not in cells:
                text = f"{key}: {cut(column)} is not a column.{closest(column, cells.columns.tolist())}"
                problems.add("columns", text)
            elif column in STORED:
                problems.add("columns", f"{key}: {cut(column)} is a reserved name. Rename the column.")
            else:
                label = f"{column} (reader {reader} of {name})"
                setting = f"{'targets' if name in study.targets else 'scores'}.{name}.range"
                _numbers(
                    label, Target(range=study.range_of(name)), cells[column].str.strip(), problems, setting=setting
                )


def _numbers(label: str, target: Target, text: pd.Series, problems: Problems, *, setting: str) -> pd.Series:
    """The numbers of a column; `setting` is the key of the study file that states their range."""
    low, high = target.range
    values: dict[str, float] = {"": float("nan")}
    wrong: dict[str, str] = {}
    outside: dict[str, float] = {}
    for value in filter(None, text.unique()):
        parsed = number(value)
        if parsed is None:
            comma = re.fullmatch(r"[+-]?\d+,\d+", value)
            wrong[value] = f"{cut(value)} is not a number" + (f" (write {value.replace(',', '.')})" if comma else "")
        elif not low <= parsed <= high:
            outside[value] = parsed
        elif target.integer and not parsed.is_integer():
            wrong[value] = f"{value} is not whole"
        else:
            values[value] = parsed
    cells = text[text.isin(list(outside))]
    if len(cells) > 1:
        least, most = min(outside.values()), max(outside.values())
        span = f"{least:g} to {most:g}" if least < most else f"{most:g}"
        message = f"{counted(len(cells), 'cell')} outside {low:g}..{high:g} ({span}). Correct them, or widen {setting}."
        problems.add(f"range {label}", message, cells.index, label)
    else:
        wrong |= {value: f"{value} is outside {low:g}..{high:g}" for value in outside}
    allowed = f"Write {'a whole number' if target.integer else 'a number'} in {low:g}..{high:g}, or leave it empty if "
    for row, value in each(text[text.isin(list(wrong))]):
        widen = f" If such values are possible, widen {setting}." if value in outside else ""
        problems.add(f"value {label}", f"{wrong[value]}. {allowed}it was not scored.{widen}", [row], label)
    return pd.to_numeric(text.map(values), errors="coerce").astype(float)


def level_keys(level: Level) -> list[str]:
    """The columns that name one unit of a level."""
    return {"image": [], "region": ["case", "region"], "case": ["case"], "subject": ["subject"]}[level]


def resolve_target(name: str, study: Study, images: pd.DataFrame, problems: Problems, notes: list[str]) -> pd.Series:
    """The target with one value for every unit of its level, filled in from the other rows of the unit.

    Adds a problem if rows of a unit differ, or if a target that the network predicts differs within a panel.
    """
    values, level, panel = images[name], study.level_of(name), study.panels.by
    if keys := level_keys(level):
        _report_varying(name, images, keys, f"is at {level} level", study, problems)
        values = images.groupby(keys, sort=False)[name].transform("first")
        if filled := int((values.notna() & images[name].isna()).sum()):
            rows = counted(filled, "row without a value takes", "rows without a value take")
            notes.append(f"{name}: {rows} the value of other rows of the same {level}.")
    if name in study.outputs and _LEVELS.index(level) < _LEVELS.index(panel):
        rule = f"is at {level} level, but is predicted for a whole {panel} (panels.by)"
        _report_varying(name, images, level_keys(panel), rule, study, problems)
    return values


def _report_varying(
    name: str, images: pd.DataFrame, keys: list[str], rule: str, study: Study, problems: Problems
) -> None:
    kind, classes = kind_named(study.kind_of(name)), study.classes_of(name)
    counts = images.groupby(keys, sort=False)[name].transform("nunique")
    for _, unit in images[counts > 1].groupby(keys, sort=False):
        recorded = unit[name].dropna()
        values = " and ".join(kind.shown(value, classes) for value in recorded.drop_duplicates())
        unit_name = unit[keys[0]].iloc[0] + (f", region {unit['region'].iloc[0]}" if "region" in keys else "")
        text = f"{values} in {keys[0]} {unit_name}; it {rule}. Correct the rows, or state its `level` in the targets."
        problems.add(f"varies {name} {rule}", text, recorded.index, name)


def panel_values(panels: pd.DataFrame, study: Study, name: str) -> np.ndarray:
    """(P,) recorded values of a target, or of a score computed from targets, of each panel; NaN if not scored."""
    if name in study.targets:
        return panels[name].to_numpy(float)
    score = next(s for s in study_scores(study) if s.name == name)
    references = score.references
    return score.value({(n, r): panel_values(panels, study, n) for n, r in references})


def label_table(panels: pd.DataFrame, study: Study) -> np.ndarray:
    """(P, T) recorded values of all outputs of the networks."""
    return np.stack([panel_values(panels, study, name) for name in study.outputs], axis=1)
