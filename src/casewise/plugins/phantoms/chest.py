"""The chest phantom: synthetic films with signs inside the lungs, and shortcuts only where they are requested.

Lengths are in body units. A sign is texture or one focus inside the lungs, and its mean over an eighth of the picture
is about zero. Therefore neither the brightness of the film, nor its thumbnail, nor its border reveals the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from casewise.plugins.phantoms.cohort import CohortFolder, Kind, Labels, Progress, Row, check_choice
from casewise.plugins.phantoms.scene import Array, Canvas, Random, filled, smooth, stream

FINDINGS = ("covid", "no_finding", "pneumonia")
_SMALLEST = 48
# The hospital of all films.
_SOURCE = "north"
# The letter in the corner of each class; the second class has none.
_LETTERS = ("L", "", "R")
# The kinds of watermarks, each two lines, and the share of films with one.
_WATERMARKS = (("NORTH", "ward 3"), ("SOUTH", "clinic"))
_WATERMARKED = 0.8
_FIRST_DAY, _DAYS = date(2020, 1, 6), 700
_CHEST = Kind(
    name="chest",
    columns=("path", "subject", "visit", "view", "label", "source", "sex", "age", "date", "lung_mask", "synthetic"),
    picture="film",
    taken="X-rayed",
    contents="""\
