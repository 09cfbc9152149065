"""Synthetic sections of skin in haematoxylin and eosin: the anatomy of each subject, and windows of a section as
pixels.

Lengths are in microns of the section: u along the skin, v into its depth. Every window of a section can be drawn by
itself and matches its neighbours, so that a slide of any size needs little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from casewise.plugins.phantoms.draws import Random, stream

# A shape: u, v, half its length, half its width (µm), its angle (degrees from u), haematoxylin and eosin (1/200 of an
# optical density unit), and whether it covers the tissue under it.
COLUMNS = 8
UNIT = 200
# Positions of shapes have this many fractional bits of a pixel.
FINE = 4
FIBROBLASTS = 380.0  # nuclei per mm² of dermis
KERATINOCYTES = 11.0  # µm between nuclei of the epidermis


def drawn(section: Section, left: int, top: int, width: int, height: int) -> list[np.ndarray]:
    """Draw the shapes of a section in a window of the slide.

    Returns:
        Haematoxylin and eosin, (height, width) `float32` each, and the mask of the tissue that the shapes cover.
    """
    table, mpp, scale = section.shapes, section.mpp, 1 << FINE
    # The half is the distance from the corner of a pixel to its middle. Rounding before the window's corner is
    # subtracted makes windows agree except for a few pixels on the rim of shapes that they cut.
    positions = np.rint(((table[:, :2] @ section.turn + section.origin) / mpp - 0.5) * scale).astype(int)
    positions -= (left * scale, top * scale)
    reach = table[:, 2:4].max(axis=1)[:, None] / mpp + 2
    near = ((positions / scale > -reach) & (positions / scale < reach + np.array([width, height]))).all(axis=1)
    haema, eosin, cover = layers = [np.zeros((height, width), np.uint8) for _ in range(3)]
    for row in np.flatnonzero(near):
        _, _, long, short, direction, dark, pink, covers = table[row].tolist()
        axes = (max(round(long / mpp * scale), 4), max(round(short / mpp * scale), 4))
        form = (positions[row].tolist(), axes, direction - section.angle, 0.0, 360.0)
        cv2.ellipse(haema, *form, dark, -1, cv2.LINE_AA, FINE)
        if covers:
            cv2.ellipse(eosin, *form, pink, -1, cv2.LINE_AA, FINE)
            cv2.ellipse(cover, *form, 255, -1, cv2.LINE_AA, FINE)
    return [layer * (np.float32(1) / unit) for layer, unit in zip(layers, (UNIT, UNIT, 255), strict=True)]


def _scattered_shapes(random: Random, section: Section) -> np.ndarray:
    """Scatter the shapes of a section: (N, 8), in the order of drawing."""
    stage, width = section.patient.stage, section.width
    rows = [_fat(random, section)]
    count = random.poisson(FIBROBLASTS * (width * section.floor / 1e6))
    rows.append(_nuclei(random, _scattered(random, section, count), long=(4.5, 8.0), short=(1.1, 1.8), tilt=16))
    adnexa, infiltrates = (random.poisson(rate * width / 1000) for rate in (stage.adnexa, stage.infiltrates))
    for centre in _apart(random, section, adnexa):
        rows.append(_follicle(random, centre) if random.random() < 0.4 else _gland(random, centre))
    for centre in _scattered(random, section, infiltrates, margin=50):
        rows.append(_infiltrate(random, centre))
    rows.append(_keratinocytes(random, section))
    return np.concatenate(rows)


def _scattered(random: Random, section: Section, count: int, margin: float = 8.0) -> np.ndarray:
    """Positions (N, 2) in the dermis, at least `margin` µm from its borders."""
    u = random.uniform(-0.5, 0.5, count) * (section.width - 60)
    top = section.surface(u) + section.border(u) + margin
    return np.stack([u, top + random.uniform(0, 1, count) * np.maximum(section.floor - margin - top, 0)], axis=1)


def _apart(random: Random, section: Section, count: int) -> np.ndarray:
    """Positions in the middle of the dermis, each in its own interval along the skin."""
    u = ((np.arange(count) + random.uniform(0.2, 0.8, count)) / max(count, 1) - 0.5) * (section.width - 240)
    top = section.surface(u) + section.border(u)
    return np.stack([u, top + random.uniform(0.3, 0.75, count) * (section.floor - top)], axis=1)


def _nuclei(
    random: Random, positions: np.ndarray, *, long: tuple[float, float], short: tuple[float, float], tilt: float
) -> np.ndarray:
    rows = np.zeros((len(positions), COLUMNS))
    rows[:, :2] = positions
    rows[:, 2], rows[:, 3] = random.uniform(*long, len(positions)), random.uniform(*short, len(positions))
    rows[:, 4] = random.normal(0, tilt, len(positions))
    rows[:, 5] = random.uniform(150, 235, len(positions))
    return rows


def _keratinocytes(random: Random, section: Section) -> np.ndarray:
    """Nuclei of the epidermis, close together; those at its border are upright and darker."""
    width, border = section.width, section.border
    u, d = np.meshgrid(np.arange(-width / 2, width / 2, KERATINOCYTES), np.arange(8, 190, KERATINOCYTES))
    u, d = (values.ravel() + random.uniform(-3.5, 3.5, values.size) for values in (u, d))
    within = d < border(u) - 3
    u, d = u[within], d[within]
    rows = _nuclei(random, np.stack([u, section.surface(u) + d], axis=1), long=(2.6, 3.8), short=(2.2, 3.0), tilt=90)
    rows[:, 5] = np.where(d > border(u) - 14, 1.0, 0.7) * rows[:, 5]
    return rows


def _fat(random: Random, section: Section) -> np.ndarray:
    """Empty cells side by side below the dermis."""
    width, step = section.width, 62.0
    down = np.arange(section.floor + 40, section.depth + step, step * 0.87)
    u, v = np.meshgrid(np.arange(-width / 2, width / 2, step), down)
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


def _around(random: Random, centre: np.ndarray, radius: float) -> np.ndarray:
    """Nuclei of a tube's wall."""
    turns = np.linspace(0, 2 * np.pi, max(int(2 * np.pi * radius / 8), 5), endpoint=False)
    positions = centre + radius * np.stack([np.cos(turns), 0.9 * np.sin(turns)], axis=1)
    return _nuclei(random, positions, long=(2.4, 3.4), short=(2.2, 3.0), tilt=90)


