"""Slides: which tiles were taken of them, and maps of what the network made of each tile, drawn back on the slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from casewise.report.context import ReportContext
from casewise.report.figures import slides as draw
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.formatting import class_name, counted, digits_of, display_name, listed, number
from casewise.report.sections.cases import slides_of
from casewise.report.sections.high_confidence import percent
from casewise.report.sections.terminology import Words, place_of

MOST_TILES = 18
RIGHT, WRONG, UNDECIDED = 2, 2, 2
# Weights of attention are drawn up to so many times an even share.
MOST_WEIGHT = 4.0


@dataclass(frozen=True)
class Map:
    """One slide with its tiles coloured, and what the colour says."""

    title: str
    figure: Markup


@dataclass(frozen=True)
class Shown:
    """One case: what was recorded and predicted, its slide, its maps, and in words what the tiles say."""

    place: str
    file: str
    told: str
    tiles: str
    slide: Markup
    maps: list[Map]


def is_cut(material: ReportContext) -> bool:
    """Whether the study's images are tiles of slides."""
    return "tile_side" in material.cohort_images


def section(material: ReportContext) -> dict[str, Any] | None:
    """What was taken of the slides, shown on one, and maps of a few cases; None where no slide was cut."""
    if not is_cut(material):
        return None
    images = material.cohort_images
    tiles = images[images["tile_side"] >= 0]
    example = _example(material, tiles)
    return {
        "slides": tiles["path"].nunique(),
        "tiles": len(tiles),
        "others": len(images) - len(tiles),
        "size": material.study.images.size,
        "resolution": _resolution(material),
        "share": percent(material.study.tiles.min_tissue) if material.study.tiles else "",
        "example": example,
        "maps": maps(material),
    }


def _resolution(material: ReportContext) -> str:
    tiles = material.study.tiles
    if tiles is None:
        return ""
    if tiles.mpp is not None:
        size = material.study.images.size
        return f"at {tiles.mpp:g} µm a pixel, {number(size * tiles.mpp, 0)} µm a side"
    return f"at {tiles.magnification:g}×" if tiles.magnification else f"at level {tiles.level or 0}"


def _file(path: str) -> str:
    """A file as a reader finds it: many are called alike in folders of their own.

    >>> _file("/data/B0001/1.tiff")
    'B0001/1.tiff'
    """
    return "/".join(Path(path).parts[-2:])


