"""Sections of targets that are numbers: model and reference, change over time, ranges, regions and further targets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from casewise.cohort.targets import target_columns
from casewise.evaluation.agreement import band_of
from casewise.evaluation.bootstrap import Plan, by_subject
from casewise.evaluation.evaluate import one_row_a_case
from casewise.evaluation.figures import READERS, ByMetric, Estimate
from casewise.evaluation.response import HIGHEST_RISE
from casewise.evaluation.results import Response, ResponseRates
from casewise.predictions.conformal import number_of_band, thirds
from casewise.predictions.scores import scored
from casewise.report import blocks as doc
from casewise.report.context import (
    RESPONSE_SIDES,
    SIDES,
    ReportContext,
    defined,
    evaluated,
    evaluated_on,
    terms_of,
    titled,
)
from casewise.report.figures import agreement as draw
from casewise.report.figures.drawing import Look
from casewise.report.formatting import capital, counted, digits_of, display_name, number, response_name, shortened
from casewise.report.sections.classes import further_tables, pooled
from casewise.report.tables import figure_cell, metric_format, percent_cell, split_key
from casewise.study.learners import learner_name
from casewise.study.schema import Study

MOST_TRACKS, FIRST_TRACKS, MOST_SCATTERS, MOST_VISITS = 24, 4, 8, 16
KAPPA_DIGITS = 2

SCATTER = "Solid: both are equal. Dashed: the limits of agreement."
DIFFERENCE = (
    "Above zero the model scores higher than the reference. Shaded: the intervals of the lines. Dotted: the"
    " proportional bias, where its interval excludes 0."
)
TRACKS = (
    "Black, solid: reference; blue, dashed: model. Above a plot: {change}the mean error of the subject’s visits. The"
    " first subjects are evenly spaced from the smallest to the largest mean error."
)
UNDATED = (
    "The study has no day of some visit for {count} of {total}. Their visits are in the order of their names, which"
    " may differ from the order in time{response}."
)
RESPONSE = (
    "Visits after the baseline, {side}, at which the score had fallen by at least the stated percentage, of {visits}"
    " of {subjects}."
)
VISITS = "Responders at each visit, reference / model."
LEFT_OUT = {
    "no_baseline": "no scored baseline visit",
    "baseline_not_scored": "baseline not scored",
    "physician_baseline_zero": "baseline of zero, from which there is no percent change",
    "no_later_score": "no scored visit after the baseline",
    "model_baseline_zero": "the model predicts a baseline of zero",
}
BANDS = "{noun}s by severity band, {place}."
SCATTERS = "Prediction against the reference value, {side}."
JITTER = " Whole numbers are jittered."
RANGES = "{place}. The cases and the bias of each range are on the first screen."
READERS_CAPTION = (
    "{target}, {side}. The less readers agree with each other, the less a model can agree with each of them."
    " Compare the model with readers within this table only: the mean of several readers varies less than one reader."
)
TARGETS = "{learner}, {side}. The first row of a target is for all its regions together.{count}"


def agreement(context: ReportContext) -> doc.Section | None:
    """The scatter and the Bland–Altman plot of the primary outcome, with bias and limits; None if it has classes."""
    rows, figures = titled(context, context.headline_rows), context.figures(context.stage, context.learner)
    if context.classes or rows.empty or (limits := limits_from(figures)) is None:
        return None
    label, write = display_name(context.study, context.outcome), context.write
    slope = _shown_slope(figures.get("proportional_bias"))
    scatter = draw.scatter(rows, limits=limits, scale=context.range_of(context.outcome), label=label)
    difference = draw.bland_altman(rows, limits=limits, label=label, digits=write.digits("mae"), slope=slope)
    plots = [
        doc.Plot(scatter, f"{capital(label)}: prediction against the reference.", SCATTER),
        doc.Plot(
            difference, f"{capital(label)}: difference between model and reference against their mean.", DIFFERENCE
        ),
    ]
    names = [name for name in ("bias", "loa_low", "loa_high", "proportional_bias") if name in figures]
    units = {"proportional_bias": "slope on the mean of both"}
    titles = {name: f"{write.title(name)}, {units.get(name, 'points')}" for name in names}
    lines = [doc.Row(titles[name], [figure_cell(figures[name], write.digits(name), sign=True)]) for name in names]
    table = doc.Table(["Model − reference", "Value"], lines, evaluated(context))
    return doc.Section("agreement", "Model and reference", [doc.Plots(plots), table, *pooled(context)])


def _shown_slope(figure: Estimate | None) -> float | None:
    """The slope of the difference on the mean if it is drawn: its interval is not rough and excludes 0 as printed."""
    if figure is None or figure.rough or figure.value is None or figure.low is None or figure.high is None:
        return None
    return None if round(figure.low, 2) <= 0 <= round(figure.high, 2) else figure.value


def limits_from(estimates: ByMetric) -> draw.Limits | None:
    """Limits of agreement among the metrics of one learner; None for fewer than three cases."""
    figures = [figure for name in ("bias", "loa_low", "loa_high") if (figure := defined(estimates.get(name)))]
    if len(figures) < 3:
        return None
    edges = [(f.low, f.high) if f.low is not None and f.high is not None else None for f in figures]
    bias, low, high = (float(f.value or 0.0) for f in figures)
    return draw.Limits(bias, low, high, *edges)


# ------------------------------------------------------------------------------------------------------ over time


def over_time(context: ReportContext) -> doc.Section | None:
    """A small figure per subject, and the responders; None if no subject has two visits, or the outcome has classes."""
    study = context.study
    own = context.final["model"].eq(context.learner) & context.final["stage"].eq(context.stage)
    rows = one_row_a_case(context.final[own & context.final["target"].eq(context.outcome)])
    visits = not context.classes and not study.subjects_guessed  # guessed subjects have images in no order of time
    tracks = [] if rows is None or not visits else draw.tracks(rows, baseline=study.evaluation.baseline)
    if not tracks:
        return None
    shown = draw.chosen_tracks(tracks, MOST_TRACKS)
    first = {track.subject for track in draw.chosen_tracks(shown, FIRST_TRACKS)}
    shown.sort(key=lambda track: track.subject not in first)
    days = all(np.isfinite(track.days).all() for track in shown)
    plots = _trajectories(context, shown, days=days)
    caption = TRACKS.format(change="the change from baseline in percent, and " * study.evaluation.response)
    blocks: list[doc.Block] = [doc.Plots(plots[:FIRST_TRACKS], caption, layout="multiples")]
    if others := plots[FIRST_TRACKS:]:
        title = f"{counted(len(others), 'further subject')} of {len(tracks)}"
        title += f"; {len(tracks) - len(shown)} are not drawn" if len(tracks) > len(shown) else ""
        blocks.append(doc.Fold(title, [doc.Plots(others, layout="multiples")]))
    if undated := sum(not np.isfinite(track.days).all() for track in tracks):
        total, rests = (
            counted(len(tracks), "subject"),
            "; their response rests on it" if context.metrics.response else "",
        )
        blocks.append(doc.Text(UNDATED.format(count=undated, total=total, response=rests)))
    for stage in dict.fromkeys([context.stage, *RESPONSE_SIDES]):
        entry = context.metrics.response.get(stage, {}).get(context.learner)
        if entry and (response := _response_blocks(context, entry, stage)):
            title = f"Response {RESPONSE_SIDES[stage]}: agreement at each threshold, and responders by visit"
            blocks.append(doc.Fold(title, response, needed=stage == context.stage))
    return doc.Section("time", "Change over time" if days else "Visits of each subject", blocks)


def _trajectories(context: ReportContext, tracks: list[draw.Track], *, days: bool) -> list[doc.Plot]:
    digits, label = terms_of(context).digits, display_name(context.study, context.outcome)
    top = max(float(np.nanmax([*track.physician, *track.model])) for track in tracks) or 1.0
    evenly, change = draw.spaced_evenly(tracks), context.study.evaluation.response
    look: Look = {"top": top, "evenly": evenly, "days": days, "change": change, "digits": digits, "label": label}
    plots = []
    for i, track in enumerate(tracks):
        visits = zip(track.names, track.physician, track.model, strict=True)
        values = [f"{name}: {number(own, digits)} and {number(guess, digits)}" for name, own, guess in visits]
        alt = f"Subject {track.subject}, {label} by visit, reference and model: {', '.join(values[:12])}."
        plots.append(doc.Plot(draw.trajectory(track, **look, name=f"track{i}"), alt))
    return plots


def _response_blocks(context: ReportContext, entry: Response, stage: str) -> list[doc.Block]:
    """Responders by reference and by model at each threshold and visit, and the subjects that are left out."""
    blocks: list[doc.Block] = []
    if entry.responders:
        heads = ["Response", "Reference", "Model", "Both", "Agreement", "If nobody were named", "Kappa"]
        sizes = {"visits": counted(entry.n_visits, "visit"), "subjects": counted(entry.n_subjects, "subject")}
        caption = RESPONSE.format(side=RESPONSE_SIDES[stage], **sizes)
        change, bias = (figure_cell((entry.change or {}).get(name), 0, sign=name == "bias") for name in ("mae", "bias"))
        facts = [
            ("Baseline", f"{entry.baseline}. {entry.clear_rule}"),
            ("Mean absolute difference in percent change", f"{change.text} {change.small}".strip()),
            ("Bias of percent change, model − reference", f"{bias.text} {bias.small}".strip()),
            ("In both, a rise from baseline", f"counts as {HIGHEST_RISE:g} % at most"),
        ]
        left_out = {LEFT_OUT[code]: len(subjects) for code, subjects in entry.undefined.items() if subjects}
        facts += [(f"Left out: {why}", counted(count, "subject")) for why, count in left_out.items()]
        blocks += [doc.Table(heads, _response_rows(context, entry), caption), doc.Facts(facts)]
    visits = entry.by_visit or {}
    if len(visits) > 1:
        names = [response_name(context.study, name) for name in next(iter(visits.values())).rates]
        rows = _visit_rows(entry)
        if len(visits) > MOST_VISITS:
            rows.append(doc.Row(f"{len(visits) - MOST_VISITS} further visits", [""] * (1 + len(names))))
        blocks.append(doc.Table(["Visit", f"{capital(context.study.unit)}s", *names], rows, VISITS))
    return blocks


def _response_rows(context: ReportContext, entry: Response) -> list[doc.Row]:
    """Responders by reference and by model at each threshold, with their agreement."""
    rows = []
    for threshold, figures in (entry.responders or {}).items():
        (neither, model_only), (physician_only, both) = figures.confusion
        total = max(neither + model_only + physician_only + both, 1)
        counts = (physician_only + both, model_only + both)
        cells = [doc.Cell(str(count), f"{100 * count / total:.0f} %") for count in counts]
        cells += [doc.Cell(str(both)), percent_cell(figures.agreement)]
        cells += [doc.Cell(f"{100 * (neither + model_only) / total:.0f} %"), figure_cell(figures.kappa, KAPPA_DIGITS)]
        rows.append(doc.Row(response_name(context.study, threshold), cells))
    return rows


def responders_found(context: ReportContext) -> str:
    """At the highest threshold with responders, how many the model finds, and how many others it names."""
    entry = context.metrics.response.get(context.stage, {}).get(context.learner)
    for threshold, figures in reversed(list((entry.responders or {}).items()) if entry else []):
        (neither, model_only), (physician_only, both) = figures.confusion
        if responders := physician_only + both:
            name, others = response_name(context.study, threshold), neither + model_only
            return f"{name}: {both} of {responders} responders found, {model_only} of {others} others called so"
    return ""


def _visit_rows(entry: Response) -> list[doc.Row]:
    """Responders at each visit, reference / model, one column per threshold."""
    rows = []
    for visit, figures in list((entry.by_visit or {}).items())[:MOST_VISITS]:
        rows.append(doc.Row(shortened(visit, 30), [str(figures.n_subjects), *responder_cells(figures)]))
    return rows


def responder_cells(figures: ResponseRates) -> list[doc.Cell]:
    """Responders at a visit, reference / model, with the shares below, one cell per threshold."""
    cells = []
    for rates in figures.rates.values():
        physician, model = (rates[side].value or 0.0 for side in ("physician", "model"))
        counts = (f"{share * figures.n_subjects:.0f}" for share in (physician, model))
        cells.append(doc.Cell(" / ".join(counts), f"{100 * physician:.0f} / {100 * model:.0f} %"))
    return cells


# --------------------------------------------------------------------------------------- ranges, regions, targets


@dataclass(frozen=True)
class _ScoreRange:
    """Cases and subjects of one range of the reference, and the model's mean error and bias there.

    `figures` are the metrics `mae` and `bias` with their intervals.
    """

    name: str
    count: int
    subjects: int
    figures: ByMetric

    @property
    def error(self) -> float:
        return float(self.figures["mae"].value or 0.0)


def score_ranges(context: ReportContext) -> list[_ScoreRange]:
    """The model's error in each severity band, or in thirds of the reference values without bands."""
    rows, study = context.headline_rows, context.study
    if rows.empty:
        return []
    truth = rows["y_true"].to_numpy(float)
    if study.evaluation.bands:
        names = sorted(study.evaluation.bands, key=study.evaluation.bands.__getitem__)
        index = band_of(truth, study.evaluation.bands)
    else:
        edges, digits = thirds(truth), digits_of(*context.range_of(context.outcome))
        index = number_of_band(truth, edges)
        ends = [None, *(number(edge, digits) for edge in edges), None]
        names = [range_name(*pair) for pair in pairwise(ends)]
    groups = [(name, rows[index == i]) for i, name in enumerate(names)]
    return [_score_range(name, own, study) for name, own in groups if len(own)]


