"""The images of a table that names no files: rows joined to the paths that state their subject, visit and region."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from casewise.cohort.clinical_words import (
    AFTER,
    BEFORE,
    PART,
    SITE,
    STRONG_SUBJECT,
    VISIT,
    plain_words,
    region_phrases,
)
from casewise.cohort.folder_layout import FIELDS, OF_FILES, Pattern, find_region
from casewise.cohort.table import iso_day, names_text, rows_text
from casewise.errors import CasewiseError, counted, cut, nearest
from casewise.names import heading_words
from casewise.plugins.init.columns import Column, names_people
from casewise.plugins.init.composed_names import composed_names
from casewise.plugins.init.dated_visits import (
    WINDOW,
    contradictory_dates,
    dates_of_other_rows,
    far_dates,
    visits_of_dates,
    with_ordered_dates,
)
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.image_rows import ROW_FIELDS, ImageRows
from casewise.plugins.init.join_checks import OF_FILES_ONLY
from casewise.plugins.init.joining import Joined, join_images, met
from casewise.plugins.init.key_names import day_of_visit, days_of_visits, names_visit, one_of_each, words
from casewise.plugins.init.path_dates import table_days
from casewise.plugins.init.path_words import paths_in_words, visits_in_paths
from casewise.plugins.init.patterns import read_all
from casewise.plugins.init.row_per_case import by_dated_visit, by_part, by_region, by_visit, check_several_columns
from casewise.plugins.init.source import (
    Source,
    check_subjects,
    key_columns,
    with_sites,
    with_whole_regions,
)
from casewise.plugins.init.word_forms import is_field

# Headings of numbers that may name files.
_NUMBER_OF_FILES = (
    rf"(({STRONG_SUBJECT}|case|fall|study|image|photo|picture|bild|foto|file|slide|scan|record|lab|accession)s? ?)*"
    r"(id|no|nr|num(ber)?|nummer|code|key|index|barcode|identifier|pseudonym)?|\w*(nummer|nr|id|no|code)"
)
# More numbers than grades may name people.
_FEWEST_SUBJECTS = 10
# The share of the paths that must state a visit before columns of visits become rows.
_OF_VISITS = 0.8


def joined_rows(
    source: Source, images: ImageFiles, regions: Sequence[str], stated: Pattern | None, subject: str, target: str
) -> tuple[ImageRows, list[str], Source]:
    """The images whose paths state the subject of a row, with its visit, region and number; and rows without one.

    Raises:
        CasewiseError: too few do.
    """
    source, joined = _best_join(source, images, regions, stated, subject)
    if not joined.paths:
        if not stated and (composed := _composed_rows(source, images, joined, subject, target)):
            return *composed, source
        raise _no_images(source, images, joined, stated, subject)
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
    _refuse_repeated(source, joined)
    _refuse_other_keys(source, joined, subject)
    _refuse_not_analysed(source, joined, images.paths)
    _check_parts(joined, images, stated)
    if stated:
        rows.doubts += _people_of_fields(source, joined, stated)
    else:
        _refuse_unclear_sites(source, joined)
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
    elif doubt := _one_value_for_visits(rows, source, joined):
        _refuse_numbered_columns(source, joined, target)
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
    if not of_subject or _subject_in_paths(source, images, joined):
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


def _one_value_for_visits(rows: ImageRows, source: Source, joined: Joined) -> str:
    """The doubt about a table without visits whose rows have images of several visits; '' if none has."""
    visits: dict[int, dict[str, None]] = defaultdict(dict)
    for row, visit in zip(rows.sources, rows["visit"], strict=True):
        visits[row][visit] = None
    several = {row: list(of_row) for row, of_row in visits.items() if len(of_row) > 1}
    for row, paths in joined.paths.items():
        names = [next((w for w in plain_words(path) if w in times), "") for path in paths for times in (BEFORE, AFTER)]
        if any(names[::2]) and any(names[1::2]):
            several.setdefault(row, list(dict.fromkeys(filter(None, names))))
    if not several:
        return ""
    row, of_row = next(iter(several.items()))
    return (
        f"ONE VALUE FOR ALL VISITS? The table has no visit, and {counted(len(several), 'row has', 'rows have')} images "
        f"of several, such as {names_text(of_row, 4)} of {cut(source.cells[joined.columns['subject']][row])}. All of "
        "them get the values of the row. Where values belong to one visit, add a column `visit` to the table."
    )


def _refuse_numbered_columns(source: Source, joined: Joined, target: str) -> None:
    """Refuse columns that differ in a number, such as `IGA_E1` and `IGA_E2`, where rows have images of several visits.

    Raises:
        CasewiseError: there are such columns of numbers, and the stated target is none or one of them.
    """
    series: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, cells in source.cells.items():
        heading = plain_words(name)
        if name in joined.columns.values() or Column(name, cells).numbers is None:
            continue
        for at, word in enumerate(heading):
            if word.isdecimal():
                series[*heading[:at], "", *heading[at + 1 :]].append(name)
    several = [names for names in series.values() if len(names) > 1 and (not target or target in names)]
    if several:
        raise CasewiseError(
            f"{source.path}: {' and '.join(several[0][:3])} may be the values of several visits, and the paths of a "
            "row name several, so that it is not clear which image has which value. Name the columns as the paths name "
            "the visits, such as `IGA week4`, or write a row for each visit. If all images of a row have the value of "
            "another column, say so with --target."
        )


def _people_of_fields(source: Source, joined: Joined, stated: Pattern) -> list[str]:
    """Doubts about fields of a stated pattern that may tell people apart, such as {cohort}/{subject}.

    Raises:
        CasewiseError: a field is a misspelt column, or a hospital that the table lacks.
    """
    subjects, doubts = source.cells[joined.columns["subject"]], list[str]()
    headers = {Column(name, ()).header: name for name in source.cells}
    for name in stated.fields:
        if name in {*FIELDS, *OF_FILES}:
            continue
        column = headers.get(heading_words(name), "")
        if not column and (hint := nearest(name, list(source.cells))):
            raise CasewiseError(f"--pattern: {{{name}}} is not a column of {source.path}.{hint}")
        values: dict[str, dict[str, None]] = defaultdict(dict)
        for row, paths in joined.paths.items():
            of_paths = [joined.stated[path].get(name, "") for path in paths]
            values[subjects[row]] |= dict.fromkeys([source.cells[column][row]] if column else of_paths)
        several = {subject: list(own) for subject, own in values.items() if len(own) > 1}
        if not several:
            continue
        subject, own = next(iter(several.items()))
        shown = (
            f"{counted(len(several), 'subject has', 'subjects have')} images with several values of {{{name}}}, such "
        )
        shown += f"as {names_text(own, 3)} of {cut(subject)}"
        if not column and Column(name, ()).exactly(SITE):
            raise CasewiseError(
                f"ONE PERSON OR SEVERAL? By --pattern {shown}, and the table does not say whose rows it has. Add a "
                f"column {name} to the table, or write its one {name} in place of {{{name}}}."
            )
        doubts.append(f"ONE PERSON OR SEVERAL? {shown}. Each is one subject, on one side of every split.")
    return doubts


def _refuse_unclear_sites(source: Source, joined: Joined) -> None:
    """Refuse a column `site` that may have hospitals, whose numbers start again, or places of the body.

    In the folder of a subject they can only be the latter.

    Raises:
        CasewiseError: it is not clear.
    """
    name = joined.columns.get("region", "")
    before, field_of_subject, _ = joined.pattern.partition("{subject}")
    column = Column(name, source.cells.get(name, []))
    of_body = all(is_field(value) or len(region_phrases(value)) > 1 for value in column.counts)
    if not name or not column.exactly(SITE) or not field_of_subject or "{region}" not in before or of_body:
        return
    raise CasewiseError(
        f"PLACES OF THE BODY OR HOSPITALS? The column {name!r} ({names_text(list(column.counts), 3)}) may be either. "
        f"If it has places of the body, repeat this with --pattern {joined.pattern!r}. If it has hospitals, so that "
        f"equal numbers of {joined.columns['subject']} are different people, change its heading to `hospital`."
    )


def _check_parts(joined: Joined, images: ImageFiles, stated: Pattern | None) -> None:
    """Refuse numbers of images as lesions or teeth where nothing says so and some images have another one.

    Raises:
        CasewiseError: they may count photographs.
    """
    column = joined.columns.get("number", "")
    before = re.search(r"([^\W\d_]+)[ _-]?\{n\}", joined.pattern)
    named = before is not None and not OF_FILES_ONLY.fullmatch(before[1].casefold())
    if stated or named or not Column(column, ()).named(PART):
        return
    used = {path for paths in joined.paths.values() for path in paths}
    if unused := next((path for path in images.paths if path not in used), ""):
        first = next(iter(joined.paths.values()))[0]
        raise CasewiseError(
            f"{column.upper()} OR PHOTOGRAPH? The column {column} would be joined to the numbers of the files, such "
            f"as {first}, but others, such as {unused}, have none of the table, so that they may count photographs. If "
            f"the files do have the number of a {column}, say so with --pattern {joined.pattern!r}; if not, write that "
            "number into the names, or the names of the files into the table."
        )
    joined.doubts.append(
        f"{column.upper()} OR PHOTOGRAPH? The column {column} was joined to the numbers of the files. Check that these "
        "do not count photographs."
    )


def _refuse_other_keys(source: Source, joined: Joined, subject: str) -> None:
    """Refuse paths that another column fits as well as the one by which they were joined, with other rows.

    Raises:
        CasewiseError: names both columns.
    """
    for role in ("subject", "visit"):
        key = joined.columns.get(role, "")
        if not key or (role == "subject" and subject):
            continue
        own = [words(cell, role) for cell in source.cells[key]]
        names_with_images = {own[row] for row in joined.paths}
        for name, cells in source.cells.items():
            other, column = [words(cell, role) for cell in cells], Column(name, cells)
            may_be = column.exactly(VISIT) if role == "visit" else set(other) == set(own) and one_of_each(own, other)
            if name in joined.columns.values() or len(names_with_images) < 2 or not may_be or other == own:
                continue
            if names_with_images <= set(other):
                remedy = f"--subject {cut(key)} or --subject {cut(name)}"
                remedy = "delete or rename the other column" if role == "visit" else f"say so with {remedy}"
                row = next((row for row in sorted(joined.paths) if own[row] != other[row]), None)
                if row is None:
                    continue
                raise CasewiseError(
                    f"{source.path}: the paths may state {cut(key)} or {cut(name)}, which would give them other rows: "
                    f"by {cut(key)}, {joined.paths[row][0]} is of row {source.numbers[row]}, where {cut(key)} is "
                    f"{cut(source.cells[key][row])} and {cut(name)} is {cut(cells[row])}. Find out which of them they "
                    f"state, and {remedy}."
                )


def _refuse_not_analysed(source: Source, joined: Joined, paths: Sequence[str]) -> None:
    """Refuse photographs without a row of a subject, a row of whom was left out for another one that is analysed.

    Raises:
        CasewiseError: there are some, so that it is not clear at which of the two visits the others were taken.
    """
    used = {path for own in joined.paths.values() for path in own}
    unused = [(set(words(path)), path) for path in paths if path not in used] if source.not_analysed else []
    for subject, row in source.not_analysed.items():
        if path := next((path for named, path in unused if named.issuperset(words(subject))), ""):
            raise CasewiseError(
                f"{source.path}, row {row}: this row of {cut(subject)} was left out, because another one of the same "
                f"visit is marked as analysed (ANL01FL = Y), and {path} has no row. It is not clear which of the two "
                "rows the photographs belong to. Name the visits in the table as the paths do, such as in a "
                "column VISIT, and delete the column of analysis visits."
            )


def _refuse_repeated(source: Source, joined: Joined) -> None:
    """Refuse rows of one subject, visit and region, where it is not clear which one the images belong to.

    Raises:
        CasewiseError: there are some.
    """
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = defaultdict(list)
    columns = [[words(cell, role) for cell in source.cells[name]] for role, name in joined.columns.items()]
    for row, key in zip(source.numbers, zip(*columns, strict=True), strict=True):
        groups[key].append(row)
    if repeated := [rows for key, rows in groups.items() if all(key) and len(rows) > 1]:
        raise CasewiseError(
            f"{source.path}, {rows_text(repeated[0])}: {len(repeated[0]):,} rows have the same "
            f"{', '.join(joined.columns.values())}, so that it is not clear which of them the images belong to (so do "
            f"the rows of {len(repeated) - 1:,} others). Keep one row of each, or add the column that differs, "
            "such as the visit or the number of the photograph, and write it into the names of folders or files."
        )


def _best_join(
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
    for name in [name for name, values in source.cells.items() if _identifies(Column(name, values))]:
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
            self._check_dates_in_paths(joined)
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
            if name == self.date or len(Column(name, self.source.cells[name]).values) != sum(map(bool, dates)):
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

    def _check_dates_in_paths(self, joined: Joined) -> None:
        """Refuse images that were joined to a row although their path has a date near another row's.

        Images with a date far from their row's are not used where most have one near it.

        Raises:
            CasewiseError: there are some, and the user did not state what the paths mean.
        """
        column, dates = next(iter(self.dated.items()), ("", []))
        if not column or joined.columns.get("visit") in self.dated:
            return
        if contrary := dates_of_other_rows(self._people, dates, joined.paths, joined.dates):
            path, (row, other) = next(iter(contrary.items()))
            exact = iso_day(dates[other]) in joined.dates[path]
            has = "has" if len(contrary) == 1 else "have"
            of_other = "the date of another visit in the path" if exact else "a date in the path near another visit's"
            visit = self.source.cells[self.keys["visit"]][row] if "visit" in joined.columns else ""
            text = (
                f"WHICH VISIT? {counted(len(contrary), 'image')} {has} {of_other}: {path}, read as {joined.pattern}, "
                f"is of {f'visit {cut(visit)}' if visit else 'a row'}, whose {column} is {dates[row]}, while "
                f"{dates[other]} is the {column} of another row of the subject"
            )
            if not self.stated:
                raise CasewiseError(
                    f"{self.source.path}, row {self.source.numbers[row]}: {text}. Correct the path or the table, or "
                    "say with --pattern what the paths mean: '{subject}_{date}_{n}.jpg' joins by the date."
                )
            joined.doubts.append(f"{text}.")
        alone = "visit" not in joined.columns
        counts = alone and re.search(r"(^|[^}\w]|[^\W\d]|_)\{subject\}\.\w+$", joined.pattern)
        window = 1 if counts else WINDOW
        far, near = far_dates(dates, joined.paths, joined.dates, window)
        if not far:
            return
        path, row = next(iter(far.items()))
        text = (
            f"OTHER DATES? {counted(len(far), 'image')} {'has' if len(far) == 1 else 'have'} a date in the path that "
            f"is more than {counted(window, 'day')} from its row's: {path}, read as {joined.pattern}, is of a "
            f"row whose {column} is {dates[row]}"
        )
        if self.stated or (len(far) > near and not counts):
            joined.doubts.append(f"{text}.")
        elif counts and len(far) > near:
            raise CasewiseError(
                f"{self.source.path}, row {self.source.numbers[row]}: {text}. The numbers of the files may count "
                f"photographs. If they are numbers of subjects, say so with --pattern {joined.pattern!r}."
            )
        else:
            joined.doubts.append(f"{text}. They are NOT used.")
            kept = {row: [path for path in paths if path not in far] for row, paths in joined.paths.items()}
            joined.paths = {row: paths for row, paths in kept.items() if paths}

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


def _subject_in_paths(source: Source, images: ImageFiles, joined: Joined) -> str:
    """Another column of subjects whose names occur in the paths, or any if no column has subjects; '' without one."""
    of_paths = {word for path in images.paths for word in words(path)}
    for name, values in source.cells.items():
        names, column = {words(value) for value in values if value}, Column(name, values)
        may_be = column.are_whole and not column.are_dates and len(names) > _FEWEST_SUBJECTS
        is_subject = column.exactly(STRONG_SUBJECT) if joined.columns else may_be
        other = name not in joined.columns.values() and is_subject
        if other and names and sum(map(of_paths.issuperset, names)) >= len(names) / 2:
            return name
    return ""


def _unread_columns(source: Source, subject: str) -> list[str]:
    """Sentences on columns of visits and dates that are not used."""
    return [doubt for doubt in source.roles(subject).doubts if re.match("(Date|Visit): .* IS NOT USED", doubt)]


def _dates_in_paths(source: Source, images: ImageFiles, subject: str) -> str:
    """A sentence on dates in most of the paths, and how many of them the table has; or ''."""
    every = paths_in_words(images.paths, table_days(source.cells))
    dated = [each for each in every if any(each.words_of_dates(segment) for segment in range(-len(each.segments), 0))]
    if 2 * len(dated) < len(every):
        return ""
    text = f". The paths have dates, such as {dated[0].path}"
    if not any(each.dates() for each in dated):
        return f"{text}, whose day and month cannot be told apart: write them as 2024-01-31"
    column, dates = next(iter(source.roles(subject).dated.items()), ("", []))
    if not column:
        return f"{text}, and the table has none: add a column `date`"
    days = {iso_day(each) for each in dates}
    hits = sum(not days.isdisjoint(each.dates().values()) for each in dated)
    of_all = f"{hits:,} of {counted(len(dated), 'path')}"
    return f"{text}; {of_all} have one of the column {column!r}. Only equal dates are joined"


def _read_by(stated: Pattern, images: ImageFiles) -> str:
    """What a stated pattern reads of the first path that it matches, and how many it does not."""
    values, rest = read_all(stated, images.paths)
    if not values:
        return f". --pattern {stated.text!r} matches none of the {len(images.paths):,} paths"
    path, fields = next(iter(values.items()))
    read = ", ".join(f"{name} {cut(text)}" for name, text in fields.items() if name not in OF_FILES)
    without = f", and does not match {len(rest):,}, such as {rest[0]}" if rest else ""
    return f". --pattern reads {path} as {read}{without}"


def _no_images(
    source: Source, images: ImageFiles, joined: Joined, stated: Pattern | None, subject: str
) -> CasewiseError:
    cells, shown = source.cells, ""
    unique = [name for name, values in cells.items() if _identifies(Column(name, values))]
    if keys := [name for name in joined.columns.values() if not names_people(Column(name, cells[name]))]:
        examples = dict.fromkeys(" ".join(row) for row in zip(*(cells[name] for name in keys), strict=True))
        shown = f"; {', '.join(map(repr, keys))} of the table are, for example, {names_text(list(examples), 3)}"
        absent = {name: values for name in keys if (values := joined.absent.get(name))}
        shown += "".join(f". No path has {name} {names_text(values, 3)}" for name, values in absent.items())
        shown += "".join(f". {doubt.rstrip('.')}" for doubt in joined.doubts)
        shown += "".join(f". {doubt.partition('. ')[0].rstrip('.')}" for doubt in _unread_columns(source, subject))
        shown += _read_by(stated, images) if stated else _dates_in_paths(source, images, subject)
        shown += _repeated_text(source, images, joined)
        if name := _subject_in_paths(source, images, joined):
            shown += f". The paths have {name}: repeat this with --subject {shlex.quote(name)}"
        if "site" in joined.columns:
            site, subject = joined.columns["site"], joined.columns["subject"]
            number = next(iter(cells[subject]), "")
            of_number = dict.fromkeys(s for s, n in zip(cells[site], cells[subject], strict=True) if n == number)
            shown += (
                f". Numbers of {subject} start again at each {site} ({number} at {names_text(list(of_number), 3)}), so "
                "that the paths must state both, such as {site}/{subject}"
            )
    elif name := _subject_in_paths(source, images, joined):
        shown = f". The paths have {name}: if it tells people apart, repeat this with --subject {shlex.quote(name)}"
    elif first := next((name for name in unique or cells if not names_people(Column(name, cells[name]))), ""):
        shown = names_text([value[:60] for value in dict.fromkeys(cells[first])], 3)
        shown = f"; cells of {first!r} are, for example, {shown}"
    remedy = "" if stated else "say what the paths state with --pattern, such as '{subject}/{visit}_{region}_{n}.jpg', "
    return CasewiseError(
        f"No column of the table names the images of {images.folder}, neither as files nor as their folders. "
        f"Files are, for example, {names_text(images.paths, 3)}{shown}. Add a column with the file names, {remedy}or "
        "name another folder with --images."
    )


def _repeated_text(source: Source, images: ImageFiles, joined: Joined) -> str:
    """A sentence on rows of the same subject and visit, and the column in the paths that tells them apart; or ''."""
    keys = list(joined.columns.values())
    rows: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(*(source.cells[name] for name in keys), strict=True)):
        rows[key].append(row)
    first = next((own for own in rows.values() if len(own) > 1), [])
    if not first:
        return ""
    text = f". Rows {' and '.join(str(source.numbers[row]) for row in first[:2])} have the same {names_text(keys, 4)}"
    some = " ".join(images.paths[:200]).casefold()
    for name, values in source.cells.items():
        different = {values[row].casefold() for row in first}
        if name not in keys and len(different) == len(first) and all(value and value in some for value in different):
            if heading_words(name) in OF_FILES:
                return (
                    f"{text}: if {name} tells their images apart, call it `part` in the table and in --pattern {{part}}"
                )
            written = name if re.fullmatch(r"\w+", name) else heading_words(name).replace(" ", "_")
            return f"{text}: if {name} tells their images apart, name it in --pattern as {{{written}}}"
    return f"{text}: keep one of them, or add what tells their images apart"


def _identifies(column: Column) -> bool:
    """Whether a column may name people by itself; dates, which several people share, do not."""
    dates = all(words(cell, "visit")[:1] == ("date",) for cell in column.counts if cell)
    named = column.exactly(r".*(date|datum|age|score|dtc|dt).*")
    # a count of lesions is no number of a photograph
    numbered = column.numbers is None or column.exactly(_NUMBER_OF_FILES)
    return column.filled > 0.9 and len(column.counts) > 3 and column.are_whole and numbered and not named and not dates
