"""Cases unlike those of the training: a part of the section on the external cohort, for HTML and Markdown."""

from __future__ import annotations

from typing import Any

from casewise.evaluation.results import Drift, DriftGap, DriftGroup, Interval
from casewise.report.blocks import Cell
from casewise.report.context import ReportContext
from casewise.report.formatting import MISSING, interval, number, signed
from casewise.report.tables import MetricFormat, metric_format, percent_cell

GROUPS = ("internal", "external", "inside", "outside")
GAPS = ("outside_minus_inside", "external_minus_internal")


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values for the shown learner; None without an external cohort."""
    return values(context.metrics.get("drift"), context.learner, metric_format(context.study, context.outcome))


def values(entry: Drift | None, learner: str, write: MetricFormat) -> dict[str, Any] | None:
    """The comparison of the cohorts and the figures of `learner`; either may be missing."""
    if entry is None:
        return None
    cohorts, figures = entry.cohorts or None, entry.learners.get(learner)
    if not cohorts and not figures:
        return None
    shown: dict[str, Any] = {"cohorts": cohorts, "figures": figures, "learner": learner, "columns": [], "rows": []}
    if figures:
        confident = figures.external.confidence is not None
        groups = (figures.internal, figures.external, figures.inside, figures.outside)
        gaps = (figures.outside_minus_inside, figures.external_minus_internal)
        shown["columns"] = [write.title(figures.quality), *(["Mean confidence"] if confident else [])]
        shown["rows"] = [
            *((name, _group(each, figures.quality, write)) for name, each in zip(GROUPS, groups, strict=True)),
            *((name, _gap(each, figures.quality, confident, write)) for name, each in zip(GAPS, gaps, strict=True)),
        ]
    return shown


def _group(group: DriftGroup, quality: str, write: MetricFormat) -> list[Cell]:
    cells = [Cell(number(group.answers, 0)), percent_cell(group.outside), write.cell(quality, group.quality)]
    return [*cells, *([percent_cell(group.confidence)] if group.confidence else [])]


def _gap(gap: DriftGap, quality: str, confident: bool, write: MetricFormat) -> list[Cell]:
    cells = [Cell(""), Cell(""), _signed(gap.quality, write.in_percent(quality), write.digits(quality))]
    return [*cells, *([_signed(gap.confidence, True, 0)] if confident else [])]


def _signed(figure: Interval | None, percent: bool, digits: int) -> Cell:
    """A difference with its interval; shares in percentage points."""
    if figure is None:
        return Cell(MISSING)
    scale, unit = (100, " points") if percent else (1, "")
    ends = {name: scale * end for name, end in (("low", figure.low), ("high", figure.high)) if end is not None}
    value = scale * figure.value
    return Cell(signed(value, digits) + unit, interval(ends, digits), value)
