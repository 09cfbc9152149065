"""The audit trail: its chain, lines that killed processes left, and changes that it shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from casewise.plugins.node.audit_trail import NONE, AuditTrail, Break

WRITER = """
import sys
from pathlib import Path
from casewise.plugins.node.audit_trail import AuditTrail
trail = AuditTrail(Path(sys.argv[1]))
for number in range(100_000):
    trail.append("predicted", "0123456789ab", number=number, files=["0" * 64] * 20)
    print(number, flush=True)
"""


def written(folder: Path, count: int) -> AuditTrail:
    trail = AuditTrail(folder)
    for number in range(count):
        trail.append("predicted", f"study-{number}", bundle="b" * 64, answers={"sr.dcm": "a" * 64})
    return trail


def test_lines_follow_from_each_other(tmp_path: Path) -> None:
    trail = written(tmp_path / "node", 5)
    lines = [json.loads(line) for line in trail.path.read_text().splitlines()]
    assert [line["study"] for line in lines] == [f"study-{number}" for number in range(5)]
    assert lines[0]["previous"] == NONE
    assert trail.verify() == []
    assert AuditTrail(tmp_path / "node").head() == trail.head() != NONE
    assert AuditTrail(tmp_path / "other").head() == NONE
    assert AuditTrail(tmp_path / "other").verify() == []


def test_changes_are_named_by_their_line(tmp_path: Path) -> None:
    trail = written(tmp_path, 6)
    lines = trail.path.read_bytes().splitlines(keepends=True)
    head = trail.head()

    def verify(changed: list[bytes]) -> list[int]:
        trail.path.write_bytes(b"".join(changed))
        return [each.line for each in trail.verify()]

    assert verify([*lines[:2], lines[2].replace(b"study-2", b"study-9"), *lines[3:]]) == [4]
    assert verify([*lines[:2], *lines[3:]]) == [3]
    assert verify([*lines[:2], lines[3], lines[2], *lines[4:]]) == [3, 4, 5]
    assert verify([*lines[:2], b"not a line\n", *lines[3:]]) == [3, 4]
    assert verify([*lines, b"{}\n"]) == [7]
    assert verify([*lines, b"not a line\n"]) == [7]
    assert verify(lines[1:]) == [1]
    assert verify(lines[:-1]) == []
    assert trail.head() != head


def test_an_incomplete_line_is_kept_and_stated(tmp_path: Path) -> None:
    trail = written(tmp_path, 2)
    content = trail.path.read_bytes()
    trail.path.write_bytes(content[:-30])
    assert trail.verify() == []
    written(tmp_path, 2)
    assert trail.verify() == []
    lines = trail.path.read_bytes().splitlines()
    assert len(lines) == 4
    assert lines[1] == content[:-30].splitlines()[1]
    assert "after_incomplete_line" in json.loads(lines[2])
    trail.path.write_bytes(content[:-1])  # only the end of the line is missing
    written(tmp_path, 1)
    assert trail.verify() == []


def test_threads_and_long_lines(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: trail.append("x", str(number), files=["ä" * 50_000]), range(16)))
    assert trail.verify() == []
    assert len(trail.path.read_bytes().splitlines()) == 16


def test_killed_writers_leave_a_chain(tmp_path: Path) -> None:
    acknowledged = 0
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        acknowledged += 1
        time.sleep(0.02 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        acknowledged += process.stdout.read().count("\n")
        process.wait()
    trail = AuditTrail(tmp_path)
    assert trail.verify() == []
    assert len(trail.path.read_bytes().splitlines()) >= acknowledged
    assert Break(1, "x").line == 1
