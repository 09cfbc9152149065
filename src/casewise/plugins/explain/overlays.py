"""Saliency maps as overlays on images and as a side-by-side figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from casewise.errors import CasewiseError
from casewise.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "inferno"
# The picture stays visible under the highest values of a map.
STRONGEST = 0.5
MEANING = "higher = more influence"
# Contributions have a sign: red for those in favour of the output, blue for those against it, over a grey picture.
FAVOUR, AGAINST = (230, 38, 30), (30, 100, 240)
SIGNED_MEANING = "contributions: above 0 in favour, below 0 against"
SIGNED_STRONGEST = 0.75
CELL, GAP, LEFT, TOP, BOTTOM, RIGHT, BAR = 150.0, 8.0, 110.0, 26.0, 34.0, 64.0, 10.0


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


def side_by_side(rows: Sequence[FigureRow]) -> Figure:
    """The figure of cases (rows) and methods (columns).

    The first column is the input. A blue frame means a correct prediction, an orange one an erroneous prediction.
    """
    from matplotlib import rc_context

    from casewise.report.figures.drawing import STYLE

    with rc_context(STYLE):
        return _draw_figure(rows, list(dict.fromkeys(title for row in rows for title in row.maps)))


def _draw_figure(rows: Sequence[FigureRow], titles: Sequence[str]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    from casewise.report.figures.drawing import ACCENT, MODEL, PALE, SOFT

    both_scales = len({title in row.signed for row in rows for title in row.maps}) > 1
    width = LEFT + (CELL + GAP) * (len(titles) + 1) + RIGHT * (2 if both_scales else 1)
    height = TOP + (CELL + BOTTOM) * len(rows)
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)
    for column, title in enumerate(["input", *titles]):
        # a row may lack some columns
        middle = LEFT + column * (CELL + GAP) + CELL / 2
        figure.text(middle / width, (height - TOP + 6) / height, title, ha="center", va="bottom", fontsize=11)
    for number, row in enumerate(rows):
        bottom = height - TOP - CELL - number * (CELL + BOTTOM)
        for column, title in enumerate(["", *titles]):
            if title and title not in row.maps:
                continue
            left = LEFT + column * (CELL + GAP)
            axes = figure.add_axes((left / width, bottom / height, CELL / width, CELL / height))
            axes.set_xticks([])
            axes.set_yticks([])
            image = row.picture
            if title:
                picture = row.pictures.get(title, row.picture)
                image = overlay(picture, row.maps[title], signed=title in row.signed)
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            correct = row.correct.get(title) if title else None
            colour = PALE if correct is None else MODEL if correct else ACCENT
            for spine in axes.spines.values():
                spine.set(visible=True, edgecolor=colour, linewidth=1.0 if correct is None else 2.2)
            judged = "" if correct is None else "\ncorrect" if correct else "\nerroneous"
            label = f"predicted: {row.predicted[title]}{judged}" if title else f"reference: {row.reference}"
            axes.set_xlabel(label, color=SOFT if correct is None else colour, fontsize=9, labelpad=3)
        figure.text((LEFT - 8) / width, (bottom + CELL / 2) / height, row.name, ha="right", va="center", wrap=True)
    signed = set().union(*(row.signed for row in rows))
    scales: list[tuple[Any, str, list[float]]] = []
    if set(titles) - signed:
        scales.append((ScalarMappable(cmap=COLOURS), MEANING, [0, 0.5, 1]))
    if signed:
        colours = [np.array(colour) / 255 for colour in (AGAINST, (200, 200, 200), FAVOUR)]
        diverging = LinearSegmentedColormap.from_list("contributions", [tuple(colour) for colour in colours])
        scales.append((ScalarMappable(Normalize(-1, 1), diverging), "red: in favour, blue: against", [-1, 0, 1]))
    for number, (mappable, meaning, ticks) in enumerate(scales):
        left = width - RIGHT * (len(scales) - number) + 8
        box = (left / width, (BOTTOM + 4) / height, BAR / width, (height - TOP - BOTTOM - 4) / height)
        scale = figure.colorbar(mappable, cax=figure.add_axes(box), ticks=ticks)
        scale.set_label(meaning, color=SOFT, fontsize=9)
        scale.ax.tick_params(length=0, labelsize=8)
    return figure
