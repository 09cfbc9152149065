"""Where on the panel each cell of a backbone's map looks.

Drawing a map of 6 × 6 cells out over the panel takes cell i to be about the i-th sixth of it. It seldom is: every
strided layer with padding moves the cells' middles up and to the left, in a ResNet by half a cell in all (16 pixels),
and the map would point as far to the lower right of what the network saw. So the middles are computed.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

ROUNDING = 1e-6

Middles: TypeAlias = tuple[Tensor, Tensor]

# what changes values but not places; SE blocks weigh whole channels
_PLACELESS = (
    *(nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish),
    *(nn.Hardsigmoid, nn.GELU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Tanh, nn.PReLU),
)
_WEIGHING = ("SqueezeExcitation", "SqueezeExcite", "SEModule", "EffectiveSEModule", "EcaModule", "GlobalResponseNorm")
_ACTIVATIONS = "timm.layers.activations"
_SHAPE = ("kernel_size", "stride", "padding")
_known: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Middles | None]] = WeakKeyDictionary()


def resized(maps: Tensor, side: int | tuple[int, int], middles: Middles | None = None) -> Tensor:
    """Maps (B, h, w) at the size of the panel, (B, H, W) `float32`, each from 0 to 1; 0 where it says nothing.

    Linear between the cells' middles, and constant beyond the outermost.

    Args:
        middles: of rows (h,) and columns (w,) in the panel's pixels; by default the cells share the panel evenly.

    >>> resized(torch.tensor([[[0.0, 1.0]]]), (1, 4)).tolist()
    [[[0.0, 0.25, 0.75, 1.0]]]
    >>> resized(torch.tensor([[[0.0, 1.0]]]), (1, 4), (torch.tensor([0.0]), torch.tensor([0.0, 2.0]))).tolist()
    [[[0.0, 0.5, 1.0, 1.0]]]
    """
    return zero_to_one(drawn_out(maps, side, middles))


def drawn_out(maps: Tensor, side: int | tuple[int, int], middles: Middles | None = None) -> Tensor:
    """As `resized`, with the values as they are: (B, H, W) `float64`.

    >>> drawn_out(torch.tensor([[[1.0, 3.0]]]), (1, 4)).tolist()
    [[[1.0, 1.5, 2.5, 3.0]]]
    """
    size = (side, side) if isinstance(side, int) else tuple(side)
    rows, columns = middles or tuple(evenly(count, length) for count, length in zip(maps.shape[1:], size, strict=True))
    return _between(rows, size[0]).to(maps.device) @ maps.double() @ _between(columns, size[1]).T.to(maps.device)


def peaks_of(
    count: tuple[int, int], size: tuple[int, int], middles: Middles | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels are highest where a cell alone is: (H, h) of rows and (W, w) of columns; every column sums to 1.

    >>> peaks_of((1, 2), (1, 4))[1].T.tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    found = []
    for axis in (0, 1):
        weights = _between(middles[axis] if middles else evenly(count[axis], size[axis]), size[axis])
        highest = (weights >= weights.amax(dim=0, keepdim=True) - 1e-9).double()
        found.append((highest / highest.sum(dim=0, keepdim=True)).numpy())
    return found[0], found[1]


def zero_to_one(maps: Tensor) -> Tensor:
    """Each map (B, ...) from 0 to 1; one that is the same everywhere says nothing and becomes 0. NaN stays.

    >>> zero_to_one(torch.tensor([[[2.0, 4.0]], [[3.0, 3.0]]])).tolist()
    [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    flat = maps.double().flatten(1)
    low = flat.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    high = flat.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    # what rounding leaves of a flat map must not be drawn out to a pattern
    tells = high - low > ROUNDING * torch.maximum(low.abs(), high.abs())
    found = torch.where(tells, (flat - low) / torch.where(tells, high - low, 1.0), torch.zeros_like(flat))
    return found.masked_fill(flat.isnan(), torch.nan).reshape(maps.shape).float()


def evenly(count: int, length: int) -> Tensor:
    """The middles of `count` cells that share `length` pixels evenly.

    >>> evenly(2, 8).tolist()
    [1.5, 5.5]
    """
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count) - 0.5


