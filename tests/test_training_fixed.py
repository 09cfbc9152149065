"""What is kept while it is learned from: in a memory that is shared out, in files that are taken away."""

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from PIL import Image

from casewise.errors import RunError
from casewise.inference.predictor import Predictor
from casewise.jobs.predict import weight_rows
from casewise.modalities.dataset import PanelData, open_tiles
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store_builder import prepare
from casewise.models.backbones import Network, build_network
from casewise.models.outputs import Output
from casewise.models.shared_parts import predict_together
from casewise.study.recipe import Phase
from casewise.study.schema import Panels, Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.frozen_features import Buffer, features
from casewise.training.stages import Learned, TrainingContext, learn

OUTPUTS = (Output("label", "classification", 2, True),)
STEADY = Panels(by="image", offline_copies=1, flip="both")
BAGS = Panels(by="case", pooling="attention", bag=300)
CPU = torch.device("cpu")
KEPT = {"copies.bin", "stage0/train.bin", "stage0/stop.bin", "stage1/train.bin", "stage1/stop.bin"}


class KilledError(Exception):
    pass


def panels(settings: Panels, tiles: list[list[int]]) -> PanelData:
    drawn = torch.Generator().manual_seed(1)
    store = torch.randint(1, 250, (300, 3, 32, 32), dtype=torch.uint8, generator=drawn)
    truth = (torch.arange(len(tiles)) % 2).float().unsqueeze(1)
    return PanelData(store, tiles, truth, settings, [f"c{i}" for i in range(len(tiles))])


def kept(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.bin")}


def learned(folder: Path, memory: int, tell: Callable[[int, float], None] | None = None, **given: Any) -> Learned:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_network("resnet10t", 2)
    phases = [Phase(epochs=1, freeze="all"), Phase(epochs=1, freeze="4 blocks", lr=0.001)]
    recipe = Recipe(batch_size=4, schedule="constant", early_stopping={"monitor": "none"}, phases=phases)
    folder.mkdir(exist_ok=True)
    course = TrainingContext(OUTPUTS, folder, 3, ComputePlan(), 0.0, "last", tell, memory=memory)
    rows = panels(STEADY, [[i] for i in range(8)])
    recipe = recipe.model_copy(update=given)
    return learn(network, recipe, rows, panels(STEADY, [[8], [9]]), [str(i) for i in range(8)], course)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no space")
def test_a_full_disk_is_told_and_kills_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"the disk is full\. .* needs 4\.0 MB there"):
        Buffer(0).empty((1000, 1000), torch.float32, tmp_path / "train.bin")
    assert not kept(tmp_path)


def test_all_that_is_kept_shares_one_memory(tmp_path: Path) -> None:
    room = Buffer(1000)
    for name, size in (("a", 600), ("b", 600), ("c", 400), ("d", 1)):
        room.empty((size,), torch.uint8, tmp_path / f"{name}.bin")
    assert kept(tmp_path) == {"b.bin", "d.bin"}


def test_files_go_with_their_phase(tmp_path: Path) -> None:
    seen: list[set[str]] = []
    filed = learned(tmp_path / "filed", 0, lambda *_: seen.append(kept(tmp_path / "filed")))
    assert seen == [{name for name in KEPT if "stage1" not in name}, {name for name in KEPT if "stage0" not in name}]
    assert not kept(tmp_path / "filed")
    whole = learned(tmp_path / "memory", 2**30, lambda *_: seen.append(kept(tmp_path / "memory")))
    assert seen[2:] == [set(), set()]
    for one, other in zip(filed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, other)
    # copies come first, and phases have what they leave: 16 panels of 3 × 32 × 32 bytes
    learned(tmp_path / "some", 16 * 3 * 1024, lambda *_: seen.append(kept(tmp_path / "some")))
    assert seen[4] == {"stage0/train.bin", "stage0/stop.bin"}


