"""Classes: ROC and precision-recall curves, reliability, the confusion matrix; calibration and decision curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.metrics.roc import drawn_precision_recall
from casewise.report.figures import drawing
from casewise.report.formatting import capital, counted, percent, plain, shortened, three_digits
from casewise.report.tables import MetricFormat

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from casewise.evaluation.figures import ByMetric, Estimate
    from casewise.evaluation.results import ClassFigures, ReliabilityBin


MOST_CURVES = len(drawing.SERIES)
WRITE = MetricFormat()
# Dashes distinguish curves also without colours.
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2))]
DASHES += [(0, (9, 3)), (0, (4, 1.5, 1, 1.5, 1, 1.5)), (0, (3, 4)), (0, (0.8, 0.8))]
WIDTH = 390.0
# Points of a cell of a confusion matrix that has room for a share.
SHARE_WIDTH = 34.0


@dataclass(frozen=True)
class _Curve:
    """One class: its ROC curve, its AUROC with its interval, and its points (1 - specificity, sensitivity)."""

    name: str
    fpr: np.ndarray
    tpr: np.ndarray
    auroc: Estimate | None
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class _RecallCurve:
    """One class: recall and precision at each threshold, its AUPRC with its interval, and its share of the cases."""

    name: str
    recall: np.ndarray
    precision: np.ndarray
    auprc: Estimate | None
    share: float


def curves_of(entry: ClassFigures, figures: ByMetric) -> list[_Curve]:
    """The curves to draw from an entry of `classes` and its figures; at most `MOST_CURVES`."""
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
        curves.append(_Curve(plain(name), np.array(curve["fpr"], float), np.array(curve["tpr"], float), auroc, points))
    return curves


def recall_curves(
    rows: pd.DataFrame, names: Sequence[str], entry: ClassFigures, figures: ByMetric
) -> list[_RecallCurve]:
    """Precision against recall of each class that has a ROC curve; at most `MOST_CURVES`.

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
        curves.append(_RecallCurve(plain(name), recall, precision, auprc, float(of_class.mean())))
    return curves


def roc(curves: list[_Curve]) -> drawing.Drawing:
    """One curve a class against the others, its AUROC and interval in the key, dots at the operating points."""
    lines = 1 + len(curves) + any(curve.points for curve in curves)
    with _square(lines, "False positive rate (1 − specificity)", "True positive rate (sensitivity)") as drawn:
        figure, axes = drawn
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for i, curve in enumerate(curves):
            label = f"{shortened(curve.name, 18)}: AUROC {_key_figure('auroc', curve.auroc)}"
            axes.plot(curve.fpr, curve.tpr, color=drawing.SERIES[i], linestyle=DASHES[i], linewidth=1.9, label=label)
            drawing.readable(axes, curve.fpr, curve.tpr, partial(_rates, curve.name, curve.fpr, curve.tpr))
            x, y = [x for x, _ in curve.points], [y for _, y in curve.points]
            texts = [f"Operating point, {_rates(curve.name, x, y, point)}" for point in range(len(x))]
            edge: drawing.Look = {"markeredgecolor": "white", "markeredgewidth": 1, "zorder": 5, "clip_on": False}
            drawing.marked(axes, x, y, texts, color=drawing.SERIES[i], markersize=6.5, **edge)
        if any(curve.points for curve in curves):
            axes.plot([], [], "o", color=drawing.SOFT, markersize=6.5, label="operating points, chosen on other cases")
        axes.plot([0, 1], [0, 1], color=drawing.PALE, linewidth=1, zorder=1, label="chance")
        _key(axes)
        return drawing.svg(figure, "roc")


def _rates(name: str, false: Any, true: Any, point: int) -> str:
    """A point of a ROC curve in words."""
    return f"{name}: sensitivity {percent(true[point])}, specificity {percent(1 - false[point])}"


def precision_recall(curves: list[_RecallCurve]) -> drawing.Drawing:
    """One curve a class against the others, and, thin and dotted, its share of the cases, which is chance."""
    with _square(len(curves), "Recall (sensitivity)", "Precision (positive predictive value)") as (figure, axes):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        for i, curve in enumerate(curves):
            label = f"{shortened(curve.name, 14)}: {_key_figure('auprc', curve.auprc)}, share {100 * curve.share:.0f} %"
            axes.axhline(curve.share, color=drawing.SERIES[i], linewidth=1, linestyle=(0, (1, 2)))
            look: drawing.Look = {"color": drawing.SERIES[i], "linestyle": DASHES[i], "linewidth": 1.9, "label": label}
            precision = np.append(curve.precision[0], curve.precision)
            axes.step(np.append(0.0, curve.recall), precision, where="pre", **look)
            drawing.readable(axes, curve.recall, curve.precision, partial(_precision, curve))
        _key(axes)
        return drawing.svg(figure, "precision-recall")


