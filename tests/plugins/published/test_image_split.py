"""A split by image beside that by subject: image subjects, the comparison split, the audit's finding, whole runs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from casewise.cohort.cohort import read_cohort
from casewise.errors import CohortError, WeightsError
from casewise.evaluation.figures import IMAGES
from casewise.evaluation.record import plain
from casewise.jobs.job import PERSON
from casewise.models.backbones import build_network
from casewise.models.weights import load_weights
from casewise.plugins.phantoms.chest import make_chest
from casewise.plugins.phantoms.slides import make_regions
from casewise.plugins.published.image_split import image_split_of, images_as_subjects, on_both_sides
from casewise.run import Run, run
from casewise.run_folder import RunFolder
from casewise.splits.grouped import split
from casewise.study.loading import build_study
from tests.chest_study import chest_study

explain_run = pytest.importorskip("casewise.plugins.explain.command").explain_run
ExplainSettings = pytest.importorskip("casewise.plugins.explain.run").ExplainSettings

TWO = {"classes": ["no_finding", "covid"], "positive": "covid"}
BY_IMAGE = {"by": "image"}


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen subjects with three films each."""
    folder = tmp_path_factory.mktemp("chests")
    return make_chest(folder, subjects=16, images=3, classes=("no_finding", "covid"), size=(64, 64), seed=2)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Run:
    changes = {"backbones": ["test_resnet", "test_efficientnet"], "stack": ["mean"]}
    study = chest_study(chests, TWO, split=BY_IMAGE, recipe={"epochs": 1}, images={"size": 32}, **changes)
    return run(study, tmp_path_factory.mktemp("run") / "run")


