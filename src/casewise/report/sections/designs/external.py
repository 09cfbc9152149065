"""The external cohort: internal and external figures, overall, by class and by group, and its unusual cases."""

from __future__ import annotations

from collections.abc import Mapping

from casewise.evaluation.results import LearnerDrift
from casewise.report.blocks import Block, Cell, Facts, Fold, Heading, Matrix, Row, Section, Table, Text
from casewise.report.context import EXTERNAL, SIDES, ReportContext, counted_cases, defined, terms_of
from casewise.report.formatting import MISSING, capital, counted, number, p_value, plain
from casewise.report.sections import classes, learners
from casewise.report.tables import SHARE_FREE, VERDICTS, MetricFormat, confusion, figure_cell, percent_cell, verdict

BY_CLASS = ("recall", "precision", "auroc")
MOST_RECALLS = 6
BOTH = (
    "Difference: external minus internal, with its {confidence} interval, which is made from both"
    " intervals, as of different subjects, and not adjusted for the number of rows. External predictions are"
    " means over the models of all folds. Not tested: the interval is rough or missing."
)
SHARES = (
    " All but AUROC, recall, sensitivity and specificity also depend on the shares of the classes, which may differ"
    " between cohorts."
)
ABSENT = ("not compared", "a class has no case there")
BY_GROUP = "External, by {column}. Accuracy counts all cases of a group; an AUROC takes cases of every class."
BY_GROUP_HEADING = "External, by group"
EVIDENCE = {
    "thumbnail": "thumbnails of 16 × 16 grey values",
    "intensities": "the distribution of grey values",
    "files": "properties of the files",
}
COHORTS = (
    "A linear model predicts the cohort, the study or the external one, from one image of each {unit}. With an AUROC of"
    " 0.50 it cannot distinguish them; p allows for all tests."
)
GROUPS = (
    "Outside: further from the training cases, in the features of the networks, than at least 19 of 20 held-out"
    " cases of the study."
)
OUTSIDE = "A case inside may still be unlike the training cases in ways that these features do not show."


def section(context: ReportContext) -> Section | None:
    """The section; None if no external case was predicted."""
    if not (context.predictions["stage"] == EXTERNAL).any():
        return None
    study, rows = context.study, context.rows(EXTERNAL, context.learner)
    figures = context.figures(EXTERNAL, context.learner)
    count = counted_cases(context, rows) if len(rows) else "none: nothing can be evaluated"
    blocks: list[Block] = [Facts([("With a reference value", count)])]
    if metrics := [metric for metric in context.columns("external") if metric in figures]:
        titles = {context.write.title(metric): metric for metric in metrics}
        blocks.append(_both_table(context, "Metric", titles))
        blocks += [Fold(name, content, needed=name == BY_GROUP_HEADING) for name, content in _details(context)]
    heading = f"External validation: {study.external_name or 'the external cohort'}"
    return Section("external", heading, [*blocks, *_distant_cases(context)])


def _both_table(context: ReportContext, head: str, metrics: Mapping[str, str]) -> Table:
    """A row for each title in `metrics`: internal and external figure, difference, and verdict."""
    internal = f"Mean within each {context.site}" if context.by_site else capital(SIDES[context.stage])
    rows = [Row(name, both_cells(context, metric)) for name, metric in metrics.items()]
    caption = BOTH.format(confidence=terms_of(context).confidence) + (SHARES if context.classes else "")
    return Table([head, internal, "External", "Difference", "External is"], rows, caption, wide=True)


def _details(context: ReportContext) -> list[tuple[str, list[Block]]]:
    """Titles of the folded parts with their blocks."""
    entry, figures = context.class_figures(EXTERNAL, context.learner), context.figures(EXTERNAL, context.learner)
    table = learners.learner_table(context, EXTERNAL) if len(context.learners) > 1 else None
    class_blocks: list[Block] = []
    if entry:
        counts = confusion(entry.names, entry.confusion)
        class_blocks.append(Matrix(counts, "Confusion matrix, external.", "reference", "predicted"))
        both = {
            f"{plain(label)} ({support:,}), {context.write.phrase(metric)}": f"{metric}[{label}]"
            for label, support in zip(entry.names, entry.support, strict=True)
            for metric in BY_CLASS
            if defined(figures.get(f"{metric}[{label}]"))
        }
        class_blocks.append(_both_table(context, "Class (external cases)", both))
        class_blocks += classes.point_blocks(context, entry, EXTERNAL) if entry.operating else []
    return [
        ("External, by class: confusion matrix, figures and operating points", class_blocks),
        (BY_GROUP_HEADING, _group_tables(context)),
        ("External, all learners", [table] if table else []),
    ]


