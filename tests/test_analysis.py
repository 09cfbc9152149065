"""A finished run in Python: tables, figures, comparisons, explanations, new cases, and messages about wrong names."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, mean_absolute_error

import casewise as cw
from casewise.errors import CasewiseError, Suggesting
from casewise.run_folder import RunFolder
from casewise.run_folder.job_folder import LOCK
from tests.chest_study import THREE, chest_study

FIGURES = ("roc", "precision_recall", "reliability", "confusion", "calibration")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("analysis")


@pytest.fixture(scope="module")
def run(folder: Path, chests: Path) -> cw.Run:
    study = chest_study(chests, backbones=["cnn", "test_resnet"], recipe={"epochs": 1})
    return cw.run(study, output=folder / "films")


@pytest.fixture(scope="module")
def slower(folder: Path, chests: Path) -> cw.Run:
    study = chest_study(chests, backbones=["cnn"], seed=1, name="slower", recipe={"epochs": 3})
    return cw.run(study, output=folder / "slower")


@pytest.fixture(scope="module")
def ages(folder: Path, chests: Path) -> cw.Run:
    """A run without a stated folder."""
    study = chest_study(chests, backbones=["cnn"], targets={"age": "0..100"}, name="ages", recipe={"epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cw.run(study).folder == Path("runs/ages")
    return cw.open_run(folder / "runs" / "ages")


def test_predictions_have_a_row_for_each_learner_and_case_with_names_of_classes(run: cw.Run) -> None:
    table = run.predictions
    assert not table.duplicated(["learner", "stage", "target", "case"]).any()
    assert set(table["learner"]) == {"cnn", "test_resnet"} == set(run.learners)
    assert set(table["prediction"]) | set(table["reference"]) <= set(THREE)
    probabilities = table[[f"probability of {name}" for name in THREE]]
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert table.loc[table["stage"] == "test", "fold"].isna().all()
    raw = run.rows.query("stage == 'oof'").set_index(["model", "case"])
    tidy = table.query("stage == 'oof'").set_index(["learner", "case"])
    assert [THREE[int(code)] for code in raw["y_pred"].loc[list(tidy.index)]] == tidy["prediction"].tolist()


def test_metrics_are_those_of_the_predictions(run: cw.Run, ages: cw.Run) -> None:
    which = "learner == 'cnn' and target == 'label' and stage == 'test' and metric == 'accuracy'"
    row, cases = run.metrics.query(which).iloc[0], run.predictions.query("learner == 'cnn' and stage == 'test'")
    assert row["value"] == pytest.approx(accuracy_score(cases["reference"], cases["prediction"]))
    assert row["low"] <= row["value"] <= row["high"]
    assert row["n_cases"] == len(cases)
    row = ages.metrics.query("stage == 'oof' and metric == 'mae'").iloc[0]
    cases = ages.predictions.query("stage == 'oof'")
    assert all(pd.api.types.is_float_dtype(cases[name]) for name in ("prediction", "reference"))
    assert row["value"] == pytest.approx(mean_absolute_error(cases["reference"], cases["prediction"]), rel=1e-5)


def test_cohort_splits_and_findings_are_tables(run: cw.Run) -> None:
    cohort, splits = run.cohort, run.splits
    assert set(cohort["label"]) == set(THREE)
    of_case = run.predictions.drop_duplicates("case").set_index("case")["reference"]
    assert (cohort.set_index("case")["label"].loc[of_case.index] == of_case).all()
    assert set(splits["subject"]) == set(cohort["subject"])
    tested = set(splits.loc[splits["side"] == "test", "subject"])
    assert tested == set(run.predictions.query("stage == 'test'")["subject"])
    assert splits.loc[splits["side"] == "train", "fold"].between(1, 2).all()
    assert list(run.findings) == ["id", "level", "sentence", "remedy", "accepted"]
    assert len(run.findings) == len(RunFolder(run.folder).audit.read()["findings"])


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("choice", [{}, {"learner": "cnn", "stage": "oof"}], ids=["headline", "chosen"])
def test_figures_of_classes(run: cw.Run, name: str, choice: dict[str, str], tmp_path: Path) -> None:
    figure = getattr(run.plot, name)(**choice)
    assert len(figure.axes) >= 1
    figure.savefig(tmp_path / "figure.pdf")
    pixels, size = figure._repr_png_()
    assert pixels.startswith(b"\x89PNG")
    # twice the size in which it is shown, for sharp screens
    assert int.from_bytes(pixels[16:20], "big") == pytest.approx(2 * size["width"], abs=2)


def test_a_figure_shows_the_numbers_of_its_learner_and_stage(run: cw.Run) -> None:
    for stage in ("oof", "test"):
        entry = run.results["classes"][stage]["cnn"]["label"]
        texts = [text.get_text() for text in run.plot.confusion(learner="cnn", stage=stage).axes[0].texts]
        assert [int(text.split("\n")[0]) for text in texts] == np.ravel(entry["confusion"]).tolist()
    figure = run.plot.precision_recall(learner="cnn", stage="oof")
    rows = run.predictions.query("learner == 'cnn' and stage == 'oof'")
    lines = figure.axes[0].get_lines()[1::2]  # before each is the share of its class
    for name, line in zip(THREE, lines, strict=True):
        recall, precision = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        area = float(np.sum(np.diff(recall) * precision[1:]))
        truth, scores = (rows["reference"] == name).astype(int), rows[f"probability of {name}"]
        assert area == pytest.approx(average_precision_score(truth, scores))


def test_two_runs_are_compared_on_their_common_cases(run: cw.Run, slower: cw.Run) -> None:
    table = cw.compare(run, slower, learner="cnn", stage="oof").set_index("metric")
    which = "learner == 'cnn' and stage == 'oof'"
    first, second = (r.predictions.query(which).set_index("case") for r in (run, slower))
    common = first.index.intersection(second.index)
    assert 0 < len(common) < len(first)  # another seed, another test set
    assert set(table["n_cases"]) == {len(common)}
    for rows, column in ((first, "first"), (second, "second")):
        shared = rows.loc[common]
        assert table.loc["accuracy", column] == pytest.approx((shared["reference"] == shared["prediction"]).mean())
    assert np.allclose(table["difference"], table["second"] - table["first"])
    assert ((table["low"] <= table["difference"]) & (table["difference"] <= table["high"])).all()
    turned = cw.compare(slower.folder, str(run.folder), learner="cnn", stage="oof").set_index("metric")
    assert np.allclose(turned["difference"], -table["difference"])
    assert np.allclose(turned["low"] + turned["high"], -2 * table["difference"])


def with_rows(run: cw.Run, rows: pd.DataFrame) -> cw.Run:
    """The run with other predictions."""
    other = replace(run.finished)
    vars(other)["predictions"] = rows
    return cw.Run(other)


def test_runs_without_a_common_outcome_are_not_compared(run: cw.Run, ages: cw.Run, tmp_path: Path) -> None:
    with pytest.raises(CasewiseError):
        cw.compare(run, ages)
    relabelled = with_rows(run, run.rows.assign(y_true=(run.rows["y_true"] + 1) % 3))
    with pytest.raises(CasewiseError, match="reference"):
        cw.compare(run, relabelled)
    elsewhere = with_rows(run, run.rows.assign(case="other-" + run.rows["case"]))
    with pytest.raises(CasewiseError, match="no common case"):
        cw.compare(run, elsewhere)


def written(folder: Path) -> dict[Path, int]:
    """When each file of the folder was written."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.plugins("explain")
