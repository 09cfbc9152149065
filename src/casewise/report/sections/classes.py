"""Section on classes: what was taken for what, how well each class is told, what the probabilities are worth."""

from __future__ import annotations

from math import pi
from typing import Any

from casewise.evaluation.cross_fit import by_fold_text
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import classes as draw
from casewise.report.formatting import counted, display_name, listed
from casewise.report.sections.measures import bounds, measure_cell, written
from casewise.report.sections.tables import Cell, Counts, Row, counts_line
from casewise.report.sections.terminology import Words

CLASS_COLUMNS = ("precision", "recall", "f1", "auroc", "auprc")
POINT_COLUMNS = ("sensitivity", "specificity", "precision")
MOST_POINTS = 24
SURE = 0.03
CHANCE_ECE = 0.05
# A calibration error or log loss that moves by less stays where it is.
HELPS = 0.005


def plain_names(told: dict[str, Any]) -> list[str]:
    """The classes as tables show them."""
    return [str(name).replace("_", " ") for name in told["names"]]


def matrix(told: dict[str, Any]) -> Counts:
    """The confusion matrix of an entry of `classes` in `metrics.json`: a line for each recorded class.

    >>> matrix({"names": ["a", "no_b"], "confusion": [[3, 1], [0, 2]]}).rows
    [('a', 4, [(3, 0.75), (1, 0.25)]), ('no b', 2, [(0, 0.0), (2, 1.0)])]
    """
    names = plain_names(told)
    return Counts(names, [counts_line(name, row) for name, row in zip(names, told["confusion"], strict=True)])


def class_rows(material: ReportContext, stage: str, learner: str, target: str) -> list[Row]:
    """One line a class: support, precision, recall, F1, AUROC and AUPRC; the means over the classes last."""
    told, figures = material.classed(stage, learner, target), material.figures(stage, learner, target)
    rows = []
    for name, support in zip(told["names"], told["support"], strict=True):
        cells = [measure_cell(metric, figures.get(f"{metric}[{name}]")) for metric in CLASS_COLUMNS]
        rows.append(Row(str(name).replace("_", " "), [Cell(f"{support:,}", value=float(support)), *cells]))
    total = sum(told["support"])
    cells = [measure_cell(metric, figures.get(metric)) for metric in CLASS_COLUMNS]
    return [*rows, Row("mean", [Cell(f"{total:,}", value=float(total)), *cells], inner=True)]


def point_rows(told: dict[str, Any]) -> list[Row]:
    """One line an operating point: its rule, threshold, sensitivity, specificity and precision."""
    rows = []
    for point in told.get("operating", [])[:MOST_POINTS]:
        rule = rule_in_words(point["rule"])
        if point.get("reached") is False:
            rule += f"; not reached: {written('sensitivity', point['sensitivity']['value'], digits=0)}"
        threshold = by_fold_text(point.get("threshold_by_fold"), 3) or written("auroc", point.get("threshold"))
        cells = [Cell(rule), Cell(threshold)]
        cells += [measure_cell(metric, point.get(metric)) for metric in POINT_COLUMNS]
        rows.append(Row(str(point["class"]).replace("_", " "), cells))
    return rows


def rule_in_words(rule: str) -> str:
    """How an operating point is chosen, as a reader says it.

    >>> rule_in_words("sensitivity >= 0.9"), rule_in_words("youden")
    ('sensitivity of 90 % or more', 'best balance (Youden)')
    """
    if rule == "youden":
        return "best balance (Youden)"
    wanted = rule.removeprefix("sensitivity >=").strip()
    try:
        return f"sensitivity of {100 * float(wanted):g} % or more"
    except ValueError:
        return rule


