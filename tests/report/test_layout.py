"""Reports in Chromium on a phone, a tablet and a desk: nothing is cut, overlaps, or is too small to read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from casewise.report.context import ReportContext
from casewise.report.page import render
from tests.browsing import chromium, needs_chromium
from tests.report_contexts import classes, films, in_phases, numbers, split_by_image

FAULTS = (Path(__file__).parent / "layout.js").read_text()
LONG = ["Basalzellkarzinom der Kopfhaut", "kein pathologischer Befund", "Psoriasis vulgaris"]
REPORTS: dict[str, Callable[[], ReportContext]] = {
    "numbers": lambda: numbers(learners=3, metas=2),
    "two numbers": lambda: films(),
    "numbers of a test set": lambda: films(test=10),
    "classes": lambda: classes(),
    "two classes": lambda: classes("binary", networks=2),
    "grades": lambda: classes("ordinal", subjects=100, networks=2),
    "another source": lambda: classes(test=30, outside=60, networks=8),
    "phases": lambda: in_phases(classes()),
    "split by image": lambda: split_by_image(classes("binary"), 0.985),
    "long names": lambda: classes(targets={"Schweregrad_bei_Vorstellung": {"classes": LONG}}),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@needs_chromium
@pytest.mark.parametrize("name", REPORTS)
def test_nothing_is_cut_or_too_small(name: str, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(render(REPORTS[name]()))
    for width in (390, 768, 1280):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(f"file://{tmp_path / 'report.html'}")
        for opened in (False, True):
            page.evaluate(
                f"document.querySelectorAll('details').forEach((each) => (each.open = {str(opened).lower()}))"
            )
            assert page.evaluate(FAULTS) == [], (width, opened)
        page.close()
