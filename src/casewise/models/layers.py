"""Layers and networks of casewise: replacements of a library's layers, and the plain network of comparisons.

Layers that take the place of a library's keep names and weights. They compute the same values in less time or memory:
ReLU6 without a copy of its input, a shuffle that keeps the channels-last format, and convolutions that compute the
batch norm after them while its statistics are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from casewise.study.images import POOLINGS


class _Clipped(torch.autograd.Function):
    """`ReLU6` whose gradient is read from its output, which the next layer keeps in any case.

    PyTorch keeps a copy of the input, from which the same follows: an input is within the limits exactly if its output
    is.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        functional.relu6(values, inplace=True)
        ctx.mark_dirty(values)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], output, 0.0, 6.0)  # type: ignore[no-any-return]


class ReLU6(nn.ReLU6):
    """`ReLU6` in place, which in training keeps no copy of its input."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.requires_grad and torch.is_grad_enabled():
            clipped: Tensor = _Clipped.apply(input)  # type: ignore[no-untyped-call]
            return clipped
        return super().forward(input)


class FoldingSequential(nn.Sequential):
    """`Sequential` that computes a convolution and the batch norm after it in one step while statistics are kept.

    With fixed statistics a batch norm scales and shifts each channel. The same follows from a convolution whose weights
    and bias are scaled and shifted, so that the map between both is neither computed nor kept for the backward pass. A
    step of MobileNetV2 takes a quarter less time, and half of the memory that is kept for its backward pass.
    Both layers keep their parameters and gradients, equal up to rounding.

    Nothing changes for batch norms that update their statistics, and for convolutions in eval mode: in prediction, in
    explanations, and in layers that a phase freezes. Hooks of the two layers are not called in a step that folds them.
    """

    def forward(self, input: Tensor) -> Tensor:
        folded = False
        for layer, following in pairwise([*self, None]):
            if folded:  # computed with the convolution before it
                folded = False
            elif folded := _is_pair(layer, following) and _folds(layer, following):
                input = _convolved_and_normed(input, layer, following)
            else:
                input = layer(input)
        return input


def _is_pair(conv: Any, norm: Any) -> bool:
    if type(conv) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d:
        return False
    return conv.padding_mode == "zeros" and norm.affine and norm.track_running_stats


def _folds(conv: Any, norm: Any) -> bool:
    return conv.training and not norm.training and torch.is_grad_enabled()


def _convolved_and_normed(input: Tensor, conv: Any, norm: Any) -> Tensor:
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return functional.conv2d(input, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


class ShuffleBlock(nn.Module):
    """torchvision's block of ShuffleNetV2, with a shuffle that keeps the channels-last format."""

    def __init__(self, library: Any) -> None:
        super().__init__()
        self.stride, self.branch1, self.branch2 = library.stride, library.branch1, library.branch2

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            unchanged, changed = x.chunk(2, dim=1)
            both = torch.cat((unchanged, self.branch2(changed)), dim=1)
        else:
            both = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return torch.channel_shuffle(both, 2)


class MNASNet(nn.Module):
    """The layers of torchvision's MNASNet, which itself demands a version with the weights; files state none."""

    def __init__(self, library: Any) -> None:
        super().__init__()
        self.layers, self.classifier = library.layers, library.classifier

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classifier(self.layers(x).mean([2, 3]))
        return result


def replace_layers(body: nn.Module, *, read_map: str = "") -> None:
    """Replace the layers of a library's network by this module's layers, with the same names and weights.

    Args:
        read_map: the module whose map is read by a hook; it is never folded.

    >>> body = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(inplace=True)))
    >>> replace_layers(body)
    >>> type(body[0]).__name__, type(body[0][2]).__module__
    ('FoldingSequential', 'casewise.models.layers')
    """
    for name, module in list(body.named_modules(remove_duplicate=False)):
        if name and (replacement := _replacement(module, read_map.removeprefix(f"{name}."))) is not None:
            outer, _, child = name.rpartition(".")
            setattr(body.get_submodule(outer), child, replacement)


