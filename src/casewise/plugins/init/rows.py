"""The images of a new study, with what the table or the file names state about each of them, such as visits."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from casewise.audit.hashes import in_parallel
from casewise.audit.sentences import fill
from casewise.audit.subjects import FOUND_PAIRS, STRANGERS
from casewise.cohort.altered_names import alterations
from casewise.cohort.checks import FOUND, STORED
from casewise.cohort.clinical_words import (
    AFTER,
    BEFORE,
    PART,
    SITE,
    STRONG_SUBJECT,
    VISIT,
    plain_words,
    region_phrases,
)
from casewise.cohort.companions import ARE_THESE_IMAGES, LEAVE_OUT, companions_text
from casewise.cohort.folder_layout import FIELDS, OF_FILES, Pattern, are_batches, batches_text, find_region
from casewise.cohort.number_columns import clear_decimals
from casewise.cohort.table import iso_day, names_text, natural, rows_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.cohort.targets import plain
from casewise.cohort.visit_order import unordered_visits
from casewise.console import Terminal
from casewise.errors import CasewiseError, ImageError, counted, cut, nearest
from casewise.modalities.store.readers import read_image
from casewise.names import heading_words
from casewise.plugins.init import image_files
from casewise.plugins.init.columns import Column, Roles, columns_of_names, decimal, names_people
from casewise.plugins.init.dated_visits import contradictory_dates, visits_of_dates, with_ordered_dates
from casewise.plugins.init.guessed_subjects import HIGHEST_P, SIDE, guess_subjects, picture_features
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.joining import (
    OF_FILES_ONLY,
    Joined,
    day_of_visit,
    days_of_visits,
    join_images,
    met,
    visits_in_paths,
    words,
)
from casewise.plugins.init.new_study import applying, films_state, table_bytes
from casewise.plugins.init.patterns import are_classes, infer_pattern, is_field, read_all, repeating_part
from casewise.plugins.init.tables import (
    Source,
    by_part,
    by_region,
    by_visit,
    check_several_columns,
    check_subjects,
    key_columns,
    with_sites,
)
from casewise.splits.file_numbers import are_numbered

T = TypeVar("T")
# What `--subject` says instead of a column; without it, more pictures are not compared: these take a minute.
GUESS, MOST_UNASKED = "guess", 5_000
STANDARD = (*STORED, "date", FOUND)
# The share of the images above which one subject is doubted.
MOST_OF_ONE = 0.5
_FIELDS = ("label", "subject", "visit", "date", "sequence", "split")


@dataclass
class ImageRows:
    """The images, where what is stated about them comes from, and sentences on them.

    Attributes:
        sources: the row of the table of each image, from 0; empty without a table.
        paths: its path; '' if it is missing.
        fields: by subject, visit, date, sequence, split or label, what is stated about each image.
        others: further columns of the cohort table.
        origins: the column of the table, `the folder` or `file names` that a field comes from.
        subjects_known: every image of a person has the same subject.
        files: the columns of the table that name images.
        by_image: whether each image is predicted by itself.
        day_used: whether a column of days states the day of each visit.
        notes: sentences on how the table was read.
        stated_fields: the fields of a pattern that the user states.
        keys: the columns by which rows were joined to paths.
    """

    sources: list[int]
    paths: list[str]
    fields: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    subjects_known: bool = True
    files: list[image_files.FileColumn] = field(default_factory=list)
    by_image: bool = False
    day_used: bool = True
    notes: list[str] = field(default_factory=list)
    understood: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    changed: bool = False
    stated_fields: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> list[str]:
        """A field of each image; '' where nothing is stated."""
        return self.fields.get(name) or [""] * len(self.paths)

    def has(self, name: str) -> bool:
        return any(self[name])

    def of(self, column: Sequence[T]) -> list[T]:
        """The values of a column of the table, image by image."""
        return [column[source] for source in self.sources]

    def state(self, name: str, values: list[str], origin: str) -> None:
        self.fields[name], self.origins[name] = values, origin

    @property
    def present(self) -> list[int]:
        """The positions of images that are not missing."""
        return [position for position, path in enumerate(self.paths) if path]

    @property
    def subjects(self) -> int:
        return len({self["subject"][position] for position in self.present} - {""})

    def by_case(self, values: Iterable[T]) -> dict[tuple[str, str], set[T]]:
        """The different values of each subject and visit; `values` has one for each image."""
        cases: dict[tuple[str, str], set[T]] = defaultdict(set)
        for subject, visit, value in zip(self["subject"], self["visit"], values, strict=True):
            cases[subject, visit].add(value)
        return cases


def rows_of_table(
    source: Source,
    images: ImageFiles,
    *,
    regions: Sequence[str] = (),
    stated: Pattern | None = None,
    subject: str = "",
    target: str = "",
) -> tuple[ImageRows, Source]:
    """The images of each row of a table, which columns name as files, or which paths with its subject and visit name.

    Also returns the table, in which columns of regions are rows where images are joined by their names.

    Raises:
        CasewiseError: no column names the images, or cells may name several of them.
    """
    of_subject = source.roles(subject).subject
    files, noun = image_files.file_columns(source.cells, images, source.numbers, of_subject), images.noun
    if files:
        rows, lacking = _named_files(source, files, images)
        moved = [image_files.moved_beginning(column, source.cells[column.name], images.folder) for column in files]
        if any(moved):
            rows.doubts.append(
                f"PATHS OF ANOTHER FOLDER: {next(filter(None, moved))[:80]} of the table is read as {images.folder}. "
                f"Check that these are the same {noun}s."
            )
    else:
        rows, lacking, source = _joined(source, images, regions, stated, subject, target)
    used, masks = set(filter(None, rows.paths)), image_files.mask_files(source.cells, images)
    if listed := [images.companions[path] for path in dict.fromkeys(rows.paths) if path in images.companions]:
        rows.doubts.append(f"{ARE_THESE_IMAGES} {companions_text(listed)}. {LEAVE_OUT}")
    unused = [path for path in images.paths if path not in used and path not in masks]
    rows.understood.append(
        f"Rows with an image: {len({rows.sources[i] for i in rows.present}):,} of {len(source.numbers):,}. Used "
        f"{noun}s of the folder: {len(used):,} of {len(images.paths):,}."
    )
    if lacking:
        rows.changed = True
        shown, similar = lacking, ""
        if files:
            shown = [image_files.file_name(cell[:60]) for cell in lacking]
            # a name with other numbers is a file of another person or visit
            names = [image_files.file_name(path) for path in unused]
            similar = nearest(shown[0], [name for name in names if _numbers(name) == _numbers(shown[0])])
        rows.doubts.append(
            f"Rows without {noun} in {images.folder.resolve().name}: {len(lacking):,} "
            f"({names_text([cell[:60] for cell in shown], 3)}).{similar} They "
            f"are kept in cohort.csv with `{FOUND}: no`; the study leaves them out and counts them."
        )
    if unused:
        rows.doubts.append(
            f"{noun.capitalize()}s in no row of the table, which are not used: {len(unused):,} "
            f"({names_text(unused, 3)})."
        )
    return rows, source


def _numbers(name: str) -> list[int]:
    return list(map(int, re.findall("[0-9]+", image_files.stem_of(name))))


def _named_files(
    source: Source, files: list[image_files.FileColumn], images: ImageFiles
) -> tuple[ImageRows, list[str]]:
    """The images that columns name, and cells that name none."""
    cells, count, noun = source.cells, len(source.numbers), images.noun
    named = [(row, column.paths[row], column.name) for row in range(count) for column in files if column.paths[row]]
    ranges = image_files.images_of_ranges(files, images, source.numbers)
    if ranges:
        named = [(row, path, "") for row, paths in enumerate(ranges) for path in paths if path]
    present = {row for row, *_ in named}
    named = sorted([*named, *((row, "", "") for row in set(range(count)) - present)], key=lambda image: image[0])
    changed = source.changed or bool(ranges)
    rows = ImageRows([image[0] for image in named], [image[1] for image in named], files=files, changed=changed)
    if len(files) > 1 and not ranges:
        rows.others["view"] = [image[2] for image in named]
    names = " and ".join(repr(column.name) for column in files)
    of_ranges = ", which name the first and the last image of each row" * bool(ranges)
    rows.understood.append(f"Images: the column{'s' * (len(files) > 1)} {names} of the table{of_ranges}.")
    if rivals := files[0].rivals:
        rows.doubts.append(
            f"WHICH COLUMN NAMES THE {noun.upper()}S? {files[0].name!r} was taken; {names_text(rivals, 3)} "
            f"would give the rows other {noun}s. Write the names with their endings into the right one."
        )
    if in_others := [pair for column in files for pair in image_files.in_other_folders(column, cells[column.name])]:
        rows.doubts.append(
            f"CELLS THAT NAME ANOTHER FOLDER than the folder of their {noun}: {len(in_others):,}, such as "
            f"{in_others[0][0][:80]} for {in_others[0][1]}. Only the names of the files agree: check that they are "
            f"the same {noun}s."
        )
    return rows, [cells[files[0].name][row] for row in range(count) if row not in present]


def _joined(
    source: Source, images: ImageFiles, regions: Sequence[str], stated: Pattern | None, subject: str, target: str
) -> tuple[ImageRows, list[str], Source]:
    """The images whose paths state the subject of a row, with its visit, region and number; and rows without one.

    Raises:
        CasewiseError: too few do.
    """
    source, joined = _best_join(source, images, regions, stated, subject)
    if not joined.paths:
        raise _no_images(source, images, joined)
    of_paths = key_columns(source, source.roles(subject), regions=regions)
    source = with_sites(source, {role: name for role, name in of_paths.items() if name in joined.columns.values()})
    cells, count = source.cells, len(source.numbers)
    pairs = [(row, path) for row in range(count) for path in joined.paths.get(row, [""])]
    rows = ImageRows([row for row, _ in pairs], [path for _, path in pairs], changed=True, doubts=joined.doubts)
    rows.keys = list(joined.columns.values())
    if any(len(paths) > 1 for paths in joined.paths.values()):
        check_several_columns(source, joined.columns, target, images.paths)
    named = ", ".join(f"{role} {column!r}" for role, column in joined.columns.items())
    rows.understood += [
        f"Images: no column names files; {named} of the table {'is' if len(joined.columns) == 1 else 'are'} in their "
        f"paths, {'stated' if stated else 'read'} as {joined.pattern}.",
        *joined.understood,
    ]
    _refuse_repeated(source, joined)
    _refuse_other_keys(source, joined, subject)
    _check_parts(joined, images, stated)
    if stated:
        rows.doubts += _people_of_fields(source, joined, stated)
    else:
        _refuse_unclear_sites(source, joined)
    twice = {row: paths for row, paths in joined.paths.items() if len(paths) > 1}
    if "number" in joined.columns and twice:
        row, paths = next(iter(twice.items()))
        raise CasewiseError(
            f"{source.path}, row {source.numbers[row]}, {joined.columns['number']}: "
            f"{cut(cells[joined.columns['number']][row])} is the number of {' and '.join(paths[:3])}. State what the "
            "paths mean with --pattern, such as '{subject}/{visit}/{region}_{n}.jpg'."
        )
    for name in dict.fromkeys(name for of_path in joined.stated.values() for name in of_path):
        values = [joined.stated.get(path, {}).get(name, "") for path in rows.paths]
        if name in ("visit", "region"):
            rows.state(name, [value or "none" for value in values], "the paths")
        elif name in _FIELDS and name != "label":
            rows.state(name, values, "the paths")
        elif name not in cells and name not in ("n", "file"):
            rows.others[name] = values
    if "region" in joined.columns and regions:
        rows.state("region", rows.of(cells[joined.columns["region"]]), joined.columns["region"])
    if visit := joined.columns.get("visit"):
        roles = source.roles(subject)
        rows.state("visit", rows.of(roles.dates if visit == roles.date else cells[visit]), visit)
    elif doubt := _one_value_for_visits(rows, source, joined):
        if unread := next((own for own in source.roles(subject).doubts if re.match("Date: .* IS NOT USED", own)), ""):
            raise CasewiseError(f"{doubt}\n  {unread}")
        rows.doubts.insert(0, doubt)
    _state_days(rows, source, joined, subject)
    keys = [name for name in joined.columns.values() if not names_people(Column(name, cells[name]))]
    lacking = [
        " ".join(cells[name][row] for name in keys) if keys else f"row {source.numbers[row]}"
        for row in range(count)
        if row not in joined.paths
    ]
    return rows, lacking, source


def _one_value_for_visits(rows: ImageRows, source: Source, joined: Joined) -> str:
    """The doubt about a table without visits whose rows have images of several visits; '' if none has."""
    visits: dict[int, dict[str, None]] = defaultdict(dict)
    for row, visit in zip(rows.sources, rows["visit"], strict=True):
        visits[row][visit] = None
    several = {row: list(of_row) for row, of_row in visits.items() if len(of_row) > 1}
    for row, paths in joined.paths.items():
        names = [next((w for w in plain_words(path) if w in times), "") for path in paths for times in (BEFORE, AFTER)]
        if any(names[::2]) and any(names[1::2]):
            several.setdefault(row, list(dict.fromkeys(filter(None, names))))
    if not several:
        return ""
    row, of_row = next(iter(several.items()))
    return (
        f"ONE VALUE FOR ALL VISITS? The table has no visit, and {counted(len(several), 'row has', 'rows have')} images "
        f"of several, such as {names_text(of_row, 4)} of {cut(source.cells[joined.columns['subject']][row])}. All of "
        "them get the values of the row. Where values belong to one visit, add a column `visit` to the table."
    )


def _people_of_fields(source: Source, joined: Joined, stated: Pattern) -> list[str]:
    """Doubts about fields of a stated pattern that may tell people apart, such as {cohort}/{subject}.

    Raises:
        CasewiseError: a field is a misspelt column, or a hospital that the table lacks.
    """
    subjects, doubts = source.cells[joined.columns["subject"]], list[str]()
    headers = {Column(name, ()).header: name for name in source.cells}
    for name in stated.fields:
        if name in {*FIELDS, *OF_FILES}:
            continue
        column = headers.get(heading_words(name), "")
        if not column and (hint := nearest(name, list(source.cells))):
            raise CasewiseError(f"--pattern: {{{name}}} is not a column of {source.path}.{hint}")
        values: dict[str, dict[str, None]] = defaultdict(dict)
        for row, paths in joined.paths.items():
            of_paths = [joined.stated[path].get(name, "") for path in paths]
            values[subjects[row]] |= dict.fromkeys([source.cells[column][row]] if column else of_paths)
        several = {subject: list(own) for subject, own in values.items() if len(own) > 1}
        if not several:
            continue
        subject, own = next(iter(several.items()))
        shown = (
            f"{counted(len(several), 'subject has', 'subjects have')} images with several values of {{{name}}}, such "
        )
        shown += f"as {names_text(own, 3)} of {cut(subject)}"
        if not column and Column(name, ()).exactly(SITE):
            raise CasewiseError(
                f"ONE PERSON OR SEVERAL? By --pattern {shown}, and the table does not say whose rows it has. Add a "
                f"column {name} to the table, or write its one {name} in place of {{{name}}}."
            )
        doubts.append(f"ONE PERSON OR SEVERAL? {shown}. Each is one subject, on one side of every split.")
    return doubts


def _refuse_unclear_sites(source: Source, joined: Joined) -> None:
    """Refuse a column `site` that may have hospitals, whose numbers start again, or places of the body.

    In the folder of a subject they can only be the latter.

    Raises:
        CasewiseError: it is not clear.
    """
    name = joined.columns.get("region", "")
    before, field_of_subject, _ = joined.pattern.partition("{subject}")
    column = Column(name, source.cells.get(name, []))
    of_body = all(is_field(value) or len(region_phrases(value)) > 1 for value in column.counts)
    if not name or not column.exactly(SITE) or not field_of_subject or "{region}" not in before or of_body:
        return
    raise CasewiseError(
        f"PLACES OF THE BODY OR HOSPITALS? The column {name!r} ({names_text(list(column.counts), 3)}) may be either. "
        f"If it has places of the body, repeat this with --pattern {joined.pattern!r}. If it has hospitals, so that "
        f"equal numbers of {joined.columns['subject']} are different people, change its heading to `hospital`."
    )


def _check_parts(joined: Joined, images: ImageFiles, stated: Pattern | None) -> None:
    """Refuse numbers of images as lesions or teeth where nothing says so and some images have another one.

    Raises:
        CasewiseError: they may count photographs.
    """
    column = joined.columns.get("number", "")
    before = re.search(r"([^\W\d_]+)[ _-]?\{n\}", joined.pattern)
    named = before is not None and not OF_FILES_ONLY.fullmatch(before[1].casefold())
    if stated or named or not Column(column, ()).named(PART):
        return
    used = {path for paths in joined.paths.values() for path in paths}
    if unused := next((path for path in images.paths if path not in used), ""):
        first = next(iter(joined.paths.values()))[0]
        raise CasewiseError(
            f"{column.upper()} OR PHOTOGRAPH? The column {column} would be joined to the numbers of the files, such "
            f"as {first}, but others, such as {unused}, have none of the table, so that they may count photographs. If "
            f"the files do have the number of a {column}, say so with --pattern {joined.pattern!r}; if not, write that "
            "number into the names, or the names of the files into the table."
        )
    joined.doubts.append(
        f"{column.upper()} OR PHOTOGRAPH? The column {column} was joined to the numbers of the files. Check that these "
        "do not count photographs."
    )


def _refuse_other_keys(source: Source, joined: Joined, subject: str) -> None:
    """Refuse paths that another column fits as well as the one by which they were joined, with other rows.

    Raises:
        CasewiseError: names both columns.
    """
    for role in ("subject", "visit"):
        key = joined.columns.get(role, "")
        if not key or (role == "subject" and subject):
            continue
        own = [words(cell, role) for cell in source.cells[key]]
        names_with_images = {own[row] for row in joined.paths}
        for name, cells in source.cells.items():
            other, column = [words(cell, role) for cell in cells], Column(name, cells)
            may_be = column.exactly(VISIT) if role == "visit" else set(other) == set(own) and _one_of_each(own, other)
            if name in joined.columns.values() or len(names_with_images) < 2 or not may_be or other == own:
                continue
            if names_with_images <= set(other):
                remedy = f"--subject {cut(key)} or --subject {cut(name)}"
                remedy = "delete or rename the other" if role == "visit" else f"say so with {remedy}"
                raise CasewiseError(
                    f"{source.path}: the paths may state {cut(key)} or {cut(name)}, which would give them other rows: "
                    f"see row {source.numbers[min(joined.paths)]}. Find out which of them they state, and {remedy}."
                )


def _one_of_each(first: Sequence[object], second: Sequence[object]) -> bool:
    """Whether each name of the first list goes with one of the second."""
    return len(set(zip(first, second, strict=True))) == len(set(first))


def _refuse_repeated(source: Source, joined: Joined) -> None:
    """Refuse rows of one subject, visit and region, of which it is not clear which one the images belong to.

    Raises:
        CasewiseError: there are some.
    """
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = defaultdict(list)
    columns = [[words(cell, role) for cell in source.cells[name]] for role, name in joined.columns.items()]
    for row, key in zip(source.numbers, zip(*columns, strict=True), strict=True):
        groups[key].append(row)
    if repeated := [rows for key, rows in groups.items() if all(key) and len(rows) > 1]:
        raise CasewiseError(
            f"{source.path}, {rows_text(repeated[0])}: {len(repeated[0]):,} rows have the same "
            f"{', '.join(joined.columns.values())}, so that it is not clear which of them the images belong to (so do "
            f"the rows of {len(repeated) - 1:,} others). Keep one row of each, or add the column that differs, "
            "such as the visit or the number of the photograph, and write it into the names of folders or files."
        )


def _best_join(
    source: Source, images: ImageFiles, regions: Sequence[str], stated: Pattern | None, subject: str
) -> tuple[Source, Joined]:
    """The table, perhaps with a row for each region, and the images of its rows; no image where too few rows meet."""
    source = with_ordered_dates(source, images.paths)
    roles = source.roles(subject)
    source = by_region(
        source,
        key_columns(source, roles, regions=regions),
        regions,
        (word for path in images.paths for word in words(path)),
    )
    roles = source.roles(subject)
    source = by_visit(source, key_columns(source, roles, regions=regions), visits_in_paths(images.paths).values())
    source = by_part(source, key_columns(source, source.roles(subject), regions=regions))
    roles = source.roles(subject)
    keys, tried = key_columns(source, roles, regions=regions), Joined()
    if keys:
        stated, keys = _with_other_fields(stated, keys, source)
        check_subjects(source, keys["subject"])
        source = _alike(source, keys, regions)
        by_date = keys.get("visit") == roles.date != ""
        cells, join = source.cells, partial(join_images, paths=images.paths, regions=regions, stated=stated)
        people: dict[str, list[str]] = {role: cells[keys[role]] for role in ("site", "subject") if role in keys}
        names = ["-".join(parts) for parts in zip(*people.values(), strict=True)]
        if by_date:
            cells = cells | {roles.date: roles.dates}
            # a visit that is stated counts, also if it is for some rows only
            for name in [
                name for name in cells if (column := Column(name, cells[name])).exactly(VISIT) and column.counts
            ]:
                filled = [cell or f"on {date}" for cell, date in zip(cells[name], roles.dates, strict=True)]
                new = replace(source, cells=source.cells | {name: filled})
                try:
                    again = join(new.cells, columns=keys | {"visit": name})
                except CasewiseError:  # the paths may state the dates instead
                    continue
                if "visit" in again.columns and met(again, len(filled), len(images.paths)):
                    again.doubts += contradictory_dates(names, cells[name], roles.dates)
                    return new, again
        dated_paths = "visit" in keys and roles.date != "" and not by_date
        try:
            tried = join(cells, columns=keys)
        except CasewiseError:
            if not dated_paths:
                raise
        read = "visit" in tried.columns and met(tried, len(source.numbers), len(images.paths))
        if dated_paths and not read:  # the paths may state the dates of the visits
            again = join(cells | {roles.date: roles.dates}, columns=keys | {"visit": roles.date})
            if "visit" in again.columns and met(again, len(source.numbers), len(images.paths)):
                return source, again
        if by_date and ("visit" not in tried.columns or not tried.paths):
            dated = visits_of_dates(people, roles.dates, images.paths, regions=regions, stated=stated)
            name = "visit" if "visit" not in cells else "visit of photographs"
            new = replace(
                source, cells=source.cells | {name: dated.visits}, notes=[*source.notes, *filter(None, [dated.note])]
            )
            again = join(new.cells, columns=keys | {"visit": name}) if dated.joined else Joined()
            if len(again.paths) > len(tried.paths):
                source, tried = new, again
            tried.doubts += dated.doubts
        elif roles.date and not by_date and tried.paths and "visit" in tried.columns:
            tried.doubts += contradictory_dates(names, cells[keys["visit"]], roles.dates)
        if met(tried, len(source.numbers), len(images.paths)):
            return source, tried
    if tried.paths:
        row, paths = next(iter(tried.paths.items()))
        tried.doubts.append(
            f"Only {len(tried.paths):,} of {counted(len(source.numbers), 'row')} would meet an image, and "
            f"{sum(map(len, tried.paths.values())):,} of {counted(len(images.paths), 'image')} a row, by "
            f"{names_text(list(tried.columns.values()), 4)}, such as {paths[0]} row {source.numbers[row]}"
        )
    tried.paths.clear()
    for name in [name for name, values in source.cells.items() if _identifies(Column(name, values))]:
        joined = join_images(source.cells, images.paths, {"subject": name}, stated=stated)
        if met(joined, len(source.numbers), len(images.paths), both=True):
            return source, joined
    return source, tried


def _with_other_fields(
    stated: Pattern | None, keys: dict[str, str], source: Source
) -> tuple[Pattern | None, dict[str, str]]:
    """A stated pattern and the keys with the columns that its other fields name, which take part in the join."""
    headers = {Column(name, ()).header: name for name in source.cells if name not in keys.values()}
    headers |= {Column(name, ()).header: name for role, name in keys.items() if role == "site"}
    for field_name in stated.fields if stated else ():
        column = headers.get(heading_words(field_name), "")
        if stated and column and field_name not in {*FIELDS, *OF_FILES} | keys.keys() - {"site"}:
            role = "site" if keys.get("site") == column else field_name
            stated = Pattern(stated.text.replace(f"{{{field_name}}}", f"{{{role}}}"), stated.doubts)
            keys = {role: column, **keys}
    return stated, keys


def _alike(source: Source, keys: Mapping[str, str], regions: Sequence[str]) -> Source:
    """The table with one spelling of each visit, and with the study's names of its regions."""
    cells, notes = dict(source.cells), []
    for role in ("visit", "region"):
        if role not in keys:
            continue
        first: dict[tuple[str, ...], str] = {}
        own = [find_region(cell, list(regions)) if role == "region" and regions else "" for cell in cells[keys[role]]]
        new = [
            name or first.setdefault(words(cell, role), cell) for cell, name in zip(cells[keys[role]], own, strict=True)
        ]
        pairs = dict.fromkeys((a, b) for a, b in zip(cells[keys[role]], new, strict=True) if a != b)
        if pairs:
            notes.append(f"Spelling of {role}s: {names_text([f'{a} is {b}' for a, b in pairs], 4)}.")
            cells[keys[role]] = new
    return replace(source, cells=cells, notes=[*source.notes, *notes]) if notes else source


