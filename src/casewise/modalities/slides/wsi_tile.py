"""A tile of a slide as a source of its own, beside whole image files; its slide is opened and hashed once for all."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.slides.companion_files import files_beside, mark_of
from casewise.modalities.slides.content import checked_size
from casewise.modalities.slides.reader import Slide
from casewise.modalities.slides.tiles import read_tile
from casewise.modalities.store.preparation import Preparation

# What open slides may keep of decoded neighbours, in bytes; rows come slide by slide, and of large ones two are open.
ROOM = 320 * 2**20
BLOCK = 2**22


@dataclass(frozen=True)
class SlideTile:
    """The square at x, y (level-0 pixels) of `side` level-0 pixels of a slide.

    `beside`: a mark of the slide's other files as they are now; empty where the slide is one file. A tile store
    identifies a tile by its text: where such a file was replaced it is another tile, and is read again.

    >>> str(SlideTile(Path("a.svs"), 0, 128, 256))
    'a.svs [0, 128, 256]'
    """

    path: Path
    x: int
    y: int
    side: int
    beside: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Look at the slide's other files; of most kinds there are none, and nothing is looked at."""
        object.__setattr__(self, "beside", mark_of(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """Raise an `ImageError` if the slide is missing or cannot be read."""
        checked_size(self.path)

    def new_reader(self) -> SlideReader:
        """A reader of tiles of any slides."""
        return SlideReader()

    def __str__(self) -> str:
        return f"{self.path} [{self.x}, {self.y}, {self.side}]{f' with {self.beside}' if self.beside else ''}"


class SlideReader:
    """Slides that are open, the latest ones; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Slide] = OrderedDict()
        self._hashes: dict[Path, str] = {}
        self._parts: dict[Path, str] = {}
        self._hashing: dict[Path, threading.Lock] = {}

    def sha256(self, source: SlideTile) -> str:
        """A hash over the bytes of all files of the slide and the tile's place.

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
        """A hash over the bytes of a slide; where it is several files over their names and bytes."""
        others = files_beside(path)
        if not others:
            return _hashed(path)
        # The same other files may belong to several slides of a folder: each is read once.
        for file in others:
            if file not in self._parts:
                self._parts[file] = _hashed(file)
        hashes = [_hashed(path), *(f"{file.name} {self._parts[file]}" for file in others)]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def tile(self, source: SlideTile, preparation: Preparation) -> np.ndarray:
        """Read one tile, (C, H, W) `uint8`.

        Raises:
            ImageError: the slide cannot be read there.
        """
        slide = self._slide(source.path)
        return read_tile(slide, source.x, source.y, source.side, side=preparation.size, channels=preparation.channels)

    def _slide(self, path: Path) -> Slide:
        with self._lock:
            slide = self._open.pop(path, None) or Slide(path)
            self._open[path] = slide
            while len(self._open) > 1 and sum(kept.cache for kept in self._open.values()) > ROOM:
                # closed when the last thread that reads from it lets go of it
                self._open.popitem(last=False)
            return slide


def _hashed(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()
