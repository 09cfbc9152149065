"""Each source left out: judged within the sources, chosen there, and never told by figures pooled over them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from casewise.console import Silent
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.external import by_source, source_means
from casewise.evaluation.figures import LEFT_OUT, Cell
from casewise.evaluation.metrics_file import encoded
from casewise.pipeline.evaluate import evaluate as evaluate_step
from casewise.run_folder import RunFolder
from casewise.study.loading import build_study
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
    values: dict[str, Any] = {"name": "left-out", "synthetic": True, "cohort": "cohort.csv", "images": {"size": 32}}
    values |= {"panels": {"by": "image"}, "targets": {"dx": {"classes": CLASSES, "positive": "covid"}}}
    values |= {"split": {"leave_out": "source"}, "baselines": {"off": "tests of networks"}, "weights": "random"}
    values |= {"backbones": ["test_resnet"], "recipe": {"schedule": "constant", "early_stopping": {"monitor": "none"}}}
    values |= {"evaluation": {"bootstrap_resamples": 100, "response": False}}
    study = build_study(values, source="the test's study", folder=tmp_path_factory.mktemp("left out"))
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.study.write(study.model_dump(mode="json"))
    folder.predictions.write(table)
    sides = {subject: SOURCES.index(subject[:-3]) + 1 for subject in table["subject"]}
    folder.splits.write({"hash": "", "folds": 3, "left_out": SOURCES, "subjects": sides})
    images = table.drop_duplicates("case").assign(path=lambda t: t["case"], dx=lambda t: t["y_true"])
    cohort: Any = SimpleNamespace(images=images, flow=[])
    written = evaluate_step(study, cohort, table, folder, Silent())
    outcomes = Outcomes("dx", classes={"dx": CLASSES}, positive={"dx": "covid"})
    return {**encoded(written), "pooled": evaluate(table, outcomes, Plan(100)).main}


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


def test_weights_fitted_across_sources_are_not_the_headline(table: pd.DataFrame) -> None:
    both = [table.assign(model=n)[table["model"] == "fair"] for n in ("meta_learner_weighted", "mean_of_learners")]
    rows = pd.concat([table, *both], ignore_index=True)
    for left_out, learner in ((True, "mean_of_learners"), (False, "meta_learner_weighted")):
        outcomes = Outcomes("dx", classes={"dx": CLASSES}, positive={"dx": "covid"}, sources_left_out=left_out)
        assert evaluate(rows, outcomes, Plan(20))["main"]["learner"] == learner


def test_means_within_sources_have_intervals_by_subject_within_each(results: dict[str, Any]) -> None:
    for figures in results["site_means"].values():
        mean = figures["accuracy"]
        assert mean["low"] < mean["value"] < mean["high"] <= 1
        assert mean["rough"] is False
    # the mean of three independent accuracies has the variance of their sum, divided by nine
    figures = [results["by_site"][source]["fair"]["accuracy"] for source in SOURCES]
    width = np.sqrt(sum((figure["high"] - figure["low"]) ** 2 for figure in figures)) / 3
    mean = results["site_means"]["fair"]["accuracy"]
    assert mean["high"] - mean["low"] == pytest.approx(width, rel=0.35)


def test_the_interval_of_a_mean_of_small_sources_is_free_of_their_bias() -> None:
    random, hits, uncorrected = np.random.default_rng(0), [], []
    for _ in range(10):
        truth = random.standard_normal(50)
        predicted = 0.8 * truth + 0.6 * random.standard_normal(50)
        who = [f"{number // 10}:{number}" for number in range(50)]
        told = prediction_rows(who, truth, predicted, folds=np.ones(50), model="m", target="x")
        sources = {name: name[0] for name in who}
        by_site = by_source(told, "x", sources, plan=Plan(100))
        mean = source_means(by_site, told, "x", sources, plan=Plan(200)).of("oof", "m", "x", LEFT_OUT, contrast="mean")[
            "ccc"
        ]
        hits.append(mean["low"] <= 0.8 <= mean["high"])
        uncorrected.append(mean["value"])
    assert sum(hits) >= 8
    assert np.mean(uncorrected) < 0.8


def test_groups_count_the_images_that_are_evaluated() -> None:
    who = [f"{source}{number}" for source in "ab" for number in range(5)] * 2
    truth = np.arange(20.0)
    told = prediction_rows(who, truth, truth, folds=np.ones(20), model="m", target="x")
    told = told.assign(case=who, image=[f"{number}.jpg" for number in range(20)])
    by_site = by_source(told, "x", {name: name[0] for name in who}, plan=Plan(100))
    assert [(own["mae"].n_cases, own["mae"].n_subjects) for own in by_site.cells.values()] == [(10, 5), (10, 5)]


MEAN = Cell("oof", "m", "dx", LEFT_OUT, contrast="mean")


def test_means_within_sources_state_ranges_reasons_and_rough_classes() -> None:
    random, rows = np.random.default_rng(0), []
    for source, n_covid in (("a", 15), ("b", 4)):
        for number in range(30):
            truth = 0 if number < n_covid else 1
            p = 0.85 if random.random() < (0.8 if truth == 0 else 0.35) else 0.2
            who = f"{source}{number:02d}"
            rows.append({"case": who, "subject": who, "y_true": truth, "y_pred": int(p < 0.5), "p0": p, "p1": 1 - p})
    shared = {"visit": "1", "day": np.nan, "region": "", "image": "", "inner_fold": pd.NA, "model": "m"}
    told = pd.DataFrame(rows).assign(**shared, stage="oof", target="dx", kind="classification", outer_fold=1)
    sources = {name: name[0] for name in told["subject"]}
    judged = {"classes": CLASSES, "positive": "covid", "plan": Plan(200)}
    means = source_means(by_source(told, "dx", sources, **judged), told, "dx", sources, **judged).of(*MEAN)
    assert means["lr_positive"]["high"] > means["lr_positive"]["value"] > 1
    for name in ("accuracy", "auroc", "sensitivity"):
        assert 0 <= means[name]["low"] < means[name]["high"] <= 1
    assert (means["accuracy"]["rough"], means["sensitivity"]["rough"], means["specificity"]["rough"]) == (0, 1, 0)
    assert means["ece"].low is None
    assert means["ece"].reason
    lone = told[~told["subject"].str.startswith("b") | (told["subject"] == "b29")]
    alone = source_means(by_source(lone, "dx", sources, **judged), lone, "dx", sources, **judged).of(*MEAN)
    assert alone["accuracy"].low is None
    assert "one subject" in str(alone["accuracy"].reason)
