"""The ways in which the rows of a table may be joined to paths, and the best of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from casewise.cohort.clinical_words import (
    STRONG_SUBJECT,
    VISIT,
)
from casewise.cohort.folder_layout import FIELDS, OF_FILES, Pattern, find_region
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, counted, cut
from casewise.names import heading_words
from casewise.plugins.init.columns import Column
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.joins.date_checks import check_dates, contradictory_dates
from casewise.plugins.init.joins.dated_visits import visits_of_dates
from casewise.plugins.init.joins.join_images import Joined, join_images, met
from casewise.plugins.init.joins.path_words import visits_in_paths
from casewise.plugins.init.key_names import names_visit, words
from casewise.plugins.init.row_per_case import by_dated_visit, by_part, by_region, by_visit
from casewise.plugins.init.source import (
    Source,
    check_subjects,
    key_columns,
    with_whole_regions,
)
from casewise.plugins.init.table_dates import with_ordered_dates

# The share of the paths that must state a visit before columns of visits become rows.
_OF_VISITS = 0.8
# Headings of numbers that may name files.
_NUMBER_OF_FILES = (
    rf"(({STRONG_SUBJECT}|case|fall|study|image|photo|picture|bild|foto|file|slide|scan|record|lab|accession)s? ?)*"
    r"(id|no|nr|num(ber)?|nummer|code|key|index|barcode|identifier|pseudonym)?|\w*(nummer|nr|id|no|code)"
)


def best_join(
    source: Source, images: ImageFiles, regions: Sequence[str], stated: Pattern | None, subject: str
) -> tuple[Source, Joined]:
    """The table, perhaps with a row for each region, and the images of its rows; no image where too few rows meet."""
    source = _row_for_each(source, images.paths, regions, subject)
    roles = source.roles(subject)
    keys, joined = key_columns(source, roles, regions=regions), Joined()
    if keys:
        stated, keys = _with_other_fields(stated, keys, source)
        check_subjects(source, keys["subject"])
        join = _Join(_alike(source, keys, regions), images.paths, keys, regions, stated, roles.date, roles.dated)
        source, joined = join.best()
        if join.meets(joined):
            return source, joined
    if joined.paths:
        row, paths = next(iter(joined.paths.items()))
        joined.doubts.append(
            f"Only {len(joined.paths):,} of {counted(len(source.numbers), 'row')} would meet an image, and "
            f"{sum(map(len, joined.paths.values())):,} of {counted(len(images.paths), 'image')} a row, by "
            f"{names_text(list(joined.columns.values()), 4)}, such as {paths[0]} row {source.numbers[row]}"
        )
    joined.paths.clear()
    for name in [name for name, values in source.cells.items() if identifies(Column(name, values))]:
        try:
            other = join_images(source.cells, images.paths, {"subject": name}, stated=stated)
        except CasewiseError:  # of a column that may not name people
            continue
        if met(other, len(source.numbers), len(images.paths), both=True):
            return source, other
    return source, joined


def _row_for_each(source: Source, paths: Sequence[str], regions: Sequence[str], subject: str) -> Source:
    """The table with a row for each region, visit, lesion or photograph that its columns name."""

    def keys() -> dict[str, str]:
        return key_columns(source, source.roles(subject), regions=regions)

    visits = visits_in_paths(paths, _OF_VISITS).values()
    source = with_ordered_dates(by_dated_visit(source, keys()) if visits else source, paths)
    if not regions:
        source = with_whole_regions(source, subject)
    source = by_region(source, keys(), regions, (word for path in paths for word in words(path)))
    source = by_visit(source, keys(), visits)
    return by_part(source, keys())


@dataclass(frozen=True)
class _Join:
    """The ways in which the rows of a table may be joined to paths by its `keys`, the columns by what they state.

    `date` is the column of dates ('': none), and `dated` has the dates of all columns that may date images (`Roles`).
    """

    source: Source
    paths: Sequence[str]
    keys: dict[str, str]
    regions: Sequence[str]
    stated: Pattern | None
    date: str
    dated: Mapping[str, list[str]]

    def best(self) -> tuple[Source, Joined]:
        """The table and its images by the first way in which enough rows meet, or by the keys alone.

        Raises:
            CasewiseError: paths fit the keys in two ways, or give one person the images of another.
        """
        source, joined = self._first()
        if joined.paths:
            check_dates(joined, self.source, self._people, self.dated, is_stated=self.stated is not None)
        return source, joined

    def _first(self) -> tuple[Source, Joined]:
        if self._by_date:
            if by_visits := self._by_filled_visits():
                return by_visits
            return self._by_days_from_first(self._by_column_of_dates())
        dated = bool(self.date and "visit" in self.keys)
        try:
            joined = self._joined(self.keys)
        except CasewiseError:
            if not dated:
                raise
            joined = Joined()
        else:
            if not self._reads_visits(joined) and (other := self._by_other_columns()):
                return self.source, other
        if dated and not self._reads_visits(joined):  # the paths may state the dates of the visits
            again = self._by_column_of_dates()
            if self._reads_visits(again):
                return self.source, again
            joined = joined if joined.columns else again
        if dated and joined.paths and "visit" in joined.columns:
            joined.doubts += contradictory_dates(self._people, self.source.cells[self.keys["visit"]], self.dates)
        return self.source, joined

    def meets(self, joined: Joined) -> bool:
        return met(joined, len(self.source.numbers), len(self.paths))

    def _reads_visits(self, joined: Joined) -> bool:
        """Whether enough rows meet, by the visit as well if there is a column of visits."""
        return ("visit" in joined.columns or "visit" not in self.keys) and self.meets(joined)

    @property
    def _by_date(self) -> bool:
        """Whether no column names visits, so that dates do."""
        return self.keys.get("visit") == self.date != ""

    @property
    def _people(self) -> list[str]:
        columns = [self.source.cells[self.keys[role]] for role in ("site", "subject") if role in self.keys]
        return ["-".join(parts) for parts in zip(*columns, strict=True)]

    def _joined(self, columns: Mapping[str, str], cells: Mapping[str, list[str]] = MappingProxyType({})) -> Joined:
        """The join by these columns; `cells` are of columns that the table does not have, or in place of its own."""
        return join_images(
            {**self.source.cells, **cells}, self.paths, columns, regions=self.regions, stated=self.stated
        )  # fmt: skip

    @property
    def dates(self) -> list[str]:
        """The dates of `date`, by row."""
        return self.dated.get(self.date, [])

    def _by_column_of_dates(self) -> Joined:
        """By `date` as the visit.

        Raises:
            CasewiseError: by another column of dates, as many images or more would be of other rows.
        """
        own = self._joined(self.keys | {"visit": self.date}, {self.date: self.dates})
        rows = {path: row for row, paths in own.paths.items() for path in paths}
        for name, dates in self.dated.items() if "visit" in own.columns else ():
            if name == self.date:
                continue
            try:
                other = self._joined(self.keys | {"visit": name}, {name: dates})
            except CasewiseError:
                continue
            others = {path: row for row, paths in other.paths.items() for path in paths}
            if "visit" in other.columns and len(others) >= len(rows) and others != rows:
                path = next(path for path, row in others.items() if rows.get(path) != row)
                by_own = f"row {self.source.numbers[rows[path]]}" if path in rows else "no row"
                raise CasewiseError(
                    f"{self.source.path}: WHICH DATE IS THAT OF THE IMAGES? By {self.date}, {len(rows):,} images would "
                    f"have a row, and by {name} {len(others):,}: {path} is of {by_own} by {self.date}, and of row "
                    f"{self.source.numbers[others[path]]} by {name}. If these are two visits of a row, write a row for "
                    "each; if not, delete the other column in a copy of the table."
                )
        return own

    def _by_filled_visits(self) -> tuple[Source, Joined] | None:
        """By a column of visits with gaps, whose rows have their date as the visit: a stated visit counts."""
        for name, values in self.source.cells.items():
            column = Column(name, self.dates if name == self.date else values)
            if not column.exactly(VISIT) or not column.counts:
                continue
            filled = [cell or f"on {date}" for cell, date in zip(column.cells, self.dates, strict=True)]
            try:
                joined = self._joined(self.keys | {"visit": name}, {name: filled})
            except CasewiseError:  # the paths may state the dates instead
                continue
            if self._reads_visits(joined):
                joined.doubts += contradictory_dates(self._people, column.cells, self.dates)
                return replace(self.source, cells=self.source.cells | {name: filled}), joined
        return None

    def _by_days_from_first(self, joined: Joined) -> tuple[Source, Joined]:
        """By the photographed visit of each date, if the paths do not state the dates, as they do in `joined`."""
        if "visit" in joined.columns and joined.paths:
            return self.source, joined
        source = self.source
        people: dict[str, list[str]] = {
            role: source.cells[self.keys[role]] for role in ("site", "subject") if role in self.keys
        }
        dated = visits_of_dates(people, self.dates, self.paths, regions=self.regions, stated=self.stated)
        if dated.joined:
            name = "visit" if "visit" not in source.cells else "visit of photographs"
            again = self._joined(self.keys | {"visit": name}, {name: dated.visits})
            if len(again.paths) > len(joined.paths):
                notes = [*source.notes, *filter(None, [dated.note])]
                source, joined = replace(source, cells=source.cells | {name: dated.visits}, notes=notes), again
        joined.doubts += dated.doubts
        return source, joined

    def _by_other_columns(self) -> Joined | None:
        """By another column of visits, or by subjects that paths state in two folders; None if rows do not meet.

        `ABC-01-007` may be in `Site 01/Subject 007`.
        """
        cells, subjects = self.source.cells, self.keys["subject"]
        columns = [Column(name, values) for name, values in cells.items()] if "visit" in self.keys else []
        visits = [c.name for c in columns if c.exactly(VISIT) and c.filled == 1 and c.name != self.keys["visit"]]
        tried, divided = [self.keys | {"visit": name} for name in visits], list[dict[str, str]]()
        names, parts = [words(cell) for cell in cells[subjects]], dict[str, list[str]]()
        ends = {name[-2:] for name in names}
        if "site" not in self.keys and min(map(len, names)) > 1 and len(ends) == len(set(names)):
            site, subject = f"{subjects}, before the end", f"{subjects}, end"
            parts = {site: [name[-2] for name in names], subject: [name[-1] for name in names]}
            divided = [{"site": site, **columns, "subject": subject} for columns in (self.keys, *tried)]
        for of_columns in (*tried, *divided):
            try:
                joined = self._joined(of_columns, parts)
            except CasewiseError:
                continue
            if of_columns.keys() & {"visit", "site", "subject"} <= joined.columns.keys() and self.meets(joined):
                if of_columns in divided:
                    before = re.search(r"([^\W\d_]+)[\W_]*\{site\}", joined.pattern)
                    if before and names_visit(f"{before[1]} 1"):
                        continue
                    path, row = next((paths[0], row) for row, paths in joined.paths.items())
                    joined.doubts.append(
                        f"THE SAME PEOPLE? The paths divide {subjects}: {cut(cells[subjects][row])} was joined with "
                        f"{path}, read as {joined.pattern}. Check that they are the same people."
                    )
                    joined.columns = {**joined.columns, "subject": subjects}
                    del joined.columns["site"]
                return joined
        return None


def _with_other_fields(
    stated: Pattern | None, keys: dict[str, str], source: Source
) -> tuple[Pattern | None, dict[str, str]]:
    """A stated pattern and the keys with the columns that its other fields name, which take part in the join."""
    headers = {Column(name, ()).header: name for name in source.cells}
    for field_name in stated.fields if stated else ():
        column = headers.get(heading_words(field_name), "")
        if stated and column and field_name not in {*FIELDS, *OF_FILES} | keys.keys() - {"site"}:
            role = next((role for role, name in keys.items() if name == column), field_name)
            stated = Pattern(stated.text.replace(f"{{{field_name}}}", f"{{{role}}}"), stated.doubts)
            keys = {role: column, **keys}
    return stated, keys


def _alike(source: Source, keys: Mapping[str, str], regions: Sequence[str]) -> Source:
    """The table with one spelling of each visit, and with the study's names of its regions."""
    cells, notes = dict(source.cells), []
    for role in ("visit", "region"):
        if role not in keys:
            continue
        first: dict[tuple[str, ...], str] = {}
        own = [find_region(cell, list(regions)) if role == "region" and regions else "" for cell in cells[keys[role]]]
        new = [
            name or first.setdefault(words(cell, role), cell) for cell, name in zip(cells[keys[role]], own, strict=True)
        ]
        pairs = dict.fromkeys((a, b) for a, b in zip(cells[keys[role]], new, strict=True) if a != b)
        if pairs:
            notes.append(f"Spelling of {role}s: {names_text([f'{a} is {b}' for a, b in pairs], 4)}.")
            cells[keys[role]] = new
    return replace(source, cells=cells, notes=[*source.notes, *notes]) if notes else source


def identifies(column: Column) -> bool:
    """Whether a column may name people by itself; dates, which several people share, do not."""
    dates = all(words(cell, "visit")[:1] == ("date",) for cell in column.counts if cell)
    named = column.exactly(r".*(date|datum|age|score|dtc|dt).*")
    # a count of lesions is no number of a photograph
    numbered = column.numbers is None or column.exactly(_NUMBER_OF_FILES)
    return column.filled > 0.9 and len(column.counts) > 3 and column.are_whole and numbered and not named and not dates
