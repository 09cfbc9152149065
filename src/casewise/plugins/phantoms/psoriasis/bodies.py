"""Outlines of limbs, trunk and head for the phantom's photographs, as chains of circles in body units.

One body unit is the height of the photographed frame; the frame spans x in [-0.75, 0.75] and y in [-0.5, 0.5], y down.
The canvas is wider, so that the camera can be rotated and moved slightly without leaving it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import catmull_rom, extended

Floats = NDArray[np.float32]
Maps = dict[str, Floats]

CANVAS = (576, 384)  # width, height in canvas pixels
UNIT = 320.0  # canvas pixels per body unit: the canvas spans 1.8 x 1.2 units


@dataclass(frozen=True)
class Build:
    """The constants of a subject's body: girth factor, posture in [-1, 1], and the garment's colour (RGB, 0-1)."""

    girth: float = 1.0
    posture: float = 0.0
    garment: tuple[float, float, float] = (0.85, 0.88, 0.92)


@dataclass(frozen=True)
class _Chain:
    """A tapered limb: a smooth centre line through rows of (x, y, radius) in body units."""

    rows: tuple[tuple[float, float, float], ...]

    def mirrored(self) -> _Chain:
        """Return the chain of the other side."""
        return _Chain(tuple((-x, y, r) for x, y, r in self.rows))

    def circles(self) -> Floats:
        """Return `(M, 3)` circles, interpolated by Catmull-Rom, dense enough to form one outline."""
        points = np.array(self.rows, dtype=np.float32)
        if len(points) == 1:
            return points
        padded = extended(points)
        padded[:, 2] = np.maximum(padded[:, 2], 0.002)
        pieces = []
        for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
            steps = max(int(np.hypot(*(c - b)[:2]) / (0.12 * min(b[2], c[2]))), 4)
            t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[:, None]
            pieces.append(catmull_rom(a, b, c, d, t))
        return np.vstack([*pieces, points[-1:]]).astype(np.float32)


@dataclass(frozen=True)
class _Pose:
    """One photograph's body: layers from back to front, cloth over them, frequent sites of plaques, and creases."""

    layers: tuple[tuple[_Chain, ...], ...]
    cloth: tuple[_Chain, ...] = ()
    sites: tuple[tuple[float, float], ...] = ()
    creases: tuple[_Chain, ...] = ()


