"""The skin phantom: synthetic biopsies in haematoxylin and eosin, as pyramidal slides or as regions of interest.

Lengths are in microns of the section: u along the skin, v into its depth. Every window of a section can be drawn by
itself and matches its neighbours, so that a slide of any size needs little memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from scipy import ndimage

from casewise.errors import CasewiseError
from casewise.plugins.phantoms.cohort import CohortFolder, Kind, Labels, Progress, Row, check_choice
from casewise.plugins.phantoms.pyramid import TILE, write_pyramid
from casewise.plugins.phantoms.scene import Array, Random, coverage, stream

_CLASSES = ("normal", "early", "late")
_COLUMNS = ("path", "subject", "visit", "label", "disease", "section", "source", "sex", "age", "mpp", "synthetic")
_SLIDES = Kind(
    name="skin",
    columns=_COLUMNS,
    picture="biopsy",
    taken="biopsied",
    contents="""\
cases.csv     one row for each slide or region; `disease` is normal or ssc, `label` is normal, early or late
phantom.json  the settings, the seed, and the truth: collagen bundles and other properties of every subject
images/       <subject>/<section>.tiff (slides) or <subject>/<n>.png (regions), each marked as synthetic in the file
masks/        slides, <subject>/<section>.png: 255 where there is skin, one pixel for 16 of the slide; regions,
              <subject>/<n>.png, the column `collagen_mask`: 255 in bundles of collagen, empty for every fourth region
