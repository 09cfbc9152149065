"""Alterations of an image that should not change an answer, for the check of trained networks on held-out cases.

- `cropped_rows`: a tenth of the height is cut off above and below. The image has another shape then, and is prepared as
  the study prepares images of this shape: with bars if it pads. `cropped_rows_stretched`: the same crop, stretched back
  to the shape that the image had. `cropped_columns`, `cropped_columns_stretched`: the same at the left and the right.
- `recompressed`: saved as a JPEG of quality 30.
- `border_mirrored`: in a strip along the four sides, a tenth of the shorter side wide, left and right are exchanged and
  mirrored, so that letters and markers there change sides and are mirror-inverted. The interior stays as it is.
- `brighter`, `darker`: grey values from 0 to 1 to the power of 0.8 and of 1.25; black and white stay as they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

# Increased whenever an alteration changes: earlier predictions of altered images are then repeated.
VERSION = 1
UNALTERED = "unaltered"
CUT = STRIP = 0.1
QUALITY = 30
BRIGHTER, DARKER = 0.8, 1.25

Alteration = Callable[[np.ndarray], np.ndarray]


def altered(image: np.ndarray, alteration: str) -> np.ndarray:
    """An image (H, W, C) `uint8`, C being 1 or 3, after one of `ALTERATIONS`; `UNALTERED` returns it as it is.

    >>> altered(np.zeros((20, 10, 1), np.uint8), "cropped_rows").shape
    (16, 10, 1)
    """
    return image if alteration == UNALTERED else ALTERATIONS[alteration](image)


def _cropped_rows(image: np.ndarray) -> np.ndarray:
    height = image.shape[0]
    cut = min(round(CUT * height), (height - 1) // 2)
    return image[cut : height - cut]


def _cropped_columns(image: np.ndarray) -> np.ndarray:
    return _cropped_rows(image.swapaxes(0, 1)).swapaxes(0, 1)


def _stretched(crop: Alteration) -> Alteration:
    def alteration(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        return _array(_picture(crop(image)).resize((width, height), Image.Resampling.LANCZOS))

    return alteration


def _recompressed(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=QUALITY)
    return _array(Image.open(file))


def _border_mirrored(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    strip = max(1, round(STRIP * min(height, width)))
    result = np.ascontiguousarray(image[:, ::-1])
    inside = slice(strip, height - strip), slice(strip, width - strip)
    result[inside] = image[inside]
    return result


def _power(exponent: float) -> Alteration:
    values = np.round(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return lambda image: values[image]


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))


def _array(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture)
    return values if values.ndim == 3 else values[..., None]


# Alterations of grey values only, which also make sense for a part of an image, such as a tile of a slide.
OF_VALUES = {"recompressed": _recompressed, "brighter": _power(BRIGHTER), "darker": _power(DARKER)}
ALTERATIONS: dict[str, Alteration] = {
    "cropped_rows": _cropped_rows,
    "cropped_rows_stretched": _stretched(_cropped_rows),
    "cropped_columns": _cropped_columns,
    "cropped_columns_stretched": _stretched(_cropped_columns),
    "border_mirrored": _border_mirrored,
    **OF_VALUES,
}


def png(image: np.ndarray) -> bytes:
    """The bytes of an image (H, W, C) `uint8` as a PNG file, without loss."""
    file = io.BytesIO()
    _picture(image).save(file, "PNG", compress_level=1)
    return file.getvalue()
