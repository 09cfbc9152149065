"""Sections of targets that are numbers: model and physician, change over time, ranges, regions and further targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.cohort.dates import natural
from casewise.evaluation.bootstrap import Plan, by_subject
from casewise.evaluation.intervals import ROUGH_BELOW, rough
from casewise.evaluation.results import Estimate
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import agreement as draw
from casewise.report.figures import time as draw_time
from casewise.report.figures.drawing import Drawing
from casewise.report.formatting import digits_of, display_name, interval, number, shortened
from casewise.report.sections.classes import further
from casewise.report.tables import Cell, Row, metric_format, percent_cell, split_key

if TYPE_CHECKING:
    import pandas as pd

    from casewise.study.schema import Study

MOST_TRACKS = 24
MOST_SCATTERS = 8
MOST_ROWS = 80
MOST_VISITS = 16


def agreement(context: ReportContext) -> dict[str, Any] | None:
    """The scatter and the Bland–Altman plot of the primary outcome."""
    rows, limits = context.headline_rows, limits_of(context)
    if rows.empty or limits is None:
        return None
    digits, label = _digits(context), display_name(context.study, context.outcome)
    slope = slope_of_differences(context)
    edges = (limits.low_interval, limits.bias_interval, limits.high_interval)
    beyond_chance = limits.bias_interval is not None and not limits.bias_interval[0] <= 0 <= limits.bias_interval[1]
    is_biased = beyond_chance and number(abs(limits.bias), digits) != number(0.0, digits)
    return {
        "scatter": draw.scatter(rows, limits, scale=context.range_of(context.outcome), label=label),
        "bland_altman": draw.bland_altman(rows, limits, digits=digits, label=label, slope=slope),
        "bias": ("higher" if limits.bias > 0 else "lower") if is_biased else "none",
        "limits": limits,
        "few": draw.few(rows),
        "edges": [interval({"low": e[0], "high": e[1]}, digits, words=True) if e else "" for e in edges],
        "count": len(rows),
        "subjects": rows["subject"].nunique(),
        "rough": rough("loa_low", int(rows["subject"].nunique())),
        "slope": slope,
    }


def slope_of_differences(context: ReportContext) -> dict[str, Any] | None:
    """The slope of the difference on the mean where it is shown: at least ten subjects, an interval without 0.

    The interval excludes 0 also as it is printed, with two decimals.
    """
    figure = context.figures(context.stage, context.learner).get("proportional_bias")
    if not figure or figure.get("rough"):
        return None
    low, high = figure["low"], figure["high"]
    return figure if is_number(low) and is_number(high) and not round(low, 2) <= 0 <= round(high, 2) else None


def _digits(context: ReportContext) -> int:
    return digits_of(*context.range_of(context.outcome))


def limits_of(context: ReportContext) -> draw.Limits | None:
    """Limits of agreement of the shown learner: those of `metrics.json`, else computed from the rows."""
    return limits_from(context.figures(context.stage, context.learner), context.headline_rows)


def limits_from(estimates: Mapping[str, Any], rows: pd.DataFrame) -> draw.Limits | None:
    """Limits of agreement: those among the metrics of one learner, else computed from its rows."""
    figures = [estimates.get(name) or {} for name in ("bias", "loa_low", "loa_high")]
    if all(is_number(f.get("value")) for f in figures):
        edges = [
            (f["low"], f["high"]) if is_number(f.get("low")) and is_number(f.get("high")) else None for f in figures
        ]
        return draw.Limits(*(f["value"] for f in figures), *edges)
    difference = (rows["y_pred"] - rows["y_true"]).to_numpy(float)
    if len(difference) < 3:
        return None
    bias, half = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    return draw.Limits(bias, bias - half, bias + half)


# ------------------------------------------------------------------------------------------------------ over time


def over_time(context: ReportContext) -> dict[str, Any] | None:
    """A small figure per subject, and the responders; None if no subject has two visits."""
    study, table, digits = context.study, context.final, _digits(context)
    learner_rows = (
        table["model"].eq(context.learner) & table["stage"].eq(context.stage) & table["target"].eq(context.outcome)
    )
    rows = _one_row_a_case(table[learner_rows])
    if rows is None or rows.empty:
        return None
    tracks = draw_time.tracks(rows, baseline=study.evaluation.baseline)
    if not tracks:
        return None
    shown, capped = draw_time.chosen_tracks(tracks, MOST_TRACKS)
    top = max(float(np.nanmax([*track.physician, *track.model])) for track in shown) or 1.0
    evenly = draw_time.spaced_evenly(shown)
    days = all(np.isfinite(track.days).all() for track in shown)
    figures = [
        {
            "subject": track.subject,
            "visits": list(zip(track.names, track.physician, track.model, strict=True))[:12],
            "drawing": draw_time.trajectory(
                track,
                top=top,
                evenly=evenly,
                days=days,
                change=study.evaluation.response,
                digits=digits,
                name=f"track{i}",
            ),
        }
        for i, track in enumerate(shown)
    ]
    responders, entry = response_rows(context, context.stage)
    names, visits = visit_rows(context, context.stage)
    return {
        "figures": figures,
        "capped": capped,
        "percent": study.evaluation.response,
        "total": len(tracks),
        "evenly": evenly,
        "days": days,
        "responders": responders,
        "entry": entry,
        "change": entry.get("change", {}).get("mae"),
        "left_out": {code: len(subjects) for code, subjects in (entry.get("undefined") or {}).items() if subjects},
        "visit_names": names,
        "visits": visits if len(visits) > 1 else [],
        "more_visits": max(0, len(entry.get("by_visit") or {}) - MOST_VISITS),
    }


def _one_row_a_case(rows: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of a case-level outcome, images averaged; None if the outcome is one of regions."""
    if (rows["region"] != "").any():
        return None
    if not rows["case"].duplicated().any():
        return rows
    values = rows.groupby(["case", "subject", "visit"], sort=False)[["day", "y_true", "y_pred"]].mean()
    return values.reset_index()


