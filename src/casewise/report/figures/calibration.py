"""Smoothed calibration curves with their bands, and decision curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casewise.report.figures.drawing import ACCENT, INK, MODEL, SOFT, Drawing, canvas, frame, limits, set_margins, svg
from casewise.report.formatting import shortened

WIDTH, HEIGHT = 300.0, 280.0
BENEFIT_HEIGHT = 250.0


def curve(points: Sequence[Mapping[str, Any]], *, title: str, percent: bool, name: str) -> Drawing:
    """The observed share, or the mean reference, against the prediction; the diagonal is perfect calibration."""
    from matplotlib.ticker import FuncFormatter

    x, y, low, high = (np.array([p[key] for p in points], float) for key in ("predicted", "observed", "low", "high"))
    with canvas(WIDTH, HEIGHT) as (figure, axes):
        set_margins(axes, WIDTH, HEIGHT, left=50, bottom=42, right=10, top=26)
        ends = (-0.03, 1.03) if percent else limits(x, y, low, high)
        axes.plot(ends, ends, color=INK, linewidth=1.1)
        axes.fill_between(x, low, high, color=MODEL, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=MODEL, linewidth=2)
        axes.set(xlim=ends, ylim=ends)
        axes.locator_params(nbins=6)
        if percent:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.set_xlabel("Predicted probability" if percent else "Prediction")
        axes.set_ylabel("Share of the class" if percent else "Reference")
        figure.text(4 / WIDTH, 1 - 12 / HEIGHT, shortened(title, 34), fontsize=11, fontweight="bold", va="center")
        frame(axes)
        return svg(figure, name)


def decisions(points: Sequence[Mapping[str, Any]], *, title: str, name: str) -> Drawing:
    """The net benefit by threshold: of the model with its band, of treating all, and of treating none (0)."""
    from matplotlib.ticker import FuncFormatter

    x = np.array([point["threshold"] for point in points], float)
    model, low, high = (np.array([p["model"][key] for p in points], float) for key in ("value", "low", "high"))
    everyone = np.array([point["treat_all"]["value"] for point in points], float)
    declared = np.array([point["declared"] for point in points], bool)
    with canvas(WIDTH, BENEFIT_HEIGHT) as (figure, axes):
        set_margins(axes, WIDTH, BENEFIT_HEIGHT, left=50, bottom=62, right=10, top=26)
        axes.axhline(0, color=SOFT, linewidth=1.2, label="treat none")
        axes.plot(x, everyone, color=ACCENT, linewidth=1.4, linestyle=(0, (5, 2)), label="treat all")
        axes.fill_between(x, low, high, color=MODEL, alpha=0.18, linewidth=0)
        axes.plot(x, model, color=MODEL, linewidth=2, label="model")
        axes.plot(x[declared], model[declared], "o", color=MODEL, markersize=6, markeredgecolor="white")
        # treating all falls far below 0 at high thresholds
        bottom, top = limits(model, low, high, np.maximum(everyone, -0.1), [0.0])
        axes.set(xlim=limits(x), ylim=(bottom, top))
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        axes.set_xlabel("Threshold")
        axes.set_ylabel("Net benefit")
        figure.text(
            4 / WIDTH, 1 - 12 / BENEFIT_HEIGHT, shortened(title, 34), fontsize=11, fontweight="bold", va="center"
        )
        frame(axes)
        figure.legend(loc="lower center", ncols=3, handlelength=2.2, columnspacing=1.2, borderaxespad=0.1)
        return svg(figure, name)
