"""Shapes in millimetres of a patient's space that are painted onto the grid of a scan, and smooth noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import Random, catmull_rom, extended

Floats = NDArray[np.float32]
Axes = tuple[Floats, Floats, Floats]
Point = tuple[float, ...]  # to the right, to the front, upwards, mm

# Noise is drawn up to this distance from the middle, to the right, to the front and upwards; it is constant beyond.
REACH = (300.0, 300.0, 170.0)
# A cubic B-spline of independent normal numbers has this standard deviation along an axis.
SPLINE_DEVIATION = 0.6924
# The warp moves points, so the box of a shape is wider by this margin, mm.
MARGIN = 12.0


class Shape(Protocol):
    """A solid with its bounding box and the signed distance from its surface, which is negative inside."""

    @property
    def box(self) -> tuple[Point, Point]: ...

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats: ...


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, rotated about the body's axis by `turn` radians; distances are accurate near its surface."""

    centre: Point
    radii: Point
    turn: float = 0.0

    @property
    def box(self) -> tuple[Point, Point]:
        """The box around it."""
        (x, y, z), wide = self.centre, max(self.radii[:2])
        return (x - wide, y - wide, z - self.radii[2]), (x + wide, y + wide, z + self.radii[2])

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the distance to first order: the ellipsoid's function over its gradient."""
        offset = [component - np.float32(middle) for component, middle in zip((x, y, z), self.centre, strict=True)]
        if self.turn:
            c, s = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
            offset[0], offset[1] = c * offset[0] + s * offset[1], c * offset[1] - s * offset[0]
        scaled = [component / np.float32(radius) for component, radius in zip(offset, self.radii, strict=True)]
        least = min(self.radii)
        # A small constant avoids 0 / 0 at the middle, where the distance is the smallest radius.
        near = np.sqrt(sum(component * component for component in scaled) + np.float32(1e-8))
        slope = np.sqrt(
            sum((component / np.float32(radius)) ** 2 for component, radius in zip(scaled, self.radii, strict=True))
            + np.float32(1e-8 / least**2)
        )
        signed: Floats = near * (near - 1) / slope
        return signed


