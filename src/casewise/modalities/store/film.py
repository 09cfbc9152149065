"""Films as DICOM files (CR, DX, photographs) as 8-bit images, by rules that agree with those of `pixels` for PNG.

- A table sequence of the file (modality LUT), or RescaleSlope and RescaleIntercept, is applied.
- Black and white are those of the first VOI LUT, else of the first window (WindowCenter, WindowWidth, VOILUTFunction).
  A window without a positive width does not count. Without either, they are 0 and the maximum of the depth, as for PNG:
  the smallest of 8, 12 and 16 bits that holds the largest stored value, but never more than BitsStored. If values are
  negative, black and white are the smallest and the largest value of the film.
- MONOCHROME1 is inverted. Padding (PixelPaddingValue) becomes black.
- Colours become RGB: YBR is converted, of more than 8 bits the highest 8 remain. Palettes are refused, and so are
  enhanced objects, whose tags describe single frames.
- Overlays are not drawn into the pixels: they are marks of readers, which may tell the label.

Only tags that describe pixels are read: names, identifiers and dates of birth never leave the file.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from casewise.modalities.store.dicom_file import (
    DEFLATED,
    HEAD,
    damage,
    defect_of,
    is_dicom,
    name_of,
    quiet_pydicom,
    scale_problem,
    text_of,
    whole_number,
)
from casewise.modalities.store.pixels import depth_of, fewest_bytes

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
KINDS = (*GREY, *COLOURS, "PALETTE COLOR", "CMYK", "HSV", "ARGB", "XYB", "YBR_PARTIAL_420", "YBR_PARTIAL_422")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# Sequences of enhanced objects, whose tags describe single frames.
FRAME_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
TAGS = (
    "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "ICCProfile", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
PIXEL_TAGS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
# The columns that a table may take from films. None of them identifies a person.
COLUMNS = {
    "laterality": ("ImageLaterality", "Laterality"),
    "view": ("ViewPosition",),
    "body_part": ("BodyPartExamined",),
    "modality": ("Modality",),
    "manufacturer": ("Manufacturer",),
    "photometric": ("PhotometricInterpretation",),
}
DECODERS = "pip install 'casewise[dicom]'"


class FilmError(ValueError):
    """A DICOM file is no film that can be read; the message states what was found and a remedy."""


class Film(ImageFile.ImageFile):
    """A film, opened without its pixels; `load` makes it an 8-bit image, L or RGB."""

    format = "DICOM"
    format_description = "DICOM film"

    def _open(self) -> None:
        assert self.fp is not None
        with _damage_stated():
            self._state(_read(self.fp, pixels=False))

    def _state(self, header: Any) -> None:
        """Take size and mode from the tags."""
        kind = name_of(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID"))
        if not text_of(header, "Rows") or not text_of(header, "Columns"):
            if "Image Storage" in kind:
                raise FilmError(f"its kind is {kind}, but it ends before its size is stated. Copy it again.")
            raise FilmError(f"it contains no image ({kind}). Leave it out of the table.")
        self._size = (whole_number(header, "Columns", 0), whole_number(header, "Rows", 0))
        if min(self._size) < 1:
            raise FilmError(f"it claims {self._size[0]} x {self._size[1]} pixels; each side must be at least 1.")
        self.n_frames = max(1, whole_number(header, "NumberOfFrames", 1))
        grey = text_of(header, "PhotometricInterpretation") in ("", *GREY)
        self._mode = ("L" if whole_number(header, "BitsStored", 8) <= 8 else "I;16") if grey else "RGB"

    def load(self) -> Any:
        """Decode and map to 8 bits, once."""
        if self.fp is not None:
            with _damage_stated():
                image = _image(_read(self.fp, pixels=True))
            self.fp.close()
            self.fp = None
            self.im, self._mode, self._size = image.im, image.mode, image.size
            self.info |= image.info
            self.readonly = False
        return Image.Image.load(self)


def film_columns(path: Path) -> dict[str, str]:
    """What a film states on how it was taken, for columns of a table; '' where it does not.

    Empty if the file is no film or cannot be read, also where the package is missing, which `validate` reports.

    Values are from tags of fixed terms and of the manufacturer; no tag of a person is read.
    """
    tags = [tag for names in COLUMNS.values() for tag in names]
    try:
        with open(path, "rb") as file:
            if not is_dicom(file.read(HEAD)):
                return {}
            with _damage_stated():
                header = _read(file, pixels=False, tags=(*tags, "Rows"))
    except (FilmError, OSError, ImportError):
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
    """Raise errors of pydicom as a `FilmError` without their text, which may quote the values of tags."""
    try:
        yield
    except (FilmError, MemoryError):
        raise
    except damage() as error:
        raise FilmError(f"the DICOM file is damaged: {defect_of(error)}. Copy it again from its source.") from error


def _read(stream: IO[bytes], *, pixels: bool, tags: tuple[str, ...] = TAGS) -> Any:
    """The tags that describe pixels, with the pixels if wanted."""
    pydicom = quiet_pydicom()
    stream.seek(0)
    if DEFLATED in stream.read(HEAD):
        # It would be decompressed completely, whatever its size.
        raise FilmError("the file is deflated as a whole, which is not supported. Save it without compression.")
    stream.seek(0)
    wanted = [*tags, *(PIXELS if pixels else ())]
    header = pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=wanted, force=True)
    if "TransferSyntaxUID" not in header.file_meta:
        # A file without a preamble: pydicom detected its encoding, and such files are never compressed.
        uid = pydicom.uid
        implicit = header.original_encoding[0]
        header.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    return header


def _image(header: Any) -> Image.Image:
    """The film with its pixels as an image, L or RGB."""
    stored = _stored(header)
    kind = text_of(header, "PhotometricInterpretation") or GREY[1]
    if kind in GREY and stored.ndim == 2:
        return Image.fromarray(_grey(stored, header, inverted=kind == GREY[0]))
    if kind not in COLOURS or stored.ndim != 3 or stored.shape[2] != 3:
        count = 1 if stored.ndim == 2 else stored.shape[-1]
        kind = kind if kind in KINDS else "of an unknown kind"
        raise FilmError(f"its pixels are {kind} in {count} channels, which is not supported. Save it as PNG.")
    highest = stored >> (max(8, whole_number(header, "BitsStored", 8)) - 8)
    image = Image.fromarray(np.ascontiguousarray(highest).astype(np.uint8))
    if profile := header.get("ICCProfile"):
        image.info["icc_profile"] = profile
    return image


def _stored(header: Any) -> np.ndarray:
    """The decoded pixels as stored: (H, W), or (H, W, 3) as RGB."""
    from pydicom import uid
    from pydicom.pixels import pixel_array

    # the transfer syntaxes in which every block or pixel has at least one bit
    jpegs = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
    syntax = header.file_meta.TransferSyntaxUID
    if any(name in header for name in FRAME_GROUPS):
        raise FilmError("it is an enhanced object, whose frames state their own grey values. Save it as PNG.")
    if "FloatPixelData" in header or "DoubleFloatPixelData" in header:
        raise FilmError("it contains floating-point values, so black and white are unknown. Save it with 16 bits.")
    if "PixelData" not in header or not header.PixelData:
        raise FilmError("it contains no pixels: the file is cut short, or was exported without them. Copy it again.")
    if (bits := whole_number(header, "BitsStored", 8)) > 16:
        raise FilmError(f"it has {bits} bits a pixel, so black and white are unknown. Save it with 8 or 16 bits.")
    sides = (whole_number(header, "Columns", 0), whole_number(header, "Rows", 0))
    n_bytes = len(header.PixelData)
    if syntax in jpegs and n_bytes < fewest_bytes(*sides):
        raise FilmError(
            f"it claims {sides[0]:,} x {sides[1]:,} pixels, which {n_bytes:,} bytes of JPEG cannot hold. It is "
            "damaged; copy it again from its source."
        )
    try:
        pixels: np.ndarray = pixel_array(header)
    except MemoryError:
        raise
    except NotImplementedError as error:
        raise _undecodable(syntax) from error
    except damage() as error:
        if isinstance(error, RuntimeError) and "missing" in str(error):
            return _by_simpleitk(header, sides)
        if "less than expected" in str(error):
            raise FilmError("its pixels are cut short. Copy it again from its source.") from error
        raise FilmError(f"its pixels ({name_of(syntax)}) are damaged. Copy it again from its source.") from error
    if pixels.shape[:2] != sides[::-1]:
        shape = f"{pixels.shape[1]} x {pixels.shape[0]}" if pixels.ndim > 1 else str(pixels.size)
        raise FilmError(
            f"its header states {sides[0]} x {sides[1]} pixels, its data hold {shape}. Copy it again from its source."
        )
    return pixels


def _by_simpleitk(header: Any, sides: tuple[int, int]) -> np.ndarray:
    """Grey pixels as stored, (H, W), decoded by SimpleITK: JPEG (lossless, of 12 bits) and JPEG-LS."""
    import pydicom

    syntax = header.file_meta.TransferSyntaxUID
    try:
        import SimpleITK
    except ImportError as error:
        raise _undecodable(syntax) from error
    if whole_number(header, "SamplesPerPixel", 1) != 1:
        raise _undecodable(syntax)
    # only what describes the pixels: SimpleITK reads files, and would apply the slope
    plain = pydicom.Dataset()
    for tag in (*PIXEL_TAGS, "PixelData"):
        if tag in header:
            plain[tag] = header[tag]
    plain.file_meta = pydicom.dataset.FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = syntax
    plain.SOPClassUID, plain.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    plain.add_new("PhotometricInterpretation", "CS", GREY[1])  # MONOCHROME1 would be inverted
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.dcm")
        pydicom.dcmwrite(path, plain, enforce_file_format=True)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            pixels = SimpleITK.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise FilmError(f"its pixels ({name_of(syntax)}) are damaged. Copy it again from its source.") from error
    if pixels.size != sides[0] * sides[1]:
        raise FilmError(f"its data do not hold {sides[0]} x {sides[1]} pixels. Copy it again from its source.")
    return np.asarray(pixels.reshape(sides[::-1]))


def _undecodable(syntax: Any) -> FilmError:
    return FilmError(
        f"its pixels are compressed as {name_of(syntax)}, which cannot be decoded here. Install the "
        f"decoders ({DECODERS}), or save it without compression."
    )


def _number(header: Any, tag: str, default: float) -> float:
    """The first number of a tag; `default` if it is missing.

    Raises:
        FilmError: a value is infinite or not a number.
    """
    try:
        value = header.get(tag)
        values = [] if value in (None, "") else value if isinstance(value, MutableSequence) else [value]
        numbers = [float(number) for number in values]
    except damage():
        numbers = [np.nan]
    if not np.isfinite(numbers).all():
        raise FilmError(f"its {tag} is not a finite number. Export the film again from its archive.")
    return numbers[0] if numbers else default


def _grey(stored: np.ndarray, header: Any, *, inverted: bool) -> np.ndarray:
    """Map stored values to 8 bits through a table of all values that the depth can hold; (H, W) `uint8`."""
    bits = max(whole_number(header, "BitsStored", 8), 1)
    low = -(2 ** (bits - 1)) if whole_number(header, "PixelRepresentation", 0) == 1 else 0
    stored = stored.astype(np.int32)
    least, largest = int(stored.min()), int(stored.max())
    if least < low or largest >= low + 2**bits:
        raise FilmError(f"its values range from {least} to {largest}, more than its {bits} bits hold. Copy it again.")
    codes = np.arange(low, low + 2**bits)
    # the stored values that mark pixels outside of the film
    first, last = (_number(header, tag, np.nan) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    padding = (codes >= np.fmin(first, last)) & (codes <= np.fmax(first, last))
    used = stored if not padding.any() else stored[~padding[stored - low]]
    table = _fractions(codes, (int(used.min()), int(used.max())) if used.size else (0, 0), bits, header)
    if inverted:
        table = 1 - table
    table[padding] = 0
    # half a step is rounded up, as for PNG
    mapped: np.ndarray = np.floor(table * 255 + 0.5 + 1e-9).astype(np.uint8)[stored - low]
    return mapped


def _fractions(codes: np.ndarray, span: tuple[int, int], bits: int, header: Any) -> np.ndarray:
    """For every stored value its place between black (0) and white (1), before MONOCHROME1 is inverted.

    `span`: the smallest and the largest stored value of the film.
    """
    slope, intercept = _number(header, "RescaleSlope", 1.0), _number(header, "RescaleIntercept", 0.0)
    if problem := scale_problem(slope, intercept):
        raise FilmError(f"its {problem}, which makes pixels equal. Export the film again from its archive.")
    tables = header.get("ModalityLUTSequence")
    if tables:
        values, white = _looked_up(codes, tables[0], header)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            values = codes * slope + intercept
        if not np.isfinite(values).all():
            raise FilmError("its RescaleSlope gives infinite values. Export the film again from its archive.")
    if luts := header.get("VOILUTSequence"):
        values, white = _looked_up(values, luts[0], header)
        return values / white
    centre, width = _number(header, "WindowCenter", np.nan), _number(header, "WindowWidth", 0.0)
    if np.isfinite(centre) and width > 0:
        return _windowed(values, centre, width, text_of(header, "VOILUTFunction") or "LINEAR")
    if tables:
        return values / white
    black, white = span if span[0] < 0 else (0, 2 ** min(bits, depth_of(span[1])) - 1)
    fractions = np.clip((codes - black) / max(white - black, 1), 0, 1)
    return 1 - fractions if slope < 0 else fractions


def _looked_up(values: np.ndarray, table: Any, header: Any) -> tuple[np.ndarray, int]:
    """Values mapped by a table of the file (modality LUT, VOI LUT), and the largest value that its entries can have."""
    count, first, depth = (int(number) for number in table.LUTDescriptor)
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = "<" if header.original_encoding[1] else ">"
        entries = np.frombuffer(entries, f"{order}u2" if len(entries) >= 2 * (count or 2**16) else np.uint8)
    array = np.atleast_1d(np.asarray(entries, np.float64))[: count or 2**16]
    white = 2**depth - 1
    if not 8 <= depth <= 16 or not array.size or array.max() > white:
        raise FilmError(f"its table of values (LUT) does not fit {depth} bits. Export the film again from its archive.")
    return array[np.clip(np.rint(values - first), 0, len(array) - 1).astype(np.int64)], white


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """The window of DICOM PS3.3 C.11.2.1: LINEAR, LINEAR_EXACT or SIGMOID."""
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width <= 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
