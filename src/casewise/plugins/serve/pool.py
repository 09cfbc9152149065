"""Processes that predict, and a bounded queue before them: the death of one loses no request of another."""

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
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from casewise.errors import CasewiseError, RunError
from casewise.plugins.serve.settings import ServiceSettings
from casewise.plugins.serve.submission import Submission
from casewise.web.settings import LOG, Json, ServiceError, location_of

log = logging.getLogger(LOG)

# Seconds until a worker must have loaded its model.
LOADING = 600.0
SUBMISSIONS = TypeAdapter(Submission)
RETRY_AFTER = 5
SMALLER = "Send fewer or smaller images."


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
    except CasewiseError as error:
        _send(connection, {"failed": str(error)})
        return
    answers = {"predict": session.predict, "explain": session.explain}
    while True:
        try:
            job = json.loads(connection.recv_bytes())
        except EOFError:
            return
        submission, folder = SUBMISSIONS.validate_python(job["submission"]), Path(job["folder"])
        _send(connection, answered(answers[job["task"]], submission, folder))


def answered(task: Callable[[Submission, Path], Json], submission: Submission, folder: Path) -> Json:
    """The answer, or the problem with the names that the client gave to its files."""
    try:
        return {"answer": task(submission, folder)}
    except ServiceError as error:
        problem = error
    except CasewiseError as error:
        text = str(error)
        problem = ServiceError(422, "unreadable", submission.named(text, folder), submission.files_in(text))
    except Exception as error:  # noqa: BLE001 (the client gets a typed error, and the log no content of files)
        log.error("an error in prediction: %s", location_of(error))
        message = "This request could not be answered because of a fault of casewise. Please report it."
        problem = ServiceError(500, "fault", message)
    return {"refused": [problem.status, problem.code, problem.message, list(problem.files)]}


def _send(connection: Connection, message: Json) -> None:
    try:
        connection.send_bytes(json.dumps(message, allow_nan=False).encode())
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the service ended


class Worker:
    """A process that answers jobs one by one; a dead one is started again with the next job."""

    def __init__(self, plan: WorkerPlan, target: Callable[[Connection, WorkerPlan], None]) -> None:
        self._plan, self._target = plan, target
        self._process: Any = None
        self._pipe: Connection | None = None
        self.description: Json = {}

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
        bundle = self._plan.bundle
        try:
            first = self._received(LOADING)
        except (OSError, EOFError):
            first = {"failed": f"{bundle}: the process that loads the model ended. There may be too little memory."}
        if self.description and self.description != first.get("ready", self.description):
            first = {"failed": f"{bundle}: it was changed since the service started. Start the service again."}
        if "failed" in first:
            self.stop()
            raise RunError(str(first["failed"]))
        self.description = first["ready"]

    def call(self, job: Json, timeout: float) -> Json:
        """The answer to a job.

        Raises:
            TimeoutError, EOFError: it takes too long or the process died; a new one starts with the next job.
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
            raise (error if isinstance(error, TimeoutError) else EOFError()) from error

    def _received(self, timeout: float) -> Json:
        assert self._pipe is not None
        ready = wait([self._pipe, self._process.sentinel], timeout)
        if not ready:
            raise TimeoutError
        if self._pipe not in ready:
            raise EOFError
        message: Json = json.loads(self._pipe.recv_bytes())
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
        target: the function of the processes.
    """

    def __init__(
        self, plan: WorkerPlan, settings: ServiceSettings, target: Callable[[Connection, WorkerPlan], None] = work
    ) -> None:
        self.workers = [Worker(plan, target) for _ in range(settings.workers)]
        self._timeout, self._capacity = settings.timeout, settings.workers + settings.queue
        self.taken = 0
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="worker")

    def start(self) -> Json:
        """Start all processes; the description of the model.

        Raises:
            RunError: the model cannot be loaded.
        """
        for worker in self.workers:
            worker.start()
            self._idle.put(worker)
        return self.workers[0].description

    def check(self) -> None:
        """Check that there is a free place in the queue.

        Raises:
            ServiceError: 503, there is none.
        """
        if self.taken >= self._capacity:
            message = (
                f"The service is busy: {self._capacity} requests are in progress. Try again in {RETRY_AFTER} seconds."
            )
            raise ServiceError(503, "busy", message, retry_after=RETRY_AFTER)

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Take a place in the queue for a request that has arrived completely, and give it back.

        Raises:
            ServiceError: 503, there is none.
        """
        self.check()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def answer(self, job: Json) -> Json:
        """The answer of some worker to a job.

        Raises:
            ServiceError: the job has a problem, took too long, or ended two processes.
        """
        message = await asyncio.get_running_loop().run_in_executor(self._threads, self._run, job)
        if "answer" in message:
            answer: Json = message["answer"]
            return answer
        raise ServiceError(*message["refused"])

    def _run(self, job: Json) -> Json:
        worker = self._idle.get()
        try:
            for attempt in (1, 2):
                try:
                    return worker.call(job, self._timeout)
                except EOFError:
                    log.warning("a worker process ended during a request (attempt %d of 2)", attempt)
                except TimeoutError:
                    log.warning("a request took more than %g seconds and was stopped", self._timeout)
                    stopped = f"The prediction took more than {self._timeout:g} seconds and was stopped."
                    raise ServiceError(503, "timeout", f"{stopped} {SMALLER}") from None
            died = "The process that predicts ended twice with this request, perhaps for lack of memory."
            raise ServiceError(503, "worker_died", f"{died} {SMALLER}")
        except RunError as error:
            log.error("a worker process cannot be started again: %s", error)
            message = "The model cannot be loaded at present. Tell whoever runs this service."
            raise ServiceError(503, "no_worker", message) from error
        finally:
            self._idle.put(worker)

    def stop(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
