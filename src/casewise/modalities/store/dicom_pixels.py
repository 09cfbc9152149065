"""Pixels of DICOM files, decoded and interpreted once, for films (`film`) and for volumes.

- Stored values: bits above HighBit (overlays) and below the stored bits are removed, left-justified values are shifted,
  and signed values get their sign. Values that wrap around because the file states the wrong sign or too few bits are
  refused.
- Padding is every pixel of PixelPaddingValue (up to PixelPaddingRangeLimit), also where the tag has the other sign.
- The scanner's values: the modality LUT, else slope and intercept.
- A LUT is as deep as its largest entry, whatever it declares, and begins where it meets the values of the file.

Compressed pixels are decoded by pydicom, else by SimpleITK, frame by frame and without anything but the pixels, because
SimpleITK would invert MONOCHROME1 and apply the slope.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from casewise.modalities.store.dicom_file import (
    DEFLATED,
    HEAD,
    PixelError,
    damage,
    name_of,
    quiet_pydicom,
    scale_problem,
    text_of,
    whole_number,
)
from casewise.modalities.store.pixels import fewest_bytes

GREY = ("MONOCHROME1", "MONOCHROME2")
DECODERS = "pip install 'casewise[dicom]'"
# The tags that describe pixels; none of them states a person.
PIXEL_TAGS = (
    "SOPClassUID", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PresentationLUTShape", "PixelPaddingValue", "PixelPaddingRangeLimit", "FloatPixelPaddingValue",
    "DoubleFloatPixelPaddingValue", "ICCProfile",
)  # fmt: skip
# Sequences of enhanced objects, whose tags describe single frames.
FRAME_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# What SimpleITK needs to decode a frame.
_FRAME_TAGS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
# Neighbouring pixels that jump over half of the range, from which values are taken to wrap around.
_WRAPPED = 8
# The frame header of JPEG data (SOF) with a precision of up to 8 bits.
_EIGHT_BITS = re.compile(rb"\xff[\xc0-\xc3]\0.([\x02-\x08])", re.DOTALL)
# Scans have no burned-in labels, whose edges look like a wrong sign.
SCANS = ("CT", "MR", "PT", "NM")


@dataclass(frozen=True, eq=False)
class DicomPixels:
    """Decoded pixels.

    Attributes:
        stored: (frames, H, W) of any number type, or (frames, H, W, samples) as RGB.
        padding: (frames, H, W) `bool`, pixels outside of the picture; None if there are none.
    """

    stored: np.ndarray
    padding: np.ndarray | None = None


def read_tags(stream: IO[bytes], *, pixels: bool, tags: tuple[str, ...] = PIXEL_TAGS) -> Any:
    """The tags that describe pixels, with the pixels if wanted.

    Raises:
        PixelError: the file is deflated.
    """
    pydicom = quiet_pydicom()
    stream.seek(0)
    if DEFLATED in stream.read(HEAD):
        # It would be decompressed completely, whatever its size.
        raise PixelError("the file is deflated as a whole, which is not supported. Save it without compression.")
    stream.seek(0)
    wanted = [*tags, *(_PIXELS if pixels else ())]
    header = pydicom.dcmread(stream, stop_before_pixels=not pixels, specific_tags=wanted, force=True)
    if "TransferSyntaxUID" not in header.file_meta:
        # A file without a preamble: pydicom detected its encoding, and such files are never compressed.
        uid = pydicom.uid
        implicit = header.original_encoding[0]
        header.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    return header


def decoded(header: Any) -> DicomPixels:
    """The pixels of a header that `read_tags` has read with them.

    Raises:
        PixelError: they are missing, cut short, damaged, contradict the header, or cannot be decoded here.
    """
    if not any(header.get(tag) for tag in _PIXELS):
        raise PixelError("it contains no pixels: the file is cut short, or was exported without them. Copy it again.")
    rows, columns = whole_number(header, "Rows", 0), whole_number(header, "Columns", 0)
    samples, frames = whole_number(header, "SamplesPerPixel", 1), max(1, whole_number(header, "NumberOfFrames", 1))
    allocated = whole_number(header, "BitsAllocated", 8)
    bits = whole_number(header, "BitsStored", allocated)
    high = whole_number(header, "HighBit", bits - 1)
    is_float = "PixelData" not in header
    if not is_float and not (0 < bits <= high + 1 <= allocated):
        raise PixelError(
            f"it states {bits} bits a pixel up to bit {high} of {allocated} (BitsStored, HighBit, BitsAllocated), "
            "which cannot be. Export it again from its archive."
        )
    syntax = header.file_meta.TransferSyntaxUID
    by_words = not is_float and allocated > 1 and (not syntax.is_compressed or syntax.name == "RLE Lossless")
    if not is_float and not by_words and high != bits - 1:
        raise PixelError(
            f"its {bits} bits end at bit {high} (HighBit) and are compressed as {name_of(syntax)}, so their place is "
            "uncertain. Save it without compression."
        )
    words = _by_pydicom(header, {"bits_stored": allocated} if by_words else {})
    shape = (frames, rows, columns, *((samples,) if samples > 1 else ()))
    if words.size != np.prod(shape, dtype=object) or words.shape[-len(shape) + 1 :] != shape[1:]:
        size = " x ".join(map(str, words.shape))
        raise PixelError(
            f"header and pixels disagree: it states {frames} x {rows} x {columns} pixels, its data hold {size}. Copy "
            "it again from its source."
        )
    words = words.reshape(shape)
    if samples > 1 or words.dtype.kind not in "iu":
        padding = _padding(words, words, header, allocated) if samples == 1 else None
        return DicomPixels(words, padding)
    stored = _from_words(words, bits, high) if by_words else words
    padding = _padding(words, stored, header, allocated)
    _check_range(words, stored, padding, header, bits)
    return DicomPixels(stored, padding)


def _by_pydicom(header: Any, options: dict[str, Any]) -> np.ndarray:
    """The decoded pixels, by SimpleITK where pydicom lacks the decoder."""
    from pydicom import uid
    from pydicom.pixels import pixel_array

    # the transfer syntaxes in which every block or pixel has at least one bit
    jpegs = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
    syntax = header.file_meta.TransferSyntaxUID
    sides = (whole_number(header, "Columns", 0), whole_number(header, "Rows", 0))
    n_bytes = len(header.get("PixelData") or b"")
    if syntax in jpegs and n_bytes < fewest_bytes(*sides):
        raise PixelError(
            f"it claims {sides[0]:,} x {sides[1]:,} pixels, which {n_bytes:,} bytes of JPEG cannot hold. It is "
            "damaged; copy it again from its source."
        )
    try:
        return np.asarray(pixel_array(header, **options))
    except MemoryError:
        raise
    except NotImplementedError as error:
        raise _undecodable(syntax) from error
    except damage() as error:
        # a decoder is missing, or none that is installed reads this depth, such as JPEG Extended of 12 bits
        if isinstance(error, RuntimeError) and re.search("missing|not support", str(error)):
            return _by_simpleitk(header)
        if "less than expected" in str(error):
            raise PixelError("its pixels are cut short. Copy it again from its source.") from error
        raise PixelError(f"its pixels ({name_of(syntax)}) are damaged. Copy it again from its source.") from error


def _by_simpleitk(header: Any) -> np.ndarray:
    """Grey pixels as stored, (frames, H, W), decoded by SimpleITK: JPEG (lossless, of 12 bits) and JPEG-LS."""
    import pydicom
    from pydicom.encaps import encapsulate, generate_frames

    syntax = header.file_meta.TransferSyntaxUID
    try:
        import SimpleITK
    except ImportError as error:
        raise _undecodable(syntax) from error
    if whole_number(header, "SamplesPerPixel", 1) != 1:
        raise _undecodable(syntax)
    plain = pydicom.Dataset()
    for tag in _FRAME_TAGS:
        if tag in header:
            plain[tag] = header[tag]
    plain.file_meta = pydicom.dataset.FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = syntax
    plain.SOPClassUID, plain.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "1.2.3"
    plain.add_new("PhotometricInterpretation", "CS", GREY[1])
    count = max(1, whole_number(header, "NumberOfFrames", 1))
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "frame.dcm")
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            for frame in generate_frames(header.PixelData, number_of_frames=count):
                if whole_number(header, "BitsStored", 8) > 8 and (frame_header := _EIGHT_BITS.search(frame)):
                    raise PixelError(
                        f"it states {whole_number(header, 'BitsStored', 8)} bits a pixel (BitsStored), and its JPEG "
                        f"data state {frame_header[1][0]}, so white is unknown. Export it again from its archive."
                    )
                plain.PixelData = encapsulate([frame])
                plain["PixelData"].VR, plain["PixelData"].is_undefined_length = "OB", True
                pydicom.dcmwrite(path, plain, enforce_file_format=True)
                frames.append(SimpleITK.GetArrayFromImage(reader.Execute()).squeeze())
        except PixelError:
            raise
        except damage() as error:
            raise PixelError(f"its pixels ({name_of(syntax)}) are damaged. Copy it again from its source.") from error
    if len({frame.shape for frame in frames}) != 1:
        raise PixelError("its frames differ in size. Copy it again from its source.")
    return np.stack(frames)


def _undecodable(syntax: Any) -> PixelError:
    return PixelError(
        f"its pixels are compressed as {name_of(syntax)}, which cannot be decoded here. Install the "
        f"decoders ({DECODERS}), or save it without compression."
    )


def _from_words(words: np.ndarray, bits: int, high: int) -> np.ndarray:
    """The stored values in words of `BitsAllocated`: the bits up to `high`, with their sign.

    >>> _from_words(np.array([0x0FFF, 0x17FF], np.int16), 12, 11).tolist()
    [-1, 2047]
    """
    allocated = 8 * words.dtype.itemsize
    if high >= bits:
        unsigned = words.view(f"u{words.dtype.itemsize}")
        below = unsigned & ((1 << (high + 1 - bits)) - 1)
        if below.any() and int(unsigned.max()) < 1 << bits:
            raise PixelError(
                f"it states {bits} bits that end at bit {high} (HighBit), but its values fill the lower bits. Export "
                f"it again with HighBit {bits - 1}."
            )
    up, down = allocated - 1 - high, allocated - bits
    return words if not down else np.asarray((words << words.dtype.type(up)) >> words.dtype.type(down))


def _padding(words: np.ndarray, stored: np.ndarray, header: Any, allocated: int) -> np.ndarray | None:
    """Where pixels are padding, of the shape of `stored`; None if nowhere."""
    if stored.dtype.kind == "f":
        value = number(header, "FloatPixelPaddingValue", number(header, "DoubleFloatPixelPaddingValue", np.nan))
        mask = stored == stored.dtype.type(value)
        return mask if mask.any() else None
    ends = [number(header, tag, np.nan) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if not np.isfinite(ends[0]):
        return None
    limits = np.iinfo(f"{words.dtype.kind}{max(1, allocated // 8)}")
    # A negative value may be written as an unsigned one, and the other way round.
    shifts = (0, -(2**allocated), 2**allocated, -(2**16), 2**16)
    values = [
        next((end + shift for shift in shifts if limits.min <= end + shift <= limits.max), np.nan)
        for end in (ends if np.isfinite(ends[1]) else ends[:1])
    ]
    if not np.isfinite(values).all():
        return None
    low, high = min(values), max(values)
    mask = (stored >= low) & (stored <= high)
    if words is not stored:
        mask |= (words >= low) & (words <= high)
    return mask if mask.any() else None


def _check_range(words: np.ndarray, stored: np.ndarray, padding: np.ndarray | None, header: Any, bits: int) -> None:
    """Refuse values that the stated bits and sign cannot hold, and values that wrap around because of them."""
    inside = stored if padding is None else stored[~padding]
    if not inside.size:
        return
    signed = whole_number(header, "PixelRepresentation", 0) == 1
    low = -(2 ** (bits - 1)) if signed else 0
    least, largest = int(inside.min()), int(inside.max())
    if least < low or largest >= low + 2**bits:
        raise PixelError(f"its values range from {least} to {largest}, more than its {bits} bits hold. Copy it again.")
    span = 2**bits
    others = []
    # in a left-justified word every bit has its place
    is_plain = words is not stored and whole_number(header, "HighBit", bits - 1) == bits - 1
    if is_plain and int(words.view(f"u{words.dtype.itemsize}").max()) >= span:
        others.append(("holds values beyond the bits that it states", "BitsStored", words, 0))
    if signed and least < -span // 4 and largest > span // 4:
        others.append(("states signed pixels, but they are unsigned", "PixelRepresentation", stored, span))
    is_scan = not signed and bits == 16 and text_of(header, "Modality") in SCANS
    if is_scan and largest >= span // 4 * 3 and not ((inside >= span // 4) & (inside < span // 4 * 3)).any():
        others.append(("states unsigned pixels, but they are signed", "PixelRepresentation", stored, 3 * span // 2))
    for frame in range(len(stored)):
        outside = None if padding is None else padding[frame]
        for problem, tag, values, shift in others:
            other = values[frame].astype(np.int64)
            if _wraps(stored[frame], (other + shift) % span if shift else other, span, outside):
                raise PixelError(
                    f"it {problem}: values jump from one end of their range to the other ({tag}). Export it again "
                    "from its archive."
                )


def _wraps(stated: np.ndarray, other: np.ndarray, modulus: int, padding: np.ndarray | None) -> bool:
    """Whether neighbours often jump by more than half of the range as stated, but hardly differ otherwise, and seldom
    the other way round, as with overlays or noise. Labels of a single value are not a reason.

    >>> ramp = np.tile(np.arange(-80, 80, 4), (9, 1)) + np.arange(9)[:, None] % 4
    >>> _wraps(ramp % 256, ramp, 256, None), _wraps(ramp, ramp % 256, 256, None)
    (True, False)
    """
    steps, steps_otherwise = (np.abs(np.diff(values.astype(np.int64), axis=-1)) for values in (stated, other))
    wrapped = (steps > modulus // 2) & (steps_otherwise <= modulus // 4)
    opposite = (steps_otherwise > modulus // 2) & (steps <= modulus // 2)
    if padding is not None:
        inside = ~(padding[..., 1:] | padding[..., :-1])
        wrapped, opposite = wrapped & inside, opposite & inside
    if wrapped.sum() < _WRAPPED or wrapped.sum() <= 2 * opposite.sum():
        return False
    return len(np.unique(np.maximum(stated[..., 1:], stated[..., :-1])[wrapped])) > 1


def number(header: Any, tag: str, default: float) -> float:
    """The first number of a tag; `default` if it is missing.

    Raises:
        PixelError: a value is infinite or not a number.
    """
    return next(iter(numbers(header, tag)), default)


def numbers(header: Any, tag: str) -> list[float]:
    """The numbers of a tag.

    Raises:
        PixelError: a value is infinite or not a number.
    """
    try:
        value = header.get(tag)
        values = [] if value in (None, "") else value if isinstance(value, MutableSequence) else [value]
        stated = [float(entry) for entry in values]
    except damage():
        stated = [np.nan]
    if not np.isfinite(stated).all():
        raise PixelError(f"its {tag} is not a finite number. Export it again from its archive.")
    return stated


def scanner_values(
    stored: np.ndarray, header: Any, span: tuple[float, float], scale: tuple[float, float] | None = None
) -> tuple[np.ndarray, int | None]:
    """Stored values after the modality LUT, else after slope and intercept: `float64`; and the white of the LUT.

    `span`: the smallest and the largest stored value that occur, padding apart. `scale`: slope and intercept of a frame
    instead of the header's.

    Raises:
        PixelError: the scale or the LUT cannot be used.
    """
    if tables := header.get("ModalityLUTSequence"):
        return looked_up(stored, tables[0], header, span)
    slope, intercept = scale or (number(header, "RescaleSlope", 1.0), number(header, "RescaleIntercept", 0.0))
    if problem := scale_problem(slope, intercept):
        raise PixelError(f"its {problem}, which makes pixels equal. Export it again from its archive.")
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.asarray(stored, np.float64) * slope + intercept
    if not np.isfinite(values).all() and np.isfinite(stored).all():
        raise PixelError("its RescaleSlope gives infinite values. Export it again from its archive.")
    return values, None


def looked_up(values: np.ndarray, table: Any, header: Any, span: tuple[float, float]) -> tuple[np.ndarray, int]:
    """Values mapped by a table of the file (modality LUT, VOI LUT), and white: the largest value of its depth.

    `span`: the smallest and the largest value that occur.

    Raises:
        PixelError: the table has fewer entries than it states, other depths, or does not meet the values.
    """
    export = "Export it again from its archive."
    count, first, depth = (int(entry) for entry in table.LUTDescriptor)
    count = count % 2**16 or 2**16
    entries = _entries(table, header, count, depth)
    if len(entries) < count:
        raise PixelError(f"its table of values (LUT) states {count} entries and holds {len(entries)}. {export}")
    largest = int(entries.max())
    if not 8 <= depth <= 16 or largest >= 2**depth:
        raise PixelError(f"its table of values (LUT) does not fit {depth} bits. {export}")
    # Signed and unsigned first values are often confused.
    starts = (first, first - 2**16, first + 2**16)
    start = next((start for start in starts if start <= span[1] and span[0] < start + count), None)
    if start is None:
        raise PixelError(
            f"its table of values (LUT) is for {first} to {first + count - 1}, its values are {span[0]:g} to "
            f"{span[1]:g}. {export}"
        )
    mapped = entries[np.clip(np.rint(values - start), 0, count - 1).astype(np.int64)]
    return mapped, 2 ** max(8, largest.bit_length()) - 1


def _entries(table: Any, header: Any, count: int, depth: int) -> np.ndarray:
    """The entries of a table, `float64`; two entries of 8 bits may share a word."""
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = "<" if header.original_encoding[1] else ">"
        array = np.frombuffer(entries, f"{order}u2" if len(entries) >= 2 * count else np.uint8)
    else:
        array = np.atleast_1d(np.asarray(entries, np.int64)).astype(np.uint16)
        if depth == 8 and len(array) < count <= 2 * len(array):
            array = array.astype("<u2").view(np.uint8)
    return array[:count].astype(np.float64)
