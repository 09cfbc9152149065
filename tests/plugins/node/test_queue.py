"""The queue of studies: its states, leases, deliveries and waits, and what kills and late images change."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from casewise.errors import CasewiseError
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.queue.records import study_folder
from casewise.plugins.node.queue.study_queue import Answer, QueuedStudy, StudyQueue, StudyState, study_label
from casewise.plugins.node.settings import Retry

S = StudyState
RETRY = Retry(first=10, longest=40, give_up=1000)
ROUTES = {"pacs": ["sr", "summary-sc"], "archive": ["fhir-r4"]}


def add(queue: StudyQueue, study: str = "1.2.1", number: int = 1, content: str = "") -> bool:
    path = queue.folder / "received" / f"{study}-{number}.dcm"
    sha256 = hashlib.sha256(f"{study} {number} {content}".encode()).hexdigest()
    return queue.add_instance(study, f"{study}.1", f"{study}.1.{number}", path, sha256, "test")


def complete(queue: StudyQueue) -> list[str]:
    return queue.complete_ready(30, None, time.time() + 31)


def claimed(queue: StudyQueue, later: float = 0) -> QueuedStudy:
    study = queue.claim(S.COMPLETE, time.time() + later)
    assert study is not None
    return study


def answers(queue: StudyQueue, *formats: str) -> list[Answer]:
    return [Answer(f"{each}.dcm", each, queue.folder / "answers" / each, "a" * 64) for each in formats]


def state(queue: StudyQueue, study: str = "1.2.1") -> StudyState:
    return {each.uid: each.state for each in queue.studies()}[study]


def test_a_study_on_its_way(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    assert [add(queue, number=number) for number in (1, 2, 2)] == [True, True, False]
    assert queue.complete_ready(30, None, time.time()) == []
    assert queue.complete_ready(30, 3, time.time()) == []
    assert queue.complete_ready(30, 2, time.time()) == ["1.2.1"]
    study = claimed(queue)
    assert (study.uid, study.instances, study.version, study.label) == ("1.2.1", 2, 1, study_label("1.2.1"))
    assert queue.claim(S.COMPLETE, time.time()) is None
    assert [file.instance for file in queue.files("1.2.1")] == ["1.2.1.1.1", "1.2.1.1.2"]
    observation = Observation(5.0, scanner="A", flags=("dark",), predictions={"grade": "2", "extent": 0.5})
    assert queue.predicted(study, answers(queue, "sr", "fhir-r4"), observation, seconds=1.5)
    assert queue.observations() == [(study.label, observation)]
    assert queue.prediction_totals() == (1, 1.5, 0)
    assert queue.oldest_waiting() is not None
    due = queue.deliveries(time.time())
    assert {(each.partner, each.answer.format, each.version) for each in due} == {
        ("pacs", "sr", 1),
        ("archive", "fhir-r4", 1),
    }
    assert len(queue.deliveries(time.time(), "pacs")) == 1
    queue.delivered(due[0])
    assert state(queue) == S.PREDICTED
    queue.delivered(due[1])
    assert state(queue) == S.SENT
    assert queue.oldest_waiting() is None
    assert queue.counts() == {each: int(each == S.SENT) for each in S}
    assert queue.delivery_counts() == {("archive", "delivered"): 1, ("pacs", "delivered"): 1}
    assert [event for _, _, event, _ in queue.events("1.2.1")] == [
        *("received", "complete", "predicted", "delivered", "delivered", "sent")
    ]
    assert study_folder("1.2.1") != study_folder("1.2.2")


def test_without_partners_a_predicted_study_is_sent(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, {})
    add(queue)
    complete(queue)
    assert queue.predicted(claimed(queue), answers(queue, "sr"), None)
    assert state(queue) == S.SENT
    assert queue.observations() == []


def test_images_that_arrive_late_are_predicted_again(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    add(queue)
    complete(queue)
    first = claimed(queue)
    assert add(queue, number=2)  # while it is being predicted
    assert state(queue) == S.RECEIVED
    complete(queue)
    second = claimed(queue)
    assert not queue.predicted(first, answers(queue, "sr"), None)
    assert not queue.failed(first, "x", RETRY)
    assert not queue.quarantine(first, "x")
    assert second.version == 1
    assert queue.predicted(second, answers(queue, "sr"), None)
    due = queue.deliveries(time.time())
    assert add(queue, number=3)  # after the answer, before its delivery
    assert queue.deliveries(time.time()) == []
    queue.delivered(due[0])
    queue.not_delivered(due[0], "gone", RETRY)
    assert state(queue) == S.RECEIVED
    complete(queue)
    third = claimed(queue)
    assert (third.version, third.instances) == (2, 3)
    assert queue.predicted(third, answers(queue, "sr"), None)
    (delivery,) = queue.deliveries(time.time())
    queue.delivered(delivery)
    assert state(queue) == S.SENT
    assert not add(queue, number=3)  # a repeat changes nothing
    assert state(queue) == S.SENT
    assert add(queue, number=4)
    assert queue.studies()[0].version == 3


def test_another_file_of_the_same_uid_needs_a_person(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    add(queue)
    assert add(queue, content="other")
    assert state(queue) == S.QUARANTINED
    assert queue.studies(unfinished=True)[0].instances == 1
    assert add(queue, number=2)
    assert complete(queue) == []
    assert queue.retry(study_label("1.2.1")).state == S.COMPLETE
    assert next(file.sha256 for file in queue.files("1.2.1")) == hashlib.sha256(b"1.2.1 1 other").hexdigest()


def test_a_failed_prediction_waits_twice_as_long_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path)
    add(queue)
    complete(queue)
    now, waits = time.time(), []
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(30):
        assert queue.failed(claimed(queue), "The network failed.\nTwice.", RETRY)
        study = queue.studies()[0]
        if study.state == S.QUARANTINED:
            break
        assert (study.state, study.reason) == (S.FAILED, "The network failed. Twice.")
        assert queue.claim(S.COMPLETE, study.next_at - 1) is None
        waits.append(study.next_at - now)
        now = study.next_at
    assert waits[:4] == pytest.approx([10, 20, 40, 40])
    assert 950 < sum(waits) < 1050
    assert state(queue) == S.QUARANTINED
    assert queue.retry("1.2.1").attempts == 0
    queue.failed(claimed(queue), "again", RETRY)
    add(queue, number=2)
    assert state(queue) == S.RECEIVED
    complete(queue)
    assert claimed(queue).attempts == 0


def test_a_partner_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    for number in range(3):
        add(queue, f"1.2.{number}")
    complete(queue)
    for _ in range(3):
        queue.predicted(claimed(queue), answers(queue, "sr"), None)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    first = queue.deliveries(now)[0]
    queue.not_delivered(first, "No connection.", RETRY)
    assert len(queue.deliveries(now)) == 2
    queue.postpone("pacs", now + 15)
    assert queue.deliveries(now + 14) == []
    assert {each.state for each in queue.studies()} == {S.PREDICTED}
    assert "No connection." in next(each.reason for each in queue.studies() if each.uid == first.study)
    again = queue.deliveries(now + 15)
    assert len(again) == 3
    queue.delivered(again[0])
    assert len(queue.deliveries(now)) == 2  # the others are due at once
    for each in queue.deliveries(now):
        queue.delivered(each)
    assert queue.counts()[S.SENT] == 3


def test_answers_that_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    add(queue)
    complete(queue)
    queue.predicted(claimed(queue), answers(queue, "sr", "fhir-r4"), None)
    pacs, archive = sorted(queue.deliveries(time.time()), key=lambda each: each.partner, reverse=True)
    queue.not_delivered(pacs, "SOP class not supported.", RETRY, final=True)
    assert state(queue) == S.PREDICTED  # the other partner still receives its answer
    queue.delivered(archive)
    assert state(queue) == S.QUARANTINED
    assert "SOP class" in queue.studies()[0].reason
    assert queue.retry("1.2.1").state == S.PREDICTED
    (delivery,) = queue.deliveries(time.time())
    assert (delivery.partner, delivery.attempts) == ("pacs", 0)
    queue.not_delivered(delivery, "x", RETRY)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1001)
    queue.not_delivered(queue.deliveries(now + 1001)[0], "x", RETRY)
    assert state(queue) == S.QUARANTINED
    add(queue, number=2)
    assert queue.retry("1.2.1").state == S.COMPLETE
    assert claimed(queue).version == 2


def test_partners_that_change_between_two_starts(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    for study in ("1.2.1", "1.2.2"):
        add(queue, study)
    complete(queue)
    queue.predicted(claimed(queue), answers(queue, "sr", "fhir-r4"), None)
    queue.predicted(claimed(queue), answers(queue, "fhir-r4"), None)
    queue.close()
    StudyQueue(tmp_path).close()  # what does not deliver changes nothing
    queue = StudyQueue(tmp_path, {"new pacs": ["sr"]})
    assert [(each.study, each.partner) for each in queue.deliveries(time.time())] == [("1.2.1", "new pacs")]
    assert queue.counts()[S.SENT] == 1


def test_a_retry_that_is_not_needed_is_refused(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    add(queue)
    for study in ("1.2.1", "1.2.9"):
        with pytest.raises(CasewiseError):
            queue.retry(study)
    complete(queue)
    study = claimed(queue)
    assert queue.quarantine(study, "a reason")
    assert queue.studies()[0].reason == "a reason"
    assert not queue.quarantine(study, "another")


def test_images_and_answers_of_old_studies_are_removed(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, {})
    files = []
    for number in (1, 2, 3):
        files.append(tmp_path / "received" / "study" / "series" / f"{number}")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text("image")
        queue.add_instance("1.2.1", "1.3", f"1.4.{number}", files[-1], f"{number}", "test")
    add(queue, "1.2.2")
    complete(queue)
    files.append(tmp_path / "answers" / "sr")
    files[-1].parent.mkdir()
    files[-1].write_text("answer")
    assert queue.predicted(claimed(queue), answers(queue, "sr"), None)
    assert queue.remove_sent(time.time() - 1) == 0
    assert all(path.exists() for path in files)
    assert queue.remove_sent(time.time() + 1) == 1
    assert not any(path.exists() for path in files)
    assert queue.remove_sent(time.time() + 1) == 0
    assert (queue.files("1.2.1"), state(queue)) == ([], S.SENT)
    assert not list((tmp_path / "received").iterdir())
    assert len(queue.files("1.2.2")) == 1  # not sent
    assert queue.add_instance("1.2.1", "1.3", "1.4.1", files[0], "1", "test")
    assert complete(queue) == []
    assert state(queue) == S.QUARANTINED
    for number in (2, 3):
        queue.add_instance("1.2.1", "1.3", f"1.4.{number}", files[0], f"{number}", "test")
    assert queue.retry("1.2.1").version == 2


def test_leases_end_with_their_process(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    for number in range(3):
        add(queue, f"1.2.{number}")
    complete(queue)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from casewise.plugins.node.queue.study_queue import StudyQueue, StudyState\n"
        "queue = StudyQueue(Path(sys.argv[1]))\n"
        "print(queue.claim(StudyState.COMPLETE, time.time()).uid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], text=True, **pipes)  # type: ignore[call-overload]
    other = process.stdout.readline().strip()
    own = {claimed(queue).uid, claimed(queue).uid}
    assert own | {other} == {"1.2.0", "1.2.1", "1.2.2"}
    assert queue.claim(S.COMPLETE, time.time()) is None
    process.kill()
    process.wait()
    study = claimed(queue)
    assert study.uid == other
    queue.release(study)
    assert claimed(queue).uid == other
    queue.close()
    queue = StudyQueue(tmp_path)
    assert {claimed(queue).uid for _ in range(3)} == own | {other}


def test_threads_share_the_studies(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda number: add(queue, f"1.2.{number % 20}", number % 60), range(240))) == 60
    assert len(complete(queue)) == 20
    with ThreadPoolExecutor(8) as pool:
        uids = [study.uid for study in pool.map(lambda _: queue.claim(S.COMPLETE, time.time()), range(30)) if study]
    assert sorted(uids) == sorted(each.uid for each in queue.studies())


def test_a_thousand_studies_at_once(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    started = time.perf_counter()
    for number in range(1000):
        add(queue, f"1.2.{number}")
    assert len(complete(queue)) == 1000
    while study := queue.claim(S.COMPLETE, time.time()):
        queue.predicted(study, answers(queue, "sr"), None)
    while due := queue.deliveries(time.time()):
        for each in due:
            queue.delivered(each)
    assert queue.counts()[S.SENT] == 1000
    assert time.perf_counter() - started < 300
    assert len(queue.events()) == 5000


def test_an_answer_without_a_format_is_sent_and_stated(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    add(queue)
    complete(queue)
    unwritten = {"summary-sc": "A fault."}
    assert queue.predicted(claimed(queue), answers(queue, "sr"), None, unwritten=unwritten)
    assert queue.studies()[0].reason == "Without summary-sc: A fault."
    (delivery,) = queue.deliveries(time.time())
    queue.delivered(delivery)
    (study,) = queue.studies(unfinished=True)
    assert (study.state, study.reason, study.unwritten) == (S.SENT, "", "Without summary-sc: A fault.")
    assert queue.prediction_totals()[2] == 1
    assert queue.retry("1.2.1").state == S.COMPLETE
    assert queue.predicted(claimed(queue), answers(queue, "sr", "summary-sc"), None)
    for delivery in queue.deliveries(time.time()):
        queue.delivered(delivery)
    assert (queue.studies(unfinished=True), queue.prediction_totals()[2]) == ([], 1)
    with pytest.raises(CasewiseError):
        queue.retry("1.2.1")


def test_events_stay(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    add(queue)
    for _ in range(2):
        queue.note("refused", "It is not a DICOM file.")
    assert [event for _, _, event, _ in queue.events()] == ["received", "refused"]
    database = sqlite3.connect(queue.path)
    for statement in ("DELETE FROM events", "UPDATE events SET detail = ''"):
        with pytest.raises(sqlite3.IntegrityError):
            database.execute(statement)


def test_files_that_are_no_queue(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "queue.sqlite").write_bytes(os.urandom(8192))
    with pytest.raises(CasewiseError, match="damaged"):
        StudyQueue(tmp_path / "a")
    queue = StudyQueue(tmp_path / "b")
    queue._rows("UPDATE facts SET value = '99'")
    queue.close()
    with pytest.raises(CasewiseError, match="newer"):
        StudyQueue(tmp_path / "b")
    with pytest.raises(CasewiseError):
        queue.counts()


WORKER = """
import sys, time
from pathlib import Path
from casewise.plugins.node.queue.study_queue import Answer, StudyQueue, StudyState
from casewise.plugins.node.settings import Retry
folder = Path(sys.argv[1])
queue = StudyQueue(folder, {"pacs": ["sr"]})
print("ready", flush=True)
while True:
    queue.complete_ready(0, None, time.time())
    if study := queue.claim(StudyState.COMPLETE, time.time()):
        queue.predicted(study, [Answer("a.dcm", "sr", folder / "a.dcm", "a" * 64)], None)
    for delivery in queue.deliveries(time.time()):
        print(delivery.study, delivery.version, flush=True)
        queue.delivered(delivery)
"""


def test_killed_workers_leave_each_study_to_be_answered(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, {"pacs": ["sr"]})
    for number in range(150):
        add(queue, f"1.2.{number}")
    chance, delivered = random.Random(1), []
    for kill in range(100):
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        end = time.monotonic() + (chance.uniform(0.05, 0.2) if kill < 6 else 60)
        while time.monotonic() < end and queue.counts()[S.SENT] < 150:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        delivered += process.stdout.read().splitlines()
        process.wait()
        if queue.counts()[S.SENT] == 150:
            break
    assert {line.split()[0] for line in delivered} == {f"1.2.{number}" for number in range(150)}
    # a kill between delivery and record repeats one answer, which has the same UIDs and replaces itself
    assert len(delivered) <= 150 + kill
    assert queue.counts() == {each: 150 * (each == S.SENT) for each in S}
