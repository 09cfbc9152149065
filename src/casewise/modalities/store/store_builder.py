"""Building a tile store: images are decoded on all cores unless an earlier store or unfinished build has their tile.

An unfinished build is an array of tiles, `building-….npy`, and a journal with a line for each finished one. A line is
valid only if it states the hash of its tile, so a tile that was not written completely before an interruption is made
again.

Images that cannot be read are reported together, in one message; a check of all images of a table does the same.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple, Self

import filelock
import numpy as np

from casewise.errors import ImageError, RunError, counted
from casewise.files import NO_FOLLOW, storage_message, text_hash, write_atomic
from casewise.modalities.store import store as tile_store
from casewise.modalities.store.file_check import ARRAY_DAMAGE, raise_if_memory
from casewise.modalities.store.preparation import Channels, Preparation
from casewise.modalities.store.readers import MEMORY, Budget, open_source, read_bytes
from casewise.modalities.store.workers import Progress, Work, of_each_image, spread

# The file with all problems, in the folder of the tile store or, after a check, in the current folder.
PROBLEMS = "unreadable-images.txt"
# The number of problems that a message lists.
SHOWN = 10


class ImageCheck(NamedTuple):
    """What a check notes: why an image shows nothing, a note of its reader, the scan that it belongs to, its mode."""

    empty: str
    note: str
    series: str
    mode: str


def check_images(
    paths: Sequence[Path], size: int, channels: Channels, progress: Progress
) -> tuple[dict[int, ImageCheck], dict[int, str]]:
    """By row, what is noted of images, and messages on those that cannot be read.

    Every image is decoded, reduced to `size` pixels.
    """
    budget = Budget(MEMORY)

    def check(row: int) -> ImageCheck:
        source = open_source(paths[row], read_bytes(paths[row]))
        target = source.target(size)
        with budget.hold(source.memory(target)):
            pixels = source.read(target, channels)
        empty = "" if np.ptp(pixels, axis=(0, 1)).any() else "all pixels are equal"
        empty = "1 x 1 pixel" if pixels[..., 0].size == 1 else empty
        info = source.image.info
        return ImageCheck(empty, info.get("note", ""), info.get("series", ""), source.facts()["mode"])

    checks, problems = of_each_image(len(paths), check, progress=progress)
    return dict(sorted(checks.items())), problems


def not_read(
    problems: Mapping[int, str], paths: Sequence[tile_store.ImageSource], file: Path, *, kept: bool = False
) -> ImageError:
    """The error of images that cannot be read: the first in the order of the rows, and a count of the others.

    Args:
        problems: a message for each row that failed.
        file: is written with all messages where the error does not list them all.
        kept: whether tiles of the other images are kept.
    """
    lines: list[str] = []
    first: dict[Path, int] = {}  # by file whose regions are read: its line
    more: Counter[Path] = Counter()
    for row in sorted(problems):
        source = paths[row]
        if not isinstance(source, Path):
            more[source.path] += 1
            if source.path in first:
                continue
            first[source.path] = len(lines)
        lines.append(f"  {problems[row]}")
    for path, line in first.items():
        if more[path] > 1:
            lines[line] += f" The same applies to {more[path] - 1:,} more of its tiles."
    listed, where = lines[:SHOWN], ""
    if len(lines) > SHOWN:
        with suppress(OSError, RunError):
            write_atomic(file, "\n".join(map(str.strip, lines)) + "\n")
            where = f"; {file} lists all {len(lines):,}"
        listed.append(f"  … and {len(lines) - SHOWN:,} more{where}.")
    suffix = " The other tiles are kept for the next run." if kept and len(problems) < len(paths) else ""
    noun = "image" if all(isinstance(path, Path) for path in paths) else "tile"
    return ImageError("\n".join([f"{len(problems):,} of {counted(len(paths), noun)} cannot be read.{suffix}", *listed]))


# With fewer images to be read, other machines would take longer to begin than this one to finish.
FEWEST = 500
# Space for a row of the journal and the index, an upper bound for paths of ordinary length.
BYTES_PER_ROW = 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}


def prepare(
    paths: Sequence[tile_store.ImageSource],
    preparation: Preparation,
    folder: Path,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> tile_store.TileStore:
    """Build, continue, repair or open the tile store of `paths` in `folder`; row i of the store is `paths[i]`,
    an image file or a region of one.

    A finished store whose sources have unchanged sizes and times is opened without reading an image. Otherwise the
    content of files with new times is compared, and only new, changed and unfinished images are decoded, by
    `processes` workers (default: the number of cores). `progress(done, total)` is called from this thread. Workers
    are threads, because decoding releases the interpreter's lock.

    Raises:
        ImageError: images cannot be read; the message lists them, and the tiles of the others are kept.
        RunError: the folder is in use by another run, cannot be written, or the disk is full.
    """
    folder = Path(folder)
    if not paths:
        raise ImageError("There is no image to prepare: the list is empty.")
    if store := tile_store.unchanged(paths, preparation, folder):
        if progress:
            progress(len(store), len(store))
        return store
    with _alone(folder):
        tile_store.sweep(folder)
        earlier = _earlier_tiles(folder, preparation)
        if len(missing := [source for source in paths if not earlier.has(source)]) >= FEWEST:
            parts = [list(sources) for _, sources in groupby(missing, key=os.fspath)]
            files = [Path(sources[0]) for sources in parts]
            work = Work(partial(_build_part, preparation, folder.absolute()), parts, folder, files)
            if spread(work, len(paths) - len(missing), progress):
                earlier = _earlier_tiles(folder, preparation)
        building = Building(folder, paths, preparation)
        building.earlier = earlier
        with building:
            records, problems = of_each_image(len(paths), building.finish, workers=processes, progress=progress)
        # All tiles of other builds that this list needs have been copied.
        _discard_builds(folder, keep={building.tiles, building.journal})
        if problems:
            raise not_read(problems, paths, folder / PROBLEMS, kept=True)
        (folder / PROBLEMS).unlink(missing_ok=True)
        tile_store.publish(folder, building.tiles, [records[row] for row in range(len(paths))], preparation)
        _discard_builds(folder)
        tile_store.sweep(folder)
    return tile_store.open_store(folder)


def _build_part(preparation: Preparation, folder: Path, paths: Sequence[tile_store.ImageSource]) -> None:
    """Build the tiles of some images as an unfinished build, from which `prepare` takes them; problems are its own.

    Two processes that do this at once, one of them on a machine that was lost, write the same bytes.
    """
    with Building(folder, paths, preparation) as building:
        of_each_image(len(paths), building.finish, workers=1)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder for one build; the lock ends with the process.

    Raises:
        RunError: another run is building here, or the folder cannot be written.
    """
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise RunError(
            f"{folder}: another run is preparing images here. Wait until it has finished, or stop it."
        ) from error
    except NotImplementedError:
        warnings.warn(
            f"{folder}: its file system does not support locks; do not start a second run in this folder.", stacklevel=2
        )
    except OSError as error:
        raise RunError(f"{folder}: tiles cannot be stored here: {error.strerror or error}.") from error
    try:
        yield
    finally:
        lock.release()


