"""What the columns of a table mean: subject, visit, date, split, source, and those that name people."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

from casewise.cohort.checks import number
from casewise.cohort.clinical_words import (
    AMBIGUOUS_SUBJECT,
    DATES,
    DAYS,
    STRONG_SUBJECT,
    VISIT,
    plain_words,
    unaccented,
)
from casewise.cohort.folder_layout import stem_of
from casewise.cohort.table import is_no_day, names_text, read_dates
from casewise.errors import CasewiseError, cut
from casewise.names import heading_words
from casewise.plugins.init.key_names import named_visit
from casewise.plugins.init.no_value import no_value_words
from casewise.splits.predefined import side_of

_WEAK_SUBJECT = r"id|code|case|cases|pseudonym|key|nr|no|number|identifier|record"
_OF_IMAGES = (
    r"aufnahme|untersuchungs?|studien|bild|foto|visiten?|besuchs?|behandlungs?|therapie|scan|study|visit|exam|"
    r"examination|acquisition|recording|image|photo|treatment"
)
_DAY = rf"(({_OF_IMAGES}) ?)?({DAYS})( (no|nr|number))?|days? since \w+|tage? (seit|nach) \w+|ady|visitdy|qsdy"
_DATE = (
    rf"{DATES}|when|acquired|acquisition date|visit date|exam date|study ?date|datetime|time|"
    rf"({_OF_IMAGES})(datum|tag)|adtm?|visitdtc?|qsdtc"
)
# Dates of what is done with images or people at another time.
OF_OTHERS = (
    r"entered|entry|eingabe|created|modified|updated|previous|prior|last|next|lab|labor|report|export|print|inclusion|"
    r"enrol(l?)ment|randomi[sz]ation|birth|first|start|baseline|surgery|operation|op|diagnos\w*|biops\w*|onset|referral"
)
_DATES_IMAGES = rf"date|datum|fecha|({_OF_IMAGES}) ?(date|datum)|date (of )?(the )?({_OF_IMAGES})"
_NOT_OF_IMAGES = r"read|reading|reader|signature|consent|death|re ?screening|gelesen|lecture|lectura|einwilligung"
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
# A column counts as dates, or as numbers, if at least this share of its values are.
MOSTLY = 0.8
# A column is used as the visit only if more than this share of its cells have a value.
_FILLED = 0.95
_SHOWN = 5
_IDENTIFIER = re.compile(r"[A-Za-z]{1,8}[-_ ]?\d+[\w-]*|\d{2,}[-_]\d+")


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, its cells without spaces at their ends, and which kind of values they are."""

    name: str
    cells: Sequence[str]

    @property
    def header(self) -> str:
        """The name as words without case: `patientID` and `patient_id` are `patient id`.

        >>> Column("patientID", []).header, Column("Time-Point", []).header
        ('patient id', 'time point')
        """
        return heading_words(self.name)

    def named(self, expression: str) -> bool:
        """Whether the header contains one of the names of a regular expression as whole words."""
        return any(re.search(rf"(^| )({expression})( |$|\d)", header) for header in self._headers)

    def exactly(self, expression: str) -> bool:
        """Whether the whole header matches the regular expression."""
        return any(re.fullmatch(expression, header) for header in self._headers)

    @property
    def _headers(self) -> set[str]:
        """The header with and without accents."""
        return {self.header, unaccented(self.header)}

    @cached_property
    def values(self) -> list[str]:
        """The cells with a value; `none` is not one."""
        empty = self.no_text | {"none"}
        return [cell for cell in self.cells if cell and cell.casefold() not in empty]

    @property
    def labels(self) -> list[str]:
        """The values of the column as a target, where `none` is a value unless the others are numbers."""
        return (
            self.values
            if self.numbers is not None
            else [c for c in self.cells if c and c.casefold() not in self.no_text]
        )

    @cached_property
    def no_text(self) -> set[str]:
        """The words in lower case that mean no value in this column, if it has texts.

        >>> Column("Grad", ["1", "2", "ND"]).values, Column("Befund", ["DR", "ND", "DR"]).values
        (['1', '2'], ['DR', 'ND', 'DR'])

        `-` or `missing`, for one, can be values: `missing_words` tells from the other cells.
        """
        return no_value_words(self.cells)

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(self.values)

    @property
    def repeats(self) -> bool:
        return len(self.counts) < len(self.values)

    @property
    def filled(self) -> float:
        return len(self.values) / max(1, len(self.cells))

    @cached_property
    def days(self) -> dict[str, int]:
        """By value that is a date its ordinal day (`date.toordinal`); a plain number is not a date."""
        return {text: day for text, day in read_dates(self.values).items() if not text.isdecimal()}

    @property
    def are_dates(self) -> bool:
        """Whether all values are written as dates, even if day and month may be swapped; a plain number is not a date.

        >>> [Column("", [text]).are_dates for text in ("31.01.2024", "1/2/2024", "20240131")]
        [True, True, False]
        """
        unclear = r"\d\d?([-/])\d\d?\1\d{4}"
        return bool(self.values) and all(value in self.days or re.fullmatch(unclear, value) for value in self.counts)

    @property
    def are_mostly_dates(self) -> bool:
        """Whether most values are dates but a few are not, such as 31.02.2020.

        >>> Column("", ["01.02.2024", "1.3.2024", "2.3.2024", "3.3.2024", "31.02.2024"]).are_mostly_dates
        True
        """
        return MOSTLY * len(self.values) <= sum(value in self.days for value in self.values) < len(self.values)

    @cached_property
    def numbers(self) -> list[float] | None:
        """The values as numbers, also with decimal commas; None if one is not a number."""
        parsed = [decimal(value) for value in self.values]
        numbers = [value for value in parsed if value is not None]
        return numbers if numbers and len(numbers) == len(parsed) else None

    @property
    def are_percentages(self) -> bool:
        """Whether the values are numbers, some of them with a percent sign."""
        return self.numbers is not None and any(value.endswith("%") for value in self.values)

    @property
    def are_whole(self) -> bool:
        """Whether no value is a number with a fraction."""
        return all(value.is_integer() for value in self.numbers or [])

    @property
    def counts_rows(self) -> bool:
        """Whether its values number the rows: whole numbers without gaps, each once, in any order.

        >>> Column("Nr.", ["2", "1", "3"]).counts_rows, Column("Nr.", ["1", "2", "2"]).counts_rows
        (True, False)
        """
        numbers = sorted(self.numbers or [])
        return bool(numbers) and numbers == [numbers[0] + step for step in range(len(numbers))]

    def listed(self, rows: Sequence[int], are_good: Callable[[str], bool]) -> str:
        """The first values for which `are_good` is false, with their row numbers, for messages."""
        values = set(self.values)
        bad = [(row, cell) for row, cell in zip(rows, self.cells, strict=True) if cell in values and not are_good(cell)]
        more = f"; and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
        return "; ".join(f"row {row}: {cut(cell)}" for row, cell in bad[:_SHOWN]) + more

    def by_subject(self, subjects: Sequence[str]) -> list[set[str]]:
        """The distinct cells of each subject; empty without subjects."""
        groups: dict[str, set[str]] = defaultdict(set)
        for subject, cell in zip(subjects, self.cells, strict=False):
            groups[subject].add(cell)
        return list(groups.values())


