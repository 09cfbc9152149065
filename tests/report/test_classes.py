"""The section of classes, by its values."""

import dataclasses

import numpy as np
import pytest

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.record import Threshold
from casewise.evaluation.results import ClassFigures, ReliabilityBin
from casewise.evaluation.thresholds import judge_thresholds
from casewise.report.blocks import Fold, Matrix
from casewise.report.context import ReportContext
from casewise.report.figures.classes import curves_of
from casewise.report.sections import classes
from casewise.report.tables import percent_cell
from tests.report.shared import cells_of, first_table, fold_of, texts_of
from tests.report_contexts import with_own


@pytest.fixture
def three(report_of_classes: ReportContext) -> ReportContext:
    return report_of_classes


def entry_of(context: ReportContext) -> ClassFigures:
    return context.class_figures(context.stage, context.learner)


def points_of(context: ReportContext) -> Fold:
    return fold_of(classes.section(context), "Operating points")


def test_the_section_counts_every_case_and_draws_each_curve(three: ReportContext) -> None:
    section = classes.section(three)
    matrix, plots = section.blocks[:2]
    truth = three.headline_rows["y_true"].to_numpy(int)
    assert [total for _, total, _ in matrix.counts.rows] == np.bincount(truth).tolist()
    assert len(plots.plots) == 3
    assert all(name in plots.plots[0].alt for name in ("covid", "no finding", "pneumonia"))


def test_a_missing_class_has_reasons_and_the_page_stays_true(three: ReportContext) -> None:
    rows = three.predictions[~((three.predictions["stage"] == "test") & (three.predictions["y_true"] == 0))]
    results = evaluate(rows, Outcomes(three.outcome, classes={three.outcome: three.classes}), Plan(20))
    context = dataclasses.replace(three, predictions=rows, metrics=results)
    cells = cells_of(classes.class_table(context, context.stage, context.learner), "covid")
    assert (cells["Support"].text, cells["Recall"].text) == ("0", "–")
    assert "covid" in cells["Recall"].small
    section = classes.section(context)
    assert isinstance(section.blocks[0], Matrix)
    assert section.blocks[0].counts.rows[0][1] == 0


def test_two_classes_have_one_curve_and_thresholds_of_the_other_folds(report_of_two_classes: ReportContext) -> None:
    two = report_of_two_classes
    entry = entry_of(two)
    assert len(curves_of(entry, two.figures("oof", two.learner))) == 1
    by_fold = {"1": Threshold(0.0004), "2": Threshold(0.826)}
    point = dataclasses.replace(entry.operating[0], threshold_by_fold=by_fold)
    table = first_table(points_of(with_own(two, operating=[point])).blocks)
    assert table.rows[0].cells[0].text == "0.000 to 0.826 by fold"
    assert "chosen on the other folds" in table.caption


def test_probabilities_stand_beside_the_share_that_is_correct(three: ReportContext) -> None:
    bins = [ReliabilityBin(0.6, 0.7, 30, 0.9, 0.7), ReliabilityBin(0.7, 0.8, 0, 0.75, 0.0)]
    changed = with_own(three, reliability=bins, reliability_calibrated=[])
    rows = texts_of(first_table(fold_of(classes.section(changed), "Scores of the probabilities").blocks))
    assert rows["Mean probability of the likeliest class"] == ["90 %", "–"]
    assert rows["Share in which that class is correct"] == ["70 %", "–"]
    ece = three.figures(three.stage, three.learner)["ece"].value
    assert rows["Calibration error (ECE)"][0] == f"{ece:.3f}"


def test_operating_points_are_rough_where_a_cell_has_few_subjects() -> None:
    of_class, people = np.repeat([True, False], 60)[:, None], np.arange(120).astype(str)
    scores, rough = np.where(of_class, 0.9, 0.8), []
    for positives, negatives in ((2, 63), (12, 90)):  # false negatives, and true negatives beyond 60
        scores[:positives], scores[60:negatives] = 0.1, 0.1
        (point,) = judge_thresholds(scores, np.full((120, 1), 0.5), of_class, people, Plan(50), n_cases=120)
        rough.append({name for name, estimate in point.items() if estimate.rough})
        assert point["specificity"].low is not None
    assert rough == [{"specificity", "sensitivity", "lr_negative", "npv"}, set()]


def test_the_share_of_correct_predictions_is_the_accuracy() -> None:
    shares = [(7, 0.285714), (41, 0.512195), (32, 0.46875)]
    bins = [ReliabilityBin(0.0, 1.0, n, 0.5, share) for n, share in shares]
    assert classes.mean_confidence(bins) == (0.5, 38 / 80)


def test_grades_have_a_sensitivity_and_specificity_at_every_cut(report_of_grades: ReportContext) -> None:
    table, rows = classes.cuts(report_of_grades), report_of_grades.headline_rows
    truth, predicted = rows["y_true"], rows["y_pred"]
    assert len(table.rows) == len(report_of_grades.classes) - 1
    for grade, row in enumerate(table.rows, start=1):
        higher, found = truth >= grade, (truth >= grade) & (predicted >= grade)
        others = (truth < grade) & (predicted < grade)
        assert [row.cells[i].text for i in (0, 2)] == [
            f"{found.sum()} of {higher.sum()}",
            f"{others.sum()} of {(~higher).sum()}",
        ]
        assert row.cells[1].text == f"{100 * found.sum() / higher.sum():.0f} %"
    figures = report_of_grades.figures(report_of_grades.stage, report_of_grades.learner)
    first, *_, last = report_of_grades.classes
    alone = [table.rows[-1].cells[1], table.rows[0].cells[3]]
    assert alone == [percent_cell(figures[f"recall[{name}]"]) for name in (last, first)]
    none = dataclasses.replace(report_of_grades, predictions=report_of_grades.predictions.assign(y_true=0.0))
    assert {row.cells[0].text for row in classes.cuts(none).rows} == {"0 of 0"}
