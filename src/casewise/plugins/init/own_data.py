"""A study of a table and a folder of images as people have them: what they mean, and the shortest study that works."""

from __future__ import annotations

import os
import re
import tempfile
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from casewise.audit.columns import further_columns
from casewise.audit.metadata import INTERNAL, STANDARD, columns_in_use, is_usual, probed_columns
from casewise.cohort.checks import FOUND, number
from casewise.cohort.clinical_words import BODY, PEOPLE
from casewise.cohort.cohort import Cohort, read_cohort
from casewise.cohort.companions import masks_by_image
from casewise.cohort.folder_layout import Pattern, stated_pattern
from casewise.cohort.groups import MOST_CATEGORIES
from casewise.cohort.missing_codes import code_doubts
from casewise.cohort.table import Problems, names_text
from casewise.cohort.table_formats import missing_words
from casewise.errors import CasewiseError, counted
from casewise.modalities.registry import modality_of
from casewise.names import one_form, stored_path
from casewise.plugins.init.columns import Column, Roles, point_number, understand_columns
from casewise.plugins.init.doubts import doubt_beginnings, doubt_counts, doubt_other_names, order_doubts
from casewise.plugins.init.image_files import (
    FileIndex,
    ImageFiles,
    are_grey,
    find_images,
    mask_files,
    skipped_text,
    stem_of,
)
from casewise.plugins.init.new_study import (
    STUDY,
    TABLE,
    NewStudy,
    applying,
    external_lines,
    quoted,
    relative_path,
    synthetic_lines,
)
from casewise.plugins.init.row_per_case import check_numbered
from casewise.plugins.init.rows import (
    GUESS,
    ImageRows,
    add_film_columns,
    check_names,
    cohort_table,
    fill_from_table,
    guess_people,
    resolve_sequences,
    resolve_subjects,
    resolve_visits,
    rows_of_names,
    rows_of_table,
)
from casewise.plugins.init.tables import read_tables, stated_sheets
from casewise.plugins.init.target import (
    TargetPlan,
    as_likely,
    likely_targets,
    other_outcomes,
    stated_column,
    understand_target,
)
from casewise.plugins.init.target_cells import check_numbers, doubtful_codes
from casewise.splits.file_numbers import are_numbered
from casewise.study.loading import read_study
from casewise.study.schema import Study
from casewise.study.weight_files import FirstWeights, environment_folder
from casewise.study.yaml_text import mapping

_WIDTH = 79
MASK_COLUMN = "mask"
# With a table whose rows are joined to paths, one is the column and the other where it stands in them.
_BOTH_SAY_WHO = "--subject and --pattern both say who is on an image. State one."


def plan_study(
    *,
    table: Path | Sequence[Path] | None,
    images: Path | None,
    sheet: str | Sequence[str] = "",
    target: str = "",
    subject: str = "",
    pattern: str = "",
    folder: Path,
) -> NewStudy:
    """Understand a table (or several, which are joined), a folder of images or both, and plan the study.

    Nothing is written.

    Raises:
        CasewiseError: the table or the images cannot be read or do not belong together, or there is nothing to predict.
    """
    nothing = "Name a table with --table, a folder of images with --images, or both; or name a preset."
    target, subject, pattern = map(one_form, (target, subject, pattern))
    images = images and stored_path(images)
    stated = stated_pattern(pattern) if pattern and ("{" in pattern or not table) else None
    fields = stated.fields if stated else [] if pattern else ["subject"]
    guess, subject = subject == GUESS, "" if subject == GUESS else subject
    of_names = "names a column of the table; without --table,"
    refused = {
        nothing: not (table or images),
        "--pattern with --table states the {subject} in file names, and no {label}, which is a column: such as "
        "'*/{subject}_*.jpg'. Write {subject} also where a column of another name has the people, and that name after "
        "--subject. If no name states who is on an image, leave --pattern out.": (
            table and ("label" in fields or "subject" not in fields)
        ),
        _BOTH_SAY_WHO: subject and pattern and not table,
        f"--target {of_names} the class is {{label}} in --pattern.": not table and target,
        f"--subject {of_names} the subject is {{subject}} in --pattern, or `guess` guesses it.": not table and subject,
        f"--subject and --target both name the column {target[:80]!r}. State two columns.": subject == target != "",
        "--sheet names a sheet of the workbook that --table names. State both.": not table and sheet,
    }
    for message, is_so in refused.items():
        if is_so:
            raise CasewiseError(message)
    if not table:
        files = find_images(images or Path())
        return _planned(OwnData(files, rows_of_names(files, stated), guess=guess), folder)
    problems = Problems()
    tables, sheets = stated_sheets(table, sheet)
    try:
        data = replace(_read(tables, sheets, target, subject, images, problems, stated), guess=guess)
        if data.rows.files and subject and pattern:
            raise CasewiseError(_BOTH_SAY_WHO)
        return _planned(data, folder, stated if data.rows.files else None)
    except CasewiseError as error:
        if not problems.hint:
            raise
        raise CasewiseError(
            f"{error}\n  {problems.hint} Name another with --sheet, or --table FILE.xlsx:SHEET."
        ) from None


