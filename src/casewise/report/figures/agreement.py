"""Model and reference: scatters, the Bland–Altman plot, and trajectories with the change from baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.cohort.table import natural
from casewise.evaluation.response import percent_change
from casewise.report.figures import drawing
from casewise.report.figures.drawing import limits as around
from casewise.report.formatting import capital, case_label, number, shortened, signed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


FEW = 8
WIDTH, HEIGHT = 390.0, 412.0


@dataclass(frozen=True)
class Limits:
    """Bland–Altman limits of agreement (bias ± 1.96 SD of the differences), each with its interval if known."""

    bias: float
    low: float
    high: float
    bias_interval: tuple[float, float] | None = None
    low_interval: tuple[float, float] | None = None
    high_interval: tuple[float, float] | None = None


def scatter(rows: pd.DataFrame, limits: Limits, *, scale: tuple[float, float], label: str) -> drawing.Drawing:
    """Predicted against recorded, with the identity and, dashed, the limits of agreement around it.

    Args:
        rows: columns `subject`, `y_true`, `y_pred`.
        scale: the score's declared range; neither axis leaves it by more than the data do.
    """
    low, high = around(rows["y_true"], rows["y_pred"], low=scale[0])
    with drawing.canvas(WIDTH, HEIGHT, (54, _below(rows), 12, 14)) as (figure, axes):
        line = np.array([low, high])
        axes.fill_between(line, line + limits.low, line + limits.high, color=drawing.MODEL, alpha=0.07, linewidth=0)
        for shift in (limits.low, limits.high):
            axes.plot(line, line + shift, color=drawing.MODEL, linewidth=1.1, linestyle=(0, (4, 3)))
        axes.plot(line, line, color=drawing.INK, linewidth=1.1)
        _points(axes, rows, rows["y_true"].to_numpy(), rows["y_pred"].to_numpy())
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", anchor="N")
        label = shortened(label, 30)
        axes.set(xlabel=f"{label}, reference (points)", ylabel=f"{label}, model (points)")
        axes.locator_params(nbins=8, steps=[1, 2, 5, 10])
        return drawing.svg(figure, "scatter")


def bland_altman(
    rows: pd.DataFrame, limits: Limits, *, digits: int, label: str, slope: float | None = None
) -> drawing.Drawing:
    """Difference model − reference over their mean, with the bias, its limits and their intervals as bands.

    `slope` is the slope of the difference on the mean; with it, a dotted line is drawn.
    """
    mean = (rows["y_true"].to_numpy() + rows["y_pred"].to_numpy()) / 2
    difference = (rows["y_pred"] - rows["y_true"]).to_numpy()
    bands = [edge for edge in (limits.low_interval, limits.high_interval) if edge]
    bottom, top = around(difference, [limits.low, limits.high, 0.0], margin=0.1)
    # intervals of few subjects can be so wide that the points would lie on one line
    room = (top - bottom) / 2
    wide_bottom, wide_top = around(difference, [limits.low, limits.high, 0.0], *bands, margin=0.1)
    with drawing.canvas(WIDTH, HEIGHT, (54, _below(rows), 74, 14)) as (figure, axes):
        axes.axhline(0, color=drawing.FAINT, linewidth=1.4)
        dashed = (0, (4, 3))
        lines: list[tuple[float, tuple[float, float] | None, str, Any, str]] = [
            (limits.high, limits.high_interval, drawing.SOFT, dashed, "upper limit"),
            (limits.bias, limits.bias_interval, drawing.ACCENT, "-", "bias"),
            (limits.low, limits.low_interval, drawing.SOFT, dashed, "lower limit"),
        ]
        beside_axes: drawing.Look = {
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
            "va": "center",
        }
        for value, edges, colour, style, name in lines:
            if edges:
                axes.axhspan(*edges, color=colour, alpha=0.12, linewidth=0)
            axes.axhline(value, color=colour, linewidth=1.2, linestyle=style)
            look: drawing.Look = {"fontsize": 10, "color": colour, "linespacing": 1.15, "annotation_clip": False}
            axes.annotate(f"{name}\n{signed(value, digits)}", (1, value), (5, 0), **beside_axes, **look)
        _points(axes, rows, mean, difference)
        if slope is not None:
            ends = np.array([mean.min(), mean.max()])
            fitted = difference.mean() + slope * (ends - mean.mean())
            axes.plot(ends, fitted, color=drawing.ACCENT, linewidth=1.6, linestyle=(0, (1.5, 1.5)))
        axes.set(xlim=around(mean), ylim=(max(bottom - room, wide_bottom), min(top + room, wide_top)))
        axes.set(xlabel=f"Mean of model and reference ({shortened(label, 21)}, points)")
        axes.set_ylabel("Model − reference (points)")
        return drawing.svg(figure, "bland-altman")


def are_jittered(rows: pd.DataFrame, scale: tuple[float, float]) -> bool:
    """Whether references are few whole numbers, whose points would overlap."""
    truth = rows["y_true"].to_numpy(float)
    return len(truth) > 0 and np.array_equal(truth, np.rint(truth)) and scale[1] - scale[0] <= 20


def small_scatter(
    rows: pd.DataFrame, *, scale: tuple[float, float], title: str, name: str, width: float
) -> drawing.Drawing:
    """A small scatter of one further target; whole-number references are jittered so that points do not overlap."""
    truth = rows["y_true"].to_numpy(float)
    if are_jittered(rows, scale):
        truth = truth + (np.arange(len(truth)) * 0.618034 % 1 - 0.5) * 0.28
    low, high = around(truth, rows["y_pred"], low=scale[0], high=scale[1] if scale[1] - scale[0] <= 10 else None)
    with drawing.canvas(width, width + 8, (30, 36, 6, 22)) as (figure, axes):
        axes.plot([low, high], [low, high], color=drawing.INK, linewidth=1)
        _dots(axes, rows, truth, rows["y_pred"].to_numpy(), size=3.2)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_title(shortened(title, 22), loc="left", fontweight="bold", fontsize=11)
        axes.set_xlabel("reference", fontsize=10, labelpad=1)
        axes.set_ylabel("model", fontsize=10, labelpad=1)
        axes.locator_params(nbins=5)
        return drawing.svg(figure, name)


def few(rows: pd.DataFrame) -> bool:
    """Whether the number of subjects allows a colour and marker for each."""
    return 2 <= int(rows["subject"].nunique()) <= FEW


def _below(rows: pd.DataFrame) -> float:
    """The space below the axes: for the label and, if subjects have colours, the key."""
    return 56 + 17 * -(-rows["subject"].nunique() // 4) if few(rows) else 50


def _dots(axes: Axes, rows: pd.DataFrame, x: np.ndarray, y: np.ndarray, *, size: float) -> None:
    """All cases in one colour; many cases are drawn as pixels, which keeps the page small."""
    alpha = 0.75 if len(x) <= 100 else 0.5 if len(x) <= 600 else 0.3
    look: drawing.Look = {"color": drawing.MODEL, "markersize": size, "alpha": alpha, "markeredgewidth": 0}
    if len(x) > drawing.MANY:
        axes.plot(x, y, "o", rasterized=True, **look)
    else:
        drawing.marked(axes, x, y, _texts(rows), **look)


def _points(axes: Axes, rows: pd.DataFrame, x: np.ndarray, y: np.ndarray) -> None:
    """One colour and marker for each subject if there are few, else one for all."""
    if not few(rows):
        _dots(axes, rows, x, y, size=4.8)
        return
    subjects = rows["subject"].to_numpy()
    look: drawing.Look = {"markersize": 6, "alpha": 0.85, "markeredgecolor": "white", "markeredgewidth": 0.6}
    for i, subject in enumerate(sorted(set(subjects), key=natural)):
        own = subjects == subject
        named: drawing.Look = {"color": drawing.SERIES[i], "label": shortened(subject, 12)}
        drawing.marked(axes, x[own], y[own], _texts(rows[own]), drawing.MARKERS[i], **named, **look)
    drawing.key(axes, loc="lower center", ncols=4, handletextpad=0.2, columnspacing=1.2, borderaxespad=0.2)


def _texts(rows: pd.DataFrame) -> list[str]:
    """The case of each point, named by the column `title` if there is one, with both scores."""
    return [
        f"{row.get('title') or capital(case_label(row))}: reference {row['y_true']:.3g}, model {row['y_pred']:.3g}"
        for row in rows.to_dict("records")
    ]


TRACK_WIDTH = 300.0
LEFT, RIGHT = 50.0, 12.0
LABEL = 26.0


@dataclass(frozen=True)
class Track:
    """One subject's visits in order.

    Attributes:
        names: the label of each visit.
        days: the visits' days in the cohort table, NaN if unknown.
        physician, model: the scores.
        changes: (2, visits) percent change from baseline by reference and by model, NaN if undefined.
    """

    subject: str
    names: list[str]
    days: np.ndarray
    physician: np.ndarray
    model: np.ndarray
    changes: np.ndarray

    @property
    def error(self) -> float:
        return float(np.nanmean(np.abs(self.model - self.physician)))


def tracks(rows: pd.DataFrame, *, baseline: str) -> list[Track]:
    """The trajectories of all subjects with a reference value at two visits or more, by name.

    Args:
        rows: one row per case, with `subject, visit, day, y_true, y_pred`; references may be NaN.
        baseline: the baseline visit, or `first`.
    """
    changed = percent_change(rows, baseline=baseline)
    names = changed["visit"].astype(str).to_numpy(object)
    values = changed[["day", "y_true", "y_pred", "true_change", "predicted_change"]].to_numpy(float).T
    result = []
    for subject, own in changed.groupby("subject", sort=False).indices.items():
        days, physician, model, *changes = values[:, own]
        if (~np.isnan(physician)).sum() > 1:
            result.append(Track(str(subject), names[own].tolist(), days, physician, model, np.array(changes)))
    return sorted(result, key=lambda track: natural(track.subject))


def spaced_evenly(all_tracks: list[Track], room: float = TRACK_WIDTH - LEFT - RIGHT) -> bool:
    """Whether visits must be spaced evenly, because days are unknown or too close for their labels on `room` points."""
    for track in all_tracks:
        if not np.isfinite(track.days).all():
            return True
        gaps = np.diff(track.days)
        if (gaps <= 0).any() or gaps.min() / (track.days[-1] - track.days[0]) * room * 0.92 < LABEL:
            return True
    return False


def trajectory(
    track: Track,
    *,
    top: float,
    days: bool,
    change: bool,
    digits: int,
    name: str,
    label: str,
    evenly: bool | None = None,
) -> drawing.Drawing:
    """One subject: scores as lines and, with `change`, percent change as two rows of figures above them.

    Args:
        top: the highest score of all figures that share the axis.
        evenly: whether visits are spaced evenly; by default where their days are too close for the axes.
        label: the name of the score.
    """
    height, top_margin = (234.0, 64) if change else (200.0, 30)
    with drawing.canvas(TRACK_WIDTH, height, (LEFT, 42, RIGHT, top_margin), grid="y") as (figure, axes):
        room = drawing.room(axes)
        evenly = spaced_evenly([track], room) if evenly is None else evenly
        x = np.arange(len(track.names), dtype=float) if evenly else track.days
        span, margin = float(x[-1] - x[0]) or 1.0, 0.06 * (top or 1.0)
        axes.plot(x, track.physician, "o-", color=drawing.PHYSICIAN, linewidth=1.6, markersize=5, label="reference")
        axes.plot(x, track.model, "s--", color=drawing.MODEL, linewidth=1.6, markersize=5, label="model")
        lowest = float(np.nanmin([0.0, *track.physician, *track.model]))
        axes.set(xlim=(x[0] - span * 0.05, x[-1] + span * 0.05), ylim=(lowest - margin, top + margin))
        axes.set(xlabel="day" if days else "visit", ylabel=f"{shortened(label, 18)} (points)")
        visits = (
            [f"day {day:g}" for day in track.days]
            if days
            else [f"visit {n}" if n[:1].isdigit() else n for n in track.names]
        )
        for who, values in (("reference", track.physician), ("model", track.model)):
            texts = [f"{visit}: {who} {value:.3g}" for visit, value in zip(visits, values, strict=True)]
            drawing.readable(axes, x, values, texts.__getitem__)
        every = max(1, int(np.ceil(len(x) * LABEL / room)))
        shown = list(range(0, len(x), every))
        axes.set_xticks(x[shown], [f"{track.days[i]:g}" if days else shortened(track.names[i], 6) for i in shown])
        if change:
            axes.plot([], [], " ", label="above: change from baseline in %")
        drawing.key(axes, explained=True, ncols=3)
        error = f"mean error {number(track.error, digits)}"
        drawing.headed(figure, shortened(track.subject, 24), error, above=34 if change else 0)
        rows = ((38.0, drawing.PHYSICIAN, track.changes[0]), (52.0, drawing.MODEL, track.changes[1]))
        for below, colour, changes in rows if change else ():
            look: drawing.Look = {"fontsize": 10, "color": colour, "va": "center"}
            axes.annotate(
                "%",
                (0, 1),
                (-6, 64 - below),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                **look,
            )
            at: drawing.Look = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            for i in shown:
                axes.annotate(number(changes[i], 0), (x[i], 1), (0, 64 - below), ha="center", **at, **look)
        return drawing.svg(figure, name)


def chosen_tracks(all_tracks: list[Track], most: int) -> list[Track]:
    """At most `most` tracks, taken evenly from the best followed to the worst."""
    ranked = sorted(all_tracks, key=lambda track: (track.error, natural(track.subject)))
    if len(ranked) <= most:
        return ranked
    ranks = np.linspace(0, len(ranked) - 1, most).round().astype(int)
    return [ranked[i] for i in ranks]