class _EarlierTiles:
    """Tiles of earlier builds, by the path and the stamp of an unchanged source or by the hash of its content."""

    def __init__(self) -> None:
        """Begin with none."""
        self._found: dict[object, tuple[tile_store.Record, Path, int]] = {}

    def add(self, tiles: Path, records: Mapping[int, tile_store.Record]) -> None:
        """Add the rows of a file that `records` describe; tiles that were added earlier take precedence.

        The file is not kept open, because a cluster leaves as many builds as it had tasks.
        """
        count = len(np.load(tiles, mmap_mode="r", allow_pickle=False))
        for row, record in records.items():
            if row < count:
                for key in ((record["path"], _stamp(record)), record["sha256"]):
                    self._found.setdefault(key, (record, tiles, row))

    def has(self, source: tile_store.ImageSource) -> bool:
        """Whether there is a tile of this source, and the file is unchanged."""
        try:
            return (str(source), tile_store.stamp_of(os.stat(source))) in self._found
        except OSError:
            return False

    def get(self, key: object) -> tuple[tile_store.Record, np.ndarray] | None:
        """The record and a copy of the tile of a source; None if there is none, or it is damaged."""
        if key not in self._found:
            return None
        record, tiles, row = self._found[key]
        copy = np.array(np.load(tiles, mmap_mode="r", allow_pickle=False)[row])
        return (record, copy) if tile_store.hash_tile(copy) == record["tile_sha256"] else None


