"""The shapes in a synthetic section: nuclei, fat, vessels, glands and follicles, all drawn as ellipses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from casewise.plugins.phantoms.slides.skin import Stage

Curve = Callable[[np.ndarray], np.ndarray]

# A shape: u, v, half its length, half its width (µm), its angle (degrees from u), haematoxylin and eosin (1/200 of an
# optical density unit), and whether it covers the tissue under it.
COLUMNS = 8
UNIT = 200
# Positions of shapes have this many fractional bits of a pixel.
FINE = 4
FIBROBLASTS = 380.0  # nuclei per mm² of dermis
KERATINOCYTES = 11.0  # µm between nuclei of the epidermis


@dataclass(frozen=True, eq=False)
class StainDensities:
    """Densities of the shapes in a window, (h, w) `float32` each, and the mask of the tissue that they cover."""

    haema: np.ndarray
    eosin: np.ndarray
    cover: np.ndarray


@dataclass(frozen=True, eq=False)
class Shapes:
    """All shapes of a section, (N, 8) in the order of drawing; the numbers of adnexa and infiltrates."""

    table: np.ndarray
    adnexa: int
    infiltrates: int

    def drawn(
        self, window: tuple[int, int, int, int], mpp: float, angle: float, turn: np.ndarray, origin: np.ndarray
    ) -> StainDensities:
        """Draw the shapes that overlap a window (left, top, width, height) of the slide."""
        left, top, width, height = window
        scale = 1 << FINE
        # The half is the distance from the corner of a pixel to its middle. Rounding before the window's corner is
        # subtracted makes windows agree except for a few pixels on the rim of shapes that they cut.
        positions = np.rint(((self.table[:, :2] @ turn + origin) / mpp - 0.5) * scale).astype(int)
        positions -= (left * scale, top * scale)
        reach = self.table[:, 2:4].max(axis=1)[:, None] / mpp + 2
        near = ((positions / scale > -reach) & (positions / scale < reach + np.array([width, height]))).all(axis=1)
        haema, eosin, cover = (np.zeros((height, width), np.uint8) for _ in range(3))
        for row in np.flatnonzero(near):
            _, _, long, short, direction, dark, pink, covers = self.table[row].tolist()
            axes = (max(round(long / mpp * scale), 4), max(round(short / mpp * scale), 4))
            form = (positions[row].tolist(), axes, direction - angle, 0.0, 360.0)
            cv2.ellipse(haema, *form, dark, -1, cv2.LINE_AA, FINE)
            if covers:
                cv2.ellipse(eosin, *form, pink, -1, cv2.LINE_AA, FINE)
                cv2.ellipse(cover, *form, 255, -1, cv2.LINE_AA, FINE)
        unit = np.float32(1)
        return StainDensities(haema * (unit / UNIT), eosin * (unit / UNIT), cover * (unit / 255))


def shapes(
    random: np.random.Generator, stage: Stage, width: float, depth: float, surface: Curve, border: Curve
) -> Shapes:
    """Scatter the shapes of a section of `width` and `depth` µm."""
    floor = depth * stage.dermis
    rows = [_fat(random, width, depth, floor)]
    area = width * floor / 1e6
    count = random.poisson(FIBROBLASTS * area)
    positions = _scattered(random, count, width, floor, surface, border)
    rows.append(_nuclei(random, positions, long=(4.5, 8.0), short=(1.1, 1.8), tilt=16))
    adnexa, infiltrates = (random.poisson(rate * width / 1000) for rate in (stage.adnexa, stage.infiltrates))
    for centre in _apart(random, adnexa, width, floor, surface, border):
        rows.append(_follicle(random, centre) if random.random() < 0.4 else _gland(random, centre))
    for centre in _scattered(random, infiltrates, width, floor, surface, border, margin=50):
        rows.append(_infiltrate(random, centre))
    rows.append(_keratinocytes(random, width, surface, border))
    return Shapes(np.concatenate(rows), int(adnexa), int(infiltrates))


def _scattered(
    random: np.random.Generator,
    count: int,
    width: float,
    floor: float,
    surface: Curve,
    border: Curve,
    margin: float = 8.0,
) -> np.ndarray:
    """Positions (N, 2) in the dermis, at least `margin` µm from its borders."""
    u = random.uniform(-0.5, 0.5, count) * (width - 60)
    top = surface(u) + border(u) + margin
    return np.stack([u, top + random.uniform(0, 1, count) * np.maximum(floor - margin - top, 0)], axis=1)


def _apart(
    random: np.random.Generator, count: int, width: float, floor: float, surface: Curve, border: Curve
) -> np.ndarray:
    """Positions in the middle of the dermis, each in its own interval along the skin."""
    u = ((np.arange(count) + random.uniform(0.2, 0.8, count)) / max(count, 1) - 0.5) * (width - 240)
    top = surface(u) + border(u)
    return np.stack([u, top + random.uniform(0.3, 0.75, count) * (floor - top)], axis=1)


def _nuclei(
    random: np.random.Generator,
    positions: np.ndarray,
    *,
    long: tuple[float, float],
    short: tuple[float, float],
    tilt: float,
) -> np.ndarray:
    rows = np.zeros((len(positions), COLUMNS))
    rows[:, :2] = positions
    rows[:, 2], rows[:, 3] = random.uniform(*long, len(positions)), random.uniform(*short, len(positions))
    rows[:, 4] = random.normal(0, tilt, len(positions))
    rows[:, 5] = random.uniform(150, 235, len(positions))
    return rows


def _keratinocytes(random: np.random.Generator, width: float, surface: Curve, border: Curve) -> np.ndarray:
    """Nuclei of the epidermis, close together; those at its border are upright and darker."""
    u, d = np.meshgrid(np.arange(-width / 2, width / 2, KERATINOCYTES), np.arange(8, 190, KERATINOCYTES))
    u, d = (values.ravel() + random.uniform(-3.5, 3.5, values.size) for values in (u, d))
    within = d < border(u) - 3
    u, d = u[within], d[within]
    rows = _nuclei(random, np.stack([u, surface(u) + d], axis=1), long=(2.6, 3.8), short=(2.2, 3.0), tilt=90)
    rows[:, 5] = np.where(d > border(u) - 14, 1.0, 0.7) * rows[:, 5]
    return rows


def _fat(random: np.random.Generator, width: float, depth: float, floor: float) -> np.ndarray:
    """Empty cells side by side below the dermis."""
    step = 62.0
    u, v = np.meshgrid(np.arange(-width / 2, width / 2, step), np.arange(floor + 40, depth + step, step * 0.87))
    u = u + np.where(np.arange(len(v)) % 2, step / 2, 0)[:, None]
    rows = np.zeros((u.size, COLUMNS))
    rows[:, 0], rows[:, 1] = (values.ravel() + random.uniform(-5, 5, u.size) for values in (u, v))
    rows[:, 2], rows[:, 3] = random.uniform(27, 32, u.size), random.uniform(25, 30, u.size)
    rows[:, 4], rows[:, 7] = random.uniform(0, 180, u.size), 1
    return rows


def _ring(centre: np.ndarray, radius: float, hole: float, dark: float, pink: float) -> np.ndarray:
    """The cross-section of a tube: wall and lumen."""
    return np.array(
        [[*centre, radius, radius * 0.9, 0, dark, pink, 1], [*centre, hole, hole * 0.8, 0, 0, 6, 1]], dtype=np.float64
    )


def _around(random: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """Nuclei of a tube's wall."""
    turns = np.linspace(0, 2 * np.pi, max(int(2 * np.pi * radius / 8), 5), endpoint=False)
    positions = centre + radius * np.stack([np.cos(turns), 0.9 * np.sin(turns)], axis=1)
    return _nuclei(random, positions, long=(2.4, 3.4), short=(2.2, 3.0), tilt=90)