def _score_range(name: str, rows: pd.DataFrame, study: Study) -> _ScoreRange:
    truth, predicted = (rows[column].to_numpy(float) for column in ("y_true", "y_pred"))
    plan = Plan(confidence=study.evaluation.confidence, seed=study.seed, unit=study.unit)
    figures = by_subject(truth, {name: predicted}, rows["subject"].to_numpy(), plan)[name]
    shown = {metric: figures[metric] for metric in ("mae", "bias")}
    return _ScoreRange(name, len(rows), int(rows["subject"].nunique()), shown)


def right_in_band(context: ReportContext) -> dict[str, str]:
    """By severity band, how many of its cases the model puts into it; empty without bands."""
    bands = context.metrics.bands
    entry = bands.stages.get(context.stage, {}).get(context.learner) if bands else None
    if bands is None or entry is None:
        return {}
    rows = zip(bands.lower_bounds, entry.confusion, strict=True)
    return {name: f"{counts[n]} of {sum(counts)}" for n, (name, counts) in enumerate(rows)}


def range_name(low: str | None, high: str | None) -> str:
    """The range between two ends, None where it is open.

    >>> range_name(None, "1"), range_name("1", "10"), range_name("10", None)
    ('below 1', '1 to below 10', '10 or more')
    """
    if low is None:
        return f"below {high}"
    return f"{low} or more" if high is None else f"{low} to below {high}"


