"""Calibration of the shown learner by class, or of a number, and the decision curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from casewise.evaluation.calibration import FEW_OF_CLASS
from casewise.evaluation.figures import Estimate
from casewise.evaluation.results import Calibration, NetBenefit, Results, StageCoverage
from casewise.report.blocks import Block, Cell, Facts, Fold, Heading, Plot, Plots, Row, Section, Table, Text
from casewise.report.context import EXTERNAL, SIDES, ReportContext, terms_of
from casewise.report.figures import classes as draw
from casewise.report.figures.drawing import Look
from casewise.report.formatting import (
    MISSING,
    capital,
    class_name,
    counted,
    digits_of,
    listed,
    number,
    percent,
    plain,
)
from casewise.report.sections.agreement import range_name
from casewise.report.tables import figure_cell, kind_report, metric_format, percent_cell
from casewise.study.learners import learner_name
from casewise.study.schema import Study

MOST_CLASSES = 8
DIGITS, BENEFIT_DIGITS = 2, 3
BAND = (
    "Blue: local regression with its pointwise band by resampling {unit}s; black: perfect calibration. The most"
    " extreme 1 % of predictions at either end are not drawn."
)
HOW = (
    "A slope of 1 and an intercept of 0 are ideal. A slope below 1 means that predictions are too extreme, above 1 that"
    " they are too moderate; one whose interval has 0 in it does not show that they are related to the reference, and"
    " one below 0 means an inverse relation."
)
POOLED = (
    " Pooled over folds, a model that learned nothing has an inverse relation, because the mean of the other folds is"
    " low where a fold's own is high."
)
INTERCEPTS = {True: " The intercept is at a slope of 1.", False: " The intercept belongs to its slope and is no bias."}
ROUGH = " Rough: fewer than {few} {unit}s with the class, or without it."
BY_FOLD = " Slope by fold: lowest to highest, because the model of each fold has its own calibration."
BENEFIT = (
    "Net benefit per {noun}: the share of true positives minus the share of false positives times the odds of the"
    " threshold; treating none has 0. The study declares the thresholds. They are applied to the probabilities as"
    " predicted, at the share of the class in these cases. Intervals by resampling {unit}s, each threshold on its own."
)


def section(context: ReportContext) -> Section:
    """Curves, slopes and decision curves of each stage, if the run has a record of calibration."""
    blocks = [block for stage in context.metrics.calibration or {} for block in _of_stage(context, stage)]
    return Section("calibration", "Calibration", blocks)


def _of_stage(context: ReportContext, stage: str) -> list[Block]:
    """The curves of a stage, and folded its slopes and decision curves."""
    terms, points = terms_of(context), context.write.points
    by_name = (context.metrics.calibration or {})[stage]
    classes, unit = bool(context.classes), context.study.unit
    what = "share of the class against its predicted probability" if classes else "reference against the prediction"
    alt = f"Smoothed {what}, with its band; slope and intercept are in the table."
    curves = []
    for i, (name, entry) in enumerate(by_name.items()):
        if entry.curve:
            look: Look = {"shares": bool(name), "name": f"calibration-{stage}{i}"}
            curves.append(Plot(draw.curve(entry.curve, title=_named(context, name) or terms.label, **look), alt))
    columns = ["Class" if classes else "Prediction", "Slope", "Intercept"]
    by_fold = BY_FOLD if any(entry.slope_by_fold for entry in by_name.values()) else ""
    columns += ["Slope by fold"] if by_fold else []
    digits = DIGITS if points is None else max(points, DIGITS)
    rows = [row(_named(context, name) or "all", entry, digits) for name, entry in by_name.items()]
    rough = any(entry.slope.rough or entry.intercept.rough for entry in by_name.values())
    slopes: list[Block] = [
        Table(columns, rows, f"{capital(SIDES[stage])}; intervals by resampling {unit}s."),
        Text(
            HOW
            + INTERCEPTS[classes]
            + (ROUGH.format(few=FEW_OF_CLASS, unit=unit) if classes and rough else "")
            + by_fold
            + POOLED * (stage == "oof" and any(_is_inverse(entry.slope) for entry in by_name.values())),
            note=True,
        ),
    ]
    decided = (context.metrics.decision_curves or {}).get(stage, {})
    all_points = [(name, point) for name, points_of in decided.items() for point in points_of]
    several = len(decided) > 1
    declared = [
        _decision_row(_named(context, name) if several else "", point) for name, point in all_points if point.declared
    ]
    if declared:
        alt = "Net benefit by threshold, of the model, of treating all and of treating none; values are in the table."
        drawings = [
            Plot(draw.decisions(points_of, title=_named(context, name), name=f"decision-{stage}{i}"), alt)
            for i, (name, points_of) in enumerate(list(decided.items())[:MOST_CLASSES])
        ]
        heads = ["Threshold", "Model", "Treat all", "Model − treat all"]
        table = Table(heads, declared, BENEFIT.format(noun=terms.noun, unit=unit))
        slopes += [Heading("Decision curve"), Plots(drawings, layout="multiples"), table]
    shown = Plots(curves[:MOST_CLASSES], BAND.format(unit=unit), layout="multiples")
    fold = Fold("Slope and intercept" + (", and decision curve" if declared else ""), slopes)
    return [Heading(capital(SIDES[stage])), shown, fold]


def line(context: ReportContext) -> str:
    """What is predicted and observed on average, and the slope: outside where there is an external cohort.

    Then the slope of the study follows. Empty without a record; pooled figures of left-out sources are not shown.
    """
    record, texts, where = context.metrics.calibration or {}, list[str](), ""
    for stage in (EXTERNAL, context.stage):
        by_name, rows = record.get(stage, {}), context.rows(stage, context.learner)
        rows = rows[rows["y_true"].notna() & rows["y_pred"].notna()]
        if not by_name or rows.empty or (context.by_site and stage == "oof"):
            continue
        slopes = _slopes(context, by_name, brief=bool(texts))
        texts.append(f"internal {slopes}" if texts else f"{_in_the_large(context, list(by_name), rows)}; {slopes}")
        where = where or " outside" * (stage == EXTERNAL)
    return f"Calibration{where}: {'; '.join(texts)}" if texts else ""


def _in_the_large(context: ReportContext, names: Sequence[str], rows: pd.DataFrame) -> str:
    """The mean prediction and the mean reference; of several classes those of the largest gap."""
    if not context.classes:
        predicted, observed = (context.write.text("mae", rows[column].mean()) for column in ("y_pred", "y_true"))
        return f"mean prediction {predicted}, mean reference {observed} points"
    places = {name: list(context.classes).index(name) for name in names}
    means = {name: (rows[f"p{place}"].mean(), (rows["y_true"] == place).mean()) for name, place in places.items()}
    name = max(names, key=lambda each: abs(means[each][0] - means[each][1]))
    predicted, observed = (percent(mean) for mean in means[name])
    return f"{class_name(context.study, context.outcome, name)} predicted {predicted}, observed {observed}"


def _slopes(context: ReportContext, by_name: Mapping[str, Calibration], *, brief: bool) -> str:
    """The slope, or the least and the greatest one of several classes, and what intervals without 1 mean.

    If it is to be `brief`, without the interval, what is ideal, and which classes have no relation to the reference.
    """
    slopes = {name: entry.slope for name, entry in by_name.items() if entry.slope.value is not None}
    if not slopes:
        reasons = {entry.slope.reason for entry in by_name.values() if entry.slope.reason}
        return f"no slope: {reasons.pop()}" if len(reasons) == 1 else "no slope"
    several = len(by_name) > 1
    values = [number(end(slope.value or 0.0 for slope in slopes.values()), DIGITS) for end in (min, max)]
    details = ["ideal: 1"] + ["rough"] * any(slope.rough for slope in slopes.values())
    if not several and (slope := next(iter(slopes.values()))).low is not None:
        details.insert(0, f"{number(slope.low, DIGITS)} to {number(slope.high, DIGITS)}")
    of_all = f" of {len(slopes)} of {len(by_name)} classes" * (len(slopes) < len(by_name))
    text = f"slope{'s' * several}{of_all} {' to '.join(dict.fromkeys(values))}"
    text += f" ({'; '.join(details)})" * (not brief)
    sure = {name: slope for name, slope in slopes.items() if not slope.rough}
    beyond = {
        "extreme": [
            name
            for name, slope in sure.items()
            if slope.low is not None and slope.high is not None and slope.low > 0 and slope.high < 1
        ],
        "moderate": [name for name, slope in sure.items() if slope.low is not None and slope.low > 1],
    }
    words = []
    for word, names in beyond.items():
        of = listed([class_name(context.study, context.outcome, name) for name in names])
        words += [f"too {word}" + f" for {of}" * several] if names else []
    text += f": {'probabilities' if context.classes else 'predictions'} are {listed(words)}" * bool(words)
    if brief:
        return text
    unrelated = [
        name for name, slope in slopes.items()
        if slope.low is not None and slope.high is not None and slope.low <= 0 <= slope.high
    ]  # fmt: skip
    inverse = [name for name, slope in slopes.items() if _is_inverse(slope)]
    for names, what, word in ((unrelated, "no", "or"), (inverse, "an inverse", "and")):
        of = listed([class_name(context.study, context.outcome, name) for name in names], word)
        text += f"; {what} relation to the reference is shown{f' for {of}' * several}" * bool(names)
    return text


def _is_inverse(slope: Estimate) -> bool:
    """Whether a slope is below 0 beyond its interval."""
    return slope.high is not None and slope.high < 0


def _named(context: ReportContext, name: str) -> str:
    """The name of a class of the outcome as it is shown; empty for a number."""
    return class_name(context.study, context.outcome, name)


def row(name: str, entry: Calibration, digits: int) -> Row:
    """Slope and intercept with their intervals, and the range of the slope within single folds, under a name."""
    cells = [figure_cell(figure, digits) for figure in (entry.slope, entry.intercept)]
    if entry.slope_by_fold:
        values = [value for value in entry.slope_by_fold.values() if value is not None]
        undefined = len(entry.slope_by_fold) - len(values)
        ends = list(dict.fromkeys(number(end, DIGITS) for end in (min(values), max(values)))) if values else [MISSING]
        cells.append(Cell(" to ".join(ends), f"undefined in {undefined}" if undefined else ""))
    return Row(name, cells)


def _decision_row(name: str, point: NetBenefit) -> Row:
    """The net benefit at a declared threshold, of a class with a name: of the model, of treating all, their difference.

    Where the model treats all or none, in every resample, the interval of a difference would have no width.
    """
    cells = [figure_cell(figure, BENEFIT_DIGITS) for figure in (point.model, point.treat_all, point.over_all)]
    for position, figure, text in ((2, point.over_all, "treats all"), (0, point.model, "treats none")):
        if figure.value == figure.low == figure.high == 0:
            cells[position] = Cell(number(0.0, BENEFIT_DIGITS), text)
    threshold = f"{100 * point.threshold:.3g} %"
    return Row(f"{name}, {threshold}" if name else threshold, cells)


NUMBERS = (
    "The interval of a new case is its prediction plus and minus the half width, within the range of the target. It was"
    " calibrated on the errors of out-of-fold predictions{whether}."
)
BANDS = (
    "The interval of a new case spans the values that its prediction does not exclude, within the range of the target."
    " It was calibrated on the errors of out-of-fold predictions{scaled}, for each band of the reference that has"
    " enough {unit}s{whether}."
)
SCALED = " as multiples of the error to expect at each prediction"
CLASSES = (
    "The set of a new case holds the classes that its probabilities do not exclude, or the two closest where they"
    " exclude all, and the prediction{between}. It was calibrated for each class on out-of-fold predictions{whether}. A"
    " class with too few {unit}s is in every set."
)
BETWEEN = "; grades between the lowest and the highest of these are in it as well"
WHETHER = ", and suffices whether each {unit}{of_class} or each case counts equally"
READING = (
    "Coverage: {share}. Out of fold, coverage and size are"
    " of the models of single folds, calibrated on the other folds. New cases are predicted by the mean over"
    " the folds or by models trained on all {unit}s, for which the level is not proven. The level is meant for cases"
    " like the calibration cases."
)


TOO_WIDE = (
    "Too wide: the coverage is above the level beyond its interval. That happens where few {unit}s{of_class} calibrate,"
    " because the level is rounded up to the next {unit}, where sets name nearly every class, and where cases are"
    " easier than the calibration cases."
)


def prediction_sets(context: ReportContext) -> Section | None:
    """The calibration of the intervals or sets and their coverage by stage; None if there are none."""
    study, metrics = context.study, context.metrics
    facts, table = calibrated(study, metrics), coverage(study, metrics)
    if not metrics.prediction_sets or not facts:
        return None
    classes, unit = bool(context.classes), study.unit
    whether = WHETHER.format(unit=unit, of_class=" with the class" * classes) if unit != "image" else ""
    of_each = (f" of each {unit}", f", averaged over {unit}s") if unit != "image" else ("", "")
    share = f"the share of the cases{of_each[0]} whose interval or set contains the reference{of_each[1]}"
    entry = metrics.prediction_sets.targets[context.outcome].calibration
    how = CLASSES if classes else BANDS if entry.get("bands") else NUMBERS
    between = BETWEEN if kind_report(context.kind).ordered else ""
    meaning = [how.format(unit=unit, whether=whether, between=between, scaled=SCALED if entry.get("scale") else "")]
    meaning += [READING.format(unit=unit, share=share)] if table.rows else []
    stages = metrics.prediction_sets.targets[context.outcome].stages.values()
    if any(exceeded(stage.coverage, metrics.prediction_sets.level) for stage in stages):
        meaning.append(TOO_WIDE.format(unit=unit, of_class=" of a class" * classes))
    fold = Fold("What the level means, and for which cases", [Text(text, note=True) for text in meaning])
    return Section("prediction-sets", f"Prediction {'sets' if classes else 'intervals'}", [Facts(facts), table, fold])


def calibrated(study: Study, metrics: Results) -> list[tuple[str, str]]:
    """The level, the subjects of the calibration, and the half width or the classes that are in every set."""
    record, target = metrics.prediction_sets, str(metrics.main.target)
    if record is None or target not in record.targets:
        return []
    calibration, classes = record.targets[target].calibration, study.classes_of(target)
    unit = study.unit
    facts = [("Level aimed at", f"{100 * record.level:g} % of new cases{' of each class' if classes else ''}")]
    if not classes:
        half = f"none: {record.fewest} {unit}s are needed"
        if calibration.get("bands"):
            half = "differs by case; mean widths are below"
        elif calibration["quantile"] is not None:
            half = number(calibration["quantile"], metric_format(study, target).digits("mae"))
        return [*facts, ("Calibrated on", counted(calibration["subjects"], unit)), ("Half width", half)]
    for name, of_class in zip(classes, calibration["classes"], strict=True):
        few = f", in every set: {record.fewest} {unit}s are needed" if of_class["quantile"] is None else ""
        facts.append((class_name(study, target, name), f"calibrated on {counted(of_class['subjects'], unit)}{few}"))
    return facts


def coverage(study: Study, metrics: Results) -> Table:
    """A row for each stage with intervals or sets and, where there are classes or bands, one for each of them."""
    record, target = metrics.prediction_sets, str(metrics.main.target)
    rows = []
    if record and target in record.targets:
        own = record.targets[target].stages.items()
        rows = [row for stage, figures in own for row in _rows(study, target, stage, figures, record.level)]
    sizes = ["Mean size", "One class"] if study.classes_of(target) else ["Mean width"]
    heads = ["Cases", f"{capital(study.unit)}s", "Coverage", *sizes]
    return Table(heads, rows, f"Learner: {learner_name(str(metrics.main.learner))}.")


def _rows(study: Study, target: str, stage: str, figures: StageCoverage, level: float) -> list[Row]:
    """The coverage of a stage, and in each class or band; those that miss the level beyond their interval say so."""
    if figures.coverage is None:
        return []
    subjects, digits = Cell(number(figures.coverage.n_subjects, 0)), metric_format(study, target).digits("mae")
    sizes = [figure_cell(figures.width, digits)]
    if figures.size is not None:
        sizes = [figure_cell(figures.size, 1), percent_cell(figures.single)]
    whole = percent_cell(figures.coverage)
    if missed(figures.coverage, level):
        whole = replace(whole, small=f"{whole.small}; aim missed")
    elif exceeded(figures.coverage, level):
        whole = replace(whole, small=f"{whole.small}; too wide")
    rows = [Row(capital(SIDES[stage]), [subjects, whole, *sizes])]
    for name, figure, width in coverage_by_group(study, target, figures):
        covered, further = percent_cell(figure), [figure_cell(width, digits)] if figures.size is None else ["", ""]
        if missed(figure, level):
            covered = replace(covered, small=f"{covered.small}; aim missed")
        rows.append(Row(name, [number(figure.n_subjects if figure else 0, 0), covered, *further], inner=True))
    return rows


def coverage_by_group(
    study: Study, target: str, figures: StageCoverage
) -> list[tuple[str, Estimate | None, Estimate | None]]:
    """The name that is shown and the coverage of each class, or with the width of each band of the reference."""
    digits = digits_of(*study.range_of(target)) if figures.bands else 0
    groups: list[tuple[str, Estimate | None, Estimate | None]]
    groups = [(class_name(study, target, name), figure, None) for name, figure in (figures.by_class or {}).items()]
    for band in figures.bands or ():
        low, high = (None if end is None else number(end, digits) for end in (band.low, band.high))
        groups.append((plain(band.name) or range_name(low, high), band.coverage, band.width))
    return groups


def exceeded(figure: Estimate | None, level: float) -> bool:
    """Whether an observed share is above the level beyond its interval, so that intervals or sets are too wide."""
    return figure is not None and not figure.rough and figure.low is not None and figure.low > level


def missed(figure: Estimate | None, level: float) -> bool:
    """Whether an observed share is below the level beyond its interval; a rough interval never shows it."""
    return figure is not None and not figure.rough and figure.high is not None and figure.high < level
