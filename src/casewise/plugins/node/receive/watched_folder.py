"""A folder into which files of images are put: each is taken when it is no longer written to, and then removed.

What is no image, or not yet, such as a copy that pauses, stays until it has not changed for minutes; meanwhile its
study does not become complete. Files may lie in subfolders. Hidden files, and what is no regular file, stay untouched;
so programs can write a file under a name that begins with a dot, and rename it when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from casewise.errors import CasewiseError
from casewise.files import NO_FOLLOW, make_folder, sync_folder
from casewise.plugins.node.node_log import log
from casewise.plugins.node.queue.study_queue import StudyQueue
from casewise.plugins.node.receive.data_set import RefusedError
from casewise.plugins.node.receive.inbox import Inbox

# The folder for files that are no images, in that of the node.
REFUSED = "refused"
# Levels of subfolders, and files that are looked at each time.
DEEPEST, MOST = 10, 20_000
# Seconds in which a file must not change before it is taken, and before one that is no image is moved away.
SETTLED, PATIENCE = 2.0, 600.0
# Seconds until an empty subfolder is removed, and until a file that could not be read is tried again.
EMPTY, PAUSE = 60, 60


@dataclass
class _WaitingFile:
    """A file that stays for now.

    Attributes:
        state: its size and time of change; since: when it was first in this state.
        refused: whether it was no image in this state; study: its study, as far as known.
    """

    state: tuple[int, ...]
    since: float = field(default_factory=time.monotonic)
    refused: bool = False
    study: str = ""


class WatchedFolder:
    """The incoming folder of a node.

    Args:
        folder: it is made if it is missing.
        settled, patience: see `SETTLED`.
    """

    def __init__(
        self, folder: Path, inbox: Inbox, queue: StudyQueue, *, settled: float = SETTLED, patience: float = PATIENCE
    ) -> None:
        self.folder, self._inbox, self._queue = folder, inbox, queue
        self._settled, self._patience, self._refused = settled, patience, queue.folder / REFUSED
        self._waiting: dict[str, _WaitingFile] = {}
        make_folder(folder)

    def scan(self) -> int:
        """Take the files that are complete; how many images were new.

        A file that cannot be stored, such as on a full disk, stays and is tried again; one that is no image is moved to
        the folder `refused` in the end.

        Raises:
            CasewiseError: the folder cannot be read.
        """
        new, before = 0, self._waiting
        self._waiting = {}
        for path, status in self._files(self.folder, 0):
            file = before.get(path) or _WaitingFile(_state(status))
            if file.state != _state(status):
                file = _WaitingFile(_state(status), study=file.study)
            self._waiting[path] = file
            if time.monotonic() - file.since < (self._patience if file.refused else self._settled):
                continue
            try:
                new += self._take(Path(path), file)
            except CasewiseError as error:
                log.error("a file of the incoming folder could not be stored: %s", error)
                self._waiting = before | self._waiting
                break
            except OSError as error:  # it is gone, or may not be read or removed
                log.warning("a file of the incoming folder could not be taken: %s", error.strerror or "")
                file.since = time.monotonic() + PAUSE
        if studies := {file.study for file in self._waiting.values() if file.study}:
            self._queue.keep_waiting(studies)
        return new

    def _take(self, path: Path, file: _WaitingFile) -> bool:
        with _opened(path) as stream:
            try:
                is_new = self._inbox.receive_file(stream, "folder").is_new
            except RefusedError as error:
                if file.refused:
                    self._move(path, stream, str(error))
                else:
                    file.refused, file.study = True, error.study or file.study
                    log.warning("a file of the incoming folder is no image, and stays for now: %s", error)
                return False
        if _state(path.lstat()) == file.state:  # else it was replaced, and the new file is taken later
            path.unlink()
        del self._waiting[str(path)]
        return is_new

    def _move(self, path: Path, stream: BufferedReader, reason: str) -> None:
        """Move a file to the folder `refused`."""
        stream.seek(0)
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        make_folder(self._refused)
        target = self._refused / sha256[:32]
        shutil.move(path, target)
        os.utime(target)  # it is kept for days from now on
        sync_folder(self._refused)
        del self._waiting[str(path)]
        self._queue.note("refused", f"{sha256[:12]}: {reason}")
        log.warning("a file of the incoming folder was refused (%s): %s", sha256[:12], reason)

    def _files(self, folder: Path, level: int) -> Iterator[tuple[str, os.stat_result]]:
        """Regular files that are not hidden, by name; empty subfolders are removed."""
        try:
            with os.scandir(folder) as entries:
                listed = sorted(
                    (entry for entry in entries if not entry.name.startswith(".")), key=lambda each: each.name
                )
        except OSError as error:
            if level:  # such as a subfolder that was removed
                return
            reason = f"{folder} cannot be read: {error.strerror or error}"
            raise CasewiseError(f"receive.folder: {reason}. Check that it exists, and its permissions.") from error
        for entry in listed[:MOST]:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode) and level < DEEPEST:
                yield from self._files(Path(entry.path), level + 1)
                if time.time() - status.st_mtime > EMPTY:
                    with suppress(OSError):  # it is not empty
                        os.rmdir(entry.path)
            elif stat.S_ISREG(status.st_mode):
                yield entry.path, status


def _state(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _opened(path: Path) -> BufferedReader:
    """A regular file; a pipe that took its place does not block."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | NO_FOLLOW)
    file = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file
