"""The wall-clock time of a run: until its baselines are evaluated, of its training, and until its report is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder

# The folder and the record of the run that is under way.
_RUNNING: ContextVar[tuple[Path, dict[str, Any]] | None] = ContextVar("timing", default=None)


@contextmanager
def timed(folder: RunFolder) -> Iterator[None]:
    """Record the seconds from here to the end of the block; those of an earlier, finished run are kept.

    A run that continues with the networks of another has no total.
    """
    # nothing is read or written yet, since a run that is refused leaves the folder as it is
    record = {"begun": _now(), "continued": folder.jobs_folder.exists(), "first_figures": None, "seconds": None}
    token = _RUNNING.set((folder.path, record))
    try:
        yield
    finally:
        _RUNNING.reset(token)
    before = folder.timing.read_or_none() or {}
    if before.get("seconds") is None:
        seconds = None if record["continued"] else _seconds_since(record)
        kept = {"first_figures": before.get("first_figures"), "training": before.get("training")}
        folder.timing.write(record | kept | {"seconds": seconds})


def record_first_figures(folder: RunFolder) -> None:
    """Record that the baselines are evaluated, the first figures of a run; nothing in a run that is not timed."""
    record = _record_of(folder)
    if record and not record["continued"]:
        folder.timing.write(record | {"first_figures": _seconds_since(record)})


def record_training(folder: RunFolder, seconds: float) -> float | None:
    """Add the wall-clock seconds of a training to those of earlier ones; return the sum.

    None, and nothing is recorded, where the sum is not known: in a run that is not timed, in the further trainings of a
    run, such as those with other seeds, and where an earlier training was interrupted or did not record its seconds. In
    a run that was finished before, the sum is the recorded one.
    """
    record = _record_of(folder)
    if record is None:
        return None
    before = folder.timing.read_or_none() or {}
    earlier = before.get("training") if record["continued"] else 0.0
    if earlier is None or (record["continued"] and before.get("seconds") is not None):
        return earlier
    total = round(seconds + earlier, 1)
    kept = before if record["continued"] or before.get("begun") == record["begun"] else {}
    folder.timing.write(record | kept | {"training": total})
    return total


def _record_of(folder: RunFolder) -> dict[str, Any] | None:
    """The record of the run that is under way, if it is the one in this folder."""
    path, record = _RUNNING.get() or (None, None)
    return record if path == folder.path else None


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _seconds_since(record: dict[str, Any]) -> float:
    begun = datetime.fromisoformat(record["begun"])
    return round((datetime.now(UTC) - begun).total_seconds(), 1)
