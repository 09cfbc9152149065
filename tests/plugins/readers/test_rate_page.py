"""The page of a reader in a browser: as many keys as scores, nothing lost, two windows, every image, and access."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from casewise.plugins.readers.form import COMMENT, Form, FormField
from tests.browsing import chromium, needs_chromium
from tests.plugins.readers.rating import (
    EXTENT,
    FORM,
    MIXED,
    TOKENS,
    Reading,
    grade,
    items_in,
    options,
    reading,
    session_of,
)

pytestmark = needs_chromium
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
PATIENCE = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=["desktop", pytest.param("phone", marks=pytest.mark.slow)])
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return WIDTHS[request.param]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Reading]:
    with reading(session_of(items_in(tmp_path / "images", 3)), tmp_path / "readings") as service:
        yield service


@contextmanager
def window(browser: Any, service: Reading, size: tuple[int, int] = (1280, 900), *, begin: bool = True) -> Iterator[Any]:
    """A page of the service in a browser of its own; it must neither fail nor fetch from elsewhere."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, has_touch=size[0] < 500)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None)
    page.on(
        "request",
        lambda sent: None if sent.url.startswith((service.url, "blob:", "data:")) else problems.append(sent.url),
    )
    # with interception from the beginning, a route that a test adds holds for the next request
    page.route("**/api/entry", lambda route: route.continue_())
    page.goto(service.url)
    if begin:
        start(page)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    context.close()
    assert problems == []


def start(page: Any) -> None:
    """Wait for the first case, and close the list of keys that a new reader sees."""
    page.get_by_role("heading", name="How to score").wait_for()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="How to score").wait_for(state="hidden")


def case(page: Any) -> str:
    title: str = page.locator("#title").inner_text()
    return title


def at(page: Any, title: str) -> None:
    page.locator("#title", has_text=title).wait_for()


