"""Predictions as a DICOM structured report (TID 1500) in the study of the images that they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.errors import printable
from casewise.modalities.store.dicom_file import damage_named
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts, Value, remarks
from casewise.plugins.hospital.dicom_objects import as_file, one_line, own_series, uid

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.sr.coding import Code

# The designator of our own codes: the standard reserves those that begin with 99 for private schemes.
SCHEME = "99CASEWISE"
LONGEST_CODE, LONGEST_MEANING = 16, 64
SERIES_NUMBER = 9901


class DicomSr:
    """DICOM Comprehensive SR."""

    name, title, ending = "sr", "DICOM SR", ".dcm"
    packages: tuple[str, ...] = ("highdicom", "pydicom")

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """
        yield "", as_file(result, report(result, facts))


def report(result: CaseResult, facts: ModelFacts) -> Dataset:
    """The report of a case: a group of measurements for each learner, region and image, and remarks as comments."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    study = result.study
    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{int(facts.checksum[:32], 16)}",
        name=one_line(facts.name),
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
        imaging_measurements=[_group(values, result, facts) for values in groups.values()],
    )
    for sentence in remarks(result.values, facts):
        comment = sr.TextContentItem(
            name=codes.DCM.Comment, value=printable(sentence), relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
        content[0].ContentSequence.append(comment)
    with damage_named(Path("the images of the case")):
        return sr.ComprehensiveSR(
            evidence=study.headers,
            content=content[0],
            is_complete=all(not value.problem for value in result.values),
            is_final=False,
            is_verified=False,
            requested_procedures=study.requests or None,
            **own_series(result, facts, "sr", SERIES_NUMBER),
        )


def _group(values: Sequence[Value], result: CaseResult, facts: ModelFacts) -> Any:
    """The measurements of one learner, region and image, with the images that they refer to."""
    from highdicom import UID, sr

    first, study = values[0], result.study
    status = "not confirmed for this source" if first.unconfirmed else ""
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
    if caution := next(filter(None, (value.caution for value in values)), ""):
        evaluations.append(sr.QualitativeEvaluation(code("L", "Limit of these results"), code("L", caution)))
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=UID(uid(result, "group", study.uid, first.learner, first.region, result.image_key(first))),
            identifier=printable(", ".join(filter(None, (first.learner, first.location, status)))),
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
            sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)
            for image in study.images(first.source)
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
        return Code(short, SCHEME, one_line(name, LONGEST_MEANING), self._version)
