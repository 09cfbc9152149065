"""Between original scans and prepared slices: saliency maps to the scan, masks of lesions to the slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from casewise.cohort.table import text_of
from casewise.modalities.base import CaseMask, ImageStore, NativeMap, PreparedCohort, SlotMaps
from casewise.modalities.mask_labels import marked_labels, occurring, read_labels, whole_labels
from casewise.modalities.masks import EMPTY
from casewise.modalities.store.readers import image_facts
from casewise.plugins.volumes.case_files import CaseSources, scans_of, source_of
from casewise.plugins.volumes.case_table import masks_in
from casewise.plugins.volumes.grid import as_mask, inside_of, mask_on
from casewise.plugins.volumes.reading.files import read_scan
from casewise.plugins.volumes.reading.scans import Scan, as_pictures
from casewise.plugins.volumes.settings import volumes_of
from casewise.plugins.volumes.slice_store import open_slices

# voxels mapped per block: the coordinates of a whole scan would need gigabytes
VOXELS_AT_ONCE = 2**21
# points along an axis of a voxel at most, for headers of absurd voxels
MOST_POINTS = 64
# The case of a store whose scans were read last.
_last_scans: WeakKeyDictionary[ImageStore, tuple[CaseSources, list[Scan | None]]] = WeakKeyDictionary()


def native_maps(prepared: PreparedCohort, panel: SlotMaps, sequence: str) -> list[NativeMap]:
    """The map of one sequence as a volume in the geometry of its scan or, for slice images, one map for each slice."""
    volumes = volumes_of(prepared.study)
    number = volumes.sequences.index(sequence)
    sources = source_of(prepared.study, prepared.cohort, panel.row)
    scan = _scans(prepared.store, sources)[number]
    if scan is None:
        return []
    affine = open_slices(prepared.store.folder, prepared.store.address).affines[panel.row]
    values = to_scan(panel.maps, panel.slots, affine, scan.shape, scan.affine)
    if not volumes.slice_index:
        return [NativeMap(sequence, values, affine=scan.affine, voxels=scan.values)]
    results, pictures = [], as_pictures(scan)
    for position in sorted({int(slot) for slot in panel.slots if slot != EMPTY}):
        path = sources.paths[number][position]
        name = f"{sequence}-{position + 1:03d}-{path.stem}"
        results.append(NativeMap(name, values[:, :, position].T, pictures[:, :, position].T))
    return results


def _scans(store: ImageStore, sources: CaseSources) -> list[Scan | None]:
    """The scans of a case, read once for all its sequences and networks, and released with the store."""
    case, scans = _last_scans.get(store, (None, []))
    if case != sources:
        scans = scans_of(sources)
        _last_scans[store] = sources, scans
    return scans


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
    numbers, wanted = np.arange(shape[0]), study.images.labels_in(volumes.lesion)
    folder = (study.root or study.cohort.parent).absolute()
    if volumes.slice_index:
        spacing = (volumes.pixel_mm, volumes.slice_mm)
        lesion = _stack_masks(case_images, volumes.lesion, volumes.slice_index, folder, spacing)
        if lesion is None:
            return CaseMask(numbers, np.zeros(shape, bool), marked=False)
        marked = replace(lesion, values=marked_labels(lesion.values, wanted).astype(np.float32))
        present = occurring(lesion.values)
        on_slices = mask_on(marked, slices.affines[row], shape)
        return CaseMask(numbers, on_slices, bool(marked.values.any()), labels=present)
    on_slices, any_marked, present = np.zeros(shape, bool), False, frozenset()
    names = masks_in(case_images, volumes.lesion)
    if not names:
        return CaseMask(numbers, on_slices, any_marked)
    sources = source_of(study, prepared.cohort, row)
    sequence, path = next((s, p[0]) for s, p in zip(sources.sequences, sources.paths, strict=True) if p)
    scan = read_scan(path, sequence=sequence, voxels=False)
    for name in names:
        labels = read_scan(folder / name)
        mask = as_mask(labels, wanted)
        present |= occurring(whole_labels(labels.values, labels.path))
        inside_of(mask, scan)  # a mask outside the scan would otherwise count as no lesion
        on_slices |= mask_on(mask, slices.affines[row], shape)
        any_marked |= bool(mask.values.any())
    return CaseMask(numbers, on_slices, any_marked, labels=present)


def _stack_masks(
    rows: pd.DataFrame, column: str, order: str, folder: Path, spacing: tuple[float, float]
) -> Scan | None:
    """The labels of slice images, stacked in the order of their slices; None if no slice has a mask."""
    named = rows.assign(position=rows[order].astype(float), mask=[text_of(v) for v in rows[column]])
    named = named.sort_values(["position", "mask"], ascending=[True, False], kind="stable").drop_duplicates("position")
    if not (named["mask"] != "").any():
        return None
    facts = image_facts(Path(named["path"].iloc[0]))
    size = (facts["width"], facts["height"])
    planes = [read_labels(folder / name, size) if name else np.zeros(size[::-1], int) for name in named["mask"]]
    values = np.stack(planes, axis=-1).transpose(1, 0, 2)
    affine = np.diag([-spacing[0], -spacing[0], spacing[1], 1.0])
    return Scan(values, affine, folder / str(named["mask"].iloc[0]))


def to_scan(
    maps: np.ndarray,
    slots: Sequence[int] | np.ndarray,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    scan_affine: np.ndarray,
) -> np.ndarray:
    """Map slices to the voxels of their scan: (X, Y, Z) `float32`, 0 outside all slices.

    Values are interpolated in mm, linearly between pixels and between neighbouring slices, up to half a pixel beyond
    the outermost ones. A voxel that is coarser than the pixels or the slices has the mean over its extent, without what
    no slice covers. Several maps of one slice (overlapping windows) are averaged first.

    Args:
        maps: (N, h, w).
        slots: (N,) the slice of each map; −1 for an empty slot, which is left out.
        affine: (4, 4) from row, column and slice of the prepared volume to mm (RAS).
        shape: of the stored scan.
        scan_affine: (4, 4) from the scan's voxels to mm (RAS).
    """
    maps, slices = np.asarray(maps, dtype=np.float32), np.asarray(slots, dtype=int)
    result = np.zeros(shape, np.float32)
    if not (slices != EMPTY).any():
        return result
    volume, covered, first = _as_volume(maps[slices != EMPTY], slices[slices != EMPTY])
    to_grid = np.linalg.inv(affine) @ scan_affine
    to_grid[2, 3] -= first
    box = _bounding_box(np.linalg.inv(to_grid), volume.shape, shape)
    per_plane = max(1, (box[0].stop - box[0].start) * (box[1].stop - box[1].start))
    deep = max(1, VOXELS_AT_ONCE // per_plane)
    for start in range(box[2].start, box[2].stop, deep):
        block = (box[0], box[1], slice(start, min(start + deep, box[2].stop)))
        result[block] = _mean_in_voxels(volume, covered, to_grid, block)
    return result


def _as_volume(maps: np.ndarray, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The maps as a volume (h, w, n) from the first slice to the last, the covered slices (n,), and the first slice."""
    first, last = int(slices.min()), int(slices.max())
    counts = np.bincount(slices - first, minlength=last - first + 1).astype(np.float32)
    volume = np.zeros((last - first + 1, *maps.shape[1:]), np.float32)
    np.add.at(volume, slices - first, maps)
    volume /= np.maximum(counts, 1)[:, None, None]
    return volume.transpose(1, 2, 0), (counts > 0).astype(np.float32), first


