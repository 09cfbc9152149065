"""The images of a table that names no files: rows joined to the paths that state their subject, visit and region."""

from __future__ import annotations

import re
from collections.abc import Sequence

from casewise.cohort.folder_layout import Pattern
from casewise.cohort.table import iso_day, names_text
from casewise.errors import CasewiseError, cut
from casewise.plugins.init.columns import Column, names_people
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.image_rows import ROW_FIELDS, ImageRows
from casewise.plugins.init.joins.best_join import best_join
from casewise.plugins.init.joins.composed_names import composed_names
from casewise.plugins.init.joins.join_images import Joined
from casewise.plugins.init.joins.no_images import no_images, subject_in_paths
from casewise.plugins.init.joins.row_checks import (
    check_parts,
    one_value_for_visits,
    people_of_fields,
    refuse_not_analysed,
    refuse_numbered_columns,
    refuse_other_keys,
    refuse_repeated,
    refuse_unclear_sites,
)
from casewise.plugins.init.key_names import day_of_visit, days_of_visits
from casewise.plugins.init.row_per_case import check_several_columns
from casewise.plugins.init.source import (
    Source,
    key_columns,
    with_sites,
)


def joined_rows(
    source: Source, images: ImageFiles, regions: Sequence[str], stated: Pattern | None, subject: str, target: str
) -> tuple[ImageRows, list[str], Source]:
    """The images whose paths state the subject of a row, with its visit, region and number; and rows without one.

    Raises:
        CasewiseError: too few do.
    """
    source, joined = best_join(source, images, regions, stated, subject)
    if not joined.paths:
        if not stated and (composed := _composed_rows(source, images, joined, subject, target)):
            return *composed, source
        raise no_images(source, images, joined, stated, subject)
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
    refuse_repeated(source, joined)
    refuse_other_keys(source, joined, subject)
    refuse_not_analysed(source, joined, images.paths)
    check_parts(joined, images, stated)
    if stated:
        rows.doubts += people_of_fields(source, joined, stated)
    else:
        refuse_unclear_sites(source, joined)
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
        elif name in ROW_FIELDS and name != "label":
            rows.state(name, values, "the paths")
        elif name not in cells and name not in ("n", "file"):
            rows.others[name] = values
    if "region" in joined.columns and regions:
        rows.state("region", rows.of(cells[joined.columns["region"]]), joined.columns["region"])
    if visit := joined.columns.get("visit"):
        roles = source.roles(subject)
        rows.state("visit", rows.of(roles.dates if visit == roles.date else cells[visit]), visit)
    elif doubt := one_value_for_visits(rows, source, joined):
        refuse_numbered_columns(source, joined, target)
        if unread := next((own for own in source.roles(subject).doubts if re.match("Date: .* IS NOT USED", own)), ""):
            raise CasewiseError(f"{doubt}\n  {unread}")
        rows.doubts.insert(0, doubt)
    _state_days(rows, source, joined, subject)
    keys = [name for name in joined.columns.values() if not names_people(Column(name, cells[name]))]
    lacking = [
        " ".join(filter(None, (cells[name][row] for name in keys))) if keys else f"row {source.numbers[row]}"
        for row in range(count)
        if row not in joined.paths
    ]
    return rows, lacking, source


def _composed_rows(
    source: Source, images: ImageFiles, joined: Joined, subject: str, target: str
) -> tuple[ImageRows, list[str]] | None:
    """The images whose names are put together from cells of a row, and rows without one; None if no names are.

    Paths that state a subject are joined by it. Without a column of subjects nobody would know whose images these are.
    """
    of_subject = source.roles(subject).subject
    if not of_subject or subject_in_paths(source, images, joined):
        return None
    cells = {name: column for name, column in source.cells.items() if name not in (of_subject, target)}
    keys = key_columns(source, source.roles(subject))
    paths, columns = composed_names(cells, images.paths, {*keys.values()} - {of_subject})
    if not columns:
        return None
    rows = ImageRows(list(range(len(paths))), paths, changed=True)
    made_of = names_text(list(map(repr, columns)), 4)
    rows.understood.append(f"Images: their names are put together from {made_of} of the table.")
    lacking = [" ".join(cells[name][row] for name in columns) for row, path in enumerate(paths) if not path]
    return rows, lacking


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
