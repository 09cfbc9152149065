"""One small picture for each scan: what an audit and a report look at instead of volumes."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.cohort import Cohort
from casewise.files import write_atomic
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store import TileStore
from casewise.modalities.store.store_builder import prepare
from casewise.modalities.volumes.preview import central, grid
from casewise.study.schema import Study

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.modalities.volumes.slice_store import SliceStore


def pictures(study: Study, cohort: Cohort, slices: SliceStore, folder: Path, show: Show) -> TileStore:
    """A tile store with a row for each row of the cohort: the central window of the scan in its grid, or the slice
    image itself.

    Its index names the scans, so that findings do.
    """
    volumes = study.volumes
    assert volumes is not None
    # single slices of different people, small and cut out alike, pass for one; a whole window does not
    side = study.images.size * (1 if volumes.slice_index else study.panels.rows)
    preparation = Preparation(size=side, channels="grey")
    paths = [Path(path) for path in cohort.images["path"]]
    files = paths if volumes.slice_index else _drawn(study, cohort, slices, folder / "pictures")
    with show.bar("tiles") as bar:
        store = prepare(files, preparation, folder / "tiles", progress=lambda done, total: bar(done, total))
    index = store.index.assign(path=[str(path) for path in paths])
    return dataclasses.replace(store, index=index)


def _drawn(study: Study, cohort: Cohort, slices: SliceStore, folder: Path) -> list[Path]:
    """Write the central window of every scan in its grid, of 8 bits, under a name of its own content."""
    import hashlib

    from PIL import Image

    assert study.volumes is not None
    panels = study.panels
    number_of = {case: number for number, case in enumerate(cohort.panels["case"])}
    files = []
    folder.mkdir(parents=True, exist_ok=True)
    for case, sequence in zip(cohort.images["case"], cohort.images["sequence"], strict=True):
        number = number_of[case]
        rows = int(slices.first[number]) + central(int(slices.count[number]), panels.slots)
        planes = np.asarray(slices.slices[rows, study.volumes.sequences.index(sequence)])
        picture = grid((planes >> 7).astype(np.uint8), rows=panels.rows, columns=panels.columns)
        packed = io.BytesIO()
        Image.fromarray(picture).save(packed, format="PNG")
        # two scans that look alike are two files, each with a name of its own
        name = hashlib.sha256(f"{case} {sequence} ".encode() + packed.getvalue()).hexdigest()[:24]
        path = folder / f"{name}.png"
        if not path.is_file():
            write_atomic(path, packed.getvalue())
        files.append(path)
    return files
