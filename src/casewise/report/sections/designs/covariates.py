"""Do the images add to the covariates? Figures of the three models, and their decision curves."""

from __future__ import annotations

from collections.abc import Sequence

from casewise.audit.columns import label_gaps
from casewise.evaluation.results import AddedValue
from casewise.report.blocks import Block, Cell, Facts, Plot, Plots, Row, Section, Table, Text
from casewise.report.context import SIDES, ReportContext, terms_of
from casewise.report.figures import classes as draw
from casewise.report.formatting import MISSING, capital, listed, plain
from casewise.report.sections.learners import against, comparison_of
from casewise.report.tables import figure_cell, kind_report
from casewise.study.learners import COVARIATES, JOINED, learner_name

BENEFIT_DIGITS = 3
ANSWER = (
    "{stage}. The images add to the covariates where the model of both is better than the covariates by themselves; no"
    " clear difference does not show that they add nothing."
)
METHODS = (
    "Out of fold, all parts are fitted on other folds: medians of missing values, categories, penalties, and the weight"
    " of the image model, which is never below 0, because its parts were trained on the cases of the fold."
    " The covariates are read by a linear or logistic regression, with a"
    " curve for each number; what another form of model would find in them is not subtracted from the images. The model"
    " of both is not the reported model, since explanations are about images; `casewise predict` and `casewise serve`"
    " use it with `--learner {joined}`."
)
GAPS = (
    "{outcome} is predicted by whether a covariate is filled in: {columns}. The models of covariates can use these"
    " gaps, so that the figures below do not show what the images add to the values."
)
WITHOUT = (
    "{stage}, with the missing values of covariates drawn at random from other {noun}s, so that nothing shows which"
    " were missing. Where a figure is worse than above, gaps or chance made the other one better."
)
BENEFIT = (
    "Net benefit per {noun} of acting above each declared threshold; treating none has 0. Brackets: {confidence}"
    " intervals by resampling {unit}s, each threshold on its own."
)


def section(context: ReportContext) -> Section | None:
    """A table for each stage, the decision curves and the columns used; None without covariates."""
    entry = context.metrics.added_value
    if entry is None:
        return None
    tables = [table for stage in (*context.stages, "external") if (table := _comparison(context, entry, stage))]
    images = ("the mean of " if len(entry.images) > 1 else "") + ", ".join(map(learner_name, entry.images))
    facts = [*((plain(name), kind) for name, kind in entry.columns.items()), ("Image model", images)]
    gaps = label_gaps(context.audit, context.outcome, context.study.covariates)
    warning, methods = Text(_gaps_text(context, gaps) if gaps else ""), Text(METHODS.format(joined=JOINED), True)
    blocks = [warning, *tables, *_without_gaps(context, entry), *_curves(context, entry), Facts(facts), methods]
    return Section("covariates", "Do the images add to the covariates?", blocks)


def _gaps_text(context: ReportContext, gaps: Sequence[tuple[str, str, float]]) -> str:
    """A note where the models of covariates can read the outcome from missing values."""
    metrics = {"auroc": "AUROC {:.2f}", "r": "r = {:.2f}"}
    columns = listed([f"{plain(name)} ({metrics[metric].format(value)})" for name, metric, value in gaps])
    return GAPS.format(columns=columns, outcome=terms_of(context).heading)


def _comparison(context: ReportContext, entry: AddedValue, stage: str) -> Table | None:
    """The models of covariates, of images and of both, compared with the first; None where nothing was evaluated."""
    write, compared = context.write, kind_report(context.kind).compared
    metrics = context.columns("learners", stage)
    gaps, rows = comparison_of(context, stage), []
    for name in (COVARIATES, *(entry.images if len(entry.images) == 1 else ()), JOINED):
        figures = context.figures(stage, name)
        if figures:
            gap = gaps.gap(compared, name, COVARIATES)
            cell = Cell(MISSING) if name == COVARIATES else against(write, compared, gap)
            cells = [*(write.cell(metric, figures.get(metric)) for metric in metrics), cell]
            rows.append(Row(learner_name(name), cells, mark=name == JOINED))
    heads = ["Model", *map(write.heading, metrics), f"Against the covariates, by {write.phrase(compared)}"]
    caption = ANSWER.format(stage=capital(SIDES[stage]))
    return Table(heads, rows, caption, wide=True) if rows else None


def _without_gaps(context: ReportContext, entry: AddedValue) -> list[Block]:
    """Both models without the gaps of covariates; none where there are no gaps."""
    write, compared, without = context.write, kind_report(context.kind).compared, entry.without_gaps
    if without is None or compared not in without.difference:
        return []
    heads = ["Model, without gaps", write.heading(compared), "Against the covariates"]
    rows = [
        Row(learner_name(COVARIATES), [write.cell(compared, without.covariates[compared]), Cell(MISSING)]),
        Row(
            learner_name(JOINED),
            [write.cell(compared, without.joined[compared]), against(write, compared, without.difference[compared])],
        ),
    ]
    caption = WITHOUT.format(stage=capital(SIDES[context.stage]), noun=terms_of(context).noun)
    return [Table(heads, rows, caption)]


def _curves(context: ReportContext, entry: AddedValue) -> list[Block]:
    """The decision curves of both models with covariates, and their difference at the declared thresholds."""
    if not entry.decision_curves:
        return []
    covariates, joined = entry.decision_curves[COVARIATES], entry.decision_curves[JOINED]
    title = plain(context.study.positive_of(context.outcome) or "")
    alt = "Net benefit by threshold of both models and of treating all; the values are in the table."
    plot = Plot(draw.decisions(joined, title=title, name="decision-covariates", other=("covariates", covariates)), alt)
    rows = []
    for first, both in zip(covariates, joined, strict=True):
        if both.declared:
            figures = (first.model, both.model, both.over_other)
            cells = [figure_cell(figure, BENEFIT_DIGITS) for figure in figures]
            rows.append(Row(f"{100 * both.threshold:.3g} %", cells))
    terms = terms_of(context)
    caption = BENEFIT.format(noun=terms.noun, confidence=terms.confidence, unit=context.study.unit)
    return [Plots([plot]), Table(["Threshold", "Covariates", "Both", "Both − covariates"], rows, caption)]
