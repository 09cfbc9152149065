"""The report: self-contained, true to metrics.json, safe against names, the same for the same context."""

import dataclasses
import re
from pathlib import Path

import pytest

from casewise.errors import RunError
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.figures import Cell
from casewise.report.blocks import Table
from casewise.report.context import ReportContext
from casewise.report.figures.drawing import canvas, svg
from casewise.report.first_screen import evaluated, screen
from casewise.report.page import render
from casewise.report.results_page import write_results
from casewise.report.sections.training import networks, training_facts
from casewise.report.tables import metric_format
from tests.report_contexts import (
    check_page,
    classes,
    estimate,
    films,
    finished,
    numbers,
    with_figures,
    with_results,
    without_truth,
)
from tests.test_report_golden import check_named_by_code_once

OF_BOTH = {"summary", "learners", "labels", "preparation", "worst", "training", "glossary", "calibration"}
SECTIONS = {
    "report_of_numbers": OF_BOTH | {"agreement", "time", "targets", "prediction-sets"},
    "report_of_classes": OF_BOTH | {"classes", "external", "audit", "prediction-sets"},
    "report_of_grades": OF_BOTH | {"classes", "audit", "prediction-sets"},
}


@pytest.fixture(params=SECTIONS)
def context(request: pytest.FixtureRequest) -> ReportContext:
    return request.getfixturevalue(request.param)


def test_the_page_is_whole_loads_nothing_and_shows_the_figures(request: pytest.FixtureRequest) -> None:
    for name, sections in SECTIONS.items():
        context = request.getfixturevalue(name)
        text = render(context)
        page = check_page(text)
        check_named_by_code_once(text, context)
        assert set(re.findall(r'<section id="([^"]+)"', text)) == sections
        assert text.count("<svg") > 6
        assert "http" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
        assert len(text) < 5_000_000
        write = metric_format(context.study, context.outcome)
        for metric, figure in context.figures(context.stage, context.learner).items():
            if metric in context.columns("learners", context.stage):
                cell = write.cell(metric, figure)
                assert f"{cell.text} {cell.small}" in page.text.replace("\u00a0", " ")
        assert context.splits["hash"] in page.text
        assert all(note in page.text for note in context.notes)
        assert name != "report_of_numbers" or render(context) == text


def test_the_learner_is_chosen_out_of_fold_never_on_the_test_set(context: ReportContext) -> None:
    unstated = with_results(context, main=without_truth(context).metrics.main)
    merits = {name: figure.value for name in context.learners if (figure := context.metric("oof", name, context.merit))}
    assert unstated.learner == max(merits, key=lambda name: merits[name] or 0.0)
    other = next(name for name in context.learners if name != unstated.learner)
    test = {
        Cell("test", name, context.outcome): {context.merit: estimate(float(name == other))}
        for name in context.learners
    }
    assert with_figures(unstated, test).learner == unstated.learner


def test_names_cannot_break_the_page() -> None:
    evil = "<script>alert('x')</script>&\"$x_{{}}{:03d}-->"
    text = render(numbers(test=3, learners=1, names=evil, title="<b>Trial</b> & more", name="a<i>", visits=4))
    assert not any(part in text for part in ("<b>Trial", "a<i>", "<script>alert"))
    assert text.count("<script") == 1
    assert "<script>alert('x')</script>" in check_page(text).text
    target = {"kind": "classification", "classes": ["<i>a</i>", 'b"&{{x}}', "c$_1"]}
    text = render(classes(subjects=40, networks=1, targets={"<b>what</b>": target}))
    assert not any(part in text for part in ("<i>a</i>", "<b>what"))
    check_page(text)


