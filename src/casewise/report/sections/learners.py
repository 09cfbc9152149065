"""All learners side by side: tables with intervals and verdicts, forest plots, weights, classification reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from casewise.audit.columns import leading_column
from casewise.evaluation.headline import FITTED
from casewise.evaluation.results import Difference
from casewise.predictions.nested_cv import NESTED
from casewise.report.blocks import Block, Cell, Facts, Fold, Heading, Matrix, Plot, Plots, Row, Section, Table, Text
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import learners as draw
from casewise.report.figures.drawing import MODEL, SOFT
from casewise.report.formatting import MISSING, capital, class_name, display_name, number, plain, signed
from casewise.report.tables import VERDICTS, MetricFormat, confusion, metric_format, verdict, verdict_beside
from casewise.report.target_kind_sections import kind_report
from casewise.report.terms import SIDES, terms_of
from casewise.study.learners import is_baseline, learner_name, learner_named

if TYPE_CHECKING:
    from casewise.evaluation.results import ColumnGroup, Comparison, Estimate, OverFolds, WithinColumn
    from casewise.report.context import ReportContext


MOST_REPORTS = 16
MOST_STACKERS, MOST_STACKED = 6, 10
REPORT = ("precision", "recall", "f1")

ORDER = "{stage}, the best {order} first; marked: the reported learner. Brackets: {confidence} intervals by {unit}."
AGAINST = (
    "Against: whether the learner of the row is better or worse by {metric}, and its difference on the same cases, with"
    " an interval that holds for all pairs of learners at once."
)
POOLED = (
    "Figures pooled over each {site} mix different networks and sources, and do not estimate the performance in a new"
    " {site}: learners are not compared on them. The table of each {site} does."
)
FITTED_WEIGHTS = (
    "Combined learners with fitted weights may be optimistic out of fold: the weights for a fold were fitted on"
    " predictions by networks that were trained on the subjects of that fold."
)
FOREST = "Points with {confidence} intervals, in the order of the out-of-fold {merit}. Shaded: the reported learner."
OVER_FOLDS = (
    "{what}Out of fold: mean ± standard deviation over {folds} folds, beside the figure of all cases together with its"
    " {confidence} interval."
)
SPREAD = (
    "The standard deviation is no interval of the mean, because the subjects of one fold are training subjects of the"
    " others. A mean over the classes is undefined in a fold that lacks a class."
)


def section(context: ReportContext) -> Section | None:
    """The learners' tables, forest plots, weights and reports; None where nothing was evaluated."""
    tables = [(stage, table) for stage in context.stages if (table := learner_table(context, stage))]
    if not tables:
        return None
    terms, several = terms_of(context), len(tables[0][1].rows) > 1
    blocks: list[Block] = []
    if context.by_site:
        blocks.append(Text(POOLED.format(site=context.site), note=True))
    plots = [plot for metric in kind_report(context.kind).forests if several and (plot := _forest(context, metric))]
    if plots:
        merit = metric_format(context.study, context.outcome).phrase(context.merit)
        blocks.append(Plots(plots, FOREST.format(confidence=terms.confidence, merit=merit)))
    blocks.append(tables[0][1])
    if any(_comparison(context, stage) for stage, _ in tables):
        write = metric_format(context.study, context.outcome)
        blocks.append(Text(AGAINST.format(metric=write.phrase(kind_report(context.kind).compared)), note=True))
    if any(name.startswith(FITTED) for name in context.learners) and "oof" in context.stages:
        blocks.append(Text(FITTED_WEIGHTS, note=True))
    if context.study.baselines.off:
        blocks.append(Facts([("No baseline was fitted", context.study.baselines.off)]))
    details: list[Block] = [table for _, table in tables[1:]]
    names = [(learner_name(name), f"`{name}`") for name in context.learners if learner_name(name) != name]
    if names:
        details += [Heading("Names of learners in metrics.json and in tables of predictions"), Facts(names)]
    if spread := over_folds(context):
        details += [Heading("Mean over the folds"), *spread, Text(SPREAD, note=True)]
    folds = [
        ("Other cases, means over the folds, and names in files", details),
        ("Weights of combined learners", weights(context)),
    ]
    blocks += [Fold(summary, inside) for summary, inside in folds if inside]
    if several and context.classes:
        reported, shown = reports(context)
        summary = f"Classification reports and confusion matrices of {shown} of {len(context.learners)} learners"
        blocks.append(Fold(summary, reported))
    return Section("learners", "All learners", [*blocks, *beside_column_blocks(context)])


