"""Whole slides, cut into tiles, as a modality; image files among them are used whole.

Tiles are sources of a tile store; each slide is opened and hashed once for all its tiles.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from casewise.cohort.cohort import Cohort
from casewise.console import Show
from casewise.errors import ImageError
from casewise.files import checksum, text_hash
from casewise.modalities.base import ImageFolder, ImageStore, MaskMeaning, NativeMap, Noun, PreparedCohort, SlotMaps
from casewise.modalities.photographs.modality import Photographs
from casewise.modalities.store.preparation import Preparation
from casewise.modalities.store.store import ImageSource, TileStore
from casewise.plugins.slides.cohort import FOLDER, TILE, has_tiles, into_tiles, pictures, slide_of, sweep, without_tiles
from casewise.plugins.slides.reader import Slide, checked_size, companion_files, companions_hash
from casewise.plugins.slides.settings import tiles_of
from casewise.plugins.slides.tiles import PlannedSlide, read_tile
from casewise.study.schema import Study

# Bytes of decoded neighbours that open slides may keep; rows are sorted by slide, so two large slides suffice.
MAX_CACHE = 320 * 2**20


@dataclass(frozen=True)
class SlideTile:
    """The square at x, y (level-0 pixels) of `side` level-0 pixels of a slide.

    `companions`: a hash of the slide's other files; empty if the slide is one file. A store identifies a tile by its
    text: if such a file is replaced, the tile has another text and is read again.

    >>> str(SlideTile(Path("a.svs"), 0, 128, 256))
    'a.svs [0, 128, 256]'
    """

    path: Path
    x: int
    y: int
    side: int
    companions: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Compute the hash of the slide's other files; most formats have none."""
        object.__setattr__(self, "companions", companions_hash(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """Raise an `ImageError` if the slide is missing or cannot be read."""
        checked_size(self.path)

    def new_reader(self) -> _SlideReader:
        """A reader of tiles of any slides."""
        return _SlideReader()

    def __str__(self) -> str:
        return f"{self.path} [{self.x}, {self.y}, {self.side}]{f' with {self.companions}' if self.companions else ''}"


class _SlideReader:
    """The most recently opened slides; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Slide] = OrderedDict()
        self._hashes: dict[Path, str] = {}
        self._hashing: dict[Path, threading.Lock] = {}

    def sha256(self, source: SlideTile) -> str:
        """A hash of the bytes of all files of the slide and the position of the tile.

        Raises:
            ImageError: the slide cannot be read.
        """
        with self._lock:
            alone = self._hashing.setdefault(source.path, threading.Lock())
        with alone:
            if source.path not in self._hashes:
                self._hashes[source.path] = self._slide_hash(source.path)
        return text_hash(f"{self._hashes[source.path]} {source.x} {source.y} {source.side}")

    def _slide_hash(self, path: Path) -> str:
        """A hash of the bytes of a slide; of names and bytes if it consists of several files."""
        others = companion_files(path)
        if not others:
            return _hashed(path)
        hashes = [_hashed(path), *(f"{file.name} {_hashed(file)}" for file in others)]
        return text_hash("\n".join(hashes))

    def tile(self, source: SlideTile, preparation: Preparation) -> np.ndarray:
        """Read one tile, (C, H, W) `uint8`.

        Raises:
            ImageError: the slide cannot be read at this position.
        """
        slide = self._slide(source.path)
        return read_tile(slide, source.x, source.y, source.side, side=preparation.size, channels=preparation.channels)

    def _slide(self, path: Path) -> Slide:
        with self._lock:
            slide = self._open.pop(path, None) or Slide(path)
            self._open[path] = slide
            while len(self._open) > 1 and sum(open_slide.cache for open_slide in self._open.values()) > MAX_CACHE:
                # closed when the last thread that reads from it has finished
                self._open.popitem(last=False)
            return slide


def _hashed(path: Path) -> str:
    try:
        return checksum(path)
    except OSError as error:
        raise ImageError(f"{path}: it cannot be read: {error.strerror or error}.") from error


SLIDE, TILE_NOUN = Noun("slide", "slides"), Noun("tile", "tiles")


class Slides(Photographs):
    """Every row of the table is a slide that becomes many rows, one a tile."""

    name = "slides"
    plans_size = False

    def read(self, study: Study, cohort: Cohort, folder: ImageFolder | None, show: Show) -> Cohort:
        return into_tiles(study, cohort, folder.of(FOLDER) if folder else None, show)

    def described(self, study: Study, images: pd.DataFrame) -> str:
        if TILE[0] not in images:
            return super().described(study, images)
        tiles = images[images["tile_side"] >= 0]
        text = f"{SLIDE.counted(tiles['path'].nunique())} ({TILE_NOUN.counted(len(tiles))})"
        others = len(images) - len(tiles)
        return f"{text} and {self.noun(study).counted(others)}" if others else text

    def whole(self, study: Study, cohort: Cohort) -> Cohort:
        return without_tiles(study, cohort)

    def check_files(self, study: Study, cohort: Cohort, show: Show) -> None:
        """Slides are opened when the table is read."""

    def prepare(self, study: Study, cohort: Cohort, folder: ImageFolder, show: Show, step: str = "tiles") -> ImageStore:
        sweep(study, cohort, folder.of(FOLDER))
        return super().prepare(study, cohort, folder, show, step)

    def sources(self, cohort: Cohort) -> Sequence[ImageSource]:
        """A tile of a slide, or an image file that is used whole."""

        if TILE[0] not in cohort.images:
            return super().sources(cohort)
        files = {path: Path(path) for path in cohort.images["path"].unique()}
        rows = cohort.images[["path", *TILE]].itertuples(index=False, name=None)
        return [SlideTile(files[path], x, y, side) if side >= 0 else files[path] for path, x, y, side in rows]

    def audited(self, prepared: PreparedCohort, show: Show) -> tuple[Cohort, TileStore]:
        """Slides and a small picture of each: tiles have no border and no file of their own."""

        if not has_tiles(prepared.cohort):
            return super().audited(prepared, show)
        return pictures(prepared.study, prepared.cohort, prepared.folder.of(FOLDER), show)

    def settings(self, study: Study) -> dict[str, Any]:
        tiles = tiles_of(study)
        assert tiles is not None
        return {"tiling": tiles.model_dump(mode="json")}

    def mask_columns(self, study: Study) -> dict[MaskMeaning, str]:
        """None: a mask of a whole slide is not mapped onto its tiles."""
        return {}

    def alterations(self, study: Study) -> tuple[str, ...]:
        """Those of grey values: a tile has no border and no shape of its own."""
        from casewise.modalities.alterations import OF_VALUES

        return tuple(OF_VALUES)

    def altered_tile(self, prepared: PreparedCohort, number: int, alteration: str) -> np.ndarray:
        """The prepared tile, altered."""
        from casewise.modalities.alterations import altered

        return altered(prepared.store.tiles[number].transpose(1, 2, 0), alteration).transpose(2, 0, 1)

    def picture(self, prepared: PreparedCohort, image: int) -> np.ndarray | None:
        slide = self.overview(prepared, self.picture_path(prepared, image))
        return slide.read_picture() if slide else super().picture(prepared, image)

    def to_native(
        self, prepared: PreparedCohort, maps: Sequence[SlotMaps], channel: str, *, side: int | None = None
    ) -> list[NativeMap]:
        """A map for each slide of the case, on its downsampled picture; photographs of the case as photographs."""
        from casewise.modalities.masks import EMPTY

        images = prepared.cohort.images
        sides = images["tile_side"].to_numpy()
        if not any(sides[number] >= 0 for panel in maps for number in panel.slots.tolist() if number != EMPTY):
            return super().to_native(prepared, maps, channel, side=side)
        tiles: dict[str, list[tuple[np.ndarray, Any]]] = {}
        for panel in maps:
            for tile, number in zip(panel.maps, panel.slots.tolist(), strict=True):
                if number != EMPTY and sides[number] >= 0:
                    box = images[["tile_x", "tile_y", "tile_side"]].iloc[number].to_numpy(dtype=int)
                    tiles.setdefault(self.picture_path(prepared, number), []).append((tile, box))
        results = []
        for path, tile_maps in tiles.items():
            slide = self.overview(prepared, path)
            assert slide is not None
            picture = slide.read_picture()
            step = slide.size[0] / picture.shape[1]
            values, boxes = np.stack([tile for tile, _ in tile_maps]), np.stack([box for _, box in tile_maps])
            on_slide = to_slide(values, boxes, width=slide.size[0], height=slide.size[1], downsample=step)
            height, width = picture.shape[:2]
            on_picture = np.full((height, width), np.nan, np.float32)
            rows, columns = min(height, on_slide.shape[0]), min(width, on_slide.shape[1])
            on_picture[:rows, :columns] = on_slide[:rows, :columns]
            results.append(NativeMap(Path(path).stem, on_picture, picture))
        return results

    def overview(self, prepared: PreparedCohort, path: str) -> PlannedSlide | None:
        """The stored tiles of the slide at `path`; None if `path` is an image that is used whole."""
        images = prepared.cohort.images
        if not has_tiles(prepared.cohort) or not (images.loc[images["path"] == path, "tile_side"] >= 0).any():
            return None
        return slide_of(prepared.study, path, prepared.folder.of(FOLDER))


def to_slide(
    tiles: np.ndarray, boxes: Sequence[tuple[int, int, int]] | np.ndarray, *, width: int, height: int, downsample: float
) -> np.ndarray:
    """Map tiles to the downsampled slide: (height / downsample, width / downsample) `float32`.

    The result is NaN outside all tiles, and the mean where tiles overlap.

    Args:
        tiles: (N, side, side).
        boxes: (N, 3), x, y and side of each tile in level-0 pixels.
        width, height: of the slide in level-0 pixels.
        downsample: the width of a pixel of the result in level-0 pixels.
    """
    from casewise.modalities.masks import checked_side, resampled

    shape = (max(1, round(height / downsample)), max(1, round(width / downsample)))
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for tile, (x, y, side) in zip(tiles, np.asarray(boxes).tolist(), strict=True):
        checked_side(tile)
        left, right = (min(round(edge / downsample), shape[1]) for edge in (x, x + side))
        top, bottom = (min(round(edge / downsample), shape[0]) for edge in (y, y + side))
        if right > left and bottom > top:
            total[top:bottom, left:right] += resampled(tile, right - left, bottom - top)
            count[top:bottom, left:right] += 1
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32)


MODALITY = Slides()
