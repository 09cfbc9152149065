"""Dates of rows and of paths that contradict each other, or the visits by which rows were joined to images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set

import numpy as np

from casewise.cohort.table import iso_day, names_text
from casewise.errors import CasewiseError, counted, cut
from casewise.plugins.init.columns import OF_OTHERS, Column
from casewise.plugins.init.joins.dated_visits import SHOWN, WINDOW
from casewise.plugins.init.joins.join_images import Joined
from casewise.plugins.init.key_names import words
from casewise.plugins.init.source import Source

# A name of a file that is a number alone, perhaps behind other letters or digits.
_NUMBER_OF_FILE = re.compile(r"(^|[^}\w]|[^\W\d]|_)\{subject\}\.\w+$")


def check_dates(
    joined: Joined, source: Source, people: Sequence[str], dated: Mapping[str, list[str]], *, is_stated: bool
) -> None:
    """Refuse images that were joined to a row although their path has a date of, or near, another row's.

    Images are not used if their date is far from their subject's only row, or if all such images of a subject have the
    dates of another one.

    Args:
        people: the subject of each row, with its site if numbers of subjects start again at each.
        dated: the ISO dates of the columns that may date images (`Roles`).
        is_stated: the user stated what the paths mean, so that contradictions are doubts.

    Raises:
        CasewiseError: there are such images.
    """
    by_date, alone = joined.columns.get("visit") in dated, "visit" not in joined.columns
    column = joined.columns["visit"] if by_date else _column_of_images(people, dated)
    if not column:
        return
    dates = dated[column]
    if contrary := _dates_of_other_rows(people, dates, joined.paths, joined.dates, exact=by_date):
        text, row = _of_other_visit(joined, source, column, dates, contrary)
        if not is_stated:
            raise CasewiseError(
                f"{source.path}, row {source.numbers[row]}: {text}. Correct the path or the table, or say with "
                "--pattern what the paths mean: '{subject}_{date}_{n}.jpg' joins by the date."
            )
        joined.doubts.append(f"{text}.")
    if by_date:
        return
    if alone and not is_stated:
        _refuse_counters(joined, source, people, column, dates)
    far, near = _far_dates(dates, joined.paths, joined.dates)
    if not far:
        return
    path, row = next(iter(far.items()))
    text = (
        f"OTHER DATES? {counted(len(far), 'image')} {'has' if len(far) == 1 else 'have'} a date in the path that is "
        f"more than {counted(WINDOW, 'day')} from its row's: {path}, read as {joined.pattern}, is of a row whose "
        f"{column} is {dates[row]}"
    )
    if alone and not is_stated and (other := _nearer_column(joined, far, dated, column)):
        raise CasewiseError(
            f"{source.path}, row {source.numbers[row]}: {text}, and {other} is nearer for some of these. They may be "
            "of another visit. Write a row for each visit, with its date and values."
        )
    left_out = set(far) if alone and near else _of_one_other(joined, people, dates, far)
    if is_stated or not left_out:
        joined.doubts.append(f"{text}.")
        return
    joined.doubts.append(f"{text}. NOT used: {names_text(sorted(left_out), 3)}.")
    kept = {row: [path for path in paths if path not in left_out] for row, paths in joined.paths.items()}
    joined.paths = {row: paths for row, paths in kept.items() if paths}


def _column_of_images(people: Sequence[str], dated: Mapping[str, list[str]]) -> str:
    """The likeliest column of the dates of images, none that is the same at all visits of a person; '' without one."""
    candidates: dict[str, bool] = {}
    for name, dates in dated.items():
        of_person: dict[str, list[str]] = defaultdict(list)
        for person, text in zip(people, dates, strict=True):
            of_person[person] += [text] if text else []
        several = [own for own in of_person.values() if len(own) > 1]
        differ = any(len(set(own)) > 1 for own in several)
        is_other = Column(name, ()).named(OF_OTHERS)
        if differ or not (several or is_other):
            candidates[name] = is_other
    return min(candidates, key=candidates.__getitem__, default="")


def _refuse_counters(joined: Joined, source: Source, people: Sequence[str], column: str, dates: Sequence[str]) -> None:
    """Refuse numbers of files as subjects where an image has the date of another subject.

    Raises:
        CasewiseError: there is one.
    """
    subjects = source.cells[joined.columns["subject"]]
    if not _NUMBER_OF_FILE.search(joined.pattern) or not all(map(str.isdecimal, subjects)):
        return
    if person_of := _dates_of_others(people, dates, joined.paths, joined.dates):
        path, person = next(iter(person_of.items()))
        raise CasewiseError(
            f"{source.path}: OTHER DATES? {counted(len(person_of), 'image')}, such as {path}, would be joined by the "
            f"number of the file to a subject who has another {column} than the path, while {cut(person)} has this "
            "one. The numbers of the files may count photographs. If they are numbers of subjects, say so with "
            f"--pattern {joined.pattern!r}."
        )


def _of_other_visit(
    joined: Joined, source: Source, column: str, dates: Sequence[str], contrary: Mapping[str, tuple[int, int]]
) -> tuple[str, int]:
    """A sentence on images with a date of, or near, another visit, and the row of the first one."""
    path, (row, other) = next(iter(contrary.items()))
    exact = iso_day(dates[other]) in joined.dates[path]
    has = "has" if len(contrary) == 1 else "have"
    of_other = "the date of another visit in the path" if exact else "a date in the path near another visit's"
    visit = source.cells[joined.columns["visit"]][row] if "visit" in joined.columns else ""
    text = (
        f"WHICH VISIT? {counted(len(contrary), 'image')} {has} {of_other}: {path}, read as {joined.pattern}, is of "
        f"{f'visit {cut(visit)}' if visit else 'a row'}, whose {column} is {dates[row]}, while {dates[other]} is the "
        f"{column} of another row of the subject"
    )
    return text, row


def _nearer_column(joined: Joined, far: Mapping[str, int], dated: Mapping[str, list[str]], column: str) -> str:
    """Another column that has a date within a week of an image's; '' if there is none."""
    for name, dates in dated.items():
        if name != column and len(_far_dates(dates, joined.paths, joined.dates)[0].keys() & far.keys()) < len(far):
            return name
    return ""