def _replacement(module: nn.Module, read_child: str) -> nn.Module | None:
    """The layer that takes the place of a module; None if it stays. `read_child` is the child whose map is read."""
    if type(module) is nn.ReLU6 and module.inplace:
        return ReLU6(inplace=True).train(module.training)
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return None
    children = dict(module.named_children())
    if not any(_is_pair(*pair) for pair in pairwise(children.values())):
        return None
    if isinstance(children.get(read_child), (nn.Conv2d, nn.BatchNorm2d)):
        return None
    folding = FoldingSequential()
    for name, child in children.items():
        folding.add_module(name, child)
    return folding.train(module.training)


class BagPooling(nn.Module):
    """Pooling of a bag's features (B, K, W), where a row of NaN is an empty slot, to one vector (B, W)."""

    def __init__(self, name: str, width: int) -> None:
        """`name`: of `casewise.study.images`; `width`: the width of the features."""
        super().__init__()
        self.name, self.kind = name, POOLINGS[name]
        for layer_name, (inputs, outputs) in self.kind.layers.items():
            last = nn.Linear(inputs or width, outputs)
            self.add_module(layer_name, last)
        if self.kind.layers:
            nn.init.zeros_(last.bias)
            nn.init.normal_(last.weight, std=0.01)

    def shares(self, filled: Tensor, occupied: Tensor) -> Tensor:
        """The weight of each tile (B, K), summing to 1: `filled` are features with 0 in the slots not `occupied`."""
        if self.kind.shares is None:
            return occupied.to(filled.dtype) / occupied.sum(dim=1, keepdim=True)
        return self.kind.shares(self, filled, occupied)

    def weights(self, features: Tensor) -> Tensor:
        """The weight of each tile of a case: (B, K), summing to 1; 0 in empty slots."""
        return self.shares(features.nan_to_num(), ~features[..., 0].isnan())

    def forward(self, features: Tensor) -> Tensor:
        """(B, K, W) → (B, W); features of single tiles (B, W) are returned unchanged."""
        if features.ndim == 2:
            return features
        if self.kind.shares is None:
            return features.nanmean(dim=1)
        return torch.einsum("bk,bkw->bw", self.weights(features), features.nan_to_num())


@dataclass(frozen=True)
class Plan:
    """Blocks of convolutions by their widths, the cells a side that are kept of the last map, the dense layer."""

    widths: tuple[int, ...]
    convolutions: int
    cells: int
    dense: int
    pooled_last: bool = False
    padded: bool = True

    def block(self, before: int, width: int) -> list[nn.Module]:
        """Convolutions, each with a ReLU."""
        modules: list[nn.Module] = []
        for sides in pairwise([before, *[width] * self.convolutions]):
            modules += [nn.Conv2d(*sides, 3, padding=int(self.padded)), nn.ReLU(inplace=True)]
        return modules


CNN = Plan((32, 64, 128, 256), convolutions=1, cells=4, dense=512, pooled_last=True)


class PlainNetwork(nn.Module):
    """Blocks of convolutions, ReLU and max pooling, then a dense layer: (B, 3, H, W) → (B, dense); H, W ≥ 32."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        before = 3
        for position, width in enumerate(plan.widths):
            parts = plan.block(before, width)
            if plan.pooled_last or position < len(plan.widths) - 1:
                parts.append(nn.MaxPool2d(2))
            blocks.append(nn.Sequential(*parts))
            before = width
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(plan.cells)
        self.classifier = nn.Sequential(nn.Linear(before * plan.cells**2, plan.dense), nn.ReLU(inplace=True))
        begin(self)

    def forward(self, panels: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(panels)), 1))


def begin(network: nn.Module) -> None:
    """First weights after He et al. (2015)."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
