"""TIFF and PNG files are read by what they state, not by the mode in which a library opens them."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.errors import ImageError
from casewise.modalities.store.readers import open_source, read_image

RAMP = np.tile(np.linspace(0, 255, 16).round().astype(int), (4, 1))  # 0, 17, …, 255 in four rows
DEEP = RAMP * 257
TWELVE = RAMP * 4095 // 255
FOURTEEN = RAMP * 16383 // 255


def tiff(path: Path, values: np.ndarray, *, photometric: int = 1, planes: bool = False, **tags: Sequence[int]) -> Path:
    """Write `values` (H, W) or (H, W, C) uncompressed, little-endian; `tags`: SHORT values by `t` and their number."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    stored = values.transpose(2, 0, 1) if planes else values
    pixels = np.ascontiguousarray(stored).tobytes()
    entries: dict[int, Sequence[int]] = {
        256: [values.shape[1]], 257: [values.shape[0]], 258: [values.dtype.itemsize * 8] * channels, 259: [1],
        262: [photometric], 277: [channels], 278: [values.shape[0]], 284: [2 if planes else 1],
    }  # fmt: skip
    entries |= {int(name[1:]): value for name, value in tags.items()}
    plane = len(pixels) // channels
    counts = [plane] * channels if planes else [len(pixels)]
    size = 8 + 2 + 12 * (len(entries) + 2) + 4
    extra, table = b"", []
    start = size + sum(2 * len(v) for v in entries.values() if len(v) > 2) + (8 * len(counts) if planes else 0)
    offsets = [start + i * plane for i in range(len(counts))]
    rows: list[tuple[int, str, Sequence[int]]] = [(tag, "H", value) for tag, value in entries.items()]
    rows += [(273, "I", offsets), (279, "I", counts)]
    for tag, kind, value in sorted(rows):
        data = struct.pack(f"<{len(value)}{kind}", *value)
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", size + len(extra))
        extra += data if len(data) > 4 else b""
        table.append(struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(value)) + field)
    head = b"II*\0" + struct.pack("<IH", 8, len(table)) + b"".join(table) + struct.pack("<I", 0)
    assert len(head + extra) == start
    path.write_bytes(head + extra + pixels)
    return path


