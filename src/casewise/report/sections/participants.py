"""Participants: their flow, the characteristics of each side of the split, and the precision of the sample size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from casewise.evaluation.results import CategoryCounts, Flow, NumberSummary, Participants, Precision
from casewise.report.blocks import Cell, Row
from casewise.report.formatting import capital, display_name, group_label, number, percent, plain
from casewise.report.tables import metric_format

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study

MOST_VALUES = 6
SIZES = ("subjects", "cases", "images")


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values of the section; None if the run has no record of participants."""
    return participants(context.study, context.metrics)


def participants(study: Study, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The flow, the table of characteristics and the precision; None if the metrics have no such entry."""
    entry: Participants | None = metrics.get("participants")
    if not entry:
        return None
    outside = entry.flow.external
    return {
        "flow": flow(entry.flow),
        "external_flow": flow(outside) if outside else None,
        "external": outside.name if outside else "",
        "evaluated": entry.evaluated,
        "sides": entry.sides,
        "rows": characteristic_rows(study, entry),
        "missing": any(values.missing for row in entry.characteristics for values in row.sides.values()),
        "precision": precision(study, entry.precision),
    }


def flow(entry: Flow) -> dict[str, Any]:
    """The steps with at most six values each, and the numbers of the cohort that is left."""
    steps = [{**step, "values": _first(step.get("values") or [])} for step in entry.steps]
    return {"steps": steps, "cohort": entry.cohort, "excluded": len(steps) > 1}


def _first(values: Sequence[str]) -> list[str]:
    """Values as text, the first ones if there are many; an empty cell has no text."""
    shown = [str(value) or "empty" for value in values[:MOST_VALUES]]
    return shown if len(values) <= MOST_VALUES else [*shown, f"{len(values) - MOST_VALUES} more"]


def characteristic_rows(study: Study, entry: Participants) -> list[Row]:
    """A line for each number, and for each class of a characteristic; shares are of those recorded."""
    sides = [str(position) for position in range(len(entry.sides))]
    rows = [Row(capital(name), [Cell(f"{side[name]:,}") for side in entry.sides]) for name in SIZES]
    for item in entry.characteristics:
        target = item.what == "target"
        name = display_name(study, item.name) if target else plain(item.name)
        name = capital(name) + (f" (by {item.unit})" if item.unit != "subject" else "")
        by_side = [item.sides[side] for side in sides]
        if item.kind == "numbers":
            digits = metric_format(study, item.name).digits("mae") if target else 1
            summaries = (values for values in by_side if isinstance(values, NumberSummary))
            rows.append(Row(name, [numbers_cell(values, digits) for values in summaries]))
        else:
            rows.append(Row(name, [Cell("") for _ in by_side]))
            for position, level in enumerate(item.levels or []):
                cells = [counts_cell(side.counts, position) for side in by_side if isinstance(side, CategoryCounts)]
                rows.append(Row(plain(group_label(level)) if target else group_label(level), cells, inner=True))
        if any(values.missing for values in by_side):
            rows.append(
                Row(group_label({"code": "not_recorded"}), [Cell(f"{v.missing:,}") for v in by_side], inner=True)
            )
    return rows


def numbers_cell(values: NumberSummary, digits: int) -> Cell:
    """Mean (SD), with the median and quartiles below.

    >>> numbers_cell(NumberSummary(2, 0, mean=1.5, sd=0.5, median=1.5, low=1.25, high=1.75), 1)
    Cell(text='1.5 (0.5)', small='1.5 [1.2, 1.8]', value=1.5)
    """
    if values.mean is None:
        return Cell("–")
    mean, spread = number(values.mean, digits), number(values.sd, digits)
    quartiles = f"[{number(values.low, digits)}, {number(values.high, digits)}]"
    return Cell(f"{mean} ({spread})", f"{number(values.median, digits)} {quartiles}", values.mean)


def counts_cell(counts: Sequence[int], position: int) -> Cell:
    """A count with its share of those recorded.

    >>> counts_cell([3, 1], 0), counts_cell([0, 0], 1)
    (Cell(text='3', small='75 %', value=3.0), Cell(text='0', small='', value=0.0))
    """
    total, count = sum(counts), counts[position]
    return Cell(f"{count:,}", percent(count / total) if total else "", float(count))


def precision(study: Study, entry: Precision | None) -> dict[str, Any] | None:
    """Half the width of each headline figure's interval as text, with the subjects behind it; None without figures."""
    if not entry:
        return None
    write = metric_format(study, entry.target)
    halves, without = [], []
    for name, figure in entry.figures.items():
        scale, unit = (100, " percentage points") if write.in_percent(name) else (1, "")
        half = number(scale * figure.half_width, write.digits(name))
        if half == number(0.0, write.digits(name)):
            without.append(write.phrase(name))
        else:
            halves.append((write.phrase(name), half + unit))
    return {
        **entry,
        "halves": halves,
        "without": without,
        "rough": any(figure.rough for figure in entry.figures.values()),
        "classes": [(plain(name), count) for name, count in entry.subjects_by_class.items()],
        "confidence": f"{100 * study.evaluation.confidence:g} %",
    }
