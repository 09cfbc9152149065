"""The summary for a clinician: codes and numbers for one sentence, a few plain ones, and four main figures."""

from __future__ import annotations

from typing import Any

from casewise.metrics.registry import metric_of
from casewise.report.context import ReportContext
from casewise.report.sections import validation
from casewise.report.sections.baselines import against
from casewise.report.sections.learners import behind, comparison
from casewise.report.sections.summary_classes import class_values
from casewise.report.sections.summary_number import number_values
from casewise.report.sections.tiles import external_tiles, naive, tiles
from casewise.report.tables import hardly_varies, metric_format
from casewise.report.target_kind_sections import kind_report
from casewise.report.terms import judged_on

MOST_SOURCES = 6


def section(context: ReportContext) -> dict[str, Any]:
    """The values of the summary."""
    kind = kind_report(context.kind)
    values = number_values(context) if kind.template == "number" else class_values(context)
    return {
        "template": kind.template,
        "judged": judged_on(context),
        "empty": context.headline_rows.empty,
        "naive": naive(context),
        "baseline": against(context.study, context.metrics),
        "sources": len(context.mean_within(context.learner, kind_report(context.kind).headline).get("sources") or []),
        "by_site": within_sources(context) if context.by_site else None,
        "external": validation.external_summary(context),
        "choice": choice(context),
        "tiles": [*external_tiles(context), *tiles(context)],
        **values,
    }


def within_sources(context: ReportContext) -> list[dict[str, Any]]:
    """The shown learner within each source, a metric each; `mean` is None where no source has the figure."""
    lines: list[dict[str, Any]] = []
    for metric in kind_report(context.kind).by_site:
        mean = context.mean_within(context.learner, metric)
        if not mean or mean["value"] is None:
            lines.append({"metric": metric, "mean": None})
            continue
        lines.append(
            {
                "metric": metric,
                "mean": mean["value"],
                "figure": mean,
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
        source: context.metrics["by_site"][source][learner][metric]
        for source in context.mean_within(learner, metric).get("sources") or []
    }
    if len(figures) > MOST_SOURCES:
        low, high = (choose(figures, key=lambda name: figures[name]["value"]) for choose in (min, max))
        return [(low, figures[low]), (high, figures[high])]
    return list(figures.items())


def choice(context: ReportContext) -> dict[str, Any]:
    """Which learner is shown, how it was chosen, and which others do not differ from it."""
    write, figure = metric_format(context.study, context.outcome), context.figures("oof", context.learner)
    networks = sum(job["model"] == context.learner for job in context.jobs)
    main, compared = context.metrics.get("main") or {}, kind_report(context.kind).compared
    candidates = context.candidates
    if len(candidates) < 2:
        code = "single"
    elif main.get("learner") == context.learner and main.get("chosen_on") == "inner folds":
        code = "inner"
    elif main.get("learner") == context.learner and main.get("chosen_on") == "stated":
        code = {"meta_learner_weighted": "weighted", "mean_of_learners": "mean"}.get(context.learner, "first")
    else:
        code, candidates = "best", [name for name in candidates if context.figures("oof", name)]
    return {
        "code": code,
        "learner": context.learner,
        "learners": len(candidates),
        "baselines": len(context.learners) > len(candidates),
        "networks": networks,
        "oof": "oof" in context.stages,
        "merit": write.phrase(context.merit),
        "flat": hardly_varies(figure.get(context.merit), context.merit),
        "comparison": comparison(context, context.stage),
        "by_merit": comparison(context, context.stage, context.merit) if context.merit != compared else None,
        "behind": behind(context, context.stage) if len(context.learners) > 1 else [],
    }
