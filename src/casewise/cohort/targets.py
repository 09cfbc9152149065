"""Targets of a cohort table: read cell by cell, checked, and settled to one value for every unit of their level."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from casewise.cohort.checks import STORED, closest, number
from casewise.cohort.classes import read_classes, shown
from casewise.cohort.natural_sort import natural
from casewise.cohort.table import Problems, each, names_text, rows_text
from casewise.study.schema import Level, Study, Target

if TYPE_CHECKING:
    import pandas as pd

_LEVELS: tuple[Level, ...] = ("image", "region", "case", "subject")


def target_columns(name: str, study: Study) -> list[str]:
    """The table's columns that a target is read from."""
    column = study.targets[name].column
    column = column if column is not None else study.columns.get(name) or name
    return [column] if isinstance(column, str) else list(column)


def class_columns(study: Study, headers: list[str]) -> dict[str, str]:
    """The one column of each target with classes, where the table has it."""
    wanted = {*study.outputs, study.split.stratify_by}
    found = {name: target_columns(name, study) for name in study.targets if study.classes_of(name) and name in wanted}
    return {name: columns[0] for name, columns in found.items() if columns[0] in headers}


def read_target(name: str, study: Study, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    """One target, row by row: NaN where not scored, the mean where it is read from several columns."""
    import pandas as pd

    target = study.targets[name]
    columns = target_columns(name, study)
    nothing = pd.Series(float("nan"), index=cells.index)
    missing = [column for column in columns if column not in cells]
    for column in missing:
        told = "" if column == name else f" (target {name})"
        text = f"column {column}{told}: is missing.{closest(column, cells.columns.tolist())}"
        if name not in study.columns:
            stated = problems.setting(f"columns: {{{name}: NAME}}")
            remedy = f"say {stated}" if problems.section else "name its column in the study's targets"
            problems.add("columns", f"{text} Add it, or {remedy}.")
    if missing:
        return nothing
    if target.classes and len(columns) > 1:
        problems.add("columns", f"targets.{name}: classes are read from one column, found {len(columns)}.")
        return nothing
    if target.classes:
        return read_classes(target, cells[columns[0]].str.strip())
    if target.equals is not None:
        if len(columns) > 1:
            problems.add("columns", f"targets.{name}: `equals` needs one column, found {len(columns)}.")
            return nothing
        return _indicator(name, target.equals, columns[0], cells, problems)
    names = {column: column if column == name else f"{column} (target {name})" for column in columns}
    parts = [_numbers(names[column], target, cells[column].str.strip(), problems) for column in columns]
    return pd.concat(parts, axis=1).mean(axis=1, skipna=False) if len(parts) > 1 else parts[0]


def _indicator(name: str, wanted: str, column: str, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    text = cells[column].str.strip()
    present = sorted((value for value in text.unique() if value), key=natural)
    if present and wanted.strip() not in present:
        problems.add(
            "equals",
            f"column {column} (target {name}): no row holds {wanted!r}.{closest(wanted, present)} "
            f"There are: {names_text([repr(value) for value in present], 6)}.",
        )
    return (text == wanted.strip()).astype(float).where(text != "")


def check_readers(study: Study, cells: pd.DataFrame, problems: Problems) -> None:
    """The columns that single readers recorded must be there and hold numbers in the range of what they read."""
    for name, columns in study.evaluation.readers.items():
        for reader, column in columns.items():
            place = f"evaluation.readers.{name}.{reader}"
            if column not in cells:
                text = f"{place}: {column!r} is no column.{closest(column, cells.columns.tolist())}"
                problems.add("columns", text)
            elif column in STORED:
                problems.add("columns", f"{place}: {column!r} is a name of casewise's own. Rename the column.")
            else:
                told = f"{column} (reader {reader} of {name})"
                _numbers(told, Target(range=study.range_of(name)), cells[column].str.strip(), problems)


def _numbers(told: str, target: Target, text: pd.Series, problems: Problems) -> pd.Series:
    import pandas as pd

    low, high = target.range
    kind = "a whole number" if target.integer else "a number"
    values: dict[str, float] = {"": float("nan")}
    wrong: dict[str, str] = {}
    for value in text.unique():
        parsed = number(value)
        if not value:
            continue
        if parsed is None:
            wrong[value] = f"{value!r} is no number"
            if re.fullmatch(r"[+-]?\d+,\d+", value):
                wrong[value] += f" (write {value.replace(',', '.')})"
        elif not low <= parsed <= high:
            wrong[value] = f"{value} is outside {low:g}..{high:g}"
        elif target.integer and not parsed.is_integer():
            wrong[value] = f"{value} is not whole"
        else:
            values[value] = parsed
    for row, value in each(text[text.isin(list(wrong))]):
        allowed = f"Write {kind} in {low:g}..{high:g}, or leave it empty if it was not scored."
        problems.add(f"value {told}", f"row {row}, {told}: {wrong[value]}. {allowed}", row=row)
    return pd.to_numeric(text.map(values), errors="coerce").astype(float)


def level_keys(level: Level) -> list[str]:
    """The columns that name one unit of a level."""
    return {"image": [], "region": ["case", "region"], "case": ["case"], "subject": ["subject"]}[level]


def settle_target(name: str, study: Study, images: pd.DataFrame, problems: Problems, notes: list[str]) -> pd.Series:
    """The target with one value for every unit of its level, filled in from the unit's other rows.

    Adds a problem where rows of one unit differ, or where a target that the network predicts differs within a panel.
    """
    values, level, panel = images[name], study.level_of(name), study.panels.by
    if keys := level_keys(level):
        _report_varying(name, images, keys, f"stands at {level} level", study.classes_of(name), problems)
        values = images.groupby(keys, sort=False)[name].transform("first")
        if filled := int((values.notna() & images[name].isna()).sum()):
            notes.append(f"{name}: {filled:,} rows without a value take that of their {level}'s other rows.")
    if name in study.outputs and _LEVELS.index(level) < _LEVELS.index(panel):
        told = f"stands at {level} level, but is predicted for a whole {panel} (panels.by)"
        _report_varying(name, images, level_keys(panel), told, study.classes_of(name), problems)
    return values


def _report_varying(
    name: str, images: pd.DataFrame, keys: list[str], told: str, classes: list[str], problems: Problems
) -> None:
    counts = images.groupby(keys, sort=False)[name].transform("nunique")
    for _, unit in images[counts > 1].groupby(keys, sort=False):
        found = unit[name].dropna()
        values = " and ".join(shown(value, classes) for value in found.drop_duplicates())
        who = unit[keys[0]].iloc[0] + (f", region {unit['region'].iloc[0]}" if "region" in keys else "")
        problems.add(
            f"varies {name} {told}",
            f"{rows_text(found.index, 4)}, {name}: {values} in {keys[0]} {who}; it {told}. "
            "Correct the rows, or state its `level` in the study's targets.",
            row=found.index[0],
        )
