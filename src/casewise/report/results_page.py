"""A run's figures as a Markdown page that can be kept with the study: every learner, references, readers, intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casewise.comparison import refuse_comparison
from casewise.errors import RunError
from casewise.files import write_atomic
from casewise.report import results_beside, results_classes, results_nested, results_training
from casewise.report.wording import rate

METRICS = {"mae": "MAE", "mse": "MSE", "pcc": "PCC", "ccc": "CCC", "icc": "ICC(2,1)", "bias": "bias"}
REFERENCES = (
    "In italics, without intervals: figures of others, as they reported them. Their splits differ, "
    "so that nothing here is a paired comparison with them."
)
STAGES = {"test": "the test set", "oof": "out of fold"}


def write_results(run: Path, path: Path, *, beside: Sequence[Path] = ()) -> Path:
    """Write the page for `run`; the learners of runs in `beside` stand in the same tables.

    Raises:
        RunError: a folder holds no finished run, one without figures of the stage that the page is about, or what was
            split by image for comparison only.
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
            lines += ["", apart.get(target, ""), ""]
            lines += results_nested.over_folds(target, material) if stage == "oof" else []
            continue
        lines += [*results_classes.table(target, stage, material)]
        lines += ["", apart[target]] if target in apart else []
        lines += [*results_classes.told_apart(study, target, stage, metrics)]
        lines += results_nested.over_folds(target, material) if stage == "oof" else []
        unit = study["targets"][target].get("level") or study["panels"]["by"]
        lines += results_classes.single_class(target, stage, metrics, unit)
        lines += [*results_classes.details(target, stage, metrics), ""]
    lines += results_training.claimed(material[0], stage)
    lines += results_training.beside(material)
    lines += [] if metrics.get("within") else alone
    lines += results_classes.external(material[0], stage, STAGES[stage])
    if study["evaluation"]["references"]:
        lines += [REFERENCES, ""]
    lines += results_nested.tuned_inside(material[0])
    lines += ["## What to know", "", *[f"- {note}" for note in metrics["notes"]], ""]
    lines += ["## Networks", "", *_networks(material), ""]
    lines += results_training.of_phases(material)
    return write_atomic(path, "\n".join(lines).replace("\n\n\n", "\n\n").rstrip("\n") + "\n")


def _material(folder: Path) -> dict[str, Any]:
    refuse_comparison(folder)
    try:
        found: dict[str, Any] = {
            name: json.loads((folder / f"{name}.json").read_text()) for name in ("study", "metrics", "splits")
        }
    except OSError:
        raise RunError(f"{folder} holds no finished run: study.json, metrics.json or splits.json is missing.") from None
    found["folder"] = folder
    audit = folder / "audit.json"
    found["audit"] = json.loads(audit.read_text()) if audit.is_file() else None
    found["jobs"] = [json.loads(p.read_text()) for p in sorted(folder.glob("jobs/*/*/job.json"))]
    found["jobs"] = [job for job in found["jobs"] if job["model"].partition("@")[0] in found["study"]["backbones"]]
    return found


def _targets(study: dict[str, Any], metrics: dict[str, Any], stage: str) -> list[str]:
    """Whole targets and scores, the main one first; parts of a sum (such as single zones) are left to metrics.json."""
    named = [study["main"], *study["evaluation"]["references"], *study["scores"]]
    classed = [name for name, target in study["targets"].items() if target.get("classes")]
    there = next(iter(metrics["metrics"][stage].values()))
    if classed:
        named = [(metrics.get("main") or {}).get("target"), *named, *(key for key in there if "[" not in key)]
    wanted = list(dict.fromkeys(name for name in named if name in there))
    return wanted or [key for key in there if "[" not in key]


def _how(material: list[dict[str, Any]], stage: str) -> list[str]:
    study, splits = material[0]["study"], material[0]["splits"]
    sides = splits["n"]
    folds = splits.get("folds") or sum(name != "test" for name in sides)
    total = sum(n["subjects"] for n in sides.values()), sum(n["cases"] for n in sides.values())
    stop = {
        "inner": "Training stopped on an inner, grouped part of the training folds.",
        "fold": "Training stopped on the very fold that is predicted, as published: these figures are too good.",
        "none": f"Every network was trained for {_epochs(study['recipe'])} epochs on all its training folds.",
    }[study["recipe"]["stop"]["on"]]
    if (study.get("tune") or {}).get("epochs"):
        stop = "Every network was trained on all its training folds, for as many epochs as inner folds of these chose."
    how = str(splits.get("how") or "")
    imported = how if how.startswith("column ") else ""
    source = how.removeprefix("leave out ") if how.startswith("leave out ") else ""
    folded = f"{folds} folds, each one {source} held out" if source else f"{folds} folds by subject"
    unseen = "every case is predicted by networks that never saw its subject"
    if source and stage == "oof":
        unseen = f"every case is predicted by networks that never saw any of its {source}"
    if stage == "oof" and study["recipe"]["stop"]["on"] == "fold":
        unseen = "every case is predicted by networks not fitted on its subject, but stopped by its fold"
    known_people = study.get("subjects_known", True)
    if not known_people:
        unseen = unseen.replace("its subject", "it").replace("its fold", "the predicted fold")
    known = (
        ""
        if known_people
        else "It is not known which images show the same person: images of one person may stand on both sides of the "
        "split, and every figure may be too good. "
    )
    return [
        f"{total[0]} subjects, {total[1]} cases; {folded}"
        + (f" (taken from {imported})" if imported else "")
        + (f", {sides['test']['subjects']} subjects in the test set" if sides["test"]["subjects"] else ", no test set")
        + f". Figures are from {STAGES[stage]}: {unseen}. {known}{stop} {results_classes.trained(study)}"
        f"In brackets: {study['evaluation']['confidence']:.0%} intervals from {study['evaluation']['resamples']:,} "
        f"resamples of subjects. Split manifest `{splits['hash'][:16]}`.",
    ]


def _epochs(recipe: dict[str, Any]) -> int:
    """How many epochs a network trains at most."""
    stated = recipe.get("phases") or []
    return sum(int(phase["epochs"]) for phase in stated) if stated else int(recipe["epochs"])


def _figure(entry: dict[str, Any] | None) -> str:
    if not entry or entry["value"] is None:
        return "–"
    interval = f" [{entry['low']:z.2f}, {entry['high']:z.2f}]" if entry["low"] is not None else ""
    return f"{entry['value']:z.2f}{interval}" + (" (rough)" if entry.get("rough") else "")


def _table(target: str, stage: str, material: list[dict[str, Any]]) -> list[str]:
    lines = ["| learner | cases | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 2) + "|"]
    for number, part in enumerate(material):
        suffix = "" if number == 0 else f" ({part['study']['name']})"
        for learner, targets in part["metrics"]["metrics"].get(stage, {}).items():
            figures = targets.get(target)
            if figures:
                cells = [_figure(figures.get(metric)) for metric in METRICS]
                lines.append(f"| {learner}{suffix} | {figures['mae']['n_cases']} | " + " | ".join(cells) + " |")
    readers = ((material[0]["metrics"].get("readers") or {}).get("between", {}).get(stage) or {}).get(target, {})
    for pair, figures in readers.items():
        cells = [_figure(figures.get(metric)) for metric in METRICS]
        lines.append(
            f"| *readers: {pair.replace(' | ', ' and ')}* | {figures['mae']['n_cases']} | " + " | ".join(cells) + " |"
        )
    for name, values in material[0]["study"]["evaluation"]["references"].get(target, {}).items():
        cells = [f"{values[metric]:.2f}" if metric in values else "–" for metric in METRICS]
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
