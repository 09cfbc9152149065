"""The audit in the report, by its values: findings, near-duplicates, tests, and the statement of the first screen."""

import dataclasses
from collections.abc import Mapping

import pytest

from casewise.audit.findings import CODES, Audit, Finding
from casewise.report.blocks import Items, Section, Table, rendered
from casewise.report.context import ReportContext
from casewise.report.sections import audit
from casewise.report.statements import Statement, statements
from tests.report.shared import blocks_of, facts_of
from tests.report_contexts import REASON, audit_of


def with_audit(
    context: ReportContext, found: list[Finding], facts: Mapping[str, object], **accepted: str
) -> ReportContext:
    reasons = {name.replace("_", "-"): reason for name, reason in accepted.items()}
    return dataclasses.replace(context, audit=Audit(found, {}, dict(facts)).as_json(reasons))


def statement_of(context: ReportContext) -> Statement:
    return next(each for each in statements(context) if each.id == "audited")


def as_page(context: ReportContext, *, html: bool = False) -> str:
    section = audit.section(context)
    return rendered([section], html=html)


def test_findings_and_tests_are_tables(report_of_classes: ReportContext) -> None:
    section = audit.section(report_of_classes)
    (found,) = blocks_of(section, Table)
    (tests,) = blocks_of(Section("", "", audit.all_tests(Audit.from_json(report_of_classes.audit))), Table)
    assert [(row.name, *(cell.text for cell in row.cells)) for row in found.rows] == [
        ("Finding from the column source", "error", "AUROC 0.91", "0.001"),
        ("The source from the image, within no finding", "warning", "AUROC 0.97", "0.001"),
        ("Near-duplicates with two labels", "warning", "4 pairs", "–"),
    ]
    assert [row.cells[0].small for row in found.rows] == ["accepted", "", ""]
    assert tests.rows[1].name == "Finding from the image border (its corners)"
    assert [cell.text for cell in tests.rows[1].cells] == ["AUROC 0.52", "0.400", "150", "120", "9"]
    facts = facts_of(section)
    assert (facts["Errors"], facts["Warnings"], facts["Time"]) == ("1 (1 accepted by the study)", "2", "33 s")
    assert facts["Could not be tested"] == "finding from view"
    (meanings,) = blocks_of(section, Items)
    assert meanings.texts[0].endswith(f"Accepted by the study: {REASON}")


def test_the_first_screen_names_the_first_finding_and_why_it_is_accepted(report_of_classes: ReportContext) -> None:
    accepted = statement_of(report_of_classes)
    assert accepted.level == "bad"
    assert accepted.text.startswith("Audit: 1 error and 2 warnings. First: finding from the column source (AUROC 0.91)")
    assert accepted.text.endswith(f"accepted by the study: “{REASON.rstrip('.')}”.")
    unaccepted = dataclasses.replace(report_of_classes, audit=audit_of(report_of_classes.cohort_images, {}))
    assert "accepted" not in statement_of(unaccepted).text
    assert "not accepted" in as_page(unaccepted)


def test_findings_that_mean_the_same_share_an_item(report_of_classes: ReportContext) -> None:
    codes = ("shortcut-sharpness-a", "shortcut-sharpness-b", "shortcut-sharpness-c")
    texts = ("It predicts a (0.9). It may be blur.", "It predicts b (0.8). It may be blur.", "It predicts c.")
    found = [Finding(code, "warning", text, remedy="Look.") for code, text in zip(codes, texts, strict=True)]
    (items,) = blocks_of(audit.section(with_audit(report_of_classes, found, {})), Items)
    assert [[code in text for code in codes] for text in items.texts] == [[True, True, False], [False, False, True]]
    assert all(text.endswith("Look.") for text in items.texts)
    twins = [Finding("twins-across-labels", "warning", f"Two values of {name}.", remedy="Look.") for name in "ab"]
    (items,) = blocks_of(audit.section(with_audit(report_of_classes, twins, {})), Items)
    assert [text.split(": ")[1] for text in items.texts] == ["Two values of a. Look.", "Two values of b. Look."]


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_name(code: str) -> None:
    assert audit.about(Finding(code, "warning", "A sentence."), Audit([])) == audit.NAMES[code]


def test_a_target_is_named_by_the_heading_of_its_column() -> None:
    figures: dict[str, object] = {"target": "Befund_0_3", "evidence": "thumbnail", "metric": "auroc", "value": 0.8}
    figures["by_class"] = {"0": 1.0, "1": 0.6, "2": 0.6}
    finding = Finding("shortcut-thumbnail", "warning", "A thumbnail predicts Befund_0_3.", figures)
    named = Audit([finding], facts={"headings": {"Befund_0_3": "Befund (0-3)"}})
    assert audit.about(finding, named) == "Befund (0-3) from a thumbnail of 8 × 8 grey values"
    assert audit.size(finding, named) == "AUROC 0.80, and 1.00 for Befund (0-3) 0"
    assert audit.about(finding, Audit([finding])).startswith("Befund 0 3 from")
