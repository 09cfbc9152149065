"""The section of reference values, by its values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from casewise.report.blocks import Plots
from casewise.report.context import ReportContext
from casewise.report.figures import cohort as draw
from casewise.report.sections import labels
from tests.report.shared import blocks_of


def test_classes_are_counted_by_side_and_source(report_of_classes: ReportContext) -> None:
    context = report_of_classes
    table = labels.reference_classes(context)
    sides = labels.by_side(context, table)
    assert sides.names == ["covid", "no finding", "pneumonia"]
    assert [row[0] for row in sides.rows] == [*(f"fold {i}" for i in range(1, 6)), "test", "all"]
    assert sum(row[1] for row in sides.rows[:-1]) == sides.rows[-1][1] == 150
    counts = context.cohort_images.groupby(["source", "finding"]).size()
    assert labels.by_source(context, table, "source").rows[0][2][0][0] == counts[("cohen", 0.0)]
    largest = {row.name: [cell.text for cell in row.cells] for row in labels.largest_sources(context, table, "source")}
    assert largest["covid"] == ["cohen", "100.0 %"]
    held_out = dataclasses.replace(context, splits={**context.splits, "left_out": list("vwxyz")})
    assert labels.by_side(held_out, table).rows[0][0] == "fold 1 (v)"


def test_the_smallest_of_many_sources_are_counted_together(report_of_classes: ReportContext) -> None:
    context = report_of_classes
    table = labels.reference_classes(context).reset_index(drop=True)
    counts = labels.by_source(context, table.assign(source=[f"s{i % 20}" for i in range(len(table))]), "source")
    assert (counts.rows[-1][0], sum(row[1] for row in counts.rows)) == ("5 others", 150)


def test_a_class_without_a_case_has_no_source(report_of_classes: ReportContext) -> None:
    table = labels.reference_classes(report_of_classes)
    rows = labels.largest_sources(report_of_classes, table[table["value"] != 0], "source")
    assert [cell.text for cell in rows[0].cells] == ["–", "–"]


def test_without_columns_the_predictions_have_the_classes(report_of_classes: ReportContext) -> None:
    images = report_of_classes.cohort_images.drop(columns=["source", "finding"])
    bare = dataclasses.replace(report_of_classes, cohort_images=images)
    assert labels.source_column(bare) is None
    same = dataclasses.replace(bare, cohort_images=images.assign(source="cohen"))
    assert labels.source_column(same) is None  # there is nothing to compare
    assert labels.by_side(bare, labels.reference_classes(bare)).rows[-1][1] == 150
    assert labels.section(bare) is not None


def test_each_target_that_is_a_number_has_a_distribution(report_of_numbers: ReportContext) -> None:
    (plots,) = blocks_of(labels.section(report_of_numbers), Plots)
    assert len(plots.plots) == 6
    assert plots.plots[0].alt.startswith("Distribution of PASI: 72 values, median")


def test_bars_hold_every_value() -> None:
    for values in (np.array([0.0, 4.0, 4.0]), np.array([0.2, 3.7]), np.array([9.0, 70.0]), np.zeros(3)):
        edges, names, _ = draw.binned(values, (0, 72) if values.max() > 4 else (0, 4))
        assert (draw.shares(values, edges).sum(), len(names)) == (pytest.approx(1), len(edges) - 1)
    assert draw.binned(np.array([0.03, 2.5]), (0, 100))[0][-1] <= 10  # low values fill the width
