"""Saliency: maps beside the images, where they lie, and what `casewise explain` measured against masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.modalities.registry import modality_of
from casewise.report.blocks import Cell, Row
from casewise.report.figures.pictures import data_uri
from casewise.report.formatting import interval, number
from casewise.report.target_kind_sections import kind_report
from casewise.report.templating import sentence
from casewise.study.learners import learner_named
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.report.figures.drawing import Drawing

MOST_CASES = 8
MOST_NETWORKS = 12
LONGEST = 420
_OWN = ("{0}", "random_weights_{1}", "{1}_over_random_weights", "prior_{1}", "{1}_over_prior")
HIT = (*(name.format("hit", "hit") for name in _OWN), "chance_hit")
NEAR = ("near", "random_weights_near", "near_over_random_weights", "chance_near")
SHARE = (*(name.format("share_inside", "share") for name in _OWN), "mask_share")
GROUPS = ("correct", "erroneous", "all")
ORDERS = {"map": "the map", "random": "a random map", "centre": "the middle of each image", "brightness": "brightness"}


def section(context: ReportContext) -> dict[str, Any] | None:
    """The values of the section; None where the run was not explained, or its networks were trained again since."""
    explanations = context.explanations
    if not explanations or not explanations.get("shown"):
        return None
    shown, measured = explanations["shown"], explanations.get("measured")
    folder = Path(shown["folder"])
    cases = [case for entry in shown["cases"][:MOST_CASES] if (case := _case(entry, folder))]
    placement = explanations.get("placement")
    if not cases and not measured and not placement:
        return None
    kind = context.study.kind_of(shown["target"])
    facts = modality_of(context.study).report_facts(context.study)
    places = placement_values(placement) if placement else []
    networks = [values["name"] for values in places]
    first = context.learner if context.learner in networks else next(iter(networks), "")
    methods = sorted({name for entry in shown["cases"] for name in entry["methods"]}, reverse=True)
    return {
        **{name: facts[name] for name in ("order", "late", "sliced")},
        "cases": cases,
        "left_out": max(0, len(shown["cases"]) - MOST_CASES),
        "rule": shown["rule"],
        "outlined": sorted({row["outlined"] for case in cases for row in case["rows"] if row["outlined"]}),
        "map_size": shown["cells"],
        "methods": methods,
        "unsigned": [name for name in methods if name != "contributions"],
        "form": "ordinal" if kind_report(kind).ordered else kind_named(kind).form,
        "placed": placed_shares(cases),
        "curved": _curved(cases),
        "classes": bool(context.study.classes_of(shown["target"])),
        "placement": [values for values in places if values["name"] == first],
        "more_placement": [values for values in places if values["name"] != first],
        "regions": placement["regions"] if placement else {},
        "measured": measured_values(measured, drawn=True) if measured else None,
    }


def placed_shares(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each baseline how much of its net contributions has a place, as a mean over the maps that are shown.

    The share of a map is |placed| / (|placed| + |unplaced|), of the two sums: what cancels within one counts as 0.

    >>> rows = [{"maps": [{"network": "a", "sum": {"placed": -3.0, "unplaced": 1.0}}]}]
    >>> placed_shares([{"rows": rows}])
    [{'name': 'a', 'share': 0.75, 'count': 1}]
    """
    shares: dict[str, dict[tuple[float, float], float]] = {}
    for case in cases:
        for entry in (entry for row in case["rows"] for entry in row["maps"] if entry.get("sum")):
            # a case has the same sum for each of its sequences
            placed, unplaced = abs(entry["sum"]["placed"]), abs(entry["sum"]["unplaced"])
            if placed + unplaced > 0:
                shares.setdefault(entry["network"], {})[placed, unplaced] = placed / (placed + unplaced)
    return [
        {"name": name, "share": sum(each.values()) / len(each), "count": len(each)} for name, each in shares.items()
    ]


def _curved(cases: list[dict[str, Any]]) -> list[str]:
    """The learners with a map whose contributions hold for one image only."""
    shown = {entry["network"] for case in cases for row in case["rows"] for entry in row["maps"]}
    return sorted(name for name in shown if learner_named(name).is_curved)


def placement_values(placement: dict[str, Any]) -> list[dict[str, Any]]:
    """For each network and region the share of the map and of the area, and whether they differ."""
    return [
        {
            "name": name,
            "region": region,
            "column": placement["regions"][region]["column"],
            **{key: figures[key] for key in ("share", "area", "empty_maps")},
            "code": difference_code(figures["difference"]),
            "rough": bool(figures["difference"].get("rough")),
        }
        for name, by_region in placement["networks"].items()
        for region, figures in by_region.items()
    ]


