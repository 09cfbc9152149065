"""No two statements on one page disagree: every verdict on a pair, over pages of all kinds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from casewise.report.blocks import Block, Fold, Table
from casewise.report.context import EXTERNAL, ReportContext
from casewise.report.first_screen import screen
from casewise.report.page import sections
from casewise.report.statements import statements
from casewise.report.tables import VERDICTS
from casewise.report.terms import SIDES
from casewise.study.learners import learner_name
from tests.report_contexts import classes, films, in_phases, numbers, split_by_image

INVERSE = {"better": "worse", "worse": "better"}
PAGES: dict[str, Callable[[], ReportContext]] = {
    "numbers": lambda: numbers(learners=3, metas=2),
    "numbers without a test set": lambda: numbers(test=0, subjects=12, learners=3, metas=4),
    "numbers of few subjects": lambda: numbers(subjects=5, test=2),
    "one learner": lambda: numbers(learners=1),
    "classes elsewhere": lambda: classes(test=30, outside=60, networks=3),
    "classes": lambda: classes(networks=3),
    "two classes": lambda: classes("binary", networks=2),
    "grades": lambda: classes("ordinal", subjects=100, networks=2),
    "films": films,
    "phases and a split by image": lambda: split_by_image(in_phases(classes("binary", networks=2)), 0.985),
}


def tables(blocks: list[Block]) -> list[Table]:
    inside = [table for block in blocks if isinstance(block, Fold) for table in tables(list(block.blocks))]
    return [block for block in blocks if isinstance(block, Table)] + inside


class Verdicts:
    """What the page says of each pair, once in either direction."""

    def __init__(self) -> None:
        self.of_pair: dict[tuple[str, str, str], str] = {}

    def add(self, place: str, learner: str, other: str, text: str) -> None:
        for first, second, verdict in ((learner, other, text), (other, learner, INVERSE.get(text, text))):
            known = self.of_pair.setdefault((place, first, second), verdict)
            assert known == verdict, f"{first} beside {second}, {place}: {known} and {verdict}"


@pytest.fixture(params=PAGES)
def context(request: pytest.FixtureRequest) -> ReportContext:
    return PAGES[request.param]()


def test_no_two_verdicts_disagree(context: ReportContext) -> None:
    verdicts, words = Verdicts(), set(VERDICTS.values())
    reported = learner_name(context.learner)
    names = {learner_name(name) for name in context.learners}
    for rival in screen(context).rivals:
        if rival.name in names and rival.verdict:
            verdicts.add(SIDES[context.stage], reported, rival.name, rival.verdict_text)
    shown = {section.id: section for section in sections(context)}
    for table in tables(list(shown["learners"].blocks)) if "learners" in shown else []:
        place = next((side for side in SIDES.values() if table.caption.lower().startswith(side)), "")
        for column, head in enumerate(table.columns[1:]):
            if head.startswith("Against "):
                for row in table.rows:
                    if row.cells[column].text in words:
                        verdicts.add(place, row.name, head.removeprefix("Against "), row.cells[column].text)
    assert all(verdict in words for verdict in verdicts.of_pair.values())


def test_the_first_screen_and_the_table_agree_on_another_cohort(context: ReportContext) -> None:
    said = next((each for each in statements(context) if each.id == "elsewhere"), None)
    shown = {section.id: section for section in sections(context)}
    assert (EXTERNAL in context.metrics.metrics) == ("external" in shown)
    if said is None or "external" not in shown:
        return
    first = tables(list(shown["external"].blocks))[0]
    by_metric = {row.name: row.cells[-1].text for row in first.rows}
    assert ("worse" in said.text) == (by_metric["AUROC"] == "worse")
