"""The command that starts a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# from the file names, because reading presets would slow down the command line
PRESETS = " or ".join(sorted(path.stem for path in Path(__file__).parent.parent.glob("study/presets/*.yaml")))


def init(
    preset: Annotated[str, typer.Argument(help=f"The preset to start from: {PRESETS}.")],
    images: Annotated[Path | None, typer.Option(help="A folder of images from which the cohort table is made.")] = None,
    output: Annotated[Path, typer.Option(help="The folder in which the study is written.")] = Path("."),
) -> None:
    """Write a commented study file, and the cohort table from a folder of images."""
    from casewise.initialise import initialise

    started = initialise(preset, source=images, folder=output)
    for sentence in started.understood:
        print(sentence)
    for path in started.files:
        print(f"wrote {path}")
