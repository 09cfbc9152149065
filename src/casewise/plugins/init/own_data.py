"""A study of a table and a folder of images as people have them: what they mean, and the shortest study that works."""

from __future__ import annotations

import os
import re
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from casewise.cohort.cohort import read_cohort
from casewise.cohort.table import Problems, read_text_table
from casewise.errors import CasewiseError, counted
from casewise.modalities.registry import modality_of
from casewise.plugins.init.columns import Roles, understand_columns
from casewise.plugins.init.image_files import ImageFiles, are_grey, find_images, skipped_text
from casewise.plugins.init.new_study import STUDY, TABLE, NewStudy, quoted, relative_path
from casewise.plugins.init.patterns import stated_pattern
from casewise.plugins.init.recipe import (
    DataFacts,
    available_weights,
    default_recipe,
    left_out_in_turn,
    untested_columns,
    unusual_sources,
    weights_text,
)
from casewise.plugins.init.rows import (
    FOUND,
    ImageRows,
    add_film_columns,
    cohort_table,
    fill_from_table,
    resolve_subjects,
    rows_of_names,
    rows_of_table,
)
from casewise.plugins.init.target import (
    TargetPlan,
    check_numbers,
    likely_targets,
    no_target,
    not_chosen,
    stated_column,
    understand_target,
)
from casewise.plugins.init.visits import resolve_sequences, resolve_visits, slice_column
from casewise.splits.file_numbers import file_series
from casewise.study.loading import read_study
from casewise.study.yaml_text import mapping

_WIDTH = 79


def plan_study(
    *,
    table: Path | None,
    images: Path | None,
    sheet: str = "",
    target: str = "",
    subject: str = "",
    pattern: str = "",
    folder: Path,
) -> NewStudy:
    """Understand a table, a folder of images or both, and plan the study; nothing is written.

    Raises:
        CasewiseError: the table or the images cannot be read or do not belong together, or there is nothing to predict.
    """
    if table is None and images is None:
        raise CasewiseError("Name a table with --table, a folder of images with --images, or both; or name a preset.")
    if table is not None and pattern:
        raise CasewiseError("--pattern reads classes from file names, and --table has them in a column. State one.")
    if table is None and target:
        raise CasewiseError("--target names a column of the table; without --table, the class is {label} in --pattern.")
    if table is None and subject:
        raise CasewiseError(
            "--subject names a column of the table; without --table, the subject is {subject} in --pattern."
        )
    if subject and subject == target:
        raise CasewiseError(f"--subject and --target both name the column {target[:80]!r}. State two columns.")
    if table is None and sheet:
        raise CasewiseError("--sheet names a sheet of the workbook that --table names. State both.")
    files = find_images(images or (table or Path()).parent)
    if table is None:
        rows = rows_of_names(files, stated_pattern(pattern) if pattern else None)
        return _planned(Sources(files, None, {}, Roles(), "label", []), rows, folder)
    problems = Problems()
    try:
        return _planned(*_read(table, sheet, target, subject, files, problems), folder)
    except CasewiseError as error:
        if not problems.hint:
            raise
        raise CasewiseError(f"{error}\n  {problems.hint} Name another with --sheet.") from None


def _read(
    table: Path, sheet: str, target: str, subject: str, files: ImageFiles, problems: Problems
) -> tuple[Sources, ImageRows]:
    """What the table states, with a row for each image."""
    frame, notes = read_text_table(table, problems, sheet=sheet)
    problems.raise_any(table)
    cells = {str(name): [str(value) for value in frame[name]] for name in frame.columns}
    rows, file_names = rows_of_table(cells, files, frame.index.tolist())
    rows.understood += notes
    rows.notes = notes
    column, person = stated_column("--target", target, cells), stated_column("--subject", subject, cells)
    if person and person in file_names:
        raise CasewiseError(
            f"--subject {person[:80]!r}: this column names the images. State the column that identifies people, or "
            "leave the option out."
        )
    roles = understand_columns(cells, target=column, subject=person, files=file_names, numbers=frame.index.tolist())
    candidates = likely_targets(cells, roles, file_names) if not column else []
    if not column and not candidates:
        raise no_target(cells)
    column = column or candidates[0]
    check_numbers(column, cells[column], frame.index.tolist())
    roles.doubts += not_chosen(candidates[1:], cells, frame.index.tolist())
    fill_from_table(rows, cells, roles, scans=files.scans)
    return Sources(files, table, cells, roles, column, candidates[1:], sheet), rows


