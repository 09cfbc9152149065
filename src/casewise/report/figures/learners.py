"""Forest plots of a metric with its intervals, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from casewise.evaluation.figures import Estimate
from casewise.report.figures import drawing
from casewise.report.figures.drawing import limits as around
from casewise.report.formatting import is_number, shortened, three_digits

Job = Mapping[str, Any]
DASHED: drawing.Look = {"color": drawing.SOFT, "linestyle": (0, (3, 2)), "zorder": 0}


@dataclass(frozen=True)
class Series:
    """A figure with its interval in some rows of a forest plot, and how it is drawn.

    Attributes:
        label: in the key below; empty for none.
        figures: by the number of the row.
        face: fills the markers; empty for their colour.
        shift: of the points from the middle of their row.
    """

    label: str
    figures: Mapping[int, Estimate]
    colour: str = drawing.MODEL
    marker: str = "o"
    face: str = ""
    line: float = 1.8
    size: float = 6.0
    shift: float = 0.0


def _width(name: str, bold: bool) -> float:
    """About how many pixels a name takes beside its row."""
    return (6.4 if bold else 5.6) * len(name)


def forest(
    rows: Sequence[tuple[str, bool]],
    series: Sequence[Series],
    *,
    label: str,
    name: str,
    shaded: int | None = None,
    dashed: float | None = None,
    percent: bool = False,
) -> drawing.Drawing:
    """Rows from top to bottom with a point and an interval for each series.

    Args:
        rows: their names, and whether each is bold.
        label: below the axis.
        shaded: the number of the row that is marked.
        dashed: a value with a line through all rows.
    """
    names = [shortened(text, 40) for text, _ in rows]
    left = 14 + max(_width(name, bold) for name, (_, bold) in zip(names, rows, strict=True))
    width, height, below = 380.0, 21.0 * len(rows) + 62, 58 if any(curve.label for curve in series) else 44
    with drawing.canvas(width, height, (left, below, 16, 4), grid="x") as (figure, axes):
        if shaded is not None:
            axes.axhspan(-shaded - 0.5, -shaded + 0.5, color=drawing.MODEL, alpha=0.08, linewidth=0)
        values: list[float] = [] if dashed is None else [dashed]
        for curve in series:
            drawn = [(curve.shift - row, f) for row, f in curve.figures.items() if f.value is not None]
            bars = np.array([(y, f.low, f.high) for y, f in drawn if f.low is not None and f.high is not None])
            at = [f.value for _, f in drawn if f.value is not None]
            if len(bars):
                axes.hlines(*bars.T, color=curve.colour, linewidth=curve.line)
            look: drawing.Look = {"color": curve.colour, "markerfacecolor": curve.face or curve.colour}
            heads = [
                f"{rows[row][0]}{curve.label and f', {curve.label}'}"
                for row, f in curve.figures.items()
                if f.value is not None
            ]
            words = [three_digits(f.value, f.low, f.high, percent=percent) for _, f in drawn]
            texts = [f"{head}: {figures}" for head, figures in zip(heads, words, strict=True)]
            look |= {"markersize": curve.size, "label": curve.label}
            drawing.marked(axes, at, [y for y, _ in drawn], texts, curve.marker, **look)
            values += [*at, *bars[:, 1:].ravel()] if len(bars) else at
        if dashed is not None:
            axes.axvline(dashed, linewidth=1, **DASHED)
        axes.set_yticks([-row for row in range(len(rows))], names)
        for text, (_, bold) in zip(axes.get_yticklabels(), rows, strict=True):
            text.set(color=drawing.INK, fontweight="bold" if bold else "normal")
        axes.set(ylim=(-len(rows) + 0.4, 0.6), xlim=around(values or [0, 1]), xlabel=label)
        axes.locator_params(axis="x", nbins=6)
        drawing.in_percent(*([axes.xaxis] if percent else []), digits=".4g")
        axes.spines["left"].set_visible(False)
        if any(curve.label for curve in series):
            figure.legend(loc="lower center", ncols=2, handletextpad=0.3, columnspacing=1.6, borderaxespad=0.1)
        return drawing.svg(figure, name)


def training(model: str, jobs: Sequence[Job], *, name: str) -> drawing.Drawing:
    """One backbone's loss by epoch, and below it its accuracy if that was recorded.

    One line per fold: grey for training, blue for the subjects of early stopping, with a dot at the selected epoch. A
    few of the largest losses are above the axes. A dashed line with a number marks where a further phase begins.
    """
    accurate = any("train_accuracy" in entry for job in jobs for entry in job.get("history") or [])
    last = max((len(job.get("history") or []) for job in jobs), default=1) or 1
    top, below = (46.0, 100.0) if accurate else (38.0, 0.0)
    height = top + 150.0 + below
    left = 56 if accurate else 42
    with drawing.canvas(260.0, height, (left, 38 + below, 8, top), grid="y") as (figure, axes):
        drawn = [(axes, "loss")]
        if accurate:
            lower = drawing.lower_axes(axes, (left, 38, 8, height - 122))
            drawn.append((lower, "accuracy"))
            axes.tick_params(labelbottom=False)
        for axis, quantity in drawn:
            values = [_draw_course(axis, job, quantity) for job in jobs]
            for phase, start in sorted({start for job in jobs for start in _phase_starts(job)}):
                axis.axvline(start, linewidth=0.9, **DASHED)
                if axis is axes:
                    at = axis.get_xaxis_transform()
                    axis.text(
                        start, 1.03, f"phase {phase + 1}", transform=at, fontsize=10, color=drawing.SOFT, ha="center"
                    )
            finite = [values[np.isfinite(values)] for values in values]
            if quantity == "loss":
                # A single large early loss must not compress the rest of the curve.
                highest = max((float(np.quantile(v, 0.97)) for v in finite if len(v)), default=1.0)
                axis.set_ylim(0, highest * 1.08 or 1.0)
            else:
                low = min((float(v.min()) for v in finite if len(v)), default=0.0)
                axis.set_ylim(max(0.0, np.floor(10 * low) / 10), 1.03)
                drawing.in_percent(axis.yaxis)
            axis.locator_params(axis="y", nbins=4)
            axis.set_ylabel(quantity, fontsize=10, color=drawing.SOFT, labelpad=1)
        axes.set_xlim(1 - 0.04 * last, 1.04 * last)
        for axis, quantity in drawn:
            for job in jobs:
                _read_course(axis, job, quantity)
        several = any(_phase_starts(job) for job in jobs)
        raised = drawing.raised(1 + (top - 20) / 112, text_below=several)
        axes.set_title(shortened(model, 32), loc="left", fontweight="bold", **raised)
        drawn[-1][0].set_xlabel("epoch")
        handles, labels = axes.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        drawing.key(drawn[-1][0], list(named.values()), list(named), explained=True, ncols=3)
        axes.locator_params(axis="x", integer=True, nbins=5)
        return drawing.svg(figure, name)


def _draw_course(axes: Any, job: Job, quantity: str) -> np.ndarray:
    """Draw the curve of one network's loss or accuracy; return its values, NaN if missing."""
    history = job.get("history") or []
    epochs = np.arange(1, len(history) + 1)
    train = floats(entry.get(f"train_{quantity}") for entry in history)
    unstopped = job.get("stopped_on") == "none"
    colour = drawing.SOFT if unstopped else drawing.PALE
    axes.plot(epochs, train, color=colour, linewidth=1, solid_capstyle="round", label="training")
    if unstopped:
        return train
    stop = floats(entry.get(f"stop_{quantity}") for entry in history)
    axes.plot(epochs, stop, color=drawing.MODEL, linewidth=1.1, alpha=0.8, label="subjects of early stopping")
    best = job.get("best_epoch") or 0
    if 1 <= best <= len(history):
        axes.plot([best], [stop[best - 1]], "o", color=drawing.ACCENT, markersize=4, zorder=5, label="epoch kept")
    return np.concatenate([train, stop])


def _read_course(axes: Any, job: Job, quantity: str) -> None:
    """Let the curves of one network show their values."""
    history = job.get("history") or []
    for part in ("train",) if job.get("stopped_on") == "none" else ("train", "stop"):
        values = floats(entry.get(f"{part}_{quantity}") for entry in history)
        of = "training" if part == "train" else "subjects of early stopping"
        texts = [f"Epoch {epoch}: {quantity} of {of} {value:.3g}" for epoch, value in enumerate(values, 1)]
        epochs = np.arange(1, len(values) + 1)
        drawing.readable(axes, epochs, values, texts.__getitem__, drawing.MOST_READ_OF_MANY)


def _phase_starts(job: Job) -> list[tuple[int, float]]:
    """The further phases of a network's history with the place on the axis of epochs where each begins."""
    numbers = [entry.get("phase") for entry in job.get("history") or []]
    changed = [index for index in range(1, len(numbers)) if numbers[index] != numbers[index - 1]]
    return [(int(numbers[index]), index + 0.5) for index in changed if numbers[index] is not None]


def floats(values: Any) -> np.ndarray:
    """Values of a record as an array, NaN for what is no number."""
    return np.array([float(value) if is_number(value) else np.nan for value in values], float)