@dataclass(frozen=True)
class Tube:
    """A tube along a broken line, with a radius at each of its points, and closed by spheres."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]

    @property
    def box(self) -> tuple[Point, Point]:
        """The box around it."""
        points, radii = np.array(self.points), np.array(self.radii)[:, None]
        return tuple((points - radii).min(axis=0)), tuple((points + radii).max(axis=0))

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the distance from the surface of the nearest segment."""
        nearest: Floats | None = None
        pieces = zip(self.points[:-1], self.points[1:], self.radii[:-1], self.radii[1:], strict=True)
        for start, end, thick, thin in pieces:
            along = np.subtract(end, start).astype(np.float32)
            dx, dy, dz = x - np.float32(start[0]), y - np.float32(start[1]), z - np.float32(start[2])
            length = np.float32(max(float(along @ along), 1e-6))
            t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / length, 0, 1)
            gaps = np.sqrt((dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2)
            signed = gaps - (np.float32(thick) + t * np.float32(thin - thick))
            nearest = signed if nearest is None else np.minimum(nearest, signed)
        assert nearest is not None
        return nearest


@dataclass(frozen=True)
class Trunk:
    """An upright trunk without ends: of half-width `wide`, with extents `front` and `back` from the middle."""

    wide: float
    front: float
    back: float
    power: float = 2.35

    @property
    def box(self) -> tuple[Point, Point]:
        """The box around it."""
        return (-self.wide, -self.back, -1e4), (self.wide, self.front, 1e4)

    def distance(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Return the distance along the line from the middle."""
        deep = np.where(y > 0, np.float32(self.front), np.float32(self.back))
        power = np.float32(self.power)
        form = (np.abs(x / np.float32(self.wide)) ** power + np.abs(y / deep) ** power) ** (1 / power)
        signed: Floats = np.sqrt(x * x + y * y) * (1 - 1 / np.maximum(form, np.float32(1e-3)))
        return np.maximum(signed, np.float32(-min(self.wide, self.front, self.back)))


class Canvas:
    """The voxels of a scan, in the order right, front, up, and their signal.

    Args:
        axes: the coordinates of the voxels' centres along each axis, mm.
        warp: the displacement of each point; three arrays (X, Y, Z), or None.
        soft: the width in mm over which a surface is blurred, because its voxels contain both sides.
    """

    def __init__(self, axes: Axes, warp: Sequence[Floats] | None, soft: float) -> None:
        self.axes, self.soft = axes, np.float32(soft)
        self.shape = (len(axes[0]), len(axes[1]), len(axes[2]))
        self.signal: Floats = np.zeros(self.shape, np.float32)
        grid = np.meshgrid(*axes, indexing="ij", copy=False)
        self.coordinates = grid if warp is None else [c + move for c, move in zip(grid, warp, strict=True)]

    def paint(
        self,
        shape: Shape,
        value: float,
        *,
        strength: float = 1.0,
        within: Floats | None = None,
        rough: Floats | None = None,
    ) -> tuple[tuple[slice, ...], Floats]:
        """Paint a shape; return the region of the grid around it and the share of each voxel that it fills, 0-1.

        Args:
            value: the signal of the shape.
            strength: the opacity, 0-1.
            within: distances on the whole grid from a surface that the shape does not cross.
            rough: by how many mm the surface of the shape is moved inwards, on the whole grid.
        """
        low, high = shape.box
        region = tuple(
            slice(int(np.searchsorted(axis, first - MARGIN)), int(np.searchsorted(axis, last + MARGIN)))
            for axis, first, last in zip(self.axes, low, high, strict=True)
        )
        x, y, z = (coordinate[region] for coordinate in self.coordinates)
        distance = shape.distance(x, y, z)
        if rough is not None:
            distance = distance + rough[region]
        if within is not None:
            distance = np.maximum(distance, within[region])
        share = np.clip(np.float32(0.5) - distance / self.soft, 0, 1)
        below = self.signal[region]
        self.signal[region] = below + np.float32(strength) * share * (np.float32(value) - below)
        return region, share

    def whole(self, shape: Shape) -> Floats:
        """Return a shape's distance on the whole grid."""
        return shape.distance(*self.coordinates)


def smooth_noise(random: Random, axes: Axes, grain: float) -> Floats:
    """Return normal noise of deviation 1 whose grains are about `grain` mm wide, (X, Y, Z).

    The noise depends on positions in the patient: the same generator gives two scans the same noise at each position.

    >>> near = (np.float32([0, 4]), np.float32([1, 2]), np.float32([0, 9]))
    >>> far = (np.float32([0, 4, 90]), np.float32([1, 2]), np.float32([0, 9]))
    >>> small, large = (smooth_noise(np.random.default_rng(0), axes, 20) for axes in (near, far))
    >>> bool(np.allclose(small, large[:2]))
    True
    """
    counts = [int(np.ceil(2 * reach / grain)) + 4 for reach in REACH]
    noise = random.standard_normal(counts, dtype=np.float32)
    for axis, reach, count in zip(axes, REACH, counts, strict=True):
        # Each step replaces the first axis and appends its samples as the last.
        noise = np.tensordot(noise, _spline(axis, reach, grain, count), axes=(0, 0))
    return noise / np.float32(SPLINE_DEVIATION**3)


def _spline(axis: Floats, reach: float, grain: float, count: int) -> Floats:
    """Return the weights (count, N) of a cubic B-spline's knots at N positions."""
    at = np.clip((np.asarray(axis, np.float64) + reach) / grain + 1, 1, count - 2.001)
    gaps = np.abs(np.arange(count)[:, None] - at[None, :])
    near = 2 / 3 - gaps**2 + gaps**3 / 2
    far = np.clip(2 - gaps, 0, None) ** 3 / 6
    return np.where(gaps < 1, near, far).astype(np.float32)


def curve(points: Sequence[Point], count: int) -> NDArray[np.float64]:
    """Return `count` points, (count, 3), evenly along a smooth curve through `points` (Catmull-Rom).

    >>> curve([(0, 0, 0), (1, 0, 0), (2, 0, 0)], 5)[:, 0].round(2).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    padded = extended(np.array(points, float))
    steps = np.linspace(0, 1, 17)[:-1, None]
    quads = zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True)
    pieces = [catmull_rom(*quad, steps) for quad in quads]
    fine = np.concatenate([*pieces, padded[-2:-1]])
    run = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    positions = np.linspace(0, run[-1], count)
    return np.stack([np.interp(positions, run, fine[:, axis]) for axis in range(3)], axis=1)
