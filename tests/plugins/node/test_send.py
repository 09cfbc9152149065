"""Partners that receive answers: Orthanc, servers that refuse, servers that are gone, and folders."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pynetdicom = pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from pynetdicom import evt  # noqa: E402

from casewise.files import checksum  # noqa: E402
from casewise.plugins.node.queue.study_queue import Answer, StudyQueue, StudyState  # noqa: E402
from casewise.plugins.node.receive.dicom import DicomReceiver  # noqa: E402
from casewise.plugins.node.receive.inbox import Inbox  # noqa: E402
from casewise.plugins.node.send import (  # noqa: E402
    DeliveryError,
    FolderPartner,
    Partner,
    StorePartner,
    StowPartner,
    check_store_status,
    check_stow_answer,
    partners,
    routes,
    send_due,
)
from casewise.plugins.node.settings import (  # noqa: E402
    DicomPartner,
    DicomReceive,
    NodeSettings,
    Retry,
    SendRule,
    Tls,
)
from tests.plugins.node.dicom_objects import SR, certificate, file_bytes, free_port, image  # noqa: E402
from tests.plugins.node.orthanc import PLUGIN, running_orthanc  # noqa: E402

S = StudyState
PDF, SC = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.7"
RETRY = Retry(first=10, longest=40, give_up=1000)


def answer(folder: Path, number: int = 1, kind: str = SR, **tags: Any) -> Path:
    """An answer of a study; of an image only if it is a Secondary Capture."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{number}.dcm"
    plain = {} if kind == SC else {"PixelData": None, "Rows": None, "Columns": None}
    stated = {"SOPClassUID": kind, "SOPInstanceUID": f"1.2.1.9.{number}", "SeriesInstanceUID": "1.2.1.9"}
    path.write_bytes(file_bytes(image(**(stated | plain | tags))))
    return path


def store_partner(port: int, **settings: Any) -> StorePartner:
    stated = {"host": "127.0.0.1", "port": port, "ae_title": "ORTHANC"} | settings
    return StorePartner("pacs", ["sr"], DicomPartner(**stated))


@contextmanager
def pacs(status: int | list[int], ae_title: str = "ORTHANC", **options: Any) -> Iterator[tuple[int, list[str]]]:
    """A PACS that answers C-STORE with a status, or with one after another; its port, and the UIDs that it received."""
    received: list[str] = []
    left = [status] if isinstance(status, int) else list(status)

    def store(event: Any) -> int:
        received.append(str(event.request.AffectedSOPInstanceUID))
        return left.pop(0) if len(left) > 1 else left[0]

    entity = pynetdicom.AE(ae_title=ae_title)
    entity.require_called_aet = True
    entity.require_calling_aet = options.get("allowed", [])
    entity.supported_contexts = options.get("contexts", pynetdicom.AllStoragePresentationContexts)
    entity.add_supported_context("1.2.840.10008.1.1")
    port = options.get("port") or free_port()
    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield port, received
    finally:
        entity.shutdown()


def failure(partner: Partner, path: Path) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        partner.deliver(path)
    return raised.value