def mean_claim(bins: list[dict[str, Any]]) -> tuple[float, float] | None:
    """The mean probability given to the predicted class, and the share that is right, from the bins of a curve.

    >>> mean_claim([{"n": 1, "confidence": 0.5, "accuracy": 1.0}, {"n": 3, "confidence": 0.9, "accuracy": 0.5}])
    (0.8, 0.625)
    """
    known = [b for b in bins if b.get("n") and is_number(b.get("confidence")) and is_number(b.get("accuracy"))]
    total = sum(b["n"] for b in known)
    if not total:
        return None
    claimed, right = (sum(b["n"] * b[key] for b in known) / total for key in ("confidence", "accuracy"))
    return float(round(claimed, 12)), float(round(right, 12))


def calibration(material: ReportContext) -> str:
    """What the probabilities are worth, in a sentence or two; empty where nothing is known of it."""
    figures = material.figures(material.stage, material.learner, material.study.primary_outcome)
    told = material.classed(material.stage, material.learner)
    claim, ece, after = mean_claim(told.get("reliability", [])), figures.get("ece"), figures.get("ece_calibrated")
    if not claim or not ece or not is_number(ece.get("value")):
        return ""
    claimed, right = claim
    total = sum(b.get("n") or 0 for b in told["reliability"])
    noise = 1.96 * (right * (1 - right) / total) ** 0.5
    off = f"calibration error {_ece(ece)}"
    likeliest = ""
    if material.kind == "ordinal":
        likeliest = ", counting the likeliest grade, where the model otherwise names the median one"
    if abs(claimed - right) < max(SURE, noise) and ece_beyond_chance(told["reliability"], ece):
        text = (
            f"On average it claims as much as comes true ({claimed:.0%} claimed, {right:.0%} right{likeliest}), but "
            f"its single probabilities are not what they claim ({off})"
        )
    elif abs(claimed - right) < max(SURE, noise):
        text = (
            f"On average its probabilities are what they claim ({claimed:.0%} claimed, {right:.0%} right{likeliest}; "
            f"{off})"
        )
    else:
        way = "too sure of itself" if claimed > right else "less sure of itself than it need be"
        text = (
            f"It is {way}: on average it gives the likeliest class {claimed:.0%}, and that is the recorded one in "
            f"{right:.0%}{likeliest} ({off})"
        )
    text = text.replace("%", " %")
    if not after or not is_number(after.get("value")):
        return f"{text}."
    return f"{text}; temperature scaling {_scaled(figures)}."


def _scaled(figures: dict[str, Any]) -> str:
    """What temperature scaling does to the calibration error, and to the log loss where that goes another way.

    >>> loss = {"log_loss": {"value": 0.43}, "log_loss_calibrated": {"value": 0.4}}
    >>> _scaled({"ece": {"value": 0.058}, "ece_calibrated": {"value": 0.059}, **loss})
    'leaves the calibration error at 0.059 and lowers the log loss from 0.430 to 0.400'
    >>> _scaled({"ece": {"value": 0.058}, "ece_calibrated": {"value": 0.059}})
    'does not help (0.059)'
    """
    change = figures["ece_calibrated"]["value"] - figures["ece"]["value"]
    scaled = written("ece", figures["ece_calibrated"]["value"])
    loss: Any = (figures.get("log_loss") or {}).get("value")
    then: Any = (figures.get("log_loss_calibrated") or {}).get("value")
    moved = then - loss if is_number(loss) and is_number(then) else 0.0
    losses = f"the log loss from {written('log_loss', loss)} to {written('log_loss', then)}"
    if change < -HELPS:
        return f"brings it down to {scaled}" + (f" but raises {losses}" if moved > HELPS else "")
    if moved >= -HELPS:
        return f"does not help ({scaled})"
    if change > HELPS:
        return f"raises the calibration error to {scaled} but lowers {losses}"
    return f"leaves the calibration error at {scaled} and lowers {losses}"


