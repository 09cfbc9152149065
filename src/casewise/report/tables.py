"""Cells and counts as plain values, verdicts, the format of metrics, and what a kind of target shows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from casewise.evaluation.figures import DESCRIPTIVE, Estimate
from casewise.metrics.registry import metric_of
from casewise.report.blocks import Cell, Counts, counts_line
from casewise.report.formatting import MISSING, digits_of, hundredfold, interval, is_number, number, plain, signed
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.study.schema import Study

Figure = Mapping[str, Any] | None
# A difference is printed with at most this many decimals.
MOST_DIGITS = 4
# The words of a verdict in a table.
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "open": "no clear difference",
    "untested": "not tested",
    "same": "the same figure",
    "equal": "the same figures",
    "descriptive": "not judged (descriptive)",
    "not_worse": "not worse by more than {margin}",
    "slightly_worse": "worse, but by less than {margin}",
    "unclear": "no clear difference, perhaps worse by more than {margin}",
}
# The metrics that do not depend on the shares of the classes among the cases.
SHARE_FREE = ("auroc", "recall", "sensitivity", "specificity")


def split_key(key: str) -> tuple[str, str]:
    """Target and region of a key of `metrics.json`.

    >>> split_key("composite[upper]"), split_key("pasi")
    (('composite', 'upper'), ('pasi', ''))
    """
    match = re.fullmatch(r"([^\[]+)\[(.*)\]", key)
    return (match[1], match[2]) if match else (key, "")


def verdict(low: float | None, high: float | None, metric: str) -> str:
    """The verdict by the interval of a difference: `better`, `worse`, `open`, `same`, or `untested` without one.

    >>> verdict(0.1, 0.2, "auroc"), verdict(0.1, 0.2, "mae"), verdict(-0.1, 0.2, "mae"), verdict(None, None, "mae")
    ('better', 'worse', 'open', 'untested')
    """
    larger_is_better = metric_of(metric).larger_is_better
    if low is None or high is None or larger_is_better is None:
        return "untested"
    if low == high == 0:
        return "same"
    if low <= 0 <= high:
        return "open"
    return "better" if (low > 0) == larger_is_better else "worse"


def gap_verdict(gap: Estimate | None, metric: str, margin: float | None = None) -> str:
    """The verdict on a learner by its difference from another one; with a margin, whether it is worse by more than it.

    A rough interval counts at twice its width.

    >>> gap_verdict(Estimate(0.0, -0.01, 0.01), "auroc", 0.02), gap_verdict(Estimate(0.0, -0.1, 0.1), "auroc", 0.02)
    ('not_worse', 'unclear')
    >>> gap_verdict(Estimate(0.1, 0.1, 0.2, reason=DESCRIPTIVE), "auroc"), gap_verdict(None, "auroc")
    ('descriptive', 'untested')
    >>> gap_verdict(Estimate(0.0, 0.0, 0.0, reason=DESCRIPTIVE), "auroc")
    'same'
    >>> [gap_verdict(Estimate(0.2, low, 0.3, rough=True), "auroc") for low in (0.05, 0.2)]
    ['open', 'better']
    """
    if gap is None:
        return "untested"
    if gap.reason == DESCRIPTIVE:
        # models with the same figures on all resamples need no judgement
        return "same" if gap.low == gap.high == 0 else "descriptive"
    wider = _rough_margin(gap.low, gap.high) if gap.rough else 0.0
    code = verdict(gap.low and gap.low - wider, gap.high and gap.high + wider, metric)
    if margin is None or code not in ("open", "worse"):
        return code
    lost = gap.low if metric_of(metric).larger_is_better else -(gap.high or 0.0)
    within = lost is not None and lost > -margin
    return {"open": ("unclear", "not_worse"), "worse": ("worse", "slightly_worse")}[code][within]


def verdict_beside(figure: Mapping[str, Any], value: float, metric: str) -> str:
    """The verdict on a figure compared with a fixed value, by its interval.

    A rough interval counts at twice its width, and never gives `worse`.

    >>> verdict_beside({"low": 0.1, "high": 0.2, "rough": True}, 0.5, "auroc")
    'open'
    >>> [verdict_beside({"low": low, "high": 0.9, "rough": True}, 0.5, "auroc") for low in (0.55, 0.8)]
    ['open', 'better']
    """
    if not (is_number(figure["low"]) and is_number(figure["high"])):
        return "untested"
    rough = bool(figure.get("rough"))
    wider = _rough_margin(figure["low"], figure["high"]) if rough else 0.0
    code = verdict(figure["low"] - wider - value, figure["high"] + wider - value, metric)
    return "open" if code == "worse" and rough else code


def _rough_margin(low: float | None, high: float | None) -> float:
    """By how much a rough interval counts as wider on either side; 0 without an interval."""
    return 0.0 if low is None or high is None else (high - low) / 2


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


def figure_cell(figure: Figure, digits: int, *, percent: bool = False, sign: bool = False, words: bool = False) -> Cell:
    """A figure with its interval, which may be rough; the reason where either is undefined.

    Args:
        percent: write a share in percent, a difference of shares (with `sign`) in percentage points.
        words: write the interval as in a sentence.

    >>> figure_cell({"value": 0.5, "low": 0.2, "high": 0.9, "rough": True}, 0, percent=True)
    Cell(text='50 %', small='[20, 90] rough', value=0.5)
    """
    if not figure or not is_number(figure.get("value")):
        return Cell(MISSING, (figure or {}).get("reason") or "")
    value, unit = float(figure["value"]), "" if not percent else " points" if sign else " %"
    ends = interval(figure, digits, words=words, percent=percent)
    rough = ("," if words else "") + " rough" if figure.get("rough") else ""
    small = f"{ends}{rough}" if ends else figure.get("reason") or ""
    return Cell((signed if sign else number)((100 if percent else 1) * value, digits) + unit, small, value)


def percent_cell(figure: Figure) -> Cell:
    """A share in whole percent with its interval."""
    return figure_cell(figure, 0, percent=True)


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
        return hundredfold(value, digits) + (" %" if unit else "")

    def published(self, metric: str, value: float | None) -> str:
        """A published value with the decimals that were published; shares in percent.

        >>> MetricFormat(points=1).published("mae", 3.781), MetricFormat().published("accuracy", 0.9493)
        ('3.781', '94.93 %')
        """
        if value is None or not is_number(value):
            return MISSING
        decimals = -int(Decimal(repr(float(value))).as_tuple().exponent)
        if not self.in_percent(metric):
            return number(value, decimals)
        return hundredfold(value, max(0, decimals - 2)) + " %"

    def bounds(self, metric: str, figure: Figure, *, words: bool = False, short: bool = False) -> str:
        """The interval of a figure, for a table or (with `words`) for a sentence; empty if there is none.

        >>> MetricFormat().bounds("accuracy", {"low": 0.5, "high": 0.75})
        '[50.0, 75.0]'
        >>> MetricFormat().bounds("auroc", {"low": 0.5, "high": 0.75}, words=True, short=True)
        '0.50 to 0.75'
        """
        if hardly_varies(figure, metric, self.digits(metric)):
            return ""
        return interval(figure, self.digits(metric, short=short), words=words, percent=self.in_percent(metric))

    def cell(self, metric: str, figure: Figure, *, words: bool = False) -> Cell:
        """A figure with its interval, which may be rough; the reason if either is undefined, a dash for the figure.

        >>> MetricFormat().cell("auroc", {"value": 0.75, "low": 0.5, "high": 0.9, "rough": True}).small
        '[0.500, 0.900] rough'
        >>> MetricFormat().cell("auroc", {"value": 1.0, "low": None, "reason": "one subject: no interval"})
        Cell(text='1.000', small='one subject: no interval', value=1.0)
        """
        digits, percent = self.digits(metric), self.in_percent(metric)
        if figure and hardly_varies(figure, metric, digits):
            return Cell(self.text(metric, 0.0), "the predictions hardly vary", float(figure["value"]))
        return figure_cell(figure, digits, percent=percent, sign=metric == "bias", words=words)

    def difference(self, metric: str, figure: Figure) -> Cell:
        """The difference of two figures with its interval; of shares in percentage points.

        It is printed with as many decimals as show that the interval excludes 0, or that it has a width.

        >>> MetricFormat(points=1).difference("mae", {"value": 0.12, "low": 0.002, "high": 0.25}).small
        '[0.002, 0.250]'
        >>> MetricFormat(points=1).difference("mae", {"value": 0.01, "low": -0.02, "high": 0.03}).small
        '[−0.02, 0.03]'
        """
        digits, percent = self.digits(metric), self.in_percent(metric)
        low, high = (figure or {}).get("low"), (figure or {}).get("high")
        if low is not None and high is not None and is_number(low) and is_number(high):
            telling = (min if low * high > 0 else max)(abs(low), abs(high)) * (100 if percent else 1)
            digits = max(digits, min(MOST_DIGITS, math.ceil(-math.log10(telling)))) if telling else digits
        return figure_cell(figure, digits, percent=percent, sign=True)


def metric_format(study: Study, target: str) -> MetricFormat:
    """The format of the metrics of a target of this study."""
    if study.classes_of(target):
        return MetricFormat()
    declared = target in study.targets or target in study.scores
    return MetricFormat(points=digits_of(*study.range_of(target)) if declared else 2)


@dataclass(frozen=True)
class _KindReport:
    """The report's settings for one kind of target, besides the tables that the registry of metrics names.

    Attributes:
        headline: the metric of the one sentence at the top.
        compared: the metric by which learners are ordered and compared in pairs.
        forests: the metrics drawn for all learners.
        ordered: whether classes have an order, so that the median class is predicted.
    """

    headline: str
    compared: str
    forests: tuple[str, ...]
    ordered: bool = False


KINDS = {
    "regression": _KindReport("mae", "mae", ("mae", "ccc")),
    "classification": _KindReport("accuracy", "auroc", ("accuracy", "auroc")),
    "ordinal": _KindReport("accuracy", "kappa_quadratic", ("accuracy", "kappa_quadratic"), ordered=True),
}


def kind_report(name: str) -> _KindReport:
    """The report's settings for a kind; by default the record of the kind whose metrics it shares."""
    return KINDS[name] if name in KINDS else KINDS[kind_named(name).metrics_of]
