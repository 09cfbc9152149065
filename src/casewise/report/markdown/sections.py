"""Sections beside the targets: altered images, the split by image, training cases, sources, the external cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casewise.metrics.registry import columns, metric_of
from casewise.report.context import headline_figure
from casewise.report.external_validation import external_result
from casewise.report.markdown.runs import FinishedStudy, pooled
from casewise.report.markdown.target_tables import DIGITS, MISSING, case_count, details, figure, page_columns
from casewise.report.sections import counterfactuals, training
from casewise.report.sections.external import BY_CLASS
from casewise.report.sections.image_split import one_value_each
from casewise.report.sections.learners import fitted_learners
from casewise.report.tables import metric_format
from casewise.report.target_kind_sections import kind_report


def altered(run: FinishedStudy) -> dict[str, Any] | None:
    """How predictions change with altered images; None if there were none."""
    digits = DIGITS[kind_report(run.study.kind_of(run.main_target)).template]
    learner, figures = str(run.metrics.main.learner), run.metrics.counterfactuals or {}
    return counterfactuals.values(figures, learner, digits, learners=run.learners, notes=run.metrics.notes)


def image_split(run: FinishedStudy, stage: str) -> dict[str, Any] | None:
    """Every learner by subject and by image; None if there was no split by image."""
    entry, target = run.metrics.get("image_split"), run.main_target
    by_image = (entry or {}).get("metrics", {}).get(stage)
    if not entry or not by_image:
        return None
    metrics = _columns_by_source(run, target)
    rows = [
        (learner, split_by, [figure(figures.get(metric), metric=metric) for metric in metrics])
        for learner, targets in run.figures(stage).items()
        for split_by, figures in (("subject", targets.get(target)), ("image", by_image.get(learner, {}).get(target)))
        if figures
    ]
    belief = {"one_value_each": one_value_each(run.predictions(), target)}
    classes = len(run.study.classes_of(target))
    return {
        "columns": metrics,
        "classes": classes,
        "rows": rows,
        "entry": entry,
        "belief": belief,
        "unit": run.study.level_of(target),
    }


def _columns_by_source(run: FinishedStudy, target: str) -> list[str]:
    """The metrics of a target's tables by way of splitting and by source."""
    if run.study.classes_of(target):
        return page_columns([run], target, "")
    return columns("image_split", run.study.kind_of(target))


def train_and_held_out(runs: Sequence[FinishedStudy]) -> dict[str, Any] | None:
    """Each network's performance on training cases, on those for early stopping, and on held-out cases.

    `plain`: networks that were not evaluated on training cases; `gone`: those without records.
    """
    target = runs[0].main_target
    names = runs[0].study.classes_of(target)
    if not names:
        return None
    metrics = training.RATES if len(names) == 2 else training.RATES[:1]
    rows: list[tuple[str, str, str, list[str]]] = []
    missing: dict[str, list[str]] = {"plain": [], "gone": []}
    for index, run in enumerate(runs):
        suffix = f" ({run.name})" if index else ""
        by_network = training.on_training_cases(run.jobs)
        lacking = missing["gone" if run.study.recipe.phases else "plain"]
        networks = dict.fromkeys(job["model"] for job in run.jobs)
        lacking += [f"{name}{suffix}" for name in networks if name not in by_network]
        for network, sides in by_network.items():
            lines = [(side, f"{entry['n']:.0f}", entry) for side, entry in sides.items()]
            for stage in ("oof", "test"):
                if figures := run.figures(stage).get(network, {}).get(target):
                    entry = run.class_entry(stage, network, target)
                    lines.append((stage, str(sum(entry["support"])) if entry else MISSING, figures))
            rows += [
                (f"{network}{suffix}", side, count, [trained_or_held_out(figures.get(metric)) for metric in metrics])
                for side, count, figures in lines
            ]
    return {"columns": metrics, "rows": rows, **missing} if rows else None


def trained_or_held_out(entry: Mapping[str, Any] | None) -> str:
    """A figure with its interval, or the mean over the networks with its range.

    >>> trained_or_held_out({"value": 0.9, "smallest": 0.85, "largest": 0.95})
    '0.900 (0.850 to 0.950)'
    """
    if entry and "smallest" in entry:
        return f"{entry['value']:.3f} ({entry['smallest']:.3f} to {entry['largest']:.3f})"
    return figure(entry)