def test_the_stage_is_that_of_the_headline(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    unscored = with_results(context, main=dataclasses.replace(context.metrics.main, stage="oof"))
    assert (unscored.stage, unscored.stages) == ("oof", ["oof", "test"])
    assert "test set" not in evaluated(unscored)
    check_page(render(unscored))
    assert evaluated(unscored).startswith("54 visits of 9 subjects")
    only_oof = context.predictions[context.predictions["stage"] == "oof"]
    assert dataclasses.replace(context, predictions=only_oof).stage == "oof"


def test_results_page_beside_a_run_without_the_stage(report_of_numbers: ReportContext, tmp_path: Path) -> None:
    context = report_of_numbers
    run, nothing = finished(context, tmp_path / "run"), without_truth(context).metrics
    oof = dataclasses.replace(nothing, figures=context.metrics.figures.select(stage="oof"))
    other = finished(dataclasses.replace(context, metrics=oof), tmp_path / "other")
    empty = finished(dataclasses.replace(context, metrics=nothing), tmp_path / "empty")
    for first, others in ((run, [other]), (run, [empty]), (empty, [])):
        with pytest.raises(RunError, match=str((others or [first])[0])):
            write_results(first, tmp_path / "page.md", others=others)
    assert not (tmp_path / "page.md").exists()
    assert "| net00 (toy) |" in write_results(run, tmp_path / "page.md", others=[run]).read_text()


def test_the_page_does_not_grow_with_the_number_of_cases() -> None:
    few, many = (len(render(films(subjects=count))) for count in (1_000, 3_000))
    assert many < few


def test_missing_artefacts_are_left_out(context: ReportContext) -> None:
    lacking = {"jobs": [], "stackers": {}, "splits": {}, "notes": [], "environment": {}, "audit": None}
    bare = dataclasses.replace(without_truth(context), photograph=lambda n: None, **lacking)
    page = check_page(render(bare))
    assert "nothing can be evaluated" in page.text
    assert "learners" not in page.every("id")
    assert screen(bare).sizes == []


def test_operating_points_do_not_depend_on_external_labels(report_of_classes: ReportContext) -> None:
    rows, outcome = report_of_classes.predictions, report_of_classes.outcome
    outside = rows["stage"] == "external"
    other, points = rows.assign(y_true=rows["y_true"].where(~outside, (rows["y_true"] + 1) % 3)), []
    for table in (rows, other):
        results = evaluate(table, Outcomes(outcome, classes={outcome: report_of_classes.classes}), Plan(20))
        entry = results.classes["external"][report_of_classes.learner][outcome]
        points.append([(point.label, point.rule, point.threshold) for point in entry.operating])
        assert entry.temperature_fitted_on == "out of fold"
    assert points[0] == points[1]


def test_figures_keep_user_text_out_of_markup_and_digits_in_text() -> None:
    with canvas(100, 100) as (figure, axes):
        axes.set_title("$a <b> 0.12345")
        drawn = svg(figure, "one").svg('an "alt" <text>')
    assert "$a &lt;b&gt; 0.12345" in drawn
    assert 'aria-label="an &#34;alt&#34; &lt;text&gt;"' in drawn
    ids = re.findall(r' id="([^"]+)"', drawn)
    assert ids
    assert all(name.startswith("one-") for name in ids)


def test_the_share_of_limited_steps_stands_beside_each_network(report_of_numbers: ReportContext) -> None:
    names = report_of_numbers.study.trained
    # each network has another share in its last epoch, and recorded nothing in its first
    jobs = [
        {**job, "history": [job["history"][0], {**job["history"][1], "gradient_norm": 8.0, "limited_steps": share}]}
        for job in report_of_numbers.jobs
        for share in [1.0 if job["model"] == names[0] else 0.25]
    ]
    recipe = report_of_numbers.study.recipe.model_copy(update={"clip_gradients": 1.0})
    study = report_of_numbers.study.model_copy(update={"recipe": recipe})
    context = dataclasses.replace(report_of_numbers, jobs=jobs, study=study)
    table = next(block for block in networks(context) if isinstance(block, Table))
    column = list(table.columns).index("Limited steps") - 1
    assert {row.cells[column].text for row in table.rows[:1]} == {"100 %"}
    assert {row.cells[column].text for row in table.rows[1:]} == {"25 %"}
    facts, without = training_facts(study, jobs), training_facts(study, report_of_numbers.jobs)
    assert set(facts) == set(without) == {"Loss of numbers", "Gradients", "Weights kept"}
    assert facts["Gradients"] != without["Gradients"]
    assert "Limited steps" not in next(b for b in networks(report_of_numbers) if isinstance(b, Table)).columns
