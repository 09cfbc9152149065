"""New cases for a model from a table that names no images, or several in a row, as tables for `casewise init` may."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from casewise.cohort.folder_layout import find_region, stated_pattern
from casewise.cohort.identity import AS_WRITTEN
from casewise.cohort.table import Problems, names_text
from casewise.errors import CasewiseError
from casewise.plugins.init.image_files import find_images
from casewise.plugins.init.joins.row_checks import ONE_VALUE
from casewise.plugins.init.rows import (
    KEPT_ROWS,
    check_names,
    cohort_columns,
    fill_from_table,
    resolve_sequences,
    resolve_subjects,
    resolve_visits,
    rows_of_table,
)
from casewise.plugins.init.source import key_columns
from casewise.plugins.init.tables import read_tables

if TYPE_CHECKING:
    from casewise.study.schema import Study


def joined_cases(
    table: Path, images: Path, study: Study, *, subject: str = "", pattern: str = ""
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The rows of a table with their images below a folder, as `casewise init` joins them; labels are not read.

    Args:
        study: the study of the model, with its regions and what it states of names.
        subject: the column that identifies people; '' if it is to be found.
        pattern: what paths state, such as `{subject}/{visit}/{file}`; '' if it is to be found.

    Returns:
        A row for each image, and for each row without one, with an empty `path`; columns `path`, `subject`, `visit` and
        others by their standard names, then those of the table. What was understood. What is doubted.

    Raises:
        CasewiseError: the rows cannot be joined to images, or people are only told apart by their names.
    """
    problems = Problems()
    source, files = read_tables([table], problems, subject=subject), find_images(images)
    rows, source = rows_of_table(
        source, files, regions=study.regions, stated=stated_pattern(pattern) if pattern else None, subject=subject
    )
    cells, roles = source.cells, source.roles(subject)
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
    # new cases have no values
    doubts = [doubt for doubt in doubts if not doubt.startswith(ONE_VALUE)]
    doubts = [*source.doubts, *problems.doubts, *doubts, *roles.doubts]
    columns = cohort_columns(rows, cells, roles, {})
    return pd.DataFrame(columns, dtype="str"), [*source.notes, *rows.understood], doubts
