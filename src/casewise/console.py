"""Progress on the terminal: one line for each step, and what a longer step is doing, in a log at growing intervals."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import IO, Any, NoReturn, ParamSpec, Protocol, TypeVar

BEAT = 4.0  # seconds without a line after which a log gets one; they double with each line on the same activity
LONGEST_BEAT = 128.0
MIN_SECONDS_FOR_ESTIMATE = 10.0  # seconds of work before which the time left is not known
MARGIN = 11  # columns for the name of a step
NARROWEST, WIDEST = 40, 100
CODE = "    "  # lines that begin so are commands, YAML or paths, and are never broken
# A command or a setting in backticks that ends its sentence.
REMEDY = re.compile(r" *`((?:casewise |make |[\w.]+: ?)[^`\n]*)`(?:[.;] *|(?=\n|$))")
SPAN = re.compile(r"`[^`\n]+`")

P = ParamSpec("P")
R = TypeVar("R")


class Bar(Protocol):
    """A step in progress; further lines of `text` are details, such as what each process is doing."""

    def __call__(self, done: float, total: float, text: str = "") -> None: ...


class Show(Protocol):
    """Where a run reports its progress."""

    def line(self, step: str, text: str) -> None: ...

    def bar(self, step: str) -> AbstractContextManager[Bar]: ...


class Silent:
    """Shows nothing: for use from Python, in tests and for `--quiet`."""

    def line(self, step: str, text: str) -> None:
        """Show nothing."""

    @contextmanager
    def bar(self, step: str) -> Iterator[Bar]:
        """A bar that is not shown."""
        yield lambda done, total, text="": None


def shown(step: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Show a function, whose last positional argument is a `Show`, as a step in progress while it runs."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def within(*args: P.args, **options: P.kwargs) -> R:
            show: Any = options.get("show") or args[-1]
            with show.bar(step):
                return function(*args, **options)

        return within

    return decorate


@dataclass
class _Step:
    """A step in progress: since when, and what it reported last.

    `first` is when work began, and what was done before; `last` is when something was done last, and the time that was
    left then. `outer` steps have others within. `pause` is how many seconds a log is silent before the next line, if
    the text is still `logged`, figures aside.
    """

    name: str
    start: float
    done: float = 0.0
    total: float = 0.0
    text: str = ""
    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None
    details: list[str] = field(default_factory=list)
    logged: str = ""
    pause: float = BEAT
    outer: bool = False

    def due(self, silent: float) -> bool:
        """Whether a log that was silent for `silent` seconds gets a line, which is then expected to be printed."""
        words = re.sub(r"[\d.,]+( waiting)?", "", self.text).strip()
        pause = self.pause if words == self.logged else BEAT
        if silent < pause:
            return False
        self.logged, self.pause = words, min(2 * pause, LONGEST_BEAT)
        return True

    def advance(self, now: float, done: float, total: float) -> None:
        """Record what is done, and what time is left at the speed since work began."""
        before, self.done, self.total = self.done, done, total
        if self.first is None or (done <= self.first[1] and not self.details):
            self.first, self.last = (now, done), None
        began, earlier = self.first
        if done > max(before, earlier):
            self.last = (now, (now - began) / (done - earlier) * (total - done))

    def left(self, now: float) -> float | None:
        """The seconds left; None in the first ten, and before a fiftieth is done."""
        if self.first is None or self.last is None or now - self.first[0] < MIN_SECONDS_FOR_ESTIMATE:
            return None
        if self.done <= self.first[1] + 0.02 * (self.total - self.first[1]):
            return None
        return self.last[1] - (now - self.last[0])


class Terminal:
    """Lines on standard output, with the step in progress below them if it is a terminal, else as a line now and then.

    Args:
        clock: seconds, from any start.
        width: columns; by default the terminal's, 80 for a file or a pipe.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, width: int | None = None) -> None:
        self._clock, self._width = clock, width
        self._steps: list[_Step] = []
        self._lock = threading.RLock()
        self._last = clock()
        self._details: list[str] = []

    @property
    def width(self) -> int:
        """The columns of a line."""
        return self._width or columns(sys.stdout)

    def line(self, step: str, text: str) -> None:
        """Print a step and its text."""
        self._print(self._laid_out(step, text))

    @contextmanager
    def bar(self, step: str) -> Iterator[Bar]:
        """Show that a step is in progress, until the block ends; of nested steps the innermost is shown."""
        current = _Step(step, self._clock())

        def update(done: float, total: float, text: str = "") -> None:
            with self._lock:
                current.advance(self._clock(), done, total)
                current.text, *current.details = (text or f"{done:,.0f} of {total:,.0f}").split("\n")

        with self._lock:
            for around in self._steps:
                around.outer = True
            self._steps.append(current)
        try:
            if len(self._steps) > 1:
                yield update
            else:
                with self._live() if sys.stdout.isatty() else self._beating():
                    yield update
        finally:
            with self._lock:
                self._steps.remove(current)

    def beat(self) -> None:
        """Print what the present step is doing if it has changed, or nothing was printed for a growing while."""
        with self._lock:
            if self._steps and self._steps[-1].due(self._clock() - self._last):
                self._print(self.status())

    def status(self, *, all_details: bool = False) -> list[str]:
        """The step in progress: how far, for how long, the time left, and the details that are new."""
        with self._lock:
            if not self._steps:
                return []
            step, now = self._steps[-1], self._clock()
            left = step.left(now)
            # a step may begin after a long silence
            words = f"; {duration(now - step.start)}" if now - step.start >= 1 else ""
            words += " in all" if step.outer else ""
            words += f", about {duration(left)} left" if left is not None and left >= 1 else ""
            lines = self._laid_out(step.name, (step.text or "working") + words)
            new = [detail for detail in step.details if all_details or detail not in self._details]
            lines += [line for detail in new for line in self._laid_out("", detail)]
            self._details = list(step.details)
            return lines

    def _laid_out(self, step: str, text: str) -> list[str]:
        first, *rest = readable(text, self.width - MARGIN).split("\n")
        return [f"{name:<10} {line}".rstrip() for name, line in ((step, first), *(("", more) for more in rest))]

    def _print(self, lines: list[str]) -> None:
        with self._lock:
            print("\n".join(lines), flush=True)
            self._last = self._clock()

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Without a terminal: a thread that prints a line when nothing else does."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                self.beat()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def _live(self) -> Iterator[None]:
        """On a terminal: the status below the last line, redrawn four times a second."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        def status() -> Text:
            return Text("\n".join(self.status(all_details=True)))

        with Live(get_renderable=status, console=Console(), refresh_per_second=4, transient=True):
            yield


def duration(seconds: float) -> str:
    """A duration in its two largest units.

    >>> duration(0.2), duration(42.3), duration(185), duration(7300)
    ('under 1 s', '42 s', '3 min 5 s', '2 h 1 min')
    """
    if seconds < 0.5:
        return "under 1 s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def columns(stream: IO[str]) -> int:
    """The columns of a line: the terminal's within limits, 80 for a file or a pipe."""
    return min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST) if stream.isatty() else 80


