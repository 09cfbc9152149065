"""The psoriasis phantom: synthetic subjects under treatment, photographed and graded at every visit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from casewise.errors import CasewiseError, nearest
from casewise.plugins.phantoms.bodies import PHOTOGRAPHS, SIZE, UNIT, Maps, Subject
from casewise.plugins.phantoms.cohort import CohortFolder, Kind, Labels, Progress, Row, check_settings, encoded
from casewise.plugins.phantoms.scene import Array, Random, coverage, grains, stream

_PSORIASIS = Kind(
    name="psoriasis",
    columns=(
        *("path", "subject", "visit", "day", "region", "erythema", "induration", "scaling", "area"),
        *("skin_tone", "site", "synthetic"),
    ),
    picture="photograph",
    taken="photographed",
    contents="""\
visits.csv    one row for each photograph; severities 0-4 and area 0-6 as a physician would score them, with some noise
phantom.json  the settings, the seed, and the truth: continuous severities and the covered share of the skin
images/       <subject>/<visit>/<region>_<n>.jpg, each marked as synthetic in its EXIF data and its JPEG comment
""",
    unit="photographs",
    sides=(24, 4928),
    table="visits.csv",
)
# The photographs of a visit, in the order of the table: the region and the number, which starts at 1.
_SHOTS = [(region, number) for region, count in PHOTOGRAPHS.items() for number in range(1, count + 1)]
_WEEKS_BETWEEN_VISITS = 4


@dataclass(frozen=True)
class PsoriasisSettings:
    """Everything that determines the bytes of the cohort.

    `size` is width and height in pixels. `labels="shuffled"` makes a negative control: every subject receives the label
    sequence of another one, with the visits in another order. Without the second step the improvement that nearly all
    subjects share could be learned.
    """

    subjects: int = 30
    visits: int = 6
    size: tuple[int, int] = (492, 326)
    seed: int = 0
    labels: Labels = "true"


def make_psoriasis(
    folder: Path, *, processes: int | None = None, progress: Progress | None = None, **settings: Any
) -> Path:
    """Draw a phantom cohort into `folder` and return the path of its `visits.csv`.

    A visit has eight photographs (upper 4, trunk 2, lower 2) and takes place every four weeks; one subject in six
    misses a visit, never the first. Three quarters of the subjects respond. The same settings give the same bytes with
    any number of `processes` (default: one for each core); a subject's pixels do not depend on the number of subjects.

    Args:
        settings: the fields of `PsoriasisSettings`.
        progress: receives the numbers of finished photographs and of all photographs.

    Raises:
        CasewiseError: a setting is out of range, or the folder contains something that is not a phantom.
    """
    from joblib import Parallel, cpu_count, delayed

    options = PsoriasisSettings(**settings)
    check_settings(options, _PSORIASIS)
    courses = [course(options.seed, number, visits=options.visits) for number in range(options.subjects)]
    total, done = sum(len(disease.attended) for disease in courses) * len(_SHOTS), 0
    cohort = CohortFolder(folder, _PSORIASIS, options, total, None)
    series = [(number, *shot) for number in range(options.subjects) for shot in _SHOTS]
    # A fork of a parent that has loaded torch, and therefore has threads, can deadlock; other new processes execute
    # the script that calls this function again, but loky's processes do not.
    own: Mapping[str, object] = {"initializer": cv2.setNumThreads, "initargs": (1,)}
    jobs = min(processes or cpu_count(), len(series))
    workers = Parallel(n_jobs=jobs, backend="loky", return_as="generator", **own)
    for count in workers(delayed(_draw_series)(cohort, courses[shot[0]], *shot) for shot in series):
        done += count
        if progress is not None:
            progress(done, total)
    truth: list[Row] = []
    for number, (disease, labels) in enumerate(zip(courses, _labels(options, courses), strict=True)):
        subject = Subject(options.seed, number)
        person = {"skin_tone": subject.skin_tone, "site": subject.site}
        visits = [_true_state(disease, visit) for visit in disease.attended]
        truth.append({"subject": subject.name, "response": disease.response, **person, "visits": visits})
        for visit in disease.attended:
            for region, n in _SHOTS:
                path, grades = _path(subject, visit, region, n), labels[visit][region]._asdict()
                cohort.add(path=path, subject=subject.name, region=region, **_when(visit), **grades, **person)
    return cohort.finish(truth)


def draw_photograph(
    subject_number: int, visit: int, region: str, number: int = 1, *, seed: int = 0, size: tuple[int, int] = (492, 326)
) -> _Photograph:
    """Return one photograph of the cohort with its masks: subject and visit count from 0, photographs from 1.

    Raises:
        CasewiseError: no such region or photograph.

    >>> shot = draw_photograph(0, 0, "trunk", size=(96, 64))
    >>> shot.picture.shape, bool((shot.plaque <= shot.skin).all())
    ((64, 96, 3), True)
    """
    if not 1 <= number <= PHOTOGRAPHS.get(region, 0):
        available = ", ".join(f"{name} 1-{count}" for name, count in PHOTOGRAPHS.items())
        raise CasewiseError(
            f"The phantom has no photograph {region} {number}; it has {available}.{nearest(region, PHOTOGRAPHS)}"
        )
    subject = Subject(seed, subject_number)
    severity = course(seed, subject_number, visits=visit + 1).truth[visit][region]
    return _photograph(subject, subject.maps(region, number), visit, region, number, severity, size)


def _labels(settings: PsoriasisSettings, courses: list[_Course]) -> list[tuple[dict[str, Severity], ...]]:
    """Each subject's labels by visit and region: true ones, or another subject's in another order."""
    labels = [disease.physician for disease in courses]
    if settings.labels == "shuffled":
        random = stream(settings.seed, "shuffled labels", settings.subjects)
        ring = random.permutation(settings.subjects)
        for position, number in enumerate(ring):
            # The next subject in a random ring is always a different one.
            donor = courses[ring[(position + 1) % len(ring)]].physician
            labels[number] = tuple(donor[visit] for visit in random.permutation(settings.visits))
    return labels


def _draw_series(cohort: CohortFolder, disease: _Course, number: int, region: str, shot: int) -> int:
    """Draw one of a subject's photographs at all visits, which share the anatomy; return the number of visits."""
    subject = Subject(cohort.settings.seed, number)
    body = subject.maps(region, shot)
    for visit in disease.attended:
        severity = disease.truth[visit][region]
        drawn = _photograph(subject, body, visit, region, shot, severity, cohort.settings.size)
        cohort.save(_path(subject, visit, region, shot), encoded(drawn.picture, ".jpg", quality=90))
    return len(disease.attended)


