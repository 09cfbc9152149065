"""Tiles of a slide: their positions, resolution and pixels.

Planned tiles are stored in a folder, so that a slide is not read again while slide and plan are unchanged.
A slide has a thumbnail, `<name>.jpg`, and tiles, `<name>.npz`, which is written last. The name is a hash of the plan,
of the slide's path, size and time, and of the files that belong to it.
"""

from __future__ import annotations

import io
import json
import math
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from casewise.errors import ImageError
from casewise.files import json_hash, parsed_json, write_atomic
from casewise.modalities.store.file_check import ARRAY_DAMAGE
from casewise.modalities.store.pixels import LANCZOS, as_array
from casewise.modalities.store.preparation import Channels
from casewise.plugins.slides.reader import BLOCK, SAME_LEVEL, Slide, SlideFacts, companions_hash, on_white
from casewise.plugins.slides.settings import Tiles
from casewise.plugins.slides.tissue_mask import find_tissue, read_thumbnail, spread, tissue_shares

if TYPE_CHECKING:
    from casewise.modalities.store.store_builder import Budget


# Bytes of the thumbnail beside the open slide. Finding tissue, after the slide is closed, needs no more.
_THUMBNAIL_BYTES = 8 * 2**20


class TilePlan(Tiles):
    """The settings of the study and `side`, the width of a stored tile in pixels.

    >>> TilePlan(mpp=1.0).resolution
    '1 µm per pixel'
    """

    side: int = 128

    @property
    def resolution(self) -> str:
        """The resolution in words."""
        if self.mpp is not None:
            return f"{self.mpp:g} µm per pixel"
        return f"{self.magnification:g}x" if self.magnification is not None else f"level {self.level or 0}"