@dataclass(frozen=True)
class OwnData:
    """What a study is made from: the images, the table with its cells by column, and what its columns mean.

    `other_targets` are columns that could be the target as well. `guess`: persons are guessed from the pictures.
    `numbers`: the row numbers of the table.
    """

    files: ImageFiles
    rows: ImageRows
    table: Path | None = None
    sheet: str = ""
    cells: Mapping[str, list[str]] = field(default_factory=dict)
    roles: Roles = field(default_factory=Roles)
    target: str = "label"
    other_targets: list[str] = field(default_factory=list)
    guess: bool = False
    numbers: Sequence[int] = ()


def _read(
    tables: Sequence[Path],
    sheets: Sequence[str],
    target: str,
    subject: str,
    images: Path | None,
    problems: Problems,
    stated: Pattern | None,
) -> OwnData:
    """What the tables state, and the images of their rows."""
    source = read_tables(tables, problems, sheets=sheets, subject=subject)
    table, files = source.path, find_images(images or tables[0].parent)
    _check_headings(table, source.cells, files)
    rows, source = rows_of_table(source, files, stated=stated, subject=subject, target=target)
    cells, numbers = source.cells, source.numbers
    if target in source.became and target not in cells:
        raise CasewiseError(
            f"--target {target[:80]!r}: this column and those like it became rows, with their values in the column "
            f"{source.became[target]!r}. Repeat this with --target {source.became[target]!r}."
        )
    column, person = stated_column("--target", target, cells), stated_column("--subject", subject, cells)
    rows.understood += source.notes
    rows.notes = source.notes
    rows.doubts += [*source.doubts, *problems.doubts]
    file_names = [each.name for each in rows.files]
    if person and person in file_names:
        raise CasewiseError(
            f"--subject {person[:80]!r}: this column names the images. State the column that identifies people, or "
            "leave the option out."
        )
    roles = understand_columns(cells, target=column, subject=person, files=file_names, numbers=numbers)
    candidates = (
        [column] if column else likely_targets(cells, roles, [*file_names, *rows.keys], set(source.became.values()))
    )
    check_numbers(candidates[0], cells[candidates[0]], numbers)
    if not column and not file_names:
        by_row = pd.Series(rows.paths).groupby(rows.sources).agg(list)
        check_numbered(source, candidates[0], by_row)
    fill_from_table(rows, cells, roles, scans=files.scans)
    rows.doubts += doubtful_codes(candidates[0], cells[candidates[0]], numbers)
    facts = [name for name in cells if name not in {candidates[0], *roles.used, *file_names}]
    rows.doubts += code_doubts(
        pd.DataFrame(cells, index=numbers, dtype="str"),
        facts,
        lambda _: "If so, empty the cells, and repeat `casewise init`.",
    )
    return OwnData(files, rows, table, sheets[0], cells, roles, candidates[0], candidates[1:], numbers=numbers)


