"""The networks that pretrained ones are compared with: layers, any size of image, weights, learning."""

from pathlib import Path

import pytest
import torch

from casewise.models.backbones import build_network
from casewise.models.weights import NO_WEIGHTS, load_weights
from casewise.study.backbones import UNTRAINED


@pytest.mark.parametrize("name", UNTRAINED)
class TestBoth:
    @pytest.mark.parametrize("size", [(33, 47), (200, 64)])
    def test_any_size_from_32_px(self, name: str, size: tuple[int, int]) -> None:
        network = build_network(name, 3).eval()
        seen: list[torch.Size] = []
        network.body.features.register_forward_hook(lambda m, i, o: seen.append(o.shape))
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
        assert sum(p.numel() for p in network.body.parameters()) == {"cnn": 2486080, "unet_encoder": 4843552}[name]
        points = dict(network.blocks)
        held = {id(p) for module in points.values() for p in module.parameters()}
        assert held == {id(p) for p in network.body.parameters()}
        assert next(iter(points)) == "features.0"
        assert list(points)[-1] == "classifier.0"
        network(torch.rand(4, 3, 64, 64)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


class TestWeights:
    @pytest.mark.parametrize("weights", ["pretrained", "folder"])
    def test_it_stays_random_and_says_so_where_others_are_pretrained(self, weights: str, tmp_path: Path) -> None:
        network = build_network("cnn", 2)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        stated = str(tmp_path) if weights == "folder" else weights
        assert load_weights(network, stated, folder=tmp_path) == (NO_WEIGHTS, [])
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
        assert load_weights(network, "random")[0] == "random, as the study states"
