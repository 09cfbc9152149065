"""The first screen: five questions about the reported model, always in the same order.

How far off is it, where does it fail, does something simpler do as well, can it be trusted, what is it and how is it
used. Cells are numbers; headings and captions are fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from casewise.cohort.targets import target_columns
from casewise.evaluation.figures import KNOWN, Estimate
from casewise.evaluation.results import StageCoverage, TargetCoverage
from casewise.metrics.classes import category_agreement
from casewise.metrics.registry import metric_of
from casewise.modalities.registry import modality_of
from casewise.report.beside_column import beside_column
from casewise.report.blocks import Cell, Row, Table
from casewise.report.context import (
    EXTERNAL,
    SIDES,
    ReportContext,
    counted_cases,
    defined,
    evaluated_on,
    terms_of,
    visit_noun,
)
from casewise.report.formatting import (
    MISSING,
    capital,
    class_name,
    counted,
    is_number,
    listed,
    number,
    percent,
    plain,
    signed,
)
from casewise.report.guess import beside_guess, commonest, guessed_median
from casewise.report.sections import calibration
from casewise.report.sections.agreement import between_columns, responders_found, right_in_band, score_ranges
from casewise.report.sections.calibration import coverage_by_group, exceeded, missed
from casewise.report.sections.classes import DECISIONS
from casewise.report.sections.learners import (
    EXCEPT_ADDED,
    RULES,
    comparison_of,
    covariates_compared,
    is_gated,
    margin_of,
)
from casewise.report.statements import Statement, statements, weights_differ, weights_fitted, weights_of
from casewise.report.tables import VERDICTS, MetricFormat, figure_cell, gap_verdict, kind_report
from casewise.report.visit_alone import visit_alone
from casewise.study.learners import KERNEL, is_baseline, learner_name, the_learner
from casewise.study.weight_origins import unknown_origin

MOST_CLASSES, MOST_COLUMNS = 8, 3
# What the counts of a class are shares of: its cases, and those predicted as it.
SHARES = ("recall", "precision")
# The words of a plan whose epochs the budget limits (`casewise.pipeline.recipe_plan.REASONS`).
CUT = "as many as fit into the budget"
# Sets with more than this share of the classes, on average, exclude little.
EXCLUDE_LITTLE = 0.75
_CONDITIONAL = " Intervals are for these trained models."
ROUGH = (" Rough: few {unit}s.", " Rough: few {unit}s, or few of a class.")


@dataclass(frozen=True)
class _Size:
    """A large figure of the first card: where it was measured, its text, unit and interval, and a further line."""

    cohort: str
    text: str
    unit: str
    interval: str
    note: str = ""


@dataclass(frozen=True)
class Rival:
    """A row of the third card: a learner, a guess or a column, its figure, and the verdict on the reported model."""

    name: str
    text: str
    interval: str
    verdict: str = ""
    reported: bool = False
    note: str = ""
    by: str = ""
    margin: str = ""

    @property
    def verdict_text(self) -> str:
        """The verdict in words, with the difference where figures that are written alike differ."""
        by = f" by {self.by}" if self.by and self.verdict in ("better", "worse") else ""
        return VERDICTS[self.verdict].format(margin=self.margin) + by if self.verdict else ""


@dataclass(frozen=True)
class Screen:
    """The values of the first screen."""

    lead: str
    external: Statement | None
    question: str
    evaluated: str
    sizes: list[_Size]
    guess: str
    spread: str
    calibration: str
    failures: Table | None
    more_failures: str
    rival_heads: list[str]
    rivals: list[Rival]
    rivals_note: str
    flags: list[Statement]
    trust: list[Statement]
    model: str


def screen(context: ReportContext) -> Screen:
    """The values of the first screen."""
    holding = statements(context)
    external = next((statement for statement in holding if statement.id == "external_cohort" and statement.link), None)
    failing = _failing_classes(context) if context.classes else _failing_ranges(context)
    compared = context.write.title(kind_report(context.kind).compared)
    interval = f"{terms_of(context).confidence} interval"
    combined = ", ".join(f"{name} {weight}" for name, weight in weights(context))
    differ = weights_differ(context)
    of_new = " for new cases" * (weights_fitted(context) or bool(differ)) + f" ({differ})" * bool(differ)
    of_new += ", from part to part of the score" if any(" to " in weight for _, weight in weights(context)) else ""
    measured, quantiles, compared_rows = sizes(context), spread(context), rivals(context)
    about = [model(context), combined and f"Weights{of_new}: {combined}.", _in_effect(context)]
    about += [_decided(context), coverage(context)]
    rough = ROUGH[bool(context.classes)].format(unit=context.study.unit)
    any_rough = "rough" in f"{measured} {quantiles} {failing} {compared_rows}"
    return Screen(
        lead=lead(context),
        external=external,
        question="How far off is it?" if not context.classes else "How often is it right?",
        evaluated=evaluated(context)
        + (_CONDITIONAL if any(size.interval for size in measured) else "")
        + rough * any_rough,
        sizes=measured,
        guess=guess(context),
        spread=quantiles,
        calibration=calibration.line(context),
        failures=failing,
        more_failures=_failures_note(context, failing) if failing else "",
        rival_heads=["Model", compared + _own_side(context), interval, "The reported model is"],
        rivals=compared_rows,
        rivals_note=_rivals_note(context, compared_rows),
        flags=[statement for statement in holding if statement.level == "flag" and statement is not external],
        trust=[statement for statement in holding if statement.level != "flag" and statement is not external],
        model=" ".join(filter(None, about)),
    )


def lead(context: ReportContext) -> str:
    """The predicted target and the images, below the title."""
    study, terms, names = context.study, terms_of(context), [plain(name) for name in context.classes]
    low, high = context.range_of(context.outcome)
    values = f" ({low:g} to {high:g} points)"
    if names:
        grades = f": {len(names)} grades from {names[0]} to {names[-1]}"
        values = grades if kind_report(context.kind).ordered else f": {listed(names, 'or')}"
    source = modality_of(study).described(study, context.cohort_images)
    source += f" of {counted(context.cases['subject'].nunique(), 'subject')}" if study.subjects_known else ""
    source += f" at {counted(len(context.cases), terms.case)}" if context.repeated else ""
    return f"{terms.heading}{values}, predicted from {source}.{_recorded(context)}"


def _recorded(context: ReportContext) -> str:
    """A note if the reference is a mean of several columns, such as of readers; otherwise empty."""
    study, outcome = context.study, context.outcome
    columns = [target_columns(name, study) for name in study.parts_of(outcome)]
    if not columns or min(map(len, columns)) < 2:
        return ""
    what = "It was" if outcome in study.targets else "Each part of it was"
    counts = {len(own) for own in columns}
    several = "two columns" if counts == {2} else "several columns"
    such = listed(columns[0]) if len(columns) == 1 else f"such as {listed(columns[0])}"
    apart = between_columns(context) if counts == {2} and not context.classes else None
    differ = ""
    if apart is not None:
        both, first, second = (number(difference, terms_of(context).digits) for difference in apart)
        differ = f"; the first and the second differ by {both} points of {plain(outcome)} on average"
        differ += f", the model from the first by {first} and from the second by {second}"
    return f" {what} recorded as the mean of {several}, {such}{differ}."


# ---------------------------------------------------------------------------------------------------- how far off is it


def evaluated(context: ReportContext) -> str:
    """The cases that the figures are from, and that the networks had not seen them, as far as that is known."""
    rows, held_out = context.headline_rows, context.stage in ("test", "validation")
    if rows.empty:
        return "No case has a reference value: nothing can be evaluated."
    count = "Internal: " * bool(_own_side(context)) + counted_cases(context, rows)
    # what first weights were trained on before the study
    doubtful = unknown_origin(context.origins)
    if held_out and context.study.subjects_known:
        if context.stopped_on_validation:
            return f"{count} in a validation set, whose loss stopped the training."
        of_study = f"{context.stage} set that this study held out"
        return f"{count} in a {of_study if doubtful else f'held-out {context.stage} set'}."
    count += f" in a {context.stage} set" if held_out else ""
    countable = terms_of(context).noun == terms_of(context).case and context.stage == "oof" and not context.by_site
    if countable and (lacking := len(context.cases) - len(rows)) > 0:
        count += f", and {lacking:,} without a reference value"
    whose, what = f" {context.site}" * context.by_site, "it" if context.by_site else f"the {context.study.unit}"
    trained = "that this study did not train" if doubtful else "not trained"
    weights_too = "; the weights that combine them rest on models that were" * weights_fitted(context)
    predicted = f"Each{whose} was predicted" if whose else "Predicted"
    return f"{count}. {predicted} by models {trained} on {what}{weights_too}."


def _own_side(context: ReportContext) -> str:
    """Label for figures of the study's own cases if there are also external figures, otherwise empty."""
    return ", internal" if context.figures(EXTERNAL, context.learner) else ""


