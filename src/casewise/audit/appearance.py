"""The appearance of a whole image: brightness, contrast, sharpness and traces of JPEG compression in its pixels.

They are evidence of their own, because a border or a thumbnail shows them as well, and the remedy for a marker in the
border does not help against different exposures. What they explain is removed from the border before it is blamed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from casewise.errors import ImageError
from casewise.modalities.store.readers import open_source, read_bytes

__all__ = ["APPEARANCE", "MOST_READ", "blockiness", "brightness", "contrast", "in_files", "standardised", "without"]

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
APPEARANCE = ("brightness", "contrast", "sharpness", "compression")
# Files that are decoded for sharpness and compression, and the central part that is examined.
MOST_READ, PART = 800, 1024
# JPEG divides an image into blocks of 8 pixels.
BLOCK = 8
# The mean coarse detail of a block, in grey levels, from which its sharpness can be judged.
CONTENT = 0.5


def brightness(pictures: Bytes) -> Floats:
    """(n, 2) mean and median grey of each picture (n, h, w)."""
    return np.column_stack([pictures.mean(axis=(1, 2)), np.median(pictures, axis=(1, 2))])


def contrast(pictures: Bytes) -> Floats:
    """(n, 2) standard deviation of each picture, and the distance between its 10th and 90th percentiles."""
    low, high = np.percentile(pictures, (10, 90), axis=(1, 2))
    return np.column_stack([pictures.std(axis=(1, 2)), high - low])


def in_files(paths: Sequence[str]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Sharpness (n, 2) and compression (n, 2) of image files at their own resolution, and (n,) which could be read.

    Compression is `blockiness` in pixels, so it stays after a JPEG was saved in another format.
    """

    def measured(path: str) -> tuple[float, ...] | None:
        try:
            source = open_source(Path(path), read_bytes(Path(path)))
            image = source.read(source.target(None), "grey")[..., 0]
        except ImageError:
            return None
        down, across = (max(0, (side - PART) // 2) for side in image.shape)
        centre = image[down : down + PART, across : across + PART].astype(np.float32)
        return (
            (*_sharpness(centre), blockiness(centre), blockiness(centre.T)) if min(centre.shape) >= 3 * BLOCK else None
        )

    with ThreadPoolExecutor(int(cpu_count())) as pool:
        values = list(pool.map(measured, paths))
    table = np.array([value or (0.0,) * 4 for value in values], float).reshape(len(values), 4)
    return table[:, :2], table[:, 2:], np.array([value is not None for value in values], bool)


def _sharpness(image: Floats) -> tuple[float, float]:
    """The logarithms of the finest detail and of the second finest, each relative to coarse detail.

    Medians over blocks with content, so that a letter or a marker does not count.
    """
    levels = [image, *(cv2.GaussianBlur(image, (0, 0), radius) for radius in (1.0, 2.0, 6.0))]
    side = (image.shape[1] // BLOCK, image.shape[0] // BLOCK)
    fine, middle, coarse = (
        cv2.resize(np.abs(first - second), side, interpolation=cv2.INTER_AREA).ravel()
        for first, second in itertools.pairwise(levels)
    )
    content = coarse > CONTENT
    if not content.any():
        return 0.0, 0.0
    first, second = (float(np.median((detail[content] + 0.01) / coarse[content])) for detail in (fine, middle))
    return float(np.log(first)), float(np.log(second))


def blockiness(image: Floats) -> float:
    """How much more often the step between two columns exceeds its neighbours at every eighth column than elsewhere.

    0 to 1; near 0 without JPEG traces. Steps are counted, not added up, so that a letter or a marker hardly matters.
    The eighth columns may start anywhere, so an image that was cropped after compression has them too.

    >>> smooth = np.tile(np.arange(64.0), (9, 1))
    >>> blockiness(smooth), blockiness(smooth // 8 * 8)
    (0.0, 1.0)
    """
    steps = np.abs(np.diff(np.asarray(image, np.float32), axis=1))
    steeper = steps[:, 1:-1] > np.maximum(steps[:, :-2], steps[:, 2:])
    columns = steeper.shape[1] // BLOCK * BLOCK
    if not columns:
        return 0.0
    phases = np.sort(steeper[:, :columns].mean(axis=0).reshape(-1, BLOCK).mean(axis=0))
    return float(phases[-1] - phases[:-1].mean())


def standardised(pictures: Bytes) -> Bytes:
    """Pictures (n, h, w) with one mean and one standard deviation, so that exposure and contrast are equal."""
    values = pictures.astype(np.float32)
    mean, std = values.mean(axis=(1, 2), keepdims=True), values.std(axis=(1, 2), keepdims=True)
    return np.asarray(np.rint(128 + 40 * (values - mean) / np.maximum(std, 1)).clip(0, 255).astype(np.uint8))


def without(features: Floats, covariates: Sequence[Floats]) -> Floats:
    """Features (n, d) minus their regression on the covariates and their squares, each (n, k).

    >>> x = np.arange(9.0)[:, None]
    >>> bool(np.abs(without(3 * x**2 - x, [x])).max() < 1e-6)
    True
    """
    table = np.column_stack(covariates)
    table = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-9)
    design = np.column_stack([np.ones(len(table)), table, table**2])
    solution = np.linalg.lstsq(design, np.asarray(features, float), rcond=None)[0]
    rest: Floats = features - design @ solution
    # remains of rounding would be standardised to features
    rest[:, rest.std(axis=0) < 1e-6 * np.maximum(np.asarray(features, float).std(axis=0), 1e-9)] = 0.0
    return rest