# ------------------------------------------------------------------------------------------------------------ tables


def learner_table(context: ReportContext, stage: str) -> Table | None:
    """One line per learner, the best first, and one for each published result; None where nothing was evaluated."""
    study, write, kind = context.study, metric_format(context.study, context.outcome), kind_report(context.kind)
    published = study.evaluation.references.get(context.outcome, {}) if stage == context.stage else {}
    stated = [metric for figures in published.values() for metric in figures]
    metrics = list(dict.fromkeys([*context.columns("learners", stage), *map(str, stated)]))
    entry = _comparison(context, stage)
    others = list(dict.fromkeys([context.learner, entry.best, *_best_baseline(context)])) if entry else []
    rows: list[tuple[float, Row]] = []
    for learner in context.learners:
        figures = context.metrics.figures(stage, learner, context.outcome)
        if not figures:
            continue
        only = plain(context.constant_class(stage, learner))
        cells = [Cell(_noun(context, learner), f"predicts only {only}" if only else "")]
        cells += [write.cell(metric, figures.get(metric)) for metric in metrics]
        cells += [against(write, kind.compared, gap_between(entry, learner, other)) for other in others if entry]
        row = Row(learner_name(learner), cells, mark=learner == context.learner)
        rows.append((_rank(context, stage, learner, kind.order_by), row))
    if not rows:
        return None
    lines = [row for _, row in sorted(rows, key=lambda pair: (pair[0], pair[1].name))]
    for name, values in published.items():
        cells = [Cell(write.text(metric, values.get(metric))) for metric in metrics]
        lines.append(Row(name, [Cell("published"), *cells, *[Cell(MISSING)] * len(others)]))
    unit = "subject" if study.subjects_known else terms_of(context).noun
    texts = {"stage": capital(SIDES[stage]), "order": write.phrase(kind.order_by), "unit": unit}
    caption = ORDER.format(**texts, confidence=terms_of(context).confidence)
    heads = ["Learner", "Kind", *map(write.heading, metrics), *(f"Against {learner_name(name)}" for name in others)]
    return Table(heads, lines, caption, wide=True, sortable=True)


def _rank(context: ReportContext, stage: str, learner: str, metric: str) -> float:
    """The metric so that smaller is better; where sources were left out, its mean within them."""
    figure = context.metrics.figures(stage, learner, context.outcome).get(metric)
    means = (context.metrics.site_means or {}) if stage == "oof" else {}
    value = means[learner][metric].value if metric in means.get(learner, {}) else figure.value if figure else None
    if value is None:
        return float("inf")
    return value if metric_format(context.study, context.outcome).smaller_is_better(metric) else -value


def _noun(context: ReportContext, learner: str) -> str:
    """What kind of learner this is."""
    if is_baseline(learner):
        return learner_named(learner).noun
    return "network" if learner in context.study.networks else "nested choice" if learner == NESTED else "combined"


def _comparison(context: ReportContext, stage: str) -> Comparison | None:
    """The comparison of the learners of a stage; None where sources were left out, or without one."""
    if stage == "oof" and context.metrics.site_means:
        return None
    by_metric = context.metrics.comparisons.get(stage, {}).get(context.outcome, {})
    entry = by_metric.get(kind_report(context.kind).compared)
    return entry if entry and entry.differences else None


def _best_baseline(context: ReportContext) -> list[str]:
    compared = context.metrics.against_baselines
    return [compared.baseline] if compared else []


def gap_between(entry: Comparison, learner: str, other: str) -> Difference | None:
    """A learner's figure minus that of another one; None if the comparison does not have this pair.

    It has the pairs with the best learner and those with a baseline.
    """
    for first, second, sign in ((learner, other, 1), (other, learner, -1)):
        from_second = entry.differences if second == entry.best else entry.from_baseline.get(second, {})
        gap = from_second.get(first)
        if gap and sign == 1:
            return gap
        if gap:
            low, high = (None if end is None else -end for end in (gap.high, gap.low))
            return Difference(-gap.difference, low, high, gap.indistinguishable)
    return None


