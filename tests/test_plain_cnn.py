"""The networks that pretrained ones are compared with: layers, any size of image, weights, learning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from casewise.errors import WeightsError
from casewise.files import checksum
from casewise.models.backbones import build_network
from casewise.models.weights import NO_WEIGHTS, load_weights
from casewise.study.backbones import UNTRAINED


@pytest.mark.parametrize("name", UNTRAINED)
class TestBoth:
    @pytest.mark.parametrize("size", [(33, 47), (200, 64)])
    def test_any_size_from_32_px(self, name: str, size: tuple[int, int]) -> None:
        network = build_network(name, 3).eval()
        seen: list[torch.Size] = []
        network.explain_layers[0].register_forward_hook(lambda m, i, o: seen.append(o.shape))
        with torch.no_grad():
            found = network(torch.rand(2, 3, *size))
            assert network.features(torch.rand(2, 1, *size)).shape == (2, network.width)
        assert found.shape == (2, 3)
        assert found.isfinite().all()
        assert min(seen[0][-2:]) > 1  # there is a map to explain

    def test_channels_last_stays_so_and_gives_the_same(self, name: str) -> None:
        network = build_network(name, 2).eval()
        panels = torch.rand(2, 3, 64, 64)
        seen: list[torch.Tensor] = []
        with torch.no_grad():
            plain = network(panels)
            network.to(memory_format=torch.channels_last)
            network.explain_layers[0].register_forward_hook(lambda m, i, o: seen.append(o))
            found = network(panels.to(memory_format=torch.channels_last))
        assert seen[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(plain, found, atol=1e-5)

    def test_every_weight_is_in_a_block_and_gets_a_gradient(self, name: str) -> None:
        network = build_network(name, 2)
        points = dict(network.blocks)
        held = {id(p) for module in points.values() for p in module.parameters()}
        assert held == {id(p) for p in network.body.parameters()}
        assert next(iter(points)) == "features.0"
        assert list(points)[-1] == "classifier.0"
        network(torch.rand(4, 3, 64, 64)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())

    def test_it_has_no_batch_norm_and_takes_minus_one_to_one(self, name: str) -> None:
        network = build_network(name, 1)
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
        assert not [key for key, _ in network.body.named_buffers()]
        assert float(network.mean.mean()) == float(network.std.mean()) == 0.5


def weights_of(before: int, widths: list[int], convolutions: int) -> int:
    """Numbers in 3×3 convolutions with a bias."""
    found = 0
    for width in widths:
        for _ in range(convolutions):
            found += 9 * before * width + width
            before = width
    return found


@pytest.mark.parametrize(
    ("name", "widths", "convolutions", "flat", "dense"),
    [("cnn", [32, 64, 128, 256], 1, 4096, 512), ("unet_encoder", [32, 64, 128, 256, 512], 2, 512, 256)],
)
def test_the_layers_are_those_of_the_docstring(
    name: str, widths: list[int], convolutions: int, flat: int, dense: int
) -> None:
    body = build_network(name, 1).body
    assert sum(p.numel() for p in body.parameters()) == weights_of(3, widths, convolutions) + flat * dense + dense
    kinds = [type(m) for m in body.features[0]]
    assert kinds == [nn.Conv2d, nn.ReLU] * convolutions + [nn.MaxPool2d]


class TestWeights:
    @pytest.mark.parametrize("weights", ["pretrained", "folder"])
    def test_it_stays_random_and_says_so_where_others_are_pretrained(self, weights: str, tmp_path: Path) -> None:
        network = build_network("cnn", 2)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        stated = str(tmp_path) if weights == "folder" else weights
        assert load_weights(network, stated, folder=tmp_path) == (NO_WEIGHTS, [])
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
        assert load_weights(network, "random")[0] == "random, as the study states"

    def test_a_bundle_of_its_own_kind_only(self, tmp_path: Path) -> None:
        given = build_network("cnn", 1)
        save_file(given.state_dict(), tmp_path / "model.safetensors")
        facts = {"backbone": "cnn", "subjects": ["a"], "weights": NO_WEIGHTS}
        facts |= {"format": 1, "network": {}, "weights_sha256": checksum(tmp_path / "model.safetensors")}
        (tmp_path / "model.json").write_text(json.dumps(facts))
        network = build_network("cnn", 4)
        told, seen = load_weights(network, f"bundle:{tmp_path}")
        assert NO_WEIGHTS in told
        assert seen == ["a"]
        assert torch.equal(network.body.classifier[0].weight, given.body.classifier[0].weight)
        with pytest.raises(WeightsError, match=r"holds a cnn, .* unet_encoder"):
            load_weights(build_network("unet_encoder", 1), f"bundle:{tmp_path}")
