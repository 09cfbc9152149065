"""Slides: the selected tiles, and maps of the predictions for each tile, drawn on the slide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.report.context import ReportContext
from casewise.report.figures import slides as draw
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.formatting import case_label, class_name, digits_of, display_name, number
from casewise.report.sections import cases
from casewise.report.target_kind_sections import kind_report
from casewise.report.terms import positive_and_other
from casewise.study.learners import without_baselines

if TYPE_CHECKING:
    from casewise.modalities.base import Overview

MOST_TILES = 18
MOST_SLIDES = 3
CORRECT, WRONG, UNDECIDED = 2, 2, 2
# Weights of attention are drawn up to so many times an even share.
MOST_WEIGHT = 4.0


def section(context: ReportContext) -> dict[str, Any] | None:
    """The selected tiles, shown on one slide, and maps of a few cases; None where no slide was cut."""
    images, tiles = context.cohort_images, context.study.modality_settings
    if "tile_side" not in images or tiles is None:
        return None
    tile_rows = images[images["tile_side"] >= 0]
    return {
        "slides": tile_rows["path"].nunique(),
        "tiles": len(tile_rows),
        "others": len(images) - len(tile_rows),
        "size": context.study.images.size,
        "settings": tiles,
        "microns": context.study.images.size * tiles.mpp if tiles.mpp is not None else None,
        "example": _example(context, tile_rows),
        "maps": maps(context),
    }


def case_pictures(context: ReportContext, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and small pictures of the case's slides; of a case without slides its panels."""
    if not (slides := slides_of(context, str(row["case"]))):
        return cases.case_pictures(context, row)
    shown = [(Path(path).name, draw.cropped(slide, draw.crop_of(slide))) for path, slide in slides[:MOST_SLIDES]]
    return [(name, data_uri(picture, longest=300)) for name, picture in shown]


def slides_of(context: ReportContext, case: str) -> list[tuple[str, Overview]]:
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


