"""Planned recipes: when there is one, what it depends on, and the weighted mean that a planned study reports."""

import itertools
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import casewise
from casewise.console import Silent
from casewise.errors import RunError, StudyError
from casewise.jobs.compute_plans import Pace
from casewise.jobs.execution import measured_paces
from casewise.modalities.photographs.modality import planned_size
from casewise.models.encoders import build_encoder, encoder_facts
from casewise.pipeline.budget import RunCases, Speed, with_forecast
from casewise.pipeline.encoder_plan import fitting_seconds, planned_encoders
from casewise.pipeline.plan_in_words import forecast_in_words, stated_in_words
from casewise.pipeline.read import validate
from casewise.pipeline.recipe_plan import (
    Forecast,
    PlanFacts,
    RecipePlan,
    _flips,
    mirrored,
    planned_flips,
    recipe_of,
)
from casewise.plugins.phantoms.chest import make_chest
from casewise.predictions.stacking import weights_of_numbers
from casewise.run import train_only
from casewise.run_folder import RunFolder
from casewise.study.loading import read_study
from casewise.study.schema import Recipe, Study
from tests.chest_study import PLANNED

STUDY = f"name: planned{PLANNED}"


def study_of(**values: Any) -> Study:
    return Study.model_validate({"name": "a", "cohort": "a.csv", "targets": {"x": {"range": "0..4"}}, **values})


def facts(**changes: Any) -> PlanFacts:
    usual: dict[str, Any] = {"images": 1000, "panels": 1000, "folds": 5, "budget": 1800, "size": 224}
    usual |= {"flips": "none", "encoders": [], "noun": "images"}
    return PlanFacts(**(usual | changes))


def test_a_study_without_recipe_and_networks_is_planned() -> None:
    study = study_of()
    assert study.recipe.auto
    assert (study.backbones, study.stack, study.stack_baselines) == (["mobilenet_v2"], ["weighted"], True)
    assert study.learners == ["linear_pixels", "linear_features", "kernel_features", "mobilenet_v2"]
    assert study_of(weights="random").learners == ["linear_pixels", "cnn"]
    assert not study_of(backbones=["resnet18"]).recipe.auto
    assert study_of(backbones=["resnet18"], recipe="auto").recipe.auto
    assert study_of(backbones=["resnet18"]).learners == ["linear_pixels", "linear_features", "resnet18"]
    assert not study_of(backbones=["resnet18"]).stack_baselines
    stated = study_of(recipe={"epochs": 20}, backbones=["cnn"])
    assert stated.recipe == Recipe(epochs=20)
    assert "epochs 20" in stated_in_words(stated)


def test_planned_grades_are_decided_by_the_rounded_mean() -> None:
    grade = {"kind": "ordinal", "range": "0..4"}
    assert study_of(targets={"x": grade}).decisions == {"x": "mean"}
    assert study_of(targets={"x": {**grade, "decision": "median"}}).decisions == {"x": "median"}
    assert study_of(targets={"x": grade}, backbones=["resnet18"]).decisions == {"x": "median"}
    assert study_of().decisions == {}


def test_targets_with_sides_are_not_mirrored() -> None:
    sided = {name: {"range": "0..3"} for name in ("zone_A", "zone_B")}
    store: Any = SimpleNamespace(tiles=np.zeros((4, 3, 8, 8), np.uint8))
    for targets, flips in ((sided, "none"), ({"scaling": {"range": "0..4"}}, "horizontal")):
        study = study_of(targets=targets, primary_outcome=next(iter(targets)))
        assert _flips(study, store, np.arange(4)) == flips


@pytest.mark.parametrize(
    ("stated", "flips", "expected"),
    [({}, "horizontal", True), ({}, "none", False), ({"test_time_augmentation": False}, "both", False)],
)
def test_predictions_are_mirrored_where_training_is(stated: dict[str, Any], flips: str, expected: bool) -> None:
    assert mirrored(study_of(**stated), facts(flips=flips)) is expected


