"""The lesions of a pancreas phantom's subject: cysts and a duct by the grade, or one bright ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from casewise.plugins.phantoms.draws import stream
from casewise.plugins.phantoms.pancreas.anatomy import Abdomen
from casewise.plugins.phantoms.pancreas.shapes import Ellipsoid, Tube

Lesion = Literal["cysts", "planted"]

GRADES = ("normal", "low", "high")
# Radius of the duct, mm: a normal duct is barely visible, that of a high grade is clearly dilated.
DUCT = {"normal": (0.9, 1.3), "low": (0.9, 1.6), "high": (3.0, 4.6)}
# Radius of the largest cyst and thickness of its wall, mm.
CYST = {"low": (5.0, 8.0), "high": (11.0, 17.0)}
WALL = {"low": (0.4, 0.8), "high": (2.4, 3.6)}
# Radius of the planted lesion, mm: two sizes that do not overlap. It is no brighter than fat on T1 and fluid on T2;
# otherwise it would widen the intensity range of its scan and change all other tissues once scans are scaled.
PLANTED = {"low": (7.0, 8.0), "high": (18.0, 20.0)}
# The largest distance of the planted lesion from the middle of the pancreas, in plane and in height, mm.
AROUND, ABOUT = 34.0, 6.0
# Cysts lie between these fractions of the way from head to tail.
SEATS = (0.14, 0.86)


@dataclass(frozen=True)
class Cyst:
    """Fluid in a wall, with or without a solid nodule."""

    fluid: Ellipsoid
    wall: Ellipsoid
    nodule: Ellipsoid | None


@dataclass(frozen=True)
class Findings:
    """The lesions of a subject; `duct` runs along the pancreas."""

    duct: Tube
    cysts: tuple[Cyst, ...] = ()
    planted: Ellipsoid | None = None


def findings(seed: int, patient: Abdomen, grade: str, lesion: Lesion = "cysts") -> Findings:
    """Return the lesions of a subject with this grade; normal subjects have only a thin duct.

    Low grade is one or two small cysts with a thin wall. High grade is a large cyst with a thick wall and a nodule on
    it, sometimes a small cyst beside it, and a wide duct. `lesion="planted"` draws a normal pancreas, and for low and
    high one bright ball, small or large, at a random position around it.
    """
    random = stream(seed, "cysts", patient.number)
    wide = random.uniform(*DUCT["normal" if lesion == "planted" else grade])
    inner = patient.pancreas.points[2:-2]
    duct = Tube(inner, tuple(np.linspace(wide, 0.75 * wide, len(inner)).tolist()))
    if grade == "normal":
        return Findings(duct)
    if lesion == "planted":
        return Findings(duct, planted=_planted(stream(seed, "planted", patient.number), patient, grade))
    seats = random.uniform(*SEATS, 2)
    while abs(seats[0] - seats[1]) < 0.35:
        seats = random.uniform(*SEATS, 2)
    cysts = [_cyst(random, patient, grade, seats[0])]
    if random.random() < 0.45:
        cysts.append(_cyst(random, patient, "low", seats[1]))
    return Findings(duct, tuple(cysts))


def _cyst(random: np.random.Generator, patient: Abdomen, grade: str, seat: float) -> Cyst:
    radius, thick = random.uniform(*CYST[grade]), random.uniform(*WALL[grade])
    line = np.array(patient.pancreas.points)
    position = [np.interp(seat * (len(line) - 1), np.arange(len(line)), line[:, axis]) for axis in range(3)]
    centre = tuple(position + random.normal(0, 0.22, 3) * np.array((radius, radius, 0.3 * radius)))
    radii, turn = radius * random.uniform(0.88, 1.12, 3), random.uniform(0, np.pi)
    fluid, wall = Ellipsoid(centre, tuple(radii), turn), Ellipsoid(centre, tuple(radii + thick), turn)
    if grade != "high":
        return Cyst(fluid, wall, None)
    angle, size = random.uniform(0, 2 * np.pi), random.uniform(0.38, 0.5) * radius
    far = radius - 0.75 * size
    beside = centre[0] + far * np.cos(angle), centre[1] + far * np.sin(angle), centre[2]
    return Cyst(fluid, wall, Ellipsoid(beside, (size, 0.85 * size, 1.2 * size), angle))


def _planted(random: np.random.Generator, patient: Abdomen, grade: str) -> Ellipsoid:
    x, y, z = np.mean(patient.pancreas.points, axis=0)
    angle, far = random.uniform(0, 2 * np.pi), AROUND * np.sqrt(random.random())
    radius = random.uniform(*PLANTED[grade])
    centre = x + far * np.cos(angle), y + far * np.sin(angle), z + random.uniform(-ABOUT, ABOUT)
    return Ellipsoid(centre, (radius, radius, radius))
