"""A run's figures as a Markdown page that can be kept with the study: learners, references, readers, intervals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from casewise.evaluation.cross_fit import by_fold_text
from casewise.files import write_atomic
from casewise.metrics.registry import columns, metric_of
from casewise.report.caveats import sentences
from casewise.report.context import headline_figure
from casewise.report.external_validation import external_result
from casewise.report.formatting import rate
from casewise.report.markdown import compare
from casewise.report.markdown.runs import (
    FinishedStudy,
    check_comparable,
    read_finished,
    stage_of,
    targets_of,
)
from casewise.report.sections import (
    calibration,
    counterfactuals,
    drift,
    participants,
    saliency,
    subgroups,
    training,
    validation,
)
from casewise.report.sections.external import BY_CLASS
from casewise.report.sections.image_split import one_value_each
from casewise.report.sections.learners import fitted_learners
from casewise.report.tables import metric_format
from casewise.report.target_kind_sections import kind_report
from casewise.report.templating import templates

DIGITS = {"number": 2, "classes": 3}
POINT_COLUMNS = ("sensitivity", "specificity", "precision", "npv", "lr_positive", "lr_negative")
MISSING = "–"


def write_results(run: Path, path: Path, *, beside: Sequence[Path] = ()) -> Path:
    """Write `results_page`.

    Raises:
        RunError: as `results_page`, or the file cannot be written.
    """
    return write_atomic(path, results_page(run, beside=beside))


def results_page(run: Path, *, beside: Sequence[Path] = ()) -> str:
    """The page for `run` in Markdown; the tables also show the learners of the runs in `beside`.

    Raises:
        RunError: a folder holds no finished run, one without figures of the stage that the page is about, or what was
            split by image for comparison only; a run in `beside` shares no target with `run`, or is synthetic where
            that is not.
    """
    runs = [read_finished(folder) for folder in (run, *beside)]
    stage = stage_of(runs[0])
    check_comparable(runs, stage)
    text = templates(html=False).get_template("results.md.j2").render(**values(runs, stage))
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


def values(runs: Sequence[FinishedStudy], stage: str) -> dict[str, Any]:
    """The values of the template."""
    first, targets = runs[0], targets_of(runs[0], stage)
    reasons: dict[str, str] = {}
    pairs = first.metrics.get("comparisons", {}).get(stage, {})
    if len(runs) > 1 and not pooled(first, stage):
        folders, studies = [run.folder for run in runs], [run.study for run in runs]
        reasons = compare.not_comparable(folders, stage, targets)
        comparable = [name for name in targets if name not in reasons]
        # Not those of the first run, which do not include all learners of the table.
        compared = compare.comparisons(folders, studies, stage, comparable) or {}
        pairs = compared.get(stage, {})
    learners = {name for by_learner in first.metrics["metrics"].values() for name in by_learner}
    explained = saliency.measured_values(first.measured) if first.measured else None
    return {
        "runs": runs,
        "first": first,
        "study": first.study,
        "stage": stage,
        "pooled": pooled(first, stage),
        "how": [how(run) for run in runs],
        "audit": first.audit,
        "targets": [target_values(runs, stage, name, pairs, reasons.get(name, "")) for name in targets],
        "explained": explained,
        "calibration": calibration.calibration(first.study, first.metrics),
        "participants": participants.participants(first.study, first.metrics),
        "subgroups": subgroups.subgroups(first.study, first.metrics),
        "heads": {"hit": saliency.HIT, "near": saliency.NEAR, "share": saliency.SHARE},
        "altered": altered(first),
        "image_split": image_split(first, stage),
        "train_performance": train_and_held_out(runs),
        "left_out": left_out(first),
        "external": external(first, stage),
        "drift": drift.values(
            first.metrics.get("drift"),
            str((first.metrics.get("main") or {}).get("learner")),
            metric_format(first.study, first.main_target),
        ),
        "nested": validation.nested(first.study, first.jobs, learners, len(first.study.networks)),
        "networks": [row for run in runs for row in network_rows(run)],
        "finder": any(job.get("finder") for run in runs for job in run.jobs),
        "phases": [(run.name, phase) for run in runs for phase in _phases(run)],
        "core_time": training.core_time,
        "seeds": training.seed_spread(first.metrics, first.study),
        "figure": figure,
        "notes": sentences(first.metrics["notes"]),
    }


def pooled(run: FinishedStudy, stage: str) -> bool:
    """Whether the figures of a stage are pooled over sources that were left out in turn."""
    return stage == "oof" and bool(run.metrics.get("site_means"))


def figure(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A figure with its interval, or the reason why it has none; a dash if it is undefined.

    >>> figure({"value": 0.9514, "low": 0.93, "high": 0.97}), figure(None), figure({"value": 0.5, "low": None})
    ('0.951 [0.930, 0.970]', '–', '0.500')
    >>> figure({"value": 0.5, "low": None, "rough": True, "reason": "one subject: no interval"})
    '0.500 (one subject: no interval)'
    >>> figure({"value": -0.001, "low": -0.004, "high": 0.09}, 2)
    '0.00 [0.00, 0.09]'
    """
    if not entry or entry.get("value") is None:
        return MISSING
    ends = entry.get("low"), entry.get("high")
    value = f"{entry['value']:z.{digits}f}"
    if None in ends:
        return value + (f" ({entry['reason']})" if entry.get("reason") else "")
    return f"{value} [{ends[0]:z.{digits}f}, {ends[1]:z.{digits}f}]" + (" (rough)" if entry.get("rough") else "")


