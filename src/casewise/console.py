"""Progress on the terminal: one line for each step, and a bar where a step takes longer; plain lines when piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """A step in progress."""

    def __call__(self, done: float, total: float, text: str = "") -> None: ...


class Show(Protocol):
    """Where a run reports its progress."""

    def line(self, step: str, text: str) -> None: ...

    def bar(self, step: str) -> AbstractContextManager[Bar]: ...


class Silent:
    """Shows nothing: for use from Python and in tests."""

    def line(self, step: str, text: str) -> None:
        """Show nothing."""

    @contextmanager
    def bar(self, step: str) -> Iterator[Bar]:
        """A bar that is not shown."""
        yield lambda done, total, text="": None


class Terminal:
    """Lines on standard output; bars only where standard output is a terminal."""

    def line(self, step: str, text: str) -> None:
        first, *rest = text.splitlines() or [""]
        print(f"{step:<10} {first}", flush=True)
        for more in rest:
            print(f"{'':<10} {more}", flush=True)

    @contextmanager
    def bar(self, step: str) -> Iterator[Bar]:
        if not sys.stdout.isatty():
            yield self._plain(step)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = [
            TextColumn("{task.description:<10}"),
            TextColumn("{task.fields[text]:<44}"),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("·"),
            TimeRemainingColumn(),
            TextColumn("left"),
        ]
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(step, total=None, text="")
            yield lambda done, total, text="": progress.update(
                task, completed=done, total=total, text=text or f"{done:,.0f} of {total:,.0f}"
            )

    def _plain(self, step: str) -> Bar:
        """Without a terminal: a line every half minute, so that a log shows progress."""
        last = time.monotonic()

        def update(done: float, total: float, text: str = "") -> None:
            nonlocal last
            if time.monotonic() - last > 30 and done < total:
                last = time.monotonic()
                self.line(step, text or f"{done:,.0f} of {total:,.0f}")

        return update


def default_show() -> Show:
    """Where functions report their progress: in a notebook or an interactive session on the screen, else nowhere."""
    return Terminal() if hasattr(sys, "ps1") else Silent()
