"""Mapping of saliency maps from slices to the voxels of their scan."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from casewise.errors import CasewiseError
from casewise.modalities.masks import EMPTY

# voxels mapped per block: the coordinates of a whole scan would need gigabytes
VOXELS_AT_ONCE = 2**21
# points along an axis of a voxel at most, for headers of absurd voxels
MOST_POINTS = 64


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

    Raises:
        CasewiseError: shapes do not match, or an affine is not invertible.
    """
    maps, slices = np.asarray(maps, dtype=np.float32), np.asarray(slots, dtype=int)
    if maps.ndim != 3 or len(maps) != len(slices):
        raise CasewiseError(f"explain: maps must be (N, h, w), one for each of {len(slices)} slices; got {maps.shape}.")
    result = np.zeros(shape, np.float32)
    if not (slices != EMPTY).any():
        return result
    volume, covered, first = _as_volume(maps[slices != EMPTY], slices[slices != EMPTY])
    to_grid = _inverse(affine) @ np.asarray(scan_affine, dtype=float)
    to_grid[2, 3] -= first
    box = _bounding_box(_inverse(to_grid), volume.shape, shape)
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

    voxels = [np.arange(s.start, s.stop, dtype=float) for s in block]
    coordinates = [
        to_grid[i, 0] * voxels[0][:, None, None]
        + to_grid[i, 1] * voxels[1][None, :, None]
        + to_grid[i, 2] * voxels[2][None, None, :]
        + to_grid[i, 3]
        for i in range(3)
    ]
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


def _inverse(affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise CasewiseError(f"explain: an affine must be an invertible 4 x 4 matrix, not {affine.tolist()}.")
    return np.linalg.inv(affine)