def test_answers_arrive_in_orthanc(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as server:
        paths = [answer(tmp_path / "answers", number, kind) for number, kind in enumerate((SR, SC, PDF))]
        partner = store_partner(server.dicom)
        partner.check()
        for path in [*paths, paths[0]]:
            partner.deliver(path)
        instances = server.ask("/instances")
        assert {server.tags(each)["SOPClassUID"] for each in instances} == {SR, SC, PDF}
        assert {server.tags(each)["StudyInstanceUID"] for each in instances} == {"1.2.1"}
        assert len(instances) == 3
        assert len(server.ask("/studies")) == 1
        assert failure(store_partner(server.dicom, ae_title="OTHER"), paths[0]).gone


def test_answers_arrive_in_orthanc_by_dicomweb(tmp_path: Path) -> None:
    if not PLUGIN.exists():
        pytest.skip("the plugin DICOMweb of Orthanc is not installed")
    with running_orthanc(tmp_path / "orthanc") as server:
        rule = SendRule(stow=f"http://127.0.0.1:{server.web}/dicom-web/studies")
        partner = StowPartner("web", ["sr"], rule)
        partner.check()
        for number, kind in enumerate((SR, SC)):
            partner.deliver(answer(tmp_path, number, kind))
        assert {server.tags(each)["SOPInstanceUID"] for each in server.ask("/instances")} == {"1.2.1.9.0", "1.2.1.9.1"}
        wrong = SendRule(stow=f"http://127.0.0.1:{server.web}/nothing")
        assert failure(StowPartner("web", ["sr"], wrong), answer(tmp_path)).gone


def test_orthanc_sends_to_the_node(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path / "node")
    receiver = DicomReceiver(DicomReceive(port=0, allowed=["ORTHANC"]), Inbox(queue))
    receiver.start()
    try:
        modalities = {"node": ("CASEWISE", "127.0.0.1", receiver.port)}
        with running_orthanc(tmp_path / "orthanc", modalities) as server:
            for study in range(20):
                for number in range(3):
                    server.ask("/instances", file_bytes(image(f"1.2.{study + 1}", number + 1)))
            assert server.ask("/modalities/node/echo", {}) == {}
            job = server.ask("/modalities/node/store", {"Resources": server.ask("/studies"), "Synchronous": True})
            assert (job["InstancesCount"], job["FailedInstancesCount"]) == (60, 0)
        assert [study.instances for study in queue.studies()] == [3] * 20
        assert all(hashlib.sha256(f.path.read_bytes()).hexdigest() == f.sha256 for f in queue.files("1.2.7"))
    finally:
        receiver.stop()


def test_a_node_sends_to_a_node_with_tls(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "authority")[0]
    own, other = certificate(tmp_path, "node", "authority"), certificate(tmp_path, "pacs", "authority")
    queue = StudyQueue(tmp_path / "node")
    receive = DicomReceive(port=0, ae_title="ORTHANC", tls=Tls(certificate=own[0], key=own[1], ca=authority))
    receiver = DicomReceiver(receive, Inbox(queue))
    receiver.start()
    try:
        path = answer(tmp_path, kind=SC)
        trusted = Tls(certificate=other[0], key=other[1], ca=authority)
        store_partner(receiver.port, tls=trusted).check()
        store_partner(receiver.port, tls=trusted).deliver(path)
        assert len(queue.studies()) == 1
        for tls in (None, Tls(ca=other[0], certificate=other[0], key=other[1])):
            error = failure(store_partner(receiver.port, tls=tls), path)
            assert (error.retryable, error.gone) == (True, True)
    finally:
        receiver.stop()


@pytest.mark.parametrize(
    ("status", "retryable"), [(0xA700, True), (0xA701, True), (0x0110, True), (0xA900, False), (0xC123, False)]
)
def test_statuses_of_failure(tmp_path: Path, status: int, retryable: bool) -> None:
    with pacs(status) as (port, received):
        error = failure(store_partner(port), answer(tmp_path))
        assert (error.retryable, error.gone, received) == (retryable, False, ["1.2.1.9.1"])


def test_statuses_of_success() -> None:
    for status in (0x0000, 0xB000, 0xB006, 0xB007):
        check_store_status(status)
    for status, retryable in ((None, True), (0x0122, False), (0x0124, False), (0x0111, False)):
        with pytest.raises(DeliveryError) as raised:
            check_store_status(status)
        assert (raised.value.retryable, raised.value.gone) == (retryable, False)
        assert raised.value.duplicate is (status == 0x0111)


def test_partners_that_reject_or_are_gone(tmp_path: Path) -> None:
    path = answer(tmp_path)
    with pacs(0, allowed=["PACS"]) as (port, _):
        assert failure(store_partner(port), path).retryable
        store_partner(port, calling="PACS").deliver(path)
    with pacs(0, contexts=[pynetdicom.build_context(SC)]) as (port, _):
        error = failure(store_partner(port), path)
        assert (error.retryable, error.gone) == (False, False)
    partner = store_partner(free_port())
    assert failure(partner, path).gone
    with pytest.raises(DeliveryError):
        partner.check()
    assert failure(store_partner(104, host="no-such-host.invalid"), path).gone
    (tmp_path / "text.dcm").write_text("text")
    assert not failure(partner, tmp_path / "text.dcm").retryable


class _Server(BaseHTTPRequestHandler):
    status, body, requests = 200, b"{}", []  # type: ignore[var-annotated]

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.requests.append((self.path, dict(self.headers), content))
        self.send_response(self.status)
        if self.status == 302:
            self.send_header("location", "http://127.0.0.1:9/stolen")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_server(status: int = 200, body: object = None) -> Iterator[tuple[int, list[Any]]]:
    requests: list[Any] = []
    values = {"status": status, "body": json.dumps(body or {}).encode(), "requests": requests}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (_Server,), values))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], requests
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def ending_server() -> Iterator[int]:
    """A server that ends every connection without an answer; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def end() -> None:
            with suppress(OSError):
                while True:
                    listening.accept()[0].close()

        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def test_a_request_of_stow(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token\n")
    path = answer(tmp_path)
    with web_server() as (port, requests):
        rule = SendRule(stow=f"http://127.0.0.1:{port}/web/studies?a=b", token=tmp_path / "token")
        StowPartner("web", ["sr"], rule).deliver(path)
        ((target, headers, content),) = requests
        assert target == "/web/studies?a=b"
        assert headers["Authorization"] == "Bearer a-token"
        assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"')
        assert path.read_bytes() in content


def test_answers_of_stow(tmp_path: Path) -> None:
    path = answer(tmp_path)
    item = {"00081197": {"vr": "US", "Value": [0xA700]}}
    for status, body, retryable in (
        (503, {}, True),
        (500, {}, True),
        (429, {}, True),
        (400, {}, False),
        (401, {}, True),
        (403, {}, True),
        (404, {}, True),
        (302, {}, False),
        (409, {"00081198": {"vr": "SQ", "Value": [item]}}, True),
        (409, {"00081198": {"vr": "SQ", "Value": [{}]}}, False),
        (202, {"0008119A": {"vr": "SQ", "Value": [item]}}, True),
    ):
        with web_server(status, body) as (port, _):
            partner = StowPartner("web", ["sr"], SendRule(stow=f"http://127.0.0.1:{port}/studies"))
            error = failure(partner, path)
            assert (error.retryable, error.gone) == (retryable, status in (401, 403, 404, 429)), status
    gone = StowPartner("web", ["sr"], SendRule(stow=f"http://127.0.0.1:{free_port()}/studies"))
    assert failure(gone, path).gone
    with ending_server() as port:
        ending = StowPartner("web", ["sr"], SendRule(stow=f"http://127.0.0.1:{port}/studies"))
        error = failure(ending, path)
        assert (error.retryable, error.gone) == (True, False)
    check_stow_answer(202, b"")
    xml = b'<DicomAttribute tag="00081197" vr="US"><Value number="1">272</Value></DicomAttribute>'
    with pytest.raises(DeliveryError) as raised:
        check_stow_answer(409, xml)
    assert raised.value.retryable


def test_a_folder(tmp_path: Path) -> None:
    partner = FolderPartner("folder", ["fhir-r4"], tmp_path / "out")
    (tmp_path / "study").mkdir()
    path = tmp_path / "study" / "observation.json"
    for content in ("{}", '{"a": 1}'):
        path.write_text(content)
        partner.check()
        partner.deliver(path)
        assert (tmp_path / "out" / "study" / "observation.json").read_text() == content
    assert failure(partner, tmp_path / "study" / "none").retryable is False
    (tmp_path / "file").write_text("")
    blocked = FolderPartner("folder", ["fhir-r4"], tmp_path / "file" / "out")
    assert failure(blocked, path).gone


def test_a_folder_has_the_present_answers_of_a_study(tmp_path: Path) -> None:
    partner = FolderPartner("folder", ["sr", "summary-sc"], tmp_path / "out")
    names = ["sr.dcm", "summary-sc-1.dcm", "summary-sc-2.dcm"]
    (tmp_path / "study").mkdir()
    for name in names:
        (tmp_path / "study" / name).write_text(name)
        partner.deliver(tmp_path / "study" / name)
    (tmp_path / "out" / "study" / "read.txt").write_text("of another program")
    for name in names[1:]:
        (tmp_path / "study" / name).unlink()
    partner.deliver(tmp_path / "study" / "sr.dcm")
    assert {path.name for path in (tmp_path / "out" / "study").iterdir()} == {"sr.dcm", "read.txt"}


def settings(folder: Path, send: list[dict[str, Any]]) -> NodeSettings:
    values = {"bundle": "b.zip", "receive": {"folder": "in"}, "answer": {"formats": ["sr", "fhir"]}, "send": send}
    return NodeSettings.model_validate(values, context={"folder": folder})


def predicted(queue: StudyQueue, folder: Path, count: int, kind: str = "sr") -> None:
    for number in range(count):
        queue.add_instance(f"1.2.{number}", "1.3", "1.4", folder / "x", "c", "test")
    queue.complete_ready(0, None, time.time() + 1)
    for number in range(count):
        study = queue.claim(time.time())
        assert study is not None
        path = answer(folder / "answers" / str(number), number + 1)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert queue.predicted(study, [Answer("sr.dcm", kind, path, sha256)], None)


def test_a_partner_that_comes_back_receives_everything_once(tmp_path: Path) -> None:
    port = free_port()
    stated = settings(
        tmp_path, [{"dicom": {"host": "127.0.0.1", "port": port, "ae_title": "ORTHANC"}}, {"folder": "o"}]
    )
    receivers = partners(stated)
    assert routes(receivers) == {f"ORTHANC@127.0.0.1:{port}": ("sr",), f"folder {tmp_path / 'o'}": ("sr", "fhir")}
    queue = StudyQueue(tmp_path / "node", routes(receivers), RETRY)
    predicted(queue, tmp_path, 5)
    assert send_due(queue, receivers[1], time.time()) == 5
    assert send_due(queue, receivers[0], time.time()) == 0
    assert queue.deliveries(receivers[0].name, time.time()) == []  # all wait, not only the first
    assert queue.counts()[S.PREDICTED] == 5
    with pacs(0, port=port) as (_, received):
        later = time.time() + RETRY.first + 1
        assert send_due(queue, receivers[0], later) == 5
        assert send_due(queue, receivers[0], later) == 0
    assert sorted(received) == [f"1.2.1.9.{number}" for number in range(1, 6)]
    assert queue.counts()[S.SENT] == 5


def test_refused_answers_wait_for_a_person(tmp_path: Path) -> None:
    port = free_port()
    receivers = partners(settings(tmp_path, [{"dicom": {"host": "127.0.0.1", "port": port, "ae_title": "ORTHANC"}}]))
    queue = StudyQueue(tmp_path / "node", routes(receivers), RETRY)
    predicted(queue, tmp_path, 3)
    with pacs([0xC001, 0xA700, 0x0000], port=port):
        assert send_due(queue, receivers[0], time.time()) == 1
    assert queue.counts() == {state: int(state in (S.SENT, S.PREDICTED, S.QUARANTINED)) for state in S}
    assert "0xc001" in next(study.reason for study in queue.studies() if study.state == S.QUARANTINED)


class Choosy(Partner):
    """A partner that meets an error with some answers; in `tries` their numbers."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        super().__init__("pacs", ["sr"])
        self.errors, self.tries = errors, list[int]()

    def deliver(self, path: Path) -> None:
        self.tries.append(number := int(path.parent.name))
        if number in self.errors:
            raise self.errors[number]

    def check(self) -> None:
        pass