def detail(context: ReportContext) -> doc.Section | None:
    """Every target and region that is a number, with intervals, severity bands and readers; None without any."""
    blocks, write = _band_blocks(context), context.write
    ranges = [] if context.classes else score_ranges(context)
    if len(ranges) > 1:
        rows = [doc.Row(band.name, [str(band.subjects), write.cell("mae", band.figures["mae"])]) for band in ranges]
        caption = RANGES.format(place=capital(evaluated_on(context, context.stage)))
        by_range = doc.Table(["Reference", f"{capital(context.study.unit)}s", write.title("mae")], rows, caption)
        blocks.append(doc.Fold("Error by range of the score, with intervals", [by_range]))
    blocks.append(doc.Fold("Agreement between readers, and of the model with each", _reader_tables(context)))
    plots = _scatters(context)
    layout = "multiples small" if len(plots) > 3 else "multiples"
    jittered = any(draw.are_jittered(*each) for each in _of_scatters(context).values())
    all_plots = doc.Plots(plots, SCATTERS.format(side=SIDES[context.stage]) + JITTER * jittered, layout)
    blocks.append(doc.Fold("Plots of further targets", [all_plots]))
    tables = [target_table(context, stage) for stage in context.stages]
    further = [] if context.classes else further_tables(context)
    blocks.append(doc.Fold("Tables of every target and region, with intervals", [*tables, *further]))
    of_numbers = "Severity bands" if context.metrics.bands else "Detail"
    heading = (
        "Further targets" if context.classes else "Regions and components" if context.study.regions else of_numbers
    )
    return doc.Section("targets", heading, blocks)


