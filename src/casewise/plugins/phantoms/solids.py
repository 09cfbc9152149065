"""Scenes in three dimensions: solids in millimetres of the patient (right, front, up), painted onto a scan's voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from casewise.plugins.phantoms.scene import Array, Random, coverage, smooth

Point: TypeAlias = Any  # three numbers: to the right, to the front, upwards, mm

# Noise is drawn up to this distance from the middle, to the right, to the front and upwards; it is constant beyond.
_REACH = (300.0, 300.0, 170.0)
# A cubic B-spline of independent normal numbers has this standard deviation along an axis.
_SPLINE_DEVIATION = 0.6924
# The warp moves points, so the box of a shape is wider by this margin, mm.
_MARGIN = 12.0


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, rotated about the body's axis by `turn` radians."""

    centre: Point
    radii: Point
    turn: float = 0.0

    @property
    def box(self) -> tuple[Array, Array]:
        """The box around it."""
        wide = max(self.radii[:2])
        reach = np.array([wide, wide, self.radii[2]])
        return np.subtract(self.centre, reach), np.add(self.centre, reach)

    def distance(self, *coordinates: Array) -> Array:
        """Return the distance to the surface, negative inside, accurate near it: the function over its gradient."""
        x, y, z = (axis - np.float32(middle) for axis, middle in zip(coordinates, self.centre, strict=True))
        if self.turn:
            c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
            x, y = c * x + s * y, c * y - s * x
        radii = np.array(self.radii, np.float32)
        scaled = [axis / radius for axis, radius in zip((x, y, z), radii, strict=True)]
        # A small constant avoids 0 / 0 at the middle, where the distance is the smallest radius.
        near = np.sqrt(sum(axis * axis for axis in scaled) + np.float32(1e-8))
        slopes = sum((axis / radius) ** 2 for axis, radius in zip(scaled, radii, strict=True))
        return near * (near - 1) / np.sqrt(slopes + np.float32(1e-8) / radii.min() ** 2)


@dataclass(frozen=True)
class Tube:
    """A tube along a broken line, with one radius or one at each of its points, and closed by spheres."""

    points: Any
    radius: Any

    @property
    def radii(self) -> Array:
        """The radius at each point."""
        return np.broadcast_to(np.asarray(self.radius, float), len(self.points))

    @property
    def box(self) -> tuple[Array, Array]:
        """The box around it."""
        points, radii = np.array(self.points), self.radii[:, None]
        return (points - radii).min(axis=0), (points + radii).max(axis=0)

    def distance(self, *coordinates: Array) -> Array:
        """Return the distance from the surface of the nearest segment, negative inside."""
        points, radii = np.array(self.points, np.float32), self.radii.astype(np.float32)
        signed = []
        for start, along, thick, more in zip(points[:-1], np.diff(points, axis=0), radii, np.diff(radii), strict=False):
            gaps = [axis - first for axis, first in zip(coordinates, start, strict=True)]
            t = sum(gap * step for gap, step in zip(gaps, along, strict=True)) / max(along @ along, np.float32(1e-6))
            t = np.clip(t, 0, 1)
            far = sum((gap - t * step) ** 2 for gap, step in zip(gaps, along, strict=True))
            signed.append(np.sqrt(far) - (thick + t * more))
        return np.minimum.reduce(signed)


Solid: TypeAlias = Ellipsoid | Tube


class Grid:
    """The voxels of a scan, in the order right, front, up, and their signal.

    Args:
        axes: the coordinates of the voxels' centres along each axis, mm.
        warp: the displacement of each point; three arrays (X, Y, Z).
        soft: the width in mm over which a surface is blurred, because its voxels contain both sides.
    """

    def __init__(self, axes: Sequence[Array], warp: Sequence[Array], soft: float) -> None:
        self.axes, self.soft = axes, soft
        grid = np.meshgrid(*axes, indexing="ij", copy=False)
        self.coordinates = [axis + move for axis, move in zip(grid, warp, strict=True)]
        self.signal: Array = np.zeros_like(warp[0])

    def paint(
        self,
        solid: Solid,
        value: Any,
        *,
        strength: float = 1.0,
        within: Array | None = None,
        rough: Array | None = None,
    ) -> tuple[tuple[slice, ...], Array]:
        """Paint a solid; return the region of the grid around it and the share of each voxel that it fills, 0-1.

        Args:
            value: the signal of the solid, a number, or for each voxel of the whole grid.
            strength: the opacity, 0-1.
            within: distances on the whole grid from a surface that the solid does not cross.
            rough: by how many mm the surface of the solid is moved inwards, on the whole grid.
        """
        region = tuple(
            slice(*np.searchsorted(axis, (low - _MARGIN, high + _MARGIN)))
            for axis, low, high in zip(self.axes, *solid.box, strict=True)
        )
        distance = solid.distance(*(axis[region] for axis in self.coordinates))
        if rough is not None:
            distance = distance + rough[region]
        if within is not None:
            distance = np.maximum(distance, within[region])
        share, below = coverage(-distance, 1 / self.soft), self.signal[region]
        value = np.float32(value) if np.ndim(value) == 0 else value[region]
        self.signal[region] = below + np.float32(strength) * share * (value - below)
        return region, share


def smooth_noise(random: Random, axes: Sequence[Array], grain: float) -> Array:
    """Return normal noise of deviation 1 whose grains are about `grain` mm wide, (X, Y, Z).

    The noise depends on positions in the patient: the same generator gives two scans the same noise at each position.

    >>> near = (np.float32([0, 4]), np.float32([1, 2]), np.float32([0, 9]))
    >>> far = (np.float32([0, 4, 90]), np.float32([1, 2]), np.float32([0, 9]))
    >>> small, large = (smooth_noise(np.random.default_rng(0), axes, 20) for axes in (near, far))
    >>> bool(np.allclose(small, large[:2]))
    True
    """
    counts = [int(np.ceil(2 * reach / grain)) + 4 for reach in _REACH]
    noise = random.standard_normal(counts, dtype=np.float32)
    for axis, reach, count in zip(axes, _REACH, counts, strict=True):
        # The weights (count, N) of a cubic B-spline's knots at N positions.
        at = np.clip((np.asarray(axis, np.float64) + reach) / grain + 1, 1, count - 2.001)
        gaps = np.abs(np.arange(count)[:, None] - at[None, :])
        weights = np.where(gaps < 1, 2 / 3 - gaps**2 + gaps**3 / 2, np.clip(2 - gaps, 0, None) ** 3 / 6)
        # Each step replaces the first axis and appends its samples as the last.
        noise = np.tensordot(noise, weights.astype(np.float32), axes=(0, 0))
    return noise / np.float32(_SPLINE_DEVIATION**3)


def evenly(points: Any, count: int) -> Array:
    """Return `count` points, (count, 3), evenly along a smooth curve through `points`.

    >>> evenly([(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (2.0, 0.0, 0.0)], 5)[:, 0].round(2).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    fine = smooth(points, 16)
    run = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    return np.stack([np.interp(np.linspace(0, run[-1], count), run, fine[:, axis]) for axis in range(3)], axis=1)
