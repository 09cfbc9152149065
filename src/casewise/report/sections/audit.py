"""Is it the disease? What the audit found, for the first screen and in a section of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casewise.audit.findings import ROWS
from casewise.audit.sentences import untested
from casewise.audit.text import renamed
from casewise.modalities.registry import modality_of
from casewise.report.context import ReportContext, is_number
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.formatting import MISSING, counted, duration, number
from casewise.report.sections.tables import Cell, Row

TRIED = {
    "twins-across-subjects": "the same picture under two subjects",
    "twins-across-splits": "the same picture on both sides of the split",
    "twins-across-labels": "the same picture with two labels",
    "twins-within-subject": "the same picture twice under one subject",
    "subjects-across-splits": "one subject on both sides of the split",
    "image-level-split": "a split by image instead of by subject",
}
EVIDENCE = {
    "files": "how the files were made",
    "file-size": "bytes a pixel",
    "border": "the border alone",
    "thumbnail": "a thumbnail of 8 × 8 grey values",
    "outside-anatomy": "the image without the anatomy",
}
KINDS = {"bytes": "Same file", "pixels": "Same pixels", "near": "Near-identical", "mirrored": "Mirrored"}
MOST_FINDINGS, MOST_FIRST, MOST_NAMED, MOST_PAIRS, MOST_ASKED = 60, 8, 3, 3, 60


@dataclass(frozen=True)
class ProbeResult:
    """One finding as the page shows it; `reason` is what the study says why it is accepted, empty where it does not."""

    level: str
    tried: str
    figure: str
    p: str
    sentence: str
    remedy: str
    reason: str
    accepted: bool
    short: str


@dataclass(frozen=True)
class Twins:
    """Pairs of like pictures of one kind: what they do, counts by kind, and a few to look at (name and picture)."""

    row: Row
    pairs: list[tuple[tuple[str, str], tuple[str, str]]]


def tried(id: str, figures: Mapping[str, Any]) -> str:
    """What was tried, in words, from a finding's name and figures.

    >>> tried("shortcut-border", {"target": "finding"}), tried("source-told-no_finding", {})
    ('finding from the border alone', 'the source from the image, within no finding')
    """
    if id in TRIED:
        return TRIED[id]
    if id.startswith("source-told-"):
        return f"the source from the image, within {_plain(figures.get('within') or id.removeprefix('source-told-'))}"
    name = id.removeprefix("shortcut-")
    return f"{_plain(figures.get('target') or 'the label')} from {EVIDENCE.get(name, f'the column {name}')}"


def _plain(name: Any) -> str:
    return str(name).replace("_", " ")


def findings(audit: Mapping[str, Any]) -> list[ProbeResult]:
    """The findings in the audit's own order, the worst first."""
    accepted, rows = audit.get("accepted") or {}, rows_of(audit)
    told = []
    for finding in audit.get("findings", []):
        figures = finding.get("figures") or {}
        told.append(
            ProbeResult(
                finding["level"],
                renamed(tried(finding["id"], figures), rows.removesuffix("s")),
                _figure(figures),
                _p(figures.get("p_adjusted", figures.get("p"))),
                finding["sentence"],
                finding.get("remedy") or "",
                str(accepted.get(finding["id"], "")),
                finding["id"] in accepted,
                _short(figures),
            )
        )
    return told


def first_screen(material: ReportContext) -> dict[str, Any] | None:
    """What stands above everything else: the verdict, a line an error with the reason it is accepted for, and counts.

    The verdict's own example is not repeated: it is the first of the list. The evidence stands in the section.
    """
    audit = material.audit
    if audit is None:
        return None
    told = [one for one in findings(audit) if one.level != "note"]
    verdict = str(audit.get("verdict", ""))
    if told:
        verdict = verdict.removesuffix(told[0].sentence).strip().removesuffix(":")
    errors, warnings = ([one for one in told if one.level == level] for level in ("error", "warning"))
    why = untested(audit.get("facts") or {})
    return {
        "verdict": verdict,
        "clean": not told,
        # Green says that all was asked.
        "tone": "error" if errors else "warning" if warnings else "neutral" if why else "clean",
        "unasked": f"{why[0].upper()}{why[1:]}." if why and told else "",
        "errors": errors[:MOST_FIRST],
        "more": max(0, len(errors) - MOST_FIRST),
        "warnings": counted(len(warnings), "warning") if warnings else "",
        "warned": [f"{one.tried} ({one.short})" if one.short else one.tried for one in warnings[:MOST_NAMED]],
        "unnamed": max(0, len(warnings) - MOST_NAMED),
    }


