"""The confusion matrix as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from casewise.report.figures.drawing import INK, Drawing, canvas, set_margins, svg
from casewise.report.formatting import plain, shortened

CELL, NAME, LONG = 84.0, 18, 11


def confusion(names: Sequence[str], counts: np.ndarray, *, name: str = "confusion") -> Drawing:
    """Counts (K, K) with reference classes by rows; a cell is darker the larger its share of the row is."""
    counts = np.asarray(counts, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [shortened(plain(label), NAME) for label in names]
    left = 46 + 6.2 * max(map(len, labels))
    tilted: dict[str, Any] = {"rotation": 20, "ha": "right"} if max(map(len, labels)) > LONG else {}
    bottom = 86 if tilted else 46
    width, height = left + CELL * len(names) + 12, CELL * len(names) + bottom + 10
    with canvas(width, height) as (figure, axes):
        set_margins(axes, width, height, left=left, bottom=bottom, right=12, top=10)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), count in np.ndenumerate(counts):
            text = f"{count:,.0f}\n{100 * shares[row, column]:.0f} %" if counts[row].any() else "0"
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
        axes.set_xticks(range(len(names)), labels, **tilted)
        axes.set_yticks(range(len(names)), labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("Predicted")
        axes.set_ylabel("Reference")
        return svg(figure, name)
