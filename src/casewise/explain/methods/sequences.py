"""Which sequence a map is of."""

from __future__ import annotations

from torch import Tensor

from casewise.models.backbones import Network
from casewise.models.fusion import Fused


def by_sequence(network: Network, runs: list[Tensor], panels: Tensor) -> Tensor:
    """Maps of each time that a backbone ran as (B, S, h, w), NaN where one is missing; without late fusion S is 1."""
    if isinstance(network.body, Fused):
        return network.body.by_sequence(runs, panels)
    return runs[0].unsqueeze(1)