def how(run: FinishedStudy) -> dict[str, Any]:
    """The split and the training of a run."""
    splits, recipe = run.splits, run.study.recipe
    sides, source = splits["n"], str(splits.get("how") or "")
    phases = recipe.phases or []
    images, cases = run.images(), sum(n["cases"] for n in sides.values())
    return {
        "run": run,
        "subjects": sum(n["subjects"] for n in sides.values()),
        "cases": cases,
        "images": images if images > cases else 0,
        "folds": splits.get("folds") or sum(name != "test" for name in sides),
        "site": run.site,
        "imported": source if source.startswith("column ") else "",
        "tested": sides["test"]["subjects"],
        "epochs": sum(int(phase.epochs) for phase in phases) if phases else recipe.epochs,
        "recipe": recipe,
        "nested_epochs": bool(run.study.nested_cv and run.study.nested_cv.epochs),
        "classes": any(run.study.classes_of(name) for name in run.study.targets),
    }


# -------------------------------------------------------------------------------------------------- the targets


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
            codes = {note["code"] for note in first.metrics["notes"] if isinstance(note, Mapping)}
            together = len(runs) > 1 or "comparisons" in codes
            compared = {**entry, "metric": metric_of(metric).phrase, "smaller": smaller, "together": together}
    entries = first.metrics.get("classes", {}).get(stage, {})
    only = {learner: (by_target.get(target) or {}).get("constant_class") for learner, by_target in entries.items()}
    return {
        "name": target,
        "kind": kind,
        "classes": names,
        "unit": study.level_of(target),
        "columns": metrics,
        "units": {run.study.level_of(target) for run in runs if run.has(stage, target)},
        "rows": learner_rows(runs, stage, target, metrics, digits),
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
                count = sum(entry["support"]) if entry else _cases(figures)
                rows.append(
                    {
                        "name": f"{learner}{suffix}",
                        "count": count,
                        "unit": run.study.level_of(target),
                        "cells": [figure(figures.get(metric), digits) for metric in metrics],
                    }
                )
    return rows


def _cases(figures: Mapping[str, Any]) -> str:
    return str(next((entry["n_cases"] for entry in figures.values() if entry and "n_cases" in entry), MISSING))


def _readers(run: FinishedStudy, stage: str, target: str, metrics: Sequence[str], digits: int) -> list[Any]:
    """Pairs of readers: names, cases and figures."""
    between = ((run.metrics.get("readers") or {}).get("between", {}).get(stage) or {}).get(target, {})
    return [
        (pair.split(" | "), _cases(figures), [figure(figures.get(metric), digits) for metric in metrics])
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
        (shared, name_of_shared, [(name, *rows[name]) for name in learners])
        for shared, name_of_shared, learners in groups
    ]
    return {"tables": tables, "columns": names, "macro": bool(study.classes_of(target))}


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
                "name": point["class"],
                "rule": point["rule"],
                "reached": point["sensitivity"]["value"] if point.get("reached") is False else None,
                "threshold": by_fold_text(point.get("threshold_by_fold"), 3) or threshold,
                "cells": [figure(point.get(metric)) for metric in POINT_COLUMNS],
                "chosen_on": point.get("chosen_on"),
            }
        )
    calibrated = figures.get("ece_calibrated") or {}
    return {
        "learner": learner,
        "names": names,
        "confusion": list(zip(names, entry["confusion"], strict=True)),
        "columns": metrics,
        "rows": [
            (name, support, [figure(figures.get(f"{metric}[{name}]")) for metric in metrics])
            for name, support in zip(names, entry["support"], strict=True)
        ],
        "total": sum(entry["support"]),
        "mean": [figure(figures.get(metric)) for metric in metrics],
        "ece": calibrated if calibrated.get("value") is not None else None,
        "temperature": by_fold_text(entry.get("temperature_by_fold"), 2)
        or (f"{entry['temperature']:.2f}" if entry.get("temperature") else ""),
        "fitted_on": entry.get("temperature_fitted_on") or "out of fold",
        "points": points,
    }


