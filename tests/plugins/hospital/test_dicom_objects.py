"""Reports and summary pages as DICOM objects: their identifiers, what they copy from the images, and their validity."""

import io
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.inference.case_chunks import CasePicture
from casewise.plugins.hospital.case_results import CaseResult, ModelFacts, Value
from casewise.plugins.hospital.formats import FORMATS
from casewise.plugins.hospital.imaging_study import ImagingStudy
from casewise.plugins.hospital.summary_page import SIDE, Text, page
from tests.plugins.hospital.test_hospital import FACTS, STATED, VALUES, film, result

pydicom = pytest.importorskip("pydicom", reason="the extra `hospital` is not installed")
pytest.importorskip("highdicom", reason="the extra `hospital` is not installed")

OBJECTS = ("sr", "summary-sc", "summary-pdf")
REFUSED = tuple(Value("net", name, problem="No series suits: its modality is MR.") for name in ("befund", "grade"))
LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen with a name (of 漢字 and Ω) that no line holds "
STUDY = ("1.2.3", "Müller^Jörg", "ÄÖ-7")
AT = datetime(2026, 11, 26, 8, 41, 2, tzinfo=UTC)


def pictures(count: int, overlay: bool = True, size: tuple[int, int] = (90, 120)) -> tuple[CasePicture, ...]:
    image = np.tile(np.linspace(0, 255, size[1]).astype(np.uint8)[None, :, None], (size[0], 1, 3))
    return tuple(CasePicture(f"{LONG} {n}", image, image[:, ::-1] if overlay else None) for n in range(count))


def written(name: str, case: CaseResult, facts: ModelFacts = FACTS) -> Any:
    ((_, content),) = FORMATS[name].files(case, facts)
    return pydicom.dcmread(io.BytesIO(content))


def uids(dataset: Any) -> list[str]:
    """Every identifier of our own in an object."""
    items = [element.value for element in dataset.iterall() if element.VR == "UI"]
    return [str(value) for value in items if str(value).startswith("2.25.")]


