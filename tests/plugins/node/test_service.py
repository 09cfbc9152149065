"""A node at work: studies arrive in a folder, and every one ends in an answer or in quarantine, whatever is killed."""

import io
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from casewise.console import Silent
from casewise.errors import CasewiseError
from casewise.files import TEMPORARY
from casewise.plugins.node import service
from casewise.plugins.node.audit_trail import AuditTrail
from casewise.plugins.node.monitoring.observation import salt_of
from casewise.plugins.node.queue.records import study_folder
from casewise.plugins.node.queue.study_queue import StudyQueue, StudyState, study_label
from casewise.plugins.node.service import Node, run_node
from casewise.plugins.node.settings import NodeSettings, read_settings
from casewise.run import Run
from tests.film_files import PEOPLE
from tests.plugins.node.dicom_objects import certificate, client_context
from tests.plugins.node.films import RULE, node_settings, studies
from tests.plugins.node.toy import dies_of_sigterm, loads_for_ever, toy

pydicom = pytest.importorskip("pydicom", reason="the extra `node` is not installed")
pytest.importorskip("highdicom", reason="the extra `node` is not installed")
pytestmark = pytest.mark.plugins("hospital")
PATIENCE = 240.0


@contextmanager
def running(settings: NodeSettings, **options: Any) -> Iterator[Node]:
    node = Node(settings, **options)
    try:
        node.start()
        yield node
    finally:
        node.stop()


