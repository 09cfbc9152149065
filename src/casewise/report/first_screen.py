"""The first screen: five questions about the reported model, always in the same order.

How far off is it, where does it fail, does something simpler do as well, can it be trusted, what is it and how is it
used. Cells are numbers; headings and captions are fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.metrics.registry import metric_of
from casewise.report.context import EXTERNAL, ReportContext, has_interval, is_number
from casewise.report.formatting import class_name, counted, listed, number, plain, signed
from casewise.report.modality_sections import modality_report
from casewise.report.sections.agreement import score_ranges
from casewise.report.sections.learners import beside_column
from casewise.report.statements import Statement, statements
from casewise.report.tables import VERDICTS, metric_format, verdict, verdict_beside
from casewise.report.target_kind_sections import kind_report
from casewise.report.terms import terms_of
from casewise.study.learners import is_baseline, learner_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from casewise.evaluation.results import Difference

MOST_CLASSES, MOST_RANGES, MOST_SOURCES = 8, 6, 4


@dataclass(frozen=True)
class Size:
    """A large figure of the first card: where it was measured, its text, unit and interval, and a further line."""

    place: str
    text: str
    unit: str
    interval: str
    note: str = ""

    @property
    def described(self) -> str:
        """The unit and the place."""
        return ", ".join(filter(None, [self.unit, self.place]))

    @property
    def details(self) -> str:
        """The interval and the further line."""
        return "; ".join(filter(None, [self.interval, self.note]))


@dataclass(frozen=True)
class Failure:
    """A row of the second card: a range of the score or a class, with its cells.

    Attributes:
        share: the recall of a class, or the error as a share of the largest; None if undefined.
        bar: the width of a bar in percent; 0 for none.
    """

    name: str
    cells: list[str]
    share: float | None = None
    worst: bool = False
    bar: int = 0


@dataclass(frozen=True)
class Rival:
    """A row of the third card: a learner, a guess or a column, its figure, and the verdict on the reported model."""

    name: str
    text: str
    interval: str
    verdict: str = ""
    reported: bool = False

    @property
    def verdict_text(self) -> str:
        """The verdict in words."""
        return VERDICTS[self.verdict] if self.verdict else ""


@dataclass(frozen=True)
class Screen:
    """The values of the first screen."""

    lead: str
    question: str
    evaluated: str
    sizes: list[Size]
    guess: str
    spread: str
    failure_heads: list[str]
    failures: list[Failure]
    more_failures: str
    rival_heads: list[str]
    rivals: list[Rival]
    flags: list[Statement]
    trust: list[Statement]
    model: str


def screen(context: ReportContext) -> Screen:
    """The values of the first screen."""
    holding = statements(context)
    heads, rows = failures(context)
    more = len(context.classes) - MOST_CLASSES
    metric = metric_format(context.study, context.outcome).title(kind_report(context.kind).compared)
    parts = ", ".join(f"{name} {weight}" for name, weight in weights(context))
    return Screen(
        lead=lead(context),
        question="How far off is it?" if not context.classes else "How often is it right?",
        evaluated=evaluated(context),
        sizes=sizes(context),
        guess=guess(context),
        spread=spread(context),
        failure_heads=heads,
        failures=rows,
        more_failures=f"{counted(more, 'more class', 'more classes')} in the table of classes." if more > 0 else "",
        rival_heads=[metric, "", f"{terms_of(context).confidence} interval", "The reported model is"],
        rivals=rivals(context),
        flags=[each for each in holding if each.level == "flag"],
        trust=[each for each in holding if each.level != "flag"],
        model=" ".join(filter(None, [model(context), parts and f"Weights: {parts}.", coverage(context)])),
    )


def lead(context: ReportContext) -> str:
    """The predicted target and the images, below the title."""
    study, terms, names = context.study, terms_of(context), [plain(name) for name in context.classes]
    low, high = context.range_of(context.outcome)
    values = f" ({low:g} to {high:g} points)"
    if names:
        grades = f": {len(names)} grades from {names[0]} to {names[-1]}"
        values = grades if kind_report(context.kind).ordered else f": {listed(names, 'or')}"
    source = modality_report(study).counted(context)
    source += f" of {counted(context.cases['subject'].nunique(), 'subject')}" if study.subjects_known else ""
    source += f" at {counted(len(context.cases), 'visit')}" if context.repeated else ""
    return f"{terms.heading}{values}, predicted from {source}."


# ---------------------------------------------------------------------------------------------------- how far off is it


def evaluated(context: ReportContext) -> str:
    """The cases that the figures are from, and that the networks had not seen them."""
    terms, rows = terms_of(context), context.headline_rows
    if rows.empty:
        return "No case has a reference value: nothing can be evaluated."
    count = counted(len(rows), terms.noun)
    if not context.study.subjects_known:
        return f"{count}. Each was predicted by networks that were not trained on it."
    subjects = counted(int(rows["subject"].nunique()), "subject")
    if context.by_site:
        return f"{count} of {subjects}. Each {context.site} was predicted by networks that were not trained on it."
    if context.stage == "test":
        return f"{count} of {subjects} in a test set. No network was trained on these subjects."
    if context.stage == EXTERNAL:
        return f"{count} of {subjects} of {context.study.external_name}, none of them used for training."
    return f"{count} of {subjects}. Each was predicted by networks that were not trained on the subject."


def sizes(context: ReportContext) -> list[Size]:
    """The headline figure of the study and, if there is one, of the external cohort."""
    metric = kind_report(context.kind).headline
    here = context.headline_figure(metric)
    outside = context.metric(EXTERNAL, context.learner, metric) if context.stage != EXTERNAL else None
    shown = [_size(context, metric, here, "here" if outside else "")] if here else []
    return [*shown, _size(context, metric, outside, context.study.external_name or "elsewhere")] if outside else shown


def _size(context: ReportContext, metric: str, figure: Mapping[str, Any], place: str) -> Size:
    write = metric_format(context.study, context.outcome)
    text = write.text(metric, figure["value"], short=True, unit=False)
    units = {"mae": "points on average", "accuracy": f"% of {terms_of(context).noun}s right"}
    unit = units.get(metric, write.phrase(metric))
    bounds = write.bounds(metric, figure, words=True, short=True)
    interval = f"{terms_of(context).confidence} interval {bounds}" if bounds else str(figure.get("reason") or "")
    if bounds and figure.get("rough"):
        interval += ", rough: few subjects"
    note = ""
    if context.by_site and place in ("", "here"):
        note = f"mean over {counted(len(figure.get('sources') or []), context.site)}"
    return Size(place, text, unit, interval, note)


def guess(context: ReportContext) -> str:
    """What a guess without images reaches; empty if the run has no record of it."""
    terms, write = terms_of(context), metric_format(context.study, context.outcome)
    if context.by_site:
        return ""
    if not context.classes:
        error = guessed_error(context)
        return "" if error is None else f"Guessing the average: {write.text('mae', error)} points"
    rows = context.headline_rows
    if rows.empty:
        return ""
    counts = np.bincount(rows["y_true"].to_numpy(int), minlength=len(context.classes))
    names = [
        class_name(context.study, context.outcome, context.classes[i]) for i in np.flatnonzero(counts == counts.max())
    ]
    share = 100 * counts.max() / counts.sum()
    return f"Always naming {listed(names, 'or')}: {share:.0f} % of the {terms.noun}s"


def guessed_error(context: ReportContext) -> float | None:
    """The error of always predicting the mean of the training subjects."""
    for note in context.metrics.notes:
        if note["code"] == "guess_mean" and (note["stage"], note["target"]) == (context.stage, context.outcome):
            return float(note["error"]) if is_number(note["error"]) else None
    return None


def spread(context: ReportContext) -> str:
    """Of numbers how far off half and nine in ten predictions are; of classes the AUROC or the weighted kappa."""
    terms, rows, write = terms_of(context), context.headline_rows, metric_format(context.study, context.outcome)
    if rows.empty:
        return ""
    if not context.classes:
        half, most = (
            number(value, terms.digits) for value in (rows["y_pred"] - rows["y_true"]).abs().quantile([0.5, 0.9])
        )
        return f"Half of the {terms.noun}s within {half}, nine in ten within {most}"
    metric = kind_report(context.kind).compared
    figure = context.headline_figure(metric)
    if not figure:
        return ""
    value, bounds = (
        write.text(metric, figure["value"], short=True),
        write.bounds(metric, figure, words=True, short=True) + _rough(figure),
    )
    chance = metric_of(metric).chance
    inside = [bounds, "" if chance is None else f"{number(chance, 1)} by chance"]
    details = "; ".join(filter(None, inside))
    return f"{write.title(metric)} {value} ({details})" if bounds else f"{write.title(metric)} {value}"


# -------------------------------------------------------------------------------------------------- where does it fail


def failures(context: ReportContext) -> tuple[list[str], list[Failure]]:
    """The heads and the rows of the second card."""
    if context.headline_rows.empty:
        return [], []
    return _failing_classes(context) if context.classes else _failing_ranges(context)


def _failing_ranges(context: ReportContext) -> tuple[list[str], list[Failure]]:
    terms, write = terms_of(context), metric_format(context.study, context.outcome)
    ranges = score_ranges(context)[:MOST_RANGES]
    errors = [each.error for each in ranges]
    if len(ranges) < 2:
        return [], []
    worst = max(errors)
    rows = []
    for each in ranges:
        bias = each.figures["bias"]
        leaning = signed(bias.value, write.digits("bias")) if is_number(bias.value) else ""
        bounds = write.bounds("bias", bias, words=True) + _rough(bias)
        rows.append(
            Failure(
                each.name,
                [f"{each.count:,}", write.text("mae", each.error), f"{leaning} ({bounds})" if bounds else leaning],
                share=each.error / worst if worst else 0.0,
                worst=each.error == worst,
                bar=round(40 * each.error / worst) if worst else 0,
            )
        )
    return ["Reference", f"{terms.noun}s".capitalize(), "Average error", "Leaning"], rows


def _failing_classes(context: ReportContext) -> tuple[list[str], list[Failure]]:
    here = context.class_entry(context.stage, context.learner)
    outside = context.class_entry(EXTERNAL, context.learner) if context.stage != EXTERNAL else {}
    if not here:
        return [], []
    names = [class_name(context.study, context.outcome, name) for name in here["names"]]
    counts = np.asarray(here["confusion"])
    elsewhere = np.asarray(outside["confusion"]) if outside else None
    totals = counts.sum(axis=1)
    recall = np.divide(np.diag(counts), totals, out=np.full(len(names), np.nan), where=totals > 0)
    lowest = float(np.nanmin(recall)) if np.isfinite(recall).any() else np.nan
    rows = []
    for i, name in enumerate(names[:MOST_CLASSES]):
        wrong = counts[i].copy()
        wrong[i] = 0
        cells = [_of(counts, i)]
        cells += [_of(elsewhere, i)] if elsewhere is not None else []
        cells.append(names[int(wrong.argmax())] if wrong.sum() else "–")
        share = None if np.isnan(recall[i]) else float(recall[i])
        rows.append(Failure(name, cells, share, worst=share is not None and share == lowest and share < 1))
    found = (
        ["Found here", f"Found, {context.study.external_name or 'elsewhere'}"] if elsewhere is not None else ["Found"]
    )
    return ["Reference", *found, "Most often taken for"], rows


def _of(counts: np.ndarray, i: int) -> str:
    return f"{counts[i, i]:,} of {counts[i].sum():,}" if counts[i].sum() else "no case"


# ------------------------------------------------------------------------------------ does something simpler do as well


def rivals(context: ReportContext) -> list[Rival]:
    """The reported model, the best baseline, a guess, and the column of the table that predicts the classes."""
    write, metric = metric_format(context.study, context.outcome), kind_report(context.kind).compared
    figure = context.headline_figure(metric)
    if not figure:
        return []
    rows = [_rival(context, f"reported: {learner_name(context.learner)}", figure, reported=True)]
    compared = context.metrics.against_baselines
    if compared and not context.by_site:
        beside = context.metric(compared.stage, compared.baseline, metric)
        rows += (
            [
                _rival(
                    context,
                    learner_name(compared.baseline),
                    beside,
                    _verdict(compared.differences.get(metric), metric),
                )
            ]
            if beside
            else []
        )
    chance = metric_of(metric).chance if context.classes else guessed_error(context)
    if chance is not None and not context.by_site:
        rows.append(
            Rival(
                "a guess without images",
                write.text(metric, chance, short=True),
                "",
                verdict_beside(figure, chance, metric),
            )
        )
    if context.classes and (column := beside_column(context)):
        for row in [row for row in column.rows if row.alone is not None][:2]:
            name = f"column “{column.name}” alone, no image"
            name += f" ({row.name})" if context.study.positive_of(context.outcome) is None else ""
            rows.append(Rival(name, number(row.alone, 2), "", row.verdict))
    return rows


def _verdict(difference: Difference | None, metric: str) -> str:
    """The verdict on the reported model by its difference from another one."""
    return verdict(difference.low, difference.high, metric) if difference else "untested"


def _rival(
    context: ReportContext, name: str, figure: Mapping[str, Any], code: str = "", *, reported: bool = False
) -> Rival:
    write, metric = metric_format(context.study, context.outcome), kind_report(context.kind).compared
    text = write.text(metric, figure["value"], short=True)
    bounds = write.bounds(metric, figure, words=True, short=True) + _rough(figure)
    return Rival(name, text, bounds, code, reported)


def _rough(figure: Mapping[str, Any]) -> str:
    """A mark behind an interval that rests on too few subjects."""
    return ", rough" if has_interval(figure) and figure.get("rough") else ""


# ---------------------------------------------------------------------------------- what the model is, how it is used


def model(context: ReportContext) -> str:
    """What the reported model is made of."""
    learner, study = context.learner, context.study
    folds = sum(job["model"] == learner for job in context.jobs)
    if is_baseline(learner):
        return f"The {learner_name(learner)}, a model without a trained network."
    if learner in study.networks:
        return (
            f"One network, {learner}, trained {folds} times, on different folds."
            if folds > 1
            else f"One network, {learner}."
        )
    if learner in context.stackers:
        count = len(weights(context))
        parts = counted(count, "learner")
        return f"The {learner_name(learner)} of {parts}, each trained once a fold."
    return f"The {learner_name(learner)}."


def weights(context: ReportContext) -> list[tuple[str, str]]:
    """The weight of each part of a combined model, its range over the outputs; empty for other models."""
    by_output = context.stackers.get(context.learner) or {}
    parts: dict[str, list[float]] = {}
    for entry in by_output.values():
        for name, weight in (entry.get("weights") or {}).items() if isinstance(entry, dict) else ():
            if is_number(weight):
                parts.setdefault(str(name), []).append(float(weight))
    return [(learner_name(name), _range(values)) for name, values in parts.items()]


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values), 2), number(max(values), 2)
    return low if low == high else f"{low} to {high}"


def coverage(context: ReportContext) -> str:
    """The interval or set that a prediction comes with; empty without one."""
    record = context.metrics.prediction_sets
    entry = record.targets.get(context.outcome) if record else None
    if record is None or entry is None:
        return ""
    level = f"{100 * record.level:g} %"
    if context.classes:
        return f"A prediction comes with a set of classes that should hold the true one in {level} of new cases."
    half = entry.calibration.get("quantile")
    if half is None:
        return ""
    return f"A prediction comes with a {level} interval (± {number(half, terms_of(context).digits)} points)."
