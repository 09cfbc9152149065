"""What the header of a received instance states, and whose study it is.

The view of a film is that of ViewPosition, else of ViewCodeSequence (CID 4010), else the only view that the description
of its series or protocol names; a body part that is not stated is looked for in AnatomicRegionSequence and the
descriptions, also that of the study.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casewise.errors import CasewiseError
from casewise.modalities.store import dicom_file

TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID", "PatientName",
    "PatientBirthDate", "Modality", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition", "ViewCodeSequence",
    "SeriesDescription", "StudyDescription", "ProtocolName", "PixelSpacing", "ImagerPixelSpacing", "ImageType",
    "NumberOfFrames", "InstanceNumber", "SeriesNumber", "PresentationIntentType", "Manufacturer",
    "ManufacturerModelName", "InstitutionName", "StationName", "AccessionNumber", "ImageLaterality", "Laterality",
)  # fmt: skip
# What answers repeat about the patient and the study.
IDENTIFIERS = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "AccessionNumber",
    "SOPInstanceUID",
    "SeriesInstanceUID",
)
# Character sets with letters of English only (PS3.3, C.12.1.1.2).
ASCII_ONLY = ("", "ISO_IR 6", "ISO 2022 IR 6")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# The meanings of codes of views by their letters, as ViewPosition states them.
VIEWS = {
    "anteroposterior": "AP",
    "posteroanterior": "PA",
    "lateral": "LAT",
    "leftlateral": "LL",
    "rightlateral": "RL",
    "craniocaudal": "CC",
    "mediolateraloblique": "MLO",
    "mediolateral": "ML",
    "lateromedial": "LM",
}
IN_DESCRIPTIONS = re.compile(r"\b(AP|PA|LAT|LATERAL|LL|RL|CC|MLO|ML|LM)\b", re.IGNORECASE)


class UnanswerableError(CasewiseError):
    """Nobody can be answered about the study, such as one that states no patient, or several."""


@dataclass(frozen=True)
class InstanceHeader:
    """What the header of an instance states.

    Attributes:
        person: what identifies the patient: identifier, name, date of birth.
        description: of the series; title: the same, or that of the protocol.
        words: descriptions of series, protocol and study.
        spacing: in mm between rows and between columns; empty if not stated.
        issuer: of the identifier of the patient; is_image: whether it may be chosen at all.
        scanner: manufacturer and model; site: institution and station.
    """

    path: Path
    series: str
    instance: str
    person: tuple[str, str, str]
    modality: str
    body_part: str = ""
    view: str = ""
    laterality: str = ""
    description: str = ""
    title: str = ""
    words: str = ""
    spacing: tuple[float, ...] = ()
    frames: int = 1
    order: tuple[int, int] = (0, 0)
    is_image: bool = True
    is_raw: bool = False
    scanner: str = ""
    site: str = ""
    accession: str = ""
    issuer: str = ""


def read_header(path: Path) -> InstanceHeader:
    """The header of an instance, without its pixels.

    Raises:
        ImageError: the file is damaged.
        UnanswerableError: it is no DICOM file, or lacks an identifier, or has one that no answer can repeat.
    """
    head = dicom_file.head_of(path)
    if not dicom_file.is_dicom(head) or dicom_file.DEFLATED in head:
        raise UnanswerableError(f"{path.name} is no DICOM file that can be read.")
    with dicom_file.damage_named(path):
        tags = dicom_file.quiet_pydicom().dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS), force=True)
        texts = {tag: dicom_file.text_of(tags, tag) for tag in TAGS if not tag.endswith("Sequence")}
        region, view_code = (_meaning(tags, name) for name in ("AnatomicRegionSequence", "ViewCodeSequence"))
        problem = next(filter(None, (_identifier_problem(tags, name) for name in IDENTIFIERS)), "")
        numbers = [
            dicom_file.whole_number(tags, name, 0) for name in ("SeriesNumber", "InstanceNumber", "NumberOfFrames")
        ]
    if lacking := next((tag for tag in ("SOPInstanceUID", "SeriesInstanceUID") if not texts[tag]), ""):
        raise UnanswerableError(f"{path.name} has no {lacking}.")
    if problem:
        raise UnanswerableError(f"{path.name}: {problem}. An answer cannot repeat it; have the images corrected.")
    person = (texts["PatientID"], texts["PatientName"], texts["PatientBirthDate"])
    described = [texts[tag] for tag in ("SeriesDescription", "ProtocolName", "StudyDescription")]
    view = texts["ViewPosition"].upper() or VIEWS.get(re.sub(r"\W", "", view_code.lower()), view_code.upper())
    secondary = texts["SOPClassUID"].startswith(SECONDARY_CAPTURE) and texts["SOPClassUID"][25:26] in ("", ".")
    return InstanceHeader(
        path=path,
        series=texts["SeriesInstanceUID"],
        instance=texts["SOPInstanceUID"],
        person=person,
        modality=texts["Modality"].upper(),
        body_part=(texts["BodyPartExamined"] or region).upper(),
        view=view or _only_view(described[:2]),
        laterality=texts["ImageLaterality"] or texts["Laterality"],
        description=described[0],
        title=described[0] or described[1],
        words=" ".join(filter(None, described)),
        spacing=_numbers(texts["PixelSpacing"] or texts["ImagerPixelSpacing"]),
        frames=max(1, numbers[2]),
        order=(numbers[0], numbers[1]),
        is_image=not secondary and "LOCALIZER" not in texts["ImageType"].upper(),
        is_raw=texts["PresentationIntentType"].upper() == "FOR PROCESSING",
        scanner=" ".join(filter(None, (texts["Manufacturer"], texts["ManufacturerModelName"]))),
        site=" ".join(filter(None, (texts["InstitutionName"], texts["StationName"]))),
        accession=texts["AccessionNumber"],
        issuer=texts["IssuerOfPatientID"],
    )  # fmt: skip


def _identifier_problem(tags: Any, name: str) -> str:
    """Why an answer cannot repeat an identifier, without its value; empty if it can."""
    text, pydicom = dicom_file.text_of(tags, name), dicom_file.quiet_pydicom()
    if name in tags and tags[name].VM > 1:
        return f"its {name} has several values"
    if not text.isascii() and ("\ufffd" in text or dicom_file.text_of(tags, "SpecificCharacterSet") in ASCII_ONLY):
        return f"its {name} has letters that its character set does not have"
    if not text.isprintable():
        return f"its {name} has characters that are not printable"
    try:
        kind = pydicom.datadict.dictionary_VR(name)
        pydicom.valuerep.validate_value(kind, text, pydicom.config.RAISE)
    except ValueError:
        return f"its {name} is too long, or no value of {kind} as DICOM allows it"
    return ""


def _meaning(tags: Any, name: str) -> str:
    """The meaning of the first code of a sequence; empty without one."""
    items = tags.get(name) or []
    return dicom_file.text_of(items[0], "CodeMeaning") if len(items) else ""


def _only_view(described: Sequence[str]) -> str:
    """The view that the first description with views names, '' where it names several.

    >>> _only_view(["Chest pa", "AP and lateral"]), _only_view(["Chest PA + LAT"])
    ('PA', '')
    """
    for text in described:
        if views := {match.upper() for match in IN_DESCRIPTIONS.findall(text)}:
            return views.pop().replace("LATERAL", "LAT") if len(views) == 1 else ""
    return ""


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split("\\") if number)
    except ValueError:
        return ()


def patient_of(headers: Sequence[InstanceHeader]) -> str:
    """The identifier of the patient of a study.

    Raises:
        UnanswerableError: there is none, or there are several patients.
    """
    if not dicom_file.same_patient((*header.person, header.issuer) for header in headers):
        raise UnanswerableError("The study names several patients. An answer is about one.")
    if not headers or not headers[0].person[0]:
        raise UnanswerableError("The study states no PatientID, so nobody is known whom an answer is about.")
    return headers[0].person[0]
