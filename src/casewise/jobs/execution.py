"""Execution of a run's jobs without a result, the slowest first; a job is tried again after a transient failure."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, TrainingError, counted, gigabytes
from casewise.jobs.backends import Backend, Failure, LocalBackend, Plans, chosen_backend
from casewise.run_folder.job_folder import FAILED, PRETRAINING, JobFolder
from casewise.study.learners import learner_named
from casewise.training.cost import PeakMemory, available_mb

if TYPE_CHECKING:
    from casewise.jobs.compute_plans import Pace
    from casewise.jobs.plan import Job, JobInputs
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


log = logging.getLogger("casewise")

Tell = Callable[[float, str], None]
JOBS_SHOWN = 8
# Into how many parts a batch is divided at most.
MOST_PARTS = 16


def run_jobs(
    jobs: Sequence[Job],
    inputs: JobInputs,
    folder: RunFolder,
    *,
    tell: Tell,
    backend: Backend | None = None,
    only: Collection[str] | None = None,
    partial: bool = False,
) -> dict[str, Failure]:
    """Execute every job that is not finished, those with the slowest measured step first; return failures by job.

    A job that was ended by too little memory, by the system, or by a file that could not be read is tried again
    after the others, by itself, since it is not known which of several jobs was at fault. A network for which memory
    does not suffice even then is trained with every batch in two parts, then in four, and so on. A training that
    diverged is not tried again: it would be repeated bit by bit.

    Args:
        folder: the run folder, which keeps the compute plans (precision, memory format, threads).
        tell: called about twice a second with the number of jobs done (fractions for running ones, and the slower
            ones count more), and a sentence with a line for each running job.
        backend: where they are executed; by default the back end of `executing_on`, or this machine.
        only: the names of the jobs that are executed; by default all of them.
        partial: whether failures are returned instead of raised, unless the run folder is their reason.

    Raises:
        TrainingError: naming each job that failed; the results of finished jobs are kept.
        CasewiseError: first weights are missing, the split is not sound, or a job's folder is in use.
    """
    backend = backend or chosen_backend()
    named_jobs = [job for job in jobs if only is None or job.name in only]
    waiting: list[Job] = []
    done, begun = 0, float(len(named_jobs))  # not less, or what was done before would seem new
    for job in named_jobs:
        if job.finished:
            tell(begun, "verifying finished networks")
        if job.intact():
            done += 1
        else:
            waiting.append(job)
    if not waiting:
        tell(done, f"{counted(done, 'network')} trained before")
        return {}

    tell(begun, "looking up first weights, measuring speed")
    workers, threads = _side_by_side(inputs, len(jobs), len(waiting))
    plans = backend.prepare(waiting, inputs, folder, threads)
    if isinstance(backend, LocalBackend):
        workers = jobs_that_fit(workers, waiting, plans, inputs.study)
    waiting.sort(key=lambda job: -plans[job.model].step_seconds)
    over, costs = threading.Event(), relative_costs(named_jobs, waiting, plans, inputs.study)
    tell(progress(named_jobs, time.time(), set(), costs)[0], "starting")
    watcher = threading.Thread(target=_watch, args=(named_jobs, tell, over, costs), daemon=True)
    watcher.start()
    try:
        failures = backend.execute(waiting, inputs, plans, workers, protected=False)
        tried: set[str] = set()
        alone = workers == 1 and isinstance(backend, LocalBackend)  # elsewhere, other jobs may run too
        most = min(MOST_PARTS, inputs.study.recipe.batch_size // 2)
        # jobs that were not alone may have failed for that reason, and are not yet computed in parts
        while again := _again(waiting, failures, tried, most if alone else 1):
            for job in waiting:
                if job.name in again:
                    with suppress(OSError):
                        job.folder.progress_path.unlink(missing_ok=True)  # it waits, and has not failed
            failures = {name: failure for name, failure in failures.items() if name not in again}
            failures |= backend.execute([job for job in waiting if job.name in again], inputs, plans, 1, protected=True)
            alone = True
    finally:
        over.set()
        watcher.join()
    if failures and (not partial or any(failure.folder for failure in failures.values())):
        raise TrainingError(summary_of(failures, len(named_jobs)))
    done += len(waiting) - len(failures)
    tell(done, f"{counted(done, 'network')} trained")
    return failures


def measured_paces(jobs: Sequence[Job], inputs: JobInputs, folder: RunFolder) -> tuple[Mapping[str, Pace], int]:
    """The pace of each network, and how many jobs will run side by side; a network whose trial fails has none."""
    backend = chosen_backend()
    workers, threads = _side_by_side(inputs, len(jobs), len(jobs))
    plans = backend.prepare(jobs, inputs, folder, threads)
    if isinstance(backend, LocalBackend):
        workers = jobs_that_fit(workers, jobs, plans, inputs.study)
    return _tried(backend, jobs, inputs, plans, workers), workers


def quick_paces(jobs: Sequence[Job], inputs: JobInputs, seconds: float) -> tuple[Mapping[str, Pace], int]:
    """The same by one trial of each network in this process, for an estimate; the memory of a step is not measured.

    After so many seconds no further network is tried: the others have the pace of the fastest one so far.
    """
    from casewise.jobs.compute_plans import stated_plans
    from casewise.training.compute_plan import device_plan

    workers, threads = _side_by_side(inputs, len(jobs), len(jobs))
    plans = {job.model: device_plan(inputs.study.compute, threads) for job in jobs} | stated_plans(inputs.study)
    return _tried(LocalBackend(), jobs, inputs, plans, 1, seconds), workers


def _tried(
    backend: Backend, jobs: Sequence[Job], inputs: JobInputs, plans: Plans, workers: int, seconds: float = math.inf
) -> Mapping[str, Pace]:
    from casewise.jobs.compute_plans import Pace

    paces: dict[str, Pace] = {}
    began = time.monotonic()
    for model in dict.fromkeys(job.model for job in jobs):
        if paces and time.monotonic() - began > seconds:
            paces[model] = min(paces.values(), key=lambda pace: pace.epoch)
            continue
        trials = [
            replace(job, folder=JobFolder(job.folder.path.with_name(f"trial{job.fold + 1}")), trial=True)
            for job in jobs
            if job.model == model
        ][:workers]
        try:
            if not backend.execute(trials, inputs, plans, workers, protected=False):
                measured = [Pace(**trial.folder.pace.read()) for trial in trials]
                paces[model] = Pace(*map(fmean, zip(*(asdict(pace).values() for pace in measured), strict=True)))
        finally:
            for trial in trials:
                shutil.rmtree(trial.folder.path, ignore_errors=True)
    return paces


def _again(waiting: Sequence[Job], failures: Mapping[str, Failure], tried: set[str], most: int) -> set[str]:
    """The names of the failed jobs to try again: in more parts if memory ran out, otherwise unchanged.

    `tried` has the jobs that were already tried again; further ones are added.
    """
    again = set()
    for job in waiting:
        failure = failures.get(job.name)
        if failure is None or not failure.transient:
            continue
        if failure.memory and learner_named(job.model).by_steps and 2 * job.parts() <= most:
            how = f"It is tried with every batch in {job.halve_parts()} parts."
        elif job.name not in tried:
            how = "It is tried again."
        else:
            continue
        log.warning("%s %s", failure.message, how)
        again.add(job.name)
    tried |= again
    return again


def summary_of(failures: Mapping[str, Failure], jobs: int) -> str:
    """How many of the jobs failed, and why."""
    others = "; the others are finished and kept" if len(failures) < jobs else ""
    messages = "\n  ".join(failure.message for failure in failures.values())
    return f"{len(failures)} of {jobs} networks could not be trained{others}.\n  {messages}"


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


def _watch(jobs: Sequence[Job], tell: Tell, over: threading.Event, costs: Sequence[float]) -> None:
    start, finished = time.time(), set[int]()
    while not over.wait(0.5):
        tell(*progress(jobs, start, finished, costs))


def relative_costs(jobs: Sequence[Job], waiting: Sequence[Job], plans: Plans, study: Study) -> list[float]:
    """The expected time of each job, in means of those that wait; 0 for all if it is unknown and they differ in kind.

    Then nothing seems to be done, so that no time left is shown, which would be a wrong one.
    """
    recipes = {job.model: study.of_learner(job.model).recipe for job in waiting}
    epochs = {model: sum(phase.epochs for phase in of.phases) or of.epochs for model, of in recipes.items()}
    costs = {model: plans[model].step_seconds * epochs[model] / of.batch_size for model, of in recipes.items()}
    if len(costs) == 1 or not all(costs.values()):
        return [float(len(costs) == 1)] * len(jobs)
    mean = fmean(costs[job.model] for job in waiting)
    return [costs[job.model] / mean if job in waiting else 1.0 for job in jobs]


def progress(
    jobs: Sequence[Job], start: float, finished: set[int], costs: Sequence[float] | None = None
) -> tuple[float, str]:
    """The number of jobs done, with fractions of running ones, and a sentence with a line for each running job.

    Early stopping makes the fractions a lower bound.

    Args:
        start: when the jobs were started, in seconds since 1970; older records of progress do not count as running.
        finished: numbers of the jobs that are known to be finished, to which others are added.
        costs: of `relative_costs`; by default jobs count equally.
    """
    failed, done, running, costs = 0, 0.0, [], costs or [1.0] * len(jobs)
    for number, job in enumerate(jobs):
        if number in finished or job.finished:
            finished.add(number)
            done += costs[number]
        elif (record := job.folder.read_progress(0.0)) is not None:
            is_running = job.folder.read_progress(start) is not None
            if record["stage"] == FAILED:
                failed += is_running
                done += costs[number] * is_running
                continue
            done += costs[number] * min(record["share"], 0.99)  # also of an interrupted job, which continues from there
            if is_running:
                running.append(f"{job.name}: {_now(record) if learner_named(job.model).by_steps else 'fitting'}")
    waiting = len(jobs) - len(finished) - failed - len(running)
    noun = "networks" if any(learner_named(job.model).by_steps for job in jobs) else "baselines"
    counts = [f"{len(finished)} of {len(jobs)} {noun} done"]
    counts += [f"{count} {state}" for count, state in ((failed, "failed"), (waiting, "waiting")) if count]
    more = [f"and {len(running) - JOBS_SHOWN} more"] if len(running) > JOBS_SHOWN else []
    return done, "\n".join([", ".join(counts), *running[:JOBS_SHOWN], *more])


def _now(record: Mapping[str, Any]) -> str:
    """The present step of a running job."""
    stage = "" if record["stage"] == "training" else f"{record['stage']}, "
    if record["done"] >= record["total"]:
        return f"{stage}finished" if record["stage"] == PRETRAINING else f"{stage}predicting"
    loss = record.get("loss")
    return f"{stage}epoch {record['done'] + 1} of {record['total']}" + ("" if loss is None else f", loss {loss:.3g}")


def jobs_that_fit(workers: int, waiting: Sequence[Job], plans: Plans, study: Study) -> int:
    """The number of jobs side by side, at most `workers`, whose measured peaks fit in the available memory.

    Jobs whose peak is not known count as nothing, as do those on a GPU. A recipe that trains only a part of the layers
    may need less than was measured for all, so it is never refused.

    Raises:
        CasewiseError: not even one job fits, or the study states a number of jobs that do not fit.
    """
    # The peak of a job that computes its batches in parts is not known either.
    descending = sorted((plans[job.model].peak_mb if job.parts() == 1 else 0.0 for job in waiting), reverse=True)
    if not any(descending):
        return workers
    available = available_mb()
    # A single job is executed in this process, which has a part of its memory already.
    for_one = available + PeakMemory.own_now()
    fitting = next((n for n in range(workers, 1, -1) if sum(descending[:n]) <= available), 0)
    fitting = fitting or int(descending[0] <= for_one)
    if fitting == workers:
        return workers
    largest = max((job.model for job in waiting), key=lambda model: plans[model].peak_mb)
    recipe = study.recipe
    message = (
        f"training {counted(workers, 'network')} at a time takes {gigabytes(sum(descending[:workers]))} of memory (the "
        f"largest, {largest}, {gigabytes(descending[0])}), and {gigabytes(available)} are available"
    )
    partial = recipe.tuning == "head_only" or bool(recipe.phases)
    if not partial and (not fitting or study.compute.jobs != "auto"):
        advice = f"Write `compute: {{jobs: {fitting}}}`" if fitting else f"Take {largest} out of `backbones`"
        raise CasewiseError(
            f"compute.jobs: {message}. {advice}, lower recipe.batch_size (now {recipe.batch_size}) or images.size (now "
            f"{study.images.size}), or close other programs."
        )
    if workers > 1:
        log.warning("compute.jobs: %s. Only %d at a time will be; the results are the same.", message, max(1, fitting))
    return max(1, fitting)
