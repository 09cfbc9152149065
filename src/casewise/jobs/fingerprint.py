"""The inputs that determine a run's networks, so that results of two studies are never mixed in one folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import RunError
from casewise.inference.run_members import job_fingerprint
from casewise.modalities.registry import modality_of
from casewise.splits.grouped import guide_name
from casewise.study.schema import Recipe, Study
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.jobs.pretraining import Pretrained
    from casewise.modalities.base import StoreReference
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits

SETTINGS = (
    "panels",
    "targets",
    "outputs",
    "recipe",
    "nested_cv",
    "weights",
    "pretrain",
    "test_time_augmentation",
    "seed",
    "missing_regions",
)


def deciding_settings(study: Study, cohort: Cohort) -> dict[str, object]:
    """The inputs that determine a network before any image is read: settings by name, and the table."""
    plain = study.model_dump(mode="json")
    decided = {name: plain[name] for name in SETTINGS}
    # the rules by which grades are decided apply after training
    decided["targets"] = {
        name: {key: value for key, value in target.items() if key != "decision"}
        for name, target in plain["targets"].items()
    }
    # settings of a single network are in its own fingerprint
    decided["recipe"] = {name: value for name, value in plain["recipe"].items() if name != "networks"}
    if study.recipe.auto:
        # the plan follows when it is made
        decided |= {"recipe": Recipe(auto=True).model_dump(mode="json"), "test_time_augmentation": "planned"}
        decided["budget"] = study.budget
    if not isinstance(study.weights, str):
        # The weights of each network are in its own fingerprint, so that another network may be added.
        decided["weights"] = "by backbone"
    decided["scores"] = plain["scores"] if set(study.outputs) & set(study.scores) else {}
    if study.nested_cv:
        # networks are chosen among after their training
        decided["nested_cv"] = study.nested_cv.model_copy(update={"among": True}).model_dump(mode="json")
    if study.nested_cv or (study.recipe.completed.early_stopping.monitor == "inner" and study.split.column):
        # a predefined split does not determine how inner folds are balanced
        decided["guide"] = guide_name(study)
    if study.recipe.imbalance == "sampling":
        decided["drawn_by"] = study.primary_outcome
    decided |= modality_of(study).settings(study)
    decided["cohort"] = table_hash(cohort, study)
    return decided


def with_images(
    decided: dict[str, object], splits: Splits, tiles: StoreReference, pretraining: Pretrained | None, masks: str | None
) -> dict[str, object]:
    """The same with the split, the tiles, the masks of training, and the cohort to pretrain on."""
    other = f"{table_hash(pretraining.cohort, pretraining.study)} {pretraining.address}" if pretraining else None
    return decided | {"tiles": tiles.address, "split": splits.hash, "pretraining": other, "masks": masks}


def with_plan(decided: dict[str, object], study: Study) -> dict[str, object]:
    """The same with the planned recipe, if the study states none; its epochs and rate identify networks alone."""
    if not study.recipe.auto:
        return decided
    plan = study.recipe.model_dump(mode="json", exclude={"lr", "phases", "networks"})
    return decided | {"plan": plan, "mirrored": study.test_time_augmentation}


def table_hash(cohort: Cohort, study: Study) -> str:
    """A hash of a cohort: its panels, their images and labels."""
    table = cohort.panels[["case", "region", "tiles", *study.targets]]
    text = json.dumps(table.to_dict("list"), default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def lock_fingerprint(folder: RunFolder, decided: Mapping[str, object], study: Study) -> str:
    """Record the inputs of the networks in the run folder, and return the fingerprint.

    Raises:
        RunError: the folder contains networks with other inputs, and the message names the changes; or their inputs
            cannot be verified.
    """
    refuse_other(folder, decided, study)
    fingerprint = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    if folder.fingerprint.read_or_none() is None and folder.has_networks():
        jobs = {network: folder.finished_jobs(network) for network in study.learners}
        recorded = [(name, record) for name in jobs for job in jobs[name] if (record := job.record.read_or_none())]
        if not recorded or any(
            record["fingerprint"] != job_fingerprint(fingerprint, study, name, record["first_weights"])
            for name, record in recorded
        ):
            raise _unverifiable(folder)
    versions = {name: metadata.version(name) for name in ("torch", "torchvision", "timm")}
    record = {"fingerprint": fingerprint, "casewise": __version__, **versions, "decided": dict(decided)}
    folder.fingerprint.write(record)
    return fingerprint


def _unverifiable(folder: RunFolder) -> RunError:
    return RunError(
        f"{folder.path} holds networks, {folder.fingerprint.path.name} is missing or damaged, and the records of the "
        "networks do not show that they belong to this study. Results of two studies must not be mixed. Choose another "
        "folder with --output."
    )


def changed_settings(folder: RunFolder, study: Study, section: str) -> list[str]:
    """Changes in a section of the study (`images`, `split`) since the networks were made; [] if unknown."""
    before = (folder.study.peek() or {}).get(section)
    if not isinstance(before, dict):
        return []
    current = study.model_dump(mode="json")[section]
    # the folder of the tiles and their memory have no effect on the networks
    names = [name for name in current if name in before and name not in ("store", "memory")]
    return [line for name in names for line in _differences(f"{section}.{name}", before[name], current[name])]


def refuse_other(folder: RunFolder, decided: Mapping[str, object], study: Study | None = None) -> None:
    """Check that the folder contains no finished networks with inputs other than `decided`.

    With `study`, settings of the images are named one by one.

    Raises:
        RunError: naming the changes, or stating that the inputs of the networks cannot be verified.
    """
    finished = folder.finished_jobs()
    records = [folder.fingerprint, *(job.record for job in finished)]
    if folder.has_networks() and not any(record.intact(keep=True) for record in records):
        raise _unverifiable(folder)  # before a damaged file is set aside
    recorded = folder.fingerprint.read_or_none()
    if not recorded or not finished:
        return
    before = recorded["decided"]
    changed = _differences("tiles", before.get("tiling"), decided["tiling"]) if "tiling" in decided else []
    # Other tiles change the table of images, although the cohort's table is the same.
    rest = [key for key in decided if key != "tiling" and not (changed and key == "cohort")]
    changed += [line for key in rest for line in _differences(key, before.get(key), decided[key])]
    if study and (images := changed_settings(folder, study, "images")):
        changed = [line for text in changed for line in (images if text.startswith("images or") else [text])]
    if changed:
        raise RunError(
            f"{folder.path} holds networks of another study: {'; '.join(changed[:4])}. Results of both must not be "
            "mixed. Choose another folder with --output, or undo the change."
        )


def _differences(key_path: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in {**before, **after}
            for line in _differences(f"{key_path}.{key}", before.get(key), after.get(key))
        ]
    if before == after:
        return []
    plain = {
        "cohort": "rows or targets of the cohort table",
        "tiles": "images or their preparation",
        "split": "the split",
        "masks": "masks of the images",
        "pretraining": "the cohort to pretrain on",
    }
    return [f"{plain[key_path]} changed" if key_path in plain else f"{key_path} was {before!r} and is {after!r}"]
