"""Learners of two runs compared in pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import RunError
from casewise.metrics.registry import columns
from casewise.predictions.table import write
from casewise.report.markdown import page as results_page
from casewise.report.markdown.compare import APART, GONE, apart, compared

STUDY = {"name": "b", "seed": 0, "evaluation": {"bootstrap_resamples": 200, "confidence": 0.95}}


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
    write(folder / "predictions.parquet", rows.assign(**columns))
    return folder


def test_the_better_run_is_named_and_the_other_told_with_its_interval(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 3.0), run_of(tmp_path / "b", 0.1)]
    found = compared(runs, [STUDY | {"name": "a"}, STUDY], "oof", ["extent"])
    assert found is not None
    mae = found["oof"]["extent"]["mae"]
    assert mae["best"] == "net (b)"
    assert mae["differences"]["net"]["low"] > 0


def test_runs_that_judged_other_cases_are_not_compared(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, subjects=29)]
    assert compared(runs, [STUDY, STUDY], "oof", ["extent"]) is None


@pytest.mark.parametrize("column", ["region", "image"])
def test_other_regions_or_images_of_the_same_cases_are_other_cases(tmp_path: Path, column: str) -> None:
    def one(folder: str, value: str) -> Path:
        columns: dict[str, Any] = {column: value}
        return run_of(tmp_path / folder, 1.0, **columns)

    runs = [one(name, name) for name in ("left", "right")]
    assert apart(runs, "oof", ["extent"]) == {"extent": APART}
    assert compared(runs, [STUDY, STUDY], "oof", ["extent"]) is None
    again = [runs[0], one("again", "left")]
    assert apart(again, "oof", ["extent"]) == {}
    assert compared(again, [STUDY, STUDY], "oof", ["extent"]) is not None


def test_a_target_of_one_run_alone_is_no_disagreement(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, target="other")]
    assert apart(runs, "oof", ["extent"]) == {}


def with_page(folder: Path, learner: str = "net", *, target: str = "extent", **changes: Any) -> Path:
    """The run with the other files that a page is written from; its own comparison names a learner called 'first'."""
    figures = {name: {"value": 1.0, "low": None, "high": None, "n_cases": 30} for name in columns("page", "regression")}
    study: dict[str, Any] = {
        **STUDY,
        "name": folder.name,
        "title": "",
        "description": "",
        "synthetic": False,
        "main": target,
        "targets": {target: {}},
        "scores": {},
        "backbones": [],
        "evaluation": {**STUDY["evaluation"], "references": {}},  # type: ignore[dict-item]
        "recipe": {"epochs": 1, "early_stopping": {"monitor": "inner"}},
        "panels": {"by": "image"},
        **changes,
    }
    own = {"best": "first", "not_told_apart": ["first", learner], "differences": {learner: {"difference": 0.1}}}
    metrics = {
        "metrics": {"oof": {learner: {target: figures}}},
        "comparisons": {"oof": {target: {"mae": own}}},
        "main": {"target": target, "stage": "oof", "learner": learner},
        "notes": [],
    }
    sides = {"1": {"subjects": 30, "cases": 30}, "test": {"subjects": 0, "cases": 0}}
    for name, told in (("study", study), ("metrics", metrics), ("splits", {"n": sides, "folds": 1, "hash": "x"})):
        (folder / f"{name}.json").write_text(json.dumps(told))
    return folder


def test_the_page_says_where_runs_are_not_compared(tmp_path: Path) -> None:
    first, alike = (with_page(run_of(tmp_path / name, 1.0)) for name in ("a", "b"))
    other = with_page(run_of(tmp_path / "c", 1.0, subjects=29))

    def page(*beside: Path) -> str:
        return results_page.write_results(first, tmp_path / "page.md", beside=beside).read_text()

    assert "The smallest MAE is first's" in page()
    text = page(alike)
    assert "The smallest MAE is net" in text
    assert "not compared" not in text
    text = page(other)
    assert text.index("| net (c) |") < text.index(f"\n\n{APART}\n") < text.index("## What to know")
    assert "The smallest MAE" not in text  # the first run's own is not the one of all
    (alike / "predictions.parquet").unlink()
    text = page(alike)
    assert GONE in text
    assert APART not in text
    assert "The smallest MAE" not in text


def text_of(first: Path, *beside: Path) -> str:
    return results_page.write_results(first, first / "page.md", beside=beside).read_text()


def test_where_recipes_differ_each_run_is_told_of(tmp_path: Path) -> None:
    first, alike = (with_page(run_of(tmp_path / name, 1.0)) for name in ("a", "b"))
    other = with_page(run_of(tmp_path / "c", 1.0), recipe={"epochs": 6, "early_stopping": {"monitor": "none"}})
    inner = "raining stopped on an inner, grouped part of the training folds."
    assert f"never saw its subject. T{inner} In brackets" in text_of(first, alike)
    text = text_of(first, alike, other)
    assert f" a, b: t{inner} c: every network was trained for 6 epochs on all its training folds. In brackets" in text
    assert "30 subjects, 30 cases; 1 folds by subject, no test set. Figures are from out of fold: every case" in text
    assert "Split manifest `x`." in text


def test_where_splits_differ_each_run_is_told_of(tmp_path: Path) -> None:
    first, other = (with_page(run_of(tmp_path / name, 1.0)) for name in ("a", "b"))
    splits = json.loads((other / "splits.json").read_text()) | {"how": "leave out source", "hash": "y"}
    (other / "splits.json").write_text(json.dumps(splits))
    text = text_of(first, other)
    assert "no test set. b: 30 subjects, 30 cases; 1 folds, each one source held out" in text
    assert "from out of fold. a: every case is predicted by networks that never saw its subject. b: every case" in text
    assert "Split manifest a `x`; b `y`." in text
    third = with_page(run_of(tmp_path / "c", 1.0))
    assert "Split manifest a, c `x`; b `y`." in text_of(first, other, third)


def test_runs_that_share_nothing_are_refused(tmp_path: Path) -> None:
    first = with_page(run_of(tmp_path / "a", 1.0))
    other = with_page(run_of(tmp_path / "b", 1.0, target="area"), target="area")
    with pytest.raises(RunError, match=r"b cannot stand beside .*a: it judged area, and nothing of extent\. Leave"):
        text_of(first, other)
    drawn = with_page(run_of(tmp_path / "c", 1.0), synthetic=True)
    for pair in ((first, drawn), (drawn, first)):
        with pytest.raises(RunError, match=r"c is of synthetic phantom data, .*a is not"):
            text_of(*pair)
    classed = with_page(run_of(tmp_path / "d", 1.0), targets={"extent": {"kind": "ordinal", "classes": ["0", "1"]}})
    with pytest.raises(RunError, match="there extent is of the classes 0, 1, here a number"):
        text_of(first, classed)
    assert not (first / "page.md").exists()


def test_a_run_without_one_of_the_targets_is_named_there(tmp_path: Path) -> None:
    first, other = (with_page(run_of(tmp_path / name, 1.0)) for name in ("a", "b"))
    told = json.loads((first / "metrics.json").read_text())
    told["metrics"]["oof"]["net"]["area"] = told["metrics"]["oof"]["net"]["extent"]
    (first / "metrics.json").write_text(json.dumps(told))
    study = json.loads((first / "study.json").read_text()) | {
        "targets": {"extent": {}, "area": {}},
        "scores": {"area": {}},
    }
    (first / "study.json").write_text(json.dumps(study))
    text = text_of(first, other)
    assert "\n\nWithout figures of area: b.\n\n" in text
    assert "Without figures of extent" not in text


def test_images_are_counted_where_cases_have_several(tmp_path: Path) -> None:
    first = with_page(run_of(tmp_path / "a", 1.0))
    subjects = [f"S{i}" for i in range(30)]
    for paths, told in ((1, "30 cases; "), (3, "30 cases, 90 images; ")):
        rows = [(subject, f"{subject}-{n}.png") for subject in subjects for n in range(paths)]
        pd.DataFrame(rows, columns=["subject", "path"]).to_parquet(first / "cohort.parquet")
        assert f"30 subjects, {told}1 folds" in text_of(first)
    splits = json.loads((first / "splits.json").read_text()) | {"subjects": dict.fromkeys(subjects[:20], 1)}
    (first / "splits.json").write_text(json.dumps(splits))
    assert "30 cases, 60 images; " in text_of(first)


def test_no_line_is_left_blank_twice(tmp_path: Path) -> None:
    assert text_of(with_page(run_of(tmp_path / "a", 1.0))).startswith("# a\n\n30 subjects")
