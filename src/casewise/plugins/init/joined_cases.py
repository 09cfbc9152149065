"""New cases for a model from a table that names no images, or several in a row, as tables for `casewise init` may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from casewise.cohort.checks import LACKS
from casewise.cohort.folder_layout import find_region, stated_pattern
from casewise.cohort.identity import AS_WRITTEN
from casewise.cohort.table import Problems, names_text, read_dates
from casewise.errors import CasewiseError
from casewise.plugins.init.columns import Column
from casewise.plugins.init.image_files import find_images
from casewise.plugins.init.joins.row_checks import ONE_VALUE
from casewise.plugins.init.named_files import KEPT_IMAGES, KEPT_ROWS
from casewise.plugins.init.rows import (
    check_names,
    cohort_columns,
    fill_from_table,
    resolve_sequences,
    resolve_subjects,
    resolve_visits,
    rows_of_table,
)
from casewise.plugins.init.source import Source, key_columns
from casewise.plugins.init.tables import read_tables

if TYPE_CHECKING:
    from casewise.study.schema import Study


def joined_cases(
    table: Path,
    images: Path,
    study: Study,
    *,
    subject: str = "",
    pattern: str = "",
    columns: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The rows of a table with their images below a folder, as `casewise init` joins them; labels are not read.

    Args:
        study: the study of the model, with its regions and what it states of names.
        subject: the column that identifies people; '' if it is to be found.
        pattern: what paths state, such as `{subject}/{visit}/{file}`; '' if it is to be found.
        columns: the columns of the visit, date and day that the user states; others are found.

    Returns:
        A row for each image, and for each row without one, with an empty `path`; columns `path`, `subject`, `visit` and
        others by their standard names, then those of the table. What was understood. What is doubted.

    Raises:
        CasewiseError: the rows cannot be joined to images, or people are only told apart by their names.
    """
    problems = Problems()
    source, files = read_tables([table], problems, subject=subject), find_images(images)
    source = _with_standard_names(source, columns) if columns else source
    rows, source = rows_of_table(
        source, files, regions=study.regions, stated=stated_pattern(pattern) if pattern else None, subject=subject
    )
    cells, roles = source.cells, source.roles(subject)
    if (stated := (columns or {}).get("date", "")) and roles.date != "date":
        reason = next((own for own in roles.doubts if own.startswith("Date: 'date'")), "Its cells are no dates.")
        reason = reason.replace("'date'", repr(stated))
        raise CasewiseError(f"{table}: --column date={stated}: {reason}")
    region = key_columns(source, roles, regions=study.regions).get("region", "")
    if region and not rows.has("region"):
        rows.state("region", [find_region(cell, study.regions) or cell for cell in rows.of(cells[region])], region)
    shown = [find_region(path.rpartition("/")[2], study.regions) if study.regions else "" for path in rows.paths]
    if not rows.has("region") and all(shown[position] for position in rows.present):
        rows.state("region", shown, "file names")
    fill_from_table(rows, cells, roles, scans=files.scans)
    if not (rows.has("subject") or rows.stated_fields) and study.subjects_known:
        people = " and ".join(map(repr, roles.people))
        why = f"Only {people} tell people apart, and results must not name them" if people else "No column says it"
        raise CasewiseError(
            f"{table}: who is on the images? {why}. Add a column `subject` with a number or pseudonym of each person, "
            f"or name it with `--column subject=NAME`; there are {names_text(list(cells), 12)}."
        )
    if (stated := (columns or {}).get("visit", "")) and not rows.has("visit"):
        rows.state("visit", rows.of(_named_visits(cells["date" if "date" in cells else "visit"])), stated)
    unknown = [""] * len(rows.paths)
    resolve_subjects(rows, cells, roles, unknown)
    if files.scans:
        resolve_sequences(rows)
    resolve_visits(
        rows, unknown, single=lambda: False, day=roles.day, days=rows.of(cells[roles.day]) if roles.day else ()
    )
    altered = [] if study.subject_names == AS_WRITTEN else check_names(rows, roles.subject, source.numbers)
    if altered:
        raise CasewiseError(f"{table}: " + "\n  ".join(altered))
    doubts = [doubt.replace(KEPT_ROWS, "They have no prediction.") for doubt in rows.doubts]
    doubts = [
        doubt.replace(
            KEPT_IMAGES,
            "Their cases have no prediction; where images are predicted one by one, these images have none.",
        )
        for doubt in doubts
    ]
    doubts = [doubt.replace("--images ", "--root ") for doubt in doubts]
    # new cases have no values
    doubts = [doubt for doubt in doubts if not doubt.startswith(ONE_VALUE)]
    doubts = [*source.doubts, *problems.doubts, *doubts, *roles.doubts]
    table_columns = cohort_columns(rows, cells, roles, {}) | ({LACKS: rows.problems} if any(rows.problems) else {})
    return pd.DataFrame(table_columns, dtype="str"), [*source.notes, *rows.understood], doubts


def _named_visits(cells: Sequence[str]) -> list[str]:
    """The names of visits; dates are written as those of the training, 2024-01-31."""
    days = read_dates(cells)
    return [date.fromordinal(days[cell]).isoformat() if cell in days else cell for cell in cells]


def _with_standard_names(source: Source, columns: Mapping[str, str]) -> Source:
    """The table with the stated columns under their standard names, by which they are found.

    Raises:
        CasewiseError: the columns of the table became others when it was read, and a stated one is none any more.
    """
    role_of = {name: role for role, name in columns.items()}
    if lost := next((name for name in role_of if name not in source.cells), ""):
        raise CasewiseError(f"{source.path}: {lost!r} is no column of the rows that were made from the table.")
    # visits that are dates are found as dates
    role_of = {n: "date" if r == "visit" and Column(n, source.cells[n]).are_dates else r for n, r in role_of.items()}
    taken = {*role_of.values()} - role_of.keys()
    others = {f"table_{name}" if name in taken else name: cells for name, cells in source.cells.items()}
    # the first of several columns that are as likely is taken
    first = {role: source.cells[name] for name, role in role_of.items()}
    return replace(source, cells=first | {name: cells for name, cells in others.items() if name not in role_of})
