"""What the model looked at: pictures beside each other, and what was measured, as `casewise explain` left them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.modalities.registry import modality_of
from casewise.report.figures.pictures import data_uri
from casewise.report.formatting import interval, number
from casewise.report.sections.high_confidence import percent
from casewise.report.sections.tables import Cell

if TYPE_CHECKING:
    from markupsafe import Markup

    from casewise.report.context import ReportContext

MOST_CASES = 8
MOST_NETWORKS = 12
LONGEST = 420
METHODS = {"rollout": "attention rollout", "grad-cam": "Grad-CAM"}


def explained(material: ReportContext) -> dict[str, Any] | None:
    """The section; None where the run was not explained, or its networks were trained anew since."""
    told = material.explanations
    if not told or not told.get("shown"):
        return None
    shown, found = told["shown"], told.get("measured")
    cases = [case for entry in shown["cases"][:MOST_CASES] if (case := _case(entry, Path(shown["folder"])))]
    if not cases and not found:
        return None
    methods = {METHODS[name] for entry in shown["cases"] for name in entry["methods"]}
    classed = bool(material.study.classes_of(shown["target"]))
    facts = modality_of(material.study).report_facts(material.study)
    return {
        **{name: facts[name] for name in ("order", "late", "sliced")},
        "confidence": material.study.evaluation.confidence,
        "cases": cases,
        "left_out": max(0, len(shown["cases"]) - MOST_CASES),
        "rule": shown["rule"],
        "outlined": any(row["outlined"] for case in cases for row in case["rows"]),
        "methods": sorted(methods),
        "classed": classed,
        "target": shown["target"],
        "measured": _measured(found, "named class’s probability" if classed else "prediction") if found else None,
        "peak_heads": PEAK,
        "near_heads": NEAR,
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
    cells = " × ".join(map(str, one.get("cells", [])))
    told = {name: one.get(name, False) for name in ("empty", "flat")}
    return {"named": named, "right": one["right"], "method": METHODS[one["method"]], "cells": cells, **told}


def _picture(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return data_uri(np.array(image.convert("RGB")), longest=LONGEST)
    except OSError:
        return None


def _measured(found: dict[str, Any], outcome: str) -> dict[str, Any]:
    networks = found["networks"]
    known = {name: told for name, told in networks.items() if told.get("all")}
    return {
        "with_lesion": found["with_lesion"],
        "cases": found["cases"],
        "outside": found["outside_window"],
        "lost": len(found["lost_masks"]),
        "sentences": [sentence_of(name, told) for name, told in networks.items()],
        "peaks": [row for name, told in known.items() for row in _rows(name, told, HIT)],
        "nears": [row for name, told in known.items() for row in _rows(name, told, ALMOST)],
        "shares": [row for name, told in known.items() for row in _rows(name, told, SHARE)],
        "sanity": [_sanity(name, told) for name, told in known.items() if told.get("sanity")],
        "deletion": [_deletion(name, told) for name, told in known.items() if told.get("deletion")],
        "curves": _curves({n: told["deletion"] for n, told in known.items() if told.get("deletion")}, outcome),
        "maps": [f"{name}: {_about_maps(told)}" for name, told in known.items()],
        "compared": max((told["sanity"].get("cases", 0) for told in known.values() if told.get("sanity")), default=0),
    }


def _about_maps(told: dict[str, Any]) -> str:
    """How a network's maps were made, how fine they are, and how many say nothing."""
    rows, columns = told["cells"]
    parts = [f"{METHODS[told['method']]}, {rows} × {columns} cells"]
    parts += [f"{told['empty_maps']} empty"] if told["empty_maps"] else []
    parts += [f"{told['flat_maps']} nearly the same everywhere"] if told["flat_maps"] else []
    empty, every = told["random_weights_empty"], told["random_weights_maps"]
    return f"{', '.join(parts)}; with random weights ({told['draws']} draws a fold) {empty} of {every} maps are empty"


PEAK = ["Network", "Cases", "Map", "Random weights", "Difference", "Centre", "Difference", "Shuffled cells"]
NEAR = ["Network", "Cases", "Map", "Random weights", "Difference", "Shuffled cells"]
INSIDE = [
    "Network",
    "Cases",
    "Map",
    "Random weights",
    "Difference",
    "Centre",
    "Difference",
    "Lesion’s share of the image",
]
_OWN = ("{0}", "random_weights_{1}", "{1}_over_random_weights", "prior_{1}", "{1}_over_prior")
HIT = (*(name.format("hit", "hit") for name in _OWN), "chance_hit")
ALMOST = ("near", "random_weights_near", "near_over_random_weights", "chance_near")
SHARE = (*(name.format("share_inside", "share") for name in _OWN), "mask_share")
GROUPS = {"correct": "named correctly", "erroneous": "named erroneously", "all": "all"}
PRIORS = {"tile_centre": "the middle of each slice", "panel_centre": "the middle of the panel"}


