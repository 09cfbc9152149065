"""Curves of classes: ROC and precision-recall curves, and reliability diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.metrics.roc import drawn_precision_recall
from casewise.report.figures.drawing import ACCENT, INK, MODEL, PALE, SERIES, Drawing, canvas, frame, set_margins, svg
from casewise.report.formatting import plain, shortened
from casewise.report.tables import MetricFormat

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from casewise.evaluation.results import ClassFigures, Estimate, Figures, ReliabilityBin

MOST_CURVES = len(SERIES)
WRITE = MetricFormat()
# Dashes distinguish curves also without colours.
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)), "-", (0, (5, 2)), (0, (1.5, 1.5)), "-"]
WIDTH, SIDE, LINE = 420.0, 350.0, 16.0


@dataclass(frozen=True)
class Curve:
    """One class: its ROC curve, its AUROC with its interval, and its points (1 - specificity, sensitivity)."""

    name: str
    fpr: np.ndarray
    tpr: np.ndarray
    auroc: Estimate | None
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class RecallCurve:
    """One class: recall and precision at each threshold, its AUPRC with its interval, and its share of the cases."""

    name: str
    recall: np.ndarray
    precision: np.ndarray
    auprc: Estimate | None
    share: float


def curves_of(entry: ClassFigures, figures: Figures) -> list[Curve]:
    """The curves to draw from an entry of `classes` and the figures beside it; at most eight."""
    curves = []
    for name, curve in list(entry.roc.items())[:MOST_CURVES]:
        if len(curve.get("fpr", [])) < 2:
            continue
        points = []
        for point in entry.operating:
            specificity, sensitivity = (point.figures.get(key) for key in ("specificity", "sensitivity"))
            if point.label != name or specificity is None or sensitivity is None:
                continue
            if specificity.value is not None and sensitivity.value is not None:
                points.append((1 - specificity.value, sensitivity.value))
        # two classes have one AUROC, under the name of either
        auroc = figures.get(f"auroc[{name}]") or figures.get("auroc")
        curves.append(Curve(plain(name), np.array(curve["fpr"], float), np.array(curve["tpr"], float), auroc, points))
    return curves


def recall_curves(rows: pd.DataFrame, names: Sequence[str], entry: ClassFigures, figures: Figures) -> list[RecallCurve]:
    """Precision against recall of each class that has a ROC curve; at most eight.

    Args:
        rows: predictions of one learner and stage, with `y_true` and the probabilities `p0`, `p1`, …
        names: the classes in the order of the probabilities.
        entry, figures: as of `curves_of`.
    """
    curves = []
    for name in list(entry.roc)[:MOST_CURVES]:
        column = f"p{names.index(name)}" if name in names else ""
        if column not in rows.columns:
            continue
        of_class = rows["y_true"].to_numpy(int) == names.index(name)
        points = drawn_precision_recall(rows[column].to_numpy(float), of_class)
        if points is None:
            continue
        auprc = figures.get(f"auprc[{name}]") or figures.get("auprc")
        recall, precision = np.array(points["recall"]), np.array(points["precision"])
        curves.append(RecallCurve(plain(name), recall, precision, auprc, float(of_class.mean())))
    return curves


def roc(curves: list[Curve], *, name: str = "roc") -> Drawing:
    """One curve a class against the others, its AUROC and interval in the key, dots at the operating points."""
    below = 46 + LINE * len(curves)
    height = SIDE + below
    with canvas(WIDTH, height) as (figure, axes):
        set_margins(axes, WIDTH, height, left=58, bottom=below, right=12, top=10)
        axes.plot([0, 1], [0, 1], color=PALE, linewidth=1)
        titles: dict[str, list[str]] = {}
        for i, curve in enumerate(curves):
            label = f"{shortened(curve.name, 24)}: {_key_figure('auroc', curve.auroc)}"
            axes.plot(curve.fpr, curve.tpr, color=SERIES[i], linestyle=DASHES[i], linewidth=1.9, label=label)
            titles[f"operating{i}"] = [
                f"{curve.name}: sensitivity {100 * y:.0f} %, specificity {100 * (1 - x):.0f} %" for x, y in curve.points
            ]
            axes.plot(
                [x for x, _ in curve.points],
                [y for _, y in curve.points],
                "o",
                color=SERIES[i],
                markersize=6.5,
                markeredgecolor="white",
                markeredgewidth=1,
                zorder=5,
                gid=f"operating{i}",
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_xlabel("False positive rate (1 − specificity)")
        axes.set_ylabel("True positive rate (sensitivity)")
        _percent(axes)
        frame(axes)
        _key(axes)
        return svg(figure, name, titles)


def precision_recall(curves: list[RecallCurve], *, name: str = "precision-recall") -> Drawing:
    """One curve a class against the others, and, thin and dotted, its share of the cases, which is chance."""
    below = 46 + LINE * len(curves)
    height = SIDE + below
    with canvas(WIDTH, height) as (figure, axes):
        set_margins(axes, WIDTH, height, left=58, bottom=below, right=12, top=10)
        for i, curve in enumerate(curves):
            label = f"{shortened(curve.name, 24)}: {_key_figure('auprc', curve.auprc)}, share {100 * curve.share:.0f} %"
            axes.axhline(curve.share, color=SERIES[i], linewidth=1, linestyle=(0, (1, 2)))
            axes.step(
                np.append(0.0, curve.recall),
                np.append(curve.precision[0], curve.precision),
                where="pre",
                color=SERIES[i],
                linestyle=DASHES[i],
                linewidth=1.9,
                label=label,
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_xlabel("Recall (sensitivity)")
        axes.set_ylabel("Precision (positive predictive value)")
        _percent(axes)
        frame(axes)
        _key(axes)
        return svg(figure, name)


def reliability(
    before: Sequence[ReliabilityBin],
    after: Sequence[ReliabilityBin],
    *,
    ece: Sequence[Estimate | None],
    name: str = "reliability",
) -> Drawing:
    """The share of correct predictions in each bin of predicted probability, before and after temperature scaling.

    Args:
        before, after: the bins; empty ones are left out.
        ece: the calibration error of both, for the key.
    """
    series = [("as predicted", before, ACCENT, (0, (4, 2)), "D"), ("after temperature scaling", after, MODEL, "-", "o")]
    drawn = [[b for b in bins if b.n] for _, bins, *_ in series]
    below = 46 + LINE * sum(bool(bins) for bins in drawn)
    height = SIDE + below
    most = max((b.n for bins in drawn for b in bins), default=1)
    low = min((b.confidence for bins in drawn for b in bins), default=0.0)
    with canvas(WIDTH, height) as (figure, axes):
        set_margins(axes, WIDTH, height, left=58, bottom=below, right=12, top=10)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1.1)
        for (title, _, colour, dash, marker), bins, error in zip(series, drawn, ece, strict=True):
            if not bins:
                continue
            x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
            label = f"{title}: ECE {_key_figure('ece', error)}"
            axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.1, alpha=0.55)
            axes.plot([], [], color=colour, linestyle=dash, marker=marker, linewidth=1.4, label=label)
            sizes = [8 + 150 * b.n / most for b in bins]
            axes.scatter(x, y, s=sizes, marker=marker, color=colour, edgecolors="white", linewidths=0.8, zorder=4)
        left = max(0.0, np.floor(low * 10) / 10 - 0.04)
        axes.set(xlim=(left, 1.03), ylim=(-0.03, 1.04))
        axes.set_xlabel("Probability of the predicted class")
        axes.set_ylabel("Share that is correct")
        _percent(axes)
        frame(axes)
        _key(axes)
        return svg(figure, name)


def _percent(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.locator_params(nbins=6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))


def _key(axes: Axes) -> None:
    """The key below the axes, a line per curve."""
    handles, names = axes.get_legend_handles_labels()
    axes.figure.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(48 / WIDTH, 0),
        handlelength=2.6,
        borderaxespad=0.1,
        fontsize=10.5,
    )


def _key_figure(metric: str, figure: Estimate | None) -> str:
    """A figure with its interval, for a key."""
    return f"{WRITE.text(metric, figure.value if figure else None)} {WRITE.bounds(metric, figure)}".strip()
