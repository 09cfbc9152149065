"""What each section of the report shows: figures drawn, tables filled, everything that grows capped and said so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from casewise.cohort.natural_sort import natural
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import agreement as agree
from casewise.report.figures import cohort as figures_cohort
from casewise.report.figures import learners as figures_learners
from casewise.report.figures import time as figures_time
from casewise.report.formatting import display_name, interval, number
from casewise.report.sections import classes, phases, tables
from casewise.report.sections import lr_finder as rates
from casewise.report.sections.failures import parts_of
from casewise.report.sections.labels import counted_classes
from casewise.report.sections.terminology import Words

if TYPE_CHECKING:
    import pandas as pd

MOST_TRACKS = 24
MOST_SCATTERS = 8
MOST_LABELS = 12
MOST_CURVES = 12


def limits_of(material: ReportContext) -> agree.Limits | None:
    """Limits of agreement of the shown learner: those of `metrics.json`, else worked out from the rows."""
    found = [material.metric(material.stage, material.learner, name) for name in ("bias", "loa_low", "loa_high")]
    if all(found):
        edges = [
            (f["low"], f["high"]) if f and is_number(f.get("low")) and is_number(f.get("high")) else None for f in found
        ]
        return agree.Limits(*(f["value"] for f in found if f), *edges)
    difference = (material.chosen["y_pred"] - material.chosen["y_true"]).to_numpy(float)
    if len(difference) < 3:
        return None
    bias, half = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    return agree.Limits(bias, bias - half, bias + half)


def agreement(material: ReportContext) -> dict[str, Any] | None:
    """Section 3: the scatter and the Bland–Altman plot of the main outcome."""
    rows, limits, words = material.chosen, limits_of(material), Words(material)
    if rows.empty or limits is None:
        return None
    scale, digits = material.range_of(material.study.primary_outcome), words.digits
    told = agree.describe(limits, digits)
    alt = f"{words.label}: prediction against the physician's score of {len(rows)} {words.noun}s. {told}."
    other = f"{words.label}: difference between model and physician against their mean. {told}."
    return {
        "scatter": agree.scatter(rows, limits, scale=scale, label=words.label, alt=alt),
        "bland_altman": agree.bland_altman(rows, limits, digits=digits, label=words.label, alt=other),
        "told": told,
        "limits": limits,
        "few": agree.few(rows),
        "edges": [
            interval({"low": edge[0], "high": edge[1]}, digits, words=True) if edge else ""
            for edge in (limits.low_interval, limits.bias_interval, limits.high_interval)
        ],
        "count": len(rows),
        "subjects": rows["subject"].nunique(),
    }


def over_time(material: ReportContext) -> dict[str, Any] | None:
    """Section 4: a small figure a subject, and who responded; None where no subject came twice."""
    study, words = material.study, Words(material)
    table = material.final
    mine = (
        table["model"].eq(material.learner)
        & table["stage"].eq(material.stage)
        & table["target"].eq(study.primary_outcome)
    )
    rows = _one_row_a_case(table[mine])
    if rows is None or rows.empty:
        return None
    found = figures_time.tracks(rows, baseline=study.evaluation.baseline)
    if not found:
        return None
    shown, capped = figures_time.chosen_tracks(found, MOST_TRACKS)
    top = max(float(np.nanmax([*track.physician, *track.model])) for track in shown) or 1.0
    evenly = figures_time.spaced_evenly(shown)
    days = all(np.isfinite(track.days).all() for track in shown)
    figures = []
    for i, track in enumerate(shown):
        pairs = ", ".join(
            f"{visit}: {number(p, words.digits)} and {number(m, words.digits)}"
            for visit, p, m in list(zip(track.names, track.physician, track.model, strict=True))[:12]
        )
        alt = f"Subject {track.subject}, {words.label} by visit, physician and model: {pairs}."
        figures.append(
            figures_time.trajectory(
                track,
                top=top,
                evenly=evenly,
                days=days,
                change=study.evaluation.response,
                digits=words.digits,
                name=f"track{i}",
                alt=alt,
            )
        )
    responders, told = tables.response_rows(material, material.stage)
    names, visits = tables.visit_rows(material, material.stage)
    left_out = {why: len(who) for why, who in (told.get("undefined") or {}).items() if who}
    return {
        "figures": figures,
        "capped": capped,
        "percent": study.evaluation.response,
        "total": len(found),
        "evenly": evenly,
        "days": days,
        "responders": responders,
        "told": told,
        "change": told.get("change", {}),
        "left_out": left_out,
        "visit_names": names,
        "visits": visits if len(visits) > 1 else [],
        "more_visits": max(0, len(told.get("by_visit") or {}) - tables.MOST_VISITS),
    }


def _one_row_a_case(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of a case-level outcome, images averaged; None where the outcome stands in regions."""
    if (rows["region"] != "").any():
        return None
    if not rows["case"].duplicated().any():
        return rows
    values = rows.groupby(["case", "subject", "visit"], sort=False)[["day", "y_true", "y_pred"]].mean()
    return values.reset_index()


