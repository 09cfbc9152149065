"""A node at work: studies arrive in a folder, and every one ends in an answer or in quarantine, whatever is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from casewise.errors import CasewiseError
from casewise.plugins.node import service
from casewise.plugins.node.audit_trail import AuditTrail
from casewise.plugins.node.queue import StudyQueue, StudyState, study_folder, study_label
from casewise.plugins.node.service import Node, salt_of
from casewise.plugins.node.settings import NodeSettings
from casewise.run import Run
from tests.film_files import PEOPLE
from tests.plugins.node.films import RULE, node_settings, studies
from tests.plugins.node.toy import toy

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


def check_answers(folder: Path, count: int, unfit: list[int]) -> None:
    """Check that each study has an answer about its patient, and that those of `unfit` state why there is none."""
    reports = answered(folder / "outgoing")
    assert set(reports) == {f"1.2.826.{number}" for number in range(1, count + 1)}
    for uid, report in reports.items():
        number = int(uid.rpartition(".")[2])
        assert report.PatientID == f"P{number}"
        assert ("No image of the study suits" in report.to_json()) is (number in unfit)


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
        trail = [json.loads(line) for line in (settings.folder / "audit.jsonl").read_text().splitlines()]
        events = [(line["event"], line["study"]) for line in trail]
        assert events[0] == ("started", "")
        assert {study for event, study in events if event == "predicted"} == {*map(study_label, ("well", "die once"))}
        assert not AuditTrail(settings.folder).verify()

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
            queue.note("released", "The process that worked on it ended.", "well")
        queue.close()
        with running(settings, target=toy) as node:
            wait(lambda: ended(node.queue, 1))
            assert node.queue.studies()[0].state == StudyState.QUARANTINED
            node.queue.retry("well")
            wait(lambda: node.queue.studies()[0].state == StudyState.SENT)

    def test_a_changed_bundle_is_stated(self, settings: NodeSettings) -> None:
        for before in ("", "abc", "abc"):
            with running(settings, target=toy):
                pass
            last = json.loads((settings.folder / "audit.jsonl").read_text().splitlines()[-1])
            assert (last["bundle"], last["bundle_before"]) == ("abc", before)

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
    trail = AuditTrail(settings.folder)
    assert not trail.verify()
    events = [json.loads(line)["event"] for line in trail.path.read_text().splitlines()]
    assert (events.count("predicted"), events.count("delivered")) == (7, 7)
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert not any(person in name for person in ("P1", *PEOPLE) for name in names)
    assert study_folder("1.2.826.1") in "".join(names)


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
    assert not AuditTrail(tmp_path / "node").verify()
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
