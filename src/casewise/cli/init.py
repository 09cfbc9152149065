"""The command that starts a study."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from casewise.initialise import NewStudy

# from the file names, because reading presets would slow down the command line
_PRESET_FILES = sorted(Path(__file__).parent.parent.glob("study/presets/*.yaml"))
PRESETS = " or ".join(path.stem for path in _PRESET_FILES)


def init(
    preset: Annotated[
        str | None, typer.Argument(help=f"A published protocol to start from: {PRESETS}. Without it: your own data.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Your table: .csv, .tsv, .xlsx or .parquet, with a row for each image or case.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="The folder of your images. Without it: the folder of the table.")
    ] = None,
    sheet: Annotated[str, typer.Option(help="The sheet of an .xlsx table. Without it: the first visible one.")] = "",
    target: Annotated[
        str, typer.Option(help="The column of the table to predict. Without it: the most likely one.")
    ] = "",
    subject: Annotated[
        str, typer.Option(help="The column of the table that identifies people. Without it: the most likely one.")
    ] = "",
    pattern: Annotated[
        str,
        typer.Option(
            help="Without a table: what file names state, such as '{label}/{subject}_{visit}.jpg'. Without it: "
            "inferred."
        ),
    ] = "",
    output: Annotated[Path, typer.Option(help="The folder in which the study is written.")] = Path("."),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print the study and its doubts.")] = False,
) -> None:
    """Write the study file for your images, and the cohort table where yours cannot be used as it is.

    casewise init --table grades.csv --images photos

    casewise init --images photos --pattern '{label}/{subject}_{visit}.jpg'

    casewise init onestep-pasi --images photos

    It asks nothing and never overwrites or changes a file. It prints what it understood and what it doubts, and writes
    the same as comments into study.yaml. Then: casewise validate study.yaml, casewise run study.yaml.
    """
    from casewise.errors import CasewiseError
    from casewise.files import TABLES
    from casewise.initialise import plan_preset, plan_study

    if preset is None:
        study = plan_study(
            table=table, images=images, sheet=sheet, target=target, subject=subject, pattern=pattern, folder=output
        )
    else:
        names = [path.stem for path in _PRESET_FILES]
        if preset not in names and (Path(preset).suffix.lower() in TABLES or Path(preset).is_dir()):
            option = "--images" if Path(preset).is_dir() else "--table"
            command = f"casewise init {option} {shlex.quote(preset)}"
            raise CasewiseError(f"{preset} is not a preset. For your own data:\n  {command}")
        stated = {"--table": table, "--sheet": sheet, "--target": target, "--subject": subject, "--pattern": pattern}
        if extra := next((name for name, value in stated.items() if value), None):
            raise CasewiseError(
                f"{extra} is for your own data and does not go with the preset {preset}. Leave out one."
            )
        study = plan_preset(preset, images=images, folder=output)
    _show(study)
    if dry_run:
        print(f"\nstudy.yaml would be:\n\n{study.text}")
        return
    for path in study.write():
        print(f"wrote {path}")


def _show(study: NewStudy) -> None:
    from casewise.console import print_lines

    print_lines("\n".join(study.understood))
    if study.doubts:
        print("\nPlease check:")
    for doubt in study.doubts:
        print_lines("- " + "\n  ".join(line.strip() for line in doubt.splitlines()))
    print()
