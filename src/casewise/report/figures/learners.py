"""Comparisons of learners: forest plots of a metric with its intervals, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.report.context import is_number
from casewise.report.figures.drawing import ACCENT, INK, MODEL, PALE, SOFT, Drawing, canvas, frame, set_margins, svg
from casewise.report.figures.drawing import limits as around
from casewise.report.formatting import frozen_label, rate, shortened
from casewise.study.learners import learner_name

if TYPE_CHECKING:
    from casewise.evaluation.results import Estimate

Job = Mapping[str, Any]

WIDTH = 440.0
ROW = 21.0
NAME = 40


@dataclass(frozen=True)
class Series:
    """One figure with its interval for each learner, and how it is drawn; `face` fills the markers."""

    label: str
    figures: Mapping[str, Estimate]
    colour: str
    marker: str
    face: str = ""
    line: float = 1.8
    size: float = 6.0


def forest(
    learners: list[str],
    series: Sequence[Series],
    *,
    label: str,
    name: str,
    shown: str = "",
    chance: float | None = None,
    percent: bool = False,
) -> Drawing:
    """One line per learner with a point and an interval for each series.

    Args:
        learners: from top to bottom.
        shown: the learner that the report is about; its line is marked.
        chance: a dashed line at the value of guessing.
        percent: write shares in percent.
    """
    from matplotlib.ticker import FuncFormatter

    height = ROW * len(learners) + 62
    names = [shortened(learner_name(learner), NAME) for learner in learners]
    longest = max(map(len, names))
    with canvas(WIDTH, height) as (figure, axes):
        set_margins(axes, WIDTH, height, left=14 + 5.6 * longest, bottom=58, right=10, top=4)
        if shown in learners:
            row = -learners.index(shown)
            axes.axhspan(row - 0.5, row + 0.5, color=MODEL, alpha=0.08, linewidth=0)
        values: list[float] = [] if chance is None else [chance]
        for entry, shift in zip(series, (0.0,) if len(series) == 1 else (0.16, -0.2), strict=True):
            drawn = {n: f for n, f in entry.figures.items() if f.value is not None}
            points = [(shift - i, drawn[n]) for i, n in enumerate(learners) if n in drawn]
            at = [f.value for _, f in points if f.value is not None]
            bars = [(y, f.low, f.high) for y, f in points if f.low is not None and f.high is not None]
            lows, highs = [low for _, low, _ in bars], [high for *_, high in bars]
            axes.hlines([y for y, *_ in bars], lows, highs, color=entry.colour, linewidth=entry.line)
            axes.plot(
                at,
                [y for y, _ in points],
                entry.marker,
                color=entry.colour,
                markerfacecolor=entry.face or entry.colour,
                markersize=entry.size,
                label=entry.label,
            )
            values += at + lows + highs
        if chance is not None:
            axes.axvline(chance, color=SOFT, linewidth=1, linestyle=(0, (3, 2)), zorder=0)
        axes.set_yticks([-i for i in range(len(learners))], names)
        for text, learner in zip(axes.get_yticklabels(), learners, strict=True):
            text.set(color=INK, fontweight="bold" if learner == shown else "normal")
        axes.set(ylim=(-len(learners) + 0.4, 0.6), xlim=around(values or [0, 1]))
        if percent:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        figure.text(0.5, 26 / height, label, ha="center", fontsize=10.5)
        frame(axes, grid="x")
        axes.spines["left"].set_visible(False)
        figure.legend(loc="lower center", ncols=2, handletextpad=0.3, columnspacing=1.6, borderaxespad=0.1)
        return svg(figure, name)


def training(model: str, jobs: Sequence[Job], *, name: str) -> Drawing:
    """One backbone's loss by epoch, and below it its accuracy if that was recorded.

    One line per fold: thin for training, strong for the subjects of early stopping, with a dot at the selected epoch. A
    dashed line marks where the next phase begins, and a label states what is frozen.
    """
    from matplotlib.ticker import FuncFormatter

    accurate = has_accuracy(jobs)
    last = max((len(job.get("history") or []) for job in jobs), default=1) or 1
    edges = (1 - 0.04 * last, last + 0.04 * last)
    labels = _phase_labels(jobs, edges)
    width, left, right, bottom, gap = 260.0, 42.0, 8.0, 38.0, 16.0
    top = 26.0 + 12 * (1 + max(line for _, _, line in labels) if labels else 0) + (8 if accurate else 0)
    below = gap + 84.0 if accurate else 0.0
    height = top + 112.0 + below + bottom
    with canvas(width, height) as (figure, axes):
        set_margins(axes, width, height, left=left, bottom=bottom + below, right=right, top=top)
        drawn = [(axes, "loss")]
        if accurate:
            lower = figure.add_axes((0.0, 0.0, 1.0, 1.0), sharex=axes)
            set_margins(lower, width, height, left=left, bottom=bottom, right=right, top=height - bottom - 84)
            drawn.append((lower, "accuracy"))
        for axis, quantity in drawn:
            values = [_draw_course(axis, job, quantity) for job in jobs]
            for start in sorted({start for job in jobs for _, start in _phase_starts(job)[1:]}):
                axis.axvline(start, color=SOFT, linewidth=0.9, linestyle=(0, (3, 2)), zorder=0)
            finite = [values[np.isfinite(values)] for values in values]
            if quantity == "loss":
                # A single large early loss must not compress the rest of the curve.
                axis.set_ylim(
                    0, max((float(np.quantile(v, 0.97)) for v in finite if len(v)), default=1.0) * 1.08 or 1.0
                )
                axis.locator_params(axis="y", nbins=4)
            else:
                low = min((float(v.min()) for v in finite if len(v)), default=0.0)
                axis.set(ylim=(max(0.0, np.floor(10 * low) / 10), 1.03))
                axis.locator_params(axis="y", nbins=4)
                axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
            frame(axis, grid="y")
        if accurate:
            for (axis, quantity), height_of in zip(drawn, (112, 84), strict=True):
                axis.text(0, 1 + 3 / height_of, quantity, transform=axis.transAxes, fontsize=9, color=SOFT)
            axes.tick_params(labelbottom=False)
        for at, text, line in labels:
            above = top - 6 - 12 * line - (8 if accurate else 0)
            figure.text(at / width, 1 - above / height, text, fontsize=8.5, color=SOFT)
        axes.set_xlim(*edges)
        axes.set_title(shortened(model, 32), loc="left", fontweight="bold", y=1 + (top - 20) / 112)
        drawn[-1][0].set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True, nbins=5)
        return svg(figure, name)


def has_accuracy(jobs: Sequence[Job]) -> bool:
    """Whether the networks' histories contain their accuracy."""
    return any("train_accuracy" in entry for job in jobs for entry in job.get("history") or [])


