"""The clinician's way through the page in a browser: images, results, course, saliency, saving; and the keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe

from casewise.serve.settings import ServiceSettings
from tests.browsing import chromium, needs_chromium
from tests.conftest import absolute
from tests.serving import Running, running

if TYPE_CHECKING:
    from playwright.sync_api import Page

TOKEN = "a-token-of-tests"
PATIENCE = 120_000

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def served(served_run: Path) -> Iterator[Running]:
    with running(ServiceSettings(served_run / "bundle", learner="linear_pixels", token=TOKEN)) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def rows(phantom: Path) -> pd.DataFrame:
    table = absolute(phantom)
    return table[table["subject"] == table["subject"].iloc[-1]]


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, served: Running) -> Iterator[Page]:
    """The page with its model, after the token was entered; it must neither fail nor fetch from elsewhere."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None)
    opened.on("request", lambda sent: None if local(sent.url, served) else problems.append(sent.url))
    opened.goto(served.url)
    opened.get_by_label("Token").fill("wrong-token")
    opened.get_by_role("button", name="Continue").click()
    opened.get_by_role("alert").get_by_text("The token is wrong").wait_for()
    opened.get_by_label("Token").fill(TOKEN)
    opened.keyboard.press("Enter")
    opened.get_by_role("heading", name="One-Step PASI").wait_for()
    yield opened
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
    assert problems == []


def local(url: str, served: Running) -> bool:
    return url.startswith((served.url, "blob:", "data:"))


def fill(page: Page, rows: pd.DataFrame) -> list[str]:
    """Choose the images of every visit; returns the names of the visits."""
    visits = list(dict.fromkeys(rows["visit"]))
    for number, visit in enumerate(visits):
        if number:
            page.get_by_role("button", name="Add a visit").click()
        box = page.get_by_role("group", name=f"Visit {number + 1}")
        box.get_by_label("Name").fill(visit)
        box.get_by_label("Day").fill(str(28 * number))
        for region in ("upper", "trunk", "lower"):
            paths = rows.loc[(rows["visit"] == visit) & (rows["region"] == region), "path"].tolist()
            box.get_by_label(f"Choose files of {region}").set_input_files(paths)
    return visits


def accessibility_problems(page: Page) -> str:
    """The problems that axe-core finds on the page as it is now, with their elements."""
    results = Axe().run(page)
    assert results.response["passes"]
    return str(results.generate_report()) if results.violations_count else ""


def test_the_clinicians_path(page: Page, rows: pd.DataFrame, tmp_path: Path) -> None:
    notice = page.get_by_role("note")
    assert "not a medical device" in notice.inner_text()
    assert accessibility_problems(page) == ""
    visits = fill(page, rows)
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="Results").wait_for()
    assert page.evaluate("document.activeElement.id") == "results-title"
    assert "Results for 3 visits" in page.get_by_role("status").inner_text()
    for visit in visits:
        article = page.get_by_role("article").filter(has=page.get_by_role("heading", name=visit, exact=True))
        assert "PASI" in article.inner_text()
        scale = article.get_by_role("img").get_attribute("aria-label") or ""
        assert "on a scale from 0 to" in scale
        assert "interval" in scale
        assert "band" in scale
        components = article.get_by_role("table")
        assert components.get_by_role("columnheader").all_inner_texts() == ["upper", "trunk", "lower"]
        assert components.get_by_role("rowheader", name="erythema").count() == 1
    course = page.get_by_role("article").filter(has=page.get_by_role("heading", name="PASI over the visits"))
    assert course.get_by_role("rowheader").all_inner_texts() == visits
    assert "baseline" in course.inner_text()
    assert "≥ 75 %" in course.inner_text()
    assert all(visit in (course.get_by_role("img").get_attribute("aria-label") or "") for visit in visits)
    page.get_by_label("Target").select_option(label="scaling")
    page.get_by_role("button", name="Show saliency").click()
    page.get_by_role("img", name="Saliency map over").first.wait_for()
    assert page.get_by_role("img", name="Saliency map over").count() == len(rows)
    assert page.get_by_role("img", name="Original image").count() == len(rows)
    sizes = page.evaluate("[...document.querySelectorAll('.map img')].map(image => image.naturalWidth)")
    assert min(sizes) > 0
    assert accessibility_problems(page) == ""
    page.get_by_label("Label for the print-out").fill("A label")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    download.value.save_as(tmp_path / "saved.json")
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert saved["label"] == "A label"
    assert [visit["visit"] for visit in saved["visits"]] == visits
    shown = page.locator(".headline .value").all_inner_texts()
    values = [r["prediction"] for visit in saved["visits"] for r in visit["results"] if r["target"] == "pasi"]
    assert [float(text) for text in shown] == pytest.approx(values, abs=0.051)
    page.emulate_media(media="print")
    assert page.locator("#images").is_hidden()
    assert page.get_by_role("note").is_visible()
    assert page.locator("#answers").is_visible()
    page.emulate_media(media="screen")
    page.get_by_role("button", name="Start again").click()
    assert page.get_by_role("heading", name="Results").is_hidden()
    assert page.locator(".files li").count() == 0


def test_a_bad_file_is_named_and_can_be_replaced(page: Page, rows: pd.DataFrame, tmp_path: Path) -> None:
    rows = rows[rows["visit"] == rows["visit"].iloc[0]]
    fill(page, rows)
    broken = tmp_path / "broken.jpg"
    broken.write_text("no photograph")
    page.get_by_label("Choose files of trunk").set_input_files(broken)
    page.get_by_role("button", name="Predict").click()
    alert = page.get_by_role("alert")
    alert.get_by_text("broken.jpg").wait_for()
    assert page.evaluate("document.activeElement.id") == "problem"
    page.get_by_role("button", name="Remove broken.jpg").click()
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="Results").wait_for()
    assert alert.is_hidden()
    assert page.get_by_role("heading", name="PASI over the visits").count() == 0


def test_every_control_is_reached_by_the_keyboard(page: Page) -> None:
    page.get_by_role("button", name="Add a visit").click()
    names: list[str] = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel || ''"))
        visible = page.evaluate(
            "(node => getComputedStyle(node.type === 'file' ? node.parentElement : node).outlineStyle)"
            "(document.activeElement)"
        )
        assert names[-1] == "" or visible != "none", names[-1]
    wanted = {"visit-1", "day-1", "visit-2", "add-visit", "predict", "clear", "Choose files of upper, visit 1"}
    assert wanted <= set(names)


def test_the_interface_is_described_offline(page: Page, served: Running) -> None:
    page.goto(served.url + "/docs")
    page.get_by_role("heading", name="POST /api/predict").wait_for()
    assert page.get_by_role("heading", name="GET /api/model").count() == 1
