"""Folders that a command writes: which ones it may write into, and whether a process works in one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from casewise.errors import RunError

# How long, in seconds, a process waits for a lock that another one may hold just to look.
MOMENT = 0.5


def check_folder(path: Path, own: Collection[str], purpose: str) -> None:
    """Check that a folder is new, empty (hidden files aside), or has a file or folder named in `own`.

    Raises:
        RunError: it has only other files, or is a file.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file, and {purpose} is a folder. Choose another one with --output.")
    if not path.is_dir() or any((path / name).exists() for name in own):
        return
    if other := min((entry.name for entry in path.iterdir() if not entry.name.startswith(".")), default=None):
        raise RunError(
            f"{path} holds other files, such as {other}, and {purpose} is a new or empty folder, or one of the same "
            "kind. Choose another folder with --output."
        )


def is_locked(path: Path) -> bool | None:
    """Whether a process holds the lock of this path; None if it cannot be told, because the file is read-only.

    The lock is held for a moment to find out.
    """
    from filelock import FileLock, Timeout

    if not path.exists():
        return False
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:
        return None
    lock.release()
    return False