@pytest.mark.plugins("slides")
def test_images_without_an_upright_position_are_flipped_both_ways() -> None:
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (400, 1, 32, 32), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 200, 32).astype(np.uint8), (400, 1, 32, 32))
    across, rows = (texture // 6 + ramp).astype(np.uint8), np.arange(400)
    assert (planned_flips(texture, rows, 0), planned_flips(across, rows, 0)) == ("both", "both")
    assert planned_flips(across.transpose(0, 1, 3, 2), rows, 0) == "horizontal"
    assert planned_flips(texture[:5], np.arange(5), 0) == "horizontal"
    assert recipe_of(study_of(), facts(flips="both"), {})["pool"] == "average"
    scans = study_of(columns={"visit": ""}, volumes={"sequences": ["t1"]})
    pools = [
        recipe_of(study, facts(flips=flips), {})["pool"]
        for study, flips in (
            (study_of(), "horizontal"),
            (scans, "none"),
            (scans, "both"),
            (study_of(weights="random"), "none"),
        )
    ]
    assert pools == ["average", "map", "average", "map"]


def test_images_are_as_large_as_their_files_and_the_time_allow() -> None:
    assert (planned_size([(320, 280)] * 3), planned_size([(90, 100)] * 3)) == (224, 96)
    assert (planned_size([(12, 10)]), planned_size([])) == (32, 224)
    assert (planned_size([(512, 340)] * 1000), planned_size([(512, 340)] * 1001)) == (384, 224)


def test_encoders_are_those_whose_weights_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    study, first = study_of(weights_dir=tmp_path, compute={"device": "cpu"}), ["mobilenet_v2"]
    assert planned_encoders(study, 1000, "none")[0] == first
    best = "vit_small_patch14_dinov2.lvd142m"
    for name in ("shufflenet_v2_x1_0", "densenet121", "tf_efficientnet_lite0.in1k", "tf_efficientnet_lite2.in1k", best):
        save_file({"weight": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    # files that nobody asked for stop no plan: one without its config.json, and a damaged one
    for name in ("MahmoodLab_UNI", "resnet34"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"no weights")
    chosen, others = planned_encoders(study, 1000, "none")
    assert chosen == [*first, best, "tf_efficientnet_lite2.in1k"]  # one of a family
    assert {"hf-hub:MahmoodLab/UNI", "resnet34", "shufflenet_v2_x1_0"} <= others.keys()
    # what takes longer than its share of the budget is left out, the most expensive first
    assert planned_encoders(study, 30_000, "both")[0] == first
    assert best not in planned_encoders(study, 5000, "both")[0]
    # so does a slow computer's, and the time in which the baselines are fitted
    assert planned_encoders(study, 1000, "none", slow=500)[0] == first
    assert planned_encoders(study, 1000, "none", fits=2_000)[0] == first
    off = {"off": "too many cases"}
    assert planned_encoders(study.model_copy(update={"encoders": ["densenet121"]}), 1, "none") == (["densenet121"], {})
    for stated in ({"weights": "random"}, {"baselines": off}):
        assert planned_encoders(study_of(weights_dir=tmp_path, **stated), 1000, "none") == ([], {})


def test_the_time_of_fits_grows_with_rows_classes_and_folds() -> None:
    study = study_of()
    seconds = fitting_seconds(study, 1000, 5)
    assert fitting_seconds(study, 2000, 5) == pytest.approx(2 * seconds)
    assert fitting_seconds(study, 100, 5) == pytest.approx(seconds / 50)  # fewer rows than directions
    assert fitting_seconds(study, 100_000, 5) == fitting_seconds(study, 50_000, 5)  # fitted to a sample
    assert fitting_seconds(study_of(targets={"x": {"classes": ["a", "b", "c"]}}), 1000, 5) == pytest.approx(3 * seconds)
    assert fitting_seconds(study_of(final="refit"), 1000, 5) == pytest.approx(6 / 5 * seconds)


def test_stated_pretrained_weights_are_downloaded_by_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("CASEWISE_WEIGHTS", raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    best, asked = "vit_large_patch14_dinov2.lvd142m", []

    def download(source: object, name: str) -> tuple[str, dict[str, torch.Tensor]]:
        asked.append(name)
        if name != best:
            raise OSError("no route to host")
        return name, {}

    monkeypatch.setattr("casewise.models.sources.timm._Timm.download", download)
    study = study_of(compute={"device": "cpu"}, weights="pretrained")
    assert planned_encoders(study_of(compute={"device": "cpu"}), 1000, "none", download=True)[0] == ["mobilenet_v2"]
    assert asked == []
    assert best in planned_encoders(study, 1000, "none")[0]  # what a run will download
    assert asked == []
    chosen, others = planned_encoders(study, 1000, "none", download=True)
    # the second download fails, so that no third one is tried
    assert (chosen, asked) == (["mobilenet_v2", best], [best, "tf_efficientnet_lite2.in1k"])
    assert "no route to host" in others["tf_efficientnet_lite2.in1k"]
    assert {"hf-hub:MahmoodLab/UNI", "resnet34"} <= others.keys()


def test_weights_of_numbers_minimise_the_absolute_error() -> None:
    random = np.random.default_rng(2)
    truth, errors = random.normal(size=60), random.standard_t(2, size=60)
    predicted = np.stack([truth + 0.4 * errors, truth - 0.8 * errors + 0.1 * random.normal(size=60)], axis=1)
    weights, shares = weights_of_numbers(predicted, truth, np.arange(60)), np.linspace(0, 1, 2001)
    errors = np.abs(predicted @ np.stack([shares, 1 - shares]) - truth[:, None]).mean(axis=0)
    assert np.abs(predicted @ weights - truth).mean() < errors.min() + 1e-4
    assert weights_of_numbers(np.zeros((12, 2)), np.zeros(12), np.arange(12)).sum() == 1


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, chests: Path) -> Any:
    folder = tmp_path_factory.mktemp("planned")
    (folder / "study.yaml").write_text(STUDY.format(cohort=chests))
    return casewise.run(folder / "study.yaml", folder / "run")


def test_a_planned_run_reports_the_weighted_mean(planned: Any) -> None:
    folder = RunFolder(planned.folder)
    assert planned.results["main"]["learner"] == "meta_learner_weighted"
    assert planned.results["main"]["chosen_on"] == "stated"
    assert folder.metrics.read()["against_baselines"]["baseline"] == "linear_pixels"
    weights = folder.stackers.read()["meta_learner_weighted"]["label"]["weights"]
    assert set(weights) == {"linear_pixels", "cnn"}
    assert np.isclose(sum(weights.values()), 1)
    assert "linear model on pixels" in planned.report.read_text().partition('<section id="classes"')[0]
    pasted = casewise.read_study(folder.path.parent / "study.yaml")
    assert pasted.recipe.auto


def test_the_plan_can_be_pasted_into_a_study(planned: Any, tmp_path: Path, chests: Path) -> None:
    plan = yaml.safe_load(RunFolder(planned.folder).plan_page.path.read_text())
    stated = yaml.safe_load(STUDY.format(cohort=chests))
    del stated["images"]  # so that its size comes from the plan
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(stated | plan))
    study = read_study(tmp_path / "study.yaml")
    assert not study.recipe.auto
    pasted, ran = (each.model_dump(mode="json") for each in (study, planned.study))
    ran["recipe"]["auto"] = False  # which also keeps the budget of the study from being refused
    assert pasted == ran


@pytest.mark.parametrize(
    "stated",
    [{"epochs": 20}, {"dropout": 0.0, "pool": "average"}, {"optimizer": "sgd", "early_stopping": {"patience": 5}}],
)
def test_stated_settings_replace_planned_ones(stated: dict[str, Any]) -> None:
    study, all_planned = study_of(recipe=stated, weights="random"), recipe_of(study_of(weights="random"), facts(), {})
    assert (study.recipe.auto, study.networks, study.stack) == (True, ["cnn"], ["weighted"])
    assert study.recipe.stated == stated
    recipe = recipe_of(study, facts(), stated)
    planned = Recipe.model_validate({**recipe, "auto": True})
    assert [phase.epochs for phase in planned.phases] == [stated.get("epochs", all_planned["phases"][0]["epochs"])]
    assert {name: recipe[name] for name in stated if name != "epochs"} == {
        name: value for name, value in stated.items() if name != "epochs"
    }
    # the rate depends on the number of steps
    rest = set(all_planned) - set(stated) - {"lr", "phases"}
    assert {name: recipe[name] for name in rest} == {name: all_planned[name] for name in rest}


def test_a_run_keeps_stated_settings_and_records_them(tmp_path: Path, chests: Path) -> None:
    text = STUDY.format(cohort=chests) + "baselines: {'off': a test of networks}\nrecipe: {dropout: 0.1}\n"
    (tmp_path / "study.yaml").write_text(text)
    settings = ["recipe.epochs=1", "evaluation.counterfactual_cases=0"]
    study = read_study(tmp_path / "study.yaml", settings=settings)
    finished = casewise.run(study, tmp_path / "run")
    folder = RunFolder(finished.folder)
    planned = folder.recipe_plan.read()
    assert planned["stated"] == {"epochs": 1, "dropout": 0.1}
    saved = folder.study.read()["recipe"]
    assert (saved["dropout"], [phase["epochs"] for phase in saved["phases"]]) == (0.1, [1])
    assert saved["optimizer"] == "adamw"
    assert folder.finished_jobs("cnn")
    casewise.open_run(folder.path)  # nothing that the metrics were computed from has changed since
    page = folder.plan_page.path.read_text()
    assert "stated: epochs 1, dropout 0.1" in page
    assert not read_study(_written(tmp_path / "pasted.yaml", text, page)).recipe.auto
    with pytest.MonkeyPatch.context() as patch:
        for step in ("read.prepare", "audit.audit"):
            patch.setattr(f"casewise.pipeline.{step}", lambda *given: pytest.fail("begun before the refusal"))
        with pytest.raises(RunError, match=r"recipe\.epochs was 1"):
            casewise.run(read_study(tmp_path / "study.yaml", settings=settings[1:]), folder.path)
        with pytest.raises(RunError, match=r"budget was 1min and is 3min .`--budget 1min`"):
            casewise.run(read_study(tmp_path / "study.yaml", settings=[*settings, "budget=3min"]), folder.path)
    assert folder.recipe_plan.read() == planned
    with pytest.raises(RunError, match=r"and \d+ more\. .*`study.json`: give the study file"):
        casewise.run(read_study(folder.study.path), folder.path)
    late = read_study(tmp_path / "study.yaml", settings=["recipe.warmup=30", "recipe.schedule=cosine"])
    with pytest.raises(StudyError, match="warmup: 30 epochs"):
        casewise.run(late, tmp_path / "other")


def _written(path: Path, text: str, page: str) -> Path:
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | yaml.safe_load(page)))
    return path


