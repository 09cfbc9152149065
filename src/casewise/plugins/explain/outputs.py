"""Writes the explanation of each case: overlays, volumes, rows of the table, and the entries of the report."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casewise.console import Show
from casewise.files import write_atomic
from casewise.modalities.base import MaskMeaning
from casewise.pipeline.finished import FinishedRun
from casewise.plugins.explain.case_selection import CasePrediction, explain_target
from casewise.plugins.explain.metrics import as_panel
from casewise.plugins.explain.overlays import MEANING, SIGNED_MEANING, FigureRow, overlay, save_png
from casewise.plugins.explain.results import Record
from casewise.plugins.explain.saliency import SaliencyMap, native_maps
from casewise.report.formatting import class_name, number

# Panels of a case that are shown side by side.
MAX_PANELS_SHOWN = 4
# Small pictures are enlarged by a whole factor until their longest side has about this many pixels.
SHOWN_SIDE = 480
# The outline of a mask: a green that is not in the maps' colours, and its width in pixels.
OUTLINE_COLOUR, OUTLINE_WIDTH = (0, 230, 118), 2


@dataclass(frozen=True, eq=False)
class CaseExplanation:
    """One network's maps and predictions of one case, by panel row.

    `folds`: the fold of the network, or the number of folds that were averaged. `sequences`: see `LoadedModel`.
    """

    model: str
    folds: str
    method: str
    sequences: tuple[str, ...]
    maps: list[SaliencyMap]
    predictions: list[CasePrediction]

    def map_of(self, index: int, sequence: str) -> np.ndarray:
        """The map of a sequence on the middle view of a panel row."""
        saliency = self.maps[index]
        values: np.ndarray = saliency.by_sequence[saliency.middle_view, self.sequences.index(sequence)]
        return values

    def picture_of(self, index: int, sequence: str) -> np.ndarray:
        """The panel as the network sees it."""
        return self.maps[index].picture(self.sequences.index(sequence) if sequence else None)


def write_outputs(
    run: FinishedRun, explanations: dict[str, list[CaseExplanation]], folder: Path, show: Show
) -> tuple[list[Record], list[Record]]:
    """Write all maps of all cases into `folder`; the rows of the table, and the entries of the report."""
    table, entries = [], []
    with show.bar("write") as bar:
        for done, (case, networks) in enumerate(explanations.items()):
            bar(done, len(explanations), case)
            for network in networks:
                network_folder = folder / file_name(case) / file_name(network.model)
                files = write_native(run, network.maps, network.sequences, network_folder)
                table += _table_rows(run, case, network, files, folder)
            panel = run.cohort.panels[run.cohort.panels["case"].astype(str) == case].iloc[0]
            entries.append(
                {
                    "case": case,
                    "subject": str(panel["subject"]),
                    "visit": str(panel["visit"]),
                    "stage": networks[0].predictions[0].stage,
                    "methods": sorted({network.method for network in networks}),
                    "rows": _pictures(run, case, networks, folder),
                }
            )
    return table, entries


def _value_text(run: FinishedRun, target: str, value: float) -> str:
    """The name of a class, or a rounded number."""
    if np.isnan(value):
        return "not recorded"
    classes = run.study.classes_of(target)
    return class_name(run.study, target, classes[int(value)]) if classes else number(value, 2)


def _table_rows(
    run: FinishedRun, case: str, network: CaseExplanation, files: dict[str, dict[Path, bool]], folder: Path
) -> list[Record]:
    """One row per panel row and sequence; for images, every row lists the files of the whole case."""
    rows = []
    target = explain_target(run)
    classes = run.study.classes_of(target.target)
    for saliency, prediction in zip(network.maps, network.predictions, strict=True):
        panel = run.cohort.panels.iloc[saliency.row]
        for channel, name in enumerate(network.sequences):
            maps, own_files = saliency.by_sequence[:, channel], files.get(name, {})
            missing = bool(np.isnan(maps).all())
            class_index = prediction.class_index
            rows.append(
                {
                    "case": case,
                    "subject": str(panel["subject"]),
                    "visit": str(panel["visit"]),
                    "region": str(panel["region"] or ""),
                    "sequence": name,
                    "network": network.model,
                    "stage": prediction.stage,
                    "folds": network.folds,
                    "method": network.method,
                    "target": target.target,
                    "explained_class": "" if class_index is None else classes[class_index],
                    "y_true": prediction.y_true,
                    "y_pred": prediction.y_pred,
                    "probability": prediction.probability,
                    "correct": prediction.correct,
                    "views": len(saliency.slots),
                    "slots": json.dumps(saliency.slots.tolist()),
                    "missing": missing,
                    "empty": not missing and (not np.nanmax(np.abs(maps)) > 0 or all(own_files.values())),
                    "contrast": float(saliency.contrast.mean()),
                    "map_size": f"{saliency.map_size[0]} x {saliency.map_size[1]}",
                    **(saliency.output_sum.as_json() if saliency.output_sum else {}),
                    "files": json.dumps([str(file.relative_to(folder)) for file in own_files]),
                }
            )
    return rows


def _pictures(run: FinishedRun, case: str, networks: list[CaseExplanation], folder: Path) -> list[Record]:
    """Write the panels and their overlays; the report's entries for them."""
    entries, target, case_folder = [], explain_target(run).target, folder / file_name(case)
    for index, name, shown in _shown_panels(networks):
        label = "-".join(text for text in (file_name(name) if name else "", f"panel{index + 1}") if text)
        first = shown[0]
        meaning, mask = _mask_on_panel(run, first.maps[index], run.modality.mask_columns(run.study))
        maps = []
        for network in shown:
            values, saliency, prediction = network.map_of(index, name), network.maps[index], network.predictions[index]
            # a network may see other slices than the first, in another grid
            own_mask = _mask_on_panel(run, saliency, [meaning] if meaning else [])[1]
            overlaid = outlined(overlay(network.picture_of(index, name), values, signed=saliency.signed), own_mask)
            file = save_png(case_folder / file_name(network.model) / f"{label}.png", overlaid)
            own_file = file.with_name(f"{label}-own-map.png") if saliency.own is not None else None
            if saliency.own is not None and own_file:
                own = overlay(network.picture_of(index, name), saliency.own[saliency.middle_view])
                save_png(own_file, outlined(own, own_mask))
            empty = not bool(np.abs(values).max() > 0)
            maps.append(
                {
                    "network": network.model,
                    "method": network.method,
                    "file": str(file.relative_to(folder)),
                    "own": str(own_file.relative_to(folder)) if own_file else None,
                    "empty": empty,
                    "flat": not empty and saliency.flat,
                    "layer": saliency.layer,
                    "cells": list(saliency.map_size),
                    "predicted": _value_text(run, target, prediction.y_pred),
                    "probability": prediction.probability,
                    "correct": prediction.correct,
                    "sum": saliency.output_sum.as_json() if saliency.output_sum else None,
                }
            )
        file = save_png(case_folder / f"{label}.png", outlined(first.picture_of(index, name), mask))
        entries.append(
            {
                "name": _title(run, first, index, name),
                "input": str(file.relative_to(folder)),
                "outlined": meaning,
                "reference": _value_text(run, target, first.predictions[index].y_true),
                "maps": maps,
            }
        )
    return entries


