"""The bones of a phantom chest, as lines and outlines in body units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from casewise.phantoms.chest.canvas import Points, smooth

SIDES = (-1, 1)  # the subject's right lies on the left of the picture


@dataclass(frozen=True)
class Rib:
    """One rib seen from the front: the steep part behind, the faint part in front, and how wide and clear it is."""

    behind: Points
    before: Points
    width: float
    clear: float


def clavicle(random: np.random.Generator, side: int, top: float, wide: float) -> Points:
    u = random.uniform
    inner, lift = top + u(0.105, 0.155), u(0.03, 0.10)
    points = [
        (u(0.028, 0.042), inner),
        (0.13 * wide, inner - 0.012 - lift * 0.25),
        (0.24 * wide, inner - 0.022 - lift * 0.7),
        (0.33 * wide, inner - 0.012 - lift * 0.9),
        (0.39 * wide, inner + 0.006 - lift * 0.9),
    ]
    return smooth(np.array(points), closed=False, steps=5) * [side, 1]


def scapula(random: np.random.Generator, side: int, width: float) -> Points:
    u = random.uniform
    x, y = width * u(0.9, 1.06), u(-0.34, -0.28)
    points = [(x - 0.03, y), (x + 0.03, y - 0.03), (x + 0.10, y), (x + 0.06, y + 0.13), (x + 0.01, y + u(0.24, 0.30))]
    points += [(x - 0.025, y + 0.14)]
    return smooth(np.array(points), closed=True, steps=5) * [side, 1]


def spine(random: np.random.Generator) -> Points:
    y = np.linspace(-0.8, 0.9, 24)
    bend, phase = random.uniform(-0.014, 0.014), random.uniform(0, 2 * np.pi)
    return np.column_stack([bend * np.sin(2.6 * y + phase) - bend * np.sin(phase), y])


def ribs(random: np.random.Generator, lungs: dict[int, Points], top: float) -> tuple[Rib, ...]:
    """Return 9 to 11 pairs: each leaves the spine, turns at the chest's wall, and comes back lower in front."""
    u = random.uniform
    pairs, spacing = int(random.integers(9, 12)), u(0.066, 0.084)
    drop, bend, front, broad = u(0.05, 0.13), u(1.5, 2.6), u(0.05, 0.13), u(0.018, 0.025)
    first = top + u(-0.03, 0.01)
    t = np.linspace(0, 1, 22)
    found = []
    for place in range(pairs):
        start = first + place * spacing * (1 + 0.012 * place)
        for side in SIDES:
            wall = np.abs(lungs[side])
            begin, down = start + u(-0.004, 0.004), drop * u(0.9, 1.1) * min(1.0, 0.45 + 0.12 * place)
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
            clear = u(0.85, 1.15) * (1 if place else 0.7)
            found.append(Rib(behind * [side, 1], before * [side, 1], broad * u(0.92, 1.08), clear))
    return tuple(found)


def _wall_at(wall: Points, lung: Points, y: float) -> float:
    """Return how far out the lung reaches near height `y`, its widest part counting for all below."""
    near = wall[np.abs(lung[:, 1] - y) < 0.035, 0]
    low = lung[:, 1].max() - 0.06
    return float(wall[:, 0].max() if y > low or not len(near) else near.max())
