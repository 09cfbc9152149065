"""Tissue on a slide: Otsu's threshold on a thumbnail, and the share of tissue in a tile.

Tissue is separated from glass by its colour: Otsu's method (IEEE Trans. SMC 9, 62-66, 1979) thresholds the saturation
of HSV. If nothing has colour or the slide is dark (fluorescence), it thresholds the brightness instead. Specks and
small holes are then removed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from casewise.plugins.slides.reader import Slide, on_white

LONGEST = 1024
# The blur in microns that merges nuclei and gaps between fibres, and its maximum in pixels. Fluorescence needs a wider
# blur, because nothing shines between the nuclei.
BLUR, DARK_BLUR, MOST_BLUR = 10.0, 30.0, 20.0
# Of 255 grey levels: a fluorescence slide has a lower median, a brightfield slide a higher one.
DARK = 64
# Of 255: nearly all stains have a higher saturation and nearly all glass a lower one.
PALE = 20
# Two classes whose means differ by less, of 255, are one class with noise; values of dark slides are logarithms.
LEAST_CONTRAST, LEAST_DARK_CONTRAST = 12.0, 30.0
# Shares of the thumbnail: islands below the first are specks, holes below the second are filled.
SPECK, HOLE = 1 / 10_000, 1 / 2_000


@dataclass(frozen=True, eq=False)
class Tissue:
    """The tissue of a slide.

    `mask`: (h, w) `bool`. `downsample`: the width of a pixel of the mask in level-0 pixels. `notes`: sentences on the
    method if it was not colour.
    """

    mask: np.ndarray
    downsample: float
    notes: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of the slide that is tissue."""
        return float(self.mask.mean())


