"""JPEG files decoded once, with a check for lost data, whose blocks Pillow fills with grey without a word.

libjpeg reports them; simplejpeg passes its warnings on. Bytes that were overwritten by others that can be decoded are
not noticed. Both packages decode with libjpeg-turbo by the same rules, so the pixels are those of Pillow.
"""

from __future__ import annotations

import re
from typing import IO

import numpy as np
import simplejpeg
from PIL import Image

_COLOURS = {"CMYK": "CMYK", "YCCK": "CMYK", "Gray": "GRAY"}
_SURPLUS = re.compile(r"(\d+) extraneous bytes")
# The modes of Pillow whose pixels are decoded here; others are left to it.
_MODES = {"RGB": "RGB", "L": "GRAY"}
# Some cameras write a few bytes after the last pixels.
HARMLESS = 32
# What libjpeg says of data that are missing, surplus or impossible; other errors are for the decoder that is used.
_LOST = ("corrupt jpeg data", "premature end")


def decode_intact(stream: IO[bytes], mode: str, size: tuple[int, int], scale: int) -> Image.Image | None:
    """The pixels of a JPEG file without lost data, as Pillow decodes them; None where Pillow must decode and say why.

    Args:
        mode: of Pillow; size: width and height of the file.
        scale: 1, 2, 4 or 8, by which both sides are divided and rounded up.
    """
    colours = _MODES.get(mode)
    if colours is None:
        return None
    width, height = (-(-side // scale) for side in size)
    stream.seek(0)
    try:
        pixels = simplejpeg.decode_jpeg(
            stream.read(), colours, min_height=height, min_width=width, min_factor=float(scale)
        )
    except ValueError:  # a warning of libjpeg, which may be harmless, or a kind of JPEG that simplejpeg cannot read
        return None
    array = np.asarray(pixels[..., 0] if colours == "GRAY" else pixels)
    return Image.fromarray(array) if array.shape[:2] == (height, width) else None


def has_lost_data(stream: IO[bytes]) -> bool:
    """Whether the compressed data of a JPEG file are incomplete; decoded at an eighth of its size, which is quick."""
    stream.seek(0)
    data = stream.read()
    try:
        colours = _COLOURS.get(simplejpeg.decode_jpeg_header(data)[2], "RGB")
        simplejpeg.decode_jpeg(data, colours, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        surplus = _SURPLUS.search(str(error))
        if surplus and int(surplus[1]) <= HARMLESS:
            return False
        return any(text in str(error).lower() for text in _LOST)
    return False
