"""A phantom subject: its constants (skin tone, build, backdrop, moles, a tattoo, the sites of plaques) and its disease.

The severity of its psoriasis is continuous; it has a course under treatment, and grades of a physician.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import cv2
import numpy as np
from scipy.special import ndtr

from casewise.plugins.phantoms.draws import Random, stream
from casewise.plugins.phantoms.psoriasis.bodies import CANVAS, PHOTOGRAPHS, UNIT, Build, Floats, Maps, pose, render_body

REGIONS = ("upper", "trunk", "lower", "head")
REGION_WEIGHTS = {"upper": 0.2, "trunk": 0.3, "lower": 0.4, "head": 0.1}
AREA_EDGES = (0.0, 0.10, 0.30, 0.50, 0.70, 0.90, 1.0)
WEEKS_BETWEEN_VISITS = 4
READER_SD = 0.15

Response = Literal["responder", "partial", "worsening"]
# Each twelve subjects have this mixture: cohorts of any size are close to it, and enlarging one changes no subject.
BLOCK: tuple[Response, ...] = ("responder",) * 9 + ("partial",) * 2 + ("worsening",)


# The limits of the time constant in weeks, and of the share of the first severity that remains.
TEMPO = {
    "responder": ((3.5, 7.0), (0.0, 0.24)),
    "partial": ((4.0, 9.0), (0.45, 0.70)),
    "worsening": ((6.0, 12.0), (1.1, 1.35)),
}


@dataclass(frozen=True)
class Grades:
    """Integer grades of one region at one visit: three severities 0-4 and the area grade 0-6."""

    erythema: int
    induration: int
    scaling: int
    area: int

    @property
    def composite(self) -> int:
        """The regional composite (E + I + S) x area (001_ebc83a9f1def4e9d.txt, Equation 1).

        >>> Grades(3, 2, 1, 4).composite
        24
        """
        return (self.erythema + self.induration + self.scaling) * self.area


@dataclass(frozen=True)
class Severity:
    """Continuous severity of one region: erythema, induration, scaling in [0, 4], area in [0, 6] on the grade scale."""

    erythema: float
    induration: float
    scaling: float
    area: float

    @property
    def share(self) -> float:
        """The share of the region's skin that plaques cover, in [0, 1]; grade g lies in the g-th band of AREA_EDGES.

        >>> [round(Severity(2, 2, 2, area).share, 2) for area in (0.3, 1, 2, 4.5, 6)]
        [0.0, 0.05, 0.2, 0.7, 1.0]
        """
        if self.area < 0.5:
            return 0.0
        # The last grade has half a unit of scale (5.5 to 6), so its band is reached twice as fast.
        scale = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.0)
        return float(np.interp(self.area, scale, AREA_EDGES))

    @property
    def grades(self) -> Grades:
        """The rounded grades of a reader without noise; if any skin is covered, redness and area are at least 1."""
        return _round(astuple(self), cleared=self.share == 0.0)

    def read(self, random: Random) -> Grades:
        """Return the grades of a physician: the severity plus reader noise of READER_SD grades, rounded."""
        return _round(np.array(astuple(self)) + random.normal(0, READER_SD, 4), cleared=self.share == 0.0)


def _round(values: tuple[float, ...] | np.ndarray, *, cleared: bool) -> Grades:
    if cleared:
        return Grades(0, 0, 0, 0)
    # Half is rounded up, as in the bands of `share`; Python's `round` gives even grades for both 2.5 and 3.5.
    numbers = [int(np.floor(value + 0.5)) for value in values]
    low, high = (1, 0, 0, 1), (4, 4, 4, 6)
    return Grades(*(min(max(n, a), b) for n, a, b in zip(numbers, low, high, strict=True)))


@dataclass(frozen=True)
class DiseaseCourse:
    """One subject's disease over the visits: `truth[visit][region]`, and which visits have photographs."""

    response: Response
    truth: tuple[dict[str, Severity], ...]
    physician: tuple[dict[str, Grades], ...]
    attended: tuple[int, ...]


