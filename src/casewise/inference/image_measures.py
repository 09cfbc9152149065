"""Measures of images: seven numbers and a grid of grey, and the measured training images of a study."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import joblib
import numpy as np
from numpy.typing import NDArray

from casewise.errors import ImageError
from casewise.inference.drift import NAMES, held_out_quantile
from casewise.inference.look import EarlyMaps
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store import TileStore
from casewise.models.threads import on_threads

if TYPE_CHECKING:
    from casewise.modalities.base import ImageStore

Floats: TypeAlias = NDArray[np.float64]
# The side of the grid of grey means by which upside-down and inverted images are recognised.
GRID = 12
# Values from 0 to 255 up to which a pixel is nearly black, and from which it is nearly white.
BLACK, WHITE = 8, 247
# The stored modes of files without colour.
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")
# The side to which a file is reduced to see its colours.
COLOUR_SIDE = 64
# The longest side in pixels depends on the camera and not on the region.
COMPARED = tuple(name for name in NAMES if name != "size")
# With fewer subjects there are no limits.
FEWEST_SUBJECTS = 8


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of images.

    Attributes:
        values: (N, 7) in the order of `NAMES`: mean and standard deviation of grey from 0 to 1, the shares of nearly
            black and nearly white pixels, log2 of the longest side in pixels, log2 of width divided by height, and the
            mean difference between the largest and smallest of red, green and blue, from 0 to 1.
        grids: (N, GRID, GRID) means of grey from 0 to 1.
        bytes: (N,) log2 of the bytes of the file by pixel; None where there is no file.
        maps: (N, W) statistics of `casewise.inference.look`; None without a network.
    """

    values: Floats
    grids: Floats
    bytes: Floats | None = None
    maps: Floats | None = None

    def __len__(self) -> int:
        return len(self.values)

    def subset(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Measures:
        """The measures of some of the images."""
        others = (None if values is None else values[rows] for values in (self.bytes, self.maps))
        return Measures(self.values[rows], self.grids[rows], *others)

    @property
    def compared(self) -> Floats:
        """(N, C) the `COMPARED` numbers."""
        return self.values[:, [NAMES.index(name) for name in COMPARED]]

    @property
    def look(self) -> Floats:
        """(N, W) the features of the look: the `COMPARED` numbers, and the statistics of maps."""
        return np.hstack([self.compared, *([] if self.maps is None else [self.maps])])


def measure(store: ImageStore, rows: Sequence[int], maps: EarlyMaps | None = None) -> Measures:
    """The measures of these images of a store; bars that fill up a tile are not part of the image.

    A tile with one channel does not show the colours of its file, which is read again unless its mode is grey.
    """
    with ThreadPoolExecutor(int(joblib.cpu_count())) as pool:
        measured = list(pool.map(lambda row: _of_row(store, row), rows))
    values = np.array([numbers for numbers, _ in measured], dtype=float).reshape(-1, len(NAMES))
    grids = np.array([grid for _, grid in measured], dtype=float).reshape(-1, GRID, GRID)
    of_file = store.index.iloc[list(rows)][["bytes", "width", "height"]].to_numpy(dtype=float).clip(min=1)
    with on_threads(1):  # small maps, for which threads would mostly wait for each other
        statistics = np.array([maps.statistics(_content(store, row)) for row in rows]) if maps else None
    return Measures(values, grids, np.log2(of_file[:, 0] / of_file[:, 1] / of_file[:, 2]), statistics)


def _content(store: ImageStore, row: int) -> NDArray[np.uint8]:
    """The image (C, H, W) without bars."""
    tile = np.asarray(store.tiles[row])
    if isinstance(store, TileStore):
        down, across = store.content(row)
        tile = tile[:, down, across]
    return tile


def _of_row(store: ImageStore, row: int) -> tuple[list[float], Floats]:
    tile = _content(store, row)
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


def gridded(grey: Floats) -> Floats:
    """Means (GRID, GRID) over cells of an image (H, W); a smaller image repeats its pixels."""
    (down, rows), (across, columns) = (_cells(side) for side in grey.shape)
    repeated = grey.repeat(down, axis=0).repeat(across, axis=1)
    sums = np.add.reduceat(np.add.reduceat(repeated, rows[:-1], axis=0), columns[:-1], axis=1)
    return np.asarray(sums / np.outer(np.diff(rows), np.diff(columns)))


def standardised(grids: Floats) -> Floats:
    """Grids (N, GRID, GRID) with mean 0 and standard deviation 1 each, so that they do not depend on brightness and
    contrast.
    """
    centred = grids - grids.mean(axis=(1, 2), keepdims=True)
    return np.asarray(centred / (centred.std(axis=(1, 2), keepdims=True) + 1e-3))


def _cells(side: int) -> tuple[int, NDArray[np.intp]]:
    """How a side is divided into `GRID` cells: how often pixels are repeated, and the edges of the cells."""
    repeats = -(-GRID // side)
    return repeats, np.linspace(0, side * repeats, GRID + 1).astype(np.intp)


def _colour(tile: NDArray[np.uint8]) -> float:
    """The mean range over the channels of a tile (3, H, W), from 0 to 1."""
    return float((tile.max(axis=0).astype(float) - tile.min(axis=0)).mean()) / 255


def _colour_of_file(path: str, mode: str) -> float:
    if mode.partition(" as ")[0] in GREY_MODES or not Path(path).is_file():
        return 0.0
    try:
        return _colour(read_image(Path(path), size=COLOUR_SIDE, channels="rgb").transpose(2, 0, 1))
    except ImageError:
        return 0.0  # not an image file, such as a volume


@dataclass(frozen=True, eq=False)
class Training:
    """Measured training images with their cases, subjects, folds and regions (`""`: none): (N,) each."""

    measures: Measures
    cases: NDArray[Any]
    subjects: NDArray[Any]
    folds: NDArray[np.intp]
    regions: NDArray[Any]

    def subset(self, rows: NDArray[np.bool_]) -> Training:
        """Some of the images."""
        columns = (self.cases, self.subjects, self.folds, self.regions)
        return Training(self.measures.subset(rows), *(column[rows] for column in columns))

    def worst(self, values: Floats, share: float) -> float | None:
        """The value that this share of the cases exceeds, the largest of a case counting.

        None with fewer subjects than `FEWEST_SUBJECTS`.
        """
        _, first, numbers = np.unique(self.cases, return_index=True, return_inverse=True)
        largest = np.full(len(first), -np.inf)
        np.maximum.at(largest, numbers, values)
        few = len(np.unique(self.subjects)) < FEWEST_SUBJECTS
        return None if few else held_out_quantile(largest, self.subjects[first], share)
