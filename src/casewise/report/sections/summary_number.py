"""The summary of a number: its error, agreement, severity bands, response, and where the model fails."""

from __future__ import annotations

from typing import Any

import numpy as np

from casewise.report.context import ReportContext, has_interval, is_number
from casewise.report.formatting import case_label, display_name, number
from casewise.report.sections.agreement import responder_name, score_ranges
from casewise.report.tables import split_key

MOST_RANGES = 6


def number_values(context: ReportContext) -> dict[str, Any]:
    """For a number: its error, agreement, severity bands, response, and where the model fails."""
    rows = context.headline_rows
    values: dict[str, Any] = {"error": None, "agreement": None, "bands": None, "response": None, "failures": None}
    if rows.empty:
        return values
    error = (rows["y_pred"] - rows["y_true"]).abs()
    mae = context.headline_figure("mae")
    low, high = context.range_of(context.outcome)
    values["error"] = {
        "figure": mae or {"value": float(error.mean())},
        "low": low,
        "high": high,
        "count": len(rows),
        "half": float(error.quantile(0.5)),
        "nine_of_ten": float(error.quantile(0.9)),
    }
    values["agreement"] = {
        "ccc": context.headline_figure("ccc"),
        "bias": bias(context),
    }
    values["bands"], values["response"] = bands(context), response(context)
    values["failures"] = failures(context)
    return values


def bias(context: ReportContext) -> dict[str, Any] | None:
    """The mean difference with `code` none, higher or lower, as far as its interval goes; None without an interval."""
    figure = context.headline_figure("bias")
    if not figure or not (is_number(figure.get("low")) and is_number(figure.get("high"))):
        return None
    code = "none" if figure["low"] <= 0 <= figure["high"] else "higher" if figure["value"] > 0 else "lower"
    return {"code": code, "figure": figure}


def bands(context: ReportContext) -> dict[str, Any] | None:
    """Agreement on severity bands; `code` says whether it can be evaluated."""
    metrics = context.metrics.get("bands") or {}
    entry = metrics.get("stages", {}).get(context.stage, {}).get(context.learner)
    if not entry or not is_number(entry.get("agreement", {}).get("value")):
        return None
    names = list(metrics["lower_bounds"])
    code, used = _groups_code(entry["confusion"])
    return {
        "code": code,
        "names": names,
        "only": names[used],
        "figure": entry["agreement"],
        "kappa": entry.get("kappa"),
    }


def response(context: ReportContext) -> dict[str, Any] | None:
    """Agreement on response at the threshold shown; `code` says whether it can be evaluated."""
    entry = context.metrics.get("response", {}).get(context.stage, {}).get(context.learner, {})
    by_threshold = {
        threshold: figures
        for threshold, figures in (entry.get("responders") or {}).items()
        if is_number(figures.get("agreement", {}).get("value"))
    }
    if not by_threshold:
        return None
    threshold = "75" if "75" in by_threshold else list(by_threshold)[len(by_threshold) // 2]
    figures = by_threshold[threshold]
    code, used = _groups_code(figures["confusion"])
    return {
        "code": code,
        "all": used == 1,
        "threshold": threshold,
        "name": responder_name(context, threshold),
        "figure": figures["agreement"],
        "kappa": figures.get("kappa"),
        "visits": int(np.sum(figures["confusion"])),
        "subjects": int(figures["agreement"].get("n_subjects", 0)),
    }


def _groups_code(confusion: list[list[int]]) -> tuple[str, int]:
    """Whether physician and model both use several groups, and otherwise the only group that is used."""
    cells = [(i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) if count]
    physician, model = {i for i, _ in cells}, {j for _, j in cells}
    if len(physician | model) == 1:
        return "one_group", min(model)
    if len(model) == 1:
        return "model_one_group", min(model)
    return ("physician_one_group", min(physician)) if len(physician) == 1 else ("several", 0)


def failures(context: ReportContext) -> dict[str, Any]:
    """The errors in each range of the score, the largest single one, and the region that agrees least."""
    rows = context.headline_rows
    error = (rows["y_pred"] - rows["y_true"]).abs()
    row = rows.loc[error.idxmax()].to_dict()
    single = {"error": float(error.max()), "label": case_label(row), "model": row["y_pred"], "physician": row["y_true"]}
    return {
        "range": errors_by_range(context),
        "single": single,
        "count": len(rows),
        "region": weakest_region(context),
    }


def errors_by_range(context: ReportContext) -> dict[str, Any] | None:
    """The error in each range of the physician's score, and what it shows; None for a single range.

    `code` is `few` if a range has fewer than ten subjects, `no_interval` if the error of one has no interval, `largest`
    if the interval of the largest error lies above those of all others, else `not_shown`. `leaning` are the ranges,
    other than those of few subjects, whose mean difference has an interval without 0.
    """
    ranges = score_ranges(context)
    if len(ranges) < 2:
        return None
    worst = max(ranges, key=lambda score_range: score_range.error)
    code = "not_shown"
    if any(each.rough for each in ranges):
        code = "few"
    elif not all(has_interval(each.figures["mae"]) for each in ranges):
        code = "no_interval"
    elif all(worst.separate(each) for each in ranges if each is not worst):
        code = "largest"
    return {
        "code": code,
        "each": ranges if len(ranges) <= MOST_RANGES else [],
        "worst": worst,
        "leaning": [each for each in ranges if each.side() and not each.rough],
        "bands": bool(context.study.evaluation.bands),
    }


def weakest_region(context: ReportContext) -> dict[str, Any] | None:
    """The region in which the last regional score agrees least; `code` is `weakest` only beyond the intervals."""
    study = context.study
    figures = context.metrics.get("metrics", {}).get(context.stage, {}).get(context.learner, {})
    for target in [*reversed(list(study.scores)), *study.targets]:
        regional = {split_key(key)[1]: f.get("ccc") for key, f in figures.items() if split_key(key)[0] == target}
        defined = {region: f for region, f in regional.items() if region and f and is_number(f.get("value"))}
        if len(defined) < 2:
            continue
        worst = min(defined, key=lambda region: defined[region]["value"])
        have_intervals = all(map(has_interval, defined.values()))
        others = [f for region, f in defined.items() if region != worst]
        separate = have_intervals and all(defined[worst]["high"] < f["low"] for f in others)
        values = sorted(f["value"] for f in defined.values())
        if any(f.get("rough") for f in defined.values()):
            code = "few_subjects"
        elif not have_intervals:
            code = "no_interval"
        elif not separate:
            code = "intervals_overlap"
        else:
            code = "weakest" if number(values[0], 2) != number(values[1], 2) else "hardly_different"
        name = display_name(study, target)
        return {"code": code, "region": worst, "target": name, "values": (values[0], values[1], values[-1])}
    return None
