"""The blocks of a report section: tables, plots, pictures and fixed captions, as plain values.

A section is a `Section` with its blocks. `rendered` writes the same blocks as HTML or as Markdown, so that both show
the same values. A text is a caption or a note that does not change with the result; a sentence that does is a
`casewise.report.statements.Statement`. Backticks in a text mark code; everything else is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, dataclass_transform

from markupsafe import Markup

from casewise.files import csv_text
from casewise.report.formatting import escaped

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

    from casewise.report.figures.drawing import Drawing

FOLDER = Path(__file__).parent / "templates"
# A page of sections has no list of contents at its side.
UNLISTED = "\n@media (min-width: 1100px) { .page { display: block; } }\n"
CountsLine = tuple[str, int, list[tuple[int, float]]]


@dataclass(frozen=True)
class Cell:
    """One figure: its text, the text of its interval, and the value by which it is sorted."""

    text: str
    small: str = ""
    value: float | str = ""


@dataclass(init=False)
class Row:
    """One row: its name and cells; `mark`: the shown learner; `inner`: subordinate to the row above."""

    name: str
    cells: list[Cell]
    mark: bool
    inner: bool

    def __init__(self, name: str, cells: Iterable[Cell | str], mark: bool = False, inner: bool = False) -> None:
        self.name, self.mark, self.inner = name, mark, inner
        self.cells = [Cell(cell) if isinstance(cell, str) else cell for cell in cells]


@dataclass(frozen=True)
class Counts:
    """Counts of classes: lines (`counts_line`) with a count for each of `names`, in their order."""

    names: list[str]
    rows: list[CountsLine]


def counts_line(name: str, counts: Sequence[int]) -> CountsLine:
    """A line's name, its total, and each count with its share of the total; shares of zero are zero.

    >>> counts_line("a", [3, 1]), counts_line("b", [0, 0])
    (('a', 4, [(3, 0.75), (1, 0.25)]), ('b', 0, [(0, 0.0), (0, 0.0)]))
    """
    total = int(sum(counts))
    return name, total, [(int(n), n / max(total, 1)) for n in counts]


@dataclass_transform(frozen_default=True)
class Block:
    """A part of a section: a frozen dataclass, which the template of its name shows; left out without content."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)

    def __bool__(self) -> bool:
        return bool(getattr(self, next(iter(self.__annotations__))))

    @property
    def form(self) -> str:
        """The name of its template."""
        return type(self).__name__.lower()


class Text(Block):
    """A paragraph; a note is small and grey."""

    text: str
    note: bool = False


class Heading(Block):
    """A heading within a section."""

    text: str


class Items(Block):
    """A list of texts."""

    texts: Sequence[str]


class Facts(Block):
    """Names with their values, in two columns."""

    facts: Sequence[tuple[str, str]]


class Code(Block):
    """A text with its line breaks, such as a study file."""

    text: str


class Table(Block):
    """Rows of cells below their caption.

    Attributes:
        columns: the headings; the first stands above the names of the rows.
        wide: in smaller letters.
        sortable: whether a click on a heading sorts the rows.
        data: what its CSV file has instead of the cells, such as numbers with all their digits.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str
    wide: bool = False
    sortable: bool = False
    data: pd.DataFrame | None = None

    def __bool__(self) -> bool:
        return bool(self.rows)

    @classmethod
    def of(cls, data: pd.DataFrame, caption: str) -> Table:
        """A table of plain values, without columns that are empty.

        >>> import pandas as pd
        >>> Table.of(pd.DataFrame({"a": [1.5, None], "b": ["x", "y"], "c": [None, None]}), "T").rows[1].cells
        [Cell(text='y', small='', value='')]
        """
        import pandas as pd

        shown = data.replace("", None).dropna(axis="columns", how="all")
        rows = [["" if pd.isna(v) else _plain_text(v) for v in row] for row in shown.itertuples(index=False)]
        columns = [str(column).replace("_", " ") for column in shown]
        return cls(columns, [Row(row[0], row[1:]) for row in rows], caption, data=data)

    def csv(self) -> str:
        """The table as CSV, whose texts a spreadsheet does not run."""
        import pandas as pd

        texts = [[row.name, *(f"{cell.text} {cell.small}".strip() for cell in row.cells)] for row in self.rows]
        return csv_text(self.data if self.data is not None else pd.DataFrame(texts, columns=list(self.columns)))


def _plain_text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Matrix(Block):
    """Counts of classes against classes, darker where a count is a larger share of its line.

    Attributes:
        lines: what a line is, such as `reference`.
        columns: what a column is; empty if its name says so.
        same: whether cells with equal row and column are outlined.
        tight: in narrow columns.
    """

    counts: Counts
    caption: str
    lines: str
    columns: str = ""
    same: bool = True
    tight: bool = False


@dataclass(frozen=True)
class Plot:
    """A drawing with a description for those who cannot see it, and a caption."""

    drawing: Drawing
    alt: str
    caption: str = ""


class Plots(Block):
    """Drawings side by side, as wide as two of a page or small (`multiples`); Markdown has no drawings."""

    plots: Sequence[Plot]
    note: str = ""
    layout: str = "figures"


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its description and caption."""

    uri: str
    alt: str
    caption: str = ""


class Pictures(Block):
    """Pictures in a strip; Markdown has none."""

    pictures: Sequence[Picture]
    caption: str = ""
    layout: str = "strip"


@dataclass(frozen=True)
class Card:
    """One case: its name, its pictures, and what the page says of it."""

    title: str
    pictures: Sequence[Picture]
    blocks: Sequence[Block]

    def __post_init__(self) -> None:
        _leave_out_empty(self)


