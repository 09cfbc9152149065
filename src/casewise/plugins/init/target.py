"""What a study predicts: the likely column of a table, and its values as classes, grades or a number.

A column of numbers with a few other cells, or with cells that may be read in two ways, is refused and not guessed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from casewise.audit.columns import ORIGIN
from casewise.cohort.checks import STORED, closest
from casewise.cohort.clinical_words import BODY, LABORATORY, PEOPLE
from casewise.cohort.missing_codes import missing_codes
from casewise.cohort.table import names_text, natural, rows_text
from casewise.cohort.table_formats import NO_VALUE
from casewise.cohort.targets import plain
from casewise.errors import CasewiseError, counted
from casewise.files import guarded
from casewise.plugins.init.columns import SPLIT, Column, Roles, decimal, point_number
from casewise.plugins.init.new_study import applying, quoted
from casewise.plugins.init.target_cells import mostly_numbers
from casewise.splits.predefined import side_of

_LIKELY = (
    r"labels?|class|classes|diagnos[ie]s|diagnose|diag|dx|grade|grading|grad|scores?|severity|outcome|target|findings?|"
    r"stage|stadium|pathology|results?|malignant|malignancy|benign|category|gt|ground truth|truth|befund|disease|"
    r"schwere\w*|\w*(grad|stadium|befund|diagnose|score|erfolg)|severidad|gravedad|s[ée]v[ée]rit[ée]|gravit[ée]|stade|"
    r"diagn[oó]stic\w*|r[ée]sultats?|resultados?|hallazgos?|responses?|responders?|remission|recurrence|relapse|rezidiv|"
    r"\w{3,}(itis|omas?|osis)|pneumonia|ec?zema|ekzem|cancer|krebs|tumou?r|lesion type|histology|rating|pasi|covid"
)
# Columns of the administration: none is chosen before a column of another kind. The latter are whole headings.
_ADMINISTRATIVE = (
    r"\w*vorstellung|termin\w*|aufnahme\w*|entlassung|besuch\w*|behandlung(en|sart|sgruppe|sarm)?|therapie\w*|therapy|"
    r"treatments?|treated|medication|medikation|versicherung\w*|insurance|payer|kasse|referral|referrer|referred|"
    r"[üu]berweis\w*|zuweis\w*|appointments?|admission|consult\w*|consent|einwilligung|enrol\w*|abteilung|department|"
    r"doctor|physician|arzt|traitement|tratamiento"
)
_ADMINISTRATIVE_ALONE = r"arms?|drug|phase|study|studie|ward|station|contact|follow up"
_UNLIKELY = (
    rf"{'|'.join((*PEOPLE, *BODY))}|width|size|side|eye|laterality|view|position|comments?|notes?|"
    r"remarks?|bemerkung|url|licen[cs]e|region|location|slice|index|nr|no|number|row|unnamed|quality|"
    r"resolution|magnification|smoker|time|date|year|jahr|offset|order|reader|rater|annotator|mode|redistribution|kind|"
    r"raw|origin|original|known|days?|weeks?|months?|woche|monat|datum|a?visits?n?|visitnum|subjects?|patients?|code|"
    r"skin (type|tone)|asa|ecog|survival|formats?|extension|suffix|mime|"
    r"codec|encoding|colou?r space|photometric|uploaded|uploader|author|created|modified|user|checksum|md5|software"
)
# The same where they are whole headings.
_UNLIKELY_ALONE = r"seite|cote|lado|oeil|ojo|augen?|lo[ck]ali[sz]a\w+|siteid|u?subjid"
# Numbers of how images were taken, which the audit tests; so it does yes or no of unknown meaning, such as a ruler.
_TAKEN = (
    rf"{ORIGIN.pattern}|from|images?|kvp?|mas|exposure|dose|distance|zoom|gain|iso|brightness|contrast|compression|"
    r"version|thickness|spacing|pixels?|bits?|depth|tesla|field|focal|aperture|temperature|counts?|total"
)
_FEWEST_OF_RESULT = 3
_KEY = r"ids?|uid|guid|uuid|identifier|accession|accession (no|number)|mrn|pid|pseudonym"
# Words in rising order; a column with three of them or more has grades.
_ROMAN = "i ii iii iv v"
_SCALES = [
    words.split()
    for words in (
        "absent none no nil normal negative minimal mild light moderate marked severe verysevere",
        "verylow low medium intermediate high veryhigh",
        "none slight some strong verystrong",
        "keine leicht mittel schwer sehrschwer",
        "ninguna ninguno ausente leve moderada moderado grave severa severo muygrave",
        "aucune aucun absente absent légère léger modérée modéré sévère trèssévère",
        _ROMAN,
    )
]
_NUMBERED = re.compile(
    r"(grade|grad|stage|stadium|level|score|g|t|n|who|kl|birads)?[\W_]*(\d|i{1,3}|iv|v)", re.IGNORECASE
)
_SEXES = ({"m", "w"}, {"m", "f"}, {"male", "female"}, {"männlich", "weiblich"}, {"mann", "frau"}, {"man", "woman"})
# Results of tests, such as for a germ.
_OF_TESTS = {
    "positiv",
    "negativ",
    "positive",
    "negative",
    "positif",
    "négatif",
    "positivo",
    "negativo",
    "pos",
    "neg",
} | {
    *("pos.", "neg.", "nachgewiesen", "nicht nachgewiesen", "detected", "not detected", "reactive", "non-reactive"),
}
MOST_CLASSES = 20
MOST_GRADES = 11
_RARE = 5
# Longer names that differ in so few letters may be one name.
_LETTERS, _EDITS = 5, 2
_NUMERALS = re.compile(r"\d+|(?<![^\W_])[ivx]+(?![^\W_])", re.IGNORECASE)
# Between the findings of one image, as in `Effusion|Mass`.
_JOINED = re.compile(r"\s*[|;&]\s*")
_REST = re.compile(r"other|rest\b|andere|sonstige", re.IGNORECASE)
_NEGATIVE = re.compile(
    r"(^|[\W_])(no|non|not|none|n|normal\w*|neg|negative|benign|healthy|well|unaffected|controls?|absent|false|0|"
    r"nein|keine?|gesund|without|ohne|unauffällig|nofinding)($|[\W_])",
    re.IGNORECASE,
)


@dataclass
class TargetPlan:
    """A target of a new study.

    Attributes:
        name: its name in the study file; `column` is its name in the table.
        setting: its value in the study file, in YAML.
        comment: a clause behind it.
        cells: the cells of the table, if they must be changed to be read, such as decimal commas.
        rarest: the number of subjects of the rarest class; 0 for numbers.
        where_not: cells that name no value, whose rows are left out by the study.
    """

    name: str
    column: str
    setting: str
    comment: str
    rarest: int = 0
    cells: list[str] | None = None
    where_not: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """Its column in a table that is written again: the user's own heading, if no other column must have this name.

        >>> TargetPlan("Befund_0_8", "Befund (0-8)", "", "").heading, TargetPlan("target_case", "case", "", "").heading
        ('Befund (0-8)', 'target_case')
        """
        return self.name if self.column in (*STORED, "date") or guarded(self.column) != self.column else self.column


def likely_targets(
    cells: Mapping[str, Sequence[str]], roles: Roles, files: Sequence[str], results: Collection[str] = ()
) -> list[str]:
    """The columns that may be a target, the most likely one first.

    Args:
        results: columns that hold results by the shape of the table.

    Raises:
        CasewiseError: there is none.
    """
    likely = _candidates(cells, roles, files, results)
    # a laboratory value describes the person, unless there is nothing else to predict
    likely = [name for name in likely if name in results or not _is_laboratory(name)] or likely
    columns = [Column(name, values) for name, values in cells.items()]
    taken = [c.name for c in columns if c.name in likely and c.named(_TAKEN) and not c.named(_LIKELY)]
    taken = [name for name in taken if name not in results]
    lone = next((column for column in columns if _is_single(column)), None)
    has_gaps = lone is not None and len(lone.labels) < sum(map(bool, lone.cells))
    outcomes = [name for name in likely if name not in taken]
    # a column without a usual name does not take the place of one whose other cells were read as missing
    if outcomes and (Column(outcomes[0], ()).named(_LIKELY) or not has_gaps):
        return [*outcomes, *taken]
    single = f"{_lone_value(lone)} " if lone else ""
    raise CasewiseError(
        "No column of the table looks like something to predict: a class, a grade or a measured number. Columns that "
        "describe people, or how images were taken or stored, such as age and scanner, are not chosen. "
        f"{single}Add a column with what is to be predicted, or state it with --target NAME. There are: "
        f"{names_text(list(cells), 12)}."
    )


def _lone_value(column: Column) -> str:
    """What the only value of a column is, and which cells were read as missing."""
    labels = set(column.labels)
    missing = Counter(cell for cell in column.cells if cell and cell not in labels)
    only = f"{column.name} has only the value {column.labels[0]!r}" if labels else f"{column.name} has no value"
    if not missing:
        return f"{only}."
    words = ", ".join(map(repr, missing))
    classes = [*sorted(labels), *missing][:MOST_CLASSES]
    return (
        f"{only}: {counted(missing.total(), 'row was', 'rows were')} read as missing ({words}). If this is a class, "
        "write its name into the cells, such as `negative`; or write the study by hand, where "
        f"`targets: {{{quoted(_field_name(column.name))}: {{classes: {_listed(classes)}}}}}` states it."
    )


def _candidates(
    cells: Mapping[str, Sequence[str]], roles: Roles, files: Sequence[str], results: Collection[str] = ()
) -> list[str]:
    ranked = []
    for position, (name, values) in enumerate(cells.items()):
        column = Column(name, values)
        usable = _usable(column) or (name in results and column.numbers is not None and len(column.counts) > 1)
        if name in roles.used or name in files or not usable or _is_key(column):
            continue
        ranked.append((-_likelihood(column), name not in results, column.filled < 0.5, position, name))
    # a column that describes people or images is not a target unless it is stated
    return [name for likelihood, *_, name in sorted(ranked) if likelihood < 0]


def _likelihood(column: Column) -> int:
    """How likely a column is a target: 4 by its name, 3 by values in order, 2, 1 administrative, 0 not unless stated.

    >>> names = ("Schweregrad (0-3)", "Wert", "Vorstellung", "sex")
    >>> [_likelihood(Column(name, ["0", "1", "2", "3"] * 3)) for name in names]
    [4, 3, 1, 0]
    """
    if column.named(_LIKELY):
        return 4
    if column.named(_UNLIKELY) or column.exactly(_UNLIKELY_ALONE) or _are_sexes(column):
        return 0
    if column.named(_ADMINISTRATIVE) or column.exactly(_ADMINISTRATIVE_ALONE):
        return 1
    return 3 if _in_order(column) else 2


def _in_order(column: Column) -> bool:
    """Whether the values are grades: three or more whole numbers without gaps from 0 or 1, or names of grades."""
    if column.numbers is not None:
        grades = sorted(set(column.numbers))
        return (
            grades[0] in (0, 1)
            and _FEWEST_OF_RESULT <= len(grades) <= MOST_GRADES
            and grades[-1] - grades[0] < len(grades)
        )
    return bool(_rising(list(column.counts)))


def as_likely(chosen: str, others: Sequence[str], cells: Mapping[str, Sequence[str]]) -> list[str]:
    """The other candidates that are as likely a target as the chosen one; values in order are a weak reason."""
    weight = {name: _likelihood(Column(name, cells[name])) for name in others}
    own = _likelihood(Column(chosen, cells[chosen])) if others else 0
    return [name for name in others if weight[name] == own or {weight[name], own} == {2, 3}]


def other_outcomes(
    target: str, cells: Mapping[str, Sequence[str]], roles: Roles, files: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The other candidates for the target: those that are surely results, and those that may be shortcuts as well.

    Results are named like targets, or have numbers and no name of how images were taken.
    """
    others = [Column(name, cells[name]) for name in _candidates(cells, roles, files) if name != target]
    others = [column for column in others if not (column.named(_UNLIKELY) or _is_laboratory(column.name))]
    results = [
        c.name
        for c in others
        if c.named(_LIKELY)
        or {value.casefold() for value in c.counts} <= _OF_TESTS
        or (c.numbers is not None and len(set(c.numbers)) >= _FEWEST_OF_RESULT and not c.named(_TAKEN))
    ]
    return results, [column.name for column in others if column.name not in results]


