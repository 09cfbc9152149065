"""The statements of the publications in docs/fidelity: each has a state, what shows it, and values of its preset.

Some statements are counts of the publications' own tables and networks, which are computed here.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from casewise.models.backbones import build_network
from casewise.study.loading import read_study
from casewise.study.schema import Recipe
from casewise.training.compute_plan import ComputePlan
from casewise.training.loop import Training, TrainingContext
from casewise.training.rates import optimizer_of, parameter_groups
from tests.test_training import NUMBERS, data

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docs/fidelity").glob("*.yaml"))
UNEXPLAINED = {"exact", "equivalent"}
STATES = UNEXPLAINED | {"deviates", "not stated", "contradictory", "fact"}
KEYS = {"statement", "place", "state", "reason", "note", "preset", "value", "where", "shown_by"}
papers = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def statements(path: Path) -> list[dict[str, Any]]:
    paper = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [{"preset": paper["preset"], **row} for rows in paper["statements"].values() for row in rows]


@papers
def test_every_statement_has_a_state_and_what_shows_it(path: Path) -> None:
    rows = statements(path)
    assert len(rows) > 50
    for row in rows:
        assert set(row) <= KEYS, row
        assert row["place"], row
        assert row["state"] in STATES, row
        assert ("reason" in row) == (row["state"] not in UNEXPLAINED), row
        assert row.get("value") or (row.get("where") and row.get("shown_by")), row
        for file, _, test in (shown.partition("::") for shown in row.get("shown_by", ()) if "::" in shown):
            assert f"def {test}(" in (ROOT / file).read_text(), row


@cache
def settings_of(preset: str, folder: Path) -> Any:
    (path := folder / f"{preset}.yaml").write_text(f"extends: {preset}\ncohort: cohort.csv\n")
    return read_study(path).model_dump(mode="json")


@pytest.mark.plugins("volumes")
@papers
def test_values_are_those_of_the_presets(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, checked = tmp_path_factory.getbasetemp(), 0
    for row in statements(path):
        for key, expected in row.get("value", {}).items():
            value = settings_of(row["preset"], folder)
            for name in key.split("."):
                value = value[int(name)] if isinstance(value, list) else value[name]
            assert value == expected, (row["preset"], key)
            checked += 1
    assert checked > 25


# PyTorch's; fastai has betas of 0.9 and 0.99, an eps of 1e-5 and no weight decay.
RADAM = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "decoupled_weight_decay": True}


@pytest.mark.plugins("volumes")
def test_optimisers_are_those_of_the_presets(tmp_path: Path) -> None:
    wanted = {
        "onestep-pasi": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0}),
        "covid-cxr": (torch.optim.RAdam, RADAM),
        "ssc-skin": (torch.optim.Adam, {"lr": 0.0001, "weight_decay": 0.0}),
        "ssc-skin-cnn": (torch.optim.SGD, {"lr": 0.001, "momentum": 0.9}),
        "ssc-skin-unet": (torch.optim.SGD, {"lr": 0.001, "momentum": 0.9}),
        "ipmn-mri": (torch.optim.Adam, {"lr": 0.003, "weight_decay": 0.0}),
    }
    network = build_network("cnn", 2)
    for preset, (kind, options) in wanted.items():
        recipe = Recipe.model_validate(settings_of(preset, tmp_path)["recipe"])
        rate = 1e-3 if recipe.lr == "find" else recipe.lr
        optimizer = optimizer_of(parameter_groups(network, recipe, rate), recipe)
        assert type(optimizer) is kind
        assert all(options.items() <= group.items() for group in optimizer.param_groups)
        if recipe.schedule == "plateau":
            context = TrainingContext(NUMBERS, tmp_path, 0, ComputePlan())
            plateau = Training(network, recipe, data(range(4)), context).plateau
            assert (plateau.factor, plateau.patience, plateau.threshold) == (0.1, 10, 1e-4)


def bare(name: str) -> Any:
    with torch.device("meta"):
        return build_network(name, 3).body


def count(body: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in body.modules())


def test_layers_that_the_chest_paper_counts() -> None:
    for name, blocks in (("resnet101", [3, 4, 23, 3]), ("resnet152", [3, 8, 36, 3])):
        body = bare(name)
        assert [len(stage) for stage in (body.layer1, body.layer2, body.layer3, body.layer4)] == blocks
    vgg = bare("vgg19_bn")
    assert (count(vgg, nn.Conv2d), count(vgg, nn.Linear) + 1) == (16, 3)
    stages = bare("efficientnet_b0").features
    assert [len(stage) for stage in stages[1:-1]] == [1, 2, 2, 3, 3, 4, 1]
    last = [[m for m in stage.modules() if isinstance(m, nn.Conv2d)][-1].out_channels for stage in stages]
    assert last == [32, 16, 24, 40, 80, 112, 192, 320, 1280]


def test_layers_that_the_skin_paper_counts() -> None:
    from torchvision.models.mobilenetv2 import InvertedResidual

    body = bare("mobilenet_v2")
    assert (count(body, nn.Conv2d) + 1, count(body, InvertedResidual)) == (53, 17)
    for name, padding in (("unet_unpadded", 0), ("unet_encoder", 1)):
        parts = build_network(name, 2).body.features
        blocks = [[module for module in part.modules() if not list(module.children())] for part in parts]
        layers = [layer for block in blocks for layer in block]
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((3, 3), (1, 1), (padding, padding))}
        assert all(isinstance(layers[layers.index(c) + 1], nn.ReLU) for c in convolutions)
        widths = [c.out_channels for c in convolutions]
        assert widths[::2] == widths[1::2] == [32 * 2**step for step in range(len(blocks))]
        pools = [layer for layer in layers if isinstance(layer, nn.MaxPool2d)]
        assert {(pool.kernel_size, pool.stride) for pool in pools} == {(2, 2)}
        for c in convolutions:  # He et al.: the variance of maps stays
            assert float(c.weight.detach().std()) == pytest.approx((2 / (9 * c.in_channels)) ** 0.5, rel=0.2)


def test_equations_1_to_4_are_those_of_the_transformer() -> None:
    """Nine slices of 64 pixels in two channels, patches of 16: 9 × 64² / 16² tokens and a class token."""
    torch.manual_seed(0)
    network = build_network("vit_tiny_patch16_224", 3, fusion="early", sequences=2, side=192).eval()
    body, scan = network.bodies[0], torch.rand(2, 2, 192, 192)
    with torch.no_grad():
        patches = body.patch_embed((scan - network.mean) / network.std)
        assert patches.shape[1] == 9 * 64**2 // 16**2
        z = torch.cat([body.cls_token.expand(2, -1, -1), patches], dim=1) + body.pos_embed
        for block in body.blocks:
            z = block.attn(block.norm1(z)) + z
            z = block.mlp(block.norm2(z)) + z
        y = body.norm(z)[:, 0]
        assert torch.allclose(network.features(scan), y, atol=1e-5)
        assert torch.allclose(network(scan), network.head(y), atol=1e-5)
