"""Connections that have sent no complete request yet; they are bounded, so that none of them locks out others."""

from __future__ import annotations

from collections import Counter
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """The connections that wait, by their peer's address; in a full one, the oldest of the busiest address gives way.

    A partner that sends its request at once is thus served, however many connections others leave open.

    >>> waiting = Waiting[str](2)
    >>> [waiting.add(name, address) for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.2"))]
    [None, None, 'b']
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, Lock()
        self._addresses: dict[T, str] = {}

    def add(self, connection: T, address: str) -> T | None:
        """Add a connection; the one that must be closed for it."""
        with self._lock:
            self._addresses[connection] = address
            if len(self._addresses) <= self._most:
                return None
            (busiest, _), *_ = Counter(self._addresses.values()).most_common(1)
            oldest = next(each for each, own in self._addresses.items() if own == busiest)
            del self._addresses[oldest]
            return oldest

    def remove(self, connection: T) -> None:
        """Remove a connection that sent its request, or ended."""
        with self._lock:
            self._addresses.pop(connection, None)
