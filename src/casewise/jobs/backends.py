"""Back ends, which execute jobs on this machine or others and return the failures, and the back end of this machine."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from casewise.console import Show, end_process
from casewise.errors import CasewiseError, RunError, TrainingError, cut, nearest
from casewise.files import REMEDIES, make_folder
from casewise.metrics.registry import added_metrics, metric_names, register_metric
from casewise.modalities.registry import modality_of, register
from casewise.modalities.store.workers import SPREAD, Work
from casewise.plugin import implementing
from casewise.study.learners import Learner, added_learners, register_learner
from casewise.study.sources import BackboneSource, added_sources, register_source
from casewise.targets import TargetKind, added_kinds, kind_names, register_kind
from casewise.training.cost import give_memory_back, keep_memory

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.metrics.records import Metric
    from casewise.modalities.base import Modality
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study
    from casewise.training.compute_plan import ComputePlan


# The compute plan of each learner.
Plans: TypeAlias = "Mapping[str, ComputePlan]"
LESS_MEMORY = "Lower `compute.jobs`, `recipe.batch_size` or `images.size`."
# How long, in seconds, a job waits for the process of an earlier run that is about to end.
PATIENCE = 30


class BackendPlugin(Protocol):
    """A plugin with further back ends."""

    def backends(self) -> Mapping[str, Callable[[str | None], Backend]]:
        """By name, as in `--backend`, a function from an address (`--address`, or None) to the back end.

        Raises:
            CasewiseError: by such a function, if the back end's library is not installed.
        """
        return {}

    def before_jobs(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Called before this machine begins jobs of a run folder, which an earlier run may still execute elsewhere."""


@dataclass(frozen=True)
class Failure:
    """Why a job has no result.

    Attributes:
        message: the name of the job, a colon, and the reason.
        transient: whether another attempt may succeed. A training that diverged would diverge again, bit by bit.
        memory: whether memory ran out, or the system ended the process, most often because memory ran out.
        folder: whether the run folder could not be written or read, so that the results of others are at risk, too.
    """

    message: str
    transient: bool
    memory: bool = False
    folder: bool = False