def _example(material: ReportContext, tiles: pd.DataFrame) -> dict[str, Any] | None:
    """The slide with about the middle number of tiles, and some of them as the network sees them."""
    counts = tiles.groupby("path", sort=True).size().sort_values(kind="stable")
    path = str(counts.index[len(counts) // 2])
    slide = material.slide(path)
    if slide is None:
        return None
    own = tiles[tiles["path"] == path]
    chosen = own["image"].to_numpy()[np.unique(np.linspace(0, len(own) - 1, MOST_TILES).round().astype(int))]
    pictures = [
        data_uri(as_picture(tile), longest=material.study.images.size) for tile in material.tiles(chosen.tolist())
    ]
    more = f" of {slide.candidates:,} with enough tissue" if slide.candidates > len(slide) else ""
    return {
        "file": _file(path),
        "place": place_of(own.iloc[0][["subject", "visit"]].to_dict()),
        "figure": draw.taken(slide, alt=f"Slide {Path(path).name}: the tissue outlined, {len(slide)} tiles framed."),
        "count": f"{counted(len(slide), 'tile')}{more}",
        "pictures": pictures,
        "shown": len(pictures),
        "all": len(own),
    }


def maps(material: ReportContext) -> dict[str, Any] | None:
    """A few cases predicted out of fold, each with its maps; None where no tile's own prediction is known."""
    table = material.tile_predictions
    if table is None or table.empty:
        return None
    model = _model(material, set(table["model"]))
    if model is None:
        return None
    mine = table[(table["model"] == model) & (table["stage"] == "oof")]
    weighed = "weight" in mine and bool(mine["weight"].notna().any())
    mine = mine[mine["target"].isin(["", material.study.primary_outcome])]
    rows = material.rows("oof", model)
    rows = rows[rows["case"].isin(set(mine.loc[mine["tile_side"] >= 0, "case"]))].reset_index(drop=True)
    if rows.empty:
        return None
    groups = []
    for title, chosen in _chosen(material, rows):
        cases = [one for i in chosen if (one := _shown(material, rows.loc[i], mine, weighed))]
        if cases:
            groups.append((title, cases))
    if not groups:
        return None
    scale, ticks, about = _scale(material, weighed)
    wrong = int((rows["y_pred"] != rows["y_true"]).sum())
    return {
        "groups": groups,
        "none_wrong": material.kind != "regression" and not wrong,
        "model": model,
        "combined": model != material.learner,
        "scale": draw.colour_bar(scale, ticks, alt=f"The colours, from {ticks[0][1]} to {ticks[-1][1]}."),
        "about": about,
        "weighed": weighed,
        "gather": material.study.panels.pooling,
    }


def _model(material: ReportContext, known: set[str]) -> str | None:
    """The network that is shown: the report's own, or where that combines several the best of them out of fold."""
    if material.learner in known:
        return material.learner
    found = {
        m: f["value"] for m in material.learners if m in known and (f := material.metric("oof", m, material.merit))
    }
    return max(found, key=lambda m: found[m]) if found else next(iter(sorted(known)), None)


def _chosen(material: ReportContext, rows: pd.DataFrame) -> Iterator[tuple[str, list[int]]]:
    """Groups of rows: of classes the surest right and wrong and the undecided, of numbers the best and worst."""
    if material.kind == "regression":
        error = (rows["y_pred"] - rows["y_true"]).abs().sort_values(kind="stable")
        yield "Closest to what was recorded", list(error.index[:RIGHT])
        yield "Furthest from what was recorded", list(error.index[::-1][: min(WRONG, len(rows) - RIGHT)])
        return
    names = material.study.classes_of(material.study.primary_outcome)
    values = rows[[f"p{i}" for i in range(len(names))]].to_numpy(float)
    named = rows["y_pred"].to_numpy(int)
    given = values[range(len(rows)), named]
    right = (rows["y_pred"] == rows["y_true"]).to_numpy()
    order = np.argsort(-given, kind="stable")
    surest = [int(i) for i in order if right[i]]
    # One of each class first: a map says little without one of the other kind beside it.
    firsts = [i for n, i in enumerate(surest) if named[i] not in named[surest[:n]]]
    chosen = [*firsts, *(i for i in surest if i not in firsts)][: max(RIGHT, min(len(names), 3))]
    yield "Surest, and right", chosen
    wrong = [int(i) for i in order if not right[i]][:WRONG]
    yield "Surest, and wrong", wrong
    ranked = np.sort(values, axis=1)
    undecided = [int(i) for i in np.argsort(ranked[:, -1] - ranked[:, -2], kind="stable")]
    yield "Undecided", [i for i in undecided if i not in chosen and i not in wrong][:UNDECIDED]


def _shown(material: ReportContext, row: pd.Series, mine: pd.DataFrame, weighed: bool) -> Shown | None:
    """One case on its slide with the most tiles."""
    known = slides_of(material, str(row["case"]))
    if not known:
        return None
    path, slide = known[0]
    whole = mine[mine["case"] == row["case"]]
    tiles = whole[whole["path"] == path]
    if tiles.empty:
        return None
    boxes = tiles[["tile_x", "tile_y", "tile_side"]].to_numpy(np.int64)
    overlap = material.study.tiles.overlap if material.study.tiles else 0.0
    stride = max(round(int(boxes[0, 2]) * (1 - overlap)), 1)
    file = _file(path) + (f", 1 of {len(known)} slides of this case" if len(known) > 1 else "")
    name = place_of(row.to_dict())
    scale, _, _ = _scale(material, weighed)
    drawn = [
        Map(title, draw.heat(slide, boxes, values, stride=stride, scale=scale, alt=f"{name}: {title}, tile by tile."))
        for title, values in _values(material, row, tiles, whole["weight"].to_numpy(float) if weighed else None)
    ]
    own = draw.plain(slide, alt=f"{name}: the slide.")
    said = _of_weights(whole, path) if weighed else _of_tiles(material, tiles)
    return Shown(name[0].upper() + name[1:], file, _told(material, row), said, own, drawn)


def _values(
    material: ReportContext, row: pd.Series, tiles: pd.DataFrame, weights: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """What is drawn, with its title: (N,) from 0 to 1 on the colour scale; `weights`: of all tiles of the case."""
    study, outcome = material.study, material.study.primary_outcome
    if weights is not None:
        # An even share is that of the case: its weights sum to one over all its slides.
        even = weights.sum() / len(weights)
        yield "How much each tile counts", tiles["weight"].to_numpy(float) / even / MOST_WEIGHT
        return
    if material.kind == "regression":
        low, high = study.range_of(outcome)
        yield display_name(study, outcome), (tiles["y_pred"].to_numpy(float) - low) / (high - low)
        return
    names = study.classes_of(outcome)
    values = tiles[[f"p{i}" for i in range(len(names))]].to_numpy(float)
    if material.kind == "ordinal":
        yield "Expected grade", values @ np.arange(len(names)) / (len(names) - 1)
        return
    if positive := study.positive_of(outcome):
        yield f"Probability of {class_name(study, outcome, positive)}", values[:, names.index(positive)]
        return
    roles: dict[int, str] = {}
    for number_, role in ((int(row["y_true"]), "recorded"), (int(row["y_pred"]), "named")):
        roles[number_] = f"{roles[number_]} and {role}" if number_ in roles else role
    for code, role in roles.items():
        yield f"Probability of {class_name(study, outcome, names[code])} ({role})", values[:, code]


def _scale(material: ReportContext, weighed: bool) -> tuple[draw.Scale, list[tuple[float, str]], str]:
    """The colour scale, the words below it, and what a colour says."""
    study, outcome = material.study, material.study.primary_outcome
    if weighed:
        ticks = [(0.0, "not at all"), (1 / MOST_WEIGHT, "1"), (0.5, "2"), (1.0, f"{MOST_WEIGHT:g} times or more")]
        return "rising", ticks, "how much a tile counts for its case (1 is an even share)"
    names = study.classes_of(outcome)
    if material.kind == "regression":
        low, high = study.range_of(outcome)
        digits = 0 if float(low).is_integer() and float(high).is_integer() else digits_of(low, high)
        return (
            "rising",
            [(0.0, number(low, digits)), (1.0, number(high, digits))],
            f"the {display_name(study, outcome)} that a tile was given",
        )
    if material.kind == "ordinal":
        return "rising", [(0.0, names[0]), (1.0, names[-1])], "the grade that a tile was given on average"
    if positive := study.positive_of(outcome):
        first = class_name(study, outcome, positive)
        other = class_name(study, outcome, next(name for name in names if name != positive))
        ticks = [(0.0, f"0 %: {other}"), (0.5, "50 %"), (1.0, f"100 %: {first}")]
        return "two", ticks, f"the probability of {first} that a tile was given"
    return (
        "rising",
        [(0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")],
        "the probability that a tile was given of the class above the map",
    )


def _told(material: ReportContext, row: pd.Series) -> str:
    """What was recorded and what the case was predicted to be."""
    study, outcome = material.study, material.study.primary_outcome
    if material.kind == "regression":
        words = Words(material)
        return f"Recorded {number(row['y_true'], words.digits)}, predicted {number(row['y_pred'], words.digits)}."
    names = study.classes_of(outcome)
    truth, named = (class_name(study, outcome, names[int(row[k])]) for k in ("y_true", "y_pred"))
    return f"Recorded {truth}, named {named} with a probability of {percent(float(row[f'p{int(row.y_pred)}']))}."


def _of_weights(whole: pd.DataFrame, path: str) -> str:
    """How few tiles of a case carry half of its weight, and how much of it lies on this one of its slides."""
    weights, here = whole["weight"].to_numpy(float), (whole["path"] == path).to_numpy()
    summed = np.cumsum(np.sort(weights)[::-1])
    # Weights are kept in single precision: what misses the half by that much reaches it.
    half = int(np.searchsorted(summed, summed[-1] * (0.5 - 1e-6)) + 1)
    plural = "tiles" if (whole["tile_side"] >= 0).all() else "tiles and images"
    what = counted(len(weights), "tile", plural)
    carried = f"{half:,} {'carries' if half == 1 else 'carry'} half of the weight."
    if here.all():
        return f"Of {what}, {carried}"
    share = percent(float(weights[here].sum() / summed[-1]))
    return f"Of the case’s {what}, {carried} This slide has {here.sum():,} of them, and {share} of the weight."


def _of_tiles(material: ReportContext, tiles: pd.DataFrame) -> str:
    """What the tiles of a slide say one by one."""
    count = len(tiles)
    if material.kind == "regression":
        low, middle, high = np.quantile(tiles["y_pred"].to_numpy(float), [0.25, 0.5, 0.75])
        digits = Words(material).digits
        return (
            f"{counted(count, 'tile')}: {number(middle, digits)} in the middle, half of them between "
            f"{number(low, digits)} and {number(high, digits)}."
        )
    study = material.study
    names = study.classes_of(study.primary_outcome)
    found = np.bincount(tiles["y_pred"].to_numpy(int), minlength=len(names))
    order = [int(i) for i in np.argsort(-found, kind="stable") if found[i]]
    told = [f"{found[i]:,} {class_name(study, study.primary_outcome, names[i])}" for i in order]
    return f"Tile by tile: {'all ' if len(told) == 1 else ''}{listed(told)}."
