"""Drawing with matplotlib to compact inline SVG with text, unique identifiers and reproducible bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "path.simplify_threshold": 0.3,
}
MANY = 1500


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of `width` by `height` points with one pair of axes, in the report's style, without pyplot."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def set_margins(
    axes: Axes, width: float, height: float, *, left: float, bottom: float, right: float, top: float
) -> None:
    """Set the axes by margins in points, which is faster than a layout engine and equal for small multiples."""
    axes.set_position((left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height))


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
        style = self.style or f' style="max-width:{self.width:g}px"'
        head = f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(alt)}"{style} '
        return Markup(f'{head}preserveAspectRatio="{self.position}">{self.body}</svg>')  # noqa: S704 (body is escaped)


def svg(figure: Figure, name: str, titles: Mapping[str, Sequence[str]] | None = None) -> Drawing:
    """The figure as SVG.

    Args:
        name: unique on the page; prefixed to every identifier.
        titles: by the `gid` of a line of markers, the text that each marker shows under the pointer.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # A subject's name may contain letters that the layout font lacks and the browser has.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    width, height = figure.get_size_inches() * 72
    body = buffer.getvalue()
    for gid, texts in (titles or {}).items():
        body = _titled(body, gid, texts)
    return Drawing(float(width), float(height), _inlined(body, name), figure=figure)


def _titled(body: str, gid: str, texts: Sequence[str]) -> str:
    """The markers of one line with their titles; unchanged where not every marker is drawn on its own."""
    start = body.find(f'<g id="{gid}">')
    end = body.find('<g id="', start + 1)
    if start < 0:
        return body
    group = body[start:end] if end > 0 else body[start:]
    if len(re.findall(r"<use [^>]*/>", group)) != len(texts):
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


def frame(axes: Axes, *, grid: str = "both") -> None:
    """Light grid, no tick marks."""
    axes.tick_params(length=0, pad=5)
    if grid != "none":
        axes.grid(True, axis=grid)  # type: ignore[arg-type]


def limits(
    *values: Any, low: float | None = None, high: float | None = None, margin: float = 0.06
) -> tuple[float, float]:
    """Axis limits around all values, with a margin.

    >>> limits([0, 10], margin=0.1)
    (-1.0, 11.0)
    """
    import numpy as np

    finite = np.concatenate([np.asarray(v, float).ravel() for v in values])
    finite = finite[np.isfinite(finite)]
    bottom = min([*finite, *([] if low is None else [low])], default=0.0)
    top = max([*finite, *([] if high is None else [high])], default=1.0)
    room = (top - bottom or 1.0) * margin
    return float(bottom - room), float(top + room)
