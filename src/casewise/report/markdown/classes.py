"""The parts of the Markdown page that speak of classes: figures, confusion matrix, single classes, external cohort."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from casewise.evaluation.cross_fit import by_fold_text
from casewise.evaluation.headline import FITTED
from casewise.metrics.registry import columns as metric_columns
from casewise.metrics.registry import metric_of, metrics_of
from casewise.report.caveats import pooled_means
from casewise.report.markdown import compare as results_beside
from casewise.targets import kind_named


def kind_of(study: dict[str, Any], target: str) -> str:
    """What a target of a study (as `study.json` has it) is; scores are numbers."""
    return str(study["targets"].get(target, {}).get("kind", "regression"))


def columns_of(study: dict[str, Any], target: str) -> dict[str, str]:
    """The metrics of a target's table and their titles, with those that others reported of it."""
    reported = {name for values in study["evaluation"]["references"].get(target, {}).values() for name in values}
    n_classes = len((study["targets"].get(target) or {}).get("classes") or []) or None
    kind = kind_named(kind_of(study, target))
    metrics = metrics_of(kind.metrics_of, n_classes)
    return {metric.name: metric.title for metric in metrics if "page" in metric.tables or metric.name in reported}


def figure(entry: dict[str, Any] | None) -> str:
    """A figure with its interval; a dash where it is undefined.

    >>> figure({"value": 0.9514, "low": 0.93, "high": 0.97}), figure(None), figure({"value": 0.5, "low": None})
    ('0.951 [0.930, 0.970]', '–', '0.500')
    """
    if not entry or entry.get("value") is None:
        return "–"
    interval = f" [{entry['low']:z.3f}, {entry['high']:z.3f}]" if entry.get("low") is not None else ""
    return f"{entry['value']:z.3f}{interval}" + (" (rough)" if entry.get("rough") else "")


