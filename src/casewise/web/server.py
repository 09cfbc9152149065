"""A server on this computer, which answers until it is stopped."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from casewise.errors import CasewiseError
from casewise.web.settings import LOG, WebSettings
from casewise.web.waiting import Waiting

# Connections at a time, of one address, and without a request; further ones get 503, or the oldest one is closed.
CONNECTIONS, OWN_CONNECTIONS, MOST_WAITING = 200, 150, 100


def server_of(app: ASGIApp, settings: WebSettings) -> uvicorn.Server:
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
    pending: Waiting[H11Protocol] = Waiting(MOST_WAITING)

    class ImpatientProtocol(H11Protocol):
        """Closes connections that are open without a request."""

        _head_timer: asyncio.TimerHandle | None = None

        @property
        def address(self) -> str:
            """The client's address."""
            return self.client[0] if self.client else ""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            connected = [each for each in self.connections if isinstance(each, ImpatientProtocol)]
            own = [each for each in connected if each.address == self.address and not each.transport.is_closing()]
            if len(own) > OWN_CONNECTIONS:
                transport.abort()
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
                if oldest := pending.add(self, self.address):
                    oldest.transport.abort()
            elif not waiting:
                self._stop()

        def _stop(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
                pending.remove(self)

    return ImpatientProtocol


def bound(host: str, port: int, key: str = "--port") -> socket.socket:
    """A listening socket.

    Args:
        key: where the port is stated, for messages.

    Raises:
        CasewiseError: the port cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        remedy = "Choose another port." if error.errno == errno.EADDRINUSE else "State an address of this computer."
        raise CasewiseError(
            f"{key}: {host} port {port} cannot be used ({error.strerror or error}). {remedy}"
        ) from error


def address_of(listening: socket.socket, host: str) -> str:
    """The address of the page, for a browser on this computer or, with another `host`, for others.

    A host that stands for all addresses of this computer is written as its name.
    """
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"


def log_requests(*, quiet: bool) -> None:
    """One line a request on the terminal: number, method, path, status and time, and nothing of its content."""
    log = logging.getLogger(LOG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it quotes bytes of a form that it cannot read
