"""The section on altered images, by its values."""

from __future__ import annotations

import dataclasses

import pytest

from casewise.evaluation.results import AlteredAnswers, AlteredNumbers, ClassChange, CorrectAnswers, Headline
from casewise.evaluation.robustness import Altered
from casewise.predictions.table import probability_columns
from casewise.report.blocks import Facts, Fold, Table
from casewise.report.context import ReportContext
from casewise.report.sections import counterfactuals
from casewise.report.statements import altered
from casewise.study.learners import learner_name
from tests.report_contexts import classes, estimate


@pytest.fixture(scope="module")
def three() -> ReportContext:
    return classes()


def of_ten(changed: int) -> AlteredAnswers:
    """Figures of an alteration that changes this many of ten answers to the class `covid`."""
    share, changes = estimate(changed / 10, 0.0, 0.6, subjects=10), [ClassChange("no_finding", "covid", changed)]
    before = {"covid": 3, "no_finding": 7}
    return AlteredAnswers(10, 10, 10, changed, share, changes[:changed], before, CorrectAnswers(8, 6, 10), 0.0)


def reported(context: ReportContext, learner: str) -> Headline:
    """The headline if it were about this learner."""
    return dataclasses.replace(context.metrics.main, learner=learner)


def with_altered(context: ReportContext, figures: dict[str, dict[str, Altered]]) -> ReportContext:
    return dataclasses.replace(context, metrics=dataclasses.replace(context.metrics, counterfactuals=figures, notes=[]))


def shown_of(context: ReportContext) -> tuple[dict[str, str], Table]:
    section = counterfactuals.section(context)
    assert section is not None
    _, facts, fold = section.blocks
    assert isinstance(facts, Facts)
    assert isinstance(fold, Fold)
    table = fold.blocks[0]
    assert isinstance(table, Table)
    return dict(facts.facts), table


def test_changed_answers_are_counted_among_those_of_other_classes(three: ReportContext) -> None:
    first, second = three.study.networks[:2]
    three = dataclasses.replace(three, metrics=dataclasses.replace(three.metrics, main=reported(three, first)))
    figures: dict[str, dict[str, Altered]] = {
        second: {"darker": of_ten(6), "cropped_rows": of_ten(1)},
        first: {"darker": of_ten(3), "cropped_rows": of_ten(0)},
    }
    predictions = three.predictions.copy()
    still = (predictions["model"] == second) & (predictions["outer_fold"] == 1) & (predictions["stage"] == "oof")
    predictions.loc[still, probability_columns(predictions)] = 0.5
    context = with_altered(dataclasses.replace(three, predictions=predictions), figures)
    facts, table = shown_of(context)
    assert list(table.columns) == ["Image", first, second]
    assert [row.name for row in table.rows] == ["Made darker", "Cropped above and below"]
    assert [cell.text for cell in table.rows[0].cells] == ["3 of 10, 3 of 7 to covid", "6 of 10, 6 of 7 to covid"]
    assert table.rows[0].cells[0].small == "30 % [0, 60]; correct 8, then 6"
    assert table.rows[1].cells[0].text == "0 of 10"
    assert facts["Cases"] == "10 of 10 subjects, drawn by the seed"
    assert facts["Hardly varies, altered or not"] == f"{second} in 1 of 5 folds"
    assert set(facts["Not tested"].split(", ")).isdisjoint(figures)
    statement = altered(context)
    assert statement is not None
    assert (statement.level, statement.text) == ("warning", "Made darker: 3 of 10 predictions change.")


def test_numbers_move_and_the_most_affected_network_is_first(three: ReportContext) -> None:
    def entry(moved: float) -> AlteredNumbers:
        return AlteredNumbers(9, 9, 9, estimate(moved, subjects=9), estimate(-moved, subjects=9), None, moved)

    figures: dict[str, dict[str, Altered]] = {
        name: {"darker": entry(moved)} for name, moved in (("a", 0.1), ("c", 0.9))
    }
    facts, table = shown_of(with_altered(three, figures))
    assert list(table.columns) == ["Image", "c", "a"]
    assert table.rows[0].cells[0].value == 0.9
    assert "mean change −0.9" in table.rows[0].cells[0].small
    assert facts["Not tested"].startswith(learner_name(three.learner))


def test_without_figures_there_is_no_section(three: ReportContext) -> None:
    assert counterfactuals.section(with_altered(three, {})) is None
    assert counterfactuals.section(with_altered(three, {three.learner: {}})) is None
