"""The parts of the Markdown page on training in phases, and on what a split by image would have claimed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.report import claimed as by_image_too
from casewise.report import phases, results_classes
from casewise.report.wording import frozen_words

if TYPE_CHECKING:
    import pandas as pd

UNSEEN = {"oof": "others, out of fold", "test": "the test set"}
NUMBERS = {"mae": "MAE", "ccc": "CCC", "pcc": "PCC"}


def of_phases(material: list[dict[str, Any]]) -> list[str]:
    """The table of phases of every run's networks; nothing where none was trained in phases."""
    lines, continued = [], False
    for part in material:
        found = phases.phases_of(part["jobs"], part["study"]["recipe"])
        for network, each in found.items():
            for phase in each:
                continued |= phase.continued > 0
                upto = f" (to {phase.last_frozen})" if phase.last_frozen not in ("", "body") else ""
                cells = [
                    part["study"]["name"],
                    network,
                    f"{phase.number}. {frozen_words(phase.freeze)}{upto}",
                    *(f"{size:,}" for size in (phase.total, phase.frozen, phase.trainable, phase.running)),
                    phase.rate,
                    phase.epochs,
                    f"{phase.rows:,.0f}",
                    f"{phase.seconds:.1f}",
                    phases.core_time(phase.core_seconds),
                    phase.way,
                ]
                lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return []
    heads = (
        "run | network | phase | parameters | frozen | trainable | running statistics | learning rate | epochs | "
        "panels an epoch | seconds | core-seconds | how it was computed"
    )
    told = "Seconds are means over the folds' networks; core-seconds are what the cores worked for it."
    told += " Of networks continued after a stop it is the last stretch alone." if continued else ""
    told += f" {phases.RUNNING}"
    return ["## Phases", "", f"| {heads} |", "|---" * 13 + "|", *lines, "", told, ""]


def beside(material: list[dict[str, Any]]) -> list[str]:
    """How right each run's networks are on what they learned from, on those who decided when to stop, and on others."""
    study, metrics = material[0]["study"], material[0]["metrics"]
    target = str((metrics.get("main") or {}).get("target"))
    if results_classes.kind_of(study, target) == "regression":
        return []
    columns = phases.RIGHT if len(study["targets"][target]["classes"]) == 2 else phases.RIGHT[:1]
    lines = []
    for number, part in enumerate(material):
        suffix = f" ({part['study']['name']})" if number else ""
        for network, sides in phases.seen(part["jobs"]).items():
            lines += [
                _judged(f"{network}{suffix}", phases.SEEN[side], f"{entry['n']:.0f}", entry, columns)
                for side, entry in sides.items()
            ]
            for stage, words in UNSEEN.items():
                if figures := part["metrics"]["metrics"].get(stage, {}).get(network, {}).get(target):
                    block = part["metrics"].get("classes", {}).get(stage, {}).get(network, {}).get(target) or {}
                    count = str(sum(block["support"])) if block else "–"
                    lines.append(_judged(f"{network}{suffix}", words, count, figures, columns))
    if not lines:
        return []
    heads = [f"| network | judged on | n | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    told = (
        f"{phases.NOTHING_NEW}. Of those that the networks had seen: means over the folds' networks, in brackets the "
        "lowest and the highest."
    )
    return ["## On what was learned from, and on others", "", told, "", *heads, *lines, ""]


def _judged(network: str, words: str, count: str, figures: dict[str, Any], columns: Any) -> str:
    cells = [results_classes.figure(figures.get(name)) for name in columns]
    return f"| {network} | {words} | {count} | {' | '.join(cells)} |"


def claimed(material: dict[str, Any], stage: str) -> list[str]:
    """Every learner by subject and by image, and which to believe; nothing where there was no split by image."""
    study, metrics = material["study"], material["metrics"]
    told, target = metrics.get("claimed"), str((metrics.get("main") or {}).get("target"))
    by_image = (told or {}).get("metrics", {}).get(stage)
    if not told or not by_image:
        return []
    kind = results_classes.kind_of(study, target)
    columns = NUMBERS if kind == "regression" else results_classes.columns_of(study, target)
    lines = [f"| learner | split by | {' | '.join(columns.values())} |", "|---" * (2 + len(columns)) + "|"]
    for learner, targets in metrics["metrics"].get(stage, {}).items():
        for way, figures in (("subject", targets.get(target)), ("image", by_image.get(learner, {}).get(target))):
            if figures:
                cells = [results_classes.figure(figures.get(name)) for name in columns]
                lines.append(f"| {learner} | {way} | {' | '.join(cells)} |")
    believe = (
        f"Believe the figures by subject. In the split by image {told['subjects_on_both_sides']:,} of "
        f"{told['subjects']:,} subjects stand on both sides: who is tested was trained on, and "
        f"{by_image_too.memory(_predictions(material['folder']), target)}. Its intervals take each of "
        f"{told['images']:,} images for a person of its own, and are too narrow."
    )
    level = _level(study, target)
    units = [by_image_too.judged_apart(level, told["images"]), ""] if level != "image" else []
    return ["## What the published way of splitting would have claimed", "", *lines, "", *units, believe, ""]


def _level(study: dict[str, Any], target: str) -> str:
    """What one prediction of a target or score is about, as `Study.level_of` has it."""
    stated = (study["scores"].get(target) or study["targets"].get(target) or {}).get("level")
    panel = str(study["panels"]["by"])
    return str(stated or ("case" if study.get("tiles") and panel == "image" else panel))


def _predictions(folder: Path) -> pd.DataFrame | None:
    """What was recorded of everyone judged, or None where it is gone."""
    import pandas as pd

    path = folder / "predictions.parquet"
    return pd.read_parquet(path, columns=["subject", "stage", "target", "y_true"]) if path.is_file() else None