def section(material: ReportContext) -> dict[str, Any] | None:
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
        "kinds": ["Found", "Pairs", *KINDS.values()],
        "asked": asked(audit),
        "unasked": untested(audit.get("facts") or {}),
        "not_asked": [str(what) for what in (audit.get("facts") or {}).get("not_asked") or []],
        "steps": spent,
        "seconds": duration(sum(value for value in seconds.values() if is_number(value))),
        "notes": [str(note) for note in audit.get("notes", [])] + _seen_of_scans(material),
        "rows": rows_of(audit),
        "examined": [
            counted(int(value), str(what).replace("_", " ").removesuffix("s"))
            for what, value in (audit.get("facts") or {}).items()
            if what in ("subjects", *ROWS)
        ],
    }


def rows_of(audit: Mapping[str, Any]) -> str:
    """What the rows of the table are.

    >>> rows_of({}), rows_of({"facts": {"scans": 12}})
    ('images', 'scans')
    """
    return next((what for what in ROWS if what in (audit.get("facts") or {})), ROWS[0])


def _seen_of_scans(material: ReportContext) -> list[str]:
    """What was looked at of volumes, whose pictures are smaller than they are."""
    if not modality_of(material.study).report_facts(material.study)["windowed"]:
        return []
    return ["Of every scan the central window of slices was looked at, in its grid, as it was prepared."]


def asked(audit: Mapping[str, Any]) -> list[Row]:
    """Every question about a shortcut with its figures, found or not."""
    rows = []
    for one in ((audit.get("facts") or {}).get("questions") or [])[:MOST_ASKED]:
        name, _, how = str(one.get("evidence", "")).partition(" (")
        text = f"{_plain(one.get('target') or 'the label')} from {EVIDENCE.get(name, f'the column {name}')}"
        if one.get("within"):
            text = tried("source-told-", one)
        text = renamed(text, rows_of(audit).removesuffix("s"))
        text += f" ({how}" if how else ""
        cells = [
            Cell(_figure(one)),
            Cell(_p(one.get("p_adjusted", one.get("p")))),
            Cell(number(one.get("images"), 0)),
        ]
        rows.append(Row(text[0].upper() + text[1:], cells))
    return rows


def twins(material: ReportContext) -> list[Twins]:
    """The pairs of like pictures by what they do; a few of each are shown."""
    audit, images = material.audit or {}, material.cohort_images
    number_of = dict(zip(images["path"].astype(str), images["image"], strict=True)) if "path" in images else {}
    found = []
    for finding in audit.get("findings", []):
        if not finding["id"].startswith("twins-"):
            continue
        pairs = [[str(path) for path in pair] for pair in finding.get("pairs", [])]
        figures = finding.get("figures") or {}
        shown = [pair for pair in pairs if all(path in number_of for path in pair)][:MOST_PAIRS]
        pictures = [[(Path(path).name, _picture(material, int(number_of[path]))) for path in pair] for pair in shown]
        what = TRIED.get(finding["id"], finding["id"])
        cells = [Cell(f"{figures.get('pairs', len(pairs)):,}"), *(Cell(number(figures.get(k), 0)) for k in KINDS)]
        found.append(Twins(Row(what[0].upper() + what[1:], cells), [(a, b) for a, b in pictures]))
    return found


def _picture(material: ReportContext, image: int) -> str:
    slide = (
        material.slide(str(material.cohort_images["path"].iloc[image]))
        if "tile_side" in material.cohort_images
        else None
    )
    if slide is not None:
        return data_uri(slide.read_picture(), longest=150)
    return data_uri(as_picture(material.tiles([image])[0]), longest=150)


def _figure(figures: Mapping[str, Any]) -> str:
    """How well something is told: an AUROC, or a correlation where it is a number.

    >>> _figure({"metric": "auroc", "value": 0.914}), _figure({"metric": "r", "value": 0.5}), _figure({})
    ('0.91', 'r = 0.50', '–')
    """
    value = number(figures.get("value"), 2)
    return f"r = {value}" if figures.get("metric") == "r" and value != MISSING else value


def _short(figures: Mapping[str, Any]) -> str:
    """The one figure of a finding, with what it counts; empty where it has none.

    >>> _short({"metric": "auroc", "value": 0.914}), _short({"metric": "r", "value": 0.5}), _short({"pairs": 4})
    ('AUROC 0.91', 'r = 0.50', '4 pairs')
    """
    value = _figure(figures)
    if value != MISSING:
        return value if figures.get("metric") == "r" else f"AUROC {value}"
    known = [(key, figures[key]) for key in ("pairs", "subjects") if is_number(figures.get(key))]
    return counted(int(known[0][1]), known[0][0].removesuffix("s")) if known else ""


def _p(value: Any) -> str:
    """A p-value to three decimals, never as zero.

    >>> _p(0.0004), _p(0.04), _p(None)
    ('< 0.001', '0.040', '–')
    """
    return "< 0.001" if is_number(value) and value < 0.0005 else number(value, 3)