def sizes(context: ReportContext) -> list[_Size]:
    """The headline figure of the external cohort, if there is one, with its recalls, of the study, of known sources."""
    metric = kind_report(context.kind).headline
    here, shown = defined(context.quoted.get(metric)), []
    outside = context.metric(EXTERNAL, context.learner, metric)
    figures = context.metrics.over_sources(context.learner, KNOWN) if context.by_site else {}
    of_known = defined(figures.get(metric))
    if outside:
        shown.append(_size(context, metric, outside, context.study.external_name, _external_recalls(context)))
    if here:
        within = [
            context.metrics.within_source(context.learner, source).get(metric) for source in context.metrics.sources
        ]
        over = counted(sum(map(bool, map(defined, within))), context.site) if context.by_site else ""
        inside = context.metric("oof", context.learner, metric) if context.stage == "test" and not outside else None
        out_of_fold = f"out of fold {context.write.text(metric, inside.value, short=True)}" if inside else ""
        cohort = f"{context.site}s left out" if of_known else _own_side(context)[2:]
        shown.append(_size(context, metric, here, cohort, f"mean over {over}" if over else out_of_fold))
    if of_known:
        names = f"known {context.site}s", f"in folds of {context.study.unit}s"
        shown.append(_size(context, metric, of_known, *names))
    return shown


