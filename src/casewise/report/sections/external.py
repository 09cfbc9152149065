"""The external cohort: every figure inside and outside, side by side, with the difference and its interval."""

from __future__ import annotations

from typing import Any

from casewise.report.context import ReportContext, is_number
from casewise.report.formatting import MISSING, counted, digits_for, interval, number, signed
from casewise.report.sections import classes, learners
from casewise.report.sections import per_source as within
from casewise.report.sections.measures import measure_cell, measure_of, written
from casewise.report.sections.tables import TITLES, Cell, Row, figure_cell
from casewise.report.sections.terminology import Words

STAGE = "external"
SHOWN = {
    "regression": ("mae", "ccc", "pcc", "bias"),
    "classification": ("accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity", "f1", "ece", "log_loss"),
    "ordinal": ("kappa_quadratic", "accuracy", "auroc", "f1", "mae", "ece", "log_loss"),
}


def external(material: ReportContext) -> dict[str, Any] | None:
    """The section on the external cohort; None where nothing was predicted there."""
    table = material.predictions
    if not (table["stage"] == STAGE).any():
        return None
    learner, outcome = material.learner, material.study.primary_outcome
    inside, outside = (material.figures(stage, learner, outcome) for stage in (material.stage, STAGE))
    drop = (material.metrics.get("external_drop") or {}).get(learner) or {}
    rows = []
    for metric in SHOWN[material.kind]:
        if metric in outside:
            cells = [_cell(material, metric, found.get(metric)) for found in (inside, outside)]
            title = TITLES[metric] if material.kind == "regression" else measure_of(metric).title
            rows.append(Row(title, [*cells, _difference(material, metric, drop.get(metric), cells)]))
    judged = material.rows(STAGE, learner)
    told = material.classed(STAGE, learner)
    several = len(material.learners) > 1
    return {
        "name": name_of(material),
        "rows": rows,
        "inside": "Test set" if material.stage == "test" else "Out of fold",
        "sentence": sentence(material),
        "cases": len(judged),
        "subjects": judged["subject"].nunique(),
        "matrix": classes.matrix(told) if told else None,
        "learners": learners.learner_rows(material, STAGE) if several else [],
    }


def name_of(material: ReportContext) -> str:
    """What the external cohort is called."""
    return material.study.external_name or "the external cohort"


def sentence(material: ReportContext) -> str:
    """How much worse it is outside, in words; empty where the external cohort could not be judged."""
    metric = "ccc" if material.kind == "regression" else material.merit
    learner = material.learner
    both = [material.metric(stage, learner, metric) for stage in (material.stage, STAGE)]
    if not (both[0] and both[1]):
        return ""
    words, inside = Words(material), "on the test set" if material.stage == "test" else "out of fold"
    name = "CCC" if metric == "ccc" else measure_of(metric).words
    values = [written(metric, found["value"], digits=2) for found in both if found]
    judged = material.rows(STAGE, learner)
    cases = counted(len(judged), words.noun)
    if material.study.subjects_known:
        cases += f" of {counted(judged['subject'].nunique(), 'subject')}"
    start = (
        f"On {name_of(material)} ({cases}, from which nothing was learned) the {name} is {values[1]}, "
        f"against {values[0]} {inside}"
    )
    drop = ((material.metrics.get("external_drop") or {}).get(learner) or {}).get(metric)
    if not drop or not is_number(drop.get("low")):
        return f"{start}."
    found = f"(difference {signed(drop['difference'], 2)}, interval {interval(drop, 2, words=True)})"
    if drop.get("rough"):
        return f"{start} {found}; with fewer than ten subjects on one side, that is rough."
    if drop["high"] < 0:
        return f"{start}: worse outside, and not by chance {found}."
    if drop["low"] > 0:
        return f"{start}: better outside {found}."
    return f"{start}; a drop is not shown {found}."


def plain_words(material: ReportContext) -> list[tuple[str, str]]:
    """The external test as one of the first sentences, with its head; none where nothing was predicted there."""
    if not (material.predictions["stage"] == STAGE).any():
        return []
    unknown = f"Nothing recorded on {name_of(material)} lets its predictions be judged."
    return [("Elsewhere.", sentence(material) or unknown)]