def read_thumbnail(slide: Slide, longest: int = LONGEST) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a picture of the whole slide of at most `longest` pixels a side.

    (h, w, 3) `uint8` on white; (h, w) `bool`, the scanned area; and its downsample. It is averaged block by block from
    the coarsest level that is large enough, so its memory does not grow with the slide.

    Raises:
        ImageError: the slide is damaged.
    """
    levels = slide.facts.levels
    enough = [n for n, (width, height, _) in enumerate(levels) if max(width, height) >= longest]
    level = max(enough, default=0)
    width, height, downsample = levels[level]
    factor = max(1, math.ceil(max(width, height) / longest))
    image = slide.reduced(level, (0, 0, width, height), factor)
    return np.asarray(on_white(image)), np.asarray(image.getchannel("A")) > 127, downsample * factor


def tissue_threshold(values: np.ndarray, least: float = LEAST_CONTRAST) -> float | None:
    """Otsu's threshold of `uint8` values: tissue is above it; None if the two classes differ by less than `least`.

    >>> tissue_threshold(np.array([10] * 6 + [200] * 4, np.uint8)) in range(10, 200)
    True
    >>> tissue_threshold(np.array([10, 11, 12, 11], np.uint8)) is None
    True
    """
    if not values.size:
        return None
    threshold, _ = cv2.threshold(values.reshape(1, -1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above = values > threshold
    if above.all() or not above.any() or values[above].mean() - values[~above].mean() < least:
        return None
    return float(threshold)


def find_tissue(picture: np.ndarray, scanned: np.ndarray, downsample: float, *, mpp: float | None = None) -> Tissue:
    """Find tissue on a thumbnail and what was scanned of it, as `read_thumbnail` returns them.

    `mpp` of level 0 determines the blur; without it the blur is one pixel (three for dark slides).
    """
    brightness = picture.max(axis=2)
    micron = 1 / (mpp * downsample) if mpp else 0.1
    if scanned.any() and np.median(brightness[scanned]) < DARK:
        # Fluorescence spans orders of magnitude; below four grey levels it is noise.
        values = np.log1p(_blurred(brightness.astype(np.float32), DARK_BLUR * micron) / 4) * (255 / np.log1p(64))
        mask = _above(values.astype(np.uint8), scanned, LEAST_DARK_CONTRAST)
        notes = ["the slide is dark: tissue was separated by brightness, not by colour"]
        return Tissue(_cleaned(mask, scanned), downsample, tuple(notes))
    smooth, notes = _blurred(picture, BLUR * micron), []
    values = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1]
    if scanned.any() and np.percentile(values[scanned], 99.9) < PALE:
        values = 255 - smooth.max(axis=2)
        notes.append("the slide has no colour: dark areas count as tissue")
    mask = _above(values, scanned, LEAST_CONTRAST)
    if not notes and mask.any() and np.median(values[scanned & ~mask]) > PALE:
        # Otsu's threshold separates pale tissue from dark tissue.
        mask = scanned.copy()
        notes.append("the slide shows no bare glass: all of it counts as tissue")
    return Tissue(_cleaned(mask, scanned), downsample, tuple(notes))


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), min(max(sigma, 1.0), MOST_BLUR))


def _above(values: np.ndarray, scanned: np.ndarray, least: float) -> np.ndarray:
    threshold = tissue_threshold(values[scanned], least)
    return np.zeros_like(scanned) if threshold is None else (values > threshold) & scanned


def _cleaned(mask: np.ndarray, scanned: np.ndarray) -> np.ndarray:
    """Remove specks and fill small holes."""
    large = _without_small(mask, SPECK * mask.size)
    return ~_without_small(~large, HOLE * mask.size) & scanned


def _without_small(mask: np.ndarray, least: float) -> np.ndarray:
    """Remove islands of fewer than `least` pixels; corners connect."""
    islands, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    return sizes[islands] >= max(least, 1)


def tissue_shares(tissue: Tissue, boxes: np.ndarray) -> np.ndarray:
    """How much of each box is tissue, 0 to 1; boxes (N, 3) of x, y and side in level-0 pixels. Returns (N,) `float64`.

    The areas are exact: a pixel of the mask counts by its share inside the box.

    >>> half = Tissue(np.array([[True, False]]), 10.0, ())
    >>> tissue_shares(half, np.array([[0, 0, 10], [5, 0, 10], [10, 0, 10], [9, 2, 4]]))
    array([1.  , 0.5 , 0.  , 0.25])
    """
    height, width = tissue.mask.shape
    summed = np.zeros((height + 1, width + 1))
    summed[1:, 1:] = tissue.mask.cumsum(axis=0).cumsum(axis=1)
    left, top, side = (boxes / tissue.downsample).T

    def area(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # The summed area grows bilinearly between the corners of a pixel.
        values: np.ndarray = ndimage.map_coordinates(summed, [y, x], order=1, mode="nearest")
        return values

    right, bottom = left + side, top + side
    covered = area(right, bottom) - area(left, bottom) - area(right, top) + area(left, top)
    return np.clip(covered / side**2, 0, 1)


def spread(positions: np.ndarray, most: int) -> np.ndarray:
    """Choose `most` of (N, 2) integer positions, spread evenly; return their indices in ascending order.

    Positions are sorted along a Hilbert curve, which keeps neighbours together, and chosen at even distances.

    >>> rows, columns = np.divmod(np.arange(64), 8)
    >>> chosen = spread(np.stack([columns, rows], axis=1), 4)
    >>> sorted({(int(columns[i]) // 4, int(rows[i]) // 4) for i in chosen})
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """
    if len(positions) <= most:
        return np.arange(len(positions))
    along = np.argsort(_along_hilbert(positions), kind="stable")
    selected: np.ndarray = np.sort(along[((np.arange(most) + 0.5) * len(positions) / most).astype(int)])
    return selected


def _along_hilbert(positions: np.ndarray) -> np.ndarray:
    """The distance of each position along a Hilbert curve (D. Hilbert, Math. Ann. 38, 459-460, 1891)."""
    x, y = (positions - positions.min(axis=0)).astype(np.int64).T
    far = np.zeros_like(x)
    half = 1 << int(max(x.max(), y.max(), 1)).bit_length() - 1
    while half:
        right, low = (x & half) > 0, (y & half) > 0
        far += half * half * ((3 * right) ^ low)
        x, y = x & (half - 1), y & (half - 1)
        # Within a quarter the curve repeats itself, mirrored in the upper two.
        turned = right & ~low
        x, y = np.where(turned, half - 1 - x, x), np.where(turned, half - 1 - y, y)
        x, y = np.where(low, x, y), np.where(low, y, x)
        half >>= 1
    return far
