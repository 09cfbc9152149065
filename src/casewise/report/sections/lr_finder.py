"""How the learning rate was found and how far fine tuning went, from the records of the jobs."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from casewise.report.context import ReportContext, is_number
from casewise.report.figures import learners as figures_learners
from casewise.report.formatting import counted, listed, number, rate

MOST_FINDERS = 12


def finders(material: ReportContext) -> dict[str, Any] | None:
    """The finder's curves, a figure a backbone, and the rates chosen; None where the rate was given."""
    by_model: dict[str, list[dict[str, Any]]] = {}
    for job in material.jobs:
        found = job.get("finder")
        if found and found.get("rates") and len(found["rates"]) == len(found.get("losses") or []):
            by_model.setdefault(str(job["model"]), []).append(job)
    if not by_model:
        return None
    figures: list[Markup] = []
    for i, (model, jobs) in enumerate(list(by_model.items())[:MOST_FINDERS]):
        alt = f"Loss while the learning rate of {model} rises; chosen: {_chosen(jobs)}."
        figures.append(figures_learners.finder(model, jobs, name=f"finder{i}", alt=alt))
    return {
        "figures": figures,
        "models": len(by_model),
        "chosen": [(model, _chosen(jobs)) for model, jobs in by_model.items()],
    }


def _chosen(jobs: list[dict[str, Any]]) -> str:
    values = sorted(job["finder"]["chosen"] for job in jobs if is_number(job["finder"].get("chosen")))
    if not values:
        return "none"
    return rate(values[0]) if values[0] == values[-1] else f"{rate(values[0])} to {rate(values[-1])}"


def stages(material: ReportContext) -> list[str]:
    """For fine tuning a sentence a backbone: how many groups of layers were unfrozen, and what that did to the loss."""
    by_model: dict[str, list[list[dict[str, Any]]]] = {}
    for job in material.jobs:
        if job.get("stages"):
            by_model.setdefault(str(job["model"]), []).append(job["stages"])
    told = []
    for model, of_jobs in by_model.items():
        losses: dict[int, list[float]] = {}
        for steps in of_jobs:
            for step in steps:
                if is_number(step.get("best_loss")):
                    losses.setdefault(int(step["unfrozen"]), []).append(float(step["best_loss"]))
        parts = [
            f"{number(sum(found) / len(found), 3)} with {counted(groups, 'group') if groups else 'the head alone'}"
            + (f" ({len(found)} of {len(of_jobs)} networks)" if len(found) < len(of_jobs) else "")
            for groups, found in sorted(losses.items())
        ]
        if parts:
            told.append(f"{model}: the stopping loss reached {listed(parts)}.")
    return told