def _draw_course(axes: Any, job: Job, quantity: str) -> np.ndarray:
    """Draw the curve of one network's loss or accuracy; return its values, NaN if missing."""
    history = job.get("history") or []
    epochs = np.arange(1, len(history) + 1)
    train = np.array([_loss(entry.get(f"train_{quantity}")) for entry in history], float)
    alone = job.get("stopped_on") == "none"
    axes.plot(epochs, train, color=SOFT if alone else PALE, linewidth=1, solid_capstyle="round")
    if alone:
        return train
    stop = np.array([_loss(entry.get(f"stop_{quantity}")) for entry in history], float)
    axes.plot(epochs, stop, color=MODEL, linewidth=1.1, alpha=0.8)
    best = job.get("best_epoch") or 0
    if 1 <= best <= len(history):
        axes.plot([best], [stop[best - 1]], "o", color=ACCENT, markersize=4, zorder=5)
    return np.concatenate([train, stop])


def _phase_starts(job: Job) -> list[tuple[int, float]]:
    """The phases of a network's history with the index on the axis of epochs where each begins."""
    numbers = [entry.get("phase") for entry in job.get("history") or []]
    return [
        (int(number), index + 0.5 if index else 1.0)
        for index, number in enumerate(numbers)
        if number is not None and (index == 0 or numbers[index - 1] != number)
    ]


def _phase_labels(jobs: Sequence[Job], edges: tuple[float, float]) -> list[tuple[float, str, int]]:
    """The labels of frozen parts: distance from the left in points, text, and line above the axes."""
    first: dict[int, float] = {}
    for job in jobs:
        for number, start in _phase_starts(job):
            first[number] = min(start, first.get(number, start))
    phases: Sequence[Job] = next((job["phases"] for job in jobs if job.get("phases")), [])
    ends: list[float] = []
    labels = []
    for number, start in sorted(first.items()):
        text = (
            f"phase {number + 1}" if number >= len(phases) or len(first) > 4 else frozen_label(phases[number]["freeze"])
        )
        wide = 4.9 * len(text)  # approximate, in points
        at = min(42 + 210 * (start - edges[0]) / (edges[1] - edges[0]), 258 - wide)
        line = next((i for i, end in enumerate(ends) if at > end + 4), len(ends))
        ends[line : line + 1] = [at + wide]
        labels.append((at, text, line))
    return labels


def finder(model: str, jobs: Sequence[Job], *, name: str) -> Drawing:
    """The search for a learning rate of one backbone: the loss by rate, one line per fold, with a dot at the choice."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    width, height = 260.0, 176.0
    with canvas(width, height) as (figure, axes):
        set_margins(axes, width, height, left=42, bottom=38, right=8, top=26)
        tops: list[float] = []
        lows: list[float] = []
        for job in jobs:
            search = job["finder"]
            rates = np.array([_loss(value) for value in search["rates"]], float)
            losses = np.array([_loss(value) for value in search["losses"]], float)
            finite = np.isfinite(rates) & np.isfinite(losses) & (rates > 0)
            if not finite.any():
                continue
            rates, losses = rates[finite], losses[finite]
            smoothed = np.array(search.get("smoothed") or [], dtype=float)
            course = smoothed if len(smoothed) == len(losses) else _smoothed(losses)
            axes.plot(rates, losses, color=PALE, linewidth=0.8)
            axes.plot(rates, course, color=MODEL, linewidth=1.2)
            # the part after the loss diverges is not shown
            start, least = float(course[0]), float(course.min())
            tops.append(least + 1.5 * max(start - least, 0.05 * abs(start)))
            lows.append(min(least, float(np.quantile(losses, 0.1))))
            if is_number(search.get("chosen")):
                at = float(np.interp(np.log(search["chosen"]), np.log(rates), course))
                axes.plot([search["chosen"]], [at], "o", color=ACCENT, markersize=5, zorder=5)
        if tops:
            room = (max(tops) - min(lows) or 1.0) * 0.08
            axes.set_ylim(min(lows) - room, max(tops) + room)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: rate(value)))
        axes.minorticks_off()
        axes.set_title(shortened(model, 32), loc="left", fontweight="bold")
        axes.set_xlabel("learning rate")
        axes.locator_params(axis="y", nbins=4)
        frame(axes, grid="y")
        return svg(figure, name)


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """An exponential moving average (0.9) with bias correction, for runs without a recorded one."""
    decay = 0.9 ** np.arange(len(losses))
    return np.array([decay[: i + 1][::-1] @ losses[: i + 1] / decay[: i + 1].sum() for i in range(len(losses))])


def _loss(value: Any) -> float:
    return float(value) if is_number(value) else float("nan")
