"""The poses in which the phantom's subjects are photographed: four of the arms, two of the trunk, two of the legs."""

from __future__ import annotations

import numpy as np

from casewise.phantoms.psoriasis.bodies import Build, Chain, Pose

PHOTOGRAPHS = {"upper": 4, "trunk": 2, "lower": 2, "head": 1}

Row = tuple[float, float, float]


def pose(region: str, number: int, build: Build) -> Pose:
    """Return the pose of photograph `number` (from 1) of a region for a subject of this build.

    Arms: 1 left stretched, 2 right stretched, 3 left bent, 4 right bent; trunk: 1 front, 2 back; legs: 1 front, 2 back.
    """
    if region == "upper":
        drawn = _arm_stretched(build) if number <= 2 else _arm_bent(build)
        return drawn if number % 2 else _mirrored(drawn)
    if region == "trunk":
        return _trunk(build, back=number == 2)
    if region == "lower":
        return _legs(build, back=number == 2)
    return _head(build)


def _mirrored(drawn: Pose) -> Pose:
    return Pose(
        layers=tuple(tuple(chain.mirrored() for chain in layer) for layer in drawn.layers),
        cloth=tuple(chain.mirrored() for chain in drawn.cloth),
        sites=tuple((-x, y) for x, y in drawn.sites),
        creases=tuple(chain.mirrored() for chain in drawn.creases),
    )


def _thick(rows: list[Row], girth: float) -> Chain:
    return Chain(tuple((x, y, r * girth) for x, y, r in rows))


def _hand(x: float, y: float, angle: float, spread: float, size: float = 1.0) -> tuple[Chain, ...]:
    """Return a hand whose wrist is at (x, y) and whose fingers point along `angle` (radians, 0 = right)."""
    cos, sin = np.cos(angle), np.sin(angle)

    def at(along: float, across: float, radius: float) -> Row:
        along, across = along * size, across * size
        return (float(x + along * cos - across * sin), float(y + along * sin + across * cos), radius * size)

    palm = [Chain((at(0.0, 0.0, 0.062), at(0.06, 0.0, 0.068), at(0.13, 0.0, 0.066)))]
    palm += [Chain((at(0.12, side, 0.030), at(0.16, side * 1.12, 0.026))) for side in (-0.048, 0.048)]
    fingers = []
    for offset, length in zip((-0.063, -0.022, 0.021, 0.060), (0.150, 0.180, 0.168, 0.125), strict=True):
        tip = offset + offset * spread
        fingers.append(
            Chain(
                (
                    at(0.13, offset, 0.023),
                    at(0.13 + length * 0.55, (offset + tip) / 2, 0.021),
                    at(0.13 + length, tip, 0.016),
                )
            )
        )
    thumb = Chain((at(0.02, -0.04, 0.034), at(0.09, -0.115, 0.027), at(0.155, -0.145, 0.020)))
    return (*palm, *fingers, thumb)


def _arm_stretched(build: Build) -> Pose:
    lift = 0.05 * build.posture
    arm = _thick(
        [
            (-1.1, 0.10, 0.185),
            (-0.75, 0.09, 0.170),
            (-0.40, 0.07, 0.142),
            (-0.17, 0.05, 0.112),
            (0.02, 0.02 - lift, 0.115),
            (0.20, -0.01 - lift, 0.092),
            (0.36, -0.03 - 2 * lift, 0.064),
            (0.40, -0.035 - 2 * lift, 0.062),
        ],
        build.girth,
    )
    hand = _hand(0.40, -0.035 - 2 * lift, -0.10 - lift, 0.5 + 0.3 * build.posture)
    crease = Chain(((-0.15, -0.02, 0.004), (-0.155, 0.03, 0.004), (-0.145, 0.07, 0.003)))
    return Pose(layers=((arm, *hand),), sites=((-0.16, 0.10), (0.10, 0.05), (-0.50, 0.02)), creases=(crease,))