def _external_recalls(context: ReportContext) -> str:
    """Sensitivity and specificity in the external cohort, or the mean recall; if a class has no case, other recalls."""
    names = {"recall": "mean recall"}
    if context.study.positive_of(context.outcome) is not None:
        names = {name: name for name in ("sensitivity", "specificity")}
    elif not context.metric(EXTERNAL, context.learner, "recall"):
        of_class = {name: class_name(context.study, context.outcome, name) for name in context.classes}
        names = {f"recall[{name}]": f"recall of {text}" for name, text in of_class.items()}
    write, figures = context.write, context.figures(EXTERNAL, context.learner)
    recalls = {text: figure for name, text in names.items() if (figure := defined(figures.get(name)))}
    return ", ".join(
        f"{text} {write.text('recall', figure.value, short=True)}{' (rough)' * bool(figure.rough)}"
        for text, figure in recalls.items()
    )


def _size(context: ReportContext, metric: str, figure: Estimate, cohort: str, note: str = "") -> _Size:
    text = context.write.text(metric, figure.value, short=True, unit=False)
    units = {"mae": "points on average", "accuracy": "% right"}
    interval = figure.reason or ""
    if bounds := context.write.bounds(metric, figure, words=True, short=True):
        rough = ", rough: few subjects" if figure.rough else ""
        interval = f"{terms_of(context).confidence} interval {bounds}{rough}"
    return _Size(cohort, text, units.get(metric, context.write.phrase(metric)), interval, note)


def guess(context: ReportContext) -> str:
    """The figure of a guess without images, as text; empty if the run has no record of it."""
    terms, write = terms_of(context), context.write
    if context.by_site:
        return ""
    if not context.classes:
        guessed = guessed_median(context)
        error = write.text("mae", guessed["error"]) if guessed else ""
        return f"Guessing the median: {error} points{_own_side(context)}" if guessed else ""
    named = commonest(context)
    if not named.classes:
        return ""
    names = listed([class_name(context.study, context.outcome, name) for name in named.classes], "or")
    text = f"Always naming {names}: {percent(named.share)} of {terms.noun}s{_own_side(context)}"
    outside = context.rows(EXTERNAL, context.learner)["y_true"]
    if len(outside) and len(named.classes) == 1:
        share = (outside == context.classes.index(named.classes[0])).mean()
        text += f"; {percent(share)} of {context.study.external_name}"
    return text


