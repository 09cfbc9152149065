"""Reproducing a run: what is compared, what is refused before training, and a repetition to the same bits."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import casewise
from casewise.errors import CohortError, RunError, StudyError
from casewise.plugins.reproduce import comparison as reproduction_file
from casewise.plugins.reproduce.comparison import DIFFERENT, EQUAL, WITHIN, compared, compared_predictions
from casewise.run import Run
from casewise.run_folder import RunFolder
from tests.test_cli import casewise as command


@pytest.fixture
def copied(baseline_run: Run, tmp_path: Path) -> RunFolder:
    shutil.copytree(baseline_run.folder, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def table(**changes: Any) -> pd.DataFrame:
    """Two predictions of a learner."""
    columns = {"model": "cnn", "stage": "oof", "outer_fold": 1, "inner_fold": pd.NA, "region": "", "image": ""}
    rows = pd.DataFrame({"case": ["a/1", "b/1"], "target": "size", "y_pred": [0.1, 0.2], "distance": [1.0, np.nan]})
    return rows.assign(**{**columns, **changes})


class TestPredictions:
    def test_equal_bits(self) -> None:
        assert compared_predictions(table(), table().iloc[::-1]) == reproduction_file.PredictionComparison(
            2, 2, 0, 0, 0.0, True
        )

    def test_the_last_bit_counts(self) -> None:
        comparison = compared_predictions(table(), table(y_pred=[np.nextafter(0.1, 1), 0.2]))
        assert comparison.equal == 1
        assert 0 < comparison.largest_difference < 1e-16

    def test_probabilities_are_compared_too(self) -> None:
        comparison = compared_predictions(table(p0=0.5, p1=0.5), table(p0=[0.5, 0.25], p1=[0.5, 0.75]))
        assert (comparison.equal, comparison.largest_difference) == (1, 0.25)
        assert compared_predictions(table(p0=1.0), table()).equal == 0


class TestCompared:
    def test_a_run_is_equal_to_its_copy(self, baseline_run: Run, copied: RunFolder) -> None:
        reproduction = compared(baseline_run.files, copied, baseline_run.study, 0.0)
        assert (reproduction.verdict, reproduction.same) == (EQUAL, True)
        assert (reproduction.networks, reproduction.other_weights, reproduction.environment) == (6, [], {})

    def test_what_differs_is_named(self, baseline_run: Run, copied: RunFolder) -> None:
        rows = copied.predictions.read()
        name = str(rows["model"].iloc[0])
        rows.loc[0, "p0"], rows.loc[0, "p1"] = rows.loc[0, "p0"] + 0.001, rows.loc[0, "p1"] - 0.001
        copied.predictions.write(rows)
        job = copied.job(name, 1)
        job.facts.write({**job.facts.read(), "weights_sha256": "other"})
        copied.environment.write({**copied.environment.read(), "torch": "0.1"})
        reproduction = compared(baseline_run.files, copied, baseline_run.study, 0.0)
        assert (reproduction.verdict, reproduction.same) == (DIFFERENT, False)
        assert reproduction.predictions.largest_difference == pytest.approx(0.001)
        assert (reproduction.other_weights, reproduction.environment["torch"][1]) == ([f"{name}, fold 2"], "0.1")
        text = "\n".join(reproduction.lines())
        for part in ("1 of ", f"{name}, fold 2", "Different: torch", "Not reproduced"):
            assert part in text
        assert compared(baseline_run.files, copied, baseline_run.study, 0.002).verdict == WITHIN


class TestRefused:
    def test_what_is_no_finished_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no run folder"):
            casewise.reproduce(tmp_path / "nothing")
        (tmp_path / "empty").mkdir()
        done = command("reproduce", str(tmp_path / "empty"))
        assert done.returncode == 2
        assert "holds no finished run" in done.stderr.replace("\n", " ")

    def test_folders_with_other_files(self, baseline_run: Run, tmp_path: Path) -> None:
        for folder in (baseline_run.folder, baseline_run.folder / "again"):
            with pytest.raises(RunError, match="in the run that is reproduced"):
                casewise.reproduce(baseline_run, folder)
        (tmp_path / "other.txt").write_text("text")
        with pytest.raises(RunError, match="holds other files"):
            casewise.reproduce(baseline_run, tmp_path)
        with pytest.raises(StudyError, match="at least 0"):
            casewise.reproduce(baseline_run, tmp_path, tolerance=-1)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda rows: rows.assign(note="new"), "the column 'note' is new"),
            (
                lambda rows: rows.assign(label=[rows["label"].iloc[1], *rows["label"].iloc[1:]]),
                r"label of image 1 \(case C0001/1\) was '1\.0', is '2\.0'$",
            ),
            (lambda rows: rows.iloc[:-1], "there are 39 images, and the run had 40"),
        ],
        ids=["column", "cell", "rows"],
    )
    def test_a_changed_table_is_named(self, baseline_run: Run, tmp_path: Path, change: Any, sentence: str) -> None:
        path = baseline_run.study.cohort
        text = path.read_bytes()
        try:
            rows = pd.read_csv(path)
            change(rows).to_csv(path, index=False)
            with pytest.raises(CohortError, match=sentence):
                casewise.reproduce(baseline_run, tmp_path / "new")
        finally:
            path.write_bytes(text)
        assert not (tmp_path / "new" / "jobs").exists()


@pytest.mark.slow
def test_a_repetition_has_the_same_bits(baseline_run: Run, tmp_path: Path) -> None:
    done = command("reproduce", str(baseline_run.folder), "--output", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert "Reproduced: all predictions are equal, bit by bit." in done.stdout
    again = RunFolder(tmp_path / "again")
    record = again.reproduction.read()
    assert (record["verdict"], record["finished"], record["run"]) == (EQUAL, True, str(baseline_run.folder.resolve()))
    learners = baseline_run.study.learners
    assert again.weights_sha256(learners) == baseline_run.files.weights_sha256(learners)
    with pytest.raises(RunError, match="already holds a reproduction"):
        casewise.reproduce(baseline_run, tmp_path / "again")
