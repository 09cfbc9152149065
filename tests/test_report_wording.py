"""What reports and result pages claim of classes: AUROC beside a column alone, bounds, ties, few cells, the split."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from casewise.audit.columns import leading_column
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.external import groups_of_rows
from casewise.evaluation.results import Flow, Participants, WithinColumn
from casewise.evaluation.subgroups import headline_rows, within_column
from casewise.evaluation.thresholds import judge_thresholds
from casewise.pipeline.evaluate import within_shortcut_column
from casewise.report.context import ReportContext
from casewise.report.page import render
from casewise.report.results_page import write_results
from casewise.run_folder import RunFolder
from tests.report_contexts import check_page, classes, finished, with_results

ASSIGNMENT = {
    "folds": {
        "method": "random",
        "candidates": {"greedy": 1000, "random": 1000},
        "imbalance": 0.012,
        "lowest_imbalance": {"greedy": 0.034, "random": 0.012},
        "exchanges": 0,
        "shortfall": 0,
    }
}


def with_column(context: ReportContext, by_class: dict[str, float]) -> ReportContext:
    """The context with an audit of the source by class, and figures within each source."""
    audit, main = copy.deepcopy(context.audit), context.metrics.main
    assert audit is not None
    audit["findings"][0]["figures"]["by_class"] = by_class
    rows = headline_rows(context.predictions, main)
    group_of, groups = groups_of_rows(rows, context.cohort_images, "source")
    positive = context.study.positive_of(context.outcome)
    figures = within_column(rows, group_of, groups, classes=context.classes, positive=positive, plan=Plan(50))
    within = WithinColumn("source", main.target, context.stage, context.learner, *figures)
    splits = {**context.splits, "assignment": ASSIGNMENT}
    return with_results(dataclasses.replace(context, audit=audit, splits=splits), within_column=within)


@pytest.fixture(scope="module")
def three() -> ReportContext:
    return with_column(classes(), {"covid": 0.97, "no_finding": 0.75, "pneumonia": 0.52})


def pages(context: ReportContext, folder: Path) -> list[str]:
    """The words of the report and of the Markdown page."""
    text = write_results(finished(context, folder / "run"), folder / "page.md").read_text()
    return [check_page(render(context)).text, text]


def test_the_run_evaluates_within_the_column_that_its_audit_found(three: ReportContext, tmp_path: Path) -> None:
    folder, cohort = RunFolder(tmp_path / "run"), SimpleNamespace(images=three.cohort_images)
    arguments: Any = (three.study, cohort, three.predictions, three.metrics, folder)
    assert within_shortcut_column(*arguments) is None
    folder.audit.write(three.audit)
    entry = within_shortcut_column(*arguments)
    assert entry is not None
    assert entry.column == "source"
    assert set(entry.groups) == {"cohen", "nih"}
    known = three.metrics["within_column"].groups["nih"].metrics["auroc[pneumonia]"].value
    assert entry.groups["nih"].metrics["auroc[pneumonia]"].value == pytest.approx(known)
    by_site = dataclasses.replace(three.metrics, by_site={})
    assert within_shortcut_column(*arguments[:3], by_site, folder) is None
    dates = three.cohort_images.assign(source=[f"2020-{n}" for n in range(len(three.cohort_images))])
    assert within_shortcut_column(three.study, SimpleNamespace(images=dates), *arguments[2:]) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named", "expected"),
    [
        ({}, None, "site"),
        ({"level": "note"}, None, None),
        ({"id": "source-predictable-ill"}, None, None),
        ({"figures": {"evidence": "border (its corners)"}}, None, None),
        ({"figures": {"evidence": "ward"}}, None, None),
        ({"figures": {"evidence": "ward"}}, ["ward"], "ward"),
        ({"figures": {"by_class": {}}}, None, None),
        ({"figures": {"target": "another"}}, None, None),
    ],
)
def test_only_columns_that_should_not_predict_stand_beside(
    change: dict[str, Any], named: list[str] | None, expected: str | None
) -> None:
    figures = {"target": "label", "evidence": "site", "value": 0.9, "by_class": {"ill": 0.9}}
    finding = {"id": "shortcut-x", "level": "error", **change, "figures": figures | change.get("figures", {})}
    column = leading_column({"findings": [finding]}, "label", named)
    assert (column or {}).get("name") == expected


def test_operating_points_are_rough_where_a_cell_has_few_subjects() -> None:
    of_class = np.repeat([True, False], 60)[:, None]
    scores = np.where(of_class, 0.9, 0.8)
    scores[:2], scores[60:63] = 0.1, 0.1  # two false negatives, three true negatives
    people = np.arange(120).astype(str)
    (point,) = judge_thresholds(scores, np.full((120, 1), 0.5), of_class, people, Plan(50), n_cases=120)
    rough = {name: estimate.rough for name, estimate in point.items()}
    few = {"specificity", "sensitivity", "lr_negative", "npv"}
    assert {name for name, is_rough in rough.items() if is_rough} == few
    assert point["specificity"].low is not None
    scores[2:12], scores[63:90] = 0.1, 0.1
    (point,) = judge_thresholds(scores, np.full((120, 1), 0.5), of_class, people, Plan(50), n_cases=120)
    assert not any(estimate.rough for estimate in point.values())


def test_cases_that_lack_images_are_not_denied(three: ReportContext) -> None:
    size = {"subjects": 5, "cases": 5, "images": 5}
    steps = [
        {"code": "read", "rows": 0, "subjects": 0, "left": {"rows": 8, "subjects": 8}},
        {"code": "images", "cases": 3, "subjects": 3, "left": {"cases": 5, "subjects": 5}},
    ]
    participants = Participants(Flow(steps, size), [], [], {}, None)
    text = check_page(render(with_results(three, participants=participants))).text
    assert "3 cases were left out" in text
    assert "none was left out for that reason" not in text