def _state_days(rows: ImageRows, source: Source, joined: Joined, subject: str) -> None:
    """The day of each image from the names of visits, where the table has neither days nor dates."""
    roles = source.roles(subject)
    if roles.day or roles.date:
        origin = f"the column {roles.day!r}" if roles.day else f"counted from each subject's first date, {roles.date!r}"
        rows.understood.append(f"Days: {origin}.")
        return
    if "visit" in joined.columns:
        visits = rows.of(source.cells[joined.columns["visit"]])
        if not days_of_visits(visits)[0]:
            of_case = {visit: joined.visits[path] for visit, path in zip(visits, rows.paths, strict=True) if path}
            visits = [of_case.get(visit, visit) for visit in visits]
    elif rows.has("visit"):
        visits = rows["visit"]
        if all(iso_day(visit) for visit in visits):
            rows.state("date", visits, "the paths")
            return
    else:
        return
    days, note = days_of_visits(visits)
    unit = joined.columns.get("visit", "")
    if not days and day_of_visit(f"{unit} 1") is not None:  # a column `week` of numbers
        days, note = days_of_visits([f"{unit} {visit}" for visit in visits])
    rows.understood.append(note)
    if days:
        rows.state("day", days, "the names of the visits")


def _subject_in_paths(source: Source, images: ImageFiles, joined: Joined) -> str:
    """Another column of subjects whose names occur in the paths; '' if there is none."""
    of_paths = {word for path in images.paths for word in words(path)}
    for name, values in source.cells.items():
        names = {words(value) for value in values if value}
        other = name not in joined.columns.values() and Column(name, values).exactly(STRONG_SUBJECT)
        if other and names and sum(map(of_paths.issuperset, names)) >= len(names) / 2:
            return name
    return ""