def spread(context: ReportContext) -> str:
    """Of numbers how far off half and nine in ten predictions are; of classes the AUROC or the weighted kappa."""
    terms, rows, write = terms_of(context), context.headline_rows, context.write
    if rows.empty:
        return ""
    if not context.classes:
        ends = (rows["y_pred"] - rows["y_true"]).abs().quantile([0.5, 0.9])
        half, most = (number(value, terms.digits) for value in ends)
        text = f"Half of the {terms.noun}s within {half}, nine in ten within {most}{_own_side(context)}"
        return ". ".join(filter(None, [text, responders_found(context)]))
    metric = kind_report(context.kind).compared
    figure, chance = defined(context.quoted.get(metric)), metric_of(metric).chance
    if figure is None or _own_side(context):
        return ""  # with an external figure, the first sentence and the third card have it
    bounds = _bounds(write, metric, figure)
    inside = context.metric("oof", context.learner, metric) if context.stage == "test" else None
    out_of_fold = [f"out of fold {write.text(metric, inside.value, short=True)}"] if inside else []
    by_chance = [] if chance is None else [f"{number(chance, 1)} by chance"]
    details = "; ".join([*filter(None, [bounds]), *out_of_fold, *by_chance])
    text = f"{write.title(metric)} {write.text(metric, figure.value, short=True)}"
    if context.by_site and context.metrics.over_sources(context.learner, KNOWN):
        text += f", {context.site}s left out"
    return f"{text} ({details})" if bounds or out_of_fold else text


def _bounds(write: MetricFormat, metric: str, figure: Estimate, *, short: bool = True) -> str:
    """The interval of a figure, and whether it rests on too few subjects."""
    bounds = write.bounds(metric, figure, words=True, short=short)
    return f"{bounds}, rough" if bounds and figure.rough else bounds


# -------------------------------------------------------------------------------------------------- where does it fail


def _failures_note(context: ReportContext, table: Table) -> str:
    """Note below the table of failures: the bold row, and how many classes or what the table leaves out."""
    bold, more = any(row.mark for row in table.rows), len(context.classes) - MOST_CLASSES
    if not context.classes:
        lacked = "Rows are by the reference, which a new case lacks: do not correct a prediction by the difference."
        return "Bold: clearly the largest average error. " * bold + lacked
    further = f"{counted(more, 'more class', 'more classes')} in the table of classes." if more > 0 else ""
    return " ".join(filter(None, ["Bold: clearly found least often." * bold, further]))


def _failing_ranges(context: ReportContext) -> Table | None:
    """The cases, the average error and the bias of each range; the value of an error is the width of its bar."""
    write, ranges = context.write, score_ranges(context)
    if len(ranges) < 2:
        return None
    worst, rows = max(band.error for band in ranges), []
    placed = right_in_band(context)
    for band in ranges:
        bias = band.figures["bias"]
        leaning = signed(bias.value, write.digits("bias")) if is_number(bias.value) else ""
        bounds = _bounds(write, "bias", bias, short=False)
        right = placed.get(band.name, "")
        error = Cell(write.text("mae", band.error), value=round(40 * band.error / worst) if worst else 0)
        cells: list[Cell | str] = [f"{band.count:,}", error, f"{leaning} ({bounds})" if bounds else leaning]
        cells += [right] if placed else []
        others = [other.figures["mae"] for other in ranges if other is not band]
        clearly = _clearly_above(band.figures["mae"], others)
        rows.append(Row(band.name, cells, mark=clearly))
    heads = ["Reference", f"{terms_of(context).noun}s".capitalize(), "Average error", "Model − reference"]
    heads += ["Right band"] if placed else []
    return Table(heads, rows, "Where does it fail?")


