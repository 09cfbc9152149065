"""Grad-CAM: the definition by hand, every backbone, what is asked, and a network left as it was."""

import os
from typing import Any

import pytest
import torch
from torch import nn

from casewise.models.backbones import Network, NetworkOptions, build_network
from casewise.models.outputs import Output
from casewise.plugins.explain.methods.dispatch import scaled
from casewise.plugins.explain.methods.gradcam import gradcam_by_sequence, last_map, layer_of
from casewise.plugins.explain.methods.target import ExplainTarget
from casewise.plugins.explain.saliency import own_maps
from casewise.plugins.volumes.fusion import Fused
from casewise.study.sources import Body, source_of
from tests.plugins.explain.maps import cell_maps, explain

NUMBER = ExplainTarget((Output("extent"),), "extent")
LABEL = (Output("label", "classification", 3),)


def signed_maps(network: Network, panels: torch.Tensor, target: ExplainTarget, map_size: int = 1) -> torch.Tensor:
    """Grad-CAM with its sign by sequence, (B, S, h, w); of the last map unless `map_size` says otherwise."""
    layer = layer_of(network, (panels.shape[-2], panels.shape[-1]), map_size)
    return gradcam_by_sequence(network, panels, target, layer)


def gradcam(network: Network, panels: torch.Tensor, target: ExplainTarget) -> torch.Tensor:
    """What supports the target, summed over sequences: (B, h, w)."""
    return signed_maps(network, panels, target).clamp(min=0).nansum(dim=1)


def panels_of(side: int = 128, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def built(name: str, outputs: int = 1) -> Network:
    """A network with random weights for panels of 128 pixels."""
    torch.manual_seed(0)
    return build_network(name, outputs, side=None if source_of(name).is_convolutional else 128)


def by_hand(network: Network, layer: nn.Module, panels: torch.Tensor, column: int) -> torch.Tensor:
    """Grad-CAM as published, with its sign: (B, h, w)."""
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda m, i, o: kept.append(o.clone()) or kept[-1])
    score = network.eval()(panels)[:, column].sum()
    hook.remove()
    (slope,) = torch.autograd.grad(score, kept[0])
    return (slope.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).detach()


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_it_is_as_published(name: str) -> None:
    network, panels = built(name, outputs=3), panels_of(64)
    for column in range(3):
        wanted = by_hand(network, network.body.get_submodule(last_map(network)), panels, column)
        found = signed_maps(network, panels, ExplainTarget(LABEL, "label", class_index=column))[:, 0]
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=float(wanted.abs().max()) * 1e-4)


