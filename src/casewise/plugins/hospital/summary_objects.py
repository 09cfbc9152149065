"""The summary page as DICOM objects that viewers show with the images: Secondary Capture and Encapsulated PDF."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import numpy as np

from casewise.plugins.hospital.case_results import CaseResult, ModelFacts
from casewise.plugins.hospital.dicom_objects import as_file, page_object
from casewise.plugins.hospital.summary_page import drawn, page

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
        kind = {"sop_class_uid": SecondaryCaptureImageStorage, "modality": "OT"}
        dataset = page_object(result, facts, self.name, 9902, sources="SourceImageSequence", **kind)
        dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.DerivationDescription = f"{TITLE}: images with saliency maps and the predictions of {facts.name}"
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
        kind = {"sop_class_uid": EncapsulatedPDFStorage, "modality": "DOC"}
        dataset = page_object(result, facts, self.name, 9903, sources="SourceInstanceSequence", **kind)
        dataset.AcquisitionDateTime, dataset.DocumentTitle = None, TITLE
        dataset.ConceptNameCodeSequence = [CodedConcept.from_code(codes.DCM.ImagingMeasurementReport)]
        dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
        dataset.EncapsulatedDocument = content + bytes(len(content) % 2)
        dataset.EncapsulatedDocumentLength = len(content)
        yield "", as_file(result, dataset)
