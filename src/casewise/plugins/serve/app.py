"""The web application: the interface in JSON, the page, and health."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from casewise.plugins.serve.form import read_submission
from casewise.plugins.serve.pool import RETRY_AFTER, WorkerPool
from casewise.plugins.serve.settings import Json, ServiceError, ServiceSettings

PAGE = Path(__file__).parent / "page"
# Uploads that are received at a time: of each place in the queue, and at least.
UPLOADS, FEWEST_UPLOADS = 4, 16
CODES = {400: "bad_form", 404: "not_found", 405: "wrong_method"}


def create_app(settings: ServiceSettings, pool: WorkerPool, description: Json, folder: Path) -> Starlette:
    """The application, without the guard.

    Args:
        description: of the model (see `casewise.plugins.serve.description.describe`).
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
                    answer = await pool.answer({"task": task, "submission": submission.as_json(), "folder": name})
            return JSONResponse(answer)

        return answered

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return JSONResponse(error.as_json(), error.status, headers)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = CODES.get(error.status_code, "bad_request")
        answer = await refused(request, ServiceError(error.status_code, code, _sentence(error, settings)))
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
