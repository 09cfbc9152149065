"""The benchmarks themselves: what they compare is comparable, and finished parts are not repeated."""

# ruff: noqa: F811 (fixtures of other files)

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.analysis.plots import choose
from casewise.metrics.registry import metric_of
from tests.chest_study import PLANNED
from tests.conftest import chests, once, own_cache  # noqa: F401 (fixtures)
from tests.test_simulations import benchmark  # noqa: F401 (fixture)


@pytest.fixture(scope="module")
def auto(benchmark: Any) -> Any:
    return benchmark("auto")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> argparse.Namespace:
    folder = tmp_path_factory.mktemp("auto")
    (folder / "studies").mkdir()
    (folder / "studies" / "oral.yaml").write_text(PLANNED.format(cohort=chests).replace("1min", "5min"))
    (folder / "studies" / "unreadable.yaml").write_text("cohort: none.csv\ntargets: {a: 0..4}\n")
    return argparse.Namespace(studies=folder / "studies", runs=folder / "runs", data=None, weights=None)


@pytest.fixture(scope="module")
def finished(auto: Any, options: argparse.Namespace) -> Any:
    return auto.run_studies(["oral", "unreadable"], options)


def test_a_study_that_fails_does_not_stop_the_others(finished: Any) -> None:
    assert [list(found) for found in finished] == [["oral"], ["unreadable"]]


def test_a_finished_study_is_not_run_again(auto: Any, options: argparse.Namespace, finished: Any) -> None:
    files = finished[0]["oral"].files
    before = files.metrics.path.stat().st_mtime_ns, files.study.path.stat().st_mtime_ns
    runs, failed = auto.run_studies([], options)
    assert (list(runs), failed) == (["oral"], {"unreadable": "not run"})
    assert (files.metrics.path.stat().st_mtime_ns, files.study.path.stat().st_mtime_ns) == before


def test_the_page_has_the_figures_of_the_run(auto: Any, finished: Any, tmp_path: Path) -> None:
    run = finished[0]["oral"]
    found = list(auto.figures("oral", run))
    assert [figure.metric for figure in found] == ["auroc", "accuracy"]
    figure = found[0]
    assert figure.learner == "meta_learner_weighted"
    assert figure.estimate == dict(run.results.headline["auroc"])
    differences = run.files.metrics.read()["against_baselines"]["differences"]
    again = auto.from_baseline(figure, figure.best(["linear_pixels"]))
    assert {key: again[key] for key in ("difference", "low", "high")} == {
        key: differences["auroc"][key] for key in ("difference", "low", "high")
    }
    chance = metric_of("auroc").chance
    includes = figure.estimate["low"] <= chance <= figure.estimate["high"]
    assert (figure.chance == "at chance") == includes
    record = json.loads(json.dumps(auto.record_of("oral", run, None, tmp_path)))  # as it is kept
    text = auto.page({"oral": record}, {})
    assert auto.with_interval(figure.estimate, "auroc") in text
    assert text.count("not run") == sum(1 for aim in auto.AIMS if aim[0] != "oral")