def _check_headings(table: Path, cells: Mapping[str, list[str]], files: ImageFiles) -> None:
    """Refuse a table without headings: its first row names an image, or has the values of the other rows.

    Raises:
        CasewiseError: it has none.
    """
    index = FileIndex(files.paths)
    image = next((name for name in cells if stem_of(name) != name and index.find(name)), "")
    repeated = [name for name, values in cells.items() if name in values and number(name) is None]
    others = [name for name in cells if name not in repeated and number(name) is None]
    if image or (repeated and not others):
        reason = f"{image[:80]!r} is an image" if image else f"{repeated[0][:80]!r} occurs again below"
        raise CasewiseError(
            f"{table} has no headings: its first row ({names_text(list(cells), 5)}) looks like data, because {reason}. "
            "Add a first row that names the columns, such as `image`, `patient` and `grade`."
        )


def _planned(data: OwnData, folder: Path, stated: Pattern | None = None) -> NewStudy:
    files, rows, cells, roles = data.files, data.rows, data.cells, data.roles
    labels = rows.of(cells[data.target]) if cells else rows["label"]
    resolve_subjects(rows, cells, roles, labels, stated)
    guess_people(rows, files, use=data.guess)
    sequences = resolve_sequences(rows) if files.scans else []
    days = rows.of(cells[roles.day]) if roles.day else ()
    stated_visits = rows.has("visit")
    resolve_visits(rows, labels, single=lambda: not (files.scans or _are_slides(data)), day=roles.day, days=days)
    if stated_visits and not (roles.day or rows.has("day") or rows.has("date")):
        rows.doubts += order_doubts(*([rows[name][i] for i in rows.present] for name in ("subject", "visit")))
    present = rows.present
    rows.doubts += roles.doubts
    altered = check_names(rows, roles.subject, data.numbers)
    doubt_counts(rows, roles.subject)
    doubt_beginnings(rows, roles.sources)
    doubt_other_names(rows, cells, roles.subject)
    try:
        plan = understand_target(
            data.target,
            [labels[i] for i in present],
            [rows["subject"][i] for i in present],
            data.other_targets,
            sources=[rows.sources[i] for i in present] if rows.sources else (),
            numbers=data.numbers,
        )
    except CasewiseError as error:
        # it may be refused for subjects that are none
        doubts = [doubt for doubt in rows.doubts if doubt.startswith("Subject: ")]
        raise CasewiseError("\n  ".join([str(error), *altered, *doubts])) from None
    rows.doubts[:0] = plan.doubts
    if roles.people:
        rows.changed = True
        rows.doubts += _named_files(data)
        rows.doubts.append(
            f"{', '.join(map(repr, roles.people))} look like names or dates of birth of people and are not in {TABLE}."
        )
    grey, damaged = are_grey(files)
    if files.unclear:
        rows.doubts.append(
            f"Images that may be masks or other companions of images, by their names or because a folder has only "
            f"pictures of two values: {len(files.unclear):,} ({names_text(files.unclear, 3)}). They are used. Remove "
            "them if they are masks."
        )
    if damaged:
        # file names may contain names of people
        shown = counted(len(damaged), "file") if roles.people else names_text(damaged, 5)
        rows.doubts.append(f"Damaged: {shown} cannot be read as images. Replace or remove such files.")
    fewest = plan.rarest or rows.subjects
    folds = max(2, min(_FOLDS, fewest))
    if not rows.has("split") and folds < _FOLDS:
        least = "the rarest class has" if plan.rarest else "there are"
        rows.doubts.append(
            f"Split: {folds} folds instead of {_FOLDS}, because {least} {counted(fewest, 'subject')}. Networks of "
            "fewer folds learn from fewer cases."
        )
    outcomes, unclear = other_outcomes(data.target, cells, roles, [*(column.name for column in rows.files), *rows.keys])
    rows.doubts += applying(
        {
            f"Other results: {names_text(list(map(repr, outcomes)), 20)} are listed in `audit.outcomes`, so that they "
            "are not tested as shortcuts. If one states how images were taken, delete it there.": outcomes,
            f"Not listed in `audit.outcomes`: {names_text(list(map(repr, unclear)), 12)}. The audit tests whether they "
            "can be shortcuts. If one is another result of the cases, add it there.": unclear,
        }
    )
    slices = [] if files.scans else _slice_lines(data)
    # the study reads the table as it is if it can
    root = _direct_root(data, data.table) if data.table and not rows.changed and plan.cells is None else None
    lines = _head(data, plan, root, folder) + _source_lines(roles.sources, outcomes, rows, cells)
    lines += slices
    if not mask_files(cells, files):
        lines += _mask_lines(rows, files, in_table=root is None)
    lines += _covariate_lines({n: c for n, c in cells.items() if n not in {data.target, *roles.used, *outcomes}}, rows)
    lost = sum(not labels[i] or labels[i] in plan.where_not for i in present)
    left_out = f"{lost:,} of {len(present):,} images have no value of {plan.column} and are not used." if lost else ""
    study = NewStudy(folder, left_out=left_out, understood=list(rows.understood), doubts=list(rows.doubts))
    if root is None:
        add_film_columns(rows, cells, files)
        if plan.cells is not None:
            labels = list(map(point_number, labels))
        study.files[TABLE] = cohort_table(rows, cells, roles, {plan.column: (plan.heading, labels)})
        lines += external_lines(folder, files.folder) if data.table else []
        if data.table and _original_column_lines(data):
            study.understood.append(
                f"New tables in the form of {data.table.name} are predicted with --root FOLDER, the folder of their "
                "images."
            )
    if files.scans:
        lines += _scan_lines(sequences, rows)
    weights = _available_weights()
    numbered = not rows.subjects_known and are_numbered([rows.paths[i] for i in present])
    test = "20%" if rows.subjects >= _MANY_SUBJECTS else "0"
    by, comment = ("by: number, ", _NEIGHBOURS) if numbered else ("", "by subject")
    split = "" if rows.has("split") else f"split: {{{by}test: {test}, folds: {folds}}}  # {comment}"
    lines += ["", *default_recipe(weights, split, scans=files.scans, grey=grey)]
    study.files[STUDY] = _wrapped(lines).encode("utf-8")
    _read_back(study, data)
    unknown = f"{rows.subjects:,} guessed subjects" if data.guess else "unknown subjects"
    subjects = counted(rows.subjects, "subject") if rows.subjects_known else unknown
    study.understood.insert(0, f"{counted(len(present), files.noun)} of {subjects}{skipped_text(files)}.")
    if origins := [f"{name} from {_source(origin)}" for name, origin in rows.origins.items()]:
        study.understood.append(f"Read as: {', '.join(origins)}.")
    study.target = data.target
    study.as_likely = as_likely(data.target, data.other_targets, cells)
    study.understood += [f"Target: {plan.column}, {{{plan.setting}}}.", _weights_text(weights)]
    return study


