"""Predictions as a DICOM structured report (TID 1500) in the study of the images that they were made from."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import CasewiseError, printable, shortened
from casewise.modalities.store.dicom_file import damage_named, dicom_files, head_of, is_dicom, quiet_pydicom
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts, Value, remarks

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.sr.coding import Code

# The designator of our own codes: the standard reserves those that begin with 99 for private schemes.
SCHEME = "99CASEWISE"
LONGEST_CODE, LONGEST_MEANING, LONGEST_NAME = 16, 64, 64
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
# What the images of one person have in common.
PATIENT = ("PatientID", "PatientName", "PatientBirthDate")
# What a report copies from the images, and may be empty in them.
COPIED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)


class DicomSr:
    """DICOM Comprehensive SR."""

    name, title, ending = "sr", "DICOM SR", ".dcm"
    packages: tuple[str, ...] = ("highdicom", "pydicom")

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """
        import pydicom

        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the images may violate the standard
            pydicom.dcmwrite(stream, report(result, source_headers(result), facts), enforce_file_format=True)
        yield "", stream.getvalue()


def source_headers(result: CaseResult) -> list[Dataset]:
    """The headers of the images of a case, each image once, all of one patient.

    Raises:
        CasewiseError: an image is not DICOM, cannot be read, lacks an identifier, or shows another patient.
    """
    pydicom = quiet_pydicom()
    headers: dict[str, Dataset] = {}
    for path in _files(result.sources):
        if not is_dicom(head_of(path)):
            raise CasewiseError(f"{path.name} is not a DICOM file, and a report belongs to the study of its images.")
        with damage_named(path):
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            if lacking := next((name for name in NEEDED if not header.get(name)), None):
                raise CasewiseError(f"{path.name} has no {lacking}, by which a report refers to it.")
            header.decode()
            for name in COPIED:
                # as text, so that it is written in the character set of the report
                setattr(header, name, str(header.get(name) or ""))
            header.SpecificCharacterSet = "ISO_IR 192"
            headers.setdefault(str(header.SOPInstanceUID), header)
    if not headers:
        raise CasewiseError("No image of the case is named, and a report belongs to the study of its images.")
    people = {tuple(str(header.get(name) or "").strip() for name in PATIENT) for header in headers.values()}
    if len(people) > 1:
        raise CasewiseError(
            "Its images have several patient identifiers, names or dates of birth. A report is about one patient."
        )
    return list(headers.values())


def _files(sources: Sequence[Path]) -> Iterator[Path]:
    for source in sources:
        yield from dicom_files(source)[0] if os.path.isdir(source) else [source]


def report(result: CaseResult, headers: Sequence[Dataset], facts: ModelFacts) -> Dataset:
    """The report of a case: a group of measurements for each learner, region and image, and remarks as comments."""
    import highdicom as hd
    from highdicom import sr
    from pydicom.sr.codedict import codes

    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{int(facts.checksum[:32], 16)}",
        name=_name(facts.name),
        manufacturer_name="casewise",
        model_name=f"casewise {facts.version}",
        serial_number=facts.checksum,
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=observer
        )
    )
    groups: dict[tuple[str, str, str], list[Value]] = {}
    for value in result.values:
        groups.setdefault((value.learner, value.region, value.image), []).append(value)
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_group(values, headers, facts) for values in groups.values()],
    )
    for sentence in remarks(result.values, facts):
        comment = sr.TextContentItem(
            name=codes.DCM.Comment, value=printable(sentence), relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
        content[0].ContentSequence.append(comment)
    with damage_named(Path("the images of the case")):
        return sr.ComprehensiveSR(
            evidence=headers,
            content=content[0],
            series_instance_uid=hd.UID(),
            series_number=9901,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="casewise",
            is_complete=all(not value.problem for value in result.values),
            is_final=False,
            is_verified=False,
            series_description=_name(f"casewise: {facts.name}"),
            software_versions=f"casewise {facts.version}",
        )


def _group(values: Sequence[Value], headers: Sequence[Dataset], facts: ModelFacts) -> Any:
    """The measurements of one learner, region and image, with the images that they refer to."""
    from highdicom import UID, sr

    first = values[0]
    # values of one image refer to that image alone
    headers = [header for header in headers if Path(header.filename) == first.source] or headers
    code = _Codes(facts)
    measurements, evaluations = [], []
    for value in values:
        if value.prediction is None:
            evaluations.append(sr.QualitativeEvaluation(code("T", value.target), code("N", "No prediction")))
        elif isinstance(value.prediction, str):
            evaluations.append(sr.QualitativeEvaluation(code("T", value.target), code("C", value.prediction)))
        else:
            measurements.append(_measurement(code("T", value.target), value.prediction))
        measurements += [
            _measurement(code("P", f"Probability of {name}, {value.target}"), share)
            for name, share in (value.probabilities or {}).items()
        ]
        if value.low is not None and value.high is not None:
            ends = {"Lower": value.low, "Upper": value.high}
            measurements += [
                _measurement(code("I", f"{end} end of the prediction interval, {value.target}"), number)
                for end, number in ends.items()
            ]
        evaluations += [
            sr.QualitativeEvaluation(code("S", f"In the prediction set, {value.target}"), code("C", name))
            for name in value.members
        ]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=UID(), identifier=printable(", ".join(filter(None, (first.learner, first.location))))
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=printable(facts.name),
            version=facts.checksum,
            parameters=[f"casewise {facts.version}", printable(f"learner {first.learner}")],
        ),
        finding_sites=[sr.FindingSite(code("R", first.region))] if first.region else None,
        measurements=measurements or None,
        qualitative_evaluations=evaluations or None,
        source_images=[
            sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in headers
        ],
    )


def _measurement(name: Code, number: float) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.Measurement(name=name, value=float(f"{number:.6g}"), unit=codes.UCUM.NoUnits)


class _Codes:
    """Names of the study as codes of our own scheme; what they mean is stated by the bundle."""

    def __init__(self, facts: ModelFacts) -> None:
        self._version = facts.checksum[:16]

    def __call__(self, kind: str, name: str) -> Code:
        """The code of a name; `kind` tells a target from a class of the same name."""
        from pydicom.sr.coding import Code

        short = f"{kind}-{name}"
        if len(short) > LONGEST_CODE or not short.replace("-", "").replace("_", "").isalnum() or not short.isascii():
            short = f"{kind}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:14]}"
        return Code(short, SCHEME, _name(name, LONGEST_MEANING), self._version)


def _name(text: str, limit: int = LONGEST_NAME) -> str:
    """Text as one value of DICOM: printable, without the sign that divides values, and never empty."""
    return shortened(" ".join(printable(text).replace("\\", "/").split()), limit) or "-"
