"""What TIFF and PNG files state on their values, where the mode in which Pillow opens them does not tell it.

Pillow keeps the high byte of 16-bit colours, does not invert 16-bit grey whose white is zero, takes signed bytes for
unsigned ones, and reads a colour map of 8-bit entries as black. Files whose values cannot be read exactly are refused.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image, TiffImagePlugin

from casewise.errors import counted
from casewise.modalities.store.pixels import UnknownRangeError, depth_of, eight_bits, plain

SUBFILE, DESCRIPTION, SAMPLES, REDUCED = 254, 270, 277, 1
BITS, PHOTOMETRIC, PLANES, MAXIMUM, COLOUR_MAP, EXTRA, SAMPLE_FORMAT = 258, 262, 284, 281, 320, 338, 339
WHITE_IS_ZERO, RGB = 0, 2
SIGNED, UNSIGNED_FORMATS = 2, (1, 4)
DEEP = 16
# In the `info` of a read image: the bits that its values were taken to have, where the file does not state them.
ASSUMED_BITS = "assumed bits"
_KINDS = {
    0: "WhiteIsZero", 1: "BlackIsZero", 2: "RGB", 3: "palette", 4: "transparency mask", 5: "CMYK", 6: "YCbCr",
    8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "colour filter array of a camera", 34892: "linear raw",
}  # fmt: skip
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "unsigned", 5: "complex", 6: "complex"}
# ImageJ appends the further images of a stack without a directory of tags.
_IMAGEJ = re.compile(r"^ImageJ=.*^images=(\d+)", re.DOTALL | re.MULTILINE)
_AS_BITS = re.compile(r" as (\d+) bits$")
# High bytes of colours that 12 bits hold: the low bytes decide whether such a picture is dark.
HIGH_OF_12_BITS = 15


@dataclass(frozen=True)
class StatedValues:
    """Facts of a file.

    Attributes:
        depth: bits of a sample, as stored.
        bits: bits of the values, where the file states fewer than it stores; else None.
        white_is_zero: grey of 16 bits that must be inverted.
        deep_colour: 16 bits a channel; Pillow keeps the high byte only.
        without_alpha: the fourth channel is not stated to be transparency.
        signed: bytes from 128 on are negative.
    """

    depth: int = 8
    bits: int | None = None
    white_is_zero: bool = False
    deep_colour: bool = False
    without_alpha: bool = False
    signed: bool = False

    def values(self, image: Image.Image, stream: IO[bytes]) -> np.ndarray:
        """The values of a decoded image as stored, (H, W) or (H, W, C); a palette's indices; 0 is black.

        Raises:
            UnknownRangeError: they cannot be read exactly.
        """
        if self.deep_colour:
            return _deep_colours(image, stream)
        values = np.asarray(image)
        self._check_sign(values)
        if self.white_is_zero:
            return np.asarray(2**self.depth - 1 - values.astype(np.int64)).astype(np.uint16)
        if self.depth < 8 and image.mode == "L":
            return np.asarray(values // np.uint8(255 // (2**self.depth - 1)))
        return values

    def picture(self, image: Image.Image, stream: IO[bytes]) -> Image.Image:
        """The decoded image as L, RGB, CMYK or LAB, with 8 bits a channel, without palette and alpha.

        Raises:
            UnknownRangeError: the range of the values is unknown.
        """
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if self.white_is_zero:
                bits = self._bits(values, image) or depth_of(int(values.max()))
                values = 2**bits - 1 - values.astype(np.int64)
                return Image.fromarray(eight_bits(values, bits))
            grey = self._scaled(values, image)
            if (clear := image.info.get("transparency")) is not None:
                grey[values == clear] = 0
            return Image.fromarray(grey)
        if self.without_alpha and image.mode in {"RGBA", "RGBX", "RGBa"}:
            return Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., :3]))
        if self.deep_colour and not (is_dark := _is_dark(image)):
            image.info |= {} if self.bits else {ASSUMED_BITS: DEEP}
        if self.deep_colour and (self.bits or is_dark):
            values = _deep_colours(image, stream)
            colours = 3 if values.shape[2] >= 3 else 1
            bright = self._scaled(values[..., :colours], image)
            if values.shape[2] > colours and not self.without_alpha:
                opacity = values[..., colours : colours + 1]
                # opacity may have as few bits as the colours
                white = 2**12 - 1 if int(opacity.max()) == 2**12 - 1 else 2**DEEP - 1
                bright = np.rint(bright * (opacity / np.float32(white))).astype(np.uint8)
            if (clear := image.info.get("transparency")) is not None:
                bright[(values[..., :colours] == np.asarray(clear)).all(axis=2)] = 0
            return Image.fromarray(bright[..., 0] if colours == 1 else bright)
        if self.signed:
            self._check_sign(np.asarray(image))
        return plain(image)

    def _bits(self, values: np.ndarray, image: Image.Image) -> int | None:
        """The stated bits; else None, and the bits that the largest value needs are noted in the image's `info`."""
        if self.bits is None and int(values.max()) < 2**DEEP:
            image.info[ASSUMED_BITS] = depth_of(int(values.max()))
        return self.bits

    def _scaled(self, values: np.ndarray, image: Image.Image) -> np.ndarray:
        # values of `bits` that were shifted to 16, as the PNG standard asks, have low bits of zero
        shifted = self.depth == DEEP and self.bits is not None and not (values & (2 ** (DEEP - self.bits) - 1)).any()
        return eight_bits(values, None if shifted else self._bits(values, image))

    def _check_sign(self, values: np.ndarray) -> None:
        if self.signed and int(values.max()) > 127:
            raise UnknownRangeError("its bytes are signed and some are negative, so black and white are unknown")


