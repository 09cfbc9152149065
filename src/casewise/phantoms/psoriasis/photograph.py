"""One synthetic photograph: an anatomy under a camera and a lamp, with plaques of a given severity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.phantoms.draws import stream
from casewise.phantoms.psoriasis.bodies import CANVAS, UNIT, Floats
from casewise.phantoms.psoriasis.severity import Severity
from casewise.phantoms.psoriasis.skin import Flank, cover_with_plaques, healthy, threshold
from casewise.phantoms.psoriasis.subjects import Anatomy, Subject

# Beyond this many pixels a side the picture is drawn smaller and enlarged with fresh grain: time, not detail, is short.
DRAWN_AT_MOST = 1232
HAIR = (0.20, 0.16, 0.13)


@dataclass(frozen=True)
class Photograph:
    """A drawn photograph and where its skin and its plaques are.

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
    seed: int, who: Subject, anatomy: Anatomy, *, key: tuple[str | int, ...], severity: Severity, size: tuple[int, int]
) -> Photograph:
    """Draw one photograph of `size` (width, height) pixels.

    `key` is (subject, visit, region, number): camera and grain follow from it, the lamp from its first two parts.
    """
    random, lamp = stream(seed, "photograph", *key), stream(seed, "lamp", *key[:2])
    shrink = min(1.0, DRAWN_AT_MOST / max(size))
    width, height = (max(round(side * shrink), 1) for side in size)
    camera, scale = _camera(random, width, height)
    maps = _see(anatomy, camera, width, height)

    cover = _sharp(maps["inside"], scale)
    clothed = _sharp(np.maximum(maps["cloth"], maps["hair"]), scale)
    skin = (cover > 0.5) & (clothed <= 0.5)
    maps["plaque"] -= np.float32(min(threshold(maps["plaque"][skin], severity.share), 1e6))

    planes = _backdrop(who, maps["inside"], random)
    pixels = np.flatnonzero(cover)
    surface = _surface(who, maps, pixels, severity, lamp, reach=max(round(0.014 * scale), 1))
    for plane, colour in zip(planes, surface, strict=True):
        flat = plane.reshape(-1)
        under = flat.take(pixels)
        flat[pixels] = under + cover.take(pixels) * (colour - under)
    _dress(planes, maps["cloth"], who.build.garment, maps, cover, scale)
    _dress(planes, maps["hair"], HAIR, maps, None, scale)
    _light(planes, lamp, random)
    return _develop(planes, skin, skin & (maps["plaque"] > 0), random, seed, size)


def _sharp(distance: Floats, scale: float) -> Floats:
    """Return the part of each pixel that lies inside an outline, given the signed distance in body units."""
    coverage: Floats = np.clip(distance * np.float32(scale) + np.float32(0.5), 0, 1)
    return coverage


def _camera(random: np.random.Generator, width: int, height: int) -> tuple[NDArray[np.float64], float]:
    """Return the affine map from photograph to canvas pixels and the photograph's pixels per body unit."""
    scale = min(width / 1.5, height) * random.uniform(0.96, 1.06)
    turn = np.deg2rad(random.uniform(-4, 4))
    x, y = random.uniform(-0.03, 0.03, 2)
    step = UNIT / scale
    linear = step * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([CANVAS[0] / 2 + x * UNIT, CANVAS[1] / 2 + y * UNIT])
    return np.column_stack([linear, middle - linear @ [(width - 1) / 2, (height - 1) / 2]]), scale


def _see(anatomy: Anatomy, camera: NDArray[np.float64], width: int, height: int) -> dict[str, Floats]:
    """Return the canvas maps as the camera sees them, each `(height, width) float32`."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    maps: dict[str, Floats] = {}
    for name, values in anatomy.maps.items():
        if values.max() == values.min():
            maps[name] = np.full((height, width), values[0, 0], dtype=np.float32)
        else:
            view = cv2.warpAffine(values, camera, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            maps[name] = view.astype(np.float32, copy=False)
    return maps


def _backdrop(who: Subject, inside: Floats, random: np.random.Generator) -> Floats:
    """Return `(3, H, W)` a plain backdrop with the body's soft shadow on it."""
    height, width = inside.shape
    folds = cv2.resize(random.standard_normal((3, 4), dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    away = np.minimum(inside, 0) * np.float32(1 / 0.035)
    even = (1 - np.float32(0.32) / (1 + away * away)) * (1 + np.float32(0.03) * folds)
    return np.stack([np.float32(channel) * even for channel in who.backdrop])


def _surface(
    who: Subject,
    maps: dict[str, Floats],
    pixels: NDArray[np.intp],
    severity: Severity,
    lamp: np.random.Generator,
    *,
    reach: int,
) -> Floats:
    """Return `(3, K)` the colour of the skin at `pixels` under the lamp."""
    there = {name: values.reshape(-1).take(pixels) for name, values in maps.items()}
    skin = healthy(who.skin, there)
    if severity.share > 0:
        # Light falls from the upper left, so what rises towards the lower right is lit.
        step = reach * (maps["plaque"].shape[1] + 1)
        near, far = (maps["plaque"].reshape(-1).take(pixels + way, mode="clip") for way in (-step, step))
        tone = float(np.mean(who.skin))
        cover_with_plaques(skin, there, there["plaque"], Flank(near, far), severity, tone=tone)
    x, y = -0.32 + lamp.uniform(-0.12, 0.12), -0.38 + lamp.uniform(-0.12, 0.12)
    tilt_x, tilt_y = there["tilt_x"], there["tilt_y"]
    facing = np.sqrt(np.maximum(1 - tilt_x * tilt_x - tilt_y * tilt_y, 0))
    lambert = np.maximum(np.float32(0.82) * facing + np.float32(x) * tilt_x + np.float32(y) * tilt_y, 0)
    skin *= (np.float32(0.42) + np.float32(0.66) * lambert) * there["shade"]
    return skin


def _dress(
    planes: Floats,
    outline: Floats,
    colour: tuple[float, float, float],
    maps: dict[str, Floats],
    cover: Floats | None,
    scale: float,
) -> None:
    """Lay a garment or hair over the picture in place; cloth ends with the body (`cover`), hair stands beyond it."""
    pixels = np.flatnonzero(outline > -0.5 / scale)
    if not len(pixels):
        return
    distance, tilt = outline.reshape(-1).take(pixels), maps["tilt_x"].reshape(-1).take(pixels)
    weave = np.float32(0.88) + np.float32(0.12) * np.clip(distance / np.float32(0.03), 0, 1)
    weave += np.float32(0.02) * maps["bumps"].reshape(-1).take(pixels)
    weave *= np.float32(0.6) + np.float32(0.4) * np.sqrt(np.maximum(1 - tilt * tilt, 0))
    over = _sharp(distance, scale)
    if cover is not None:
        over *= cover.reshape(-1).take(pixels)
    for plane, channel in zip(planes, colour, strict=True):
        flat = plane.reshape(-1)
        under = flat.take(pixels)
        flat[pixels] = under + over * (np.float32(channel) * weave - under)


def _light(planes: Floats, lamp: np.random.Generator, random: np.random.Generator) -> None:
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
    """Return a tile of camera noise in grey levels; pictures start at different places of it."""
    return np.rint(stream(seed, "grain").normal(0, 2.2, (512, 512))).astype(np.int16)


def _develop(
    planes: Floats,
    skin: NDArray[np.bool_],
    plaque: NDArray[np.bool_],
    random: np.random.Generator,
    seed: int,
    size: tuple[int, int],
) -> Photograph:
    """Turn brightness (0-255) into 8-bit pixels of the size asked for, with grain."""
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
