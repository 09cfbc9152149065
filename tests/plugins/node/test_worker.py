"""Answers to studies: predictions and refusals in the formats of hospitals, and a process that may die."""

import errno
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import CasewiseError, RunError
from casewise.files import checksum
from casewise.inference.model import TrainedModel, load_bundle
from casewise.plugins.node.headers import UnanswerableError
from casewise.plugins.node.monitoring.observation import identifier_hash
from casewise.plugins.node.predictor import StudyPredictor
from casewise.plugins.node.records import StudyTask
from casewise.plugins.node.worker import StudyWorker
from casewise.run import Run
from casewise.run_folder import BundleFolder
from casewise.run_folder.bundle_folder import write_archive
from tests.film_files import PEOPLE, film_bytes
from tests.plugins.node.films import chest_film, node_settings
from tests.plugins.serve.test_release import in_memory, no_collector

pydicom = pytest.importorskip("pydicom", reason="the extra `node` is not installed")
pytest.importorskip("highdicom", reason="the extra `node` is not installed")
pytestmark = pytest.mark.plugins("hospital", "explain")


@pytest.fixture(scope="module")
def model(chest_run: Run) -> TrainedModel:
    return load_bundle(chest_run.folder / "bundle")


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., StudyTask]:
    def write(*films: bytes, uid: str = "1.2.826.7") -> StudyTask:
        files = []
        for number, content in enumerate(films):
            path = tmp_path / f"{number}.dcm"
            path.write_bytes(content)
            files.append(path)
        return StudyTask(uid, files, tmp_path / "answers" / "study", "abc")

    return write


@pytest.fixture
def film(chests: Path) -> Path:
    return chests.parent / str(pd.read_csv(chests)["path"][0])


@pytest.fixture
def predictor(model: TrainedModel, tmp_path: Path, chest_run: Run) -> StudyPredictor:
    return StudyPredictor(model, node_settings(tmp_path, chest_run.folder / "bundle"), "salt")


def test_a_study_has_the_prediction_of_its_image(
    predictor: StudyPredictor, model: TrainedModel, film: Path, task: Callable[..., StudyTask]
) -> None:
    own = task(chest_film(film, 7), chest_film(film, 7, 2, ViewPosition="LL"))
    answer = predictor.answer(own)
    (sr,) = answer.answers
    assert (sr.name, sr.format, sr.path, sr.sha256) == ("sr.dcm", "sr", own.folder / "sr.dcm", checksum(sr.path))
    report = pydicom.dcmread(sr.path)
    assert (report.StudyInstanceUID, report.PatientID, report.Modality) == ("1.2.826.7", "P7", "SR")
    expected = model.predict(own.files[0], learner="headline").iloc[0]
    observation = answer.observation
    assert observation.predictions == {"label": expected["prediction"]}
    for name, share in observation.probabilities["label"].items():
        assert share == pytest.approx(expected[f"probability of {name}"], abs=1e-6)
    assert set(observation.probabilities["label"]) == set(model.table.classes["label"])
    assert observation.distance == pytest.approx(expected["distance"], nan_ok=True)
    assert (observation.scanner, observation.site, observation.refused) == ("Acme X1", "West R1", "")
    assert (len(observation.subject), answer.accession) == (16, identifier_hash("salt", "A7"))
    assert observation.bundle == model.checksum
    assert not any(text in observation.as_json() for text in (*PEOPLE, "P7"))
    assert not list(own.folder.parent.glob("*.part"))


def test_the_subject_of_an_observation_is_that_of_the_patient(
    predictor: StudyPredictor, film: Path, task: Callable[..., StudyTask]
) -> None:
    tags = ({}, {"StudyDate": "20260101"}, {"PatientID": "P8"}, {"IssuerOfPatientID": "West"})
    subjects = [predictor.answer(task(chest_film(film, 7, **each))).observation.subject for each in tags]
    assert subjects[0] == subjects[1]
    assert len(set(subjects)) == 3


def test_a_study_without_a_fitting_image_is_answered_with_the_reason(
    predictor: StudyPredictor, film: Path, task: Callable[..., StudyTask]
) -> None:
    answer = predictor.answer(task(chest_film(film, 7, BodyPartExamined="HAND", SeriesDescription="Zebulon's hand")))
    assert "body part" in answer.observation.refused
    assert (answer.observation.predictions, answer.observation.distance) == ({}, None)
    report = pydicom.dcmread(answer.answers[0].path)
    assert (report.StudyInstanceUID, report.PatientID) == ("1.2.826.7", "P7")
    assert "body part is HAND" in report.to_json()
    assert not any(text in answer.observation.as_json() for text in ("HAND", "Zebulon"))