def test_labels_of_a_held_out_fold_do_not_affect_its_learners(tmp_path: Path, chests: Path) -> None:
    """With permuted labels of a fold, its plan, baseline and network are the same to the bit; others are not."""
    first, second = _told_and_permuted(STUDY, ["linear_pixels", "cnn"], tmp_path, chests)
    assert first.recipe_plan.read() == second.recipe_plan.read()
    train_only(tmp_path / "told.yaml", ["cnn"], first.path)  # which may be continued


@pytest.mark.slow
def test_labels_of_a_held_out_fold_do_not_affect_the_choice_among_features(tmp_path: Path, chests: Path) -> None:
    torch.manual_seed(0)
    body = build_encoder(encoder_facts("timm:test_resnet", tmp_path), 128).network.body
    save_file({name: v.contiguous() for name, v in body.state_dict().items()}, tmp_path / "test_resnet.safetensors")
    study = f"{STUDY}encoders: [timm:test_resnet]\nweights_dir: {tmp_path}\nbackbones: []\n"
    _told_and_permuted(study, ["linear_features", "kernel_features"], tmp_path, chests)


def _told_and_permuted(study: str, learners: list[str], tmp_path: Path, chests: Path) -> list[RunFolder]:
    """Two runs, the second with permuted labels of fold 1; compares the weights of both folds."""
    table = pd.read_csv(chests, dtype=str, keep_default_na=False)
    table["path"] = [str(chests.parent / path) for path in table["path"]]
    table["side"] = ["1" if number % 2 else "2" for number in range(len(table))]
    runs = []
    for name in ("told", "permuted"):
        held_out = table.index[table["side"] == "1"]
        if name == "permuted":
            labels = table.loc[held_out, "label"].to_numpy()
            table.loc[held_out, "label"] = np.roll(labels, 1)
            assert (table.loc[held_out, "label"].to_numpy() != labels).any()
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        text = study.format(cohort=tmp_path / f"{name}.csv").replace("test: 0, folds: 2, restarts: 20", "column: side")
        (tmp_path / f"{name}.yaml").write_text(text)
        train_only(tmp_path / f"{name}.yaml", learners, tmp_path / name)
        runs.append(RunFolder(tmp_path / name))
    for learner in learners:
        for fold, same in ((0, True), (1, False)):
            first, second = (load_file(run.job(learner, fold).weights.path) for run in runs)
            equal = first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
            assert equal == same
    return runs


