"""The data of training on volumes: windows of consecutive slices in grids, or bags of single slices.

A panel has one channel for each sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from casewise.modalities.dataset import PanelDataset
from casewise.modalities.device import to_device
from casewise.modalities.panels import EMPTY, fold

if TYPE_CHECKING:
    from casewise.plugins.volumes.slice_store import SliceStore
    from casewise.study.schema import Panels


@dataclass(frozen=True)
class Slices:
    """The slices of all P cases with N slices of S sequences, and for each scan a table that maps its intensities.

    Attributes:
        stored: (N, S, H, W) `int16`, 0 to 32767.
        first, count: (P,) each case's first slice and number of slices.
        present: (P, S) bool.
        tables: (P·S, 32768) float32, of one fold: for each scan the standardised intensity (0–1) of every stored value.
    """

    stored: Tensor
    first: Tensor
    count: Tensor
    present: Tensor
    tables: Tensor


def slices_of(store: SliceStore, sequences: list[int], fitted: Mapping[str, Any]) -> Slices:
    """The slices of all cases with their intensities standardised.

    Args:
        sequences: the numbers of the stored sequences that become channels.
        fitted: `standard` is the standard scale of each of them, as `casewise.plugins.volumes.standardise.fit`
            computes it from training cases, and None leaves intensities as they are; `landmarks` says whose landmarks
            are mapped to it.
    """
    from casewise.plugins.volumes.standardise import plain_tables, tables

    standard = fitted["standard"]
    marks, spans = store.scale_of(np.arange(len(store.count)), fitted)
    cases, channels = len(marks), len(sequences)
    mappings = np.empty((cases, channels, 32768), dtype=np.float32)
    for channel, number in enumerate(sequences):
        if standard is None:
            mappings[:, channel] = plain_tables(cases)
        else:
            scale = np.asarray(standard[channel], dtype=np.float64)
            mappings[:, channel] = tables(marks[:, number], scale, None if spans is None else spans[:, number])
    stored = np.ascontiguousarray(store.slices[:, sequences]).view(np.int16)
    arrays = stored, store.first.copy(), store.count.copy(), store.present[:, sequences].copy()
    tensors = [torch.from_numpy(array) for array in (*arrays, mappings.reshape(cases * channels, -1))]
    return Slices(tensors[0], tensors[1], tensors[2], tensors[3], tensors[4])


@dataclass(frozen=True)
class SliceData(PanelDataset):
    """Cases of a subset of the cohort; a panel shows a window of the slices of a case, or all of them as a bag.

    Attributes:
        slices: of all cases.
        cases: (P,) their numbers.
        truth: (P, T) float32, NaN where not scored.
        all_windows: whether predictions are averaged over all windows; otherwise the central window is used.
        drop: the probability with which a sequence is left out of a training panel; at least one remains.
    """

    slices: Slices
    cases: list[int]
    truth: Tensor
    settings: Panels
    names: list[str] = field(default_factory=list)
    all_windows: bool = False
    drop: float = 0.0

    def __len__(self) -> int:
        return len(self.cases)

    def subset(self, rows: Sequence[int]) -> SliceData:
        """Some of the cases."""
        names = [self.names[row] for row in rows] if self.names else []
        return replace(self, cases=[self.cases[row] for row in rows], truth=self.truth[list(rows)], names=names)

    def arranged(self, panels: Panels) -> SliceData:
        """The same slices in other panels; all of them if a panel shows a single one."""
        return replace(self, settings=panels, all_windows=self.all_windows or panels.slots == 1)

    @property
    def bag(self) -> int:
        """The number of slices of the largest bag; 1 if views are grids."""
        return max(int(self.slices.count[case]) for case in self.cases) if self.bags else 1

    @property
    def image_pixels(self) -> int:
        return self.slices.stored.shape[-2] * self.slices.stored.shape[-1]

    def training_batch(
        self, rows: list[int], generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Panels (B, S, rows·H, columns·W) in 0–1, each a window drawn at random.

        Bags are (B, K, S, H, W), NaN in empty slots, with the occupied slots (B, K); slices are drawn if a case has
        more than a bag holds. A flip and a quarter turn are drawn for each panel and apply to all its slices and
        sequences.
        """
        drawn = torch.rand(len(rows), 3, generator=generator)
        if self.bags:
            panels, slots = self._drawn_bags([self.cases[row] for row in rows], drawn[:, 1:], generator)
            return to_device(panels, device), slots != EMPTY
        starts = []
        for row, chance in zip(rows, drawn[:, 0].tolist(), strict=True):
            windows = self._windows(self.cases[row])
            starts.append([self.cases[row], windows[min(int(chance * len(windows)), len(windows) - 1)]])
        tiles = self._tiles(torch.tensor(starts))
        tiles = turned(tiles, drawn[:, 1:], self.settings)
        panels = fold(tiles, self.settings)
        if self.drop:
            panels = drop_sequences(panels, self.drop, generator)
        return to_device(panels, device), None

    def views(self) -> tuple[Tensor, Tensor]:
        """Every case as windows (V, 2), case and first slice, and (V,) the row each belongs to.

        A bag is one view of all slices of the case by their rows in the store, (V, K), padded to the largest bag.
        """
        if self.bags:
            padded = torch.full((len(self), self.bag), EMPTY)
            for row, case in enumerate(self.cases):
                numbers = self._rows_of(case)
                padded[row, : len(numbers)] = numbers
            return padded, torch.arange(len(self))
        views, owner = [], []
        for row, case in enumerate(self.cases):
            windows = self._windows(case)
            for start in windows if self.all_windows else [windows[(len(windows) - 1) // 2]]:
                views.append([case, start])
                owner.append(row)
        return torch.tensor(views), torch.tensor(owner)

    def plain_batch(self, slots: Tensor, device: torch.device) -> Tensor:
        """Unvaried panels (B, S, rows·H, columns·W) of windows (B, 2); of bags (B, K) as `training_batch`."""
        if self.bags:
            tiles = self.single_tiles(slots.clamp(min=0).flatten(), device).unflatten(0, slots.shape)
            return tiles.masked_fill((slots == EMPTY).view(*slots.shape, 1, 1, 1).to(device), torch.nan)
        return fold(self._tiles(slots), self.settings).to(device)

    def single_tiles(self, numbers: Tensor, device: torch.device) -> Tensor:
        """Unvaried slices (N, S, H, W) in 0–1 by their rows in the store; an absent sequence is NaN."""
        starts, order = self.slices.first.sort()
        cases = order[torch.searchsorted(starts, numbers, right=True) - 1]
        return self._values(numbers.unsqueeze(1), cases)[:, 0].to(device)

    def slots_of(self, windows: Tensor) -> Tensor:
        """The slices, counted within the case, in the slots of windows (B, 2): (B, K).

        If a case has fewer slices than slots, its first and last slices are repeated around them.
        """
        if self.bags:
            cases = torch.tensor(self.cases)[:, None]
            return torch.where(windows == EMPTY, EMPTY, windows - self.slices.first[cases])
        cases, starts = windows[:, 0], windows[:, 1]
        count, slots = self.slices.count[cases], self.settings.slots
        lead = ((slots - count).clamp(min=0) // 2).unsqueeze(1)
        slices = (starts.unsqueeze(1) + torch.arange(slots) - lead).clamp(min=0)
        return torch.minimum(slices, (count - 1).unsqueeze(1))

    def _windows(self, case: int) -> list[int]:
        """The first slices of a case's windows, counted within the case; one if it has no more slices than slots."""
        return list(range(max(1, int(self.slices.count[case]) - self.settings.slots + 1)))

    def _tiles(self, windows: Tensor) -> Tensor:
        """Windows (B, 2) → their slices (B, K, S, H, W) in 0–1; an absent sequence is NaN."""
        cases = windows[:, 0]
        return self._values(self.slices.first[cases].unsqueeze(1) + self.slots_of(windows), cases)

    def _rows_of(self, case: int) -> Tensor:
        """The rows in the store of a case's slices, in order."""
        return int(self.slices.first[case]) + torch.arange(int(self.slices.count[case]))

    def _drawn_bags(self, cases: list[int], drawn: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Bags (B, K, S, H, W) of slices in their order, and their slots (B, K).

        Slices are drawn where there are more than a bag holds; empty slots are NaN.
        """
        numbers = []
        for case in cases:
            rows = self._rows_of(case)
            kept = torch.randperm(len(rows), generator=generator)[: self.settings.bag].sort().values
            numbers.append(rows[kept])
        most = max(map(len, numbers))
        slots = torch.stack([torch.nn.functional.pad(rows, (0, most - len(rows)), value=EMPTY) for rows in numbers])
        tiles = turned(self.plain_batch(slots, torch.device("cpu")), drawn, self.settings)
        if not self.drop:
            return tiles, slots
        # a sequence that is left out is left out of all slices of the case
        whole = drop_sequences(tiles.transpose(1, 2).flatten(2, 3), self.drop, generator)
        return whole.unflatten(2, tiles.shape[1:2] + tiles.shape[3:4]).transpose(1, 2), slots

    def _values(self, rows: Tensor, cases: Tensor) -> Tensor:
        """Slices (B, K, S, H, W) in 0–1 by their rows (B, K) in the store and their cases (B,)."""
        stored = self.slices.stored[rows]
        size, channels = len(cases), stored.shape[2]
        scans = (cases * channels).view(size, 1, 1) + torch.arange(channels).view(1, 1, -1)
        wide = self.slices.tables.shape[1]
        at = scans.view(size, 1, channels, 1, 1) * wide + stored.long()
        values = self.slices.tables.view(-1)[at]
        absent = ~self.slices.present[cases]
        if absent.any():
            values = values.masked_fill(absent.view(size, 1, channels, 1, 1), torch.nan)
        return values


def turned(tiles: Tensor, drawn: Tensor, settings: Any) -> Tensor:
    """Slices (B, K, S, H, W), flipped and turned by two uniform numbers (B, 2) for each panel."""
    if settings.flip in ("horizontal", "both"):
        tiles = torch.where((drawn[:, 0] < 0.5).view(-1, 1, 1, 1, 1), tiles.flip(4), tiles)
    if settings.quarter_turns:
        turns = (drawn[:, 1] * 4).long().clamp(max=3)
        turned = tiles.clone()
        for number in (1, 2, 3):
            turned_rows = turns == number
            if turned_rows.any():
                turned[turned_rows] = torch.rot90(tiles[turned_rows], number, dims=(3, 4))
        tiles = turned
    return tiles


def drop_sequences(panels: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Leave sequences out of training panels (B, S, H, W) at random, as NaN; the argument is not changed.

    Every present sequence is left out with probability `rate`, independently of the others; if this would leave out all
    of a case, one of them, each with equal probability, is kept.

    >>> panels = torch.zeros(2, 3, 4, 4)
    >>> dropped = drop_sequences(panels, 0.99, torch.Generator().manual_seed(0))
    >>> dropped.isnan().all(dim=(2, 3)).sum(dim=1).tolist()
    [2, 2]
    """
    present = ~panels[:, :, 0, 0].isnan()
    drawn = torch.rand(present.shape, generator=generator, device=generator.device).to(present.device)
    # the present sequence with the highest draw is never left out
    last = drawn.masked_fill(~present, -1).argmax(dim=1, keepdim=True)
    gone = ((drawn < rate) & present).scatter(1, last, False)
    return panels.masked_fill(gone[:, :, None, None], torch.nan)
