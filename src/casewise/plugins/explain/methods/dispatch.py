"""Chooses the saliency method for a network and computes maps on panels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import torch
from torch import Tensor

from casewise.plugins.explain.methods.contributions import contributions, reads_features
from casewise.plugins.explain.methods.gradcam import gradcam_by_sequence, layer_of
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
        return cls(name, shape, layer, None if is_transformer(body) else cell_centres(body, layer, shape))

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
        centres = self.centres
        if is_transformer(body):
            centres = patch_centres((maps.shape[2], maps.shape[3]), self.shape, body.patch_embed.patch_size)
        return CellMaps(maps, self.shape, centres, self.name)

    def explain(self, network: Network, panels: Tensor, target: ExplainTarget) -> Tensor:
        """The influence of each pixel of each panel, (B, H, W) `float32` from 0 to 1; 0 where a map is empty."""
        return zero_to_one(self.cell_maps(network, panels, target).on_panel())
