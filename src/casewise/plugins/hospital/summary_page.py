"""A page for people: the images of a case with their saliency maps, its predictions, and what limits them.

The page is laid out in pixels as texts, boxes and pictures, and drawn by matplotlib. It is 1024 pixels wide and at most
as high, so that a viewer shows it whole and legible. No name of a person is on it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from casewise.errors import ImageError, counted, printable, shortened
from casewise.inference.case_chunks import CasePicture
from casewise.modalities.store.dicom_file import dicom_files, text_of
from casewise.modalities.store.readers import read_image
from casewise.plugins.hospital.case_results import (
    UNREADABLE,
    CaseResult,
    ModelFacts,
    Quantity,
    Value,
    limits,
    nameless,
    of_study,
    quantities,
    uncertainty,
)
from casewise.report.formatting import plain, probability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels: TypeAlias = NDArray[np.uint8]
NOTICE = "Preliminary result of research software, which no person has checked. Not for diagnosis."
# Pixels of the page, of its margin, between its columns, and of its smallest type.
SIDE, MARGIN, GAP, SMALLEST = 1024, 24, 20, 11
INK, GREY, PALE, BLUE = "#16202c", "#5b6675", "#dfe4ea", "#2563a8"
BANDS = {"notice": ("#fdf0d0", "#6b4a00"), "limits": ("#fbe3e0", "#8a1c10")}
# Height of a line, and of its letters above the baseline, as multiples of the size of type.
LINE, ASCENT = 1.3, 1.0
MOST_PICTURES, MOST_INPUTS, LONGEST = 8, 12, 160
# Size of type, columns of predictions, and bars of a prediction, in the order in which they are tried.
ATTEMPTS = ((1.0, 1, 8), (0.85, 1, 8), (0.85, 2, 8), (0.75, 2, 8), (0.75, 2, 4), (0.75, 2, 2), (0.75, 2, 0))
# The second column of predictions takes its width from the pictures.
TEXT_WIDTH = {1: 390, 2: 570}
# Fonts for scripts that the first lacks, where they are installed.
FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans Arabic")


@dataclass(frozen=True)
class Text:
    """One line of text; `y` is the top of the line."""

    x: float
    y: float
    text: str
    size: float
    bold: bool = False
    colour: str = INK

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height in pixels."""
        return width_of(self.text, self.size, self.bold), LINE * self.size


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    extent: tuple[float, float]
    colour: str


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, (H, W, 3), drawn with this width and height."""

    x: float
    y: float
    extent: tuple[float, float]
    pixels: Pixels


Item: TypeAlias = Text | Box | Picture


@dataclass(frozen=True, eq=False)
class Block:
    """Items that stay together, and their height."""

    items: list[Item]
    height: float

    def moved(self, x: float, y: float) -> Iterator[Item]:
        """The items at another position."""
        for item in self.items:
            yield replace(item, x=item.x + x, y=item.y + y)


def page(result: CaseResult, facts: ModelFacts) -> Block:
    """The page of a case, `SIDE` pixels wide.

    Raises:
        CasewiseError: the images of the case are not DICOM files of one patient.
    """
    head, foot = _head(result, facts), _foot(result, facts)
    room = SIDE - head.height - foot.height - 2 * GAP
    pictures = _pictures(result)
    several = len({value.learner for value in result.values}) > 1
    shown = list(quantities(result, facts))
    for scale, columns, bars in ATTEMPTS:
        width = TEXT_WIDTH[columns] if pictures else SIDE - 2 * MARGIN
        column = (width - (columns - 1) * GAP) / columns
        blocks = [_prediction(value, result, facts, _Column(column, scale), bars, several) for value in shown]
        body = _flow(blocks, column, room, columns)
        if body:
            break
    while not body:
        blocks.pop()
        more = _Column(column, scale)
        more.write(
            f"{counted(len(shown) - len(blocks), 'more prediction')}: see the structured report.", 13, colour=GREY
        )
        body = _flow([*blocks, more.block()], column, room, columns) or (None if blocks else more.block())
    images = _grid(pictures, SIDE - 2 * MARGIN - GAP - width, room) if pictures else Block([], 0)
    height = max(body.height, images.height)
    items = [*head.items, *images.moved(MARGIN, head.height + GAP)]
    items += body.moved(SIDE - MARGIN - width, head.height + GAP)
    items += foot.moved(0, head.height + height + 2 * GAP)
    return Block(items, head.height + height + foot.height + 2 * GAP)


def drawn(block: Block) -> Figure:
    """The page as a figure at 72 dots an inch, so that one point is one pixel."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height = round(block.height)
    figure = Figure((SIDE / 72, height / 72), dpi=72, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_autoscale_on(False)
    axes.set(xlim=(0, SIDE), ylim=(height, 0))
    for item in block.items:
        if isinstance(item, Text):
            text = axes.text(item.x, item.y + ASCENT * item.size, item.text, color=item.colour, parse_math=False)
            text.set(family=_fonts(), size=item.size, weight="bold" if item.bold else "normal")
        elif isinstance(item, Box):
            axes.add_patch(Rectangle((item.x, item.y), *item.extent, color=item.colour, linewidth=0))
        else:
            (wide, high), (x, y) = (max(1, round(side)) for side in item.extent), (round(item.x), round(item.y))
            pixels = np.asarray(Image.fromarray(item.pixels).resize((wide, high), Image.Resampling.LANCZOS))
            axes.imshow(pixels, extent=(x, x + wide, y + high, y), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, SIDE), ylim=(height, 0))
    return figure


