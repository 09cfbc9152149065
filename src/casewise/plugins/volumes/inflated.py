"""Networks in three dimensions: the layers of a two-dimensional network, with kernels that also have a depth.

A volume is a map (B, C, D·H, W) of D square slices one below another, so that norms, activations and means over
positions are the library's own layers. Convolutions and pooling over several pixels also take neighbouring slices:
a kernel of k×k pixels becomes one of k slices, stored as (out, in, k·k, k). Beyond the first and last slice these are
repeated, so a volume of equal slices has the features of the two-dimensional network for the slice.

A layer with a stride in the plane has it along the slices as well once a map has more slices than columns. Until then
all slices are kept, because they are usually thicker than pixels are wide (nnU-Net treats such scans likewise).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from casewise.errors import CasewiseError, StudyError

# On volumes of equal slices, an inflated network may differ by so much of its largest feature.
_TOLERANCE = 1e-3
# Sides of panels and numbers of slices that are tried; with the second, layers with a stride also step over slices.
_TRIED = ((96, 3), (64, 9))
_CHECKED: set[str] = set()


def inflate(body: nn.Module, name: str) -> None:
    """Give the layers of a two-dimensional network a depth, in place; kernels are repeated along it and divided by it.

    Raises:
        StudyError: the network has layers other than convolutions, pooling, norms and functions of single positions.
    """
    channels = next((layer.in_channels for layer in body.modules() if isinstance(layer, nn.Conv2d)), 3)
    checks = name not in _CHECKED and not any(parameter.is_meta for parameter in body.parameters())
    drawn = torch.Generator().manual_seed(0)
    pictures = [torch.rand(1, channels, side, side, generator=drawn) for side, _ in _TRIED] if checks else []
    flat = [_features(body, picture) for picture in pictures]
    for outer in list(body.modules()):
        for child, layer in list(outer.named_children()):
            setattr(outer, child, _inflated(layer))
    for picture, features, (_, slices) in zip(pictures, flat, _TRIED, strict=False):
        volume = _features(body, picture.repeat(1, 1, slices, 1))
        if features is None or volume is None or not _agree(features, volume):
            raise StudyError(
                f"backbones: {name} cannot be inflated: it has steps that are not layers of convolution, pooling or "
                "norms, or maps of several sizes. ResNet, DenseNet, MobileNet and EfficientNet can be, for example. "
                "Use it on slices."
            )
    if checks:
        _CHECKED.add(name)


def inflated_tensors(body: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The weights of a two-dimensional network for an inflated body, and a clause on what was changed.

    Weights that have a depth are returned unchanged.
    """
    state, inflated = body.state_dict(), dict[str, Tensor]()
    for key, kernels in tensors.items():
        depth = state[key].shape[2] // kernels.shape[2] if key in state and kernels.ndim == state[key].ndim == 4 else 1
        if depth > 1:
            inflated[key] = repeated(kernels, depth)
    clause = "each kernel repeated along depth and divided by it" if inflated else ""
    return tensors | inflated, clause


def repeated(kernels: Tensor, depth: int) -> Tensor:
    """Kernels (out, in, k, l) repeated along a depth and divided by it: (out, in, depth·k, l).

    >>> repeated(torch.tensor([[[[3.0, 6.0]]]]), 3).tolist()
    [[[[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]]]
    """
    return kernels.repeat(1, 1, depth, 1) / depth


