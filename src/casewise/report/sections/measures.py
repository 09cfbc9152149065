"""What each figure of classes is called, how it is written, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from casewise.report.context import is_number
from casewise.report.formatting import MISSING, number
from casewise.report.sections.tables import Cell


@dataclass(frozen=True)
class Measure:
    """One metric: its name above a column and within a sentence, shares in percent, others with three decimals."""

    title: str
    words: str
    percent: bool = False
    digits: int = 3
    smaller: bool = False


MEASURES = {
    "accuracy": Measure("Accuracy", "accuracy", percent=True, digits=1),
    "balanced_accuracy": Measure("Balanced accuracy", "balanced accuracy", percent=True, digits=1),
    "top2_accuracy": Measure("Top-2 accuracy", "top-2 accuracy", percent=True, digits=1),
    "sensitivity": Measure("Sensitivity", "sensitivity", percent=True, digits=1),
    "specificity": Measure("Specificity", "specificity", percent=True, digits=1),
    "precision": Measure("Precision", "precision", percent=True, digits=1),
    "recall": Measure("Recall", "recall", percent=True, digits=1),
    "f1": Measure("F1", "F1"),
    "auroc": Measure("AUROC", "AUROC"),
    "auprc": Measure("AUPRC", "AUPRC"),
    "kappa": Measure("Kappa", "kappa"),
    "kappa_quadratic": Measure("Weighted kappa", "quadratically weighted kappa"),
    "mae": Measure("Mean error", "mean error in grades", digits=2, smaller=True),
    "ece": Measure("ECE", "calibration error (ECE)", smaller=True),
    "brier": Measure("Brier", "Brier score", smaller=True),
    "log_loss": Measure("Log loss", "log loss", smaller=True),
}


def measure_of(metric: str) -> Measure:
    """The measure of a metric, also of one class (`recall[covid]`) and after temperature scaling (`ece_calibrated`).

    >>> measure_of("recall[no_finding]").title, measure_of("ece_calibrated").smaller
    ('Recall', True)
    """
    name = metric.split("[")[0].removesuffix("_calibrated")
    return MEASURES.get(name, Measure(name.replace("_", " ").capitalize(), name.replace("_", " ")))


def written(metric: str, value: Any, *, digits: int | None = None, unit: bool = True) -> str:
    """A figure of a metric as text, shares in percent.

    >>> written("accuracy", 0.8612), written("auroc", 0.9514), written("recall[a]", 0.5, digits=0), written("f1", None)
    ('86.1 %', '0.951', '50 %', '–')
    """
    measure = measure_of(metric)
    if not is_number(value):
        return MISSING
    decimals = measure.digits if digits is None else digits
    if not measure.percent:
        return number(value, decimals)
    return number(100 * value, decimals) + (" %" if unit else "")


def bounds(metric: str, found: dict[str, Any] | None, *, digits: int | None = None, words: bool = False) -> str:
    """The interval of a figure, for a table or (with `words`) for a sentence; empty where there is none.

    >>> bounds("accuracy", {"low": 0.5, "high": 0.75}), bounds("auroc", {"low": 0.5, "high": 0.75}, words=True)
    ('[50.0, 75.0]', '0.500 to 0.750')
    """
    if not found or not (is_number(found.get("low")) and is_number(found.get("high"))):
        return ""
    low = written(metric, found["low"], digits=digits, unit=False)
    high = written(metric, found["high"], digits=digits, unit=words)
    return f"{low} to {high}" if words else f"[{low}, {high}]"


def measure_cell(metric: str, found: dict[str, Any] | None, *, words: bool = False) -> Cell:
    """A figure with its interval as a cell; a dash and the reason where it is undefined."""
    if not found or not is_number(found.get("value")):
        return Cell(MISSING, (found or {}).get("reason") or "")
    small = bounds(metric, found, words=words)
    return Cell(written(metric, found["value"]), small, float(found["value"]))
