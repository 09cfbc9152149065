"""A run's figures as a Markdown page that can be kept with the study: every learner, references, readers, intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casewise.errors import RunError
from casewise.files import write_atomic
from casewise.report.caveats import sentences
from casewise.report.formatting import rate
from casewise.report.markdown import classes as results_classes
from casewise.report.markdown import compare as results_beside
from casewise.report.markdown import explained as results_explained
from casewise.report.markdown import nested as results_nested
from casewise.report.markdown import training as results_training
from casewise.run_folder import RunFolder
from casewise.splits.image_split import refuse_image_split
from casewise.study.schema import network_names

REFERENCES = (
    "In italics, without intervals: figures of others, as they reported them. Their splits differ, "
    "so that nothing here is a paired comparison with them."
)
STAGES = {"test": "the test set", "oof": "out of fold"}


def write_results(run: Path, path: Path, *, beside: Sequence[Path] = ()) -> Path:
    """Write the page for `run`; the learners of runs in `beside` stand in the same tables.

    Raises:
        RunError: a folder holds no finished run, one without figures of the stage that the page is about, or what was
            split by image for comparison only; a run in `beside` shares no target with `run`, or is synthetic where
            that is not.
    """
    material = [_material(folder) for folder in (run, *beside)]
    study, metrics = material[0]["study"], material[0]["metrics"]
    stage = (metrics.get("main") or {}).get("stage")
    stage = stage if stage in STAGES else next((name for name in STAGES if metrics["metrics"].get(name)), None)
    if stage is None:
        raise RunError(
            f"{run}: nothing was judged, since no prediction has a recorded value; there is no page to write."
        )
    for folder, part in zip(beside, material[1:], strict=True):
        if not part["metrics"]["metrics"].get(stage):
            there = [STAGES[name] for name in STAGES if part["metrics"]["metrics"].get(name)]
            found = f"it has figures from {' and '.join(there)}" if there else "nothing was judged there"
            raise RunError(
                f"{folder} cannot stand beside {run}, whose figures are from {STAGES[stage]}: {found}. Leave it out."
            )
    _refuse_strangers([run, *beside], material, stage, _targets(study, metrics, stage))
    apart: dict[str, str] = {}
    if beside and not (metrics.get("within") and stage == "oof"):
        studies, targets = [part["study"] for part in material], _targets(study, metrics, stage)
        apart = results_beside.apart([run, *beside], stage, targets)
        alike = [name for name in targets if name not in apart]
        # Never the first run's own: they would pass for comparisons of all the learners in the table.
        metrics["comparisons"] = results_beside.compared([run, *beside], studies, stage, alike) or {}
    lines = [f"# {study['title'] or study['name']}", ""]
    if study["synthetic"]:
        lines += ["**Synthetic phantom data, not patients.**", ""]
    lines += [study["description"], "", *_how(material, stage), ""]
    lines += results_classes.audit(material[0]["audit"])
    alone = results_classes.left_out(material[0])
    lines += alone if metrics.get("within") else []
    for target in _targets(study, metrics, stage):
        lines += [f"## {target}{', pooled' if results_classes.pooled(study, target, stage, metrics) else ''}", ""]
        if results_classes.kind_of(study, target) == "regression":
            note = results_classes.pooled(study, target, stage, metrics)
            lines += [*_table(target, stage, material), *(["", note] if note else _told(target, stage, metrics))]
            lines += ["", results_beside.lacking(material, stage, target), "", apart.get(target, ""), ""]
            lines += results_nested.over_folds(target, material) if stage == "oof" else []
            continue
        lines += [*results_classes.table(target, stage, material)]
        lines += ["", results_beside.lacking(material, stage, target), "", apart.get(target, "")]
        lines += [*results_classes.told_apart(study, target, stage, metrics)]
        lines += results_nested.over_folds(target, material) if stage == "oof" else []
        lines += results_classes.single_class(target, stage, metrics, results_classes.unit_of(study, target))
        lines += [*results_classes.details(study, target, stage, metrics), ""]
    lines += results_explained.explained(RunFolder(run))
    lines += results_training.claimed(material[0], stage)
    lines += results_training.beside(material)
    lines += [] if metrics.get("within") else alone
    lines += results_classes.external(material[0], stage, STAGES[stage])
    if study["evaluation"]["references"]:
        lines += [REFERENCES, ""]
    lines += results_nested.tuned_inside(material[0])
    lines += ["## What to know", "", *[f"- {note}" for note in sentences(metrics["notes"])], ""]
    lines += ["## Networks", "", *_networks(material), ""]
    lines += results_training.of_phases(material)
    return write_atomic(path, re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip("\n") + "\n")


def _material(folder: Path) -> dict[str, Any]:
    files = RunFolder(folder)
    refuse_image_split(files)
    found: dict[str, Any] = {name: getattr(files, name).read() for name in ("study", "metrics", "splits")}
    found["folder"] = files
    found["audit"] = files.audit.read() if files.audit.exists() else None
    found["jobs"] = files.job_records()
    networks = network_names(found["study"]["backbones"], (found["study"].get("volumes") or {}).get("fusion", []))
    found["jobs"] = [job for job in found["jobs"] if job["model"] in networks]
    return found


def _targets(study: dict[str, Any], metrics: dict[str, Any], stage: str) -> list[str]:
    """Whole targets and scores, the main one first; parts of a sum (such as single zones) are left to metrics.json."""
    named = [study["primary_outcome"], *study["evaluation"]["references"], *study["scores"]]
    classed = [name for name, target in study["targets"].items() if target.get("classes")]
    there = next(iter(metrics["metrics"][stage].values()))
    if classed:
        named = [(metrics.get("main") or {}).get("target"), *named, *(key for key in there if "[" not in key)]
    wanted = list(dict.fromkeys(name for name in named if name in there))
    return wanted or [key for key in there if "[" not in key]


def _refuse_strangers(runs: Sequence[Path], material: Sequence[dict[str, Any]], stage: str, targets: list[str]) -> None:
    """Stop where a run can share no table with the first one."""
    study = material[0]["study"]
    for folder, part in zip(runs[1:], material[1:], strict=True):
        other, cannot = part["study"], f"{folder} cannot stand beside {runs[0]}"
        if bool(other["synthetic"]) != bool(study["synthetic"]):
            drawn, seen = (folder, runs[0]) if other["synthetic"] else (runs[0], folder)
            raise RunError(f"{cannot}: {drawn} is of synthetic phantom data, {seen} is not. Give each its own page.")
        shared = [name for name in targets if results_beside.has(part, stage, name)]
        if not shared:
            judged = ", ".join(_targets(other, part["metrics"], stage))
            raise RunError(f"{cannot}: it judged {judged}, and nothing of {', '.join(targets)}. Leave it out.")
        for name in shared:
            here, there = _scale(study, name), _scale(other, name)
            if here != there:
                raise RunError(f"{cannot}: there {name} is {there}, here {here}. Leave it out.")


def _scale(study: dict[str, Any], target: str) -> str:
    """What values a target has, in words."""
    names = (study["targets"].get(target) or {}).get("classes") or []
    return f"of the classes {', '.join(map(str, names))}" if names else "a number"


def _how(material: list[dict[str, Any]], stage: str) -> list[str]:
    evaluation = material[0]["study"]["evaluation"]
    by_run = results_training.run_by_run
    unseen = by_run(material, [results_training.unseen(part, stage) for part in material])
    alike = len({results_training.unseen(part, stage) for part in material}) == 1
    hashes: dict[str, list[str]] = {}
    for part in material:
        hashes.setdefault(f"`{part['splits']['hash'][:16]}`", []).append(part["study"]["name"])
    manifests = [f"{', '.join(names)} {key}" if len(hashes) > 1 else key for key, names in hashes.items()]
    return [
        f"{by_run(material, [results_training.split(part) for part in material])} "
        f"Figures are from {STAGES[stage]}{': ' if alike else '. '}{unseen} "
        f"{by_run(material, [results_training.recipe(part['study']) for part in material])} "
        f"In brackets: {evaluation['confidence']:.0%} intervals from {evaluation['bootstrap_resamples']:,} "
        f"resamples of subjects. Split manifest {'; '.join(manifests)}.",
    ]


def _figure(entry: dict[str, Any] | None) -> str:
    if not entry or entry["value"] is None:
        return "–"
    interval = f" [{entry['low']:z.2f}, {entry['high']:z.2f}]" if entry["low"] is not None else ""
    return f"{entry['value']:z.2f}{interval}" + (" (rough)" if entry.get("rough") else "")


def _table(target: str, stage: str, material: list[dict[str, Any]]) -> list[str]:
    columns = results_classes.columns_of(material[0]["study"], target)
    lines = ["| learner | cases | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 2) + "|"]
    for number, part in enumerate(material):
        suffix = "" if number == 0 else f" ({part['study']['name']})"
        for learner, targets in part["metrics"]["metrics"].get(stage, {}).items():
            figures = targets.get(target)
            if figures:
                cells = [_figure(figures.get(metric)) for metric in columns]
                lines.append(f"| {learner}{suffix} | {figures['mae']['n_cases']} | " + " | ".join(cells) + " |")
    readers = ((material[0]["metrics"].get("readers") or {}).get("between", {}).get(stage) or {}).get(target, {})
    for pair, figures in readers.items():
        cells = [_figure(figures.get(metric)) for metric in columns]
        lines.append(
            f"| *readers: {pair.replace(' | ', ' and ')}* | {figures['mae']['n_cases']} | " + " | ".join(cells) + " |"
        )
    for name, values in material[0]["study"]["evaluation"]["references"].get(target, {}).items():
        cells = [f"{values[metric]:.2f}" if metric in values else "–" for metric in columns]
        lines.append(f"| *{name}* | – | " + " | ".join(cells) + " |")
    return lines


def _told(target: str, stage: str, metrics: dict[str, Any]) -> list[str]:
    """Who can be told apart from the learner that is best in number, by MAE."""
    compared = metrics.get("comparisons", {}).get(stage, {}).get(target, {}).get("mae")
    if not compared or len(compared["not_told_apart"]) + len(compared["differences"]) < 2:
        return []
    return ["", results_beside.told(compared, "smallest MAE")]


def _networks(material: list[dict[str, Any]]) -> list[str]:
    found = any(job.get("finder") for part in material for job in part["jobs"])
    lines = ["| run | network | folds | parameters | epochs (mean) | seconds a fold | precision | first weights |"]
    lines[0] += " learning rate found |" if found else ""
    lines.append("|---" * (8 + found) + "|")
    for part in material:
        for model in dict.fromkeys(job["model"] for job in part["jobs"]):
            jobs = [job for job in part["jobs"] if job["model"] == model]
            mean = {key: sum(job[key] for job in jobs) / len(jobs) for key in ("epochs", "seconds")}
            origin = _without_folders(jobs[0]["weights"]) + (f" | {_rates(jobs)}" if found else "")
            lines.append(
                f"| {part['study']['name']} | {model} | {len(jobs)} | {jobs[0]['parameters']:,} | "
                f"{mean['epochs']:.0f} | {mean['seconds']:.0f} | {jobs[0]['precision']} | {origin} |"
            )
    return lines


def _rates(jobs: list[dict[str, Any]]) -> str:
    rates = sorted({job["finder"]["chosen"] for job in jobs if job.get("finder")})
    return "–" if not rates else rate(rates[0]) + (f" to {rate(rates[-1])}" if len(rates) > 1 else "")


def _without_folders(text: str) -> str:
    """A page travels; the folders of the machine that made it do not."""
    return " ".join(Path(word).name if word.startswith("/") else word for word in text.split(" "))
