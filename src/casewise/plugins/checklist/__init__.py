"""Checklists of reporting guidelines, filled in as far as a run can."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from casewise.plugin import Command, Plugin


class _Checklist(Plugin):
    name = "checklist"

    def commands(self) -> Sequence[Command]:
        return [Command("checklist", checklist, "Fill a reporting guideline's checklist from a run.", after="bundle")]


def checklist(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    of: Annotated[str, typer.Option(help="tripod-ai, claim or stard-ai.")],
    format: Annotated[
        str, typer.Option(help="md, html (opens in a word processor) or csv [default: as --output, else md].")
    ] = "",
    output: Annotated[Path | None, typer.Option(help="The file to write [default: print the list].")] = None,
) -> None:
    """Fill a reporting guideline's checklist with what the run recorded; the other items are left to the author."""
    from casewise.plugins.checklist.filling import write_checklist
    from casewise.run_folder.folder import check_page, write_page

    format = format or (output.suffix[1:].casefold() if output else "") or "md"
    if output:
        check_page(output, "." + format)
    text = write_checklist(run_folder, of, format)
    if output:
        print(f"wrote {write_page(output, text, '.' + format)}")
    else:
        print(text, end="")


plugin = _Checklist()
