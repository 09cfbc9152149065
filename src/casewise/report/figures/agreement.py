"""Model and physician: the scatter, the Bland–Altman plot and small scatters of further targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.cohort.dates import natural
from casewise.report.figures.drawing import (
    ACCENT,
    FAINT,
    INK,
    MANY,
    MARKERS,
    MODEL,
    SERIES,
    SOFT,
    Drawing,
    canvas,
    frame,
    set_margins,
    svg,
)
from casewise.report.figures.drawing import limits as around
from casewise.report.formatting import capital, case_label, shortened, signed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FEW = 8
WIDTH, HEIGHT = 420.0, 442.0


@dataclass(frozen=True)
class Limits:
    """Bland–Altman limits of agreement (bias ± 1.96 SD of the differences), each with its interval if known."""

    bias: float
    low: float
    high: float
    bias_interval: tuple[float, float] | None = None
    low_interval: tuple[float, float] | None = None
    high_interval: tuple[float, float] | None = None


def scatter(rows: pd.DataFrame, limits: Limits, *, scale: tuple[float, float], label: str) -> Drawing:
    """Predicted against recorded, with the identity and, dashed, the limits of agreement around it.

    Args:
        rows: columns `subject`, `y_true`, `y_pred`.
        scale: the score's declared range; neither axis leaves it by more than the data do.
    """
    low, high = around(rows["y_true"], rows["y_pred"], low=scale[0])
    with canvas(WIDTH, HEIGHT) as (figure, axes):
        set_margins(axes, WIDTH, HEIGHT, left=54, bottom=_below(rows), right=12, top=14)
        line = np.array([low, high])
        axes.fill_between(line, line + limits.low, line + limits.high, color=MODEL, alpha=0.07, linewidth=0)
        for shift in (limits.low, limits.high):
            axes.plot(line, line + shift, color=MODEL, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.plot(line, line, color=INK, linewidth=1.1)
        titles = _points(axes, rows, rows["y_true"].to_numpy(), rows["y_pred"].to_numpy())
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", anchor="N")
        axes.locator_params(nbins=8, steps=[1, 2, 5, 10])
        axes.set_xlabel(f"{label}, physician (points)")
        axes.set_ylabel(f"{label}, model (points)")
        frame(axes)
        _legend(axes, rows)
        return svg(figure, "scatter", titles)


def bland_altman(rows: pd.DataFrame, limits: Limits, *, digits: int, label: str, slope: float | None = None) -> Drawing:
    """Difference model − physician over their mean, with the bias, its limits and their intervals as bands.

    `slope` is that of the difference on the mean, where it is shown; it is drawn as a dotted line.
    """
    mean = (rows["y_true"].to_numpy() + rows["y_pred"].to_numpy()) / 2
    difference = (rows["y_pred"] - rows["y_true"]).to_numpy()
    left, right = around(mean)
    bands = [edge for edge in (limits.low_interval, limits.high_interval) if edge]
    bottom, top = around(difference, [limits.low, limits.high, 0.0], margin=0.1)
    # intervals of few subjects can be so wide that the points would lie on one line
    room = (top - bottom) / 2
    wide_bottom, wide_top = around(difference, [limits.low, limits.high, 0.0], *bands, margin=0.1)
    bottom, top = max(bottom - room, wide_bottom), min(top + room, wide_top)
    with canvas(WIDTH, HEIGHT) as (figure, axes):
        set_margins(axes, WIDTH, HEIGHT, left=54, bottom=_below(rows), right=74, top=14)
        axes.axhline(0, color=FAINT, linewidth=1.4)
        lines = [
            (limits.high, limits.high_interval, SOFT, (0, (4, 3)), "upper limit"),
            (limits.bias, limits.bias_interval, ACCENT, "-", "bias"),
            (limits.low, limits.low_interval, SOFT, (0, (4, 3)), "lower limit"),
        ]
        for value, edges, colour, style, name in lines:
            if edges:
                axes.axhspan(*edges, color=colour, alpha=0.12, linewidth=0)
            axes.axhline(value, color=colour, linewidth=1.2, linestyle=style)
            axes.annotate(
                f"{name}\n{signed(value, digits)}",
                (1, value),
                xytext=(5, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
                color=colour,
                linespacing=1.15,
                annotation_clip=False,
            )
        titles = _points(axes, rows, mean, difference)
        if slope is not None:
            ends = np.array([mean.min(), mean.max()])
            fitted = difference.mean() + slope * (ends - mean.mean())
            axes.plot(ends, fitted, color=ACCENT, linewidth=1.6, linestyle=(0, (1.5, 1.5)))
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.set_xlabel(f"Mean of model and physician ({label}, points)")
        axes.set_ylabel("Model − physician (points)")
        frame(axes)
        _legend(axes, rows)
        return svg(figure, "bland-altman", titles)


def small_scatter(
    rows: pd.DataFrame, *, scale: tuple[float, float], title: str, name: str, width: float = 176.0
) -> Drawing:
    """A small scatter of one further target; whole-number references are jittered so that points do not overlap."""
    height = width + 8
    truth = rows["y_true"].to_numpy(float)
    if len(truth) and np.array_equal(truth, np.rint(truth)) and scale[1] - scale[0] <= 20:
        truth = truth + (np.arange(len(truth)) * 0.618034 % 1 - 0.5) * 0.28
    low, high = around(truth, rows["y_pred"], low=scale[0], high=scale[1] if scale[1] - scale[0] <= 10 else None)
    with canvas(width, height) as (figure, axes):
        set_margins(axes, width, height, left=30, bottom=36, right=6, top=22)
        axes.plot([low, high], [low, high], color=INK, linewidth=1)
        _dots(axes, truth, rows["y_pred"].to_numpy(), size=3.2)
        titles = {"dots": [_title(row) for row in rows.to_dict("records")]}
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_title(shortened(title, 22), loc="left", fontweight="bold", fontsize=11)
        axes.set_xlabel("physician", fontsize=9.5, labelpad=1)
        axes.set_ylabel("model", fontsize=9.5, labelpad=1)
        axes.locator_params(nbins=5)
        frame(axes)
        return svg(figure, name, titles)


def few(rows: pd.DataFrame) -> bool:
    """Whether the number of subjects allows a colour and marker for each."""
    return 2 <= int(rows["subject"].nunique()) <= FEW


def _below(rows: pd.DataFrame) -> float:
    """The space below the axes: for the label and, if subjects have colours, the legend."""
    lines = -(-rows["subject"].nunique() // 4) if few(rows) else 0
    return 50 + (6 + 17 * lines if lines else 0)


def _alpha(count: int) -> float:
    return 0.75 if count <= 100 else 0.5 if count <= 600 else 0.3


def _dots(axes: Axes, x: np.ndarray, y: np.ndarray, *, size: float, gid: str = "dots") -> None:
    """All cases in one colour; many cases are drawn as pixels, which keeps the page small."""
    look: dict[str, Any] = {"color": MODEL, "markersize": size, "alpha": _alpha(len(x)), "markeredgewidth": 0}
    axes.plot(x, y, "o", rasterized=len(x) > MANY, gid=gid, **look)


def _points(axes: Axes, rows: pd.DataFrame, x: np.ndarray, y: np.ndarray) -> dict[str, list[str]]:
    """One colour and marker for each subject if there are few, else one for all; returns the titles of the points."""
    texts = np.array([_title(row) for row in rows.to_dict("records")], dtype=object)
    if not few(rows):
        _dots(axes, x, y, size=4.8)
        return {"dots": list(texts)}
    titles: dict[str, list[str]] = {}
    subjects = rows["subject"].to_numpy()
    for i, subject in enumerate(sorted(set(subjects), key=natural)):
        of_subject = subjects == subject
        axes.plot(
            x[of_subject],
            y[of_subject],
            MARKERS[i],
            color=SERIES[i],
            markersize=6,
            alpha=0.85,
            label=shortened(subject, 12),
            gid=f"points{i}",
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
        titles[f"points{i}"] = list(texts[of_subject])
    return titles


def _title(row: Mapping[str, Any]) -> str:
    """The case of a point with both scores."""
    return f"{capital(case_label(row))}: physician {row['y_true']:.3g}, model {row['y_pred']:.3g}"


def _legend(axes: Axes, rows: pd.DataFrame) -> None:
    if not few(rows):
        return
    handles, names = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles, names, loc="lower center", ncols=4, handletextpad=0.2, columnspacing=1.2, borderaxespad=0.2
    )
