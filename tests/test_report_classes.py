"""The report of classes: curves, tables, the audit, the external cohort, and the Markdown page."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from casewise.audit.findings import CODES, Audit, Finding
from casewise.audit.metadata import SOURCES
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.external import drop
from casewise.evaluation.figures import ReliabilityBin
from casewise.evaluation.results import Drop, Results, from_json, plain
from casewise.report import terms
from casewise.report.context import ReportContext
from casewise.report.figures.classes import curves_of
from casewise.report.first_screen import screen
from casewise.report.markdown.page import write_results
from casewise.report.page import render, write_report
from casewise.report.sections import (
    audit,
    labels,
    learners,
    training,
    validation,
)
from casewise.report.sections import classes as class_sections
from casewise.report.statements import statements
from casewise.study.learners import learner_name
from tests.report_contexts import (
    REASON,
    Page,
    audit_of,
    check_page,
    classes,
    codes,
    estimate,
    films,
    finished,
    nothing,
    section_of,
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
    own = figures(two)
    assert len(curves_of(two.class_entry("oof", two.learner), own)) == 1
    assert "top2_accuracy" not in two.columns("learners")
    assert class_sections.section(two)["chosen_on"] == "the other folds"  # type: ignore[index]


def test_grades_have_weighted_kappa_and_name_a_grade_with_its_target(grades: ReportContext) -> None:
    page_of(grades)
    assert grades.merit == "kappa_quadratic"
    assert grades.learner == "mean_of_learners"
    assert all(row.name.startswith("retinopathy ") for row in screen(grades).failures)
    assert "kappa_quadratic" in learners.section(grades)["columns"]  # type: ignore[index]


def test_the_learners_table_has_the_published_form(three: ReportContext) -> None:
    found = learners.section(three)
    assert found is not None
    assert found["columns"] == ["accuracy", "top2_accuracy", "auroc", "auroc_pooled", "precision", "recall", "f1"]
    assert [stage for stage, _ in found["stages"]] == ["test", "oof"]
    values = [row.cells[3].value for row in found["stages"][0][1]]
    assert values == sorted(values, reverse=True)
    assert len(found["forests"]) == 2
    name, rows, counts = found["reports"][0]
    assert name == three.learner
    assert [row.name for row in rows] == ["covid", "no finding", "pneumonia", "mean"]
    own = figures(three)
    keys = ("precision[covid]", "recall[covid]", "f1[covid]")
    assert [cell.value for cell in rows[0].cells[:3]] == [own[key]["value"] for key in keys]
    assert rows[0].cells[-1].value == counts.rows[0][1]


def test_learner_is_chosen_out_of_fold(three: ReportContext) -> None:
    assert with_results(three, main=nothing(three).main).learner == three.metrics.main.learner
    oof = {name: three.metric("oof", name, "auroc")["value"] for name in three.learners}  # type: ignore[index]
    assert three.learner == max(oof, key=oof.__getitem__)


@pytest.mark.parametrize(
    ("confidence", "correct", "after", "many", "code", "scaling"),
    [
        (0.9, 0.7, 0.02, 1000, "over", "lowers"),
        (0.9, 0.7, 0.02, 10, "good", "lowers"),
        (0.6, 0.8, 0.3, 1000, "under", "no_help"),
        (0.81, 0.8, 0.01, 1000, "good", "unchanged"),
    ],
)
def test_calibration_says_which_way_it_errs(
    three: ReportContext, confidence: float, correct: float, after: float, many: int, code: str, scaling: str
) -> None:
    bins = [ReliabilityBin(0.6, 0.7, many, confidence, correct)]
    own = {"ece": estimate(abs(confidence - correct), subjects=many), "ece_calibrated": estimate(after)}
    found = class_sections.calibration(with_own(three, own, reliability=bins))
    assert found is not None
    assert (found["code"], found["scaling"]["code"]) == (code, scaling)
    assert (found["confidence"], found["correct"]) == (confidence, correct)


@pytest.mark.parametrize(
    ("confidence", "correct", "many", "subjects", "code"),
    [(0.9, 0.8, 100, 100, "over"), (0.9, 0.8, 100, 10, "good"), (0.6, 1.0, 1, 1, "good"), (0.6, 1.0, 60, 60, "under")],
)
def test_confidence_is_called_wrong_only_beyond_the_chance_of_subjects(
    three: ReportContext, confidence: float, correct: float, many: int, subjects: int, code: str
) -> None:
    bins = [ReliabilityBin(0.6, 0.7, many, confidence, correct)]
    own = {"ece": estimate(abs(confidence - correct), subjects=subjects)}
    found = class_sections.calibration(with_own(three, own, reliability=bins))
    assert found is not None
    assert found["code"] == code


@pytest.mark.parametrize(
    ("ece", "after", "loss", "loss_after", "code"),
    [
        (0.058, 0.059, 0.43, 0.4, "lowers_loss_only"),
        (0.05, 0.09, 0.43, 0.4, "raises_but_lowers_loss"),
        (0.09, 0.05, 0.4, 0.43, "lowers_but_raises_loss"),
        (0.05, 0.05, 0.4, 0.4, "unchanged"),
        (0.024, 0.023, 0.497, 0.497, "unchanged"),
        (0.05, 0.05, 0.4, 0.42, "no_help"),
        (0.05, 0.06, 0.4, 0.4, "no_help"),
    ],
)
def test_temperature_scaling_is_judged_by_error_and_loss(
    ece: float, after: float, loss: float, loss_after: float, code: str
) -> None:
    pairs = {"ece": ece, "ece_calibrated": after, "log_loss": loss, "log_loss_calibrated": loss_after}
    found = class_sections.scaling({name: estimate(value) for name, value in pairs.items()})
    assert found is not None
    assert found["code"] == code


# ------------------------------------------------------------------------------------------------------- the audit


def first_of_the_audit(context: ReportContext) -> str:
    """The sentence of the first screen about the audit."""
    return next(each.text for each in statements(context) if each.id == "audited")


def test_an_accepted_error_stands_on_the_first_screen_with_its_reason(three: ReportContext) -> None:
    found = audit.first_screen(three)
    assert found is not None
    assert (found["tone"], found["error_count"], found["warning_count"]) == ("error", 1, 2)
    assert [(row["accepted"], row["reason"], row["value"]) for row in found["errors"]] == [(True, REASON, 0.914)]
    assert [row["subject"]["code"] for row in found["warnings"]] == ["source-from-image", "twins-across-labels"]
    shown = first_of_the_audit(three)
    assert shown.startswith("Audit: 1 error and 2 warnings. First: ")
    assert "AUROC 0.91" in shown
    assert f"accepted by the study: {REASON.rstrip('.')}." in shown
    unaccepted = dataclasses.replace(three, audit=audit_of(three.cohort_images, {}))
    assert not audit.first_screen(unaccepted)["errors"][0]["accepted"]  # type: ignore[index]
    assert "accepted" not in first_of_the_audit(unaccepted)


def test_errors_and_warnings_are_counted_and_every_accepted_error_has_its_reason(three: ReportContext) -> None:
    own = {"target": "finding", "metric": "auroc", "value": 0.8}
    names = ("source", "border", "files", "native_size", "native_mode")
    found = [Finding(f"shortcut-{name}", "error", "A long sentence. " * 20, own) for name in names]
    found += [Finding(f"shortcut-{i}", "warning", "Another long sentence. " * 20, own) for i in range(7)]
    result = Audit(found).as_json({f"shortcut-{name}": f"reason of {name}" for name in names})
    context = dataclasses.replace(three, audit=result)
    shown = first_of_the_audit(context)
    assert shown.startswith("Audit: 5 errors and 7 warnings.")
    assert "long sentence" not in shown
    section = section_of(render(context), "audit")
    assert all(section.count(f"reason of {name}<") == 1 for name in names)


def test_a_clean_audit_and_none_at_all(three: ReportContext) -> None:
    clean = Audit([], {"twins": 3.0}, {"subjects": 120, "images": 150}).as_json({})
    found = audit.first_screen(dataclasses.replace(three, audit=clean))
    assert found is not None
    assert (found["tone"], found["examined"]) == ("clean", [(120, "subject", "subjects"), (150, "image", "images")])
    without = dataclasses.replace(three, audit=None)
    assert "audit" not in page_of(without).ids
    assert next(each for each in statements(without) if each.id == "audited").level == "warning"


def test_classes_that_folds_lack_are_on_the_first_page(three: ReportContext) -> None:
    assert 'data-code="classes_missing"' not in render(three)
    lacking = [{"side": "fold 2", "target": "dx", "class": "<flat>", "subjects": 183, "reason": "not_assigned"}]
    page = render(dataclasses.replace(three, splits=three.splits | {"classes_lacking": lacking}))
    text = page.split('data-code="classes_missing"')[1].split("</li>")[0]
    assert all(words in text for words in ("fold 2", "183 subjects", "&lt;flat&gt;"))


def test_an_audit_that_examined_no_shortcut_is_not_green_and_says_so(three: ReportContext) -> None:
    facts = {"subjects": 12, "images": 24, "tests": [], "not_tested": ["finding from border"]}
    context = dataclasses.replace(three, audit=Audit([], {}, facts).as_json({}))
    found = audit.first_screen(context)
    assert found is not None
    assert (found["tone"], found["untested"]) == ("neutral", "few_subjects")
    text = render(context)
    assert "untested" in codes(text)
    assert "finding from border" in section_of(text, "audit")
    twins = Audit([Finding("twins-across-subjects", "error", "Two.")], {}, facts).as_json({})
    found = audit.first_screen(dataclasses.replace(three, audit=twins))
    assert (found["tone"], found["untested"]) == ("error", "few_subjects")  # type: ignore[index]


def test_the_audit_section_shows_the_evidence(three: ReportContext, text: str) -> None:
    found = audit.section(three)
    assert found is not None
    assert [row["level"] for row in found["findings"]] == ["error", "warning", "warning", "note"]
    first, second = (row["subject"] for row in found["findings"][:2])
    assert (first["code"], first["target"], first["name"]) == ("column", "finding", "source")
    assert (second["code"], second["name"]) == ("source-from-image", "no finding")
    assert (found["tests"][1]["subject"]["code"], found["tests"][1]["subject"]["detail"]) == ("border", "its corners")
    labels_apart = found["twins"][0]
    assert (labels_apart["count"], labels_apart["kinds"]) == (4, [1, 0, 3, 1])
    assert len(labels_apart["pairs"]) == 3
    assert found["seconds"] == pytest.approx(32.8)
    assert "film-0000.png" in section_of(text, "audit")


def test_numbers_have_an_audit_too() -> None:
    found = [Finding("shortcut-site", "warning", "site alone tells brixia.", {"metric": "r", "value": 0.42, "p": 0.01})]
    page = page_of(dataclasses.replace(films(), audit=Audit(found, {"shortcuts": 2.0}).as_json({})))
    assert {"audit", "agreement"} < set(page.ids)
    assert "r = 0.42" in page.text


@pytest.mark.parametrize(
    ("metrics", "head", "chances"),
    [(["auroc"], "AUROC", ["0.50"]), (["r"], "r", ["0"]), (["auroc", "r"], "AUROC or r", ["0.50", "0"])],
)
def test_the_audit_names_the_measure_and_its_chance(metrics: list[str], head: str, chances: list[str]) -> None:
    tests = [{"target": "extent", "evidence": "site", "metric": m, "value": 0.62, "p": 0.01} for m in metrics]
    found = [Finding("shortcut-site", "warning", "site predicts extent.", test) for test in tests]
    found.append(Finding("subject-suffixes", "warning", "Names differ in an ending only.", {"subjects": 2}))
    context = dataclasses.replace(films(), audit=Audit(found, {}, {"tests": tests}).as_json({}))
    text = section_of(render(context), "audit")
    assert text.count(f'<th scope="col" class="n">{head}</th>') == 2
    assert re.findall(r"([\d.]+) is chance", text) == chances


def test_findings_cannot_break_the_page(three: ReportContext) -> None:
    evil = "<script>alert('x')</script>`<b>`"
    found = [Finding("shortcut-source", "error", evil, remedy=evil)]
    text = render(dataclasses.replace(three, audit=Audit(found).as_json({"shortcut-source": evil})))
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    check_page(text)


# ---------------------------------------------------------------------------------------------- external cohort


def test_the_external_cohort_stands_beside_the_internal_one(three: ReportContext) -> None:
    found = validation.external(three)
    assert found is not None
    assert found["name"] == "St Elsewhere"
    by_name = {row.name: row.cells for row in found["rows"]}
    inside, outside = (figures(three, stage)["accuracy"]["value"] for stage in ("test", "external"))
    assert by_name["Accuracy"][0].value == inside
    assert by_name["Accuracy"][2].value == pytest.approx(100 * (outside - inside))
    bare = with_results(three, external_drop=None)
    assert validation.external(bare)["rows"][0].cells[2].small == ""  # type: ignore[index]
    assert validation.external_summary(bare)["code"] == "no_interval"  # type: ignore[index]
    assert three.stages == ["test", "oof"]


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


@pytest.mark.parametrize(
    ("low", "high", "rough", "code"),
    [
        (-0.2, -0.01, False, "worse"),
        (-0.2, 0.01, False, "not_shown"),
        (-0.2, -0.01, True, "rough"),
        (0.1, 0.2, False, "better"),
        (0.1, None, False, "no_interval"),
    ],
)
def test_a_drop_is_called_one_only_beyond_chance(
    three: ReportContext, low: float, high: float | None, rough: bool, code: str
) -> None:
    inside, outside = (figures(three, stage)["auroc"]["value"] for stage in ("test", "external"))
    auroc = Drop(inside, outside, outside - inside, low, high, "test", rough)
    context = with_results(three, external_drop={three.learner: {"auroc": auroc}})
    found = validation.external_summary(context)
    assert found is not None
    assert (found["code"], found["inside"], found["outside"]) == (code, inside, outside)
    said = next(each for each in statements(context) if each.id == "elsewhere")
    assert said.level == {"worse": "flag", "better": "good", "not_shown": "good"}.get(code, "open")
    assert ("worse" in said.text) == (code == "worse")
    check_page(render(context))


def test_each_source_left_out_has_its_line(three: ReportContext, tmp_path: Path) -> None:
    undefined = estimate(None, subjects=40, reason="no case is truly covid")
    by_source = {
        "cohen": {three.learner: {"accuracy": estimate(0.61, 0.5, 0.7, subjects=45)}},
        "nih": {three.learner: {"accuracy": estimate(0.7, 0.6, 0.8, subjects=40), "auroc": undefined}},
    }
    context = with_results(three, by_site=by_source)
    assert "left-out" in page_of(context).ids
    found = validation.left_out(context)
    assert found is not None
    assert [(row.name, row.cells[0].text, row.cells[1].value) for row in found["rows"]] == [
        ("cohen", "45", 0.61),
        ("nih", "40", 0.7),
    ]
    auroc = found["rows"][1].cells[1 + found["columns"].index("auroc")]
    assert (auroc.text, auroc.small) == ("–", "no case is truly covid")
    text = write_results(finished(context, tmp_path / "run"), tmp_path / "page.md").read_text()
    assert f"| cohen | {three.learner} | 45 | 0.610 [0.500, 0.700] |" in text


def test_external_without_truth_says_so(three: ReportContext) -> None:
    metrics = {stage: figures for stage, figures in three.metrics.metrics.items() if stage != "external"}
    context = with_results(three, metrics=metrics, external_drop={})
    text = render(context)
    check_page(text)
    assert "unjudged" in codes(text)
    assert next(each for each in statements(context) if each.id == "elsewhere").level == "open"


@pytest.mark.parametrize("absent", [[0], [0, 1]])
def test_external_without_a_class_is_evaluated_by_what_is_defined(three: ReportContext, absent: list[int]) -> None:
    study, rows = three.study, three.predictions
    names = study.classes_of(three.outcome)
    rows = rows[~((rows["stage"] == "external") & rows["y_true"].isin(absent))]
    outcomes = Outcomes(three.outcome, classes={three.outcome: names})
    results = evaluate(rows, outcomes, Plan(50))
    fall = drop(rows, three.outcome, classes=names, plan=Plan(50))
    context = dataclasses.replace(three, predictions=rows, metrics=dataclasses.replace(results, external_drop=fall))
    found = validation.external_summary(context)
    assert found is not None
    assert found["metric"] == "accuracy"
    assert found["undefined"] == "auroc"
    assert found["code"] in ("worse", "better", "not_shown")
    outside = rows[(rows["stage"] == "external") & (rows["model"] == three.learner)]
    assert found["outside"] == pytest.approx((outside["y_true"] == outside["y_pred"]).mean())
    assert len(found["classes"]["absent"]) == len(absent)
    assert [r["cases"] for r in found["classes"]["recalls"]] == [
        int((outside["y_true"] == number).sum()) for number in range(3) if number not in absent
    ]
    assert found["classes"]["predicted"]["of"] == len(outside)
    text = render(context)
    check_page(text)
    assert "unjudged" not in codes(text)
    said = next(each for each in statements(context) if each.id == "elsewhere")
    assert f"no case there is {found['classes']['absent'][0]}" in said.text
    assert "no case is truly" in text


def test_what_is_said_of_calibration_is_of_its_stage(three: ReportContext) -> None:
    values: Any = plain(three.metrics)
    for stage, ece, confidence, correct in (("test", 0.01, 0.8, 0.8), ("external", 0.68, 0.83, 0.15)):
        bins = [ReliabilityBin(0.0, 1.0, 200, confidence, correct)]
        values["classes"][stage][three.learner][three.outcome]["reliability"] = plain(bins)
        values["metrics"][stage][three.learner][three.outcome]["ece"] |= {"value": ece, "low": ece, "high": ece + 0.05}
    context = dataclasses.replace(three, metrics=from_json(Results, values))
    inside, outside = class_sections.calibration(context), class_sections.calibration(context, "external")
    assert inside is not None
    assert outside is not None
    assert (inside["stage"], inside["code"]) == ("test", "good")
    assert (outside["stage"], outside["code"], outside["ece"]["value"]) == ("external", "over", 0.68)


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


@pytest.mark.parametrize("code", CODES)
def test_every_finding_of_the_audit_has_its_words(three: ReportContext, code: str) -> None:
    finding = dataclasses.asdict(Finding(code, "warning", "A sentence.", {"subjects": 4}))
    text = render(dataclasses.replace(three, audit={**(three.audit or {}), "findings": [finding]}))
    check_page(text)
    assert "A sentence." in text


# ------------------------------------------------------------------------------------------------ other sections


def test_high_confidence_errors_are_wrong_and_the_surest_first(three: ReportContext) -> None:
    found = class_sections.high_confidence_errors(three)
    assert found is not None
    rows = three.headline_rows
    wrong = rows[rows["y_true"] != rows["y_pred"]]
    assert found["wrong"] == len(wrong)
    surest = max(row[f"p{int(row['y_pred'])}"] for _, row in wrong.iterrows())
    assert found["cases"][0]["probability"] == surest
    assert all(case["reference"] != case["predicted"] and case["pictures"] for case in found["cases"])
    right = dataclasses.replace(three, predictions=three.predictions.assign(y_pred=lambda t: t["y_true"]))
    assert class_sections.high_confidence_errors(right) is None
    assert "worst" not in page_of(right).ids


def test_reference_classes_are_counted_by_side_and_source(three: ReportContext) -> None:
    found = labels.class_counts(three)
    assert found["sides"].names == ["covid", "no finding", "pneumonia"]
    assert [row[0] for row in found["sides"].rows] == [*(f"fold {i}" for i in range(1, 6)), "test", "all"]
    assert sum(row[1] for row in found["sides"].rows[:-1]) == found["sides"].rows[-1][1] == 150
    counts = three.cohort_images.groupby(["source", "finding"]).size()
    assert found["sources"].rows[0][2][0][0] == counts[("cohen", 0.0)]
    assert {"name": "covid", "share": 1.0, "source": "cohen"} in found["from_one"]
    held_out = dataclasses.replace(three, splits={**three.splits, "left_out": list("vwxyz")})
    assert labels.class_counts(held_out)["sides"].rows[0][0] == "fold 1 (v)"
    for name in (*SOURCES, "Data Set"):
        renamed = dataclasses.replace(three, cohort_images=three.cohort_images.rename(columns={"source": name}))
        assert labels.source_column(renamed) == name
    bare = dataclasses.replace(three, cohort_images=three.cohort_images.drop(columns=["source", "finding"]))
    assert labels.class_counts(bare)["sources"] is None
    assert labels.class_counts(bare)["sides"].rows[-1][1] == 150


def test_the_finder_and_gradual_unfreezing_are_shown(three: ReportContext) -> None:
    found = training.finders(three)
    assert found is not None
    assert len(found["figures"]) == 3
    assert found["chosen"]["resnet101"] == [1e-4, 2.4e-4]
    assert all(drawing.body.count("1e-") >= 2 for _, drawing in found["figures"])
    (model,) = training.unfreezing(three)
    assert (model["model"], model["networks"]) == ("resnet101", 5)
    assert [(step["groups"], step["networks"]) for step in model["steps"]] == [(0, 5), (1, 5), (2, 5), (3, 3)]
    assert [step["loss"] for step in model["steps"]] == pytest.approx([0.8, 0.7, 0.6, 0.5])
    given = dataclasses.replace(three, jobs=[{**job, "finder": None, "stages": []} for job in three.jobs])
    assert training.finders(given) is None
    assert training.unfreezing(given) == []
    page_of(given)


def test_a_finder_that_diverges_is_drawn(three: ReportContext) -> None:
    jobs = [
        {**job, "finder": {**job["finder"], "losses": [*job["finder"]["losses"][:-2], None, 1e12]}}
        for job in three.jobs
    ]
    assert training.finders(dataclasses.replace(three, jobs=jobs)) is not None


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


def test_undefined_figures_say_why(three: ReportContext) -> None:
    undefined = estimate(None, reason="no case is truly covid")
    context = with_own(three, {**figures(three), "auroc[covid]": undefined})
    assert "no case is truly covid" in page_of(context).text


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


# --------------------------------------------------------------------------------------------------- Markdown page


def test_results_page_of_classes(three: ReportContext, tmp_path: Path) -> None:
    reference = {"finding": {"published, other mixtures": {"accuracy": 0.9032, "auroc": 0.9966, "precision": 0.9}}}
    evaluation = three.study.evaluation.model_copy(update={"references": reference})
    study = three.study.model_copy(update={"evaluation": evaluation})
    run = finished(dataclasses.replace(three, study=study), tmp_path / "a")
    text = write_results(run, tmp_path / "a.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| *published, other mixtures*"))
    assert row.split(" | ")[1:4] == ["–", "0.903", "–"]
    assert "0.997" in row
    assert row.rstrip(" |").endswith("0.900")
    head = next(line for line in text.splitlines() if line.startswith("| learner | cases | Accuracy"))
    assert row.count("|") == head.count("|")
    entry = figures(three)["auroc"]
    assert f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]" in text
    assert REASON in text
    assert "| torchvision, IMAGENET1K_V1 | 1e-4 to 2.4e-4 |" in text


def test_results_page_of_other_units_and_sources(two: ReportContext, grades: ReportContext, tmp_path: Path) -> None:
    unaudited = finished(dataclasses.replace(two, audit=None), tmp_path / "two")
    text = write_results(unaudited, tmp_path / "two.md").read_text()
    assert "| class | cases |" in text
    assert "## Shortcut audit" not in text
    study = two.study.model_dump(mode="json")
    by_image = {name: target | {"level": "image"} for name, target in study["targets"].items()}
    single = finished(two, tmp_path / "single", study={"targets": by_image, "name": "single"})
    assert "| class | images |" in write_results(single, tmp_path / "single.md").read_text()
    page = write_results(single, tmp_path / "both.md", beside=[tmp_path / "two"]).read_text()
    judged = sum(two.class_entry(two.stage, two.learner)["support"])
    assert f"| {learner_name(two.learner)} | {judged} images |" in page
    assert f"| {learner_name(two.learner)} ({two.study.name}) | {judged} cases |" in page
    splits = {"how": "leave out source", "folds": 2}
    text = write_results(finished(grades, tmp_path / "g", splits=splits), tmp_path / "g.md").read_text()
    assert "## retinopathy" in text
    assert "| retinopathy" not in text


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


def test_networks_that_learned_nothing_are_said_first() -> None:
    alone = classes(networks=1)
    hopeless = guessing(alone, [alone.learner])
    text = render(hopeless)
    check_page(text)
    assert text.index('data-code="nothing_learned"') < text.index('data-code="size"')
    some = terms.unlearned(guessing(alone, [alone.learner], folds=3))
    assert some is not None
    assert (some["whose"], some["count"], some["of"], some["void"]) == ("own", 3, 5, True)
    assert terms.unlearned(guessing(alone, [alone.learner], folds=2)) is None
    assert terms.unlearned(guessing(alone, [])) is None
    assert "nothing_learned" not in codes(render(guessing(alone, [])))


def test_a_combined_learner_learned_nothing_where_most_networks_did_not(three: ReportContext) -> None:
    shown = showing(three, "mean_of_learners")
    found = terms.unlearned(guessing(shown, list(shown.study.backbones[:2])))
    assert found is not None
    assert (found["whose"], found["count"], found["of"], found["void"]) == ("combined", 10, 15, True)
    assert terms.unlearned(guessing(shown, shown.study.backbones[:1])) is None
    single = showing(three, three.study.backbones[0])
    found = terms.unlearned(guessing(single, list(three.study.backbones[1:])))
    assert found is not None
    assert (found["whose"], found["void"]) == ("study", False)


def test_single_images_are_shown_in_one_grid(text: str) -> None:
    seen = section_of(text, "preparation")
    assert 'class="pairs"' in seen
    assert 'class="prepared"' not in seen
    assert seen.count("<figure>") == seen.count('alt="Tile') == seen.count('alt="Image')


def test_without_a_description_the_title_is_followed_by_what_was_predicted() -> None:
    header = render(classes(networks=1, description="")).split("<header>")[1].split("</header>")[0]
    assert header.count('<p class="lead">') == 1


def test_inner_networks_that_beat_no_guess_are_named_as_inner() -> None:
    recipe = {"lr": 0.001, "schedule": "constant", "epochs": 60, "early_stopping": {"monitor": "none"}}
    alone = classes(networks=1, nested_cv={"folds": 2}, recipe=recipe)
    chosen = {"lr": 0.001, "epochs": 3, "loss": 1.2, "guess_loss": 1.1}
    inner = {"folds": 2, "chosen": chosen, "rates": [chosen], "trainings": []}
    jobs = [job | {"inner": inner} for job in alone.jobs]
    context = dataclasses.replace(alone, jobs=jobs)
    found = terms.unlearned(context)
    assert found is not None
    assert (found["inner"], found["count"], found["of"]) == (True, 5, 5)
    page = render(context)
    assert "5 of 5 inner networks of" in page
    assert "learned nothing" not in page
