"""Cases unlike those of the training: a part of the section on the external cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.report.blocks import Block, Cell, Facts, Heading, Row, Table, Text
from casewise.report.formatting import MISSING, capital, counted, interval, number, p_value, plain, signed
from casewise.report.tables import MetricFormat, metric_format, percent_cell
from casewise.report.terms import SIDES, terms_of

if TYPE_CHECKING:
    from casewise.evaluation.results import DriftGap, DriftGroup, Interval, LearnerDrift
    from casewise.report.context import ReportContext

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
NOTE = "A case inside may still be unlike those of the training in ways that these features do not show."


def blocks(context: ReportContext) -> list[Block]:
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
        shown.append(Text(NOTE, note=True))
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
