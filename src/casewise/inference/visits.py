"""Visits in a table of new cases: which column states them, and tables that would pool several into one case."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

import pandas as pd

from casewise.cohort.clinical_words import VISIT_BEGINNINGS, unaccented
from casewise.cohort.table import names_text, read_dates
from casewise.cohort.visit_order import days_of_dated_visits
from casewise.errors import CohortError, counted, cut
from casewise.inference.case_sizes import CaseSizes, image_counts

if TYPE_CHECKING:
    from casewise.study.schema import Study

log = logging.getLogger("casewise")
# How names of columns that tell visits apart begin, or end.
_VISIT_WORDS = re.compile(rf"{VISIT_BEGINNINGS}|.*(datum|date|tag|day|visit)$")
_DATE_FORM = re.compile(r"(\d{4}([./-])\d{1,2}\2\d{1,2}|\d{1,2}([./-])\d{1,2}\3(\d{4}|\d{2}))([ T][\d:.+Z ]+)?")


def names_visits(cells: pd.DataFrame, study: Study) -> bool:
    """Whether some row of a table names a visit."""
    column = study.columns.get("visit", "visit")
    return column in cells and bool((cells[column].str.strip() != "").any())


def ignores_visits(cells: pd.DataFrame, study: Study) -> bool:
    """Whether a table or folder has several visits of a subject, and the study no column of visits."""
    subject = study.columns.get("subject") or "subject"
    if study.columns.get("visit", "visit") or not {"visit", subject} <= set(cells):
        return False
    return bool((cells.groupby(subject)["visit"].nunique() > 1).any())


def check_visits(study: Study, cells: pd.DataFrame, columns: Mapping[str, str], *, section: str = "") -> None:
    """Refuse a table without visits in which a column tells several days or visits of a subject apart.

    Args:
        section: the section of the study file that the table belongs to, such as external; '' for new cases, whose
            columns are options.

    Raises:
        CohortError: it would pool the images of several visits.
    """
    if study.columns.get("visit", "visit") in ("", *cells) or "subject" not in columns:
        return
    with_roles = [columns[role] for role in ("path", "subject", "region") if role in columns]
    for name in cells.columns.difference(with_roles, sort=False):
        values = cells[name].str.strip()
        of_visits = any(_VISIT_WORDS.match(word) for word in re.split(r"[\W\d_]+", unaccented(name)))
        several = values.where(values != "").groupby(cells[columns["subject"]]).nunique()
        if several.empty or several.max() < 2 or not (of_visits or _are_dates(values[values != ""])):
            continue
        subject = several.idxmax()
        shown = values[(cells[columns["subject"]] == subject) & (values != "")].drop_duplicates()
        if section:
            option, none = (f"`{section}: {{columns: {{visit: {text}}}}}`" for text in (repr(name), '""'))
        else:
            option = f'`columns={{"visit": {name!r}}}` (`--column {shlex.quote(f"visit={name}")}`)'
            none = '`columns={"visit": ""}` (`--column visit=`)'
        raise CohortError(
            f"{study.cohort}: {cut(str(subject))} has rows of several values of {name!r} "
            f"({names_text(shown.tolist(), 3)}), and no column states the visit, so that images of several visits "
            f"would be one case. Say which column does with {option}, or that all rows of a subject are one visit with "
            f"{none}."
        )


def with_one_form(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table with visits that are dates as 2024-01-31, where they are written in several forms, as workbooks do."""
    names = cells[column].str.strip()
    days = days_of_dated_visits(names[names != ""].drop_duplicates())
    iso = {name: date.fromordinal(day).isoformat() for name, day in days.items()}
    others = [name for name in iso if name != iso[name]]
    if not others or (len(others) == len(iso) and len(set(days.values())) == len(days)):
        return cells
    shown = others[0]
    log.warning("Dates in the column %r have several forms; all are written as %s (%s).", column, iso[shown], shown)
    return cells.assign(**{column: names.map(lambda name: iso.get(name, name))})


def check_case_sizes(study: Study, cells: pd.DataFrame, sizes: CaseSizes | None, slot: str) -> None:
    """Check that a table without visits does not pool them, for a model whose subjects had several visits.

    Args:
        sizes: of the training cases; None if they are not known.
        slot: region, or the column of the sequence; empty without one.

    Raises:
        CohortError: a subject has more images than any training case.
    """
    column, path, subject, slot = (study.columns.get(role, role) for role in ("visit", "path", "subject", slot))
    if not column or names_visits(cells, study) or not {path, subject} <= set(cells):
        return
    named = cells[(cells[subject].str.strip() != "") & (cells[path].str.strip() != "")]
    counts = image_counts(named, [subject], slots=[slot] if slot else [], path=path)
    counts = counts[counts > 1].sort_values(ascending=False, kind="stable")
    if counts.empty:
        return
    largest = f"{counts.index[0]} has {counted(int(counts.iloc[0]), 'image')}" + f" of one {slot}" * bool(slot)
    lacking = f"The column {cut(column)} is empty" if column in cells else "No column states the visit"
    text = f"{lacking}, and subjects of the training had several visits."
    none = 'that all rows of a subject are one visit with `columns={"visit": ""}` (`--column visit=`)'
    if sizes and counts.iloc[0] > sizes.most:
        raise CohortError(
            f"{study.cohort}: {text} {largest}, where a case of the training had at most "
            f'{sizes.most:,}. Say which column states it with `columns={{"visit": "NAME"}}` (`--column visit=NAME`), '
            f"or {none}."
        )
    log.warning("%s Each subject is read as one case (%s). If a column states it, name it.", text, largest)


def _are_dates(values: pd.Series) -> bool:
    """Whether all values, of which there are some, are dates."""
    texts = values.drop_duplicates().tolist()
    read = read_dates(texts)
    return bool(texts) and all(_DATE_FORM.fullmatch(text) or text in read for text in texts)
