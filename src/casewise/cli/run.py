"""Commands for a study file, run, validate and audit, the status of a run, and the names of backbones."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from casewise.study.schema import Study


StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).")]
Output = Annotated[Path | None, typer.Option(help="The run folder [default: runs/<study's name>].")]
WeightsDir = Annotated[Path | None, typer.Option(help="A folder of <backbone>.safetensors.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting of the study file, such as `--set recipe.epochs=20`; the value is YAML, and paths are "
        "relative to the study file. May be repeated.",
    ),
]
Budget = Annotated[str, typer.Option(help="The time for the whole run, such as 8min or 2h, instead of the study's.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors and warnings.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Networks trained in parallel [default: as many as cores and memory allow; one on a GPU]."
    ),
]
BackendName = Annotated[
    str, typer.Option("--backend", help="Where networks are trained: local, this machine, or ray, a Ray cluster.")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="The Ray cluster, HOST:PORT, or auto for this machine's [default: RAY_ADDRESS, else a Ray started here]."
    ),
]

Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Train only these networks, then stop: `resnet34`, or `resnet34:2` for one fold. Several are separated by "
        "commas, or the option is repeated."
    ),
]


def run(
    study: StudyFile,
    output: Output = None,
    weights_dir: WeightsDir = None,
    jobs: Jobs = None,
    only: Only = None,
    backend: BackendName = "local",
    address: Address = None,
    budget: Budget = "",
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Run a study: cohort, tiles, split, audit, networks, stacking, scores, report. Run it again to continue."""
    from casewise.console import Silent, Terminal
    from casewise.errors import CasewiseError, counted
    from casewise.jobs.backends import executing_on
    from casewise.run import run as run_study
    from casewise.run import train_only
    from casewise.training.cost import keep_memory

    show = Silent() if quiet else Terminal()
    try:
        with show.bar("run"), executing_on(backend, address, show):
            plan = _read(study, weights_dir, _with_budget(settings, budget), jobs)
            keep_memory()
            if only is not None:
                names = [name.strip() for text in only for name in text.split(",") if name.strip()]
                if not names:
                    raise CasewiseError("--only: names no network. Write, for example, `--only resnet34`.")
                train_only(plan, names, output, show=show)
                return
            finished = run_study(plan, output, show=show)
    except KeyboardInterrupt:
        print("\nstopped; run again to continue", file=sys.stderr)
        raise
    if not quiet:
        print(f"report: {finished.report}")
        print(f"next: casewise predict {shlex.quote(str(finished.folder))} INPUT --output predictions.csv")
    if finished.left_out:
        have = "has" if len(finished.left_out) == 1 else "have"
        print(
            f"{counted(len(finished.left_out), 'network')} could not be trained and {have} no part in the results: "
            f"{', '.join(finished.left_out)}. The report says why; the same command tries again.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _with_budget(settings: list[str] | None, budget: str) -> list[str]:
    return [*(settings or []), *([f"budget={budget}"] if budget else [])]


def validate(study: StudyFile, weights_dir: WeightsDir = None, budget: Budget = "", settings: Settings = None) -> None:
    """Check the study file, the table, every image, the split and the weights without training anything."""
    from casewise.console import Terminal, print_lines
    from casewise.pipeline.read import validate as validate_study

    show = Terminal()
    with show.bar("validate"):
        lines = validate_study(_read(study, weights_dir, _with_budget(settings, budget)), show)
    print_lines("\n".join(lines))
    words = ["--weights-dir", str(weights_dir)] if weights_dir else []
    words += ["--budget", budget] if budget else []
    words += [f"--set={text}" for text in settings or []]
    print(f"next: {shlex.join(['casewise', 'run', str(study), *words])}")


def status(run_folder: Annotated[Path, typer.Argument(help="A run folder, such as runs/my-study.")]) -> None:
    """Say how far a run is: what is done, running, waiting or failed, and the time left.

    Exit code 2: a file of the run is damaged, or the folder is not a run folder.
    """
    from casewise.console import print_lines
    from casewise.pipeline.status import run_status
    from casewise.run_folder import RunFolder

    state = run_status(RunFolder(run_folder))
    print_lines("\n".join(state.lines()))
    if state.damaged:
        raise typer.Exit(2)


def audit(
    study: StudyFile,
    output: Output = None,
    weights_dir: WeightsDir = None,
    settings: Settings = None,
    *,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Leave out one of each two copies, in a file beside the study.")
    ] = False,
) -> None:
    """Search for duplicates, leaks and shortcuts before anything is trained; every run begins with it."""
    from casewise.console import Terminal, print_lines
    from casewise.pipeline.audit import audit_alone
    from casewise.run_folder import RunFolder

    plan, show = _read(study, weights_dir, settings), Terminal()
    with show.bar("audit"):
        folder = RunFolder(output or Path("runs") / plan.name)
        audit_alone(plan, folder, show, print_lines, resolve=study if resolve else None)


def look(
    study: StudyFile,
    output: Output = None,
    settings: Settings = None,
    *,
    cases: Annotated[int, typer.Option(min=1, max=20, help="How many training cases of each class.")] = 3,
) -> None:
    """Show panels of each class as networks will see them, as they are and varied, before anything is trained."""
    from casewise.console import Terminal
    from casewise.pipeline.look import look as look_at
    from casewise.run_folder import RunFolder

    plan, show = _read(study, None, settings), Terminal()
    with show.bar("look"):
        page = look_at(plan, RunFolder(output or Path("runs") / plan.name), show, most=cases)
    print(f"panels: {page}")
    print(f"next: casewise audit {shlex.quote(str(study))}")


def backbones(
    names: Annotated[list[str] | None, typer.Argument(help="Networks to describe instead.", show_default=False)] = None,
) -> None:
    """List the backbones that torchvision builds, the 29 of One-Step PASI first; every timm name is allowed as well.

    For the named ones: their parameters, multiplications for an image of 224 pixels, input, licence and weights.
    """
    from casewise.study.sources import check_networks, listed_names

    if names:
        from casewise.models.encoders import description

        check_networks(names)
        print("\n".join(map(description, names)))
        return
    print("\n".join(listed_names(pretrained=True)))
    print(
        "and every timm name, such as vit_small_patch16_224 (`timm:resnet34` if both libraries have it); "
        "`all29` stands for the first 29"
    )


def _read(study: Path, weights_dir: Path | None, settings: list[str] | None, jobs: int | None = None) -> Study:
    from casewise.study.loading import read_study

    plan = read_study(study, settings=settings or (), weights_dir=str(weights_dir.resolve()) if weights_dir else None)
    if jobs:
        plan = plan.model_copy(update={"compute": plan.compute.model_copy(update={"jobs": jobs})})
    return plan


def results(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="The Markdown page to write, with its details as a CSV table next to it [default: print it]."
        ),
    ] = None,
    compare: Annotated[list[Path] | None, typer.Option(help="Further run folders to show in the same tables.")] = None,
) -> None:
    """Print the results of a run as a Markdown page, with the published metrics that the study lists as references."""
    from casewise.report.results_page import results_page, write_results

    if output:
        print(f"wrote {write_results(run_folder, output, others=compare or [])}")
    else:
        print(results_page(run_folder, others=compare or []), end="")
