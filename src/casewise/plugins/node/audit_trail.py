"""The audit trail of a node: what was predicted by which bundle for which study, in lines that nobody changes unseen.

Each line is an event of the queue as a JSON object, with its number and the SHA-256 of the line before, so that a line
that is changed, removed or inserted breaks the chain. The queue is complete after any kill; the node appends what the
file lacks, and nothing else writes to it. A line names a study by the hash of its UID.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from casewise.errors import CasewiseError
from casewise.files import storage_message, sync_folder
from casewise.web.settings import Json

if TYPE_CHECKING:
    from casewise.plugins.node.queue.study_queue import StudyQueue

NAME = "audit.jsonl"
# Of the line before the first.
NONE = "0" * 64
# Bytes that are read at a time.
BLOCK = 65_536


@dataclass(frozen=True)
class _Break:
    """A line, counted from 1, that is not what the node wrote."""

    line: int
    reason: str


class AuditTrail:
    """The audit trail in the folder of a queue."""

    def __init__(self, queue: StudyQueue) -> None:
        self._queue, self.path = queue, queue.folder / NAME

    def write(self) -> None:
        """Append the events that are not in the file; they are on the disk when this returns. Only the node calls it.

        A line that a killed process left incomplete is written anew.

        Raises:
            CasewiseError: it cannot be written, or its last line is no event of the queue.
        """
        new = not self.path.exists()
        try:
            with self.path.open("ab+") as file:
                last, end = _last_line(file)
                number = self._check(last)
                file.truncate(end)
                while events := self._queue.recorded(number):
                    for event in events:
                        last = json.dumps(event | {"previous": _digest(last)}).encode()
                        file.write(last + b"\n")
                    number = events[-1]["id"]
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise CasewiseError(storage_message(error, self.path)) from error

    def _check(self, line: bytes) -> int:
        """The number of the event that a line states; 0 for none.

        Raises:
            CasewiseError: the queue has no such event.
        """
        content = _content(line)
        number = _number(content)
        content.pop("previous", None)
        if line and content not in self._queue.recorded(number - 1, 1):
            text = "Its last line is no event of the queue: it was changed, or belongs to another queue."
            raise CasewiseError(f"{self.path}: {text} Move it elsewhere; the node then writes it anew.")
        return number

    def head(self) -> str:
        """The SHA-256 of the last line, by which lines that are removed at the end can be noticed later."""
        if not self.path.exists():
            return NONE
        with self.path.open("rb") as file:
            return _digest(_last_line(file)[0])

    def verify(self) -> list[_Break]:
        """The lines that do not follow from the one before, or differ from the queue; none if nothing was changed.

        Raises:
            CasewiseError: it cannot be read.
        """
        breaks, previous, events = [], NONE, self._events(0)
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if not raw.endswith(b"\n"):  # it is being written, or a killed process left it
                        break
                    content = _content(line := raw.removesuffix(b"\n"))
                    follows = content.pop("previous", None) == previous
                    if content != next(events, None) or not follows:
                        problem = (
                            "is not this event of the queue" if follows else "does not follow from the line before"
                        )
                        breaks.append(_Break(number, problem))
                        events = self._events(_number(content))
                    previous = _digest(line)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CasewiseError(f"{self.path} cannot be read: {error.strerror}.") from error
        return breaks

    def _events(self, number: int) -> Iterator[Json]:
        """The events after one."""
        while events := self._queue.recorded(number):
            yield from events
            number = events[-1]["id"]


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else NONE


def _content(line: bytes) -> Json:
    """The object of a line; an empty one if there is none."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _number(content: Json) -> int:
    number = content.get("id")
    return number if isinstance(number, int) else 0


def _last_line(file: BinaryIO) -> tuple[bytes, int]:
    """The last line that is complete, without its end, and the position at which it ends; empty if there is none."""
    position, data = file.seek(0, os.SEEK_END), b""
    while position and data.count(b"\n") < 2:
        start = max(position - BLOCK, 0)
        file.seek(start)
        data = file.read(position - start) + data
        position = start
    complete = data[: data.rfind(b"\n") + 1]
    return complete[:-1].rpartition(b"\n")[2], position + len(complete)