def table(target: str, stage: str, material: Sequence[dict[str, Any]]) -> list[str]:
    """One line a learner of every run, then, in italics, what others reported."""
    study = material[0]["study"]
    columns = columns_of(study, target)
    units = {unit_of(part["study"], target) for part in material if results_beside.has(part, stage, target)}
    # Runs may judge a target at different levels; then each count names its own.
    mixed_units = len(units) > 1
    lines = [
        f"| learner | {'judged' if mixed_units else f'{unit_of(study, target)}s'} | {' | '.join(columns.values())} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for number, part in enumerate(material):
        suffix = f" ({part['study']['name']})" if number else ""
        for learner, targets in part["metrics"]["metrics"].get(stage, {}).items():
            if figures := targets.get(target):
                cells = " | ".join(figure(figures.get(metric)) for metric in columns)
                block = part["metrics"].get("classes", {}).get(stage, {}).get(learner, {}).get(target) or {}
                judged = str(sum(block["support"])) if block else "–"
                judged += f" {unit_of(part['study'], target)}s" if mixed_units else ""
                lines.append(f"| {learner}{suffix} | {judged} | {cells} |")
    for name, values in study["evaluation"]["references"].get(target, {}).items():
        cells = " | ".join(f"{values[metric]:.3f}" if metric in values else "–" for metric in columns)
        lines.append(f"| *{name}* | – | {cells} |")
    return lines


def _cases(figures: dict[str, Any]) -> str:
    return str(next((entry["n_cases"] for entry in figures.values() if entry and "n_cases" in entry), "–"))


def unit_of(study: dict[str, Any], target: str) -> str:
    """What is judged: an image, a region, a case or a subject, as `Study.level_of` has it."""
    stated = (study["scores"].get(target) or study["targets"].get(target) or {}).get("level")
    panel = str(study["panels"]["by"])
    return str(stated or ("case" if study.get("tiles") and panel == "image" else panel))


def trained(study: dict[str, Any]) -> str:
    """How classes were trained: what was tuned, and what was done about classes of different size."""
    if not any(target.get("classes") for target in study["targets"].values()):
        return ""
    phases = study["recipe"].get("phases") or []
    tuned = (
        f"Training went through {len(phases)} phase{'s' if len(phases) > 1 else ''} (table at the end)"
        if phases
        else {
            "full": "All parameters were trained",
            "head_only": "Only the heads were trained, on features computed once",
            "gradual_unfreezing": "The heads were trained first, then more and more groups of layers with them",
        }[study["recipe"].get("tuning", "full")]
    )
    evened = {
        "none": "nothing was done about classes of different size",
        "weights": "rare classes weigh more in the loss",
        "sampling": "rare classes are drawn more often",
    }[study["recipe"].get("imbalance", "none")]
    return f"{tuned}; {evened}. "


def told_apart(study: dict[str, Any], target: str, stage: str, metrics: dict[str, Any]) -> list[str]:
    """Who can be told apart from the learner that is best in number, by the target's figure of merit."""
    metric = kind_named(kind_of(study, target)).merit
    if note := pooled(study, target, stage, metrics):
        return ["", note]
    compared = metrics.get("comparisons", {}).get(stage, {}).get(target, {}).get(metric)
    if not compared or not compared.get("differences"):
        return []
    return ["", results_beside.told(compared, f"highest {metric_of(metric).title}")]


def pooled(study: dict[str, Any], target: str, stage: str, metrics: dict[str, Any]) -> str:
    """Why learners are not compared on these figures: each source was left out in turn; else empty."""
    if stage != "oof" or not metrics.get("within"):
        return ""
    text = pooled_means(kind_of(study, target))
    return f"{text[0].upper()}{text[1:]}; learners are not compared on them."


def single_class(target: str, stage: str, metrics: dict[str, Any], unit: str) -> list[str]:
    """The learners that name one class for everybody."""
    blocks = metrics.get("classes", {}).get(stage, {})
    told = {name: (found.get(target) or {}).get("names_only") for name, found in blocks.items()}
    found = [f"{name} names every {unit} {only}." for name, only in told.items() if only]
    return ["", " ".join(found)] if found else []


def details(study: dict[str, Any], target: str, stage: str, metrics: dict[str, Any]) -> list[str]:
    """The confusion matrix, the classes one by one and the operating points of the headline's learner."""
    learners = metrics.get("classes", {}).get(stage, {})
    learner = headline_learner(target, stage, metrics)
    told = learners.get(learner, {}).get(target)
    if not told:
        return []
    figures, names = metrics["metrics"][stage][learner][target], [str(name) for name in told["names"]]
    lines = ["", f"### {learner}: recorded (lines) and named (columns)", ""]
    lines += [f"| | {' | '.join(names)} | all |", "|---" * (len(names) + 2) + "|"]
    for name, row in zip(names, told["confusion"], strict=True):
        cells = [f"{n} ({n / max(sum(row), 1):.0%})" if n else "0" for n in row]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(row)} |")
    lines += ["", f"### {learner}: class by class", ""]
    by_class = metric_columns("classes", kind_named(kind_of(study, target)).metrics_of, len(names))
    titles = " | ".join(metric_of(name).title for name in by_class)
    lines += [f"| class | {unit_of(study, target)}s | {titles} |", "|---" * (len(by_class) + 2) + "|"]
    for name, support in zip(names, told["support"], strict=True):
        cells = [figure(figures.get(f"{metric}[{name}]")) for metric in by_class]
        lines.append(f"| {name} | {support} | {' | '.join(cells)} |")
    cells = [figure(figures.get(metric)) for metric in by_class]
    lines += [f"| *mean* | {sum(told['support'])} | {' | '.join(cells)} |", ""]
    if (after := figures.get("ece_calibrated")) and after.get("value") is not None:
        spread = by_fold_text(told.get("temperature_by_fold"), 2)
        spread = spread or (f"{told['temperature']:.2f}" if told.get("temperature") else "")
        temperature = f" (temperature {spread})" if spread else ""
        lines += [f"After temperature scaling{temperature}, fitted on {_of(told)}, the ECE is {figure(after)}.", ""]
    return lines + _points(told)


def _of(told: dict[str, Any]) -> str:
    where = told.get("temperature_fitted_on") or "out of fold"
    return "out-of-fold predictions" if where == "out of fold" else str(where)


def _points(told: dict[str, Any]) -> list[str]:
    points = told.get("operating") or []
    if not points:
        return []
    lines = ["| operating point | threshold | sensitivity | specificity | precision |", "|---" * 5 + "|"]
    for point in points:
        threshold = f"{point['threshold']:.3f}" if point.get("threshold") is not None else "–"
        threshold = by_fold_text(point.get("threshold_by_fold"), 3) or threshold
        cells = " | ".join(figure(point.get(metric)) for metric in ("sensitivity", "specificity", "precision"))
        rule = "Youden" if point["rule"] == "youden" else point["rule"].replace(">=", "≥")
        if point.get("reached") is False:
            rule += f" (not reached: {point['sensitivity']['value']:.3f})"
        lines.append(f"| {point['class']}, {rule} | {threshold} | {cells} |")
    where = points[0].get("chosen_on")
    chosen = "out of fold" if where == "out of fold" else "on the other folds (where they differ, their range is shown)"
    return [*lines, "", f"Thresholds were chosen {chosen}.", ""]