def response_rows(context: ReportContext, stage: str) -> tuple[list[Row], dict[str, Any]]:
    """Responders by physician and by model at each threshold, with their agreement; and the whole entry."""
    entry = context.metrics.get("response", {}).get(stage, {}).get(context.learner, {})
    rows = []
    for threshold, figures in (entry.get("responders") or {}).items():
        (neither, model_only), (physician_only, both) = figures["confusion"]
        total = max(neither + model_only + physician_only + both, 1)
        counts = (physician_only + both, model_only + both)
        cells = [Cell(f"{count} of {total}", f"{100 * count / total:.0f} %") for count in counts]
        kappa = metric_format(context.study, context.outcome).cell("ccc", figures.get("kappa"))
        cells += [Cell(str(both)), percent_cell(figures.get("agreement")), kappa]
        rows.append(Row(responder_name(context, threshold), cells))
    return rows, entry


def responder_name(context: ReportContext, threshold: Any) -> str:
    """`PASI75` for a score spelt in capitals, else `75 % lower`."""
    name = display_name(context.study, context.outcome)
    return f"{name}{threshold}" if name.isupper() else f"{threshold} % lower"


def visit_rows(context: ReportContext, stage: str) -> tuple[list[str], list[Row]]:
    """Responders at each visit, physician / model, one column per threshold; shares where subjects are not few."""
    entry = context.metrics.get("response", {}).get(stage, {}).get(context.learner, {})
    visits = dict(list((entry.get("by_visit") or {}).items())[:MOST_VISITS])
    names = list(next(iter(visits.values())).rates) if visits else []
    rows = []
    for visit, figures in visits.items():
        count = figures.n_subjects
        cells = [Cell(str(count))]
        for name in names:
            both = [figures.rates[name][side].value for side in ("physician", "model")]
            shares = f"{100 * both[0]:.0f} / {100 * both[1]:.0f} %" if count >= ROUGH_BELOW else ""
            cells.append(Cell(f"{both[0] * count:.0f} / {both[1] * count:.0f}", shares))
        rows.append(Row(shortened(visit, 30), cells))
    return [responder_name(context, name) for name in names], rows


# --------------------------------------------------------------------------------------- ranges, regions, targets