def render_body(pose: _Pose) -> Maps:
    """Draw a pose on the canvas: maps by name, all `(384, 576) float32`.

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
        tilt_x = tilt_x * (1 - front) + x * front
        tilt_y = tilt_y * (1 - front) + y * front
        inside = np.maximum(inside, distance)
    if pose.creases:
        lines = cv2.GaussianBlur((_paint(pose.creases) > 0).astype(np.float32), (0, 0), 1.8)
        shade = shade * (1 - np.float32(0.45) * np.minimum(lines, np.float32(0.5)).astype(np.float32, copy=False))
    cloth = _signed_distance(_paint(pose.cloth) > 0) if pose.cloth else np.full_like(inside, -1.0)
    return {"inside": inside, "cloth": cloth, "tilt_x": tilt_x, "tilt_y": tilt_y, "shade": shade}


def _paint(chains: tuple[_Chain, ...]) -> Floats:
    """Paint each chain with its local radius (body units); 0 is outside."""
    width, height = CANVAS
    painted = np.zeros((height, width), dtype=np.float32)
    fraction = 4
    for chain in chains:
        circles = chain.circles()
        pixels = np.rint((circles * UNIT + [width / 2, height / 2, 0]) * 2**fraction).astype(int)
        for (x, y, reach), radius in zip(pixels.tolist(), circles[:, 2].tolist(), strict=True):
            cv2.circle(painted, (x, y), reach, radius, -1, cv2.LINE_8, fraction)
    return painted


def _signed_distance(mask: NDArray[np.bool_]) -> Floats:
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    within = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    # Both distances start at 1 beside the outline, which lies between the pixels; the blur removes the steps.
    signed = within - outside + np.where(mask, np.float32(-0.5), np.float32(0.5))
    return cv2.GaussianBlur(signed, (0, 0), 0.9).astype(np.float32, copy=False) / np.float32(UNIT)


def _layer(chains: tuple[_Chain, ...]) -> tuple[Floats, Floats, Floats]:
    painted = _paint(chains)
    distance = _signed_distance(painted > 0)
    radius = cv2.GaussianBlur(painted, (0, 0), 3)
    depth: Floats = np.clip(np.maximum(distance, 0) / np.maximum(radius, np.float32(0.01)), 0, 1)
    # A circular cross-section: its height is sqrt(1 - (1 - depth)^2), so its slope grows with 1 - depth.
    soft = cv2.GaussianBlur(distance, (0, 0), 3)
    tilt_x: Floats = cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=-UNIT / 8) * (1 - depth)
    tilt_y: Floats = cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=-UNIT / 8) * (1 - depth)
    return distance, tilt_x, tilt_y


PHOTOGRAPHS = {"upper": 4, "trunk": 2, "lower": 2}


def pose(region: str, number: int, build: Build) -> _Pose:
    """Return the pose of photograph `number` (from 1) of a region for a subject of this build.

    Arms: 1 left stretched, 2 right stretched, 3 left bent, 4 right bent; trunk: 1 front, 2 back; legs: 1 front, 2 back.
    """
    if region == "upper":
        drawn = _arm_stretched(build) if number <= 2 else _arm_bent(build)
        return drawn if number % 2 else _mirrored(drawn)
    if region == "trunk":
        return _trunk(build, back=number == 2)
    return _legs(build, back=number == 2)


def _mirrored(drawn: _Pose) -> _Pose:
    return _Pose(
        layers=tuple(tuple(chain.mirrored() for chain in layer) for layer in drawn.layers),
        cloth=tuple(chain.mirrored() for chain in drawn.cloth),
        sites=tuple((-x, y) for x, y in drawn.sites),
        creases=tuple(chain.mirrored() for chain in drawn.creases),
    )


def _chain(x: Sequence[float], y: Sequence[float], radius: Sequence[float], girth: float = 1.0) -> _Chain:
    return _Chain(tuple((across, down, r * girth) for across, down, r in zip(x, y, radius, strict=True)))


def _hand(x: float, y: float, angle: float, spread: float, size: float = 1.0) -> tuple[_Chain, ...]:
    """Return a hand whose wrist is at (x, y) and whose fingers point along `angle` (radians, 0 = right)."""
    cos, sin = np.cos(angle), np.sin(angle)

    def at(along: float, across: float, radius: float) -> tuple[float, float, float]:
        along, across = along * size, across * size
        return (float(x + along * cos - across * sin), float(y + along * sin + across * cos), radius * size)

    palm = [_Chain((at(0.0, 0.0, 0.062), at(0.06, 0.0, 0.068), at(0.13, 0.0, 0.066)))]
    palm += [_Chain((at(0.12, side, 0.030), at(0.16, side * 1.12, 0.026))) for side in (-0.048, 0.048)]
    fingers = []
    for offset, length in zip((-0.063, -0.022, 0.021, 0.060), (0.150, 0.180, 0.168, 0.125), strict=True):
        tip = offset + offset * spread
        middle = at(0.13 + length * 0.55, (offset + tip) / 2, 0.021)
        fingers.append(_Chain((at(0.13, offset, 0.023), middle, at(0.13 + length, tip, 0.016))))
    thumb = _Chain((at(0.02, -0.04, 0.034), at(0.09, -0.115, 0.027), at(0.155, -0.145, 0.020)))
    return (*palm, *fingers, thumb)


def _arm_stretched(build: Build) -> _Pose:
    lift = 0.05 * build.posture
    y = (0.10, 0.09, 0.07, 0.05, 0.02 - lift, -0.01 - lift, -0.03 - 2 * lift, -0.035 - 2 * lift)
    radius = (0.185, 0.170, 0.142, 0.112, 0.115, 0.092, 0.064, 0.062)
    arm = _chain((-1.1, -0.75, -0.40, -0.17, 0.02, 0.20, 0.36, 0.40), y, radius, build.girth)
    hand = _hand(0.40, -0.035 - 2 * lift, -0.10 - lift, 0.5 + 0.3 * build.posture)
    crease = _chain((-0.15, -0.155, -0.145), (-0.02, 0.03, 0.07), (0.004, 0.004, 0.003))
    return _Pose(layers=((arm, *hand),), sites=((-0.16, 0.10), (0.10, 0.05), (-0.50, 0.02)), creases=(crease,))


def _arm_bent(build: Build) -> _Pose:
    lean, girth = 0.08 * build.posture, build.girth
    upper = _chain(
        (-1.1, -0.70, -0.30, -0.02, 0.10), (0.10, 0.15, 0.22, 0.27, 0.27), (0.180, 0.165, 0.138, 0.108, 0.098), girth
    )
    x = (0.12, 0.13, 0.15 + lean, 0.19 + 2 * lean, 0.195 + 2 * lean)
    fore = _chain(x, (0.27, 0.17, 0.04, -0.13, -0.15), (0.098, 0.108, 0.098, 0.064, 0.060), girth)
    hand = _hand(0.195 + 2 * lean, -0.14, -1.45 + lean, 0.25, 0.9)
    return _Pose(layers=((upper,), (fore, *hand)), sites=((0.13, 0.30), (0.12, 0.20), (-0.35, 0.22), (0.17, 0.0)))


def _trunk(build: Build, *, back: bool) -> _Pose:
    g, swing = build.girth, 0.06 * build.posture
    side = _chain(
        (0.14, 0.13, 0.10, 0.12, 0.13), (-0.24, 0.0, 0.18, 0.42, 0.70), (0.185, 0.170, 0.165, 0.190, 0.195), g
    )
    torso = (
        _chain((0.0, 0.0, 0.0), (-0.75, -0.50, -0.40), (0.105, 0.110, 0.150)),
        _chain((-0.27, 0.0, 0.27), (-0.33, -0.40, -0.33), (0.085, 0.120, 0.085)),
        side.mirrored(),
        side,
        _chain((0.0, 0.0, 0.0), (-0.20, 0.20, 0.70), (0.200, 0.190, 0.190), g),
    )
    shoulder, hand = 0.325 * (0.5 + 0.5 * g), 0.56 + swing
    x = (shoulder, shoulder + 0.07, 0.46 + swing / 2, hand, hand + 0.06)
    arm = _chain(x, (-0.29, -0.12, 0.12, 0.42, 0.75), (0.098, 0.092, 0.078, 0.070, 0.055), 0.5 + 0.5 * g)
    waist = _chain((-0.34, 0.0, 0.34), (0.47, 0.49, 0.47), (0.035, 0.035, 0.035))
    briefs = _chain((-0.20, 0.20), (0.70, 0.70), (0.23, 0.23))
    if back:
        middle = _chain((0.0, 0.0, 0.0), (-0.33, 0.0, 0.36), (0.003, 0.004, 0.005))
        right: tuple[_Chain, ...] = (_chain((0.21, 0.15, 0.09), (-0.24, -0.13, -0.09), (0.003, 0.003, 0.002)),)
        sites = ((-0.05, 0.32), (0.06, 0.33), (-0.16, -0.15), (0.18, -0.05))
    else:
        middle = _chain((0.0, 0.0), (0.235, 0.245), (0.005, 0.005))
        right = (
            _chain((0.23, 0.13, 0.03), (-0.10, -0.065, -0.085), (0.003, 0.003, 0.002)),
            _chain((0.20, 0.05), (-0.385, -0.365), (0.003, 0.003)),
        )
        sites = ((0.02, 0.20), (-0.14, 0.05), (0.15, 0.28), (-0.05, -0.20))
    creases = (middle, *(crease.mirrored() for crease in right), *right)
    return _Pose(layers=((arm, arm.mirrored()), torso), cloth=(waist, briefs), sites=sites, creases=creases)


def _legs(build: Build, *, back: bool) -> _Pose:
    stance, calf = 0.03 * build.posture, 0.100 if back else 0.092

    def leg(x: Sequence[float], y: Sequence[float], radius: Sequence[float]) -> _Chain:
        return _chain([across + stance for across in x], y, radius)

    # The hip does not move with the stance.
    x = (0.17, *(across + stance for across in (0.18, 0.19, 0.19, 0.20, 0.20, 0.20, 0.20)))
    y = (-0.75, -0.45, -0.20, -0.07, 0.08, 0.24, 0.36, 0.39)
    right = _chain(x, y, (0.165, 0.152, 0.112, 0.092, calf, 0.068, 0.048, 0.050), build.girth)
    if back:
        foot = leg((0.20, 0.205, 0.23), (0.40, 0.435, 0.45), (0.048, 0.050, 0.042))
        crease = leg((0.13, 0.24), (-0.075, -0.065), (0.003, 0.003))
        sites = ((-0.20, 0.10), (0.20, 0.05), (0.18, -0.25), (-0.19, -0.20))
    else:
        foot = leg((0.20, 0.225, 0.265, 0.285), (0.38, 0.435, 0.470, 0.480), (0.050, 0.056, 0.050, 0.036))
        crease = leg((0.125, 0.15, 0.19, 0.23, 0.255), (-0.09, -0.03, -0.015, -0.03, -0.09), (0.003,) * 5)
        sites = ((-0.19, -0.07), (0.19, -0.07), (-0.20, 0.15), (0.21, 0.18))
    shorts = _chain((-0.42, 0.42), (-0.52, -0.52), (0.13, 0.13))
    layers = ((right, foot), (right.mirrored(), foot.mirrored()))
    return _Pose(layers=layers, cloth=(shorts,), sites=sites, creases=(crease, crease.mirrored()))
