"""How far a run is, read from its folder by any process while it works or after it has stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, RunError, counted
from casewise.report.formatting import duration
from casewise.run_folder import JobFolder, RunFolder

if TYPE_CHECKING:
    from casewise.jobs.plan import Job


@dataclass(frozen=True)
class RunStatus:
    """The jobs of a run, each learner on each fold, by their state.

    Attributes:
        at_work: whether a process works in the folder.
        reported: whether the report is up to date with the results.
        running: the progress of each running job by its name, with the share of its epochs that are done.
        seconds_left: of the training, estimated from finished and running jobs; None if it is not known yet.
    """

    folder: Path
    at_work: bool
    reported: bool
    done: list[str] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    seconds_left: float | None = None

    @property
    def jobs(self) -> int:
        """All jobs of the run."""
        return len(self.done) + len(self.running) + len(self.failed) + len(self.waiting)

    def lines(self) -> list[str]:
        """The status in sentences."""
        if not self.jobs:
            return [
                f"{self.folder}: no network or baseline is planned yet.",
                "The run prepares its images." if self.at_work else "No process is at work; run the study again.",
            ]
        states = {"done": self.done, "running": self.running, "failed": self.failed, "waiting": self.waiting}
        counts = ", ".join(f"{len(names)} {state}" for state, names in states.items() if names)
        lines = [f"{self.folder}: {counted(self.jobs, 'job')} (learners × folds): {counts}."]
        lines += [f"  running  {name}: {share:.0%} of its epochs" for name, share in self.running.items()]
        lines += [f"  failed   {name}" for name in self.failed]
        if self.at_work:
            if self.running or self.waiting:
                left = "not known yet" if self.seconds_left is None else f"about {duration(self.seconds_left)}"
                lines.append(f"Time left for the training: {left}.")
            else:
                lines.append("The training is over; the run evaluates it or writes its report.")
        elif self.reported and not (self.failed or self.waiting):
            lines.append("The run is finished, and its report is up to date.")
        else:
            lines.append("No process is at work, and the run is not finished; run the study again to continue.")
        return lines


def run_status(folder: RunFolder) -> RunStatus:
    """The status of a run.

    Raises:
        RunError: the folder is no run folder, or its records cannot be read.
    """
    if not folder.path.is_dir():
        raise RunError(f"{folder.path} is not a run folder: there is no such folder.")
    at_work, jobs = folder.at_work(), _jobs(folder)
    if not at_work and not jobs and not folder.splits.exists():
        raise RunError(f"{folder.path} is not a run folder: {folder.splits.path.name} is missing.")
    status = RunStatus(folder.path, at_work, _is_reported(folder))
    seconds: dict[str, list[float]] = {}
    for job in jobs:
        record = job.folder.record.peek()
        if record and job.finished:
            status.done.append(job.name)
            seconds.setdefault(job.model, []).append(float(record.get("seconds", 0.0)))
        elif job.folder.at_work():
            status.running[job.name] = _share(job.folder.read_progress(0.0))
        elif job.folder.has_failed():
            status.failed.append(job.name)
        else:
            status.waiting.append(job.name)
    left = _seconds_left(jobs, status, seconds)
    return RunStatus(**{**vars(status), "seconds_left": left})


def _jobs(folder: RunFolder) -> list[Job]:
    """The jobs that the run has planned; none before its training begins."""
    from casewise.jobs.plan import expand, final_jobs
    from casewise.splits.grouped import read_splits
    from casewise.study.loading import saved_study

    if not (folder.fingerprint.exists() and folder.study.exists()):
        return []
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    splits, fingerprint = read_splits(folder.splits), str(folder.fingerprint.read()["fingerprint"])
    return [*expand(study, splits, folder, fingerprint), *final_jobs(study, splits, folder, fingerprint)]


def _is_reported(folder: RunFolder) -> bool:
    try:
        folder.check_finished()
        folder.check_reported()
    except CasewiseError:
        return False
    return True


def _share(progress: dict[str, Any] | None) -> float:
    return min(float(progress["done"]) / max(1, progress["total"]), 1.0) if progress else 0.0


def _seconds_left(jobs: Sequence[Job], status: RunStatus, seconds: dict[str, list[float]]) -> float | None:
    """The sum of what running and waiting jobs take, divided by the number of running ones.

    A job takes as long as the mean finished one of its learner, or as its own first epochs say. None if there is a
    learner of which neither is known.
    """
    if not status.running:
        return None
    expected = {model: sum(values) / len(values) for model, values in seconds.items()}
    for job in jobs:
        share = status.running.get(job.name, 0.0)
        if share and job.model not in expected:
            expected[job.model] = _elapsed(job.folder) / share
    total = 0.0
    for job in jobs:
        if job.name in status.running or job.name in status.waiting:
            if job.model not in expected:
                return None
            total += expected[job.model] * (1 - status.running.get(job.name, 0.0))
    return total / len(status.running)


def _elapsed(folder: JobFolder) -> float:
    """The seconds since the training in this folder began."""
    return max(time.time() - folder.mark.path.stat().st_mtime, 0.0) if folder.mark.exists() else 0.0
