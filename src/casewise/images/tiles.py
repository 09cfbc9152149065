"""A cohort's images as tiles, each decoded once, with a bar and a line to tell of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.images.preparation import Preparation
from casewise.images.store import prepare

if TYPE_CHECKING:
    from casewise.cohort import Cohort
    from casewise.console import Show
    from casewise.images.store import TileStore
    from casewise.study import Study


def tiles_of(study: Study, cohort: Cohort, folder: Path, show: Show, step: str = "tiles") -> TileStore:
    """Decode every image of the cohort once into the tile store in `folder`, or take what is there already."""
    settings = study.images
    preparation = Preparation(size=settings.size, keep_ratio=settings.keep_ratio, channels=settings.channels)
    paths = [Path(p) for p in cohort.images["path"]]
    begun = time.monotonic()
    with show.bar(step) as bar:
        store = prepare(paths, preparation, folder, progress=lambda done, total: bar(done, total))
    show.line(step, f"{len(store):,} tiles of {settings.size} px, {time.monotonic() - begun:.1f} s")
    return store
