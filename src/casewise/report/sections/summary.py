"""The summary for a clinician: codes and numbers for a few plain sentences, and four main figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from casewise.metrics.registry import metric_of
from casewise.report.context import EXTERNAL, ReportContext, is_number
from casewise.report.formatting import class_name, counted, display_name, number, signed
from casewise.report.sections import classes, validation
from casewise.report.sections.agreement import responder_name, score_ranges
from casewise.report.sections.learners import comparison
from casewise.report.tables import Cell, metric_format, percent_cell, split_key
from casewise.report.target_kind_sections import kind_report
from casewise.report.terms import case_label, judged_on, positive_and_other, terms_of

FEWEST = 5
MOST_RANGES = 6
MOST_SOURCES = 6


def section(context: ReportContext) -> dict[str, Any]:
    """The values of the summary."""
    kind = kind_report(context.kind)
    values = number_values(context) if kind.template == "number" else class_values(context)
    return {
        "template": kind.template,
        "judged": judged_on(context),
        "empty": context.headline_rows.empty,
        "by_site": within_sources(context) if context.by_site else None,
        "external": validation.external_summary(context),
        "choice": choice(context),
        "tiles": [*external_tiles(context), *tiles(context)],
        **values,
    }


# ---------------------------------------------------------------------------------------------------- numbers


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

    `code` is `few` if a range has fewer than ten subjects, `largest` if the interval of the largest error lies above
    those of all others, else `not_shown`. `leaning` are the ranges, other than those of few subjects, whose mean
    difference has an interval without 0.
    """
    ranges = score_ranges(context)
    if len(ranges) < 2:
        return None
    worst = max(ranges, key=lambda part: part.error)
    code = "not_shown"
    if any(part.rough for part in ranges):
        code = "few"
    elif all(worst.separate(part) for part in ranges if part is not worst):
        code = "largest"
    return {
        "code": code,
        "each": ranges if len(ranges) <= MOST_RANGES else [],
        "worst": worst,
        "leaning": [part for part in ranges if part.side() and not part.rough],
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
        high = defined[worst].get("high")
        others = [f for region, f in defined.items() if region != worst]
        separate = is_number(high) and all(is_number(f.get("low")) and high < f["low"] for f in others)
        values = sorted(f["value"] for f in defined.values())
        if any(f.get("rough") for f in defined.values()):
            code = "few_subjects"
        elif not separate:
            code = "intervals_overlap"
        else:
            code = "weakest" if number(values[0], 2) != number(values[1], 2) else "hardly_different"
        name = display_name(study, target)
        return {"code": code, "region": worst, "target": name, "values": (values[0], values[1], values[-1])}
    return None


# ---------------------------------------------------------------------------------------------------- classes


def class_values(context: ReportContext) -> dict[str, Any]:
    """For classes and grades: accuracy, discrimination, distance, missed cases, and calibration."""
    return {
        "accuracy": accuracy(context),
        "discrimination": None if context.by_site else discrimination(context),
        "distance": distance(context),
        "rates": rates(context),
        "missed": missed(context),
        "calibration": classes.calibration(context),
    }


def accuracy(context: ReportContext) -> dict[str, Any] | None:
    """The accuracy beside that of always predicting the commonest class."""
    rows, names = context.headline_rows, context.classes
    if rows.empty:
        return None
    figure = context.headline_figure("accuracy")
    pooled = float((rows["y_pred"] == rows["y_true"]).mean())
    value = figure["value"] if figure else pooled
    counts = np.bincount(rows["y_true"].to_numpy(int), minlength=len(names))
    balanced = context.headline_figure("balanced_accuracy")
    only = context.constant_class(context.stage, context.learner)
    return {
        "figure": figure or {"value": value},
        "pooled": pooled,
        "commonest": class_name(context.study, context.outcome, names[int(counts.argmax())]),
        "commonest_share": float(counts.max() / counts.sum()),
        "only": class_name(context.study, context.outcome, only) if only else "",
        "balanced": balanced["value"] if balanced and abs(balanced["value"] - value) > 0.03 else None,
        "chance": 1 / len(names),
    }


def discrimination(context: ReportContext) -> dict[str, Any] | None:
    """The AUROC; for more than two classes also the classes with the highest and the lowest."""
    auroc = context.metric(context.stage, context.learner, "auroc")
    if not auroc:
        return None
    if pair := positive_and_other(context):
        return {"figure": auroc, "positive": pair[0], "other": pair[1], "best": None, "worst": None}
    figures = context.figures(context.stage, context.learner)
    by_class = {
        name: figure["value"]
        for name in context.classes
        if (figure := figures.get(f"auroc[{name}]")) and is_number(figure.get("value"))
    }
    best = worst = None
    if len(by_class) > 1:
        best, worst = (
            (class_name(context.study, context.outcome, name), by_class[name])
            for name in (max(by_class, key=by_class.__getitem__), min(by_class, key=by_class.__getitem__))
        )
    return {"figure": auroc, "positive": None, "other": None, "best": best, "worst": worst}


def rates(context: ReportContext) -> dict[str, Any] | None:
    """Sensitivity and specificity of two classes."""
    pair = positive_and_other(context)
    figures = {name: context.headline_figure(name) for name in ("sensitivity", "specificity")}
    if pair is None or not all(figures.values()):
        return None
    return {"positive": pair[0], "other": pair[1], **figures}


def distance(context: ReportContext) -> dict[str, Any] | None:
    """For grades: agreement weighted by distance, and how many are at most one grade off."""
    if "kappa_quadratic" not in context.columns("learners") or context.headline_rows.empty:
        return None
    rows = context.headline_rows
    return {
        "kappa": context.headline_figure("kappa_quadratic"),
        "mae": context.headline_figure("mae"),
        "near": float(((rows["y_pred"] - rows["y_true"]).abs() <= 1).mean()),
    }


def missed(context: ReportContext) -> dict[str, Any] | None:
    """The class with the lowest recall and what is predicted instead; None of two classes, and of too few cases.

    `code` is `none` where no case of these classes was missed; `ties`: all classes with this recall; `uncertain`: the
    interval of its recall is missing, or does not lie below those of all other classes.
    """
    entry, study = context.class_entry(context.stage, context.learner), context.study
    if not entry or (len(entry["names"]) == 2 and rates(context)):
        return None
    figures = context.figures(context.stage, context.learner)
    names, counts = [str(name) for name in entry["names"]], entry["confusion"]
    enough = [i for i, row in enumerate(counts) if sum(row) >= FEWEST]
    if len(enough) < 2:
        return None
    recall = {i: counts[i][i] / sum(counts[i]) for i in enough}
    worst = min(enough, key=lambda i: (recall[i], i))
    errors = {j: n for j, n in enumerate(counts[worst]) if j != worst and n}
    if not errors:
        return {"code": "none", "classes": len(enough), "fewest": FEWEST if len(enough) < len(names) else None}
    total = sum(counts[worst])
    commonest_error, most = max(errors.items(), key=lambda pair: pair[1])
    ends: dict[int, dict[str, Any]] = {i: figures.get(f"recall[{names[i]}]") or {} for i in enough}
    high: Any = ends[worst].get("high")
    lows = [ends[i].get("low") for i in enough if i != worst]
    return {
        "code": "missed",
        "ties": [class_name(study, context.outcome, names[i]) for i in enough if recall[i] == recall[worst]],
        "fewest": FEWEST if len(enough) < len(names) else None,
        "worst": class_name(study, context.outcome, names[worst]),
        "instead": class_name(study, context.outcome, names[commonest_error]),
        "count": total - counts[worst][worst],
        "total": total,
        "most": most,
        "all_alike": len(errors) == 1,
        "uncertain": not is_number(high) or not all(is_number(low) and high < low for low in lows),
    }


# ------------------------------------------------------------------------------------------------ within sources


def within_sources(context: ReportContext) -> list[dict[str, Any]]:
    """The shown learner within each source, a metric each; `mean` is None where no source has the figure."""
    lines: list[dict[str, Any]] = []
    for metric in kind_report(context.kind).by_site:
        mean = context.mean_within(context.learner, metric)
        if not mean or mean["value"] is None:
            lines.append({"metric": metric, "mean": None})
            continue
        lines.append(
            {
                "metric": metric,
                "mean": mean["value"],
                "figure": mean,
                "chance": metric_of(metric).chance,
                "count": len(mean["sources"]),
                "undefined": mean["undefined"],
                "each": each_source(context, metric),
                "extremes": len(mean["sources"]) > MOST_SOURCES,
            }
        )
    return lines


def each_source(context: ReportContext, metric: str) -> list[tuple[str, dict[str, Any]]]:
    """The shown learner's figure in every source; of many sources the least and the greatest."""
    learner = context.learner
    figures = {
        source: context.metrics["by_site"][source][learner][metric]
        for source in context.mean_within(learner, metric).get("sources") or []
    }
    if len(figures) > MOST_SOURCES:
        low, high = (choose(figures, key=lambda name: figures[name]["value"]) for choose in (min, max))
        return [(low, figures[low]), (high, figures[high])]
    return list(figures.items())


# ------------------------------------------------------------------------------------------- learners and tiles


def choice(context: ReportContext) -> dict[str, Any]:
    """Which learner is shown, how it was chosen, and which others do not differ from it."""
    networks = sum(job["model"] == context.learner for job in context.jobs)
    main = context.metrics.get("main") or {}
    if len(context.learners) < 2:
        code = "single"
    elif main.get("learner") == context.learner and main.get("chosen_on") == "inner folds":
        code = "inner"
    else:
        code = "by_site" if context.by_site else "best"
    return {
        "code": code,
        "learner": context.learner,
        "learners": len(context.learners),
        "networks": networks,
        "oof": "oof" in context.stages,
        "untouched": context.stages == ["test", "oof"],
        "merit": metric_format(context.study, context.outcome).phrase(context.merit),
        "comparison": comparison(context, context.stage),
    }


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
            shown.append({"code": metric, "cell": cell, "two": len(context.classes) == 2})
    if kind.template != "number" or context.by_site:
        return shown
    return [*shown, *_number_tiles(context)]


def _source_tile(context: ReportContext, metric: str, cell: Cell) -> Cell:
    """One of the four figures with the number of sources and, labelled, the pooled figure in small print."""
    count = len(context.mean_within(context.learner, metric)["sources"])
    pooled = context.metric(context.stage, context.learner, metric)
    write = metric_format(context.study, context.outcome)
    over = f"mean of {counted(count, context.site)}" if count > 1 else f"one {context.site}"
    parts = [cell.small, over, f"pooled {write.text(metric, pooled['value'], short=True)}" if pooled else ""]
    return Cell(cell.text, "; ".join(part for part in parts if part), cell.value)


def _number_tiles(context: ReportContext) -> list[dict[str, Any]]:
    rows, digits = context.headline_rows, terms_of(context).digits
    shown: list[dict[str, Any]] = []
    if not rows.empty:
        error = (rows["y_pred"] - rows["y_true"]).abs()
        half, most = (number(float(error.quantile(q)), digits) for q in (0.5, 0.9))
        shown.append({"code": "half_within", "cell": Cell(half, most), "two": False})
    if bands(context):
        entry = context.metrics["bands"]["stages"][context.stage][context.learner]["agreement"]
        cell = percent_cell(entry, words=True)
        return [*shown, {"code": "same_band", "cell": cell, "two": False}]
    low, high = (context.metric(context.stage, context.learner, name) for name in ("loa_low", "loa_high"))
    if low and high:
        text = f"{signed(low['value'], digits)} to {signed(high['value'], digits)}"
        shown.append({"code": "limits", "cell": Cell(text), "two": False})
    return shown


def external_tiles(context: ReportContext) -> list[dict[str, Any]]:
    """The external figure, which stands first; none where it could not be evaluated."""
    external = validation.external_summary(context)
    metric = external.get("metric") if external else None
    if not metric:
        return []
    write = metric_format(context.study, context.outcome)
    cell = write.cell(metric, context.metric(EXTERNAL, context.learner, metric), words=True)
    return [{"code": "external", "cell": cell, "two": False, "metric": write.title(metric)}]
