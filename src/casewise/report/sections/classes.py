"""Classes: confusion matrix, curves, single classes, operating points, probabilities, and further targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from casewise.evaluation.classification import temperatures_at_bound
from casewise.evaluation.thresholds import by_fold_text
from casewise.metrics.registry import metric_of
from casewise.report.blocks import (
    Block,
    Cell,
    Counts,
    Facts,
    Fold,
    Matrix,
    Plot,
    Plots,
    Row,
    Section,
    Table,
    Text,
    counts_line,
)
from casewise.report.figures import classes as draw
from casewise.report.formatting import MISSING, capital, display_name, number, percent, plain, plural
from casewise.report.tables import MetricFormat, split_key
from casewise.report.terms import brackets, evaluated, place, terms_of
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.evaluation.results import ClassFigures, Figures, OperatingPoint, ReliabilityBin
    from casewise.report.context import ReportContext

POINT_FIGURES = {"sensitivity": "sensitivity", "specificity": "specificity", "precision": "precision"}
# Further figures of an operating point, and the metric whose format each has.
FURTHER_FIGURES = {"npv": "npv", "lr_positive": "lr_positive", "lr_negative": "lr_negative"}
AT_PREVALENCE = {"ppv_at_prevalence": "precision", "npv_at_prevalence": "npv"}
PROBABILITY_SCORES = ("ece", "brier", "log_loss")
DECISIONS = {"median": "the median", "mean": "the rounded mean", "kappa": "by tuned thresholds"}
MOST_POINTS = 24
WRITE = MetricFormat()

MATRIX = "Outlined: both agree. Shade and percent: the share of the row."
POOLED = "Figures pooled over each {site} mix different networks and {sites}. They must not be read as {means}."
ROC = (
    "ROC curves: each class against the others. Out of fold a curve is the mean over the folds. Grey: chance. Dots:"
    " operating points, whose thresholds were chosen on other cases, so that they can lie off the curve. At most {most}"
    " classes are drawn."
)
RECALL = (
    "Precision and recall: each class against the others, all folds ranked together. Dotted: chance, the share of the"
    " class among these {noun}s."
)
RELIABILITY = (
    "Calibration: on the line, the probability of the predicted class equals the share that is correct; below it the"
    " model is overconfident. Larger marks: more {noun}s."
)
CLASSES = "{place}. Support: {noun}s with this reference class. {brackets}"
POINTS = (
    "{noun}s whose probability reaches the threshold are called positive, each class against the others. Thresholds"
    " were chosen {chosen} and evaluated {place}; where they differ by fold, their range is shown. {brackets}"
)
PREDICTIVE = "Precision (PPV) and NPV hold for the share of the class among these {noun}s; likelihood ratios do not."
AT_STATED = (
    "Figures at {prevalence} are computed from sensitivity and specificity for this prevalence, which the study states;"
    " its uncertainty is not in the intervals."
)
PROBABILITIES = (
    "{place}. Scores of 0 are perfect. A mean probability above the share that is correct is overconfidence, unless the"
    " difference is chance. {brackets}"
)


def section(context: ReportContext) -> Section | None:
    """The classes of the primary outcome; None if it has none or nothing was evaluated."""
    entry = class_figures(context, context.stage, context.learner, context.outcome)
    if entry is None or not context.classes:
        return None
    figures = context.metrics.figures(context.stage, context.learner, context.outcome)
    blocks: list[Block] = [
        Matrix(matrix(entry), f"{evaluated(context)} {MATRIX}", "reference", "predicted"),
        *pooled(context),
    ]
    if plots := _plots(context, entry, figures):
        blocks.append(Plots(plots))
    rows = class_rows(context, context.stage, context.learner, context.outcome)
    blocks.append(Fold("Class by class: precision, recall, F1 and areas", [class_table(context, rows)]))
    if entry.operating:
        blocks.append(Fold("Operating points", point_blocks(context, entry, context.stage)))
    if scores := probability_rows(entry, figures):
        caption = PROBABILITIES.format(place=capital(place(context, context.stage)), brackets=brackets(context))
        table = Table(["", "As predicted", "After temperature scaling"], scores, caption)
        facts = temperature(entry)
        if (decision := context.study.decisions.get(context.outcome)) in DECISIONS:
            facts.append(("Predicted grade", f"{DECISIONS[decision]}; the scores are of the likeliest grade"))
        blocks.append(Fold("Scores of the probabilities, and temperature scaling", [table, Facts(facts)]))
    if others := further_tables(context):
        blocks.append(Fold("Further targets with classes, and regions", others))
    return Section("classes", "Classes", blocks)


def class_figures(context: ReportContext, stage: str, learner: str, key: str) -> ClassFigures | None:
    """Confusion matrix, curves and operating points of one learner and target key."""
    return context.metrics.classes.get(stage, {}).get(learner, {}).get(key)


def pooled(context: ReportContext) -> list[Text]:
    """A note where each fold left out a source: pooled figures say nothing about one source."""
    if not context.by_site:
        return []
    means = kind_named(context.kind).means
    return [Text(POOLED.format(site=context.site, sites=plural(context.site), means=means), note=True)]


def matrix(entry: Mapping[str, Any]) -> Counts:
    """The confusion matrix of an entry with `names` and `confusion`: a line for each reference class.

    >>> matrix({"names": ["a", "no_b"], "confusion": [[3, 1], [0, 2]]}).rows
    [('a', 4, [(3, 0.75), (1, 0.25)]), ('no b', 2, [(0, 0.0), (2, 1.0)])]
    """
    names = [plain(name) for name in entry["names"]]
    return Counts(names, [counts_line(name, row) for name, row in zip(names, entry["confusion"], strict=True)])


def _plots(context: ReportContext, entry: ClassFigures, figures: Figures) -> list[Plot]:
    """The ROC and precision-recall curves and the reliability diagram, those that there are."""
    terms, plots = terms_of(context), []
    if curves := draw.curves_of(entry, figures):
        values = ", ".join(
            f"{curve.name} {WRITE.text('auroc', curve.auroc.value if curve.auroc else None)}" for curve in curves
        )
        alt = f"Sensitivity against the false positive rate, with the AUROC: {values}."
        plots.append(Plot(draw.roc(curves), alt, ROC.format(most=draw.MOST_CURVES)))
    if recalls := draw.recall_curves(context.headline_rows, context.classes, entry, figures):
        areas = [WRITE.text("auprc", curve.auprc.value if curve.auprc else None) for curve in recalls]
        values = ", ".join(f"{curve.name} {area}" for curve, area in zip(recalls, areas, strict=True))
        alt = f"Precision against recall, with the AUPRC: {values}."
        plots.append(Plot(draw.precision_recall(recalls), alt, RECALL.format(noun=terms.noun)))
    if any(each.n for each in entry.reliability):
        errors = [figures.get(name) for name in ("ece", "ece_calibrated")]
        drawing = draw.reliability(entry.reliability, entry.reliability_calibrated, ece=errors)
        alt = "Share of correct predictions against predicted probability; the scores are in the table."
        plots.append(Plot(drawing, alt, RELIABILITY.format(noun=terms.noun)))
    return plots


# ------------------------------------------------------------------------------------------------- single classes


def class_rows(context: ReportContext, stage: str, learner: str, target: str) -> list[Row]:
    """One line per class: support, precision, recall, F1, AUROC and AUPRC; the means over the classes last."""
    entry, figures = class_figures(context, stage, learner, target), context.metrics.figures(stage, learner, target)
    if entry is None:
        return []
    rows = []
    for name, support in zip(entry.names, entry.support, strict=True):
        cells = [WRITE.cell(metric, figures.get(f"{metric}[{name}]")) for metric in context.class_columns]
        rows.append(Row(plain(name), [Cell(f"{support:,}", value=float(support)), *cells]))
    total = sum(entry.support)
    cells = [WRITE.cell(metric, figures.get(metric)) for metric in context.class_columns]
    return [*rows, Row("mean", [Cell(f"{total:,}", value=float(total)), *cells], inner=True)]


def class_table(context: ReportContext, rows: Sequence[Row], title: str = "") -> Table:
    """The table of `class_rows`, its caption begun by a title."""
    heads = ["Class", "Support", *(WRITE.title(name) for name in context.class_columns)]
    where = f"{title}, {place(context, context.stage)}" if title else capital(place(context, context.stage))
    caption = CLASSES.format(place=where, noun=terms_of(context).noun, brackets=brackets(context))
    return Table(heads, rows, caption, wide=True)


def further_tables(context: ReportContext) -> list[Block]:
    """A table of each further target with classes, or region of the primary one, of the shown learner."""
    stage, learner = context.stage, context.learner
    tables: list[Block] = []
    for key in context.metrics.classes.get(stage, {}).get(learner, {}):
        if key != context.outcome:
            target, region = split_key(key)
            title = capital(display_name(context.study, target)) + (f", {region}" if region else "")
            tables.append(class_table(context, class_rows(context, stage, learner, key), title))
    return tables


# ----------------------------------------------------------------------------------------------- operating points


def point_blocks(context: ReportContext, entry: ClassFigures, stage: str) -> list[Block]:
    """The operating points of an entry at a stage: thresholds with their figures, and predictive values."""
    noun, points = terms_of(context).noun, entry.operating[:MOST_POINTS]
    chosen, prevalence = points[0].chosen_on, points[0].prevalence
    caption = POINTS.format(
        noun=capital(noun),
        chosen=chosen if chosen == "out of fold" else f"on {chosen}",
        place=place(context, stage),
        brackets=brackets(context),
    )
    heads = ["Class and rule", "Threshold", *(WRITE.title(metric) for metric in POINT_FIGURES.values())]
    further = [WRITE.title(metric) for metric in FURTHER_FIGURES.values()]
    keys, note = dict(FURTHER_FIGURES), PREDICTIVE.format(noun=noun)
    if prevalence is not None:
        keys |= AT_PREVALENCE
        further += [f"{name} at {percent(prevalence, 1)}" for name in ("PPV", "NPV")]
        note = f"{note} {AT_STATED.format(prevalence=percent(prevalence, 1))}"
    blocks: list[Block] = [
        Table(heads, [point_row(point) for point in points], caption, wide=True),
        Table(["Class and rule", *further], [_point_row(point, keys) for point in points], note, wide=True),
    ]
    more = len(entry.operating) - len(points)
    return [*blocks, Facts([("Further operating points, in metrics.json", str(more))])] if more else blocks


def point_row(point: OperatingPoint) -> Row:
    """Threshold, sensitivity, specificity and precision of an operating point; whether its aim was missed."""
    row = _point_row(point, POINT_FIGURES)
    cells = list(row.cells)
    if point.reached is False:
        cells[0] = replace(cells[0], small=f"{cells[0].small}; aim missed".removeprefix("; "))
    return Row(row.name, [Cell(by_fold_text(point.threshold_by_fold, 3) or number(point.threshold, 3)), *cells])


def _point_row(point: OperatingPoint, keys: Mapping[str, str]) -> Row:
    cells = [WRITE.cell(metric, point.figures.get(key)) for key, metric in keys.items()]
    return Row(f"{plain(point.label)}, {rule_text(point.rule)}", cells)


def rule_text(rule: str) -> str:
    """The rule of an operating point in words.

    >>> rule_text("sensitivity >= 0.9"), rule_text("youden")
    ('sensitivity of at least 90 %', 'largest Youden index')
    """
    name, _, least = rule.partition(">=")
    if not least:
        return "largest Youden index" if rule == "youden" else rule
    return f"{name.strip()} of at least {percent(float(least))}"


# -------------------------------------------------------------------------------------------------- probabilities


def probability_rows(entry: ClassFigures, figures: Figures) -> list[Row]:
    """The scores of the probabilities as predicted and after temperature scaling, beside their mean and what it claims.

    Empty if no score is defined.
    """
    rows = []
    for name in PROBABILITY_SCORES:
        cells = [WRITE.cell(name, figures.get(key)) for key in (name, f"{name}_calibrated")]
        if any(cell.value != "" for cell in cells):
            rows.append(Row(capital(metric_of(name).phrase), cells))
    if not rows:
        return []
    both = [mean_confidence(bins) for bins in (entry.reliability, entry.reliability_calibrated)]
    means = [Cell(percent(pair[0]) if pair else MISSING) for pair in both]
    correct = [Cell(percent(pair[1]) if pair else MISSING) for pair in both]
    return [*rows, Row("Mean probability of the likeliest class", means), Row("Share in which it is correct", correct)]


def mean_confidence(bins: Sequence[ReliabilityBin]) -> tuple[float, float] | None:
    """The mean probability of the likeliest class, and the share that is correct, from the bins of a curve."""
    total = sum(each.n for each in bins)
    if not total:
        return None
    return sum(each.n * each.confidence for each in bins) / total, sum(each.n * each.accuracy for each in bins) / total


def temperature(entry: ClassFigures) -> list[tuple[str, str]]:
    """The temperature, where it was fitted, and whether it lies at a bound of its range."""
    value = by_fold_text(entry.temperature_by_fold, 2) or number(entry.temperature, 2)
    fitted = entry.temperature_fitted_on
    facts = [
        ("Temperature", value),
        ("Fitted", fitted if fitted == "out of fold" else f"on {fitted}" if fitted else MISSING),
    ]
    bound, total = temperatures_at_bound(entry.temperature, entry.temperature_by_fold)
    if bound:
        folds = f" in {bound} of {total} folds" if total > 1 else ""
        facts.append(("At the bound of its range", f"yes{folds}: scaled probabilities are not to be trusted"))
    return facts