def saved(page: Any) -> None:
    page.locator("#state.saved").wait_for()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; waiting in the page would evaluate text, which its policy forbids."""
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    assert condition()


def press(page: Any, keys: str) -> int:
    """Press keys one after another; returns how many."""
    for key in keys.split():
        page.keyboard.press(key)
    return len(keys.split())


def accessibility_problems(page: Any) -> str:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    results = axe.Axe().run(page)
    assert results.response["passes"]
    return str(results.generate_report()) if results.violations_count else ""


def active(page: Any) -> str:
    """The field that is open."""
    text: str = page.locator(".field.open .name").inner_text()
    return text


def test_a_case_needs_as_many_keys_as_scores(browser: Any, served: Reading, size: tuple[int, int]) -> None:
    grades = [["2", "3", "1", "6", "0", "4", "2", "5"], ["1", "1", "2", "3", "4", "3", "2", "0"]]
    order = [presented.item.key for presented in served.session.order_for("anna")]
    with window(browser, served, size) as page:
        for number, row in enumerate(grades, 1):
            at(page, f"Case {number} of 3")
            assert press(page, " ".join(row)) == len(FORM.fields)
            assert page.evaluate("document.activeElement.id") == "next"
            page.keyboard.press("Enter")
        at(page, "Case 3 of 3")
        saved(page)
        assert page.locator("#left").inner_text().startswith("anna: 2 of 3 scored")
    keys = [field.key for field in FORM.fields]
    assert served.values() == {
        key: dict(zip(keys, row, strict=True)) for key, row in zip(order[:2], grades, strict=True)
    }


def test_undo_takes_back_the_last_entries(browser: Any, served: Reading, size: tuple[int, int]) -> None:
    with window(browser, served, size) as page:
        press(page, "2 3 1 Backspace Backspace")
        assert active(page) == "Induration"
        saved(page)
        (values,) = served.values().values()
        assert values == {"erythema[upper]": "2", "induration[upper]": None, "desquamation[upper]": None}
        press(page, "4 ArrowUp ArrowUp 3 Backspace")  # a changed score returns to what it was
        saved(page)
        (values,) = served.values().values()
        assert values["erythema[upper]"] == "2"
        press(page, "Backspace Backspace Backspace")
        assert page.locator("#hint").inner_text() != ""
        saved(page)
        (values,) = served.values().values()
        assert set(values.values()) == {None}
        page.get_by_role("button", name="Undo").click()
        assert case(page) == "Case 1 of 3"


def test_a_case_that_cannot_be_judged(browser: Any, served: Reading, size: tuple[int, int]) -> None:
    with window(browser, served, size) as page:
        press(page, "2 u")
        page.get_by_role("heading", name="Why can this case not be judged?").wait_for()
        assert accessibility_problems(page) == ""
        press(page, "2")
        page.get_by_text("Cannot be judged: wrong view or body part").wait_for()
        saved(page)
        (values,) = served.values().values()
        assert values[""] == "wrong view or body part"
        press(page, "Backspace")
        page.locator("#unreadable").wait_for(state="hidden")
        press(page, "u 1 Enter")
        at(page, "Case 2 of 3")
        saved(page)
        assert page.locator("#left").inner_text().startswith("anna: 1 of 3 scored")
        press(page, "ArrowLeft")
        at(page, "Case 1 of 3")
        page.get_by_role("button", name="Judge it after all").click()
        saved(page)
        (values,) = served.values().values()
        assert values[""] is None
        assert values["erythema[upper]"] == "2"


def test_enter_stays_at_an_incomplete_case(browser: Any, served: Reading) -> None:
    with window(browser, served) as page:
        press(page, "2 3 1 6 0 4 2 Enter")
        page.get_by_role("button", name="Go on without").click()
        at(page, "Case 2 of 3")
        press(page, "ArrowLeft")
        at(page, "Case 1 of 3")
        press(page, "Enter")
        assert "1 score is missing" in page.locator("#hint").inner_text()
        press(page, "ArrowRight")
        at(page, "Case 2 of 3")
        press(page, "ArrowRight")
        at(page, "Case 3 of 3")
        press(page, "1 1 1 1 1 1 1 1 Enter")
        page.get_by_role("heading", name="Some cases are not complete").wait_for()
        press(page, "Enter")
        at(page, "Case 1 of 3")
        press(page, "3 Enter")
        at(page, "Case 2 of 3")
        press(page, "1 1 1 1 1 1 1 1 Enter")
        at(page, "Case 3 of 3")
        press(page, "Enter")
        page.get_by_role("heading", name="All cases are scored").wait_for()
        assert accessibility_problems(page) == ""
        page.reload()
        page.get_by_role("heading", name="All cases are scored").wait_for()
    assert all(None not in values.values() and len(values) == 8 for values in served.values().values())


def test_a_comment_is_typed_without_scoring(browser: Any, served: Reading) -> None:
    with window(browser, served) as page:
        press(page, "c")
        page.keyboard.type("2 lesions, unclear? u")
        press(page, "Escape 3")
        saved(page)
        (values,) = served.values().values()
        assert values == {COMMENT: "2 lesions, unclear? u", "erythema[upper]": "3"}
        press(page, "ArrowRight")
        at(page, "Case 2 of 3")
        assert page.get_by_label("Comment").input_value() == ""


def test_a_reading_goes_on_after_a_kill_and_a_reload(browser: Any, served: Reading, size: tuple[int, int]) -> None:
    with window(browser, served, size) as page:
        press(page, "2 3 1 6 0 4 2 5 Enter")
        at(page, "Case 2 of 3")
        press(page, "1")
        saved(page)
        served.stop()
        press(page, "2 3")
        page.locator("#state.retrying").wait_for()
        assert "2 entries" in page.locator("#state").inner_text()
        assert accessibility_problems(page) == ""
        press(page, "4")
        served.start()
        saved(page)
        served.stop()
        press(page, "0")
        page.locator("#state.retrying").wait_for()
        assert json.loads(page.evaluate("sessionStorage.getItem('casewise-entries')"))[0]["value"] == "0"
        served.start()
        page.once("dialog", lambda dialog: dialog.accept())
        page.reload()
        at(page, "Case 2 of 3")
        saved(page)
        assert page.locator(".scored .value").all_inner_texts() == ["1", "2", "3", "4", "0"]
        assert active(page) == "Induration"
    values = served.values()[served.session.order_for("anna")[1].item.key]
    assert list(values.values()) == ["1", "2", "3", "4", "0"]


def test_the_second_window_takes_over(browser: Any, served: Reading, size: tuple[int, int]) -> None:
    with window(browser, served, size) as first:
        press(first, "2 3")
        saved(first)
        with window(browser, served, size, begin=False) as second:
            start(second)
            assert second.locator(".scored .value").all_inner_texts() == ["2", "3"]
            press(second, "1")
            saved(second)
            press(first, "4 ArrowRight")
            first.get_by_role("heading", name="This reading goes on in another window").wait_for()
            assert "desquamation (upper): 4" in first.locator("#screen").inner_text()
            assert accessibility_problems(first) == ""
            (values,) = served.values().values()
            assert list(values.values()) == ["2", "3", "1"]
            first.get_by_role("button", name="Go on here instead").click()
            start(first)
            assert first.locator(".scored .value").all_inner_texts() == ["2", "3", "1"]
            press(second, "5")
            second.get_by_role("heading", name="This reading goes on in another window").wait_for()


def test_each_reader_has_a_token(browser: Any, tmp_path: Path) -> None:
    session = session_of(items_in(tmp_path / "images", 2))
    with reading(session, tmp_path / "readings", TOKENS) as service, window(browser, service, begin=False) as page:
        page.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_label("Token").and_(page.locator("[value='']")).or_(page.get_by_label("Token")).wait_for()
        assert accessibility_problems(page) == ""
        page.get_by_label("Token").fill(TOKENS["ben"])
        page.keyboard.press("Enter")
        start(page)
        press(page, "2")
        saved(page)
        assert service.values("anna") == {}
        assert len(service.values("ben")) == 1
        page.goto(f"{service.url}#{TOKENS['anna']}")
        start(page)
        assert page.evaluate("location.hash") == ""
        assert page.locator(".scored").count() == 0
        press(page, "3")
        saved(page)
        assert len(service.values("anna")) == 1
        page.get_by_text("Skip to the scores").focus()
        press(page, "Enter")
        assert page.evaluate("document.activeElement.id") == "scores"
        page.reload()
        start(page)
        assert page.locator("#left").inner_text().startswith("anna: ")


def test_entries_wait_for_their_reader(browser: Any, tmp_path: Path) -> None:
    """Another reader's link in the same tab neither sends nor shows what was not saved yet."""
    session = session_of(items_in(tmp_path / "images", 2))
    with reading(session, tmp_path / "readings", TOKENS) as service, window(browser, service, begin=False) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        page.goto(f"{service.url}#{TOKENS['anna']}")
        start(page)
        page.route("**/api/entry", lambda route: route.abort())
        press(page, "2")
        page.locator("#state.retrying").wait_for()
        page.goto(f"{service.url}#{TOKENS['ben']}")
        page.unroute("**/api/entry")
        start(page)
        assert page.locator("#left").inner_text().startswith("ben: ")
        assert page.locator(".scored").count() == 0
        assert service.values("anna") == service.values("ben") == {}
        page.goto(f"{service.url}#{TOKENS['anna']}")
        start(page)
        assert page.locator(".scored .value").all_inner_texts() == ["2"]
        assert [list(values.values()) for values in service.values("anna").values()] == [["2"]]


