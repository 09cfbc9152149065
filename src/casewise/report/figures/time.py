"""Trajectories: each subject's score over the visits by model and physician, with the change from baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from casewise.cohort.table import natural
from casewise.evaluation.response import percent_change
from casewise.report.figures.drawing import MODEL, PHYSICIAN, Drawing, Look, canvas, headed, svg
from casewise.report.formatting import number, shortened

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 300.0
LEFT, RIGHT = 32.0, 12.0
LABEL = 26.0


@dataclass(frozen=True)
class Track:
    """One subject's visits in order.

    Attributes:
        names: the label of each visit.
        days: the visits' days in the cohort table, NaN if unknown.
        physician, model: the scores.
        changes: (2, visits) percent change from baseline by physician and by model, NaN if undefined.
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
    """The trajectories of all subjects that the physician scored at two visits or more, by name.

    Args:
        rows: one row per case, with `subject, visit, day, y_true, y_pred`; references may be NaN.
        baseline: the baseline visit, or `first`.
    """
    result = []
    for subject, subject_rows in percent_change(rows, baseline=baseline).groupby("subject", sort=False):
        if subject_rows["y_true"].notna().sum() < 2:
            continue
        days = subject_rows["day"].to_numpy(float)
        changes = subject_rows[["true_change", "predicted_change"]].to_numpy(float).T
        scores = subject_rows["y_true"].to_numpy(float), subject_rows["y_pred"].to_numpy(float)
        result.append(Track(str(subject), subject_rows["visit"].astype(str).tolist(), days, *scores, changes))
    return sorted(result, key=lambda track: natural(track.subject))


def spaced_evenly(all_tracks: list[Track]) -> bool:
    """Whether visits must be spaced evenly, because days are unknown or too close for their labels."""
    room = WIDTH - LEFT - RIGHT
    for track in all_tracks:
        if not np.isfinite(track.days).all():
            return True
        gaps = np.diff(track.days)
        if (gaps <= 0).any() or gaps.min() / (track.days[-1] - track.days[0]) * room * 0.92 < LABEL:
            return True
    return False


def trajectory(track: Track, *, top: float, evenly: bool, days: bool, change: bool, digits: int, name: str) -> Drawing:
    """One subject: scores as lines and, with `change`, percent change as two rows of figures above them."""
    x = np.arange(len(track.names), dtype=float) if evenly else track.days
    span = float(x[-1] - x[0]) or 1.0
    height, top_margin = (216.0, 64) if change else (182.0, 30)
    with canvas(WIDTH, height, (LEFT, 24, RIGHT, top_margin), grid="y") as (figure, axes):
        axes.plot(x, track.physician, "o-", color=PHYSICIAN, linewidth=1.6, markersize=5)
        axes.plot(x, track.model, "s--", color=MODEL, linewidth=1.6, markersize=5)
        axes.set(xlim=(x[0] - span * 0.05, x[-1] + span * 0.05), ylim=(min(0.0, -top * 0.03), top * 1.05))
        every = max(1, int(np.ceil(len(x) * LABEL / (WIDTH - LEFT - RIGHT))))
        shown = list(range(0, len(x), every))
        axes.set_xticks(x[shown], [f"{track.days[i]:g}" if days else shortened(track.names[i], 6) for i in shown])
        headed(
            figure, shortened(track.subject, 24), f"mean error {number(track.error, digits)}", above=34 if change else 0
        )
        rows = ((38.0, PHYSICIAN, track.changes[0]), (52.0, MODEL, track.changes[1]))
        for below, colour, changes in rows if change else ():
            look: Look = {"fontsize": 9.5, "color": colour, "va": "center"}
            axes.annotate(
                "%", (0, 1), (4 - LEFT, 64 - below), xycoords="axes fraction", textcoords="offset points", **look
            )
            at: Look = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            for i in shown:
                axes.annotate(number(changes[i], 0), (x[i], 1), (0, 64 - below), ha="center", **at, **look)
        return svg(figure, name)


def chosen_tracks(all_tracks: list[Track], most: int) -> list[Track]:
    """At most `most` tracks, taken evenly from the best followed to the worst."""
    if len(all_tracks) <= most:
        return all_tracks
    ranked = sorted(all_tracks, key=lambda track: (track.error, natural(track.subject)))
    ranks = np.linspace(0, len(ranked) - 1, most).round().astype(int)
    return [ranked[i] for i in ranks]
