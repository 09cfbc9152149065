"""Files that hold other images than the one that Pillow opens."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.errors import ImageError
from casewise.modalities.store.readers import image_facts, read_image

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def tiff(path: Path, values: np.ndarray, bits: int, photometric: int | None, **texts: Any) -> Path:
    """An uncompressed little-endian TIFF in one strip; `photometric` None leaves the tag out."""
    height, width = values.shape[:2]
    channels, data = values[0, 0].size, values.tobytes()
    tags: list[tuple[int, int, int]] = [(254, 4, texts.get("subfile", 0)), (256, 4, width), (257, 4, height)]
    tags += [(258, 3, bits), (259, 3, 1)] + ([] if photometric is None else [(262, 3, photometric)])
    description = texts.get("description", "").encode() + b"\0"
    start = 10 + 12 * (len(tags) + 5 + bool(texts.get("description"))) + 4
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags]
    if texts.get("description"):
        entries.append(struct.pack("<HHII", 270, 2, len(description), start))
    offset = start + len(description)
    for tag, value in ((273, offset), (277, channels), (278, height), (279, len(data)), (339, texts.get("kind", 1))):
        entries.append(struct.pack("<HHII", tag, 4 if tag in (273, 278, 279) else 3, 1, value))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(head + description + data + texts.get("rest", b""))
    return path


@pytest.mark.parametrize(
    ("bits", "photometric", "texts", "problem"),
    [
        (8, 1, {"description": "ImageJ=1.53t\nimages=3\nslices=3\n", "rest": bytes(96)}, "holds 3 images"),
        (8, 1, {"subfile": 1}, "preview"),
        (8, None, {}, "PhotometricInterpretation"),
        (8, 0, {"kind": 2}, "WhiteIsZero.*signed"),
        (8, 32803, {}, "colour filter array"),
    ],
    ids=["imagej stack", "preview", "no photometric", "signed negative", "camera"],
)
def test_other_images_than_stated_are_refused_by_name(
    tmp_path: Path, bits: int, photometric: int | None, texts: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ImageError, match=problem):
        read_image(tiff(tmp_path / "a.tif", GREY, bits, photometric, **texts))


def test_the_file_of_the_test_is_read(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", GREY, 8, 1)
    assert np.array_equal(read_image(path, channels="grey")[..., 0], GREY)
    assert image_facts(path)["width"] == 8


def deep_png(path: Path, kind: int, values: np.ndarray, clear: bytes = b"") -> Path:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    head += chunk(b"tRNS", clear) if clear else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_opacity_of_twelve_bits_and_a_transparent_colour(tmp_path: Path) -> None:
    values = (GREY.astype(np.uint32) * 4095 // GREY.max()).astype(np.uint16)
    expected = np.rint(values * (255 / 4095))
    opaque = np.dstack([values, np.full_like(values, 4095)])
    for path in (
        deep_png(tmp_path / "la.png", 4, opaque),
        deep_png(tmp_path / "rgba.png", 6, opaque[..., [0, 0, 0, 1]]),
    ):
        assert np.abs(read_image(path, channels="grey")[..., 0] - expected).max() <= 1
    clear = deep_png(tmp_path / "clear.png", 2, values[..., None].repeat(3, 2), struct.pack(">HHH", *[4095] * 3))
    assert np.abs(read_image(clear)[..., 0] - np.where(values == 4095, 0, expected)).max() <= 1
