"""Prediction intervals and sets of the shown learner, and how often they contain the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.report.blocks import Block, Cell, Facts, Row, Section, Table, Text
from casewise.report.formatting import capital, counted, number, plain
from casewise.report.tables import figure_cell, metric_format, percent_cell
from casewise.report.terms import SIDES, terms_of
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.evaluation.figures import StageCoverage
    from casewise.evaluation.results import Results
    from casewise.report.context import ReportContext
    from casewise.study.schema import Study

NUMBERS = (
    "The interval of a new case is its prediction plus and minus the half width, within the range of the target. It was"
    " calibrated on the errors of out-of-fold predictions, in which each {unit} counts equally."
)
CLASSES = (
    "The set of a new case holds the classes that its probabilities do not exclude. It was calibrated for each class on"
    " out-of-fold predictions, in which each {unit} with the class counts equally. A class with too few of them"
    " is in every set."
)
READING = (
    "Coverage: the share of cases whose interval or set contains the reference. Out of fold, the intervals of a fold"
    " are calibrated on the other folds. Out-of-fold predictions are those of single networks, while new cases are"
    " predicted by their mean, for which the level is not proven. It is meant for cases like those of the calibration."
)


def section(context: ReportContext) -> Section | None:
    """The calibration of the intervals or sets and their coverage by stage; None if there are none."""
    study, metrics, terms = context.study, context.metrics, terms_of(context)
    facts, rows = calibrated(study, metrics), coverage(study, metrics)
    if not metrics.prediction_sets or not facts:
        return None
    classes, unit = bool(context.classes), "subject" if study.subjects_known else "image"
    blocks: list[Block] = [Facts(facts), Text((CLASSES if classes else NUMBERS).format(unit=unit), note=True)]
    if rows:
        columns = ["", f"{capital(unit)}s", "Coverage", *(["Mean size", "One class"] if classes else ["Mean width"])]
        caption = f"Learner: {learner_name(context.learner)}. Brackets: {terms.confidence} intervals by {unit}."
        blocks += [Table(columns, rows, caption), Text(READING, note=True)]
    return Section("prediction-sets", f"Prediction {'sets' if classes else 'intervals'}", blocks)


def calibrated(study: Study, metrics: Results) -> list[tuple[str, str]]:
    """The level, the subjects of the calibration, and the half width or the classes that are in every set."""
    record, target = metrics.prediction_sets, str(metrics.main.target)
    if record is None or target not in record.targets:
        return []
    calibration, classes = record.targets[target].calibration, study.classes_of(target)
    unit = "subject" if study.subjects_known else "image"
    facts = [("Level aimed at", f"{100 * record.level:g} % of new {unit}s")]
    if not classes:
        half = number(calibration["quantile"], metric_format(study, target).digits("mae"))
        few = f"none: {record.fewest} {unit}s are needed"
        return [
            *facts,
            ("Calibrated on", counted(calibration["subjects"], unit)),
            ("Half width", few if calibration["quantile"] is None else half),
        ]
    for name, of_class in zip(classes, calibration["classes"], strict=True):
        few = f"in every set: {record.fewest} {unit}s are needed" if of_class["quantile"] is None else ""
        count = counted(of_class["subjects"], unit)
        facts.append((plain(name), f"calibrated on {count}" + (f", {few}" if few else "")))
    return facts


def coverage(study: Study, metrics: Results) -> list[Row]:
    """A line for each stage with intervals or sets and, where there are classes, one for each class."""
    record, target = metrics.prediction_sets, str(metrics.main.target)
    if record is None:
        return []
    digits = metric_format(study, target).digits("mae")
    return [row for stage, figures in record.targets[target].stages.items() for row in _rows(stage, figures, digits)]


def _rows(stage: str, figures: StageCoverage, digits: int) -> list[Row]:
    if figures.coverage is None:
        return []
    name, subjects = capital(SIDES[stage]), Cell(number(figures.coverage.n_subjects, 0))
    covered = percent_cell(figures.coverage)
    if figures.size is None:
        return [Row(name, [subjects, covered, figure_cell(figures.width, digits)])]
    rows = [Row(name, [subjects, covered, figure_cell(figures.size, 1), percent_cell(figures.single)])]
    for label, figure in (figures.by_class or {}).items():
        count = number(figure.n_subjects if figure else 0, 0)
        rows.append(Row(plain(label), [Cell(count), percent_cell(figure), Cell(""), Cell("")], inner=True))
    return rows
