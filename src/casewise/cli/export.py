"""The command that writes a trained model as graphs for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from casewise.cli.run import Quiet


def export(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A finished run folder, or a bundle.")],
    to: Annotated[str, typer.Option(help="onnx or torchscript.")],
    output: Annotated[Path, typer.Option(help="The output folder: new, empty, or of an earlier export.")],
    learner: Annotated[
        list[str] | None, typer.Option(help="Name of a network or baseline; repeat for more [default: all].")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write each learner as one graph, from prepared panels to the mean over its folds, and check it."""
    from casewise.console import Silent, Terminal

    show = Silent() if quiet else Terminal()
    with show.bar("export"):
        from casewise.pipeline.export import export as export_run

        written = export_run(model, output, to=to, learners=learner or [], show=show)
    if not quiet:
        print(f"wrote {written.folder}")