def mixed_depths(modes: Sequence[str], classes: Sequence[str]) -> str:
    """A sentence on images of 16 bits whose values were taken to have different numbers of bits; else empty.

    Args:
        modes: of the read images, as `Source.facts` states them.
        classes: of the same images, empty where there is none.

    >>> mixed_depths(["L", "I;16 as 12 bits", "I;16 as 12 bits"], ["", "", ""])
    ''
    >>> mixed_depths(["I;16 as 8 bits", "I;16 as 16 bits"], ["ill", "well"]).split(": ", 1)[0]
    'images of 16 bits do not state the largest value, and were read by what occurs'
    """
    depths: dict[int, Counter[str]] = {}
    for mode, label in zip(modes, classes, strict=True):
        if match := _AS_BITS.search(mode):
            depths.setdefault(int(match[1]), Counter())[label] += 1
    if len(depths) < 2:
        return ""
    texts = []
    for bits, counts in sorted(depths.items()):
        labels = ", ".join(f"{label} {count:,}" for label, count in sorted(counts.items()) if label)
        texts.append(f"{counted(counts.total(), 'image')} as {bits} bits{f' ({labels})' if labels else ''}")
    return (
        f"images of 16 bits do not state the largest value, and were read by what occurs: {', '.join(texts)}. "
        "Grey values of different bits cannot be compared. Save all with 8 bits on one scale, or state the bits (sBIT "
        "of PNG, MaxSampleValue of TIFF)"
    )


def open_tiff(stream: IO[bytes]) -> Image.Image:
    """Open a TIFF, not decoded.

    Raises:
        UnknownRangeError: names the kind of pixels that its tags state, if it is not read.
    """
    try:
        return TiffImagePlugin.TiffImageFile(stream)
    except SyntaxError as error:
        if "unknown pixel mode" not in str(error):
            raise
        stream.seek(0)
        head = stream.read(8)
        tags: Any = TiffImagePlugin.ImageFileDirectory_v2(head + stream.read(8) if 43 in head[2:4] else head)
        stream.seek(tags.next)
        tags.load(stream)
        bits = "/".join(map(str, dict.fromkeys(tags.get(BITS, (1,)))))
        kinds = " or ".join(dict.fromkeys(_FORMATS.get(number, "unknown") for number in tags.get(SAMPLE_FORMAT, (1,))))
        kind = _KINDS.get(tags.get(PHOTOMETRIC), f"PhotometricInterpretation {tags.get(PHOTOMETRIC)}")
        order = "big" if head[:2] == b"MM" else "little"
        channels = f"{number} channel{'s' * (number > 1)}" if (number := tags.get(SAMPLES, 1)) else "no channels"
        raise UnknownRangeError(
            f"its pixels are {kind}, {channels} of {bits} bits, {kinds}, {order}-endian, which is not read"
        ) from error


def images_in(image: Image.Image) -> int:
    """How many images an open file holds, also those that only the description of a TIFF by ImageJ states.

    Raises:
        UnknownRangeError: the first one is a preview of another.
    """
    frames = int(getattr(image, "n_frames", 1))
    if image.format != "TIFF":
        return frames
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    if frames == 1 and tags.get(SUBFILE, 0) & REDUCED:
        raise UnknownRangeError("its first image is a reduced preview of another one, as in raw files of cameras")
    stack = _IMAGEJ.search(str(tags.get(DESCRIPTION, "")))
    return max(frames, int(stack[1])) if stack else frames