def wait(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def put(folder: Path, films: list[bytes], name: str) -> None:
    """Put a study into a folder, each file under its name when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(films):
        (folder / f".{name}").write_bytes(content)
        (folder / f".{name}").rename(folder / f"{name}-{number}.dcm")


def ended(queue: StudyQueue, count: int) -> bool:
    counts = queue.counts()
    return counts[StudyState.SENT] + counts[StudyState.QUARANTINED] == count == sum(counts.values())


def answered(folder: Path) -> dict[str, Any]:
    """The reports in the outgoing folder by the study that they are about."""
    reports = [pydicom.dcmread(path) for path in folder.rglob("*.dcm")]
    by_study = {str(report.StudyInstanceUID): report for report in reports}
    assert len(by_study) == len(reports)
    return by_study


def trail_of(settings: NodeSettings) -> list[dict[str, Any]]:
    """The lines of the audit trail, which are the events of the queue."""
    queue = StudyQueue(settings.folder)
    trail = AuditTrail(queue)
    lines = [json.loads(line) for line in trail.path.read_text().splitlines()]
    assert trail.verify() == []
    assert len(lines) == len(queue.events())
    queue.close()
    return lines


def check_answers(folder: Path, count: int, unfit: list[int]) -> None:
    """Check that each study has an answer about its patient, and that those of `unfit` state why there is none."""
    reports = answered(folder / "outgoing")
    assert set(reports) == {f"1.2.826.{number}" for number in range(1, count + 1)}
    for uid, report in reports.items():
        number = int(uid.rpartition(".")[2])
        assert report.PatientID == f"P{number}"
        assert ("No image of the study suits" in report.to_json()) is (number in unfit)


class Processes:
    """In place of processes that write the page of monitoring."""

    def __init__(self, page: Path) -> None:
        self.page, self.count, self.exitcode = page, 0, 0

    def Process(self, **_: Any) -> "Processes":  # noqa: N802
        return self

    def start(self) -> None:
        self.count += 1
        self.page.touch()

    def is_alive(self) -> bool:
        return False


class TestWithAToy:
    """Without a model."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> NodeSettings:
        return node_settings(tmp_path, tmp_path / "bundle", send=[], answer={"timeout": 5})

    def test_states_of_a_study(self, settings: NodeSettings) -> None:
        with running(settings, target=toy) as node:
            names = {"well": StudyState.SENT, "person": StudyState.QUARANTINED, "fault": StudyState.QUARANTINED}
            names |= {"die": StudyState.QUARANTINED, "die once": StudyState.SENT}
            for name in names:
                node.queue.add_instance(name, "s", f"{name}.1", node.queue.folder / "a.dcm", "ab", "test")
            wait(lambda: ended(node.queue, len(names)))
            assert {study.uid: study.state for study in node.queue.studies()} == names
            assert not any(node.readiness().values())
        trail = trail_of(settings)
        assert (trail[0]["event"], trail[0]["bundle"]) == ("started", "abc")
        for event, uids in (("predicted", ("well", "die once")), ("quarantined", ("person", "fault", "die"))):
            assert {line["study"] for line in trail if line["event"] == event} == {*map(study_label, uids)}
        assert {line["bundle"] for line in trail if line["event"] == "predicted"} == {"abc"}

    def test_one_node_works_in_a_folder(self, settings: NodeSettings) -> None:
        with running(settings, target=toy), pytest.raises(CasewiseError, match="Another node"):
            Node(settings, target=toy)
        with running(settings, target=toy):
            pass

    def test_a_study_at_work_remains_for_the_next_start(
        self, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "GRACE", 0.2)
        with running(settings, target=toy) as node:
            node.queue.add_instance("hang", "s", "1", node.queue.folder / "a.dcm", "ab", "test")
            wait(lambda: (settings.folder / "work" / "hangs").exists())
        queue = StudyQueue(settings.folder)
        (study,) = queue.studies()
        assert (study.state, study.lease, study.attempts) == (StudyState.COMPLETE, "", 0)
        assert queue.events("hang")[-1][2] != "released"
        queue.close()

    def test_a_study_with_which_nodes_end_needs_a_person(
        self, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = StudyQueue(settings.folder)
        queue.add_instance("well", "s", "1", queue.folder / "a.dcm", "ab", "test")
        queue.complete_ready(0, 1, time.time())
        for _ in range(service.MOST_ENDS):
            queue.claim(time.time())
            queue.start("abc", "1")
        queue.close()
        with running(settings, target=toy) as node:
            wait(lambda: ended(node.queue, 1))
            assert node.queue.studies()[0].state == StudyState.QUARANTINED
            node.queue.retry("well")
            wait(lambda: node.queue.studies()[0].state == StudyState.SENT)

    def test_a_changed_bundle_is_stated(self, settings: NodeSettings) -> None:
        for count, before in enumerate(("", "abc", "abc"), 1):
            with running(settings, target=toy):
                pass
            started = [line for line in trail_of(settings) if line["event"] == "started"]
            assert (len(started), started[-1]["bundle"], started[-1]["bundle_before"]) == (count, "abc", before)

    def test_processes_that_are_ended_with_the_node(self, settings: NodeSettings) -> None:
        with running(settings, target=dies_of_sigterm) as node:
            node.queue.add_instance("hang", "s", "1", node.queue.folder / "a.dcm", "ab", "test")
            wait(lambda: (settings.folder / "work" / "hangs").exists())
            os.kill(node.worker._worker._process.pid, signal.SIGTERM)
        queue = StudyQueue(settings.folder)
        (study,) = queue.studies()
        assert (study.state, study.lease, study.attempts) == (StudyState.COMPLETE, "", 0)
        queue.close()

    def test_a_node_ends_while_its_model_loads(self, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        mark = settings.folder / "work" / "loads"

        def end() -> None:
            wait(mark.exists)
            os.kill(os.getpid(), signal.SIGTERM)

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        monkeypatch.setattr(service, "Node", partial(Node, target=loads_for_ever))
        thread = threading.Thread(target=end)
        thread.start()
        try:
            run_node(settings, Silent())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        thread.join()
        with running(settings, target=toy) as node:  # its lock is free
            assert node.description["title"] == "toy"

    def test_folders_that_cannot_be_used_are_named(self, settings: NodeSettings, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "node"):
            with pytest.raises(CasewiseError, match="folder"):
                run_node(settings.model_copy(update={"folder": folder}), Silent())
        (settings.folder / "node.log").mkdir(parents=True)
        with pytest.raises(CasewiseError, match=r"folder.*node\.log"):
            run_node(settings, Silent())
        (tmp_path / "incoming").write_text("")
        with pytest.raises(CasewiseError, match=r"receive\.folder"), running(settings, target=toy):
            pass

    def test_the_folder_is_private(self, settings: NodeSettings) -> None:
        with running(settings, target=toy):
            assert settings.folder.stat().st_mode & 0o77 == 0

    def test_old_refused_files_are_removed(self, settings: NodeSettings) -> None:
        refused = settings.folder / "refused"
        with running(settings, target=toy) as node:
            refused.mkdir()
            for name, days in (("new", 1), ("old", settings.keep + 1)):
                (refused / name).touch()
                os.utime(refused / name, (time.time() - days * 86_400,) * 2)
            node._remove()
        assert [path.name for path in refused.iterdir()] == ["new"]

    def test_files_of_no_study_outlive_a_start(self, settings: NodeSettings) -> None:
        files = [settings.folder / name / "a" / "b.dcm" for name in ("received", "answers")]
        for path in files:
            path.parent.mkdir(parents=True)
            path.touch()
        with pytest.raises(CasewiseError, match="backup"):
            Node(settings, target=toy)
        assert all(path.exists() for path in files)
        for path in files:
            path.rename(path.with_name(f"{TEMPORARY}b"))
        StudyQueue(settings.folder).close()
        for path in files:
            path.touch()
        with running(settings, target=toy):
            assert all(path.exists() for path in files)
            assert not any(path.with_name(f"{TEMPORARY}b").exists() for path in files)

    def test_an_error_of_a_loop_is_stated_and_ends(
        self, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim = StudyQueue.claim
        full = iter([True] * 3)

        def sometimes(queue: StudyQueue, *values: Any) -> Any:
            if next(full, False):
                raise CasewiseError("The disk is full.")
            return claim(queue, *values)

        monkeypatch.setattr(StudyQueue, "claim", sometimes)
        with running(settings, target=toy) as node:
            node.queue.add_instance("well", "s", "1", node.queue.folder / "a.dcm", "ab", "test")
            wait(lambda: node.readiness()["predict"] != "")
            wait(lambda: ended(node.queue, 1) and node.readiness()["predict"] == "")
            assert [each.state for each in node.queue.studies()] == [StudyState.SENT]

    def test_the_page_of_monitoring_is_written_at_its_time_of_day(
        self, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        processes, page = Processes(settings.folder / "monitoring.html"), settings.folder / "monitoring.html"
        monkeypatch.setattr(service.multiprocessing, "get_context", lambda _: processes)
        now = [datetime(2026, 3, 1, 1, 0)]
        node = Node(settings, target=toy, clock=lambda: now[0])
        for text, count in (
            ("2026-03-01 01:59", 0),
            ("2026-03-01 02:00", 1),
            ("2026-03-01 23:59", 1),
            ("2026-03-02 01:59", 1),
            ("2026-03-03 14:00", 2),
            ("2026-03-04 03:00", 3),
        ):
            now[0] = datetime.fromisoformat(text)
            node._monitor()
            assert processes.count == count
        processes.exitcode, now[0] = 1, datetime(2026, 3, 5, 3, 0)
        with pytest.raises(CasewiseError):
            node._monitor()
        node.stop()
        for text, count in (("2026-03-05 02:30", 5), ("2026-03-05 01:30", 4)):  # the page is of 2 a.m. the day before
            os.utime(page, (datetime(2026, 3, 4, 3, 0).timestamp(),) * 2)
            now[0], processes.count, processes.exitcode = datetime.fromisoformat(text), 4, 0
            node = Node(settings, target=toy, clock=lambda: now[0])
            node._monitor()
            node.stop()
            assert processes.count == count

    def test_the_salt_stays(self, tmp_path: Path) -> None:
        assert salt_of(tmp_path) == salt_of(tmp_path)
        assert len(salt_of(tmp_path)) == 64
        assert (tmp_path / ".salt").stat().st_mode & 0o77 == 0


def test_studies_are_answered(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    unfit = [2, 4, 6]
    settings = node_settings(tmp_path, chest_run.folder / "bundle")
    with running(settings) as node:
        for uid, films in studies(chests, 7, unfit):
            put(tmp_path / "incoming", films, uid)
        wait(lambda: ended(node.queue, 7))
        observations = dict(node.queue.observations())
    check_answers(tmp_path, 7, unfit)
    refused = {study_label(f"1.2.826.{number}") for number in unfit}
    assert {name for name, each in observations.items() if each.refused} == refused
    assert len(observations) == 7
    events = [line["event"] for line in trail_of(settings)]
    assert (events.count("predicted"), events.count("delivered")) == (7, 7)
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert not any(person in name for person in ("P1", *PEOPLE) for name in names)
    assert study_folder("1.2.826.1") in "".join(names)


def test_a_study_on_an_encrypted_way(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    pynetdicom = pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")
    authority = certificate(tmp_path, "authority")[0]
    certificates = {name: certificate(tmp_path, name, "authority") for name in ("node", "pacs")}
    tls = {"certificate": certificates["node"][0], "key": certificates["node"][1], "ca": authority}
    received: list[Any] = []

    def store(event: Any) -> int:
        received.append(event.dataset)
        return 0

    pacs = pynetdicom.AE(ae_title="PACS")
    pacs.supported_contexts = pynetdicom.StoragePresentationContexts
    pacs_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
    pacs_context.load_cert_chain(*certificates["pacs"])
    pacs_context.verify_mode = ssl.CERT_REQUIRED
    handlers = [(pynetdicom.evt.EVT_C_STORE, store)]
    server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=pacs_context)
    partner = {"host": "127.0.0.1", "port": server.server_address[1], "ae_title": "PACS", "tls": tls}
    receive = {"dicom": {"port": 0, "allowed": ["PACS"], "tls": tls}}
    settings = node_settings(
        tmp_path, chest_run.folder / "bundle", receive=receive, send=[{"dicom": partner}], complete={"instances": 1}
    )
    film = pydicom.dcmread(io.BytesIO(next(studies(chests, 1))[1][0]))
    try:
        with running(settings) as node:
            assert node.dicom is not None
            pacs.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
            client = client_context(authority, certificates["pacs"])
            sending = pacs.associate("127.0.0.1", node.dicom.port, ae_title="CASEWISE", tls_args=(client, "127.0.0.1"))
            assert sending.send_c_store(film).Status == 0
            sending.release()
            wait(lambda: ended(node.queue, 1))
            assert node.queue.counts()[StudyState.SENT] == 1
    finally:
        server.shutdown()
    (report,) = received
    assert (report.StudyInstanceUID, report.PatientID, report.Modality) == ("1.2.826.1", "P1", "SR")


@pytest.mark.slow
def test_killed_nodes_lose_nothing_and_answer_nothing_twice(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    count, unfit, rng = 24, [5, 12, 20], random.Random(1)
    values = {"bundle": str(chest_run.folder / "bundle"), "folder": "node", "receive": {"folder": "incoming"}}
    values |= {"select": [RULE], "send": [{"folder": "outgoing"}], "complete": {"quiet": 0.2}}
    values |= {"answer": {"formats": ["sr"], "threads": 1}, "retry": {"first": 0.2, "longest": 1}}
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "casewise.cli.main", "node", "start", str(tmp_path / "node.yaml"), "--quiet"]
    log = tmp_path / "node" / "node.log"
    queue = StudyQueue(tmp_path / "node")
    arriving = list(studies(chests, count, unfit))
    for attempt in range(6):
        lines = log.read_text().count("is ready") if log.exists() else 0
        process = subprocess.Popen(command)
        wait(lambda lines=lines: log.exists() and log.read_text().count("is ready") > lines)
        for uid, films in arriving[attempt * 4 : attempt * 4 + 4]:
            put(tmp_path / "incoming", films, uid)
        if attempt < 5:
            time.sleep(rng.uniform(0.5, 6))
            process.kill()
            process.wait()
    wait(lambda: ended(queue, count))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert queue.counts()[StudyState.SENT] == count
    queue.close()
    check_answers(tmp_path, count, unfit)
    lines = trail_of(read_settings(tmp_path / "node.yaml"))
    delivered = [(line["study"], line["answer"]) for line in lines if line["event"] == "delivered"]
    assert (len(delivered), len(set(delivered))) == (count, count)
    assert not any(person in log.read_text() for person in ("P1", *PEOPLE))


def test_a_killed_process_that_predicts_is_started_again(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    settings = node_settings(tmp_path, chest_run.folder / "bundle")
    with running(settings) as node:
        for number, (uid, films) in enumerate(studies(chests, 4)):
            process = node.worker._worker._process
            if number % 2 and process is not None:
                os.kill(process.pid, signal.SIGKILL)
            put(tmp_path / "incoming", films, uid)
        wait(lambda: ended(node.queue, 4))
    check_answers(tmp_path, 4, [])
