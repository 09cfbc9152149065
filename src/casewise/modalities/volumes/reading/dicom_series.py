"""The series in a DICOM folder: their headers, and which of them is the sequence that was asked for."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, ImageError
from casewise.modalities.volumes.reading.sources import checked_size, head_of, is_dicom

if TYPE_CHECKING:
    from types import ModuleType

DEFLATED = b"1.2.840.10008.1.2.1.99"
# What is read of a header: all that a series is told by, ordered by, and scaled by.
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
PIXELS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "BitsAllocated",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
)  # fmt: skip
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
ACQUIRED = (
    "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue", "AcquisitionNumber",
    "ImageType", "InstanceNumber",
)  # fmt: skip
SERIES = (
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "Modality", "PatientID",
    "StudyInstanceUID", "FrameOfReferenceUID", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength",
    "ImagesInAcquisition", "SOPClassUID", "SpecificCharacterSet",
)  # fmt: skip
# Names of sequences that exclude each other.
SEQUENCES = ("t1", "t2", "flair", "dwi", "adc", "swi")
LOCALISER = re.compile(r"locali[sz]er|scout|survey|\bpilot\b", re.IGNORECASE)
SHOWN = 12


@dataclass(frozen=True, eq=False)
class Series:
    """The headers of all files of one series, in the order of their paths."""

    uid: str
    headers: tuple[tuple[Path, Any], ...]

    def said(self, tag: str) -> str:
        """What the first file says, as text; empty where it says nothing."""
        return text_of(self.headers[0][1], tag)

    @property
    def images(self) -> int:
        """How many slices there are."""
        return sum(max(1, whole_number(header, "NumberOfFrames", 1)) for _, header in self.headers)

    @property
    def is_localiser(self) -> bool:
        """Whether it says that it was made to plan other series."""
        return bool(LOCALISER.search(" ".join(map(self.said, ("SeriesDescription", "ProtocolName", "ImageType")))))

    @property
    def told(self) -> str:
        """The series in words: number, description, slices."""
        number, name = self.said("SeriesNumber") or "?", self.said("SeriesDescription") or self.said("ProtocolName")
        images = self.images
        count = f"{images} slice{'s' if images != 1 else ''}"
        return f"series {number} {name or 'without description'!r} ({self.said('Modality') or '?'}, {count})"


def pydicom_module() -> ModuleType:
    """Import the optional package.

    Raises:
        CasewiseError: it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise CasewiseError(
            f"DICOM files need an optional part of casewise: pip install 'casewise[volumes]' ({error})."
        ) from error
    module: ModuleType = pydicom
    return module


@cache
def damage() -> tuple[type[Exception], ...]:
    """What pydicom raises on damaged bytes and values, found by damaging files at random."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    plain = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)
    return (*plain, MemoryError, struct.error, BytesLengthException, InvalidDicomError)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Tell what pydicom stumbled over as an error of this file."""
    try:
        with warnings.catch_warnings():
            # Values that break a rule of the standard but can be read are no news to a user.
            warnings.simplefilter("ignore")
            yield
    except RecursionError as error:
        raise ImageError(
            f"{path}: its DICOM sequences are nested too deeply to be read. The file is damaged or made to do harm; "
            "leave it out, or copy it again from its source."
        ) from error
    except damage() as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ImageError(f"{path}: the DICOM file is damaged ({reason}). Copy it again from its source.") from error


def read_header(path: Path) -> Any:
    """Everything of a DICOM file but its pixels; None where it holds none.

    Raises:
        ImageError: it is no DICOM, or damaged.
        CasewiseError: the package that reads DICOM is not installed.
    """
    pydicom = pydicom_module()
    checked_size(path)
    head = head_of(path)
    if not is_dicom(head):
        from casewise.modalities.store.content import name_content

        raise ImageError(
            f"{path}: this is {name_content(head)}, not a scan that can be read (.nii, .nii.gz, or DICOM files)."
        )
    if DEFLATED in head:
        # It would be unpacked whole, however large it becomes.
        raise ImageError(f"{path}: the file is deflated as a whole, which is not read. Save it without compression.")
    with damage_named(path):
        tags = [*SERIES, *GEOMETRY, *PIXELS, *GROUPS, *ACQUIRED]
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
        if text_of(header, "Rows") and text_of(header, "Columns"):
            return header
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if kind is not None and "Image Storage" in getattr(kind, "name", ""):
            raise ImageError(f"{path}: it is of the kind {kind.name}, but ends before it says its size. Copy it again.")
        return None


