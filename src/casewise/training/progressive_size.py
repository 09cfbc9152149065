"""Progressive image size: a phase of training sees its panels smaller than they are stored and predicted.

Convolutions on half the side take about a quarter of the time, so that early phases are cheap (Howard et al., fast.ai's
entry in DAWNBench, 2018). Panels are augmented at full size and then reduced with a filter against aliasing. The cases
that decide when to stop are seen at full size in all phases, as every case is in prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from casewise.modalities.base import PanelDataset
    from casewise.training.feature_cache import FixedData


def at_size(data: PanelDataset | FixedData, size: int | None, *, rows: int, columns: int) -> Any:
    """The same training data with tiles of `size` pixels, in panels of `rows` × `columns`; None: as stored."""
    return data if size is None else ReducedData(data, rows * size, columns * size)


@dataclass(frozen=True)
class ReducedData:
    """Training data whose panels (B, C, H, W) are reduced to (B, C, height, width); all else is that of `data`."""

    data: Any
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        # while a copy is made, `data` is not there yet
        if name.startswith("__") or name == "data":
            raise AttributeError(name)
        return getattr(self.data, name)

    def training_batch(
        self, rows: list[int], generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Panels (B, C, height, width) in 0–1 and their truth (B, T); the draws are those of full size."""
        panels, truth = self.data.training_batch(rows, generator, device)
        return reduced(panels, self.height, self.width), truth

    def plain_batch(self, slots: Tensor, device: torch.device) -> Tensor:
        """Unvaried panels (B, C, height, width) in 0–1."""
        return reduced(self.data.plain_batch(slots, device), self.height, self.width)


def reduced(panels: Tensor, height: int, width: int) -> Tensor:
    """Reduce panels (B, C, H, W) to (B, C, height, width), each pixel a weighted mean of those that it replaces.

    >>> reduced(torch.ones(1, 3, 8, 8), 4, 4).shape
    torch.Size([1, 3, 4, 4])
    """
    return functional.interpolate(panels, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
