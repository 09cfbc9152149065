"""An unfinished build on disk: an array of tiles, and a journal with a line for each finished tile.

The space of all rows of `building-….npy` is reserved at the start; `building-….jsonl` gets a line when a row is
finished. A line is valid only if it states the hash of its tile, so a tile that was not written completely before an
interruption is made again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from casewise.errors import RunError
from casewise.files import NO_FOLLOW, storage_message
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store import COLUMNS, hash_tile, stamp_of

Record = dict[str, Any]

# Space for a row of the journal and the index, an upper bound for paths of ordinary length.
BYTES_PER_ROW = 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Building:
    """The two files of one unfinished build; their names are a hash over its settings and its list of paths."""

    def __init__(self, folder: Path, paths: Sequence[object], preparation: Preparation) -> None:
        """Read the journal of an interrupted run; nothing is written before the `with` block."""
        key = hashlib.sha256("\n".join([preparation.fingerprint(), *map(str, paths)]).encode()).hexdigest()
        stem = f"{stem_of(preparation)}{key[:16]}"
        self.tiles, self.journal = folder / f"{stem}.npy", folder / f"{stem}.jsonl"
        self._shape = preparation.shape
        header = io.BytesIO()
        whole = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *self._shape)}
        np.lib.format.write_array_header_1_0(header, whole)
        self._header = header.getvalue()
        self._tile_bytes = int(np.prod(self._shape))
        self._total = len(self._header) + len(paths) * self._tile_bytes
        self._needed = self._total + len(paths) * BYTES_PER_ROW
        self._lock = threading.Lock()
        self._records = read_journal(self.journal)

    def __enter__(self) -> Self:
        """Open both files and reserve their space."""
        with self._disk():
            self._notes = _opened(self.journal, "ab")
            try:
                # The next line must not be appended to an incomplete one.
                _put(self._notes, b"\n")
                is_file = self.tiles.exists() and not self.tiles.is_symlink()
                self._file = _opened(self.tiles, "r+b" if is_file else "w+b")
                try:
                    self._reserve()
                    self._file.seek(0)
                    _put(self._file, self._header)
                except BaseException:
                    self._file.close()
                    raise
            except BaseException:
                self._notes.close()
                raise
        return self

    def __exit__(self, *failure: object) -> None:
        """Flush the tiles to the disk and close both files."""
        with self._file, self._notes, self._disk():
            os.fsync(self._file.fileno())

    def _reserve(self) -> None:
        """Reserve the space of all tiles, so that a full disk is reported before the work."""
        if os.fstat(self._file.fileno()).st_size == self._total:
            return
        needed = self._needed
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file.fileno(), 0, self._total)
                needed -= self._total
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                    raise
        if shutil.disk_usage(self.tiles.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file.truncate(self._total)

    def finished(self, row: int, status: os.stat_result) -> Record | None:
        """The record of a row whose source is unchanged and whose tile is intact, else None."""
        record = self._records.get(row)
        if record is None or not same_status(record, status):
            return None
        with self._lock, self._disk():
            self._file.seek(len(self._header) + row * self._tile_bytes)
            tile = self._file.read(self._tile_bytes)
        return record if hashlib.sha256(tile or b"").hexdigest() == record["tile_sha256"] else None

    def write(self, row: int, tile: np.ndarray) -> None:
        """Write one tile to its row; may be called from several threads."""
        with self._lock, self._disk():
            self._file.seek(len(self._header) + row * self._tile_bytes)
            _put(self._file, np.ascontiguousarray(tile).tobytes())

    def note(self, row: int, record: Record) -> None:
        """Record in the journal that the tile of a row is written."""
        with self._disk():
            _put(self._notes, json.dumps({"row": row} | record).encode() + b"\n")

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Raise a failure of the disk as a `RunError`; finished tiles are kept."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise RunError(storage_message(error, self.tiles)) from error
            if not read_journal(self.journal):
                # No tile is finished, so the reserved space is released.
                self.tiles.unlink(missing_ok=True)
                self.journal.unlink(missing_ok=True)
            free = shutil.disk_usage(self.tiles.parent).free
            raise RunError(
                f"{self.tiles.parent}: the disk is full. The tile store needs {self._needed / 1e6:,.1f} MB in addition "
                f"to its finished tiles, and {free / 1e6:,.1f} MB are free. Make room and run the same command "
                "again: finished tiles are kept."
            ) from error


class EarlierTiles:
    """Tiles of earlier builds, by the path of an unchanged source or by its hash."""

    def __init__(self) -> None:
        """Begin with none."""
        self._by_path: dict[str, tuple[Record, np.ndarray]] = {}
        self._by_content: dict[str, tuple[Record, np.ndarray]] = {}

    def add(self, tiles: np.ndarray, records: dict[int, Record]) -> None:
        """Add the rows of `tiles` that `records` describe; tiles that were added earlier take precedence."""
        for row, record in records.items():
            if row < len(tiles):
                self._by_path.setdefault(record["path"], (record, tiles[row]))
                self._by_content.setdefault(record["sha256"], (record, tiles[row]))

    def same_file(self, path: str, status: os.stat_result) -> tuple[Record, np.ndarray] | None:
        """The tile of a file whose size and times are unchanged."""
        entry = self._by_path.get(path)
        return _intact(*entry) if entry and same_status(entry[0], status) else None

    def same_content(self, sha256: str) -> tuple[Record, np.ndarray] | None:
        """The tile of any file with this content."""
        entry = self._by_content.get(sha256)
        return _intact(*entry) if entry else None


def same_status(record: Record, status: os.stat_result) -> bool:
    """Whether a file has the size and the times of its record."""
    return bool((record["bytes"], record["mtime_ns"], record["ctime_ns"]) == stamp_of(status))


def _intact(record: Record, tile: np.ndarray) -> tuple[Record, np.ndarray] | None:
    """The record and a copy of its tile, or None if the tile is damaged."""
    copy = np.array(tile)
    return (record, copy) if hash_tile(copy) == record["tile_sha256"] else None


def _opened(path: Path, mode: Literal["ab", "r+b", "w+b"]) -> io.FileIO:
    """Open a file without a buffer; a link in its place is removed, not followed."""
    if path.is_symlink():
        path.unlink()
    return open(path, mode, buffering=0, opener=lambda name, flags: os.open(name, flags | NO_FOLLOW, 0o666))


def _put(file: io.FileIO, data: bytes) -> None:
    """Write all of `data`; an unbuffered file may take only part of it at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def stem_of(preparation: Preparation) -> str:
    """The beginning of the names of all builds with these settings."""
    return f"building-{preparation.fingerprint()[:8]}-"


def read_journal(path: Path) -> dict[int, Record]:
    """Return the records of a build by row; incomplete lines are left out."""
    records: dict[int, Record] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and set(entry) == {"row", *COLUMNS}:
                records[entry.pop("row")] = entry
    return records