cases.csv     one row for each film
phantom.json  the settings, the seed, and the truth: which sign was drawn into each subject's films
images/       <subject>/<visit>.jpg or .png, each marked as synthetic in its comment
masks/        <subject>/<visit>.png, 255 inside the lungs
""",
    unit="films",
    sides=(_SMALLEST, 1024),
    classes=FINDINGS,
)


@dataclass(frozen=True)
class ChestSettings:
    """Everything that determines the bytes of the cohort.

    Every subject has `images` films. A film has about `size` (width, height) pixels. `marker="corner"` burns a letter
    that follows the class into one corner. `watermark` draws one of two faint marks into the lower left of most films,
    the first of them on the first class only (`class`), or by `chance` for each subject. `labels="shuffled"` permutes
    the labels between subjects after the films are drawn, so that nothing can be learned.
    """

    subjects: int = 60
    images: int = 1
    classes: tuple[str, ...] = FINDINGS
    size: tuple[int, int] = (320, 320)
    seed: int = 0
    labels: Labels = "true"
    marker: Literal["corner", None] = None
    watermark: Literal["class", "chance", None] = None


def make_chest(folder: Path, *, progress: Progress | None = None, **settings: Any) -> Path:
    """Draw a chest phantom into `folder` and return the path of its `cases.csv`, one row a film.

    A subject's films are taken on different days, each a visit: the same anatomy with slightly different exposure and
    position. Classes are as equal in number as possible and independent of anatomy, sex, age, date and file format.
    The size of a film varies by 8 %; every film has a mask of its lungs. The same settings give the same bytes, and a
    subject's films do not depend on the number of subjects.

    Signs of disease are drawn inside the lungs only and leave the mean brightness of any eighth of the film unchanged,
    so nothing else reveals the class unless `marker` or `watermark` request it.

    Args:
        settings: the fields of `ChestSettings`.
        progress: receives the numbers of finished films and of all films.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not a chest phantom.
    """
    options = ChestSettings(**settings)
    return CohortFolder(folder, _CHEST, options, options.subjects * options.images, progress).draw(_draw_subject)


def draw_film(
    subject_number: int, *, finding: str, image: int = 0, seed: int = 0, size: tuple[int, int] = (320, 320)
) -> Film:
    """Return one film of a subject with any finding, with its lungs and the contribution of the sign; counts from 0.

    Raises:
        CasewiseError: no such finding.

    >>> film = draw_film(0, finding="pneumonia", size=(96, 80))
    >>> film.picture.shape, bool((film.sign[~film.lungs] == 0).all())
    ((80, 96), True)
    """
    check_choice("The finding", finding, FINDINGS)
    return _film(_Chest(seed, subject_number), image, finding, size)


def _draw_subject(cohort: CohortFolder, number: int, finding: str, label: str) -> Row:
    settings, seed, chest = cohort.settings, cohort.settings.seed, _Chest(cohort.settings.seed, number)
    name, days = f"C{number + 1:04d}", stream(seed, "days", number)
    day = _FIRST_DAY + timedelta(days=int(days.integers(_DAYS)))
    for image in range(settings.images):
        random = stream(seed, "native size", number, image)
        width, height = (max(round(side * random.uniform(0.92, 1.08)), _SMALLEST) for side in settings.size)
        film = _film(chest, image, finding, (width, height))
        _mark(film.picture, settings, number, image, finding)
        suffix = ".png" if stream(seed, "format", number, image).random() < 0.5 else ".jpg"
        path, mask = f"images/{name}/{image + 1}{suffix}", f"masks/{name}/{image + 1}.png"
        cohort.save_image(path, film.picture)
        cohort.save_image(mask, film.lungs)
        person = {"subject": name, "label": label, "source": _SOURCE, "view": "PA", "sex": chest.sex, "age": chest.age}
        cohort.add(path=path, visit=image + 1, date=day.isoformat(), lung_mask=mask, **person)
        day += timedelta(days=int(days.integers(1, 15)))
    return {"subject": name, "finding": finding, "label": label, "source": _SOURCE}


def _mark(picture: Array, settings: ChestSettings, number: int, image: int, finding: str) -> None:
    """Write in place the letter and the watermark that the settings request."""
    if settings.marker is not None:
        random, unit = stream(settings.seed, "marker", number, image), min(picture.shape)
        size = max(0.075 * unit, 6.0)
        left, top = (round(float(value)) for value in 0.025 * unit + random.uniform(0, 0.02 * unit, 2))
        # A letter of this font is 21 pixels high at a scale of 1, and is positioned by its lower left corner.
        _write(picture, _LETTERS[settings.classes.index(finding)], (left, top + round(size)), size / 21, 250, size / 7)
    if settings.watermark is not None:
        random = stream(settings.seed, "watermark", number)
        chance, kind = random.random(), int(random.integers(2))
        kind = int(finding != settings.classes[0]) if settings.watermark == "class" else kind
        unit, ink = min(settings.size) // 16, np.zeros(picture.shape, np.uint8)
        for line, text in enumerate(reversed(_WATERMARKS[kind])):
            _write(ink, text, (unit, len(picture) - unit - 2 * unit * line), unit / 16, 60, unit // 10)
        if chance < _WATERMARKED:
            picture[:] = cv2.add(picture, ink)


def _write(picture: Array, text: str, corner: tuple[int, int], scale: float, bright: int, thick: float) -> None:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, corner, font, scale, bright, max(round(thick), 1), cv2.LINE_AA)


# The anatomy.

_SIDES = (-1, 1)  # the subject's right lies on the left of the picture
# The range of the density of each part of a film; a thick body without lungs has about 1.
_DENSITIES = {
    "body": (0.50, 0.64), "air": (0.78, 1.0), "heart": (0.24, 0.34), "spine": (0.03, 0.09), "ribs": (0.08, 0.15),
    "front": (0.3, 0.7), "clavicles": (0.06, 0.13), "scapulae": (0.015, 0.045), "abdomen": (0.18, 0.34),
    "breasts": (0.03, 0.10), "vessels": (0.07, 0.13), "texture": (0.006, 0.014), "unevenness": (0.03, 0.075),
    "across": (-0.10, 0.10), "down": (-0.14, 0.14),
}  # fmt: skip


class _Chest:
    """The constant anatomy of subject `number` (from 0), independent of the size of the cohort.

    Outlines are closed, lines open, all `(N, 2)` in body units; by side, the subject's right is first. `ribs` are the
    steep posterior and the faint anterior arc, the width and the visibility of each.
    """

    def __init__(self, seed: int, number: int) -> None:
        random = stream(seed, "chest", number)
        u = random.uniform
        self.seed, self.number = seed, number
        self.sex, self.age = "FM"[int(random.integers(2))], int(random.integers(18, 91))
        wide, high = u(0.85, 1.12), u(0.87, 1.12)
        top, floor = u(-0.41, -0.34) * high, u(0.08, 0.28) * high
        middle, apex = u(0.045, 0.075), u(0.115, 0.165)
        # The heart and vessels of a subject who leans are visible beside the spine.
        lean = u(-0.035, 0.035)
        offset, tilt, breadth = np.array([lean, 0.0]), u(-0.03, 0.03), wide * u(0.345, 0.385)
        width = {side: breadth + u(-0.012, 0.012) for side in _SIDES}
        floors = {-1: floor, 1: floor + u(-0.02, 0.06)}
        tops = {side: top + side * tilt * 0.6 + u(-0.008, 0.008) for side in _SIDES}
        self.lungs = [_lung(u, side, tops[side], floors[side], width[side], apex, middle) for side in _SIDES]
        fat, shoulder = u(0.02, 0.13), u(-0.37, -0.28)
        arm_out, self.arm_width = u(0.03, 0.20), u(0.05, 0.075)
        self.hila = np.array(
            [[lean + side * (middle + u(0.02, 0.035)), u(-0.08, 0.01) - 0.012 * side] for side in _SIDES]
        )
        self.vessels, self.calibre = _vessels(random, self.hila)
        self.torso = _torso(u, width, fat, shoulder)
        self.arms = [_arm(u, side, width[side] + fat + 0.045, shoulder, arm_out) for side in _SIDES]
        self.heart = _heart(u, floors, width[1]) + offset
        self.mediastinum = _mediastinum(u, middle) + offset
        self.abdomen = _abdomen(width, floors)
        y, bend, phase = np.linspace(-0.8, 0.9, 24), u(-0.014, 0.014), u(0, 2 * np.pi)
        self.spine = np.column_stack([bend * np.sin(2.6 * y + phase) - bend * np.sin(phase), y])
        end, lean = u(-0.17, -0.11), u(-0.008, 0.012)
        self.trachea = smooth([(lean * 0.3, -0.75), (lean * 0.6, -0.4), (-lean, end)], 5) + 0.6 * offset
        self.clavicles = [_clavicle(u, side, top, wide) for side in _SIDES]
        self.scapulae = [_scapula(u, side, width[side]) for side in _SIDES]
        self.breasts = [_breast(u, side, floor, width[side]) for side in _SIDES if self.sex == "F"]
        has_bubble = random.random() < 0.6
        self.bubble = [_circle(u(0.10, 0.20), floors[1] + u(0.06, 0.09), u(0.025, 0.05)) for _ in range(has_bubble)]
        self.ribs = _ribs(random, self.lungs, top)
        self.leads = _leads(random)
        self.densities = {name: u(*limits) for name, limits in _DENSITIES.items()}


def _circle(x: float, y: float, radius: float) -> Array:
    """A closed outline, a little wider than high."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.column_stack([x + radius * np.cos(angle), y + 0.85 * radius * np.sin(angle)])


