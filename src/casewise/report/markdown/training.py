"""The parts of the Markdown page on split and training, on phases, and on what a split by image would have claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from casewise.report.formatting import frozen_words
from casewise.report.markdown import classes as results_classes
from casewise.report.sections import image_split as by_image_too
from casewise.report.sections import phases

if TYPE_CHECKING:
    import pandas as pd

    from casewise.run_folder import RunFolder

UNSEEN = {"oof": "others, out of fold", "test": "the test set"}


def run_by_run(material: Sequence[dict[str, Any]], sentences: Sequence[str]) -> str:
    """What is true of every run, once; where runs differ, each sentence behind the names of its runs.

    >>> runs = [{"study": {"name": name}} for name in "abc"]
    >>> run_by_run(runs, ["No test set."] * 3), run_by_run(runs, ["Six epochs.", "Two epochs.", "Six epochs."])
    ('No test set.', 'a, c: six epochs. b: two epochs.')
    """
    names: dict[str, list[str]] = {}
    for part, sentence in zip(material, sentences, strict=True):
        names.setdefault(sentence, []).append(part["study"]["name"])
    if len(names) == 1:
        return sentences[0]
    return " ".join(f"{', '.join(runs)}: {text[:1].lower()}{text[1:]}" for text, runs in names.items())


def split(part: dict[str, Any]) -> str:
    """Who is in a run, and how they were split."""
    splits = part["splits"]
    sides = splits["n"]
    folds = splits.get("folds") or sum(name != "test" for name in sides)
    people, cases = (sum(n[what] for n in sides.values()) for what in ("subjects", "cases"))
    images = _images(part)
    shown = f", {images:,} {_rows_of(part['study'])}" if images > cases else ""
    how, source = str(splits.get("how") or ""), _source(splits)
    tested = sides["test"]["subjects"]
    return (
        f"{people:,} subjects, {cases:,} cases{shown}; "
        + (f"{folds} folds, each one {source} held out" if source else f"{folds} folds by subject")
        + (f" (taken from {how})" if how.startswith("column ") else "")
        + (f", {tested:,} subjects in the test set." if tested else ", no test set.")
    )


def _source(splits: dict[str, Any]) -> str:
    how = str(splits.get("how") or "")
    return how.removeprefix("leave out ") if how.startswith("leave out ") else ""


def _rows_of(study: dict[str, Any]) -> str:
    """What a row of the study's table is, several of them."""
    volumes = study.get("volumes") or {}
    return "slices" if volumes.get("slice_index") else "scans" if volumes else "images"


def _images(part: dict[str, Any]) -> int:
    """How many images the subjects of the split have; 0 where the run's cohort is gone."""
    cohort = part["folder"].cohort
    if not cohort.exists():
        return 0
    rows = cohort.read(["subject", "path"])
    if known := part["splits"].get("subjects"):
        rows = rows[rows["subject"].astype(str).isin(list(known))]
    # A slide stands in one row a tile.
    return int(rows["path"].nunique())


def unseen(part: dict[str, Any], stage: str) -> str:
    """What the networks had not seen of those they predict, and whether it is known who shows the same person."""
    study, source = part["study"], _source(part["splits"])
    told = "every case is predicted by networks that never saw its subject."
    if source and stage == "oof":
        told = f"every case is predicted by networks that never saw any of its {source}."
    if stage == "oof" and study["recipe"]["early_stopping"]["monitor"] == "fold":
        told = "every case is predicted by networks not fitted on its subject, but stopped by its fold."
    if study.get("subjects_known", True):
        return told
    told = told.replace("its subject", "it").replace("its fold", "the predicted fold")
    return (
        f"{told} It is not known which images show the same person: images of one person may stand on both sides of "
        "the split, and every figure may be too good."
    )


def recipe(study: dict[str, Any]) -> str:
    """When training stopped, what was trained, and what was done about classes of different size."""
    stated = study["recipe"]
    phased = stated.get("phases") or []
    epochs = sum(int(phase["epochs"]) for phase in phased) if phased else int(stated["epochs"])
    stop = {
        "inner": "Training stopped on an inner, grouped part of the training folds.",
        "fold": "Training stopped on the very fold that is predicted, as published: these figures are too good.",
        "none": f"Every network was trained for {epochs} epochs on all its training folds.",
    }[stated["early_stopping"]["monitor"]]
    if (study.get("nested_cv") or {}).get("epochs"):
        stop = "Every network was trained on all its training folds, for as many epochs as inner folds of these chose."
    return f"{stop} {results_classes.trained(study)}".rstrip()


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
    lines: list[str] = []
    plain: list[str] = []
    gone: list[str] = []
    for number, part in enumerate(material):
        suffix = f" ({part['study']['name']})" if number else ""
        known = phases.seen(part["jobs"])
        lacking = gone if part["study"]["recipe"].get("phases") else plain
        lacking += [
            f"{name}{suffix}" for name in dict.fromkeys(job["model"] for job in part["jobs"]) if name not in known
        ]
        for network, sides in known.items():
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
    lines += [""]
    if plain:
        only = "only studies in phases look at what was learned from once more"
        lines += [f"Not worked out for {', '.join(plain)}: {only}.", ""]
    if gone:
        lines += [f"Not kept in the run's records for {', '.join(gone)}.", ""]
    return ["## On what was learned from, and on others", "", told, "", *heads, *lines]


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
    columns = results_classes.columns_of(study, target)
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
    level = results_classes.unit_of(study, target)
    units = [by_image_too.judged_apart(level, told["images"]), ""] if level != "image" else []
    return ["## What the published way of splitting would have claimed", "", *lines, "", *units, believe, ""]


def _predictions(folder: RunFolder) -> pd.DataFrame | None:
    """What was recorded of every subject, or None where the predictions are missing."""
    file = folder.predictions
    return file.read(["subject", "stage", "target", "y_true"]) if file.exists() else None
