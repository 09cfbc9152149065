"""One page of each kind and Markdown form, word by word: `make golden` remakes them after a change of wording."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from casewise.report.markdown.page import write_results
from casewise.report.page import render
from tests.report_contexts import finished, in_phases, outline, split_by_image

GOLDEN = Path(__file__).parent / "golden"
REPORTS = {"number": "report_of_numbers", "classes": "report_of_classes", "grades": "report_of_grades"}


def compare(text: str, name: str) -> None:
    """Check against the file, or write it where `CASEWISE_GOLDEN` is set."""
    path = GOLDEN / name
    if os.environ.get("CASEWISE_GOLDEN"):
        path.write_text(text)
    assert path.read_text().splitlines() == text.splitlines(), f"{path} differs; if it should, run `make golden`"


@pytest.mark.parametrize("kind", REPORTS)
def test_the_report_reads_as_its_golden_page(kind: str, request: pytest.FixtureRequest) -> None:
    compare(outline(render(request.getfixturevalue(REPORTS[kind]))), f"report-{kind}.txt")


@pytest.mark.parametrize("kind", [*REPORTS, "phases"])
def test_the_markdown_page_reads_as_its_golden_page(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    context = request.getfixturevalue(REPORTS.get(kind, "report_of_two_classes"))
    if kind == "phases":
        context = split_by_image(in_phases(context), 0.985)
    compare(write_results(finished(context, tmp_path / "run"), tmp_path / "page.md").read_text(), f"results-{kind}.md")
