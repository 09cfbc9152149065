"""Activations that keep less memory for the backward pass, with the same bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Clipped(torch.autograd.Function):
    """`ReLU6` whose gradient is read from its output, which the next layer keeps in any case.

    PyTorch keeps a copy of the input, from which the same follows: an input is within the limits exactly if its output
    is.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        nn.functional.relu6(values, inplace=True)
        ctx.mark_dirty(values)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], output, 0.0, 6.0)  # type: ignore[no-any-return]


class ReLU6(nn.ReLU6):
    """`ReLU6` in place, which in training keeps no copy of its input; it has the name of PyTorch's."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.requires_grad and torch.is_grad_enabled():
            clipped: Tensor = _Clipped.apply(input)  # type: ignore[no-untyped-call]
            return clipped
        return super().forward(input)


def clip_in_place(body: nn.Module) -> None:
    """Let the modules `ReLU6` of a network that work in place keep no copies.

    >>> body = nn.Sequential(nn.ReLU6(inplace=True))
    >>> clip_in_place(body)
    >>> type(body[0]).__module__
    'casewise.models.activations'
    """
    for module in body.modules():
        if type(module) is nn.ReLU6 and module.inplace:
            module.__class__ = ReLU6
