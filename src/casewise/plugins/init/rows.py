"""The rows of a new study: one for each image, with what the table or the file names state about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from casewise.cohort.checks import STORED
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, nearest
from casewise.plugins.init.columns import Column, Roles, columns_of_names, names_people
from casewise.plugins.init.image_files import ImageFiles, stem_of
from casewise.plugins.init.matching import (
    FileColumn,
    by_names_of_subjects,
    file_columns,
    in_other_folders,
    mask_files,
    unmatched_text,
)
from casewise.plugins.init.new_study import films_state, table_bytes
from casewise.plugins.init.patterns import FIELDS, Pattern, infer_pattern, read_all
from casewise.plugins.init.target import TargetPlan

T = TypeVar("T")
FOUND = "image_found"
STANDARD = (*STORED, "date", FOUND)


@dataclass(frozen=True)
class ImageRow:
    """One image: its path ('' if it is missing), and its row of the table (from 0; -1 without a table)."""

    source: int
    path: str
    subject: str = ""
    visit: str = ""
    date: str = ""
    sequence: str = ""
    split: str = ""
    label: str = ""
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ImageRows:
    """The rows, where their parts come from, and sentences on them.

    Attributes:
        origins: the column of the table, or `file names`, that a standard column comes from.
        subjects_known: every image of a person has the same subject.
        files: the columns of the table that name images.
        notes: sentences on how the table was read.
        stated_fields: the fields of a pattern that the user states.
    """

    rows: list[ImageRow]
    origins: dict[str, str] = field(default_factory=dict)
    subjects_known: bool = True
    files: list[FileColumn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    changed: bool = False
    stated_fields: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[ImageRow]:
        return [row for row in self.rows if not row.path]

    def has(self, name: str) -> bool:
        return any(getattr(row, name) for row in self.rows)

    def by_case(self, values: Iterable[T]) -> dict[tuple[str, str], set[T]]:
        """The different values of each subject and visit; `values` has one for each row."""
        cases: dict[tuple[str, str], set[T]] = defaultdict(set)
        for row, value in zip(self.rows, values, strict=True):
            cases[row.subject, row.visit].add(value)
        return cases

    def set(self, **values: Sequence[str]) -> None:
        """Set fields of all rows, row by row."""
        for name, column in values.items():
            self.rows = [
                replace(row, **{name: value})  # type: ignore[arg-type]
                for row, value in zip(self.rows, column, strict=True)
            ]


def rows_of_table(
    cells: Mapping[str, list[str]], images: ImageFiles, numbers: Sequence[int]
) -> tuple[ImageRows, list[str]]:
    """The images of each row of a table, and the columns that name them: as files, or by names of folders and words.

    Raises:
        CasewiseError: no column names the images, or cells may name several of them.
    """
    files = file_columns(cells, images, numbers)
    count = len(numbers)
    if files:
        views = {column.name: {"view": column.name} if len(files) > 1 else {} for column in files}
        rows = [
            ImageRow(i, column.paths[i], others=views[column.name])
            for i in range(count)
            for column in files
            if column.paths[i]
        ]
        present = {row.source for row in rows}
        rows += [ImageRow(i, "") for i in range(count) if i not in present]
        rows.sort(key=lambda row: row.source)
        result = ImageRows(rows, files=files)
        names = " and ".join(repr(column.name) for column in files)
        result.understood.append(f"Images: the column{'s' * (len(files) > 1)} {names} of the table.")
        lacking = [cells[files[0].name][i] for i in range(count) if i not in present]
        if rivals := files[0].rivals:
            result.doubts.append(
                f"WHICH COLUMN NAMES THE {images.noun.upper()}S? {files[0].name!r} was taken; {names_text(rivals, 3)} "
                f"would give the rows other {images.noun}s. Write the names with their endings into the right one."
            )
        if in_others := [pair for column in files for pair in in_other_folders(column, cells[column.name])]:
            result.doubts.append(
                f"CELLS THAT NAME ANOTHER FOLDER than that of their {images.noun}: {len(in_others):,}, such as "
                f"{in_others[0][0][:80]} for {in_others[0][1]}. Only the names of the files agree: check that they are "
                f"the same {images.noun}s."
            )
    else:
        unique = [name for name, values in cells.items() if _identifies(name, values)]
        columns, paths_of_row = by_names_of_subjects(cells, images, unique)
        if not columns:
            first = next((name for name in unique or cells if not _of_people(name, cells[name])), "")
            shown = names_text([v[:60] for v in dict.fromkeys(cells[first])], 3) if first else ""
            raise CasewiseError(
                f"No column of the table names the images of {images.folder}, neither as files nor as their folders. "
                f"Files are, for example, {names_text(images.paths, 3)}"
                f"{f'; cells of {first!r} are, for example, {shown}' if first else ''}. Add a column with the file "
                "names, or name another folder with --images."
            )
        rows = [ImageRow(i, path) for i in range(count) for path in paths_of_row.get(i, [""])]
        result = ImageRows(rows, changed=True)
        result.understood.append(
            f"Images: no column names files; {' and '.join(map(repr, columns))} occur in the names of folders or files."
        )
        name = next((name for name in columns if not _of_people(name, cells[name])), "")
        lacking = [cells[name][i] if name else f"row {numbers[i]}" for i in range(count) if i not in paths_of_row]
    used = Counter(row.path for row in result.rows if row.path)
    masks = mask_files(cells, images)
    unused = [path for path in images.paths if path not in used and path not in masks]
    matched = len({row.source for row in result.rows if row.path})
    result.understood.append(
        f"Rows with an image: {matched:,} of {count:,}. Used {images.noun}s of the folder: {len(used):,} of "
        f"{len(images.paths):,}."
    )
    if lacking:
        result.changed = True
        unused_names = [path.rpartition("/")[2] for path in unused]
        result.doubts.append(
            f"Rows without {images.noun} in {images.folder.name}: {len(lacking):,} ({unmatched_text(lacking)})."
            f"{nearest(_file_name(lacking[0]), unused_names)} They "
            f"are kept in cohort.csv with `{FOUND}: no`; the study leaves them out and counts them."
        )
    if unused:
        result.doubts.append(
            f"{images.noun.capitalize()}s in no row of the table, which are not used: {len(unused):,} "
            f"({names_text(unused, 3)})."
        )
    if repeated := [path for path, times in used.items() if times > 1]:
        result.doubts.append(
            f"{images.noun.capitalize()}s named by several rows: {len(repeated):,}, such as {repeated[0]}. `casewise "
            "validate` refuses that: keep one row for each."
        )
    return result, [column.name for column in files]


def _file_name(cell: str) -> str:
    return cell.strip().replace("\\", "/").rpartition("/")[2]


def _identifies(name: str, values: Sequence[str]) -> bool:
    column = Column(name, [value.strip() for value in values])
    return column.filled > 0.9 and len(column.counts) > 3 and column.exactly(r".*(date|datum|age|score).*") is False


def _of_people(name: str, values: Sequence[str]) -> bool:
    return names_people(Column(name, [value.strip() for value in values]))


def rows_of_names(images: ImageFiles, stated: Pattern | None) -> ImageRows:
    """The images of a folder with what their names state.

    Raises:
        CasewiseError: no name matches the stated pattern, or the names contain no classes.
    """
    pattern = stated or infer_pattern(images.paths)
    values, rest = read_all(pattern, images.paths)
    if not values:
        raise CasewiseError(
            f"--pattern {pattern.text!r} matches none of the {len(images.paths):,} {images.noun}s below "
            f"{images.folder}, such as {names_text(images.paths, 3)}."
        )
    if "label" not in pattern.fields:
        raise CasewiseError(
            f"The names of the {images.noun}s below {images.folder} contain no classes: they were read as "
            f"{pattern.text}, for example {names_text(images.paths, 3)}. Name the table of labels "
            "with --table, or say where the class stands with --pattern, such as '{label}/{subject}_{visit}.jpg'."
        )
    standard = ("label", "subject", "visit", "date", "sequence", "split")
    rows = [
        ImageRow(
            -1,
            path,
            **{name: stated_values[name] for name in standard if name in stated_values},  # type: ignore[arg-type]
            others={name: text for name, text in stated_values.items() if name not in standard},
        )
        for path, stated_values in values.items()
    ]
    result = ImageRows(rows, doubts=list(pattern.doubts), changed=True)
    result.origins = dict.fromkeys(pattern.fields, "file names")
    result.stated_fields = pattern.fields if stated else []
    stated_text = "stated" if stated else "inferred"
    result.understood.append(f"Pattern ({stated_text}): {pattern.text}")
    result.understood += examples(values)
    if rest:
        result.doubts.append(
            f"{images.noun.capitalize()}s that do not match the pattern and are not used: {len(rest):,} of "
            f"{len(images.paths):,} ({names_text(rest, 3)})."
        )
    return result


def examples(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The first, the middle and the last path, with what they state."""
    paths = list(values)
    shown = dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]])
    return [f"  {path}: {', '.join(f'{k} {v}' for k, v in values[path].items()) or 'nothing'}" for path in shown]