def _when(visit: int) -> Row:
    return {"visit": f"week{visit * _WEEKS_BETWEEN_VISITS}", "day": visit * _WEEKS_BETWEEN_VISITS * 7}


def _path(subject: Subject, visit: int, region: str, number: int) -> str:
    return f"images/{subject.name}/{_when(visit)['visit']}/{region}_{number}.jpg"


def _true_state(disease: _Course, visit: int) -> Row:
    """The true state at a visit: continuous severities, covered share, noiseless grades and the physician's."""
    truth = disease.truth[visit]
    regions = {
        region: {
            "severity": {name: round(value, 4) for name, value in severity._asdict().items()},
            "covered_share": round(severity.share, 4),
            "grades": severity.graded()._asdict(),
            "physician": disease.physician[visit][region]._asdict(),
        }
        for region, severity in truth.items()
    }
    score = weighted_score({region: severity.graded() for region, severity in truth.items()})
    return {**_when(visit), "score": score, "regions": regions}


# The disease.

_REGION_WEIGHTS = {"upper": 0.2, "trunk": 0.3, "lower": 0.4, "head": 0.1}
AREA_EDGES = (0.0, 0.10, 0.30, 0.50, 0.70, 0.90, 1.0)
_READER_SD = 0.15

Response = Literal["responder", "partial", "worsening"]
# Each twelve subjects have this mixture: cohorts of any size are close to it, and enlarging one changes no subject.
_BLOCK: tuple[Response, ...] = ("responder",) * 9 + ("partial",) * 2 + ("worsening",)
# The limits of the time constant in weeks, and of the share of the first severity that remains.
_TEMPO = {
    "responder": ((3.5, 7.0), (0.0, 0.24)),
    "partial": ((4.0, 9.0), (0.45, 0.70)),
    "worsening": ((6.0, 12.0), (1.1, 1.35)),
}


