"""Cells and counts as plain values, verdicts, and the format of the metrics of a target."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from casewise.metrics.registry import metric_of
from casewise.report.blocks import Cell, Counts, counts_line
from casewise.report.context import is_number
from casewise.report.formatting import MISSING, digits_of, interval, number, plain, signed

if TYPE_CHECKING:
    from casewise.study.schema import Study

Figure = Mapping[str, Any] | None
# The words of a verdict in a table.
VERDICTS = {"better": "better", "worse": "worse", "open": "no clear difference", "untested": "not tested"}


def split_key(key: str) -> tuple[str, str]:
    """Target and region of a key of `metrics.json`.

    >>> split_key("composite[upper]"), split_key("pasi")
    (('composite', 'upper'), ('pasi', ''))
    """
    match = re.fullmatch(r"([^\[]+)\[(.*)\]", key)
    return (match[1], match[2]) if match else (key, "")


def verdict(low: float | None, high: float | None, metric: str) -> str:
    """The verdict by the interval of a difference: `better`, `worse`, `open`, or `untested` without an interval.

    >>> verdict(0.1, 0.2, "auroc"), verdict(0.1, 0.2, "mae"), verdict(-0.1, 0.2, "mae"), verdict(None, None, "mae")
    ('better', 'worse', 'open', 'untested')
    """
    larger_is_better = metric_of(metric).larger_is_better
    if low is None or high is None or larger_is_better is None:
        return "untested"
    if low <= 0 <= high:
        return "open"
    return "better" if (low > 0) == larger_is_better else "worse"


def verdict_beside(figure: Mapping[str, Any], value: float, metric: str) -> str:
    """The verdict on a figure beside a fixed value, by its interval; a rough one does not show that it is worse.

    >>> verdict_beside({"low": 0.1, "high": 0.2, "rough": True}, 0.5, "auroc")
    'open'
    """
    if not (is_number(figure["low"]) and is_number(figure["high"])):
        return "untested"
    code = verdict(figure["low"] - value, figure["high"] - value, metric)
    return "open" if code == "worse" and figure.get("rough") else code


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Counts:
    """The confusion matrix: a line for each reference class.

    >>> confusion(["a", "no_b"], [[3, 1], [0, 2]]).rows
    [('a', 4, [(3, 0.75), (1, 0.25)]), ('no b', 2, [(0, 0.0), (2, 1.0)])]
    """
    labels = [plain(name) for name in names]
    return Counts(labels, [counts_line(label, line) for label, line in zip(labels, counts, strict=True)])


def hardly_varies(figure: Figure, metric: str, digits: int = 2) -> bool:
    """Whether a figure and both ends of its interval are written as the 0 that a constant prediction has.

    Such an interval says that the predictions hardly vary, not that the figure is precise.

    >>> hardly_varies({"value": 0.0, "low": 0.0, "high": 0.001}, "ccc"), hardly_varies({"value": 0.0}, "ccc")
    (True, False)
    """
    ends = [(figure or {}).get(key) for key in ("value", "low", "high")]
    if metric_of(metric).chance != 0.0 or not all(map(is_number, ends)):
        return False
    return all(abs(float(end)) < 0.5 * 10**-digits for end in ends if end is not None)


def figure_cell(figure: Figure, digits: int) -> Cell:
    """A figure with its interval, which may be rough; the reason where either is undefined.

    >>> figure_cell({"value": 0.5, "low": 0.2, "high": 0.9, "rough": True}, 2)
    Cell(text='0.50', small='[0.20, 0.90] rough', value=0.5)
    """
    if not figure or not is_number(figure.get("value")):
        return Cell(MISSING, (figure or {}).get("reason") or "")
    ends = interval(figure, digits)
    small = f"{ends} rough" if ends and figure.get("rough") else ends or figure.get("reason") or ""
    return Cell(number(figure["value"], digits), small, float(figure["value"]))


@dataclass(frozen=True)
class MetricFormat:
    """The format of the metrics of one target.

    Attributes:
        points: decimals on the scale of the target; None if it has classes.
    """

    points: int | None = None

    def title(self, metric: str) -> str:
        """The metric's name above a column."""
        return metric_of(metric).title

    def heading(self, metric: str) -> str:
        """The metric's name above a column, with the class that it is of.

        >>> MetricFormat().heading("recall[no_finding]"), MetricFormat().heading("auroc")
        ('Recall, no finding', 'AUROC')
        """
        label = plain(metric.partition("[")[2].removesuffix("]"))
        return self.title(metric) + (f", {label}" if label else "")

    def phrase(self, metric: str) -> str:
        """The metric's name within a sentence."""
        return metric_of(metric).phrase

    def in_percent(self, metric: str) -> bool:
        """Whether the metric is a share, written in percent."""
        return metric_of(metric).percent

    def smaller_is_better(self, metric: str) -> bool:
        """Whether a smaller value of the metric is better."""
        return metric_of(metric).larger_is_better is False

    def digits(self, metric: str, *, short: bool = False) -> int:
        """Decimals of a metric; `short`: within a sentence."""
        record = metric_of(metric)
        if record.digits is None:
            return 2 if self.points is None else self.points
        return (0 if record.percent else 2) if short else record.digits

    def text(self, metric: str, value: Any, *, short: bool = False, unit: bool = True) -> str:
        """A metric's value, shares in percent.

        >>> MetricFormat().text("accuracy", 0.8612), MetricFormat().text("auroc", 0.8512, short=True)
        ('86.1 %', '0.85')
        >>> MetricFormat(points=1).text("mae", 3.217), MetricFormat(points=1).text("ccc", 0.914)
        ('3.2', '0.91')
        """
        if not is_number(value):
            return MISSING
        digits = self.digits(metric, short=short)
        if not self.in_percent(metric):
            return number(value, digits)
        return number(100 * value, digits) + (" %" if unit else "")

    def bounds(self, metric: str, figure: Figure, *, words: bool = False, short: bool = False) -> str:
        """The interval of a figure, for a table or (with `words`) for a sentence; empty if there is none.

        >>> MetricFormat().bounds("accuracy", {"low": 0.5, "high": 0.75})
        '[50.0, 75.0]'
        >>> MetricFormat().bounds("auroc", {"low": 0.5, "high": 0.75}, words=True, short=True)
        '0.50 to 0.75'
        """
        if not figure or not (is_number(figure.get("low")) and is_number(figure.get("high"))):
            return ""
        if hardly_varies(figure, metric, self.digits(metric)):
            return ""
        scale = 100 if self.in_percent(metric) else 1
        ends = {key: scale * figure[key] for key in ("low", "high")}
        text = interval(ends, self.digits(metric, short=short), words=words)
        return f"{text} %" if words and scale == 100 else text

    def cell(self, metric: str, figure: Figure, *, words: bool = False) -> Cell:
        """A figure with its interval, which may be rough; the reason if either is undefined, a dash for the figure.

        >>> MetricFormat().cell("auroc", {"value": 0.75, "low": 0.5, "high": 0.9, "rough": True}).small
        '[0.500, 0.900] rough'
        >>> MetricFormat().cell("auroc", {"value": 1.0, "low": None, "reason": "one subject: no interval"})
        Cell(text='1.000', small='one subject: no interval', value=1.0)
        """
        if not figure or not is_number(figure.get("value")):
            return Cell(MISSING, (figure or {}).get("reason") or "")
        value = float(figure["value"])
        if hardly_varies(figure, metric, self.digits(metric)):
            return Cell(self.text(metric, 0.0), "the predictions hardly vary", value)
        text = signed(value, self.digits(metric)) if metric == "bias" else self.text(metric, value)
        bounds = self.bounds(metric, figure, words=words)
        if bounds and figure.get("rough"):
            bounds += ", rough" if words else " rough"
        return Cell(text, bounds or figure.get("reason") or "", value)

    def difference(self, metric: str, figure: Figure, inside: Any, outside: Any) -> Cell:
        """`outside` minus `inside` with the interval of the difference; shares in percentage points."""
        if not (is_number(inside) and is_number(outside)):
            return Cell(MISSING)
        scale, unit = (100, " points") if self.in_percent(metric) else (1, "")
        ends = {key: scale * figure[key] for key in ("low", "high") if figure and is_number(figure.get(key))}
        value = scale * (float(outside) - float(inside))
        small = interval(ends, self.digits(metric))
        small = (
            f"{small} rough"
            if small and figure and figure.get("rough")
            else small or (figure or {}).get("reason") or ""
        )
        return Cell(signed(value, self.digits(metric)) + unit, small, value)


def metric_format(study: Study, target: str) -> MetricFormat:
    """The format of the metrics of a target of this study."""
    if study.classes_of(target):
        return MetricFormat()
    declared = target in study.targets or target in study.scores
    return MetricFormat(points=digits_of(*study.range_of(target)) if declared else 2)


def percent_cell(figure: Figure, *, words: bool = False) -> Cell:
    """A share in whole percent with its interval, which may be rough.

    >>> percent_cell({"value": 0.5, "low": 0.2, "high": 0.8, "rough": True}, words=True).small
    '20 to 80 %, rough'
    """
    if not figure or not is_number(figure.get("value")):
        return Cell(MISSING)
    ends = {key: 100 * figure[key] for key in ("low", "high") if is_number(figure.get(key))}
    small = interval(ends, 0, words=words)
    small = f"{small} %" if words and small else small
    if small and figure.get("rough"):
        small += ", rough" if words else " rough"
    return Cell(f"{100 * figure['value']:.0f} %", small, float(figure["value"]))
