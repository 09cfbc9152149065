"""The bundle of a run: alone and elsewhere, it predicts what the run predicted of its test set."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.console import Silent
from casewise.errors import CasewiseError, RunError, SplitError, WeightsError
from casewise.evaluation.record import plain
from casewise.inference.model import load_bundle
from casewise.inference.output_table import predict_to_file
from casewise.models.weights import check_bundle_subjects
from casewise.pipeline.bundle import archive_run, write_bundle
from casewise.report.context import read_context
from casewise.report.sections import calibration
from casewise.report.statements import statements
from casewise.run import Run
from casewise.run_folder import RunFolder
from tests.combinations import KINDS, MODALITIES, run_for_new_cases

LABELS = [*KINDS, "site"]


def table_of(result: Run) -> pd.DataFrame:
    """The cohort table with absolute paths and without labels."""
    table, root = pd.read_csv(result.study.cohort), result.study.cohort.parent
    return table.drop(columns=LABELS).assign(path=[str(root / path) for path in table["path"]])


def check_equal(new: pd.DataFrame, rows: pd.DataFrame) -> None:
    """New predictions are those of a run to 1e-6, for every learner, case and target."""
    new = new.set_index(["learner", "case", "target"])
    assert set(new.index) == set(zip(rows["model"], rows["case"], rows["target"], strict=True))
    for row in rows.to_dict("records"):
        found = new.loc[(row["model"], row["case"], row["target"])]
        if row["target"] == "number":
            assert float(found["prediction"]) == pytest.approx(row["y_pred"], abs=1e-6)
            continue
        names = ["healthy", "ill"] if row["target"] == "classes" else ["0", "1", "2"]
        assert str(found["prediction"]) == names[int(row["y_pred"])]
        for code, name in enumerate(names):
            assert float(found[f"probability of {name}"]) == pytest.approx(row[f"p{code}"], abs=1e-6)


@pytest.mark.parametrize(
    "modality", ["photographs", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MODALITIES)[1:])]
)
def test_a_copy_predicts_the_test_set_in_another_process(photograph_run: Run, tmp_path: Path, modality: str) -> None:
    result = photograph_run if modality == "photographs" else run_for_new_cases(tmp_path, modality)
    rows, away = result.rows[result.rows["stage"] == "test"], tmp_path / "away"
    away.mkdir()
    archive_run(result.folder, away / "model.zip", Silent())
    table = table_of(result)
    table[table["subject"].isin(set(rows["subject"]))].to_csv(away / "cases.csv", index=False)
    command = [sys.executable, "-m", "casewise.cli.main", "predict", "model.zip", "cases.csv", "--output", "new.csv"]
    command += ["--learner", "all", "--chunk", "2"]
    done = subprocess.run(command, cwd=away, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    new = pd.read_csv(away / "new.csv", dtype={"prediction": str})
    assert set(new["learner"]) == {"linear_pixels", "test_resnet", "mean_of_learners", "meta_learner_weighted"}
    check_equal(new, rows)
    assert new["problem"].isna().all()
    assert sorted(path.name for path in away.iterdir()) == ["cases.csv", "model.zip", "new.csv", "new.csv.json"]


def test_intervals_and_sets_of_new_cases_are_those_of_the_test_set(photograph_run: Run) -> None:
    result = photograph_run
    assert result.targets[0] == result.study.primary_outcome != result.targets[1]
    own = result.predictions
    assert own.loc[own["stage"] == "oof", ["low", "high"]].isna().all(axis=None)
    assert set(own.loc[own["stage"] == "oof", "set"]) == {""}
    own, table = own[own["stage"] == "test"].set_index(["learner", "case", "target"]), table_of(result)
    cases = table[table["subject"].isin(set(own["subject"]))]
    new = load_bundle(result.folder / "bundle").predict(cases, learner="all")
    new = new.set_index(["learner", "case", "target"]).loc[own.index]
    numbers = (own.index.get_level_values("target") == "number").tolist()
    for ours, theirs in (("low", "prediction low"), ("high", "prediction high")):
        assert own.loc[numbers, ours].notna().all()
        assert np.allclose(own[ours], new[theirs], atol=1e-5, equal_nan=True)
    assert own["set"].tolist() == new["prediction set"].tolist()
    others = own[[not number for number in numbers]]
    assert all(row.prediction in row.set.split(" | ") for row in others.itertuples())
    single = load_bundle(RunFolder(result.folder).job("test_resnet", 0).path).predict(cases.head(2))
    assert single["prediction low"].isna().all()
    assert single["interval note"].str.contains("none was calibrated").all()


def test_a_bundle_tells_what_its_report_says_against_the_model(photograph_run: Run) -> None:
    about = load_bundle(photograph_run.folder).about
    against = [
        each.text
        for each in statements(read_context(photograph_run.folder))
        if each.level in ("flag", "bad", "warning")
    ]
    told = [about["audited"], *about["doubts"]]
    # that images are synthetic has a place of its own, and so has what the audit found
    missing = [text for text in against if not any(text in each for each in told)]
    assert all(text.startswith(("Synthetic", "Audit:")) for text in missing)
    assert not [name for name in photograph_run.rows["subject"].unique() if name in " ".join(told)]


def test_folder_run_and_zip_are_the_same_model(photograph_run: Run, tmp_path: Path) -> None:
    result = photograph_run
    zipped = load_bundle(archive_run(result.folder, tmp_path / "model.zip", Silent()))
    here, shared = load_bundle(result.folder), load_bundle(result.folder / "bundle")
    assert here.learners == shared.learners == zipped.learners == shared.about["learners"]
    assert here.headline == shared.headline == result.results["main"]["learner"]
    table = table_of(result).head(6)
    expected = here.predict(table, learner="all")
    for model in (shared, zipped):
        pd.testing.assert_frame_equal(model.predict(table, learner="all"), expected)
    headline = shared.predict(table, learner="headline")
    assert set(headline["learner"]) == {here.headline}
    with pytest.raises(RunError, match="test_resnet"):
        shared.predict(table, learner="test_resnt")


def test_a_bad_case_is_a_row_with_its_reason(photograph_run: Run, tmp_path: Path) -> None:
    result = photograph_run
    model, good = load_bundle(result.folder / "bundle"), table_of(result).head(8)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "text.png").write_text("no picture")
    bad = pd.DataFrame(
        {"path": [str(tmp_path / name) for name in ("broken.png", "text.png", "nowhere.png")]}
        | {"subject": ["B1", "B2", "B3"], "region": "upper"}
    )
    nobody = good.head(1).assign(subject="")
    table = pd.concat([good.head(4), bad, nobody, good.tail(4)], ignore_index=True)
    expected = model.predict(good, learner="headline")
    written = predict_to_file(model, table, tmp_path / "new.parquet", size=3)
    new, cases = pd.read_parquet(written.path), good["subject"].nunique()
    assert (written.cases, written.without) == (cases + 4, 4)
    assert new.groupby("target").size().tolist() == [cases + 4] * 3
    problems = new[new["problem"] != ""].drop_duplicates(["case", "problem"]).set_index("case")["problem"]
    assert set(problems.index) == {"B1/1", "B2/1", "B3/1", ""}
    assert "nowhere.png" in problems["B3/1"]
    assert "broken.png" in problems["B1/1"]
    assert "row 9" in problems[""]
    answered = new[new["problem"] == ""].sort_values(["target", "case"])
    one = expected.sort_values(["target", "case"])
    assert answered["case"].tolist() == one["case"].tolist()
    columns = ["probability of ill", "spread", "distance"]
    assert np.allclose(answered[columns].astype(float), one[columns].astype(float), atol=1e-6, equal_nan=True)
    with pytest.raises(CasewiseError, match="subject"):
        predict_to_file(model, table.drop(columns="subject"), tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


def test_folders_and_images_are_cases(photograph_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, table = load_bundle(photograph_run.folder / "bundle"), table_of(photograph_run).head(4)
    expected = model.predict(table, learner="headline")
    for path, subject in zip(table["path"], table["subject"], strict=True):
        (tmp_path / "new" / subject / "first").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "new" / subject / "first")
    (tmp_path / "new" / "notes.txt").write_text("not an image")
    laid_out = model.predict(tmp_path / "new", learner="headline")
    assert any("notes.txt" in record.getMessage() for record in caplog.records)
    assert laid_out["case"].tolist() == [f"{case.split('/')[0]}/first" for case in expected["case"]]
    assert np.allclose(laid_out["probability of ill"], expected["probability of ill"], atol=1e-6, equal_nan=True)
    images = [Path(path) for path in table["path"]]
    single = model.predict(images, learner="headline")
    assert set(single["subject"]) == {image.name for image in images}
    assert set(model.predict(images[0])["subject"]) == {images[0].name}


def test_a_bundle_contains_no_name_of_a_subject_and_no_path(photograph_run: Run) -> None:
    result = photograph_run
    files = [path for path in (result.folder / "bundle").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    for path in files:
        data = path.read_bytes()
        assert not re.search(rb"\bhere\d+\b", data), path
        assert str(result.folder.parent).encode() not in data, path


def test_a_study_that_holds_out_a_subject_of_the_bundle_is_refused(photograph_run: Run) -> None:
    result = photograph_run
    member = result.folder / "bundle" / "members" / "test_resnet" / "fold1"
    folds = result.splits.set_index("subject")["fold"]
    trained, held_out = folds.index[folds == 2][0], folds.index[folds == 1][0]
    with pytest.raises(SplitError, match=trained):
        check_bundle_subjects(f"bundle:{member}", [trained.upper(), "other", trained])
    check_bundle_subjects(f"bundle:{member}", [held_out, "other"])
    with pytest.raises(WeightsError, match="members/"):
        check_bundle_subjects(f"bundle:{result.folder / 'bundle'}", ["other"])


def test_weights_are_shared_with_the_run_and_an_unchanged_bundle_is_kept(photograph_run: Run) -> None:
    finished = photograph_run.finished
    folder = finished.files
    for fold in range(2):
        jobs = folder.job("test_resnet", fold), folder.bundle.member("test_resnet", fold + 1)
        weights = [job.weights.path for job in jobs]
        assert os.stat(weights[0]).st_ino == os.stat(weights[1]).st_ino
    before = os.stat(folder.bundle.manifest_path).st_ino
    write_bundle(finished, Silent())
    assert os.stat(folder.bundle.manifest_path).st_ino == before
    (folder.bundle.path / "MODEL_CARD.md").unlink()
    write_bundle(finished, Silent())
    folder.bundle.verify()


@pytest.mark.parametrize(
    "name", ["bundle.json", "metrics.json", "MODEL_CARD.md", "members/test_resnet/fold2/model.safetensors"]
)
def test_a_changed_or_incomplete_bundle_is_refused(photograph_run: Run, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(photograph_run.folder / "bundle", tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(RunError, match=re.escape(name)):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(RunError, match=re.escape(name)):
        load_bundle(copy)


def test_the_card_states_the_figures_of_the_run(photograph_run: Run) -> None:
    result = photograph_run
    card, main = (result.folder / "bundle" / "MODEL_CARD.md").read_text(), result.results["main"]
    assert main["learner"] in card
    assert "synthetic" in card
    figure = result.results.figures.of(main["stage"], main["learner"], main["target"])["mae"]
    assert f"| {figure.value:.2f} |" in card
    assert "{{" not in card
    observed = calibration.coverage(read_context(result.folder).study, result.results)
    assert observed.rows
    assert all(f"| {row.cells[1].text} " in card for row in observed.rows)
    provenance: dict[str, Any] = json.loads((result.folder / "bundle" / "provenance.json").read_text())
    assert provenance["subjects"] == {"training_and_validation": 12, "test": 4}
    assert provenance["split"] == json.loads((result.folder / "splits.json").read_text())["hash"]
    metrics = json.loads((result.folder / "bundle" / "metrics.json").read_text())
    assert metrics["main"]["metrics"]["mae"] == plain(figure)
