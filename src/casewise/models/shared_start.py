"""The first layers that several networks have in common, such as layers that every fold kept frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from casewise.errors import TrainingError
from casewise.models.frozen_split import Segment, split_modules

if TYPE_CHECKING:
    from casewise.models.backbones import Network


@dataclass(frozen=True, eq=False)
class SharedStart:
    """Networks whose first layers are equal: `rests[i](start(panels))` are the features of network i, to the bit."""

    start: Segment
    rests: list[Segment]

    @classmethod
    def of(cls, networks: Sequence[Network]) -> SharedStart | None:
        """What networks of equal facts have in common; None if it is nothing, or they cannot be split."""
        first = networks[0]
        if len(networks) < 2 or first.read_map or first.fusion is not None:
            return None
        end = 0
        for modules in zip(*(network.bodies[0].modules() for network in networks), strict=True):
            if not all(_equal(modules[0], other) for other in modules[1:]):
                break
            end += 1
        try:
            splits = [split_modules(network, end) for network in networks]
        except TrainingError:
            return None
        return cls(splits[0][0].eval(), [rest.eval() for _, rest in splits])

    def features(self, panels: Tensor) -> list[Tensor]:
        """The features (B, width) of each network for panels (B, C, H, W) in 0–1."""
        maps = self.start(panels)
        return [rest(maps) for rest in self.rests]


def _equal(module: nn.Module, other: nn.Module) -> bool:
    """Whether the weights and statistics of a module, without those of its children, are equal to another's."""
    own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    others = dict(other.named_parameters(recurse=False)) | dict(other.named_buffers(recurse=False))
    return all(name == "num_batches_tracked" or torch.equal(value, others[name]) for name, value in own.items())
