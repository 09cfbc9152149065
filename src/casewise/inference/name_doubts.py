"""Doubts about the names of subjects and visits in a table of new cases, which is read as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from casewise.cohort.folder_layout import looks_like_visit
from casewise.cohort.identity import groups_of_one
from casewise.cohort.table import names_text
from casewise.errors import counted

if TYPE_CHECKING:
    from casewise.study.schema import Study

# A date, and whether a time of day follows.
_DAY = re.compile(r"(\d{1,4}[./-]\d{1,2}[./-]\d{1,4})(?:[T ]+(\d{1,2}:\d\d.*))?")
_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")
_SHOWN = 3


def doubts_on_names(study: Study, cells: pd.DataFrame, columns: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each way in which the names may split a case, or exchange subjects and visits.

    Args:
        columns: role -> the table's column, as of `find_columns`.
    """
    subjects = cells[columns["subject"]].str.strip()
    yield from _spelled(subjects, study)
    if "visit" in columns:
        visits = cells[columns["visit"]].str.strip()
        yield from _timed(subjects, visits, columns["visit"])
        named, stated = subjects[subjects != ""], visits[visits != ""]
        if len(named) and len(stated) and all(map(looks_like_visit, named)) and not any(map(_may_be_visit, stated)):
            yield (
                f"All subjects (column {columns['subject']!r}) look like visits, and no visit (column "
                f"{columns['visit']!r}) does. Check that the two columns are not exchanged."
            )


def _may_be_visit(name: str) -> bool:
    return looks_like_visit(name) or any(form.fullmatch(name) for form in (_DAY, _NUMBER))


def _spelled(subjects: pd.Series, study: Study) -> Iterator[str]:
    """Subjects whose names differ only in their spelling."""
    if groups := groups_of_one(subjects[subjects != ""], study.subject_names):
        shown = names_text([" and ".join(map(repr, group)) for group in groups], _SHOWN)
        yield (
            f"Names of subjects that may mean one person are read as different people: {shown}. If each is one "
            "person, write the same name in all its rows."
        )


def _timed(subjects: pd.Series, visits: pd.Series, column: str) -> Iterator[str]:
    """Visits of one subject on one day that differ only in the time."""
    parts = visits.str.extract(rf"^{_DAY.pattern}$").where(subjects != "")
    if not parts[1].notna().any():
        return
    dates = parts[0]
    times = pd.DataFrame({"subject": subjects, "date": dates, "visit": visits}).dropna().drop_duplicates()
    counts = times.groupby(["subject", "date"], sort=False).size()
    if len(several := counts[counts > 1]):
        subject, date = several.index[0]
        yield (
            f"On {counted(len(several), 'day')} a subject has several times of day in the column {column!r}, such as "
            f"{subject} on {date}, and every time is a visit of its own. If a day is one visit, write the date alone."
        )
