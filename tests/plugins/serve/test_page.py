"""The clinician's way through the page in a browser: images, results, course, saliency, saving; and the keyboard."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route

from casewise.inference.model import load_bundle
from casewise.plugins.serve.settings import ServiceSettings
from tests.browsing import chromium, needs_chromium
from tests.conftest import absolute
from tests.desk import LATE, REGIONS, TOKEN, Desk
from tests.plugins.serve.serving import Running, running

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


@pytest.fixture(
    params=[pytest.param((1280, 900), id="desktop"), pytest.param((390, 844), id="phone", marks=pytest.mark.slow)]
)
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
        box.get_by_label("Day").fill(["0", "3,5", "56"][number])
        for region in REGIONS:
            paths = rows.loc[(rows["visit"] == visit) & (rows["region"] == region), "path"].tolist()
            box.get_by_label(f"Choose files of {region}").set_input_files(paths)
    return visits


def accessibility_problems(page: Page) -> str:
    """The problems that axe-core finds on the page as it is now, with their elements."""
    results = Axe().run(page)
    assert results.response["passes"]
    return str(results.generate_report()) if results.violations_count else ""


# What is cut at the right of a narrow page, and texts of a chart that lie on one another.
CUT = """() => {
  const seen = (node) => node.getBoundingClientRect();
  const wide = [...document.querySelectorAll("main *")].filter((node) => seen(node).right > innerWidth);
  const scrolled = [...document.querySelectorAll(".scroll")].filter((node) => node.scrollWidth > node.clientWidth);
  const texts = [...document.querySelectorAll(".course text")];
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const lying = texts.filter((text) => texts.some((other) => other !== text && !apart(seen(text), seen(other))));
  return [...wide, ...scrolled, ...lying].map((node) => node.outerHTML.slice(0, 100));
}"""


def test_the_clinicians_path(page: Page, rows: pd.DataFrame, tmp_path: Path) -> None:
    notice = page.get_by_role("note")
    assert "not a medical device" in notice.inner_text()
    assert accessibility_problems(page) == ""
    visits = fill(page, rows)
    page.get_by_label("Name for the print-out").fill("A label")
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
    assert page.evaluate("document.activeElement.id") == "maps"
    assert page.get_by_role("img", name="Saliency map over").count() == len(rows)
    assert page.get_by_role("img", name="Original image").count() == len(rows)
    sizes = page.evaluate("[...document.querySelectorAll('.map img')].map(image => image.naturalWidth)")
    assert min(sizes) > 0
    assert accessibility_problems(page) == ""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    download.value.save_as(tmp_path / "saved.json")
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert saved["label"] == "A label"
    assert [(visit["visit"], visit["day"]) for visit in saved["visits"]] == list(zip(visits, (0, 3.5, 56), strict=True))
    shown = page.locator(".headline .value").all_inner_texts()
    values = [r["prediction"] for visit in saved["visits"] for r in visit["results"] if r["target"] == "pasi"]
    assert [float(text) for text in shown] == pytest.approx(values, abs=0.051)
    page.emulate_media(media="print")
    assert page.locator("#images").is_hidden()
    assert page.get_by_role("note").is_visible()
    assert page.locator("#answers").is_visible()
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(CUT) == []
    page.get_by_role("button", name="Start again").click()
    assert page.get_by_role("heading", name="Results").is_hidden()
    assert page.locator(".files li").count() == 0


def test_what_the_report_says_against_the_model_stands_above_the_answer(page: Page, rows: pd.DataFrame) -> None:
    doubts = ["Its accuracy is lower on the test set.", "Missing: a class."]

    def told(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"doubts": doubts})

    page.route("**/api/model", told)
    page.reload()
    page.locator("#visits fieldset").wait_for()
    fill(page, rows)
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("heading", name="Results").wait_for()
    assert page.locator("#known li").all_inner_texts() == doubts
    assert "Against it, in the report of its study:" in page.locator("#known").inner_text()


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


# Tries to show or save something of one patient with the images or the label of another.


@pytest.fixture(scope="module")
def images(phantom: Path) -> dict[str, list[dict[str, Any]]]:
    rows = absolute(phantom)
    first, other = rows["subject"].iloc[0], rows["subject"].iloc[-1]
    visits = {}
    for name, subject, number in (("a", first, 0), ("a2", first, 1), ("b", other, 0)):
        own = rows[rows["subject"] == subject]
        own = own[own["visit"] == own["visit"].unique()[number]].drop_duplicates("region").set_index("region")
        visits[name] = [payload(f"{name}-{region}.jpg", Path(own.loc[region, "path"])) for region in REGIONS]
    return visits | {"c": [image | {"name": own["name"]} for image, own in zip(visits["b"], visits["a"], strict=True)]}


def payload(name: str, path: Path) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/jpeg", "buffer": path.read_bytes()}


@pytest.fixture(scope="module")
def values(served: Running, images: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """The primary outcome of each visit, of a request of its own."""
    values = {}
    for visit, own in images.items():
        files = [(region, (image["name"], image["buffer"])) for region, image in zip(REGIONS, own, strict=True)]
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.post(served.url + "/api/predict", files=files, headers=headers, timeout=300)
        results = answer.json()["visits"][0]["results"]
        (values[visit],) = [result["prediction"] for result in results if result["target"] == "pasi"]
    assert len({round(value, 1) for value in values.values()}) == 3
    return values


@pytest.fixture
def desk(
    browser: Any, served: Running, served_run: Path, images: Any, values: dict[str, float]
) -> Iterator[Callable[[], Desk]]:
    """Opens the page in a tab."""
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(20_000)
    context.add_init_script(LATE)
    problems: list[str] = []
    checksum = load_bundle(served_run / "bundle").checksum

    def opened() -> Desk:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        tab = Desk(page, checksum, images, values)
        for path in ("**/api/predict", "**/api/explain"):
            page.route(path, lambda route: tab.held.append(route) if tab.hold else route.continue_())
        page.goto(served.url)
        page.locator("#visits fieldset").wait_for()
        return tab

    yield opened
    context.close()
    assert problems == []


Open = Callable[[], Desk]


def refused(status: int, code: str) -> Callable[[Route], None]:
    body = json.dumps({"error": {"code": code, "message": code, "files": []}})
    return lambda route: route.fulfill(status=status, body=body, content_type="application/json")


# What a person or the browser changes.
CHANGES: dict[str, Callable[[Desk], None]] = {
    "label": lambda desk: desk.page.locator("#label").fill("B"),
    "label by the keyboard": lambda desk: desk.page.locator("#label").press_sequentially("b"),
    "name of a visit": lambda desk: desk.page.locator("#visit-1").fill("week 4"),
    "day of a visit": lambda desk: desk.page.locator("#day-1").fill("28"),
    "image added": lambda desk: desk.choose(desk.images["b"][0]),
    "image removed": lambda desk: desk.page.get_by_role("button", name="Remove a-upper.jpg").click(),
    "image dropped on its place": lambda desk: desk.drop(".slot", desk.images["b"][0]),
    "images dropped by their names": lambda desk: desk.drop(".visit", *desk.images["b"]),
    "image dropped without a place": lambda desk: desk.drop(".visit", desk.images["b"][0] | {"name": "x.jpg"}),
    "visit added": lambda desk: desk.page.locator("#add-visit").click(),
    "visit removed": lambda desk: desk.page.get_by_role("button", name="Remove visit 2").click(),
    "start again": lambda desk: desk.page.locator("#clear").click(),
    "page restored by the browser": lambda desk: restore(desk.page),
    "page loaded again": lambda desk: again(desk.page.reload, desk.page),
    "page left and visited again": lambda desk: leave(desk.page),
}
# The visits before a change, where there are several.
VISITS = {"visit removed": ["a", "a2"]}


def again(step: Callable[[], object], page: Page) -> None:
    """Take a step after which the page is empty."""
    step()
    page.locator("#visits fieldset").wait_for()
    assert page.locator("#label").input_value() == ""
    assert page.locator(".files li").count() == 0


def restore(page: Page) -> None:
    """What the browser says when it shows a page from its memory, which the tests' browser never does by itself."""
    with page.expect_navigation():
        page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    again(lambda: None, page)


