"""What a join of rows and images means for them: refusals of unclear rows, and doubts for the user."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from casewise.cohort.clinical_words import (
    AFTER,
    BEFORE,
    PART,
    SITE,
    VISIT,
    plain_words,
    region_phrases,
)
from casewise.cohort.folder_layout import FIELDS, OF_FILES, Pattern
from casewise.cohort.table import names_text, rows_text
from casewise.errors import CasewiseError, counted, cut, nearest
from casewise.names import heading_words
from casewise.plugins.init.columns import Column
from casewise.plugins.init.image_files import ImageFiles
from casewise.plugins.init.image_rows import ImageRows
from casewise.plugins.init.joins.join_checks import OF_FILES_ONLY
from casewise.plugins.init.joins.join_images import Joined
from casewise.plugins.init.key_names import one_of_each, words
from casewise.plugins.init.source import (
    Source,
)
from casewise.plugins.init.word_forms import is_field

ONE_VALUE = "ONE VALUE FOR ALL VISITS?"


def one_value_for_visits(rows: ImageRows, source: Source, joined: Joined) -> str:
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
        f"{ONE_VALUE} The table has no visit, and {counted(len(several), 'row has', 'rows have')} images "
        f"of several, such as {names_text(of_row, 4)} of {cut(source.cells[joined.columns['subject']][row])}. All of "
        "them get the values of the row. Where values belong to one visit, add a column `visit` to the table."
    )


def refuse_numbered_columns(source: Source, joined: Joined, target: str) -> None:
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


def people_of_fields(source: Source, joined: Joined, stated: Pattern) -> list[str]:
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


def refuse_unclear_sites(source: Source, joined: Joined) -> None:
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


def check_parts(joined: Joined, images: ImageFiles, stated: Pattern | None) -> None:
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


def refuse_other_keys(source: Source, joined: Joined, subject: str) -> None:
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


def refuse_not_analysed(source: Source, joined: Joined, paths: Sequence[str]) -> None:
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


def refuse_repeated(source: Source, joined: Joined) -> None:
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
