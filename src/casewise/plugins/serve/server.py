"""The web application: the interface in JSON, the page and health; and the server that runs it until it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from casewise.console import Show, Silent
from casewise.plugins.serve.pool import RETRY_AFTER, ServicePlan, WorkerPool, work
from casewise.plugins.serve.settings import ServiceSettings, check_learner
from casewise.plugins.serve.submission import read_submission
from casewise.run_folder.folder import check_model_path
from casewise.web.guard import Guard, response_to
from casewise.web.server import address_of, bound, log_requests, server_of
from casewise.web.settings import Json, ServiceError

PAGE = Path(__file__).parent / "page"
# Uploads that are received at a time: of each place in the queue, and at least.
UPLOADS, FEWEST_UPLOADS = 4, 16
# Paths whose requests are logged.
PATHS = ("/api/model", "/api/predict", "/api/explain")
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
            Route("/api/model", lambda _: JSONResponse(public | {"source": pool.source})),
            Route("/api/predict", answering("predict"), methods=["POST"]),
            Route("/api/explain", answering("explain"), methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        exception_handlers={ServiceError: refused, HTTPException: failed},
    )


def _sentence(error: HTTPException, settings: ServiceSettings) -> str:
    """The error message for a request that is not a valid form, or is for another address."""
    if error.status_code == 404:
        return "There is nothing at this address. The page is at /."
    if error.status_code == 405:
        return "This address does not answer this method."
    if "Too many" in str(error.detail):
        return f"The form has too many parts. At most {settings.max_files:,} files can be sent at once."
    return f"The form cannot be read: {error.detail} Send it again as multipart/form-data."


@contextmanager
def service(
    settings: ServiceSettings, target: Callable[[Connection, ServicePlan], None] = work
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
        common = (settings.bundle, Path(name), threads, settings.trust)
        plan = ServicePlan(*common, learner=settings.learner, max_pixels=settings.max_pixels)
        pool = WorkerPool(plan, settings, target)
        try:
            description = pool.start()
            yield (
                Guard(create_app(settings, pool, description, Path(name)), settings, PATHS, ("/page/",)),
                pool,
                description,
            )
        finally:
            pool.stop()


def run_service(settings: ServiceSettings, show: Show) -> None:
    """Load the model, print the address, and answer until Ctrl-C or SIGTERM.

    Raises:
        CasewiseError: the options do not agree, the model cannot be loaded, or the port is in use.
    """
    settings.check()
    check_learner(settings.learner, check_model_path(settings.bundle, settings.trust).get("learners", ()))
    # a stop from outside must end the workers and remove their files, as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with bound(settings.host, settings.port) as listening, ExitStack() as stack, suppress(KeyboardInterrupt):
        with show.bar("load"):
            app, _, description = stack.enter_context(service(settings))
        address = address_of(listening, settings.host)
        show.line("serve", f"{description['title']}, {description['learner_title']}: {address}")
        show.line("", "Press Ctrl-C to stop.")
        log_requests(quiet=isinstance(show, Silent))
        server_of(app, settings).run(sockets=[listening])
