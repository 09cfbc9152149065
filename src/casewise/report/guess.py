"""The reported model beside a guess without images: the median of a number, or chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from casewise.evaluation.results import Note
from casewise.metrics.registry import metric_of
from casewise.report.context import ReportContext, defined
from casewise.report.formatting import is_number
from casewise.report.tables import kind_report, verdict_beside


class BesideGuess(NamedTuple):
    """The guess's figure by the metric of comparison, the verdict on the reported model, and whether it is rough."""

    figure: float
    verdict: str
    rough: bool


def beside_guess(context: ReportContext) -> BesideGuess | None:
    """The comparison; None where folds are sources, nothing was evaluated, or a guess has no fixed figure."""
    metric = kind_report(context.kind).compared
    own = defined(context.quoted.get(metric))
    if own is None or context.by_site:
        return None
    if metric == "mae" and (guessed := guessed_median(context)):
        low, high, rough = guessed["gaps"].get(context.learner, (None, None, True))
        gap = {"low": low, "high": high, "rough": rough}
        return BesideGuess(guessed["error"], verdict_beside(gap, 0, metric), rough)
    chance = metric_of(metric).chance if context.classes else None
    return None if chance is None else BesideGuess(chance, verdict_beside(own, chance, metric), bool(own.rough))


class Commonest(NamedTuple):
    """The commonest classes of the evaluated cases, and their share of these."""

    classes: list[str]
    share: float


def commonest(context: ReportContext) -> Commonest:
    """The classes with the most evaluated cases; none without cases."""
    rows = context.headline_rows
    counts = np.bincount(rows["y_true"].to_numpy(int), minlength=len(context.classes))
    if not counts.sum():
        return Commonest([], 0.0)
    return Commonest(
        [context.classes[n] for n in np.flatnonzero(counts == counts.max())], float(counts.max() / counts.sum())
    )


def guessed_median(context: ReportContext) -> Note | None:
    """The record of always predicting the median of the training subjects."""
    for note in context.metrics.notes:
        if note["code"] == "guess_median" and (note["stage"], note["target"]) == (context.stage, context.outcome):
            return note if is_number(note["error"]) else None
    return None