def test_an_answer_that_a_partner_fails_to_take_keeps_back_no_other(tmp_path: Path) -> None:
    partner = Choosy({1: DeliveryError("500", retryable=True)})
    queue = StudyQueue(tmp_path / "node", routes([partner]), RETRY)
    predicted(queue, tmp_path, 5)
    assert send_due(queue, partner, time.time()) == 4
    for number in range(20):  # what the partner takes meanwhile does not shorten the waits of what it does not take
        queue.add_instance(f"1.3.{number}", "1.3", "1.4", tmp_path / "x", "c", "test")
        predicted(queue, tmp_path, 0)
        study = queue.claim(time.time())
        assert study is not None
        path = answer(tmp_path / "answers" / str(100 + number))
        assert queue.predicted(study, [Answer("sr.dcm", "sr", path, checksum(path))], None)
        assert send_due(queue, partner, time.time() + 9) == 1
    assert partner.tries.count(1) == 1
    assert send_due(queue, partner, time.time() + 11) == 0
    assert partner.tries.count(1) == 2


def test_a_partner_that_takes_nothing_pauses(tmp_path: Path) -> None:
    partner = Choosy({number: DeliveryError("500", retryable=True) for number in range(5)})
    queue = StudyQueue(tmp_path / "node", routes([partner]), RETRY)
    predicted(queue, tmp_path, 8)
    assert send_due(queue, partner, time.time()) == 0
    assert partner.tries == [0, 1, 2]
    assert send_due(queue, partner, time.time() + 9) == 0
    assert partner.tries == [0, 1, 2]
    assert send_due(queue, partner, time.time() + 11) == 3
    assert partner.tries[3:8] == [3, 4, 5, 6, 7]  # others first