def test_the_planned_run_is_compared_with_itself_before(
    auto: Any, peers: Any, finished: Any, options: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = list(auto.figures("oral", finished[0]["oral"]))
    assert [row[5:] for row in auto.before_rows(shown)] == [["other cases or folds", "–", "not known"]] * 2
    monkeypatch.setattr(peers, "RECORDED", tmp_path / "before.npz")
    monkeypatch.setattr(auto, "BEFORE", tmp_path / "before.npz")
    peers.record(options.runs)
    for row, figure in zip(auto.before_rows(shown), shown, strict=True):
        assert row[5] == row[4] == auto.with_interval(figure.estimate, figure.metric)
        assert abs(float(row[6].split()[0])) < 0.001  # the record has single precision
        assert row[7] == "not shown to differ"


def test_a_reported_learner_below_its_best_part_is_named(auto: Any, finished: Any) -> None:
    (figure, _) = shown = list(auto.figures("oral", finished[0]["oral"]))
    (row,) = auto.part_rows(shown)
    best = max(figure.of(name)["value"] for name in ("linear_pixels", *figure.run.study.networks) if figure.of(name))
    assert row[-2] == f"{figure.estimate['value'] - best:+.3f}"
    assert row[-1] == ("yes" if figure.estimate["value"] - best >= -0.003 else "**no**")
    assert auto.within_lines([[*row[:-1], "yes"], ["skin", "label", "out of fold", "**no**"]]).count("1 of 2") == 1
    assert "not skin (label, out of fold)" in auto.within_lines([["skin", "label", "out of fold", "**no**"]])


def test_the_figure_of_a_page_is_of_the_same_cases_and_no_published_one(auto: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    rows = ["| **a** | network | 0.91 [0.8, 1.0] |", "| b | network | – |", "| c | linear model | 0.93 [0.9, 1.0] |"]
    rows = ["| Learner | Kind | AUROC |", "|---|---|---|", *rows, "| d | published | 0.99 |"]
    page.write_text("\n".join(["Out of fold, the best AUROC first.", "", *rows, "", "On the test set, a has 1.00."]))
    run = argparse.Namespace(study=argparse.Namespace(primary_outcome="label"))
    for stage, metric, value in (("oof", "auroc", "0.93 [0.9, 1.0]"), ("test", "auroc", ""), ("oof", "accuracy", "")):
        assert auto.on_page(page, argparse.Namespace(target="label", run=run, metric=metric, stage=stage)) == value


def test_two_learners_are_compared_on_their_common_cases(auto: Any, peers: Any, finished: Any) -> None:
    run = finished[0]["oral"]
    figure = next(auto.figures("oral", run))
    gap = auto.paired(run, run, figure, ("linear_pixels", figure.learner))
    values = [
        run.results.figures.of(figure.stage, name, figure.target)[figure.metric].value
        for name in (figure.learner, "linear_pixels")
    ]
    assert gap["difference"] == pytest.approx(values[0] - values[1], abs=0.02)
    rows = {"planned": choose(run, figure.learner, figure.target, figure.stage).rows}
    rows["linear_pixels"] = choose(run, "linear_pixels", figure.target, figure.stage).rows
    figures = peers.compared(rows, run.study, figure.target)
    assert figures["linear_pixels", figure.metric][1]["difference"] == pytest.approx(gap["difference"])


@pytest.fixture(scope="module")
def conformal(benchmark: Any) -> Any:
    return benchmark("conformal")


@pytest.fixture(scope="module")
def films(conformal: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return conformal.population("chest", 40, tmp_path_factory.mktemp("films"))


def test_new_subjects_are_predicted_by_every_fold_and_learned_ones_by_one(conformal: Any, films: Any) -> None:
    names = sorted(set(films.cohort.panels["subject"].astype(str)))
    rows = conformal.predictions(films, names[:30], names[30:], 1)
    panels = films.cohort.panels["subject"].astype(str)
    oof, new = rows[rows["stage"] == "oof"], rows[rows["stage"] == "test"]
    assert set(oof["subject"]) == set(names[:30])
    assert len(oof) == panels.isin(names[:30]).sum()
    assert set(new["subject"]) == set(names[30:])
    assert len(new) == 5 * panels.isin(names[30:]).sum()
    p = new.pivot(index="case", columns="outer_fold", values="p0")
    assert (p.std(axis=1) > 0).all()  # every fold has a model of its own


FOLDS = (1, 2, 3)


@pytest.fixture(scope="module")
def peers(benchmark: Any) -> Any:
    return benchmark("peers")


def synthetic() -> tuple[pd.DataFrame, np.ndarray]:
    """90 images of 45 subjects in three folds and a test set, with 60 features of which 20 show the label."""
    rng = np.random.default_rng(3)
    subject = np.repeat(np.arange(45), 2)
    signal = np.repeat(rng.normal(size=45), 2)
    labels = np.array(["absent", "faint", "present"])[np.digitize(signal, [-0.4, 0.4])]
    values = rng.normal(size=(90, 60)).astype(np.float32)
    values[:, :20] += 2 * signal[:, None]
    columns = {"path": [f"images/{n}.png" for n in range(90)], "subject": subject.astype(str), "fold": subject % 4}
    return pd.DataFrame(columns).assign(case=subject, image="", label=labels), values


def test_the_linear_peer_predicts_images_that_it_was_not_trained_on(peers: Any) -> None:
    table, values = synthetic()
    predictions = peers.out_of_fold(table, values, FOLDS, numbers=False)
    assert predictions["path"].tolist() == [p for fold in FOLDS for p in table["path"][table["fold"] == fold]]
    columns = ["p_absent", "p_faint", "p_present"]
    assert np.allclose(predictions[columns].sum(axis=1), 1)
    labels = predictions["label"]
    assert predictions["p_present"][labels == "present"].min() > predictions["p_present"][labels == "absent"].mean()
    # neither the labels of a fold nor those of the test set change its predictions
    changed = table.assign(label=np.where(table["fold"].isin([1, peers.TEST]), "absent", table["label"]))
    again = peers.out_of_fold(changed, values, [1], numbers=False)
    assert np.allclose(again[columns], predictions[columns][predictions["fold"] == 1], atol=1e-6)


def test_fastai_is_trained_on_all_other_folds_and_never_on_the_test_set(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, _ = synthetic()
    learned: dict[int, set[int]] = {}

    def measured(program: str, /, **task: Any) -> dict[str, float]:
        images = pd.read_csv(task["table"])
        learned[task["fold"]] = set(images["fold"]) - {task["fold"]}
        images[images["fold"] == task["fold"]].assign(p_absent=1.0).to_csv(task["predictions"], index=False)
        return {"seconds": 2.0, "cores": cores[0]}

    cores = [0.95]
    monkeypatch.setattr(peers.users, "measured", measured)
    options = {"numbers": False, "seconds": 9.0, "folder": tmp_path}
    rows, seconds = peers.of_fastai(table, FOLDS, Path("mobilenet_v2.safetensors"), **options)
    assert (seconds, len(rows)) == (6.0, (table["fold"] != peers.TEST).sum())
    assert learned == {1: {2, 3}, 2: {1, 3}, 3: {1, 2}}
    peers.of_fastai(table, [peers.TEST], Path("mobilenet_v2.safetensors"), **options)
    assert learned[peers.TEST] == set(FOLDS)
    cores[0] = 0.5
    with pytest.raises(SystemExit, match=r"fastai had 0\.50 of a core"):
        peers.of_fastai(table, FOLDS, Path("mobilenet_v2.safetensors"), **options)


@pytest.mark.filterwarnings("ignore")  # of fastai, at its import
def test_every_difference_from_an_original_has_a_reason(benchmark: Any) -> None:
    imitations = benchmark("imitations")  # which states the backend of Keras
    for original in ("fastai", "keras"):
        pytest.importorskip(original, reason=f"{original} is not installed (casewise[bench])")
    points = imitations.points(1000, 0.073)
    states = [imitations.row(original, point)[3] for original, found in points.items() for point in found]
    assert set(states) == {"equal", "differs on purpose"}


def test_the_reading_nearest_to_the_text_is_the_first_under_which_all_networks_learn(benchmark: Any) -> None:
    recipe = benchmark("recipe")
    better, worse = (1.0, 0.5, 1.5), (0.1, -0.2, 0.4)

    def results(**gains: tuple[tuple[float, float, float] | None, ...]) -> list[Any]:
        return [
            recipe.Trained(name, reading, None if gain is None else np.ones(3), gain or (0, 0, 0), [], None, "")
            for name, own in gains.items()
            for reading, gain in zip(recipe.READINGS, own, strict=False)
        ]

    some = results(a=(None, better, better), b=(better, worse, better))
    assert [result.learns for result in some] == [False, True, True, True, False, True]
    assert recipe.READINGS[2].text in recipe.conclusions(some)[0]
    assert recipe.READINGS[0].text in recipe.conclusions(results(a=(better,), b=(better,)))[0]
    assert recipe.READINGS[1].text in recipe.conclusions(results(a=(None, better), b=(None, worse)))[0]
    value, low, high = recipe.interval(np.array([1.0, 2.0, 3.0]))
    assert low < value == 2.0 < high
