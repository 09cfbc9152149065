"""Conversion of decoded images to 8-bit grey or sRGB: depth, alpha, palette, colour profile, orientation, size.

`PIXEL_RULES` is the version of these rules:

- 16-bit grey is scaled so that the maximum of its depth becomes 255. The depth is what the file states (sBIT, a
  MaxSampleValue of 2ⁿ − 1, 9 to 15 bits a sample), else the smallest of 8, 12 and 16 bits that holds the image's
  largest value, because 12-bit radiographs are commonly stored in 16-bit files. 16-bit colour keeps its high byte,
  unless the file states fewer bits, or 12 bits hold all values: then it is scaled like grey. Grey whose white is zero
  is inverted.
- Signed bytes, channels of different depths, and 16-bit channels that are stored one after another are refused.
- 32-bit integers outside 0..65535 and floating point have no known range and are refused.
- Alpha, and a colour declared transparent, is composited on black. Palettes and 1-bit images are expanded.
- The colour profile of an RGB or CMYK file is applied, and the result is sRGB. Without a usable profile, values are
  assumed to be sRGB (CMYK: Pillow's conversion). The profile of a grey file is not applied.
- Colour is converted to grey as ITU-R BT.601 luma.
- Images are resized with a Lanczos filter, with antialiasing when they are reduced.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageCms

from casewise.modalities.store.preparation import Channels, Fit, Padding, Preparation

DEPTHS = (8, 12, 16)
# The grey of masked boxes.
MASKED = 128
LANCZOS = Image.Resampling.LANCZOS

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnknownRangeError(ValueError):
    """The range of the image's values is unknown, so black and white are undefined."""


def depth_of(largest: int) -> int:
    """The smallest of 8, 12 and 16 bits that holds a value.

    >>> depth_of(255), depth_of(256), depth_of(4096)
    (8, 12, 16)
    """
    return next(bits for bits in DEPTHS if largest < 2**bits)