def _gland(random: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """A coil of sweat tubules."""
    rows = []
    for turn in np.linspace(0, 2 * np.pi, random.integers(6, 10), endpoint=False):
        offset = random.uniform(30, 85) * np.array([np.cos(turn), 0.7 * np.sin(turn)])
        radius = random.uniform(17, 25)
        rows += [_ring(centre + offset, radius, radius * 0.3, 60, 95), _around(random, centre + offset, radius * 0.68)]
    return np.concatenate(rows)


def _follicle(random: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """An oblique section of a hair in its sheaths."""
    tilt, long = random.uniform(60, 120), random.uniform(130, 210)
    sheaths = ((1.0, 52, 80, 85), (0.9, 38, 100, 70), (0.84, 20, 25, 150), (0.8, 11, 190, 110))
    return np.array([[*centre, long * values, wide, tilt, dark, pink, 1] for values, wide, dark, pink in sheaths])


def _infiltrate(random: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """A small vessel and the inflammatory cells around it."""
    count = random.integers(25, 70)
    positions = centre + random.normal(0, 1, (count, 2)) * (26, 20)
    cells = _nuclei(random, positions, long=(2.6, 3.4), short=(2.4, 3.2), tilt=90)
    return np.concatenate([cells, _ring(centre, 11, 7, 45, 90), _around(random, centre, 10)])
