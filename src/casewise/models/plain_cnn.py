"""The two networks that pretrained ones are compared with: a plain CNN and the contracting path of a U-Net.

What is published (003_eab959a42de94a48.txt, sections II.C, II.D and III) and what is not: the text says of its CNN only
that it was trained from nothing for 120 epochs; its layers are in figures 5 and 6, which the text does not repeat. Of
the path it says: two 3×3 convolutions without padding, each followed by a ReLU, then 2×2 max pooling of stride 2;
several such blocks, with twice the channels after each pooling; then fully connected layers on the flattened map.

Taken from there: 3×3 convolutions with ReLU, 2×2 max pooling, doubled channels, fully connected layers at the end, no
batch norm (none is named), random weights at the start.

Our choice, for want of a figure: the numbers of blocks, the widths (the U-Net of Ronneberger et al. 2015 begins with 64
channels, this one with 32), one convolution a block in `cnn`, padding (without it 32 px do not reach the last block),
the averages before the fully connected layers (4×4 cells in `cnn`, one cell in `unet_encoder`: any size of image fits),
the widths of those layers, the first weights (He et al. 2015), and dropout, which is the recipe's as for every network.
So times and accuracies of these two are not the published CNN's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALLEST = 32


@dataclass(frozen=True)
class Plan:
    """Blocks of convolutions by their widths, the cells a side that are kept of the last map, the dense layer."""

    widths: tuple[int, ...]
    convolutions: int
    cells: int
    dense: int
    pooled_last: bool


PLANS = {
    "cnn": Plan((32, 64, 128, 256), convolutions=1, cells=4, dense=512, pooled_last=True),
    "unet_encoder": Plan((32, 64, 128, 256, 512), convolutions=2, cells=1, dense=256, pooled_last=False),
}


class PlainNetwork(nn.Module):
    """Blocks of convolutions, ReLU and max pooling, then a dense layer: (B, 3, H, W) → (B, dense); H, W ≥ 32."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        before = 3
        for position, width in enumerate(plan.widths):
            parts: list[nn.Module] = []
            for _ in range(plan.convolutions):
                parts += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            if plan.pooled_last or position < len(plan.widths) - 1:
                parts.append(nn.MaxPool2d(2))
            blocks.append(nn.Sequential(*parts))
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(plan.cells)
        self.classifier = nn.Sequential(nn.Linear(before * plan.cells**2, plan.dense), nn.ReLU(inplace=True))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, panels: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(panels)), 1))


def plain_network(name: str) -> tuple[nn.Module, int]:
    """The body named in `casewise.study.backbones.UNTRAINED` with random weights, and the width of its features.

    >>> body, width = plain_network("cnn")
    >>> width, sum(parameter.numel() for parameter in body.parameters())
    (512, 2486080)
    """
    plan = PLANS[name]
    return PlainNetwork(plan), plan.dense
