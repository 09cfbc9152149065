"""The distribution of recorded labels: overall, and of training and test set."""

from __future__ import annotations

import numpy as np
import pandas as pd

from casewise.report.figures.drawing import ACCENT, INK, MODEL, SOFT, Drawing, canvas, headed, svg
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


def distribution(table: pd.DataFrame, column: str, *, scale: tuple[float, float], title: str, name: str) -> Drawing:
    """Bars of one target: training and test set if there is one, and a tick for all.

    Args:
        table: the target's values in `column`, and `side` (`test` or `train`).
    """
    recorded = table.dropna(subset=[column])
    values, sides = recorded[column].to_numpy(float), recorded["side"].to_numpy()
    edges, names, levels = _binned(values, scale)
    x = np.arange(len(names))
    with canvas(300, 190, (36, 26, 6, 26), grid="y") as (figure, axes):
        overall = shares(values, edges) * 100
        if (sides == "test").any():
            axes.bar(x - 0.2, shares(values[sides != "test"], edges) * 100, 0.38, color=MODEL)
            axes.bar(x + 0.2, shares(values[sides == "test"], edges) * 100, 0.38, color=ACCENT, alpha=0.85)
            axes.plot(x, overall, "_", color=INK, markersize=19, markeredgewidth=1.4)
        else:
            axes.bar(x, overall, 0.78, color=MODEL)
        every = 2 if len(names) > 8 else 1
        axes.set_xticks(x[::every] - (0 if levels else 0.5), names[::every])
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.yaxis.set_major_formatter("{x:.0f} %")
        axes.locator_params(axis="y", nbins=4, integer=True)
        headed(figure, shortened(title, 34), f"n = {len(values):,}", SOFT)
        return svg(figure, name)
