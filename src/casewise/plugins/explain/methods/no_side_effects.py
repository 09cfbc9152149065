"""Context managers that let hooks read a network and then restore its modes, gradients and hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle


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
def unfused_attention(layers: list[nn.Module]) -> Iterator[None]:
    """Compute attention step by step so that hooks can read its weights; restored at the end."""
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(setattr, layer, "fused_attn", layer.fused_attn)
            layer.fused_attn = False  # type: ignore[assignment]
        yield
