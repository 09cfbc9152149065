"""The input of the model: one case from photographs to panels, and how images are prepared."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from casewise.modalities.overlays import place_of
from casewise.plugin import plugins
from casewise.report.blocks import Block, Facts, Fold, Heading, Picture, Pictures, Section
from casewise.report.context import ReportContext, terms_of
from casewise.report.figures.pictures import as_picture, data_uri, panel_uri
from casewise.report.formatting import capital, case_label
from casewise.study.images import FLIPS, POOLINGS, STRENGTHS, Images, Panels
from casewise.study.schema import Study

MOST_PHOTOGRAPHS, MOST_PANELS = 12, 8
FITS = {"pad": "proportions kept", "stretch": "stretched to a square"}
PADDINGS = {"reflect": "mirrored at the edge where it is not square", "black": "the rest of the square is black"}


def module_of(study: Study) -> ModuleType:
    """The report module of the study's modality; by default this module, for photographs.

    A module has `section(context)`, the section on the input of the model or None, and may have `case_pictures(context,
    row)`, names and pictures (data URIs) of the input of one prediction, instead of the pictures of photographs. The
    report imports no plugin: `Plugin.report` names its module.
    """
    modules = (plugin.report for plugin in plugins() if plugin.name == study.modality_name and plugin.report)
    return importlib.import_module(next(modules, __name__))


def of_modality(context: ReportContext) -> Section | None:
    """The section on the input of the model, of the study's modality."""
    section: Section | None = module_of(context.study).section(context)
    return section


def section(context: ReportContext) -> Section | None:
    """From photographs to panels for one visit: of those with the most images, the one with the highest score."""
    if context.panels.empty:
        return None
    terms, study = terms_of(context), context.study
    rows = context.panels[context.panels["case"] == illustrated_case(context)]
    panels = [
        (str(row.region or ""), numbers)
        for row in rows.head(MOST_PANELS).itertuples()
        if (numbers := [int(n) for n in row.tiles if int(n) >= 0])
    ]
    shown = [_pictures(context, region, numbers) for region, numbers in panels]
    blocks: list[Block] = [Facts(facts(study, terms.picture, case_label(rows.iloc[0][["subject", "visit"]].to_dict())))]
    if not any(shown):
        return None
    if _slots(study) == 1:
        caption = f"{capital(terms.picture)} and tile"
        blocks.append(Pictures([picture for pictures in shown for picture in pictures], caption, layout="pictures"))
    else:
        blocks += _flow(panels[0][0], shown[0])
        others = list(zip(panels, shown, strict=True))[1:]
        rest = [block for (region, _), pictures in others for block in _flow(region, pictures)]
        blocks.append(Fold(f"Panels 2 to {len(shown)} of the {len(rows)} of this {terms.case}", rest))
    return Section("preparation", "Model input", blocks, page_only=True)


def facts(study: Study, noun: str, label: str) -> list[tuple[str, str]]:
    """How images are prepared, in training and prediction; the case that is shown."""
    images, panels = study.images, study.panels
    fit = [f"{noun} in {images.size} pixels", FITS.get(images.fit), PADDINGS.get(images.padding)]
    entries = [("Case shown", label), ("Tile", "; ".join(filter(None, fit)))]
    if isinstance(images.mask_overlays, list) and images.mask_overlays:
        entries.append(("Masked in all images", "; ".join(map(place_of, images.mask_overlays))))
    if panels.bags:
        entries.append(("Tiles of a case", f"processed together, {POOLINGS[panels.pooling].tiles}"))
    elif panels.slots > 1:
        entries.append(("Panel", f"{panels.rows} × {panels.columns} tiles; empty slots are black"))
        entries.append(("More tiles than slots", "several panels are predicted and averaged; the first is shown"))
    mirrored = "mean over the image and its mirror image; " if study.trained else ""
    mirrored += "maps of frozen networks: mean over all flips of the image"
    predicted = mirrored if study.test_time_augmentation else "the image as it is; nothing is random"
    training = [("Training", augmentation(study))] if study.trained else []
    return [*entries, *training, ("Prediction", predicted)]


def augmentation(study: Study) -> str:
    """How images vary in training; where its phases differ, in each of them."""
    phases = [study.panels.model_copy(update=phase.variations) for phase in study.recipe.phases] or [study.panels]
    texts = [_augmentation(panels, study.images) for panels in phases]
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"phase {number}: {text}" for number, text in enumerate(texts, 1))


