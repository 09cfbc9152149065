"""Batch norms whose statistics are kept, computed as part of the convolution before them while a network is trained.

With fixed statistics a batch norm scales and shifts each channel. The same follows from a convolution whose weights and
bias are scaled and shifted, so that the map between both is neither computed nor kept for the backward pass: about a
quarter less time for networks of small convolutions, and about half of the memory (measured by
`benchmarks/folding.py`). The parameters and their gradients stay those of both layers, equal up to rounding.

In eval mode, and for batch norms that update their statistics, nothing changes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

# Where the two layers of a pair find each other; not an attribute of a module, which would be registered as its part.
_PARTNER, _FOLDED = "_folding_partner", "_folded_output"


class Conv2d(nn.Conv2d):
    """PyTorch's `Conv2d` that in training also computes the batch norm after it, if this keeps its statistics."""

    def forward(self, input: Tensor) -> Tensor:
        norm = self.__dict__[_PARTNER]
        if not self.training or norm.training or self._forward_hooks or not torch.is_grad_enabled():
            return super().forward(input)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        output = self._conv_forward(input, self.weight * scale[:, None, None, None], shift)
        norm.__dict__[_FOLDED] = weakref.ref(output)
        return output


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's `BatchNorm2d` that passes on what its convolution has already normalised."""

    def forward(self, input: Tensor) -> Tensor:
        folded = self.__dict__.pop(_FOLDED, None)
        if folded is None or folded() is None:
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

    A network whose forward pass cannot be traced stays as it is.

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
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        # its code met values that stand for tensors
        return []
    steps = [node for node in graph.nodes if node.op == "call_module"]
    modules = {node: body.get_submodule(str(node.target)) for node in steps}
    once = {module for module, times in Counter(modules.values()).items() if times == 1}
    pairs = []
    for node, norm in modules.items():
        before = node.args[0]
        conv = modules.get(before) if isinstance(before, fx.Node) else None
        if conv is None or len(before.users) > 1 or not {conv, norm} <= once:
            continue
        whole = type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats
        if whole and type(conv) is nn.Conv2d:
            pairs.append((conv, norm))
    return pairs
