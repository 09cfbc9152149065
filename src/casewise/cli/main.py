"""The command line: thin, and quick to answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from casewise import __version__
from casewise.cli.phantom import phantom

# By the files alone: reading presets needs more than a command line should load.
PRESETS = " or ".join(sorted(path.stem for path in Path(__file__).parent.parent.glob("study/presets/*.yaml")))

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Train and judge image models for clinical studies. Start with `casewise init`.",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"casewise {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(short_help="Run a study whole, to its report; run again to continue.")
def run(
    study: Annotated[Path, typer.Argument(help="The study file (YAML).")],
    output: Annotated[Path | None, typer.Option(help="The run folder [default: runs/<study's name>].")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="A folder of <backbone>.safetensors.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Networks trained side by side [default: one a core].")
    ] = None,
) -> None:
    """Run a study whole: cohort, tiles, split, audit, networks, stacking, scores, report. Run again to continue."""
    from casewise.console import Terminal
    from casewise.run import run as run_study

    plan = _read(study, weights_dir, jobs)
    try:
        done = run_study(plan, output or Path("runs") / plan.name, show=Terminal())
    except KeyboardInterrupt:
        print("\nstopped; give the same command again to continue", file=sys.stderr)
        raise
    print(f"report: {done.report}")


@app.command(short_help="Check study file, table and split; train nothing.")
def validate(
    study: Annotated[Path, typer.Argument(help="The study file (YAML).")],
) -> None:
    """Check the study file, the cohort table and the split without training anything."""
    from casewise.console import Terminal
    from casewise.modalities.registry import modality_of
    from casewise.pipeline.read import read
    from casewise.report.formatting import counted
    from casewise.splits.grouped import check_scored, split

    plan = _read(study, None, None)
    modality = modality_of(plan)
    images = read(plan, None, Terminal())
    cohort = modality.whole(plan, images)
    modality.check_files(plan, cohort, Terminal())
    splits = split(cohort, plan)
    check_scored(splits, cohort.panels, plan)
    for side, n in splits.record["n"].items():
        if n["subjects"]:
            # where images were cut into tiles, panels are not those of the table
            shown = "" if len(cohort.images) < len(images.images) else f", {counted(n['panels'], 'panel')}"
            print(f"{side:<10} {counted(n['subjects'], 'subject')}, {counted(n['cases'], 'case')}{shown}")
    networks = len(plan.networks) * splits.folds
    inner = networks * plan.nested_cv.folds * len(plan.rates) if plan.nested_cv else 0
    print(
        f"jobs       {counted(len(plan.networks), plan.network_noun)} × {splits.folds} folds = {networks} networks"
        + (
            f", after {counted(inner, 'inner training')}: {counted(inner + networks, 'training')} in all"
            if inner
            else ""
        )
    )


@app.command(short_help="Look for twins, leaks and shortcuts before training.")
def audit(
    study: Annotated[Path, typer.Argument(help="The study file (YAML).")],
    output: Annotated[Path | None, typer.Option(help="The run folder [default: runs/<study's name>].")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="A folder of <backbone>.safetensors.")] = None,
) -> None:
    """Look for twins, leaks and shortcuts before anything is trained; every run begins with it."""
    from casewise.audit.text import audit_text
    from casewise.console import Terminal
    from casewise.errors import BothSidesError
    from casewise.pipeline.audit import current_audit
    from casewise.pipeline.prepare import prepare
    from casewise.pipeline.read import read
    from casewise.pipeline.split import split
    from casewise.run_folder import RunFolder
    from casewise.splits.grouped import Splits

    plan, show = _read(study, weights_dir, None), Terminal()
    folder = RunFolder(output or Path("runs") / plan.name)
    splits: Splits | None = None
    refused: BothSidesError | None = None
    with folder.lock():
        cohort = read(plan, folder, show)
        tiles = prepare(plan, cohort, folder, show)
        try:
            splits = split(plan, cohort, folder, show)
        except BothSidesError as error:
            refused = error
            show.line("split", "none that can be used: subjects stand on several sides")
        found = current_audit(plan, cohort, tiles, splits, folder, show)
    print(audit_text(found, plan.accept))
    for note in found.notes(plan.accept):
        print(f"{'':<10} {note}")
    print(f"audit: {folder.audit.path}")
    if refused:
        raise refused  # a run would be, whatever is accepted
    found.gate(plan.accept, already_shown=True)


@app.command(short_help="Write a study file, and a table from folders of images.")
def init(
    preset: Annotated[str, typer.Argument(help=f"The preset to start from: {PRESETS}.")],
    source: Annotated[
        Path | None, typer.Option("--images", help="A folder of images to make the cohort table from.")
    ] = None,
    folder: Annotated[Path, typer.Option("--output", help="Where to write the study.")] = Path("."),
) -> None:
    """Write a commented study file, and the cohort table from a folder of images."""
    from casewise.initialise import initialise

    made = initialise(preset, source=source, folder=folder)
    for sentence in made.understood:
        print(sentence)
    for path in made.files:
        print(f"wrote {path}")


app.command(short_help="Draw a synthetic cohort with known truth.")(phantom)


@app.command(short_help="Write a run's figures as a Markdown page.")
def results(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    output: Annotated[Path, typer.Option(help="The Markdown page to write.")],
    compare: Annotated[list[Path] | None, typer.Option(help="Further run folders to show in the same tables.")] = None,
) -> None:
    """Write a run's figures as a Markdown page, beside reference figures that its study names."""
    from casewise.report.markdown.page import write_results

    print(f"wrote {write_results(run_folder, output, beside=compare or [])}")


