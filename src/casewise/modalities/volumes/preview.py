"""The panels of volumes as pictures: what a network sees of a case, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from casewise.modalities.base import Picture
from casewise.modalities.volumes.standardise import plain_tables, tables

if TYPE_CHECKING:
    from casewise.modalities.base import FittedPreprocessing
    from casewise.modalities.volumes.slice_store import SliceStore
    from casewise.study.schema import Study


def central_panels(study: Study, store: SliceStore, row: int, fitted: FittedPreprocessing) -> list[Picture]:
    """The central window of each sequence that the case has, as a grid (rows·H, columns·W) `uint8`.

    Intensities are standardised by the scales in `fitted`; plain where it has none.
    """
    volumes = study.volumes
    assert volumes is not None
    chosen = central(int(store.count[row]), study.panels.slots) + int(store.first[row])
    pictures = []
    scales = fitted["standard"] or [None] * len(fitted["sequences"])
    for name, scale in zip(fitted["sequences"], scales, strict=True):
        number = volumes.sequences.index(name)
        if not store.present[row, number]:
            continue
        own = plain_tables(1) if scale is None else tables(store.landmarks[[row], number], np.asarray(scale))
        planes = own[0][np.asarray(store.slices[chosen, number])]
        panel = grid(planes, rows=study.panels.rows, columns=study.panels.columns)
        pictures.append(Picture(name, np.asarray(np.rint(panel * 255), dtype=np.uint8)))
    return pictures


def central(count: int, slots: int) -> np.ndarray:
    """The slices of a case's central window, counted from its first; of too few the first and last stand again.

    >>> central(12, 9).tolist(), central(2, 4).tolist()
    ([1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 0, 1, 1])
    """
    windows = max(1, count - slots + 1)
    return ((windows - 1) // 2 + np.arange(slots) - max(0, slots - count) // 2).clip(0, count - 1)


def grid(planes: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Slices (K, h, w) row by row as one panel (rows·h, columns·w).

    >>> grid(np.arange(4).reshape(4, 1, 1), rows=2, columns=2).tolist()
    [[0, 1], [2, 3]]
    """
    height, width = planes.shape[1:]
    cut = planes.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut).reshape(rows * height, columns * width)