def _earlier_tiles(folder: Path, preparation: Preparation) -> _EarlierTiles:
    """All tiles with these settings in the folder, of the finished store and of unfinished builds."""
    earlier = _EarlierTiles()
    for journal in sorted(folder.glob(f"{_stem(preparation)}*.jsonl")):
        try:
            earlier.add(journal.with_suffix(".npy"), _read_journal(journal))
        except ARRAY_DAMAGE as error:
            raise_if_memory(error)
            continue  # interrupted before its header was written, or damaged: no tile of it can be used
    try:
        store = tile_store.open_store(folder)
    except RunError:
        return earlier  # there is none, or this build replaces one that cannot be opened
    if store.preparation == preparation:
        earlier.add(
            Path(str(store.tiles.filename)), dict(enumerate(store.index[list(tile_store.COLUMNS)].to_dict("records")))
        )
    return earlier


class Building:
    """The two files of one unfinished build; their names are a hash over its settings and its list of paths."""

    def __init__(self, folder: Path, paths: Sequence[tile_store.ImageSource], preparation: Preparation) -> None:
        """Read the journal of an interrupted run; nothing is written before the `with` block."""
        key = text_hash("\n".join([preparation.fingerprint(), *map(str, paths)]))
        stem = f"{_stem(preparation)}{key[:16]}"
        self.tiles, self.journal = folder / f"{stem}.npy", folder / f"{stem}.jsonl"
        self.earlier = _EarlierTiles()
        self._paths, self._preparation = paths, preparation
        header = io.BytesIO()
        whole = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *preparation.shape)}
        np.lib.format.write_array_header_1_0(header, whole)
        self._header = header.getvalue()
        self._tile_bytes = int(np.prod(preparation.shape))
        self._total = len(self._header) + len(paths) * self._tile_bytes
        self._needed = self._total + len(paths) * BYTES_PER_ROW
        self._lock = threading.Lock()
        self._budget = Budget(MEMORY)
        regions = {type(source): source for source in paths if not isinstance(source, Path)}
        self._readers = {kind: source.new_reader() for kind, source in regions.items()}
        self._records = _read_journal(self.journal)

    def __enter__(self) -> Self:
        """Open both files; a full disk is reported before the work."""
        with self._disk(), ExitStack() as opened:
            self._notes = opened.enter_context(_opened(self.journal, "ab"))
            _put(self._notes, b"\n")  # the next line must not be appended to an incomplete one
            is_file = self.tiles.exists() and not self.tiles.is_symlink()
            self._file = opened.enter_context(_opened(self.tiles, "r+b" if is_file else "w+b"))
            if os.fstat(self._file.fileno()).st_size != self._total:
                if shutil.disk_usage(self.tiles.parent).free < self._needed:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._file.truncate(self._total)
            self._file.seek(0)
            _put(self._file, self._header)
            opened.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        """Flush the tiles to the disk and close both files."""
        with self._file, self._notes, self._disk():
            os.fsync(self._file.fileno())

    def finish(self, row: int) -> tile_store.Record:
        """Put the tile of a row in its place: the finished one, an earlier one, or a decoded one.

        Raises:
            ImageError: the image cannot be read.
        """
        source = self._paths[row]
        try:
            # read before the content, so that a file that changes in between counts as changed in the next run
            stamp = tile_store.stamp_of(os.stat(source))
        except OSError:
            if isinstance(source, Path):  # the next line raises an error with the reason
                read_bytes(source)
            else:
                source.check()
            stamp = tile_store.stamp_of(os.stat(source))
        record = self._records.get(row)
        if record and _stamp(record) == stamp and self._is_intact(row, record):
            return record
        if earlier_tile := self.earlier.get((str(source), stamp)):
            record, tile = earlier_tile
        else:
            sha256, decode = self._region(source) if not isinstance(source, Path) else self._image(source)
            facts, tile = self.earlier.get(sha256) or decode()
            origin = {"path": str(source), "sha256": sha256, **dict(zip(tile_store.STAMP, stamp, strict=True))}
            record = facts | origin | {"tile_sha256": tile_store.hash_tile(tile)}
        with self._lock, self._disk():
            self._file.seek(len(self._header) + row * self._tile_bytes)
            _put(self._file, np.ascontiguousarray(tile).tobytes())
            _put(self._notes, json.dumps({"row": row} | record).encode() + b"\n")
        return record

    def _is_intact(self, row: int, record: tile_store.Record) -> bool:
        with self._lock, self._disk():
            self._file.seek(len(self._header) + row * self._tile_bytes)
            tile = self._file.read(self._tile_bytes)
        return hashlib.sha256(tile or b"").hexdigest() == record["tile_sha256"]

    def _image(self, path: Path) -> tuple[str, Callable[[], tuple[tile_store.Record, np.ndarray]]]:
        """The hash of an image file, and how it is decoded."""
        data = read_bytes(path)

        def decode() -> tuple[tile_store.Record, np.ndarray]:
            image = open_source(path, data)
            with self._budget.hold(image.memory(image.target_for(self._preparation))):
                tile = image.tile(self._preparation)
            return image.facts(), tile

        return hashlib.sha256(data).hexdigest(), decode

    def _region(self, source: tile_store.TileSource) -> tuple[str, Callable[[], tuple[tile_store.Record, np.ndarray]]]:
        """The hash of a region of an image file, and how it is decoded."""
        reader, size = self._readers[type(source)], self._preparation.size
        facts = {"width": size, "height": size, "mode": "RGB", "format": "slide"}
        return reader.sha256(source), lambda: (facts, reader.tile(source, self._preparation))

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Raise a failure of the disk as a `RunError`; finished tiles are kept."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise RunError(storage_message(error, self.tiles)) from error
            free = shutil.disk_usage(self.tiles.parent).free
            raise RunError(
                f"{self.tiles.parent}: the disk is full. The tile store needs {self._needed / 1e6:,.1f} MB in addition "
                f"to its finished tiles, and {free / 1e6:,.1f} MB are free. Make room and run the same command "
                "again: finished tiles are kept."
            ) from error


def _stamp(record: tile_store.Record) -> tile_store.Stamp:
    return record["bytes"], record["mtime_ns"], record["ctime_ns"]


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


def _stem(preparation: Preparation) -> str:
    """The beginning of the names of all builds with these settings."""
    return f"building-{preparation.fingerprint()[:8]}-"


def _read_journal(path: Path) -> dict[int, tile_store.Record]:
    """The records of a build by row; incomplete lines are left out."""
    records: dict[int, tile_store.Record] = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and set(entry) == {"row", *tile_store.COLUMNS}:
            records[entry.pop("row")] = entry
    return records


def _discard_builds(folder: Path, keep: set[Path] | None = None) -> None:
    """Remove unfinished builds, except the files in `keep`."""
    for path in folder.glob("building-*"):
        if path not in (keep or ()):
            path.unlink(missing_ok=True)
