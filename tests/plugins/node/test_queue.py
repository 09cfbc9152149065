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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from casewise.errors import CasewiseError
from casewise.files import TEMPORARY
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.queue.records import Delivery, study_folder
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
    study = queue.claim(time.time() + later)
    assert study is not None
    return study


def answers(queue: StudyQueue, *formats: str) -> list[Answer]:
    return [Answer(f"{each}.dcm", each, queue.folder / "answers" / each, "a" * 64) for each in formats]


def due(queue: StudyQueue, *partners: str, later: float = 0) -> list[Delivery]:
    now = time.time() + later
    return [each for partner in partners or ("pacs", "archive") for each in queue.deliveries(partner, now)]


def state(queue: StudyQueue, study: str = "1.2.1") -> StudyState:
    return {each.uid: each.state for each in queue.studies()}[study]


def test_a_study_on_its_way(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    assert [add(queue, number=number) for number in (1, 2, 2)] == [True, True, False]
    assert queue.complete_ready(30, None, time.time()) == []
    assert queue.complete_ready(30, 3, time.time()) == []
    assert queue.complete_ready(30, 2, time.time()) == ["1.2.1"]
    study = claimed(queue)
    assert (study.uid, study.instances, study.version, study.label) == ("1.2.1", 2, 1, study_label("1.2.1"))
    assert queue.claim(time.time()) is None
    assert [file.instance for file in queue.files("1.2.1")] == ["1.2.1.1.1", "1.2.1.1.2"]
    observation = Observation(5.0, scanner="A", flags=("dark",), predictions={"grade": "2", "extent": 0.5})
    assert queue.predicted(study, answers(queue, "sr", "fhir-r4"), observation, seconds=1.5)
    assert queue.observations() == [(study.label, observation)]
    assert queue.prediction_totals() == (1, 1.5, 0)
    assert queue.oldest_waiting() is not None
    waiting = due(queue)
    assert {(each.partner, each.answer.format, each.version) for each in waiting} == {
        ("pacs", "sr", 1),
        ("archive", "fhir-r4", 1),
    }
    assert len(due(queue, "pacs")) == 1
    queue.delivered(waiting[0])
    assert state(queue) == S.PREDICTED
    queue.delivered(waiting[1])
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
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    add(queue)
    complete(queue)
    first = claimed(queue)
    assert add(queue, number=2)  # while it is being predicted
    assert state(queue) == S.RECEIVED
    complete(queue)
    second = claimed(queue)
    assert not queue.predicted(first, answers(queue, "sr"), None)
    assert not queue.failed(first, "x")
    assert not queue.quarantine(first, "x")
    assert second.version == 1
    assert queue.predicted(second, answers(queue, "sr"), None)
    waiting = due(queue)
    assert add(queue, number=3)  # after the answer, before its delivery
    assert due(queue) == []
    queue.delivered(waiting[0])
    queue.not_delivered(waiting[0], "gone")
    assert state(queue) == S.RECEIVED
    complete(queue)
    third = claimed(queue)
    assert (third.version, third.instances) == (2, 3)
    assert queue.predicted(third, answers(queue, "sr"), None)
    (delivery,) = due(queue)
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
    queue = StudyQueue(tmp_path, retry=RETRY)
    add(queue)
    complete(queue)
    now, waits = time.time(), list[float]()
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(30):
        assert queue.failed(claimed(queue), "The network failed.\nTwice.")
        study = queue.studies()[0]
        if study.state == S.QUARANTINED:
            break
        assert (study.state, study.reason) == (S.FAILED, "The network failed. Twice.")
        ((next_at,),) = queue._rows("SELECT next_at FROM studies")
        assert queue.claim(next_at - 1) is None
        waits.append(next_at - now)
        now = next_at
    assert waits[:4] == pytest.approx([10, 20, 40, 40])
    assert 950 < sum(waits) < 1050
    assert state(queue) == S.QUARANTINED
    assert queue.retry("1.2.1").attempts == 0
    queue.failed(claimed(queue), "again")
    add(queue, number=2)
    assert state(queue) == S.RECEIVED
    complete(queue)
    assert claimed(queue).attempts == 0


def test_a_clock_that_is_set_back_delays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    for study in ("1.2.1", "1.2.2"):
        add(queue, study)
    complete(queue)
    queue.predicted(claimed(queue), answers(queue, "sr"), None)
    queue.failed(claimed(queue), "x")
    queue.not_delivered(due(queue)[0], "x")
    queue.pause("pacs")
    assert (due(queue), queue.claim(time.time())) == ([], None)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6)
    assert (len(due(queue)), claimed(queue).uid) == (1, "1.2.2")


