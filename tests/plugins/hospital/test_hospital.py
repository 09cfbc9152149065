"""Results in the formats of hospitals, read back with the libraries of their standards."""

import hashlib
import io
import json
import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.cli.predict import parsed_folders
from casewise.errors import CasewiseError, RunError
from casewise.inference.case_chunks import PredictedChunk, cases_of, sources_of
from casewise.inference.output_table import OutputTable
from casewise.inference.visits import names_visits
from casewise.plugins.hospital import case_results
from casewise.plugins.hospital.case_results import RESEARCH, CaseResult, ModelFacts, Value, results_of
from casewise.plugins.hospital.formats import FORMATS, result_folders
from casewise.study.scores import Score
from tests.film_files import film_bytes
from tests.test_new_cases import study_of

pytest.importorskip("fhir.resources", reason="the extra `hospital` is not installed")
pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")

ILL = "schön krank βeta"
TOTAL = Score("total", "redness[upper] + 2 * redness[lower]", "case", 0, 12)
SCORES = {"total": TOTAL, "worst": Score("worst", "redness * 2", "region", 0, 8)}
CLASSES: dict[str, tuple[str, ...]] = {"redness": (), "befund": ("gesund", ILL), "grade": ("0", "1", "2"), "age": ()}
FACTS = ModelFacts(name="Schöne Studie", checksum="ab" * 32, classes=CLASSES, scores=SCORES, coverage=0.9)
VALUES = (
    Value("net", "redness", "upper", prediction=1.23456789, low=0.5, high=2.0, distance=1.5),
    Value("net", "redness", "lower", prediction=2.0),
    Value("net", "total", prediction=5.25, low=4.0, high=6.5),
    Value("net", "worst", "upper", prediction=2.5),
    Value("net", "worst", "lower", prediction=4.0),
    Value("net", "befund", prediction=ILL, probabilities={"gesund": 0.25, ILL: 0.75}, members=("gesund", ILL)),
    Value("net", "grade", prediction="2", probabilities={"0": 0.1, "1": 0.2, "2": 0.7}, note="in every set: 0"),
    Value("net", "age", problem="Müllers Bild.png: the file is empty."),
)


STATED = {
    "StudyTime": "101530.25",
    "TimezoneOffsetFromUTC": "+0100",
    "AccessionNumber": "A-1",
    "StudyID": "77",
    "InstitutionName": "Klinik Süd",
    "IssuerOfPatientID": "KIS",
    "RequestedProcedureID": "RP7",
    "RequestedProcedureDescription": "Thorax",
    "PatientSex": "F",
    "ReferringPhysicianName": "Arzt^Änne",
}


