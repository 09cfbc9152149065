"""A forest of one figure over the groups of all subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from casewise.report.context import is_number
from casewise.report.figures.drawing import INK, MODEL, SOFT, Drawing, canvas, frame, limits, set_margins, svg
from casewise.report.formatting import capital, group_label, plain, shortened

WIDTH, ROW, NAME = 440.0, 20.0, 34


def forest(
    columns: Sequence[Mapping[str, Any]],
    metric: str,
    *,
    overall: Any,
    label: str,
    percent: bool,
    svg_name: str,
) -> Drawing:
    """A line for each group below its column's name; figures of small groups are hollow, a dashed line is all cases."""
    from matplotlib.ticker import FuncFormatter

    lines: list[tuple[str, Mapping[str, Any] | None]] = []
    for column in columns:
        lines.append((shortened(capital(plain(column["column"])), NAME), None))
        lines += [(shortened(f"{group_label(g)} ({g['n_subjects']:,})", NAME + 6), g) for g in column["groups"]]
    height = ROW * len(lines) + 48
    longest = max(len(name) for name, _ in lines)
    with canvas(WIDTH, height) as (figure, axes):
        set_margins(axes, WIDTH, height, left=14 + 5.6 * longest, bottom=44, right=12, top=4)
        values: list[float] = [overall] if is_number(overall) else []
        for row, (_, group) in enumerate(lines):
            estimate = (group or {}).get("metrics", {}).get(metric) or {}
            if group is None or not is_number(estimate.get("value")):
                continue
            small = metric in group["small"]
            if is_number(estimate.get("low")) and is_number(estimate.get("high")):
                ends = [estimate["low"], estimate["high"]]
                axes.hlines(-row, *ends, color=MODEL, linewidth=1.8, alpha=0.45 if small else 1)
                values += ends
            face = "white" if small else MODEL
            axes.plot([estimate["value"]], [-row], "o", color=MODEL, markerfacecolor=face, markersize=6)
            values.append(estimate["value"])
        if is_number(overall):
            axes.axvline(overall, color=SOFT, linewidth=1, linestyle=(0, (3, 2)), zorder=0)
        axes.set_yticks([-row for row in range(len(lines))], [name for name, _ in lines])
        for text, (_, group) in zip(axes.get_yticklabels(), lines, strict=True):
            text.set(color=INK, fontweight="bold" if group is None else "normal")
        axes.set(ylim=(-len(lines) + 0.4, 0.6), xlim=limits(values or [0, 1]))
        axes.locator_params(axis="x", nbins=6)
        if percent:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
        axes.set_xlabel(label)
        frame(axes, grid="x")
        axes.spines["left"].set_visible(False)
        return svg(figure, svg_name)