def png(path: Path, values: np.ndarray, colour_type: int, *chunks: tuple[bytes, bytes]) -> Path:
    """Write `values` (H, W) or (H, W, C) with 16 bits a channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def coloured(ramp: np.ndarray) -> np.ndarray:
    return np.stack([ramp, ramp[:, ::-1], ramp], axis=-1)


def with_alpha(values: np.ndarray) -> np.ndarray:
    values = values[..., None] if values.ndim == 2 else values
    return np.concatenate([values, np.full((*values.shape[:2], 1), 65535)], axis=-1)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (65535 - DEEP, {"photometric": 0}),
        (4095 - TWELVE, {"photometric": 0}),
        (FOURTEEN, {"t281": [16383]}),
        (DEEP, {"t281": [16383]}),  # a maximum that is not kept is not believed
        (TWELVE, {}),
        (coloured(DEEP), {"photometric": 2}),
        (coloured(TWELVE), {"photometric": 2}),
        (with_alpha(coloured(TWELVE)), {"photometric": 2, "t338": [2]}),
    ],
)
def test_sixteen_bit_tiffs(tmp_path: Path, values: np.ndarray, options: dict[str, Any]) -> None:
    path = tiff(tmp_path / "a.tif", values.astype("<u2"), **options)
    expected = RAMP[..., None] if values.ndim == 2 else coloured(RAMP)
    assert np.abs(read_image(path, channels="rgb").astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "colour_type", "chunks"),
    [
        (FOURTEEN, 0, [(b"sBIT", b"\x0e")]),
        (DEEP, 0, [(b"sBIT", b"\x0e")]),
        (with_alpha(TWELVE), 4, []),
        (coloured(TWELVE), 2, []),
        (coloured(DEEP), 2, []),
        (with_alpha(coloured(TWELVE)), 6, [(b"sBIT", b"\x0c" * 4)]),
        (with_alpha(coloured(FOURTEEN)), 6, [(b"sBIT", b"\x0e" * 4)]),
    ],
)
def test_sixteen_bit_pngs(
    tmp_path: Path, values: np.ndarray, colour_type: int, chunks: list[tuple[bytes, bytes]]
) -> None:
    path = png(tmp_path / "a.png", values, colour_type, *chunks)
    expected = RAMP[..., None] if colour_type in (0, 4) else coloured(RAMP)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1


def test_a_dark_picture_that_fills_its_depth_stays_dark(tmp_path: Path) -> None:
    shifted = png(tmp_path / "a.png", (FOURTEEN >> 2) << 2, 0, (b"sBIT", b"\x0e"))
    assert read_image(shifted).max() == 64


def test_a_transparent_grey_of_16_bits_is_black(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", DEEP, 0, (b"tRNS", struct.pack(">H", 65535)))
    assert np.array_equal(read_image(path, channels="grey")[..., 0], np.where(RAMP == 255, 0, RAMP))


def test_a_colour_map_of_bytes_is_not_black(tmp_path: Path) -> None:
    levels = list(range(256))
    colours = [*levels, *levels[::-1], *levels]
    path = tiff(tmp_path / "a.tif", RAMP.astype("u1"), photometric=3, t320=colours)
    assert np.array_equal(read_image(path)[..., 1], 255 - RAMP)
    assert np.array_equal(open_source(path, path.read_bytes()).stored(), RAMP)


def test_a_fourth_channel_without_a_meaning_is_no_transparency(tmp_path: Path) -> None:
    values = np.concatenate([coloured(RAMP), np.zeros((4, 16, 1), int)], axis=-1).astype("u1")
    assert np.array_equal(read_image(tiff(tmp_path / "a.tif", values, photometric=2)), coloured(RAMP))


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ((RAMP - 128).astype("i1"), {"t339": [2]}),
        (coloured(DEEP).astype("<u2"), {"photometric": 2, "planes": True}),
        (coloured(TWELVE).astype("<u2"), {"photometric": 2, "t339": [2] * 3}),
        (TWELVE.astype("<f2"), {"t339": [3]}),
        (DEEP.astype("<u4"), {"photometric": 0}),
        (coloured(RAMP).astype("u1"), {"photometric": 2, "t258": [8, 8, 16]}),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(tmp_path: Path, values: np.ndarray, options: dict[str, Any]) -> None:
    path = tiff(tmp_path / "a.tif", values, **options)
    with pytest.raises(ImageError, match=r"a\.tif"):
        read_image(path)


def test_signed_bytes_without_negative_values_are_read(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", (RAMP // 2).astype("i1"), t339=[2])
    assert np.array_equal(read_image(path)[..., 0], RAMP // 2)


def test_stored_values_are_not_scaled(tmp_path: Path) -> None:
    grey = tiff(tmp_path / "a.tif", TWELVE.astype("<u2"))
    white = tiff(tmp_path / "b.tif", (65535 - TWELVE).astype("<u2"), photometric=0)
    colours = png(tmp_path / "c.png", coloured(TWELVE), 2)
    for path, expected in ((grey, TWELVE), (white, TWELVE), (colours, coloured(TWELVE))):
        assert np.array_equal(open_source(path, path.read_bytes()).stored(), expected)


@pytest.mark.parametrize(
    ("write", "mode"),
    [
        (lambda path: png(path, RAMP, 0), "I;16 as 8 bits"),
        (lambda path: png(path, TWELVE, 0), "I;16 as 12 bits"),
        (lambda path: png(path, DEEP, 0), "I;16 as 16 bits"),
        (lambda path: png(path, TWELVE * 16, 0, (b"sBIT", bytes([12]))), "I;16"),  # stated, and shifted
        (lambda path: png(path, FOURTEEN, 0, (b"sBIT", bytes([14]))), "I;16"),
        (lambda path: png(path, coloured(RAMP), 2), "RGB as 8 bits"),
        (lambda path: png(path, with_alpha(TWELVE), 4), "RGBA as 12 bits"),
        (lambda path: png(path, coloured(DEEP), 2), "RGB as 16 bits"),
        (lambda path: tiff(path, RAMP.astype(np.uint16)), "I;16 as 8 bits"),
        (lambda path: tiff(path, (65535 - DEEP).astype(np.uint16), photometric=0), "I;16 as 16 bits"),
        (lambda path: tiff(path, TWELVE.astype(np.uint16), t281=[4095]), "I;16"),
        (lambda path: tiff(path, RAMP.astype(np.uint8)), "L"),
    ],
)
def test_bits_that_a_file_does_not_state_are_noted(tmp_path: Path, write: Any, mode: str) -> None:
    write(tmp_path / "image")
    source = open_source(tmp_path / "image", (tmp_path / "image").read_bytes())
    source.read(source.target(None), "grey")
    assert source.facts()["mode"] == mode