def _arm_bent(build: Build) -> Pose:
    lean = 0.08 * build.posture
    upper = _thick(
        [(-1.1, 0.10, 0.180), (-0.70, 0.15, 0.165), (-0.30, 0.22, 0.138), (-0.02, 0.27, 0.108), (0.10, 0.27, 0.098)],
        build.girth,
    )
    fore = _thick(
        [
            (0.12, 0.27, 0.098),
            (0.13, 0.17, 0.108),
            (0.15 + lean, 0.04, 0.098),
            (0.19 + 2 * lean, -0.13, 0.064),
            (0.195 + 2 * lean, -0.15, 0.060),
        ],
        build.girth,
    )
    hand = _hand(0.195 + 2 * lean, -0.14, -1.45 + lean, 0.25, 0.9)
    return Pose(layers=((upper,), (fore, *hand)), sites=((0.13, 0.30), (0.12, 0.20), (-0.35, 0.22), (0.17, 0.0)))


def _trunk(build: Build, *, back: bool) -> Pose:
    g, swing = build.girth, 0.06 * build.posture
    torso = [
        _thick([(0.0, -0.75, 0.105), (0.0, -0.50, 0.110), (0.0, -0.40, 0.150)], 1.0),
        _thick([(-0.27, -0.33, 0.085), (0.0, -0.40, 0.120), (0.27, -0.33, 0.085)], 1.0),
        _thick(
            [
                (-0.14, -0.24, 0.185),
                (-0.13, 0.0, 0.170),
                (-0.10, 0.18, 0.165),
                (-0.12, 0.42, 0.190),
                (-0.13, 0.70, 0.195),
            ],
            g,
        ),
        _thick(
            [(0.14, -0.24, 0.185), (0.13, 0.0, 0.170), (0.10, 0.18, 0.165), (0.12, 0.42, 0.190), (0.13, 0.70, 0.195)], g
        ),
        _thick([(0.0, -0.20, 0.200), (0.0, 0.20, 0.190), (0.0, 0.70, 0.190)], g),
    ]
    shoulder, hand = 0.325 * (0.5 + 0.5 * g), 0.56 + swing
    arm = _thick(
        [
            (shoulder, -0.29, 0.098),
            (shoulder + 0.07, -0.12, 0.092),
            (0.46 + swing / 2, 0.12, 0.078),
            (hand, 0.42, 0.070),
            (hand + 0.06, 0.75, 0.055),
        ],
        0.5 + 0.5 * g,
    )
    waist = Chain(((-0.34, 0.47, 0.035), (0.0, 0.49, 0.035), (0.34, 0.47, 0.035)))
    briefs = Chain(((-0.20, 0.70, 0.23), (0.20, 0.70, 0.23)))
    creases: tuple[Chain, ...]
    if back:
        creases = (
            Chain(((0.0, -0.33, 0.003), (0.0, 0.0, 0.004), (0.0, 0.36, 0.005))),
            Chain(((-0.21, -0.24, 0.003), (-0.15, -0.13, 0.003), (-0.09, -0.09, 0.002))),
            Chain(((0.21, -0.24, 0.003), (0.15, -0.13, 0.003), (0.09, -0.09, 0.002))),
        )
        sites = ((-0.05, 0.32), (0.06, 0.33), (-0.16, -0.15), (0.18, -0.05))
    else:
        creases = (
            Chain(((0.0, 0.235, 0.005), (0.0, 0.245, 0.005))),
            Chain(((-0.23, -0.10, 0.003), (-0.13, -0.065, 0.003), (-0.03, -0.085, 0.002))),
            Chain(((0.23, -0.10, 0.003), (0.13, -0.065, 0.003), (0.03, -0.085, 0.002))),
            Chain(((-0.20, -0.385, 0.003), (-0.05, -0.365, 0.003))),
            Chain(((0.20, -0.385, 0.003), (0.05, -0.365, 0.003))),
        )
        sites = ((0.02, 0.20), (-0.14, 0.05), (0.15, 0.28), (-0.05, -0.20))
    return Pose(layers=((arm, arm.mirrored()), tuple(torso)), cloth=(waist, briefs), sites=sites, creases=creases)


