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

from PIL import Image
from PIL.TiffImagePlugin import IFDRational, ImageFileDirectory_v2

from casewise.errors import CasewiseError
from casewise.files import replacing
from casewise.plugins.phantoms.cohort import MARK, SOFTWARE
from casewise.plugins.phantoms.scene import Array

TILE = 256
# Between levels.
_STEP = 4
# Offsets in a classic TIFF have 32 bits.
_LARGEST_FILE = 2**32 - 2**20
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5


def write_pyramid(
    path: Path,
    size: tuple[int, int],
    paint: Callable[[int, int, int, int], Array],
    *,
    mpp: float | None,
    levels: int = 3,
    description: str = MARK,
    quality: int = 85,
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
        link, (width, height) = 4, size
        smaller = Image.new("RGB", (-(-width // _STEP), -(-height // _STEP)), "white")
        tiles = []
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                block = Image.fromarray(paint(left, top, min(TILE, width - left), min(TILE, height - top)))
                tiles += _tiles(file, block, quality)
                smaller.paste(block.reduce(_STEP), (left // _STEP, top // _STEP))
        written = [(size, tiles)]
        while len(written) < levels:
            written.append((smaller.size, _tiles(file, smaller, quality)))
            smaller = smaller.reduce(_STEP)
        for number, level in enumerate(written):
            link = _directory(file, link, *level, number, mpp and mpp * _STEP**number, description)


def _tiles(file: BinaryIO, picture: Image.Image, quality: int) -> list[tuple[int, int]]:
    """Write a picture tile by tile; return their offsets and lengths. Tiles are white beyond the edge."""
    written = []
    for y in range(0, picture.height, TILE):
        for x in range(0, picture.width, TILE):
            tile, buffer = Image.new("RGB", (TILE, TILE), "white"), io.BytesIO()
            tile.paste(picture.crop((x, y, min(x + TILE, picture.width), min(y + TILE, picture.height))))
            tile.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
            written.append((file.tell(), buffer.tell()))
            file.write(buffer.getvalue())
            if file.tell() > _LARGEST_FILE:
                raise CasewiseError("A phantom slide of this size exceeds 4 GB.")
    return written


def _directory(
    file: BinaryIO, link: int, size: tuple[int, int], tiles: Any, number: int, mpp: float | None, description: str
) -> int:
    """Append a directory and set the pointer of the previous one; return the offset of its own pointer."""
    offsets, counts = zip(*tiles, strict=True)
    entries: list[tuple[int, int, Any]] = [
        (254, _LONG, int(number > 0)), (256, _LONG, size[0]), (257, _LONG, size[1]), (258, _SHORT, (8, 8, 8)),
        (259, _SHORT, 7), (262, _SHORT, 6), (270, _ASCII, description), (277, _SHORT, 3), (284, _SHORT, 1),
        (305, _ASCII, SOFTWARE), (322, _SHORT, TILE), (323, _SHORT, TILE), (324, _LONG, offsets),
        (325, _LONG, counts), (530, _SHORT, (2, 2)),
    ]  # fmt: skip
    if mpp:
        # Pixels per centimetre.
        ratio = IFDRational(round(10_000 / mpp * 1000), 1000)
        entries += [(282, _RATIONAL, ratio), (283, _RATIONAL, ratio), (296, _SHORT, 3)]
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
