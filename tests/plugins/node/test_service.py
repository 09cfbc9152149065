"""A node beside a real Orthanc: every study ends in one answer or in quarantine, whatever is killed or away."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from casewise.console import Silent
from casewise.errors import CasewiseError
from casewise.plugins.node import service
from casewise.plugins.node.orthanc import Orthanc as Client
from casewise.plugins.node.orthanc import OrthancError
from casewise.plugins.node.records import StudyState, study_label
from casewise.plugins.node.service import Node, run_node
from casewise.plugins.node.settings import NodeSettings
from casewise.plugins.node.state import NAME, NodeState
from casewise.run import Run
from tests.film_files import PEOPLE, film_bytes
from tests.plugins.node.dicom_objects import free_port
from tests.plugins.node.films import node_settings, node_values, studies
from tests.plugins.node.orthanc import Orthanc, running_orthanc
from tests.plugins.node.toy import toy

pydicom = pytest.importorskip("pydicom", reason="the extra `node` is not installed")
pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")
pytestmark = pytest.mark.plugins("hospital")
PATIENCE = 240.0


@contextmanager
def running(settings: NodeSettings, **options: Any) -> Iterator[Node]:
    """A node at work in a thread."""
    node = Node(settings, **({"target": toy} | options))
    node.start()
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        yield node
    finally:
        node.worker.stop()
        thread.join()
        node.stop()


def wait(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def film(patient: str = "P1", study: str = "1.2.826.1", number: int = 1, **tags: Any) -> bytes:
    about = {"StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1", "SOPInstanceUID": f"{study}.1.{number}"}
    with pydicom.config.disable_value_validation():
        return film_bytes(np.full((8, 8), number, np.uint16), PatientID=patient, **(about | tags))


def ended(state: NodeState, count: int) -> bool:
    """Whether so many studies have an end, and every answer is where it should be."""
    counts, pending = state.counts(), [how for _, how in state.delivery_counts() if how == "pending"]
    return counts[StudyState.WAITING] + counts[StudyState.FAILED] == 0 and sum(counts.values()) >= count and not pending


@pytest.fixture
def settings(tmp_path: Path, orthanc: Orthanc) -> NodeSettings:
    return node_settings(tmp_path, tmp_path / "bundle", orthanc, answer={"timeout": 5})


class TestStates:
    def test_what_comes_again_is_answered_once(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        orthanc.store(film())
        with running(settings) as node:
            wait(lambda: ended(node.state, 1))
            orthanc.store(film())
            time.sleep(2.5)
            assert len(node.state.observations()) == 1
        with running(settings) as node:
            time.sleep(1)
            assert len(node.state.observations()) == 1
        (answers,) = orthanc.answers().values()
        assert len(answers) == 1

    def test_half_a_study_then_the_rest(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        orthanc.store(film())
        with running(settings) as node:
            wait(lambda: ended(node.state, 1))
            orthanc.store(film(number=2), film(number=3))
            wait(lambda: len(node.state.observations()) == 2 and ended(node.state, 1))
            (study,) = node.state.studies()
            assert (study.version, study.images, study.state) == (2, 3, StudyState.ANSWERED)
        (answers,) = orthanc.answers().values()
        assert len({each["SOPInstanceUID"] for each in answers}) == 2

    @pytest.mark.parametrize("start", ["state lost", "state empty", "node folder lost"])
    def test_a_state_that_is_lost_answers_again_and_removes_nothing(
        self, settings: NodeSettings, orthanc: Orthanc, start: str
    ) -> None:
        orthanc.store(film(), film("P2", "1.2.826.2"))
        with running(settings) as node:
            wait(lambda: ended(node.state, 2))
        before = set(orthanc.ask("/instances"))
        for path in settings.folder.glob(f"{NAME}*"):
            path.unlink()
        if start == "state empty":
            (settings.folder / NAME).touch()
        if start == "node folder lost":
            settings.folder.rename(settings.folder.with_name("gone"))
        with running(settings) as node:
            wait(lambda: ended(node.state, 2))
            assert node.state.counts()[StudyState.ANSWERED] == 2
        assert set(orthanc.ask("/instances")) == before

    def test_studies_before_a_day_are_left_alone(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        orthanc.store(film())
        later = settings.orthanc.model_copy(update={"since": datetime(2999, 1, 1).date()})
        with running(settings.model_copy(update={"orthanc": later})) as node:
            time.sleep(2.5)
            assert node.state.studies() == []

    def test_a_study_that_is_removed_before_its_answer_is_named(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        orthanc.store(film("hang"))
        (orthanc_id,) = orthanc.ask("/studies")
        with running(settings):
            wait(lambda: (settings.folder / "hangs").exists())
        orthanc.ask(f"/studies/{orthanc_id}", method="DELETE")
        with running(settings) as node:
            wait(lambda: ended(node.state, 1))
            (study,) = node.state.studies()
            assert (study.state, "removed" in study.reason) == (StudyState.QUARANTINED, True)


class TestDelivery:
    def test_a_partner_that_is_away_and_comes_back(self, tmp_path: Path) -> None:
        ports = (free_port(), free_port())
        modalities = {"PACS": ["PACS", "127.0.0.1", ports[0]]}
        with running_orthanc(tmp_path / "own", DicomModalities=modalities) as own:
            send = [{"modality": "PACS"}, {"folder": "outgoing", "formats": ["sr"]}]
            settings = node_settings(tmp_path, tmp_path / "bundle", own, send=send)
            own.store(film(), film("P2", "1.2.826.2"))
            sender = {"DicomModalities": {"CASEWISE": ["CASEWISE", "127.0.0.1", 1]}, "DicomAet": "PACS"}
            with running(settings) as node:
                wait(lambda: node.state.delivery_counts().get(("modality PACS", "pending")) == 2)
                wait(lambda: any(each["event"] == "not delivered" for each in node.state.events()))
                with running_orthanc(tmp_path / "pacs", ports, **sender) as pacs:
                    wait(lambda: ended(node.state, 2))
                    assert {uid: len(own) for uid, own in pacs.answers().items()} == {"1.2.826.1": 1, "1.2.826.2": 1}
        assert len(list((tmp_path / "outgoing").glob("*/sr.dcm"))) == 2

    def test_orthanc_is_away_and_comes_back(self, tmp_path: Path) -> None:
        ports = (free_port(), free_port())
        settings = node_settings(tmp_path, tmp_path / "bundle", Orthanc(*ports))
        with running(settings) as node:
            wait(lambda: node.state.problem != "")
            with running_orthanc(tmp_path / "own", ports) as own:
                own.store(film())
                wait(lambda: ended(node.state, 1) and node.state.problem == "")
            wait(lambda: node.state.problem != "")
            with running_orthanc(tmp_path / "own", ports) as own:
                own.store(film("P2", "1.2.826.2"))
            # it ended before the study was stable, so that it never announces it
            with running_orthanc(tmp_path / "own", ports) as own:
                wait(lambda: ended(node.state, 2))
                assert {uid: len(answers) for uid, answers in own.answers().items()} == {
                    "1.2.826.1": 1,
                    "1.2.826.2": 1,
                }

    def test_an_answer_whose_acknowledgement_is_lost_is_stored_once(
        self, settings: NodeSettings, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, lost = Client.store, iter([True] * 2)

        def sometimes(client: Client, path: Path) -> str:
            instance = store(client, path)
            if next(lost, False):
                raise OrthancError("The connection ended.")
            return instance

        monkeypatch.setattr(Client, "store", sometimes)
        orthanc.store(film())
        with running(settings) as node:
            wait(lambda: ended(node.state, 1))
            assert [each["event"] for each in node.state.events()].count("delivered") == 1
        (answers,) = orthanc.answers().values()
        assert len(answers) == 1

    def test_a_wrong_password_is_a_problem_of_the_node(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        assert settings.orthanc.credentials is not None
        settings.orthanc.credentials.write_text("casewise:wrong-password")
        orthanc.store(film())
        with running(settings) as node:
            wait(lambda: "credentials" in node.state.problem)
            assert node.state.studies() == []


class TestDisk:
    def test_a_disk_that_is_full_while_answers_are_recorded(
        self, settings: NodeSettings, orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered, full = NodeState.answered, iter([True] * 3)

        def sometimes(state: NodeState, *values: Any, **facts: Any) -> None:
            if next(full, False):
                raise CasewiseError("The disk is full.")
            answered(state, *values, **facts)

        monkeypatch.setattr(NodeState, "answered", sometimes)
        orthanc.store(film())
        with running(settings) as node:
            wait(lambda: ended(node.state, 1))
            assert node.state.counts()[StudyState.ANSWERED] == 1
        (answers,) = orthanc.answers().values()
        assert len(answers) == 1


class TestProcess:
    def test_one_node_works_in_a_folder(self, settings: NodeSettings) -> None:
        with running(settings), pytest.raises(CasewiseError, match="Another node"):
            Node(settings, target=toy)
        with running(settings):
            pass

    def test_a_study_at_work_remains_for_the_next_start(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        orthanc.store(film("hang"))
        with running(settings):
            wait(lambda: (settings.folder / "hangs").exists())
        state = NodeState(settings.folder)
        (study,) = state.studies()
        assert (study.state, study.attempts, study.begun) == (StudyState.WAITING, 0, 0)
        state.close()

    def test_a_study_with_which_nodes_end_needs_a_person(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        orthanc.store(film("hang"))
        with running(settings):
            wait(lambda: (settings.folder / "hangs").exists())
        state = NodeState(settings.folder)
        for _ in range(service.MOST_ENDS):
            state.begin(state.studies()[0])
        state.close()
        with running(settings) as node:
            wait(lambda: ended(node.state, 1))
            assert node.state.studies()[0].state == StudyState.QUARANTINED

    def test_folders_that_cannot_be_used_are_named(self, settings: NodeSettings, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "node"):
            with pytest.raises(CasewiseError, match="folder"):
                run_node(settings.model_copy(update={"folder": folder}), Silent())

    def test_the_folder_of_casewise_1_0_is_refused(self, settings: NodeSettings) -> None:
        settings.folder.mkdir()
        (settings.folder / "queue.sqlite").write_bytes(b"x")
        with pytest.raises(CasewiseError, match=r"1\.0"):
            Node(settings, target=toy)
        assert (settings.folder / "queue.sqlite").exists()

    def test_the_folder_is_private(self, settings: NodeSettings) -> None:
        with running(settings):
            assert settings.folder.stat().st_mode & 0o77 == 0

    def test_old_answers_are_removed(self, settings: NodeSettings, orthanc: Orthanc) -> None:
        orthanc.store(film())
        with running(settings) as node:
            wait(lambda: ended(node.state, 1))
            assert node.state.remove_answers(time.time() - 60) == 0
            assert node.state.remove_answers(time.time() + 60) == 1
            node.state.retry("1.2.826.1", settings.routes())
            wait(lambda: len(node.state.observations()) == 2 and ended(node.state, 1))

    def test_the_page_of_monitoring_is_written_at_its_time_of_day(self, settings: NodeSettings) -> None:
        now = [datetime(2026, 3, 1, 1, 0)]
        node = Node(settings, target=toy, clock=lambda: now[0])
        for text, begins in (("01 01:59", False), ("01 02:00", True), ("03 14:00", True)):
            now[0] = datetime.strptime(f"2026-03-{text}", "%Y-%m-%d %H:%M")
            before = node._page
            node._monitor()
            assert (node._page is not before) is begins
        node._page.join()
        now[0] = datetime(2026, 3, 3, 23, 59)
        with pytest.raises(CasewiseError, match="monitor"):  # there is no bundle
            node._monitor()
        node.stop()


def start(file: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *words, str(file)])


def killed(
    tmp_path: Path,
    orthanc: Orthanc,
    values: dict[str, Any],
    arriving: Sequence[Sequence[bytes]],
    kills: int,
    *words: str,
) -> NodeState:
    """The state after studies arrived while the node was killed so often; it is answered in the end."""
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(values))
    log, state, size = tmp_path / "node" / "node.log", NodeState(tmp_path / "node"), -(-len(arriving) // (kills + 1))
    for attempt in range(kills + 1):
        lines = log.read_text().count("is ready") if log.exists() else 0
        process = start(tmp_path / "node.yaml", *words)
        wait(lambda lines=lines: log.exists() and log.read_text().count("is ready") > lines)
        for films in arriving[attempt * size : (attempt + 1) * size]:
            orthanc.store(*films)
        if attempt < kills:  # somewhere in its work
            events = len(state.events()) + 2 + 5 * (attempt % 3)
            wait(lambda events=events: len(state.events()) >= events)
            process.kill()
            process.wait()
    wait(lambda: ended(state, len(arriving)), 1200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not any(person in log.read_text() for person in ("P1", *PEOPLE))
    return state


def test_killed_nodes_lose_nothing_and_answer_nothing_twice(tmp_path: Path, orthanc: Orthanc) -> None:
    arriving = [[film(f"P{number}", f"1.2.826.{number}")] for number in range(1, 25)]
    words = ("tests.plugins.node.toy",)
    state = killed(tmp_path, orthanc, node_values(orthanc, tmp_path / "bundle", tmp_path), arriving, 3, *words)
    assert {uid: len(answers) for uid, answers in orthanc.answers().items()} == {
        f"1.2.826.{n}": 1 for n in range(1, 25)
    }
    assert (state.counts()[StudyState.ANSWERED], state.check_trail()[0]) == (24, [])
    state.close()


def test_studies_are_answered(chest_run: Run, chests: Path, tmp_path: Path, orthanc: Orthanc) -> None:
    """Also one that names two patients, one whose identifier looks like a path, and some that no answer can repeat."""
    hostile = {f"1.2.6.{number}": name for number, name in enumerate(["A\\B\\C", "P" * 65, "P\n7", "", "\x1b[31m"])}
    send = [{"folder": "outgoing", "formats": ["fhir-r4"]}]
    answer = {"formats": ["sr", "summary-sc", "fhir-r4"], "threads": 1}
    settings = node_settings(tmp_path, chest_run.folder / "bundle", orthanc, send=send, answer=answer)
    unfit = [2, 4]
    for _, films in studies(chests, 5, unfit):
        orthanc.store(*films)
    orthanc.store(
        *(film(name, uid) for uid, name in hostile.items()),
        film("P8", "1.2.8"),
        film("P9", "1.2.8", 2),
        film("../../etc/passwd", "1.2.7"),
    )
    with running(settings, target=service.work) as node:
        wait(lambda: ended(node.state, 13))
        assert [each["event"] for each in node.state.events()].count("quarantined") == 7
        states = [(study.uid, study.state) for study in node.state.studies()]
        observations = dict(node.state.observations())
        log = " ".join(study.reason for study in node.state.studies())
    assert sorted(states) == sorted(
        [(f"1.2.826.{n}", StudyState.REFUSED if n in unfit else StudyState.ANSWERED) for n in range(1, 6)]
        + [(uid, StudyState.QUARANTINED) for uid in ("1.2.8", "1.2.8", *hostile)]
        + [("1.2.7", StudyState.REFUSED)]
    )
    assert {name for name, each in observations.items() if each.refused} == {
        study_label(uid) for uid in ("1.2.826.2", "1.2.826.4", "1.2.7")
    }
    answers = orthanc.answers()
    assert {uid: sorted(each["Modality"] for each in own) for uid, own in answers.items()} == {
        uid: ["OT", "SR"] for uid in [*(f"1.2.826.{n}" for n in range(1, 6)), "1.2.7"]
    }
    for uid, own in answers.items():
        number = uid.rpartition(".")[2]
        report = next(each for each in own if each["Modality"] == "SR")
        assert (report["PatientID"] == f"P{number}") is (uid != "1.2.7")
        assert ("No image of the study suits" in str(report)) is (uid == "1.2.7" or int(number) in unfit)
    assert len(list((tmp_path / "outgoing").glob("*/fhir-r4.json"))) == 6
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert not any(person in text for person in ("P1", "passwd", "A\\B", "PPP", *PEOPLE) for text in (*names, log))


@pytest.mark.slow
def test_a_hospital_day(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    """200 studies, every tenth of which fits no rule, while the node is killed ten times and the PACS is often away."""
    count, unfit, ports = 200, list(range(7, 201, 10)), (free_port(), free_port())
    modalities = {"PACS": ["PACS", "127.0.0.1", ports[0]]}
    arriving = [films for _, films in studies(chests, count, unfit)]
    sender = {"DicomModalities": {"CASEWISE": ["CASEWISE", "127.0.0.1", 1]}, "DicomAet": "PACS"}
    with running_orthanc(tmp_path / "own", DicomModalities=modalities) as own:
        values = node_values(own, chest_run.folder / "bundle", tmp_path) | {"send": [{"modality": "PACS"}]}
        done = threading.Event()

        def come_and_go() -> None:
            while not done.is_set():
                with running_orthanc(tmp_path / "pacs", ports, **sender):
                    done.wait(30)
                done.wait(5)

        pacs = threading.Thread(target=come_and_go)
        pacs.start()
        try:
            state = killed(tmp_path, own, values, arriving, 10, "casewise.cli.main", "node", "run", "--quiet")
        finally:
            done.set()
            pacs.join()
        with running_orthanc(tmp_path / "pacs", ports, **sender) as received:
            for answers in (own.answers(), received.answers()):
                assert {uid: len(each) for uid, each in answers.items()} == {f"1.2.826.{n}": 1 for n in range(1, 201)}
                for uid, (report,) in answers.items():
                    number = int(uid.rpartition(".")[2])
                    assert (report["PatientID"], report["Modality"]) == (f"P{number}", "SR")
                    assert ("No image of the study suits" in str(report)) is (number in unfit)
    assert (state.counts()[StudyState.ANSWERED], state.counts()[StudyState.REFUSED]) == (180, 20)
    assert state.check_trail()[0] == []
    state.close()