def _precision(curve: _RecallCurve, point: int) -> str:
    """A point of a precision–recall curve in words."""
    return f"{curve.name}: recall {percent(curve.recall[point])}, precision {percent(curve.precision[point])}"


def reliability(
    before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin], *, ece: Sequence[Estimate | None]
) -> drawing.Drawing:
    """The share of correct predictions in each bin of predicted probability, before and after temperature scaling.

    Args:
        before, after: the bins; empty ones are left out.
        ece: the calibration error of both, for the key.
    """
    looks = [("as predicted", drawing.ACCENT, (0, (4, 2)), "D"), ("after temperature scaling", drawing.MODEL, "-", "o")]
    drawn = [[b for b in bins if b.n] for bins in (before, after)]
    most = max((b.n for bins in drawn for b in bins), default=1)
    low = min((b.confidence for bins in drawn for b in bins), default=0.0)
    lines = sum(map(bool, drawn))
    with _square(lines, "Probability of the likeliest class", "Share that is correct") as (figure, axes):
        axes.plot([0, 1], [0, 1], color=drawing.INK, linewidth=1.1)
        for (title, colour, dash, marker), bins, error in zip(looks, drawn, ece, strict=True):
            if not bins:
                continue
            x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
            look: drawing.Look = {"color": colour, "linestyle": dash}
            axes.plot(x, y, linewidth=1.1, alpha=0.55, **look)
            label = f"{title}: ECE {_key_figure('ece', error)}"
            axes.plot([], [], marker=marker, linewidth=1.4, label=label, **look)
            sizes = [8 + 150 * b.n / most for b in bins]
            axes.scatter(x, y, s=sizes, marker=marker, color=colour, edgecolors="white", linewidths=0.8, zorder=4)
        axes.set(xlim=(max(0.0, np.floor(low * 10) / 10 - 0.04), 1.03), ylim=(-0.03, 1.04))
        for (title, *_), bins in zip(looks, drawn, strict=True):
            x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
            drawing.readable(axes, x, y, partial(_bin, title, bins))
        _key(axes)
        return drawing.svg(figure, "reliability")


def _bin(title: str, bins: Sequence[ReliabilityBin], point: int) -> str:
    """A bin of predicted probabilities in words."""
    chosen = bins[point]
    shares = f"mean probability {percent(chosen.confidence)}, correct {percent(chosen.accuracy)}"
    return f"{capital(title)}: {shares} of {counted(chosen.n, 'prediction')}"


def confusion(names: Sequence[str], counts: np.ndarray) -> drawing.Drawing:
    """Counts (K, K) with reference classes by rows; a cell is darker the larger its share of the row is.

    On narrow axes of a caller, cells of many classes have their counts only.
    """
    counts = np.asarray(counts, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [shortened(plain(label), 18) for label in names]
    longest, cells = max(map(len, labels)), 84.0 * len(names)
    tilted: drawing.Look = {"rotation": 20, "ha": "right"} if longest > 11 else {}
    left, bottom = 46 + 6.2 * longest, 86 if tilted else 46
    with drawing.canvas(left + cells + 12, cells + bottom + 10, (left, bottom, 12, 10), grid=None) as (figure, axes):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        roomy = drawing.room(axes) / len(names) > SHARE_WIDTH
        for (row, column), count in np.ndenumerate(counts):
            share = f"\n{100 * shares[row, column]:.0f} %" * (roomy and bool(counts[row].any()))
            text = f"{count:,.0f}{share}"
            colour = "white" if shares[row, column] > 0.55 else drawing.INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
        axes.set_xticks(range(len(names)), labels, **tilted)
        axes.set_yticks(range(len(names)), labels)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="Predicted", ylabel="Reference")
        return drawing.svg(figure, "confusion")


@contextmanager
def _square(lines: int, x: str, y: str) -> Iterator[drawing.Canvas]:
    """Axes of shares with these labels, and room for as many lines of a key below."""
    below = 46 + 16.0 * lines
    with drawing.canvas(WIDTH, WIDTH - 70 + below, (58, below, 12, 10)) as (figure, axes):
        axes.set(xlabel=x, ylabel=y)
        axes.locator_params(nbins=6)
        drawing.in_percent(axes.xaxis, axes.yaxis)
        yield figure, axes


