"""All learners side by side: tables with intervals, forest plots, and which learners do not differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from casewise.evaluation.headline import FITTED
from casewise.metrics.registry import metric_of
from casewise.predictions.nested_cv import NESTED
from casewise.report.blocks import Cell, Counts, Row
from casewise.report.context import ReportContext, has_interval, is_number
from casewise.report.figures import learners as draw
from casewise.report.figures.drawing import MODEL, SOFT
from casewise.report.formatting import display_name, plain, signed
from casewise.report.sections import classes
from casewise.report.tables import metric_format
from casewise.report.target_kind_sections import kind_report
from casewise.study.learners import is_baseline, learner_name, learner_named

MOST_REPORTS = 16
MOST_STACKERS, MOST_STACKED = 6, 10
MOST_ALIKE = 6
# Equal figures that were added up in another order differ by less.
SAME = 1e-12


def learner_rows(context: ReportContext, stage: str) -> list[Row]:
    """One line per learner, the best first; the first cell is a code: network, nested, combined."""
    write, guide = metric_format(context.study, context.outcome), kind_report(context.kind).order_by
    sign = 1 if write.smaller_is_better(guide) else -1
    rows: list[Row] = []
    order: dict[str, float] = {}
    for learner in context.learners:
        figures = context.figures(stage, learner)
        if not figures:
            continue
        code = _code(context, learner)
        only = plain(context.constant_class(stage, learner))
        cells = [write.cell(metric, figures.get(metric)) for metric in context.columns("learners", stage)]
        rows.append(Row(learner, [Cell(code, only, code), *cells], mark=learner == context.learner))
        figure = context.metric(stage, learner, guide)
        if stage == "oof" and context.metrics.get("site_means"):
            figure = context.mean_within(learner, guide)
        value = (figure or {}).get("value")
        order[learner] = sign * float(value) if value is not None and is_number(value) else np.inf
    return sorted(rows, key=lambda row: (order[row.name], row.name))


def _code(context: ReportContext, learner: str) -> str:
    """What kind of learner this is: network, nested, combined, or the noun of a baseline."""
    if is_baseline(learner):
        return learner_named(learner).noun
    return "network" if learner in context.study.networks else "nested" if learner == NESTED else "combined"


def section(context: ReportContext) -> dict[str, Any] | None:
    """The learners' tables, the forest plots and the comparisons; None where nothing was evaluated."""
    stages = [(stage, rows) for stage in context.stages if (rows := learner_rows(context, stage))]
    if not stages:
        return None
    kind, several = kind_report(context.kind), len(stages[0][1]) > 1
    comparisons = [compared for stage in context.stages if (compared := comparison(context, stage))]
    return {
        "stages": stages,
        "columns": context.columns("learners"),
        "order_by": kind.order_by,
        "merit": context.merit,
        "forests": [plot for metric in kind.forests if several and (plot := _forest(context, metric))],
        "several": several,
        "comparisons": comparisons,
        "combined": fitted_learners([name for name in context.learners if context.figures("oof", name)]),
        "weights": stacker_tables(context),
        "reports": reports(context) if several and context.classes else [],
        "code_names": code_names(context.learners),
        "more_reports": max(0, len(context.learners) - MOST_REPORTS),
    }


def _forest(context: ReportContext, metric: str) -> dict[str, Any] | None:
    """One metric of all learners, ordered by the out-of-fold figure of merit; None where no learner has it."""
    merit = {
        name: context.metric("oof", name, context.merit) or context.metric(context.stage, name, context.merit)
        for name in context.learners
    }
    order = sorted(context.learners, key=lambda name: -(merit[name] or {}).get("value", -np.inf))
    figures = {
        stage: {name: f for name in context.learners if (f := context.metric(stage, name, metric))}
        for stage in context.stages
    }
    ranked = [name for name in order if any(name in by_learner for by_learner in figures.values())]
    if not ranked:
        return None
    looks = {"test": ("test set", MODEL, "o"), "oof": ("out of fold", SOFT, "D")}
    # the first series is drawn stronger
    weights = [(1.7, 5.5), (1.1, 3.8)]
    stages = [stage for stage in looks if figures.get(stage)]
    series = [
        draw.Series(looks[stage][0], figures[stage], *looks[stage][1:], line=line, size=size)
        for stage, (line, size) in zip(stages, weights, strict=False)
    ]
    write = metric_format(context.study, context.outcome)
    smaller = write.smaller_is_better(metric)
    points = ", points" if metric == "mae" else ""
    drawing = draw.forest(
        ranked,
        series,
        shown=context.learner,
        label=f"{write.title(metric)}{points} ({'smaller' if smaller else 'larger'} is better)",
        name=metric,
        percent=write.in_percent(metric),
    )
    return {
        "drawing": drawing,
        "metric": metric,
        "count": len(ranked),
        "shown": figures[context.stage].get(context.learner),
    }


