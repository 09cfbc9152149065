"""Sources of backbones: one file adds a library, whose networks are backbones, encoders and first weights."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from casewise.errors import StudyError
from casewise.models.backbones import build_network
from casewise.models.encoders import build_encoder, description, encoder_facts
from casewise.models.linear import candidates
from casewise.models.sources.hub import HubSource
from casewise.models.weights import load_weights
from casewise.study.sources import (
    BackboneSource,
    Body,
    Origin,
    check_networks,
    register_source,
    source_of,
    sources,
)
from casewise.study.weight_files import FirstWeights
from casewise.study.weight_origins import origins_of_weights, origins_sentence, tensors_sha256

HOW_TO = Path(__file__).parents[1] / "docs" / "howto-extend.md"
NAME = "small:two_layers"


class Small(BackboneSource):
    """A library of one network, with weights in a folder of its own."""

    name = "small networks"
    prefix = "small:"

    def names(self) -> list[str]:
        return [NAME]

    def has(self, name: str) -> bool:
        return name == NAME

    def build(self, name: str, *, channels: int, **options: Any) -> Body:
        layers = nn.Conv2d(channels, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()
        return Body(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8, ((0.1,) * 3, (0.2,) * 3))

    def download(self, name: str) -> tuple[str, dict[str, torch.Tensor]]:
        torch.manual_seed(1)
        return "small networks, version 1", self.build(name, channels=3).module.state_dict()

    def origin(self, name: str) -> Origin:
        return Origin("published", "small networks", images="nobody", licence="mit")


@pytest.fixture(scope="module")
def small() -> BackboneSource:
    register_source(Small())
    return source_of(NAME)


def test_a_registered_source_has_names_weights_and_an_origin(small: BackboneSource, tmp_path: Path) -> None:
    assert small in sources()
    assert sources()[-1].takes_other_names
    assert check_networks([NAME]) == check_networks([NAME], encoders=True) == [NAME]
    with pytest.raises(StudyError, match=f"Did you mean '{NAME}'"):
        check_networks(["small:two_layer"])
    first = FirstWeights(NAME)
    assert first.needs_download
    (origin,) = origins_of_weights(first)
    assert not origin.sha256
    assert "mit" in origins_sentence([origin], "subject")
    assert description(NAME).startswith(NAME)
    _, tensors = small.download(NAME)
    save_file(tensors, tmp_path / "two_layers.safetensors")
    in_folder = FirstWeights(NAME, folder=tmp_path)
    assert in_folder.file == tmp_path / "two_layers.safetensors"
    assert [each.sha256 for each in origins_of_weights(in_folder)] == [tensors_sha256(in_folder.file)]


def test_its_networks_are_backbones_and_encoders(small: BackboneSource) -> None:
    network = build_network(NAME, 2)
    assert load_weights(network, "pretrained") == ("small networks, version 1", [])
    assert torch.equal(network.body.state_dict()["0.weight"], small.download(NAME)[1]["0.weight"])
    assert network.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    assert build_network(NAME, 2, fusion="early", sequences=2)(torch.rand(1, 2, 64, 64)).shape == (1, 2)
    encoder = build_encoder(encoder_facts(NAME, None), 64)
    assert {spec.source for spec in candidates([encoder], 0, 64)} >= {"features"}
    again = build_encoder(json.loads(json.dumps(encoder.facts)), 64)
    again.network.load_state_dict(encoder.network.state_dict())
    with torch.no_grad():
        panels = torch.rand(1, 3, 128, 128)
        assert torch.equal(again.maps(["2"], panels)["2"], encoder.maps(["2"], panels)["2"])


def test_names_files_and_origins_need_no_network_library() -> None:
    code = """
import sys
from casewise.study.sources import check_networks, libraries
from casewise.study.weight_files import FirstWeights
from casewise.study.weight_origins import origins_of_weights

for name in check_networks(["resnet18", "cnn", "timm:resnet18.a1_in1k", "hf-hub:a/b"]):
    FirstWeights(name).clause(), origins_of_weights(FirstWeights(name))
assert set(libraries()) == {"torchvision", "timm"}
assert not {"torch", *libraries()} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_source_of_the_how_to_is_a_library(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the example of the how-to builds networks of transformers")
    from transformers import Dinov2Config, Dinov2Model

    (code,) = re.findall(r"```python\n# casewise_transformers\.py\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    module: dict[str, Any] = {}
    exec(code, module)
    module["plugin"].register()
    name = "transformers:owner/dino"
    assert isinstance(source_of(name), HubSource)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14)
    stored = Dinov2Model(config)
    (tmp_path / "owner_dino.json").write_text(json.dumps(config.to_dict()))
    save_file(stored.state_dict(), tmp_path / "owner_dino.safetensors")
    facts = json.loads(json.dumps(encoder_facts(name, tmp_path)))
    network = build_network(**facts, outputs=2, side=56).eval()
    assert str(tmp_path) in load_weights(network, "pretrained", folder=tmp_path)[0]
    panels = torch.rand(2, 3, 56, 56)
    scaled = (panels - network.mean) / network.std
    with torch.no_grad():
        assert torch.equal(network.features(panels), stored.eval()(scaled).pooler_output)
        encoder = build_encoder(facts, 120)
        maps = encoder.maps(["encoder.layer.2"], torch.rand(1, 3, 120, 120))
    assert (encoder.side, maps["encoder.layer.2"].shape) == (126, (1, 32, 9, 9))


class _Tokens(nn.Module):
    """A transformer as libraries other than timm build it: a class token, and a patch for each cell of 8 pixels."""

    num_prefix_tokens = 1

    def __init__(self, side: int) -> None:
        super().__init__()
        self.patch_embed = SimpleNamespace(grid_size=(side // 8, side // 8))
        self.patches, self.block = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 4)

    def forward(self, panels: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(panels).flatten(2).transpose(1, 2)
        output: torch.Tensor = self.block(torch.cat((tokens.mean(1, keepdim=True), tokens), dim=1))
        return output[:, 0]


class Transformers(BackboneSource):
    name = "small transformers"
    prefix = "tokens:"

    def side(self, name: str, side: int, config: Any) -> int:
        return side // 8 * 8

    def build(self, name: str, *, side: int | None, **options: Any) -> Body:
        return Body(_Tokens(side or 64), 4, blocks=("block",))


def test_encoders_read_the_tokens_of_a_transformer_of_another_library() -> None:
    register_source(Transformers())
    encoder = build_encoder({"name": "tokens:one"}, 133)
    assert (encoder.side, encoder.blocks) == (128, ("block",))
    assert {spec.modules for spec in candidates([encoder], 0, 133) if spec.source == "features"} == {("block",)}
    panels = torch.zeros(2, 3, 128, 128)
    panels[1, :, 120:, :8] = 1
    with torch.no_grad():
        maps = encoder.maps(["block"], panels)["block"]
    assert maps.shape == (2, 4, 16, 16)
    assert int((maps[1] - maps[0]).abs().mean(0).argmax()) == 15 * 16
