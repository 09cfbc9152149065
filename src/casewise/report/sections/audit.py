"""The shortcut audit, for the first screen and in a section of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from casewise.audit.findings import PROBES, noun_of
from casewise.audit.probes import ALPHA
from casewise.audit.sentences import untested
from casewise.modalities.registry import modality_of
from casewise.report.context import ReportContext, is_number
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.formatting import plain
from casewise.report.modality_sections import modality_report

TWINS = "twins-"
WITHIN = "source-predictable-"
PAIR_KINDS = ("bytes", "pixels", "near", "mirrored")
MOST_FINDINGS, MOST_FIRST, MOST_NAMED, MOST_PAIRS, MOST_TESTS, MOST_LACKING = 60, 8, 3, 3, 60, 40


def subject_of(id: str, figures: Mapping[str, Any]) -> dict[str, str]:
    """The subject of a finding: a code, the target, and the column or class.

    >>> subject_of("shortcut-border", {"target": "finding"})
    {'code': 'border', 'target': 'finding', 'name': 'border', 'detail': ''}
    >>> subject_of("shortcut-border-grade", {"target": "grade", "evidence": "border (its corners)"})
    {'code': 'border', 'target': 'grade', 'name': 'border', 'detail': 'its corners'}
    >>> subject_of("source-predictable-no_finding", {})
    {'code': 'source-from-image', 'target': '', 'name': 'no finding', 'detail': ''}
    """
    if id.startswith(WITHIN):
        name = plain(figures.get("within") or id.removeprefix(WITHIN))
        return {"code": "source-from-image", "target": "", "name": name, "detail": ""}
    if not id.startswith("shortcut-"):
        return {"code": id, "target": "", "name": "", "detail": ""}
    target = str(figures.get("target") or "")
    # with several targets, the code ends with the target
    return _probe(figures.get("evidence") or id.removeprefix("shortcut-").removesuffix(f"-{target}"), figures)


def _probe(evidence: str, figures: Mapping[str, Any]) -> dict[str, str]:
    name, _, detail = evidence.partition(" (")
    code = name if name in PROBES else "column"
    return {"code": code, "target": plain(figures.get("target") or ""), "name": name, "detail": detail.rstrip(")")}


def findings(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings in the order of the audit, the most severe first."""
    accepted = audit.get("accepted") or {}
    rows = []
    for finding in audit.get("findings", []):
        figures = finding.get("figures") or {}
        rows.append(
            {
                "level": finding["level"],
                "subject": subject_of(finding["id"], figures),
                "metric": figures.get("metric", ""),
                "value": figures.get("value"),
                "p": figures.get("p_adjusted", figures.get("p")),
                "counted": next(((k, figures[k]) for k in ("pairs", "subjects") if is_number(figures.get(k))), None),
                "sentence": finding["sentence"],
                "remedy": finding.get("remedy") or "",
                "accepted": finding["id"] in accepted,
                "reason": str(accepted.get(finding["id"], "")),
            }
        )
    return rows


def first_screen(context: ReportContext) -> dict[str, Any] | None:
    """The audit at the top of the page: a line per error with the reason for accepting it, warnings, and counts."""
    audit = context.audit
    if audit is None:
        return None
    rows, facts = findings(audit), audit.get("facts") or {}
    errors, warnings = ([row for row in rows if row["level"] == level] for level in ("error", "warning"))
    not_tested = bool(untested(facts))
    return {
        # green means that everything was examined
        "tone": "error" if errors else "warning" if warnings else "neutral" if not_tested else "clean",
        "errors": errors[:MOST_FIRST],
        "error_count": len(errors),
        "note_count": sum(row["level"] == "note" for row in rows),
        "more": max(0, len(errors) - MOST_FIRST),
        "warning_count": len(warnings),
        "warnings": warnings[:MOST_NAMED],
        "unnamed": max(0, len(warnings) - MOST_NAMED),
        "untested": untested_code(facts),
        "examined": examined(facts),
        "noun": noun_of(facts)[0],
    }


def untested_code(facts: Mapping[str, Any]) -> str:
    """The reason why no shortcut was tested: `few_subjects`, `nothing_varies`, or empty if one was tested."""
    from casewise.audit.probes import FEWEST

    if not untested(facts):
        return ""
    return "few_subjects" if facts.get("subjects", FEWEST) < FEWEST else "nothing_varies"