def test_an_unexpected_error_is_an_attempt(tmp_path: Path) -> None:
    partner = Choosy({0: ValueError("Doe^Jane")})
    queue = StudyQueue(tmp_path / "node", routes([partner]), RETRY)
    predicted(queue, tmp_path, 2)
    assert send_due(queue, partner, time.time()) == 1
    reason = next(study.reason for study in queue.studies() if study.state == S.PREDICTED)
    assert "ValueError" in reason
    assert "Doe" not in reason
    assert queue.deliveries("pacs", time.time() + 9) == []
    later = time.time()
    for _ in range(9):  # the same fault is not met for days
        send_due(queue, partner, later := later + RETRY.longest)
    assert partner.tries.count(0) == 3
    assert queue.counts()[S.QUARANTINED] == 1


def test_a_wrong_token_is_no_fault_of_an_answer(tmp_path: Path) -> None:
    with web_server(401) as (port, requests):
        partner = StowPartner("web", ["sr"], SendRule(stow=f"http://127.0.0.1:{port}/studies"))
        queue = StudyQueue(tmp_path / "node", routes([partner]), RETRY)
        predicted(queue, tmp_path, 5)
        assert send_due(queue, partner, time.time()) == 0
        assert (queue.counts()[S.PREDICTED], len(requests)) == (5, 1)


