"""Sections of targets with classes: confusion matrix, curves, single classes, operating points, calibration, errors."""

from __future__ import annotations

from collections.abc import Mapping
from math import pi
from pathlib import Path
from typing import Any

from casewise.evaluation.classification import temperatures_at_bound
from casewise.evaluation.thresholds import by_fold_text
from casewise.report.context import ReportContext, is_number
from casewise.report.figures import classes as draw
from casewise.report.formatting import case_label, class_name, display_name, number, plain, probability
from casewise.report.modality_sections import modality_report
from casewise.report.tables import Cell, Counts, MetricFormat, Row, counts_line

POINT_COLUMNS = ("sensitivity", "specificity", "precision")
# The metric whose format a further figure of an operating point has.
FURTHER_POINT_COLUMNS = {"npv": "npv", "lr_positive": "lr_positive", "lr_negative": "lr_negative"}
AT_PREVALENCE = {"ppv_at_prevalence": "precision", "npv_at_prevalence": "npv"}
PROBABILITY_SCORES = ("ece", "brier", "log_loss")
MOST_POINTS = 24
MOST_SHOWN = 8
MOST_CLASSES = 8
SURE = 0.03
CHANCE_ECE = 0.05
# The fewest cases of a bin that serve as an example.
FEWEST_OF_EXAMPLE = 10
# A calibration error or log loss that changes by less counts as unchanged.
CHANGED = 0.005
WRITE = MetricFormat()


def section(context: ReportContext) -> dict[str, Any] | None:
    """The classes of the primary outcome; None if nothing was evaluated."""
    stage, learner = context.stage, context.learner
    entry, figures = context.class_entry(stage, learner), context.figures(stage, learner)
    if not entry:
        return None
    curves = draw.curves_of(entry, figures)
    recalls = draw.recall_curves(context.headline_rows, context.classes, entry, figures)
    reliability = entry.get("reliability") or []
    errors = tuple(figures.get(name) for name in ("ece", "ece_calibrated"))
    drawn = any(b.get("n") for b in reliability)
    points = entry.get("operating", [])
    return {
        "matrix": matrix(entry),
        "roc": draw.roc(curves) if curves else None,
        "precision_recall": draw.precision_recall(recalls) if recalls else None,
        "recalls": [(curve.name, WRITE.text("auprc", curve.auprc.get("value")), curve.share) for curve in recalls],
        "curves": [(curve.name, WRITE.text("auroc", curve.auroc.get("value"))) for curve in curves],
        "not_drawn": max(0, len(entry.get("roc", {})) - len(curves)),
        "reliability": draw.reliability(reliability, entry.get("reliability_calibrated") or [], ece=errors)
        if drawn
        else None,
        "calibration": calibration(context),
        "temperature": by_fold_text(entry.get("temperature_by_fold"), 2) or number_or_empty(entry.get("temperature")),
        "fitted_on": entry.get("temperature_fitted_on", ""),
        "rows": class_rows(context, stage, learner, context.outcome),
        "positive": plain(entry.get("positive") or ""),
        "points": point_rows(entry),
        "more_points": max(0, len(points) - MOST_POINTS),
        "chosen_on": next((point.get("chosen_on") for point in points), "") or "",
        "scores": probability_scores(figures),
        "count": sum(entry["support"]),
        "subjects": context.headline_rows["subject"].nunique(),
        "further": further(context),
    }


def matrix(entry: Mapping[str, Any]) -> Counts:
    """The confusion matrix of an entry of `classes` in `metrics.json`: a line for each reference class.

    >>> matrix({"names": ["a", "no_b"], "confusion": [[3, 1], [0, 2]]}).rows
    [('a', 4, [(3, 0.75), (1, 0.25)]), ('no b', 2, [(0, 0.0), (2, 1.0)])]
    """
    names = [plain(name) for name in entry["names"]]
    return Counts(names, [counts_line(name, row) for name, row in zip(names, entry["confusion"], strict=True)])