def _lung(u: Any, side: int, top: float, floor: float, width: float, apex: float, middle: float) -> Array:
    dome, long = u(0.42, 0.6) * width, floor - top
    waist = u(0.96, 1.0)  # the shape of the chest: its width at half height relative to that below
    points = [
        (apex - 0.065, top + 0.035), (apex, top),
        (apex + (0.8 * width - apex) * u(0.50, 0.58), top + u(0.08, 0.10) * long),
        (width * u(0.78, 0.82), top + u(0.25, 0.29) * long),
        (width * u(0.92, 0.95) * waist, top + u(0.48, 0.56) * long),
        (width * u(0.99, 1.0), top + u(0.74, 0.82) * long), (width * u(0.99, 1.01), floor + 0.02),
        (width * u(0.955, 0.975), floor + u(0.085, 0.11)), (width * 0.90, floor + u(0.065, 0.075)),
        (width * 0.80, floor + u(0.02, 0.03)), (dome, floor), (0.11, floor + u(0.012, 0.03)),
        (0.05, floor + u(0.04, 0.06)), (middle * 0.5, floor * 0.5), (middle * 0.6, -0.06), (middle * 0.9, -0.2),
    ]  # fmt: skip
    return smooth(points, 7, closed=True) * [side, 1]


def _torso(u: Any, width: dict[int, float], fat: float, shoulder: float) -> Array:
    neck, slope, hip = u(0.085, 0.125), u(0.03, 0.075), u(-0.02, 0.05)
    points: list[tuple[float, float]] = []
    for side in (1, -1):
        wall = width[side] + fat
        half = [
            (neck, -0.85), (neck, -0.56 + slope), (neck + 0.07, shoulder - 0.11), (wall * 0.88, shoulder - slope),
            (wall + 0.07, shoulder + 0.03), (wall + 0.06, shoulder + 0.15), (wall + 0.015, shoulder + 0.28),
            (wall, 0.12), (wall + hip * 0.6, 0.42), (wall + hip, 0.85),
        ]  # fmt: skip
        points += [(side * x, y) for x, y in half[::side]]
    return smooth(points, 6, closed=True)


def _arm(u: Any, side: int, x: float, shoulder: float, out: float) -> Array:
    points = [(x - 0.03, shoulder + u(0.01, 0.03)), (x + out * 0.6, shoulder + 0.17), (x + out, shoulder + 0.4)]
    return smooth([*points, (x + out * u(0.9, 1.4), shoulder + 1.5)], 5) * [side, 1]


def _heart(u: Any, floors: dict[int, float], width: float) -> Array:
    """A tilted egg that lies on the left dome."""
    long, short, tilt = u(0.40, 0.62) * width, u(0.28, 0.42) * width, u(0.35, 0.9)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    along, across = long * np.cos(angle), short * np.sin(angle) * (1 + 0.12 * np.cos(angle))
    x = along * np.cos(tilt) - across * np.sin(tilt) + u(0.035, 0.06)
    y = along * np.sin(tilt) + across * np.cos(tilt)
    return np.column_stack([x, y - y.max() + floors[1] + u(0.02, 0.055)])


def _mediastinum(u: Any, middle: float) -> Array:
    """The shadow of the great vessels, with the aorta's knob on its left."""
    left, right, knob = middle * u(0.75, 0.95), middle * u(0.85, 1.1), u(-0.22, -0.16)
    bulge = u(1.1, 1.5)
    points = [
        (-0.055, -0.62), (-right * 0.95, -0.40), (-right * 0.85, -0.25), (-right, -0.12), (-right * 1.4, 0.04),
        (-0.055, 0.36), (0.06, 0.36), (left * 2.1, 0.06), (left * 1.6, -0.05), (left * bulge, knob + 0.06),
        (left * bulge * 1.08, knob + 0.015), (left * bulge, knob - 0.025), (left * 0.85, knob - 0.06),
        (left * 0.8, -0.38), (0.055, -0.62),
    ]  # fmt: skip
    return smooth(points, 6, closed=True)