def _are_slides(data: OwnData) -> bool:
    """Whether the images are of a modality that cuts them, so that their labels are of cases."""
    draft = Study.model_validate({"name": "draft", "cohort": TABLE, "targets": {"label": {"range": "0..1"}}})
    images = [data.files.folder / path for path in data.rows.paths if path]
    return bool(modality_of(draft).start(images, draft).lines)


def _named_files(data: OwnData) -> list[str]:
    """A doubt if names of people are part of paths, which stand in the table, the log and the report."""
    long_words = r"[^\W\d_]{4,}"
    values = " ".join(value for name in data.roles.people for value in data.cells[name]).casefold()
    people = set(re.findall(long_words, values))
    count = sum(bool(people & set(re.findall(long_words, path.casefold()))) for path in data.rows.paths)
    text = (
        f"FILE NAMES CONTAIN NAMES OF PEOPLE ({count:,} of them). They would be in {TABLE} and in the report: "
        "rename the files first."
    )
    return [text] if count else []


def _source(origin: str) -> str:
    return origin if " " in origin and origin.startswith(("the ", "file ", "numbers ")) else repr(origin)


def _head(data: OwnData, plan: TargetPlan, root: Path | None, folder: Path) -> list[str]:
    """The lines of the study file on cohort, columns and target. With `root` the study reads the table as it is."""
    rows, table = data.rows, data.table if root else None
    lines = ["# Written by `casewise init`: check it with `casewise validate`, then start `casewise run`."]
    # a table that is written again would no longer say how the original was read
    lines += [f"# - {note}" for note in ([] if table else rows.notes)]
    lines += [f"# - {doubt}" for doubt in rows.doubts]
    name = folder.resolve().name.strip()
    lines.append(f"name: {quoted(name if name.strip('. ') else 'study')}")
    lines.append(f"cohort: {quoted(relative_path(table, folder) if table else TABLE)}")
    start, home = root or data.files.folder, table.parent if table else folder
    if start.resolve() != home.resolve():
        lines.append(f"root: {quoted(relative_path(start, folder))}  # paths in the table start here")
    lines += synthetic_lines(data.cells)
    lines += _column_lines(data) if table else _original_column_lines(data)
    if not rows.subjects_known:
        lines.append("subjects_known: false  # fill in `subject` and delete this line if you know who is on each image")
    if data.guess:
        lines.append("subjects_guessed: true  # similar pictures with neighbouring file numbers count as one person")
    heading = plan.column if table else plan.heading
    if not all(rows.paths):
        lines.append(f'where: {{{FOUND}: "yes"}}  # rows without an image are left out, and counted')
    if plan.where_not:
        lines.append(f"where_not: {{{quoted(heading)}: [{', '.join(map(quoted, plan.where_not))}]}}  # no value")
    stated = f", column: {quoted(heading)}" if heading != plan.name else ""
    comment = f"  # {plan.comment}" if plan.comment else ""
    lines.append(f"targets: {{{quoted(plan.name)}: {{{plan.setting}{stated}}}}}{comment}")
    if rows.by_image:
        lines.append("panels: {by: image}")
    if rows.has("split"):
        lines.append(f"split: {{column: {quoted(data.roles.split if table else 'split')}}}  # the given split")
    return [*lines, f"sheet: {quoted(data.sheet)}"] if table and data.sheet else lines