def _band_blocks(context: ReportContext) -> list[doc.Block]:
    """The severity bands of reference and model, and their agreement; empty if the study has no bands."""
    bands = context.metrics.bands
    entry = bands.stages.get(context.stage, {}).get(context.learner) if bands else None
    if bands is None or entry is None:
        return []
    names = list(bands.lower_bounds)
    ends = [None, *(f"{edge:g}" for edge in list(bands.lower_bounds.values())[1:]), None]
    bounds = [range_name(*pair) for pair in pairwise(ends)]
    rows = zip(names, bounds, entry.confusion, strict=True)
    lines = [doc.counts_line(f"{name}, {bound}", counts) for name, bound, counts in rows]
    caption = BANDS.format(noun=capital(terms_of(context).noun), place=evaluated_on(context, context.stage))
    kappas = (figure_cell(figure, KAPPA_DIGITS) for figure in (entry.kappa, entry.kappa_quadratic))
    cells = zip(("Agreement", "Kappa", "Weighted kappa"), (percent_cell(entry.agreement), *kappas), strict=True)
    return [
        doc.Heading("Severity bands"),
        doc.Matrix(doc.Counts(names, lines), caption, "reference", "model:"),
        doc.Facts([(name, f"{cell.text} {cell.small}".strip()) for name, cell in cells]),
    ]


