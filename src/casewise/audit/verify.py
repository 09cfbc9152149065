"""Verification of candidate twins: after registration, their fine detail must agree nearly everywhere.

Chest films of two people have the same outline and dark lungs, so hashes and embeddings take many of them for the same
picture. The positions of small structures differ between people. Candidates are first screened by the height of the
correlation peak of their high-pass filtered thumbnails. The remaining ones are registered (affine, by the enhanced
correlation coefficient: Evangelidis and Psarakis, 2008) and compared block by block. The likeness is the median over
the blocks, so arrows, letters and bright edges affect only the blocks that contain them.

Two limbs in one pose in front of one cloth have the same dominant outline and share nothing else. Images that are alike
are therefore read from their files at a higher resolution than tiles, registered, and compared in small blocks. Blocks
with an edge are left out (by the structure tensor: Bigün and Granlund, 1987), so that skin, cloth, ribs, vessels and
grain remain. The likeness is the correlation that 70 % of the texture reaches. The weight of a block increases with its
texture up to the level of camera grain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from scipy.fft import irfft2, rfft2

from casewise.audit.hashes import FLIPS, INSET, NEGATIVE, Pairs, flip, grey, in_parallel
from casewise.errors import ImageError
from casewise.modalities.store.readers import read_image
from casewise.modalities.store.store import TileStore

SIDE = 128
COARSE = 48
BLOCKS = 8
# The radius of the compared detail in pixels of an image of 128 pixels.
DETAIL = 2.0
# The likeness at half the size from which registration continues at full size.
PROMISING = 0.2
# The least detail of a block, relative to the image's, and the least number of such blocks among 64.
BUSY, LEAST_BLOCKS = 0.1, 16
# The peak of altered copies was at least 0.53, also for combined crop, flip, brightness and recompression; it was
# lower for 97 % of pairs of different films and 80 % of pairs of different fundus photographs.
PEAK = 0.5
# The number of pairs per image that are registered, by peak; this bounds the time if all images look alike. In addition
# all pairs with a peak that different images do not reach, so that many copies of one image are all found.
HIGHEST, SURE_PEAK = 5, 0.7
BATCH = 512


@dataclass(frozen=True, eq=False)
class Register:
    """The registration of two images.

    Attributes:
        likeness: 1 for the same picture, about 0 for different ones.
        shared: the share of the area that both cover.
        warp: the affine map (2, 3) from the first to the second image, each a square of `SIDE` pixels.
    """

    likeness: float
    shared: float
    warp: np.ndarray

    @property
    def scale(self) -> float:
        """The scale of one image in the other."""
        return float(np.sqrt(abs(np.linalg.det(self.warp[:, :2]))))

    @property
    def turn(self) -> float:
        """The rotation or shear between the images, about in radians; resizing and cropping cause neither."""
        return float(max(abs(self.warp[0, 1]), abs(self.warp[1, 0])))

    @property
    def containment(self) -> float:
        """The share of the smaller image that the other one shows, where `shared` of the first is known."""
        return max(self.shared, self.shared * self.scale**2)


def screen(store: TileStore, pairs: Pairs) -> np.ndarray:
    """The height of the correlation peak of each pair, −1 to 1, and its relative position (x, y): (N, 3)."""
    rows, index = np.unique(np.concatenate([pairs.i, pairs.j[~pairs.inset]]), return_inverse=True)
    inset_rows, inset_index = np.unique(pairs.j[pairs.inset], return_inverse=True)
    left, right = index[: len(pairs)], np.zeros(len(pairs), np.int64)
    right[~pairs.inset], right[pairs.inset] = index[len(pairs) :], inset_index
    plain, inset = _detail_of(store, rows, 0.0), _detail_of(store, inset_rows, INSET)
    out = np.zeros((len(pairs), 3))
    for start in range(0, len(pairs), BATCH):
        batch = slice(start, min(start + BATCH, len(pairs)))
        first = np.empty((batch.stop - start, COARSE, COARSE), np.float32)
        for number in range(len(FLIPS)):
            flipped = pairs.flip[batch] % NEGATIVE == number
            first[flipped] = flip(plain[left[batch][flipped]], number)
        first[pairs.flip[batch] >= NEGATIVE] *= -1
        second, is_inset = np.empty_like(first), pairs.inset[batch]
        second[is_inset], second[~is_inset] = inset[right[batch][is_inset]], plain[right[batch][~is_inset]]
        out[batch] = _peaks(first, second)
    return out


def _detail_of(store: TileStore, rows: np.ndarray, inset: float) -> np.ndarray:
    """Small high-pass filtered images, tapered at the border, of unit length: (N, 48, 48) `float32`."""
    fade = np.hanning(COARSE + 2)[1:-1]
    window = np.sqrt(np.outer(fade, fade)).astype(np.float32)
    out = np.empty((len(rows), COARSE, COARSE), np.float32)
    for number, row in enumerate(rows):
        square = grey(store, int(row), COARSE, inset=inset)
        # without normalisation, an edge of the frame would outweigh the content
        out[number] = _normalised(_high_pass(square, 1.5)) * window
    for start in range(0, len(out), BATCH):  # the norm makes a copy
        block = out[start : start + BATCH]
        block /= np.linalg.norm(block, axis=(1, 2), keepdims=True) + 1e-6
    return out


def _peaks(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Height and position of the highest correlation within a shift of a tenth of the side."""
    reach = COARSE // 10
    spectrum = np.conj(rfft2(first, axes=(1, 2))) * rfft2(second, axes=(1, 2))
    shifts = irfft2(spectrum, s=(COARSE, COARSE), axes=(1, 2))
    near = np.roll(shifts, (reach, reach), axis=(1, 2))[:, : 2 * reach + 1, : 2 * reach + 1].reshape(len(first), -1)
    top = near.argmax(axis=1)
    y, x = np.divmod(top, 2 * reach + 1)
    return np.stack([near[np.arange(len(near)), top], (x - reach) / COARSE, (y - reach) / COARSE], axis=1)


