"""The AUROC beside what the audit predicts from a column of the table alone, and within each value of that column."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from casewise.audit.leading_column import leading_column
from casewise.report.blocks import Block, Cell, Row, Table, Text
from casewise.report.formatting import capital, class_name, counted, number, plain
from casewise.report.tables import metric_format

if TYPE_CHECKING:
    from casewise.evaluation.results import ColumnGroup, Estimate
    from casewise.report.context import ReportContext

MOST_SHOWN = 4
CAPTION = (
    "AUROC of the model, of the column {column} alone, and of the model within each of its values (at most {most})."
)
HOW = (
    "Alone: predicted by the audit from the column with a linear model, for subjects not used for fitting; this figure"
    " has an error of its own. Within: the same predictions of the model among the subjects with one value, beside the"
    " number of subjects with the class. The mean gives each value with an interval the same weight."
)


@dataclass(frozen=True)
class ColumnRow:
    """A class: the learner's AUROC, that of the column alone, and the learner's within the values of the column.

    `each` and `counts` (subjects with the class, all subjects) are those of the first values; `mean` is over all.
    """

    name: str
    figure: Estimate | None
    alone: float | None
    mean: float | None
    each: list[Estimate | None]
    counts: list[tuple[int, int]]

    @property
    def stated(self) -> bool:
        """Whether both the learner and the column have an AUROC."""
        return self.alone is not None and self.figure is not None and self.figure.value is not None

    @property
    def above(self) -> bool:
        """Whether the interval of the learner's AUROC lies above that of the column alone; not so without one."""
        low = self.figure.low if self.figure else None
        return low is not None and self.alone is not None and low > self.alone


@dataclass(frozen=True)
class BesideColumn:
    """The column, its first values, and a row for each class (of two the positive one)."""

    column: str
    groups: list[str]
    rows: list[ColumnRow]


def beside_column(context: ReportContext) -> BesideColumn | None:
    """The values for the headline's learner; None without such a column, or where sources were left out in turn."""
    study, target, metrics = context.study, context.outcome, context.metrics
    column = leading_column(context.audit, target, study.audit.columns)
    figures = metrics.figures(context.stage, context.learner, target)
    if context.by_site or column is None or "auroc" not in figures or figures["auroc"].value is None:
        return None
    within, own = metrics.within_column, (target, context.stage, context.learner, column["name"])
    if within is None or (within.target, within.stage, within.learner, within.column) != own:
        within = None
    groups = list(within.groups.items())[:MOST_SHOWN] if within else []
    positive = study.positive_of(target)
    rows = []
    for label in [positive] if positive is not None else context.classes:
        key = "auroc" if positive is not None else f"auroc[{label}]"
        mean = within.means.get(key) if within else None
        rows.append(
            ColumnRow(
                name=class_name(study, target, str(label)),
                figure=figures.get(key),
                alone=column["by_class"].get(str(label)),
                mean=mean.value if mean else None,
                each=[group.metrics.get(key) for _, group in groups],
                counts=[_counts(group, str(label)) for _, group in groups],
            )
        )
    shown = BesideColumn(plain(column["name"]), [plain(name) for name, _ in groups], rows)
    return shown if any(row.stated for row in rows) else None


def _counts(group: ColumnGroup, label: str) -> tuple[int, int]:
    return group.classes.get(label, {}).get("n_subjects", 0), group.n_subjects


def table(context: ReportContext) -> list[Block]:
    """The values as a table; empty without them."""
    beside = beside_column(context)
    if beside is None:
        return []
    write = metric_format(context.study, context.outcome)
    heads = ["Class", "Model", f"{capital(beside.column)} alone"]
    if beside.groups:
        heads += ["Within, mean", *(f"Within {group}" for group in beside.groups)]
    rows = []
    for row in beside.rows:
        cells = [write.cell("auroc", row.figure), Cell(number(row.alone, 2))]
        if beside.groups:
            cells.append(Cell(number(row.mean, 3)))
            for figure, (of_class, subjects) in zip(row.each, row.counts, strict=True):
                cell, count = write.cell("auroc", figure), f"{of_class:,} of {counted(subjects, 'subject')}"
                cells.append(replace(cell, small="; ".join(filter(None, [cell.small, count]))))
        rows.append(Row(row.name, cells))
    caption = CAPTION.format(column=beside.column, most=MOST_SHOWN)
    return [Table(heads, rows, caption, wide=True), Text(HOW, note=True)]