@cache
def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in FONTS if name in installed]


def width_of(text: str, size: float, bold: bool = False) -> float:
    """The width of a line in pixels: its words and the blanks between them."""
    words = text.split(" ")
    return sum(_width(word, size, bold) for word in words) + (len(words) - 1) * _width(" ", size, bold)


@lru_cache(4096)
def _width(word: str, size: float, bold: bool) -> float:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=_fonts(), size=size, weight="bold" if bold else "normal")  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # signs that no font has are drawn as boxes
        return float(RendererAgg(1, 1, 72).get_text_width_height_descent(word, font, ismath=False)[0])


def wrapped(text: str, width: float, size: float, bold: bool = False) -> list[str]:
    """Text in lines of at most this width; a longer word is divided.

    >>> wrapped("moderate erythema", 90, 13)
    ['moderate', 'erythema']
    """
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if width_of(longer, size, bold) <= width:
            lines[-1] = longer
        elif width_of(word, size, bold) <= width:
            lines.append(word)
        else:
            lines += _divided(word, width, size, bold)
    return [line for line in lines if line]


def _divided(word: str, width: float, size: float, bold: bool) -> list[str]:
    pieces, room = [""], width
    for sign in word:
        room -= _width(sign, size, bold)
        if room < 0 and pieces[-1]:
            pieces.append("")
            room = width - _width(sign, size, bold)
        pieces[-1] += sign
    return pieces


class _Column:
    """Lines below each other."""

    def __init__(self, width: float, scale: float = 1.0) -> None:
        self.width, self.scale, self.y = width, scale, 0.0
        self.items: list[Item] = []

    def size(self, size: float) -> float:
        """The size of type in this column."""
        return max(SMALLEST, round(size * self.scale))

    def write(self, text: str, size: float, *, bold: bool = False, colour: str = INK) -> None:
        """Add a paragraph."""
        size = self.size(size)
        for line in wrapped(text, self.width, size, bold):
            self.items.append(Text(0, self.y, line, size, bold, colour))
            self.y += LINE * size

    def write_large(self, text: str, size: float, colour: str = INK) -> None:
        """Add a paragraph in bold type that becomes smaller until two lines hold it."""
        while size > 16 and len(wrapped(text, self.width, self.size(size), bold=True)) > (1 if size > 24 else 2):
            size -= 2
        self.write(text, size, bold=True, colour=colour)

    def bars(self, shares: Mapping[str, float], chosen: str) -> None:
        """Add classes with their probabilities."""
        size = self.size(12)
        widest = max(width_of(shortened(name, 60), size, name == chosen) for name in shares)
        left = min(widest, 0.45 * self.width) + 8
        longest, thick = self.width - left - 4.2 * size, 0.75 * size
        for name, share in shares.items():
            lines = wrapped(shortened(name, 60), left - 8, size, name == chosen)
            self.items += [Text(0, self.y + n * LINE * size, t, size, name == chosen) for n, t in enumerate(lines)]
            top = self.y + (LINE * size - thick) / 2
            self.items.append(Box(left, top, (longest, thick), PALE))
            self.items.append(Box(left, top, (longest * share, thick), BLUE if name == chosen else GREY))
            percent = probability(share).replace(" ", "")
            self.items.append(Text(left + longest + 6, self.y, percent, size, name == chosen))
            self.y += LINE * size * max(1, len(lines))

    def space(self, height: float) -> None:
        """Leave some pixels free."""
        self.y += height * self.scale

    def block(self) -> Block:
        """The written text."""
        return Block(self.items, self.y)


