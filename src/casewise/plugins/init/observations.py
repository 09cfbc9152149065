"""The rows of a sponsor's table that are observations: none that was imputed, not analysed, or is a sum of others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from casewise.cohort.clinical_words import unaccented
from casewise.cohort.table import names_text, rows_text
from casewise.plugins.init.columns import Column
from casewise.plugins.init.source import Source, key_columns, names_of_rows

# A column that marks the records of an analysis, as in ADaM.
ANALYSED = r"anl\d\dfl"
# Values of a column DTYPE: the record was not observed but carried from another visit, or computed.
_IMPUTED = (
    r"[lwbp]ocf|nocb|lvpd|m?mi|mmrm|(interp|extrap|imput|impute).*|average|mean|minimum|maximum|median|endpoint|phantom"
)
# What stands in place of a subject where a row sums others up, and what does so at the end of a table only.
_SUMS = (
    r"(grand |sub ?)?total(s|es)?|(gesamt)?summe|gesamt|insgesamt|mean|averages?|median|mittel(wert)?|durchschnitt|"
    r"standardabweichung|moyenne|mediane|ecart ?type|media|mediana|promedio|desviacion( estandar)?|(std|standard) ?dev"
    r"(iation)?|overall|alle( patienten)?|all( patients| subjects)?"
)
_LAST_SUMS = rf"{_SUMS}|sums?|n|anzahl|count|sd|std|stabw|min(imum)?|max(imum)?|mw|se|sem|iqr|[mn] ?="
# A visit with its day, such as `Visit 1 (Day 1)`.
_IN_BRACKETS = re.compile(r"((visit|visite|besuch|v) ?\d+) ?\([^()]*\d[^()]*\)", re.IGNORECASE)
# An event of REDCap: the visit and the arm of the study.
_EVENT = r"(.+)_arm_(\d+)"


def observed(source: Source, subject: str = "") -> Source:
    """The table without rows that were imputed, deleted, or describe or sum up others; with REDCap's visits."""
    source = _without_units(_without_deleted(_without_imputed(source)), subject)
    return _without_brackets(_visits_of_events(_without_sums(source, subject)))


def analysed(source: Source, subject: str = "") -> Source:
    """The table with the row that is analysed (ANL01FL = Y) where a subject has several of one visit."""
    flag = next((name for name, cells in source.cells.items() if Column(name, cells).exactly(ANALYSED)), "")
    keys = key_columns(source, source.roles(subject)) if flag else {}
    groups = defaultdict(list)
    for row, names in enumerate(names_of_rows(source, keys) if keys else ()):
        groups[names].append(row)
    dropped = set()
    for rows in groups.values():
        marked = [row for row in rows if source.cells[flag][row].casefold() in ("y", "yes", "1")]
        dropped |= set(rows) - set(marked) if len(marked) == 1 else set()
    reason = f"because another row of the same {names_text(list(keys.values()))} has {flag} = Y"
    people = {source.cells[keys["subject"]][row]: source.numbers[row] for row in dropped}
    return replace(_without(source, dropped, reason, ""), not_analysed=people)


def _without(source: Source, dropped: Collection[int], reason: str, shown: str) -> Source:
    """The table without some rows, with a doubt that names them; `shown` stands before their numbers."""
    kept = [row for row in range(len(source.numbers)) if row not in dropped]
    if not dropped or not kept:
        return source
    rows = rows_text([source.numbers[row] for row in dropped], 3)
    doubt = f"Rows of {source.path.name} that were left out, {reason}: {len(dropped):,} ({shown}{rows})."
    return replace(
        source,
        cells={name: [cells[row] for row in kept] for name, cells in source.cells.items()},
        numbers=[source.numbers[row] for row in kept],
        doubts=[*source.doubts, doubt],
        changed=True,
    )


def _without_imputed(source: Source) -> Source:
    """The table without rows whose DTYPE says that they were imputed, such as LOCF."""
    column = next((name for name in source.cells if Column(name, ()).header == "dtype"), "")
    values = source.cells.get(column, [])
    imputed = [row for row, value in enumerate(values) if re.fullmatch(_IMPUTED, value, re.IGNORECASE)]
    shown = names_text(list(dict.fromkeys(values[row] for row in imputed)), 3)
    return _without(source, imputed, "because they were imputed and are no visits", f"{column} {shown}; ")


def _without_deleted(source: Source) -> Source:
    """The table without records that a data capture system has as no longer active."""
    column = next((name for name in source.cells if Column(name, ()).header in ("record active", "recordactive")), "")
    deleted = [
        row for row, value in enumerate(source.cells.get(column, [])) if value.casefold() in ("0", "false", "no")
    ]
    return _without(source, deleted, "because they are no longer active", f"{column}; ")


def _without_units(source: Source, subject: str) -> Source:
    """The table without a first row that has the unit or form of each column, such as `mm` and `dd.mm.yyyy`."""
    subjects = source.cells.get(source.roles(subject).subject, [])
    if len(subjects) < 3 or subjects[0] or not all(subjects[1:]):
        return source
    rest = {name: Column(name, cells[1:]) for name, cells in source.cells.items() if cells[0]}
    typed = [name for name, column in rest.items() if column.numbers is not None or column.are_dates]
    if not typed or any(Column(name, source.cells[name][:1]).numbers for name in typed):
        return source
    shown = names_text([source.cells[name][0] for name in typed], 3)
    return _without(source, [0], "because they describe the columns", f"{shown}; ")