class Backend:
    """Executes jobs; their results, checkpoints and progress are in the run folder.

    It is a context manager: a back end of other machines connects to them when it is entered.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""

    @property
    def notice(self) -> str:
        """Where jobs are executed, in words; empty for this machine."""
        return ""

    def prepare(self, jobs: Sequence[Job], inputs: JobInputs, folder: RunFolder, threads: int) -> Plans:
        """Get ready to execute jobs of a run folder; return the compute plans of their networks.

        The memory of a step is measured where the jobs are executed.

        Args:
            threads: threads of one network; the same for every back end, because rounding depends on their number.

        Raises:
            CasewiseError: as `compute_plans`, or the machines cannot execute the jobs.
        """
        from casewise.jobs.compute_plans import compute_plans

        for plugin in implementing(BackendPlugin):
            plugin.before_jobs(folder.path, jobs)
        return compute_plans(jobs, inputs, folder, threads)

    def execute(
        self, jobs: Sequence[Job], inputs: JobInputs, plans: Plans, workers: int, *, protected: bool
    ) -> dict[str, Failure]:
        """Execute jobs, `workers` of them side by side; return the failures by the names of their jobs.

        A job whose process the system ended has a failure too; the other jobs are executed nevertheless.

        Args:
            plans: by learner of the jobs.
            protected: whether to use other processes only, so that this one survives if the system ends a job.
        """
        raise NotImplementedError

    def spread(self, work: Work, tell: Callable[[int], None]) -> bool:
        """Prepare images on other machines; return whether there are any (see `casewise.modalities.store.workers`).

        Args:
            tell: receives the number of items that are done.
        """
        return False


def attempt(job: Job, inputs: JobInputs, plan: ComputePlan, workers: int) -> Failure | None:
    """Execute a job in this process; return its failure, so that the other jobs continue."""
    from filelock import FileLock, Timeout

    from casewise.jobs.job import run_job

    try:
        make_folder(job.folder.path)
        with FileLock(job.folder.lock_path, timeout=PATIENCE):
            job.folder.sweep()
            run_job(job, inputs, plan, side_by_side=workers)
        return None
    except TrainingError as error:
        reason = str(error).removeprefix(f"{job.model}: ")
        return failed(job, f"{job.name}: {reason}", transient=False)
    except Timeout:
        raise RunError(
            f"{job.folder.path} is in use by a process of an earlier run. Stop it, then run again."
        ) from None
    except OSError as error:
        where = error.filename or job.folder.path
        remedy = REMEDIES.get(error.errno or 0, "").format(folder=Path(where).parent)
        message = f"{job.name}: {error.strerror or error} ({where}).{f' {remedy}.' if remedy else ''}"
        return failed(job, message, transient=True, folder=True)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        message = f"{job.name}: there was not enough memory. {LESS_MEMORY}"
        return failed(job, message, transient=True, memory=True)
    finally:
        give_memory_back()


def failed(job: Job, message: str, *, transient: bool, memory: bool = False, folder: bool = False) -> Failure:
    """The failure of a job, which is recorded in its folder, if it can be written, for other processes."""
    with suppress(OSError, RunError):  # the reason may be a full disk; the failure is reported all the same
        job.folder.write_failure(message, transient=transient)
    return Failure(message, transient, memory, folder)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, for which PyTorch has a class on GPUs and only a text on CPUs."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


@dataclass(frozen=True)
class Registrations:
    """What the user has registered, and the study's modality: a worker process repeats these registrations."""

    modality: Modality
    kinds: list[TargetKind]
    metrics: list[Metric]
    learners: list[Learner]
    sources: list[BackboneSource]
    # by registry of `_registries` the entries of these kinds and learners
    entries: list[dict[str, object]]

    @classmethod
    def of(cls, study: Study) -> Registrations:
        """Collect the registrations of this process."""
        kinds, learners = added_kinds(), added_learners()
        names = {kind.name for kind in kinds} | {learner.kind for learner in learners}
        entries = [{name: registry[name] for name in names & registry.keys()} for registry in _registries()]
        return cls(modality_of(study), kinds, added_metrics(), learners, added_sources(), entries)

    def register(self) -> None:
        """Repeat the registrations in another process, except those that importing their modules has made."""
        register(self.modality)
        for registry, entries in zip(_registries(), self.entries, strict=True):
            registry.update(entries)
        for learner in self.learners:
            register_learner(learner)
        for source in self.sources:
            register_source(source)
        for kind in self.kinds:
            if kind.name not in kind_names():
                register_kind(kind)
        for metric in self.metrics:
            if metric.name not in metric_names():
                register_metric(metric)


def _registries() -> tuple[MutableMapping[str, Any], ...]:
    from casewise.jobs.fitting import FITTERS
    from casewise.models.build_model import BUILDERS
    from casewise.models.outputs import NETWORK_KINDS

    return NETWORK_KINDS, BUILDERS, FITTERS


class LocalBackend(Backend):
    """Executes jobs in this process, or several side by side in processes of their own."""

    def execute(
        self, jobs: Sequence[Job], inputs: JobInputs, plans: Plans, workers: int, *, protected: bool
    ) -> dict[str, Failure]:
        """See `Backend.execute`."""
        if workers == 1 and not protected:
            attempts = {job.name: attempt(job, inputs, plans[job.model], workers) for job in jobs}
            return {name: failure for name, failure in attempts.items() if failure}
        return _in_processes(jobs, inputs, plans, workers)


