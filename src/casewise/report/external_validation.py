"""The result on the external cohort from `metrics.json`, for the console, the report and the Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.metrics.registry import columns, metric_of
from casewise.report.context import EXTERNAL, has_interval, headline_figure, is_number
from casewise.report.formatting import class_name
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

MOST_GROUPS = 6


def external_result(study: Study, results: Mapping[str, Any], learner: str, stage: str) -> dict[str, Any] | None:
    """The figure of merit of a learner on the external cohort, beside that of `stage`; None if it was not evaluated.

    Where the figure of merit is undefined outside, such as an AUROC without a case of one class, the first defined
    metric of the external table stands for it, and `undefined` has the figure of merit.

    `code`: `not_inside` (undefined in the study), `no_interval` of the difference, `rough`, `worse`, `better` or
    `not_shown` (the interval holds 0). `within`: the figure of the study is the mean over sources that were left out.
    """
    outcome = study.primary_outcome
    outside = results.get("metrics", {}).get(EXTERNAL, {}).get(learner, {}).get(outcome) or {}
    if not outside:
        return None
    kind, n_classes = study.kind_of(outcome), len(study.classes_of(outcome)) or None
    merit = kind_named(kind).merit
    shown = [name for name in dict.fromkeys([merit, *columns("external", kind, n_classes)]) if _defined(outside, name)]
    if not shown:
        return None
    inside = {name: headline_figure(study, results, learner, stage, name) for name in shown}
    metric = next((name for name in shown if inside[name]), shown[0])
    difference = ((results.get("external_drop") or {}).get(learner) or {}).get(metric) or {}
    entry = results.get("classes", {}).get(EXTERNAL, {}).get(learner, {}).get(outcome) or {}
    return {
        "code": _code(metric, inside[metric], difference),
        "name": study.external_name,
        "stage": stage,
        "within": (study.split.leave_out or "source").replace("_", " ")
        if stage == "oof" and results.get("site_means")
        else "",
        "metric": metric,
        "undefined": merit if metric != merit else None,
        "classes": _present_classes(study, entry),
        "cases": sum(entry["support"]) if entry else outside[metric]["n_cases"],
        "subjects": outside[metric]["n_subjects"] if study.subjects_known else 0,
        "outside": outside[metric]["value"],
        "inside": inside[metric].get("value"),
        "figure": outside[metric],
        "headline": {
            name: outside[name] for name in dict.fromkeys([*kind_named(kind).headline, metric]) if name in shown
        },
        "drop": difference,
        "groups": [
            {"column": column.replace("_", " "), **_extremes(by_group, learner, metric)}
            for column, by_group in (results.get("external_by") or {}).items()
        ],
    }


def _defined(figures: Mapping[str, Any], name: str) -> bool:
    return is_number((figures.get(name) or {}).get("value"))


def _code(metric: str, inside: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    if not inside:
        return "not_inside"
    if not has_interval(difference):
        return "no_interval"
    if difference.get("rough"):
        return "rough"
    if difference["low"] <= 0 <= difference["high"]:
        return "not_shown"
    return "worse" if (difference["low"] > 0) == (metric_of(metric).larger_is_better is False) else "better"


def _extremes(by_group: Mapping[str, Any], learner: str, metric: str) -> dict[str, Any]:
    """The figure in each group, of many groups the smallest and the largest, and the groups without it."""
    figures = {group: (by_learner.get(learner) or {}).get(metric) or {} for group, by_learner in by_group.items()}
    defined = {group: figure for group, figure in figures.items() if is_number(figure.get("value"))}
    shown, extremes = list(defined.items()), len(defined) > MOST_GROUPS
    if extremes:
        ordered = sorted(defined, key=lambda group: defined[group]["value"])
        shown = [(group, defined[group]) for group in (ordered[0], ordered[-1])]
    return {"each": shown, "extremes": extremes, "undefined": [group for group in figures if group not in defined]}


def _present_classes(study: Study, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """The absent classes, the recall of the others, and the most common prediction; None if no class is absent."""
    if not entry or all(entry["support"]):
        return None
    names = [class_name(study, study.primary_outcome, name) for name in entry["names"]]
    confusion = np.asarray(entry["confusion"])
    predicted = confusion.sum(axis=0)
    common = int(predicted.argmax())
    return {
        "absent": [name for name, support in zip(names, entry["support"], strict=True) if not support],
        "recalls": [
            {"name": name, "recalled": int(row[number]), "cases": int(row.sum())}
            for number, (name, row) in enumerate(zip(names, confusion, strict=True))
            if row.sum()
        ],
        "predicted": {"name": names[common], "cases": int(predicted[common]), "of": int(predicted.sum())},
    }
