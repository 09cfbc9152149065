"""The jobs of a study: their inputs, their subjects, how much of each is done, and what decides their networks.

The fingerprint of what decides networks keeps results of two studies from being mixed in one folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from casewise.cohort.table import names_text
from casewise.cohort.targets import label_table
from casewise.errors import RunError, StudyError, cut, nearest
from casewise.files import json_hash, text_hash
from casewise.inference.run_members import first_weights_checksum, job_fingerprint
from casewise.modalities.base import StoreAddress, StoreReference
from casewise.modalities.registry import modality_of
from casewise.run_folder import JobFolder, RunFolder
from casewise.run_folder.job_folder import FAILED, PRETRAINING
from casewise.splits.grouped import Splits, guide_name, inner_stop, panel_records
from casewise.study.learners import learner_named, name_of_fold
from casewise.study.messages import FIXED
from casewise.study.model import mixed_seed
from casewise.study.schema import NETWORKS, Recipe, Study, settings_marked
from casewise.study.sources import libraries
from casewise.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from casewise.cohort.cohort import Cohort
    from casewise.jobs.fitting import Pretrained
    from casewise.training.cost import Timer


@dataclass(frozen=True)
class Job:
    """One network to train: a backbone on all folds but one, or on all of them.

    Attributes:
        fold: the fold that is left out, from 0; the number of folds if none is.
        first_weights: the checksum of the file that the network starts from; empty if it starts from none.
        final: whether it is trained on all folds, for new cases.
        trial: whether it only measures how long the others will take (`casewise.jobs.compute_plans`).
        alone: whether there is one for each learner, as with a validation set.
    """

    model: str
    fold: int
    folder: JobFolder
    fingerprint: str
    first_weights: str = ""
    final: bool = False
    trial: bool = False
    alone: bool = False

    @property
    def name(self) -> str:
        """The network in messages."""
        return f"{self.model}, all folds" if self.final else name_of_fold(self.model, self.fold, alone=self.alone)

    @property
    def finished(self) -> bool:
        """Whether the job has a result with the same inputs; its files are not verified."""
        return self.folder.finished(self.fingerprint)

    def parts(self) -> int:
        """In how many parts batches are computed: more than one after the job ran out of memory."""
        record = self.folder.parts.read_or_none()
        return int(record["parts"]) if record and record["fingerprint"] == self.fingerprint else 1

    def halve_parts(self) -> int:
        """Compute batches in twice as many parts in the next attempt; return their number."""
        parts = 2 * self.parts()
        self.folder.parts.write({"parts": parts, "fingerprint": self.fingerprint})
        return parts

    def intact(self) -> bool:
        """Whether the job is finished and its files are intact; damaged ones are set aside."""
        return self.folder.intact(self.fingerprint)


@dataclass(frozen=True)
class JobInputs:
    """The inputs of all jobs of a run: a study, its cohort, split and images, and a cohort to pretrain on.

    `masks` is the file of `casewise.modalities.masks.training_masks`; None without masks in training.
    """

    study: Study
    cohort: Cohort
    splits: Splits
    store: StoreAddress
    pretraining: Pretrained | None = None
    masks: Path | None = None

    def of_learner(self, name: str) -> JobInputs:
        """The inputs as a learner sees them; only those that are trained by steps are pretrained."""
        pretraining = self.pretraining if learner_named(name).by_steps else None
        return replace(self, study=self.study.of_learner(name), pretraining=pretraining)


def expand(study: Study, splits: Splits, folder: RunFolder, fingerprint: str) -> list[Job]:
    """All jobs of a study, backbone by backbone; each with the checksum of the weights file that it starts from."""
    return [
        Job(model, fold, folder.job(model, fold), made_from, first_weights, alone=splits.holdout)
        for model, made_from, first_weights in _learners(study, fingerprint)
        for fold in range(splits.folds)
    ]


def named_jobs(study: Study, folds: int | None, only: Sequence[str]) -> set[str]:
    """The names of the jobs of the named learners: all folds of `resnet34`, or one, as `resnet34:2` states.

    Without `folds`, before the table is read, only the learners are checked.

    Raises:
        StudyError: there is no such learner or fold.
    """
    names = set()
    for text in only:
        model, colon, fold = (text, "", "") if text in study.learners else text.rpartition(":")
        if model not in study.learners:
            raise StudyError(
                f"--only: the study has no learner {cut(model or text)}; it has {names_text(study.learners, 8)}."
                f"{nearest(model or text, study.learners)}"
            )
        if folds is None:
            continue
        if colon and not (fold.isdecimal() and 1 <= int(fold) <= folds):
            there = f"folds 1 to {folds}" if folds > 1 else f"one network for each: {model}"
            raise StudyError(f"--only: {cut(text)} names no fold of the study, which has {there}.")
        numbers = [int(fold) - 1] if colon else range(folds)
        names |= {name_of_fold(model, number, alone=study.split.holdout) for number in numbers}
    return names


def final_jobs(study: Study, splits: Splits, folder: RunFolder, fingerprint: str) -> list[Job]:
    """The jobs of networks on all subjects outside the test set; none unless the study states `final: refit`."""
    if study.final != "refit":
        return []
    return [
        Job(model, splits.folds, folder.final_job(model), made_from, first_weights, final=True)
        for model, made_from, first_weights in _learners(study, fingerprint)
    ]


def _learners(study: Study, fingerprint: str) -> Iterator[tuple[str, str, str]]:
    """Each learner with the fingerprint of its jobs and the checksum of its first weights."""
    for model in study.learners:
        first_weights = first_weights_checksum(study, model)
        yield model, job_fingerprint(fingerprint, study, model, first_weights), first_weights


def begin(job: Job, how: str = "") -> None:
    """Remove the state of a training with other inputs or another method from the job's folder.

    It may have been trained on other subjects, and a state is valid only for the same method of computation (`how`).
    The facts of an earlier network are removed, too: they are written again with the new weights.
    """
    job.folder.facts.remove()
    made_from = f"{job.fingerprint} {how}".strip()
    if job.folder.mark.read_or_none() != made_from:
        job.folder.record.remove()
        job.folder.remove_training()
        job.folder.mark.write(made_from)


def divided(study: Study, panels: pd.DataFrame, splits: Splits, fold: int) -> tuple[list[str], list[str]]:
    """The subjects that the networks of a fold are fitted on, and those for early stopping, if any."""
    training = splits.training(fold)
    if study.recipe.early_stopping.monitor == "inner":
        records, seed = panel_records(panels, study, training), mixed_seed(study.seed, "stop", fold)
        return inner_stop(records, training, share=study.recipe.early_stopping.val_fraction, seed=seed)
    return training, splits.subjects(fold) if study.recipe.early_stopping.monitor == "fold" else []


def fitted_rows(study: Study, panels: pd.DataFrame, splits: Splits, fold: int) -> NDArray[np.intp]:
    """The rows of `panels` that the networks of a fold are fitted on; they also fit the preprocessing.

    With `early_stopping: {monitor: inner}` the subjects for early stopping are not included.
    """
    subjects, _ = divided(study, panels, splits, fold)
    selected = panels["subject"].astype(str).isin(set(subjects)).to_numpy()
    return np.flatnonzero(selected & ~np.isnan(label_table(panels, study)).all(axis=1))


# Receives the number of epochs done and the training loss of the last one.
ReportEpoch: TypeAlias = Callable[[int, float | None], None]


def epochs_inside(study: Study) -> int:
    """The total number of epochs of the inner trainings of a job."""
    return study.nested_cv.folds * len(study.rates) * study.recipe.epochs if study.nested_cv else 0


@dataclass(frozen=True)
class Progress:
    """Records how far a job is, and its cost so far, as its trainings tell it.

    Attributes:
        inputs: as the job's learner sees them.
        timer: of the whole job.
    """

    job: Job
    inputs: JobInputs
    timer: Timer

    def begin(self) -> None:
        """Record that the job begins, or continues after the epochs that it had done."""
        earlier = self.job.folder.read_progress(0.0)
        if earlier is None or earlier["stage"] == FAILED:
            self.training()(0, None)
        else:
            os.utime(self.job.folder.progress_path)

    def training(self, before: int = 0, stage: str = "training") -> ReportEpoch:
        """Record a training's progress, after `before` epochs of inner trainings of the same job."""
        total = epochs_inside(self.inputs.study) + self.inputs.study.recipe.most_epochs

        def report(done: int, loss: float | None) -> None:
            self.timer.note()
            self.job.folder.write_progress(before + done, total, stage, loss, self._share(before + done))

        return report

    def pretraining(self, before: int = 0) -> ReportEpoch:
        """Record a pretraining's progress, after `before` epochs of inner trainings of the same job."""
        total = self.inputs.pretraining.study.recipe.epochs if self.inputs.pretraining else 0

        def report(done: int, loss: float | None) -> None:
            self.timer.note()
            share = self._share(before, done / max(1, total))
            self.job.folder.write_progress(done, total, PRETRAINING, loss, share)

        return report

    def _share(self, epochs: int, pretraining: float = 0.0) -> float:
        """The share of the job's work that is done, where an epoch costs as much as it has images.

        Args:
            epochs: on the study's own cohort, done.
            pretraining: the share of the present pretraining that is done.
        """
        study, other = self.inputs.study, self.inputs.pretraining
        total = float(epochs_inside(study) + study.recipe.most_epochs)
        if other is None:
            return epochs / max(1.0, total)
        pretraining_epochs = (
            other.study.recipe.epochs * len(other.cohort.panels) / max(1, len(self.inputs.cohort.panels))
        )
        inner = range(study.nested_cv.folds if study.nested_cv else 0)
        folder = self.job.folder
        folders = [folder.pretraining, *(folder.inner(f"fold{k + 1}").folder.pretraining for k in inner)]
        finished = sum(pretrained.body.exists() for pretrained in folders)
        return (epochs + pretraining_epochs * (finished + pretraining)) / (total + pretraining_epochs * len(folders))


