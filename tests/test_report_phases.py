"""The report of training in phases, of training and held-out performance, and of a split by image."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.metrics.registry import metric_of
from casewise.report.context import ReportContext
from casewise.report.figures import learners as draw
from casewise.report.markdown.page import write_results
from casewise.report.page import render
from casewise.report.sections import image_split, training
from casewise.run_folder import RunFolder
from tests.report_contexts import (
    Page,
    check_page,
    classes,
    films,
    finish,
    finished,
    in_phases,
    section_of,
    split_by_image,
    with_figure,
    with_results,
)


@pytest.fixture(scope="module")
def plain() -> ReportContext:
    return classes("binary", test=30, networks=2)


@pytest.fixture(scope="module")
def two(plain: ReportContext) -> ReportContext:
    return split_by_image(in_phases(plain), 0.985)


@pytest.fixture(scope="module")
def text(two: ReportContext) -> str:
    return render(two)


def written(context: ReportContext, folder: Path) -> str:
    """The Markdown page of a run with this context."""
    run = finished(dataclasses.replace(context, audit=None), folder / "run")
    return write_results(run, folder / "page.md").read_text()


def test_every_phase_has_its_sizes_and_its_cost(text: str, two: ReportContext) -> None:
    page = check_page(text)
    found = training.phases_of(two.jobs, two.study.recipe.model_dump(mode="json"))
    assert list(found) == two.study.backbones
    head, upper = found[two.study.backbones[0]]
    assert (head.total, head.frozen, head.trainable, head.running) == (2_259_265, 2_223_872, 1_281, 34_112)
    assert upper.frozen + upper.trainable == head.frozen + head.trainable
    assert (head.seconds, head.core_seconds, head.rows) == (30.0, 60.0, 403.0)  # means over five folds
    assert (head.rate, upper.rate) == ("0.001", "1e-5")
    for part in ("2. 11 blocks frozen", "features.11", "2,259,265", "34,112", "60.0"):
        assert part in page.text


def test_training_performance_stands_beside_held_out_performance(two: ReportContext) -> None:
    found = training.train_and_held_out(two)
    assert found is not None
    assert found["columns"] == ("accuracy", "sensitivity", "specificity")
    rows = found["rows"][:4]
    network = rows[0][1].name
    assert [side for side, _ in rows] == ["on_training", "on_inner", "oof", "test"]
    shares = [100 / (100 + fold) for fold in range(1, 6)]
    first, last = rows[0][1], rows[3][1]
    assert first.cells[1].value == pytest.approx(np.mean(shares))
    assert first.cells[1].small == f"{100 * min(shares):.1f} to {100 * max(shares):.1f}"
    test = two.figures("test", network)["accuracy"]
    assert last.cells[1].value == pytest.approx(test["value"])
    assert last.cells[0].text == str(sum(two.class_entry("test", network)["support"]))
    assert training.on_training_cases(two.jobs)[network]["on_training"]["confusion"] == [[250, 15], [0, 250]]
    gap = training.gap(with_results(two, main=dataclasses.replace(two.metrics.main, learner=network)))
    assert gap == {"training": pytest.approx(np.mean(shares)), "held_out": test["value"]}


def test_more_classes_have_accuracy_alone() -> None:
    context = in_phases(classes(networks=1), stop="none")
    found = training.train_and_held_out(context)
    assert found is not None
    assert found["columns"] == ("accuracy",)
    assert [side for side, _ in found["rows"]] == ["on_training", "oof"]
    check_page(render(context))


def test_numbers_have_phases_and_no_accuracy() -> None:
    context = in_phases(films())
    for job in context.jobs:
        job["history"] = [{k: v for k, v in e.items() if "accuracy" not in k} for e in job["history"]]
    values = training.section(context)
    assert values["phases"] is not None
    assert values["train_performance"] is None
    assert not values["accuracy"]
    check_page(render(context))


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


def test_a_split_by_image_stands_beside_the_figures_by_subject(text: str, two: ReportContext) -> None:
    found = image_split.section(two)
    assert found is not None
    own, by_image = found["pair"]
    assert (own["value"], by_image["value"]) == (two.figures("test", two.learner)["accuracy"]["value"], 0.985)
    assert (found["belief"]["on_both_sides"], found["belief"]["subjects"]) == (28, 120)
    shown = Page(f"<section>{section_of(text, 'image-split').partition('>')[2]}</section>").text
    assert f"{100 * own['value']:.1f} %" in shown
    assert "98.5 % [96.5, 99.5]" in shown


@pytest.mark.parametrize(
    ("low", "value", "high", "code"),
    [
        (0.36, 0.48, 0.61, "covers_chance"),
        (0.1, 0.25, 0.4, "below_chance"),
        (0.9, 0.97, 0.99, "similar"),
        (0.7, 0.8, 0.9, "plain"),
    ],
)
def test_where_nothing_is_shown_for_new_patients_the_report_says_so(
    two: ReportContext, low: float, value: float, high: float, code: str
) -> None:
    context = with_figure(two, "auroc", low, value, high)
    belief = image_split.belief(context)
    assert (belief["code"], belief["chance"]) == (code, 0.5)
    check_page(render(context))


def test_a_metric_without_chance_is_not_compared_with_chance(two: ReportContext, monkeypatch: Any) -> None:
    metric = dataclasses.replace(metric_of("auroc"), chance=None)
    monkeypatch.setattr(image_split, "metric_of", lambda name: metric)
    belief = image_split.belief(with_figure(two, "auroc", -0.2, 0.1, 0.3))
    assert (belief["code"], belief["chance"]) == ("plain", None)


def varied(context: ReportContext) -> ReportContext:
    """The context as it would be had one subject's visits different references."""
    rows = context.predictions.copy()
    case = rows.loc[rows["visit"] == "2", "case"].iloc[0]
    rows.loc[rows["case"] == case, "y_true"] = 1 - rows.loc[rows["case"] == case, "y_true"]
    return dataclasses.replace(context, predictions=rows)