def _is_laboratory(name: str) -> bool:
    """Whether a column is named like a laboratory value, and not like a result of images.

    >>> _is_laboratory("CRP (mg/l)"), _is_laboratory("Hb"), _is_laboratory("CRP response")
    (True, True, False)
    """
    column = Column(name, ())
    return column.exactly(rf"({'|'.join(LABORATORY)})( .*)?") and not column.named(_LIKELY)


def _is_single(column: Column) -> bool:
    """Whether a column that is named like a target has one value only."""
    return len(set(column.labels)) == 1 and column.named(_LIKELY)


def _are_sexes(column: Column) -> bool:
    """Whether the values are the two sexes.

    >>> _are_sexes(Column("g", ["m", "W"])), _are_sexes(Column("g", ["male", "female"])), _are_sexes(Column("g", ["m"]))
    (True, True, False)
    """
    values = {value.casefold() for value in column.counts}
    return any(sexes <= values <= sexes | {"d", "divers", "diverse", "other"} for sexes in _SEXES)


def _is_key(column: Column) -> bool:
    """Whether a column states sides of a split or numbers things, by its name and values.

    >>> _is_key(Column("fold", ["1", "2"])), _is_key(Column("series_id", ["a"])), _is_key(Column("grade", ["1", "2"]))
    (True, True, False)
    """
    folds = column.named(r"(cv ?)?folds?|split|partition|subset")
    sides = column.named(SPLIT) and all(folds if v.isdecimal() else side_of(v) for v in column.values)
    return sides or column.named(_KEY)


