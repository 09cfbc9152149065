"""Subgroups: the headline's figures of each group, and what the tests show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from casewise.evaluation.subgroups import FEW_OF_CLASS, FEW_SUBJECTS, SIGNIFICANT
from casewise.report.blocks import Cell, Row
from casewise.report.figures import subgroups as draw
from casewise.report.formatting import capital, group_label, interval, p_value, plain
from casewise.report.tables import MetricFormat, metric_format
from casewise.report.target_kind_sections import kind_report

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values of the section, with drawings; None if the study names no subgroups."""
    values = subgroups(context.study, context.metrics)
    if values is None:
        return None
    entry, write = context.metrics["subgroups"], metric_format(context.study, context.metrics["subgroups"]["target"])
    overall = context.figures(entry["stage"], entry["learner"], entry["target"])
    shown = [name for name in kind_report(context.kind).forests if name in entry["figures"]]
    drawings = [
        {
            "metric": name,
            "drawing": draw.forest(
                entry["columns"],
                name,
                overall=(overall.get(name) or {}).get("value"),
                label=write.title(name),
                percent=write.in_percent(name),
                svg_name=f"subgroups{number}",
            ),
        }
        for number, name in enumerate(shown)
    ]
    return values | {"drawings": drawings}


def subgroups(study: Study, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tables of all columns and a verdict on each; None if the metrics have no subgroups."""
    entry = metrics.get("subgroups")
    if not entry:
        return None
    write = metric_format(study, entry["target"])
    figures, positive = entry["figures"], study.positive_of(entry["target"])
    return {
        "stage": entry["stage"],
        "learner": entry["learner"],
        "figures": figures,
        "heads": ["Group", "Subjects", *(write.title(name) for name in figures)],
        "columns": [column_values(column, figures, write, positive) for column in entry["columns"]],
        "n_tests": entry["n_tests"],
        "few": FEW_SUBJECTS,
        "few_of_class": FEW_OF_CLASS,
        "classes": bool(study.classes_of(entry["target"])),
        "confidence": f"{100 * study.evaluation.confidence:g} %",
    }


def column_values(
    column: Mapping[str, Any], figures: list[str], write: MetricFormat, positive: str | None
) -> dict[str, Any]:
    """The table of one column, and the verdict of its tests."""
    rows = []
    for group in column["groups"]:
        of_class = group.get("subjects_by_class", {}).get(positive)
        count = float(group["n_subjects"])
        cells = [Cell(f"{count:,.0f}", "" if of_class is None else f"({of_class:,} {plain(positive)})", count)]
        for name in figures:
            cell = write.cell(name, group["metrics"].get(name))
            small = f"{cell.small} small".strip() if name in group["small"] and cell.value != "" else cell.small
            cells.append(Cell(cell.text, small, cell.value))
        rows.append(Row(group_label(group), cells))
    tests = [column["tests"][name] for name in figures]
    if any(test["p"] is not None for test in tests):
        cells = [
            Cell(p_value(t["p_adjusted"]), f"unadjusted {p_value(t['p'])}" if t["p"] is not None else "") for t in tests
        ]
        rows.append(Row("p, adjusted", [Cell(""), *cells], inner=True))
    return {
        "name": plain(column["column"]),
        "heading": capital(plain(column["column"])),
        "rows": rows,
        "planned": column["planned"],
        "varies": column["varies"],
        "verdict": verdict(column, figures, write),
    }


def verdict(column: Mapping[str, Any], figures: list[str], write: MetricFormat) -> dict[str, Any]:
    """What the tests of one column show: `code` is `untested`, `differs` or `none_shown`.

    `differs`: the figures with an adjusted p-value below 0.05, each with the group that deviates most. `none_shown`
    has the smallest adjusted p-value, and the figure and group of its largest deviation. `untested`: figures.
    """
    tests = column["tests"]
    tested = [name for name in figures if tests[name]["p"] is not None]
    values: dict[str, Any] = {"untested": [write.phrase(name) for name in figures if name not in tested]}
    if not tested:
        return values | {"code": "untested", "one_group": sum(g["code"] == "value" for g in column["groups"]) < 2}
    different = [name for name in tested if tests[name]["p_adjusted"] < SIGNIFICANT]
    values["deviations"] = [deviation(column, name, write) for name in different]
    if different:
        return values | {"code": "differs"}
    least = min(tested, key=lambda name: tests[name]["p_adjusted"])
    return values | {
        "code": "none_shown",
        "tested": [write.phrase(name) for name in tested],
        "p": tests[least]["p_adjusted"],
        "deviations": [deviation(column, least, write)],
    }


def deviation(column: Mapping[str, Any], name: str, write: MetricFormat) -> dict[str, Any]:
    """The group whose figure deviates most from the mean of the others."""
    groups = [group for group in column["groups"] if name in group["differences"]]
    group = max(groups, key=lambda g: abs(g["differences"][name]["difference"]))
    figure = group["differences"][name]
    cell = write.difference(name, figure, 0.0, figure["difference"])
    return {
        "group": group_label(group),
        "metric": write.phrase(name),
        "difference": cell.text,
        "interval": write_interval(figure, name, write),
        "groups": len(groups),
        "p": column["tests"][name]["p_adjusted"],
    }


def write_interval(figure: Mapping[str, Any], name: str, write: MetricFormat) -> str:
    """The interval of a difference in words, shares in percentage points; empty if there is none.

    >>> write_interval({"low": -0.4, "high": 0.05}, "accuracy", MetricFormat())
    '−40.0 to 5.0 percentage points'
    """
    scale, unit = (100, " percentage points") if write.in_percent(name) else (1, "")
    ends = {key: scale * figure[key] for key in ("low", "high") if figure[key] is not None}
    text = interval(ends, write.digits(name), words=True)
    return text + unit if text else ""
