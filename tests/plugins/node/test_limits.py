"""Attacks on the network side, which the shipped configuration of Orthanc limits."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.film_files import film_bytes
from tests.plugins.node.dicom_objects import free_port
from tests.plugins.node.orthanc import Orthanc, running_orthanc

pytest.importorskip("pydicom", reason="the extra `node` is not installed")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Orthanc, Orthanc]]:
    """The Orthanc of a node, and a PACS that it knows."""
    folder, port = tmp_path_factory.mktemp("pair"), free_port()
    with running_orthanc(folder / "own", DicomModalities={"PACS": ["PACS", "127.0.0.1", port]}) as own:
        titles = {"CASEWISE": "known", "OTHER": "wrong title"}
        targets = {title: [title, "127.0.0.1", own.dicom] for title in titles}
        targets["STRANGER"] = {"AET": "CASEWISE", "Host": "127.0.0.1", "Port": own.dicom, "LocalAet": "STRANGER"}
        settings = {"DicomAet": "PACS", "DicomModalities": targets}
        with running_orthanc(folder / "pacs", (port, free_port()), **settings) as pacs:
            pacs.store(film_bytes(np.zeros((8, 8), np.uint16), StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1"))
            yield own, pacs


def sent(pair: tuple[Orthanc, Orthanc], name: str) -> bool:
    """Whether the PACS can send an image to the Orthanc of the node."""
    own, pacs = pair
    for study in own.ask("/studies"):
        own.ask(f"/studies/{study}", method="DELETE")
    with suppress(AssertionError):  # it was rejected
        pacs.ask(f"/modalities/{name}/store", {"Resources": pacs.ask("/instances")})
    return len(own.ask("/instances")) == 1


def test_only_a_known_partner_that_calls_the_right_title_may_send(pair: tuple[Orthanc, Orthanc]) -> None:
    assert [sent(pair, name) for name in ("CASEWISE", "OTHER", "STRANGER")] == [True, False, False]


def test_dripping_requests_keep_nobody_out_of_http(pair: tuple[Orthanc, Orthanc]) -> None:
    with ExitStack() as stack:
        address = ("127.0.0.1", pair[0].web)
        for connection in [stack.enter_context(socket.create_connection(address, 10)) for _ in range(30)]:
            connection.sendall(b"POST /instances HTTP/1.1\r\nHost: a\r\nContent-Le")
        assert pair[0].ask("/system")["DicomAet"] == "CASEWISE"


def test_a_stated_length_takes_no_memory(pair: tuple[Orthanc, Orthanc]) -> None:
    process = psutil.Process(pair[0].process.pid)
    before = process.memory_info().rss
    with socket.create_connection(("127.0.0.1", pair[0].dicom), 10) as connection:
        connection.settimeout(5)
        try:
            connection.sendall(b"\x01\x00\xff\xff\xff\xff")
            for _ in range(200):
                connection.sendall(os.urandom(2**20))
        except OSError:  # it was closed, or nobody reads it
            pass
        time.sleep(0.5)
        assert process.memory_info().rss - before < 150 * 2**20
    assert sent(pair, "CASEWISE")


@pytest.mark.parametrize("path", ["/changes", "/instances", "/dicom-web/studies"])
def test_nobody_without_the_password_uses_http(pair: tuple[Orthanc, Orthanc], path: str) -> None:
    part = b"--a\r\nContent-Type: application/dicom\r\n\r\n\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=a'}
    log = Path(pair[0].process.args[1]).with_name("log.txt")
    before = log.stat().st_size
    connection = http.client.HTTPConnection("127.0.0.1", pair[0].web, timeout=20)
    try:
        connection.request("POST", path, part * 20_000 + b"--a--\r\n", headers)
        assert connection.getresponse().status == 401
    except OSError:  # it was closed while the request was sent
        pass
    connection.close()
    assert log.stat().st_size - before < 10_000
