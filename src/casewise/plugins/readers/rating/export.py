"""From readings to a table that a study reads: a column for each reader, and one for their consensus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CasewiseError
from casewise.files import csv_text, write_atomic
from casewise.names import FileNames
from casewise.plugins.readers.form import FormField
from casewise.plugins.readers.rating.readings import Readings
from casewise.plugins.readers.rating.sessions import Shown
from casewise.plugins.readers.settings import DEFAULT_CONSENSUS, Consensus, Reading
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

KEYS = ["case", "image", "target", "region"]
# Tolerance of a difference of two values, so that 0.4 − 0.1 does not exceed 0.3.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Labels:
    """The labels that readers give.

    Attributes:
        table: one row for each image, as a study reads it.
        values: the label of each item and field that was read: `case`, `image`, `target`, `region`, `value`.
        limits: by target, the difference above which readers disagree.
        rules: how the readers of each target became one label.
        without: by target, how many of the cases that were read have no label.
        readers: of each target, the columns of the readers by their names.
    """

    table: pd.DataFrame
    values: pd.DataFrame
    limits: dict[str, float]
    rules: dict[str, Consensus]
    without: dict[str, int]
    readers: dict[str, dict[str, str]]


def _rule_of(study: Study, name: str) -> Consensus:
    """How several readers of a target become one label; whole numbers have a median, which is one of the values."""
    reading: Reading = study.key("reading")
    default = "median" if study.targets[name].integer else "mean"
    kind = study.kind_of(name)
    return reading.consensus.get(name, default if kind == "regression" else DEFAULT_CONSENSUS[kind])  # type: ignore[arg-type]


def _limit_of(study: Study, name: str) -> float:
    """The difference between two readers above which they disagree."""
    low, high = study.range_of(name)
    default = (high - low) / 10 if kind_named(study.kind_of(name)).form == "number" else 0.0
    return float(study.key("reading").disagreement.get(name, default))


def first_readings(table: pd.DataFrame, sessions: Sequence[str] = ()) -> pd.DataFrame:
    """Each reader's first reading of each item: a row for each item, field and reader.

    Args:
        table: see `casewise.plugins.readers.rating.readings.Readings.table`.
        sessions: their names; by default all in which readers saw neither a model nor each other's values.
    """
    chosen = table["session"].isin(sessions) if sessions else table["kind"] == "blind"
    rows = table[chosen & (table["kind"] != "adjudication") & (table["occurrence"] == 1)]
    return rows.sort_values("entry").drop_duplicates([*KEYS, "reader"], keep="first")


def consensus(values: np.ndarray, rule: Consensus, limit: float) -> float:
    """One label from the values of readers, (R,) without NaN; NaN where the rule gives none.

    >>> consensus(np.array([1.0, 2.0]), "mean", 0), consensus(np.array([1.0, 2.0]), "median", 0)
    (1.5, 1.0)
    >>> consensus(np.array([0.0, 2.0, 2.0]), "majority", 0), consensus(np.array([0.0, 2.0]), "majority", 0)
    (2.0, nan)
    """
    if not len(values):
        return float("nan")
    if rule == "mean":
        return float(values.mean())
    # the lower of two middle values, which is one that readers gave
    median = float(np.sort(values)[(len(values) - 1) // 2])
    if rule == "median":
        return median
    if rule == "adjudication":
        return median if np.ptp(values) <= limit + TOLERANCE else float("nan")
    different, counts = np.unique(values, return_counts=True)
    largest = counts == counts.max()
    return float(different[largest][0]) if largest.sum() == 1 else float("nan")


def disagreements(readings: Readings, study: Study) -> pd.DataFrame:
    """Items whose readers disagree, the largest disagreement first: item, fields, and the difference over its limit.

    Columns: case, image, fields (how many), worst (the largest share of the range between two readers).
    """
    rows = first_readings(readings.table).dropna(subset="value")
    if rows.empty:
        return pd.DataFrame(columns=["case", "image", "fields", "worst"])
    spread = rows.groupby(KEYS, sort=False)["value"].agg(["count", np.ptp]).reset_index()
    names = spread["target"].astype(str)
    widths = names.map({name: float(np.ptp(study.range_of(name))) for name in names.unique()})
    limits = names.map({name: _limit_of(study, name) for name in names.unique()})
    spread["share"] = spread["ptp"] / widths
    apart = spread[(spread["count"] > 1) & (spread["ptp"] > limits + TOLERANCE)]
    items = apart.groupby(["case", "image"], sort=False)["share"].agg(fields="count", worst="max").reset_index()
    return items.sort_values(["worst", "fields"], ascending=False, kind="stable", ignore_index=True)


def adjudication_items(readings: Readings, study: Study) -> dict[str, Shown | None]:
    """The items on which readers disagree, the largest disagreement first, with the blind values of each as A, B, ...

    New letters are drawn for each item, so that they identify nobody.
    """
    apart = disagreements(readings, study)
    keys = {(item.case, item.image): key for key, item in readings.items.items()}
    first, fields = first_readings(readings.table), {(f.target, f.region): f for f in readings.form.fields}
    items: dict[str, Shown | None] = {}
    for case, image in apart[["case", "image"]].itertuples(index=False):
        own = first[(first["case"] == case) & (first["image"] == image)]
        names = np.random.default_rng([study.seed, len(items)]).permutation(sorted(own["reader"].unique()))
        shown: Shown = {}
        for number, name in enumerate(names):
            for row in own[own["reader"] == name].itertuples():
                field = fields[row.target, row.region]
                text = f"cannot be judged ({row.reason})" if np.isnan(row.value) else _text(row.value, field)
                shown.setdefault(field.key, []).append(f"{chr(ord('A') + number)}: {text}")
        items[keys[case, image]] = shown
    return items


def table_rows(study: Study, cohort: Cohort) -> pd.DataFrame:
    """The rows of the study's table, one for each image in the order of the cohort, with absolute paths."""
    cells, _ = read_text_table(study.cohort, Problems(), sheet=study.sheet)
    heading = study.columns.get("path") or "path"
    folder = (study.root or study.cohort.parent).absolute()
    row_of: dict[str, int] = {}
    names = FileNames()  # as `casewise.cohort.checks.check_files` reads them
    for row, text in cells[heading].items():
        for path in names.below(folder, str(text)):
            row_of.setdefault(path, row)
    paths = cohort.images["path"].astype(str)
    return cells.loc[[row_of[path] for path in paths]].reset_index(drop=True).assign(**{heading: paths.to_numpy()})