def ece_beyond_chance(bins: list[dict[str, Any]], ece: dict[str, Any]) -> bool:
    """Whether the interval of the calibration error lies above 0.05 and above what true probabilities would give.

    By chance a bin's share of hits is off by sqrt(2 p (1 - p) / (pi n)) on average, p being its mean probability.

    >>> bins = [{"n": 50, "confidence": 0.5}, {"n": 50, "confidence": 0.5}]
    >>> ece_beyond_chance(bins, {"low": 0.08}), ece_beyond_chance(bins, {"low": 0.052})
    (True, False)
    """
    known = [b for b in bins if b.get("n") and is_number(b.get("confidence"))]
    total = sum(b["n"] for b in known)
    if not total or not is_number(ece.get("low")):
        return False
    off = sum(b["n"] * (2 * max(b["confidence"] * (1 - b["confidence"]), 0) / (pi * b["n"])) ** 0.5 for b in known)
    return bool(ece["low"] > max(CHANCE_ECE, off / total))


def _ece(found: dict[str, Any]) -> str:
    text = bounds("ece", found, words=True)
    return f"{written('ece', found['value'])}{', interval ' + text if text else ''}"


def classes(material: ReportContext) -> dict[str, Any] | None:
    """The section on the main outcome's classes; None where nothing was judged."""
    stage, learner, outcome = material.stage, material.learner, material.study.primary_outcome
    told, words = material.classed(stage, learner), Words(material)
    if not told:
        return None
    figures = material.figures(stage, learner, outcome)
    curves = draw.curves_of(told, figures)
    reliability = told.get("reliability") or []
    points = point_rows(told)
    chosen_on = next((point.get("chosen_on") for point in told.get("operating", [])), "")
    return {
        "matrix": matrix(told),
        "roc": draw.roc(curves, alt=_roc_alt(words, curves)) if curves else None,
        "curves": len(curves),
        "not_drawn": max(0, len(told.get("roc", {})) - len(curves)),
        "reliability": draw.reliability(
            reliability,
            told.get("reliability_calibrated") or [],
            ece=tuple(figures.get(name) for name in ("ece", "ece_calibrated")),
            alt=f"{words.label}: share that is right against the probability claimed. {calibration(material)}",
        )
        if any(b.get("n") for b in reliability)
        else None,
        "calibration": calibration(material),
        "temperature": by_fold_text(told.get("temperature_by_fold"), 2) or _number(told.get("temperature")),
        "fitted_on": told.get("temperature_fitted_on", ""),
        "rows": class_rows(material, stage, learner, outcome),
        "positive": str(told.get("positive") or "").replace("_", " "),
        "points": points,
        "more_points": max(0, len(told.get("operating", [])) - MOST_POINTS),
        "chosen_on": chosen_on,
        "scores": _probability_scores(figures),
        "count": sum(told["support"]),
        "subjects": material.chosen["subject"].nunique(),
        "further": further(material),
    }


def _number(value: Any) -> str:
    return f"{value:.2f}" if is_number(value) else ""


def _roc_alt(words: Words, curves: list[draw.Curve]) -> str:
    told = listed([f"{curve.name} AUROC {written('auroc', curve.auroc.get('value'))}" for curve in curves])
    return f"{words.label}: sensitivity against false alarms, {counted(len(curves), 'curve')}: {told}."


def _probability_scores(figures: dict[str, Any]) -> list[Row]:
    """ECE, Brier score and log loss, as predicted and after temperature scaling."""
    rows = []
    for name, title in (("ece", "Calibration error (ECE)"), ("brier", "Brier score"), ("log_loss", "Log loss")):
        cells = [measure_cell(name, figures.get(key)) for key in (name, f"{name}_calibrated")]
        if any(is_number(cell.value) for cell in cells):
            rows.append(Row(title, cells))
    return rows


def further(material: ReportContext) -> list[tuple[str, list[Row]]]:
    """Further targets with classes, or regions of the main one, of the shown learner: name and a line a class."""
    known = material.metrics.get("classes", {}).get(material.stage, {}).get(material.learner, {})
    found = []
    for key in known:
        if key != material.study.primary_outcome:
            target, _, region = key.partition("[")
            name = display_name(material.study, target) + (f", {region.removesuffix(']')}" if region else "")
            found.append((name, class_rows(material, material.stage, material.learner, key)))
    return found