def _gland(random: Random, centre: np.ndarray) -> np.ndarray:
    """A coil of sweat tubules."""
    rows = []
    for turn in np.linspace(0, 2 * np.pi, random.integers(6, 10), endpoint=False):
        offset = random.uniform(30, 85) * np.array([np.cos(turn), 0.7 * np.sin(turn)])
        radius = random.uniform(17, 25)
        rows += [_ring(centre + offset, radius, radius * 0.3, 60, 95), _around(random, centre + offset, radius * 0.68)]
    return np.concatenate(rows)


def _follicle(random: Random, centre: np.ndarray) -> np.ndarray:
    """An oblique section of a hair in its sheaths."""
    tilt, long = random.uniform(60, 120), random.uniform(130, 210)
    sheaths = ((1.0, 52, 80, 85), (0.9, 38, 100, 70), (0.84, 20, 25, 150), (0.8, 11, 190, 110))
    return np.array([[*centre, long * values, wide, tilt, dark, pink, 1] for values, wide, dark, pink in sheaths])


def _infiltrate(random: Random, centre: np.ndarray) -> np.ndarray:
    """A small vessel and the inflammatory cells around it."""
    count = random.integers(25, 70)
    positions = centre + random.normal(0, 1, (count, 2)) * (26, 20)
    cells = _nuclei(random, positions, long=(2.6, 3.4), short=(2.4, 3.2), tilt=90)
    return np.concatenate([cells, _ring(centre, 11, 7, 45, 90), _around(random, centre, 10)])


# Optical density of one unit of haematoxylin and of eosin in red, green and blue, to look like a scanned slide.
HAEMATOXYLIN, EOSIN = (0.62, 0.70, 0.34), (0.11, 0.90, 0.40)
GLASS = (241.0, 240.0, 242.0)
CELLS = 512
# Horny layer over the epidermis.
HORN = 22.0


