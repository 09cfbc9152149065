"""The limits and options of a service."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from casewise.errors import CasewiseError, RunError, none_of, printable, shortened
from casewise.run_folder.folder import HEADLINE

MEBI = 2**20
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 8
# A part of a request, of an answer, or of a message between processes, as plain values.
Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class ServiceSettings:
    """The limits and options of a service.

    Attributes:
        bundle: a bundle (folder or zip file) or a run folder.
        learner: as in `casewise.inference.ensemble.Ensemble`.
        token: must be in the header of every request to the interface; empty for none.
        max_bytes: of one request; max_files: of one request; max_pixels: of one image.
        workers: processes that predict; queue: requests that may wait for one of them.
        timeout: seconds until a prediction is stopped; upload_seconds: until an upload must be complete;
            idle_seconds: without any byte from a client until its connection is closed.
        trust: a public key; a bundle that is not signed with its private key is refused.
    """

    bundle: Path
    learner: str = "headline"
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    max_bytes: int = 512 * MEBI
    max_files: int = 1000
    max_pixels: int = 100_000_000
    workers: int = 1
    queue: int = 8
    timeout: float = 300.0
    upload_seconds: float = 300.0
    idle_seconds: float = 20.0
    trust: Path | None = None

    def check(self) -> None:
        """Check that the options agree.

        Raises:
            CasewiseError: the service could be reached by others without a token, or the token is too short.
        """
        if not is_local(self.host) and not self.token:
            raise CasewiseError(
                f"--host: with {self.host}, other computers can reach the service. State a token as well, for example "
                "in the environment variable CASEWISE_SERVE_TOKEN, or use the default host 127.0.0.1."
            )
        if self.token and (len(self.token) < SHORTEST_TOKEN or not self.token.isascii() or " " in self.token):
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


def check_learner(name: str, learners: Sequence[str]) -> None:
    """Check that a name means one learner of a model; without learners, which are not known yet, nothing is checked.

    Raises:
        RunError: it means several, or there is no such learner.
    """
    options = [*learners, HEADLINE]
    if learners and name not in options:
        raise RunError(f"--learner: a service shows one learner, and {none_of(name, options)}")


LONGEST_NAME = 120


@dataclass
class ServiceError(CasewiseError):
    """A request that cannot be answered.

    Attributes:
        status: of HTTP; code: for programs; message: what is wrong and what to do.
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


def shown_name(name: str) -> str:
    r"""The name of an uploaded file for people: without folders, printable and of bounded length.

    >>> shown_name("../../etc/passwd"), shown_name("C:\\photos\\a.jpg"), shown_name("")
    ('passwd', 'a.jpg', 'unnamed file')
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return shortened(printable(last).replace("\n", " ").replace("\t", " "), LONGEST_NAME) or "unnamed file"
