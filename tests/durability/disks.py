"""Real disks that are too small, are unmounted, become immutable or are deleted in the middle of a run; for root."""

from __future__ import annotations

import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOM = "2g"


class NoDiskError(Exception):
    """A disk cannot be mounted here."""


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes in memory, mounted at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _order("mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def make_room(folder: Path) -> None:
    """Enlarge a mounted disk."""
    _order("mount", "-o", f"remount,size={ROOM}", str(folder))


def _order(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise NoDiskError(f"{command[0]} is not here")
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise NoDiskError(ended.stderr.strip())


@contextmanager
def after(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Do something after so many seconds of the block."""
    timer = threading.Timer(seconds, act)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """Let no file grow beyond `most` bytes, as `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