@pytest.mark.parametrize("name", OBJECTS)
class TestObjects:
    def test_a_repetition_has_the_same_identifiers_and_bytes(self, tmp_path: Path, name: str) -> None:
        first = replace(result(film(tmp_path / "a.dcm", **STATED)), key="key", at=AT, pictures=pictures(1))
        moved = replace(first, sources=(film(tmp_path / "b.dcm", **STATED),))
        contents = [next(iter(FORMATS[name].files(case, FACTS)))[1] for case in (first, moved)]
        assert contents[0] == contents[1]
        own = uids(written(name, first))
        assert all(int(each.removeprefix("2.25.")) < 2**128 and len(each) <= 64 for each in own)
        # without names the same object is replaced
        assert uids(written(name, replace(first, case="hashed-1", named=False))) == own
        others = [replace(first, key="other case"), replace(first, values=(replace(VALUES[2], learner="other"),))]
        others.append(replace(first, sources=(film(tmp_path / "c.dcm", StudyInstanceUID="1.2.4"),)))
        for other in others:
            dataset = written(name, other)
            assert not {dataset.SOPInstanceUID, dataset.SeriesInstanceUID} & set(own)

    def test_what_is_copied_from_the_images(self, tmp_path: Path, name: str) -> None:
        case = replace(result(film(tmp_path / "a.dcm", **STATED)), at=AT, pictures=pictures(1))
        dataset = written(name, case)
        assert (dataset.StudyInstanceUID, str(dataset.PatientName), dataset.PatientID) == STUDY
        assert (dataset.AccessionNumber, dataset.InstitutionName, dataset.StudyID) == ("A-1", "Klinik Süd", "77")
        assert (dataset.TimezoneOffsetFromUTC, dataset.StudyDate) == ("+0100", "20200131")
        # made when it was predicted, in the time zone of the images
        assert (dataset.ContentDate, dataset.ContentTime) == ("20261126", "094102")
        assert (dataset.InstanceCreationDate, dataset.InstanceCreationTime) == ("20261126", "094102")
        if name == "sr":
            (request,) = dataset.ReferencedRequestSequence
            assert (request.AccessionNumber, request.StudyInstanceUID) == ("A-1", "1.2.3")
            assert (request.RequestedProcedureID, request.RequestedProcedureDescription) == ("RP7", "Thorax")
        else:
            assert (dataset.BurnedInAnnotation, dataset.ConversionType) == ("YES", "WSD")
            sources = dataset.get("SourceImageSequence") or dataset.SourceInstanceSequence
            assert [item.ReferencedSOPInstanceUID for item in sources] == ["1.2.3.4"]

    def test_an_answer_in_every_situation_is_valid(self, tmp_path: Path, name: str) -> None:
        if not shutil.which("dciodvfy"):
            pytest.skip("the program dciodvfy (dicom3tools) is not installed")
        item = pydicom.Dataset()
        item.RequestedProcedureID = item.ScheduledProcedureStepID = "1"
        item.RequestedProcedureDescription = "Thorax"
        headers: dict[str, dict[str, Any]] = {
            "stated": STATED | {"RequestAttributesSequence": [item]},
            "bare": dict.fromkeys(["PatientName", "PatientID", "PatientBirthDate", "StudyDate"]),
            "damaged": {"StudyDate": "gestern", "StudyTime": "25:99", "PatientSex": "W", "PatientBirthDate": "1950"},
            "no image": {"Rows": None, "Columns": None},
        }
        images = {f"{kind}": film(tmp_path / f"{kind}.dcm", **tags) for kind, tags in headers.items()}
        for kind, (values, shown) in ((k, v) for k in images for v in ((VALUES, pictures(2)), (REFUSED, ()))):
            case = replace(result(images[kind], values=values), pictures=shown)
            ((_, content),) = FORMATS[name].files(case, FACTS)
            (tmp_path / "object.dcm").write_bytes(content)
            command = ["dciodvfy", "-new", str(tmp_path / "object.dcm")]
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "Error" not in process.stdout + process.stderr, (kind, process.stderr)


def test_a_refused_study_has_a_report_with_the_reason(tmp_path: Path) -> None:
    document = film(tmp_path / "b.dcm", SOPInstanceUID="1.2.3.1.9", Rows=None, Columns=None)
    report = written("sr", result(film(tmp_path / "a.dcm"), document, values=REFUSED))
    assert report.CompletionFlag == "PARTIAL"
    sentences = [each.value for each in report.iterall() if each.keyword == "TextValue"]
    assert any("No series suits: its modality is MR." in text for text in sentences)
    evidence = [item.ReferencedSOPInstanceUID for item in report.CurrentRequestedProcedureEvidenceSequence[0]
                .ReferencedSeriesSequence[0].ReferencedSOPSequence]  # fmt: skip
    assert evidence == ["1.2.3.4", "1.2.3.1.9"]
    groups = [each for each in report.iterall() if each.keyword == "ReferencedSOPInstanceUID"]
    assert [each.value for each in groups].count("1.2.3.1.9") == 1  # evidence, and no image of a measurement
    for name, sources in (("summary-sc", "SourceImageSequence"), ("summary-pdf", "SourceInstanceSequence")):
        shown = written(name, result(document, film(tmp_path / "a.dcm"), values=REFUSED))[sources]
        assert [item.ReferencedSOPInstanceUID for item in shown] == ["1.2.3.4"]
        assert sources not in written(name, result(document, values=REFUSED))


