"""The web application: the interface in JSON, the page and health; and the server that runs it until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from casewise.console import Show, Silent
from casewise.errors import CasewiseError
from casewise.plugins.serve.guard import Guard, response_to
from casewise.plugins.serve.pool import RETRY_AFTER, WorkerPlan, WorkerPool, work
from casewise.plugins.serve.settings import Json, ServiceError, ServiceSettings, check_learner
from casewise.plugins.serve.submission import read_submission
from casewise.run_folder.folder import check_model_path

PAGE = Path(__file__).parent / "page"
# Uploads that are received at a time: of each place in the queue, and at least.
UPLOADS, FEWEST_UPLOADS = 4, 16
CODES = {400: "bad_form", 404: "not_found", 405: "wrong_method"}


def create_app(settings: ServiceSettings, pool: WorkerPool, description: Json, folder: Path) -> Starlette:
    """The application, without the guard.

    Args:
        description: of the model (see `casewise.plugins.serve.session.describe`).
        folder: requests lie in it until they are answered.
    """
    public = {key: value for key, value in description.items() if key not in ("targets_by_name", "titles")}
    public["limits"] = {name: getattr(settings, name) for name in ("max_bytes", "max_files", "max_pixels")}

    uploads = asyncio.Semaphore(max(FEWEST_UPLOADS, UPLOADS * (settings.workers + settings.queue)))

    def answering(task: str) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            pool.check()  # a client of a busy service sends no large body in vain
            if uploads.locked():
                message = f"The service is busy: many uploads are in progress. Try again in {RETRY_AFTER} seconds."
                raise ServiceError(503, "busy", message, retry_after=RETRY_AFTER)
            with tempfile.TemporaryDirectory(dir=folder, prefix="request-") as name:
                async with uploads:
                    submission = await read_submission(request, Path(name), description, settings)
                if task == "predict" and (submission.target or submission.learner):
                    field = "target" if submission.target else "learner"
                    message = f"{field} is a field of /api/explain only. Leave it out."
                    raise ServiceError(422, "unknown_field", message)
                with pool.queued():  # only now, so that stalled uploads take none
                    answer = await pool.answer({"task": task, "submission": asdict(submission), "folder": name})
            return JSONResponse(answer)

        return answered

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return response_to(error)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = CODES.get(error.status_code, "bad_request")
        answer = response_to(ServiceError(error.status_code, code, _sentence(error, settings)))
        answer.headers.update(error.headers or {})
        return answer

    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            Route("/health", lambda _: JSONResponse({"status": "ok"})),
            Route("/api/model", lambda _: JSONResponse(public)),
            Route("/api/predict", answering("predict"), methods=["POST"]),
            Route("/api/explain", answering("explain"), methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        exception_handlers={ServiceError: refused, HTTPException: failed},
    )


def _sentence(error: HTTPException, settings: ServiceSettings) -> str:
    """What is wrong with a request that is no valid form, or is for another address."""
    if error.status_code == 404:
        return "There is nothing at this address. The page is at /."
    if error.status_code == 405:
        return "This address does not answer this method."
    if "Too many" in str(error.detail):
        return f"The form has too many parts. At most {settings.max_files:,} files can be sent at once."
    return f"The form cannot be read: {error.detail} Send it again as multipart/form-data."


# Connections at a time; further ones get 503.
CONNECTIONS = 200


@contextmanager
def service(
    settings: ServiceSettings, target: Callable[[Connection, WorkerPlan], None] = work
) -> Iterator[tuple[ASGIApp, WorkerPool, Json]]:
    """The application with its worker processes, and the description of its model; all ends with the block.

    Args:
        target: the function of the worker processes.

    Raises:
        CasewiseError: the options do not agree, or the model cannot be loaded.
    """
    settings.check()
    with tempfile.TemporaryDirectory(prefix="casewise-serve-") as name:
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
        plan = WorkerPlan(settings.bundle, settings.learner, settings.max_pixels, Path(name), threads, settings.trust)
        pool = WorkerPool(plan, settings, target)
        try:
            description = pool.start()
            yield Guard(create_app(settings, pool, description, Path(name)), settings), pool, description
        finally:
            pool.stop()


def server_of(app: ASGIApp, settings: ServiceSettings) -> uvicorn.Server:
    """A server of the application; it logs nothing about requests itself."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol(settings.idle_seconds),
        ws="none",
        loop="asyncio",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level=logging.CRITICAL,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
        server_header=False,
        date_header=False,
    )
    return uvicorn.Server(config)


def protocol(idle_seconds: float) -> type[H11Protocol]:
    """HTTP whose clients must send the head of a request within some seconds."""

    class ImpatientProtocol(H11Protocol):
        """Closes connections that are open without a request."""

        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            waiting = self.conn.their_state is h11.IDLE
            if waiting and self._head_timer is None:
                self._head_timer = self.loop.call_later(idle_seconds, self.transport.close)
            elif not waiting:
                self._stop()

        def _stop(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return ImpatientProtocol


def run_service(settings: ServiceSettings, show: Show) -> None:
    """Load the model, print the address, and answer until Ctrl-C or SIGTERM.

    Raises:
        CasewiseError: the options do not agree, the model cannot be loaded, or the port is in use.
    """
    settings.check()
    check_learner(settings.learner, check_model_path(settings.bundle, settings.trust).get("learners", ()))
    # a stop from outside must end the workers and remove their files, as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _bound(settings) as listening, ExitStack() as stack, suppress(KeyboardInterrupt):
        with show.bar("load"):
            app, _, description = stack.enter_context(service(settings))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{listening.getsockname()[1]}/"
        show.line("serve", f"{description['title']}, {description['learner_title']}: {address}")
        show.line("", "Press Ctrl-C to stop.")
        _log_requests(quiet=isinstance(show, Silent))
        server_of(app, settings).run(sockets=[listening])


def _bound(settings: ServiceSettings) -> socket.socket:
    """A listening socket."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        reason = f"{settings.host} port {settings.port} cannot be used ({error.strerror or error})"
        raise CasewiseError(f"--port: {reason}. Choose another port, or 0 for a free one.") from error


def _log_requests(*, quiet: bool) -> None:
    """One line a request on the terminal: number, method, path, status and time, and nothing of its content."""
    log = logging.getLogger("casewise.plugins.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