def headline_learner(target: str, stage: str, metrics: dict[str, Any]) -> str:
    """The headline's learner; for another target, or without one, the first judged there."""
    main = metrics.get("main") or {}
    there = metrics["metrics"].get(stage, {})
    if main.get("learner") in there:
        return str(main["learner"])
    return next((learner for learner, targets in there.items() if target in targets), "")


def external(material: dict[str, Any], stage: str, inside: str) -> list[str]:
    """Every learner inside and on the external cohort, with the difference and its interval."""
    study, metrics = material["study"], material["metrics"]
    target = (metrics.get("main") or {}).get("target")
    outside = metrics["metrics"].get("external") or {}
    if not outside or not target:
        return []
    shown = metric_columns("page_external", kind_named(kind_of(study, target)).metrics_of)
    stated = study.get("external") or {}
    lines = [f"## Elsewhere: {stated.get('name') or 'the external cohort'}", ""]
    lines += [f"| learner | cases | figure | {inside} | external | difference |", "|---" * 6 + "|"]
    for learner, targets in outside.items():
        drops = (metrics.get("external_drop") or {}).get(learner) or {}
        for metric in shown:
            both = [
                metrics["metrics"].get(s, {}).get(learner, {}).get(target, {}).get(metric) for s in (stage, "external")
            ]
            cells = [learner, _cases(targets.get(target, {})), metric_of(metric).title, *map(figure, both)]
            lines.append(f"| {' | '.join([*cells, _difference(drops.get(metric), both)])} |")
    return [*lines, "", "Difference: external minus internal.", ""]


def _difference(drop: dict[str, Any] | None, both: Sequence[dict[str, Any] | None]) -> str:
    values = [(entry or {}).get("value") for entry in both]
    inside, outside = values
    if inside is None or outside is None:
        return "–"
    return figure({**(drop or {}), "value": outside - inside})


def left_out(material: dict[str, Any]) -> list[str]:
    """Where each fold is one source: every learner on every source, by networks that never saw it."""
    study, metrics = material["study"], material["metrics"]
    by_source = metrics.get("left_out") or {}
    target = (metrics.get("main") or {}).get("target")
    if not by_source or not target:
        return []
    columns = columns_of(study, target)
    column = study["split"].get("leave_out") or "source"
    lines = [f"## Each {column} left out", "", *_means(metrics, target, study, columns, column)]
    lines += [f"| {column} | learner | cases | {' | '.join(columns.values())} |"]
    lines.append("|---" * (len(columns) + 3) + "|")
    for source, learners in by_source.items():
        for learner, figures in learners.items():
            cells = " | ".join(figure(figures.get(metric)) for metric in columns)
            lines.append(f"| {source} | {learner} | {_cases(figures)} | {cells} |")
    fitted = [name for name in dict.fromkeys(n for told in by_source.values() for n in told) if name.startswith(FITTED)]
    told = f"Every {column} is predicted by networks that saw nothing of it."
    if fitted:
        told += (
            f" {', '.join(fitted)}, used on one {column}, was fitted on predictions of the others by networks that had "
            f"learned from that {column}."
        )
    return [*lines, "", told, ""]


def _means(
    metrics: dict[str, Any], target: str, study: dict[str, Any], columns: dict[str, str], column: str
) -> list[str]:
    """Every learner averaged over the sources, each counting alike."""
    within = metrics.get("within") or {}
    if not within:
        return []
    note = pooled_means(kind_of(study, target))
    lines = [f"Mean over each {column} of the figure within it; {note}.", ""]
    lines += [f"| learner | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    lacking: dict[str, list[str]] = {}
    for learner, told in within.items():
        found = {metric: told.get(metric) or {} for metric in columns}
        lines.append(f"| {learner} | {' | '.join(figure(found[metric]) for metric in columns)} |")
        for metric, title in columns.items():
            for source in found[metric].get("undefined") or []:
                lacking.setdefault(source, []).append(title)
    names = [f"{', '.join(dict.fromkeys(titles))} in {source}" for source, titles in lacking.items()]
    return [*lines, "", *([f"Undefined and left out of the mean: {'; '.join(names)}.", ""] if names else [])]


def audit(told: dict[str, Any] | None) -> list[str]:
    """The verdict, and every finding with the reason for which the study accepts it."""
    if not told:
        return []
    lines = ["## Audit", "", told["verdict"], ""]
    for finding in told["findings"]:
        reason = (told.get("accepted") or {}).get(finding["id"])
        why = f" *Accepted by the study:* {reason}" if reason else ""
        lines.append(f"- **{finding['level']}** (`{finding['id']}`): {finding['sentence']}{why}")
    unasked = [note for note in told.get("notes") or [] if note.lower().startswith("shortcuts were not tested")]
    return [*lines, *(f"- {note}" for note in unasked), ""]