class Cards(Block):
    """Cases side by side; they show pictures of subjects, so Markdown has none."""

    cards: Sequence[Card]


class Fold(Block):
    """Blocks that the page shows when the reader opens them.

    Attributes:
        page_only: whether Markdown leaves them out.
        needed: whether a page of results shows them, instead of the table beside it.
    """

    summary: str
    blocks: Sequence[Block]
    page_only: bool = False
    needed: bool = False

    def __post_init__(self) -> None:
        _leave_out_empty(self)

    def __bool__(self) -> bool:
        return bool(self.blocks)


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        id: its anchor.
        heading: its title, also in the list of contents.
        blocks: what it shows, in order.
        page_only: whether Markdown leaves it out, such as one that shows single cases.
    """

    id: str
    heading: str
    blocks: Sequence[Block]
    page_only: bool = False

    def __post_init__(self) -> None:
        _leave_out_empty(self)

    def __bool__(self) -> bool:
        return bool(self.blocks)


def _leave_out_empty(whole: Card | Fold | Section) -> None:
    object.__setattr__(whole, "blocks", [block for block in whole.blocks if block])


@cache
def templates(*, html: bool) -> Environment:
    """The templates of HTML or of Markdown pages, from the same blocks; a missing value is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=html,  # noqa: S701 (Markdown pages are not HTML)
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code_marked": code_marked, "markdown_text": markdown_text, "escaped": escaped}
    return environment


def rendered(sections: Sequence[Section], *, html: bool) -> str:
    """The sections as HTML or as Markdown."""
    return (
        templates(html=html)
        .get_template("blocks.html.j2" if html else "blocks.md.j2")
        .render(sections=list(filter(None, sections)))
    )


def plain_page(title: str, sections: Sequence[Section], *, kind: str = "", style: str = "", footer: str = "") -> str:
    """A page of sections only: an HTML document that loads no other file; `style` replaces the report's."""
    shown = Markup(rendered(sections, html=True))  # noqa: S704 (escaped by its template)
    look = Markup(style or (FOLDER / "report.css").read_text() + UNLISTED)  # noqa: S704 (our own file)
    template = templates(html=True).get_template("plain_page.html.j2")
    return template.render(title=title, kind=kind, footer=footer, style=look, sections=shown)


def markdown_page(head: Sequence[str], sections: Sequence[Section]) -> str:
    """A Markdown page: the head, the sections, no heading without content, at most one empty line in a row."""
    lines = (line.rstrip() for line in "\n\n".join([*head, rendered(sections, html=False)]).splitlines())
    text = "\n".join(lines)
    for level in (4, 3, 2):
        text = re.sub(rf"^#{{{level}}} .*\n+(?=#{{2,{level}}} )", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def without_folds(section: Section) -> Section:
    """The section as a page of results shows it: with the folds that are needed, and without the others."""
    return replace(section, blocks=[b for b in section.blocks if not isinstance(b, Fold) or b.needed])


def folded(sections: Sequence[Section]) -> list[dict[str, str]]:
    """The content of the folds that `without_folds` leaves out, a row each figure or text.

    Each row has the `section`, the `part` of it, the caption of the `table`, and the names of `row` and `column`.
    """
    return [
        {"section": section.heading, **row}
        for section in sections
        for block in section.blocks
        if isinstance(block, Fold) and not (block.page_only or block.needed)
        for row in _rows(block.blocks, block.summary)
    ]


def _rows(blocks: Sequence[Block], part: str) -> Iterator[dict[str, str]]:
    within = part
    for block in blocks:
        if isinstance(block, Heading):
            within = f"{part}: {block.text}"
            continue
        cells: list[tuple[str, str, str]] = []
        caption = ""
        if isinstance(block, Fold):
            yield from () if block.page_only else _rows(block.blocks, f"{part}: {block.summary}")
        elif isinstance(block, Table):
            caption = block.caption
            for row in block.rows:
                named = zip(block.columns[1:], row.cells, strict=True)
                cells += [(row.name, column, f"{cell.text} {cell.small}".strip()) for column, cell in named]
        elif isinstance(block, Matrix):
            caption = block.caption
            for name, _, counts in block.counts.rows:
                cells += [(name, column, str(n)) for column, (n, _) in zip(block.counts.names, counts, strict=True)]
        elif isinstance(block, Facts):
            cells = [(name, "", value) for name, value in block.facts]
        elif isinstance(block, (Text, Code)):
            cells = [("", "", block.text)]
        elif isinstance(block, Items):
            cells = [("", "", text) for text in block.texts]
        for name, column, value in cells:
            yield {"part": within, "table": caption, "row": name, "column": column, "value": value}


def code_marked(text: str) -> list[tuple[str, bool]]:
    """The pieces of a text and whether each is code, which stands between backticks.

    >>> code_marked("see `seeds: 3` there")
    [('see ', False), ('seeds: 3', True), (' there', False)]
    """
    return [(piece, bool(index % 2)) for index, piece in enumerate(text.split("`")) if piece]


def markdown_text(text: str) -> str:
    """A text for a Markdown page: code stays code, and nothing else is markup.

    >>> print(markdown_text("`seeds: 3` of a|b"))
    `seeds: 3` of a\\|b
    """
    pieces = [
        f"`{piece}`" if code else re.sub(r"\S.*\S|\S", lambda m: escaped(m[0]), piece, flags=re.DOTALL)
        for piece, code in code_marked(text)
    ]
    return " ".join("".join(pieces).split())
