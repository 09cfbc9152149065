"""The command that explains a finished run and writes its report again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from casewise.cli.run import Quiet

if TYPE_CHECKING:
    from casewise.console import Show
    from casewise.plugins.explain.results import ExplainSettings
    from casewise.plugins.explain.run import Explanation


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
        bool, typer.Option("--measure", help="Compare the maps of all out-of-fold cases with the study's masks.")
    ] = False,
    map_size: Annotated[
        int,
        typer.Option(
            min=0,
            help="CNNs: the last feature map with at least this many cells a side [0: stride 16 if there is one; 1: "
            "the last map].",
        ),
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Compute saliency maps of a run's networks and baselines, and add them to the report."""
    from casewise.console import Silent, Terminal
    from casewise.plugins.explain.results import ExplainSettings

    show = Silent() if quiet else Terminal()
    settings = ExplainSettings(case or [], network or [], output, measure, map_size)
    with show.bar("explain"):
        outputs = explain_run(run_folder, settings, show=show)
    if quiet:
        return
    print(f"report: {outputs.report}")


def explain_run(path: Path, settings: ExplainSettings | None = None, *, show: Show | None = None) -> Explanation:
    """Explain cases of the finished run at `path` and write its report again.

    Raises:
        CasewiseError: there is no finished run, case or network of this name, files are missing or have changed, or
            the folder holds a comparison by image.
    """
    from casewise.console import Silent
    from casewise.run_folder import ExplanationFolder, RunFolder

    folder = RunFolder(path)
    folder.check_finished()
    if settings and settings.output:
        ExplanationFolder(settings.output).check()
    from casewise.pipeline.finished import FinishedRun, report
    from casewise.plugins.explain.results import ExplainSettings, check_networks, named_cases

    settings = settings or ExplainSettings()
    with folder.lock():
        run = FinishedRun.open(folder)
        check_networks(run, settings.networks)
        named_cases(run, settings.cases)
        from casewise.plugins.explain.run import explain as explain_opened  # needs a network library

        explanation = explain_opened(run, settings, show or Silent())
        page = report(run, Silent())
    return replace(explanation, report=page)