@dataclass(frozen=True)
class Sources:
    """What a study is made from: the images, the table with its cells by column, and what its columns mean."""

    files: ImageFiles
    table: Path | None
    cells: Mapping[str, list[str]]
    roles: Roles
    target: str
    other_targets: list[str]
    sheet: str = ""


def _planned(sources: Sources, rows: ImageRows, folder: Path) -> NewStudy:
    files, table, cells, roles = sources.files, sources.table, sources.cells, sources.roles
    column, others = sources.target, sources.other_targets
    labels = [cells[column][row.source].strip() if cells else row.label for row in rows.rows]
    resolve_subjects(rows, cells, roles, labels)
    slices = slice_column(rows, files, cells, roles, labels) if cells else ""
    if slices and roles.sequence:
        rows.set(sequence=[cells[roles.sequence][row.source].strip() for row in rows.rows])
        rows.origins["sequence"] = roles.sequence
    sequences = resolve_sequences(rows, files) if files.scans or slices else []
    resolve_visits(rows, labels, sliced=bool(slices), day=roles.day, days=cells[roles.day] if roles.day else ())
    present = [i for i, row in enumerate(rows.rows) if row.path]
    plan = understand_target(column, [labels[i] for i in present], [rows.rows[i].subject for i in present], others)
    rows.doubts += [*roles.doubts, *plan.doubts]
    if roles.people:
        rows.changed = True
        rows.doubts += _named_files(rows, cells, roles)
        rows.doubts.append(
            f"{', '.join(map(repr, roles.people))} look like names or dates of birth of people and are not in {TABLE}."
        )
    root = _direct_root(rows, cells, files, table) if table and not rows.changed and plan.cells is None else None
    direct = root is not None
    lines = _head(rows, roles, plan, cells if direct else {}, table if direct else None, root or files.folder, folder)
    if direct and sources.sheet:
        lines.append(f"sheet: {quoted(sources.sheet)}")
    lines += _source_lines(rows, roles, cells)
    study = NewStudy(folder, understood=list(rows.understood), doubts=list(rows.doubts))
    if not direct:
        add_film_columns(rows, cells, files)
        if any("," in label for label in labels) and plan.cells is not None:
            labels = [label.replace(",", ".") for label in labels]
        study.files[TABLE] = cohort_table(rows, cells, roles, plan, labels)
    facts = DataFacts(
        subjects=len({row.subject for row in rows.rows if row.path} - {""}),
        numbered=not rows.subjects_known and bool(file_series([row.path for row in rows.rows if row.path])),
        images=len(present),
        rarest=plan.rarest,
        scans=files.scans or bool(slices),
        grey=are_grey(files),
        given_split=rows.has("split"),
    )
    if facts.scans:
        lines += _scan_lines(sequences, rows, slices)
    weights = available_weights()
    lines += ["", *default_recipe(facts, weights)]
    study.files[STUDY] = _wrapped(lines).encode("utf-8")
    _add_modality(study, files, rows, scans=facts.scans)
    study.understood.insert(
        0, f"{counted(len(present), files.noun)} of {_subjects_text(rows, facts.subjects)}{skipped_text(files)}."
    )
    study.understood += [*_meaning(rows, plan), weights_text(weights)]
    return study


def _named_files(rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles) -> list[str]:
    """A doubt if names of people are part of paths, which stand in the table, the log and the report."""
    values = " ".join(value for name in roles.people for value in cells[name]).casefold()
    people = set(re.findall(r"[^\W\d_]{4,}", values))
    files = [row.path for row in rows.rows if people & set(re.findall(r"[^\W\d_]{4,}", row.path.casefold()))]
    if not files:
        return []
    return [
        f"FILE NAMES CONTAIN NAMES OF PEOPLE ({len(files):,} of them). They would be in {TABLE} and in the report: "
        "rename the files first."
    ]


