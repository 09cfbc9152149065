"""The external cohort: every figure inside and outside, by class and by group, and cases unlike the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.report.blocks import Block, Cell, Facts, Fold, Heading, Matrix, Row, Section, Table, Text
from casewise.report.context import EXTERNAL, ReportContext
from casewise.report.formatting import MISSING, capital, counted, interval, number, p_value, plain, signed
from casewise.report.sections import learners
from casewise.report.tables import VERDICTS, MetricFormat, confusion, metric_format, percent_cell, verdict
from casewise.report.terms import SIDES, predicted_externally, terms_of

if TYPE_CHECKING:
    from casewise.evaluation.results import (
        ClassFigures,
        DriftGap,
        DriftGroup,
        Estimate,
        Interval,
        LearnerDrift,
        SourceMean,
    )
    from casewise.report.context import ReportContext


BY_CLASS = ("recall", "precision", "auroc")
POINT_METRICS = ("sensitivity", "specificity", "precision", "npv")
RULES = {"youden": "Youden index"}
MOST_GROUPS = 20
MOST_RECALLS = 6
MOST_POINTS = 24
BOTH = (
    "Difference: external minus internal, with its {confidence} interval. External predictions are means over the"
    " networks of all folds. Not compared: where the interval is rough or missing."
)
BY_GROUP = "External, by {column}. A metric over all classes is undefined where a class is absent."
POINTS = (
    "Operating points, external. Thresholds were chosen on cases of the study and are applied unchanged; precision and"
    " NPV hold for the share of the class in the external cohort."
)


def section(context: ReportContext) -> Section | None:
    """The figures of the external cohort; None where nothing was predicted there."""
    if not predicted_externally(context):
        return None
    study, terms = context.study, terms_of(context)
    outside, rows = (
        context.metrics.figures(EXTERNAL, context.learner, context.outcome),
        context.rows(EXTERNAL, context.learner),
    )
    count = counted(len(rows), terms.noun)
    count += f" of {counted(rows['subject'].nunique(), 'subject')}" if study.subjects_known else ""
    blocks: list[Block] = [
        Facts([("With a reference value", count if len(rows) else "none: nothing can be evaluated")])
    ]
    metrics = [metric for metric in context.columns("external") if metric in outside]
    if metrics:
        write, caption = metric_format(study, context.outcome), BOTH.format(confidence=terms.confidence)
        both = [Row(write.title(metric), both_cells(context, metric)) for metric in metrics]
        blocks.append(Table(["Metric", *sides(context)], both, caption, wide=True))
        blocks += [Fold(summary, inside) for summary, inside in details(context) if inside]
    heading = f"External validation: {study.external_name or 'the external cohort'}"
    return Section("external", heading, [*blocks, *distant_cases(context)])


def sides(context: ReportContext) -> list[str]:
    """The headings of the figure of the study, that outside, their difference, and the verdict."""
    inside = f"Mean within each {context.site}" if context.by_site else capital(SIDES[context.stage])
    return [inside, "External", "Difference", "External is"]


def details(context: ReportContext) -> list[tuple[str, list[Block]]]:
    """The folded parts, with what each holds."""
    entry = context.metrics.classes.get(EXTERNAL, {}).get(context.learner, {}).get(context.outcome)
    table = learners.learner_table(context, EXTERNAL) if len(context.learners) > 1 else None
    of_classes: list[Block] = []
    if entry:
        matrix = "Confusion matrix, external. Small print and shade: share of the row."
        of_classes.append(Matrix(confusion(entry.names, entry.confusion), matrix, "reference", "predicted"))
        caption = BOTH.format(confidence=terms_of(context).confidence)
        if rows := class_rows(context, entry):
            of_classes.append(Table(["Class (external cases)", *sides(context)], rows, caption, wide=True))
        if points := point_rows(entry):
            heads = ["Class and rule", "Threshold", *map(MetricFormat().title, POINT_METRICS)]
            of_classes.append(Table(heads, points, POINTS, wide=True))
    return [
        ("External, by class: confusion matrix, figures and operating points", of_classes),
        ("External, by group", list(groups(context))),
        ("External, all learners", [table] if table else []),
    ]


def inside_figure(context: ReportContext, metric: str) -> Estimate | SourceMean | None:
    """The study's own figure: where sources were left out, the mean within them."""
    if context.by_site:
        return (context.metrics.site_means or {}).get(context.learner, {}).get(metric)
    return context.metrics.figures(context.stage, context.learner, context.outcome).get(metric)


def both_cells(context: ReportContext, metric: str) -> list[Cell]:
    """A figure inside and outside, the difference with its interval, and the verdict on the external figure."""
    write = metric_format(context.study, context.outcome)
    outside = context.metrics.figures(EXTERNAL, context.learner, context.outcome).get(metric)
    drop = (context.metrics.external_drop or {}).get(context.learner, {}).get(metric)
    inside = inside_figure(context, metric)
    cell = write.cell(metric, inside)
    if drop and (inside is None or inside.value is None):
        cell = write.cell(metric, {"value": drop.internal})
    difference = write.difference(metric, drop, cell.value, outside.value if outside else None)
    code = "untested" if drop is None or drop.rough else verdict(drop.low, drop.high, metric)
    return [cell, write.cell(metric, outside), difference, Cell(VERDICTS[code])]


def class_rows(context: ReportContext, entry: ClassFigures) -> list[Row]:
    """For each class of the external cohort its recall, precision and AUROC inside, outside, and the difference."""
    write, outside = MetricFormat(), context.metrics.figures(EXTERNAL, context.learner, context.outcome)
    rows = []
    for label, support in zip(entry.names, entry.support, strict=True):
        for metric in BY_CLASS:
            key = f"{metric}[{label}]"
            if key in outside and outside[key].value is not None:
                name = f"{plain(label)} ({support:,}), {write.phrase(metric)}"
                rows.append(Row(name, both_cells(context, key)))
    return rows


