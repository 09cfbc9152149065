"""Is it the disease? What the audit found, for the first screen and in a section of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casewise.report.material import Material, is_number
from casewise.report.pictures import as_picture, data_uri
from casewise.report.wording import MISSING, counted, duration, number

TRIED = {
    "twins-across-subjects": "the same picture under two subjects",
    "twins-across-splits": "the same picture on both sides of the split",
    "twins-across-labels": "the same picture under two labels",
    "twins-within-subject": "the same picture twice under one subject",
    "subjects-across-splits": "one subject on both sides of the split",
    "image-level-split": "a split by image instead of by subject",
}
PROBES = {
    "border": "the border of the picture alone",
    "thumbnail": "a thumbnail of 8 × 8 pixels",
    "file": "facts of the file (size, mode, compression)",
    "masked": "the picture with the anatomy covered",
}
TWINS = "twins-"
MOST_FINDINGS, MOST_FIRST, MOST_PAIRS = 60, 8, 3
# What a test of the label or of the source may be called in the figures of a finding.
AUROC, P_VALUE = ("auroc", "value", "auc", "r"), ("p", "p_value", "p_adjusted")


@dataclass(frozen=True)
class Told:
    """One finding as the page shows it; `reason` is what the study says why it is accepted, empty where it does not."""

    level: str
    tried: str
    figure: str
    p: str
    sentence: str
    remedy: str
    reason: str
    accepted: bool


@dataclass(frozen=True)
class Twins:
    """Pairs of like pictures of one kind: how many, and a few of them to look at (name and picture, twice)."""

    kind: str
    count: int
    pairs: list[tuple[tuple[str, str], tuple[str, str]]]


def tried(id: str) -> str:
    """What a finding's name stands for, in words.

    >>> tried("shortcut-border"), tried("shortcut-source"), tried("source-told-no_finding")
    ('label from the border of the picture alone', 'label from the column source', 'source from the picture, in no finding')
    """
    if id in TRIED:
        return TRIED[id]
    if id.startswith("shortcut-"):
        name = id.removeprefix("shortcut-")
        return f"label from {PROBES.get(name, f'the column {name}')}"
    if id.startswith("source-told-"):
        return f"source from the picture, in {id.removeprefix('source-told-').replace('_', ' ')}"
    return id.replace("-", " ")


def findings(audit: Mapping[str, Any]) -> list[Told]:
    """The findings in the audit's own order, the worst first."""
    accepted = audit.get("accepted") or {}
    told = []
    for finding in audit.get("findings", []):
        figures = finding.get("figures") or {}
        told.append(
            Told(
                finding["level"],
                tried(finding["id"]),
                number(_first(figures, AUROC), 2),
                _p(_first(figures, P_VALUE)),
                finding["sentence"],
                finding.get("remedy") or "",
                str(accepted.get(finding["id"], "")),
                finding["id"] in accepted,
            )
        )
    return told


def first_screen(material: Material) -> dict[str, Any] | None:
    """What stands above everything else: the verdict, then errors and warnings with the reasons they are accepted for.

    Where there are errors or warnings the verdict's own example is not repeated: it is the first of the list.
    """
    audit = material.audit
    if audit is None:
        return None
    told = [one for one in findings(audit) if one.level != "note"]
    verdict = str(audit.get("verdict", ""))
    if told:
        verdict = verdict.removesuffix(told[0].sentence).strip().removesuffix(":")
    return {
        "verdict": verdict,
        "clean": not told,
        "level": "error" if any(one.level == "error" for one in told) else "warning",
        "findings": told[:MOST_FIRST],
        "more": max(0, len(told) - MOST_FIRST),
    }


def section(material: Material) -> dict[str, Any] | None:
    """The verdict, the evidence, the twins and the time; None where the run made no audit."""
    audit = material.audit
    if audit is None:
        return None
    told, seconds = findings(audit), audit.get("seconds") or {}
    spent = [(str(step).replace("_", " "), duration(value)) for step, value in seconds.items() if is_number(value)]
    return {
        "verdict": audit.get("verdict", ""),
        "findings": told[:MOST_FINDINGS],
        "more": max(0, len(told) - MOST_FINDINGS),
        "figures": any(one.figure != MISSING for one in told),
        "accepted": any(one.accepted for one in told),
        "twins": twins(material),
        "steps": spent,
        "seconds": duration(sum(value for value in seconds.values() if is_number(value))),
        "notes": [str(note) for note in audit.get("notes", [])],
        "examined": [
            counted(int(value), str(what).replace("_", " ").removesuffix("s"))
            for what, value in (audit.get("facts") or {}).items()
            if what in ("subjects", "images")
        ],
    }


def twins(material: Material) -> list[Twins]:
    """The pairs of like pictures by kind; a few of each kind are shown."""
    audit = material.audit or {}
    images = material.cohort_images
    number_of = dict(zip(images["path"].astype(str), images["image"], strict=True)) if "path" in images else {}
    found = []
    for finding in audit.get("findings", []):
        if not finding["id"].startswith(TWINS) or not finding.get("pairs"):
            continue
        pairs = [[str(path) for path in pair] for pair in finding["pairs"]]
        shown = [pair for pair in pairs if all(path in number_of for path in pair)][:MOST_PAIRS]
        pictures = [[(Path(path).name, _picture(material, int(number_of[path]))) for path in pair] for pair in shown]
        found.append(Twins(TRIED.get(finding["id"], finding["id"]), len(pairs), [(a, b) for a, b in pictures]))
    return found


def _picture(material: Material, image: int) -> str:
    return data_uri(as_picture(material.tiles([image])[0]), longest=150)


def _first(figures: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((figures[name] for name in names if is_number(figures.get(name))), None)


def _p(value: Any) -> str:
    """A p-value to three decimals, never as zero.

    >>> _p(0.0004), _p(0.04), _p(None)
    ('< 0.001', '0.040', '–')
    """
    return "< 0.001" if is_number(value) and value < 0.001 else number(value, 3)
