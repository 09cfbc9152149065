"""DICOM objects that join the study of the images of a case: their identifiers, what they copy, and their bytes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import printable, shortened
from casewise.modalities.store.dicom_file import damage_named
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts

if TYPE_CHECKING:
    from pydicom import Dataset

LONGEST_NAME = 64


def own_series(result: CaseResult, facts: ModelFacts, kind: str, number: int) -> dict[str, Any]:
    """Arguments of `highdicom.base.SOPClass` for the one object of a kind, in a series of its own of the case's study.

    Its identifiers follow from the bundle, the learners, the kind, the case and the study, so that a repetition
    replaces it. Its dates are the dates of the prediction, as the standard defines them: a report dated like its images
    would seem to have existed before it was made.

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
        "series_description": one_line(f"casewise {'report' if kind == 'sr' else 'page'}: {facts.name}"),
        "software_versions": f"casewise {facts.version}",
        "institution_name": one_line(study.institution) if study.institution else None,
        "content_date": at.date(),
        "content_time": at.time().replace(microsecond=0),
    }


def page_object(
    result: CaseResult, facts: ModelFacts, kind: str, number: int, *, sources: str, **options: Any
) -> Dataset:
    """An object with a page, without the page.

    Args:
        sources: the sequence that refers to the images.
        options: of `highdicom.base.SOPClass`.
    """
    from highdicom.base import SOPClass
    from pydicom import Dataset
    from pydicom.uid import ExplicitVRLittleEndian

    first = result.study.headers[0]
    with damage_named(Path("the images of the case")):
        dataset = SOPClass(
            study_instance_uid=first.StudyInstanceUID,
            specific_character_set=first.SpecificCharacterSet,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **own_series(result, facts, kind, number),
            **options,
        )
        dataset.copy_patient_and_study_information(first)
    if "RequestAttributesSequence" in first:
        dataset.RequestAttributesSequence = first.RequestAttributesSequence
    items = []
    for header in result.study.images():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        items.append(item)
    if items:
        setattr(dataset, sources, items)
    dataset.ConversionType, dataset.BurnedInAnnotation = "WSD", "YES"
    dataset.SecondaryCaptureDeviceManufacturer = "casewise"
    dataset.SecondaryCaptureDeviceManufacturerModelName = one_line(facts.name)
    dataset.SecondaryCaptureDeviceSoftwareVersions = f"casewise {facts.version}"
    return dataset


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