def _column_lines(data: OwnData) -> list[str]:
    """The key `columns` where columns of the table have other names, or a name with another meaning."""
    origins = data.rows.origins
    stated = {"path": data.rows.files[0].name}
    stated |= {name: origins[name] for name in ("subject", "visit", "date") if name in origins}
    if data.roles.day and data.rows.day_used and "date" not in stated:
        stated["day"] = data.roles.day
    # a column that is named like a role without having it
    stated |= {name: "" for name in ("visit", "day", "date") if name in data.cells and name not in stated}
    if "date" in origins:
        stated.pop("day", None)
    named = [f"{role}: {quoted(column)}" for role, column in stated.items() if role != column]
    return [f"columns: {{{', '.join(named)}}}"] if named else []


def _original_column_lines(data: OwnData) -> list[str]:
    """The key `original_columns`: which columns of the user's table a table of new cases may have."""
    rows, origins = data.rows, data.rows.origins
    roles = ("subject", "visit", "sequence", *(["date"] if origins.get("visit") != origins.get("date") else []))
    named = {role: origins[role] for role in roles if origins.get(role) in data.cells}
    # what paths state, columns of a new table do not
    lacking = {"subject", *(["visit"] if rows.has("visit") else [])} - named.keys()
    of_ranges = len(rows.files) > 1 and "view" not in rows.others
    if not data.table or not rows.files or of_ranges or data.roles.people or lacking:
        return []
    # one column of a role has files; of several, each is found again
    named = ({"path": rows.files[0].name} if len(rows.files) == 1 else {}) | named
    texts = [f"{role}: {quoted(column)}" for role, column in named.items() if role != column]
    return [f"original_columns: {{{', '.join(texts)}}}  # of {data.table.name}, for new tables"] if texts else []


