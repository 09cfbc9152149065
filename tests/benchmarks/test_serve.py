"""The benchmark of the service: what its clients count, and when the memory is called flat."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest


class Answers(BaseHTTPRequestHandler):
    """Answers saliency with a status of the test, and every second prediction with 503."""

    count, status = 0, 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Answers.count += 1
        code = Answers.status if self.path == "/api/explain" else (200, 503)[Answers.count % 2]
        self.send_response(code)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "growth", "good"), [(200, 1.0, True), (500, 1.0, False), (200, 1.2, False)])
def test_errors_and_growing_memory_end_the_load(
    benchmark: Any,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    growth: float,
    good: bool,
) -> None:
    module = benchmark("serve")
    monkeypatch.setattr(module, "INTERVAL", 0.05)
    monkeypatch.setattr(module, "AVERAGED", 1)
    monkeypatch.setattr(module, "EXPLAINED", 2)
    monkeypatch.setattr(Answers, "status", status)
    sizes = iter([2**20, *[int(growth * 2**20)] * 1000])
    server = module.Server(SimpleNamespace(pid=0), port)
    monkeypatch.setattr(server, "memory", lambda: next(sizes))
    assert module.under_load(server, b"body", 2, 0.01, settled=0.0) == good
    lines = capsys.readouterr().out
    assert "of 200" in lines
    assert "of 503" in lines
    assert ("of 500" in lines) == (status == 500)
