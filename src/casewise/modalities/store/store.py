"""The tile store: all source images, decoded once into a memory-mapped array, and an index.

A folder holds `store.json`, which names two other files: `tiles-….npy`, an array (N, C, H, W) `uint8`, and
`index-….parquet`, one row a tile. `store.json` is replaced last and in one step, so a reader opens the previous store,
the new one or none.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import PIL
from PIL import features

from casewise.errors import RunError
from casewise.files import parquet_bytes, parsed_json, read_parquet, write_atomic, write_json
from casewise.files import sweep as sweep_temporary
from casewise.modalities.store.file_check import ARRAY_DAMAGE, raise_if_memory
from casewise.modalities.store.pixels import content_box
from casewise.modalities.store.preparation import PIXEL_RULES, Preparation

log = logging.getLogger("casewise")

MARKER = "store.json"
# `tile_sha256` is the hash of the tile; the other columns describe the source file. Width and height are upright.
COLUMNS = ("path", "sha256", "bytes", "mtime_ns", "ctime_ns", "width", "height", "mode", "format", "tile_sha256")
STAMP = ("bytes", "mtime_ns", "ctime_ns")
Stamp: TypeAlias = tuple[int, int, int]
# One row of the index, and one line in the journal of a build.
Record: TypeAlias = dict[str, Any]


class TileSource(Protocol):
    """A region of an image file that becomes one tile; `str()` of it is the `path` of its row in the index."""

    @property
    def path(self) -> Path: ...

    def __fspath__(self) -> str: ...

    def check(self) -> None:
        """Raise an `ImageError` if the file is missing or cannot be read."""

    def new_reader(self) -> Any:
        """A reader for all sources of this type in one build, used by several threads.

        `sha256(source)` is a hash over the bytes of the file and the position of the region, `tile(source,
        preparation)` the tile, (C, H, W) `uint8`.
        """


ImageSource: TypeAlias = Path | TileSource


@dataclass(frozen=True, eq=False)
class TileStore:
    """A finished store: `tiles` (N, C, H, W) `uint8`, read-only, and `index` with a row for each, in the same order.

    Index columns: `path` as in the cohort table, `sha256`, `bytes`, `mtime_ns` and `ctime_ns` of the source file,
    upright `width` and `height`, stored `mode`, `format`, and `tile_sha256` of the tile's bytes. `address` is a hash
    over the settings and the sources. `overview`: the tiles are pictures only for the audit, such as thumbnails of
    slides; networks see other parts of the images, and never the padding. `cut`: these parts are tiles of tissue. A
    pickle contains the folder, not the pixels.
    """

    tiles: np.memmap[Any, np.dtype[np.uint8]]
    index: pd.DataFrame
    address: str
    preparation: Preparation
    folder: Path
    overview: bool = False
    cut: bool = False

    def __len__(self) -> int:
        """The number of tiles."""
        return len(self.tiles)

    @cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        """The width and height of each source; a cell of a table is read far more slowly."""
        return list(zip(self.index["width"].astype(int), self.index["height"].astype(int), strict=True))

    def content(self, row: int) -> tuple[slice, slice]:
        """The rows and columns of a tile that the image fills; the rest is padding."""
        width, height = self._sizes[row]
        top, left, inner_height, inner_width = content_box(width, height, self.preparation.size, self.preparation.fit)
        return slice(top, top + inner_height), slice(left, left + inner_width)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the folder and the address, so that a worker maps the same file."""
        return reopened, (self.folder, self.address)


def reopened(folder: Path, address: str) -> TileStore:
    """Open a store that had this address.

    Raises:
        RunError: it has been replaced since, so tile numbers refer to other images.
    """
    store = open_store(folder)
    if store.address != address:
        raise RunError(f"{folder}: the tile store was replaced while it was in use. Run the same command again.")
    return store


def stamp_of(status: os.stat_result) -> Stamp:
    """What changes whenever a file is replaced: its size, and the times of its content and of its status.

    The last cannot be set: it also changes where a file is replaced by one of the same size with its old time.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def hash_tile(tile: np.ndarray) -> str:
    """The SHA-256 of a tile's bytes."""
    return hashlib.sha256(tile.tobytes()).hexdigest()


def open_store(folder: Path) -> TileStore:
    """Open the finished tile store in `folder`; no image is read.

    Array shape and length, the index's checksum and the address are checked; the tiles' bytes by `damage`.

    Raises:
        RunError: there is no finished store, or it is damaged; the message names a remedy.
        MemoryError: the tiles exceed what this process may address.
    """
    folder = Path(folder)
    marker = folder / MARKER
    if not marker.exists():
        raise RunError(f"{folder}: this folder contains no finished tile store. Prepare the images first.")
    try:
        return _opened(folder)
    except ARRAY_DAMAGE as error:
        raise_if_memory(error)
        missing = Path(str(error.filename)).name if isinstance(error, FileNotFoundError) else ""
        defect = f"{missing} is missing" if missing else str(error)
        raise RunError(f"{folder}: the tile store is damaged: {defect}. Delete {marker} and prepare again.") from error


