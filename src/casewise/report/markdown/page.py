"""A run's figures as a Markdown page that can be kept with the study: learners, references, readers, intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casewise.audit.probes import ALPHA
from casewise.report.caveats import sentences
from casewise.report.formatting import rate, without_html
from casewise.report.markdown import compare
from casewise.report.markdown.runs import (
    FinishedStudy,
    check_comparable,
    pooled,
    read_finished,
    stage_of,
    targets_of,
)
from casewise.report.markdown.sections import altered, external, image_split, left_out, train_and_held_out
from casewise.report.markdown.target_tables import MISSING, figure, target_values
from casewise.report.sections import (
    audit,
    calibration,
    column_alone,
    drift,
    participants,
    prediction_sets,
    saliency,
    subgroups,
    training,
    validation,
)
from casewise.report.sections.baselines import against
from casewise.report.tables import metric_format
from casewise.report.templating import templates
from casewise.run_folder.folder import write_page


def write_results(run: Path, path: Path, *, beside: Sequence[Path] = ()) -> Path:
    """Write `results_page`.

    Raises:
        RunError: as `results_page`, or as `write_page`.
    """
    return write_page(path, results_page(run, beside=beside), ".md")


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
    return without_html(re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n")


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
    explained = saliency.measured_values(first.measured) if first.measured else None
    return {
        "runs": runs,
        "first": first,
        "study": first.study,
        "stage": stage,
        "pooled": pooled(first, stage),
        "how": [how(run) for run in runs],
        "baseline": against(first.study, first.metrics),
        "write": metric_format(first.study, first.main_target),
        "audit": first.audit,
        "threshold": ALPHA,
        "tested": audit.tested_subjects((first.audit or {}).get("facts") or {}),
        "column_alone": None if pooled(first, stage) else _beside_column(first, stage),
        "assignment": first.splits.get("assignment") or {},
        "targets": [target_values(runs, stage, name, pairs, reasons.get(name, "")) for name in targets],
        "explained": explained,
        "calibration": calibration.calibration(first.study, first.metrics),
        "prediction_sets": prediction_sets.prediction_sets(first.study, first.metrics),
        "participants": participants.participants(first.study, first.metrics),
        "subgroups": subgroups.subgroups(first.study, first.metrics),
        "heads": {"hit": saliency.HIT, "near": saliency.NEAR, "share": saliency.SHARE},
        "altered": altered(first),
        "image_split": image_split(first, stage),
        "train_performance": train_and_held_out(runs),
        "left_out": left_out(first),
        "external": external(first, stage),
        "drift": drift.values(
            first.metrics.drift,
            str(first.metrics.main.learner),
            metric_format(first.study, first.main_target),
        ),
        "nested": validation.nested(first.study, first.jobs, set(first.learners), len(first.study.networks)),
        "networks": [row for run in runs for row in network_rows(run)],
        "finder": any(job.get("finder") for run in runs for job in run.jobs),
        "phases": [(run.name, phase) for run in runs for phase in _phases(run)],
        "core_time": training.core_time,
        "seeds": training.seed_spread(first.metrics, first.study),
        "figure": figure,
        "notes": sentences(first.metrics.notes),
    }


def _beside_column(run: FinishedStudy, stage: str) -> dict[str, Any] | None:
    learner = str((run.metrics.get("main") or {}).get("learner"))
    return column_alone.beside_column(run.study, run.audit, run.metrics, stage, learner)


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