def leave(page: Page) -> None:
    page.goto(page.url + "health")
    again(page.go_back, page)


def some(names: Iterable[str], *quick: str) -> list[Any]:
    """Parameters of which all but the quick ones are slow: attempts that differ in kind are made by every test run."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("change", some([name for name in CHANGES if not name.startswith("page")], "image removed"))
def test_a_change_ends_the_running_request(desk: Open, change: str) -> None:
    tab = desk()
    tab.fill("A", *VISITS.get(change, ["a"]))
    tab.send()
    assert tab.page.evaluate("signals.at(-1).aborted") is False
    CHANGES[change](tab)
    assert tab.page.evaluate("signals.at(-1).aborted") is True
    tab.wait(tab.page.locator("#predict").is_enabled)
    tab.answer()
    tab.check_empty()


@pytest.mark.parametrize("order", [pytest.param((0, 1), marks=pytest.mark.slow), (1, 0)])
def test_two_patients_one_after_another(desk: Open, order: tuple[int, int]) -> None:
    tab = desk()
    tab.fill("A", "a")
    tab.send()
    tab.page.locator("#clear").click()
    tab.fill("B", "b")
    tab.send()
    for number in order:
        tab.answer(number)
        if number == 0 == order[0]:
            tab.check_empty()
    tab.check_shown("B", "b")


def test_two_tabs(desk: Open) -> None:
    tabs = {"a": desk(), "b": desk()}
    for visit, tab in tabs.items():
        tab.fill(visit.upper(), visit)
        tab.send()
    for visit in ("b", "a"):
        tabs[visit].answer()
    for visit, tab in tabs.items():
        tab.check_shown(visit.upper(), visit)
