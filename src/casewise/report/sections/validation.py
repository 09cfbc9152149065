"""Nested cross-validation, figures over the folds, leave-one-site-out, and the external cohort."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from casewise.cohort.dates import natural
from casewise.predictions.nested_cv import NESTED, chosen_networks
from casewise.report.context import EXTERNAL, ReportContext, is_number
from casewise.report.external_validation import external_result
from casewise.report.formatting import MISSING, number
from casewise.report.sections import classes, learners
from casewise.report.sections import external as outer
from casewise.report.tables import Cell, MetricFormat, Row, metric_format
from casewise.report.terms import predicted_externally
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.study.schema import Study

MOST_NETWORKS = 12
MOST_CANDIDATES = 200


# ------------------------------------------------------------------------------------------------------ nested CV


def choices_of(jobs: Sequence[Mapping[str, Any]], networks: Sequence[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """What inner folds chose, [fold][network] = {lr, epochs, loss}; empty without nested cross-validation."""
    by_fold: dict[str, dict[str, Mapping[str, Any]]] = {}
    order = {name: index for index, name in enumerate(networks)}
    tuned = [job for job in jobs if job.get("inner") and job["model"] in order]
    for job in sorted(tuned, key=lambda job: (natural(job["fold"]), order[job["model"]])):
        by_fold.setdefault(str(job["fold"]), {})[str(job["model"])] = job["inner"]["chosen"]
    return by_fold


def tuning(jobs: Sequence[Mapping[str, Any]], *, epochs: int, tuned_epochs: bool) -> dict[str, Any] | None:
    """How inner folds chose, and how often a choice lay at the limit of what was tried; None without them.

    Args:
        epochs: the most that were allowed; `tuned_epochs`: whether their number was chosen.
    """
    inner = [job["inner"] for job in jobs if job.get("inner")]
    if not inner:
        return None
    rates = [rate["lr"] for rate in inner[0]["rates"]]
    last = sum(entry["chosen"]["epochs"] >= epochs for entry in inner) if tuned_epochs else 0
    edge = sum(entry["chosen"]["lr"] in (min(rates), max(rates)) for entry in inner) if len(rates) > 2 else 0
    return {
        "tuned_epochs": tuned_epochs,
        "rates": rates,
        "folds": inner[0]["folds"],
        "choices": len(inner),
        "epochs": epochs,
        "at_last_epoch": last,
        "at_edge_rate": edge,
        "failed": sum("failed" in training for entry in inner for training in entry["trainings"]),
        "pruning": pruned([job for job in jobs if job.get("inner")], epochs),
    }


def pruned(jobs: Sequence[Mapping[str, Any]], epochs: int) -> dict[str, Any] | None:
    """Every candidate rate with the epochs that it was trained, and why not longer; None without pruning."""
    decided = [job for job in jobs if job["inner"].get("pruning")]
    if not decided:
        return None
    rows = [
        {"fold": job["fold"], "model": job["model"], **entry}
        for job in sorted(decided, key=lambda job: (natural(job["fold"]), str(job["model"])))
        for entry in job["inner"]["pruning"]["candidates"]
    ]
    return {
        "rungs": decided[0]["inner"]["pruning"]["rungs"],
        "candidates": len(rows),
        "stopped": sum(row["why"] == "not_in_best_half" for row in rows),
        "trained": sum(len(training.get("losses", [])) for job in decided for training in job["inner"]["trainings"]),
        "all": sum(len(job["inner"]["trainings"]) * epochs for job in decided),
        "rows": rows[:MOST_CANDIDATES],
        "more": max(len(rows) - MOST_CANDIDATES, 0),
    }


def nested(
    study: Study, jobs: Sequence[Mapping[str, Any]], learners: Collection[str], most: int = MOST_NETWORKS
) -> dict[str, Any] | None:
    """What inner folds chose in each fold, of the first `most` networks; None without nested cross-validation."""
    by_fold = choices_of(jobs, study.networks)
    if not by_fold or not study.nested_cv:
        return None
    choice, networks = chosen_networks(jobs, study.networks), study.networks[:most]
    return {
        "tuning": tuning(jobs, epochs=study.recipe.epochs, tuned_epochs=study.nested_cv.epochs),
        "networks": networks,
        "folds": [
            (fold, [by_network.get(name) for name in networks], choice["folds"][fold]["network"])
            for fold, by_network in by_fold.items()
        ],
        "losses": [choice["final"]["losses"].get(name) for name in networks],
        "final": choice["final"]["network"] if NESTED in learners else "",
        "more": len(study.networks) - len(networks),
        "name": NESTED,
    }


# ----------------------------------------------------------------------------------------------- over the folds


def tables_of(names: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Learners in tables that differ in one thing each: (`fusion`, `backbone`, `others` or empty; which; learners).

    Where backbones and fusions both differ that is a table for each fusion of several backbones, and one for each
    backbone of several fusions; the remaining learners, stackers too, come last. Else one table without a title.

    >>> tables_of(["vit@early", "alexnet@early", "vit@late"])
    [('fusion', 'early', ['vit@early', 'alexnet@early']), ('backbone', 'vit', ['vit@early', 'vit@late'])]
    >>> tables_of(["vit", "mean"])
    [('', '', ['vit', 'mean'])]
    """
    pairs = {name: name.partition("@")[::2] for name in names if "@" in name}
    tables = []
    for index, shared in ((1, "fusion"), (0, "backbone")):
        for common in dict.fromkeys(pair[index] for pair in pairs.values()):
            group = [name for name, pair in pairs.items() if pair[index] == common]
            tables += [(shared, common, group)] if len(group) > 1 else []
    if len(tables) < 2:
        return [("", "", list(names))]
    rest = [name for name in names if not any(name in group for *_, group in tables)]
    return [*tables, *([("others", "", rest)] if rest else [])]


