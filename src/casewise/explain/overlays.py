"""Maps of influence as pictures over what they speak of, side by side as published, and as volumes for a viewer."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casewise.errors import CasewiseError
from casewise.files import write_atomic

COLOURS = "inferno"
STRONGEST = 0.65
MEANING = "higher = more influence"
CELL, GAP, LEFT, TOP, BOTTOM, RIGHT, BAR = 150.0, 8.0, 84.0, 26.0, 20.0, 64.0, 10.0


@dataclass(frozen=True, eq=False)
class Shown:
    """One row of the figure: a panel and what several methods or networks made of it.

    `picture`: (H, W) or (H, W, 3) `uint8`. `maps`: a title → (H, W) from 0 to 1; the titles of all rows are the
    columns. `right`: title → whether that network was right (None: not said), told by the colour of the frame and in
    words.
    """

    name: str
    picture: np.ndarray
    maps: Mapping[str, np.ndarray]
    right: Mapping[str, bool | None]


def overlay(
    picture: np.ndarray, values: np.ndarray, *, colours: str = COLOURS, strongest: float = STRONGEST
) -> np.ndarray:
    """A map laid over a picture, the more opaque the higher it is: (H, W, 3) `uint8`. NaN leaves the picture alone.

    Args:
        picture: (H, W) or (H, W, 3) `uint8`.
        values: (H, W) from 0 to 1.
        colours: a scale of matplotlib's.
        strongest: the opacity at 1.

    Raises:
        CasewiseError: sizes disagree, or there is no such scale.

    >>> overlay(np.full((1, 2), 100, np.uint8), np.array([[0.0, 1.0]]), strongest=1.0)[0].tolist()
    [[100, 100, 100], [252, 255, 164]]
    """
    import matplotlib as mpl

    if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.shape[:2] != values.shape:
        raise CasewiseError(
            f"explain: a map of {values.shape} cannot lie on a picture of {picture.shape} ({picture.dtype}); it takes "
            "(H, W) or (H, W, 3) of 8 bits and a map of (H, W)."
        )
    if colours not in mpl.colormaps:
        raise CasewiseError(f"explain: there is no colour scale {colours!r}; for example {COLOURS}, viridis or turbo.")
    base = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    known = np.clip(np.nan_to_num(values), 0, 1)
    paint = mpl.colormaps[colours](known)[..., :3] * 255
    cover = known[..., None] * strongest
    return np.asarray(np.rint(base * (1 - cover) + paint * cover), dtype=np.uint8)


def save_overlay(
    path: Path, picture: np.ndarray, values: np.ndarray, *, colours: str = COLOURS, strongest: float = STRONGEST
) -> Path:
    """Write `overlay` as a PNG, atomically."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(overlay(picture, values, colours=colours, strongest=strongest)).save(buffer, "PNG")
    return write_atomic(path, buffer.getvalue())


def save_side_by_side(path: Path, rows: Sequence[Shown], *, colours: str = COLOURS, meaning: str = MEANING) -> Path:
    """Write rows of cases against columns of methods as in the published figure 2, PNG or SVG by the path's ending.

    The first column is what the networks saw; a blue frame says the network was right, an orange one that it erred.

    Raises:
        CasewiseError: there are no rows, or the path is of another kind.
    """
    from matplotlib import rc_context

    from casewise.report.figures.drawing import STYLE

    kind = path.suffix.lower().lstrip(".")
    if not rows or kind not in ("png", "svg"):
        raise CasewiseError(f"{path}: a figure needs at least one case and a name that ends in .png or .svg.")
    titles = list(dict.fromkeys(title for row in rows for title in row.maps))
    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure = _drawn(rows, titles, colours, meaning)
        # the same figure has the same bytes
        figure.savefig(buffer, format=kind, dpi=144, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return write_atomic(path, buffer.getvalue())


def _drawn(rows: Sequence[Shown], titles: Sequence[str], colours: str, meaning: str):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from casewise.report.figures.drawing import ACCENT, MODEL, PALE, SOFT

    width = LEFT + (CELL + GAP) * (len(titles) + 1) + RIGHT
    height = TOP + (CELL + BOTTOM) * len(rows)
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)
    for column, title in enumerate(["input", *titles]):
        # not every row need have every column
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
            shown = overlay(row.picture, row.maps[title], colours=colours) if title else row.picture
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            right = row.right.get(title) if title else None
            colour = PALE if right is None else MODEL if right else ACCENT
            for spine in axes.spines.values():
                spine.set(visible=True, edgecolor=colour, linewidth=1.0 if right is None else 2.2)
            if right is not None:
                axes.set_xlabel("correct" if right else "erroneous", color=colour, fontsize=9, labelpad=3)
        figure.text((LEFT - 8) / width, (bottom + CELL / 2) / height, row.name, ha="right", va="center", wrap=True)
    place = ((width - RIGHT + 8) / width, (BOTTOM + 4) / height, BAR / width, (height - TOP - BOTTOM - 4) / height)
    scale = figure.colorbar(ScalarMappable(cmap=colours), cax=figure.add_axes(place), ticks=[0, 0.5, 1])
    scale.set_label(meaning, color=SOFT, fontsize=9)
    scale.ax.tick_params(length=0, labelsize=8)
    return figure


def save_scan(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    """Write a carried-back map (X, Y, Z) as NIfTI in the geometry of its scan, atomically; same map, same bytes.

    Args:
        path: ending in .nii or .nii.gz.
        affine: (4, 4) from voxels to mm (RAS), the scan's own.

    Raises:
        CasewiseError: the path ends otherwise, or it is no volume.
    """
    import nibabel

    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise CasewiseError(f"{path}: a volume's name must end in .nii or .nii.gz.")
    if values.ndim != 3 or not np.isfinite(values).all():
        raise CasewiseError(f"{path}: a map must be a volume (X, Y, Z) of finite numbers, not {values.shape}.")
    image = nibabel.Nifti1Image(np.asarray(values, dtype=np.float32), np.asarray(affine, dtype=float))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = MEANING.encode()
    content = image.to_bytes()
    return write_atomic(path, gzip.compress(content, 6, mtime=0) if path.suffix.lower() == ".gz" else content)
