"""A tile of a slide as a source of its own, beside whole image files; its slide is opened and hashed once for all."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casewise.errors import ImageError
from casewise.images.preparation import Preparation
from casewise.images.slide_tiles import read_tile
from casewise.images.slides import Slide

# What open slides may keep of decoded neighbours, in bytes; rows come slide by slide, and of large ones two are open.
ROOM = 320 * 2**20
BLOCK = 2**22


@dataclass(frozen=True)
class Piece:
    """The square at x, y (level-0 pixels) of `side` level-0 pixels of a slide.

    >>> str(Piece(Path("a.svs"), 0, 128, 256))
    'a.svs [0, 128, 256]'
    """

    path: Path
    x: int
    y: int
    side: int

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return f"{self.path} [{self.x}, {self.y}, {self.side}]"


class Slides:
    """Slides that are open, the latest ones; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Slide] = OrderedDict()
        self._hashes: dict[Path, str] = {}
        self._hashing: dict[Path, threading.Lock] = {}

    def sha256(self, piece: Piece) -> str:
        """A hash over the slide's bytes and the piece's place.

        Raises:
            ImageError: the slide cannot be read.
        """
        with self._lock:
            alone = self._hashing.setdefault(piece.path, threading.Lock())
        with alone:
            if piece.path not in self._hashes:
                self._hashes[piece.path] = _hashed(piece.path)
        return hashlib.sha256(f"{self._hashes[piece.path]} {piece.x} {piece.y} {piece.side}".encode()).hexdigest()

    def tile(self, piece: Piece, preparation: Preparation) -> np.ndarray:
        """Read one piece, (C, H, W) `uint8`.

        Raises:
            ImageError: the slide cannot be read there.
        """
        slide = self._slide(piece.path)
        return read_tile(slide, piece.x, piece.y, piece.side, side=preparation.size, channels=preparation.channels)

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