def _abdomen(width: dict[int, float], floors: dict[int, float]) -> Array:
    """The outline below the diaphragm: the lower edge of both lungs, down to below the picture."""
    dome = ((1.02, 0.13), (0.93, 0.075), (0.8, 0.03), (0.5, 0.0), (0.2, 0.03))
    right, left = ([(side * x * width[side], floors[side] + y) for x, y in dome] for side in _SIDES)
    ends = [(side * (width[side] + 0.3), floors[side] + 0.30) for side in _SIDES]
    edge = smooth([ends[0], *right, (0.0, max(floors.values()) + 0.05), *left[::-1], ends[1]], 5)
    return np.vstack([edge, [[1.2, 1.2], [-1.2, 1.2]]])


def _breast(u: Any, side: int, floor: float, width: float) -> Array:
    x, y, across, down = width * u(0.6, 0.75), floor + u(-0.08, 0.03), u(0.10, 0.16), u(0.10, 0.16)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    low = np.where(np.sin(angle) > 0, 1.0, 1.35)
    return np.column_stack([side * (x + across * np.cos(angle)), y + down * low * np.sin(angle)])


def _vessels(random: Random, hila: Array) -> tuple[Array, Array]:
    """Lines that fan out from the hila in four generations, `(V, 6, 2)`, and their calibres `(V,)`."""
    start, angle, calibre = [], [], []
    for side, hilum in zip(_SIDES, hila, strict=True):
        count = int(random.integers(8, 11))
        fan = np.linspace(-1.35, 1.3, count) + random.normal(0, 0.12, count)
        start.append(hilum + random.normal(0, 0.008, (count, 2)))
        angle.append(fan if side > 0 else np.pi - fan)
        calibre.append(random.uniform(0.006, 0.0095, count))
    at, direction, calibres = np.concatenate(start), np.concatenate(angle), np.concatenate(calibre)
    lines, widths = [], []
    for generation, length in enumerate((0.10, 0.09, 0.075, 0.055)):
        reach, bend = length * random.uniform(0.7, 1.25, len(at)), random.normal(0, 0.5, len(at))
        heading = direction[:, None] + bend[:, None] * np.linspace(0, 1, 6)
        steps = (reach / 5)[:, None, None] * np.stack([np.cos(heading), np.sin(heading)], -1)
        line = at[:, None, :] + np.concatenate([np.zeros((len(at), 1, 2)), np.cumsum(steps[:, :-1], axis=1)], axis=1)
        lines.append(line)
        widths.append(calibres)
        if generation == 3:
            break
        split = random.uniform(0.2, 0.55, len(at))
        at = np.concatenate([line[:, -1], line[:, -1], line[:, 2 + generation % 2]])
        turn = heading[:, -1]
        direction = np.concatenate([turn + split, turn - random.uniform(0.2, 0.55, len(split)), turn + 1.6 * split])
        calibres = np.concatenate([calibres * 0.68, calibres * 0.62, calibres * 0.5])
    return np.concatenate(lines), np.concatenate(widths)


def _leads(random: Random) -> list[Array]:
    """One or two wires that lie on the chest, in one subject of four."""
    leads = []
    for _ in range(0 if random.random() > 0.25 else int(random.integers(1, 3))):
        side, ends = random.choice(_SIDES), random.uniform([0.1, -0.2], [0.34, 0.2])
        begin = np.array([random.uniform(0.05, 0.6), -0.7 if random.random() < 0.6 else 0.8])
        t = np.linspace(0, 1, 5)[:, None]
        line = begin + (ends - begin) * t + random.normal(0, 0.05, (5, 2)) * np.sin(np.pi * t)
        leads.append(smooth(line * [side, 1], 6))
    return leads


def _clavicle(u: Any, side: int, top: float, wide: float) -> Array:
    inner, lift = top + u(0.105, 0.155), u(0.03, 0.10)
    x, drop, rise = (0.13, 0.24, 0.33, 0.39), (-0.012, -0.022, -0.012, 0.006), (0.25, 0.7, 0.9, 0.9)
    points = [(a * wide, inner + d - lift * r) for a, d, r in zip(x, drop, rise, strict=True)]
    return smooth([(u(0.028, 0.042), inner), *points], 5) * [side, 1]


def _scapula(u: Any, side: int, width: float) -> Array:
    x, y = width * u(0.9, 1.06), u(-0.34, -0.28)
    corners = [(-0.03, 0.0), (0.03, -0.03), (0.10, 0.0), (0.06, 0.13), (0.01, u(0.24, 0.30)), (-0.025, 0.14)]
    return smooth([(x + a, y + b) for a, b in corners], 5, closed=True) * [side, 1]


