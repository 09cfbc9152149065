"""At which rates weights are trained: optimisers and schedules.

Warm-up: Goyal et al., "Accurate, Large Minibatch SGD", 2017. Cosine: Loshchilov and Hutter, "SGDR", ICLR 2017.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from casewise.plugin import implementing

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study.schema import Recipe

# A group of parameters as the optimisers of torch take it.
Group: TypeAlias = dict[str, Any]


class RateMethod(Protocol):
    """A plugin with learning rates of its own."""

    def parameter_groups(self, network: Network, recipe: Recipe, lr: float) -> list[Group] | None:
        """As `casewise.training.rates.parameter_groups`; None if the recipe chooses no rates of the plugin."""
        return None


def parameter_groups(network: Any, recipe: Recipe, lr: float) -> list[Group]:
    """The optimiser's groups: of a plugin, or one for the body if it learns, then one for the head."""
    head = {"params": list(network.head.parameters()), "lr": lr * recipe.head_lr}
    body = [p for p in network.body.parameters() if p.requires_grad]
    if not body:
        return [head]
    groups = (method.parameter_groups(network, recipe, lr) for method in implementing(RateMethod))
    return next(filter(None, groups), None) or [{"params": body, "lr": lr}, head]


def optimizer_of(groups: list[Group], recipe: Recipe, *, fused: bool = False) -> torch.optim.Optimizer:
    """The recipe's optimiser of these groups; with `fused` it updates all weights in one operation, if it can."""
    decay, one = recipe.weight_decay, fused or None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=decay, fused=one)
    if recipe.optimizer == "radam":
        return torch.optim.RAdam(groups, weight_decay=decay, decoupled_weight_decay=True)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, weight_decay=decay, fused=one)


def cosine_share(recipe: Recipe, epoch: int, batch: int, steps: int) -> float:
    """The share of the full rate with `schedule: cosine`: changes by epoch, or with a warm-up by step."""
    if recipe.warmup:
        return warmed_cosine(epoch * steps + batch, recipe.warmup * steps, recipe.epochs * steps)
    return warmed_cosine(epoch, 0, recipe.epochs)


def warmed_cosine(step: int, warmup: int, total: int) -> float:
    """The share of the full rate at a step, counted from 0: it rises over `warmup` steps, then falls as a cosine.

    The last step of the warm-up has the full rate and the first one is not 0. Without a warm-up this is half a cosine
    over all steps. It depends only on the step, so that interrupted training continues unchanged.

    >>> [round(warmed_cosine(step, 2, 6), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