def with_same_value(differences: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The learners whose difference from the best is 0, up to rounding.

    >>> with_same_value({"b": {"difference": 1e-17}, "c": {"difference": -0.1}, "d": {"difference": None}})
    ['b']
    """
    from_best = {name: entry.get("difference") for name, entry in differences.items()}
    return [name for name, difference in from_best.items() if difference is not None and abs(difference) < SAME]


def comparison(context: ReportContext, stage: str) -> dict[str, Any] | None:
    """The learner with the best figure of a stage, and those that do not differ from it beyond chance.

    `equal`: other learners with the same value; `only`: of these and the best, those that predict one class for every
    case, and that class; `code`: `ahead` of every other learner, `none_differs`, or `some_alike`; `without`: whether
    one of these differences has no interval.
    """
    metric = kind_report(context.kind).compared
    entry = context.metrics.get("comparisons", {}).get(stage, {}).get(context.outcome, {}).get(metric)
    if not entry or not entry.get("differences") or (stage == "oof" and context.metrics.get("site_means")):
        return None
    alike = [name for name in entry["indistinguishable"] if name != entry["best"]]
    best = entry["best"]
    equal = with_same_value(entry["differences"])
    shown = [best, *equal[:MOST_ALIKE]] if metric_of(metric).of_decisions else []
    count = len(entry["differences"])
    write = metric_format(context.study, context.outcome)
    return {
        "code": "ahead" if not alike else "none_differs" if len(alike) == count else "some_alike",
        "stage": stage,
        "best": best,
        "equal": equal[:MOST_ALIKE],
        "more_equal": max(0, len(equal) - MOST_ALIKE),
        "metric": write.phrase(metric),
        "smallest": write.smaller_is_better(metric),
        "only": {name: plain(only) for name in shown if (only := context.constant_class(stage, name))},
        "others": count,
        "alike": alike[:MOST_ALIKE],
        "count": len(alike),
        "more": max(0, len(alike) - MOST_ALIKE),
        "rough": bool(entry.get("rough")),
        "without": not all(has_interval(entry["differences"].get(name)) for name in alike),
    }


def reports(context: ReportContext) -> list[tuple[str, list[Row], Counts]]:
    """Each learner's classification report (the published form) with its confusion matrix, the shown learner first."""
    stage, tables = context.stage, []
    order = [context.learner, *(name for name in context.learners if name != context.learner)]
    for learner in order[:MOST_REPORTS]:
        entry = context.class_entry(stage, learner)
        if entry:
            rows = classes.class_rows(context, stage, learner, context.outcome)
            # precision, recall, F1, support: the order of the source
            columns = [1 + context.class_columns.index(name) for name in ("precision", "recall", "f1")]
            rows = [Row(row.name, [row.cells[i] for i in (*columns, 0)], inner=row.inner) for row in rows]
            tables.append((learner, rows, classes.matrix(entry)))
    return tables


def stacker_tables(context: ReportContext) -> list[tuple[str, list[str], list[Row]]]:
    """For each combined learner what it predicts, and a line per network with its weight; the intercept last."""
    tables = []
    for learner, by_target in list(context.stackers.items())[:MOST_STACKERS]:
        fitted = {name: fit for name, fit in by_target.items() if isinstance(fit, dict) and fit.get("weights")}
        targets = list(fitted)[:MOST_STACKED]
        networks = list(dict.fromkeys(network for name in targets for network in fitted[name]["weights"]))
        rows = [
            Row(learner_name(n), [Cell(signed(fitted[name]["weights"].get(n), 3)) for name in targets])
            for n in networks
        ]
        rows.append(Row("intercept", [Cell(signed(fitted[name].get("intercept", 0.0), 3)) for name in targets]))
        if targets:
            tables.append((learner, [display_name(context.study, name) for name in targets], rows))
    return tables


def code_names(learners: Iterable[str]) -> list[tuple[str, str]]:
    """What reports call a learner, and its name in files, for those in which the two differ.

    >>> code_names(["resnet18", "linear_pixels"])
    [('linear model on pixels', 'linear_pixels')]
    """
    return [(learner_name(name), name) for name in dict.fromkeys(learners) if learner_name(name) != name]


def fitted_learners(learners: list[str]) -> list[str]:
    """The combinations whose weights were fitted on predictions, for other folds or sources.

    >>> fitted_learners(["net", "mean_of_learners"])
    []
    """
    return [learner for learner in learners if learner.startswith(FITTED)]
