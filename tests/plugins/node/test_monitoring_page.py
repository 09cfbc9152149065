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
from casewise.plugins.node.monitoring.observation import Observation
from casewise.plugins.node.monitoring.outcomes import Outcome, OutcomeTable, Window, compared_outcomes
from casewise.plugins.node.monitoring.page import MOST_UNLIKE, WrittenMonitoring, write_monitoring
from casewise.plugins.node.monitoring.series import Kind, Quantity
from casewise.plugins.node.monitoring.shift import Change, Scope
from casewise.plugins.node.monitoring.summary import FOLLOW_UP, Watched
from casewise.report.formatting import date
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


def change(day: float, what: str = "brightness", scope: Scope | None = None, size: float = 0.3) -> Change:
    quantity = Quantity(Kind.NUMBER, what)
    return Change(quantity, scope or Scope(), START + day * DAY, size, quantity.words(higher=True))