def film(path: Path, **tags: Any) -> Path:
    about: dict[str, Any] = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1", "StudyDate": "20200131"}
    about |= {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg", "PatientID": "ÄÖ-7"}
    path.write_bytes(film_bytes(np.zeros((8, 8), np.uint16), **about | tags))
    return path


def result(*sources: Path, values: tuple[Value, ...] = VALUES) -> CaseResult:
    return CaseResult("Jörg Müller/Woche 4", "Jörg Müller", "Woche 4", sources, values)


def transaction(case: CaseResult, name: str = "fhir") -> dict[str, list[dict[str, Any]]]:
    """The resources of a case by their type, validated by the library of the standard; the entries by their URL."""
    ((_, content),) = FORMATS[name].files(case, FACTS)
    module = import_module(f"fhir.resources.{'R4B.' if name == 'fhir-r4' else ''}bundle")
    module.Bundle.model_validate_json(content)
    bundle = json.loads(content)
    assert bundle["type"] == "transaction"
    resources: dict[str, list[dict[str, Any]]] = {}
    for entry in bundle["entry"]:
        kind, identifier = entry["resource"]["resourceType"], entry["resource"]["identifier"][0]
        url = f"{kind}?identifier={identifier['system']}|{identifier['value']}"
        assert entry["request"] == {"method": "PUT", "url": url}
        resources.setdefault(kind, []).append(entry["resource"] | {"fullUrl": entry["fullUrl"]})
    return resources


def observations(values: tuple[Value, ...] = VALUES) -> dict[str, dict[str, Any]]:
    """The Observations of a case by the text of their codes."""
    return {made["code"]["text"]: made for made in transaction(result(values=values))["Observation"]}


def score(value: float) -> dict[str, Any]:
    return {"value": value, "unit": "score", "system": "http://unitsofmeasure.org", "code": "{score}"}


def extensions(element: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The inner values of every extension of a name."""
    own = [each for each in element.get("extension", []) if each["url"] == f"urn:casewise:{name}"]
    return [{inner["url"]: inner[next(k for k in inner if k != "url")] for inner in each["extension"]} for each in own]


class TestFhir:
    def test_scores_have_their_inputs_and_other_targets_stand_alone(self) -> None:
        made = observations()
        assert set(made) == {"total", "worst (upper)", "worst (lower)", "befund", "grade", "age"}
        assert made["total"]["valueQuantity"] == score(5.25)
        assert made["total"]["component"][0]["valueQuantity"]["code"] == "1"
        inputs = {part["code"]["text"]: part["valueQuantity"]["value"] for part in made["total"]["component"]}
        assert inputs == {"redness (upper)": 1.23457, "redness (lower)": 2.0}
        worst = made["worst (upper)"]
        assert [part["code"]["text"] for part in worst["component"]] == ["redness (upper)"]
        assert worst["bodySite"] == {"text": "upper"}
        assert "component" not in made["grade"]

    def test_intervals_are_extensions_and_never_reference_ranges(self) -> None:
        made, limits = observations(), {"low": score(4.0), "high": score(6.5)}
        assert extensions(made["total"], "prediction-interval") == [{"range": limits, "coverage": 0.9}]
        first = made["total"]["component"][0]
        assert extensions(first, "prediction-interval")[0]["range"]["high"]["value"] == 2.0
        assert "referenceRange" not in json.dumps(made)
        assert any("90% prediction interval 4 to 6.5" in note["text"] for note in made["total"]["note"])

    def test_the_note_states_whether_a_case_is_unlike_the_training_cases(self) -> None:
        notes = {name: " ".join(note["text"] for note in made["note"]) for name, made in observations().items()}
        assert "farther from the training cases" in notes["total"]
        assert "farther" not in notes["grade"]
        (flagged,) = observations((Value("net", "age", prediction=2.0, flags="upside down"),)).values()
        assert "unlike the training cases: upside down." in " ".join(note["text"] for note in flagged["note"])
        assert "unlike" not in json.dumps(observations((Value("net", "age", prediction=2.0),)))

    def test_classes_and_grades_are_codes_of_the_model(self) -> None:
        made = observations()
        for name, predicted in (("befund", ILL), ("grade", "2")):
            coding = made[name]["valueCodeableConcept"]["coding"][0]
            assert (coding["code"], coding["version"]) == (predicted, FACTS.checksum)
            assert coding["system"] == f"urn:casewise:class:{name}"
        shares = {each["class"]["code"]: each["value"] for each in extensions(made["grade"], "probability")}
        assert shares == {"0": 0.1, "1": 0.2, "2": 0.7}
        members = next(e for e in made["befund"]["extension"] if e["url"].endswith("set"))["extension"]
        assert [e["valueCoding"]["code"] for e in members if e["url"] == "class"] == ["gesund", ILL]

    def test_a_missing_prediction_has_its_reason(self) -> None:
        age = observations()["age"]
        assert age["dataAbsentReason"]["text"] == "Müllers Bild.png: the file is empty."
        assert age["dataAbsentReason"]["coding"][0]["code"] == "error"
        assert not any(key.startswith("value") for key in age)

    def test_a_score_that_could_not_be_computed_names_what_is_missing(self) -> None:
        made = observations(case_results.with_uncomputed((VALUES[0], VALUES[3]), FACTS))
        assert "redness[lower]" in made["total"]["dataAbsentReason"]["text"]
        assert made["total"]["component"][0]["valueQuantity"]["value"] == 1.23457

    @pytest.mark.parametrize("name", ["fhir", "fhir-r4"])
    def test_every_resource_names_its_status_subject_and_model(self, name: str) -> None:
        made = transaction(result(), name)
        (device,), (report,), observed = made["Device"], made["DiagnosticReport"], made["Observation"]
        assert device["identifier"][0]["value"] == FACTS.checksum
        shown = device["displayName"] if name == "fhir" else device["deviceName"][0]["name"]
        assert shown == "Schöne Studie"
        for each in (report, *observed):
            assert each["status"] == "preliminary"
            assert each["subject"] == {"type": "Patient", "identifier": {"value": "Jörg Müller"}}
            assert each["encounter"]["identifier"] == {"value": "Woche 4"}
            assert each["issued"]
            assert not {"effectiveDateTime", "basedOn", "derivedFrom", "study", "imagingStudy", "performer"} & set(each)
        assert [each["reference"] for each in report["result"]] == [each["fullUrl"] for each in observed]
        assert report["conclusion"].startswith(RESEARCH)
        for each in observed:
            assert each["device"] == {"reference": device["fullUrl"]}
            assert each["note"][0]["text"] == RESEARCH
        again = transaction(result(), name)["Observation"]
        assert [each["fullUrl"] for each in again] == [each["fullUrl"] for each in observed]
        assert len({each["fullUrl"] for each in observed}) == 6

    @pytest.mark.parametrize(("name", "key"), [("fhir", "study"), ("fhir-r4", "imagingStudy")])
    def test_what_the_images_state_about_their_study(self, tmp_path: Path, name: str, key: str) -> None:
        image = film(tmp_path / "a.dcm", **STATED)
        case = replace(result(image), subject_system="urn:oid:1.2.3")
        made = transaction(case, name)
        for each in (*made["DiagnosticReport"], *made["Observation"]):
            patient = {"system": "urn:oid:1.2.3", "value": "ÄÖ-7", "assigner": {"display": "KIS"}}
            assert each["subject"]["identifier"] == patient
            assert each["effectiveDateTime"] == "2020-01-31T10:15:30+01:00"
            order = each["basedOn"][0]["identifier"]
            assert (order["type"]["coding"][0]["code"], order["value"]) == ("ACSN", "A-1")
            assert each["performer"] == [{"type": "Organization", "display": "Klinik Süd"}]
            images = each[key if each["resourceType"] == "DiagnosticReport" else "derivedFrom"]
            assert images[0]["identifier"] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}
        nameless = replace(case, named=False, subject="hashed-1", visit="", subject_system="")
        ((_, content),) = FORMATS[name].files(nameless, FACTS)
        hidden = ("ÄÖ-7", "2020", "A-1", "Klinik", "1.2.3", "KIS", "issued", "urn:dicom:uid")
        assert not [text for text in hidden if json.dumps(text)[1:-1] in json.dumps(json.loads(content))]
        # with and without names, and from another folder, the same resources are replaced
        moved = replace(case, sources=(film(tmp_path / "b.dcm", **STATED),))
        urls = [[e["fullUrl"] for e in transaction(each, name)["Observation"]] for each in (case, nameless, moved)]
        assert urls[0] == urls[1] == urls[2]

    def test_a_study_without_an_offset_has_a_date_alone(self, tmp_path: Path) -> None:
        image = film(tmp_path / "a.dcm", StudyTime="101530", PatientID="")
        (report,) = transaction(replace(result(image), subject_system="urn:oid:1.2.3"))["DiagnosticReport"]
        assert report["effectiveDateTime"] == "2020-01-31"
        assert report["subject"] == {"type": "Patient", "display": "not stated by the images"}

    @pytest.mark.parametrize("named", [True, False])
    def test_images_of_two_patients_or_damaged_are_refused(self, tmp_path: Path, named: bool) -> None:
        first, other = film(tmp_path / "a.dcm"), film(tmp_path / "b.dcm", PatientID="8", SOPInstanceUID="1.9")
        (tmp_path / "empty.dcm").write_bytes(b"")
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff photograph")
        photo = tmp_path / "photo.jpg"
        for sources in ([first, other], [tmp_path / "empty.dcm"], [tmp_path / "nowhere.dcm"], [photo, first]):
            with pytest.raises(CasewiseError):
                transaction(replace(result(*sources), named=named))
        (report,) = transaction(replace(result(photo), named=named))["DiagnosticReport"]
        assert "study" not in report

    def test_an_answer_replaces_an_earlier_one_of_the_study(self, tmp_path: Path) -> None:
        images = [film(tmp_path / f"{n}.dcm", SOPInstanceUID=f"1.9.{n}") for n in range(3)]

        def urls(*values: Value) -> list[str]:
            shown = case_results.with_uncomputed(values, FACTS)
            return [each["fullUrl"] for each in transaction(result(*images, values=shown))["Observation"]]

        targets = ("redness", "befund", "grade", "age")
        refusal = urls(*(Value("net", name, problem="No image suits the model.") for name in targets))
        assert len(refusal) == 5  # two scores and the targets that none uses
        assert urls(*VALUES[:2], *VALUES[2:4], *VALUES[5:]) == refusal
        assert set(refusal) < set(urls(*VALUES))
        ages = [Value("net", "age", image=str(path), prediction=1.0, source=path) for path in images]
        of_age = [urls(*ages[:1]), urls(ages[2]), urls(*ages), urls(*ages[::-1])]
        assert of_age[0] == of_age[1]
        assert set(of_age[0]) < set(of_age[2])
        assert of_age[2] == of_age[3]
        assert len(set(of_age[2])) == 5


class TestDicom:
    def report(self, *sources: Path, values: tuple[Value, ...] = VALUES) -> Any:
        from highdicom.sr import srread

        ((_, content),) = FORMATS["sr"].files(result(*sources, values=values), FACTS)
        return srread(io.BytesIO(content))

    def test_a_report_without_a_score_is_partial(self, tmp_path: Path) -> None:
        image = film(tmp_path / "a.dcm", SOPInstanceUID="1.2.3.1.1")
        report = self.report(image, values=case_results.with_uncomputed((VALUES[0], VALUES[3]), FACTS))
        assert report.CompletionFlag == "PARTIAL"
        comments = [str(item.get("TextValue", "")) for item in report.ContentSequence]
        assert any("total: no prediction" in text and "no redness[lower]" in text for text in comments)

    def test_measurements_classes_and_evidence(self, tmp_path: Path) -> None:
        first = film(tmp_path / "a.dcm", SOPInstanceUID="1.2.3.1.1")
        second = film(tmp_path / "b", SOPInstanceUID="1.2.3.2.1", SeriesInstanceUID="1.2.3.2")
        report = self.report(first, second, first)
        assert (report.StudyInstanceUID, str(report.PatientName), report.PatientID) == ("1.2.3", "Müller^Jörg", "ÄÖ-7")
        assert report.SeriesInstanceUID not in ("1.2.3.1", "1.2.3.2")
        flags = (report.PreliminaryFlag, report.VerificationFlag, report.CompletionFlag)
        assert flags == ("PRELIMINARY", "UNVERIFIED", "PARTIAL")
        groups = {g.tracking_identifier: g for g in report.content.get_image_measurement_groups()}
        assert set(groups) == {"net, upper", "net, lower", "net"}
        upper = {m.name.meaning: m.value for m in groups["net, upper"].get_measurements()}
        assert (upper["redness"], upper["Upper end of the prediction interval, redness"]) == (1.23457, 2.0)
        of_case = groups["net"]
        numbers = {m.name.meaning: m.value for m in of_case.get_measurements()}
        assert (numbers["total"], numbers["Probability of schön krank βeta, befund"]) == (5.25, 0.75)
        classes = [(e.name.meaning, e.value.meaning) for e in of_case.get_qualitative_evaluations()]
        assert {("befund", ILL), ("grade", "2"), ("age", "No prediction")} <= set(classes)
        images = {image.referenced_sop_instance_uid for image in of_case.source_images}
        assert images == {"1.2.3.1.1", "1.2.3.2.1"}
        evidence = report.CurrentRequestedProcedureEvidenceSequence
        assert [study.StudyInstanceUID for study in evidence] == ["1.2.3"]
        assert {series.SeriesInstanceUID for series in evidence[0].ReferencedSeriesSequence} == {"1.2.3.1", "1.2.3.2"}

    def test_a_series_in_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "series").mkdir()
        for number in range(3):
            film(tmp_path / "series" / f"{number}.dcm", SOPInstanceUID=f"1.2.3.1.{number + 1}")
        (tmp_path / "series" / "notes.txt").write_text("x")
        report = self.report(tmp_path / "series")
        (group,) = report.content.get_image_measurement_groups(tracking_uid=None)[:1]
        assert len(group.source_images) == 3

    def test_cases_without_a_report_have_a_reason(self, tmp_path: Path) -> None:
        (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff photograph")
        film(tmp_path / "other.dcm", PatientID="somebody else", SOPInstanceUID="1.9")
        film(tmp_path / "nameless.dcm", SeriesInstanceUID=None)
        (tmp_path / "broken.dcm").write_bytes(film(tmp_path / "a.dcm").read_bytes()[:400])
        reasons = {r"photo\.jpg is not a DICOM file": ["photo.jpg"], "several patient": ["a.dcm", "other.dcm"]}
        reasons |= {"SeriesInstanceUID": ["nameless.dcm"], "No image": [], "broken": ["broken.dcm"]}
        reasons |= {"no such file|cannot be read": ["nowhere.dcm"], "too long": ["a" * 5000], "null": ["a\0b"]}
        for reason, names in reasons.items():
            with pytest.raises(CasewiseError, match=reason):
                list(FORMATS["sr"].files(result(*(tmp_path / name for name in names)), FACTS))


def chunk_of(tmp_path: Path) -> PredictedChunk:
    """Two good cases, one of them with a DICOM image, one that cannot be read, and a row without a subject."""
    table, rows = OutputTable({"number": [], "befund": ["gesund", "krank"]}, []), []
    for case in ("Ä/1", "B/1", "C/1", ""):
        for target in ("number", "befund"):
            problem = "" if case in ("Ä/1", "B/1") else "It cannot be read."
            predicted = None if problem else (1.5 if target == "number" else "krank")
            row = dict.fromkeys(table.columns, np.nan) | {"learner": "net", "case": case, "target": target}
            row |= {"subject": case.partition("/")[0], "visit": "1", "region": "", "image": "", "problem": problem}
            rows.append(row | {"prediction": predicted, "prediction set": "", "interval note": ""})
    frame = pd.DataFrame(rows, columns=table.columns)
    frame.loc[frame["target"] == "befund", ["probability of gesund", "probability of krank"]] = (0.25, 0.75)
    frame.loc[1, "prediction set"] = "gesund | krank"
    frame.loc[0, "interval note"] = "none was calibrated"
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    return PredictedChunk(frame, {"Ä/1": (film(tmp_path / "a.dcm"),), "B/1": (tmp_path / "b.png",)}, has_visits=False)


NUMBERS = ModelFacts("study", "cd" * 32, {"number": (), "befund": ("gesund", "krank")}, {})


def test_rows_become_cases(tmp_path: Path) -> None:
    first, _, third = results_of(chunk_of(tmp_path), NUMBERS, names=True)
    assert (first.case, first.subject, first.visit) == ("Ä/1", "Ä", "")
    assert [value.prediction for value in first.values] == [1.5, "krank"]
    assert [value.note for value in first.values] == ["none was calibrated", ""]
    assert first.values[1].members == ("gesund", "krank")
    assert first.values[1].probabilities == {"gesund": 0.25, "krank": 0.75}
    assert [value.prediction for value in third.values] == [None, None]
    assert [quantity.main.target for quantity in case_results.quantities(first, NUMBERS)] == ["number", "befund"]
    chunk = chunk_of(tmp_path)
    chunk.table.loc[0, ["prediction low", "prediction high"]] = (-np.inf, np.inf)
    endless = next(results_of(chunk, NUMBERS)).values[0]
    assert (endless.prediction, endless.low, endless.high) == (1.5, None, None)


def test_files_appear_together_and_only_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelFacts, "of", lambda model: NUMBERS)
    chunk, folders = chunk_of(tmp_path), {"fhir": tmp_path / "new" / "fhir", "sr": tmp_path / "new" / "sr"}
    with pytest.raises(KeyError), result_folders(None, folders) as results:  # type: ignore[arg-type]  # noqa: PT012
        results.receive(chunk)
        raise KeyError
    assert list((tmp_path / "new").iterdir()) == []
    for _ in range(2):  # a second time, the files are replaced
        with result_folders(None, folders) as results:  # type: ignore[arg-type]
            results.receive(chunk)
            assert not folders["fhir"].exists() or len(list(folders["fhir"].iterdir())) == 3
        fhir, sr = results.folders
        assert (fhir.files, set(fhir.without)) == (3, {""})
        assert (sr.files, len(sr.without)) == (1, 3)
        assert len(list(folders["fhir"].iterdir())) == 3
        assert [path.suffix for path in folders["sr"].iterdir()] == [".dcm"]
        assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["fhir", "sr"]


MARK = "Zwiebelmüller"
# every form in which the mark may be written
MARKS = [text.encode(code) for text in (MARK, "Zwiebelm", "wiebelm\\u00fc", "%C3%BC") for code in ("utf-8", "latin-1")]


def marked_chunk(folder: Path, image: bool) -> PredictedChunk:
    """Two cases whose names, files, problems and flags contain the mark, and of which one could not be read."""
    folder = folder / MARK
    folder.mkdir()
    table, rows = OutputTable({"number": [], "befund": ["gesund", "krank"]}, []), []
    tags = {"PatientName": "X", "PatientID": "7"}
    files = [film(folder / f"{MARK}-{n}.dcm", SOPInstanceUID=f"1.2.3.1.{n}", **tags) for n in (1, 2)]
    for number, target, file in ((n, t, f) for n in (1, 2) for t in ("number", "befund") for f in files[: 1 + image]):
        row = dict.fromkeys(table.columns, np.nan) | {"learner": "net", "target": target, "region": ""}
        row |= {"subject": f"{MARK}-{number}", "visit": f"{MARK} week", "case": f"{MARK}-{number}/{MARK} week"}
        row |= {"image": str(file) if image else "", "prediction set": "", "interval note": ""}
        row |= {"prediction": 1.5 if target == "number" else "krank", "problem": ""}
        row["flags"] = f"{MARK}: x.dcm: upside down; no image of trunk; {MARK}: something new"
        if number == 2:
            row |= {"prediction": None, "problem": f"case {MARK}-2/{MARK} week has no image ({file})."}
        if image and target == "befund":
            row |= {"prediction": None, "problem": f"The case is unlike the training cases ({row['flags']})."}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=table.columns)
    return PredictedChunk(frame, {case: tuple(files) for case in frame["case"].unique()}, has_visits=True)


@pytest.mark.parametrize("image", [False, True])
def test_no_name_of_table_or_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bool) -> None:
    from highdicom.sr import srread

    flags = ("upside down", "no image of trunk", "far from the training cases")
    monkeypatch.setattr(ModelFacts, "of", lambda model: replace(NUMBERS, flags=flags))
    chunk, folders = marked_chunk(tmp_path, image), {name: tmp_path / "out" / name for name in FORMATS}
    with result_folders(None, folders) as results:  # type: ignore[arg-type]
        results.receive(chunk)
    written = [path for folder in folders.values() for path in folder.iterdir()]
    assert len(written) == 2 * len(FORMATS)
    for path in written:
        content = os.fsencode(path.name) + path.read_bytes()
        assert not [mark for mark in MARKS if mark in content], path.name
        if path.parent.name in ("fhir", "fhir-r4", "sr"):
            assert b"upside down" in content
            assert b"no image of trunk" in content
    first, second = (path.read_bytes() for path in folders["fhir"].iterdir())
    subjects = [json.loads(data)["entry"][1]["resource"]["subject"]["identifier"]["value"] for data in (first, second)]
    assert len(set(subjects)) == 2
    if image:  # without its name, an image is known by its identifier
        groups = [g for path in folders["sr"].iterdir() for g in srread(path).content.get_image_measurement_groups()]
        shown = [[s.referenced_sop_instance_uid for s in group.source_images] for group in groups]
        assert sorted(shown) == [["1.2.3.1.1"], ["1.2.3.1.1"], ["1.2.3.1.2"], ["1.2.3.1.2"]]
    with result_folders(None, {"fhir": tmp_path / "names"}, names=True) as results:  # type: ignore[arg-type]
        results.receive(chunk)
    assert all(MARK in path.name and MARK in path.read_text() for path in (tmp_path / "names").iterdir())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        *((text, "FORMAT=FOLDER") for text in ("fhir", "=x", "fhir=")),
        *(("fihr=x", "Did you mean 'fhir'"), ("fhir=x fhir=y", "twice"), ("sr={file}", "is a file")),
    ],
)
def test_mistyped_options(tmp_path: Path, texts: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CasewiseError, match=message):
        parsed_folders([text.replace("{file}", str(tmp_path / "file")) for text in texts.split()])
    assert parsed_folders(["fhir=a=b"]) == {"fhir": Path("a=b")}


def test_the_sources_of_cases(tmp_path: Path) -> None:
    study = study_of("photographs").model_copy(update={"root": tmp_path})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.png").write_bytes(b"")
    cells = pd.DataFrame({"path": ["1.png ", "b\\2.png", "1.png", ""], "subject": [*"ABAC"]}, range(2, 6), dtype="str")
    sources = sources_of(cases_of(cells, study), cells, study)
    assert sources == {"A/1": (tmp_path / "1.png",), "B/1": (tmp_path / "b" / "2.png",), "C/1": ()}
    long = cells.assign(path=["a" * 5000, "a\0b", "1.png", " "])
    assert [len(paths) for paths in sources_of(cases_of(long, study), long, study).values()] == [2, 1, 0]
    assert not names_visits(cells, study)
    assert names_visits(cells.assign(visit=["", "2", "", ""]), study)


def test_the_command_writes_both_formats(tmp_path: Path) -> None:
    """From a bundle with random weights and films of new cases to files of both standards."""
    from highdicom.sr import srread

    from casewise.inference.model import load_bundle
    from tests.fuzz.samples import make_bundle
    from tests.test_cli import casewise

    os.makedirs(tmp_path / "made")
    bundle, archive = make_bundle(tmp_path / "made")
    film(tmp_path / "new.dcm")
    (tmp_path / "cases.csv").write_text("path,subject,visit\nnew.dcm,Jörg-7,w4-\nnowhere.png,Änne,w4-\n")
    (tmp_path / "nowhere.png").write_bytes(b"\x89PNG")
    words = ["predict", str(bundle), str(tmp_path / "cases.csv"), "--output", str(tmp_path / "new.csv")]
    refused = casewise(*words, "--also", f"fihr={tmp_path / 'fhir'}")
    assert refused.returncode == 2
    assert "fhir" in refused.stderr
    hashed = casewise(*words, "--also", f"fhir={tmp_path / 'hashed'}", "--also", f"sr={tmp_path / 'hashed'}")
    assert hashed.returncode == 0, hashed.stderr
    for path in (tmp_path / "hashed").iterdir():
        content = os.fsencode(path.name) + path.read_bytes()
        assert not [name for name in ("Jörg-7", "J\\u00f6rg-7", "Änne", "nowhere", "w4-") if name.encode() in content]
    assert len(list((tmp_path / "hashed").iterdir())) == 3
    assert casewise(*words, "--names").returncode == 2
    assert casewise(*words, "--subject-system", "urn:oid:1.2", "--also", f"sr={tmp_path / 'sr'}").returncode == 2
    words += ["--subject-system", "urn:oid:1.2"]
    done = casewise(*words, "--names", "--also", f"fhir={tmp_path / 'fhir'}", "--also", f"sr={tmp_path / 'sr'}")
    assert done.returncode == 0, done.stderr
    assert "1 case has no DICOM" in done.stderr
    assert "  Änne/w4-: nowhere.png is not a DICOM file" in done.stderr
    record = json.loads((tmp_path / "new.csv.json").read_text())
    assert list(record["without"][str(tmp_path / "sr")]) == ["Änne/w4-"]
    bundles = [json.loads(path.read_bytes()) for path in (tmp_path / "fhir").iterdir()]
    made = [e["resource"] for b in bundles for e in b["entry"] if e["resource"]["resourceType"] == "Observation"]
    # the patient of the images, and where there are none that of the table
    patients = [each["subject"]["identifier"] for each in made]
    assert sorted(each["value"] for each in patients) == ["Änne"] * 3 + ["ÄÖ-7"] * 3
    assert {each["system"] for each in patients} == {"urn:oid:1.2"}
    assert {each["encounter"]["identifier"]["value"] for each in made} == {"w4-"}
    absent = [each for each in made if "dataAbsentReason" in each]
    assert {each["subject"]["identifier"]["value"] for each in absent} == {"Änne"}
    (report,) = map(srread, (tmp_path / "sr").iterdir())
    assert report.StudyInstanceUID == "1.2.3"
    model = load_bundle(bundle)
    with pytest.raises(RunError, match="not a bundle"):
        ModelFacts.of(load_bundle(model.members[0].folder))
    scores = {"double": {"formula": "number*2", "level": "case", "range": [0.0, 8.0]}}
    settings = {**model.members[0].settings, "scores": scores}
    scored = replace(model, members=(replace(model.members[0], settings=settings),))
    assert ModelFacts.of(scored).scores == {"double": Score("double", "number*2", "case", 0, 8)}
    facts = {ModelFacts.of(load_bundle(path)).checksum for path in (bundle, archive)}
    assert facts == {hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()}
