"""Checklists of reporting guidelines, with what a run recorded on each item; everything else is left to the author.

A list is a file of `lists`. An item names a function of `facts` that says something about it, or none: then only the
author can fill it in. A fact never shows that an item is complete, and a fact that the run lacks leaves its item open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from casewise.errors import CasewiseError, nearest
from casewise.plugins.checklist.facts import FACTS
from casewise.report.blocks import Row, Section, Table, plain_page, rendered
from casewise.report.context import ReportContext, read_context, report_title
from casewise.report.formatting import without_html
from casewise.run_folder import RunFolder

FOLDER = Path(__file__).parent / "lists"
FORMATS = ("md", "html", "csv")
AUTHOR, RUN = "author", "run"

# The headings of the columns, and their names in a CSV file.
COLUMNS = {
    "Item": "item",
    "Section": "section",
    "Topic": "topic",
    "Filled in by": "filled_in_by",
    "What the run says": "what_the_run_says",
    "Place in report.html": "place_in_the_report",
}
SYNTHETIC = "The images are synthetic: the figures say nothing about patients. "
CAPTION = (
    "What the run says does not show that an item is complete: check each one, complete it, and fill in the items left"
    " to the author. Topics are shortened; the publication has the authoritative wording: {source}."
)
# What a word processor understands.
STYLE = (
    "body{font-family:sans-serif;font-size:10pt}table{border-collapse:collapse}"
    "th,td{border:1px solid #888;padding:3pt 5pt;text-align:left;vertical-align:top}"
)


@dataclass(frozen=True)
class Item:
    """One item of a list.

    Attributes:
        topic: in our own words.
        fact: the name of what the run says about it; None where only the author can fill it in.
        to_write: what the author writes if the run says nothing.
        text, section_id: what the run says, and the section of the report where it stands; empty if it says nothing.
    """

    id: str
    section: str
    topic: str
    fact: str | None = None
    to_write: str = ""
    text: str = ""
    section_id: str = ""

    @property
    def by(self) -> str:
        """Who fills the item in: `run`, which the author completes, or `author`."""
        return RUN if self.text else AUTHOR


@dataclass(frozen=True)
class _Checklist:
    """A guideline's list: its name, its source, the number of its items without their parts, and the items."""

    name: str
    source: str
    main_items: int
    items: tuple[Item, ...]


def names() -> list[str]:
    """The lists that there are.

    >>> names()
    ['claim', 'stard-ai', 'tripod-ai']
    """
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_checklist(name: str) -> _Checklist:
    """A list without anything filled in.

    Raises:
        CasewiseError: there is no such list.
    """
    import yaml

    if name not in names():
        raise CasewiseError(f"--of: {name!r} is none of {', '.join(names())}.{nearest(name, names())}")
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return _Checklist(**{**values, "items": tuple(Item(**item) for item in values["items"])})


def filled(checklist: _Checklist, context: ReportContext) -> _Checklist:
    """The list with what the run recorded."""
    path = RunFolder(Path(context.source)).report.path
    report = path.read_text(encoding="utf-8") if path.exists() else ""
    items = []
    for item in checklist.items:
        section_id, write = FACTS[item.fact] if item.fact else ("", lambda _: "")
        text = write(context)
        shown = bool(text) and f'<section id="{section_id}"' in report
        items.append(replace(item, text=text, section_id=section_id if shown else ""))
    return replace(checklist, items=tuple(items))


def write_checklist(folder: Path, name: str, kind: str = "md") -> str:
    """The filled list of a finished run as Markdown, as an HTML page whose table a word processor opens, or as CSV.

    Raises:
        CasewiseError: there is no such list or format.
        RunError: the folder holds no finished context.
    """
    if kind not in FORMATS:
        raise CasewiseError(f"--format: {kind!r} is none of {', '.join(FORMATS)}.{nearest(kind, FORMATS)}")
    empty = read_checklist(name)
    context = read_context(folder)
    checklist = filled(empty, context)
    answers = [item.text or (item.to_write and f"To write: {item.to_write}.") for item in checklist.items]
    cells = [
        (i.id, i.section, i.topic, i.by, text, i.section_id) for i, text in zip(checklist.items, answers, strict=True)
    ]
    rows, data = [Row(name, texts) for name, *texts in cells], pd.DataFrame(cells, columns=[*COLUMNS.values()])
    caption = SYNTHETIC * context.study.synthetic + CAPTION.format(source=checklist.source)
    table = Table([*COLUMNS], rows, caption, data=data)
    if kind == "csv":
        return table.csv()
    count = f"{sum(item.by == RUN for item in checklist.items)} of {len(checklist.items)} items and parts of items"
    section = Section("checklist", f"{count} filled in by the run", [table])
    title = f"{checklist.name}: {report_title(context.study)}"
    if kind == "html":
        return plain_page(title, [section], style=STYLE)
    return without_html(f"# {' '.join(title.split())}\n\n{rendered([section], html=False).strip()}\n")
