"""Altered images: how predictions of held-out cases change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from casewise.evaluation.caveats import constant_folds
from casewise.evaluation.results import AlteredAnswers
from casewise.evaluation.robustness import Altered, commonest
from casewise.report.blocks import Block, Cell, Facts, Fold, Items, Row, Section, Table, Text
from casewise.report.formatting import capital, counted, plain, signed
from casewise.report.tables import figure_cell, percent_cell
from casewise.report.terms import terms_of, unit_of
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.report.context import ReportContext

MOST_NETWORKS = 6
SAME_CROP = "The same crop, stretched to the former shape before the preparation."
# Of each alteration its name after "when the image is", and how it is made.
ALTERATIONS = {
    "cropped_rows": ("cropped above and below", "A tenth of the height is cut off above and below."),
    "cropped_rows_stretched": ("cropped above and below, then stretched back", SAME_CROP),
    "cropped_columns": ("cropped at the sides", "A tenth of the width is cut off left and right."),
    "cropped_columns_stretched": ("cropped at the sides, then stretched back", SAME_CROP),
    "border_mirrored": (
        "mirrored along its border",
        "In a strip along the four sides, a tenth of the shorter side wide, left and right are exchanged and mirrored,"
        " as letters and markers would be.",
    ),
    "recompressed": ("recompressed", "Saved as a JPEG of quality 30."),
    "brighter": ("made brighter", "Grey values from 0 to 1 to the power of 0.8."),
    "darker": ("made darker", "Grey values from 0 to 1 to the power of 1.25."),
}
METHOD = (
    "Held-out cases are predicted again, with altered images, by the networks of their fold. The alterations are meant"
    " to leave the disease visible; this was not checked, and a crop can cut off a finding at the edge."
)
ANSWERS = (
    "Changed answers, of all, and of the answers of other classes those that become the class named. Brackets:"
    " {confidence} intervals by {unit}. Correct: answers that agree with the reference before and after."
)
NUMBERS = "Mean absolute change of the prediction, in points. Brackets: {confidence} intervals by {unit}."


def section(context: ReportContext) -> Section | None:
    """The effect of each alteration on the networks; None if no altered image was predicted.

    The shown learner is first, if it is a network, then the most affected ones.
    """
    figures = context.metrics.counterfactuals or {}
    effects = {name: max((entry.effect for entry in of.values()), default=0.0) for name, of in figures.items()}
    networks = sorted(figures, key=lambda name: (name != context.learner, -effects[name]))
    if not networks or not figures[networks[0]]:
        return None
    shown, first, terms = networks[:MOST_NETWORKS], figures[networks[0]], terms_of(context)
    rows = [
        Row(capital(alteration(name)), [cell(figures[network][name], terms.digits) for network in shown])
        for name in first
    ]
    caption = ANSWERS if any(isinstance(entry, AlteredAnswers) for entry in first.values()) else NUMBERS
    caption = caption.format(confidence=terms.confidence, unit=unit_of(context.study))
    table = Table(["Image", *map(learner_name, shown)], rows, caption, wide=True)
    meanings = [f"{capital(alteration(name))}: {ALTERATIONS.get(name, ('', ''))[1]}" for name in first]
    blocks: list[Block] = [
        Text(METHOD, note=True),
        Facts(_facts(context, networks)),
        Fold("The effect of each alteration on each network", [table, Items(meanings)]),
    ]
    return Section("altered-images", "Altered images", blocks)


def _facts(context: ReportContext, networks: list[str]) -> list[tuple[str, str]]:
    """The cases, the learners that were not tested, and networks that predict nearly the same for every case."""
    figures = context.metrics.counterfactuals or {}
    entries = figures[networks[0]].values()
    cases, subjects = (max(getattr(entry, name) for entry in entries) for name in ("cases", "subjects"))
    facts = [("Cases", f"{cases:,} of {counted(subjects, unit_of(context.study))}, drawn by the seed")]
    apart = {*context.learners, context.learner} - set(figures)
    if apart:
        names = sorted(apart, key=lambda name: (name != context.learner, name))
        facts.append(("Not tested", ", ".join(map(learner_name, names))))
    for network in networks:
        constant, folds = constant_folds(context.predictions, context.outcome, network)
        if constant:
            where = f"{constant} of {counted(folds, 'fold')}"
            facts.append(("Hardly varies, altered or not", f"{learner_name(network)} in {where}"))
    if len(networks) > MOST_NETWORKS:
        facts.append(("Further networks", f"{len(networks) - MOST_NETWORKS}, in `metrics.json`"))
    return facts


def alteration(name: str) -> str:
    """An alteration as it stands after "when the image is".

    >>> alteration("cropped_rows"), alteration("of_a_plugin")
    ('cropped above and below', 'of a plugin')
    """
    return ALTERATIONS.get(name, (plain(name), ""))[0]


def cell(entry: Altered, digits: int) -> Cell:
    """The effect of an alteration: changed answers with their share, or the mean absolute change."""
    if not isinstance(entry, AlteredAnswers):
        moved = figure_cell(entry.moved, digits)
        small = [moved.small, f"mean change {signed(entry.shift.value, digits)}"]
        return Cell(moved.text, "; ".join(filter(None, small)), moved.value)
    share, (name, count, total) = percent_cell(entry.share), commonest(entry)
    text = f"{entry.changed} of {entry.answers}"
    if name:
        text += f", {count} of {total} to {plain(name)}"
    small_text = f"{share.text} {share.small}".strip()
    if entry.correct.of:
        small_text += f"; correct {entry.correct.before}, then {entry.correct.after}"
    return Cell(text, small_text, share.value)
