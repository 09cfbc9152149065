"""The section on altered images, by its values."""

import dataclasses

from casewise.evaluation.results import AlteredAnswers, ClassChange, CorrectAnswers
from casewise.evaluation.robustness import affects
from casewise.predictions.table import probability_columns
from casewise.report.blocks import Table
from casewise.report.context import ReportContext
from casewise.report.sections import counterfactuals
from casewise.report.statements import statements
from tests.report.shared import blocks_of, facts_of
from tests.report_contexts import estimate, with_results


def of_ten(changed: int) -> AlteredAnswers:
    """Figures of an alteration that changes this many of ten answers to the class `covid`."""
    share, changes = estimate(changed / 10, 0.0, 0.6, subjects=10), [ClassChange("no_finding", "covid", changed)]
    before = {"covid": 3, "no_finding": 7}
    return AlteredAnswers(10, 10, 10, changed, share, changes[:changed], before, CorrectAnswers(8, 6, 10), 0.0)


def statement_of(context: ReportContext) -> tuple[str, str]:
    return next((each.level, each.text) for each in statements(context) if each.id == "altered")


def test_a_rare_class_that_loses_its_answers_is_named(report_of_classes: ReportContext) -> None:
    entry = dataclasses.replace(
        of_ten(1),
        answers=100,
        changed=6,
        share=estimate(0.06, 0.02, 0.1, subjects=60),
        changes=[ClassChange("covid", "no_finding", 6)],
        before={"covid": 20, "no_finding": 80},
    )
    assert (entry.lost, entry.effect, affects(entry)) == (("covid", 6, 0.3), 0.15, True)
    main = report_of_classes.metrics.main
    off = report_of_classes.study.evaluation.model_copy(update={"counterfactual_cases": 0})
    untested = dataclasses.replace(
        report_of_classes, study=report_of_classes.study.model_copy(update={"evaluation": off})
    )
    assert statement_of(with_results(untested, counterfactuals=None))[0] == "open"
    context = with_results(report_of_classes, counterfactuals={main.learner: {"darker": entry}})
    level, text = statement_of(context)
    assert (level, "; 6 of 20 predicted as covid become another class" in text) == ("warning", True)
    rows = dict.fromkeys(("cropped_rows", "cropped_rows_stretched", "cropped_columns"), of_ten(3))
    context = with_results(report_of_classes, counterfactuals={main.learner: {"darker": of_ten(4), **rows}})
    level, text = statement_of(context)
    assert text.endswith("Also cropped above and below (6 of 10 right) and cropped at the sides (6 of 10 right).")
    unequal = dataclasses.replace(of_ten(2), share=estimate(0.5, 0.0, 0.9, subjects=2))  # two answers show nothing
    context = with_results(
        report_of_classes, counterfactuals={main.learner: {"darker": unequal, "brighter": of_ten(3)}}
    )
    assert statement_of(context)[1].startswith("Made brighter")
    few = dataclasses.replace(entry, changes=[ClassChange("covid", "no_finding", 4)])  # too few of a class
    assert (few.lost[0], affects(few)) == ("", False)


def test_changed_answers_are_counted_among_those_of_other_classes(report_of_classes: ReportContext) -> None:
    first, second = report_of_classes.study.networks[:2]
    figures = {
        second: {"darker": of_ten(6), "cropped_rows": of_ten(1)},
        first: {"darker": of_ten(3), "cropped_rows": of_ten(0)},
    }
    predictions = report_of_classes.predictions.copy()
    still = (predictions["model"] == second) & (predictions["outer_fold"] == 1) & (predictions["stage"] == "oof")
    predictions.loc[still, probability_columns(predictions)] = 0.5
    main = dataclasses.replace(report_of_classes.metrics.main, learner=first)
    context = with_results(report_of_classes, main=main, counterfactuals=figures, notes=[])
    context = dataclasses.replace(context, predictions=predictions)
    section = counterfactuals.section(context)
    (table,), facts = blocks_of(section, Table), facts_of(section)
    assert list(table.columns) == ["Image", first, second]
    assert [row.name for row in table.rows] == list(map(counterfactuals.row_name, ("darker", "cropped_rows")))
    assert [cell.text for cell in table.rows[0].cells] == ["3 of 10, 3 of 7 to covid", "6 of 10, 6 of 7 to covid"]
    assert table.rows[0].cells[0].small == "30 % [0, 60]; correct 8, then 6"
    assert table.rows[1].cells[0].text == "0 of 10"
    assert facts["Cases"] == "10 out of fold, from 10 subjects, drawn by the seed"
    assert facts["Hardly varies, altered or not"] == f"{second} in 1 of 5 folds"
    assert set(facts["Not tested"].split(", ")).isdisjoint(figures)
    assert statement_of(context) == (
        "warning",
        "Made darker: 3 of 10 predictions out of fold change, 8 right before, 6 after.",
    )
    for rough, level in ((True, "open"), (False, "good")):
        few = of_ten(1)
        few = dataclasses.replace(few, share=dataclasses.replace(few.share, rough=rough))
        assert statement_of(with_results(context, counterfactuals={first: {"darker": few}}))[0] == level
