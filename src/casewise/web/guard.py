"""Checks around every request (token, host, size, speed), security headers of answers, and one log line a request."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from casewise.web.settings import LOCAL_NAMES, LOG, ServiceError, WebSettings, is_local, location_of

log = logging.getLogger(LOG)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
# Limits up to which the rest of a refused upload is read and discarded, so that its client receives the answer: bytes,
# seconds in all, and seconds without any byte.
_DISCARDED_BYTES, _DISCARD_SECONDS, _DISCARD_PAUSE = 64 * 2**20, 10.0, 1.0
# The least mean speed of an upload in bytes a second, after `WebSettings.idle_seconds`.
_SLOWEST = 2**14
OPEN_WITHOUT_TOKEN = ("/", "/health")
# The key of an ASGI scope with the name of the client to whom the token belongs.
CLIENT = "casewise.client"


class Guard:
    """An ASGI application that checks and logs the requests to another one.

    Args:
        paths: paths and, ending with a slash, prefixes of paths that the log may contain; it writes `other` for all
            others, because a path may contain a patient's data.
        public: prefixes of paths that need no token, such as a page's files.
    """

    def __init__(self, app: ASGIApp, settings: WebSettings, paths: Sequence[str], public: tuple[str, ...] = ()) -> None:
        self._app, self._settings, self._public = app, settings, public
        self._paths = (*OPEN_WITHOUT_TOKEN, *public, *paths)
        self._clients = {_digest(token): name for name, token in settings.tokens.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        start, path = time.monotonic(), str(scope["path"])
        exchange = _Exchange(scope, receive, send, self._settings)
        try:
            self._check(scope)
            exchange.check_length()
            await self._app(scope, exchange.receive, exchange.send)
        except ServiceError as error:
            await exchange.refuse(error)
        except Exception as error:  # noqa: BLE001 (no traceback may reach the log, which could quote a patient's data)
            log.error("request %s: %s", exchange.name, location_of(error))
            fault = f"This request could not be answered because of a fault of casewise. Its number is {exchange.name}."
            await exchange.refuse(ServiceError(500, "fault", fault))
        seconds = time.monotonic() - start
        prefixes = (prefix for prefix in self._paths[1:] if prefix.endswith("/") and path.startswith(prefix))
        label = path if path in self._paths else next(prefixes, "other")
        log.info("%s %s %s %d %.2f s", exchange.name, scope["method"], label, exchange.status, seconds)

    def _check(self, scope: Scope) -> None:
        """Refuse a request for another host, from another site's page, or without a token; name its client."""
        headers, path = Headers(scope=scope), str(scope["path"])
        host = headers.get("host", "")
        if is_local(self._settings.host) and _part(f"//{host}", "hostname") not in (*LOCAL_NAMES, self._settings.host):
            message = "This service answers requests for localhost and 127.0.0.1 only. Use one of these."
            raise ServiceError(421, "wrong_host", message)
        origin = headers.get("origin", "")
        if origin and _part(origin, "netloc") != host:
            raise ServiceError(403, "other_site", "Pages of other sites cannot use this service.")
        if not self._clients or path in OPEN_WITHOUT_TOKEN or path.startswith(self._public):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        received = _digest(token.strip() if scheme.casefold() == "bearer" else "")
        # compared with all tokens, so that the time tells nothing about them
        names = [name for digest, name in self._clients.items() if hmac.compare_digest(digest, received)]
        scope[CLIENT] = names[0] if names else ""
        if not names:
            what = "The token is wrong." if token else "The service needs a token."
            remedy = "Send the one with which the service was started in the header `Authorization: Bearer TOKEN`."
            raise ServiceError(401, "token", f"{what} {remedy}")


class _Exchange:
    """One request and its answer, with limits of size and time; `name` is a random number of it, for the log."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: WebSettings) -> None:
        headers = Headers(scope=scope)
        self._scope, self._length = scope, headers.get("content-length", "")
        self._receive, self._send, self._settings = receive, send, settings
        self.name = secrets.token_hex(4)
        self.status = 0
        self._bytes = 0
        self._complete = self._length in ("", "0") and "transfer-encoding" not in headers
        self._begun = time.monotonic()

    def check_length(self) -> None:
        """Refuse a body that is too large according to its header `content-length`."""
        if self._length.isdigit() and int(self._length) > self._settings.max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next part of the body, within the limits."""
        if self._complete:
            return await self._receive()
        idle = self._settings.idle_seconds
        end = self._begun + min(self._settings.upload_seconds, idle + self._bytes / _SLOWEST)
        left = min(idle, end - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.0))
        except TimeoutError as error:
            self._complete = True  # so that the rest is not read before the answer
            message_text = "The upload was too slow and was stopped. Send it again, over a faster connection."
            raise ServiceError(408, "slow_upload", message_text) from error
        self._count(message)
        if self._bytes > self._settings.max_bytes:
            raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer; before its first part, discard the rest of the upload."""
        if message["type"] == "http.response.start":
            await self._discard_upload()
            self.status = int(message["status"])
            extra = {**HEADERS, "x-request": self.name}
            given = {name for name, _ in message["headers"]}
            added = [(n.encode(), v.encode()) for n, v in extra.items() if n.encode() not in given]
            message = {**message, "headers": [*message["headers"], *added]}
        await asyncio.wait_for(self._send(message), self._settings.idle_seconds)

    async def refuse(self, error: ServiceError) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        await response_to(error)(self._scope, self.receive, self.send)

    async def _discard_upload(self) -> None:
        end, limit = time.monotonic() + _DISCARD_SECONDS, self._bytes + _DISCARDED_BYTES
        while not self._complete and self._bytes < limit and (left := end - time.monotonic()) > 0:
            try:
                self._count(await asyncio.wait_for(self._receive(), min(left, _DISCARD_PAUSE)))
            except TimeoutError:
                return

    def _count(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)

    def _too_large(self) -> ServiceError:
        too_large = f"The request is larger than {self._settings.max_bytes / 2**20:,.3g} MiB. {self._settings.smaller}"
        return ServiceError(413, "too_large", too_large)


def response_to(error: ServiceError) -> JSONResponse:
    """The answer that states an error."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    headers |= {"www-authenticate": "Bearer"} if error.status == 401 else {}
    return JSONResponse(error.as_json(), error.status, headers)


def _part(address: str, name: str) -> str:
    """A part of an address; empty if it has none, or is not an address."""
    try:
        return str(getattr(urlsplit(address), name) or "")
    except ValueError:
        return ""


def _digest(token: str) -> bytes:
    """A hash of a token: of fixed length, so that a comparison takes the same time for every token."""
    return hashlib.sha256(token.encode()).digest()