def class_rows(context: ReportContext, stage: str, learner: str, target: str) -> list[Row]:
    """One line per class: support, precision, recall, F1, AUROC and AUPRC; the means over the classes last."""
    entry, figures = context.class_entry(stage, learner, target), context.figures(stage, learner, target)
    rows = []
    for name, support in zip(entry["names"], entry["support"], strict=True):
        cells = [WRITE.cell(metric, figures.get(f"{metric}[{name}]")) for metric in context.class_columns]
        rows.append(Row(plain(name), [Cell(f"{support:,}", value=float(support)), *cells]))
    total = sum(entry["support"])
    cells = [WRITE.cell(metric, figures.get(metric)) for metric in context.class_columns]
    return [*rows, Row("mean", [Cell(f"{total:,}", value=float(total)), *cells], inner=True)]


def point_rows(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The operating points: class, rule (a code and a sensitivity), threshold, and the metrics at each."""
    points = []
    for point in entry.get("operating", [])[:MOST_POINTS]:
        threshold = by_fold_text(point.get("threshold_by_fold"), 3) or number(point.get("threshold"), 3)
        points.append(
            {
                "name": plain(point.label),
                **rule_code(point["rule"]),
                "reached": point.figures["sensitivity"].value if point.reached is False else None,
                "threshold": threshold,
                "cells": [WRITE.cell(metric, point.figures.get(metric)) for metric in POINT_COLUMNS],
                "further": [
                    WRITE.cell(metric, point.figures.get(key)) for key, metric in FURTHER_POINT_COLUMNS.items()
                ],
                "prevalence": point.get("prevalence"),
                "at_prevalence": [WRITE.cell(metric, point.figures.get(key)) for key, metric in AT_PREVALENCE.items()],
            }
        )
    return points


def rule_code(rule: str) -> dict[str, Any]:
    """The rule of an operating point, as a code and a number.

    >>> rule_code("sensitivity >= 0.9"), rule_code("youden")
    ({'rule': 'sensitivity', 'least': 0.9}, {'rule': 'youden', 'least': None})
    """
    try:
        return {"rule": "sensitivity", "least": float(rule.removeprefix("sensitivity >=").strip())}
    except ValueError:
        return {"rule": rule, "least": None}


def number_or_empty(value: Any) -> str:
    """A temperature as text."""
    return f"{value:.2f}" if is_number(value) else ""


def probability_scores(figures: dict[str, Any]) -> list[Row]:
    """ECE, Brier score and log loss, as predicted and after temperature scaling."""
    rows = []
    for name in PROBABILITY_SCORES:
        cells = [WRITE.cell(name, figures.get(key)) for key in (name, f"{name}_calibrated")]
        if any(is_number(cell.value) for cell in cells):
            rows.append(Row(name, cells))
    return rows


def further(context: ReportContext) -> list[tuple[str, list[Row]]]:
    """Further targets with classes, or regions of the primary one, of the shown learner: name and a line per class."""
    entries = context.metrics.get("classes", {}).get(context.stage, {}).get(context.learner, {})
    tables = []
    for key in entries:
        if key != context.outcome:
            target, _, region = key.partition("[")
            name = display_name(context.study, target) + (f", {region.removesuffix(']')}" if region else "")
            tables.append((name, class_rows(context, context.stage, context.learner, key)))
    return tables


# ---------------------------------------------------------------------------------------------------- calibration


def calibration(context: ReportContext, stage: str = "") -> dict[str, Any] | None:
    """How well the probabilities are calibrated at a stage, by default that of the headline; None if not known.

    `code`: `mean_only` (right on average, single probabilities are not), `good`, `over` or `under` (confident).
    `matches`: the mean probability and the share of correct predictions are nearly equal; if they are not, and the code
    is one of the first two, there are too few cases to distinguish them. `illustrated`: the example shows what `code`
    says.
    """
    stage = stage or context.stage
    figures = context.figures(stage, context.learner)
    entry = context.class_entry(stage, context.learner)
    bins = entry.get("reliability", [])
    claim, ece = mean_confidence(bins), figures.get("ece")
    if not claim or not ece or not is_number(ece.get("value")):
        return None
    confidence, correct = claim
    total = sum(b.get("n") or 0 for b in bins)
    variance = max(correct * (1 - correct), sum(_variances(bins)) / total)
    noise = 1.96 * _alike(total, ece) * (variance / total) ** 0.5
    if abs(confidence - correct) < max(SURE, noise):
        code = "mean_only" if ece_beyond_chance(bins, ece) else "good"
    else:
        code = "over" if confidence > correct else "under"
    agrees, shown = abs(confidence - correct) < SURE, example(bins, code)
    return {
        "code": code,
        "stage": stage,
        "pooled": context.site if stage == context.stage and context.by_site else "",
        "matches": agrees,
        "confidence": confidence,
        "correct": correct,
        "example": shown,
        "illustrated": shown is not None
        and (code != "good" or (agrees and abs(shown["right"] / shown["n"] - shown["confidence"]) < SURE)),
        "ece": ece,
        "decision": context.study.decisions.get(context.outcome),
        "scaling": scaling(figures),
        "bound": temperatures_at_bound(entry.get("temperature"), entry.get("temperature_by_fold"))
        if scaling(figures)
        else None,
    }


def mean_confidence(bins: list[dict[str, Any]]) -> tuple[float, float] | None:
    """The mean probability of the predicted class, and the share that is correct, from the bins of a curve.

    >>> mean_confidence([{"n": 1, "confidence": 0.5, "accuracy": 1.0}, {"n": 3, "confidence": 0.9, "accuracy": 0.5}])
    (0.8, 0.625)
    """
    filled = [b for b in bins if b.get("n") and is_number(b.get("confidence")) and is_number(b.get("accuracy"))]
    total = sum(b["n"] for b in filled)
    if not total:
        return None
    confidence, correct = (sum(b["n"] * b[key] for b in filled) / total for key in ("confidence", "accuracy"))
    return float(round(confidence, 12)), float(round(correct, 12))


def example(bins: list[dict[str, Any]], code: str = "good") -> dict[str, Any] | None:
    """The bin of a reliability curve with the most cases: their number, mean probability, and how many are right.

    An example of probabilities that are wrong (`code`: `over`, `under` or `mean_only`) is a bin in which they are wrong
    in this way. None where no such bin has ten cases.

    >>> bins = [{"n": 40, "confidence": 0.7, "accuracy": 0.575}, {"n": 12, "confidence": 0.8, "accuracy": 1.0}]
    >>> example(bins)
    {'n': 40, 'confidence': 0.7, 'right': 23}
    >>> example(bins, "under")
    {'n': 12, 'confidence': 0.8, 'right': 12}
    """
    filled = [b for b in bins if (b.get("n") or 0) >= FEWEST_OF_EXAMPLE and is_number(b.get("confidence"))]
    shows = {
        "over": lambda gap: gap >= SURE,
        "under": lambda gap: gap <= -SURE,
        "mean_only": lambda gap: abs(gap) >= SURE,
    }
    if code in shows:
        filled = [b for b in filled if shows[code](b["confidence"] - b["accuracy"])]
    if not filled:
        return None
    most = max(filled, key=lambda b: b["n"])
    return {"n": most["n"], "confidence": most["confidence"], "right": round(most["n"] * most["accuracy"])}


def scaling(figures: dict[str, Any]) -> dict[str, Any] | None:
    """What temperature scaling does to the calibration error, and to the log loss; None where it was not done.

    `code`: `lowers`, `lowers_but_raises_loss`, `unchanged`, `no_help` (one of them rises and the other does not fall),
    `raises_but_lowers_loss` or `lowers_loss_only`.

    >>> loss = {"log_loss": {"value": 0.43}, "log_loss_calibrated": {"value": 0.4}}
    >>> scaling({"ece": {"value": 0.058}, "ece_calibrated": {"value": 0.059}, **loss})["code"]
    'lowers_loss_only'
    >>> scaling({"ece": {"value": 0.058}, "ece_calibrated": {"value": 0.059}})["code"]
    'unchanged'
    """
    after = (figures.get("ece_calibrated") or {}).get("value")
    if not is_number(after):
        return None
    change = after - figures["ece"]["value"]
    loss: Any = (figures.get("log_loss") or {}).get("value")
    scaled: Any = (figures.get("log_loss_calibrated") or {}).get("value")
    moved = scaled - loss if is_number(loss) and is_number(scaled) else 0.0
    if change < -CHANGED:
        code = "lowers_but_raises_loss" if moved > CHANGED else "lowers"
    elif moved >= -CHANGED:
        code = "no_help" if max(change, moved) > CHANGED else "unchanged"
    else:
        code = "raises_but_lowers_loss" if change > CHANGED else "lowers_loss_only"
    return {"code": code, "ece": after, "loss": loss, "loss_after": scaled}


def ece_beyond_chance(bins: list[dict[str, Any]], ece: dict[str, Any]) -> bool:
    """Whether the calibration error lies above 0.05, and above what true probabilities would give by chance.

    By chance a bin's sum of hits is off by sqrt(2 n p (1 - p) / pi) on average, p being its mean probability, with a
    variance of n p (1 - p) (1 - 2 / pi). Above is beyond 2.5 standard deviations. Cases of a
    subject are taken to be all alike.

    >>> bins = [{"n": 50, "confidence": 0.5}, {"n": 50, "confidence": 0.5}]
    >>> ece_beyond_chance(bins, {"value": 0.17}), ece_beyond_chance(bins, {"value": 0.17, "n_subjects": 25})
    (True, False)
    """
    variances = _variances(bins)
    total = sum(b.get("n") or 0 for b in bins)
    if not variances:
        return False
    expected = sum((2 * variance / pi) ** 0.5 for variance in variances)
    most = expected + 2.5 * (sum(variances) * (1 - 2 / pi)) ** 0.5
    return bool(ece["value"] > max(CHANCE_ECE, _alike(total, ece) * most / total))


def _variances(bins: list[dict[str, Any]]) -> list[float]:
    """The variance of each bin's number of correct predictions if its mean probability is true."""
    filled = [b for b in bins if b.get("n") and is_number(b.get("confidence"))]
    return [b["n"] * max(b["confidence"] * (1 - b["confidence"]), 0.0) for b in filled]


def _alike(total: int, figure: dict[str, Any]) -> float:
    """The factor by which chance is larger than for independent cases if the cases of a subject are all alike."""
    return float((total / figure["n_subjects"]) ** 0.5) if figure.get("n_subjects") else 1.0


# ------------------------------------------------------------------------------------------ high-confidence errors


def high_confidence_errors(context: ReportContext) -> dict[str, Any] | None:
    """The errors of the shown learner, the most confident first; None where there are none."""
    study, rows, names = context.study, context.headline_rows, context.classes
    columns = [f"p{i}" for i in range(len(names))]
    if rows.empty or not set(columns) <= set(rows.columns):
        return None
    wrong = rows[rows["y_pred"] != rows["y_true"]].reset_index(drop=True)
    if wrong.empty:
        return None
    values = wrong[columns].to_numpy(float)
    confidence = values[range(len(wrong)), wrong["y_pred"].to_numpy(int)]
    phrases = [class_name(study, context.outcome, name) for name in names]
    cases = []
    for i in (-confidence).argsort(kind="stable")[:MOST_SHOWN]:
        row = wrong.loc[int(i)].to_dict()
        truth, predicted = int(row["y_true"]), int(row["y_pred"])
        likeliest = sorted(range(len(names)), key=lambda k: -values[i, k])[:MOST_CLASSES]
        shown = sorted({*likeliest[: MOST_CLASSES - 2], truth, predicted, *likeliest[:1]})
        roles = {truth: "reference", predicted: "predicted"}
        cases.append(
            {
                "label": case_label(row),
                "file": Path(str(row.get("image") or "")).name,
                "reference": phrases[truth],
                "predicted": phrases[predicted],
                "probability": float(values[i, predicted]),
                "of_reference": float(values[i, truth]),
                "pictures": modality_report(study).case_pictures(context, row),
                "probabilities": [
                    (plain(names[k]), probability(values[i, k]), round(100 * values[i, k]), roles.get(k, ""))
                    for k in shown
                ],
            }
        )
    return {"cases": cases, "wrong": len(wrong), "total": len(rows)}
