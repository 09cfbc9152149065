"""Letters and markers anywhere in an image, at the resolution of its file: small, even, with sharp edges.

A letter that is burnt into an image, or a marker of lead, has one grey value, its edge is one or two pixels wide, and
it is brighter or darker than everything around it. Ribs, vessels and skin have wider edges or are larger. Where the
marks of an image lie does not matter to the detection, so that marks are found that move from image to image, which
`casewise.modalities.overlays` does not find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

# Of larger images the area is reduced to this longest side.
_LONGEST = 1280
# The largest mark, as a share of the shorter side, and the smallest in pixels: its longer side, and its area.
_LARGEST, _SHORTEST, _SMALLEST = 0.2, 4, 6
# The least difference between a mark and its surroundings in grey levels.
_CONTRAST = 40
# The share of a mark's outline at which most of that difference lies within two pixels.
_SHARP = 0.6
# The largest standard deviation within a mark, as a share of its contrast.
_EVEN = 0.25
# Marks whose heights differ by less than this factor, and whose distance is less than so many heights, are one line.
_SAME_HEIGHT, _NEAR = 1.7, 2.0
_MOST_MARKS = 400


@dataclass(frozen=True)
class _Mark:
    """One mark: its box in pixels, its area, its contrast (negative if dark), and the number of its holes."""

    left: int
    top: int
    width: int
    height: int
    area: int
    contrast: float
    holes: int


def _find_marks(picture: Bytes) -> list[_Mark]:
    """The marks of a grey picture (h, w), those with most contrast first.

    >>> picture = np.full((200, 200), 90, np.uint8)
    >>> picture[20:30, 40:43] = 250
    >>> [(mark.left, mark.top, mark.width, mark.height) for mark in _find_marks(picture)]
    [(40, 20, 3, 10)]
    """
    longest = max(picture.shape)
    if longest > _LONGEST:
        size = tuple(max(1, round(side * _LONGEST / longest)) for side in picture.shape[::-1])
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    return sorted([*_bright(picture, 1), *_bright(255 - picture, -1)], key=lambda mark: -abs(mark.contrast))


def _bright(picture: Bytes, sign: int) -> list[_Mark]:
    """The marks that are brighter than their surroundings."""
    most = max(_SHORTEST + 1, round(_LARGEST * min(picture.shape)))
    # an opening removes what is narrower than the strokes of a large letter
    stroke = max(5, round(min(picture.shape) / 20)) | 1
    background = cv2.morphologyEx(picture, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_RECT, (stroke, stroke)))
    above = picture.astype(np.int16) - background
    # halfway between a mark and what surrounds it
    peak = cv2.dilate(above.astype(np.uint8), np.ones((5, 5), np.uint8))
    mask = ((above >= _CONTRAST) & (2 * above > peak)).astype(np.uint8)
    _, numbers, facts, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    sides = facts[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    area = facts[:, cv2.CC_STAT_AREA]
    fits = (sides.max(axis=1) <= most) & (sides.max(axis=1) >= _SHORTEST) & (area >= _SMALLEST)
    fits[0] = False
    chosen = np.flatnonzero(fits)
    chosen = chosen[np.argsort(-area[chosen], kind="stable")[:_MOST_MARKS]]
    marks = (_mark(picture, np.asarray(numbers, np.int32), int(number), facts[number], sign) for number in chosen)
    return [mark for mark in marks if mark]


def _mark(picture: Bytes, numbers: NDArray[np.int32], number: int, facts: NDArray[np.int32], sign: int) -> _Mark | None:
    """The mark with this number; None if it is uneven, or its edge is not sharp."""
    left, top, width, height, area = map(int, facts[:5])
    rows, columns = (slice(max(0, start - 3), start + side + 3) for start, side in ((top, height), (left, width)))
    crop, own = picture[rows, columns].astype(np.float32), (numbers[rows, columns] == number).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    near = cv2.dilate(own, kernel)
    outer = (cv2.dilate(near, kernel) > 0) & (near == 0)
    if not outer.any():
        return None
    inner = cv2.erode(own, kernel) > 0
    values = crop[inner] if inner.sum() >= _SMALLEST else crop[own > 0]
    contrast = float(np.median(values) - np.median(crop[outer]))
    if contrast < _CONTRAST or values.std() > _EVEN * contrast:
        return None
    # at each pixel of the outline, the highest value next to it minus the lowest
    outline = (own > 0) & ~inner
    step = cv2.dilate(crop, kernel) - cv2.erode(crop, kernel)
    if (step[outline] > 0.5 * contrast).mean() < _SHARP:
        return None
    _, hierarchy = cv2.findContours(np.ascontiguousarray(own), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = 0 if hierarchy is None else int((hierarchy[0][:, 3] >= 0).sum())
    return _Mark(left, top, width, height, area, sign * contrast, holes)


def _in_line(marks: list[_Mark]) -> int:
    """The number of marks with another one of similar height beside it, as the letters of a word."""
    if len(marks) < 2:
        return 0
    table = np.array([(m.left, m.top, m.width, m.height) for m in marks], float)
    left, top, width, height = table.T
    gap = np.maximum(left[:, None], left) - np.minimum((left + width)[:, None], left + width)
    tall = np.maximum(height[:, None], height)
    level = np.abs((top + height / 2)[:, None] - (top + height / 2)) < 0.5 * tall
    same_size = tall < _SAME_HEIGHT * np.minimum(height[:, None], height)
    neighbours = level & same_size & (gap < _NEAR * tall) & (gap > -0.5 * np.minimum(width[:, None], width))
    np.fill_diagonal(neighbours, False)
    return int(neighbours.any(axis=1).sum())


# How many of the clearest marks are described.
_CLEAREST = 3


def mark_features(picture: Bytes) -> Floats:
    """(24,) the marks of a grey picture (h, w), first the bright ones, then the dark ones.

    Their number, area and the letters in lines as logarithms; whether there is any; of the clearest ones the mean
    place, contrast, height, width by height, share of the box that is filled, and holes.
    """
    height, width = picture.shape
    scale = min(1.0, _LONGEST / max(picture.shape))
    height, width = height * scale, width * scale
    marks, features = _find_marks(picture), []
    for sign in (1, -1):
        own = [mark for mark in marks if mark.contrast * sign > 0]
        clear = own[:_CLEAREST]
        of_clear = [
            (
                (m.left + m.width / 2) / width - 0.5,
                (m.top + m.height / 2) / height - 0.5,
                abs(m.contrast) / 255,
                np.log(m.height / height) + 3,
                np.log(m.width / m.height),
                m.area / (m.width * m.height),
                m.holes,
            )
            for m in clear
        ]
        means = np.mean(of_clear, axis=0) if of_clear else np.zeros(7)
        sizes = (len(own), sum(mark.area for mark in own) / (height * width) * 1e4, _in_line(own))
        features += [float(bool(own)), *np.log1p(sizes), max((m.area for m in own), default=0) ** 0.5 / height, *means]
    return np.array(features)
