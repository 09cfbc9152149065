"""The web application: the interface in JSON, the page, health and counters."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from casewise.errors import RunError
from casewise.files import TEMPORARY, json_text, make_folder, sync_folder
from casewise.plugins.serve.form import IMAGE, read_submission
from casewise.plugins.serve.guard import error_answer
from casewise.plugins.serve.pool import Counters, WorkerPool
from casewise.plugins.serve.schemas import ErrorAnswer, Explanation, Health, ModelDescription, Prediction
from casewise.plugins.serve.settings import Json, ServiceError, ServiceSettings
from casewise.plugins.serve.submission import Submission
from casewise.version import __version__

PAGE = Path(__file__).parent / "page"
REFUSED: dict[int | str, Json] = {
    400: {"model": ErrorAnswer, "description": "The form is damaged, or has too many parts."},
    401: {"model": ErrorAnswer, "description": "The token is missing or wrong."},
    403: {"model": ErrorAnswer, "description": "The request comes from a page of another site."},
    408: {"model": ErrorAnswer, "description": "The upload was too slow."},
    413: {"model": ErrorAnswer, "description": "The request or an image is too large."},
    415: {"model": ErrorAnswer, "description": "The request is no multipart form."},
    421: {"model": ErrorAnswer, "description": "A local service was called by another name than its own."},
    422: {"model": ErrorAnswer, "description": "An image cannot be read, is missing, or a field is wrong."},
    500: {"model": ErrorAnswer, "description": "A fault of casewise."},
    503: {"model": ErrorAnswer, "description": "The service is busy; the header Retry-After says when to try again."},
    507: {"model": ErrorAnswer, "description": "The request was to be kept, and the folder cannot be written."},
}
OF_ALL: dict[int | str, Json] = {status: REFUSED[status] for status in (401, 403, 421, 500)}
CODES = {400: "bad_form", 404: "not_found", 405: "wrong_method"}


def create_app(
    settings: ServiceSettings, pool: WorkerPool, description: Json, counters: Counters, folder: Path
) -> FastAPI:
    """The application, without the guard.

    Args:
        description: of the model (see `casewise.plugins.serve.description.describe`).
        folder: requests lie in it until they are answered.
    """
    app = FastAPI(
        title=f"casewise: {description['title']}",
        version=__version__,
        description=description["notice"],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    limits = {
        "max_bytes": settings.max_bytes,
        "max_files": settings.max_files,
        "max_pixels": settings.max_pixels,
        "kept": settings.keep is not None,
    }
    public = {key: value for key, value in description.items() if key not in ("targets_by_name", "titles")} | {
        "limits": limits
    }
    form = _form_schema(description)

    async def answered(request: Request, task: str) -> JSONResponse:
        pool.enter()
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix="request-") as name:
                submission = await read_submission(request, Path(name), description, settings)
                if task == "predict" and (submission.target or submission.learner):
                    field = "target" if submission.target else "learner"
                    raise ServiceError(422, "unknown_field", f"{field} is a field of /api/explain only. Leave it out.")
                counters.add("uploaded_images_total", len(submission.files))
                counters.add("uploaded_bytes_total", submission.options["bytes"])
                answer = await pool.answer({"task": task, "submission": submission.as_json(), "folder": name})
                if task == "predict":
                    counters.add("visits_total", len(answer["visits"]))
                    counters.add("flagged_visits_total", sum(bool(visit["flags"]) for visit in answer["visits"]))
                    if settings.keep:
                        await run_in_threadpool(keep_request, settings.keep, Path(name), submission, answer)
        finally:
            pool.leave()
        return JSONResponse(answer)

    @app.get("/api/model", response_model=None, responses={200: {"model": ModelDescription}, **OF_ALL})
    async def model() -> JSONResponse:
        """The model: targets with ranges and bands, regions or sequences, limits, and the model card."""
        return JSONResponse(public)

    @app.post(
        "/api/predict",
        response_model=None,
        responses={200: {"model": Prediction}, **REFUSED},
        openapi_extra={"requestBody": form},
    )
    async def predict(request: Request) -> JSONResponse:
        """Predict one subject at one or several visits from images."""
        return await answered(request, "predict")

    @app.post(
        "/api/explain",
        response_model=None,
        responses={200: {"model": Explanation}, **REFUSED},
        openapi_extra={"requestBody": form},
    )
    async def explain(request: Request) -> JSONResponse:
        """Saliency maps over the original images of the same form."""
        return await answered(request, "explain")

    @app.get("/health", responses={200: {"model": Health}})
    async def health() -> Health:
        """Whether the service answers."""
        return Health(status="ok")

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters in the text format of Prometheus."""
        return PlainTextResponse(counters.text(), media_type="text/plain; version=0.0.4")

    @app.get("/api/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.exception_handler(ServiceError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return JSONResponse(**error_answer(error))

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = CODES.get(error.status_code, "bad_request")
        return JSONResponse(**error_answer(ServiceError(error.status_code, code, _sentence(error, settings))))

    return app


def _sentence(error: HTTPException, settings: ServiceSettings) -> str:
    """What is wrong with a request that is no valid form, or is for another address."""
    if error.status_code == 404:
        return "There is nothing at this address. The page is at /, and /docs describes the interface."
    if error.status_code == 405:
        return "This address does not answer this method. /docs describes the interface."
    if "Too many" in str(error.detail):
        return f"The form has too many parts. At most {settings.max_files:,} files can be sent at once."
    return f"The form cannot be read: {error.detail} Send it again as multipart/form-data."


def _form_schema(description: Json) -> Json:
    """The fields of the form, for the description of the interface."""
    slots = description["slots"] or [IMAGE]
    file = {"type": "array", "items": {"type": "string", "format": "binary"}}
    first = slots[0]
    fields: Json = {slot: {**file, "description": f"Images of {slot}."} for slot in slots}
    fields |= {
        "visit": {"type": "string", "description": "The name of the visit."},
        "day": {"type": "number", "description": "The day of the visit."},
        "target": {"type": "string", "description": "Of saliency maps: the target that is explained."},
        "learner": {"type": "string", "description": "Of saliency maps: the network that is explained."},
        "subject": {"type": "string", "description": "Kept with --keep, and used for nothing else."},
    }
    about = f"Fields of further visits have their number in front: `2.{first}`, `2.visit`, `2.day`."
    return {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"type": "object", "properties": fields, "description": about}}},
    }


def keep_request(folder: Path, uploads: Path, submission: Submission, answer: Json) -> Path:
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
        target = temporary.replace(folder / name)
        sync_folder(folder)
    except (OSError, RunError) as error:
        raise ServiceError(
            507, "not_kept", "The request could not be kept. Tell whoever runs this service to check the disk."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
