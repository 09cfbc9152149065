"""Image files: the registry of formats, recognised by content, and the errors of files that cannot be read.

A format is one `Reader`. To add one, write a function that opens a stream as a Pillow image without decoding it, and
add its `Reader` to `readers()`. Only the first image of a JPEG is read, because phones append gain maps and
previews. In the other formats a file with several pages or frames is refused, because a row is one image.
`film` states how films in DICOM files become 8-bit images.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from casewise.errors import ImageError
from casewise.modalities.store.dicom_file import PixelError, is_dicom
from casewise.modalities.store.file_check import name_content, size_of
from casewise.modalities.store.film import Film
from casewise.modalities.store.pixels import (
    LANCZOS,
    UnknownRangeError,
    as_array,
    fewest_bytes,
    fit,
    in_srgb,
    reduced,
    upright,
    upright_array,
)
from casewise.modalities.store.preparation import Channels, Preparation
from casewise.modalities.store.stated_values import ASSUMED_BITS, StatedValues, images_in, open_tiff, stated_values

PIXEL_LIMIT = 300_000_000
# A file this large cannot be one uncompressed image within the limit, even of four 16-bit channels.
BYTE_LIMIT = PIXEL_LIMIT * 8
HEAD = 512
ORIENTATION = 0x0112
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Decoding at 1/2, 1/4 or 1/8 keeps at least twice the requested size, so that the Lanczos filter has enough pixels.
SPARE = 2

# Pillow would warn from 89 and refuse from 179 million pixels; the error of casewise's own limit names a remedy.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, PIXEL_LIMIT)

# The exceptions of Pillow's decoders on damaged bytes, determined by damaging files of every format at random.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, MemoryError, RuntimeError),
    *(struct.error, zlib.error),
)


@dataclass(frozen=True)
class Reader:
    """One image format: its first bytes, and the function that opens it without decoding.

    Attributes:
        name: what messages call it.
        matches: whether the first 512 bytes of a file, or all of a shorter one, have this format.
        open: a stream of bytes as a Pillow image, which is not decoded yet. What it raises for damaged bytes becomes an
            `ImageError`, if it is one of the exceptions of Pillow's decoders.
        turned: the library applies the orientation itself.
        scales: `Image.draft` decodes at 1/2, 1/4 or 1/8.
        extra: the optional part of casewise whose packages `open` imports.
    """

    name: str
    matches: Callable[[bytes], bool]
    open: Callable[[IO[bytes]], Image.Image]
    turned: bool = False
    scales: bool = False
    extra: str = ""


@cache
def readers() -> tuple[Reader, ...]:
    """Every format that can be read, in the order in which they are tried; some libraries apply the orientation."""
    jpeg, png = JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile
    webp = WebPImagePlugin.WebPImageFile
    return (
        Reader("JPEG", _starts(b"\xff\xd8\xff"), jpeg, scales=True),
        Reader("PNG", _starts(b"\x89PNG\r\n\x1a\n"), png),
        Reader("TIFF", _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), open_tiff, turned=True),
        Reader("WebP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", webp),
        Reader("HEIC", _is_heif, _open_heic, turned=True, extra="heic"),
        Reader("DICOM", is_dicom, Film, extra="dicom"),
    )


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def _open_heic(stream: IO[bytes]) -> Image.Image:
    """Open a HEIC or HEIF stream, the format of many phones, with the optional package `pillow-heif`."""
    from pillow_heif import HeifImageFile

    image: Image.Image = HeifImageFile(stream)  # type: ignore[no-untyped-call]
    return image


@contextmanager
def _damage_named(path: Path, kind: str) -> Iterator[None]:
    """Raise the errors of a decoder as an `ImageError` that names the file."""
    try:
        yield
    except PixelError as error:
        raise ImageError(f"{path}: {error}") from error
    except UnknownRangeError as error:
        raise ImageError(f"{path}: {error}. Save it with 8 or 16 bits a channel.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: it claims more pixels than the {PIXEL_LIMIT:,} that are read ({error}).") from error
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        if "truncated" in reason.lower() or isinstance(error, EOFError):
            raise ImageError(f"{path}: the {kind} is cut short ({reason}). Copy it again from its source.") from error
        if isinstance(error, MemoryError):
            raise ImageError(f"{path}: there is not enough memory to decode this {kind}.") from error
        remedy = "Copy it again from its source, or save it as PNG."
        raise ImageError(f"{path}: the {kind} is damaged or of a rare kind ({reason}). {remedy}") from error


@dataclass(eq=False)
class Source:
    """An image file that is open and checked, but not decoded. It can be decoded once."""

    path: Path
    reader: Reader
    image: Image.Image
    n_bytes: int
    orientation: int
    width: int
    height: int
    mode: str
    stream: IO[bytes] = field(default_factory=io.BytesIO)

    def facts(self) -> dict[str, Any]:
        """Upright width and height, the stored mode and the format; after reading also the bits that were assumed."""
        turned = not self.reader.turned and self.orientation >= 5
        width, height = (self.height, self.width) if turned else (self.width, self.height)
        bits = self.image.info.get(ASSUMED_BITS)
        mode = f"{self.mode} as {bits} bits" if bits else self.mode
        return {"width": width, "height": height, "mode": mode, "format": self.reader.name}

    def scale(self, target: tuple[int, int]) -> int:
        """The factor (1, 2, 4, 8) by which the decoder may reduce the image and still reach `SPARE` times `target`."""
        if not self.reader.scales:
            return 1
        least = [SPARE * side for side in target]
        return next(s for s in (8, 4, 2, 1) if s == 1 or (self.width // s >= least[0] and self.height // s >= least[1]))

    def memory(self, target: tuple[int, int]) -> int:
        """The approximate number of bytes in memory while decoding to `target`, including the file."""
        pixels = self.width * self.height
        coefficients = 6 * pixels if self.image.info.get("progressive") else 0
        copies = self.n_bytes + 3 * pixels // 64 if self.reader.scales else 0
        return self.n_bytes + copies + coefficients + 10 * pixels // self.scale(target) ** 2

    def target(self, size: int | None) -> tuple[int, int]:
        """The `target` of `read`: width and height before turning, the longest side at most `size`."""
        if size is None or max(self.width, self.height) <= size:
            return self.width, self.height
        return reduced(self.width, self.height, size)

    def target_for(self, preparation: Preparation) -> tuple[int, int]:
        """The `target` of `read` for a tile, never larger than the image unless stretched."""
        size = preparation.size
        return (size, size) if preparation.fit == "stretch" else self.target(size)

    def read(self, target: tuple[int, int], channels: Channels) -> np.ndarray:
        """Decode to `target`, the width and height before turning; (H, W, C) `uint8`, upright.

        Raises:
            ImageError: the pixels are cut short, damaged, or of an unknown range.
        """
        with _damage_named(self.path, self.reader.name):
            scale = self.scale(target)
            # The scaled image is rounded up to whole pixels; the box is the area that the photograph covers.
            box = (0.0, 0.0, self.width / scale, self.height / scale) if scale > 1 else None
            image = self._decoded(scale)
            if self.orientation == 1 and (late := self.image.info.get("exif")):
                # A PNG may state its orientation after its pixels.
                exif = Image.Exif()
                exif.load(late)
                self.orientation = _orientation(exif)
            image = self._stated().picture(image, self.stream)
            if target != (self.width, self.height):
                image = image.resize(target, LANCZOS, box=box)
            image = in_srgb(image, self.image.info.get("icc_profile"))
            return as_array(image if self.reader.turned else upright(image, self.orientation), channels)

    def stored(self) -> np.ndarray:
        """The values as they are stored, (H, W) or (H, W, C), upright; 0 is black; indices of a palette.

        Raises:
            ImageError: the pixels are cut short or damaged, or no integers.
        """
        with _damage_named(self.path, self.reader.name):
            image = self._decoded(1)
            if image.mode == "F":
                raise UnknownRangeError(
                    "it contains floating-point values, so the values of black and white are unknown"
                )
            values = self._stated().values(image, self.stream)
            return values if self.reader.turned else upright_array(values, self.orientation)

    def _stated(self) -> StatedValues:
        return stated_values(self.image, self.stream)

    def _decoded(self, scale: int) -> Image.Image:
        """The pixels: of a JPEG whose data are complete decoded once, else by Pillow.

        Raises:
            ImageError: data of a JPEG are lost.
        """
        lost = False
        if self.reader.scales:
            self.stream.seek(0)
            intact, lost = decode_jpeg(self.stream.read(), self.mode, (self.width, self.height), scale)
            if intact:
                return intact
        if scale > 1:
            self.image.draft(None, (self.width // scale, self.height // scale))
        self.image.load()
        if lost:
            raise ImageError(
                f"{self.path}: the {self.reader.name} has lost data: its {self.width:,} x {self.height:,} pixels "
                "cannot all be decoded. It is damaged: copy it again from its source."
            )
        return self.image

    def tile(self, preparation: Preparation) -> np.ndarray:
        """Decode to one tile, (C, H, W) `uint8`."""
        tile = fit(self.read(self.target_for(preparation), preparation.channels), preparation)
        return np.ascontiguousarray(tile.transpose(2, 0, 1))


def read_bytes(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        ImageError: it is missing, empty, a folder, unreadable, or too large to be one image.
    """
    size = size_of(path, "Name an image file.")
    if size > BYTE_LIMIT:
        raise ImageError(f"{path}: the file has {size / 1e9:.1f} GB, more than one image of {PIXEL_LIMIT:,} pixels.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error


def open_source(path: Path, data: bytes) -> Source:
    """Open the image in `data`, the content of `path`, with the reader that its first bytes match; nothing is decoded.

    Raises:
        ImageError: it is not an image, has a format without a reader, is damaged or too large, or holds several images.
    """
    return _opened(path, io.BytesIO(data), data[:HEAD], len(data))


def _opened(path: Path, stream: IO[bytes], head: bytes, n_bytes: int) -> Source:
    """Open the image in a stream whose first bytes are `head`."""
    reader = next((reader for reader in readers() if reader.matches(head)), None)
    if reader is None:
        names = ", ".join(reader.name for reader in readers())
        raise ImageError(f"{path}: this is {name_content(head)}, not an image that can be read ({names}).")
    with _damage_named(path, reader.name):
        try:
            image = reader.open(stream)
        except ImportError as error:
            remedy = f"pip install 'casewise[{reader.extra}]', or save it as JPEG"
            raise ImageError(f"{path}: {reader.name} needs an optional part of casewise: {remedy}.") from error
        width, height = image.size
        if width * height > PIXEL_LIMIT:
            raise ImageError(
                f"{path}: it claims {width:,} x {height:,} = {width * height:,} pixels; at most {PIXEL_LIMIT:,} are "
                "read. It is damaged or made to exhaust the memory; if it is genuine, save it smaller."
            )
        if reader.scales and n_bytes and n_bytes < fewest_bytes(width, height):
            raise ImageError(
                f"{path}: it claims {width:,} x {height:,} pixels, which {n_bytes:,} bytes of {reader.name} cannot "
                "hold. It is damaged, or made to exhaust the memory; copy it again from its source."
            )
        if (frames := images_in(image)) > 1:
            remedy = "Save the image to use in a separate file."
            raise ImageError(f"{path}: this {reader.name} holds {frames} images. {remedy}")
        # The base class's method, because PNG's decodes the image to find an orientation after the pixels.
        orientation = _orientation(Image.Image.getexif(image))
    return Source(path, reader, image, n_bytes, orientation, width, height, image.mode, stream)


def _orientation(exif: Image.Exif) -> int:
    """The EXIF orientation, 1 if it is missing or invalid."""
    value = exif.get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_image(path: Path, *, size: int | None = None, channels: Channels = "rgb") -> np.ndarray:
    """Read an image upright as (H, W, C) `uint8` sRGB (C = 3) or grey (C = 1); `pixels` states the rules.

    With `size` the longest side is reduced to `size` pixels, never enlarged; a JPEG is then decoded at a reduced
    scale.

    Raises:
        ImageError: the file is not a readable image; the message names the file, the defect and a remedy.
    """
    source = open_source(Path(path), read_bytes(Path(path)))
    return source.read(source.target(size), channels)


def image_facts(path: Path) -> dict[str, Any]:
    """Return `width` and `height` (upright), `mode` and `format` without decoding.

    Raises:
        ImageError: the file is not a readable image.
    """
    return open_source(Path(path), read_bytes(Path(path))).facts()


def image_shape(path: Path) -> tuple[int, int] | None:
    """Upright width and height from the head of a file; None if it cannot be read, which the preparation reports."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            file.seek(0)
            facts = _opened(path, file, head, 0).facts()
    except (ImageError, OSError):
        return None
    return facts["width"], facts["height"]


# Memory of all decoders together, in bytes; an image that needs more is decoded by itself.
MEMORY = 640 * 2**20


class Budget:
    """Keeps the memory of simultaneous decoding below a total, in bytes."""

    def __init__(self, total: int) -> None:
        """Begin with all memory free."""
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait until `amount` bytes are free; a larger amount waits until all memory is free."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


# Pillow's modes of JPEG files, as simplejpeg names their colours.
_COLOURS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_SURPLUS = re.compile(r"(\d+) extraneous bytes")
# Some cameras write a few bytes after the last pixels.
HARMLESS = 32
# What libjpeg says of data that are missing, surplus or impossible; other errors are for the decoder that is used.
_LOST = ("corrupt jpeg data", "premature end")


def decode_jpeg(data: bytes, mode: str, size: tuple[int, int], scale: int) -> tuple[Image.Image | None, bool]:
    """The pixels of a JPEG file as Pillow decodes them, None where Pillow must; and whether data of it are lost.

    Args:
        mode: of Pillow; size: width and height of the file.
        scale: 1, 2, 4 or 8, by which both sides are divided and rounded up.
    """
    width, height = (-(-side // scale) for side in size)
    colours = _COLOURS.get(mode, "RGB")
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width, min_factor=float(scale))
    except ValueError as error:  # a warning of libjpeg, which may be harmless, or a kind that simplejpeg cannot read
        surplus = _SURPLUS.search(str(error))
        is_harmless = surplus is not None and int(surplus[1]) <= HARMLESS
        return None, not is_harmless and any(text in str(error).lower() for text in _LOST)
    array = np.asarray(pixels[..., 0] if mode == "L" else pixels)
    is_whole = mode in ("RGB", "L") and array.shape[:2] == (height, width)
    return (Image.fromarray(array) if is_whole else None), False
