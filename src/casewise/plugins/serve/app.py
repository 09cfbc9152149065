"""The web application: the interface in JSON, the page, and health."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from casewise.errors import RunError
from casewise.files import TEMPORARY, json_text, make_folder, sync_folder
from casewise.plugins.serve.form import read_submission
from casewise.plugins.serve.pool import WorkerPool
from casewise.plugins.serve.settings import Json, ServiceError, ServiceSettings
from casewise.plugins.serve.submission import Submission

PAGE = Path(__file__).parent / "page"
CODES = {400: "bad_form", 404: "not_found", 405: "wrong_method"}


def create_app(settings: ServiceSettings, pool: WorkerPool, description: Json, folder: Path) -> Starlette:
    """The application, without the guard.

    Args:
        description: of the model (see `casewise.plugins.serve.description.describe`).
        folder: requests lie in it until they are answered.
    """
    public = {key: value for key, value in description.items() if key not in ("targets_by_name", "titles")}
    public["limits"] = {name: getattr(settings, name) for name in ("max_bytes", "max_files", "max_pixels")}
    public["limits"]["kept"] = settings.keep is not None

    def answering(task: str) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            pool.enter()
            try:
                with tempfile.TemporaryDirectory(dir=folder, prefix="request-") as name:
                    submission = await read_submission(request, Path(name), description, settings)
                    if task == "predict" and (submission.target or submission.learner):
                        field = "target" if submission.target else "learner"
                        message = f"{field} is a field of /api/explain only. Leave it out."
                        raise ServiceError(422, "unknown_field", message)
                    answer = await pool.answer({"task": task, "submission": submission.as_json(), "folder": name})
                    if task == "predict" and settings.keep:
                        await run_in_threadpool(keep_request, settings.keep, Path(name), submission, answer)
            finally:
                pool.leave()
            return JSONResponse(answer)

        return answered

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return JSONResponse(error.as_json(), error.status, headers)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = CODES.get(error.status_code, "bad_request")
        return await refused(request, ServiceError(error.status_code, code, _sentence(error, settings)))

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


def keep_request(folder: Path, uploads: Path, submission: Submission, answer: Json) -> None:
    """Keep the images and the answer in a new folder, which appears complete or not at all.

    The images have neutral names; `answer.json` has those of the client.

    Raises:
        ServiceError: 507, the folder cannot be written.
    """
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    temporary = folder / f"{TEMPORARY}{name}"
    try:
        make_folder(folder)
        shutil.copytree(uploads, temporary / "images")
        names = {file.stored: file.name for file in submission.files}
        kept = {"subject": submission.options.get("subject", ""), "files": names, **answer}
        (temporary / "answer.json").write_text(json_text(kept), encoding="utf-8")
        temporary.replace(folder / name)
        sync_folder(folder)
    except (OSError, RunError) as error:
        message = "The request could not be kept. Tell whoever runs this service to check the disk."
        raise ServiceError(507, "not_kept", message) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
