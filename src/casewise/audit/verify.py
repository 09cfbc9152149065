"""Whether two images show the same picture: laid over each other, their fine detail must agree nearly everywhere.

Chest films of two people have the same outline and the same dark lungs, so that a hash, and a network's embedding too,
takes many of them for the same. What two people never share is where the small things lie. Candidates are first
screened by the height of the correlation peak of their high-passed thumbnails; those left are registered (affine, by
the enhanced correlation coefficient: Evangelidis and Psarakis, 2008) and compared block by block. The median over the
blocks is the likeness: arrows, letters and a bright edge, which would rule one figure over the whole image, spoil
only the blocks they lie in. What is alike so far is looked at once more in `detail`, by the files themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.fft import irfft2, rfft2

from casewise.audit.hashes import INSET, Candidates, flip, grey

if TYPE_CHECKING:
    from casewise.modalities.store.store import TileStore

__all__ = ["SIDE", "Register", "compare", "in_pixels", "likeness", "registered", "screen", "worth_comparing"]

SIDE = 128
COARSE = 48
BLOCKS = 8
# Radius of the detail that is compared, in pixels of a 128 px image.
DETAIL = 2.0
# What must be reached once registered at half the size, for registering to go on.
PROMISING = 0.2
# What a block must hold of the image's mean detail, and how many of the 64 must.
BUSY, LEAST_BLOCKS = 0.1, 16
# The peak of altered copies was .53 or more, also where crop, flip, brightness and recompression came together; that
# of 97 % of different films, and of 80 % of different photographs of the fundus, was less.
PEAK = 0.5
# Of each image so many pairs are registered, those with the highest peaks: that bounds the time where all look alike.
# Beyond that, every pair whose peak different images do not reach, so that many copies of one do not crowd each other.
HIGHEST, SURE_PEAK = 5, 0.7
BATCH = 512


@dataclass(frozen=True, eq=False)
class Register:
    """How two images lie on each other: how alike they are, the shared part of the area, and the way there.

    `way`: affine from the one to the other, (2, 3), where each is a square of `SIDE` pixels.
    """

    likeness: float
    shared: float
    way: np.ndarray

    @property
    def scale(self) -> float:
        """The scale of the one in the other."""
        return float(np.sqrt(abs(np.linalg.det(self.way[:, :2]))))

    @property
    def turn(self) -> float:
        """How far the one is turned or slanted in the other, about in radians; resizing and cropping do neither."""
        return float(max(abs(self.way[0, 1]), abs(self.way[1, 0])))


def screen(store: TileStore, pairs: Candidates, *, progress: Callable[[int], None] | None = None) -> np.ndarray:
    """The height of the correlation peak of each pair, -1..1, and its place (x, y) in shares of the side: (N, 3)."""
    rows, place = np.unique(np.concatenate([pairs.i, pairs.j]), return_inverse=True)
    left, right = place[: len(pairs)], place[len(pairs) :]
    plain = _detail_of(store, rows, 0.0)
    inset = _detail_of(store, rows, INSET)
    out = np.zeros((len(pairs), 3))
    for start in range(0, len(pairs), BATCH):
        part = slice(start, min(start + BATCH, len(pairs)))
        one = np.empty((part.stop - start, COARSE, COARSE), np.float32)
        for number in range(4):
            here = pairs.flip[part] == number
            one[here] = flip(plain[left[part][here]], number)
        cut = pairs.inset[part][:, None, None]
        two = np.where(cut, inset[right[part]], plain[right[part]])
        out[part] = _peaks(one, two)
        if progress:
            progress(part.stop)
    return out


def _detail_of(store: TileStore, rows: np.ndarray, inset: float) -> np.ndarray:
    """Small high-passed images that fade out at the border, of unit length: (N, 48, 48) `float32`."""
    fade = np.hanning(COARSE + 2)[1:-1]
    window = np.sqrt(np.outer(fade, fade)).astype(np.float32)
    out = np.empty((len(rows), COARSE, COARSE), np.float32)
    for place, row in enumerate(rows):
        square = grey(store, int(row), COARSE, inset=inset)
        # An edge of the picture's frame would otherwise outweigh all that lies in it.
        out[place] = _evened(_high_pass(square, 1.5), 4.0) * window
    return out / (np.linalg.norm(out, axis=(1, 2), keepdims=True) + 1e-6)


def _peaks(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Height and place of the highest correlation within a shift of a tenth of the side."""
    reach = COARSE // 10
    spectrum = np.conj(rfft2(one, axes=(1, 2))) * rfft2(two, axes=(1, 2))
    shifts = irfft2(spectrum, s=(COARSE, COARSE), axes=(1, 2))
    near = np.roll(shifts, (reach, reach), axis=(1, 2))[:, : 2 * reach + 1, : 2 * reach + 1].reshape(len(one), -1)
    top = near.argmax(axis=1)
    y, x = np.divmod(top, 2 * reach + 1)
    return np.stack([near[np.arange(len(near)), top], (x - reach) / COARSE, (y - reach) / COARSE], axis=1)


