"""What input checks measure of an image, from its prepared picture and the facts of its file; no label is read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import numpy as np
from numpy.typing import NDArray

from casewise.errors import ImageError
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store import TileStore

if TYPE_CHECKING:
    from casewise.modalities.base import ImageStore

# Numbers of an image, in the order of `Measures.values`.
NAMES = ("brightness", "contrast", "black", "white", "size", "shape", "colour")
# The side of the grid of grey means by which upside-down and inverted images are recognised.
GRID = 12
# Values from 0 to 255 up to which a pixel is nearly black, and from which it is nearly white.
BLACK, WHITE = 8, 247
# The stored modes of files without colour.
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
# The side to which a file is reduced to see its colours.
COLOUR_SIDE = 64


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of images.

    Attributes:
        values: (N, 7) in the order of `NAMES`: mean and standard deviation of grey from 0 to 1, the shares of nearly
            black and nearly white pixels, log2 of the longest side in pixels, log2 of width by height, and the mean
            difference between the largest and smallest of red, green and blue, from 0 to 1.
        grids: (N, GRID, GRID) means of grey from 0 to 1.
    """

    values: NDArray[np.float64]
    grids: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def subset(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Measures:
        """Those of some of the images."""
        return Measures(self.values[rows], self.grids[rows])


def measure(store: ImageStore, rows: Sequence[int]) -> Measures:
    """The measures of these images of a store; bars that fill up a tile are not part of the image.

    A tile with one channel does not show the colours of its file, which is read again unless its mode is grey.
    """
    with ThreadPoolExecutor(int(joblib.cpu_count())) as pool:
        measured = list(pool.map(lambda row: _of_row(store, row), rows))
    values = np.array([numbers for numbers, _ in measured], dtype=float).reshape(-1, len(NAMES))
    return Measures(values, np.array([grid for _, grid in measured], dtype=float).reshape(-1, GRID, GRID))


def _of_row(store: ImageStore, row: int) -> tuple[list[float], NDArray[np.float64]]:
    tile = np.asarray(store.tiles[row])
    if isinstance(store, TileStore):
        down, across = store.content(row)
        tile = tile[:, down, across]
    entry = store.index.iloc[row]
    width, height = max(1, int(entry["width"])), max(1, int(entry["height"]))
    grey = tile.mean(axis=0)
    if len(tile) == 3:
        colour = _colour(tile)
    else:
        colour = _colour_of_file(str(entry["path"]), str(entry["mode"])) if isinstance(store, TileStore) else 0.0
    numbers = [
        float(grey.mean()) / 255,
        float(grey.std()) / 255,
        float((grey <= BLACK).mean()),
        float((grey >= WHITE).mean()),
        float(np.log2(max(width, height))),
        float(np.log2(width / height)),
        colour,
    ]
    return numbers, gridded(grey / 255)


def gridded(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means (GRID, GRID) over cells of an image (H, W); a smaller image repeats its pixels."""
    rows, columns = (_cells(side) for side in grey.shape)
    repeated = grey.repeat(rows.repeats, axis=0).repeat(columns.repeats, axis=1)
    sums = np.add.reduceat(np.add.reduceat(repeated, rows.starts, axis=0), columns.starts, axis=1)
    return np.asarray(sums / np.outer(rows.counts, columns.counts))


def standardised(grids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grids (N, GRID, GRID) with mean 0 and standard deviation 1 each, so that they do not depend on brightness and
    contrast.
    """
    centred = grids - grids.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / (centred.std(axis=(1, 2), keepdims=True) + 1e-3))


@dataclass(frozen=True, eq=False)
class _Cells:
    """How a side is divided into `GRID` cells: how often pixels are repeated, first pixels and sizes of the cells."""

    repeats: int
    starts: NDArray[np.intp]
    counts: NDArray[np.intp]


def _cells(side: int) -> _Cells:
    repeats = -(-GRID // side)
    edges = np.linspace(0, side * repeats, GRID + 1).astype(np.intp)
    return _Cells(repeats, edges[:-1], np.diff(edges))


def _colour(tile: NDArray[np.uint8]) -> float:
    """The mean range over the channels of a tile (3, H, W), from 0 to 1."""
    return float((tile.max(axis=0).astype(float) - tile.min(axis=0)).mean()) / 255


def _colour_of_file(path: str, mode: str) -> float:
    if mode in GREY_MODES or not Path(path).is_file():
        return 0.0
    try:
        return _colour(read_image(Path(path), size=COLOUR_SIDE, channels="rgb").transpose(2, 0, 1))
    except ImageError:
        return 0.0  # a picture of something that is no image file
