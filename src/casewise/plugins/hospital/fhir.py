"""Predictions as FHIR R5 or R4: one transaction a case with its observations, a report that lists them, and the model.

Each resource is written where its identifier already exists (conditional update), so that a repetition replaces it. A
score is an `Observation` with its inputs as components; a target that no score uses is one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from casewise.errors import printable
from casewise.files import json_text
from casewise.plugins.hospital.case_results import (
    RESEARCH,
    CaseResult,
    ModelFacts,
    Quantity,
    Value,
    digest,
    limits,
    of_study,
    quantities,
    remarks,
    unique,
)
from casewise.plugins.hospital.imaging_study import ImagingStudy, NoStudyError

# Everything that casewise names itself is below this URI: targets, classes, extensions and identifiers.
OWN = "urn:casewise"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
DIGITS = 6
# A resource of FHIR, or an element of one, as JSON.
Resource: TypeAlias = dict[str, Any]
Release: TypeAlias = Literal["R4", "R5"]


class Fhir:
    """A transaction Bundle of FHIR as JSON."""

    ending = ".json"
    packages: tuple[str, ...] = ("fhir.resources",)

    def __init__(self, name: str, release: Release) -> None:
        self.name, self.title, self._release = name, f"FHIR {release} transaction", release

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """
        # what R4B changed of R4 is in none of these resources
        module = import_module(f"fhir.resources.{'R4B.' if self._release == 'R4' else ''}bundle")
        content = transaction(result, facts, self._release)
        module.Bundle.model_validate(content)
        yield "", json_text(content).encode()


def transaction(result: CaseResult, facts: ModelFacts, release: Release) -> Resource:
    """The Bundle of a case as JSON."""
    device = _entry(_device(facts, release))
    context = _context(result)
    model = {"reference": device["fullUrl"]}
    observations = [
        _entry(_observation(quantity, key, facts) | context | {"device": model})
        for quantity, key in _identified(result, facts)
    ]
    report = {
        "resourceType": "DiagnosticReport",
        "identifier": [_identifier("report", digest(result.key, *sorted({value.learner for value in result.values})))],
        "status": "preliminary",
        "category": [_concept(f"{TERMINOLOGY}/v2-0074", "IMG", "Diagnostic Imaging")],
        "code": _concept("http://loinc.org", "18748-4", "Diagnostic imaging study"),
        **context,
        "result": [{"reference": entry["fullUrl"]} for entry in observations],
        "conclusion": _text(" ".join([RESEARCH, *of_study(result.values, facts), *limits(result.values, facts)])),
    }
    if images := report.pop("derivedFrom", []):
        report["imagingStudy" if release == "R4" else "study"] = images
    return {"resourceType": "Bundle", "type": "transaction", "entry": [device, *observations, _entry(report)]}


def _entry(resource: Resource) -> Resource:
    """A resource of a transaction; it replaces the one with the same identifier, if there is one."""
    kind, identifier = resource["resourceType"], resource["identifier"][0]
    return {
        "fullUrl": unique(kind, identifier["system"], identifier["value"]).urn,
        "resource": resource,
        "request": {"method": "PUT", "url": f"{kind}?identifier={identifier['system']}|{identifier['value']}"},
    }


def _context(result: CaseResult) -> Resource:
    """The elements common to observations and report: patient, study, time, order and institution."""
    study = _study(result)
    patient: Resource = {"value": _text(study.patient_id if study else result.subject)}
    if result.subject_system:
        patient["system"] = result.subject_system
    context: Resource = {"subject": {"type": "Patient", "identifier": patient}}
    if study and not study.patient_id:
        context = {"subject": {"type": "Patient", "display": "not stated by the images"}}
    if result.visit:
        context["encounter"] = {"type": "Encounter", "identifier": {"value": _text(result.visit)}}
    if result.named:
        context["issued"] = result.at.isoformat(timespec="seconds")
    if study is None:
        return context
    images = {"system": "urn:dicom:uid", "value": f"urn:oid:{study.uid}"}
    context["derivedFrom"] = [{"type": "ImagingStudy", "identifier": images}]
    if study.issuer and study.patient_id:
        patient["assigner"] = {"display": _text(study.issuer)}
    if study.started:
        context["effectiveDateTime"] = study.started
    if study.accession:
        order = {"type": _concept(f"{TERMINOLOGY}/v2-0203", "ACSN", "Accession ID"), "value": _text(study.accession)}
        context["basedOn"] = [{"type": "ServiceRequest", "identifier": order}]
    if study.institution:
        context["performer"] = [{"type": "Organization", "display": _text(study.institution)}]
    return context


def _study(result: CaseResult) -> ImagingStudy | None:
    """The study of the images; None if it may not be named, or none of them is DICOM.

    Raises:
        CasewiseError: they are damaged, or of several patients.
    """
    try:
        study = result.study
    except NoStudyError:
        return None
    return study if result.named else None


