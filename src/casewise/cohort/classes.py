"""Classes in a cohort table: spellings are read as class numbers, rows of other classes are left out and counted."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.checks import closest, number
from casewise.cohort.identity import alike
from casewise.cohort.table import Problems, names_text, natural
from casewise.errors import counted, cut
from casewise.study.model import mixed_seed
from casewise.study.schema import Study, Target
from casewise.targets import kind_named

if TYPE_CHECKING:
    from casewise.cohort.participants import Flow

# about one wrong letter in five
MISTYPED = 0.88
# shorter words that differ in a letter are often different classes (`AML` and `ALL`)
SHORTEST_WORD = 4


def plain(spelling: str) -> str:
    """The name of a class without case and without spaces, hyphens and underscores inside it.

    >>> plain("No Finding") == plain("no_finding"), plain("HER2-") == plain("HER2+")
    (True, False)
    """
    return re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", "", alike(spelling))


def nearly(first: str, second: str) -> bool:
    """Whether two spellings may mean the same class: one has an additional number or sign, or a letter is mistyped.

    >>> nearly("COVID-19", "covid"), nearly("covdi", "covid"), nearly("pneumonai", "pneumonia")
    (True, True, True)
    >>> nearly("grade 1", "grade 2"), nearly("typical", "atypical")
    (False, False)
    """
    words = [re.findall(r"[^\W\d_]+", alike(text.replace("_", " ").replace(" ", "-"))) for text in (first, second)]
    first, second = plain(first), plain(second)
    digits = [re.sub(r"\D", "", text) for text in (first, second)]
    if all(digits) and digits[0] != digits[1]:
        return False
    letters = [re.sub(r"[\W\d_]", "", text) for text in (first, second)]
    if letters[0] == letters[1]:
        return bool(letters[0]) and bool(digits[0]) != bool(digits[1])
    if _one_slip(*words):
        return True
    if letters[0] in letters[1] or letters[1] in letters[0]:
        return False
    return SequenceMatcher(None, first, second, autojunk=False).ratio() > MISTYPED


def _one_slip(first: list[str], second: list[str]) -> bool:
    """Whether two lists of words differ in one word of four letters or more, by one slip of the keyboard.

    A slip is a wrong, missing or additional letter, or two letters in the wrong order. An additional first letter is
    none, unless it is doubled, because it makes another word (`atypical`); nor is a letter of a short word, which names
    a kind (`type A`).

    >>> _one_slip(["covdi"], ["covid"]), _one_slip(["no", "findng"], ["no", "finding"])
    (True, True)
    >>> _one_slip(["type", "a"], ["type", "b"]), _one_slip(["typical"], ["atypical"])
    (False, False)
    """
    pairs = [sorted(pair, key=len) for pair in zip(first, second, strict=False) if pair[0] != pair[1]]
    if len(first) != len(second) or len(pairs) != 1 or len(pairs[0][0]) < SHORTEST_WORD:
        return False
    short, long = pairs[0]
    start = next((n for n, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(long) > len(short):
        return short[start:] == long[start + 1 :] and (start > 0 or long[0] == long[1])
    swapped = short[start : start + 2] == long[start : start + 2][::-1]
    return short[start + 1 :] == long[start + 1 :] or (swapped and short[start + 2 :] == long[start + 2 :])


def numbered(text: str) -> str:
    """A grade as a class name: whole numbers without decimals; other text unchanged.

    >>> numbered("3.0"), numbered("none")
    ('3', 'none')
    """
    value = number(text)
    return str(int(value)) if value is not None and float(value).is_integer() else text


def keep_classes(
    cells: pd.DataFrame, study: Study, columns: dict[str, str], problems: Problems, notes: list[str], flow: Flow
) -> pd.DataFrame:
    """The rows whose classes the study names; rows of other classes are left out and counted in a note.

    A spelling that resembles a class is a problem, because it may be meant. For a closed kind of target, such as
    grades, every other class is a problem.
    """
    selected = pd.Series(True, index=cells.index)
    for name, column in columns.items():
        target = study.targets[name]
        text, closed = cells[column].str.strip(), kind_named(target.kind).closed
        spelt = {spelling: label for label, spellings in target.classes.items() for spelling in spellings}
        looks = {plain(spelling): label for spelling, label in spelt.items()}
        _check_apart(name, spelt, problems)
        written = {*text.unique(), *map(numbered, text.unique())}
        others = text[(text != "") & ~text.isin(list(spelt)) & ~text.map(numbered).isin(list(spelt))]
        for spelling, rows in others.groupby(others, sort=False).groups.items():
            written_as = plain(str(spelling))
            likely = next((label for s, label in spelt.items() if s in written and nearly(str(spelling), s)), None)
            if written_as in looks or (likely is not None and not closed):
                label = looks.get(written_as, likely) or ""
                message = (
                    f"{cut(spelling)} looks like the class {cut(label)}. Correct the rows, or list both spellings of "
                    f"one class: `classes: {{{label}: [{', '.join(target.classes[label])}, {spelling}]}}`. If it is "
                    f"another class, leave it out by name: `where_not: {{{column}: {spelling}}}`."
                )
                problems.add("class alike", message, rows, column)
            elif closed:
                hint = closest(str(spelling), list(spelt))
                message = f"{cut(spelling)} is none of the grades {names_text(list(spelt), 12)}.{hint}"
                problems.add("grade unknown", message, rows, column)
        if len(others) and not closed:
            counts = others.value_counts()
            listed = names_text([f"{value} ({count:,})" for value, count in counts.items()], 6)
            rows = counted(len(others), "row of a class", "rows of classes")
            verb = "is" if len(others) == 1 else "are"
            notes.append(f"{rows} that the study does not list {verb} left out: {listed}.")
            selected &= ~text.index.isin(others.index)
            flow.leave_out("other_classes", selected, column=column, values=[str(value) for value in counts.index])
        _check_there(name, target, text, problems)
    return cells[selected]


def drawn_rows(
    cells: pd.DataFrame, study: Study, columns: dict[str, str], problems: Problems, flow: Flow
) -> pd.DataFrame:
    """The rows without those of the classes of `sample` that the seed does not draw; a class with too few is a problem.

    The order of the rows has no influence: they are drawn by the order of their paths.
    """
    selected = pd.Series(True, index=cells.index)
    for label, count in study.sample.items():
        name, column = next(((n, c) for n, c in columns.items() if label in study.classes_of(n)), ("", ""))
        if not name:
            continue  # the table lacks the column, which is a problem of its own
        text, spellings = cells[column].str.strip(), study.targets[name].classes[label]
        rows = cells.index[text.isin(spellings) | text.map(numbered).isin(spellings)]
        if len(rows) < count:
            of = f"sample: {counted(count, 'row')} of {cut(label)} cannot be drawn, for {len(rows):,} have it"
            problems.add("sample", f"{of}. Lower the number or leave it out.", [], column)
            continue
        path = study.columns.get("path", "path")
        rows = cells.loc[rows].sort_values(path, kind="stable").index if path in cells else rows
        drawn = np.random.default_rng(mixed_seed(study.seed, "sample", label)).permutation(len(rows))[:count]
        selected[rows.difference(rows[drawn])] = False
        flow.leave_out("sample", selected, column=column, values=[f"{label}: {count:,}"])
    return cells[selected]


def _check_apart(name: str, spelt: dict[str, str], problems: Problems) -> None:
    """Two classes with similar names are a problem, because they are probably one class."""
    first_spelling: dict[str, str] = {}
    for spelling, label in spelt.items():
        other = first_spelling.setdefault(plain(spelling), spelling)
        if spelt[other] != label:
            joined = f"`classes: {{{spelt[other]}: [{other}, {spelling}]}}`"
            text = (
                f"targets.{name}: {cut(other)} and {cut(spelling)} are two classes that look alike. If they are one, "
            )
            problems.add("class alike", f"{text}write {joined}; if not, let them differ in more.")


def _check_there(name: str, target: Target, text: pd.Series, problems: Problems) -> None:
    """A class that the table lacks is a problem, because its name is probably misspelt in the study."""
    present = sorted((value for value in text.unique() if value), key=natural)
    shapes = {*present, *map(numbered, present)}
    for label, spellings in target.classes.items():
        for spelling in spellings:
            if present and spelling not in shapes and not any(plain(spelling) == plain(value) for value in present):
                of = "" if spelling == label else f" (of {label})"
                listed = names_text([repr(value) for value in present], 8)
                message = f"targets.{name}: no row has the class {cut(spelling)}{of}.{closest(spelling, present)}"
                problems.add("class absent", f"{message} There are: {listed}.")


def read_classes(target: Target, text: pd.Series) -> pd.Series:
    """Class numbers from the study's order, row by row; NaN where the cell is empty."""
    numbers = {s: float(i) for i, spellings in enumerate(target.classes.values()) for s in spellings}
    return text.map(lambda value: numbers.get(value, numbers.get(numbered(value), float("nan")))).astype(float)