def decimal(text: str) -> float | None:
    """A number with a decimal point or comma, perhaps with a percent sign.

    >>> decimal("1,5"), decimal("45 %"), decimal("1.000,5")
    (1.5, 45.0, None)
    """
    return number(point_number(text))


def point_number(text: str) -> str:
    """A number as cohort tables have it, with a point and without a percent sign; any other text as it is.

    >>> point_number("1,5"), point_number("45 %"), point_number("x %")
    ('1.5', '45', 'x %')
    """
    match = re.fullmatch(r"([+-]?(\d+[.,]?\d*|[.,]\d+))\s*%|[+-]?\d*,\d+", text)
    return (match[1] or text).replace(",", ".") if match else text


@dataclass
class Roles:
    """The columns by their meaning ('' if there is none), and `doubts`: sentences for the user on uncertain choices.

    Attributes:
        people: columns that look like names, addresses or dates of birth, which no file of a study may contain.
        naming: the columns of `people` that the user stated as the subject; they are replaced by numbers.
        dates: the ISO dates of `date`, row by row ('' if there is none).
        dated: the same of all columns that may date images, also of those that cannot be used because some cells are
            no dates, the likeliest one first.
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
    dated: dict[str, list[str]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    @property
    def used(self) -> set[str]:
        """The columns that are not candidates for a target."""
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
    """Find the meaning of the columns of a table, `cells` by name.

    Args:
        target, subject: columns that the user stated; empty if not.
        files: columns with paths of images.
        numbers: the number of each row, for messages.
    """
    columns = [column for name, values in cells.items() if (column := Column(name, values)).values and name != target]
    roles = Roles(people=[c.name for c in columns if c.name not in files and names_people(c)])
    columns = [c for c in columns if c.name not in roles.people]
    roles.subject = _stated_subject(subject, columns, roles) if subject else _subject(columns, files, roles.doubts)
    subjects = cells.get(roles.subject, ())
    columns = [c for c in columns if c.name not in (*files, roles.subject)]
    roles.split = next((c.name for c in columns if c.named(SPLIT) and _is_split(c, subjects, roles.doubts)), "")
    roles.sequence = next((c.name for c in columns if c.named(_SEQUENCE) and 1 <= len(c.counts) <= 12), "")
    columns = [c for c in columns if c.name not in (roles.split, roles.sequence)]
    visits = [c for c in columns if c.named(VISIT) and not c.named(_DATE) and not c.are_dates]
    # `PASI week 4` has values of one visit
    visits = [c for c in visits if not all(named_visit(plain_words(c.name)))]
    roles.visit = next((c.name for c in visits if c.filled > _FILLED and c.are_whole and _differ(c, subjects)), "")
    of_dates = next((c for c in columns if c.name == roles.visit and c.are_mostly_dates), None)
    if of_dates and (wrong := _no_dates(of_dates, numbers)):
        roles.doubts.append(
            f"VISITS OF {of_dates.name!r} ARE NOT IN ORDER, because not all of its cells are dates; {wrong}. Correct"
            " or empty such cells, and repeat `casewise init`."
        )
    columns = [c for c in columns if c.name != roles.visit]
    roles.day = next((c.name for c in columns if c.exactly(_DAY) and _are_days(c)), "")
    roles.dated, whole = _dated(columns, subjects)
    if not roles.day:
        roles.date, roles.dates = _date(columns, whole, subjects, numbers, roles.doubts)
    roles.doubts += _unused_visits([c for c in visits if c.name != roles.visit], subjects, roles)
    roles.sources = [c.name for c in columns if c.named(_SOURCE) and 2 <= len(c.counts) <= 50 and c.name != roles.date]
    return roles


def _unused_visits(columns: Sequence[Column], subjects: Sequence[str], roles: Roles) -> list[str]:
    """Doubts on columns that are named like visits and differ within subjects, but cannot be used as the visit."""
    doubts = []
    for column in [] if roles.visit else columns:
        if not _differ(column, subjects) or column.name in (roles.day, roles.date) or column.are_mostly_dates:
            continue
        gaps, name = len(column.cells) - len(column.values), column.name
        reason = f"{gaps:,} of its {len(column.cells):,} cells have no value. Fill them in"
        if column.filled > _FILLED:
            value = next(value for value in column.values if not (decimal(value) or 0.0).is_integer())
            reason = f"it has numbers with decimals, such as {cut(value)}. Write names or whole numbers of visits"
            reason += ", or call the column `day` if these are days"
        doubts.append(f"Visit: {name!r} IS NOT USED as the visit, because {reason}, and repeat `casewise init`.")
    return doubts


def names_people(column: Column) -> bool:
    """Whether a column has names, addresses or dates of birth of people.

    >>> names_people(Column("Patient name", [])), names_people(Column("patient", ["P1"]))
    (True, False)
    """
    if column.exactly(rf"((patients?|subject) )?({_PERSON}|{_BIRTH})"):
        return True
    names = sum(count for value, count in column.counts.items() if _NAME_VALUE.fullmatch(value))
    return len(column.counts) > 10 and names > 0.8 * len(column.values)


def columns_of_names(people: Sequence[str], cells: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns that together name a person, such as first and last name; else the first one with letters."""
    named = [name for name in people if Column(name, []).named(_NAME)]
    return named or [name for name in people if any(c.isalpha() for c in "".join(cells[name]))][:1]


