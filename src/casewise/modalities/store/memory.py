"""The memory that decoders may use together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Memory of all decoders together, in bytes; an image that needs more is decoded alone.
MEMORY = 640 * 2**20


class Budget:
    """Keeps the memory of simultaneous decoding below a total, in bytes."""

    def __init__(self, total: int) -> None:
        """Begin with all memory free."""
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait until `amount` bytes are free; a larger amount waits until all memory is free."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()
