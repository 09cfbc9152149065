"""Study files, run folders, bundles and results of released versions are read, and mean what they meant."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import casewise
from casewise.errors import DamagedError, StudyError
from casewise.evaluation.metrics_file import read_results
from casewise.run_folder import RunFolder

VERSIONS = sorted(path for path in (Path(__file__).parent / "compatible").iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what a version wrote, because opening locks it."""
    shutil.copytree(request.param, tmp_path / "written")
    return tmp_path / "written"


def test_a_study_file_is_read(written: Path) -> None:
    study = casewise.read_study(written / "study.yaml")
    assert study.format == 1
    assert study.backbones == ["test_efficientnet", "test_efficientnet_gn"]
    assert study.recipe.batch_norm == "keep_statistics"


def test_a_run_folder_is_opened_with_its_figures(written: Path) -> None:
    run = casewise.open_run(written / "run")
    stored = json.loads((written / "run" / "metrics.json").read_text())
    assert stored["format"] == 1
    shown = run.metrics.set_index(["stage", "learner", "target", "metric"])["value"]
    compared = 0
    for (stage, learner, target, metric), value in shown.items():
        entry = stored["metrics"][stage][learner].get(target, {}).get(metric)
        if isinstance(entry, dict) and entry.get("value") is not None:
            assert value == pytest.approx(entry["value"])
            compared += 1
    assert compared > 50
    assert set(run.targets) == {"skin_tone", "dark"}
    assert len(run.predictions.query("learner == 'test_efficientnet' and target == 'dark'")) == 12


def test_a_bundle_predicts_what_it_predicted(written: Path) -> None:
    keys = ["learner", "case", "target"]
    stored = pd.read_csv(written / "predicted.csv").set_index(keys)
    new = casewise.load_bundle(written / "run" / "bundle").predict(written / "new", learner="networks").set_index(keys)
    assert set(new.index) == set(stored.index)
    number = [index for index in stored.index if index[-1] == "skin_tone"]
    assert len(number) == 3
    expected = stored.loc[number, "prediction"].astype(float)
    np.testing.assert_allclose(new.loc[number, "prediction"].astype(float), expected, atol=1e-3)
    classes = stored.index.difference(number)
    column = "probability of yes"
    np.testing.assert_allclose(new.loc[classes, column], stored.loc[classes, column], atol=1e-3)


def test_a_later_format_is_refused(written: Path) -> None:
    study = written / "study.yaml"
    study.write_text(study.read_text().replace("format: 1", "format: 2"))
    with pytest.raises(StudyError, match="format"):
        casewise.read_study(study)
    folder = RunFolder(written / "run")
    folder.metrics.write(folder.metrics.read() | {"format": 2})
    with pytest.raises(DamagedError, match="format"):
        read_results(folder)