def test_to_recognise_a_subject_is_enough_only_where_nothing_varies_within(two: ReportContext) -> None:
    assert image_split.belief(two)["one_value_each"]
    assert not image_split.belief(varied(two))["one_value_each"]
    assert not image_split.one_value_each(None, two.outcome)


def test_the_split_by_image_of_numbers() -> None:
    context = split_by_image(films(), 0.4, "mae")
    found = image_split.section(context)
    assert found is not None
    assert found["columns"] == ["mae", "pcc", "ccc"]
    assert [way for way, _ in found["rows"]] == ["subject", "image"]
    assert found["pair"][1]["value"] == 0.4
    assert "image-split" in check_page(render(context)).ids


def test_runs_without_phases_have_none_of_it(plain: ReportContext, tmp_path: Path) -> None:
    check_page(render(plain))
    values = training.section(plain)
    assert (values["phases"], values["train_performance"]) == (None, None)
    assert image_split.section(plain) is None
    before = written(plain, tmp_path)
    for heading in ("## Training phases", "## Training and held-out", "## Comparison with a split by image"):
        assert heading not in before


def test_the_results_page_has_the_same_tables(two: ReportContext, tmp_path: Path) -> None:
    page, network = written(two, tmp_path), two.study.backbones[0]
    assert "| 2,259,265 | 2,223,872 | 1,281 | 34,112 | 0.001 |" in page
    assert "| 103 | 0.971 (0.952 to 0.990) | 0.944" in page
    own = two.figures("test", network)["accuracy"]["value"]
    assert f"| {network} | subject | {own:.3f} [" in page
    assert f"| {network} | image | 0.985 [0.965, 0.995] |" in page
    assert "28 of 120 subjects" in page
    assert "75 epochs" in written(in_phases(two, stop="none"), tmp_path / "none")


def test_networks_not_evaluated_on_training_cases_are_named(two: ReportContext, tmp_path: Path) -> None:
    written(two, tmp_path)
    first, plain = tmp_path / "run", tmp_path / "plain"
    shutil.copytree(first, plain)
    run = RunFolder(plain)
    study = run.study.read()
    run.study.write(study | {"name": "plain", "recipe": study["recipe"] | {"phases": []}})
    finish(run)
    for folder in run.finished_jobs():
        job = folder.record.read()
        folder.record.write({name: job[name] for name in job if not name.startswith(("on_", "phases"))})
    page = write_results(first, tmp_path / "both.md", beside=[plain]).read_text()
    assert ", ".join(f"{name} (plain)" for name in sorted(two.study.backbones)) in page