TEN = FormField("ten", "ten", "", "ten", "ordinal", options({str(number): "" for number in range(11)}))
DIFFERENCE = FormField("difference", "difference", "", "difference", "regression", low=-5, high=5, step=1)
# What is typed, and what is stored.
TYPED: dict[str, tuple[FormField, str, str | None]] = {
    "Enter ends a number": (EXTENT, "3 Enter", "3"),
    "a fraction": (EXTENT, "3 . 5 Enter", "3.5"),
    "a comma": (EXTENT, "0 , 5 Enter", "0.5"),
    "outside": (EXTENT, "9 Enter", None),
    "outside, with a last digit that fits": (EXTENT, "2 5 Enter", None),
    "between steps": (EXTENT, "3 . 2 Enter", None),
    "corrected": (EXTENT, "9 Backspace 7 . 5 Enter", "7.5"),
    "below zero": (DIFFERENCE, "- 4 Enter", "-4"),
    "one of eleven": (TEN, "7 Enter", "7"),
    "the last of eleven": (TEN, "1 0 Enter", "10"),
    "more than the last of eleven": (TEN, "1 2 Enter", None),
    "the beginning of another": (TEN, "1 Enter", "1"),
    "left with an arrow": (EXTENT, "2 ArrowDown", "2"),
    "a grade left with an arrow": (TEN, "1 ArrowDown", "1"),
    "typed and taken back": (TEN, "1 Backspace 2 Enter", "2"),
}


@pytest.mark.parametrize("name", TYPED)
def test_numbers_are_typed(browser: Any, tmp_path: Path, name: str) -> None:
    field, keys, value = TYPED[name]
    form = Form((field, grade("grade")), FORM.reasons, 50)
    with (
        reading(session_of(items_in(tmp_path / "images", 1), form), tmp_path / "readings") as service,
        window(browser, service) as page,
    ):
        press(page, keys)
        if value is None:
            assert page.locator(".open .note").inner_text() != ""
            assert service.values() == {}
        else:
            assert active(page) == "Grade"
            press(page, "4")
            saved(page)
            assert service.values() == {key: {field.key: value, "grade": "4"} for key in service.session.items}


