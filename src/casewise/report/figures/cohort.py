"""The distribution of recorded labels: overall, and of training and test set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from casewise.report.figures.drawing import ACCENT, INK, MODEL, SOFT, Drawing, Look, canvas, headed, key, readable, svg
from casewise.report.formatting import shortened

BANDS, MOST_LEVELS = 10, 20


def _binned(values: np.ndarray, scale: tuple[float, float]) -> tuple[np.ndarray, list[str], bool]:
    """Edges and names of the bars, and whether each is one level of a stepped scale or one of about ten bands.

    >>> _binned(np.array([0, 1, 4]), (0, 4))[1:]
    (['0', '1', '2', '3', '4'], True)
    """
    low, high = scale
    step = min(np.diff(np.unique(np.round(values - low, 6))), default=1.0)
    steps = (values - low) / step
    if step <= 1 and np.allclose(steps, np.rint(steps), atol=1e-4) and (high - low) / step <= MOST_LEVELS:
        levels = np.arange(low, high + step / 2, step)
        return np.append(levels - step / 2, levels[-1] + step / 2), [f"{level:g}" for level in levels], True
    from matplotlib.ticker import MaxNLocator

    top = max(min(high, float(values.max())), low + (high - low) * 0.1)
    edges = np.asarray(MaxNLocator(BANDS).tick_values(low, top))
    return edges, [f"{edge:g}" for edge in np.round(edges[:-1], 6)], False


def shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of the values in each bar; values beyond the scale count in the outermost bars."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return np.asarray(counts / max(counts.sum(), 1))


def distribution(
    table: pd.DataFrame,
    column: str,
    *,
    scale: tuple[float, float],
    title: str,
    name: str,
    classes: Sequence[str] = (),
) -> Drawing:
    """Bars of one target: training and test set if there is one, and a dash for all.

    Args:
        table: the target's values in `column`, and `side` (`test` or `train`).
        classes: the names of the values 0, 1, … of a target with classes.
    """
    recorded = table.dropna(subset=[column])
    values, sides = recorded[column].to_numpy(float), recorded["side"].to_numpy()
    if classes:
        edges, names, levels = np.arange(len(classes) + 1) - 0.5, list(classes), True
    else:
        edges, names, levels = _binned(values, scale)
    x = np.arange(len(names))
    with canvas(300, 208, (60, 42, 6, 26), grid="y") as (figure, axes):
        overall = shares(values, edges) * 100
        if (sides == "test").any():
            train = axes.bar(x - 0.2, shares(values[sides != "test"], edges) * 100, 0.38, color=MODEL)
            look: Look = {"color": ACCENT, "alpha": 0.85, "hatch": "////", "edgecolor": "white", "linewidth": 0}
            test = axes.bar(x + 0.2, shares(values[sides == "test"], edges) * 100, 0.38, **look)
            filled = overall > 0
            every_case = axes.hlines(overall[filled], x[filled] - 0.4, x[filled] + 0.4, color=INK, linewidth=1.4)
            key(axes, [train, test, every_case], ["training", "test", "all together"], explained=True, ncols=3)
        else:
            axes.bar(x, overall, 0.78, color=MODEL)
        every = 1 if classes or len(names) <= 8 else 2
        named = [shortened(name, 18) for name in classes] or names[::every]
        axes.set_xticks(x[::every] - (0 if levels else 0.5), named)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set(xlabel="class" if classes else "value (points)", ylabel="share of the values")
        axes.yaxis.set_major_formatter("{x:.0f} %")
        axes.locator_params(axis="y", nbins=4, integer=True)
        bars = names if levels else [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
        texts = [f"{bar}: {share:.1f} % of the values" for bar, share in zip(bars, overall, strict=True)]
        readable(axes, x, overall, texts.__getitem__)
        headed(figure, shortened(title, 34), f"n = {len(values):,}", SOFT)
        return svg(figure, name)
