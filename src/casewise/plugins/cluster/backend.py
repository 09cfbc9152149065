"""Jobs on the machines of a Ray cluster, which share the run folder.

Ray starts a job where there is room and reports when its machine is lost. The job then moves: it continues from its
last state on another machine, once its process on the lost one has certainly ended (`casewise.plugins.cluster.leases`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import ray
import ray.cloudpickle
import ray.exceptions
from filelock import FileLock, Timeout
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from casewise.errors import CasewiseError, RunError, counted
from casewise.jobs.backends import Backend, Failure, Plans, Registrations, lost
from casewise.plugins.cluster import machines
from casewise.plugins.cluster.leases import LEASES, LOCAL, SAFE, LeaseError, Lessor, break_lock, end_earlier
from casewise.plugins.cluster.machines import NodeReport, Task
from casewise.run_folder import JobFolder, RunFolder

if TYPE_CHECKING:
    from casewise.jobs.plan import Job, JobInputs
    from casewise.modalities.store.workers import Work

log = logging.getLogger("casewise")

# The results or failures of tasks by their names.
Results: TypeAlias = dict[str, Any]

# How long, in seconds: to start a process on every machine, and to wait for a machine with room.
START, ROOM = 600.0, 60.0
# The most moves of a job; if its machine is lost again, the job has failed.
MOVES = 5
# Seconds between two looks at the machines of the cluster.
NODES = 2.0
# Tasks per core of the cluster into which the images are divided; files to try on every machine.
PARTS, FILES = 32, 10


class _Attempt(NamedTuple):
    """A task that was given to the cluster, its lease, and when, by `time.monotonic`."""

    task: Task
    lease: str
    since: float


class _Ended(NamedTuple):
    """A task whose process ends until `ready`, and its failure; None if it moves."""

    attempt: _Attempt
    ready: float
    failure: Failure | None


@dataclass(frozen=True)
class Session:
    """Shared by the jobs or images of one folder: the lessor of their leases, and their inputs in the cluster."""

    folder: Path
    lessor: Lessor
    inputs: Any

    @property
    def arguments(self) -> tuple[Any, str, str]:
        """The first arguments of every function of the workers."""
        return self.inputs, str(self.lessor.path), self.lessor.session


class RayBackend(Backend):
    """Executes jobs on a Ray cluster, or on a Ray of its own on this machine.

    Args:
        address: `host:port`, `auto` for a cluster that this machine belongs to, or `local`: Ray is started on this
            machine and ends with the run.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._session: Session | None = None
        self._own, self._losses = False, 0

    def __enter__(self) -> RayBackend:
        """Connect to the cluster.

        Raises:
            CasewiseError: there is none at the address, or it cannot be joined.
        """
        self._own = not ray.is_initialized()
        if self._own:
            machines.connect(self._address)
        self._work = ray.remote(max_retries=0, scheduling_strategy="SPREAD")(machines.work)
        self._look = ray.remote(max_retries=0, num_cpus=0)(machines.look)
        return self

    def __exit__(self, *error: object) -> None:
        """Withdraw all leases and leave the cluster."""
        self._end()
        if self._own:
            ray.shutdown()

    @property
    def notice(self) -> str:
        """Where jobs are executed."""
        nodes = [node for node in machines.nodes_alive().values() if node.get("CPU", 0) >= 1]
        cores, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
        hardware = counted(cores, "core") + (f" and {counted(gpus, 'GPU')}" if gpus else "")
        return f"networks are trained on {counted(len(nodes), 'machine')} with {hardware}"

    def prepare(self, jobs: Sequence[Job], inputs: JobInputs, folder: RunFolder, threads: int) -> Plans:
        """See `Backend.prepare`: checks that all machines share the folder, and measures the plans on one of them.

        Raises:
            RunError: a machine does not see the folder or has other versions, or none has enough cores.
        """
        folder = RunFolder(folder.path.absolute(), folder.images_of and folder.images_of.absolute())
        pretraining = inputs.pretraining and replace(inputs.pretraining, tiles=inputs.pretraining.tiles.absolute())
        store = replace(inputs.store, folder=inputs.store.folder.absolute())
        inputs = replace(inputs, store=store, pretraining=pretraining)
        # registrations come first, since the inputs may need them
        parts = (ray.cloudpickle.dumps(Registrations.of(inputs.study)), ray.cloudpickle.dumps(inputs))
        session = self._begin(folder.path, jobs, parts)
        nodes = machines.nodes_alive()
        needed = [inputs.store.folder, *([inputs.pretraining.tiles] if inputs.pretraining else [])]
        machines.refuse(self._reports(session, nodes, needed), NodeReport.of_this(), folder.path)
        gpus = int(inputs.study.compute.device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes.values()))
        jobs = [_absolute(job) for job in jobs]
        call = _pickled(machines.plans_of, jobs, folder, threads)
        task = Task("measuring the machine", call, machines.cores_of(threads, gpus, nodes), gpus)
        machines.check_room([task], nodes)
        plans: Plans | Failure = self._run([task], 1)[task.name]
        if isinstance(plans, Failure):
            raise RunError(plans.message)
        return plans

    def execute(
        self, jobs: Sequence[Job], inputs: JobInputs, plans: Plans, workers: int, *, protected: bool
    ) -> dict[str, Failure]:
        """See `Backend.execute`; how many jobs run side by side follows from the cluster, unless the study says it."""
        nodes, compute = machines.nodes_alive(), inputs.study.compute
        limit = workers if protected else None if compute.jobs == "auto" else compute.jobs
        tasks = []
        for job in jobs:
            plan = plans[job.model]
            gpus = int(plan.device == "cuda")
            cores = machines.cores_of(plan.threads, gpus, nodes)
            at_once = min(limit or len(jobs), max(machines.rooms(node, cores, gpus) for node in nodes.values()))
            call = _pickled(machines.attempt_of, _absolute(job), plan, max(1, at_once))
            tasks.append(Task(job.name, call, cores, gpus, _absolute(job)))
        machines.check_room(tasks, nodes)
        results = self._run(tasks, limit)
        return {task.name: failure for task in tasks if (failure := results[task.name])}

    def spread(self, work: Work, tell: Callable[[int], None]) -> bool:
        """See `Backend.spread`; without other machines, or if one does not see the images, nothing is done."""
        nodes, folder = machines.nodes_alive(), work.folder.absolute()
        cores = int(sum(node.get("CPU", 0) for node in nodes.values()))
        if self._address == LOCAL or not cores:
            return False
        try:
            with FileLock(folder / f"{LEASES}.lock", timeout=0):
                session = self._begin(folder, [], None)
                files = work.files[:: max(1, len(work.files) // FILES)]
                reports = self._reports(session, nodes, files, machines.IMAGE_LIBRARIES)
                machines.refuse(reports, NodeReport.of_this(libraries=machines.IMAGE_LIBRARIES), folder)
                tasks, sizes = _tasks(work, max(1, len(work.parts) // (PARTS * cores)))
                results = self._run(tasks, None, lambda done: tell(sum(sizes[name] for name in done)))
        except (Timeout, OSError, NotImplementedError):  # another run prepares these images, or nothing can be locked
            return False
        except RunError as error:
            log.warning("The rest of the images is prepared on this machine alone. %s", error)
            return True
        finally:
            self._end()
        if failures := [failure.message for failure in results.values() if failure]:
            log.warning("Some images are prepared on this machine: %s", failures[0])
        return True

    def _begin(self, folder: Path, jobs: Sequence[Job], inputs: tuple[bytes, bytes] | None) -> Session:
        """The session of a folder, with these inputs."""
        if self._session and self._session.folder != folder:
            self._end()
        if self._session is None:
            end_earlier(folder, jobs)
        lessor = self._session.lessor if self._session else Lessor(folder)
        self._session = Session(folder, lessor, ray.put(inputs))
        return self._session

    def _end(self) -> None:
        if self._session:
            self._session.lessor.close()
            self._session = None

    @property
    def _begun(self) -> Session:
        assert self._session is not None  # `prepare` has begun it
        return self._session

    def _reports(
        self, session: Session, nodes: Mapping[str, Any], needed: Sequence[Path], libraries: Sequence[str] = ("torch",)
    ) -> list[NodeReport]:
        """A report from every machine with cores; a machine that is lost meanwhile has none.

        Raises:
            RunError: a machine does not answer, or cannot load what the study uses.
        """
        hosts = {}
        for name, node in nodes.items():
            if node.get("CPU", 0) >= 1:
                here = NodeAffinitySchedulingStrategy(name, soft=False)
                ref = self._look.options(scheduling_strategy=here).remote(*session.arguments, needed, libraries)
                hosts[ref] = node["host"]
        _, late = ray.wait(list(hosts), num_returns=len(hosts), timeout=START) if hosts else ([], [])
        reports = []
        for ref, host in hosts.items():
            if ref in late:
                raise RunError(f"The machine {host} of the Ray cluster did not start a process in {START:.0f} s.")
            try:
                reports.append(ray.get(ref))
            except (ray.exceptions.RayTaskError, ray.exceptions.RaySystemError, RuntimeError) as error:
                raise RunError(
                    f"The machine {host} of the Ray cluster cannot load casewise or what the study uses: "
                    f"{machines.last_line(error)}. Install the same packages on every machine."
                ) from error
            except ray.exceptions.RayError:
                log.warning("The machine %s of the Ray cluster was lost.", host)
        return reports

    def _run(self, tasks: Sequence[Task], limit: int | None, tell: Callable[[Results], None] | None = None) -> Results:
        """Execute tasks, at most `limit` at a time; return their results, or failures, by name.

        `tell` receives those that are there, whenever one is added.
        """
        lessor = self._begun.lessor
        waiting, at_work, ending = deque(tasks), dict[Any, _Attempt](), list[_Ended]()
        results: Results = {}
        nodes, looked = machines.nodes_alive(), time.monotonic()
        roomy = looked
        try:
            while waiting or at_work or ending:
                side_by_side = limit or max(1, int(sum(node.get("CPU", 0) for node in nodes.values())))
                while waiting and len(at_work) < side_by_side:
                    attempt = _Attempt(waiting.popleft(), lessor.grant(), time.monotonic())
                    at_work[self._submit(attempt)] = attempt
                for ref in _done(at_work):
                    ending += self._collect(ref, at_work.pop(ref), results)
                    if tell:
                        tell(results)
                if (now := time.monotonic()) - looked > NODES:
                    before, nodes, looked = nodes, machines.nodes_alive(), now
                    ending += self._removed(at_work, nodes, machine_lost=bool(before.keys() - nodes.keys()))
                    if any(
                        machines.fits(task, nodes)
                        for task in (*waiting, *(attempt.task for attempt in at_work.values()))
                    ):
                        roomy = now
                    elif waiting and now - roomy > ROOM:
                        machines.check_room([*waiting], nodes)
                for ended in [ended for ended in ending if ended.ready <= now]:
                    ending.remove(ended)
                    lessor.ended(ended.attempt.lease)
                    task = ended.attempt.task
                    if task.job:
                        break_lock(task.job)
                    if ended.failure:
                        results[task.name] = ended.failure
                    else:
                        waiting.appendleft(task)
            return results
        finally:
            self._cancel(at_work)

    def _removed(self, at_work: dict[Any, _Attempt], nodes: Mapping[str, Any], *, machine_lost: bool) -> list[_Ended]:
        """Remove the attempts whose results Ray may await for minutes or without end.

        They are on machines that the cluster has given up, or, after a machine was lost, on none: Ray may have asked
        the lost one for room.
        """
        self._losses += machine_lost
        ending = []
        for ref, attempt in list(at_work.items()):
            node = self._begun.lessor.node_of(attempt.lease)
            if node in nodes or not (node or machine_lost):
                continue
            del at_work[ref]
            ending += self._lost(attempt) if node else self._ending(attempt, None)
            with suppress(ray.exceptions.RayError):
                ray.cancel(ref, force=True)
        return ending

    def _submit(self, attempt: _Attempt) -> Any:
        task, session = attempt.task, self._begun
        options = {"num_cpus": task.cpus, "num_gpus": task.gpus, "name": f"casewise: {task.name}"}
        if self._losses:  # some bytes, by which Ray tells tasks apart: like ones wait for the answer of a lost machine
            options["memory"] = self._losses
        return self._work.options(**options).remote(*session.arguments, attempt.lease, task.call)

    def _collect(self, ref: Any, attempt: _Attempt, results: Results) -> list[_Ended]:
        """Store the result of a task that is done; how it ends, if its process or its machine was lost.

        Raises:
            CasewiseError: the task ended with it.
        """
        lessor, task = self._begun.lessor, attempt.task
        try:
            results[task.name], warnings = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, LeaseError):
                return self._lost(attempt)
            lessor.ended(attempt.lease)
            if isinstance(error.cause, CasewiseError):
                raise error.cause from None
            raise
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
            # a job is tried again by whoever gave it
            if lessor.expired(attempt.since) or not (task.job or task.moves):
                return self._lost(attempt)
            failure = lost(task.job) if task.job else Failure(f"{task.name}: there was not enough memory.", True)
            return self._ending(attempt, failure)
        except ray.exceptions.RayError:
            return self._lost(attempt)
        for message in warnings:
            log.warning("%s", message)
        lessor.ended(attempt.lease)
        return []

    def _lost(self, attempt: _Attempt) -> list[_Ended]:
        """A task whose machine was lost: it moves when its process has ended, unless it has moved too often."""
        task, message = attempt.task, f"{attempt.task.name}: the connection to its machine was lost"
        if task.moves >= MOVES:
            return self._ending(attempt, Failure(f"{message} {task.moves + 1} times.", transient=False))
        continues = task.job is not None and task.job.folder.can_resume()
        how = (
            "continues on another machine from its last saved state" if continues else "is repeated on another machine"
        )
        log.warning("%s. It %s.", message, how)
        return self._ending(attempt._replace(task=task._replace(moves=task.moves + 1)), None)

    def _ending(self, attempt: _Attempt, failure: Failure | None) -> list[_Ended]:
        self._begun.lessor.withdraw([attempt.lease])
        return [_Ended(attempt, time.monotonic() + SAFE, failure)]

    def _cancel(self, at_work: Mapping[Any, _Attempt]) -> None:
        """End the processes of these attempts; the leases of processes that do not answer remain withdrawn."""
        if not at_work:
            return
        lessor = self._begun.lessor
        lessor.withdraw(attempt.lease for attempt in at_work.values())
        for ref in at_work:
            with suppress(ray.exceptions.RayError):
                ray.cancel(ref, force=True)
        for ref in ray.wait(list(at_work), num_returns=len(at_work), timeout=machines.REACH)[0]:
            with suppress(ray.exceptions.RayError):  # of a lost machine, whose process may go on
                with suppress(ray.exceptions.TaskCancelledError, ray.exceptions.WorkerCrashedError):
                    ray.get(ref)
                lessor.ended(at_work[ref].lease)


def _done(at_work: Mapping[Any, _Attempt]) -> list[Any]:
    """The tasks that are done, after half a second at most."""
    if not at_work:
        time.sleep(0.5)
        return []
    done: list[Any] = ray.wait(list(at_work), num_returns=1, timeout=0.5)[0]
    return done


def _tasks(work: Work, size: int) -> tuple[list[Task], dict[str, int]]:
    """Tasks of `size` parts of the work each, and how many items they have."""
    chunks = [[*chain(*work.parts[first : first + size])] for first in range(0, len(work.parts), size)]
    named = {f"images, part {number} of {len(chunks)}": chunk for number, chunk in enumerate(chunks, 1)}
    call = partial(_pickled, machines.prepare_part, work.function)
    tasks = [Task(name, call(chunk), 1, 0) for name, chunk in named.items()]
    return tasks, {name: len(chunk) for name, chunk in named.items()}


def _absolute(job: Job) -> Job:
    return replace(job, folder=JobFolder(job.folder.path.absolute()))


def _pickled(function: Any, *arguments: Any) -> bytes:
    return bytes(ray.cloudpickle.dumps((function, arguments)))
