"""The command line: thin, and quick to answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from casewise import __version__

# By the files alone: reading presets needs more than a command line should load.
PRESETS = " or ".join(sorted(path.stem for path in Path(__file__).parent.glob("presets/*.yaml")))

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
    out: Annotated[Path | None, typer.Option(help="The run folder [default: runs/<study's name>].")] = None,
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
        done = run_study(plan, out or Path("runs") / plan.name, show=Terminal())
    except KeyboardInterrupt:
        print("\nstopped; give the same command again to continue", file=sys.stderr)
        raise
    print(f"report: {done.report}")


@app.command(short_help="Check study file, table and split; train nothing.")
def check(
    study: Annotated[Path, typer.Argument(help="The study file (YAML).")],
) -> None:
    """Check the study file, the cohort table and the split without training anything."""
    from casewise import steps
    from casewise.console import Terminal
    from casewise.report.wording import counted
    from casewise.slides import uncut
    from casewise.split import check_scored, split

    plan = _read(study, None, None)
    cohort = uncut(plan, steps.read(plan, None, Terminal()))
    if plan.volumes:
        from casewise.volumes.headers import check_headers

        check_headers(plan, cohort, Terminal())
    splits = split(cohort, plan)
    check_scored(splits, cohort.panels, plan)
    for side, n in splits.record["n"].items():
        if n["subjects"]:
            shown = "" if plan.tiles else f", {counted(n['panels'], 'panel')}"  # slides are not cut yet
            print(f"{side:<10} {counted(n['subjects'], 'subject')}, {counted(n['cases'], 'case')}{shown}")
    networks = len(plan.networks) * splits.folds
    inner = networks * plan.tune.folds * len(plan.rates) if plan.tune else 0
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
    out: Annotated[Path | None, typer.Option(help="The run folder [default: runs/<study's name>].")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="A folder of <backbone>.safetensors.")] = None,
) -> None:
    """Look for twins, leaks and shortcuts before anything is trained; every run begins with it."""
    from casewise import steps
    from casewise.audit.words import told
    from casewise.audited import examined
    from casewise.console import Terminal
    from casewise.errors import BothSidesError
    from casewise.run import only_run
    from casewise.split import Splits

    plan, show = _read(study, weights_dir, None), Terminal()
    folder = out or Path("runs") / plan.name
    splits: Splits | None = None
    refused: BothSidesError | None = None
    with only_run(folder):
        cohort = steps.read(plan, folder, show)
        tiles = steps.prepare(plan, cohort, folder, show)
        try:
            splits = steps.split(plan, cohort, folder, show)
        except BothSidesError as error:
            refused = error
            show.line("split", "none that can be used: subjects stand on several sides")
        found = examined(plan, cohort, tiles, splits, folder, show)
    print(told(found, plan.accept))
    for note in found.notes(plan.accept):
        print(f"{'':<10} {note}")
    print(f"audit: {folder / 'audit.json'}")
    if refused:
        raise refused  # a run would be, whatever is accepted
    found.gate(plan.accept, told_before=True)


@app.command(short_help="Write a study file, and a table from folders of images.")
def init(
    preset: Annotated[str, typer.Argument(help=f"The preset to start from: {PRESETS}.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder of images to make the cohort table from.")
    ] = None,
    folder: Annotated[Path, typer.Option("--into", help="Where to write the study.")] = Path("."),
) -> None:
    """Write a commented study file, and the cohort table from a folder of images."""
    from casewise.initialise import initialise

    made = initialise(preset, source=source, folder=folder)
    for sentence in made.understood:
        print(sentence)
    for path in made.files:
        print(f"wrote {path}")


@app.command(short_help="Draw a synthetic cohort with known truth.")
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where to write the images and the table.")],
    kind: Annotated[
        str,
        typer.Option(
            help="psoriasis, chest (radiographs), slides (skin biopsies), regions (cut from such) or pancreas (MRI)."
        ),
    ] = "psoriasis",
    subjects: Annotated[
        int | None,
        typer.Option(min=2, help="Number of subjects [default: 30; chest, pancreas 60; slides, regions 40]."),
    ] = None,
    visits: Annotated[int | None, typer.Option(min=1, help="psoriasis: visits of each subject [default: 6].")] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height in pixels [default: 492x326; chest 320x320; slides 2048x1536; regions 512x512; "
            "pancreas, in plane, 96x96]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another number draws another cohort.")] = 0,
    labels: Annotated[str, typer.Option(help="true, or shuffled between subjects.")] = "true",
    images: Annotated[
        int | None,
        typer.Option(min=1, help="chest, slides, regions: images of each subject [default: 1; regions 6]."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Two or more; chest: covid,no_finding,pneumonia; slides, regions: normal,early,late; "
            "pancreas: normal,low,high [default: all]."
        ),
    ] = None,
    marker: Annotated[
        str | None, typer.Option(help="chest: corner burns in a letter that follows the class [default: none].")
    ] = None,
    sources: Annotated[
        int | None, typer.Option(min=1, max=2, help="chest: hospitals; of two, each has its classes [default: 1].")
    ] = None,
    twins: Annotated[
        int | None, typer.Option(min=1, help="chest: copies of films under new subjects, of each of six kinds.")
    ] = None,
    stains: Annotated[
        str | None, typer.Option(help="slides, regions: alike, or each subject's own [default: alike].")
    ] = None,
    missing: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="pancreas: share of subjects that lack one sequence [default: 0]."),
    ] = None,
    lesion: Annotated[
        str | None,
        typer.Option(help="pancreas: cysts by grade, or planted: a bright ball anywhere tells it [default: cysts]."),
    ] = None,
) -> None:
    """Draw a synthetic cohort with known truth, marked as synthetic everywhere."""
    from casewise.console import Terminal
    from casewise.errors import CasewiseError, nearest

    sizes = {"psoriasis": "492x326", "chest": "320x320", "slides": "2048x1536", "regions": "512x512"}
    sizes |= {"pancreas": "96x96"}
    if kind not in sizes:
        known = "psoriasis, chest, slides, regions or pancreas"
        raise CasewiseError(f"--kind is {known}; found {kind!r}.{nearest(kind, sizes)}")
    given = {
        "visits": (visits, ["psoriasis"]),
        "images": (images, ["chest", "slides", "regions"]),
        "classes": (classes, ["chest", "slides", "regions", "pancreas"]),
        **{name: (value, ["chest"]) for name, value in (("marker", marker), ("sources", sources), ("twins", twins))},
        "stains": (stains, ["slides", "regions"]),
        **{name: (value, ["pancreas"]) for name, value in (("missing", missing), ("lesion", lesion))},
    }
    for name, (value, kinds) in given.items():
        if value is not None and kind not in kinds:
            raise CasewiseError(f"--{name} is not for --kind {kind}; leave it out.")
    width, _, height = (size or sizes[kind]).partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise CasewiseError(f"--size is written as width x height, such as {sizes[kind]}; found {size!r}.")
    if kind == "regions" and width != height:
        raise CasewiseError(f"--size of regions is that of a square, such as 512x512; found {size!r}.")
    if labels not in ("true", "shuffled"):
        raise CasewiseError(f"--labels is true or shuffled, found {labels!r}.")
    if stains not in (None, "alike", "own"):
        raise CasewiseError(f"--stains is alike or own, found {stains!r}.")
    if lesion not in (None, "cysts", "planted"):
        raise CasewiseError(f"--lesion is cysts or planted, found {lesion!r}.")
    named = tuple(name.strip() for name in classes.split(",")) if classes is not None else None
    with Terminal().bar("phantom") as bar:
        drawn: dict[str, Any] = {"seed": seed, "labels": labels, "progress": lambda done, total: bar(done, total)}
        if kind == "psoriasis":
            from casewise.phantoms.psoriasis import make_psoriasis

            shape = (int(width), int(height))
            table = make_psoriasis(folder, subjects=subjects or 30, visits=visits or 6, size=shape, **drawn)
        elif kind == "chest":
            from casewise.phantoms.chest import FINDINGS, make_chest, plant_twins

            table = make_chest(
                folder,
                subjects=subjects or 60,
                images=images or 1,
                classes=named or FINDINGS,
                size=(int(width), int(height)),
                marker=marker,  # type: ignore[arg-type]
                sources=sources or 1,
                **drawn,
            )
            if twins:
                plant_twins(table, each=twins, seed=seed)
        elif kind == "pancreas":
            from casewise.phantoms.pancreas import GRADES, make_pancreas

            table = make_pancreas(
                folder,
                subjects=subjects or 60,
                classes=named or GRADES,
                size=(int(width), int(height)),
                missing=missing or 0.0,
                lesion=lesion or "cysts",  # type: ignore[arg-type]
                **drawn,
            )
        else:
            from casewise.phantoms.slides import STAGES, make_regions, make_slide_phantom

            drawn |= {"subjects": subjects or 40, "classes": named or tuple(STAGES), "stains": stains or "alike"}
            if kind == "slides":
                shape = (int(width), int(height))
                table = make_slide_phantom(folder, slides_per_subject=images or 1, size=shape, **drawn)
            else:
                table = make_regions(folder, regions_per_subject=images or 6, size=int(width), **drawn)
    print(f"wrote {table}")


@app.command(short_help="Write a run's figures as a Markdown page.")
def results(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    to: Annotated[Path, typer.Option(help="The Markdown page to write.")],
    beside: Annotated[list[Path] | None, typer.Option(help="Further run folders to show in the same tables.")] = None,
) -> None:
    """Write a run's figures as a Markdown page, beside reference figures that its study names."""
    from casewise.report.results_page import write_results

    print(f"wrote {write_results(run_folder, to, beside=beside or [])}")