def _subjects_text(rows: ImageRows, count: int) -> str:
    return counted(count, "subject") if rows.subjects_known else "unknown subjects"


def _meaning(rows: ImageRows, plan: TargetPlan) -> list[str]:
    """A sentence for each standard column, and one for the target."""
    named = [f"{name} from {_source(origin)}" for name, origin in rows.origins.items()]
    lines = [f"Read as: {', '.join(named)}."] if named else []
    return [*lines, f"Target: {plan.column}, {{{plan.setting}}}."]


def _source(origin: str) -> str:
    return origin if " " in origin and origin.startswith(("the ", "file ", "numbers ")) else repr(origin)


def _head(
    rows: ImageRows,
    roles: Roles,
    plan: TargetPlan,
    cells: Mapping[str, list[str]],
    table: Path | None,
    root: Path,
    folder: Path,
) -> list[str]:
    """The lines of the study file on cohort, columns and target. With `table` the study reads it as it is."""
    lines = ["# Written by `casewise init`: check it with `casewise validate`, then start `casewise run`."]
    # a table that is written anew would no longer say how the original was read
    lines += [f"# - {note}" for note in ([] if table else rows.notes)]
    lines += [f"# - {doubt}" for doubt in rows.doubts]
    lines += [
        f"name: {quoted(_run_name(folder.resolve().name))}",
        f"cohort: {quoted(relative_path(table, folder) if table else TABLE)}",
    ]
    start = (table.parent if table else folder).resolve()
    if root.resolve() != start:
        lines.append(f"root: {quoted(relative_path(root, folder))}  # paths in the table start here")
    if table:
        lines += _column_lines(rows, roles, cells)
    if not rows.subjects_known:
        lines.append("subjects_known: false  # fill in `subject` and delete this line if you know who is on each image")
    heading, words = plan.column if table else plan.heading, plan.where_not
    if rows.missing:
        lines.append(f'where: {{{FOUND}: "yes"}}  # rows without an image are left out, and counted')
    if words:
        lines.append(f"where_not: {{{quoted(heading)}: [{', '.join(map(quoted, words))}]}}  # no value")
    stated = f", column: {quoted(heading)}" if heading != plan.name else ""
    lines.append(
        f"targets: {{{quoted(plan.name)}: {{{plan.setting}{stated}}}}}"
        + (f"  # {plan.comment}" if plan.comment else "")
    )
    if rows.has("split"):
        lines.append(f"split: {{column: {quoted(roles.split if table else 'split')}}}  # the given split")
    return lines


def _source_lines(rows: ImageRows, roles: Roles, cells: Mapping[str, list[str]]) -> list[str]:
    """The key `audit` with sources that it does not know by their names, and a split that leaves out one in turn."""
    unusual = unusual_sources(roles.sources)
    lines = [f"audit: {{columns: [{', '.join(map(quoted, unusual))}]}}"] if unusual else []
    source, reasons = left_out_in_turn(roles.sources, rows, cells)
    if source:
        lines += [
            f"# To test on each {source} with networks trained without it, replace `split` by:",
            f"# split: {{leave_out: {quoted(source)}}}",
        ]
    if reasons:
        lines.append(f"# Not for `split: {{leave_out: ...}}` as they are: {'; '.join(reasons)}.")
    return lines


def _column_lines(rows: ImageRows, roles: Roles, cells: Mapping[str, list[str]]) -> list[str]:
    """The key `columns` where columns of the table have other names, or a name with another meaning."""
    stated = {"path": rows.files[0].name}
    stated |= {name: rows.origins[name] for name in ("subject", "visit", "date") if name in rows.origins}
    if roles.day and "date" not in stated:
        stated["day"] = roles.day
    unused = {name: "" for name in ("visit", "day", "date") if name in cells and name not in stated}
    named = {role: column for role, column in {**stated, **unused}.items() if role != column}
    if "date" in stated:
        named.pop("day", None)
    if not named:
        return []
    return [f"columns: {{{', '.join(f'{role}: {quoted(column)}' for role, column in named.items())}}}"]


