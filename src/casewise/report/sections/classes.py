"""Classes: confusion matrix, curves, single classes, operating points, probabilities, and further targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from casewise.evaluation.bootstrap import Plan, mean_by_subject
from casewise.evaluation.classification import temperatures_at_bound
from casewise.evaluation.figures import ByMetric
from casewise.evaluation.results import ClassFigures, OperatingPoint, ReliabilityBin
from casewise.evaluation.thresholds import by_fold_text
from casewise.metrics.registry import metric_of
from casewise.report import formatting as fmt
from casewise.report.beside_column import beside_column_blocks
from casewise.report.blocks import Block, Cell, Facts, Fold, Matrix, Plot, Plots, Row, Section, Table, Text
from casewise.report.context import ReportContext, defined, evaluated, evaluated_on, terms_of
from casewise.report.figures import classes as draw
from casewise.report.tables import MetricFormat, confusion, figure_cell, kind_report, percent_cell, split_key
from casewise.targets import kind_named

POINT_FIGURES = ("sensitivity", "specificity", "precision")
FURTHER_FIGURES = ("npv", "lr_positive", "lr_negative")
# The metric whose format each has.
AT_PREVALENCE = {"ppv_at_prevalence": "precision", "npv_at_prevalence": "npv"}
SCORES = ("ece", "brier", "log_loss")
DECISIONS = {"median": "the median", "mean": "the rounded mean", "kappa": "by tuned thresholds"}
MOST_POINTS = 24
WRITE = MetricFormat()

POOLED = "Figures pooled over each {site} mix different networks and {sites}. They must not be read as {means}."
ROC = (
    "{curves} {place}{each}{mean}. Grey: chance. Dots: operating points, whose thresholds"
    " were chosen on other cases, so that they can lie off the curve.{more}"
)
ROC_OF_GRADES = "{curves} {place}: each grade against the others{mean}. Grey: chance.{more}"
EACH = ": each class against the others"
MEAN_CURVE = ", each curve the mean over the folds"
RECALL = "Precision and recall {place}{each}{ranked}. Dotted: chance, the share of the class among these {noun}s."
RANKED = ", all folds ranked together"
RELIABILITY = (
    "Calibration {place}: on the line, the probability of the likeliest class equals the share in which it is correct;"
    " below it the model is overconfident. Larger marks: more {noun}s."
)
CLASSES = "{place}. Support: {noun}s with this reference class."
POINTS = (
    "{place}: {noun}s whose probability{of} reaches the threshold are called positive{rest}. The thresholds were"
    " chosen on {chosen}; where they differ by fold, their range is shown.{mean}"
)
OF_MEAN = " They were chosen for the models of single folds, which differ from the model that predicts here."
CHOSEN_ON = {"out of fold": "the cases of the folds"}
PREDICTIVE = (
    "Precision (PPV) and NPV change with the share of the class among the {noun}s. Likelihood ratios do not, but all"
    " figures change with the kind of cases and sources."
)
CUTS = (
    "{place}, by predicted grades. Found: of the cases with this grade or a higher one, those predicted so; others: of"
    " the cases with a lower grade, those predicted so."
)
BESIDE = (
    "A column of the table predicts the classes: a sensitivity and specificity over all its values can come from"
    " recognising the value. See the table of found and mistaken above."
)
AT_STATED = (
    "Figures at {prevalence} are computed from sensitivity and specificity for this prevalence, which the study states;"
    " its uncertainty is not in the intervals."
)
PROBABILITIES = (
    "{place}. Scores of 0 are perfect. A mean probability above the share that is correct is overconfidence, unless the"
    " difference is chance. The model's predictions are not scaled."
)
WORSE_SCALED = "After temperature scaling, these scores are worse {place}: {names}. Predictions are not scaled."


def section(context: ReportContext) -> Section | None:
    """The classes of the primary outcome; None if it has none or nothing was evaluated."""
    entry = context.class_figures(context.stage, context.learner)
    if entry is None or not context.classes:
        return None
    figures, where = context.figures(context.stage, context.learner), evaluated_on(context, context.stage)
    counts = confusion(entry.names, entry.confusion)
    blocks: list[Block] = [Matrix(counts, evaluated(context), "reference", "predicted"), *pooled(context)]
    if _has_grades(context):
        blocks.append(cuts(context))
    blocks.append(Plots(_plots(context, entry, figures)))
    blocks.append(Text(fmt.known_classes(context.study, context.outcome), note=True))
    blocks += (by_column := beside_column_blocks(context))
    if worse := _worse_scaled(figures):
        names = fmt.listed([metric_of(name).phrase for name in worse])
        blocks.append(Text(WORSE_SCALED.format(place=where, names=names)))
    table = class_table(context, context.stage, context.learner)
    blocks.append(Fold("Class by class: precision, recall, F1 and areas", [table] if table else []))
    if entry.operating:
        points = point_blocks(context, entry, context.stage)
        if any(isinstance(block, Table) for block in by_column):
            points.append(Text(BESIDE, note=True))
        blocks.append(Fold("Operating points", points))
    if scores := _probability_rows(context, entry, figures):
        caption = PROBABILITIES.format(place=fmt.capital(where))
        facts = temperature(entry)
        if (decision := context.study.decisions.get(context.outcome)) in DECISIONS:
            facts.append(("Predicted grade", f"{DECISIONS[decision]}; the scores are of the likeliest grade"))
        heads = ["Score", "As predicted", "After temperature scaling"]
        inside: list[Block] = [Table(heads, scores, caption), Facts(facts)]
        blocks.append(Fold("Scores of the probabilities, and temperature scaling", inside))
    blocks.append(Fold("Further targets with classes, and regions", further_tables(context)))
    return Section("classes", "Classes", blocks)


def _has_grades(context: ReportContext) -> bool:
    """Whether operating points are of a grade or a higher one."""
    return kind_report(context.kind).ordered and len(context.classes) > 2


def cuts(context: ReportContext) -> Table:
    """Sensitivity and specificity of each grade or a higher one, by the predicted grades, with intervals.

    Those of one grade alone are its recall, with the interval of the recall.
    """
    rows, study, lines = context.headline_rows, context.study, []
    figures, last = context.figures(context.stage, context.learner), len(context.classes) - 1
    truth, predicted = (rows[name].to_numpy(float) for name in ("y_true", "y_pred"))
    plan = Plan(confidence=study.evaluation.confidence, seed=study.seed, unit=study.unit)
    for grade, name in list(enumerate(context.classes))[1:]:
        cells = []
        sides = ((truth >= grade, predicted >= grade, grade == last), (truth < grade, predicted < grade, grade == 1))
        for (side, right, alone), own in zip(sides, (name, context.classes[0]), strict=True):
            share = figures.get(f"recall[{own}]") if alone else None
            if share is None and side.any():
                share = mean_by_subject(right[side], rows["subject"].to_numpy()[side], plan, name="share")
            count = Cell(f"{int(right[side].sum()):,} of {int(side.sum()):,}", value=int(right[side].sum()))
            cells += [count, percent_cell(share)]
        higher = " or higher" if grade < last else ""
        lines.append(Row(fmt.class_name(study, context.outcome, name) + higher, cells))
    heads = ["Grade", "Found", "Sensitivity", "Others", "Specificity"]
    return Table(heads, lines, CUTS.format(place=fmt.capital(evaluated_on(context, context.stage))))


def pooled(context: ReportContext) -> list[Text]:
    """A note where each fold left out a source: pooled figures say nothing about one source."""
    if not context.by_site:
        return []
    means = kind_named(context.kind).means
    return [Text(POOLED.format(site=context.site, sites=fmt.plural(context.site), means=means), note=True)]


def _plots(context: ReportContext, entry: ClassFigures, figures: ByMetric) -> list[Plot]:
    """The ROC and precision-recall curves and the reliability diagram, those that there are."""
    folds, plots = context.stage == "oof", []
    texts = {"place": evaluated_on(context, context.stage), "noun": terms_of(context).noun}
    caption = ROC_OF_GRADES if _has_grades(context) else ROC
    texts["more"] = f" The first {draw.MOST_CURVES} classes are drawn." if len(entry.roc) > draw.MOST_CURVES else ""
    if curves := draw.curves_of(entry, figures):
        areas = ", ".join(f"{curve.name} {WRITE.cell('auroc', curve.auroc).text}" for curve in curves)
        alt = f"Sensitivity against the false positive rate, with the AUROC: {areas}."
        texts |= {"curves": "ROC curve" + "s" * (len(curves) > 1), "each": EACH * (len(curves) > 1)}
        plots.append(Plot(draw.roc(curves), alt, caption.format(mean=MEAN_CURVE if folds else "", **texts)))
    if recalls := draw.recall_curves(context.headline_rows, context.classes, entry, figures):
        areas = ", ".join(f"{curve.name} {WRITE.cell('auprc', curve.auprc).text}" for curve in recalls)
        alt = f"Precision against recall, with the AUPRC: {areas}."
        texts["each"] = EACH * (len(recalls) > 1)
        plots.append(Plot(draw.precision_recall(recalls), alt, RECALL.format(ranked=RANKED if folds else "", **texts)))
    if any(bin_.n for bin_ in entry.reliability):
        errors = [figures.get(name) for name in ("ece", "ece_calibrated")]
        drawing = draw.reliability(entry.reliability, entry.reliability_calibrated, ece=errors)
        alt = "Share of correct predictions against predicted probability; the scores are in the table."
        plots.append(Plot(drawing, alt, RELIABILITY.format(**texts)))
    return plots


# ------------------------------------------------------------------------------------------------- single classes


def class_table(context: ReportContext, stage: str, learner: str, key: str = "", title: str = "") -> Table | None:
    """One line per class: support, precision, recall, F1, AUROC and AUPRC; the means over the classes last."""
    entry, figures, metrics = (
        context.class_figures(stage, learner, key),
        context.figures(stage, learner, key),
        context.class_columns,
    )
    if entry is None:
        return None
    lines = zip([*entry.names, ""], [*entry.support, sum(entry.support)], strict=True)
    rows = []
    for name, support in lines:
        cells = [WRITE.cell(metric, figures.get(f"{metric}[{name}]" if name else metric)) for metric in metrics]
        shown = fmt.class_name(context.study, split_key(key)[0] or context.outcome, name) or "mean"
        rows.append(Row(shown, [Cell(f"{support:,}", value=float(support)), *cells], inner=not name))
    where = f"{title}, {evaluated_on(context, stage)}" if title else fmt.capital(evaluated_on(context, stage))
    caption = CLASSES.format(place=where, noun=terms_of(context).noun)
    return Table(["Class", "Support", *map(WRITE.title, metrics)], rows, caption, wide=True)


def further_tables(context: ReportContext) -> list[Table]:
    """A table of each further target with classes, or region of the primary one, of the shown learner."""
    tables = []
    for key in context.metrics.classes.get(context.stage, {}).get(context.learner, {}):
        target, region = split_key(key)
        title = fmt.capital(fmt.display_name(context.study, target)) + (f", {region}" if region else "")
        if key != context.outcome and (table := class_table(context, context.stage, context.learner, key, title)):
            tables.append(table)
    return tables


# ----------------------------------------------------------------------------------------------- operating points


def point_blocks(context: ReportContext, entry: ClassFigures, stage: str) -> list[Block]:
    """The operating points of an entry at a stage: thresholds with their figures, and predictive values."""
    noun, points = terms_of(context).noun, entry.operating[:MOST_POINTS]
    chosen, prevalence = points[0].chosen_on, points[0].prevalence
    where = fmt.capital(evaluated_on(context, stage))
    grades = _has_grades(context)
    caption = POINTS.format(
        place=where,
        noun=noun,
        chosen=CHOSEN_ON.get(chosen, chosen),
        of=" of the grade or a higher one" if grades else "",
        mean=OF_MEAN * (stage != "oof" and not context.holdout),
        rest="" if grades else ", each class against the others",
    )
    keys, note = {name: name for name in FURTHER_FIGURES}, PREDICTIVE.format(noun=noun, unit=context.study.unit)
    heads = [WRITE.title(metric) for metric in FURTHER_FIGURES]
    if prevalence is not None:
        keys |= AT_PREVALENCE
        heads += [f"{name} at {fmt.percent(prevalence, 1)}" for name in ("PPV", "NPV")]
        note = f"{note} {AT_STATED.format(prevalence=fmt.percent(prevalence, 1))}"
    further = [
        Row(_point_name(context, point), [WRITE.cell(metric, point.figures.get(key)) for key, metric in keys.items()])
        for point in points
    ]
    first = [points_head(context), "Threshold", *map(WRITE.title, POINT_FIGURES)]
    blocks: list[Block] = [
        Table(first, [_point_row(context, point) for point in points], caption, wide=True),
        Table([points_head(context), *heads], further, note, wide=True),
    ]
    more = len(entry.operating) - len(points)
    return [*blocks, Facts([("Further operating points, in metrics.json", str(more))])] if more else blocks


def points_head(context: ReportContext) -> str:
    """The first heading of tables of operating points."""
    return "Grade and rule" if _has_grades(context) else "Class and rule"


def _point_row(context: ReportContext, point: OperatingPoint) -> Row:
    """Threshold, sensitivity, specificity and precision of an operating point; an aim that is missed or uncertain."""
    cells = [WRITE.cell(metric, point.figures.get(metric)) for metric in POINT_FIGURES]
    if point.aim in ("missed", "uncertain"):
        cells[0] = replace(cells[0], small=f"{cells[0].small}; aim {point.aim}".removeprefix("; "))
    threshold = Cell(by_fold_text(point.threshold_by_fold, 3) or fmt.number(point.threshold, 3))
    return Row(_point_name(context, point), [threshold, *cells])


def _point_name(context: ReportContext, point: OperatingPoint) -> str:
    return f"{fmt.class_name(context.study, context.outcome, point.label)}, {_rule_text(point.rule)}"


def _rule_text(rule: str) -> str:
    """The rule of an operating point in words.

    >>> _rule_text("sensitivity >= 0.9"), _rule_text("youden")
    ('sensitivity of at least 90 %', 'largest Youden index')
    """
    name, _, least = rule.partition(">=")
    if not least:
        return "largest Youden index" if rule == "youden" else rule
    return f"{name.strip()} of at least {fmt.percent(float(least))}"


# -------------------------------------------------------------------------------------------------- probabilities


def _probability_rows(context: ReportContext, entry: ClassFigures, figures: ByMetric) -> list[Row]:
    """The scores of the probabilities as predicted and after temperature scaling, with their mean and what it claims.

    Empty if no score is defined.
    """
    both = {name: [WRITE.cell(name, figures.get(key)) for key in (name, f"{name}_calibrated")] for name in SCORES}
    defined = {name: cells for name, cells in both.items() if any(cell.value != "" for cell in cells)}
    rows = [Row(fmt.capital(metric_of(name).phrase), cells) for name, cells in defined.items()]
    if not rows:
        return []
    shares = [mean_confidence(bins) for bins in (entry.reliability, entry.reliability_calibrated)]
    names = ("Mean probability of the likeliest class", "Share in which that class is correct")
    rows += [Row(name, [fmt.percent(pair[i]) for pair in shares]) for i, name in enumerate(names)]
    return [*rows, Row("Mean probability minus that share", [_surplus(context), fmt.MISSING])]


def _surplus(context: ReportContext) -> Cell:
    """The mean probability of the likeliest class minus the share in which it is correct, with its interval."""
    rows, study = context.headline_rows, context.study
    values = rows[[f"p{number}" for number in range(len(context.classes))]].to_numpy(float)
    apart = values.max(axis=1) - (values.argmax(axis=1) == rows["y_true"].to_numpy(float))
    plan = Plan(confidence=study.evaluation.confidence, seed=study.seed, unit=study.unit)
    return figure_cell(mean_by_subject(apart, rows["subject"].to_numpy(), plan), 0, percent=True, sign=True)


def _worse_scaled(figures: ByMetric) -> list[str]:
    """The scores that temperature scaling makes worse on these cases, as far as they are printed."""
    worse = []
    for name in SCORES:
        before, after = (defined(figures.get(key)) for key in (name, f"{name}_calibrated"))
        digits = WRITE.digits(name)
        if before and after and round(float(after.value or 0), digits) > round(float(before.value or 0), digits):
            worse.append(name)
    return worse


def mean_confidence(bins: Sequence[ReliabilityBin]) -> tuple[float, float]:
    """The mean probability of the likeliest class, and the share that is correct, from the bins; NaN without cases."""
    total = sum(bin_.n for bin_ in bins) or float("nan")
    right = sum(round(bin_.n * bin_.accuracy) for bin_ in bins)  # stored shares are rounded
    return sum(bin_.n * bin_.confidence for bin_ in bins) / total, right / total


def temperature(entry: ClassFigures) -> list[tuple[str, str]]:
    """The temperature, where it was fitted, and whether it lies at a bound of its range."""
    if entry.temperature is None and not entry.temperature_by_fold:
        return []
    value = by_fold_text(entry.temperature_by_fold, 2) or fmt.number(entry.temperature, 2)
    fitted = entry.temperature_fitted_on
    where = fitted if fitted == "out of fold" else f"on {fitted}" if fitted else fmt.MISSING
    facts = [("Temperature", value), ("Fitted", where)]
    bound, total = temperatures_at_bound(entry.temperature, entry.temperature_by_fold)
    if bound:
        folds = f" in {bound} of {total} folds" if total > 1 else ""
        facts.append(("At the bound of its range", f"yes{folds}: scaled probabilities are not to be trusted"))
    return facts
