"""Charts in Chromium: points and curves show their case and values under the pointer."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from casewise.report.page import render
from tests.browsing import chromium, needs_chromium
from tests.report_contexts import classes, numbers

# Bring the drawing with this description into sight; the place of its marker of this number. A scroll hides what is
# shown, before the second frame.
PLACE = """async ([alt, number]) => {
  const drawing = document.querySelector(`svg[aria-label*="${alt}"]`);
  for (let fold = drawing.closest('details'); fold; fold = fold.parentNode.closest('details')) fold.open = true;
  drawing.scrollIntoView({block: 'center'});
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const box = drawing.querySelectorAll('use')[number].getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def _opened(browser: Any, folder: Path, context: Any, width: int = 1280) -> Any:
    (folder / "report.html").write_text(render(context))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(f"file://{folder / 'report.html'}")
    return page


@needs_chromium
def test_a_point_shows_its_case_and_both_values(browser: Any, tmp_path: Path) -> None:
    page = _opened(browser, tmp_path, numbers())
    tip = page.locator(".tip")
    assert not tip.is_visible()
    texts = page.evaluate("[...document.querySelectorAll('article.card h3')].map((head) => head.textContent)")
    alt, seen = "prediction against the reference", set()
    for number in range(page.locator(f'svg[aria-label*="{alt}"] use').count()):
        page.mouse.move(*page.evaluate(PLACE, [alt, number]))
        if tip.is_visible():
            name, values = tip.inner_text().splitlines()[:2]
            assert re.fullmatch(r"reference \S+, model \S+", values)
            seen.add(name)
    assert len(seen) > 5
    assert set(texts) <= seen  # the errors have their points, by the same names
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    page.close()


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_a_curve_shows_its_values_within_the_window(width: int, browser: Any, tmp_path: Path) -> None:
    page = _opened(browser, tmp_path, classes(), width)
    tip = page.locator(".tip")
    for alt, words in (("ROC", "sensitivity"), ("Precision", "recall")):
        for number in (0, 10, 25):
            page.mouse.move(*page.evaluate(PLACE, [alt, number]))
            assert words in tip.inner_text()
            box = tip.bounding_box()
            assert 0 <= box["x"] <= width - box["width"]
            assert 0 <= box["y"] <= 900 - box["height"]
    page.close()
