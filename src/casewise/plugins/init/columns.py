"""What the columns of a table mean: subject, visit, date, split, source, and those that name people."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from casewise.cohort.checks import number
from casewise.cohort.dates import read_dates
from casewise.cohort.table import names_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.errors import cut
from casewise.plugins.init.image_files import stem_of
from casewise.splits.predefined import side_of

STRONG_SUBJECT = r"patients?|subjects?|participants?|probands?|persons?|people|pat|pid|mrn|subj|pt|proband(in)?|usubjid"
_WEAK_SUBJECT = r"id|code|case|cases|pseudonym|key|nr|no|number|identifier|record"
_VISIT = (
    r"visits?|visite|timepoint|time point|session|ses|weeks?|months?|follow ?up|fu|besuch|examination|exam|tp|wave|"
    r"termin"
)
_OF_IMAGES = (
    r"aufnahme|untersuchungs?|studien|bild|foto|visiten?|besuchs?|behandlungs?|therapie|scan|study|visit|exam|"
    r"examination|acquisition|recording|image|photo|treatment"
)
_DAY = rf"(({_OF_IMAGES}) ?)?(days?|tage?)( (no|nr|number))?|days? since \w+|tage? (seit|nach) \w+"
_DATE = (
    rf"dates?|datum|day|tag|when|acquired|acquisition date|visit date|exam date|study ?date|datetime|time|"
    rf"({_OF_IMAGES})(datum|tag)"
)
_SOURCE = (
    r"sites?|cent(er|re)s?|hospitals?|sources?|clinics?|klinik(um)?|krankenhaus|zentrum|"
    r"standort|institution|institut|institute|scanner|device|ger(ä|ae)t|manufacturer|hersteller|vendor|camera|kamera"
)
SPLIT = r"split|set|subset|partition|folds?|dataset split|usage|phase"
_SEQUENCE = r"sequences?|modality|contrast|series|weighting|sequenz|seq"
_PERSON = (
    r"(patients? |full |first |last |sur ?|family |given |middle |maiden )?names?|surname|lastname|firstname|forename|"
    r"vorname|nachname|familienname|geburtsname|patientname|e ?mail|phone|telephone|telefon|address|adresse|street|"
    r"strasse|ssn|social security( number)?|nhs( number)?|initials|initialen"
)
_NAME = r"names?|surname|lastname|firstname|forename|vorname|nachname|familienname|patientname"
_BIRTH = (
    r"(date of )?birth( ?date| ?day)?|dob|birthdate|birthday|geburtsdatum|geburtstag|geb|geb ?datum|patient birth date"
)
_IMAGE = r"images?|file|files|photo|photos|picture|slide|scan|path|img|foto|bild|filename"
_NAME_VALUE = re.compile(
    r"[A-ZÄÖÜÉ][a-zäöüßéèñ'’-]+(, ?| |\^)[A-ZÄÖÜÉ][\w'’.-]*( [A-ZÄÖÜÉ][\w'’.-]*)?|[A-Z]{2,}\^[A-Z^]+"
)
# Cells that state no value in tables of people; the study leaves such rows out by `where_not`.
EMPTY = NO_VALUE | {
    *("k.a.", "k. a.", "k.a", "keine angabe", "keine angaben", "n.a.", "n. a.", "n.d.", "not available", "not done"),
    *("not known", "unbekannt", "nicht erhoben", "entfällt", "--", "–", "—", "."),
}
# `none` is a finding, too; among numbers it means no value.
NO_TEXT = EMPTY - {"none"}
# A column is one of dates, or of numbers, if this share of its values are.
MOSTLY = 0.8
_SHOWN = 5
_IDENTIFIER = re.compile(r"[A-Za-z]{1,8}[-_ ]?\d+[\w-]*|\d{2,}[-_]\d+")


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, its cells without outer spaces, and what they are."""

    name: str
    cells: list[str]

    @property
    def header(self) -> str:
        """The name as words without case: `patientID` and `patient_id` are `patient id`.

        >>> Column("patientID", []).header, Column("Time-Point", []).header
        ('patient id', 'time point')
        """
        spaced = re.sub(r"(?<=[a-zäöü])(?=[A-Z])", " ", self.name)
        return re.sub(r"[\W_]+", " ", spaced).strip().casefold()

    def named(self, expression: str) -> bool:
        """Whether the header is one of these names, or has one of them as a word."""
        return re.search(rf"(^| )({expression})( |$|\d)", self.header) is not None

    def exactly(self, expression: str) -> bool:
        return re.fullmatch(expression, self.header) is not None

    @property
    def values(self) -> list[str]:
        """The cells with a value."""
        return [cell for cell in self.cells if cell and cell.casefold() not in EMPTY]

    @property
    def labels(self) -> list[str]:
        """The values of a target: `none` is one among texts, but not among numbers."""
        return self.values if self.numbers is not None else [c for c in self.cells if c and c.casefold() not in NO_TEXT]

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.values)

    @property
    def counts_rows(self) -> bool:
        """Whether its values are numbers without gaps, each in one row, such as from 1 to the number of rows.

        >>> Column("Nr.", ["2", "1", "3"]).counts_rows, Column("Nr.", ["1", "2", "2"]).counts_rows
        (True, False)
        """
        numbers = sorted(self.numbers or [])
        return bool(numbers) and numbers == [numbers[0] + step for step in range(len(numbers))]

    @property
    def filled(self) -> float:
        return len(self.values) / max(1, len(self.cells))

    @property
    def are_dates(self) -> bool:
        """Whether all values are written as dates, perhaps with day and month in doubt; numbers are none.

        >>> [Column("", [text]).are_dates for text in ("31.01.2024", "1/2/2024", "20240131")]
        [True, True, False]
        """
        days = read_dates(self.values)
        return bool(self.values) and all(
            not value.isdecimal() and (value in days or re.fullmatch(r"\d\d?([-/])\d\d?\1\d{4}", value))
            for value in set(self.values)
        )

    @property
    def are_mostly_dates(self) -> bool:
        """Whether most values are dates and a few are none, such as 31.02.2020.

        >>> Column("", ["01.02.2024", "1.3.2024", "2.3.2024", "3.3.2024", "31.02.2024"]).are_mostly_dates
        True
        """
        days = read_dates(self.values)
        dates = sum(value in days and not value.isdecimal() for value in self.values)
        return MOSTLY * len(self.values) <= dates < len(self.values)

    @property
    def numbers(self) -> list[float] | None:
        """The values as numbers, also with decimal commas; None if one is no number."""
        parsed = [decimal(value) for value in self.values]
        numbers = [value for value in parsed if value is not None]
        return numbers if numbers and len(numbers) == len(parsed) else None


