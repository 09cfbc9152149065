"""The networks from scratch of the published study of skin biopsies: U-Nets and their encoder.

What is published of the plain networks (Akay et al. 2021, sections II.C, II.D and III) and what is not: the text says
of its CNN only that it was trained for 120 epochs; its layers are in figures 5 and 6, which the text does not repeat,
and its first weights are not stated. Of the contracting path of a U-Net it says: two 3×3 convolutions without padding,
each followed by a ReLU, then 2×2 max pooling of stride 2; several such blocks, with twice the channels after each
pooling; then fully connected layers on the flattened map. Its decoder, in section II.B: pooling replaced by
up-sampling, maps of the contracting path combined with the enlarged ones, many channels in this part, segmentation
maps.

Our choice, for want of a figure: the numbers of blocks, the widths (the U-Net of Ronneberger et al. 2015 begins with
64 channels, this one with 32), one convolution a block in `cnn`, padding (without it 32 px do not reach the last
block), the averages before the fully connected layers (4×4 cells in `cnn`, one cell in `unet_encoder`: any size of
image fits), the widths of those layers, the first weights (He et al. 2015), no batch norm, and dropout, which is the
recipe's as for every network; of the decoder, the classifier's input (`UNet`). `unet_unpadded` has no padding and four
blocks, because 128 px do not reach a fifth. So times and accuracies of these are not the published CNN's.

The introduction calls the U-Net "a dense connectivity CNN", and names the FD-UNet (Guan et al., "Fully
Dense UNet for 2-D Sparse Photoacoustic Tomography Artifact Removal", IEEE JBHI 2020): each block of convolutions is a
dense block of four layers, which doubles the channels. `unet_dense` is that network with the widths of `unet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import binary_cross_entropy_with_logits

from casewise.errors import TrainingError
from casewise.models.layers import PlainNetwork, Plan, begin
from casewise.study.sources import SYMMETRIC, Body

# The smallest side in pixels for which the decoder of `unet_unpadded` has a map: its last block then has 4 cells.
_SMALLEST_UNPADDED = 92
# Beside a black border, a moved pixel is known in part.
_KNOWN = 0.99


class UNet(nn.Module):
    """A U-Net with a classifier: (B, 3, H, W) → (B, dense), and a map of its own (`map_of`).

    Each step up doubles the rows and columns (a transposed convolution), is concatenated with the block of the
    contracting path of that resolution (of its middle without padding), and convolved twice. The classifier receives
    the mean over the last contracted map, and the mean over the last map of the decoder weighted by the network's own
    map. From labels alone this map learns the evidence that the classifier weighs; with masks, a segmentation.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.padded = plan.padded
        pairs = list(pairwise([3, *plan.widths]))
        pools: list[list[nn.Module]] = [[nn.MaxPool2d(2)] if deeper else [] for deeper in range(len(pairs))]
        blocks = [nn.Sequential(*pool, *plan.block(*pair)) for pool, pair in zip(pools, pairs, strict=True)]
        self.features = nn.Sequential(*blocks)
        down = list(pairwise(reversed(plan.widths)))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(deep, width, 2, stride=2) for deep, width in down)
        self.decoder = nn.ModuleList(nn.Sequential(*plan.block(2 * width, width)) for _, width in down)
        self.map = nn.Conv2d(plan.widths[0], 1, 1)
        self.classifier = nn.Sequential(nn.Linear(plan.widths[-1] + plan.widths[0], plan.dense), nn.ReLU(inplace=True))
        begin(self)

    def forward(self, values: Tensor) -> Tensor:
        return self.features_and_map(values)[0]

    def features_and_map(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and the logits of the map that `map_of` returns."""
        deepest, decoded, logits = self._maps(values)
        weights = logits.sigmoid()
        weighted = (decoded * weights).sum((2, 3)) / weights.sum((2, 3)).clamp_min(1e-6)
        return self.classifier(torch.cat((deepest.mean((2, 3)), weighted), 1)), logits

    def map_of(self, values: Tensor) -> Tensor:
        """The network's map, (B, 1, h, w) from 0 to 1, for its scaled input; unpadded, of the middle of the panel."""
        return self._maps(values)[2].sigmoid()

    @staticmethod
    def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
        """The mean cross-entropy of a map and its soft Dice loss over the known pixels of a batch; 0 where none is.

        Times the share of images with a known pixel, so that a mask weighs the same among few masks as among many.
        Source: Isensee et al., "nnU-Net", Nature Methods 2021.

        Args:
            logits: (B, 1, h, w), of the middle of the panels.
            masks: (B, 2, H, W) from 0 to 1: whether a pixel is marked, and whether its mask is known.
        """
        marked, known_share = _middle(masks, logits).split(1, dim=1)
        weight = (known_share > _KNOWN).float()
        marked, logits = marked.clamp(0, 1) * weight, logits.float()
        losses = binary_cross_entropy_with_logits(logits, marked, weight=weight, reduction="sum")
        predicted = logits.sigmoid() * weight
        dice = (2 * (predicted * marked).sum() + 1) / (predicted.sum() + marked.sum() + 1)
        return (losses / weight.sum().clamp_min(1) + 1 - dice) * weight.flatten(1).any(dim=1).float().mean()

    def _maps(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.padded and min(values.shape[2:]) < _SMALLEST_UNPADDED:
            raise TrainingError(
                f"unet_unpadded: panels have {values.shape[3]} x {values.shape[2]} pixels, and its convolutions "
                f"without padding need {_SMALLEST_UNPADDED} a side. Enlarge `images.size`, or use unet."
            )
        contracted = []
        for block in self.features:
            values = block(values)
            contracted.append(values)
        for enlarge, block, skip in zip(self.enlarge, self.decoder, reversed(contracted[:-1]), strict=True):
            values = enlarge(values)
            if self.padded:  # pooling leaves out a last odd row or column
                rows, columns = (large - small for large, small in zip(skip.shape[2:], values.shape[2:], strict=True))
                values = functional.pad(values, (0, columns, 0, rows))
            values = block(torch.cat((_middle(skip, values), values), 1))
        return contracted[-1], values, self.map(values)


def _middle(maps: Tensor, smaller: Tensor) -> Tensor:
    """The middle of maps (B, C, H, W), as large as the other ones."""
    rows, columns = smaller.shape[2:]
    top, left = (maps.shape[2] - rows) // 2, (maps.shape[3] - columns) // 2
    return maps[:, :, top : top + rows, left : left + columns]


class _DenseBlock(nn.Module):
    """Four layers, each on the concatenated outputs of those before: (B, width / 2, H, W) → (B, width, H, W).

    A layer is a 1×1 convolution to the channels of the block's input, and a 3×3 convolution to a quarter of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = width // 2
        growth = inputs // 4
        self.layers = nn.ModuleList(
            nn.Sequential(*_normed(inputs + number * growth, inputs, 1), *_normed(inputs, growth, 3))
            for number in range(4)
        )

    def forward(self, maps: Tensor) -> Tensor:
        for layer in self.layers:
            maps = torch.cat((maps, layer(maps)), 1)
        return maps


@dataclass(frozen=True)
class _DensePlan(Plan):
    """A plan whose blocks are dense; a convolution before a block brings its input to half of its width."""

    def block(self, before: int, width: int) -> list[nn.Module]:
        first = [] if 2 * before == width else _normed(before, width // 2, 3 if before < width else 1)
        return [*first, _DenseBlock(width)]


def _normed(before: int, width: int, side: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, width, side, padding=side // 2, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def published_network(name: str) -> Body:
    """A U-Net or its encoder with random weights.

    >>> sum(parameter.numel() for parameter in published_network("unet_encoder").module.parameters())
    4843552
    """
    unpadded = name == "unet_unpadded"
    widths = (32, 64, 128, 256) if unpadded else (32, 64, 128, 256, 512)
    kind = _DensePlan if name == "unet_dense" else Plan
    plan = kind(widths, convolutions=2, cells=1, dense=256, padded=not unpadded)
    module = PlainNetwork(plan) if name == "unet_encoder" else UNet(plan)
    return Body(module, plan.dense, SYMMETRIC, head=())