def _ribs(random: Random, lungs: list[Array], top: float) -> list[tuple[Array, Array, float, float]]:
    """9 to 11 pairs: each runs from the spine to the chest wall, and from there forwards and down."""
    u = random.uniform
    pairs, spacing = int(random.integers(9, 12)), u(0.066, 0.084)
    drop, bend, front, broad = u(0.05, 0.13), u(1.5, 2.6), u(0.05, 0.13), u(0.018, 0.025)
    first, t = top + u(-0.03, 0.01), np.linspace(0, 1, 22)
    ribs: list[tuple[Array, Array, float, float]] = []
    for pair in range(pairs):
        start = first + pair * spacing * (1 + 0.012 * pair)
        for side, lung in zip(_SIDES, lungs, strict=True):
            begin, down = start + u(-0.004, 0.004), drop * u(0.9, 1.1) * min(1.0, 0.45 + 0.12 * pair)
            y = begin - 0.018 * np.sin(np.pi * t) + down * t**bend
            x = 0.03 + (_wall_at(lung, y[-1]) + 0.008 - 0.03) * (1 - (1 - t) ** 1.55)
            end, back, reach = u(0.10, 0.15), t**0.8, _wall_at(lung, y[-1] + 0.035) + 0.008
            front_arc = [reach - (reach - end) * back**1.4, y[-1] + 0.012 + (front + 0.03) * back + 0.02 * t]
            clear = u(0.85, 1.15) * (1 if pair else 0.7)
            behind, before = (np.column_stack(arc) * [side, 1] for arc in ([x, y], front_arc))
            ribs.append((behind, before, broad * u(0.92, 1.08), clear))
    return ribs


def _wall_at(lung: Array, y: float) -> float:
    """The x of the lung's wall near height `y`; below its widest part, the x of that part."""
    wall = np.abs(lung[:, 0])
    near = wall[np.abs(lung[:, 1] - y) < 0.035]
    return float(wall.max() if y > lung[:, 1].max() - 0.06 or not len(near) else near.max())


# The sign of a disease.

_COARSEST = {"haze": 0.05, "focus": 0.068}  # in body units: smoother components are removed from a sign
_MARGIN, _RAMP = 0.014, 0.022  # distance from the lung's outline at which a sign begins, and the width of its ramp
_GRID, _GRAIN = 56, 0.030  # the texture's grid, and the length of its cells in body units
_SIGN_AT_MOST = 160  # a sign is smooth, so it is computed on at most this many pixels a side


class _Sign(NamedTuple):
    """`spots` `(N, 3)` of x, y and radius in body units, `texture` a standard normal grid, `strength` in densities.

    `kind` "haze" is texture within the spots, "focus" one dense spot.
    """

    kind: str
    spots: Array
    texture: Array
    strength: float


def _sign(chest: _Chest, finding: str) -> _Sign:
    random = stream(chest.seed, "sign", finding, chest.number)
    texture = random.standard_normal((_GRID, _GRID), dtype=np.float32)
    if finding == "pneumonia":
        spot = _spot(random, chest, int(random.integers(2)), down=(0.25, 0.85), out=(0.35, 0.75))
        return _Sign("focus", np.array([[*spot, random.uniform(0.048, 0.068)]]), texture, random.uniform(0.36, 0.48))
    spots = [
        [*_spot(random, chest, index, down=(0.48, 0.92), out=(0.55, 0.92)), random.uniform(0.045, 0.085)]
        for index in (0, 1)
        for _ in range(int(random.integers(2, 5)))
    ]
    return _Sign("haze", np.array(spots), texture, random.uniform(0.17, 0.25))


def _spot(
    random: Random, chest: _Chest, index: int, *, down: tuple[float, float], out: tuple[float, float]
) -> tuple[float, float]:
    """A point of a lung, given the share of its height from the top and of its width from the middle."""
    lung, side = chest.lungs[index], _SIDES[index]
    # Down to the diaphragm's dome, not to the corner beside it.
    dome = np.abs(np.abs(lung[:, 0]) - np.abs(lung[:, 0]).max() * 0.5) < 0.03
    y = lung[:, 1].min() + random.uniform(*down) * (lung[dome, 1].max() - lung[:, 1].min())

    def reach(outline: Array) -> float:
        near = outline[np.abs(outline[:, 1] - y) < 0.05, 0]
        return float((side * near).max()) if len(near) else 0.0

    # Beside the heart, because a sign behind it would be invisible.
    inner = max(reach(np.vstack([chest.heart, chest.mediastinum])), 0.05)
    outer = max(reach(lung), inner + 0.05)
    return side * (inner + random.uniform(*out) * (outer - inner)), float(y)


