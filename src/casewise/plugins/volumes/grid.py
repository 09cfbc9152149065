"""Reorienting scans and resampling them to one grid, using only their affines.

Voxel coordinates follow NIfTI: whole numbers are the centres of voxels, so a volume of n voxels reaches from -0.5
to n - 0.5. An affine maps them to millimetres, x to the right, y to the front, z upwards (RAS).

The region of interest of a case is one square of the axial plane for all its slices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from casewise.errors import ImageError
from casewise.modalities.mask_labels import marked_labels, whole_labels
from casewise.plugins.volumes.reading.nifti import nibabel_module
from casewise.plugins.volumes.reading.scans import Scan

# The share of the reference that another scan shows, below which a note is added.
LITTLE = 0.25
# In voxels: far below the accuracy of a scanner's header, far above the rounding error of float64.
CLOSE = 1e-4
# The blur of a coarser voxel is a Gaussian of this full width at half maximum over its standard deviation.
WIDTH = 2 * math.sqrt(2 * math.log(2))
# In voxels; less blur changes nothing that linear interpolation does not.
LEAST_BLUR = 0.3


@dataclass(frozen=True, eq=False)
class Grid:
    """The positions of voxels: `shape` (three numbers) and `affine` (4, 4) `float64` from voxel to RAS mm."""

    shape: tuple[int, int, int]
    affine: np.ndarray


def carried(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map (..., 3) points by an affine.

    >>> carried(np.diag([2.0, 2.0, 2.0, 1.0]), np.array([1, 2, 3]))
    array([2., 4., 6.])
    """
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


def to_ras(scan: Scan) -> Scan:
    """The scan with its axes in the order and direction nearest to right, front and up.

    Voxels are only reordered, never interpolated; an oblique scan stays oblique and its affine says so.
    """
    orientations = nibabel_module().orientations
    turn = orientations.io_orientation(scan.affine)
    values = np.ascontiguousarray(orientations.apply_orientation(scan.values, turn))
    return dataclasses.replace(scan, values=values, affine=scan.affine @ orientations.inv_ornt_aff(turn, scan.shape))


def plane_grid(scan: Scan, size: int) -> Grid:
    """The grid of `size`×`size` square pixels over the scan's axial field; it keeps the scan's slices.

    A field that is not square is widened about its centre to a square of equal spacing, so that proportions stay.
    """
    count, spacing = np.array(scan.shape), np.array(scan.spacing)
    side = float((count[:2] * spacing[:2]).max()) / size
    shape = (size, size, int(count[2]))
    affine = scan.affine.copy()
    affine[:3, :2] *= side / spacing[:2]
    # The centre of the field stays fixed.
    affine[:3, 3] = 0
    affine[:3, 3] = carried(scan.affine, (count - 1) / 2) - carried(affine, (np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def check_shown(share: float, scan: Scan, reference: Scan) -> list[str]:
    """Notes on a scan that shows this share of the reference.

    Raises:
        ImageError: it shows nothing of it.
    """
    if share <= 0:
        problem = f"shows no part of the body that {reference.path} shows, according to their headers"
        raise ImageError(f"{scan.path}: {problem}. Are they of one subject and visit, and both with their geometry?")
    return [f"{scan.path}: shows only {share:.0%} of what {reference.path} shows"] if share < LITTLE else []


def covered(shape: tuple[int, ...], affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Which voxels of the grid have their centre in a volume of this shape and affine; `bool`, the grid's shape."""
    inside = np.ones(grid.shape, dtype=bool)
    between = np.linalg.inv(affine) @ grid.affine
    along = [np.arange(n, dtype=np.float64) for n in grid.shape]
    for axis in range(3):
        x, y, z = (between[axis, n] * along[n] for n in range(3))
        position = (x + between[axis, 3])[:, None, None] + y[:, None] + z
        inside &= (position >= -0.5 - CLOSE) & (position <= shape[axis] - 0.5 + CLOSE)
    return inside


def resampled(
    values: np.ndarray, affine: np.ndarray, grid: Grid, *, nearest: bool = False, fill: float = 0.0
) -> np.ndarray:
    """The values of a volume on a grid: linear between voxels, or the nearest voxel's.

    Along an axis on which the grid is coarser, the volume is blurred first to the resolution of the grid
    (Cardoso et al., MICCAI 2015: σ² = (f² - 1) / (8 ln 2) for a grid f times coarser), so that there is no
    aliasing. Voxels outside the volume become `fill`; the outer half of border voxels has their value.

    >>> row = np.array([0.0, 1.0, 2.0, 3.0], dtype=np.float32).reshape(4, 1, 1)
    >>> shifted = np.eye(4)
    >>> shifted[0, 3] = 0.5
    >>> resampled(row, np.eye(4), Grid((4, 1, 1), shifted), fill=-1).ravel().tolist()
    [0.5, 1.5, 2.5, 3.0]
    """
    from scipy import ndimage

    between = np.linalg.inv(affine) @ grid.affine
    if grid.shape == values.shape and np.abs(between - np.eye(4)).max() * max(grid.shape) < CLOSE:
        return np.array(values)
    # Rounding removes the error of the inverted affine where voxels coincide.
    matrix = np.where(np.abs(between - np.rint(between)) < 1e-9, np.rint(between), between)
    coarser = np.sqrt((matrix[:3, :3] ** 2).sum(axis=1))
    blur = np.sqrt(np.maximum(coarser**2 - 1, 0)) / WIDTH
    if not nearest and (blur > LEAST_BLUR).any():
        values = ndimage.gaussian_filter(values, np.where(blur > LEAST_BLUR, blur, 0), mode="nearest", truncate=3)
    turn, shift = matrix[:3, :3], matrix[:3, 3]
    # SciPy resamples axis by axis, which is faster, if there is no rotation.
    straight = np.diag(turn) if np.array_equal(turn, np.diag(np.diag(turn))) and (np.diag(turn) > 0).all() else turn
    out = ndimage.affine_transform(
        values, straight, shift, output_shape=grid.shape, order=0 if nearest else 1, mode="nearest", prefilter=False
    )
    out[~covered(values.shape, affine, grid)] = fill
    return np.asarray(out)


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


def as_mask(scan: Scan, labels: Collection[int] | None = None) -> Scan:
    """A volume of labels with 1 where it is marked, else 0; with `labels` only these are marked.

    Raises:
        ImageError: its values are not labels.
    """
    marked = marked_labels(whole_labels(scan.values, scan.path), labels)
    return dataclasses.replace(scan, values=marked.astype(np.float32))


def region_of_mask(mask: Scan, scan: Scan, grid: Grid, margin: float = 0.0) -> Region:
    """The square and the slices of a plane grid that contain all voxels of the mask above 0 and `margin` mm around
    them.

    The mask may have a geometry of its own, which its affine states. `scan` is the scan that it must overlap.

    Raises:
        ImageError: the mask is empty or no mask of labels, or more than half of it lies outside the scan.
    """
    mask = as_mask(mask)
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
