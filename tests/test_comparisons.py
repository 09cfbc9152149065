"""Runs beside one another: paired differences, and pages of results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.errors import RunError
from casewise.evaluation.bootstrap import Plan, compare, differences, pair_intervals
from casewise.evaluation.figures import Cell, Estimate, Figures
from casewise.evaluation.intervals import Basis
from casewise.evaluation.metrics_file import encoded
from casewise.evaluation.results import Headline, Results
from casewise.metrics.registry import columns
from casewise.predictions.table import check
from casewise.report.context import read_context
from casewise.report.results_page import comparisons, write_results
from casewise.run_folder import RunFolder
from casewise.study.schema import Study
from tests.prediction_rows import prediction_rows
from tests.report_contexts import estimate, finish
from tests.test_evaluation_bootstrap import visits

PLAN = Plan(resamples=400, seed=3)


def test_no_winner_inside_the_noise() -> None:
    truth, _, subjects = visits(20, 3, 7)
    rng = np.random.default_rng(8)
    learners = {f"net{n}": truth + rng.normal(0, 3, len(truth)) for n in range(3)}
    learners |= {"bad": truth + rng.normal(0, 12, len(truth)), "same": learners["net0"]}
    found = compare(truth, learners, subjects, PLAN)
    for name in ("mae", "ccc"):
        assert not found.gap(name, "bad", found.best(name)).open, name
    as_good = [found.gap("mae", name, found.best("mae")).open for name in ("net0", "same")]
    assert as_good[0] == as_good[1]


def test_fewer_than_ten_subjects_name_no_winner() -> None:
    truth = np.arange(20.0)
    learners = {"near": truth + 0.1, "far": truth + 9}
    nine = compare(truth, learners, np.arange(20) % 9, PLAN, metrics=["mae"]).gap("mae", "far", "near")
    ten = compare(truth, learners, np.arange(20) % 10, PLAN, metrics=["mae"]).gap("mae", "far", "near")
    assert (nine.value, nine.low, nine.high, nine.rough) == (pytest.approx(8.9), None, None, True)
    assert (nine.open, ten.open, ten.rough) == (True, False, False)


def test_intervals_end_at_the_largest_difference_of_the_metric() -> None:
    points, drawn = {name: np.array([0.95, 0.24]) for name in ("auroc", "mae")}, np.linspace(-0.5, 0.5, 2000)
    samples = {name: np.column_stack([point[0] - drawn, point[1] + drawn]) for name, point in points.items()}
    basis = Basis(dict.fromkeys(points, np.tile(np.eye(2), (6, 1))), np.ones((12, 1, 1), bool), {}, 0.95)
    found = differences(points, samples, basis, ["a", "b"], dict.fromkeys(points, 5.0), PLAN, n_subjects=11)
    ends = {name: found.gap(name, *sorted("ab", key=lambda one: one == found.best(name))) for name in points}
    assert ends["auroc"].low == -1 < -0.71 < ends["auroc"].high < 1
    assert ends["mae"].high > 1, "an error has no bounds"


def test_pairs_are_covered_together() -> None:
    rng = np.random.default_rng(0)
    samples, many = rng.normal(0, 1, (4000, 6)) + rng.normal(0, 5, (4000, 1)), np.full(15, 1e6)
    pairs = pair_intervals(np.zeros(6), samples, many, n_subjects=10**6, confidence=0.95)
    inside = np.abs(samples[:, :, None] - samples[:, None, :]) <= pairs.half_width + np.eye(6) * 1e9
    assert inside.all(axis=(1, 2)).mean() == pytest.approx(0.95, abs=0.002)
    # the studentised range of six normal values: 4.03 at 95 %
    assert pairs.half_width[0, 1] == pytest.approx(4.03, rel=0.03)
    few = pair_intervals(np.zeros(6), samples, many * 0 + 9, n_subjects=10, confidence=0.95)
    assert (few.half_width[0, 1:] > 1.2 * pairs.half_width[0, 1:]).all()


def test_equal_learners_of_skewed_scores_are_seldom_told_apart() -> None:
    rng, calls, plan = np.random.default_rng(0), np.zeros(3), Plan(200)
    for _ in range(60):
        truth = rng.lognormal(0, 0.9, 60)
        learners = {str(n): truth * rng.lognormal(0, 0.3, 60) for n in range(12)}
        for first in range(0, 12, 3):
            own = {name: learners[name] for name in list(learners)[first : first + 3]}
            found = compare(truth, own, np.arange(60), plan, metrics=["pcc", "ccc", "icc"])
            metrics = ("pcc", "ccc", "icc")
            calls += [not all(found.gap(m, name, found.best(m)).open for name in own) for m in metrics]
    assert (calls / 240 <= 0.06).all()


def test_undefined_and_equal_figures_are_no_difference() -> None:
    samples = np.random.default_rng(2).normal(0, 1, (500, 4))
    samples[:, 1] = samples[:, 0]
    samples[:100, 2] = np.nan
    point = np.array([0.0, 0.0, 5.0, np.nan])
    pairs = pair_intervals(point, samples, np.full(6, 29), n_subjects=30, confidence=0.95)
    assert pairs.half_width[0, 1] == 0
    assert np.isnan(pairs.half_width[0, [2, 3]]).all()
    alone = pair_intervals(point[:1], samples[:, :1], np.zeros(0), n_subjects=30, confidence=0.95)
    assert alone.half_width.tolist() == [[0.0]]


def run_of(folder: Path, error: float, *, target: str = "extent", study: Any = (), **changed: Any) -> Path:
    """A run of one network whose predictions are off by this; its own comparison is of a learner called 'first'.

    Args:
        study: changes of the study.
        changed: changes of the predictions, or the number of `subjects`.
    """
    subjects, drawn, run = changed.pop("subjects", 30), np.random.default_rng(1), RunFolder(folder)
    truth, names = drawn.uniform(0, 10, subjects), [f"S{i}" for i in range(subjects)]
    options = {"folds": [1] * subjects, "target": target, "case": [f"{name}/1" for name in names], "day": np.nan}
    predicted = check(prediction_rows(names, truth, truth + error * drawn.normal(size=subjects), **options | changed))
    folder.mkdir()
    run.predictions.write(predicted)
    stated: dict[str, Any] = {"name": folder.name, "cohort": "x.csv", "targets": {target: {"range": (0, 8)}}}
    stated |= {"backbones": ["resnet18"], "evaluation": {"bootstrap_resamples": 100}} | dict(study)
    run.study.write(Study.model_validate(stated).model_dump(mode="json"))
    figures = {name: estimate(1.0, subjects=30) for name in columns("page", "regression")}
    net, main = Cell("oof", "net", target), Headline(target, "oof", "net", None, "regression")
    gaps = {name: {"mae": Estimate(gap, None, None, 30, rough=False)} for name, gap in (("first", 0.0), ("net", 0.1))}
    cells = {net: figures} | {net._replace(learner=name, contrast="first"): gap for name, gap in gaps.items()}
    run.metrics.write(encoded(Results(main, Figures(cells))))
    sides = {"1": {"subjects": 30, "cases": 30}, "test": {"subjects": 0, "cases": 0}}
    run.splits.write({"n": sides, "folds": 1, "hash": "x", "subjects": {}})
    images = predicted[["case", "subject", "visit", "region"]].drop_duplicates()
    run.cohort.write(images.assign(path=images["case"], day=np.nan, **{target: 1.0}))
    finish(run)
    return folder


def test_the_better_run_is_best_and_the_other_has_its_interval(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 3.0), run_of(tmp_path / "b", 0.1, study={"description": "Trained\nfor longer."})]
    compared = comparisons([read_context(folder) for folder in runs], ["extent"])["extent"]
    assert compared.best("mae") == "net (b)"
    assert (compared.gap("mae", "net", "net (b)").low or 0.0) > 0
    text = write_results(runs[0], tmp_path / "page.md", others=runs[1:]).read_text()
    assert "## Beside b\n\nb: Trained for longer.\n" in text
    assert "| net (b) |" in text
    (runs[1] / "predictions.parquet").unlink()
    with pytest.raises(RunError):
        write_results(runs[0], tmp_path / "page.md", others=runs[1:])


def test_runs_that_share_nothing_are_refused(tmp_path: Path) -> None:
    first, other = run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, target="area")
    phantom = run_of(tmp_path / "c", 1.0, study={"synthetic": True})
    classes = {"targets": {"extent": {"kind": "ordinal", "classes": ["0", "1"]}}}
    named = run_of(tmp_path / "d", 1.0, study=classes)
    for one, two in ((first, other), (first, phantom), (phantom, first), (first, named)):
        with pytest.raises(RunError, match=str(two)):
            write_results(one, tmp_path / "page.md", others=[two])
    assert not (tmp_path / "page.md").exists()
