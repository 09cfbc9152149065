"""The first screen: five questions, statements with their conditions, and one verdict for each pair."""

from __future__ import annotations

import dataclasses
import re

import pytest

from casewise.evaluation.figures import Difference
from casewise.report.context import ReportContext
from casewise.report.first_screen import Screen, screen, verdict
from casewise.report.page import render
from casewise.report.statements import KINDS, MARKS, Statement, statements
from tests.report_contexts import classes, numbers, with_own, with_results

QUESTIONS = [
    "Where does it fail?",
    "Does something simpler do as well?",
    "Can it be trusted?",
    "What the model is, and how to use it",
]
KIND_FIXTURES = ["report_of_numbers", "report_of_classes", "report_of_two_classes", "report_of_grades"]


def statement(context: ReportContext, id: str) -> Statement | None:
    """The statement of this kind; None where it does not hold."""
    return next((each for each in statements(context) if each.id == id), None)


def words(page: str) -> list[str]:
    """The visible words of the first screen."""
    first = page.partition('id="summary"')[2].partition('<section id="')[0]
    return re.sub(r"<[^>]*>", " ", first).split()


@pytest.mark.parametrize("fixture", KIND_FIXTURES)
def test_five_questions_in_the_same_order(fixture: str, request: pytest.FixtureRequest) -> None:
    context = request.getfixturevalue(fixture)
    page = render(context)
    first = "How far off is it?" if not context.classes else "How often is it right?"
    places = [page.index(f"<h3>{question}</h3>") for question in (first, *QUESTIONS)]
    assert places == sorted(places)
    assert len(words(page)) < 350


@pytest.mark.parametrize("fixture", KIND_FIXTURES)
def test_figures_are_those_of_the_results(fixture: str, request: pytest.FixtureRequest) -> None:
    context = request.getfixturevalue(fixture)
    shown = screen(context)
    metric = "mae" if not context.classes else "accuracy"
    figure = context.metrics.figures(context.stage, context.learner, context.outcome)[metric]
    assert figure.value is not None
    expected = figure.value if not context.classes else 100 * figure.value
    assert float(shown.sizes[0].text.replace("−", "-")) == pytest.approx(expected, abs=0.51)
    if context.classes:
        support = context.metrics.classes[context.stage][context.learner][context.outcome]
        found = [row.cells[0] for row in shown.failures]
        assert found == [f"{support.confusion[i][i]} of {total}" for i, total in enumerate(support.support)]
    else:
        assert sum(int(row.cells[0]) for row in shown.failures) == len(context.headline_rows)
        assert [row.worst for row in shown.failures].count(True) == 1


def test_the_number_of_kinds_of_statements_is_small() -> None:
    assert len(KINDS) <= 25


@pytest.mark.parametrize("fixture", KIND_FIXTURES)
def test_flags_come_first_and_every_other_statement_has_a_mark(fixture: str, request: pytest.FixtureRequest) -> None:
    levels = [each.level for each in statements(request.getfixturevalue(fixture))]
    assert set(levels) <= {"flag", *MARKS}
    assert levels == sorted(levels, key=["flag", *MARKS].index)


def test_the_verdict_is_that_of_the_simultaneous_interval(report_of_two_classes: ReportContext) -> None:
    def of(difference: float, low: float | None, high: float | None, open_: bool, metric: str) -> str:
        return verdict(report_of_two_classes, Difference(difference, low, high, open_), metric)

    assert of(0.1, 0.05, 0.15, False, "auroc") == "better"
    assert of(0.1, 0.05, 0.15, False, "mae") == "worse"
    assert of(-0.1, -0.2, 0.1, True, "auroc") == "open"
    assert of(0.1, None, None, True, "auroc") == "untested"
    assert verdict(report_of_two_classes, None, "auroc") == "untested"


def test_a_guess_is_beaten_only_beyond_the_interval() -> None:
    context = numbers(learners=1, metas=0)
    figures = context.metrics.figures(context.stage, context.learner, context.outcome)
    own = dataclasses.replace(figures["mae"], rough=False)
    context = with_own(context, {**figures, "mae": own})
    assert own.low is not None
    assert own.high is not None
    for error, code in ((own.high + 1, "better"), ((own.low + own.high) / 2, "open"), (own.low / 2, "worse")):
        note = {"code": "guess_mean", "stage": context.stage, "target": context.outcome, "error": error}
        changed = with_results(context, notes=[note])
        assert next(row.verdict for row in screen(changed).rivals if row.name.startswith("a guess")) == code


def test_an_external_cohort_is_the_second_figure(report_of_classes: ReportContext) -> None:
    sizes = screen(report_of_classes).sizes
    assert [size.place for size in sizes] == ["here", report_of_classes.study.external_name]
    assert len(screen(report_of_classes).failures[0].cells) == 3


def test_a_study_without_other_patients_says_so(report_of_two_classes: ReportContext) -> None:
    said = statement(report_of_two_classes, "elsewhere")
    assert said is not None
    assert (said.level, said.link) == ("bad", "")


@pytest.mark.parametrize(("subjects", "level"), [(8, "note"), (40, None)])
def test_few_subjects_are_noted(subjects: int, level: str | None, report_of_two_classes: ReportContext) -> None:
    table = report_of_two_classes.predictions
    few = table[table["subject"].isin(table["subject"].unique()[:subjects])]
    said = statement(dataclasses.replace(report_of_two_classes, predictions=few), "few_subjects")
    assert (said.level if said else None) == level


def test_constant_predictions_are_flagged(report_of_two_classes: ReportContext) -> None:
    table = report_of_two_classes.predictions.copy()
    own = table["model"] == report_of_two_classes.learner
    table.loc[own, ["p0", "p1"]] = [0.6, 0.4]
    said = statement(dataclasses.replace(report_of_two_classes, predictions=table), "nothing_learned")
    assert said is not None
    assert said.level == "flag"


def test_unknown_subjects_are_never_called_apart(report_of_two_classes: ReportContext) -> None:
    study = report_of_two_classes.study
    unknown = study.model_copy(update={"split": study.split.model_copy(update={"by": "image"})})
    context = dataclasses.replace(report_of_two_classes, study=unknown)
    said = statement(context, "subjects_apart")
    assert said is not None
    assert (said.level == "good") == unknown.subjects_known


def test_weights_of_a_combined_model_are_shown(report_of_numbers: ReportContext) -> None:
    combined = next(name for name in report_of_numbers.stackers)
    main = dataclasses.replace(report_of_numbers.metrics.main, learner=combined)
    context = with_results(report_of_numbers, main=main)
    assert context.learner == combined
    shown = screen(context)
    assert len(shown.weights) == len(next(iter(context.stackers[combined].values()))["weights"])


def test_nothing_evaluated_is_said() -> None:
    context = classes("binary", networks=1)
    table = context.predictions.assign(y_true=float("nan"))
    shown: Screen = screen(dataclasses.replace(context, predictions=table))
    assert "nothing can be evaluated" in shown.evaluated
    assert shown.failures == []


def test_no_altered_image_is_claimed_for_a_combination(report_of_numbers: ReportContext) -> None:
    figures = {"resnet18": {"brighter": {"moved": {"value": 1.0}, "relative": 0.1}}}
    said = statement(with_results(report_of_numbers, counterfactuals=figures), "altered")
    assert said is not None
    assert (said.level == "open") == (report_of_numbers.learner not in figures)