def fill_from_table(rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, *, scans: bool) -> None:
    """Subject, visit, date, sequence and split of the rows, from the columns of the table."""
    for name in ("subject", "visit", "split", *(["sequence"] if scans else [])):
        if column := getattr(roles, name):
            rows.set(**{name: [cells[column][row.source].strip() for row in rows.rows]})
            rows.origins[name] = column
    if roles.date:
        rows.set(date=[roles.dates[row.source] for row in rows.rows])
        rows.origins["date"] = roles.date
        rows.changed |= any(date != cells[roles.date][i].strip() for i, date in enumerate(roles.dates))


def resolve_subjects(rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, labels: Sequence[str]) -> None:
    """Subjects from the table, from a column of people's names (as numbers), from the file names, or one an image."""
    if rows.has("subject"):
        return
    rows.changed = True
    if people := roles.naming or columns_of_names(roles.people, cells):
        names = [" ".join(cells[name][row.source].strip().casefold() for name in people).strip() for row in rows.rows]
        # an empty cell is nobody's name, and is left for the person who knows whose it is
        numbers = {"": ""} | {name: f"S{i:04}" for i, name in enumerate(dict.fromkeys(filter(None, names)), 1)}
        rows.set(subject=[numbers[name] for name in names])
        listed = " and ".join(map(repr, people))
        rows.origins["subject"] = f"numbers for the values of {' and '.join(people)}"
        rows.doubts.append(
            f"Subject: {'as stated, ' if roles.naming else 'only '}{listed} tell people apart. Each value became a "
            "number (S0001, …), so that people of the same name are one subject; the values themselves are not in "
            "cohort.csv."
        )
        return
    paths = [row.path for row in rows.rows if row.path]
    if rows.rows[0].source >= 0:
        by_path = {row.path: label for row, label in zip(rows.rows, labels, strict=True)}
        pattern = infer_pattern(paths, labels={path: by_path[path] for path in paths})
        if "subject" in pattern.fields:
            values, _ = read_all(pattern, paths)
            rows.set(subject=[values[row.path]["subject"] if row.path else f"row {row.source}" for row in rows.rows])
            rows.origins["subject"] = "file names"
            rows.understood.append(f"Subjects: from the file names, read as {pattern.text}")
            rows.understood += examples({path: values[path] for path in dict.fromkeys(paths)})
            rows.doubts += pattern.doubts
            if "visit" in pattern.fields and not rows.has("visit"):
                rows.set(visit=[values[row.path]["visit"] if row.path else "none" for row in rows.rows])
                rows.origins["visit"] = "file names"
            return
    rows.subjects_known = False
    rows.set(subject=_own_names(rows))
    others = [f"{{{name}}}" for name in rows.stated_fields if name not in FIELDS]
    reason = "No column and no part of the file names identifies people"
    if rows.stated_fields:
        reason = "The pattern has no {subject}"
        reason += f" (if {' or '.join(others)} identifies people, write {{subject}} for it)" if others else ""
    rows.doubts.insert(
        0,
        f"WARNING: SUBJECTS ARE NOT KNOWN. {reason}, so every image counts as a person of its own (`subjects_known: "
        "false`). Images of one person may be on both sides of a split, and all results may be too optimistic.",
    )


