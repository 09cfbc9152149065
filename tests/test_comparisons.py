"""Runs beside one another: paired differences, and pages of results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.errors import RunError
from casewise.evaluation.bootstrap import Comparison, Plan, compare, pair_intervals
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.figures import DESCRIPTIVE, Cell, Estimate, Figures
from casewise.evaluation.headline import primary_contrast
from casewise.evaluation.intervals import Basis
from casewise.evaluation.metrics_file import decoded, encoded
from casewise.evaluation.results import Headline, Results
from casewise.metrics.registry import columns
from casewise.predictions.table import check
from casewise.report.context import read_context
from casewise.report.results_page import comparisons, write_results
from casewise.run_folder import RunFolder
from casewise.study.learners import LinearLearner, register_learner, unregister_learner
from casewise.study.schema import Study
from tests.prediction_rows import prediction_rows
from tests.report_contexts import estimate, finish
from tests.test_evaluation_bootstrap import visits

PLAN = Plan(resamples=400, seed=3)


class Added(LinearLearner):
    """A simple model that a plugin adds."""


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
    found = Comparison(points, samples, basis, ["a", "b"], dict.fromkeys(points, 5.0), PLAN, 11).figures()
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


def test_a_primary_pair_has_an_interval_of_its_own_and_the_others_share_one() -> None:
    rng = np.random.default_rng(0)
    samples, many = rng.normal(0, 1, (4000, 6)), np.full(15, 1e6)
    first, alone = (
        pair_intervals(np.zeros(n), samples[:, :n], many[:pairs], n_subjects=10**6, confidence=0.95, primary=(0, 1))
        for n, pairs in ((6, 15), (2, 1))
    )
    assert first.half_width[0, 1] == alone.half_width[0, 1] == pytest.approx(1.96 * np.sqrt(2), rel=0.04)
    assert first.half_width[1, 0] == first.half_width[0, 1]
    inside = np.abs(samples[:, :, None] - samples[:, None, :]) <= first.half_width + np.eye(6) * 1e9
    inside[:, [0, 1], [1, 0]] = True
    assert inside.all(axis=(1, 2)).mean() == pytest.approx(0.95, abs=0.002)


def _predicted(*, error: float) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Predictions of a network and three simple models, the worst of which is the one on features."""
    truth, _, subjects = visits(40, 3, 7)
    rng = np.random.default_rng(8)
    errors = {"net": error, "linear_pixels": 3.0, "linear_features": 12.0, "kernel_features": 3.0}
    return truth, {name: truth + rng.normal(0, size, len(truth)) for name, size in errors.items()}, subjects


@pytest.mark.parametrize(("error", "is_shown"), [(3.0, False), (1.0, True)])
def test_other_pairs_follow_only_if_the_primary_one_differs(error: float, is_shown: bool) -> None:
    truth, predicted, subjects = _predicted(error=error)
    found = compare(truth, predicted, subjects, PLAN, metrics=["mae"], primary=("net", "kernel_features"))
    first, other = (found.gap("mae", "net", name) for name in ("kernel_features", "linear_features"))
    assert (first.open, first.reason) == (not is_shown, None)
    assert other.high < 0, "the interval excludes 0 in both cases"
    assert (other.open, other.reason) == (not is_shown, None if is_shown else DESCRIPTIVE)
    assert found.gap("mae", "linear_features", "net").open == other.open
    renamed = {"covariates": predicted.pop("linear_features"), "images_and_covariates": predicted["net"], **predicted}
    added = compare(truth, renamed, subjects, PLAN, metrics=["mae"], primary=("net", "kernel_features"))
    assert added.gap("mae", "images_and_covariates", "covariates").reason is None


def test_without_a_difference_any_statement_is_rare() -> None:
    rng, calls, plan = np.random.default_rng(0), [], Plan(200)
    for _ in range(240):
        truth = rng.normal(size=60)
        learners = {name: truth + rng.normal(size=60) for name in ("net", "linear_pixels", "kernel_features", "other")}
        found = compare(truth, learners, np.arange(60), plan, metrics=["mae"], primary=("net", "kernel_features"))
        pairs = [found.gap("mae", cell.learner, cell.contrast) for cell in found.cells if cell.learner != cell.contrast]
        calls.append(not all(pair.open for pair in pairs))
    assert np.mean(calls) <= 0.05 + 1.96 * np.sqrt(0.05 * 0.95 / 240)


def _rows(stages: Any, **errors: float) -> Any:
    rng, truth, names = np.random.default_rng(1), np.arange(40.0), [f"s{n}" for n in range(40)]
    options = {"folds": np.arange(40) % 2 + 1, "target": "extent", "case": [f"{name}/1" for name in names]}
    rows = [
        prediction_rows(
            [f"{stage}-{name}" for name in names],
            truth,
            truth + size * rng.normal(size=40),
            model=model,
            **options | {"stage": stage, "case": [f"{stage}-{name}/1" for name in names]},
        )
        for stage in stages
        for model, size in errors.items()
    ]
    return check(pd.concat(rows))


