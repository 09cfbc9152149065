"""Maps of a network as a run computes them, in one call."""

from __future__ import annotations

import torch

from casewise.models.backbones import Network
from casewise.plugins.explain.methods.dispatch import CellMaps, SaliencyMethod
from casewise.plugins.explain.methods.target import ExplainTarget


def method_of(network: Network, panels: torch.Tensor, map_size: int = 0) -> SaliencyMethod:
    return SaliencyMethod.of(network, (panels.shape[-2], panels.shape[-1]), map_size=map_size)


def cell_maps(network: Network, panels: torch.Tensor, target: ExplainTarget) -> CellMaps:
    return method_of(network, panels).cell_maps(network, panels, target)


def explain(network: Network, panels: torch.Tensor, target: ExplainTarget, map_size: int = 0) -> torch.Tensor:
    return method_of(network, panels, map_size).explain(network, panels, target)
