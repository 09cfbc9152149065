"""What reports and result pages claim of classes: AUROC beside a column alone, bounds, ties, few cells, the split."""

from __future__ import annotations

import copy
import dataclasses
import re
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
from casewise.report.first_screen import screen
from casewise.report.markdown.page import write_results
from casewise.report.page import render
from casewise.report.sections import classes as classes_section
from casewise.report.sections import column_alone
from casewise.run_folder import RunFolder
from tests.report_contexts import check_page, classes, estimate, finished, with_own, with_results

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


def test_the_auroc_stands_beside_that_of_the_column_and_within_it(three: ReportContext, tmp_path: Path) -> None:
    values = column_alone.section(three)
    assert values is not None
    by_name = {row["name"]: row for row in values["rows"]}
    assert by_name["covid"]["alone"] == 0.97
    assert values["not_above"] == ["covid"]
    within = three.metrics["within_column"]
    # one source has no other class than a single subject's: its area says nothing
    assert by_name["covid"]["mean"] is None
    assert within["means"]["auroc[pneumonia]"]["groups"] == ["nih"]
    nih = within["groups"]["nih"]["metrics"]["auroc[pneumonia]"]["value"]
    assert by_name["pneumonia"]["mean"] == pytest.approx(nih)
    verdicts = {row.name: row.verdict for row in screen(three).rivals if row.name.startswith("column")}
    assert verdicts["column “source” alone, no image (covid)"] == "open"
    assert not any(row.name.startswith("column") for row in screen(dataclasses.replace(three, audit=None)).rivals)
    report, page = pages(three, tmp_path)
    assert f"covid with AUROC 0.97 (the model: {by_name['covid']['figure']['value']:.3f})" in page
    assert f"{nih:.3f} for pneumonia" in page
    assert f"{nih:.3f}" in report


def test_subjects_with_each_class_stand_beside_the_auroc_within_a_source(three: ReportContext, tmp_path: Path) -> None:
    rows = headline_rows(three.predictions, three.metrics["main"])
    source = groups_of_rows(rows, three.cohort_images, "source")[0]
    for group, entry in three.metrics["within_column"]["groups"].items():
        for number, label in enumerate(three.classes):
            of_class = rows[(source == group) & (rows["y_true"] == number)]
            counts = {"n_subjects": of_class["subject"].nunique(), "n_cases": of_class["case"].nunique()}
            assert entry["classes"][label] == counts
    values = column_alone.section(three)
    assert values is not None
    groups = three.metrics["within_column"]["groups"]
    for row, label in zip(values["rows"], three.classes, strict=True):
        expected = [(groups[g]["classes"][label]["n_subjects"], groups[g]["n_subjects"]) for g in values["groups"]]
        assert row["counts"] == expected
    some, every = values["rows"][0]["counts"][0]
    for text in pages(three, tmp_path):
        assert f"{some} of {every} subject" in text


def test_a_model_exceeds_the_column_if_its_interval_lies_above(three: ReportContext) -> None:
    figures = dict(three.figures(three.stage, three.learner))
    for label, value, low in (("covid", 0.98, 0.96), ("no_finding", 0.78, 0.76), ("pneumonia", 0.8, None)):
        figures[f"auroc[{label}]"] = dataclasses.replace(figures[f"auroc[{label}]"], value=value, low=low)
    values = column_alone.section(with_own(three, figures))
    assert values is not None
    assert values["not_above"] == ["covid", "pneumonia"]


def test_the_auprc_stands_beside_its_chance_level(three: ReportContext, tmp_path: Path) -> None:
    text = write_results(finished(three, tmp_path / "run"), tmp_path / "page.md").read_text()
    rows = headline_rows(three.predictions, three.metrics["main"])
    figures = three.metrics["metrics"][three.stage][three.learner][three.outcome]
    for number, label in enumerate(three.classes):
        area = figures[f"auprc[{label}]"]["value"]
        share = (rows["y_true"] == number).mean()
        assert re.search(rf"\| {area:.3f} \[[^|]*\]( \(rough\))? \(chance {share:.3f}\) \|", text)
    assert "0.333 for 3 classes" in text
    assert text.index("| AUPRC") < text.index("0.333 for 3 classes")


def test_of_two_classes_the_positive_one_is_shown(tmp_path: Path) -> None:
    two = with_column(classes("binary"), {"covid": 0.9, "no_finding": 0.9})
    values = column_alone.section(two)
    assert values is not None
    assert [row["name"] for row in values["rows"]] == ["covid"]
    assert values["rows"][0]["figure"] == two.metric(two.stage, two.learner, "auroc")
    shown = [(row.name, row.text) for row in screen(two).rivals if row.name.startswith("column")]
    assert shown == [("column “source” alone, no image", "0.90")]
    assert "covid with AUROC 0.90" in pages(two, tmp_path)[1]


def test_without_a_column_or_figures_within_it_nothing_is_claimed(three: ReportContext) -> None:
    assert column_alone.section(dataclasses.replace(three, audit=None)) is None
    values = column_alone.section(with_results(three, within_column=None))
    assert values is not None
    assert not values["within"]
    within = three.metrics.within_column
    assert within is not None
    values = column_alone.section(with_results(three, within_column=dataclasses.replace(within, learner="another")))
    assert values is not None
    assert not values["groups"]


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


def test_a_temperature_at_its_bound_is_stated_where_scaling_is(three: ReportContext, tmp_path: Path) -> None:
    bound = with_own(three, temperature_by_fold={"0": 20.0, "1": 20.0, "2": 1.2, "3": 1.1, "4": 1.0})
    values = classes_section.calibration(bound)
    assert values is not None
    assert values["bound"] == {"temperatures": [20.0], "folds": 2, "of": 5}
    for text in pages(bound, tmp_path):
        assert "in 2 of 5 folds" in text


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


def test_the_pages_state_prevalence_combined_learners_the_split_and_p(tmp_path: Path) -> None:
    context = with_column(classes("binary"), {"covid": 0.9, "no_finding": 0.9})
    stated = {"ppv_at_prevalence": estimate(0.123), "npv_at_prevalence": estimate(0.987)}
    points = [
        dataclasses.replace(point, prevalence=0.02, figures={**point.figures, **stated})
        for point in context.class_entry(context.stage, context.learner)["operating"]
    ]
    context = with_own(context, operating=points)
    report, page = pages(context, tmp_path)
    for text in (report, page):
        assert "PPV at 2.0 %" in text
        assert "random assignments, a random one" in text
        assert "999 permutations" in text
    head, row = re.search(r"(\| operating point .*)\n.*\n(.*)", page).groups()  # type: ignore[union-attr]
    assert head.count("|") == row.count("|")
    assert row.split(" | ")[-2:] == ["0.123", "0.987 |"]
    # a plain mean has no weights that could have been fitted
    assert "mean_of_learners" in context.learners
    assert "Out-of-fold figures of" not in report + page


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
