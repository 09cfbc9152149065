"""One page of each kind and Markdown form, word by word: `make golden` remakes them after a change of wording."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from casewise.report.markdown.page import write_results

from casewise.report.page import render
from casewise.study.learners import learner_name
from tests.report_contexts import finished, in_phases, outline, split_by_image

GOLDEN = Path(__file__).parent / "golden"
REPORTS = {"number": "report_of_numbers", "classes": "report_of_classes", "grades": "report_of_grades"}
REPORTS["kernel"] = "report_of_a_kernel"


def compare(text: str, name: str) -> None:
    """Check against the file, or write it where `CASEWISE_GOLDEN` is set."""
    path = GOLDEN / name
    if os.environ.get("CASEWISE_GOLDEN"):
        path.write_text(text)
    assert path.read_text().splitlines() == text.splitlines(), f"{path} differs; if it should, run `make golden`"


@pytest.mark.parametrize("kind", REPORTS)
def test_the_report_reads_as_its_golden_page(kind: str, request: pytest.FixtureRequest) -> None:
    compare(outline(render(request.getfixturevalue(REPORTS[kind]))), f"report-{kind}.txt")


CODE_NAMES = re.compile(r"\b(meta_learner\w*|mean_of_learners|linear_(?:pixels|features)|kernel_features)\b")


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_has_the_code_name_of_a_learner_once(kind: str, request: pytest.FixtureRequest) -> None:
    """In the note that says what reports call it; the settings at the end of the page are those of the study file."""
    context = request.getfixturevalue(REPORTS[kind])
    names = [name for name in context.learners if CODE_NAMES.fullmatch(name)]
    assert names
    text = outline(render(context)).partition("Study file as run")[0]
    assert sorted(CODE_NAMES.findall(text)) == sorted(names)
    assert all(learner_name(name) in text for name in names)


@pytest.mark.parametrize("kind", [*REPORTS, "phases"])
def test_the_markdown_page_reads_as_its_golden_page(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    context = request.getfixturevalue(REPORTS.get(kind, "report_of_two_classes"))
    if kind == "phases":
        context = split_by_image(in_phases(context), 0.985)
    compare(write_results(finished(context, tmp_path / "run"), tmp_path / "page.md").read_text(), f"results-{kind}.md")
