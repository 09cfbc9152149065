"""HEIC and HEIF, the format of many phones, where the optional `pillow-heif` is installed."""

from __future__ import annotations

from typing import IO

from PIL import Image

from casewise.modalities.photographs.readers import Reader

BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def matches(head: bytes) -> bool:
    """Whether these first bytes begin a HEIF container."""
    return head[4:8] == b"ftyp" and head[8:12] in BRANDS


def open_heic(stream: IO[bytes]) -> Image.Image:
    """Open a HEIC stream; the library turns the pixels upright itself."""
    from pillow_heif import HeifImageFile

    image: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call]
    return image


HEIC = Reader("HEIC", matches, open_heic, turned=True, extra="heic")
