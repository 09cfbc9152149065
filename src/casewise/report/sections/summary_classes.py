"""The summary of classes and grades: accuracy, discrimination, distance, missed cases, and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from casewise.report.context import ReportContext, has_interval, is_number
from casewise.report.formatting import class_name, listed
from casewise.report.sections import classes
from casewise.report.terms import positive_and_other

FEWEST = 5


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


def commonest(context: ReportContext) -> dict[str, Any] | None:
    """The most common class of the cases of the headline, `name`, and its share, `value`; None without cases.

    Where several are the most common, `name` has all of them.
    """
    rows, names = context.headline_rows, context.classes
    if rows.empty:
        return None
    counts = np.bincount(rows["y_true"].to_numpy(int), minlength=len(names))
    most = [class_name(context.study, context.outcome, names[i]) for i in np.flatnonzero(counts == counts.max())]
    return {"name": listed(most, "or"), "value": float(counts.max() / counts.sum())}


def accuracy(context: ReportContext) -> dict[str, Any] | None:
    """The accuracy beside that of always predicting the commonest class."""
    rows, share = context.headline_rows, commonest(context)
    if share is None:
        return None
    figure = context.headline_figure("accuracy")
    pooled = float((rows["y_pred"] == rows["y_true"]).mean())
    value = figure["value"] if figure else pooled
    balanced = context.headline_figure("balanced_accuracy")
    only = context.constant_class(context.stage, context.learner)
    return {
        "figure": figure or {"value": value},
        "pooled": pooled,
        "commonest": share["name"],
        "commonest_share": share["value"],
        "only": class_name(context.study, context.outcome, only) if only else "",
        "balanced": balanced["value"] if balanced and abs(balanced["value"] - value) > 0.03 else None,
        "chance": 1 / len(context.classes),
    }


def discrimination(context: ReportContext) -> dict[str, Any] | None:
    """The AUROC; for more than two classes also the classes with the highest and the lowest.

    `order`: the intervals of these two are `apart`, `overlap`, or are missing or rough (`unknown`). `to_chance`: where
    the interval lies, see there.
    """
    auroc = context.metric(context.stage, context.learner, "auroc")
    if not auroc:
        return None
    values: dict[str, Any] = {"figure": auroc, "to_chance": to_chance(auroc), "positive": None, "other": None}
    if pair := positive_and_other(context):
        return values | {"positive": pair[0], "other": pair[1], "best": None, "worst": None}
    figures = context.figures(context.stage, context.learner)
    by_class = {
        name: figure
        for name in context.classes
        if (figure := figures.get(f"auroc[{name}]")) and is_number(figure.get("value"))
    }
    if len(by_class) < 2:
        return values | {"best": None, "worst": None}
    high, low = (choose(by_class, key=lambda name: by_class[name]["value"]) for choose in (max, min))
    best, worst = ((class_name(context.study, context.outcome, name), by_class[name]["value"]) for name in (high, low))
    ends = by_class[high].get("low"), by_class[low].get("high")
    reliable = all(map(is_number, ends)) and not any(by_class[name].get("rough") for name in (high, low))
    order = ("apart" if ends[0] > ends[1] else "overlap") if reliable else "unknown"
    return values | {"best": best, "worst": worst, "order": order}


def to_chance(auroc: Mapping[str, Any]) -> str:
    """Where the interval of an AUROC lies: `above` or `below` chance, `includes` it, `rough` where a rough one is
    below, or `unknown` without one.

    >>> [to_chance({"low": low, "high": high}) for low, high in ((0.6, 0.9), (0.4, 0.5), (0.1, 0.4), (0.6, None))]
    ['above', 'includes', 'below', 'unknown']
    >>> to_chance({"low": 0.1, "high": 0.4, "rough": True})
    'rough'
    """
    if not has_interval(auroc):
        return "unknown"
    if auroc["low"] > 0.5:
        return "above"
    if auroc["high"] >= 0.5:
        return "includes"
    return "rough" if auroc.get("rough") else "below"


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

    `code` is `none` where no case of these classes was missed; `ties`: all classes with this recall; `uncertain`: an
    interval of a recall is missing or rough, or that of this class does not lie below those of all others.
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
        "figure": ends[worst],
        "most": most,
        "all_alike": len(errors) == 1,
        "uncertain": any(figure.get("rough") for figure in ends.values())
        or not is_number(high)
        or not all(is_number(low) and high < low for low in lows),
    }
