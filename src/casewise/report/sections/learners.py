"""All learners side by side: tables with intervals and verdicts, forest plots, weights, single classes."""

from __future__ import annotations

import numpy as np

from casewise.evaluation.figures import FOLD, Estimate, Figures
from casewise.evaluation.headline import FITTED
from casewise.evaluation.intervals import largest_difference
from casewise.metrics.registry import metric_of
from casewise.predictions.nested_cv import NESTED
from casewise.predictions.table import INTERNAL
from casewise.report import formatting as fmt
from casewise.report.blocks import Block, Cell, Facts, Fold, Heading, Matrix, Plot, Plots, Row, Section, Table, Text
from casewise.report.context import EXTERNAL, SIDES, ReportContext, defined, evaluated_on, quoted_figures, terms_of
from casewise.report.figures import learners as draw
from casewise.report.figures.drawing import MODEL, SOFT
from casewise.report.sections.classes import class_table
from casewise.report.tables import VERDICTS, MetricFormat, confusion, gap_verdict, kind_report
from casewise.study.learners import (
    COVARIATES,
    JOINED,
    is_baseline,
    is_registered,
    learner_name,
    learner_named,
    the_learner,
)
from casewise.study.presets.published import published_lines

MOST_REPORTS = 16

ORDER = "{stage}, the best {order} first; marked: the reported learner."
UNORDERED = "{stage}, by name, because no {order} is defined; marked: the reported learner."
AGAINST = (
    "Against: whether the learner of the row is better or worse by {metric}, and the difference, with an interval that"
    " holds for all {other}pairs of learners at once. Tested are pairs with the best learner{baselines}."
)
PRIMARY = (
    " {stage}, the primary comparison, {learner} with {baseline}{rule}, has an interval of its own, and the other"
    " pairs{except_added} are descriptive unless it shows a difference{margin}."
)
# The pair that is tested in any case, where covariates are compared.
# A difference whose interval holds this share of all possible ones or more has no verdict.
NEARLY_ALL = 0.9
EXCEPT_ADDED = ", except what images add to the covariates,"
# How the simple model of the primary comparison was chosen, if there are several.
RULES = {
    "order": "by a fixed order of simple models",
    "oof": "the best simple model out of fold",
    "validation": "the best simple model on the validation set",
}
POOLED = (
    "Figures pooled over each {site} mix different networks and sources, and do not estimate the performance in a new"
    " {site}: learners are not compared on them. The table of each {site} does."
)
FITTED_WEIGHTS = (
    "Out of fold, combined learners with fitted weights may be optimistic: the models behind the weights for a fold"
    " were trained on its cases."
)
FOREST = "{stages}: points with {confidence} intervals, ordered by the {merit} {order}. Shaded: the reported learner."
OVER_FOLDS = "Out of fold: mean ± standard deviation over {folds} folds."
EQUAL = "The same predictions for all cases, so that these are one model here: {pairs}."
SPREAD = (
    "The standard deviation is not an interval of the mean: the cases of one fold are training cases of the others."
)
LACKING = " A mean over the classes is undefined in a fold that lacks a class."


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
        merit = context.write.phrase(context.merit)
        stages = fmt.capital(fmt.listed([SIDES[stage] for stage in context.stages if stage in INTERNAL]))
        order = SIDES[context.choosing_stage]
        texts = {"stages": stages, "order": order, "confidence": terms.confidence}
        blocks.append(Plots(plots, FOREST.format(merit=merit, **texts)))
    whole: list[Block] = [tables[0][1]]
    if any(comparison_of(context, stage) for stage, _ in tables):
        baselines = " and with a baseline" if any(map(is_baseline, context.learners)) else ""
        metric, primary = kind_report(context.kind).compared, context.metrics.primary
        gated = [stage for stage, _ in tables if is_gated(context, stage)]
        other = "other " * (gated == [stage for stage, _ in tables if comparison_of(context, stage)])
        note = AGAINST.format(metric=context.write.phrase(metric), other=other, baselines=baselines)
        if primary and gated:
            within = f"; margin {context.write.text(metric, primary.margin)}" if primary.margin else ""
            several = sum(map(is_baseline, context.learners)) > 1
            rule = f" ({RULES[primary.chosen_on]})" if several else ""
            pair = {"learner": the_learner(primary.learner), "baseline": the_learner(primary.baseline)}
            stages = fmt.capital(fmt.listed([SIDES[stage] for stage in gated]))
            added = EXCEPT_ADDED * covariates_compared(context)
            note += PRIMARY.format(stage=stages, **pair, rule=rule, margin=within, except_added=added)
        whole.append(Text(note, note=True))
    if any(name.startswith(FITTED) for name in context.learners) and "oof" in context.stages:
        whole.append(Text(FITTED_WEIGHTS, note=True))
    if equal := _equal_learners(context):
        whole.append(Text(EQUAL.format(pairs="; ".join(equal)), note=True))
    blocks += [Fold("Metrics and differences of all learners", whole, needed=True)] if plots else whole
    off = context.study.baselines.off
    blocks.append(Facts([("No baseline was fitted", off)] if off else []))
    details: list[Block] = [table for _, table in tables[1:]]
    names = [(learner_name(name), f"`{name}`") for name in context.learners if learner_name(name) != name]
    if names:
        details += [Heading("Names of learners in files"), Facts(names)]
    if spread := over_folds(context):
        note = SPREAD + (LACKING if context.classes else "")
        details += [Heading("Mean over the folds"), spread, Text(note, note=True)]
    others = reports(context)
    folds = [
        (f"Other cases{'' if context.holdout else ', means over the folds'}, and names in files", details),
        ("Weights of combined learners", weights(context)),
        ("Class by class and confusion matrix of each other learner", others),
    ]
    blocks += [Fold(summary, inside) for summary, inside in folds]
    return Section("learners", "All learners", blocks)