@dataclass(frozen=True)
class ScoreRange:
    """Cases and subjects of one range of the physician's score, and the model's mean error and bias there.

    `figures` are the metrics `mae` and `bias` with their intervals.
    """

    name: str
    count: int
    subjects: int
    figures: dict[str, Estimate]

    @property
    def error(self) -> float:
        return float(self.figures["mae"]["value"])

    @property
    def rough(self) -> bool:
        return bool(self.figures["mae"]["rough"])

    def separate(self, other: ScoreRange) -> bool:
        """Whether the interval of the error lies above that of another range."""
        low, high = self.figures["mae"]["low"], other.figures["mae"]["high"]
        return is_number(low) and is_number(high) and low > high

    def side(self) -> str:
        """`high` or `low` where the interval of the bias excludes 0, else empty."""
        low, high = (self.figures["bias"][end] for end in ("low", "high"))
        if not (is_number(low) and is_number(high)) or low <= 0 <= high:
            return ""
        return "high" if low > 0 else "low"


def score_ranges(context: ReportContext) -> list[ScoreRange]:
    """The model's error in each severity band, or in thirds of the physician's scores without bands."""
    rows, study = context.headline_rows, context.study
    if rows.empty:
        return []
    truth = rows["y_true"].to_numpy(float)
    if study.evaluation.bands:
        names, edges = zip(*sorted(study.evaluation.bands.items(), key=lambda band: band[1]), strict=True)
        index = np.clip(np.searchsorted(np.array(edges) - 1e-9, truth, side="right") - 1, 0, None)
    else:
        edges = tuple(dict.fromkeys(np.quantile(truth, [1 / 3, 2 / 3], method="higher").tolist()))
        index = np.searchsorted(edges, truth, side="right")
        names = tuple(range_names([number(edge, _digits(context)) for edge in edges]))
    groups = [(str(name), rows[index == i]) for i, name in enumerate(names)]
    return [_score_range(name, own, study) for name, own in groups if len(own)]


def _score_range(name: str, rows: pd.DataFrame, study: Study) -> ScoreRange:
    truth, predicted = (rows[column].to_numpy(float) for column in ("y_true", "y_pred"))
    plan = Plan(confidence=study.evaluation.confidence, seed=study.seed)
    figures = by_subject(truth, {name: predicted}, rows["subject"].to_numpy(), plan)[name]
    shown = {metric: figures[metric] for metric in ("mae", "bias")}
    return ScoreRange(name, len(rows), int(rows["subject"].nunique()), shown)


def range_rows(context: ReportContext) -> list[Row]:
    """One line for each range of the physician's score: subjects, cases, error and bias with their intervals."""
    write = metric_format(context.study, context.outcome)
    return [
        Row(
            score_range.name,
            [
                Cell(str(score_range.subjects)),
                Cell(str(score_range.count)),
                *(write.cell(metric, score_range.figures[metric]) for metric in ("mae", "bias")),
            ],
        )
        for score_range in score_ranges(context)
    ]


def range_names(edges: list[str]) -> list[str]:
    """The ranges below, between and from these edges.

    >>> range_names(["1", "10"])
    ['below 1', '1 to below 10', '10 or more']
    """
    between = [f"{low} to below {high}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} or more"]


def detail(context: ReportContext) -> dict[str, Any] | None:
    """Every target and region that is a number, with intervals, severity bands and readers.

    None if the primary outcome has classes and no further target is a number.
    """
    study = context.study
    stages = [(stage, *target_rows(context, stage)) for stage in context.stages]
    stages = [entry for entry in stages if entry[1]]
    scatters = _scatters(context)
    numbers = not context.classes
    if not numbers and not stages and not scatters:
        return None
    return {
        "stages": stages,
        "columns": context.number_columns("targets"),
        "reader_columns": context.number_columns("readers"),
        "scatters": scatters,
        "small": len(_further_numbers(context)) > 3,
        "regional": any(row.inner for _, rows, _ in stages for row in rows),
        "confusion": confusion(context, context.stage),
        "readers": reader_rows(context, context.stage),
        "ranges": range_rows(context) if numbers else [],
        "bands": bool(study.evaluation.bands),
        "class_targets": further(context) if numbers else [],
    }


