"""Each source left out: judged within the sources, chosen there, and never told by figures pooled over them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.console import Silent
from casewise.evaluation import Outcomes, Plan, evaluate
from casewise.evaluation.external import by_source, drop, mean_intervals, within_sources
from casewise.evaluation.results import Note
from casewise.pipeline.evaluate import evaluate as evaluate_step
from casewise.pipeline.read import validate
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
from tests.chest_study import chest_study
from tests.prediction_rows import prediction_rows

CLASSES = ["covid", "none"]
SOURCES = ["north", "south", "west"]


def rows(model: str, share: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> pd.DataFrame:
    """Out-of-fold rows of one learner: in each source the probability of covid (class 0)."""
    parts = []
    for fold, (source, p) in enumerate(share.items(), start=1):
        who = [f"{source}{i:03d}" for i in range(len(p))]
        values = {"case": [f"{s}/1" for s in who], "model": model, "target": "dx", "y_pred": (p < 0.5) * 1.0}
        folds = np.full(len(p), fold)
        parts.append(prediction_rows(who, truth[source], np.stack([p, 1 - p], axis=1), folds=folds, **values))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """'pool' tells nothing within a source, but covid is common where it is sure of it; 'fair' is the other way."""
    random = np.random.default_rng(0)
    truth = {"north": (np.arange(60) >= 48) * 1, "south": (np.arange(60) >= 12) * 1, "west": np.zeros(20, dtype=int)}
    level = {"north": 0.8, "south": 0.2, "west": 0.5}
    noise = {s: 0.1 * random.random(len(t)) for s, t in truth.items()}
    pool = {s: level[s] + noise[s] for s in truth}
    fair = {s: 1 - level[s] + noise[s] - 0.06 * truth[s] for s in truth}
    fitted = {s: level[s] + 0.05 - 0.05 * truth[s] for s in truth}
    told = {"fair": fair, "pool": pool, "meta_learner_logistic": fitted}
    return pd.concat([rows(name, share, truth) for name, share in told.items()], ignore_index=True)


@pytest.fixture(scope="module")
def results(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run with each source left out writes, and the headline that pooled figures would have."""
    study = build_study(
        {
            "name": "left-out",
            "synthetic": True,
            "cohort": "cohort.csv",
            "images": {"size": 32},
            "panels": {"by": "image"},
            "targets": {"dx": {"classes": CLASSES, "positive": "covid"}},
            "split": {"leave_out": "source"},
            "baselines": {"off": "tests of networks"},
            "backbones": ["test_resnet"],
            "weights": "random",
            "recipe": {"schedule": "constant", "early_stopping": {"monitor": "none"}},
            "evaluation": {"bootstrap_resamples": 100, "response": False},
        },
        source="the test's study",
        folder=tmp_path_factory.mktemp("left out"),
    )
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.study.write(study.model_dump(mode="json"))
    folder.predictions.write(table)
    sides = {subject: SOURCES.index(subject[:-3]) + 1 for subject in table["subject"]}
    folder.splits.write({"hash": "", "folds": 3, "left_out": SOURCES, "subjects": sides})
    images = table.drop_duplicates("case").assign(path=lambda t: t["case"], dx=lambda t: t["y_true"])
    cohort: Any = SimpleNamespace(images=images, flow=[])
    written = evaluate_step(study, cohort, table, folder, Silent())
    outcomes = Outcomes("dx", classes={"dx": CLASSES}, positive={"dx": "covid"})
    return {**written, "pooled": evaluate(table, outcomes, Plan(100))["main"]}


def test_the_learner_is_not_chosen_by_pooled_figures(results: dict[str, Any]) -> None:
    auroc = {name: figures["dx"]["auroc_pooled"]["value"] for name, figures in results["metrics"]["oof"].items()}
    assert auroc["pool"] > 0.7 > 0.5 > auroc["fair"]
    # the network that the study names first, here the first in the table
    assert (results["main"]["learner"], results["main"]["chosen_on"]) == ("fair", "stated")
    assert results["main"]["metrics"] == results["metrics"]["oof"]["fair"]["dx"]
    mean = results["site_means"]["fair"]["auroc"]
    each = [results["by_site"][source]["fair"]["auroc"]["value"] for source in ("north", "south")]
    assert mean["value"] == pytest.approx(np.mean(each), abs=1e-5)
    assert (mean["sources"], mean["undefined"]) == (["north", "south"], ["west"])
    assert Note("pooled_over_sources", {"column": "source", "kind": "classification"}) in results["notes"]


