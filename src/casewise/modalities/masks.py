"""Between photographs and their tiles: masks on the tiles that networks see, and maps of tiles on photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.table import text_of
from casewise.errors import CasewiseError, ImageError
from casewise.files import replacing, text_hash
from casewise.modalities import mask_labels
from casewise.modalities.base import CaseMask, MaskMeaning, PreparedCohort
from casewise.modalities.store.pixels import content_box
from casewise.modalities.store.preparation import Fit
from casewise.modalities.store.readers import image_shape, read_bytes
from casewise.modalities.store.store import TileStore
from casewise.modalities.store.workers import Progress, of_each_image

if TYPE_CHECKING:
    import pandas as pd

    from casewise.console import Show
    from casewise.study.schema import Study

# The number of an empty slot.
EMPTY = -1
# Masks that cannot be used, in a message.
MOST_SHOWN = 10
# Increased whenever a change of the rules of masks changes which pixels are marked.
RULES = 2
# The share of a pixel of a tile that must be marked: any part of a lesion, so that small ones do not vanish, and half
# of the pixel for the others, so that their area stays the same.
LEAST_MARKED: dict[MaskMeaning, float] = {"lesion": 1e-6, "segmentation": 0.5, "anatomy": 0.5}
# The setting that names the column.
_KEYS: dict[MaskMeaning, str] = {"lesion": "images.lesion", "segmentation": "images.mask", "anatomy": "audit.mask"}


def mask_on_tiles(prepared: PreparedCohort, row: int, column: str, meaning: MaskMeaning) -> CaseMask:
    """The masks of the photographs of one panel row, on tiles.

    A photograph without a mask has no lesion. Where masks show the anatomy or a segmentation, it has no plane, because
    these are unknown.

    Raises:
        ImageError: a mask cannot be read or has another shape than its image.
    """
    study, images, store = prepared.study, prepared.cohort.images, prepared.store
    assert isinstance(store, TileStore)
    folder = (study.root or study.cohort.parent).absolute()
    numbers = sorted(set(map(int, prepared.cohort.panels["tiles"].iloc[row])))
    names = {number: text_of(images[column].iloc[number]) for number in numbers}
    if meaning != "lesion":
        numbers = [number for number in numbers if names[number]]
    side = study.images.size
    planes, content = np.zeros((2, len(numbers), side, side), bool)
    wanted, marked, present = study.images.labels_in(column), False, frozenset[int]()
    for plane, inside, number in zip(planes, content, numbers, strict=True):
        inside[store.content(number)] = True
        if names[number]:
            width, height = (int(store.index[name].iat[number]) for name in ("width", "height"))
            labels = mask_labels.read_labels(folder / names[number], (width, height))
            pixels = mask_labels.marked_labels(labels, wanted)
            present |= mask_labels.occurring(labels)
            marked |= bool(pixels.any())
            fit = store.preparation.fit
            plane[:] = _to_tile(pixels, width=width, height=height, side=side, fit=fit, meaning=meaning)
    return CaseMask(np.array(numbers, dtype=int), planes, marked, content, present)


def _marked_pixels(path: Path, width: int, height: int, wanted: Collection[int] | None = None) -> np.ndarray:
    return mask_labels.marked_labels(mask_labels.read_labels(path, (width, height)), wanted)


def training_masks(prepared: PreparedCohort, show: Show) -> Path:
    """The masks of `images.mask` on tiles, made once: a file of (N, size, size) `uint8`, named by a hash of all masks.

    0 is unknown, as on bars and images without a mask; 1 is not marked, 2 is marked. Bars that training draws anew
    (`panels.vary_shape`) mirror the mask with the image, so there the mirrored mask is learned.

    Raises:
        ImageError: with the masks that are missing, have colours, or another size than their image; or there is none.
    """
    study, store = prepared.study, prepared.store
    assert isinstance(store, TileStore)
    folder, column = (study.root or study.cohort.parent).absolute(), str(study.images.mask)
    names = [text_of(cell) for cell in prepared.cohort.images[column]]

    def check(problems: Mapping[int, str]) -> None:
        _refuse(problems, column, names, store.index["path"])

    def content(row: int) -> str:
        return hashlib.sha256(read_bytes(folder / names[row])).hexdigest() if names[row] else ""

    hashes, problems = of_each_image(len(names), content)
    check(problems)
    wanted = study.images.labels_in(column)
    identity = " ".join([f"{RULES} {sorted(wanted or ())}", store.address, *(hashes[row] for row in range(len(names)))])
    file = prepared.folder.of("masks") / f"{text_hash(identity)}.npy"
    if file.exists():
        return file
    with replacing(file) as temporary, show.bar("masks") as bar:
        codes = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(names), *store.preparation.shape[1:]))

        def fill(row: int) -> None:
            if names[row]:
                width, height = (int(store.index[name].iat[row]) for name in ("width", "height"))
                marked, box = _marked_pixels(folder / names[row], width, height, wanted), store.content(row)
                side, fit = store.preparation.size, store.preparation.fit
                tile = _to_tile(marked, width=width, height=height, side=side, fit=fit, meaning="segmentation")
                codes[row][box] = 1 + tile[box]

        check(of_each_image(len(names), fill, progress=bar)[1])
        codes.flush()
    for other in set(file.parent.glob("*.npy")) - {file}:
        other.unlink()
    return file


def check_masks(study: Study, images: pd.DataFrame, column: str, meaning: MaskMeaning, progress: Progress) -> None:
    """Check, before the images are prepared, that the masks of a column can be used and have the labels that count.

    Raises:
        ImageError: as `training_masks`; or no mask has a label of `images.mask_labels`.
    """
    folder = (study.root or study.cohort.parent).absolute()
    names = [text_of(cell) for cell in images[column]]

    def check(row: int) -> frozenset[int]:
        if names[row] and (size := image_shape(Path(images["path"].iat[row]))):
            return mask_labels.occurring(mask_labels.read_labels(folder / names[row], size))
        return frozenset()

    present, problems = of_each_image(len(names), check, progress=progress)
    _refuse(problems, column, names, images["path"], meaning)
    labels = frozenset[int]().union(*present.values())
    mask_labels.check_wanted(study.images.labels_in(column), labels, f"the masks of column {column!r}")


def _refuse(
    problems: Mapping[int, str],
    column: str,
    names: Sequence[str],
    paths: pd.Series,
    meaning: MaskMeaning = "segmentation",
) -> None:
    lines = [f"\n  {paths.iat[row]}: {problems[row]}" for row in sorted(problems)[:MOST_SHOWN]]
    key = _KEYS[meaning]
    if problems:
        count = f"{len(problems):,} of {len(list(filter(None, names))):,} masks (column {column})"
        raise ImageError(f"{key}: {count} cannot be used:{''.join(lines)}")
    if not any(names):
        raise ImageError(f"{key}: no row of column {column!r} names a mask. Fill it in, or leave {key} out.")


def _to_tile(marked: np.ndarray, *, width: int, height: int, side: int, fit: Fit, meaning: MaskMeaning) -> np.ndarray:
    """A mask (h, w) on the tile of its image: (side, side) `bool`, false on padding.

    The same as `casewise.modalities.store.preparation.Preparation` does with the image of `width` and `height`.

    >>> _to_tile(np.ones((2, 4), bool), width=40, height=20, side=4, fit="pad", meaning="anatomy").sum(axis=1)
    array([0, 4, 4, 0])
    """
    import cv2

    top, left, inner_height, inner_width = content_box(width, height, side, fit)
    inner = (inner_width, inner_height)
    smaller = inner[0] <= marked.shape[1] and inner[1] <= marked.shape[0]
    resampling = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
    share = cv2.resize(marked.astype(np.float32), inner, interpolation=resampling)
    tile = np.zeros((side, side), bool)
    tile[top : top + inner_height, left : left + inner_width] = share >= LEAST_MARKED[meaning]
    return tile


def to_photograph(tile: np.ndarray, *, width: int, height: int, fit: Fit = "pad") -> np.ndarray:
    """Map a tile (side, side) to its photograph: (height, width) `float32`.

    The inverse of `casewise.modalities.store.preparation.Preparation`: padding of any kind is removed, and a
    stretch is reversed.

    Args:
        width, height: of the upright photograph in pixels, as in the facts of the tile store.

    >>> to_photograph(np.eye(4), width=40, height=20).shape
    (20, 40)
    """
    top, left, inner_height, inner_width = content_box(width, height, checked_side(tile), fit)
    return resampled(tile[top : top + inner_height, left : left + inner_width], width, height)


def checked_side(tile: np.ndarray) -> int:
    if tile.ndim != 2 or tile.shape[0] != tile.shape[1]:
        raise CasewiseError(f"explain: a tile's map must be square, not {tile.shape}.")
    return int(tile.shape[0])


def resampled(values: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
