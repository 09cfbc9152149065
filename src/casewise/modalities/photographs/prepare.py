"""A cohort's images and tiles of slides, each decoded once, with a bar and a line to tell of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store import prepare

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.console import Show
    from casewise.modalities.slides.wsi_tile import Piece
    from casewise.modalities.store.store import TileStore
    from casewise.study.schema import Study


def tiles_of(study: Study, cohort: Cohort, folder: Path, show: Show, step: str = "tiles") -> TileStore:
    """Decode every image and every tile of the cohort once into the tile store in `folder`, or take what is there."""
    settings = study.images
    preparation = Preparation(size=settings.size, keep_ratio=settings.keep_ratio, channels=settings.channels)
    begun = time.monotonic()
    with show.bar(step) as bar:
        store = prepare(sources_of(cohort), preparation, folder, progress=lambda done, total: bar(done, total))
    show.line(step, f"{len(store):,} tiles of {settings.size} px, {time.monotonic() - begun:.1f} s")
    return store


def sources_of(cohort: Cohort) -> list[Path | Piece]:
    """What each row of the cohort is read from: an image file, or a piece of a slide."""
    if "tile_side" not in cohort.images:
        return [Path(path) for path in cohort.images["path"]]
    from casewise.modalities.slides.wsi_tile import Piece

    files = {path: Path(path) for path in cohort.images["path"].unique()}
    places = cohort.images[["path", "tile_x", "tile_y", "tile_side"]].itertuples(index=False, name=None)
    return [Piece(files[path], x, y, side) if side >= 0 else files[path] for path, x, y, side in places]