def _identified(result: CaseResult, facts: ModelFacts) -> Iterator[tuple[Quantity, str]]:
    """The quantities of a case, each with its identifier: its number within its learner and target.

    A region or image does not identify it, so that a value replaces the refusal of the same study.
    """
    groups: dict[tuple[str, str], list[Quantity]] = {}
    for quantity in quantities(result, facts):
        groups.setdefault((quantity.main.learner, quantity.main.target), []).append(quantity)
    for names, group in groups.items():
        group.sort(key=lambda quantity: (quantity.main.region, result.image_key(quantity.main)))
        yield from ((quantity, digest(result.key, *names, str(number))) for number, quantity in enumerate(group))


def _observation(quantity: Quantity, key: str, facts: ModelFacts) -> Resource:
    """The Observation of one quantity as JSON, without its context."""
    main = quantity.main
    resource = {
        "resourceType": "Observation",
        "identifier": [_identifier("result", key)],
        "status": "preliminary",
        "category": [_concept(f"{TERMINOLOGY}/observation-category", "imaging", "Imaging")],
        "code": _code(main, facts),
        **_value(main, facts),
        "method": {"text": _text(f"casewise {facts.version}, learner {main.learner} of the model {facts.name}")},
        "note": [{"text": _text(sentence)} for sentence in remarks([main, *quantity.inputs], facts)],
    }
    if main.region:
        resource["bodySite"] = {"text": _text(main.region)}
    if quantity.inputs:
        resource["component"] = [{"code": _code(value, facts), **_value(value, facts)} for value in quantity.inputs]
    return resource


def _device(facts: ModelFacts, release: Release) -> Resource:
    name = _text(facts.name)
    return {
        "resourceType": "Device",
        "identifier": [_identifier("bundle-manifest-sha256", facts.checksum)],
        "version": [{"value": f"casewise {facts.version}"}],
        **({"displayName": name} if release == "R5" else {"deviceName": [{"name": name, "type": "model-name"}]}),
    }


def _identifier(kind: str, value: str) -> dict[str, str]:
    return {"system": f"{OWN}:{kind}", "value": value}


def _concept(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _code(value: Value, facts: ModelFacts) -> Resource:
    return {"coding": [_coding("target", value.target, facts)], "text": _text(value.title)}


def _value(value: Value, facts: ModelFacts) -> Resource:
    """The elements of a value or of its absence, for an Observation or a component."""
    if value.prediction is None:
        reason = _concept(f"{TERMINOLOGY}/data-absent-reason", "error", "Error")
        return {"dataAbsentReason": reason | {"text": _text(value.problem)}}
    extensions = list(_extensions(value, facts))
    extended: Resource = {"extension": extensions} if extensions else {}
    extended |= {"interpretation": [{"text": value.caution}]} if value.caution else {}
    if isinstance(value.prediction, str):
        coding = _coding(_class_system(value), value.prediction, facts)
        return {"valueCodeableConcept": {"coding": [coding], "text": _text(value.prediction)}} | extended
    return {"valueQuantity": _quantity(value.prediction, value, facts)} | extended


def _extensions(value: Value, facts: ModelFacts) -> Iterator[Resource]:
    """The interval, the set, the probabilities and the distance; an Observation has no element for them."""
    coverage = [{"url": "coverage", "valueDecimal": facts.coverage}] if facts.coverage is not None else []
    if value.low is not None and value.high is not None:
        ends = {"low": _quantity(value.low, value, facts), "high": _quantity(value.high, value, facts)}
        yield _extension("prediction-interval", [{"url": "range", "valueRange": ends}, *coverage])
    if value.members:
        members = [{"url": "class", "valueCoding": _coding(_class_system(value), n, facts)} for n in value.members]
        yield _extension("prediction-set", [*members, *coverage])
    for name, share in (value.probabilities or {}).items():
        of_class = {"url": "class", "valueCoding": _coding(_class_system(value), name, facts)}
        yield _extension("probability", [of_class, {"url": "value", "valueDecimal": _rounded(share)}])
    if value.distance is not None:
        yield {"url": f"{OWN}:training-distance", "valueDecimal": _rounded(value.distance)}


def _quantity(number: float, value: Value, facts: ModelFacts) -> Resource:
    """A number with its unit in UCUM, where both are numbers without a dimension."""
    unit, code = ("score", "{score}") if value.target in facts.scores else ("1", "1")
    return {"value": _rounded(number), "unit": unit, "system": "http://unitsofmeasure.org", "code": code}


def _extension(name: str, inner: list[Resource]) -> Resource:
    return {"url": f"{OWN}:{name}", "extension": inner}


def _class_system(value: Value) -> str:
    return f"class:{quote(value.target, safe='')}"


def _coding(system: str, name: str, facts: ModelFacts) -> dict[str, str]:
    """A name of the study as a code; what it means is stated by the bundle, whose checksum is the version."""
    return {"system": f"{OWN}:{system}", "version": facts.checksum, "code": _text(name), "display": _text(name)}


def _text(text: str) -> str:
    """Text as FHIR allows it: printable, without blanks at its ends or two in a row, and never empty."""
    return " ".join(printable(text).split()) or "-"


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")