def tiles(material: ReportContext) -> list[tuple[str, Cell, str]]:
    """The external figure beside the headline's: name, figure, unit; none where it could not be judged."""
    metric = "ccc" if material.kind == "regression" else material.merit
    found = material.metric(STAGE, material.learner, metric)
    if not found:
        return []
    if material.kind == "regression":
        cell = Cell(number(found["value"], 2), interval(found, 2, words=True))
        return [("External", cell, "CCC")]
    title = measure_of(metric).title
    return [("External", measure_cell(metric, found, words=True), title if title.isupper() else title.lower())]


def _cell(material: ReportContext, metric: str, found: dict[str, Any] | None) -> Cell:
    if material.kind == "regression":
        return figure_cell(
            found, digits_for(material.study, metric, material.study.primary_outcome), sign=metric == "bias"
        )
    return measure_cell(metric, found)


def _difference(material: ReportContext, metric: str, drop: dict[str, Any] | None, cells: list[Cell]) -> Cell:
    """External minus internal; shares in percentage points."""
    values = [cell.value for cell in cells]
    if not all(is_number(value) for value in values):
        return Cell(MISSING)
    inside, outside = (float(value) for value in values)
    found = drop or {}
    if material.kind == "regression":
        digits, scale, unit = digits_for(material.study, metric, material.study.primary_outcome), 1.0, ""
    else:
        measure = measure_of(metric)
        digits, scale, unit = measure.digits, 100.0 if measure.percent else 1.0, " points" if measure.percent else ""
    ends = {key: scale * found[key] for key in ("low", "high") if is_number(found.get(key))}
    difference = scale * (outside - inside)
    return Cell(signed(difference, digits) + unit, interval(ends, digits), difference)


def left_out(material: ReportContext) -> dict[str, Any] | None:
    """Where each fold is one source: the shown learner's figures on every source, by networks that never saw it."""
    by_source: dict[str, Any] = material.metrics.get("left_out") or {}
    metrics = SHOWN[material.kind]
    figures = {source: by_learner.get(material.learner) or {} for source, by_learner in by_source.items()}
    metrics = tuple(metric for metric in metrics if any(metric in found for found in figures.values()))
    rows = []
    for source, found in figures.items():
        count = next((entry.get("n_cases") for entry in found.values()), None)
        rows.append(Row(source, [Cell(number(count, 0)), *(_cell(material, m, found.get(m)) for m in metrics)]))
    if not rows:
        return None
    means = [within.mean_of(material, material.learner, metric) for metric in metrics]
    if any(means):
        cells = [_cell(material, metric, mean or None) for metric, mean in zip(metrics, means, strict=True)]
        rows.insert(0, Row("mean", [Cell(""), *cells]))
    titles = [TITLES[m] if material.kind == "regression" else measure_of(m).title for m in metrics]
    column = (material.study.split.leave_out or "source").replace("_", " ")
    others = _learners_by_source(material)
    return {
        "column": column,
        "rows": rows,
        "heads": [column.capitalize(), "n", *titles],
        "learners": others,
        "sources": list(figures),
        "merit": TITLES["ccc"] if material.kind == "regression" else measure_of(material.merit).title,
        "pooled": within.pooled(material) if within.is_mixed(material) else "",
        "fitted": within.fitted_note(list(dict.fromkeys(n for told in by_source.values() for n in told)), column),
    }


def _learners_by_source(material: ReportContext) -> list[Row]:
    """One line a learner: its merit averaged over the sources and in each; none where there is one learner."""
    if len(material.learners) < 2 or not within.is_mixed(material):
        return []
    metric, by_source = material.merit, material.metrics["left_out"]
    rows = []
    for learner in material.learners:
        mean = within.mean_of(material, learner, metric)
        cells = [_cell(material, metric, told.get(learner, {}).get(metric)) for told in by_source.values()]
        mark = learner == material.learner
        rows.append(Row(learner, [_cell(material, metric, mean or None), *cells], mark=mark))
    return sorted(rows, key=lambda row: -float(row.cells[0].value) if is_number(row.cells[0].value) else 2.0)
