"""Batch norms that keep their statistics are computed with the convolution before them, with the same gradients."""

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from casewise.models.backbones import build_network, keep_statistics
from casewise.models.freezing import freeze, split_at
from casewise.models.layers import FoldingSequential, replace_layers
from casewise.study.schema import Recipe
from casewise.training.loop import split_batch

NETWORKS = {"mobilenet_v2": 52, "shufflenet_v2_x0_5": 56, "resnet18": 3}


def with_statistics(name: str) -> Any:
    """A network in double precision whose batch norms have different weights and statistics."""
    torch.manual_seed(0)
    network = build_network(name, 2).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 1.5)
            for values in (module.bias.data, module.running_mean):
                values.uniform_(-0.2, 0.2)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    return network


def unfolded(network: Any) -> Any:
    """A copy with the layers of the library."""
    other = copy.deepcopy(network)
    if type(other) is FoldingSequential:
        return nn.Sequential(*other)
    for name, module in list(other.named_modules()):
        if type(module) is FoldingSequential:
            outer, _, child = name.rpartition(".")
            setattr(other.get_submodule(outer), child, nn.Sequential(dict_of(module)))
    return other


def dict_of(module: nn.Module) -> OrderedDict[str, nn.Module]:
    return OrderedDict(module.named_children())


def folding(*layers: nn.Module) -> nn.Sequential:
    """Layers as they are in a network that is built."""
    body = nn.ModuleList([nn.Sequential(*layers)])
    replace_layers(body)
    return body[0]  # type: ignore[return-value]


