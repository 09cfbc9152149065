"""Blocks of a page, their labels and the verdicts."""

import dataclasses
import re
from collections.abc import Callable

import pandas as pd
import pytest

from casewise.report import blocks as b
from casewise.report.blocks import Cell, Counts, Picture, Plot, Plots, Row, Section, Table, Text, counts_line, rendered
from casewise.report.context import EXTERNAL, SIDES, ReportContext
from casewise.report.figures.drawing import Drawing
from casewise.report.first_screen import screen
from casewise.report.sections import labels, learners
from casewise.report.sections.designs import external
from casewise.report.statements import statements
from casewise.report.tables import VERDICTS
from casewise.study.learners import learner_name
from tests.report.shared import blocks_of, cells_of
from tests.report_contexts import check_page, classes, films, in_phases, numbers, split_by_image

NAME = "<b>|a`b"
PICTURE = Picture("data:image/png;base64,AAAA", "tile 1", "upper")
ON_BOTH: list[b.Block] = [
    Text("A note on `seeds: 3`.", note=True),
    b.Heading("Part"),
    b.Items(["one", "two"]),
    b.Facts([("Level", "90 %")]),
    b.Code("name: x\nseed: 1"),
    b.Table(["Class", "Recall"], [Row(NAME, [Cell("0.75", "[0.50, 0.90]", 0.75)], mark=True)], "Recall by class."),
    b.Matrix(Counts(["a", "b"], [counts_line("a", [3, 1]), counts_line("b", [0, 0])]), "Classes.", "reference"),
    b.Fold("More", [Text("inside")]),
]
ON_THE_PAGE: list[b.Block] = [
    b.Plots([Plot(Drawing(10, 10, "<path/>"), "a curve", "its caption")], "how to read it"),
    b.Pictures([PICTURE], "Tiles"),
    b.Cards([b.Card("subject 1", [PICTURE], [Text("predicted a")])]),
]


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    sections = [Section("one", "One", ON_BOTH), Section("two", "Two", ON_THE_PAGE)]
    return rendered(sections, html=True), rendered(sections, html=False)


def test_every_block_is_valid_html(pages: tuple[str, str]) -> None:
    head = "<!doctype html><html lang='en'><head><title>x</title></head><body><h1>x</h1>"
    page = check_page(f"{head}{pages[0]}</body></html>")
    assert page.every("id") == ["one", "two"]
    assert "&lt;b&gt;" in pages[0]


def test_a_name_breaks_no_table_of_markdown(pages: tuple[str, str]) -> None:
    (line,) = [line for line in pages[1].splitlines() if "0.75" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert "| 3 | 1 | 4 |" in pages[1]


def test_blocks_without_content_are_left_out() -> None:
    empty = [b.Table(["a"], [], "None."), b.Fold("More", [Text(""), b.Facts([])]), Plots([])]
    assert not Section("empty", "Empty", empty)
    assert Section("one", "One", [*empty, Text("Words.")]).blocks == [Text("Words.")]


def test_a_table_is_a_csv_file_whose_texts_are_no_formulas() -> None:
    rows = [Row("=1", [Cell("0.5", "[0.4, 0.6]")]), Row("b", ["0.7"])]
    assert b.Table(["Name", "AUROC"], rows, "").csv() == 'Name,AUROC\n\'=1,"0.5 [0.4, 0.6]"\nb,0.7\n'
    data = pd.DataFrame({"a": [1.25, None], "b": ["x", None], "c": [None, None]})
    table = b.Table.of(data, "Values.")
    assert (table.columns, [row.name for row in table.rows]) == (["a", "b"], ["1.25", ""])
    assert table.csv() == "a,b,c\n1.25,x,\n,,\n"


def test_markdown_has_no_heading_without_content() -> None:
    sections = [Section("drawn", "Drawn", [Plots([])]), Section("said", "Said", [Text("Words.")])]
    assert b.markdown_page(["# Page"], sections) == "# Page\n\n## Said\n\nWords.\n"


def test_a_page_leaves_out_folds_and_their_table_has_every_figure() -> None:
    inner = [
        b.Heading("By class"),
        *ON_BOTH,
        b.Fold("Deeper", [b.Items(["a"])]),
        b.Fold("Cases", [Text("x")], page_only=True),
    ]
    section = Section("s", "Classes", [Text("first"), b.Fold("More", inner), b.Fold("Kept", [Text("y")], needed=True)])
    assert [block.form for block in b.without_folds(section).blocks] == ["text", "fold"]
    rows = b.folded([section])
    assert {row["section"] for row in rows} == {"Classes"}
    assert {row["part"] for row in rows} == {"More: By class", "More: Part", "More: More", "More: Deeper"}
    recall = {"table": "Recall by class.", "row": NAME, "column": "Recall", "value": "0.75 [0.50, 0.90]"}
    counts = {"table": "Classes.", "row": "a", "column": "b", "value": "1"}
    for expected in (recall, counts, {"table": "", "row": "Level", "column": "", "value": "90 %"}):
        assert [row for row in rows if row.items() >= expected.items()] != []


def test_classes_are_counted_by_side_and_source(report_of_classes: ReportContext) -> None:
    context = report_of_classes
    sides, sources = (block.counts for block in blocks_of(labels.section(context), b.Matrix))
    assert sides.names == ["covid", "no finding", "pneumonia"]
    assert [row[0] for row in sides.rows] == [*(f"fold {i}" for i in range(1, 6)), "test", "all"]
    assert sum(row[1] for row in sides.rows[:-1]) == sides.rows[-1][1] == 150
    counts = context.cohort_images.groupby(["source", "finding"]).size()
    assert sources.rows[0][2][0][0] == counts[("cohen", 0.0)]
    held_out = dataclasses.replace(context, splits={**context.splits, "left_out": list("vwxyz")})
    assert blocks_of(labels.section(held_out), b.Matrix)[0].counts.rows[0][0] == "fold 1 (v)"


INVERSE = {"better": "worse", "worse": "better"}
# Fixtures of the session, and pages of their own.
PAGES: dict[str, Callable[[], ReportContext] | None] = {
    "report_of_numbers": None,
    "report_of_classes": None,
    "report_of_two_classes": None,
    "report_of_grades": None,
    "report_of_a_kernel": None,
    "grades, a test set and an external cohort": lambda: classes("ordinal", test=40, outside=60, networks=3),
    "numbers without a test set": lambda: numbers(test=0, subjects=12, learners=3, metas=4),
    "numbers of few subjects": lambda: numbers(subjects=5, test=2),
    "films": films,
    "phases and a split by image": lambda: split_by_image(in_phases(classes("binary", networks=2)), 0.985),
}


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
    assert (EXTERNAL in context.metrics.stages) == (section is not None)
    if said and section:
        auroc = cells_of(blocks_of(section, Table)[0], "AUROC")
        assert ("worse" in said.text) == (auroc["External is"].text == "worse")
