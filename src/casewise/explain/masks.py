"""The lesions that a study's table names, laid on the slices that its networks saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.errors import CohortError, ImageError, RunError, nearest
from casewise.modalities.volumes.case_files import source_of
from casewise.modalities.volumes.case_table import masks_in, text_of
from casewise.modalities.volumes.roi import inside_of, mask_on
from casewise.modalities.volumes.scans import Scan

if TYPE_CHECKING:
    import pandas as pd

    from casewise.explain.finished_run import FinishedRun


# So near to black or white is what compression makes of them; so much of a picture may lie between.
NEAR, MOST_SEAM = 48, 0.2
# More values than this are no labels; so few are not what compression leaves.
MOST_LABELS, FEW = 16, 4


def check_lesions(run: FinishedRun) -> str:
    """The column with masks.

    Raises:
        RunError: the study names none.
        CohortError: the table does not have it.
    """
    volumes = run.study.volumes
    if not volumes or not volumes.lesion:
        raise RunError(
            f"--measure: the study {run.study.name} names no masks of lesions to measure against. Name the table's "
            "column, `volumes: {lesion: COLUMN}`, and run the study again: nothing is trained anew for it."
        )
    if volumes.lesion not in run.cohort.images:
        raise CohortError(
            f"{run.study.cohort}: volumes.lesion: there is no column {volumes.lesion!r}."
            f"{nearest(volumes.lesion, list(run.cohort.images))}"
        )
    return volumes.lesion


@dataclass(frozen=True, eq=False)
class Lesion:
    """Where a case's lesions lie on its prepared slices: (N, H, W) `bool`; and whether its masks mark anything."""

    mask: np.ndarray
    marked: bool

    @property
    def lost(self) -> bool:
        """Whether nothing of what the masks mark lies on the slices."""
        return self.marked and not self.mask.any()


def lesion_on_slices(run: FinishedRun, row: int) -> np.ndarray:
    """Where a case's lesions lie on its prepared slices: (N, H, W) `bool`, false all over where it has none."""
    return lesion_of(run, row).mask


def lesion_of(run: FinishedRun, row: int) -> Lesion:
    """A case's lesions.

    Raises:
        ImageError: a mask cannot be read, is of another size than its slice, or lies mostly outside the scan.
    """
    study, slices = run.study, run.slices
    assert study.volumes is not None
    assert slices is not None
    column = check_lesions(run)
    images = run.cohort.images
    own = images[images["case"].astype(str) == str(run.cohort.panels["case"].iloc[row])]
    shape = (int(slices.count[row]), slices.slices.shape[2], slices.slices.shape[3])
    folder = (study.root or study.cohort.parent).absolute()
    if study.volumes.slice_index:
        lesion = _stacked(
            own, column, study.volumes.slice_index, folder, (study.volumes.pixel_mm, study.volumes.slice_mm)
        )
        if lesion is None:
            return Lesion(np.zeros(shape, bool), marked=False)
        return Lesion(mask_on(lesion, slices.affines[row], shape), bool(lesion.values.any()))
    from casewise.modalities.volumes.reading import read_scan

    found, marked = np.zeros(shape, bool), False
    names = masks_in(own, column)
    if not names:
        return Lesion(found, marked)
    sources = source_of(study, run.cohort, row)
    sequence, path = next((s, p[0]) for s, p in zip(sources.sequences, sources.paths, strict=True) if p)
    scan = read_scan(path, sequence=sequence, voxels=False)
    for name in names:
        mask = read_scan(folder / name)
        inside_of(mask, scan)  # one that lies elsewhere would pass for no lesion
        found |= mask_on(mask, slices.affines[row], shape)
        marked |= bool((mask.values > 0).any())
    return Lesion(found, marked)


def _stacked(rows: pd.DataFrame, column: str, order: str, folder: Path, spacing: tuple[float, float]) -> Scan | None:
    """The masks of slice images put on each other as their slices are; None where no slice has one."""
    from casewise.modalities.store.readers import image_facts, read_image

    places = rows.assign(place=rows[order].astype(float), own=[text_of(v) for v in rows[column]])
    by_place = places.sort_values(["place", "own"], ascending=[True, False], kind="stable").drop_duplicates("place")
    if not (by_place["own"] != "").any():
        return None
    facts = image_facts(Path(by_place["path"].iloc[0]))
    planes = []
    for name in by_place["own"]:
        plane = read_image(folder / name, channels="grey")[..., 0] if name else None
        if plane is not None and plane.shape != (facts["height"], facts["width"]):
            raise ImageError(
                f"{folder / name}: this mask is {plane.shape[1]}×{plane.shape[0]} pixels, its slice "
                f"{facts['width']}×{facts['height']}. A mask has the size of its slice."
            )
        planes.append(np.zeros((facts["height"], facts["width"]), np.uint8) if plane is None else plane)
    # all slices together: one of them may hold nothing but what compression left of black
    values = marked_in_pictures(np.stack(planes, axis=-1), folder / str(by_place["own"].max())).transpose(1, 0, 2)
    affine = np.diag([-spacing[0], -spacing[0], spacing[1], 1.0])
    return Scan(values.astype(np.float32), affine, folder / str(by_place["own"].iloc[0]), {"format": "slice images"})


def marked_in_pictures(values: np.ndarray, path: Path) -> np.ndarray:
    """What mask pictures `uint8` mark: of labels all but 0; of black and white that compression blurred, the white.

    Raises:
        ImageError: they may be either; `path` is one of them.

    >>> marked_in_pictures(np.array([0, 1, 2, 200], np.uint8), Path("a.png")).tolist()
    [False, True, True, True]
    >>> marked_in_pictures(np.array([0, 1, 3, 250, 253, 255], np.uint8), Path("a.jpg")).tolist()
    [False, False, False, True, True, True]
    """
    found = np.unique(values)
    between = found[(found >= NEAR) & (found <= 255 - NEAR)]
    ends = len(between) == 0 and found.max() > 127
    if len(found) <= 2 or (len(found) <= MOST_LABELS and not ends):
        return np.asarray(values > 0)
    # compression leaves several values about black and white, and a thin seam of greys between them
    both = found[0] < NEAR and found[-1] > 255 - NEAR and len(found) > FEW
    if not both or float(np.isin(values, between).mean()) > MOST_SEAM:
        told = ", ".join(map(str, found[:6].tolist())) + (", …" if len(found) > 6 else "")
        raise ImageError(
            f"{path}: the masks of this case have {len(found)} values ({told}): labels, or black and white that was "
            f"compressed? Save them in black and white, or as labels 1, 2, … of which there are at most {MOST_LABELS}."
        )
    return np.asarray(values > 127)


def on_panel(mask: np.ndarray, slots: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Slices' masks (N, h, w) as the panel whose places hold these slices: (rows·h, columns·w) `bool`.

    >>> on_panel(np.eye(2, dtype=bool)[:, :, None], np.array([0, 1]), rows=1, columns=2).astype(int).tolist()
    [[1, 0], [0, 1]]
    """
    tiles = mask[slots]
    height, width = tiles.shape[1:]
    grid = tiles.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grid).reshape(rows * height, columns * width)