class Quadrants(nn.Module):
    """A backbone of one layer that shows the panel's first two channels, pooled to their means."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.AvgPool2d(4)

    def forward(self, panels: torch.Tensor) -> torch.Tensor:
        return self.map(panels).mean(dim=(2, 3))


def known(weights: list[list[float]]) -> Network:
    """A network whose outputs weigh the means of the three channels by these numbers."""
    network = Network("resnet0", Body(Quadrants(), 3, ((0, 0, 0), (1, 1, 1))), len(weights), NetworkOptions())
    with torch.no_grad():
        network.head[-1].weight[:] = torch.tensor(weights)
        network.head[-1].bias.zero_()
    return network


def spots() -> torch.Tensor:
    """A panel with a spot in each channel: upper left, upper right, lower left."""
    panels = torch.zeros(1, 3, 16, 16)
    panels[0, 0, :4, :4], panels[0, 1, :4, 12:], panels[0, 2, 12:, :4] = 1, 1, 1
    return panels


def place(maps: torch.Tensor) -> tuple[int, int]:
    at = int(maps[0].argmax())
    return at // maps.shape[2], at % maps.shape[2]


def test_each_class_has_its_own_spot() -> None:
    network = known([[1, 0, 0], [0, 2, 0], [0, 0, 1]])
    targets = [ExplainTarget(LABEL, "label", class_index=number) for number in range(3)]
    found = [place(gradcam(network, spots(), target)) for target in targets]
    assert found == [(0, 0), (0, 3), (3, 0)]
    # the second class is predicted
    assert place(gradcam(network, spots(), ExplainTarget(LABEL, "label"))) == (0, 3)


def test_grades_are_explained_by_passing_and_stopping() -> None:
    outputs = (Output("extent"), Output("grade", "ordinal", 3))
    # the first channel speaks for passing the first grade, the second for passing the second
    network = known([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert place(gradcam(network, spots(), ExplainTarget(outputs, "grade", class_index=2))) in {(0, 0), (0, 3)}
    lowest = signed_maps(network, spots(), ExplainTarget(outputs, "grade", class_index=0))[0, 0]
    assert lowest[0, 0] < 0
    assert lowest[0, 3] == 0
    middle = signed_maps(network, spots(), ExplainTarget(outputs, "grade", class_index=1))[0, 0]
    assert middle[0, 0] > 0 > middle[0, 3]


@pytest.mark.parametrize("name", ["mobilenet_v2", "vit_tiny_patch16_224"])
def test_the_network_is_left_as_it_was(name: str) -> None:
    network = built(name).train()
    next(network.body.children()).eval()
    frozen = list(network.body.parameters())[: -len(list(network.head.parameters()))]
    for parameter in frozen:
        parameter.requires_grad_(False)
    network(panels_of()).sum().backward()
    values = {key: value.clone() for key, value in network.state_dict().items()}
    was = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]
    learned = [(p, p.requires_grad, p.grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()]
    panels = panels_of()
    gradcam(network, panels, NUMBER)
    explain(network, panels, NUMBER)
    assert [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()] == was
    assert all(torch.equal(value, values[key]) for key, value in network.state_dict().items())
    assert not panels.requires_grad
    for parameter, learns, gradient, value in learned:
        assert parameter.requires_grad == learns
        assert parameter.grad is gradient
        assert value is None or torch.equal(gradient, value)


@pytest.mark.parametrize("kind", ["late", "late-shared"])
def test_late_fusion_has_a_map_for_each_sequence(kind: Any) -> None:
    bodies = [Quadrants() for _ in range(2 if kind == "late" else 1)]
    body = Fused(bodies, 3, kind=kind, sequences=2, missing="mask")
    network = Network("late", Body(body, 6, ((0, 0), (1, 1))), 1, NetworkOptions(fusion=kind, sequences=2))
    with torch.no_grad():
        network.head[-1].weight[:] = torch.tensor([1.0, 1, 1, -2, -2, -2])
    first, second = spots()[:, :2], spots()[:, :2]
    second[:, 0] = torch.nan
    panels = torch.cat([first, second, torch.zeros(1, 2, 16, 16)])
    found = signed_maps(network, panels, NUMBER)
    assert (found.shape, place(found[:1, 0])) == ((3, 2, 4, 4), (0, 0))
    assert place(-found[:1, 1]) == place(-found[1:2, 1]) == (0, 3)
    assert found[1, 0].isnan().all()
    assert (found[2].abs().max(), place(gradcam(network, panels, NUMBER))) == (0, (0, 0))
    maps = cell_maps(network, panels, NUMBER)
    each = scaled(maps.by_sequence(), maps.method)
    assert each.shape == (3, 2, 16, 16)
    assert each[1, 0].isnan().all()
    # what lowers the number only
    assert each[0, 1].max() == 0
    assert explain(network, panels, NUMBER).isfinite().all()


def test_maps_are_taken_at_stride_16_where_a_network_has_it() -> None:
    assert layer_of(built("resnet18"), (128, 128)) == "layer3.1"
    # its last map has a stride of 16 already, although it loses cells at the edge: 7 of 8
    squeezed = built("squeezenet1_1")
    assert layer_of(squeezed, (128, 128)) == layer_of(squeezed, (128, 128), 1)
    # an activation belongs to the block before it
    dense: Any = built("vgg11_bn")
    assert isinstance(dense.body.get_submodule(layer_of(dense, (128, 128))), torch.nn.ReLU)


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.mark.parametrize(("name", "outside"), [("unet", 0), ("unet_unpadded", 46)])
def test_a_unet_shows_its_own_map_where_it_lies(name: str, outside: int) -> None:
    network = built(name)
    own = own_maps(network, panels_of())
    body: Any = network.body
    with torch.no_grad():
        found = body.map_of((panels_of() - network.mean) / network.std)[:, 0]
    assert own.shape == (2, 128, 128)
    assert torch.equal(own[:, outside : 128 - outside, outside : 128 - outside], found)
    assert (~own.isnan()).sum() == found.numel()
    assert own_maps(built("cnn"), panels_of()).numel() == 0
