"""Training in phases: frozen parts stay as they are, and working them out once changes nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from casewise.errors import StudyError, TrainingError
from casewise.evaluation.judges import TrainMetrics, right_on
from casewise.modalities.dataset import PanelData
from casewise.models.backbones import Network, build_network
from casewise.models.build_model import check_freeze_points
from casewise.models.outputs import Output, hits, values_of
from casewise.models.shared_parts import predict_together
from casewise.plugins.phantoms.chest import make_chest
from casewise.plugins.published.copies import fixed
from casewise.run import run
from casewise.study.images import BAGS
from casewise.study.recipe import Phase, Recipe
from casewise.study.schema import Panels, Study
from casewise.targets import kind_named
from casewise.training.compute_plan import ComputePlan
from casewise.training.frozen_features import Buffer
from casewise.training.stages import Learned, TrainingContext, learn
from tests.chest_study import chest_study

OUTPUTS = (Output("label", "classification", 2, True),)
STEADY = Panels(by="image", offline_copies=1, flip="both", brightness=0.2)
RECIPE = Recipe(
    optimizer="sgd",
    lr=0.01,
    schedule="constant",
    batch_size=4,
    dropout=0.2,
    early_stopping={"monitor": "none"},
    phases=[Phase(epochs=2, freeze="all"), Phase(epochs=2, freeze="6 layers", lr=0.001)],
)


def data(settings: Panels = STEADY, count: int = 12) -> PanelData:
    drawn, truth = torch.Generator().manual_seed(1), (torch.arange(count) % 2).float().unsqueeze(1)
    store = torch.randint(1, 120, (count, 3, 64, 64), dtype=torch.uint8, generator=drawn)
    store[1::2] += 90
    return PanelData(store, [[i] for i in range(count)], truth, settings, [f"c{i}" for i in range(count)])


def fresh(name: str = "mobilenet_v2") -> Network:
    torch.manual_seed(0)
    return build_network(name, 2, dropout=0.2)


def learned(folder: Path, recipe: Recipe = RECIPE, settings: Panels = STEADY, *, once: bool = True) -> Learned:
    keep = "last" if recipe.early_stopping.monitor == "none" else "best"
    course = TrainingContext(OUTPUTS, folder, 3, ComputePlan(), 0.0, keep, frozen_once=once)
    folder.mkdir(exist_ok=True)
    return learn(fresh(), recipe, data(settings), data(settings, 4), [str(i) for i in range(12)], course)


def test_phases_are_told_with_their_counts(tmp_path: Path) -> None:
    found = learned(tmp_path / "a")
    assert [entry["phase"] for entry in found.history] == [0, 0, 1, 1]
    assert [entry["epoch"] for entry in found.history] == [0, 1, 2, 3]
    head, upper = found.phases
    assert (head["trainable"], head["last_frozen"]) == (2562, "body")
    assert head["trainable"] < upper["trainable"] < 2_226_434
    assert (head["running_statistics"], head["rows"]) == (34112, 24)


def test_panels_that_vary_are_computed_anew(tmp_path: Path) -> None:
    found = learned(tmp_path / "a", settings=Panels(by="image", flip="both"))
    assert "panels vary" in found.phases[0]["way"]
    first = Phase(epochs=1, freeze="all", variations={"flip": "none"})
    still = RECIPE.model_copy(update={"phases": [first, Phase(epochs=1)]})
    found = learned(tmp_path / "b", still, Panels(by="image", flip="both"))
    assert "once" in found.phases[0]["way"]
    assert "all layers" in found.phases[1]["way"]


def test_the_best_of_all_phases_is_kept(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"early_stopping": RECIPE.early_stopping.model_copy(update={"monitor": "inner"})})
    found = learned(tmp_path / "a", recipe)
    assert found.best_loss == min(entry["stop_loss"] for entry in found.history)
    assert found.history[found.best_epoch]["stop_loss"] == found.best_loss


@pytest.mark.parametrize("kind", ["classification", "ordinal"])
def test_hits_decide_as_predictions_do(kind: str) -> None:
    drawn, label = torch.Generator().manual_seed(4), Output("label", kind, 4, True)
    raw = 2 * torch.randn(200, 1 + label.width, generator=drawn)
    truth = torch.stack([torch.rand(200, generator=drawn), torch.randint(4, (200,), generator=drawn).float()], dim=1)
    truth[::7, 1] = float("nan")
    outputs = [Output("extent"), label]
    said = kind_named(kind).decide(values_of(raw, outputs)[:, 1:].double().numpy())
    known = ~truth[:, 1].isnan().numpy()
    right, found = (said == truth[:, 1].numpy())[known], hits(raw, truth, outputs)
    assert found.tolist() == [right.sum(), known.sum()]
    assert 0 < right.sum() < known.sum()


def test_figures_on_those_it_knew_are_kept_and_predictions_are_not(tmp_path: Path) -> None:
    table = make_chest(tmp_path / "films", subjects=12, classes=("no_finding", "covid"), size=(64, 64), seed=2)
    label = {"classes": ["no_finding", "covid"], "positive": "covid"}
    study = chest_study(table, label, images={"size": 32}, split={"test": 0}, audit={"columns": []})
    recipe = Recipe(batch_size=8, schedule="constant", phases=[Phase(epochs=1, freeze="all"), Phase(epochs=1)])
    panels = study.panels.model_copy(update={"offline_copies": 1, "flip": "horizontal"})
    study = study.model_copy(update={"recipe": recipe, "panels": panels})
    done = run(study, tmp_path / "run")
    (first, _) = records = [json.loads(path.read_text()) for path in sorted(done.folder.glob("jobs/*/*/job.json"))]
    assert [phase["freeze"] for phase in first["phases"]] == ["all", "none"]
    for record in records:
        assert record["on_training"]["n"] == record["n_fitted"]  # panels as they are: a copy is none of them
        assert record["on_inner"]["n"] == record["n_stopped"]
        for told in (record["on_training"], record["on_inner"]):
            (right, missed), (wrong, found) = told["confusion"]
            assert right + missed + wrong + found == told["n"]
            assert told["accuracy"] == pytest.approx((right + found) / told["n"])
            for name, count, of in (("sensitivity", found, wrong + found), ("specificity", right, right + missed)):
                assert told[name] == (pytest.approx(count / of) if of else None)
    assert set(done.rows["stage"]) == {"oof"}
    assert not done.rows.duplicated("case").any()
    page = done.report.read_text()
    assert "says nothing about new patients" in page
    assert "all layers computed at every step" in page


def test_nobody_of_a_class_leaves_its_figure_open() -> None:
    study = Study.model_validate(
        {"name": "a", "cohort": "a.csv", "targets": {"label": {"classes": ["no", "yes"], "positive": "yes"}}}
        | {"backbones": ["test_resnet"]}
    )
    numbers = {"y_true": [0.0, 0.0, float("nan"), 3.0], "y_pred": [0, 1, 1, 2]}
    rows = pd.DataFrame({"target": ["label"] * 3 + ["age"], **numbers})
    found = right_on(rows, study)
    assert found == TrainMetrics(0.5, sensitivity=None, specificity=0.5, n=2, confusion=[[1, 1], [0, 0]])
    assert right_on(rows[:0], study) is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 1, "freeze": "10 leyers"}, r"such as features\.6 \(did you mean 'layers'\?\)"),
        ({"epochs": 1, "variations": {"rotat": 3}}, "'rotat'.*Did you mean 'rotate'"),
        ({"epochs": 1, "variations": {"rotate": "lots"}}, "rotate: input should be a valid number.*found 'lots'"),
        ({"epochs": 1, "variations": {"grid": "2x2"}}, "'grid'"),
        ({"epochs": 1, "freeze": "120%"}, "must be none"),
    ],
)
def test_a_phase_that_cannot_be_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Phase.model_validate(wrong)


def test_a_panel_of_more_tiles_than_slots_has_no_copies(tmp_path: Path) -> None:
    many = replace(data(), tiles=[[i, i + 1] if i < 3 else [i] for i in range(12)])
    with pytest.raises(
        TrainingError, match=r"panels\.offline_copies: c0 has 2 tiles, and a panel has 1: .*`by: image`"
    ):
        fixed(many, 1, seed=0, path=tmp_path / "copies.bin", buffer=Buffer(2**20))


@pytest.mark.parametrize(
    ("freeze", "pooling", "cells", "channels_last", "mixup"),
    [
        ("6 layers", "maps", 0, True, 0.0),
        ("all", "attention", 2, False, 0.0),
        ("11 blocks", "mean", -1, True, 0.0),
        ("6 layers", "maps", 0, True, 0.4),
    ],
)
def test_frozen_parts_computed_once(
    tmp_path: Path, freeze: str, cells: int, pooling: Any, channels_last: bool, mixup: float
) -> None:
    settings = Panels(by="case", pooling=pooling, bag=4) if pooling in BAGS else Panels(by="image", pooling=pooling)
    panels = data(settings)
    if settings.bags:
        panels = replace(panels, tiles=[[(i + k) % 12 for k in range(1 + i % 3)] for i in range(12)])
    # batch norm over the few tiles of a bag would make rounding as large as the weights
    changes = {"phases": [Phase(epochs=2, freeze=freeze)], "batch_norm": "keep_statistics", "mixup": mixup}
    recipe = RECIPE.model_copy(update=changes)

    def trained(name: str, *, once: bool) -> tuple[Learned, torch.Tensor]:
        torch.manual_seed(0)
        head = {"map_cells": cells} if cells >= 0 else {"head": "fastai", "dropout": 0.0}
        options = {"pooling": pooling if pooling in BAGS else "", "side": 64, **head}
        network, choice = build_network("mobilenet_v2", 2, **options), ComputePlan(channels_last=channels_last)
        context = TrainingContext(OUTPUTS, tmp_path / name, 3, choice, 0.0, "last", frozen_once=once)
        (tmp_path / name).mkdir()
        result = learn(network, recipe, panels, panels, [str(i) for i in range(12)], context)
        return result, predict_together(
            [result.network], panels, OUTPUTS, batch=4, channels_last=channels_last, flips=False
        )[0][0]

    (once, first), (every_step, second) = trained("once", once=True), trained("every step", once=False)
    ways = ["output of the frozen layers computed once per panel"]
    ways += ["frozen layers computed at every step, since panels are mixed"]
    assert once.phases[0]["way"] == ways[mixup > 0]
    states = once.network.state_dict(), every_step.network.state_dict()
    for (name, value), other in zip(states[0].items(), states[1].values(), strict=True):
        assert torch.allclose(value.double(), other.double(), atol=1e-5), name
    assert torch.allclose(first, second, atol=1e-5)


def test_a_freeze_point_that_no_network_has_is_told_before_anything_is_read(tmp_path: Path) -> None:
    phases = [Phase(epochs=1, freeze="all"), Phase(epochs=1, freeze="99 layers")]
    update = {"backbones": ["mobilenet_v2"], "recipe": Recipe(schedule="constant", phases=phases)}
    study = chest_study(tmp_path / "cases.csv").model_copy(update=update)
    with pytest.raises(StudyError, match=r"phase 2: mobilenet_v2: .*52 layers"):
        check_freeze_points(study)
