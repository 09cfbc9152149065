"""Overlays: logos, letters, rulers and dates that lie at the same place of many images, found without their labels.

The fine detail of an image, divided by its local strength, has a random sign at every pixel, so that its mean over many
images vanishes. Where a mark lies in some of them, it does not. Anatomy that is aligned in all images also leaves a
trace in the mean, but single images do not repeat it exactly: a kind of mark is accepted only if the images fall into
two groups, those that repeat its detail at its place, as nowhere else, and those that do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.errors import ImageError
from casewise.modalities.store.preparation import Box
from casewise.modalities.store.readers import image_shape, read_image

Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Details = NDArray[np.int8]
# Top, left, bottom and right in pixels.
Pixels: TypeAlias = tuple[int, int, int, int]

# Images are examined as squares of this side, at most this many of them.
SIDE, MOST_IMAGES = 256, 2_000
# Radii in pixels: of the detail, of the area whose detail divides it, and of the area that a mark must fill.
FINE, WIDE, FILLED = 2.0, 8.0, 4.0
# The largest detail, and the least local strength in grey levels, so that noise of flat areas is not detail.
CLIP, FLOOR = 2.0, 2.0
# The detail of the mean must be this many times the detail of shifted images.
ABOVE_CHANCE = 1.5
# The outermost share of an image is left out, where frames lie. A mark is at most this long and this large.
EDGE, MOST_LONG, MOST_AREA, FEWEST_PIXELS = 0.02, 0.8, 0.25, 6
MOST_KINDS, MOST_CANDIDATES, ROUNDS = 6, 6, 3
# Other places with which the own place is compared, and their least distance in pixels.
PLACES, FAR = 24, 6
# An image has a mark if it fits this many standard deviations better at its place than at other places. Both groups
# must be this far apart, in their standard deviations; halves of one continuous group reach 4.
CARRIES, TYPICAL, APART, FEWEST_CARRIERS = 5.0, 7.0, 4.5, 8
# Whether a corner lies at the end across and down.
CORNERS = ((0, 0), (1, 0), (0, 1), (1, 1))


@dataclass(frozen=True, eq=False)
class Overlay:
    """One kind of mark.

    Attributes:
        box: covers the mark in every image that has it.
        carriers: (n,) which images have it.
        example: the number of the image in which it fits best.
    """

    box: Box
    carriers: NDArray[np.bool_]
    example: int

    @property
    def place(self) -> str:
        """The place and the size of the mark in words."""
        return place_of(self.box)


def place_of(box: Box) -> str:
    """The place and the size of a box in words.

    >>> place_of((0.04, 0.8, 0.22, 0.85)), place_of((0.4, 0.02, 0.6, 0.06)), place_of((0.4, 0.4, 0.6, 0.6))
    ('lower left, 18 % × 5 % of the image', 'top, 20 % × 4 % of the image', 'centre, 20 % × 20 % of the image')
    """
    left, top, right, bottom = box
    across, down = ((low + high) / 2 for low, high in ((left, right), (top, bottom)))
    vertical = "upper" if down < 1 / 3 else "lower" if down > 2 / 3 else ""
    horizontal = "left" if across < 1 / 3 else "right" if across > 2 / 3 else ""
    alone = {"upper": "top", "lower": "bottom", "": horizontal or "centre"}[vertical]
    name = f"{vertical} {horizontal}" if vertical and horizontal else alone
    return f"{name}, {100 * (right - left):.0f} % × {100 * (bottom - top):.0f} % of the image"


def share_of(box: Box) -> float:
    """The share of the image that a box fills."""
    return (box[2] - box[0]) * (box[3] - box[1])


def find_overlays(pictures: Bytes, sizes: Sequence[tuple[int, int]], masked: Sequence[Box] = ()) -> list[Overlay]:
    """The kinds of marks at one place of the whole image or, where images differ in size, of one of its corners.

    Args:
        pictures: (n, s, s) grey, each an image without bars that is stretched to a square.
        sizes: width and height of each image.
        masked: boxes that are filled in all images.
    """
    side = pictures.shape[1]
    details = _details(pictures)
    for box in masked:
        left, top, right, bottom = (round(side * end) for end in box)
        details[:, max(0, top - FAR) : bottom + FAR, max(0, left - FAR) : right + FAR] = 0
    overlays = [Overlay(_box(pixels, side), carriers, row) for pixels, carriers, row in _kinds(details, side)]
    if len(set(sizes)) > 1:
        # a mark of constant size in pixels
        window = float(np.median([min(size) for size in sizes])) / 2
        for corner in CORNERS:
            views = [_View.of(size, corner, window) for size in sizes]
            for pixels, carriers, example in _kinds(np.stack(list(map(_View.cut, views, details))), side):
                boxes = np.array([views[row].whole(_box(pixels, side // 2)) for row in np.flatnonzero(carriers)])
                box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
                overlay = Overlay(box, carriers, example)
                same = [other for other in overlays if (other.carriers & carriers).sum() > 0.5 * carriers.sum()]
                if all(other.carriers.sum() < carriers.sum() for other in same):
                    overlays = [other for other in overlays if other not in same] + [overlay]
    return sorted(overlays, key=lambda overlay: -overlay.carriers.sum())[:MOST_KINDS]


def overlays_in_files(paths: Sequence[Path]) -> list[Box]:
    """The boxes of the marks in image files, whatever their labels.

    That the images of all folds decide leaks nothing: no label is read, and the same boxes are filled alike in every
    image, so that what is left of one that is judged depends neither on its fold nor on whether it has a mark.
    """
    pictures, sizes = [], []
    steps = np.linspace(0, len(paths) - 1, min(len(paths), MOST_IMAGES)).astype(int)
    for path in (paths[step] for step in steps):
        try:
            picture, size = read_image(path, size=2 * SIDE, channels="grey")[..., 0], image_shape(path)
        except ImageError:
            continue  # the preparation reports it
        if size:
            pictures.append(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
            sizes.append(size)
    return [overlay.box for overlay in find_overlays(np.array(pictures), sizes)] if pictures else []


def _box(pixels: Pixels, side: int) -> Box:
    top, left, bottom, right = (end / side for end in pixels)
    return left, top, right, bottom


@dataclass(frozen=True, eq=False)
class _View:
    """The square at a corner of one image: where it begins across and down, and its length, as shares of the image."""

    start: Floats
    length: Floats

    @classmethod
    def of(cls, size: tuple[int, int], corner: tuple[int, int], window: float) -> _View:
        length = window / np.array(size)
        return cls(np.array(corner) * (1 - length), length)

    def cut(self, detail: Details) -> Details:
        """The square, of half the side of the image."""
        side = len(detail)
        matrix = np.column_stack([np.diag(2 * self.length), self.start * side])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(detail.astype(np.int16), matrix, (side // 2,) * 2, flags=flags), np.int8)

    def whole(self, box: Box) -> Floats:
        """(4,) a box in the square as shares of the image."""
        return np.clip(np.tile(self.start, 2) + box * np.tile(self.length, 2), 0, 1)


def _details(pictures: Bytes) -> Details:
    """(n, s, s) the fine detail of each picture in units of its local strength, times 60."""
    details = np.empty(pictures.shape, np.int8)
    for number, picture in enumerate(pictures):
        values = picture.astype(np.float32)
        fine = values - cv2.GaussianBlur(values, (0, 0), FINE)
        strength = np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), WIDE)) + FLOOR
        details[number] = np.rint(60 * np.clip(fine / strength, -CLIP, CLIP))
    return details


def _kinds(details: Details, whole: int) -> Iterator[tuple[Pixels, Bools, int]]:
    """Each kind of mark: its box, the images that have it, and the best example.

    Its box is then left out of the images that have it, so that others at this place are found.
    """
    remaining, refused = details.copy(), set()
    for _ in range(MOST_KINDS):
        accepted = False
        for box in _candidates(remaining, whole):
            if box in refused:
                continue
            top, left, bottom, right = box
            eligible: Bools = np.any(remaining[:, top:bottom, left:right], axis=(1, 2))
            fits, carriers = _fitted(details, box, eligible)
            if not _apart(fits, carriers, eligible):
                refused.add(box)
                continue
            for group in _split(details[carriers, top:bottom, left:right].reshape(carriers.sum(), -1)):
                rows = np.flatnonzero(carriers)[group]
                yield box, np.isin(np.arange(len(details)), rows), int(rows[np.argmax(fits[rows])])
            remaining[carriers, max(0, top - FAR) : bottom + FAR, max(0, left - FAR) : right + FAR] = 0
            accepted = True
        if not accepted:
            return


def _candidates(details: Details, whole: int) -> list[Pixels]:
    """The areas in which the mean over the images has more detail than chance gives, the clearest first.

    At each level, from the chance level upwards, they are the connected areas that are as small as a mark can be, in
    an image with the side `whole`.
    """
    side = details.shape[1]
    random = np.random.default_rng(side)
    total, squares, shifted = np.zeros((3, side, side))
    for detail in details.astype(np.float32):
        total += detail
        squares += detail**2
        shifted += np.roll(detail, random.integers(0, side, 2), (0, 1))
    strength = _strength(total / np.sqrt(squares + 1))
    level = ABOVE_CHANCE * float(_strength(shifted / np.sqrt(squares.mean() + 1)).max())
    edge = int(np.ceil(EDGE * side))
    inner = np.pad(strength[edge:-edge, edge:-edge], edge)
    taken, areas = np.zeros((side, side), bool), []
    while 0 < level < inner.max():
        count, numbers, facts, _ = cv2.connectedComponentsWithStats((inner > level).astype(np.uint8))
        for number in range(1, count):
            left, top, width, height = map(int, facts[number, :4])
            large = max(width, height) > MOST_LONG * whole or width * height > MOST_AREA * whole**2
            area = numbers == number
            if not large and min(width, height) >= FEWEST_PIXELS and not taken[area].any():
                taken |= area
                areas.append((float(inner[area].sum()), (top, left, top + height, left + width)))
        level *= 2
    return [box for _, box in sorted(areas, reverse=True)[:MOST_CANDIDATES]]


def _strength(mean: Floats) -> Floats:
    return np.asarray(cv2.GaussianBlur(np.square(mean), (0, 0), FILLED))


def _fitted(details: Details, box: Pixels, eligible: Bools) -> tuple[Floats, Bools]:
    """How much better the mean of the other images fits each at its place than elsewhere, in standard deviations.

    At first it is the mean of all eligible images, then the mean of the images that fit.
    """
    top, left, bottom, right = box
    side, random = details.shape[1], np.random.default_rng(top * details.shape[1] + left)
    down, across = side - bottom + top + 1, side - right + left + 1
    draws = ((int(random.integers(down)), int(random.integers(across))) for _ in range(999))
    places = [start for start in draws if max(abs(start[0] - top), abs(start[1] - left)) > FAR][:PLACES]

    def cut(start: tuple[int, int]) -> Floats:
        window = details[:, start[0] : start[0] + bottom - top, start[1] : start[1] + right - left]
        return window.reshape(len(details), -1).astype(np.float32)

    def cosine(products: Floats, window: Floats) -> Floats:
        return products / np.sqrt(np.einsum("ij,ij->i", window, window) + 10.0 * window.shape[1])

    own, carriers, fits = cut((top, left)), eligible, np.zeros(len(details))
    squares = np.einsum("ij,ij->i", own, own)
    for _ in range(ROUNDS):
        if carriers.sum() < FEWEST_CARRIERS or len(places) < PLACES:
            break  # too few images, or the box fills the image, so that there is nothing to compare it with
        mean = own[carriers].sum(axis=0)
        # an image does not count in the mean that is compared with it
        products = own @ mean - carriers * squares
        lengths = np.sqrt(np.maximum(mean @ mean - carriers * (2 * products + squares), 1))
        elsewhere = np.array([cosine(window @ mean, window) for window in map(cut, places)]) / lengths
        fits = (cosine(products, own) / lengths - elsewhere.mean(axis=0)) / (elsewhere.std(axis=0) + 1e-3)
        carriers = eligible & (fits > CARRIES)
    return fits, carriers


def _split(windows: Details) -> list[Bools]:
    """The images with a mark (n, d) as one group, or as two where similar marks at one place differ."""
    values = windows.astype(np.float32)
    values -= values.mean(axis=0)
    scores = np.linalg.eigh(values @ values.T)[1][:, -1].astype(float)
    ordered = np.sort(scores)
    gaps = np.diff(ordered)[FEWEST_CARRIERS - 1 : 1 - FEWEST_CARRIERS or None]
    if not len(gaps):
        return [np.ones(len(windows), bool)]
    high = scores > ordered[FEWEST_CARRIERS - 1 + int(np.argmax(gaps))]
    spread = np.sqrt((scores[high].var() + scores[~high].var()) / 2)
    two = scores[high].mean() - scores[~high].mean() > APART * spread
    return [high, ~high] if two else [np.ones(len(windows), bool)]


def _apart(fits: Floats, carriers: Bools, eligible: Bools) -> bool:
    """Whether images with and without a mark are two groups, instead of the halves of one.

    >>> fits, every = np.array([30.0, 31, 32, 33, 34, 35, 36, 37, 0, 1, 2, 1, 0]), np.ones(13, bool)
    >>> _apart(fits, fits > 5, every), _apart(np.linspace(0, 12, 13), np.linspace(0, 12, 13) > 5, every)
    (True, False)
    """
    others = eligible & ~carriers
    if carriers.sum() < FEWEST_CARRIERS or not others.any() or np.median(fits[carriers]) < TYPICAL:
        return False
    spread = np.sqrt((fits[carriers].var() + fits[others].var()) / 2)
    return bool(fits[carriers].mean() - fits[others].mean() > APART * spread)
