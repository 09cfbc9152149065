"""Batch norms whose statistics are kept, computed as part of the convolution before them while a network is trained.

With fixed statistics a batch norm scales and shifts each channel. The same follows from a convolution whose weights and
bias are scaled and shifted, so that the map between both is neither computed nor kept for the backward pass. A step of
MobileNetV2 takes a quarter less time, and half of the memory that is kept for its backward pass; other networks gain
less (`docs/performance.md`). The parameters and their gradients stay those of both layers, equal up to rounding.

Nothing changes for batch norms that update their statistics, and for convolutions in eval mode: in prediction, in
explanations, and in layers that a phase freezes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

# Where the two layers of a pair find each other; not an attribute of a module, which would be registered as its part.
_PARTNER, _FOLDED = "_folding_partner", "_folded_output"


class Conv2d(nn.Conv2d):
    """PyTorch's `Conv2d` that in training also computes the batch norm after it, if this keeps its statistics."""

    def forward(self, input: Tensor) -> Tensor:
        norm = self.__dict__[_PARTNER]
        read = self._forward_hooks or self._backward_hooks or norm._forward_pre_hooks or norm._backward_hooks
        if not self.training or norm.training or read or not torch.is_grad_enabled():
            return super().forward(input)
        if _FOLDED in norm.__dict__:
            raise RuntimeError("a batch norm that was folded into its convolution did not receive the map")
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        output = self._conv_forward(input, self.weight * scale[:, None, None, None], shift)
        norm.__dict__[_FOLDED] = weakref.ref(output)
        return output


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's `BatchNorm2d` that passes on what its convolution has already normalised."""

    def train(self, mode: bool = True) -> Self:
        # the map of a step that an error ended is never received
        self.__dict__.pop(_FOLDED, None)
        return super().train(mode)

    def forward(self, input: Tensor) -> Tensor:
        folded = self.__dict__.pop(_FOLDED, None)
        if folded is None:
            return super().forward(input)
        if folded() is not input:
            raise RuntimeError("a batch norm received another map than its convolution computed")
        return input


class _Layers(fx.Tracer):
    """Takes every module without children as one step."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not list(m.children()) or super().is_leaf_module(m, module_qualified_name)


def fold_kept_norms(body: nn.Module) -> None:
    """Let pairs of a convolution and a batch norm, of which nothing else reads the map between, be computed together.

    Both are parts of the same module. A network whose forward pass cannot be traced stays as it is.

    >>> body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    >>> fold_kept_norms(body)
    >>> [type(layer).__module__ for layer in body]
    ['casewise.models.folding', 'casewise.models.folding']
    """
    if not any(type(module) is nn.BatchNorm2d for module in body.modules()):
        return
    for conv, norm in _pairs(body):
        conv.__class__, norm.__class__ = Conv2d, BatchNorm2d
        conv.__dict__[_PARTNER] = norm


def _pairs(body: nn.Module) -> list[tuple[Any, Any]]:
    try:
        graph = _Layers().trace(body)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        NameError,
        RuntimeError,
        TypeError,
        ValueError,
    ):
        # its code met values that stand for tensors
        return []
    steps = [node for node in graph.nodes if node.op == "call_module"]
    modules = {node: body.get_submodule(str(node.target)) for node in steps}
    once = {module for module, times in Counter(modules.values()).items() if times == 1}
    pairs = []
    for node, norm in modules.items():
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before not in modules or _parent(before) != _parent(node):
            continue
        conv, whole = modules[before], type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats
        if whole and type(conv) is nn.Conv2d and len(before.users) == 1 and {conv, norm} <= once:
            pairs.append((conv, norm))
    return pairs


def _parent(node: fx.Node) -> str:
    """The name of the module of which the called module is a part."""
    return str(node.target).rpartition(".")[0]