def _key(axes: Axes) -> None:
    """The key below the axes, a line per curve."""
    look: drawing.Look = {"handlelength": 2.6, "borderaxespad": 0.1, "fontsize": 10}
    drawing.key(axes, *axes.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=(40 / WIDTH, 0), **look)


def _key_figure(metric: str, figure: Estimate | None) -> str:
    """A figure with its interval, for a key."""
    return f"{WRITE.text(metric, figure.value if figure else None)} {WRITE.bounds(metric, figure)}".strip()


CURVE_WIDTH = 300.0


def curve(points: Sequence[Mapping[str, Any]], *, title: str, shares: bool, name: str) -> drawing.Drawing:
    """The observed share, or the mean reference, against the prediction; the diagonal is perfect calibration."""
    x, y, low, high = (np.array([p[key] for p in points], float) for key in ("predicted", "observed", "low", "high"))
    with drawing.canvas(CURVE_WIDTH, 280, (60, 42, 10, 26)) as (figure, axes):
        ends = (-0.03, 1.03) if shares else drawing.limits(x, y, low, high)
        axes.plot(ends, ends, color=drawing.INK, linewidth=1.1)
        axes.fill_between(x, low, high, color=drawing.MODEL, alpha=0.18, linewidth=0)
        axes.plot(x, y, color=drawing.MODEL, linewidth=2)
        axes.set(xlim=ends, ylim=ends, xlabel="Predicted probability" if shares else "Prediction")
        axes.set_ylabel("Share of the class" if shares else "Reference")
        axes.locator_params(nbins=6)
        drawing.in_percent(*((axes.xaxis, axes.yaxis) if shares else ()))
        drawing.readable(axes, x, y, partial(_calibrated, points, shares))
        drawing.headed(figure, shortened(title, 34))
        return drawing.svg(figure, name)


def _calibrated(points: Sequence[Mapping[str, Any]], shares: bool, point: int) -> str:
    """A point of a calibration curve in words."""
    predicted, *observed = (points[point].get(key) for key in ("predicted", "observed", "low", "high"))
    text = f"Predicted {three_digits(predicted, percent=shares)}, {'share of the class' if shares else 'reference'}"
    return f"{text} {three_digits(*observed, percent=shares)}"


def decisions(
    points: Sequence[Mapping[str, Any]],
    *,
    title: str,
    name: str,
    other: tuple[str, Sequence[Mapping[str, Any]]] | None = None,
) -> drawing.Drawing:
    """The net benefit by threshold: of the model with its band, of treating all, and of treating none (0).

    `other` is the label and the points of another model.
    """
    x = np.array([point["threshold"] for point in points], float)
    model, low, high = (np.array([p["model"][key] for p in points], float) for key in ("value", "low", "high"))
    everyone = np.array([point["treat_all"]["value"] for point in points], float)
    declared = np.array([point["declared"] for point in points], bool)
    with drawing.canvas(CURVE_WIDTH, 250, (50, 62, 10, 26)) as (figure, axes):
        axes.axhline(0, color=drawing.SOFT, linewidth=1.2, label="treat none")
        axes.plot(x, everyone, color=drawing.ACCENT, linewidth=1.4, linestyle=(0, (5, 2)), label="treat all")
        axes.fill_between(x, low, high, color=drawing.MODEL, alpha=0.18, linewidth=0)
        axes.plot(x, model, color=drawing.MODEL, linewidth=2, label="both" if other else "model")
        if other:
            values = [point["model"]["value"] for point in other[1]]
            axes.plot(x, values, color=drawing.INK, linewidth=1.4, label=other[0])
        axes.plot(x[declared], model[declared], "o", color=drawing.MODEL, markersize=6, markeredgecolor="white")
        # treating all falls far below 0 at high thresholds
        ends = drawing.limits(model, low, high, np.maximum(everyone, -0.1), [0.0])
        axes.set(xlim=drawing.limits(x), ylim=ends, xlabel="Threshold", ylabel="Net benefit")
        axes.locator_params(nbins=5)
        drawing.in_percent(axes.xaxis, digits=".3g")
        for who, course in (("treat all", everyone), ("model", model)):
            drawing.readable(axes, x, course, partial(_benefit, who, x, course))
        drawing.headed(figure, shortened(title, 34))
        drawing.key(
            axes, loc="lower center", ncols=4 if other else 3, handlelength=2.2, columnspacing=1.2, borderaxespad=0.1
        )
        return drawing.svg(figure, name)


def _benefit(who: str, thresholds: np.ndarray, benefits: np.ndarray, point: int) -> str:
    """The net benefit at a threshold in words."""
    return f"Threshold {100 * thresholds[point]:.3g} %: {who}, net benefit {benefits[point]:.3f}"
