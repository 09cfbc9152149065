"""Running jobs in parallel on one machine with joblib; finished ones are not run again."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.console import end_process
from casewise.errors import CasewiseError, RunError, TrainingError, counted
from casewise.jobs.plan import Job, JobInputs
from casewise.metrics.registry import added_metrics, metric_names, register_metric
from casewise.modalities.registry import modality_of, register
from casewise.run_folder.job_folder import FAILED
from casewise.study.learners import added_learners, learner_named, register_learner
from casewise.targets.registry import added_kinds, kind_names, register_kind

if TYPE_CHECKING:
    from casewise.jobs.fitting import Fitter
    from casewise.metrics.metric import Metric
    from casewise.modalities.base import Modality
    from casewise.models.build_model import Builder
    from casewise.models.outputs import NetworkKind
    from casewise.run_folder import RunFolder
    from casewise.study.learners import Learner
    from casewise.study.schema import Study
    from casewise.targets.protocol import TargetKind
    from casewise.training.compute_plan import ComputePlan

Tell = Callable[[float, str], None]
JOBS_SHOWN = 8


def run_jobs(jobs: Sequence[Job], inputs: JobInputs, folder: RunFolder, *, tell: Tell) -> None:
    """Train every job that is not finished.

    Args:
        folder: the run folder, which keeps the compute plans (precision, memory format, threads).
        tell: called about twice a second with the number of jobs done (fractions for running ones), and a sentence
            with a line for each running job.

    Raises:
        CasewiseError: of the first job that failed; the results of finished jobs are kept.
    """
    waiting: list[Job] = []
    for number, job in enumerate(jobs):
        if job.finished:
            tell(number - len(waiting), "verifying finished networks")
        if not job.intact():
            waiting.append(job)
    if not waiting:
        tell(len(jobs), f"{counted(len(jobs), 'network')}, all trained before")
        return
    from joblib import Parallel, delayed

    from casewise.jobs.compute_plans import compute_plans

    tell(len(jobs) - len(waiting), "resolving weights, measuring this machine")
    workers, threads = _side_by_side(inputs, len(jobs), len(waiting))
    plans = compute_plans(waiting, inputs, folder, threads)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(jobs, tell, over), daemon=True)
    watcher.start()
    # Workers keep freed memory on purpose (`compute_plan.keep_memory`), which joblib reports as a leak.
    warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
    try:
        if workers == 1:
            failed = [_run(job, inputs, plans[job.model], workers) for job in waiting]
        else:
            with Parallel(
                n_jobs=workers,
                backend="loky",
                max_nbytes=None,
                batch_size=1,
                pre_dispatch=workers,
                initializer=_begin_worker,
                initargs=(os.getpid(), Registrations.of(inputs.study)),
            ) as parallel:
                failed = parallel(delayed(_run)(job, inputs, plans[job.model], workers) for job in waiting)
    finally:
        over.set()
        watcher.join()
    messages = [text for text in failed if text]
    if messages:
        others = "; the others are finished and kept" if len(messages) < len(jobs) else ""
        raise TrainingError(
            f"{len(messages)} of {len(jobs)} networks could not be trained{others}.\n  " + "\n  ".join(messages)
        )
    tell(len(jobs), f"{counted(len(jobs), 'network')} trained")


def _run(job: Job, inputs: JobInputs, plan: ComputePlan, workers: int) -> str:
    """Run a job; return its own training error as text, so that the other jobs continue."""
    from filelock import FileLock, Timeout

    from casewise.jobs.job import run_job
    from casewise.training.compute_plan import give_memory_back

    try:
        job.folder.path.mkdir(parents=True, exist_ok=True)
        with FileLock(job.folder.lock_path, timeout=30):
            job.folder.sweep()
            run_job(job, inputs, plan, side_by_side=workers)
        return ""
    except TrainingError as error:
        job.folder.write_progress(0, 1, FAILED)
        return f"{job.folds}, {error}"
    except Timeout:
        raise RunError(
            f"{job.folder.path} is in use by a process of an earlier run. Stop it, then run again."
        ) from None
    except OSError as error:
        raise CasewiseError(
            f"{job.name}: {error.strerror or error} ({error.filename or job.folder.path}). "
            "Finished networks are kept; run again to continue."
        ) from error
    finally:
        give_memory_back()


@dataclass(frozen=True)
class Registrations:
    """The user's registrations and the study's modality, for processes that run jobs of the study."""

    modality: Modality
    kinds: list[TargetKind]
    network_kinds: dict[str, NetworkKind]
    metrics: list[Metric]
    learners: list[Learner]
    builders: dict[str, Builder]
    fitters: dict[str, Fitter]

    @classmethod
    def of(cls, study: Study) -> Registrations:
        """Collect the registrations of this process."""
        from casewise.jobs.fitting import FITTERS
        from casewise.models.build_model import BUILDERS
        from casewise.models.outputs import NETWORK_KINDS

        kinds, learners = added_kinds(), added_learners()
        network_kinds = {kind.name: NETWORK_KINDS[kind.name] for kind in kinds if kind.name in NETWORK_KINDS}
        builders = {learner.kind: BUILDERS[learner.kind] for learner in learners}
        fitters = {learner.kind: FITTERS[learner.kind] for learner in learners}
        return cls(modality_of(study), kinds, network_kinds, added_metrics(), learners, builders, fitters)

    def register(self) -> None:
        """Repeat the registrations in another process, except those that importing their modules has made."""
        from casewise.jobs.fitting import FITTERS
        from casewise.models.build_model import BUILDERS
        from casewise.models.outputs import NETWORK_KINDS

        register(self.modality)
        BUILDERS.update(self.builders)
        FITTERS.update(self.fitters)
        for learner in self.learners:
            register_learner(learner)
        for kind in self.kinds:
            if kind.name not in kind_names():
                register_kind(kind)
        NETWORK_KINDS.update(self.network_kinds)
        for metric in self.metrics:
            if metric.name not in metric_names():
                register_metric(metric)


def _begin_worker(parent: int, registrations: Registrations) -> None:
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


def _side_by_side(inputs: JobInputs, networks: int, waiting: int) -> tuple[int, int]:
    """The number of simultaneous jobs, and the number of threads of each.

    On a CPU the threads follow from the cores and from the number of `networks` of the run, never from the number of
    simultaneous jobs: sums over another number of threads differ in their last bits.
    """
    import torch
    from joblib import cpu_count

    compute = inputs.study.compute
    available = cpu_count()
    on_gpu = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
    threads = available if on_gpu else max(1, available // networks)
    if compute.threads != "auto":
        threads = compute.threads
    automatic = 1 if on_gpu else max(1, available // threads)
    requested = automatic if compute.jobs == "auto" else compute.jobs
    return max(1, min(requested, waiting)), threads


def _watch(jobs: Sequence[Job], tell: Tell, over: threading.Event) -> None:
    start, finished = time.time(), set[int]()
    while not over.wait(0.5):
        tell(*progress(jobs, start, finished))


def progress(jobs: Sequence[Job], start: float, finished: set[int]) -> tuple[float, str]:
    """The number of jobs done, with fractions of running ones, and a sentence with a line for each running job.

    Early stopping makes the fractions a lower bound.

    Args:
        start: when the jobs were started, in seconds since 1970; older records of progress do not count.
        finished: numbers of the jobs that are known to be finished, to which others are added.
    """
    failed, shares, running = 0, 0.0, []
    for number, job in enumerate(jobs):
        if number in finished or job.finished:
            finished.add(number)
        elif (record := job.folder.read_progress(start)) is not None:
            if record["stage"] == FAILED:
                failed += 1
                continue
            share = float(record["done"]) / max(1, record["total"])
            shares += min(share, 0.99)
            running.append(f"{job.name}: {_now(record)}")
    waiting = len(jobs) - len(finished) - failed - len(running)
    noun = "networks" if any(learner_named(job.model).by_steps for job in jobs) else "baselines"
    counts = [
        f"{len(finished)} of {len(jobs)} {noun} done",
        *([f"{failed} failed"] if failed else []),
        *([f"{waiting} waiting"] if waiting else []),
    ]
    more = [f"and {len(running) - JOBS_SHOWN} more"] if len(running) > JOBS_SHOWN else []
    return len(finished) + failed + shares, "\n".join([", ".join(counts), *running[:JOBS_SHOWN], *more])


def _now(record: Mapping[str, Any]) -> str:
    """What a running job is doing."""
    stage = "" if record["stage"] == "training" else f"{record['stage']}, "
    if record["done"] >= record["total"]:
        return f"{stage}predicting"
    loss = record.get("loss")
    return f"{stage}epoch {record['done'] + 1} of {record['total']}" + ("" if loss is None else f", loss {loss:.3g}")