def _scatters(context: ReportContext) -> list[doc.Plot]:
    plots: list[doc.Plot] = []
    by_target = _of_scatters(context)
    width = 176.0 if len(by_target) > 3 else 260.0
    for i, (target, (rows, scale)) in enumerate(by_target.items()):
        name = display_name(context.study, target)
        drawing = draw.small_scatter(rows, scale=scale, title=name, name=f"target{i}", width=width)
        alt = f"{name}: predicted against reference values, {counted(len(rows), 'value')}."
        plots.append(doc.Plot(drawing, alt))
    return plots


def _of_scatters(context: ReportContext) -> dict[str, tuple[pd.DataFrame, tuple[float, float]]]:
    """By further target that is a number its rows, and its range."""
    study = context.study
    names = dict.fromkeys([*study.scores, *study.outputs])
    others = [name for name in names if name != context.outcome and not study.classes_of(name)][:MOST_SCATTERS]
    rows = {name: titled(context, context.rows(context.stage, context.learner, name)) for name in others}
    return {name: (own, context.range_of(name)) for name, own in rows.items() if not own.empty}


def target_table(context: ReportContext, stage: str) -> doc.Table:
    """One line per target that is a number, then its regions, for the shown learner."""
    study, figures = context.study, context.metrics.figures
    by_key = {key: figures.of(stage, context.learner, key) for key in figures.names("target", stage=stage)}
    by_key = {key: own for key, own in by_key.items() if own}
    order = ["", *dict.fromkeys([context.outcome, *study.scores, *study.targets, *study.regions])]
    keys = [(*split_key(key), key) for key in by_key if not study.classes_of(split_key(key)[0])]
    rows = []
    for target, region, key in sorted(keys, key=lambda key: [order.index(name) for name in key[:2] if name in order]):
        low, high = context.range_of(target)
        scale = "" if region and target in by_key else f"{low:g} to {high:g}"
        cells = [doc.Cell(scale), *_figures(context, by_key[key], target, "targets")]
        rows.append(doc.Row(region or display_name(study, target), cells, inner=bool(region)))
    names = [context.write.title(name) for name in context.number_columns("targets")]
    heads, counts = ["Target", "Scale", *names, "n"], {row.cells[-1].text for row in rows}
    if len(counts) == 1:
        heads, rows = heads[:-1], [replace(row, cells=row.cells[:-1]) for row in rows]
    count = f" n = {counts.pop()} each." if len(counts) == 1 else ""
    caption = TARGETS.format(learner=learner_name(context.learner), side=evaluated_on(context, stage), count=count)
    return doc.Table(heads, rows, caption, wide=True)


