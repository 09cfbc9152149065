"""Learners of several runs in the same tables, compared in pairs on the same cases."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import RunError
from casewise.evaluation.results import Comparison, Difference, Headline, Results, plain
from casewise.metrics.registry import columns
from casewise.predictions.table import check
from casewise.report.blocks import Table
from casewise.report.context import read_context
from casewise.report.results_page import beside, comparisons, write_results
from casewise.run_folder import RunFolder
from casewise.study.schema import Study
from tests.report_contexts import estimate, finish


def run_of(folder: Path, error: float, *, target: str = "extent", study: Any = (), **changed: Any) -> Path:
    """A run of one network whose predictions are off by this; its own comparison is of a learner called 'first'.

    Args:
        study: changes of the study.
        changed: changes of the predictions, or the number of `subjects`.
    """
    subjects, drawn, run = changed.pop("subjects", 30), np.random.default_rng(1), RunFolder(folder)
    truth = drawn.uniform(0, 10, subjects)
    names = [f"S{i}" for i in range(subjects)]
    values: dict[str, Any] = {"case": [f"{name}/1" for name in names], "subject": names}
    values |= {"visit": "1", "day": np.nan, "region": "", "image": "", "model": "net", "stage": "oof", "outer_fold": 1}
    values |= {"inner_fold": pd.NA, "target": target, "kind": "regression", "y_true": truth}
    values |= {"y_pred": truth + error * drawn.normal(size=subjects)}
    predicted = check(pd.DataFrame(values | changed))
    folder.mkdir()
    run.predictions.write(predicted)
    stated: dict[str, Any] = {"name": folder.name, "cohort": "x.csv", "targets": {target: {"range": (0, 8)}}}
    stated |= {"backbones": ["resnet18"], "evaluation": {"bootstrap_resamples": 100}} | dict(study)
    run.study.write(Study.model_validate(stated).model_dump(mode="json"))
    figures = {name: estimate(1.0, subjects=30) for name in columns("page", "regression")}
    differences = {"net": Difference(0.1, None, None, indistinguishable=True)}
    own = Comparison("first", ["first", "net"], 30, False, differences, {})
    main = Headline(target, "oof", "net", None, None, "regression")
    run.metrics.write(
        plain(Results({"oof": {"net": {target: figures}}}, {"oof": {target: {"mae": own}}}, {}, {}, main, []))
    )
    sides = {"1": {"subjects": 30, "cases": 30}, "test": {"subjects": 0, "cases": 0}}
    run.splits.write({"n": sides, "folds": 1, "hash": "x", "subjects": {}})
    images = predicted[["case", "subject", "visit", "region"]].drop_duplicates()
    run.cohort.write(images.assign(path=images["case"], day=np.nan, **{target: 1.0}))
    finish(run)
    return folder


def test_the_better_run_is_best_and_the_other_has_its_interval(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, error) for name, error in (("a", 3.0), ("b", 0.1))]
    compared = comparisons([read_context(folder) for folder in runs], ["extent"])["extent"]
    assert compared.best == "net (b)"
    assert (compared.differences["net"].low or 0.0) > 0
    text = write_results(runs[0], tmp_path / "page.md", others=runs[1:]).read_text()
    assert "## Beside b" in text
    assert "| net (b) |" in text
    (runs[1] / "predictions.parquet").unlink()
    with pytest.raises(RunError):
        write_results(runs[0], tmp_path / "page.md", others=runs[1:])


@pytest.mark.parametrize("change", [{"subjects": 29}, {"region": "left"}, {"image": "left"}])
def test_runs_of_other_cases_are_shown_and_not_compared(tmp_path: Path, change: dict[str, Any]) -> None:
    contexts = [read_context(run_of(tmp_path / name, 1.0, **own)) for name, own in (("a", {}), ("b", change))]
    assert comparisons(contexts, ["extent"]) == {}
    table = beside(contexts).blocks[1]
    assert isinstance(table, Table)
    assert [(row.name, row.cells[-1].text) for row in table.rows] == [("net", "–"), ("net (b)", "–")]


def test_runs_that_share_nothing_are_refused(tmp_path: Path) -> None:
    first, other = run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, target="area")
    phantom = run_of(tmp_path / "c", 1.0, study={"synthetic": True})
    classes = {"targets": {"extent": {"kind": "ordinal", "classes": ["0", "1"]}}}
    named = run_of(tmp_path / "d", 1.0, study=classes)
    for one, two in ((first, other), (first, phantom), (phantom, first), (first, named)):
        with pytest.raises(RunError, match=str(two)):
            write_results(one, tmp_path / "page.md", others=[two])
    assert not (tmp_path / "page.md").exists()