""",
    unit="images",
    sides=(256, 40_000),
    classes=_CLASSES,
    classes_key="skin classes",
    half_first=True,
)
_REGIONS = replace(_SLIDES, sides=(32, 40_000), columns=(*_COLUMNS, "collagen_mask"))
# The smallest side of a slide in microns.
_SMALLEST_MICRONS = 600.0
# One pixel of a slide's mask covers this many pixels of the slide along each axis.
_MASK_STEP = 16
# Regions are cut from sections of this width and height in microns.
_FRAME = (3072.0, 2304.0)
# The least share of tissue in a region.
_REGION_TISSUE = 0.9
_REGIONS_PER_SECTION = 3


@dataclass(frozen=True)
class SkinSettings:
    """Everything that determines the bytes of the cohort.

    Every subject has `images` slides or regions of `size` (width, height) pixels; `mpp` is microns per pixel.
    `stains="own"` gives every subject a recognisable stain, and `labels="shuffled"` permutes the labels between
    subjects after drawing: together they make images that identify subjects but not classes.
    """

    form: Literal["slides", "regions"] = "slides"
    subjects: int = 40
    images: int = 1
    classes: tuple[str, ...] = _CLASSES
    size: tuple[int, int] = (2048, 1536)
    mpp: float = 1.0
    seed: int = 0
    labels: Labels = "true"
    stains: Literal["alike", "own"] = "alike"


@dataclass(frozen=True)
class RegionSettings(SkinSettings):
    """The settings of a cohort of regions, which are square."""

    form: Literal["slides", "regions"] = "regions"
    images: int = 6
    size: tuple[int, int] = (512, 512)
    mpp: float = 0.5


def make_slide_phantom(folder: Path, *, progress: Progress | None = None, **settings: Any) -> Path:
    """Draw biopsies as pyramidal TIFFs into `folder` and return the path of its `cases.csv`, one row a slide.

    Half of the subjects are normal, as in the publication that the preset `ssc-skin` follows; the others
    are early and late in equal numbers. A subject has one visit; its slides are sections of the same skin. Every slide
    has a mask of its tissue, and its tags state the microns per pixel.

    Classes differ in the collagen of the dermis (thicker, denser bundles), the epidermis (thinner, with flat ridges),
    glands and follicles (fewer) and inflammatory cells (most when early); subjects vary within a class. Stain, surface,
    sex and age are independent of the class. The same settings give the same bytes, and a subject's slides do not
    depend on the number of subjects.

    Args:
        settings: the fields of `SkinSettings`.
        progress: receives the numbers of finished slides and of all slides.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not such a phantom.
    """
    return _make(folder, _SLIDES, SkinSettings(**settings), progress)


def make_regions(folder: Path, *, progress: Progress | None = None, **settings: Any) -> Path:
    """Draw regions of interest as PNG into `folder` and return the path of its `cases.csv`, one row a region.

    They are cut at random from sections as `make_slide_phantom` draws them, three from each, with little glass.

    Args:
        settings: the fields of `RegionSettings`.
        progress: receives the numbers of finished regions and of all regions.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not such a phantom.
    """
    return _make(folder, _REGIONS, RegionSettings(**settings), progress)


def draw_region(
    subject_number: int, *, finding: str, number: int = 0, seed: int = 0, size: int = 512, mpp: float = 0.5
) -> Array:
    """Return one region of a subject's skin with any finding, (size, size, 3); subjects and regions count from 0.

    Raises:
        CasewiseError: no such finding.

    >>> draw_region(0, finding="late", size=64).shape
    (64, 64, 3)
    """
    check_choice("The finding", finding, _CLASSES)
    return _region(Skin(seed, subject_number, finding), number, size, mpp)[0]


def _make(folder: Path, kind: Kind, settings: SkinSettings, progress: Progress | None) -> Path:
    (width, height), is_slide = settings.size, settings.form == "slides"
    microns = min(width, height) * settings.mpp
    if not is_slide and width != height:
        raise CasewiseError(f"Regions of the phantom are square; found a size of {width}x{height}.")
    if not 0.1 <= settings.mpp <= 8:
        raise CasewiseError(f"The phantom's mpp must be 0.1 to 8 microns a pixel; found {settings.mpp}.")
    if is_slide and microns < _SMALLEST_MICRONS:
        least = f"{_SMALLEST_MICRONS:g} microns a side or more"
        raise CasewiseError(f"The phantom's slides must be {least}; found {microns:g}.")
    return CohortFolder(folder, kind, settings, settings.subjects * settings.images, progress).draw(_draw_subject)


def _draw_subject(cohort: CohortFolder, number: int, finding: str, label: str) -> Row:
    settings = cohort.settings
    skin, random = Skin(settings.seed, number, finding, settings.stains), stream(settings.seed, "person", number)
    person: Row = {"subject": skin.name, "visit": 1, "label": label, "source": "phantom", "mpp": settings.mpp}
    person |= {"disease": "normal" if label == "normal" else "ssc"}
    person |= {"sex": "FM"[int(random.random() < 0.3)], "age": int(random.integers(24, 78))}
    for image in range(settings.images):
        cohort.add(**(_save_slide if settings.form == "slides" else _save_region)(cohort, skin, image), **person)
    measures = {name: round(value, 4) for name, value in skin.measures.items()}
    return {"subject": skin.name, "finding": finding, "label": label, **measures}


def _save_slide(cohort: CohortFolder, skin: Skin, number: int) -> Row:
    """Write one section as a slide, and the mask of its tissue; return its part of the row."""
    settings, name, step = cohort.settings, f"{skin.name}/{number + 1}", _MASK_STEP
    section = Section(skin, number, size=settings.size, mpp=settings.mpp)
    mask = np.zeros([-(-side // step) for side in reversed(settings.size)], bool)

    def paint(left: int, top: int, width: int, height: int) -> Array:
        picture, tissue = section.paint(left, top, width, height)
        sampled = tissue[step // 2 :: step, step // 2 :: step]
        mask[top // step :, left // step :][: sampled.shape[0], : sampled.shape[1]] = sampled
        return picture

    write_pyramid(cohort.path / f"images/{name}.tiff", settings.size, paint, mpp=settings.mpp)
    cohort.save_image(f"masks/{name}.png", mask)
    return {"path": f"images/{name}.tiff", "section": number + 1}


def _save_region(cohort: CohortFolder, skin: Skin, number: int) -> Row:
    """Write one region, and of three in four the mask of its collagen; return its part of the row."""
    name = f"{skin.name}/{number + 1}.png"
    picture, collagen = _region(skin, number, cohort.settings.size[0], cohort.settings.mpp)
    cohort.save_image(f"images/{name}", picture)
    mask = "" if number % 4 == 3 else f"masks/{name}"
    if mask:
        cohort.save_image(mask, collagen)
    return {"path": f"images/{name}", "section": number // _REGIONS_PER_SECTION + 1, "collagen_mask": mask}


def _region(skin: Skin, number: int, size: int, mpp: float) -> tuple[Array, Array]:
    """Draw a square at a position of its section with enough tissue, and its collagen."""
    frame = round(_FRAME[0] / mpp), round(_FRAME[1] / mpp)
    section = Section(skin, number // _REGIONS_PER_SECTION, size=frame, mpp=mpp)
    random = stream(skin.seed, "region", skin.number, number)
    drawn = left, top = frame[0] // 2 - size // 2, frame[1] // 2 - size // 2
    picture, tissue = _window(section, left, top, size)
    # The centre and the corners reveal most windows of glass without drawing them.
    far, near, middle = size - size // 8, size // 8, size // 2
    probes = ((middle, middle), (near, near), (far, near), (near, far), (far, far))
    for _ in range(20):
        left, top = (int(random.integers(max(side - size, 1))) for side in frame)
        if not all(section.paint(left + x, top + y, 1, 1)[1].all() for x, y in probes):
            continue
        picture, tissue = _window(section, left, top, size)
        drawn = left, top
        if tissue.mean() >= _REGION_TISSUE:
            break
    return picture, section.collagen(*drawn, size, size)


def _window(section: Section, left: int, top: int, size: int) -> tuple[Array, Array]:
    picture, tissue = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool)
    for y in range(0, size, TILE):
        for x in range(0, size, TILE):
            tile = np.s_[y : y + TILE, x : x + TILE]
            picture[tile], tissue[tile] = section.paint(left + x, top + y, min(TILE, size - x), min(TILE, size - y))
    return picture, tissue


# The skin of a subject.

# The measures of each class. `bundle`: thickness of a collagen bundle, µm. `density`: the share of the dermis that
# collagen fills. `epidermis`: its thickness, `ridges`: the depth of its ridges, µm. `dermis`: its share of the depth of
# the section, the rest is fat. `adnexa`: glands and follicles, `infiltrates`: vessels with inflammatory cells, per mm.
_MEASURES = {
    "bundle": (9, 14, 22),
    "density": (0.70, 0.79, 0.88),
    "epidermis": (72, 64, 48),
    "ridges": (46, 32, 12),
    "dermis": (0.78, 0.83, 0.88),
    "adnexa": (2.2, 1.4, 0.4),
    "infiltrates": (0.6, 4.0, 1.2),
}
# The standard deviation of the logarithm of measures within a class.
_VARIATION = 0.12
# The variation of stains between subjects: of their strength, their colour, and the tint of the glass.
_STAINS = {"alike": (0.05, 0.015, 1.0), "own": (0.30, 0.16, 4.0)}
# Optical density of one unit of haematoxylin and of eosin in red, green and blue, to look like a scanned slide.
_HAEMATOXYLIN, _EOSIN = (0.62, 0.70, 0.34), (0.11, 0.90, 0.40)
_GLASS = (241.0, 240.0, 242.0)
# Horny layer over the epidermis.
_HORN = 22.0
_CELLS = 512


class Skin:
    """A subject's skin: its measures, its stain and the waves of its surface, independent of its finding."""

    def __init__(self, seed: int, number: int, finding: str, stains: str = "alike") -> None:
        random = stream(seed, "skin", number)
        self.seed, self.number, self.name = seed, number, f"B{number + 1:04d}"
        factors = np.exp(random.normal(0, _VARIATION, len(_MEASURES))).tolist()
        means = {name: values[_CLASSES.index(finding)] for name, values in _MEASURES.items()}
        self.measures = {name: mean * factor for (name, mean), factor in zip(means.items(), factors, strict=True)}
        self.measures["density"] = 1 - (1 - means["density"]) * factors[1]
        self.measures["dermis"] = min(means["dermis"] * factors[4] ** 0.3, 0.95)
        strength, turn, tint = _STAINS[stains]
        self.colours = []
        for vector in (_HAEMATOXYLIN, _EOSIN):
            turned = np.clip(np.array(vector) + random.normal(0, turn, 3), 0.01, None)
            turned *= np.linalg.norm(vector) / np.linalg.norm(turned) * np.exp(random.normal(0, strength))
            self.colours.append(turned)
        self.glass = np.array(_GLASS) + random.normal(0, tint, 3)
        self.waves = [
            (height * random.uniform(0.6, 1.4), length * random.uniform(0.8, 1.25), random.uniform(0, 2 * np.pi))
            for height, length in ((28, 900), (15, 360), (7, 140))
        ]