def _no_images(source: Source, images: ImageFiles, joined: Joined) -> CasewiseError:
    cells, shown = source.cells, ""
    unique = [name for name, values in cells.items() if _identifies(Column(name, values))]
    if keys := [name for name in joined.columns.values() if not names_people(Column(name, cells[name]))]:
        examples = dict.fromkeys(" ".join(row) for row in zip(*(cells[name] for name in keys), strict=True))
        shown = f"; {', '.join(map(repr, keys))} of the table are, for example, {names_text(list(examples), 3)}"
        absent = {name: values for name in keys if (values := joined.absent.get(name))}
        shown += "".join(f". No path has {name} {names_text(values, 3)}" for name, values in absent.items())
        shown += "".join(f". {doubt.rstrip('.')}" for doubt in joined.doubts)
        shown += _repeated_text(source, images, joined)
        if name := _subject_in_paths(source, images, joined):
            shown += f". The paths have {name}: repeat this with --subject {name}"
        if "site" in joined.columns:
            site, subject = joined.columns["site"], joined.columns["subject"]
            number = next(iter(cells[subject]), "")
            of_number = dict.fromkeys(s for s, n in zip(cells[site], cells[subject], strict=True) if n == number)
            shown += (
                f". Numbers of {subject} start again at each {site} ({number} at {names_text(list(of_number), 3)}), so "
                "that the paths must state both, such as {site}/{subject}"
            )
    elif first := next((name for name in unique or cells if not names_people(Column(name, cells[name]))), ""):
        shown = names_text([value[:60] for value in dict.fromkeys(cells[first])], 3)
        shown = f"; cells of {first!r} are, for example, {shown}"
    return CasewiseError(
        f"No column of the table names the images of {images.folder}, neither as files nor as their folders. "
        f"Files are, for example, {names_text(images.paths, 3)}{shown}. Add a column with the file names, say what the "
        "paths state with --pattern, such as '{subject}/{visit}_{region}_{n}.jpg', or name another folder with "
        "--images."
    )


