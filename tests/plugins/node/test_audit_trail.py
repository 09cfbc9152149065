"""The audit trail: its chain, its agreement with the queue, lines that kills left, and changes that it shows."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from casewise.errors import CasewiseError
from casewise.plugins.node.audit_trail import NONE, AuditTrail
from casewise.plugins.node.queue.records import Answer, study_label
from casewise.plugins.node.queue.study_queue import StudyQueue
from casewise.plugins.node.settings import Retry

WRITER = """
import sys
from pathlib import Path
from casewise.plugins.node.audit_trail import AuditTrail
from casewise.plugins.node.queue.study_queue import StudyQueue
queue = StudyQueue(Path(sys.argv[1]))
trail = AuditTrail(queue)
for number in range(100_000):
    queue.note("refused", f"{sys.argv[2]} {number} " + "0" * 400)
    trail.write()
    print(number, flush=True)
"""


def written(folder: Path, count: int) -> AuditTrail:
    queue = StudyQueue(folder)
    for number in range(count):
        queue.note("refused", f"study-{len(queue.events())}", f"1.2.{number}")
    trail = AuditTrail(queue)
    trail.write()
    return trail


def lines_of(trail: AuditTrail) -> list[dict[str, object]]:
    return [json.loads(line) for line in trail.path.read_text().splitlines()]


def test_lines_follow_from_each_other(tmp_path: Path) -> None:
    trail = written(tmp_path / "node", 2500)
    lines = lines_of(trail)
    assert [line["id"] for line in lines] == list(range(1, 2501))
    assert [line["study"] for line in lines] == [study_label(f"1.2.{number}") for number in range(2500)]
    assert lines[0]["previous"] == NONE
    assert trail.verify() == []
    last = trail.path.read_bytes().splitlines()[-1]
    assert trail.head() == hashlib.sha256(last).hexdigest()
    other = AuditTrail(StudyQueue(tmp_path / "other"))
    assert (other.head(), other.verify()) == (NONE, [])


def test_all_that_happens_to_a_study_is_stated(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, {"pacs": ["sr", "fhir"]}, Retry(give_up=1e-9))
    queue.start("bundle", "1")
    for uid in ("1.2.1", "1.2.2", "1.2.3"):
        queue.add_instance(uid, "s", "1", tmp_path / "a", "ab" * 32, "dicom PACS")
    queue.add_instance("1.2.3", "s", "1", tmp_path / "b", "cd" * 32, "dicom PACS")
    queue.complete_ready(0, 1, time.time())
    for _ in range(2):
        study = queue.claim(time.time())
        assert study is not None
        if study.uid == "1.2.2":
            queue.failed(study, "no memory")
            time.sleep(0.01)
            queue.retry(study.uid)
            study = queue.claim(time.time())
            assert study is not None
        answers = [Answer(f"{name}.dcm", name, tmp_path / name, name * 10) for name in ("sr", "fhir")]
        queue.predicted(study, answers, None, unwritten={"summary-sc": "A fault."}, bundle="b" * 64)
    for delivery in queue.deliveries("pacs", time.time()):
        if delivery.answer.format == "sr":
            queue.delivered(delivery)
        else:
            queue.not_delivered(delivery, "refused", final=True)
    trail = AuditTrail(queue)
    trail.write()
    assert trail.verify() == []
    lines = lines_of(trail)
    by_event = {
        event: {line["study"]: line for line in lines if line["event"] == event}
        for event in {str(x["event"]) for x in lines}
    }
    assert by_event["started"][""]["bundle"] == "bundle"
    assert {*by_event["quarantined"]} == {study_label(f"1.2.{number}") for number in (1, 2, 3)}
    assert "refused" in str(by_event["quarantined"][study_label("1.2.1")]["detail"])
    assert {*by_event["failed"]} | {*by_event["retry"]} <= {study_label("1.2.2")} | {*by_event["failed"]}
    line = by_event["predicted"][study_label("1.2.1")]
    assert (line["version"], line["bundle"], line["files"]) == (1, "b" * 64, ["ab" * 32])
    assert (line["answers"], line["refused"]) == ({"sr.dcm": "sr" * 10, "fhir.dcm": "fhir" * 10}, False)
    assert line["unwritten"] == {"summary-sc": "A fault."}
    line = by_event["delivered"][study_label("1.2.1")]
    assert (line["answer"], line["sha256"], line["partner"]) == ("sr.dcm", "sr" * 10, "pacs")
    assert "1.2." not in trail.path.read_text()


def test_changes_are_named_by_their_line(tmp_path: Path) -> None:
    trail = written(tmp_path, 6)
    lines = trail.path.read_bytes().splitlines(keepends=True)
    head = trail.head()

    def verify(changed: list[bytes]) -> list[int]:
        trail.path.write_bytes(b"".join(changed))
        return [each.line for each in trail.verify()]

    def forged(content: list[bytes]) -> list[bytes]:
        """With a chain that is whole."""
        chain, previous = [], NONE
        for line in content:
            chain.append(json.dumps(json.loads(line) | {"previous": previous}).encode() + b"\n")
            previous = hashlib.sha256(chain[-1][:-1]).hexdigest()
        return chain

    assert verify([*lines[:2], lines[2].replace(b"study-2", b"study-9"), *lines[3:]]) == [3, 4]
    assert verify([*lines[:2], *lines[3:]]) == [3]
    assert verify([*lines[:2], lines[3], lines[2], *lines[4:]]) == [3, 4, 5]
    assert verify([*lines[:2], b"not a line\n", *lines[3:]]) == [3, 4]
    assert verify([*lines, b"{}\n"]) == [7]
    assert verify(lines[1:]) == [1]
    assert verify(lines[:-1]) == []
    assert trail.head() != head
    assert verify(forged(lines)) == []
    assert verify(forged([*lines[:2], lines[2].replace(b"study-2", b"study-9"), *lines[3:]])) == [3]
    assert verify(forged([*lines[:2], *lines[3:]])) == [3]
    for last in (
        b"not a line\n",
        b"{}\n",
        lines[5].replace(b"study-5", b"study-9"),
        lines[5].replace(b'"id": 6', b'"id": 9'),
    ):
        trail.path.write_bytes(b"".join([*lines[:5], last]))
        with pytest.raises(CasewiseError, match=r"audit\.jsonl"):
            trail.write()


def test_what_is_incomplete_or_missing_at_the_end_is_written_anew(tmp_path: Path) -> None:
    trail = written(tmp_path, 3)
    content = trail.path.read_bytes()
    for length in (0, 10, content.index(b"\n"), content.index(b"\n") + 1, len(content) - 30, len(content) - 1):
        trail.path.write_bytes(content[:length])
        assert trail.verify() == []
        trail.write()
        assert trail.path.read_bytes() == content
    trail.path.unlink()
    trail.write()
    assert trail.path.read_bytes() == content


def test_killed_writers_leave_a_chain(tmp_path: Path) -> None:
    acknowledged = 0
    for attempt in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(attempt)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        acknowledged += 1
        time.sleep(0.02 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().count("\n")
        process.wait()
    queue = StudyQueue(tmp_path)
    trail = AuditTrail(queue)
    assert trail.verify() == []
    trail.write()
    assert trail.verify() == []
    assert len(lines_of(trail)) == len(queue.events()) >= acknowledged