def _own_names(rows: ImageRows) -> list[str]:
    """A subject for each image: the stem of its name, with its folders if names are repeated."""
    stems = [stem_of(row.path).rpartition("/")[2] or f"row {row.source}" for row in rows.rows]
    if len({stem.casefold() for stem in stems}) == len(stems):
        return stems
    return [f"image {number}" for number in range(1, len(stems) + 1)]


def add_film_columns(rows: ImageRows, cells: Mapping[str, list[str]], images: ImageFiles) -> None:
    """What DICOM films state on how they were taken, as further columns that the table does not have."""
    if images.scans:
        return
    stated = films_state([images.folder / row.path if row.path else None for row in rows.rows])
    rows.rows = [
        replace(row, others={**{name: text for name, text in values.items() if name not in cells}, **row.others})
        for row, values in zip(rows.rows, stated, strict=True)
    ]


def cohort_table(
    rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, target: TargetPlan, labels: Sequence[str]
) -> bytes:
    """The table of a new study: standard columns first, then the target, then the other columns unchanged.

    Columns that name people are left out.
    """
    standard = ["path", "subject", *(name for name in ("visit", "date", "sequence", "split") if rows.has(name))]
    image_column = [FOUND] if rows.missing else []
    consumed = {target.column, roles.subject, *roles.people, *(column.name for column in rows.files)}
    consumed |= {rows.origins.get(name, "") for name in ("visit", "date", "split", "sequence")}
    others = {name: _free(name, [*standard, target.heading]) for name in cells if name not in consumed}
    if roles.day and not rows.has("date"):
        others[roles.day] = "day"
    extra = list(dict.fromkeys(name for row in rows.rows for name in row.others))
    heads = [*standard, *image_column, target.heading, *others.values()]
    records = []
    for row, label in zip(rows.rows, labels, strict=True):
        record = [getattr(row, name) for name in standard]
        record += ["yes" if row.path else "no"] if image_column else []
        record += [label, *(cells[name][row.source] for name in others), *(row.others.get(name, "") for name in extra)]
        records.append(record)
    return table_bytes([*heads, *(_free(name, heads) for name in extra)], records)


def _free(name: str, taken: Sequence[str]) -> str:
    return f"table_{name}" if name in STANDARD or name in taken else name
