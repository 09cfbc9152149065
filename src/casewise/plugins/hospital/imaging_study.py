"""The study that the images of a case belong to, as their DICOM headers state it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.cohort.folder_layout import DICOM_SUFFIXES
from casewise.errors import CasewiseError
from casewise.modalities.store import dicom_file

if TYPE_CHECKING:
    from pydicom import Dataset

NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# What an object copies from the images, and may be empty in them.
COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
REQUEST = (
    *("AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription"),
    *("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"),
)


class NoStudyError(CasewiseError):
    """The case belongs to no study, because none of its images is DICOM."""


@dataclass(frozen=True, eq=False)
class ImagingStudy:
    """The files of a case and what the header of the first states; texts are empty where it states nothing.

    Attributes:
        headers: each instance once, images first, all of one patient, with texts in UTF-8.
        started: date and time of the study with its offset from UTC, as ISO 8601; the date alone if one is missing.
        timezone: of all times in the headers; None if it is not stated.
        issuer: who assigned the patient's identifier.
        requests: the requested procedures, as items of ReferencedRequestSequence.
    """

    headers: tuple[Dataset, ...]
    uid: str
    accession: str
    started: str
    timezone: tzinfo | None
    institution: str
    patient_id: str
    issuer: str
    requests: tuple[Dataset, ...]

    @classmethod
    def of(cls, sources: Sequence[Path]) -> ImagingStudy:
        """The study of these files and folders of series.

        Raises:
            NoStudyError: none is DICOM.
            CasewiseError: one is not DICOM, cannot be read, lacks an identifier, or is of another patient.
        """
        headers = _headers(sources)
        first = headers[0]
        offset = dicom_file.text_of(first, "TimezoneOffsetFromUTC")
        offset = offset if re.fullmatch(r"[+-][0-9]{4}", offset) else ""
        return cls(
            headers=headers,
            uid=str(first.StudyInstanceUID),
            accession=first.AccessionNumber,
            started=started(first.StudyDate, first.StudyTime, offset),
            timezone=_timezone(offset),
            institution=dicom_file.text_of(first, "InstitutionName"),
            patient_id=first.PatientID.strip(),
            issuer=dicom_file.text_of(first, "IssuerOfPatientID"),
            requests=tuple(_requests(first)),
        )

    def of_file(self, path: Path) -> list[Dataset]:
        """The header of one image."""
        return [header for header in self.headers if Path(header.filename) == path]

    def images(self, path: Path | None = None) -> list[Dataset]:
        """The headers of the image of a file, or of all images; a refused study may contain objects that are none."""
        headers = (path and self.of_file(path)) or self.headers
        return [header for header in headers if _is_image(header)]


def _headers(sources: Sequence[Path]) -> tuple[Dataset, ...]:
    pydicom = dicom_file.quiet_pydicom()
    headers: dict[str, Dataset] = {}
    for path in _dicom_of(list(_files(sources))):
        with dicom_file.damage_named(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            if lacking := next((name for name in NEEDED if not header.get(name)), None):
                raise CasewiseError(f"{path.name} has no {lacking}, by which a report refers to it.")
            header.decode()
            for name in COPIED:
                # as text, so that it is written in the character set of the report
                setattr(header, name, _allowed(name, str(header.get(name) or "")))
            header.SpecificCharacterSet = "ISO_IR 192"
            headers.setdefault(str(header.SOPInstanceUID), header)
    if not dicom_file.same_patient(
        [dicom_file.text_of(header, name) for name in dicom_file.PERSON] for header in headers.values()
    ):
        raise CasewiseError(
            "Its images have several patient identifiers, names or dates of birth. A report is about one patient."
        )
    return tuple(sorted(headers.values(), key=_is_image, reverse=True))


def _is_image(header: Dataset) -> bool:
    return bool(header.get("Rows"))


def _dicom_of(files: Sequence[Path]) -> Sequence[Path]:
    """These files, if all are DICOM; one with the suffix that is not DICOM is a broken copy."""
    if not files:
        raise NoStudyError("No image of the case is named, and a report belongs to the study of its images.")
    others = [
        path
        for path in files
        if path.suffix.lower() not in DICOM_SUFFIXES and not dicom_file.is_dicom(dicom_file.head_of(path))
    ]
    if others:
        kind = NoStudyError if len(others) == len(files) else CasewiseError
        raise kind(f"{others[0].name} is not a DICOM file, and a report belongs to the study of its images.")
    return files


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        yield from dicom_file.dicom_files(source)[0] if os.path.isdir(source) else [source]


def _allowed(name: str, text: str) -> str:
    """A text as the standard allows it for an element; empty if it does not, so that the study still has an answer."""
    if name == "PatientSex":
        return text if text in ("M", "F", "O") else ""
    if not name.endswith(("Date", "Time")):
        return text
    is_date = name.endswith("Date")
    text = re.sub("[.-]" if is_date else ":", "", text.strip())  # as the predecessor of DICOM divided them
    form = "[0-9]{8}" if is_date else r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?"
    try:
        datetime.fromisoformat(f"{text}T00" if is_date else f"20000101T{text}")
    except ValueError:
        return ""
    return text if re.fullmatch(form, text) else ""


def started(day: str, clock: str, offset: str) -> str:
    """A date and time of DICOM as ISO 8601: without an offset, or with a damaged time, the date alone.

    >>> started("20200131", "101530.25", "+0100"), started("20200131", "1015", ""), started("", "1015", "+0100")
    ('2020-01-31T10:15:30+01:00', '2020-01-31', '')
    """
    if not day:
        return ""
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{offset}" if clock and offset else "")
    except ValueError:
        return date.fromisoformat(day).isoformat()
    return moment.isoformat(timespec="seconds")


def _timezone(offset: str) -> tzinfo | None:
    try:
        return datetime.strptime(offset, "%z").tzinfo
    except ValueError:
        return None


def _requests(header: Dataset) -> Iterator[Dataset]:
    from pydicom import Dataset

    for stated in header.get("ReferencedRequestSequence") or header.get("RequestAttributesSequence") or [header]:
        item = Dataset()
        for name in REQUEST:
            setattr(item, name, dicom_file.text_of(stated, name) or dicom_file.text_of(header, name))
        item.RequestedProcedureCodeSequence = (
            stated.get("RequestedProcedureCodeSequence") or header.get("RequestedProcedureCodeSequence") or []
        )
        if any(element.value for element in item):
            item.StudyInstanceUID = stated.get("StudyInstanceUID") or header.StudyInstanceUID
            item.ReferencedStudySequence = []
            yield item