def _stated_subject(subject: str, columns: Sequence[Column], roles: Roles) -> str:
    """The column that the user stated as the subject; '' if it names people, whose names are replaced by numbers."""
    if subject in roles.people:
        roles.naming = [subject]
        return ""
    column = next((column for column in columns if column.name == subject), Column(subject, ()))
    if len(column.counts) < 2:
        only = f"the value {cut(column.values[0])} in all of its rows" if column.values else "no value"
        raise CasewiseError(f"--subject {cut(subject)}: this column has {only}, so it tells no people apart.")
    return subject


def _subject(columns: Sequence[Column], files: Sequence[str], doubts: list[str]) -> str:
    """The column that most likely identifies people; '' if none does."""
    ranked = []
    for position, column in enumerate(columns):
        # `pt` with numbers may be a patient, or a laboratory value
        is_unclear = column.header == AMBIGUOUS_SUBJECT and column.numbers is not None
        is_strong = column.named(STRONG_SUBJECT) and not is_unclear
        score = 2 if is_strong else int(is_unclear or column.named(_WEAK_SUBJECT))
        if not score or column.named(_IMAGE) or column.filled < 0.5 or len(column.counts) < 2 or not column.are_whole:
            continue
        if score == 1 and (column.named(_SOURCE) or len(column.counts) < 4):
            continue
        if column.name in files and any("/" in v or "\\" in v or stem_of(v) != v for v in column.values):
            continue
        # `patient age` is about patients, but identifies none
        if re.search(
            r"age|sex|gender|weight|height|alter|edad|sexo|peso|poids|position|date|fecha|group", column.header
        ):
            continue
        exact = column.exactly(rf"(({STRONG_SUBJECT}|{_WEAK_SUBJECT}) ?)+")
        ranked.append(((score, exact, column.name not in files, column.repeats, -position), column))
    # values that look like names of subjects and repeat
    identifiers = [c for c in columns if c.name not in files and c.repeats and len(c.counts) >= 4]
    repeated = next((c.name for c in identifiers if all(_IDENTIFIER.fullmatch(value) for value in c.counts)), "")
    if not ranked:
        if repeated:
            doubts.append(f"Subject: {repeated!r} was taken, because its values look like names of subjects.")
        return repeated
    (score, *_), best = max(ranked, key=lambda item: item[0])
    others = [c.name for (s, *_), c in ranked if s == score and c is not best and len(c.counts) > len(best.counts) / 2]
    if others:
        doubts.append(f"Subject: {best.name!r} was chosen; {', '.join(map(repr, others))} may also identify people.")
    if score == 1 and best.counts_rows and repeated:
        doubts.append(
            f"Subject: {repeated!r} was chosen, because its values look like names of subjects and repeat; "
            f"{best.name!r} counts the rows."
        )
        return repeated
    return best.name


