"""A cohort's volumes prepared once: slices for networks, and one picture of each scan for audits."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.errors import counted
from casewise.plugins.volumes.case_files import sources_of, summed
from casewise.plugins.volumes.preprocess import Steps
from casewise.plugins.volumes.preview import pictures
from casewise.plugins.volumes.settings import volumes_of
from casewise.plugins.volumes.slice_store import prepare_slices

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.store.store import TileStore
    from casewise.plugins.volumes.slice_store import SliceStore
    from casewise.study.schema import Study

# The folder of prepared slices.
SCANS = "scans"


@dataclass(frozen=True, eq=False)
class PreparedScans:
    """Prepared slices, which networks read from `folder`, and a picture of each scan: an `ImageStore`."""

    pictures: TileStore
    address: str
    folder: Path

    @property
    def tiles(self) -> np.ndarray:
        """A picture of each scan, (N, 1, H, W) `uint8`."""
        return self.pictures.tiles

    @property
    def index(self) -> pd.DataFrame:
        """One row for each picture; its `path` is that of the scan."""
        return self.pictures.index

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.pictures)


def steps_of(study: Study) -> Steps:
    """The steps by which the study prepares its volumes."""
    volumes = volumes_of(study)
    stated = {name: getattr(volumes, name) for name in ("in_plane_size", "bias", "smoothing", "roi", "margin")}
    return Steps(size=study.images.size, **stated)


def slices_and_pictures(study: Study, cohort: Cohort, folder: Path, show: Show) -> PreparedScans:
    """Prepare the slices of every case in `folder`, or open finished ones, with a picture of each scan.

    Notes on unusual scans are added to those of the cohort, which the report shows.

    Raises:
        ImageError: cases cannot be prepared; the message names all of them.
    """
    start = time.monotonic()
    cases = sources_of(study, cohort)
    with show.bar("scans") as bar:
        slices = prepare_slices(cases, steps_of(study), folder, progress=lambda done, total: bar(done, total))
    size = study.images.size
    text = f"{counted(len(cases), 'case')}, {counted(len(slices.slices), 'slice')} of {size} px"
    show.line("scans", f"{text}, {time.monotonic() - start:.1f} s")
    if volumes_of(study).roi == "none":
        show.line("", "No region of interest is stated: networks see the whole plane.")
    for note in _notes(study, slices):
        show.line("", note)
        if note not in cohort.notes:
            cohort.notes.append(note)
    store = pictures(study, cohort, slices, folder, show)
    return PreparedScans(replace(store, address=slices.address), slices.address, folder)


def _notes(study: Study, slices: SliceStore) -> list[str]:
    """Notes on the cases: too few slices, and notes of reading and preparing, each kind once."""
    notes = summed([note for notes in slices.notes for note in notes], (study.root or study.cohort.parent).absolute())
    short = int((slices.count < study.panels.slots).sum())
    if short and not study.panels.bags:
        notes.insert(
            0,
            f"{short:,} of {len(slices.count):,} cases have fewer than {study.panels.slots} slices; their first and "
            "last slices are repeated around them.",
        )
    return notes