def test_files_that_a_kill_left_go_too(tmp_path: Path) -> None:
    def kill(epoch: int, _: float) -> None:
        if epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        learned(tmp_path / "cut", 0, kill)
    for name in KEPT:
        (tmp_path / "cut" / name).write_bytes(b"of a lost machine")
    seen: list[set[str]] = []
    learned(tmp_path / "cut", 0, lambda *_: seen.append(kept(tmp_path / "cut")))
    assert not any("stage0" in name for found in seen for name in found)
    assert not kept(tmp_path / "cut")


class TestLargeBags:
    """A bag of hundreds of tiles is looked at a few tiles at a time."""

    @pytest.fixture
    def bags(self) -> PanelData:
        return panels(BAGS, [list(range(200)), list(range(200, 270)), [299]])

    @pytest.fixture
    def network(self) -> Network:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        return build_network("test_resnet", 2, pooling="attention").eval()

    @pytest.fixture
    def expected(self, bags: PanelData, network: Network) -> torch.Tensor:
        with torch.inference_mode():
            return network.features(bags.plain_batch(bags.views()[0], CPU)).clone()

    @pytest.fixture
    def most(self, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many tiles were in floating point at once, each time."""
        found: list[int] = []
        plain = PanelData.single_tiles

        def counted(self: PanelData, numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
            found.append(len(numbers))
            return plain(self, numbers, device)

        monkeypatch.setattr(PanelData, "single_tiles", counted)
        monkeypatch.setattr(PanelData, "plain_batch", None)
        return found

    def test_for_a_head(self, bags: PanelData, network: Network, expected: torch.Tensor, most: list[int]) -> None:
        assert torch.allclose(features(network, bags, batch=4), expected, atol=1e-5, equal_nan=True)
        assert (sum(most), max(most)) == (271, 64)

    @pytest.mark.parametrize("flips", [False, True])
    def test_for_predictions(
        self, bags: PanelData, network: Network, expected: torch.Tensor, most: list[int], flips: bool
    ) -> None:
        made = predict_together([network], bags, OUTPUTS, batch=4, channels_last=True, flips=flips)[0][0]
        assert (sum(most), max(most)) == (271 * (1 + flips), 64)
        if not flips:
            assert torch.allclose(made, network.predict_head(expected).softmax(dim=1), atol=1e-5)

    def test_for_weights(self, bags: PanelData, network: Network, expected: torch.Tensor, most: list[int]) -> None:
        table = pd.DataFrame({"case": ["a", "b", "c"], "tiles": bags.tiles})
        bundle: Any = SimpleNamespace(compute=ComputePlan(), batch_size=4)
        rows = weight_rows(Predictor(bundle, network), bags, table, stage="oof")
        head: Any = network.head[0]
        with torch.inference_mode():
            assert rows["weight"][:200].to_numpy() == pytest.approx(head.weights(expected)[0].numpy(), abs=1e-5)
        assert (rows["case"].value_counts().to_dict(), max(most)) == ({"a": 200, "b": 70, "c": 1}, 64)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell what is mapped")
@pytest.mark.parametrize("channels", ["rgb", "grey"])
def test_tiles_are_mapped_and_never_written(tmp_path: Path, channels: Any) -> None:
    images = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(images):
        Image.new("RGB", (32, 32), (50 * number, 90, 10)).save(path)
    store = prepare(images, Preparation(size=32, channels=channels), tmp_path / "tiles")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiles = open_tiles(tmp_path / "tiles", store.address)
    file, before = Path(str(store.tiles.filename)), np.array(store.tiles)
    del store
    assert str(file) in {mapped.path for mapped in psutil.Process().memory_maps()}
    assert tiles.shape == (3, 3, 32, 32)
    assert np.array_equal(tiles.numpy()[:, : before.shape[1]], before)
    data = PanelData(tiles, [[0], [1], [2]], torch.zeros(3, 1), Panels(by="image", flip="both", brightness=0.2))
    data.training_batch([0, 1, 2], torch.Generator(), CPU)[0].zero_()
    data.plain_batch(data.views()[0], CPU).zero_()
    data.single_tiles(torch.arange(3), CPU).zero_()
    assert np.array_equal(tiles.numpy()[:, : before.shape[1]], before)
    tiles[0, 0] = 7  # a copy of the page, not the store's own; channels of grey are one memory
    assert np.array_equal(np.load(file), before)
