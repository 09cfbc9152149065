"""The command that draws synthetic cohorts."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer


def phantom(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where to write the images and the table.")],
    kind: Annotated[
        str | None,
        typer.Option(
            help="psoriasis, chest (radiographs), slides (skin), regions (of slides) or pancreas (MRI) [default: "
            "psoriasis]."
        ),
    ] = None,
    subjects: Annotated[
        int | None, typer.Option(min=2, help="Number of subjects [default: 30 to 60, by kind].")
    ] = None,
    visits: Annotated[int | None, typer.Option(min=1, help="psoriasis: visits of each subject [default: 6].")] = None,
    size: Annotated[str | None, typer.Option(help="Width x height in pixels, such as 320x320.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed: another number draws another cohort.")] = 0,
    labels: Annotated[str, typer.Option(help="true, or shuffled between subjects.")] = "true",
    images: Annotated[int | None, typer.Option(min=1, help="chest, slides, regions: images of each subject.")] = None,
    classes: Annotated[str | None, typer.Option(help="All but psoriasis: two or more classes, with commas.")] = None,
    marker: Annotated[str | None, typer.Option(help="chest: corner draws a letter that shows the class.")] = None,
    watermark: Annotated[
        str | None,
        typer.Option(help="chest: two faint marks; one goes with the class (class) or neither does (chance)."),
    ] = None,
    twins: Annotated[int | None, typer.Option(min=1, help="chest: copies for each of twelve alterations.")] = None,
    stains: Annotated[str | None, typer.Option(help="slides, regions: alike, or own for each subject.")] = None,
    lesion: Annotated[str | None, typer.Option(help="pancreas: cysts, or planted (a bright ball).")] = None,
) -> None:
    """Draw a synthetic cohort with known truth, marked as synthetic everywhere."""
    from casewise.console import Terminal
    from casewise.errors import CasewiseError, cut, nearest
    from casewise.plugins.phantoms.chest import ChestSettings, make_chest
    from casewise.plugins.phantoms.pancreas import PancreasSettings, make_pancreas
    from casewise.plugins.phantoms.psoriasis import PsoriasisSettings, make_psoriasis
    from casewise.plugins.phantoms.slides import RegionSettings, SkinSettings, make_regions, make_slide_phantom
    from casewise.plugins.phantoms.twins import plant_twins

    kinds: dict[str, tuple[Callable[..., Path], type]] = {
        "psoriasis": (make_psoriasis, PsoriasisSettings),
        "chest": (make_chest, ChestSettings),
        "slides": (make_slide_phantom, SkinSettings),
        "regions": (make_regions, RegionSettings),
        "pancreas": (make_pancreas, PancreasSettings),
    }
    if context.args:
        names = [str(folder), *context.args]
        named = next((name for name in names if name in kinds), "KIND")
        at = next((name for name in names if name != named), "FOLDER")
        raise CasewiseError(
            f"One folder is named, and the kind is an option; found {' and '.join(map(cut, names))}. Write `casewise "
            f"phantom {at} --kind {named}`."
        )
    close = difflib.get_close_matches(folder.name.casefold(), kinds, n=1, cutoff=0.8)
    if close and kind is None and folder.name != "psoriasis":
        raise CasewiseError(f"The kind of phantom is an option: write `casewise phantom FOLDER --kind {close[0]}`.")
    kind = kind or "psoriasis"
    if kind not in kinds:
        raise CasewiseError(f"--kind is one of {', '.join(kinds)}; found {kind!r}.{nearest(kind, kinds)}")
    make, settings = kinds[kind]
    options = {name: value for name, value in context.params.items() if value is not None}
    del options["folder"]
    options.pop("kind", None)
    allowed = {field.name for field in fields(settings)} | ({"twins"} if kind == "chest" else set())
    for name in options:
        if name not in allowed:
            raise CasewiseError(f"--{name} is not for --kind {kind}; leave it out.")
    if size is not None:
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit()):
            raise CasewiseError(f"--size is written as width x height, such as 320x320; found {size!r}.")
        options["size"] = (int(width), int(height))
    if classes is not None:
        options["classes"] = tuple(name.strip() for name in classes.split(","))
    options.pop("twins", None)
    with Terminal().bar("phantom") as bar:
        table = make(folder, progress=lambda done, total: bar(done, total), **options)
        if twins:
            plant_twins(table, each=twins, seed=seed)
    print(f"wrote {table}")
