"""Progressive image size: phases that train on smaller panels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional

from casewise.errors import StudyError
from casewise.modalities.dataset import PanelData
from casewise.models.backbones import build_network
from casewise.models.build_model import check_freeze_points
from casewise.models.outputs import Output
from casewise.study.loading import build_study
from casewise.study.schema import Panels, Phase, Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.feature_cache import FixedData
from casewise.training.feature_sharing import FeatureStore, SharedFeatures
from casewise.training.fit import TrainingContext
from casewise.training.progressive_size import ReducedData, at_size, reduced
from casewise.training.strategies import Learned, learn

OUTPUTS = [Output("label", "classification", 2, True)]
SMALL_THEN_FULL = Recipe(
    lr=0.01,
    schedule="constant",
    batch_size=8,
    early_stopping={"monitor": "none"},
    phases=[Phase(epochs=2, size=32), Phase(epochs=1)],
)


class KilledError(Exception):
    """Stands for a kill."""


def data(count: int = 12, **settings: Any) -> PanelData:
    generator = torch.Generator().manual_seed(0)
    store = torch.randint(0, 255, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    truth = (torch.arange(count) % 2).float().unsqueeze(1)
    return PanelData(store, [[row] for row in range(count)], truth, Panels(by="image", **settings))


def learned(
    folder: Path,
    recipe: Recipe = SMALL_THEN_FULL,
    *,
    tell: Any = None,
    watched: PanelData | None = None,
    once: bool = True,
    **settings: Any,
) -> Learned:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(5)
    network = build_network("cnn", 2)
    keep: Literal["best", "last"] = "last" if recipe.early_stopping.monitor == "none" else "best"
    context = TrainingContext(OUTPUTS, folder, 3, ComputePlan(), 0.0, keep, tell, once)
    return learn(network, recipe, data(**settings), watched or data(4), [str(i) for i in range(12)], context)


def weights(found: Learned) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in found.network.state_dict().values()])


def test_a_phase_without_a_size_has_the_data_itself() -> None:
    panels = data()
    assert at_size(panels, None, rows=1, columns=1) is panels
    fixed = FixedData(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), torch.zeros(4, 1))
    assert at_size(fixed, None, rows=1, columns=1) is fixed


def test_panels_are_reduced_after_the_same_draws() -> None:
    panels = data(flip="both", rotate=20, brightness=0.2)
    small = at_size(panels, 40, rows=1, columns=1)
    rows, device = [3, 1, 7], torch.device("cpu")
    full, truth = panels.training_batch(rows, torch.Generator().manual_seed(4), device)
    values, labels = small.training_batch(rows, torch.Generator().manual_seed(4), device)
    assert values.shape == (3, 3, 40, 40)
    assert torch.equal(labels, truth)
    assert torch.equal(
        values, functional.interpolate(full, (40, 40), mode="bilinear", antialias=True, align_corners=False)
    )
    slots, _ = small.views()
    assert small.plain_batch(slots[:2], device).shape == (2, 3, 40, 40)
    assert (len(small), small.varied, small.bags, small.settings) == (12, True, False, panels.settings)
    assert small.eval_batch_size(8, torch.device("cpu")) == panels.eval_batch_size(8, torch.device("cpu"))


def test_halving_averages_and_keeps_a_constant_panel() -> None:
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 16, 16)
    halved = reduced(ramp, 8, 8)
    # far from the border every pixel is the mean of the two that it replaces, with weights that fall to both sides
    assert torch.allclose(halved[0, 0, 4, 2:6], torch.tensor([4.5, 6.5, 8.5, 10.5]), atol=1e-5)
    assert torch.allclose(reduced(torch.full((1, 3, 15, 15), 0.25), 7, 7), torch.tensor(0.25))


def test_a_grid_is_reduced_as_a_whole() -> None:
    panels = data(12)
    grid = PanelData(panels.store, [[0, 1], [2, 3]], torch.zeros(2, 1), Panels(by="image", grid="1x2"))
    settings = grid.settings
    small = at_size(grid, 32, rows=settings.rows, columns=settings.columns)
    slots, _ = grid.views()
    expected = (2, 3, settings.rows * 32, settings.columns * 32)
    assert small.plain_batch(slots, torch.device("cpu")).shape == expected


def test_only_training_panels_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: dict[str, set[int]] = {"train": set(), "watched": set()}
    trained = ReducedData.training_batch

    def seen(self: ReducedData, *arguments: Any) -> Any:
        panels, truth = trained(self, *arguments)
        sides["train"].add(panels.shape[-1])
        return panels, truth

    class Watched(PanelData):
        def plain_batch(self, slots: torch.Tensor, device: torch.device) -> torch.Tensor:
            panels = super().plain_batch(slots, device)
            sides["watched"].add(panels.shape[-1])
            return panels

    monkeypatch.setattr(ReducedData, "training_batch", seen)
    four = data(4)
    found = learned(tmp_path / "a", watched=Watched(four.store, four.tiles, four.truth, four.settings))
    assert sides == {"train": {32}, "watched": {64}}
    assert [entry["phase"] for entry in found.history] == [0, 0, 1]


def test_sizes_change_training_and_full_size_does_not(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plain = SMALL_THEN_FULL.model_copy(update={"phases": [Phase(epochs=2), Phase(epochs=1)]})
    full, again, small = learned(tmp_path / "a", plain), learned(tmp_path / "b", plain), learned(tmp_path / "c")
    assert torch.equal(weights(full), weights(again))
    assert not torch.equal(weights(full), weights(small))


def test_frozen_layers_computed_once_give_what_every_step_gives(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = SMALL_THEN_FULL.model_copy(update={"phases": [Phase(epochs=2, freeze="2 layers", size=32)]})
    cached, every_step = learned(tmp_path / "a", recipe), learned(tmp_path / "b", recipe, once=False)
    assert "once" in cached.phases[0]["way"]
    assert "every step" in every_step.phases[0]["way"]
    assert torch.allclose(weights(cached), weights(every_step), atol=1e-5)


@pytest.mark.parametrize("after", [1, 3])
def test_a_killed_phase_continues_to_the_same_bits(tmp_path: Path, after: int) -> None:
    torch.set_num_threads(1)
    whole = learned(tmp_path / "a", flip="both", rotate=10.0)

    def stop_at(done: int, _: float) -> None:
        if done == after:
            raise KilledError

    with pytest.raises(KilledError):
        learned(tmp_path / "b", tell=stop_at, flip="both", rotate=10.0)
    again = learned(tmp_path / "b", flip="both", rotate=10.0)
    assert again.history == whole.history
    assert torch.equal(weights(whole), weights(again))


def test_an_older_record_of_a_phase_has_no_size() -> None:
    assert Phase.model_validate({"epochs": 2, "freeze": "all"}).model_dump(mode="json")["size"] is None


def study(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "name": "sizes",
        "cohort": "table.csv",
        "images": {"size": 64},
        "panels": {"by": "image"},
        "targets": {"label": {"classes": ["a", "b"]}},
        "backbones": ["cnn"],
        "weights": "random",
        "recipe": {
            "early_stopping": {"monitor": "none"},
            "schedule": "constant",
            "phases": [{"epochs": 1, "size": 48}],
        },
    }
    return build_study({**values, **changes}, source="study.yaml", folder=Path())


def test_a_size_must_be_smaller_than_the_images() -> None:
    assert study().recipe.phases[0].size == 48
    with pytest.raises(StudyError, match=r"phase 1: size: 48 must be smaller than images.size, 48"):
        study(images={"size": 48})
    with pytest.raises(StudyError, match="size"):
        study(recipe={"phases": [{"epochs": 1, "size": 16}]})


def test_bags_have_no_size_of_a_phase() -> None:
    with pytest.raises(StudyError, match=r"phase 1: size: the tiles of a bag.*attention"):
        study(panels={"by": "case", "pooling": "attention"})


def test_a_network_with_a_fixed_input_is_refused() -> None:
    check_freeze_points(study())
    fixed = study(backbones=["vit_tiny_patch16_224"])
    with pytest.raises(StudyError, match=r"phase 1: size: vit_tiny_patch16_224 cannot see .* 48 px"):
        check_freeze_points(fixed)


def test_features_of_a_smaller_size_are_not_those_of_the_full_size(tmp_path: Path) -> None:
    """The features of frozen layers are shared between folds, and a smaller size has others."""
    recipe = SMALL_THEN_FULL.model_copy(update={"phases": [Phase(epochs=2, freeze="all", size=32)]})
    losses = []
    for name in ("shared", "own"):
        train, stop = data(), data(4)
        torch.manual_seed(5)
        network = build_network("cnn", 2)
        (tmp_path / name).mkdir()
        context = TrainingContext(OUTPUTS, tmp_path / name, 3, ComputePlan(), 0.0, "last")
        if name == "shared":
            sides = ((train, range(len(train))), (stop, range(len(stop))))
            store = FeatureStore(tmp_path / "features")
            context = replace(context, shared=SharedFeatures(train, sides, "", store))
        learn_of_size = learn(network, recipe, train, stop, [str(i) for i in range(12)], context)
        losses.append([entry["train_loss"] for entry in learn_of_size.history])
    assert losses[0] == losses[1]
