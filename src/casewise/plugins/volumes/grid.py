"""Reorienting scans and resampling them to one grid, by their affines alone.

Voxel coordinates are those of NIfTI: whole numbers are the centres of voxels, so a volume of n voxels reaches from -0.5
to n - 0.5. An affine maps them to millimetres, x to the right, y to the front, z upwards (RAS).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from casewise.errors import ImageError
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
    letters = scan.orientation
    axes = [next(n for n, letter in enumerate(letters) if letter in pair) for pair in ("LR", "PA", "IS")]
    against = [axis for axis, letter in enumerate("RAS") if letters[axes[axis]] != letter]
    values = np.ascontiguousarray(np.flip(scan.values.transpose(axes), tuple(against)))
    back = np.zeros((4, 4))
    back[axes, range(3)] = 1
    back[3, 3] = 1
    for axis in against:
        back[axes[axis], axis] = -1
        back[axes[axis], 3] = values.shape[axis] - 1
    return dataclasses.replace(scan, values=values, affine=scan.affine @ back)


def plane_grid(scan: Scan, size: int) -> Grid:
    """The grid of `size`×`size` square pixels over the scan's axial field; its slices stay those of the scan.

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
    """The values of a volume on a grid: linear between voxels, or those of the nearest voxel.

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