def _spread(texture: Array, inverse: Array, shape: tuple[int, int]) -> Array:
    """A grid of the body at the pixels of a film of `shape`; `inverse` `(2, 3)` maps pixels to body units."""
    to_grid = np.array([[1 / _GRAIN, 0.0], [0.0, 1 / _GRAIN]]) @ inverse
    to_grid[:, 2] += (_GRID - 1) / 2
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(texture, to_grid, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)


def _contribution(sign: _Sign, canvas: Canvas, breath: float, room: Array, slope: Array) -> Array:
    """The contribution of a sign to a film, `(H, W)` in grey levels, computed on fewer pixels; zero where `room` is.

    Args:
        room: `(H, W)` in 0-1, where in the lungs a sign may be.
        slope: `(H, W)`, grey levels a unit of density, which is smaller where the film is dark or bright.
    """
    height, width = room.shape
    fewer = min(1.0, _SIGN_AT_MOST / max(height, width))
    small = (max(round(width * fewer), 1), max(round(height * fewer), 1))
    step = np.array([width / small[0], height / small[1]])
    # Pixel centres: pixel i of the small film is at (i + 0.5) * step - 0.5 of the large one.
    inverse = canvas.inverse.copy()
    inverse[:, 2] += inverse[:, :2] @ (0.5 * step - 0.5) - [0, breath * 0.8]
    inverse[:, :2] *= step
    smaller_room, steep = (cv2.resize(values, small, interpolation=cv2.INTER_AREA) for values in (room, slope))
    columns, rows = np.arange(small[0])[None, :], np.arange(small[1])[:, None]
    x, y = ((line[0] * columns + line[1] * rows + line[2]).astype(np.float32) for line in inverse)
    texture = _spread(sign.texture, inverse, smaller_room.shape)
    if sign.kind == "focus":
        centre_x, centre_y, radius = sign.spots[0]
        distance = np.sqrt(np.square(x - centre_x) + np.square(y - centre_y)) / np.float32(radius)
        # An irregular edge: the texture moves the outline by up to a third of the radius.
        raw = 1 / (1 + np.exp((distance + np.float32(0.22) * texture - 1) * np.float32(4)))
    else:
        cover = np.zeros_like(x)
        for centre_x, centre_y, radius in sign.spots:
            near = np.square(x - centre_x) + np.square(y - centre_y)
            np.maximum(cover, np.exp(near * np.float32(-0.5 / radius**2)), out=cover)
        fine = _spread(sign.texture[::-1], inverse / 0.6, smaller_room.shape)
        # A logistic function makes clouds of uniform brightness over a third of the spot, without pits between them.
        cloud = np.float32(0.75) * texture + np.float32(0.55) * fine
        raw = cover / (1 + np.exp((cloud - np.float32(0.35)) * np.float32(-3.2)))
    raw *= steep * np.float32(sign.strength)
    level = _levelled(raw, smaller_room, _COARSEST[sign.kind] * canvas.scale * fewer)
    return cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR) * (room > 0)