def test_what_the_first_header_states(tmp_path: Path) -> None:
    study = ImagingStudy.of([film(tmp_path / "a.dcm", **STATED)])
    assert (study.uid, study.accession, study.institution) == ("1.2.3", "A-1", "Klinik Süd")
    assert (study.started, study.patient_id, study.issuer) == ("2020-01-31T10:15:30+01:00", "ÄÖ-7", "KIS")
    empty = ImagingStudy.of([film(tmp_path / "b.dcm", StudyDate=None, TimezoneOffsetFromUTC="nonsense")])
    assert (empty.started, empty.timezone, empty.accession, empty.requests) == ("", None, "", ())
    old = ImagingStudy.of([film(tmp_path / "c.dcm", StudyDate="1999.01.31", StudyTime="10:15:30")])
    assert (old.headers[0].StudyDate, old.headers[0].StudyTime, old.started) == ("19990131", "101530", "1999-01-31")


@pytest.mark.parametrize(
    ("day", "clock", "offset", "copied"),
    [
        ("20200131", "10:15", "+0100", ("20200131", "1015", "2020-01-31T10:15:00+01:00")),
        ("20200131", "101530Z", "+0100", ("20200131", "", "2020-01-31")),
        ("2020-W05-5", "10", "Z", ("", "10", "")),
        ("2020-01-31", "235959.123456", "Z", ("20200131", "235959.123456", "2020-01-31")),
        ("20200230", "240000", "+0100", ("", "", "")),
    ],
)
def test_dates_and_times_have_the_form_of_the_standard(
    tmp_path: Path, day: str, clock: str, offset: str, copied: tuple[str, str, str]
) -> None:
    image = film(tmp_path / "a.dcm", StudyDate=day, StudyTime=clock, TimezoneOffsetFromUTC=offset)
    for name in OBJECTS:
        dataset = written(name, result(image))
        assert (dataset.StudyDate, dataset.StudyTime, result(image).study.started) == copied
        assert dataset.get("TimezoneOffsetFromUTC", "+0100") == "+0100"


def texts(case: CaseResult, facts: ModelFacts = FACTS) -> str:
    return " ".join(item.text for item in page(case, facts).items if isinstance(item, Text))


class TestPage:
    def test_no_name_of_a_person_or_file_is_on_the_page(self, tmp_path: Path) -> None:
        source = film(tmp_path / "Zwiebel.dcm", PatientName="Meier^Änne", PatientID="7-11")
        problems = ("Zwiebel.dcm: the file is empty.", "case Jörg Müller/Woche 4 is unreadable", "of MEIERS", "of 7-11")
        values = tuple(Value("net", f"target {n}", problem=text) for n, text in enumerate(problems))
        titles = [CasePicture(title, np.zeros((9, 9, 3), np.uint8)) for title in ("Zwiebel.dcm", "left")]
        shown = texts(replace(result(source, values=values), pictures=titles))
        assert not [text for text in ("Zwiebel", "Müller", "Änne", "MEIER", "7-11") if text in shown]
        assert "image 1" in shown
        assert "left" in shown
        assert "modality is MR" in texts(result(source, values=REFUSED))

    def test_the_image_has_the_pixels_of_the_page(self, tmp_path: Path) -> None:
        case = replace(result(film(tmp_path / "a.dcm")), pictures=pictures(1))
        dataset = written("summary-sc", case)
        assert (dataset.Columns, dataset.Rows) == (SIDE, round(page(case, FACTS).height))
        assert (dataset.ImageType, dataset.PhotometricInterpretation) == (["DERIVED", "SECONDARY"], "RGB")
        pixels = dataset.pixel_array
        assert pixels.shape == (dataset.Rows, SIDE, 3)
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert 0.01 < np.mean(pixels < 128) < 0.6  # neither empty nor a box

    def test_images_are_read_where_there_are_no_maps(self, tmp_path: Path) -> None:
        (tmp_path / "series").mkdir()
        for number in range(3):
            film(tmp_path / "series" / f"{number}.dcm", SOPInstanceUID=f"1.2.3.1.{number + 1}")
        case = result(film(tmp_path / "a.dcm"), tmp_path / "series")
        assert "image 1" in texts(case)
        assert "series 2, its middle image" in texts(case)
