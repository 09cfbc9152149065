"""Building a tile store: images are decoded on all cores unless an earlier store or unfinished build has their tile."""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np

from casewise.errors import ImageError, RunError, StudyError
from casewise.modalities.store.file_check import ARRAY_DAMAGE
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.readers import MEMORY, Budget, open_source, read_bytes
from casewise.modalities.store.resume import Building, EarlierTiles, Record, read_journal, stem_of
from casewise.modalities.store.store import (
    COLUMNS,
    MARKER,
    ImageSource,
    TileSource,
    TileSourceReader,
    TileStore,
    hash_tile,
    open_store,
    publish,
    stamp_of,
    sweep,
    unchanged,
)
from casewise.modalities.store.unreadable import PROBLEMS, not_read

Progress = Callable[[int, int], None]


def prepare(
    paths: Sequence[ImageSource],
    preparation: Preparation,
    folder: Path,
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TileStore:
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
    if store := unchanged(paths, preparation, folder):
        if progress:
            progress(len(store), len(store))
        return store
    build(paths, preparation, folder, workers=processes, progress=progress)
    return open_store(folder)


def build(
    paths: Sequence[ImageSource],
    preparation: Preparation,
    folder: Path,
    *,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Build and publish the store of `paths` in `folder`; it raises the errors of `prepare`."""
    from joblib import cpu_count

    if not paths:
        raise ImageError("There is no image to prepare: the list is empty.")
    if workers is not None and workers < 1:
        raise StudyError(f"processes must be at least 1, not {workers}.")
    with alone(folder):
        if unchanged(paths, preparation, folder, report=False):
            return
        sweep(folder)
        building = Building(folder, paths, preparation)
        earlier = _earlier(folder, preparation)
        with building:
            rows, problems = _fill(building, earlier, paths, preparation, workers or cpu_count(), progress)
        # All tiles of other builds that this list needs have been copied.
        _discard_builds(folder, keep=building)
        if problems:
            raise not_read(problems, paths, folder / PROBLEMS, kept=True)
        (folder / PROBLEMS).unlink(missing_ok=True)
        publish(folder, building.tiles, rows, preparation)
        _discard_builds(folder)
        sweep(folder)


class Readers:
    """One reader for each type of source; may be used from several threads."""

    def __init__(self) -> None:
        """Begin without readers."""
        self._readers: dict[type, TileSourceReader] = {}
        self._lock = threading.Lock()

    def of(self, source: TileSource) -> TileSourceReader:
        """The reader of sources of this type."""
        with self._lock:
            if type(source) not in self._readers:
                self._readers[type(source)] = source.new_reader()
            return self._readers[type(source)]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
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


def _earlier(folder: Path, preparation: Preparation) -> EarlierTiles:
    """All tiles with these settings in the folder, of the finished store and of unfinished builds."""
    earlier = EarlierTiles()
    for journal in sorted(folder.glob(f"{stem_of(preparation)}*.jsonl")):
        try:
            tiles = np.load(journal.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        except ARRAY_DAMAGE:
            # Interrupted before its header was written, or damaged: no tile of it can be used.
            continue
        earlier.add(tiles, read_journal(journal))
    if (folder / MARKER).exists():
        try:
            store = open_store(folder)
        except RunError:
            # This build replaces a store that cannot be opened.
            return earlier
        if store.preparation == preparation:
            earlier.add(store.tiles, dict(enumerate(store.index[list(COLUMNS)].to_dict("records"))))
    return earlier


def _fill(
    building: Building,
    earlier: EarlierTiles,
    paths: Sequence[ImageSource],
    preparation: Preparation,
    workers: int,
    progress: Progress | None,
) -> tuple[list[Record], dict[int, str]]:
    """Finish all readable rows; return the records in order and the problems by row."""
    budget, readers = Budget(MEMORY), Readers()
    records: dict[int, Record] = {}
    problems: dict[int, str] = {}

    def finish(row: int) -> tuple[Record, bool]:
        return _row(building, earlier, budget, readers, row, paths[row], preparation)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="tiles")
    try:
        jobs = {pool.submit(finish, row): row for row in range(len(paths))}
        for done, job in enumerate(as_completed(jobs), 1):
            row = jobs[job]
            try:
                records[row], is_new = job.result()
            except ImageError as error:
                problems[row] = str(error)
            else:
                if is_new:
                    building.note(row, records[row])
            if progress:
                progress(done, len(paths))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [records[row] for row in sorted(records)], problems


def _row(
    building: Building,
    earlier: EarlierTiles,
    budget: Budget,
    readers: Readers,
    row: int,
    path: ImageSource,
    preparation: Preparation,
) -> tuple[Record, bool]:
    """Finish one row with an earlier tile or by decoding; return the record and whether it is new."""
    try:
        status = os.stat(path)
    except OSError:
        # Opening the file raises an error with the reason.
        status = None
    if status and (record := building.finished(row, status)):
        return record, False
    if status and (earlier_tile := earlier.same_file(str(path), status)):
        record, tile = earlier_tile
        building.write(row, tile)
        return record, True
    # The time was read before the bytes, so a file that changes in between counts as changed in the next run.
    if not isinstance(path, Path):
        return _tile_of_source(building, earlier, readers.of(path), row, path, preparation, status), True
    data = read_bytes(path)
    source = hashlib.sha256(data).hexdigest()
    origin = _origin(path, source, status)
    if status is None or len(data) != status.st_size:
        origin["bytes"] = len(data)
    if earlier_tile := earlier.same_content(source):
        record, tile = earlier_tile
        building.write(row, tile)
        return record | origin, True
    image = open_source(path, data)
    with budget.hold(image.memory(image.target_for(preparation))):
        tile = image.tile(preparation)
    building.write(row, tile)
    facts = {name: image.facts()[name] for name in ("width", "height", "mode", "format")}
    return origin | facts | {"tile_sha256": hash_tile(tile)}, True


def _tile_of_source(
    building: Building,
    earlier: EarlierTiles,
    reader: TileSourceReader,
    row: int,
    tile_source: TileSource,
    preparation: Preparation,
    status: os.stat_result | None,
) -> Record:
    """Finish the row of a region of an image file."""
    if status is None:
        tile_source.check()
    source = reader.sha256(tile_source)
    origin = _origin(tile_source, source, status) if status else {}
    if earlier_tile := earlier.same_content(source):
        record, tile = earlier_tile
        building.write(row, tile)
        return record | origin
    tile = reader.tile(tile_source, preparation)
    building.write(row, tile)
    facts = {"width": preparation.size, "height": preparation.size, "mode": "RGB", "format": "slide"}
    return origin | facts | {"tile_sha256": hash_tile(tile)}


def _origin(source: ImageSource, sha256: str, status: os.stat_result | None) -> Record:
    """The columns of a record that describe the file of a tile."""
    stamp = stamp_of(status) if status else (0, 0, 0)
    return {"path": str(source), "sha256": sha256, **dict(zip(("bytes", "mtime_ns", "ctime_ns"), stamp, strict=True))}


def _discard_builds(folder: Path, keep: Building | None = None) -> None:
    """Remove unfinished builds, except `keep`."""
    current_files = {keep.tiles, keep.journal} if keep else set()
    for path in folder.glob("building-*"):
        if path not in current_files:
            path.unlink(missing_ok=True)
