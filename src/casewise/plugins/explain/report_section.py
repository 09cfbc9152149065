"""The section of the report on saliency: maps next to the images, where they lie, and how they compare with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from casewise.modalities.registry import modality_of
from casewise.report.blocks import Block, Cell, Facts, Fold, Heading, Picture, Pictures, Row, Section, Table, Text
from casewise.report.context import METHODS, ReportContext, terms_of
from casewise.report.figures.pictures import data_uri
from casewise.report.formatting import MISSING, capital, counted, number, probability, signed
from casewise.report.tables import figure_cell, kind_report
from casewise.study.learners import learner_name
from casewise.targets import kind_named

Values = Mapping[str, Any]
# The title of each case, and its rows with the picture of their input.
Cases = list[tuple[str, list[tuple[Values, str]]]]

MOST_CASES, MOST_UNFOLDED, MOST_NETWORKS, LONGEST = 8, 2, 12, 420
_OWN = ("{0}", "random_weights_{1}", "{1}_over_random_weights", "prior_{1}", "{1}_over_prior")
HIT = (*(name.format("hit", "hit") for name in _OWN), "chance_hit")
SHARE = (*(name.format("share_inside", "share") for name in _OWN), "mask_share")
COLUMNS = ("Network", "Panels", "Map", "Random weights", "Difference", "Centre", "Difference")
GROUPS = {"correct": "predicted correctly", "erroneous": "predicted erroneously", "all": "all cases"}
ORDERS = {"map": "the map", "random": "a random map", "centre": "the middle of each image", "brightness": "brightness"}
# Other regions are named as the study names their masks.
PLACES = {"border": "outer eighth of the image"}
OWN = ("dice", "everything", "difference")
PLACEMENT = ("Network", "Panels", "Of the map", "Of the area", "Difference", "Empty maps")
# By the form of the explained target: what red and blue areas do, and the name of the output.
FORMS = {
    "number": ("raises the prediction", "lowers it", "raw output"),
    "classes": ("speaks for the predicted class", "speaks against it", "logit minus the mean of the others"),
    "ordinal": ("raises the grade", "lowers it", "sum of the steps"),
}

READING = (
    "A map shows which areas a network used. It does not show that there is disease, or why the network made its"
    " prediction."
)
REST = "rest: what features of the whole image add, which have no place on the map"
BRIGHT = "the brighter an area, the more it contributed, from least to most within each picture"
WHERE = (
    "Share of the map and of the area in each region, on random panels that were not trained on; a uniform map has the"
    " same share of both. Empty maps count as uniform. Small print: {confidence} intervals by subject, and whether the"
    " share of the map is shown to be larger or smaller."
)
ANATOMY = (
    "A map inside the anatomy does not show that the network uses the disease; a map mostly outside it is a reason to"
    " look for shortcuts."
)
OWN_MAP = {
    True: "own map, trained with the masks of {column}",
    False: "own map, trained with labels alone: evidence that the network weighs, not a segmentation",
}
AGREEMENT = (
    "Mean Dice of the own map of a U-Net, from 0.5 on, and the mask, and of a map that marks everything, on random"
    " panels whose mask marks something, and that were not trained on. Small print: {confidence} intervals by subject."
)
POINTING = (
    "How often the highest point of the map lies in the mask ({mask}), for cases not trained on. Small print:"
    " {confidence} intervals by subject and random network, and whether the map is shown to do so more or less often."
)
RIVALS = (
    "Random weights: the same network with all learned weights drawn at random; a map that hits no more often than"
    " these does not explain what was learned. Centre: a map that points at the middle of each image or of the panel,"
    " whichever hits more often. Shuffled cells: the network’s own map with its cells in random order."
)
INSIDE = "The share of the total saliency that lies in the mask; a uniform map has the mask’s share of the image."
SIMILAR = (
    "Similarity to the maps of the trained network when weights are drawn at random; 1 is the same map. Maps that stay"
    " similar when all weights are random say nothing about what was learned."
)
DELETION = (
    "Mean output while pixels are blackened in the order of a map; lower is better. A map is informative if the output"
    " falls faster than by distance from the middle and by brightness, not only faster than in a random order."
)


def section(context: ReportContext) -> Section | None:
    """Maps and measures; None where the run was not explained, or its networks were trained again since."""
    explanations = context.explanations
    if not explanations or not explanations.get("shown"):
        return None
    shown, measured, places = explanations["shown"], explanations.get("measured"), explanations.get("placement")
    cases = _cases(shown)
    if not cases and not measured and not places:
        return None
    kind = context.study.kind_of(shown["target"])
    form = FORMS["ordinal" if kind_report(kind).ordered else kind_named(kind).form]
    methods = sorted({name for entry in shown["cases"] for name in entry["methods"]}, reverse=True)
    confidence = terms_of(context).confidence
    facts = [*_reading(context, methods, form), *_chosen(shown, cases)]
    blocks: list[Block] = [Text(READING), Facts(facts), *_case_by_case(shown, cases, form, _own_map(context))]
    if places:
        rows = placement_rows(places, marked=context.learner)
        blocks += [Heading("Where the maps lie"), Table(PLACEMENT, rows, WHERE.format(confidence=confidence))]
        blocks.append(Text(ANATOMY * ("anatomy" in places["regions"]), note=True))
        if own := _agreement_rows(places, marked=context.learner):
            columns = ("Network", "Panels", "Dice", "Everything", "Difference")
            blocks += [Heading("Own maps and masks"), Table(columns, own, AGREEMENT.format(confidence=confidence))]
    if measured:
        blocks += [*_compared(measured, confidence), Fold("Further measures", _measures(measured))]
    return Section("saliency", "Saliency", blocks)


def _reading(context: ReportContext, methods: Sequence[str], form: tuple[str, str, str]) -> list[tuple[str, str]]:
    """How each kind of map is read, and what a picture shows."""
    red = f"red {form[0]}, blue {form[1]}, compared with the average training image; {REST}"
    facts = [(capital(METHODS.get(name, name)), red if name == "contributions" else BRIGHT) for name in methods]
    study = modality_of(context.study).report_facts(context.study)
    if study["sliced"]:
        order = f"in the order of the column {study['order']}" if study["order"] else "from the feet to the head"
        facts.append(("A picture", f"the network’s panel of consecutive slices {order}, row by row"))
    return facts


# ---------------------------------------------------------------------------------------------------------- measures


def placement_rows(placement: Values, *, marked: str = "") -> list[Row]:
    """For each network and region the share of the map and of the area, and whether they differ."""
    rows = []
    for name, by_region in placement["networks"].items():
        for region, figures in by_region.items():
            share, column = figures["share"], placement["regions"][region]["column"]
            described = PLACES.get(region, region) + (f" (column {column})" if column else "")
            count = Cell(f"{share['n_cases']:,}", f"of {counted(share['n_subjects'], 'subject')}")
            cells = [count, _share(share), _share(figures["area"]), _share(figures["difference"], difference=True)]
            name_of_row, empty = f"{learner_name(name)}: {described}", number(figures["empty_maps"], 0)
            rows.append(Row(name_of_row, [*cells, empty], mark=name == marked))
    return rows


def _agreement_rows(placement: Values, *, marked: str = "") -> list[Row]:
    """For each network with a map of its own and each kind of mask, the Dice of both, and of marking everything."""
    rows = []
    for name, by_region in placement["networks"].items():
        for region, own in ((region, figures["own"]) for region, figures in by_region.items() if "own" in figures):
            count = Cell(f"{own['dice']['n_cases']:,}", f"of {counted(own['dice']['n_subjects'], 'subject')}")
            values = [figure_cell(own[key], 2) for key in OWN]
            rows.append(
                Row(f"{learner_name(name)}: {PLACES.get(region, region)}", [count, *values], mark=name == marked)
            )
    return rows


def measured_rows(measured: Values, figures: Sequence[str]) -> list[Row]:
    """For each network the figures of the cases predicted correctly, erroneously, and all; dashes where it has none."""
    rows = []
    for name, entry in measured["networks"].items():
        groups = [group for group in GROUPS if entry.get(group)]
        for group in groups:
            values = [_share(entry[group].get(key), difference="_over_" in key) for key in figures]
            count = str(entry[group]["hit"]["n_cases"])
            rows.append(Row(f"{learner_name(name)}, {GROUPS[group]}", [count, *values], inner=group != "correct"))
        if not groups:
            rows.append(Row(learner_name(name), ["0", *[MISSING] * len(figures)]))
    return rows


def verdict(figure: Values) -> str:
    """The verdict on a paired difference: `more`, `less`, or `not shown to differ` if it may be 0 or subjects are few.

    >>> verdict({"low": 0.1, "high": 0.2}), verdict({"low": 0.1, "high": 0.2, "rough": True})
    ('more', 'not shown to differ')
    """
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None or figure.get("rough") or low <= 0 <= high:
        return "not shown to differ"
    return "more" if low > 0 else "less"


def _share(figure: Values | None, *, difference: bool = False) -> Cell:
    """A share in percent, or a difference in percentage points and what it shows, with its interval."""
    if not figure or figure.get("value") is None:
        return Cell(MISSING)
    cell = figure_cell(figure, 0 if abs(figure["value"]) >= 0.1 else 1, percent=True, sign=difference)
    return replace(cell, small=", ".join(filter(None, [cell.small, verdict(figure)]))) if difference else cell


def _compared(measured: Values, confidence: str) -> list[Block]:
    """How often maps point into the masks."""
    mask = f"of the {measured['meaning']}"
    rows = measured_rows(measured, HIT)
    columns = [*COLUMNS, "Shuffled cells"]
    table = Table(columns, rows, POINTING.format(mask=mask, confidence=confidence), wide=True)
    counts = [
        ("Panels with a mask", f"{measured['with_mask']} of {measured['cases']}"),
        ("Mask outside the panel", counted(measured["outside_window"], "further panel")),
        ("Mask not on the prepared slices", counted(len(measured["lost_masks"]), "case")),
    ]
    return [Heading("Comparison with masks"), Facts(counts), table, Text(RIVALS, note=True)]


def _measures(measured: Values) -> list[Block]:
    """Shares, the similarity of maps of random weights, and deletion of pixels."""
    networks = {learner_name(name): entry for name, entry in measured["networks"].items() if entry.get("all")}
    shares = Table([*COLUMNS, "Mask’s share of the image"], measured_rows(measured, SHARE), INSIDE, wide=True)
    sanity = [_sanity(name, entry["sanity"]) for name, entry in networks.items() if entry.get("sanity")]
    columns = ["Network", "Cases", "Head random: rank correlation", "SSIM", "All random: rank correlation", "SSIM"]
    deletion = [_deletion(name, entry["deletion"]) for name, entry in networks.items() if entry.get("deletion")]
    heads = ["Network", "Cases", "Map", "Random map", "Middle of images", "Brightness"]
    heads += ["Map − random", "Map − middle", "Map − brightness"]
    facts = Facts([(name, _map_facts(entry)) for name, entry in networks.items()])
    return [shares, facts, Table(columns, sanity, SIMILAR), Table(heads, deletion, DELETION, wide=True)]


def _map_facts(entry: Values) -> str:
    """The method and cells of a network's maps, and how many of them say nothing."""
    cells = "" if entry["method"] == "contributions" else f", {entry['cells'][0]} × {entry['cells'][1]} cells"
    return (
        f"{METHODS.get(entry['method'], entry['method'])}{cells}; empty {entry['empty_maps']}, nearly uniform"
        f" {entry['flat_maps']}; with random weights ({entry['draws']} draws per fold) empty"
        f" {entry['random_weights_empty']} of {entry['random_weights_maps']} maps"
    )