def _case(entry: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """A case with its pictures; None where they are gone."""
    rows = []
    for row in entry["rows"]:
        picture = _picture(folder / row["input"])
        if picture is None:
            continue
        maps = []
        for entry_map in row["maps"][:MOST_NETWORKS]:
            if uri := _picture(folder / entry_map["file"]):
                flags = {name: entry_map.get(name, False) for name in ("empty", "flat")}
                maps.append({**entry_map, "uri": uri, "cells": entry_map.get("cells", []), **flags})
        rows.append({**row, "input": picture, "maps": maps})
    if not rows:
        return None
    return {"subject": entry["subject"], "visit": entry["visit"], "tested": entry["stage"] == "test", "rows": rows}


def _picture(path: Path) -> str | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return data_uri(np.array(image.convert("RGB")), longest=LONGEST)
    except OSError:
        return None


def measured_values(measured: dict[str, Any], *, drawn: bool = False) -> dict[str, Any]:
    """What was measured against masks: counts, a verdict and tables of each network, and the curves if `drawn`."""
    networks = {name: entry for name, entry in measured["networks"].items() if entry.get("all")}
    deletion = {name: entry["deletion"] for name, entry in networks.items() if entry.get("deletion")}
    sanity = {name: entry["sanity"] for name, entry in networks.items() if entry.get("sanity")}
    return {
        "meaning": measured["meaning"],
        "with_mask": measured["with_mask"],
        "cases": measured["cases"],
        "outside": measured["outside_window"],
        "lost": len(measured["lost_masks"]),
        "verdicts": [verdict(name, entry, measured["meaning"]) for name, entry in measured["networks"].items()],
        "peaks": [row for name, entry in networks.items() for row in figure_rows(name, entry, HIT)],
        "nears": [row for name, entry in networks.items() for row in figure_rows(name, entry, NEAR)],
        "shares": [row for name, entry in networks.items() for row in figure_rows(name, entry, SHARE)],
        "maps": networks,
        "sanity": [_sanity(name, entry) for name, entry in sanity.items()],
        "compared": max((entry.get("cases", 0) for entry in sanity.values()), default=0),
        "deletion": [_deletion(name, entry) for name, entry in deletion.items()],
        "curves": _curves(deletion) if drawn else [],
    }


def figure_rows(name: str, entry: dict[str, Any], figures: tuple[str, ...]) -> list[tuple[str, Row]]:
    """One network: a row for the cases predicted correctly, erroneously, and all, each with that code."""
    rows = []
    for group in GROUPS:
        if measures := entry.get(group):
            cells = [Cell(str(measures["hit"]["n_cases"])), *(_share(measures.get(key)) for key in figures)]
            rows.append((group, Row(name, cells, inner=group != "correct")))
    return rows


def _share(figure: dict[str, Any] | None) -> Cell:
    """A share in percent with its interval."""
    if not figure or figure.get("value") is None:
        return Cell("–")
    percent = {key: None if figure.get(key) is None else 100 * figure[key] for key in ("value", "low", "high")}
    digits = 0 if abs(percent["value"] or 0) >= 10 else 1
    return Cell(f"{number(percent['value'], digits)} %", small=_bounds(figure, percent, digits))


def _bounds(figure: dict[str, Any], ends: dict[str, Any], digits: int) -> str:
    text = interval(ends, digits)
    return f"{text} rough" if text and figure.get("rough") else text


def _sanity(name: str, entry: dict[str, Any]) -> Row:
    first, last = entry["steps"][0], entry["steps"][-1]
    return Row(name, [Cell(number(step[key], 2)) for step in (first, last) for key in ("spearman", "ssim")])


def _deletion(name: str, entry: dict[str, Any]) -> Row:
    keys = (*ORDERS, "over_random", "over_centre", "over_brightness")
    cells = [Cell(number(entry[key]["value"], 2), small=_bounds(entry[key], entry[key], 2)) for key in keys]
    return Row(name, [Cell(str(entry["cases"])), *cells])


def _curves(by_network: dict[str, dict[str, Any]]) -> list[tuple[str, Drawing]]:
    """The output of each network while pixels are blackened, in the order of the map and of naive orders."""
    from casewise.report.figures.drawing import MARKERS, SERIES, canvas, frame, set_margins, svg

    drawings = []
    for index, (name, entry) in enumerate(by_network.items()):
        with canvas(360, 262) as (figure, axes):
            set_margins(axes, 360, 262, left=50, bottom=82, right=10, top=24)
            shares = [100 * share for share in entry["shares"]]
            for series, (key, label) in enumerate(ORDERS.items()):
                color, marker = SERIES[series], MARKERS[series]
                axes.plot(shares, entry["curves"][key], color=color, marker=marker, markevery=4, label=label)
            axes.set_xlabel("pixels blackened (%)")
            axes.set_ylabel("network output")
            axes.set_title(name)
            figure.legend(loc="lower center", ncols=2, borderaxespad=0.2)
            frame(axes)
            drawings.append((name, svg(figure, f"deletion{index}")))
    return drawings


def verdict(name: str, entry: dict[str, Any], meaning: str) -> dict[str, Any]:
    """How often a network's map points into the mask, compared with random weights and with a prior without an image.

    Over the correctly predicted cases with a mask; for numbers, and where there are none, over all cases.

    >>> measures = {name: {"value": 0.2, "low": 0.1, "high": 0.3, "n_cases": 40} for name in HIT}
    >>> result = verdict("vit", {"correct": measures, "prior": {"hit": "panel_centre"}}, "lesion")
    >>> result["code"], result["over_random"], result["over_prior"], result["prior"]
    ('measured', 'more', 'more', 'panel_centre')
    """
    group = "correct" if entry.get("correct") else "all"
    measures = entry.get(group)
    if not measures or measures["hit"].get("value") is None:
        return {"code": "unmeasured", "name": name, "meaning": meaning}
    return {
        "code": "measured",
        "name": name,
        "meaning": meaning,
        "group": group,
        "cases": measures["hit"]["n_cases"],
        "figures": {key: measures[key] for key in HIT},
        "near": (measures.get("near") or {}).get("value"),
        "prior": entry["prior"]["hit"],
        "rough": bool(measures["hit"].get("rough")),
        "over_random": difference_code(measures["hit_over_random_weights"]),
        "over_prior": difference_code(measures["hit_over_prior"]),
    }


def sentence_of(name: str, entry: dict[str, Any], meaning: str) -> str:
    """The verdict on a network's maps in words, for a terminal."""
    return sentence("saliency_verdict", verdict(name, entry, meaning))


def difference_code(figure: dict[str, Any]) -> str:
    """What a paired difference shows: `more`, `less`, or `same` where its interval holds 0 or subjects are few."""
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None or figure.get("rough") or low <= 0 <= high:
        return "same"
    return "more" if low > 0 else "less"