def _differ(column: Column, subjects: Sequence[str]) -> bool:
    """Whether the cells of a subject differ."""
    return any(len(cells) > 1 for cells in column.by_subject(subjects))


def _is_split(column: Column, subjects: Sequence[str], doubts: list[str]) -> bool:
    """Whether the column has the side of the split of every row, and no subject is on two sides."""
    sides = Column(column.name, [side_of(cell) or "" for cell in column.cells])
    if not all(sides.cells) or len(set(sides.cells)) < 2:
        return False
    by_subject = zip(dict.fromkeys(subjects), sides.by_subject(subjects), strict=True)
    mixed = [name for name, values in by_subject if len(values) > 1]
    if mixed:
        doubts.append(
            f"Split: {column.name!r} is not used, because subjects ({names_text(mixed, 3)}) are on several sides. "
            "casewise draws its own split by subject."
        )
    return not mixed


def _are_days(column: Column) -> bool:
    return all((day := number(cell)) is not None and abs(day) < 1e6 for cell in column.cells if cell)


def _dated(columns: Sequence[Column], subjects: Sequence[str]) -> tuple[dict[str, list[str]], list[Column]]:
    """The ISO dates of each column that may date images, the likeliest one first; and the columns of dates alone.

    Columns whose dates differ within subjects are likelier.
    """
    ranked: list[tuple[tuple[bool, ...], Column]] = []
    for column in columns:
        named = column.named(_DATE)
        if column.filled < 0.5 or not (named or column.are_dates or column.are_mostly_dates):
            continue
        if column.named(_NOT_OF_IMAGES):
            continue
        whole = set(column.values) <= read_dates(column.values).keys()
        if whole or column.are_mostly_dates:
            rank = (not whole, not _differ(column, subjects), bool(column.named(OF_OTHERS)))
            ranked.append(((*rank, not column.exactly(_DATES_IMAGES), not named), column))
    ranked.sort(key=lambda each: each[0])
    dated = {}
    for _, column in ranked:
        days = read_dates(column.values)
        dated[column.name] = [date.fromordinal(days[cell]).isoformat() if cell in days else "" for cell in column.cells]
    return dated, [column for rank, column in ranked if not rank[0]]


