"""Altered images: how predictions of held-out cases change."""

from __future__ import annotations

from casewise.evaluation.caveats import constant_folds
from casewise.evaluation.results import AlteredAnswers
from casewise.evaluation.robustness import Altered, commonest
from casewise.report.blocks import Cell, Facts, Fold, Row, Section, Table, Text
from casewise.report.context import ReportContext, terms_of
from casewise.report.formatting import capital, class_name, counted, plain, signed
from casewise.report.tables import figure_cell, percent_cell
from casewise.study.learners import learner_name

MOST_LEARNERS = 6
# Of each alteration its name after "when the image is", and how it is made, in the row of the table.
ALTERATIONS = {
    "cropped_rows": ("cropped above and below", "by a tenth of the height"),
    "cropped_rows_stretched": ("cropped above and below, then stretched back", ""),
    "cropped_columns": ("cropped at the sides", "by a tenth of the width"),
    "cropped_columns_stretched": ("cropped at the sides, then stretched back", ""),
    "border_mirrored": ("mirrored along its border", "a strip of a tenth of the shorter side, as letters would be"),
    "recompressed": ("recompressed", "JPEG of quality 30"),
    "brighter": ("made brighter", "grey values to the power of 0.8"),
    "darker": ("made darker", "grey values to the power of 1.25"),
}
METHOD = (
    "Cases are predicted again, with altered images, by models that this study did not train on them. The alterations"
    " are meant to leave the disease visible; this was not checked, and a crop can cut off a finding at the edge."
)
STRETCHED = " A crop also changes the shape of the image; stretched back, it only lacks what was cut off."
ANSWERS = (
    "Changed answers, of all, and of the answers of other classes those that become the class named. Correct: answers"
    " that agree with the reference before and after. It is a warning if a tenth of all answers changes or a class"
    " loses a fifth of its own, and at least three change."
)
NUMBERS = (
    "Mean absolute change of the prediction in points with its interval, then the mean change. It is a warning if the"
    " former is more than half of the learner's mean absolute error on all cases."
)


def section(context: ReportContext) -> Section | None:
    """The effect of each alteration on the learners; None if no altered image was predicted.

    The shown learner is first, if it was tested, then the most affected ones.
    """
    figures = context.metrics.counterfactuals or {}
    effects = {name: max((entry.effect for entry in of.values()), default=0.0) for name, of in figures.items()}
    learners = sorted(figures, key=lambda name: (name != context.learner, -effects[name]))
    if not learners or not figures[learners[0]]:
        return None
    shown, first = learners[:MOST_LEARNERS], figures[learners[0]]
    rows = [Row(_row_name(name), [_cell(context, figures[learner][name]) for learner in shown]) for name in first]
    caption = ANSWERS if any(isinstance(entry, AlteredAnswers) for entry in first.values()) else NUMBERS
    table = Table(["Image", *map(learner_name, shown)], rows, caption, wide=True)
    fold = Fold("The effect of each alteration on each learner", [table])
    return Section(
        "altered-images",
        "Altered images",
        [
            Text(METHOD + STRETCHED * any(name.endswith("_stretched") for name in first), note=True),
            Facts(_facts(context, learners)),
            fold,
        ],
    )


def _facts(context: ReportContext, learners: list[str]) -> list[tuple[str, str]]:
    """The cases, the learners that were not tested, and those that predict nearly the same for every case."""
    figures = context.metrics.counterfactuals or {}
    entries = figures[learners[0]].values()
    cases, subjects, answers = (
        max(getattr(entry, name) for entry in entries) for name in ("cases", "subjects", "answers")
    )
    where = "of the validation set" if context.holdout else "out of fold"
    several = f", with {counted(answers, terms_of(context).noun)} in all" if answers > cases else ""
    facts = [("Cases", f"{cases:,} {where}, from {counted(subjects, context.study.unit)}, drawn by the seed{several}")]
    apart = {*context.learners, context.learner} - set(figures)
    if apart:
        names = sorted(apart, key=lambda name: (name != context.learner, name))
        facts.append(("Not tested", ", ".join(map(learner_name, names))))
    for learner in learners:
        constant, folds = constant_folds(context.predictions, context.outcome, learner)
        if constant:
            where = "the validation set" if context.holdout else f"{constant} of {counted(folds, 'fold')}"
            facts.append(("Nearly constant for unaltered images", f"{learner_name(learner)} in {where}"))
    if len(learners) > MOST_LEARNERS:
        facts.append(("Further learners", f"{len(learners) - MOST_LEARNERS}, in `metrics.json`"))
    return facts


def alteration(name: str) -> str:
    """An alteration as it stands after "when the image is".

    >>> alteration("cropped_rows"), alteration("of_a_plugin")
    ('cropped above and below', 'of a plugin')
    """
    return ALTERATIONS.get(name, (plain(name), ""))[0]


def _row_name(name: str) -> str:
    """The name of an alteration, and how it is made.

    >>> _row_name("recompressed"), _row_name("of_a_plugin")
    ('Recompressed (JPEG of quality 30)', 'Of a plugin')
    """
    method = ALTERATIONS.get(name, ("", ""))[1]
    return capital(alteration(name)) + (f" ({method})" if method else "")


def _cell(context: ReportContext, entry: Altered) -> Cell:
    """The effect of an alteration: changed answers with their share, or the mean absolute change."""
    if not isinstance(entry, AlteredAnswers):
        digits = terms_of(context).digits
        moved = figure_cell(entry.moved, digits)
        small = [moved.small, signed(entry.shift.value, digits)]
        return Cell(moved.text, "; ".join(filter(None, small)), moved.value)
    share, (name, count, total) = percent_cell(entry.share), commonest(entry)
    text = f"{entry.changed} of {entry.answers}"
    if name:
        text += f", {count} of {total} to {class_name(context.study, context.outcome, name)}"
    small_text = f"{share.text} {share.small}".strip()
    if entry.correct["of"]:
        small_text += f"; correct {entry.correct['before']}, then {entry.correct['after']}"
    return Cell(text, small_text, share.value)