def draw_kernels(body: nn.Module) -> None:
    """Draw all convolutions after He et al. (2015), as torchvision does for a ResNet."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@torch.no_grad()
def _features(body: nn.Module, maps: Tensor) -> Tensor | None:
    """The features of a body in eval mode, which is left unchanged; None if it cannot compute them."""
    modes = [(module, module.training) for module in body.modules()]
    try:
        features: Tensor = body.eval()(maps)
        return features
    except (CasewiseError, RuntimeError, ValueError, TypeError, LookupError, AssertionError):
        return None
    finally:
        for module, mode in modes:
            module.training = mode


def _agree(flat: Tensor, volume: Tensor) -> bool:
    return flat.shape == volume.shape and bool((flat - volume).abs().max() <= _TOLERANCE * flat.abs().max())


def _inflated(layer: nn.Module) -> nn.Module:
    """The layer that takes the place of a layer of a two-dimensional network."""
    same = type(layer).__name__ == "Conv2dSame"  # of timm: padded as TensorFlow does
    if isinstance(layer, nn.Conv2d) and (same or type(layer) is nn.Conv2d):
        plain = max(*layer.kernel_size, *layer.stride) == 1
        padded = isinstance(layer.padding, str) or layer.padding_mode != "zeros"
        return layer if plain or padded else _Convolution(layer, same=same)
    if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d)):
        return _Pooling(layer)
    if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in (1, (1, 1)):
        return _Averages(layer)
    return layer


def _slices(maps: Tensor) -> Tensor:
    """(B, C, D·H, W) → (B, C, D, H, W), a view; slices are square, and one map alone may have any shape."""
    rows, columns = maps.shape[2:]
    return maps.unflatten(2, (-1, columns)) if rows % columns == 0 else maps.unsqueeze(2)


def _window(volume: Tensor, kernel: int, stride: int) -> tuple[int, int, int]:
    """The slices to repeat before the first and after the last one for a kernel of this depth, and the step."""
    depth, columns = volume.shape[2], volume.shape[4]
    return (kernel - 1) // 2, kernel // 2, stride if depth > columns else 1


def _repeated_ends(volume: Tensor, before: int, after: int) -> Tensor:
    """A volume (B, C, D, H, W) with its first and last slice repeated."""
    if not before + after:
        return volume
    first, last = (volume[:, :, [at]] for at in (0, -1))
    return torch.cat([*[first] * before, volume, *[last] * after], dim=2)


class _Convolution(nn.Conv2d):
    """A convolution over pixels and slices; its depth is the shorter side of the kernel, so that 1×7 stays in plane."""

    def __init__(self, flat: nn.Conv2d, *, same: bool) -> None:
        layer: Any = flat
        padding = 0 if same else layer.padding
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
        )
        self.depth, self.same = min(flat.kernel_size), same
        self.weight = nn.Parameter(repeated(flat.weight.detach(), self.depth))
        self.bias = flat.bias
        self.train(flat.training)

    def forward(self, input: Tensor) -> Tensor:
        volume = _slices(input)
        wide = (self.depth - 1) * self.dilation[0] + 1
        before, after, step = _window(volume, wide, self.stride[0])
        volume = _repeated_ends(volume, before, after)
        if self.same:
            volume = functional.pad(volume, [*self._beyond(volume, 1), *self._beyond(volume, 0)])
        result = functional.conv3d(
            volume,
            self.weight.unflatten(2, (self.depth, -1)),
            self.bias,
            (step, *self.stride),
            (0, *self.padding),  # type: ignore[arg-type]
            (self.dilation[0], *self.dilation),
            self.groups,
        )
        return result.flatten(2, 3)

    def _beyond(self, volume: Tensor, axis: int) -> tuple[int, int]:
        """The pixels of padding before and after rows (axis 0) or columns (1), as TensorFlow's `same`."""
        length, stride = volume.shape[3 + axis], self.stride[axis]
        wide = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        padding = max(0, (-(-length // stride) - 1) * stride + wide - length)
        return padding // 2, padding - padding // 2


class _Pooling(nn.Module):
    """The library's pooling of every slice, then of neighbouring slices: their maximum, or their mean."""

    def __init__(self, pool: nn.MaxPool2d | nn.AvgPool2d) -> None:
        super().__init__()
        self.pool, self.takes_mean = pool, isinstance(pool, nn.AvgPool2d)
        kernel, stride = pool.kernel_size, pool.stride
        self.kernel, self.stride = (value if isinstance(value, int) else min(value) for value in (kernel, stride))

    def forward(self, maps: Tensor) -> Tensor:
        volume = _slices(maps)
        before, after, step = _window(volume, self.kernel, self.stride)
        pooled = _by_slice(self.pool, volume)
        depth, padded = pooled.shape[2], _repeated_ends(pooled, before, after)
        shifted = torch.stack([padded[:, :, at : at + depth : step] for at in range(self.kernel)])
        return (shifted.mean(0) if self.takes_mean else shifted.amax(0)).flatten(2, 3)


class _Averages(nn.Module):
    """The library's averages of every slice over a grid, then the mean over slices."""

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        return _by_slice(self.pool, _slices(maps)).mean(2)


def _by_slice(layer: nn.Module, volume: Tensor) -> Tensor:
    """What a layer makes of every slice of (B, C, D, H, W) by itself: (B, C, D, h, w)."""
    slices: Tensor = layer(volume.transpose(1, 2).flatten(0, 1))
    return slices.unflatten(0, (volume.shape[0], -1)).transpose(1, 2)