def deciding_settings(study: Study, cohort: Cohort) -> dict[str, object]:
    """The inputs that determine a network before any image is read: settings by name, and the table."""
    plain = study.model_dump(mode="json")
    decided = {name: plain[name] for name in settings_marked(study, NETWORKS)}
    # the rules by which grades are decided apply after training
    decided["targets"] = {
        name: {key: value for key, value in target.items() if key != "decision"}
        for name, target in plain["targets"].items()
    }
    # settings of a single network are in its own fingerprint
    decided["recipe"] = _recipe_settings(study.recipe, "networks")
    if study.recipe.auto:
        # the plan follows when it is made
        decided |= {"recipe": _recipe_settings(Recipe(auto=True)), "test_time_augmentation": "planned"}
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
    if study.recipe.balance in ("sampling", "within_sources"):
        decided["drawn_by"] = study.primary_outcome
    if study.recipe.meant_for == "other_sources" and study.split.leave_out in cohort.images:  # else it is refused later
        table = cohort.images[["subject", study.split.leave_out]].astype(str)
        decided["sources"] = text_hash(json.dumps(table.to_dict("list")))
    decided |= modality_of(study).settings(study)
    decided["cohort"] = table_hash(cohort, study)
    return decided


def _recipe_settings(recipe: Recipe, *left_out: str) -> dict[str, Any]:
    """The settings of a recipe, with those that version 1.0 had as well."""
    settings = recipe.model_dump(mode="json", exclude=set(left_out))
    return settings | {name: values | settings.get(name, {}) for name, values in FIXED.items()}


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
    plan = _recipe_settings(study.recipe, "lr", "phases", "networks")
    return decided | {"plan": plan, "mirrored": study.test_time_augmentation}


