"""A node at work: it receives, lets studies become complete, answers them, sends the answers, and watches itself.

Each of these is a loop in a thread of its own over the queue, which alone knows what is to be done. A loop that meets
an error states it in the log and under `/ready`, and goes on; a node that is killed goes on at its next start.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from logging.handlers import RotatingFileHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from casewise.console import Show
from casewise.errors import CasewiseError, counted
from casewise.files import make_folder
from casewise.plugins.node.audit_trail import AuditTrail
from casewise.plugins.node.headers import UnanswerableError
from casewise.plugins.node.monitoring.observation import PAGE, PICTURES, salt_of
from casewise.plugins.node.node_log import count_left_out, log
from casewise.plugins.node.queue.records import ANSWERS, QueuedStudy, StudyTask, study_folder, study_label
from casewise.plugins.node.queue.study_queue import StudyQueue
from casewise.plugins.node.receive.inbox import Inbox
from casewise.plugins.node.receive.watched_folder import REFUSED, WatchedFolder
from casewise.plugins.node.send import partners, routes, send_due
from casewise.plugins.node.settings import NodeSettings
from casewise.plugins.node.worker import FailedError, NodePlan, StoppedError, StudyWorker, work
from casewise.version import __version__
from casewise.web.settings import Json, location_of

if TYPE_CHECKING:
    from casewise.plugins.node.receive.dicom import DicomReceiver
    from casewise.plugins.node.receive.web import WebServer
    from casewise.plugins.node.send import Partner

WORK, LOCK, LOGGED = "work", ".node.lock", "node.log"
# Seconds between two looks of a loop that found nothing to do, and for the study at work when the node ends.
PAUSE, GRACE = 0.5, 8.0
# A fault of casewise is not met a third time, and a study with which so many nodes ended needs a person.
MOST_FAULTS, MOST_ENDS = 3, 5
LOG_BYTES, LOG_FILES = 10_000_000, 5


class Node:
    """A node and its threads.

    Args:
        target: the function of the process that predicts.
        clock: gives the time of this computer, for the page of monitoring.

    Raises:
        CasewiseError: another node works in the folder, or the queue, a certificate or a token cannot be used.
    """

    def __init__(
        self,
        settings: NodeSettings,
        target: Callable[[Connection, NodePlan], None] = work,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.settings, self._clock, folder = settings, clock, _make_node_folder(settings.folder)
        self._lock = _locked(folder)
        self.partners = partners(settings)
        self.queue = StudyQueue(folder, routes(self.partners), settings.retry)
        self.trail, self.inbox = AuditTrail(self.queue), Inbox(self.queue, settings.receive.largest_bytes)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        self.worker = StudyWorker(settings, make_folder(folder / WORK), salt_of(folder), target)
        self.description: Json = {}
        self.dicom: DicomReceiver | None = None
        self.web: WebServer | None = None
        self._stopping, self._threads = self.worker.stopping, list[threading.Thread]()
        self._problems: dict[str, str] = {}
        self._claimed: QueuedStudy | None = None
        page = folder / PAGE
        self._monitored = datetime.fromtimestamp(page.stat().st_mtime) if page.exists() else clock()
        self._unwritten = ""

    def start(self) -> None:
        """Load the model, then receive, predict and send, in threads.

        Raises:
            CasewiseError: the model does not suit the settings, or a port cannot be used.
        """
        settings = self.settings
        self.description = self.worker.start()
        self._state_model(str(self.description["checksum"]))
        self.inbox.sweep()
        before = time.time() - settings.keep * 86_400
        for path in self.queue.sweep(settings.folder / ANSWERS):  # a kill came before they were recorded
            if path.stat().st_mtime < before:
                path.unlink()
        if settings.receive.dicom:
            from casewise.plugins.node.receive.dicom import DicomReceiver

            self.dicom = DicomReceiver(settings.receive.dicom, self.inbox)
            self.dicom.start()
        if settings.receive.web:
            from casewise.plugins.node.receive.web import WebServer

            self.web = WebServer(settings.receive.web, self.inbox, self.queue, self.readiness)
            self.web.start()
        if settings.receive.folder:
            with _naming("receive.folder", settings.receive.folder):
                watched = WatchedFolder(settings.receive.folder, self.inbox, self.queue)
            self._loop("receive.folder", lambda: bool(watched.scan()))
        self._loop("complete", self._complete)
        self._loop("predict", self._predict)
        for partner in self.partners:
            self._loop(f"send to {partner.name}", partial(self._send, partner))
        self._loop("audit trail", self._audit, pause=1)
        self._loop("monitor", self._monitor, pause=20)
        self._loop("keep", self._remove, pause=3600)

    def stop(self) -> None:
        """End: the study at work may end within seconds, or remains for the next start."""
        self._stopping.set()
        for receiver in (self.dicom, self.web):
            if receiver:
                receiver.stop()
        for thread in self._threads:
            if thread.name == "predict":
                thread.join(GRACE)
        end = time.monotonic() + GRACE
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < end:
                self.worker.stop()  # again: it may be starting
                thread.join(PAUSE)
        self.worker.stop()
        shutil.rmtree(self.settings.folder / WORK, ignore_errors=True)
        with suppress(CasewiseError):  # of a full disk: the next start writes what is missing
            self.trail.write()
        self.queue.close()
        self._lock.release()

    def readiness(self) -> Mapping[str, str]:
        """By loop the problem that it met last; empty if it met none. Of partners, answers wait in the queue."""
        current = self._problems.copy()  # loops add to it meanwhile
        problems = {name: text for name, text in current.items() if not name.startswith("send to ")}
        return {"receive": self.inbox.problem(), **problems}

    def _loop(self, name: str, step: Callable[[], bool], pause: float = PAUSE) -> None:
        """Repeat a step in a thread: at once after one that did something, and otherwise after a pause."""
        self._problems[name] = ""

        def run() -> None:
            while not self._stopping.is_set():
                try:
                    busy, problem = step(), ""
                except (CasewiseError, OSError) as error:
                    busy, problem = False, str(error)
                except Exception as error:  # noqa: BLE001 (a node must go on; messages may quote data of a patient)
                    busy, problem = False, location_of(error)
                if problem and problem != self._problems[name]:
                    log.error("%s: %s", name, problem)
                self._problems[name] = problem
                if not busy:
                    self._stopping.wait(pause)

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _complete(self) -> bool:
        complete = self.settings.complete
        for uid in self.queue.complete_ready(complete.quiet, complete.instances, time.time()):
            log.info("study %s: complete", study_label(uid))
        return False

    def _predict(self) -> bool:
        """Answer the next study."""
        if self._claimed:  # of a step that failed, such as on a full disk
            self.queue.release(self._claimed)
        self._claimed = study = self.queue.claim(time.time())
        if study is None:
            return False
        begun, files = time.monotonic(), self.queue.files(study.uid)
        try:
            if self._ends(study) >= MOST_ENDS:
                raise UnanswerableError(f"The node ended {MOST_ENDS} times with this study. Is there enough memory?")
            task = StudyTask(study.uid, files, self.settings.folder / ANSWERS / study_folder(study.uid))
            answer = self.worker.answer(task)
        except StoppedError:
            self.queue.release(study)
        except UnanswerableError as error:
            self._quarantine(study, str(error))
        except FailedError as error:
            self._problems["model"] = "" if error.fault else str(error)
            if error.fault and study.attempts + 1 >= MOST_FAULTS:
                self._quarantine(study, str(error))
            else:
                log.warning("study %s: not predicted: %s", study.label, error)
                self.queue.failed(study, str(error))
        else:
            self._problems["model"] = ""
            seconds, refused = time.monotonic() - begun, answer.observation.refused
            for name, reason in answer.unwritten.items():
                log.warning("study %s: answered without %s: %s", study.label, name, reason)
            if self.queue.predicted(
                study,
                answer.answers,
                answer.observation,
                seconds=seconds,
                unwritten=answer.unwritten,
                bundle=str(self.description["checksum"]),
                accession=answer.accession,
            ):
                count, result = len(answer.answers), f"no prediction: {refused}" if refused else "predicted"
                log.info("study %s: %s (%.1f s, %s)", study.label, result, seconds, counted(count, "answer"))
            else:
                log.info("study %s: changed meanwhile; the prediction is dropped", study.label)
        self._claimed = None
        return True

    def _ends(self, study: QueuedStudy) -> int:
        """How many nodes ended while they predicted this study, since something else happened to it."""
        count = 0
        for _, _, event, _ in reversed(self.queue.events(study.uid)):
            if event != "released":
                break
            count += 1
        return count

    def _quarantine(self, study: QueuedStudy, reason: str) -> None:
        if self.queue.quarantine(study, reason):
            log.warning("study %s: in quarantine: %s", study.label, reason)

    def _send(self, partner: Partner) -> bool:
        return bool(send_due(self.queue, partner, time.time()))

    def _audit(self) -> bool:
        self.trail.write()
        count_left_out()
        return False

    def _monitor(self) -> bool:
        """Write the page of monitoring once a day, in a process of its own, whose memory is free again afterwards.

        A node that does not run at the time of day writes it at its next start.
        """
        now, at = self._clock(), self.settings.monitor.at
        due = now.replace(hour=int(at[:2]), minute=int(at[3:]), second=0, microsecond=0)
        if self._monitored >= (due if due <= now else due - timedelta(days=1)):
            if self._unwritten:  # remains the problem until a page is written
                raise CasewiseError(self._unwritten)
            return False
        self._monitored, self._unwritten = now, ""
        process = multiprocessing.get_context("spawn").Process(target=_write_page, args=(self.settings,), daemon=True)
        process.start()
        while process.is_alive() and not self._stopping.wait(1):
            pass
        if process.is_alive():
            process.kill()
        elif process.exitcode:
            self._unwritten = "The page of monitoring could not be written; `casewise monitor` says why."
            raise CasewiseError(self._unwritten)
        return False

    def _remove(self) -> bool:
        """Remove images and answers of studies that were sent long ago, pictures of unlike ones, and refused files."""
        before, folder = time.time() - self.settings.keep * 86_400, self.settings.folder
        for path in [*(folder / PICTURES).glob("*.png"), *(folder / REFUSED).glob("*")]:
            if path.stat().st_mtime < before:
                path.unlink()
        return bool(self.queue.remove_sent(before))

    def _state_model(self, checksum: str) -> None:
        """Record by which bundle studies are predicted from now on."""
        before = self.queue.start(checksum, __version__)
        if before and before != checksum:
            log.warning("the bundle has changed since the node ran last: %s, before %s", checksum[:12], before[:12])


def run_node(settings: NodeSettings, show: Show) -> None:
    """Run a node until the process is told to end (SIGTERM, SIGINT).

    Raises:
        CasewiseError: it cannot be started.
    """
    os.umask(os.umask(0) | 0o027)  # images and answers are not for everybody on this computer
    _make_node_folder(settings.folder)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with _logging(settings.folder / LOGGED):
        node = Node(settings)
        try:
            with show.bar("node") as bar, ThreadPoolExecutor(1) as pool:
                bar(0, 0, "loading the model")
                starting = pool.submit(node.start)
                while wait([starting], PAUSE).not_done:
                    if ended.is_set():
                        node.worker.stop()  # again: it may be starting
            if not ended.is_set():
                starting.result()
                about = node.description
                show.line("model", f"{about['title']}, checksum {about['checksum'][:12]}")
                for line in _receiving(node):
                    show.line("receive", line)
                for remark in settings.remarks():
                    show.line("remark", remark)
                log.info("the node is ready")
                ended.wait()
            show.line("node", "ending")
        finally:
            node.stop()
            count_left_out(ended=True)
            log.info("the node ended")


def _receiving(node: Node) -> Iterator[str]:
    """Where a node receives, in words."""
    settings = node.settings.receive
    if settings.dicom and node.dicom:
        yield f"DICOM at {settings.dicom.host} port {node.dicom.port}, AE title {settings.dicom.ae_title}"
    if settings.web and node.web:
        scheme = "https" if settings.web.tls else "http"
        yield f"STOW-RS at {scheme}://{settings.web.host}:{node.web.port}/studies; /health, /ready and /metrics there"
    if settings.folder:
        yield f"files in {settings.folder}"


@contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Write what the node does into a file of bounded size, without names of patients."""
    with _naming("folder", path):
        handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def _naming(key: str, path: Path) -> Iterator[None]:
    """Report a path that cannot be used as an error that names its key."""
    try:
        yield
    except OSError as error:
        text = f"{key}: {path} cannot be used ({error.strerror or type(error).__name__})."
        raise CasewiseError(f"{text} Check the path and its permissions, or state another.") from error


def _make_node_folder(folder: Path) -> Path:
    """The folder of a node; only its owner may read one that is made.

    Raises:
        CasewiseError: it cannot be made.
    """
    with _naming("folder", folder):
        if not folder.is_dir():
            make_folder(folder).chmod(0o700)
    return folder


def _locked(folder: Path) -> FileLock:
    """The lock of a folder, which ends with the process.

    Raises:
        CasewiseError: another node has it.
    """
    lock = FileLock(folder / LOCK)
    with _naming("folder", folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise CasewiseError(f"Another node works in {folder}. End it, or state another `folder`.") from None
    return lock


def _write_page(settings: NodeSettings) -> None:
    from casewise.plugins.node.monitoring.of_node import monitor_node

    logging.getLogger("casewise").setLevel(logging.ERROR)
    monitor_node(settings)