def _sanity(name: str, entry: Values) -> Row:
    first, last = entry["steps"][0], entry["steps"][-1]
    values = [Cell(number(step[key], 2)) for step in (first, last) for key in ("spearman", "ssim")]
    return Row(name, [number(entry.get("cases"), 0), *values])


def _deletion(name: str, entry: Values) -> Row:
    keys = (*ORDERS, "over_random", "over_centre", "over_brightness")
    return Row(name, [str(entry["cases"]), *(figure_cell(entry[key], 2) for key in keys)])


# ------------------------------------------------------------------------------------------------------------- cases


def _cases(shown: Values) -> Cases:
    """The first cases with their rows and the picture of each input; without those whose pictures are gone."""
    folder = Path(shown["folder"])
    cases: Cases = []
    for entry in shown["cases"][:MOST_CASES]:
        visit = f", visit {entry['visit']}" if entry["visit"] else ""
        tested = " (test set; the mean map of its networks)" if entry["stage"] == "test" else ""
        rows = [(row, uri) for row in entry["rows"] if (uri := _picture(folder / row["input"]))]
        if rows:
            cases.append((f"Subject {entry['subject']}{visit}{tested}", rows))
    return cases


def _chosen(shown: Values, cases: Cases) -> list[tuple[str, str]]:
    """Which cases are shown, and what is outlined in their pictures."""
    facts = [("Cases shown", str(shown["rule"]))] if cases else []
    outlined = sorted({str(row["outlined"]) for _, rows in cases for row, _ in rows if row["outlined"]})
    facts += [("Green line", f"edge of the {', '.join(outlined)}")] if outlined else []
    further = len(shown["cases"]) - MOST_CASES
    return [*facts, *([("In the run folder", counted(further, "further case"))] if further > 0 else [])]


