"""Images that arrive with C-STORE: what is stored, what is refused, and what kills, full disks and strangers change."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pynetdicom = pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian  # noqa: E402

from casewise.errors import CasewiseError  # noqa: E402
from casewise.files import TEMPORARY, checksum  # noqa: E402
from casewise.plugins.node.credentials import Tls  # noqa: E402
from casewise.plugins.node.queue.study_queue import StudyQueue, StudyState  # noqa: E402
from casewise.plugins.node.receive import inbox as inbox_module  # noqa: E402
from casewise.plugins.node.receive.data_set import RefusedError  # noqa: E402
from casewise.plugins.node.receive.dicom import SYNTAXES, DicomReceiver  # noqa: E402
from casewise.plugins.node.receive.inbox import FullError, Inbox  # noqa: E402
from casewise.plugins.node.settings import DicomReceive  # noqa: E402
from tests.plugins.node.dicom_objects import DX, SR, certificate, client_context, file_bytes, file_of, free_port, image  # noqa: E402

# Softcopy presentation state, key object selection, encapsulated PDF, segmentation.
OTHERS = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("11.1", "88.59", "104.1", "66.4"))
RECEIVER = """
import sys, time
from pathlib import Path
from casewise.plugins.node.receive.dicom import DicomReceiver
from casewise.plugins.node.receive.inbox import Inbox
from casewise.plugins.node.queue.study_queue import StudyQueue
from casewise.plugins.node.credentials import Tls  # noqa: E402
from casewise.plugins.node.settings import DicomReceive
inbox = Inbox(StudyQueue(Path(sys.argv[1])))
inbox.sweep()
receiver = DicomReceiver(DicomReceive(port=int(sys.argv[2])), inbox)
receiver.start()
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[SimpleNamespace]:
    queue = StudyQueue(folder)
    receiver = DicomReceiver(DicomReceive(port=0, **settings), Inbox(queue))  # type: ignore[arg-type]
    receiver.start()
    try:
        yield SimpleNamespace(queue=queue, receiver=receiver, port=receiver.port)
    finally:
        receiver.stop()
        queue.close()


@contextmanager
def connected(port: int, caller: str = "PACS", called: str = "CASEWISE", **tls: object) -> Iterator[object]:
    entity = pynetdicom.AE(ae_title=caller)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 15
    entity.add_requested_context(DX, [ExplicitVRLittleEndian])
    entity.add_requested_context(DX, [ImplicitVRLittleEndian])
    entity.add_requested_context(DX, [ExplicitVRBigEndian])
    entity.add_requested_context(SR)
    entity.add_requested_context("1.2.840.10008.1.1")
    association = entity.associate("127.0.0.1", port, ae_title=called, **tls)  # type: ignore[arg-type]
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        entity.shutdown()


