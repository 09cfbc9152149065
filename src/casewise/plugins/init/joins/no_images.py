"""The refusal of a table whose rows meet no images, and what may be the reason."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict

from casewise.cohort.clinical_words import (
    STRONG_SUBJECT,
)
from casewise.cohort.folder_layout import OF_FILES, Pattern
from casewise.cohort.table import iso_day, names_text
from casewise.errors import CasewiseError, counted, cut
from casewise.names import heading_words
from casewise.plugins.init.columns import Column, names_people
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.joins.best_join import identifies
from casewise.plugins.init.joins.join_images import Joined
from casewise.plugins.init.joins.path_dates import table_days
from casewise.plugins.init.joins.path_words import paths_in_words
from casewise.plugins.init.key_names import words
from casewise.plugins.init.patterns import read_all
from casewise.plugins.init.source import (
    Source,
)

# More numbers than grades may name people.
_FEWEST_SUBJECTS = 10


def no_images(
    source: Source, images: ImageFiles, joined: Joined, stated: Pattern | None, subject: str
) -> CasewiseError:
    cells, shown = source.cells, ""
    unique = [name for name, values in cells.items() if identifies(Column(name, values))]
    if keys := [name for name in joined.columns.values() if not names_people(Column(name, cells[name]))]:
        examples = dict.fromkeys(" ".join(row) for row in zip(*(cells[name] for name in keys), strict=True))
        shown = f"; {', '.join(map(repr, keys))} of the table are, for example, {names_text(list(examples), 3)}"
        absent = {name: values for name in keys if (values := joined.absent.get(name))}
        shown += "".join(f". No path has {name} {names_text(values, 3)}" for name, values in absent.items())
        shown += "".join(f". {doubt.rstrip('.')}" for doubt in joined.doubts)
        shown += "".join(f". {doubt.partition('. ')[0].rstrip('.')}" for doubt in _unread_columns(source, subject))
        shown += _read_by(stated, images) if stated else _dates_in_paths(source, images, subject)
        shown += _repeated_text(source, images, joined)
        if name := subject_in_paths(source, images, joined):
            shown += f". The paths have {name}: repeat this with --subject {shlex.quote(name)}"
        if "site" in joined.columns:
            site, subject = joined.columns["site"], joined.columns["subject"]
            number = next(iter(cells[subject]), "")
            of_number = dict.fromkeys(s for s, n in zip(cells[site], cells[subject], strict=True) if n == number)
            shown += (
                f". Numbers of {subject} start again at each {site} ({number} at {names_text(list(of_number), 3)}), so "
                "that the paths must state both, such as {site}/{subject}"
            )
    elif name := subject_in_paths(source, images, joined):
        shown = f". The paths have {name}: if it tells people apart, repeat this with --subject {shlex.quote(name)}"
    elif first := next((name for name in unique or cells if not names_people(Column(name, cells[name]))), ""):
        shown = names_text([value[:60] for value in dict.fromkeys(cells[first])], 3)
        shown = f"; cells of {first!r} are, for example, {shown}"
    remedy = "" if stated else "say what the paths state with --pattern, such as '{subject}/{visit}_{region}_{n}.jpg', "
    return CasewiseError(
        f"No column of the table names the images of {images.folder}, neither as files nor as their folders. "
        f"Files are, for example, {names_text(images.paths, 3)}{shown}. Add a column with the file names, {remedy}or "
        "name another folder with --images."
    )


def subject_in_paths(source: Source, images: ImageFiles, joined: Joined) -> str:
    """Another column of subjects whose names occur in the paths, or any if no column has subjects; '' without one."""
    of_paths = {word for path in images.paths for word in words(path)}
    for name, values in source.cells.items():
        names, column = {words(value) for value in values if value}, Column(name, values)
        may_be = column.are_whole and not column.are_dates and len(names) > _FEWEST_SUBJECTS
        is_subject = column.exactly(STRONG_SUBJECT) if joined.columns else may_be
        other = name not in joined.columns.values() and is_subject
        if other and names and sum(map(of_paths.issuperset, names)) >= len(names) / 2:
            return name
    return ""


def _unread_columns(source: Source, subject: str) -> list[str]:
    """Sentences on columns of visits and dates that are not used."""
    return [doubt for doubt in source.roles(subject).doubts if re.match("(Date|Visit): .* IS NOT USED", doubt)]


def _dates_in_paths(source: Source, images: ImageFiles, subject: str) -> str:
    """A sentence on dates in most of the paths, and how many of them the table has; or ''."""
    every = paths_in_words(images.paths, table_days(source.cells))
    dated = [each for each in every if any(each.words_of_dates(segment) for segment in range(-len(each.segments), 0))]
    if 2 * len(dated) < len(every):
        return ""
    text = f". The paths have dates, such as {dated[0].path}"
    if not any(each.dates() for each in dated):
        return f"{text}, whose day and month cannot be told apart: write them as 2024-01-31"
    column, dates = next(iter(source.roles(subject).dated.items()), ("", []))
    if not column:
        return f"{text}, and the table has none: add a column `date`"
    days = {iso_day(each) for each in dates}
    hits = sum(not days.isdisjoint(each.dates().values()) for each in dated)
    of_all = f"{hits:,} of {counted(len(dated), 'path')}"
    return f"{text}; {of_all} have one of the column {column!r}. Only equal dates are joined"


def _read_by(stated: Pattern, images: ImageFiles) -> str:
    """What a stated pattern reads of the first path that it matches, and how many it does not."""
    values, rest = read_all(stated, images.paths)
    if not values:
        return f". --pattern {stated.text!r} matches none of the {len(images.paths):,} paths"
    path, fields = next(iter(values.items()))
    read = ", ".join(f"{name} {cut(text)}" for name, text in fields.items() if name not in OF_FILES)
    without = f", and does not match {len(rest):,}, such as {rest[0]}" if rest else ""
    return f". --pattern reads {path} as {read}{without}"


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
            if heading_words(name) in OF_FILES:
                return (
                    f"{text}: if {name} tells their images apart, call it `part` in the table and in --pattern {{part}}"
                )
            written = name if re.fullmatch(r"\w+", name) else heading_words(name).replace(" ", "_")
            return f"{text}: if {name} tells their images apart, name it in --pattern as {{{written}}}"
    return f"{text}: keep one of them, or add what tells their images apart"
