"""Trained networks away from their run: rebuilt from weights and facts alone, they give the same bits."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from casewise import open_run
from casewise.errors import CasewiseError, RunError, WeightsError, counted
from casewise.files import checksum
from casewise.inference.model import load_bundle
from casewise.inference.new_cases import new_table
from casewise.inference.predictor import Predictor, prediction_rows
from casewise.inference.run_members import members_of
from casewise.plugins.phantoms.chest import make_chest
from casewise.run import Run
from casewise.run_folder import RunFolder
from tests.chest_study import THREE

FACTS, WEIGHTS, DISTANCE = "model.json", "model.safetensors", "distance.safetensors"


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chest(tmp_path_factory.mktemp("new"), subjects=3, images=2, size=(64, 64), seed=5)


def test_the_recorded_predictions_come_back_to_the_bit(
    chest_run: Run, chests: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = chest_run.folder / "jobs" / "test_resnet" / "fold1"
    recorded, rows = pd.read_parquet(folder / "predictions.parquet").query("stage == 'oof'"), pd.read_csv(chests)
    # the same images in the same batches
    held_out = rows[rows["subject"].astype(str).isin(set(recorded["subject"]))]
    table = load_bundle(folder).predict(held_out, root=chests.parent)
    assert not caplog.text  # held out of this fold
    load_bundle(chest_run.folder).predict(held_out, root=chests.parent)
    count = held_out["subject"].nunique()
    assert f"Names of the training: {count} of {counted(count, 'subject')}." in caplog.text
    assert table["case"].tolist() == recorded["case"].tolist()
    for code, name in enumerate(THREE):
        assert table[f"probability of {name}"].tolist() == recorded[f"p{code}"].tolist()
    assert table["prediction"].tolist() == [THREE[int(code)] for code in recorded["y_pred"]]


@pytest.mark.parametrize("ending", [True, False])
def test_files_of_the_training_are_counted_where_subjects_are_not_known(
    chest_run: Run, new: Path, caplog: pytest.LogCaptureFixture, ending: bool
) -> None:
    model, files = load_bundle(chest_run.folder), sorted(new.parent.glob("**/*.png"))[:2]
    trained_on = frozenset({files[0].name if ending else files[0].stem})
    members = (
        replace(each, subjects=trained_on, settings={**each.settings, "subjects_known": False})
        for each in model.members
    )
    replace(model, members=tuple(members)).predict(files)
    assert "Names of the training: 1 of 2 images." in caplog.text


def test_a_column_of_the_training_that_new_cases_lack_may_be_left_unused(
    chest_run: Run, new: Path, tmp_path: Path
) -> None:
    model, table = load_bundle(chest_run.folder), tmp_path / "new.csv"
    model = replace(
        model,
        members=tuple(
            replace(each, settings={**each.settings, "columns": {"visit": "order"}}) for each in model.members
        ),
    )
    pd.read_csv(new)[["path", "subject"]].to_csv(table, index=False)
    with pytest.raises(CasewiseError, match=r"If there is none, give .* \(`--column visit=`\)"):
        model.predict(table, root=new.parent)
    assert len(model.predict(table, root=new.parent, columns={"visit": ""})) == len(pd.read_csv(table))


def test_weights_and_facts_alone_predict_elsewhere_with_the_same_bits(
    chest_run: Run, new: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, away = load_bundle(chest_run.folder / "jobs" / "test_resnet" / "fold2").predict(new), tmp_path / "away"
    away.mkdir()
    for name in (WEIGHTS, FACTS, DISTANCE):
        shutil.copy(chest_run.folder / "jobs" / "test_resnet" / "fold2" / name, away / name)
    unlabelled = tmp_path / "photographs" / "unlabelled.csv"
    shutil.copytree(new.parent, unlabelled.parent)
    pd.read_csv(new).drop(columns="label").to_csv(unlabelled, index=False)
    there = load_bundle(away).predict(unlabelled)
    pd.testing.assert_frame_equal(there.drop(columns="image"), here.drop(columns="image"))
    assert sorted(p.name for p in away.iterdir()) == sorted((WEIGHTS, FACTS, DISTANCE))
    (away / DISTANCE).unlink()
    with caplog.at_level("WARNING", logger="casewise"):
        without = load_bundle(away).predict(unlabelled)
    assert without["distance"].isna().all()
    assert [DISTANCE in record.getMessage() for record in caplog.records] == [True]
    assert without["prediction"].tolist() == here["prediction"].tolist()


def test_a_run_folder_predicts_by_the_mean_of_its_folds(chest_run: Run, new: Path) -> None:
    model = load_bundle(chest_run.folder)
    assert (len(model.members), list(model.table.classes)) == (2, ["label"])
    mean, each = model.predict(new), [load_bundle(member.folder).predict(new) for member in model.members]
    columns = [f"probability of {name}" for name in THREE]
    assert np.allclose(mean[columns], (each[0][columns] + each[1][columns]) / 2)
    assert len(mean) == len(pd.read_csv(new))


def test_a_run_that_lacks_a_network_is_refused(chest_run: Run, tmp_path: Path) -> None:
    shutil.copytree(chest_run.folder, folder := tmp_path / "run")
    record = RunFolder(folder).job("test_resnet", 1).record
    facts = record.read()
    record.write({**facts, "fingerprint": "another"})
    with pytest.raises(RunError, match="fold 2"):
        members_of(RunFolder(folder))
    record.remove()
    with pytest.raises(RunError, match=r"test_resnet.fold2.job\.json is missing"):
        load_bundle(folder)


def test_networks_of_a_comparison_by_image_are_refused(chest_run: Run, tmp_path: Path) -> None:
    shutil.copytree(chest_run.folder, folder := tmp_path / "run")
    (folder / "comparison.json").write_text("{}")
    for refused in (load_bundle, open_run):
        with pytest.raises(RunError):
            refused(folder)
    job = RunFolder(folder).job("test_resnet", 0)
    job.facts.write(job.facts.read() | {"comparison_only": True})
    with pytest.raises(RunError):
        load_bundle(job.path)


def test_a_run_without_its_report_is_not_opened(chest_run: Run, tmp_path: Path) -> None:
    shutil.copytree(chest_run.folder, folder := tmp_path / "run")
    assert open_run(folder).study.name == chest_run.study.name
    metrics = RunFolder(folder).metrics
    text = metrics.read()
    metrics.write(text | {"notes": []})  # killed before the report
    with pytest.raises(RunError, match=r"report\.html"):
        open_run(folder)
    metrics.write(text)
    open_run(folder)
    (folder / "report.html").unlink()
    with pytest.raises(RunError, match=r"report\.html"):
        open_run(folder)


@pytest.mark.parametrize("name", [WEIGHTS, DISTANCE])
def test_weights_that_are_no_finite_numbers_are_refused(chest_run: Run, tmp_path: Path, name: str) -> None:
    folder = chest_run.folder / "jobs" / "test_resnet" / "fold1"
    facts = json.loads((folder / FACTS).read_text())
    for file in (WEIGHTS, DISTANCE):
        tensors = load_file(folder / file)
        if file == name:
            odd = next(key for key, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() > 1)
            tensors[odd].view(-1)[1] = np.nan
        save_file(tensors, tmp_path / file)
    facts["weights_sha256"] = checksum(tmp_path / WEIGHTS)
    facts["distance"]["sha256"] = checksum(tmp_path / DISTANCE)
    (tmp_path / FACTS).write_text(json.dumps(facts))
    with pytest.raises(WeightsError, match=f"{name}.*{odd}.*finite"):
        Predictor.load(tmp_path)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_row_of_a_panel_without_a_number_has_none(chest_run: Run, new: Path, tmp_path: Path, pooling: str) -> None:
    bundle = load_bundle(chest_run.folder).members[0]
    table = new_table(new, bundle, tmp_path, columns={}, root=None)
    panels, study = table.prepared(tmp_path).cohort.panels, table.study.of_learner(bundle.model)
    study = study.model_copy(update={"panels": study.panels.model_copy(update={"pooling": pooling})})
    for count in (1, 2):  # with one panel, and with two of which one has a number
        values = np.random.default_rng(1).dirichlet(np.ones(len(THREE)), len(panels) * count)
        values[1, 2] = np.nan
        rows = prediction_rows(
            pd.concat([panels] * count, ignore_index=True), study, values, stage="test", model="test_resnet", fold=0
        )
        lacking = rows["case"] == panels["case"].iloc[1]
        assert rows.loc[lacking, ["y_pred", "p0", "p1", "p2"]].isna().to_numpy().any(axis=0).all()
        assert rows[["y_pred", "p0", "p1", "p2"]].isna().any(axis=1).sum() == 1


def test_a_pattern_says_what_folders_are(chest_run: Run, new: Path, tmp_path: Path) -> None:
    for visit in ("first", "second"):
        (tmp_path / "P7" / visit).mkdir(parents=True)
        shutil.copy(new.parent / pd.read_csv(new)["path"].iloc[0], tmp_path / "P7" / visit / "a.jpg")
    model = load_bundle(chest_run.folder)
    assert model.predict(tmp_path / "P7", pattern="{visit}/{file}")["case"].tolist() == ["P7/first", "P7/second"]
    with pytest.raises(CasewiseError, match="--pattern"):
        model.predict(new, pattern="{visit}/{file}")
    with pytest.raises(CasewiseError, match="data frame"):
        model.predict(pd.read_csv(new), root=new.parent, pattern="{visit}/{file}")
    shutil.copytree(tmp_path / "P7", tmp_path / "other" / "P7")
    twins = [tmp_path / "P7", tmp_path / "other" / "P7"]
    with pytest.raises(CasewiseError, match="both be the subject P7"):
        model.predict(twins, pattern="{visit}/{file}")
