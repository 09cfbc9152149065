"""Commands for trained networks: bundle and predict."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from casewise.cli.run import Quiet

if TYPE_CHECKING:
    from casewise.inference.case_chunks import PredictedChunk
    from casewise.inference.model import TrainedModel
    from casewise.inference.result_formats import ResultFolders

# Cases without a file of a format that are printed; all are in the record next to the table.
MOST_CASES = 20

Trust = Annotated[
    Path | None,
    typer.Option(metavar="KEY", help="A public key; refuse a bundle that is not signed with its private key."),
]


def predict(
    bundle: Annotated[Path, typer.Argument(help="The trained model: a bundle (folder or .zip), or a run folder.")],
    cases: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="A table with the columns of the training table, a folder laid out by subject, visit and region, or "
            "image files (photographs, DICOM, NIfTI, slides).",
        ),
    ],
    output: Annotated[Path, typer.Option(help="The file to write, .csv or .parquet.")],
    learner: Annotated[
        str,
        typer.Option(
            help="A learner by name; headline: the one of the report; networks: every network and baseline; all: also "
            "the stackers."
        ),
    ] = "headline",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN",
            help="The table's column for path, subject, visit, …, such as subject=patient_no; repeat for more.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT=FOLDER",
            help="Write each case in a format of hospitals, too: sr=FOLDER (DICOM SR), fhir=FOLDER (FHIR R5), "
            "fhir-r4=FOLDER, summary-sc=FOLDER (a page as DICOM image), summary-pdf=FOLDER (as DICOM PDF).",
        ),
    ] = None,
    names: Annotated[
        bool,
        typer.Option(
            "--names",
            help="Name subjects, visits and image files in the files of --also and their names [default: hashes].",
        ),
    ] = False,
    subject_system: Annotated[
        str, typer.Option(metavar="URI", help="The system that identifies subjects, for FHIR, such as urn:oid:1.2.3.")
    ] = "",
    root: Annotated[
        Path | None, typer.Option(help="The folder that the table's paths are relative to [default: its own].")
    ] = None,
    pattern: Annotated[
        str,
        typer.Option(
            help="What the paths below a folder state, such as '{subject}/{visit}/{file}'; also {region}, "
            "{sequence} and what `casewise init` prints. Without {subject} the folder is one subject [default: a usual "
            "layout, which is printed]."
        ),
    ] = "",
    chunk: Annotated[int, typer.Option(min=1, help="Images that are prepared at a time; fewer need less memory.")] = 64,
    abstain: Annotated[
        bool, typer.Option("--abstain", help="Do not predict flagged cases; their flags are the reason.")
    ] = False,
    source_confirmed: Annotated[
        str,
        typer.Option(
            metavar="'NAME, REASON'",
            help="Who confirms that the model may be used for the source of these cases, and why. Without it, "
            "probabilities, intervals and sets are withheld if the cases together are unlike the training cases.",
        ),
    ] = "",
    trust: Trust = None,
    quiet: Quiet = False,
) -> None:
    """Predict new cases; labels are not needed.

    casewise predict grades.zip new-cases.csv --output predictions.csv

    The file has a row for each learner, case, region or image, and target: the prediction, for classes their
    probabilities, an interval or set where it was calibrated, and flags of cases that are unlike the training cases.
    A case that cannot be read is a row with the reason. Exit code 1: no case was predicted, or none
    could be written with --also.
    """
    from casewise.console import Silent, Terminal, print_error
    from casewise.errors import LINE, CasewiseError, counted, none_of, shortened

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch is loaded; threads that spin take time
    show = Silent() if quiet else Terminal()
    columns = {}
    for text in column or []:
        name, separator, heading = text.partition("=")
        if not (name and separator):
            raise CasewiseError(f"--column: {text!r} is not NAME=COLUMN, such as path=file.")
        columns[name] = heading
    if names and not also:
        raise CasewiseError("--names is about the files of --also, such as --also fhir=results/fhir. Give both.")
    if subject_system and not names:
        raise CasewiseError("--subject-system is about the names of subjects, and without --names there are none.")
    folders = parsed_folders(also or [])
    with show.bar("predict") as bar:
        bar(0, 0, "checking the arguments")
        from casewise.cohort.checks import ROLES
        from casewise.cohort.folder_layout import stated_pattern
        from casewise.files import write_json
        from casewise.inference.drift import confirmation
        from casewise.inference.new_cases import check_input
        from casewise.inference.output_table import check_output, predict_to_file
        from casewise.run_folder.folder import RunFolder, check_model_path

        if bundle.is_file() and any(RunFolder(path).is_own() for path in cases):
            raise CasewiseError(f"{bundle} is a file. The bundle or run folder comes first, then the cases.")
        facts = check_model_path(bundle, trust, [learner])
        roles = [*ROLES, *facts.get("settings", {}).get("targets", {})]
        if facts and (unknown := [name for name in columns if name not in roles]):
            raise CasewiseError(f"--column: {none_of(unknown[0], roles)}")
        if pattern:
            stated_pattern(pattern, of_cases=True)
        check_output(output)
        confirmation(source_confirmed)
        check_input(cases, columns, root, pattern)
        from casewise.inference.model import load_bundle

        bar(0, 0, "loading the model")
        model = load_bundle(bundle, trust=trust)
        with ExitStack() as stack:
            named = {"names": names, "subject_system": subject_system}
            results = [stack.enter_context(each) for each in _result_folders(model, folders, named)]

            def receive(chunk: PredictedChunk) -> None:
                for each in results:
                    each.receive(chunk)

            options = {"learner": learner, "columns": columns, "root": root, "size": chunk, "abstain": abstain}
            options |= {"pattern": pattern, "source_confirmed": source_confirmed}
            written = predict_to_file(model, list(cases), output, receive=receive, show=show, **options)
    if not quiet:
        print(f"wrote {written.path}: {counted(written.cases, written.unit)}")
    if "there is no file" in written.reasons and root is None:
        print_error(
            "Paths of a table are relative to its folder; --root names another one, such as the training table's."
        )
    unlike = "flags: they are unlike the training cases, so that the prediction may not apply"
    for count, what, first in (
        (written.without, "no prediction; the column problem says why", written.reasons),
        (written.flagged, unlike, written.first_flags),
    ):
        if count:
            have = "has" if count == 1 else "have"
            counts = f"{count:,} of {counted(written.cases, written.unit)} {have}"
            print_error(f"{counts} {what}. For example: {shortened(first, LINE)}")
    if written.drift.text:
        print_error(f"{written.drift.text} The model's figures may not apply to them. Details: {written.record}")
        if written.drift.withholds:
            print_error(
                "Probabilities, intervals and sets are withheld. Compare some of these cases with what is known of "
                "them; if the model may be used, state who says so with --source-confirmed 'NAME, REASON'."
            )
    if model.limits is None and not quiet:
        print_error("This model has no limits of images, so the column flags is empty for every case.")
    result_folders = [folder for each in results for folder in each.folders]
    for folder in result_folders:
        if not quiet:
            print(f"wrote {folder.folder}: {counted(folder.files, 'file')} ({folder.title})")
        if folder.without:
            have = "has" if len(folder.without) == 1 else "have"
            print_error(f"{counted(len(folder.without), 'case')} {have} no {folder.title}:")
            for case, reason in list(folder.without.items())[:MOST_CASES]:
                print_error(f"  {case or 'a row without a subject'}: {shortened(reason, LINE)}")
            if len(folder.without) > MOST_CASES:
                print_error(f"  and {len(folder.without) - MOST_CASES:,} further: see {written.record}")
    if without := {str(folder.folder): folder.without for folder in result_folders if folder.without}:
        write_json(written.record, {**json.loads(written.record.read_text()), "without": without})
    if written.without == written.cases or any(not folder.files for folder in result_folders):
        raise typer.Exit(1)


def parsed_folders(options: Sequence[str]) -> dict[str, Path]:
    """Formats with their folders from `FORMAT=FOLDER`.

    Raises:
        CasewiseError: a text has another form, a format is unknown, given twice or not installed, or a folder is a
            file.
    """
    from casewise.errors import CasewiseError, cut, nearest
    from casewise.inference.result_formats import format_owners

    owners = format_owners() if options else {}
    folders: dict[str, Path] = {}
    for text in options:
        name, separator, folder = text.partition("=")
        problem = ""
        if not (name and separator and folder):
            problem = f"{text!r} is not FORMAT=FOLDER, such as fhir=results/fhir."
        elif name not in owners:
            names = ", ".join(owners) or "the formats, because no plugin with a format is installed"
            problem = f"{cut(name)} is none of {names}.{nearest(name, owners)}"
        elif name in folders:
            problem = f"{name} is given twice."
        elif Path(folder).exists() and not Path(folder).is_dir():
            problem = f"{folder} is a file. Name a folder."
        if problem:
            raise CasewiseError(f"--also: {problem}")
        owners[name].check_result_format(name)
        folders[name] = Path(folder)
    return folders


def _result_folders(
    model: TrainedModel, folders: Mapping[str, Path], options: Mapping[str, Any]
) -> Iterator[AbstractContextManager[ResultFolders]]:
    from casewise.inference.result_formats import ResultFormats
    from casewise.plugin import implementing

    for plugin in implementing(ResultFormats) if folders else ():
        if own := {name: folders[name] for name in plugin.result_formats() if name in folders}:
            yield plugin.result_folders(model, own, **options)


def bundle(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    output: Annotated[Path, typer.Option(help="The .zip file to write.")],
    sign: Annotated[
        Path | None, typer.Option(metavar="KEY", help="Sign it with this private key (OpenSSH, ed25519).")
    ] = None,
) -> None:
    """Write a run's trained networks as one file that predicts elsewhere, without the names of its subjects."""
    from casewise.console import Terminal

    show = Terminal()
    with show.bar("bundle"):
        from casewise.pipeline.bundle import archive_run

        path = archive_run(run_folder, output, show, key=sign)
    print(f"wrote {path}: {path.stat().st_size / 2**20:,.1f} MiB")