def over_folds(context: ReportContext) -> dict[str, Any] | None:
    """Mean ± standard deviation over folds beside the pooled figures with their intervals, of the primary outcome.

    None where fewer than two folds were judged, and where folds are sources, which have a section of their own.
    """
    by_learner = context.metrics.get("over_folds", {}).get(context.outcome)
    if not by_learner or context.metrics.get("by_site"):
        return None
    write, columns = metric_format(context.study, context.outcome), context.columns("folds")
    rows: dict[str, Row] = {}
    for learner in (name for name in context.learners if name in by_learner):
        pooled, cells = context.figures("oof", learner), []
        for name in columns:
            cells += [spread(write, name, by_learner[learner].get(name)), write.cell(name, pooled.get(name))]
        rows[learner] = Row(learner_name(learner), cells, mark=learner == context.learner)
    if not rows:
        return None
    folds = len(next(iter(by_learner[next(iter(rows))].values()))["folds"])
    return {
        "tables": [
            (shared, shared_name, [rows[name] for name in names])
            for shared, shared_name, names in tables_of(list(rows))
        ],
        "columns": columns,
        "folds": folds,
        "macro": bool(context.classes),
    }


def spread(write: MetricFormat, metric: str, figure: Mapping[str, Any] | None) -> Cell:
    """Mean ± standard deviation as a cell, and of how many folds where some have no figure.

    >>> spread(MetricFormat(), "accuracy", {"mean": 0.712, "sd": 0.0834, "folds": [0.6, 0.8]}).text
    '71.2 ± 8.3 %'
    """
    if not figure or not is_number(figure.get("mean")):
        return Cell(MISSING)
    defined = sum(is_number(value) for value in figure["folds"])
    small = "" if defined == len(figure["folds"]) else f"{defined} of {len(figure['folds'])} folds"
    text = f"{write.text(metric, figure['mean'], unit=False)} ± {write.text(metric, figure['sd'])}"
    return Cell(text, small, float(figure["mean"]))


