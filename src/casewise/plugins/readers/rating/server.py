"""The service behind the page of `casewise rate`: cases and images of a session to its readers, and their entries back.

Nothing that could tell who or what a case is leaves this process: no names, dates, paths or keys. Images have random
names, which differ between readers, positions, and starts of the service. A reader is the client of a token, so that
nobody is shown, or writes, what belongs to another.
"""

from __future__ import annotations

import logging
import secrets
import signal
import sqlite3
import statistics
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from casewise.console import Show, Silent
from casewise.errors import CasewiseError, ImageError, cut, printable
from casewise.plugins.readers.form import COMMENT, FormError
from casewise.plugins.readers.rating.pictures import Pictures
from casewise.plugins.readers.rating.sessions import ItemImage, Presented, Session
from casewise.plugins.readers.rating.store import Entry, ReadingStore, WindowError
from casewise.web.guard import CLIENT, Guard, response_to
from casewise.web.server import address_of, bound, log_requests, server_of
from casewise.web.settings import LOG, Json, ServiceError, WebSettings, is_local

log = logging.getLogger(LOG)
PAGE = Path(__file__).parent / "page"
PATHS = ("/api/window", "/api/entry", "/api/case/", "/api/image/")
ENTRY_BYTES = 16 * 2**10
# Cases from which the time left is computed, and seconds after which an entry is tried again.
RECENT_CASES, RETRY_AFTER = 20, 5
DAY = 86_400_000
UNREADABLE = "This image cannot be shown. Judge the case without it, or state that it cannot be judged."
MESSAGES = {
    404: "There is nothing at this address. The page is at /.",
    405: "This address does not answer this method.",
}


@dataclass(frozen=True, kw_only=True)
class RateSettings(WebSettings):
    """Who reads, and where the service listens.

    Attributes:
        readers: their names; secrets: their tokens. A single reader at this computer needs none.
    """

    readers: tuple[str, ...] = ("reader",)
    secrets: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = ENTRY_BYTES

    @property
    def tokens(self) -> Mapping[str, str]:
        """The token of each reader."""
        return self.secrets

    @property
    def needs_tokens(self) -> bool:
        """Whether readers must be distinguished, or others could reach the page."""
        return len(self.readers) > 1 or not is_local(self.host)

    def check(self) -> None:
        """Check that the options agree; missing tokens come from the store (see `with_tokens`).

        Raises:
            CasewiseError: there is no reader, one is named twice, or a token is too short.
        """
        if not self.readers or len(set(self.readers)) < len(self.readers):
            raise CasewiseError("--reader: name each reader once.")
        if self.secrets or not self.needs_tokens:
            super().check()

    def with_tokens(self, store: ReadingStore) -> RateSettings:
        """The settings with a token for each reader where they are needed; they stay the same for a store."""
        if self.secrets or not self.needs_tokens:
            return self
        return replace(self, secrets={reader: store.token(reader) for reader in self.readers})


class _EntryBody(BaseModel):
    """The fields that the page sends for an entry."""

    model_config = ConfigDict(strict=True, extra="forbid")

    window: Annotated[str, Field(max_length=100)]
    form: Annotated[str, Field(max_length=100)]
    position: Annotated[int, Field(ge=1)]
    field: Annotated[str, Field(max_length=400)]
    value: Annotated[str, Field(max_length=4000)] | None
    milliseconds: Annotated[int, Field(ge=0, le=DAY)]