def _failing_classes(context: ReportContext) -> Table | None:
    here = context.class_figures(context.stage, context.learner)
    outside = context.class_figures(EXTERNAL, context.learner)
    if here is None or context.headline_rows.empty:
        return None
    names = [class_name(context.study, context.outcome, name) for name in here.names]
    counts, heads = np.asarray(here.confusion), ["Found"]
    if outside:
        heads = [f"Found{_own_side(context)}", f"Found, {context.study.external_name}"]
    heads.append("Correct when predicted" + _own_side(context))
    wrong, totals = counts * (1 - np.eye(len(names), dtype=int)), counts.sum(axis=1)
    recall = np.divide(np.diag(counts), totals, out=np.ones(len(names)), where=totals > 0)
    rows, positive = [], context.study.positive_of(context.outcome)
    for i in sorted(np.argsort(recall, kind="stable")[:MOST_CLASSES]):  # of many classes the worst
        rates: tuple[str | None, str | None] = (None, None) if outside else ("", "")
        if positive is not None:
            rates = ("sensitivity", "PPV") if here.names[i] == positive else ("specificity", "NPV")
        measured = [(context.stage, key) for key in SHARES] + [(EXTERNAL, "recall")]
        own = [context.metric(stage, context.learner, f"{key}[{here.names[i]}]") for stage, key in measured]
        rough = [figure is not None and bool(figure.rough) for figure in own]
        outer = [_share(np.asarray(outside.confusion[i]), i, rates[0], rough[2])] if outside else []
        cells = [_share(counts[i], i, rates[0], rough[0]), *outer, _share(counts[:, i], i, rates[1], rough[1])]
        if len(names) > 2:
            most = [name for name, count in zip(names, wrong[i], strict=True) if count == wrong[i].max() > 0]
            single = f"{', '.join(most)} (1)" if wrong[i].max() == 1 else ""
            cells.append(single or listed(most, "or") or MISSING)
        recalls = [context.metric(context.stage, context.learner, f"recall[{name}]") for name in here.names]
        others = [figure for j, figure in enumerate(recalls) if j != i and totals[j]]
        clearly = bool(others) and all(_clearly_above(other, [recalls[i]]) for other in others)
        rows.append(Row(names[i], cells, mark=clearly))
    taken = [f"Mostly taken for{_own_side(context)}"] if len(names) > 2 else []
    return Table(["Reference", *heads, *taken], rows, "Where does it fail?")


def _clearly_above(figure: Estimate | None, others: Sequence[Estimate | None]) -> bool:
    """Whether the interval of a figure lies above all other intervals; False without others."""
    low, highs = figure.low if figure else None, [other.high if other else None for other in others]
    return low is not None and bool(highs) and all(high is not None and low > high for high in highs)


def _share(counts: np.ndarray, i: int, rate: str | None, rough: bool = False) -> str:
    """Count `i` of all, such as the correct predictions of a class; also as a percentage if it has a `rate`."""
    share = f"{rate} {percent(counts[i] / max(counts.sum(), 1))}{', rough' * rough}".strip() if rate is not None else ""
    share = f" ({share})" if share else ""
    return f"{counts[i]:,} of {counts.sum():,}{share}" if counts.any() else "no case"


# ------------------------------------------------------------------------------------ does something simpler do as well