def both_cells(context: ReportContext, metric: str) -> list[Cell]:
    """Internal and external figure, their difference with its interval, and the verdict on the external figure."""
    write, internal = context.write, context.quoted.get(metric)
    external = context.figures(EXTERNAL, context.learner).get(metric)
    drop = context.metrics.drop(context.learner).get(metric)
    code = "untested" if drop is None or drop.rough else verdict(drop.low, drop.high, metric)
    difference = write.difference(metric, drop) if defined(external) else Cell(MISSING)
    entry = context.class_figures(EXTERNAL, context.learner)
    if entry and not all(entry.support) and metric.partition("[")[0] not in SHARE_FREE and defined(external):
        # a figure of other classes is no figure of the same kind
        return [write.cell(metric, internal), write.cell(metric, external), Cell(MISSING), Cell(*ABSENT)]
    return [write.cell(metric, internal), write.cell(metric, external), difference, Cell(VERDICTS[code])]


def _group_tables(context: ReportContext) -> list[Block]:
    """A table for each grouping column: figures of its groups of external cases."""
    recalls = [f"recall[{label}]" for label in context.classes] if len(context.classes) <= MOST_RECALLS else []
    metrics = [*context.columns("page_external"), *recalls]
    sizes = [f"{capital(noun)}s" for noun in (terms_of(context).noun, context.study.unit)]
    tables: list[Block] = []
    table = context.metrics.figures.select(stage=EXTERNAL)
    for by_column in dict.fromkeys(cell.population for cell in table.cells if cell.population.startswith("by ")):
        column, rows = by_column.removeprefix("by "), []
        for group in table.names("group", population=by_column):
            figures = table.of(EXTERNAL, context.learner, context.outcome, by_column, group)
            first = next(iter(figures.values()), None)
            counts = [Cell(number(count, 0)) for count in ((first.n_cases, first.n_subjects) if first else (0, 0))]
            rows.append(Row(group, [*counts, *(context.write.cell(metric, figures.get(metric)) for metric in metrics)]))
        if len(rows) < 2:
            continue
        heads = [capital(plain(column)), *sizes, *map(context.write.heading, metrics)]
        tables.append(Table(heads, rows, BY_GROUP.format(column=plain(column)), wide=True))
    return tables


def _distant_cases(context: ReportContext) -> list[Block]:
    """How well a model tells the cohorts apart, and the cases unlike the training; empty without external cases."""
    entry = context.metrics.drift
    if entry is None:
        return []
    blocks: list[Block] = []
    unit = context.study.unit
    if entry.cohorts:
        counts = entry.cohorts["subjects"]
        fact = f"{counted(counts['own'], unit)} of the study, {counts['external']:,} of the external cohort"
        fact += "" if entry.cohorts["tests"] else ": too few to compare their images"
        blocks.append(Facts([("One image of each", fact)]))
        rows = [
            Row(EVIDENCE.get(name, plain(name)), [number(test["auroc"], 2), p_value(test["p_adjusted"])])
            for name, test in entry.cohorts["tests"].items()
        ]
        blocks.append(Table(["From", "AUROC", "p"], rows, COHORTS.format(unit=unit)))
    if figures := entry.learners.get(context.learner):
        heads = ["Predictions", "n", "Outside", context.write.title(figures.quality)]
        heads += ["Mean confidence"] if figures.external.confidence else []
        blocks.append(Table(heads, rows_of(figures, context.write), GROUPS))
        blocks.append(Text(OUTSIDE, note=True))
    return [Heading("Cases unlike the training cases"), *blocks] if blocks else []


def rows_of(figures: LearnerDrift, write: MetricFormat) -> list[Row]:
    """Rows for the study's cases, all external cases, the external cases inside and outside, and the differences.

    How much better or worse all external cases are predicted is in the table of the external cohort.
    """
    quality = figures.quality
    groups = {
        capital(SIDES[figures.internal_stage]): figures.internal,
        "External": figures.external,
        "inside": figures.inside,
        "outside": figures.outside,
    }
    rows = []
    for name, group in groups.items():
        outside = percent_cell(group.outside) if group.outside else Cell("")
        cells = [Cell(number(group.answers, 0)), outside, write.cell(quality, group.quality)]
        cells += [percent_cell(group.confidence)] if group.confidence else []
        rows.append(Row(name, cells, inner=name in ("inside", "outside")))
    if figures.external.confidence:
        gap = figure_cell(figures.external_minus_internal.confidence, 0, percent=True, sign=True)
        rows.append(Row("External − internal", [*[""] * 3, gap]))
    return rows
