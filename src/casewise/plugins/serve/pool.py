"""Processes that predict, a bounded queue before them, and counters: the death of one loses no request of another."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import tempfile
import threading
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError, RunError
from casewise.plugins.serve.settings import Json, ServiceError
from casewise.plugins.serve.submission import Submission

log = logging.getLogger("casewise.plugins.serve")

# Seconds until a worker must have loaded its model.
LOADING = 600.0
RETRY_AFTER = 5
PREFIX = "casewise_"
HELP = {
    "requests_total": ("counter", "Answered requests by path and status."),
    "request_seconds_total": ("counter", "Time of these requests in seconds."),
    "uploaded_images_total": ("counter", "Images that were uploaded for predictions or saliency maps."),
    "uploaded_bytes_total": ("counter", "Bytes of these images."),
    "visits_total": ("counter", "Visits that were predicted."),
    "flagged_visits_total": ("counter", "Visits with a flag, such as images far from those of the training."),
    "refused_total": ("counter", "Requests that were refused because the queue was full."),
    "worker_restarts_total": ("counter", "Processes that ended during a request."),
    "requests_in_progress": ("gauge", "Requests that are answered or wait."),
    "workers": ("gauge", "Processes that predict."),
}


class Counters:
    """Named numbers with labels, which several threads may change.

    >>> counters = Counters()
    >>> counters.add("requests_total", path="/health", status="200")
    >>> [line for line in counters.text().splitlines() if line.startswith("casewise_requests_total")]
    ['casewise_requests_total{path="/health",status="200"} 1']
    """

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
        self._lock = threading.Lock()
        for name in ("refused_total", "worker_restarts_total", "requests_in_progress", "visits_total"):
            self._values[name][()] = 0.0

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter; values of labels come from the service, never from clients."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[name][key] = self._values[name].get(key, 0.0) + amount

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name][()] = value

    def text(self) -> str:
        """All numbers, one a line."""
        lines = []
        with self._lock:
            for name, (kind, description) in HELP.items():
                if not self._values.get(name):
                    continue
                lines += [f"# HELP {PREFIX}{name} {description}", f"# TYPE {PREFIX}{name} {kind}"]
                for labels, value in sorted(self._values[name].items()):
                    inner = ",".join(f'{label}="{text}"' for label, text in labels)
                    lines.append(f"{PREFIX}{name}{'{' + inner + '}' if inner else ''} {value:.6g}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker process needs: the model, the folder for its temporary files, and the number of its threads."""

    bundle: Path
    learner: str
    max_pixels: int
    folder: Path
    threads: int
    trust: Path | None = None


def work(connection: Connection, plan: WorkerPlan) -> None:
    """Load the model, send its description, and answer jobs until the other end of the pipe is closed."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin take the time of other processes
    os.environ["LOKY_MAX_CPU_COUNT"] = str(plan.threads)  # photographs are decoded by no more threads than this
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service ends its workers
    logging.getLogger("casewise").setLevel(logging.ERROR)  # warnings of readers quote what files contain
    warnings.simplefilter("ignore")
    tempfile.tempdir = str(plan.folder)
    try:
        import torch

        from casewise.plugins.serve.session import ModelSession

        torch.set_num_threads(plan.threads)
        session = ModelSession(plan.bundle, plan.learner, max_pixels=plan.max_pixels, trust=plan.trust)
        _send(connection, {"ready": session.description})
        session.warm_up()
    except CasewiseError as error:
        _send(connection, {"failed": str(error)})
        return
    answers = {"predict": session.predict, "explain": session.explain}
    while True:
        try:
            job = json.loads(connection.recv_bytes())
        except EOFError:
            return
        submission, folder = Submission.from_json(job["submission"]), Path(job["folder"])
        _send(connection, _answered(answers[job["task"]], submission, folder))


def _answered(task: Callable[[Submission, Path], Json], submission: Submission, folder: Path) -> Json:
    try:
        return {"answer": task(submission, folder)}
    except ServiceError as error:
        problem, status = error, error.status
    except CasewiseError as error:
        text = str(error)
        problem = ServiceError(422, "unreadable", submission.named(text, folder), submission.files_in(text))
        status = problem.status
    except Exception as error:  # noqa: BLE001 (the client gets a typed error, and the log no content of files)
        log.error("an error in prediction: %s", location_of(error))
        message = "This request could not be answered because of a fault of casewise. Please report it."
        problem, status = ServiceError(500, "fault", message), 500
    return {"status": status, "code": problem.code, "message": problem.message, "files": list(problem.files)}


def location_of(error: BaseException) -> str:
    """The type of an error and where it was raised, without its message, which may quote data of a patient."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    lines = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {lines}"


def _send(connection: Connection, message: Json) -> None:
    try:
        connection.send_bytes(json.dumps(message, allow_nan=False).encode())
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the service ended


class WorkerDiedError(Exception):
    """The process ended in the middle of a job."""


class WorkerSlowError(Exception):
    """The process did not answer in time."""