def rivals(context: ReportContext) -> list[Rival]:
    """The reported model, its parts and simple models, a guess, a column that predicts."""
    write, metric = context.write, kind_report(context.kind).compared
    figure = defined(context.quoted.get(metric))
    if figure is None:
        return []

    reported = write.text(metric, figure.value, short=True), _bounds(write, metric, figure)

    def rival(name: str, own: Estimate, gap: Estimate | None, note: str = "", margin: float | None = None) -> Rival:
        text = write.text(metric, own.value, short=True)
        by = number(abs(gap.value or 0), 3) if gap and text == reported[0] and abs(gap.value or 0) >= 0.0005 else ""
        code, limit = gap_verdict(gap, metric, margin), write.text(metric, margin)
        return Rival(name, text, _bounds(write, metric, own), code, note=note, by=by, margin=limit)

    rows = [Rival(f"reported: {learner_name(context.learner)}", *reported, reported=True)]
    shares = _weight_ranges(context)
    for learner, note in _other_models(context, metric, figure):
        note = ", ".join(filter(None, [note, f"weight {shares[learner]}" if learner in shares else ""]))
        if of_other := context.metric(context.stage, learner, metric):
            gap = comparison_of(context, context.stage).gap(metric, context.learner, learner)
            margin = margin_of(context, context.stage, context.learner, learner)
            rows.append(rival(learner_name(learner), of_other, gap, note, margin))
    if beside := beside_guess(context):
        rows.append(_guess_row(write.text(metric, beside.figure, short=True), beside.verdict, metric))
    if beside and (alone := visit_alone(context, beside.figure)):
        rows.append(rival(f"the {visit_noun(context)} alone, no image", *alone))
    if metric == "auroc" and (column := beside_column(context)):
        several = context.study.positive_of(context.outcome) is None
        for row in [row for row in column.rows if row.alone is not None][:MOST_COLUMNS]:
            own = f" ({row.name}; model {write.text(metric, row.figure.value, short=True)})"
            name = f"column “{column.name}” alone{own if several else ', no image'}"
            rows.append(Rival(name, number(row.alone, 2), "", row.verdict, note=column.note))
    return rows


def _guess_row(text: str, code: str, metric: str) -> Rival:
    """The row of a guess; an AUROC compares ranks, and not how often a guess is right."""
    return Rival("a random order" if metric == "auroc" else "a guess without images", text, "", code)


def _other_models(context: ReportContext, metric: str, figure: Estimate) -> list[tuple[str, str]]:
    """The models to compare with, each with a note; none where folds are sources.

    They are the simple model of the primary comparison and, if they are better on these cases, the best other simple
    model, and the best part of a combined model; then a part of each other kind, with the epochs that the budget left.
    Beside a simple model that is reported itself, it is the best other one.
    """
    primary = context.metrics.primary
    if context.by_site:
        return []
    models: dict[str, str] = {}
    if primary:
        simple = [name for name in context.learners if is_baseline(name)]
        note = f"the best of {primary.chosen} on these cases" if primary.chosen > 1 else ""
        if primary.chosen_on in RULES:
            note = "primary comparison" + (f", {RULES[primary.chosen_on]}" if len(simple) > 1 else "")
        models[primary.baseline] = note
        first = context.metric(context.stage, primary.baseline, metric)
        if other := _best_above(context, metric, first, simple):
            models.setdefault(other, "the best simple model on these cases")
    elif is_baseline(context.learner):
        others = [name for name in context.learners if is_baseline(name) and name != context.learner]
        models |= dict.fromkeys(_best(context, metric, others)[:1], "the best other simple model on these cases")
    parts = dict.fromkeys(name for output in weights_of(context) for name in output)
    if part := _best_above(context, metric, figure, parts):
        models.setdefault(part, "its best learner on these cases")
    kinds = {_kind_of(context, name) for name in models}
    for name in sorted(parts, key=lambda name: -sum(output.get(name, 0.0) for output in weights_of(context))):
        if (kind := _kind_of(context, name)) not in kinds:
            epochs = max((int(job.get("epochs") or 0) for job in context.jobs if job["model"] == name), default=0)
            cut = kind == "network" and CUT in context.plan
            models[name] = f"{counted(epochs, 'epoch')}, {CUT}" if cut else ""
            kinds.add(kind)
    return list(models.items())


def _kind_of(context: ReportContext, learner: str) -> str:
    """`network`, or the kind of a simple model."""
    return "network" if learner in context.study.networks else "kernel" if learner == KERNEL else "linear"


def _best_above(context: ReportContext, metric: str, figure: Estimate | None, names: Iterable[str]) -> str:
    """The learner with the best figure among those that are better than a figure; empty without one."""
    best = next(iter(_best(context, metric, names)), "")
    own = context.metric(context.stage, best, metric) if best else None
    if not (own and figure and own.value is not None and figure.value is not None):
        return ""
    above = own.value > figure.value if metric_of(metric).larger_is_better else own.value < figure.value
    return best * above


