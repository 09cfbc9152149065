"""Connections that state too much, send too much, or send nothing: they end, and partners are served meanwhile."""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

pynetdicom = pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from casewise.plugins.node.credentials import Tls  # noqa: E402
from casewise.plugins.node.queue.study_queue import StudyQueue  # noqa: E402
from casewise.plugins.node.receive.dicom import DicomReceiver  # noqa: E402
from casewise.plugins.node.receive.inbox import Inbox  # noqa: E402
from casewise.plugins.node.settings import DicomReceive  # noqa: E402
from tests.plugins.node.dicom_objects import certificate, image  # noqa: E402
from tests.plugins.node.test_receive import connected, send  # noqa: E402

LARGEST = 1_000_000
COMMAND, DATA, LAST = 1, 0, 2


@contextmanager
def running(folder: Path, **settings: object) -> Iterator[DicomReceiver]:
    queue = StudyQueue(folder)
    receiver = DicomReceiver(DicomReceive(port=0, **settings), Inbox(queue, LARGEST))  # type: ignore[arg-type]
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
        queue.close()


def is_served(receiver: DicomReceiver, number: int = 1) -> bool:
    with connected(receiver.port) as association:
        return association.is_established and send(association, image(number=number)) == 0  # type: ignore[attr-defined]


def ends(connection: socket.socket, patience: float = 30) -> bool:
    """Whether the receiver ends a connection."""
    connection.settimeout(patience)
    with suppress(ConnectionError):
        while data := connection.recv(4096):
            assert data[0] in (3, 7)  # A-ASSOCIATE-RJ, A-ABORT
    return True


def pdata(content: bytes, control: int, context: int = 1) -> bytes:
    value = struct.pack(">LBB", len(content) + 2, context, control) + content
    return struct.pack(">BBL", 4, 0, len(value)) + value


def overflow(association: object, *pdus: bytes, times: int) -> bool:
    """Whether a connection ends before PDUs were sent that often."""
    connection = association.dul.socket.socket  # type: ignore[attr-defined]
    try:
        for _ in range(times):
            for each in pdus:
                connection.sendall(each)
    except OSError:
        return True
    end = time.monotonic() + 20
    while association.is_established and time.monotonic() < end:  # type: ignore[attr-defined]
        time.sleep(0.01)
    return not association.is_established  # type: ignore[attr-defined]


STATED = {
    "association request": struct.pack(">BBL", 1, 0, 2**32 - 1),
    "data": struct.pack(">BBL", 4, 0, 2**32 - 1),
    "abort": struct.pack(">BBL", 7, 0, 2**31),
    "a little too long": struct.pack(">BBL", 1, 0, 2**18 + 1),
}


@pytest.mark.parametrize("head", STATED.values(), ids=STATED)
def test_a_pdu_that_states_too_many_bytes_ends_the_connection(tmp_path: Path, head: bytes) -> None:
    with running(tmp_path) as receiver, closing(socket.create_connection(("127.0.0.1", receiver.port))) as stranger:
        begun = time.monotonic()
        stranger.sendall(head + bytes(1000))
        assert ends(stranger)
        assert time.monotonic() - begun < 5  # long before the negotiation times out
        assert is_served(receiver)


def test_connections_that_send_no_request_lock_out_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running(tmp_path, associations=2) as receiver, ExitStack() as stack:
        open_socket: Callable[[], socket.socket] = lambda: stack.enter_context(  # noqa: E731
            closing(socket.create_connection(("127.0.0.1", receiver.port)))
        )
        strangers = [open_socket() for _ in range(40)]
        for number, each in enumerate(strangers):
            with suppress(ConnectionError):
                each.sendall(STATED["association request"][: number % 6] if number % 2 else b"\1\0\0\0\xff\0abc")
        for number in (1, 2, 3):
            assert is_served(receiver, number)
        dripping = strangers[-1]
        with suppress(ConnectionError):
            for _ in range(40):  # a byte now and then does not extend the time
                dripping.sendall(b"\0")
                time.sleep(0.3)
        assert all(ends(each) for each in strangers)
        assert is_served(receiver, 4)


def test_a_slow_handshake_locks_out_nobody(tmp_path: Path) -> None:
    own = certificate(tmp_path, "node")
    with running(tmp_path / "node", tls=Tls(certificate=own[0], key=own[1]), associations=1) as receiver:
        stranger = socket.create_connection(("127.0.0.1", receiver.port))
        stranger.sendall(b"\x16\x03\x01\x02\x00")
        assert ends(stranger)
        stranger.close()


def test_one_address_does_not_take_all_places(tmp_path: Path) -> None:
    with running(tmp_path, associations=4) as receiver, ExitStack() as stack:
        first = [stack.enter_context(connected(receiver.port)) for _ in range(4)]
        assert [each.is_established for each in first] == [True, True, True, False]  # type: ignore[attr-defined]
        assert first[3].is_rejected  # type: ignore[attr-defined]
        entity = pynetdicom.AE(ae_title="PACS")
        entity.add_requested_context("1.2.840.10008.1.1")
        partner = entity.associate("127.0.0.1", receiver.port, ae_title="CASEWISE", bind_address=("127.0.0.2", 0))
        assert partner.is_established
        partner.release()
        first[0].release()  # type: ignore[attr-defined]
        assert is_served(receiver)


def test_strangers_take_no_place(tmp_path: Path) -> None:
    with running(tmp_path, associations=1, allowed=["PACS"]) as receiver:
        for _ in range(3):
            with connected(receiver.port, "OTHER") as association:
                assert association.is_rejected  # type: ignore[attr-defined]
        assert is_served(receiver)


ENDLESS = {
    "a command": ([pdata(bytes(60_000), COMMAND)], 100),
    "a data set": ([pdata(bytes(100_000), DATA)], 200),
    "many data sets": ([pdata(bytes(100_000), DATA | LAST)], 200),
    "tiny fragments": ([struct.pack(">BBL", 4, 0, 7 * 18_000) + struct.pack(">LBBB", 3, 1, 0, 0) * 18_000], 200),
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_ended_and_logged_once(
    tmp_path: Path, endless: tuple[list[bytes], int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "casewise.node")
    with running(tmp_path) as receiver:
        with connected(receiver.port) as association:
            assert overflow(association, *endless[0], times=endless[1])
        assert len(caplog.records) <= 1
        assert is_served(receiver)


def test_all_connections_together_need_bounded_memory(tmp_path: Path) -> None:
    content = pdata(bytes(100_000), DATA)
    with running(tmp_path, associations=20) as receiver, ExitStack() as stack:
        connections = [stack.enter_context(connected(receiver.port)) for _ in range(6)]
        for each in connections:
            with suppress(OSError):
                for _ in range(9):
                    each.dul.socket.socket.sendall(content)  # type: ignore[attr-defined]
        end = time.monotonic() + 20
        while all(each.is_established for each in connections) and time.monotonic() < end:  # type: ignore[attr-defined]
            time.sleep(0.01)
        ended = [each for each in connections if not each.is_established]  # type: ignore[attr-defined]
        assert 0 < len(ended) < len(connections)
        assert is_served(receiver)


def test_messages_that_the_node_does_not_offer_end_the_connection(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    with running(tmp_path) as receiver:
        with connected(receiver.port) as association:
            query = Dataset()
            query.PatientID = "*"
            model = "1.2.840.10008.5.1.4.1.2.2.1"
            association._accepted_cx[1].abstract_syntax = model  # type: ignore[attr-defined]
            answers = list(association.send_c_find(query, model))  # type: ignore[attr-defined]
            assert all("Status" not in status for status, _ in answers)
        assert is_served(receiver)
