"""The abdomen of a pancreas phantom: the positions of a subject's organs, in the order of painting, and its
lesions by the grade: cysts and a duct, or one bright ball.

Positions are in millimetres from the middle of the body at the height of the pancreas, in the order right, front, up
(RAS).

Shapes are in millimetres of the patient's space; they are painted onto the grid of a scan, with smooth noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import Random, catmull_rom, extended, stream

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
class _Ellipsoid:
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
class _Tube:
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


# The signal of a tissue on T1 and T2 without fat suppression, relative to fat on T1 and fluid on T2; not measured.
TISSUES: dict[str, tuple[float, float]] = {
    "skin": (0.42, 0.30), "fat": (0.95, 0.66), "muscle": (0.36, 0.17), "marrow": (0.60, 0.40), "bone": (0.08, 0.05),
    "disc": (0.34, 0.34), "fluid": (0.13, 1.00), "cord": (0.40, 0.42), "liver": (0.53, 0.27), "bile": (0.26, 0.97),
    "spleen": (0.36, 0.50), "cortex": (0.46, 0.56), "medulla": (0.33, 0.70), "pancreas": (0.63, 0.38),
    "blood": (0.19, 0.06), "vein": (0.27, 0.13), "bowel": (0.40, 0.33), "gas": (0.02, 0.02), "lung": (0.05, 0.04),
    "stool": (0.46, 0.26), "wall": (0.50, 0.24), "nodule": (0.80, 0.30), "lesion": (0.95, 1.00),
}  # fmt: skip
# The middle line of the pancreas from head to tail, and its radius there.
PANCREAS: tuple[Point, ...] = (
    *((29.0, 4.0, -18.0), (33.0, 11.0, -9.0), (23.0, 22.0, -1.0), (3.0, 30.0, 4.0)),
    *((-22.0, 29.0, 7.0), (-46.0, 17.0, 10.0), (-70.0, 2.0, 13.0)),
)
THICKNESS = (11.0, 16.0, 11.5, 10.0, 11.5, 10.5, 7.0)
PIECES = 22
RIB = 30.0
# The gate of the liver, which it does not fill.
PORTA = _Ellipsoid((4.0, 8.0, -14.0), (64.0, 36.0, 46.0))


@dataclass(frozen=True)
class Tissue:
    """A shape of one tissue; `inside` names the boundary that it does not cross: "cavity" or "room" (of the liver)."""

    name: str
    shape: Shape
    inside: str = ""


@dataclass(frozen=True)
class Abdomen:
    """One subject: `trunk` is the skin, `before` and `after` are painted before and after the pancreas.

    `signals` are the signals of the tissues on T1 and T2.
    """

    number: int
    name: str
    sex: str
    age: int
    trunk: Trunk
    flesh: Trunk
    cavity: Trunk
    before: tuple[Tissue, ...]
    pancreas: _Tube
    after: tuple[Tissue, ...]
    signals: dict[str, tuple[float, float]]


@lru_cache(maxsize=4)
def abdomen(seed: int, number: int) -> Abdomen:
    """Return subject `number` (from 0) of the cohort with this seed; it depends on neither the grade nor the cohort."""
    random = stream(seed, "abdomen", number)
    sex = "M" if random.random() < 0.42 else "F"
    age = int(np.clip(round(random.normal(65.3, 11.9)), 30, 92))
    build, fat = random.uniform(0.94, 1.05), random.uniform(11, 30)
    wide, front, back = 147 * build, 98 * build, 104.0
    flesh = Trunk(wide, front, back)
    trunk = Trunk(wide + fat, front + 0.9 * fat, back + 0.45 * fat)
    cavity = Trunk(wide - 9, front - 9, 88.0)
    line = curve([_moved(random, point, 2.0) for point in PANCREAS], PIECES)
    thick = np.interp(np.linspace(0, 1, PIECES), np.linspace(0, 1, len(THICKNESS)), THICKNESS)
    thick = thick * random.uniform(0.92, 1.1)
    points = tuple(map(tuple, line.tolist()))
    pancreas = _Tube(points, tuple(thick.tolist()))
    before = (*_frame(random, flesh), *_solid(random), *_bowel(random), *_vessels(random))
    behind = tuple((x, y - 0.9 * r, z + 1.0) for (x, y, z), r in zip(points[8:], pancreas.radii[8:], strict=True))
    after = (
        Tissue("vein", _Tube(behind[::2], (3.4,) * len(behind[::2]))),
        Tissue("vein", _Tube(((11.0, 12.0, -120.0), (12.0, 14.0, 0.0), (38.0, 18.0, 40.0)), (5.6, 5.6, 6.0))),
        Tissue("blood", _Tube(((-5.0, -6.0, 12.0), (-2.0, 6.0, -2.0), (1.0, 11.0, -120.0)), (3.4, 3.4, 3.2))),
    )
    vary = stream(seed, "tissues", number).normal(1, 0.04, (len(TISSUES), 2))
    signals = {name: (t1 * a, t2 * b) for (name, (t1, t2)), (a, b) in zip(TISSUES.items(), vary.tolist(), strict=True)}
    name = f"P{number + 1:04d}"
    return Abdomen(number, name, sex, age, trunk, flesh, cavity, before, pancreas, after, signals)


def _moved(random: Random, point: Point, far: float) -> Point:
    return tuple((np.asarray(point) + random.normal(0, far, 3) * (1, 1, 0.5)).tolist())


def _organ(random: Random, centre: Point, radii: Point, turn: float = 0.0, far: float = 3.0) -> _Ellipsoid:
    radii = tuple((np.asarray(radii) * random.normal(1, 0.05, 3)).tolist())
    return _Ellipsoid(_moved(random, centre, far), radii, turn + random.normal(0, 0.06))


def _frame(random: Random, flesh: Trunk) -> Iterator[Tissue]:
    """Spine, muscles of the back, and ribs."""
    for side in (1, -1):
        yield Tissue("muscle", _Tube(((side * 28.0, -50.0, 30.0), (side * 46.0, -48.0, -150.0)), (9.0, 25.0)))
        yield Tissue("muscle", _Ellipsoid((side * 31.0, -82.0, -20.0), (30.0, 19.0, 700.0), side * 0.12))
        yield Tissue("muscle", _Ellipsoid((side * 62.0, -76.0, -40.0), (17.0, 8.0, 60.0), side * 0.3))
        for height in np.arange(-75, 150, RIB) + random.uniform(-8, 8):
            for turn in np.arange(-55, 65, 20) + random.uniform(-4, 4):
                angle = np.deg2rad(turn)
                # Ribs descend towards the front.
                z = height - 0.9 * (turn + 55)
                if z < -40:
                    continue
                deep, bend = (flesh.front if angle > 0 else flesh.back), flesh.power
                c, s = np.cos(angle), np.sin(angle)
                form = (c**bend + abs(s) ** bend) ** (-1 / bend)
                x, y = side * (flesh.wide * form * c - 5 * c), deep * form * s - 5 * s
                normal = side * c ** (bend - 1) / flesh.wide, np.sign(s) * abs(s) ** (bend - 1) / deep
                tangent = np.arctan2(normal[0], -normal[1])
                position = (x, y, z)
                yield Tissue("bone", _Ellipsoid(position, (10.0, 5.0, 7.0), tangent))
                yield Tissue("marrow", _Ellipsoid(position, (7.5, 2.8, 5.0), tangent))
    first = random.uniform(-18, 18)
    yield Tissue("bone", _Tube(((0.0, -44.0, -170.0), (0.0, -44.0, 170.0)), (21.5, 21.5)))
    yield Tissue("bone", _Ellipsoid((0.0, -68.0, 0.0), (22.0, 14.0, 400.0)))
    yield Tissue("marrow", _Tube(((0.0, -43.5, -170.0), (0.0, -43.5, 170.0)), (19.5, 19.5)))
    for middle in np.arange(first - 180, 170, 36):
        yield Tissue("disc", _Ellipsoid((0.0, -43.5, middle), (20.5, 20.5, 5.5)))
        yield Tissue("bone", _Ellipsoid((0.0, -88.0, middle + 6), (4.5, 17.0, 14.0)))
        yield Tissue("marrow", _Ellipsoid((0.0, -88.0, middle + 6), (2.6, 14.0, 11.0)))
        for side in (1, -1):
            yield Tissue("bone", _Ellipsoid((side * 30.0, -70.0, middle + 14), (16.0, 5.0, 6.0)))
    yield Tissue("fluid", _Tube(((0.0, -70.0, -170.0), (0.0, -70.0, 170.0)), (9.0, 9.0)))
    yield Tissue("cord", _Tube(((0.0, -71.0, -60.0), (0.0, -70.0, 170.0)), (3.0, 5.0)))


def _solid(random: Random) -> Iterator[Tissue]:
    """Liver with its veins, gall bladder, spleen, kidneys (some with a harmless cyst) and lungs."""
    yield Tissue("liver", _organ(random, (80.0, 8.0, 38.0), (66.0, 84.0, 92.0)), "room")
    yield Tissue("liver", _organ(random, (8.0, 50.0, 42.0), (58.0, 34.0, 46.0)), "room")
    porta = _moved(random, (40.0, 18.0, 40.0), 2.0)
    for end in ((92.0, 40.0, 50.0), (96.0, -20.0, 44.0), (10.0, 56.0, 52.0), (100.0, 10.0, 14.0)):
        yield Tissue("vein", _Tube((porta, _moved(random, end, 8.0)), (5.0, 2.2)), "cavity")
    for end in ((110.0, 0.0, 78.0), (70.0, 50.0, 76.0), (100.0, -30.0, 64.0)):
        yield Tissue("vein", _Tube(((24.0, -6.0, 92.0), _moved(random, end, 8.0)), (5.0, 2.0)), "cavity")
    yield Tissue("bile", _organ(random, (60.0, 50.0, 0.0), (14.0, 19.0, 22.0), 0.5, far=4.0), "cavity")
    yield Tissue("spleen", _organ(random, (-106.0, -26.0, 42.0), (27.0, 46.0, 48.0), -0.25), "cavity")
    for side, height in ((1.0, -16.0), (-1.0, -4.0)):
        whole = _organ(random, (side * 64.0, -40.0, height), (24.0, 31.0, 54.0), side * -0.35)
        (x, y, z), (a, b, c) = whole.centre, whole.radii
        yield Tissue("cortex", whole, "cavity")
        for turn, up in product(range(6), (-0.55, 0.0, 0.55)):
            angle, wide = turn * np.pi / 3 + up, np.sqrt(1 - up * up)
            position = x + 0.56 * a * wide * np.cos(angle), y + 0.56 * b * wide * np.sin(angle), z + up * c
            yield Tissue("medulla", _Ellipsoid(position, (5.5, 6.0, 9.0)))
        yield Tissue("fat", _Ellipsoid((x - side * 9, y + 4.0, z), (11.0, 10.0, 26.0), whole.turn))
        yield Tissue("fluid", _Ellipsoid((x - side * 6, y + 3.0, z), (5.0, 5.0, 16.0)))
        # Cysts of kidneys are common and independent of the pancreas.
        if random.random() < 0.35:
            radius = random.uniform(5, 12)
            position = x + side * 0.9 * a, y - 0.35 * b, z + random.uniform(-20, 20)
            yield Tissue("fluid", _Ellipsoid(position, (radius, radius, radius)))
        yield Tissue("lung", _Ellipsoid((side * 84.0, -22.0, 128.0), (56.0, 58.0, 58.0)), "cavity")


def _bowel(random: Random) -> Iterator[Tissue]:
    """Stomach, duodenum, colon and small bowel: walls and contents."""
    stomach = _organ(random, (-56.0, 44.0, 50.0), (46.0, 33.0, 40.0), 0.3)
    x, y, z = stomach.centre
    a, b, c = stomach.radii
    yield Tissue("bowel", stomach, "cavity")
    content = "fluid" if random.random() < 0.5 else "stool"
    yield Tissue(content, _Ellipsoid((x, y, z), (a - 5, b - 5, c - 5), stomach.turn))
    yield Tissue("gas", _Ellipsoid((x, y + 0.5 * b, z), (0.6 * a, 0.33 * b, 0.6 * c), stomach.turn))
    loop = ((36.0, 32.0, 12.0), (54.0, 22.0, 2.0), (57.0, 4.0, -20.0), (46.0, -2.0, -44.0), (0.0, 0.0, -54.0))
    yield Tissue("bowel", _Tube(loop, (10.0, 10.5, 10.5, 10.0, 9.0)))
    yield Tissue("stool" if random.random() < 0.75 else "fluid", _Tube(loop, (5.0, 6.0, 6.0, 5.0, 4.0)))
    across = (
        (104.0, 18.0, -34.0),
        (50.0, 66.0, -40.0),
        (-10.0, 72.0, -44.0),
        (-60.0, 62.0, -28.0),
        (-108.0, 20.0, -6.0),
    )
    rising, falling = ((106.0, 4.0, -36.0), (102.0, 2.0, -170.0)), ((-112.0, 2.0, -8.0), (-106.0, -6.0, -170.0))
    colon = tuple(_moved(random, position, 3.0) for position in across)
    for way, thick in ((rising, 23.0), (colon, 17.0), (falling, 16.0)):
        yield Tissue("bowel", _Tube(way, (thick,) * len(way)), "cavity")
        yield Tissue("stool", _Tube(way, (thick - 4,) * len(way)), "cavity")
        up = tuple((x, y + 0.45 * thick, z) for x, y, z in way)
        yield Tissue("gas", _Tube(up, (0.36 * thick,) * len(way)), "cavity")
    for low, high in [((-78, 12, -120), (72, 66, -42))] * 26 + [((-118, 8, -42), (-78, 58, 14))] * 9:
        centre, radii, turn = tuple(random.uniform(low, high)), random.uniform(10, 17, 3), random.uniform(0, np.pi)
        # Loops beside the pancreas are collapsed or contain gas: bright water would look like a cyst.
        wet = "fluid" if high[2] < 0 else "stool"
        kind = ("stool", wet, "gas")[int(random.choice(3, p=(0.55, 0.35, 0.1)))]
        yield Tissue("bowel", _Ellipsoid(centre, tuple(radii), turn), "cavity")
        yield Tissue(kind, _Ellipsoid(centre, tuple(radii - 4), turn), "cavity")


def _vessels(random: Random) -> Iterator[Tissue]:
    """The aorta, the inferior vena cava and the vessels of the kidneys."""
    thick = random.uniform(8.5, 11)
    yield Tissue("wall", _Tube(((-9.0, -11.0, 170.0), (-5.0, -12.0, -170.0)), (thick + 1.2, thick + 0.4)))
    yield Tissue("blood", _Tube(((-9.0, -11.0, 170.0), (-5.0, -12.0, -170.0)), (thick, thick - 1)))
    yield Tissue("vein", _Ellipsoid((21.0, -12.0, 0.0), (12.0, 8.5, 600.0), 0.2))
    yield Tissue("vein", _Tube(((22.0, -12.0, -8.0), (50.0, -36.0, -14.0)), (4.0, 3.5)))
    yield Tissue("vein", _Tube(((18.0, -3.0, -6.0), (-8.0, 2.0, -5.0), (-48.0, -34.0, -4.0)), (3.5, 3.5, 3.5)))


Lesion = Literal["cysts", "planted"]

GRADES = ("normal", "low", "high")
# Radius of the duct, mm: a normal duct is barely visible, a high-grade duct is clearly dilated.
DUCT = {"normal": (0.9, 1.3), "low": (0.9, 1.6), "high": (3.0, 4.6)}
# Radius of the largest cyst and thickness of its wall, mm.
CYST = {"low": (5.0, 8.0), "high": (11.0, 17.0)}
WALL = {"low": (0.4, 0.8), "high": (2.4, 3.6)}
# Radius of the planted lesion, mm: two sizes that do not overlap. It is no brighter than fat on T1 and fluid on T2;
# otherwise it would widen the intensity range of its scan and change all other tissues once scans are scaled.
PLANTED = {"low": (7.0, 8.0), "high": (18.0, 20.0)}
# The largest distance of the planted lesion from the middle of the pancreas, in plane and in height, mm.
AROUND, ABOUT = 34.0, 6.0
# Cysts lie between these fractions of the way from head to tail.
SEATS = (0.14, 0.86)


@dataclass(frozen=True)
class _Cyst:
    """Fluid in a wall, with or without a solid nodule."""

    fluid: _Ellipsoid
    wall: _Ellipsoid
    nodule: _Ellipsoid | None


@dataclass(frozen=True)
class Findings:
    """The lesions of a subject; `duct` runs along the pancreas."""

    duct: _Tube
    cysts: tuple[_Cyst, ...] = ()
    planted: _Ellipsoid | None = None


def findings(seed: int, patient: Abdomen, grade: str, lesion: Lesion = "cysts") -> Findings:
    """Return the lesions of a subject with this grade; normal subjects have only a thin duct.

    Low grade is one or two small cysts with a thin wall. High grade is a large cyst with a thick wall and a nodule on
    it, sometimes a small cyst beside it, and a wide duct. `lesion="planted"` draws a normal pancreas, and for low and
    high one bright ball, small or large, at a random position around it.
    """
    random = stream(seed, "cysts", patient.number)
    wide = random.uniform(*DUCT["normal" if lesion == "planted" else grade])
    inner = patient.pancreas.points[2:-2]
    duct = _Tube(inner, tuple(np.linspace(wide, 0.75 * wide, len(inner)).tolist()))
    if grade == "normal":
        return Findings(duct)
    if lesion == "planted":
        return Findings(duct, planted=_planted(stream(seed, "planted", patient.number), patient, grade))
    seats = random.uniform(*SEATS, 2)
    while abs(seats[0] - seats[1]) < 0.35:
        seats = random.uniform(*SEATS, 2)
    cysts = [_cyst(random, patient, grade, seats[0])]
    if random.random() < 0.45:
        cysts.append(_cyst(random, patient, "low", seats[1]))
    return Findings(duct, tuple(cysts))


def _cyst(random: Random, patient: Abdomen, grade: str, seat: float) -> _Cyst:
    radius, thick = random.uniform(*CYST[grade]), random.uniform(*WALL[grade])
    line = np.array(patient.pancreas.points)
    position = [np.interp(seat * (len(line) - 1), np.arange(len(line)), line[:, axis]) for axis in range(3)]
    centre = tuple(position + random.normal(0, 0.22, 3) * np.array((radius, radius, 0.3 * radius)))
    radii, turn = radius * random.uniform(0.88, 1.12, 3), random.uniform(0, np.pi)
    fluid, wall = _Ellipsoid(centre, tuple(radii), turn), _Ellipsoid(centre, tuple(radii + thick), turn)
    if grade != "high":
        return _Cyst(fluid, wall, None)
    angle, size = random.uniform(0, 2 * np.pi), random.uniform(0.38, 0.5) * radius
    far = radius - 0.75 * size
    middle = centre[0] + far * np.cos(angle), centre[1] + far * np.sin(angle), centre[2]
    return _Cyst(fluid, wall, _Ellipsoid(middle, (size, 0.85 * size, 1.2 * size), angle))


def _planted(random: Random, patient: Abdomen, grade: str) -> _Ellipsoid:
    x, y, z = np.mean(patient.pancreas.points, axis=0)
    angle, far = random.uniform(0, 2 * np.pi), AROUND * np.sqrt(random.random())
    radius = random.uniform(*PLANTED[grade])
    centre = x + far * np.cos(angle), y + far * np.sin(angle), z + random.uniform(-ABOUT, ABOUT)
    return _Ellipsoid(centre, (radius, radius, radius))
