"""Attention rollout: how much of each patch reaches the head of a transformer.

Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, as in the preset `ipmn-mri`
("we average attention weights of all heads of each transformer layer and then multiply these averages across all
layers"). Heads are averaged, the residual path has half the weight, rows are normalised to sum 1, and the matrices are
multiplied over the layers. The map shows what reaches the head and does not depend on the class that is explained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from casewise.errors import CasewiseError
from casewise.models.backbones import Network


def is_transformer(body: nn.Module) -> bool:
    """Whether a backbone is a timm transformer in which every block attends over all tokens."""
    blocks = getattr(body, "blocks", None)
    if not hasattr(body, "num_prefix_tokens") or not hasattr(body, "patch_embed") or not blocks:
        return False
    attentions = [getattr(block, "attn", None) for block in blocks]
    return all(hasattr(attention, "fused_attn") and hasattr(attention, "attn_drop") for attention in attentions)


def pools_by_attention(body: nn.Module) -> bool:
    """Whether an additional attention layer, outside the blocks, pools the tokens for the head."""
    return getattr(body, "global_pool", "") == "map" or getattr(body, "attn_pool", None) is not None


def rollout_by_sequence(network: Network, panels: Tensor) -> Tensor:
    """How much of each patch reaches the head, (B, S, h, w); NaN for a missing sequence. Each map sums to 1.

    With late fusion there is one map per sequence, otherwise S is 1.

    Args:
        network: a network with a timm transformer; it is left unchanged.
        panels: (B, C, H, W) in 0–1.
    """
    bodies: list[Any] = network.bodies
    recorders = [_AttentionRecorder(body) for body in bodies]
    attentions = [block.attn for body in bodies for block in body.blocks]
    with without_side_effects(network) as hooks, _unfused_attention(attentions):
        for recorder in recorders:
            hooks += recorder.hooks()
        with torch.no_grad():
            network.features(panels)
    return by_sequence(network, [values for recorder in recorders for values in recorder.maps()], panels)


def by_sequence(network: Network, runs: list[Tensor], panels: Tensor) -> Tensor:
    """The maps of each backbone run as (B, S, h, w), NaN for a missing sequence. Without late fusion S is 1."""
    fused: Any = network.body
    return fused.by_sequence(runs, panels) if network.fusion else runs[0].unsqueeze(1)


class _AttentionRecorder:
    """The attention weights of one backbone, for each time that it ran."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.weights: list[list[Tensor]] = [[] for _ in body.blocks]
        self.grids: list[tuple[int, int]] = []

    def hooks(self) -> list[Any]:
        handles = [record_grids(self.body, self.grids)]
        for block, weights in zip(self.body.blocks, self.weights, strict=True):
            # the mean over heads is taken at once, because all heads of all layers need much memory
            hook = partial(_record_mean, weights)
            handles.append(block.attn.attn_drop.register_forward_pre_hook(hook))
        return handles

    def maps(self) -> list[Tensor]:
        """One map (B, h, w) for each run of the backbone."""
        return [_rolled(self.body, [layer[run] for layer in self.weights], grid) for run, grid in enumerate(self.grids)]


def _record_mean(weights: list[Tensor], module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    weights.append(inputs[0].mean(dim=1))


def record_grids(body: Any, grids: list[tuple[int, int]]) -> RemovableHandle:
    """Record the grid of patches at every run of a transformer, until the handle is removed."""

    def record(module: nn.Module, inputs: tuple[Tensor, ...], patches: Any) -> None:
        grids.append(_grid_of(body, patches[0] if isinstance(patches, tuple) else patches, inputs[0]))

    handle: RemovableHandle = body.patch_embed.register_forward_hook(record)
    return handle


def _grid_of(body: Any, patches: Tensor, panels: Tensor) -> tuple[int, int]:
    """Rows and columns of the patches into which a timm transformer divides panels (B, C, H, W)."""
    if patches.ndim == 4:
        # kept as (B, h, w, C) where the size of the panel may vary
        return int(patches.shape[1]), int(patches.shape[2])
    rows, columns = body.patch_embed.grid_size
    if rows * columns != patches.shape[1]:
        rows = round((patches.shape[1] * panels.shape[-2] / panels.shape[-1]) ** 0.5)
        columns = patches.shape[1] // max(rows, 1)
    return int(rows), int(columns)


def _rolled(body: Any, weights: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """The share of each patch in the features that reach the head: weights (B, N, N) by layer → (B, h, w)."""
    size, tokens, _ = weights[0].shape
    prefix = int(body.num_prefix_tokens)
    if tokens != prefix + grid[0] * grid[1]:
        layout = f"{grid[0]} x {grid[1]} patches and {prefix} prefix tokens"
        raise CasewiseError(f"explain: {tokens} tokens are not {layout}: attention rollout does not apply.")
    # only the rows that the head reads are propagated from the last layer to the first
    row = _read_by_head(body, tokens, prefix).to(weights[0]).expand(size, 1, tokens)
    for layer in reversed(weights):
        mixed = 0.5 * layer + 0.5 * torch.eye(tokens, device=layer.device, dtype=layer.dtype)
        row = row @ (mixed / mixed.sum(dim=-1, keepdim=True))
    patches = row[:, 0, prefix:]
    return (patches / patches.sum(dim=1, keepdim=True)).reshape(size, *grid).float()


def _read_by_head(body: Any, tokens: int, prefix: int) -> Tensor:
    """Each token's share of the features: the class token (and the distillation token), or the mean of the patches."""
    row = torch.zeros(tokens)
    if prefix and getattr(body, "global_pool", "token") == "token":
        row[: 2 if getattr(body, "dist_token", None) is not None else 1] = 1
    else:
        row[0 if getattr(body, "pool_include_prefix", False) else prefix :] = 1
    return row / row.sum()


@contextmanager
def without_side_effects(network: nn.Module) -> Iterator[list[RemovableHandle]]:
    """Put the network in eval mode with all parameters fixed; yields a list whose hooks are removed at the end.

    Afterwards the mode of every module and the `requires_grad` and gradient of every parameter are restored.
    """
    modes = [(module, module.training) for module in network.modules()]
    states = [(parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    hooks: list[RemovableHandle] = []
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _, _ in states:
            # set aside, because the grad-cam package clears gradients
            parameter.grad = None
            parameter.requires_grad_(False)
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, requires_grad, gradient in states:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


@contextmanager
def _unfused_attention(layers: list[nn.Module]) -> Iterator[None]:
    """Compute attention step by step so that hooks can read its weights; restored at the end."""
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(setattr, layer, "fused_attn", layer.fused_attn)
            layer.fused_attn = False  # type: ignore[assignment]
        yield
