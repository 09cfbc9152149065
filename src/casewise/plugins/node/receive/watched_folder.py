"""A folder into which files of images are put: each is taken when it is no longer written to, and then removed.

Files may lie in subfolders. Hidden files, and what is no regular file, stay untouched; so programs can write a file
under a name that begins with a dot, and rename it when it is complete.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from casewise.errors import CasewiseError
from casewise.files import make_folder, read_regular, write_atomic
from casewise.plugins.node.queue.study_queue import StudyQueue
from casewise.plugins.node.receive.inbox import Inbox, RefusedError

log = logging.getLogger("casewise.node")
# The folder for files that are no images, in that of the node.
REFUSED = "refused"
# Levels of subfolders, files that are looked at each time, and the largest file in bytes.
DEEPEST, MOST, LARGEST = 10, 20_000, 4 * 2**30
# Seconds until an empty subfolder is removed, and until a file that could not be read is tried again.
EMPTY, PAUSE = 60, 60


class WatchedFolder:
    """The incoming folder of a node.

    Args:
        folder: it is made if it is missing.
        settled: seconds in which a file must not change before it is taken.
    """

    def __init__(self, folder: Path, inbox: Inbox, queue: StudyQueue, *, settled: float = 2.0) -> None:
        self.folder, self._inbox, self._queue, self._settled = folder, inbox, queue, settled
        self._refused = queue.folder / REFUSED
        # of each file: its size and time of change, and since when these are the same
        self._unchanged: dict[str, tuple[tuple[int, ...], float]] = {}
        make_folder(folder)

    def scan(self) -> int:
        """Take the files that are complete; how many images were new.

        A file that cannot be stored, such as on a full disk, stays and is tried again; one that is no image is moved to
        the folder `refused`.

        Raises:
            CasewiseError: the folder cannot be read.
        """
        now, new = time.monotonic(), 0
        before, self._unchanged = self._unchanged, {}
        for path, status in self._files(self.folder, 0):
            state = _state(status)
            last, since = before.get(path, (state, now))
            since = since if last == state else now
            if now - since < self._settled:
                self._unchanged[path] = (state, since)
                continue
            try:
                new += self._take(Path(path), state)
            except CasewiseError as error:
                log.error("a file of the incoming folder could not be stored: %s", error)
                self._unchanged[path] = (state, since)
                break
            except OSError as error:  # it is gone, or may not be read or removed
                log.warning("a file of the incoming folder could not be taken: %s", error.strerror or "")
                self._unchanged[path] = (state, now + PAUSE)
        return new

    def _take(self, path: Path, state: tuple[int, ...]) -> bool:
        data, is_new = read_regular(path, LARGEST), False
        try:
            is_new = self._inbox.receive_file(data, "folder").is_new
        except RefusedError as error:
            sha256 = hashlib.sha256(data).hexdigest()
            write_atomic(self._refused / sha256[:32], data)
            self._queue.note("refused", f"{sha256[:12]}: {error}")
            log.warning("a file of the incoming folder was refused (%s): %s", sha256[:12], error)
        if _state(path.lstat()) == state:  # else it was replaced, and the new file is taken later
            path.unlink()
        return is_new

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
