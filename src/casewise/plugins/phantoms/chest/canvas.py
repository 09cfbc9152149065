"""Lines and outlines of a phantom chest, and the film on which they are drawn.

Lengths are in body units: one is about the height of a film that shows the whole chest. The middle of the film is
(0, 0), x grows to the right of the picture (the subject's left), y downwards.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import catmull_rom, extended

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
