"""JPEG files with lost or overwritten data, which decoders fill with grey or skip over instead of reporting it.

A decoder states neither that its data ended early nor that some were left over, so both are found by decoding altered
copies: more data at the end of a complete picture change nothing, and without its last data it lacks its last blocks.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image, JpegImagePlugin

# What decoders fill missing blocks with: the middle of the range of every component, as decoded.
GREY = 128
# Data that no file contains here: without the byte 255, which begins a marker.
MORE = bytes(range(1, 255)) * 16
# Bytes at the end of a scan that a complete picture needs; some cameras write a few that no picture needs.
LAST = 32
# Pixels times scans up to which every scan of a progressive file is examined, each in a decoding of its own.
MOST_SCANNED = 40_000_000
START, END, START_OF_SCAN, RESTART_INTERVAL = 0xD8, 0xD9, 0xDA, 0xDD
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
# A marker in the data: 255, but neither a byte of data (followed by 0), a restart, nor a filler.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


@dataclass(frozen=True)
class Scan:
    """The data of a scan, from `start` to `end`; a complete picture needs its `last` bytes (0: perhaps not)."""

    start: int
    end: int
    last: int = LAST

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Layout:
    """The scans of a file, and the blocks that a single scan has.

    Attributes:
        block: width and height of the blocks that are coded together.
        interval: the number of blocks after which a restart marker follows; 0 if there are none.
    """

    scans: Sequence[Scan]
    block: tuple[int, int] = (8, 8)
    interval: int = 0


def lost_data(stream: IO[bytes], image: Image.Image) -> str:
    """What shows that a decoded JPEG has lost data, as a clause; '' if nothing does.

    Args:
        stream: the whole file.
        image: decoded from it, perhaps at a reduced scale.
    """
    stream.seek(0)
    data = stream.read()
    layout = layout_of(data)
    if not layout.scans:
        return ""
    if len(layout.scans) == 1 and not restarts_in_order(data, layout, image):
        return "its restart markers are not in order"
    decoded = np.asarray(image)
    longer = _decoded(_with_more(data, _segment_ends(data, layout)), image)
    if longer is not None and not np.array_equal(longer, decoded):
        return "its data end before its last pixels"
    if np.abs(decoded[-1:, -1:].astype(np.int16) - GREY).max() <= 1:
        # blocks that the data lack look the same
        return ""
    scanned = len(layout.scans) * image.width * image.height if len(layout.scans) > 1 else 0
    scans = [scan for scan in layout.scans if scan.last and scan.size > 4 * scan.last and scanned <= MOST_SCANNED]
    surplus = any(_unneeded(data, scan, image) for scan in scans)
    return "its data do not end with its last pixels" if surplus else ""


def _unneeded(data: bytes, scan: Scan, image: Image.Image) -> bool:
    """Whether the picture is the same without the last bytes of a scan."""
    shorter = data[: scan.end - scan.last].rstrip(b"\xff") + data[scan.end :]
    reduced = _decoded(shorter, image)
    if reduced is None or not np.array_equal(reduced, np.asarray(image)):
        return False
    # at a reduced scale only the mean of each block counts, which fewer bytes may hold
    whole, cut = (np.asarray(JpegImagePlugin.JpegImageFile(io.BytesIO(of))) for of in (data, shorter))
    return np.array_equal(whole, cut)


def _with_more(data: bytes, ends: Iterable[int]) -> bytes:
    """The file with more data at these ends of data."""
    pieces, begin = [], 0
    for end in ends:
        pieces += [data[begin:end], MORE]
        begin = end
    return b"".join([*pieces, data[begin:]])


def _decoded(data: bytes, image: Image.Image) -> np.ndarray | None:
    """The pixels of an altered file at the scale of `image`; None if it cannot be decoded so."""
    altered = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    width, height = altered.size
    # scaled images are rounded up to whole pixels, but those that are asked for are rounded down
    scale = next((s for s in (1, 2, 4, 8) if (-(-width // s), -(-height // s)) == image.size), None)
    if scale is None:
        return None
    altered.draft(None, (width // scale, height // scale))
    return np.asarray(altered)


def layout_of(data: bytes) -> Layout:
    """The layout of the first image of a file, as far as its data are complete."""
    scans: list[Scan] = []
    block, interval, position = (8, 8), 0, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == END:
            break
        if marker == 0xFF:
            position += 1
            continue
        content = data[position + 4 : position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")]
        position += 4 + len(content)
        if marker in _FRAMES and len(content) > 6 and content[5] > 1:
            # a scan of one component has blocks of 8 x 8, whatever its sampling
            sampling = content[7::3]
            block = (8 * max(byte >> 4 for byte in sampling), 8 * max(byte & 15 for byte in sampling))
        elif marker == RESTART_INTERVAL:
            interval = int.from_bytes(content[:2], "big")
        elif marker == START_OF_SCAN:
            following = _MARKER.search(data, position)
            if following is None:
                break
            # bytes of 255 before a marker are fillers
            end = position + len(data[position : following.start()].rstrip(b"\xff"))
            first_coefficient, refined = content[-3:-2], content[-1:] > b"\x0f"
            # refined means are single bits, and other refined values change a picture hardly
            scans.append(Scan(position, end, LAST if not refined else 0 if first_coefficient == b"\0" else 4 * LAST))
            position = following.start()
    return Layout(scans, block, interval)


def restarts_in_order(data: bytes, layout: Layout, image: Image.Image) -> bool:
    """Whether a file of one scan has as many restart markers as its blocks need, in their order.

    `image` is decoded from it, and states the size.
    """
    if not layout.interval:
        return True
    width, height = JpegImagePlugin.JpegImageFile(io.BytesIO(data)).size
    blocks = -(-width // layout.block[0]) * -(-height // layout.block[1])
    numbers = [match[1][0] & 7 for match in _RESTART.finditer(data, layout.scans[0].start, layout.scans[0].end)]
    return numbers == [number % 8 for number in range((blocks - 1) // layout.interval)]


def _segment_ends(data: bytes, layout: Layout) -> Iterator[int]:
    """Where the data of each scan end, or with restart markers those of each of their segments."""
    for scan in layout.scans:
        yield from (match.start() for match in _RESTART.finditer(data, scan.start, scan.end))
        yield scan.end
