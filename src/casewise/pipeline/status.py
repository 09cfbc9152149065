"""The progress of a run while it works or after it has stopped, its times, and the machine."""

from __future__ import annotations

import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from casewise.errors import CasewiseError, RunError, counted, gigabytes, printable
from casewise.files import storage_failures, write_json
from casewise.report.formatting import duration
from casewise.run_folder import JobFolder, JsonFile, RunFolder, TrainingFolder
from casewise.version import __version__

if TYPE_CHECKING:
    from casewise.console import Bar, Show
    from casewise.run_folder import RunFolder


@dataclass(frozen=True)
class RunStatus:
    """The jobs of a run, each learner on each fold, by their state.

    Attributes:
        at_work: whether a process works in the folder; None if it cannot be told.
        unreported: why there is no report that is up to date with the results; empty if there is one.
        running: the share of the training that is done, by the name of a running job.
        failed: why the last attempt ended, by the name of a job.
        interrupted: the share of the training that a waiting job had done when it was last at work.
        not_asked: waiting jobs that the command at work does not train, because of `--only`.
        seconds_left: of the training, estimated from finished and running jobs; None if it is not known yet.
        peak_memory_mb: the largest memory of a finished job; None if no record has it.
        step: what the command at work is doing.
        last_line: what it showed last.
        error: what ended the last command, if no other has begun since.
    """

    folder: Path
    at_work: bool | None
    unreported: str
    done: Sequence[str] = ()
    running: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    waiting: Sequence[str] = ()
    interrupted: Mapping[str, float] = field(default_factory=dict)
    not_asked: Sequence[str] = ()
    seconds_left: float | None = None
    peak_memory_mb: float | None = None
    step: str = ""
    last_line: str = ""
    error: str = ""

    @property
    def jobs(self) -> int:
        """All jobs of the run."""
        return sum(map(len, (self.done, self.running, self.failed, self.waiting, self.not_asked)))

    def lines(self) -> list[str]:
        """The status in sentences."""
        work = {
            True: "A process is at work in the folder.",
            False: "No process is at work in the folder.",
            None: "Whether a process is at work cannot be told, because the folder is read-only.",
        }[self.at_work]
        if self.at_work and not self.running:
            work += f" Its step: {self.step}." if self.step else ""
            work += f" Its last line: {self.last_line}" if self.last_line else ""
        if not self.at_work and self.error:
            work += f" The last command stopped: {self.error}"
        if not self.jobs:
            return [f"{self.folder}: no network or baseline is planned yet. {work}"]
        states = {"done": self.done, "running": list(self.running), "failed": self.failed, "waiting": self.waiting}
        states["not asked for with --only"] = self.not_asked
        counts = ", ".join(f"{len(names)} {state}" for state, names in states.items() if names)
        lines = [f"{self.folder}: {counted(self.jobs, 'job')} (learners × folds): {counts}."]
        lines += [f"  running  {name}: {share:.0%} of its training" for name, share in self.running.items()]
        lines += [f"  failed   {name}: {reason}" for name, reason in self.failed.items()]
        lines += [
            f"  waiting  {name}: stopped after {share:.0%} of its training" for name, share in self.interrupted.items()
        ]
        if self.peak_memory_mb is not None:
            lines.append(f"Memory of a finished job at its peak: up to {gigabytes(self.peak_memory_mb)}.")
        if self.running:
            left = "not known yet" if self.seconds_left is None else f"about {duration(self.seconds_left)}"
            return [*lines, f"Time left for these jobs: {left}."]
        if len(self.done) == self.jobs and not self.unreported:
            return [*lines, f"The report is up to date with the results. {work}"]
        if not self.waiting and not self.unreported:
            without = "without the networks that could not be trained; the same command tries them again"
            return [*lines, f"The report is up to date with the results, {without}. {work}"]
        if len(self.done) == self.jobs and not self.at_work:
            lines.append(self.unreported)
        return [*lines, work + ("" if self.at_work or self.error else " Run the study again to continue.")]