def test_a_duplicate_is_a_repeat_only_of_the_first_answer(tmp_path: Path) -> None:
    port = free_port()
    receivers = partners(settings(tmp_path, [{"dicom": {"host": "127.0.0.1", "port": port, "ae_title": "ORTHANC"}}]))
    queue = StudyQueue(tmp_path / "node", routes(receivers), RETRY)
    with pacs(0x0111, port=port):
        predicted(queue, tmp_path, 1)
        assert send_due(queue, receivers[0], time.time()) == 1
        queue.add_instance("1.2.0", "1.3", "1.5", tmp_path / "y", "d", "test")
        predicted(queue, tmp_path, 1)
        assert send_due(queue, receivers[0], time.time()) == 0
    assert queue.counts()[S.QUARANTINED] == 1


def test_a_changed_answer_is_not_sent(tmp_path: Path) -> None:
    receivers = partners(settings(tmp_path, [{"folder": "out"}]))
    queue = StudyQueue(tmp_path / "node", routes(receivers), RETRY)
    predicted(queue, tmp_path, 2)
    (tmp_path / "answers" / "0" / "1.dcm").write_bytes(b"changed")
    (tmp_path / "answers" / "1" / "2.dcm").unlink()
    assert send_due(queue, receivers[0], time.time()) == 0
    assert queue.counts()[S.QUARANTINED] == 2
    assert not (tmp_path / "out").exists()
