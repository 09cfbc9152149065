"""The page on planned recipes: its figures are those of the runs, and a finished study is not run again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from casewise.metrics.registry import metric_of
from tests.chest_study import PLANNED

PAGE = """
## label

| learner | images | accuracy | AUROC |
|---|---|---|---|
| one | 24 | 0.700 [0.600, 0.800] | 0.800 [0.700, 0.900] |
| two | 24 | 0.650 [0.600, 0.700] | – |
| three | 24 | 0.750 [0.600, 0.900] | 0.700 [0.600, 0.800] |
| *reference* | – | 0.990 | 0.990 |
"""


@pytest.fixture(scope="module")
def auto(benchmark: Any) -> Any:
    return benchmark("auto")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("auto")
    (folder / "studies").mkdir()
    (folder / "studies" / "oral.yaml").write_text(PLANNED.format(cohort=chests))
    (folder / "studies" / "unreadable.yaml").write_text("cohort: none.csv\ntargets: {a: 0..4}\n")
    return argparse.Namespace(studies=folder / "studies", runs=folder / "runs", data=None, weights=None)


@pytest.fixture(scope="module")
def finished(auto: Any, options: argparse.Namespace) -> Any:
    return auto.run_studies(["oral", "unreadable"], options)


def test_a_study_that_fails_does_not_stop_the_others(finished: Any) -> None:
    runs, failed = finished
    assert list(runs) == ["oral"]
    assert list(failed) == ["unreadable"]


def test_a_finished_study_is_not_run_again(auto: Any, options: argparse.Namespace, finished: Any) -> None:
    files = finished[0]["oral"].files
    before = files.metrics.path.stat().st_mtime_ns, files.study.path.stat().st_mtime_ns
    runs, failed = auto.run_studies([], options)
    assert (list(runs), failed) == (["oral"], {"unreadable": "not run"})
    assert (files.metrics.path.stat().st_mtime_ns, files.study.path.stat().st_mtime_ns) == before


def test_a_run_is_timed(auto: Any, finished: Any) -> None:
    assert auto.training_seconds(finished[0]["oral"]) > 0


def test_the_page_has_the_figures_of_the_run(auto: Any, finished: Any, tmp_path: Path) -> None:
    run = finished[0]["oral"]
    found = list(auto.figures("oral", run))
    assert [figure.metric for figure in found] == ["auroc", "accuracy"]
    figure = found[0]
    assert figure.learner == "meta_learner_weighted"
    assert figure.estimate == run.results["main"]["metrics"]["auroc"]
    differences = run.results["against_baselines"]["differences"]
    again = auto.from_baseline(figure, figure.best(["linear_pixels"]))
    assert {key: again[key] for key in ("difference", "low", "high")} == {
        key: differences["auroc"][key] for key in ("difference", "low", "high")
    }
    chance = metric_of("auroc").chance
    includes = figure.estimate["low"] <= chance <= figure.estimate["high"]
    assert (figure.chance == "at chance") == includes
    (tmp_path / "oral.md").write_text(PAGE)
    text = auto.page(*finished, None, tmp_path)
    assert auto.with_interval(figure.estimate, "auroc") in text
    assert text.count("not run") == sum(1 for aim in auto.AIMS if aim[0] != "oral")
    assert [row[6] for row in auto.handwritten_rows(found, None, tmp_path)] == [
        "0.800 [0.700, 0.900]",
        "0.750 [0.600, 0.900]",
    ]