def check_classes(images: pd.DataFrame, study: Study, problems: Problems) -> None:
    """Every class needs two subjects: one for training and one for evaluation."""
    for name in study.outputs:
        for code, label in enumerate(study.classes_of(name)):
            rows = images[images[name] == code]
            subjects = rows["subject"].unique()
            kinds = ("class absent", "class alike")
            reported = any(cut(label) in text for kind in kinds for _, text in problems.by_kind.get(kind, []))
            if not len(rows) and images[name].notna().any() and not reported:
                text = (
                    f"{name}: the study leaves out all rows of the class {cut(label)}. Leave it out of `classes` too."
                )
                problems.add("class left out", text)
            if len(subjects) == 1:
                text = f"the class {cut(label)} has one subject ({subjects[0]}), and none is left for evaluation. "
                text += "Add subjects, merge it with another class, or leave it out of `classes`."
                problems.add("class of one subject", text, rows.index, name)


def unknown_classes(cells: pd.DataFrame, study: Study, columns: dict[str, str], problems: Problems) -> None:
    """In a cohort for testing only, a class that the networks were not trained on is a problem."""
    for name, column in columns.items():
        target = study.targets[name]
        spelt = [spelling for spellings in target.classes.values() for spelling in spellings]
        text = cells[column].str.strip()
        bad = text[(text != "") & ~text.isin(spelt) & ~text.map(numbered).isin(spelt)]
        for value in dict.fromkeys(bad):
            rows = bad.index[bad == value]
            message = (
                f"the networks were not trained on the class {cut(value)}, only on {names_text(list(target.classes))}."
                f"{closest(value, spelt)} Spell it as the study does, or leave it out: "
                f"`external: {{where_not: {{{column}: {value}}}}}`."
            )
            problems.add("class unknown", message, rows, column)
