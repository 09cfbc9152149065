"""A map of influence for each panel, by the method that fits the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from casewise.errors import CasewiseError, nearest
from casewise.explain.methods.gradcam import gradcam_by_sequence, layers_of
from casewise.explain.methods.no_side_effects import looked_into
from casewise.explain.methods.receptive_field import Middles, drawn_out, middles_of, patches, zero_to_one
from casewise.explain.methods.rollout import is_transformer, pools_by_attention, rollout_by_sequence

if TYPE_CHECKING:
    from casewise.explain.methods.target import ExplainTarget
    from casewise.models.backbones import Network

Method: TypeAlias = Literal["rollout", "grad-cam"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True, eq=False)
class Cells:
    """Maps as the network has them, before they are drawn out over the panel.

    Attributes:
        maps: (B, S, h, w), not below 0; NaN of a missing sequence. Without late fusion S is 1.
        shape: of the panels, height and width.
        middles: where the cells lie (see `casewise.explain.methods.receptive_field`).
        method: how they were made. Rollout's sum to 1, each by itself; Grad-CAM's can be compared over sequences.
    """

    maps: Tensor
    shape: tuple[int, int]
    middles: Middles | None
    method: str

    def whole(self) -> Tensor:
        """The sequences together, on the panel: (B, H, W)."""
        # rollout's shares are not below 0: their sum is drawn as their mean is
        return drawn_out(self.maps.nansum(dim=1), self.shape, self.middles)

    def each(self) -> Tensor:
        """Every sequence's on the panel, NaN where one is missing: (B, S, H, W)."""
        gone = self.maps.isnan().all(dim=(2, 3))
        large = drawn_out(self.maps.nan_to_num().flatten(0, 1), self.shape, self.middles)
        return large.unflatten(0, gone.shape).masked_fill(gone[:, :, None, None], torch.nan)

    def contrast(self) -> Tensor:
        """How far the sequences' sum is from a map that is the same everywhere: 1 − mean / highest, (B,); 0 if empty.

        >>> Cells(torch.tensor([[[[1.0, 3.0, 4.0, 0.0]]], [[[0.0] * 4]]]), (4, 4), None, "rollout").contrast().tolist()
        [0.5, 0.0]
        """
        flat = self.maps.nansum(dim=1).flatten(1)
        high = flat.amax(dim=1)
        return torch.where(high > 0, 1 - flat.mean(dim=1) / torch.where(high > 0, high, 1.0), 0.0)


def scaled(maps: Tensor, method: str) -> Tensor:
    """Maps (B, S, H, W) from 0 to 1: of Grad-CAM on one scale over all S, of rollout each by itself."""
    if method == "grad-cam":
        return zero_to_one(maps)
    return zero_to_one(maps.flatten(0, 1)).reshape(maps.shape)


def method_for(network: Network) -> Method:
    """Attention rollout for transformers that attend over all their patches, Grad-CAM for every other network."""
    body = network.bodies[0]
    return "rollout" if is_transformer(body) and not pools_by_attention(body) else "grad-cam"


def explain(
    network: Network, panels: Tensor, *, output: ExplainTarget, method: str | None = None, cells: int = 0
) -> Tensor:
    """How much each pixel of each panel mattered, (B, H, W) `float32` from 0 to 1; 0 all over where nothing did.

    Args:
        network: one that takes grids; it is left as it was.
        panels: (B, C, H, W) in 0–1, NaN in the channels of a missing sequence.
        output: what is asked; rollout knows of no class and gives the same map whatever is asked.
        method: by default that of `method_for`.
        cells: the least number of cells a side of a CNN's map (see `layers_of`); by default that of its last map.

    Raises:
        CasewiseError: there is no such method, or it does not fit the network or the panels.
    """
    return zero_to_one(cells_of(network, panels, output=output, method=method, cells=cells).whole())


def explain_each(
    network: Network, panels: Tensor, *, output: ExplainTarget, method: str | None = None, cells: int = 0
) -> Tensor:
    """As `explain`, with late fusion a map for each sequence, NaN for a missing one: (B, S, H, W) from 0 to 1.

    Grad-CAM's maps of a panel share one scale, so that the brighter sequence mattered more. Rollout's cannot be
    compared over sequences: each backbone shares out a whole of its own. Without late fusion S is 1.
    """
    found = cells_of(network, panels, output=output, method=method, cells=cells)
    return scaled(found.each(), found.method)


def cells_of(
    network: Network, panels: Tensor, *, output: ExplainTarget, method: str | None = None, cells: int = 0
) -> Cells:
    """As `explain`, the maps as the network has them."""
    chosen = method or method_for(network)
    if chosen not in METHODS:
        hint = nearest(chosen, METHODS)
        raise CasewiseError(f"explain: method must be {' or '.join(METHODS)}, not {chosen!r}.{hint}")
    if panels.ndim != 4:
        raise CasewiseError(
            f"explain: panels must be grids (B, C, H, W), not {tuple(panels.shape)}; of bags the attention tells."
        )
    # with late fusion all backbones are alike
    body: Any = network.bodies[0]
    shape = (int(panels.shape[-2]), int(panels.shape[-1]))
    if chosen == "rollout":
        found = rollout_by_sequence(network, panels)
    else:
        with looked_into(network):
            layers = layers_of(network, shape=shape, cells=cells)
        found = gradcam_by_sequence(network, panels, output, layers=layers).clamp(min=0)
    if is_transformer(body):
        middles = patches((found.shape[2], found.shape[3]), shape, body.patch_embed.patch_size)
    else:
        middles = middles_of(body, layers[0], shape)
    return Cells(found, shape, middles, chosen)