def decimal(text: str) -> float | None:
    """A number with a decimal point or comma.

    >>> decimal("1,5"), decimal("2"), decimal("1.000,5")
    (1.5, 2.0, None)
    """
    return number(text.replace(",", ".") if re.fullmatch(r"[+-]?\d*,\d+", text) else text)


@dataclass
class Roles:
    """The columns by their meaning ('' if there is none), and sentences on what is doubtful.

    Attributes:
        people: columns that look like names, addresses or dates of birth, which no file of a study may contain.
        naming: those of `people` that together tell people apart where no other column does; [] to choose them.
        dates: the ISO dates of `date`, row by row ('' if there is none).
        sources: columns that look like a source, such as a hospital.
    """

    subject: str = ""
    visit: str = ""
    day: str = ""
    date: str = ""
    split: str = ""
    sequence: str = ""
    sources: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    naming: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def used(self) -> set[str]:
        """The columns that are no candidates for a target."""
        single = {self.subject, self.visit, self.day, self.date, self.split, self.sequence}
        return (single | set(self.sources) | set(self.people)) - {""}


def understand_columns(
    cells: Mapping[str, Sequence[str]],
    *,
    target: str = "",
    subject: str = "",
    files: Sequence[str] = (),
    numbers: Sequence[int] = (),
) -> Roles:
    """The meaning of the columns, except the `files` that name images, the stated target and the stated subject.

    `numbers` are those of the rows, which sentences name.
    """
    everything = [Column(name, [value.strip() for value in values]) for name, values in cells.items()]
    columns = [c for c in everything if c.name != target and c.values]
    roles = Roles()
    roles.people = [c.name for c in columns if c.name not in files and names_people(c)]
    columns = [c for c in columns if c.name not in roles.people]
    roles.subject = _stated_subject(subject, columns, roles) if subject else _subject(columns, files, roles.doubts)
    columns = [c for c in columns if c.name not in (*files, roles.subject)]
    groups = next((c.cells for c in everything if c.name == roles.subject), [])
    roles.split = next((c.name for c in columns if c.named(SPLIT) and _is_split(c, groups, roles.doubts)), "")
    roles.sequence = next((c.name for c in columns if c.named(_SEQUENCE) and 1 <= len(c.counts) <= 12), "")
    columns = [c for c in columns if c.name not in (roles.split, roles.sequence)]
    visits = [c for c in columns if c.named(_VISIT) and not c.named(_DATE) and not c.are_dates]
    roles.visit = next((c.name for c in visits if _is_visit(c, groups)), "")
    columns = [c for c in columns if c.name != roles.visit]
    roles.day = next((c.name for c in columns if c.exactly(_DAY) and _are_days(c)), "")
    if not roles.day:
        roles.date, roles.dates = _date(columns, groups, numbers, roles.doubts)
    roles.sources = [c.name for c in columns if c.named(_SOURCE) and 2 <= len(c.counts) <= 50 and c.name != roles.date]
    return roles