def _without_sums(source: Source, subject: str) -> Source:
    """The table without rows such as `Mean` or `Total`, which stand where others have a subject."""
    subjects = source.cells.get(source.roles(subject).subject, [])
    others = [name for name, cells in source.cells.items() if Column(name, cells).numbers is None]
    names: dict[int, str] = {}
    for row in range(len(subjects) - 1, -1, -1):
        # `Max` may be a person, unless the row lacks what others have or is among sums
        at_end = len(names) == len(subjects) - 1 - row and (bool(names) or _lacks_cells(source, row))
        of_row = [subjects[row]] if subjects[row] else [source.cells[name][row] for name in others]
        name = next((cell for cell in of_row if _is_sum(cell, at_end=at_end)), "")
        if name and (_lacks_cells(source, row) or len(names) == len(subjects) - 1 - row):
            names[row] = name
    shown = names_text(list(dict.fromkeys(reversed(names.values()))), 3)
    return _without(source, names, "because they sum others up", f"{shown}; ")


def _lacks_cells(source: Source, row: int) -> bool:
    """Whether a row has no value in a column in which nearly all rows above it have one."""
    return any(row and not cells[row] and cells[:row].count("") <= row / 5 for cells in source.cells.values())


def _is_sum(text: str, *, at_end: bool) -> bool:
    plain = re.sub(r"[\W_]+", " ", unaccented(text)).strip()
    return re.fullmatch(_LAST_SUMS if at_end else _SUMS, plain) is not None


def _visits_of_events(source: Source) -> Source:
    """The table with the visit in place of REDCap's event, such as `week 4` of `week_4_arm_1`, and the arm.

    Where most rows are of an instrument that is repeated within a visit, such as one for each lesion, it has their rows
    alone, with their number and what the other rows of the visit state.
    """
    for name, cells in source.cells.items():
        events = [re.fullmatch(_EVENT, cell) for cell in cells]
        if not cells or not all(events) or "visit" in source.cells:
            continue
        matches: Sequence[re.Match[str]] = [event for event in events if event]
        visits, arms = [event[1].replace("_", " ") for event in matches], [event[2] for event in matches]
        note = f"Visits: the events of {name}, such as {visits[0]} of {cells[0]}."
        rest = {other: values for other, values in source.cells.items() if other != name}
        arm = {"arm": arms} if len(set(arms)) > 1 and "arm" not in rest else {}
        events_as_visits = rest | {"visit": visits} | arm
        new = replace(source, cells=events_as_visits, notes=[*source.notes, note], changed=True)
        return _of_repeated_instrument(new) or replace(new, cells=new.cells | {"visit": _with_instances(new)})
    return source


def _without_brackets(source: Source) -> Source:
    """The table with numbered visits alone where all have their day in brackets, as `Visit 1 (Day 1)`, and differ."""
    for name, cells in source.cells.items():
        visits = [_IN_BRACKETS.fullmatch(cell) for cell in cells]
        short = [visit[1] for visit in visits if visit]
        if cells and len(short) == len(cells) and len(set(short)) == len(set(cells)):
            note = f"Visits of {name} without their day in brackets: {cells[0]} is {short[0]}."
            source = replace(source, cells=source.cells | {name: short}, notes=[*source.notes, note], changed=True)
    return source


def _column(source: Source, header: str) -> list[str]:
    """The cells of the column with this heading in words; empty ones if there is none."""
    none = [""] * len(source.numbers)
    return next((cells for name, cells in source.cells.items() if Column(name, ()).header == header), none)


def _records(source: Source) -> list[str]:
    return source.cells.get(source.roles().subject, [""] * len(source.numbers))


def _of_repeated_instrument(source: Source) -> Source | None:
    """The rows of the instrument that most rows are of; None if there is none."""
    instruments, instances = _column(source, "redcap repeat instrument"), _column(source, "redcap repeat instance")
    ((instrument, count),) = Counter(filter(None, instruments)).most_common(1) or [("", 0)]
    if count < len(instruments) / 2:
        return None
    kept = [row for row, own in enumerate(instruments) if own == instrument]
    visits = list(zip(_records(source), source.cells["visit"], strict=True))
    first = {visits[row]: row for row, own in reversed(list(enumerate(instruments))) if not own}
    number = next(name for name in (instrument, "number", f"number of {instrument}") if name not in source.cells)
    others = Counter(own or "no repeated instrument" for own in instruments if own != instrument)
    cells = {
        name: [values[row] or (values[first[visits[row]]] if visits[row] in first else "") for row in kept]
        for name, values in source.cells.items()
        if not Column(name, ()).header.startswith("redcap repeat")
    }
    doubt = (
        f"Rows of {source.path.name} that were left out, because most are of the repeated instrument {instrument!r}: "
        f"{names_text([f'{own} ({times:,})' for own, times in others.items()], 4)}. Rows of {instrument!r} have what "
        "rows without a repeated instrument state of their visit; visits without such a row are not used."
    )
    return replace(
        source,
        cells=cells | {number: [instances[row] for row in kept]},
        numbers=[source.numbers[row] for row in kept],
        doubts=[*source.doubts, doubt],
    )


def _with_instances(source: Source) -> list[str]:
    """Visits, also those that an event repeats with the number of each, such as `unscheduled 2`."""
    visits, instances, records = source.cells["visit"], _column(source, "redcap repeat instance"), _records(source)
    counts = Counter(zip(records, visits, strict=True))
    return [
        f"{visit} {instance}" if instance and counts[record, visit] > 1 else visit
        for record, visit, instance in zip(records, visits, instances, strict=True)
    ]
