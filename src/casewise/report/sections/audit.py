"""The shortcut audit: its findings and tests, for the report and for the page of the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from casewise.audit.columns import FILLED
from casewise.audit.findings import Audit, Finding, noun_of
from casewise.audit.metadata import is_usual, named_columns
from casewise.audit.probes import ALPHA, FEWEST
from casewise.audit.sentences import untested, value_text
from casewise.console import duration
from casewise.modalities.registry import modality_of
from casewise.report.blocks import Block, Cell, Facts, Fold, Items, Picture, Pictures, Row, Section, Table, Text
from casewise.report.context import ReportContext
from casewise.report.figures.pictures import as_picture, data_uri
from casewise.report.formatting import MISSING, capital, counted, is_number, number, p_value, plain

WITHIN, SHORTCUT = "source-predictable-", "shortcut-"
# The longest side of an example in pixels, and the share of the image that it shows around the mark.
LONGEST, AROUND = 240, 0.03
MOST_FINDINGS, MOST_TESTS, MOST_LACKING = 60, 60, 40
NAMES = {
    "twins-across-subjects": "near-duplicates under two names",
    "twins-across-splits": "near-duplicates on both sides of the split",
    "twins-across-labels": "near-duplicates with two labels",
    "twins-within-subject": "near-duplicates within one subject",
    "twins-limited": "limits of the search for near-duplicates",
    "blank-images": "images that show nothing",
    "subjects-across-splits": "one subject on both sides of the split",
    "image-level-split": "a split by image instead of by subject",
    "subject-suffixes": "names of subjects that differ in an ending only",
    "subject-names": "names of subjects that may mean one person",
    "label-streaks": "labels in streaks along the file numbers",
    "subjects-guessed": "subjects that are guessed",
    "overlays-masked": "static marks that are masked",
}
EVIDENCE = {
    "files": "file properties",
    "file-name": "the prefix of the file name",
    "file-size": "the number of bytes per pixel",
    "shape": "the shape of the {noun}",
    "border": "the {noun} border",
    "overlay": "a static mark",
    "marks": "letters and marks anywhere",
    "grey-levels": "the use of the grey levels",
    "thumbnail": "a thumbnail of 8 × 8 grey values",
    "outside-anatomy": "the {noun} outside the anatomy",
    "brightness": "the brightness of the whole {noun}",
    "contrast": "the contrast of the whole {noun}",
    "sharpness": "the sharpness of the whole {noun}",
    "compression": "traces of compression in the pixels",
}
FINDINGS = (
    "AUROC (0.50 is chance) and r (of predicted and reference values) say how well the evidence alone predicts the"
    " label, or the source where it is named, in subjects not used for fitting. p: adjusted for the number of tests."
)
ALL = "All tests, with and without a finding."
TESTS = (
    "With few subjects, only a strong shortcut is found. Where the border is"
    " tested without what the appearance of the whole image explains, p is not adjusted."
)
MARKS = (
    "Marks at one place of many images, found without the labels. A kind of mark is a finding only if it predicts the"
    " label; marks in all images are not listed."
)
EXAMINED = (
    "Near-duplicates, subjects on both sides of the split, and whether table columns, file properties or simple"
    " properties of the image predict the label. Some of these may reflect the disease itself."
)


def section(context: ReportContext) -> Section | None:
    """The errors and warnings, and folded their meaning; None if the run has no audit.

    The page of the audit has the notes, all tests and the pairs of near-duplicates.
    """
    if context.audit is None:
        return None
    audit, accepted = Audit.from_json(context.audit), context.audit["accepted"]
    page = ("Notes, tests and pairs", "`audit.html` of the run; all in `audit.json`")
    examined: list[Block] = [Text(EXAMINED, note=True), Facts([*_limits(context, audit), *_lacking(audit), page])]
    notes = [note for note in audit.notes(accepted) if note.lower() != f"{untested(audit.facts)}.".lower()]
    examined.append(Items(notes))
    blocks = [*findings(audit, accepted, grave=True), *overlays(audit), Fold("What was examined", examined)]
    return Section("audit", "Shortcut audit", blocks)


def overlays(audit: Audit, tile: Callable[[int], np.ndarray | None] = lambda _: None) -> list[Block]:
    """The kinds of static marks with the numbers of images that have them, and an example of each.

    Args:
        tile: image number -> its tile without bars, (C, H, W) `uint8`; None without a picture.
    """
    rows, pictures = [], []
    for count, mark in enumerate(audit.facts.get("overlays") or [], 1):
        several = len(mark["by_class"]) > 1
        by_class = ", ".join(
            f"{f'{_target(target, audit)} {plain(name)}' if several else plain(name)} {marked:,} of {total:,}"
            for target, classes in mark["by_class"].items()
            for name, (marked, total) in classes.items()
        )
        images = f"{mark['images']:,} of {mark['examined']:,}"
        rows.append(Row(capital(mark["place"]), [images, by_class]))
        if (picture := tile(mark["example"])) is not None:
            (left, right), (top, bottom) = (
                (max(0, int((low - AROUND) * size)), int((high + AROUND) * size) + 1)
                for low, high, size in zip(mark["box"][:2], mark["box"][2:], picture.shape[:0:-1], strict=True)
            )
            uri = data_uri(as_picture(picture[:, top:bottom, left:right]), longest=LONGEST)
            pictures.append(Picture(uri, f"Example of the static mark {count}", f"mark {count}"))
    table = Table(["Static mark", capital(noun_of(audit.facts)[1]), "By class"], rows, MARKS)
    return [table, Pictures(pictures, "", "panels")]


def findings(audit: Audit, accepted: Mapping[str, str], *, grave: bool = False) -> list[Block]:
    """The number of findings of each level, a table of them, and folded what each means; with `grave` without notes."""
    errors = audit.of("error")
    passed = sum(finding.id in accepted for finding in errors)
    counts = [("Errors", f"{len(errors)}{f' ({passed} accepted by the study)' if passed else ''}")]
    counts += [(f"{capital(level)}s", str(len(audit.of(level)))) for level in ("warning", "note")]
    if untested(audit.facts):
        few = audit.facts.get("subjects", FEWEST) < FEWEST
        why = f"fewer than {FEWEST} subjects" if few else "too few cases, or nothing varies"
        counts.append(("Shortcuts", f"not tested: {why}"))
    shown = [finding for finding in worst_first(audit) if not (grave and finding.level == "note")][:MOST_FINDINGS]
    rows = []
    for finding in shown:
        standing = "accepted" if finding.id in accepted else "not accepted" if finding.level == "error" else ""
        cells = [Cell(finding.level, standing), Cell(size(finding, audit)), _p(finding.figures)]
        rows.append(Row(capital(about(finding, audit)), cells))
    meanings = Items(_meanings(shown, accepted))
    table = Table(["Finding", "Level", "Size", "p"], rows, FINDINGS)
    return [Facts(counts), table, Fold("What each finding means, and what to do", [meanings])]


def worst_first(audit: Audit) -> list[Finding]:
    """The findings, errors before warnings before notes."""
    return [*audit.of("error"), *audit.of("warning"), *audit.of("note")]


def about(finding: Finding, audit: Audit) -> str:
    """The subject of a finding, as words within a sentence.

    >>> about(Finding("shortcut-border-grade", "note", "", {"target": "grade", "evidence": "border (side)"}), Audit([]))
    'grade from the image border (side)'
    >>> about(Finding("source-predictable-no_finding", "note", ""), Audit([]))
    'the source from the image, within no finding'
    """
    figures = finding.figures
    if finding.id == "subjects-across-splits" and "where" in figures and "subjects" not in figures:
        return f"unknown subjects in the split in {figures['where']}"
    if finding.id in NAMES:
        return NAMES[finding.id] + (f" of {_target(figures['target'], audit)}" if figures.get("target") else "")
    if finding.id.startswith(WITHIN):
        return _tested({"within": finding.id.removeprefix(WITHIN), **figures}, audit)
    # with several targets, the code ends with the target
    code = finding.id.removeprefix(SHORTCUT).removesuffix(f"-{figures.get('target') or ''}")
    return _tested({"evidence": code, **figures}, audit)


def _target(name: str, audit: Audit) -> str:
    """A target as its column is headed, if its name is that heading in plain letters."""
    return str(audit.facts.get("headings", {}).get(name) or plain(name))


def _tested(figures: Mapping[str, Any], audit: Audit) -> str:
    """A tested prediction in words: the target and the evidence."""
    noun = noun_of(audit.facts)[0]
    name, _, detail = str(figures.get("evidence") or "").partition(" (")
    suffix = f" ({detail}" if detail else ""
    if within := figures.get("within"):
        return f"the source from the {noun}, within {plain(within)}{suffix}"
    evidence = EVIDENCE.get(name, f"the column {name}").format(noun=noun)
    return f"{_target(figures.get('target') or 'the label', audit)} from {evidence}{suffix}"


def of_other_column(finding: Finding, context: ReportContext) -> bool:
    """Whether a finding is of a column of the table that has no usual name, and that the study does not name."""
    name, images = str(finding.figures.get("evidence") or "").removesuffix(FILLED), context.cohort_images
    in_table = name in images or f"table_{name}" in images
    return in_table and not is_usual(name) and name not in [*named_columns(context.study), *context.study.covariates]


def size(finding: Finding, audit: Audit) -> str:
    """How strong a finding is: an AUROC, a correlation, or a number of pairs or subjects; a dash without any.

    >>> size(Finding("shortcut-x", "error", "", {"metric": "r", "value": 0.512}), Audit([]))
    'r = 0.51'
    """
    figures = finding.figures
    counts = [counted(int(figures[name]), name[:-1]) for name in ("pairs", "subjects") if is_number(figures.get(name))]
    if isinstance(images := figures.get("images"), list):
        counts.append(counted(len(images), "image"))
    return _value(figures, audit) or (counts[0] if counts else MISSING)


def _value(figures: Mapping[str, Any], audit: Audit) -> str:
    if not is_number(figures.get("value")):
        return ""
    by_class = {plain(name): value for name, value in (figures.get("by_class") or {}).items()}
    return value_text(
        figures["value"], by_class, "source" if "within" in figures else _target(figures.get("target") or "", audit)
    )


def _p(figures: Mapping[str, Any]) -> Cell:
    p = figures.get("p_adjusted", figures.get("p"))
    return Cell(p_value(p), value=p if is_number(p) else "")


def _meanings(shown: Sequence[Finding], accepted: Mapping[str, str]) -> list[str]:
    """The meaning of findings, with the study's reason for accepting them, otherwise with the remedy.

    Findings that differ in nothing but their first sentence, whose numbers are in the table, share an item.
    """
    codes: dict[tuple[str, str], list[str]] = {}
    whole: dict[tuple[str, str], str] = {}
    for finding in shown:
        reason = accepted.get(finding.id)
        remedy = f"Accepted by the study: {reason}" if reason else finding.remedy if finding.level != "note" else ""
        rest = finding.sentence.partition(". ")[2] if finding.level != "note" else ""
        key = (rest or finding.sentence, remedy)
        whole[key] = f"{finding.sentence} {remedy}".strip()
        codes.setdefault(key, []).append(finding.id)
    return [
        f"{', '.join(f'`{code}`' for code in of_all)}: " + (" ".join(key).strip() if len(of_all) > 1 else whole[key])
        for key, of_all in codes.items()
    ]


def all_tests(audit: Audit) -> list[Block]:
    """All tests for shortcuts with their figures, and what could not be tested."""
    _, nouns = noun_of(audit.facts)
    rows = []
    tests = audit.facts.get("tests") or []
    for test in tests[:MOST_TESTS]:
        counts = [Cell(number(test.get(name), 0)) for name in ("images", "subjects", "subjects_of_smallest")]
        rows.append(Row(capital(_tested(test, audit)), [_value(test, audit) or MISSING, _p(test), *counts]))
    columns = ["Test", "Size", "p", capital(nouns), "Subjects", "Of the smallest class or source"]
    which = (
        f"The first {MOST_TESTS} of {len(tests):,} tests; all are in audit.json." if len(tests) > MOST_TESTS else ALL
    )
    return [Table(columns, rows, f"{which} {TESTS}"), Facts(_lacking(audit))]


def _lacking(audit: Audit) -> list[tuple[str, str]]:
    lacking = [str(item) for item in audit.facts.get("not_tested") or []][:MOST_LACKING]
    without = [str(item) for item in audit.facts.get("not_examined") or []]
    rows = [("Could not be tested", ", ".join(lacking)), ("Not tested", "; ".join(without))]
    return [row for row in rows if row[1]]


def _limits(context: ReportContext, audit: Audit) -> list[tuple[str, str]]:
    """The scope, methods and duration of the audit."""
    facts, permutations = audit.facts, context.study.audit.permutations
    unit = context.study.unit
    nouns = {"subjects": (unit, f"{unit}s"), "images": noun_of(facts)}
    facts = {name: value for name, value in facts.items() if name != "subjects" or unit != "image"}
    sizes = [counted(int(facts[name]), *words) for name, words in nouns.items() if name in facts]
    smallest = p_value(1 / (permutations + 1))
    examined = [("Examined", ", ".join(sizes))] if sizes else []
    if modality_of(context.study).report_facts(context.study)["windowed"]:
        examined.append(("Part of each scan", "the central window of slices, as prepared for the networks"))
    if "tile_side" in context.cohort_images:
        examined.append(("Part of each slide", "the slide as a whole, not its tiles"))
    return [
        *examined,
        ("A test is a finding", f"if its adjusted p is at most {ALPHA:g}, unless the whole image explains it"),
        ("Permutations", f"{permutations:,}, so that p is at least {smallest}"),
        ("Time", duration(sum(value for value in audit.seconds.values() if is_number(value)))),
    ]