def _best(context: ReportContext, metric: str, names: Iterable[str]) -> list[str]:
    """The learners with a figure, the best first."""
    own = {name: context.metric(context.stage, name, metric) for name in names}
    values = {name: each.value for name, each in own.items() if each and each.value is not None}
    return sorted(values, key=lambda name: values[name], reverse=bool(metric_of(metric).larger_is_better))


def _rivals_note(context: ReportContext, rows: Sequence[Rival]) -> str:
    """Which verdicts between models allow for others; empty where only one model has an interval."""
    if sum(bool(row.interval) for row in rows) < 2:
        return ""
    if not is_gated(context, context.stage):
        return "Between models, verdicts allow for all pairs."
    added = EXCEPT_ADDED * covariates_compared(context)
    return (
        f"{capital(SIDES[context.stage])}, other pairs{added} are judged only if the primary comparison"
        " shows a difference, and allow for all."
    )


def rivals_line(context: ReportContext) -> str:
    """The verdicts of the third card in one line, for the terminal; empty where there is nothing to compare with."""
    others = [f"{rival.name} ({rival.text}): {rival.verdict_text}" for rival in rivals(context) if not rival.reported]
    metric = context.write.title(kind_report(context.kind).compared)
    return f"by {metric}, against {'; against '.join(others)}" if others else ""


# ---------------------------------------------------------------------------------- what the model is, how it is used


def model(context: ReportContext) -> str:
    """The composition of the reported model, in sentences."""
    learner, name = context.learner, learner_name(context.learner)
    folds = sum(job["model"] == learner for job in context.jobs)
    if is_baseline(learner):
        return f"The {name}, a model without a trained network."
    if learner in context.study.trained:
        return f"Network {name}, one for each of {folds} folds." if folds > 1 else f"One network, {name}."
    if learner in context.stackers:
        of = f"The {name.removesuffix(' of the learners')} of {counted(len(weights(context)), 'learner')}"
        return f"{of}, each with one network." if context.holdout else f"{of}, each trained once a fold."
    return f"The {name}."


def _decided(context: ReportContext) -> str:
    """How a grade is decided; empty for other targets."""
    rule = DECISIONS.get(str(context.study.decisions.get(context.outcome)))
    if not (rule and context.classes):
        return ""
    if context.headline_rows.empty:
        return f"Predicted grade: {rule}."
    texts = [_likeliest(context, context.headline_rows)]
    inside = context.rows("oof", context.learner).dropna(subset=["y_true"])
    if context.stage == "test" and len(inside):
        own = [context.metric("oof", context.learner, name) for name in ("accuracy", "kappa_quadratic")]
        right, kappa = (figure.value if figure else None for figure in own)
        stead = "" if right is None else f" instead of {percent(right)} and {number(kappa, 2)}"
        texts.append(f"out of fold {_likeliest(context, inside)}{stead}")
    return f"Predicted grade: {rule} (likeliest: {'; '.join(texts)})."


def _likeliest(context: ReportContext, rows: pd.DataFrame) -> str:
    """How often the likeliest grade is right, and its weighted kappa."""
    count, columns = len(context.classes), [f"p{number}" for number in range(len(context.classes))]
    cells = rows["y_true"].to_numpy(int) * count + rows[columns].to_numpy(float).argmax(axis=1)
    figures = category_agreement(np.bincount(cells, minlength=count**2))
    kappa = number(float(figures["kappa_quadratic"]), 2)
    return f"{percent(float(figures['agreement']))} right, weighted kappa {kappa}"


def _in_effect(context: ReportContext) -> str:
    """A note if a combined model is a single learner; only for new cases if its evaluation has other weights."""
    shown, parts = dict(weights(context)), weights_of(context)
    whole = next((name for name in (parts[0] if parts else ()) if shown[learner_name(name)] == number(1.0, 2)), "")
    whose = "For new cases it" if weights_fitted(context) else "It"
    return f"{whose} is in effect {the_learner(whole)} alone." if whole and len(shown) > 1 else ""


def weights(context: ReportContext) -> list[tuple[str, str]]:
    """The weight of each part of a combined model, its range over the outputs; empty for other models."""
    return [(learner_name(name), weight) for name, weight in _weight_ranges(context).items()]


