"""The severity of the phantom's psoriasis: continuous truth, its course under treatment, a physician's grades."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np

from casewise.plugins.phantoms.draws import Random, stream

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