@dataclass(frozen=True)
class Stage:
    """The measures that differ between classes.

    `bundle`: thickness of a collagen bundle, µm. `density`: the share of the dermis that collagen fills. `epidermis`:
    its thickness, `ridges`: the depth of its ridges, µm. `dermis`: its share of the section's depth, the rest being
    fat. `adnexa`: glands and follicles, `infiltrates`: vessels with inflammatory cells, each per mm of skin.
    """

    bundle: float
    density: float
    epidermis: float
    ridges: float
    dermis: float
    adnexa: float
    infiltrates: float


STAGES = {
    "normal": Stage(9, 0.70, 72, 46, 0.78, 2.2, 0.6),
    "early": Stage(14, 0.79, 64, 32, 0.83, 1.4, 4.0),
    "late": Stage(22, 0.88, 48, 12, 0.88, 0.4, 1.2),
}
# The standard deviation of the logarithm of measures within a class.
VARIATION = 0.12
# The variation of stains between subjects: of their strength, their colour, and the tint of the glass.
STAINS = {"alike": (0.05, 0.015, 1.0), "own": (0.30, 0.16, 4.0)}


@dataclass(frozen=True)
class Skin:
    """A subject's skin: its measures, its stain and the waves of its surface."""

    seed: int
    number: int
    finding: str
    stage: Stage
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    glass: tuple[float, float, float]
    waves: tuple[tuple[float, float, float], ...]

    @property
    def name(self) -> str:
        """The subject's id."""
        return f"B{self.number + 1:04d}"


def skin(seed: int, number: int, finding: str, stains: str = "alike") -> Skin:
    """Return the skin of a subject with a finding; stain and surface are independent of the finding.

    >>> normal, late = skin(0, 3, "normal"), skin(0, 3, "late")
    >>> normal.colours == late.colours, normal.stage.bundle < late.stage.bundle
    (True, True)
    """
    random = stream(seed, "skin", number)
    factors = np.exp(random.normal(0, VARIATION, 7)).tolist()
    mean = STAGES[finding]
    stage = Stage(
        mean.bundle * factors[0],
        float(1 - (1 - mean.density) * factors[1]),
        mean.epidermis * factors[2],
        mean.ridges * factors[3],
        min(mean.dermis * factors[4] ** 0.3, 0.95),
        mean.adnexa * factors[5],
        mean.infiltrates * factors[6],
    )
    strength, turn, tint = STAINS[stains]
    colours = []
    for vector in (HAEMATOXYLIN, EOSIN):
        turned = np.clip(np.array(vector) + random.normal(0, turn, 3), 0.01, None)
        turned *= np.linalg.norm(vector) / np.linalg.norm(turned) * np.exp(random.normal(0, strength))
        colours.append(tuple(turned.tolist()))
    glass = tuple((np.array(GLASS) + random.normal(0, tint, 3)).tolist())
    waves = tuple(
        (height * random.uniform(0.6, 1.4), length * random.uniform(0.8, 1.25), random.uniform(0, 2 * np.pi))
        for height, length in ((28, 900), (15, 360), (7, 140))
    )
    return Skin(seed, number, finding, stage, (colours[0], colours[1]), glass, waves)


@lru_cache(maxsize=4)
def _texture(seed: int) -> np.ndarray:
    """A periodic field of smooth noise with values uniform in 0..1, (CELLS, CELLS)."""
    noise = ndimage.gaussian_filter(stream(seed, "tissue texture").normal(size=(CELLS, CELLS)), 1.0, mode="wrap")
    ranks = noise.ravel().argsort().argsort().reshape(noise.shape)
    return (ranks / noise.size).astype(np.float32)


