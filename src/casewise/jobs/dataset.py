"""What a job's network sees of some panels: tiles of images, or windows of slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from casewise.errors import CasewiseError, TrainingError
from casewise.modalities.dataset import PanelData, open_tiles
from casewise.modalities.volumes.dataset import SliceData, slices_of
from casewise.study.schema import Study

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Part = Callable[["NDArray[np.intp]"], "PanelData | SliceData"]


def parts_of(
    study: Study,
    panels: pd.DataFrame,
    truth: NDArray[np.floating],
    folder: Path,
    address: str,
    *,
    model: str,
    fitted_on: NDArray[np.intp],
) -> Part:
    """A function from rows of `panels` to their data.

    Args:
        folder, address: the tile store, or where a study of volumes keeps its slices.
        fitted_on: the rows that are learned from: of volumes, those whose intensities set the standard.
    """
    recorded = torch.from_numpy(truth.astype(np.float32))

    def names(rows: NDArray[np.intp]) -> list[str]:
        return [str(panels["case"].iloc[r]) for r in rows]

    if study.volumes:
        from casewise.modalities.volumes.slice_store import open_slices

        volumes, fusion = study.volumes, study.fusion_of(model)
        several = list(range(len(volumes.sequences)))
        chosen = [volumes.sequences.index(str(fusion))] if fusion in volumes.sequences else several
        try:
            slices = slices_of(
                open_slices(folder, address), fitted_on, standardise=volumes.standardise == "nyul", sequences=chosen
            )
        except CasewiseError as error:
            raise TrainingError(f"{model}: {error}") from error

        def windows(rows: NDArray[np.intp]) -> SliceData:
            return SliceData(
                slices,
                [int(r) for r in rows],
                recorded[rows],
                study.panels,
                names(rows),
                volumes.windows == "all",
                volumes.hide if len(chosen) > 1 else 0.0,
            )

        return windows
    store = open_tiles(folder, address)
    tiles = [list(map(int, t)) for t in panels["tiles"]]

    def images(rows: NDArray[np.intp]) -> PanelData:
        return PanelData(store, [tiles[r] for r in rows], recorded[rows], study.panels, names(rows))

    return images
