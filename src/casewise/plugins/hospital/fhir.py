"""Predictions as FHIR R5: an `Observation` for each score with its inputs, and for each target that no score uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias
from urllib.parse import quote

from casewise.errors import printable
from casewise.files import json_text
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts, Quantity, Value, digest, quantities, remarks

# Everything that casewise names itself is below this URI: targets, classes, extensions and identifiers.
OWN = "urn:casewise"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
DIGITS = 6
# A resource of FHIR, or an element of one, as JSON.
Resource: TypeAlias = dict[str, Any]


class Fhir:
    """FHIR R5 Observation as JSON."""

    name, title, ending = "fhir", "FHIR R5 Observation", ".json"
    packages: tuple[str, ...] = ("fhir.resources",)

    def files(self, result: CaseResult, facts: ModelFacts) -> Iterator[tuple[str, bytes]]:
        """The files of a case: a name that tells them from the case's others, and their bytes.

        Raises:
            CasewiseError: the case cannot be written in this format; the message is the reason.
        """
        from fhir.resources.observation import Observation

        for quantity in quantities(result, facts):
            resource = observation(result, quantity, facts)
            Observation.model_validate(resource)
            main = quantity.main
            # two images of a case may have one name in different folders
            image = digest(main.image)[:8] if main.image else ""
            name = "-".join(filter(None, (main.target, main.location, image, main.learner)))
            yield name, json_text(resource).encode()


def observation(result: CaseResult, quantity: Quantity, facts: ModelFacts) -> Resource:
    """The Observation of one quantity as JSON."""
    main = quantity.main
    names = (facts.checksum, main.learner, result.case, main.region, main.image, main.target)
    resource = {
        "resourceType": "Observation",
        "contained": [_device(facts)],
        "identifier": [{"system": f"{OWN}:result", "value": digest(*names)}],
        "status": "preliminary",
        "code": _code(main, facts),
        "subject": {"type": "Patient", "identifier": {"value": _text(result.subject)}},
        **_value(main, facts),
        "method": {"text": _text(f"casewise {facts.version}, learner {main.learner} of the model {facts.name}")},
        "device": {"reference": "#model"},
        "note": [{"text": _text(sentence)} for sentence in remarks([main, *quantity.inputs], facts)],
    }
    if result.visit:
        resource["encounter"] = {"type": "Encounter", "identifier": {"value": _text(result.visit)}}
    if main.region:
        resource["bodySite"] = {"text": _text(main.region)}
    if quantity.inputs:
        resource["component"] = [{"code": _code(value, facts), **_value(value, facts)} for value in quantity.inputs]
    return resource


def _device(facts: ModelFacts) -> Resource:
    return {
        "resourceType": "Device",
        "id": "model",
        "identifier": [{"system": f"{OWN}:bundle-manifest-sha256", "value": facts.checksum}],
        "displayName": _text(facts.name),
        "version": [{"value": f"casewise {facts.version}"}],
    }


def _code(value: Value, facts: ModelFacts) -> Resource:
    return {"coding": [_coding("target", value.target, facts)], "text": _text(value.title)}


def _value(value: Value, facts: ModelFacts) -> Resource:
    """The elements of a value or of its absence, for an Observation or a component."""
    if value.prediction is None:
        coding = {"system": ABSENT, "code": "error", "display": "Error"}
        return {"dataAbsentReason": {"coding": [coding], "text": _text(value.problem)}}
    extensions = list(_extensions(value, facts))
    extended = {"extension": extensions} if extensions else {}
    if isinstance(value.prediction, str):
        coding = _coding(_class_system(value), value.prediction, facts)
        return {"valueCodeableConcept": {"coding": [coding], "text": _text(value.prediction)}} | extended
    return {"valueQuantity": {"value": _rounded(value.prediction)}} | extended


def _extensions(value: Value, facts: ModelFacts) -> Iterator[Resource]:
    """The interval, the set, the probabilities and the distance, for which an Observation has no element."""
    coverage = [{"url": "coverage", "valueDecimal": facts.coverage}] if facts.coverage is not None else []
    if value.low is not None and value.high is not None:
        limits = {"low": {"value": _rounded(value.low)}, "high": {"value": _rounded(value.high)}}
        yield _extension("prediction-interval", [{"url": "range", "valueRange": limits}, *coverage])
    if value.members:
        members = [{"url": "class", "valueCoding": _coding(_class_system(value), n, facts)} for n in value.members]
        yield _extension("prediction-set", [*members, *coverage])
    for name, share in (value.probabilities or {}).items():
        of_class = {"url": "class", "valueCoding": _coding(_class_system(value), name, facts)}
        yield _extension("probability", [of_class, {"url": "value", "valueDecimal": _rounded(share)}])
    if value.distance is not None:
        yield {"url": f"{OWN}:training-distance", "valueDecimal": _rounded(value.distance)}


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