def _no_dates(column: Column, rows: Sequence[int]) -> str:
    """The cells of a column of dates that are none, with their rows."""
    days, lines = read_dates(column.values), rows or range(2, len(column.cells) + 2)
    absent = column.listed(lines, lambda cell: not is_no_day(cell))
    read_or_absent = {cell for cell in column.values if cell in days or is_no_day(cell)}
    bad = column.listed(lines, read_or_absent.__contains__)
    reasons = [
        *[f"these dates do not exist: {absent}"][: bool(absent)],
        *[f"these cells are no dates whose day and month can be told apart: {bad}"][: bool(bad)],
    ]
    return "; and ".join(reasons)


def _date(
    columns: Sequence[Column],
    whole: Sequence[Column],
    subjects: Sequence[str],
    rows: Sequence[int],
    doubts: list[str],
) -> tuple[str, list[str]]:
    """The column with the dates of images, and its dates in ISO form; day and month must be distinguishable.

    Columns that do not differ within subjects are used only if they have a usual name.

    Args:
        whole: the columns of dates alone, the likeliest one first.
    """
    usable = [column for column in whole if column.named(_DATE) or _differ(column, subjects)]
    doubts += [
        f"Date: {column.name!r} has dates and is not used, because its name does not say that they are dates of the "
        "images, and no column names the subjects. If they are, rename it to `date` and repeat this."
        for column in whole
        if column not in usable and not subjects
    ]
    for column in columns:
        if column in whole or column.filled < 0.5 or column.named(_NOT_OF_IMAGES):
            continue
        looks = any(re.search(r"\d{4}|\d[./]\d", value) for value in column.values)
        if column.are_mostly_dates or (looks and (column.named(_DATE) or column.are_dates)):
            doubts.append(
                f"Date: {column.name!r} IS NOT USED, because not all of its {len(column.values):,} cells are dates; "
                f"{_no_dates(column, rows)}. Correct or empty such cells, or write dates as 2024-01-31, and repeat "
                "`casewise init`."
            )
    if not usable:
        return "", []
    best, *others = usable
    if not best.named(_DATE) or others:
        reason = (
            "because of its name" if best.named(_DATE) else "because its cells are dates that differ within subjects"
        )
        more = f" {names_text([repr(c.name) for c in others], 5)} may be it as well." if others else ""
        doubts.append(
            f"Date: {best.name!r} was taken as the date of the images, {reason}.{more} If it dates something else, "
            'leave it unused with `columns: {date: ""}`.'
        )
    days = read_dates(best.values)
    return best.name, [date.fromordinal(days[cell]).isoformat() if cell in days else "" for cell in best.cells]
