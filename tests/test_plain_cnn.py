"""The networks that pretrained ones are compared with: layers, any size of image, weights, learning."""

from pathlib import Path
from typing import Any

import pytest
import torch

from casewise.errors import TrainingError
from casewise.models.backbones import build_network
from casewise.models.weights import NO_WEIGHTS, load_weights
from casewise.study.backbones import UNTRAINED

PARAMETERS = {"cnn": 2486080, "unet_encoder": 4843552, "unet": 7899617, "unet_unpadded": 1999585}


@pytest.mark.parametrize("name", UNTRAINED)
class TestEach:
    @pytest.mark.parametrize("size", [(33, 47), (200, 64)])
    def test_any_size_from_32_px(self, name: str, size: tuple[int, int]) -> None:
        network = build_network(name, 3).eval()
        size = (size[0] + 60, size[1] + 60) if name == "unet_unpadded" else size
        seen: list[torch.Size] = []
        network.body.features[-1].register_forward_hook(lambda m, i, o: seen.append(o.shape))
        with torch.no_grad():
            found = network(torch.rand(2, 3, *size))
            assert network.features(torch.rand(2, 1, *size)).shape == (2, network.width)
        assert found.shape == (2, 3)
        assert found.isfinite().all()
        assert min(seen[0][-2:]) > 1  # there is a map to explain

    def test_layers_weights_and_scaling(self, name: str) -> None:
        network = build_network(name, 2)
        assert float(network.mean.mean()) == float(network.std.mean()) == 0.5
        assert not [key for key, _ in network.body.named_buffers()]  # no batch norm
        assert sum(p.numel() for p in network.body.parameters()) == PARAMETERS[name]
        points = dict(network.blocks)
        held = {id(p) for module in points.values() for p in module.parameters()}
        assert held == {id(p) for p in network.body.parameters()}
        assert (next(iter(points)), list(points)[-1]) == ("features.0", "classifier.0")
        network(torch.rand(4, 3, *2 * [96 if name == "unet_unpadded" else 64])).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


class TestUNet:
    @pytest.mark.parametrize(
        ("name", "size", "map_size"),
        [("unet", (64, 96), (64, 96)), ("unet", (40, 47), (40, 47)), ("unet_unpadded", (128, 92), (36, 4))],
    )
    def test_its_map_is_fine_and_classifies(self, name: str, size: tuple[int, int], map_size: tuple[int, int]) -> None:
        body: Any = build_network(name, 1).eval().body
        values = torch.rand(2, 3, *size)
        with torch.no_grad():
            found = body.map_of(values)
            before = body(values)
            assert found.shape == (2, 1, *map_size)
            assert 0 <= found.min() < found.max() <= 1
            body.map.weight.mul_(-1)
            assert not torch.equal(body(values), before)

    def test_a_concatenation_is_in_place(self) -> None:
        body: Any = build_network("unet", 1).eval().body
        with torch.no_grad():
            for enlarge in body.enlarge:
                enlarge.weight.zero_()
            values = torch.zeros(1, 3, 64, 64)
            dark = body.map_of(values)
            values[..., 20, 30] = 1.0
            rows, columns = torch.where((body.map_of(values) != dark)[0, 0])
        assert len(rows) > 0
        assert max((rows - 20).abs().max(), (columns - 30).abs().max()) <= 4  # four convolutions of 3 x 3

    def test_without_padding_small_panels_are_refused(self) -> None:
        network = build_network("unet_unpadded", 1)
        assert network(torch.rand(1, 3, 92, 92)).shape == (1, 1)
        with pytest.raises(TrainingError, match="91"):
            network(torch.rand(1, 3, 92, 91))

    @pytest.mark.parametrize("name", ["unet", "unet_unpadded"])
    def test_it_learns_from_labels_and_its_map_with_it(self, name: str) -> None:
        torch.manual_seed(0)
        network = build_network(name, 2)
        body: Any = network.body
        panels, labels = 0.1 * torch.rand(4, 3, 96, 96), torch.arange(4) % 2
        panels[labels == 1, :, 40:56, 40:56] += 0.8
        first, losses = body.map.weight.detach().clone(), []
        optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
        for _ in range(18):
            loss = torch.nn.functional.cross_entropy(network(panels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]
        assert not torch.equal(body.map.weight, first)


class TestWeights:
    @pytest.mark.parametrize("weights", ["pretrained", "folder"])
    def test_it_stays_random_and_says_so_where_others_are_pretrained(self, weights: str, tmp_path: Path) -> None:
        network = build_network("cnn", 2)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        stated = str(tmp_path) if weights == "folder" else weights
        assert load_weights(network, stated, folder=tmp_path) == (NO_WEIGHTS, [])
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
        assert load_weights(network, "random")[0] == "random, as the study states"