def worth_comparing(pairs: Candidates, peaks: np.ndarray) -> np.ndarray:
    """Which pairs to register (numbers): those whose peak is very high, or high and among the highest of an image."""
    high = np.flatnonzero(peaks[:, 0] >= PEAK)
    ends = np.concatenate([pairs.i[high], pairs.j[high]])
    number = np.concatenate([high, high])
    order = np.lexsort((-peaks[number, 0], ends))
    _, first, size = np.unique(ends[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, size)
    return np.union1d(number[order[rank < HIGHEST]], np.flatnonzero(peaks[:, 0] >= SURE_PEAK))


def compare(
    store: TileStore, pairs: Candidates, peaks: np.ndarray, *, progress: Callable[[int], None] | None = None
) -> Iterator[Register | None]:
    """Register each pair and yield how alike the two are; None where they cannot be registered."""
    side = SIDE if store.preparation.size >= SIDE else SIDE // 2

    @lru_cache(maxsize=2000)
    def square(row: int) -> np.ndarray:
        return grey(store, row, side)

    for number in range(len(pairs)):
        one = flip(square(int(pairs.i[number])), int(pairs.flip[number]))
        # The one is a copy of the other that was inset, or of the whole.
        scale = 1 - 2 * INSET if pairs.inset[number] else 1.0
        yield likeness(one, square(int(pairs.j[number])), scale=scale, shift=peaks[number, 1:])
        if progress:
            progress(number + 1)


def likeness(
    one: np.ndarray, two: np.ndarray, *, scale: float = 1.0, shift: tuple[float, float] | np.ndarray = (0.0, 0.0)
) -> Register | None:
    """Register `two` to `one`, both (S, S) `float32`, and compare them; `scale` and `shift` say where to begin.

    The likeness is the median over 8×8 blocks of the correlation of their detail: 1 for the same picture, about 0 for
    two that share nothing. None where registration finds no way, less than half is shared or nothing has detail.
    """
    centre = (len(one) - 1) / 2
    way = np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    way[:, 2] = centre * (1 - scale) + np.asarray(shift) * len(one) * scale
    coarse = registered(one, two, way, fine=False)
    found = None if coarse is None else _laid_over(one, two, coarse)
    if coarse is None or found is None or found.likeness < PROMISING:
        return found
    exact = registered(one, two, coarse, fine=True)
    return None if exact is None else _laid_over(one, two, exact)


def registered(one: np.ndarray, two: np.ndarray, way: np.ndarray, *, fine: bool) -> np.ndarray | None:
    """Improve the affine way (2, 3) from `one` to `two`, on the images as they are or at half their size."""
    if not fine:
        half = (len(one) // 2, len(one) // 2)
        one, two = (cv2.resize(image, half, interpolation=cv2.INTER_AREA) for image in (one, two))
        way = in_pixels(way, 2)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)
    try:
        _, found = cv2.findTransformECC(one, two, way, cv2.MOTION_AFFINE, stop, None)
    except cv2.error:
        # What OpenCV raises where the iteration does not converge: such images do not lie on each other.
        return None
    return np.asarray(found) if fine else in_pixels(found, 0.5)


def in_pixels(way: np.ndarray, by: float) -> np.ndarray:
    """The same way in pixels `by` times as large; pixels are counted from the centre of the first."""
    offset = (by - 1) / 2
    other = np.array(way, np.float32)
    other[:, 2] = (way[:, 2] + offset * (way[:, :2].sum(axis=1) - 1)) / by
    return other


def _laid_over(one: np.ndarray, two: np.ndarray, way: np.ndarray) -> Register | None:
    """How alike the images are on this way."""
    side = len(one)
    grid = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(two, way, (side, side), flags=grid, borderMode=cv2.BORDER_REPLICATE)
    both = cv2.warpAffine(np.ones_like(two), way, (side, side), flags=grid, borderValue=0) > 0.99
    shared = float(both.mean())
    radius = DETAIL * side / SIDE
    agreement = _by_block(_high_pass(one, radius), _high_pass(laid, radius), both)
    if shared < 0.5 or len(agreement) < LEAST_BLOCKS:
        return None
    return Register(float(np.median(agreement)), shared, in_pixels(way, side / SIDE))


def _by_block(one: np.ndarray, two: np.ndarray, both: np.ndarray) -> np.ndarray:
    """The correlation in each block that both images cover and where both hold detail: white or black was cut off."""
    one, two, covered = (_blocks(image) for image in (one, two, both.astype(np.float32)))
    one, two = one - one.mean(axis=1, keepdims=True), two - two.mean(axis=1, keepdims=True)
    spread_one, spread_two = one.std(axis=1), two.std(axis=1)
    busy = np.minimum(spread_one / (_rms(one) + 1e-6), spread_two / (_rms(two) + 1e-6)) > BUSY
    agreement = (one * two).mean(axis=1) / (spread_one * spread_two + 1e-3)
    chosen: np.ndarray = agreement[busy & (covered.mean(axis=1) > 0.9)]
    return chosen


def _rms(image: np.ndarray) -> float:
    return float(np.sqrt((image**2).mean()))


def _blocks(image: np.ndarray) -> np.ndarray:
    """(S, S) as (64, S²/64)."""
    part = len(image) // BLOCKS
    return image.reshape(BLOCKS, part, BLOCKS, part).swapaxes(1, 2).reshape(BLOCKS * BLOCKS, -1)


def _high_pass(image: np.ndarray, radius: float) -> np.ndarray:
    passed: np.ndarray = image - cv2.GaussianBlur(image, (0, 0), radius)
    return passed


def _evened(detail: np.ndarray, radius: float) -> np.ndarray:
    """Detail of the same strength everywhere."""
    evened: np.ndarray = detail / np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), radius) + 1.0)
    return evened
