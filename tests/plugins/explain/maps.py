"""Maps of a network as a run computes them, in one call."""

from pathlib import Path

import pandas as pd
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


def without_a_sequence(table: Path, number: int) -> None:
    """Leave the T2 scan of one subject out of a cohort table."""
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    subject = sorted(set(rows["subject"]))[number]
    rows[(rows["subject"] != subject) | (rows["sequence"] != "T2")].to_csv(table, index=False)
