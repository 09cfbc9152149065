"""Images that are sent with DICOMweb (STOW-RS, PS3.18), and the state of the node for monitoring systems."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any, BinaryIO

from casewise.errors import CasewiseError
from casewise.plugins.node.node_log import log
from casewise.plugins.node.receive.data_set import RefusedError
from casewise.plugins.node.receive.inbox import FullError, Inbox, ReceivedImage
from casewise.web.settings import LOG, Json, ServiceError

try:
    from python_multipart.exceptions import MultipartParseError
    from python_multipart.multipart import MultipartParser
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp

    from casewise.web.guard import CLIENT, Guard, response_to
    from casewise.web.server import bound, server_of
except ImportError as error:
    raise CasewiseError("receive.web needs starlette and uvicorn: pip install 'casewise[node]'") from error

if TYPE_CHECKING:
    from casewise.plugins.node.queue.study_queue import StudyQueue
    from casewise.plugins.node.settings import WebReceive

PATHS = ("/studies", "/ready", "/metrics")
# Uploads that are received at a time, of one client or address, and after how many seconds others may try again.
UPLOADS, OWN_UPLOADS, RETRY_AFTER = 4, 3, 10
# Parts of a request, and bytes of the head of a part.
MOST_PARTS, LONGEST_HEAD = 10_000, 2**14
# Reasons of a failure: PS3.18, table I.2-2.
FULL, DAMAGED = 0xA700, 0xC000
DICOM, DICOM_JSON = "application/dicom", "application/dicom+json"
# What makes the node ready: by name a reason why it is not, or an empty text.
Readiness = Callable[[], Mapping[str, str]]


def create_app(inbox: Inbox, queue: StudyQueue, readiness: Readiness) -> Starlette:
    """The application, without the guard."""
    uploads = Counter[str]()

    async def store(request: Request) -> Response:
        client = str(request.scope.get(CLIENT) or (request.client and request.client.host) or "")
        if uploads.total() >= UPLOADS or uploads[client] >= OWN_UPLOADS:
            message = f"Many uploads are in progress. Try again in {RETRY_AFTER} seconds."
            raise ServiceError(503, "busy", message, retry_after=RETRY_AFTER)
        uploads[client] += 1
        try:
            source = " ".join(filter(None, ("web", str(request.scope.get(CLIENT, "")))))
            stored = _StoreAnswer()
            async for item in instances(request):
                await run_in_threadpool(stored.add, inbox, item, source)
        finally:
            uploads.subtract([client])
            if not uploads[client]:
                del uploads[client]
        headers = {"retry-after": str(RETRY_AFTER)} if stored.status == 503 else {}
        return JSONResponse(stored.as_json(), stored.status, headers, DICOM_JSON)

    def ready(_: Request) -> Response:
        problems = {name: problem for name, problem in readiness().items() if problem}
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    def numbers(_: Request) -> Response:
        return PlainTextResponse(metrics(queue, readiness()), media_type="text/plain; version=0.0.4")

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return response_to(error)

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = "There is nothing at this address." if error.status_code == 404 else str(error.detail)
        answer = response_to(ServiceError(error.status_code, "bad_request", message))
        answer.headers.update(error.headers or {})
        return answer

    return Starlette(
        routes=[
            Route("/health", lambda _: JSONResponse({"status": "ok"})),
            Route("/ready", ready),
            Route("/metrics", numbers),
            Route("/studies", store, methods=["POST"]),
        ],
        exception_handlers={ServiceError: refused, HTTPException: failed},
    )


@dataclass
class _StoreAnswer:
    """The answer to STOW-RS: which images were stored, and why others were not (PS3.18, 10.5.3 and table I.2-1)."""

    stored: list[ReceivedImage] = field(default_factory=list)
    failed: list[ReceivedImage] = field(default_factory=list)
    refused: int = 0

    def add(self, inbox: Inbox, data: BinaryIO, source: str) -> None:
        """Receive a file."""
        try:
            self.stored.append(inbox.receive_file(data, source))
        except RefusedError as error:
            log.warning("from %s, an object was refused: %s", source, error)
            self.refused += 1
        except FullError as error:
            log.error("from %s, an image could not be stored: %s", source, error)
            self.failed.append(error.image)

    @property
    def status(self) -> int:
        """Of HTTP: 200 if all were stored, 202 if some were, 503 if a later attempt may help, and 409 otherwise."""
        if not self.failed and not self.refused:
            return 200
        return 202 if self.stored else 409 if self.refused else 503

    def as_json(self) -> Json:
        """A data set of the DICOM JSON model; what was refused may have no identifiers, and is only counted."""
        reason = {"00081197": _element("US", FULL)}
        sequences = {
            "00081199": [_reference(image) for image in self.stored],
            "00081198": [_reference(image) | reason for image in self.failed],
            "0008119A": [{"00081197": _element("US", DAMAGED)}] * self.refused,
        }
        return {tag: _element("SQ", *items) for tag, items in sequences.items() if items}


def _reference(image: ReceivedImage) -> Json:
    return {"00081150": _element("UI", image.sop_class), "00081155": _element("UI", image.instance)}


def _element(kind: str, *values: object) -> Json:
    return {"vr": kind, "Value": list(values)}


async def instances(request: Request) -> AsyncIterator[BinaryIO]:
    """The files in the body of a request, one after another.

    Raises:
        ServiceError: the body is no `multipart/related` of DICOM files.
    """
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    boundary = str(header.get_param("boundary") or "")
    stated = str(header.get_param("type") or DICOM).casefold()
    if header.get_content_type() != "multipart/related" or stated != DICOM or not boundary.isascii():
        message = f'Send images as multipart/related; type="{DICOM}", with a boundary.'
        raise ServiceError(415, "media_type", message)
    parts = _Parts()
    try:
        parser = MultipartParser(boundary.encode(), parts.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            for data in parts.take():
                yield data
        parser.finalize()
    except MultipartParseError as error:
        raise ServiceError(400, "bad_multipart", "The parts of the body cannot be read. Send it again.") from error
    if not parts.ended:
        raise ServiceError(400, "bad_multipart", "The body ends within a part. Send it again.")


class _Parts:
    """What a parser reads: the contents of complete parts."""

    def __init__(self) -> None:
        self.ended, self._count, self._head = False, 0, 0
        self._complete: list[BinaryIO] = []
        self._content, self._name, self._value = io.BytesIO(), bytearray(), bytearray()

    def callbacks(self) -> Any:
        """For the parser."""
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self._content.write(memoryview(data)[start:end]),
            "on_part_end": self._add,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda data, start, end: self._extend(self._name, data[start:end]),
            "on_header_value": lambda data, start, end: self._extend(self._value, data[start:end]),
            "on_header_end": self._check_header,
            "on_end": self._end,
        }

    def take(self) -> list[BinaryIO]:
        """The parts that are complete since the last call."""
        complete, self._complete = self._complete, []
        return complete

    def _begin(self) -> None:
        self._count += 1
        if self._count > MOST_PARTS:
            raise ServiceError(
                413, "too_many_parts", f"The body has more than {MOST_PARTS:,} parts. Send it in several."
            )
        self._content, self._head = io.BytesIO(), 0

    def _add(self) -> None:
        self._content.seek(0)
        self._complete.append(self._content)

    def _begin_header(self) -> None:
        self._name.clear()
        self._value.clear()

    def _extend(self, text: bytearray, data: bytes) -> None:
        self._head += len(data)
        if self._head > LONGEST_HEAD:
            raise ServiceError(400, "bad_multipart", f"The head of a part is longer than {LONGEST_HEAD:,} bytes.")
        text.extend(data)

    def _check_header(self) -> None:
        kind = bytes(self._value).partition(b";")[0].strip().lower()
        if bytes(self._name).lower() == b"content-type" and kind != DICOM.encode():
            raise ServiceError(415, "media_type", f"Each part of the body must be of {DICOM}.")

    def _end(self) -> None:
        self.ended = True


def metrics(queue: StudyQueue, readiness: Mapping[str, str]) -> str:
    """The numbers of the node in the text format of Prometheus, version 0.0.4."""
    predictions, seconds, unwritten = queue.prediction_totals()
    oldest = queue.oldest_waiting()
    waiting = 0.0 if oldest is None else max(time.time() - oldest, 0.0)
    deliveries = queue.delivery_counts().items()
    families: dict[str, Mapping[str, float]] = {
        "casewise_ready gauge Whether the node is ready.": {"": float(not any(readiness.values()))},
        "casewise_studies gauge Studies by state.": {_labels(state=name): n for name, n in queue.counts().items()},
        "casewise_deliveries gauge Answers by partner and state.": {
            _labels(partner=partner, state=state): count for (partner, state), count in deliveries
        },
        "casewise_prediction_seconds summary Seconds of predictions.": {"_sum": seconds, "_count": predictions},
        "casewise_unwritten_formats_total counter Formats of answers that could not be written.": {"": unwritten},
        "casewise_oldest_waiting_seconds gauge Age of the study that waits longest for its answer.": {"": waiting},
    }
    lines = []
    for family, values in families.items():
        name, kind, text = family.split(" ", 2)
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{labels} {value:{'g' if value % 1 else '.0f'}}" for labels, value in values.items()]
    return "\n".join(lines) + "\n"


def _labels(**values: str) -> str:
    r"""Labels of Prometheus.

    >>> _labels(state="sent", partner='a"b')
    '{state="sent",partner="a\\"b"}'
    """
    escaped = {
        name: text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, text in values.items()
    }
    return "{" + ",".join(f'{name}="{text}"' for name, text in escaped.items()) + "}"


class WebServer:
    """The server, in a thread.

    Args:
        readiness: see `create_app`.
    """

    def __init__(self, settings: WebReceive, inbox: Inbox, queue: StudyQueue, readiness: Readiness) -> None:
        self._settings, self._web = settings, settings.web_settings(inbox.largest)
        self.app: ASGIApp = Guard(create_app(inbox, queue, readiness), self._web, PATHS)
        self._server = server_of(self.app, self._web)
        self._thread: threading.Thread | None = None
        self.port = settings.port
        logging.getLogger(LOG).setLevel(logging.WARNING)  # not a line for each request of a monitoring system

    def start(self) -> None:
        """Listen, in a thread.

        Raises:
            CasewiseError: the port or a certificate cannot be used.
        """
        self._server.config.load()
        if self._settings.tls:
            self._server.config.ssl = self._settings.tls.server()
        listening = bound(self._web.host, self._web.port, "receive.web")
        self.port = listening.getsockname()[1]
        run = self._server.run
        self._thread = threading.Thread(target=run, args=([listening],), name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the requests that are being answered, and end."""
        if self._thread:
            self._server.should_exit = True
            self._thread.join(15)
