"""The visits of dates: which photographed visit of a subject the date of a row is, and dates that contradict visits.

A date is a visit only where one reading fits: the subject's first date is the baseline, and no other count of the days
fits the subject's photographs as well. A row is never joined to the nearest visit for want of a better one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from casewise.cohort.folder_layout import Pattern
from casewise.cohort.table import iso_day, names_text
from casewise.plugins.init.joins.join_images import join_images
from casewise.plugins.init.joins.path_words import visits_in_paths
from casewise.plugins.init.key_names import day_of_visit

# How far a date may be from a visit of the schedule, in days.
WINDOW = 7
SHOWN = 5


@dataclass
class DatedVisits:
    """The visit of each row, or its date if that is no visit of the photographs; sentences for the user.

    `joined`: at least one subject has visits.
    """

    visits: list[str]
    joined: bool = False
    note: str = ""
    doubts: list[str] = field(default_factory=list)


def visits_of_dates(
    people: Mapping[str, Sequence[str]],
    dates: Sequence[str],
    paths: Sequence[str],
    *,
    regions: Sequence[str] = (),
    stated: Pattern | None = None,
) -> DatedVisits:
    """The photographed visit of each row, where paths name visits by their time, such as week4.

    Args:
        people: the subject of each row, and its site if numbers of subjects start again at each.
        dates: of each row as 2024-01-31, '' if unknown.
        paths, regions, stated: see `join_images`.
    """
    rows = DatedVisits([f"on {text}" if text else "no date" for text in dates])
    named = dict.fromkeys(visits_in_paths(paths).values())
    schedule = {visit: day for visit in named if (day := day_of_visit(visit)) is not None}
    if not schedule:
        return rows
    subjects = list(zip(*people.values(), strict=True))
    days_of: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for subject, text in zip(subjects, dates, strict=True):
        if all(subject) and (day := iso_day(text)) is not None:
            days_of[subject].add(day)
    cases = [(subject, visit) for subject in days_of for visit in schedule]
    cells = {role: [subject[number] for subject, _ in cases] for number, role in enumerate(people)}
    cells["visit"] = [visit for _, visit in cases]
    met = join_images(cells, paths, {role: role for role in cells}, regions=regions, stated=stated)
    photographed: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in met.paths if "visit" in met.columns else ():
        photographed[cases[row][0]].add(cases[row][1])
    visit_of: dict[tuple[tuple[str, ...], int], str] = {}
    unclear, late = [], []
    for subject, names in photographed.items():
        days, person = sorted(days_of[subject]), "-".join(subject)
        read = _read(days, schedule, names)
        visit_of |= {(subject, day): visit for day, visit in read.items()}
        if not read:
            shown = names_text([date.fromordinal(day).isoformat() for day in days], 4)
            unclear.append(
                f"{person} ({shown}; photographs of {names_text(sorted(names, key=lambda name: schedule[name]), 4)})"
            )
        late += [
            f"{person} {date.fromordinal(day).isoformat()} is {visit}, on day {day - days[0]}"
            for day, visit in read.items()
            if abs(day - days[0] - schedule[visit]) > WINDOW
        ]
    for row, (subject, text) in enumerate(zip(subjects, dates, strict=True)):
        if visit := visit_of.get((subject, iso_day(text) or 0)):
            rows.visits[row] = visit
    if unclear:
        shown = "; ".join(unclear[:SHOWN]) + " …" * (len(unclear) > SHOWN)
        rows.doubts.append(
            f"WHICH VISITS ARE THESE DATES? {len(unclear):,} of {len(days_of):,} subjects: {shown}. The first date of "
            "such a subject may not be the baseline: the days from it do not fit the photographs, or other visits fit "
            "as well. These rows have NO image. Add a column with the visit of each row, named as the photographs name "
            "it."
        )
    if late:
        rows.doubts.append(f"Dates far from their visit: {names_text(late, SHOWN)}. Check that they are these visits.")
    if visit_of:
        rows.joined = True
        (subject, day), visit = next(
            (each for each in visit_of.items() if schedule[each[1]]), next(iter(visit_of.items()))
        )
        rows.note = (
            "Visits: a date is the visit of the subject's photographs as many days after the subject's first date "
            f"(at most {WINDOW} days away, or {2 * WINDOW} if a subject has as many dates as photographed visits): "
            f"{date.fromordinal(day).isoformat()} of {'-'.join(subject)} is {visit}."
        )
    return rows


def _read(days: Sequence[int], schedule: Mapping[str, int], photographed: set[str]) -> dict[int, str]:
    """The visit of each day (an ordinal, sorted) counted from the first one; {} if that is not the only reading.

    >>> schedule = {"week0": 0, "week4": 28, "week16": 112}
    >>> _read([100, 130, 213], schedule, set(schedule))
    {100: 'week0', 130: 'week4', 213: 'week16'}
    >>> _read([130, 213], schedule, set(schedule)), _read([72, 100, 130, 213], schedule, set(schedule))
    ({}, {})
    """
    window = WINDOW * (2 if len(days) == len(photographed) else 1)
    own = _aligned(days, days[0], schedule, photographed, window)
    met = {day: visit for day, visit in own.items() if visit in photographed}
    if not met or len(met) < min(len(days), len(photographed)):
        return {}
    for day in days:
        for visit in photographed:
            other = _aligned(days, day - schedule[visit], schedule, photographed, window)
            other = {d: v for d, v in other.items() if v in photographed}
            if len(other) >= len(met) and any(met.get(d) != v for d, v in other.items()):
                return {}
    return own


def _aligned(
    days: Sequence[int], baseline: int, schedule: Mapping[str, int], photographed: set[str], window: int
) -> dict[int, str]:
    """The nearest visit of each day if this day is the baseline; none for two days with the same one."""
    of_visit: dict[str, list[int]] = defaultdict(list)
    for day in days:
        visit = min(schedule, key=lambda name: (abs(schedule[name] - day + baseline), name not in photographed))
        if abs(schedule[visit] - day + baseline) <= window:
            of_visit[visit].append(day)
    return {near[0]: visit for visit, near in of_visit.items() if len(near) == 1}
