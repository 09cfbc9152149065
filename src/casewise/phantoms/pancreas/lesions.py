"""What a pancreas phantom's subject has: cysts and a duct by the grade, or one bright lesion at any place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from casewise.phantoms.draws import stream
from casewise.phantoms.pancreas.anatomy import Abdomen
from casewise.phantoms.pancreas.shapes import Ellipsoid, Point, Tube

Lesion = Literal["cysts", "planted"]

GRADES = ("normal", "low", "high")
# Radius of the duct, mm: a normal one is hardly seen, that of a high grade is plainly too wide.
DUCT = {"normal": (0.9, 1.3), "low": (0.9, 1.6), "high": (3.0, 4.6)}
# Radius of the largest cyst and thickness of its wall, mm.
CYST = {"low": (5.0, 8.0), "high": (11.0, 17.0)}
WALL = {"low": (0.4, 0.8), "high": (2.4, 3.6)}
# Radius of the planted lesion, mm: two sizes that no subject makes alike. It is no brighter than fat on T1 and fluid on
# T2, else it would stretch the range of its scan, and all other tissues would tell of it once scans are scaled.
PLANTED = {"low": (7.0, 8.0), "high": (18.0, 20.0)}
# The planted lesion's middle is within so many mm of the pancreas' own, and of its height.
AROUND, ABOUT = 34.0, 6.0
# Cysts sit in this part of the way from head to tail.
SEATS = (0.14, 0.86)


@dataclass(frozen=True)
class Cyst:
    """Fluid in a wall, with a solid nodule on it or none."""

    fluid: Ellipsoid
    wall: Ellipsoid
    nodule: Ellipsoid | None


@dataclass(frozen=True)
class Findings:
    """All that a grade puts into a subject; `duct` runs along the pancreas."""

    duct: Tube
    cysts: tuple[Cyst, ...] = ()
    planted: Ellipsoid | None = None


def findings(seed: int, who: Abdomen, grade: str, lesion: Lesion = "cysts") -> Findings:
    """Return what a subject with this grade has; normal subjects have a thin duct and nothing else.

    Low grade is one or two small cysts with a thin wall. High grade is a large cyst with a thick wall and a nodule on
    it, sometimes a small cyst beside it, and a wide duct. `lesion="planted"` draws a normal pancreas, and for low and
    high one bright ball, small or large, at a random place around it.
    """
    random = stream(seed, "cysts", who.number)
    wide = float(random.uniform(*DUCT["normal" if lesion == "planted" else grade]))
    inner = who.pancreas.points[2:-2]
    duct = Tube(inner, tuple(float(r) for r in np.linspace(wide, 0.75 * wide, len(inner))))
    if grade == "normal":
        return Findings(duct)
    if lesion == "planted":
        return Findings(duct, planted=_planted(stream(seed, "planted", who.number), who, grade))
    seats = random.uniform(*SEATS, 2)
    while abs(seats[0] - seats[1]) < 0.35:
        seats = random.uniform(*SEATS, 2)
    cysts = [_cyst(random, who, grade, float(seats[0]))]
    if random.random() < 0.45:
        cysts.append(_cyst(random, who, "low", float(seats[1])))
    return Findings(duct, tuple(cysts))


def _cyst(random: np.random.Generator, who: Abdomen, grade: str, seat: float) -> Cyst:
    radius, thick = float(random.uniform(*CYST[grade])), float(random.uniform(*WALL[grade]))
    x, y, z = _seat(who, seat)
    away = random.normal(0, 0.22, 3) * np.array((radius, radius, 0.3 * radius))
    centre = (float(x + away[0]), float(y + away[1]), float(z + away[2]))
    a, b, c = (float(radius * value) for value in random.uniform(0.88, 1.12, 3))
    turn = float(random.uniform(0, np.pi))
    fluid, wall = Ellipsoid(centre, (a, b, c), turn), Ellipsoid(centre, (a + thick, b + thick, c + thick), turn)
    if grade != "high":
        return Cyst(fluid, wall, None)
    angle, size = random.uniform(0, 2 * np.pi), float(random.uniform(0.38, 0.5) * radius)
    far = radius - 0.75 * size
    position = (float(centre[0] + far * np.cos(angle)), float(centre[1] + far * np.sin(angle)), centre[2])
    return Cyst(fluid, wall, Ellipsoid(position, (size, 0.85 * size, 1.2 * size), float(angle)))


def _planted(random: np.random.Generator, who: Abdomen, grade: str) -> Ellipsoid:
    x, y, z = np.mean(who.pancreas.points, axis=0)
    angle, far = random.uniform(0, 2 * np.pi), AROUND * np.sqrt(random.random())
    radius = float(random.uniform(*PLANTED[grade]))
    position = (
        float(x + far * np.cos(angle)),
        float(y + far * np.sin(angle)),
        float(z + random.uniform(-ABOUT, ABOUT)),
    )
    return Ellipsoid(position, (radius, radius, radius))


def _seat(who: Abdomen, seat: float) -> Point:
    line = np.array(who.pancreas.points)
    at = seat * (len(line) - 1)
    x, y, z = (float(np.interp(at, np.arange(len(line)), line[:, axis])) for axis in range(3))
    return x, y, z
