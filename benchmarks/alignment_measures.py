"""Measures of the alignment of prepared scans: overlap of masks, mutual information, and single voxels mapped back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from casewise.plugins.volumes.grid import Grid, carried, covered, to_ras
from casewise.plugins.volumes.preprocess import Prepared, Steps, prepare_case
from casewise.plugins.volumes.reading.scans import Scan
from casewise.plugins.volumes.roi import mask_on

AXES = ("right", "front", "head")
BINS = 32
MARKS = 100


@dataclass
class Subject:
    """The rows of one subject with their scans and masks; `refused` has the error of each row that cannot be read."""

    name: str
    rows: list[dict[str, str]] = field(default_factory=list)
    scans: dict[str, Scan] = field(default_factory=dict)
    masks: dict[str, Scan] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    prepared: Prepared | None = None
    fault: str = ""


@dataclass
class Alignment:
    """The measures of a subject with masks of two sequences.

    `marked`: the numbers of slices that the first, the second, and both masks mark. `overlaps`: Dice over all slices,
    and over those that both masks mark, by method; `shifted`: the same by axis and mm. `curves`: mutual information by
    pair of sequences, axis and mm; `plain`: the same before N4 and smoothing.
    """

    names: list[str]
    scans: list[Scan]
    masked: tuple[str, str]
    prepared: Prepared
    marked: tuple[int, int, int]
    overlaps: dict[str, tuple[float, float]]
    shifted: dict[str, dict[float, tuple[float, float]]]
    curves: dict[tuple[str, str], list[dict[float, float]]]
    plain: dict[tuple[str, str], list[dict[float, float]]]
    trips: dict[str, dict[str, Any]]


def overlap(first: np.ndarray, second: np.ndarray, axis: int = 0) -> tuple[float, float]:
    """Dice of two masks over all slices, and over the slices (along `axis`) that both mark; 0 where there are none.

    >>> overlap(np.array([[1, 1], [1, 0]], bool), np.array([[1, 0], [0, 0]], bool))
    (0.5, 0.6666666666666666)
    """
    others = tuple(n for n in range(first.ndim) if n != axis)
    both = np.flatnonzero(first.any(axis=others) & second.any(axis=others))
    pairs = ((first, second), (first.take(both, axis), second.take(both, axis)))
    whole, common = (2 * float((a & b).sum()) / max(1, int(a.sum() + b.sum())) for a, b in pairs)
    return whole, common


def moved(scan: Scan, shift: Sequence[float]) -> Scan:
    """The scan moved by `shift` mm to the right, the front and the head."""
    affine = scan.affine.copy()
    affine[:3, 3] += shift
    return replace(scan, affine=affine)


def mask_on_slices(mask: Scan, prepared: Prepared) -> np.ndarray:
    """A mask on the prepared slices, (N, H, W) `bool`."""
    count, _, rows, columns = prepared.slices.shape
    return mask_on(mask, prepared.affine, (count, rows, columns))


def prepared_overlap(
    first: Scan, second: Scan, prepared: Prepared, shift: Sequence[float] = (0, 0, 0)
) -> tuple[float, float]:
    """`overlap` of two masks on prepared slices, the second moved by `shift` mm."""
    return overlap(mask_on_slices(first, prepared), mask_on_slices(moved(second, shift), prepared))


def marked_slices(first: Scan, second: Scan, prepared: Prepared) -> tuple[int, int, int]:
    """The numbers of prepared slices that the first mask, the second, and both mark."""
    slices = [mask_on_slices(mask, prepared).any(axis=(1, 2)) for mask in (first, second)]
    return int(slices[0].sum()), int(slices[1].sum()), int((slices[0] & slices[1]).sum())


def aligned_by_index(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The second array in the shape of the first, aligned at voxel (0, 0, 0) without affines."""
    out = np.zeros(first.shape, dtype=bool)
    common = tuple(slice(min(a, b)) for a, b in zip(first.shape, second.shape, strict=True))
    out[common] = second[common] > 0
    return out


def overlap_without_affine(first: Scan, second: Scan) -> tuple[float, float]:
    """`overlap` of the arrays as stored in the files."""
    axis = next(n for n, letter in enumerate(first.orientation) if letter in "IS")
    return overlap(first.values > 0, aligned_by_index(first.values, second.values), axis)


def overlap_without_origin(first: Scan, second: Scan) -> tuple[float, float]:
    """`overlap` of the arrays with reordered axes, aligned at their first voxels."""
    first, second = to_ras(first), to_ras(second)
    return overlap(first.values > 0, aligned_by_index(first.values, second.values), 2)


def overlap_by_nibabel(first: Path, second: Path) -> tuple[float, float]:
    """`overlap` on the voxels of the first mask, by the headers and nibabel alone, without casewise."""
    import nibabel
    from nibabel.affines import apply_affine

    images = [nibabel.as_closest_canonical(nibabel.load(path)) for path in (first, second)]
    mask, other = (np.asarray(image.dataobj) > 0 for image in images)
    voxels = np.moveaxis(np.indices(mask.shape), 0, -1)
    other_voxels = np.rint(apply_affine(np.linalg.inv(images[1].affine) @ images[0].affine, voxels)).astype(int)
    inside = ((other_voxels >= 0) & (other_voxels < other.shape)).all(axis=-1)
    resampled = np.zeros(mask.shape, dtype=bool)
    resampled[inside] = other[tuple(other_voxels[inside].T)]
    return overlap(mask, resampled, 2)


