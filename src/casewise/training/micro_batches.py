"""Batches in parts, for networks whose batches do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def forward_in_parts(network: nn.Module, panels: Tensor, parts: int) -> Tensor:
    """The outputs (B, W) of a batch of panels (B, ...), computed in `parts` of nearly equal size.

    A part is computed a second time when its gradients are needed, so that memory holds the intermediate values of one
    part at a time. The loss is that of the whole batch, so gradients are equal to those without parts up to rounding,
    except in networks with batch norm in training mode, which normalises each part by itself, and for the draws of
    dropout.

    >>> network = nn.Linear(3, 2)
    >>> forward_in_parts(network, torch.ones(5, 3), 2).shape
    torch.Size([5, 2])
    """
    # A part of one panel has no statistics for a batch norm.
    parts = max(1, min(parts, len(panels) // 2))
    if parts == 1:
        outputs: Tensor = network(panels)
        return outputs
    by_part = [
        checkpoint(
            network,
            some_panels,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _running_statistics_kept(network)),
        )
        for some_panels in panels.tensor_split(parts)
    ]
    return torch.cat(by_part)


@contextmanager
def _running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """The second computation of a part must not count a second time in the running statistics of batch norms."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(module, module.momentum, module.num_batches_tracked) for module in norms]
    for module in norms:
        module.momentum = 0.0
        if module.num_batches_tracked is not None:
            module.num_batches_tracked = module.num_batches_tracked.clone()
    try:
        yield
    finally:
        for module, momentum, count in before:
            module.momentum, module.num_batches_tracked = momentum, count