def predicted(queue: StudyQueue, *studies: str) -> None:
    for study in studies:
        add(queue, study)
    complete(queue)
    for _ in studies:
        assert queue.predicted(claimed(queue), answers(queue, "sr"), None)


def test_a_partner_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    predicted(queue, "1.2.0", "1.2.1", "1.2.2")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for attempt, wait in enumerate((10, 20, 40, 40)):
        probe = due(queue)[0]
        assert probe.study == f"1.2.{attempt % 3}"  # not the same again
        queue.not_delivered(probe, "No connection.", gone=True)
        queue.pause("pacs")
        assert due(queue, later=wait - 1) == []
        now += wait
    assert {each.state for each in queue.studies()} == {S.PREDICTED}
    assert all("No connection." in each.reason for each in queue.studies())
    assert len(due(queue)) == 3
    queue.pause("pacs")
    predicted(queue, "1.2.3")
    (new,) = due(queue)  # what is new is tried at once, and shows that the partner is back
    assert new.study == "1.2.3"
    queue.delivered(new)
    for each in due(queue):
        queue.delivered(each)
    assert queue.counts()[S.SENT] == 4


def test_an_answer_that_fails_waits_while_others_are_delivered(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    predicted(queue, "1.2.0", "1.2.1")
    failing, other = due(queue)
    queue.not_delivered(failing, "It cannot be stored.")
    queue.delivered(other)
    assert due(queue, later=9) == []
    (again,) = due(queue, later=11)
    assert (again.study, again.attempts) == ("1.2.0", 1)
    queue.pause("pacs")
    queue.retry("1.2.0")  # by a person: at once
    assert [each.attempts for each in due(queue)] == [0]


def test_answers_that_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    add(queue)
    complete(queue)
    queue.predicted(claimed(queue), answers(queue, "sr", "fhir-r4"), None)
    pacs, archive = due(queue)
    queue.not_delivered(pacs, "SOP class not supported.", final=True)
    assert state(queue) == S.PREDICTED  # the other partner still receives its answer
    queue.delivered(archive)
    assert state(queue) == S.QUARANTINED
    assert "SOP class" in queue.studies()[0].reason
    assert queue.retry("1.2.1").state == S.PREDICTED
    (delivery,) = due(queue)
    assert (delivery.partner, delivery.attempts) == ("pacs", 0)
    queue.not_delivered(delivery, "x")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1001)
    queue.not_delivered(due(queue)[0], "x")
    assert state(queue) == S.QUARANTINED
    add(queue, number=2)
    assert queue.retry("1.2.1").state == S.COMPLETE
    assert claimed(queue).version == 2


