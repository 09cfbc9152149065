"""The data of training: panels with their tiles and labels, and batches in random order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor

from casewise.modalities.device import rows_on
from casewise.modalities.panels import EMPTY, augmented, chunks, draw, plain
from casewise.modalities.shape_variation import ShapeVariation
from casewise.study.model import mixed_seed
from casewise.study.schema import Panels

# Tiles of a bag that pass through a network together; more take more memory and no less time.
TILES_AT_ONCE = 64
# What a CPU evaluates together: 16 views of 224 × 224 pixels.
EVALUATED_PIXELS = 16 * 224 * 224


class Batches(ABC):
    """The data that training needs: whole panels, or values of panels that are computed once.

    Attributes:
        truth: (P, T) `float32`, NaN where not recorded; (P, 0) where there are no labels.
        names: the case of each panel, for messages.
    """

    truth: Tensor
    names: list[str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def training_batch(
        self, rows: list[int], generator: Generator, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """The input of a training step, such as augmented panels (B, C, H, W) in 0–1.

        Of bags also the slots that hold an image, (B, K) on the CPU, so that the host need not wait for the device.
        """

    @abstractmethod
    def views(self) -> tuple[Tensor, Tensor]:
        """Every panel as deterministic views (V, K), and (V,) the panel each belongs to."""

    @abstractmethod
    def plain_batch(self, slots: Tensor, device: torch.device) -> Tensor:
        """Unvaried inputs of some of the views, such as panels (B, C, H, W) in 0–1."""

    @property
    def bags(self) -> bool:
        """Whether a view is a bag of single images."""
        return False

    @property
    def masked(self) -> bool:
        """Whether the panels of training batches are followed by two planes: the mask, and where it is known."""
        return False

    def eval_batch_size(self, batch: int, device: torch.device) -> int:
        """The number of views that are evaluated together: four training batches."""
        return 4 * batch


class PanelDataset(Batches):
    """Panels of some cases as the input of a network, with their labels.

    A modality states how its images fill panels; the defaults are for panels that are drawn again in every epoch.

    Attributes:
        settings: how panels are arranged and augmented.
    """

    settings: Panels

    @abstractmethod
    def subset(self, rows: Sequence[int]) -> PanelDataset:
        """Some of the panels."""

    @abstractmethod
    def arranged(self, panels: Panels) -> PanelDataset:
        """The same images in other panels."""

    @abstractmethod
    def single_tiles(self, numbers: Tensor, device: torch.device) -> Tensor:
        """Unvaried images (N, C, H, W) in 0–1, by the numbers in the slots of bags."""

    @property
    @abstractmethod
    def bag(self) -> int:
        """The number of images of the largest bag; 1 if panels are not bags."""

    @property
    @abstractmethod
    def image_pixels(self) -> int:
        """The number of pixels of the image in a slot."""

    @property
    def bags(self) -> bool:
        """Whether a view is a bag of single images."""
        return self.settings.bags

    @property
    def varied(self) -> bool:
        """Whether training panels differ from epoch to epoch."""
        return True

    @property
    def subsampled(self) -> bool:
        """Whether a training panel shows a random part of its images."""
        return False

    def with_variations(self, changes: Mapping[str, Any]) -> PanelDataset:
        """The same panels with some settings of how they vary in training replaced, where they can be."""
        return self

    def slots_of(self, views: Tensor) -> Tensor:
        """(V, K) the image of the case (of volumes: the slice) in each slot of these views."""
        return views

    def eval_batch_size(self, batch: int, device: torch.device) -> int:
        """The number of views that are evaluated together: four training batches, fewer if bags or views are large.

        On a CPU views of at most `EVALUATED_PIXELS` are: more take more memory and no less time.
        """
        count = 4 * batch // self.bag
        if device.type == "cpu" and self.bag == 1:
            count = min(count, EVALUATED_PIXELS // (self.settings.slots * self.image_pixels))
        return max(1, count)


@dataclass(frozen=True)
class FeatureData(Batches):
    """What is computed once for panels: copies (V, C, H, W) `uint8`, activations (V, ...), or features (V, width).

    The features of bags are (P, K, width). Nothing varies in training.

    Attributes:
        truth: (P, T) of panels.
        owner: (V,) the panel of each view; without it every view is a panel.
        bag: the number of tiles of the largest bag, if views are activations of bags.
    """

    features: Tensor
    truth: Tensor
    names: list[str] = field(default_factory=list)
    owner: Tensor | None = None
    bag: int = 1
    masked: bool = False

    varied: ClassVar[bool] = False
    subsampled: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.truth)

    def training_batch(
        self, rows: list[int], generator: Generator, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Features (B, ...), or copies in 0–1; of activations of bags also the occupied slots (B, K)."""
        numbers, maps = torch.tensor(rows), self.features.ndim == 5
        return self._of(numbers, device), occupied_slots(self.features[..., :1, :1][numbers]) if maps else None

    def views(self) -> tuple[Tensor, Tensor]:
        """All views, and the panel of each."""
        rows = torch.arange(len(self.features))
        return rows.unsqueeze(1), rows if self.owner is None else self.owner

    def plain_batch(self, slots: Tensor, device: torch.device) -> Tensor:
        """Features (B, ...) of the rows."""
        return self._of(slots[:, 0], device)

    def _of(self, rows: Tensor, device: torch.device) -> Tensor:
        features = rows_on(device, self.features, rows)
        return features.float().div_(255) if features.dtype == torch.uint8 else features

    def subset(self, rows: Sequence[int]) -> FeatureData:
        """Some of the panels; each has one view."""
        names = [self.names[row] for row in rows] if self.names else []
        return replace(self, features=self.features[list(rows)], truth=self.truth[list(rows)], names=names)

    def eval_batch_size(self, batch: int, device: torch.device) -> int:
        """The number of rows that are evaluated together: four training batches, fewer if bags are large."""
        return max(1, 4 * batch // self.bag)


@dataclass(frozen=True)
class PanelData(PanelDataset):
    """Panels of a subset of the cohort, over the whole tile store.

    Attributes:
        store: (N, C, H, W) uint8, shared by all jobs.
        tiles: tile numbers of each panel (any number of them).
        truth: (P, T) float32, NaN where not scored.
        names: the case of each panel, for messages.
        shapes: how the shapes of images vary in training; None if they do not.
        masks: (N, H, W) `uint8` from which a network's map is learned (`with_planes`); None without.
    """

    store: Tensor
    tiles: list[list[int]]
    truth: Tensor
    settings: Panels
    names: list[str] = field(default_factory=list)
    shapes: ShapeVariation | None = None
    masks: Tensor | None = None

    @classmethod
    def of(
        cls,
        store: Tensor,
        panels: pd.DataFrame,
        settings: Panels,
        labels: np.ndarray | None,
        shapes: ShapeVariation | None = None,
    ) -> PanelData:
        """The panels of a cohort, whose column `tiles` has the numbers of images in `store`."""
        tiles = [list(map(int, numbers)) for numbers in panels["tiles"]]
        names = [str(case) for case in panels["case"]]
        return cls(store, tiles, labels_tensor(labels, len(panels)), settings, names, shapes)

    def __len__(self) -> int:
        return len(self.tiles)

    def subset(self, rows: Sequence[int]) -> PanelData:
        """Some of the panels; the shapes of the other panels no longer decide how these vary."""
        names = [self.names[row] for row in rows] if self.names else []
        tiles = [self.tiles[row] for row in rows]
        shapes = self.shapes and self.shapes.among(sorted({number for panel in tiles for number in panel}))
        return replace(self, tiles=tiles, truth=self.truth[list(rows)], names=names, shapes=shapes)

    def arranged(self, panels: Panels) -> PanelData:
        """The same images in other panels."""
        return replace(self, settings=panels)

    def with_variations(self, changes: Mapping[str, Any]) -> PanelData:
        """The same panels with some settings of how they vary in training replaced."""
        return replace(self, settings=self.settings.model_copy(update=dict(changes))) if changes else self

    def training_batch(
        self, rows: list[int], generator: Generator, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Augmented panels (B, C, H, W) in 0–1; of bags also the occupied slots (B, K)."""
        slots = torch.tensor([draw(self.tiles[r], self.settings, generator) for r in rows])
        store, settings = self.store, self.settings
        panels = augmented(store, slots, settings, generator, shapes=self.shapes, device=device, masks=self.masks)
        return panels, slots != EMPTY if self.bags else None

    @property
    def masked(self) -> bool:
        return self.masks is not None

    def views(self) -> tuple[Tensor, Tensor]:
        """Every panel as deterministic fillings of slots: (V, S) tile numbers and (V,) the panel each belongs to.

        A bag is one view of all its tiles, padded to the largest bag.
        """
        if self.bags:
            return torch.tensor([[*t, *[EMPTY] * (self.bag - len(t))] for t in self.tiles]), torch.arange(len(self))
        filled = [chunks(t, self.settings.slots) for t in self.tiles]
        owner = torch.tensor([row for row, views in enumerate(filled) for _ in views])
        return torch.tensor([view for views in filled for view in views]), owner

    def plain_batch(self, slots: Tensor, device: torch.device) -> Tensor:
        """Unvaried panels (B, C, H, W) in 0–1."""
        return plain(self.store, slots, self.settings, device)

    @property
    def bag(self) -> int:
        """The number of tiles of the largest bag; 1 if panels are not bags."""
        return max(map(len, self.tiles)) if self.bags else 1

    @property
    def image_pixels(self) -> int:
        return self.store.shape[-2] * self.store.shape[-1]

    @property
    def varied(self) -> bool:
        """Whether training panels differ from epoch to epoch."""
        return self.settings.varied or (self.shapes is not None and not self.settings.fixed)

    @property
    def subsampled(self) -> bool:
        """Whether a panel has more tiles than slots, so that each epoch shows different ones."""
        return any(len(tiles) > self.settings.slots for tiles in self.tiles)

    def single_tiles(self, numbers: Tensor, device: torch.device) -> Tensor:
        """Unvaried tiles (N, C, H, W) in 0–1."""
        return rows_on(device, self.store, numbers).float().div_(255)


def occupied_slots(bags: Tensor) -> Tensor:
    """The slots (B, K) that hold a tile, in bags of tiles or maps (B, K, C, H, W) or of features (B, K, W)."""
    return ~(bags[..., 0, 0] if bags.ndim == 5 else bags).isnan().all(dim=2)


def encode_bags(
    layers: Callable[[Tensor], Tensor],
    data: Any,
    slots: Tensor,
    device: torch.device,
    form: torch.memory_format,
    *,
    empty: Callable[[tuple[int, ...], torch.dtype], Tensor] | None = None,
    flip: bool = False,
) -> Tensor:
    """Apply layers to every tile of bags: slots (B, K) → (B, K, ...), NaN in empty slots.

    A bag is NaN as a whole if a value of one of its tiles is not finite, which would otherwise count as an empty slot.
    Tiles are read from the store a few at a time, so that only the result of a large bag is in memory as a whole.

    Args:
        empty: creates the tensor to fill, given shape and type; by default the result is on the device of the layers.
        flip: whether tiles are mirrored.
    """
    result: Tensor | None = None
    finite: list[Tensor] = []
    for positions in torch.nonzero(slots != EMPTY).split(TILES_AT_ONCE):
        row, column = positions[:, 0], positions[:, 1]
        tiles = data.single_tiles(slots[row, column], device)
        output = layers((tiles.flip(-1) if flip else tiles).contiguous(memory_format=form))
        if result is None:
            shape = (*slots.shape, *output.shape[1:])
            result = (empty(shape, output.dtype) if empty else output.new_empty(shape)).fill_(torch.nan)
        result[row.to(result.device), column.to(result.device)] = output.to(result.device)
        finite.append(output.flatten(1).isfinite().all(dim=1))
    assert result is not None  # every bag has a tile
    bags = torch.nonzero(slots != EMPTY)[:, 0]
    result[bags[~torch.cat(finite).to(bags.device)].unique().to(result.device)] = torch.nan
    return result


def labels_tensor(labels: np.ndarray | None, panels: int) -> Tensor:
    """Labels (P, T) as `float32`, NaN where not recorded; (P, 0) where there are none."""
    return torch.zeros(panels, 0) if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.float32))


def epoch_batches(count: int, size: int, seed: int, epoch: int, *, shares: Tensor | None = None) -> list[list[int]]:
    """Rows in random order, divided into batches; a last batch of one joins the one before (batch norm cannot use it).

    The order depends only on seed and epoch, so that a resumed epoch is the same epoch. With `shares` rows are drawn
    with replacement, each by its share.

    >>> [len(batch) for batch in epoch_batches(9, 4, seed=0, epoch=1)]
    [4, 5]
    """
    generator = Generator().manual_seed(mixed_seed(seed, "order", epoch))
    if shares is None:
        order = torch.randperm(count, generator=generator)
    else:
        order = torch.multinomial(shares, count, replacement=True, generator=generator)
    rows: list[list[int]] = [batch.tolist() for batch in order.split(size)]
    if len(rows) > 1 and len(rows[-1]) == 1:
        rows[-2:] = [rows[-2] + rows[-1]]
    return rows


def steps_of(count: int, size: int) -> int:
    """The number of batches of an epoch."""
    full, rest = divmod(count, size)
    return max(1, full + (rest > 1))


def standard(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of each target over what was scored: (T,), (T,); a constant target keeps scale 1."""
    centre = np.nanmean(truth, axis=0)
    scale = np.nanstd(truth, axis=0)
    return centre.astype(np.float32), np.where(scale > 1e-6, scale, 1.0).astype(np.float32)


def open_tiles(folder: Path, address: str) -> torch.Tensor:
    """The tile store as one tensor (N, C, H, W) uint8; grey becomes RGB.

    Raises:
        RunError: the store has been replaced since the run began, so tile numbers refer to other images.
    """
    from casewise.modalities.store.store import reopened

    # memory-mapped, so that parallel jobs share its pages; nothing writes to it
    return three_channels(np.load(str(reopened(folder, address).tiles.filename), mmap_mode="c"))


def three_channels(tiles: np.ndarray) -> Tensor:
    """Tiles (N, C, H, W) `uint8` as a tensor that shares their memory; grey becomes RGB."""
    tensor = torch.from_numpy(tiles)
    return tensor if tensor.shape[1] == 3 else tensor.expand(-1, 3, -1, -1)