def figure_rows(run: FinishedRun, case: str, networks: list[CaseExplanation]) -> list[FigureRow]:
    """The rows of the side-by-side figure of a case."""
    rows, target = [], explain_target(run).target
    for index, name, shown in _shown_panels(networks):
        first = shown[0]
        _, mask = _mask_on_panel(run, first.maps[index], run.modality.mask_columns(run.study))
        predictions = {network.model: network.predictions[index] for network in shown}
        values = {network.model: enlarged(network.map_of(index, name)) for network in shown}
        pictures = {network.model: outlined(network.picture_of(index, name), None) for network in shown[1:]}
        written = {model: _value_text(run, target, prediction.y_pred) for model, prediction in predictions.items()}
        for network in shown:
            if (own := network.maps[index].own) is not None:  # a U-Net's own map is shown with Grad-CAM
                title = f"{network.model}: own map"
                values[title] = enlarged(own[network.maps[index].middle_view])
                pictures[title] = outlined(network.picture_of(index, name), None)
                written[title] = written[network.model]
        row = FigureRow(
            f"{case}\n{_title(run, first, index, name)}".strip(),
            outlined(first.picture_of(index, name), mask),
            values,
            {model: prediction.correct for model, prediction in predictions.items()},
            _value_text(run, target, first.predictions[index].y_true),
            written,
            signed=frozenset(network.model for network in shown if network.maps[index].signed),
            pictures=pictures,
        )
        rows.append(row)
    return rows


