"""Trained layers and their rates: groups of layers, discriminative learning rates, the head alone."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from casewise.training.lr_schedule import layer_rates

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study.schema import Recipe


class HeadOnly(nn.Module):
    """A network that applies the head of another one to features (B, width); it shares the head's parameters."""

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.name = network.name
        self.body = nn.Identity()
        self.head = network.head
        self.register_buffer("target_mean", network.target_mean)
        self.register_buffer("target_std", network.target_std)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()) * self.target_std + self.target_mean


def layer_groups(network: Network, count: int) -> list[list[nn.Module]]:
    """The body's freeze points in at most `count` groups of about equal size, from the input on."""
    blocks = [module for _, module in network.blocks]
    count = min(count, len(blocks))
    edges = [round(i * len(blocks) / count) for i in range(count + 1)]
    return [blocks[low:high] for low, high in itertools.pairwise(edges)]


def unfreeze(network: Network, groups: int, count: int) -> None:
    """Train the head and the last `groups` of `count` groups of layers; freeze the layers before them.

    The replacement of missing sequences is trained unless the head is trained alone.
    """
    all_groups = layer_groups(network, count)
    for parameter in network.body.parameters():
        parameter.requires_grad_(False)
    for group in all_groups[len(all_groups) - groups :]:
        for module in group:
            module.requires_grad_(True)
    if groups == len(all_groups):
        network.body.requires_grad_(True)
    if network.missing_token is not None:
        network.missing_token.requires_grad_(groups > 0)


def parameter_groups(network: Any, recipe: Recipe, lr: float) -> list[dict[str, Any]]:
    """The optimiser's groups: one for the body, or several if rates differ by layer, then one for the head.

    With `discriminative` d the last group of layers has the stated rate, and each group below it 1/d of the next one's;
    with `layer_decay` see `casewise.training.lr_schedule.layer_rates`.
    """
    head = {"params": list(network.head.parameters()), "lr": lr * recipe.head_lr}
    body = [p for p in network.body.parameters() if p.requires_grad]
    if not body:
        return [head]
    if recipe.layer_decay != 1:
        return layer_rates(network, lr, recipe.layer_decay, head_lr=recipe.head_lr)
    if recipe.discriminative == 1:
        return [{"params": body, "lr": lr}, head]
    groups = layer_groups(network, recipe.gradual_unfreezing.groups)
    body_groups: list[dict[str, Any]] = []
    grouped: set[int] = set()
    for position, group in enumerate(groups):
        group_parameters = [
            p for module in group for p in module.parameters() if p.requires_grad and id(p) not in grouped
        ]
        grouped |= {id(p) for p in group_parameters}
        if group_parameters:
            body_groups.append(
                {"params": group_parameters, "lr": lr / recipe.discriminative ** (len(groups) - 1 - position)}
            )
    rest = [p for p in body if id(p) not in grouped]
    if rest:
        # tokens and positions belong to no block and count as the input layer
        body_groups.insert(0, {"params": rest, "lr": lr / recipe.discriminative ** (len(groups) - 1)})
    return [*body_groups, head]
