"""Which weights are trained, and at which rates: groups of layers, optimisers, and schedules.

Layer-wise decay: Clark et al., "ELECTRA", ICLR 2020; Bao et al., "BEiT", ICLR 2022. Warm-up: Goyal et al., "Accurate,
Large Minibatch SGD", 2017. Cosine: Loshchilov and Hutter, "SGDR", ICLR 2017.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study.schema import Recipe

# A group of parameters as the optimisers of torch take it.
Group: TypeAlias = dict[str, Any]
EMBEDDING = "embedding"
# the modules before the blocks of a transformer of timm
INPUT = ("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre", "rel_pos_bias")


def layer_groups(network: Network, count: int) -> list[list[nn.Module]]:
    """The body's freeze points in at most `count` groups of about equal size, from the input on."""
    blocks = [module for _, module in network.blocks]
    count = min(count, len(blocks))
    edges = [round(i * len(blocks) / count) for i in range(count + 1)]
    return [blocks[low:high] for low, high in itertools.pairwise(edges)]


def unfreeze(network: Network, groups: int, count: int, *, norms: bool = False) -> None:
    """Train the head and the last `groups` of `count` groups of layers; freeze those before, but with `norms` no norm.

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
    for module in network.body.modules():
        if norms and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(True)
    if network.missing_token is not None:
        network.missing_token.requires_grad_(groups > 0)


def parameter_groups(network: Any, recipe: Recipe, lr: float) -> list[Group]:
    """The optimiser's groups: one for the body, or several with `layer_decay`, then one for the head."""
    head = {"params": list(network.head.parameters()), "lr": lr * recipe.head_lr}
    body = [p for p in network.body.parameters() if p.requires_grad]
    if body and recipe.layer_decay != 1:
        return layer_rates(network, lr, recipe.layer_decay, head_lr=recipe.head_lr)
    return [{"params": body, "lr": lr}, head] if body else [head]


def optimizer_of(groups: list[Group], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of these groups."""
    decay = recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, weight_decay=decay)
    if recipe.optimizer == "radam":
        return torch.optim.RAdam(groups, weight_decay=decay, decoupled_weight_decay=True)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, weight_decay=decay)


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


def layer_rates(network: Network, lr: float, decay: float, *, head_lr: float = 1.0) -> list[Group]:
    """The optimiser's groups from the input on, each with its `params` (only trained ones), `lr` and `name`.

    The head and the replacement of missing sequences have `lr` (the head times `head_lr`). Every step towards the
    input has `decay` times the rate of the next one: the blocks one after another, then the embedding (patches,
    positions, tokens). The norm of a transformer after its blocks has `lr`. Networks that are not transformers
    have their blocks in this order (`Network.blocks`). Bodies of late fusion have the same rates.
    """
    names = [name for name, _ in network.blocks]
    first = network.bodies[0]
    transformer = hasattr(first, "patch_embed") and isinstance(getattr(first, "blocks", None), nn.Sequential)
    if transformer:
        names = [EMBEDDING, *[name for name in names if name.startswith("blocks.")]]
    by_layer: dict[str, list[nn.Parameter]] = {name: [] for name in [*names, "behind"]}
    for body in network.bodies:
        for key, parameter in body.named_parameters():
            if transformer and re.match(rf"({'|'.join(INPUT)})\b", key):
                layer = EMBEDDING
            else:
                # outside the blocks of other networks are tokens and positions, which belong to the input
                rest = "behind" if transformer else names[0]
                layer = next((name for name in names if key.startswith(f"{name}.")), rest)
            by_layer[layer].append(parameter)
    if network.missing_token is not None:
        by_layer["behind"].append(network.missing_token)
    rates = {name: lr * decay ** (len(names) - position) for position, name in enumerate([*names, "behind"])}
    groups: list[Group] = [{"params": by_layer[name], "lr": rates[name], "name": name} for name in by_layer]
    groups.append({"params": list(network.head.parameters()), "lr": lr * head_lr, "name": "head"})
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    return [group for group in groups if group["params"]]