def gradients(network: Any, panels: Tensor, parts: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs in training, and the gradient of every parameter that is trained."""
    outputs = split_batch(network, panels, parts)
    (outputs * torch.arange(outputs.numel()).reshape(outputs.shape)).sum().backward()
    return outputs.detach(), {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def folded_count(network: Any, panels: Tensor) -> int:
    """How many batch norms a step of training leaves out."""
    counts, forward = [], nn.BatchNorm2d.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.BatchNorm2d, "forward", lambda self, values: counts.append(1) or forward(self, values))
        network(panels)
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) - len(counts)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_separate_layers(name: str) -> None:
    network = copy.deepcopy(with_statistics(name))  # copies are folded as well
    other, panels = unfolded(network), torch.rand(4, 3, 64, 64, dtype=torch.float64)
    for each in (network.train(), other.train()):
        keep_statistics(each)
    assert (folded_count(network, panels), folded_count(other, panels)) == (NETWORKS[name], 0)
    (outputs, own), (expected, of_other) = gradients(network, panels), gradients(other, panels)
    assert torch.allclose(outputs, expected, rtol=1e-9, atol=1e-12)
    assert own.keys() == of_other.keys() == dict(network.named_parameters()).keys()
    for parameter, gradient in own.items():
        assert torch.allclose(gradient, of_other[parameter], rtol=1e-7, atol=1e-9), parameter


def test_a_batch_in_parts_has_the_same_gradients() -> None:
    network = with_statistics("mobilenet_v2").train()
    keep_statistics(network)
    panels = torch.rand(6, 3, 64, 64, dtype=torch.float64)
    outputs, own = gradients(network, panels)
    network.zero_grad(set_to_none=True)
    in_parts, of_parts = gradients(network, panels, parts=3)
    assert torch.allclose(outputs, in_parts, rtol=1e-9)
    assert all(torch.allclose(own[name], of_parts[name], rtol=1e-7, atol=1e-9) for name in own)


def test_a_convolution_with_a_bias_groups_and_stride_is_folded() -> None:
    torch.manual_seed(0)
    network: Any = folding(nn.Conv2d(4, 6, 3, stride=2, groups=2, padding=1), nn.BatchNorm2d(6))
    network[1].running_mean.uniform_(-1, 1)
    network[1].running_var.uniform_(0.5, 2)
    nn.init.uniform_(network[1].weight)
    nn.init.uniform_(network[1].bias)
    network.double()
    other, panels = unfolded(network), torch.rand(3, 4, 9, 9, dtype=torch.float64)
    for each in (network, other):
        keep_statistics(each)
    assert folded_count(network, panels) == 1
    with torch.no_grad():
        assert folded_count(network, panels) == 0
    keep_statistics(network)
    (outputs, own), (expected, of_other) = gradients(network, panels), gradients(other, panels)
    assert torch.allclose(outputs, expected, rtol=1e-12)
    assert own.keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert all(torch.allclose(own[name], of_other[name], rtol=1e-10) for name in own)


@pytest.mark.parametrize("mode", ["predicting", "explaining", "updating"])
def test_nothing_changes_where_statistics_are_updated_or_nothing_is_trained(mode: str) -> None:
    network = with_statistics("mobilenet_v2").train(mode == "updating")
    other, panels = unfolded(network), torch.rand(4, 3, 64, 64, dtype=torch.float64)
    with torch.set_grad_enabled(mode != "predicting"):
        assert torch.equal(network(panels), other(panels))
        for (name, values), (_, expected) in zip(network.state_dict().items(), other.state_dict().items(), strict=True):
            assert torch.equal(values, expected), name
        assert folded_count(network, panels) == 0


@pytest.mark.parametrize("needed", [False, True])
def test_a_network_can_be_divided_between_the_two_layers(needed: bool) -> None:
    network = with_statistics("mobilenet_v2").train()
    keep_statistics(network)
    freeze(network, "features.1.conv.0.0")
    first, rest = split_at(network, "features.1.conv.0.0")
    panels = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.set_grad_enabled(needed):
        activations = first(panels)
    plain = unfolded(network)
    assert torch.allclose(rest(activations), plain.features(panels), rtol=1e-9)


def test_only_a_chain_of_both_layers_is_folded() -> None:
    class Twice(nn.Sequential):
        """One convolution that is used twice."""

        def forward(self, values: Tensor) -> Tensor:
            return self[1](self[0](self[0](values)))

    layers = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    apart = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4))
    bare, reflecting = nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    others = [nn.Sequential(layers[0], bare), nn.Sequential(nn.ReLU(), layers[1]), nn.Sequential(reflecting, layers[1])]
    for body in [Twice(*layers), apart, *others]:
        whole = nn.ModuleList([body])
        replace_layers(whole)
        assert not any(isinstance(module, FoldingSequential) for module in whole.modules()), body


def test_a_map_that_the_head_reads_is_computed() -> None:
    body = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())})
    replace_layers(body, read_map="a.0")
    assert type(body["a"]) is nn.Sequential
    replace_layers(body, read_map="a.2")
    assert type(body["a"]) is FoldingSequential


def test_the_stored_weights_are_those_of_the_library() -> None:
    from torchvision.models import mobilenet_v2

    names = [name.removeprefix("body.") for name in build_network("mobilenet_v2", 1).state_dict()]
    assert set(mobilenet_v2().state_dict()) - set(names) == {"classifier.1.weight", "classifier.1.bias"}


def test_a_recipe_keeps_statistics_if_every_phase_does() -> None:
    kept, phases = {"batch_norm": "keep_statistics"}, [{"epochs": 1}, {"epochs": 1, "batch_norm": "update"}]
    assert not Recipe().keeps_statistics
    assert Recipe.model_validate(kept).keeps_statistics
    assert Recipe.model_validate({**kept, "phases": phases[:1]}).keeps_statistics
    assert not Recipe.model_validate({**kept, "phases": phases}).keeps_statistics
    assert not Recipe.model_validate({"phases": [{"epochs": 1, **kept}, {"epochs": 1}]}).keeps_statistics
    assert Recipe.model_validate({"phases": [{"epochs": 1, **kept}]}).keeps_statistics
