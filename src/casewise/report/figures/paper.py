"""Figures that publications show and the report does not: a fitted line with its band, and pictures in rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import pandas as pd

from casewise.evaluation.figures import Estimate
from casewise.report.figures.drawing import INK, MODEL, PALE, Drawing, Look, canvas, key, room, svg
from casewise.report.figures.drawing import limits as around
from casewise.report.formatting import number, shortened

FEWEST_SUBJECTS, RESAMPLES = 5, 500
# Pictures side by side, and the width of a letter of their titles in points.
MOST_IN_ROW, LETTER = 6, 5.6
# The highest picture and the room for titles, as multiples of the width of a column.
HIGHEST, TITLES = 1.5, 0.24


@dataclass(frozen=True)
class Shown:
    """A picture, (h, w) or (h, w, 3) `uint8`, with its title and its row in the gallery."""

    pixels: np.ndarray
    title: str
    row: int = 0


@dataclass(frozen=True)
class _Fit:
    """The least-squares line of predictions on references, and its band at points along it; None without one."""

    slope: float
    intercept: float
    at: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


def fit(rows: pd.DataFrame, *, confidence: float, seed: int) -> _Fit | None:
    """The line of the columns `y_true` and `y_pred`; None where the references do not vary.

    The pointwise band is of the percentiles over resamples of subjects, because visits of one subject are alike.

    >>> import pandas as pd
    >>> line = fit(pd.DataFrame({"subject": ["a", "b"], "y_true": [0, 2], "y_pred": [1, 2]}), confidence=0.95, seed=1)
    >>> round(line.slope, 3), round(line.intercept, 3), line.low is None
    (0.5, 1.0, True)
    """
    x, y = rows["y_true"].to_numpy(float), rows["y_pred"].to_numpy(float)
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    slope, intercept = np.polyfit(x, y, 1)
    at = np.linspace(x.min(), x.max(), 50)
    codes = np.unique(rows["subject"].astype(str), return_inverse=True)[1]
    subjects = int(codes.max()) + 1
    if subjects < FEWEST_SUBJECTS:
        return _Fit(float(slope), float(intercept), at, None, None)
    of_subject = [np.flatnonzero(codes == code) for code in range(subjects)]
    draws, lines = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([of_subject[code] for code in draws.integers(subjects, size=subjects)])
        if np.ptp(x[chosen]) > 0:
            lines.append(np.polyval(np.polyfit(x[chosen], y[chosen], 1), at))
    low, high = np.quantile(lines, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return _Fit(float(slope), float(intercept), at, low, high)


def fitted(
    rows: pd.DataFrame, line: _Fit | None, correlation: Estimate | None, *, scale: tuple[float, float], label: str
) -> Drawing:
    """Predictions against references with the fitted line, its band (dashed), and Pearson's r as it was evaluated."""
    low, high = around(rows["y_true"], rows["y_pred"], low=scale[0])
    with canvas(420, 440, (54, 70, 12, 14)) as (figure, axes):
        axes.plot([low, high], [low, high], color=PALE, linewidth=1.4, label="equal")
        axes.plot(rows["y_true"], rows["y_pred"], "o", color=INK, markersize=4, alpha=0.6, markeredgewidth=0)
        if line is not None:
            axes.plot(line.at, line.intercept + line.slope * line.at, color=MODEL, linewidth=1.6, label="fitted line")
            for edge, name in ((line.low, "its band"), (line.high, "")):
                if edge is not None:
                    look: Look = {"color": MODEL, "linewidth": 1.1, "linestyle": (0, (4, 3))}
                    axes.plot(line.at, edge, label=name, **look)
        at: Look = {"transform": axes.transAxes, "va": "top", "fontsize": 10.5}
        axes.text(0.03, 0.97, _correlation(correlation), **at)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", anchor="N")
        label = shortened(label, 34)
        axes.set(xlabel=f"{label}, reference (points)", ylabel=f"{label}, model (points)")
        axes.locator_params(nbins=7, steps=[1, 2, 5, 10])
        key(axes, loc="lower center", ncols=3, borderaxespad=0.2)
        return svg(figure, "fitted")


def _correlation(figure: Estimate | None) -> str:
    if figure is None or figure.value is None:
        return "r is not defined"
    has_interval = figure.low is not None and figure.high is not None
    ends = f" ({number(figure.low, 2)} to {number(figure.high, 2)})" if has_interval else ""
    return f"r = {number(figure.value, 2)}{ends}"


def rows_of(pictures: Sequence[Shown]) -> list[list[Shown]]:
    """The pictures row by row; a row of many is broken."""
    rows = []
    for line in sorted({picture.row for picture in pictures}):
        row = [picture for picture in pictures if picture.row == line]
        length = -(-len(row) // -(-len(row) // MOST_IN_ROW))
        rows += [row[start : start + length] for start in range(0, len(row), length)]
    return rows


def row_heights(rows: Sequence[Sequence[Shown]]) -> list[float]:
    """The height of each row with its titles, as a multiple of the width of a column."""
    shapes = [[picture.pixels.shape for picture in row] for row in rows]
    return [0.95 * min(HIGHEST, max(shape[0] / shape[1] for shape in row)) + TITLES for row in shapes]


def gallery(pictures: Sequence[Shown]) -> Drawing:
    """Pictures with their titles, row by row; the longest row is as wide as the axes are."""
    rows = rows_of(pictures)
    columns, heights = max(map(len, rows)), row_heights(rows)
    total, top = sum(heights), 0.0
    with canvas(100.0 * columns, 100.0 * total, grid=None) as (figure, axes):
        axes.set_axis_off()
        letters = max(8, int(room(axes) / columns / LETTER))
        for row, height in zip(rows, heights, strict=True):
            top += height
            for left, shown in enumerate(row):
                box = (left / columns, 1 - top / total, 0.95 / columns, (height - TITLES) / total)
                inner = axes.inset_axes(box, anchor="NW")
                inner.imshow(shown.pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                inner.set_axis_off()
                title = fill(shown.title, letters, max_lines=2, placeholder="…")
                inner.set_title(title, fontsize=9, pad=2, loc="left")
        return svg(figure, "gallery")
