"""The constant anatomy of a phantom chest: outlines of body, lungs, heart and bones, and the tree of vessels.

Lengths are in body units, see `canvas`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import Random, catmull_rom, extended, stream

Floats = NDArray[np.float32]
Points = NDArray[np.float64]  # (N, 2): x, y

FRACTION = 4  # outlines are drawn to a sixteenth of a pixel


def smooth(points: Points, *, closed: bool, steps: int = 8) -> Points:
    """Return a curve through `points` (Catmull-Rom) with `steps` segments between two of them.

    >>> smooth(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), closed=False, steps=2)[:, 0].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    padded = np.vstack([points[-1:], points, points[:2]]) if closed else extended(points)
    a, b, c, d = (padded[i : len(padded) - 3 + i, None, :] for i in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    flat: Points = catmull_rom(a, b, c, d, t).reshape(-1, 2)
    return flat if closed else np.vstack([flat, points[-1:]])


def circle(x: float, y: float, radius: float) -> Points:
    """Return a closed outline, a little wider than high, around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack([x + radius * np.cos(angle), y + 0.85 * radius * np.sin(angle)])


def band(line: Points, width: float) -> Points:
    """Return the outline of a line drawn `width` body units wide.

    >>> band(np.array([[0.0, 0.0], [1.0, 0.0]]), 0.2).round(2).tolist()
    [[0.0, 0.1], [1.0, 0.1], [1.0, -0.1], [0.0, -0.1]]
    """
    ends = extended(line)
    along = ends[2:] - ends[:-2]
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
    across = np.column_stack([-along[:, 1], along[:, 0]]) * (width / 2)
    return np.vstack([line + across, (line - across)[::-1]])


def breathed(points: Points, depth: float) -> Points:
    """Return `points` with the low ones moved down by up to `depth` body units, as in a deeper breath.

    >>> breathed(np.array([[0.1, -0.4], [0.1, 0.3]]), 0.02)[:, 1].round(3).tolist()
    [-0.4, 0.32]
    """
    share = np.clip((points[..., 1] + 0.25) / 0.45, 0, 1)
    moved: Points = points.copy()
    moved[..., 1] += depth * share * share * (3 - 2 * share)
    return moved


class Canvas:
    """A film of `shape` (H, W): `forward` (2, 3) maps body units to its pixels, `inverse` back.

    Layers are `(H, W) uint8` in 0-255; `scale` is pixels a body unit.
    """

    def __init__(self, forward: Points, scale: float, shape: tuple[int, int]) -> None:
        self.forward, self.scale, self.shape = forward, scale, shape
        self.inverse: Points = cv2.invertAffineTransform(forward).astype(np.float64, copy=False)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        placed = points @ self.forward[:, :2].T + self.forward[:, 2]
        return np.rint(placed * 2**FRACTION).astype(np.int32)

    def fill(self, *outlines: Points) -> NDArray[np.uint8]:
        """Draw filled outlines."""
        layer = np.zeros(self.shape, np.uint8)
        for outline in outlines:
            cv2.fillPoly(layer, [self._pixels(outline)], 255, cv2.LINE_AA, FRACTION)
        return layer

    def bands(self, lines: list[tuple[Points, float, int]]) -> NDArray[np.uint8]:
        """Draw lines of a width in body units and a brightness in 0-255, later ones over earlier ones."""
        layer = np.zeros(self.shape, np.uint8)
        for line, width, bright in lines:
            cv2.fillPoly(layer, [self._pixels(band(line, width))], bright, cv2.LINE_AA, FRACTION)
        return layer

    def threads(self, lines: Points, widths: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Draw many thin lines; one thinner than a pixel is fainter instead."""
        layer = np.zeros(self.shape, np.uint8)
        pixels = self._pixels(lines)
        thick = widths * self.scale
        faint = np.minimum(np.ceil(thick / thick.max() * 8), 8).astype(int)
        for step in range(1, 9):
            of_width = faint == step
            if of_width.any():
                wide = max(round(float(thick[of_width].mean())), 1)
                bright = round(255 * min(1.0, float(thick[of_width].mean()) / 2.5) ** 0.8)
                cv2.polylines(layer, list(pixels[of_width]), False, bright, wide, cv2.LINE_AA, FRACTION)
        return layer

    def soft(self, layer: NDArray[np.uint8], blur: float = 0.0) -> Floats:
        """Return a layer in 0-1, blurred; the width of the blur is in body units."""
        if blur * self.scale > 0.3:
            layer = cv2.GaussianBlur(layer, (0, 0), blur * self.scale).astype(np.uint8, copy=False)
        return layer * np.float32(1 / 255)

    def rounded(self, layer: NDArray[np.uint8], reach: float) -> NDArray[np.uint8]:
        """Return an outline with its notches and corners of about `reach` body units filled and cut."""
        pixels = max(reach * self.scale, 1.0)
        blurred = cv2.GaussianBlur(layer, (0, 0), pixels).astype(np.float32)
        return np.clip((blurred - 127.5) * pixels + 127.5, 0, 255).astype(np.uint8)

    def rows(self) -> Floats:
        """Return the height of each row in body units, `(H, 1)`, as in the middle of the film."""
        height, width = self.shape
        coordinates = self.inverse[1, 1] * np.arange(height) + self.inverse[1, 0] * width / 2 + self.inverse[1, 2]
        return coordinates.astype(np.float32)[:, None]

    def columns(self) -> Floats:
        """Return the x of each column in body units, `(1, W)`, as in the middle of the film."""
        height, width = self.shape
        coordinates = self.inverse[0, 0] * np.arange(width) + self.inverse[0, 1] * height / 2 + self.inverse[0, 2]
        return coordinates.astype(np.float32)[None, :]

    def depth(self, layer: NDArray[np.uint8]) -> Floats:
        """Return the distance of each pixel inside an outline from it, in body units."""
        inside = cv2.distanceTransform((layer > 127).astype(np.uint8), cv2.DIST_L2, 5)
        return inside.astype(np.float32, copy=False) * np.float32(1 / self.scale)


SEXES = ("F", "M")
YOUNGEST, OLDEST = 18, 90
SIDES = (-1, 1)  # the subject's right lies on the left of the picture


# The parts of a film, and the range of the density of each.
PARTS = (
    *("body", "air", "heart", "spine", "ribs", "front", "clavicles", "scapulae"),
    *("abdomen", "breasts", "vessels", "texture", "unevenness", "across", "down"),
)
LEAST = [0.50, 0.78, 0.24, 0.03, 0.08, 0.3, 0.06, 0.015, 0.18, 0.03, 0.07, 0.006, 0.03, -0.10, -0.14]
MOST = [0.64, 1.0, 0.34, 0.09, 0.15, 0.7, 0.13, 0.045, 0.34, 0.10, 0.13, 0.014, 0.075, 0.10, 0.14]


@dataclass(frozen=True)
class Rib:
    """One rib from the front: its steep posterior and faint anterior arc, its width and its visibility."""

    behind: Points
    before: Points
    width: float
    clear: float


@dataclass(frozen=True)
class Chest:
    """One phantom subject: outlines closed, lines open, all `(N, 2)` in body units.

    `vessels` is `(V, K, 2)` with `calibre` `(V,)`; `lungs` are right, left; `leads` are wires on the skin.
    `densities` has the density of each part on the film; a thick body without lungs has about 1.
    """

    number: int
    name: str
    sex: str
    age: int
    torso: Points
    arms: tuple[Points, ...]
    arm_width: float
    lungs: tuple[Points, Points]
    heart: Points
    mediastinum: Points
    abdomen: Points
    spine: Points
    trachea: Points
    clavicles: tuple[Points, ...]
    scapulae: tuple[Points, ...]
    breasts: tuple[Points, ...]
    bubble: Points | None
    ribs: tuple[Rib, ...]
    hila: Points
    vessels: Points
    calibre: NDArray[np.float64]
    leads: tuple[Points, ...]
    densities: dict[str, float]


def chest(seed: int, number: int) -> Chest:
    """Return subject `number` (from 0) of the cohort with this seed, independent of the cohort's size."""
    random = stream(seed, "chest", number)
    u = random.uniform
    sex, age = SEXES[int(random.integers(2))], int(random.integers(YOUNGEST, OLDEST + 1))
    wide, high = u(0.85, 1.12), u(0.87, 1.12)
    top, floor = u(-0.41, -0.34) * high, u(0.08, 0.28) * high
    middle, apex = u(0.045, 0.075), u(0.115, 0.165)
    # The heart and vessels of a subject who leans are visible beside the spine.
    lean = u(-0.035, 0.035)
    offset = np.array([lean, 0.0])
    tilt = u(-0.03, 0.03)
    breadth = wide * u(0.345, 0.385)
    width = {side: breadth + u(-0.012, 0.012) for side in SIDES}
    floors = {-1: floor, 1: floor + u(-0.02, 0.06)}
    tops = {side: top + side * tilt * 0.6 + u(-0.008, 0.008) for side in SIDES}
    lungs = {side: _lung(random, side, tops[side], floors[side], width[side], apex, middle) for side in SIDES}
    fat = u(0.02, 0.13)
    shoulder = u(-0.37, -0.28)
    arm_out, arm_width = u(0.03, 0.20), u(0.05, 0.075)
    hila = np.array([[lean + side * (middle + u(0.02, 0.035)), u(-0.08, 0.01) - 0.012 * side] for side in SIDES])
    vessels, calibre = _vessels(random, hila)
    return Chest(
        number=number,
        name=f"C{number + 1:04d}",
        sex=sex,
        age=age,
        torso=_torso(random, width, fat, shoulder),
        arms=tuple(_arm(random, side, width[side] + fat, shoulder, arm_out) for side in SIDES),
        arm_width=arm_width,
        lungs=(lungs[-1], lungs[1]),
        heart=_heart(random, floors, width[1]) + offset,
        mediastinum=_mediastinum(random, middle) + offset,
        abdomen=_abdomen(width, floors),
        spine=_spine(random),
        trachea=_trachea(random) + 0.6 * offset,
        clavicles=tuple(_clavicle(random, side, top, wide) for side in SIDES),
        scapulae=tuple(_scapula(random, side, width[side]) for side in SIDES),
        breasts=tuple(_breast(random, side, floor, width[side]) for side in SIDES) if sex == "F" else (),
        bubble=circle(u(0.10, 0.20), floors[1] + u(0.06, 0.09), u(0.025, 0.05)) if random.random() < 0.6 else None,
        ribs=_ribs(random, lungs, top),
        hila=hila,
        vessels=vessels,
        calibre=calibre,
        leads=_leads(random),
        densities=dict(zip(PARTS, u(LEAST, MOST).tolist(), strict=True)),
    )


def _lung(random: Random, side: int, top: float, floor: float, width: float, apex: float, middle: float) -> Points:
    u = random.uniform
    dome, long = u(0.42, 0.6) * width, floor - top
    waist = u(0.96, 1.0)  # the shape of the chest: its width at half height relative to that below
    points = [(apex - 0.065, top + 0.035), (apex, top)]
    points += [(apex + (0.8 * width - apex) * u(0.50, 0.58), top + u(0.08, 0.10) * long)]
    points += [(width * u(0.78, 0.82), top + u(0.25, 0.29) * long)]
    points += [(width * u(0.92, 0.95) * waist, top + u(0.48, 0.56) * long)]
    points += [(width * u(0.99, 1.0), top + u(0.74, 0.82) * long), (width * u(0.99, 1.01), floor + 0.02)]
    points += [(width * u(0.955, 0.975), floor + u(0.085, 0.11)), (width * 0.90, floor + u(0.065, 0.075))]
    points += [(width * 0.80, floor + u(0.02, 0.03)), (dome, floor), (0.11, floor + u(0.012, 0.03))]
    points += [(0.05, floor + u(0.04, 0.06)), (middle * 0.5, floor * 0.5), (middle * 0.6, -0.06), (middle * 0.9, -0.2)]
    return smooth(np.array(points), closed=True, steps=7) * [side, 1]


def _torso(random: Random, width: dict[int, float], fat: float, shoulder: float) -> Points:
    u = random.uniform
    neck, slope, hip = u(0.085, 0.125), u(0.03, 0.075), u(-0.02, 0.05)
    right: list[tuple[float, float]] = []
    for side in (1, -1):
        wall = width[side] + fat
        line = [(neck, -0.85), (neck, -0.56 + slope), (neck + 0.07, shoulder - 0.11), (wall * 0.88, shoulder - slope)]
        line += [(wall + 0.07, shoulder + 0.03), (wall + 0.06, shoulder + 0.15), (wall + 0.015, shoulder + 0.28)]
        line += [(wall, 0.12), (wall + hip * 0.6, 0.42), (wall + hip, 0.85)]
        right += [(side * x, y) for x, y in line[::side]]
    return smooth(np.array(right), closed=True, steps=6)


def _arm(random: Random, side: int, wall: float, shoulder: float, out: float) -> Points:
    u = random.uniform
    x = wall + 0.045
    points = [(x - 0.03, shoulder + u(0.01, 0.03)), (x + out * 0.6, shoulder + 0.17), (x + out, shoulder + 0.4)]
    points += [(x + out * u(0.9, 1.4), shoulder + 1.5)]
    return smooth(np.array(points), closed=False, steps=5) * [side, 1]


def _heart(random: Random, floors: dict[int, float], width: float) -> Points:
    """Return a tilted egg that lies on the left dome."""
    u = random.uniform
    long, short, tilt = u(0.40, 0.62) * width, u(0.28, 0.42) * width, u(0.35, 0.9)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    along, across = long * np.cos(angle), short * np.sin(angle) * (1 + 0.12 * np.cos(angle))
    x = along * np.cos(tilt) - across * np.sin(tilt) + u(0.035, 0.06)
    y = along * np.sin(tilt) + across * np.cos(tilt)
    return np.column_stack([x, y - y.max() + floors[1] + u(0.02, 0.055)])


def _mediastinum(random: Random, middle: float) -> Points:
    """Return the shadow of the great vessels, with the aorta's knob on its left."""
    u = random.uniform
    left, right, knob = middle * u(0.75, 0.95), middle * u(0.85, 1.1), u(-0.22, -0.16)
    bulge = u(1.1, 1.5)
    points = [(-0.055, -0.62), (-right * 0.95, -0.40), (-right * 0.85, -0.25), (-right, -0.12), (-right * 1.4, 0.04)]
    points += [(-0.055, 0.36), (0.06, 0.36), (left * 2.1, 0.06), (left * 1.6, -0.05), (left * bulge, knob + 0.06)]
    points += [(left * bulge * 1.08, knob + 0.015), (left * bulge, knob - 0.025), (left * 0.85, knob - 0.06)]
    points += [(left * 0.8, -0.38), (0.055, -0.62)]
    return smooth(np.array(points), closed=True, steps=6)


def _abdomen(width: dict[int, float], floors: dict[int, float]) -> Points:
    """Return the outline below the diaphragm: the lower edge of both lungs, down to below the picture."""
    line = [(-width[-1] - 0.3, floors[-1] + 0.30), (-width[-1] * 1.02, floors[-1] + 0.13)]
    line += [(x * -width[-1], floors[-1] + y) for x, y in ((0.93, 0.075), (0.8, 0.03), (0.5, 0.0), (0.2, 0.03))]
    line += [(0.0, max(floors.values()) + 0.05)]
    line += [(x * width[1], floors[1] + y) for x, y in ((0.2, 0.03), (0.5, 0.0), (0.8, 0.03), (0.93, 0.075))]
    line += [(width[1] * 1.02, floors[1] + 0.13), (width[1] + 0.3, floors[1] + 0.30)]
    edge = smooth(np.array(line), closed=False, steps=5)
    return np.vstack([edge, [[1.2, 1.2], [-1.2, 1.2]]])


def _trachea(random: Random) -> Points:
    u = random.uniform
    end, lean = u(-0.17, -0.11), u(-0.008, 0.012)
    return smooth(np.array([(lean * 0.3, -0.75), (lean * 0.6, -0.4), (-lean, end)]), closed=False, steps=5)


def _breast(random: Random, side: int, floor: float, width: float) -> Points:
    u = random.uniform
    x, y, across, down = width * u(0.6, 0.75), floor + u(-0.08, 0.03), u(0.10, 0.16), u(0.10, 0.16)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    low = np.where(np.sin(angle) > 0, 1.0, 1.35)
    return np.column_stack([side * (x + across * np.cos(angle)), y + down * low * np.sin(angle)])


def _vessels(random: Random, hila: Points) -> tuple[Points, NDArray[np.float64]]:
    """Return lines that fan out from the hila in three generations, `(V, 6, 2)`, and their calibres `(V,)`."""
    start, angle, calibre = [], [], []
    for side, hilum in zip(SIDES, hila, strict=True):
        count = int(random.integers(8, 11))
        fan = np.linspace(-1.35, 1.3, count) + random.normal(0, 0.12, count)
        start.append(hilum + random.normal(0, 0.008, (count, 2)))
        angle.append(fan if side > 0 else np.pi - fan)
        calibre.append(random.uniform(0.006, 0.0095, count))
    at, direction, calibres = np.concatenate(start), np.concatenate(angle), np.concatenate(calibre)
    lines, widths = [], []
    for generation, length in enumerate((0.10, 0.09, 0.075, 0.055)):
        reach = length * random.uniform(0.7, 1.25, len(at))
        bend = random.normal(0, 0.5, len(at))
        t = np.linspace(0, 1, 6)
        heading = direction[:, None] + bend[:, None] * t
        steps = (reach / 5)[:, None, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
        line = at[:, None, :] + np.concatenate([np.zeros((len(at), 1, 2)), np.cumsum(steps[:, :-1], axis=1)], axis=1)
        lines.append(line)
        widths.append(calibres)
        if generation == 3:
            break
        split = random.uniform(0.2, 0.55, len(at))
        at = np.concatenate([line[:, -1], line[:, -1], line[:, 2 + generation % 2]])
        turn = heading[:, -1]
        direction = np.concatenate([turn + split, turn - random.uniform(0.2, 0.55, len(split)), turn + 1.6 * split])
        calibres = np.concatenate([calibres * 0.68, calibres * 0.62, calibres * 0.5])
    return np.concatenate(lines), np.concatenate(widths)


def _leads(random: Random) -> tuple[Points, ...]:
    """Return one or two wires that lie on the chest, in one subject of four."""
    if random.random() > 0.25:
        return ()
    shapes = []
    for _ in range(int(random.integers(1, 3))):
        side, ends = random.choice(SIDES), random.uniform([0.1, -0.2], [0.34, 0.2])
        begin = np.array([random.uniform(0.05, 0.6), -0.7 if random.random() < 0.6 else 0.8])
        t = np.linspace(0, 1, 5)[:, None]
        line = begin + (ends - begin) * t + random.normal(0, 0.05, (5, 2)) * np.sin(np.pi * t)
        shapes.append(smooth(line * [side, 1], closed=False, steps=6))
    return tuple(shapes)


def _clavicle(random: Random, side: int, top: float, wide: float) -> Points:
    u = random.uniform
    inner, lift = top + u(0.105, 0.155), u(0.03, 0.10)
    points = [(u(0.028, 0.042), inner), (0.13 * wide, inner - 0.012 - lift * 0.25)]
    points += [(0.24 * wide, inner - 0.022 - lift * 0.7), (0.33 * wide, inner - 0.012 - lift * 0.9)]
    points += [(0.39 * wide, inner + 0.006 - lift * 0.9)]
    return smooth(np.array(points), closed=False, steps=5) * [side, 1]


def _scapula(random: Random, side: int, width: float) -> Points:
    u = random.uniform
    x, y = width * u(0.9, 1.06), u(-0.34, -0.28)
    points = [(x - 0.03, y), (x + 0.03, y - 0.03), (x + 0.10, y), (x + 0.06, y + 0.13), (x + 0.01, y + u(0.24, 0.30))]
    points += [(x - 0.025, y + 0.14)]
    return smooth(np.array(points), closed=True, steps=5) * [side, 1]


def _spine(random: Random) -> Points:
    y = np.linspace(-0.8, 0.9, 24)
    bend, phase = random.uniform(-0.014, 0.014), random.uniform(0, 2 * np.pi)
    return np.column_stack([bend * np.sin(2.6 * y + phase) - bend * np.sin(phase), y])


def _ribs(random: Random, lungs: dict[int, Points], top: float) -> tuple[Rib, ...]:
    """Return 9 to 11 pairs: each runs from the spine to the chest wall, and from there forwards and down."""
    u = random.uniform
    pairs, spacing = int(random.integers(9, 12)), u(0.066, 0.084)
    drop, bend, front, broad = u(0.05, 0.13), u(1.5, 2.6), u(0.05, 0.13), u(0.018, 0.025)
    first = top + u(-0.03, 0.01)
    t = np.linspace(0, 1, 22)
    shapes = []
    for pair in range(pairs):
        start = first + pair * spacing * (1 + 0.012 * pair)
        for side in SIDES:
            wall = np.abs(lungs[side])
            begin, down = start + u(-0.004, 0.004), drop * u(0.9, 1.1) * min(1.0, 0.45 + 0.12 * pair)
            y = begin - 0.018 * np.sin(np.pi * t) + down * t**bend
            reach = _wall_at(wall, lungs[side], y[-1]) + 0.008
            x = 0.03 + (reach - 0.03) * (1 - (1 - t) ** 1.55)
            turn = y[-1] + 0.035
            end = u(0.10, 0.15)
            back = t**0.8
            reach_front = _wall_at(wall, lungs[side], turn) + 0.008
            before = np.column_stack(
                [reach_front - (reach_front - end) * back**1.4, y[-1] + 0.012 + (front + 0.03) * back + 0.02 * t]
            )
            behind = np.column_stack([x, y])
            clear = u(0.85, 1.15) * (1 if pair else 0.7)
            shapes.append(Rib(behind * [side, 1], before * [side, 1], broad * u(0.92, 1.08), clear))
    return tuple(shapes)


def _wall_at(wall: Points, lung: Points, y: float) -> float:
    """Return the x of the lung's wall near height `y`; below its widest part, the x of that part."""
    near = wall[np.abs(lung[:, 1] - y) < 0.035, 0]
    low = lung[:, 1].max() - 0.06
    return float(wall[:, 0].max() if y > low or not len(near) else near.max())