def _example(context: ReportContext, tiles: pd.DataFrame) -> dict[str, Any] | None:
    """The slide with about the middle number of tiles, and some of them as the network sees them."""
    counts = tiles.groupby("path", sort=True).size().sort_values(kind="stable")
    path = str(counts.index[len(counts) // 2])
    slide = context.slide(path)
    if slide is None:
        return None
    slide_tiles = tiles[tiles["path"] == path]
    rows = slide_tiles["image"].to_numpy()[
        np.unique(np.linspace(0, len(slide_tiles) - 1, MOST_TILES).round().astype(int))
    ]
    pictures = [data_uri(as_picture(tile), longest=context.study.images.size) for tile in context.tiles(rows.tolist())]
    return {
        "file": short_path(path),
        "label": case_label(slide_tiles.iloc[0][["subject", "visit"]].to_dict()),
        "drawing": draw.taken(slide),
        "count": len(slide),
        "candidates": slide.candidates,
        "pictures": pictures,
        "shown": len(pictures),
        "all": len(slide_tiles),
    }


# ------------------------------------------------------------------------------------------------------------- maps


def maps(context: ReportContext) -> dict[str, Any] | None:
    """A few cases predicted out of fold, each with its maps; None where no tile's own prediction is known."""
    table = context.tile_predictions
    if table is None or table.empty:
        return None
    model = _model(context, set(without_baselines(table["model"].unique())))
    if model is None:
        return None
    predictions = table[(table["model"] == model) & (table["stage"] == "oof")]
    weighted = "weight" in predictions and bool(predictions["weight"].notna().any())
    predictions = predictions[predictions["target"].isin(["", context.outcome])]
    rows = context.rows("oof", model)
    rows = rows[rows["case"].isin(set(predictions.loc[predictions["tile_side"] >= 0, "case"]))].reset_index(drop=True)
    if rows.empty:
        return None
    groups = []
    for code, row_numbers in _case_groups(context, rows):
        shown = [case for i in row_numbers if (case := _case(context, rows.loc[i], predictions, weighted))]
        if shown:
            groups.append((code, shown))
    if not groups:
        return None
    scale, ticks = _scale(context, weighted)
    return {
        "groups": groups,
        "none_wrong": bool(context.classes) and not int((rows["y_pred"] != rows["y_true"]).sum()),
        "model": model,
        "combined": model != context.learner,
        "scale": draw.colour_bar(scale, ticks),
        "ends": (ticks[0][1], ticks[-1][1]),
        "code": _map_code(context, weighted),
        "weighted": weighted,
        "pooling": context.study.panels.pooling,
    }


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


def _case(context: ReportContext, row: pd.Series, predictions: pd.DataFrame, weighted: bool) -> dict[str, Any] | None:
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
    overlap = getattr(context.study.modality_settings, "overlap", 0.0)
    stride = max(round(int(boxes[0, 2]) * (1 - overlap)), 1)
    scale, _ = _scale(context, weighted)
    weights = whole["weight"].to_numpy(float) if weighted else None
    return {
        "label": case_label(row.to_dict()),
        "file": short_path(path),
        "slides": len(slides),
        "result": _result(context, row),
        "weights": weights_summary(whole, path) if weighted else None,
        "tiles": None if weighted else _tiles_summary(context, tiles),
        "slide": draw.plain(slide),
        "maps": [
            (title, draw.heat(slide, boxes, values, stride=stride, scale=scale))
            for title, values in _values(context, row, tiles, weights)
        ],
    }


def _map_code(context: ReportContext, weighted: bool) -> str:
    """The meaning of a colour: `weight`, `number`, `grade`, `positive` class or the `class` above the map."""
    if weighted:
        return "weight"
    if context.classes and not kind_report(context.kind).ordered:
        return "positive" if positive_and_other(context) else "class"
    return "grade" if context.classes else "number"


def _values(
    context: ReportContext, row: pd.Series, tiles: pd.DataFrame, weights: np.ndarray | None
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """What is drawn, with a code and names for its title: (N,) from 0 to 1; `weights`: of all tiles of the case."""
    study, outcome, names = context.study, context.outcome, context.classes
    code = _map_code(context, weights is not None)
    if weights is not None:
        # An even share is that of the case: its weights sum to one over all its slides.
        even = weights.sum() / len(weights)
        yield {"code": code}, tiles["weight"].to_numpy(float) / even / MOST_WEIGHT
        return
    if code == "number":
        low, high = study.range_of(outcome)
        yield (
            {"code": code, "name": display_name(study, outcome)},
            (tiles["y_pred"].to_numpy(float) - low) / (high - low),
        )
        return
    values = tiles[[f"p{i}" for i in range(len(names))]].to_numpy(float)
    if code == "grade":
        yield {"code": code}, values @ np.arange(len(names)) / (len(names) - 1)
        return
    if positive := study.positive_of(outcome):
        yield {"code": code, "name": class_name(study, outcome, positive)}, values[:, names.index(positive)]
        return
    truth, predicted = int(row["y_true"]), int(row["y_pred"])
    roles = {truth: ["reference"]}
    roles.setdefault(predicted, []).append("predicted")
    for number_, role in roles.items():
        yield {"code": code, "name": class_name(study, outcome, names[number_]), "roles": role}, values[:, number_]


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


def _result(context: ReportContext, row: pd.Series) -> dict[str, Any]:
    """The reference and the prediction of a case."""
    if not context.classes:
        digits = digits_of(*context.range_of(context.outcome))
        return {"reference": number(row["y_true"], digits), "predicted": number(row["y_pred"], digits), "p": None}
    truth, predicted = (
        class_name(context.study, context.outcome, context.classes[int(row[key])]) for key in ("y_true", "y_pred")
    )
    return {"reference": truth, "predicted": predicted, "p": float(row[f"p{int(row.y_pred)}"])}


def weights_summary(whole: pd.DataFrame, path: str) -> dict[str, Any]:
    """The smallest number of tiles with half of the weight of a case, and the share of the weight on this slide."""
    weights, on_slide = whole["weight"].to_numpy(float), (whole["path"] == path).to_numpy()
    summed = np.cumsum(np.sort(weights)[::-1])
    # Weights are kept in single precision: what misses the half by that much reaches it.
    half = int(np.searchsorted(summed, summed[-1] * (0.5 - 1e-6)) + 1)
    return {
        "count": len(weights),
        "only_tiles": bool((whole["tile_side"] >= 0).all()),
        "half": half,
        "here": None if on_slide.all() else int(on_slide.sum()),
        "share": float(weights[on_slide].sum() / summed[-1]),
    }


def _tiles_summary(context: ReportContext, tiles: pd.DataFrame) -> dict[str, Any]:
    """What is predicted for the tiles of a slide one by one."""
    if not context.classes:
        digits = digits_of(*context.range_of(context.outcome))
        quartiles = np.quantile(tiles["y_pred"].to_numpy(float), [0.25, 0.5, 0.75])
        return {"count": len(tiles), "quartiles": [number(value, digits) for value in quartiles], "classes": []}
    names = context.classes
    counts = np.bincount(tiles["y_pred"].to_numpy(int), minlength=len(names))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    named = [(int(counts[i]), class_name(context.study, context.outcome, names[i])) for i in order]
    return {"count": len(tiles), "quartiles": [], "classes": named}
