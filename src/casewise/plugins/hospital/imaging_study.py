"""The study that the images of a case belong to, as their DICOM headers state it, and objects that join this study."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, printable, shortened
from casewise.modalities.store.dicom_file import damage_named, dicom_files, head_of, is_dicom, quiet_pydicom, text_of

if TYPE_CHECKING:
    from pydicom import Dataset

    from casewise.plugins.hospital.case_results import CaseResult, ModelFacts

LONGEST_NAME = 64
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# What the images of one person have in common.
PATIENT = ("PatientID", "PatientName", "PatientBirthDate")
# What an object copies from the images, and may be empty in them.
COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
REQUEST = (
    *("AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription"),
    *("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest"),
)


@dataclass(frozen=True, eq=False)
class ImagingStudy:
    """The images of a case and what the header of the first states; texts are empty where it states nothing.

    Attributes:
        headers: each image once, all of one patient, with texts in UTF-8.
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
            CasewiseError: an image is not DICOM, cannot be read, lacks an identifier, or shows another patient.
        """
        headers = _headers(sources)
        first = headers[0]
        offset = text_of(first, "TimezoneOffsetFromUTC")
        return cls(
            headers=headers,
            uid=str(first.StudyInstanceUID),
            accession=first.AccessionNumber,
            started=started(first.StudyDate, first.StudyTime, offset),
            timezone=_timezone(offset),
            institution=text_of(first, "InstitutionName"),
            patient_id=first.PatientID.strip(),
            issuer=text_of(first, "IssuerOfPatientID"),
            requests=tuple(_requests(first)),
        )

    def of_file(self, path: Path) -> list[Dataset]:
        """The header of one image."""
        return [header for header in self.headers if Path(header.filename) == path]


def _headers(sources: Sequence[Path]) -> tuple[Dataset, ...]:
    pydicom = quiet_pydicom()
    headers: dict[str, Dataset] = {}
    for path in _files(sources):
        if not is_dicom(head_of(path)):
            raise CasewiseError(f"{path.name} is not a DICOM file, and a report belongs to the study of its images.")
        with damage_named(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            if lacking := next((name for name in NEEDED if not header.get(name)), None):
                raise CasewiseError(f"{path.name} has no {lacking}, by which a report refers to it.")
            header.decode()
            for name in COPIED:
                # as text, so that it is written in the character set of the report
                setattr(header, name, _allowed(name, str(header.get(name) or "")))
            header.SpecificCharacterSet = "ISO_IR 192"
            headers.setdefault(str(header.SOPInstanceUID), header)
    if not headers:
        raise CasewiseError("No image of the case is named, and a report belongs to the study of its images.")
    people = {tuple(str(header.get(name) or "").strip() for name in PATIENT) for header in headers.values()}
    if len(people) > 1:
        raise CasewiseError(
            "Its images have several patient identifiers, names or dates of birth. A report is about one patient."
        )
    return tuple(headers.values())


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        yield from dicom_files(source)[0] if os.path.isdir(source) else [source]


def _allowed(name: str, text: str) -> str:
    """A text as the standard allows it for an element; empty if it does not, so that the study still has an answer."""
    if name == "PatientSex":
        return text if text in ("M", "F", "O") else ""
    if not name.endswith(("Date", "Time")):
        return text
    text = re.sub(r"[.:-]", "", text, count=2) if re.match(r"\d+[.:-]\d\d[.:-]", text) else text.strip()
    try:
        (date if name.endswith("Date") else time).fromisoformat(text)
    except ValueError:
        return ""
    return text


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
            setattr(item, name, text_of(stated, name) or text_of(header, name))
        item.RequestedProcedureCodeSequence = (
            stated.get("RequestedProcedureCodeSequence") or header.get("RequestedProcedureCodeSequence") or []
        )
        if any(element.value for element in item):
            item.StudyInstanceUID = stated.get("StudyInstanceUID") or header.StudyInstanceUID
            item.ReferencedStudySequence = []
            yield item


def own_series(result: CaseResult, facts: ModelFacts, kind: str, number: int) -> dict[str, Any]:
    """Arguments of `highdicom.base.SOPClass` for the one object of a kind, in a series of its own of the case's study.

    Its identifiers are those of every object that the same bundle and learners make of this kind, case and study, so
    that a repetition replaces it. Its dates are those of the prediction, as the standard defines them: a report dated
    like its images would seem to have existed before it was made.

    Raises:
        CasewiseError: the case has no DICOM study.
    """
    study = result.study
    names = (kind, study.uid, *sorted({value.learner for value in result.values}))
    at = result.at.astimezone(study.timezone)
    return {
        "series_instance_uid": uid(result, "series", *names),
        "series_number": number,
        "sop_instance_uid": uid(result, "object", *names),
        "instance_number": 1,
        "manufacturer": "casewise",
        "manufacturer_model_name": "casewise",
        "device_serial_number": facts.checksum,
        "series_description": one_line(f"casewise: {facts.name}"),
        "software_versions": f"casewise {facts.version}",
        "institution_name": one_line(study.institution) if study.institution else None,
        "content_date": at.date(),
        "content_time": at.time().replace(microsecond=0),
    }


def uid(result: CaseResult, *names: str) -> str:
    """A UID of something of a case that is the same in every repetition."""
    return f"2.25.{result.unique(*names).int}"


def as_file(result: CaseResult, dataset: Dataset) -> bytes:
    """An object as a file, with its time zone and the time of the prediction."""
    import pydicom

    study = result.study
    if study.timezone:
        dataset.TimezoneOffsetFromUTC = study.headers[0].TimezoneOffsetFromUTC
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = dataset.ContentDate, dataset.ContentTime
    for item in dataset.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = f"{dataset.ContentDate}{dataset.ContentTime}"
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the images may violate the standard
        pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def one_line(text: str, limit: int = LONGEST_NAME) -> str:
    """Text as one value of DICOM: printable, without the sign that divides values, and never empty."""
    return shortened(" ".join(printable(text).replace("\\", "/").split()), limit) or "-"
