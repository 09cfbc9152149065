"""Images as features that should not predict the label: border, thumbnail, the area outside the anatomy, appearance.

Brightness, contrast, sharpness and traces of JPEG compression are evidence of their own, because a border or a
thumbnail shows them as well, and the remedy for a marker in the border does not help against different exposures. What
they explain is removed from the border before it is blamed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from casewise.audit.hashes import in_parallel
from casewise.audit.marks import mark_features
from casewise.audit.probes import Floats
from casewise.cohort.checks import closest
from casewise.errors import CohortError, ImageError
from casewise.modalities.mask_labels import check_wanted, marked_labels, occurring, read_labels
from casewise.modalities.store.pixels import padded
from casewise.modalities.store.preparation import Padding
from casewise.modalities.store.readers import open_source, read_bytes
from casewise.modalities.store.store import TileStore
from casewise.study.schema import Study

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
# Tiles (n, C, H, W) `uint8` to features (n, d).
Embed = Callable[[Bytes], NDArray[np.float32]]

# A picture is what networks see of an image, in 8 × 8 cells of 12 pixels. The outer ring of cells, an eighth of each
# side, is its border.
CELLS, CELL = 8, 12
SIDE = CELLS * CELL
# A pixel counts as anatomy from this covered share on, because masks are often slightly too small.
COVERED = 0.05
BINS = 16
# The most common shapes of images are features of their own.
COMMON_SHAPES = 10
# A pixel below one of these grey levels is nearly black.
NEAR = (4, 8, 16)
BATCH = 256
SHOWN = 5


def visible(store: TileStore, row: int) -> tuple[slice, slice]:
    """The rows and columns of a tile that networks see: all, padding too; of pictures for the audit, the image."""
    return store.content(row) if store.overview else (slice(None), slice(None))


def has_bars(store: TileStore, rows: NDArray[np.integer[Any]]) -> bool:
    """Whether networks see bars around any of these images."""
    full = slice(0, store.preparation.size)
    return not store.overview and any(store.content(int(row)) != (full, full) for row in rows)


def pictures(store: TileStore, rows: NDArray[np.integer[Any]], *, bars: bool = True, side: int = SIDE) -> Bytes:
    """(n, side, side) `uint8` grey pictures of what networks see of each image, with its bars or without them."""
    pictures = np.empty((len(rows), side, side), np.uint8)
    for number, row in enumerate(rows):
        down, across = visible(store, int(row)) if bars else store.content(int(row))
        grey = store.tiles[row][:, down, across].mean(axis=0, dtype=np.float32)
        pictures[number] = np.rint(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)).clip(0, 255)
    return pictures


def _cells(images: Bytes) -> NDArray[np.uint8]:
    """(n, 8, 8, 144) the pixels of each cell."""
    n = len(images)
    cells = images.reshape(n, CELLS, CELL, CELLS, CELL).transpose(0, 1, 3, 2, 4)
    return cells.reshape(n, CELLS, CELLS, CELL * CELL)


def _ring() -> Bools:
    ring = np.ones((CELLS, CELLS), bool)
    ring[1:-1, 1:-1] = False
    return ring


def areas() -> dict[str, Bools]:
    """The cells of each side and each corner of the border, and of an area `inside` that is as large as the border."""
    down, across = np.mgrid[:CELLS, :CELLS]
    ends = {"upper": down, "lower": CELLS - 1 - down, "left": across, "right": CELLS - 1 - across}
    pairs = itertools.product(("upper", "lower"), ("left", "right"))
    cells = {f"{first} {second} corner": ends[first] + ends[second] <= 1 for first, second in pairs}
    cells |= {f"{name} side": distance == 0 for name, distance in ends.items()}
    depth = np.minimum(np.minimum(down, CELLS - 1 - down), np.minimum(across, CELLS - 1 - across))
    diagonal = np.abs(down - (CELLS - 1) / 2) == np.abs(across - (CELLS - 1) / 2)
    return cells | {"inside": ((depth == 1) & ~diagonal) | (depth == 2)}


def _histogram(values: NDArray[np.uint8], included: Bools | None = None) -> Floats:
    """(n, 16) shares of grey levels."""
    counts = np.empty((len(values), BINS))
    for start in range(0, len(values), BATCH):  # the numbers of bins take eight times the memory of the values
        block = slice(start, start + BATCH)
        bins = (values[block] // (256 // BINS)).astype(np.int64).reshape(len(values[block]), -1)
        shift = np.arange(len(bins))[:, None] * BINS + bins
        weights = None if included is None else included[block].reshape(len(bins), -1).astype(float).ravel()
        counts[block] = np.bincount(shift.ravel(), weights, minlength=len(bins) * BINS).reshape(len(bins), BINS)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def border(images: Bytes, *, fields: bool = False, area: str = "") -> Floats:
    """(n, 128) of the outer ring: each cell's mean, minimum, maximum and standard deviation, and the histogram.

    Of `fields`, which are cut from tissue, minus the same of the interior. With an `area`, of this area instead.
    """
    cells = _cells(images)
    ring, inner = (_of_cells(cells[:, where]) for where in (areas()[area] if area else _ring(), ~_ring()))
    if not fields:
        return np.column_stack(ring)
    interior = [values.mean(axis=1, keepdims=True) for values in inner[:-1]]
    return np.column_stack([outer - within for outer, within in zip(ring, [*interior, inner[-1]], strict=True)])


def _of_cells(cells: NDArray[np.uint8]) -> list[Floats]:
    """Four statistics of each of k cells (n, k, 144), each (n, k), and the histogram of all."""
    statistics = [cells.mean(axis=2), cells.min(axis=2), cells.max(axis=2), cells.std(axis=2, dtype=np.float32)]
    return [*(values.astype(np.float64) for values in statistics), _histogram(cells)]


def corners(images: Bytes, *, fields: bool = False, inside: bool = False) -> Floats:
    """(n, 12) of each corner (its cell and the two adjacent ones): mean, minimum, maximum.

    The maximum shows a small marker anywhere in the corner. Among all features of the border, it could only be detected
    with many more subjects. Of `fields`, minus the mean of the same of the corners of the interior. `inside`: of the
    corners of the interior themselves.
    """
    cells = _cells(images)
    cells = cells[:, 1:-1, 1:-1] if inside else cells
    at_border = _corners(cells)
    if not fields:
        return at_border
    return at_border - np.tile(_corners(cells[:, 1:-1, 1:-1]).reshape(-1, 4, 3).mean(axis=1), 4)


def _corners(cells: NDArray[np.uint8]) -> Floats:
    edge = cells.shape[1] - 1
    features = []
    for down, across in ((0, 0), (0, edge), (edge, 0), (edge, edge)):
        adjacent = [(down, across), (abs(down - 1), across), (down, abs(across - 1))]
        corner = np.concatenate([cells[:, i, j] for i, j in adjacent], axis=1)
        features += [corner.mean(axis=1), corner.min(axis=1), corner.max(axis=1)]
    return np.column_stack(features)


def thumbnail(images: Bytes) -> Floats:
    """(n, 64) mean grey of each of the 8 × 8 cells."""
    return _cells(images).mean(axis=3).reshape(len(images), -1)


def grey_features(images: Bytes) -> Floats:
    """(n, 80) the thumbnail and the histogram."""
    return np.column_stack([thumbnail(images), _histogram(images)])


def outside(images: Bytes, masks: Bools) -> Floats:
    """(n, 272) a 16 × 16 thumbnail and the histogram of the area outside the masks.

    The anatomy is set to the mean of the remaining area, because the brightness of the anatomy may show the disease.
    """
    outside_mask = ~masks
    means = (images * outside_mask).sum(axis=(1, 2)) / np.maximum(outside_mask.sum(axis=(1, 2)), 1)
    filled = np.where(outside_mask, images, means[:, None, None])
    small = filled.reshape(len(images), 16, SIDE // 16, 16, SIDE // 16).mean(axis=(2, 4))
    return np.column_stack([small.reshape(len(images), -1), _histogram(images, outside_mask)])


def read_masks(study: Study, images: pd.DataFrame, store: TileStore) -> tuple[NDArray[np.int64], Bools]:
    """The masks of the study: the numbers of images with a mask, and their anatomy (n, 96, 96).

    Raises:
        CohortError: names the masks that are missing, empty, full, or of another shape than their image.
    """
    name = study.audit.mask
    if name is None:
        return np.zeros(0, np.int64), np.zeros((0, SIDE, SIDE), bool)
    if name not in images:
        raise CohortError(f"audit.mask: {name!r} is not a column.{closest(name, [str(c) for c in images.columns])}")
    folder = (study.root or study.cohort.parent).absolute()
    cells = [str(cell).strip() for cell in images[name]]
    rows = [row for row, cell in enumerate(cells) if cell]
    if not rows:
        raise CohortError(f"audit.mask: no row of column {name!r} names a mask. Fill it in, or remove `mask`.")

    wanted, present = study.images.labels_in(name), set[int]()

    def read(row: int) -> tuple[Bools | None, str]:
        return _mask(folder / cells[row], Path(str(images["path"].iat[row])), store, row, wanted, present)

    masks = list(in_parallel(read, rows))
    if present:
        try:
            check_wanted(wanted, present, f"the masks of column {name!r}")
        except ImageError as error:
            raise CohortError(str(error)) from error
    wrong = [problem for _, problem in masks if problem]
    if wrong:
        more = f"\n  and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
        listed = "\n  ".join(wrong[:SHOWN])
        raise CohortError(
            f"audit.mask: {len(wrong):,} of {len(rows):,} masks (column {name}) do not match their image:\n  "
            f"{listed}{more}\nCorrect the files, or empty those cells of the column."
        )
    return np.array(rows, np.int64), np.stack([mask for mask, _ in masks if mask is not None])


def _mask(
    path: Path,
    image: Path,
    store: TileStore,
    row: int,
    wanted: Sequence[int] | None = None,
    present: set[int] | None = None,
) -> tuple[Bools | None, str]:
    """One mask as (96, 96), or a description of the problem; its labels are added to `present`."""
    width, height = int(store.index["width"].iat[row]), int(store.index["height"].iat[row])
    try:
        labels = read_labels(path, (width, height))
    except ImageError as error:
        return None, f"{image.name}: {error}"
    if present is not None:
        present |= occurring(labels)
    label, marked = f"{image.name}: mask {path} ({width} x {height})", marked_labels(labels, wanted)
    # a mask with one value everywhere marks all pixels or none
    if not 0 < marked.mean() <= 0.99:
        return None, f"{label} marks {'all pixels' if marked.any() else 'no pixel'}."
    share = cv2.resize(_fitted(marked, store).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return share > COVERED, ""


def _fitted(mask: Bools, store: TileStore) -> Bools:
    """An image's mask for its tile before resizing: padded as the image was.

    A mirrored bar shows mirrored anatomy, which is masked as well.
    """
    preparation = store.preparation
    if store.overview or preparation.fit == "stretch":
        return mask
    height, width = mask.shape
    down, across = ((max(height, width) - length) for length in (height, width))
    padding: Padding = "reflect" if preparation.padding == "reflect" else "black"
    bars = (down // 2, down - down // 2), (across // 2, across - across // 2)
    return padded(mask[..., None], *bars, padding)[..., 0]


def shape(store: TileStore, rows: NDArray[np.integer[Any]]) -> Floats | None:
    """(n, d) the shapes of images: logarithm of width by height, its absolute value and square, and common shapes.

    With `fit: pad` it is the shape of the box that the image fills in its tile, which also gives the share and the
    place of the bars. None if all shapes are equal, or if networks never see whole images.
    """
    if store.overview:
        return None
    if store.preparation.fit == "pad":
        boxes = [store.content(int(row)) for row in rows]
        height, width = np.array([[side.stop - side.start for side in box] for box in boxes], float).T
        ratio = np.log(width / height)
    else:
        # a bar is visible however thin it is, a distortion of less than half a percent is not
        width, height = (store.index[name].to_numpy(float)[rows] for name in ("width", "height"))
        ratio = np.log(width / height).round(2)
    if (ratio == ratio[0]).all():
        return None
    common, counts = np.unique(ratio, return_counts=True)
    common = common[np.argsort(-counts, kind="stable")[:COMMON_SHAPES]]
    return np.column_stack([ratio, np.abs(ratio), ratio**2, ratio[:, None] == common])


def outside_area(area: str, count: int) -> Bools:
    """(count, 96, 96) what is not in an area, as a mask for each of some images."""
    return np.broadcast_to(np.kron(~areas()[area], np.ones((CELL, CELL))).astype(bool), (count, SIDE, SIDE))


def embedded(embed: Embed, store: TileStore, rows: NDArray[np.integer[Any]], masks: Bools | None) -> Floats:
    """(n, d) embeddings of tiles reduced to their border, or to the area outside `masks`."""
    inner = np.kron(~_ring(), np.ones((CELL, CELL))).astype(bool)
    features = []
    for start in range(0, len(rows), BATCH):
        batch = np.array(store.tiles[rows[start : start + BATCH]])
        for number, row in enumerate(rows[start : start + BATCH]):
            down, across = visible(store, int(row))
            image = batch[number][:, down, across]
            hidden = (inner if masks is None else masks[start + number]).astype(np.uint8)
            hide = cv2.resize(hidden, image.shape[:0:-1], interpolation=cv2.INTER_NEAREST).astype(bool)
            if not hide.all():
                image[:, hide] = image[:, ~hide].mean(axis=1, keepdims=True).astype(np.uint8)
        features.append(np.asarray(embed(batch), float))
    return np.concatenate(features)


# Files that are decoded for sharpness and compression, and the central part that is examined.
MOST_READ, PART = 800, 1024
# JPEG divides an image into blocks of 8 pixels.
BLOCK = 8
# The fewest grey levels of which the evenness of their use is measured.
_FEWEST_LEVELS = 16
_FileMeasure = Literal["sharpness", "compression", "grey-levels", "marks"]
# The mean coarse detail of a block, in grey levels, from which its sharpness can be judged.
CONTENT = 0.5


def brightness(pictures: Bytes) -> Floats:
    """(n, 2) mean and median grey of each picture (n, h, w)."""
    return np.column_stack([pictures.mean(axis=(1, 2)), np.median(pictures, axis=(1, 2))])


def extremes(pictures: Bytes) -> Floats:
    """(n, 2) the 1st and 99th percentile of each picture, which a constant that is added to all pixels moves."""
    return np.percentile(pictures, (1, 99), axis=(1, 2)).T


def nearly_black(store: TileStore, rows: NDArray[np.integer[Any]]) -> Floats:
    """(n, 3) the share of each image, without its bars, that is nearly black, at three distances; as logarithms.

    A constant that is added to all pixels empties this end of the grey levels.
    """
    shares = np.empty((len(rows), len(NEAR)))
    for number, row in enumerate(rows):
        darkest = store.tiles[row][(slice(None), *store.content(int(row)))].min(axis=0)
        shares[number] = [(darkest < level).mean() for level in NEAR]
    # one pixel of a tile, so that an image without a black pixel tells nothing of its shape
    return np.log(shares + 1 / store.tiles[0, 0].size)


def contrast(pictures: Bytes) -> Floats:
    """(n, 2) standard deviation of each picture, and the distance between its 10th and 90th percentiles."""
    low, high = np.percentile(pictures, (10, 90), axis=(1, 2))
    return np.column_stack([pictures.std(axis=(1, 2)), high - low])


def in_files(paths: Sequence[str], *, marks: bool) -> tuple[dict[_FileMeasure, Floats], NDArray[np.bool_]]:
    """What image files show at their own resolution, by name (n, d), and (n,) which could be read.

    `sharpness` (n, 2), `compression` (n, 2), `grey-levels` (n, 4) and, if asked for, `marks` (n, 24). Compression is
    `blockiness` in pixels, so it stays after a JPEG was saved in another format.
    """

    def measured(path: str) -> list[float] | None:
        try:
            source = open_source(Path(path), read_bytes(Path(path)))
            image = source.read(source.target(None), "grey")[..., 0]
        except ImageError:
            return None
        down, across = (max(0, (side - PART) // 2) for side in image.shape)
        crop = image[down : down + PART, across : across + PART]
        if min(crop.shape) < 3 * BLOCK:
            return None
        centre = crop.astype(np.float32)
        values = [*_sharpness(centre), blockiness(centre), blockiness(centre.T), *_level_steps(crop)]
        return [*values, *mark_features(image)] if marks else values

    values = list(in_parallel(measured, paths))
    read = np.array([value is not None for value in values], bool)
    width = max((len(value) for value in values if value), default=0)
    table = np.array([value or [0.0] * width for value in values], float).reshape(len(values), width)
    names: tuple[_FileMeasure, ...] = ("sharpness", "compression", "grey-levels", "marks")
    columns = np.split(table, (2, 4, 8), axis=1)[: 4 if marks else 3]
    return dict(zip(names, columns, strict=False)), read


def _level_steps(image: Bytes) -> Floats:
    """(4,) how even the histogram of grey levels is: levels that are never used, and steps in dark and bright halves.

    A curve that was applied to 8 bits, such as a gamma, leaves levels out and doubles others. Only levels between the
    2nd and the 98th percentile count.

    >>> _level_steps(np.arange(256, dtype=np.uint8).repeat(9)[None])[0]
    np.float64(0.0)
    >>> bool(_level_steps(np.arange(0, 256, 2, dtype=np.uint8).repeat(9)[None])[0] > 0.4)
    True
    """
    low, high = np.percentile(image, (2, 98)).astype(int)
    counts = np.bincount(image.ravel(), minlength=256)[low : high + 1].astype(float)
    if len(counts) < _FEWEST_LEVELS:
        return np.zeros(4)
    mean = np.convolve(counts, np.ones(5) / 5, "same") + 1
    apart, steps = np.abs(counts - mean) / mean, np.abs(np.diff(counts)) / mean[:-1]
    half = len(counts) // 2
    values = [apart[2:-2].mean(), np.median(steps[:half]), np.median(steps[half:])]
    return np.array([(counts == 0).mean(), *np.log(0.01 + np.array(values))])


def _sharpness(image: Floats) -> tuple[float, float]:
    """The logarithms of the finest detail and of the second finest, each relative to coarse detail.

    Medians over blocks with content, so that a letter or a marker does not count.
    """
    levels = [image, *(cv2.GaussianBlur(image, (0, 0), radius) for radius in (1.0, 2.0, 6.0))]
    side = (image.shape[1] // BLOCK, image.shape[0] // BLOCK)
    fine, middle, coarse = (
        cv2.resize(np.abs(first - second), side, interpolation=cv2.INTER_AREA).ravel()
        for first, second in itertools.pairwise(levels)
    )
    content = coarse > CONTENT
    if not content.any():
        return 0.0, 0.0
    first, second = (float(np.median((detail[content] + 0.01) / coarse[content])) for detail in (fine, middle))
    return float(np.log(first)), float(np.log(second))


def blockiness(image: Floats) -> float:
    """How much more often the step between two columns exceeds its neighbours at every eighth column than elsewhere.

    0 to 1; near 0 without JPEG traces. Steps are counted, not added up, so that a letter or a marker hardly matters.
    The eighth columns may start anywhere, so an image that was cropped after compression has them too.

    >>> smooth = np.tile(np.arange(64.0), (9, 1))
    >>> blockiness(smooth), blockiness(smooth // 8 * 8)
    (0.0, 1.0)
    """
    steps = np.abs(np.diff(np.asarray(image, np.float32), axis=1))
    steeper = steps[:, 1:-1] > np.maximum(steps[:, :-2], steps[:, 2:])
    columns = steeper.shape[1] // BLOCK * BLOCK
    if not columns:
        return 0.0
    phases = np.sort(steeper[:, :columns].mean(axis=0).reshape(-1, BLOCK).mean(axis=0))
    return float(phases[-1] - phases[:-1].mean())


def standardised(pictures: Bytes) -> Bytes:
    """Pictures (n, h, w) with one mean and one standard deviation, so that exposure and contrast are equal."""
    values = pictures.astype(np.float32)
    mean, std = values.mean(axis=(1, 2), keepdims=True), values.std(axis=(1, 2), keepdims=True)
    return np.asarray(np.rint(128 + 40 * (values - mean) / np.maximum(std, 1)).clip(0, 255).astype(np.uint8))


def without(features: Floats, covariates: Sequence[Floats]) -> Floats:
    """Features (n, d) minus their regression on the covariates and their squares, each (n, k).

    >>> x = np.arange(9.0)[:, None]
    >>> bool(np.abs(without(3 * x**2 - x, [x])).max() < 1e-6)
    True
    """
    table = np.column_stack(covariates)
    table = (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-9)
    design = np.column_stack([np.ones(len(table)), table, table**2])
    solution = np.linalg.lstsq(design, np.asarray(features, float), rcond=None)[0]
    rest: Floats = features - design @ solution
    # remains of rounding would be standardised to features
    rest[:, rest.std(axis=0) < 1e-6 * np.maximum(np.asarray(features, float).std(axis=0), 1e-9)] = 0.0
    return rest
