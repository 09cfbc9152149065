"""Learning rates that fall layer by layer towards the input.

Source: Clark et al., "ELECTRA", ICLR 2020; Bao et al., "BEiT", ICLR 2022.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from casewise.plugins.published.settings import keys_of

if TYPE_CHECKING:
    from casewise.models.backbones import Network
    from casewise.study.recipe import Recipe
    from casewise.training.rates import Group

_EMBEDDING = "embedding"
# the modules before the blocks of a transformer of timm
_INPUT = ("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed", "norm_pre", "rel_pos_bias")


def parameter_groups(network: Network, recipe: Recipe, lr: float) -> list[Group] | None:
    """The groups of a recipe with `layer_decay`; None without."""
    decay = keys_of(recipe).layer_decay
    return layer_rates(network, lr, decay, head_lr=recipe.head_lr) if decay != 1 else None


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
        names = [_EMBEDDING, *[name for name in names if name.startswith("blocks.")]]
    by_layer: dict[str, list[nn.Parameter]] = {name: [] for name in [*names, "behind"]}
    for body in network.bodies:
        for key, parameter in body.named_parameters():
            if transformer and re.match(rf"({'|'.join(_INPUT)})\b", key):
                layer = _EMBEDDING
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