def examined(facts: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """The numbers of examined subjects and images: count, and the noun for one and for several.

    >>> examined({"subjects": 1, "images": 12, "noun": ["spectrogram", "spectrograms"]})
    [(1, 'subject', 'subjects'), (12, 'spectrogram', 'spectrograms')]
    """
    nouns = {"subjects": ("subject", "subjects"), "images": noun_of(facts)}
    return [(int(facts[name]), *noun) for name, noun in nouns.items() if name in facts]


def section(context: ReportContext) -> dict[str, Any] | None:
    """The evidence, the near-duplicates and the time; None if the run has no audit."""
    audit = context.audit
    if audit is None:
        return None
    rows, facts, seconds = findings(audit), audit.get("facts") or {}, audit.get("seconds") or {}
    seconds_by_step = {plain(step): value for step, value in seconds.items() if is_number(value)}
    noun, nouns = noun_of(facts)
    return {
        "screen": first_screen(context),
        "findings": rows[:MOST_FINDINGS],
        "more": max(0, len(rows) - MOST_FINDINGS),
        "figures": any(is_number(row["value"]) for row in rows),
        "twins": twins(context),
        "pair_kinds": PAIR_KINDS,
        "tests": test_rows(facts),
        "tested_subjects": tested_subjects(facts),
        "two_borders": any("without what its" in str(test.get("evidence")) for test in facts.get("tests") or []),
        "threshold": ALPHA,
        "untested": untested_code(facts),
        "not_tested": [str(item) for item in facts.get("not_tested") or []][:MOST_LACKING],
        "steps": seconds_by_step,
        "seconds": sum(seconds_by_step.values()),
        # the reason why nothing was tested has a separate paragraph
        "notes": [note for note in map(str, audit.get("notes", [])) if note.lower() != f"{untested(facts)}.".lower()],
        "noun": noun,
        "nouns": nouns,
        "windowed": modality_of(context.study).report_facts(context.study)["windowed"],
        "examined": examined(facts),
    }


def test_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All tests for shortcuts with their figures."""
    rows = []
    for test in (facts.get("tests") or [])[:MOST_TESTS]:
        subject = _probe(str(test.get("evidence", "")), test)
        if test.get("within"):
            subject = {**subject, **subject_of(WITHIN, test), "detail": subject["detail"]}
        p = test.get("p_adjusted", test.get("p"))
        numbers = ("metric", "value", "images", "subjects", "subjects_of_smallest")
        rows.append({"subject": subject, **{k: test.get(k) for k in numbers}, "p": p})
    return rows


def tested_subjects(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fewest and the most subjects of the tests of the `label`, and of those of the `source` within a class.

    `of_smallest` are those of the smallest class, or of the smallest source; empty for numbers and in earlier audits.

    >>> tests = [{"subjects": 40, "subjects_of_smallest": 9}, {"subjects": 50, "subjects_of_smallest": 12}]
    >>> tested_subjects({"tests": tests})
    [{'code': 'label', 'subjects': [40, 50], 'of_smallest': [9, 12]}]
    """
    families = []
    for code in ("label", "source"):
        tests = [test for test in facts.get("tests") or [] if bool(test.get("within")) == (code == "source")]
        ranges = {}
        for name in ("subjects", "subjects_of_smallest"):
            counts = [int(test[name]) for test in tests if is_number(test.get(name))]
            ranges[name] = sorted({min(counts), max(counts)}) if counts else []
        if ranges["subjects"]:
            values = {"subjects": ranges["subjects"], "of_smallest": ranges["subjects_of_smallest"]}
            families.append({"code": code, **values})
    return families


def twins(context: ReportContext) -> list[dict[str, Any]]:
    """Pairs of near-identical pictures by their effect: counts by kind of pair, and a few examples."""
    audit, images = context.audit or {}, context.cohort_images
    number_of = dict(zip(images["path"].astype(str), images["image"], strict=True)) if "path" in images else {}
    groups = []
    for finding in audit.get("findings", []):
        if not finding["id"].startswith(TWINS):
            continue
        pairs = [[str(path) for path in pair] for pair in finding.get("pairs", [])]
        figures = finding.get("figures") or {}
        shown = [pair for pair in pairs if all(path in number_of for path in pair)][:MOST_PAIRS]
        groups.append(
            {
                "subject": subject_of(finding["id"], figures),
                "count": figures.get("pairs", len(pairs)),
                "kinds": [figures.get(kind) for kind in PAIR_KINDS],
                "pairs": [
                    [(Path(path).name, _picture(context, path, int(number_of[path]))) for path in pair]
                    for pair in shown
                ],
            }
        )
    return groups


def _picture(context: ReportContext, path: str, image: int) -> str:
    overview = modality_report(context.study).overview(context, path)
    picture = as_picture(context.tiles([image])[0]) if overview is None else overview
    return data_uri(picture, longest=150)