def _label_column(study: Study, name: str) -> str:
    """The column of the table that has the label of a target; a new one where it is the mean of several."""
    column = study.targets[name].column or study.columns.get(name) or name
    return column if isinstance(column, str) else name


def labels_of(
    readings: Readings, study: Study, cohort: Cohort, sessions: Sequence[str] = (), *, keep: bool = False
) -> Labels:
    """The table of a study with the values of all readers and their consensus.

    Values of an adjudication session replace the consensus; one that the chair could not judge has no label.

    Args:
        sessions: by default all blind ones, and what was adjudicated.
        keep: whether cases without a reading keep the label that the table has.

    Raises:
        CasewiseError: nothing was read in these sessions; or the table has a column of the name of a new one.
    """
    table = readings.table
    first = first_readings(table, sessions)
    if first.empty:
        sessions_text = ", ".join(f"{n} ({k})" for n, k in readings.store.sessions().items()) or "none"
        raise CasewiseError(
            f"There is nothing to export: no case was read in the chosen sessions. Sessions: {sessions_text}."
        )
    final = table[(table["kind"] == "adjudication") & (table["session"].isin(sessions) | (not sessions))]
    adjudicated = final.sort_values("entry").drop_duplicates(KEYS, keep="last").set_index(KEYS)["value"]
    read_targets = set(first["target"])
    names = [name for name in dict.fromkeys(field.target for field in readings.form.fields) if name in read_targets]
    exported = table_rows(study, cohort)
    rules: dict[str, Consensus] = {}
    limits = {field.target: _limit_of(study, field.target) for field in readings.form.fields}
    labels: list[pd.DataFrame] = []
    without: dict[str, int] = {}
    columns: dict[str, dict[str, str]] = {}
    by_case = {field.target for field in readings.form.fields if not field.region}
    fields = {field.target: field for field in readings.form.fields}
    # a later session of the same reader has columns of its own
    end = "".join(f"_{name}" for name in sessions)
    for name in names:
        rule = rules[name] = _rule_of(study, name)
        own, limit = first[first["target"] == name], limits[name]
        read = own.set_index(KEYS).index.unique()
        values = own.dropna(subset="value").groupby(KEYS)["value"]
        label = values.agg(lambda group: consensus(group.to_numpy(), rule, limit)).reindex(read)  # noqa: B023
        decided = read.intersection(adjudicated.index)
        label[decided] = adjudicated[decided]
        without[name] = int(label.isna().sum())
        labels.append(label.rename("value").reset_index())
        keys = pd.MultiIndex.from_frame(_keys(cohort, name, by_case=name in by_case, readings=readings))
        cells, own_column = pd.Series(_texts(label.reindex(keys), fields[name])), _label_column(study, name)
        if keep:
            unread = ~keys.isin(read)
            cells[unread] = _recorded(exported, study, name)[unread]
        exported[own_column] = cells
        for reader in sorted(own["reader"].unique()):
            column = columns.setdefault(name, {})[str(reader)] = f"{name}_{reader}{end}"
            # the column that the study states as this reader's is replaced by what the reader says now
            if column in exported and study.evaluation.readers.get(name, {}).get(str(reader)) != column:
                raise CasewiseError(
                    f"{study.cohort} has a column {column}, which the export would replace. Rename it, or state it as "
                    f"`evaluation: {{readers: {{{name}: {{{reader}: {column}}}}}}}` if it is of an earlier export."
                )
            of_reader = own[own["reader"] == reader].set_index(KEYS)["value"]
            exported[column] = _texts(of_reader.reindex(keys), fields[name])
    return Labels(exported, pd.concat(labels, ignore_index=True), limits, rules, without, columns)


