"""The shape of images varies in training, so that their bars, or how they are stretched, tell less of their source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from casewise.modalities.device import to_device

DRAWS = 5
# Of the aspect ratios of the images, the percentiles between which they vary.
COMMON = (1, 99)


@dataclass(frozen=True)
class Bars:
    """The boxes that images fill in their tiles, (N, 4): top, left, height, width; the rest mirrors them."""

    boxes: Tensor

    def varied(self, tiles: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Tiles with other bars, as they are drawn for a training step: (B, C, S, S) of any type.

        Each image is cropped to the width and height of the box of a random tile of the batch where its own are larger,
        at a random position, and is then placed at random. So bars occur around images of every shape.

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
        sources = torch.minimum(mirrored, 2 * length - 1 - mirrored) + cropped.unsqueeze(2)
        sources = to_device(sources, tiles.device)
        batch = torch.arange(count, device=tiles.device).view(-1, 1, 1)
        moved = tiles.permute(0, 2, 3, 1)[batch, sources[:, 0].unsqueeze(2), sources[:, 1].unsqueeze(1)]
        return moved.permute(0, 3, 1, 2).contiguous()

    def among(self, numbers: Sequence[int]) -> Bars:
        """The same: bars come from other tiles of a batch, and so from training."""
        return self


@dataclass(frozen=True)
class Stretch:
    """The aspect ratio of each image that was stretched to its tile, (N,) width by height, and the range of others."""

    aspects: Tensor
    lowest: float
    highest: float

    def varied(self, tiles: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Tiles as if their images had other shapes: (B, C, S, S) float.

        Each image is cropped to an aspect ratio that is drawn from the range, evenly on the log scale, at a random
        position, and the crop is stretched to the tile. So all images are stretched in the same ways.

        Args:
            numbers: (B,) the rows of the tiles in the store.
        """
        draws = torch.rand(len(tiles), 2, generator=generator)
        low, high = np.log(self.lowest), np.log(self.highest)
        wanted = torch.exp(low + draws[:, 0] * (high - low))
        ratio = self.aspects[numbers.cpu()] / wanted
        kept = torch.stack([(1 / ratio).clamp(max=1), ratio.clamp(max=1)], dim=1)  # of the width and of the height
        # Only the side that is cropped can be moved.
        centre = (draws[:, 1:] * 2 - 1) * (1 - kept)
        matrices = torch.cat([torch.diag_embed(kept), centre.unsqueeze(2)], dim=2).to(tiles.dtype)
        matrices = to_device(matrices, tiles.device)
        grid = functional.affine_grid(matrices, list(tiles.shape), align_corners=False)
        return functional.grid_sample(tiles, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def among(self, numbers: Sequence[int]) -> Stretch | None:
        """The variation within the range of these rows; None if nearly all of them have one aspect ratio."""
        lowest, highest = _common_range(self.aspects[list(numbers)].numpy()) if len(numbers) else (0.0, 0.0)
        return replace(self, lowest=lowest, highest=highest) if highest > lowest else None


# How the shape of images varies from one training step to the next.
ShapeVariation: TypeAlias = Bars | Stretch


def open_shapes(folder: Path) -> ShapeVariation | None:
    """How the shapes of a finished tile store vary; None if all images have one shape, or show nothing of it.

    Black bars do not vary: they are kept as stated.
    """
    from casewise.modalities.store.pixels import content_box
    from casewise.modalities.store.store import open_store

    store = open_store(folder)
    size, fit, fill = store.preparation.size, store.preparation.fit, store.preparation.padding
    widths, heights = (store.index[name].to_numpy() for name in ("width", "height"))
    if fit == "stretch":
        return stretches(widths / heights)
    boxes = np.array([content_box(width, height, size, fit) for width, height in zip(widths, heights, strict=True)])
    if fill == "black" or (boxes == boxes[0]).all():
        return None
    return Bars(torch.from_numpy(boxes))


def stretches(aspects: NDArray[np.floating]) -> Stretch | None:
    """The variation of stretched images of these aspect ratios; None if nearly all of them are equal.

    >>> stretches(np.array([1.0, 1.0, 1.5, 1.25])).highest.__round__(2)
    1.49
    """
    lowest, highest = _common_range(aspects)
    return Stretch(torch.from_numpy(aspects).float(), lowest, highest) if highest > lowest else None


def _common_range(aspects: NDArray[np.floating]) -> tuple[float, float]:
    """The aspect ratios between which images vary in training."""
    lowest, highest = (float(value) for value in np.percentile(aspects, COMMON))
    return lowest, highest