def test_partners_that_change_between_two_starts(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    for study in ("1.2.1", "1.2.2"):
        add(queue, study)
    complete(queue)
    queue.predicted(claimed(queue), answers(queue, "sr", "fhir-r4"), None)
    queue.predicted(claimed(queue), answers(queue, "fhir-r4"), None)
    queue.close()
    StudyQueue(tmp_path).close()  # what does not deliver changes nothing
    queue = StudyQueue(tmp_path, {"new pacs": ["sr"]})
    assert [each.study for each in due(queue, "pacs", "archive", "new pacs")] == ["1.2.1"]
    assert queue.counts()[S.SENT] == 1


def test_formats_that_a_partner_need_not_receive_any_more(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    add(queue, "1.2.1")
    add(queue, "1.2.2")
    complete(queue)
    for _ in range(2):
        queue.predicted(claimed(queue), answers(queue, "sr", "summary-sc"), None)
    for each in due(queue):
        if each.answer.format == "sr":
            queue.delivered(each)
        elif each.study == "1.2.1":
            queue.not_delivered(each, "It does not store this.", final=True)
    assert (state(queue), state(queue, "1.2.2")) == (S.QUARANTINED, S.PREDICTED)
    queue.close()
    queue = StudyQueue(tmp_path, {"pacs": ["sr"]})
    assert (due(queue), queue.counts()[S.SENT]) == ([], 2)


def test_a_format_that_is_outdated_at_a_partner_needs_a_person(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    add(queue)
    for number, formats in enumerate((["sr", "summary-sc"], ["sr"], ["sr", "summary-sc"])):
        complete(queue)
        unwritten = dict.fromkeys({"summary-sc"} - {*formats}, "A fault.")
        queue.predicted(claimed(queue), answers(queue, *formats), None, unwritten=unwritten)
        for each in due(queue):
            assert state(queue) == S.PREDICTED
            queue.delivered(each)
        assert state(queue) == (S.QUARANTINED if unwritten else S.SENT)
        if unwritten:
            assert "pacs" in queue.studies()[0].reason
            assert queue.retry("1.2.1").state == S.COMPLETE
        else:
            add(queue, number=number + 2)


def test_a_study_is_discarded_by_a_person(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    predicted(queue, "1.2.0")
    for study in ("1.2.1", "1.2.2"):
        add(queue, study)
    complete(queue)
    for _ in range(2):
        study = claimed(queue)
        queue.quarantine(study, "x") if study.uid == "1.2.1" else queue.failed(study, "x")
    for number in range(3):
        discarded = queue.discard(study_label(f"1.2.{number}"))
        assert (discarded.state, discarded.reason) == (S.DISCARDED, "")
        with pytest.raises(CasewiseError):
            queue.discard(discarded.uid)
    assert queue.studies(unfinished=True) == []
    assert (due(queue), queue.claim(time.time() + 1e5), queue.oldest_waiting()) == ([], None, None)
    assert [event for _, _, event, _ in queue.events("1.2.1")][-1] == "discarded"
    assert add(queue, "1.2.0", 2)
    again = queue.studies()[-1]
    assert (again.state, again.version, again.instances) == (S.RECEIVED, 2, 1)  # without the images of before
    assert add(queue, "1.2.0", 1)
    assert queue.studies()[-1].instances == 2
    assert queue.retry("1.2.1").state == S.COMPLETE  # a person may err
    assert queue.remove_sent(time.time() + 1) == 1
    with pytest.raises(CasewiseError):
        queue.retry("1.2.2")


def test_a_study_that_comes_again_waits_since_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path, {})
    predicted(queue, "1.2.1")
    now = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: now)
    add(queue, number=2)
    assert queue.oldest_waiting() == now


def test_what_was_sent_is_sent_once_more(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES)
    predicted(queue, "1.2.1")
    sent = len(due(queue))
    for each in due(queue):
        queue.delivered(each)
    assert state(queue) == S.SENT
    assert queue.retry("1.2.1").state == S.PREDICTED
    assert len(due(queue)) == sent > 0
    for each in due(queue):
        queue.delivered(each)
    assert queue.remove_sent(time.time() + 1) == 1
    with pytest.raises(CasewiseError, match="again"):
        queue.retry("1.2.1")


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


def test_images_are_removed_after_the_queue_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = StudyQueue(tmp_path, {})
    path = tmp_path / "received" / study_folder("1.2.1") / "series" / "1"
    path.parent.mkdir(parents=True)
    path.write_text("image")
    queue.add_instance("1.2.1", "1.3", "1.4.1", path, "1", "test")
    complete(queue)
    queue.predicted(claimed(queue), [], None)

    def full(*_: object, **__: object) -> None:
        raise CasewiseError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(queue, "_event", full)
        with pytest.raises(CasewiseError):
            queue.remove_sent(time.time() + 1)
    assert path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", full)
        with pytest.raises(CasewiseError):
            queue.remove_sent(time.time() + 1)
    assert (path.exists(), queue.files("1.2.1")) == (True, [])
    kept = path.with_name("2")
    kept.write_text("image")
    queue.add_instance("1.2.1", "1.3", "1.4.2", kept, "2", "test")
    (tmp_path / "received" / "other").mkdir()
    other = tmp_path / "received" / "other" / "file"
    other.write_text("of no study")
    (tmp_path / "received" / "empty").mkdir()
    other.with_name(f"{TEMPORARY}file").write_text("half")
    assert queue.sweep(tmp_path / "received") == [other]
    assert {path for path in (tmp_path / "received").rglob("*") if path.is_file()} == {kept, other}
    assert not (tmp_path / "received" / "empty").exists()


BLANK: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "no bytes": lambda path: path.write_bytes(b""),
    "no tables": lambda path: (path.unlink(), sqlite3.connect(path).execute("PRAGMA user_version = 1")),
}


@pytest.mark.parametrize("blank", BLANK.values(), ids=BLANK)
@pytest.mark.parametrize("folder", ["received", "answers"])
def test_without_a_queue_files_are_neither_removed_nor_ignored(
    tmp_path: Path, blank: Callable[[Path], object], folder: str
) -> None:
    StudyQueue(tmp_path).close()
    path = tmp_path / folder / "study" / "file"
    path.parent.mkdir(parents=True)
    path.write_text("acknowledged")
    blank(tmp_path / "queue.sqlite")
    for _ in range(2):
        with pytest.raises(CasewiseError, match="backup"):
            StudyQueue(tmp_path)
    assert path.exists()
    path.rename(path.with_name(f"{TEMPORARY}file"))
    StudyQueue(tmp_path).close()


@pytest.mark.parametrize("stated", ["text", "", "1.5"])
def test_a_queue_that_states_no_format_is_damaged(tmp_path: Path, stated: str) -> None:
    StudyQueue(tmp_path).close()
    with sqlite3.connect(tmp_path / "queue.sqlite") as db:
        db.execute("UPDATE facts SET value = ?" if stated else "DELETE FROM facts WHERE ? = ''", [stated])
    with pytest.raises(CasewiseError, match="damaged"):
        StudyQueue(tmp_path)


def test_leases_end_with_their_node(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    for number in range(3):
        add(queue, f"1.2.{number}")
    complete(queue)
    uids = {claimed(queue).uid for _ in range(2)}
    study = claimed(queue)
    assert {*uids, study.uid} == {"1.2.0", "1.2.1", "1.2.2"}
    assert queue.claim(time.time()) is None
    queue.release(study)
    assert claimed(queue).uid == study.uid
    queue.release(study)  # its lease has ended
    assert queue.claim(time.time()) is None
    queue.close()
    queue = StudyQueue(tmp_path)  # what is no node changes nothing
    assert queue.claim(time.time()) is None
    assert [queue.start("a", "1"), queue.start("b", "1"), queue.start("b", "1")] == ["", "a", "b"]
    assert {claimed(queue).uid for _ in range(3)} == {*uids, study.uid}
    assert [event for _, _, event, _ in queue.events()].count("released") == 3


def test_threads_share_the_studies(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda number: add(queue, f"1.2.{number % 20}", number % 60), range(240))) == 60
    assert len(complete(queue)) == 20
    with ThreadPoolExecutor(8) as pool:
        uids = [study.uid for study in pool.map(lambda _: queue.claim(time.time()), range(30)) if study]
    assert sorted(uids) == sorted(each.uid for each in queue.studies())


def test_a_thousand_studies_at_once(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    for number in range(1000):
        add(queue, f"1.2.{number}")
    assert len(complete(queue)) == 1000
    while study := queue.claim(time.time()):
        queue.predicted(study, answers(queue, "sr"), None)
    while waiting := due(queue):
        for each in waiting:
            queue.delivered(each)
    assert queue.counts()[S.SENT] == 1000
    assert len(queue.events()) == 5000


def test_an_answer_without_a_format_is_sent_and_stated(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, ROUTES, RETRY)
    add(queue)
    complete(queue)
    unwritten = {"summary-sc": "A fault."}
    assert queue.predicted(claimed(queue), answers(queue, "sr"), None, unwritten=unwritten)
    assert queue.studies()[0].reason == "Without summary-sc: A fault."
    (delivery,) = due(queue)
    queue.delivered(delivery)
    (study,) = queue.studies(unfinished=True)
    assert (study.state, study.reason, study.unwritten) == (S.SENT, "", "Without summary-sc: A fault.")
    assert queue.prediction_totals()[2] == 1
    assert queue.retry("1.2.1").state == S.COMPLETE
    assert queue.predicted(claimed(queue), answers(queue, "sr", "summary-sc"), None)
    for delivery in due(queue):
        queue.delivered(delivery)
    assert (queue.studies(unfinished=True), queue.prediction_totals()[2]) == ([], 1)


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
from casewise.plugins.node.queue.study_queue import Answer, StudyQueue
folder = Path(sys.argv[1])
queue = StudyQueue(folder, {"pacs": ["sr"]})
queue.start("a", "1")
print("ready", flush=True)
while True:
    queue.complete_ready(0, None, time.time())
    if study := queue.claim(time.time()):
        queue.predicted(study, [Answer("a.dcm", "sr", folder / "a.dcm", "a" * 64)], None)
    for delivery in queue.deliveries("pacs", time.time()):
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
    assert [event for _, _, event, _ in queue.events()].count("delivered") == 150
