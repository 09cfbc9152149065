"""All learners side by side: the published tables with intervals, forest plots, and who cannot be told apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from casewise.metrics.registry import columns
from casewise.predictions.nested_cv import NESTED
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import learners as figures_learners
from casewise.report.formatting import digits_for, interval, number
from casewise.report.sections import classes, summary, tables
from casewise.report.sections import per_source as within
from casewise.report.sections.measures import bounds, measure_cell, measure_of, written
from casewise.report.sections.tables import Cell, Row, figure_cell
from casewise.report.sections.terminology import Words
from casewise.targets import kind_named

FORESTS = {
    "regression": ("mae", "ccc"),
    "classification": ("accuracy", "auroc"),
    "ordinal": ("accuracy", "kappa_quadratic"),
}
MOST_REPORTS = 16


def columns_of(material: ReportContext) -> list[str]:
    """The metrics of the learners' table."""
    n_classes = len(material.study.classes_of(material.study.primary_outcome)) or None
    return columns("learners", kind_named(material.kind).metrics_of, n_classes)


def learner_rows(material: ReportContext, stage: str) -> list[Row]:
    """One line a learner (the published table), the best first: the smallest MAE, or the highest figure of merit."""
    study, outcome, names = material.study, material.study.primary_outcome, columns_of(material)
    guide, sign = ("mae", 1) if material.kind == "regression" else (material.merit, -1)
    rows, order = [], {}
    for learner in material.learners:
        figures = material.figures(stage, learner, outcome)
        if not figures:
            continue
        kind = "network" if learner in study.networks else "chosen inside" if learner == NESTED else "combined"
        only = material.classed(stage, learner).get("names_only")
        named = f"names every {Words(material).noun} {only.replace('_', ' ')}" if only else ""
        if material.kind == "regression":
            cells = [figure_cell(figures.get(m), digits_for(study, m, outcome)) for m in names]
        else:
            cells = [measure_cell(m, figures.get(m)) for m in names]
        rows.append(Row(learner, [Cell(kind, named, kind), *cells], mark=learner == material.learner))
        merit = material.metric(stage, learner, guide)
        if within.is_mixed(material, stage):
            mean = within.mean_of(material, learner, guide)
            merit = mean if is_number(mean.get("value")) else None
        order[learner] = sign * merit["value"] if merit else np.inf
    return sorted(rows, key=lambda row: (order[row.name], row.name))


def learners(material: ReportContext) -> dict[str, Any] | None:
    """The learners' tables, the forest plots, who cannot be told apart; None where nothing was judged."""
    found = [(stage, learner_rows(material, stage)) for stage in material.stages]
    found = [(stage, rows) for stage, rows in found if rows]
    if not found:
        return None
    several, numbers = len(found[0][1]) > 1, material.kind == "regression"
    titles = [measure_of(m).title for m in columns_of(material)]
    comparisons = [
        text
        for stage in material.stages
        for metric in FORESTS[material.kind]
        if (text := summary.comparison(material, stage, metric))
    ]
    return {
        "stages": found,
        "heads": ["Learner", "Kind", *titles],
        "mixed": within.pooled(material) if within.is_mixed(material) else "",
        "order": "smallest mean error first" if numbers else f"highest {measure_of(material.merit).words} first",
        "merit": "CCC" if numbers else measure_of(material.merit).words,
        "forests": [plot for metric in FORESTS[material.kind] if several and (plot := _forest(material, metric))],
        "several": several,
        "comparisons": comparisons,
        "combined": any(row.cells[0].text == "combined" for row in found[0][1]),
        "weights": tables.stacker_tables(material),
        "reports": [] if numbers or not several else reports(material),
        "more_reports": max(0, len(material.learners) - MOST_REPORTS),
    }


def _forest(material: ReportContext, metric: str) -> Any:
    """One metric of all learners, ordered by the out-of-fold figure of merit; None where nobody has it."""
    merit = {
        name: material.metric("oof", name, material.merit) or material.metric(material.stage, name, material.merit)
        for name in material.learners
    }
    order = sorted(material.learners, key=lambda name: -(merit[name] or {}).get("value", -np.inf))
    figures = {
        stage: {name: f for name in material.learners if (f := material.metric(stage, name, metric))}
        for stage in material.stages
    }
    ranked = [name for name in order if any(name in found for found in figures.values())]
    if not ranked:
        return None
    best = figures[material.stage].get(material.learner)
    if material.kind == "regression":
        title = {"mae": "Mean absolute error", "ccc": "Concordance (CCC)"}[metric]
        unit, better = (", points", "smaller") if metric == "mae" else ("", "larger")
        digits = 2 if metric == "ccc" else Words(material).digits
        told = f"{number(best['value'], digits)} {interval(best, digits)}" if best else ""
    else:
        title, unit, better = measure_of(metric).title, "", "larger"
        told = f"{written(metric, best['value'])} {bounds(metric, best)}" if best else ""
    alt = f"{title} of {len(ranked)} learners with intervals; the shown one, {material.learner}"
    return figures_learners.forest(
        ranked,
        figures,
        shown=material.learner,
        label=f"{title}{unit} ({better} is better)",
        name=metric,
        alt=f"{alt}: {told}." if told else f"{alt}.",
        percent=material.kind != "regression" and measure_of(metric).percent,
    )


def reports(material: ReportContext) -> list[tuple[str, list[Row], tables.Counts]]:
    """Each learner's classification report (the published form) with its confusion matrix, the shown learner first."""
    stage, outcome = material.stage, material.study.primary_outcome
    order = [material.learner, *(name for name in material.learners if name != material.learner)]
    found = []
    for learner in order[:MOST_REPORTS]:
        told = material.classed(stage, learner)
        if told:
            rows = classes.class_rows(material, stage, learner, outcome)
            # precision, recall, F1, support: the order of the source
            rows = [Row(row.name, [*row.cells[1:4], row.cells[0]], inner=row.inner) for row in rows]
            found.append((learner, rows, classes.matrix(told)))
    return found
