"""The process that answers studies, one at a time, with the model in memory; its death loses no study."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import joblib

from casewise.errors import CasewiseError, RunError
from casewise.inference.worker_process import Worker, WorkerPlan, answer_jobs
from casewise.plugins.node.headers import UnanswerableError
from casewise.plugins.node.monitoring.observation import PICTURES, Observation
from casewise.plugins.node.records import Answer, StudyAnswer, StudyTask
from casewise.plugins.node.settings import NodeSettings
from casewise.web.settings import Json

log = logging.getLogger("casewise.node")


class FailedError(CasewiseError):
    """A study could not be answered now; another attempt may succeed.

    Attributes:
        fault: whether it is a fault of casewise, which may well be repeated.
    """

    def __init__(self, message: str, *, fault: bool = False) -> None:
        super().__init__(message)
        self.fault = fault


class StoppedError(CasewiseError):
    """The node ended while it predicted; the study remains as it was."""


@dataclass(frozen=True)
class NodePlan(WorkerPlan):
    """What the process of a node needs: its settings, and the secret with which identifiers of patients are hashed."""

    settings: NodeSettings | None = None
    salt: str = ""


def work(connection: Connection, plan: NodePlan) -> None:
    """Load the model, and answer studies until the other end of the pipe is closed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may reach all processes of a service; the node ends this one
    answer_jobs(connection, plan, _predictor)


def _predictor(plan: NodePlan) -> tuple[Json, Callable[[Json], Json]]:
    from casewise.inference.model import load_bundle
    from casewise.plugins.node.predictor import StudyPredictor

    assert plan.settings is not None
    model, pictures = load_bundle(plan.bundle, trust=plan.trust), plan.settings.folder / PICTURES
    predictor = StudyPredictor(model, plan.settings, plan.salt, pictures)
    return predictor.description, predictor.reply


class StudyWorker:
    """The process, from outside.

    Args:
        folder: for its temporary files.
        target: the function of the process.

    Attributes:
        stopping: whether the node ends, so that a process that ends is not started again.
    """

    def __init__(
        self, settings: NodeSettings, folder: Path, salt: str, target: Callable[[Connection, NodePlan], None] = work
    ) -> None:
        threads = settings.answer.threads or int(joblib.cpu_count())
        plan = NodePlan(settings.bundle, folder, threads, settings.trust, settings, salt)
        self._worker, self._timeout = Worker(plan, target), settings.answer.timeout
        self.stopping = threading.Event()

    def start(self) -> Json:
        """Start the process; the title and the checksum of the model.

        Raises:
            RunError: the model cannot be loaded, or does not suit the settings.
        """
        self._worker.start()
        return self._worker.description

    def answer(self, task: StudyTask) -> StudyAnswer:
        """The answer to a study; a process that dies is started again, once for a study.

        Raises:
            UnanswerableError: a person must decide.
            FailedError: another attempt may succeed.
            StoppedError: the node ends.
        """
        job: Json = {"uid": task.uid, "files": [str(path) for path in task.files], "folder": str(task.folder)}
        job |= {"content": task.content, "version": task.version, "recent": asdict(task.recent)}
        for _ in range(2):
            try:
                if self.stopping.is_set():
                    raise EOFError
                message = self._worker.call(job, self._timeout)
                break
            except (EOFError, TimeoutError, RunError) as error:
                if self.stopping.is_set():
                    raise StoppedError("The node ends.") from None
                if isinstance(error, RunError):
                    raise FailedError(f"The process that predicts cannot be started: {error}") from error
                slow = f"took more than {self._timeout:g} seconds" if isinstance(error, TimeoutError) else "ended"
                log.warning("the process that predicts %s; it is started again", slow)
        else:
            raise UnanswerableError(f"The process that predicts {slow} twice with this study. Is there enough memory?")
        if "unanswerable" in message:
            raise UnanswerableError(message["unanswerable"])
        if "failed" in message:
            raise FailedError(message["failed"], fault=message["fault"])
        answers = tuple(Answer(name, style, Path(path), sha256) for name, style, path, sha256 in message["answers"])
        observation = Observation.from_json(message["observation"])
        return StudyAnswer(answers, observation, message["accession"], message["unwritten"], message.get("recent", {}))

    def stop(self) -> None:
        """End the process at once; a call of `answer` in another thread ends with StoppedError."""
        self.stopping.set()
        self._worker.kill()