def against(write: MetricFormat, metric: str, gap: Difference | None) -> Cell:
    """The verdict on a learner by its difference from another one, with the difference below."""
    if gap is None or gap.low is None:
        return Cell(MISSING)
    difference = write.difference(metric, gap, 0.0, gap.difference)
    small = f"{difference.text} {difference.small}"
    return Cell(VERDICTS[verdict(gap.low, gap.high, metric)], small, gap.difference)


def reports(context: ReportContext) -> tuple[list[Block], int]:
    """Each learner's classification report with its confusion matrix, the reported one first, and their number."""
    stage, shown = context.stage, 0
    blocks: list[Block] = []
    order = sorted(context.learners, key=lambda name: name != context.learner)
    by_learner = context.metrics.classes.get(stage, {})
    for learner in order[:MOST_REPORTS]:
        entry = by_learner.get(learner, {}).get(context.outcome)
        if entry is None:
            continue
        figures, write = context.metrics.figures(stage, learner, context.outcome), MetricFormat()
        names = [*(f"[{name}]" for name in entry.names), ""]
        supports, labels = [*entry.support, sum(entry.support)], [*map(plain, entry.names), "mean"]
        rows = [
            Row(
                label,
                [*(write.cell(metric, figures.get(f"{metric}{name}")) for metric in REPORT), Cell(f"{support:,}")],
                inner=not name,
            )
            for label, name, support in zip(labels, names, supports, strict=True)
        ]
        heads = ["Class", *map(write.title, REPORT), "Support"]
        matrix = Matrix(confusion(entry.names, entry.confusion), "Confusion matrix.", "reference", tight=True)
        blocks += [
            Heading(learner_name(learner)),
            Table(heads, rows, f"Classification report, {SIDES[stage]}."),
            matrix,
        ]
        shown += 1
    return blocks, shown


def weights(context: ReportContext) -> list[Block]:
    """For each combined learner a line per network with its weight for each target; the intercept last."""
    tables: list[Block] = []
    for learner, by_target in list(context.stackers.items())[:MOST_STACKERS]:
        fitted = {name: fit for name, fit in by_target.items() if isinstance(fit, dict) and fit.get("weights")}
        targets = list(fitted)[:MOST_STACKED]
        networks = list(dict.fromkeys(network for name in targets for network in fitted[name]["weights"]))
        lines = {learner_name(n): [fitted[name]["weights"].get(n) for name in targets] for n in networks}
        lines["intercept"] = [fitted[name].get("intercept", 0.0) for name in targets]
        rows = [Row(name, [Cell(signed(value, 3)) for value in values]) for name, values in lines.items()]
        heads = ["Network", *(display_name(context.study, name) for name in targets)]
        if targets:
            tables.append(Table(heads, rows, f"{learner_name(learner)}: coefficients.", wide=True))
    return tables


# ----------------------------------------------------------------------------------------------------- over the folds


def over_folds(context: ReportContext) -> list[Table]:
    """Mean ± standard deviation over folds beside the pooled figures; none where folds are sources."""
    by_learner = context.metrics.over_folds.get(context.outcome)
    if not by_learner or context.metrics.by_site:
        return []
    write, metrics = metric_format(context.study, context.outcome), context.columns("folds")
    rows: dict[str, Row] = {}
    for learner in (name for name in context.learners if name in by_learner):
        pooled, cells = context.metrics.figures("oof", learner, context.outcome), []
        for name in metrics:
            cells += [spread(write, name, by_learner[learner].get(name)), write.cell(name, pooled.get(name))]
        rows[learner] = Row(learner_name(learner), cells, mark=learner == context.learner)
    folds = max((len(figure.folds) for figures in by_learner.values() for figure in figures.values()), default=0)
    heads = ["Learner", *(head for name in metrics for head in (write.title(name), "pooled"))]
    confidence = terms_of(context).confidence
    return [
        Table(
            heads,
            [rows[name] for name in names],
            OVER_FOLDS.format(what=what, folds=folds, confidence=confidence),
            True,
        )
        for what, names in alike(list(rows))
        if names
    ]