def end_process(code: int) -> NoReturn:
    """End the process without tearing down the interpreter, which takes seconds with torch.

    What the standard streams hold is written first; if that fails, the exit code is 1 instead of 0.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)


def print_error(text: str) -> None:
    """Print a message on standard error, wrapped at its width; paths and other long words are never broken."""
    print(readable(text, columns(sys.stderr)), file=sys.stderr)


def print_lines(text: str) -> None:
    """Print lines, wrapped at the width of the terminal."""
    print("\n".join(piece for line in text.split("\n") for piece in _wrapped(line, columns(sys.stdout))))


def readable(text: str, width: int | None) -> str:
    """Text for a terminal: wrapped at `width` (None: not wrapped), remedies on lines of their own, ready to be copied.

    A command or setting in backticks that ends its sentence gets its own line; others, and lines that begin with four
    spaces, are not broken.

    >>> print(readable("The label is missing in two rows. Leave them out, or write `targets: {label: [a, b]}`.", 40))
    The label is missing in two rows. Leave
    them out, or write
        targets: {label: [a, b]}
    """
    text = REMEDY.sub(lambda remedy: f"\n{CODE}{remedy[1]}\n", text).rstrip("\n")
    return "\n".join(line for whole in text.split("\n") for line in _wrapped(whole, width))


def _wrapped(line: str, width: int | None) -> list[str]:
    """The pieces of a line; what follows the name of a step stays in its column."""
    margin = MARGIN if line[:MARGIN].endswith("  ") else 0
    if width is None or len(line) <= width or (line.startswith(CODE) and not margin):
        return [line]
    whole = SPAN.sub(lambda span: span[0].replace(" ", "\0"), line[margin:])
    indent = whole[: len(whole) - len(whole.lstrip())]
    lines = textwrap.wrap(
        whole, width - margin, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    lines = [line[:margin] + lines[0], *(" " * margin + piece for piece in lines[1:])]
    return [piece.replace("\0", " ") for piece in lines]


def shown_at(show: Show | bool | None) -> Show:
    """Where progress is reported: True is the screen or terminal, False nowhere, None the default."""
    if isinstance(show, bool):
        return Terminal() if show else Silent()
    return show or default_show()


def default_show() -> Show:
    """Where functions report their progress: in a notebook or an interactive session on the screen, else nowhere."""
    return Terminal() if hasattr(sys, "ps1") else Silent()
