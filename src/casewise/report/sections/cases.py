"""Single cases: one from photographs to panels, and those with the largest errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from casewise.report.context import ReportContext
from casewise.report.figures.pictures import as_picture, data_uri, panel_uri
from casewise.report.formatting import case_label, digits_of, display_name, number, signed
from casewise.report.modality_sections import modality_report
from casewise.study.learners import baselines_among

MOST_PHOTOGRAPHS = 12
MOST_PANELS = 8
MOST_WORST = 6
MOST_TARGETS = 8


def section(context: ReportContext) -> dict[str, Any] | None:
    """From photographs to panels for one visit: of those with the most images, the one with the highest score."""
    panels = context.panels
    if panels.empty:
        return None
    case_panels = panels[panels["case"] == illustrated_case(context)]
    grid = context.study.panels
    bag = grid.bags
    slots, shown = 1 if bag else grid.slots, []
    for row in case_panels.head(MOST_PANELS).itertuples():
        numbers = [int(n) for n in row.tiles if int(n) >= 0]
        if numbers:
            shown.append(_panel(context, str(row.region or ""), numbers, slots))
    if not shown:
        return None
    return {
        "panels": shown,
        "label": case_label(case_panels.iloc[0][["subject", "visit"]].to_dict()),
        "size": context.study.images.size,
        "grid": f"{grid.rows} × {grid.columns}",
        "slots": slots,
        "bag": bag,
        "missing": sum(len(panel["tiles"]) - len(panel["photographs"]) for panel in shown),
        "left_out": max(0, len(case_panels) - MOST_PANELS),
        "baselines": bool(baselines_among(context.learners)),
        "more": not bag and any(len(list(row.tiles)) > slots for row in case_panels.itertuples()),
    }


def _panel(context: ReportContext, region: str, numbers: list[int], slots: int) -> dict[str, Any]:
    """One panel's photographs and tiles as data URIs, and the panel if it has more than one tile."""
    shown_numbers = numbers[:MOST_PHOTOGRAPHS]
    photographs = [photograph for n in shown_numbers if (photograph := context.photograph(n)) is not None]
    return {
        "region": region,
        "photographs": [data_uri(photograph, longest=240) for photograph in photographs],
        "tiles": [
            data_uri(as_picture(tile), longest=context.study.images.size) for tile in context.tiles(shown_numbers)
        ],
        "panel": panel_uri(context, numbers, longest=400) if slots > 1 else None,
    }


def illustrated_case(context: ReportContext) -> str:
    """The case shown as an example; the same for the same context."""
    counts = context.panels.assign(images=context.panels["tiles"].map(len)).groupby("case", sort=False)
    table = pd.DataFrame({"panels": counts.size(), "images": counts["images"].sum()})
    truth = context.final[context.final["target"] == context.outcome].dropna(subset=["y_true"])
    table["score"] = truth.groupby("case")["y_true"].max().reindex(table.index).fillna(-np.inf)
    return str(table.sort_values(["panels", "images", "score"], ascending=False, kind="stable").index[0])


def worst_cases(context: ReportContext) -> dict[str, Any] | None:
    """The largest errors of the shown learner, each with its panels and the predictions of its parts."""
    rows = context.headline_rows
    if rows.empty:
        return None
    digits = digits_of(*context.range_of(context.outcome))
    error = (rows["y_pred"] - rows["y_true"]).abs()
    order = error.sort_values(ascending=False, kind="stable").index[:MOST_WORST]
    cases = []
    for row in rows.loc[order].to_dict("records"):
        columns, lines = _details(context, row)
        cases.append(
            {
                "label": case_label(row),
                "reference": number(row["y_true"], digits),
                "predicted": number(row["y_pred"], digits),
                "difference": signed(row["y_pred"] - row["y_true"], digits),
                "pictures": modality_report(context.study).case_pictures(context, row),
                "columns": columns,
                "rows": lines,
            }
        )
    return {"cases": cases, "total": len(rows)}


def case_pictures(context: ReportContext, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Region and picture of each input panel of this prediction."""
    panels = context.panels[context.panels["case"] == row["case"]]
    if row.get("region"):
        panels = panels[panels["region"] == row["region"]]
    if row.get("image"):
        images = context.cohort_images
        numbers = set(images.loc[images["path"].astype(str) == str(row["image"]), "image"])
        panels = panels[[bool(numbers & set(tiles)) for tiles in panels["tiles"]]]
    pictures = [
        (str(panel.region or ""), panel_uri(context, list(panel.tiles), longest=256))
        for panel in panels.head(MOST_PANELS).itertuples()
    ]
    return [(region, uri) for region, uri in pictures if uri]


def _details(context: ReportContext, row: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """`model / physician` of every other target of this case, a line per region."""
    study, table = context.study, context.final
    case_rows = table["model"].eq(context.learner) & table["stage"].eq(context.stage) & table["case"].eq(row["case"])
    others = table[case_rows & table["target"].ne(context.outcome)]
    order = [name for name in [*study.targets, *study.scores] if name in set(others["target"])][:MOST_TARGETS]
    if not order:
        return [], []
    declared = [region for region in study.regions if region in set(others["region"])]
    regions = declared + [region for region in dict.fromkeys(others["region"]) if region not in declared]
    lines = []
    for region in regions[:MOST_PANELS]:
        means = others[others["region"] == region].groupby("target")[["y_pred", "y_true"]].mean()
        cells = []
        for name in order:
            if name not in means.index:
                cells.append("")
                continue
            whole = name in study.targets and study.targets[name].integer
            model, physician = means.loc[name, "y_pred"], means.loc[name, "y_true"]
            cells.append(f"{number(model, 1)} / {number(physician, 0 if whole else 1)}")
        lines.append((region, cells))
    return [display_name(study, name) for name in order], lines


def section(context: ReportContext) -> Section | None:
    """To be converted."""
    return None
