"""The report of numbers: self-contained, true to metrics.json, safe against names, the same for the same context."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from casewise.errors import RunError
from casewise.report import formatting, terms
from casewise.report.context import ReportContext
from casewise.report.figures.drawing import canvas, svg
from casewise.report.first_screen import evaluated, screen
from casewise.report.page import render, write_report
from casewise.report.results_page import write_results
from casewise.report.statements import statements
from casewise.study.schema import Study
from tests.report_contexts import (
    Page,
    check_page,
    estimate,
    films,
    finished,
    nothing,
    numbers,
    study_of_numbers,
    with_results,
)


@pytest.fixture(scope="module")
def text(report_of_numbers: ReportContext) -> str:
    return render(report_of_numbers)


def test_page_is_whole_and_loads_nothing(text: str) -> None:
    page = check_page(text)
    assert page.svgs > 10
    assert "http" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    assert len(text) < 5_000_000
    sections = {"summary", "agreement", "time", "targets", "learners", "labels", "preparation", "worst", "training"}
    assert sections < set(page.ids)
    assert not {"classes", "external", "image-split", "nested", "audit"} & set(page.ids)


def test_page_shows_the_figures_of_the_metrics(report_of_numbers: ReportContext, text: str) -> None:
    page, context = Page(text), report_of_numbers
    assert context.stage == "test"
    for learner in context.learners:
        for metric in ("mae", "ccc"):
            entry = context.metrics["metrics"]["test"][learner]["pasi"][metric]
            digits = 1 if metric == "mae" else 2
            low, high = (formatting.number(entry[k], digits) for k in ("low", "high"))
            assert f"{formatting.number(entry['value'], digits)} [{low}, {high}]" in page.text
    assert context.splits["hash"] in page.text
    assert "net00 +0.333" in page.text
    assert all(note in page.text for note in context.notes)


def test_learner_is_chosen_out_of_fold_never_on_the_test_set(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    oof = {name: context.metric("oof", name, "ccc")["value"] for name in context.learners}  # type: ignore[index]
    assert context.learner == max(oof, key=oof.__getitem__)
    other = next(name for name in context.learners if name != context.learner)
    test = {name: {"pasi": {"ccc": estimate(float(name == other))}} for name in context.learners}
    metrics = {**context.metrics.metrics, "test": test}
    assert with_results(context, metrics=metrics, main=nothing(context).main).learner == context.learner


def test_same_context_gives_the_same_bytes(report_of_numbers: ReportContext, text: str, tmp_path: Path) -> None:
    path = write_report(report_of_numbers, tmp_path / "runs" / "report.html")
    assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_names_cannot_break_the_page() -> None:
    evil = "<script>alert('x')</script>&\"$x_{{}}{:03d}-->"
    text = render(numbers(test=3, learners=1, names=evil, title="<b>Trial</b> & more", name="a<i>", visits=4))
    assert "<b>Trial" not in text
    assert "a<i>" not in text
    assert "<script>alert" not in text
    assert text.count("<script") == 1
    assert "<script>alert('x')</script>" in check_page(text).text


def test_without_a_test_set() -> None:
    context = numbers(test=0, subjects=8)
    check_page(render(context))
    assert evaluated(context).startswith("48 visits of 8 subjects")


def test_stopping_on_inner_subjects_needs_no_statement() -> None:
    inner = films(recipe={"early_stopping": {"monitor": "inner"}})
    assert "stopped_on_fold" not in {statement.id for statement in statements(inner)}


def test_the_stage_is_that_of_the_headline(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    unscored = with_results(context, main=dataclasses.replace(context.metrics.main, stage="oof"))
    assert (unscored.stage, unscored.stages) == ("oof", ["oof", "test"])
    assert "test set" not in evaluated(unscored)
    check_page(render(unscored))
    only_oof = context.predictions[context.predictions["stage"] == "oof"]
    assert dataclasses.replace(context, predictions=only_oof).stage == "oof"


def test_results_page_beside_a_run_without_the_stage(report_of_numbers: ReportContext, tmp_path: Path) -> None:
    context = report_of_numbers
    run = finished(context, tmp_path / "run")
    results = nothing(context)
    oof = dataclasses.replace(results, metrics={"oof": context.metrics.metrics["oof"]})
    other = finished(dataclasses.replace(context, metrics=oof), tmp_path / "other")
    empty = finished(dataclasses.replace(context, metrics=results), tmp_path / "empty")
    for folder in (other, empty):
        with pytest.raises(RunError, match=str(folder)):
            write_results(run, tmp_path / "page.md", others=[folder])
    with pytest.raises(RunError, match=str(empty)):
        write_results(empty, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
    assert "| net00 (toy) |" in write_results(run, tmp_path / "page.md", others=[run]).read_text()


def test_missing_artefacts_are_left_out(report_of_numbers: ReportContext) -> None:
    bare = dataclasses.replace(
        report_of_numbers,
        metrics=nothing(report_of_numbers),
        jobs=[],
        stackers={},
        splits={},
        notes=[],
        environment={},
        photograph=lambda n: None,
    )
    page = check_page(render(bare))
    assert "learners" not in page.ids
    assert screen(bare).sizes == []


def test_outcome_without_any_truth(report_of_numbers: ReportContext) -> None:
    table = report_of_numbers.predictions.copy()
    table["y_true"] = np.where(table["target"] == "pasi", np.nan, table["y_true"])
    context = dataclasses.replace(report_of_numbers, predictions=table, metrics=nothing(report_of_numbers))
    assert "nothing can be evaluated" in check_page(render(context)).text


def test_unknown_subjects_are_counted_nowhere_as_people() -> None:
    context = films(subjects_known=False, test=10)
    assert "subject" not in evaluated(context)
    assert next(each for each in statements(context) if each.id == "subjects_apart").level == "bad"
    assert terms.subject_matter(context).subjects == 0
    check_page(render(context))


def test_figures_keep_user_text_out_of_markup_and_digits_in_text() -> None:
    with canvas(100, 100) as (figure_, axes):
        axes.set_title("$a <b> 0.12345")
        drawn = svg(figure_, "one").svg('an "alt" <text>')
    assert "$a &lt;b&gt; 0.12345" in drawn
    assert 'aria-label="an &#34;alt&#34; &lt;text&gt;"' in drawn
    ids = re.findall(r' id="([^"]+)"', drawn)
    assert ids
    assert all(name.startswith("one-") for name in ids)


def test_display_name_takes_the_spelling_of_the_description() -> None:
    study = study_of_numbers(title="Trial", description="PASI without head.")
    assert formatting.display_name(study, "pasi") == "PASI"
    assert formatting.display_name(study, "some_target") == "some target"
    assert formatting.display_name(study, "pas") == "pas"
    values = {"name": "a", "cohort": "a.csv", "targets": {"Befund_0_8": {"range": "0..8", "column": "Befund (0-8)"}}}
    headed = Study.model_validate(values | {"title": "befund 0 8"})
    assert formatting.display_name(headed, "Befund_0_8") == "Befund (0-8)"
    other = Study.model_validate({**values, "targets": {"extent": {"range": "0..8", "column": "x_0 (8)"}}})
    assert formatting.display_name(other, "extent") == "extent"
    assert formatting.own_heading(study, "pasi") == ""
    described = study_of_numbers(description="Extent and the Brixia score.")
    assert formatting.display_name(described, "extent") == "extent"
    assert formatting.display_name(described, "brixia") == "Brixia"
