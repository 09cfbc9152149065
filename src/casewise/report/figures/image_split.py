"""Two ways of splitting side by side: for each learner a figure by subject and the same figure by image."""

from __future__ import annotations

from typing import Any

from casewise.report.context import is_number
from casewise.report.figures.drawing import ACCENT, FAINT, INK, MODEL, SOFT, Drawing, canvas, set_margins, svg
from casewise.report.figures.drawing import limits as around
from casewise.report.figures.learners import label_below
from casewise.report.formatting import shortened

BY_SUBJECT, BY_IMAGE = "by subject", "by image"
WIDTH, ROW, NAME = 560.0, 34.0, 26


def side_by_side(
    learners: list[str],
    figures: dict[str, dict[str, dict[str, Any]]],
    *,
    label: str,
    chance: float | None = None,
    percent: bool = False,
    name: str = "image-split",
) -> Drawing:
    """One line a learner: a figure with its interval by subject (filled) and by image (open), and what guessing gives.

    Args:
        figures: `BY_SUBJECT` and `BY_IMAGE` -> learner -> figure with `value, low, high`.
    """

    height = ROW * len(learners) + 62
    longest = max(len(shortened(learner, NAME)) for learner in learners)
    looks = {BY_SUBJECT: (MODEL, "o", MODEL, 0.14), BY_IMAGE: (ACCENT, "D", "white", -0.14)}
    with canvas(WIDTH, height) as (figure, axes):
        set_margins(axes, WIDTH, height, left=14 + 6.1 * longest, bottom=58, right=14, top=4)
        values: list[float] = [] if chance is None else [chance]
        for way, (colour, marker, face, shift) in looks.items():
            drawn = [
                (-i + shift, f)
                for i, n in enumerate(learners)
                if is_number((f := figures[way].get(n) or {}).get("value"))
            ]
            bars = [(y, f) for y, f in drawn if is_number(f.get("low")) and is_number(f.get("high"))]
            axes.hlines(
                [y for y, _ in bars],
                [f["low"] for _, f in bars],
                [f["high"] for _, f in bars],
                color=colour,
                linewidth=1.8,
            )
            axes.plot(
                [f["value"] for _, f in drawn],
                [y for y, _ in drawn],
                marker,
                color=colour,
                markerfacecolor=face,
                markeredgewidth=1.4,
                markersize=6,
                label=f"split {way}",
            )
            values += [f["value"] for _, f in drawn] + [edge for _, f in bars for edge in (f["low"], f["high"])]
        for i in range(len(learners) - 1):
            axes.axhline(-i - 0.5, color=FAINT, linewidth=0.7)
        axes.set(ylim=(-len(learners) + 0.5, 0.5), xlim=around(values or [0, 1]))
        if chance is not None:
            axes.axvline(chance, color=SOFT, linewidth=1, linestyle=(0, (3, 2)), zorder=0)
        axes.set_yticks([-i for i in range(len(learners))], [shortened(learner, NAME) for learner in learners])
        for text in axes.get_yticklabels():
            text.set(color=INK)
        label_below(figure, axes, label, height=height, percent=percent)
        return svg(figure, name)