def _scan_lines(sequences: list[str], rows: ImageRows) -> list[str]:
    settings = f"sequences: [{', '.join(map(quoted, sequences))}], in_plane_size: 128, bias: none, smoothing: none"
    if any(len(present) < len(sequences) for present in rows.by_case(rows["sequence"]).values()):
        settings += ", missing: drop"
    if rows.origins.get("sequence") and not rows.changed:
        settings += f", column: {quoted(rows.origins['sequence'])}"
    comment = "# Scans are cut into slices. For MRI, `bias: n4` corrects the field of the coils and takes longer."
    return [comment, f"volumes: {{{settings}}}"]


def _slice_lines(data: OwnData) -> list[str]:
    """A commented proposal to read images as slices of scans, if a column numbers the images of each visit."""
    rows = data.rows
    images = Counter(zip(rows["subject"], rows["visit"], strict=True))
    for name, cells in data.cells.items():
        column = Column(name, cells)
        if name in data.roles.used or not column.exactly(_SLICE) or not column.numbers or not column.are_whole:
            continue
        numbers = rows.by_case(rows.of(cells))
        if max(images.values()) < _FEWEST_SLICES or any(len(numbers[case]) < count for case, count in images.items()):
            continue
        rows.doubts.append(
            f"Images: {name!r} numbers the images of each {'visit' if rows.has('visit') else 'subject'}, so that they "
            "may be slices of scans. They are read as separate images; a comment in the study says how to read scans."
        )
        return [
            f"# If the images are slices of scans and {name} rises from the feet to the head: add a column `sequence` "
            "with `scan` in each row, replace `images` and `panels` by the next line, and state `pixel_mm` and "
            "`slice_mm` in it.",
            f"# volumes: {{sequences: [scan], slice_index: {quoted(name)}, bias: none}}",
        ]
    return []


def _direct_root(data: OwnData, table: Path) -> Path | None:
    """The folder from which the paths of the table lead to the files as they are written; None if there is none."""
    rows, start = data.rows, data.files.folder.resolve()
    if len(rows.files) != 1:
        return None
    written = [cell.replace("\\", "/") for cell in rows.of(data.cells[rows.files[0].name])]
    actual = [os.path.abspath(data.files.folder / path) for path in rows.paths]
    roots = dict.fromkeys([table.parent.resolve(), start, *start.parents[:3]])
    # `validate` reads a name in any form of its letters
    same = [one_form(path) for path in actual]
    return next((root for root in roots if [one_form(os.path.abspath(root / t)) for t in written] == same), None)


def _read_back(study: NewStudy, data: OwnData) -> None:
    """Read the planned study back: settings that its images need, such as tiles of slides, and what is refused."""
    with tempfile.TemporaryDirectory() as temporary:
        # the folder of the study may not exist yet, and its relative paths start there
        for name, content in study.files.items():
            Path(temporary, name).write_bytes(content)
        file, stated = Path(temporary, STUDY), mapping(study.text, STUDY)
        paths = {key: str((study.folder / str(stated[key])).resolve()) for key in ("root", "cohort") if key in stated}
        if TABLE in study.files:
            paths = {"root": paths.get("root", str(study.folder.resolve()))}
        settings = read_study(file, **paths)
        if not data.files.scans:
            images = [data.files.folder / path for path in data.rows.paths if path]
            start = modality_of(settings).start(images, settings)
            study.files[STUDY] += _wrapped(start.lines).encode("utf-8")
            study.understood += start.notes if start.lines else []
            file.write_bytes(study.files[STUDY])
            settings = read_study(file, **paths)
        try:
            for sentence in _untested_columns(settings, read_cohort(settings)):
                study.files[STUDY] += _wrapped([f"# {sentence}"]).encode("utf-8")
                study.doubts.append(sentence)
        except CasewiseError as error:
            refused = f"{TABLE}, whose rows these are," if TABLE in study.files else "this table"
            study.doubts.append(
                f"`casewise validate` will refuse {refused} until it is corrected: "
                + str(error).replace(temporary + os.sep, "").partition(": ")[2]
            )


