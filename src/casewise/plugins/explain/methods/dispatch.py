"""Chooses the saliency method for a network and computes maps on panels.

The position on the panel of each cell of a map is computed.
Upsampling a map of 6 × 6 cells evenly assumes that cell i covers the i-th sixth of the panel. Padded strided layers
break this: each shifts the centres of its cells up and to the left, in a ResNet by half a cell in total (16 pixels).
The upsampled map would be displaced to the lower right by the same distance. The centres are therefore computed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from casewise.models.backbones import Network
from casewise.plugins.explain.methods.contributions import contributions, reads_features
from casewise.plugins.explain.methods.gradcam import gradcam_by_sequence, layer_of
from casewise.plugins.explain.methods.rollout import is_transformer, pools_by_attention, rollout_by_sequence
from casewise.plugins.explain.methods.target import ExplainTarget

ROUNDING = 1e-6

Centres: TypeAlias = tuple[Tensor, Tensor]

# layers that change values but not positions; SE blocks weight whole channels
_POINTWISE = (
    *(nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish),
    *(nn.Hardsigmoid, nn.GELU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Mish, nn.Tanh, nn.PReLU),
)
_CHANNEL_WEIGHTS = (
    *("SqueezeExcitation", "SqueezeExcite", "SEModule", "EffectiveSEModule", "EcaModule", "GlobalResponseNorm"),
)
_ACTIVATIONS = "timm.layers.activations"
_WINDOW = ("kernel_size", "stride", "padding")


def upsampled(maps: Tensor, size: tuple[int, int], centres: Centres | None = None) -> Tensor:
    """Maps (B, h, w) at the size of the panel, (B, H, W) `float64`.

    Linear between the centres of cells, constant outside the outermost ones.

    Args:
        centres: of rows (h,) and columns (w,) in pixels of the panel; by default the cells divide the panel evenly.

    >>> upsampled(torch.tensor([[[0.0, 1.0]]]), (1, 4), (torch.tensor([0.0]), torch.tensor([0.0, 2.0]))).tolist()
    [[[0.0, 0.5, 1.0, 1.0]]]
    >>> upsampled(torch.tensor([[[1.0, 3.0]]]), (1, 4)).tolist()
    [[[1.0, 1.5, 2.5, 3.0]]]
    """
    rows, columns = centres or tuple(
        _even_centres(count, length) for count, length in zip(maps.shape[1:], size, strict=True)
    )
    weights = _linear_weights(rows, size[0]).to(maps.device), _linear_weights(columns, size[1]).to(maps.device)
    return weights[0] @ maps.double() @ weights[1].T


def peak_pixels(
    count: tuple[int, int], size: tuple[int, int], centres: Centres | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels where an isolated cell is highest: rows (H, h) and columns (W, w); every column sums to 1.

    >>> peak_pixels((1, 2), (1, 4))[1].T.tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    """
    axes = []
    for axis in (0, 1):
        weights = _linear_weights(centres[axis] if centres else _even_centres(count[axis], size[axis]), size[axis])
        highest = (weights >= weights.amax(dim=0, keepdim=True) - 1e-9).double()
        axes.append((highest / highest.sum(dim=0, keepdim=True)).numpy())
    return axes[0], axes[1]