def test_the_simple_model_is_not_chosen_on_the_cases_that_judge_it() -> None:
    errors = {"net": 2.0, "linear_pixels": 1.0, "linear_features": 9.0}
    only, tested = (
        evaluate(_rows(stages, **errors), Outcomes("extent"), PLAN) for stages in (["oof"], ["oof", "test"])
    )
    found = [(each.primary.stage, each.primary.baseline, each.primary.chosen_on) for each in (only, tested)]
    assert found == [("oof", "linear_features", "order"), ("test", "linear_pixels", "oof")]
    assert primary_contrast(only.figures, Headline("extent", "oof", "linear_pixels", None, "regression")) is None


def test_a_learner_of_a_plugin_does_not_change_the_primary_comparison() -> None:
    simple = ["covariates", "linear_pixels", "linear_features", "kernel_features"]
    register_learner(Added("added"))
    try:
        for count in range(len(simple) + 1):
            errors = dict.fromkeys(["net", "added", *simple[:count]], 2.0)
            found = evaluate(_rows(["oof"], **errors), Outcomes("extent"), PLAN).primary
            assert found.baseline == [*simple, "added"][count - 1]
    finally:
        unregister_learner("added")


def test_the_primary_comparison_is_stored_and_that_of_1_0_is_read() -> None:
    errors = {"net": 2.0, "linear_pixels": 2.0, "linear_features": 9.0, "kernel_features": 2.0}
    results = evaluate(_rows(["oof"], **errors), Outcomes("extent", margin=1.5), PLAN)
    values = encoded(results)
    again = decoded(values)
    assert (again.primary, again.primary.margin) == (results.primary, 1.5)
    assert again.figures.contrasts("oof", "extent").gap("mae", "net", "linear_features").reason == DESCRIPTIVE
    assert values["comparisons"]["oof"]["extent"]["mae"]["from_baseline"]["linear_features"]["net"]["indistinguishable"]
    for name in ("chosen_on", "margin"):
        del values["against_baselines"][name]
    values["against_baselines"]["chosen"] = 3
    old = decoded(values).primary
    assert (old.baseline, old.chosen_on, old.chosen, old.margin) == ("kernel_features", "", 3, None)


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
    assert "[page.csv](page.csv)" in text
    (runs[1] / "predictions.parquet").unlink()
    with pytest.raises(RunError):
        write_results(runs[0], tmp_path / "page.md", others=runs[1:])


def test_a_pair_of_one_run_has_its_stored_difference_beside_other_runs(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a", 0.1), run_of(tmp_path / "b", 3.0)]
    folder = RunFolder(runs[0])
    rows = folder.predictions.read()
    folder.predictions.write(pd.concat([rows, rows.assign(model="other", y_pred=rows["y_pred"] + 4.0)]))
    results = decoded(folder.metrics.read())
    stored = Estimate(3.9, 3.5, 4.3, 30, rough=False, reason=DESCRIPTIVE)
    net, other = Cell("oof", "net", "extent"), Cell("oof", "other", "extent", contrast="net")
    own, zero = results.figures.of(*net), Estimate(0.0, None, None, 30, rough=False)
    cells = {net: own, other._replace(contrast=""): own, net._replace(contrast="net"): {"mae": zero}}
    figures = Figures(cells | {other: {"mae": stored}})
    folder.metrics.write(encoded(replace(results, figures=figures)))
    finish(folder)
    compared = comparisons([read_context(run) for run in runs], ["extent"])["extent"]
    assert (compared.best("mae"), compared.gap("mae", "other", "net")) == ("net", stored)
    assert compared.gap("mae", "net (b)", "net").low > 0
    assert "descriptive" in write_results(runs[0], tmp_path / "page.md", others=runs[1:]).read_text()


def test_runs_that_share_nothing_are_refused(tmp_path: Path) -> None:
    first, other = run_of(tmp_path / "a", 1.0), run_of(tmp_path / "b", 1.0, target="area")
    phantom = run_of(tmp_path / "c", 1.0, study={"synthetic": True})
    classes = {"targets": {"extent": {"kind": "ordinal", "classes": ["0", "1"]}}}
    named = run_of(tmp_path / "d", 1.0, study=classes)
    for one, two in ((first, other), (first, phantom), (phantom, first), (first, named)):
        with pytest.raises(RunError, match=str(two)):
            write_results(one, tmp_path / "page.md", others=[two])
    assert not (tmp_path / "page.md").exists()