class Section:
    """One section of a subject's skin on a slide of `size` (width, height) pixels, `mpp` microns each."""

    def __init__(self, patient: Skin, number: int, *, size: tuple[int, int], mpp: float) -> None:
        """Place the section on its slide: slightly rotated, upright or upside down."""
        self.patient, self.number, self.size, self.mpp = patient, number, size, mpp
        random = stream(patient.seed, "section", patient.number, number)
        self.angle = float(np.clip(random.normal(0, 5), -10, 10) + 180 * random.integers(2))
        self.width, self.depth = 0.80 * size[0] * mpp, 0.70 * size[1] * mpp
        self.shift: np.ndarray = random.uniform(0, CELLS, (8, 2)).astype(np.float32)
        middle = np.array(size) * mpp / 2
        # The middle of the section is near the middle of the slide.
        self.turn = cv2.getRotationMatrix2D((0, 0), self.angle, 1)[:, :2]
        self.origin = middle * random.uniform(0.97, 1.03, 2) - self.turn.T @ np.array([0, self.depth / 2])

    @property
    def floor(self) -> float:
        """The depth of the border between dermis and fat."""
        return self.depth * self.patient.stage.dermis

    @cached_property
    def shapes(self) -> np.ndarray:
        """Nuclei, fat cells, vessels, glands and follicles."""
        return _scattered_shapes(stream(self.patient.seed, "shapes", self.patient.number, self.number), self)

    def surface(self, u: np.ndarray) -> np.ndarray:
        """The depth v of the surface of the skin along u."""
        waves = [height * np.sin(2 * np.pi * u / length + phase) for height, length, phase in self.patient.waves]
        return np.sum(waves, axis=0)

    def border(self, u: np.ndarray) -> np.ndarray:
        """The depth of the lower border of the epidermis below the surface along u, with its ridges."""
        stage, phase = self.patient.stage, float(self.shift[0, 0])
        beat = np.sin(2 * np.pi * u / 104 + phase + 1.3 * np.sin(2 * np.pi * u / 377))
        return stage.epidermis + stage.ridges * (beat + 0.35 * np.sin(2 * np.pi * u / 61)) / 1.35

    def paint(self, left: int, top: int, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Draw a window of the slide: (height, width, 3) `uint8`, and the mask of skin, (height, width).

        Fat is not part of the mask, because it is nearly empty. Windows of 256 pixels are drawn several times faster
        than large ones, because their arrays stay in the cache.
        """
        u, v = self._coordinates(left, top, width, height)
        below, border = self._depths(u, v)
        ragged = 36 * (self._sampled(0, u / 40, v / 40) - 0.5)
        horn = HORN * (0.5 + self._sampled(1, u / 60, v / 400))
        edge = np.minimum(below + horn, np.minimum(self.width / 2 - np.abs(u), self.depth - v) + ragged)
        inside = np.clip(edge / np.float32(1.5 * max(self.mpp, 1)) + 0.5, 0, 1)
        picture = np.empty((height, width, 3), np.float32)
        picture[:] = self.patient.glass
        if inside.any():
            haema, eosin = self._stained(u, v, below, border, ragged)
            dark, bright, cover = drawn(self, left, top, width, height)
            eosin += cover * (bright - eosin)
            haema += dark - cover * haema
            # The thickness of a section varies.
            uneven = -inside * (0.9 + 0.2 * self._sampled(6, u / 90, v / 90))
            for band, (blue, pink) in enumerate(zip(*self.patient.colours, strict=True)):
                picture[..., band] *= np.exp(uneven * (haema * np.float32(blue) + eosin * np.float32(pink)))
        rows, columns = np.arange(top, top + height) % CELLS, np.arange(left, left + width) % CELLS
        picture += 5 * _texture(self.patient.seed)[np.ix_(rows, columns)][..., None] - 2
        return np.clip(picture, 0, 255).astype(np.uint8), (inside > 0.5) & (self._fat(v, ragged) < 0.5)

    def collagen(self, left: int, top: int, width: int, height: int) -> NDArray[np.bool_]:
        """The mask of the bundles of collagen in a window of the slide, (height, width)."""
        u, v = self._coordinates(left, top, width, height)
        below, border = self._depths(u, v)
        bundles, _ = self._collagen(u, v, self.patient.stage, _step(border + 90 - below, 25))
        inside: NDArray[np.bool_] = (bundles > 0.5) & (below > border) & (v < self.floor) & (np.abs(u) < self.width / 2)
        return inside

    def _coordinates(self, left: int, top: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates u and v of the pixels of a window in the section."""
        x = (np.arange(left, left + width, dtype=np.float32) + 0.5) * np.float32(self.mpp) - np.float32(self.origin[0])
        y = (np.arange(top, top + height, dtype=np.float32) + 0.5) * np.float32(self.mpp) - np.float32(self.origin[1])
        turn = self.turn.astype(np.float32)
        return turn[0, 0] * x + (turn[0, 1] * y)[:, None], turn[1, 0] * x + (turn[1, 1] * y)[:, None]

    def _depths(self, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The depth of each pixel and of the epidermis's lower border below the surface."""
        first = int(np.floor(u.min()))
        # Sampled at whole microns, so that the curves do not depend on the window.
        microns = np.arange(first, int(np.ceil(u.max())) + 2)
        at = u - np.float32(first)
        surface, border = (
            cv2.remap(curve.astype(np.float32)[None], at, np.zeros_like(at), cv2.INTER_LINEAR)
            for curve in (self.surface(microns), self.border(microns))
        )
        return v - surface, border

    def _sampled(self, number: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The values of a uniform noise field at (a, b), in cells; each number selects another field."""
        # The remainder operator for floats is three times slower.
        a, b = (
            (layer + shift) * np.float32(1 / CELLS) for layer, shift in zip((a, b), self.shift[number], strict=True)
        )
        a, b = ((turns - np.floor(turns)) * np.float32(CELLS) for turns in (a, b))
        field: np.ndarray = cv2.remap(_texture(self.patient.seed), a, b, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return field

    def _fat(self, v: np.ndarray, ragged: np.ndarray) -> np.ndarray:
        """The share of fat, which begins below the dermis, 0 to 1."""
        return _step(v - self.depth * self.patient.stage.dermis + 2 * ragged, 12)

    def _stained(
        self, u: np.ndarray, v: np.ndarray, below: np.ndarray, border: np.ndarray, ragged: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The haematoxylin and eosin of each pixel, without the shapes."""
        stage = self.patient.stage
        fat = self._fat(v, ragged)
        epidermis = _step(border - below, 2)
        collagen, fibres = self._collagen(u, v, stage, _step(border + 90 - below, 25))
        eosin = (0.05 + 0.62 * collagen * (0.8 + 0.4 * fibres)) * (1 - fat) + 0.34 * fat
        eosin += epidermis * (0.42 - eosin)
        haema = 0.05 * collagen * (1 - fat)
        haema += epidermis * (0.26 + 0.16 * np.clip(below / np.maximum(border, 1), 0, 1) - haema)
        # The horny layer peels off in sheets.
        sheets = _step(self._sampled(2, u / 28, below / 3.2) - 0.42, 0.08)
        corneous = _step(-below, 1.5)
        eosin += corneous * (0.72 * sheets - eosin)
        haema += corneous * (0.05 * sheets - haema)
        return haema, eosin

    def _collagen(
        self, u: np.ndarray, v: np.ndarray, stage: Stage, papillary: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The share of collagen, 0 to 1, and its fibres: two interwoven sets of bundles, finer near the surface."""
        bend_u, bend_v = (90 * (self._sampled(n, u / 75, v / 75) - 0.5) for n in (3, 4))
        # Both sets together cover the density.
        gap = np.float32(np.sqrt(1 - stage.density))
        field, fibres = np.zeros_like(u), np.zeros_like(u)
        for number, (slope, fine) in enumerate(((0.30, 1.0), (-0.22, 1.0), (0.08, 0.45))):
            cell = np.float32(stage.bundle * fine / 2.6)
            along, across = u + slope * v + bend_u, v - slope * u + bend_v
            noise = self._sampled(5 + number % 3, along / (7 * cell), across / cell)
            layer = _step(noise - (gap if fine == 1 else gap**2), 0.07)
            if fine < 1:
                field += papillary * (layer - field)
            else:
                field = np.maximum(field, layer)
                fibres = np.where(layer >= field, self._sampled(number, along / 30, across / 1.1), fibres)
        return field, fibres


def _step(distance: np.ndarray, soft: float) -> np.ndarray:
    """0 below, 1 above, and a ramp of width `soft` between."""
    ramp: np.ndarray = np.clip(distance * np.float32(1 / soft) + np.float32(0.5), 0, 1)
    return ramp