def _augmentation(panels: Panels, images: Images) -> str:
    if panels.fixed:
        text = panels.fixed
    elif panels.varied:
        strengths = [f"{name.replace('_', ' ')} {value:g}" for name in STRENGTHS if (value := getattr(panels, name))]
        changes = [FLIPS.get(panels.flip), "quarter turns" if panels.quarter_turns else None, *strengths]
        if strengths and panels.probability < 1:
            changes.append(f"each change of these strengths with a probability of {100 * panels.probability:g} %")
        stated = ", ".join(filter(None, changes))
        text = f"tiles are augmented at random ({stated})" if stated else "tiles are not augmented"
        text += f", {'and' if stated else 'but'} shuffled" if panels.shuffle else ""
    else:
        text = "tiles are not augmented"
    bars = panels.vary_shape and images.fit == "pad" and images.padding == "reflect"
    return text + ("; where shapes differ, width and place of the bars vary" if bars else "")


def _slots(study: Study) -> int:
    """The number of tiles shown as one panel; a bag has no grid."""
    return 1 if study.panels.bags else study.panels.slots


def _pictures(context: ReportContext, region: str, numbers: list[int]) -> list[Picture]:
    """A panel's photographs, each followed by its tile where a panel is one tile, else the panel behind all of them."""
    noun, where = capital(terms_of(context).picture), f", {region}" if region else ""
    first, size = numbers[:MOST_PHOTOGRAPHS], context.study.images.size
    tiles = context.tiles(first)
    if tiles is None:
        return []
    pictures = []
    for position, (image, tile) in enumerate(zip(first, tiles, strict=True), 1):
        if (photograph := context.photograph(image)) is not None:
            pictures.append(Picture(data_uri(photograph, longest=240), f"{noun} {position}{where}"))
        if _slots(context.study) == 1:
            pictures.append(Picture(data_uri(as_picture(tile), longest=size), f"Tile {position}{where}", region))
    if _slots(context.study) > 1 and (uri := panel_uri(context, numbers, longest=400)):
        pictures.append(Picture(uri, f"Panel{where}: the tiles in a grid"))
    return pictures


def _flow(region: str, pictures: Sequence[Picture]) -> list[Block]:
    """A panel's photographs, and the panel."""
    photographs = Pictures(pictures[:-1], "From these images", layout="pictures")
    return [Heading(region), photographs, Pictures(pictures[-1:], "Panel", layout="panel")]


def illustrated_case(context: ReportContext) -> str:
    """The case shown as an example; the same for the same context."""
    counts = context.panels.assign(images=context.panels["tiles"].map(len)).groupby("case", sort=False)
    table = pd.DataFrame({"panels": counts.size(), "images": counts["images"].sum()})
    truth = context.final[context.final["target"] == context.outcome].dropna(subset=["y_true"])
    table["score"] = truth.groupby("case")["y_true"].max().reindex(table.index).fillna(-np.inf)
    return str(table.sort_values(["panels", "images", "score"], ascending=False, kind="stable").index[0])


def case_pictures(context: ReportContext, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Region and picture of each input panel of this prediction, numbered where their mean predicts."""
    panels = context.panels[context.panels["case"] == row["case"]]
    if row.get("region"):
        panels = panels[panels["region"] == row["region"]]
    if row.get("image"):
        images = context.cohort_images
        numbers = set(images.loc[images["path"].astype(str) == str(row["image"]), "image"])
        panels = panels[[bool(numbers & set(tiles)) for tiles in panels["tiles"]]]
    pictures = []
    for panel in panels.itertuples():
        settings, tiles = context.study.panels, [int(tile) for tile in panel.tiles if int(tile) >= 0]
        size = max(len(tiles), 1) if settings.bags else settings.slots
        views = [tiles[start : start + size] for start in range(0, len(tiles), size)]
        for number, view in enumerate(views, start=1):
            which = f"{number} of {len(views)}" if len(views) > 1 else ""
            pictures.append((" ".join(filter(None, [str(panel.region or ""), which])), view))
    shown = [(name, panel_uri(context, view, longest=256)) for name, view in pictures[:MOST_PANELS]]
    return [(name, uri) for name, uri in shown if uri]