def alike(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Learners in tables that differ in one thing each: what they share, and their names.

    Where backbones and fusions both differ that is a table for each fusion of several backbones, and one for each
    backbone of several fusions; the remaining learners, stackers too, come last. Else one table without a title.

    >>> alike(["vit@early", "alexnet@early", "vit@late"])
    [('Fusion early. ', ['vit@early', 'alexnet@early']), ('Backbone vit. ', ['vit@early', 'vit@late'])]
    >>> alike(["vit", "mean"])
    [('', ['vit', 'mean'])]
    """
    pairs = {name: name.partition("@")[::2] for name in names if "@" in name}
    tables = []
    for index, shared in ((1, "Fusion"), (0, "Backbone")):
        for common in dict.fromkeys(pair[index] for pair in pairs.values()):
            group = [name for name, pair in pairs.items() if pair[index] == common]
            tables += [(f"{shared} {common}. ", group)] if len(group) > 1 else []
    if len(tables) < 2:
        return [("", list(names))]
    rest = [name for name in names if not any(name in group for _, group in tables)]
    return [*tables, *([("Others. ", rest)] if rest else [])]


def spread(write: MetricFormat, metric: str, figure: OverFolds | None) -> Cell:
    """Mean ± standard deviation, and of how many folds where some have no figure."""
    if figure is None or not is_number(figure.mean) or figure.mean is None:
        return Cell(MISSING)
    defined = sum(value is not None for value in figure.folds)
    small = "" if defined == len(figure.folds) else f"{defined} of {len(figure.folds)} folds"
    text = f"{write.text(metric, figure.mean, unit=False)} ± {write.text(metric, figure.sd)}"
    return Cell(text, small, figure.mean)


# ------------------------------------------------------------------------------------------------------ forest plots


def _forest(context: ReportContext, metric: str) -> Plot | None:
    """One metric of all learners, ordered by the out-of-fold figure of merit; None where no learner has it."""
    order = sorted(context.learners, key=lambda name: -_merit(context, name))
    figures = {stage: _defined(context, stage, metric) for stage in context.stages}
    ranked = [name for name in order if any(name in by_learner for by_learner in figures.values())]
    if not ranked:
        return None
    looks = {"test": ("test set", MODEL, "o"), "oof": ("out of fold", SOFT, "D")}
    # the first series is drawn stronger
    strengths = [(1.7, 5.5), (1.1, 3.8)]
    series = [
        draw.Series(looks[stage][0], figures[stage], *looks[stage][1:], line=line, size=size)
        for stage, (line, size) in zip([stage for stage in looks if figures.get(stage)], strengths, strict=False)
    ]
    write = metric_format(context.study, context.outcome)
    unit, better = ", points" if metric == "mae" else "", "smaller" if write.smaller_is_better(metric) else "larger"
    label = f"{write.title(metric)}{unit} ({better} is better)"
    percent = write.in_percent(metric)
    drawing = draw.forest(ranked, series, shown=context.learner, label=label, name=metric, percent=percent)
    return Plot(drawing, f"{write.title(metric)} of each learner with intervals; the values are in the table.")


def _merit(context: ReportContext, learner: str) -> float:
    for stage in ("oof", context.stage):
        figure = context.metrics.figures(stage, learner, context.outcome).get(context.merit)
        if figure and figure.value is not None:
            return figure.value
    return -np.inf


def _defined(context: ReportContext, stage: str, metric: str) -> dict[str, Estimate]:
    by_learner = {name: context.metrics.figures(stage, name, context.outcome).get(metric) for name in context.learners}
    return {name: figure for name, figure in by_learner.items() if figure and figure.value is not None}


MOST_SHOWN = 4
COLUMN = (
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


def beside_column_blocks(context: ReportContext) -> list[Block]:
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
    return [Fold(f"AUROC beside the column {column.name}, by class", [table, Text(COLUMN, note=True)])]
