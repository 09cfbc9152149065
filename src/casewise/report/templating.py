"""The templates of the report: their environment and its filters."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from casewise.report import blocks, formatting
from casewise.report.terms import report_title

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"


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
    environment.filters |= {"code_marked": blocks.code_marked, "markdown_text": blocks.markdown_text}
    environment.filters |= {"escaped": formatting.escaped, "report_title": report_title}
    return environment


def plain_page(title: str, sections: Sequence[blocks.Section], *, kind: str, style: str, footer: str) -> str:
    """A page of sections only: an HTML document that loads no other file."""
    values = {"title": title, "kind": kind, "footer": footer}
    shown = Markup(blocks.rendered(sections, html=True))  # noqa: S704 (escaped by its template)
    template = templates(html=True).get_template("plain_page.html.j2")
    return template.render(**values, style=Markup(style), sections=shown)  # noqa: S704 (our own styles)
