"""No two statements on one page disagree: every verdict on a pair, over pages of all kinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from casewise.report.blocks import Table
from casewise.report.context import EXTERNAL, ReportContext
from casewise.report.first_screen import screen
from casewise.report.sections import learners
from casewise.report.sections.designs import external
from casewise.report.statements import statements
from casewise.report.tables import VERDICTS
from casewise.report.terms import SIDES
from casewise.study.learners import learner_name
from tests.report.shared import blocks_of, cells_of
from tests.report_contexts import classes, films, in_phases, numbers, split_by_image

INVERSE = {"better": "worse", "worse": "better"}
# Fixtures of the session, and pages of their own.
PAGES: dict[str, Callable[[], ReportContext] | None] = {
    "report_of_numbers": None, "report_of_classes": None, "report_of_two_classes": None, "report_of_grades": None,
    "report_of_a_kernel": None,
    "grades, a test set and an external cohort": lambda: classes("ordinal", test=40, outside=60, networks=3),
    "numbers without a test set": lambda: numbers(test=0, subjects=12, learners=3, metas=4),
    "numbers of few subjects": lambda: numbers(subjects=5, test=2), "films": films,
    "phases and a split by image": lambda: split_by_image(in_phases(classes("binary", networks=2)), 0.985),
}  # fmt: skip


@pytest.mark.parametrize("kind", PAGES)
def test_no_two_verdicts_disagree(kind: str, request: pytest.FixtureRequest) -> None:
    own = PAGES[kind]
    context: ReportContext = own() if own else request.getfixturevalue(kind)
    verdicts: dict[tuple[str, str, str], str] = {}

    def add(place: str, learner: str, other: str, text: str) -> None:
        assert text in VERDICTS.values()
        for first, second, verdict in ((learner, other, text), (other, learner, INVERSE.get(text, text))):
            assert verdicts.setdefault((place, first, second), verdict) == verdict, f"{first}, {second}, {place}"

    names = {learner_name(name) for name in context.learners}
    for rival in screen(context).rivals:
        if rival.name in names and rival.verdict:
            add(SIDES[context.stage], learner_name(context.learner), rival.name, rival.verdict_text)
    for table in blocks_of(learners.section(context), Table):
        place = next((side for side in SIDES.values() if table.caption.lower().startswith(side)), "")
        for row in table.rows:
            for head, cell in zip(table.columns[1:], row.cells, strict=True):
                if head.startswith("Against ") and cell.text != "–":
                    add(place, row.name, head.removeprefix("Against "), cell.text)
    said = next((each for each in statements(context) if each.id == "external_cohort"), None)
    section = external.section(context)
    assert (EXTERNAL in context.metrics.metrics) == (section is not None)
    if said and section:
        auroc = cells_of(blocks_of(section, Table)[0], "AUROC")
        assert ("worse" in said.text) == (auroc["External is"].text == "worse")
