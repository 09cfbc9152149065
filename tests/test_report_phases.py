"""The report of training in phases, of training and held-out performance, and of a split by image."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest

from casewise.report.context import ReportContext
from casewise.report.figures import learners as draw
from tests.report_contexts import (
    classes,
    in_phases,
    split_by_image,
)


@pytest.fixture(scope="module")
def plain() -> ReportContext:
    return classes("binary", test=30, networks=2)


@pytest.fixture(scope="module")
def two(plain: ReportContext) -> ReportContext:
    return split_by_image(in_phases(plain), 0.985)


def curve(context: ReportContext) -> str:
    jobs = [job for job in context.jobs if job["model"] == context.study.backbones[0]]
    return str(draw.training("net", jobs, name="a").svg("x"))


def test_curves_mark_the_phases_and_show_accuracy(two: ReportContext, plain: ReportContext) -> None:
    with_both, before = curve(two), curve(plain)
    for part in (">loss<", ">accuracy<", ">11 blocks frozen<", ">80 %<"):
        assert part in with_both
        assert part not in before
    assert with_both.count("stroke-dasharray") == 2  # one change of phase, in both panels
    assert "stroke-dasharray" not in before
    alone = curve(in_phases(plain, stop="none"))
    assert draw.MODEL not in alone  # no subjects decide when to stop
    assert draw.ACCENT not in alone


def test_labels_of_many_phases_do_not_overlap(two: ReportContext) -> None:
    job = copy.deepcopy(two.jobs[0])
    for index, entry in enumerate(job["history"]):
        entry["phase"] = min(index // 4, 3)
    job["phases"] = [{"freeze": freeze} for freeze in ("all", "30%", "11 blocks", "none")]
    labels = draw._phase_labels([job], (1.0, 75.0))
    assert [text.split()[0] for _, text, _ in labels] == ["only", "30%", "11", "nothing"]
    for line in {line for *_, line in labels}:
        own = sorted((at, at + 4.9 * len(text)) for at, text, where in labels if where == line)
        assert all(one[1] < other[0] for one, other in pairwise(own))
    draw.training("net", [job], name="a")