def _usable(column: Column) -> bool:
    counts = Counter(column.labels)
    if column.filled < 0.05 or len(counts) < 2 or column.are_dates or column.are_mostly_dates:
        return False
    if column.numbers is not None:
        # a running number predicts nothing
        return not (len(counts) == len(column.cells) and column.are_whole) or column.are_percentages
    if mostly_numbers(column):
        fractions = any(value is not None and not value.is_integer() for value in map(decimal, column.values))
        return len(counts) < len(column.cells) or fractions
    return len(counts) <= min(MOST_CLASSES, len(column.values) / 2) and max(map(len, counts)) <= 60


def stated_column(option: str, column: str, cells: Mapping[str, Sequence[str]]) -> str:
    """The column that the user states with an option, such as --target; "" if none is stated.

    Raises:
        CasewiseError: there is no such column; the nearest one is named.
    """
    if not column or column in cells:
        return column
    names = list(cells)
    raise CasewiseError(
        f"{option} {column[:80]!r}: there is no such column.{closest(column, names)} There are: "
        f"{names_text(names, 12)}."
    )


def understand_target(
    column: str,
    values: Sequence[str],
    subjects: Sequence[str],
    others: Sequence[str],
    *,
    sources: Sequence[int] = (),
    numbers: Sequence[int] = (),
) -> TargetPlan:
    """The kind of a target from its values: few texts are classes, few whole numbers grades, others a number.

    Args:
        values, subjects: of each image.
        sources: the row of the table of each image, from 0, so that rows are counted and not images; by default each
            image has its own.
        numbers: by row of the table its number for messages; without them, rows are not named.

    Raises:
        CasewiseError: the column has fewer than two values, or too many texts.
    """
    cells = Column(column, list(values))
    labels = set(cells.labels)
    words = sorted({cell for cell in cells.cells if cell and cell not in labels})
    by_value: dict[str, set[str]] = defaultdict(set)
    for cell, subject in zip(cells.cells, subjects, strict=True):
        if cell in labels:
            by_value[cell].add(subject)
    if len(by_value) < 2:
        raise CasewiseError(f"A target needs two different values. {_lone_value(cells)}")
    by_row = dict(zip(sources or range(len(cells.cells)), cells.cells, strict=True))
    found = cells.numbers
    if found is None or (cells.are_whole and len(by_value) == 2):
        plan = _classes(column, by_value, Column(column, list(by_row.values())).counts)
    elif (
        not cells.are_percentages
        and cells.are_whole
        and len(set(found)) <= MOST_GRADES
        and min(found) >= 0
        and max(found) <= 20
    ):
        plan = _grades(column, by_value, found)
    else:
        plan = _number(cells, found)
    signs = [value for value in by_value if value.casefold() in NO_VALUE and value.casefold() != "none"]
    empty = [row for row, cell in by_row.items() if not cell]
    unscored, left_out = len(empty), sum(cell in words for cell in by_row.values())
    which = f" ({rows_text(numbers[row] for row in empty)})" if numbers else ""
    have = "has no value and is" if unscored == 1 else "have no value and are"
    doubts: dict[str, object] = {
        f"{column}: {counted(left_out, 'row')} with {', '.join(map(repr, words))} left out (`where_not`), because this "
        f"means no value. If it is a class, delete it from `where_not` and add it to `classes`: "
        f"`{_listed([*by_value, *words][:MOST_CLASSES])}`.": words if found is None else [],
        f"{column}: {counted(left_out, 'row')} with {', '.join(map(repr, words))} left out (`where_not`), because this "
        "means no value among numbers.": words if found is not None else [],
        f"{column}: {', '.join(map(repr, signs))} {'is a class' if len(signs) == 1 else 'are classes'}, because the "
        "other values are of its kind. If it means no value, delete it from `classes` and write `where_not: "
        f"{{{quoted(column)}: {_listed(signs)}}}`.": signs,
        f"{column}: {unscored:,} of {len(by_row):,} rows {have} not scored{which}.": unscored,
    }
    choice = (
        f"Target: {column!r} was chosen. Other candidates: {names_text([repr(name) for name in others], 12)}; to "
        "predict one of them, use --target."
    )
    return replace(plan, where_not=words, doubts=[*[choice][: len(others)], *plan.doubts, *applying(doubts)])


