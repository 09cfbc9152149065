"""Reproducing a run: what is compared, what is refused before training, and a repetition to the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casewise
from casewise.errors import CohortError, ImageError, RunError, StudyError, WeightsError
from casewise.pipeline.reproduction import DIFFERENT, EQUAL, WITHIN, Reproduction, compared, compared_predictions
from casewise.run import Run
from casewise.run_folder import RunFolder
from tests.baseline_run import run_baselines
from tests.test_cli import casewise as command


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of baselines whose files no other test uses."""
    return run_baselines(tmp_path_factory.mktemp("reproduced"))


@pytest.fixture
def copied(own_run: Run, tmp_path: Path) -> RunFolder:
    shutil.copytree(own_run.folder, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def table(**changes: Any) -> pd.DataFrame:
    """Two predictions of a learner."""
    columns = {"model": "cnn", "stage": "oof", "outer_fold": 1, "inner_fold": pd.NA, "region": "", "image": ""}
    rows = pd.DataFrame({"case": ["a/1", "b/1"], "target": "size", "y_pred": [0.1, 0.2], "distance": [1.0, np.nan]})
    return rows.assign(**{**columns, **changes})


class TestPredictions:
    def test_equal_bits(self) -> None:
        found = compared_predictions(table(), table().iloc[::-1])
        assert (found["rows"], found["equal"], found["largest_difference"], found["equal_distances"]) == (
            2,
            2,
            0.0,
            True,
        )

    def test_the_last_bit_counts(self) -> None:
        found = compared_predictions(table(), table(y_pred=[np.nextafter(0.1, 1), 0.2]))
        assert found["equal"] == 1
        assert 0 < found["largest_difference"] < 1e-16
        assert found["by_learner"]["cnn"] == {
            "rows": 2,
            "equal": 1,
            "largest_difference": found["largest_difference"],
        }

    def test_probabilities_are_compared_too(self) -> None:
        found = compared_predictions(table(p0=0.5, p1=0.5), table(p0=[0.5, 0.25], p1=[0.5, 0.75]))
        assert (found["equal"], found["largest_difference"]) == (1, 0.25)
        assert compared_predictions(table(p0=1.0), table())["equal"] == 0

    def test_rows_of_one_side_and_missing_values(self) -> None:
        found = compared_predictions(table(), table(case=["a/1", "c/1"]))
        assert (found["rows"], found["missing"], found["further"], found["equal"]) == (3, 1, 1, 1)
        assert compared_predictions(table(), table(y_pred=[np.nan, 0.2]))["largest_difference"] is None
        assert compared_predictions(table(distance=[1.0, 2.0]), table())["equal_distances"] is False


class TestCompared:
    def test_a_run_is_equal_to_its_copy(self, own_run: Run, copied: RunFolder) -> None:
        record = compared(own_run.files, copied, own_run.study, 0.0)
        assert record["verdict"] == EQUAL
        assert record["networks"] == {"all": 6, "different": []}
        assert record["figures"]["figures"] == record["figures"]["equal"] > 100
        assert record["environment"] == {"different": {}, "not_recorded": []}
        assert Reproduction(copied.path, {**record, "run": "x"}).same

    def test_what_differs_is_named(self, own_run: Run, copied: RunFolder) -> None:
        rows = copied.predictions.read()
        name = str(rows["model"].iloc[0])
        rows.loc[0, "p0"], rows.loc[0, "p1"] = rows.loc[0, "p0"] + 0.001, rows.loc[0, "p1"] - 0.001
        copied.predictions.write(rows)
        facts = copied.job(name, 1).facts
        facts.write({**facts.read(), "weights_sha256": "other"})
        metrics = copied.metrics.read()
        metrics["main"]["learner"] = "another"
        copied.metrics.write(metrics)
        copied.environment.write({**copied.environment.read(), "torch": "0.1"})
        record = compared(own_run.files, copied, own_run.study, 0.0)
        assert record["verdict"] == DIFFERENT
        assert record["predictions"]["largest_difference"] == pytest.approx(0.001)
        assert record["networks"]["different"] == [f"{name}, fold 2"]
        assert record["figures"]["largest"][0]["name"] == "main.learner"
        assert record["environment"]["different"]["torch"][1] == "0.1"
        reproduction = Reproduction(copied.path, record)
        assert not reproduction.same
        text = "\n".join(reproduction.lines())
        for part in ("1 of ", f"{name}, fold 2", "main.learner", "Different: torch", "Not reproduced"):
            assert part in text
        assert compared(own_run.files, copied, own_run.study, 0.002)["verdict"] == WITHIN


class TestRefused:
    def test_what_is_no_finished_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no run folder"):
            casewise.reproduce(tmp_path / "nothing")
        (tmp_path / "empty").mkdir()
        done = command("reproduce", str(tmp_path / "empty"))
        assert done.returncode == 2
        assert "holds no finished run" in done.stderr.replace("\n", " ")

    def test_folders_with_other_files(self, own_run: Run, tmp_path: Path) -> None:
        for folder in (own_run.folder, own_run.folder / "again"):
            with pytest.raises(RunError, match="in the run that is reproduced"):
                casewise.reproduce(own_run, folder)
        (tmp_path / "other.txt").write_text("text")
        with pytest.raises(RunError, match="holds other files"):
            casewise.reproduce(own_run, tmp_path)
        with pytest.raises(StudyError, match="at least 0"):
            casewise.reproduce(own_run, tmp_path, tolerance=-1)

    def test_a_changed_cell_is_named(self, own_run: Run, tmp_path: Path) -> None:
        path = own_run.study.cohort
        text = path.read_bytes()
        try:
            rows = pd.read_csv(path)
            rows["note"] = "new"
            rows.to_csv(path, index=False)
            with pytest.raises(CohortError, match="the column 'note' is new"):
                casewise.reproduce(own_run, tmp_path / "new")
        finally:
            path.write_bytes(text)
        assert not (tmp_path / "new" / "jobs").exists()

    def test_changed_first_weights_are_named(self, copied: RunFolder, tmp_path: Path) -> None:
        name = next(iter(copied.finished_jobs())).record.read()["model"]
        job = copied.job(name, 0)
        job.record.write({**job.record.read(), "first_weights": "an earlier file"})
        with pytest.raises(WeightsError, match=f"{name}: SHA-256 was an earlier file"):
            casewise.reproduce(copied.path, tmp_path / "new")

    def test_a_changed_image_is_named(self, own_run: Run, tmp_path: Path) -> None:
        from PIL import Image

        changed = Path(str(own_run.files.cohort.read()["path"].iloc[3]))
        content = changed.read_bytes()
        try:
            with Image.open(changed) as image:
                Image.new(image.mode, image.size, 77).save(changed, format=image.format)
            with pytest.raises(ImageError, match=changed.name) as refused:
                casewise.reproduce(own_run, tmp_path / "new")
        finally:
            changed.write_bytes(content)
        assert str(refused.value).startswith("1 image changed")
        assert not (tmp_path / "new" / "jobs").exists()


@pytest.mark.slow
def test_a_repetition_has_the_same_bits(own_run: Run, tmp_path: Path) -> None:
    done = command("reproduce", str(own_run.folder), "--output", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert "Reproduced: all predictions are equal, bit by bit." in done.stdout
    again = RunFolder(tmp_path / "again")
    record = again.reproduction.read()
    assert (record["verdict"], record["finished"], record["run"]) == (EQUAL, True, str(own_run.folder.resolve()))
    assert again.weights_sha256(own_run.study.learners) == own_run.files.weights_sha256(own_run.study.learners)
    with pytest.raises(RunError, match="already holds a reproduction"):
        casewise.reproduce(own_run, tmp_path / "again")
