"""Saliency maps as overlays on images and as a side-by-side figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from casewise.errors import CasewiseError
from casewise.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "inferno"
# The picture stays visible under the highest values of a map.
STRONGEST = 0.5
MEANING = "higher = more influence"
# Contributions have a sign: red for those in favour of the output, blue for those against it, over a grey picture.
FAVOUR, AGAINST = (230, 38, 30), (30, 100, 240)
SIGNED_MEANING = "contributions: above 0 in favour, below 0 against"
SIGNED_STRONGEST = 0.75


@dataclass(frozen=True, eq=False)
class FigureRow:
    """One row of the side-by-side figure: a panel and its maps by several methods or networks.

    Attributes:
        name: the label of the row.
        picture: (H, W) or (H, W, 3) `uint8`.
        maps: title → (H, W) from 0 to 1; the titles of all rows are the columns.
        correct: title → whether the prediction was correct (None: unknown), shown by the frame and in words.
        reference: the reference value in words.
        predicted: title → the prediction in words.
        signed: the titles of the maps with a sign, which go from −1 to 1.
        pictures: title → the picture under the map, where it is not `picture`.
    """

    name: str
    picture: np.ndarray
    maps: Mapping[str, np.ndarray]
    correct: Mapping[str, bool | None]
    reference: str
    predicted: Mapping[str, str]
    signed: frozenset[str] = frozenset()
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)


def overlay(picture: np.ndarray, values: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """A map over a picture, more opaque at higher values: (H, W, 3) `uint8`. NaN is transparent.

    Args:
        picture: (H, W) or (H, W, 3) `uint8`.
        values: (H, W) from 0 to 1, from −1 to 1 if `signed`.
        signed: red above 0 and blue below, over the picture in grey.

    Raises:
        CasewiseError: the sizes do not match.

    >>> overlay(np.full((1, 2), 100, np.uint8), np.array([[0.0, 1.0]]))[0].tolist()
    [[100, 100, 100], [176, 177, 132]]
    """
    import matplotlib as mpl

    if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.shape[:2] != values.shape:
        raise CasewiseError(f"explain: a map of {values.shape} does not fit a picture of {picture.shape}.")
    base = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    if signed:
        return _signed_overlay(base, np.clip(np.nan_to_num(values), -1, 1)[..., None])
    clipped = np.clip(np.nan_to_num(values), 0, 1)
    paint = mpl.colormaps[COLOURS](clipped)[..., :3] * 255
    opacity = clipped[..., None] * STRONGEST
    return np.asarray(np.rint(base * (1 - opacity) + paint * opacity), dtype=np.uint8)


def _signed_overlay(base: np.ndarray, values: np.ndarray) -> np.ndarray:
    grey = base @ np.array([0.299, 0.587, 0.114])
    opacity = np.abs(values) * SIGNED_STRONGEST
    paint = np.where(values > 0, np.array(FAVOUR, dtype=float), np.array(AGAINST, dtype=float))
    return np.asarray(np.rint(grey[..., None] * (1 - opacity) + paint * opacity), dtype=np.uint8)


def save_png(path: Path, picture: np.ndarray) -> Path:
    """Write a picture as a PNG, atomically."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return write_atomic(path, buffer.getvalue())


def side_by_side(rows: Sequence[FigureRow], title: str = "") -> Figure:
    """The figure of cases (rows) and methods (columns), below its title.

    The first column is the input. A blue frame means a correct prediction, an orange one an erroneous prediction.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    from casewise.report.figures.drawing import STYLE

    columns = ["", *dict.fromkeys(name for row in rows for name in row.maps)]
    with rc_context(STYLE):
        figure = Figure(figsize=(2.2 * len(columns) + 1.5, 2.5 * len(rows)), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        cells = figure.subplots(len(rows), len(columns), squeeze=False)
        for row, line in zip(rows, cells, strict=True):
            for column, axes in zip(columns, line, strict=True):
                _draw(axes, row, column)
            line[0].set_ylabel(row.name, rotation=0, ha="right", va="center")
        for column, axes in zip(columns, cells[0], strict=True):
            axes.set_title(column or "input", fontsize=11)
        if title:
            figure.suptitle(title)
        signed = set().union(*(row.signed for row in rows))
        if set(columns[1:]) - signed:
            figure.colorbar(ScalarMappable(cmap=COLOURS), ax=cells, ticks=[0, 0.5, 1], label=MEANING, aspect=40)
        if signed:
            colours = [tuple(np.array(colour) / 255) for colour in (AGAINST, (200, 200, 200), FAVOUR)]
            scale = ScalarMappable(Normalize(-1, 1), LinearSegmentedColormap.from_list("contributions", colours))
            label = "red: in favour, blue: against"
            figure.colorbar(scale, ax=cells, ticks=[-1, 0, 1], label=label, aspect=40)
        return figure


def _draw(axes: Axes, row: FigureRow, title: str) -> None:
    """The input of a row, or the map of one method on it; nothing where the row lacks it."""
    from casewise.report.figures.drawing import ACCENT, MODEL, PALE, SOFT

    axes.set_xticks([])
    axes.set_yticks([])
    if title and title not in row.maps:
        axes.set_axis_off()
        return
    image, label, correct = row.picture, f"reference: {row.reference}", row.correct.get(title)
    if title:
        image = overlay(row.pictures.get(title, row.picture), row.maps[title], signed=title in row.signed)
        judged = "" if correct is None else "\ncorrect" if correct else "\nerroneous"
        label = f"predicted: {row.predicted[title]}{judged}"
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    colour = PALE if correct is None else MODEL if correct else ACCENT
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor=colour, linewidth=1.0 if correct is None else 2.2)
    axes.set_xlabel(label, color=SOFT if correct is None else colour, fontsize=9)
