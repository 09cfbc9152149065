"""Worker processes with a bounded queue: the death of one loses no request of another."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import queue
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from casewise.errors import RunError
from casewise.plugins.serve.counters import Counters
from casewise.plugins.serve.settings import ServiceError
from casewise.plugins.serve.worker import WorkerPlan, work

log = logging.getLogger("casewise.plugins.serve")

# Seconds until a worker must have loaded its model.
LOADING = 600.0
RETRY_AFTER = 5


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
        self.description: dict[str, Any] = {}

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

    def call(self, job: dict[str, Any], timeout: float) -> dict[str, Any]:
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

    def _received(self, timeout: float) -> dict[str, Any]:
        assert self._pipe is not None
        ready = wait([self._pipe, self._process.sentinel], timeout)
        if not ready:
            raise WorkerSlowError
        if self._pipe not in ready:
            raise WorkerDiedError
        try:
            message: dict[str, Any] = json.loads(self._pipe.recv_bytes())
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

    def start(self) -> dict[str, Any]:
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

    async def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer of some worker to a job.

        Raises:
            ServiceError: the job has a problem, took too long, or ended two processes.
        """
        message = await asyncio.get_running_loop().run_in_executor(self._threads, self._run, job)
        if "answer" in message:
            answer: dict[str, Any] = message["answer"]
            return answer
        raise ServiceError(message["status"], message["code"], message["message"], message["files"])

    def _run(self, job: dict[str, Any]) -> dict[str, Any]:
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


def _problem(code: str, message: str) -> dict[str, Any]:
    return {"status": 503, "code": code, "message": message, "files": []}
