"""The region of interest of a case: one square of the axial plane for all its slices, and which slices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from casewise.errors import ImageError
from casewise.plugins.volumes.grid import Grid, carried, resampled
from casewise.plugins.volumes.reading.scans import Scan

# The smallest share of a region that must lie in the scan.
LEAST_INSIDE = 0.5


@dataclass(frozen=True)
class Region:
    """Voxels of a plane grid in RAS: `x`, `y` the first of `side` in the plane, slices from `first` up to `end`."""

    x: int
    y: int
    side: int
    first: int
    end: int
    notes: tuple[str, ...] = ()


def whole(grid: Grid) -> Region:
    """The whole plane of all slices."""
    return Region(0, 0, grid.shape[0], 0, grid.shape[2])


def central(grid: Grid, size: int) -> Region:
    """The central `size`×`size` pixels of all slices.

    >>> central(Grid((256, 256, 20), np.eye(4)), 64)
    Region(x=96, y=96, side=64, first=0, end=20, notes=())
    """
    side = min(size, grid.shape[0])
    start = (grid.shape[0] - side) // 2
    return Region(start, start, side, 0, grid.shape[2])


def region_of_mask(mask: Scan, scan: Scan, grid: Grid, margin: float = 0.0) -> Region:
    """The square and the slices of a plane grid that contain all voxels of the mask above 0 and `margin` mm around
    them.

    The mask may have a geometry of its own, which its affine states. `scan` is the scan that it must overlap.

    Raises:
        ImageError: the mask is empty, or more than half of it lies outside the scan.
    """
    marked = np.argwhere(mask.values > 0)
    if not len(marked):
        raise ImageError(
            f"{mask.path}: the mask marks nothing; no voxel is above 0. Draw it again, or name the case's right mask."
        )
    in_scan = inside_of(mask, scan)
    outside = 1 - float(in_scan.mean())
    notes = (f"{outside:.0%} of the mask lies outside the scan and was left out",) if outside >= 1e-6 else ()
    between = np.linalg.inv(grid.affine) @ mask.affine
    centres = carried(between, marked[in_scan])
    # A marked voxel reaches half its length beyond its centre.
    reach = np.abs(between[:3, :3]).sum(axis=1) / 2
    ends = np.concatenate([centres.min(axis=0, keepdims=True) - reach, centres.max(axis=0, keepdims=True) + reach])
    return _around(ends, grid, margin, notes)


def inside_of(mask: Scan, scan: Scan) -> np.ndarray:
    """Which of the mask's voxels above 0 (in the order of `argwhere`) lie in the scan's volume; (N,) `bool`.

    Raises:
        ImageError: more than half of them lie outside.
    """
    points = carried(np.linalg.inv(scan.affine) @ mask.affine, np.argwhere(mask.values > 0))
    in_scan = np.asarray(((points > -0.5) & (points < np.array(scan.shape) - 0.5)).all(axis=1))
    doubt = "Is it a mask of another visit or subject?"
    if mask.shape == scan.shape:
        doubt = "They have the same number of voxels: was the mask saved without the scan's geometry?"
    inside = float(in_scan.mean()) if len(in_scan) else 1.0
    if inside < LEAST_INSIDE:
        overlap = "does not touch" if inside <= 0 else f"lies to {1 - inside:.0%} outside"
        raise ImageError(f"{mask.path}: the mask {overlap} the volume of {scan.path}. {doubt}")
    return in_scan


def _around(points: np.ndarray, grid: Grid, margin: float, notes: tuple[str, ...]) -> Region:
    """The region around points of the grid."""
    spacing = np.sqrt((grid.affine[:3, :3] ** 2).sum(axis=0))
    # A thousandth of a voxel allows for rounding at an exact border.
    low = points.min(axis=0) - margin / spacing + 0.5 + 1e-3
    high = points.max(axis=0) + margin / spacing + 0.5 - 1e-3
    first, end = max(0, math.floor(low[2])), min(grid.shape[2], math.ceil(high[2]))
    side = min(grid.shape[0], max(math.ceil(high[n]) - math.floor(low[n]) for n in (0, 1)))
    start = []
    for axis in (0, 1):
        middle = (math.floor(low[axis]) + math.ceil(high[axis])) / 2
        # At the border the square moves inwards, so that it shows scanned voxels only.
        start.append(min(max(0, math.floor(middle - side / 2)), grid.shape[axis] - side))
    return Region(start[0], start[1], side, first, max(end, first + 1), notes)


def slice_affine(region: Region, grid: Grid, size: int) -> np.ndarray:
    """The affine from (row, column, slice) of the region's slices, resized to `size`×`size`, to RAS mm; (4, 4).

    Slices are oriented as radiologists view them: rows go from front to back, columns from the patient's right to the
    left, slices upwards.
    """
    step = region.side / size
    # The centre of the first row lies half a new pixel from the region's edge.
    translation = np.array(
        [
            [0, -step, 0, region.x + region.side - 0.5 - step / 2],
            [-step, 0, 0, region.y + region.side - 0.5 - step / 2],
            [0, 0, 1, region.first],
            [0, 0, 0, 1],
        ]
    )
    return np.asarray(grid.affine @ translation)


def mask_on(mask: Scan, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A mask on prepared slices: (N, H, W) `bool`; a pixel larger than the mask's voxels is marked if one of them is.

    No marked voxel is lost between the centres of coarse pixels. `affine` maps (row, column, slice) to mm, as in
    `Prepared`; `shape` is (N, H, W).
    """
    count, rows, columns = shape
    marked = (mask.values > 0).astype(np.uint8)
    # Each pixel is sampled once for every voxel of its width.
    wide = np.abs((np.linalg.inv(mask.affine) @ affine)[:3, :3]).sum(axis=0)
    many = np.maximum(1, np.ceil(wide - 1e-6)).astype(int)
    inner = np.diag([*(1 / many), 1.0])
    inner[:3, 3] = (1 / many - 1) / 2
    fine = (rows * int(many[0]), columns * int(many[1]), count * int(many[2]))
    resampled_mask = resampled(marked, mask.affine, Grid(fine, affine @ inner), nearest=True)
    blocks = resampled_mask.reshape(rows, many[0], columns, many[1], count, many[2])
    return np.ascontiguousarray(np.moveaxis(blocks.max(axis=(1, 3, 5)), 2, 0)).astype(bool)
