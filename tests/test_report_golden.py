"""One page of each kind, word by word, as Markdown: `make golden` remakes them after a change of wording."""

import os
import re
from pathlib import Path

import pytest

from casewise.report.context import ReportContext
from casewise.report.page import render
from casewise.report.results_page import write_results
from tests.report_contexts import check_page, finished, in_phases, split_by_image

GOLDEN = Path(__file__).parent / "golden"
REPORTS = {"number": "report_of_numbers", "classes": "report_of_classes", "grades": "report_of_grades"}
REPORTS["kernel"] = "report_of_a_kernel"
CODE_NAMES = re.compile(r"\b(meta_learner\w*|mean_of_learners|linear_(?:pixels|features)|kernel_features)\b")


@pytest.mark.parametrize("kind", [*REPORTS, "phases"])
def test_the_page_reads_as_its_golden_page(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    context = request.getfixturevalue(REPORTS.get(kind, "report_of_two_classes"))
    if kind == "phases":
        context = split_by_image(in_phases(context), 0.985)
    page = write_results(finished(context, tmp_path / "run"), tmp_path / f"results-{kind}.md")
    for made in (page, page.with_suffix(".csv")):
        path = GOLDEN / made.name
        if os.environ.get("CASEWISE_GOLDEN"):
            path.write_bytes(made.read_bytes())
        assert path.read_text().splitlines() == made.read_text().splitlines(), f"{path}: if it should, `make golden`"


def check_named_by_code_once(page: str, context: ReportContext) -> None:
    """Check that the learners of a page have their names of files once each, and otherwise their titles."""
    text = re.sub(r"<(svg|style|script|pre)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert sorted(CODE_NAMES.findall(text)) == sorted(name for name in context.learners if CODE_NAMES.fullmatch(name))


def test_a_learner_is_named_by_its_code_once(report_of_a_kernel: ReportContext) -> None:
    page = render(report_of_a_kernel)
    check_page(page)
    check_named_by_code_once(page, report_of_a_kernel)