def names_people(column: Column) -> bool:
    """Whether a column has names, addresses or dates of birth of people.

    >>> names_people(Column("Patient name", [])), names_people(Column("patient", ["P1"]))
    (True, False)
    """
    if column.exactly(rf"((patients?|subject) )?({_PERSON}|{_BIRTH})"):
        return True
    counts = column.counts
    alike = sum(count for value, count in counts.items() if _NAME_VALUE.fullmatch(value))
    return len(counts) > 10 and alike > 0.8 * len(column.values)


def columns_of_names(people: Sequence[str], cells: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns that together name a person, such as first and last name; else the first one with letters."""
    named = [name for name in people if Column(name, []).named(_NAME)]
    return named or [name for name in people if any(c.isalpha() for c in "".join(cells[name]))][:1]


def _stated_subject(subject: str, columns: Sequence[Column], roles: Roles) -> str:
    """The stated subject; '' if it names people, whose names are then replaced by numbers."""
    if subject in roles.people:
        roles.naming = [subject]
        return ""
    values = next((column.values for column in columns if column.name == subject), [])
    if len(set(values)) == len(values):
        roles.doubts.append(
            f"Subject: every row has another {subject!r}. If it names images rather than people, state another column, "
            "or write `subjects_known: false`."
        )
    return subject


def _subject(columns: Sequence[Column], files: Sequence[str], doubts: list[str]) -> str:
    """The column that most likely identifies people; '' if none does."""
    ranked = []
    for position, column in enumerate(columns):
        score = 2 if column.named(STRONG_SUBJECT) else 1 if column.named(_WEAK_SUBJECT) else 0
        numbers = column.numbers
        fractions = numbers is not None and any(not value.is_integer() for value in numbers)
        if not score or column.named(_IMAGE) or column.filled < 0.5 or len(column.counts) < 2 or fractions:
            continue
        if score == 1 and (column.named(_SOURCE) or len(column.counts) < 4):
            continue
        if column.name in files and any(
            "/" in value or "\\" in value or stem_of(value) != value for value in column.values
        ):
            continue
        # `patient age` is about patients, but identifies none
        if re.search(r"age|sex|gender|weight|height|alter|position|date|group", column.header):
            continue
        repeats = len(column.counts) < len(column.values)
        exact = column.exactly(rf"(({STRONG_SUBJECT}|{_WEAK_SUBJECT}) ?)+")
        ranked.append(((score, exact, column.name not in files, repeats, -position), column))
    if ranked:
        ranked.sort(key=lambda item: item[0], reverse=True)
        (score, *_), best = ranked[0]
        similar = [column for (other, *_), column in ranked[1:] if other == score]
        others = [column.name for column in similar if len(column.counts) > len(best.counts) / 2]
        if others:
            doubts.append(
                f"Subject: {best.name!r} was chosen; {', '.join(map(repr, others))} may also identify people."
            )
        if score == 1 and best.counts_rows and (repeated := _repeated_identifier(columns, files)):
            doubts.append(
                f"Subject: {repeated!r} was chosen, because its values look like names of subjects and repeat; "
                f"{best.name!r} counts the rows."
            )
            return repeated
        if score == 1 and len(best.counts) == len(best.values):
            doubts.append(
                f"Subject: every row has another {best.name!r}. If it numbers images rather than people, name the "
                "column of people under `columns`, or write `subjects_known: false`."
            )
        return best.name
    if repeated := _repeated_identifier(columns, files):
        doubts.append(f"Subject: {repeated!r} was taken, because its values look like names of subjects.")
    return repeated


def _repeated_identifier(columns: Sequence[Column], files: Sequence[str]) -> str:
    """The first column whose values look like names of subjects and repeat; '' if there is none."""
    for column in columns:
        counts = column.counts
        is_identifier = all(_IDENTIFIER.fullmatch(value) for value in counts)
        if is_identifier and 4 <= len(counts) < len(column.values) and column.name not in files:
            return column.name
    return ""


def _is_split(column: Column, groups: Sequence[str], doubts: list[str]) -> bool:
    """Whether the column states sides; a subject on two sides makes it unusable."""
    sides = [side_of(cell) for cell in column.cells]
    if not all(sides) or len(set(sides)) < 2:
        return False
    by_subject: dict[str, set[str]] = defaultdict(set)
    for group, side in zip(groups, sides, strict=False):
        by_subject[group].add(side)
    mixed = [group for group, of_group in by_subject.items() if len(of_group) > 1]
    if mixed:
        doubts.append(
            f"Split: {column.name!r} is not used, because subjects ({names_text(mixed, 3)}) are on several sides. "
            "casewise draws its own split by subject."
        )
    return not mixed


def _are_days(column: Column) -> bool:
    days = [number(cell) for cell in column.cells if cell]
    return all(day is not None and abs(day) < 1e6 for day in days)


def _is_visit(column: Column, groups: Sequence[str]) -> bool:
    by_subject: dict[str, set[str]] = defaultdict(set)
    for group, cell in zip(groups, column.cells, strict=False):
        by_subject[group].add(cell)
    numbers = column.numbers
    fractions = numbers is not None and any(not value.is_integer() for value in numbers)
    return column.filled > 0.95 and not fractions and any(len(cells) > 1 for cells in by_subject.values())


def _date(
    columns: Sequence[Column], groups: Sequence[str], numbers: Sequence[int], doubts: list[str]
) -> tuple[str, list[str]]:
    """The column of dates whose order of day and month is clear, and its dates in ISO form.

    Dates that differ within subjects come before those that do not; of the latter only those of a usual name count.
    """
    usable: list[tuple[tuple[bool, bool], Column, list[str]]] = []
    for column in columns:
        named = column.named(_DATE)
        if column.filled < 0.5 or not (named or column.are_dates or column.are_mostly_dates):
            continue
        differ = any(len(set(cells)) > 1 for cells in _by_subject(column, groups).values())
        iso = iso_dates([cell if cell.casefold() not in EMPTY else "" for cell in column.cells])
        if iso is not None and (named or differ):
            usable.append(((not differ, not named), column, iso))
        elif iso is not None and not groups:
            doubts.append(
                f"Date: {column.name!r} has dates and is not used, because its name does not say that they are those "
                "of the images, and no column names the subjects. If they are, rename it to `date` and repeat this."
            )
        elif column.are_mostly_dates:
            doubts.append(_bad_dates(column, numbers))
        elif iso is None and any(re.search(r"\d{4}|\d[./]\d", value) for value in column.values):
            days = read_dates(column.values)
            unread = next((value for value in column.values if value not in days), column.values[0])
            doubts.append(
                f"Date: {column.name!r} is not used, because not all of its cells are dates whose day and month can be "
                f"told apart, such as {unread[:40]!r}. Write dates as 2024-01-31."
            )
    if not usable:
        return "", []
    (_, unnamed), best, iso = min(usable, key=lambda candidate: candidate[0])
    others = [column.name for _, column, _ in usable if column is not best]
    if unnamed or others:
        why = "because its cells are dates that differ within subjects" if unnamed else "because of its name"
        more = f" {names_text([repr(name) for name in others], 5)} may be it as well." if others else ""
        doubts.append(
            f"Date: {best.name!r} was taken as the date of the images, {why}.{more} If it dates something else, leave "
            'it unused with `columns: {date: ""}`.'
        )
    return best.name, iso


def _bad_dates(column: Column, numbers: Sequence[int]) -> str:
    """The rows of a column of dates whose cells are none."""
    days, values = read_dates(column.values), set(column.values)
    rows = numbers or range(2, len(column.cells) + 2)
    bad = [
        f"row {row}: {cut(cell)}"
        for row, cell in zip(rows, column.cells, strict=True)
        if cell in values and cell not in days
    ]
    more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
    return (
        f"Date: {column.name!r} IS NOT USED, because {len(bad):,} of its {len(column.values):,} cells "
        f"{'is no date' if len(bad) == 1 else 'are no dates'} ({'; '.join(bad[:_SHOWN])}{more}). Correct or empty such "
        "cells, and repeat `casewise init`."
    )


def _by_subject(column: Column, groups: Sequence[str]) -> dict[str, list[str]]:
    """The filled cells of each subject."""
    cells: dict[str, list[str]] = defaultdict(list)
    for group, cell in zip(groups, column.cells, strict=False):
        if cell and cell.casefold() not in EMPTY:
            cells[group].append(cell)
    return cells


def iso_dates(cells: Sequence[str]) -> list[str] | None:
    """Dates in ISO form; None if they are none, or if day and month cannot be told apart.

    >>> iso_dates(["31.01.2024", ""]), iso_dates(["1/31/2024", "2/1/2024"]), iso_dates(["1/2/2024"])
    (['2024-01-31', ''], ['2024-01-31', '2024-02-01'], None)
    """
    days = read_dates(cell for cell in cells if cell)
    texts = {"": ""} | {text: date.fromordinal(day).isoformat() for text, day in days.items()}
    return [texts[cell] for cell in cells] if all(cell in texts for cell in cells) else None
