"""The summary page as DICOM objects that viewers show beside the images: Secondary Capture and Encapsulated PDF."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.modalities.store.dicom_file import damage_named
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts
from casewise.plugins.hospital.imaging_study import as_file, one_line, own_series
from casewise.plugins.hospital.summary_page import drawn, page

if TYPE_CHECKING:
    from pydicom import Dataset

TITLE = "Summary of predictions by research software"


class SummaryImage:
    """The page as a Secondary Capture image, RGB with 8 bits."""

    name, title, ending = "summary-sc", "summary image", ".dcm"
    packages: tuple[str, ...] = ("highdicom", "pydicom")

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from pydicom.uid import SecondaryCaptureImageStorage

        canvas = FigureCanvasAgg(drawn(page(result, facts)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # signs that no font has are drawn as boxes
            canvas.draw()
        pixels = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
        dataset = _object(result, facts, self.name, 9902, sop_class_uid=SecondaryCaptureImageStorage, modality="OT")
        dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.DerivationDescription = f"{TITLE}: images with saliency maps and the predictions of {facts.name}"
        dataset.SourceImageSequence = _references(result)
        dataset.PatientOrientation = dataset.Laterality = None
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.LossyImageCompression = "00"
        dataset.PixelData = pixels.tobytes() + bytes(pixels.size % 2)
        yield "", as_file(result, dataset)


class SummaryPdf:
    """The page as an Encapsulated PDF."""

    name, title, ending = "summary-pdf", "summary PDF", ".dcm"
    packages: tuple[str, ...] = ("highdicom", "pydicom")

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """
        from highdicom.sr import CodedConcept
        from pydicom.sr.codedict import codes
        from pydicom.uid import EncapsulatedPDFStorage

        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metadata = {"CreationDate": result.at.replace(microsecond=0), "Title": TITLE, "Creator": "casewise"}
            drawn(page(result, facts)).savefig(stream, format="pdf", metadata=metadata)
        content = stream.getvalue()
        dataset = _object(result, facts, self.name, 9903, sop_class_uid=EncapsulatedPDFStorage, modality="DOC")
        dataset.AcquisitionDateTime, dataset.DocumentTitle = None, TITLE
        dataset.ConceptNameCodeSequence = [CodedConcept.from_code(codes.DCM.ImagingMeasurementReport)]
        dataset.SourceInstanceSequence = _references(result)
        dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
        dataset.EncapsulatedDocument = content + bytes(len(content) % 2)
        dataset.EncapsulatedDocumentLength = len(content)
        yield "", as_file(result, dataset)


def _object(result: CaseResult, facts: ModelFacts, kind: str, number: int, **options: Any) -> Dataset:
    """An object of the patient and the study of the images, with what both kinds of page have in common."""
    from highdicom.base import SOPClass
    from pydicom.uid import ExplicitVRLittleEndian

    first = result.study.headers[0]
    with damage_named(Path("the images of the case")):
        dataset = SOPClass(
            study_instance_uid=first.StudyInstanceUID,
            patient_id=first.PatientID,
            patient_name=first.PatientName,
            patient_birth_date=first.PatientBirthDate,
            patient_sex=first.PatientSex,
            accession_number=first.AccessionNumber,
            study_id=first.StudyID,
            study_date=first.StudyDate,
            study_time=first.StudyTime,
            referring_physician_name=first.ReferringPhysicianName,
            specific_character_set=first.SpecificCharacterSet,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **own_series(result, facts, kind, number),
            **options,
        )
        dataset.copy_patient_and_study_information(first)
    if "RequestAttributesSequence" in first:
        dataset.RequestAttributesSequence = first.RequestAttributesSequence
    dataset.ConversionType, dataset.BurnedInAnnotation = "WSD", "YES"
    dataset.SecondaryCaptureDeviceManufacturer = "casewise"
    dataset.SecondaryCaptureDeviceManufacturerModelName = one_line(facts.name)
    dataset.SecondaryCaptureDeviceSoftwareVersions = f"casewise {facts.version}"
    return dataset


def _references(result: CaseResult) -> list[Dataset]:
    from pydicom import Dataset

    items = []
    for header in result.study.headers:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        items.append(item)
    return items
