"""Learners of several runs in the same tables, compared in pairs on the same cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from casewise.report.beside import beside, comparisons

from casewise.errors import RunError
from casewise.evaluation.figures import Comparison, Difference, Headline
from casewise.evaluation.results import Results, plain
from casewise.metrics.registry import columns
from casewise.predictions.table import check
from casewise.report.context import read_context
from casewise.report.results_page import write_results
from casewise.run_folder import RunFolder
from casewise.study.schema import Study
from tests.report_contexts import estimate, finish


def plain_study(name: str, target: str = "extent", **changes: Any) -> Study:
    """A study of one number."""
    values: dict[str, Any] = {"name": name, "cohort": "x.csv", "targets": {target: {"range": (0, 8)}}}
    values |= {"backbones": ["resnet18"], "evaluation": {"bootstrap_resamples": 100}}
    return Study.model_validate(values | changes)


def run_of(folder: Path, error: float, *, subjects: int = 30, target: str = "extent", **columns: Any) -> Path:
    drawn = np.random.default_rng(1)
    truth = drawn.uniform(0, 10, subjects)
    rows = pd.DataFrame(
        {
            "case": [f"S{i}/1" for i in range(subjects)],
            "subject": [f"S{i}" for i in range(subjects)],
            "visit": "1",
            "day": np.nan,
            "region": "",
            "image": "",
            "model": "net",
            "stage": "oof",
            "outer_fold": 1,
            "inner_fold": pd.NA,
            "target": target,
            "kind": "regression",
            "y_true": truth,
            "y_pred": truth + error * drawn.normal(size=subjects),
        }
    )
    folder.mkdir(exist_ok=True)
    RunFolder(folder).predictions.write(check(rows.assign(**columns)))
    return folder


def with_page(folder: Path, learner: str = "net", *, target: str = "extent", **changes: Any) -> Path:
    """The run with the other files that a page is written from; its own comparison is of a learner called 'first'."""
    figures = {name: estimate(1.0, subjects=30) for name in columns("page", "regression")}
    study = plain_study(folder.name, target, **changes).model_dump(mode="json")
    differences = {learner: Difference(0.1, None, None, indistinguishable=True)}
    own = Comparison("first", ["first", learner], 30, False, differences, {})
    main = Headline(target, "oof", learner, None, None, "regression")
    metrics = Results({"oof": {learner: {target: figures}}}, {"oof": {target: {"mae": own}}}, {}, {}, main, [])
    sides = {"1": {"subjects": 30, "cases": 30}, "test": {"subjects": 0, "cases": 0}}
    for name, values in (
        ("study", study),
        ("metrics", plain(metrics)),
        ("splits", {"n": sides, "folds": 1, "hash": "x", "subjects": {}}),
    ):
        getattr(RunFolder(folder), name).write(values)
    predicted = RunFolder(folder).predictions.read()
    images = predicted[["case", "subject", "visit", "region"]].drop_duplicates()
    RunFolder(folder).cohort.write(images.assign(path=images["case"], day=np.nan, **{target: 1.0}))
    finish(RunFolder(folder))
    return folder


def test_the_better_run_is_best_and_the_other_has_its_interval(tmp_path: Path) -> None:
    runs = [with_page(run_of(tmp_path / name, error)) for name, error in (("a", 3.0), ("b", 0.1))]
    compared = comparisons([read_context(folder) for folder in runs], ["extent"])["extent"]
    assert compared.best == "net (b)"
    assert compared.differences["net"].low > 0


@pytest.mark.parametrize("change", [{"subjects": 29}, {"region": "left"}, {"image": "left"}])
def test_runs_of_other_cases_are_shown_and_not_compared(tmp_path: Path, change: dict[str, Any]) -> None:
    first, other = with_page(run_of(tmp_path / "a", 1.0)), with_page(run_of(tmp_path / "b", 1.0, **change))
    contexts = [read_context(folder) for folder in (first, other)]
    assert comparisons(contexts, ["extent"]) == {}
    rows = beside(contexts).blocks[1].rows
    assert [(row.name, row.cells[-1].text) for row in rows] == [("net", "–"), ("net (b)", "–")]


def test_the_page_shows_the_learners_of_all_runs(tmp_path: Path) -> None:
    first, other = (with_page(run_of(tmp_path / name, error)) for name, error in (("a", 1.0), ("b", 3.0)))
    text = write_results(first, tmp_path / "page.md", others=[other]).read_text()
    assert "## Beside b" in text
    assert "| net (b) |" in text
    (other / "predictions.parquet").unlink()
    with pytest.raises(RunError):
        write_results(first, tmp_path / "page.md", others=[other])


def test_runs_that_share_nothing_are_refused(tmp_path: Path) -> None:
    first = with_page(run_of(tmp_path / "a", 1.0))
    other = with_page(run_of(tmp_path / "b", 1.0, target="area"), target="area")
    phantom = with_page(run_of(tmp_path / "c", 1.0), synthetic=True)
    named = with_page(run_of(tmp_path / "d", 1.0), targets={"extent": {"kind": "ordinal", "classes": ["0", "1"]}})
    for one, two in ((first, other), (first, phantom), (phantom, first), (first, named)):
        with pytest.raises(RunError, match=str(two)):
            write_results(one, tmp_path / "page.md", others=[two])
    assert not (tmp_path / "page.md").exists()
