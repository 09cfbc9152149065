"""Subgroups: the headline's figures of each group, and whether they are shown to differ."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.evaluation.figures import Estimate
from casewise.evaluation.results import Subgroup, SubgroupColumn
from casewise.evaluation.subgroups import FEW_OF_CLASS, FEW_SUBJECTS, SIGNIFICANT
from casewise.report.blocks import Block, Cell, Fold, Heading, Plot, Plots, Row, Section, Table, Text
from casewise.report.context import ReportContext, defined, evaluated_on, terms_of
from casewise.report.figures.drawing import Look
from casewise.report.figures.learners import Series, forest
from casewise.report.formatting import capital, group_label, p_value, plain
from casewise.report.tables import MetricFormat, kind_report, metric_format
from casewise.study.learners import learner_name

TESTS = "{learner}, {place}: do the figures differ between the groups? p is adjusted for all comparisons of the table."
FOREST = "Brackets: {unit}s. Lines: {confidence} intervals. Hollow: small groups. Dashed: all cases."
HOW = (
    "Each group is compared with the mean of the other groups, over resamples of the {unit}s of each group; groups of"
    " fewer than {few} {unit}s, or of a class concerned, and cases without a value take no part. Adjusted p-values"
    " are max-T; the intervals of"
    " differences hold for all groups of one column and figure at once. Not shown to differ does not mean equal, and a"
    " difference may come from other things, such as severity or device. Small: fewer than {few} {unit}s, or than"
    " {few_of_class} of a class that the figure is about. Bands are thirds of the {unit}s where the study states no"
    " cut points; one {unit} may have cases in several groups."
)


def section(context: ReportContext) -> Section | None:
    """Whether the figures differ between groups, the figures as plots and tables; None without subgroups."""
    entry = context.metrics.subgroups
    if entry is None:
        return None
    unit = context.study.unit
    write, confidence = metric_format(context.study, entry.target), terms_of(context).confidence
    titles = [write.title(name) for name in entry.figures]
    caption = TESTS.format(learner=learner_name(entry.learner), place=evaluated_on(context, entry.stage))
    tests = [Row(heading(column), [_test_cell(column, name) for name in entry.figures]) for column in entry.columns]
    blocks: list[Block] = [Table(["Column", *titles], tests, caption)]
    overall = context.metrics.figures.of(entry.stage, entry.learner, entry.target)
    drawn = [name for name in kind_report(context.kind).forests if name in entry.figures]
    plots = [_forest_of(entry.columns, name, defined(overall.get(name)), write) for name in drawn]
    blocks.append(Plots(plots, FOREST.format(confidence=confidence, unit=unit)))
    tables: list[Block] = []
    positive = context.study.positive_of(entry.target)
    for column in entry.columns:
        rows = group_rows(column, entry.figures, write, positive)
        caption = f"{capital(evaluated_on(context, entry.stage))}."
        tables += [Heading(heading(column)), Table(["Group", f"{capital(unit)}s", *titles], rows, caption, wide=True)]
    tables.append(Text(HOW.format(unit=unit, few=FEW_SUBJECTS, few_of_class=FEW_OF_CLASS), note=True))
    blocks.append(Fold("Figures of each group, and how they are compared", tables, needed=True))
    return Section("subgroups", "Subgroups", blocks)


def _forest_of(columns: Sequence[SubgroupColumn], metric: str, overall: Estimate | None, write: MetricFormat) -> Plot:
    """A line for each group below its column's name; figures of small groups are hollow, a dashed line is all cases."""
    rows: list[tuple[str, bool]] = []
    figures: tuple[dict[int, Estimate], dict[int, Estimate]] = ({}, {})
    for column in columns:
        rows.append((heading(column), True))
        for group in column.groups:
            if figure := defined(group.metrics.get(metric)):
                figures[metric in group.small][len(rows)] = figure
            rows.append((f"{group_label(group)} ({group.n_subjects:,})", False))
    series = [Series("", figures[0]), Series("", figures[1], face="white")]
    look: Look = {"label": write.title(metric), "name": f"subgroups-{metric}"}
    drawing = forest(rows, series, dashed=overall.value if overall else None, percent=write.in_percent(metric), **look)
    return Plot(drawing, f"{write.title(metric)} by subgroup with intervals; the values are in the tables.")


def heading(column: SubgroupColumn) -> str:
    """The name of a column, with a capital."""
    return capital(plain(column.column))


def _test_cell(column: SubgroupColumn, name: str) -> Cell:
    """Whether a figure is shown to differ between the groups of a column, with its p-value."""
    test = column.tests[name]
    if test.p_adjusted is None:
        groups = sum(group.code == "value" for group in column.groups)
        return Cell("not tested", "one group" if groups < 2 else "too few, or no variation")
    verdict = "differs" if test.p_adjusted < SIGNIFICANT else "not shown to differ"
    return Cell(verdict, f"p {p_value(test.p_adjusted)} (unadjusted {p_value(test.p)})", test.p_adjusted)


def group_rows(column: SubgroupColumn, figures: list[str], write: MetricFormat, positive: str | None) -> list[Row]:
    """The figures of each group, and below them the group that deviates most from the others."""
    rows = [Row(group_label(group), _group_cells(group, figures, write, positive)) for group in column.groups]
    cells = [_largest_difference(column, name, write) for name in figures]
    return [*rows, Row("largest difference from the others", ["", *cells], inner=True)]


def _group_cells(group: Subgroup, figures: list[str], write: MetricFormat, positive: str | None) -> list[Cell]:
    of_class = (group.subjects_by_class or {}).get(positive or "")
    count = "" if of_class is None else f"({of_class:,} {plain(positive)})"
    cells = [Cell(f"{group.n_subjects:,}", count, float(group.n_subjects))]
    for name in figures:
        cell = write.cell(name, group.metrics.get(name))
        small = f"{cell.small} small".strip() if name in group.small and cell.value != "" else cell.small
        cells.append(Cell(cell.text, small, cell.value))
    return cells


def _largest_difference(column: SubgroupColumn, name: str, write: MetricFormat) -> Cell:
    """The group whose figure deviates most from the mean of the others, if it was tested."""
    groups = [group for group in column.groups if name in group.differences]
    if column.tests[name].p is None or not groups:
        return Cell("–")
    group = max(groups, key=lambda candidate: abs(candidate.differences[name].value or 0))
    figure = group.differences[name]
    cell = write.difference(name, figure)
    return Cell(cell.text, f"{cell.small} {group_label(group)}".strip(), cell.value)
