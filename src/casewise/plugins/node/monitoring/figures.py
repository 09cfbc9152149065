"""Figures over time: counts, shares, medians and errors by day or week, with what is expected."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from casewise.plugins.node.monitoring.sequential import Floats, Integers
from casewise.plugins.node.monitoring.series import DAY, Studies
from casewise.report.figures import drawing
from casewise.report.formatting import iso_date, shortened, target_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Days of a period, and up to how many days of studies it is used.
PERIODS = ((1, 28), (7, 1000), (30, np.inf))
NAMES = {1: "day", 7: "week", 30: "30 days"}
WIDTH, HEIGHT, MARGINS = 420, 230, (50, 40, 12, 34)
MOST_LINES = 6


@dataclass(frozen=True, eq=False)
class Periods:
    """The days or weeks of studies.

    Attributes:
        days: of a period.
        of_study: (N,) the number of the period of each study.
        starts: (P,) their first moments, in seconds.
    """

    days: int
    of_study: Integers
    starts: Floats

    @classmethod
    def of(cls, studies: Studies) -> Periods:
        """Those of all studies."""
        first, last = int(studies.days.min()), int(studies.days.max())
        days = next(days for days, most in PERIODS if last - first < most)
        numbers = (studies.days - first) // days
        starts = np.asarray((first + days * np.arange((last - first) // days + 1)) * DAY, dtype=float)
        return cls(days, numbers, starts)

    @property
    def name(self) -> str:
        """The name of a period within a caption."""
        return NAMES[self.days]

    @property
    def middles(self) -> Floats:
        """(P,) the middle of each, in days."""
        return self.starts / DAY + self.days / 2

    def reduced(self, values: Floats, reduce: Callable[[Floats], Sequence[float] | None]) -> Floats:
        """(P, K) a summary of the finite values (N,) of each period; NaN where there is none."""
        of_values = [values[(self.of_study == number) & np.isfinite(values)] for number in range(len(self.starts))]
        summaries = [reduce(own) if len(own) else None for own in of_values]
        width = max((len(summary) for summary in summaries if summary is not None), default=1)
        return np.array([[np.nan] * width if summary is None else list(summary) for summary in summaries], dtype=float)

    def means(self, values: Floats) -> Floats:
        """(P,) the mean of the finite values (N,) of each period."""
        return self.reduced(values, lambda own: [float(own.mean())])[:, 0]


def count_figure(studies: Studies, periods: Periods) -> drawing.Drawing:
    """Studies in each period, stacked by scanner."""
    with _dated("Studies", periods) as (figure, axes):
        below = np.zeros(len(periods.starts))
        names, counts = np.unique(studies.scanners, return_counts=True)
        ordered = names[np.argsort(-counts)].tolist()
        shown = ordered[: MOST_LINES - 1] if len(ordered) > MOST_LINES else ordered
        for number, name in enumerate([*shown, *(["others"] if len(shown) < len(ordered) else [])]):
            own = ~np.isin(studies.scanners, shown) if number == len(shown) else studies.scanners == name
            heights = np.bincount(periods.of_study[own], minlength=len(below)).astype(float)
            label = shortened(name or "not recorded", 26)
            axes.bar(periods.middles, heights, periods.days * 0.86, below, color=drawing.SERIES[number], label=label)
            below += heights
        axes.set_ylim(0, max(1.0, below.max() * 1.08))
        if len(ordered) > 1:
            _key(figure, axes)
        return drawing.svg(figure, "counts")


@dataclass(frozen=True, eq=False)
class Expected:
    """What values are compared with: a band (low, high), or a dashed line, a number or one of each period (P,)."""

    band: tuple[float, float] | None = None
    line: float | Floats | None = None


def time_figure(
    title: str, ends: Floats, periods: Periods, since: Sequence[float], expected: Expected, *, share: bool = False
) -> drawing.Drawing:
    """Values with their ranges or intervals (P, 3) of each period.

    Args:
        since: the times at which something changed.
        share: whether the values are shares, shown in percent.
    """
    name = re.sub(r"\W+", "-", title.lower())
    with _dated(title, periods) as (figure, axes):
        shown = ends if ends.shape[1] == 3 else np.full((len(ends), 3), np.nan)
        if expected.band:
            axes.axhspan(*expected.band, color=drawing.FAINT, alpha=0.6, linewidth=0)
        middle, low, high = shown.T
        axes.vlines(periods.middles, low, high, color=drawing.MODEL, alpha=0.35, linewidth=2)
        axes.plot(periods.middles, middle, "o-", color=drawing.MODEL, markersize=3.5, linewidth=1)
        line = np.full(len(shown), np.nan) if expected.line is None else np.broadcast_to(expected.line, len(shown))
        axes.plot(periods.middles, line, color=drawing.SOFT, linestyle="--", linewidth=1.2)
        if share:
            drawing.in_percent(axes.yaxis)
        axes.set_ylim(*drawing.limits(shown, line, expected.band or (), **({"low": 0.0} if share else {})))
        _mark(axes, since)
        return drawing.svg(figure, name)


def class_figure(
    target: str, shares: Mapping[str, Floats], periods: Periods, since: Sequence[float]
) -> drawing.Drawing:
    """The share of the predictions of each class, by period (P,)."""
    with _dated(f"Predicted {target_title(target)}", periods) as (figure, axes):
        for number, (name, values) in enumerate(_most_frequent(shares).items()):
            marker = f"{drawing.MARKERS[number]}-"
            axes.plot(
                periods.middles, values, marker, color=drawing.SERIES[number], markersize=3.5, linewidth=1, label=name
            )
        drawing.in_percent(axes.yaxis)
        axes.set_ylim(*drawing.limits(*shares.values(), low=0.0))
        _mark(axes, since)
        _key(figure, axes)
        return drawing.svg(figure, re.sub(r"\W+", "-", f"classes-{target}"))


def _most_frequent(shares: Mapping[str, Floats]) -> dict[str, Floats]:
    """The classes with a colour of their own, and the shares of all others together.

    >>> list(_most_frequent({f"{n}": np.array([n]) for n in range(10)}))
    ['3', '4', '5', '6', '7', '8', '9', 'other classes']
    """
    if len(shares) <= len(drawing.SERIES):
        return dict(shares)
    others = sorted(shares, key=lambda name: -np.nansum(shares[name]))[len(drawing.SERIES) - 1 :]
    shown = {name: values for name, values in shares.items() if name not in others}
    return shown | {"other classes": np.sum([shares[name] for name in others], axis=0)}


@contextmanager
def _dated(title: str, periods: Periods) -> Iterator[drawing.Canvas]:
    """A canvas with a title and, below, the dates of the periods."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    with drawing.canvas(WIDTH, HEIGHT, MARGINS) as (figure, axes):
        locator = AutoDateLocator(minticks=3, maxticks=6)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=True))
        axes.set_xlim(periods.starts[0] / DAY, periods.starts[-1] / DAY + periods.days)
        if len(periods.starts) == 1:
            axes.set_xticks(periods.middles, [iso_date(float(periods.starts[0]))])
        drawing.headed(figure, title)
        yield figure, axes


def _mark(axes: Axes, since: Sequence[float]) -> None:
    """Upright lines where something changed."""
    for at in since:
        axes.axvline(at / DAY, color=drawing.ACCENT, linewidth=1.4)


def _key(figure: Figure, axes: Axes) -> None:
    """A key below the axes, in up to three columns."""
    lines = -(-len(axes.get_legend_handles_labels()[1]) // 3)
    height = HEIGHT + 16 * lines
    figure.set_size_inches(WIDTH / 72, height / 72)
    left, bottom, right, top = MARGINS
    drawing.position_axes(axes, (left, bottom + 16 * lines, right, top))
    drawing.key(axes, loc="lower center", ncols=3, handletextpad=0.4, columnspacing=1.2, borderaxespad=0.2)
