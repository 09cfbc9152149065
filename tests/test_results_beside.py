"""Learners of two runs compared in pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import RunError
from casewise.evaluation.figures import Comparison, Difference, Headline
from casewise.evaluation.results import Results, plain
from casewise.metrics.registry import columns
from casewise.predictions.table import check
from casewise.report.markdown import page as results_page
from casewise.report.markdown.compare import comparisons, not_comparable
from casewise.run_folder import RunFolder
from casewise.study.schema import Study
from tests.report_contexts import estimate, finish

STUDY = {"name": "b", "seed": 0, "evaluation": {"bootstrap_resamples": 200, "confidence": 0.95}}


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


def test_the_better_run_is_named_and_the_other_told_with_its_interval(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 3.0), run_of(tmp_path / "b", 0.1)]
    found = comparisons(runs, [plain_study("a"), plain_study("b")], "oof", ["extent"])
    assert found is not None
    mae = found["oof"]["extent"]["mae"]
    assert mae["best"] == "net (b)"
    assert mae["differences"]["net"]["low"] > 0


def test_runs_that_judged_other_cases_are_not_compared(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, subjects=29)]
    assert comparisons(runs, [plain_study("a"), plain_study("b")], "oof", ["extent"]) is None


@pytest.mark.parametrize("column", ["region", "image"])
def test_other_regions_or_images_of_the_same_cases_are_other_cases(tmp_path: Path, column: str) -> None:
    def one(folder: str, value: str) -> Path:
        columns: dict[str, Any] = {column: value}
        return run_of(tmp_path / folder, 1.0, **columns)

    runs = [one(name, name) for name in ("left", "right")]
    assert not_comparable(runs, "oof", ["extent"]) == {"extent": "different"}
    assert comparisons(runs, [plain_study("a"), plain_study("b")], "oof", ["extent"]) is None
    again = [runs[0], one("again", "left")]
    assert not_comparable(again, "oof", ["extent"]) == {}
    assert comparisons(again, [plain_study("a"), plain_study("b")], "oof", ["extent"]) is not None


def test_a_target_of_one_run_alone_is_no_disagreement(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, target="other")]
    assert not_comparable(runs, "oof", ["extent"]) == {}


def with_page(folder: Path, learner: str = "net", *, target: str = "extent", **changes: Any) -> Path:
    """The run with the other files that a page is written from; its own comparison names a learner called 'first'."""
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
    finish(RunFolder(folder))
    return folder


def text_of(first: Path, *beside: Path) -> str:
    return results_page.write_results(first, first / "page.md", beside=beside).read_text()


def test_runs_of_other_cases_are_not_compared_on_the_page(tmp_path: Path) -> None:
    first, alike = (with_page(run_of(tmp_path / name, 1.0)) for name in ("a", "b"))
    other = with_page(run_of(tmp_path / "c", 1.0, subjects=29))
    assert "first has the smallest mean absolute error" in text_of(first)
    tied = text_of(first, alike)
    assert "net and net (b) have the smallest mean absolute error, the same value. Each learner except net" in tied
    assert "net is compared with it on the same subjects" in tied
    text = text_of(first, other)
    assert "| net (c) |" in text
    assert "the smallest mean absolute error" not in text  # the first run's own is not the one of all
    (alike / "predictions.parquet").unlink()
    with pytest.raises(RunError):
        text_of(first, alike)


def test_one_subject_has_no_rough_intervals_on_the_page(tmp_path: Path) -> None:
    folder = with_page(run_of(tmp_path / "a", 1.0))
    file = RunFolder(folder).metrics
    metrics = file.read()
    compared = metrics["comparisons"]["oof"]["extent"]["mae"]
    compared |= {"rough": True}
    file.write(metrics)
    text = text_of(folder)
    assert "With fewer than ten subjects, no learner is shown to be better." in text
    compared["differences"]["net"] |= {"low": -0.1, "high": 0.3}
    file.write(metrics)
    assert "these intervals are rough" in text_of(folder)
    assert "first has the smallest mean absolute error. " in text_of(folder)
    compared["differences"]["net"] |= {"difference": 0.0}
    file.write(metrics)
    assert "first and net have the smallest mean absolute error, the same value." in text_of(folder)


def test_where_recipes_or_splits_differ_each_run_is_named(tmp_path: Path) -> None:
    first, other = (with_page(run_of(tmp_path / name, 1.0)) for name in ("a", "b"))
    recipe = {"epochs": 6, "schedule": "constant", "early_stopping": {"monitor": "none"}}
    third = with_page(run_of(tmp_path / "c", 1.0), recipe=recipe)
    assert "6 epochs" in text_of(first, other, third)
    splits = RunFolder(other).splits
    splits.write(splits.read() | {"how": "leave out source", "hash": "y"})
    finish(RunFolder(other))
    assert "`x`; `y`" in text_of(first, other)


def test_runs_that_share_nothing_are_refused(tmp_path: Path) -> None:
    first = with_page(run_of(tmp_path / "a", 1.0))
    other = with_page(run_of(tmp_path / "b", 1.0, target="area"), target="area")
    phantom = with_page(run_of(tmp_path / "c", 1.0), synthetic=True)
    named = with_page(run_of(tmp_path / "d", 1.0), targets={"extent": {"kind": "ordinal", "classes": ["0", "1"]}})
    for pair in ((first, other), (first, phantom), (phantom, first), (first, named)):
        with pytest.raises(RunError, match=str(pair[1])):
            text_of(*pair)
    assert not (first / "page.md").exists()


def test_images_are_counted_where_cases_have_several(tmp_path: Path) -> None:
    first = with_page(run_of(tmp_path / "a", 1.0))
    subjects = [f"S{i}" for i in range(30)]
    for paths, counts in ((1, "30 cases; "), (3, "30 cases, 90 images; ")):
        rows = [(subject, f"{subject}-{n}.png") for subject in subjects for n in range(paths)]
        RunFolder(first).cohort.write(pd.DataFrame(rows, columns=["subject", "path"]))
        finish(RunFolder(first))
        assert f"30 subjects, {counts}1 folds" in text_of(first)