def _weight_ranges(context: ReportContext) -> dict[str, str]:
    """As `weights`, by the names of the learners."""
    by_learner: dict[str, list[float]] = {}
    for output in weights_of(context):
        for name, weight in output.items():
            by_learner.setdefault(name, []).append(weight)
    ends = {name: dict.fromkeys(number(end, 2) for end in (min(own), max(own))) for name, own in by_learner.items()}
    return {name: " to ".join(of) for name, of in ends.items()}


def coverage(context: ReportContext) -> str:
    """The interval or set that a prediction comes with, and its observed share if that is lower; empty without one."""
    record = context.metrics.prediction_sets
    entry = record.targets.get(context.outcome) if record else None
    if record is None or entry is None:
        return ""
    level, figures = f"{100 * record.level:g} %", entry.stages.get(context.stage)
    observed = figures.coverage if figures else None
    value = observed.value if observed else None
    below = value is not None and value < record.level and percent(value) != level
    here = ""
    if observed and below and not missed(observed, record.level):  # a missed aim is named with the groups
        here = f"{evaluated_on(context, context.stage)} in {percent(observed.value)}"
    above = percent(observed.value) if observed and exceeded(observed, record.level) else ""
    if context.classes:
        by_class = zip(context.classes, entry.calibration["classes"], strict=True)
        few = [class_name(context.study, context.outcome, name) for name, q in by_class if q["quantile"] is None]
        unit = f"{context.study.unit}s"
        if len(few) == len(context.classes):
            return f"Too few {unit} to calibrate sets of classes: the set of a prediction names every class."
        text = f"Prediction sets should hold the true class in {level} of cases"
        text += f" ({here})" if here else ""
        text = f"Prediction sets are too wide (right in {above} instead of {level})" if above else text
        outside = _missed_outside(context, entry, record.level)
        if outside:
            text += f"; {outside}"
        elif figures and figures.size and figures.size.value is not None:
            text += f"; mean size {number(figures.size.value, 1)} of {len(context.classes)}"
            text += ", so that they exclude little" * (figures.size.value > EXCLUDE_LITTLE * len(context.classes))
        text += _missed_groups(context, figures, record.level)
        return text + (f"; every set holds {listed(few)}, for lack of {unit}." if few else ".")
    half = entry.calibration.get("quantile")
    if half is None:
        return ""
    width = f"± {number(half, terms_of(context).digits)} points"
    if entry.calibration.get("bands"):
        mean = figures.width.value if figures and figures.width else None
        low, high = context.range_of(context.outcome)
        little = mean is not None and mean > EXCLUDE_LITTLE * (high - low)
        size = "" if mean is None else number(mean, terms_of(context).digits)
        wide = f", on average {size} of {high - low:g} points wide" if size else ""
        wide += ", so that they exclude little" * little
        width = f"by case{wide}"
    here = f"{evaluated_on(context, context.stage)} in {above}, so too wide" if above else here
    groups = _missed_groups(context, figures, record.level)
    outside = _missed_outside(context, entry, record.level)
    groups += f"; {outside}" if outside else ""
    return f"A prediction comes with a {level} interval ({width}{f'; right {here}' if here else ''}{groups})."


def _missed_outside(context: ReportContext, entry: TargetCoverage, level: float) -> str:
    """The share of the external cohort, if fewer are right there than the level, beyond its interval."""
    figures = entry.stages.get(EXTERNAL)
    if not figures or not figures.coverage or not missed(figures.coverage, level):
        return ""
    return f"{percent(figures.coverage.value)} on {context.study.external_name}"


def _missed_groups(context: ReportContext, figures: StageCoverage | None, level: float) -> str:
    """The whole, classes or bands of the reference where fewer are right than the level, beyond their interval."""
    groups = coverage_by_group(context.study, context.outcome, figures) if figures else []
    overall = [("all together", figures.coverage, None)] if figures else []
    texts = []
    for name, figure, _ in [*overall, *groups]:
        if figure and missed(figure, level):
            cell = figure_cell(figure, 0, percent=True, words=True)
            texts.append(f"{name} {cell.text} ({cell.small})")
    return f"; aim missed: {listed(texts)}" if texts else ""