def patches(count: tuple[int, int], size: tuple[int, int], patch: tuple[int, int]) -> Middles | None:
    """The middles of a transformer's patches, laid from the upper left corner; None where they are no such patches.

    A panel that is no multiple of the patch is padded at its right and lower edge.

    >>> patches((2, 2), (10, 12), (6, 6))[0].tolist()
    [2.5, 8.5]
    """
    if any(-(-side // length) != many for many, side, length in zip(count, size, patch, strict=True)):
        return None
    return evenly(count[0], count[0] * patch[0]), evenly(count[1], count[1] * patch[1])


def _between(middles: Tensor, length: int) -> Tensor:
    """The weights (length, cells) by which each pixel is made of the cells before and after it."""
    if len(middles) == 1:
        return torch.ones(length, 1, dtype=torch.float64)
    middles = middles.double()
    pixels = torch.arange(length, dtype=torch.float64)
    before = (torch.searchsorted(middles, pixels, right=True) - 1).clamp(0, len(middles) - 2)
    share = ((pixels - middles[before]) / (middles[before + 1] - middles[before])).clamp(0, 1)
    weights = torch.zeros(length, len(middles), dtype=torch.float64)
    weights.scatter_(1, before[:, None], (1 - share)[:, None])
    return weights.scatter_add_(1, before[:, None] + 1, share[:, None])


def middles_of(body: nn.Module, layer: nn.Module, shape: tuple[int, int]) -> Middles | None:
    """Where the cells of a layer's map have their middles, in pixels of a panel (H, W): rows (h,), columns (w,).

    None where no place can be told by the layers alone (attention): cells there share the panel evenly.

    A copy of the backbone is made in which every convolution and pooling hands on what lies in the middle of its
    window, and everything else hands on what it gets; ramps are sent through it, and the map says what place it sees.
    """
    name = next((name for name, module in body.named_modules() if module is layer), None)
    key = (name, *shape)
    found = _known.setdefault(body, {})
    if key not in found:
        found[key] = None if name is None else _measured(body, name, shape)
    return found[key]


def _measured(body: nn.Module, name: str, shape: tuple[int, int]) -> Middles | None:
    first = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or any(hasattr(module, "qkv") or hasattr(module, "fused_attn") for module in body.modules()):
        return None
    plain = _only_places(body)
    seen: list[Tensor] = []
    plain.get_submodule(name).register_forward_hook(lambda m, i, o: seen.append(o))
    one = torch.ones(1, first.in_channels, *shape, dtype=torch.float64)
    down, across = (torch.linspace(0, 1, side, dtype=torch.float64) for side in shape)
    with torch.no_grad():
        plain(torch.cat([one, 2 * one, one * (1 + down.view(-1, 1)), one * (1 + across)]))
    told = seen[0].permute(0, 3, 1, 2) if getattr(body, "output_fmt", "NCHW") == "NHWC" else seen[0]
    if told.ndim != 4:
        return None
    # differences, for a constant may be added on the way
    flat, full, rows, columns = told.mean(dim=1)
    middles = (
        ((rows - flat) / (full - flat)).mean(dim=1) * (shape[0] - 1),
        ((columns - flat) / (full - flat)).mean(dim=0) * (shape[1] - 1),
    )
    sound = all(bool(one.isfinite().all()) and bool((one.diff() > 0.5).all()) for one in middles)
    return middles if sound else None


def _only_places(body: nn.Module) -> nn.Module:
    plain = copy.deepcopy(body).cpu().double().eval()
    for parent in list(plain.modules()):
        for name, module in list(parent.named_children()):
            kind = type(module)
            if isinstance(module, _PLACELESS) or kind.__name__ in _WEIGHING or kind.__module__ == _ACTIVATIONS:
                setattr(parent, name, nn.Identity())
            elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
                setattr(parent, name, _Middle(module))
    with torch.no_grad():
        for module in plain.modules():
            for key, parameter in module.named_parameters(recurse=False):
                # one for what scales a channel, nothing for what is added
                parameter.fill_(0.0 if "bias" in key else 1.0)
                if isinstance(module, nn.Conv2d) and key == "weight":
                    parameter.copy_(_middle_tap(parameter))
                elif isinstance(module, nn.Linear) and key == "weight":
                    parameter.div_(parameter.shape[1])
    return plain


def _middle_tap(weight: Tensor) -> Tensor:
    """A kernel (out, in, k, l) that takes the mean over channels in the middle of its window."""
    taps = []
    for length in weight.shape[2:]:
        line = torch.zeros(length, dtype=weight.dtype)
        line[(length - 1) // 2] += 0.5
        line[length // 2] += 0.5
        taps.append(line)
    return torch.outer(*taps).expand_as(weight) / weight.shape[1]


class _Middle(nn.Module):
    """A pooling that hands on what lies in the middle of its window."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, given: Tensor) -> Tensor:
        shape = self.pool(given).shape[2:]
        for axis, length in enumerate(shape):
            kernel, stride, padding = (_pair(getattr(self.pool, key))[axis] for key in _SHAPE)
            start = torch.arange(length) * stride - padding
            ends = [(start + tap).clamp(0, given.shape[2 + axis] - 1) for tap in ((kernel - 1) // 2, kernel // 2)]
            given = sum(given.index_select(2 + axis, end) for end in ends) / 2  # type: ignore[assignment]
        return given


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
