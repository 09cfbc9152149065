"""Scans: how volumes were prepared, which sequences are missing, and the slices that a network sees of one case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.report.figures.pictures import data_uri
from casewise.report.formatting import counted, listed
from casewise.report.sections.cases import illustrated
from casewise.report.sections.terminology import place_of

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study, Volumes

LONGEST = 720


def section(material: ReportContext) -> dict[str, Any] | None:
    """One case as the networks see it, and how it came to be so."""
    volumes = material.study.volumes
    if volumes is None or material.panels.empty:
        return None
    case = illustrated(material)
    row = material.panels[material.panels["case"] == case].iloc[0]
    return {
        "place": place_of(row[["subject", "visit"]].to_dict()),
        "panels": [(name, data_uri(panel, longest=LONGEST)) for name, panel in material.grids(case)],
        "order": volumes.slice_index,
        "seen": seen_as(volumes),
        "facts": [(name, text) for name, text in _facts(material, volumes) if text],
    }


def seen_as(volumes: Volumes) -> str:
    """What the brightness of a shown panel is, as the end of a sentence."""
    if volumes.standardise == "nyul":
        return "with the intensities as the networks of its fold see them, standardised by that fold’s training scans"
    return "each scan scaled to its own range, as the networks see it; nothing is standardised over patients"


def _facts(material: ReportContext, volumes: Volumes) -> list[tuple[str, str]]:
    study = material.study
    size, panels = study.images.size, study.panels
    return [
        ("Sequences", f"{listed(volumes.sequences)}{_present(material, volumes)}"),
        ("Geometry", _geometry(volumes)),
        (
            "In plane",
            f"{volumes.in_plane_size} × {volumes.in_plane_size} pixels, proportions kept; slices stay those of the "
            "scan",
        ),
        ("Bias field", "N4, fitted on a grid up to four times coarser" if volumes.bias == "n4" else "not corrected"),
        ("Smoothing", "edge-preserving (curvature diffusion)" if volumes.smoothing == "edge_preserving" else "none"),
        ("Region", _region(volumes, size)),
        ("Intensities", _intensities(volumes)),
        (
            "Panel",
            f"{panels.rows} × {panels.columns} consecutive slices, {panels.rows * size} × {panels.columns * size} px. "
            f"In training a window drawn at random{_varied(study)}; in prediction "
            f"{'the central window' if volumes.inference_windows == 'central' else 'the mean over all windows'}",
        ),
        ("Missing sequences", _missing(volumes)),
        ("Fusion", "; ".join(_fusion(study, volumes, name) for name in _fusions(study))),
    ]


def _present(material: ReportContext, volumes: Volumes) -> str:
    """How many cases have each sequence, where not all have all."""
    images = material.cohort_images
    if "sequence" not in images:
        return ""
    cases = material.panels["case"].nunique()
    there = {name: images.loc[images["sequence"] == name, "case"].nunique() for name in volumes.sequences}
    if all(count == cases for count in there.values()):
        return f", in all {counted(cases, 'case')}"
    return f": {listed([f'{name} in {count:,}' for name, count in there.items()])} of {counted(cases, 'case')}"


def _geometry(volumes: Volumes) -> str:
    shown = "axial slices, front above, the patient’s right on the left"
    if volumes.slice_index:
        return (
            f"slices came as images in the order of the column {volumes.slice_index}, and are taken as axial with "
            "pixels of "
            f"{volumes.pixel_mm:g} mm, {volumes.slice_mm:g} mm apart"
        )
    if len(volumes.sequences) == 1:
        return f"brought to one orientation by the scans’ affines; {shown}"
    onto = "onto the grid of the first sequence that a case has"
    return f"brought to one orientation and {onto} by the scans’ affines; {shown}"


def _region(volumes: Volumes, size: int) -> str:
    if volumes.roi == "none":
        return f"none stated: networks see the whole plane, resized to {size} × {size} pixels"
    if volumes.roi == "centre":
        return f"the central {size} × {size} pixels of every slice"
    around = f"the mask in the column {volumes.mask}" if volumes.roi == "mask" else "the box in the table"
    return f"cut around {around}, {volumes.margin:g} mm more on each side, resized to {size} × {size} pixels"


def _intensities(volumes: Volumes) -> str:
    own = "each scan scaled to 0–1 between its 0.1th and 99.9th percentile"
    if volumes.standardise != "nyul":
        return f"{own}; not standardised over patients"
    return (
        f"{own}; then standardised over patients (Nyúl and Udupa) by landmarks of the fold’s own training scans alone, "
        "so that nothing of who is predicted takes part"
    )


def _varied(study: Study) -> str:
    kinds = ["flipped"] if study.panels.flip != "none" else []
    kinds += ["turned by quarters"] if study.panels.quarter_turns else []
    return f", {' and '.join(kinds)} at random, all its slices and sequences alike" if kinds else ""


def _missing(volumes: Volumes) -> str:
    if volumes.missing == "require":
        return "none allowed: every case has all sequences"
    if volumes.missing == "drop":
        return "cases that lack one were left out"
    hidden = (
        f"; in training each sequence is hidden with a chance of {100 * volumes.sequence_dropout:.0f} %, but one "
        "always stays, so "
        "that networks learn to do without"
    )
    return "a learned stand-in takes the place of what a case lacks" + (hidden if volumes.sequence_dropout else "")


def _fusions(study: Study) -> list[str]:
    """How the study's networks see the sequences, each way once."""
    return list(dict.fromkeys(str(study.fusion_of(name)) for name in study.networks))


def _fusion(study: Study, volumes: Volumes, name: str) -> str:
    sequences = volumes.sequences
    if name in sequences:
        return f"{name} alone: one channel{_first_layer(study, 1)}"
    if name == "early":
        told = f"early: {counted(len(sequences), 'sequence')} as channels of one network"
        return told + _first_layer(study, len(sequences))
    shared = "one network for all sequences" if name == "late-shared" else "a network for each sequence"
    return f"{name}: {shared}, its features joined before the last layer; each sequence is repeated to three channels"


def _first_layer(study: Study, channels: int) -> str:
    if all(study.weights_of(name) == "random" for name in study.networks):
        return ""
    return (
        f" (first layer: the mean of its kernels over red, green and blue, times 3/{channels}, for every sequence, "
        "where first weights are not random; what each network began with stands below)"
    )
