"""Values that are equal in all epochs are computed once: augmented copies, and the activations of frozen layers.

They keep the precision of their computation, and are stored in memory up to the job's limit, then in files.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from casewise.errors import RunError, TrainingError
from casewise.modalities.dataset import PanelData, PanelDataset, encode_bags
from casewise.modalities.panels import augmented
from casewise.models.backbones import TILES_AT_ONCE, Network, form_of
from casewise.models.forward import mean_over_views
from casewise.study.model import mixed_seed

# In bytes, for all simultaneous jobs together.
MEMORY = 2 * 2**30
CHUNK = 64
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class FixedData:
    """Views of panels (V, C, H, W) `uint8`, or their activations (V, ...) in floating point, without augmentation.

    `truth` (P, T) is of panels, `owner` (V,) the panel of each view; without it every view is a panel. If views are
    bags, `bag` is the number of tiles of the largest one.
    """

    values: Tensor
    truth: Tensor
    names: list[str] = field(default_factory=list)
    owner: Tensor | None = None
    bag: int = 1
    # values are not augmented, and the size of a bag matters only for features
    bags: ClassVar[bool] = False
    varied: ClassVar[bool] = False
    subsampled: ClassVar[bool] = False
    copyable: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.truth)

    def training_batch(
        self, rows: list[int], generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Values (B, ...), panels in 0–1, and their truth (B, T)."""
        return self._of(torch.tensor(rows), device), self.truth[rows].to(device)

    def with_variations(self, changes: Mapping[str, Any]) -> FixedData:
        """Fixed copies do not vary."""
        return self

    def views(self) -> tuple[Tensor, Tensor]:
        """All views, and the panel of each."""
        rows = torch.arange(len(self.values))
        return rows.unsqueeze(1), rows if self.owner is None else self.owner

    def plain_batch(self, slots: Tensor, device: torch.device) -> Tensor:
        """Values (B, ...) of the rows."""
        return self._of(slots[:, 0], device)

    def eval_batch_size(self, batch: int, device: torch.device) -> int:
        """The number of rows in a batch of prediction: four training batches, fewer if bags are large."""
        return max(1, 4 * batch // self.bag)

    def _of(self, rows: Tensor, device: torch.device) -> Tensor:
        values = self.values[rows].to(device)
        return values.float().div_(255) if values.dtype == torch.uint8 else values


class Buffer:
    """The storage of values that are computed once: in memory up to the job's share, then in files."""

    def __init__(self, memory: int) -> None:
        """`memory`: its size in memory, in bytes."""
        self.left = memory

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, path: Path) -> Tensor:
        """An empty tensor, in memory if it fits, else in the file `path`.

        Raises:
            RunError: the disk does not have enough space.
        """
        count = math.prod(shape)
        size = count * dtype.itemsize
        if size <= self.left:
            self.left -= size
            return torch.empty(shape, dtype=dtype)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        _reserve(path, size)
        return torch.from_file(str(path), shared=True, size=count, dtype=dtype).view(shape)


def _reserve(path: Path, size: int) -> None:
    """Reserve the space of a file, because the process is killed if the disk of a mapped file is full."""
    try:
        with path.open("wb") as file:
            if not _allocated(file.fileno(), size) and shutil.disk_usage(path.parent).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        raise RunError(
            f"{path.parent}: the disk is full. What frozen layers make of the panels needs {size / 1e6:,.1f} MB there, "
            f"and {free / 1e6:,.1f} MB are free. Make room and run the same command again, or write `compute: "
            "{frozen_once: false}`, which keeps nothing and takes longer."
        ) from error