@lru_cache(maxsize=4)
def _texture(seed: int) -> Array:
    """A periodic field of smooth noise with values uniform in 0..1, (_CELLS, _CELLS)."""
    noise = ndimage.gaussian_filter(stream(seed, "tissue texture").normal(size=(_CELLS, _CELLS)), 1.0, mode="wrap")
    ranks = noise.ravel().argsort().argsort().reshape(noise.shape)
    return (ranks / noise.size).astype(np.float32)


class Section:
    """One section of a subject's skin on a slide of `size` (width, height) pixels, `mpp` microns each."""

    def __init__(self, skin: Skin, number: int, *, size: tuple[int, int], mpp: float) -> None:
        """Place the section on its slide: slightly rotated, upright or upside down."""
        self.skin, self.mpp, self._seed = skin, mpp, (skin.number, number)
        random = stream(skin.seed, "section", skin.number, number)
        self.angle = float(np.clip(random.normal(0, 5), -10, 10) + 180 * random.integers(2))
        self.width, self.depth = 0.80 * size[0] * mpp, 0.70 * size[1] * mpp
        self.shift: Array = random.uniform(0, _CELLS, (8, 2)).astype(np.float32)
        # The middle of the section is near the middle of the slide.
        self.turn = cv2.getRotationMatrix2D((0, 0), self.angle, 1)[:, :2]
        middle = np.array(size) * mpp / 2 * random.uniform(0.97, 1.03, 2)
        self.origin = middle - self.turn.T @ np.array([0, self.depth / 2])
        # The depth of the border between dermis and fat.
        self.floor = self.depth * skin.measures["dermis"]

    @cached_property
    def shapes(self) -> Array:
        """Nuclei, fat cells, vessels, glands and follicles."""
        return _scattered_shapes(stream(self.skin.seed, "shapes", *self._seed), self)

    def surface(self, u: Array) -> Array:
        """The depth v of the surface of the skin along u."""
        waves = [height * np.sin(2 * np.pi * u / length + phase) for height, length, phase in self.skin.waves]
        return np.sum(waves, axis=0)

    def border(self, u: Array) -> Array:
        """The depth of the lower border of the epidermis below the surface along u, with its ridges."""
        measures, phase = self.skin.measures, float(self.shift[0, 0])
        beat = np.sin(2 * np.pi * u / 104 + phase + 1.3 * np.sin(2 * np.pi * u / 377))
        return measures["epidermis"] + measures["ridges"] * (beat + 0.35 * np.sin(2 * np.pi * u / 61)) / 1.35

    def paint(self, left: int, top: int, width: int, height: int) -> tuple[Array, Array]:
        """Draw a window of the slide: (height, width, 3) `uint8`, and the mask of skin, (height, width).

        Fat is not part of the mask, because it is nearly empty. Windows of 256 pixels are drawn several times faster
        than large ones, because their arrays stay in the cache.
        """
        u, v = self._coordinates(left, top, width, height)
        below, border = self._depths(u, v)
        ragged = 36 * (self._sampled(0, u / 40, v / 40) - 0.5)
        horn = _HORN * (0.5 + self._sampled(1, u / 60, v / 400))
        edge = np.minimum(below + horn, np.minimum(self.width / 2 - np.abs(u), self.depth - v) + ragged)
        inside = coverage(edge, 1 / (1.5 * max(self.mpp, 1)))
        # The share of fat, which begins below the dermis.
        fat = coverage(v - self.floor + 2 * ragged, 1 / 12)
        picture = np.empty((height, width, 3), np.float32)
        picture[:] = self.skin.glass
        if inside.any():
            haema, eosin = self._stained(u, v, below, border, fat)
            dark, bright, cover = self._drawn_shapes(left, top, width, height)
            eosin += cover * (bright - eosin)
            haema += dark - cover * haema
            # The thickness of a section varies.
            uneven = -inside * (0.9 + 0.2 * self._sampled(6, u / 90, v / 90))
            for band, (blue, pink) in enumerate(zip(*self.skin.colours, strict=True)):
                picture[..., band] *= np.exp(uneven * (haema * np.float32(blue) + eosin * np.float32(pink)))
        rows, columns = np.arange(top, top + height) % _CELLS, np.arange(left, left + width) % _CELLS
        picture += 5 * _texture(self.skin.seed)[np.ix_(rows, columns)][..., None] - 2
        return np.clip(picture, 0, 255).astype(np.uint8), (inside > 0.5) & (fat < 0.5)

    def collagen(self, left: int, top: int, width: int, height: int) -> Array:
        """The mask of the bundles of collagen in a window of the slide, (height, width)."""
        u, v = self._coordinates(left, top, width, height)
        below, border = self._depths(u, v)
        bundles, _ = self._collagen(u, v, border - below)
        return (bundles > 0.5) & (below > border) & (v < self.floor) & (np.abs(u) < self.width / 2)

    def _coordinates(self, left: int, top: int, width: int, height: int) -> tuple[Array, Array]:
        """The coordinates u and v of the pixels of a window in the section."""
        x = (np.arange(left, left + width, dtype=np.float32) + 0.5) * np.float32(self.mpp) - np.float32(self.origin[0])
        y = (np.arange(top, top + height, dtype=np.float32) + 0.5) * np.float32(self.mpp) - np.float32(self.origin[1])
        u, v = (across * x + (down * y)[:, None] for across, down in self.turn.astype(np.float32))
        return u, v

    def _depths(self, u: Array, v: Array) -> tuple[Array, Array]:
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

    def _sampled(self, number: int, a: Array, b: Array) -> Array:
        """The values of a uniform noise field at (a, b), in cells; each number selects another field."""
        turns = (
            (layer + shift) * np.float32(1 / _CELLS) for layer, shift in zip((a, b), self.shift[number], strict=True)
        )
        # The remainder operator for floats is three times slower.
        a, b = ((turn - np.floor(turn)) * np.float32(_CELLS) for turn in turns)
        return cv2.remap(_texture(self.skin.seed), a, b, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    def _stained(self, u: Array, v: Array, below: Array, border: Array, fat: Array) -> tuple[Array, Array]:
        """The haematoxylin and eosin of each pixel, without the shapes."""
        epidermis = coverage(border - below, 1 / 2)
        collagen, fibres = self._collagen(u, v, border - below)
        eosin = (0.05 + 0.62 * collagen * (0.8 + 0.4 * fibres)) * (1 - fat) + 0.34 * fat
        eosin += epidermis * (0.42 - eosin)
        haema = 0.05 * collagen * (1 - fat)
        haema += epidermis * (0.26 + 0.16 * np.clip(below / np.maximum(border, 1), 0, 1) - haema)
        # The horny layer peels off in sheets.
        sheets = coverage(self._sampled(2, u / 28, below / 3.2) - 0.42, 1 / 0.08)
        corneous = coverage(-below, 1 / 1.5)
        eosin += corneous * (0.72 * sheets - eosin)
        haema += corneous * (0.05 * sheets - haema)
        return haema, eosin

    def _collagen(self, u: Array, v: Array, above: Array) -> tuple[Array, Array]:
        """The share of collagen, 0 to 1, and its fibres: two interwoven sets of bundles, finer near the surface."""
        papillary = coverage(above + 90, 1 / 25)
        bend_u, bend_v = (90 * (self._sampled(n, u / 75, v / 75) - 0.5) for n in (3, 4))
        # Both sets together cover the density.
        gap = np.float32(np.sqrt(1 - self.skin.measures["density"]))
        field, fibres = np.zeros_like(u), np.zeros_like(u)
        for number, (slope, fine) in enumerate(((0.30, 1.0), (-0.22, 1.0), (0.08, 0.45))):
            cell = np.float32(self.skin.measures["bundle"] * fine / 2.6)
            along, across = u + slope * v + bend_u, v - slope * u + bend_v
            noise = self._sampled(5 + number % 3, along / (7 * cell), across / cell)
            layer = coverage(noise - (gap if fine == 1 else gap**2), 1 / 0.07)
            if fine < 1:
                field += papillary * (layer - field)
            else:
                field = np.maximum(field, layer)
                fibres = np.where(layer >= field, self._sampled(number, along / 30, across / 1.1), fibres)
        return field, fibres

    def _drawn_shapes(self, left: int, top: int, width: int, height: int) -> list[Array]:
        """Haematoxylin and eosin of the shapes in a window, and the tissue that they cover, (height, width)."""
        table, mpp, scale = self.shapes, self.mpp, 1 << _FINE
        # The half is the distance from the corner of a pixel to its middle. Rounding before the window's corner is
        # subtracted makes windows agree except for a few pixels on the rim of shapes that they cut.
        positions = np.rint(((table[:, :2] @ self.turn + self.origin) / mpp - 0.5) * scale).astype(int)
        positions -= (left * scale, top * scale)
        reach = table[:, 2:4].max(axis=1)[:, None] / mpp + 2
        near = ((positions / scale > -reach) & (positions / scale < reach + np.array([width, height]))).all(axis=1)
        haema, eosin, cover = layers = [np.zeros((height, width), np.uint8) for _ in range(3)]
        for row in np.flatnonzero(near):
            _, _, long, short, direction, dark, pink, covers = table[row].tolist()
            axes = (max(round(long / mpp * scale), 4), max(round(short / mpp * scale), 4))
            form = (positions[row].tolist(), axes, direction - self.angle, 0.0, 360.0)
            for layer, value in ((haema, dark), *(((eosin, pink), (cover, 255)) if covers else ())):
                cv2.ellipse(layer, *form, value, -1, cv2.LINE_AA, _FINE)
        return [layer * (np.float32(1) / unit) for layer, unit in zip(layers, (_UNIT, _UNIT, 255), strict=True)]


# Shapes are rows of u, v, half the length, half the width (µm), the angle (degrees from u), haematoxylin and eosin (in
# 1/_UNIT of an optical density), and whether the shape covers the tissue under it.
_UNIT = 200
_FINE = 4  # fractional bits of a pixel of positions
_FIBROBLASTS = 380.0  # nuclei per mm² of dermis
_KERATINOCYTES = 11.0  # µm between nuclei of the epidermis


def _rows(*columns: Any) -> Array:
    return np.column_stack(np.broadcast_arrays(*map(np.atleast_1d, columns)))


def _scattered_shapes(random: Random, section: Section) -> Array:
    """Scatter the shapes of a section: (N, 8), in the order of drawing."""
    measures, width = section.skin.measures, section.width
    rows = [_fat(random, section)]
    count = random.poisson(_FIBROBLASTS * (width * section.floor / 1e6))
    rows.append(_nuclei(random, _scattered(random, section, count), long=(4.5, 8.0), short=(1.1, 1.8), tilt=16))
    adnexa, infiltrates = (random.poisson(measures[name] * width / 1000) for name in ("adnexa", "infiltrates"))
    # Each in its own interval along the skin.
    u = ((np.arange(adnexa) + random.uniform(0.2, 0.8, adnexa)) / max(adnexa, 1) - 0.5) * (width - 240)
    top = section.surface(u) + section.border(u)
    for centre in np.stack([u, top + random.uniform(0.3, 0.75, adnexa) * (section.floor - top)], axis=1):
        rows += _follicle(random, centre) if random.random() < 0.4 else _gland(random, centre)
    for centre in _scattered(random, section, infiltrates, margin=50):
        # A small vessel and the inflammatory cells around it.
        cells = centre + random.normal(0, 1, (random.integers(25, 70), 2)) * (26, 20)
        rows.append(_nuclei(random, cells, long=(2.6, 3.4), short=(2.4, 3.2), tilt=90))
        rows += _tube(random, centre, 11, 7, dark=45, pink=90, nuclei=10)
    return np.concatenate([*rows, _keratinocytes(random, section)])


def _scattered(random: Random, section: Section, count: int, margin: float = 8.0) -> Array:
    """Positions (N, 2) in the dermis, at least `margin` µm from its borders."""
    u = random.uniform(-0.5, 0.5, count) * (section.width - 60)
    top = section.surface(u) + section.border(u) + margin
    return np.stack([u, top + random.uniform(0, 1, count) * np.maximum(section.floor - margin - top, 0)], axis=1)


def _nuclei(random: Random, at: Array, *, long: tuple[float, float], short: tuple[float, float], tilt: float) -> Array:
    axes = random.uniform(*long, len(at)), random.uniform(*short, len(at))
    return _rows(*at.T, *axes, random.normal(0, tilt, len(at)), random.uniform(150, 235, len(at)), 0, 0)


def _keratinocytes(random: Random, section: Section) -> Array:
    """Nuclei of the epidermis, close together; those at its border are upright and darker."""
    width, border = section.width, section.border
    u, d = np.meshgrid(np.arange(-width / 2, width / 2, _KERATINOCYTES), np.arange(8, 190, _KERATINOCYTES))
    u, d = (values.ravel() + random.uniform(-3.5, 3.5, values.size) for values in (u, d))
    within = d < border(u) - 3
    u, d = u[within], d[within]
    rows = _nuclei(random, np.stack([u, section.surface(u) + d], axis=1), long=(2.6, 3.8), short=(2.2, 3.0), tilt=90)
    rows[:, 5] *= np.where(d > border(u) - 14, 1.0, 0.7)
    return rows


def _fat(random: Random, section: Section) -> Array:
    """Empty cells side by side below the dermis."""
    width, step = section.width, 62.0
    down = np.arange(section.floor + 40, section.depth + step, step * 0.87)
    u, v = np.meshgrid(np.arange(-width / 2, width / 2, step), down)
    u = u + np.where(np.arange(len(v)) % 2, step / 2, 0)[:, None]
    u, v = (values.ravel() + random.uniform(-5, 5, u.size) for values in (u, v))
    axes = random.uniform(27, 32, u.size), random.uniform(25, 30, u.size)
    return _rows(u, v, *axes, random.uniform(0, 180, u.size), 0, 0, 1)


def _tube(
    random: Random, centre: Array, radius: float, hole: float, *, dark: float, pink: float, nuclei: float
) -> list[Array]:
    """The cross-section of a tube: wall, lumen, and the nuclei of its wall at a radius."""
    ring = _rows(*centre, [radius, hole], [radius * 0.9, hole * 0.8], 0, [dark, 0], [pink, 6], 1)
    turns = np.linspace(0, 2 * np.pi, max(int(2 * np.pi * nuclei / 8), 5), endpoint=False)
    at = centre + nuclei * np.stack([np.cos(turns), 0.9 * np.sin(turns)], axis=1)
    return [ring, _nuclei(random, at, long=(2.4, 3.4), short=(2.2, 3.0), tilt=90)]


def _gland(random: Random, centre: Array) -> list[Array]:
    """A coil of sweat tubules."""
    rows = []
    for turn in np.linspace(0, 2 * np.pi, random.integers(6, 10), endpoint=False):
        at = centre + random.uniform(30, 85) * np.array([np.cos(turn), 0.7 * np.sin(turn)])
        radius = random.uniform(17, 25)
        rows += _tube(random, at, radius, radius * 0.3, dark=60, pink=95, nuclei=radius * 0.68)
    return rows


def _follicle(random: Random, centre: Array) -> list[Array]:
    """An oblique section of a hair in its sheaths."""
    tilt, long = random.uniform(60, 120), random.uniform(130, 210)
    shares, wide = np.array([1.0, 0.9, 0.84, 0.8]), [52, 38, 20, 11]
    return [_rows(*centre, long * shares, wide, tilt, [80, 100, 25, 190], [85, 70, 150, 110], 1)]