def parts(material: ReportContext) -> dict[str, Any] | None:
    """Section 5: every target and region that is a number, with intervals, severity bands, readers.

    None where the main outcome has classes and no further target is a number.
    """
    stages = [(stage, *tables.target_rows(material, stage)) for stage in material.stages]
    study = material.study
    others = dict.fromkeys(
        name
        for name in [*study.scores, *study.outputs]
        if name != study.primary_outcome and study.kind_of(name) == "regression"
    )
    scatters: list[Markup] = []
    width = 176.0 if len(others) > 3 else 260.0
    for i, target in enumerate(others):
        rows = material.rows(material.stage, material.learner, target)
        if rows.empty or len(scatters) == MOST_SCATTERS:
            continue
        name = display_name(study, target)
        alt = f"{name}: prediction against the physician's value, {len(rows)} values."
        scale = material.range_of(target)
        scatters.append(agree.small_scatter(rows, scale=scale, title=name, name=f"target{i}", alt=alt, width=width))
    stages = [entry for entry in stages if entry[1]]
    numbers = material.kind == "regression"
    if not numbers and not stages and not scatters:
        return None
    return {
        "stages": stages,
        "heads": ["Target", "Scale", *(tables.TITLES[name] for name in tables.TARGET_COLUMNS), "n"],
        "scatters": scatters,
        "small": width < 200,
        "regional": any(row.inner for _, rows, _ in stages for row in rows),
        "confusion": tables.confusion(material, material.stage),
        "readers": tables.reader_rows(material, material.stage),
        "ranges": parts_of(material) if numbers else [],
        "classed": classes.further(material) if numbers else [],
    }


def labels(material: ReportContext) -> dict[str, Any]:
    """Section 7: how each target is distributed, training beside test, and how well the split balanced it."""
    study, sides = material.study, material.splits.get("subjects", {})
    names = list(dict.fromkeys([study.primary_outcome, *study.scores, *study.targets]))
    names = [name for name in names if study.kind_of(name) == "regression"]
    figures: list[Markup] = []
    for i, name in enumerate(names):
        table = _truths(material, name)
        if table is None or table.empty or len(figures) == MOST_LABELS:
            continue
        table = table.assign(side=["test" if sides.get(s) == "test" else "train" for s in table["subject"].astype(str)])
        title, values = display_name(study, name), table["value"].to_numpy(float)
        alt = (
            f"Distribution of {title}: {len(values)} values, median {number(float(np.median(values)), 1)}, "
            f"{number(float(values.min()), 1)} to {number(float(values.max()), 1)}."
        )
        scale = material.range_of(name)
        figures.append(
            figures_cohort.distribution(table, "value", scale=scale, title=title, name=f"labels{i}", alt=alt)
        )
    return {
        "figures": figures,
        "left_out": max(0, len(names) - MOST_LABELS),
        "tested": "test" in set(sides.values()),
        "imbalance": tables.imbalance_rows(material),
        "sides": tables.split_rows(material),
        "imported": tables.imported_from(material),
        "classes": counted_classes(material) if material.kind != "regression" else None,
        "balance": display_name(study, str(material.splits.get("balance") or "")),
    }


def _truths(material: ReportContext, name: str) -> pd.DataFrame | None:
    """Recorded values of a target: from the panels where they stand there, else from the truth of the predictions."""
    if name in material.panels:
        table = material.panels[["subject", "case", name]].rename(columns={name: "value"}).dropna(subset=["value"])
        if material.study.level_of(name) in ("case", "subject"):
            table = table.drop_duplicates("case")
        if len(table):
            return table
    rows = material.final[material.final["target"] == name].dropna(subset=["y_true"])
    rows = rows.drop_duplicates(["case", "region", "image"])
    return rows[["subject", "case", "y_true"]].rename(columns={"y_true": "value"}) if len(rows) else None


def making(material: ReportContext) -> dict[str, Any]:
    """Section 10: training curves and facts of the run."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for job in material.jobs:
        by_model.setdefault(str(job["model"]), []).append(job)
    first = [name for name in by_model if name == material.learner]
    order = first + [name for name in by_model if name != material.learner]
    curves = []
    for i, model in enumerate(order[:MOST_CURVES]):
        jobs = sorted(by_model[model], key=lambda job: natural(job.get("fold", "")))
        epochs = [job["epochs"] for job in jobs if is_number(job.get("epochs"))]
        what = "Loss and accuracy" if figures_learners.has_accuracy(jobs) else "Loss"
        alt = f"{what} by epoch of {model}, {len(jobs)} networks, {max(epochs, default=0)} epochs at most."
        if any(job.get("history") for job in jobs):
            curves.append(figures_learners.training(model, jobs, name=f"curve{i}", alt=alt))
    return {
        "curves": curves,
        "accurate": figures_learners.has_accuracy(material.jobs),
        "models": len(by_model),
        "jobs": tables.job_rows(material),
        "networks": len(material.jobs),
        "origins": tables.weight_origins(material),
        "seconds": sum(job.get("seconds") or 0 for job in material.jobs),
        "stopped_on": material.study.recipe.early_stopping.monitor,
        "finders": rates.finders(material),
        "stages": rates.stages(material),
        "phases": phases.section(material),
        "beside": phases.beside(material),
        "gap": phases.gap(material),
    }
