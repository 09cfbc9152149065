"""The series in a DICOM folder: their headers, and the choice of the series that shows a sequence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casewise.errors import ImageError, counted
from casewise.modalities.store import dicom_file
from casewise.modalities.store.dicom_pixels import FRAME_GROUPS, PIXEL_TAGS
from casewise.plugins.volumes.reading.dicom_planes import SCALE_TAGS, pydicom_module
from casewise.plugins.volumes.reading.scans import checked_size

# The tags that are read: those that identify, order and scale a series.
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
ACQUIRED = (
    "EchoTime", "EchoNumbers", "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue", "AcquisitionNumber",
    "ImageType", "InstanceNumber",
)  # fmt: skip
SERIES = (
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "Modality", *dicom_file.PERSON,
    "StudyInstanceUID", "FrameOfReferenceUID", "ImagesInAcquisition", "SOPClassUID", "SpecificCharacterSet",
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

    def text(self, tag: str) -> str:
        """The value of a tag in the first file as text; empty if there is none."""
        return dicom_file.text_of(self.headers[0][1], tag)

    @property
    def images(self) -> int:
        """The number of slices."""
        return sum(max(1, dicom_file.whole_number(header, "NumberOfFrames", 1)) for _, header in self.headers)

    @property
    def is_localiser(self) -> bool:
        """Whether the series was acquired to plan others."""
        return bool(LOCALISER.search(" ".join(map(self.text, ("SeriesDescription", "ProtocolName", "ImageType")))))

    @property
    def description(self) -> str:
        """The series in words: number, description, slices."""
        number, name = self.text("SeriesNumber") or "?", self.text("SeriesDescription") or self.text("ProtocolName")
        images = self.images
        count = counted(images, "slice")
        return f"series {number} {name or 'without description'!r} ({self.text('Modality') or '?'}, {count})"


def read_header(path: Path) -> Any:
    """The header of a DICOM file; None if the file has no pixels.

    Raises:
        ImageError: it is not DICOM, or damaged.
        CasewiseError: the package that reads DICOM is not installed.
    """
    pydicom = pydicom_module()
    checked_size(path)
    head = dicom_file.head_of(path)
    if not dicom_file.is_dicom(head):
        from casewise.modalities.store.file_check import name_content

        raise ImageError(
            f"{path}: this is {name_content(head)}, not a scan that can be read (.nii, .nii.gz, or DICOM files)."
        )
    if dicom_file.DEFLATED in head:
        # It would be decompressed completely, whatever its size.
        raise ImageError(
            f"{path}: the file is deflated as a whole, which is not supported. Save it without compression."
        )
    with dicom_file.damage_named(path):
        tags = [*SERIES, *GEOMETRY, *PIXEL_TAGS, *SCALE_TAGS, *FRAME_GROUPS, *ACQUIRED]
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
        if dicom_file.text_of(header, "Rows") and dicom_file.text_of(header, "Columns"):
            return header
        kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if kind is not None and "Image Storage" in getattr(kind, "name", ""):
            raise ImageError(f"{path}: its kind is {kind.name}, but it ends before its size is stated. Copy it again.")
        return None


def find_series(files: Sequence[Path]) -> tuple[list[Series], list[Path]]:
    """The series of these DICOM files by their UID, in the order of series numbers, and the files without an image."""
    headers_by_uid: dict[str, list[tuple[Path, Any]]] = {}
    empty = []
    for path in files:
        header = read_header(path)
        if header is None:
            empty.append(path)
        else:
            headers_by_uid.setdefault(dicom_file.text_of(header, "SeriesInstanceUID"), []).append((path, header))
    series = [Series(uid, tuple(headers)) for uid, headers in headers_by_uid.items()]
    return sorted(
        series,
        key=lambda one_series: (dicom_file.whole_number(one_series.headers[0][1], "SeriesNumber", 0), one_series.uid),
    ), empty


def choose(series: Sequence[Series], sequence: str | None, where: Path) -> tuple[Series, list[str]]:
    """The series that shows the sequence, and notes on series that were left aside.

    A single series is accepted whatever its name. Of several, localisers are left aside; then the sequence must match
    exactly one: its modality, description or protocol completely, else a word of them, else the beginning of a word.

    Raises:
        ImageError: none or several match; the message lists all.
    """
    if len(series) == 1:
        return series[0], _doubts(series[0], sequence)
    proper = [candidate for candidate in series if not candidate.is_localiser] or list(series)
    matches = proper if len(proper) == 1 else _matching(proper, sequence)
    if len(matches) == 1:
        ignored_series = [candidate.description for candidate in series if candidate is not matches[0]]
        more = f" and {len(ignored_series) - SHOWN} more" if len(ignored_series) > SHOWN else ""
        note = f"{matches[0].description} was taken; left aside: {', '.join(ignored_series[:SHOWN])}{more}"
        return matches[0], [note, *_doubts(matches[0], sequence)]
    if sequence is None:
        mismatch = "and the table does not name one"
    else:
        mismatch = f"and {'none' if not matches else 'more than one'} of them is named by the sequence {sequence!r}"
    listed = "\n".join(f"  {candidate.description}" for candidate in series[:SHOWN])
    more = f"\n  … and {len(series) - SHOWN} more" if len(series) > SHOWN else ""
    raise ImageError(
        f"{where}: the folder mixes {len(series)} series, {mismatch}. Name the sequence as the scanner does, or "
        f"put the series in a separate folder:\n{listed}{more}"
    )


def _matching(series: Sequence[Series], sequence: str | None) -> list[Series]:
    """The series that match the name of a sequence by the strictest criterion that any of them meets."""
    words = _words(sequence or "")
    if not words:
        return []
    tags = ("Modality", "SeriesDescription", "ProtocolName")
    for fits in (_equals, _contains, _begins):
        matches = [candidate for candidate in series if any(fits(_words(candidate.text(tag)), words) for tag in tags)]
        if matches:
            return matches
    return []


def _doubts(series: Series, sequence: str | None) -> list[str]:
    """A note if the series names another sequence than the table does."""
    description = series.text("SeriesDescription")
    in_files, in_table = _sequences(f"{description} {series.text('ProtocolName')}"), _sequences(sequence or "")
    if not in_files or not in_table or in_files & in_table:
        return []
    return [f"the table calls it {sequence}, but its files call it {description!r}"]


def _sequences(text: str) -> set[str]:
    return {name for name in SEQUENCES for word in _words(text) if word.startswith(name)}


def _words(text: str) -> list[str]:
    """Words of letters and digits in lower case; T2* differs from T2."""
    return re.findall(r"[a-z0-9]+", text.casefold().replace("*", "star"))


def _equals(text: list[str], words: list[str]) -> bool:
    return text == words


def _contains(text: list[str], words: list[str]) -> bool:
    return any(text[i : i + len(words)] == words for i in range(len(text)))


def _begins(text: list[str], words: list[str]) -> bool:
    """Whether a word begins with the name: T1 matches T1W, but T2 does not match T2star."""
    return len(words) == 1 and any(word.startswith(words[0]) and "star" not in word for word in text)
