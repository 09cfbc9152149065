"""Chooses the saliency method for a network and computes maps on panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from casewise.errors import CasewiseError, nearest
from casewise.plugins.explain.methods.contributions import contributions, reads_features
from casewise.plugins.explain.methods.gradcam import gradcam_by_sequence, layers_of
from casewise.plugins.explain.methods.no_side_effects import without_side_effects
from casewise.plugins.explain.methods.receptive_field import (
    Centres,
    cell_centres,
    patch_centres,
    upsampled,
    zero_to_one,
)
from casewise.plugins.explain.methods.rollout import is_transformer, pools_by_attention, rollout_by_sequence

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.plugins.explain.methods.target import ExplainTarget

Method: TypeAlias = Literal["contributions", "rollout", "grad-cam"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, eq=False)
class CellMaps:
    """Maps at the resolution of the network, before upsampling to the panel.

    Attributes:
        maps: (B, S, h, w), at least 0; NaN for a missing sequence. Without late fusion S is 1.
        shape: height and width of the panels.
        centres: positions of the cells on the panel (see `casewise.plugins.explain.methods.receptive_field`).
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


def explain(
    network: Network, panels: Tensor, *, target: ExplainTarget, method: str | None = None, map_size: int = 0
) -> Tensor:
    """The influence of each pixel of each panel, (B, H, W) `float32` from 0 to 1; 0 where a map is empty.

    Args:
        network: a network that takes grids; it is left unchanged.
        panels: (B, C, H, W) in 0–1, NaN in the channels of a missing sequence.
        target: the explained output; rollout gives the same map for every target.
        method: by default that of `method_for`.
        map_size: the least number of cells a side of a CNN's map; by default a stride of 16 pixels (see `layers_of`).

    Raises:
        CasewiseError: there is no such method, or it does not fit the network or the panels.
    """
    return zero_to_one(cell_maps(network, panels, target=target, method=method, map_size=map_size).on_panel())


def cell_maps(
    network: Network, panels: Tensor, *, target: ExplainTarget, method: str | None = None, map_size: int = 0
) -> CellMaps:
    """As `explain`, the maps at the resolution of the network."""
    method_name = method or method_for(network)
    if method_name not in METHODS:
        hint = nearest(method_name, METHODS)
        raise CasewiseError(f"explain: method must be {' or '.join(METHODS)}, not {method_name!r}.{hint}")
    if panels.ndim != 4:
        raise CasewiseError(
            f"explain: panels must be grids (B, C, H, W), not {tuple(panels.shape)}; bags have attention weights."
        )
    if (method_name == "contributions") != reads_features(network):
        raise CasewiseError(f"explain: {network.name} is explained by {method_for(network)}, not by {method_name}.")
    # with late fusion all backbones have the same architecture
    body: Any = network.bodies[0]
    shape = (int(panels.shape[-2]), int(panels.shape[-1]))
    if method_name == "contributions":
        in_favour = contributions(network, panels, target).maps.sum(dim=1, keepdim=True).clamp(min=0)
        return CellMaps(in_favour, shape, None, method_name)
    if method_name == "rollout":
        maps = rollout_by_sequence(network, panels)
    else:
        with without_side_effects(network):
            layers = layers_of(network, shape=shape, map_size=map_size)
        maps = gradcam_by_sequence(network, panels, target, layers=layers).clamp(min=0)
    if is_transformer(body):
        centres = patch_centres((maps.shape[2], maps.shape[3]), shape, body.patch_embed.patch_size)
    else:
        centres = cell_centres(body, layers[0], shape)
    return CellMaps(maps, shape, centres, method_name)