@app.command(short_help="Show where a run's networks looked, and measure it.")
def explain(
    run_folder: Annotated[Path, typer.Argument(help="A finished run folder.")],
    case: Annotated[
        list[str] | None, typer.Option(help="SUBJECT/VISIT, again for more [default: a few right and wrong ones].")
    ] = None,
    network: Annotated[list[str] | None, typer.Option(help="Again for more [default: all of the study].")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write [default: explanations in the run folder].")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure all out-of-fold cases against the study's lesion masks.")
    ] = False,
    cells: Annotated[
        int, typer.Option(min=0, help="CNNs: an earlier, finer map with so many cells a side [0: the last map].")
    ] = 0,
) -> None:
    """Show where a run's networks looked, in the original images, and put it into the report."""
    from casewise.console import Terminal
    from casewise.explaining.story import explain_run

    done = explain_run(
        run_folder, cases=case or [], networks=network or [], out=out, measure=measure, cells=cells, show=Terminal()
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
    batch: Annotated[int, typer.Option(help="Images in a training step.")] = 32,
    images: Annotated[int, typer.Option(help="Synthetic images to train on, a batch or more.")] = 192,
) -> None:
    """Print what each fast path of training brings on this processor, and how a study switches it off."""
    from casewise.bench.cpu import bench_cpu as measure
    from casewise.console import Terminal

    print(measure(backbone=backbone, size=size, batch=batch, images=images, show=Terminal()))


@app.command(short_help="List the names of backbones.")
def backbones() -> None:
    """List the backbones that torchvision builds, the 29 of One-Step PASI first; every timm name is allowed too."""
    from casewise.models.names import TORCHVISION

    print("\n".join(TORCHVISION))
    print(
        "and any timm name, such as vit_small_patch16_224 (`timm:resnet34` where both have it); "
        "`all29` means the first 29"
    )


def _read(study: Path, weights_dir: Path | None, jobs: int | None):  # type: ignore[no-untyped-def]
    from casewise.study_file import read_study

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
