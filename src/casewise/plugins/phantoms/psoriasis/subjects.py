"""The constants of a phantom subject: skin tone, build, backdrop, moles, a tattoo, and the sites of plaques."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.special import ndtr

from casewise.plugins.phantoms.draws import Random, stream
from casewise.plugins.phantoms.psoriasis.bodies import CANVAS, PHOTOGRAPHS, UNIT, Build, Floats, Maps, pose, render_body

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

    They are those of the body (`render_body`), and `plaque`: distance-like field in body units, the covered skin is
    where it exceeds a threshold, so that a plaque shrinks inside its own outline; `flecks`: uniform in [0, 1]; `bumps`,
    `mottle`: standard normal; `marks`: 0 on bare skin to 1 in a mole or tattoo.
    """
    random, posed = stream(seed, "anatomy", patient.number, region, number), pose(region, number, patient.build)
    maps = render_body(posed)
    fine, middle, coarse = (smooth_noise(random, unit) for unit in (0.016, 0.035, 0.12))
    maps["plaque"] = _plaque_field(random, maps["inside"], posed.sites, patient.plaque_size)
    maps["plaque"] = maps["plaque"] + 0.004 * fine + 0.009 * middle
    maps["flecks"] = ndtr((smooth_noise(random, 0.009) + 0.9 * smooth_noise(random, 0.022)) / np.float32(np.sqrt(1.81)))
    maps["bumps"], maps["mottle"] = smooth_noise(random, 0.030), 0.8 * coarse + 0.3 * fine
    maps["marks"] = _marks(random, maps["inside"], maps["cloth"], tattoo=patient.tattooed == (region, number))
    return maps


def smooth_noise(random: Random, unit: float) -> Floats:
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