def worth_comparing(pairs: Pairs, peaks: np.ndarray) -> np.ndarray:
    """The numbers of the pairs to register: the peak is very high, or high and among the highest of an image."""
    high = np.flatnonzero(peaks[:, 0] >= PEAK)
    ends = np.concatenate([pairs.i[high], pairs.j[high]])
    number = np.concatenate([high, high])
    order = np.lexsort((-peaks[number, 0], ends))
    _, first, size = np.unique(ends[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, size)
    return np.union1d(number[order[rank < HIGHEST]], np.flatnonzero(peaks[:, 0] >= SURE_PEAK))


def compare(store: TileStore, pairs: Pairs, peaks: np.ndarray) -> Iterator[Register | None]:
    """Register each pair; None if registration fails."""
    side = SIDE if store.preparation.size >= SIDE else SIDE // 2

    @lru_cache(maxsize=2000)
    def square(row: int) -> np.ndarray:
        return grey(store, row, side)

    def register(number: int) -> Register | None:
        first = flip(square(int(pairs.i[number])), int(pairs.flip[number]))
        # a copy of the inset or of the whole image
        scale = 1 - 2 * INSET if pairs.inset[number] else 1.0
        return likeness(first, square(int(pairs.j[number])), scale=scale, shift=peaks[number, 1:])

    return in_parallel(register, range(len(pairs)))


def likeness(
    first: np.ndarray, second: np.ndarray, *, scale: float = 1.0, shift: tuple[float, float] | np.ndarray = (0.0, 0.0)
) -> Register | None:
    """Register `second` to `first`, both (S, S) `float32`, starting from `scale` and `shift`, and compare them.

    The likeness is the median over 8×8 blocks of the correlation of their detail. None if registration fails, if less
    than half of the area is shared, or if there is too little detail.
    """
    centre = (len(first) - 1) / 2
    warp = np.array([[scale, 0, 0], [0, scale, 0]], np.float32)
    warp[:, 2] = centre * (1 - scale) + np.asarray(shift) * len(first) * scale
    return _refined(first, second, warp, _compared, PROMISING)


def _refined(
    first: np.ndarray,
    second: np.ndarray,
    warp: np.ndarray,
    compared: Callable[[np.ndarray, np.ndarray, np.ndarray], Register | None],
    promising: float,
) -> Register | None:
    """The comparison of two images after registration at half size, and, if `promising`, at full size."""
    coarse = registered(first, second, warp, fine=False)
    register = None if coarse is None else compared(first, second, coarse)
    if coarse is None or register is None or register.likeness < promising:
        return register
    exact = registered(first, second, coarse, fine=True)
    return register if exact is None else compared(first, second, exact)


def registered(first: np.ndarray, second: np.ndarray, warp: np.ndarray, *, fine: bool) -> np.ndarray | None:
    """Improve the affine map (2, 3) from `first` to `second`, at full size or at half size."""
    if not fine:
        half = (len(first) // 2, len(first) // 2)
        first, second = (cv2.resize(image, half, interpolation=cv2.INTER_AREA) for image in (first, second))
        warp = in_pixels(warp, 2)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-3)
    try:
        _, improved = cv2.findTransformECC(first, second, warp, cv2.MOTION_AFFINE, stop, None)
    except cv2.error:
        # OpenCV raises this if the iteration does not converge
        return None
    return np.asarray(improved) if fine else in_pixels(improved, 0.5)


def in_pixels(warp: np.ndarray, by: float) -> np.ndarray:
    """The same map in pixels `by` times as large; the origin is the centre of the first pixel."""
    offset = (by - 1) / 2
    rescaled = np.array(warp, np.float32)
    rescaled[:, 2] = (warp[:, 2] + offset * (warp[:, :2].sum(axis=1) - 1)) / by
    return rescaled


def _compared(first: np.ndarray, second: np.ndarray, warp: np.ndarray) -> Register | None:
    """The likeness of the images under this map."""
    side = len(first)
    grid = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(second, warp, (side, side), flags=grid, borderMode=cv2.BORDER_REPLICATE)
    both = cv2.warpAffine(np.ones_like(second), warp, (side, side), flags=grid, borderValue=0) > 0.99
    shared = float(both.mean())
    radius = DETAIL * side / SIDE
    agreement = _by_block(_high_pass(first, radius), _high_pass(warped, radius), both)
    if shared < 0.5 or len(agreement) < LEAST_BLOCKS:
        return None
    return Register(float(np.median(agreement)), shared, in_pixels(warp, side / SIDE))


def _by_block(first: np.ndarray, second: np.ndarray, both: np.ndarray) -> np.ndarray:
    """The correlation in each block that both images cover and in which both have detail."""
    x, y, covered = (_blocks(image) for image in (first, second, both.astype(np.float32)))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    std_x, std_y = x.std(axis=1), y.std(axis=1)
    busy = np.minimum(std_x / (_rms(x) + 1e-6), std_y / (_rms(y) + 1e-6)) > BUSY
    agreement = (x * y).mean(axis=1) / (std_x * std_y + 1e-3)
    return agreement[busy & (covered.mean(axis=1) > 0.9)]


def _rms(image: np.ndarray) -> float:
    return float(np.sqrt((image**2).mean()))


def _blocks(image: np.ndarray) -> np.ndarray:
    """(S, S) as (64, S²/64)."""
    side = len(image) // BLOCKS
    return image.reshape(BLOCKS, side, BLOCKS, side).swapaxes(1, 2).reshape(BLOCKS * BLOCKS, -1)


def _high_pass(image: np.ndarray, radius: float) -> np.ndarray:
    return image - cv2.GaussianBlur(image, (0, 0), radius)


def _normalised(detail: np.ndarray) -> np.ndarray:
    """Detail divided by its local strength."""
    return detail / np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 4.0) + 1.0)