def _allocated(file: int, size: int) -> bool:
    """Whether the system has reserved the space; not every file system supports this."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        return False
    return True


def fixed(data: PanelData, copies: int, *, seed: int, path: Path, buffer: Buffer) -> FixedData:
    """All panels, followed by `copies` of each, augmented once as the study states and stored with 8 bits.

    The copies of a panel are on the side of its subject.

    Raises:
        TrainingError: a panel has more tiles than slots, so that no single view shows it.
        RunError: neither memory nor the disk has enough space.
    """
    slots, _ = data.views()
    if len(slots) != len(data):
        row, most = max(enumerate(map(len, data.tiles)), key=lambda result: result[1])
        raise TrainingError(
            f"panels.offline_copies: {data.names[row] if data.names else 'a panel'} has {most} tiles, and a panel has "
            f"{data.settings.slots}: no single copy shows them all. Write `by: image` under panels, or a larger `grid`."
        )
    first = data.plain_batch(slots[:1], torch.device("cpu"))
    values = buffer.empty((len(data) * (1 + copies), *first.shape[1:]), torch.uint8, path)
    for copy in range(1 + copies):
        for start in range(0, len(data), CHUNK):
            slot_chunk = slots[start : start + CHUNK]
            if copy:
                generator = torch.Generator().manual_seed(mixed_seed(seed, "copies", copy, start))
                computed = augmented(data.store, slot_chunk, data.settings, generator, shapes=data.shapes)
            else:
                computed = data.plain_batch(slot_chunk, torch.device("cpu"))
            at = copy * len(data) + start
            values[at : at + len(slot_chunk)] = computed.mul(255).round_().to(torch.uint8)
    return FixedData(values, data.truth.repeat(1 + copies, 1), data.names * (1 + copies))


class UpperLayers(nn.Module):
    """The trained layers of a network above a frozen part, or its head alone; it shares their parameters.

    Its input are the activations of the frozen part.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, network: Any, layers: nn.Module | None = None) -> None:
        super().__init__()
        self.name = network.name
        self.body, self.head = layers or nn.Identity(), network.head
        self.bags = network.pooling is not None
        self.is_linear = layers is None and not self.bags
        self.computes = layers is not None
        self.register_buffer("target_mean", network.target_mean)
        self.register_buffer("target_std", network.target_std)

    def forward(self, activations: Tensor) -> Tensor:
        features = activations
        if self.computes:
            features = of_tiles(self.body, activations) if self.bags else self.body(activations)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float()) * self.target_std + self.target_mean


def of_tiles(module: nn.Module, bags: Tensor) -> Tensor:
    """The outputs of a module for every tile of bags (B, K, ...): (B, K, ...), NaN in empty slots."""
    filled = ~bags.flatten(2)[..., 0].isnan()
    tiles = bags[filled]
    # Without gradients, tiles need not be in memory at once.
    tile_batches = [tiles] if torch.is_grad_enabled() else tiles.split(TILES_AT_ONCE)
    form = form_of(module)
    by_tile = torch.cat(
        [
            module(tile_batch.contiguous(memory_format=form) if tile_batch.ndim == 4 else tile_batch)
            for tile_batch in tile_batches
        ]
    )
    result = by_tile.new_full((*filled.shape, *by_tile.shape[1:]), torch.nan)
    result[filled] = by_tile
    return result


def activations(
    frozen: nn.Module,
    data: FixedData | PanelDataset,
    *,
    bf16: bool,
    form: torch.memory_format,
    path: Path,
    buffer: Buffer,
) -> FixedData:
    """The activations of the frozen part of a network for every panel, in eval mode: (P, ...), `bfloat16` with `bf16`.

    For bags it is (P, K, ...), with NaN if a bag has fewer than K tiles.
    """
    frozen.eval()
    device = next(frozen.parameters()).device
    slots, owner = data.views()
    result: Tensor | None = None
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        if data.bags:
            bag_activations = encode_bags(
                frozen, data, slots, device, form, empty=lambda shape, dtype: buffer.empty(shape, dtype, path)
            )
            return FixedData(bag_activations, data.truth, data.names, owner, data.bag)
        for start in range(0, len(slots), CHUNK):
            computed = frozen(data.plain_batch(slots[start : start + CHUNK], device).to(memory_format=form)).cpu()
            if result is None:
                result = _laid_out(buffer, (len(slots), *computed.shape[1:]), computed.dtype, path, form)
            result[start : start + len(computed)] = computed
    assert result is not None
    return FixedData(result, data.truth, data.names, owner)


def _laid_out(
    buffer: Buffer, shape: tuple[int, ...], dtype: torch.dtype, path: Path, form: torch.memory_format
) -> Tensor:
    """An empty tensor, whose maps are in the memory format of the trained layers, so that no batch is rearranged."""
    if len(shape) != 4 or form != torch.channels_last:
        return buffer.empty(shape, dtype, path)
    count, channels, height, width = shape
    return buffer.empty((count, height, width, channels), dtype, path).permute(0, 3, 1, 2)


class FeatureNetwork(nn.Module):
    """A network up to its features."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, panels: Tensor) -> Tensor:
        result: Tensor = self.network.features(panels)
        return result


def features(network: Network, data: PanelDataset, *, batch: int) -> Tensor:
    """The body's features of every panel, without augmentation: (P, width), the mean over views; bags (P, K, width)."""
    network.eval()
    slots, owner = data.views()
    computed = []
    device, form = network.mean.device, form_of(network.body)
    if data.bags:
        with torch.inference_mode():
            whole = encode_bags(network.features, data, slots, device, form).float().cpu()
        return whole.clone()
    with torch.inference_mode():
        size = data.eval_batch_size(batch, device)
        for view_slots, panel_numbers in zip(slots.split(size), owner.split(size), strict=True):
            computed.append((network.features(data.plain_batch(view_slots, device)).float().cpu(), panel_numbers))
    return mean_over_views(computed, len(data)).clone()