def _head(result: CaseResult, facts: ModelFacts) -> Block:
    column = _Column(SIDE - 2 * MARGIN)
    column.write(shortened(facts.name, LONGEST), 22, bold=True)
    column.write(f"Study of {result.study.started[:16].replace('T', ' ') or 'an unknown date'}", 13, colour=GREY)
    for text in of_study(result.values, facts):
        column.write(shortened(text, 400), 13, colour=GREY)
    items, y = list(column.block().moved(MARGIN, MARGIN)), MARGIN + column.y + 8
    of_limits = " ".join(limits([nameless(value, facts) for value in result.values], facts))
    for kind, text in (("notice", NOTICE), ("limits", shortened(of_limits, 520))):
        if text:
            fill, colour = BANDS[kind]
            band = _Column(SIDE - 2 * MARGIN - 20)
            band.write(text, 14, bold=kind == "notice", colour=colour)
            items += [Box(MARGIN, y, (SIDE - 2 * MARGIN, band.y + 12), fill), *band.block().moved(MARGIN + 10, y + 6)]
            y += band.y + 12 + 6
    return Block(items, y - 6)


def _foot(result: CaseResult, facts: ModelFacts) -> Block:
    column = _Column(SIDE - 2 * MARGIN)
    at = result.at.astimezone(result.study.timezone).isoformat(" ", timespec="minutes")
    column.write(
        f"Bundle {shortened(facts.name, LONGEST)}, checksum {facts.checksum[:12]}, casewise {facts.version}. "
        f"Predicted at {at}.",
        12,
        colour=GREY,
    )
    line = Box(MARGIN, 0, (SIDE - 2 * MARGIN, 1), PALE)
    return Block([line, *column.block().moved(MARGIN, 8)], column.y + 8 + MARGIN / 2)


def _prediction(
    quantity: Quantity, result: CaseResult, facts: ModelFacts, column: _Column, bars: int, several: bool
) -> Block:
    """One prediction: its title, value, interval or set, probabilities, and the values it was computed from."""
    value = quantity.main
    score = facts.scores.get(value.target)
    title = ", ".join(
        (
            shortened(_title(value, facts, result), LONGEST),
            *([f"{score.low:g} to {score.high:g}"] if score else []),
            *([value.learner] if several else []),
        )
    )
    column.write(title, 14, colour=GREY)
    if value.prediction is None:
        column.write_large("No prediction", 22)
        column.write(shortened(_without_people(value.problem, result, UNREADABLE), 300), 13)
    else:
        headline = _headline_of(value, facts)
        column.write_large(headline, 32, colour=GREY if value.caution else INK)
        if headline != _shown(value):
            kind = "most probable" if facts.classes.get(value.target) else "value"
            column.write(f"{'prediction' if value.unconfirmed else kind}: {_shown(value)}", 14)
        if value.caution and not value.unconfirmed:
            column.write(value.caution, 14)
        for text in uncertainty(value, facts):
            column.write(shortened(text, 300), 13)
    if bars and value.probabilities:
        column.space(4)
        ranked = sorted(value.probabilities.items(), key=lambda item: (item[0] != value.prediction, -item[1]))[:bars]
        shares = {plain(name): share for name, share in value.probabilities.items() if (name, share) in ranked}
        column.bars(shares, plain(value.prediction))
        if hidden := len(value.probabilities) - len(shares):
            column.write(f"and {counted(hidden, 'other class', 'other classes')}", 12, colour=GREY)
    if quantity.inputs:
        inputs = [
            f"{_title(source, facts, result)} {_shown(source)}{' (flagged)' * bool(source.caution)}"
            for source in quantity.inputs[:MOST_INPUTS]
        ]
        hidden = len(quantity.inputs) - len(inputs)
        column.write(f"From {', '.join(inputs)}{f' and {hidden} more' if hidden else ''}", 12, colour=GREY)
    column.space(16)
    return column.block()


def _headline_of(value: Value, facts: ModelFacts) -> str:
    """A prediction in the largest type: a number, or the classes of its set; undecided if these are all.

    One whose source is not confirmed is not shown in this type.

    >>> facts = ModelFacts("films", "ab", {"label": ("covid", "no_finding")}, {})
    >>> _headline_of(Value("cnn", "label", prediction="covid", members=("covid",)), facts)
    'covid'
    >>> _headline_of(Value("cnn", "label", prediction="covid", members=("covid", "no_finding")), facts)
    'undecided'
    """
    if value.unconfirmed:
        return "source not confirmed"
    if not value.members or isinstance(value.prediction, float):
        return _shown(value)
    if len(value.members) == len(facts.classes.get(value.target, ())) > 1:
        return "undecided"
    return " or ".join(plain(name) for name in value.members)