# The side at which images are compared; smaller ones are enlarged.
LARGE = 256
# Images with fewer pixels a side, and images that are only available as tiles, have little texture.
BLURRED = 48
# The longest side that is read from a file: enough for a square of 256 pixels.
READ = 384
# The number of pairs that are compared in their files, the most similar first; the others in their tiles. Of many
# images a quarter of their number.
MOST = 5000
BLOCK = 8
# The texture: the difference of two Gaussian filters of these radii, in pixels.
FINE_TEXTURE, COARSE_TEXTURE = 1.2, 2.5
# From this coherence on, between 0 (no direction) and 1 (one edge), a block contains an edge.
EDGE = 0.7
# The contrast in grey levels at which a block has full weight: less is dominated by grain or removed by JPEG.
GRAIN = 2.0
# The least total weight of the blocks, and that for blurred images: with less, two people cannot be distinguished.
LEAST, LEAST_BLURRED = 6.0, 20.0
# The share of the texture that must agree, because remains of an outline may agree by chance.
MOSTLY = 0.7
# Below this likeness at half the size, registration stops.
PROMISING_TEXTURE = 0.1


@dataclass(frozen=True, eq=False)
class SecondCheck:
    """The registration of two images by texture, None if there is too little.

    `pixels`: the longest side of the smaller image. `blurred`: only tiles, or few pixels, could be compared.
    """

    register: Register | None
    pixels: int
    blurred: bool


