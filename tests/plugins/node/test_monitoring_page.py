"""The page of monitoring and its sentence, with many studies and with few, and where something is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from casewise.errors import CasewiseError
from casewise.plugins.node.monitoring.figures import _most_frequent
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.monitoring.outcomes import Outcome, OutcomeTable, Window, compared_outcomes
from casewise.plugins.node.monitoring.page import MOST_UNLIKE, WrittenMonitoring, write_monitoring
from casewise.plugins.node.monitoring.series import Kind, Quantity, studies_of
from casewise.plugins.node.monitoring.shift import Change, Scope
from casewise.plugins.node.monitoring.summary import FOLLOW_UP, MOST_GROUPS, Watched, groups, sentence
from casewise.report.figures.drawing import SERIES
from casewise.report.formatting import date
from tests.browsing import chromium, needs_chromium
from tests.plugins.node.observed import DAY, START, Node, limits, observed
from tests.plugins.node.test_outcomes import outcomes_of, recorded


def written(folder: Path, node: Node, **options: Any) -> tuple[WrittenMonitoring, str]:
    return page_of(folder, observed(node), **options)


def page_of(folder: Path, observations: list[tuple[str, Observation]], **options: Any) -> tuple[WrittenMonitoring, str]:
    result = write_monitoring(folder / "monitoring.html", observations, options.pop("limits", limits()), **options)
    html = result.page.read_text()
    visible = re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    assert not {"nan", "none", "inf"} & set(re.findall(r"[a-z]+", visible.lower()))
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    return result, html


def sections(html: str) -> list[str]:
    return re.findall(r'<section id="([^"]+)"', html)


def rows(html: str, section: str) -> int:
    own = html.split(f'<section id="{section}"')[1].split("</section>")[0]
    return own.count('<th scope="row"')


def test_a_week_with_a_change_on_day_five(tmp_path: Path) -> None:
    result, html = written(tmp_path, Node(7, 100, change=4, lighter=1.0))
    assert result.changes[0].since == pytest.approx(START + 4 * DAY, abs=DAY / 4)
    assert result.sentence == f"Since {date(result.changes[0].since)}: lighter images."
    assert html.index(result.sentence) < html.index("<table")
    assert sections(html) == ["result", "time", "compared", "groups", "unlike"]
    assert rows(html, "result") == len(result.changes) == 1
    assert rows(html, "groups") == 4


def test_weeks_without_a_change(tmp_path: Path) -> None:
    result, html = written(tmp_path, Node(60, 20))
    assert result.changes == ()
    assert result.sentence.startswith("Nothing changed.")
    assert "1,200 studies since 1 January 2026, the last on 1 March 2026; 1,000 tested" in result.sentence
    assert "one false alarm a year" in result.sentence
    assert rows(html, "result") == 0


@pytest.mark.parametrize("count", [0, 1, 10])
def test_few_studies(tmp_path: Path, count: int) -> None:
    result, html = page_of(tmp_path, observed(Node(5, 20))[:count])
    assert not result.sentence.startswith("Nothing changed")
    assert (f"{count} stud" in result.sentence) == (count > 0)
    assert ("time" in sections(html)) == (count > 0)
    assert "compared" not in sections(html)


def test_a_node_that_records_little(tmp_path: Path) -> None:
    bare = [(str(n), Observation(START + n * DAY / 40, predictions={"grade": str(n % 4)})) for n in range(400)]
    result, html = page_of(tmp_path, bare, limits=None)
    assert result.changes == ()
    assert rows(html, "groups") == 2
    assert "unlike" not in sections(html)
    refused = [(str(n), Observation(START + n * DAY / 40, refused="no series fits")) for n in range(5)]
    page_of(tmp_path, refused, limits=None)


def test_one_scanner_has_no_other_to_compare_with(tmp_path: Path) -> None:
    one = [(name, replace(each, scanner="A", site="")) for name, each in observed(Node(12, 40))]
    result, html = page_of(tmp_path, one)
    assert result.changes == ()
    assert rows(html, "groups") == 2


def test_another_hospital_differs_from_the_training(tmp_path: Path) -> None:
    result, html = written(tmp_path, Node(12, 40, change=0, lighter=2.0))
    assert result.sentence.startswith("Nothing changed since the first studies.")
    assert "lighter images" in result.sentence
    assert [each.from_start for each in result.changes] == [True]
    assert rows(html, "result") == 1


def test_an_accepted_change_is_the_new_baseline(tmp_path: Path) -> None:
    node = Node(20, 60, change=8, lighter=1.0)
    assert written(tmp_path, node)[0].changes
    result, html = written(tmp_path, node, watched=Watched("Films", 200, START + 9 * DAY), limits=None)
    assert result.changes == ()
    assert "660 studies since 10 January 2026" in result.sentence
    assert "before 10 January 2026" in result.sentence
    none, _ = written(tmp_path, node, watched=Watched("Films", 200, START + 99 * DAY), limits=None)
    assert date(START + 99 * DAY) in none.sentence
    assert "<h1>Monitoring of Films</h1>" in html


def test_pictures_of_the_studies_most_unlike_the_training(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((600, 400), 90, np.uint8)).save(picture)
    observations = observed(Node(6, 50))
    unlike = [name for name, each in observations if each.flags or (each.distance or 0) > 1]
    far = sorted(unlike, key=lambda name: -(dict(observations)[name].distance or 0))[:MOST_UNLIKE]
    _, html = page_of(tmp_path, observations, pictures={name: picture for name, _ in observations})
    assert html.count("data:image/jpeg") == MOST_UNLIKE
    assert all(name in html for name in far)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    with pytest.raises(CasewiseError):
        page_of(tmp_path, observations, pictures=dict.fromkeys(far, broken))


def test_names_from_headers_are_text(tmp_path: Path) -> None:
    own = [(name, replace(each, scanner="<script>&{x}")) for name, each in observed(Node(8, 40))]
    assert "<script>" not in page_of(tmp_path, own)[1]


@pytest.mark.parametrize("change", [{}, {"subject": "x"}, {"scanner": "S{}", "site": ""}])
def test_a_node_that_cannot_be_tested_says_so(tmp_path: Path, change: dict[str, str]) -> None:
    own = [
        (name, replace(each, **{key: text.format(number % 30) for key, text in change.items()}))
        for number, (name, each) in enumerate(observed(Node(10, 40))[: None if change else 201])
    ]
    result, _ = page_of(tmp_path, own)
    assert result.changes == ()
    assert "Nothing changed" not in result.sentence
    assert date(own[-1][1].at) in result.sentence


def test_intervals_count_studies_of_a_subject_once(tmp_path: Path) -> None:
    studies = [(name, replace(each, subject="x")) for name, each in recorded(400)]
    outcomes = OutcomeTable([Outcome(name, "finding", "yes") for name, _ in studies])
    _, html = page_of(tmp_path, studies, outcomes=compared_outcomes(outcomes, studies))
    own = html.split('<section id="outcomes"')[1]
    assert ">1<" in own
    assert ">400<" not in own


def test_outcomes_are_a_section(tmp_path: Path) -> None:
    studies = recorded(900)
    outcomes = [*outcomes_of(studies[:500], 1, 1), *outcomes_of(studies[500:], 4, 2.5)]
    own = compared_outcomes(OutcomeTable(outcomes, {"No such study.": [3, 4]}), studies, {"score": 0.8})
    result, html = page_of(tmp_path, studies, outcomes=own)
    assert {change.what.kind for change in result.changes if change.what} >= {Kind.ERROR, Kind.CALIBRATION}
    assert rows(html, "outcomes") == 5
    assert ">0.800<" in html
    assert "among 900 of 900 studies with an outcome" in result.sentence
    assert (result.sentence.count(FOLLOW_UP), result.sentence.count("2 rows")) == (1, 1)
    few = compared_outcomes(OutcomeTable(outcomes[:2]), studies, window=Window(0, START + 40 * DAY, 5))
    result, html = page_of(tmp_path, studies, outcomes=few)
    assert rows(html, "outcomes") == 4
    assert "1 of 700 studies" in result.sentence
    none = compared_outcomes(OutcomeTable(), studies)
    assert "outcomes" not in sections(page_of(tmp_path, studies, outcomes=none)[1])
    unused = compared_outcomes(OutcomeTable((), {"No such study.": [3]}), studies)
    assert rows(page_of(tmp_path, studies, outcomes=unused)[1], "outcomes") == 1


def test_studies_of_another_bundle_are_counted(tmp_path: Path) -> None:
    result, _ = page_of(tmp_path, observed(Node(20, 20)), watched=Watched("Films", 200, 0.0, 1234))
    assert "1,234 studies before 1 January 2026" in result.sentence
    assert "1,234" in page_of(tmp_path, [], watched=Watched("Films", 200, 0.0, 1234))[0].sentence


@pytest.mark.parametrize("count", [2, len(SERIES), len(SERIES) + 3])
def test_no_class_is_left_out_of_the_figure(count: int) -> None:
    shares = {str(number): np.array([number + 1.0, 2.0]) for number in range(count)}
    shown = _most_frequent(shares)
    assert len(shown) == min(count, len(SERIES))
    assert sum(values[0] for values in shown.values()) == sum(values[0] for values in shares.values())


def change(day: float, what: str = "brightness", scope: Scope | None = None, size: float = 0.3) -> Change:
    quantity = Quantity(Kind.NUMBER, what)
    return Change(quantity, scope or Scope(), START + day * DAY, size, quantity.words(higher=True))


class TestSentence:
    studies = studies_of(observed(Node(30, 10)))

    def test_changes_of_one_place_and_week_are_one(self) -> None:
        changes = [change(1), change(3, "contrast"), change(4, scope=Scope("A")), change(20)]
        assert [len(group) for group in groups(changes)] == [2, 1, 1]
        text = sentence(self.studies, changes, Watched())
        assert text.count("Since") == 3
        assert "on scanner A" in text

    def test_the_date_is_that_of_the_largest_change(self) -> None:
        text = sentence(self.studies, [change(1, size=0.2), change(3, "contrast", size=0.6)], Watched())
        assert "Since 4 January 2026" in text

    def test_many_changes_are_counted(self) -> None:
        text = sentence(self.studies, [change(10 * number) for number in range(MOST_GROUPS + 2)], Watched())
        assert text.count("Since") == MOST_GROUPS
        assert "2 earlier changes" in text

    def test_shares_are_stated(self) -> None:
        flagged = Change(Quantity(Kind.FLAGGED), Scope(), START, 0.17, "more flagged studies", 0.04, 0.21)
        assert "(4.0 % → 21 %)" in sentence(self.studies, [flagged], Watched())


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_window(tmp_path: Path, width: int) -> None:
    result, _ = written(tmp_path, Node(40, 30, change=20, lighter=1.2))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(result.page.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("#result p").first.bounding_box()["y"] < 300


def test_widths_are_of_numbers_and_set_sizes_of_classes() -> None:
    quantities = studies_of(observed(Node(5, 20))).series
    kinds = {each.name: each.kind for each in quantities if each.kind in (Kind.WIDTH, Kind.SET_SIZE)}
    assert kinds == {"finding": Kind.SET_SIZE, "score[left]": Kind.WIDTH}
