"""Whole runs with classes: what is left behind, grades, a network that fails, and a split by image that is caught."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.jobs.plan import expand, named_jobs
from casewise.report.context import read_context
from casewise.report.statements import statements
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.splits.grouped import read_splits
from casewise.targets import kind_named
from tests.chest_study import FAST, THREE, chest_study
from tests.conftest import absolute
from tests.golden_figures import check_figures


def told(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def check_probabilities(table: pd.DataFrame, kind: str, classes: int) -> None:
    columns = [f"p{number}" for number in range(classes)]
    assert [c for c in table if str(c).startswith("p") and str(c)[1:].isdigit()] == columns
    shares = table[columns].to_numpy()
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares >= 0).all()
    assert np.array_equal(kind_named(kind).decide(shares), table["y_pred"])
    assert set(table["kind"]) == {kind}
    assert set(table["y_true"]) <= set(range(classes))


def test_the_predictions_are_probabilities_of_each_image_once(chest_run: Run, chests: Path) -> None:
    table = pd.read_parquet(chest_run.folder / "predictions.parquet")
    check_probabilities(table, "classification", 3)
    assert set(table["model"]) == {"test_resnet"}
    labels = pd.read_csv(chests).set_index("subject")["label"]
    assert [THREE[int(code)] for code in table["y_true"]] == labels.loc[table["subject"]].tolist()
    for _, part in table.groupby("model"):
        assert (sorted(part["subject"]), set(part["stage"])) == (sorted(labels.index), {"oof", "test"})


def test_two_of_three_classes(tmp_path: Path, chests: Path) -> None:
    label = {"classes": ["no_finding", "covid"], "positive": "covid"}
    recipe = {"tuning": "head_only", "lr": "find", "finder": {"steps": 60}}
    done = run(chest_study(chests, label, recipe=recipe, audit={"columns": ["sex", "age"]}), tmp_path / "run")
    check_probabilities(done.rows, "classification", 2)
    assert len(set(done.rows["subject"])) == 16
    figures, table = done.results.figures.of("oof", "test_resnet", "label"), done.rows.query("stage == 'oof'")
    sick = table["y_true"] == 1
    assert figures["sensitivity"]["value"] == pytest.approx((table["y_pred"][sick] == 1).mean())
    assert figures["specificity"]["value"] == pytest.approx((table["y_pred"][~sick] == 0).mean())
    assert "top2_accuracy" not in figures
    assert done.results["classes"]["oof"]["test_resnet"]["label"]["positive"] == "covid"
    assert "8 rows of classes that the study does not list" in done.report.read_text()
    record = told(done.folder / "jobs" / "test_resnet" / "fold1", "job.json")
    assert record["finder"]["chosen"] in [pytest.approx(rate, rel=0.05) for rate in record["finder"]["rates"]]
    assert not list(done.folder.glob("jobs/*/*/finder.json"))


@pytest.mark.parametrize("tested", [True, False])
def test_a_hold_out_design_trains_one_network(tested: bool, tmp_path: Path, chests: Path) -> None:
    """Labels of the test set have no influence on it, and no page speaks of folds."""
    rows, words = absolute(chests), ["train", "train", "validation", "test" if tested else "train"]
    rows["part"] = [words[row // 3 % 4] for row in range(len(rows))]  # classes alternate
    weights = set()
    for name in ["run", "changed"][: 1 + tested]:
        rows.to_csv(table := tmp_path / f"{name}.csv", index=False)
        split = {"column": "part", "validation": "column"}
        done = run(chest_study(table, split=split, accept=FAST["accept"]), tmp_path / name)
        weights.add((done.folder / "jobs" / "test_resnet" / "fold1" / "model.safetensors").read_bytes())
        test = rows["part"] == "test"
        rows.loc[test, "label"] = rows.loc[test, "label"].to_numpy()[::-1]
    assert len(weights) == 1
    stages = {"training", "validation"} | ({"test"} if tested else set())
    assert (set(done.rows["stage"]), set(done.results.stages)) == (stages, stages)
    assert done.results.main.stage == ("test" if tested else "validation")
    assert dict(done.rows.groupby("stage")["subject"].nunique())["validation"] == 6
    record = told(done.folder / "jobs" / "test_resnet" / "fold1", "job.json")
    assert (record["stopped_on"], record["n_stopped"]) == ("fold", 6)
    page = re.sub(
        "<(style|script).*?</\\1>|<[^>]*>|monitor: fold|folds: 2|this folder", "", done.report.read_text(), flags=re.S
    )
    assert not re.findall(".*(?:fold|oof).*", page, flags=re.I)
    folder = RunFolder(done.folder)
    assert next(job.name for job in expand(done.study, read_splits(folder.splits), folder, "")) == "test_resnet"
    assert named_jobs(done.study, 1, ["test_resnet"]) == named_jobs(done.study, 1, ["test_resnet:1"]) == {"test_resnet"}
    flags = {each.id for each in statements(read_context(done.folder)) if each.level == "flag"}
    assert ("stopped_on_fold" in flags) is not tested


def test_grades(tmp_path: Path, chests: Path) -> None:
    label = {"kind": "ordinal", "classes": ["no_finding", "pneumonia", "covid"]}
    recipe = {"tuning": "gradual_unfreezing", "gradual_unfreezing": {"groups": 2, "epochs": 1}, "imbalance": "sampling"}
    half_written = tmp_path / "run" / "jobs" / "test_resnet" / "fold1" / "stage1" / ".state.safetensors.partial"
    half_written.parent.mkdir(parents=True)
    half_written.write_bytes(b"by a run that was killed")
    done = run(chest_study(chests, label, recipe=recipe), tmp_path / "run")
    check_probabilities(done.rows, "ordinal", 3)
    figures = done.results.figures.of("oof", "test_resnet", "label")
    assert {"kappa_quadratic", "mae", "accuracy"} <= set(figures)
    table = done.rows.query("stage == 'oof'")
    assert figures["mae"]["value"] == pytest.approx((table["y_true"] - table["y_pred"]).abs().mean())
    assert done.results["main"]["kind"] == "ordinal"
    record = told(done.folder / "jobs" / "test_resnet" / "fold1", "job.json")
    assert [stage["unfrozen"] for stage in record["stages"]] == list(range(len(record["stages"])))
    assert not list(done.folder.glob("jobs/*/*/stage*"))


def test_golden_figures_of_a_network_on_films(chest_run: Run) -> None:
    check_figures("films", chest_run)
