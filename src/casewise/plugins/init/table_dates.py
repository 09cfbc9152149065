"""Dates of a table whose order of day and month, or century, the paths or the calendar show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from casewise.cohort.clinical_words import STRONG_SUBJECT
from casewise.cohort.table import is_no_day, read_dates
from casewise.plugins.init.columns import MOSTLY, Column, names_people
from casewise.plugins.init.joins.path_words import visits_in_paths
from casewise.plugins.init.key_names import words
from casewise.plugins.init.source import Source

# With `-`, the year may come first.
_SHORT_YEAR = re.compile(r"^(\d\d?)([./])(\d\d?)\2(\d\d)$")
# The share of the dates of a column that the paths have in the right order of day and month, and in the wrong one.
_NEARLY_ALL, _HALF = 0.9, 0.5


def with_ordered_dates(source: Source, paths: Sequence[str]) -> Source:
    """The table with dates such as 07/08/2023 in the only order of day and month in which the paths have them too."""
    names = (words(visit, "visit") for visit in dict.fromkeys(visits_in_paths(paths).values()))
    days = {int(name[1]) for name in names if name[:1] == ("date",)}
    for column, cells in source.cells.items() if days else ():
        texts = [text for text in dict.fromkeys(cells) if text]
        if len(read_dates(texts)) == len(texts):
            continue
        orders = {"the day": read_dates([*texts, "31/01/2024"]), "the month": read_dates([*texts, "01/31/2024"])}
        shares = {order: sum(read.get(text) in days for text in texts) / len(texts) for order, read in orders.items()}
        order = max(shares, key=shares.__getitem__)
        if shares[order] >= _NEARLY_ALL and min(shares.values()) < _HALF:
            dates = [date.fromordinal(day).isoformat() if (day := orders[order].get(t)) else t for t in cells]
            note = f"Dates of {column} begin with {order}, because the paths have them too, such as {texts[0]}."
            source = replace(source, cells=source.cells | {column: dates}, notes=[*source.notes, note], changed=True)
    return source


def _names_people(column: Column) -> bool:
    return names_people(column) or column.exactly(rf"({STRONG_SUBJECT})( ?(id|no|nr|num(ber)?|nummer|code))?")


def with_whole_years(source: Source) -> Source:
    """The table with dates such as 12.05.21 or 5/12/21 with whole years, where none would be in the future."""
    for column, cells in source.cells.items():
        texts = {cell: _SHORT_YEAR.sub(r"\1\2\3\g<2>20\4", cell) for cell in cells if cell}
        if not texts or any(whole == text for text, whole in texts.items()) or _names_people(Column(column, cells)):
            continue
        years = {int(text[-4:]) for text in texts.values()}
        # of dates in an unclear order of day and month, paths may show it; a few may not exist, such as 31.02.21
        existing = [text for text in texts.values() if not is_no_day(text)]
        enough = len(existing) >= MOSTLY * len(texts)
        if enough and Column(column, existing).are_dates and max(years) <= date.today().year:
            first = next(iter(texts))
            note = f"Dates of {column} have years of two digits: {first} was read as {texts[first]}."
            whole_cells = source.cells | {column: [texts.get(cell, "") for cell in cells]}
            source = replace(source, cells=whole_cells, notes=[*source.notes, note], changed=True)
    return source