def left_out(run: FinishedStudy) -> dict[str, Any] | None:
    """Every learner averaged over the sources and on every source; None if no source was left out."""
    by_source, target = run.metrics.get("by_site") or {}, run.main_target
    if not by_source or not (run.metrics.get("main") or {}).get("target"):
        return None
    metrics = _columns_by_source(run, target)
    means: list[tuple[str, list[str]]] = []
    undefined: dict[str, list[str]] = {}
    for learner, by_metric in (run.metrics.get("site_means") or {}).items():
        figures = {metric: by_metric.get(metric) or {} for metric in metrics}
        means.append((learner, [figure(figures[metric], metric=metric) for metric in metrics]))
        for metric in metrics:
            for source in figures[metric].get("undefined") or []:
                undefined.setdefault(source, []).append(metric_of(metric).title)
    return {
        "site": (run.study.split.leave_out or "source").replace("_", " "),
        "columns": metrics,
        "classes": len(run.study.classes_of(target)),
        "means": means,
        "undefined": [f"{', '.join(dict.fromkeys(titles))} in {source}" for source, titles in undefined.items()],
        "rows": [
            (source, learner, case_count(figures), [figure(figures.get(metric), metric=metric) for metric in metrics])
            for source, learners in by_source.items()
            for learner, figures in learners.items()
        ],
        "fitted": fitted_learners(list(dict.fromkeys(name for names in by_source.values() for name in names))),
        "kind": run.study.kind_of(target),
    }


def external(run: FinishedStudy, stage: str) -> dict[str, Any] | None:
    """The external cohort: every learner inside and outside with the difference, and details of the headline's learner.

    Where sources were left out, the inside is the mean within them.
    """
    target, outside, main = run.main_target, run.figures("external"), run.metrics.get("main") or {}
    if not outside or not main.get("target"):
        return None
    rows = []
    for learner, targets in outside.items():
        figures = targets.get(target, {})
        for metric in columns("page_external", run.study.kind_of(target)):
            rows.append([learner, case_count(figures), metric_of(metric).title, *_both(run, stage, learner, metric)])
    learner = str(main["learner"])
    return {
        "name": run.study.external_name,
        "rows": rows,
        "side": "mean within sources" if pooled(run, stage) else "the test set" if stage == "test" else "out of fold",
        "result": external_result(run.study, run.metrics, learner, stage),
        "write": metric_format(run.study, target),
        "learner": learner,
        "unit": run.study.level_of(target),
        "confidence": f"{100 * run.study.evaluation.confidence:g} %",
        "details": details(run, "external", target),
        "by_class": [
            (label, metric_of(metric).title, *_both(run, stage, learner, f"{metric}[{label}]"))
            for label in run.study.classes_of(target)
            for metric in BY_CLASS
            if (at := outside.get(learner, {}).get(target, {}).get(f"{metric}[{label}]")) and at.value is not None
        ],
        "groups": _external_groups(run, learner),
    }


def _both(run: FinishedStudy, stage: str, learner: str, metric: str) -> list[str]:
    """One figure inside, outside, and the difference with its interval."""
    outside = run.figures("external").get(learner, {}).get(run.main_target, {}).get(metric)
    drop = ((run.metrics.get("external_drop") or {}).get(learner) or {}).get(metric) or {}
    inside = headline_figure(run.study, run.metrics, learner, stage, metric)
    if not inside and pooled(run, stage) and drop:
        inside = {"value": drop["internal"]}
    at, other = ((entry or {}).get("value") for entry in (inside, outside))
    difference = MISSING if at is None or other is None else figure({**drop, "value": other - at})
    return [figure(inside), figure(outside), difference]


def _external_groups(run: FinishedStudy, learner: str) -> list[dict[str, Any]]:
    """For each column the groups of external cases with their figures."""
    study, target = run.study, run.main_target
    metrics = [
        *columns("page_external", study.kind_of(target)),
        *(f"recall[{label}]" for label in study.classes_of(target)),
    ]
    return [
        {
            "column": column,
            "heads": [
                metric_of(metric).title + (f" of {metric.partition('[')[2][:-1]}" if "[" in metric else "")
                for metric in metrics
            ],
            "rows": [
                (group, case_count(figures), [figure(figures.get(metric), metric=metric) for metric in metrics])
                for group, by_learner in by_group.items()
                if (figures := by_learner.get(learner))
            ],
        }
        for column, by_group in (run.metrics.get("external_by") or {}).items()
    ]
