"""The scene engine of all kinds: random draws, smooth curves, soft edges, noise, and shapes on a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Random = np.random.Generator
# Float32 for values by pixel, `uint8` for layers, float64 for coordinates; the docstrings say which.
Array: TypeAlias = NDArray[Any]

_FRACTION = 4  # shapes are drawn to a sixteenth of a pixel


def stream(seed: int, *key: str | int) -> Random:
    """Return the generator that belongs to `seed` and `key`, whatever else was drawn before.

    >>> float(stream(0, "S01", "light").random()) == float(stream(0, "S01", "light").random())
    True
    >>> float(stream(0, "S01", "light").random()) == float(stream(0, "S02", "light").random())
    False
    """
    digest = hashlib.blake2b("\0".join(str(name) for name in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64([seed, int.from_bytes(digest, "little")]))


def smooth(points: Any, steps: Any, *, closed: bool = False, least: Any = -np.inf) -> Array:
    """Return a Catmull-Rom curve through `points` (N, D) with `steps` segments between two of them, one or N-1 numbers.

    The curve is extended in line beyond its ends, to coordinates of `least` or more.

    >>> smooth(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), 2)[:, 0].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    points = np.asarray(points)
    ends = (points[-1:], points[:2]) if closed else (2 * points[:1] - points[1:2], 2 * points[-1:] - points[-2:-1])
    padded = np.maximum(np.vstack([ends[0], points, ends[1]]), np.asarray(least, points.dtype))
    counts = np.broadcast_to(steps, len(padded) - 3)
    t = np.concatenate([np.linspace(0, 1, count, endpoint=False, dtype=points.dtype) for count in counts])[:, None]
    a, b, c, d = (np.repeat(padded[i : len(padded) - 3 + i], counts, axis=0) for i in range(4))
    line = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return line if closed else np.vstack([line, points[-1:]])


def coverage(distance: Array, sharpness: float) -> Array:
    """Return the share of each pixel inside an edge, 0 to 1: a ramp of width 1 / `sharpness` around distance 0."""
    covered: Array = np.clip(distance * np.float32(sharpness) + np.float32(0.5), 0, 1)
    return covered


def filled(depth: Array, reach: float) -> Array:
    """Return 1 - exp(-depth / reach): 0 at an edge, nearly 1 deep inside."""
    return 1 - np.exp(depth * np.float32(-1 / reach))


def grains(random: Random, count: tuple[int, int], size: tuple[int, int]) -> Array:
    """Return smooth noise on `size` (width, height) pixels, between `count` (width, height) normal numbers."""
    return cv2.resize(random.standard_normal(count[::-1], dtype=np.float32), size, interpolation=cv2.INTER_CUBIC)


class Canvas:
    """A picture of `shape` (H, W): `forward` (2, 3) maps scene units to its pixels, `inverse` back.

    Layers are `(H, W) uint8` in 0-255; `scale` is pixels a unit.
    """

    def __init__(self, forward: Array, scale: float, shape: tuple[int, int]) -> None:
        self.forward, self.scale, self.shape = forward, scale, shape
        self.inverse: Array = cv2.invertAffineTransform(forward)

    def pixels(self, points: Array) -> Array:
        """Return positions in sixteenths of a pixel."""
        placed = points @ self.forward[:, :2].T + self.forward[:, 2]
        return np.rint(placed * 2**_FRACTION).astype(np.int32)

    def fill(self, *outlines: Array) -> Array:
        """Draw filled outlines."""
        layer = np.zeros(self.shape, np.uint8)
        for outline in outlines:
            cv2.fillPoly(layer, [self.pixels(outline)], 255, cv2.LINE_AA, _FRACTION)
        return layer

    def bands(self, lines: Iterable[tuple[Array, float, int]]) -> Array:
        """Draw lines of a width in units and a brightness in 0-255, later ones over earlier ones."""
        layer = np.zeros(self.shape, np.uint8)
        for line, width, bright in lines:
            ends = np.vstack([2 * line[0] - line[1], line, 2 * line[-1] - line[-2]])
            along = ends[2:] - ends[:-2]
            along /= np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)[:, None]
            across = np.column_stack([-along[:, 1], along[:, 0]]) * (width / 2)
            outline = np.vstack([line + across, (line - across)[::-1]])
            cv2.fillPoly(layer, [self.pixels(outline)], bright, cv2.LINE_AA, _FRACTION)
        return layer

    def threads(self, lines: Array, widths: Array) -> Array:
        """Draw many thin lines, `(V, K, 2)`; one thinner than a pixel is fainter instead."""
        layer = np.zeros(self.shape, np.uint8)
        pixels, thick = self.pixels(lines), widths * self.scale
        faint = np.minimum(np.ceil(thick / thick.max() * 8), 8)
        for step in np.unique(faint):
            mean = float(thick[faint == step].mean())
            bright = round(255 * min(1.0, mean / 2.5) ** 0.8)
            cv2.polylines(
                layer, list(pixels[faint == step]), False, bright, max(round(mean), 1), cv2.LINE_AA, _FRACTION
            )
        return layer

    def discs(self, chains: Iterable[Array]) -> Array:
        """Draw chains of discs, `(M, 3)` x, y and radius, on an upright canvas: `float32`, the radius, 0 outside."""
        layer = np.zeros(self.shape, np.float32)
        for chain in chains:
            pixels = np.rint((chain * self.scale + [*self.forward[:, 2], 0]) * 2**_FRACTION).astype(int)
            for (x, y, reach), radius in zip(pixels.tolist(), chain[:, 2].tolist(), strict=True):
                cv2.circle(layer, (x, y), reach, radius, -1, cv2.LINE_8, _FRACTION)
        return layer

    def soft(self, layer: Array, blur: float = 0.0) -> Array:
        """Return a layer in 0-1, blurred; the width of the blur is in units."""
        if blur * self.scale > 0.3:
            layer = cv2.GaussianBlur(layer, (0, 0), blur * self.scale)
        return layer * np.float32(1 / 255)

    def rounded(self, layer: Array, reach: float) -> Array:
        """Return an outline with its notches and corners of about `reach` units filled and cut."""
        pixels = max(reach * self.scale, 1.0)
        blurred = cv2.GaussianBlur(layer, (0, 0), pixels).astype(np.float32)
        return np.clip((blurred - 127.5) * pixels + 127.5, 0, 255).astype(np.uint8)

    def depth(self, layer: Array) -> Array:
        """Return the distance of each pixel inside an outline from it, in units."""
        inside = cv2.distanceTransform((layer > 127).astype(np.uint8), cv2.DIST_L2, 5)
        return inside * np.float32(1 / self.scale)
