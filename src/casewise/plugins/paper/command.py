"""The command that writes tables and figures of runs into a folder of the user, and lists what could not be made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from casewise.console import Bar
    from casewise.plugins.paper.write import Paper


def paper(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Finished run folders.")],
    output: Annotated[Path, typer.Option(help="The output folder: new, empty, or of an earlier call.")],
    grey: Annotated[
        bool, typer.Option("--grey", help="Photographs in shades of grey, no larger than networks see them.")
    ] = False,
    names: Annotated[bool, typer.Option("--names", help="Names of subjects and visits instead of numbers.")] = False,
    references: Annotated[
        str, typer.Option(help="The publication to compare with [default: the one of the run's study].")
    ] = "",
) -> None:
    """Write every table (CSV, LaTeX) and figure (PDF, SVG, PNG) that the runs allow, with the published values."""
    from casewise.console import Terminal

    show = Terminal()
    with show.bar("paper") as bar:
        paper = write_paper(runs, output, grey=grey, names=names, references=references, progress=bar)
    of_folder: dict[Path, list[str]] = {}
    for files in paper.written.values():
        stems = list(dict.fromkeys(Path(file).stem for file in files))
        named = stems[0] if len(stems) == 1 else f"{stems[0]} to {stems[-1]}"
        of_folder.setdefault(Path(files[0]).parent, []).append(named)
    for folder, stems in of_folder.items():
        print(f"written      {paper.folder / folder}: {', '.join(stems)}")
    for name, reason in paper.not_written.items():
        print(f"not written  {name}: {reason}")
    print(f"wrote {paper.folder}")


def write_paper(
    runs: Sequence[Path],
    output: Path,
    *,
    grey: bool = False,
    names: bool = False,
    references: str = "",
    progress: Bar | None = None,
) -> Paper:
    """Write the tables and figures of finished runs; arguments as of the command.

    Raises:
        CasewiseError: a run is not finished, the publication is unknown, or the folder has files of others.
    """
    from casewise.analysis.run import Run
    from casewise.errors import CasewiseError
    from casewise.plugins.paper.write import Settings, check_output, write
    from casewise.study.presets.published import check_publication

    if references:
        try:
            check_publication(references)
        except ValueError as error:
            raise CasewiseError(f"--references: {error}") from None
    check_output(output, runs)
    opened = [Run.open(folder) for folder in runs]
    return write(opened, output, Settings(grey=grey, names=names, references=references), progress=progress)