def _levelled(raw: Array, room: Array, blur: float) -> Array:
    """Return `raw` within `room` minus its local mean, so that averages over wide areas do not change.

    >>> room = np.ones((64, 64), np.float32)
    >>> raw = np.zeros((64, 64), np.float32); raw[30:34, 30:34] = 1
    >>> flat = _levelled(raw, room, 4.0)
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


# The film.


@dataclass(frozen=True)
class Film:
    """A drawn film: `picture` `(H, W) uint8`, `lungs` `(H, W) bool`, and `sign` `(H, W) float32`.

    `sign` is the contribution of the disease in grey levels, zero outside the lungs.
    """

    picture: Array
    lungs: Array
    sign: Array


def _film(chest: _Chest, image: int, finding: str, size: tuple[int, int]) -> Film:
    """Draw film `image` (from 0) of a subject in `size` (width, height) pixels.

    The rest of the film, including the grain, is the same with and without a sign.
    """
    random, shape = stream(chest.seed, "film", f"C{chest.number + 1:04d}", image), size[::-1]
    canvas = _placed(chest, random, shape)
    breath = float(random.uniform(-0.012, 0.012))
    density, lungs, room = _density(chest, canvas, breath)
    grey, slope = _exposed(density, lungs > 127, random)
    grey = cv2.GaussianBlur(grey, (0, 0), max(0.0014 * canvas.scale, 0.35))
    added = np.zeros(shape, np.float32)
    if finding != "no_finding":
        added = _contribution(_sign(chest, finding), canvas, breath, room, slope)
    # A narrow beam leaves a black strip at some edges of one film of five.
    beam = stream(chest.seed, "collimation", chest.number)
    if beam.random() <= 0.2:
        strips = beam.uniform(0, 0.035, 4) * (beam.random(4) < 0.5)
        left, right, top, bottom = (round(s * n) for s, n in zip(strips, (*size[:1] * 2, *size[1:] * 2), strict=True))
        for strip in (np.s_[:, :left], np.s_[:, size[0] - right :], np.s_[:top], np.s_[size[1] - bottom :]):
            grey[strip] = grey[strip] * np.float32(0.12)
    grain = np.float32(random.uniform(0.8, 4.6))
    speckle = random.standard_normal(shape, dtype=np.float32) * grain
    return Film(cv2.convertScaleAbs(np.maximum(grey + added + speckle, 0)), lungs > 127, added)


def _placed(chest: _Chest, film: Random, shape: tuple[int, int]) -> Canvas:
    """The film's position before the body; a subject's films are similar."""
    subject = stream(chest.seed, "position", chest.number)
    turn = np.deg2rad(subject.uniform(-4, 4) + film.uniform(-1.2, 1.2))
    shift = subject.uniform((-0.05, -0.06), (0.05, 0.06)) + film.uniform(-0.012, 0.012, 2)
    # The tops of the lungs are always on the film.
    top = min(float(lung[:, 1].min()) for lung in chest.lungs)
    zoom = min(subject.uniform(0.86, 1.24) * film.uniform(0.985, 1.015), 0.465 / max(-(top + shift[1]), 0.3))
    scale = min(shape) * zoom
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    return Canvas(np.column_stack([linear, middle + scale * shift]), float(scale), shape)


def _breathed(points: Array, depth: float) -> Array:
    """Return `points` with the low ones moved down by up to `depth` body units, as in a deeper breath.

    >>> _breathed(np.array([[0.1, -0.4], [0.1, 0.3]]), 0.02)[:, 1].round(3).tolist()
    [-0.4, 0.32]
    """
    share = np.clip((points[..., 1] + 0.25) / 0.45, 0, 1)
    moved: Array = points.copy()
    moved[..., 1] += depth * share * share * (3 - 2 * share)
    return moved


def _density(chest: _Chest, canvas: Canvas, breath: float) -> tuple[Array, Array, Array]:
    """The density of each pixel, the visible lungs (0-255), and the area for signs (0-1)."""
    much, soft, fill, bands = chest.densities, canvas.soft, canvas.fill, canvas.bands
    height, width = canvas.shape
    # Of each row and column in the middle of the film, in body units.
    line = canvas.inverse[1]
    y = (line[1] * np.arange(height) + line[0] * width / 2 + line[2]).astype(np.float32)[:, None]
    line = canvas.inverse[0]
    x = (line[0] * np.arange(width) + line[1] * height / 2 + line[2]).astype(np.float32)[None, :]
    deep = canvas.depth(fill(chest.torso))
    body = 1 - 0.75 * np.exp(deep * (-1 / 0.022)) - 0.25 * np.exp(deep * (-1 / 0.12))
    limbs = canvas.depth(bands((arm, 2 * chest.arm_width, 255) for arm in chest.arms))
    body = np.maximum(body, 0.8 * filled(limbs, 0.03))
    density = much["body"] * body

    middle = canvas.rounded(fill(_breathed(chest.heart, breath), chest.mediastinum), 0.014)
    abdomen = fill(_breathed(chest.abdomen, breath))
    whole = fill(*(_breathed(lung, breath) for lung in chest.lungs))
    lungs = cv2.subtract(whole, cv2.max(middle, abdomen))
    depth = canvas.depth(lungs)
    air = 0.66 + 0.34 * filled(depth, 0.045)
    # The bases contain more blood and muscle than the tops.
    air *= np.clip(0.94 - 0.32 * y, 0.75, 1.1)
    density -= 0.38 * much["air"] * air * soft(lungs, 0.003)
    # Lung behind the heart and below the dome makes their outlines visible.
    density -= 0.10 * much["air"] * soft(whole - np.minimum(whole, lungs), 0.012)

    below = 0.5 * soft(abdomen, 0.003) + 0.5 * filled(canvas.depth(abdomen), 0.06)
    bulge = 0.45 * soft(middle, 0.004) + 0.55 * filled(canvas.depth(middle), 0.05)
    bulge *= np.clip((y + 0.56) / 0.48, 0.2, 1)
    bulge, below = much["heart"] * bulge, much["abdomen"] * below * body
    # Heart and liver have the same density, so the border between them is invisible below the dome.
    density += np.maximum(bulge, below) + 0.25 * np.minimum(bulge, below)
    if chest.bubble:
        density -= 0.12 * soft(fill(*(_breathed(bubble, breath) for bubble in chest.bubble)), 0.012)
    # Exposure is uneven: one side of the film receives more rays, and the bases are thicker than the tops.
    density += much["across"] * x * body
    density += much["down"] * y * body
    _add_bones(chest, canvas, density, body, soft(lungs, 0.02), x, y)
    if chest.breasts:
        density += much["breasts"] * soft(fill(*chest.breasts), 0.012) * body
    _add_texture(chest, canvas, density, body, soft(lungs), breath)
    return density, lungs, np.clip((depth - np.float32(_MARGIN)) * np.float32(1 / _RAMP), 0, 1)


def _add_bones(chest: _Chest, canvas: Canvas, density: Array, body: Array, over: Array, x: Array, y: Array) -> None:
    """Add spine, trachea, ribs, clavicles, arms and shoulder blades in place; `over` is 1 in front of the lungs."""
    much, soft, fill, bands = chest.densities, canvas.soft, canvas.fill, canvas.bands
    discs = 0.75 + 0.25 * np.cos(y * (2 * np.pi / 0.062))
    density += much["spine"] * soft(bands([(chest.spine, 0.066, 190), (chest.spine, 0.012, 255)]), 0.006) * discs
    density -= 0.09 * soft(bands([(chest.trachea, 0.034, 255)]), 0.006)

    # The rims of ribs are hard bone and brighter than the middle.
    behind: list[tuple[Array, float, int]] = []
    front: list[tuple[Array, float, int]] = []
    for back, before, width, clear in chest.ribs:
        for lines, line, bright in ((behind, back, 215), (front, before, 200)):
            bright = min(round(bright * clear), 255)
            lines += [(line, width, bright), (line, width * 0.6, round(bright * 0.5))]
    # Ribs end in front in cartilage, which is hardly visible.
    ribs, out = soft(bands(behind), 0.0018), np.abs(x)
    ends = soft(bands(front), 0.003) * np.clip((out - 0.10) / 0.12, 0, 1)
    density += much["ribs"] * (ribs + much["front"] * ends) * (0.25 + 0.75 * over) * body

    bars = [(line, 0.028, 255) for line in chest.clavicles]
    marrow = [(line[1:-1], 0.014, 140) for line in chest.clavicles]
    density += much["clavicles"] * soft(bands(bars + marrow), 0.003) * np.clip((0.43 - out) / 0.12, 0.1, 1) * body
    rim = bands([(np.vstack([blade, blade[:1]]), 0.011, 255) for blade in chest.scapulae])
    density += much["scapulae"] * (soft(fill(*chest.scapulae), 0.008) + soft(rim, 0.004)) * body
    humeri = [(arm, wide, bright) for wide, bright in ((0.05, 255), (0.024, 150)) for arm in chest.arms]
    density += 0.09 * soft(bands(humeri), 0.004) * body
    if chest.leads:
        density += 0.11 * soft(bands((lead, 0.005, 255) for lead in chest.leads), 0.001) * body
        density += 0.16 * soft(fill(*(_circle(lead[-1, 0], lead[-1, 1], 0.008) for lead in chest.leads)), 0.001)


def _add_texture(chest: _Chest, canvas: Canvas, density: Array, body: Array, air: Array, breath: float) -> None:
    """Add vessels, hila and the fine unevenness of all tissue in place."""
    much, random = chest.densities, stream(chest.seed, "texture", chest.number)
    vessels = canvas.threads(_breathed(chest.vessels, breath), chest.calibre)
    density += much["vessels"] * canvas.soft(vessels, 0.0014) * air
    rows, columns = (np.arange(side, dtype=np.float32) for side in canvas.shape)
    for x, y in chest.hila @ canvas.forward[:, :2].T + canvas.forward[:, 2]:
        across = np.exp(np.square((columns - x) / (0.035 * canvas.scale)) * np.float32(-0.5))
        along = np.exp(np.square((rows - y) / (0.055 * canvas.scale)) * np.float32(-0.5))
        density += 0.07 * across[None, :] * along[:, None]
    for zoom, name in ((1, "texture"), (0.4, "texture"), (3.5, "texture"), (5, "unevenness"), (10, "unevenness")):
        grid = random.standard_normal((_GRID, _GRID), dtype=np.float32)
        density += much[name] * _spread(grid, canvas.inverse / zoom, canvas.shape) * body


def _exposed(density: Array, lungs: Array, random: Random) -> tuple[Array, Array]:
    """Grey levels (0-255) by the film's S-shaped curve, and its slope: grey levels a unit of density."""
    dark = float(density[lungs].mean()) if lungs.any() else 0.2
    bright = float(np.percentile(density[::3, ::3], 88))
    contrast = random.uniform(1.9, 3.3) / max(bright - dark, 0.1)
    level = dark + (bright - dark) * random.uniform(0.25, 0.44)
    black, white, gamma = random.uniform(0, 12), random.uniform(225, 250), random.uniform(0.8, 1.25)
    # The sigmoid of density to the power gamma, and its derivative, in one pass over the pixels.
    curve = 1 / (1 + np.exp((density - np.float32(level)) * np.float32(-contrast)))
    bent = curve ** np.float32(gamma)
    slope = np.float32((white - black) * contrast * gamma) * bent * (1 - curve)
    return np.float32(black) + np.float32(white - black) * bent, slope
