"""The bodies of the psoriasis phantom: a subject's constants, and the maps of the body in each photograph.

A body consists of layers; each is a set of chains of overlapping discs. Lengths are in body units. One unit is the
height of the photographed frame, which spans x in [-0.75, 0.75] and y in [-0.5, 0.5], y down. The canvas is wider, so
that the camera can be rotated and moved slightly without leaving it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from scipy.special import ndtr

from casewise.plugins.phantoms.scene import Array, Canvas, Random, grains, smooth, stream

Maps: TypeAlias = dict[str, Array]  # by name, (H, W) float32

SIZE = (576, 384)  # width, height of the canvas in pixels
UNIT = 320.0  # canvas pixels per body unit: the canvas spans 1.8 x 1.2 units
# The photographs of each region of the body.
PHOTOGRAPHS = {"upper": 4, "trunk": 2, "lower": 2}

# Skin colours (sRGB, 0-1) of the six Fitzpatrick types, light to dark; stylised, not measured.
_TONES = np.array([
    (0.95, 0.80, 0.71), (0.91, 0.74, 0.62), (0.84, 0.65, 0.51), (0.73, 0.53, 0.39), (0.58, 0.40, 0.29),
    (0.43, 0.29, 0.22),
])  # fmt: skip
_BACKDROPS = np.array([
    (0.36, 0.50, 0.66), (0.40, 0.58, 0.54), (0.62, 0.64, 0.66), (0.30, 0.36, 0.46), (0.70, 0.72, 0.70),
    (0.45, 0.52, 0.60),
])  # fmt: skip
_GARMENTS = ((0.88, 0.90, 0.93), (0.25, 0.30, 0.42), (0.55, 0.66, 0.78), (0.35, 0.36, 0.38))
_SITES = ("site-1", "site-2", "site-3")


class Subject:
    """The constants of subject `number` (from 0), independent of the cohort's size.

    Colours are sRGB in 0-1, `skin_tone` is the Fitzpatrick type 1-6, `girth` a factor, and `posture` is in [-1, 1].
    """

    def __init__(self, seed: int, number: int) -> None:
        block, index = divmod(number, 6)
        tone = int(stream(seed, "tones", block).permutation(6)[index])
        random = stream(seed, "subject", number)
        self.seed, self.number, self.name, self.skin_tone = seed, number, f"S{number + 1:02d}", tone + 1
        self.site = _SITES[int(stream(seed, "sites", number // 3).permutation(3)[number % 3])]
        other = _TONES[min(tone + 1, 5) if random.random() < 0.5 else max(tone - 1, 0)]
        self.skin = _TONES[tone] + 0.35 * random.random() * (other - _TONES[tone])
        self.backdrop = _BACKDROPS[random.integers(len(_BACKDROPS))] + random.uniform(-0.04, 0.04, 3)
        self.girth, self.posture = random.uniform(0.86, 1.16), random.uniform(-1, 1)
        self.garment = _GARMENTS[random.integers(len(_GARMENTS))]
        self.plaque_size = random.uniform(0.035, 0.075)
        photographs = [(region, n) for region, count in PHOTOGRAPHS.items() for n in range(1, count + 1)]
        self.tattooed = photographs[random.integers(len(photographs))]

    def maps(self, region: str, number: int) -> Maps:
        """Return the canvas maps of one photograph (`number` from 1), the same at every visit.

        They are those of `_rendered`, and `plaque`: distance-like field in body units, above a threshold where skin is
        covered, so that a plaque shrinks inside its own outline; `flecks`: uniform in [0, 1]; `bumps`:
        standard normal; `mottle`: normal with a deviation of 0.85; `marks`: 0 on bare skin to 0.8 in moles or a tattoo.
        """
        random, pose = stream(self.seed, "anatomy", self.number, region, number), self._pose(region, number)
        maps = _rendered(pose)
        fine, middle, coarse = (_smooth_noise(random, unit) for unit in (0.016, 0.035, 0.12))
        field = _plaque_field(random, maps["inside"], pose.sites, self.plaque_size)
        maps["plaque"] = field + 0.004 * fine + 0.009 * middle
        flecks = _smooth_noise(random, 0.009) + 0.9 * _smooth_noise(random, 0.022)
        maps["flecks"] = ndtr(flecks / np.float32(np.sqrt(1.81)))
        maps["bumps"], maps["mottle"] = _smooth_noise(random, 0.030), 0.8 * coarse + 0.3 * fine
        maps["marks"] = _marks(random, maps, tattoo=self.tattooed == (region, number))
        return maps

    def _pose(self, region: str, number: int) -> _Pose:
        """Arms: 1 left stretched, 2 right stretched, 3 and 4 the same bent; trunk and legs: 1 front, 2 back."""
        if region != "upper":
            return (_trunk if region == "trunk" else _legs)(self.girth, self.posture, back=number == 2)
        pose = (_stretched_arm if number <= 2 else _bent_arm)(self.girth, self.posture)
        if number % 2:
            return pose
        sites = [(-x, y) for x, y in pose.sites]
        return _Pose([_mirrored(layer) for layer in pose.layers], sites, creases=_mirrored(pose.creases))


class _Pose(NamedTuple):
    """Chains of (x, y, radius): layers from back to front, cloth over them, and creases; frequent sites of plaques."""

    layers: list[list[Array]]
    sites: Sequence[tuple[float, float]]
    cloth: Sequence[Array] = ()
    creases: Sequence[Array] = ()


def _mirrored(chains: Sequence[Array]) -> list[Array]:
    return [chain * (-1, 1, 1) for chain in chains]


def _chain(x: Sequence[float], y: Sequence[float], radius: Sequence[float], girth: float = 1.0) -> Array:
    return np.column_stack([x, y, np.multiply(radius, girth)])


def _hand(x: float, y: float, angle: float, spread: float, size: float = 1.0) -> list[Array]:
    """A hand whose wrist is at (x, y) and whose fingers point along `angle` (radians, 0 = right)."""
    # Along the hand, across it, and the radius: palm, four fingers, thumb.
    chains = [[(0.0, 0.0, 0.062), (0.06, 0.0, 0.068), (0.13, 0.0, 0.066)]]
    chains += [[(0.12, side, 0.030), (0.16, side * 1.12, 0.026)] for side in (-0.048, 0.048)]
    for offset, length in zip((-0.063, -0.022, 0.021, 0.060), (0.150, 0.180, 0.168, 0.125), strict=True):
        tip = offset + offset * spread
        middle = (0.13 + length * 0.55, (offset + tip) / 2, 0.021)
        chains.append([(0.13, offset, 0.023), middle, (0.13 + length, tip, 0.016)])
    chains.append([(0.02, -0.04, 0.034), (0.09, -0.115, 0.027), (0.155, -0.145, 0.020)])
    hand, cos, sin = [], np.cos(angle), np.sin(angle)
    for chain in chains:
        along, across, radius = np.transpose(chain) * size
        hand.append(_chain(x + along * cos - across * sin, y + along * sin + across * cos, radius))
    return hand


def _stretched_arm(girth: float, posture: float) -> _Pose:
    lift = 0.05 * posture
    y = (0.10, 0.09, 0.07, 0.05, 0.02 - lift, -0.01 - lift, -0.03 - 2 * lift, -0.035 - 2 * lift)
    radius = (0.185, 0.170, 0.142, 0.112, 0.115, 0.092, 0.064, 0.062)
    arm = _chain((-1.1, -0.75, -0.40, -0.17, 0.02, 0.20, 0.36, 0.40), y, radius, girth)
    hand = _hand(0.40, -0.035 - 2 * lift, -0.10 - lift, 0.5 + 0.3 * posture)
    crease = _chain((-0.15, -0.155, -0.145), (-0.02, 0.03, 0.07), (0.004, 0.004, 0.003))
    return _Pose([[arm, *hand]], ((-0.16, 0.10), (0.10, 0.05), (-0.50, 0.02)), creases=[crease])


def _bent_arm(girth: float, posture: float) -> _Pose:
    lean = 0.08 * posture
    y, radius = (0.10, 0.15, 0.22, 0.27, 0.27), (0.180, 0.165, 0.138, 0.108, 0.098)
    upper = _chain((-1.1, -0.70, -0.30, -0.02, 0.10), y, radius, girth)
    x, y = (0.12, 0.13, 0.15 + lean, 0.19 + 2 * lean, 0.195 + 2 * lean), (0.27, 0.17, 0.04, -0.13, -0.15)
    fore = _chain(x, y, (0.098, 0.108, 0.098, 0.064, 0.060), girth)
    hand = _hand(0.195 + 2 * lean, -0.14, -1.45 + lean, 0.25, 0.9)
    return _Pose([[upper], [fore, *hand]], ((0.13, 0.30), (0.12, 0.20), (-0.35, 0.22), (0.17, 0.0)))


def _trunk(girth: float, posture: float, *, back: bool) -> _Pose:
    swing, half = 0.06 * posture, 0.5 + 0.5 * girth
    y, radius = (-0.24, 0.0, 0.18, 0.42, 0.70), (0.185, 0.170, 0.165, 0.190, 0.195)
    side, still = _chain((0.14, 0.13, 0.10, 0.12, 0.13), y, radius, girth), (0.0, 0.0, 0.0)
    torso = [
        _chain(still, (-0.75, -0.50, -0.40), (0.105, 0.110, 0.150)),
        _chain((-0.27, 0.0, 0.27), (-0.33, -0.40, -0.33), (0.085, 0.120, 0.085)),
        *_mirrored([side]),
        side,
        _chain(still, (-0.20, 0.20, 0.70), (0.200, 0.190, 0.190), girth),
    ]
    shoulder, hand = 0.325 * half, 0.56 + swing
    x = (shoulder, shoulder + 0.07, 0.46 + swing / 2, hand, hand + 0.06)
    arm = _chain(x, (-0.29, -0.12, 0.12, 0.42, 0.75), (0.098, 0.092, 0.078, 0.070, 0.055), half)
    waist = _chain((-0.34, 0.0, 0.34), (0.47, 0.49, 0.47), (0.035, 0.035, 0.035))
    briefs = _chain((-0.20, 0.20), (0.70, 0.70), (0.23, 0.23))
    if back:
        middle = _chain(still, (-0.33, 0.0, 0.36), (0.003, 0.004, 0.005))
        right = [_chain((0.21, 0.15, 0.09), (-0.24, -0.13, -0.09), (0.003, 0.003, 0.002))]
        sites = ((-0.05, 0.32), (0.06, 0.33), (-0.16, -0.15), (0.18, -0.05))
    else:
        middle = _chain((0.0, 0.0), (0.235, 0.245), (0.005, 0.005))
        right = [_chain((0.23, 0.13, 0.03), (-0.10, -0.065, -0.085), (0.003, 0.003, 0.002))]
        right.append(_chain((0.20, 0.05), (-0.385, -0.365), (0.003, 0.003)))
        sites = ((0.02, 0.20), (-0.14, 0.05), (0.15, 0.28), (-0.05, -0.20))
    return _Pose([[arm, *_mirrored([arm])], torso], sites, [waist, briefs], [middle, *_mirrored(right), *right])


def _legs(girth: float, posture: float, *, back: bool) -> _Pose:
    stance, calf = 0.03 * posture, 0.100 if back else 0.092
    # The hip does not move with the stance.
    x = (0.17, *np.add((0.18, 0.19, 0.19, 0.20, 0.20, 0.20, 0.20), stance))
    y, radius = (-0.75, -0.45, -0.20, -0.07, 0.08, 0.24, 0.36, 0.39), (0.165, 0.152, 0.112, 0.092, calf, 0.068)
    leg = _chain(x, y, (*radius, 0.048, 0.050), girth)
    if back:
        foot = _chain((0.20, 0.205, 0.23), (0.40, 0.435, 0.45), (0.048, 0.050, 0.042))
        crease = _chain((0.13, 0.24), (-0.075, -0.065), (0.003, 0.003))
        sites = ((-0.20, 0.10), (0.20, 0.05), (0.18, -0.25), (-0.19, -0.20))
    else:
        foot = _chain((0.20, 0.225, 0.265, 0.285), (0.38, 0.435, 0.470, 0.480), (0.050, 0.056, 0.050, 0.036))
        crease = _chain((0.125, 0.15, 0.19, 0.23, 0.255), (-0.09, -0.03, -0.015, -0.03, -0.09), (0.003,) * 5)
        sites = ((-0.19, -0.07), (0.19, -0.07), (-0.20, 0.15), (0.21, 0.18))
    foot, crease = np.add(foot, (stance, 0, 0)), np.add(crease, (stance, 0, 0))
    shorts = _chain((-0.42, 0.42), (-0.52, -0.52), (0.13, 0.13))
    sides = [[leg, foot], _mirrored([leg, foot])]
    return _Pose(sides, sites, [shorts], [crease, *_mirrored([crease])])


def _rendered(pose: _Pose) -> Maps:
    """Draw a pose on the canvas.

    `inside`: signed distance to the outline in body units, positive on the body; `cloth`: the same for it;
    `tilt_x`, `tilt_y`: the surface's slope; `shade`: 0-1, dark in creases and under a layer in front.
    """
    inside, tilt_x, tilt_y = _layer(pose.layers[0])
    shade = np.ones_like(inside)
    for layer in pose.layers[1:]:
        distance, x, y = _layer(layer)
        front = np.clip(distance * np.float32(UNIT) + np.float32(0.5), 0, 1)
        shadow = 1 - np.float32(0.4) * np.exp(np.minimum(distance, 0) * np.float32(1 / 0.018))
        shade = shade * (1 - front) * shadow + front
        tilt_x, tilt_y = tilt_x * (1 - front) + x * front, tilt_y * (1 - front) + y * front
        inside = np.maximum(inside, distance)
    if pose.creases:
        lines = cv2.GaussianBlur((_painted(pose.creases) > 0).astype(np.float32), (0, 0), 1.8)
        shade = shade * (1 - np.float32(0.45) * np.minimum(lines, np.float32(0.5)))
    cloth = _signed_distance(_painted(pose.cloth) > 0) if pose.cloth else np.full_like(inside, -1.0)
    return {"inside": inside, "cloth": cloth, "tilt_x": tilt_x, "tilt_y": tilt_y, "shade": shade}


def _painted(chains: Sequence[Array]) -> Array:
    """The local radius of each chain (body units), dense enough to form one outline; 0 outside."""
    canvas = Canvas(np.array([[UNIT, 0, SIZE[0] / 2], [0, UNIT, SIZE[1] / 2]]), UNIT, SIZE[::-1])
    curves = []
    for chain in chains:
        points = chain.astype(np.float32)
        gaps, radius = np.hypot(*np.diff(points[:, :2], axis=0).T), np.minimum(points[1:, 2], points[:-1, 2])
        steps = np.maximum((gaps / (0.12 * radius)).astype(int), 4)
        curves.append(smooth(points, steps, least=(-np.inf, -np.inf, 0.002)))
    return canvas.discs(curves)


def _signed_distance(mask: Array) -> Array:
    within, outside = (cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, 5) for side in (mask, ~mask))
    # Both distances start at 1 beside the outline, which lies between the pixels; the blur removes the steps.
    signed = within - outside + np.where(mask, np.float32(-0.5), np.float32(0.5))
    return cv2.GaussianBlur(signed, (0, 0), 0.9) / np.float32(UNIT)


def _layer(chains: Sequence[Array]) -> tuple[Array, Array, Array]:
    """The signed distance of a layer, and the slope of its surface across and down."""
    painted = _painted(chains)
    distance = _signed_distance(painted > 0)
    radius = cv2.GaussianBlur(painted, (0, 0), 3)
    depth = np.clip(np.maximum(distance, 0) / np.maximum(radius, np.float32(0.01)), 0, 1)
    # A circular cross-section: its height is sqrt(1 - (1 - depth)^2), so its slope grows with 1 - depth.
    soft = cv2.GaussianBlur(distance, (0, 0), 3)
    across, down = (cv2.Sobel(soft, cv2.CV_32F, *way, scale=-UNIT / 8) * (1 - depth) for way in ((1, 0), (0, 1)))
    return distance, across, down


def _smooth_noise(random: Random, unit: float) -> Array:
    """Standard normal noise on the canvas whose grains are about `unit` body units wide."""
    width, height = (int(np.ceil(pixels / UNIT / unit)) + 1 for pixels in SIZE)
    noise = grains(random, (width, height), SIZE)
    return (noise - noise.mean()) / noise.std()


def _plaque_field(random: Random, inside: Array, sites: Sequence[tuple[float, float]], size: float) -> Array:
    """The maximum over discs of (radius - distance): discs on the skin, the largest on its favourite sites."""
    step = 4
    small = cv2.resize(inside, (SIZE[0] // step, SIZE[1] // step), interpolation=cv2.INTER_AREA)
    rows, columns = np.nonzero(small > 0.01)
    pick = random.integers(len(rows), size=44)
    jitter = random.uniform(-0.5, 0.5, (2, 44))
    x = ((columns[pick] + 0.5 + jitter[0]) * step - SIZE[0] / 2) / UNIT
    y = ((rows[pick] + 0.5 + jitter[1]) * step - SIZE[1] / 2) / UNIT
    radius = size * np.exp(random.normal(-0.45, 0.45, 44))
    for index, (site_x, site_y) in enumerate(sites):
        x[index], y[index] = site_x + random.normal(0, 0.025), site_y + random.normal(0, 0.025)
        radius[index] = size * random.uniform(1.0, 1.7)
    grid_y, grid_x = (((np.arange(n) + 0.5) * step - step * n / 2) / UNIT for n in small.shape)
    stretch = np.exp(random.normal(0, 0.2, 44))
    across = np.square((grid_x[None, :] - x[:, None]) * stretch[:, None]).astype(np.float32)
    along = np.square((grid_y[None, :] - y[:, None]) / stretch[:, None]).astype(np.float32)
    distance = np.sqrt(along[:, :, None] + across[:, None, :])
    field = (radius[:, None, None].astype(np.float32) - distance).max(axis=0)
    return cv2.resize(field, SIZE, interpolation=cv2.INTER_CUBIC)


def _marks(random: Random, maps: Maps, *, tattoo: bool) -> Array:
    """The darkness of 4-10 moles and of the tattoo's ring and bars, 0 on bare skin."""
    marks, inside, cloth = np.zeros(SIZE[::-1], np.float32), maps["inside"], maps["cloth"]
    rows, columns = np.nonzero((inside > 0.02) & (cloth < 0))
    for index in random.integers(len(rows), size=random.integers(4, 11)):
        radius = int(UNIT * random.uniform(0.003, 0.009) * 16)
        centre = (int(columns[index]) * 16, int(rows[index]) * 16)
        cv2.circle(marks, centre, radius, random.uniform(0.5, 0.75), -1, cv2.LINE_8, 4)
    if tattoo:
        rows, columns = np.nonzero((inside > 0.045) & (cloth < -0.06))
        index = random.integers(len(rows))
        centre, reach = (int(columns[index]), int(rows[index])), 0.038 * UNIT
        cv2.circle(marks, centre, int(reach), 0.8, 3)
        for angle in random.uniform(0, np.pi, 3):
            x, y = int(np.cos(angle) * reach), int(np.sin(angle) * reach)
            cv2.line(marks, (centre[0] - x, centre[1] - y), (centre[0] + x, centre[1] + y), 0.8, 2)
    return cv2.GaussianBlur(marks, (0, 0), 0.8)
