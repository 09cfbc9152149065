"""The section on altered images, by its values."""

import dataclasses

from casewise.evaluation.results import AlteredAnswers, ClassChange
from casewise.evaluation.robustness import affects
from casewise.report.context import ReportContext
from casewise.report.statements import statements
from tests.report_contexts import estimate, with_results


def of_ten(changed: int) -> AlteredAnswers:
    """Figures of an alteration that changes this many of ten answers to the class `covid`."""
    share, changes = estimate(changed / 10, 0.0, 0.6, subjects=10), [ClassChange("no_finding", "covid", changed)]
    before = {"covid": 3, "no_finding": 7}
    return AlteredAnswers(
        10, 10, 10, changed, share, changes[:changed], before, {"before": 8, "after": 6, "of": 10}, 0.0
    )


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
    assert level == "warning"
    assert "6 of 20 predicted as covid become another class; in all, 6 of 100 predictions" in text
    assert "change, and 2 fewer are right." in text
    rows = dict.fromkeys(("cropped_rows", "cropped_rows_stretched", "cropped_columns"), of_ten(3))
    context = with_results(report_of_classes, counterfactuals={main.learner: {"darker": of_ten(4), **rows}})
    level, text = statement_of(context)
    assert text.endswith("Also: cropped above and below; cropped at the sides.")
    unequal = dataclasses.replace(of_ten(2), share=estimate(0.5, 0.0, 0.9, subjects=2))  # two answers show nothing
    context = with_results(
        report_of_classes, counterfactuals={main.learner: {"darker": unequal, "brighter": of_ten(3)}}
    )
    assert statement_of(context)[1].startswith("Made brighter")
    few = dataclasses.replace(entry, changes=[ClassChange("covid", "no_finding", 4)])  # too few of a class
    assert (few.lost[0], affects(few)) == ("", False)
