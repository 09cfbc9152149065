"""A model that answers in the same process: scans, slides, and what is drawn of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.inference.model import load_bundle
from casewise.inference.resident import strongest_slice
from casewise.modalities.base import NativeMap
from casewise.plugins.serve.pool import answered
from casewise.plugins.serve.results import explained_class
from casewise.plugins.serve.session import ModelSession
from casewise.plugins.serve.submission import Submission, UploadedFile, Visit, into_series, neutral_name
from casewise.run import run
from casewise.study.learners import the_learner
from casewise.study.loading import build_study
from tests.combinations import make_table, settings


@pytest.fixture(scope="module", params=["volumes", "slides"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundle and the table of a run that predicts classes."""
    folder = tmp_path_factory.mktemp(request.param)
    table = make_table(folder, request.param, "here", seed=1)
    values: dict[str, Any] = settings(request.param, "classes", table, "explanation")
    values |= {"synthetic": True}
    if request.param == "volumes":
        values["volumes"]["sequences"] = ["T1", "T2"]
    finished = run(build_study(values, source="study", folder=folder), folder / "run")
    return finished.folder / "bundle", table


def upload(rows: pd.DataFrame, source: Path, folder: Path) -> Submission:
    files = []
    for number, row in enumerate(rows.to_dict("records")):
        stored = neutral_name(number, row["path"])
        shutil.copy(source / row["path"], folder / stored)
        files.append(UploadedFile(row["path"], stored, row.get("sequence", ""), 0))
    return Submission([Visit("first")], files)


def test_scans_and_slides_are_predicted_and_explained(trained: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, table = trained
    session, rows = ModelSession(bundle, "headline", max_pixels=10**8), pd.read_csv(table)
    rows = rows[rows["subject"] == "here3"].reset_index(drop=True)
    submission = upload(rows, table.parent, tmp_path)
    answer = session.predict(submission, tmp_path)
    assert answer["model"] == {name: session.description[name] for name in answer["model"]}
    guide = (Path(__file__).parents[3] / "docs" / "howto-serve.md").read_text()
    fields = guide.partition("### The fields of")[2].partition("\n\nA request")[0]
    told = {*session.description, *session.description["targets"][0]} - {"targets_by_name", "titles"}
    assert not [key for key in told if f"`{key}`" not in fields]
    assert len(answer["model"]["checksum"]) == 64
    (result,) = answer["visits"][0]["results"]
    absolute = rows.assign(path=[str(table.parent / path) for path in rows["path"]]).drop(columns=["site"])
    expected = load_bundle(bundle).predict(absolute, learner="headline").iloc[0]
    assert result["prediction"] == expected["prediction"]
    for name, value in result["probabilities"].items():
        assert value == pytest.approx(expected[f"probability of {name}"], abs=1e-6)
    assert result["prediction_set"] == expected["prediction set"].split(" | ")
    assert answer["trajectory"] is None
    assert "an image of anything else gets one of them" in session.description["known"]
    assert session.description["doubts"] == load_bundle(bundle).about["doubts"]
    assert (session.description["visits"], session.description["several"] == "") == (False, "T1" in rows.to_string())
    json.dumps(answer, allow_nan=False)
    explained = session.explain(submission, tmp_path)
    assert explained["model"] == answer["model"]
    maps = explained["maps"]
    assert {entry["explained_class"] for entry in maps} == {result["prediction"]}
    for learner in session.description["explained_learners"]:
        by = "that it predicts" if learner == session.learner else f"that {the_learner(session.learner)} predicts"
        meaning = session.explain(replace(submission, learner=learner), tmp_path)["meaning"]
        assert meaning.endswith(f"output for the class {by}")
    shown = {entry["region"] or entry["file"] for entry in maps}
    assert shown == ({"T1", "T2"} if session.description["series"] else {rows["path"].iloc[0]})
    if session.description["series"]:
        assert all("axial slice" in entry["note"] for entry in maps)
        assert {(entry["width"], entry["height"]) for entry in maps} == {(32, 32)}
    (tmp_path / submission.files[0].stored).write_bytes(b"no image")
    _, code, message, files = answered(session.predict, submission, tmp_path)["refused"]
    assert (code, files) == ("unreadable", [rows["path"].iloc[0]])
    assert str(tmp_path) not in message


def test_the_slice_is_shown_as_radiologists_view_it() -> None:
    values, voxels = np.zeros((8, 6, 5), np.float32), np.zeros((8, 6, 5), np.float32)
    values[6, 5, 3] = 1.0  # to the patient's right and front
    voxels[6, 5, 3] = 50.0
    for axes, signs in (((0, 1, 2), (1, 1, 1)), ((1, 0, 2), (1, -1, 1)), ((2, 1, 0), (-1, 1, -1))):
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        stored = []
        for array in (values, voxels):
            turned = array.transpose(axes)
            stored.append(np.flip(turned, [i for i, sign in enumerate(signs) if sign < 0]))
        for i, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            affine[axis, i] = sign
        picture, shown, note = strongest_slice(NativeMap("T1", stored[0], affine=affine, voxels=stored[1]))
        assert picture.shape == shown.shape == (6, 8)
        assert (np.argwhere(shown == 1).tolist(), picture[0, 1]) == ([[0, 1]], picture.max())
        assert "slice 4 of 5" in note


def test_the_files_of_a_series_are_one_scan(tmp_path: Path) -> None:
    names = [("T1", "a.dcm"), ("T1", "b.dcm"), ("T2", "c.nii.gz"), ("T3", "noending")]
    files = [UploadedFile(name, neutral_name(n, name), slot, 0) for n, (slot, name) in enumerate(names)]
    for file in files:
        (tmp_path / file.stored).touch()
    submission = Submission([Visit("week 4")], files)
    scans = into_series(submission, tmp_path)
    assert into_series(submission, tmp_path) == scans
    stored = {"T1": "series-0", "T2": "upload-2.nii.gz", "T3": "series-2"}
    assert [(scan.slot, scan.stored) for scan in scans] == list(stored.items())
    assert sorted(path.name for path in (tmp_path / "series-0").iterdir()) == ["upload-0.dcm", "upload-1.dcm"]
    text = f"subject/visit 1: {tmp_path}/series-0/upload-1.dcm: it is cut. {tmp_path}/series-0: two series."
    assert submission.named(text, tmp_path) == "week 4: b.dcm: it is cut. the files of T1: two series."
    assert submission.files_in(text) == ["b.dcm"]
    assert submission.named("upload-2.nii.gz: upside down. Far.") == "c.nii.gz: upside down. Far."


def test_a_class_that_is_explained_is_that_of_its_region_or_image() -> None:
    rows = pd.DataFrame(
        [
            {"target": "dx", "visit": "visit 1", "region": "arm", "image": "/x/upload-0.jpg", "prediction": "a"},
            {"target": "dx", "visit": "visit 1", "region": "leg", "image": "/x/upload-1.jpg", "prediction": "b"},
            {"target": "dx", "visit": "visit 2", "region": "leg", "image": "/x/upload-2.jpg", "prediction": None},
        ]
    )
    shown = {"visit": 1, "region": "leg", "stored": "upload-1.jpg"}
    assert [explained_class(rows, "dx", level, shown) for level in ("case", "region", "image")] == ["a", "b", "b"]
    assert explained_class(rows, "dx", "image", shown | {"visit": 2, "stored": "upload-2.jpg"}) == ""
    assert explained_class(rows.iloc[:0], "dx", "case", shown) == ""
    assert explained_class(pd.DataFrame(columns=["subject", "prediction"]), "dx", "case", shown) == ""
