"""The size of a study from a pilot run: widths against closed forms and subsets, thinned splits, the page."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from casewise.console import Silent
from casewise.errors import CasewiseError, RunError
from casewise.evaluation import intervals
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.intervals import Basis
from casewise.evaluation.judges import judge_of
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.readers.pilot import (
    SHARES,
    expected_ends,
    expected_intervals,
    figures_of,
    refitted,
    size_plan,
    subjects_for,
    thinned,
)
from casewise.plugins.readers.plan_size import COLUMNS, plan_size
from casewise.run import Run
from casewise.splits.grouped import Splits
from tests.prediction_rows import prediction_rows

PLAN = Plan(200)


def number_rows(subjects: int, seed: int = 0) -> pd.DataFrame:
    """Two cases of each subject, whose errors are alike."""
    rng = np.random.default_rng(seed)
    subject = np.repeat([f"s{number}" for number in range(subjects)], 2)
    truth = rng.normal(5, 2, 2 * subjects)
    error = np.repeat(rng.normal(size=subjects), 2) + 0.5 * rng.normal(size=2 * subjects)
    return prediction_rows(subject, truth, truth + error, folds=1 + np.arange(2 * subjects) // 2 % 5)


def class_rows(subjects: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    truth, z = np.arange(subjects) % 2, rng.normal(size=subjects)
    p = 1 / (1 + np.exp(-((2 * truth - 1) * 0.7 + z)))
    names = [f"s{number}" for number in range(subjects)]
    return prediction_rows(names, truth, np.stack([1 - p, p], axis=1), folds=1 + np.arange(subjects) // 2 % 5)


def mean_basis(values: np.ndarray) -> tuple[dict[str, np.ndarray], Basis]:
    n = len(values)
    left_out = ((values.sum() - values) / (n - 1))[:, None]
    ones = np.ones((n, 1, 1), dtype=bool)
    return {"x": values.mean(keepdims=True)}, Basis({"x": left_out}, ones, {"x": np.array([n])}, 0.95)


@pytest.mark.parametrize("ratio", [1, 3, 10])
def test_the_width_for_a_mean_is_that_of_students_t(ratio: int) -> None:
    values = np.tile([-1.0, 1.0], 30)
    low, high = expected_ends("x", *mean_basis(values), ratio, 0)
    n = ratio * len(values)
    # the influences of the larger study have the same variance over their number
    assert high - low == pytest.approx(2 * t.ppf(0.975, n - 1) / np.sqrt(n - 1))


@pytest.mark.parametrize(
    ("rows", "metrics"), [(number_rows(80), ("mae", "ccc")), (class_rows(120), ("auroc", "accuracy"))]
)
def test_expected_widths_agree_with_the_run_and_with_subsets(rows: pd.DataFrame, metrics: tuple[str, str]) -> None:
    judge = judge_of(rows)
    intervals_of = expected_intervals(rows, judge, list(metrics), PLAN)
    for metric in metrics:
        expected = {each.subjects: each for each in intervals_of if each.metric == metric}
        subjects = rows["subject"].nunique()
        own = judge.judge(rows, PLAN, whole=False).metrics["net"][metric]
        assert (expected[subjects].low, expected[subjects].high) == pytest.approx((own.low, own.high))
        assert expected[subjects].measured == pytest.approx(expected[subjects].width)
        for size in (subjects // 2, round(0.75 * subjects)):
            assert expected[size].width == pytest.approx(expected[size].measured, rel=0.15)
        widths = [expected[size].width for size in sorted(expected)]
        assert widths == sorted(widths, reverse=True)
        assert [size for size, each in expected.items() if each.extrapolated] == [s for s in expected if s > subjects]
        # four times the subjects, about half the width
        assert expected[2 * subjects].width == pytest.approx(expected[subjects // 2].width / 2, rel=0.15)


@pytest.mark.parametrize(("make", "metric"), [(number_rows, "mae"), (class_rows, "auroc")])
def test_pilots_predict_the_width_of_larger_studies(make: Any, metric: str) -> None:
    predicted, actual = [], []
    for seed in range(12):
        pilot, study = make(60, seed), make(240, 100 + seed)
        judge = judge_of(pilot)
        _, points, basis = figures_of(pilot, judge, PLAN)
        predicted.append(np.diff(expected_ends(metric, points, basis, 4, 0))[0])
        _, points, basis = figures_of(study, judge, PLAN)
        low, high = intervals.ends(metric, points, basis)
        actual.append(high[0] - low[0])
    assert np.mean(predicted) == pytest.approx(np.mean(actual), rel=0.15)


def test_the_needed_number_of_subjects_is_the_least() -> None:
    rows = number_rows(60)
    judge = judge_of(rows)
    _, points, basis = figures_of(rows, judge, PLAN)

    def width(size: int) -> float:
        low, high = expected_ends("mae", points, basis, size / 60, PLAN.seed)
        return float(high - low)

    needed = subjects_for(0.2, "mae", points, basis, 60)
    assert needed is not None
    assert width(needed) <= 0.2 < width(round(0.95 * needed))
    assert subjects_for(1e-6, "mae", points, basis, 60) is None
    assert subjects_for(50.0, "mae", points, basis, 60) == 10


def test_thinned_splits_are_nested_and_keep_who_is_held_out() -> None:
    side = {f"s{number}": number % 5 - 1 for number in range(100)}
    labels = {subject: int(subject[1:]) // 50 for subject in side}
    splits = Splits(side, 4, {})
    half, most = (thinned(splits, labels, share, 7) for share in (0.5, 0.75))
    for fold in range(4):
        few, many, every = half.training(fold), most.training(fold), splits.training(fold)
        assert set(few) < set(many) < set(every)
        assert half.held_out(fold) == splits.held_out(fold)
        assert not set(many) & set(splits.held_out(fold))
        assert len(few) == pytest.approx(0.5 * len(every), abs=3)
        assert {labels[subject] for subject in few} == {0, 1}
    assert thinned(splits, labels, 1.0, 7).training(0) == splits.training(0)
    assert thinned(splits, labels, 0.5, 8).kept != half.kept
    # a rare label stays
    assert "s4" in thinned(splits, {"s4": 1}, 0.01, 0).kept


def number_run(rows: pd.DataFrame) -> Any:
    """What `size_plan` reads of a run of one network that predicts a number, without baselines."""
    evaluation = SimpleNamespace(bootstrap_resamples=200, confidence=0.95, readers={})
    names = {"classes_of": lambda name: [], "positive_of": lambda name: None, "range_of": lambda name: (0.0, 10.0)}
    study = SimpleNamespace(evaluation=evaluation, seed=0, unit="subject", learners=["net"], **names)
    main = SimpleNamespace(learner="net", target="outcome", kind="regression")
    return SimpleNamespace(final=rows, study=study, results=SimpleNamespace(main=main))


def test_the_number_of_readers_follows_from_their_readings() -> None:
    rows, rng = number_rows(60), np.random.default_rng(0)
    units = rows[["case", "image", "subject", "target", "region"]].assign(
        occurrence=1, position=np.nan, at="", session="a"
    )
    truth = rng.normal(0, 3, len(units))
    readers = [units.assign(reader=name, value=truth + rng.normal(size=len(units))) for name in "abc"]
    plan = size_plan(number_run(rows), [1.0], Silent(), readings=pd.concat(readers))
    assert [each.readers for each in plan.readers] == [1, 2, 3, 4, 5]
    # one reader's error has a standard deviation of 1, and cases one of 3
    assert plan.readers[0].reliability.value == pytest.approx(0.9, abs=0.04)
    assert plan.readers[3].half_width == pytest.approx(1.96 / 2, rel=0.15)
    assert (plan.metric, plan.curve, plan.needed) == ("ccc", [], {1.0: 10})
    assert plan.no_curve
    assert size_plan(number_run(rows), [], Silent()).readers == []


class Opened:
    """A finished run whose predictions are others."""

    def __init__(self, run: FinishedRun, rows: pd.DataFrame) -> None:
        self.run, self.final = run, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)


def test_a_pilot_of_few_subjects_and_impossible_widths_are_refused(baseline_run: Run) -> None:
    run = baseline_run.finished
    few = run.final[run.final["subject"].isin(sorted(run.final["subject"].unique())[:9])]
    with pytest.raises(RunError):
        size_plan(Opened(run, few), [], Silent())  # type: ignore[arg-type]
    for width in (0.0, -1.0, float("nan")):
        with pytest.raises(CasewiseError):
            size_plan(run, [width], Silent())


def test_all_training_subjects_give_the_predictions_of_the_run(baseline_run: Run) -> None:
    run = baseline_run.finished
    subjects, again = refitted(run, "linear_features", 1.0, 0)
    own = run.final[(run.final["model"] == "linear_features") & (run.final["stage"] == "oof")]
    both = own.merge(again[again["stage"] == "oof"], on=["case", "target", "region", "image"], suffixes=("", "_again"))
    assert len(both) == len(own) > 0
    assert both["p0_again"].to_numpy() == pytest.approx(both["p0"].to_numpy(), abs=1e-6)
    assert subjects == np.mean([len(run.splits.training(fold)) for fold in range(run.splits.folds)])


def test_the_page_and_the_table_of_a_run(baseline_run: Run, tmp_path: Path) -> None:
    written = plan_size(baseline_run.folder, tmp_path / "size.html", [0.2], Silent())
    plan, page = written.plan, written.page.read_text()
    assert (plan.metric, plan.stage, plan.subjects) == ("auroc", "oof", 30)
    assert [point.share for point in plan.curve] == [*SHARES, 1.0]
    own = baseline_run.results.figures.of("oof", plan.baseline, "label")["auroc"]
    last = plan.curve[-1]
    assert (last.value, last.low, last.high) == pytest.approx((own.value, own.low, own.high), abs=1e-5)
    assert last.subjects == pytest.approx(15)
    assert plan.gain[0] == pytest.approx(last.value - plan.curve[1].value)
    assert all(point.lowest <= point.value <= point.highest for point in plan.curve)
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http://www.w3.org", "")
    aligned = [line for line in written.text.split("\n") if line.startswith("  ")]
    assert len(aligned) == len(plan.expected) + 1 + len(SHARES) + 1 + 4
    assert max(map(len, written.text.split("\n"))) <= 80
    table = pd.read_csv(written.table)
    assert tuple(table.columns) == COLUMNS
    assert len(table) == len(plan.expected) + 1 + len(SHARES) + 1
    assert table.loc[table["quantity"] == "expected interval", "extrapolated"].any()
    assert table.loc[table["quantity"] == "subjects needed", "width"].tolist() == [0.2]