class Severity(NamedTuple):
    """Severity of one region: three signs in [0, 4] and area in [0, 6]; continuous, or integer grades."""

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
        return float(np.interp(self.area, (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.0), AREA_EDGES))

    @property
    def composite(self) -> float:
        """The regional composite (E + I + S) x area (Xing et al., Equation 1).

        >>> Severity(3, 2, 1, 4).composite
        24
        """
        return (self.erythema + self.induration + self.scaling) * self.area

    def graded(self, noise: Iterable[float] = (0, 0, 0, 0)) -> Severity:
        """Return the grades of a reader; if any skin is covered, redness and area are at least 1."""
        if self.share == 0:
            return Severity(0, 0, 0, 0)
        # Half is rounded up, as in the bands of `share`; Python's `round` gives even grades for both 2.5 and 3.5.
        numbers = [int(np.floor(value + error + 0.5)) for value, error in zip(self, noise, strict=True)]
        limits = zip(numbers, (1, 0, 0, 1), (4, 4, 4, 6), strict=True)
        return Severity(*(min(max(number, low), high) for number, low, high in limits))


class _Course(NamedTuple):
    """One subject's disease: truth and a physician's grades by visit and region, and the visits with photographs."""

    response: Response
    truth: tuple[dict[str, Severity], ...]
    physician: tuple[dict[str, Severity], ...]
    attended: tuple[int, ...]


def weighted_score(grades: dict[str, Severity]) -> float:
    """Return the area-and-severity score of the regions given (Xing et al., Equation 2).

    >>> weighted_score({"upper": Severity(1, 1, 1, 1), "trunk": Severity(2, 2, 2, 2), "lower": Severity(0, 0, 0, 0)})
    4.2
    """
    return round(sum(_REGION_WEIGHTS[region] * grade.composite for region, grade in grades.items()), 6)


def course(seed: int, subject: int, *, visits: int) -> _Course:
    """Return the course of one subject (0-based number); it does not depend on the number of subjects."""
    block, position = divmod(subject, len(_BLOCK))
    draw = stream(seed, "block", block)
    response = _BLOCK[draw.permutation(len(_BLOCK))[position]]
    level = (draw.permutation(len(_BLOCK))[position] + draw.random(len(_BLOCK))[position]) / len(_BLOCK)
    drops_out = draw.permutation(len(_BLOCK))[position] < 2

    random = stream(seed, "course", subject)
    tempo, floor = (random.uniform(*limits) for limits in _TEMPO[response])
    regional = {region: stream(seed, "course", subject, region) for region in _REGION_WEIGHTS}
    offsets = random.normal(0, 0.35, len(regional))
    pairs = zip(regional.items(), offsets, strict=True)
    first = {region: _first(level, draws, offset) for (region, draws), offset in pairs}
    missing = 1 + int(random.random() * max(visits - 1, 1)) if drops_out and visits >= 5 else -1
    floors = {region: max(floor + draws.normal(0, 0.05), 0.0) for region, draws in regional.items()}
    reader = stream(seed, "reader", subject)
    truth: list[dict[str, Severity]] = []
    physician: list[dict[str, Severity]] = []
    for visit in range(visits):
        truth.append({})
        physician.append({})
        # The visit's variation is drawn for all four regions, although heads are not photographed.
        for region, draws in regional.items():
            rest = floors[region]
            left = rest + (1.0 - rest) * float(np.exp(-((visit * _WEEKS_BETWEEN_VISITS / tempo) ** 1.3)))
            severity = _severity(first[region], left, draws.normal(0, 0.12 if visit else 0.0, 4))
            grades = severity.graded(reader.normal(0, _READER_SD, 4))
            if region in PHOTOGRAPHS:
                truth[-1][region], physician[-1][region] = severity, grades
    attended = tuple(visit for visit in range(visits) if visit != missing)
    return _Course(response, tuple(truth), tuple(physician), attended)