def test_weights_fitted_across_sources_are_not_the_headline(table: pd.DataFrame) -> None:
    both = [
        table.assign(model=name)[table["model"] == "fair"] for name in ("meta_learner_weighted", "mean_of_learners")
    ]
    rows = pd.concat([table, *both], ignore_index=True)
    for left_out, learner in ((True, "mean_of_learners"), (False, "meta_learner_weighted")):
        outcomes = Outcomes("dx", classes={"dx": CLASSES}, positive={"dx": "covid"}, sources_left_out=left_out)
        assert evaluate(rows, outcomes, Plan(20))["main"]["learner"] == learner


def test_means_within_sources_have_intervals_by_subject_within_each(results: dict[str, Any]) -> None:
    for figures in results["site_means"].values():
        mean = figures["accuracy"]
        assert mean["low"] < mean["value"] < mean["high"] <= 1
        assert (mean["fewest_subjects"], mean["rough"]) == (20, False)
    # the mean of three independent accuracies has the variance of their sum, divided by nine
    figures = [results["by_site"][source]["fair"]["accuracy"] for source in SOURCES]
    width = np.sqrt(sum((figure["high"] - figure["low"]) ** 2 for figure in figures)) / 3
    mean = results["site_means"]["fair"]["accuracy"]
    assert mean["high"] - mean["low"] == pytest.approx(width, rel=0.35)


def test_the_interval_of_a_mean_of_small_sources_is_free_of_their_bias() -> None:
    random, hits, uncorrected = np.random.default_rng(0), [], []
    for _ in range(20):
        truth = random.standard_normal(50)
        predicted = 0.8 * truth + 0.6 * random.standard_normal(50)
        who = [f"{number // 10}:{number}" for number in range(50)]
        row = {"visit": "1", "day": np.nan, "region": "", "image": "", "inner_fold": pd.NA, "model": "m"}
        row |= {"stage": "oof", "target": "x", "kind": "regression"}
        values = {"case": who, "subject": who, "y_true": truth, "y_pred": predicted, "outer_fold": 1}
        told, sources = pd.DataFrame({**values, **row}), {name: name[0] for name in who}
        means = within_sources(by_source(told, "x", sources, plan=Plan(100)))
        mean = mean_intervals(means, told, "x", sources, plan=Plan(200))["m"]["ccc"]
        hits.append(mean["low"] <= 0.8 <= mean["high"])
        uncorrected.append(mean["value"])
    assert sum(hits) >= 17
    assert np.mean(uncorrected) < 0.8


def test_the_external_figure_is_compared_with_the_means_within_sources(table: pd.DataFrame) -> None:
    outside = table.assign(stage="external", subject="x:" + table["subject"], case="x:" + table["case"])
    both = pd.concat([table, outside.assign(outer_fold=pd.array([pd.NA] * len(table), dtype="Int64"))])
    sources = {subject: subject[:-3] for subject in table["subject"]}
    told = by_source(both, "dx", sources, classes=CLASSES, positive="covid", plan=Plan(50))
    lost = drop(both, "dx", sources=sources, classes=CLASSES, positive="covid", plan=Plan(50))
    for learner, figures in within_sources(told).items():
        assert lost[learner]["auroc"]["internal_stage"] == "within"
        assert lost[learner]["auroc"]["internal"] == pytest.approx(figures["auroc"]["value"])
        assert lost[learner]["auroc"]["low"] < lost[learner]["auroc"]["high"]
    pooled = drop(both, "dx", classes=CLASSES, positive="covid", plan=Plan(50))
    assert pooled["pool"]["accuracy"]["difference"] == pytest.approx(0)
    assert lost["pool"]["auroc"]["difference"] > 0.1


def test_validation_names_the_source_of_each_fold(chests: Path) -> None:
    study = chest_study(chests, ["covid", "pneumonia"], split={"leave_out": "sex"})
    rows = pd.read_csv(chests).query("label != 'no_finding'")
    lines = validate(study, Silent())
    for number, (sex, of_sex) in enumerate(rows.groupby("sex")):
        first = next(n for n, line in enumerate(lines) if line.startswith(f"fold {number + 1}"))
        count = of_sex["subject"].nunique()
        assert f"sex {sex}: {count} subject" in lines[first]
        for offset, label in enumerate(["covid", "pneumonia"], 1):
            of_class = of_sex[of_sex["label"] == label]
            assert f"label {label}: {of_class['subject'].nunique()} subject" in lines[first + offset]
