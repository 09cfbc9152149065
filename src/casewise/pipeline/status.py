"""The progress of a run while it works or after it has stopped; and the machine that it runs on."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

from casewise.console import duration
from casewise.errors import CasewiseError, DamagedError, RunError, counted
from casewise.run_folder import JobFolder, JsonFile, RunFolder
from casewise.run_folder.artefact import CHECKSUMS, damaged_files
from casewise.run_folder.bundle_folder import REMEDY
from casewise.version import __version__

# Of a training that has done less, the time that it takes is not known.
LEAST_SHARE = 0.02


@dataclass(frozen=True)
class _RunStatus:
    """The jobs of a run, each learner on each fold, by their state.

    Attributes:
        at_work: whether a process works in the folder; None if it cannot be told.
        stopped: what stopped the run before its training, and what to do; empty if nothing is known.
        remedy: the step in which an interrupted run stopped, and the command that continues it; else empty.
        unreported: why there is no report that is up to date with the results; empty if there is one.
        damaged: it is because a file is not what was written.
        running: the share of the training that is done, by the name of a running job.
        failed: why the last attempt ended, by the name of a job.
        seconds_left: of the training, estimated from finished and running jobs; None if it is not known yet.
    """

    folder: Path
    at_work: bool | None
    unreported: str
    stopped: str = ""
    remedy: str = ""
    done: Sequence[str] = ()
    running: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    waiting: Sequence[str] = ()
    seconds_left: float | None = None
    damaged: bool = False

    @property
    def jobs(self) -> int:
        """All jobs of the run."""
        return sum(map(len, (self.done, self.running, self.failed, self.waiting)))

    def lines(self) -> list[str]:
        """The status in sentences."""
        work = {
            True: "A process is at work in the folder.",
            False: "No process is at work in the folder.",
            None: "Whether a process is at work cannot be told, because the folder is read-only.",
        }[self.at_work]
        if not self.jobs:
            planned = self.stopped or "no network or baseline is planned yet."
            return [f"{self.folder}: {planned} {work} {self.remedy}".rstrip()]
        states = {"done": self.done, "running": self.running, "failed": self.failed, "waiting": self.waiting}
        counts = ", ".join(f"{len(names)} {state}" for state, names in states.items() if names)
        lines = [f"{self.folder}: {counted(self.jobs, 'job')}, one for each learner and fold: {counts}."]
        lines += [f"  running  {name}: {share:.0%} of its training" for name, share in self.running.items()]
        lines += [f"  failed   {name}: {reason}" for name, reason in self.failed.items()]
        if self.running:
            left = "not known yet" if self.seconds_left is None else f"about {duration(self.seconds_left)}"
            return [*lines, f"Time left for these jobs: {left}."]
        if not self.waiting and not self.unreported:
            without = ", without the networks that could not be trained; the same command tries them again"
            return [*lines, f"The report is up to date with the results{without if self.failed else ''}. {work}"]
        if self.damaged or (len(self.done) == self.jobs and not self.at_work):
            lines.append(self.unreported)
        return [*lines, f"{work} {self.remedy}".rstrip()]


def run_status(folder: RunFolder) -> _RunStatus:
    """The status of a run.

    First weights are not read: trained networks do not need them, and they may be on another computer.

    Raises:
        RunError: the folder is not a run folder, or a record of a finished run is missing or damaged.
    """
    from casewise.inference.run_members import job_fingerprint

    folder.check_exists()
    at_work = folder.at_work()
    jobs, study = _planned_jobs(folder, at_work)
    if not (at_work or jobs or folder.splits.exists()):
        raise RunError(f"{folder.path} is not a run folder: {folder.splits.path.name} is missing.")
    left_out = (folder.left_out.read_if_exists() or {}).get("networks", {})
    fingerprint = str(folder.fingerprint.read()["fingerprint"]) if jobs else ""
    done: list[str] = []
    running, failed, waiting = {}, {}, []
    seconds: dict[str, list[float]] = {}
    started: dict[str, float] = {}
    for model, name, job in jobs:
        record = job.record.peek()
        if record and model not in left_out:  # the stored study no longer has these
            made_from = job_fingerprint(fingerprint, study, model, str(record.get("first_weights", "")))
            record = record if record["fingerprint"] == made_from else None
        if record:
            done.append(name)
            seconds.setdefault(model, []).append(float(record.get("seconds", 0.0)))
        elif job.at_work():
            running[name] = share = min((job.read_progress(0.0) or {"share": 0.0})["share"], 1.0)
            if share > LEAST_SHARE and (spent := _spent(job)):
                started[model] = spent / share
        elif failure := job.read_failure():
            failed[name] = str(failure.get("message", "")).removeprefix(f"{name}: ")
        else:
            waiting.append(name)
    expected = started | {model: mean(values) for model, values in seconds.items()}
    unfinished = [(model, running.get(name, 0.0)) for model, name, _ in jobs if name in {*running, *waiting}]
    left = None
    if running and all(model in expected for model, _ in unfinished):
        left = sum(expected[model] * (1 - share) for model, share in unfinished) / len(running)
    stopped = "" if jobs or at_work else folder.stopped_by_audit()
    unreported, damaged = _why_unreported(folder)
    if not at_work and (damage := _damage(folder, [job for _, _, job in jobs])):
        unreported, damaged = damage, True
    step = "before the training" if folder.audit.exists() else "before or in the audit"
    if jobs:
        step = "in the report" if folder.metrics.exists() else "in the evaluation"
        step = "in the training" if waiting or failed else step
    over = at_work is not False or stopped or not (waiting or unreported)
    remedy = "" if over else f"It stopped {step}. To continue: {folder.continuing}."
    return _RunStatus(folder.path, at_work, unreported, stopped, remedy, done, running, failed, waiting, left, damaged)


def _planned_jobs(folder: RunFolder, at_work: bool | None) -> tuple[list[tuple[str, str, JobFolder]], Any]:
    """Learner, name and folder of the jobs that the run has planned, and its study; none before its training begins."""
    from casewise.splits.grouped import read_splits
    from casewise.study.learners import name_of_fold
    from casewise.study.loading import saved_study

    finished = folder.metrics.exists() and not at_work
    if not finished and not (folder.fingerprint.exists() and folder.study.exists()):
        return [], None
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    folds = range(read_splits(folder.splits).folds)
    jobs = []
    for model in [*study.learners, *(folder.left_out.read_if_exists() or {}).get("networks", {})]:
        alone = study.split.holdout
        jobs += [(model, name_of_fold(model, fold, alone=alone), folder.job(model, fold)) for fold in folds]
        jobs += [(model, f"{model}, all folds", folder.final_job(model))] if study.final == "refit" else []
    return jobs, study


def _why_unreported(folder: RunFolder) -> tuple[str, bool]:
    """Why there is no report that is up to date, and whether a damaged file is the reason."""
    try:
        folder.check_finished()
        folder.check_reported()
    except CasewiseError as error:
        return str(error), isinstance(error, DamagedError)
    return "", False


# Damaged files that are named.
MOST_DAMAGED = 8


def _damage(folder: RunFolder, jobs: Sequence[JobFolder]) -> str:
    """The files of the run that are missing or not what was written, and what to do; empty if there are none.

    Before the evaluation only changed files count: the run makes missing ones again.
    """
    # every recorded folder, also of other seeds; a job that has begun is recorded
    begun = [job.path for job in jobs if any(f.exists() for f in (job.mark, job.record, job.facts, job.weights))]
    recorded = (path.parent for path in sorted(folder.path.rglob(CHECKSUMS)))
    folders = dict.fromkeys([folder.path, *begun, *recorded])
    missing, changed = (list(chain(*paths)) for paths in zip(*map(damaged_files, folders), strict=True))
    is_evaluated = folder.metrics.exists() or folder.metrics.path in missing
    metrics = folder.metrics.peek() or {}
    missing += [folder.path / name for name in metrics.get("made_from") or () if not (folder.path / name).exists()]
    for job in jobs:
        files = (job.record.peek() or {}).get("files", {})
        missing += [job.path / name for name in files if not (job.path / name).exists()]
    missing = missing if is_evaluated else []
    reasons = [f"{path.relative_to(folder.path)} is missing" for path in dict.fromkeys(missing)]
    reasons += [f"{path.relative_to(folder.path)} is not what was written" for path in dict.fromkeys(changed)]
    try:
        if folder.bundle.path.is_dir():
            folder.bundle.verify()
    except RunError as error:
        reasons.append(str(error).removesuffix(REMEDY).strip().removesuffix("."))
    if not reasons:
        return ""
    more = [f"and {len(reasons) - MOST_DAMAGED} more"] if len(reasons) > MOST_DAMAGED else []
    named = "; ".join([*reasons[:MOST_DAMAGED], *more])
    return f"{folder.path} is damaged: {named}. Copy these files again, or make them again: {folder.continuing}."


def _spent(folder: JobFolder) -> float:
    """The seconds that the training in this folder has taken while a process was at work; 0 if it is not known."""
    record = JsonFile(folder.timing).peek()
    return float(record["seconds"]) + max(time.time() - folder.timing.stat().st_mtime, 0.0) if record else 0.0


def _command() -> str:
    """The command line, with the study file and options."""
    program, *words = sys.argv or [""]
    by_command = Path(program).stem in ("casewise", "main", "__main__") and words[:1] == ["run"]
    return shlex.join(["casewise", *words]) if by_command else "casewise.run, from Python"


# Libraries whose versions can change what a run computes.
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


def machine() -> Mapping[str, Any]:
    """Versions, processor, system and cores: what may differ where a run is repeated."""
    from joblib import cpu_count

    from casewise.training.compute_plan import cpu_name

    return {
        "casewise": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu_name(),
        "cores": cpu_count(),
    }


def environment(seconds: float) -> dict[str, Any]:
    """Versions, machine and time of a run, for the report."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {**machine(), "date": date, "command": _command(), "seconds": round(seconds, 1)}


@contextmanager
def unchanged_torch() -> Iterator[None]:
    """Give PyTorch's generators back as they are, because networks draw.

    In a process that has not loaded PyTorch there is nothing to give back.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
