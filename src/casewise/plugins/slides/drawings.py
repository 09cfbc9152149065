"""Slides as small inline pictures: the outlined tissue, the selected tiles, and maps of a value of each tile."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from markupsafe import escape

from casewise.report.figures.drawing import Drawing
from casewise.report.figures.pictures import data_uri

if TYPE_CHECKING:
    from casewise.plugins.slides.tiles import PlannedSlide

Scale = Literal["two", "rising"]

# Colours from the lowest to the highest value: two colours that differ for any colour vision, or one sequential scale.
COLOURS: dict[Scale, tuple[str, ...]] = {
    "two": ("#00507e", "#6aaed6", "#fff2b3", "#f0a35e", "#b04a00"),
    "rising": ("#fff6cf", "#c7e3b5", "#56b7b8", "#2468a6", "#1b2059"),
}
OUTLINE, GRID, IN_DARK = "#0b6b3a", "#1f2933", "#4be38a"
# Of 255: a slide with a lower median is dark.
DARK = 64
# The share of the grey picture's contrast under the colours, and their opacity.
PALE, THICK = 0.4, 0.85
MARGIN = 0.03
LONGEST = 760
# Possible lengths of a scale bar, in microns.
BARS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)


class Crop(NamedTuple):
    """The part of a slide's thumbnail that contains its tissue and tiles, in pixels of the picture."""

    left: int
    top: int
    width: int
    height: int


def crop_of(slide: PlannedSlide) -> Crop:
    """The area of tissue and tiles, with a margin, because a slide is mostly glass."""
    height, width = slide.mask.shape
    rows, columns = np.flatnonzero(slide.mask.any(axis=1)), np.flatnonzero(slide.mask.any(axis=0))
    boxes = slide.boxes / slide.downsample
    left = min([boxes[:, 0].min(), *columns[:1]])
    top = min([boxes[:, 1].min(), *rows[:1]])
    right = max([(boxes[:, 0] + boxes[:, 2]).max(), *columns[-1:] + 1])
    bottom = max([(boxes[:, 1] + boxes[:, 2]).max(), *rows[-1:] + 1])
    rim = MARGIN * max(right - left, bottom - top)
    x, y = max(int(left - rim), 0), max(int(top - rim), 0)
    return Crop(x, y, min(int(right + rim) + 1, width) - x, min(int(bottom + rim) + 1, height) - y)


def _is_dark(slide: PlannedSlide) -> bool:
    """Whether the slide is dark, as in fluorescence."""
    return bool(np.median(slide.read_picture().max(axis=2)) < DARK)