class Worker:
    """A process that answers jobs one by one; a dead one is started again with the next job."""

    def __init__(self, plan: WorkerPlan, target: Callable[[Connection, WorkerPlan], None]) -> None:
        self._plan, self._target = plan, target
        self._process: Any = None
        self._pipe: Connection | None = None
        self.description: Json = {}

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process and wait until its model is loaded.

        Raises:
            RunError: the model cannot be loaded.
        """
        self.stop()
        folder = Path(tempfile.mkdtemp(dir=self._plan.folder, prefix="worker-"))
        self._folder = folder
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        plan = replace(self._plan, folder=folder)
        process = context.Process(target=self._target, args=(other, plan), daemon=True)
        process.start()
        self._process = process
        other.close()
        try:
            first = self._received(LOADING)
        except (WorkerDiedError, WorkerSlowError) as error:
            self.stop()
            raise RunError(
                f"{self._plan.bundle}: the process that loads the model ended. There may be too little memory."
            ) from error
        if "failed" in first:
            self.stop()
            raise RunError(str(first["failed"]))
        if self.description not in ({}, first["ready"]):
            self.stop()
            raise RunError(f"{self._plan.bundle}: it was changed since the service started. Start the service again.")
        self.description = first["ready"]

    def call(self, job: Json, timeout: float) -> Json:
        """The answer to a job.

        Raises:
            WorkerDiedError, WorkerSlowError: the process is ended, and starts again with the next job.
            RunError: it cannot be started.
        """
        if self._process is None or not self._process.is_alive():
            self.start()
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(json.dumps(job).encode())
            return self._received(timeout)
        except (OSError, EOFError) as error:
            self.stop()
            raise WorkerDiedError from error
        except (WorkerDiedError, WorkerSlowError):
            self.stop()
            raise

    def _received(self, timeout: float) -> Json:
        assert self._pipe is not None
        ready = wait([self._pipe, self._process.sentinel], timeout)
        if not ready:
            raise WorkerSlowError
        if self._pipe not in ready:
            raise WorkerDiedError
        try:
            message: Json = json.loads(self._pipe.recv_bytes())
        except EOFError as error:
            raise WorkerDiedError from error
        return message

    def stop(self) -> None:
        """End the process and remove its temporary files."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


class WorkerPool:
    """Some workers, and the requests that wait for them.

    Args:
        plan: of each worker; its folder is the one below which theirs are.
        queue_length: requests that may wait in addition to those that are answered.
        timeout: seconds for one job.
        target: the function of the processes.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        counters: Counters,
        *,
        workers: int,
        queue_length: int,
        timeout: float,
        target: Callable[[Connection, WorkerPlan], None] = work,
    ) -> None:
        self.workers = [Worker(plan, target) for _ in range(workers)]
        self._counters, self._timeout = counters, timeout
        self._capacity = workers + queue_length
        self._taken = 0
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    def start(self) -> Json:
        """Start all processes; the description of the model.

        Raises:
            RunError: the model cannot be loaded.
        """
        for worker in self.workers:
            worker.start()
            self._idle.put(worker)
        return self.workers[0].description

    def enter(self) -> None:
        """Take a place in the queue, before a request is read.

        Raises:
            ServiceError: 503, there is none.
        """
        if self._taken >= self._capacity:
            self._counters.add("refused_total")
            raise ServiceError(
                503,
                "busy",
                f"The service is busy: {self._capacity} requests are in progress. Try again in {RETRY_AFTER} seconds.",
                retry_after=RETRY_AFTER,
            )
        self._taken += 1
        self._counters.set("requests_in_progress", self._taken)

    def leave(self) -> None:
        """Give the place back."""
        self._taken -= 1
        self._counters.set("requests_in_progress", self._taken)

    async def answer(self, job: Json) -> Json:
        """The answer of some worker to a job.

        Raises:
            ServiceError: the job has a problem, took too long, or ended two processes.
        """
        message = await asyncio.get_running_loop().run_in_executor(self._threads, self._run, job)
        if "answer" in message:
            answer: Json = message["answer"]
            return answer
        raise ServiceError(message["status"], message["code"], message["message"], message["files"])

    def _run(self, job: Json) -> Json:
        worker = self._idle.get()
        try:
            for attempt in (1, 2):
                try:
                    return worker.call(job, self._timeout)
                except WorkerDiedError:
                    self._counters.add("worker_restarts_total")
                    log.warning("a worker process ended during a request (attempt %d of 2)", attempt)
                except WorkerSlowError:
                    self._counters.add("worker_restarts_total")
                    log.warning("a request took more than %g seconds and was stopped", self._timeout)
                    return _problem(
                        "timeout",
                        f"The prediction took more than {self._timeout:g} seconds and was stopped. Send fewer or "
                        "smaller images.",
                    )
            return _problem(
                "worker_died",
                "The process that predicts ended twice with this request, perhaps because an image needs too much "
                "memory. Send fewer or smaller images.",
            )
        except RunError as error:
            log.error("a worker process cannot be started again: %s", error)
            return _problem("no_worker", "The model cannot be loaded at present. Tell whoever runs this service.")
        finally:
            self._idle.put(worker)

    def stop(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _problem(code: str, message: str) -> Json:
    return {"status": 503, "code": code, "message": message, "files": []}