def weighted_score(grades: dict[str, Grades]) -> float:
    """Return the area-and-severity score of the regions given (001_ebc83a9f1def4e9d.txt, Equation 2).

    >>> weighted_score({"upper": Grades(1, 1, 1, 1), "trunk": Grades(2, 2, 2, 2), "lower": Grades(0, 0, 0, 0)})
    4.2
    """
    return round(sum(REGION_WEIGHTS[region] * grade.composite for region, grade in grades.items()), 6)


def course(seed: int, subject: int, *, visits: int, regions: tuple[str, ...]) -> DiseaseCourse:
    """Return the course of one subject (0-based number); it does not depend on the number of subjects."""
    block, position = divmod(subject, len(BLOCK))
    draw = stream(seed, "block", block)
    response = BLOCK[draw.permutation(len(BLOCK))[position]]
    level = (draw.permutation(len(BLOCK))[position] + draw.random(len(BLOCK))[position]) / len(BLOCK)
    drops_out = draw.permutation(len(BLOCK))[position] < 2

    random = stream(seed, "course", subject)
    tempo, floor = (random.uniform(*limits) for limits in TEMPO[response])
    region_random = {region: stream(seed, "course", subject, region) for region in REGIONS}
    baseline = {
        region: _baseline(level, region_random[region], random_level)
        for region, random_level in zip(REGIONS, random.normal(0, 0.35, len(REGIONS)), strict=True)
    }
    attended = tuple(range(visits))
    missing = 1 + int(random.random() * max(visits - 1, 1))
    if drops_out and visits >= 5:
        attended = tuple(visit for visit in attended if visit != missing)

    truth: list[dict[str, Severity]] = []
    physician: list[dict[str, Grades]] = []
    shift = {region: region_random[region].normal(0, 0.05) for region in REGIONS}
    reader = stream(seed, "reader", subject)
    for visit in range(visits):
        truth.append({})
        physician.append({})
        for region in REGIONS:
            left = _remaining(visit * WEEKS_BETWEEN_VISITS, tempo, floor + shift[region])
            # The visit's variation is drawn for all four regions, although heads are not photographed.
            severity = _severity(baseline[region], left, region_random[region].normal(0, 0.12 if visit else 0.0, 4))
            grades = severity.read(reader)
            if region in regions:
                truth[-1][region], physician[-1][region] = severity, grades
    return DiseaseCourse(response, tuple(truth), tuple(physician), attended)


def _baseline(level: float, random: Random, offset: float) -> np.ndarray:
    """Draw E, I, S and area at week 0 for a subject whose overall level is in [0, 1]."""
    mixed = 0.45 * level + 0.55 * random.random(3)
    severities = np.array([1.3, 0.9, 0.7]) + np.array([2.6, 2.9, 3.2]) * mixed
    area = 0.9 + 4.4 * level + offset + random.normal(0, 0.4)
    return np.append(severities, max(area, 0.7))


def _remaining(week: float, tempo: float, floor: float) -> float:
    return max(floor, 0.0) + (1.0 - max(floor, 0.0)) * float(np.exp(-((week / tempo) ** 1.3)))


def _severity(baseline: np.ndarray, left: float, wobble: np.ndarray) -> Severity:
    # Scale and thickness improve first, redness and covered skin later, as under treatment.
    values = baseline * left ** np.array([0.9, 1.1, 1.25, 1.0]) + wobble * min(left, 1.0)
    values = np.clip(values, 0.0, [4.0, 4.0, 4.0, 5.95])
    if values[3] < 0.5:
        return Severity(0.0, 0.0, 0.0, 0.0)
    return Severity(max(float(values[0]), 0.6), *(float(value) for value in values[1:]))