def table_hash(cohort: Cohort, study: Study) -> str:
    """A hash of a cohort: its panels, their images and labels."""
    table = cohort.panels[["case", "region", "tiles", *study.targets]]
    return text_hash(json.dumps(table.to_dict("list"), default=_json_value, sort_keys=True))


def _json_value(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else str(value)


def lock_fingerprint(folder: RunFolder, decided: Mapping[str, object], study: Study) -> str:
    """Record the inputs of the networks in the run folder, and return the fingerprint.

    Raises:
        RunError: the folder contains networks with other inputs, and the message names the changes; or their inputs
            cannot be verified.
    """
    refuse_other(folder, decided, study)
    fingerprint = json_hash(decided)
    if folder.fingerprint.read_or_none() is None and folder.has_networks():
        jobs = {network: folder.finished_jobs(network) for network in study.learners}
        recorded = [(name, record) for name in jobs for job in jobs[name] if (record := job.record.read_or_none())]
        if not recorded or any(
            record["fingerprint"] != job_fingerprint(fingerprint, study, name, record["first_weights"])
            for name, record in recorded
        ):
            raise _unverifiable(folder)
    versions = {name: metadata.version(name) for name in ("torch", *libraries())}
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
    return [line for name in names for line in differences(f"{section}.{name}", before[name], current[name])]


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
    changed = differences("tiles", before.get("tiling"), decided["tiling"]) if "tiling" in decided else []
    # Other tiles change the table of images, although the cohort's table is the same.
    rest = [key for key in decided if key != "tiling" and not (changed and key == "cohort")]
    changed += [line for key in rest for line in differences(key, before.get(key), decided[key])]
    if study and (images := changed_settings(folder, study, "images")):
        changed = [line for text in changed for line in (images if text.startswith("images or") else [text])]
    refuse_changed(folder, changed)


# The number of changed settings that a message names.
MOST_NAMED = 4


def refuse_changed(folder: RunFolder, changed: Sequence[str]) -> None:
    """Refuse to train networks in a folder that has networks with other inputs; `changed` has a text for each change.

    Raises:
        RunError: something changed.
    """
    if more := max(len(changed) - MOST_NAMED, 0):
        changed = [*changed[:MOST_NAMED], f"and {more} more"]
    study = " All settings are in `study.json`: give the study file that the run was started with." if more else ""
    if changed:
        raise RunError(
            f"{folder.path} holds models of another study: {'; '.join(changed)}. Results of both must not be mixed. "
            f"Choose another folder with --output, or undo the change.{study}"
        )


def differences(key_path: str, before: Any, after: Any) -> list[str]:
    """A text for each value that differs, by its path in mappings."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in {**before, **after}
            for line in differences(f"{key_path}.{key}", before.get(key), after.get(key))
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
    if key_path in plain:
        return [f"{plain[key_path]} changed"]
    if key_path == "budget" and before and after:
        own, new = (f"{s / 60:g}min" if s % 60 == 0 else f"{s:.15g}s" for s in (before, after))
        return [f"budget was {own} and is {new} (`--budget {own}` undoes the change)"]
    return [f"{key_path} was {cut(before)} and is {cut(after)}"]