# ------------------------------------------------------------------------------------------------ external cohort


def external(context: ReportContext) -> dict[str, Any] | None:
    """Every figure inside and on the external cohort, side by side; None where nothing was predicted there."""
    if not predicted_externally(context):
        return None
    learner, write = context.learner, metric_format(context.study, context.outcome)
    outside = context.figures(EXTERNAL, learner)
    rows = []
    for metric in context.columns("external"):
        if metric in outside:
            cells = [
                outer.inside_cell(context, write, metric),
                write.cell(metric, outside.get(metric)),
                outer.difference_cell(context, write, metric),
            ]
            rows.append(Row(write.title(metric), cells))
    rows_outside, entry = context.rows(EXTERNAL, learner), context.class_entry(EXTERNAL, learner)
    return {
        "name": context.study.external_name,
        "rows": rows,
        "summary": external_summary(context),
        "cases": len(rows_outside),
        "subjects": rows_outside["subject"].nunique(),
        "matrix": classes.matrix(entry) if entry else None,
        "learners": learners.learner_rows(context, EXTERNAL) if len(context.learners) > 1 else [],
        "columns": context.columns("learners", EXTERNAL),
        **outer.details(context),
    }


def external_summary(context: ReportContext) -> dict[str, Any] | None:
    """The figure of merit outside and inside, see `external_result`; None where nothing was predicted externally.

    `code` is `unjudged` where no external case has a reference value.
    """
    if not predicted_externally(context):
        return None
    result = external_result(context.study, context.metrics, context.learner, context.stage)
    return result or {"code": "unjudged", "name": context.study.external_name, "metric": None}


# ------------------------------------------------------------------------------------------- leave-one-site-out


def left_out(context: ReportContext) -> dict[str, Any] | None:
    """Where each fold is one source: the shown learner's figures on every source, by networks not trained on it."""
    by_source: dict[str, Any] = context.metrics.get("by_site") or {}
    write = metric_format(context.study, context.outcome)
    figures = {source: by_learner.get(context.learner) or {} for source, by_learner in by_source.items()}
    metrics = [
        metric
        for metric in context.columns("external")
        if any(metric in source_figures for source_figures in figures.values())
    ]
    rows = []
    for source, source_figures in figures.items():
        count = next((entry.get("n_cases") for entry in source_figures.values()), None)
        rows.append(Row(source, [Cell(number(count, 0)), *(write.cell(m, source_figures.get(m)) for m in metrics)]))
    if not rows:
        return None
    means = [context.mean_within(context.learner, metric) for metric in metrics]
    if any(means):
        cells = [write.cell(metric, mean or None) for metric, mean in zip(metrics, means, strict=True)]
        rows.insert(0, Row("mean", [Cell(""), *cells]))
    return {
        "rows": rows,
        "columns": metrics,
        "learners": _learners_by_source(context),
        "sources": list(figures),
        "fitted": learners.fitted_learners(list(dict.fromkeys(name for names in by_source.values() for name in names))),
    }


def _learners_by_source(context: ReportContext) -> list[Row]:
    """One line per learner: its merit averaged over the sources and in each; none where there is one learner."""
    if len(context.learners) < 2 or not context.by_site:
        return []
    metric, by_source = context.merit, context.metrics["by_site"]
    write, rows = metric_format(context.study, context.outcome), []
    for learner in context.learners:
        mean = context.mean_within(learner, metric)
        cells = [write.cell(metric, by_learner.get(learner, {}).get(metric)) for by_learner in by_source.values()]
        mark = learner == context.learner
        rows.append(Row(learner_name(learner), [write.cell(metric, mean or None), *cells], mark=mark))
    return sorted(rows, key=lambda row: -float(row.cells[0].value) if is_number(row.cells[0].value) else 2.0)
