"""Reading new cases: chunks, layouts of folders, and cases that lack what others have. Images in memory."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from casewise.cohort.cohort import read_cohort
from casewise.cohort.folder_layout import read_new_layout, stated_pattern
from casewise.errors import CasewiseError, CohortError
from casewise.inference.case_chunks import cases_of, prepare_together
from casewise.inference.case_sizes import CaseSizes
from casewise.inference.model import load_bundle
from casewise.inference.new_cases import NewTable, new_table
from casewise.inference.output_table import OutputTable
from casewise.inference.stated import people_problem, stated_by
from casewise.inference.visits import check_case_sizes
from casewise.modalities.registry import modality_of
from casewise.run import Run
from casewise.study.loading import build_study
from casewise.study.schema import Study
from tests.combinations import settings
from tests.film_files import film_bytes


def study_of(modality: str, **changes: Any) -> Study:
    values = settings(modality, "classes", Path("new.csv"), "new-cases")
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return build_study(values, source="the study", folder=Path())


def cells_of(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.RangeIndex(2, 2 + len(next(iter(columns.values())))), dtype="str")


def test_rows_become_cases_by_subject_and_visit() -> None:
    study = study_of("photographs")
    cells = cells_of(path=list("abcde"), subject=["P2", "P1", "P2", "", ""], visit=["1", " 2", "1 ", "1", "1"])
    cases = cases_of(cells, study)
    assert [(case.name, case.rows) for case in cases] == [("", (5,)), ("", (6,)), ("P1/2", (3,)), ("P2/1", (2, 4))]
    assert [bool(case.problem) for case in cases] == [True, True, False, False]
    assert [case.name for case in cases_of(cells.drop(columns="visit"), study)][2:] == ["P1/1", "P2/1"]
    partly = cases_of(cells.assign(visit=["1", "", "1", "1", "1"]), study)
    assert "row 3, visit" in partly[2].problem


def test_folders_of_new_cases_are_never_classes(tmp_path: Path) -> None:
    for folder in ("anna", "ben"):
        (tmp_path / "people" / folder).mkdir(parents=True)
        (tmp_path / "people" / folder / "1.jpg").write_bytes(b"")
    assert [image.subject for image in read_new_layout(tmp_path / "people", regions=[]).images] == ["anna", "ben"]
    assert [image.subject for image in read_new_layout(tmp_path / "people" / "anna", regions=[]).images] == ["1.jpg"]
    (tmp_path / "people" / "ben" / "1.jpg").unlink()
    assert [image.subject for image in read_new_layout(tmp_path / "people", regions=[]).images] == ["anna"]
    (tmp_path / "P7").mkdir()
    for region in ("upper", "lower"):
        (tmp_path / "P7" / f"{region}.jpg").write_bytes(b"")
    layout = read_new_layout(tmp_path / "P7", regions=["upper", "lower"])
    assert {(image.subject, image.region) for image in layout.images} == {("P7", "upper"), ("P7", "lower")}
    with pytest.raises(CasewiseError, match="no images"):
        read_new_layout(tmp_path / "people" / "ben", regions=[])


def test_images_without_an_ending_are_told_by_their_first_bytes(tmp_path: Path) -> None:
    heads = {"IM0001": bytes(128) + b"DICM", "IM0002": b"\xff\xd8\xff", "DICOMDIR": bytes(128) + b"DICM", "notes": b"a"}
    for name, head in heads.items():
        (tmp_path / name).write_bytes(head)
    layout = read_new_layout(tmp_path, regions=[])
    assert [image.path for image in layout.images] == ["IM0001", "IM0002"]
    assert layout.skipped == ["DICOMDIR", "notes"]


def test_folders_of_visits_are_no_subjects_unless_a_pattern_says_so(tmp_path: Path) -> None:
    for name in ("P7/week0/1.jpg", "P7/week0/2.jpg", "P7/2024-03-01/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def read(folder: Path, pattern: str) -> set[tuple[str, str]]:
        layout = read_new_layout(folder, regions=[], pattern=pattern and stated_pattern(pattern, of_cases=True))
        return {(image.subject, image.visit) for image in layout.images}

    both = {("P7", "week0"), ("P7", "2024-03-01")}
    assert read(tmp_path, "") == read(tmp_path, "{patient}/{visit}/{file}") == both
    with pytest.raises(CasewiseError, match="look like visits"):
        read(tmp_path / "P7", "")
    assert read(tmp_path / "P7", "{visit}/{file}") == both
    assert read(tmp_path / "P7", "{subject}/{file}") == {("week0", ""), ("2024-03-01", "")}
    for name in ("UKE_007_w0", "UKE_008_w0"):
        shutil.copytree(tmp_path / "P7" / "week0", tmp_path / "uke" / name)
    with pytest.raises(CasewiseError, match="subject UKE, visit 007_w0; or as subject UKE_007, visit w0"):
        read(tmp_path / "uke", "{subject}_{visit}/{file}")
    assert read(tmp_path / "uke", "UKE_{subject}_{visit}/{file}") == {("007", "w0"), ("008", "w0")}
    assert read_new_layout(tmp_path / "P7", regions=[], has_visits=False).shape == "subject/*.jpg"
    for name, is_visit in (("D001", False), ("M-2", False), ("v2", True), ("T-1", True), ("month2", True)):
        (tmp_path / "one" / name).mkdir(parents=True)
        (tmp_path / "one" / name / "a.jpg").write_bytes(b"")
        try:
            assert [image.subject for image in read_new_layout(tmp_path / "one", regions=[]).images] == [name]
        except CasewiseError:
            assert is_visit
        else:
            assert not is_visit
        shutil.rmtree(tmp_path / "one")
    for wrong, message in (
        ("{visit}_{file}", "does not match 3 of 3"),
        ("{visist}/{file}", "Did you mean 'visit'"),
        ("{label}/{file}", "none of subject"),
    ):
        with pytest.raises(CasewiseError, match=message):
            read(tmp_path / "P7", wrong)


@pytest.mark.plugins("volumes")
def test_scans_are_listed_by_subject_visit_and_sequence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = study_of("volumes", volumes={"sequences": ["T1", "T1c", "T2"], "missing": "mask"})
    for name in ("P1/w0/T1.nii", "P1/w0/x_T1c.nii.gz", "P1/w4/t2_tse.nii", "P1/w4/readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    series = tmp_path / "P2" / "w0" / "T2 axial"
    series.mkdir(parents=True)
    (series / "1.dcm").write_bytes(b"")
    (series / "IM0002").write_bytes(bytes(128) + b"DICM")
    table = modality_of(study).new_table(study, [tmp_path])
    rows = {(row.subject, row.visit, row.sequence, Path(row.path).name) for row in table.itertuples()}
    first = {("P1", "w0", "T1", "T1.nii"), ("P1", "w0", "T1c", "x_T1c.nii.gz"), ("P1", "w4", "T2", "t2_tse.nii")}
    assert rows == first | {("P2", "w0", "T2", "T2 axial")}
    assert "readme.txt" in caplog.text
    (tmp_path / "P1" / "w4" / "readme.txt").unlink()
    with pytest.raises(CasewiseError, match="look like visits"):
        modality_of(study).new_table(study, [tmp_path / "P1"])
    own = modality_of(study).new_table(study, [tmp_path / "P1"], stated_pattern("{visit}/{file}", of_cases=True))
    assert {(r.subject, r.visit, r.sequence) for r in own.itertuples()} == {row[:3] for row in rows if "P1" in row}
    timeless = study_of("volumes", columns={"visit": ""}, volumes={"sequences": ["T1", "T1c", "T2"], "missing": "mask"})
    assert set(modality_of(timeless).new_table(timeless, [tmp_path / "P1"])["subject"]) == {"w0", "w4"}
    boxed = study_of("volumes", volumes={"roi": "mask"})
    with pytest.raises(CasewiseError, match="mask"):
        modality_of(boxed).new_table(boxed, [tmp_path])


@pytest.mark.plugins("volumes")
def test_new_cases_may_all_lack_a_sequence(tmp_path: Path) -> None:
    """In a training table that is a mistake; a single new case without it has a stand-in."""
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "new.csv").write_text("path,subject,sequence,classes\na.nii,P1,T1,ill\n")
    volumes = {"sequences": ["T1", "T2"], "missing": "mask", "fusion": ["early"]}
    study = study_of("volumes", volumes=volumes).model_copy(update={"cohort": tmp_path / "new.csv"})
    new = read_cohort(study, to_learn=False, labelled=False)
    assert modality_of(study).read(study, new, None, None).cases["case"].tolist() == ["P1/1"]  # type: ignore[arg-type]
    with pytest.raises(CohortError, match="T2"):
        modality_of(study).read(study, read_cohort(study, to_learn=False), None, None)  # type: ignore[arg-type]


def rows_of(table: OutputTable) -> pd.DataFrame:
    texts = ("learner", "case", "subject", "visit", "region", "image", "target", "problem", "prediction set")
    values = {name: [""] for name in (*texts, "interval note", "flags")}
    frame = pd.DataFrame({name: values.get(name, [0.5]) for name in table.columns})
    return frame.assign(prediction=["yes, no"], beyond=pd.array([True], dtype="boolean"))


def test_images_in_memory_are_predicted_like_their_files(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    files = []
    for number, path in enumerate(pd.read_csv(chests)["path"][:2]):
        files.append(tmp_path / f"{number}.png")
        Image.open(chests.parent / path).convert("L").save(files[-1])
    pictures = [Image.open(file) for file in files]
    expected = chest_run.predict(files).drop(columns=["case", "subject", "image"])
    for cases in (pictures, [np.asarray(picture) for picture in pictures], [[picture] for picture in pictures]):
        predicted = chest_run.predict(cases).drop(columns=["case", "subject", "image"])
        pd.testing.assert_frame_equal(predicted, expected)
    assert len(chest_run.predict(pictures[0])) * 2 == len(expected)
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), [pictures[0], 3]):
        with pytest.raises(CasewiseError, match=r"^cases: "):
            chest_run.predict(wrong)  # type: ignore[arg-type]
    mixed = chest_run.predict([files[0], pictures[1]])  # an image is named by its place in the list
    assert sorted(set(mixed["subject"])) == ["0.png", "image-2.png"]
    of_two = mixed[mixed["subject"] == "image-2.png"]["prediction"].tolist()
    assert of_two == chest_run.predict(pictures[1])["prediction"].tolist()


def test_images_in_memory_have_their_names_everywhere(
    chest_run: Run, chests: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [chests.parent / path for path in pd.read_csv(chests)["path"]]
    pictures: list[Any] = [np.asarray(Image.open(file).convert("L")) for file in files]
    table = chest_run.predict([*pictures, np.zeros((1, 9000), np.uint8)])
    assert table["image"].tolist()[0].startswith("image-")
    assert set(table["image"]) == set(table["subject"])
    assert "Pictures of the training" in caplog.text
    assert "tmp" not in caplog.text + "".join(table["problem"]) + "".join(table["flags"])


def test_a_file_of_two_subjects_has_no_prediction(chest_run: Run, chests: Path) -> None:
    first, second = [str(chests.parent / path) for path in pd.read_csv(chests)["path"][:2]]
    table = chest_run.predict(pd.DataFrame({"path": [first, first, second], "subject": ["X", "Y", "Z"]}))
    assert set(table.loc[table["prediction"].isna(), "subject"]) == {"X", "Y"}
    assert "the same file is also in another case" in table.loc[table["subject"] == "Y", "problem"].iloc[0]


def film(path: Path, **tags: Any) -> Path:
    tags = {"PatientID": "7", "PatientName": "Doe^Jane", "StudyDate": "20200131"} | tags
    path.write_bytes(film_bytes(np.full((64, 64), 900, np.uint16), bits=12, **tags))
    return path


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ({}, ""),
        ({"PatientName": "Doe^Jane^^"}, ""),
        ({"PatientID": "8"}, "a.dcm and b.dcm state different patients"),
        ({"PatientName": "Roe^Jim"}, "different patients"),
        ({"IssuerOfPatientID": "KIS"}, ""),
        ({"StudyDate": "20200301"}, "a.dcm and b.dcm are of different days"),
        ({"StudyDate": None}, ""),
        ({"PatientID": "", "PatientName": None}, ""),
        ({"PatientBirthDate": ""}, ""),
    ],
)
def test_images_of_a_case_are_of_one_patient_and_one_day(tmp_path: Path, tags: dict[str, Any], problem: str) -> None:
    pytest.importorskip("pydicom")
    film(tmp_path / "a.dcm"), film(tmp_path / "b.dcm", SOPInstanceUID="1.2.3.5", **tags)
    study = study_of("photographs", root=str(tmp_path), panels={"by": "case"})
    table = NewTable(study, own=True)
    cells = cells_of(path=["a.dcm", "b.dcm"], subject=["P1", "P1"])
    _, problems = prepare_together(table, cells, cases_of(cells, study), tmp_path / "prepared")
    assert [case.name for case, _ in problems] == ["P1/1"] * bool(problem)
    assert all(problem in text and "Doe" not in text and "Roe" not in text for _, text in problems)
    named = cells.assign(visit="w4")  # a visit may take several days
    _, problems = prepare_together(table, named, cases_of(named, study), tmp_path / "named")
    assert len(problems) == ("patients" in problem)


@pytest.mark.parametrize("first", [{"PatientID": ""}, {"PatientID": "", "PatientName": ""}])
def test_an_image_that_states_little_hides_no_second_patient(tmp_path: Path, first: dict[str, str]) -> None:
    pytest.importorskip("pydicom")
    tags = [first, {}, {"PatientID": "8"}]
    stated = list(stated_by([film(tmp_path / f"{number}.dcm", **each) for number, each in enumerate(tags)]))
    assert people_problem(stated, "P1", {"P1"}).startswith("1.dcm and 2.dcm state different patients")
    assert people_problem(stated[:2], "P1", {"P1"}) == ""
    assert people_problem(stated[:2], "P1", {"P1", "7"}).startswith("1.dcm states a PatientID that is another subject")


def test_a_film_of_another_subject_of_the_table_has_no_prediction(chest_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    films = [film(tmp_path / f"{number}.dcm", PatientID=number) for number in "789"]
    table = chest_run.predict(pd.DataFrame({"path": map(str, films), "subject": ["8", "7", "9"]}))
    assert set(table.loc[table["prediction"].isna(), "subject"]) == {"7", "8"}
    assert "another subject of these cases" in table.loc[table["subject"] == "7", "problem"].iloc[0]
    pseudonyms = chest_run.predict(pd.DataFrame({"path": map(str, films), "subject": ["A", "B", "C"]}))
    assert not pseudonyms["prediction"].isna().any()
    # an identifier of all images, or none, tells nobody
    same = [film(tmp_path / f"same{number}.dcm", PatientID="7") for number in "67"]
    assert chest_run.predict(pd.DataFrame({"path": map(str, same), "subject": ["6", "7"]}))["prediction"].notna().all()
    rows = pd.DataFrame({"path": [str(film(tmp_path / "none.dcm", PatientID="")), str(films[2])], "subject": ["A", ""]})
    assert (chest_run.predict(rows).set_index("subject")["problem"] == "").tolist().count(True) == 1


@pytest.mark.parametrize(
    ("trained_on", "stated", "refused"),
    [
        (("DX",), "CT", True),
        (("DX",), "MR", True),
        (("MG",), "DX", True),
        (("MR", "PT"), "CT", True),
        (("DX",), "CR", False),
        (("CT",), "CT", False),
        (("DX",), "OT", False),
        (("DX",), "SC", False),
        (("SC",), "DX", False),
        (("RG",), "DR", False),
        (("DX",), "", False),
        ((), "CT", False),
    ],
)
def test_an_image_of_another_modality_has_no_prediction(
    tmp_path: Path, trained_on: tuple[str, ...], stated: str, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pydicom")
    film(tmp_path / "a.dcm", Modality=stated), film(tmp_path / "b.dcm", Modality=(*trained_on, "")[0])
    study = study_of("photographs", root=str(tmp_path), panels={"by": "case"})
    cells = cells_of(path=["a.dcm", "b.dcm"], subject=["P1", "P2"])
    table = NewTable(study, own=True, modalities=trained_on)
    prepared, problems = prepare_together(table, cells, cases_of(cells, study), tmp_path / "prepared")
    assert [case.subject for case, _ in problems] == ["P1"] * refused
    assert all(stated in text and trained_on[0] in text for _, text in problems)
    assert len(prepared) == 1
    assert ("a.dcm" in caplog.text) == (stated in ("OT", "SC"))  # what is said of anything is a doubt


def test_companions_in_a_folder_and_among_files_are_no_cases(
    chest_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    files = [tmp_path / "in" / name for name in ("a.png", "a_mask.png")]
    files[0].parent.mkdir()
    Image.fromarray(pixels).save(files[0])
    Image.fromarray((pixels > 250).astype(np.uint8) * 255).save(files[1])
    (tmp_path / "in" / "@eaDir").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "@eaDir" / "thumb.png")
    for cases in (tmp_path / "in", files):
        caplog.clear()
        assert chest_run.predict(cases)["subject"].unique().tolist() == ["a.png"]
        assert "1 mask" in caplog.text
        assert "a_mask.png" in caplog.text
    caplog.clear()
    rows = chest_run.predict(pd.DataFrame({"path": map(str, files), "subject": ["A", "B"]}))
    assert set(rows["subject"]) == {"A", "B"}  # a table is taken at its word, with a doubt
    assert "a_mask.png of a.png" in caplog.text
    caplog.clear()
    assert chest_run.predict([files])["subject"].unique().tolist() == ["a.png"]  # and so is a list of lists
    assert "a_mask.png of a.png" in caplog.text


def test_images_of_the_training_under_other_subjects_of_a_table_are_named(
    chest_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained_on = chest_run.predictions.query("stage == 'oof'")["subject"].astype(str).iloc[0]
    for file in (f"{trained_on}/1.png", f"x/{trained_on}.png", "other/1.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / file)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.png"))
    table = pd.DataFrame({"path": files, "subject": ["new 1", "new 2", "new 3"]})
    chest_run.predict(table, root=tmp_path)
    assert "Names of the training: 2 of 3 subjects." in caplog.text


def test_a_table_in_the_form_of_the_original_one_needs_no_options(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    model = load_bundle(chest_run.folder)
    original = {"path": "Bild", "subject": "Pat.-Nr.", "visit": "Datum"}
    bundle = replace(model.reader, settings={**model.reader.settings, "original_columns": original})
    film_of = {name: chests.parent / path for name, path in zip("abc", pd.read_csv(chests)["path"], strict=False)}
    for name in ("S/P1/a.png", "S/P2/b.png", "N/P1/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(film_of[Path(name).stem], tmp_path / "in" / name)
    rows = [("S\\P1\\a.png", "1", "3.2.2024"), ("S\\P2\\b.png", "2", "3.2.2024"), ("N\\P1\\c.png", "1", "4.3.2024")]
    rows.append(("S\\P3\\a.png", "3", "3.2.2024"))  # is missing, and another patient has a file of its name
    frame = pd.DataFrame([(f"D:\\Export\\{path}", *rest) for path, *rest in rows], columns=[*original.values()])
    frame.to_csv(tmp_path / "new.csv", sep=";", index=False)

    def read(root: str, columns: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
        table = new_table(tmp_path / "new.csv", bundle, tmp_path, columns=columns or {}, root=tmp_path / root)
        cells = table.cells()
        heading = table.study.columns.get("path", "path")
        found = [path for path in cells[heading] if (tmp_path / root / path).is_file()]
        return [case.name for case in cases_of(cells, table.study)], found

    names, found = read("in")
    assert names == ["1/3.2.2024", "1/4.3.2024", "2/3.2.2024", "3/3.2.2024"]
    assert found == ["S/P1/a.png", "S/P2/b.png", "N/P1/c.png"]
    assert read("in/S")[1] == ["P1/a.png", "P2/b.png"]  # nothing of N, whose folders have the same names
    assert read("in/S/P1")[1] == ["a.png"]
    shutil.copyfile(film_of["b"], tmp_path / "in/S/P1/b.png")
    assert read("in/S/P1")[1] == ["a.png"]  # and not the file of P1 that has the name of one of P2
    pd.DataFrame([("D:\\E\\P3\\V1\\a.png", "P3", "1")], columns=[*original.values()]).to_csv(tmp_path / "one.csv")
    (tmp_path / "in/S/P1/V1").mkdir()
    shutil.copyfile(film_of["a"], tmp_path / "in/S/P1/V1/a.png")
    cells = new_table(tmp_path / "one.csv", bundle, tmp_path, columns={}, root=tmp_path / "in/S/P1").cells()
    assert cells["Bild"].tolist() == ["D:\\E\\P3\\V1\\a.png"]
    (tmp_path / "frame").mkdir()
    by_frame = new_table(frame, bundle, tmp_path / "frame", columns={}, root=tmp_path / "in")
    assert [case.name for case in cases_of(by_frame.cells(), by_frame.study)] == names
    assert read("in", {"visit": "Pat.-Nr."})[0] == ["1/1", "2/2", "3/3"]
    frame.set_axis(["path", "subject", "visit"], axis=1).to_csv(tmp_path / "new.csv", index=False)
    assert read("in") == (names, found)


def test_a_refusal_of_columns_states_the_options_that_read_the_table(
    chest_run: Run, chests: Path, tmp_path: Path
) -> None:
    training = {"path": "Röntgenbild", "subject": "Fall", "visit": "Termin", "label": "Befund"}
    reader = load_bundle(chest_run.folder).reader
    bundle = replace(reader, settings={**reader.settings, "columns": training})
    files = [str(chests.parent / path) for path in pd.read_csv(chests)["path"].head(3)]
    columns = {"File": files, "Patient_ID": ["a", "a", "b"], "Untersucht": ["3.2.2024", "4.3.2024", "3.2.2024"]}
    pd.DataFrame(columns).to_csv(tmp_path / "new.csv", index=False)

    def cases(**columns: str) -> list[str]:
        table = new_table(tmp_path / "new.csv", bundle, tmp_path, columns=columns, root=None)
        return [case.name for case in cases_of(table.cells(), table.study)]

    with pytest.raises(
        CohortError, match=r"--column path=File.*\n.*--column subject=Patient_ID.*\n.*--column visit=NAME"
    ):
        cases()
    stated = {"path": "File", "subject": "Patient_ID"}
    assert cases(**stated, visit="Untersucht") == ["a/3.2.2024", "a/4.3.2024", "b/3.2.2024"]


def test_no_problem_of_a_row_names_the_study_file(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    file = str(chests.parent / pd.read_csv(chests)["path"][0])
    frame = pd.DataFrame({"path": [file], "subject": ["a"], "visit": ["1"], "date": ["2/3/2024"]})
    (problem,) = set(chest_run.predict(frame, root=tmp_path)["problem"])
    assert "--column date=" in problem
    assert not re.search("in the study|`columns: ", problem)
    table = NewTable(study_of("photographs"), own=True)
    error = table.corrected(CohortError('Write `columns: {visit: date}`, or leave it unused: `columns: {date: ""}`.'))
    assert 'Give `columns={"visit": "date"}` (`--column visit=date`)' in str(error)
    assert 'leave it unused: `columns={"date": ""}` (`--column date=`)' in str(error)


def test_exchanged_subjects_and_visits_are_doubted(
    chest_run: Run, chests: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = load_bundle(chest_run.folder).reader
    files = [str(chests.parent / path) for path in pd.read_csv(chests)["path"].head(2)]
    frame = pd.DataFrame({"path": files, "subject": ["week 0", "week 4"], "visit": ["Q7", "Q8"]})
    new_table(
        frame.rename(columns={"subject": "visit", "visit": "subject"}), reader, tmp_path, columns={}, root=""
    ).cells()
    assert "exchanged" not in caplog.text
    new_table(frame, reader, tmp_path, columns={}, root="").cells()
    assert "exchanged" in caplog.text


@pytest.mark.parametrize("heading", ["Aufnahme am", "VISITNUM", "Follow-up", "date", "Visite"])
def test_visits_that_no_column_states_are_not_pooled(heading: str, tmp_path: Path) -> None:
    study = study_of("photographs").model_copy(update={"cohort": tmp_path / "new.csv"})
    days = (
        ["03.02.2024", "17.05.2024", "03.02.2024"]
        if heading in ("Aufnahme am", "date")
        else ["erste", "Kontrolle", "erste"]
    )
    paths = [f"{n}.png" for n in range(3)]
    regions = {"region": study.regions[:1] * 3} if study.regions else {}
    frame = pd.DataFrame({"path": paths, "subject": ["a", "a", "b"], heading: days, "age": [1, 2, 3], **regions})
    frame.to_csv(study.cohort, index=False)
    with pytest.raises(CohortError, match=r"'a' has rows of several values of .*--column"):
        NewTable(study, own=True).cells()
    stated = study.model_copy(update={"columns": {**study.columns, "visit": ""}})
    assert len(NewTable(stated, own=True).cells()) == 3
    stated = study.model_copy(update={"columns": {**study.columns, "visit": "Termin"}})
    with pytest.raises(CohortError, match="several values"):  # the training's column is missing
        NewTable(stated, own=True).cells()
    stated = study.model_copy(update={"columns": {**study.columns, "visit": heading}})
    names = {case.name for case in cases_of(NewTable(stated, own=True).cells(), stated)}
    assert names == {f"a/{days[0]}", f"a/{days[1]}", f"b/{days[2]}"}
    with pytest.raises(CohortError, match="--column"):  # of a data frame, too
        NewTable(study, own=False).cells()
    frame.drop(columns=heading).to_csv(study.cohort, index=False)
    assert len(cases_of(NewTable(study, own=True).cells(), study)) == 2


def test_headings_in_other_letters_are_those_of_the_training(chest_run: Run, chests: Path, tmp_path: Path) -> None:
    reader = load_bundle(chest_run.folder).reader
    file = str(chests.parent / pd.read_csv(chests)["path"][0])
    for training in (
        {"columns": {"path": "Bild", "subject": "Fall"}},
        {"columns": {}, "original_columns": {"path": "Bild", "subject": "Fall"}},
    ):
        bundle = replace(reader, settings={**reader.settings, **training})
        for names in (["BILD", "fall"], ["path", "subject"], ["Bild", "subject"], ["Path", " Subject"]):
            table = new_table(pd.DataFrame([[file, "a"]], columns=names), bundle, tmp_path, columns={}, root="")
            assert [case.subject for case in cases_of(table.cells(), table.study)] == ["a"]
        twice = pd.DataFrame([[file, "a", "b"]], columns=["Bild", "FALL", "fall"])
        with pytest.raises(CohortError, match="subject"):
            new_table(twice, bundle, tmp_path, columns={}, root="").cells()


@pytest.mark.parametrize(
    ("subjects", "visits", "doubt"),
    [
        (["P1", "p1"], ["a", "a"], "may mean one person"),
        (["P1", "P2"], ["2024-01-02 10:05", "2024-01-02 11:00"], ""),
        (["P1", "P1"], ["2024-01-02 10:05", "2024-01-02 11:00"], "P1 on 2024-01-02"),
        (["P1", "P1"], ["2024-01-02 10:05", "2024-01-02 10:05"], ""),
        (["P1", "P1"], ["2024-01-02", "2024-01-02 10:05"], "P1 on 2024-01-02"),
        (["P1", ""], ["2024-01-02 10:05", "2024-01-02 11:00"], ""),
        (["P1", "P1"], ["V1 10:05", "V1 11:00"], ""),
        (["P1", "P2"], ["a", "b"], ""),
        (["V1", "V2"], ["1", "2"], ""),
        (["T1", "T2"], ["03.02.2024", "04.02.2024"], ""),
        (["V1", "V2"], ["", ""], ""),
        (["week 0", ""], ["Q7", "Q8"], "exchanged"),
    ],
)
def test_doubts_on_names(
    subjects: list[str], visits: list[str], doubt: str, chest_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.DataFrame({"path": ["1.png", "2.png"], "subject": subjects, "visit": visits})
    new_table(frame, load_bundle(chest_run.folder).reader, tmp_path, columns={}, root="").cells()
    assert doubt in caplog.text
    assert bool(caplog.text) == bool(doubt)


def test_a_table_without_visits_pools_no_more_images_than_a_training_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = study_of("photographs").model_copy(update={"cohort": tmp_path / "new.csv", "regions": []})
    cells = pd.DataFrame({"path": list("12345"), "subject": list("aaaab")})
    with pytest.raises(CohortError, match=r"a has 4 images.*at most 2.*--column visit="):
        check_case_sizes(study, cells, CaseSizes(2, 2), "")
    check_case_sizes(study, cells, CaseSizes(4, 2), "")
    assert "a has 4 images" in caplog.text
    caplog.clear()
    check_case_sizes(study, cells.assign(visit=list("11221")), CaseSizes(2, 2), "")
    check_case_sizes(study, cells.tail(2), CaseSizes(1, 1), "")
    check_case_sizes(study, cells.assign(region=list("uvwxu")), CaseSizes(1, 1), "region")
    own = study.model_copy(update={"columns": {**study.columns, "region": "Ort"}})
    check_case_sizes(own, cells.assign(Ort=list("uvwxu")), CaseSizes(1, 1), "region")
    unused = study.model_copy(update={"columns": {**study.columns, "visit": ""}})
    check_case_sizes(unused, cells, CaseSizes(2, 2), "")
    assert not caplog.text


def test_dates_in_several_forms_are_one_visit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = study_of("photographs").model_copy(update={"cohort": tmp_path / "new.csv", "regions": []})
    study = study.model_copy(update={"columns": {**study.columns, "visit": "Besuch"}})
    days = ["2023-04-16 00:00:00", "16.04.2023", "16. April 2023", "2023-05-02 09:30", "02.05.2023"]
    frame = pd.DataFrame({"path": [f"{n}.png" for n in range(5)], "subject": "a", "Besuch": days})
    frame.to_csv(study.cohort, index=False)
    names = {case.name for case in cases_of(NewTable(study, own=True).cells(), study)}
    assert names == {"a/2023-04-16", "a/2023-05-02 09:30", "a/2023-05-02"}
    assert "Dates in the column 'Besuch' have several forms; all are written as 2023-04-16" in caplog.text
    frame["Besuch"] = ["16.04.2023", "16.04.2023", "02.05.2023", "02.05.2023", "erste"]
    frame.to_csv(study.cohort, index=False)
    cases = cases_of(NewTable(study, own=True).cells(), study)
    assert {case.name for case in cases} == {"a/16.04.2023", "a/02.05.2023", "a/erste"}


def test_names_of_files_in_subfolders_are_found_where_they_are_clear(tmp_path: Path) -> None:
    study = study_of("photographs").model_copy(update={"cohort": tmp_path / "new.csv", "regions": []})

    def read(*names: str) -> list[str]:
        pd.DataFrame({"path": names, "subject": ["P1", "P2"], "visit": "1"}).to_csv(study.cohort, index=False)
        return NewTable(study, own=True).cells()[study.columns.get("path", "path")].tolist()

    for path in ("2023-02/IMG_1.JPG", "2023-03/IMG_2.png", "2023-03/P1/c.png", "x/d.png", "y/d.png", "y/d.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / path, format="PNG" if path.endswith("txt") else None)
    assert read("IMG_1", "img_2.png") == ["2023-02/IMG_1.JPG", "2023-03/IMG_2.png"]
    assert read("IMG_1", "absent") == ["IMG_1", "absent"]
    assert read("IMG_1", "d") == ["IMG_1", "d"]  # in two folders
    assert read("IMG_1", "c.png") == ["IMG_1", "c.png"]  # P2's image would be that of P1
    assert read("c.png", "IMG_1") == ["2023-03/P1/c.png", "2023-02/IMG_1.JPG"]
    assert read("IMG_1", "IMG_1.JPG") == ["IMG_1", "IMG_1.JPG"]
    for path in ("P1/2/e.png", "old/f.png", "P9/g.png", "patient_02/h.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / path)
        name = path.rpartition("/")[2]
        assert read(name, "IMG_1") == [name, "IMG_1"]  # of another visit, copy or subject
