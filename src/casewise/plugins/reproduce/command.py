"""The command that repeats a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from casewise.cli.run import Quiet


def reproduce(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    output: Annotated[Path | None, typer.Option(help="The new folder [default: RUN_FOLDER-reproduced].")] = None,
    tolerance: Annotated[
        float, typer.Option(help="The largest absolute difference of a prediction that counts as equal.")
    ] = 0.0,
    quiet: Quiet = False,
) -> None:
    """Run the saved study of a run again from scratch, with its compute plan, and compare both.

    Exit code 0: all predictions are equal, bit by bit or within the tolerance. 1: they differ. 2: the table, images or
    first weights of the run are missing or have changed.
    """
    from casewise.console import Silent, Terminal, print_lines
    from casewise.plugins.reproduce.comparison import reproduce as repeat
    from casewise.run_folder import RunFolder

    show = Silent() if quiet else Terminal()
    with show.bar("reproduce"):
        reproduction = repeat(run_folder, output, tolerance=tolerance, show=show)
    if not quiet:
        file = RunFolder(reproduction.folder).reproduction.path
        print_lines("\n".join([*reproduction.lines(), f"comparison: {file}"]))
    if not reproduction.same:
        raise typer.Exit(1)
