"""The section of the report on slides: the selected tiles, and maps of the predictions for each tile on the slide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.plugins.slides import drawings as draw
from casewise.plugins.slides.settings import tiles_of
from casewise.report.blocks import Block, Facts, Fold, Heading, Picture, Pictures, Plot, Plots, Section, Text
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.formatting import (
    capital,
    case_label,
    class_name,
    counted,
    digits_of,
    display_name,
    listed,
    number,
    percent,
    probability,
)
from casewise.report.modality_sections import PHOTOGRAPHS
from casewise.report.target_kind_sections import kind_report
from casewise.report.terms import positive_and_other
from casewise.study.learners import learner_name, without_baselines

if TYPE_CHECKING:
    from casewise.plugins.slides.tiles import PlannedSlide
    from casewise.report.context import ReportContext

MOST_TILES = 18
MOST_SLIDES = 3
CORRECT, WRONG, UNDECIDED = 2, 2, 2
# Weights of attention are drawn up to so many times an even share.
MOST_WEIGHT = 4.0
SLIDE = "maps slide"
TILES = (
    "Green: the edge of the detected tissue. Frames: the tiles. Check whether tissue was left out, or whether glass,"
    " ink or folds were included."
)
GROUPS = {
    "correct": "Most confident, correct",
    "wrong": "Most confident, wrong",
    "undecided": "Undecided",
    "closest": "Closest to the reference",
    "furthest": "Furthest from the reference",
}
COLOURS = {
    "weight": "the weight of a tile in its case; 1 is an equal share",
    "number": "the value predicted for a tile",
    "grade": "the mean grade predicted for a tile",
    "positive": "the probability of the positive class predicted for a tile",
    "class": "the probability of the class above the map predicted for a tile",
}
WEIGHTED = "Tiles with a large weight dominate the prediction; this does not show that there is disease in them."
LABELLED = (
    "Tiles were trained with the label of their whole case: a colour shows how the network rates a tile, not that there"
    " is disease in it."
)
READING = (
    "Each slide as it is, and in grey with its tiles coloured, predicted out of fold. Areas without colour were not"
    " used. Green: the edge of the tissue."
)


def section(context: ReportContext) -> Section | None:
    """The selected tiles, shown on one slide, and maps of a few cases; None where no slide was cut."""
    images, tiles = context.cohort_images, tiles_of(context.study)
    if "tile_side" not in images or tiles is None:
        return None
    tile_rows, side = images[images["tile_side"] >= 0], context.study.images.size
    if tiles.mpp is not None:
        resolution = f"{tiles.mpp:g} µm per pixel, {number(side * tiles.mpp, 0)} µm a side"
    else:
        resolution = f"{tiles.magnification:g}×" if tiles.magnification else f"level {tiles.level or 0}"
    facts = [
        ("Slides", f"{tile_rows['path'].nunique():,}"),
        ("Tiles", f"{len(tile_rows):,}, {side} × {side} pixels, with at least {percent(tiles.min_tissue)} tissue"),
        ("Resolution", resolution),
        *([("Images used whole", f"{len(images) - len(tile_rows):,}")] if len(images) > len(tile_rows) else []),
    ]
    blocks: list[Block] = [Facts(facts), *_example(context, tile_rows)]
    if shown := maps(context):
        blocks.append(Fold("Maps of the predictions for each tile", shown))
    return Section("slides", "Slides and tiles", blocks)


def case_pictures(context: ReportContext, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and small pictures of the case's slides; of a case without slides its panels."""
    if not (slides := slides_of(context, str(row["case"]))):
        return PHOTOGRAPHS.case_pictures(context, row)
    shown = [(Path(path).name, draw.cropped(slide, draw.crop_of(slide))) for path, slide in slides[:MOST_SLIDES]]
    return [(name, data_uri(picture, longest=300)) for name, picture in shown]


