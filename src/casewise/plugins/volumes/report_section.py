"""The section of the report on scans: how they were prepared, and the slices that a network sees of one case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from casewise.plugins.volumes.preparation import shown_grid
from casewise.plugins.volumes.settings import SEQUENCE_DROPOUT, Volumes, reads_volumes, volumes_of
from casewise.report.blocks import Facts, Fold, Picture, Pictures, Section, Text
from casewise.report.context import ReportContext, visit_noun
from casewise.report.figures.pictures import data_uri
from casewise.report.formatting import capital, case_label, counted, listed, percent
from casewise.report.sections.preparation import illustrated_case
from casewise.study.schema import Study

LONGEST, SMALL = 720, 300
NYUL = (
    "Scaled to 0–1 between its 0.1th and 99.9th percentile, then standardised over patients (Nyúl and Udupa) with"
    " landmarks of the training scans of the fold only."
)
SCALED = "Each scan is scaled to 0–1 between its 0.1th and 99.9th percentile; nothing is standardised over patients."
MISSING = {
    "require": "Not allowed: every case has all sequences.",
    "drop": "Cases that lack a sequence were left out.",
    "mask": "A learned token replaces them; in training, sequences are dropped with a probability of {share}.",
}
PRETRAINED = "A pretrained first layer uses its kernels for red, green and blue for three sequences, else their mean."


def _adapted(study: Study) -> list[Text]:
    """How the first layer of pretrained networks reads sequences; empty if none reads them together."""
    pretrained = [
        name for name in study.networks if study.fusion_of(name) == "early" and study.weights_of(name) != "random"
    ]
    return [Text(PRETRAINED, note=True)] if pretrained else []


def section(context: ReportContext) -> Section | None:
    """One case as the networks see it, and folded the settings of preparation; None without panels."""
    study = context.study
    if study.modality_settings is None or context.panels.empty:
        return None
    case = illustrated_case(context)
    own = context.panels[context.panels["case"] == case].iloc[0][["subject", "visit"]].to_dict()
    label = case_label(own, visit_noun=visit_noun(context))
    rows, columns = shown_grid(study)
    grid = f"{rows} by {columns} slices as the network receives them"
    if rows * columns == 1:
        grid = "the slice as the network receives it"
    elif study.panels.bags:
        grid = f"{rows * columns} slices; the network receives each on its own"
    pictures = [
        Picture(data_uri(panel, longest=LONGEST), f"{name}: {grid}", name) for name, panel in context.grids(case)
    ]
    shown = Pictures(pictures, f"{capital(label)}: {grid}", "panels")
    fold = Fold("Preparation of the scans", [Facts(preparation(context)), *_adapted(study)])
    return Section("preparation", "Model input", [shown, fold])


def preparation(context: ReportContext) -> list[tuple[str, str]]:
    """The settings of preparation, from the files to the input of the networks."""
    study, v, side = context.study, volumes_of(context.study), context.study.images.size
    grid = study.panels
    random = [*(["flips"] if grid.flip != "none" else []), *(["quarter turns"] if grid.quarter_turns else [])]
    panel = f"{grid.rows} × {grid.columns} consecutive slices, {grid.rows * side} × {grid.columns * side} pixels"
    used = "the central window" if v.inference_windows == "central" else "the mean over all windows"
    drawn = "a random window"
    if v.slice_is_case(study):
        panel, drawn, used = f"one slice, {side} × {side} pixels", "the slice", "the slice"
    elif grid.bags:
        panel = f"each slice on its own, {side} × {side} pixels; the features of a case are averaged"
        drawn, used = f"up to {grid.bag} slices of a case, drawn at random", "all slices of a case"
    elif volumes := [name for name in study.networks if reads_volumes([name])]:
        panel += f"; {listed(volumes)} read them as a volume"
    return [
        ("Sequences", _sequences(context, v)),
        ("Slices", f"in the order of the column {v.slice_index}" if v.slice_index else "from the feet to the head"),
        ("Geometry", _geometry(v)),
        ("In plane", f"{v.in_plane_size} × {v.in_plane_size} pixels with proportions kept"),
        ("Bias field", "corrected by N4, on a grid up to four times coarser" if v.bias == "n4" else "not corrected"),
        ("Smoothing", "none" if v.smoothing == "none" else "edge-preserving (curvature diffusion)"),
        ("Region", _region(v, side)),
        ("Intensities", NYUL if v.standardise == "nyul" else SCALED),
        ("Panel", panel),
        ("Training", drawn + (f" with random {listed(random)}, the same for all slices" if random else "")),
        ("Prediction", used),
        ("Missing sequences", MISSING[v.missing].format(share=percent(SEQUENCE_DROPOUT))),
        ("Fusion", "; ".join(dict.fromkeys(fusion(study, str(study.fusion_of(name))) for name in study.networks))),
    ]


def _sequences(context: ReportContext, volumes: Volumes) -> str:
    """The sequences, with how many cases have each if the table names them."""
    images, cases = context.cohort_images, context.panels["case"].nunique()
    if "sequence" not in images:
        return listed(volumes.sequences)
    counts = {name: images.loc[images["sequence"] == name, "case"].nunique() for name in volumes.sequences}
    return ", ".join(f"{name} in {count:,}" for name, count in counts.items()) + f" of {counted(cases, 'case')}"


def _geometry(volumes: Volumes) -> str:
    if volumes.slice_index:
        size = f"pixels of {volumes.pixel_mm:g} mm and {volumes.slice_mm:g} mm between slices"
        return f"separate images, treated as axial, with {size}"
    onto = ", onto the grid of the first sequence of each case" if len(volumes.sequences) > 1 else ""
    return f"by the affines{onto}; axial, front at the top, the patient’s right on the left"


def _region(volumes: Volumes, side: int) -> str:
    return {
        "centre": f"the central {side} × {side} pixels of every slice",
        "none": f"the whole plane, resized to {side} × {side} pixels",
        "mask": f"around the mask in the column {volumes.mask} with a margin of {volumes.margin:g} mm, resized to "
        f"{side} × {side} pixels",
    }[volumes.roi]


def fusion(study: Study, name: str) -> str:
    """One way to combine the sequences."""
    sequences = volumes_of(study).sequences
    if name in sequences:
        return f"{name} alone, as one channel"
    if name == "early":
        return f"early: {counted(len(sequences), 'sequence')} as channels of one network"
    networks = "one network for all sequences" if name == "late-shared" else "a network for each sequence"
    return f"{name}: {networks}, with the features concatenated before the last layer"


def case_pictures(context: ReportContext, row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each sequence's name and central panel."""
    return [(name, data_uri(panel, longest=SMALL)) for name, panel in context.grids(str(row["case"]))]