def _equal_learners(context: ReportContext) -> list[str]:
    """Learners whose predictions of the primary outcome are equal for all cases, such as of the same model."""
    rows = context.predictions
    rows = rows[(rows["stage"] == context.stage) & (rows["target"] == context.outcome)]
    values = ["y_pred", *(f"p{n}" for n in range(len(context.classes or ())))]
    groups: dict[bytes, list[str]] = {}
    for name, own in rows.sort_values(["case", "image"]).groupby("model", sort=False):
        groups.setdefault(own[values].to_numpy(dtype=float).tobytes(), []).append(learner_name(str(name)))
    return [fmt.listed(names) for names in groups.values() if len(names) > 1]


# ------------------------------------------------------------------------------------------------------------ tables


def learner_table(context: ReportContext, stage: str) -> Table | None:
    """One line per learner, the best first, and one for each published result; None where nothing was evaluated."""
    study, write, kind = context.study, context.write, kind_report(context.kind)
    published = published_lines(study, context.outcome, context.learners) if stage == context.stage else {}
    stated = [metric for figures in published.values() for metric in figures]
    metrics = list(dict.fromkeys([*context.columns("learners", stage), *map(str, stated)]))
    entry = comparison_of(context, stage)
    primary = context.metrics.primary
    best = [context.learner, entry.best(kind.compared), primary.baseline if primary else ""] if entry else []
    others = [name for name in dict.fromkeys(best) if _is_tested(context, stage, entry, name)]
    rows: list[tuple[float, Row]] = []
    for learner in context.learners:
        figures = context.figures(stage, learner)
        if not figures:
            continue
        only = fmt.plain(context.constant_class(stage, learner))
        cells = [Cell(_noun(context, learner), f"predicts only {only}" if only else "")]
        cells += [write.cell(metric, figures.get(metric)) for metric in metrics]
        cells += [
            Cell(fmt.MISSING)
            if other == learner
            else Cell(VERDICTS["equal"])
            if figures == context.figures(stage, other)
            else against(
                write,
                kind.compared,
                entry.gap(kind.compared, learner, other),
                margin_of(context, stage, learner, other),
            )
            for other in others
        ]
        row = Row(learner_name(learner), cells, mark=learner == context.learner)
        rows.append((_rank(context, stage, learner, kind.compared), row))
    if not rows:
        return None
    lines = [row for _, row in sorted(rows, key=lambda pair: (pair[0], pair[1].name))]
    for name, values in published.items():
        cells = [Cell(write.published(metric, values.get(metric))) for metric in metrics]
        lines.append(Row(name, ["published", *cells, *[fmt.MISSING] * len(others)]))
    ranked = any(np.isfinite(rank) for rank, _ in rows)
    caption = (ORDER if ranked else UNORDERED).format(
        stage=fmt.capital(evaluated_on(context, stage)), order=write.phrase(kind.compared)
    )
    heads = ["Learner", "Kind", *map(write.heading, metrics), *(f"Against {learner_name(name)}" for name in others)]
    return Table(heads, lines, caption, wide=True, sortable=True)