def test_an_image_that_cannot_be_decoded_is_answered_without_paths(
    predictor: StudyPredictor, film: Path, task: Callable[..., StudyTask], tmp_path: Path
) -> None:
    study = task(chest_film(film, 7, PhotometricInterpretation="PALETTE COLOR"))
    answer = predictor.answer(study)
    report = pydicom.dcmread(answer.answers[0].path).to_json()
    assert "image-1.dcm" in report
    assert str(tmp_path) not in report
    assert answer.observation.refused
    assert "PALETTE" not in answer.observation.refused


def test_what_nobody_can_be_answered_about(
    predictor: StudyPredictor, film: Path, task: Callable[..., StudyTask]
) -> None:
    for films in (
        [chest_film(film, 7), chest_film(film, 7, 2, PatientID="P8")],
        [chest_film(film, 7, PatientID="")],
        [b"no image"],
    ):
        with pytest.raises(UnanswerableError):
            predictor.answer(task(*films))
    job = {"uid": "1.2.826.7", "files": ["/nowhere/a.dcm"], "folder": "/nowhere/answers", "content": "", "version": 1}
    assert set(predictor.reply(job)) == {"unanswerable"}
    json.dumps(predictor.reply(job))


def test_identifiers_follow_from_study_model_and_images(
    predictor: StudyPredictor, film: Path, task: Callable[..., StudyTask]
) -> None:
    study = task(chest_film(film, 7))
    tasks = [study, study, replace(study, content="other", version=2)]
    reports = [pydicom.dcmread(predictor.answer(each).answers[0].path) for each in tasks]
    assert [path.name for path in study.folder.iterdir()] == ["sr.dcm"]
    for tag in ("SOPInstanceUID", "SeriesInstanceUID"):
        first, again, other = (str(report[tag].value) for report in reports)
        assert first == again != other
    assert reports[2].file_meta.MediaStorageSOPInstanceUID == reports[2].SOPInstanceUID
    assert [int(report.InstanceNumber) for report in reports] == [1, 1, 2]
    assert ("version 2" in reports[2].SeriesDescription, "version" in reports[0].SeriesDescription) == (True, False)
    assert len(reports[2].SeriesDescription) <= 64


