"""Drawing with matplotlib to compact inline SVG with text, unique identifiers and reproducible bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary, ref

import numpy as np
from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Settings of a line, marker or text.
Look = dict[str, Any]
Canvas: TypeAlias = "tuple[Figure, Axes]"
Margins = tuple[float, float, float, float]
Grid = Literal["both", "x", "y"] | None
# Okabe and Ito's colours, distinct for any colour vision; markers distinguish series also without colours.
INK, SOFT, PALE, FAINT = "#1f2933", "#5f6b76", "#aab3bb", "#d9dee3"
MODEL, PHYSICIAN, ACCENT = "#0072b2", "#1f2933", "#d55e00"
SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d00", "#5f6b76"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "p"]
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "casewise",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a949e",
    "axes.labelcolor": INK,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "path.simplify_threshold": 0.3,
}
MANY = 1500
# The scale up to which a figure grows with its column, so that its labels are not much smaller than text.
_LARGEST = 1.25
# Points of a curve that show its values, at most, also in a drawing of many curves.
MOST_READ, MOST_READ_OF_MANY = 40, 10
# By figure and `gid` of a line of markers, the text that each marker shows under the pointer.
_TEXTS: WeakKeyDictionary[Any, dict[str, Sequence[str]]] = WeakKeyDictionary()
# By figure, unseen markers with their texts, which are part of the drawing only and not of the figure.
_UNSEEN: WeakKeyDictionary[Any, list[tuple[ref[Axes], Any, Any, Sequence[str]]]] = WeakKeyDictionary()
# The axes of a caller's figure, on which the next drawing is made.
_ONTO: ContextVar[Axes | None] = ContextVar("onto", default=None)


@contextmanager
def onto(axes: Axes | None) -> Iterator[None]:
    """Draw what the block draws on these axes, in the style that is in force; with None on figures of its own."""
    token = _ONTO.set(axes)
    try:
        yield
    finally:
        _ONTO.reset(token)


@contextmanager
def canvas(width: float, height: float, margins: Margins = (0, 0, 0, 0), grid: Grid = "both") -> Iterator[Canvas]:
    """A figure of `width` by `height` points with one pair of axes, in the report's style, without pyplot.

    Args:
        margins: around the axes in points: left, bottom, right, top. They are faster than a layout engine, and equal
            for small multiples.
        grid: the axes with light grid lines; None for none.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    if (given := _ONTO.get()) is not None:
        with matplotlib.rc_context({"text.parse_math": False}):
            _look(given, grid)
            yield given.figure, given  # type: ignore[misc]
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        position_axes(axes, margins, grid)
        yield figure, axes


def position_axes(axes: Axes, margins: Margins, grid: Grid = "both") -> None:
    """Position axes within margins in points, with a light grid and without tick marks."""
    width, height = axes.figure.get_size_inches() * 72  # type: ignore[union-attr]
    left, bottom, right, top = margins
    axes.set_position((left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height))
    _look(axes, grid)


def _look(axes: Axes, grid: Grid) -> None:
    axes.tick_params(length=0, pad=5 if _ONTO.get() is None else 2)
    if grid is not None:
        axes.grid(True, axis=grid)


def lower_axes(axes: Axes, margins: Margins) -> Axes:
    """Further axes with the same horizontal axis within margins of the figure; below the axes of a caller's figure."""
    if _ONTO.get() is None:
        lower = axes.figure.add_axes((0.0, 0.0, 1.0, 1.0), sharex=axes)  # type: ignore[union-attr]
        position_axes(lower, margins, grid="y")
        return lower
    from mpl_toolkits.axes_grid1 import make_axes_locatable

    lower = make_axes_locatable(axes).append_axes("bottom", size="90%", pad=0.12, sharex=axes)
    _look(lower, "y")
    return lower


def raised(height: float, *, text_below: bool) -> Look:
    """The position of a title above a figure's axes; on a caller's axes close above them and the text there."""
    return {"y": height} if _ONTO.get() is None else {"pad": 15 if text_below else 5}


def key(axes: Axes, *given: Any, explained: bool = False, **look: Any) -> None:
    """A key of the whole figure; on a caller's axes one below them and their names.

    `explained`: the caption in the report names the lines, so that only a figure on a caller's axes has a key.
    """
    if _ONTO.get() is None:
        if not explained:
            axes.figure.legend(*given, **look)
        return
    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.transforms import ScaledTranslation

    sizes = [FontProperties(size=matplotlib.rcParams[name]) for name in ("xtick.labelsize", "axes.labelsize")]
    below = 8 + 1.3 * sum(size.get_size_in_points() for size in sizes)
    shift = ScaledTranslation(0, -below / 72, axes.figure.dpi_scale_trans)  # type: ignore[union-attr]
    look |= {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": axes.transAxes + shift}
    axes.legend(*given, **look)


def room(axes: Axes) -> float:
    """The width of the axes in points, on a caller's axes with smaller text as if their text had the report's size."""
    import matplotlib
    from matplotlib.font_manager import FontProperties

    size = FontProperties(size=matplotlib.rcParams["xtick.labelsize"]).get_size_in_points()
    dots = axes.get_window_extent().width / axes.figure.dpi  # type: ignore[union-attr]
    return float(dots * 72 * STYLE["xtick.labelsize"] / size)


def in_percent(*axes: Axis, digits: str = ".0f") -> None:
    """Write shares in percent along these axes."""
    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"{100 * value:{digits}} %")


