"""Nested cross-validation: what inner folds choose, that nothing of a tested fold reaches them, and what it leaves."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from casewise.cohort.cohort import Cohort
from casewise.console import Silent
from casewise.errors import RunError, SplitError, TrainingError
from casewise.inference.model import load_bundle
from casewise.inference.run_members import job_fingerprint
from casewise.jobs import fitting
from casewise.jobs.fitting import pretrain
from casewise.jobs.job import JobInputs, run_job
from casewise.jobs.plan import Job, deciding_settings, lock_fingerprint
from casewise.modalities.base import StoreAddress
from casewise.pipeline.read import prepare, read
from casewise.pipeline.read import split as split_step
from casewise.plugins.published import inner_folds
from casewise.predictions.nested_cv import NESTED
from casewise.run import Run, run, train_only
from casewise.run_folder import JobFolder, RunFolder
from casewise.splits.grouped import Splits, split
from casewise.splits.learnable import check_learnable
from casewise.study.loading import build_study
from casewise.study.schema import Study
from casewise.training.compute_plan import ComputePlan
from tests.chest_study import THREE, chest_study

SliceStore = pytest.importorskip("casewise.plugins.volumes.slice_store").SliceStore

RECIPE = {"epochs": 3, "schedule": "cosine", "early_stopping": {"monitor": "none"}, "label_smoothing": 0.0}
NETWORKS = ["test_resnet", "test_efficientnet"]
RATES = [0.01, 0.001]
SMALL: dict[str, Any] = {"name": "nested", "images": {"size": 32, "channels": "grey"}, "split": {"column": "fold"}}
SMALL |= {"targets": {"label": ["a", "b"], "size": "0..10"}, "primary_outcome": "label"}
SMALL |= {"panels": {"by": "image", "flip": "horizontal"}, "nested_cv": {"folds": 2, "lr": [0.01, 0.001]}}
SMALL |= {"baselines": {"off": "tests of networks"}, "backbones": ["test_resnet"], "weights": "random"}
SMALL |= {"recipe": {**RECIPE, "batch_size": 4, "lr": 0.01, "optimizer": "adam", "imbalance": "weights"}}
SMALL |= {"evaluation": {"response": False, "bootstrap_resamples": 100}, "compute": {"save_every": 0}}


def small_study(table: Path, **changes: Any) -> Study:
    return build_study({**SMALL, "cohort": table, **changes}, source="the test's study", folder=table.parent)


def small_table(folder: Path, changed: tuple[str, ...] = ()) -> Path:
    """12 subjects in 3 given folds; of those `changed` other pixels and other labels."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(12):
        name, drawn = f"S{number:02}", np.random.default_rng(number)
        other = name in changed
        pixels = drawn.integers(0, 255, (32, 32)) if not other else 200 + drawn.integers(0, 9, (32, 32))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
        label, size = "ab"[(number + other) % 2], 10 - number % 5 if other else number % 7
        rows.append({"path": f"{name}.png", "subject": name, "label": label, "size": size, "fold": number // 2 % 3 + 1})
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def material_of(study: Study, folder: Path) -> JobInputs:
    cohort = read(study, RunFolder(folder), Silent())
    tiles = prepare(study, cohort, RunFolder(folder), Silent())
    splits = split_step(study, cohort, RunFolder(folder), Silent())
    return JobInputs(study, cohort, splits, StoreAddress(tiles.folder, tiles.address))


def trained(material: JobInputs, folder: Path, fold: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record and the weights of one job."""
    job = JobFolder(folder)
    run_job(Job(material.study.networks[0], fold, job, "the test's"), material, ComputePlan())
    return job.record.read(), load_file(job.weights.verified())


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    inner = record["inner"]
    return {**inner, "trainings": [{k: v for k, v in t.items() if k != "seconds"} for t in inner["trainings"]]}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("jobs/*/*/job.json"))]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Run:
    changes: dict[str, Any] = {"images": {"size": 32}, "recipe": RECIPE, "nested_cv": {"folds": 2, "lr": RATES}}
    changes |= {"backbones": NETWORKS, "stack": ["mean"]}
    return run(chest_study(chests, **changes), tmp_path_factory.mktemp("nested") / "run")


class TestRun:
    def test_inner_trainings_see_nobody_who_is_tested(self, done: Run) -> None:
        splits, found = json.loads((done.folder / "splits.json").read_text())["subjects"], records(done.folder)
        assert len(found) == 4
        by_fold: dict[int, list[Any]] = {}
        for record in found:
            tested = {s for s, side in splits.items() if side in ("test", record["fold"])}
            learned, trainings = set(splits) - tested, record["inner"]["trainings"]
            assert [(t["lr"], t["fold"]) for t in trainings] == [(rate, k) for rate in RATES for k in (1, 2)]
            for training in trainings:
                fitted, judged = (training[side]["subjects"] for side in ("fitted_on", "judged_on"))
                assert not set(fitted) & set(judged)
                assert set(fitted) | set(judged) == learned
                assert not tested & {*fitted, *judged}
                assert training["judged_on"]["hash"] == hashlib.sha256(json.dumps(judged).encode()).hexdigest()
                by_fold.setdefault(record["fold"], []).append(judged)
        for judged in by_fold.values():  # both networks and both rates were judged on the same inner folds
            assert len({tuple(part) for part in judged}) == 2

    def test_the_lowest_mean_inner_loss_is_taken(self, done: Run) -> None:
        for record in records(done.folder):
            inner = record["inner"]
            losses = [[t["losses"] for t in inner["trainings"] if t["lr"] == rate] for rate in RATES]
            means = np.array([np.mean(of_rate, axis=0) for of_rate in losses])
            rate, epoch = np.unravel_index(means.argmin(), means.shape)
            chosen = inner["chosen"]
            assert (chosen["lr"], chosen["epochs"]) == (RATES[rate], epoch + 1)
            assert chosen["loss"] == pytest.approx(means.min())
            assert record["epochs"] == len(record["history"]) == chosen["epochs"]
            # the rate falls as over all epochs, though training ends sooner
            rates = [entry["lr"] for entry in record["history"]]
            assert rates == pytest.approx([chosen["lr"] * 0.5 * (1 + np.cos(np.pi * e / 3)) for e in range(len(rates))])

    def test_nested_predicts_each_fold_by_its_own_network(self, done: Run) -> None:
        told = json.loads((done.folder / "nested.json").read_text())
        losses = {(r["model"], r["fold"]): r["inner"]["chosen"]["loss"] for r in records(done.folder)}
        table, values = done.rows, ["y_pred", "p0", "p1", "p2"]
        for fold in (1, 2):
            network = min(NETWORKS, key=lambda name: losses[name, fold])
            assert told["folds"][str(fold)]["network"] == network
            rows = table[(table["stage"] == "oof") & (table["outer_fold"] == fold)].set_index("case")
            assert rows[rows["model"] == NESTED][values].equals(rows[rows["model"] == network][values])
        network = min(NETWORKS, key=lambda name: losses[name, 1] + losses[name, 2])
        assert told["final"]["network"] == network
        rows = table[table["stage"] == "test"].set_index("case")
        assert len(rows[rows["model"] == NESTED])
        assert rows[rows["model"] == NESTED][values].equals(rows[rows["model"] == network][values])

    def test_the_bundle_predicts_with_the_network_chosen_inside(self, done: Run, chests: Path) -> None:
        model = load_bundle(done.folder / "bundle")
        assert model.headline == "nested"
        tested = done.rows[(done.rows["stage"] == "test") & (done.rows["model"] == "nested")]
        cases = pd.read_csv(chests)
        cases = cases[cases["subject"].astype(str).isin(set(tested["subject"]))]
        new = model.predict(cases, learner="headline", root=chests.parent).set_index("case")
        for code, name in enumerate(THREE):
            assert np.allclose(new.loc[tested["case"], f"probability of {name}"], tested[f"p{code}"], atol=1e-6)

    def test_the_headline_is_of_the_learner_chosen_inside(self, done: Run) -> None:
        main = done.results["main"]
        assert (main["learner"], main["chosen_on"]) == (NESTED, "inner folds")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobInputs, dict[str, Any], dict[str, Any], Path]:
    """A small cohort, and the record and weights of its first fold's network."""
    place = tmp_path_factory.mktemp("plain")
    material = material_of(small_study(small_table(place / "cohort")), place / "run")
    return material, *trained(material, place / "job"), place


class TestNothingLeaks:
    def test_other_pixels_and_labels_of_a_tested_fold_change_no_bit(self, plain: Any, tmp_path: Path) -> None:
        material, record, weights, _ = plain
        tested = tuple(material.splits.held_out(0))
        assert len(tested) == 4
        other = material_of(small_study(small_table(tmp_path / "cohort", changed=tested)), tmp_path / "run")
        assert other.store.address != material.store.address
        again, others = trained(other, tmp_path / "job")
        assert without_times(again) == without_times(record)
        assert same(others, weights)

    def test_those_of_a_training_subject_do(self, plain: Any, tmp_path: Path) -> None:
        material, record, weights, _ = plain
        learned = material.splits.training(0)[0]
        other = material_of(small_study(small_table(tmp_path / "cohort", changed=(learned,))), tmp_path / "run")
        again, others = trained(other, tmp_path / "job")
        assert without_times(again) != without_times(record)
        assert not same(others, weights)

    def test_intensities_are_those_of_the_inner_training(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def first(changed: tuple[int, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
            store = volumes(changed)
            monkeypatch.setattr("casewise.plugins.volumes.modality.open_slices", lambda folder, address: store)
            study, cohort = volume_study(), volume_cohort()
            splits = Splits({f"S{n:02}": n % 3 for n in range(12)}, 3, {})
            return trained(JobInputs(study, cohort, splits, StoreAddress(tmp_path, "")), tmp_path / f"{len(changed)}")

        fitted: list[list[int]] = []
        original = fitting.fit_preprocessing

        def spied(*args: Any, **named: Any) -> Any:
            fitted.append([int(row) for row in args[2]])
            return original(*args, **named)

        monkeypatch.setattr(fitting, "fit_preprocessing", spied)
        record, weights = first()
        told = [[int(s[1:]) for s in t["fitted_on"]["subjects"]] for t in record["inner"]["trainings"]]
        assert fitted[:-1] == told  # the last one is that of the job
        again, others = first((0, 3, 6, 9))
        assert without_times(again) == without_times(record)
        assert same(others, weights)
        again, _ = first((1,))
        assert without_times(again) != without_times(record)


def volumes(changed: tuple[int, ...]) -> SliceStore:
    """12 cases of 9 slices; those `changed` are darker and have other landmarks."""
    drawn = np.random.default_rng(1)
    slices = drawn.integers(0, 30000, (12 * 9, 1, 16, 16), dtype=np.uint16)
    marks = np.sort(drawn.uniform(0, 32000, (12, 1, 11)), axis=2).astype(np.float32)
    for case in changed:
        slices[case * 9 : case * 9 + 9] //= 3
        marks[case] /= 2
    first, present = np.arange(12) * 9, np.ones((12, 1), dtype=bool)
    return SliceStore(slices, first, np.full(12, 9), present, marks, np.tile(np.eye(4), (12, 1, 1)), [], "", Path())


def volume_study() -> Study:
    values = SMALL | {"images": {"size": 16}, "panels": {"by": "case", "grid": "3x3", "flip": "horizontal"}}
    values |= {"targets": {"label": ["a", "b"]}, "volumes": {"sequences": ["T2"]}}
    values |= {"split": {"folds": 3, "test": 0}, "cohort": "cohort.csv"}
    return build_study(values, source="the test's study", folder=Path.cwd())


def volume_cohort() -> Cohort:
    names = [f"S{n:02}" for n in range(12)]
    facts = {"case": [f"{n}/1" for n in names], "subject": names, "visit": "1", "day": np.nan, "region": ""}
    panels = pd.DataFrame({"panel": range(12), **facts, "tiles": [[n] for n in range(12)]})
    panels["label"] = [float(n // 3 % 2) for n in range(12)]
    return Cohort(panels.drop(columns="tiles"), panels, panels)


class TestChoosing:
    def test_a_rate_without_a_loss_is_out(self, plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        material, _, _, _ = plain
        learn = inner_folds.learn

        def diverging(*args: Any) -> Any:
            if args[1].lr == 0.01:
                raise TrainingError("test_resnet: the loss is no longer a number")
            return learn(*args)

        monkeypatch.setattr(inner_folds, "learn", diverging)
        record, _ = trained(material, tmp_path / "job")
        assert record["inner"]["chosen"]["lr"] == 0.001
        assert record["inner"]["rates"][0] == {"lr": 0.01, "epochs": None, "loss": None}
        one_rate = material.study.nested_cv.model_copy(update={"lr": [0.01]})
        alone = material.study.model_copy(update={"nested_cv": one_rate})
        with pytest.raises(TrainingError, match=r"inner fold 1, rate 0\.01: test_resnet: the loss is no longer"):
            trained(JobInputs(alone, *list(vars(material).values())[1:]), tmp_path / "other")


class TestRefused:
    def test_a_class_of_fewer_subjects_than_folds(self, tmp_path: Path) -> None:
        rows = pd.read_csv(small_table(tmp_path / "cohort"))
        rows["label"] = ["b" if n < 3 else "a" for n in range(12)]
        rows.to_csv(tmp_path / "cohort" / "cohort.csv", index=False)

        def checked(**changes: Any) -> None:
            study = small_study(tmp_path / "cohort" / "cohort.csv", **changes)
            cohort = read(study, None, Silent())
            check_learnable(split(cohort, study), cohort.panels, study)

        with pytest.raises(SplitError, match="class 'b' has 3 subjects, fewer than the 4 outer folds"):
            checked(split={"folds": 4, "test": 0})
        with pytest.raises(SplitError, match=r"class 'b' has 2 of the 8 .* of fold 1, fewer than the 3 inner folds"):
            checked(split={"folds": 3, "test": 0}, nested_cv={"folds": 3})
        checked(split={"folds": 3, "test": 0})
        checked(split={"folds": 4, "test": 0}, nested_cv=None)


def test_pretraining_leaves_out_who_is_judged_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_out: list[set[str]] = []

    def spy(network: Any, pretraining: Any, job: Any, excluded: list[str], *given: Any) -> list[str]:
        kept_out.append(set(excluded))
        before = next(network.body.parameters()).clone()
        used = pretrain(network, pretraining, job, excluded, *given)
        assert not torch.equal(before, next(network.body.parameters()))
        assert not set(used) & kept_out[-1]
        return used

    monkeypatch.setattr("casewise.jobs.fitting.pretrain", spy)
    targets, table = {"size": {"range": (0, 10)}}, small_table(tmp_path / "cohort")
    pretraining = {"cohort": table, "subjects": "shared", "targets": targets, "epochs": 1}
    study = small_study(table, pretrain=pretraining, compute={"jobs": 1, "save_every": 0})
    folder = RunFolder(tmp_path / "run")
    train_only(study, study.networks, folder.path)
    splits, expected = folder.splits.read(), []
    for record in folder.job_records(study.networks):
        held_out = {name for name, side in splits["subjects"].items() if side in ("test", record["fold"])}
        trainings = record["inner"]["trainings"]
        expected += [held_out, *(held_out | set(training["judged_on"]["subjects"]) for training in trainings)]
    assert sorted(map(sorted, kept_out)) == sorted(map(sorted, expected))


class TestFingerprint:
    def test_without_the_record_of_the_run_its_networks_are_compared(self, plain: Any, tmp_path: Path) -> None:
        study, folder = plain[0].study, RunFolder(tmp_path)
        decided = deciding_settings(study, plain[0].cohort) | {"pretraining": None}
        fingerprint, network = lock_fingerprint(folder, decided, study), study.networks[0]
        own = job_fingerprint(fingerprint, study, network, "abc")
        folder.job(network, 0).finish({"model": network, "fold": 1, "fingerprint": own, "first_weights": "abc"})
        folder.fingerprint.path.write_text("{")
        assert lock_fingerprint(folder, decided, study) == fingerprint
        folder.fingerprint.remove()
        with pytest.raises(RunError):
            lock_fingerprint(folder, decided | {"seed": 99}, study)
        assert folder.job(network, 0).record.exists()
