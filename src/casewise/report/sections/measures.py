"""What each figure of classes is called, how it is written, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from casewise.metrics.registry import metric_of
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


def measure_of(metric: str) -> Measure:
    """The measure of a metric, also of one class (`recall[covid]`) and after temperature scaling (`ece_calibrated`).

    >>> measure_of("recall[no_finding]").title, measure_of("ece_calibrated").smaller
    ('Recall', True)
    """
    record = metric_of(metric)
    digits = 2 if record.digits is None else record.digits
    return Measure(record.title, record.phrase, record.percent, digits, record.larger_is_better is False)


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
