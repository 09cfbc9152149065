"""Processes that predict, and a bounded queue before them: the death of one loses no request of another."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import TypeAdapter

from casewise.errors import CasewiseError, RunError
from casewise.inference.worker_process import Worker, WorkerPlan, answer_jobs
from casewise.plugins.serve.settings import ServiceSettings
from casewise.plugins.serve.submission import Submission
from casewise.web.settings import LOG, Json, ServiceError, location_of

log = logging.getLogger(LOG)

SUBMISSIONS = TypeAdapter(Submission)
RETRY_AFTER = 5
SMALLER = "Send fewer or smaller images."


@dataclass(frozen=True)
class ServicePlan(WorkerPlan):
    """Further settings of a worker process: the learner, and the most pixels of one image."""

    learner: str = "headline"
    max_pixels: int = 10**8


def work(connection: Connection, plan: ServicePlan) -> None:
    """Load the model, send its description, and answer jobs until the other end of the pipe is closed."""
    answer_jobs(connection, plan, _session)


def _session(plan: ServicePlan) -> tuple[Json, Callable[[Json], Json]]:
    from casewise.plugins.serve.session import ModelSession

    session = ModelSession(plan.bundle, plan.learner, max_pixels=plan.max_pixels, trust=plan.trust)
    answers = {"predict": session.predict, "explain": session.explain}

    def answer(job: Json) -> Json:
        submission, folder = SUBMISSIONS.validate_python(job["submission"]), Path(job["folder"])
        return answered(answers[job["task"]], submission, folder)

    return session.description, answer


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


class WorkerPool:
    """Some workers, and the requests that wait for them.

    Args:
        plan: of each worker; its folder is the one below which theirs are.
        target: the function of the processes.
    """

    def __init__(
        self, plan: ServicePlan, settings: ServiceSettings, target: Callable[[Connection, ServicePlan], None] = work
    ) -> None:
        self.workers = [Worker(plan, target) for _ in range(settings.workers)]
        self._timeout, self._capacity = settings.timeout, settings.workers + settings.queue
        self.taken = 0
        self._idle: queue.SimpleQueue[Worker[ServicePlan]] = queue.SimpleQueue()
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