def _repeated_text(source: Source, images: ImageFiles, joined: Joined) -> str:
    """A sentence on rows of the same subject and visit, and the column in the paths that tells them apart; or ''."""
    keys = list(joined.columns.values())
    rows: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(*(source.cells[name] for name in keys), strict=True)):
        rows[key].append(row)
    first = next((own for own in rows.values() if len(own) > 1), [])
    if not first:
        return ""
    text = f". Rows {' and '.join(str(source.numbers[row]) for row in first[:2])} have the same {names_text(keys, 4)}"
    some = " ".join(images.paths[:200]).casefold()
    for name, values in source.cells.items():
        different = {values[row].casefold() for row in first}
        if name not in keys and len(different) == len(first) and all(value and value in some for value in different):
            written = name if re.fullmatch(r"\w+", name) else heading_words(name).replace(" ", "_")
            return f"{text}: if {name} tells their images apart, name it in --pattern as {{{written}}}"
    return f"{text}: keep one of them, or add what tells their images apart"


def _identifies(column: Column) -> bool:
    """Whether a column may name people by itself; dates, which several people share, do not."""
    dates = all(words(cell, "visit")[:1] == ("date",) for cell in column.counts if cell)
    named = column.exactly(r".*(date|datum|age|score|dtc|dt).*")
    return column.filled > 0.9 and len(column.counts) > 3 and not named and not dates


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
    columns = {name: [of_path[name] for of_path in values.values()] for name in pattern.fields}
    rows = ImageRows([], list(values), doubts=list(pattern.doubts), changed=True)
    rows.fields = {name: column for name, column in columns.items() if name in _FIELDS}
    rows.others = {name: column for name, column in columns.items() if name not in _FIELDS}
    folders = pattern.text.rpartition("/")[0]
    rows.origins = {name: "the folder" if f"{{{name}}}" in folders else "file names" for name in columns}
    rows.stated_fields = pattern.fields if stated else []
    rows.understood = [f"Pattern ({'stated' if stated else 'inferred'}): {pattern.text}", *examples(values)]
    if stated and (several := [path for path in values if len(stated.readings(path)) > 1]):
        rows.doubts.append(
            f"The pattern can read {len(several):,} names in several ways: {several[0]} as "
            f"{'; or as '.join(stated.readings(several[0]))}. The first is used."
        )
    if are_batches(labels := set(columns["label"])):
        rows.doubts.append(
            f"Target: ARE THESE CLASSES? {names_text(sorted(labels), 3)} look like hospitals, batches or devices. A "
            "model of them would tell sources apart, not diseases. If so, give a table of labels with --table."
        )
    if rest:
        rows.doubts.append(
            f"{images.noun.capitalize()}s that do not match the pattern and are not used: {len(rest):,} of "
            f"{len(images.paths):,} ({names_text(rest, 3)})."
        )
    return rows


