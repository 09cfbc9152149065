"""A forest of one figure over the groups of all subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from casewise.report.figures.drawing import INK, MODEL, SOFT, Drawing, canvas, frame, limits, set_margins, svg
from casewise.report.formatting import capital, group_label, plain, shortened

if TYPE_CHECKING:
    from casewise.evaluation.results import Subgroup, SubgroupColumn

WIDTH, ROW, NAME = 440.0, 20.0, 34


def forest(
    columns: Sequence[SubgroupColumn],
    metric: str,
    *,
    overall: float | None,
    label: str,
    percent: bool,
    svg_name: str,
) -> Drawing:
    """A line for each group below its column's name; figures of small groups are hollow, a dashed line is all cases."""
    from matplotlib.ticker import FuncFormatter

    lines: list[tuple[str, Subgroup | None]] = []
    for column in columns:
        lines.append((shortened(capital(plain(column.column)), NAME), None))
        lines += [(shortened(f"{group_label(g)} ({g.n_subjects:,})", NAME + 6), g) for g in column.groups]
    height = ROW * len(lines) + 48
    longest = max(len(name) for name, _ in lines)
    with canvas(WIDTH, height) as (figure, axes):
        set_margins(axes, WIDTH, height, left=14 + 5.6 * longest, bottom=44, right=12, top=4)
        values: list[float] = [] if overall is None else [overall]
        for row, (_, group) in enumerate(lines):
            estimate = group.metrics.get(metric) if group else None
            if group is None or estimate is None or estimate.value is None:
                continue
            small = metric in group.small
            if estimate.low is not None and estimate.high is not None:
                axes.hlines(-row, estimate.low, estimate.high, color=MODEL, linewidth=1.8, alpha=0.45 if small else 1)
                values += [estimate.low, estimate.high]
            face = "white" if small else MODEL
            axes.plot([estimate.value], [-row], "o", color=MODEL, markerfacecolor=face, markersize=6)
            values.append(estimate.value)
        if overall is not None:
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
