"""A second look at two images that look alike: does what lies inside the picture agree, and not only its outline?

Two limbs in one pose before one cloth have the same outline, which is the strongest thing in both pictures, and share
nothing else. Both are therefore read once more from their files, larger than tiles are, laid over each other, and
compared in small blocks; blocks that an edge runs through are left out (by the structure tensor: Bigün and Granlund,
1987). What is left is skin, cloth, ribs, vessels, grain. The likeness is the correlation that 70 % of it reaches,
where a block counts by its texture up to what a camera's grain may be, and no more beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from casewise.audit.hashes import Candidates, flip, grey
from casewise.audit.verify import SIDE, Register, in_pixels, registered
from casewise.errors import ImageError
from casewise.modalities.store.readers import read_image

if TYPE_CHECKING:
    from casewise.modalities.store.store import TileStore

__all__ = ["MOST", "CloserLook", "look_closer", "texture_likeness"]

# The side at which images are compared; smaller ones are enlarged, which leaves of their texture only the finest.
LARGE = 256
# Of images with fewer pixels than this a side, or of which there is no more than the tile, little texture is left.
BLURRED = 48
# Longest side that is read of a file: enough for a square of 256 pixels.
READ = 384
# So many pairs are looked at in their files, the most alike first; the others in their tiles.
MOST = 5000
BLOCK = 8
# The texture: what is left between two Gaussian filters of these radii, in pixels.
FINE, COARSE = 1.2, 2.5
# From this coherence on, 0 (no direction) to 1 (one edge), a block shows an edge.
EDGE = 0.7
# Grey levels at which a block counts in full: less is drowned in grain, or is what a JPEG leaves out first.
GRAIN = 2.0
# What all blocks together must count, and what those of blurred images must: less does not tell two people apart.
LEAST, LEAST_BLURRED = 6.0, 20.0
# The share of the texture that must agree: leftovers of an outline may agree by themselves.
MOSTLY = 0.7
# Below this, once registered at half the size, registering stops.
PROMISING = 0.1


@dataclass(frozen=True, eq=False)
class CloserLook:
    """How two images lie on each other, alike in texture; None where they have too little of it to tell.

    `pixels`: the longest side of the smaller image. `blurred`: only tiles, or few pixels, were there to compare.
    """

    register: Register | None
    pixels: int
    blurred: bool


def look_closer(
    store: TileStore,
    paths: Sequence[str],
    pairs: Candidates,
    registers: Sequence[Register],
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[CloserLook]:
    """Look at each pair in the files `paths`, of which those of row i show tile i; `registers` say how they lie.

    Where a file cannot be read any more, and beyond `MOST` pairs, the tiles are compared.
    """

    @lru_cache(maxsize=2000)
    def of_file(row: int) -> np.ndarray | None:
        try:
            picture = read_image(Path(paths[row]), size=READ, channels="grey")[..., 0]
        except ImageError:
            return None
        return np.rint(_square(picture.astype(np.float32))).clip(0, 255).astype(np.uint8)

    longest = store.index[["width", "height"]].max(axis=1).to_numpy()
    first = np.argsort([-found.likeness for found in registers], kind="stable")[:MOST]
    in_files = np.isin(np.arange(len(pairs)), first)
    for number in range(len(pairs)):
        i, j = int(pairs.i[number]), int(pairs.j[number])
        pixels = int(min(longest[i], longest[j]))
        one, two = (of_file(i), of_file(j)) if in_files[number] else (None, None)
        blurred = one is None or two is None or pixels < BLURRED
        if one is None or two is None:
            one, two = grey(store, i, LARGE), grey(store, j, LARGE)
        turned = flip(one.astype(np.float32), int(pairs.flip[number]))
        least = LEAST_BLURRED if blurred else LEAST
        found = texture_likeness(turned, two.astype(np.float32), registers[number].way, least=least)
        yield CloserLook(found, pixels, blurred)
        if progress:
            progress(number + 1)


def texture_likeness(one: np.ndarray, two: np.ndarray, way: np.ndarray, *, least: float = LEAST) -> Register | None:
    """How alike two images (S, S) `float32` are in texture: 1 for the same picture, about 0 for two that share nothing.

    `way`: about how `two` lies on `one`, as in `Register`. None where they cannot be registered, or where less
    texture than `least` is left to compare.
    """
    coarse = registered(one, two, in_pixels(way, SIDE / len(one)), fine=False)
    found = None if coarse is None else _agreement(one, two, coarse, least)
    if coarse is None or found is None or found.likeness < PROMISING:
        return found
    exact = registered(one, two, coarse, fine=True)
    return found if exact is None else _agreement(one, two, exact, least)


def _agreement(one: np.ndarray, two: np.ndarray, way: np.ndarray, least: float) -> Register | None:
    """The correlation that most of the texture reaches, in blocks that both images cover and no edge runs through."""
    shape = (len(one), len(one))
    grid = cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(two, way, shape, flags=cv2.INTER_CUBIC | grid, borderMode=cv2.BORDER_REPLICATE)
    both = _mean(cv2.warpAffine(np.ones_like(two), way, shape, flags=cv2.INTER_LINEAR | grid, borderValue=0))
    chosen = (both > 0.99) & (_coherence(one) < EDGE) & (_coherence(laid) < EDGE)
    left, right = _texture(one), _texture(laid)
    power_left, power_right, product = (_mean(a * b)[chosen] for a, b in ((left, left), (right, right), (left, right)))
    power = np.sqrt(power_left * power_right) + 1e-6
    weight = np.minimum(1.0, power / GRAIN**2)
    if weight.sum() < least:
        return None
    likeness = _reached(product / power, weight)
    return Register(likeness, float(both.mean()), in_pixels(way, len(one) / SIDE))


def _reached(values: np.ndarray, weight: np.ndarray) -> float:
    """What `MOSTLY` of the weight reaches."""
    order = np.argsort(values)
    below = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(below, (1 - MOSTLY) * below[-1])])


def _texture(image: np.ndarray) -> np.ndarray:
    texture: np.ndarray = cv2.GaussianBlur(image, (0, 0), FINE) - cv2.GaussianBlur(image, (0, 0), COARSE)
    return texture


def _coherence(image: np.ndarray) -> np.ndarray:
    """Of each block how much of its slope points one way, 0..1."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    x, y = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    across, down, mixed = _mean(x * x), _mean(y * y), _mean(x * y)
    coherence: np.ndarray = np.sqrt((across - down) ** 2 + 4 * mixed**2) / (across + down + 1e-6)
    return coherence


def _mean(image: np.ndarray) -> np.ndarray:
    """The mean of each block: (S, S) to (S²/64,)."""
    parts = len(image) // BLOCK
    mean: np.ndarray = cv2.resize(image, (parts, parts), interpolation=cv2.INTER_AREA).ravel()
    return mean


def _square(image: np.ndarray) -> np.ndarray:
    # OpenCV's area filter only reduces.
    way = cv2.INTER_AREA if min(image.shape) >= LARGE else cv2.INTER_CUBIC
    square: np.ndarray = cv2.resize(image, (LARGE, LARGE), interpolation=way)
    return square
