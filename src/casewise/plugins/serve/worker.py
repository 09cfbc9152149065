"""The process that predicts: it loads a model, reads jobs as JSON from a pipe, and answers them one by one."""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from casewise.errors import CasewiseError
from casewise.plugins.serve.settings import ServiceError
from casewise.plugins.serve.submission import Submission

log = logging.getLogger("casewise.plugins.serve")


Task: TypeAlias = Callable[[Submission, Path], dict[str, Any]]


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


def _answered(
    task: Callable[[Submission, Path], dict[str, Any]], submission: Submission, folder: Path
) -> dict[str, Any]:
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


def _send(connection: Connection, message: dict[str, Any]) -> None:
    try:
        connection.send_bytes(json.dumps(message, allow_nan=False).encode())
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the service ended