def _title(value: Value, facts: ModelFacts, result: CaseResult) -> str:
    """The target with its region, and the number of its image instead of its name."""
    images = list(dict.fromkeys(value.source for value in result.values if value.source))
    image = f"image {images.index(value.source) + 1}" if value.source else ""
    location = ", ".join(filter(None, (value.region, image)))
    title = facts.titles.get(value.target, plain(value.target))
    return f"{title} ({location})" if location else title


def _shown(value: Value) -> str:
    if value.prediction is None:
        return "without prediction"
    return (
        shortened(plain(value.prediction), LONGEST) if isinstance(value.prediction, str) else f"{value.prediction:.4g}"
    )


def _without_people(text: str, result: CaseResult, otherwise: str) -> str:
    """A text, or another in its place if it contains what may name a person."""
    header = result.study.headers[0]
    names = {result.case, result.subject, result.study.patient_id, text_of(header, "PatientBirthDate")}
    names.update(re.split(r"[\^=\s]+", text_of(header, "PatientName")))
    names.update(path.name for path in result.sources)
    pattern = "|".join(re.escape(name) for name in names if name)
    return otherwise if re.search(rf"(?<!\w)({pattern})", text, re.IGNORECASE) else text


def _flow(blocks: Sequence[Block], width: float, room: float, columns: int) -> Block | None:
    """Blocks below each other in columns; None if they do not fit."""
    items: list[Item] = []
    x = y = highest = 0.0
    heights = [block.height for block in blocks]
    # columns of about the same height: greedily filled, each holds its share at least
    room = min(room, sum(heights) / columns + max(heights, default=0))
    for block in blocks:
        if y and y + block.height > room:
            x, y, columns = x + width + GAP, 0.0, columns - 1
        if block.height > room or not columns:
            return None
        items += block.moved(x, y)
        y += block.height
        highest = max(highest, y)
    return Block(items, highest)


def _pictures(result: CaseResult) -> list[CasePicture]:
    """The pictures with saliency maps; if there are none, the images alone, of a series the one in its middle."""
    if result.pictures:
        return [
            replace(picture, title=_without_people(picture.title, result, f"image {number}"))
            for number, picture in enumerate(result.pictures[:MOST_PICTURES], 1)
        ]
    pictures = []
    for number, source in enumerate(result.sources[:MOST_PICTURES], 1):
        files = dicom_files(source)[0]
        title = f"image {number}" if len(files) == 1 else f"series {number}, its middle image"
        try:
            pictures.append(CasePicture(title, _read(files[len(files) // 2])))
        except ImageError:
            continue  # the prediction states what is wrong with it
    return pictures


def _read(path: Path) -> Pixels:
    return read_image(path, size=SIDE, channels="rgb")


def _grid(pictures: Sequence[CasePicture], width: float, room: float) -> Block:
    """Pictures with their titles in the rows in which they are largest."""
    layouts = [
        _rows(pictures, width, room, columns, below=below)
        for columns in range(1, len(pictures) + 1)
        for below in (False, True)
    ]
    return max(layouts, key=lambda block: sum(np.prod(i.extent) for i in block.items if isinstance(i, Picture)))


def _rows(pictures: Sequence[CasePicture], width: float, room: float, columns: int, *, below: bool) -> Block:
    """Pictures in this many columns; each map next to or below its image."""
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    cell, size, gap = (width - (columns - 1) * GAP) / columns, 12, 6
    titles = {id(picture): wrapped(shortened(picture.title, LONGEST), cell, size)[:3] for picture in pictures}
    items: list[Item] = []
    y = 0.0
    for row in rows:
        head = LINE * size * max(len(titles[id(picture)]) for picture in row) + 4
        high, tallest = (room - (len(rows) - 1) * GAP) / len(rows) - head, 0.0
        for number, picture in enumerate(row):
            x = number * (cell + GAP)
            items += [Text(x, y + n * LINE * size, t, size, colour=GREY) for n, t in enumerate(titles[id(picture)])]
            tiles = [picture.image] if picture.overlay is None else [picture.image, picture.overlay]
            across, down = (1, len(tiles)) if below else (len(tiles), 1)
            tile = ((cell - (across - 1) * gap) / across, (high - (down - 1) * gap) / down)
            scale = min(tile[0] / picture.image.shape[1], tile[1] / picture.image.shape[0])
            extent = (picture.image.shape[1] * scale, picture.image.shape[0] * scale)
            for n, pixels in enumerate(tiles):
                shift = (0.0, n * (extent[1] + gap)) if below else (n * (extent[0] + gap), 0.0)
                items.append(Picture(x + shift[0], y + head + shift[1], extent, pixels))
                tallest = max(tallest, shift[1] + extent[1])
        y += head + tallest + GAP
    return Block(items, y - GAP)