@app.command(short_help="Show where a run's networks looked, and measure it.")
def explain(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    case: Annotated[
        list[str] | None, typer.Option(help="SUBJECT/VISIT, again for more [default: a few right and wrong ones].")
    ] = None,
    network: Annotated[list[str] | None, typer.Option(help="Again for more [default: all of the study].")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write [default: explanations in the run folder].")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure all out-of-fold cases against the study's lesion masks.")
    ] = False,
    map_size: Annotated[
        int, typer.Option(min=0, help="CNNs: an earlier, finer map with so many cells a side [0: the last map].")
    ] = 0,
) -> None:
    """Show where a run's networks looked, in the original images, and put it into the report."""
    from casewise.console import Terminal
    from casewise.pipeline.explain import explain_run

    done = explain_run(
        run_folder,
        cases=case or [],
        networks=network or [],
        output=output,
        measure=measure,
        map_size=map_size,
        show=Terminal(),
    )
    if done.figure:
        print(f"figure: {done.figure}")
    print(f"report: {done.report}")


bench = typer.Typer(no_args_is_help=True, help="Measure this machine.")
app.add_typer(bench, name="bench", short_help="Measure what the fast paths bring on this machine.")


@bench.callback()
def _bench() -> None:
    pass


@bench.command("cpu", short_help="What each fast path of training brings on this processor.")
def bench_cpu(
    backbone: Annotated[str, typer.Option(help="The network to train, of random weights.")] = "mobilenet_v2",
    size: Annotated[int, typer.Option(help="Side of an image in pixels, 32 or more.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Images in a training step.")] = 32,
    images: Annotated[int, typer.Option(help="Synthetic images to train on, a batch or more.")] = 192,
) -> None:
    """Print what each fast path of training brings on this processor, and how a study switches it off."""
    from casewise.bench.cpu import bench_cpu as measure
    from casewise.console import Terminal

    print(measure(backbone=backbone, size=size, batch=batch_size, images=images, show=Terminal()))


@app.command(short_help="List the names of backbones.")
def backbones() -> None:
    """List the backbones that torchvision builds, the 29 of One-Step PASI first; every timm name is allowed too."""
    from casewise.study.backbones import TORCHVISION

    print("\n".join(TORCHVISION))
    print(
        "and any timm name, such as vit_small_patch16_224 (`timm:resnet34` where both have it); "
        "`all29` means the first 29"
    )


def _read(study: Path, weights_dir: Path | None, jobs: int | None):  # type: ignore[no-untyped-def]
    from casewise.study.loading import read_study

    plan = read_study(study, weights_dir=str(weights_dir.resolve()) if weights_dir else None)
    if jobs:
        plan = plan.model_copy(update={"compute": plan.compute.model_copy(update={"jobs": jobs})})
    return plan


def main() -> None:
    """The entry point: a user's mistake is one clear message and exit code 2, Ctrl-C is 130."""
    from casewise.errors import CasewiseError

    try:
        app()
    except CasewiseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