def _further_numbers(context: ReportContext) -> list[str]:
    study = context.study
    names = dict.fromkeys([*study.scores, *study.outputs])
    return [name for name in names if name != context.outcome and not study.classes_of(name)]


def _scatters(context: ReportContext) -> list[dict[str, Any]]:
    others = _further_numbers(context)
    width = 176.0 if len(others) > 3 else 260.0
    scatters: list[dict[str, Any]] = []
    for i, target in enumerate(others):
        rows = context.rows(context.stage, context.learner, target)
        if rows.empty or len(scatters) == MOST_SCATTERS:
            continue
        name = display_name(context.study, target)
        drawing: Drawing = draw.small_scatter(
            rows, scale=context.range_of(target), title=name, name=f"target{i}", width=width
        )
        scatters.append({"name": name, "count": len(rows), "drawing": drawing})
    return scatters


def target_rows(context: ReportContext, stage: str) -> tuple[list[Row], int]:
    """One line per target that is a number, then its regions, for the shown learner; and the number of omitted ones."""
    study = context.study
    by_key = context.metrics.get("metrics", {}).get(stage, {}).get(context.learner, {})
    order = {name: i for i, name in enumerate([*study.scores, *study.targets])} | {context.outcome: -1}
    regions = {name: i for i, name in enumerate(study.regions)}
    keys = sorted(
        (key for key in by_key if not study.classes_of(split_key(key)[0])),
        key=lambda key: (order.get(split_key(key)[0], len(order)), regions.get(split_key(key)[1], -1), natural(key)),
    )
    rows = []
    for key in keys[:MOST_ROWS]:
        target, region = split_key(key)
        low, high = context.range_of(target)
        cells = [
            metric_format(study, target).cell(name, by_key[key].get(name)) for name in context.number_columns("targets")
        ]
        count = next((figure.get("n_cases") for figure in by_key[key].values()), None)
        name = region or display_name(study, target)
        rows.append(Row(name, [Cell(f"{low:g} to {high:g}"), *cells, Cell(number(count, 0))], inner=bool(region)))
    return rows, max(0, len(keys) - MOST_ROWS)


@dataclass(frozen=True)
class Confusion:
    """Severity bands: counts with the physician's bands by rows, and the share of each in its row."""

    names: list[str]
    bounds: list[str]
    rows: list[list[tuple[int, float]]]
    figures: dict[str, Any]


def confusion(context: ReportContext, stage: str) -> Confusion | None:
    """The band table of the shown learner, or None if the study has no bands."""
    bands = context.metrics.get("bands") or {}
    figures = bands.get("stages", {}).get(stage, {}).get(context.learner)
    bounds = bands.get("lower_bounds", {})
    if not figures or not bounds:
        return None
    rows = [[(n, n / max(sum(row), 1)) for n in row] for row in figures["confusion"]]
    return Confusion(list(bounds), range_names([f"{edge:g}" for edge in list(bounds.values())[1:]]), rows, figures)


def reader_rows(context: ReportContext, stage: str) -> dict[str, list[tuple[list[str], bool, Row]]]:
    """For each target scored by readers: pairs of readers, then the model with each reader (names, is the model)."""
    readers = context.metrics.get("readers") or {}
    between = readers.get("between", {})
    pairs = between.get(stage) or between.get("all") or {}
    by_target = readers.get("learners", {}).get(stage, {}).get(context.learner, {})
    tables: dict[str, list[tuple[list[str], bool, Row]]] = {}
    for key in list(dict.fromkeys([*pairs, *by_target]))[:12]:
        target, region = split_key(key)
        if region:
            continue
        lines = [(pair.split(" | "), figures, False) for pair, figures in pairs.get(key, {}).items()]
        lines += [([reader], figures, True) for reader, figures in by_target.get(key, {}).items()]
        rows = []
        for names, figures, model in lines[:24]:
            cells = [
                metric_format(context.study, target).cell(name, figures.get(name))
                for name in context.number_columns("readers")
            ]
            count = next((figure.get("n_cases") for figure in figures.values()), None)
            rows.append((names, model, Row("", [*cells, Cell(number(count, 0))], mark=model)))
        if rows:
            tables[display_name(context.study, target)] = rows
    return tables
