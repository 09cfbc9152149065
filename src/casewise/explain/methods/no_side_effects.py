"""A network is looked into and left as it was: modes, what is learned, gradients, hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle


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
