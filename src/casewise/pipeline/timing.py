"""The wall-clock time of a run: until its baselines are evaluated, of its training, and until its report is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from casewise.run_folder import RunFolder

# The record of the run that is under way.
_RUNNING: ContextVar[dict[str, Any] | None] = ContextVar("timing", default=None)


@contextmanager
def timed(folder: RunFolder) -> Iterator[None]:
    """Record the seconds from here to the end of the block; those of an earlier, finished run are kept.

    A run that continues with the networks of another has no total.
    """
    # nothing is read or written yet, since a run that is refused leaves the folder as it is
    record = {"begun": _now(), "continued": folder.jobs_folder.exists(), "first_figures": None, "seconds": None}
    token = _RUNNING.set(record)
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
    record = _RUNNING.get()
    if record and not record["continued"]:
        folder.timing.write(record | {"first_figures": _seconds_since(record)})


def record_training(folder: RunFolder, seconds: float) -> float:
    """Add the wall-clock seconds of a training to those of earlier, interrupted ones; return the sum.

    Nothing is recorded in a run that is not timed, or that was finished before.
    """
    record = _RUNNING.get()
    if record is None:
        return seconds
    before = folder.timing.read_or_none() or {}
    if record["continued"] and before.get("seconds") is not None:
        return float(before.get("training") or seconds)
    total = round(seconds + (before.get("training") or 0.0 if record["continued"] else 0.0), 1)
    kept = before if record["continued"] or before.get("begun") == record["begun"] else {}
    folder.timing.write(record | kept | {"training": total})
    return total


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _seconds_since(record: dict[str, Any]) -> float:
    begun = datetime.fromisoformat(record["begun"])
    return round((datetime.now(UTC) - begun).total_seconds(), 1)
