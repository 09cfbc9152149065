"""The report of classes: curves, tables, the audit, the external cohort, and the Markdown page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.report.context import ReportContext
from casewise.report.first_screen import screen
from casewise.report.page import render, write_report
from casewise.report.sections import learners
from tests.report_contexts import (
    Page,
    check_page,
    classes,
    estimate,
    nothing,
    with_own,
    with_results,
)


@pytest.fixture
def three(report_of_classes: ReportContext) -> ReportContext:
    return report_of_classes


@pytest.fixture
def two(report_of_two_classes: ReportContext) -> ReportContext:
    return report_of_two_classes


@pytest.fixture
def grades(report_of_grades: ReportContext) -> ReportContext:
    return report_of_grades


@pytest.fixture(scope="module")
def text(report_of_classes: ReportContext) -> str:
    return render(report_of_classes)


def page_of(context: ReportContext) -> Page:
    return check_page(render(context))


def figures(context: ReportContext, stage: str = "") -> dict[str, Any]:
    """The figures of the shown learner."""
    return context.figures(stage or context.stage, context.learner)


def test_page_is_whole_and_has_the_sections_of_classes(three: ReportContext, text: str) -> None:
    page = check_page(text)
    assert page.svgs == 11
    assert {"classes", "external", "audit", "labels", "worst"} < set(page.ids)
    assert not {"agreement", "time"} & set(page.ids)
    own = figures(three)
    for metric in ("accuracy", "top2_accuracy", "precision", "recall"):
        low, high = (f"{100 * own[metric][key]:.1f}" for key in ("low", "high"))
        assert f"{100 * own[metric]['value']:.1f} % [{low}, {high}]" in page.text
    for metric in ("auroc", "f1", "auroc[covid]", "f1[no_finding]"):
        low, high = (f"{own[metric][key]:.3f}" for key in ("low", "high"))
        assert f"{own[metric]['value']:.3f} [{low}, {high}]" in page.text


def test_two_classes_have_sensitivity_and_one_curve(two: ReportContext) -> None:
    page_of(two)
    assert "top2_accuracy" not in two.columns("learners")


def test_grades_have_weighted_kappa_and_name_a_grade_with_its_target(grades: ReportContext) -> None:
    page_of(grades)
    assert grades.merit == "kappa_quadratic"
    assert grades.learner == "mean_of_learners"
    assert all(row.name.startswith("retinopathy ") for row in screen(grades).failures)
    assert "kappa_quadratic" in learners.section(grades)["columns"]  # type: ignore[index]


def test_learner_is_chosen_out_of_fold(three: ReportContext) -> None:
    assert with_results(three, main=nothing(three).main).learner == three.metrics.main.learner
    oof = {name: three.metric("oof", name, "auroc")["value"] for name in three.learners}  # type: ignore[index]
    assert three.learner == max(oof, key=oof.__getitem__)


# ------------------------------------------------------------------------------------------------------- the audit


def test_classes_that_folds_lack_are_on_the_first_page(three: ReportContext) -> None:
    assert 'data-code="classes_missing"' not in render(three)
    lacking = [{"side": "fold 2", "target": "dx", "class": "<flat>", "subjects": 183, "reason": "not_assigned"}]
    page = render(dataclasses.replace(three, splits=three.splits | {"classes_lacking": lacking}))
    text = page.split('data-code="classes_missing"')[1].split("</li>")[0]
    assert all(words in text for words in ("fold 2", "183 subjects", "&lt;flat&gt;"))


# ---------------------------------------------------------------------------------------------- external cohort


def test_a_rough_interval_below_chance_does_not_say_worse_than_chance(three: ReportContext) -> None:
    for low, high, rough, code in (
        (0.3, 0.45, True, "open"),
        (0.3, 0.45, False, "worse"),
        (0.4, 0.6, False, "open"),
        (0.6, 0.8, True, "better"),
    ):
        auroc = estimate(0.5 * (low + high), low, high, rough=rough)
        rivals = screen(with_own(three, {**figures(three), "auroc": auroc})).rivals
        assert next(row.verdict for row in rivals if row.name.startswith("a guess")) == code


def test_operating_points_do_not_depend_on_external_labels(three: ReportContext) -> None:
    rows, outcome = three.predictions, three.outcome
    outside = rows["stage"] == "external"
    other = rows.assign(y_true=rows["y_true"].where(~outside, (rows["y_true"] + 1) % 3))
    points = []
    for table in (rows, other):
        results = evaluate(table, Outcomes(outcome, classes={outcome: three.classes}), Plan(20))
        entry = results.classes["external"][three.learner][outcome]
        points.append([(point.label, point.rule, point.threshold) for point in entry.operating])
        assert entry.temperature_fitted_on == "out of fold"
    assert points[0] == points[1]


# ------------------------------------------------------------------------------------------------ other sections


def test_missing_artefacts_are_left_out(three: ReportContext, grades: ReportContext) -> None:
    for context in (three, grades):
        bare = dataclasses.replace(
            context,
            metrics=nothing(context),
            jobs=[],
            splits={},
            notes=[],
            environment={},
            audit=None,
            photograph=lambda n: None,
        )
        assert "learners" not in page_of(bare).ids
        assert screen(bare).sizes == []


def test_outcome_without_any_truth(three: ReportContext) -> None:
    unknown = three.predictions.assign(y_true=np.nan)
    text = render(dataclasses.replace(three, predictions=unknown, metrics=nothing(three)))
    assert "nothing can be evaluated" in check_page(text).text


def test_names_cannot_break_the_page() -> None:
    target = {"kind": "classification", "classes": ["<i>a</i>", 'b"&{{x}}', "c$_1"]}
    text = render(classes(subjects=40, networks=1, targets={"<b>what</b>": target}))
    assert "<i>a</i>" not in text
    assert "<b>what" not in text
    check_page(text)


def test_same_context_gives_the_same_bytes(three: ReportContext, text: str, tmp_path: Path) -> None:
    assert write_report(three, tmp_path / "report.html").read_text() == text


# ---------------------------------------------------------------------------------------- networks that learned nothing


def guessing(context: ReportContext, bad: list[str], *, folds: int = 5) -> ReportContext:
    """The same run, but the networks of these backbones (of the first folds) never beat guessing."""
    jobs = [
        job | ({"guess_loss": 0.01} if job["model"] in bad and job["fold"] <= folds else {"guess_loss": 2.0})
        for job in context.jobs
    ]
    return dataclasses.replace(context, jobs=jobs)


def showing(context: ReportContext, learner: str) -> ReportContext:
    return with_results(context, main=dataclasses.replace(context.metrics.main, learner=learner))


def test_without_a_description_the_title_is_followed_by_what_was_predicted() -> None:
    header = render(classes(networks=1, description="")).split("<header>")[1].split("</header>")[0]
    assert header.count('<p class="lead">') == 1


def test_published_figures_are_rows_of_the_learners(three: ReportContext) -> None:
    reference = {"finding": {"published, other mixtures": {"accuracy": 0.9032, "auroc": 0.9966, "precision": 0.9}}}
    evaluation = three.study.evaluation.model_copy(update={"references": reference})
    study = three.study.model_copy(update={"evaluation": evaluation})
    table = learners.learner_table(dataclasses.replace(three, study=study), three.stage)
    assert table is not None
    cells = dict(zip(table.columns[1:], [cell.text for cell in table.rows[-1].cells], strict=True))
    assert (table.rows[-1].name, cells["Kind"], cells["Accuracy"]) == (
        "published, other mixtures",
        "published",
        "90.3 %",
    )
    assert cells["AUROC"] == "0.997"