def _of_one_other(joined: Joined, people: Sequence[str], dates: Sequence[str], far: Mapping[str, int]) -> set[str]:
    """Images far from their row's date, if a subject has several, which all have dates of one other subject."""
    person_of = _dates_of_others(people, dates, joined.paths, joined.dates)
    images: dict[str, dict[str, str]] = defaultdict(dict)
    for path, row in far.items():
        images[people[row]][path] = person_of.get(path, "")
    whole = [own for own in images.values() if len(own) > 1 and len(set(own.values())) == 1 and all(own.values())]
    return {path for own in whole for path in own}


def contradictory_dates(subjects: Sequence[str], visits: Sequence[str], dates: Sequence[str]) -> list[str]:
    """Doubts on dates that are not as far from their subject's first date as those of other subjects at this visit.

    >>> subjects, visits = [s for s in "abcd" for _ in range(2)], ["week 0", "week 4"] * 4
    >>> dates = ["2024-01-01", "2024-01-29"] * 3 + ["2024-01-01", "2024-03-29"]
    >>> len(contradictory_dates(subjects, visits, dates)), contradictory_dates(subjects[:6], visits[:6], dates[:6])
    (1, [])
    """
    first: dict[str, int] = {}
    dated = [iso_day(text) for text in dates]
    for subject, day in zip(subjects, dated, strict=True):
        if day is not None:
            first[subject] = min(day, first.get(subject, day))
    days_at: dict[tuple[str, ...], dict[tuple[str, str, str], int]] = defaultdict(dict)
    for subject, visit, text, day in zip(subjects, visits, dates, dated, strict=True):
        if day is not None and visit:
            days_at[words(visit, "visit")][subject, visit, text] = day - first[subject]
    contrary = []
    for of_visit in days_at.values():
        usual = float(np.median(list(of_visit.values())))
        spread = float(np.median([abs(day - usual) for day in of_visit.values()]))
        contrary += [
            f"{subject} {visit[:40]} on {text}, day {day} (of most subjects day {usual:g})"
            for (subject, visit, text), day in of_visit.items()
            if spread <= WINDOW and abs(day - usual) > max(WINDOW, usual / 4)
        ]
    if not contrary:
        return []
    return [
        f"VISITS AND DATES DISAGREE: {names_text(contrary, SHOWN)}, counted from the subject's first date. Images "
        "were joined by the visit, not by the date. Check both, and whether a first visit is missing."
    ]


