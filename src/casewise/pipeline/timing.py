"""The wall-clock time of a run: until its baselines are evaluated, and until its report is written."""

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
    before = folder.timing.read_or_none() or {}
    if before.get("seconds") is not None:
        yield
        return
    first, continued = before.get("first_figures"), folder.jobs_folder.exists()
    # not written yet, since a run that is refused leaves the folder as it is
    record = {"begun": _now(), "continued": continued, "first_figures": first, "seconds": None}
    token = _RUNNING.set(record)
    try:
        yield
    finally:
        _RUNNING.reset(token)
    folder.timing.write(record | {"seconds": None if continued else _seconds_since(record)})


def record_first_figures(folder: RunFolder) -> None:
    """Record that the baselines are evaluated, the first figures of a run; nothing in a run that is not timed."""
    record = _RUNNING.get()
    if record and record["first_figures"] is None and not record["continued"]:
        record["first_figures"] = _seconds_since(record)
        folder.timing.write(record)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _seconds_since(record: dict[str, Any]) -> float:
    begun = datetime.fromisoformat(record["begun"])
    return round((datetime.now(UTC) - begun).total_seconds(), 1)