def _rows(name: str, told: dict[str, Any], figures: tuple[str, ...]) -> list[dict[str, Any]]:
    """One network: a row for the cases named correctly, erroneously, and all."""
    rows = []
    for group, words in GROUPS.items():
        if part := told.get(group):
            cells = [Cell(str(part["hit"]["n_cases"])), *(_share(part.get(key)) for key in figures)]
            rows.append({"name": f"{name}, {words}", "cells": cells, "mark": False, "inner": group != "correct"})
    return rows


def _share(figure: dict[str, Any] | None) -> Cell:
    """A share in percent with its interval."""
    if not figure or figure.get("value") is None:
        return Cell("–")
    percent = {key: None if figure.get(key) is None else 100 * figure[key] for key in ("value", "low", "high")}
    digits = 0 if abs(percent["value"] or 0) >= 10 else 1
    return Cell(f"{number(percent['value'], digits)} %", small=interval(percent, digits))


def _sanity(name: str, told: dict[str, Any]) -> dict[str, Any]:
    steps = told["sanity"]["steps"]
    first, last = steps[0], steps[-1]
    cells = [Cell(number(step[key], 2)) for step in (first, last) for key in ("spearman", "ssim")]
    return {"name": name, "cells": cells, "mark": False, "inner": False}


ORDERS = {"map": "the map", "random": "a random map", "centre": "the middle of each slice", "brightness": "brightness"}


def _deletion(name: str, told: dict[str, Any]) -> dict[str, Any]:
    found = told["deletion"]
    cells = [Cell(str(found["cases"]))]
    for key in (*ORDERS, "over_random", "over_centre", "over_brightness"):
        cells.append(Cell(number(found[key]["value"], 2), small=interval(found[key], 2)))
    return {"name": name, "cells": cells, "mark": False, "inner": False}


def _curves(told: dict[str, dict[str, Any]], outcome: str) -> list[Markup]:
    """Of each network what it said as more and more was blackened, by the map and by what knows nothing of it."""
    from casewise.report.figures.drawing import MARKERS, SERIES, canvas, frame, place, svg

    drawn = []
    for number_done, (name, found) in enumerate(told.items()):
        with canvas(360, 220) as (figure, axes):
            place(axes, 360, 220, left=50, bottom=40, right=10, top=24)
            for series, (key, words) in enumerate(ORDERS.items()):
                shares = [100 * share for share in found["shares"]]
                axes.plot(
                    *(shares, found["curves"][key]),
                    color=SERIES[series],
                    marker=MARKERS[series],
                    markevery=4,
                    label=words,
                )
            axes.set_xlabel("pixels blackened (%)")
            axes.set_ylabel(outcome)
            axes.set_title(name)
            axes.legend()
            frame(axes)
            drawn.append(svg(figure, f"deletion{number_done}", f"Deletion curves of {name}"))
    return drawn


def sentence_of(name: str, told: dict[str, Any]) -> str:
    """How often a network's map points at the lesion, beside random weights and what is known without looking.

    Of the cases with a lesion that it named correctly; of numbers, and where none was, of all.

    >>> part = {name: {"value": 0.2, "low": 0.1, "high": 0.3, "n_cases": 40} for name in HIT}
    >>> sentence_of("vit", {"correct": part, "prior": {"hit": "panel_centre"}}).rpartition(": ")[2]
    'more often than with random weights, more often than at the middle of the panel.'
    """
    group = "correct" if told.get("correct") else "all"
    part = told.get(group)
    if not part or part["hit"].get("value") is None:
        return f"Of {name} nothing could be measured: no case with a lesion on the slices looked at was predicted."
    own, prior = part["hit"], PRIORS[told["prior"]["hit"]]
    learned = _verdict(part["hit_over_random_weights"])
    verdicts = f"{learned} with random weights, {_verdict(part['hit_over_prior'])} at {prior}"
    values = {key: f"{number(100 * part[key]['value'], 0)} %" for key in HIT}
    ends = {key: 100 * own[key] for key in ("low", "high") if own.get(key) is not None}
    text = interval(ends, 0, words=True)
    cases = "correctly named cases with a lesion" if group == "correct" else "cases with a lesion"
    about = part.get("near") or {}
    near = "" if about.get("value") is None else f", within half a cell of it in {number(100 * about['value'], 0)} %"
    rough = " Fewer than ten subjects tell nothing apart." if own.get("rough") else ""
    # what untrained weights do as well was not learned
    fails = "" if learned == MORE else " So its maps do not show that what it learned points there."
    return (
        f"The highest point of the map of {name} lies in the lesion in {values['hit']} of the {own['n_cases']} {cases}"
        f"{f' (interval {text} %)' if text else ''}{near}, in {values['random_weights_hit']} with random weights, in "
        f"{values['prior_hit']} at {prior}, in {values['chance_hit']} with cells shuffled: "
        f"{verdicts}.{rough}{fails}"
    )


MORE, LESS, UNKNOWN = "more often than", "less often than", "not to be told apart from what it is"


def _verdict(figure: dict[str, Any]) -> str:
    """What a paired difference tells: more, less, or nothing where 0 lies in its interval or subjects are few."""
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None or figure.get("rough") or low <= 0 <= high:
        return UNKNOWN
    return MORE if low > 0 else LESS