def test_a_format_that_cannot_be_written_keeps_back_no_other(
    model: TrainedModel, film: Path, task: Callable[..., StudyTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ["sr", "summary-sc", "fhir-r4"]
    predictor = StudyPredictor(model, node_settings(tmp_path, model.folder, answer={"formats": formats}))
    study, summary = task(chest_film(film, 7)), "casewise.plugins.hospital.summary_objects.SummaryImage.files"

    def failing(error: Exception) -> Callable[..., Any]:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        return fail

    def written() -> list[str]:
        return sorted(path.name for path in study.folder.iterdir())

    names = [answer.format for answer in predictor.answer(study).answers]
    assert (names, written()) == (formats, ["fhir-r4.json", "sr.dcm", "summary-sc.dcm"])
    for error, quoted in ((ValueError("of P7"), False), (CasewiseError("No room."), True)):
        with monkeypatch.context() as patch:
            patch.setattr(summary, failing(error))
            answer = predictor.answer(study)
        assert ([each.format for each in answer.answers], list(answer.unwritten)) == (["sr", "fhir-r4"], ["summary-sc"])
        assert (str(error) in answer.unwritten["summary-sc"]) is quoted
        assert written() == ["fhir-r4.json", "sr.dcm"]
    with monkeypatch.context() as patch:
        patch.setattr(StudyPredictor, "_pictures", failing(ValueError("of P7")))
        answer = predictor.answer(study)
    assert (len(answer.answers), list(answer.unwritten)) == (3, ["pictures"])
    with monkeypatch.context() as patch:
        job = {
            "uid": study.uid,
            "files": [str(study.files[0])],
            "folder": str(study.folder),
            "content": "",
            "version": 1,
        }
        for cause, is_permanent in (
            (OSError(errno.ENOSPC, ""), False),
            (OSError(errno.EIO, ""), False),
            (MemoryError(), False),
            (OSError(errno.ENAMETOOLONG, ""), True),
            (OSError(errno.ENOENT, ""), True),
            (None, True),
        ):
            error = RunError("It could not be written.")
            error.__cause__ = cause
            patch.setattr(summary, failing(error))
            assert predictor.reply(job) == {"failed": "It could not be written.", "fault": is_permanent}
        patch.setattr("casewise.plugins.hospital.formats.results_of", failing(ValueError("of P7")))
        with pytest.raises(UnanswerableError) as raised:
            predictor.answer(study)
    assert "P7" not in str(raised.value)


def test_tiles_of_a_study_are_released_with_its_answer(
    model: TrainedModel, film: Path, task: Callable[..., StudyTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = node_settings(tmp_path, model.folder, answer={"formats": ["sr", "summary-sc"]})
    predictor = StudyPredictor(model, settings)
    (work := tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    whole = chest_film(film, 7)
    with no_collector():
        for films in ([whole], [whole[:-3000]], [whole, whole[:-3000]], [b"text"]):
            study = task(*films)
            predictor.reply(
                {
                    "uid": "1",
                    "files": [str(path) for path in study.files],
                    "folder": str(study.folder),
                    "content": "",
                    "version": 1,
                }
            )
            assert in_memory(work) == []
            assert list(work.iterdir()) == []


# An identifier that no answer can repeat, and the tag that the reason names.
UNREPEATABLE: tuple[dict[str, str], ...] = (
    {"PatientID": "A\\B\\C"},
    {"PatientID": "P" * 65},
    {"PatientID": "P" * 300},
    {"PatientID": "P\n7"},
    {"PatientID": "P7\x1b[31m"},
    {"PatientID": "Jörg7"},
    {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 6"},
    {"PatientName": "D" * 65},
    {"PatientName": "A=B=C=D"},
    {"PatientName": "Doe^Jane\\Doe^John"},
    {"IssuerOfPatientID": "West\\East"},
    {"AccessionNumber": "A" * 17},
    {"AccessionNumber": "A\\B"},
    {"SeriesInstanceUID": "1.2.x"},
    {"SeriesInstanceUID": "1." + "2" * 63},
    {"SOPInstanceUID": "1.2\\1.3"},
)


@pytest.mark.parametrize("tags", UNREPEATABLE)
def test_identifiers_that_no_answer_can_repeat_are_left_to_a_person(
    predictor: StudyPredictor, film: Path, task: Callable[..., StudyTask], tags: dict[str, str]
) -> None:
    with pydicom.config.disable_value_validation():
        study = task(chest_film(film, 7, **tags), chest_film(film, 7, 2))
    reply = predictor.reply(
        {
            "uid": study.uid,
            "files": [str(path) for path in study.files],
            "folder": str(study.folder),
            "content": "",
            "version": 1,
        }
    )
    assert next(iter(tags)) in reply["unanswerable"]
    assert not any(value in reply["unanswerable"] for value in tags.values())
    assert not study.folder.exists()


def test_a_study_unlike_the_training_has_no_prediction(
    model: TrainedModel, film: Path, task: Callable[..., StudyTask], tmp_path: Path
) -> None:
    assert model.limits is not None
    uids = {"StudyInstanceUID": "1.2.826.7", "SeriesInstanceUID": "1.2.826.7.1"}
    white = film_bytes(np.full((64, 64), 65535, np.uint16), PatientID="P7", BodyPartExamined="CHEST", **uids)
    answers = []
    for abstain in (False, True):
        settings = node_settings(tmp_path, model.folder, answer={"formats": ["sr"], "abstain": abstain})
        predictor = StudyPredictor(model, settings)
        answers.append(predictor.answer(task(white)).observation)
        assert set(predictor.answer(task(chest_film(film, 7))).observation.predictions) == {"label"}
    assert all(answer.flags for answer in answers)
    assert [set(answer.predictions) for answer in answers] == [{"label"}, set()]
    assert (answers[0].refused, bool(answers[1].refused)) == ("", True)


def test_a_bundle_of_a_node_is_signed_with_the_trusted_key(model: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="signatures are optional")
    from tests.test_crafted_bundle import key_pair

    key, _ = key_pair(tmp_path / "key")
    _, other = key_pair(tmp_path / "other")
    signed = write_archive(BundleFolder(model.folder), tmp_path / "signed.zip", key)
    (tmp_path / "work").mkdir()
    worker = StudyWorker(node_settings(tmp_path, signed, trust=other), tmp_path / "work", "")
    with pytest.raises(RunError):
        worker.start()


def test_views_of_a_study_are_the_regions_of_a_model(task: Callable[..., StudyTask], tmp_path: Path) -> None:
    from casewise.run import run
    from casewise.study.loading import build_study
    from tests.combinations import make_table, settings

    table = make_table(tmp_path, "photographs", "here", seed=1)
    finished = run(
        build_study(settings("photographs", "number", table, "several"), source="study", folder=tmp_path),
        tmp_path / "run",
    )
    select = [{"view": ["PA"], "slot": "upper"}, {"view": ["LL"], "slot": "lower"}]
    own = node_settings(tmp_path, finished.folder / "bundle", select=select)
    predictor = StudyPredictor(load_bundle(own.bundle), own)
    films = [tmp_path / "here1-upper.png", tmp_path / "here1-lower.png"]
    frontal, lateral = chest_film(films[0], 7), chest_film(films[1], 7, 2, ViewPosition="LL")
    observation = predictor.answer(task(frontal, lateral)).observation
    assert {name.partition("[")[2].rstrip("]") for name in observation.predictions} == {"upper", "lower"}
    assert observation.refused == ""
    assert "lower" in predictor.answer(task(frontal)).observation.refused
    with pytest.raises(CasewiseError):
        StudyPredictor(load_bundle(own.bundle), node_settings(tmp_path, own.bundle, select=select[:1]))


def scan(sequence: str, number: int, **tags: Any) -> bytes:
    """A slice of a DICOM series."""
    rng = np.random.default_rng([number, ord(sequence[-1])])
    pixels = (rng.random((32, 32)) * 100).astype(np.uint16)
    pixels[8:24, 8:24] += 600
    series = f"1.2.826.7.{sequence[-1]}"
    about: dict[str, Any] = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", "PatientID": "P7"}
    about |= {"StudyInstanceUID": "1.2.826.7", "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{number}"}
    about |= {"SeriesDescription": f"{sequence} axial", "InstanceNumber": number, "PixelSpacing": [1, 1]}
    about |= {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 3 * number]}
    about |= {"FrameOfReferenceUID": "1.2.826.7.9", "SliceThickness": 3, "ViewPosition": None}
    return film_bytes(pixels, **about | tags)


@pytest.mark.plugins("volumes")
def test_scans_are_read_as_series(task: Callable[..., StudyTask], tmp_path: Path) -> None:
    from casewise.run import run
    from casewise.study.loading import build_study
    from tests.combinations import make_table, settings

    pytest.importorskip("SimpleITK", reason="the extra `volumes` is not installed")
    values = settings("volumes", "classes", make_table(tmp_path, "volumes", "here", seed=1), "explanation")
    values["volumes"]["sequences"] = ["T1", "T2"]
    finished = run(build_study(values, source="study", folder=tmp_path), tmp_path / "run")
    select = [{"modality": ["MR"], "description": name, "slices": [4, 10], "slot": name} for name in ("T1", "T2")]
    own = node_settings(tmp_path, finished.folder / "bundle", select=select)
    predictor = StudyPredictor(load_bundle(own.bundle), own)
    films = [scan(name, number) for number in range(6) for name in ("T1", "T2")]
    answer = predictor.answer(task(*films, scan("T3", 1, SeriesDescription="Localizer")))
    assert (set(answer.observation.predictions), answer.observation.refused) == ({"classes"}, "")
    report = pydicom.dcmread(answer.answers[0].path)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert sorted(len(series.ReferencedSOPSequence) for series in evidence) == [6, 6]
    refused = predictor.answer(task(*films[::2], *films[1:3:2])).observation.refused
    assert "T2" in refused
    assert "1 slice," in refused


def test_a_real_process_answers(
    model: TrainedModel, film: Path, task: Callable[..., StudyTask], tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    worker = StudyWorker(node_settings(tmp_path, model.folder), tmp_path / "work", "salt")
    try:
        assert worker.start()["checksum"] == model.checksum
        process = worker._worker._process
        process.terminate()  # as a service that ends may do
        process.join(1)
        assert process.is_alive()
        answer = worker.answer(task(chest_film(film, 7)))
        assert answer.answers[0].sha256 == checksum(answer.answers[0].path)
        assert set(answer.observation.predictions) == {"label"}
        with pytest.raises(UnanswerableError):
            worker.answer(task(film_bytes(np.zeros((8, 8), np.uint8), PatientID="")))
    finally:
        worker.stop()
