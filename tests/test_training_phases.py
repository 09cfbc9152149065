"""Training in phases: frozen parts stay as they are, and working them out once changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from casewise.models.backbones import Network, build_network
from casewise.study import Panels, Phase, Recipe
from casewise.training.data import PanelData
from casewise.training.learn import Course, Learned, learn
from casewise.training.outputs import Output
from casewise.training.speed import Choice

OUTPUTS = (Output("label", "classification", 2, True),)
STEADY = Panels(by="image", copies=1, flip="both", brightness=0.2)
RECIPE = Recipe(
    optimizer="sgd",
    lr=0.01,
    schedule="constant",
    batch=4,
    dropout=0.2,
    stop={"on": "none"},
    phases=[Phase(epochs=2, freeze="all"), Phase(epochs=2, freeze="6 layers", lr=0.001)],
)


def data(settings: Panels = STEADY, count: int = 12) -> PanelData:
    drawn = torch.Generator().manual_seed(1)
    truth = (torch.arange(count) % 2).float().unsqueeze(1)
    store = torch.randint(1, 120, (count, 3, 64, 64), dtype=torch.uint8, generator=drawn)
    store[1::2] += 90
    return PanelData(store, [[i] for i in range(count)], truth, settings, [f"c{i}" for i in range(count)])


def fresh(name: str = "mobilenet_v2") -> Network:
    torch.manual_seed(0)
    return build_network(name, 2, dropout=0.2)


def learned(folder: Path, recipe: Recipe = RECIPE, settings: Panels = STEADY, *, once: bool = True) -> Learned:
    course = Course(OUTPUTS, folder, 3, Choice(), 0.0, "last" if recipe.stop.on == "none" else "best", None, once)
    folder.mkdir(exist_ok=True)
    return learn(fresh(), recipe, data(settings), data(settings, 4), [str(i) for i in range(12)], course)


def test_working_out_frozen_parts_once_changes_nothing(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    quick, plain = learned(tmp_path / "a"), learned(tmp_path / "b", once=False)
    assert "once" in quick.phases[0]["way"]
    assert "once" in quick.phases[1]["way"]
    assert "every step" in plain.phases[1]["way"]
    for (name, one), other in zip(quick.network.state_dict().items(), plain.network.state_dict().values(), strict=True):
        assert torch.allclose(one.double(), other.double(), atol=1e-5), name


def test_frozen_weights_and_statistics_stay(tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in fresh().state_dict().items()}
    after = learned(tmp_path / "a", once=False).network.state_dict()
    first = [name for name in before if name.startswith(("body.features.0.", "body.features.1."))]
    assert len(first) > 10
    assert all(torch.equal(before[name], after[name]) for name in first)
    assert not torch.equal(before["body.features.17.conv.1.0.weight"], after["body.features.17.conv.1.0.weight"])


def test_phases_are_told_with_their_counts(tmp_path: Path) -> None:
    found = learned(tmp_path / "a")
    assert [entry["phase"] for entry in found.history] == [0, 0, 1, 1]
    assert [entry["epoch"] for entry in found.history] == [0, 1, 2, 3]
    head, upper = found.phases
    assert (head["trainable"], head["last_frozen"]) == (2562, "body")
    assert head["trainable"] < upper["trainable"] < 2_226_434
    assert head["running_statistics"] == 34112
    assert head["rows"] == 24


def test_a_killed_phase_continues_to_the_same_bits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = learned(tmp_path / "a")

    class Killed(Exception):
        pass

    def stop_at(done: int) -> None:
        if done == 3:
            raise Killed

    place = tmp_path / "b"
    place.mkdir()
    course = Course(OUTPUTS, place, 3, Choice(), 0.0, "last", stop_at)
    with pytest.raises(Killed):
        learn(fresh(), RECIPE, data(), data(count=4), [str(i) for i in range(12)], course)
    again = learned(place)
    assert again.phases[1]["continued"]
    for (name, one), other in zip(whole.network.state_dict().items(), again.network.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_panels_that_vary_are_computed_anew(tmp_path: Path) -> None:
    found = learned(tmp_path / "a", settings=Panels(by="image", flip="both"))
    assert "panels vary" in found.phases[0]["way"]
    still = RECIPE.model_copy(
        update={"phases": [Phase(epochs=1, freeze="all", variations={"flip": "none"}), Phase(epochs=1)]}
    )
    found = learned(tmp_path / "b", still, Panels(by="image", flip="both"))
    assert "once" in found.phases[0]["way"]
    assert "all layers" in found.phases[1]["way"]


def test_the_best_of_all_phases_is_kept(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"stop": RECIPE.stop.model_copy(update={"on": "inner"})})
    found = learned(tmp_path / "a", recipe)
    assert found.best_loss == min(entry["stop_loss"] for entry in found.history)
    assert found.history[found.best_epoch]["stop_loss"] == found.best_loss


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 1, "freeze": "10 leyers"}, "Did you mean 'layers'"),
        ({"epochs": 1, "freeze": "120%"}, "between 0 and 1"),
    ],
)
def test_a_phase_that_cannot_be_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Phase.model_validate(wrong)
