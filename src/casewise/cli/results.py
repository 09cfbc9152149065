"""Commands for a finished run: results, explain and checklist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from casewise.cli.run import Quiet


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


def explain(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    case: Annotated[
        list[str] | None,
        typer.Option(help="SUBJECT/VISIT; repeat for more [default: a few correct and erroneous ones]."),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="Name of a network or baseline; repeat for more [default: all].")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The output folder [default: explanations in the run folder].")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure all out-of-fold cases against the study's masks.")
    ] = False,
    map_size: Annotated[
        int,
        typer.Option(
            min=0,
            help="CNNs: the last feature map with at least so many cells a side [0: stride 16 if there is one; 1: the "
            "last map].",
        ),
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Compute saliency maps of a run's networks and baselines, and add them to the report."""
    from casewise.console import Silent, Terminal

    show = Silent() if quiet else Terminal()
    with show.bar("explain"):
        from casewise.pipeline.explain import explain_run

        outputs = explain_run(
            run_folder,
            cases=case or [],
            networks=network or [],
            output=output,
            measure=measure,
            map_size=map_size,
            show=show,
        )
    if quiet:
        return
    if outputs.figure:
        print(f"figure: {outputs.figure}")
    print(f"report: {outputs.report}")


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
