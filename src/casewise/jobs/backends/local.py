"""Jobs in processes of this machine, with joblib."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from casewise.console import end_process
from casewise.files import Anchor, anchor_for_good, anchors
from casewise.jobs.backends.base import LESS_MEMORY, Failure, attempt, failed
from casewise.jobs.backends.registrations import Registrations
from casewise.plugin import plugins
from casewise.training.cost import keep_memory

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.run_folder import RunFolder
    from casewise.training.compute_plan import ComputePlan


class LocalBackend:
    """Executes jobs in this process, or several side by side in processes of their own."""

    notice = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""

    def prepare(
        self, jobs: Sequence[Job], inputs: JobInputs, folder: RunFolder, threads: int
    ) -> dict[str, ComputePlan]:
        """See `Backend.prepare`."""
        from casewise.jobs.compute_plans import compute_plans

        for plugin in plugins():
            plugin.before_jobs(folder.path, jobs)
        return compute_plans(jobs, inputs, folder, threads)

    def execute(
        self,
        jobs: Sequence[Job],
        inputs: JobInputs,
        plans: Mapping[str, ComputePlan],
        workers: int,
        *,
        protected: bool = False,
    ) -> dict[str, Failure]:
        """See `Backend.execute`."""
        if workers == 1 and not protected:
            attempts = {job.name: attempt(job, inputs, plans[job.model], workers) for job in jobs}
            return {name: failure for name, failure in attempts.items() if failure}
        return _in_processes(jobs, inputs, plans, workers)


def _in_processes(
    jobs: Sequence[Job], inputs: JobInputs, plans: Mapping[str, ComputePlan], workers: int
) -> dict[str, Failure]:
    """Execute jobs in other processes.

    When the system ends one of them, the jobs that were in work have failed, because it is not known whose process it
    was; the others are executed with half as many processes.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    failures: dict[str, Failure] = {}
    while jobs:
        begun = time.time()
        try:
            with (
                _without_leak_warnings(),
                Parallel(
                    n_jobs=max(2, workers),  # with one, joblib would execute jobs in this process
                    backend="loky",
                    max_nbytes=None,
                    batch_size=1,
                    pre_dispatch=workers,
                    initializer=_begin_worker,
                    initargs=(os.getpid(), Registrations.of(inputs.study), anchors(), inputs.study.compute.keep_memory),
                ) as parallel,
            ):
                attempts = parallel(delayed(_named)(job, inputs, plans[job.model], workers) for job in jobs)
            return failures | {name: failure for name, failure in attempts if failure}
        except TerminatedWorkerError:
            unfinished = [job for job in jobs if not job.finished]
            ended = _ended(unfinished, begun)
            failures |= ended
            jobs = [job for job in unfinished if job.name not in ended]
            workers = max(1, workers // 2)
    return failures


def _ended(unfinished: Sequence[Job], begun: float) -> dict[str, Failure]:
    """The failures of the jobs that were in work since `begun`: those that they recorded, else that of a lost process.

    Without a trace of any job, all of them count as lost.
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
    return replace(failed(job, _LOST.format(job=job.name), transient=True), memory=True)


_LOST = (
    "{job}: its process, or one beside it, was ended by the system, most often because memory ran out. " + LESS_MEMORY
)


def _named(job: Job, inputs: JobInputs, plan: ComputePlan, workers: int) -> tuple[str, Failure | None]:
    return job.name, attempt(job, inputs, plan, workers)


@contextmanager
def _without_leak_warnings() -> Iterator[None]:
    """Workers keep freed memory on purpose (`casewise.training.cost.keep_memory`), which joblib reports as a leak."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield


def _begin_worker(
    parent: int, registrations: Registrations, anchored_folders: Sequence[Anchor] = (), keep: bool = False
) -> None:
    anchor_for_good(anchored_folders)
    if keep:
        keep_memory()
    registrations.register()
    # The parent process handles Ctrl-C: it stops the workers, whose state is on disk.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Everything is on disk by then; the run would wait ten seconds while the interpreter with torch is torn down.
    atexit.register(end_process, 0)


def _end_with(parent: int) -> None:
    """End this worker when its parent process has ended, so that it does not continue to train."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)
