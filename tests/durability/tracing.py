"""What a run does to its files: counted, so that a fault can be planned at the n-th operation; imports little.

It is installed in a run that is forked, and through `sitecustomize` in the workers that it starts.
"""

import errno
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import Any

# The environment of a worker: the folder that is watched, and the file of finished epochs.
WATCHED, EPOCHS = "CASEWISE_TEST_WATCHED", "CASEWISE_TEST_EPOCHS"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.link", "os.rmdir", "os.truncate"}
# What still works on a full disk.
FREEING = {"os.rename", "os.remove", "os.rmdir"}


@dataclass
class Tracer:
    """An audit hook that counts operations on files in `folder`, and does what was planned at one of them.

    Attributes:
        epochs: the file to which a line is appended for each finished epoch.
        operations: the number of operations, which the process that started the run sees, too.
        at: the operation at which the fault occurs, from 1; 0 for none.
        fault: `kill`, or the name of the error that this and the later operations fail with.
    """

    folder: str
    epochs: str
    operations: Any = None
    at: int = 0
    fault: str = "kill"
    busy: bool = field(default=False, init=False)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy or (event != "open" and event not in CHANGES):
            return
        name = _text(arguments[1] if event == "os.rename" else arguments[0])
        if not name.startswith(self.folder):
            return
        self.busy = True
        try:
            self._operation(event, name, arguments)
        finally:
            self.busy = False

    def _operation(self, event: str, name: str, arguments: tuple[Any, ...]) -> None:
        writes = event != "open" or bool((arguments[2] or 0) & WRITING)
        if self.operations is not None:
            self.operations.value += writes
            if self.at and self.operations.value >= self.at:
                self._fail(event, name, writes)
        if event == "os.rename" and name.endswith("/progress.json"):
            self._note_epoch(_text(arguments[0]), name)

    def _fail(self, event: str, name: str, writes: bool) -> None:
        if self.fault == "kill":
            os.killpg(0, signal.SIGKILL)
        number = getattr(errno, self.fault)
        if (self.fault in ("ENOSPC", "EROFS") and not writes) or (self.fault == "ENOSPC" and event in FREEING):
            return
        raise OSError(number, os.strerror(number), name)

    def _note_epoch(self, written: str, name: str) -> None:
        with open(written, encoding="utf-8") as file:
            progress = json.load(file)
        if progress["done"] and progress["stage"] != "failed":
            line = f"{os.path.relpath(name, self.folder)}\t{progress['stage']}\t{progress['done']}\n"
            with open(self.epochs, "a", encoding="utf-8") as file:
                file.write(line)


def _text(name: Any) -> str:
    try:
        return os.fsdecode(name)
    except TypeError:  # a number of an open file
        return ""


def install_in_worker() -> None:
    """Watch this process as its environment states."""
    if folder := os.environ.get(WATCHED):
        sys.addaudithook(Tracer(folder, os.environ[EPOCHS]))
