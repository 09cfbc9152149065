"""The command that starts a study."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from casewise.plugins.init.new_study import NewStudy

# from the file names, because reading presets would slow down the command line
_PRESET_FILES = sorted(Path(__file__).parents[2].glob("study/presets/*.yaml"))
PRESETS = " or ".join(path.stem for path in _PRESET_FILES)
_WIDTH = 80


def init(
    preset: Annotated[
        str | None, typer.Argument(help=f"A published protocol to start from: {PRESETS}. Without it: your own data.")
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your table (.csv, .tsv, .xlsx, .parquet): a row for each image, region, visit or subject; again for "
            "further tables, such as demography."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of your images [default: the table's].")] = None,
    sheet: Annotated[
        list[str] | None,
        typer.Option(
            help="The sheet of an .xlsx table [default: the first visible one]; again for further workbooks, in the "
            "order of --table. Or --table book.xlsx:SHEET."
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="The column to predict [default: the most likely one].")] = "",
    subject: Annotated[
        str,
        typer.Option(
            help="The column that identifies people [default: the likeliest]; `guess`: similar neighbouring files."
        ),
    ] = "",
    pattern: Annotated[
        str,
        typer.Option(
            help="What file names state, such as '{label}/{subject}_{visit}.jpg'; with a table "
            "'{subject}/{visit}_{region}_{n}.jpg'."
        ),
    ] = "",
    output: Annotated[Path, typer.Option(help="The folder in which the study is written.")] = Path("."),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; print the study and its doubts.")] = False,
) -> None:
    """Write the study file for your images, and the cohort table where yours cannot be used as it is.

    casewise init --table grades.csv --images photos

    casewise init --images photos --pattern '{label}/{subject}_{visit}.jpg'

    casewise init onestep-pasi --images photos

    casewise init onestep-pasi --table scores.csv --table treatment.csv --images photos

    casewise init onestep-pasi --table study.xlsx:Scores --table study.xlsx:Demography --images photos

    casewise init ssc-skin --table biopsies.csv

    It asks nothing, except on a terminal which of several equally likely columns is to be predicted, and never
    overwrites or changes a file. It prints what it understood and what it doubts, and writes
    the same as comments into study.yaml, whose `budget` is the time for the whole run.
    Then: casewise validate study.yaml, casewise run study.yaml.
    """
    from casewise.errors import CasewiseError
    from casewise.files import TABLES
    from casewise.plugins.init.own_data import plan_study
    from casewise.plugins.init.preset import plan_preset

    if preset is None:
        plan = partial(
            plan_study, table=table, images=images, sheet=sheet or "", subject=subject, pattern=pattern, folder=output
        )
        study = plan(target=target)
        if study.as_likely and sys.stdin.isatty() and sys.stdout.isatty():
            chosen = _asked([study.target, *study.as_likely])
            if chosen != study.target:
                study = plan(target=chosen)
    else:
        names = [path.stem for path in _PRESET_FILES]
        if preset not in names and (Path(preset).suffix.lower() in TABLES or Path(preset).is_dir()):
            option = "--images" if Path(preset).is_dir() else "--table"
            command = f"casewise init {option} {shlex.quote(preset)}"
            raise CasewiseError(f"{preset} is not a preset. For your own data:\n  {command}")
        unused = pattern and not table
        stated = {"--sheet": sheet and not table, "--target": target, "--subject": subject, "--pattern": unused}
        if extra := next((name for name, value in stated.items() if value), None):
            raise CasewiseError(
                f"{extra} is for your own data and does not go with the preset {preset}. Leave out one."
            )
        study = plan_preset(preset, table=table, sheet=sheet or "", images=images, pattern=pattern, folder=output)
    # before anything is printed, because a closed pipe (`| head`) ends the program
    written = [] if dry_run else study.write()
    _show(study)
    if dry_run:
        print(f"\nstudy.yaml would be:\n\n{study.text}")
    for path in written:
        print(f"wrote {path}")
    if written:
        refused = any("`casewise validate` will refuse" in doubt for doubt in study.doubts)
        before = "correct the table as said above, then " * refused
        print(f"next: {before}casewise validate {shlex.quote(str(output / 'study.yaml'))}")
    if study.left_out:
        print(study.left_out)


def _asked(columns: list[str]) -> str:
    """The column that the user chooses to be predicted; the first one by default."""
    for number, column in enumerate(columns, 1):
        print(f"{number} {column}")
    number = 0
    while not 1 <= number <= len(columns):
        number = typer.prompt("Which column is to be predicted?", default=1, type=int)
    return columns[number - 1]


def _show(study: NewStudy) -> None:
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
    for line in study.understood:
        indent = " " * (len(line) - len(line.lstrip()))
        print(textwrap.fill(line, width, subsequent_indent=indent + "    ", break_on_hyphens=False))
    if study.doubts:
        print("\nPlease check:")
    for doubt in study.doubts:
        for number, line in enumerate(doubt.splitlines()):
            first, rest = ("- ", "  ") if not number else ("    ", "    ")
            text = textwrap.fill(
                line.strip(), width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
            )
            print(text)
    print()
