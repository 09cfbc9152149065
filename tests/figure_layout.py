"""What must hold for every figure: nothing is cut, and no text lies on another text or on axes."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

# Pixels at the figure's own resolution by which boxes may touch: fonts are rounded to whole pixels.
TOUCH = 1.5


def _ticks(axes: Any) -> Iterator[Text]:
    """The texts of the ticks that are drawn."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        room = 1e-6 * (high - low)
        for tick in axis.get_major_ticks():
            if low - room <= tick.get_loc() <= high + room:
                yield tick.label1


def _texts(figure: Figure) -> Iterator[tuple[Text, bool]]:
    """Every text that is drawn, and whether it belongs outside of all axes."""
    everywhere = [*figure.axes, *(inner for axes in figure.axes for inner in axes.child_axes)]
    for axes in everywhere:
        titles = [axes.title, axes._left_title, axes._right_title]
        names = [axes.xaxis.label, axes.yaxis.label, *_ticks(axes)] if axes.axison else []
        keys = axes.get_legend().get_texts() if axes.get_legend() else []
        yield from ((text, True) for text in [*titles, *names, *keys])
        yield from ((text, False) for text in axes.texts)
    yield from ((text, True) for text in figure.texts)
    yield from ((text, True) for legend in figure.legends for text in legend.get_texts())


def _boxes(text: Text, renderer: Any) -> list[Bbox]:
    """The text as a box, and as a row of boxes along its line where it is slanted."""
    box, angle = text.get_window_extent(renderer), text.get_rotation() % 180
    if angle % 90 == 0:
        return [box]
    height = text.get_fontsize() * text.figure.dpi / 72
    count = max(2, int(max(box.width, box.height) / height))
    start, end = (box.x0, box.y0), (box.x1 - height, box.y1 - height)
    return [Bbox.from_bounds(x, y, height, height) for x, y in np.linspace(start, end, count)]


def _overlap(one: Any, other: Any) -> bool:
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    along = min(one.y1, other.y1) - max(one.y0, other.y0)
    return bool(across > TOUCH and along > TOUCH)


def faults(figure: Figure) -> list[str]:
    """What is cut or lies on something else; empty for a figure that can be printed."""
    canvas = figure.canvas if isinstance(figure.canvas, FigureCanvasAgg) else FigureCanvasAgg(figure)
    canvas.draw()
    renderer, found = canvas.get_renderer(), []
    drawn = [(text, outside) for text, outside in _texts(figure) if text.get_visible() and text.get_text().strip()]
    boxes = [_boxes(text, renderer) for text, _ in drawn]
    width, height = figure.bbox.width, figure.bbox.height
    for (text, outside), own in zip(drawn, boxes, strict=True):
        box = text.get_window_extent(renderer)
        if min(box.x0, box.y0, width - box.x1, height - box.y1) < -0.5:
            found.append(f"cut: {text.get_text()!r}")
        of_axes = [axes.get_window_extent() for axes in figure.axes if axes.axison]
        if outside and any(_overlap(piece, other) for piece in own for other in of_axes):
            found.append(f"on axes: {text.get_text()!r}")
    for (one, a), (other, b) in combinations(zip((text for text, _ in drawn), boxes, strict=True), 2):
        if any(_overlap(piece, of_other) for piece in a for of_other in b):
            found.append(f"on each other: {one.get_text()!r} and {other.get_text()!r}")
    return found + [fault for axes in figure.axes for fault in _cut_markers(axes)]


def _cut_markers(axes: Any) -> Iterator[str]:
    """Markers of the data that the limits of the axes cut."""
    box = axes.get_window_extent()
    for line in axes.get_lines():
        if line.get_marker() in ("None", None, "", " ", "_") or not line.get_clip_on():
            continue
        if line.get_transform() != axes.transData:
            continue
        points = np.asarray(line.get_xydata(), float)
        places = axes.transData.transform(points[np.isfinite(points).all(axis=1)])
        radius = line.get_markersize() / 2 * axes.figure.dpi / 72
        inside = (places >= [box.x0, box.y0]).all(axis=1) & (places <= [box.x1, box.y1]).all(axis=1)
        room = np.minimum(places - [box.x0, box.y0], [box.x1, box.y1] - places)
        if (inside & (room < radius - 1).any(axis=1)).any():
            yield f"a marker of {line.get_label()!r} is cut"
