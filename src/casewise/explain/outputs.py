"""What is written of the cases that are explained: overlays, volumes, rows of the table, what the report shows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from casewise.console import Show
from casewise.explain.case_selection import CasePrediction, asked_about
from casewise.explain.finished_run import FinishedRun
from casewise.explain.native_space import Originals, plain_name
from casewise.explain.overlays import Shown, overlay
from casewise.explain.saliency import LEAST_CONTRAST, SaliencyMap, picture_of
from casewise.files import write_atomic
from casewise.report.formatting import class_name, number

# Of one case so many panels are shown side by side.
MOST_SHOWN = 4
# Pictures of panels are enlarged until their longest side has about so many pixels.
SHOWN_SIDE = 480
# A green that the maps' colours do not have, and how many pixels wide it is drawn.
OUTLINE, LINE = (0, 230, 118), 2


@dataclass(frozen=True, eq=False)
class Seen:
    """One network's looks at one case, and what it said of each panel row.

    `folds`: the fold whose network it is, or of how many it is the mean. `channels`: its sequences.
    """

    model: str
    folds: str
    method: str
    channels: tuple[str, ...]
    looks: list[SaliencyMap]
    said: list[CasePrediction]


def written(
    run: FinishedRun, seen: dict[str, list[Seen]], cases: list[str], place: Path, show: Show
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Shown]]:
    """Write everything of every case: rows of the table, what the report shows, rows of the figure."""
    originals = Originals(run)
    table: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    figure: list[Shown] = []
    with show.bar("write") as bar:
        for number_done, case in enumerate(cases):
            bar(number_done, len(cases), case)
            folder = place / plain_name(case)
            for one in seen[case]:
                files = originals.write(one.looks, one.channels, folder / plain_name(one.model))
                table += _table_rows(run, case, one, files, place)
            entries, rows = _side_by_side(run, case, seen[case], folder, place)
            figure += rows
            shown.append(_about_case(run, case, seen[case], entries))
    return table, shown, figure


def _about_case(run: FinishedRun, case: str, seen: list[Seen], rows: list[dict[str, Any]]) -> dict[str, Any]:
    panel = run.cohort.panels[run.cohort.panels["case"].astype(str) == case].iloc[0]
    return {
        "case": case,
        "subject": str(panel["subject"]),
        "visit": str(panel["visit"]),
        "stage": seen[0].said[0].stage,
        "methods": sorted({one.method for one in seen}),
        "rows": rows,
    }


def _value(run: FinishedRun, target: str, value: float) -> str:
    """A class by its name, a number as a number."""
    if np.isnan(value):
        return "not recorded"
    classes = run.study.classes_of(target)
    return class_name(run.study, target, classes[int(value)]) if classes else number(value, 2)


def _table_rows(
    run: FinishedRun, case: str, one: Seen, files: dict[str, list[Path]], place: Path
) -> list[dict[str, Any]]:
    """A row a panel row and sequence; files of one image are those of the whole case."""
    rows = []
    panels = run.cohort.panels
    asked = asked_about(run)
    classes = run.study.classes_of(asked.target)
    for look, said in zip(one.looks, one.said, strict=True):
        panel = panels.iloc[look.row]
        for channel, name in enumerate(one.channels):
            maps = look.each[:, channel]
            there = not bool(np.isnan(maps).all())
            rows.append(
                {
                    "case": case,
                    "subject": str(panel["subject"]),
                    "visit": str(panel["visit"]),
                    "region": str(panel["region"] or ""),
                    "sequence": name,
                    "network": one.model,
                    "stage": said.stage,
                    "networks": one.folds,
                    "method": one.method,
                    "target": asked.target,
                    "asked": classes[said.of] if said.of is not None else "",
                    "y_true": said.y_true,
                    "y_pred": said.y_pred,
                    "probability": said.probability,
                    "right": said.right,
                    "views": len(look.slots),
                    "slots": json.dumps(look.slots.tolist()),
                    "missing": not there,
                    "empty": there and not bool(np.nanmax(maps) > 0),
                    "contrast": float(look.contrast.mean()),
                    "cells": f"{look.cells[0]} x {look.cells[1]}",
                    "files": json.dumps([str(file.relative_to(place)) for file in files.get(name, [])]),
                }
            )
    return rows


def _side_by_side(
    run: FinishedRun, case: str, seen: list[Seen], folder: Path, place: Path
) -> tuple[list[dict[str, Any]], list[Shown]]:
    """Write the panels and their overlays; what the report and the figure show of them."""
    entries, figure = [], []
    target = asked_about(run).target
    for at, name in _rows(run, seen):
        own = [(one, one.looks[at], one.said[at]) for one in seen if name in one.channels]
        own = [(one, look, said) for one, look, said in own if not np.isnan(_map(one, look, name)).all()]
        if not own:
            continue
        label = "-".join(part for part in (plain_name(name) if name else "", f"panel{at + 1}") if part)
        first = own[0][0], own[0][1]
        lesion = _lesion(run, first[1])
        plain = outlined(_picture(first[0], first[1], name), lesion)
        told = []
        for one, look, said in own:
            laid = outlined(overlay(_picture(one, look, name), _map(one, look, name)), lesion)
            file = _save(folder / plain_name(one.model) / f"{label}.png", laid)
            about: dict[str, Any] = {"network": one.model, "method": one.method, "file": str(file.relative_to(place))}
            named = _value(run, target, said.y_pred)
            about["empty"] = not bool(_map(one, look, name).max() > 0)
            about["flat"] = not about["empty"] and float(look.contrast.mean()) < LEAST_CONTRAST
            about["cells"] = list(look.cells)
            told.append({**about, "named": named, "probability": said.probability, "right": said.right})
        region = str(run.cohort.panels["region"].iloc[first[1].row] or "")
        what = " ".join(part for part in (name, region) if part)
        entries.append(
            {
                "name": what,
                "input": str(_save(folder / f"{label}.png", plain).relative_to(place)),
                "outlined": lesion is not None,
                "truth": _value(run, target, own[0][2].y_true),
                "maps": told,
            }
        )
        maps = {one.model: enlarged(_map(one, look, name)) for one, look, _ in own}
        figure.append(Shown(f"{case}\n{what}".strip(), plain, maps, {one.model: said.right for one, _, said in own}))
    return entries, figure


def _rows(run: FinishedRun, seen: list[Seen]) -> Iterator[tuple[int, str]]:
    """The panels of a case that are shown, each sequence of its own; first the one that most networks see."""
    names = list(run.study.volumes.sequences) if run.study.volumes else [""]
    names.sort(key=lambda name: -sum(name in one.channels for one in seen))
    for at in range(min(len(seen[0].looks), MOST_SHOWN)):
        yield from ((at, name) for name in names)


def _map(one: Seen, look: SaliencyMap, name: str) -> np.ndarray:
    """The map on the view in the middle."""
    values: np.ndarray = look.each[(len(look.slots) - 1) // 2, one.channels.index(name)]
    return values


def _picture(one: Seen, look: SaliencyMap, name: str) -> np.ndarray:
    return picture_of(look, (len(look.slots) - 1) // 2, one.channels.index(name) if name else None)


def _lesion(run: FinishedRun, look: SaliencyMap) -> np.ndarray | None:
    """The lesion on the panel; None where no mask is named or it lies elsewhere."""
    volumes, panels = run.study.volumes, run.study.panels
    if not volumes or not volumes.lesion or volumes.lesion not in run.cohort.images:
        return None
    from casewise.explain.masks import lesion_on_slices, on_panel

    slots = look.slots[(len(look.slots) - 1) // 2]
    mask = on_panel(lesion_on_slices(run, look.row), slots, rows=panels.rows, columns=panels.columns)
    return mask if mask.any() else None


def enlarged(values: np.ndarray) -> np.ndarray:
    """A small picture or map with every pixel drawn as a square.

    >>> enlarged(np.zeros((240, 120))).shape, enlarged(np.zeros((500, 10))).shape
    ((480, 240), (500, 10))
    """
    times = max(1, SHOWN_SIDE // max(values.shape[:2]))
    return values.repeat(times, axis=0).repeat(times, axis=1)


def outlined(picture: np.ndarray, lesion: np.ndarray | None) -> np.ndarray:
    """The picture enlarged, with a line around the lesion (H, W) if there is one; then (H, W, 3)."""
    from scipy.ndimage import binary_dilation

    drawn = enlarged(picture)
    if lesion is None:
        return drawn
    if drawn.ndim == 2:
        drawn = np.repeat(drawn[..., None], 3, axis=2)
    inside = enlarged(lesion)
    drawn[binary_dilation(inside, iterations=LINE) & ~inside] = OUTLINE
    return drawn


def _save(path: Path, picture: np.ndarray) -> Path:
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(picture).save(packed, "PNG")
    return write_atomic(path, packed.getvalue())
