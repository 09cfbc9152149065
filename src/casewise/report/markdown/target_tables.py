"""The tables of one target: learners, readers, means over the folds, single classes and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casewise.evaluation.classification import temperatures_at_bound
from casewise.evaluation.thresholds import by_fold_text
from casewise.metrics.registry import columns, metric_of
from casewise.report.formatting import own_heading
from casewise.report.markdown.runs import FinishedStudy, pooled
from casewise.report.sections import validation
from casewise.report.sections.learners import code_names, fitted_learners, with_same_value
from casewise.report.tables import hardly_varies
from casewise.report.target_kind_sections import kind_report
from casewise.study.learners import learner_name

DIGITS = {"number": 2, "classes": 3}
POINT_COLUMNS = ("sensitivity", "specificity", "precision", "npv", "lr_positive", "lr_negative")
AT_PREVALENCE = ("ppv_at_prevalence", "npv_at_prevalence")
MISSING = "–"


def target_values(
    runs: Sequence[FinishedStudy], stage: str, target: str, pairs: Mapping[str, Any], reason: str
) -> dict[str, Any]:
    """A target's table, comparison, means over the folds and details; `reason`: why runs are not compared in pairs."""
    first, study = runs[0], runs[0].study
    kind, names = study.kind_of(target), study.classes_of(target)
    family = kind_report(kind).template
    digits, metrics = DIGITS[family], page_columns(runs, target, stage)
    compared = None
    if not pooled(first, stage):
        metric = kind_report(kind).compared
        entry = pairs.get(target, {}).get(metric)
        if entry and entry.get("differences"):
            smaller = metric_of(metric).larger_is_better is False
            # a run that was evaluated before these intervals were simultaneous lacks the caveat
            codes = {note.code for note in first.metrics.notes}
            together = len(runs) > 1 or "comparisons" in codes
            compared = {**entry, "metric": metric_of(metric).phrase, "smaller": smaller, "together": together}
            compared["equal"] = with_same_value(entry["differences"])
    entries = first.metrics.get("classes", {}).get(stage, {})
    only = {learner: (by_target.get(target) or {}).get("constant_class") for learner, by_target in entries.items()}
    return {
        "name": target,
        "heading": own_heading(study, target) or target,
        "kind": kind,
        "classes": names,
        "unit": study.level_of(target),
        "columns": metrics,
        "units": {run.study.level_of(target) for run in runs if run.has(stage, target)},
        "rows": learner_rows(runs, stage, target, metrics, digits),
        "combined": fitted_learners(list(dict.fromkeys(name for run in runs for name in run.figures(stage))))
        if stage == "oof"
        else [],
        "readers": _readers(first, stage, target, metrics, digits),
        "references": [
            (name, [f"{stated[metric]:.{digits}f}" if metric in stated else MISSING for metric in metrics])
            for name, stated in study.evaluation.references.get(target, {}).items()
        ],
        "lacking": [run.name for run in runs if not run.has(stage, target)],
        "reason": reason,
        "compared": compared,
        "over_folds": over_folds(runs, target, digits) if stage == "oof" else None,
        "only": {learner: name for learner, name in only.items() if name},
        "code_names": code_names(name for run in runs for name in run.figures(stage)),
        "details": details(first, stage, target) if names else None,
    }


def page_columns(runs: Sequence[FinishedStudy], target: str, stage: str) -> list[str]:
    """The metrics of a target's table, with those that others reported."""
    study = runs[0].study
    kind, count = study.kind_of(target), len(study.classes_of(target)) or None
    reported = {name for values in study.evaluation.references.get(target, {}).values() for name in values}
    shown = columns("page", kind, count, stage=stage)
    return shown + [name for name in ("precision", "recall", "kappa") if name in reported and name not in shown]


def learner_rows(
    runs: Sequence[FinishedStudy], stage: str, target: str, metrics: Sequence[str], digits: int
) -> list[dict[str, Any]]:
    """One line per learner of every run; those of later runs carry their study's name."""
    rows = []
    for index, run in enumerate(runs):
        suffix = f" ({run.name})" if index else ""
        for learner, targets in run.figures(stage).items():
            if figures := targets.get(target):
                entry = run.class_entry(stage, learner, target)
                count = sum(entry["support"]) if entry else case_count(figures)
                rows.append(
                    {
                        "name": f"{learner_name(learner)}{suffix}",
                        "count": count,
                        "unit": run.study.level_of(target),
                        "cells": [figure(figures.get(metric), digits, metric=metric) for metric in metrics],
                    }
                )
    return rows


def case_count(figures: Mapping[str, Any]) -> str:
    """The number of cases that the figures of a learner rest on."""
    return str(next((entry["n_cases"] for entry in figures.values() if entry and "n_cases" in entry), MISSING))


def _readers(run: FinishedStudy, stage: str, target: str, metrics: Sequence[str], digits: int) -> list[Any]:
    """Pairs of readers: names, cases and figures."""
    between = ((run.metrics.get("readers") or {}).get("between", {}).get(stage) or {}).get(target, {})
    return [
        (pair.split(" | "), case_count(figures), [figure(figures.get(metric), digits) for metric in metrics])
        for pair, figures in between.items()
    ]