OTHERS = """
baselines: {{'off': a test of the budget}}
recipe: {{batch_size: 12}}
external: {{cohort: {external}, subjects: distinct, pretraining_subjects: distinct}}
pretrain: {{cohort: {other}, subjects: shared, targets: {{label: [no_finding, covid, pneumonia]}}, epochs: 2}}
"""


def test_epochs_fit_into_the_budget_and_a_continued_run_keeps_them(
    tmp_path: Path, chests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    external, other = (make_chest(tmp_path / str(n), subjects=8, size=(64, 64), seed=n) for n in (2, 3))
    text = STUDY.format(cohort=chests) + OTHERS.format(external=external, other=other)
    (tmp_path / "study.yaml").write_text(text)
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    monkeypatch.setattr("casewise.pipeline.external.twins_between", lambda *given, **options: [])

    def train_by_stated_clocks(run: RunFolder) -> None:
        seconds = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr("casewise.jobs.compute_plans.clock", lambda: float(next(seconds)))
            patch.setattr("casewise.jobs.compute_plans.work", lambda: float(next(seconds)))
            patch.setattr("casewise.pipeline.budget.clock", iter([100.0, 105.0]).__next__)
            patch.setattr("casewise.jobs.execution.measured_paces", measured_paces)
            train_only(tmp_path / "study.yaml", ["cnn"], run.path)

    with monkeypatch.context() as patch:
        patch.setattr("casewise.jobs.execution.run_jobs", lambda *given, **options: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            train_by_stated_clocks(folder)
    # two jobs one after another: 2 s, 12 panels of 1/12 s an epoch, and 36 predictions of 1/12 s
    parts = {"pretraining": 2 * 8 * 2 / 8, "external": 2 * (8 / 12 + 0.1)}
    forecast = Forecast(before=5.0, once=10.0, epoch=2.0, after=4.12, epochs=16, reason="fit", **parts)
    assert folder.recipe_plan.read()["forecast"] == pytest.approx(asdict(forecast))
    assert forecast.total < 60 < forecast.total + 2 * forecast.epoch + 3
    monkeypatch.setattr("casewise.jobs.execution.measured_paces", lambda *given: pytest.fail("measured again"))
    train_only(tmp_path / "study.yaml", ["cnn"], folder.path)
    assert [job.record.read()["epochs"] for job in folder.finished_jobs("cnn")] == [16, 16]
    assert yaml.safe_load(folder.plan_page.path.read_text())["recipe"]["phases"][0]["epochs"] == 16
    assert not list(folder.path.rglob("trial*"))
    train_by_stated_clocks(whole)
    for fold in range(2):
        first, second = (load_file(run.job("cnn", fold).weights.path) for run in (folder, whole))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_baselines_of_folds_side_by_side_take_their_measured_time() -> None:
    """An external cohort of 30 panels: five folds, two of them at once, each panel read twice in 4 s."""
    study = study_of(evaluation={"counterfactual_cases": 0})
    plan = RecipePlan(facts(), recipe_of(study, facts(), {}, 8), {})
    cohort: Any = SimpleNamespace(panels=range(1000), cases=range(1000))
    cases = RunCases(cohort, SimpleNamespace(), external=30)
    pace = {"mobilenet_v2": Pace(start=0.0, once=0.0, epoch=1e-6, predict=0.1)}

    def seconds(**measured: Any) -> float:
        forecast = with_forecast(study, plan, cases, Speed(0.0, pace, 2, 1.0, **measured)).forecast
        assert forecast is not None
        return forecast.external

    networks = 5 * (30 * 0.1 + 0.1)
    assert seconds(features=4.0, folds=2) == pytest.approx(networks + 3 * (30 * 2 * 4 + 3 * 0.1))
    assert seconds(features=4.0, folds=1) == pytest.approx(networks + 5 * (30 * 2 * 4 + 3 * 0.1))
    assert seconds() > networks


def test_a_run_whose_networks_are_left_out_has_an_expected_time() -> None:
    forecast = Forecast(700.0, 0.0, 0.0, 7.0, 0, "left", altered=180.0, altered_cases=29, needed=1597.0)
    words = forecast_in_words(forecast, facts(budget=900.0))
    assert "could not be measured" not in words
    assert "expected: 14 min 47 s" in words
    assert "26 min 37 s would be enough" in words
    unmeasured = forecast_in_words(replace(forecast, reason="fewest", epochs=1), facts(budget=900.0))
    assert "could not be measured" in unmeasured


def test_validate_names_the_encoders_of_a_plan(tmp_path: Path, chests: Path) -> None:
    text = f"{STUDY.format(cohort=chests).replace('weights: random', '')}weights_dir: {tmp_path}\n"
    (tmp_path / "study.yaml").write_text(text)
    for name in ("mobilenet_v2", "squeezenet1_1"):
        state = build_encoder(encoder_facts(name, tmp_path), 64).network.body.state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / f"{name}.safetensors")
    lines = [line for line in validate(read_study(tmp_path / "study.yaml"), Silent()) if line.startswith("encoder")]
    assert [line.split()[1] for line in lines[:2]] == ["mobilenet_v2:", "squeezenet1_1:"]
    assert "vit_small_patch14_dinov2.lvd142m" in "".join(lines[2:])
