"""Commands for a finished run: results and explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def results(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    output: Annotated[Path, typer.Option(help="The Markdown page to write.")],
    compare: Annotated[list[Path] | None, typer.Option(help="Further run folders to show in the same tables.")] = None,
) -> None:
    """Write the results of a run as a Markdown page, with the published metrics that the study lists as references."""
    from casewise.report.markdown.page import write_results

    print(f"wrote {write_results(run_folder, output, beside=compare or [])}")


def explain(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    case: Annotated[
        list[str] | None,
        typer.Option(help="SUBJECT/VISIT; repeat for more [default: a few correct and erroneous ones]."),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Name of a network; repeat for more [default: all].")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The output folder [default: explanations in the run folder].")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure all out-of-fold cases against the study's lesion masks.")
    ] = False,
    map_size: Annotated[
        int,
        typer.Option(min=0, help="CNNs: an earlier, finer feature map with this many cells a side [0: the last map]."),
    ] = 0,
) -> None:
    """Compute saliency maps of a run's networks on the original images, and add them to the report."""
    from casewise.console import Terminal
    from casewise.pipeline.explain import explain_run

    outputs = explain_run(
        run_folder,
        cases=case or [],
        networks=network or [],
        output=output,
        measure=measure,
        map_size=map_size,
        show=Terminal(),
    )
    if outputs.figure:
        print(f"figure: {outputs.figure}")
    print(f"report: {outputs.report}")