def damage(store: TileStore) -> str:
    """A clause on damaged tiles of a store; empty if every tile has the hash that the index states."""
    import joblib

    with ThreadPoolExecutor(int(joblib.cpu_count())) as pool:
        hashes = pool.map(lambda row: hash_tile(store.tiles[row]), range(len(store)))
        pairs = enumerate(zip(hashes, store.index["tile_sha256"], strict=True))
        bad = [row for row, (now, written) in pairs if now != written]
    paths = ", ".join(store.index["path"].iloc[bad[:3]])
    return f"{len(bad):,} of {len(store):,} tiles are not as written ({paths}…)" if len(bad) else ""


def _opened(folder: Path) -> TileStore:
    """Open a store and check everything but the tiles' bytes; a `ValueError` states the defect."""
    marker = parsed_json((folder / MARKER).read_text(encoding="utf-8"))
    if marker["rules"] != PIXEL_RULES:
        raise ValueError(
            f"it was built with version {marker['rules']} of the reading rules; the current version is {PIXEL_RULES}"
        )
    packed = (folder / marker["index"]).read_bytes()
    if hashlib.sha256(packed).hexdigest() != marker["index_sha256"]:
        raise ValueError(f"{marker['index']} is not as written")
    index = read_parquet(packed)
    preparation = Preparation(**marker["preparation"])
    if preparation.address(index["sha256"]) != marker["address"]:
        raise ValueError("its address does not match its settings and sources")
    tiles = np.load(folder / marker["tiles"], mmap_mode="r", allow_pickle=False)
    expected = (len(index), *preparation.shape)
    if tiles.shape != expected or tiles.dtype != np.uint8:
        raise ValueError(f"{marker['tiles']} is {tiles.dtype} {tiles.shape} instead of uint8 {expected}")
    return TileStore(tiles, index, marker["address"], preparation, folder)


def publish(folder: Path, built: Path, rows: Sequence[Record], preparation: Preparation) -> None:
    """Make the finished tiles in `built` and their index the store of `folder`.

    Raises:
        RunError: the disk is full or the folder cannot be written; the previous store remains.
    """
    address = preparation.address(row["sha256"] for row in rows)
    packed = parquet_bytes(pd.DataFrame(rows, columns=list(COLUMNS)))
    checksum = hashlib.sha256(packed).hexdigest()
    tiles, index = folder / f"tiles-{address[:16]}.npy", folder / f"index-{checksum[:16]}.parquet"
    write_atomic(index, packed)
    try:
        os.replace(built, tiles)
    except OSError as error:
        raise RunError(f"{tiles} could not be written: {error.strerror or error}. The build can continue.") from error
    marker = {
        "address": address,
        "preparation": asdict(preparation),
        "rules": PIXEL_RULES,
        "shape": [len(rows), *preparation.shape],
        "tiles": tiles.name,
        "index": index.name,
        "index_sha256": checksum,
        "made_with": {"pillow": PIL.__version__, "libjpeg_turbo": features.version_feature("libjpeg_turbo")},
    }
    write_json(folder / MARKER, marker)


def sweep(folder: Path) -> None:
    """Remove files that neither the finished store nor unfinished builds need; the caller holds the lock."""
    try:
        marker = parsed_json((folder / MARKER).read_text(encoding="utf-8"))
        needed = {marker["tiles"], marker["index"]}
    except (OSError, ValueError, LookupError, TypeError):
        needed = set()  # there is no store, or its marker is damaged
    sweep_temporary(folder)
    for path in (*folder.glob("tiles-*"), *folder.glob("index-*")):
        if path.name not in needed:
            path.unlink(missing_ok=True)


def unchanged(paths: Sequence[ImageSource], preparation: Preparation, folder: Path) -> TileStore | None:
    """Return the finished store of `folder` if it has these settings and its source files are unchanged.

    A source whose size or times differ counts as changed: the build compares its content and keeps an equal tile.
    """
    try:
        store = open_store(folder)
    except RunError:
        return None  # there is none, it is damaged or has older rules: it is built again from the sources
    index = store.index
    if store.preparation != preparation or index["path"].tolist() != [str(path) for path in paths]:
        return None
    stamps = zip(*(index[name].tolist() for name in STAMP), strict=True)
    try:
        if any(stamp_of(os.stat(path)) != stamp for path, stamp in zip(paths, stamps, strict=True)):
            return None
    except OSError:
        return None  # the build reports a missing source together with all other problems
    if sentence := damage(store):
        log.warning("%s: %s. They are decoded again.", folder, sentence)
        return None
    return store
