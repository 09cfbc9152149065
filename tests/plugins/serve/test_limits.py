"""The service around a model: tokens, limits, slow clients, the queue, the death of workers, and what is logged."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from casewise.errors import CasewiseError
from casewise.plugins.serve.settings import ServiceSettings
from casewise.web.settings import LOG
from tests.plugins.serve.serving import Running, running, toy_work

TOKEN = "a-token-of-tests"
IMAGE = {"upper": ("Jane Doe.png", b"pixels of Jane", "image/png")}


@pytest.fixture(scope="module")
def toy() -> Iterator[Running]:
    limits = {"max_bytes": 100_000, "max_files": 20, "queue": 1, "idle_seconds": 0.4, "upload_seconds": 2.0}
    settings = ServiceSettings(Path("bundle"), **limits)
    with running(settings, toy_work) as service:
        yield service


def error_of(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    return str(error["message"])


def test_every_answer_has_the_headers_of_security(toy: Running) -> None:
    for path in ("/", "/health", "/api/model", "/page/page.js", "/nothing"):
        headers, head = httpx.get(toy.url + path).headers, httpx.head(toy.url + path)
        assert (head.status_code, head.content) == (404 if path == "/nothing" else 200, b"")
        assert head.headers["content-length"] == headers["content-length"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert httpx.head(toy.url + "/api/predict").headers["allow"] == "POST"


def test_the_page_takes_nothing_from_elsewhere() -> None:
    from casewise.plugins.serve.server import PAGE

    for path in PAGE.iterdir():
        text = path.read_text()
        hosts = [part.split("/")[0] for part in text.split("://")[1:]]
        assert set(hosts) <= {"www.w3.org"}, path  # the name of SVG elements, which nothing fetches
        assert "style=" not in text, path


def test_a_token_is_needed_where_the_service_has_one() -> None:
    with running(ServiceSettings(Path("bundle"), token=TOKEN), toy_work) as service:
        assert "needs a token" in error_of(httpx.get(service.url + "/api/model"), 401, "token")
        for wrong in ("wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
            answer = httpx.get(service.url + "/api/model", headers={"Authorization": f"Bearer {wrong}"})
            error_of(answer, 401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
        basic = httpx.post(service.url + "/api/predict", files=IMAGE, headers={"Authorization": f"Basic {TOKEN}"})
        error_of(basic, 401, "token")
        assert httpx.get(service.url + "/health").json() == {"status": "ok"}
        good = httpx.get(service.url + "/api/model", headers={"Authorization": f"Bearer {TOKEN}"})
        assert good.status_code == 200
        for path in ("/", "/health", "/page/page.js"):
            assert httpx.get(service.url + path).status_code == 200


def test_other_hosts_need_a_token_and_tokens_are_long() -> None:
    with pytest.raises(CasewiseError, match="--host"):
        ServiceSettings(Path("bundle"), host="0.0.0.0").check()
    with pytest.raises(CasewiseError, match="--token"):
        ServiceSettings(Path("bundle"), token="short").check()
    ServiceSettings(Path("bundle"), host="0.0.0.0", token=TOKEN).check()


def test_pages_of_other_sites_cannot_use_a_local_service(toy: Running) -> None:
    error_of(httpx.get(toy.url + "/api/model", headers={"Host": "evil.example"}), 421, "wrong_host")
    error_of(httpx.get(toy.url + "/api/model", headers={"Host": "["}), 421, "wrong_host")
    error_of(httpx.post(toy.url + "/api/predict", files=IMAGE, headers={"Origin": "http://["}), 403, "other_site")
    answer = httpx.post(toy.url + "/api/predict", files=IMAGE, headers={"Origin": "http://evil.example"})
    error_of(answer, 403, "other_site")
    own = httpx.post(toy.url + "/api/predict", files=IMAGE, headers={"Origin": toy.url})
    assert own.status_code == 200


def test_too_large_requests_are_refused_and_their_clients_read_why(toy: Running) -> None:
    large = {"upper": ("a.png", bytes(3_000_000), "image/png")}
    assert "MiB" in error_of(httpx.post(toy.url + "/api/predict", files=large), 413, "too_large")

    def pieces() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="upper"; filename="a.png"\r\n\r\n'
        for _ in range(40):
            yield bytes(10_000)
        yield b"\r\n--x--\r\n"

    # no Content-Length: the size is known only when it is read
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = httpx.post(toy.url + "/api/predict", content=pieces(), headers=headers)
    error_of(answer, 413, "too_large")


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that a thread or another process brings about."""
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("the condition did not come about")


