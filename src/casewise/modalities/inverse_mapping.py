"""Mapping of saliency maps from panels to the original pixels, through grid, resizing, crop and padding."""

from __future__ import annotations

import numpy as np

from casewise.errors import CasewiseError
from casewise.modalities.store.pixels import central_square, content_box
from casewise.modalities.store.preparation import Fit

EMPTY = -1


def to_photograph(tile: np.ndarray, *, width: int, height: int, fit: Fit = "pad") -> np.ndarray:
    """Map a tile (side, side) to its photograph: (height, width) `float32`.

    The inverse of `casewise.modalities.store.preparation.Preparation`: padding of any kind is removed, a stretch is
    reversed, and what was cropped off is NaN.

    Args:
        width, height: of the upright photograph in pixels, as in the facts of the tile store.

    >>> to_photograph(np.eye(4), width=40, height=20).shape
    (20, 40)
    """
    top, left, inner_height, inner_width = content_box(width, height, checked_side(tile), fit)
    tile = tile[top : top + inner_height, left : left + inner_width]
    if fit != "crop":
        return resampled(tile, width, height)
    x, y, side = central_square(width, height)
    result = np.full((height, width), np.nan, np.float32)
    result[y : y + side, x : x + side] = resampled(tile, side, side)
    return result


def checked_side(tile: np.ndarray) -> int:
    if tile.ndim != 2 or tile.shape[0] != tile.shape[1]:
        raise CasewiseError(f"explain: a tile's map must be square, not {tile.shape}.")
    return int(tile.shape[0])


def resampled(values: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
