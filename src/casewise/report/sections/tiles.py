"""The four figures at the top of the report, each beside what a guess without images reaches."""

from __future__ import annotations

from typing import Any

from casewise.metrics.registry import metric_of
from casewise.report.context import EXTERNAL, ReportContext, has_interval, is_number
from casewise.report.formatting import counted, number, signed
from casewise.report.sections import validation
from casewise.report.sections.summary_classes import commonest
from casewise.report.sections.summary_number import bands
from casewise.report.tables import Cell, metric_format, percent_cell
from casewise.report.target_kind_sections import kind_report
from casewise.report.terms import terms_of


def tiles(context: ReportContext) -> list[dict[str, Any]]:
    """At most four figures to remember: `code` (for the title) and cell.

    Where sources were left out they are means within them; a metric that is undefined in every source has no tile.
    """
    kind, write = kind_report(context.kind), metric_format(context.study, context.outcome)
    shown: list[dict[str, Any]] = []
    for metric in kind.tiles:
        figure = context.headline_figure(metric)
        if figure and len(shown) < 4:
            cell = write.cell(metric, figure, words=True)
            cell = _source_tile(context, metric, cell) if context.by_site else cell
            shown.append(
                {"code": metric, "cell": cell, "two": len(context.classes) == 2, "beside": beside(context, metric)}
            )
    if kind.template != "number" or context.by_site:
        return shown
    return [*shown, *_number_tiles(context)]


def naive(context: ReportContext) -> dict[str, Any] | None:
    """What a guess without images reaches in the cases of the headline; None if the run has no record of it.

    `code`: `mean` (the mean error of always predicting the mean of the training subjects) or `commonest` (the share of
    the most common class of these cases, `name`). `not_shown`: the interval of the model's figure includes `value`.
    """
    if context.classes:
        share = commonest(context)
        return share and {"code": "commonest", **share, "not_shown": includes(context, "accuracy", share["value"])}
    for note in context.metrics.get("notes", []):
        if isinstance(note, str) or note["code"] != "guess_mean":
            continue
        if (note["stage"], note["target"]) == (context.stage, context.outcome) and is_number(note["error"]):
            error = float(note["error"])
            return {"code": "mean", "name": "", "value": error, "not_shown": includes(context, "mae", error)}
    return None


def includes(context: ReportContext, metric: str, value: float) -> bool:
    """Whether the interval of the headline's figure includes a value; False without an interval.

    Means within sources have no naive prediction of their own, so their intervals are not compared with one.
    """
    figure = context.headline_figure(metric)
    if context.by_site or not figure or not has_interval(figure):
        return False
    return bool(figure["low"] <= value <= figure["high"])


def beside(context: ReportContext, metric: str) -> dict[str, Any] | None:
    """What stands beside a tile's figure: that of a naive prediction, or chance; None where there is no such number.

    Means within sources have no naive prediction of their own. `not_shown`: the interval does not exclude it.
    """
    guess = naive(context)
    if guess and not context.by_site and metric == {"mean": "mae", "commonest": "accuracy"}[guess["code"]]:
        text = metric_format(context.study, context.outcome).text(metric, guess["value"])
        return {**guess, "value": text}
    chance = metric_of(metric).chance
    if chance is None:
        return None
    low: Any = (context.headline_figure(metric) or {}).get("low")
    not_shown = is_number(low) and low <= chance
    return {"code": "chance", "name": "", "value": number(chance, 2), "not_shown": not_shown}


def _source_tile(context: ReportContext, metric: str, cell: Cell) -> Cell:
    """One of the four figures with the number of sources and, labelled, the pooled figure in small print."""
    count = len(context.mean_within(context.learner, metric)["sources"])
    pooled = context.metric(context.stage, context.learner, metric)
    write = metric_format(context.study, context.outcome)
    over = f"mean of {counted(count, context.site)}" if count > 1 else f"one {context.site}"
    parts = [cell.small, over, f"pooled {write.text(metric, pooled['value'], short=True)}" if pooled else ""]
    return Cell(cell.text, "; ".join(filter(None, parts)), cell.value)


def _number_tiles(context: ReportContext) -> list[dict[str, Any]]:
    rows, digits = context.headline_rows, terms_of(context).digits
    shown: list[dict[str, Any]] = []
    if not rows.empty:
        error = (rows["y_pred"] - rows["y_true"]).abs()
        half, most = (number(float(error.quantile(q)), digits) for q in (0.5, 0.9))
        shown.append({"code": "half_within", "cell": Cell(half, most), "two": False, "beside": None})
    if bands(context):
        entry = context.metrics["bands"]["stages"][context.stage][context.learner]["agreement"]
        cell = percent_cell(entry, words=True)
        return [*shown, {"code": "same_band", "cell": cell, "two": False, "beside": None}]
    low, high = (context.metric(context.stage, context.learner, name) for name in ("loa_low", "loa_high"))
    if low and high:
        text = f"{signed(low['value'], digits)} to {signed(high['value'], digits)}"
        shown.append({"code": "limits", "cell": Cell(text), "two": False, "beside": None})
    return shown


def external_tiles(context: ReportContext) -> list[dict[str, Any]]:
    """The external figure, which stands first; none where it could not be evaluated."""
    external = validation.external_summary(context)
    metric = external.get("metric") if external else None
    if not metric:
        return []
    write = metric_format(context.study, context.outcome)
    cell = write.cell(metric, context.metric(EXTERNAL, context.learner, metric), words=True)
    return [{"code": "external", "cell": cell, "two": False, "beside": None, "metric": write.title(metric)}]
