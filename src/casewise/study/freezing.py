"""The freeze point of a study: up to which layer a network is frozen. Needs no network library."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from casewise.errors import StudyError, cut, nearest

WAYS = "none, all, `10 layers`, `11 blocks`, `30%` or the name of a module such as features.6"


@dataclass(frozen=True)
class FreezePoint:
    """The layers of a body, from the input on, that are not trained.

    `layers` counts convolutions and linear layers, `blocks` a network's own blocks (`Network.blocks`), `fraction` is a
    fraction of the body's weights, `name` the path of a module within the body, which is frozen as well.

    >>> str(read_freeze_point("10 layers")), str(read_freeze_point(0.3)), str(read_freeze_point("features.6"))
    ('10 layers', '30%', 'features.6')
    """

    kind: Literal["none", "all", "layers", "blocks", "fraction", "name"]
    count: int = 0
    fraction: float = 0.0
    name: str = ""

    def __str__(self) -> str:
        if self.kind in ("layers", "blocks"):
            return f"{self.count} {self.kind if self.count > 1 else self.kind[:-1]}"
        if self.kind == "fraction":
            return f"{100 * self.fraction:.10g}%"
        return self.name or self.kind


def read_freeze_point(value: Any, source: str = "freeze") -> FreezePoint:
    """Read a freeze point as a study states it: text, a number of layers, or a fraction between 0 and 1.

    Raises:
        StudyError: the value is none of these; the message names the allowed forms.
    """
    if isinstance(value, FreezePoint):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise StudyError(f"{source}: must be {WAYS}, got {cut(value)}.")
    if isinstance(value, float):
        return _fraction(value, value, source)
    if isinstance(value, int):
        return _counted(value, "layers", source)
    text = value.strip()
    if text.lower() in ("none", "all", "body"):
        text = text.lower()
        return FreezePoint("none" if text == "none" else "all")
    if match := re.fullmatch(r"(-?\d{1,9})\s*(layers?|blocks?)?", text):
        return _counted(int(match[1]), "blocks" if (match[2] or "").startswith("block") else "layers", source)
    if match := re.fullmatch(r"(-?\d+(?:\.\d*)?)\s*%", text):
        return _fraction(float(match[1]) / 100, value, source)
    if re.fullmatch(r"0?\.\d+", text):
        return _fraction(float(text), value, source)
    if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", text):
        return FreezePoint("name", name=text.removeprefix("body."))
    unit = text.split()[-1] if re.match(r"\d+\s", text) else ""
    hint = nearest(unit, ("layers", "blocks")) if unit else nearest(text, ("none", "all"))
    raise StudyError(f"{source}: must be {WAYS}, got {cut(value)}.{hint}")


def _counted(count: int, kind: Literal["layers", "blocks"], source: str) -> FreezePoint:
    if count < 0:
        raise StudyError(f"{source}: {count} {kind} cannot be frozen; give 0 or more, or one of {WAYS}.")
    return FreezePoint(kind, count=count) if count else FreezePoint("none")


def _fraction(share: float, value: Any, source: str) -> FreezePoint:
    if not (math.isfinite(share) and 0 < share < 1):
        raise StudyError(
            f"{source}: a fraction is between 0 and 1 (or 0% and 100%), got {cut(value)}; or write none or all."
        )
    return FreezePoint("fraction", fraction=share)
