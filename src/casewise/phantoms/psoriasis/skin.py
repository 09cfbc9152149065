"""The colour of skin with plaques: redness, thickness and scale as functions of the severity.

All functions work on the K pixels that lie on the body, as flat arrays, since most of a photograph is backdrop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from casewise.phantoms.psoriasis.bodies import Floats
from casewise.phantoms.psoriasis.severity import Severity

MARK_STRENGTH = (0.75, 0.86, 0.92)  # how much of red, green, blue a mole takes
BLOOD = (0.030, 0.195, 0.155)  # the same for one grade of redness, as an absorption


@dataclass(frozen=True)
class Flank:
    """The plaque field at `reach` pixels towards the lamp and away from it, for the relief; each `(K,) float32`."""

    near: Floats
    far: Floats


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


def healthy(colour: tuple[float, float, float], maps: dict[str, Floats]) -> Floats:
    """Return `(3, K)` colours of skin without plaques, with its moles and mottling."""
    even = 1 + np.float32(0.022) * maps["mottle"]
    return np.stack(
        [
            np.float32(channel) * even * (1 - np.float32(strength) * maps["marks"])
            for channel, strength in zip(colour, MARK_STRENGTH, strict=True)
        ]
    )


def cover_with_plaques(
    skin: Floats, maps: dict[str, Floats], depth: Floats, flank: Flank, severity: Severity, *, tone: float
) -> None:
    """Paint plaques onto `skin` `(3, K)` in place; `depth` is positive inside a plaque, in body units."""
    edge = np.clip(depth * np.float32(100) + np.float32(0.5), 0, 1)
    # Blood takes green and blue from the reflected light, whatever the tone underneath.
    red = edge * (1 + np.float32(0.05) * maps["mottle"])
    for channel, strength in zip(skin, BLOOD, strict=True):
        channel *= 1 - red * np.float32(1 - np.exp(-strength * severity.erythema))
    if severity.scaling > 0:
        white = _flecks(maps["flecks"], depth, severity.scaling)
        for channel, silver in zip(skin, (0.555, 0.56, 0.575), strict=True):
            channel += white * (np.float32(0.42 * tone + silver) - channel)
    if severity.induration > 0:
        skin *= _thickness(maps["bumps"], depth, flank, severity.induration)


def _flecks(flecks: Floats, depth: Floats, scaling: float) -> Floats:
    """Return how silvery each pixel is: the flecked part of a plaque and its whiteness grow with the grade."""
    covered = np.float32(0.15 * scaling + 0.10 * min(scaling, 1.0))
    white: Floats = np.clip((flecks - (1 - covered)) * np.float32(1 / 0.28), 0, 1) * np.clip(
        depth * np.float32(50), 0, 1
    )
    white *= np.float32(0.62 + 0.06 * scaling)
    return white


def _thickness(bumps: Floats, depth: Floats, flank: Flank, induration: float) -> Floats:
    """Return the brightness factor of raised plaques: a lit and a shaded flank, a dark rim, a cobbled top."""
    cobbles = 1 + np.float32(0.30) * bumps
    lit = (_rise(flank.far) - _rise(flank.near)) * cobbles
    rim = np.exp(np.square(depth * np.float32(1 / 0.014)) * np.float32(-1))
    inside = np.float32(0.035) * bumps * np.clip(depth * np.float32(60), 0, 1)
    relief = np.float32(0.105) * lit - np.float32(0.085) * rim + inside
    factor: Floats = np.clip(1 + np.float32(induration) * relief, 0.25, 1.7)
    return factor


def _rise(depth: Floats) -> Floats:
    ramp: Floats = np.clip((depth + np.float32(0.006)) * np.float32(1 / 0.034), 0, 1)
    return ramp * ramp * (3 - 2 * ramp)
