"""A map of influence for each panel, by the method that fits the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from casewise.errors import CasewiseError, nearest
from casewise.explain.gradcam import gradcam_by_sequence, layers_of
from casewise.explain.placing import Middles, middles_of, patches, resized
from casewise.explain.rollout import is_transformer, rollout_by_sequence
from casewise.explain.untouched import looked_into

if TYPE_CHECKING:
    from casewise.explain.asked import Asked
    from casewise.models.backbones import Network

Method: TypeAlias = Literal["rollout", "grad-cam"]
METHODS: tuple[str, ...] = get_args(Method)


def method_for(network: Network) -> Method:
    """Attention rollout for transformers that attend over all their patches, Grad-CAM for every other network."""
    return "rollout" if is_transformer(network.bodies[0]) else "grad-cam"


def explain(network: Network, panels: Tensor, *, output: Asked, method: str | None = None, cells: int = 0) -> Tensor:
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
    # rollout's shares are not below 0: drawn from 0 to 1 their sum is their mean
    found, middles = _by_sequence(network, panels, output, method, cells)
    return resized(found.nansum(dim=1), (panels.shape[-2], panels.shape[-1]), middles)


def explain_each(
    network: Network, panels: Tensor, *, output: Asked, method: str | None = None, cells: int = 0
) -> Tensor:
    """As `explain`, with late fusion a map for each sequence, each from 0 to 1, NaN for a missing one: (B, S, H, W).

    Without late fusion S is 1.
    """
    found, middles = _by_sequence(network, panels, output, method, cells)
    gone = found.isnan().all(dim=(2, 3))
    maps = resized(found.nan_to_num().flatten(0, 1), (panels.shape[-2], panels.shape[-1]), middles)
    return maps.unflatten(0, gone.shape).masked_fill(gone[:, :, None, None], torch.nan)


def _by_sequence(
    network: Network, panels: Tensor, output: Asked, method: str | None, cells: int
) -> tuple[Tensor, Middles | None]:
    """Maps not below 0, (B, S, h, w), and where their cells lie."""
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
        return found, patches((found.shape[2], found.shape[3]), shape, body.patch_embed.patch_size)
    return found, middles_of(body, layers[0], shape)