def told(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


class TestStrangers:
    def test_every_image_is_a_person_of_its_own(self, chests: Path) -> None:
        cohort = read_cohort(chest_study(chests, TWO))
        people = images_as_subjects(cohort)
        assert people.images["subject"].is_unique
        assert people.panels["subject"].tolist() == people.images["subject"].tolist()
        assert people.panels["case"].is_unique
        assert [name.rpartition(" image ")[0] for name in people.images["subject"]] == cohort.images["subject"].tolist()
        for column in ("label", "tiles"):
            assert people.panels[column].tolist() == cohort.panels[column].tolist()
        assert cohort.images["subject"].nunique() == 16  # the study's own cohort is as it was
        for table, own in ((people.images, cohort.images), (people.panels, cohort.panels)):
            assert table[PERSON].tolist() == own["subject"].tolist()

    def test_the_comparison_is_split_as_the_study_is(self, chests: Path) -> None:
        study = chest_study(chests, TWO, split={**BY_IMAGE, "folds": 3})
        cohort = read_cohort(study)
        own = split(cohort, study)
        found = image_split_of(study, cohort, own)
        assert found.splits.folds == own.folds == 3
        assert len(found.splits.subjects(-1)) == 12  # a quarter of 48 images, as of 16 subjects
        assert (found.study.targets, found.study.recipe) == (study.targets, study.recipe)
        labels = found.cohort.images.set_index("subject")["label"]
        for fold in range(3):
            assert labels[found.splits.subjects(fold)].value_counts().tolist() == [6, 6]
        counts = on_both_sides(cohort, found)
        assert counts["subjects"] == counts["subjects_with_several_images"] == 16
        sides = found.cohort.images["subject"].map(found.splits.side).groupby(cohort.images["subject"]).nunique()
        assert counts["subjects_on_both_sides"] == (sides > 1).sum() > 10


def test_one_image_a_subject_is_refused_before_training(tmp_path: Path) -> None:
    table = make_chest(tmp_path / "films", subjects=8, classes=("no_finding", "covid"), size=(64, 64), seed=2)
    with pytest.raises(CohortError, match="no subject has more than one image"):
        run(chest_study(table, TWO, split=BY_IMAGE), tmp_path / "run")
    assert not (tmp_path / "run" / "jobs").exists()


class TestRun:
    def test_metrics_have_both(self, done: Run) -> None:
        metrics = told(done.folder, "metrics.json")
        assert plain(done.results.image_split).items() <= metrics["image_split"].items()
        found = metrics["image_split"]
        assert (found["subjects"], found["images"]) == (16, 48)
        for stage in ("oof", "test"):
            assert set(found["metrics"][stage]) == set(metrics["metrics"][stage])
            assert {"test_resnet", "mean_of_learners"} <= set(found["metrics"][stage])
            for learner, targets in found["metrics"][stage].items():
                own, other = metrics["metrics"][stage][learner]["label"]["accuracy"], targets["label"]["accuracy"]
                assert other["n_subjects"] == other["n_cases"] == {"oof": 36, "test": 12}[stage]
                assert own["n_subjects"] == {"oof": 12, "test": 4}[stage]

    def test_its_networks_lie_apart_and_know_their_images(self, done: Run) -> None:
        place = RunFolder(done.folder).image_split.path
        assert len(list(place.glob("jobs/*/*/job.json"))) == len(list(done.folder.glob("jobs/*/*/job.json"))) == 4
        assert not (place / "tiles").exists()
        sides = told(place, "splits.json")["subjects"]
        assert len(sides) == 48
        table = pd.read_parquet(place / "predictions.parquet")
        assert set(table["subject"]) == set(sides)
        assert "for comparison only" in told(place, "study.json")["title"]
        seen = told(place / "jobs" / "test_resnet" / "fold1", "model.json")
        trained_on = {name for name, side in sides.items() if side not in ("test", 1)}
        # people, so that whom it has seen can be compared with those of any other study
        assert seen["subjects"] == sorted({name.rpartition(" image ")[0] for name in trained_on})
        assert set(seen["subjects"]) <= set(told(done.folder, "splits.json")["subjects"])
        assert seen["comparison_only"] is True

    def test_its_networks_are_nobodys_first_weights(self, done: Run) -> None:
        network, place = build_network("test_resnet", 1), Path("jobs") / "test_resnet" / "fold1"
        with pytest.raises(WeightsError, match="for comparison only, on images split as if each showed another"):
            load_weights(network, f"bundle:{RunFolder(done.folder).image_split.path / place}")
        assert "comparison_only" not in told(done.folder / place, "model.json")
        assert load_weights(network, f"bundle:{done.folder / place}")[1] == sorted(
            name for name, side in told(done.folder, "splits.json")["subjects"].items() if side == 2
        )

    def test_run_again_trains_nothing(self, done: Run, chests: Path) -> None:
        jobs = list(done.folder.glob("**/job.json"))
        before = {path: path.stat().st_mtime_ns for path in jobs}
        study = build_study(told(done.folder, "study.json"), source="again", folder=chests.parent)
        again = run(study, done.folder)
        assert again.results == done.results
        assert {path: path.stat().st_mtime_ns for path in jobs} == before


@pytest.mark.slow
def test_what_is_recognised_is_claimed_and_what_is_shown_is_nothing(tmp_path: Path) -> None:
    """Biopsies whose subjects can be told by their stain, and whose labels have nothing to do with what they show."""
    drawn: dict[str, Any] = {"subjects": 16, "images": 12, "size": (96, 96), "mpp": 1.0, "seed": 3}
    drawn |= {"classes": ("normal", "late"), "labels": "shuffled", "stains": "own"}
    table = make_regions(tmp_path / "skin", **drawn)
    recipe = {"epochs": 20, "batch_size": 24, "optimizer": "adamw", "lr": 0.01, "label_smoothing": 0}
    study = chest_study(
        table,
        {"classes": ["normal", "late"], "positive": "late"},
        split={**BY_IMAGE, "test": 0, "restarts": 50},
        images={"size": 32, "channels": "rgb"},
        panels={"flip": "both"},
        recipe=recipe | {"early_stopping": {"monitor": "none"}},
        evaluation={"bootstrap_resamples": 500},
    )
    found = run(study, tmp_path / "run")
    own, other = (found.results.figures.of("oof", "test_resnet", "label", of) for of in ("", IMAGES))
    assert other["accuracy"]["value"] >= 0.9
    assert other["auroc"]["low"] > 0.9
    for metric in ("accuracy", "auroc"):
        assert own[metric]["low"] <= 0.5 <= own[metric]["high"]
    assert own["auroc"]["high"] < other["auroc"]["low"]
    assert found.results["image_split"]["subjects_on_both_sides"] == 16
