"""Processes that predict, and a bounded queue before them: the death of one loses no request of another."""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

from pydantic import TypeAdapter

from casewise.errors import CasewiseError, RunError
from casewise.files import parsed_json, read_regular, write_json
from casewise.inference.drift import Drift, RecentCases
from casewise.inference.worker_process import Worker, WorkerPlan, answer_jobs
from casewise.plugins.serve.settings import ServiceSettings
from casewise.plugins.serve.submission import Submission
from casewise.web.settings import LOG, MEBI, Json, ServiceError, location_of

log = logging.getLogger(LOG)

SUBMISSIONS = TypeAdapter(Submission)
RETRY_AFTER = 5
SMALLER = "Send fewer or smaller images."
# Bytes of a record of recent images that are read at most.
LARGEST_RECORD = 64 * MEBI


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
        session.recent = RecentCases(**job.get("recent", {}))
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

    Attributes:
        taken: the places in the queue that are taken.
        recent: the cases that were answered, by which another source than that of the training is noticed.
    """

    def __init__(
        self, plan: ServicePlan, settings: ServiceSettings, target: Callable[[Connection, ServicePlan], None] = work
    ) -> None:
        self.workers = [Worker(plan, target) for _ in range(settings.workers)]
        self._timeout, self._capacity = settings.timeout, settings.workers + settings.queue
        self._settings, self.taken = settings, 0
        self.recent, self._recording = RecentCases(), Lock()
        self._idle: queue.SimpleQueue[Worker[ServicePlan]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="worker")

    def start(self) -> Json:
        """Start all processes; the description of the model.

        Raises:
            CasewiseError: the model cannot be loaded, the record of recent images cannot be used, or the confirmation
                lacks a name or a reason.
        """
        for worker in self.workers:
            worker.start()
            self._idle.put(worker)
        description = self.workers[0].description
        self._checksum = str(description.get("checksum", ""))
        self._read_record()
        self.recent.confirm(self._settings.source_confirmed)
        self._write_record()
        return description

    @property
    def source(self) -> Json:
        """Whether the recent images are like the training images, for clients."""
        recent = self.recent
        warning = recent.warnings.get("")
        drift = Drift(**warning["drift"]) if warning else Drift(cases=len(recent.cases))
        return replace(drift, confirmed=recent.confirmation_of("")).facts | self._warned

    @property
    def _warned(self) -> Json:
        """Since when the warning stands, and how many answers before it had confidence; empty without a warning."""
        warning = self.recent.warnings.get("")
        return {"since": warning["at"], "before": len(warning["before"])} if warning else {}

    def _read_record(self) -> None:
        path = self._settings.record
        if path is None or not path.exists():
            return
        try:
            values = dict(parsed_json(read_regular(path, LARGEST_RECORD)))
            if values.pop("bundle") == self._checksum:
                self.recent = RecentCases(**values)
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise RunError(f"--record: {path} is not a record of `casewise serve` ({error}).") from error

    def _write_record(self) -> None:
        if path := self._settings.record:
            write_json(path, {"bundle": self._checksum, **asdict(self.recent)}).chmod(0o600)

    def _record(self, answer: Json) -> None:
        """Add the cases of an answer to the recent ones, before another worker reads them."""
        tested = answer.pop("recent", None)
        if tested is None:
            return
        with self._recording:
            if self.recent.record(tested["new"], tested["source"], Drift(**tested["result"])):
                log.warning("%s", tested["result"]["text"])
            if answer["source"]["warning"]:
                answer["source"] |= self._warned
            try:
                self._write_record()
            except CasewiseError as error:  # such as of a full disk; what is in memory still counts
                log.error("%s", error)

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
                    reply = worker.call(job | {"recent": asdict(self.recent)}, self._timeout)
                    self._record(reply.get("answer", {}))
                    return reply
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