def _in_processes(jobs: Sequence[Job], inputs: JobInputs, plans: Plans, workers: int) -> dict[str, Failure]:
    """Execute jobs in other processes.

    If the system ends one of them, all jobs that were running have failed, because it is not known whose process ended;
    the other jobs are executed with half as many processes.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    failures: dict[str, Failure] = {}
    while jobs:
        begun = time.time()
        parallel = Parallel(
            n_jobs=max(2, workers),  # with one, joblib would execute jobs in this process
            backend="loky",
            max_nbytes=None,
            batch_size=1,
            pre_dispatch=workers,
            initializer=_begin_worker,
            initargs=(os.getpid(), Registrations.of(inputs.study)),
        )
        try:
            with warnings.catch_warnings(), parallel:
                # workers keep freed memory on purpose, which joblib reports as a leak
                warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
                attempts = parallel(delayed(attempt)(job, inputs, plans[job.model], workers) for job in jobs)
            return failures | {job.name: failure for job, failure in zip(jobs, attempts, strict=True) if failure}
        except TerminatedWorkerError:
            unfinished = [job for job in jobs if not job.finished]
            ended = _ended(unfinished, begun)
            failures |= ended
            jobs = [job for job in unfinished if job.name not in ended]
            workers = max(1, workers // 2)
    return failures


def _ended(unfinished: Sequence[Job], begun: float) -> dict[str, Failure]:
    """By name the failures of the jobs that ran since the time `begun`: the recorded failure, otherwise a lost process.

    If no job has left a record or progress in its folder, all of them count as lost.
    """
    failures = {}
    for job in unfinished:
        if record := job.folder.read_failure(begun):
            failures[job.name] = Failure(record["message"], record["transient"])
        elif job.folder.read_progress(begun):
            failures[job.name] = lost(job)
    return failures or {job.name: lost(job) for job in unfinished}


def lost(job: Job) -> Failure:
    """The failure of a job whose process was ended."""
    message = (
        f"{job.name}: its process, or another one of the run, was ended by the system, most often because memory ran"
        f" out. {LESS_MEMORY}"
    )
    return failed(job, message, transient=True, memory=True)


def _begin_worker(parent: int, registrations: Registrations) -> None:
    # Only the parent process handles Ctrl-C, also while packages load here; it stops the workers, whose state is saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_memory()
    registrations.register()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Everything is on disk by then; without this, the run would wait ten seconds for the interpreter to unload torch.
    atexit.register(end_process, 0)


def _end_with(parent: int) -> None:
    """End this worker when its parent process has ended, so that it does not continue to train."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


def _local(address: str | None) -> Backend:
    if address is not None:
        raise CasewiseError(
            f"--address {address}: the back end 'local' is this machine and has no address. "
            "For a Ray cluster, add `--backend ray`."
        )
    return LocalBackend()


# The back ends of the core, as in `BackendPlugin.backends`.
DEFAULT = "local"
BACKENDS: dict[str, Callable[[str | None], Backend]] = {DEFAULT: _local}

_CHOSEN: ContextVar[Backend | None] = ContextVar("backend", default=None)


def backend_named(name: str, address: str | None = None) -> Backend:
    """The back end of this name, not yet connected.

    Raises:
        CasewiseError: there is none, it has no address, or its library is not installed.

    >>> type(backend_named("local")).__name__
    'LocalBackend'
    """
    backends = dict(BACKENDS)
    for plugin in implementing(BackendPlugin):
        backends |= plugin.backends()
    if name not in backends:
        raise CasewiseError(f"--backend: {cut(name)} is none of {', '.join(backends)}.{nearest(name, backends)}")
    return backends[name](address)


@contextmanager
def executing_on(name: str, address: str | None = None, show: Show | None = None) -> Iterator[Backend]:
    """Execute all jobs of the block on this back end: `local`, this machine, or `ray`, a Ray cluster.

    Args:
        address: the cluster's address, `HOST:PORT` or `auto` for this machine's; by default Ray is started here.
        show: shows where jobs are executed.

    Raises:
        CasewiseError: as `backend_named`, or the back end cannot be reached.
    """
    with backend_named(name, address) as backend:
        if show and backend.notice:
            show.line(name, backend.notice)
        token, spreading = _CHOSEN.set(backend), SPREAD.set(backend.spread)
        try:
            yield backend
        finally:
            _CHOSEN.reset(token)
            SPREAD.reset(spreading)


def chosen_backend() -> Backend:
    """The back end of `executing_on`; outside it, this machine."""
    return _CHOSEN.get() or LocalBackend()
