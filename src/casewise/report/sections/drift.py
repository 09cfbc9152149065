"""Cases unlike those of the training: a part of the section on the external cohort, for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import MISSING, interval, number, signed
from casewise.report.tables import Cell, MetricFormat, metric_format, percent_cell

GROUPS = ("internal", "external", "inside", "outside")
DIFFERENCES = ("outside_minus_inside", "external_minus_internal")


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values for the shown learner; None without an external cohort."""
    return values(context.metrics.get("drift"), context.learner, metric_format(context.study, context.outcome))


def values(entry: Mapping[str, Any] | None, learner: str, write: MetricFormat) -> dict[str, Any] | None:
    """The comparison of the cohorts and the figures of `learner`; either may be missing."""
    if not entry:
        return None
    cohorts, figures = entry.get("cohorts") or None, (entry.get("learners") or {}).get(learner)
    if not cohorts and not figures:
        return None
    shown: dict[str, Any] = {"cohorts": cohorts, "figures": figures, "learner": learner, "columns": [], "rows": []}
    if figures:
        quality = figures["quality"]
        confident = "confidence" in figures["external"]
        shown["columns"] = [write.title(quality), *(["Mean confidence"] if confident else [])]
        shown["rows"] = [
            *((name, _group(figures[name], quality, confident, write)) for name in GROUPS),
            *((name, _difference(figures[name], quality, confident, write)) for name in DIFFERENCES),
        ]
    return shown


def _group(group: Mapping[str, Any], quality: str, confident: bool, write: MetricFormat) -> list[Cell]:
    cells = [Cell(number(group["answers"], 0)), percent_cell(group.get("outside")), write.cell(quality, group[quality])]
    return [*cells, *([percent_cell(group["confidence"])] if confident else [])]


def _difference(gap: Mapping[str, Any], quality: str, confident: bool, write: MetricFormat) -> list[Cell]:
    cells = [Cell(""), Cell(""), _signed(gap.get(quality), write.in_percent(quality), write.digits(quality))]
    return [*cells, *([_signed(gap.get("confidence"), True, 0)] if confident else [])]


def _signed(figure: Mapping[str, Any] | None, percent: bool, digits: int) -> Cell:
    """A difference with its interval; shares in percentage points."""
    if not figure or not is_number(figure.get("value")):
        return Cell(MISSING)
    scale, unit = (100, " points") if percent else (1, "")
    ends = {key: scale * figure[key] for key in ("low", "high") if is_number(figure.get(key))}
    value = scale * float(figure["value"])
    small = interval(ends, digits)
    return Cell(signed(value, digits) + unit, f"{small} rough" if small and figure.get("rough") else small, value)