def _own_map(context: ReportContext) -> str:
    """The labels or masks that a U-Net's own map was trained with, as text."""
    column = context.study.images.mask
    return OWN_MAP[bool(column)].format(column=column)


def _case_by_case(shown: Values, cases: Cases, form: tuple[str, str, str], own: str) -> list[Block]:
    """The maps of each case with its input; all but the first cases are folded."""
    folder = Path(shown["folder"])
    strips: list[list[Block]] = [
        [
            Pictures(_strip(row, uri, folder, form, own), "" if number else title, "beside-each")
            for number, (row, uri) in enumerate(rows)
        ]
        for title, rows in cases
    ]
    first, others = (list(chain(*some)) for some in (strips[:MOST_UNFOLDED], strips[MOST_UNFOLDED:]))
    return [*first, Fold(f"The other {counted(len(cases) - MOST_UNFOLDED, 'case')}", others)]


def _strip(row: Values, uri: str, folder: Path, form: tuple[str, str, str], own: str) -> list[Picture]:
    """The input of the networks and the map of each; a U-Net's own map is next to it."""
    name = f" on {row['name']}" if row["name"] else ""
    pictures = [
        Picture(uri, f"Input of the networks{name}", f"{row['name'] or 'Input'}; reference: {row['reference']}")
    ]
    for entry in row["maps"][:MOST_NETWORKS]:
        if picture := _picture(folder / entry["file"]):
            method, network = METHODS.get(str(entry["method"]), str(entry["method"])), learner_name(entry["network"])
            pictures.append(Picture(picture, f"{method} of {network}{name}", f"{network}: {_caption(entry, form)}"))
            if entry.get("own") and (picture := _picture(folder / entry["own"])):
                pictures.append(Picture(picture, f"Own map of {network}{name}", f"{network}: {own}"))
    return pictures


