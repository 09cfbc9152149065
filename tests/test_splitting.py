"""A network cut at its freeze point computes the same, to the bit."""

from typing import Any

import pytest
import torch
from torch import nn

from casewise.errors import TrainingError
from casewise.models.backbones import Network, build_network
from casewise.models.freezing import freeze, layers, split_at
from casewise.study.sources import listed_names, source_of

# one of each family quickly, the others with the slow tests
QUICK = {"alexnet", "resnet18", "squeezenet1_1", "densenet121", "shufflenet_v2_x0_5"}
QUICK |= {"mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "efficientnet_b0", "test_resnet"}
QUICK |= {name for name in listed_names() if not source_of(name).is_pretrained}
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in [*listed_names(), "test_resnet", "timm:resnet34"]
    if name not in ("googlenet", "unet", "unet_unpadded", "unet_dense")
]


def norms_moved(network: nn.Module) -> None:
    """Running statistics of a network that has seen something: fresh ones hide a norm that is left out."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]


def built(name: str) -> Network:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build_network(name, 2)
    norms_moved(network)
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_both_parts_give_the_features_to_the_bit(name: str) -> None:
    network, panels = built(name), torch.rand(2, 3, 64, 64)
    whole, count = network.features(panels), len(layers(network))
    points, cuts = [f"{count // 3} layers", f"{2 * count // 3} layers", f"{len(network.blocks) // 2} blocks"], set()
    for upto in ["1 layer", *points, "all", network.blocks[-2][0]]:
        frozen, rest = split_at(network, upto)
        kept = frozen(panels)
        stored = kept.clone()
        assert torch.equal(rest(kept), whole), upto
        assert torch.equal(kept, stored), f"{upto}: the rest writes into what is kept"
        cuts.add(frozen.at)
    assert len(cuts) >= 3
    assert torch.equal(split_at(network, "all")[0](panels), whole)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_nothing_that_learns_is_in_the_frozen_part(name: str) -> None:
    network = built(name)
    total = len(layers(network))
    for count in range(1, total, 1 + total // 20):
        upto = f"{count} layers"
        freeze(network, upto)
        frozen, rest = split_at(network, upto)
        assert not any(p.requires_grad for p in frozen.parameters())
        parts = [{id(p) for p in part.parameters()} for part in (frozen, rest)]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == {id(p) for p in network.body.parameters()}
        network.train()
        assert not any(m.training for m in frozen.modules() if list(m.parameters()) and not list(m.children()))


@pytest.mark.parametrize(
    ("name", "upto", "at", "shape"),
    [
        ("mobilenet_v2", "features.2.conv.0", "features.2.conv.0", (1, 96, 32, 32)),
        ("mobilenet_v2", "11 blocks", "features.10", (1, 64, 4, 4)),
        ("mobilenet_v2", "features.3.conv.0", "features.2", (1, 24, 16, 16)),  # its block adds its input
        ("resnet18", "1 layer", "bn1", (1, 64, 16, 16)),  # kept behind the max pooling
        ("resnet18", "layer2", "layer2", (1, 128, 8, 8)),
        ("mnasnet0_5", "layers.8.0.layers.1", "layers.8.0.layers.1", (1, 24, 32, 32)),
        ("densenet121", "features.denseblock1.denselayer3", "features.norm0", (1, 64, 16, 16)),
        ("cnn", "2 blocks", "features.1", (1, 64, 16, 16)),
        ("unet_encoder", "2 layers", "features.0.2", (1, 32, 32, 32)),
        ("mobilenet_v3_small", "features", "features", (1, 576)),
        ("mobilenet_v2", "all", "features", (1, 1280)),
    ],
)
@torch.no_grad()
def test_where_it_is_cut(name: str, upto: str, at: str, shape: tuple[int, ...]) -> None:
    frozen, rest = split_at(built(name), upto)
    assert (frozen.at, rest.at) == (at, at)
    assert frozen(torch.rand(1, 3, 64, 64)).shape == shape


def test_training_the_rest_on_what_was_kept_gives_the_same_gradients() -> None:
    """The frozen part stays in eval mode, so both ways differ in nothing but what is computed again."""
    panels, found = torch.rand(4, 3, 64, 64), []
    for kept in (False, True):
        network = built("mobilenet_v2")
        freeze(network, "features.3.conv.0")  # the rest holds frozen layers too
        network.train()
        frozen, rest = split_at(network, "features.3.conv.0")
        with torch.no_grad():
            stored = frozen(panels)
        torch.manual_seed(3)
        network.head(rest(stored) if kept else network.features(panels)).square().mean().backward()
        found.append({key: p.grad for key, p in network.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])  # type: ignore[arg-type]


def test_what_is_frozen_stays_in_eval_mode_on_both_sides() -> None:
    network = built("efficientnet_b0")
    freeze(network, "features.4.1.block.0")  # in a block that adds its input
    frozen, rest = split_at(network, "features.4.1.block.0")
    assert frozen.at == "features.4.0"
    learner = nn.Sequential(rest, network.head)
    learner.eval().train()
    frozen.train()
    assert not any(module.training for module in list(frozen.modules())[1:] if list(module.parameters()))
    first, second = network.body.features[4][1].block[:2]
    assert not any(module.training for module in first.modules())
    assert all(module.training for module in second.modules())
    assert all(module.training for module in network.body.features[5].modules())
    assert len(list(rest.parameters())) == len({id(p) for p in rest.parameters()})
    assert not [key for key in rest.state_dict() if "held" in key]


@pytest.mark.parametrize(
    ("name", "upto", "told"),
    [
        ("vit_tiny_patch16_224", "4 blocks", "vit_tiny_patch16_224 at its freeze point"),
        ("mobilenet_v2", "none", "cannot be cut before its first layer, .*: nothing is frozen"),
        ("mobilenet_v2", "60 layers", "has 52 layers and 19 blocks"),
        ("googlenet", "4 blocks", "googlenet at its freeze point"),
    ],
)
def test_where_it_cannot_be_cut(name: str, upto: Any, told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        split_at(build_network(name, 1), upto)
