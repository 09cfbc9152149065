"""Where the cells of a map look: as the layers' windows say, and as a trained network's maps show."""

from typing import Any

import pytest
import torch
from torch import nn

from casewise.models.backbones import build_network
from casewise.plugins.explain.methods.dispatch import cell_centres, upsampled, zero_to_one
from casewise.plugins.explain.methods.gradcam import layer_of

# first middle and step in pixels: from each backbone's kernels, strides and paddings by hand
STEP_32 = ("resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "efficientnet_b0")
PLACES = dict.fromkeys(STEP_32, (0, 32)) | dict.fromkeys(("vgg11", "cnn", "unet_encoder"), (7.5, 16))
PLACES |= dict.fromkeys(("alexnet", "squeezenet1_1"), (15, 16))
PLACES |= {"densenet121": (14, 32), "googlenet": (22, 32), "convnext_atto": (15.5, 32)}


QUICK = ("resnet18", "shufflenet_v2_x0_5", "cnn", "convnext_atto")


@pytest.mark.parametrize("name", QUICK)
def test_middles_are_what_the_windows_say(name: str) -> None:
    network = build_network(name, 1)
    middles = cell_centres(network.bodies[0], layer_of(network, (128, 192), 1), (128, 192))
    first, step = PLACES[name]
    for found in middles:
        torch.testing.assert_close(found, first + step * torch.arange(len(found), dtype=torch.float64))


def test_attention_tells_no_places() -> None:
    import timm

    body: Any = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    assert cell_centres(body, "blocks.0.norm1", (224, 224)) is None


def test_a_cell_s_peak_lies_at_its_middle() -> None:
    maps = torch.zeros(1, 3, 3)
    maps[0, 1, 2] = 5.0
    found = zero_to_one(upsampled(maps, (12, 12), (torch.tensor([0.0, 4.0, 8.0]), torch.tensor([1.0, 5.0, 9.0]))))
    at = (found[0] == 1).nonzero()
    # beyond the last middle nothing is known to be nearer
    assert at.tolist() == [[4, 9], [4, 10], [4, 11]]
    assert zero_to_one(upsampled(torch.rand(2, 1, 1), (4, 4))).max() == 0


def test_cells_of_a_strided_network_point_at_what_it_saw() -> None:
    """A network of four strided layers that shows where something bright is, at every pixel in turn."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (1, 4, 4, 4):
        layers += [nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.ReLU()]
    body = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.fill_(0.1)  # type: ignore[union-attr, operator]
            layer.bias.zero_()  # type: ignore[union-attr, operator]
    middles, spots = cell_centres(body, "7", (96, 96)), torch.zeros(64, 1, 96, 96)
    places = torch.randint(20, 76, (64, 2), generator=torch.Generator().manual_seed(0))
    spots[torch.arange(64), 0, places[:, 0], places[:, 1]] = 1
    with torch.no_grad():
        maps = body(spots)[:, 0]
    away = {}
    for name, used in (("placed", middles), ("even", None)):
        found, grid = zero_to_one(upsampled(maps, (96, 96), used)), torch.arange(96.0)
        centres = torch.stack([(found.sum(dim=d) * grid).sum(dim=1) / found.sum(dim=(1, 2)) for d in (2, 1)], dim=1)
        away[name] = (centres - places).mean(dim=0)
    assert away["placed"].abs().max() < 1
    assert away["even"].min() > 6.5