@dataclass(frozen=True, eq=False)
class PlannedSlide:
    """The tiles of one slide.

    `boxes`: (N, 3) `int64`, x, y and side in level-0 pixels, from left to right and then downwards. `shares`: (N,)
    `float64`, fraction of tissue in each box. `mask`: (h, w) `bool`, the tissue; each of its pixels is `downsample`
    level-0 pixels wide. `picture`: the thumbnail, (h, w, 3) `uint8` like the mask, or its file. `candidates`: how many
    tiles had enough tissue before `max_tiles` was applied. `notes`: sentences on deviations from the plan.
    """

    path: Path
    facts: SlideFacts
    boxes: np.ndarray
    shares: np.ndarray
    notes: tuple[str, ...]
    mask: np.ndarray
    downsample: float
    picture: np.ndarray | Path
    candidates: int

    def __len__(self) -> int:
        """The number of tiles."""
        return len(self.boxes)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.facts.width, self.facts.height

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of level 0."""
        return self.facts.mpp

    def read_picture(self) -> np.ndarray:
        """The thumbnail, (h, w, 3) `uint8`, with a pixel for each pixel of the mask."""
        if not isinstance(self.picture, Path):
            return self.picture
        with Image.open(self.picture) as image:
            return np.array(image.convert("RGB"))


def plan_tiles(path: Path, plan: TilePlan, budget: Budget | None = None) -> PlannedSlide:
    """Find the tissue of a slide and plan tiles in a grid from its upper left corner.

    A tile that would cross the right or lower edge is left out. `budget`: the memory that slides planned at the same
    time share; this slide waits until there is enough.

    Raises:
        ImageError: the slide cannot be read, does not state its resolution, is smaller than a tile, or has no tissue.
        CasewiseError: the package that reads slides is not installed.
    """
    with Slide(path) as slide:
        facts = slide.facts
        pixel_width, notes = _pixel_width(slide.path, facts, plan)
        boxes = _grid(slide.path, facts, plan, pixel_width)
        mpp = facts.mpp or plan.assume_mpp
        with budget.hold(slide.memory + _THUMBNAIL_BYTES) if budget else nullcontext():
            picture, scanned, downsample = read_thumbnail(slide)
            # Frees the memory before tissue is searched.
            slide.close()
            tissue = find_tissue(picture, scanned, downsample, mpp=mpp)
    shares = tissue_shares(tissue, boxes)
    enough = np.flatnonzero(shares >= plan.min_tissue - 1e-9)
    if not len(enough):
        if not tissue.mask.any():
            raise ImageError(f"{slide.path}: there is no tissue on this slide. Leave it out of the table.")
        shares_text = f"{tissue.share:.1%} of it is tissue, and no tile has more than {shares.max():.0%}"
        problem = (
            f"there is too little tissue on this slide: {shares_text}, and the study requires {plan.min_tissue:.0%}"
        )
        raise ImageError(f"{slide.path}: {problem}. Leave it out of the table, or lower `min_tissue`.")
    selected = enough
    if plan.max_tiles is not None and len(enough) > plan.max_tiles:
        # Positions are counted in steps of the grid, so that the curve fills it.
        steps = np.unique(boxes[:, 0], return_inverse=True)[1], np.unique(boxes[:, 1], return_inverse=True)[1]
        selected = enough[spread(np.stack(steps, axis=1)[enough], plan.max_tiles)]
    all_notes, mask, width = (*facts.notes, *notes, *tissue.notes), tissue.mask, tissue.downsample
    return PlannedSlide(
        slide.path, facts, boxes[selected], shares[selected], all_notes, mask, width, picture, candidates=len(enough)
    )


def read_tile(slide: Slide, x: int, y: int, span: int, *, side: int, channels: Channels = "rgb") -> np.ndarray:
    """Read one box of an open slide, (C, side, side) `uint8`; `x`, `y` and `span` are in level-0 pixels.

    It is read from the coarsest level that is fine enough and resized as photographs are. Areas that were not scanned
    or lie outside the slide are white.
    """
    tile = slide.in_srgb(_tile(slide, x, y, span, side))
    return np.ascontiguousarray(as_array(tile, channels).transpose(2, 0, 1))


def _tile(slide: Slide, x: int, y: int, span: int, side: int) -> Image.Image:
    """Read one box as an RGB image of `side` pixels."""
    level = slide.facts.level_for(span / side)
    downsample = slide.facts.levels[level][2]
    left, top, width = x / downsample, y / downsample, span / downsample
    # A tenth of a pixel is less than the deviation of a level in any file.
    corner = math.floor(left + 0.1), math.floor(top + 0.1)
    across, down = math.ceil(left + width - 0.1) - corner[0], math.ceil(top + width - 0.1) - corner[1]
    # A large area is averaged while it is read, to at least twice the size, which the filter then reduces.
    factor = max(int(width / (2 * side)), 1) if max(across, down) > BLOCK else 1
    image = on_white(slide.reduced(level, (*corner, across, down), factor))
    if image.size == (side, side):
        return image
    offset = max(left - corner[0], 0.0) / factor, max(top - corner[1], 0.0) / factor
    end = min(offset[0] + width / factor, image.width), min(offset[1] + width / factor, image.height)
    return image.resize((side, side), LANCZOS, box=(*offset, *end))


def _pixel_width(path: Path, facts: SlideFacts, plan: TilePlan) -> tuple[float, list[str]]:
    """Width of a pixel of a tile in level-0 pixels, and notes on deviations from the plan.

    Raises:
        ImageError: the slide does not state the resolution that the plan needs.
    """
    notes = []
    if plan.mpp is not None:
        mpp = facts.mpp or plan.assume_mpp
        if mpp is None:
            problem = f"the slide does not state the width of a pixel in microns, so {plan.resolution} cannot be read"
            remedy = f"{_instead('magnification', facts.magnification)} Or state it as `assume_mpp`, if you know it."
            raise ImageError(f"{path}: {problem}. {remedy}")
        if facts.mpp is None:
            notes.append(
                f"the file does not state the width of a pixel; {mpp:g} µm, as stated in the study, is assumed"
            )
        width = plan.mpp / mpp
    elif plan.magnification is not None:
        if facts.magnification is None:
            problem = f"the slide does not state the magnification of its scan, so {plan.resolution} cannot be read"
            raise ImageError(f"{path}: {problem}. {_instead('mpp', facts.mpp)}")
        width = facts.magnification / plan.magnification
    else:
        level, last = plan.level or 0, len(facts.levels) - 1
        missing = [f"there is no level {level}; level {last}, the coarsest, is used"] if level > last else []
        return facts.levels[min(level, last)][2], missing
    level = facts.level_for(width)
    if width < 1 / SAME_LEVEL:
        notes.append(f"no level is as fine as {plan.resolution}; level 0 is read and enlarged by {1 / width:.2f}")
    elif (by := width / facts.levels[level][2]) > SAME_LEVEL:
        notes.append(f"no level has {plan.resolution}; level {level} is read and reduced by {by:.2f}")
    return width, notes


def _instead(name: str, value: float | None) -> str:
    """The resolution that can be stated instead."""
    if value is None:
        return "State `level` instead."
    return f"It states its {name}, {value:.4g}: state `{name}` instead."


def _grid(path: Path, facts: SlideFacts, plan: TilePlan, pixel_width: float) -> np.ndarray:
    """All boxes of the grid, (N, 3), in raster order.

    Raises:
        ImageError: the slide is smaller than one tile.
    """
    span = max(round(plan.side * pixel_width), 1)
    if span > min(facts.width, facts.height):
        raise ImageError(
            f"{path}: a tile of {plan.side} px at {_at(facts, plan)} is {span:,} px wide at level 0, more than the "
            f"slide ({facts.width:,} x {facts.height:,}). State a finer resolution, or a smaller `images: {{size: …}}`."
        )
    across, down = (np.arange(0, size - span + 1, span) for size in (facts.width, facts.height))
    y, x = np.meshgrid(down, across, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, span)], axis=1).astype(np.int64)


def _at(facts: SlideFacts, plan: TilePlan) -> str:
    """The planned resolution in words; for a plan by level, with the levels of the slide."""
    if plan.mpp is not None or plan.magnification is not None:
        return plan.resolution
    sizes = ", ".join(f"{n} of {width:,} x {height:,}" for n, (width, height, _) in enumerate(facts.levels))
    return f"level {min(plan.level or 0, len(facts.levels) - 1)} (it has the levels {sizes} px)"


# Part of each stored name. Increase it when tissue or tiles are found differently: slides are then planned again.
_RULES = 3
_JPEG_QUALITY = 88


def name_of(path: Path, plan: TilePlan) -> str:
    """The name under which the current version of a slide is stored; empty if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    identity = [_RULES, str(path), status.st_size, status.st_mtime_ns, companions_hash(path), plan.model_dump()]
    return json_hash(identity)[:24]


