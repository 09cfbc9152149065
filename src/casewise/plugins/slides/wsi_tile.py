"""Tiles of slides as sources of a tile store; each slide is opened and hashed once for all its tiles."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.store.preparation import Preparation
from casewise.plugins.slides.files import checked_size, companion_files, companions_hash
from casewise.plugins.slides.reader import Slide
from casewise.plugins.slides.tiles import read_tile

# Bytes of decoded neighbours that open slides may keep; rows are sorted by slide, so two large slides suffice.
MAX_CACHE = 320 * 2**20


@dataclass(frozen=True)
class SlideTile:
    """The square at x, y (level-0 pixels) of `side` level-0 pixels of a slide.

    `companions`: a hash of the slide's other files; empty if the slide is one file. A store identifies a tile by its
    text: if such a file is replaced, the tile has another text and is read again.

    >>> str(SlideTile(Path("a.svs"), 0, 128, 256))
    'a.svs [0, 128, 256]'
    """

    path: Path
    x: int
    y: int
    side: int
    companions: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Compute the hash of the slide's other files, of which most formats have none."""
        object.__setattr__(self, "companions", companions_hash(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """Raise an `ImageError` if the slide is missing or cannot be read."""
        checked_size(self.path)

    def new_reader(self) -> SlideReader:
        """A reader of tiles of any slides."""
        return SlideReader()

    def __str__(self) -> str:
        return f"{self.path} [{self.x}, {self.y}, {self.side}]{f' with {self.companions}' if self.companions else ''}"


class SlideReader:
    """The most recently opened slides; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Slide] = OrderedDict()
        self._hashes: dict[Path, str] = {}
        self._hashing: dict[Path, threading.Lock] = {}

    def sha256(self, source: SlideTile) -> str:
        """A hash of the bytes of all files of the slide and the position of the tile.

        Raises:
            ImageError: the slide cannot be read.
        """
        with self._lock:
            alone = self._hashing.setdefault(source.path, threading.Lock())
        with alone:
            if source.path not in self._hashes:
                self._hashes[source.path] = self._of_all(source.path)
        return hashlib.sha256(f"{self._hashes[source.path]} {source.x} {source.y} {source.side}".encode()).hexdigest()

    def _of_all(self, path: Path) -> str:
        """A hash of the bytes of a slide; of names and bytes if it consists of several files."""
        others = companion_files(path)
        if not others:
            return _hashed(path)
        hashes = [_hashed(path), *(f"{file.name} {_hashed(file)}" for file in others)]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def tile(self, source: SlideTile, preparation: Preparation) -> np.ndarray:
        """Read one tile, (C, H, W) `uint8`.

        Raises:
            ImageError: the slide cannot be read at this position.
        """
        slide = self._slide(source.path)
        return read_tile(slide, source.x, source.y, source.side, side=preparation.size, channels=preparation.channels)

    def _slide(self, path: Path) -> Slide:
        with self._lock:
            slide = self._open.pop(path, None) or Slide(path)
            self._open[path] = slide
            while len(self._open) > 1 and sum(open_slide.cache for open_slide in self._open.values()) > MAX_CACHE:
                # closed when the last thread that reads from it has finished
                self._open.popitem(last=False)
            return slide


def _hashed(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error
