"""The incoming folder: what is taken, when, and what stays."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("pydicom", reason="the extra `node` is not installed")

from casewise.errors import CasewiseError
from casewise.plugins.node.queue.study_queue import StudyQueue
from casewise.plugins.node.receive import inbox as inbox_module
from casewise.plugins.node.receive.inbox import Inbox
from casewise.plugins.node.receive.watched_folder import WatchedFolder
from tests.plugins.node.dicom_objects import SR, file_bytes, image


def watched(tmp_path: Path, settled: float = 0.0, patience: float = 0.0) -> tuple[WatchedFolder, StudyQueue]:
    queue = StudyQueue(tmp_path / "node")
    incoming = tmp_path / "incoming"
    return WatchedFolder(incoming, Inbox(queue), queue, settled=settled, patience=patience), queue


def test_files_and_subfolders_are_taken(tmp_path: Path) -> None:
    folder, queue = watched(tmp_path)
    (tmp_path / "incoming" / "study" / "series").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "incoming" / "study" / "series" / f"{number}").write_bytes(file_bytes(image(number=number)))
    (tmp_path / "incoming" / "one.dcm").write_bytes(file_bytes(image("1.2.9")))
    assert folder.scan() == 4
    assert {study.uid: study.instances for study in queue.studies()} == {"1.2.1": 3, "1.2.9": 1}
    assert not [path for path in (tmp_path / "incoming").rglob("*") if path.is_file()]
    (tmp_path / "incoming" / "again.dcm").write_bytes(file_bytes(image("1.2.9")))
    assert folder.scan() == 0
    assert not (tmp_path / "incoming" / "again.dcm").exists()
    for name in ("study/series", "study"):
        os.utime(tmp_path / "incoming" / name, (1, 1))
        folder.scan()
    assert not list((tmp_path / "incoming").iterdir())


def test_a_file_that_is_written_to_is_not_taken(tmp_path: Path) -> None:
    folder, queue = watched(tmp_path, settled=0.3)
    data, path = file_bytes(image()), tmp_path / "incoming" / "a.dcm"
    for end in (100, 300, len(data)):
        path.write_bytes(data[:end])
        assert folder.scan() == 0
        time.sleep(0.05)
    assert path.exists()
    time.sleep(0.35)
    assert folder.scan() == 1
    assert not path.exists()
    assert len(queue.studies()) == 1


def test_a_copy_that_pauses_is_taken_when_it_goes_on(tmp_path: Path) -> None:
    folder, queue = watched(tmp_path, patience=60)
    (tmp_path / "incoming" / "first.dcm").write_bytes(file_bytes(image()))
    data = file_bytes(image(number=2))
    with (tmp_path / "incoming" / "a.dcm").open("wb", buffering=0) as copy:
        for end in (0, 100, 400, len(data) - 40, len(data)):
            copy.write(data[copy.tell() : end])
            assert folder.scan() == (end == len(data)) + (end == 0)
            assert folder.scan() == 0
    assert not list((tmp_path / "incoming").iterdir())
    assert queue.studies()[0].instances == 2


def test_a_study_waits_for_a_copy_that_pauses(tmp_path: Path) -> None:
    folder, queue = watched(tmp_path, patience=60)
    data, path = file_bytes(image(number=2)), tmp_path / "incoming" / "a.dcm"
    (tmp_path / "incoming" / "first.dcm").write_bytes(file_bytes(image()))
    path.write_bytes(data[:-40])
    folder.scan()
    arrived = time.time()
    while time.time() < arrived + 0.2:
        folder.scan()
    assert queue.complete_ready(0.2, None, time.time()) == []
    path.write_bytes(data)
    assert folder.scan() == 1
    assert queue.complete_ready(0.2, None, time.time() + 0.2) == ["1.2.1"]


def test_what_is_no_image_is_moved_with_a_reason(tmp_path: Path) -> None:
    folder, queue = watched(tmp_path)
    files = {"Name of a patient.txt": b"text", "empty": b"", "cut.dcm": file_bytes(image())[:400]}
    for name, data in files.items():
        (tmp_path / "incoming" / name).write_bytes(data)
        os.utime(tmp_path / "incoming" / name, (1, 1))
    assert folder.scan() == 0
    assert len(list((tmp_path / "incoming").iterdir())) == 3
    assert folder.scan() == 0
    assert not list((tmp_path / "incoming").iterdir())
    refused = list((tmp_path / "node" / "refused").iterdir())
    assert {path.read_bytes() for path in refused} == set(files.values())
    assert min(path.stat().st_mtime for path in refused) > 1
    assert not any("patient" in path.name for path in refused)
    assert [event for _, _, event, _ in queue.events()] == ["refused"] * 3


def test_reports_are_removed_and_not_kept(tmp_path: Path) -> None:
    folder, queue = watched(tmp_path)
    (tmp_path / "incoming" / "sr.dcm").write_bytes(file_bytes(image(SOPClassUID=SR, PixelData=None)))
    assert folder.scan() == 0
    assert not list((tmp_path / "incoming").iterdir())
    assert not (tmp_path / "node" / "refused").exists()
    assert [event for _, _, event, _ in queue.events()] == ["not kept"]


def test_links_and_hidden_and_odd_files_stay(tmp_path: Path) -> None:
    folder, queue = watched(tmp_path)
    incoming, secret = tmp_path / "incoming", tmp_path / "secret"
    secret.mkdir()
    (secret / "a.dcm").write_bytes(file_bytes(image()))
    (incoming / "link.dcm").symlink_to(secret / "a.dcm")
    (incoming / "folder").symlink_to(secret)
    (incoming / ".hidden.dcm").write_bytes(file_bytes(image()))
    os.mkfifo(incoming / "pipe")
    odd = incoming / os.fsdecode(b"\xff\n *.dcm")
    odd.write_bytes(file_bytes(image("1.2.7")))
    assert folder.scan() == 1
    assert [study.uid for study in queue.studies()] == ["1.2.7"]
    assert (secret / "a.dcm").exists()
    assert {path.name for path in incoming.iterdir()} == {"link.dcm", "folder", ".hidden.dcm", "pipe"}


def test_on_a_full_disk_files_stay_and_are_taken_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, queue = watched(tmp_path)
    for number in range(3):
        (tmp_path / "incoming" / f"{number}.dcm").write_bytes(file_bytes(image(number=number)))
    with monkeypatch.context() as patch:
        patch.setattr(inbox_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        assert folder.scan() == 0
    assert len(list((tmp_path / "incoming").iterdir())) == 3
    assert folder.scan() == 3
    assert queue.studies()[0].instances == 3


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder, _ = watched(tmp_path)
    (tmp_path / "incoming").rmdir()
    with pytest.raises(CasewiseError, match=r"receive\.folder"):
        folder.scan()
