"""The section of classes, by its values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.results import ReliabilityBin, SourceMean, Threshold
from casewise.report.blocks import Facts, Fold, Matrix, Plots, Table
from casewise.report.context import ReportContext
from casewise.report.figures.classes import curves_of
from casewise.report.sections import classes
from tests.report_contexts import estimate, films, nothing, with_own, with_results


@pytest.fixture
def three(report_of_classes: ReportContext) -> ReportContext:
    return report_of_classes


def fold_of(context: ReportContext, summary: str) -> Fold:
    section = classes.section(context)
    assert section is not None
    return next(each for each in section.blocks if isinstance(each, Fold) and each.summary.startswith(summary))


def table_of(context: ReportContext, summary: str) -> dict[str, list[str]]:
    """The first table of a fold: the texts of each row by its name."""
    table = next(block for block in fold_of(context, summary).blocks if isinstance(block, Table))
    return {row.name: [cell.text for cell in row.cells] for row in table.rows}


def test_the_section_counts_every_case_and_draws_each_curve(three: ReportContext) -> None:
    section = classes.section(three)
    assert section is not None
    matrix, plots = section.blocks[:2]
    assert isinstance(matrix, Matrix)
    assert isinstance(plots, Plots)
    truth = three.headline_rows["y_true"].to_numpy(int)
    assert [total for _, total, _ in matrix.counts.rows] == np.bincount(truth).tolist()
    assert len(plots.plots) == 3
    assert all(name in plots.plots[0].alt for name in ("covid", "no finding", "pneumonia"))


def test_numbers_and_classes_without_truth_have_no_section(three: ReportContext) -> None:
    unknown = dataclasses.replace(three, metrics=nothing(three))
    assert classes.section(films()) is classes.section(unknown) is None


def test_a_missing_class_has_reasons_and_the_page_stays_true(three: ReportContext) -> None:
    rows = three.predictions[~((three.predictions["stage"] == "test") & (three.predictions["y_true"] == 0))]
    results = evaluate(rows, Outcomes(three.outcome, classes={three.outcome: three.classes}), Plan(20))
    context = dataclasses.replace(three, predictions=rows, metrics=results)
    own = classes.class_rows(context, context.stage, context.learner, context.outcome)
    assert own[0].cells[0].text == "0"
    heads = ["Support", *context.class_columns]
    recall = own[0].cells[heads.index("recall")]
    assert recall.text == "–"
    assert "covid" in recall.small
    section = classes.section(context)
    assert section is not None
    assert section.blocks[0].counts.rows[0][1] == 0  # type: ignore[union-attr]


def test_an_operating_point_says_its_rule_and_a_missed_aim(three: ReportContext) -> None:
    entry = three.metrics.classes[three.stage][three.learner][three.outcome]
    figures = {**entry.operating[0].figures, "ppv_at_prevalence": estimate(0.123), "npv_at_prevalence": estimate(0.987)}
    point = dataclasses.replace(
        entry.operating[0], rule="sensitivity >= 0.9", reached=False, prevalence=0.02, figures=figures
    )
    context = with_own(three, operating=[point])
    first, second = fold_of(context, "Operating points").blocks
    assert isinstance(first, Table)
    assert isinstance(second, Table)
    assert first.rows[0].name == "covid, sensitivity of at least 90 %"
    assert first.rows[0].cells[1].small.endswith("aim missed")
    assert second.columns[-2:] == ["PPV at 2.0 %", "NPV at 2.0 %"]
    assert [cell.text for cell in second.rows[0].cells[-2:]] == ["12.3 %", "98.7 %"]


def test_two_classes_have_one_curve_and_thresholds_of_the_other_folds(report_of_two_classes: ReportContext) -> None:
    two = report_of_two_classes
    entry = two.metrics.classes["oof"][two.learner][two.outcome]
    assert len(curves_of(entry, two.metrics.figures("oof", two.learner, two.outcome))) == 1
    by_fold = {"1": Threshold(0.0004), "2": Threshold(0.826)}
    point = dataclasses.replace(entry.operating[0], threshold_by_fold=by_fold)
    table = fold_of(with_own(two, operating=[point]), "Operating points").blocks[0]
    assert isinstance(table, Table)
    assert table.rows[0].cells[0].text == "0.000 to 0.826 by fold"
    assert "chosen on the other folds" in table.caption


def test_figures_pooled_over_sources_have_a_note(report_of_two_classes: ReportContext) -> None:
    two = report_of_two_classes
    assert classes.pooled(two) == []
    mean = SourceMean(0.7, ["a", "b"], [], 0.6, 0.8)
    sourced = with_results(two, site_means={two.learner: {"auroc": mean}})
    (note,) = classes.pooled(sourced)
    assert "must not be read as discrimination" in note.text
    section = classes.section(sourced)
    assert section is not None
    assert "pooled over each" in section.blocks[0].caption  # type: ignore[union-attr]


def test_more_points_than_are_shown_are_counted(three: ReportContext) -> None:
    points = three.metrics.classes[three.stage][three.learner][three.outcome].operating
    blocks = fold_of(with_own(three, operating=points * 5), "Operating points").blocks
    facts = next(block for block in blocks if isinstance(block, Facts))
    assert facts.facts[0][1] == str(5 * len(points) - classes.MOST_POINTS)


@pytest.mark.parametrize(("confidence", "correct"), [(0.9, 0.7), (0.6, 0.8)])
def test_probabilities_stand_beside_the_share_that_is_correct(
    three: ReportContext, confidence: float, correct: float
) -> None:
    bins = [ReliabilityBin(0.6, 0.7, 30, confidence, correct), ReliabilityBin(0.7, 0.8, 0, 0.75, 0.0)]
    changed = with_own(three, reliability=bins, reliability_calibrated=[])
    rows = table_of(changed, "Scores of the probabilities")
    assert rows["Mean probability of the likeliest class"] == [f"{100 * confidence:.0f} %", "–"]
    assert rows["Share in which it is correct"] == [f"{100 * correct:.0f} %", "–"]
    ece = three.metrics.figures(three.stage, three.learner, three.outcome)["ece"].value
    assert rows["Calibration error (ECE)"][0] == f"{ece:.3f}"


def test_a_temperature_at_its_bound_is_a_fact(three: ReportContext) -> None:
    entry = three.metrics.classes[three.stage][three.learner][three.outcome]
    assert [name for name, _ in classes.temperature(entry)] == ["Temperature", "Fitted"]
    bound = dataclasses.replace(entry, temperature_by_fold=dict(zip("01234", (20.0, 20.0, 1.2, 1.1, 1.0), strict=True)))
    facts = dict(classes.temperature(bound))
    assert facts["Temperature"] == "1.00 to 20.00 by fold"
    assert "2 of 5 folds" in facts["At the bound of its range"]


def test_undefined_figures_say_why(three: ReportContext) -> None:
    figures = three.metrics.figures(three.stage, three.learner, three.outcome)
    context = with_own(three, {**figures, "auroc[covid]": estimate(None, reason="no case is truly covid")})
    row = classes.class_rows(context, context.stage, context.learner, context.outcome)[0]
    assert "no case is truly covid" in {cell.small for cell in row.cells}