def _caption(entry: Values, form: tuple[str, str, str]) -> str:
    """The method, the prediction and whether it is correct; of contributions their sum."""
    method = METHODS.get(str(entry["method"]), str(entry["method"]))
    if entry.get("layer"):
        method += f" at {entry['layer']}"
    if entry.get("cells") and entry["method"] != "contributions":
        method += f", {' × '.join(map(str, entry['cells']))} cells"
    predicted = str(entry["predicted"])
    if entry["probability"] is not None:
        predicted += f" ({probability(entry['probability'])})"
    if entry["correct"] is not None:
        predicted += f", {'correct' if entry['correct'] else 'wrong'}"
    pieces = [method, predicted]
    if total := entry.get("sum"):
        output, average, placed = (round(total[name], 2) for name in ("output", "average", "placed"))
        terms = f"average image {number(average, 2)}, on the map {signed(placed, 2)}"
        # as the difference of what is shown, so that the sum is right as printed
        pieces.append(f"{form[2]} {number(output, 2)} = {terms}, rest {signed(output - average - placed, 2)}")
    if entry.get("empty") or entry.get("flat"):
        pieces.append("the map is empty" if entry.get("empty") else "the map is nearly uniform")
    return "; ".join(pieces)


def _picture(path: Path) -> str:
    """The picture as a data URI; empty where it is gone."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return data_uri(np.array(image.convert("RGB")), longest=LONGEST)
    except OSError:
        return ""
