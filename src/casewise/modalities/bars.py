"""Bars around images that are not square: their width and place vary in training, so that they tell less."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

DRAWS = 5


@dataclass(frozen=True)
class Bars:
    """The boxes that images fill in their tiles, (N, 4): top, left, height, width; and what fills the rest."""

    boxes: Tensor
    fill: Literal["reflect", "mean"]

    def varied(self, tiles: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Tiles with other bars, as they are drawn for a training step: (B, C, S, S) of any type.

        Each image is cropped to the width and height of the box of a random tile of the batch where its own are larger,
        at a random position, and is then placed at random. Bars thereby occur around images of every shape.

        Args:
            numbers: (B,) the rows of the tiles in the store.
        """
        count, side = len(tiles), tiles.shape[-1]
        draws = torch.rand(count, DRAWS, generator=generator)
        boxes = self.boxes[numbers.to(self.boxes.device)]
        mates = boxes[(draws[:, 0] * count).long()]
        first, length = boxes[:, :2], torch.minimum(boxes[:, 2:], mates[:, 2:])
        cropped = first + (draws[:, 1:3] * (boxes[:, 2:] - length + 1)).long()
        placed = (draws[:, 3:5] * (side - length + 1)).long()
        # (B, 2, S): rows and columns counted from the box, then mirrored at its edges
        steps = torch.arange(side).expand(count, 2, side) - placed.unsqueeze(2)
        length = length.unsqueeze(2)
        mirrored = steps.remainder(2 * length)
        sources = (torch.minimum(mirrored, 2 * length - 1 - mirrored) + cropped.unsqueeze(2)).to(tiles.device)
        batch = torch.arange(count, device=tiles.device).view(-1, 1, 1)
        moved = tiles.permute(0, 2, 3, 1)[batch, sources[:, 0].unsqueeze(2), sources[:, 1].unsqueeze(1)]
        moved = moved.permute(0, 3, 1, 2)
        if self.fill == "mean":
            inside = (steps >= 0) & (steps < length)
            content = (inside[:, 0].unsqueeze(2) & inside[:, 1].unsqueeze(1)).unsqueeze(1).to(tiles.device)
            mean = (moved * content).sum(dim=(2, 3), keepdim=True) / content.sum(dim=(2, 3), keepdim=True)
            moved = torch.where(content, moved, mean.to(moved.dtype))
        return moved.contiguous()


def open_bars(folder: Path) -> Bars | None:
    """The bars of a finished tile store; None where there are none to vary: all are equal, or black as stated."""
    from casewise.modalities.store.pixels import content_box
    from casewise.modalities.store.store import open_store

    store = open_store(folder)
    size, fit, fill = store.preparation.size, store.preparation.fit, store.preparation.padding
    sizes = zip(store.index["width"].tolist(), store.index["height"].tolist(), strict=True)
    boxes = np.array([content_box(width, height, size, fit) for width, height in sizes])
    if fill == "black" or (boxes == boxes[0]).all():
        return None
    return Bars(torch.from_numpy(boxes), fill)