def _legs(build: Build, *, back: bool) -> Pose:
    g, stance = build.girth, 0.03 * build.posture
    calf = 0.100 if back else 0.092
    right = _thick(
        [
            (0.17, -0.75, 0.165),
            (0.18 + stance, -0.45, 0.152),
            (0.19 + stance, -0.20, 0.112),
            (0.19 + stance, -0.07, 0.092),
            (0.20 + stance, 0.08, calf),
            (0.20 + stance, 0.24, 0.068),
            (0.20 + stance, 0.36, 0.048),
            (0.20 + stance, 0.39, 0.050),
        ],
        g,
    )
    if back:
        foot = Chain(((0.20 + stance, 0.40, 0.048), (0.205 + stance, 0.435, 0.050), (0.23 + stance, 0.45, 0.042)))
        creases = [Chain(((0.13 + stance, -0.075, 0.003), (0.24 + stance, -0.065, 0.003)))]
        sites = ((-0.20, 0.10), (0.20, 0.05), (0.18, -0.25), (-0.19, -0.20))
    else:
        foot = Chain(
            (
                (0.20 + stance, 0.38, 0.050),
                (0.225 + stance, 0.435, 0.056),
                (0.265 + stance, 0.470, 0.050),
                (0.285 + stance, 0.480, 0.036),
            )
        )
        creases = [
            Chain(
                (
                    (0.125 + stance, -0.09, 0.003),
                    (0.15 + stance, -0.03, 0.003),
                    (0.19 + stance, -0.015, 0.003),
                    (0.23 + stance, -0.03, 0.003),
                    (0.255 + stance, -0.09, 0.003),
                )
            )
        ]
        sites = ((-0.19, -0.07), (0.19, -0.07), (-0.20, 0.15), (0.21, 0.18))
    shorts = Chain(((-0.42, -0.52, 0.13), (0.42, -0.52, 0.13)))
    layers = ((right, foot), (right.mirrored(), foot.mirrored()))
    return Pose(
        layers=layers,
        cloth=(shorts,),
        sites=sites,
        creases=tuple(creases) + tuple(crease.mirrored() for crease in creases),
    )


def _head(build: Build) -> Pose:
    """Return the head and neck seen from the front."""
    turn = 0.02 * build.posture
    skull = Chain(((turn, -0.13, 0.205), (turn, -0.02, 0.195), (turn, 0.10, 0.160), (turn, 0.17, 0.125)))
    neck = _thick([(0.0, 0.20, 0.120), (0.0, 0.40, 0.125), (0.0, 0.55, 0.20)], build.girth)
    shoulders = Chain(((-0.60, 0.66, 0.14), (0.0, 0.52, 0.15), (0.60, 0.66, 0.14)))
    ears = tuple(Chain(((turn + side * 0.205, -0.03, 0.030), (turn + side * 0.20, 0.05, 0.022))) for side in (-1, 1))
    eyes = tuple(
        Chain(
            (
                (turn + side * 0.045, -0.03, 0.005),
                (turn + side * 0.08, -0.022, 0.006),
                (turn + side * 0.115, -0.03, 0.005),
            )
        )
        for side in (-1, 1)
    )
    nose = Chain(((turn - 0.02, 0.06, 0.004), (turn, 0.068, 0.005), (turn + 0.02, 0.06, 0.004)))
    mouth = Chain(((turn - 0.055, 0.135, 0.004), (turn, 0.142, 0.005), (turn + 0.055, 0.135, 0.004)))
    hair = Chain(
        (
            (turn - 0.195, -0.12, 0.028),
            (turn - 0.175, -0.20, 0.050),
            (turn - 0.10, -0.275, 0.070),
            (turn, -0.295, 0.075),
            (turn + 0.10, -0.275, 0.070),
            (turn + 0.175, -0.20, 0.050),
            (turn + 0.195, -0.12, 0.028),
        )
    )
    shirt = Chain(((-0.75, 0.72, 0.14), (0.0, 0.66, 0.12), (0.75, 0.72, 0.14)))
    return Pose(
        layers=((neck, shoulders), (skull, *ears)),
        cloth=(shirt,),
        hair=(hair,),
        sites=((0.0, -0.22), (-0.12, -0.18), (0.13, 0.04)),
        creases=(*eyes, nose, mouth),
    )
