"""STOW-RS, health, readiness and metrics, with the real server."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `node` is not installed")
pytest.importorskip("python_multipart", reason="the extra `node` is not installed")
pytest.importorskip("pydicom", reason="the extra `node` is not installed")

from casewise.errors import CasewiseError
from casewise.plugins.node.credentials import Tls
from casewise.plugins.node.node_log import MOST_LINES, count_left_out
from casewise.plugins.node.queue.study_queue import Answer, StudyQueue
from casewise.plugins.node.receive import inbox as inbox_module
from casewise.plugins.node.receive.inbox import LARGEST, Inbox
from casewise.plugins.node.receive.web import WebServer, metrics
from casewise.plugins.node.settings import NodeWebSettings, WebReceive
from casewise.web.server import CONNECTIONS
from tests.plugins.node.dicom_objects import DX, SR, certificate, client_context, file_bytes, image

KIND = 'multipart/related; type="application/dicom"; boundary=border'


@contextmanager
def running(folder: Path, largest: int = LARGEST, **settings: object) -> Iterator[SimpleNamespace]:
    queue = StudyQueue(folder)
    problems: dict[str, str] = {"bundle": ""}
    inbox = Inbox(queue, largest)
    server = WebServer(WebReceive(port=0, **settings), inbox, queue, lambda: problems | {"disk": inbox.problem()})  # type: ignore[arg-type]
    server.start()
    try:
        yield SimpleNamespace(queue=queue, port=server.port, problems=problems)
    finally:
        server.stop()
        queue.close()


def body(*parts: bytes, kind: str = "application/dicom") -> bytes:
    head = f"--border\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + each + b"\r\n" for each in parts) + b"--border--\r\n"


def ask(
    port: int, path: str, data: bytes | None = None, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, Any]:
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    options = {"context": context} if context else {}
    with closing(kind("127.0.0.1", port, timeout=20, **options)) as connection:  # type: ignore[arg-type]
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if data is None else "POST", path, data, names)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if b"json" in answer.headers["content-type"].encode() else content


def store(port: int, *parts: bytes, **headers: str) -> tuple[int, Any]:
    return ask(port, "/studies", body(*parts), Content_Type=KIND, **headers)


def test_images_are_stored(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        status, answer = store(node.port, *(file_bytes(image(number=number)) for number in (1, 2, 3)))
        assert status == 200
        stored = answer["00081199"]["Value"]
        assert [item["00081155"]["Value"] for item in stored] == [["1.2.1.1.1"], ["1.2.1.1.2"], ["1.2.1.1.3"]]
        assert stored[0]["00081150"] == {"vr": "UI", "Value": [DX]}
        assert "00081198" not in answer
        assert node.queue.studies()[0].instances == 3
        status, answer = store(node.port, file_bytes(image()), file_bytes(image(SOPClassUID=SR, PixelData=None)))
        assert (status, [item["00081150"]["Value"] for item in answer["00081199"]["Value"]]) == (200, [[DX], [SR]])
        assert node.queue.studies()[0].instances == 3


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, largest=10_000) as node:
        status, answer = store(node.port, file_bytes(image()), b"text", file_bytes(image(PixelData=None)))
        assert status == 202
        assert len(answer["0008119A"]["Value"]) == 2
        assert answer["0008119A"]["Value"][0]["00081197"] == {"vr": "US", "Value": [0xC000]}
        assert store(node.port, b"text")[0] == 409
        assert store(node.port, bytes(20_000))[0] == 413
        assert ask(node.port, "/studies", b"x", Content_Type="application/dicom")[0] == 415
        assert ask(node.port, "/studies", body(b"{}", kind="application/json"), Content_Type=KIND)[0] == 415
        assert ask(node.port, "/studies", b"no border", Content_Type=KIND)[0] == 400
        assert ask(node.port, "/studies", body(b"cut")[:-20], Content_Type=KIND)[0] == 400
        assert ask(node.port, "/studies")[0] == 405
        assert ask(node.port, "/nothing")[0] == 404
        assert ask(node.port, "/health", Host="evil.example")[0] == 421
        monkeypatch.setattr(inbox_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
        status, answer = store(node.port, file_bytes(image(number=2)))
        assert status == 503
        assert answer["00081198"]["Value"][0]["00081197"] == {"vr": "US", "Value": [0xA700]}
        assert answer["00081198"]["Value"][0]["00081155"]["Value"] == ["1.2.1.1.2"]
        assert node.queue.studies()[0].instances == 1
        assert ask(node.port, "/ready")[0] == 503


def test_tokens(tmp_path: Path) -> None:
    (tmp_path / "pacs").write_text("token-of-the-pacs\n")
    with running(tmp_path / "node", tokens={"pacs": tmp_path / "pacs"}) as node:
        data = file_bytes(image())
        assert store(node.port, data)[0] == 401
        assert store(node.port, data, Authorization="Bearer wrong-token")[0] == 401
        assert node.queue.studies() == []
        assert [ask(node.port, path)[0] for path in ("/metrics", "/page/a", "/page/")] == [401, 401, 401]
        assert ask(node.port, "/health")[0] == 200
        assert store(node.port, data, Authorization="Bearer token-of-the-pacs")[0] == 200
        assert node.queue.events()[0][3] == "web pacs"


def test_health_and_readiness(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        assert ask(node.port, "/health") == (200, {"status": "ok"})
        assert ask(node.port, "/ready") == (200, {"ready": True, "problems": {}})
        node.problems["bundle"] = "It is being loaded."
        assert ask(node.port, "/ready") == (503, {"ready": False, "problems": {"bundle": "It is being loaded."}})
        assert b"casewise_ready 0" in ask(node.port, "/metrics")[1]


def test_metrics(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path, {'a "PACS"': ["sr"]})
    for study in ("1.2.1", "1.2.2"):
        queue.add_instance(study, "1", "2", tmp_path / "a", "b", "test")
    queue.complete_ready(0, None, time.time() + 1)
    claimed = queue.claim(time.time())
    assert claimed is not None
    queue.predicted(claimed, [Answer("a", "sr", tmp_path / "a", "b")], None, seconds=1.25, unwritten={"fhir": "x"})
    lines = dict(line.rsplit(" ", 1) for line in metrics(queue, {}).splitlines() if not line.startswith("#"))
    assert lines['casewise_studies{state="complete"}'] == "1"
    assert lines['casewise_studies{state="predicted"}'] == "1"
    assert lines['casewise_studies{state="sent"}'] == "0"
    assert lines['casewise_deliveries{partner="a \\"PACS\\"",state="pending"}'] == "1"
    assert (lines["casewise_prediction_seconds_count"], lines["casewise_prediction_seconds_sum"]) == ("1", "1.25")
    assert lines["casewise_unwritten_formats_total"] == "1"
    assert float(lines["casewise_oldest_waiting_seconds"]) >= 0
    assert "1.2.1" not in str(lines)


def test_tls_with_certificates_of_clients(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "authority")[0]
    own, client = certificate(tmp_path, "node", "authority"), certificate(tmp_path, "client", "authority")
    tls = Tls(certificate=own[0], key=own[1], ca=authority)
    with running(tmp_path / "node", tls=tls) as node:
        with closing(socket.create_connection(("127.0.0.1", node.port))):  # no handshake follows
            assert ask(node.port, "/health", context=client_context(authority, client))[0] == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(node.port, "/health", context=client_context(authority))
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(node.port, "/health")


def test_a_used_port_is_named(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        server = WebServer(WebReceive(port=node.port), Inbox(node.queue), node.queue, dict)
        with pytest.raises(CasewiseError, match=str(node.port)):
            server.start()


@contextmanager
def posting(port: int, *headers: str, path: str = "/studies") -> Iterator[socket.socket]:
    """A connection with the head of a request."""
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {KIND}", *headers]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        yield client


def status_of(client: socket.socket) -> int:
    """The status that is answered; 0 if the connection ends before."""
    client.settimeout(30)
    try:
        return int((client.recv(4096) + b" 0 0").split()[1])
    except ConnectionError:
        return 0


@pytest.mark.parametrize("part", [b"", b"text", bytes(200)])
def test_many_parts_write_few_lines(tmp_path: Path, part: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "casewise.node")
    with running(tmp_path) as node:
        assert store(node.port, *[part] * 20_000)[0] == 413
        for _ in range(3):
            status, answer = store(node.port, *[part] * 1000)
            assert (status, len(answer["0008119A"]["Value"])) == (409, 1000)
        assert len(caplog.records) <= MOST_LINES
        assert store(node.port, file_bytes(image()))[0] == 200
    count_left_out(ended=True)
    assert any("left out" in record.getMessage() for record in caplog.records)


HEADS = {
    "a long value": b"--border\r\nContent-Type: " + b"x" * 100_000,
    "a long name": b"--border\r\n" + b"x" * 100_000,
    "many fields": b"--border\r\n" + b"A: b\r\n" * 20_000,
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_head_of_a_part_is_bounded(tmp_path: Path, head: bytes) -> None:
    with running(tmp_path) as node:
        assert ask(node.port, "/studies", head, Content_Type=KIND)[0] == 400


def test_slow_uploads_end_and_keep_no_place_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeWebSettings, "idle_seconds", 1.5)
    with running(tmp_path) as node, ExitStack() as stack:
        heads = ["Content-Length: 100000", "Transfer-Encoding: chunked", "Content-Length: 100000"]
        slow = [stack.enter_context(posting(node.port, head)) for head in heads]
        for byte in body(b"text")[:12]:  # a byte now and then is not enough
            for each, head in zip(slow, heads, strict=True):
                with suppress(ConnectionError):
                    each.sendall(b"1\r\n%c\r\n" % byte if "chunked" in head else bytes([byte]))
            time.sleep(0.2)
        assert {status_of(each) for each in slow} <= {408, 0}
        assert store(node.port, file_bytes(image()))[0] == 200


def test_one_client_does_not_take_all_places(tmp_path: Path) -> None:
    names = ("pacs", "archive")
    for name in names:
        (tmp_path / name).write_text(f"token-of-{name}")
    with running(tmp_path / "node", tokens={name: tmp_path / name for name in names}) as node, ExitStack() as stack:
        head = "Authorization: Bearer token-of-pacs"
        for _ in range(4):
            client = stack.enter_context(posting(node.port, head, "Content-Length: 1000"))
        assert status_of(client) == 503
        data = file_bytes(image())
        assert store(node.port, data, Authorization="Bearer token-of-pacs")[0] == 503
        assert store(node.port, data, Authorization="Bearer token-of-archive")[0] == 200


def test_connections_without_a_request_lock_out_nobody(tmp_path: Path) -> None:
    with running(tmp_path) as node, ExitStack() as stack:
        for number in range(CONNECTIONS + 50):
            stranger = stack.enter_context(closing(socket.create_connection(("127.0.0.1", node.port))))
            with suppress(ConnectionError):
                stranger.sendall(b"POST /studies HTTP/1.1\r\nX: "[: 1 + number % 20])
        assert store(node.port, file_bytes(image()))[0] == 200
        assert ask(node.port, "/health")[0] == 200


def test_a_head_without_end_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as node:
        with posting(node.port, "X: " + "y" * 200_000) as client:
            assert status_of(client) in (400, 431, 0)
        assert ask(node.port, "/health")[0] == 200
