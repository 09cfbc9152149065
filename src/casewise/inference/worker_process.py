"""A process that keeps a model in memory and answers jobs one by one; its death ends nothing else."""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from casewise.errors import CasewiseError, RunError
from casewise.web.settings import Json

# Seconds until a worker must have loaded its model.
LOADING = 600.0


@dataclass(frozen=True)
class WorkerPlan:
    """What a worker process needs: the model, the folder for its temporary files, and the number of its threads."""

    bundle: Path
    folder: Path
    threads: int
    trust: Path | None = None


Plan = TypeVar("Plan", bound=WorkerPlan)


def answer_jobs(
    connection: Connection, plan: Plan, load: Callable[[Plan], tuple[Json, Callable[[Json], Json]]]
) -> None:
    """The life of a worker process: load the model, send its description, answer jobs until the pipe is closed.

    Args:
        load: gives the description, and what answers a job; its imports may be slow.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin take the time of other processes
    os.environ["LOKY_MAX_CPU_COUNT"] = str(plan.threads)  # photographs are decoded by no more threads than this
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service ends its workers
    logging.getLogger("casewise").setLevel(logging.ERROR)  # warnings of readers quote what files contain
    warnings.simplefilter("ignore")
    tempfile.tempdir = str(plan.folder)
    from casewise.models.threads import on_threads

    with on_threads(plan.threads):
        try:
            description, answer = load(plan)
        except CasewiseError as error:
            _send(connection, {"failed": str(error)})
            return
        _send(connection, {"ready": description})
        gc.freeze()  # what is looked through below is then only what a job made
        while True:
            try:
                job = json.loads(connection.recv_bytes())
            except EOFError:
                return
            message = answer(job)
            gc.collect()  # prepared images are released with the answer, also where an error keeps them in a circle
            _send(connection, message)


def _send(connection: Connection, message: Json) -> None:
    try:
        connection.send_bytes(json.dumps(message, allow_nan=False).encode())
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the service ended


class Worker(Generic[Plan]):
    """A process that answers jobs one by one; a dead one is started again with the next job."""

    def __init__(self, plan: Plan, target: Callable[[Connection, Plan], None]) -> None:
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

    def kill(self) -> None:
        """End the process from another thread: a call that waits for it ends with EOFError."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """End the process and remove its temporary files."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