def _wrapped(lines: list[str]) -> str:
    """The lines, with comments broken to fit 80 columns."""
    result: list[str] = []
    for line in lines:
        setting, mark, comment = line.rpartition("  # ")
        if line.startswith("#"):
            indent = "#   " if line.startswith("# - ") else "# "
            result += textwrap.wrap(
                line, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        elif mark and len(line) > _WIDTH:
            result += [f"# {comment}", setting]
        else:
            result.append(line)
    return "".join(f"{line}\n" for line in result)


# In order of preference: small enough to be trained on a CPU in minutes.
_SMALL_PRETRAINED = ("mobilenet_v2", "resnet18", "efficientnet_b0", "squeezenet1_1", "shufflenet_v2_x1_0")
PLANNED = "mobilenet_v2"
# From this many subjects on, some of them are kept as the test set.
_MANY_SUBJECTS = 300
_FOLDS = 5
_NEIGHBOURS = "neighbouring file numbers may show one person: runs of them are on one side"


def _available_weights() -> str:
    """The first of the small networks whose pretrained weights are on this computer; '' if there are none."""
    return next((name for name in _SMALL_PRETRAINED if FirstWeights(name).is_present), "")


def _weights_text(weights: str) -> str:
    """What is understood of first weights: which network has them, or where they were looked for."""
    if weights:
        return f"Weights: pretrained ones of {weights} are on this computer."
    folder = environment_folder()
    where = "CASEWISE_WEIGHTS names no folder with them"
    if folder is not None:
        where = f"{folder}, which CASEWISE_WEIGHTS names, {'has none' if folder.is_dir() else 'does not exist'}"
    return (
        f"Weights: NO PRETRAINED WEIGHTS are on this computer ({where}), so the study states `weights: random`. With "
        "pretrained ones results are nearly always better: see the comment in the study."
    )


def default_recipe(weights: str, split: str = "", *, scans: bool = False, grey: bool = False) -> list[str]:
    """The lines of a study file on images, split and weights; `weights` as from `_available_weights`.

    Network and recipe are planned when the study is run.
    """
    # the plan chooses the size of photographs
    images = "size: 96" if scans else "channels: grey" if grey else ""
    lines = [*([f"images: {{{images}}}"] if images else []), *([split] if split else [])]
    lines.append(
        "budget: 30min  # for the whole run, also 2h; network and training are planned to fit: see plan.yaml of the run"
    )
    if not weights:
        lines += [
            "# NO PRETRAINED WEIGHTS are on this computer: a small network starts from random weights. Pretrained ones "
            "nearly always do better: with a network connection, write `weights: pretrained`; or put "
            "mobilenet_v2.safetensors into a folder and name it in CASEWISE_WEIGHTS.",
            "weights: random",
        ]
    elif weights != PLANNED:
        lines += [f"backbones: [{weights}]  # its pretrained weights are on this computer", "recipe: auto"]
    return [*lines, "evaluation: {response: false}  # true: also the change from the first visit"]


def _source_lines(
    sources: Sequence[str], outcomes: Sequence[str], rows: ImageRows, cells: Mapping[str, list[str]]
) -> list[str]:
    """The key `audit` with sources of unusual names and with outcomes, and a split that leaves out one source in turn.

    Only a source that every image and person has exactly one of can be left out.
    """
    unusual = [name for name in sources if not is_usual(name)]
    settings = {"columns": unusual, "outcomes": list(outcomes)}
    stated = ", ".join(f"{key}: [{', '.join(map(quoted, names))}]" for key, names in settings.items() if names)
    comment = "  # outcomes: other results of the cases, which are no shortcuts" if outcomes else ""
    lines = [f"audit: {{{stated}}}{comment}"] if stated else []
    for name in sources:
        values: dict[str, set[str]] = defaultdict(set)
        missing = missing_words(cells[name])
        for position in rows.present:
            cell = cells[name][rows.sources[position]]
            values[rows["subject"][position]].add("" if cell.casefold() in missing else cell)
        named = set().union(*values.values())
        if "" not in named and len(named) > 1 and all(len(of_subject) == 1 for of_subject in values.values()):
            return [
                *lines,
                f"# To test on each {name} with networks trained without it, replace `split` by:",
                f"# split: {{leave_out: {quoted(name)}}}",
                f"# If the models are for another {name} than these, replace `recipe`, if there is one, by:",
                "# recipe: {auto: true, meant_for: other_sources}",
            ]
    return lines


def _mask_lines(rows: ImageRows, files: ImageFiles, *, in_table: bool) -> list[str]:
    """A commented proposal of the masks that lie with the images, and their column where the table is written."""
    masks, several = masks_by_image(files.companions.values())
    used = {path: mask for path, mask in masks.items() if path in set(rows.paths)}
    if not used:
        return []
    if not in_table:
        return [
            f"# There are masks of {counted(len(used), 'image')}, such as {next(iter(used.values()))}: name them in a "
            f"column `{MASK_COLUMN}` of the table. `mask: {MASK_COLUMN}` under images trains a unet on them."
        ]
    rows.others.setdefault(MASK_COLUMN, [used.get(path, "") for path in rows.paths])
    if names := names_text(several, 2):
        rows.doubts.append(
            f"Masks: {counted(len(several), 'image has', 'images have')} several ({names}), so that `{MASK_COLUMN}` is "
            "empty there. Join them in one file each to use them."
        )
    return [
        f"# {TABLE} names masks of {counted(len(used), 'image')} in the column `{MASK_COLUMN}`. If they mark lesions, "
        f"write `lesion: {MASK_COLUMN}` under images to compare saliency maps with them; `mask: {MASK_COLUMN}` trains "
        "a unet on them."
    ]


# Columns that number the slices of a scan, and the fewest slices of one.
_SLICE = r"slices?|(slice|instance|image|frame) ?(order|number|no|nr|num|index|idx|position|pos)|z( index| position)?"
_FEWEST_SLICES = 3
# Columns of a clinical table that often tell a part of what images are said to tell.
_COVARIATE = rf"{'|'.join((*PEOPLE, *BODY))}|body (weight|height)"


def _covariate_lines(cells: Mapping[str, list[str]], rows: ImageRows) -> list[str]:
    """A commented proposal of `covariates`: numbers or few categories of a usual name, one value in each case."""
    names = []
    for name, values in cells.items():
        column = Column(name, values)
        few = column.numbers is not None or len(column.counts) <= MOST_CATEGORIES
        constant = all(len(of_case - {""}) <= 1 for of_case in rows.by_case(rows.of(values)).values())
        if column.named(_COVARIATE) and column.filled > 0.5 and len(column.counts) > 1 and few and constant:
            names.append(quoted(name))
    comment = "# Delete the # of the next line, and a model of these columns alone becomes a baseline for the images:"
    return [comment, f"# covariates: [{', '.join(names)}]"] if names else []


def _untested_columns(study: Study, cohort: Cohort) -> list[str]:
    """A sentence that names the columns of the table that the audit does not test; [] if none."""
    images = cohort.images
    audited = probed_columns(study, images)
    tested = {*audited, *further_columns(study, images, audited)[0]}
    used = {*columns_in_use(study), *study.targets, *study.audit.outcomes, *STANDARD, FOUND, MASK_COLUMN}
    untested = [
        name
        for name in map(str, images.columns)
        if name not in tested and not {name, name.removeprefix("table_")} & used and not name.startswith(INTERNAL)
    ]
    text = (
        f"Columns that the audit does not test: {names_text(untested, 12)}. If one states where or how images were "
        "taken, name it under `audit: {columns: [...]}`."
    )
    return [text] if untested else []