def run_status(folder: RunFolder) -> RunStatus:
    """The status of a run.

    Raises:
        RunError: the folder is no run folder, or its records cannot be read.
    """
    if folder.path.is_file():
        raise RunError(f"{folder.path} is a file, and not a run folder.")
    if not folder.path.is_dir():
        raise RunError(f"{folder.path} is not a run folder: there is no such folder.")
    at_work = folder.at_work()
    jobs = _jobs(folder, at_work)
    activity = folder.activity.peek() or {}
    if not at_work and not jobs and not activity and not folder.splits.exists():
        raise RunError(f"{folder.path} is not a run folder: {folder.splits.path.name} is missing.")
    asked_names = _asked_names(folder, activity) if at_work else None
    seconds: dict[str, list[float]] = {}
    done, running, failed, waiting, not_asked, interrupted = [], {}, {}, [], [], {}
    peaks: list[float] = []
    for model, name, job, made_from in jobs:
        record = job.record.peek()
        if record and made_from(record):
            done.append(name)
            seconds.setdefault(model, []).append(float(record.get("seconds", 0.0)))
            if record.get("peak_memory_mb") is not None:
                peaks.append(float(record["peak_memory_mb"]))
        elif job.at_work():
            running[name] = _share(job.read_progress(0.0))
        elif failure := job.read_failure():
            failed[name] = str(failure.get("message", "")).removeprefix(f"{name}: ")
        elif asked_names is not None and name not in asked_names:
            not_asked.append(name)
        else:
            waiting.append(name)
            if job.at_work() is False and (share := _share(job.read_progress(0.0))):
                interrupted[name] = share
    left = _seconds_left(jobs, running, dict.fromkeys(waiting, 0.0) | interrupted, seconds)
    return RunStatus(
        folder.path,
        at_work,
        _why_unreported(folder),
        done,
        running,
        failed,
        waiting,
        interrupted,
        not_asked,
        left,
        max(peaks, default=None),
        *(str(activity.get(name, "")) for name in ("step", "line", "stopped")),
    )


def _asked_names(folder: RunFolder, activity: Mapping[str, Any]) -> set[str] | None:
    """The names of the jobs that the command at work trains; None for all."""
    from casewise.jobs.plan import named_jobs
    from casewise.splits.grouped import read_splits
    from casewise.study.loading import saved_study

    if not activity.get("only") or not folder.study.exists():
        return None
    try:
        study = saved_study(folder.study.read(), source=str(folder.study.path))
        return named_jobs(study, read_splits(folder.splits).folds, activity["only"])
    except CasewiseError:  # of a folder whose study is being replaced
        return None


class _Planned(NamedTuple):
    """A job that the run has planned: its learner, its name, its folder, and whether a record has the same inputs."""

    model: str
    name: str
    folder: JobFolder
    made_from: Callable[[Mapping[str, Any]], bool]


def _jobs(folder: RunFolder, at_work: bool | None) -> list[_Planned]:
    """The jobs that the run has planned; none before its training begins.

    First weights are not read: trained networks do not need them, and they may be on another computer.

    Raises:
        RunError: the run was finished, and a record of it is missing by now, or damaged.
    """
    from casewise.inference.run_members import job_fingerprint
    from casewise.splits.grouped import read_splits
    from casewise.study.loading import saved_study

    finished = folder.metrics.exists() and not at_work
    if not finished and not (folder.fingerprint.exists() and folder.study.exists()):
        return []
    study = saved_study(folder.study.read(), source=str(folder.study.path))
    folds, fingerprint = read_splits(folder.splits).folds, str(folder.fingerprint.read()["fingerprint"])

    def made_from(record: Mapping[str, Any], model: str) -> bool:
        return bool(
            record["fingerprint"] == job_fingerprint(fingerprint, study, model, str(record.get("first_weights", "")))
        )

    planned = []
    left_out = (folder.left_out.read_if_exists() or {}).get("networks", {})  # the stored study no longer has them
    for model in [*study.learners, *left_out]:
        same = bool if model in left_out else partial(made_from, model=model)
        jobs = [(f"{model}, fold {fold + 1}", folder.job(model, fold)) for fold in range(folds)]
        jobs += [(f"{model}, all folds", folder.final_job(model))] if study.final == "refit" else []
        planned += [_Planned(model, name, job, same) for name, job in jobs]
    return planned


def _why_unreported(folder: RunFolder) -> str:
    try:
        folder.check_finished()
        folder.check_reported()
    except CasewiseError as error:
        return str(error)
    return ""


def _share(progress: dict[str, Any] | None) -> float:
    return min(progress["share"], 1.0) if progress else 0.0


def _seconds_left(
    jobs: Sequence[_Planned],
    running: Mapping[str, float],
    waiting: Mapping[str, float],
    seconds: Mapping[str, list[float]],
) -> float | None:
    """The sum of what running and waiting jobs take, divided by the number of running ones.

    A job takes as long as the mean finished one of its learner, or as its own first epochs say. None if there is a
    learner of which neither is known.

    Args:
        running: the share of the training that is done, by the name of the job; so is `waiting`.
        seconds: of the finished jobs of each learner.
    """
    if not running:
        return None
    expected = {model: sum(values) / len(values) for model, values in seconds.items()}
    for job in jobs:
        share = running.get(job.name, 0.0)
        if share and job.model not in expected and (spent := _spent(job.folder)):
            expected[job.model] = spent / share
    total = 0.0
    unfinished = {**waiting, **running}
    for job in jobs:
        if job.name in unfinished:
            if job.model not in expected:
                return None
            total += expected[job.model] * (1 - unfinished[job.name])
    return total / len(running)


