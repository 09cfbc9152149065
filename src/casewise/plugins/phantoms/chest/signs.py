"""Signs of disease in a phantom chest: texture or one focus inside the lungs, visible only in detail.

The mean of a sign over an eighth of the picture is about zero. Therefore neither the brightness of the film, nor its
thumbnail, nor its border reveals the label, and a network must detect the sign itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from casewise.plugins.phantoms.chest.anatomy import SIDES, Chest
from casewise.plugins.phantoms.chest.canvas import Floats, Points
from casewise.plugins.phantoms.draws import stream

Finding = Literal["covid", "no_finding", "pneumonia"]
FINDINGS: tuple[str, ...] = get_args(Finding)

COARSEST = {"haze": 0.05, "focus": 0.068}  # in body units: smoother components are removed from a sign
MARGIN, RAMP = 0.014, 0.022  # distance from the lung's outline at which a sign begins, and the width of its ramp
GRID, GRAIN = 56, 0.030  # the texture's grid, and the length of its cells in body units


@dataclass(frozen=True)
class Sign:
    """A subject's sign: `spots` `(N, 3)` of x, y and radius in body units, `texture` a standard normal grid.

    `kind` "haze" is texture within the spots, "focus" one dense spot; `strength` is in densities of the anatomy.
    """

    kind: Literal["haze", "focus"]
    spots: Points
    texture: Floats
    strength: float


def sign(seed: int, patient: Chest, finding: str) -> Sign | None:
    """Return the sign of a finding in this subject; none for `no_finding`."""
    if finding == "no_finding":
        return None
    random = stream(seed, "sign", finding, patient.number)
    texture = random.standard_normal((GRID, GRID), dtype=np.float32)
    if finding == "pneumonia":
        spot = _spot(random, patient, int(random.integers(2)), down=(0.25, 0.85), out=(0.35, 0.75))
        return Sign("focus", np.array([[*spot, random.uniform(0.048, 0.068)]]), texture, random.uniform(0.36, 0.48))
    spots = [
        [*_spot(random, patient, index, down=(0.48, 0.92), out=(0.55, 0.92)), random.uniform(0.045, 0.085)]
        for index in (0, 1)
        for _ in range(int(random.integers(2, 5)))
    ]
    return Sign("haze", np.array(spots), texture, random.uniform(0.17, 0.25))


def _spot(
    random: np.random.Generator, patient: Chest, index: int, *, down: tuple[float, float], out: tuple[float, float]
) -> tuple[float, float]:
    """Return a point of a lung, given the share of its height from the top and of its width from the middle."""
    lung, side = patient.lungs[index], SIDES[index]
    y = lung[:, 1].min() + random.uniform(*down) * (_floor(lung) - lung[:, 1].min())
    # Beside the heart, because a sign behind it would be invisible.
    inner = max(_reach(np.vstack([patient.heart, patient.mediastinum]), side, y), 0.05)
    outer = max(_reach(lung, side, y), inner + 0.05)
    return side * (inner + random.uniform(*out) * (outer - inner)), float(y)


def _reach(outline: Points, side: int, y: float) -> float:
    """Return the largest lateral extent of an outline near height `y`."""
    near = outline[np.abs(outline[:, 1] - y) < 0.05, 0]
    return float((side * near).max()) if len(near) else 0.0


def _floor(lung: Points) -> float:
    """Return the height of the diaphragm's dome, not of the corner beside it."""
    middle = np.abs(np.abs(lung[:, 0]) - np.abs(lung[:, 0]).max() * 0.5) < 0.03
    return float(lung[middle, 1].max())


def spread(texture: Floats, inverse: Points, shape: tuple[int, int]) -> Floats:
    """Return a grid of the body at the pixels of a film of `shape`; `inverse` `(2, 3)` maps pixels to body units."""
    cell = np.array([[1 / GRAIN, 0.0], [0.0, 1 / GRAIN]])
    to_grid = cell @ inverse
    to_grid[:, 2] += (GRID - 1) / 2
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(texture, to_grid, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    return warped.astype(np.float32, copy=False)


def paint(ill: Sign, inverse: Points, room: Floats, slope: Floats, scale: float) -> Floats:
    """Return the contribution of a sign to a film, in the units of `slope`, zero where `room` is zero.

    Args:
        inverse: `(2, 3)`, maps film pixels to body units, including the breath.
        room: `(H, W)` in 0-1, where in the lungs a sign may be.
        slope: `(H, W)`, grey levels a unit of density, which is smaller where the film is dark or bright.
        scale: film pixels a body unit.
    """
    height, width = room.shape
    x = inverse[0, 0] * np.arange(width)[None, :] + inverse[0, 1] * np.arange(height)[:, None] + inverse[0, 2]
    y = inverse[1, 0] * np.arange(width)[None, :] + inverse[1, 1] * np.arange(height)[:, None] + inverse[1, 2]
    x, y = x.astype(np.float32), y.astype(np.float32)
    texture = spread(ill.texture, inverse, room.shape)
    if ill.kind == "focus":
        centre_x, centre_y, radius = ill.spots[0]
        distance = np.sqrt(np.square(x - centre_x) + np.square(y - centre_y)) / np.float32(radius)
        # An irregular edge: the texture moves the outline by up to a third of the radius.
        raw = 1 / (1 + np.exp((distance + np.float32(0.22) * texture - 1) * np.float32(4)))
    else:
        cover = np.zeros_like(x)
        for centre_x, centre_y, radius in ill.spots:
            near = np.square(x - centre_x) + np.square(y - centre_y)
            np.maximum(cover, np.exp(near * np.float32(-0.5 / radius**2)), out=cover)
        fine = spread(ill.texture[::-1], inverse / 0.6, room.shape)
        # A logistic function makes clouds of uniform brightness over a third of the spot, without pits between them.
        cloud = np.float32(0.75) * texture + np.float32(0.55) * fine
        raw = cover / (1 + np.exp((cloud - np.float32(0.35)) * np.float32(-3.2)))
    raw *= slope * np.float32(ill.strength)
    return levelled(raw, room, COARSEST[ill.kind] * scale)


def levelled(raw: Floats, room: Floats, blur: float) -> Floats:
    """Return `raw` within `room` minus its local mean, so that averages over wide areas do not change.

    >>> room = np.ones((64, 64), np.float32)
    >>> raw = np.zeros((64, 64), np.float32); raw[30:34, 30:34] = 1
    >>> flat = levelled(raw, room, 4.0)
    >>> bool(flat[31, 31] > 0.5), bool(abs(flat[24:40, 24:40].mean()) < 0.1 * raw[24:40, 24:40].mean())
    (True, True)
    """
    reach = max(blur, 0.8)
    weight = cv2.GaussianBlur(room, (0, 0), reach) + np.float32(1e-3)
    levels = raw * room
    for _ in range(2):
        # Two passes, because near the outline the local mean includes pixels outside.
        levels = levels - room * (cv2.GaussianBlur(levels, (0, 0), reach) / weight)
    return levels