def zero_to_one(maps: Tensor) -> Tensor:
    """Each map (B, ...) scaled to 0–1; a uniform map becomes 0. NaN stays.

    >>> zero_to_one(torch.tensor([[[2.0, 4.0]], [[3.0, 3.0]]])).tolist()
    [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    flat = maps.double().flatten(1)
    low = flat.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    high = flat.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    # rounding noise in a uniform map must not be scaled up to a pattern
    varies = high - low > ROUNDING * torch.maximum(low.abs(), high.abs())
    scaled = torch.where(varies, (flat - low) / torch.where(varies, high - low, 1.0), torch.zeros_like(flat))
    return scaled.masked_fill(flat.isnan(), torch.nan).reshape(maps.shape).float()


def _even_centres(count: int, length: int) -> Tensor:
    """The centres of `count` cells that divide `length` pixels evenly.

    >>> _even_centres(2, 8).tolist()
    [1.5, 5.5]
    """
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count) - 0.5


def patch_centres(count: tuple[int, int], size: tuple[int, int], patch: tuple[int, int]) -> Centres | None:
    """The centres of a transformer's patches, which start at the upper left corner; None if counts do not agree.

    A panel whose size is not a multiple of the patch is padded at its right and lower edge.

    >>> patch_centres((2, 2), (10, 12), (6, 6))[0].tolist()
    [2.5, 8.5]
    """
    if any(-(-side // length) != cells for cells, side, length in zip(count, size, patch, strict=True)):
        return None
    return _even_centres(count[0], count[0] * patch[0]), _even_centres(count[1], count[1] * patch[1])


def _linear_weights(centres: Tensor, length: int) -> Tensor:
    """The weights (length, cells) of the two neighbouring cells in each pixel."""
    if len(centres) == 1:
        return torch.ones(length, 1, dtype=torch.float64)
    centres = centres.double()
    pixels = torch.arange(length, dtype=torch.float64)
    before = (torch.searchsorted(centres, pixels, right=True) - 1).clamp(0, len(centres) - 2)
    share = ((pixels - centres[before]) / (centres[before + 1] - centres[before])).clamp(0, 1)
    weights = torch.zeros(length, len(centres), dtype=torch.float64)
    weights.scatter_(1, before[:, None], (1 - share)[:, None])
    return weights.scatter_add_(1, before[:, None] + 1, share[:, None])


def cell_centres(body: nn.Module, layer: str, shape: tuple[int, int]) -> Centres | None:
    """The centres of the cells of a layer's map in pixels of a panel (H, W): rows (h,), columns (w,).

    None if the layers alone do not determine positions (attention); the cells then divide the panel evenly.

    In a copy of the backbone, every convolution and pooling returns the centre of its window and every other layer
    returns its input. Ramps over rows and columns are passed through the copy; its output gives the positions.
    """
    first = next((module for module in body.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or any(hasattr(module, "qkv") or hasattr(module, "fused_attn") for module in body.modules()):
        return None
    positional = _positions_only(body)
    outputs: list[Tensor] = []
    positional.get_submodule(layer).register_forward_hook(lambda m, i, o: outputs.append(o))
    ones = torch.ones(1, first.in_channels, *shape, dtype=torch.float64)
    down, across = (torch.linspace(0, 1, side, dtype=torch.float64) for side in shape)
    with torch.no_grad():
        positional(torch.cat([ones, 2 * ones, ones * (1 + down.view(-1, 1)), ones * (1 + across)]))
    maps = outputs[0].permute(0, 3, 1, 2) if getattr(body, "output_fmt", "NCHW") == "NHWC" else outputs[0]
    if maps.ndim != 4:
        return None
    # differences, because a layer may add a constant
    flat, full, rows, columns = maps.mean(dim=1)
    centres = (
        ((rows - flat) / (full - flat)).mean(dim=1) * (shape[0] - 1),
        ((columns - flat) / (full - flat)).mean(dim=0) * (shape[1] - 1),
    )
    valid = all(bool(axis.isfinite().all()) and bool((axis.diff() > 0.5).all()) for axis in centres)
    return centres if valid else None


def _positions_only(body: nn.Module) -> nn.Module:
    positional = copy.deepcopy(body).cpu().double().eval()
    for parent in list(positional.modules()):
        for name, module in list(parent.named_children()):
            kind = type(module)
            if isinstance(module, _POINTWISE) or kind.__name__ in _CHANNEL_WEIGHTS or kind.__module__ == _ACTIVATIONS:
                setattr(parent, name, nn.Identity())
            elif isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
                setattr(parent, name, _CentrePool(module))
    with torch.no_grad():
        for module in positional.modules():
            for key, parameter in module.named_parameters(recurse=False):
                # 1 for factors, 0 for terms
                parameter.fill_(0.0 if "bias" in key else 1.0)
                if isinstance(module, nn.Conv2d) and key == "weight":
                    parameter.copy_(_centre_kernel(parameter))
                elif isinstance(module, nn.Linear) and key == "weight":
                    parameter.div_(parameter.shape[1])
    return positional


def _centre_kernel(weight: Tensor) -> Tensor:
    """A kernel (out, in, k, l) that takes the mean over channels at the centre of its window."""
    taps = []
    for length in weight.shape[2:]:
        line = torch.zeros(length, dtype=weight.dtype)
        line[(length - 1) // 2] += 0.5
        line[length // 2] += 0.5
        taps.append(line)
    return torch.outer(*taps).expand_as(weight) / weight.shape[1]


class _CentrePool(nn.Module):
    """A pooling layer that returns the value at the centre of its window."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, values: Tensor) -> Tensor:
        shape = self.pool(values).shape[2:]
        for axis, length in enumerate(shape):
            kernel, stride, padding = (_pair(getattr(self.pool, key))[axis] for key in _WINDOW)
            start = torch.arange(length) * stride - padding
            ends = [(start + tap).clamp(0, values.shape[2 + axis] - 1) for tap in ((kernel - 1) // 2, kernel // 2)]
            values = sum(values.index_select(2 + axis, end) for end in ends) / 2  # type: ignore[assignment]
        return values


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


Method: TypeAlias = Literal["contributions", "rollout", "grad-cam"]


@dataclass(frozen=True, eq=False)
class CellMaps:
    """Maps at the resolution of the network, before upsampling to the panel.

    Attributes:
        maps: (B, S, h, w), at least 0; NaN for a missing sequence. Without late fusion S is 1.
        shape: height and width of the panels.
        centres: positions of the cells on the panel (see `casewise.plugins.explain.methods.dispatch`).
        method: rollout maps each sum to 1; Grad-CAM maps are comparable between sequences; of contributions, those in
            favour of the explained output.
    """

    maps: Tensor
    shape: tuple[int, int]
    centres: Centres | None
    method: str

    def on_panel(self) -> Tensor:
        """The sum over sequences at the size of the panel: (B, H, W)."""
        # rollout maps are at least 0, so their sum is proportional to their mean
        return upsampled(self.maps.nansum(dim=1), self.shape, self.centres)

    def by_sequence(self) -> Tensor:
        """One map per sequence at the size of the panel, NaN for a missing sequence: (B, S, H, W)."""
        missing = self.maps.isnan().all(dim=(2, 3))
        large = upsampled(self.maps.nan_to_num().flatten(0, 1), self.shape, self.centres)
        return large.unflatten(0, missing.shape).masked_fill(missing[:, :, None, None], torch.nan)

    def contrast(self) -> Tensor:
        """How far the sum over sequences is from a uniform map: 1 − mean / maximum, (B,); 0 for an empty map.

        >>> maps = torch.tensor([[[[1.0, 3.0, 4.0, 0.0]]], [[[0.0] * 4]]])
        >>> CellMaps(maps, (4, 4), None, "rollout").contrast().tolist()
        [0.5, 0.0]
        """
        flat = self.maps.nansum(dim=1).flatten(1)
        high = flat.amax(dim=1)
        return torch.where(high > 0, 1 - flat.mean(dim=1) / torch.where(high > 0, high, 1.0), 0.0)


def _side_by_side(maps: Tensor, rows: int) -> Tensor:
    """Maps of volumes (B, S, d·h, h), slices one below another, in the grid of the panel: (B, S, rows·h, rows·h).

    A map of fewer slices than the panel is linear between them; they divide the panel's slices evenly.
    """
    if rows == 1:
        return maps
    columns = maps.shape[3]
    volume = maps.unflatten(2, (-1, columns))
    weights = _linear_weights(_even_centres(volume.shape[2], rows**2), rows**2).to(maps)
    slices = torch.einsum("nd,bsdhw->bsnhw", weights, volume).unflatten(2, (rows, rows))
    return slices.transpose(3, 4).reshape(*maps.shape[:2], rows * columns, rows * columns)


def scaled(maps: Tensor, method: str) -> Tensor:
    """Maps (B, S, H, W) scaled to 0–1: rollout each map separately, other methods on one scale for all S."""
    if method != "rollout":
        return zero_to_one(maps)
    return zero_to_one(maps.flatten(0, 1)).reshape(maps.shape)


def method_for(network: Network) -> Method:
    """Contributions for baselines, rollout for transformers that attend over all patches, Grad-CAM for others."""
    if reads_features(network):
        return "contributions"
    body = network.bodies[0]
    return "rollout" if is_transformer(body) and not pools_by_attention(body) else "grad-cam"


@dataclass(frozen=True, eq=False)
class SaliencyMethod:
    """How networks of one architecture are explained on panels of one size; their weights do not matter.

    Attributes:
        shape: height and width of the panels.
        layer: the layer of each backbone that Grad-CAM reads; empty for other methods.
        centres: positions of the cells of its map; None if they divide the panel evenly, or are patches.
    """

    name: Method
    shape: tuple[int, int]
    layer: str = ""
    centres: Centres | None = None

    @classmethod
    def of(cls, network: Network, shape: tuple[int, int], *, map_size: int = 0) -> Self:
        """The method for a network, which is left unchanged; `map_size` as of `layer_of`."""
        name, body = method_for(network), network.bodies[0]
        if name != "grad-cam":
            return cls(name, shape)
        # with late fusion all backbones have the same architecture
        layer = layer_of(network, shape, map_size)
        if is_transformer(body):
            return cls(name, shape, layer)
        side = tuple(length // network.rows for length in shape)
        centres = cell_centres(body, layer, (side[0], side[1]))
        if centres and network.rows > 1:
            first = side[0] * torch.arange(network.rows)[:, None]
            centres = (first + centres[0]).flatten(), (first + centres[1]).flatten()
        return cls(name, shape, layer, centres)

    def cell_maps(self, network: Network, panels: Tensor, target: ExplainTarget) -> CellMaps:
        """The maps at the resolution of the network, of panels (B, C, H, W) in 0–1, NaN in a missing sequence.

        Rollout gives the same map for every target.
        """
        body: Any = network.bodies[0]
        if self.name == "contributions":
            maps = contributions(network, panels, target).maps.sum(dim=1, keepdim=True).clamp(min=0)
        elif self.name == "rollout":
            maps = rollout_by_sequence(network, panels)
        else:
            maps = gradcam_by_sequence(network, panels, target, self.layer).clamp(min=0)
            maps = _side_by_side(maps, network.rows)
        centres = self.centres
        if is_transformer(body):
            centres = patch_centres((maps.shape[2], maps.shape[3]), self.shape, body.patch_embed.patch_size)
        return CellMaps(maps, self.shape, centres, self.name)

    def explain(self, network: Network, panels: Tensor, target: ExplainTarget) -> Tensor:
        """The influence of each pixel of each panel, (B, H, W) `float32` from 0 to 1; 0 where a map is empty."""
        return zero_to_one(self.cell_maps(network, panels, target).on_panel())