def stated_values(image: Image.Image, stream: IO[bytes]) -> StatedValues:
    """What a file that Pillow has opened states; ordinary facts for formats other than TIFF and PNG.

    Raises:
        UnknownRangeError: its values cannot be read exactly.
    """
    if image.format == "TIFF":
        return _of_tiff(image)
    return _of_png(image, stream) if image.format == "PNG" else StatedValues()


def _of_tiff(image: Any) -> StatedValues:
    tags = image.tag_v2
    depths, formats = set(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
    channels, kind = len(tags.get(BITS, (1,))), tags.get(PHOTOMETRIC)
    if kind is None:
        raise UnknownRangeError("it does not state its PhotometricInterpretation, so black and white are unknown")
    if len(depths) > 1:
        raise UnknownRangeError(f"its channels have different depths ({', '.join(map(str, sorted(depths)))} bits)")
    depth = depths.pop()
    if SIGNED in formats and depth != 8 and (depth < 8 or channels > 1):
        raise UnknownRangeError(f"its values are signed numbers of {depth} bits, so black and white are unknown")
    if formats - {*UNSIGNED_FORMATS, SIGNED} and image.mode != "F":
        raise UnknownRangeError("its values are floating-point or complex numbers, so black and white are unknown")
    if depth > 8 and channels > 1 and tags.get(PLANES, 1) == 2:
        raise UnknownRangeError(f"its {depth}-bit channels are stored one after another, which is not supported")
    if depth > DEEP and kind == WHITE_IS_ZERO:
        raise UnknownRangeError(f"its white is zero in {depth} bits, so the value of black is unknown")
    if image.mode in {"P", "PA"} and COLOUR_MAP in tags and max(tags[COLOUR_MAP]) < 256:
        # entries of 8 bits in a map of 16-bit numbers
        image.putpalette(np.reshape(tags[COLOUR_MAP], (3, -1)).T.astype(np.uint8).tobytes())
    return StatedValues(
        depth,
        depth if 8 < depth < DEEP else _bits_of_maximum(tags.get(MAXIMUM), depth),
        white_is_zero=kind == WHITE_IS_ZERO and 8 < depth <= DEEP,
        deep_colour=depth == DEEP and channels > 1 and image.mode in {"RGB", "RGBA", "RGBX", "LA"},
        signed=SIGNED in formats and depth == 8,
        without_alpha=kind == RGB and channels == 4 and not any(tags.get(EXTRA, (0,))),
    )


def _bits_of_maximum(maximum: Any, depth: int) -> int | None:
    """The bits of a stated maximum of 2ⁿ − 1; other maxima are the largest value of one picture, not a scale."""
    values = set(maximum) if isinstance(maximum, tuple) else {maximum}
    bits = next((bits for bits in range(9, DEEP) if values == {2**bits - 1}), None)
    return bits if depth == DEEP else None


def _of_png(image: Image.Image, stream: IO[bytes]) -> StatedValues:
    stream.seek(24)
    depth = stream.read(1)[0]
    if depth != DEEP:
        return StatedValues(depth)
    bits = max((max(data) for kind, data in _chunks(stream) if kind == b"sBIT" and data), default=DEEP)
    return StatedValues(depth, bits if 8 < bits < DEEP else None, deep_colour=not image.mode.startswith("I"))


def _chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and contents of the chunks of a PNG before its pixels."""
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
        yield head[4:], stream.read(struct.unpack(">I", head[:4])[0])
        stream.seek(4, 1)


def _is_dark(image: Image.Image) -> bool:
    colours = np.asarray(image)
    colours = colours[..., :1] if image.mode == "LA" else colours[..., :3]
    return int(colours.max()) <= HIGH_OF_12_BITS


def _deep_colours(image: Image.Image, stream: IO[bytes]) -> np.ndarray:
    """Colours of 16 bits a channel as `uint16`, (H, W, 2) grey with alpha or (H, W, 3 or 4) in the order of RGBA.

    Raises:
        UnknownRangeError: a second decoder does not give the same high bytes as Pillow.
    """
    import cv2

    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    position = stream.tell()
    try:
        stream.seek(0)
        values = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    finally:
        stream.seek(position)
        cv2.utils.logging.setLogLevel(level)
    high = np.asarray(image)
    if values is not None and values.dtype == np.uint16 and values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
        if image.mode == "LA" and values.shape[2] == 4:
            values = values[..., [0, 3]]
        compared = 1 if image.mode == "LA" else 3
        if values.shape[:2] == high.shape[:2] and (values[..., :compared] // 256 == high[..., :compared]).all():
            return np.ascontiguousarray(values)
    raise UnknownRangeError("it has 16 bits a channel, and only the high byte can be read")
