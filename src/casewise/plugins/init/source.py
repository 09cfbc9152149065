"""A table by column, and the columns that say which subject, visit, region and photograph each row is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from casewise.cohort.clinical_words import PART, REGION, SITE, VISIT, Words
from casewise.cohort.folder_layout import find_region
from casewise.cohort.table import names_text
from casewise.errors import CasewiseError, cut
from casewise.plugins.init.columns import Column, Roles, understand_columns
from casewise.plugins.init.key_names import names_visit, words

PHOTO = r"photo(graph)?|image|picture|foto|bild|shot|view"
_IMAGE_NUMBER = (
    r"((photo(graph)?|image|picture|foto|bild|img|shot|file|view|aufnahme) ?)?(no|nr|num(ber)?|index|idx|n)|"
    rf"{PHOTO}"
)
_TEETH = {10.0 * quadrant + tooth for quadrant in range(1, 9) for tooth in range(1, 9)}
_MOST_REGIONS = 20
# The column of the names of tables that are centres.
CENTRE = "centre"


@dataclass(frozen=True)
class Source:
    """A table by column, with the number of each row for messages, and sentences on how it was made.

    `labels` describe columns that were codes, such as PARAMCD. `became` is by code, and by column whose values became
    rows, the column that has its values. `not_analysed` is by subject the number of a row that was left out, because
    another one of the same visit is analysed. `changed`: it is not the file any more.
    """

    path: Path
    cells: dict[str, list[str]]
    numbers: list[int]
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    became: dict[str, str] = field(default_factory=dict)
    not_analysed: dict[str, int] = field(default_factory=dict)
    changed: bool = False

    def roles(self, subject: str = "") -> Roles:
        return understand_columns(self.cells, subject=subject if subject in self.cells else "", numbers=self.numbers)


def key_columns(
    source: Source, roles: Roles, *, regions: Sequence[str] = (), targets: Iterable[str] = ()
) -> dict[str, str]:
    """The columns that say which subject, visit, region and photograph a row is about; {} without a subject.

    A visit may be the same in all rows, and where no column names visits, a date is one.
    """
    if not roles.subject:
        return {}
    columns = [Column(name, values) for name, values in source.cells.items() if name not in {roles.subject, *targets}]
    keys = {"subject": roles.subject}
    visits = [c for c in columns if c.exactly(VISIT) and c.filled == 1 and (len(c.counts) > 1 or c.numbers is None)]
    texts = [c.name for c in visits if all(map(names_visit, c.counts))]
    if visit := next(iter([*texts, *([roles.visit] if roles.visit else []), *(c.name for c in visits)]), roles.date):
        keys["visit"] = visit
    texts_only = [c for c in columns if c.name != visit and c.filled == 1 and 1 <= len(c.counts) <= _MOST_REGIONS]
    texts_only = [c for c in texts_only if c.numbers is None]
    of_study = [c.name for c in texts_only if regions and all(find_region(v, list(regions)) for v in c.counts)]
    texts_only = [c for c in texts_only if not _names_hospitals(c)]
    named = [c.name for c in texts_only if c.exactly(REGION) and c.name not in roles.sources]
    region = next(iter([*of_study, *named, *(c.name for c in texts_only if c.exactly(REGION))]), "")
    if region and (of_study or rows_repeat(source, keys)):
        keys["region"] = region
    if site := next((c.name for c in columns if _names_hospitals(c) and _restarts(source, keys, c.name)), ""):
        keys = {"site": site, **keys}
    if rows_repeat(source, keys):
        numbers = [
            c.name for c in columns
            if (c.exactly(_IMAGE_NUMBER) or _numbers_parts(c)) and c.name not in keys.values() and c.filled == 1
        ]  # fmt: skip
        if number := next((name for name in numbers if not rows_repeat(source, keys | {"number": name})), ""):
            keys["number"] = number
    return keys


def with_whole_regions(source: Source, subject: str) -> Source:
    """The table with a column `region`, such as `hand left`, where two columns together say where on the body a row is.

    They do if rows are told apart by both and by neither alone.
    """
    keys = key_columns(source, source.roles(subject))
    first = keys.get("region", "")
    if not first or "region" in source.cells or not rows_repeat(source, keys):
        return source
    for name, values in source.cells.items():
        column = Column(name, values)
        is_other = name != first and column.exactly(REGION) and column.filled == 1 and column.numbers is None
        if is_other and not rows_repeat(source, keys | {"other": name}):
            regions = [f"{other_cell} {cell}" for other_cell, cell in zip(values, source.cells[first], strict=True)]
            if len(set(regions)) > _MOST_REGIONS:
                return source
            note = f"Regions: {first} and {name} of the table together, such as {regions[0]}."
            cells = {"region": regions, **source.cells}
            return replace(source, cells=cells, notes=[*source.notes, note], changed=True)
    return source


def _numbers_parts(column: Column) -> bool:
    """Whether a column numbers lesions or teeth; under such a heading, 0 and 1 say whether there is one."""
    numbers = column.numbers if column.exactly(rf"({PART})( ?(no|nr|num(ber)?|id|index))?") else None
    return numbers is not None and column.are_whole and (min(numbers) == 1 or set(numbers) <= _TEETH)


def _names_hospitals(column: Column) -> bool:
    """Whether a column has hospitals; under a heading such as `site`, texts without digits are sites of the body."""
    digits = all(any(letter.isdigit() for letter in value) for value in column.counts)
    named = column.exactly(SITE) and column.filled == 1 and len(column.counts) > 1
    return named and (digits or not column.exactly(REGION))


def _restarts(source: Source, keys: Mapping[str, str], site: str) -> bool:
    """Whether numbers of subjects start again at each site: rows of one subject and visit are of several."""
    return len(set(names_of_rows(source, {**keys, "site": site}))) > len(set(names_of_rows(source, keys)))


def with_sites(source: Source, keys: Mapping[str, str]) -> Source:
    """The table whose subjects are SITE-SUBJECT, where their numbers start again at each site (`site` in the keys)."""
    if "site" not in keys:
        return source
    pairs = list(zip(source.cells[keys["site"]], source.cells[keys["subject"]], strict=True))
    subjects = [f"{site}-{subject}" for site, subject in pairs]
    return replace(
        source,
        cells=source.cells | {keys["subject"]: subjects},
        doubts=[
            *source.doubts,
            f"Subjects: numbers of {keys['subject']} start again at each {keys['site']}, so that subjects are "
            f"{keys['site']}-{keys['subject']}, such as {names_text(list(dict.fromkeys(subjects)), 3)}. Check that the "
            "paths have both where it says so above.",
        ],
        changed=True,
    )


def names_of_rows(source: Source, keys: Mapping[str, str]) -> list[tuple[Words, ...]]:
    by_role = [[words(cell, role) for cell in source.cells[column]] for role, column in keys.items()]
    return list(zip(*by_role, strict=True))


def rows_repeat(source: Source, keys: Mapping[str, str]) -> bool:
    names = names_of_rows(source, keys)
    return len(set(names)) < len(names)


def check_subjects(source: Source, subject: str) -> None:
    """Refuse subjects of a table that are one name in another spelling.

    Raises:
        CasewiseError: there are some.
    """
    spellings: dict[Words, dict[str, int]] = defaultdict(dict)
    for row, cell in zip(source.numbers, source.cells[subject], strict=True):
        spellings[words(cell)].setdefault(cell, row)
    if several := next((rows for name, rows in spellings.items() if name and len(rows) > 1), None):
        shown = " and ".join(f"{cut(cell)} (row {row})" for cell, row in list(several.items())[:3])
        raise CasewiseError(
            f"{source.path}, column {subject}: {shown} may be one subject in two spellings, and are not joined. Write "
            "each subject in one way, or different subjects in clearly different ways."
        )
