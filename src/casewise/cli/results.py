"""Commands for a finished run: results and checklist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def results(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    output: Annotated[Path | None, typer.Option(help="The Markdown page to write [default: print it].")] = None,
    compare: Annotated[list[Path] | None, typer.Option(help="Further run folders to show in the same tables.")] = None,
) -> None:
    """Print the results of a run as a Markdown page, with the published metrics that the study lists as references."""
    from casewise.report.markdown.page import results_page, write_results

    if output:
        print(f"wrote {write_results(run_folder, output, beside=compare or [])}")
    else:
        from casewise.console import print_markdown

        print_markdown(results_page(run_folder, beside=compare or []))


def checklist(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    of: Annotated[str, typer.Option(help="tripod-ai, claim or stard-ai.")],
    format: Annotated[str, typer.Option(help="md, html (opens in a word processor) or csv.")] = "md",
    output: Annotated[Path | None, typer.Option(help="The file to write [default: print the list].")] = None,
) -> None:
    """Fill a reporting guideline's checklist with what the run recorded; the other items are left to the author."""
    from casewise.report.checklist import write_checklist
    from casewise.run_folder.pages import write_page

    text = write_checklist(run_folder, of, format)
    if output:
        print(f"wrote {write_page(output, text, '.' + format)}")
    else:
        print(text, end="")