def _rank(context: ReportContext, stage: str, learner: str, metric: str) -> float:
    """The metric so that smaller is better; where sources were left out, its mean within them."""
    figure = defined(quoted_figures(context.study, context.metrics, learner, stage).get(metric))
    if figure is None or figure.value is None:
        return float("inf")
    return -figure.value if metric_of(metric).larger_is_better else figure.value


def _noun(context: ReportContext, learner: str) -> str:
    """The kind of a learner, as text."""
    if is_registered(learner):
        return learner_named(learner).noun
    return "network" if learner in context.study.networks else "nested choice" if learner == NESTED else "combined"


def comparison_of(context: ReportContext, stage: str) -> Figures:
    """The differences of the learners at a stage; empty where sources were left out."""
    if stage == "oof" and context.metrics.sources:
        return Figures()
    return context.metrics.figures.contrasts(stage, context.outcome)


def _is_tested(context: ReportContext, stage: str, gaps: Figures, other: str) -> bool:
    """Whether this learner was evaluated at a stage, and there is any pair with it."""
    metric = kind_report(context.kind).compared
    pairs = (gaps.gap(metric, name, other) for name in context.learners if name != other)
    return bool(context.figures(stage, other)) and any(pair is not None for pair in pairs)


def against(write: MetricFormat, metric: str, gap: Estimate | None, margin: float | None = None) -> Cell:
    """The verdict on a learner by its difference from another one, with the difference below."""
    if gap is None or gap.low is None:
        return Cell(VERDICTS["untested"], "too few subjects" if gap is not None and gap.rough else "")
    difference = write.difference(metric, gap)
    if gap.high is not None and gap.high - gap.low >= NEARLY_ALL * 2 * largest_difference(metric):
        return Cell(VERDICTS["untested"], f"{difference.text}, nearly any difference is possible", gap.value or 0.0)
    small = f"{difference.text} {difference.small}"
    words = VERDICTS[gap_verdict(gap, metric, margin)].format(margin=write.text(metric, margin))
    return Cell(words, small, gap.value or 0.0)


def is_gated(context: ReportContext, stage: str) -> bool:
    """Whether the primary comparison comes first at a stage; at others the reported model may have been chosen."""
    primary = context.metrics.primary
    first = primary is not None and primary.chosen_on in RULES and stage in (primary.stage, EXTERNAL)
    return first and bool(comparison_of(context, stage))


def covariates_compared(context: ReportContext) -> bool:
    """Whether the model of images and covariates is compared with that of the covariates, which is never gated."""
    return {COVARIATES, JOINED} <= set(context.learners)


def margin_of(context: ReportContext, stage: str, learner: str, other: str) -> float | None:
    """The study's margin, if this is the primary comparison at a stage where it comes first."""
    primary = context.metrics.primary
    own = primary if primary and (primary.learner, primary.baseline) == (learner, other) else None
    return own.margin if own and is_gated(context, stage) else None


def reports(context: ReportContext) -> list[Block]:
    """The table of single classes and the confusion matrix of each learner but the reported one."""
    blocks: list[Block] = []
    for learner in [name for name in context.learners if name != context.learner][:MOST_REPORTS]:
        entry, table = context.class_figures(context.stage, learner), class_table(context, context.stage, learner)
        if entry and table:
            matrix = Matrix(confusion(entry.names, entry.confusion), "Confusion matrix.", "reference", tight=True)
            blocks += [Heading(learner_name(learner)), table, matrix]
    return blocks