def send(association: object, dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> int | None:
    file_bytes(dataset, syntax)
    status = association.send_c_store(dataset)  # type: ignore[attr-defined]
    return int(status.Status) if "Status" in status else None


def test_images_are_stored_with_their_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running(tmp_path / "node") as node:
        with connected(node.port) as association:
            assert association.send_c_echo().Status == 0
            assert [send(association, image(number=number)) for number in (1, 2, 3)] == [0, 0, 0]
            assert send(association, image(number=2)) == 0
            assert send(association, image("1.2.5"), ImplicitVRLittleEndian) == 0
        studies = {study.uid: study for study in node.queue.studies()}
        assert {uid: study.instances for uid, study in studies.items()} == {"1.2.1": 3, "1.2.5": 1}
        assert all(study.state == StudyState.RECEIVED for study in studies.values())
        for stored in node.queue.files("1.2.1"):
            assert checksum(stored.path) == stored.sha256
            read = inbox_module.quiet_pydicom().dcmread(stored.path)
            assert (read.SOPInstanceUID, read.PatientID) == (stored.instance, "secret-4711")
            assert read.pixel_array.max() == int(stored.instance[-1])
            assert "1.2.1" not in str(stored.path.relative_to(tmp_path))
    assert "ecret" not in caplog.text
    assert not list((tmp_path / "node").rglob(f"{TEMPORARY}*"))


def test_classes_and_syntaxes_of_images_are_accepted(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        entity = pynetdicom.AE(ae_title="PACS")
        for syntax in SYNTAXES:
            entity.add_requested_context(DX, [syntax])
        association = entity.associate("127.0.0.1", node.port, ae_title="CASEWISE")
        assert {str(context.transfer_syntax[0]) for context in association.accepted_contexts} == set(SYNTAXES)
        association.release()
        classes = {DX, SR, *OTHERS, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"}
        entity = pynetdicom.AE(ae_title="PACS")
        for each in classes:
            entity.add_requested_context(each)
        association = entity.associate("127.0.0.1", node.port, ae_title="CASEWISE")
        assert {str(context.abstract_syntax) for context in association.accepted_contexts} == classes
        for each in OTHERS:
            assert send(association, image(SOPClassUID=each, PixelData=None, SOPInstanceUID=f"{each}.1")) == 0
        association.release()
        assert node.queue.studies() == []
        assert len(node.queue.events("1.2.1")) == len(OTHERS)


def test_repeats_by_another_way_change_nothing_but_other_content_needs_a_person(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    inbox = Inbox(queue)
    first = inbox.receive_file(file_of(image()), "folder")
    again = inbox.receive_file(file_of(image(), SourceApplicationEntityTitle="MR1"), "web")
    assert (first.is_new, again.is_new) == (True, False)
    other = inbox.receive_file(file_of(image(PatientID="other")), "folder")
    assert other.is_new
    study = queue.studies()[0]
    assert (study.state, study.instances) == (StudyState.QUARANTINED, 1)
    assert "other content" in study.reason
    assert len(list((tmp_path / "received").rglob("*.dcm"))) == 2
    assert queue.retry(study.uid).state == StudyState.COMPLETE
    assert inbox_module.quiet_pydicom().dcmread(queue.files(study.uid)[0].path).PatientID == "other"


def described(number: int = 1, **tags: object) -> Dataset:
    """A film with a sequence, values of ambiguous type, and those of a manufacturer."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "1", "postero-anterior"
    dataset = image(
        number=number, ViewCodeSequence=[item], SmallestImagePixelValue=1, SpecificCharacterSet="ISO_IR 100"
    )
    dataset.PatientName = "Müller^Jörg"
    dataset.private_block(0x0029, "MAKER", create=True).add_new(1, "DS", "1.5")
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def test_a_repeat_in_another_encoding_changes_nothing(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    inbox = Inbox(queue)
    large = {"Rows": 100, "Columns": 100, "PixelData": np.arange(10_000, dtype=np.uint16).tobytes()}
    for number, tags in ((1, {}), (2, large)):
        assert inbox.receive_file(file_of(described(number, **tags)), "folder").is_new
        assert not inbox.receive_file(file_of(described(number, **tags), ImplicitVRLittleEndian), "web").is_new
    assert inbox.receive_file(file_of(described(3), ImplicitVRLittleEndian), "folder").is_new
    assert not inbox.receive_file(file_of(described(3)), "web").is_new
    assert (queue.studies()[0].state, queue.studies()[0].instances) == (StudyState.RECEIVED, 3)
    pixels = bytes([1]) + large["PixelData"][1:]
    other = {"pixels": large | {"PixelData": pixels}, "header": {**large, "PatientID": "9"}, "sequence": {**large}}
    for change, tags in other.items():
        dataset = described(2, **tags)
        if change == "sequence":
            dataset.ViewCodeSequence[0].CodeValue = "2"
        assert inbox.receive_file(file_of(dataset, ImplicitVRLittleEndian), "web").is_new, change
    assert queue.studies()[0].state == StudyState.QUARANTINED


def test_images_of_classes_that_the_standard_does_not_have_are_kept(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    inbox, ultrasound, segmentation = Inbox(queue), "1.2.840.10008.5.1.4.1.1.6.2", OTHERS[-1]
    for number, each in enumerate(("1.3.12.2.1107.5.9.1", ultrasound), 1):
        assert inbox.receive_file(file_of(image(number=number, SOPClassUID=each)), "folder").is_new
    assert not inbox.receive_file(file_of(image(number=3, SOPClassUID=segmentation)), "folder").is_new
    assert not inbox.receive_file(file_of(image(number=4, SOPClassUID="1.3.1", PixelData=None)), "folder").is_new
    assert queue.studies()[0].instances == 2
    assert not any("1.3.1" in detail for *_, detail in queue.events("1.2.1"))
    cut = file_bytes(image(number=5, SOPClassUID="1.3.1"))
    for length in range(200, len(cut), 7):
        with suppress(RefusedError):  # a cut between two elements cannot be recognised
            assert not inbox.receive_file(io.BytesIO(cut[:length]), "folder").is_new


def test_an_image_is_not_copied_in_memory(tmp_path: Path) -> None:
    inbox, size = Inbox(StudyQueue(tmp_path)), 32 * 2**20
    files = [file_of(image(Rows=4096, Columns=4096, PixelData=bytes(size)), each) for each in SYNTAXES[:2]]
    tracemalloc.start()
    try:
        assert [inbox.receive_file(file, "web").is_new for file in files] == [True, False]
        assert tracemalloc.get_traced_memory()[1] < size / 4
    finally:
        tracemalloc.stop()


def test_larger_objects_are_refused(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    inbox = Inbox(queue, largest=1_000_000)
    large = image(Rows=1024, Columns=1024, PixelData=bytes(2**21))
    with pytest.raises(RefusedError):
        inbox.receive_file(file_of(large), "folder")
    receiver = DicomReceiver(DicomReceive(port=0), inbox)
    receiver.start()
    try:
        with connected(receiver.port) as association:
            assert send(association, image()) == 0
            assert send(association, large) is None
        with connected(receiver.port) as association:
            assert send(association, image(number=2)) == 0
    finally:
        receiver.stop()
    assert queue.studies()[0].instances == 2


HOSTILE = {
    "no study": {"StudyInstanceUID": None},
    "no series": {"SeriesInstanceUID": ""},
    "a path": {"StudyInstanceUID": "../../x"},
    "a path as instance": {"SOPInstanceUID": "/etc/passwd"},
    "too long": {"StudyInstanceUID": "1." + "2" * 63},
    "no pixels": {"PixelData": None},
    "fewer pixels": {"PixelData": b"\0" * 100},
    "no rows": {"Rows": 0},
    "frames": {"NumberOfFrames": "1000000"},
}


@pytest.mark.parametrize("tags", HOSTILE.values(), ids=HOSTILE)
def test_objects_that_are_no_image_of_a_study_are_refused(tmp_path: Path, tags: dict[str, object]) -> None:
    with pydicom_writes_anything():
        data = file_bytes(image(**tags))
    inbox = Inbox(StudyQueue(tmp_path / "node"))
    with pytest.raises(RefusedError):
        inbox.receive_file(io.BytesIO(data), "folder")
    assert not list((tmp_path / "node" / "received").iterdir())


@contextmanager
def pydicom_writes_anything() -> Iterator[None]:
    from pydicom import config

    with config.disable_value_validation():
        yield


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    inbox = Inbox(StudyQueue(tmp_path))
    data = file_bytes(image())
    deflated = file_bytes(image(), "1.2.840.10008.1.2.1.99")
    for hostile in (b"", b"text", bytes(200), bytes(128) + b"DICM", deflated, bytes(128) + b"DICM" + os.urandom(5000)):
        with pytest.raises(RefusedError):
            inbox.receive_file(io.BytesIO(hostile), "folder")
    for length in range(0, len(data), 7):
        with pytest.raises(RefusedError):
            inbox.receive_file(io.BytesIO(data[:length]), "folder")
    nested = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 3000
    with pytest.raises(RefusedError):
        inbox.receive(io.BytesIO(nested), ExplicitVRLittleEndian, "folder")
    assert inbox.receive_file(io.BytesIO(data), "folder").is_new


def test_own_answers_and_other_objects_are_not_kept(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    for tags in ({"Manufacturer": "casewise"}, {"SOPClassUID": SR, "PixelData": None}):
        for _ in range(2):
            assert not Inbox(queue).receive_file(file_of(image(**tags)), "folder").is_new
    assert queue.studies() == []
    assert [event for _, _, event, _ in queue.events("1.2.1")] == ["not kept"] * 2
    assert not any(path.is_file() for path in (tmp_path / "received").rglob("*"))
    with pytest.raises(RefusedError):
        Inbox(queue).receive_file(file_of(image(SOPClassUID=SR, StudyInstanceUID="../../x")), "folder")


def test_hostile_objects_do_not_end_the_connection(tmp_path: Path) -> None:
    with running(tmp_path) as node, connected(node.port) as association, pydicom_writes_anything():
        assert send(association, image(PixelData=None)) == 0xC000
        assert send(association, image(StudyInstanceUID="../../x")) == 0xC000
        dataset = image()
        file_bytes(dataset)
        encoded = association.send_c_store(dataset, originator_aet="X")
        assert encoded.Status == 0
        assert node.queue.counts()[StudyState.RECEIVED] == 1


def test_strangers_are_rejected(tmp_path: Path) -> None:
    with running(tmp_path, allowed=["PACS", "MR 1"]) as node:
        for caller, called, accepted in (
            ("PACS", "CASEWISE", True),
            ("MR 1", "CASEWISE", True),
            ("OTHER", "CASEWISE", False),
            ("PACS", "OTHER", False),
        ):
            with connected(node.port, caller, called) as association:
                assert association.is_established is accepted
                assert association.is_rejected is not accepted


def test_acknowledged_images_outlive_an_older_queue(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    Inbox(queue).receive_file(file_of(image("1.2.1")), "folder")
    queue.close()
    shutil.copy(tmp_path / "queue.sqlite", tmp_path / "backup")
    queue = StudyQueue(tmp_path)
    Inbox(queue).receive_file(file_of(image("1.2.1", 2)), "folder")
    Inbox(queue).receive_file(file_of(image("1.2.2")), "folder")
    queue.close()
    files = {path: checksum(path) for path in (tmp_path / "received").rglob("*.dcm")}
    for path in tmp_path.glob("queue.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "backup", tmp_path / "queue.sqlite")
    (tmp_path / "received" / "note").write_text("of no study")
    queue = StudyQueue(tmp_path)
    for _ in range(2):
        Inbox(queue).sweep()
        assert {study.uid: study.instances for study in queue.studies()} == {"1.2.1": 2, "1.2.2": 1}
        assert {path: checksum(path) for path in (tmp_path / "received").rglob("*.dcm")} == files
    assert (tmp_path / "received" / "note").exists()
    assert {study.state for study in queue.studies()} == {StudyState.RECEIVED}


def test_the_queue_of_another_folder_removes_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        queue = StudyQueue(tmp_path / name)
        Inbox(queue).receive_file(file_of(image(f"1.2.{ord(name)}")), "folder")
        queue.close()
    shutil.copy(tmp_path / "b" / "queue.sqlite", tmp_path / "a" / "queue.sqlite")
    with pytest.raises(CasewiseError, match="another folder"):
        Inbox(StudyQueue(tmp_path / "a")).sweep()
    assert len(list((tmp_path / "a" / "received").rglob("*.dcm"))) == 1


def test_images_of_a_discarded_study_are_not_received_again(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    inbox = Inbox(queue)
    inbox.receive_file(file_of(image()), "folder")
    queue.quarantine(queue.claim(time.time() + 9) if queue.complete_ready(0, None, time.time() + 1) else None, "x")
    queue.discard("1.2.1")
    inbox.receive_file(file_of(image(number=2)), "folder")
    inbox.sweep()
    assert [file.instance for file in queue.files("1.2.1")] == ["1.2.1.1.2"]
    assert len(list((tmp_path / "received").rglob("*.dcm"))) == 1


def test_connections_are_bounded(tmp_path: Path) -> None:
    with running(tmp_path, associations=1) as node, connected(node.port) as first:
        assert first.is_established
        with connected(node.port) as second:
            assert second.is_rejected


def test_only_partners_with_a_certificate_are_accepted(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "authority")[0]
    own, partner = certificate(tmp_path, "node", "authority"), certificate(tmp_path, "pacs", "authority")
    stranger = certificate(tmp_path, "stranger")
    tls = Tls(certificate=own[0], key=own[1], ca=authority)
    with running(tmp_path / "node", tls=tls) as node:
        waiting = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(3)]  # no handshake follows
        trusted = client_context(authority, partner)
        with connected(node.port, tls_args=(trusted, "127.0.0.1")) as association:
            assert send(association, image()) == 0
        for context in (client_context(authority), client_context(authority, stranger)):
            with connected(node.port, tls_args=(context, "127.0.0.1")) as association:
                assert not association.is_established
        with connected(node.port) as association:
            assert not association.is_established
        for each in waiting:
            each.close()
        assert node.queue.counts()[StudyState.RECEIVED] == 1


def test_a_used_port_is_named(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        receiver = DicomReceiver(DicomReceive(port=node.port), Inbox(node.queue))
        with pytest.raises(CasewiseError, match=str(node.port)):
            receiver.start()


def test_on_a_full_disk_images_are_refused_and_nothing_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> SimpleNamespace:
        return SimpleNamespace(free=inbox_module.RESERVE)

    with running(tmp_path) as node, connected(node.port) as association:
        with monkeypatch.context() as patch:
            patch.setattr(inbox_module.shutil, "disk_usage", full)
            assert send(association, image()) == 0xA700
        with monkeypatch.context() as patch:
            patch.setattr(inbox_module, "replacing", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
            assert send(association, image()) == 0xA700
        assert node.queue.studies() == []
        assert not list(tmp_path.rglob("*.dcm"))
        assert send(association, image()) == 0


def _fill(inbox: Inbox) -> None:
    for number in range(2000):
        inbox.receive_file(file_of(image(f"1.2.{number + 1}")), "folder")


def test_with_no_room_for_the_queue_an_image_is_refused(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path)
    inbox = Inbox(queue)
    pages = queue._rows("PRAGMA page_count")[0][0]
    queue._rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(FullError):
        _fill(inbox)
    kept = len(queue.studies())
    queue._rows("PRAGMA max_page_count = 1000000")
    assert inbox.receive_file(file_of(image("1.3")), "folder").is_new
    assert len(queue.studies()) == kept + 1


def test_a_limit_on_files_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from casewise.plugins.node.receive.inbox import Inbox, FullError\n"
        "from casewise.plugins.node.queue.study_queue import StudyQueue\n"
        "inbox = Inbox(StudyQueue(Path(sys.argv[1])))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "try: inbox.receive_file(open(sys.argv[2], 'rb'), 'folder')\n"
        "except FullError: print('full')\n"
    )
    (tmp_path / "a.dcm").write_bytes(file_bytes(image()))
    command = [sys.executable, "-c", code, str(tmp_path / "node"), str(tmp_path / "a.dcm")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "full\n"
    assert not [path for path in (tmp_path / "node" / "received").rglob("*") if path.is_file()]
    assert StudyQueue(tmp_path / "node").studies() == []


def test_killed_at_random_moments_loses_no_image(tmp_path: Path) -> None:
    folder, port = tmp_path / "node", free_port()
    images = {f"1.2.{study}.1.{number}": (f"1.2.{study}", number) for study in range(1, 41) for number in range(1, 6)}
    answered: set[str] = set()

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RECEIVER, str(folder), str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def store(uids: list[str]) -> None:
        with connected(port) as association:
            for uid in uids:
                if not association.is_established or send(association, image(*images[uid])) != 0:
                    return
                answered.add(uid)

    kills = 0
    while len(answered) < len(images):
        process = start()
        left = [uid for uid in images if uid not in answered]
        with ThreadPoolExecutor(2) as pool:
            senders = [pool.submit(store, left[half::2]) for half in (0, 1)]
            if kills < 5:
                time.sleep(0.15 + 0.1 * kills)
                process.send_signal(signal.SIGKILL)
                kills += 1
            for sender in senders:
                sender.result()
        process.kill()
        process.wait()
        queue = StudyQueue(folder)
        stored = {file.instance: file for study in queue.studies() for file in queue.files(study.uid)}
        queue.close()
        assert answered <= set(stored)
        assert all(checksum(file.path) == file.sha256 for file in stored.values())
    assert kills == 5
    assert set(stored) == set(images)