def headed(figure: Figure, title: str, note: str = "", colour: str = INK, *, above: float = 0) -> None:
    """Write a title at the top left, and a note at the top right; on a caller's axes `above` points above them."""
    if (given := _ONTO.get()) is not None:
        given.set_title(f"{title}{' ' * 3 if note else ''}{note}", loc="left", fontweight="bold", pad=above + 5)
        return
    width, height = figure.get_size_inches() * 72
    look: Look = {"y": 1 - 12 / height, "va": "center"}
    figure.text(x=4 / width, s=title, fontsize=11, fontweight="bold", **look)
    figure.text(x=1 - 4 / width, s=note, fontsize=10, ha="right", color=colour, **look)


@dataclass(frozen=True)
class Drawing:
    """A figure as inline SVG; templates add its description. `figure` is what it was drawn with, if by matplotlib."""

    width: float
    height: float
    body: str
    style: str = ""
    position: str = "xMidYMid meet"
    figure: Figure | None = field(default=None, compare=False, repr=False)

    def svg(self, alt: str) -> Markup:
        """The figure as an `<svg>` scaled to its box; `alt` describes it in words."""
        style = self.style or f' style="max-width:{_LARGEST * self.width:g}px"'
        head = f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(alt)}"{style} '
        return Markup(f'{head}preserveAspectRatio="{self.position}">{self.body}</svg>')  # noqa: S704 (body is escaped)


def marked(axes: Axes, x: Any, y: Any, texts: Sequence[str], marker: str = "o", **look: Any) -> None:
    """Draw markers that show these texts under the pointer."""
    texts_of = _TEXTS.setdefault(axes.figure, {})
    texts_of[gid := f"marked{len(texts_of)}"] = texts
    axes.plot(x, y, marker, gid=gid, **look)


def readable(axes: Axes, x: Any, y: Any, text: Callable[[int], str], most: int = MOST_READ) -> None:
    """Let a curve (N,), (N,) show at most so many of its values under the pointer; `text` of the number of a point.

    Points out of sight have none, so the limits of the axes must be final.
    """
    if _ONTO.get() is not None:
        return
    x, y = np.asarray(x, float), np.asarray(y, float)
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    shown = np.flatnonzero((x >= left) & (x <= right) & (y >= low) & (y <= high))
    if len(shown) > most:
        shown = shown[np.linspace(0, len(shown) - 1, most).round().astype(int)]
    if len(shown):
        texts = [text(int(number)) for number in shown]
        _UNSEEN.setdefault(axes.figure, []).append((ref(axes), x[shown], y[shown], texts))


def svg(figure: Figure, name: str) -> Drawing:
    """The figure as SVG; `name` is unique on the page and prefixed to every identifier."""
    if _ONTO.get() is not None:
        return Drawing(0, 0, "", figure=figure)
    from matplotlib.lines import Line2D

    buffer, unseen, texts_of = io.StringIO(), list[Any](), dict(_TEXTS.get(figure, {}))
    for axes, x, y, texts in _UNSEEN.pop(figure, []):
        texts_of[gid := f"unseen{len(unseen)}"] = texts
        line = Line2D(x, y, marker="o", linestyle="", alpha=0, clip_on=False, gid=gid)
        unseen.append(axes().add_line(line))  # type: ignore[union-attr]  # the figure has its axes
    with warnings.catch_warnings():
        # A subject's name may contain letters that the layout font lacks and the browser has.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    for line in unseen:
        line.remove()
    width, height = figure.get_size_inches() * 72
    body = buffer.getvalue()
    for gid, texts in texts_of.items():
        body = _titled(body, gid, texts)
    return Drawing(float(width), float(height), _inlined(body, name), figure=figure)


def _titled(body: str, gid: str, texts: Sequence[str]) -> str:
    """The markers of one line with their titles; unchanged where not every marker is drawn on its own."""
    start = body.find(f'<g id="{gid}">')
    end = body.find('<g id="', start + 1)
    group = body[start : end if end > 0 else None]
    if start < 0 or len(re.findall(r"<use [^>]*/>", group)) != len(texts):
        return body
    remaining = iter(texts)
    titled = re.sub(r"<use ([^>]*)/>", lambda m: f"<use {m[1]}><title>{escape(next(remaining))}</title></use>", group)
    return body.replace(group, titled, 1)


def _inlined(text: str, name: str) -> str:
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"<g>\s*</g>", "", body)
    # coordinates are rounded to hundredths of a point; text between tags is not changed
    body = re.sub(r"<[^>]+>", lambda m: re.sub(r"(\d\.\d\d)\d+", r"\1", m[0]), body)
    body = re.sub(r"\n\s*", "\n", body)
    return body.strip()


def limits(
    *values: Any, low: float | None = None, high: float | None = None, margin: float = 0.06
) -> tuple[float, float]:
    """Axis limits around all values, with a margin.

    >>> limits([0, 10], margin=0.1)
    (-1.0, 11.0)
    """
    finite = np.concatenate([np.asarray(v, float).ravel() for v in values])
    finite = finite[np.isfinite(finite)]
    bottom = min([*finite, *([] if low is None else [low])], default=0.0)
    top = max([*finite, *([] if high is None else [high])], default=1.0)
    room = (top - bottom or 1.2) * margin  # around a single value no number of the axis lies in the corner
    return float(bottom - room), float(top + room)