def over_folds(runs: Sequence[FinishedStudy], target: str, digits: int) -> dict[str, Any] | None:
    """Mean ± standard deviation over the folds, a line per learner of every run; None if folds are sources."""
    by_run = [run.metrics.get("over_folds", {}).get(target) for run in runs]
    if not by_run[0] or runs[0].metrics.get("by_site"):
        return None
    study = runs[0].study
    names = columns("folds", study.kind_of(target), len(study.classes_of(target)) or None)
    rows: dict[str, tuple[int, list[str]]] = {}
    for index, (run, by_learner) in enumerate(zip(runs, by_run, strict=True)):
        suffix = f" ({run.name})" if index else ""
        for learner, figures in (by_learner or {}).items():
            cells = [spread(figures.get(name), digits) for name in names]
            rows[f"{learner}{suffix}"] = (len(figures[names[0]]["folds"]), cells)
    groups = validation.tables_of(list(rows))
    tables = [
        (shared, name_of_shared, [(learner_name(name), *rows[name]) for name in learners])
        for shared, name_of_shared, learners in groups
    ]
    return {"tables": tables, "columns": names, "macro": bool(study.classes_of(target))}


def details(run: FinishedStudy, stage: str, target: str) -> dict[str, Any] | None:
    """The confusion matrix, single classes, temperature and operating points of the headline's learner."""
    main, learners = run.metrics.get("main") or {}, run.figures(stage)
    learner = main.get("learner")
    if learner not in learners:
        learner = next((name for name, targets in learners.items() if target in targets), "")
    entry = run.class_entry(stage, str(learner), target)
    if not entry:
        return None
    figures, names = learners[learner][target], [str(name) for name in entry["names"]]
    metrics = columns("classes", run.study.kind_of(target), stage=stage)
    points = []
    for point in entry.get("operating") or []:
        threshold = f"{point['threshold']:.3f}" if point.get("threshold") is not None else MISSING
        points.append(
            {
                "name": point.label,
                "rule": point["rule"],
                "reached": point.figures["sensitivity"].value if point.reached is False else None,
                "threshold": by_fold_text(point.get("threshold_by_fold"), 3) or threshold,
                "cells": [
                    figure(point.figures.get(metric))
                    for metric in (*POINT_COLUMNS, *(AT_PREVALENCE if point.get("prevalence") else ()))
                ],
                "prevalence": point.get("prevalence"),
                "chosen_on": point.get("chosen_on"),
            }
        )
    total = max(sum(entry["support"]), 1)
    return {
        "learner": learner,
        "names": names,
        "confusion": list(zip(names, entry["confusion"], strict=True)),
        "columns": metrics,
        "rows": [
            (name, support, [_of_class(figures, metric, name, support / total) for metric in metrics])
            for name, support in zip(names, entry["support"], strict=True)
        ],
        "total": sum(entry["support"]),
        "mean": [figure(figures.get(metric)) for metric in metrics],
        "ece": ece if (ece := figures.get("ece_calibrated")) and ece.value is not None else None,
        "temperature": by_fold_text(entry.get("temperature_by_fold"), 2)
        or (f"{entry['temperature']:.2f}" if entry.get("temperature") else ""),
        "fitted_on": entry.get("temperature_fitted_on") or "out of fold",
        "bound": temperatures_at_bound(entry.get("temperature"), entry.get("temperature_by_fold")),
        "points": points,
    }


def _of_class(figures: Mapping[str, Any], metric: str, name: str, share: float) -> str:
    """A figure of a class, with its value by chance where that is the share of the class."""
    text = figure(figures.get(f"{metric}[{name}]"))
    return f"{text} (chance {share:.3f})" if metric_of(metric).chance_is_share and text != MISSING else text


def spread(entry: Mapping[str, Any] | None, digits: int) -> str:
    """Mean ± standard deviation over the folds.

    >>> spread({"mean": 0.5, "sd": 0.25, "folds": [0.5, None]}, 3), spread(None, 3)
    ('0.500 ± 0.250 (1 of 2 folds)', '–')
    """
    if not entry or entry.get("mean") is None:
        return MISSING
    defined = sum(value is not None for value in entry["folds"])
    sd = MISSING if entry["sd"] is None else f"{entry['sd']:.{digits}f}"
    defined_folds = "" if defined == len(entry["folds"]) else f" ({defined} of {len(entry['folds'])} folds)"
    return f"{entry['mean']:.{digits}f} ± {sd}{defined_folds}"


def figure(entry: Mapping[str, Any] | None, digits: int = 3, *, metric: str = "") -> str:
    """A figure with its interval, or the reason why it has none; a dash if it is undefined.

    >>> figure({"value": 0.9514, "low": 0.93, "high": 0.97}), figure(None), figure({"value": 0.5, "low": None})
    ('0.951 [0.930, 0.970]', '–', '0.500')
    >>> figure({"value": 0.5, "low": None, "rough": True, "reason": "one subject: no interval"})
    '0.500 (one subject: no interval)'
    >>> figure({"value": -0.001, "low": -0.004, "high": 0.09}, 2)
    '0.00 [0.00, 0.09]'
    >>> figure({"value": 0.0, "low": 0.0, "high": 0.0}, metric="ccc")
    '0.000 (the predictions hardly vary)'
    """
    if not entry or entry.get("value") is None:
        return MISSING
    ends = entry.get("low"), entry.get("high")
    value = f"{entry['value']:z.{digits}f}"
    if metric and hardly_varies(entry, metric, digits):
        return f"{value} (the predictions hardly vary)"
    if None in ends:
        return value + (f" ({entry['reason']})" if entry.get("reason") else "")
    return f"{value} [{ends[0]:z.{digits}f}, {ends[1]:z.{digits}f}]" + (" (rough)" if entry.get("rough") else "")
