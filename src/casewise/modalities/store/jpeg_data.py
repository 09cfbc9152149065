"""JPEG files whose data end before their last pixels, which decoders fill with grey instead of reporting it."""

from __future__ import annotations

import io
import re
from typing import IO

import numpy as np
from PIL import Image, JpegImagePlugin

# What decoders fill missing blocks with: the middle of the range of every component, as decoded.
GREY = 128
# Data that no file contains here: without the byte 255, which begins a marker.
MORE = bytes(range(1, 255)) * 16
END, START_OF_SCAN = 0xD9, 0xDA
# A marker in the data: 255, but neither a byte of data (followed by 0), a restart, nor a filler.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def ends_early(stream: IO[bytes], image: Image.Image) -> bool:
    """Whether the data of a decoded JPEG end before its last pixels.

    Only where the last row is of the grey that decoders fill in, the file is decoded again with more data before its
    end: if the picture changes, data were missing.

    Args:
        stream: the whole file.
        image: decoded from it, perhaps at a reduced scale.
    """
    last = np.asarray(image.crop((0, image.height - 1, *image.size)))
    if image.mode not in ("L", "RGB") or last.size == 0 or np.abs(last.astype(np.int16) - GREY).max() > 1:
        return False
    stream.seek(0)
    data = stream.read()
    end = end_of_data(data)
    if end is None:
        return False
    longer = JpegImagePlugin.JpegImageFile(io.BytesIO(data[:end] + MORE + data[end:]))
    width, height = longer.size
    # scaled images are rounded up to whole pixels, but those that are asked for are rounded down
    scale = next((s for s in (1, 2, 4, 8) if (-(-width // s), -(-height // s)) == image.size), None)
    if scale is None:
        return False
    longer.draft(None, (width // scale, height // scale))
    return not np.array_equal(np.asarray(longer), np.asarray(image))


def end_of_data(data: bytes) -> int | None:
    """The position of the end marker of the first image; None if there is none."""
    position = 2
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == END:
            return position
        if marker == 0xFF:
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == START_OF_SCAN:
            found = _MARKER.search(data, position)
            if found is None:
                return None
            position = found.start()
    return None
