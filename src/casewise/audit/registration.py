"""A closer comparison of two similar images, by their texture instead of their outline.

Two limbs in one pose in front of one cloth have the same dominant outline and share nothing else. Both images are
therefore read from their files at a higher resolution than tiles, registered, and compared in small blocks. Blocks with
an edge are left out (by the structure tensor: Bigün and Granlund, 1987), so that skin, cloth, ribs, vessels and grain
remain. The likeness is the correlation that 70 % of the texture reaches. The weight of a block increases with its
texture up to the level of camera grain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from joblib import cpu_count

from casewise.audit.hashes import Candidates, flip, grey
from casewise.audit.verify import SIDE, Register, in_pixels, registered
from casewise.errors import ImageError
from casewise.modalities.store.pixels import central_square
from casewise.modalities.store.readers import read_image

if TYPE_CHECKING:
    from casewise.modalities.store.store import TileStore

__all__ = ["MOST", "CloserLook", "look_closer", "texture_likeness"]

# The side at which images are compared; smaller ones are enlarged.
LARGE = 256
# Images with fewer pixels a side, and images of which only the tile is available, have little texture.
BLURRED = 48
# The longest side that is read from a file: enough for a square of 256 pixels.
READ = 384
# The number of pairs that are compared in their files, the most similar first; the others in their tiles.
MOST = 5000
BLOCK = 8
# The texture: the difference of two Gaussian filters of these radii, in pixels.
FINE, COARSE = 1.2, 2.5
# From this coherence on, between 0 (no direction) and 1 (one edge), a block contains an edge.
EDGE = 0.7
# The contrast in grey levels at which a block has full weight: less is dominated by grain or removed by JPEG.
GRAIN = 2.0
# The least total weight of the blocks, and that for blurred images: with less, two people cannot be distinguished.
LEAST, LEAST_BLURRED = 6.0, 20.0
# The share of the texture that must agree, because remains of an outline may agree by chance.
MOSTLY = 0.7
# Below this likeness at half the size, registration stops.
PROMISING = 0.1


@dataclass(frozen=True, eq=False)
class CloserLook:
    """The registration of two images by texture, None if there is too little.

    `pixels`: the longest side of the smaller image. `blurred`: only tiles, or few pixels, could be compared.
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
    """Compare each pair in the files `paths` (row i shows tile i), starting from `registers`.

    If a file can no longer be read, and beyond `MOST` pairs, the tiles are compared.
    """

    @lru_cache(maxsize=2000)
    def of_file(row: int) -> np.ndarray | None:
        try:
            picture = read_image(Path(paths[row]), size=READ, channels="grey")[..., 0]
        except ImageError:
            return None
        if store.preparation.fit == "crop":
            x, y, side = central_square(picture.shape[1], picture.shape[0])
            picture = picture[y : y + side, x : x + side]
        return np.rint(_square(picture.astype(np.float32))).clip(0, 255).astype(np.uint8)

    longest = store.index[["width", "height"]].max(axis=1).to_numpy()
    most_similar = np.argsort([-register.likeness for register in registers], kind="stable")[:MOST]
    in_files = np.isin(np.arange(len(pairs)), most_similar)

    def look(number: int) -> CloserLook:
        i, j = int(pairs.i[number]), int(pairs.j[number])
        pixels = int(min(longest[i], longest[j]))
        first, second = (of_file(i), of_file(j)) if in_files[number] else (None, None)
        blurred = first is None or second is None or pixels < BLURRED
        if first is None or second is None:
            first, second = grey(store, i, LARGE), grey(store, j, LARGE)
        flipped = flip(first.astype(np.float32), int(pairs.flip[number]))
        least = LEAST_BLURRED if blurred else LEAST
        register = texture_likeness(flipped, second.astype(np.float32), registers[number].warp, least=least)
        return CloserLook(register, pixels, blurred)

    with ThreadPoolExecutor(int(cpu_count())) as pool:
        for number, closer_look in enumerate(pool.map(look, range(len(pairs)))):
            yield closer_look
            if progress:
                progress(number + 1)


def texture_likeness(
    first: np.ndarray, second: np.ndarray, warp: np.ndarray, *, least: float = LEAST
) -> Register | None:
    """The likeness of two images (S, S) `float32` in texture: 1 for the same picture, about 0 for different ones.

    `warp`: approximately the map from `first` to `second`, as in `Register`. None if registration fails, or if there is
    less texture than `least`.
    """
    coarse = registered(first, second, in_pixels(warp, SIDE / len(first)), fine=False)
    register = None if coarse is None else _agreement(first, second, coarse, least)
    if coarse is None or register is None or register.likeness < PROMISING:
        return register
    exact = registered(first, second, coarse, fine=True)
    return register if exact is None else _agreement(first, second, exact, least)


def _agreement(first: np.ndarray, second: np.ndarray, warp: np.ndarray, least: float) -> Register | None:
    """The correlation that most of the texture reaches, in blocks that both images cover and that contain no edge."""
    shape = (len(first), len(first))
    grid = cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(second, warp, shape, flags=cv2.INTER_CUBIC | grid, borderMode=cv2.BORDER_REPLICATE)
    both = _mean(cv2.warpAffine(np.ones_like(second), warp, shape, flags=cv2.INTER_LINEAR | grid, borderValue=0))
    comparable = (both > 0.99) & (_coherence(first) < EDGE) & (_coherence(warped) < EDGE)
    left, right = _texture(first), _texture(warped)
    power_left, power_right, product = (
        _mean(a * b)[comparable] for a, b in ((left, left), (right, right), (left, right))
    )
    power = np.sqrt(power_left * power_right) + 1e-6
    weight = np.minimum(1.0, power / GRAIN**2)
    if weight.sum() < least:
        return None
    likeness = _reached(product / power, weight)
    return Register(likeness, float(both.mean()), in_pixels(warp, len(first) / SIDE))


def _reached(values: np.ndarray, weight: np.ndarray) -> float:
    """The value that the share `MOSTLY` of the weight reaches."""
    order = np.argsort(values)
    below = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(below, (1 - MOSTLY) * below[-1])])


def _texture(image: np.ndarray) -> np.ndarray:
    texture: np.ndarray = cv2.GaussianBlur(image, (0, 0), FINE) - cv2.GaussianBlur(image, (0, 0), COARSE)
    return texture


def _coherence(image: np.ndarray) -> np.ndarray:
    """How much of the gradient of each block has one direction, 0 to 1."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    x, y = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    across, down, mixed = _mean(x * x), _mean(y * y), _mean(x * y)
    coherence: np.ndarray = np.sqrt((across - down) ** 2 + 4 * mixed**2) / (across + down + 1e-6)
    return coherence


def _mean(image: np.ndarray) -> np.ndarray:
    """The mean of each block: (S, S) to (S²/64,)."""
    side = len(image) // BLOCK
    mean: np.ndarray = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).ravel()
    return mean


def _square(image: np.ndarray) -> np.ndarray:
    # OpenCV's area filter only reduces
    method = cv2.INTER_AREA if min(image.shape) >= LARGE else cv2.INTER_CUBIC
    square: np.ndarray = cv2.resize(image, (LARGE, LARGE), interpolation=method)
    return square