def _recorded(table: pd.DataFrame, study: Study, name: str) -> pd.Series:
    """The label that the table has, as text; the mean of several columns."""
    stated = study.targets[name].column
    if isinstance(stated, list):
        means = table[stated].apply(pd.to_numeric, errors="coerce").mean(axis=1, skipna=False)
        return means.map(lambda value: "" if np.isnan(value) else f"{value:.10g}")
    column = _label_column(study, name)
    return table[column].astype(str) if column in table else pd.Series("", index=table.index)


def _keys(cohort: Cohort, name: str, *, by_case: bool, readings: Readings) -> pd.DataFrame:
    """The key of the label of each image of the cohort."""
    single = any(item.image for item in readings.items.values())
    images = cohort.images
    keys = pd.DataFrame({"case": images["case"], "image": images["path"].astype(str) if single else ""})
    return keys.assign(target=name, region="" if by_case else images["region"])[KEYS]


def _texts(values: Iterable[float], field: FormField) -> list[str]:
    """Values as the table of a study has them; empty without one."""
    return ["" if np.isnan(value) else _text(value, field) for value in values]


def _text(value: float, field: FormField) -> str:
    return f"{value:.10g}" if kind_named(field.kind).form == "number" else field.options[int(value)].value


def write_labels(labels: Labels, readings: Readings, path: Path) -> list[Path]:
    """Write the table as CSV, and next to it every reading with its comment; texts that a sheet executes are marked.

    Returns:
        The two files.
    """
    every, fields = _every_reading(path), {(field.target, field.region): field for field in readings.form.fields}
    table = readings.table.drop(columns="entry")
    own = [fields[key] for key in zip(table["target"], table["region"], strict=True)]
    table = table.assign(value=[t for v, f in zip(table["value"], own, strict=True) for t in _texts([v], f)])
    tables = {path: labels.table, every: table}
    return [write_atomic(file, csv_text(texts.fillna("").astype(str))) for file, texts in tables.items()]


def _every_reading(path: Path) -> Path:
    """The file with every reading, next to an exported table."""
    return path.with_name(f"{path.stem}-readings.csv")


def check_export(path: Path, table: Path) -> None:
    """Check that labels may be written to a file: it is new, or an earlier export.

    Args:
        table: of the study.

    Raises:
        CasewiseError: it has another ending, is a folder, or would replace another file.
    """
    problem = ""
    if path.is_dir():
        problem = "is a folder"
    elif path.suffix.casefold() != ".csv":
        problem = "does not end in .csv"
    elif path.exists() and path.samefile(table):
        problem = "is the table of the study"
    elif path.exists() and not _every_reading(path).exists():
        problem = "exists and is not an export"
    if problem:
        raise CasewiseError(f"--export: {path} {problem}. Name a new file, such as labels.csv.")


def study_lines(labels: Labels, study: Study, path: Path) -> str:
    """The lines of a study file that read the table, with the readers of numbers, which a run compares."""
    lines = [f"cohort: {path}"]
    several = [name for name in labels.rules if isinstance(study.targets[name].column, list)]
    lines += ["targets:", *(f"  {name}: {{column: {name}}}" for name in several)] if several else []
    numbers = {name: of for name, of in labels.readers.items() if kind_named(study.kind_of(name)).arithmetic}
    numbers = {name: of for name, of in numbers.items() if len(of) > 1}
    if numbers:
        lines += ["evaluation:", "  readers:"]
        for name, of in numbers.items():
            lines.append(f"    {name}: {{{', '.join(f'{reader}: {column}' for reader, column in of.items())}}}")
    others = [column for name, of in labels.readers.items() if name not in numbers for column in of.values()]
    lines += ["audit:", f"  outcomes: [{', '.join(others)}]"] if others else []
    return "\n".join(lines)
