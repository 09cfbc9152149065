"""The log of a node: lines of one kind are bounded, so that a flood of refused objects drives out no other line."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from threading import Lock

# Lines of one kind that are written in so many seconds; the others are counted.
MOST_LINES, WINDOW = 100, 60.0


@dataclass
class _Lines:
    """Lines of one kind since a time."""

    since: float = field(default_factory=time.monotonic)
    written: int = 0
    left_out: int = 0


class _Limit(logging.Filter):
    """Lets warnings and errors pass until there are too many of a kind, which have the same text without its values."""

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._kinds = Lock(), dict[str, _Lines]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if record.levelno < logging.WARNING:
            return True
        with self._lock:
            lines = self._kinds.setdefault(str(record.msg), _Lines())
            if not lines.left_out and time.monotonic() - lines.since > WINDOW:
                lines = self._kinds[str(record.msg)] = _Lines()
            is_written = lines.written < MOST_LINES
            lines.written += is_written
            lines.left_out += not is_written
            return is_written

    def take(self, *, ended: bool) -> list[tuple[str, int]]:
        """The kinds with lines that were left out, and how many; of windows that are over, or all where all `ended`."""
        now = time.monotonic()
        with self._lock:
            over = [kind for kind, lines in self._kinds.items() if ended or now - lines.since > WINDOW]
            taken = [(kind, self._kinds.pop(kind).left_out) for kind in over]
        return [(kind, count) for kind, count in taken if count]


_limit = _Limit()
log = logging.getLogger("casewise.node")
log.addFilter(_limit)


def count_left_out(*, ended: bool = False) -> None:
    """Write how many lines were left out; the node calls it now and then, and when it has ended."""
    for kind, count in _limit.take(ended=ended):
        log.warning("%s more lines were left out like: %s", f"{count:,}", kind)
