"""Features of frozen networks, shared by content: computed once, the same bits, and never those of other pixels."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from casewise.errors import CasewiseError
from casewise.modalities.dataset import PanelData
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output
from casewise.models.shared_parts import predict_together
from casewise.study.recipe import Phase
from casewise.study.schema import Panels, Recipe
from casewise.training import frozen_features as frozen_features_file
from casewise.training.compute_plan import ComputePlan
from casewise.training.frozen_features import FeatureStore, SharedFeatures, features
from casewise.training.loop import TrainingContext
from casewise.training.stages import frozen_features, learn

HOW = {"features": "fp32"}
PANELS = Panels(by="image")
OUTPUTS = (Output("label", "classification", 2),)
FOLDS = ((list(range(14)), list(range(14, 20))), (list(range(5, 20)), [0, 2, 4]))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_features_file, "BLOCK", 6)
    torch.set_num_threads(1)


def panels(count: int = 20) -> PanelData:
    drawn, truth = torch.Generator().manual_seed(3), (torch.arange(count) % 2).float().unsqueeze(1)
    store = torch.randint(1, 120, (count, 3, 32, 32), dtype=torch.uint8, generator=drawn)
    store[1::2] += 60
    return PanelData(store, [[i] for i in range(count)], truth, PANELS, [f"c{i}" for i in range(count)])


def network() -> Network:
    torch.manual_seed(0)
    return build_network("test_resnet", 2, dropout=0.1).eval()


def shared(data: PanelData, store: FeatureStore, fold: int = 0, identity: str = "study") -> SharedFeatures:
    sides = tuple((data.subset(rows), rows) for rows in FOLDS[fold])
    return SharedFeatures(data, sides, identity, store)


class Counted:
    """The features of panels, and how many panels were computed."""

    def __init__(self, network: Network) -> None:
        self.network, self.panels = network, 0

    def __call__(self, data: PanelData) -> Tensor:
        self.panels += len(data)
        return features(self.network, data, batch=2)


def values(sharing: SharedFeatures, compute: Counted) -> tuple[Tensor, Tensor]:
    first, second = (sharing.of(side, compute.network, compute, HOW) for side, _ in sharing.sides)
    return first, second


def test_two_folds_compute_each_panel_once_and_get_the_same_bits_as_without_sharing(tmp_path: Path) -> None:
    data, store = panels(), FeatureStore(tmp_path / "store")
    compute = Counted(network())
    for fold in range(2):
        with_store = values(shared(data, store, fold), compute)
        without = values(shared(data, FeatureStore(tmp_path, limit=0), fold), Counted(network()))
        assert all(torch.equal(a, b) for a, b in zip(with_store, without, strict=True))
        plain = [features(network(), data.subset(rows), batch=2) for rows in FOLDS[fold]]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(with_store, plain, strict=True))
    assert compute.panels == len(data)
    assert not list(tmp_path.glob("*.safetensors"))


def test_another_study_with_the_same_pixels_finds_the_features(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    values(shared(panels(), store), first := Counted(network()))
    values(shared(panels(), store, 1, identity="another study"), second := Counted(network()))
    values(shared(panels(), store, 1, identity=""), third := Counted(network()))
    assert (first.panels, second.panels, third.panels) == (20, 0, 0)


def other_pixels(data: PanelData, network: Network) -> tuple[PanelData, Network]:
    store = data.store.clone()
    store[0, 0, 0, 0] += 1
    return replace(data, store=store), network


def other_weights(data: PanelData, network: Network) -> tuple[PanelData, Network]:
    with torch.no_grad():
        next(network.body.parameters()).view(-1)[0].add_(1e-3)
    return data, network


@pytest.mark.parametrize(("change", "computed"), [(other_pixels, 6), (other_weights, 20)])
def test_nothing_is_shared_where_pixels_or_layers_differ(
    tmp_path: Path, change: Callable[[PanelData, Network], tuple[PanelData, Network]], computed: int
) -> None:
    store = FeatureStore(tmp_path)
    values(shared(panels(), store), Counted(network()))
    data, changed = change(panels(), network())
    got = values(shared(data, store, identity="changed"), compute := Counted(changed))
    assert compute.panels == computed
    assert torch.equal(got[0], values(shared(data, FeatureStore(tmp_path, 0)), Counted(changed))[0])


def test_another_head_and_other_targets_share_and_another_precision_does_not(tmp_path: Path) -> None:
    sharing = shared(panels(), FeatureStore(tmp_path))
    values(sharing, Counted(network()))
    compute = Counted(network())
    with torch.no_grad():
        compute.network.head[-1].weight.add_(1.0)
        compute.network.target_mean.add_(2.0)
    values(shared(panels(), FeatureStore(tmp_path)), compute)
    assert compute.panels == 0
    sharing.of(sharing.sides[0][0], compute.network, compute, {"features": "bf16"})
    assert compute.panels == 20


@pytest.mark.parametrize("damage", ["bits", "cut"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    store = FeatureStore(tmp_path)
    expected, file = values(shared(panels(), store), Counted(network())), sorted(tmp_path.glob("*/*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes({"bits": bytes(content), "cut": bytes(content[: len(content) // 2])}[damage])
    got = values(shared(panels(), store), compute := Counted(network()))
    assert compute.panels in (6, 2)  # one block, of which the last has two panels
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    values(shared(panels(), store), again := Counted(network()))
    assert again.panels == 0


def test_the_least_recently_used_values_are_removed_above_the_limit(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, limit=3900)
    for number in range(3):
        store.write(f"{number:064x}", torch.full((250,), float(number)))  # 1,000 bytes and a header
        os.utime(store._path(f"{number:064x}"), (number, number))
    assert store.read(f"{0:064x}") is not None  # it is the last one used
    store.write(f"{3:064x}", torch.zeros(250))
    kept = [number for number in range(4) if store.read(f"{number:064x}") is not None]
    assert {0, 3} <= set(kept) <= {0, 2, 3}
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 3900
    store.write("5" * 64, torch.zeros(2000))
    assert store.read("5" * 64) is None  # larger than everything that may be kept


def test_a_block_that_another_process_computes_is_left_for_later(tmp_path: Path) -> None:
    store, address = FeatureStore(tmp_path), "ab" * 32
    with FileLock(store.locked(address).lock_file, is_singleton=False):
        assert store.step(address, lambda: torch.ones(3), wait=0) is None
    assert torch.equal(store.step(address, lambda: torch.ones(3), wait=0), torch.ones(3))
    assert torch.equal(store.step(address, lambda: torch.zeros(3)), torch.ones(3))


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_the_size_of_the_store_must_be_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(frozen_features_file.VARIABLE, text)
    with pytest.raises(CasewiseError, match=frozen_features_file.VARIABLE):
        FeatureStore.of_user()
    monkeypatch.setenv(frozen_features_file.VARIABLE, "0.5")
    assert FeatureStore.of_user().limit == 2**29


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=3, lr=0.01, batch_size=4, tuning="head_only", head="probe"),
        Recipe(lr=0.01, batch_size=4, phases=[Phase(epochs=2, freeze="all"), Phase(epochs=1, freeze="none")]),
    ],
)
def test_a_head_is_trained_to_the_same_bits_with_and_without_a_store(tmp_path: Path, recipe: Recipe) -> None:
    weights = []
    stores = (FeatureStore(tmp_path / "s"), FeatureStore(tmp_path / "s"), FeatureStore(tmp_path, 0))
    for number, store in enumerate(stores):
        sharing = shared(panels(), store)
        (train, rows), (stop, _) = sharing.sides
        context = TrainingContext(OUTPUTS, tmp_path / str(number), 5, ComputePlan(), shared=sharing)
        learned = learn(network(), recipe, train, stop, [f"s{row}" for row in rows], context)
        weights.append(learned.network.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
        assert torch.equal(value, weights[2][name]), name


def test_a_head_predicts_from_shared_features_as_from_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, recipe = (Output("label", "classification", 2),), Recipe(epochs=2, batch_size=4, tuning="head_only")
    sharing, trained = shared(panels(), FeatureStore(tmp_path / "s")), network()
    (train, rows), (stop, _) = sharing.sides
    context = TrainingContext(outputs, tmp_path / "job", 5, ComputePlan(), shared=sharing)
    learn(trained, recipe, train, stop, [f"s{row}" for row in rows], context)
    assert frozen_features(trained, sharing.panels, recipe, context, flips=False) is not None
    how = {"batch": 4, "channels_last": True, "flips": False}
    of_panels = predict_together([trained], sharing.panels, outputs, **how)[0]
    # another fold reads them, and the body computes nothing
    monkeypatch.setattr(Network, "features", lambda *_: pytest.fail("the features were computed again"))
    other = shared(panels(), FeatureStore(tmp_path / "s"), fold=1)
    again = frozen_features(trained, other.panels, recipe, replace(context, shared=other), flips=False)
    for found, expected in zip(predict_together([trained], again, outputs, **how)[0], of_panels, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_features_replace_panels_only_where_a_head_predicts_from_the_same_ones(tmp_path: Path) -> None:
    def replaced(data: PanelData, tuning: str = "head_only", flips: bool = False) -> bool:
        context = TrainingContext(OUTPUTS, tmp_path, 5, ComputePlan())
        return frozen_features(network(), data, Recipe(tuning=tuning), context, flips=flips) is not None

    data = panels()
    assert replaced(data)
    assert not replaced(replace(data, tiles=[[0, 1], *data.tiles[1:]]))  # two views
    assert not replaced(replace(data, settings=Panels(by="case", pooling="attention")))
    assert not replaced(data, flips=True)
    assert not replaced(data, "full")
    assert not replaced(data, "gradual_unfreezing")