def cropped(slide: PlannedSlide, crop: Crop, *, grey: bool = False) -> np.ndarray:
    """The cropped thumbnail, optionally in pale grey under colours."""
    tissue = slide.read_picture()[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if not grey:
        return tissue
    # The darkest channel shows stain best, because glass is white in all of them; dark slides are inverted.
    stain = tissue.max(axis=2).astype(float) if _is_dark(slide) else 255 - tissue.min(axis=2).astype(float)
    return np.rint(255 - PALE * stain).astype(np.uint8)


def taken(slide: PlannedSlide) -> Drawing:
    """The slide with its tissue outlined and a frame around every selected tile."""
    crop, dark = crop_of(slide), _is_dark(slide)
    squares = slide.boxes / slide.downsample - [crop.left, crop.top, 0]
    path = "".join(f"M{x:.1f} {y:.1f}h{side:.1f}v{side:.1f}h-{side:.1f}Z" for x, y, side in squares)
    frames = f'<path d="{path}" {_stroke(IN_DARK if dark else GRID, 1.0)}/>'
    edge = _outline(slide, crop, colour=IN_DARK if dark else OUTLINE)
    return _drawing(slide, crop, [_image(cropped(slide, crop), crop), frames, edge])


def plain(slide: PlannedSlide) -> Drawing:
    """The slide without marks."""
    crop = crop_of(slide)
    return _drawing(slide, crop, [_image(cropped(slide, crop), crop)])


def heat(slide: PlannedSlide, boxes: np.ndarray, values: np.ndarray, *, stride: float, scale: Scale) -> Drawing:
    """The slide in grey with the area of each tile coloured by its value.

    Args:
        boxes: (N, 3) x, y and side in level-0 pixels.
        values: (N,) 0 to 1, the position on the colour scale.
        stride: level-0 pixels from one tile to the next; values of overlapping tiles are averaged.
    """
    crop = crop_of(slide)
    cells, (left, top) = _grid_of(boxes, values, stride)
    x, y = left / slide.downsample - crop.left, top / slide.downsample - crop.top
    height, width = (count * stride / slide.downsample for count in cells.shape)
    coloured = (
        f'<image x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" '
        f'href="{_png(_coloured(cells, scale))}" preserveAspectRatio="none" '
        'style="image-rendering:pixelated;mix-blend-mode:multiply"/>'
    )
    edge = _outline(slide, crop, holes=False)
    return _drawing(slide, crop, [_image(cropped(slide, crop, grey=True), crop), coloured, edge])


def _grid_of(boxes: np.ndarray, values: np.ndarray, stride: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Values on a grid of cells one stride wide, (rows, columns), NaN without a tile; and the position of its corner.

    >>> cells, corner = _grid_of(np.array([[0, 0, 10], [20, 10, 10]]), np.array([0.5, 1.0]), 10)
    >>> cells.tolist(), corner
    ([[0.5, nan, nan], [nan, nan, 1.0]], (0.0, 0.0))
    """
    left, top = float(boxes[:, 0].min()), float(boxes[:, 1].min())
    x, y = (boxes[:, 0] - left) / stride, (boxes[:, 1] - top) / stride
    span = boxes[:, 2] / stride
    shape = int(np.ceil((y + span).max() - 1e-6)), int(np.ceil((x + span).max() - 1e-6))
    sums, counts = np.zeros(shape), np.zeros(shape)
    for column, row, side, value in zip(x, y, span, values, strict=True):
        # Cells with their middle in the tile.
        covered = np.s_[_middle(row) : _middle(row + side), _middle(column) : _middle(column + side)]
        sums[covered] += value
        counts[covered] += 1
    return np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0), (left, top)


def _middle(edge: float) -> int:
    return int(np.ceil(edge - 0.5 - 1e-6))


def colour_bar(scale: Scale, ticks: list[tuple[float, str]]) -> Drawing:
    """The colours from low to high as an inline SVG, with words at positions from 0 to 1."""
    width, height = 420, 44
    stops = "".join(
        f'<stop offset="{i / (len(COLOURS[scale]) - 1):.3f}" stop-color="{colour}"/>'
        for i, colour in enumerate(COLOURS[scale])
    )
    anchors = {0.0: "start", 1.0: "end"}
    words = "".join(
        f'<text x="{1 + at * (width - 2):.1f}" y="36" font-size="13" fill="#1f2933" '
        f'text-anchor="{anchors.get(at, "middle")}">{escape(text)}</text>'
        for at, text in ticks
    )
    name = f"scale-{scale}"
    body = (
        f'<defs><linearGradient id="{name}">{stops}</linearGradient></defs>'
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="17" fill="url(#{name})" stroke="#8a949e"/>{words}'
    )
    return Drawing(width, height, body, style=f' class="colours" style="max-width:{width}px"')


def _coloured(cells: np.ndarray, scale: Scale) -> np.ndarray:
    """(rows, columns, 4) `uint8`; cells without a tile are transparent."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS[scale]], float)
    values = np.clip(np.nan_to_num(cells), 0, 1)
    positions = np.linspace(0, 1, len(stops))
    channels = [np.interp(values, positions, stops[:, i]) for i in range(3)]
    alpha = np.where(np.isnan(cells), 0.0, 255 * THICK)
    return np.rint(np.stack([*channels, alpha], axis=2)).astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _image(picture: np.ndarray, crop: Crop) -> str:
    return f'<image width="{crop.width}" height="{crop.height}" href="{data_uri(picture, longest=LONGEST)}"/>'


def _outline(slide: PlannedSlide, crop: Crop, *, colour: str = OUTLINE, holes: bool = True) -> str:
    """The edge of the tissue as a path."""
    import cv2

    mode = cv2.RETR_CCOMP if holes else cv2.RETR_EXTERNAL
    contours, _ = cv2.findContours(slide.mask.astype(np.uint8), mode, cv2.CHAIN_APPROX_NONE)
    lines = []
    for contour in contours:
        # Half a pixel is not visible.
        line: Any = cv2.approxPolyDP(contour, 0.8, True)[:, 0] + 0.5 - [crop.left, crop.top]
        if len(line) > 2:
            lines.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) + "Z")
    return f'<path d="{"".join(lines)}" {_stroke(colour, 2.0)}/>'


def _stroke(colour: str, width: float) -> str:
    return f'fill="none" stroke="{colour}" stroke-width="{width}" vector-effect="non-scaling-stroke"'


def _drawing(slide: PlannedSlide, crop: Crop, layers: list[str]) -> Drawing:
    """Layers, and a scale bar if the resolution of the slide is recorded."""
    bar, height = _scale_bar(slide, crop)
    return Drawing(
        crop.width, round(crop.height + height, 1), "".join(layers) + bar, style=" ", position="xMinYMin meet"
    )


def _scale_bar(slide: PlannedSlide, crop: Crop) -> tuple[str, float]:
    """A bar about a fifth as long as the picture is wide, below it, and its height."""
    if not slide.mpp:
        return "", 0.0
    micron = 1 / (slide.mpp * slide.downsample)
    fitting = [length for length in BARS if length * micron <= crop.width / 4]
    length = max(fitting, default=BARS[0])
    size = max(crop.width, 1.2 * crop.height) / 30
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length} µm"
    y = crop.height + 0.9 * size
    return (
        f'<path d="M0 {y:.1f}h{length * micron:.1f}" {_stroke("#1f2933", 3.0)}/>'
        f'<text x="{length * micron + 0.5 * size:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size:.1f}" '
        f'fill="#1f2933">{text}</text>'
    ), 1.6 * size
