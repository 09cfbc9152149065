"""Outlines of limbs, trunk and head for the phantom's photographs, as chains of circles in body units.

One body unit is the height of the photographed frame; the frame spans x in [-0.75, 0.75] and y in [-0.5, 0.5], y down.
The canvas is wider, so that the camera can be rotated and moved slightly without leaving it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import catmull_rom, extended

Floats = NDArray[np.float32]

CANVAS = (576, 384)  # width, height in canvas pixels
UNIT = 320.0  # canvas pixels per body unit: the canvas spans 1.8 x 1.2 units


@dataclass(frozen=True)
class Build:
    """The constants of a subject's body: girth factor, posture in [-1, 1], and the garment's colour (RGB, 0-1)."""

    girth: float = 1.0
    posture: float = 0.0
    garment: tuple[float, float, float] = (0.85, 0.88, 0.92)


@dataclass(frozen=True)
class Chain:
    """A tapered limb: a smooth centre line through rows of (x, y, radius) in body units."""

    rows: tuple[tuple[float, float, float], ...]

    def mirrored(self) -> Chain:
        """Return the chain of the other side."""
        return Chain(tuple((-x, y, r) for x, y, r in self.rows))

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
class Pose:
    """One photograph's body: layers from back to front, cloth over them, frequent sites of plaques, and creases."""

    layers: tuple[tuple[Chain, ...], ...]
    cloth: tuple[Chain, ...] = ()
    sites: tuple[tuple[float, float], ...] = ()
    creases: tuple[Chain, ...] = ()


@dataclass(frozen=True)
class Body:
    """Maps of one body on the canvas, all `(384, 576) float32`.

    `inside`: signed distance to the outline in body units, positive on the body; `cloth`: the same for it;
    `tilt_x`, `tilt_y`: the surface's slope; `shade`: 0-1, dark in creases and under a layer in front.
    """

    inside: Floats
    cloth: Floats
    tilt_x: Floats
    tilt_y: Floats
    shade: Floats
    sites: tuple[tuple[float, float], ...]


def render_body(pose: Pose) -> Body:
    """Draw a pose on the canvas."""
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
    return Body(inside, cloth, tilt_x, tilt_y, shade, pose.sites)


def _paint(chains: tuple[Chain, ...]) -> Floats:
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


def _layer(chains: tuple[Chain, ...]) -> tuple[Floats, Floats, Floats]:
    painted = _paint(chains)
    distance = _signed_distance(painted > 0)
    radius = cv2.GaussianBlur(painted, (0, 0), 3)
    depth: Floats = np.clip(np.maximum(distance, 0) / np.maximum(radius, np.float32(0.01)), 0, 1)
    # A circular cross-section: its height is sqrt(1 - (1 - depth)^2), so its slope grows with 1 - depth.
    soft = cv2.GaussianBlur(distance, (0, 0), 3)
    tilt_x: Floats = cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=-UNIT / 8) * (1 - depth)
    tilt_y: Floats = cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=-UNIT / 8) * (1 - depth)
    return distance, tilt_x, tilt_y
