"""The section of the report on slides: the selected tiles, and maps of the predictions for each tile on the slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.plugins.slides import drawings as draw
from casewise.plugins.slides.cohort import short_path
from casewise.plugins.slides.settings import tiles_of
from casewise.report.blocks import Block, Facts, Fold, Heading, Picture, Pictures, Plot, Plots, Section, Text
from casewise.report.context import ReportContext
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.formatting import capital, case_label, class_name, counted, listed, number, percent, probability
from casewise.report.sections import preparation
from casewise.study.images import POOLINGS
from casewise.study.learners import learner_name, without_baselines

if TYPE_CHECKING:
    from casewise.plugins.slides.tiles import PlannedSlide

MOST_TILES = 18
MOST_SLIDES = 3
PER_GROUP = 2
# Weights are drawn up to this many times an even share.
MOST_WEIGHT = 4.0
SLIDE = "maps slide"
TILES = (
    "Green: the edge of the detected tissue. Frames: the tiles. Check whether tissue was left out, or whether glass,"
    " ink or folds were included."
)
GROUPS = {"correct": "Most confident, correct", "wrong": "Most confident, wrong"}
WEIGHTED = "Tiles with a large weight dominate the prediction; this does not show that there is disease in them."
LABELLED = (
    "Tiles were trained with the label of their whole case: a colour shows how the network rates a tile, not that there"
    " is disease in it."
)
READING = (
    "Each slide as it is, and in grey with its tiles coloured, predicted by a network that was not trained on it. Areas"
    " without colour were not used. Green: the edge of the tissue."
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
    fold = Fold("Maps of the predictions for each tile", maps(context))
    return Section("slides", "Slides and tiles", [Facts(facts), *_example(context, tile_rows), fold])


def case_pictures(context: ReportContext, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and small pictures of the case's slides; of a case without slides its panels."""
    if not (slides := _slides_of(context, str(row["case"]))):
        return preparation.case_pictures(context, row)
    shown = [(Path(path).name, draw.cropped(slide, draw.crop_of(slide))) for path, slide in slides[:MOST_SLIDES]]
    return [(name, data_uri(picture, longest=300)) for name, picture in shown]


def _slides_of(context: ReportContext, case: str) -> list[tuple[str, PlannedSlide]]:
    """The slides of a case that can be shown, those with the most tiles first."""
    images = context.cohort_images
    if "tile_side" not in images:
        return []
    case_tiles = images[(images["case"] == case) & (images["tile_side"] >= 0)]
    paths = case_tiles["path"].value_counts(sort=True).index
    return [(str(path), slide) for path in paths if (slide := context.slide(str(path))) is not None]


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
        Picture(data_uri(as_picture(tile), longest=context.study.images.size), f"Tile {number}")
        for number, tile in enumerate(context.tiles(rows["image"].to_numpy()[shown].tolist()), start=1)
    ]
    count = f"{len(slide):,} of {slide.candidates:,} tiles with enough tissue"
    drawing = Plot(draw.taken(slide), f"Slide {short_path(path)}: the tissue outlined, its tiles framed.")
    return [
        Plots([drawing], f"{capital(label)}, {short_path(path)}: {count}. {TILES}", SLIDE),
        Pictures(pictures, f"{len(pictures)} of its tiles as the network receives them", "pictures tiny"),
    ]


# ------------------------------------------------------------------------------------------------------------- maps


@dataclass(frozen=True)
class _Painting:
    """The meaning of tile colours, their scale with its labels, and the titles and values (N,) of a case's maps."""

    meaning: str
    scale: draw.Scale
    ticks: list[tuple[float, str]]
    values: Callable[[pd.Series, pd.DataFrame], list[tuple[str, np.ndarray]]]


def maps(context: ReportContext) -> list[Block]:
    """A few cases predicted out of fold, each with its maps; nothing of numbers, or without predictions of tiles."""
    table = context.tile_predictions
    if table is None or table.empty or not context.classes:
        return []
    model = _model(context, set(without_baselines(table["model"].unique())))
    if model is None:
        return []
    predictions = table[(table["model"] == model) & (table["stage"] == context.choosing)]
    predictions = predictions[predictions["target"].isin(["", context.outcome])]
    weighted = "weight" in predictions and bool(predictions["weight"].notna().any())
    if weighted:
        # the even share is relative to the case: its weights sum to one over all its slides
        even = predictions.groupby("case")["weight"].transform("mean")
        predictions = predictions.assign(share=predictions["weight"] / even / MOST_WEIGHT)
    rows = context.rows(context.choosing, model)
    rows = rows[rows["case"].isin(set(predictions.loc[predictions["tile_side"] >= 0, "case"]))].reset_index(drop=True)
    painting = _painting(context, weighted)
    groups: list[Block] = []
    for code, chosen in _case_groups(context, rows).items() if len(rows) else ():
        shown = [plots for _, row in chosen.iterrows() if (plots := _case(context, row, predictions, painting))]
        groups += [Heading(GROUPS[code]), *shown] if shown else []
    if not groups:
        return []
    pooling = context.study.panels.pooling
    how = f"weighted by {pooling}" if weighted else f"the {POOLINGS[pooling].chosen} prediction over its tiles"
    facts = [("Network", learner_name(model)), ("Colour", painting.meaning), ("Prediction of a case", how)]
    facts.append(("Cases predicted wrongly", f"{int((rows['y_pred'] != rows['y_true']).sum())} of {len(rows)}"))
    ends = f"The colours, from {painting.ticks[0][1]} to {painting.ticks[-1][1]}."
    colours = Plots([Plot(draw.colour_bar(painting.scale, painting.ticks), ends)])
    return [Facts(facts), Text(f"{READING} {WEIGHTED if weighted else LABELLED}", note=True), colours, *groups]


