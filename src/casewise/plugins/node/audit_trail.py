"""The audit trail of a node: what was predicted by which bundle for which study, in lines that nobody changes unseen.

Each line is a JSON object with the SHA-256 of the line before it, so that a line that is changed, removed or inserted
breaks the chain. Lines removed at the end are missing only in comparison with a `head` that was noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, TypeAlias

from filelock import FileLock, Timeout

from casewise.errors import CasewiseError
from casewise.files import make_folder, storage_message, sync_folder

NAME = "audit.jsonl"
# Of the line before the first.
NONE = "0" * 64
# Seconds to wait for another process that writes a line, and bytes that are read at a time.
WAIT, BLOCK = 30, 65_536
NOT_A_LINE = "is not a line of the audit trail"
# What is recorded: hashes, labels, names of partners, and versions; never a name or identifier of a patient.
Fact: TypeAlias = str | int | float | bool | list[str] | Mapping[str, str] | None


@dataclass(frozen=True)
class Break:
    """A line, counted from 1, that does not follow from the one before."""

    line: int
    reason: str


class AuditTrail:
    """The audit trail in the folder of a node. Several threads and processes may write to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lock = FileLock(folder / f".{NAME}.lock", timeout=WAIT)

    def append(self, event: str, study: str = "", **facts: Fact) -> None:
        """Write a line, which is on the disk when this returns.

        A line that a killed process left incomplete is kept, and the next one states it as `after_incomplete_line`.

        Args:
            study: the label of the study.

        Raises:
            CasewiseError: it cannot be written.
        """
        new = not self.path.exists()
        try:
            make_folder(self.path.parent)
            with self._lock, self.path.open("ab+") as file:
                last, complete = _last_line(file)
                repaired = {} if complete else {"after_incomplete_line": True}
                content = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "study": study}
                line = json.dumps({**content, **facts, **repaired, "previous": _digest(last)}, ensure_ascii=False)
                file.write(b"\n" * (not complete) + line.encode(errors="backslashreplace") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self.path.parent)
        except Timeout as error:
            raise CasewiseError(f"{self.path} is locked by another program. End it.") from error
        except OSError as error:
            raise CasewiseError(storage_message(error, self.path)) from error

    def head(self) -> str:
        """The SHA-256 of the last line, by which lines that are removed at the end can be noticed later."""
        if not self.path.exists():
            return NONE
        with self.path.open("rb") as file:
            return _digest(_last_line(file)[0])

    def verify(self) -> list[Break]:
        """The lines that do not follow from the one before; none if nothing was changed.

        Raises:
            CasewiseError: it cannot be read.
        """
        breaks, previous, torn = [], NONE, 0
        try:
            with self._lock, self.path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    line = raw.removesuffix(b"\n")
                    content = _content(line)
                    if torn and (content is None or content.get("after_incomplete_line") is not True):
                        breaks.append(Break(torn, NOT_A_LINE))
                    if content is not None and content.get("previous") != previous:
                        breaks.append(Break(number, "does not follow from the line before"))
                    previous, torn = _digest(line), number if content is None else 0
                if torn and raw.endswith(b"\n"):  # without an end, a killed process left it
                    breaks.append(Break(torn, NOT_A_LINE))
        except FileNotFoundError:
            return []
        except (OSError, Timeout) as error:
            raise CasewiseError(f"{self.path} cannot be read: {error}.") from error
        return breaks


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else NONE


def _content(line: bytes) -> dict[str, object] | None:
    """The object of a line; None for a line that is incomplete."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _last_line(file: BinaryIO) -> tuple[bytes, bool]:
    """The last line of a file, without its end, and whether it is complete; an empty file has an empty one."""
    position = file.seek(0, os.SEEK_END)
    data = b""
    while position and b"\n" not in data[:-1]:
        start = max(position - BLOCK, 0)
        file.seek(start)
        data = file.read(position - start) + data
        position = start
    complete = not data or data.endswith(b"\n")
    return data.removesuffix(b"\n").rpartition(b"\n")[2], complete