@dataclass
class Desk:
    """The exchange of a session with its readers."""

    session: Session
    store: ReadingStore
    pictures: Pictures = field(default_factory=Pictures)
    _orders: dict[str, list[Presented]] = field(default_factory=dict)
    _names: dict[tuple[str, int, Path], str] = field(default_factory=dict)
    _images: dict[str, tuple[str, int, Path]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def window(self, reader: str) -> Json:
        """Begin a window of a reader, who goes on where the last entry was made."""
        window = self.store.open_window(self.session.name, reader)
        entries = self.store.entries(self.session.name, reader)
        progress, position = self._progress(reader, entries, (entries[-1].position if entries else 1) - 1)
        form = self.session.form.as_json()  # nothing of the session: its name and kind may tell why a case is read
        begun = {"window": window, "reader": reader, "form": form, "version": self.session.form.version}
        return begun | {"progress": progress, "position": position}

    def case(self, reader: str, position: int, window: str) -> Json:
        """The images of a case, and what the reader entered for it.

        Raises:
            ServiceError: there is no such case.
            WindowError: the window is of another reader or session, or another one of the reader has taken over.
        """
        self.store.check_window(self.session.name, reader, window)
        presented = self._presented(reader, position)
        key = (presented.item.key, presented.occurrence)
        entries = self.store.current(self.session.name, reader).get(key, {})
        texts = {name: entry.value for name, entry in entries.items() if entry.value is not None}
        fields = self.session.form.fields
        visits = [self._images_of(reader, position, item.images) for item in self.session.earlier(presented.item)]
        return {
            "position": position,
            "total": len(self._order(reader)),
            "images": self._images_of(reader, position, presented.item.images),
            "earlier": [{"images": images} for images in visits],
            "comment": texts.get(COMMENT, ""),
            "unreadable": texts.get("", ""),
            # values of an earlier form that this one does not accept are missing
            "values": {field.key: texts[field.key] for field in fields if field.accepts(texts.get(field.key, ""))},
            "complete": self.session.is_complete(entries),
            "shown": self.session.shown.get(presented.item.key),
        }

    def image(self, reader: str, name: str, index: int) -> tuple[bytes, str]:
        """The bytes of an image or slice of this reader, and their media type.

        Raises:
            ServiceError: there is none of this name, or it cannot be read.
        """
        owner, position, path = self._images.get(name, ("", 0, Path()))
        if owner != reader or not name:
            raise ServiceError(404, "not_found", "There is no such image. Load the page again.")
        try:
            return self.pictures.get(path).body(index)
        except IndexError as error:
            raise ServiceError(404, "not_found", "This image has no such slice.") from error
        except ImageError as error:
            self._report(reader, position, error)
            raise ServiceError(422, "unreadable", UNREADABLE) from error

    def enter(self, reader: str, body: _EntryBody) -> Json:
        """Store an entry, and answer what is done and which case is next.

        Raises:
            ServiceError: there is no such case, or the form does not accept the entry.
            WindowError: another window of the reader has taken over.
            CasewiseError: it cannot be written.
        """
        presented, form = self._presented(reader, body.position), self.session.form
        value = body.value
        if value is not None:
            value = form.checked(body.field, printable(value) if body.field == COMMENT else value)
        elif body.field not in ("", COMMENT):
            form.field(body.field)
        if not self.store.has_form(body.form):
            raise ServiceError(422, "form", "The entry is of a form that this study never had. Load the page again.")
        own = (self.session.name, reader, presented.item.key, presented.occurrence, presented.position)
        self.store.append(Entry(*own, body.field, value, body.form, body.milliseconds), body.window)
        entries = self.store.entries(self.session.name, reader)
        progress, position = self._progress(reader, entries, body.position)
        return {"progress": progress, "next": position}

    def _order(self, reader: str) -> list[Presented]:
        with self._lock:
            if reader not in self._orders:
                self._orders[reader] = self.session.order_for(reader)
            return self._orders[reader]

    def _presented(self, reader: str, position: int) -> Presented:
        order = self._order(reader)
        if not 1 <= position <= len(order):
            raise ServiceError(404, "not_found", f"There is no such case; there are {len(order)}.")
        return order[position - 1]

    def _progress(self, reader: str, entries: Sequence[Entry], after: int) -> tuple[Json, int | None]:
        """How many cases are complete, the seconds left, and the first incomplete position after one, or before it."""
        newest: dict[tuple[str, int], dict[str, Entry]] = {}
        seconds: dict[tuple[str, int], float] = {}
        for entry in entries:
            key = (entry.item, entry.occurrence)
            newest.setdefault(key, {})[entry.field] = entry
            seconds[key] = max(seconds.pop(key, 0.0), entry.milliseconds / 1000)  # the latest case comes last
        complete = {key for key, values in newest.items() if self.session.is_complete(values)}
        order = self._order(reader)
        left = [turn.position for turn in order if (turn.item.key, turn.occurrence) not in complete]
        recent = [value for key, value in seconds.items() if key in complete][-RECENT_CASES:]
        time_left = round(statistics.median(recent) * len(left)) if recent else None
        progress = {"done": len(order) - len(left), "total": len(order), "seconds_left": time_left}
        return progress, next((position for position in left if position > after), left[0] if left else None)

    def _images_of(self, reader: str, position: int, images: Sequence[ItemImage]) -> list[Json]:
        listed = []
        for image in images:
            key = (reader, position, image.path)
            with self._lock:
                name = self._names.setdefault(key, secrets.token_urlsafe(12))
                self._images[name] = key
            try:
                facts = self.pictures.get(image.path).as_json()
            except ImageError as error:
                self._report(reader, position, error)
                facts = {"kind": "", "problem": UNREADABLE}
            listed.append({"id": name, "region": image.region, **facts})
        return listed

    def _report(self, reader: str, position: int, error: ImageError) -> None:
        """Tell the owner of the study, who started the service, which file is damaged."""
        log.warning("case %d of reader %s: %s", position, reader, error)


def create_app(desk: Desk, reader: str = "") -> Starlette:
    """The application, without the guard.

    Args:
        reader: who reads where the service has no tokens.
    """

    def answering(answer: Callable[[Request, str], Response]) -> Callable[[Request], Response]:
        def answered(request: Request) -> Response:
            try:
                return answer(request, request.scope.get(CLIENT) or reader)
            except CasewiseError as error:
                raise _service_error(error) from error

        return answered

    def image(request: Request, own: str) -> Response:
        index = request.query_params.get("slice", "0")
        slice_index = int(index) if index.isascii() and index.isdigit() and len(index) < 6 else -1
        content, media_type = desk.image(own, request.path_params["name"], slice_index)
        return Response(content, media_type=media_type)

    def case(request: Request, own: str) -> Response:
        window = request.query_params.get("window", "")
        return JSONResponse(desk.case(own, request.path_params["position"], window))

    async def entry(request: Request) -> Response:
        content = await request.body()
        try:
            body = _EntryBody.model_validate_json(content)
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, problem["loc"])) or "body" for problem in error.errors()}))
            message = f"The entry cannot be read ({cut(fields)}). Load the page again."
            raise ServiceError(422, "bad_entry", message) from error

        answer = answering(lambda _, own: JSONResponse(desk.enter(own, body)))
        return await run_in_threadpool(answer, request)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return response_to(error)

    async def failed(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "bad_request")
        message = MESSAGES.get(error.status_code, "The request cannot be read.")
        return response_to(ServiceError(error.status_code, code, message))

    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            Route("/health", lambda _: JSONResponse({"status": "ok"})),
            Route("/api/window", answering(lambda _, own: JSONResponse(desk.window(own))), methods=["POST"]),
            Route("/api/case/{position:int}", answering(case)),
            Route("/api/image/{name}", answering(image)),
            Route("/api/entry", entry, methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        exception_handlers={ServiceError: refused, HTTPException: failed},
    )


