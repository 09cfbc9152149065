"""JPEG files with lost or overwritten data, whose missing blocks Pillow fills with grey without a word.

libjpeg reports them; simplejpeg passes its warnings on. Bytes that were overwritten by others that can be decoded are
not noticed.
"""

from __future__ import annotations

import re
from typing import IO

import simplejpeg

_COLOURS = {"CMYK": "CMYK", "YCCK": "CMYK", "Gray": "GRAY"}
_SURPLUS = re.compile(r"(\d+) extraneous bytes")
# Some cameras write a few bytes after the last pixels.
HARMLESS = 32
# What libjpeg says of data that are missing, surplus or impossible; other errors are for the decoder that is used.
_LOST = ("corrupt jpeg data", "premature end")


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