def _bounding_box(
    to_voxels: np.ndarray, grid: tuple[int, ...], shape: tuple[int, int, int]
) -> tuple[slice, slice, slice]:
    """The smallest box of voxels that contains the grid."""
    corners = np.array(list(product(*[(-0.5, side - 0.5) for side in grid])))
    ends = corners @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    low = np.clip(np.floor(ends.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(ends.max(axis=0)) + 1, low, shape).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])


def _mean_in_voxels(
    volume: np.ndarray, covered: np.ndarray, to_grid: np.ndarray, block: tuple[slice, ...]
) -> np.ndarray:
    """The mean over the covered part of each voxel of a block, from points at most one pixel and one slice apart."""
    steps = np.abs(to_grid[:3, :3]).max(axis=0)
    counts = np.ceil(steps - 1e-6).clip(1, MOST_POINTS).astype(int)
    total = np.zeros([s.stop - s.start for s in block], np.float32)
    points = np.zeros_like(total)
    for offset in product(*[(np.arange(count) + 0.5) / count - 0.5 for count in counts]):
        shifted = to_grid.copy()
        shifted[:3, 3] += to_grid[:3, :3] @ offset
        values, inside = _interpolated(volume, covered, shifted, block)
        total += values
        points += inside
    return total / np.maximum(points, 1)


def _interpolated(
    volume: np.ndarray, covered: np.ndarray, to_grid: np.ndarray, block: tuple[slice, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The volume's values at the points of a block, 0 outside all slices, and which points a slice covers."""
    from scipy.ndimage import map_coordinates

    x, y, z = np.ogrid[block]
    coordinates = [to_grid[i, 0] * x + to_grid[i, 1] * y + to_grid[i, 2] * z + to_grid[i, 3] for i in range(3)]
    inside = np.ones(coordinates[0].shape, bool)
    for axis, side in zip(coordinates, volume.shape, strict=True):
        # the tolerance keeps voxels on the edge despite rounding
        inside &= (axis >= -0.5 - 1e-6) & (axis <= side - 0.5 + 1e-6)
    result = np.zeros(coordinates[0].shape, np.float32)
    points = np.stack([axis[inside] for axis in coordinates])
    values = map_coordinates(volume, points, order=1, mode="nearest", output=np.float32)
    near: np.ndarray | bool = True
    if not covered.all():
        # a slice outside all windows is missing, not 0: its neighbours extend half way to it
        weight = map_coordinates(covered, points[2:], order=1, mode="nearest", output=np.float32)
        near = weight >= 0.5 - 1e-6
        values = np.where(near, values / np.maximum(weight, 0.5 - 1e-6), 0)
    result[inside] = values
    inside[inside] = near
    return result, inside
