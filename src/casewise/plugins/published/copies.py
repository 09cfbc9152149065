"""Fixed augmented copies of the training panels, which are made once for all phases."""

from __future__ import annotations

from pathlib import Path

import torch

from casewise.errors import TrainingError
from casewise.modalities.dataset import FeatureData, PanelData, PanelDataset
from casewise.modalities.panels import augmented, plain
from casewise.study.model import mixed_seed
from casewise.training.frozen_features import CHUNK, Buffer
from casewise.training.loop import TrainingContext


def fixed_panels(train: PanelDataset, context: TrainingContext, buffer: Buffer) -> FeatureData | None:
    """The panels of all phases and their copies, if the study states copies."""
    copies: int = train.settings.offline_copies  # type: ignore[attr-defined]
    if not copies or not isinstance(train, PanelData):
        return None
    return fixed(train, copies, seed=context.seed, path=context.files.copies, buffer=buffer)


def fixed(data: PanelData, copies: int, *, seed: int, path: Path, buffer: Buffer) -> FeatureData:
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
    first = plain(data.store, slots[:1], data.settings, masks=data.masks)
    values = buffer.empty((len(data) * (1 + copies), *first.shape[1:]), torch.uint8, path)
    for copy in range(1 + copies):
        for start in range(0, len(data), CHUNK):
            slot_chunk = slots[start : start + CHUNK]
            if copy:
                generator = torch.Generator().manual_seed(mixed_seed(seed, "copies", copy, start))
                computed = augmented(
                    data.store, slot_chunk, data.settings, generator, shapes=data.shapes, masks=data.masks
                )
            else:
                computed = plain(data.store, slot_chunk, data.settings, masks=data.masks)
            at = copy * len(data) + start
            values[at : at + len(slot_chunk)] = computed.mul(255).round_().to(torch.uint8)
    return FeatureData(values, data.truth.repeat(1 + copies, 1), data.names * (1 + copies), masked=data.masked)
