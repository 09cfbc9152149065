"""Attention rollout: how much of each patch reaches what a transformer's head sees.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, as used in 004_c22792b4e9a56ae8.txt
("we average attention weights of all heads of each transformer layer and then multiply these averages across all
layers"): heads averaged, half the weight left to the residual path, rows brought to sum 1, multiplied over the layers.
It says what reaches the head, not which class it speaks for: the map is the same for every class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from casewise.errors import CasewiseError
from casewise.explain.methods.no_side_effects import looked_into, plain_attention
from casewise.explain.methods.sequences import by_sequence
from casewise.models.backbones import Network


def is_transformer(body: nn.Module) -> bool:
    """Whether a backbone is a timm transformer all of whose blocks attend over all tokens at once."""
    blocks = getattr(body, "blocks", None)
    if not hasattr(body, "num_prefix_tokens") or not hasattr(body, "patch_embed") or not blocks:
        return False
    parts = [getattr(block, "attn", None) for block in blocks]
    return all(hasattr(part, "fused_attn") and hasattr(part, "attn_drop") for part in parts)


def pools_by_attention(body: nn.Module) -> bool:
    """Whether what the head sees is gathered by one more attention, which is in no block."""
    return getattr(body, "global_pool", "") == "map" or getattr(body, "attn_pool", None) is not None


def rollout(network: Network, panels: Tensor) -> Tensor:
    """How much of each patch reaches the head, (B, h, w); each map sums to 1. With late fusion the sequences' mean.

    Args:
        network: one with a timm transformer; it is left as it was.
        panels: (B, C, H, W) in 0–1.

    Raises:
        CasewiseError: the network is no such transformer.
    """
    return rollout_by_sequence(network, panels).nanmean(dim=1)


def rollout_by_sequence(network: Network, panels: Tensor) -> Tensor:
    """As `rollout`, with late fusion one map for each sequence, NaN for a missing one: (B, S, h, w); else S is 1."""
    bodies: list[Any] = network.bodies
    if not all(is_transformer(body) for body in bodies):
        raise CasewiseError(
            f"explain: {network.name} is no transformer whose attention can be rolled out; use grad-cam."
        )
    if any(pools_by_attention(body) for body in bodies):
        raise CasewiseError(
            f"explain: the head of {network.name} weighs patches by attention of its own (global_pool: map), which "
            "attention rollout does not see; use grad-cam."
        )
    seen = [_Seen(body) for body in bodies]
    with looked_into(network) as hooks, plain_attention([block.attn for body in bodies for block in body.blocks]):
        for one in seen:
            hooks += one.hooks()
        with torch.no_grad():
            network.features(panels)
    return by_sequence(network, [found for one in seen for found in one.maps()], panels)


class _Seen:
    """What the attention of one backbone was while it ran, once or more often."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.weights: list[list[Tensor]] = [[] for _ in body.blocks]
        self.grids: list[tuple[int, int]] = []

    def hooks(self) -> list[Any]:
        found = [self.body.patch_embed.register_forward_hook(self._patches)]
        for block, kept in zip(self.body.blocks, self.weights, strict=True):
            # the mean over heads at once: all heads of all layers would be large
            found.append(
                block.attn.attn_drop.register_forward_pre_hook(lambda m, i, kept=kept: kept.append(i[0].mean(dim=1)))
            )
        return found

    def _patches(self, module: nn.Module, given: tuple[Tensor, ...], patches: Any) -> None:
        self.grids.append(grid_of(self.body, patches[0] if isinstance(patches, tuple) else patches, given[0]))

    def maps(self) -> list[Tensor]:
        """One map (B, h, w) for each time that the backbone ran."""
        return [
            _rolled(self.body, [kept[run] for kept in self.weights], self.grids[run]) for run in range(len(self.grids))
        ]


def grid_of(body: Any, patches: Tensor, panels: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches that a timm transformer cuts panels (B, C, H, W) into."""
    if patches.ndim == 4:
        # kept as (B, h, w, C) where the size of the panel may vary
        return int(patches.shape[1]), int(patches.shape[2])
    rows, columns = body.patch_embed.grid_size
    if rows * columns != patches.shape[1]:
        rows = round((patches.shape[1] * panels.shape[-2] / panels.shape[-1]) ** 0.5)
        columns = patches.shape[1] // max(rows, 1)
    return int(rows), int(columns)


def _rolled(body: Any, weights: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """The share of each patch in what the head sees: weights (B, N, N) by layer → (B, h, w)."""
    size, tokens, _ = weights[0].shape
    prefix = int(body.num_prefix_tokens)
    if tokens != prefix + grid[0] * grid[1]:
        raise CasewiseError(
            f"explain: {tokens} tokens are not {grid[0]} x {grid[1]} patches and {prefix} more; this transformer does "
            "not keep its patches, so use grad-cam."
        )
    # only the rows that the head reads are carried from the last layer to the first: as many products fewer as tokens
    row = _read_by_head(body, tokens, prefix).to(weights[0]).expand(size, 1, tokens)
    for layer in reversed(weights):
        mixed = 0.5 * layer + 0.5 * torch.eye(tokens, device=layer.device, dtype=layer.dtype)
        row = row @ (mixed / mixed.sum(dim=-1, keepdim=True))
    patches = row[:, 0, prefix:]
    return (patches / patches.sum(dim=1, keepdim=True)).reshape(size, *grid).float()


def _read_by_head(body: Any, tokens: int, prefix: int) -> Tensor:
    """What share of the features is each token's: the class token (and the distilled one), or the mean of patches."""
    row = torch.zeros(tokens)
    if prefix and getattr(body, "global_pool", "token") == "token":
        row[: 2 if getattr(body, "dist_token", None) is not None else 1] = 1
    else:
        row[0 if getattr(body, "pool_include_prefix", False) else prefix :] = 1
    return row / row.sum()
