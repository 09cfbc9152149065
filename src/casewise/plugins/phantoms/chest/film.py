"""One synthetic chest film: an anatomy in front of an X-ray tube, with or without a sign of disease.

A sign is texture or one focus inside the lungs, and its mean over an eighth of the picture is about zero. Therefore
neither the brightness of the film, nor its thumbnail, nor its border reveals the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from casewise.plugins.phantoms.chest.anatomy import SIDES, Canvas, Chest, Floats, Points, Rib, breathed, circle
from casewise.plugins.phantoms.draws import Random, stream

Finding = Literal["covid", "no_finding", "pneumonia"]
FINDINGS: tuple[str, ...] = get_args(Finding)

COARSEST = {"haze": 0.05, "focus": 0.068}  # in body units: smoother components are removed from a sign
MARGIN, RAMP = 0.014, 0.022  # distance from the lung's outline at which a sign begins, and the width of its ramp
GRID, GRAIN = 56, 0.030  # the texture's grid, and the length of its cells in body units


@dataclass(frozen=True)
class Sign:
    """A subject's sign: `spots` `(N, 3)` of x, y and radius in body units, `texture` a standard normal grid.

    `kind` "haze" is texture within the spots, "focus" one dense spot; `strength` is in densities of the anatomy.
    """

    kind: Literal["haze", "focus"]
    spots: Points
    texture: Floats
    strength: float


def sign(seed: int, patient: Chest, finding: str) -> Sign | None:
    """Return the sign of a finding in this subject; none for `no_finding`."""
    if finding == "no_finding":
        return None
    random = stream(seed, "sign", finding, patient.number)
    texture = random.standard_normal((GRID, GRID), dtype=np.float32)
    if finding == "pneumonia":
        spot = _spot(random, patient, int(random.integers(2)), down=(0.25, 0.85), out=(0.35, 0.75))
        return Sign("focus", np.array([[*spot, random.uniform(0.048, 0.068)]]), texture, random.uniform(0.36, 0.48))
    spots = [
        [*_spot(random, patient, index, down=(0.48, 0.92), out=(0.55, 0.92)), random.uniform(0.045, 0.085)]
        for index in (0, 1)
        for _ in range(int(random.integers(2, 5)))
    ]
    return Sign("haze", np.array(spots), texture, random.uniform(0.17, 0.25))


def _spot(
    random: Random, patient: Chest, index: int, *, down: tuple[float, float], out: tuple[float, float]
) -> tuple[float, float]:
    """Return a point of a lung, given the share of its height from the top and of its width from the middle."""
    lung, side = patient.lungs[index], SIDES[index]
    y = lung[:, 1].min() + random.uniform(*down) * (_floor(lung) - lung[:, 1].min())
    # Beside the heart, because a sign behind it would be invisible.
    inner = max(_reach(np.vstack([patient.heart, patient.mediastinum]), side, y), 0.05)
    outer = max(_reach(lung, side, y), inner + 0.05)
    return side * (inner + random.uniform(*out) * (outer - inner)), float(y)


def _reach(outline: Points, side: int, y: float) -> float:
    """Return the largest lateral extent of an outline near height `y`."""
    near = outline[np.abs(outline[:, 1] - y) < 0.05, 0]
    return float((side * near).max()) if len(near) else 0.0


def _floor(lung: Points) -> float:
    """Return the height of the diaphragm's dome, not of the corner beside it."""
    middle = np.abs(np.abs(lung[:, 0]) - np.abs(lung[:, 0]).max() * 0.5) < 0.03
    return float(lung[middle, 1].max())


