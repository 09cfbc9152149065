"""Photographs, tiles and panels as small inline pictures."""

from __future__ import annotations

import base64
import io
import math

import numpy as np

from casewise.report.context import ReportContext

QUALITY = 80


def data_uri(picture: np.ndarray, *, longest: int) -> str:
    """A picture as a JPEG data URI, no longer than `longest` pixels; never enlarged.

    Args:
        picture: (h, w, 3) or (h, w) uint8.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def as_picture(tile: np.ndarray) -> np.ndarray:
    """A tile (C, H, W) as (H, W, 3) or (H, W): three channels are colour, of any other number the first is shown."""
    return np.ascontiguousarray(tile.transpose(1, 2, 0)) if len(tile) == 3 else tile[0]


def grid_picture(tiles: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Tiles arranged row by row in a grid, with black empty slots, as in the input of the network.

    Args:
        tiles: (n, C, H, W) uint8, n at most rows * columns.

    >>> grid_picture(np.full((3, 3, 4, 4), 255, np.uint8), rows=2, columns=2).shape
    (8, 8, 3)
    """
    first = as_picture(tiles[0])
    height, width = first.shape[:2]
    result = np.zeros((rows * height, columns * width, *first.shape[2:]), np.uint8)
    for slot, tile in enumerate(tiles):
        top, left = slot // columns * height, slot % columns * width
        result[top : top + height, left : left + width] = as_picture(tile)
    return result


def panel_uri(material: ReportContext, numbers: list[int], *, longest: int) -> str | None:
    """The panel of these images (of its first slots, if there are more); None if it is empty or has no pictures.

    A bag has no grid; as many of its tiles as a training step uses are arranged in a square.
    """
    panels = material.study.panels
    shown = [int(n) for n in numbers if int(n) >= 0][: panels.slots]
    tiles = material.tiles(shown) if shown else None
    if tiles is None:
        return None
    rows, columns = panels.rows, panels.columns
    if panels.bags:
        columns = math.ceil(math.sqrt(len(shown)))
        rows = math.ceil(len(shown) / columns)
    picture = grid_picture(tiles, rows=rows, columns=columns)
    return data_uri(picture, longest=longest)