def test_a_case_is_explained_without_writing(run: cw.Run) -> None:
    before, case = written(run.folder), str(run.predictions.query("stage == 'oof'")["case"].iloc[0])
    maps = run.explain(case)
    assert written(run.folder) == before
    assert (maps.case, maps.target, list(maps.networks)) == (case, "label", ["cnn", "test_resnet"])
    assert maps.map("cnn").shape == maps.picture("cnn").shape[:2] == (64, 64)
    assert maps.map().min() >= 0
    assert maps.map().max() <= 1
    expected = run.predictions.query("case == @case").set_index("learner")["prediction"].str.replace("_", " ")
    assert maps.predictions.set_index("learner")["prediction"].to_dict() == expected.to_dict()
    assert len(maps.figure().axes) == 4  # the input, two maps, the colours
    assert maps._repr_png_()[0].startswith(b"\x89PNG")
    assert list(run.explain(case.split("/")[0], learners="cnn").networks) == ["cnn"]
    with pytest.raises(CasewiseError, match="test_resnet"):
        maps.map("test_resnt")
    with pytest.raises(CasewiseError):
        maps.map("cnn", panel=1)


def test_near_misses_of_names_are_answered_with_the_nearest(run: cw.Run) -> None:
    for ask, answer in (
        (lambda: run.metric, "Run has no attribute 'metric'. Did you mean 'metrics'?"),
        (lambda: run.prediction, "Did you mean 'predictions'?"),
        (lambda: run.plot.rok(), "Did you mean 'roc'?"),
        (lambda: run.study.recipy, "Did you mean 'recipe'?"),
        (lambda: run.study.recipe.epoch, "Did you mean 'epochs'?"),
        (lambda: cw.open_runs, "casewise has no attribute 'open_runs'. Did you mean 'open_run'?"),
        (lambda: cw.qqq, "It has CasewiseError"),
    ):
        with pytest.raises(AttributeError) as refused:
            ask()
        assert answer in str(refused.value)
    assert not hasattr(run, "_metric")
    assert copy.copy(run).folder == run.folder
    assert copy.deepcopy(run.study) == run.study
    assert not hasattr(run.study, "_recipe")


def test_an_error_within_a_property_keeps_its_message() -> None:
    class Broken(Suggesting):
        @property
        def value(self) -> int:
            return None.value  # type: ignore[attr-defined, no-any-return]

    with pytest.raises(AttributeError, match="NoneType"):
        _ = Broken().value