def _dates_of_other_rows(
    subjects: Sequence[str],
    dates: Sequence[str],
    paths_of_rows: Mapping[int, Sequence[str]],
    days_of_paths: Mapping[str, Set[int]],
    *,
    exact: bool = False,
) -> dict[str, tuple[int, int]]:
    """By path, its row and another row of its subject, whose date is nearer to one in the path: at most a week away.

    Args:
        subjects: of each row.
        dates: of each row as 2024-01-31, '' if unknown.
        paths_of_rows: the images that were joined to each row, from 0.
        days_of_paths: the ordinal days in each path.
        exact: of rows that were joined by a date, the path must have the other row's date itself.
    """
    days = [iso_day(text) for text in dates]
    rows_of: dict[str, dict[int, int]] = defaultdict(dict)
    for row, (subject, day) in enumerate(zip(subjects, days, strict=True)):
        if day is not None:
            rows_of[subject].setdefault(day, row)
    nearer = {}
    for row, paths in paths_of_rows.items():
        own, others = days[row], rows_of[subjects[row]]
        for path in paths if own is not None and len(others) > 1 else ():
            stated = days_of_paths[path]
            near = {day: min(abs(day - each) for each in stated) for day in others} if stated else {}
            nearest = min(near, key=lambda day: (near[day], day == own), default=0)
            limit = min(near.get(own or 0, 0), WINDOW + 1)
            if near and near[nearest] < (1 if exact else limit) and nearest != own:
                nearer[path] = row, others[nearest]
    return nearer


def _far_dates(
    dates: Sequence[str], paths_of_rows: Mapping[int, Sequence[str]], days_of_paths: Mapping[str, Set[int]]
) -> tuple[dict[str, int], int]:
    """By path, its row, if no date in it is within a week of the row's; and the number of paths with one that is."""
    far, near = {}, 0
    for row, paths in paths_of_rows.items():
        own = iso_day(dates[row])
        for path in paths:
            if own is not None and (stated := days_of_paths[path]):
                if min(abs(own - day) for day in stated) > WINDOW:
                    far[path] = row
                else:
                    near += 1
    return far, near


def _dates_of_others(
    subjects: Sequence[str],
    dates: Sequence[str],
    paths_of_rows: Mapping[int, Sequence[str]],
    days_of_paths: Mapping[str, Set[int]],
) -> dict[str, str]:
    """By path, another subject who has the date in it, and its own row has not."""
    of_day: dict[int, str] = {}
    for subject, text in zip(subjects, dates, strict=True):
        if (day := iso_day(text)) is not None:
            of_day.setdefault(day, subject)
    person_of = {}
    for row, paths in paths_of_rows.items():
        own = iso_day(dates[row])
        for path in paths if own is not None else ():
            others = {of_day.get(day, "") for day in days_of_paths[path]} - {"", subjects[row]}
            if own not in days_of_paths[path] and len(others) == 1:
                person_of[path] = others.pop()
    return person_of