def slides_of(context: ReportContext, case: str) -> list[tuple[str, PlannedSlide]]:
    """The slides of a case that can be shown, those with the most tiles first."""
    images = context.cohort_images
    if "tile_side" not in images:
        return []
    case_tiles = images[(images["case"] == case) & (images["tile_side"] >= 0)]
    paths = case_tiles["path"].value_counts(sort=True).index
    return [(str(path), slide) for path in paths if (slide := context.slide(str(path))) is not None]


def short_path(path: str) -> str:
    """A file with its folder: many files have the same name in folders of their own.

    >>> short_path("/data/B0001/1.tiff")
    'B0001/1.tiff'
    """
    return "/".join(Path(path).parts[-2:])


def _example(context: ReportContext, tiles: pd.DataFrame) -> list[Block]:
    """The slide with about the middle number of tiles, and some of them as the network sees them."""
    counts = tiles.groupby("path", sort=True).size().sort_values(kind="stable")
    path = str(counts.index[len(counts) // 2])
    slide = context.slide(path)
    if slide is None:
        return []
    rows = tiles[tiles["path"] == path]
    label = case_label(rows.iloc[0][["subject", "visit"]].to_dict())
    shown = np.unique(np.linspace(0, len(rows) - 1, MOST_TILES).round().astype(int))
    pictures = [
        Picture(data_uri(as_picture(tile), longest=context.study.images.size), f"Tile {place}")
        for place, tile in enumerate(context.tiles(rows["image"].to_numpy()[shown].tolist()), start=1)
    ]
    count = f"{len(slide):,} of {slide.candidates:,} tiles with enough tissue"
    drawing = Plot(draw.taken(slide), f"Slide {short_path(path)}: the tissue outlined, its tiles framed.")
    return [
        Plots([drawing], f"{capital(label)}, {short_path(path)}: {count}. {TILES}", SLIDE),
        Pictures(pictures, f"{len(pictures)} of its tiles as the network receives them", "pictures tiny"),
    ]


# ------------------------------------------------------------------------------------------------------------- maps


def maps(context: ReportContext) -> list[Block]:
    """A few cases predicted out of fold, each with its maps; nothing where no tile's own prediction is known."""
    table = context.tile_predictions
    if table is None or table.empty:
        return []
    model = _model(context, set(without_baselines(table["model"].unique())))
    if model is None:
        return []
    predictions = table[(table["model"] == model) & (table["stage"] == "oof")]
    weighted = "weight" in predictions and bool(predictions["weight"].notna().any())
    predictions = predictions[predictions["target"].isin(["", context.outcome])]
    rows = context.rows("oof", model)
    rows = rows[rows["case"].isin(set(predictions.loc[predictions["tile_side"] >= 0, "case"]))].reset_index(drop=True)
    groups: list[Block] = []
    for code, row_numbers in _case_groups(context, rows) if len(rows) else ():
        shown = [plots for i in row_numbers if (plots := _case(context, rows.loc[i], predictions, weighted))]
        groups += [Heading(GROUPS[code]), *shown] if shown else []
    if not groups:
        return []
    scale, ticks = _scale(context, weighted)
    pooling = "the largest prediction over its tiles" if context.study.panels.pooling == "max" else "their mean"
    facts = [
        ("Network", learner_name(model)),
        ("Colour", COLOURS[_map_code(context, weighted)]),
        ("Prediction of a case", "weighted by attention" if weighted else pooling),
    ]
    if context.classes:
        facts.append(("Cases predicted wrongly", f"{int((rows['y_pred'] != rows['y_true']).sum())} of {len(rows)}"))
    colours = Plot(draw.colour_bar(scale, ticks), f"The colours, from {ticks[0][1]} to {ticks[-1][1]}.")
    return [Facts(facts), Text(f"{READING} {WEIGHTED if weighted else LABELLED}", note=True), Plots([colours]), *groups]


def _model(context: ReportContext, names: set[str]) -> str | None:
    """The network shown: the report's own, or where that combines several the best of them out of fold."""
    if context.learner in names:
        return context.learner
    merits = {
        name: figure["value"]
        for name in context.learners
        if name in names and (figure := context.metric("oof", name, context.merit))
    }
    return max(merits, key=lambda name: merits[name]) if merits else next(iter(sorted(names)), None)


def _case_groups(context: ReportContext, rows: pd.DataFrame) -> Iterator[tuple[str, list[int]]]:
    """Groups of rows with a code: of classes the surest correct and wrong and the undecided, else best and worst."""
    if not context.classes:
        error = (rows["y_pred"] - rows["y_true"]).abs().sort_values(kind="stable")
        yield "closest", list(error.index[:CORRECT])
        yield "furthest", list(error.index[::-1][: min(WRONG, len(rows) - CORRECT)])
        return
    count = len(context.classes)
    values = rows[[f"p{i}" for i in range(count)]].to_numpy(float)
    predicted = rows["y_pred"].to_numpy(int)
    correct = (rows["y_pred"] == rows["y_true"]).to_numpy()
    order = np.argsort(-values[range(len(rows)), predicted], kind="stable")
    surest = [int(i) for i in order if correct[i]]
    # first one case of each class: a map is read best beside that of another class
    firsts = [i for n, i in enumerate(surest) if predicted[i] not in predicted[surest[:n]]]
    correct_rows = [*firsts, *(i for i in surest if i not in firsts)][: max(CORRECT, min(count, 3))]
    yield "correct", correct_rows
    wrong = [int(i) for i in order if not correct[i]][:WRONG]
    yield "wrong", wrong
    ranked = np.sort(values, axis=1)
    undecided = [int(i) for i in np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")]
    yield "undecided", [i for i in undecided if i not in correct_rows and i not in wrong][:UNDECIDED]


def _case(context: ReportContext, row: pd.Series, predictions: pd.DataFrame, weighted: bool) -> Plots | None:
    """One case on its slide with the most tiles."""
    slides = slides_of(context, str(row["case"]))
    if not slides:
        return None
    path, slide = slides[0]
    whole = predictions[predictions["case"] == row["case"]]
    tiles = whole[whole["path"] == path]
    if tiles.empty:
        return None
    boxes = tiles[["tile_x", "tile_y", "tile_side"]].to_numpy(np.int64)
    overlap = settings.overlap if (settings := tiles_of(context.study)) else 0.0
    stride = max(round(int(boxes[0, 2]) * (1 - overlap)), 1)
    scale, _ = _scale(context, weighted)
    weights = whole["weight"].to_numpy(float) if weighted else None
    label = case_label(row.to_dict())
    plots = [Plot(draw.plain(slide), f"{label}: the slide.", "the slide")]
    for title, values in _values(context, row, tiles, weights):
        drawing = draw.heat(slide, boxes, values, stride=stride, scale=scale)
        plots.append(Plot(drawing, f"{label}: {title}, tile by tile.", title))
    summary = weights_summary(whole, path) if weighted else tiles_summary(context, tiles)
    pieces = [
        capital(label),
        _result(context, row),
        summary,
        f"{short_path(path)}, 1 of {counted(len(slides), 'slide')}",
    ]
    return Plots(plots, "; ".join(pieces), SLIDE)


def _map_code(context: ReportContext, weighted: bool) -> str:
    """The meaning of a colour: `weight`, `number`, `grade`, `positive` class or the `class` above the map."""
    if weighted:
        return "weight"
    if context.classes and not kind_report(context.kind).ordered:
        return "positive" if positive_and_other(context) else "class"
    return "grade" if context.classes else "number"


def _values(
    context: ReportContext, row: pd.Series, tiles: pd.DataFrame, weights: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """The title and values (N,) from 0 to 1 of what is drawn; `weights`: of all tiles of the case."""
    study, outcome, names = context.study, context.outcome, context.classes
    code = _map_code(context, weights is not None)
    if weights is not None:
        # An even share is that of the case: its weights sum to one over all its slides.
        even = weights.sum() / len(weights)
        yield "weight of each tile", tiles["weight"].to_numpy(float) / even / MOST_WEIGHT
        return
    if code == "number":
        low, high = study.range_of(outcome)
        yield display_name(study, outcome), (tiles["y_pred"].to_numpy(float) - low) / (high - low)
        return
    values = tiles[[f"p{i}" for i in range(len(names))]].to_numpy(float)
    if code == "grade":
        yield "expected grade", values @ np.arange(len(names)) / (len(names) - 1)
        return
    if positive := study.positive_of(outcome):
        yield f"probability of {class_name(study, outcome, positive)}", values[:, names.index(positive)]
        return
    truth, predicted = int(row["y_true"]), int(row["y_pred"])
    roles = {truth: ["reference"]}
    roles.setdefault(predicted, []).append("predicted")
    for place, role in roles.items():
        yield f"probability of {class_name(study, outcome, names[place])} ({listed(role)})", values[:, place]


def _scale(context: ReportContext, weighted: bool) -> tuple[draw.Scale, list[tuple[float, str]]]:
    """The colour scale and the labels below it."""
    code, names = _map_code(context, weighted), context.classes
    if code == "weight":
        return "rising", [(0.0, "0"), (1 / MOST_WEIGHT, "1"), (0.5, "2"), (1.0, f"{MOST_WEIGHT:g} or more")]
    if code == "number":
        low, high = context.range_of(context.outcome)
        digits = 0 if float(low).is_integer() and float(high).is_integer() else digits_of(low, high)
        return "rising", [(0.0, number(low, digits)), (1.0, number(high, digits))]
    if code == "grade":
        return "rising", [(0.0, names[0]), (1.0, names[-1])]
    if pair := positive_and_other(context):
        return "two", [(0.0, f"0 %: {pair[1]}"), (0.5, "50 %"), (1.0, f"100 %: {pair[0]}")]
    return "rising", [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")]


def _result(context: ReportContext, row: pd.Series) -> str:
    """The reference and the prediction of a case."""
    if not context.classes:
        digits = digits_of(*context.range_of(context.outcome))
        return f"reference {number(row['y_true'], digits)}, predicted {number(row['y_pred'], digits)}"
    truth, predicted = (
        class_name(context.study, context.outcome, context.classes[int(row[key])]) for key in ("y_true", "y_pred")
    )
    return f"reference {truth}, predicted {predicted} ({probability(float(row[f'p{int(row.y_pred)}']))})"


def weights_summary(whole: pd.DataFrame, path: str) -> str:
    """The smallest number of tiles with half of the weight of a case, and the share of the weight on this slide.

    >>> table = pd.DataFrame({"path": ["a"] * 3, "tile_side": [64] * 3, "weight": [0.1, 0.7, 0.2]})
    >>> weights_summary(table, "a")
    'half of the weight in 1 of 3 tiles; 3 of them and 100 % of the weight on this slide'
    """
    weights, on_slide = whole["weight"].to_numpy(float), (whole["path"] == path).to_numpy()
    summed = np.cumsum(np.sort(weights)[::-1])
    # Weights are kept in single precision: what misses the half by that much reaches it.
    half = int(np.searchsorted(summed, summed[-1] * (0.5 - 1e-6)) + 1)
    noun = "tile" if (whole["tile_side"] >= 0).all() else "tile or image"
    here = f"{int(on_slide.sum()):,} of them and {probability(float(weights[on_slide].sum() / summed[-1]))}"
    count = counted(len(weights), noun, "" if noun == "tile" else "tiles and images")
    return f"half of the weight in {half:,} of {count}; {here} of the weight on this slide"


def tiles_summary(context: ReportContext, tiles: pd.DataFrame) -> str:
    """What is predicted for the tiles of a slide one by one."""
    count = counted(len(tiles), "tile")
    if not context.classes:
        digits = digits_of(*context.range_of(context.outcome))
        quartiles = np.quantile(tiles["y_pred"].to_numpy(float), [0.5, 0.25, 0.75])
        middle, low, high = (number(value, digits) for value in quartiles)
        return f"{count}: median {middle}, half of them between {low} and {high}"
    counts = np.bincount(tiles["y_pred"].to_numpy(int), minlength=len(context.classes))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    names = [class_name(context.study, context.outcome, context.classes[i]) for i in order]
    return f"{count}: " + ", ".join(f"{int(counts[i]):,} {name}" for i, name in zip(order, names, strict=True))