def examples(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The first, the middle and the last path, with what they state."""
    paths = list(values)
    shown = dict.fromkeys([paths[0], paths[len(paths) // 2], paths[-1]])
    return [f"  {path}: {', '.join(f'{k} {v}' for k, v in values[path].items()) or 'nothing'}" for path in shown]


def fill_from_table(rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, *, scans: bool) -> None:
    """Subject, visit, date, sequence and split of the images, from the columns of the table."""
    for name in ("subject", "visit", "split", *(["sequence"] if scans else [])):
        if (column := getattr(roles, name)) and not rows.has(name):
            rows.state(name, rows.of(cells[column]), column)
    if roles.date:
        rows.state("date", rows.of(roles.dates), roles.date)
        rows.changed |= roles.dates != cells[roles.date]


def resolve_subjects(
    rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, labels: Sequence[str], stated: Pattern | None = None
) -> None:
    """Subjects as stated of file names, else of the table, of people's names (as numbers), of file names, or images."""
    counts_images = rows.sources == [] and not rows.stated_fields and rows.subjects == len(rows.present)
    names_files = roles.subject in [column.name for column in rows.files] and rows.subjects == len(rows.present)
    if (stated or names_files) and _from_names(rows, labels, stated):
        roles.subject = ""
        return
    if rows.has("subject") and not counts_images:
        return
    rows.changed = True
    if people := roles.naming or columns_of_names(roles.people, cells):
        names = [" ".join(words).strip().casefold() for words in zip(*(rows.of(cells[n]) for n in people), strict=True)]
        # an empty cell is nobody's name, and is left for the person who knows whose it is
        numbers = {"": ""} | {name: f"S{i:04}" for i, name in enumerate(dict.fromkeys(filter(None, names)), 1)}
        origin = f"numbers for the values of {' and '.join(people)}"
        rows.state("subject", [numbers[name] for name in names], origin)
        rows.doubts.append(
            f"Subject: {'as stated, ' if roles.naming else 'only '}{' and '.join(map(repr, people))} tell people "
            "apart. Each value became a number (S0001, …), so that people of the same name are one subject; the values "
            "themselves are not in cohort.csv."
        )
        return
    if rows.sources and _from_names(rows, labels, None):
        return
    rows.subjects_known = False
    rows.origins.pop("subject", None)
    stems = [
        image_files.stem_of(image_files.file_name(path)) or f"row {row}"
        for row, path in zip(rows.sources or rows.paths, rows.paths, strict=True)
    ]
    unique = len({stem.casefold() for stem in stems}) == len(stems)
    rows.fields["subject"] = stems if unique else [f"image {number}" for number in range(1, len(stems) + 1)]
    others = [f"{{{name}}}" for name in rows.stated_fields if name not in FIELDS]
    reason = "No column and no part of the file names identifies people"
    if rows.stated_fields:
        reason = "The pattern has no {subject}"
        reason += f" (if {' or '.join(others)} identifies people, write {{subject}} for it)" if others else ""
    offered = _offered_subjects(rows, len(set(labels) - {""}))
    rows.doubts.insert(
        0,
        f"WARNING: SUBJECTS ARE NOT KNOWN. {reason}, so every image counts as a person of its own (`subjects_known: "
        "false`). Images of one person may be on both sides of a split, and all results may be too optimistic. State "
        f"the person of each image in a column of the table.{offered}",
    )


def guess_people(rows: ImageRows, files: image_files.ImageFiles, *, use: bool) -> None:
    """Compare the pictures of neighbouring file numbers, state what was seen, and `use` it: every image is a visit.

    Raises:
        CasewiseError: it is to be used, and there is nothing to guess from.
    """
    present = np.array([] if rows.subjects_known or files.scans else rows.present, int)
    paths, guess = [rows.paths[position] for position in present], None
    if paths and are_numbered(paths) and (use or len(paths) <= MOST_UNASKED):
        with Terminal().bar("patients") as bar:
            progress = partial(bar, total=1.0, text="comparing neighbouring pictures")
            pictures = in_parallel(partial(_picture, files.folder), paths, progress)
            features = np.concatenate(list(picture_features(pictures).values()), axis=1)
        guess = guess_subjects(paths, features)
    if guess is None or guess.p > HIGHEST_P:
        if use:
            raise CasewiseError(fill("guess refused"))
        return
    pairs = f"{guess.joined:,} of {counted(guess.neighbours, 'pair')}"
    likeness = fill("guess", pairs=pairs, chance=guess.by_chance, found=FOUND_PAIRS, strangers=STRANGERS)
    if not use:
        rows.doubts.insert(1, fill("guess offered", guess=likeness))
        return
    names, sizes = np.array(rows["subject"], object), np.bincount(guess.group)
    rows.state("visit", rows["subject"], "the images")
    names[present] = names[present[guess.group]]
    rows.fields["subject"] = names.tolist()
    groups = counted(int((sizes > 1).sum()), "group")
    images = int(sizes[sizes > 1].sum())
    rows.doubts[0] = fill("guess used", images=images, groups=groups, largest=sizes.max())
    rows.doubts.insert(1, likeness)


def _picture(folder: Path, path: str) -> np.ndarray:
    try:
        return read_image(folder / path, size=SIDE)
    except ImageError:
        return np.zeros((SIDE, SIDE, 3), np.uint8)  # a study with such a file is refused


def _from_names(rows: ImageRows, labels: Sequence[str], stated: Pattern | None) -> bool:
    """Whether the names of the files that a table lists give the subjects: as stated, or where a part repeats."""
    paths = [path for path in rows.paths if path]
    pattern = stated or infer_pattern(paths, labels=dict(zip(rows.paths, labels, strict=True)))
    values, rest = read_all(pattern, paths)
    if stated and rest:
        raise CasewiseError(
            f"--pattern {stated.text!r} does not match {counted(len(rest), 'file')} of the table, such as {rest[0]}."
        )
    # a word that differs in every name may number the images
    subjects = {of_path.get("subject", "") for of_path in values.values()}
    if "subject" not in pattern.fields or (len(subjects) == len(values) and not stated):
        return False
    rows.changed = True
    pairs = zip(rows.sources, rows.paths, strict=True)
    rows.state("subject", [values[path]["subject"] if path else f"row {row}" for row, path in pairs], "file names")
    rows.understood.append(f"Subjects: from the file names, read as {pattern.text}")
    rows.understood += examples({path: values[path] for path in dict.fromkeys(paths)})
    rows.doubts += pattern.doubts
    if "visit" in pattern.fields and not rows.has("visit"):
        rows.state("visit", [values[path]["visit"] if path else "none" for path in rows.paths], "file names")
    return True


def _offered_subjects(rows: ImageRows, classes: int = 0) -> str:
    """A part of the file names that may identify people, because it repeats; '' if there is none.

    Folders are not offered if there are as many as classes.
    """
    text, values = _repeating_part(rows)
    if text.startswith("{subject}/") and len(values) == classes and are_classes(set(values)):
        return ""
    people = f"{len(values):,} values {', '.join(values[:3])} …"
    offered = f"are people, repeat this with `--pattern '{text}'`; if they are hospitals, add a column `site`"
    return f" If the {people} in their names {offered} with them to the table." if text else ""


def _repeating_part(rows: ImageRows) -> tuple[str, list[str]]:
    return repeating_part([path for path in rows.paths if path]) if rows.sources else ("", [])


def check_names(rows: ImageRows, column: str, numbers: Sequence[int]) -> list[str]:
    """Doubt subjects and visits that a spreadsheet may have altered; a sentence on those that `validate` refuses."""
    refused = []
    lines = [numbers[source] for source in rows.sources] or list(range(1, len(rows.paths) + 1))
    for role in ("subject", "visit") if rows.subjects_known else ():
        origin = rows.origins.get(role, "")
        for alteration in alterations(pd.Series(rows[role], index=lines, dtype="str"), role):
            sentence = alteration.sentence(origin or column or role)
            if alteration.certain and column and origin == (column if role == "subject" else origin):
                refused.append(sentence)
            else:
                rows.doubts.append(sentence)
    return refused


def doubt_counts(rows: ImageRows, column: str) -> None:
    """Doubt subjects if each has one image, or one has most of them."""
    counts, images = Counter(rows["subject"][position] for position in rows.present), len(rows.present)
    name, most = counts.most_common(1)[0] if counts else ("", 0)
    lone = column and rows.subjects_known and most == 1 < images
    named = f"{column!r} has" if column else "the names of files and folders have"
    doubts: dict[str, object] = {
        f"Subject: each of the {images:,} images is of another person, by the column {column!r}. If the column numbers "
        "images and not people, state the column of people with --subject, or write `subjects_known: false`."
        f"{_offered_subjects(rows) if lone else ''}": lone,
        f"Subject: {name[:60]!r} has {most:,} of {images:,} images ({named} {counted(len(counts), 'value')}). "
        "If it does not identify people, state another column with --subject.": most > max(MOST_OF_ONE * images, 4),
        f"Subject: ARE THESE PEOPLE? {batches_text(counts)}. State who is on each image with --subject or --pattern, "
        "or write `subjects_known: false`.": rows.subjects_known and are_batches(counts),
    }
    rows.doubts += applying(doubts)


def order_doubts(subjects: Iterable[str], visits: Iterable[str]) -> list[str]:
    """A doubt if the names of a subject's visits, which have no days, do not show their order in time."""
    by_subject: dict[str, list[str]] = defaultdict(list)
    for subject, visit in zip(subjects, visits, strict=True):
        by_subject[subject].append(visit)
    unclear = {subject: names for subject, named in by_subject.items() if (names := unordered_visits(named))}
    if not unclear:
        return []
    subject, names = next(iter(unclear.items()))
    return [
        f"Visits: WHICH COMES FIRST? The order in time of {names_text(names, 5)} of subject {subject} (of "
        f"{counted(len(unclear), 'subject')}) is not shown by days, dates, numbers or words such as screening, "
        "baseline and end of treatment. Add a column `day` or rename the visits before changes over time are computed."
    ]


def doubt_beginnings(rows: ImageRows, sources: Sequence[str]) -> None:
    """Doubt subjects who were found in file names that begin in different ways, such as with names of hospitals.

    If every subject begins in one way, the beginnings may be such names, unless the table has `sources`.
    """
    _offer_beginnings(rows, sources)
    if rows.stated_fields or not rows.subjects_known or (rows.files and rows.origins.get("subject") != "file names"):
        return
    names: dict[str, dict[str, str]] = defaultdict(dict)
    for subject, path in zip(rows["subject"], rows.paths, strict=True):
        name = image_files.file_name(path).casefold()
        start = re.search(rf"(?<![^\W_]){re.escape(subject.casefold())}(?![^\W_])", name)
        words = image_files.words_of(name[: start.start()]) if start else []
        if start and not (words and is_field(words[-1])):
            names[subject].setdefault(" ".join(words), image_files.file_name(path))
    several = {subject: of_subject for subject, of_subject in names.items() if len(of_subject) > 1}
    if several:
        subject, first = next(iter(several.items()))
        rows.doubts.insert(
            0,
            f"ONE PERSON OR SEVERAL? The names of files of {counted(len(several), 'subject')} begin in different ways, "
            f"such as {names_text(list(first.values()), 3)} of subject {subject}. If these are several people, add a "
            "column with the names of the files and one with the people to the table.",
        )


def _offer_beginnings(rows: ImageRows, sources: Sequence[str]) -> None:
    """Name what the names of subjects begin with, such as UKE-001 and CHA-001: it may be their hospital."""
    beginnings = Counter(
        match[1].upper() if (match := re.match(r"([^\W\d_]{2,8})[-_ .]?\d", subject)) else ""
        for subject in dict.fromkeys(rows["subject"][position] for position in rows.present)
    )
    if sources or "" in beginnings or not 2 <= len(beginnings) <= 20 or min(beginnings.values()) < 2:
        return
    if rows.subjects == len(rows.present) and set(beginnings) == {text.upper() for text in _repeating_part(rows)[1]}:
        return  # offered as people or hospitals
    shown = names_text([f"{name} ({count:,})" for name, count in beginnings.most_common()], 6)
    rows.doubts.append(
        f"Subject: the names begin with {shown}. If these are hospitals or devices, add a column `site` with them to "
        "the table and repeat `casewise init`: the audit then tests it, and `split: {leave_out: site}` tests on each."
    )


def add_film_columns(rows: ImageRows, cells: Mapping[str, list[str]], images: ImageFiles) -> None:
    """What DICOM films state on how they were taken, as further columns that the table does not have."""
    if images.scans:
        return
    stated = films_state([images.folder / path if path else None for path in rows.paths])
    names = dict.fromkeys(name for of_image in stated for name in of_image if name not in cells)
    rows.others = {name: [of_image.get(name, "") for of_image in stated] for name in names} | rows.others


def cohort_table(
    rows: ImageRows, cells: Mapping[str, list[str]], roles: Roles, results: Mapping[str, tuple[str, Sequence[str]]]
) -> bytes:
    """The table of a new study: standard columns first, then `results`, then the other columns.

    Columns that name people are left out. Decimals are written so that they are read as they were here.

    Args:
        results: by column of the table, its heading and its values by image.
    """
    columns = {"path": rows.paths, "subject": rows["subject"]}
    columns |= {n: rows[n] for n in ("visit", "day", "date", "region", "sequence", "split") if rows.has(n)}
    if not all(rows.paths):
        columns[FOUND] = ["yes" if path else "no" for path in rows.paths]
    columns |= {heading: clear_decimals(list(values), NO_VALUE) for heading, values in results.values()}
    consumed = {*results, roles.subject, *roles.people, *(column.name for column in rows.files)}
    consumed |= {rows.origins.get(name, "") for name in ("visit", "date", "region", "split", "sequence")}
    others = {name: rows.of(values) for name, values in cells.items() if name not in consumed}
    day = roles.day if rows.day_used else ""
    for name, values in [*others.items(), *rows.others.items()]:
        heading = "day" if name == day and not rows.has("date") else name
        if heading != "day" or name != day:
            while heading in columns or heading in STANDARD:
                heading = f"table_{heading}"
        columns[heading] = clear_decimals(values, NO_VALUE)
    return table_bytes(list(columns), zip(*columns.values(), strict=True))


def resolve_visits(
    rows: ImageRows, labels: Sequence[str], *, single: Callable[[], bool], day: str = "", days: Sequence[str] = ()
) -> None:
    """Visits from dates or days where no column states them; whether each image is predicted by itself.

    Each is if photographs of a visit differ in labels; scans and slides that do are visits of their own.

    Args:
        single: whether single images can be predicted, which scans and slides cannot.
        days: the cells of the column `day`, image by image.
    """
    for noun, times, origin in (("date", rows["date"], rows.origins.get("date", "")), ("day", days, day)):
        by_subject: dict[str, set[str]] = defaultdict(set)
        for subject, time in zip(rows["subject"], times, strict=False):
            by_subject[subject].add(time)
        if not rows.has("visit") and all(times) and any(len(of_subject) > 1 for of_subject in by_subject.values()):
            rows.state("visit", list(times), origin)
            rows.understood.append(f"Visits: every {noun} of a subject is a visit.")
    # spellings of one class are one value, as in the classes of the study
    read = decimal if Column("", labels).numbers is not None else plain
    no_text = Column("", labels).no_text
    values = [read(label) if label and label.casefold() not in no_text else None for label in labels]
    differing = [case for case, of_case in rows.by_case(values).items() if len(of_case - {None}) > 1]
    images = Counter(zip(rows["subject"], rows["visit"], rows["sequence"], strict=True))
    repeated = [(subject, visit) for (subject, visit, name), times in images.items() if name and times > 1]
    rows.by_image = bool(differing) and single()
    if rows.by_image:
        unit = "visit" if rows.has("visit") else "subject"
        rows.doubts.append(
            f"Images: {counted(len(differing), f'{unit} has', f'{unit}s have')} images with different values of the "
            f"target, such as {' '.join(differing[0]).strip()}. Every image is therefore predicted by itself "
            "(`panels: {by: image}`); the split is still by subject."
        )
    elif differing or repeated:
        counts: Counter[tuple[str, str]] = Counter()
        visits = []
        for case in zip(rows["subject"], rows["visit"], strict=True):
            counts[case] += 1
            visits.append(f"{case[1]} {counts[case]}".strip())
        rows.state("visit", visits, "the images of a subject, counted")
        rows.changed = True
        reason = "images with different values of the target" if differing else "scans of one sequence"
        rows.doubts.append(
            f"Visits: {counted(len(differing or repeated), 'visit has', 'visits have')} several {reason}, such as "
            f"{' '.join((differing or repeated)[0]).strip()}. Every image therefore counts as a visit of its own; the "
            "split is still by subject."
        )
    together = rows.by_image or not (differing or repeated)
    unused = "is not used, because images of one visit differ in it."
    if together and any(len(dates) > 1 for dates in rows.by_case(rows["date"]).values()):
        rows.doubts.append(f"Date: {rows.origins.pop('date')!r} {unused}")
        del rows.fields["date"]
    numbers = [decimal(cell) if cell else None for cell in days]
    if together and days and any(len(of_case - {None}) > 1 for of_case in rows.by_case(numbers).values()):
        empty = f" It is empty for {counted(days.count(''), 'image')}, so it states no visits."
        empty = empty if "" in days and not rows.has("visit") else ""
        rows.doubts.append(f"Day: {day!r} {unused}{empty}")
        rows.day_used = False


def resolve_sequences(rows: ImageRows) -> list[str]:
    """The sequences of scans in natural order; without names of sequences all scans are of the sequence `scan`."""
    if not rows.has("sequence"):
        rows.changed = True
        names: dict[str, str] = {}
        if len(rows.files) > 1:
            names = {path: column.name for column in rows.files for path in column.paths}
        elif paths := [path for path in rows.paths if path]:
            values, _ = read_all(infer_pattern(paths, labels=dict.fromkeys(paths, "")), paths)
            names = {path: stated.get("sequence", "") for path, stated in values.items()}
        rows.fields["sequence"] = [(path and names.get(path)) or "scan" for path in rows.paths]
    return sorted({rows["sequence"][position] for position in rows.present}, key=natural)
