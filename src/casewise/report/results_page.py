"""A run's results as a Markdown page to keep with the study: the first screen and the sections of the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from casewise.report.beside import beside
from casewise.report.blocks import Block, Cell, Items, Row, Section, Table, Text, rendered
from casewise.report.context import ReportContext, read_context
from casewise.report.first_screen import Screen, screen
from casewise.report.formatting import capital, escaped, without_html
from casewise.report.page import sections
from casewise.report.terms import report_title
from casewise.run_folder.folder import write_page


def write_results(run: Path, path: Path, *, others: Sequence[Path] = ()) -> Path:
    """Write `results_page`.

    Raises:
        RunError: as `results_page`, or as `write_page`.
    """
    return write_page(path, results_page(run, others=others), ".md")


def results_page(run: Path, *, others: Sequence[Path] = ()) -> str:
    """The page for `run` in Markdown; one more section compares its learners with those of the runs in `others`.

    Raises:
        RunError: a folder holds no finished run, one without figures of the stage that the page is about, or what was
            split by image for comparison only; a run in `others` shares no target with `run`, or is synthetic where
            that is not.
    """
    contexts = [read_context(folder) for folder in (run, *others)]
    text = page(contexts[0], [beside(contexts)] if others else [])
    return without_html(
        re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.splitlines())).strip() + "\n"
    )


def page(context: ReportContext, further: Sequence[Section] = ()) -> str:
    """The page of a run; sections that show single cases are on its HTML page only."""
    study, values = context.study, screen(context)
    head = [f"# {escaped(report_title(study))}"]
    head += ["**Synthetic phantom data, not patients.**"] if study.synthetic else []
    head += [escaped(values.lead), *([escaped(study.description)] if study.description.strip() else [])]
    shown = [section for section in sections(context) if not section.page_only]
    summary = Section("summary", "Result", screen_blocks(values))
    return "\n\n".join([*head, rendered([summary, *further, *shown], html=False)])


def screen_blocks(values: Screen) -> list[Block]:
    """The five questions of the first screen as tables and lists."""
    sizes = [
        Row(capital(size.place or "here"), [Cell(f"{size.text} {size.unit}"), Cell(size.interval), Cell(size.note)])
        for size in values.sizes
    ]
    failures = [Row(row.name, [Cell(cell) for cell in row.cells], mark=row.worst) for row in values.failures]
    rivals = [
        Row(rival.name, [Cell(rival.text), Cell(rival.interval), Cell(rival.verdict_text)], mark=rival.reported)
        for rival in values.rivals
    ]
    blocks: list[Block] = [Text(values.evaluated)]
    if sizes:
        blocks.append(Table(["", "Figure", "Interval", "Note"], sizes, values.question))
    blocks += [Text(text) for text in (values.guess, values.spread) if text]
    if failures:
        blocks.append(Table(values.failure_heads, failures, "Where does it fail?"))
    if len(rivals) > 1:
        blocks.append(Table(values.rival_heads, rivals, "Does something simpler do as well?"))
    blocks.append(Text("Can it be trusted?"))
    blocks.append(Items([statement.text for statement in (*values.flags, *values.trust)]))
    blocks.append(Text(values.model))
    return blocks
