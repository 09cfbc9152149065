"""A person at the page of a model, with the images of two patients, in tests."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route

TOKEN = "a-token-of-tests"
REGIONS = ("upper", "trunk", "lower")
# An answer that has arrived cannot be aborted any more: `fetch` without its signal is the worst case of timing.
LATE = f"""
if (location.protocol === "http:") sessionStorage.setItem("casewise-token", "{TOKEN}");
window.arrived = 0;
window.signals = [];
const send = window.fetch;
window.fetch = async (path, options = {{}}) => {{
  window.signals.push(options.signal);
  try {{
    const response = await send(path, {{ ...options, signal: undefined }});
    const text = await response.text();
    return {{ ok: response.ok, status: response.status, json: async () => JSON.parse(text) }};
  }} finally {{
    setTimeout(() => window.arrived++);
  }}
}};
"""


@dataclass
class Desk:
    """The page, images of visits with their predicted values, and requests that wait until the test lets them go.

    Visits are "a" and "a2" of one patient, "b" of another, and "c", that of "b" with the file names of "a".
    """

    page: Page
    checksum: str
    images: Mapping[str, list[dict[str, Any]]]
    values: Mapping[str, float]
    hold: bool = False
    held: list[Route] = field(default_factory=list)

    def fill(self, label: str, *visits: str) -> None:
        """State the label and choose the images of visits; the first one is there, others are added."""
        self.page.locator("#label").fill(label)
        for number, visit in enumerate(visits):
            if number:
                self.page.locator("#add-visit").click()
            for image in self.images[visit]:
                self.choose(image, number)

    def choose(self, image: dict[str, Any] | Path, visit: int = 0) -> None:
        """Choose an image, or a file, for the region in its name."""
        name = image.name if isinstance(image, Path) else image["name"]
        region = next(region for region in REGIONS if region in name)
        self.page.locator("fieldset").nth(visit).get_by_label(f"Choose files of {region}").set_input_files([image])

    def predicted(self, label: str, *visits: str) -> None:
        """As `fill`, with results."""
        self.fill(label, *visits)
        self.page.locator("#predict").click()
        self.page.locator("#results").wait_for()

    def send(self, button: str = "#predict") -> None:
        """Click a button whose request waits."""
        self.hold = True
        before = len(self.held)
        self.page.locator(button).click()
        self.wait(lambda: len(self.held) > before)

    def answer(self, number: int = 0, *, then: Callable[[Route], None] | None = None) -> None:
        """Let a request go, and wait until the page has dealt with its answer."""
        before = self.page.evaluate("arrived")
        (then or (lambda route: route.continue_()))(self.held[number])
        self.wait(lambda: self.page.evaluate("arrived") > before)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until something is true."""
        for _ in range(5000):
            if ready():
                return
            self.page.evaluate("new Promise((go) => setTimeout(go, 5))")
        raise AssertionError("it never was")

    def drop(self, where: str, *images: dict[str, Any]) -> None:
        """Drop images on an element."""
        files = [[image["name"], base64.b64encode(image["buffer"]).decode()] for image in images]
        transfer = self.page.evaluate_handle(
            """(files) => {
              const transfer = new DataTransfer();
              for (const [name, data] of files)
                transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt())], name));
              return transfer;
            }""",
            files,
        )
        self.page.locator(where).first.dispatch_event("drop", {"dataTransfer": transfer})

    def check_empty(self) -> None:
        """Check that nothing of an answer is shown, printed or saved."""
        assert self.page.locator("#results").is_hidden()
        assert self.page.locator("#results").locator(".headline, .map, .answer, td, dd").count() == 0
        assert self.page.locator("#save").is_disabled()
        assert self.page.locator("#print").is_disabled()

    def check_shown(self, label: str, *visits: str) -> None:
        """Check that images, label, results, maps, print-out and saved file all belong to these visits."""
        names = [image["name"] for visit in visits for image in self.images[visit]]
        values = pytest.approx([self.values[visit] for visit in visits], abs=0.051)
        assert self.page.locator("#label").input_value() == label
        assert self.page.locator("#visits .files li > span:not(.type)").all_inner_texts() == names
        assert [float(text) for text in self.page.locator(".headline .value").all_inner_texts()] == values
        assert all(any(n in text for n in names) for text in self.page.locator("figcaption").all_inner_texts())
        with self.page.expect_download() as download:
            self.page.locator("#save").click()
        saved = json.loads(download.value.path().read_text())
        results = [result for visit in saved["visits"] for result in visit["results"]]
        assert saved["label"] == label
        sent = [sorted(image["name"] for image in self.images[visit]) for visit in visits]
        assert [sorted(image["file"] for image in visit["images"]) for visit in saved["visits"]] == sent
        assert [result["prediction"] for result in results if result["target"] == "pasi"] == values
        assert (saved["model"]["checksum"], saved["model"]["learner"]) == (self.checksum, "linear_pixels")
        assert datetime.fromisoformat(saved["date"]).tzinfo
        self.page.emulate_media(media="print")
        record = self.page.locator("#record").inner_text()
        assert label in record
        assert all(name in record for name in names)
        assert self.checksum in record
        assert "linear model" in record
        stamp = self.page.evaluate("getComputedStyle(document.querySelector('.answer'), '::before').content")
        assert stamp.startswith(f'"{label} · ' if label else '"no label · ')
        assert self.page.locator("#images").is_hidden()
        self.page.emulate_media(media="screen")
