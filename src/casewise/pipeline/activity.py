"""What a command is doing in a run folder, and why the last one stopped: for `casewise status` in another terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from casewise.errors import CasewiseError, printable
from casewise.files import storage_failures, write_json

if TYPE_CHECKING:
    from casewise.console import Bar, Show
    from casewise.run_folder import RunFolder


@contextmanager
def recorded(folder: RunFolder, show: Show, only: Sequence[str] = ()) -> Iterator[Show]:
    """Record the step and the last line of a command that works in the folder, or the error that ends it.

    A folder with metrics is left as it is, since a command that is refused changes nothing in it.

    Args:
        only: names of networks as `casewise run --only` has them; none where all are trained.

    Yields:
        Where the command reports its progress from now on.
    """
    recorder = None if folder.metrics.exists() else _Recorder(folder, show, tuple(map(printable, only)))
    try:
        if recorder:
            recorder.write()
        with storage_failures(folder.path):
            yield recorder or show
    except CasewiseError as error:
        if recorder:
            recorder.facts.clear()
            recorder.write(stopped=str(error))
        raise
    with suppress(OSError):
        folder.activity.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Recorder:
    """Passes on what is shown, and records the step in progress and the last line in the run folder."""

    folder: RunFolder
    show: Show
    only: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)

    def line(self, step: str, text: str) -> None:
        self.write(line=": ".join(filter(None, (step, text))))
        self.show.line(step, text)

    @contextmanager
    def bar(self, step: str) -> Iterator[Bar]:
        outer = self.facts.get("step", "")
        self.write(step=step)
        try:
            with self.show.bar(step) as bar:
                yield bar
        finally:
            self.write(step=outer)

    def write(self, **facts: str) -> None:
        self.facts.update({name: printable(text) for name, text in facts.items()})
        with suppress(OSError, CasewiseError):  # the step itself says what is wrong with the folder
            write_json(self.folder.activity.path, {"only": self.only, **self.facts}, durable=False)
