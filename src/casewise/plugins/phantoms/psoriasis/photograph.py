"""One synthetic photograph: an anatomy in front of a camera and a lamp, with plaques of a given severity.

Colours are computed for the K pixels of the body only, as flat arrays, because most of a photograph is backdrop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.draws import Random, stream
from casewise.plugins.phantoms.psoriasis.bodies import CANVAS, UNIT, Floats, Maps
from casewise.plugins.phantoms.psoriasis.subjects import Severity, Subject

# A picture with more pixels a side is drawn smaller, enlarged, and given new grain, which saves time.
DRAWN_AT_MOST = 1232
# The share of red, green and blue light that a mole absorbs.
MARK_STRENGTH = (0.75, 0.86, 0.92)
# The absorption of red, green and blue by one grade of redness.
BLOOD = (0.030, 0.195, 0.155)


@dataclass(frozen=True)
class Photograph:
    """A drawn photograph with the masks of its skin and plaques.

    `picture`: `(H, W, 3) uint8` RGB; `skin`: `(H, W) bool`, bare skin; `plaque`: `(H, W) bool`, the covered part of it.
    """

    picture: NDArray[np.uint8]
    skin: NDArray[np.bool_]
    plaque: NDArray[np.bool_]

    @property
    def share(self) -> float:
        """The share of the bare skin that plaques cover."""
        return float(self.plaque.sum() / max(int(self.skin.sum()), 1))


def draw(
    seed: int, patient: Subject, anatomy: Maps, *, key: tuple[str | int, ...], severity: Severity, size: tuple[int, int]
) -> Photograph:
    """Draw one photograph of `size` (width, height) pixels.

    `key` is (subject, visit, region, number): it seeds the camera and the grain; its first two entries seed the lamp.
    """
    random, lamp = stream(seed, "photograph", *key), stream(seed, "lamp", *key[:2])
    shrink = min(1.0, DRAWN_AT_MOST / max(size))
    width, height = (max(round(side * shrink), 1) for side in size)
    maps, scale = _view(random, anatomy, width, height)

    cover = _sharp(maps["inside"], scale)
    skin = (cover > 0.5) & (_sharp(maps["cloth"], scale) <= 0.5)
    maps["plaque"] -= np.float32(min(threshold(maps["plaque"][skin], severity.share), 1e6))

    planes = _backdrop(patient, maps["inside"], random)
    pixels = np.flatnonzero(cover)
    surface = _surface(patient, maps, pixels, severity, lamp, reach=max(round(0.014 * scale), 1))
    _lay(planes, pixels, surface, cover.take(pixels))
    _dress(planes, patient.build.garment, maps, cover, scale)
    _light(planes, lamp, random)
    return _develop(planes, skin, skin & (maps["plaque"] > 0), random, seed, size)


def _lay(planes: Floats, pixels: NDArray[np.intp], colours: Iterable[Floats], share: Floats) -> None:
    """Lay colours over the picture at `pixels` in place."""
    for plane, colour in zip(planes, colours, strict=True):
        flat = plane.reshape(-1)
        under = flat.take(pixels)
        flat[pixels] = under + share * (colour - under)


def threshold(field: Floats, share: float) -> float:
    """Return the value that `share` of the values of `field` exceed, infinity for a share of 0.

    >>> threshold(np.arange(10, dtype=np.float32), 0.3) < 7
    True
    >>> int((np.arange(10) > threshold(np.arange(10, dtype=np.float32), 0.3)).sum())
    3
    """
    if share <= 0 or not len(field):
        return float("inf")
    rank = len(field) - min(max(round(len(field) * share), 1), len(field))
    return float(np.nextafter(np.partition(field, rank)[rank], np.float32(-np.inf)))


def _sharp(distance: Floats, scale: float) -> Floats:
    """Return the share of each pixel that lies inside an outline, given the signed distance in body units."""
    coverage: Floats = np.clip(distance * np.float32(scale) + np.float32(0.5), 0, 1)
    return coverage


def _view(random: Random, anatomy: Maps, width: int, height: int) -> tuple[Maps, float]:
    """Return the canvas maps in the view of the camera, `(height, width) float32`, and its pixels per body unit."""
    scale = min(width / 1.5, height) * random.uniform(0.96, 1.06)
    turn = np.deg2rad(random.uniform(-4, 4))
    x, y = random.uniform(-0.03, 0.03, 2)
    linear = UNIT / scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([CANVAS[0] / 2 + x * UNIT, CANVAS[1] / 2 + y * UNIT])
    camera = np.column_stack([linear, middle - linear @ [(width - 1) / 2, (height - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    maps: Maps = {}
    for name, values in anatomy.items():
        view = cv2.warpAffine(values, camera, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        maps[name] = view.astype(np.float32, copy=False)
        if values.max() == values.min():  # an even map stays even
            maps[name][...] = values[0, 0]
    return maps, scale


def _backdrop(patient: Subject, inside: Floats, random: Random) -> Floats:
    """Return `(3, H, W)` a plain backdrop with the body's soft shadow on it."""
    height, width = inside.shape
    folds = cv2.resize(random.standard_normal((3, 4), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    gap = np.minimum(inside, 0) * np.float32(1 / 0.035)
    even = (1 - np.float32(0.32) / (1 + gap * gap)) * (1 + np.float32(0.03) * folds)
    return np.stack([np.float32(channel) * even for channel in patient.backdrop])


def _surface(
    patient: Subject, maps: Maps, pixels: NDArray[np.intp], severity: Severity, lamp: Random, *, reach: int
) -> Floats:
    """Return `(3, K)` the colour of the skin at `pixels` under the lamp."""
    visible = {name: values.reshape(-1).take(pixels) for name, values in maps.items()}
    even = 1 + np.float32(0.022) * visible["mottle"]
    # skin without plaques, with its moles
    absorbed = [np.float32(strength) * visible["marks"] for strength in MARK_STRENGTH]
    skin = np.stack([np.float32(c) * even * (1 - dark) for c, dark in zip(patient.skin, absorbed, strict=True)])
    if severity.share > 0:
        # Light falls from the upper left, so a surface that rises towards the lower right is bright.
        step = reach * (maps["plaque"].shape[1] + 1)
        near, far = (_rise(maps["plaque"].reshape(-1).take(pixels + way, mode="clip")) for way in (-step, step))
        _cover_with_plaques(skin, visible, far - near, severity, tone=float(np.mean(patient.skin)))
    x, y = -0.32 + lamp.uniform(-0.12, 0.12), -0.38 + lamp.uniform(-0.12, 0.12)
    tilt_x, tilt_y = visible["tilt_x"], visible["tilt_y"]
    facing = np.sqrt(np.maximum(1 - tilt_x * tilt_x - tilt_y * tilt_y, 0))
    lambert = np.maximum(np.float32(0.82) * facing + np.float32(x) * tilt_x + np.float32(y) * tilt_y, 0)
    skin *= (np.float32(0.42) + np.float32(0.66) * lambert) * visible["shade"]
    return skin


def _cover_with_plaques(skin: Floats, maps: Maps, rise: Floats, severity: Severity, *, tone: float) -> None:
    """Paint plaques onto `skin` `(3, K)` in place.

    `maps["plaque"]` is positive inside a plaque, in body units; `rise` is the change of the plaques' height along the
    light.
    """
    depth, bumps, scaling = maps["plaque"], maps["bumps"], severity.scaling
    edge = np.clip(depth * np.float32(100) + np.float32(0.5), 0, 1)
    # Blood absorbs green and blue light, independently of the skin tone.
    red = edge * (1 + np.float32(0.05) * maps["mottle"])
    for channel, strength in zip(skin, BLOOD, strict=True):
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


def _rise(depth: Floats) -> Floats:
    ramp: Floats = np.clip((depth + np.float32(0.006)) * np.float32(1 / 0.034), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _dress(planes: Floats, colour: tuple[float, float, float], maps: Maps, cover: Floats, scale: float) -> None:
    """Draw a garment over the picture in place; it ends with the body (`cover`)."""
    outline = maps["cloth"]
    pixels = np.flatnonzero(outline > -0.5 / scale)
    if not len(pixels):
        return
    distance, tilt = outline.reshape(-1).take(pixels), maps["tilt_x"].reshape(-1).take(pixels)
    weave = np.float32(0.88) + np.float32(0.12) * np.clip(distance / np.float32(0.03), 0, 1)
    weave += np.float32(0.02) * maps["bumps"].reshape(-1).take(pixels)
    weave *= np.float32(0.6) + np.float32(0.4) * np.sqrt(np.maximum(1 - tilt * tilt, 0))
    over = _sharp(distance, scale) * cover.reshape(-1).take(pixels)
    _lay(planes, pixels, [np.float32(channel) * weave for channel in colour], over)


def _light(planes: Floats, lamp: Random, random: Random) -> None:
    """Apply in place the visit's exposure and tint, the photograph's gradient across, and darker corners."""
    exposure = lamp.uniform(0.92, 1.06) * random.uniform(0.97, 1.03)
    tint = exposure * (1 + lamp.uniform(-0.025, 0.025, 3))
    slope_x, slope_y = random.uniform(-0.13, 0.13, 2)
    x, y = (np.linspace(-1, 1, side, dtype=np.float32) for side in (planes.shape[2], planes.shape[1]))
    row = 1 + np.float32(slope_x) * x - np.float32(0.07) * x * x
    column = 1 + np.float32(slope_y) * y - np.float32(0.07) * y * y
    even = row[None, :] * column[:, None]
    for plane, channel in zip(planes, tint, strict=True):
        plane *= even
        plane *= np.float32(channel * 255)


@lru_cache(maxsize=4)
def _grain(seed: int) -> NDArray[np.int16]:
    """Return a tile of camera noise in grey levels; pictures start at different positions of it."""
    return np.rint(stream(seed, "grain").normal(0, 2.2, (512, 512))).astype(np.int16)


def _develop(
    planes: Floats, skin: NDArray[np.bool_], plaque: NDArray[np.bool_], random: Random, seed: int, size: tuple[int, int]
) -> Photograph:
    """Convert brightness (0-255) to 8-bit pixels of the requested size, with grain."""
    pixels = cv2.merge([cv2.convertScaleAbs(plane) for plane in planes])
    if (pixels.shape[1], pixels.shape[0]) != size:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
        skin, plaque = (
            cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
            for mask in (skin, plaque)
        )
    tile = cv2.merge([np.roll(_grain(seed), tuple(random.integers(512, size=2)), axis=(0, 1))] * 3)
    for top in range(0, size[1], 512):
        for left in range(0, size[0], 512):
            patch = pixels[top : top + 512, left : left + 512]
            patch[...] = cv2.add(patch, tile[: patch.shape[0], : patch.shape[1]], dtype=cv2.CV_8U)
    return Photograph(pixels, skin, plaque)