def spoken(port: int, data: bytes, seconds: float = 8.0) -> bytes:
    """What the service answers to raw bytes of a client that then says nothing more."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


BEGUN = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5000\r\n"
BEGUN += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"


def test_stalled_uploads_take_no_place_in_the_queue() -> None:
    with running(ServiceSettings(Path("bundle"), queue=0), toy_work) as service, ExitStack() as stack:
        # the last ones are as many as may lie on the disk
        for further, stalled, status in ((9, 9, 200), (7, 16, 503)):
            for _ in range(further):
                stack.enter_context(socket.create_connection(("127.0.0.1", service.port))).sendall(BEGUN)
            until(lambda count=stalled: len(list(service.folder.glob("request-*"))) == count)
            answer = httpx.post(service.url + "/api/predict", files=IMAGE, timeout=60)
            assert answer.status_code == status
        error_of(answer, 503, "busy")


def test_slow_clients_are_dropped(toy: Running) -> None:
    with ThreadPoolExecutor() as clients:  # each waits for seconds
        said = (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"", BEGUN)
        half, silent, answer = clients.map(lambda data: spoken(toy.port, data), said)
    assert half == silent == b""
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"slow_upload" in answer
    until(lambda: toy.pool.taken == 0)


def test_the_death_of_a_worker_is_survived(toy: Running) -> None:
    first = httpx.post(toy.url + "/api/predict", files=IMAGE).json()["pid"]
    once = httpx.post(toy.url + "/api/predict", files=IMAGE, data={"visit": "die once"}, timeout=60)
    assert once.status_code == 200
    assert once.json()["pid"] != first
    error_of(httpx.post(toy.url + "/api/predict", files=IMAGE, data={"visit": "die"}, timeout=60), 503, "worker_died")
    assert httpx.post(toy.url + "/api/predict", files=IMAGE, timeout=60).status_code == 200
    assert not list(toy.folder.glob("request-*"))


def test_a_model_that_was_replaced_meanwhile_answers_nothing() -> None:
    with running(ServiceSettings(Path("bundle")), toy_work) as service:
        (service.folder / "changed").touch()
        answer = httpx.post(service.url + "/api/predict", files=IMAGE, data={"visit": "die"}, timeout=60)
        error_of(answer, 503, "no_worker")
        error_of(httpx.post(service.url + "/api/predict", files=IMAGE, timeout=60), 503, "no_worker")


def test_a_full_queue_is_refused_and_no_waiting_request_is_lost(toy: Running) -> None:
    answers: list[int] = []

    def send(visit: str) -> None:
        answers.append(httpx.post(toy.url + "/api/predict", files=IMAGE, data={"visit": visit}, timeout=60).status_code)

    waiting = [threading.Thread(target=send, args=(visit,)) for visit in ("wait", "next")]
    waiting[0].start()
    until(lambda: (toy.folder / "waiting").exists())
    waiting[1].start()
    until(lambda: toy.pool.taken == 2)
    refused = httpx.post(toy.url + "/api/predict", files=IMAGE)
    error_of(refused, 503, "busy")
    assert int(refused.headers["retry-after"]) > 0
    assert httpx.get(toy.url + "/health").status_code == 200
    (toy.folder / "go").touch()
    for thread in waiting:
        thread.join()
    assert answers == [200, 200]


def test_a_prediction_that_takes_too_long_is_stopped() -> None:
    with running(ServiceSettings(Path("bundle"), timeout=0.5), toy_work) as service:
        answer = httpx.post(service.url + "/api/predict", files=IMAGE, data={"visit": "wait"}, timeout=60)
        error_of(answer, 503, "timeout")
        assert httpx.post(service.url + "/api/predict", files=IMAGE, timeout=60).status_code == 200


def test_nothing_is_stored(toy: Running) -> None:
    httpx.post(toy.url + "/api/predict", files=IMAGE)
    assert not [path for path in toy.folder.rglob("*") if path.is_file() and b"Jane" in path.read_bytes()]
    error_of(httpx.post(toy.url + "/api/predict", data={"visit": "a"}), 415, "not_multipart")


def test_the_log_has_neither_names_nor_content(toy: Running, caplog: pytest.LogCaptureFixture) -> None:
    # a node in this process sets the level of its web server's log
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger=LOG):
        answers = [
            httpx.post(toy.url + "/api/predict?name=Jane", files=IMAGE, data={"visit": "Secret visit of Jane"}),
            httpx.get(toy.url + "/Jane/Doe.png"),
            httpx.post(toy.url + "/api/predict", files={"Jane": ("Jane.png", b"x")}),
        ]
        own = [answer.headers["x-request"] for answer in answers]
        # a line follows its answer, so that of a request of another test may come now, too
        until(lambda: all(any(r.getMessage().startswith(name) for r in list(caplog.records)) for name in own))
    records = [record for record in caplog.records if record.name.startswith(("casewise", "uvicorn"))]
    lines = [record.getMessage() for record in records]
    assert ["/api/predict" in line for name in own for line in lines if line.startswith(name)] == [True, False, True]
    assert not [line for line in lines if "Jane" in line or "Secret" in line or "Doe" in line]
