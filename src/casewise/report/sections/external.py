"""Details of the external cohort: class by class, operating points, groups of cases, and calibration."""

from __future__ import annotations

from typing import Any

from casewise.report.blocks import Cell, Row
from casewise.report.context import EXTERNAL, ReportContext, is_number
from casewise.report.formatting import plain
from casewise.report.sections import classes
from casewise.report.tables import MetricFormat, metric_format

BY_CLASS = ("recall", "precision", "auroc")
MOST_GROUPS = 20
MOST_RECALLS = 6


def details(context: ReportContext) -> dict[str, Any]:
    """The parts of the section that stand below the table of all metrics; each is empty if there is nothing in it."""
    entry = context.class_entry(EXTERNAL, context.learner)
    return {
        "class_rows": class_rows(context, entry) if entry else [],
        "points": classes.point_rows(entry) if entry else [],
        "groups": groups(context),
        "calibration": classes.calibration(context, EXTERNAL) if entry else None,
    }


def inside_cell(context: ReportContext, write: MetricFormat, metric: str) -> Cell:
    """The study's own figure: where sources were left out, the mean within them."""
    if figure := context.headline_figure(metric):
        return write.cell(metric, figure)
    if context.by_site:
        drop = ((context.metrics.get("external_drop") or {}).get(context.learner) or {}).get(metric)
        return write.cell(metric, {"value": drop["internal"]} if drop else None)
    return write.cell(metric, context.figures(context.stage, context.learner).get(metric))


def difference_cell(context: ReportContext, write: MetricFormat, metric: str) -> Cell:
    """The external figure minus that of the study with its interval."""
    drop = ((context.metrics.get("external_drop") or {}).get(context.learner) or {}).get(metric)
    outside = (context.figures(EXTERNAL, context.learner).get(metric) or {}).get("value")
    return write.difference(metric, drop, inside_cell(context, write, metric).value, outside)


def class_rows(context: ReportContext, entry: dict[str, Any]) -> list[Row]:
    """For each class of the external cohort its recall, precision and AUROC inside, outside, and the difference."""
    write, outside = metric_format(context.study, context.outcome), context.figures(EXTERNAL, context.learner)
    rows = []
    for label, support in zip(entry["names"], entry["support"], strict=True):
        for metric in BY_CLASS:
            key = f"{metric}[{label}]"
            if (outside.get(key) or {}).get("value") is None:
                continue
            cells = [
                inside_cell(context, write, key),
                write.cell(key, outside.get(key)),
                difference_cell(context, write, key),
            ]
            name = f"{plain(label)} ({support:,}), {write.phrase(metric)}"
            rows.append(Row(name, cells))
    return rows


def groups(context: ReportContext) -> list[dict[str, Any]]:
    """For each column its groups of cases with their figures, and how many further groups are not shown."""
    write = metric_format(context.study, context.outcome)
    recalls = [f"recall[{label}]" for label in context.classes] if len(context.classes) <= MOST_RECALLS else []
    metrics = [*context.columns("page_external"), *recalls]
    tables = []
    for column, by_group in (context.metrics.get("external_by") or {}).items():
        rows = []
        for group, by_learner in by_group.items():
            figures = by_learner.get(context.learner) or {}
            first: dict[str, Any] = next(iter(figures.values()), {})
            counts = [Cell(f"{first[key]:,}" if is_number(first.get(key)) else "") for key in ("n_cases", "n_subjects")]
            rows.append(Row(group, [*counts, *(write.cell(metric, figures.get(metric)) for metric in metrics)]))
        heads = [
            write.title(metric) + (f", {plain(metric.partition('[')[2][:-1])}" if "[" in metric else "")
            for metric in metrics
        ]
        tables.append(
            {
                "column": plain(column),
                "heads": ["Cases", "Subjects", *heads],
                "rows": rows[:MOST_GROUPS],
                "more": max(0, len(rows) - MOST_GROUPS),
            }
        )
    return tables


def section(context: ReportContext) -> Section | None:
    """To be converted."""
    return None
