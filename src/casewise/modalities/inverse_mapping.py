"""Mapping of saliency maps from panels to the original pixels and voxels, through grid, resizing, crop and padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from casewise.errors import CasewiseError
from casewise.modalities.store.pixels import central_square, content_box
from casewise.modalities.store.preparation import Fit

EMPTY = -1
# voxels mapped per block: the coordinates of a whole scan would need gigabytes
VOXELS_AT_ONCE = 2**21
# points along an axis of a voxel at most, for headers of absurd voxels
MOST_POINTS = 64


def to_photograph(tile: np.ndarray, *, width: int, height: int, fit: Fit = "pad") -> np.ndarray:
    """Map a tile (side, side) to its photograph: (height, width) `float32`.

    The inverse of `casewise.modalities.store.preparation.Preparation`: padding of any kind is removed, a stretch is
    reversed, and what was cropped off is NaN.

    Args:
        width, height: of the upright photograph in pixels, as in the facts of the tile store.

    >>> to_photograph(np.eye(4), width=40, height=20).shape
    (20, 40)
    """
    top, left, inner_height, inner_width = content_box(width, height, _square(tile), fit)
    tile = tile[top : top + inner_height, left : left + inner_width]
    if fit != "crop":
        return _resampled(tile, width, height)
    x, y, side = central_square(width, height)
    result = np.full((height, width), np.nan, np.float32)
    result[y : y + side, x : x + side] = _resampled(tile, side, side)
    return result


def to_slide(
    tiles: np.ndarray, boxes: Sequence[tuple[int, int, int]] | np.ndarray, *, width: int, height: int, downsample: float
) -> np.ndarray:
    """Map tiles to the downsampled slide: (height / downsample, width / downsample) `float32`.

    The result is NaN outside all tiles, and the mean where tiles overlap.

    Args:
        tiles: (N, side, side).
        boxes: (N, 3), x, y and side of each tile in level-0 pixels.
        width, height: of the slide in level-0 pixels.
        downsample: the width of a pixel of the result in level-0 pixels.
    """
    shape = (max(1, round(height / downsample)), max(1, round(width / downsample)))
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for tile, (x, y, side) in zip(tiles, np.asarray(boxes).tolist(), strict=True):
        _square(tile)
        left, right = (min(round(edge / downsample), shape[1]) for edge in (x, x + side))
        top, bottom = (min(round(edge / downsample), shape[0]) for edge in (y, y + side))
        if right > left and bottom > top:
            total[top:bottom, left:right] += _resampled(tile, right - left, bottom - top)
            count[top:bottom, left:right] += 1
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32)


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


def _square(tile: np.ndarray) -> int:
    if tile.ndim != 2 or tile.shape[0] != tile.shape[1]:
        raise CasewiseError(f"explain: a tile's map must be square, not {tile.shape}.")
    return int(tile.shape[0])


def _resampled(values: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
