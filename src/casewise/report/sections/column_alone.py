"""The AUROC beside what the audit predicts from a column of the table alone, and within each value of that column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from casewise.audit.columns import leading_column
from casewise.report.blocks import Block, Cell, Fold, Row, Table, Text
from casewise.report.formatting import MISSING, capital, class_name, number, plain
from casewise.report.tables import VERDICTS, metric_format, verdict_beside

if TYPE_CHECKING:
    from casewise.evaluation.figures import ColumnGroup
    from casewise.evaluation.results import Estimate, WithinColumn
    from casewise.report.context import ReportContext

MOST_SHOWN = 4
NOTE = (
    "Alone: a linear model on the column, without an image, for subjects not used for fitting it. The model counts as"
    " better than the column if the interval of its AUROC lies above; otherwise its AUROC is no evidence that it uses"
    " the disease. Within: the same predictions of the model among the cases with one value of the column, where"
    " recognising the column does not help; below, the subjects with the class. The mean is over the values with an"
    " interval, each with the same weight."
)


@dataclass(frozen=True)
class ClassBesideColumn:
    """The AUROC of a class: of the model, of the column alone, and within the values of the column.

    `mean` is that over `averaged` values; `within` has a figure and the subjects with the class for each shown value.
    """

    name: str
    figure: Estimate
    alone: float | None
    mean: float | None
    averaged: list[str]
    within: list[tuple[Estimate | None, str]]

    @property
    def verdict(self) -> str:
        """The verdict on the model beside the column alone."""
        return "untested" if self.alone is None else verdict_beside(self.figure, self.alone, "auroc")


@dataclass(frozen=True)
class BesideColumn:
    """The column, its shown values and the number of all, and a row for each class (of two the positive one)."""

    name: str
    values: list[str]
    count: int
    rows: list[ClassBesideColumn]


def beside_column(context: ReportContext) -> BesideColumn | None:
    """The reported model beside the column; None without such a column, or where sources were left out in turn."""
    study, target = context.study, context.outcome
    column = leading_column(context.audit, target, study.audit.columns)
    figures = context.metrics.figures(context.stage, context.learner, target)
    if column is None or context.by_site:
        return None
    within = _within(context, column["name"])
    groups = within.groups if within else {}
    shown = list(groups)[:MOST_SHOWN]
    positive = study.positive_of(target)
    rows = []
    for label in map(str, [positive] if positive is not None else context.classes):
        key = "auroc" if positive is not None else f"auroc[{label}]"
        figure, mean = figures.get(key), within.means.get(key) if within else None
        if figure is None or figure.value is None:
            continue
        rows.append(
            ClassBesideColumn(
                class_name(study, target, label),
                figure,
                column["by_class"].get(label),
                mean.value if mean else None,
                mean.groups if mean else [],
                [(groups[group].metrics.get(key), _subjects(groups[group], label)) for group in shown],
            )
        )
    if all(row.alone is None for row in rows):
        return None
    return BesideColumn(plain(column["name"]), [plain(group) for group in shown], len(groups), rows)


def _within(context: ReportContext, column: str) -> WithinColumn | None:
    within, of = context.metrics.within_column, (column, context.outcome, context.stage, context.learner)
    return within if within and (within.column, within.target, within.stage, within.learner) == of else None


def _subjects(group: ColumnGroup, label: str) -> str:
    of_class = group.classes.get(label)
    return f"{of_class['n_subjects']:,} of {group.n_subjects:,} subjects" if of_class else ""


def blocks(context: ReportContext) -> list[Block]:
    """The table, folded; none without such a column."""
    column = beside_column(context)
    if column is None:
        return []
    write, name = metric_format(context.study, context.outcome), capital(column.name)
    rows = []
    for row in column.rows:
        cells = [
            write.cell("auroc", row.figure),
            Cell(number(row.alone, 2)),
            Cell(VERDICTS[row.verdict]),
        ]
        if column.values:
            count = f"{len(row.averaged)} of {column.count} values" if row.averaged else "too few subjects"
            cells.append(Cell(number(row.mean, 3), count))
        for figure, subjects in row.within:
            cell = write.cell("auroc", figure) if figure else Cell(MISSING)
            cells.append(Cell(cell.text, "; ".join(filter(None, (cell.small, subjects))), cell.value))
        rows.append(Row(row.name, cells))
    means = ["Within, mean", *(f"{name} {value}" for value in column.values)] if column.values else []
    table = Table(
        ["Class", "Model", f"{name} alone", "Model is", *means], rows, f"AUROC beside the column {column.name}."
    )
    return [Fold(f"AUROC beside the column {column.name}, by class", [table, Text(NOTE, note=True)])]