def find_series(files: Sequence[Path]) -> tuple[list[Series], list[Path]]:
    """The series of these DICOM files by their UID, in the order of series numbers, and the files without an image."""
    found: dict[str, list[tuple[Path, Any]]] = {}
    empty = []
    for path in files:
        header = read_header(path)
        if header is None:
            empty.append(path)
        else:
            found.setdefault(text_of(header, "SeriesInstanceUID"), []).append((path, header))
    series = [Series(uid, tuple(headers)) for uid, headers in found.items()]
    return sorted(series, key=lambda one: (whole_number(one.headers[0][1], "SeriesNumber", 0), one.uid)), empty


def choose(series: Sequence[Series], sequence: str | None, where: Path) -> tuple[Series, list[str]]:
    """The one series that is the sequence, and notes on what was left aside.

    A single series is taken whatever it is called. Of several, localisers are left aside; then the sequence must name
    exactly one: its modality, description or protocol as a whole, else a word of them, else the beginning of a word.

    Raises:
        ImageError: none or several could be meant; all are in the message.
    """
    if len(series) == 1:
        return series[0], _doubts(series[0], sequence)
    proper = [one for one in series if not one.is_localiser] or list(series)
    meant = proper if len(proper) == 1 else _meant(proper, sequence)
    if len(meant) == 1:
        aside = [one.told for one in series if one is not meant[0]]
        more = f" and {len(aside) - SHOWN} more" if len(aside) > SHOWN else ""
        taken = f"{meant[0].told} was taken; left aside: {', '.join(aside[:SHOWN])}{more}"
        return meant[0], [taken, *_doubts(meant[0], sequence)]
    if sequence is None:
        found = "and the table does not say which is meant"
    else:
        found = f"and {'none' if not meant else 'more than one'} of them is named by the sequence {sequence!r}"
    listed = "\n".join(f"  {one.told}" for one in series[:SHOWN])
    more = f"\n  … and {len(series) - SHOWN} more" if len(series) > SHOWN else ""
    raise ImageError(
        f"{where}: the folder mixes {len(series)} series, {found}. Name the sequence as the scanner does, or put the "
        f"series in a folder of its own:\n{listed}{more}"
    )


def _meant(series: Sequence[Series], sequence: str | None) -> list[Series]:
    """The series that a sequence's name fits best, those of the strictest way of fitting."""
    wanted = _words(sequence or "")
    if not wanted:
        return []
    tags = ("Modality", "SeriesDescription", "ProtocolName")
    said = [[_words(one.said(tag)) for tag in tags] for one in series]
    for fits in (_whole, _holds, _begins):
        meant = [one for one, texts in zip(series, said, strict=True) if any(fits(text, wanted) for text in texts)]
        if meant:
            return meant
    return []


def _doubts(one: Series, sequence: str | None) -> list[str]:
    """A note where the series names another sequence than the table does."""
    own, wanted = (
        _known(text) for text in (f"{one.said('SeriesDescription')} {one.said('ProtocolName')}", sequence or "")
    )
    if not own or not wanted or own & wanted:
        return []
    return [f"the table calls it {sequence}, but its files call it {one.said('SeriesDescription')!r}"]


def _known(text: str) -> set[str]:
    return {name for name in SEQUENCES for word in _words(text) if word.startswith(name)}


def _words(text: str) -> list[str]:
    """Letters and digits, without capitals; T2* is another sequence than T2."""
    return re.findall(r"[a-z0-9]+", text.casefold().replace("*", "star"))


def _whole(text: list[str], wanted: list[str]) -> bool:
    return text == wanted


def _holds(text: list[str], wanted: list[str]) -> bool:
    return any(text[i : i + len(wanted)] == wanted for i in range(len(text)))


def _begins(text: list[str], wanted: list[str]) -> bool:
    """T1 begins T1W; but not T2 T2star, which is another sequence."""
    return len(wanted) == 1 and any(word.startswith(wanted[0]) and "star" not in word for word in text)


def text_of(header: Any, tag: str) -> str:
    """What a header says, as text; empty where it says nothing or nothing readable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = header.get(tag)
    except damage():
        return ""
    if value is None:
        return ""
    text = "\\".join(map(str, value)) if type(value).__name__ == "MultiValue" else str(value)
    return text.replace("\0", "").strip()


def whole_number(header: Any, tag: str, otherwise: int) -> int:
    """A whole number of a header, `otherwise` where it is missing or none."""
    try:
        return int(float(text_of(header, tag)))
    except (ValueError, OverflowError):
        return otherwise
