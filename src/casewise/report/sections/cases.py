"""Single visits: one from photographs to panels, and those with the largest errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from casewise.report.context import ReportContext
from casewise.report.figures.pictures import as_picture, data_uri, panel_uri
from casewise.report.figures.slides import crop_of, cropped
from casewise.report.formatting import digits_of, display_name, number, signed
from casewise.report.sections.terminology import place_of

if TYPE_CHECKING:
    from casewise.modalities.base import Overview

MOST_PHOTOGRAPHS = 12
MOST_PANELS = 8
MOST_SLIDES = 3
MOST_WORST = 6
MOST_TARGETS = 8


@dataclass(frozen=True)
class Prepared:
    """One panel's photographs and tiles as data URIs, and the panel itself where it is more than its one tile."""

    region: str
    photographs: list[str]
    tiles: list[str]
    panel: str | None
    left_out: int


@dataclass(frozen=True)
class Seen:
    """One case with a large error: what was seen, and both scores."""

    place: str
    truth: str
    predicted: str
    difference: str
    panels: list[tuple[str, str]]
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def prepared(material: ReportContext) -> dict[str, Any] | None:
    """From photographs to panels for one visit: of those with the most images, the one with the highest score."""
    panels = material.panels
    if panels.empty:
        return None
    case = illustrated(material)
    own = panels[panels["case"] == case]
    shown, size = [], material.study.images.size
    bag = material.study.panels.pooling == "attention"
    slots = 1 if bag else material.study.panels.slots
    for row in own.head(MOST_PANELS).itertuples():
        numbers = [int(n) for n in row.tiles if int(n) >= 0]
        some = numbers[:MOST_PHOTOGRAPHS]
        if not some:
            continue
        photographs = [p for n in some if (p := material.photograph(n)) is not None]
        tiles = [data_uri(as_picture(tile), longest=size) for tile in material.tiles(some)]
        several = slots > 1
        panel = panel_uri(material, numbers, longest=400) if several else None
        uris = [data_uri(photograph, longest=240) for photograph in photographs]
        shown.append(Prepared(str(row.region or ""), uris, tiles, panel, len(numbers) - len(some)))
    if not shown:
        return None
    first = own.iloc[0]
    return {
        "panels": shown,
        "place": place_of(first[["subject", "visit"]].to_dict()),
        "size": size,
        "grid": f"{material.study.panels.rows} × {material.study.panels.columns}",
        "slots": slots,
        "bag": bag,
        "missing": sum(len(p.tiles) - len(p.photographs) for p in shown),
        "left_out": max(0, len(own) - MOST_PANELS),
        "more": not bag and any(len(list(row.tiles)) > slots for row in own.itertuples()),
    }


def illustrated(material: ReportContext) -> str:
    """The case that section 8 shows; the same for the same material."""
    counts = material.panels.assign(images=material.panels["tiles"].map(len)).groupby("case", sort=False)
    table = pd.DataFrame({"panels": counts.size(), "images": counts["images"].sum()})
    truth = material.final[material.final["target"] == material.study.primary_outcome].dropna(subset=["y_true"])
    table["score"] = truth.groupby("case")["y_true"].max().reindex(table.index).fillna(-np.inf)
    return str(table.sort_values(["panels", "images", "score"], ascending=False, kind="stable").index[0])


def worst_cases(material: ReportContext) -> dict[str, Any] | None:
    """The largest errors of the shown learner, each with its panels and what was predicted for their parts."""
    rows = material.chosen
    if rows.empty:
        return None
    digits = digits_of(*material.range_of(material.study.primary_outcome))
    error = (rows["y_pred"] - rows["y_true"]).abs()
    order = error.sort_values(ascending=False, kind="stable").index[:MOST_WORST]
    seen = []
    for row in rows.loc[order].to_dict("records"):
        columns, lines = _details(material, row)
        seen.append(
            Seen(
                place_of(row),
                number(row["y_true"], digits),
                number(row["y_pred"], digits),
                signed(row["y_pred"] - row["y_true"], digits),
                panels_of(material, row),
                columns,
                lines,
            )
        )
    return {"cases": seen, "total": len(rows)}


def slides_of(material: ReportContext, case: str) -> list[tuple[str, Overview]]:
    """The slides of a case that can be shown, those with the most tiles first."""
    images = material.cohort_images
    if "tile_side" not in images:
        return []
    own = images[(images["case"] == case) & (images["tile_side"] >= 0)]
    paths = own["path"].value_counts(sort=True).index
    return [(str(path), slide) for path in paths if (slide := material.slide(str(path))) is not None]


def panels_of(material: ReportContext, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Region and picture of each panel that this prediction was made from; of slides their names and small pictures.

    Where panels show slices of one scan, each channel's name and central panel.
    """
    if grids := material.grids(str(row["case"])):
        return [(name, data_uri(panel, longest=300)) for name, panel in grids]
    if slides := slides_of(material, str(row["case"])):
        shown = [(Path(path).name, cropped(slide, crop_of(slide))) for path, slide in slides[:MOST_SLIDES]]
        return [(name, data_uri(picture, longest=300)) for name, picture in shown]
    own = material.panels[material.panels["case"] == row["case"]]
    if row.get("region"):
        own = own[own["region"] == row["region"]]
    if row.get("image"):
        images = material.cohort_images
        numbers = set(images.loc[images["path"].astype(str) == str(row["image"]), "image"])
        own = own[[bool(numbers & set(tiles)) for tiles in own["tiles"]]]
    found = [
        (str(p.region or ""), panel_uri(material, list(p.tiles), longest=256))
        for p in own.head(MOST_PANELS).itertuples()
    ]
    return [(region, uri) for region, uri in found if uri]


def _details(material: ReportContext, row: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """`model / physician` of every other target of this case, a line a region."""
    study, table = material.study, material.final
    mine = table["model"].eq(material.learner) & table["stage"].eq(material.stage) & table["case"].eq(row["case"])
    others = table[mine & table["target"].ne(study.primary_outcome)]
    order = [name for name in [*study.targets, *study.scores] if name in set(others["target"])][:MOST_TARGETS]
    if not order:
        return [], []
    known = [region for region in study.regions if region in set(others["region"])]
    regions = known + [region for region in dict.fromkeys(others["region"]) if region not in known]
    lines = []
    for region in regions[:MOST_PANELS]:
        part = others[others["region"] == region].groupby("target")[["y_pred", "y_true"]].mean()
        cells = []
        for name in order:
            if name not in part.index:
                cells.append("")
                continue
            whole = name in study.targets and study.targets[name].integer
            model, physician = part.loc[name, "y_pred"], part.loc[name, "y_true"]
            cells.append(f"{number(model, 1)} / {number(physician, 0 if whole else 1)}")
        lines.append((region, cells))
    return [display_name(study, name) for name in order], lines