def second_check(
    store: TileStore, paths: Sequence[str], pairs: Pairs, registers: Sequence[Register]
) -> Iterator[SecondCheck]:
    """Compare each pair in the files `paths` (row i shows tile i), starting from `registers`.

    If a file can no longer be read, and beyond so many pairs, the tiles are compared.
    """

    @lru_cache(maxsize=2000)
    def of_file(row: int) -> np.ndarray | None:
        try:
            picture = read_image(Path(paths[row]), size=READ, channels="grey")[..., 0]
        except ImageError:
            return None
        return np.rint(_square(picture.astype(np.float32))).clip(0, 255).astype(np.uint8)

    longest = store.index[["width", "height"]].max(axis=1).to_numpy()
    most_similar = np.argsort([-register.likeness for register in registers], kind="stable")[
        : max(MOST, len(store) // 4)
    ]
    in_files = np.isin(np.arange(len(pairs)), most_similar)

    def look(number: int) -> SecondCheck:
        i, j = int(pairs.i[number]), int(pairs.j[number])
        pixels = int(min(longest[i], longest[j]))
        first, second = (of_file(i), of_file(j)) if in_files[number] else (None, None)
        blurred = first is None or second is None or pixels < BLURRED
        if first is None or second is None:
            first, second = grey(store, i, LARGE), grey(store, j, LARGE)
        flipped = flip(first.astype(np.float32), int(pairs.flip[number]))
        least = LEAST_BLURRED if blurred else LEAST
        register = texture_likeness(flipped, second.astype(np.float32), registers[number].warp, least=least)
        return SecondCheck(register, pixels, blurred)

    return in_parallel(look, range(len(pairs)))


def texture_likeness(
    first: np.ndarray, second: np.ndarray, warp: np.ndarray, *, least: float = LEAST
) -> Register | None:
    """The likeness of two images (S, S) `float32` in texture: 1 for the same picture, about 0 for different ones.

    `warp`: approximately the map from `first` to `second`, as in `Register`. None if registration fails, or if there is
    less texture than `least`.
    """
    warp = in_pixels(warp, SIDE / len(first))
    return _refined(first, second, warp, partial(_agreement, least=least), PROMISING_TEXTURE)


def _agreement(first: np.ndarray, second: np.ndarray, warp: np.ndarray, least: float) -> Register | None:
    """The correlation that most of the texture reaches, in blocks that both images cover and that contain no edge."""
    shape = (len(first), len(first))
    grid = cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(second, warp, shape, flags=cv2.INTER_CUBIC | grid, borderMode=cv2.BORDER_REPLICATE)
    both = _mean(cv2.warpAffine(np.ones_like(second), warp, shape, flags=cv2.INTER_LINEAR | grid, borderValue=0))
    comparable = (both > 0.99) & (_coherence(first) < EDGE) & (_coherence(warped) < EDGE)
    left, right = _texture(first), _texture(warped)
    pairs = ((left, left), (right, right), (left, right))
    power_left, power_right, product = (_mean(a * b)[comparable] for a, b in pairs)
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
    return cv2.GaussianBlur(image, (0, 0), FINE_TEXTURE) - cv2.GaussianBlur(image, (0, 0), COARSE_TEXTURE)


def _coherence(image: np.ndarray) -> np.ndarray:
    """How much of the gradient of each block has one direction, 0 to 1."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    x, y = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    across, down, mixed = _mean(x * x), _mean(y * y), _mean(x * y)
    return np.sqrt((across - down) ** 2 + 4 * mixed**2) / (across + down + 1e-6)


def _mean(image: np.ndarray) -> np.ndarray:
    """The mean of each block: (S, S) to (S²/64,)."""
    side = len(image) // BLOCK
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).ravel()


def _square(image: np.ndarray) -> np.ndarray:
    # OpenCV's area filter only reduces
    method = cv2.INTER_AREA if min(image.shape) >= LARGE else cv2.INTER_CUBIC
    return cv2.resize(image, (LARGE, LARGE), interpolation=method)
