"""Scans: how volumes were prepared, which sequences are missing, and the slices that a network sees of one case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casewise.report.figures.pictures import data_uri
from casewise.report.formatting import case_label
from casewise.report.sections.cases import illustrated_case

if TYPE_CHECKING:
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study

LONGEST = 720


def section(context: ReportContext) -> dict[str, Any] | None:
    """One case as the networks see it, and the settings of preparation; None without panels."""
    study, volumes = context.study, context.study.modality_settings
    if volumes is None or context.panels.empty:
        return None
    case = illustrated_case(context)
    row = context.panels[context.panels["case"] == case].iloc[0]
    return {
        "label": case_label(row[["subject", "visit"]].to_dict()),
        "panels": [(name, data_uri(panel, longest=LONGEST)) for name, panel in context.grids(case)],
        "volumes": volumes,
        "size": study.images.size,
        "present": present(context),
        "fusions": [fusion(study, name) for name in _fusions(study)],
    }


def present(context: ReportContext) -> dict[str, Any] | None:
    """How many cases have each sequence; None where the table names none."""
    images, volumes = context.cohort_images, context.study.modality_settings
    if "sequence" not in images or volumes is None:
        return None
    cases = context.panels["case"].nunique()
    counts = {name: images.loc[images["sequence"] == name, "case"].nunique() for name in volumes.sequences}
    return {"counts": counts, "cases": cases, "complete": all(count == cases for count in counts.values())}


def _fusions(study: Study) -> list[str]:
    """How the study's networks combine the sequences, each way once."""
    return list(dict.fromkeys(str(study.fusion_of(name)) for name in study.networks))


def fusion(study: Study, name: str) -> dict[str, Any]:
    """One way to combine sequences: its name, `code` (single, early, late, shared) and the channels of its input.

    `pretrained`: the first layer may begin with weights of colour images.
    """
    sequences: list[str] = list(study.modality_settings.sequences) if study.modality_settings else []
    codes = {"early": "early", "late-shared": "shared"}
    code = "single" if name in sequences else codes.get(name, "late")
    return {
        "name": name,
        "code": code,
        "channels": len(sequences) if code == "early" else 1,
        "pretrained": any(study.weights_of(network) != "random" for network in study.networks),
    }


def case_pictures(context: ReportContext, row: dict[str, Any]) -> list[tuple[str, str]]:
    """Each sequence's name and central panel."""
    return [(name, data_uri(panel, longest=300)) for name, panel in context.grids(str(row["case"]))]
