"""Errors of the service: a status, a code, a message for people, and the files concerned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from casewise.errors import CasewiseError, printable, shortened

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

    def as_json(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"code": self.code, "message": printable(self.message), "files": list(self.files)}}


def shown_name(name: str) -> str:
    r"""The name of an uploaded file for people: without folders, printable and of bounded length.

    >>> shown_name("../../etc/passwd"), shown_name("C:\\photos\\a.jpg"), shown_name("")
    ('passwd', 'a.jpg', 'unnamed file')
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return shortened(printable(last).replace("\n", " ").replace("\t", " "), LONGEST_NAME) or "unnamed file"