def _field_name(column: str, taken: Sequence[str] = (*STORED, "date")) -> str:
    """A name for the study file: the column's own if it is plain, else one made from it.

    >>> _field_name("Grade (0-4)"), _field_name("dr_grade"), _field_name("case")
    ('Grade_0_4', 'dr_grade', 'target_case')
    """
    name = column if re.fullmatch(r"[^\W\d]\w*", column) else re.sub(r"\W+", "_", column).strip("_")
    if not name or name[0].isdigit() or name in taken:
        name = f"target_{name}".rstrip("_")
    return name


def _listed(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, texts))}]"


def _classes(column: str, by_value: Mapping[str, set[str]], counts: Mapping[str, int]) -> TargetPlan:
    """Classes named after their most frequent spelling."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for value in sorted(by_value, key=natural):
        spellings[plain(value)].append(value)
    doubts = [
        f"{column}: {' and '.join(map(repr, group))} were read as one class."
        for group in spellings.values()
        if len(group) > 1
    ]
    people = {key: set().union(*(by_value[value] for value in group)) for key, group in spellings.items()}
    names = {key: max(group, key=lambda value: counts.get(value, 0)) for key, group in spellings.items()}
    doubts += _misspelt(column, {names[key]: sum(map(counts.__getitem__, of)) for key, of in spellings.items()})
    alone = [names[key] for key, subjects in people.items() if len(subjects) < 2]
    classes = {names[key]: spellings[key] for key, subjects in people.items() if len(subjects) > 1}
    if len(classes) > MOST_CLASSES:
        raise CasewiseError(
            f"{column}: {len(classes):,} different texts are too many for classes, such as "
            f"{names_text(list(classes), 3)}. Name another column with --target."
        )
    if len(classes) < 2:
        raise CasewiseError(
            f"{column}: fewer than two values have two subjects or more, which the classes of a study need: "
            f"{names_text(sorted(by_value, key=natural), 6)}. Name another column with --target."
        )
    rarest = min(len(people[plain(name)]) for name in classes)
    rare = min(classes, key=lambda name: len(people[plain(name)]))
    advice = "Leave it out of `classes`, or give several classes one name: `{rare: [a, b], common: c}`."
    advice = advice if len(classes) > 2 else "More subjects of it would help."
    order = _rising(list(classes))
    classes = {name: classes[name] for name in order or classes}
    same = all(group == [name] for name, group in classes.items())
    groups = {name: quoted(name) if group == [name] else _listed(group) for name, group in classes.items()}
    setting = _listed(classes) if same else f"{{{', '.join(f'{quoted(name)}: {of}' for name, of in groups.items())}}}"
    parts, comment, positive, is_certain = [f"classes: {setting}"], "", "", True
    if order:
        parts.insert(0, "kind: ordinal")
    if len(classes) == 2:
        negative = [name for name in classes if name == "-" or _NEGATIVE.search(name)]
        others = [name for name in classes if name not in negative]
        named = [name for name in classes if not _REST.match(name)]
        positive = others[0] if negative and others else (named or list(classes))[-1]
        parts.append(f"positive: {quoted(positive)}")
        comment, is_certain = f"sensitivity is that for {positive}", bool(negative)
    joined = [value for value in by_value if any(plain(word) in spellings for word in _JOINED.split(value)[1:])]
    further: dict[str, object] = {
        f"{column}: {', '.join(map(repr, joined[:3]))}{' …' * (len(joined) > 3)} may name several findings of one "
        "image and is a class of its own here. Several findings are several targets with two classes each.": joined,
        f"{column}: {', '.join(map(repr, alone[:5]))}{' …' * (len(alone) > 5)} "
        f"{'has one subject and is' if len(alone) == 1 else 'have one subject each and are'} left out, because no "
        "subject would be left for evaluation.": alone,
        f"{column}: the class {rare!r} has {counted(rarest, 'subject')} only, so that its figures will be very "
        f"uncertain. {advice}": rarest < _RARE,
        f"{column}: {', '.join(map(repr, order))} were read as grades in this rising order. If they have no order, "
        "leave out `kind: ordinal`.": order,
        f"{column}: {positive!r} was taken as the positive class. If it is the other one, change "
        "`positive`.": not is_certain,
    }
    doubts += applying(further)
    return TargetPlan(_field_name(column), column, ", ".join(parts), comment, rarest=rarest, doubts=doubts)


def _misspelt(column: str, classes: Mapping[str, int]) -> list[str]:
    """Doubts on rare classes that differ from a frequent one in a letter or two, with the rows of both.

    >>> len(_misspelt("grade", {"moderate": 20, "moderat": 1})), _misspelt("grade", {"stage 1": 20, "stage 2": 1})
    (1, [])
    """
    return [
        f"{column}: {rare!r} ({counted(few, 'row')}) may be a misspelt {name!r} ({counted(many, 'row')}). If so, "
        "correct the table, and repeat `casewise init`."
        for rare, few in classes.items()
        for name, many in classes.items()
        if few * _RARE <= many
        and min(len(rare), len(name)) >= _LETTERS
        # numbers, also Roman ones, distinguish classes
        and _NUMERALS.findall(rare) == _NUMERALS.findall(name)
        and _edits(rare.casefold(), name.casefold()) <= _EDITS
    ]


def _edits(name: str, other: str) -> int:
    """How many letters must be added, removed or replaced to make one text the other.

    >>> _edits("moderat", "moderate"), _edits("severe", "sevree")
    (1, 2)
    """
    before = list(range(len(other) + 1))
    for row, letter in enumerate(name, 1):
        after = [row]
        for column, other_letter in enumerate(other, 1):
            after.append(min(before[column] + 1, after[-1] + 1, before[column - 1] + (letter != other_letter)))
        before = after
    return before[-1]


def _rising(names: Sequence[str]) -> list[str]:
    """The names of three grades or more in rising order; [] if they are not grades.

    >>> _rising(["severe", "Mild", "none"]), _rising(["G2", "G1", "G3"]), _rising(["a", "b", "c"])
    (['none', 'Mild', 'severe'], ['G1', 'G2', 'G3'], [])
    """
    if len(names) < 3:
        return []
    if all(re.fullmatch(r"-|±|\+/-|\(\+\)|\++|[0-4]\+", name) for name in names):
        signs = {"-": 0.0, "±": 0.5, "+/-": 0.5, "(+)": 0.5}
        return sorted(names, key=lambda name: signs.get(name, float(name[0]) if name[0].isdigit() else len(name)))
    for scale in _SCALES:
        if all(plain(name) in scale for name in names):
            return sorted(names, key=lambda name: scale.index(plain(name)))
    matches = [_NUMBERED.fullmatch(name) for name in names]
    if all(matches) and len({(match[1] or "").casefold() for match in matches if match}) == 1:
        roman = _ROMAN.split()
        steps = {n: m[2].casefold() for n, m in zip(names, matches, strict=True) if m}
        if all(step in roman for step in steps.values()) or all(step.isdecimal() for step in steps.values()):
            return sorted(names, key=lambda n: roman.index(steps[n]) if steps[n] in roman else int(steps[n]))
    return []


def _grades(column: str, by_value: Mapping[str, set[str]], numbers: Sequence[float]) -> TargetPlan:
    people: dict[int, set[str]] = defaultdict(set)
    for value, subjects in by_value.items():
        people[int(decimal(value) or 0)] |= subjects
    rarest = min(map(len, people.values()))
    grades = sorted(people)
    if rarest < 2:
        rare = [str(grade) for grade in grades if len(people[grade]) < 2]
        doubt = (
            f"{column}: the whole numbers {grades[0]} to {grades[-1]} are treated as a number, not as grades, because "
            f"{', '.join(rare)} {'has one subject only' if len(rare) == 1 else 'have one subject each'}. For grades, "
            "write `kind: ordinal`."
        )
        return replace(_number(Column(column, list(by_value)), numbers), cells=None, doubts=[doubt])
    complete = grades == list(range(grades[0], grades[-1] + 1))
    values = f"range: {grades[0]}..{grades[-1]}" if complete else f"classes: {_listed(map(str, grades))}"
    doubt = (
        f"{column}: the whole numbers {grades[0]} to {grades[-1]} were read as grades in rising order. If they are "
        f"codes of classes, write `{{classes: {_listed(map(str, grades))}}}`; if they are measured, `{{range: "
        f"{grades[0]}..{grades[-1]}}}`."
    )
    return TargetPlan(_field_name(column), column, f"kind: ordinal, {values}", "grades", rarest=rarest, doubts=[doubt])


def _number(column: Column, numbers: Sequence[float]) -> TargetPlan:
    name, cells = column.name, [value for cell in column.cells if (value := decimal(cell)) is not None]
    codes = missing_codes(pd.Series(cells, dtype=float))
    values = [number for number in numbers if number not in codes]
    low, high = min(values), max(values)
    if low == high:
        raise CasewiseError(f"{name}: a number needs two different values, found {low:g} only.")
    # all digits: a rounded end would refuse the cell that it is from
    setting = "range: " + "..".join(np.format_float_positional(end, trim="-") for end in (low, high))
    without = f" without {', '.join(f'{code:g}' for code in codes)}" if codes else ""
    doubts = [
        f"{name}: the {setting.replace(':', '')} comes from the table{without}. Check it: predictions are clipped to "
        "it, so write the range that is possible."
    ]
    texts = None
    if comma := next((value for value in column.values if "," in value), ""):
        doubts.append(
            f"{name}: commas were read as decimal commas: {comma} is {decimal(comma):.10g}. If they separate "
            "thousands, remove them from the table."
        )
    if column.are_percentages:
        doubts.append(f"{name}: percent signs were left out: 45 % is the number 45.")
    if any(point_number(value) != value for value in column.values):
        texts = list(map(point_number, column.cells))
    return TargetPlan(_field_name(name), name, setting, "CHECK the range", cells=texts, doubts=doubts)