def _scan_lines(sequences: list[str], rows: ImageRows, slices: str) -> list[str]:
    settings = f"sequences: [{', '.join(map(quoted, sequences))}], in_plane_size: 128, bias: none, smoothing: none"
    if slices:
        settings += f", slice_index: {quoted(slices)}, pixel_mm: 1, slice_mm: 1"
    if any(len(present) < len(sequences) for present in rows.by_case(row.sequence for row in rows.rows).values()):
        settings += ", missing: drop"
    if rows.origins.get("sequence") and not rows.changed:
        settings += f", column: {quoted(rows.origins['sequence'])}"
    return [
        "# Images are slices of scans. CHECK the distances in millimetres."
        if slices
        else "# Scans are cut into slices. For MRI, `bias: n4` corrects the field of the coils and takes longer.",
        f"volumes: {{{settings}}}",
    ]


def _direct_root(rows: ImageRows, cells: Mapping[str, list[str]], files: ImageFiles, table: Path) -> Path | None:
    """The folder from which the paths of the table lead to the files as they are written; None if there is none."""
    if len(rows.files) != 1:
        return None
    written = [cells[rows.files[0].name][row.source].strip().replace("\\", "/") for row in rows.rows]
    actual = [os.path.abspath(files.folder / row.path) for row in rows.rows]
    start, home = files.folder.resolve(), table.parent.resolve()
    for root in dict.fromkeys([home, start, *start.parents[:3]]):
        if all(os.path.abspath(root / text) == path for text, path in zip(written, actual, strict=True)):
            return root
    return None


def _add_modality(study: NewStudy, files: ImageFiles, rows: ImageRows, *, scans: bool) -> None:
    """Read the planned study back: settings that its images need, such as tiles of slides, and what is refused."""
    with tempfile.TemporaryDirectory() as temporary:
        # the folder of the study may not exist yet, and its relative paths start there
        for name, content in study.files.items():
            Path(temporary, name).write_bytes(content)
        file = Path(temporary, STUDY)
        stated = mapping(study.text, STUDY)
        of_folder = [
            key for key in ("root", "cohort") if key in stated and not (key == "cohort" and TABLE in study.files)
        ]
        paths = {key: str((study.folder / str(stated[key])).resolve()) for key in of_folder}
        if TABLE in study.files:
            paths.setdefault("root", str(study.folder.resolve()))
        settings = read_study(file, **paths)
        if not scans:
            start = modality_of(settings).start([files.folder / row.path for row in rows.rows if row.path], settings)
            if start.lines:
                study.files[STUDY] += _wrapped(start.lines).encode("utf-8")
                study.understood += start.notes
                file.write_bytes(study.files[STUDY])
                settings = read_study(file, **paths)
        try:
            for sentence in untested_columns(settings, read_cohort(settings)):
                study.files[STUDY] += _wrapped([f"# {sentence}"]).encode("utf-8")
                study.doubts.append(sentence)
        except CasewiseError as error:
            study.doubts.append(
                "`casewise validate` will refuse this table until it is corrected: "
                + str(error).replace(temporary + os.sep, "").partition(": ")[2]
            )


def _wrapped(lines: list[str]) -> str:
    """The lines, with comments broken to fit 80 columns."""
    if not lines:
        return ""
    result: list[str] = []
    for line in lines:
        if line.startswith("#"):
            indent = "#   " if line.startswith("# - ") else "# "
            result += textwrap.wrap(
                line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        elif "  # " in line and len(line) > _WIDTH:
            setting, _, comment = line.rpartition("  # ")
            result += [f"# {comment}", setting]
        else:
            result.append(line)
    return "\n".join(result) + "\n"


def _run_name(text: str) -> str:
    return text.strip() if text.strip(". ") else "study"
