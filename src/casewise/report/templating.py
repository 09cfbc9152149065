"""The templates of the report: their environment and its filters."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from casewise.metrics.registry import metric_of
from casewise.report import blocks, formatting
from casewise.report.modality_sections import modality_report
from casewise.report.tables import hardly_varies
from casewise.report.terms import report_title
from casewise.study.learners import learner_name, the_learner
from casewise.targets import kind_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"
FILTERS = (
    "capital",
    "counted",
    "duration",
    "escaped",
    "frozen_label",
    "interval",
    "listed",
    "number",
    "p_value",
    "percent",
    "plain",
    "plural",
    "probability",
    "rate",
    "signed",
)


@cache
def templates(*, html: bool) -> Environment:
    """The templates of HTML or of Markdown pages, which share their sentences; a missing value is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=html,  # noqa: S701 (Markdown pages are not HTML)
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formatting, name) for name in FILTERS}
    environment.filters |= {"code_marked": blocks.code_marked, "markdown_text": blocks.markdown_text}
    environment.filters["format"] = formatting.formatted
    environment.filters |= {"learner_name": learner_name, "the_learner": the_learner}
    environment.filters["hardly_varies"] = hardly_varies
    environment.filters["chance_is_share"] = lambda name: metric_of(name).chance_is_share
    environment.filters["metric_title"] = lambda name: metric_of(name).title
    environment.filters["image_noun"] = lambda study: modality_report(study).row_noun(study)
    environment.filters["kind_means"] = lambda kind: kind_named(kind).means
    environment.filters["report_title"] = report_title
    environment.filters["metric_phrase"] = lambda name: metric_of(name).phrase
    return environment


def plain_page(title: str, sections: Sequence[blocks.Section], *, kind: str, style: str, footer: str) -> str:
    """A page of sections only: an HTML document that loads no other file."""
    values = {"title": title, "kind": kind, "footer": footer}
    shown = Markup(blocks.rendered(sections, html=True))  # noqa: S704 (escaped by its template)
    template = templates(html=True).get_template("plain_page.html.j2")
    return template.render(**values, style=Markup(style), sections=shown)  # noqa: S704 (our own styles)


def sentence(macro: str, *values: Any) -> str:
    """One sentence of `sentences.j2` as plain text, for a terminal."""
    module = templates(html=False).get_template("sentences.j2").module
    return " ".join(str(getattr(module, macro)(*values)).split())
