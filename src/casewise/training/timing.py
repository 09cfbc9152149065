"""The cost of a training, summed over interruptions."""

from __future__ import annotations

import time
from pathlib import Path

from casewise.files import write_json
from casewise.run_folder import JsonFile, TrainingFolder


class Timer:
    """Wall-clock and CPU seconds, kept in a file of the training's folder; work lost by interruptions is included."""

    def __init__(self, folder: Path) -> None:
        self._path = TrainingFolder(folder).timing
        before = JsonFile(self._path).peek() or {}
        self._before = (before.get("seconds", 0.0), before.get("core_seconds", 0.0))
        self._stretches = before.get("stretches", 0) + 1
        # the CPU time of all threads, which does not depend on other processes
        self._start = (time.monotonic(), time.process_time())
        self.note()

    def cost(self) -> dict[str, float]:
        """`seconds`, `core_seconds`, and `stretches`: how many times the training was started or resumed."""
        reading = (time.monotonic(), time.process_time())
        seconds, cores = (b + n - s for b, n, s in zip(self._before, reading, self._start, strict=True))
        return {"seconds": round(seconds, 2), "core_seconds": round(cores, 2), "stretches": self._stretches}

    def note(self) -> None:
        """Write the cost so far."""
        write_json(self._path, self.cost(), durable=False)
