"""The lesions that a study's table names, laid on the slices that its networks saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.errors import CohortError, ImageError, RunError, nearest
from casewise.volumes.case_rows import masks_in, text_of
from casewise.volumes.cases import source_of
from casewise.volumes.region import inside_of, mask_on
from casewise.volumes.scans import Scan

if TYPE_CHECKING:
    import pandas as pd

    from casewise.explaining.finished import Finished


def check_lesions(run: Finished) -> str:
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


def lesion_on_slices(run: Finished, row: int) -> np.ndarray:
    """Where a case's lesions lie on its prepared slices: (N, H, W) `bool`, false all over where it has none.

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
    if study.volumes.order:
        lesion = _stacked(own, column, study.volumes.order, folder, (study.volumes.pixel_mm, study.volumes.slice_mm))
        return np.zeros(shape, bool) if lesion is None else mask_on(lesion, slices.affines[row], shape)
    from casewise.volumes.reading import read_scan

    found = np.zeros(shape, bool)
    names = masks_in(own, column)
    if not names:
        return found
    sources = source_of(study, run.cohort, row)
    sequence, path = next((s, p[0]) for s, p in zip(sources.sequences, sources.paths, strict=True) if p)
    scan = read_scan(path, sequence=sequence, voxels=False)
    for name in names:
        mask = read_scan(folder / name)
        inside_of(mask, scan)  # one that lies elsewhere would pass for no lesion
        found |= mask_on(mask, slices.affines[row], shape)
    return found


def _stacked(rows: pd.DataFrame, column: str, order: str, folder: Path, spacing: tuple[float, float]) -> Scan | None:
    """The masks of slice images put on each other as their slices are; None where no slice has one."""
    from casewise.images.readers import image_facts, read_image

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
    stacked = np.stack(planes, axis=-1).transpose(1, 0, 2)
    # of black and white above half: what compression leaves of the background is no lesion
    values = stacked > (127 if stacked.max() > 127 else 0)
    affine = np.diag([-spacing[0], -spacing[0], spacing[1], 1.0])
    return Scan(values.astype(np.float32), affine, folder / str(by_place["own"].iloc[0]), {"format": "slice images"})


def on_panel(mask: np.ndarray, slots: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Slices' masks (N, h, w) as the panel whose places hold these slices: (rows·h, columns·w) `bool`.

    >>> on_panel(np.eye(2, dtype=bool)[:, :, None], np.array([0, 1]), rows=1, columns=2).astype(int).tolist()
    [[1, 0], [0, 1]]
    """
    tiles = mask[slots]
    height, width = tiles.shape[1:]
    grid = tiles.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grid).reshape(rows * height, columns * width)