def _title(run: FinishedRun, explained: CaseExplanation, index: int, name: str) -> str:
    """The sequence and the region of a panel, where it has them, and which of several views is shown."""
    saliency = explained.maps[index]
    region, views = str(run.cohort.panels["region"].iloc[saliency.row] or ""), len(saliency.slots)
    view = f"view {saliency.middle_view + 1} of {views}" if views > 1 else ""
    return " ".join(text for text in (name, region, view) if text)


def _shown_panels(networks: list[CaseExplanation]) -> Iterator[tuple[int, str, list[CaseExplanation]]]:
    """The panels that are shown, by sequence, with their networks; first the sequence that most networks see."""
    most_first = sorted(networks, key=lambda network: -len(network.sequences))
    names = list(dict.fromkeys(name for network in most_first for name in network.sequences))
    names.sort(key=lambda name: -sum(name in network.sequences for network in networks))
    for index in range(min(len(networks[0].maps), MAX_PANELS_SHOWN)):
        for name in names:
            seeing = [network for network in networks if name in network.sequences]
            if shown := [network for network in seeing if not np.isnan(network.map_of(index, name)).all()]:
                yield index, name, shown


def _mask_on_panel(
    run: FinishedRun, saliency: SaliencyMap, meanings: Iterable[MaskMeaning]
) -> tuple[MaskMeaning | None, np.ndarray | None]:
    """The meaning of the first of these masks on the middle view, and the mask (H, W); None without a mask."""
    for meaning in meanings:
        if run.modality.mask_columns(run.study)[meaning] not in run.cohort.images:
            continue
        mask = run.modality.mask(run.prepared, saliency.row, meaning)
        positions = mask.positions(saliency.slots[saliency.middle_view])
        if mask.planes[positions[positions >= 0]].any():
            shown = positions >= 0
            return meaning, as_panel(mask.planes[positions.clip(0)] & shown[:, None, None], saliency.grid)
    return None, None


def enlarged(values: np.ndarray) -> np.ndarray:
    """A small picture or map with every pixel repeated as a square.

    >>> enlarged(np.zeros((240, 120))).shape, enlarged(np.zeros((500, 10))).shape
    ((480, 240), (500, 10))
    """
    times = max(1, SHOWN_SIDE // max(values.shape[:2]))
    return values.repeat(times, axis=0).repeat(times, axis=1)


def outlined(picture: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The picture enlarged; with a mask (H, W), (H, W, 3) with its outline."""
    from scipy.ndimage import binary_dilation

    drawn = enlarged(picture)
    if mask is None:
        return drawn
    if drawn.ndim == 2:
        drawn = np.repeat(drawn[..., None], 3, axis=2)
    inside = enlarged(mask)
    drawn[binary_dilation(inside, iterations=OUTLINE_WIDTH) & ~inside] = OUTLINE_COLOUR
    return drawn


def file_name(text: str) -> str:
    """A case, network or sequence as a file name.

    >>> file_name("P01/week 4"), file_name("vit@early")
    ('P01_week-4', 'vit@early')
    """
    return re.sub(r"[^\w@.+-]+", "-", text.replace("/", "_")).strip("-.") or "unnamed"


def write_native(
    run: FinishedRun, maps: Sequence[SaliencyMap], channels: tuple[str, ...], folder: Path
) -> dict[str, dict[Path, bool]]:
    """Write the maps of one network of one case into `folder`; by channel the files, and whether each is empty."""
    files: dict[str, dict[Path, bool]] = {}
    signed = any(saliency.signed for saliency in maps)
    for channel, natives in native_maps(run.prepared, maps, channels).items():
        files[channel] = {}
        for native in natives:
            name = file_name(native.name)
            if native.picture is not None:
                path = save_png(folder / f"{name}.png", overlay(native.picture, native.values, signed=signed))
            elif native.affine is not None:
                path = save_scan(folder / f"{name}.nii.gz", native.values, native.affine, signed=signed)
            files[channel][path] = native.empty
    return files


def save_scan(path: Path, values: np.ndarray, affine: np.ndarray, *, signed: bool = False) -> Path:
    """Write a map (X, Y, Z) as `.nii.gz` in the geometry of its scan, atomically; equal maps give equal bytes.

    Args:
        affine: (4, 4) the scan's affine from voxels to mm (RAS).
    """
    import nibabel

    image = nibabel.Nifti1Image(np.asarray(values, dtype=np.float32), np.asarray(affine, dtype=float))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = (SIGNED_MEANING if signed else MEANING).encode()
    return write_atomic(path, gzip.compress(image.to_bytes(), 6, mtime=0))