def _first(level: float, random: Random, offset: float) -> Array:
    """Draw E, I, S and area at week 0 for a subject whose overall level is in [0, 1]."""
    mixed = 0.45 * level + 0.55 * random.random(3)
    severities = np.array([1.3, 0.9, 0.7]) + np.array([2.6, 2.9, 3.2]) * mixed
    return np.append(severities, max(0.9 + 4.4 * level + offset + random.normal(0, 0.4), 0.7))


def _severity(first: Array, left: float, wobble: Array) -> Severity:
    # Scale and thickness improve first, redness and covered skin later, as under treatment.
    values = first * left ** np.array([0.9, 1.1, 1.25, 1.0]) + wobble * min(left, 1.0)
    values = np.clip(values, 0.0, [4.0, 4.0, 4.0, 5.95])
    if values[3] < 0.5:
        return Severity(0.0, 0.0, 0.0, 0.0)
    return Severity(max(float(values[0]), 0.6), *values[1:].tolist())


# The photograph. Colours are computed for the K pixels of the body only, as flat arrays: most of it is backdrop.

# A picture with more pixels a side is drawn smaller, enlarged, and given new grain, which saves time.
_DRAWN_AT_MOST = 1232
# The share of red, green and blue light that a mole absorbs.
_MARK_STRENGTH = (0.75, 0.86, 0.92)
# The absorption of red, green and blue by one grade of redness.
_BLOOD = (0.030, 0.195, 0.155)


@dataclass(frozen=True)
class _Photograph:
    """A drawn photograph with the masks of its skin and plaques.

    `picture`: `(H, W, 3) uint8` RGB; `skin`: `(H, W) bool`, bare skin; `plaque`: `(H, W) bool`, the covered part of it.
    """

    picture: Array
    skin: Array
    plaque: Array

    @property
    def share(self) -> float:
        """The share of the bare skin that plaques cover."""
        return float(self.plaque.sum() / max(int(self.skin.sum()), 1))


def _photograph(
    subject: Subject, body: Maps, visit: int, region: str, number: int, severity: Severity, size: tuple[int, int]
) -> _Photograph:
    """Draw one photograph of `size` (width, height) pixels: a body in front of a camera and the visit's lamp."""
    seed, name = subject.seed, subject.name
    random, lamp = stream(seed, "photograph", name, visit, region, number), stream(seed, "lamp", name, visit)
    shrink = min(1.0, _DRAWN_AT_MOST / max(size))
    width, height = (max(round(side * shrink), 1) for side in size)
    maps, scale = _view(random, body, width, height)

    cover = coverage(maps["inside"], scale)
    skin = (cover > 0.5) & (coverage(maps["cloth"], scale) <= 0.5)
    maps["plaque"] -= np.float32(min(_threshold(maps["plaque"][skin], severity.share), 1e6))

    planes = _backdrop(subject, maps["inside"], random)
    pixels = np.flatnonzero(cover)
    surface = _surface(subject, maps, pixels, severity, lamp, reach=max(round(0.014 * scale), 1))
    _lay(planes, pixels, surface, cover.take(pixels))
    _dress(planes, subject.garment, maps, cover, scale)
    _light(planes, lamp, random)
    picture, plaque = cv2.merge([cv2.convertScaleAbs(plane) for plane in planes]), skin & (maps["plaque"] > 0)
    if (width, height) != size:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
        masks = (mask.astype(np.uint8) for mask in (skin, plaque))
        skin, plaque = (cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(bool) for mask in masks)
    tile = cv2.merge([np.roll(_grain(seed), tuple(random.integers(512, size=2)), axis=(0, 1))] * 3)
    for top in range(0, size[1], 512):
        for left in range(0, size[0], 512):
            patch = picture[top : top + 512, left : left + 512]
            patch[...] = cv2.add(patch, tile[: patch.shape[0], : patch.shape[1]], dtype=cv2.CV_8U)
    return _Photograph(picture, skin, plaque)


