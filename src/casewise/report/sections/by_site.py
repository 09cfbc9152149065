"""Where a source was left out of training in each fold: the figures within each source."""

from __future__ import annotations

from typing import Any

from casewise.evaluation.headline import FITTED
from casewise.metrics.registry import metric_of
from casewise.report.context import ReportContext, is_number
from casewise.report.sections.kinds import kind_report
from casewise.report.sections.tables import Cell, metric_format

MOST_SOURCES = 6


def mean_of(context: ReportContext, learner: str, metric: str) -> dict[str, Any]:
    """A learner's figure averaged over the sources: value, sources and those where it is undefined."""
    figure: dict[str, Any] = (context.metrics.get("within") or {}).get(learner, {}).get(metric) or {}
    return figure


def summary(context: ReportContext) -> list[dict[str, Any]]:
    """The shown learner within each source, a metric each; `mean` is None where no source has the figure."""
    lines: list[dict[str, Any]] = []
    for metric in kind_report(context.kind).by_site:
        mean = mean_of(context, context.learner, metric)
        if not mean or mean["value"] is None:
            lines.append({"metric": metric, "mean": None})
            continue
        lines.append(
            {
                "metric": metric,
                "mean": mean["value"],
                "chance": metric_of(metric).chance,
                "count": len(mean["sources"]),
                "undefined": mean["undefined"],
                "each": each_source(context, metric),
                "extremes": len(mean["sources"]) > MOST_SOURCES,
            }
        )
    return lines


def each_source(context: ReportContext, metric: str) -> list[tuple[str, dict[str, Any]]]:
    """The shown learner's figure in every source; of many sources the least and the greatest."""
    learner = context.learner
    figures = {
        source: context.metrics["left_out"][source][learner][metric]
        for source in mean_of(context, learner, metric).get("sources") or []
    }
    if len(figures) > MOST_SOURCES:
        low, high = (choose(figures, key=lambda name: figures[name]["value"]) for choose in (min, max))
        return [(low, figures[low]), (high, figures[high])]
    return list(figures.items())


def tile(context: ReportContext, metric: str) -> Cell | None:
    """One of the four figures: the mean over the sources, with each in small print."""
    mean = mean_of(context, context.learner, metric)
    if not mean or not is_number(mean.get("value")):
        return None
    write = metric_format(context.study, context.outcome)
    values = [
        f"{source} {write.text(metric, figure['value'], short=True)}" for source, figure in each_source(context, metric)
    ]
    small = f"mean of {len(mean['sources'])}: {', '.join(values)}"
    return Cell(write.text(metric, mean["value"], short=True), small, float(mean["value"]))


def fitted_learners(learners: list[str]) -> list[str]:
    """The combinations that were fitted on predictions of other sources.

    >>> fitted_learners(["net", "mean_of_learners"])
    []
    """
    return [learner for learner in learners if learner.startswith(FITTED)]
