"""From a study to its jobs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.files import write_atomic
from casewise.jobs.fingerprint import job_fingerprint

if TYPE_CHECKING:
    from casewise.splits.grouped import Splits
    from casewise.study.schema import Study


# In a job's folder, while it is in training: what its inner trainings have found.
INNER = "inner"
PRETRAINING_STATE = ("pretrain/state.safetensors", "pretrain/body.safetensors")


@dataclass(frozen=True)
class Job:
    """One network to train: a backbone on all folds but one."""

    model: str
    fold: int
    folder: Path
    fingerprint: str

    @property
    def finished(self) -> bool:
        """Whether the job's result stands, made from the same inputs."""
        record = self.folder / "job.json"
        return record.is_file() and json.loads(record.read_text())["fingerprint"] == self.fingerprint


def expand(study: Study, splits: Splits, folder: Path, fingerprint: str) -> list[Job]:
    """All jobs of a study, backbone by backbone; each knows the content of the weights file that it starts from."""
    jobs = []
    for model in study.networks:
        place = folder / "jobs" / model.replace(":", "_").replace("/", "_")
        made_from = job_fingerprint(fingerprint, study, model)
        jobs += [Job(model, fold, place / f"fold{fold + 1}", made_from) for fold in range(splits.folds)]
    return jobs


def begin(job: Job, how: str = "") -> None:
    """Remove what was left half done in the job's folder by an earlier study, or computed otherwise.

    It may have learned from other subjects, and a state fits only what is computed `how` it was.
    """
    from casewise.training.strategies import leftovers

    mark, made_from = job.folder / "made-from", f"{job.fingerprint} {how}".strip()
    if not mark.is_file() or mark.read_text() != made_from:
        half_done = [job.folder / name for name in ("job.json", *PRETRAINING_STATE)]
        for path in [*leftovers(job.folder), *half_done]:
            path.unlink(missing_ok=True)
        shutil.rmtree(job.folder / INNER, ignore_errors=True)
        write_atomic(mark, made_from)


def write_progress(job: Job, done: int, total: int, stage: str = "training") -> None:
    """Leave a note for the progress bar."""
    job.folder.mkdir(parents=True, exist_ok=True)
    note = job.folder / ".progress.partial"
    note.write_text(json.dumps({"done": done, "total": total, "stage": stage}))
    note.replace(job.folder / "progress.json")