def shown_by(scan: Scan, prepared: Prepared) -> np.ndarray:
    """(N, H, W) `bool`, true for the prepared pixels that the scan covers."""
    count, _, rows, columns = prepared.slices.shape
    return np.moveaxis(covered(scan.shape, scan.affine, Grid((rows, columns, count), prepared.affine)), 2, 0)


def shifted(values: np.ndarray, axis: int, steps: int) -> np.ndarray:
    """The array shifted by whole voxels along an axis, filled with 0.

    >>> shifted(np.array([1, 2, 3]), 0, 1).tolist(), shifted(np.array([1, 2, 3]), 0, -2).tolist()
    ([0, 1, 2], [3, 0, 0])
    """
    out = np.zeros_like(values)
    length = values.shape[axis] - abs(steps)
    begin = [slice(None)] * values.ndim
    end = list(begin)
    begin[axis], end[axis] = (
        slice(max(0, -steps), max(0, -steps) + length),
        slice(max(0, steps), max(0, steps) + length),
    )
    out[tuple(end)] = values[tuple(begin)]
    return out


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information in nats, by a histogram of 32 by 32 equal bins."""
    from sklearn.metrics import mutual_info_score

    table, _, _ = np.histogram2d(first, second, bins=BINS)
    return float(mutual_info_score(None, None, contingency=table))


def information_by_shift(
    scans: Sequence[Scan], prepared: Prepared, first: int, second: int, reach: float = 4.0
) -> list[dict[float, float]]:
    """The mutual information for each axis (right, front, head), by the shift of the second sequence along it in mm.

    Shifts are whole pixels, up to `reach` mm and at least one pixel. Only pixels that both cover at every shift count.
    """
    fixed, moving = prepared.slices[:, first], prepared.slices[:, second]
    covers_fixed, covers_moving = (shown_by(scans[n], prepared) for n in (first, second))
    curves = []
    for direction in range(3):
        along = int(np.abs(prepared.affine[direction, :3]).argmax())
        step = float(prepared.affine[direction, along])
        # Axes of the affine are rows, columns, slices; those of the array are slices, rows, columns.
        axis = (1, 2, 0)[along]
        most = max(1, int(reach / abs(step) + 1e-6))
        steps = range(-most, most + 1)
        common = covers_fixed & np.logical_and.reduce([shifted(covers_moving, axis, n) for n in steps])
        curve = {
            round(n * step, 2) + 0.0: mutual_information(fixed[common], shifted(moving, axis, n)[common]) for n in steps
        }
        curves.append(dict(sorted(curve.items())))
    return curves


def best(curve: dict[float, float]) -> float:
    """The shift with the largest mutual information."""
    return max(curve, key=lambda shift: curve[shift])


def round_trip(scans: Sequence[Scan], number: int, plane: int, *, count: int = MARKS, seed: int = 0) -> dict[str, Any]:
    """Mark single voxels of a scan, prepare it on the first scan's grid, detect the spots, and map them back.

    Returns the numbers of voxels that were `marked` and `found`, the number of spots that were mapped to the `same`
    voxel, and the `largest` distance in mm. Detection does not use the marked positions.
    """
    from scipy import ndimage
    from scipy.spatial import cKDTree

    scan, steps = scans[number], Steps(in_plane_size=plane, size=plane, bias="none", smoothing="none")
    marked = _apart(scan, scans[0], plane, count, seed)
    values = np.zeros(scan.shape, dtype=np.float32)
    values[tuple(marked.T)] = 1000
    spotted = replace(scan, values=values)
    prepared = prepare_case([spotted] if number == 0 else [scans[0], spotted], steps)
    slices = prepared.slices[:, -1].astype(np.float64)
    labels, spots = ndimage.label(slices)
    centres = np.array(ndimage.center_of_mass(slices, labels, range(1, spots + 1)))
    mm = carried(prepared.affine, centres[:, [1, 2, 0]])
    far, nearest = cKDTree(carried(scan.affine, marked)).query(mm)
    back = np.rint(carried(np.linalg.inv(scan.affine), mm)).astype(int)
    same = len({tuple(voxel) for voxel in back} & {tuple(voxel) for voxel in marked})
    return {"marked": len(marked), "found": len(set(nearest)), "same": same, "largest": float(far.max())}


def _apart(scan: Scan, reference: Scan, plane: int, count: int, seed: int) -> np.ndarray:
    """Random voxels whose neighbours the reference covers, far enough apart that their spots do not touch."""
    upright = to_ras(reference)
    wide = max(n * gap for n, gap in zip(upright.shape[:2], upright.spacing[:2], strict=True)) / plane
    step = np.abs(np.linalg.inv(scan.affine)[:3, :3]) @ np.array([wide, wide, upright.spacing[2]])
    gap = np.where(step <= 1.1, 3, 3 + np.ceil(3 * step))
    candidates = np.argwhere(np.ones(scan.shape, dtype=bool)[1:-1, 1:-1, 1:-1]) + 1
    inside = np.ones(len(candidates), dtype=bool)
    between = np.linalg.inv(reference.affine) @ scan.affine
    for corner in np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1:
        neighbours = carried(between, candidates + corner)
        inside &= ((neighbours >= 0) & (neighbours <= np.array(reference.shape) - 1)).all(axis=1)
    selected: list[np.ndarray] = []
    for voxel in np.random.default_rng(seed).permutation(candidates[inside]):
        if all((np.abs(voxel - other) >= gap).any() for other in selected):
            selected.append(voxel)
            if len(selected) == count:
                break
    return np.array(selected)
