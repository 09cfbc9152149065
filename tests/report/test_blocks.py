"""Blocks as HTML and as Markdown: the same values, and nothing that a name can break."""

from __future__ import annotations

import re

import pytest

from casewise.report import blocks as b
from casewise.report.blocks import Cell, Counts, Picture, Plot, Row, Section, Text, counts_line, rendered
from casewise.report.figures.drawing import Drawing
from tests.report_contexts import check_page

NAME = "<b>|a`b"
PICTURE = Picture("data:image/png;base64,AAAA", "tile 1", "upper")
ON_BOTH: list[b.Block] = [
    Text("A note on `seeds: 3`.", note=True), b.Heading("Part"), b.Items(["one", "two"]),
    b.Facts([("Level", "90 %")]), b.Code("name: x\nseed: 1"),
    b.Table(["Class", "Recall"], [Row(NAME, [Cell("0.75", "[0.50, 0.90]", 0.75)], mark=True)], "Recall by class."),
    b.Matrix(Counts(["a", "b"], [counts_line("a", [3, 1]), counts_line("b", [0, 0])]), "Classes.", "reference"),
    b.Fold("More", [Text("inside")]),
]  # fmt: skip
ON_THE_PAGE: list[b.Block] = [
    b.Plots([Plot(Drawing(10, 10, "<path/>"), "a curve", "its caption")], "how to read it"),
    b.Pictures([PICTURE], "Tiles"),
    b.Cards([b.Card("subject 1", [PICTURE], [Text("predicted a")])]),
]


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    sections = [Section("one", "One", ON_BOTH), Section("two", "Two", ON_THE_PAGE)]
    return rendered(sections, html=True), rendered(sections, html=False)


def test_both_pages_have_the_same_words(pages: tuple[str, str]) -> None:
    html, markdown = pages
    for word in ("seeds: 3", "Part", "one", "90 %", "seed: 1", "0.75", "Recall by class.", "reference", "inside"):
        assert word in html
        assert word in markdown
    assert all(word in html and word not in markdown for word in ("a curve", "its caption", "subject 1", "Tiles"))


def test_every_block_is_valid_html(pages: tuple[str, str]) -> None:
    head = "<!doctype html><html lang='en'><head><title>x</title></head><body><h1>x</h1>"
    page = check_page(f"{head}{pages[0]}</body></html>")
    assert page.every("id") == ["one", "two"]
    assert "&lt;b&gt;" in pages[0]


def test_a_name_breaks_no_table_of_markdown(pages: tuple[str, str]) -> None:
    (line,) = [line for line in pages[1].splitlines() if "0.75" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert "| 3 | 1 | 4 |" in pages[1]
