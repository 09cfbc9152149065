"""The folder of a network: its weights, facts and predictions, and its state while it is in training."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casewise.errors import RunError, cut
from casewise.files import checksum, is_locked, sweep, write_json
from casewise.run_folder.artefact import Artefact, JsonFile, Part, TableFile, TextFile, WeightsFile, log

LOCK = ".lock"
# The folder of a network that was trained on all folds, next to the folders of its folds.
FINAL = "final"
# The folder of frozen encoders, next to the folder of the jobs of a run or of the members of a bundle.
ENCODERS = "encoders"
# The stage of a training that ended with an error of its own.
FAILED = "failed"
# The stage of a training on another cohort; the job continues after it.
PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Stage:
    """One stage or phase of a training: its record, its weights, and the folder of its state."""

    record: JsonFile
    weights: WeightsFile
    folder: TrainingFolder

    def finished(self) -> bool:
        """Whether the stage is finished and its files are intact."""
        return self.record.exists() and self.weights.intact() and self.record.intact()


@dataclass(frozen=True)
class TrainingFolder:
    """A folder in which a network is trained, with the state from which a killed training continues."""

    path: Path

    # The training's state at the end of an epoch; a killed training continues from it.
    state = Part(WeightsFile, "state.safetensors")
    # The cost of the training so far.
    timing = Part(Path, "spent.json")

    # Augmented copies of the training panels.
    copies = Part(Path, "copies.bin")

    @property
    def activations(self) -> tuple[Path, Path]:
        """The activations of frozen layers for the training panels and for the panels of early stopping."""
        return self.path / "train.bin", self.path / "stop.bin"

    @property
    def pretraining(self) -> PretrainingFolder:
        """The folder of pretraining on another cohort."""
        return PretrainingFolder(self.path / "pretrain")

    def stage(self, number: int) -> Stage:
        """A phase, or a stage of a plugin's method."""
        stem = self.path / f"stage{number}"
        record, weights = JsonFile(stem.with_suffix(".json")), WeightsFile(stem.with_suffix(".safetensors"))
        return Stage(record, weights, TrainingFolder(stem))

    def can_resume(self) -> bool:
        """Whether there is an intact state to continue from: of the training, or of its first stage or phase."""
        first = self.stage(0)
        return self.state.intact() or first.finished() or first.folder.state.intact()

    def remove_caches(self) -> None:
        """Remove the values that were computed once for all epochs."""
        for path in [self.copies, *self.path.glob("stage*/*.bin"), *self.activations]:
            with suppress(PermissionError):  # Windows does not remove mapped files
                path.unlink(missing_ok=True)

    def remove_state(self) -> None:
        """Remove the state from which a killed training continues; a finished training does not need it."""
        patterns = ("stage*.safetensors", "stage*.json", "finder*.json")
        for file in (self.state, *(Artefact(path) for pattern in patterns for path in self.path.glob(pattern))):
            file.remove()
        for path in (self.timing, self.copies, *self.activations):
            path.unlink(missing_ok=True)
        for folder in self.path.glob("stage*/"):
            shutil.rmtree(folder)


@dataclass(frozen=True)
class _InnerTraining:
    """One inner training: its record once it is finished, and the folder of its state before."""

    record: JsonFile
    folder: TrainingFolder


@dataclass(frozen=True)
class PretrainingFolder(TrainingFolder):
    """The folder in which a network is pretrained on another cohort."""

    # The pretrained body.
    body = Part(WeightsFile, "body.safetensors")
    # The losses by epoch.
    history = Part(JsonFile, "history.json")


