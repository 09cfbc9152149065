"""Smoothed calibration curves with their bands, and decision curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casewise.report.figures.drawing import (
    ACCENT,
    INK,
    MODEL,
    SOFT,
    Drawing,
    canvas,
    headed,
    in_percent,
    key,
    limits,
    svg,
)
from casewise.report.formatting import shortened

WIDTH = 300.0


def curve(points: Sequence[Mapping[str, Any]], *, title: str, percent: bool, name: str) -> Drawing:
    """The observed share, or the mean reference, against the prediction; the diagonal is perfect calibration."""
    x, y, low, high = (np.array([p[key] for p in points], float) for key in ("predicted", "observed", "low", "high"))
    with canvas(WIDTH, 280, (50, 42, 10, 26)) as (figure, axes):
        ends = (-0.03, 1.03) if percent else limits(x, y, low, high)
        axes.plot(ends, ends, color=INK, linewidth=1.1)
        axes.fill_between(x, low, high, color=MODEL, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=MODEL, linewidth=2)
        axes.set(xlim=ends, ylim=ends, xlabel="Predicted probability" if percent else "Prediction")
        axes.set_ylabel("Share of the class" if percent else "Reference")
        axes.locator_params(nbins=6)
        in_percent(*((axes.xaxis, axes.yaxis) if percent else ()))
        headed(figure, shortened(title, 34))
        return svg(figure, name)


def decisions(
    points: Sequence[Mapping[str, Any]],
    *,
    title: str,
    name: str,
    other: tuple[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Drawing:
    """The net benefit by threshold: of the model with its band, of treating all, and of treating none (0).

    `other` is the label and the points of another model.
    """
    x = np.array([point["threshold"] for point in points], float)
    model, low, high = (np.array([p["model"][key] for p in points], float) for key in ("value", "low", "high"))
    everyone = np.array([point["treat_all"]["value"] for point in points], float)
    declared = np.array([point["declared"] for point in points], bool)
    with canvas(WIDTH, 250, (50, 62, 10, 26)) as (figure, axes):
        axes.axhline(0, color=SOFT, linewidth=1.2, label="treat none")
        axes.plot(x, everyone, color=ACCENT, linewidth=1.4, linestyle=(0, (5, 2)), label="treat all")
        axes.fill_between(x, low, high, color=MODEL, alpha=0.18, linewidth=0)
        axes.plot(x, model, color=MODEL, linewidth=2, label="both" if other else "model")
        if other:
            values = [point["model"]["value"] for point in other[1]]
            axes.plot(x, values, color=INK, linewidth=1.4, label=other[0])
        axes.plot(x[declared], model[declared], "o", color=MODEL, markersize=6, markeredgecolor="white")
        # treating all falls far below 0 at high thresholds
        ends = limits(model, low, high, np.maximum(everyone, -0.1), [0.0])
        axes.set(xlim=limits(x), ylim=ends, xlabel="Threshold", ylabel="Net benefit")
        axes.locator_params(nbins=5)
        in_percent(axes.xaxis, digits=".3g")
        headed(figure, shortened(title, 34))
        key(axes, loc="lower center", ncols=4 if other else 3, handlelength=2.2, columnspacing=1.2, borderaxespad=0.1)
        return svg(figure, name)