def _figures(context: ReportContext, figures: ByMetric, target: str, table: str) -> list[doc.Cell]:
    """The figures of one line of a table of numbers, and the number of cases."""
    write = metric_format(context.study, target)
    count = next((figure.n_cases for figure in figures.values()), None)
    return [
        *(write.cell(name, figures.get(name)) for name in context.number_columns(table)),
        doc.Cell(number(count, 0)),
    ]


def _reader_tables(context: ReportContext) -> list[doc.Block]:
    """For each target scored by readers: pairs of readers, then the model with each reader, marked."""
    readers = context.metrics.figures.select(population=READERS)
    pairs = readers.select(stage=context.stage, learner="") or readers.select(stage="all")
    with_model = readers.select(stage=context.stage, learner=context.learner)
    names = [context.write.title(name) for name in context.number_columns("readers")]
    tables: list[doc.Block] = []
    for key in dict.fromkeys(cell.target for cell in (*pairs.cells, *with_model.cells) if "[" not in cell.target):
        lines = [
            (cell.group.replace(" | ", " and ") or f"model and {cell.contrast}", figures, bool(cell.contrast))
            for cell, figures in (*pairs.cells.items(), *with_model.cells.items())
            if cell.target == key
        ]
        rows = [doc.Row(name, _figures(context, figures, key, "readers"), mark=model) for name, figures, model in lines]
        caption = READERS_CAPTION.format(target=capital(display_name(context.study, key)), side=SIDES[context.stage])
        tables.append(doc.Table(["Between", *names, "n"], rows, caption))
    return tables


def between_columns(context: ReportContext) -> tuple[float, float, float] | None:
    """How far two columns are apart whose mean is the reference, such as readers, and how far the model is from each.

    They are mean absolute differences in the evaluated cases with both; None where cases have several rows, or without
    such cases.
    """
    study, images, targets = context.study, context.cohort_images, context.study.parts_of(context.outcome)
    columns = [
        dict(zip(targets, own, strict=True)) for own in zip(*(target_columns(n, study) for n in targets), strict=True)
    ]
    names = [name for column_of in columns for name in column_of.values()]
    if not images["case"].is_unique or not set(names) <= set(images):
        return None
    cells = images.set_index("case")[names].apply(pd.to_numeric, errors="coerce")
    rows = context.predictions
    rows = rows[(rows["model"] == context.learner) & (rows["stage"] == context.stage) & rows["target"].isin(targets)]
    keys = list(zip(rows["case"], rows["target"], strict=True))
    first, second = ([cells.at[case, column_of[target]] for case, target in keys] for column_of in columns)

    def differences(**values: list[float]) -> pd.Series:
        own = scored(rows.assign(**values), study)
        own = own[own["target"] == context.outcome].set_index("case")
        return (own["y_true"] - own["y_pred"]).abs()

    pairs = (differences(y_true=first, y_pred=second), differences(y_true=first), differences(y_true=second))
    apart = pd.concat(pairs, axis=1).dropna()
    return (*apart.mean(),) if len(apart) else None