def fewest_bytes(width: int, height: int) -> int:
    """The least number of bytes of a Huffman-coded JPEG of this size: one bit for each block of 8 x 8 pixels.

    >>> fewest_bytes(17_000, 17_000)
    564453
    """
    return -(-width // 8) * -(-height // 8) // 8


def eight_bits(values: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Scale integers from 0 to 65535 to 0..255, by `bits` or the smallest depth that holds them; same shape, `uint8`.

    Fewer bits than hold the values are not believed.

    Raises:
        UnknownRangeError: a value lies outside 0..65535.

    >>> eight_bits(np.array([0, 4095])), eight_bits(np.array([0, 65535]))
    (array([  0, 255], dtype=uint8), array([  0, 255], dtype=uint8))
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnknownRangeError(f"its values range from {low} to {high}, so the values of black and white are unknown")
    depth = bits if bits and high < 2**bits else depth_of(high)
    if depth == 8:
        return values.astype(np.uint8)
    white = 2**depth - 1
    scaled: np.ndarray = (values.astype(np.uint32) * 255 + white // 2) // white
    return scaled.astype(np.uint8)


def plain(image: Image.Image) -> Image.Image:
    """Convert a mode of 8 bits a channel to L, RGB, CMYK or LAB: no palette, no alpha.

    Raises:
        UnknownRangeError: it has floating-point values.
    """
    if image.mode == "F":
        raise UnknownRangeError("it contains floating-point values, so the values of black and white are unknown")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        clear = image if image.mode == "RGBA" else image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(clear, mask=clear.getchannel("A"))
        return black.convert("L") if image.mode in {"LA", "La", "L", "1"} else black
    if image.mode in {"L", "1"}:
        return image.convert("L")
    return image if image.mode in {"RGB", "CMYK", "LAB"} else image.convert("RGB")


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert L, RGB, CMYK or LAB to L or RGB; the colour profile of RGB and CMYK is applied."""
    if image.mode == "L":
        return image
    if image.mode == "LAB":
        return _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if image.mode == "CMYK" or "srgb" not in ImageCms.getProfileDescription(source).lower():
                return _transformed(image, source)
        except (ImageCms.PyCMSError, OSError, UnicodeError):
            # Damaged profiles are common and harmless: image viewers assume sRGB, too.
            return image.convert("RGB")
    return image.convert("RGB")


def _transformed(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """Transform the colours of `source` to sRGB."""
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, "RGB")
    return transform.apply(image)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Rotate or flip the pixels as EXIF orientation 1 to 8 requires; other numbers have no effect.

    >>> upright(Image.new("L", (4, 2)), 6).size
    (2, 4)
    """
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def upright_array(values: np.ndarray, orientation: int) -> np.ndarray:
    """The same for an array (H, W) or (H, W, C).

    >>> upright_array(np.zeros((2, 4)), 6).shape
    (4, 2)
    """
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    values = values[::-1] if orientation in (3, 4, 7, 8) else values
    return np.ascontiguousarray(values[:, ::-1] if orientation in (2, 3, 6, 7) else values)


def as_array(image: Image.Image, channels: Channels) -> np.ndarray:
    """Return an L or RGB image as (H, W, C) `uint8`, C being 3 for rgb and 1 for grey."""
    mode = "RGB" if channels == "rgb" else "L"
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array if array.ndim == 3 else array[..., None]


def reduced(width: int, height: int, size: int) -> tuple[int, int]:
    """The width and height at which the longest side is `size` and the ratio is kept, at least one pixel each.

    >>> reduced(4928, 3264, 128), reduced(10, 5, 128)
    ((128, 85), (128, 64))
    """
    longest = max(width, height)
    return max(1, round(width * size / longest)), max(1, round(height * size / longest))


def content_box(width: int, height: int, size: int, fit: Fit) -> tuple[int, int, int, int]:
    """The box of a tile that the image fills, not its padding: top, left, height and width.

    >>> content_box(20, 10, 8, "pad"), content_box(20, 10, 8, "stretch")
    ((2, 0, 4, 8), (0, 0, 8, 8))
    """
    if fit != "pad":
        return 0, 0, size, size
    inner_width, inner_height = reduced(width, height, size)
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width


def fit(image: np.ndarray, preparation: Preparation) -> np.ndarray:
    """Bring an image, (H, W, C) `uint8` with C of 1 or 3, to the square of a tile: (size, size, C) `uint8`.

    Smaller images are enlarged.

    >>> white = np.full((10, 20, 3), 255, np.uint8)
    >>> fit(white, Preparation(8))[:, 0, 0]
    array([  0,   0, 255, 255, 255, 255,   0,   0], dtype=uint8)
    >>> int(fit(white, Preparation(8, "stretch")).min())
    255
    >>> fit(white, Preparation(8, "stretch", masked=((0.5, 0.0, 0.7, 0.1),)))[0, :, 0]
    array([255, 255, 255, 255, 128, 128, 255, 255], dtype=uint8)
    """
    size = preparation.size
    height, width, channels = image.shape
    down, across, inner_height, inner_width = content_box(width, height, size, preparation.fit)
    if image.shape[:2] != (inner_height, inner_width):
        flat = image[..., 0] if channels == 1 else image
        resized = np.asarray(Image.fromarray(np.ascontiguousarray(flat)).resize((inner_width, inner_height), LANCZOS))
        image = resized if resized.ndim == 3 else resized[..., None]
    if preparation.masked:
        image = image.copy()
        for left, top, right, bottom in preparation.masked:  # before bars mirror the image
            rows = slice(math.floor(top * inner_height), math.ceil(bottom * inner_height))
            image[rows, math.floor(left * inner_width) : math.ceil(right * inner_width)] = MASKED
    after = (size - inner_height - down, size - inner_width - across)
    return padded(image, (down, after[0]), (across, after[1]), preparation.padding)


def padded(image: np.ndarray, down: tuple[int, int], across: tuple[int, int], padding: Padding) -> np.ndarray:
    """An image (H, W, C) with bars of these widths above and below, left and right.

    >>> padded(np.array([[[1], [3]]], np.uint8), (0, 0), (1, 2), "reflect")[0, :, 0].tolist()
    [1, 1, 3, 3, 1]
    """
    widths = (down, across, (0, 0))
    if not any(map(sum, widths)):
        return image
    return np.pad(image, widths, mode="symmetric") if padding == "reflect" else np.pad(image, widths)
