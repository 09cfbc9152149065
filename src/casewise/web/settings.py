"""Settings of a local web server: address, tokens, limits; and the errors that it sends as answers."""

from __future__ import annotations

import ipaddress
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from casewise.errors import CasewiseError, printable

MEBI = 2**20
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 8
LOG = "casewise.web"
# A part of a request, of an answer, or of a message between processes, as plain values.
Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class WebSettings:
    """Where a server listens, who may use it, and its limits.

    Attributes:
        max_bytes: the largest request.
        upload_seconds: the time in which a request must arrive completely.
        idle_seconds: the longest time without any byte, and the time after which a slow upload is stopped.
        access: the option that gives other computers access, for messages.
        smaller: what to do if a request is too large, for messages.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_bytes: int = 512 * MEBI
    upload_seconds: float = 300.0
    idle_seconds: float = 20.0
    access: ClassVar[str] = "--token"
    smaller: ClassVar[str] = "Send less."

    @property
    def tokens(self) -> Mapping[str, str]:
        """By the name of each client its token, which every request must have in a header.

        Without tokens, everybody on this computer may use the server.
        """
        return {}

    def check(self) -> None:
        """Check that the options agree.

        Raises:
            CasewiseError: the server could be reached by others without a token, or a token is too short.
        """
        if not is_local(self.host) and not self.tokens:
            raise CasewiseError(
                f"--host: with {self.host}, other computers can reach the service. State {self.access} as well, or use "
                "the default host 127.0.0.1."
            )
        if any(len(token) < SHORTEST_TOKEN or not token.isascii() or " " in token for token in self.tokens.values()):
            raise CasewiseError(
                f"--token: a token has at least {SHORTEST_TOKEN} characters of ASCII and no blanks. `python -c 'import "
                "secrets; print(secrets.token_urlsafe())'` prints one."
            )


def is_local(host: str) -> bool:
    """Whether only this computer can reach a server on `host`.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
    (True, True, False)
    """
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class ServiceError(CasewiseError):
    """A request that cannot be answered.

    Attributes:
        status: the HTTP status.
        code: names the kind of error, for programs.
        message: what is wrong and what to do.
        files: the names of the files concerned, as the client gave them.
        retry_after: seconds after which the request may be repeated; None if that would not help.
    """

    status: int
    code: str
    message: str
    files: Sequence[str] = field(default_factory=tuple)
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.message

    def as_json(self) -> Json:
        """The body of the answer."""
        return {"error": {"code": self.code, "message": printable(self.message), "files": list(self.files)}}


def location_of(error: BaseException) -> str:
    """The type of an error and where it was raised, without its message, which may quote data of a patient."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    lines = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {lines}"
