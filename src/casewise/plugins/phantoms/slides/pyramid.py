"""Writing pyramidal TIFFs of JPEG tiles, the generic format of slide readers, while the picture is being drawn.

Pillow cannot write tiled TIFFs, so the container is written here (TIFF revision 6.0, Adobe 1992, sections 2, 15 and
22). Every tile is a separate JPEG. The directories are at the end, as in the files of scanners.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from casewise.errors import CasewiseError
from casewise.files import replacing
from casewise.plugins.phantoms.folder import MARK

Paint = Callable[[int, int, int, int], NDArray[np.uint8]]

TILE, QUALITY = 256, 85
# Between levels.
STEP = 4
# Offsets in a classic TIFF have 32 bits.
LARGEST_FILE = 2**32 - 2**20
ASCII, SHORT, LONG, RATIONAL = 2, 3, 4, 5


class _Level:
    """A level: its size, and the offsets of its tiles in the file, in raster order."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.across = -(-width // TILE)
        self.offsets, self.counts = ([0] * (self.across * -(-height // TILE)) for _ in range(2))


def write_pyramid(
    path: Path,
    size: tuple[int, int],
    paint: Paint,
    *,
    mpp: float | None,
    levels: int = 3,
    description: str = MARK,
    quality: int = QUALITY,
) -> None:
    """Write a slide of `size` (width, height) pixels with `levels` levels, each a quarter as wide as the previous one.

    `paint` (left, top, width, height) returns that region of level 0, (height, width, 3) `uint8`; it is called once for
    every tile, from left to right and downwards. `mpp`, microns per pixel, is written to the resolution tags. The
    smaller levels are averages. An incomplete file is never left.

    Raises:
        RunError: the disk is full or the folder cannot be written.
        CasewiseError: the file would exceed the 4 GB of a classic TIFF.
    """
    with replacing(path, durable=False) as temporary, temporary.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 0))
        _write(file, size, paint, mpp, levels, description, quality)


def _write(
    file: BinaryIO, size: tuple[int, int], paint: Paint, mpp: float | None, levels: int, description: str, quality: int
) -> None:
    first = _Level(*size)
    smaller = Image.new("RGB", (-(-size[0] // STEP), -(-size[1] // STEP)), "white")
    for top in range(0, first.height, TILE):
        for left in range(0, first.width, TILE):
            block = Image.fromarray(paint(left, top, min(TILE, first.width - left), min(TILE, first.height - top)))
            _put(file, first, block, (left, top), quality)
            if levels > 1:
                smaller.paste(block.reduce(STEP), (left // STEP, top // STEP))
    written = [first]
    while len(written) < levels:
        written.append(_Level(*smaller.size))
        _put(file, written[-1], smaller, (0, 0), quality)
        smaller = smaller.reduce(STEP)
    link = 4
    for number, level in enumerate(written):
        link = _directory(file, link, level, number, mpp and mpp * STEP**number, description)


def _put(file: BinaryIO, level: _Level, picture: Image.Image, corner: tuple[int, int], quality: int) -> None:
    """Write a picture that begins at a tile's corner, tile by tile; tiles are white beyond the edge."""
    for y in range(0, picture.height, TILE):
        for x in range(0, picture.width, TILE):
            tile = Image.new("RGB", (TILE, TILE), "white")
            tile.paste(picture.crop((x, y, min(x + TILE, picture.width), min(y + TILE, picture.height))))
            buffer = io.BytesIO()
            tile.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
            index = (corner[1] + y) // TILE * level.across + (corner[0] + x) // TILE
            level.offsets[index], level.counts[index] = file.tell(), buffer.tell()
            file.write(buffer.getvalue())
            if file.tell() > LARGEST_FILE:
                raise CasewiseError(f"A phantom slide of {level.width} x {level.height} pixels exceeds 4 GB.")


def _directory(file: BinaryIO, link: int, level: _Level, number: int, mpp: float | None, description: str) -> int:
    """Append a directory and set the pointer of the previous one; return the offset of its own pointer."""
    entries: list[tuple[int, int, Any]] = [
        *[(254, LONG, int(number > 0)), (256, LONG, level.width), (257, LONG, level.height), (258, SHORT, (8, 8, 8))],
        *[(259, SHORT, 7), (262, SHORT, 6), (270, ASCII, description), (277, SHORT, 3), (284, SHORT, 1)],
        *[(305, ASCII, "casewise phantom"), (322, SHORT, TILE), (323, SHORT, TILE)],
        *[(324, LONG, tuple(level.offsets)), (325, LONG, tuple(level.counts)), (530, SHORT, (2, 2))],
    ]
    if mpp:
        # Pixels per centimetre.
        ratio = IFDRational(round(10_000 / mpp * 1000), 1000)
        entries += [(282, RATIONAL, ratio), (283, RATIONAL, ratio), (296, SHORT, 3)]
    directory = ImageFileDirectory_v2(b"II*\0" + bytes(4))
    for tag, kind, value in entries:
        directory.tagtype[tag] = kind
        directory[tag] = value
    file.write(b"\0" * (file.tell() % 2))
    start = file.tell()
    file.write(directory.tobytes(start))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<I", start))
    file.seek(end)
    return start + 2 + 12 * len(entries)
