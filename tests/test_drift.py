"""Cases unlike those of the training: distances in features, and what the comparison of two cohorts makes of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from casewise.audit.cohorts import compare_cohorts
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.robustness import drift, drift_caveats
from casewise.inference.bundle import Bundle
from casewise.inference.drift import held_out_quantile
from casewise.inference.model import load_bundle
from casewise.inference.predictor import FeatureDistance
from casewise.plugins.phantoms.chest import make_chest
from casewise.report.sections.designs import external
from casewise.report.tables import MetricFormat
from casewise.run import Run, run
from casewise.run_folder import JobFolder, RunFolder
from tests.chest_study import chest_study
from tests.conftest import absolute
from tests.prediction_rows import prediction_rows


def rows_of(distances: list[float], target: str = "x") -> pd.DataFrame:
    return pd.DataFrame({"target": target, "distance": distances})


class TestDistance:
    def test_it_grows_in_and_off_the_plane_of_the_training_features(self) -> None:
        random = torch.Generator().manual_seed(1)
        plane = torch.randn(400, 2, generator=random) @ torch.randn(2, 30, generator=random)
        features = plane + 0.01 * torch.randn(400, 30, generator=random)
        distance = FeatureDistance.fit(features, 400)
        assert distance.components.shape == (2, 30)
        assert np.sqrt((distance.raw(features) ** 2).mean()) == pytest.approx(1, abs=1e-3)
        along = distance.mean + 8 * (plane[0] - distance.mean)
        off = distance.mean + 0.5 * torch.nn.functional.normalize(torch.randn(30, generator=random), dim=0)
        assert (distance.raw(torch.stack([along, off])) > 2).all()
        assert distance.raw(distance.mean[None])[0] < 0.1

    @pytest.mark.parametrize(("count", "width"), [(60, 8), (12, 40)])
    def test_directions_are_orthonormal_and_have_the_variances_of_the_features(self, count: int, width: int) -> None:
        features = torch.randn(count, width, generator=torch.Generator().manual_seed(2))
        distance = FeatureDistance.fit(features, count)
        along = distance.components.double().numpy()
        assert np.allclose(along @ along.T, np.eye(len(along)), atol=1e-5)
        covariance = np.cov(features.double().numpy().T, bias=True)
        assert np.allclose(np.diag(along @ covariance @ along.T), distance.variances.numpy(), atol=1e-5)

    def test_features_that_do_not_vary_have_none(self) -> None:
        assert FeatureDistance.fit(torch.ones(9, 4), 9) is None
        assert FeatureDistance.fit(torch.ones(1, 4), 1) is None
        assert FeatureDistance.fit(torch.full((3, 4), torch.nan), 3) is None

    def test_the_quantile_holds_for_further_cases(self) -> None:
        random = np.random.default_rng(0)
        shares = [(random.normal(size=200) > held_out_quantile(random.normal(size=39))).mean() for _ in range(300)]
        assert np.mean(shares) == pytest.approx(0.05, abs=0.01)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Path:
    """Ten other people like those of the study, and ten whose films are noise."""
    folder = tmp_path_factory.mktemp("there")
    rows = absolute(make_chest(folder / "films", subjects=20, size=(64, 64), seed=8))
    random = np.random.default_rng(1)
    for number in range(10, len(rows)):
        rows.loc[number, "path"] = str(folder / f"{number}.png")
        Image.fromarray(random.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / f"{number}.png")
    rows.to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, chests: Path, there: Path) -> Run:
    changes = {"backbones": ["test_resnet", "test_efficientnet"], "stack": ["mean"]}
    changes |= {"evaluation": {"counterfactual_cases": 0}}
    external = {"cohort": there, "name": "valley", "subjects": "distinct"}
    study = chest_study(chests, **changes, external=external)
    return run(study, tmp_path_factory.mktemp("drift") / "run")


def test_every_prediction_has_a_distance(done: Run) -> None:
    table = done.rows
    assert set(table["model"]) == {"test_resnet", "test_efficientnet", "mean_of_learners"}
    assert table["distance"].notna().all()
    keys = ["stage", "case"]
    networks = table[table["model"] != "mean_of_learners"].groupby(keys)["distance"].mean()
    combined = table[table["model"] == "mean_of_learners"].set_index(keys)["distance"]
    assert np.allclose(combined, networks.loc[combined.index])
    # no out-of-fold case is further than the largest of its fold, which is 1 with fewer than nineteen
    folds = table[(table["stage"] == "oof") & (table["model"] == "test_resnet")].groupby("outer_fold")["distance"]
    assert folds.max().tolist() == pytest.approx([1, 1])


def test_noise_is_further_away_than_films(done: Run, there: Path) -> None:
    noise = pd.read_csv(there)["path"].str.startswith(str(there.parent / "films"))
    subjects = {f"valley:{s}": not film for s, film in zip(pd.read_csv(there)["subject"], noise, strict=True)}
    rows = done.rows[(done.rows["stage"] == "external") & (done.rows["model"] == "test_resnet")]
    far = rows.groupby(rows["subject"].map(subjects))["distance"].median()
    assert far[True] > 2 * far[False]
    assert (rows.loc[rows["subject"].map(subjects), "distance"] > 1).all()


def test_the_file_beside_the_weights_holds_no_case(done: Run) -> None:
    folder = JobFolder(done.folder / "jobs" / "test_resnet" / "fold1")
    facts = Bundle.open(folder.path).distance
    assert (facts["scale"].keys(), facts["held_out"]["label"]) == ({"label"}, 9)
    assert folder.distance.path.name in folder.record.read()["files"]
    text = json.dumps(facts)
    assert not any(subject in text for subject in Bundle.open(folder.path).subjects)
    # far fewer numbers than the features of the training cases
    assert facts["components"] <= max(1, facts["subjects"] // 10)


def test_new_cases_have_the_distance_of_the_external_cohort(done: Run, there: Path) -> None:
    table = load_bundle(done.folder).predict(there)
    external = done.rows.query("stage == 'external' and model == 'test_resnet'")
    expected = external.set_index(external["subject"].str.removeprefix("valley:"))["distance"]
    predicted = table[table["learner"] == "test_resnet"].set_index("subject")["distance"]
    assert np.allclose(predicted, expected.loc[predicted.index], rtol=1e-4)


def test_parts_of_one_cohort_are_not_told_apart(done: Run, chests: Path) -> None:
    from casewise.pipeline.finished import FinishedRun

    prepared, halves = FinishedRun.open(RunFolder(done.folder)).prepared, []
    for start in (0, 1):
        images = prepared.cohort.images
        numbers = np.arange(start, len(images), 2)
        store: Any = type("Store", (), {"tiles": prepared.store.tiles[numbers]})()
        store.index = prepared.store.index.iloc[numbers].reset_index(drop=True)
        cohort: Any = type("Part", (), {"images": images.iloc[numbers].reset_index(drop=True)})()
        halves.append((cohort, store))
    found = compare_cohorts(halves[0], halves[1], permutations=99, seed=0)
    assert all(test["p_adjusted"] > 0.05 for test in found["tests"].values())
    small = type("Part", (), {"images": halves[1][0].images.iloc[:4]})()
    assert compare_cohorts(halves[0], (small, halves[1][1]), permutations=99, seed=0)["tests"] == {}


def table_of(stage: str, right: list[int], confidence: list[float], distance: list[float]) -> pd.DataFrame:
    """Predictions of class 0 of two, one case a subject."""
    subjects, p = [f"{stage}{number}" for number in range(len(right))], np.array(confidence)
    folds = [1] * len(right) if stage == "oof" else None
    rows = prediction_rows(subjects, [1.0 - hit for hit in right], np.stack([p, 1 - p], axis=1), folds=folds)
    return rows.assign(stage=stage, case=subjects, target="label", y_pred=0.0, distance=distance)


def test_figures_inside_and_outside() -> None:
    inner = table_of("oof", [1] * 18 + [0] * 2, [0.8] * 20, [0.5] * 19 + [1.5])
    outer = table_of("external", [1] * 6 + [0] * 14, [0.7] * 10 + [0.95] * 10, [0.9] * 10 + [3.0] * 10)
    entry = drift(pd.concat([inner, outer], ignore_index=True), "label", Plan(500))["net"]
    assert (entry["quality"], entry["internal"]["quality"]["value"]) == ("accuracy", pytest.approx(0.9))
    assert (entry["external"]["outside"]["value"], entry["internal"]["outside"]["value"]) == (0.5, 0.05)
    assert (entry["inside"]["quality"]["value"], entry["outside"]["quality"]["value"]) == (0.6, 0.0)
    gap = entry["external_minus_internal"]
    assert gap["quality"]["value"] == pytest.approx(-0.6)
    assert gap["quality"]["low"] <= -0.6 <= gap["quality"]["high"] < 0
    assert gap["confidence"]["value"] == pytest.approx(0.025)
    texts = [cell.text for cell in external.rows_of(entry, MetricFormat())[-1].cells]
    assert (texts[:3], bool(texts[3])) == ([""] * 3, True)
    found = {caveat["code"]: caveat for caveat in drift_caveats({"net": entry}, "net")}
    assert set(found) == {"external_outside", "confident_outside"}
    assert found["confident_outside"]["confidence"] == pytest.approx({"internal": 0.8, "external": 0.825})


@pytest.mark.parametrize(("right", "told"), [(3, True), (20, False)])
def test_a_model_that_is_surer_than_right_outside_is_told_of(right: int, told: bool) -> None:
    """Its confidence falls, but much less than its accuracy."""
    inner = table_of("oof", [1] * 36 + [0] * 4, [0.9] * 20 + [0.88] * 20, [0.5] * 40)
    outer = table_of("external", [1] * right + [0] * (40 - right), [0.62] * 20 + [0.58] * 20, [0.9] * 40)
    entry = drift(pd.concat([inner, outer], ignore_index=True), "label", Plan(200))["net"]
    assert entry["external_minus_internal"]["confidence"]["high"] < 0
    codes = {caveat["code"] for caveat in drift_caveats({"net": entry}, "net")}
    assert ("confident_outside" in codes) is told


def test_a_difference_of_accuracies_of_all_and_none_has_an_interval_with_a_width() -> None:
    inner = table_of("test", [1] * 12, [0.9] * 6 + [0.8] * 6, [0.5] * 12)
    outer = table_of("external", [0] * 12, [0.9] * 6 + [0.8] * 6, [0.5] * 12)
    entry = drift(pd.concat([inner, outer], ignore_index=True), "label", Plan(200))["net"]
    gap = entry["external_minus_internal"]["quality"]
    assert (gap["value"], gap["low"]) == (-1.0, -1.0)
    assert -0.9 < gap["high"] < -0.4
    assert {caveat["code"] for caveat in drift_caveats({"net": entry}, "net")} == {"confident_outside"}


def test_no_warning_where_confidence_falls_with_accuracy() -> None:
    inner = table_of("test", [1] * 18 + [0] * 2, [0.9] * 20, [0.5] * 20)
    outer = table_of("external", [1] * 6 + [0] * 14, [0.6] * 20, [0.5] * 20)
    figures = drift(pd.concat([inner, outer], ignore_index=True), "label", Plan(500))
    assert (figures["net"]["internal_stage"], figures["net"]["outside"]["answers"]) == ("test", 0)
    assert figures["net"]["outside"]["quality"]["value"] is None
    assert drift_caveats(figures, "net") == []


def test_numbers_have_errors_and_no_confidence() -> None:
    stages = ("oof", "external")
    tables = [table_of(stage, [1] * 12, [0.5] * 12, [0.5, 2.0] * 6).drop(columns=["p0", "p1"]) for stage in stages]
    table = pd.concat(tables, ignore_index=True).assign(kind="regression", y_true=3.0, y_pred=[5.0, 4.0] * 12)
    entry = drift(table, "label", Plan(200))["net"]
    assert entry["quality"] == "mae"
    assert (entry["inside"]["quality"]["value"], entry["outside"]["quality"]["value"]) == (2, 1)
    assert entry.external.confidence is None
