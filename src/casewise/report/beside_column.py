"""The reported model compared with the column of the table that predicts the classes, and within each value of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from casewise.audit.columns import leading_column
from casewise.audit.metadata import named_columns
from casewise.evaluation.figures import Estimate
from casewise.evaluation.results import ColumnGroup, GroupMean, WithinColumn
from casewise.report.blocks import Block, Cell, Fold, Row, Table, Text
from casewise.report.context import ReportContext, defined, evaluated_on, terms_of
from casewise.report.formatting import MISSING, capital, class_name, number, plain
from casewise.report.tables import VERDICTS, verdict_beside

MOST_SHOWN = 4
COUNTS = (
    "{place}, by the {column} of each {noun}. Found: {noun}s of the class that are predicted as it. Mistaken for it:"
    " {noun}s of other classes that are predicted as it.{sets}"
)
SETS = " Set holds it: {noun}s of the class whose prediction set holds it."
MORE = " {shown} of {count} values are shown: values with several classes first, then by the number of {noun}s."
COLUMN = (
    "Alone: a linear model on the column, without an image, for subjects not used for fitting it; with one image of"
    " each, if they differ in their number of images. The model counts as"
    " better than the column if the interval of its AUROC lies above; otherwise its AUROC does not show that it uses"
    " the disease."
)
WITHIN = (
    " Within: the same predictions of the model among the cases with one value of the column, where"
    " recognising the column does not help; below, the subjects with the class. The mean is over the values with an"
    " interval, each with the same weight."
)


@dataclass(frozen=True)
class _ClassBesideColumn:
    """The AUROC of a class: of the model, of the column by itself, and within the values of the column.

    `within` has a figure and the subjects with the class for each shown value, `mean` is over all values.
    """

    name: str
    figure: Estimate
    alone: float | None
    mean: GroupMean | None
    within: list[tuple[Estimate | None, str]]

    @property
    def verdict(self) -> str:
        """The verdict on the model compared with the column by itself."""
        return "untested" if self.alone is None else verdict_beside(self.figure, self.alone, "auroc")


@dataclass(frozen=True)
class _BesideColumn:
    """The column, its shown values and the number of all, and a row for each class (of two the positive one).

    `note` names the images on which the column was evaluated, unless it was evaluated on all.
    """

    name: str
    values: list[str]
    count: int
    rows: list[_ClassBesideColumn]
    note: str = ""


def beside_column(context: ReportContext) -> _BesideColumn | None:
    """The reported model compared with the column; None without such a column, or where sources were left out in turn.

    The position of slices that are cases does not count as a column: `visit_alone` compares with it.
    """
    study, target = context.study, context.outcome
    column = leading_column(context.audit, target, study.audit.columns)
    figures = context.figures(context.stage, context.learner)
    if column is None or context.by_site:
        return None
    within = _within(context)
    groups, means = (within.groups, within.means) if within else ({}, {})
    shown, positive = (_shown(within) if within else []), study.positive_of(target)
    rows = []
    for label in map(str, [positive] if positive is not None else context.classes):
        key = "auroc" if positive is not None else f"auroc[{label}]"
        if figure := defined(figures.get(key)):
            by_group = [
                (groups[group].metrics.get(key), _subjects(groups[group], label, study.unit)) for group in shown
            ]
            name, alone = class_name(study, target, label), column["by_class"].get(label)
            rows.append(_ClassBesideColumn(name, figure, alone, means.get(key), by_group))
    if all(row.alone is None for row in rows):
        return None
    note = f"one image a {study.unit}" if context.one_image_each else ""
    return _BesideColumn(plain(column["name"]), [plain(group) for group in shown], len(groups), rows, note)


def _subjects(group: ColumnGroup, label: str, unit: str) -> str:
    of_class = group.classes.get(label)
    return f"{of_class['n_subjects']:,} of {group.n_subjects:,} {unit}s" if of_class else ""


def beside_column_blocks(context: ReportContext) -> list[Block]:
    """The counts within each value of the column, and the areas, folded; none without such a column."""
    column, counts = beside_column(context), _counts_table(context)
    if column is None:
        return [counts] if counts else []
    write, name = context.write, capital(column.name)
    rows = []
    for row in column.rows:
        cells = [write.cell("auroc", row.figure), Cell(number(row.alone, 2)), Cell(VERDICTS[row.verdict])]
        if column.values:
            averaged = row.mean.groups if row.mean else []
            count = f"{len(averaged)} of {column.count} values" if averaged else "too few subjects"
            cells.append(Cell(number(row.mean.value if row.mean else None, 3), count))
        for figure, subjects in row.within:
            cell = write.cell("auroc", figure)
            cells.append(replace(cell, small="; ".join(filter(None, (cell.small, subjects)))))
        rows.append(Row(row.name, cells))
    means = ["Within, mean", *(f"{name} {value}" for value in column.values)] if column.values else []
    title = f"AUROC beside the column {column.name}"
    heads = ["Class", "Model", f"{name} alone", "Model is", *means]
    table = Table(heads, rows, f"{title}, {evaluated_on(context, context.stage)}.")
    fold = Fold(f"{title}, by class", [table, Text(COLUMN + WITHIN * bool(column.values), note=True)])
    return [counts, fold] if counts else [fold]


def _counts_table(context: ReportContext) -> Table:
    """How often each class is found, and mistaken for, within each value of the column; empty without figures."""
    within = _within(context)
    if within is None or context.by_site:
        return Table([], [], "")
    noun, rows, has_sets = terms_of(context).noun, [], _has_sets(within)
    shown = _shown(within)
    for value, group in [(value, within.groups[value]) for value in shown]:
        for label, counts in group.classes.items():
            own = counts["rows"]
            pairs = [("found", own), ("mistaken", group.rows - own), *([("held", own)] if has_sets else [])]
            cells = [f"{counts[key]:,} of {of:,}" if of and key in counts else MISSING for key, of in pairs]
            rows.append(Row(f"{plain(value)}: {class_name(context.study, context.outcome, label)}", cells))
    texts = {"place": capital(evaluated_on(context, context.stage)), "noun": noun, "column": plain(within.column)}
    caption = COUNTS.format(**texts, sets=SETS.format(noun=noun) if has_sets else "")
    if len(shown) < len(within.groups):
        caption += MORE.format(shown=len(shown), count=len(within.groups), noun=noun)
    heads = [f"{capital(plain(within.column))} and class", "Found", "Mistaken for it", *["Set holds it"] * has_sets]
    return Table(heads, rows, caption)


def _shown(within: WithinColumn) -> list[str]:
    """Values to show: all if few, otherwise values with several classes first, then the most frequent."""
    if len(within.groups) <= MOST_SHOWN:
        return list(within.groups)
    order = sorted(within.groups.items(), key=lambda item: (item[1].of_commonest == item[1].rows, -item[1].rows))
    return [value for value, _ in order[:MOST_SHOWN]]


def _has_sets(within: WithinColumn) -> bool:
    return any("held" in counts for group in within.groups.values() for counts in group.classes.values())


def _within(context: ReportContext) -> WithinColumn | None:
    """The figures of the reported model within the values of the column that the audit names."""
    column = leading_column(context.audit, context.outcome, named_columns(context.study))
    within, of = context.metrics.within_column, (context.outcome, context.stage, context.learner)
    if within is None or column is None or within.column != column["name"]:
        return None
    return within if (within.target, within.stage, within.learner) == of else None