@dataclass(frozen=True)
class JobFolder(TrainingFolder):
    """The folder of one network, a backbone on all folds but one; `record`, written last, marks it as finished."""

    # The network's weights.
    weights = Part(WeightsFile, "model.safetensors", portable=True)
    # Everything needed to use the weights, and the subjects of the training.
    facts = Part(JsonFile, "model.json", portable=True)
    # The training features in a few numbers, for the distance of other cases from them.
    distance = Part(WeightsFile, "distance.safetensors", portable=True)
    # Perceptual hashes of the training images (`casewise.audit.fingerprints`).
    fingerprints = Part(WeightsFile, "fingerprints.safetensors", portable=True)
    # The rule of each grade for cases that only this network predicts, with its thresholds.
    decisions = Part(JsonFile, "decisions.json", portable=True)

    def encoder(self, sha256: str) -> WeightsFile:
        """The weights of a frozen encoder, one file for all models of the run or bundle; its name is its checksum.

        Raises:
            RunError: this is no checksum, and could be a path.
        """
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise RunError(f"{self.facts.path} names an encoder by {cut(sha256)}, which is no checksum. Do not use it.")
        return WeightsFile(self.path.absolute().parents[2] / ENCODERS / f"{sha256}.safetensors")

    def folds(self, count: int) -> list[JobFolder]:
        """The folders of the same learner on all folds but one; this folder is of a network on all folds."""
        return [JobFolder(self.path.with_name(f"fold{fold + 1}")) for fold in range(count)]

    def weights_sha256(self) -> str:
        """The checksum of the trained weights, as the facts record it.

        Raises:
            RunError: the facts are missing or cannot be read.
            DamagedError: they have changed since they were written.
        """
        return str(self.facts.read().get("weights_sha256", ""))

    # Facts of the training, and the checksums of its files.
    record = Part(JsonFile, "job.json", required=("model", "fold", "fingerprint", "files"))

    def finish(self, facts: Mapping[str, object]) -> None:
        """Write the record, which marks the job as finished; its `encoders` are checksums of encoders' weights."""
        files = [self.weights, self.facts, self.distance, self.predictions, self.tile_predictions]
        self.record.write({**facts, "files": {file.path.name: checksum(file.path) for file in files if file.exists()}})

    # Predictions of the held-out fold and the test set.
    predictions = Part(TableFile, "predictions.parquet")
    # Predictions of single tiles or windows.
    tile_predictions = Part(TableFile, "tiles.parquet")
    # Predictions of the external cohort.
    external_predictions = Part(TableFile, "external.parquet")
    # A hash of the inputs of the training that was started in this folder.
    mark = Part(TextFile, "made-from")
    # How long a job takes, as a trial has measured it.
    pace = Part(JsonFile, "pace.json", required=("epoch",))
    # The number of parts in which batches are computed, after a training with fewer ran out of memory.
    parts = Part(JsonFile, "parts.json", required=("parts", "fingerprint"))

    # The folder of the inner trainings of nested cross-validation.
    inner_folder = Part(Path, "inner")

    def inner(self, name: str) -> _InnerTraining:
        """One inner training."""
        stem = self.inner_folder / name
        return _InnerTraining(JsonFile(stem.with_name(f"{name}.json")), TrainingFolder(stem))

    # The lock of the process that trains in this folder.
    lock_path = Part(Path, LOCK)

    # The progress of the training, for the progress bar.
    progress_path = Part(Path, "progress.json")

    def write_progress(
        self, done: int, total: int, stage: str = "training", loss: float | None = None, share: float | None = None
    ) -> None:
        """Record how many epochs of a stage are done, the training loss of the last one, and the share of all work.

        By default, the stage is all the work.
        """
        finite = loss if loss is not None and math.isfinite(loss) else None
        share = done / max(1, total) if share is None else share
        progress = {"done": done, "total": total, "stage": stage, "loss": finite, "share": share}
        write_json(self.progress_path, progress, durable=False)

    def read_progress(self, since: float) -> Mapping[str, Any] | None:
        """The progress, if it was recorded after `since` (seconds since 1970)."""
        try:
            if self.progress_path.stat().st_mtime < since:
                return None
        except OSError:
            return None
        return JsonFile(self.progress_path, required=("done", "total", "stage", "share")).peek()

    def write_failure(self, message: str, *, transient: bool) -> None:
        """Record why the training ended without a result, and whether another attempt may succeed."""
        progress = {"done": 0, "total": 1, "share": 0.0, "stage": FAILED, "message": message, "transient": transient}
        write_json(self.progress_path, progress, durable=False)

    def read_failure(self, since: float = 0.0) -> Mapping[str, Any] | None:
        """The `message` of the last training and whether it is `transient`, if it failed after `since`."""
        progress = self.read_progress(since)
        return progress if progress is not None and progress["stage"] == FAILED else None

    def at_work(self) -> bool | None:
        """Whether a process trains in this folder; None if it cannot be told."""
        return is_locked(self.lock_path)

    def check_complete(self) -> None:
        """Check that every file of the finished job is there; their content is verified where it is read.

        Raises:
            RunError: the record or a file that it names is missing.
            DamagedError: the record is not what was written.
        """
        record = self.record.read()
        files = [Artefact(self.path / name) for name in record["files"]]
        for file in [*files, *map(self.encoder, record.get("encoders", ()))]:
            if not file.exists():
                raise RunError(f"{file.path} is missing. {file.remedy}")

    def finished(self, fingerprint: str) -> bool:
        """Whether the job has a record of the same inputs; its files are not verified."""
        record = self.record.peek()
        return record is not None and record["fingerprint"] == fingerprint and self._has_own(record)

    def _has_own(self, record: Mapping[str, Any]) -> bool:
        """Whether the record is of this folder's fold; folders of two folds may have been exchanged."""
        return not self.path.name.startswith("fold") or self.path.name == f"fold{record['fold']}"

    def intact(self, fingerprint: str) -> bool:
        """Whether the job is finished and all its files are intact.

        Damaged files are set aside with a warning, and the record is removed: the network is then trained again.

        Raises:
            RunError: a file cannot be read although it exists.
        """
        record = self.record.read_or_none()
        if record is None or record["fingerprint"] != fingerprint:
            return False
        if not self._has_own(record):
            log.warning("%s holds the network of fold %s; the network is trained again.", self.path, record["fold"])
            self.record.remove()
            return False
        lacking = [name for name in record["files"] if not Artefact(self.path / name).intact()]
        encoders = {sha256: self.encoder(sha256) for sha256 in record.get("encoders", ())}
        lacking += [file.path.name for own, file in encoders.items() if not (file.exists() and file.matches([own]))]
        if lacking:
            reason = "missing or damaged; the network is trained again"
            log.warning("%s: %s: %s.", self.path, ", ".join(lacking), reason)
            self.record.remove()
        return not lacking

    def remove_training(self) -> None:
        """Remove the state, the inner trainings and the pretraining of a finished or outdated training."""
        self.remove_state()
        self.progress_path.unlink(missing_ok=True)
        for weights in (self.pretraining.state, self.pretraining.body):
            weights.remove()
        shutil.rmtree(self.inner_folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove temporary files of killed processes; the caller holds the job's lock."""
        sweep(self.path)
