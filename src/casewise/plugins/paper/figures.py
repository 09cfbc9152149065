"""Figures at the width of a page or column: `run.plot` draws them, and this file arranges and writes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from casewise.report.figures.drawing import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SINGLE, DOUBLE, PAGE_HEIGHT = 85.0, 170.0, 225.0
MM, LEAST, MOST, DPI = 1 / 25.4, 7.0, 8.0, 300
PRINT: dict[Any, Any] = {
    **STYLE,
    "font.size": LEAST,
    "axes.titlesize": MOST,
    "axes.labelsize": 7.5,
    "xtick.labelsize": LEAST,
    "ytick.labelsize": LEAST,
    "legend.fontsize": LEAST,
    "lines.linewidth": 1.0,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "pdf.fonttype": 42,
}
Draw = Callable[["Axes"], object]
# Left, bottom, right and top in mm.
Margins = tuple[float, float, float, float]


@dataclass(frozen=True)
class Sheet:
    """A figure of one or more parts.

    Attributes:
        name: of its files.
        parts: each draws one part on the axes given to it.
        width, height: of the whole width, and of one row, in mm.
    """

    name: str
    parts: Sequence[Draw]
    width: float = DOUBLE
    columns: int = 1
    height: float = 60.0
    margins: Margins = (13, 11, 2, 7)

    def pages(self) -> Iterator[Sheet]:
        """The sheet divided where it is higher than a page."""
        rows = max(1, int(PAGE_HEIGHT // self.height))
        size = rows * self.columns
        many = len(self.parts) > size
        for number, start in enumerate(range(0, len(self.parts), size), 1):
            name = f"{self.name}-{number}" if many else self.name
            yield Sheet(name, self.parts[start : start + size], self.width, self.columns, self.height, self.margins)

    def write(self, folder: Path) -> list[str]:
        """Write PDF, SVG and PNG of every page into `folder`; their names."""
        return [name for page in self.pages() for name in save(page.figure(), page.name, folder)]

    def figure(self) -> Figure:
        """All parts on one figure, in the sizes of print."""
        import matplotlib
        from matplotlib.figure import Figure

        columns = min(self.columns, len(self.parts))
        rows = -(-len(self.parts) // columns)
        height, wide = rows * self.height, self.width / self.columns
        width = wide * columns
        left, bottom, right, top = self.margins
        with matplotlib.rc_context(PRINT):
            figure = Figure(figsize=(width * MM, height * MM))
            for number, draw in enumerate(self.parts):
                row, column = divmod(number, columns)
                box = (
                    (column * wide + left) / width,
                    1 - ((row + 1) * self.height - bottom) / height,
                    (wide - left - right) / width,
                    (self.height - bottom - top) / height,
                )
                axes = figure.add_axes(box)
                draw(axes)
            reduce_text(figure)
        return figure


def reduce_text(figure: Figure) -> None:
    """Bring all text to the sizes of print: that of the report is for screens."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        size = float(text.get_fontsize())  # type: ignore[attr-defined]
        text.set_fontsize(min(max(LEAST, size * 0.75), MOST))  # type: ignore[attr-defined]


def save(figure: Figure, name: str, folder: Path) -> list[str]:
    """Write a figure as PDF, SVG and PNG; equal figures give equal bytes."""
    import matplotlib

    dates: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    with matplotlib.rc_context(PRINT), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        for form, metadata in dates.items():
            figure.savefig(folder / f"{name}.{form}", dpi=DPI, metadata=metadata)
    return [f"{name}.{form}" for form in dates]
