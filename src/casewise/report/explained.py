"""What the model looked at: pictures beside each other, and what was measured, as `casewise explain` left them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.report.confident import percent
from casewise.report.pictures import data_uri
from casewise.report.tables import Cell
from casewise.report.wording import interval, number

if TYPE_CHECKING:
    from casewise.report.material import Material

MOST_CASES = 8
MOST_NETWORKS = 12
LONGEST = 420
METHODS = {"rollout": "attention rollout", "grad-cam": "Grad-CAM"}


def explained(material: Material) -> dict[str, Any] | None:
    """The section; None where the run was not explained, or its networks were trained anew since."""
    told = material.explanations
    if not told or not told.get("shown"):
        return None
    shown, found = told["shown"], told.get("measured")
    cases = [case for entry in shown["cases"][:MOST_CASES] if (case := _case(entry, Path(shown["folder"])))]
    if not cases and not found:
        return None
    methods = {METHODS[name] for entry in shown["cases"] for name in entry["methods"]}
    return {
        "cases": cases,
        "left_out": max(0, len(shown["cases"]) - MOST_CASES),
        "rule": shown["rule"],
        "outlined": any(row["outlined"] for case in cases for row in case["rows"]),
        "methods": sorted(methods),
        "classed": bool(material.study.classes_of(shown["target"])),
        "target": shown["target"],
        "measured": _measured(found) if found else None,
        "sliced": bool(material.study.volumes),
        "peak_heads": PEAK,
        "inside_heads": INSIDE,
    }


def _case(entry: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """A case with its pictures; None where they are gone."""
    rows = []
    for row in entry["rows"]:
        picture = _picture(folder / row["input"])
        if picture is None:
            continue
        pairs = [(one, _picture(folder / one["file"])) for one in row["maps"][:MOST_NETWORKS]]
        maps = [{"network": one["network"], "uri": uri, **_said(one)} for one, uri in pairs if uri]
        rows.append({**row, "input": picture, "maps": maps})
    if not rows:
        return None
    return {"subject": entry["subject"], "visit": entry["visit"], "tested": entry["stage"] == "test", "rows": rows}


def _said(one: dict[str, Any]) -> dict[str, Any]:
    share = "" if one["probability"] is None else f" ({percent(one['probability'])})"
    named = f"{one['named']}{share}"
    return {"named": named, "right": one["right"], "method": METHODS[one["method"]], "empty": one.get("empty", False)}


def _picture(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return data_uri(np.array(image.convert("RGB")), longest=LONGEST)
    except OSError:
        return None


def _measured(found: dict[str, Any]) -> dict[str, Any]:
    networks = found["networks"]
    return {
        "with_lesion": found["with_lesion"],
        "cases": found["cases"],
        "sentences": [sentence_of(name, told) for name, told in networks.items()],
        "peaks": [_peak(name, told) for name, told in networks.items()],
        "shares": [_inside(name, told) for name, told in networks.items()],
        "sanity": [_sanity(name, told) for name, told in networks.items() if told.get("sanity")],
        "deletion": [_deletion(name, told) for name, told in networks.items() if told.get("deletion")],
        "cells": found.get("cells", 0),
        "compared": max(
            (told["sanity"].get("cases", 0) for told in networks.values() if told.get("sanity")), default=0
        ),
    }


def _peak(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """One network: how often its peak lies inside, of all and of correct cases, of naive maps, with random weights."""
    every, right, random = (told.get(key) or {} for key in ("all", "correct", "random_weights"))
    counts = [str((part.get("hit") or {}).get("n_cases", 0)) for part in (every, right)]
    cells = [
        Cell(counts[0]),
        _share(every.get("hit")),
        _share(right.get("hit"), f" of {counts[1]}"),
        *(_share(every.get(key)) for key in ("centre_hit", "random_hit")),
        _share(random.get("hit")),
    ]
    return {"name": name, "cells": cells, "mark": False, "inner": False}


def _inside(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """One network: how much of its map lies inside, of naive maps, and what differs."""
    every = told.get("all") or {}
    names = ("share_inside", "centre_share", "random_share", "mask_share", "share_over_centre")
    return {"name": name, "cells": [_share(every.get(key)) for key in names], "mark": False, "inner": False}


PEAK = ["Network", "Cases", "All cases", "Named correctly", "Image’s centre", "Random map", "Random weights"]
INSIDE = ["Network", "Map", "Map around the centre", "Random map", "Lesion’s share of the image", "Map less centre"]


def _share(figure: dict[str, Any] | None, more: str = "") -> Cell:
    """A share in percent with its interval."""
    if not figure or figure.get("value") is None:
        return Cell("–")
    percent = {key: None if figure.get(key) is None else 100 * figure[key] for key in ("value", "low", "high")}
    digits = 0 if abs(percent["value"] or 0) >= 10 else 1
    return Cell(f"{number(percent['value'], digits)} %{more}", small=interval(percent, digits))


def _sanity(name: str, told: dict[str, Any]) -> dict[str, Any]:
    steps = told["sanity"]["steps"]
    first, last = steps[0], steps[-1]
    cells = [Cell(number(step[key], 2)) for step in (first, last) for key in ("spearman", "ssim")]
    return {"name": name, "cells": cells, "mark": False, "inner": False}


def _deletion(name: str, told: dict[str, Any]) -> dict[str, Any]:
    found = told["deletion"]
    cells = [Cell(str(found["cases"]))]
    for key in ("map", "random", "difference"):
        cells.append(Cell(number(found[key]["value"], 2), small=interval(found[key], 2)))
    return {"name": name, "cells": cells, "mark": False, "inner": False}


def sentence_of(name: str, told: dict[str, Any]) -> str:
    """Whether a network looks where the lesion is, beside what is known without looking.

    >>> figure = {"value": 0.3, "low": 0.1, "high": 0.5}
    >>> told = {"hit_over_centre": figure, "hit": {"value": 0.8}, "centre_hit": {"value": 0.5}}
    >>> sentence_of("vit", {"all": told}).partition(":")[0]
    'vit looks where the lesion is more often than the centre of the image would hit it'
    """
    every = told.get("all") or {}
    over, own, centre = (every.get(key) or {} for key in ("hit_over_centre", "hit", "centre_hit"))
    if over.get("value") is None or own.get("value") is None:
        return f"Of {name} nothing could be measured: no case with a lesion was predicted."
    if over.get("low") is None or over.get("high") is None:
        how = "cannot be told from the centre of the image with so few cases"
        return f"Whether {name} looks where the lesion is {how}."
    how = "more often" if over["low"] > 0 else "less often" if over["high"] < 0 else "no more often"
    inside, middle = (f"{number(100 * one['value'], 0)} %" for one in (own, centre))
    return (
        f"{name} looks where the lesion is {how} than the centre of the image would hit it: the highest point of its "
        f"map lies in the lesion in {inside} of cases, the centre in {middle}."
    )


def read_explanations(folder: Path) -> dict[str, Any] | None:
    """What `casewise explain` left in a run folder; None where there is nothing, or of other networks."""
    try:
        told: dict[str, Any] = json.loads((folder / "explanations.json").read_text())
        made_from = json.loads((folder / "fingerprint.json").read_text())["fingerprint"]
    except (OSError, ValueError, LookupError):
        return None
    if told.get("made_from") != made_from:
        return None
    if told.get("shown"):
        told["shown"]["folder"] = str(folder / told["shown"]["folder"])
    return told