def spread(texture: Floats, inverse: Points, shape: tuple[int, int]) -> Floats:
    """Return a grid of the body at the pixels of a film of `shape`; `inverse` `(2, 3)` maps pixels to body units."""
    cell = np.array([[1 / GRAIN, 0.0], [0.0, 1 / GRAIN]])
    to_grid = cell @ inverse
    to_grid[:, 2] += (GRID - 1) / 2
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(texture, to_grid, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    return warped.astype(np.float32, copy=False)


def paint(ill: Sign, inverse: Points, room: Floats, slope: Floats, scale: float) -> Floats:
    """Return the contribution of a sign to a film, in the units of `slope`, zero where `room` is zero.

    Args:
        inverse: `(2, 3)`, maps film pixels to body units, including the breath.
        room: `(H, W)` in 0-1, where in the lungs a sign may be.
        slope: `(H, W)`, grey levels a unit of density, which is smaller where the film is dark or bright.
        scale: film pixels a body unit.
    """
    height, width = room.shape
    x = inverse[0, 0] * np.arange(width)[None, :] + inverse[0, 1] * np.arange(height)[:, None] + inverse[0, 2]
    y = inverse[1, 0] * np.arange(width)[None, :] + inverse[1, 1] * np.arange(height)[:, None] + inverse[1, 2]
    x, y = x.astype(np.float32), y.astype(np.float32)
    texture = spread(ill.texture, inverse, room.shape)
    if ill.kind == "focus":
        centre_x, centre_y, radius = ill.spots[0]
        distance = np.sqrt(np.square(x - centre_x) + np.square(y - centre_y)) / np.float32(radius)
        # An irregular edge: the texture moves the outline by up to a third of the radius.
        raw = 1 / (1 + np.exp((distance + np.float32(0.22) * texture - 1) * np.float32(4)))
    else:
        cover = np.zeros_like(x)
        for centre_x, centre_y, radius in ill.spots:
            near = np.square(x - centre_x) + np.square(y - centre_y)
            np.maximum(cover, np.exp(near * np.float32(-0.5 / radius**2)), out=cover)
        fine = spread(ill.texture[::-1], inverse / 0.6, room.shape)
        # A logistic function makes clouds of uniform brightness over a third of the spot, without pits between them.
        cloud = np.float32(0.75) * texture + np.float32(0.55) * fine
        raw = cover / (1 + np.exp((cloud - np.float32(0.35)) * np.float32(-3.2)))
    raw *= slope * np.float32(ill.strength)
    return _levelled(raw, room, COARSEST[ill.kind] * scale)


def _levelled(raw: Floats, room: Floats, blur: float) -> Floats:
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


TEXTURES = ((1.0, "texture"), (0.4, "texture"), (3.5, "texture"), (5.0, "unevenness"), (10.0, "unevenness"))
SIGN_AT_MOST = 160  # a sign is smooth, so it is computed on at most this many pixels a side


@dataclass(frozen=True)
class Film:
    """A drawn film: `picture` `(H, W) uint8`, `lungs` `(H, W) bool`, and `sign` `(H, W) float32`.

    `sign` is the contribution of the disease in grey levels, zero outside the lungs.
    """

    picture: NDArray[np.uint8]
    lungs: NDArray[np.bool_]
    sign: Floats


def draw(seed: int, patient: Chest, *, image: int, ill: Sign | None, size: tuple[int, int]) -> Film:
    """Draw film `image` (from 0) of a subject in `size` (width, height) pixels.

    The rest of the film, including the grain, is the same with and without a sign.
    """
    random = stream(seed, "film", patient.name, image)
    shape = size[::-1]
    forward, scale = _position(seed, patient, random, shape)
    canvas = Canvas(forward, scale, shape)
    breath = float(random.uniform(-0.012, 0.012))
    density, lungs, room = _density(seed, patient, canvas, breath)
    grey, slope = _exposed(density, lungs, random)
    grey = cv2.GaussianBlur(grey, (0, 0), max(0.0014 * scale, 0.35)).astype(np.float32, copy=False)
    added = np.zeros(shape, np.float32) if ill is None else _sign(ill, canvas, breath, room, slope)
    _collimate(grey, stream(seed, "collimation", patient.number))
    grain = np.float32(random.uniform(0.8, 4.6))
    speckle = random.standard_normal(grey.shape, dtype=np.float32) * grain
    picture = cv2.convertScaleAbs(np.maximum(grey + added + speckle, 0)).astype(np.uint8, copy=False)
    return Film(picture, lungs > 127, added)


def _position(seed: int, patient: Chest, film: Random, shape: tuple[int, int]) -> tuple[Points, float]:
    """Return the affine map from body units to pixels, and pixels a body unit; a subject's films are similar."""
    subject_random = stream(seed, "position", patient.number)
    turn = np.deg2rad(subject_random.uniform(-4, 4) + film.uniform(-1.2, 1.2))
    shift = subject_random.uniform((-0.05, -0.06), (0.05, 0.06)) + film.uniform(-0.012, 0.012, 2)
    # The tops of the lungs are always on the film.
    top = min(float(lung[:, 1].min()) for lung in patient.lungs)
    zoom = min(subject_random.uniform(0.86, 1.24) * film.uniform(0.985, 1.015), 0.465 / max(-(top + shift[1]), 0.3))
    scale = min(shape) * zoom
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    return np.column_stack([linear, middle + scale * shift]), float(scale)


def _density(seed: int, patient: Chest, canvas: Canvas, breath: float) -> tuple[Floats, NDArray[np.uint8], Floats]:
    """Return the density of each pixel, the visible lungs (0-255), and the area for signs (0-1)."""
    much = patient.densities
    inner = [breathed(lung, breath) for lung in patient.lungs]
    torso = canvas.fill(patient.torso)
    arms = canvas.bands([(arm, 2 * patient.arm_width, 255) for arm in patient.arms])
    deep = canvas.depth(torso)
    skin, bulk = np.exp(deep * np.float32(-1 / 0.022)), np.exp(deep * np.float32(-1 / 0.12))
    body = 1 - np.float32(0.75) * skin - np.float32(0.25) * bulk
    limbs = 1 - np.exp(canvas.depth(arms) * np.float32(-1 / 0.03))
    body = np.maximum(body, np.float32(0.8) * limbs)
    density = np.float32(much["body"]) * body

    middle = canvas.rounded(canvas.fill(breathed(patient.heart, breath), patient.mediastinum), 0.014)
    abdomen = canvas.fill(breathed(patient.abdomen, breath))
    whole = canvas.fill(*inner)
    lungs = cv2.subtract(whole, cv2.max(middle, abdomen)).astype(np.uint8, copy=False)
    depth = canvas.depth(lungs)
    air = np.float32(0.66) + np.float32(0.34) * (1 - np.exp(depth * np.float32(-1 / 0.045)))
    y = canvas.rows()
    # The bases contain more blood and muscle than the tops.
    air *= np.clip(np.float32(0.94) - np.float32(0.32) * y, 0.75, 1.1)
    density -= np.float32(0.38 * much["air"]) * air * canvas.soft(lungs, 0.003)
    # Lung behind the heart and below the dome makes their outlines visible.
    density -= np.float32(0.10 * much["air"]) * canvas.soft(whole - np.minimum(whole, lungs), 0.012)

    fill = 1 - np.exp(canvas.depth(abdomen) * np.float32(-1 / 0.06))
    below = np.float32(0.5) * canvas.soft(abdomen, 0.003) + np.float32(0.5) * fill
    bulge = 1 - np.exp(canvas.depth(middle) * np.float32(-1 / 0.05))
    bulge = np.float32(0.45) * canvas.soft(middle, 0.004) + np.float32(0.55) * bulge
    bulge *= np.clip((y + 0.56) / 0.48, 0.2, 1)
    bulge, below = np.float32(much["heart"]) * bulge, np.float32(much["abdomen"]) * below * body
    # Heart and liver have the same density, so the border between them is invisible below the dome.
    density += np.maximum(bulge, below) + np.float32(0.25) * np.minimum(bulge, below)
    if patient.bubble is not None:
        density -= np.float32(0.12) * canvas.soft(canvas.fill(breathed(patient.bubble, breath)), 0.012)
    # Exposure is uneven: one side of the film receives more rays, and the bases are thicker than the tops.
    density += np.float32(much["across"]) * canvas.columns() * body
    density += np.float32(much["down"]) * y * body
    _bones(patient, canvas, density, body, canvas.soft(lungs, 0.02))
    if patient.breasts:
        density += np.float32(much["breasts"]) * canvas.soft(canvas.fill(*patient.breasts), 0.012) * body
    _texture(seed, patient, canvas, density, body, canvas.soft(lungs), breath)
    room = np.clip((depth - np.float32(MARGIN)) * np.float32(1 / RAMP), 0, 1)
    return density, lungs, room


def _bones(patient: Chest, canvas: Canvas, density: Floats, body: Floats, over: Floats) -> None:
    """Add spine, trachea, ribs, clavicles, arms and shoulder blades in place; `over` is 1 in front of the lungs."""
    much = patient.densities
    discs = np.float32(0.75) + np.float32(0.25) * np.cos(canvas.rows() * np.float32(2 * np.pi / 0.062))
    column = canvas.bands([(patient.spine, 0.066, 190), (patient.spine, 0.012, 255)])
    density += np.float32(much["spine"]) * canvas.soft(column, 0.006) * discs
    density -= np.float32(0.09) * canvas.soft(canvas.bands([(patient.trachea, 0.034, 255)]), 0.006)

    ribs = canvas.soft(_rib_layer(canvas, patient.ribs, front=False), 0.0018)
    front = canvas.soft(_rib_layer(canvas, patient.ribs, front=True), 0.003)
    # Ribs end in front in cartilage, which is hardly visible.
    out = np.abs(canvas.columns())
    front *= np.clip((out - 0.10) / 0.12, 0, 1)
    shown = np.float32(0.25) + np.float32(0.75) * over
    density += np.float32(much["ribs"]) * (ribs + np.float32(much["front"]) * front) * shown * body

    bars = [(line, 0.028, 255) for line in patient.clavicles]
    marrow = [(line[1:-1], 0.014, 140) for line in patient.clavicles]
    ends = np.clip((0.43 - out) / 0.12, 0.1, 1)
    density += np.float32(much["clavicles"]) * canvas.soft(canvas.bands(bars + marrow), 0.003) * ends * body
    blades = canvas.fill(*patient.scapulae)
    rim = canvas.bands([(np.vstack([blade, blade[:1]]), 0.011, 255) for blade in patient.scapulae])
    density += np.float32(much["scapulae"]) * (canvas.soft(blades, 0.008) + canvas.soft(rim, 0.004)) * body
    humeri = canvas.bands([(arm, 0.05, 255) for arm in patient.arms] + [(arm, 0.024, 150) for arm in patient.arms])
    density += np.float32(0.09) * canvas.soft(humeri, 0.004) * body
    if patient.leads:
        wires = canvas.bands([(lead, 0.005, 255) for lead in patient.leads])
        density += np.float32(0.11) * canvas.soft(wires, 0.001) * body
        buttons = [circle(x, y, 0.008) for x, y in (lead[-1] for lead in patient.leads)]
        density += np.float32(0.16) * canvas.soft(canvas.fill(*buttons), 0.001)


def _rib_layer(canvas: Canvas, ribs: tuple[Rib, ...], *, front: bool) -> NDArray[np.uint8]:
    """Return the ribs' shadows: their rims are hard bone and brighter than the middle."""
    lines: list[tuple[Points, float, int]] = []
    for rib in ribs:
        line, bright = (rib.before, 200) if front else (rib.behind, 215)
        bright = min(round(bright * rib.clear), 255)
        lines += [(line, rib.width, bright), (line, rib.width * 0.6, round(bright * 0.5))]
    return canvas.bands(lines)


def _texture(
    seed: int, patient: Chest, canvas: Canvas, density: Floats, body: Floats, air: Floats, breath: float
) -> None:
    """Add vessels, hila and the fine unevenness of all tissue in place."""
    much = patient.densities
    random = stream(seed, "texture", patient.number)
    vessels = canvas.soft(canvas.threads(breathed(patient.vessels, breath), patient.calibre), 0.0014)
    density += np.float32(much["vessels"]) * vessels * air
    height, width = canvas.shape
    columns, rows = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    for x, y in patient.hila @ canvas.forward[:, :2].T + canvas.forward[:, 2]:
        across = np.exp(np.square((columns - x) / (0.035 * canvas.scale)) * np.float32(-0.5))
        along = np.exp(np.square((rows - y) / (0.055 * canvas.scale)) * np.float32(-0.5))
        density += np.float32(0.07) * across * along
    for zoom, name in TEXTURES:
        grid = random.standard_normal((GRID, GRID), dtype=np.float32)
        density += np.float32(much[name]) * spread(grid, canvas.inverse / zoom, canvas.shape) * body


def _exposed(density: Floats, lungs: NDArray[np.uint8], random: Random) -> tuple[Floats, Floats]:
    """Return grey levels (0-255) by the film's S-shaped curve, and its slope: grey levels a unit of density."""
    inside = lungs > 127
    dark = float(density[inside].mean()) if inside.any() else 0.2
    bright = float(np.percentile(density[::3, ::3], 88))
    contrast = random.uniform(1.9, 3.3) / max(bright - dark, 0.1)
    level = dark + (bright - dark) * random.uniform(0.25, 0.44)
    black, white = random.uniform(0, 12), random.uniform(225, 250)
    gamma = random.uniform(0.8, 1.25)
    # The sigmoid of density to the power gamma, and its derivative, in one pass over the pixels.
    curve = 1 / (1 + np.exp((density - np.float32(level)) * np.float32(-contrast)))
    bent = curve ** np.float32(gamma)
    slope = np.float32((white - black) * contrast * gamma) * bent * (1 - curve)
    return np.float32(black) + np.float32(white - black) * bent, slope


def _sign(ill: Sign, canvas: Canvas, breath: float, room: Floats, slope: Floats) -> Floats:
    """Return the sign at the size of the film, computed on fewer pixels."""
    height, width = room.shape
    fewer = min(1.0, SIGN_AT_MOST / max(height, width))
    small = (max(round(width * fewer), 1), max(round(height * fewer), 1))
    step = np.array([width / small[0], height / small[1]])
    # Pixel centres: pixel i of the small film is at (i + 0.5) * step - 0.5 of the large one.
    inverse = canvas.inverse.copy()
    inverse[:, 2] += inverse[:, :2] @ (0.5 * step - 0.5) - [0, breath * 0.8]
    inverse[:, :2] *= step
    small_film, steep = (
        cv2.resize(values, small, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
        for values in (room, slope)
    )
    coarse = paint(ill, inverse, small_film, steep, canvas.scale * fewer)
    grown = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    return grown * (room > 0)


def _collimate(grey: Floats, random: Random) -> None:
    """Blacken a strip at some edges in place, as of a narrow beam, in one film of five."""
    if random.random() > 0.2:
        return
    height, width = grey.shape
    left, right, top, bottom = random.uniform(0, 0.035, 4) * (random.random(4) < 0.5)
    dark = np.float32(0.12)
    grey[:, : round(left * width)] *= dark
    grey[:, width - round(right * width) :] *= dark
    grey[: round(top * height)] *= dark
    grey[height - round(bottom * height) :] *= dark
