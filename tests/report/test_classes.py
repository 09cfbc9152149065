"""The section of classes, by its values."""

import dataclasses

import numpy as np
import pytest

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.evaluate import Outcomes, evaluate
from casewise.evaluation.results import ClassFigures, ReliabilityBin, SourceMean, Threshold
from casewise.evaluation.thresholds import judge_thresholds
from casewise.report.blocks import Fold, Matrix, Plots, Table, Text
from casewise.report.context import SIDES, ReportContext
from casewise.report.figures.classes import curves_of
from casewise.report.sections import classes
from tests.report.shared import blocks_of, cells_of, first_table, fold_of, texts_of
from tests.report_contexts import estimate, films, with_own, with_results, without_truth


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


def test_captions_name_the_cases_of_their_figures(three: ReportContext, report_of_grades: ReportContext) -> None:
    for context, other in ((three, "oof"), (report_of_grades, "test")):
        section = classes.section(context)
        shown = [plot.caption for block in blocks_of(section, Plots) for plot in block.plots]
        shown += [table.caption for table in blocks_of(section, Table)[:2]]
        assert len(shown) == 5
        assert all(SIDES[context.stage] in caption.lower() for caption in shown)
        assert not any(SIDES[other] in caption.lower() for caption in shown)


@pytest.mark.parametrize(("log_loss", "ece", "worse"), [(0.9, 0.2, ["ece"]), (1.1, 0.1, ["log_loss"]), (0.9, 0.1, [])])
def test_scores_that_scaling_makes_worse_are_named(
    three: ReportContext, log_loss: float, ece: float, worse: list[str]
) -> None:
    own = {"log_loss": 1.0, "ece": 0.1, "log_loss_calibrated": log_loss, "ece_calibrated": ece}
    figures = {**three.figures(three.stage, three.learner), **{name: estimate(value) for name, value in own.items()}}
    figures = {name: figure for name, figure in figures.items() if "brier" not in name}
    assert classes.worse_scaled(figures) == worse
    notes = [block for block in blocks_of(classes.section(with_own(three, figures)), Text) if "scaling" in block.text]
    assert len(notes) == bool(worse)


def test_numbers_and_classes_without_truth_have_no_section(three: ReportContext) -> None:
    assert classes.section(films()) is classes.section(without_truth(three)) is None


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


@pytest.mark.parametrize(
    ("aim", "said"), [("missed", "aim missed"), ("uncertain", "aim uncertain"), ("reached", "rough")]
)
def test_an_operating_point_says_its_rule_and_whether_its_aim_is_reached(
    three: ReportContext, aim: str, said: str
) -> None:
    point = entry_of(three).operating[0]
    figures = {**point.figures, "ppv_at_prevalence": estimate(0.123), "npv_at_prevalence": estimate(0.987)}
    changes = {"rule": "sensitivity >= 0.9", "aim": aim, "prevalence": 0.02, "figures": figures}
    first, second, *_ = points_of(with_own(three, operating=[dataclasses.replace(point, **changes)])).blocks
    assert first.rows[0].name == "covid, sensitivity of at least 90 %"
    assert first.rows[0].cells[1].small.endswith(said)
    assert second.columns[-2:] == ["PPV at 2.0 %", "NPV at 2.0 %"]
    assert [cell.text for cell in second.rows[0].cells[-2:]] == ["12.3 %", "98.7 %"]


def test_two_classes_have_one_curve_and_thresholds_of_the_other_folds(report_of_two_classes: ReportContext) -> None:
    two = report_of_two_classes
    entry = entry_of(two)
    assert len(curves_of(entry, two.figures("oof", two.learner))) == 1
    by_fold = {"1": Threshold(0.0004), "2": Threshold(0.826)}
    point = dataclasses.replace(entry.operating[0], threshold_by_fold=by_fold)
    table = first_table(points_of(with_own(two, operating=[point])).blocks)
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
    assert isinstance(section.blocks[0], Matrix)
    assert "pooled over each" in section.blocks[0].caption


def test_probabilities_stand_beside_the_share_that_is_correct(three: ReportContext) -> None:
    bins = [ReliabilityBin(0.6, 0.7, 30, 0.9, 0.7), ReliabilityBin(0.7, 0.8, 0, 0.75, 0.0)]
    changed = with_own(three, reliability=bins, reliability_calibrated=[])
    rows = texts_of(first_table(fold_of(classes.section(changed), "Scores of the probabilities").blocks))
    assert rows["Mean probability of the likeliest class"] == ["90 %", "–"]
    assert rows["Share in which that class is correct"] == ["70 %", "–"]
    ece = three.figures(three.stage, three.learner)["ece"].value
    assert rows["Calibration error (ECE)"][0] == f"{ece:.3f}"


def test_a_temperature_at_its_bound_is_a_fact(three: ReportContext) -> None:
    entry = entry_of(three)
    assert [name for name, _ in classes.temperature(entry)] == ["Temperature", "Fitted"]
    by_fold = {str(fold): Threshold(value) for fold, value in enumerate((20.0, 20.0, 1.2, 1.1, 1.0))}
    facts = dict(classes.temperature(dataclasses.replace(entry, temperature_by_fold=by_fold)))
    assert facts["Temperature"] == "1.00 to 20.00 by fold"
    assert "2 of 5 folds" in facts["At the bound of its range"]


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
    empty = dataclasses.replace(report_of_grades)
    none = dataclasses.replace(empty, predictions=report_of_grades.predictions.assign(y_true=0.0))
    assert {row.cells[0].text for row in classes.cuts(none).rows} == {"0 of 0"}