def weights(context: ReportContext) -> list[Block]:
    """For each combined learner with unequal weights a line per network, by target; intercepts, if any, last."""
    tables: list[Block] = []
    for learner, by_target in context.stackers.items():
        fits = {name: fit for name, fit in by_target.items() if isinstance(fit, dict) and fit.get("weights")}
        networks = dict.fromkeys(network for fit in fits.values() for network in fit["weights"])
        if len({round(weight, 3) for fit in fits.values() for weight in fit["weights"].values()}) == 1:
            continue  # the plain mean
        lines = {learner_name(name): [fit["weights"].get(name) for fit in fits.values()] for name in networks}
        if any(intercepts := [fit.get("intercept", 0.0) for fit in fits.values()]):
            lines["intercept"] = intercepts
        rows = [Row(name, [fmt.signed(value, 3) for value in values]) for name, values in lines.items()]
        heads = ["Network", *(fmt.display_name(context.study, name) for name in fits)]
        tables.append(Table(heads, rows, f"{learner_name(learner)}: coefficients.", wide=True))
    return tables


def over_folds(context: ReportContext) -> Table | None:
    """Mean ± standard deviation over folds; None where folds are sources."""
    figures = context.metrics.figures.select(target=context.outcome, population=FOLD)
    if not figures or context.metrics.sources:
        return None
    write, metrics, rows, folds = context.write, context.columns("folds"), [], figures.names("group", population=FOLD)
    trained = figures.names("learner", population=FOLD)
    for learner in (name for name in context.learners if name in trained):
        cells = [_spread(write, name, figures.select(learner=learner)) for name in metrics]
        rows.append(Row(learner_name(learner), cells, mark=learner == context.learner))
    return Table(["Learner", *map(write.title, metrics)], rows, OVER_FOLDS.format(folds=len(folds)), wide=True)


def _spread(write: MetricFormat, metric: str, of_learner: Figures) -> Cell:
    """Mean ± standard deviation, and of how many folds where some have no figure."""
    values = {cell[-2:]: own[metric].value for cell, own in of_learner.cells.items() if metric in own}
    mean, sd = (values.pop(("", end), None) for end in ("mean", "sd"))
    if mean is None:
        return Cell(fmt.MISSING)
    count = sum(value is not None for value in values.values())
    small = "" if count == len(values) else f"{count} of {len(values)} folds"
    return Cell(f"{write.text(metric, mean, unit=False)} ± {write.text(metric, sd)}", small, mean)


# ------------------------------------------------------------------------------------------------------ forest plots


def _forest(context: ReportContext, metric: str) -> Plot | None:
    """One metric of all learners, ordered by the out-of-fold figure of merit; None where no learner has it."""
    order = sorted(context.learners, key=lambda name: -_merit(context, name))
    stages = [stage for stage in INTERNAL if stage in context.stages]
    ranked = [name for name in order if any(context.metric(stage, name, metric) for stage in stages)]
    if not ranked:
        return None
    looks = {"test": ("test set", MODEL, "o"), "oof": ("out of fold", SOFT, "D")}
    looks["validation"] = ("validation set", SOFT, "D")
    # the first series is drawn stronger
    strengths = [(1.7, 5.5, 0.16 if len(stages) > 1 else 0.0), (1.1, 3.8, -0.2)]
    series = []
    for stage, (line, size, shift) in zip(stages, strengths, strict=False):
        label, colour, marker = looks[stage]
        figures = {i: figure for i, name in enumerate(ranked) if (figure := context.metric(stage, name, metric))}
        series.append(draw.Series(label, figures, colour, marker, line=line, size=size, shift=shift))
    better = "larger" if metric_of(metric).larger_is_better else "smaller"
    label = f"{context.write.title(metric)}{', points' if metric == 'mae' else ''} ({better} is better)"
    shaded = ranked.index(context.learner) if context.learner in ranked else None
    rows = [(learner_name(name), name == context.learner) for name in ranked]
    percent = context.write.in_percent(metric)
    drawing = draw.forest(rows, series, shaded=shaded, label=label, name=metric, percent=percent)
    return Plot(drawing, f"{context.write.title(metric)} of each learner with intervals; the values are in the table.")


def _merit(context: ReportContext, learner: str) -> float:
    figures = [context.metric(stage, learner, context.merit) for stage in (context.choosing, context.stage)]
    return next((figure.value for figure in figures if figure and figure.value is not None), -np.inf)
