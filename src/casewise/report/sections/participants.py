"""Participants: their flow, and the characteristics of each side of the split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from casewise.evaluation.results import Participants
from casewise.report import formatting as fmt
from casewise.report.blocks import Cell, Fold, Row, Section, Table, Text
from casewise.report.context import EXTERNAL, SIDES, ReportContext, without_folds
from casewise.report.tables import metric_format
from casewise.study.schema import Study

MOST_VALUES, LONGEST = 4, 24
SIZES = ("subjects", "cases", "images")
STEPS = {
    "read": "Rows of the study's table",
    "where": "Kept only where {column} is {values}",
    "where_not": "Left out where {column} is {values}",
    "decisions": "Left out, with the reason of each image in {column}",
    "other_classes": "Left out: classes in {column} that the study does not list ({values})",
    "sample": "Left out where {column} has more rows than the seed drew ({values})",
    "images": "Left out: images missing, or a part of them that the study needs, such as a sequence",
}
SIDE_NAMES = {
    "all": "All",
    "train": "Training",
    "validation": "Validation",
    "test": "Test",
    "fold": "Fold {name}",
    "external": "External: {name}",
}
FLOW = "What each step leaves out, and what remains."
FLOW_NOTE = (
    "What was left out before the study's table was made, such as by `casewise init`, is not counted. A run stops at an"
    " image that this table names but that is missing or cannot be read."
)
CHARACTERISTICS = (
    "Numbers: mean (standard deviation), below it the median with its quartiles. Categories: count and share of those"
    " recorded. Folds have no median and no share. Each subject counts once, except where another unit is named."
)
COLUMNS_NOTE = "Further columns are described if `evaluation.subgroups` or `audit.columns` of the study names them."


def section(context: ReportContext) -> Section | None:
    """The flow and the characteristics; None if the run has no record of participants."""
    entry, study = context.metrics.participants, context.study
    if entry is None:
        return None
    steps, outside = ["Step", "Left out", "Remaining"], entry.flow.get("external")
    flows = [Table(steps, _flow_rows(entry.flow, entry, study.unit), FLOW, wide=True)]
    if outside:
        rows = _flow_rows(outside, entry, study.unit)
        flows.append(Table(steps, rows, f"External cohort: {outside['name']}.", wide=True))
    heads = ["Characteristic", *(SIDE_NAMES[side["code"]].format(name=side["name"]) for side in entry.sides)]
    caption = without_folds(context, CHARACTERISTICS).replace("subject", study.unit)
    described = Table(heads, _characteristic_rows(study, entry), caption, wide=True)
    flow = Fold("Flow of participants, step by step", [*flows, Text(FLOW_NOTE, note=True)])
    sides = Fold("Characteristics by side of the split", [described, Text(COLUMNS_NOTE, note=True)])
    return Section("participants", "Participants", [Text(_in_short(entry)), flow, sides])


def _in_short(entry: Participants) -> str:
    """The described columns of all cases in a line; empty without any."""
    texts = []
    for item in entry.characteristics:
        if item["what"] != "column":
            continue
        values = item["sides"]["0"]
        if item["kind"] == "numbers":
            counts = [_numbers_cell(values, 1).text]
        else:
            named = zip(item.get("levels", []), values["counts"], strict=True)
            counts = [f"{fmt.group_label(level)}: {count:,}" for level, count in named]
            rest = f"{len(counts) - MOST_VALUES} more values: {sum(values['counts'][MOST_VALUES:]):,}"
            counts = [*counts[:MOST_VALUES], rest] if len(counts) > MOST_VALUES else counts
        counts += [f"not recorded: {values['missing']:,}"] if values["missing"] else []
        texts.append(f"{fmt.plain(item['name'])} {', '.join(counts)}")
    return f"{fmt.capital('; '.join(texts))}." if texts else ""


# -------------------------------------------------------------------------------------------------------------- flow


def _flow_rows(flow: Mapping[str, Any], entry: Participants, unit: str = "subject") -> list[Row]:
    """The steps from the table to the cohort, and what of it was predicted and evaluated; subjects are a `unit`."""
    rows = []
    for index, step in enumerate(flow["steps"]):
        values = fmt.listed(_first(step.get("values") or []), "or")
        name = STEPS.get(step["code"], step["code"]).format(column=step.get("column"), values=values)
        rows.append(Row(name, [_rows(step, unit) if index else "", _rows(step["left"], unit)]))
    cohort, external = flow["cohort"], flow is entry.flow.get("external")
    size = f"{fmt.counted(cohort['subjects'], unit)}, {fmt.counted(cohort['images'], 'file')}"
    rows.append(Row("Cohort", ["", Cell(fmt.counted(cohort["cases"], "case"), size)]))
    for stage, counts in entry.evaluated.items():
        if (stage == EXTERNAL) != external:
            continue
        scored = counts["cases_with_reference"]
        lost = fmt.counted(counts["cases"] - scored, "case")
        everyone = Cell(fmt.counted(counts["cases"], "case"), fmt.counted(counts["subjects"], unit))
        rows += [] if external else [Row(f"Predicted {SIDES[stage]}", ["", everyone])]
        cell = Cell(fmt.counted(scored, "case"), fmt.counted(counts["subjects_with_reference"], unit))
        rows.append(Row("with a reference value, evaluated", [lost, cell], inner=True))
    return rows


def _first(values: Sequence[str]) -> list[str]:
    """Values as text, the first ones if there are many; an empty cell has no text."""
    shown = [fmt.shortened(value, LONGEST) or "empty" for value in values[:MOST_VALUES]]
    return shown if len(values) <= MOST_VALUES else [*shown, f"{len(values) - MOST_VALUES} more"]


def _rows(counts: Mapping[str, Any], unit: str) -> Cell:
    what, subjects = "row" if "rows" in counts else "case", counts["subjects"]
    return Cell(fmt.counted(counts[f"{what}s"], what), "" if subjects is None else fmt.counted(subjects, unit))


# --------------------------------------------------------------------------------------------------- characteristics


def _characteristic_rows(study: Study, entry: Participants) -> list[Row]:
    """A line for each number, and for each class of a characteristic; shares are of those recorded."""
    sides = [str(position) for position in range(len(entry.sides))]
    sizes = [name for name in SIZES if name != "subjects" or study.unit != "image"]
    rows = [Row(fmt.capital(name), [f"{side[name]:,}" for side in entry.sides]) for name in sizes]
    for item in entry.characteristics:
        target = item["what"] == "target"
        name = fmt.display_name(study, item["name"]) if target else fmt.plain(item["name"])
        name = fmt.capital(name) + (f" (by {item['unit']})" if item["unit"] != "subject" else "")
        by_side = [item["sides"][side] for side in sides]
        if item["kind"] == "numbers":
            digits = metric_format(study, item["name"]).digits("mae") if target else 1
            rows.append(Row(name, _brief([_numbers_cell(values, digits) for values in by_side], entry)))
        else:
            rows.append(Row(name, ["" for _ in by_side]))
            for position, level in enumerate(item.get("levels", [])):
                cells = [_counts_cell(side["counts"], position) for side in by_side]
                label = fmt.plain(fmt.group_label(level)) if target else fmt.group_label(level)
                rows.append(Row(label, _brief(cells, entry), inner=True))
        if any(values["missing"] for values in by_side):
            rows.append(Row("not recorded", [f"{values['missing']:,}" for values in by_side], inner=True))
    return rows


def _brief(cells: Sequence[Cell], entry: Participants) -> list[Cell]:
    """The cells of a row; cells of folds without their small print."""
    pairs = zip(cells, entry.sides, strict=True)
    return [replace(cell, small="") if side["code"] == "fold" else cell for cell, side in pairs]


def _numbers_cell(values: Mapping[str, Any], digits: int) -> Cell:
    """Mean (SD), with the median and quartiles below.

    >>> _numbers_cell({"mean": 1.5, "sd": 0.5, "median": 1.5, "low": 1.25, "high": 1.75}, 1)
    Cell(text='1.5 (0.5)', small='1.5 [1.2, 1.8]', value=1.5)
    """
    if "mean" not in values:
        return Cell(fmt.MISSING)
    mean, spread, median, low, high = (
        fmt.number(values.get(name), digits) for name in ("mean", "sd", "median", "low", "high")
    )
    return Cell(f"{mean} ({spread})", f"{median} [{low}, {high}]", values["mean"])


def _counts_cell(counts: Sequence[int], position: int) -> Cell:
    """A count with its share of those recorded.

    >>> _counts_cell([3, 1], 0), _counts_cell([0, 0], 1)
    (Cell(text='3', small='75 %', value=3.0), Cell(text='0', small='', value=0.0))
    """
    total, count = sum(counts), counts[position]
    return Cell(f"{count:,}", fmt.percent(count / total) if total else "", float(count))