def point_rows(entry: ClassFigures) -> list[Row]:
    """The operating points outside: threshold, and the metrics at it."""
    return [
        Row(
            f"{plain(point.label)}, {RULES.get(point.rule, point.rule).replace('>=', '≥')}",
            [
                Cell(number(point.threshold, 3)),
                *(MetricFormat().cell(metric, point.figures.get(metric)) for metric in POINT_METRICS),
            ],
        )
        for point in entry.operating[:MOST_POINTS]
    ]


def groups(context: ReportContext) -> list[Table]:
    """For each column a table of its groups of external cases with their figures."""
    write = metric_format(context.study, context.outcome)
    recalls = [f"recall[{label}]" for label in context.classes] if len(context.classes) <= MOST_RECALLS else []
    metrics = [*context.columns("page_external"), *recalls]
    tables = []
    for column, by_group in (context.metrics.external_by or {}).items():
        rows = []
        for group, by_learner in list(by_group.items())[:MOST_GROUPS]:
            figures = by_learner.get(context.learner) or {}
            first = next(iter(figures.values()), None)
            counts = [Cell(number(count, 0)) for count in ((first.n_cases, first.n_subjects) if first else (0, 0))]
            rows.append(Row(group, [*counts, *(write.cell(metric, figures.get(metric)) for metric in metrics)]))
        further = len(by_group) - len(rows)
        rows += [Row(f"{further} further groups", [Cell("")] * (2 + len(metrics)))] if further else []
        heads = [capital(plain(column)), "Cases", "Subjects", *map(write.heading, metrics)]
        tables += [Table(heads, rows, BY_GROUP.format(column=plain(column)), wide=True)] if rows else []
    return tables


EVIDENCE = {
    "thumbnail": "thumbnails of 16 × 16 grey values",
    "intensities": "the distribution of grey values",
    "files": "properties of the files",
}
COHORTS = (
    "A linear model predicts, from one image of each subject, of which of the two cohorts it is. With an AUROC of 0.50"
    " the images cannot be told apart in this way; p allows for all tests."
)
GROUPS = (
    "Outside: further from the training cases, in the features of the networks, than 19 of 20 held-out cases of the"
    " study. Brackets: {confidence} intervals by subject."
)
OUTSIDE = "A case inside may still be unlike those of the training in ways that these features do not show."


def distant_cases(context: ReportContext) -> list[Block]:
    """How well the cohorts are told apart, and the cases outside; none without an external cohort."""
    entry = context.metrics.drift
    if entry is None:
        return []
    shown: list[Block] = []
    if entry.cohorts:
        counts = entry.cohorts["subjects"]
        fact = f"{counted(counts['own'], 'subject')} of the study, {counts['external']:,} of the external cohort"
        fact += "" if entry.cohorts["tests"] else ": too few to compare their images"
        shown.append(Facts([("One image of each", fact)]))
        rows = [
            Row(EVIDENCE.get(name, plain(name)), [Cell(number(test["auroc"], 2)), Cell(p_value(test["p_adjusted"]))])
            for name, test in entry.cohorts["tests"].items()
        ]
        if rows:
            shown.append(Table(["From", "AUROC", "p"], rows, COHORTS))
    if figures := entry.learners.get(context.learner):
        write = metric_format(context.study, context.outcome)
        heads = ["Predictions", "n", "Outside", write.title(figures.quality)]
        heads += ["Mean confidence"] if figures.external.confidence else []
        shown.append(Table(heads, rows_of(figures, write), GROUPS.format(confidence=terms_of(context).confidence)))
        shown.append(Text(OUTSIDE, note=True))
    return [Heading("Cases unlike those of the training"), *shown] if shown else []


def rows_of(figures: LearnerDrift, write: MetricFormat) -> list[Row]:
    """The cases of the study, the external ones, those of them inside and outside, and the differences."""
    quality = figures.quality
    return [
        Row(capital(SIDES[figures.internal_stage]), _group(figures.internal, quality, write)),
        Row("External", _group(figures.external, quality, write)),
        Row("inside", _group(figures.inside, quality, write), inner=True),
        Row("outside", _group(figures.outside, quality, write), inner=True),
        Row("Outside − inside", _gap(figures.outside_minus_inside, figures, write)),
        Row("External − internal", _gap(figures.external_minus_internal, figures, write)),
    ]


def _group(group: DriftGroup, quality: str, write: MetricFormat) -> list[Cell]:
    outside = percent_cell(group.outside) if group.outside else Cell("")
    cells = [Cell(number(group.answers, 0)), outside, write.cell(quality, group.quality)]
    return [*cells, *([percent_cell(group.confidence)] if group.confidence else [])]


def _gap(gap: DriftGap, figures: LearnerDrift, write: MetricFormat) -> list[Cell]:
    quality = figures.quality
    cells = [Cell(""), Cell(""), _signed(gap.quality, write.in_percent(quality), write.digits(quality))]
    return [*cells, *([_signed(gap.confidence, True, 0)] if figures.external.confidence else [])]


def _signed(figure: Interval | None, percent: bool, digits: int) -> Cell:
    """A difference with its interval; shares in percentage points."""
    if figure is None:
        return Cell(MISSING)
    scale, unit = (100, " points") if percent else (1, "")
    ends = {name: scale * end for name, end in (("low", figure.low), ("high", figure.high)) if end is not None}
    value = scale * figure.value
    return Cell(signed(value, digits) + unit, interval(ends, digits), value)
