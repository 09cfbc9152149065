"""The sections of numbers: agreement, change over time, ranges and further targets, by their values."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from casewise.report.blocks import Facts, Matrix, Plots, Table
from casewise.report.context import ReportContext
from casewise.report.figures import agreement as draw
from casewise.report.formatting import number, signed
from casewise.report.sections import agreement
from tests.report.shared import blocks_of
from tests.report_contexts import estimate, numbers, with_own, with_results, without_truth


def test_bias_limits_and_slope_are_those_of_the_results(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    (table,) = blocks_of(agreement.agreement(context), Table)
    figures = context.metrics.figures.of(context.stage, context.learner, context.outcome)
    expected = [signed(figures[name].value, 1) for name in ("bias", "loa_low", "loa_high")]
    assert [row.cells[0].text for row in table.rows] == [*expected, signed(figures["proportional_bias"].value, 2)]
    assert [row.name.partition(", ")[2] for row in table.rows] == [*["points"] * 3, "slope on the mean of both"]
    assert len(blocks_of(agreement.agreement(context), Plots)[0].plots) == 2


def test_one_subject_has_figures_and_reasons_but_no_intervals() -> None:
    (table,) = blocks_of(agreement.agreement(numbers(test=1, learners=1)), Table)
    assert all(row.cells[0].small and not row.cells[0].small.startswith("[") for row in table.rows)


def test_sections_of_numbers_need_numbers_and_truth(
    report_of_classes: ReportContext, report_of_numbers: ReportContext
) -> None:
    for context in (report_of_classes, without_truth(report_of_numbers)):
        for section in (agreement.agreement, agreement.over_time, agreement.detail):
            assert not section(context)


# ------------------------------------------------------------------------------------------------------ over time


def test_each_subject_has_a_plot_and_responders_are_counted(report_of_numbers: ReportContext) -> None:
    section = agreement.over_time(report_of_numbers)
    assert section.heading == "Change over time"
    assert sum(len(block.plots) for block in blocks_of(section, Plots)) == 3
    response, visits, *_ = blocks_of(section, Table)
    entry = report_of_numbers.metrics.response["test"][report_of_numbers.learner]
    for row, figures in zip(response.rows, (entry.responders or {}).values(), strict=True):
        counts = np.array(figures.confusion)
        both = [own.sum() for own in (counts[1], counts[:, 1])]
        assert [int(cell.text) for cell in row.cells[:3]] == [*both, counts[1, 1]]
    subjects = [str(each.n_subjects) for each in (entry.by_visit or {}).values()]
    assert [row.cells[0].text for row in visits.rows] == subjects
    entry = dataclasses.replace(entry, undefined={"no_baseline": ["a", "b"]})
    changed = with_results(report_of_numbers, response={"test": {report_of_numbers.learner: entry}})
    (facts,) = blocks_of(agreement.over_time(changed), Facts)
    assert ("Left out: no scored baseline visit", "2 subjects") in facts.facts


def test_tracks_start_at_the_baseline_and_follow_the_days() -> None:
    visits = {"visit": ["w4", "w0", "w8", "w0"], "day": [28.0, 0.0, 56.0, 0.0]}
    values = {"y_true": [5.0, 20.0, 0.0, 7.0], "y_pred": [8.0, 16.0, 4.0, 7.0]}
    rows = pd.DataFrame({"subject": ["a"] * 3 + ["b"], **visits, **values})
    (track,) = draw.tracks(rows, baseline="first")
    assert (track.subject, track.names, track.days.tolist()) == ("a", ["w0", "w4", "w8"], [0, 28, 56])
    np.testing.assert_allclose(track.changes, [[0, -75, -100], [0, -50, -75]])
    assert track.error == pytest.approx(11 / 3)
    assert not draw.spaced_evenly([track])
    zero = draw.tracks(rows.assign(y_true=[5.0, 0.0, 1.0, 7.0]), baseline="first")
    assert np.isnan(zero[0].changes[0]).all()


# ---------------------------------------------------------------------------------------- ranges, regions, targets


def test_bands_targets_and_regions_are_shown(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    section = agreement.detail(context)
    assert section.heading == "Regions and components"
    (bands,) = blocks_of(section, Matrix)
    assert bands.counts.rows[1][0] == "mild, 1 to below 10"
    assert sum(total for _, total, _ in bands.counts.rows) == len(context.headline_rows)
    table = agreement.target_table(context, "test")
    rows = table.rows
    assert (rows[0].name, rows[0].inner) == ("PASI", False)
    assert [row.name for row in rows if row.inner][:3] == ["upper", "trunk", "lower"]
    value = context.metrics.figures.of("test", context.learner, "pasi")["mae"].value
    assert rows[0].cells[1].text == number(value, 1)


def test_undefined_figures_have_their_reason(report_of_numbers: ReportContext) -> None:
    context = report_of_numbers
    figures = context.figures(context.stage, context.learner)
    table = agreement.target_table(with_own(context, {**figures, "ccc": estimate(None, reason="one value")}), "test")
    assert "one value" in {cell.small for cell in table.rows[0].cells}