@lru_cache(maxsize=4)
def _grain(seed: int) -> Array:
    """A tile of camera noise in grey levels; pictures start at different positions of it."""
    return np.rint(stream(seed, "grain").normal(0, 2.2, (512, 512))).astype(np.int16)


def _lay(planes: Array, pixels: Array, colours: Iterable[Array], share: Array) -> None:
    """Lay colours over the picture at `pixels` in place."""
    for plane, colour in zip(planes, colours, strict=True):
        flat = plane.reshape(-1)
        under = flat.take(pixels)
        flat[pixels] = under + share * (colour - under)


def _threshold(field: Array, share: float) -> float:
    """Return the value that `share` of the values of `field` exceed, infinity for a share of 0.

    >>> int((np.arange(10) > _threshold(np.arange(10, dtype=np.float32), 0.3)).sum())
    3
    """
    if share <= 0 or not len(field):
        return float("inf")
    rank = len(field) - min(max(round(len(field) * share), 1), len(field))
    return float(np.nextafter(np.partition(field, rank)[rank], np.float32(-np.inf)))


def _view(random: Random, body: Maps, width: int, height: int) -> tuple[Maps, float]:
    """The canvas maps in the view of the camera, `(height, width) float32`, and its pixels per body unit."""
    scale = min(width / 1.5, height) * random.uniform(0.96, 1.06)
    turn = np.deg2rad(random.uniform(-4, 4))
    linear = UNIT / scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array(SIZE) / 2 + random.uniform(-0.03, 0.03, 2) * UNIT
    camera = np.column_stack([linear, middle - linear @ [(width - 1) / 2, (height - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    maps: Maps = {}
    for name, values in body.items():
        maps[name] = cv2.warpAffine(values, camera, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if values.max() == values.min():  # an even map stays even
            maps[name][...] = values[0, 0]
    return maps, scale


def _backdrop(subject: Subject, inside: Array, random: Random) -> Array:
    """`(3, H, W)` a plain backdrop with the body's soft shadow on it."""
    folds = grains(random, (4, 3), inside.shape[::-1])
    gap = np.minimum(inside, 0) * np.float32(1 / 0.035)
    even = (1 - np.float32(0.32) / (1 + gap * gap)) * (1 + np.float32(0.03) * folds)
    return np.stack([np.float32(channel) * even for channel in subject.backdrop])


def _surface(subject: Subject, maps: Maps, pixels: Array, severity: Severity, lamp: Random, *, reach: int) -> Array:
    """`(3, K)` the colour of the skin at `pixels` under the lamp."""
    visible = {name: values.reshape(-1).take(pixels) for name, values in maps.items()}
    even = 1 + np.float32(0.022) * visible["mottle"]
    # skin without plaques, with its moles
    absorbed = [np.float32(strength) * visible["marks"] for strength in _MARK_STRENGTH]
    skin = np.stack([np.float32(c) * even * (1 - dark) for c, dark in zip(subject.skin, absorbed, strict=True)])
    if severity.share > 0:
        # Light falls from the upper left, so a surface that rises towards the lower right is bright.
        step = reach * (maps["plaque"].shape[1] + 1)
        near, far = (_rise(maps["plaque"].reshape(-1).take(pixels + way, mode="clip")) for way in (-step, step))
        _cover_with_plaques(skin, visible, far - near, severity, tone=float(np.mean(subject.skin)))
    x, y = -0.32 + lamp.uniform(-0.12, 0.12), -0.38 + lamp.uniform(-0.12, 0.12)
    tilt_x, tilt_y = visible["tilt_x"], visible["tilt_y"]
    facing = np.sqrt(np.maximum(1 - tilt_x * tilt_x - tilt_y * tilt_y, 0))
    lambert = np.maximum(np.float32(0.82) * facing + np.float32(x) * tilt_x + np.float32(y) * tilt_y, 0)
    skin *= (np.float32(0.42) + np.float32(0.66) * lambert) * visible["shade"]
    return skin


def _cover_with_plaques(skin: Array, maps: Maps, rise: Array, severity: Severity, *, tone: float) -> None:
    """Paint plaques onto `skin` `(3, K)` in place.

    `maps["plaque"]` is positive inside a plaque, in body units; `rise` is the change of the plaques' height along the
    light.
    """
    depth, bumps, scaling = maps["plaque"], maps["bumps"], severity.scaling
    # Blood absorbs green and blue light, independently of the skin tone.
    red = coverage(depth, 100) * (1 + np.float32(0.05) * maps["mottle"])
    for channel, strength in zip(skin, _BLOOD, strict=True):
        channel *= 1 - red * np.float32(1 - np.exp(-strength * severity.erythema))
    if scaling > 0:
        # The flecked share of a plaque and the whiteness of its flecks increase with the grade.
        share = np.float32(0.15 * scaling + 0.10 * min(scaling, 1.0))
        white = np.clip((maps["flecks"] - (1 - share)) * np.float32(1 / 0.28), 0, 1)
        white *= np.clip(depth * np.float32(50), 0, 1)
        white *= np.float32(0.62 + 0.06 * scaling)
        for channel, silver in zip(skin, (0.555, 0.56, 0.575), strict=True):
            channel += white * (np.float32(0.42 * tone + silver) - channel)
    if severity.induration > 0:
        # Raised plaques have a lit and a shaded flank, a dark rim and a cobbled top.
        lit = rise * (1 + np.float32(0.30) * bumps)
        rim = np.exp(np.square(depth * np.float32(1 / 0.014)) * np.float32(-1))
        inside = np.float32(0.035) * bumps * np.clip(depth * np.float32(60), 0, 1)
        relief = np.float32(0.105) * lit - np.float32(0.085) * rim + inside
        skin *= np.clip(1 + np.float32(severity.induration) * relief, 0.25, 1.7)


def _rise(depth: Array) -> Array:
    ramp = np.clip((depth + np.float32(0.006)) * np.float32(1 / 0.034), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _dress(planes: Array, colour: tuple[float, float, float], maps: Maps, cover: Array, scale: float) -> None:
    """Draw a garment over the picture in place; it ends with the body (`cover`)."""
    pixels = np.flatnonzero(maps["cloth"] > -0.5 / scale)
    if not len(pixels):
        return
    distance, tilt, bumps = (maps[name].reshape(-1).take(pixels) for name in ("cloth", "tilt_x", "bumps"))
    weave = np.float32(0.88) + np.float32(0.12) * np.clip(distance / np.float32(0.03), 0, 1)
    weave += np.float32(0.02) * bumps
    weave *= np.float32(0.6) + np.float32(0.4) * np.sqrt(np.maximum(1 - tilt * tilt, 0))
    over = coverage(distance, scale) * cover.reshape(-1).take(pixels)
    _lay(planes, pixels, [np.float32(channel) * weave for channel in colour], over)


def _light(planes: Array, lamp: Random, random: Random) -> None:
    """Apply in place the visit's exposure and tint, the photograph's gradient across, and darker corners."""
    exposure = lamp.uniform(0.92, 1.06) * random.uniform(0.97, 1.03)
    tint = exposure * (1 + lamp.uniform(-0.025, 0.025, 3))
    slopes = random.uniform(-0.13, 0.13, 2)
    x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in (planes.shape[2], planes.shape[1]))
    row, column = (
        1 + np.float32(slope) * z - np.float32(0.07) * z * z for slope, z in zip(slopes, (x, y), strict=True)
    )
    planes *= row[None, :] * column[:, None]
    planes *= (tint * 255).astype(np.float32)[:, None, None]
