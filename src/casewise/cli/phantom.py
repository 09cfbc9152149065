"""The command that draws synthetic cohorts, of every kind there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


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
