"""Three ways of tuning and the schedules: what changes, what it costs, and the same bits after a kill."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from casewise.modalities.dataset import PanelData
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output
from casewise.plugins.published.unfreezing import unfreeze
from casewise.run_folder import TrainingFolder
from casewise.study.schema import Panels, Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import Training, fit
from casewise.training.rates import parameter_groups, warmed_cosine
from casewise.training.stages import Learned, TrainingContext, learn

LABEL = (Output("label", "classification", 3),)
PANELS = Panels(rotate=10, flip="horizontal", brightness=0.1)
GROUPS = 3


class CutError(Exception):
    """A kill, at a moment of the test's choice."""


def part(rows: int, seed: int, *, misleading: bool = False) -> PanelData:
    """Tiles whose colours follow their class."""
    generator, truth = torch.Generator().manual_seed(seed), (torch.arange(rows) % 3)[:, None].float()
    store = torch.randint(0, 150, (rows, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for row, label in enumerate(truth[:, 0].long().tolist()):
        store[row, label] += 60
    told = (truth + 1) % 3 if misleading else truth
    return PanelData(store, [[row] for row in range(rows)], told, PANELS, [f"S{row}/1" for row in range(rows)])


TRAIN, STOP = part(25, 0), part(12, 1)


def network_of(seed: int = 1) -> Network:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return build_network("test_resnet", 3, dropout=0.1)


def learned(folder: Path, recipe: dict[str, Any], *, tell: Any = None, stop: PanelData = STOP, **given: Any) -> Learned:
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"batch_size": 8, "optimizer": "radam", "lr": 0.02, "schedule": "one-cycle"}
    stated |= {"gradual_unfreezing": {"groups": GROUPS, "epochs": 2}, **recipe}
    given = {"outputs": LABEL, "folder": folder, "seed": 5, "choice": ComputePlan(), "save_every": 0.0, **given}
    subjects, context = [str(row // 2) for row in range(len(TRAIN))], TrainingContext(tell=tell, **given)
    return learn(network_of(), Recipe.model_validate(stated), TRAIN, stop, subjects, context)


def cut_after(epochs: int) -> Callable[[int, float], None]:
    def tell(done: int, loss: float) -> None:
        if done >= epochs:
            raise CutError

    return tell


def state(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def alike(one: Learned, two: Learned) -> None:
    assert one.history == two.history
    assert (one.best_epoch, one.best_loss) == (two.best_epoch, two.best_loss)
    assert one.records == two.records
    assert same(one.network.state_dict(), two.network.state_dict())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The panels that every pass through a network's body has seen."""
    seen: list[int] = []
    plain = Network.features

    def features(self: Network, panels: Tensor, occupied: Tensor | None = None) -> Tensor:
        seen.append(len(panels))
        return plain(self, panels, occupied)

    monkeypatch.setattr(Network, "features", features)
    return seen


def test_a_killed_network_ends_in_the_same_bits(tmp_path: Path) -> None:
    """With a rate that was found and cases that are drawn; `test_loop.py` has the other recipes."""
    recipe = {"epochs": 4, "imbalance": "sampling", "lr": "find", "finder": {"steps": 20}}
    whole = learned(tmp_path / "whole", recipe)
    with pytest.raises(CutError):
        learned(tmp_path / "cut", recipe, tell=cut_after(2))
    assert (tmp_path / "cut" / "state.safetensors").is_file()
    told: list[int] = []
    alike(whole, learned(tmp_path / "cut", recipe, tell=lambda done, loss: told.append(done)))
    assert told == [3, 4]  # it went on, and did not begin again
    assert len(whole.history) == 4


@pytest.mark.parametrize("kind", [{"layer_decay": 0.7}, {"tuning": "head_only"}])
def test_a_warm_up_goes_step_by_step(tmp_path: Path, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    plain = Training.step

    def step(self: Training, *arguments: Any) -> Any:
        seen.append([group["lr"] for group in self.optimizer.param_groups])
        return plain(self, *arguments)

    monkeypatch.setattr(Training, "step", step)
    recipe = {"epochs": 4, "schedule": "cosine", "warmup": 2, "head_lr": 3.0, **kind}
    history = learned(tmp_path, recipe).history
    steps = 3  # 25 rows in batches of 8, the last one joined by the row left over
    assert len(seen) == 4 * steps
    groups = parameter_groups(network_of(), Recipe.model_validate(recipe), 0.02)
    full = [0.06] if "tuning" in kind else [group["lr"] for group in groups]
    for number, rates in enumerate(seen):
        assert rates == pytest.approx([rate * warmed_cosine(number, 2 * steps, 4 * steps) for rate in full])
    # told is the rate of the last layers, at the end of each epoch
    assert [entry["lr"] for entry in history] == [rates[-2:][0] for rates in seen[steps - 1 :: steps]]
    assert history[1]["lr"] == full[-2:][0]


@pytest.mark.parametrize("head", ["random", "probe"])
def test_shallow_changes_the_head_alone_in_one_pass(tmp_path: Path, counted: list[int], head: str) -> None:
    found = learned(tmp_path, {"epochs": 30, "tuning": "head_only", "head": head})
    assert (sum(counted), len(found.history)) == (len(TRAIN) + len(STOP), 30)
    before, after = state(network_of()), state(found.network)
    assert {key for key in before if not torch.equal(before[key], after[key])} == {"head.1.weight", "head.1.bias"}
    assert found.best_loss < found.history[0]["stop_loss"] or head == "probe"


class TestFineTuning:
    recipe: dict[str, Any] = {"tuning": "gradual_unfreezing", "epochs": 99, "lr": 0.01}  # noqa: RUF012

    def test_groups_of_layers_are_unfrozen_while_it_helps(self, tmp_path: Path) -> None:
        found = learned(tmp_path, self.recipe)
        kept = [stage for stage in found.records["stages"] if stage["kept"]]
        assert [stage["unfrozen"] for stage in found.records["stages"]] == list(range(len(found.records["stages"])))
        assert len(kept) > 1
        assert all(a["best_loss"] > b["best_loss"] for a, b in pairwise(kept))
        assert found.best_loss == kept[-1]["best_loss"] == found.history[found.best_epoch]["stop_loss"]
        assert [entry["epoch"] for entry in found.history] == list(range(2 * len(found.records["stages"])))
        assert all(parameter.requires_grad for parameter in found.network.parameters())
        module = Training(found.network, Recipe(), TRAIN, TrainingContext(LABEL, tmp_path, 0, ComputePlan()))
        slots, _ = STOP.views()
        raw = found.network(STOP.plain_batch(slots, torch.device("cpu")))
        assert float(module.loss(raw.detach(), STOP.truth, plain=True)) == pytest.approx(found.best_loss, rel=1e-4)
        TrainingFolder(tmp_path).remove_state()
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set()

    def test_a_stage_that_does_not_help_is_taken_back(self, tmp_path: Path) -> None:
        found = learned(tmp_path, self.recipe, stop=part(12, 1, misleading=True))
        assert [stage["kept"] for stage in found.records["stages"]] == [
            *[True] * (len(found.records["stages"]) - 1),
            False,
        ]
        kept = load_file(tmp_path / f"stage{len(found.records['stages']) - 2}.safetensors")
        assert len(found.records["stages"]) <= GROUPS
        assert same(found.network.state_dict(), kept)
        assert not same(
            found.network.state_dict(), load_file(tmp_path / f"stage{len(found.records['stages']) - 1}.safetensors")
        )


def test_the_first_stage_reads_augmented_images_and_trains_frozen_norms(tmp_path: Path, counted: list[int]) -> None:
    stated = {"first_stage": "images", "train_norms": True, "groups": GROUPS, "epochs": 2}
    recipe = {"tuning": "gradual_unfreezing", "gradual_unfreezing": stated, "lr": 0.01}
    whole, first = learned(tmp_path / "whole", recipe), load_file(tmp_path / "whole" / "stage0.safetensors")
    changed = {name for name, value in state(network_of()).items() if not torch.equal(value, first[name])}
    body = {name for name in changed if name.startswith("body.")}
    norms = {n for n, module in network_of().named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name.rpartition(".")[0] for name in body} == norms
    assert changed - body == {"head.1.weight", "head.1.bias"}
    assert sum(counted) > 2 * (len(TRAIN) + len(STOP)) * 2
    with pytest.raises(CutError):
        learned(tmp_path / "cut", recipe, tell=cut_after(1))
    alike(whole, learned(tmp_path / "cut", recipe))
    with pytest.raises(ValidationError, match="first_stage: images"):
        Recipe.model_validate({"gradual_unfreezing": {"train_norms": True}})


def test_a_damaged_state_begins_again_with_the_probe(tmp_path: Path) -> None:
    recipe = {"tuning": "gradual_unfreezing", "gradual_unfreezing": {"groups": GROUPS, "epochs": 2}, "head": "probe"}
    whole = learned(tmp_path / "whole", recipe)
    with pytest.raises(CutError):
        learned(tmp_path / "cut", recipe, tell=cut_after(3))
    for name in ("stage0.safetensors", "stage0/state.safetensors"):
        (tmp_path / "cut" / name).write_bytes(b"damaged")
    alike(whole, learned(tmp_path / "cut", recipe))


@pytest.mark.parametrize("policy", ["update", "keep_statistics"])
def test_frozen_batch_norms_keep_their_statistics(tmp_path: Path, policy: str) -> None:
    network = network_of()
    unfreeze(network, 1, GROUPS)
    learns = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    values = {"batch_size": 8, "epochs": 3, "lr": 0.01, "batch_norm": policy, "schedule": "constant"}
    recipe = Recipe.model_validate(values)
    before = state(network)
    fit(network, recipe, TRAIN, STOP, TrainingContext(LABEL, tmp_path, 0, ComputePlan(), keep="last"))
    changed = {key for key, value in network.state_dict().items() if not torch.equal(before[key], value)}
    statistics = {key for key in changed if "running" in key or "num_batches" in key}
    may = {key for key in before if "running" in key and key.rsplit(".", 1)[0] + ".weight" in learns}
    assert {name.rsplit(".", 2)[0] for name in changed - statistics} == {name.rsplit(".", 2)[0] for name in learns}
    assert changed - statistics <= learns
    assert {key for key in statistics if "running" in key} == (may if policy == "update" else set())
    assert may
