"""Between original scans and prepared slices: saliency maps to the scan, masks of lesions to the slices."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.table import text_of
from casewise.errors import ImageError
from casewise.modalities.base import CaseMask, NativeMap, PreparedCohort, SlotMaps
from casewise.modalities.masks import EMPTY, binarise_masks
from casewise.modalities.store.readers import read_image
from casewise.plugins.volumes.case_files import CaseSources, scans_of, source_of
from casewise.plugins.volumes.case_table import masks_in
from casewise.plugins.volumes.inverse_mapping import to_scan
from casewise.plugins.volumes.reading.scans import Scan
from casewise.plugins.volumes.roi import inside_of, mask_on
from casewise.plugins.volumes.settings import volumes_of
from casewise.plugins.volumes.slice_store import open_slices

if TYPE_CHECKING:
    import pandas as pd


def native_maps(prepared: PreparedCohort, panel: SlotMaps, sequence: str) -> list[NativeMap]:
    """The map of one sequence as a volume in the geometry of its scan or, for slice images, one map for each slice."""
    volumes = volumes_of(prepared.study)
    number = volumes.sequences.index(sequence)
    sources = source_of(prepared.study, prepared.cohort, panel.row)
    scan = _scans(sources)[number]
    if scan is None:
        return []
    affine = open_slices(prepared.store.folder, prepared.store.address).affines[panel.row]
    values = to_scan(panel.maps, panel.slots, affine, scan.shape, scan.affine)
    if not volumes.slice_index:
        return [NativeMap(sequence, values, affine=scan.affine, voxels=scan.values)]
    results = []
    for position in sorted({int(slot) for slot in panel.slots if slot != EMPTY}):
        path = sources.paths[number][position]
        picture = read_image(path, channels="grey")[..., 0]
        results.append(NativeMap(f"{sequence}-{position + 1:03d}-{path.stem}", values[:, :, position].T, picture))
    return results


@lru_cache(maxsize=1)
def _scans(sources: CaseSources) -> list[Scan | None]:
    """The scans of a case, read once for all its sequences and networks."""
    return scans_of(sources)


def read_lesion(prepared: PreparedCohort, row: int) -> CaseMask:
    """The lesions of the case of one panel row.

    Raises:
        ImageError: a mask cannot be read, differs in size from its slice, or lies mostly outside the scan.
    """
    study, volumes = prepared.study, volumes_of(prepared.study)
    assert volumes.lesion is not None
    slices = open_slices(prepared.store.folder, prepared.store.address)
    images = prepared.cohort.images
    case_images = images[images["case"].astype(str) == str(prepared.cohort.panels["case"].iloc[row])]
    shape = (int(slices.count[row]), slices.slices.shape[2], slices.slices.shape[3])
    numbers = np.arange(shape[0])
    folder = (study.root or study.cohort.parent).absolute()
    if volumes.slice_index:
        spacing = (volumes.pixel_mm, volumes.slice_mm)
        lesion = _stack_masks(case_images, volumes.lesion, volumes.slice_index, folder, spacing)
        if lesion is None:
            return CaseMask(numbers, np.zeros(shape, bool), marked=False)
        return CaseMask(numbers, mask_on(lesion, slices.affines[row], shape), bool(lesion.values.any()))
    from casewise.plugins.volumes.reading.read_scan import read_scan

    on_slices, marked = np.zeros(shape, bool), False
    names = masks_in(case_images, volumes.lesion)
    if not names:
        return CaseMask(numbers, on_slices, marked)
    sources = source_of(study, prepared.cohort, row)
    sequence, path = next((s, p[0]) for s, p in zip(sources.sequences, sources.paths, strict=True) if p)
    scan = read_scan(path, sequence=sequence, voxels=False)
    for name in names:
        mask = read_scan(folder / name)
        inside_of(mask, scan)  # a mask outside the scan would otherwise count as no lesion
        on_slices |= mask_on(mask, slices.affines[row], shape)
        marked |= bool((mask.values > 0).any())
    return CaseMask(numbers, on_slices, marked)


def _stack_masks(
    rows: pd.DataFrame, column: str, order: str, folder: Path, spacing: tuple[float, float]
) -> Scan | None:
    """The masks of slice images, stacked in the order of their slices; None if no slice has a mask."""
    from casewise.modalities.store.readers import image_facts, read_image

    named = rows.assign(position=rows[order].astype(float), mask=[text_of(v) for v in rows[column]])
    named = named.sort_values(["position", "mask"], ascending=[True, False], kind="stable").drop_duplicates("position")
    if not (named["mask"] != "").any():
        return None
    facts = image_facts(Path(named["path"].iloc[0]))
    planes = []
    for name in named["mask"]:
        plane = read_image(folder / name, channels="grey")[..., 0] if name else None
        if plane is not None and plane.shape != (facts["height"], facts["width"]):
            raise ImageError(
                f"{folder / name}: this mask has {plane.shape[1]}×{plane.shape[0]} pixels, its slice "
                f"{facts['width']}×{facts['height']}. A mask must have the size of its slice."
            )
        planes.append(np.zeros((facts["height"], facts["width"]), np.uint8) if plane is None else plane)
    # all slices together, because a single slice may contain only compression noise around black
    values = binarise_masks(np.stack(planes, axis=-1), folder / str(named["mask"].max())).transpose(1, 0, 2)
    affine = np.diag([-spacing[0], -spacing[0], spacing[1], 1.0])
    return Scan(values.astype(np.float32), affine, folder / str(named["mask"].iloc[0]), {"format": "slice images"})
