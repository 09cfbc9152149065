"""Films as DICOM files (CR, DX, photographs) as 8-bit images, by rules that agree with the rules of `pixels` for PNG.

- Pixels are decoded and scaled as `dicom_pixels` states.
- The first VOI LUT sets black and white, else the first window with a positive width (WindowCenter,
  WindowWidth, VOILUTFunction). Without either, they are 0 and the maximum of the depth, as for PNG: the smallest of 8,
  12 and 16 bits that holds the largest stored value, but never more than BitsStored, and not 8 where BitsStored is 9 to
  15. If values are negative, black and white are the smallest and the largest value of the film.
- A LUT or window that leaves fewer than `LEAST_CONTRAST` of 256 grey values of a film is not for its values (a window
  of stored values, of another film): it does not count if the film has more contrast without it, and `validate` says
  so. On single slices of scans (CT, MR, PET), which may show air only, it counts unless all pixels become equal though
  they span its width.
- MONOCHROME1 is inverted once, whatever PresentationLUTShape states; MONOCHROME2 with INVERSE is refused. Padding
  becomes black.
- Colours become RGB: YBR is converted; of more than 8 bits the highest 8 remain, but colours that state 16 bits and
  that 12 hold are scaled as PNG. Palettes are refused, and so are enhanced objects, whose tags describe single frames.
- Overlays are not drawn into the pixels: they are marks of readers, which may tell the label.

Only tags that describe pixels are read: names, identifiers and dates of birth never leave the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from casewise.files import text_hash
from casewise.modalities.store.dicom_file import (
    HEAD,
    PixelError,
    damage,
    defect_of,
    is_dicom,
    name_of,
    text_of,
    whole_number,
)
from casewise.modalities.store.dicom_pixels import (
    FRAME_GROUPS,
    GREY,
    PIXEL_TAGS,
    SCANS,
    decoded,
    looked_up,
    number,
    numbers,
    read_tags,
    scanner_values,
)
from casewise.modalities.store.pixels import depth_of, eight_bits

COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
KINDS = (*GREY, *COLOURS, "PALETTE COLOR", "CMYK", "HSV", "ARGB", "XYB", "YBR_PARTIAL_420", "YBR_PARTIAL_422")
# Of 256 grey values; with fewer a film is nearly black, white or grey.
LEAST_CONTRAST = 32
# The columns that a table may take from films. None of them identifies a person.
COLUMNS = {
    "laterality": ("ImageLaterality", "Laterality"),
    "view": ("ViewPosition",),
    "body_part": ("BodyPartExamined",),
    "modality": ("Modality",),
    "manufacturer": ("Manufacturer",),
    "photometric": ("PhotometricInterpretation",),
}


class Film(ImageFile.ImageFile):
    """A film, opened without its pixels; `load` makes it an 8-bit image, L or RGB."""

    format = "DICOM"
    format_description = "DICOM film"

    def _open(self) -> None:
        assert self.fp is not None
        with _damage_stated():
            self._state(read_tags(self.fp, pixels=False))

    def _state(self, header: Any) -> None:
        """Take size and mode from the tags."""
        kind = name_of(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID"))
        if not text_of(header, "Rows") or not text_of(header, "Columns"):
            if "Image Storage" in kind:
                raise PixelError(f"its kind is {kind}, but it ends before its size is stated. Copy it again.")
            raise PixelError(f"it contains no image ({kind}). Leave it out of the table.")
        self._size = (whole_number(header, "Columns", 0), whole_number(header, "Rows", 0))
        if min(self._size) < 1:
            raise PixelError(f"it claims {self._size[0]} x {self._size[1]} pixels; each side must be at least 1.")
        self.n_frames = max(1, whole_number(header, "NumberOfFrames", 1))
        grey = text_of(header, "PhotometricInterpretation") in ("", *GREY)
        self._mode = ("L" if whole_number(header, "BitsStored", 8) <= 8 else "I;16") if grey else "RGB"

    def load(self) -> Any:
        """Decode and map to 8 bits, once."""
        if self.fp is not None:
            with _damage_stated():
                image = _image(read_tags(self.fp, pixels=True, tags=(*PIXEL_TAGS, *FRAME_GROUPS, "SeriesInstanceUID")))
            self.fp.close()
            self.fp = None
            self.im, self._mode, self._size = image.im, image.mode, image.size
            self.info |= image.info
            self.readonly = False
        return Image.Image.load(self)


def film_columns(path: Path) -> dict[str, str]:
    """What a film states on how it was taken, for columns of a table; '' where it does not.

    Empty if the file is not a film or cannot be read, also where the package is missing, which `validate` reports.

    Values are from tags of fixed terms and of the manufacturer; no tag of a person is read.
    """
    tags = [tag for names in COLUMNS.values() for tag in names]
    try:
        with open(path, "rb") as file:
            if not is_dicom(file.read(HEAD)):
                return {}
            with _damage_stated():
                header = read_tags(file, pixels=False, tags=(*tags, "Rows"))
    except (PixelError, OSError, ImportError):
        return {}
    if not text_of(header, "Rows"):
        return {}
    return {name: next(filter(None, (_term(header, tag) for tag in tags)), "") for name, tags in COLUMNS.items()}


def _term(header: Any, tag: str) -> str:
    """The value of a tag of fixed terms, or of a manufacturer's name, '' if it is longer or has other signs."""
    text = text_of(header, tag)
    return text if re.fullmatch(r"\w[\w &./-]{0,63}", text) else ""


@contextmanager
def _damage_stated() -> Iterator[None]:
    """Raise errors of pydicom as a `PixelError` without their text, which may quote the values of tags."""
    try:
        yield
    except (PixelError, MemoryError):
        raise
    except damage() as error:
        raise PixelError(f"the DICOM file is damaged: {defect_of(error)}. Copy it again from its source.") from error