# Skin colours (sRGB, 0-1) of the six Fitzpatrick types, light to dark; stylised, not measured.
TONES = (
    *((0.95, 0.80, 0.71), (0.91, 0.74, 0.62), (0.84, 0.65, 0.51)),
    *((0.73, 0.53, 0.39), (0.58, 0.40, 0.29), (0.43, 0.29, 0.22)),
)
BACKDROPS = (
    *((0.36, 0.50, 0.66), (0.40, 0.58, 0.54), (0.62, 0.64, 0.66)),
    *((0.30, 0.36, 0.46), (0.70, 0.72, 0.70), (0.45, 0.52, 0.60)),
)
GARMENTS = ((0.88, 0.90, 0.93), (0.25, 0.30, 0.42), (0.55, 0.66, 0.78), (0.35, 0.36, 0.38))
SITES = ("site-1", "site-2", "site-3")


@dataclass(frozen=True)
class Subject:
    """One phantom subject's constants; colours are sRGB in 0-1, `skin_tone` is the Fitzpatrick type 1-6."""

    number: int
    name: str
    skin_tone: int
    site: str
    skin: tuple[float, float, float]
    backdrop: tuple[float, float, float]
    build: Build
    plaque_size: float
    tattooed: tuple[str, int]


def subject(seed: int, number: int) -> Subject:
    """Return subject `number` (from 0) of the cohort with this seed, independent of the cohort's size."""
    block, index = divmod(number, 6)
    tone = int(stream(seed, "tones", block).permutation(6)[index])
    site = SITES[int(stream(seed, "sites", number // 3).permutation(3)[number % 3])]
    random = stream(seed, "subject", number)
    darker = np.array(TONES[min(tone + 1, 5)]) if random.random() < 0.5 else np.array(TONES[max(tone - 1, 0)])
    skin = np.array(TONES[tone]) + 0.35 * random.random() * (darker - np.array(TONES[tone]))
    backdrop = np.array(BACKDROPS[random.integers(len(BACKDROPS))]) + random.uniform(-0.04, 0.04, 3)
    build = Build(
        girth=random.uniform(0.86, 1.16),
        posture=random.uniform(-1, 1),
        garment=GARMENTS[random.integers(len(GARMENTS))],
    )
    photographs = [(region, n) for region, count in PHOTOGRAPHS.items() for n in range(1, count + 1)]
    return Subject(
        number,
        f"S{number + 1:02d}",
        tone + 1,
        site,
        _colour(skin),
        _colour(backdrop),
        build,
        plaque_size=random.uniform(0.035, 0.075),
        tattooed=photographs[random.integers(len(photographs))],
    )


def _colour(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def anatomy(seed: int, patient: Subject, region: str, number: int) -> Maps:
    """Return the canvas maps of one of a subject's photographs (`number` from 1), the same at every visit.

    They are the maps of the body (`render_body`), and `plaque`: distance-like field in body units, above a threshold
    where skin is covered, so that a plaque shrinks inside its own outline; `flecks`: uniform in [0, 1]; `bumps`,
    `mottle`: standard normal; `marks`: 0 on bare skin to 1 in a mole or tattoo.
    """
    random, posed = stream(seed, "anatomy", patient.number, region, number), pose(region, number, patient.build)
    maps = render_body(posed)
    fine, middle, coarse = (_smooth_noise(random, unit) for unit in (0.016, 0.035, 0.12))
    maps["plaque"] = _plaque_field(random, maps["inside"], posed.sites, patient.plaque_size)
    maps["plaque"] = maps["plaque"] + 0.004 * fine + 0.009 * middle
    maps["flecks"] = ndtr(
        (_smooth_noise(random, 0.009) + 0.9 * _smooth_noise(random, 0.022)) / np.float32(np.sqrt(1.81))
    )
    maps["bumps"], maps["mottle"] = _smooth_noise(random, 0.030), 0.8 * coarse + 0.3 * fine
    maps["marks"] = _marks(random, maps["inside"], maps["cloth"], tattoo=patient.tattooed == (region, number))
    return maps


def _smooth_noise(random: Random, unit: float) -> Floats:
    """Return standard normal noise on the canvas whose grains are about `unit` body units wide."""
    width, height = (int(np.ceil(pixels / UNIT / unit)) + 1 for pixels in CANVAS)
    grid = random.standard_normal((height, width), dtype=np.float32)
    grown = cv2.resize(grid, CANVAS, interpolation=cv2.INTER_CUBIC)
    noise: Floats = (grown - grown.mean()) / grown.std()
    return noise


def _plaque_field(random: Random, inside: Floats, sites: Sequence[tuple[float, float]], size: float) -> Floats:
    """Return max over discs of (radius - distance): discs on the skin, the largest on its favourite sites."""
    step = 4
    small = cv2.resize(inside, (CANVAS[0] // step, CANVAS[1] // step), interpolation=cv2.INTER_AREA)
    rows, columns = np.nonzero(small > 0.01)
    pick = random.integers(len(rows), size=44)
    jitter = random.uniform(-0.5, 0.5, (2, 44))
    x = ((columns[pick] + 0.5 + jitter[0]) * step - CANVAS[0] / 2) / UNIT
    y = ((rows[pick] + 0.5 + jitter[1]) * step - CANVAS[1] / 2) / UNIT
    radius = size * np.exp(random.normal(-0.45, 0.45, 44))
    for index, (site_x, site_y) in enumerate(sites):
        x[index], y[index] = site_x + random.normal(0, 0.025), site_y + random.normal(0, 0.025)
        radius[index] = size * random.uniform(1.0, 1.7)
    grid_x = ((np.arange(small.shape[1]) + 0.5) * step - CANVAS[0] / 2) / UNIT
    grid_y = ((np.arange(small.shape[0]) + 0.5) * step - CANVAS[1] / 2) / UNIT
    stretch = np.exp(random.normal(0, 0.2, 44))
    across = np.square((grid_x[None, :] - x[:, None]) * stretch[:, None]).astype(np.float32)
    along = np.square((grid_y[None, :] - y[:, None]) / stretch[:, None]).astype(np.float32)
    distance = np.sqrt(along[:, :, None] + across[:, None, :])
    field: Floats = (radius[:, None, None].astype(np.float32) - distance).max(axis=0)
    return cv2.resize(field, CANVAS, interpolation=cv2.INTER_CUBIC).astype(np.float32, copy=False)


def _marks(random: Random, inside: Floats, cloth: Floats, *, tattoo: bool) -> Floats:
    """Return the darkness of 4-10 moles and of the tattoo's ring and bars, 0 on bare skin."""
    marks = np.zeros((CANVAS[1], CANVAS[0]), dtype=np.float32)
    bare = cloth < 0
    rows, columns = np.nonzero((inside > 0.02) & bare)
    for index in random.integers(len(rows), size=random.integers(4, 11)):
        radius = int(UNIT * random.uniform(0.003, 0.009) * 16)
        centre = (int(columns[index]) * 16, int(rows[index]) * 16)
        cv2.circle(marks, centre, radius, random.uniform(0.5, 0.75), -1, cv2.LINE_8, 4)
    if tattoo:
        rows, columns = np.nonzero((inside > 0.045) & bare & (cloth < -0.06))
        index = random.integers(len(rows))
        centre = (int(columns[index]), int(rows[index]))
        reach = 0.038 * UNIT
        cv2.circle(marks, centre, int(reach), 0.8, 3)
        for angle in random.uniform(0, np.pi, 3):
            x, y = int(np.cos(angle) * reach), int(np.sin(angle) * reach)
            cv2.line(marks, (centre[0] - x, centre[1] - y), (centre[0] + x, centre[1] + y), 0.8, 2)
    return cv2.GaussianBlur(marks, (0, 0), 0.8).astype(np.float32, copy=False)