# ------------------------------------------------------------------------------------------------ other sections


def altered(run: FinishedStudy) -> dict[str, Any] | None:
    """How predictions change with altered images; None if there were none."""
    main = run.metrics.get("main") or {}
    digits = DIGITS[kind_report(run.study.kind_of(run.main_target)).template]
    return counterfactuals.values(run.metrics.get("counterfactuals") or {}, str(main.get("learner")), digits)


def image_split(run: FinishedStudy, stage: str) -> dict[str, Any] | None:
    """Every learner by subject and by image; None if there was no split by image."""
    entry, target = run.metrics.get("image_split"), run.main_target
    by_image = (entry or {}).get("metrics", {}).get(stage)
    if not entry or not by_image:
        return None
    metrics = _columns_by_source(run, target)
    rows = [
        (learner, split_by, [figure(figures.get(metric)) for metric in metrics])
        for learner, targets in run.figures(stage).items()
        for split_by, figures in (("subject", targets.get(target)), ("image", by_image.get(learner, {}).get(target)))
        if figures
    ]
    belief = {"one_value_each": one_value_each(run.predictions(), target)}
    return {"columns": metrics, "rows": rows, "entry": entry, "belief": belief, "unit": run.study.level_of(target)}


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
        means.append((learner, [figure(figures[metric]) for metric in metrics]))
        for metric in metrics:
            for source in figures[metric].get("undefined") or []:
                undefined.setdefault(source, []).append(metric_of(metric).title)
    return {
        "site": (run.study.split.leave_out or "source").replace("_", " "),
        "columns": metrics,
        "means": means,
        "undefined": [f"{', '.join(dict.fromkeys(titles))} in {source}" for source, titles in undefined.items()],
        "rows": [
            (source, learner, _cases(figures), [figure(figures.get(metric)) for metric in metrics])
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
            rows.append([learner, _cases(figures), metric_of(metric).title, *_both(run, stage, learner, metric)])
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
            if (outside.get(learner, {}).get(target, {}).get(f"{metric}[{label}]") or {}).get("value") is not None
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
                (group, _cases(figures), [figure(figures.get(metric)) for metric in metrics])
                for group, by_learner in by_group.items()
                if (figures := by_learner.get(learner))
            ],
        }
        for column, by_group in (run.metrics.get("external_by") or {}).items()
    ]


def network_rows(run: FinishedStudy) -> list[dict[str, Any]]:
    """One line per network: folds, size, epochs, seconds, compute plan, first weights and chosen learning rates."""
    rows = []
    for model in dict.fromkeys(job["model"] for job in run.jobs):
        jobs = [job for job in run.jobs if job["model"] == model]
        rates = sorted({job["finder"]["chosen"] for job in jobs if job.get("finder")})
        rows.append(
            {
                "run": run.name,
                "model": model,
                "folds": len(jobs),
                "parameters": jobs[0]["parameters"],
                "epochs": sum(job["epochs"] for job in jobs) / len(jobs),
                "seconds": sum(job["seconds"] for job in jobs) / len(jobs),
                "plan": "; ".join(sorted({training.compute_plan(job) for job in jobs})),
                "weights": _without_folders(jobs[0]["weights"]),
                "rates": " to ".join(dict.fromkeys(rate(value) for value in (rates[0], rates[-1])))
                if rates
                else MISSING,
            }
        )
    return rows


def _without_folders(text: str) -> str:
    """The text without folders of this machine, which do not exist on others."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in text.split(" "))


def _phases(run: FinishedStudy) -> list[training.Phase]:
    by_network = training.phases_of(run.jobs, run.study.recipe.model_dump(mode="json"))
    return [phase for phases in by_network.values() for phase in phases]
