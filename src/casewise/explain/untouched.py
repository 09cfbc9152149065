"""A network is looked into and left as it was: modes, what is learned, gradients, hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from casewise.models.backbones import Network
from casewise.models.fusion import Fused

ROUNDING = 1e-6


@contextmanager
def looked_into(network: nn.Module) -> Iterator[list[RemovableHandle]]:
    """The network in eval mode with nothing to learn; hooks put on the list given are removed at the end.

    Modes of every module, `requires_grad` and gradients of every parameter are afterwards what they were.
    """
    modes = [(module, module.training) for module in network.modules()]
    learned = [(parameter, parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    hooks: list[RemovableHandle] = []
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _, _ in learned:
            # set aside, for the library clears what it finds
            parameter.grad = None
            parameter.requires_grad_(False)
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, learns, gradient in learned:
            parameter.requires_grad_(learns)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


@contextmanager
def plain_attention(parts: list[nn.Module]) -> Iterator[None]:
    """Attention computed step by step, so that its weights can be seen, and fused again afterwards."""
    with ExitStack() as stack:
        for part in parts:
            stack.callback(setattr, part, "fused_attn", part.fused_attn)
            part.fused_attn = False  # type: ignore[assignment]
        yield


def by_sequence(network: Network, runs: list[Tensor], panels: Tensor) -> Tensor:
    """Maps of each time that a backbone ran as (B, S, h, w), NaN where one is missing; without late fusion S is 1."""
    if isinstance(network.body, Fused):
        return network.body.by_sequence(runs, panels)
    return runs[0].unsqueeze(1)


def zero_to_one(maps: Tensor) -> Tensor:
    """Each map (B, H, W) from 0 to 1; one that is the same everywhere says nothing and becomes 0.

    >>> zero_to_one(torch.tensor([[[2.0, 4.0]], [[3.0, 3.0]]])).tolist()
    [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    flat = maps.double().flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    # what rounding leaves of a flat map must not be drawn out to a pattern
    tells = high - low > ROUNDING * torch.maximum(low.abs(), high.abs())
    found = torch.where(tells, (flat - low) / torch.where(tells, high - low, 1.0), 0.0)
    return found.reshape(maps.shape).float()