def _service_error(error: CasewiseError) -> ServiceError:
    """An error as the page gets it; the owner of the study reads the other details in the log."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, WindowError):
        return ServiceError(409, "other_window", str(error))
    if isinstance(error, FormError):
        return ServiceError(422, "not_accepted", str(error))
    log.error("%s", error)
    if "full" in str(error.__cause__):
        return ServiceError(507, "disk_full", "The disk with the readings is full. Tell the owner of the study.")
    busy = isinstance(error.__cause__, (sqlite3.OperationalError, OSError))
    message = "The entry cannot be saved now." if busy else "The readings cannot be read. Tell the owner of the study."
    return ServiceError(503, "not_saved", message, retry_after=RETRY_AFTER)


def application(session: Session, store: ReadingStore, settings: RateSettings) -> ASGIApp:
    """The application with its guard."""
    settings = settings.with_tokens(store)
    sole = "" if settings.tokens else settings.readers[0]
    return Guard(create_app(Desk(session, store), sole), settings, PATHS, ("/page/",))


def run_rating(session: Session, store: ReadingStore, settings: RateSettings, show: Show) -> None:
    """Print the address of each reader, and answer until Ctrl-C or SIGTERM.

    Raises:
        CasewiseError: the options do not agree, or the port is in use.
    """
    settings.check()
    settings = settings.with_tokens(store)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with bound(settings.host, settings.port) as listening, suppress(KeyboardInterrupt, SystemExit):
        address = address_of(listening, settings.host)
        for reader in settings.readers:
            # what follows # stays in the browser
            token = settings.tokens.get(reader, "")
            show.line("rate", f"{reader}: {address}{f'#{token}' if token else ''}")
        show.line("", "Press Ctrl-C to stop; everything that was entered is saved.")
        log_requests(quiet=isinstance(show, Silent))
        server_of(application(session, store, settings), settings).run(sockets=[listening])