def is_planned(path: Path, plan: TilePlan, folder: Path) -> bool:
    """Whether tiles of this slide and this plan are stored; they are not read."""
    name = name_of(path, plan)
    return bool(name) and (folder / f"{name}.npz").is_file()


def find(path: Path, plan: TilePlan, folder: Path) -> PlannedSlide | None:
    """The stored tiles of this slide and this plan; None if there are none or they cannot be read."""
    return _read(path, folder, name_of(path, plan))


def _read(path: Path, folder: Path, name: str) -> PlannedSlide | None:
    """The stored tiles of this slide under this name."""
    file, picture = folder / f"{name}.npz", folder / f"{name}.jpg"
    if not name or not file.is_file() or not picture.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as archive:
            about = parsed_json(str(archive["about"]))
            height, width = about.pop("shape")
            mask = np.unpackbits(archive["mask"], count=height * width).reshape(height, width).astype(bool)
            facts = SlideFacts(**{name: _tuples(value) for name, value in about.pop("facts").items()})
            boxes, shares, notes = archive["boxes"], archive["shares"], tuple(about.pop("notes"))
        return PlannedSlide(path, facts, boxes, shares, notes, mask, picture=picture, **about)
    except ARRAY_DAMAGE:
        # Damaged, or of another version: the slide is planned again.
        return None


def keep(planned: PlannedSlide, folder: Path, name: str) -> PlannedSlide | None:
    """Store the planned tiles of a slide and return them; None if they cannot be read back.

    `name`: from `name_of`, taken before reading, so that a slide replaced meanwhile is planned again.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    picture = io.BytesIO()
    Image.fromarray(planned.read_picture()).save(picture, "JPEG", quality=_JPEG_QUALITY)
    record = {
        "shape": planned.mask.shape,
        "downsample": planned.downsample,
        "candidates": planned.candidates,
        "facts": asdict(planned.facts),
        "notes": planned.notes,
    }
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        about=np.array(json.dumps(record)),
        boxes=planned.boxes,
        shares=planned.shares,
        mask=np.packbits(planned.mask),
    )
    write_atomic(folder / f"{name}.jpg", picture.getvalue())
    write_atomic(folder / f"{name}.npz", packed.getvalue())
    return _read(planned.path, folder, name)


def sweep(folder: Path, names: set[str]) -> None:
    """Remove all stored tiles except those with these names."""
    for path in [*folder.glob("*.npz"), *folder.glob("*.jpg")]:
        if path.stem not in names:
            path.unlink(missing_ok=True)


def _tuples(value: Any) -> Any:
    """A value of JSON with tuples instead of lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