def _spent(folder: JobFolder) -> float:
    """The seconds that the training in this folder has taken while a process was at work; 0 if it is not known."""
    file = TrainingFolder(folder.path).timing
    record = JsonFile(file).peek()
    return float(record["seconds"]) + max(time.time() - file.stat().st_mtime, 0.0) if record else 0.0


@contextmanager
def recorded(folder: RunFolder, show: Show, only: Sequence[str] = ()) -> Iterator[Show]:
    """Record the step and the last line of a command that works in the folder, or the error that ends it.

    A folder with metrics is left as it is, since a command that is refused changes nothing in it.

    Args:
        only: names of networks as `casewise run --only` has them; none where all are trained.

    Yields:
        Where the command reports its progress from now on.
    """
    recorder = None if folder.metrics.exists() else _Recorder(folder, show, tuple(map(printable, only)))
    try:
        if recorder:
            recorder.write()
        with storage_failures(folder.path):
            yield recorder or show
    except CasewiseError as error:
        if recorder:
            recorder.facts.clear()
            recorder.write(stopped=str(error))
        raise
    with suppress(OSError):
        folder.activity.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Recorder:
    """Passes on what is shown, and records the step in progress and the last line in the run folder."""

    folder: RunFolder
    show: Show
    only: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)

    def line(self, step: str, text: str) -> None:
        self.write(line=": ".join(filter(None, (step, text))))
        self.show.line(step, text)

    @contextmanager
    def bar(self, step: str) -> Iterator[Bar]:
        outer = self.facts.get("step", "")
        self.write(step=step)
        try:
            with self.show.bar(step) as bar:
                yield bar
        finally:
            self.write(step=outer)

    def write(self, **facts: str) -> None:
        self.facts.update({name: printable(text) for name, text in facts.items()})
        with suppress(OSError, CasewiseError):  # the step itself says what is wrong with the folder
            write_json(self.folder.activity.path, {"only": self.only, **self.facts}, durable=False)


# The folder and the record of the run that is under way.
_RUNNING: ContextVar[tuple[Path, dict[str, Any]] | None] = ContextVar("timing", default=None)


@contextmanager
def timed(folder: RunFolder) -> Iterator[None]:
    """Record the seconds from here to the end of the block; those of an earlier, finished run are kept.

    A run that continues with the networks of another has no total.
    """
    # nothing is read or written yet, since a run that is refused leaves the folder as it is
    record = {"begun": _now(), "continued": folder.jobs_folder.exists(), "first_figures": None, "seconds": None}
    token = _RUNNING.set((folder.path, record))
    try:
        yield
    finally:
        _RUNNING.reset(token)
    before = folder.timing.read_or_none() or {}
    if before.get("seconds") is None:
        seconds = None if record["continued"] else _seconds_since(record)
        kept = {"first_figures": before.get("first_figures"), "training": before.get("training")}
        folder.timing.write(record | kept | {"seconds": seconds})


def record_first_figures(folder: RunFolder) -> None:
    """Record that the baselines are evaluated, the first figures of a run; nothing in a run that is not timed."""
    record = _record_of(folder)
    if record and not record["continued"]:
        folder.timing.write(record | {"first_figures": _seconds_since(record)})


def record_training(folder: RunFolder, seconds: float) -> float | None:
    """Add the wall-clock seconds of a training to those of earlier ones; return the sum.

    None, and nothing is recorded, where the sum is not known: in a run that is not timed, in the further trainings of a
    run, such as those with other seeds, and where an earlier training was interrupted or did not record its seconds. In
    a run that was finished before, the sum is the recorded one.
    """
    record = _record_of(folder)
    if record is None:
        return None
    before = folder.timing.read_or_none() or {}
    earlier = before.get("training") if record["continued"] else 0.0
    if earlier is None or (record["continued"] and before.get("seconds") is not None):
        return earlier
    total = round(seconds + earlier, 1)
    kept = before if record["continued"] or before.get("begun") == record["begun"] else {}
    folder.timing.write(record | kept | {"training": total})
    return total


def _record_of(folder: RunFolder) -> dict[str, Any] | None:
    """The record of the run that is under way, if it is the one in this folder."""
    path, record = _RUNNING.get() or (None, None)
    return record if path == folder.path else None


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _seconds_since(record: dict[str, Any]) -> float:
    begun = datetime.fromisoformat(record["begun"])
    return round((datetime.now(UTC) - begun).total_seconds(), 1)


def _command() -> str:
    """The command line, with the study file and options."""
    program, *words = sys.argv or [""]
    by_command = Path(program).stem in ("casewise", "cli", "__main__") and words[:1] == ["run"]
    return shlex.join(["casewise", *words]) if by_command else "casewise.run.run, from Python"


# Libraries whose versions can change what a run computes.
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


def machine() -> dict[str, Any]:
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
    """Give PyTorch's generators and its number of threads back as they are; networks draw, and jobs set the threads.

    In a process that has not loaded PyTorch there is nothing to give back.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