@pytest.fixture
def films(tmp_path: Path) -> Iterator[Reading]:
    pytest.importorskip("nibabel", reason="scans are optional")
    with reading(session_of(items_in(tmp_path / "images", 2, "scan"), MIXED), tmp_path / "readings") as service:
        yield service


# The mean of the red values of a canvas.
BRIGHTNESS = """(number) => {
  const canvas = document.querySelectorAll(".viewers canvas")[number];
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, value, index) => (index % 4 ? sum : sum + value), 0) / (data.length / 4);
}"""
NAME = "(({ activeElement: a }) => a.id || a.getAttribute('aria-label') || a.textContent)(document)"


def brightness(page: Any, number: int) -> float:
    page.evaluate("new Promise(requestAnimationFrame).then(() => new Promise(requestAnimationFrame))")
    value: float = page.evaluate(BRIGHTNESS, number)
    return value


def test_films_and_scans_by_keyboard_and_mouse(browser: Any, films: Reading) -> None:
    with window(browser, films) as page:
        film, scan = page.locator(".viewer").all()
        until(lambda: page.locator(".viewers .loading:visible").count() == 0)
        assert brightness(page, 0) == pytest.approx(127, abs=12)
        film.locator(".stage").focus()
        first = film.locator("output").inner_text()
        page.keyboard.down("w")
        press(page, "ArrowDown ArrowDown ArrowRight")
        page.keyboard.up("w")
        assert film.locator("output").inner_text() != first
        assert brightness(page, 0) < 120
        press(page, "+ +")
        assert "2.3×" in film.locator("output").inner_text()
        before = film.locator("canvas").bounding_box()
        press(page, "ArrowRight")  # moves the image, not the case
        assert case(page) == "Case 1 of 2"
        assert film.locator("canvas").bounding_box()["x"] < before["x"]
        press(page, "r")
        assert film.locator("output").inner_text() == first
        box = film.locator(".stage").bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down(button="right")
        page.mouse.move(box["x"] + 160, box["y"] + 180, steps=4)
        page.mouse.up(button="right")
        assert film.locator("output").inner_text() != first
        page.mouse.wheel(0, -300)
        until(lambda: "×" in film.locator("output").inner_text())
        changed = film.locator("output").inner_text()
        film.get_by_role("button", name="Drag changes window and level").click()
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + 100, steps=4)
        page.mouse.up()
        assert film.locator("output").inner_text() != changed
        # the scan: the middle slice first, then by keys, wheel and slider
        scan.locator(".stage").focus()
        assert scan.locator(".figures").first.inner_text() == "5/9"
        assert press(page, "] PageDown [") == 3
        assert scan.locator(".figures").first.inner_text() == "6/9"
        box = scan.locator(".stage").bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.wheel(0, 100)
        until(lambda: scan.locator(".figures").first.inner_text() == "7/9")
        scan.get_by_role("slider").focus()
        press(page, "ArrowRight")
        assert scan.locator(".figures").first.inner_text() == "8/9"
        page.mouse.dblclick(box["x"] + 50, box["y"] + 50)
        assert film.is_hidden()
        press(page, "Escape")
        assert film.is_visible()
        # scores still go to the form
        press(page, "8 Enter 2 1")
        saved(page)
        (values,) = films.values().values()
        assert values == {"extent": "8", "grade": "2", "kind": "naevus"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_access(browser: Any, films: Reading, served: Reading, size: tuple[int, int], scheme: str) -> None:
    for service in (films, served):
        with window(browser, service, size, begin=False) as page:
            page.emulate_media(color_scheme=scheme)
            page.get_by_role("heading", name="How to score").wait_for()
            assert accessibility_problems(page) == ""
            start(page)
            assert accessibility_problems(page) == ""
            press(page, "2")
            assert accessibility_problems(page) == ""


# What the keyboard reaches, and that it is seen.
def test_every_control_is_reached_by_the_keyboard(browser: Any, served: Reading) -> None:
    with window(browser, served) as page:
        until(lambda: page.locator(".viewers .loading:visible").count() == 0)
        until(lambda: page.evaluate("document.activeElement.closest('.field')") is not None)
        page.evaluate("document.activeElement.blur()")
        wanted = {"keys", "comment", "undo", "cannot", "next", "Zoom in: Upper", "field-0", "field-7", "0none"}
        names: list[str] = []
        # the list of keys may give the focus back to the form between two keys
        while len(names) < 60 or (len(names) < 180 and not wanted <= set(names)):
            page.keyboard.press("Tab")
            names.append(page.evaluate(NAME))
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none" or page.evaluate("document.activeElement === document.body"), names[-1]
        assert wanted <= set(names)
