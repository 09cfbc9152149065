"""A node at work: it follows Orthanc, answers studies that are complete, delivers the answers, and watches itself.

One loop over the state, which alone knows what is to be done. A step that fails is stated in the log and by `status`,
and repeated; a node that is killed goes on at its next start.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from logging.handlers import RotatingFileHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from casewise.console import Show
from casewise.errors import CasewiseError, counted
from casewise.files import checksum, make_folder, storage_message
from casewise.inference.drift import Drift, RecentCases
from casewise.plugins.node.deliver import deliver_due
from casewise.plugins.node.headers import UnanswerableError
from casewise.plugins.node.monitoring.observation import PAGE, PICTURES, salt_of
from casewise.plugins.node.orthanc import Orthanc, OrthancError, OrthancStudy
from casewise.plugins.node.records import ANSWERS, NodeStudy, StudyAnswer, StudyTask, study_folder, study_label
from casewise.plugins.node.settings import NodeSettings
from casewise.plugins.node.state import FEW_STUDIES, NodeState
from casewise.plugins.node.worker import FailedError, NodePlan, StoppedError, StudyWorker, log, work
from casewise.version import __version__
from casewise.web.settings import location_of

WORK, LOCK, LOGGED = "work", ".node.lock", "node.log"
# Seconds between two looks at all studies in Orthanc, of which events may have been lost; and at what may be removed.
SWEEP, REMOVE = 3600, 3600
# A fault of casewise is not met a third time, and a study with which so many nodes ended needs a person.
MOST_FAULTS, MOST_ENDS = 3, 5
LOG_BYTES, LOG_FILES = 10_000_000, 5


class Node:
    """A node.

    Args:
        target: the function of the process that predicts.
        clock: gives the time of this computer, for the page of monitoring.

    Raises:
        CasewiseError: another node works in the folder, or the state or the credentials cannot be used.
    """

    def __init__(
        self,
        settings: NodeSettings,
        target: Callable[[Connection, NodePlan], None] = work,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.settings, self._clock, folder = settings, clock, _make_node_folder(settings.folder)
        self._lock = _locked(folder)
        self.orthanc, self.state = Orthanc(settings.orthanc), NodeState(folder, settings.retry)
        shutil.rmtree(folder / WORK, ignore_errors=True)
        self.worker = StudyWorker(settings, make_folder(folder / WORK), salt_of(folder), target)
        self.stopping, self.description = self.worker.stopping, dict[str, Any]()
        self.recent = RecentCases()
        self._swept = self._removed = 0.0
        page = folder / PAGE
        self._monitored = datetime.fromtimestamp(page.stat().st_mtime) if page.exists() else clock()
        self._page: Any = None

    def start(self) -> None:
        """Load the model.

        Raises:
            CasewiseError: it does not suit the settings.
        """
        self.description = self.worker.start()
        bundle = str(self.description["checksum"])
        before = self.state.start(bundle, __version__, self.settings.routes())
        self.recent = self.state.recent(bundle, self.settings.monitor.since_seconds)
        self.recent.confirm(self.settings.source_confirmed)
        self.state.record_recent(bundle, self.recent)
        if before and before != bundle:
            log.warning("the bundle has changed since the node ran last: %s, before %s", bundle[:12], before[:12])

    def run(self) -> None:
        """Work until `stopping` is set."""
        while not self.stopping.is_set():
            busy, problems = False, []
            for step in (self._follow, self._answer, self._deliver, self._monitor, self._remove):
                try:
                    busy |= not self.stopping.is_set() and step()
                except (CasewiseError, OSError) as error:
                    problems.append(str(error))
                    self._swept = 0 if isinstance(error, OrthancError) else self._swept
                except Exception as error:  # noqa: BLE001 (a node must go on; messages may quote data of a patient)
                    problems.append(location_of(error))
            self._state_problem(" ".join(dict.fromkeys(problems)))
            if problems or not busy:
                self.stopping.wait(self.settings.orthanc.poll)

    def _state_problem(self, problem: str) -> None:
        try:
            if problem and problem != self.state.problem:
                log.error("%s", problem)
            self.state.record_problem(problem)
        except CasewiseError as error:  # of a full disk
            log.error("%s", error)

    def stop(self) -> None:
        """End; a study that is not answered remains for the next start."""
        self.worker.stop()
        if self._page and self._page.is_alive():
            self._page.kill()
        shutil.rmtree(self.settings.folder / WORK, ignore_errors=True)
        self.state.close()
        self._lock.release()

    # ------------------------------------------------------------------------------------------------------ following

    def _follow(self) -> bool:
        """Record the studies that became stable; at the start, and each hour, all that the state does not have."""
        if time.monotonic() - self._swept > SWEEP or not self._swept:
            self._sweep()
            self._swept = time.monotonic()
        ids, last, done = self.orthanc.stable_since(self.state.last_change)
        for study in ids:
            self._look_at(study)
        if last != self.state.last_change:
            self.state.record_change(last)
        return not done

    def _sweep(self) -> None:
        """Look at each stable study whose last instance is later than the state has it.

        Orthanc announces no study that became complete while it ended, and an Orthanc or a state that was restored
        knows nothing of the other.
        """
        last, own = self.orthanc.last_change(), self.state.updates()
        if not 0 <= self.state.last_change <= last:
            self.state.record_change(last)
        for study, updated in self.orthanc.stable_studies():
            if own.get(study) != updated:
                self._look_at(study)

    def _look_at(self, study: str) -> None:
        since, about = self.settings.orthanc.since, self.orthanc.study(study)
        left = not about or not about.stable or (since and about.updated < since.strftime("%Y%m%d"))
        if about and not left and self.state.arrived(about):
            log.info("study %s: complete, %s", study_label(about.uid), counted(len(about.images), "image"))

    # ------------------------------------------------------------------------------------------------------ answering

    def _answer(self) -> bool:
        """Answer the next study."""
        study = self.state.next(time.time())
        if study is None:
            return False
        self.state.begin(study)
        try:
            self._predict(study)
        except UnanswerableError as error:
            self._quarantine(study, str(error))
        except (StoppedError, OrthancError) as error:
            self.state.postpone(study)
            if isinstance(error, OrthancError) and error.is_away:
                raise
            if isinstance(error, OrthancError):
                self._fail(study, str(error))
        except FailedError as error:
            if error.fault and study.attempts + 1 >= MOST_FAULTS:
                self._quarantine(study, str(error))
            else:
                self._fail(study, str(error))
        except OSError as error:
            self._fail(study, storage_message(error, self.settings.folder / WORK / study.label))
        except CasewiseError:  # of the state, such as on a full disk
            self.state.postpone(study)
            raise
        finally:
            shutil.rmtree(self.settings.folder / WORK / study.label, ignore_errors=True)
        return True

    def _predict(self, study: NodeStudy) -> None:
        if study.begun >= MOST_ENDS:
            raise UnanswerableError(f"The node ended {MOST_ENDS} times with this study. Is there enough memory?")
        begun, about = time.monotonic(), self.orthanc.study(study.id)
        if about is None:
            raise UnanswerableError("Orthanc has removed the study before it was answered. Send it again.")
        if not about.stable or self.state.arrived(about):
            self.state.postpone(study, self.settings.orthanc.poll)
            return
        self._check(about)
        task = self._downloaded(study, about)
        answer = self.worker.answer(task)
        images = sorted(checksum(path) for path in task.files)
        bundle = str(self.description["checksum"])
        if tested := answer.recent:
            drift = Drift(**tested["result"])
            if self.recent.record(tested["new"], tested["source"], drift):
                log.warning("source %s: %s", tested["source"] or FEW_STUDIES, drift.text)
        self.state.answered(study, answer, bundle, self.settings.routes(), self.recent, files=images)
        self._log(study, answer, time.monotonic() - begun)

    def _check(self, about: OrthancStudy) -> None:
        """Refuse a study that nobody can be answered about.

        Raises:
            UnanswerableError: it names several patients, or is too large.
        """
        if self.orthanc.same_uid(about.uid) > 1:
            text = "Orthanc has several studies with this Study Instance UID, so it names several patients."
            raise UnanswerableError(f"{text} Remove the wrong ones from Orthanc.")
        largest = self.settings.orthanc.largest
        if about.size > largest * 2**20:
            raise UnanswerableError(f"It has {about.size / 2**20:,.0f} MiB; orthanc.largest allows {largest:,.0f}.")

    def _downloaded(self, study: NodeStudy, about: OrthancStudy) -> StudyTask:
        """The task of a study, with its images in the folder `work`."""
        folder, digests = make_folder(self.settings.folder / WORK / study.label), list[str]()
        files = [folder / f"{number:06}.dcm" for number, _ in enumerate(about.images, 1)]
        for instance, path in zip(sorted(about.images), files, strict=True):
            self.orthanc.download(instance, path)
            digests.append(checksum(path))
        content = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        return StudyTask(
            about.uid,
            files,
            self.settings.folder / ANSWERS / study_folder(about.uid),
            content,
            study.version,
            self.recent,
        )

    def _log(self, study: NodeStudy, answer: StudyAnswer, seconds: float) -> None:
        for name, reason in answer.unwritten.items():
            log.warning("study %s: answered without %s: %s", study.label, name, reason)
        refused = answer.observation.refused
        result = f"no prediction: {refused}" if refused else "predicted"
        log.info("study %s: %s (%.1f s, %s)", study.label, result, seconds, counted(len(answer.answers), "answer"))

    def _quarantine(self, study: NodeStudy, reason: str) -> None:
        self.state.quarantine(study, reason)
        log.warning("study %s: in quarantine: %s", study.label, reason)

    def _fail(self, study: NodeStudy, reason: str) -> None:
        self.state.failed(study, reason)
        log.warning("study %s: not predicted: %s", study.label, reason)

    def _deliver(self) -> bool:
        return deliver_due(self.state, self.orthanc, self.settings)

    # ------------------------------------------------------------------------------------------------------ each day

    def _monitor(self) -> bool:
        """Write the page of monitoring once a day, in a process of its own, whose memory is free again afterwards.

        A node that does not run at the time of day writes it at its next start.
        """
        now, at = self._clock(), self.settings.monitor.at
        due = now.replace(hour=int(at[:2]), minute=int(at[3:]), second=0, microsecond=0)
        if self._monitored < (due if due <= now else due - timedelta(days=1)):
            self._monitored = now
            self._page = multiprocessing.get_context("spawn").Process(
                target=_write_page, args=(self.settings,), daemon=True
            )
            self._page.start()
        elif self._page and self._page.exitcode:  # it remains the problem until a page is written
            raise CasewiseError("The page of monitoring could not be written; `casewise monitor` says why.")
        return False

    def _remove(self) -> bool:
        """Remove answers that were delivered long ago, and pictures of unlike studies."""
        if self._removed and time.monotonic() - self._removed < REMOVE:
            return False
        self._removed, before = time.monotonic(), time.time() - self.settings.keep * 86_400
        for path in (self.settings.folder / PICTURES).glob("*.png"):
            if path.stat().st_mtime < before:
                path.unlink()
        self.state.remove_answers(before)
        return False


def run_node(settings: NodeSettings, show: Show) -> None:
    """Run a node until the process is told to end (SIGTERM, SIGINT).

    Raises:
        CasewiseError: it cannot be started.
    """
    os.umask(os.umask(0) | 0o027)  # images and answers are not for everybody on this computer
    _make_node_folder(settings.folder)
    with _logging(settings.folder / LOGGED):
        node = Node(settings)

        def end(*_: object) -> None:
            node.worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        try:
            with show.bar("node") as bar:
                bar(0, 0, "loading the model")
                node.start()
            about = node.description
            show.line("model", f"{about['title']}, checksum {about['checksum'][:12]}")
            show.line("orthanc", f"{settings.orthanc.url}; answers go to {', '.join(settings.routes())}")
            for remark in settings.remarks():
                show.line("remark", remark)
            log.info("the node is ready")
            node.run()
        except CasewiseError:
            if not node.stopping.is_set():  # else the model was still loading
                raise
        finally:
            node.stop()
            log.info("the node ended")
        show.line("node", "ended")


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


def works(folder: Path) -> bool:
    """Whether a node works in a folder."""
    if not folder.exists():
        return False
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True


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