def _image(header: Any) -> Image.Image:
    """The film with its pixels as an image, L or RGB."""
    stored, padding = _stored(header)
    kind = text_of(header, "PhotometricInterpretation") or GREY[1]
    if kind in GREY and stored.ndim == 2:
        if kind == GREY[1] and text_of(header, "PresentationLUTShape") == "INVERSE":
            raise PixelError(
                "it states MONOCHROME2 (low values are black) and PresentationLUTShape INVERSE (low values are white). "
                "Export it again from its archive."
            )
        grey, note = _grey(stored, padding, header, inverted=kind == GREY[0])
        image = Image.fromarray(grey)
        if note:
            image.info["note"] = note
        if text_of(header, "Modality") in SCANS and (series := text_of(header, "SeriesInstanceUID")):
            image.info["series"] = text_hash(series)
        return image
    if kind not in COLOURS or stored.ndim != 3 or stored.shape[2] != 3:
        count = 1 if stored.ndim == 2 else stored.shape[-1]
        kind = kind if kind in KINDS else "of an unknown kind"
        raise PixelError(f"its pixels are {kind} in {count} channels, which is not supported. Save it as PNG.")
    bits = max(8, whole_number(header, "BitsStored", 8))
    colours = eight_bits(stored) if bits == 16 and int(stored.max()) < 2**12 else stored >> (bits - 8)
    image = Image.fromarray(np.ascontiguousarray(colours).astype(np.uint8))
    if profile := header.get("ICCProfile"):
        image.info["icc_profile"] = profile
    return image


def _stored(header: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The decoded pixels as stored, (H, W), or (H, W, 3) as RGB; and which are padding."""
    if any(name in header for name in FRAME_GROUPS):
        raise PixelError("it is an enhanced object, whose frames state their own grey values. Save it as PNG.")
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise PixelError("it contains floating-point values, so black and white are unknown. Save it with 16 bits.")
    if (bits := whole_number(header, "BitsStored", 8)) > 16:
        raise PixelError(f"it has {bits} bits a pixel, so black and white are unknown. Save it with 8 or 16 bits.")
    pixels = decoded(header)
    return pixels.stored[0], None if pixels.padding is None else pixels.padding[0]


def _grey(stored: np.ndarray, padding: np.ndarray | None, header: Any, *, inverted: bool) -> tuple[np.ndarray, str]:
    """Map stored values to 8 bits through a table of all values that the depth can hold: (H, W) `uint8`; and a note."""
    bits = max(whole_number(header, "BitsStored", 8), 1)
    low = -(2 ** (bits - 1)) if whole_number(header, "PixelRepresentation", 0) == 1 else 0
    places = stored.astype(np.int32) - low
    if padding is not None:
        places[padding] = 0  # padding may lie beyond the bits that are stored
    occurring = np.bincount((places if padding is None else places[~padding]).ravel(), minlength=2**bits) > 0
    if not occurring.any():
        raise PixelError("all its pixels are padding (PixelPaddingValue). Export it again from its archive.")
    table, note = _fractions(np.arange(low, low + 2**bits), occurring, bits, header)
    if inverted:
        table = 1 - table
    # half a step is rounded up, as for PNG
    mapped: np.ndarray = np.floor(table * 255 + 0.5 + 1e-9).astype(np.uint8)[places]
    if padding is not None:
        mapped[padding] = 0
    return mapped, note


def _fractions(codes: np.ndarray, occurring: np.ndarray, bits: int, header: Any) -> tuple[np.ndarray, str]:
    """For every stored value its place between black (0) and white (1), before MONOCHROME1 is inverted; and a note.

    `occurring`: which of these values the film has.
    """
    span = (int(codes[occurring][0]), int(codes[occurring][-1]))
    values, white = scanner_values(codes, header, span)
    if white is not None:
        unwindowed = values / white
    else:
        # a file that states 9 to 15 bits is not one of 8 bits, however dark it is
        depth = depth_of(span[1]) if bits > 15 else max(depth_of(span[1]), 12)
        black, top = span if span[0] < 0 else (0, 2 ** min(bits, depth) - 1)
        unwindowed = np.clip((codes - black) / max(top - black, 1), 0, 1)
        unwindowed = 1 - unwindowed if number(header, "RescaleSlope", 1.0) < 0 else unwindowed
    shown, width = values[occurring], 0.0
    fractions = None
    if luts := header.get("VOILUTSequence"):
        entries, white = looked_up(values, luts[0], header, (float(shown.min()), float(shown.max())))
        fractions = entries / white
    else:
        windows = zip(numbers(header, "WindowCenter"), numbers(header, "WindowWidth"), strict=False)
        if window := next((window for window in windows if window[1] > 0), None):
            width = window[1]
            fractions = _windowed(values, *window, text_of(header, "VOILUTFunction") or "LINEAR")
    if fractions is None:
        return unwindowed, ""
    contrast, without = (255 * float(np.ptp(table[occurring])) for table in (fractions, unwindowed))
    if text_of(header, "Modality") in SCANS:
        is_for_values = contrast > 0 or np.ptp(shown) < max(width, 1)
    else:
        is_for_values = contrast >= LEAST_CONTRAST or without < 2 * LEAST_CONTRAST
    if is_for_values:
        return fractions, ""
    return unwindowed, f"its {'window' if width else 'table (VOI LUT)'} is not for its values and was not applied"


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """The window of DICOM PS3.3 C.11.2.1: LINEAR, LINEAR_EXACT or SIGMOID."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