def _model(context: ReportContext, names: set[str]) -> str | None:
    """The network shown: the report's own, or where that combines several the best of them out of fold."""
    if context.learner in names:
        return context.learner
    figures = {
        name: context.metric(context.choosing, name, context.merit) for name in context.learners if name in names
    }
    merits = {name: figure["value"] for name, figure in figures.items() if figure}
    return max(merits, key=lambda name: merits[name]) if merits else next(iter(sorted(names)), None)


def _case_groups(context: ReportContext, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Groups of rows by code: the surest correct and the surest wrong ones."""
    sure = rows[[f"p{i}" for i in range(len(context.classes))]].to_numpy(float)
    rows = rows.iloc[np.argsort(-sure[range(len(rows)), rows["y_pred"].to_numpy(int)], kind="stable")]
    correct, wrong = rows[rows["y_pred"] == rows["y_true"]], rows[rows["y_pred"] != rows["y_true"]]
    # first one case of each class: a map is read best next to another class's map
    correct = correct.iloc[np.argsort(correct.duplicated("y_pred"), kind="stable")]
    return {"correct": correct[: max(PER_GROUP, min(len(context.classes), 3))], "wrong": wrong[:PER_GROUP]}


def _case(context: ReportContext, row: pd.Series, predictions: pd.DataFrame, painting: _Painting) -> Plots | None:
    """One case on its slide with the most tiles."""
    slides = _slides_of(context, str(row["case"]))
    if not slides:
        return None
    path, slide = slides[0]
    tiles = predictions[(predictions["case"] == row["case"]) & (predictions["path"] == path)]
    if tiles.empty:
        return None
    boxes = tiles[["tile_x", "tile_y", "tile_side"]].to_numpy(np.int64)
    stride = int(boxes[0, 2])
    label = case_label(row.to_dict())
    plots = [Plot(draw.plain(slide), f"{label}: the slide.", "the slide")]
    for title, values in painting.values(row, tiles):
        drawing = draw.heat(slide, boxes, values, stride=stride, scale=painting.scale)
        plots.append(Plot(drawing, f"{label}: {title}, tile by tile.", title))
    where = f"{short_path(path)}, 1 of {counted(len(slides), 'slide')}"
    return Plots(plots, f"{capital(label)}; {_result(context, row)}; {where}", SLIDE)


def _painting(context: ReportContext, weighted: bool) -> _Painting:
    """How tiles are coloured: by their weights, or by the probabilities of classes and grades."""
    study, outcome, names = context.study, context.outcome, context.classes
    if weighted:
        ticks = [(0.0, "0"), (1 / MOST_WEIGHT, "1"), (0.5, "2"), (1.0, f"{MOST_WEIGHT:g} or more")]
        meaning = "the weight of a tile in its case; 1 is an equal share"
        return _Painting(
            meaning, "rising", ticks, lambda row, tiles: [("weight of each tile", tiles["share"].to_numpy(float))]
        )

    def probability_of(index: int, tiles: pd.DataFrame, role: str = "") -> tuple[str, np.ndarray]:
        return f"probability of {class_name(study, outcome, names[index])}{role}", tiles[f"p{index}"].to_numpy(float)

    if (positive_class := study.positive_of(outcome)) is not None:
        positive = names.index(positive_class)
        other = next(name for name in names if name != positive_class)
        ends = [class_name(study, outcome, name) for name in (other, positive_class)]
        ticks = [(0.0, f"0 %: {ends[0]}"), (0.5, "50 %"), (1.0, f"100 %: {ends[1]}")]
        meaning = "the probability of the positive class predicted for a tile"
        return _Painting(meaning, "two", ticks, lambda row, tiles: [probability_of(positive, tiles)])

    def of_both(row: pd.Series, tiles: pd.DataFrame) -> list[tuple[str, np.ndarray]]:
        roles = {int(row["y_true"]): ["reference"]}
        roles.setdefault(int(row["y_pred"]), []).append("predicted")
        return [probability_of(index, tiles, f" ({listed(role)})") for index, role in roles.items()]

    ticks = [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")]
    return _Painting("the probability of the class above the map predicted for a tile", "rising", ticks, of_both)


def _result(context: ReportContext, row: pd.Series) -> str:
    """The reference and the prediction of a case."""
    truth, predicted = (
        class_name(context.study, context.outcome, context.classes[int(row[key])]) for key in ("y_true", "y_pred")
    )
    return f"reference {truth}, predicted {predicted} ({probability(float(row[f'p{int(row.y_pred)}']))})"
