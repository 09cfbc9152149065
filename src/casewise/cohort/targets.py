"""Targets of a cohort table: read and checked cell by cell, one value for every unit of their level, and of panels.

Spellings of classes are read as class numbers; rows of other classes are left out and counted.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.cohort.checks import STORED, add_unknown_column, closest, number
from casewise.cohort.clinical_words import named_region
from casewise.cohort.identity import alike
from casewise.cohort.table import Problems, each, names_text, natural
from casewise.errors import counted, cut
from casewise.study.model import mixed_seed
from casewise.study.schema import Level, Study, Target
from casewise.study.scores import study_scores
from casewise.targets import by_form, kind_named

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
    """The rows minus undrawn rows of the classes in `sample`; a class with too few rows is a problem.

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


def _read_classes(target: Target, text: pd.Series) -> pd.Series:
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


_LEVELS: tuple[Level, ...] = ("image", "region", "case", "subject")


def target_columns(name: str, study: Study) -> list[str]:
    """The columns of the table that a target is read from."""
    column = study.targets[name].column
    column = column if column is not None else study.columns.get(name) or name
    return [column] if isinstance(column, str) else list(column)


def class_columns(study: Study, headers: list[str]) -> dict[str, str]:
    """The column of each target with classes, if the table has it."""
    names_needed = {*study.outputs, study.split.stratify_by}
    columns = {
        name: target_columns(name, study)[0]
        for name in study.targets
        if study.classes_of(name) and name in names_needed
    }
    return {name: column for name, column in columns.items() if column in headers}


def read_target(name: str, study: Study, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    """One target, row by row: NaN if not scored, the mean if read from several columns."""
    target = study.targets[name]
    columns = target_columns(name, study)
    missing = [column for column in columns if column not in cells]
    for column in missing if name not in study.columns else ():
        owner = "" if column == name else f" (target {name})"
        setting = problems.setting(f"columns: {{{name}: NAME}}")
        remedy = f"say {setting}" if problems.section else "name its column in the study's targets"
        hint = closest(column, [other for other in cells if not names_one_region(other, study)])
        problems.add("columns", f"column {column}{owner}: is missing.{hint} Add it, or {remedy}.")
    if missing:
        return pd.Series(float("nan"), index=cells.index)
    for column in columns:
        _check_region(name, column, study, cells, problems)
    if target.equals is not None:
        return _read_indicator(name, target, cells[columns], problems)
    readers = {"number": _read_numbers, "classes": _read_class_names}
    return by_form(target.kind, readers)(name, target, cells[columns], problems)


def names_one_region(column: str, study: Study) -> bool:
    """Whether a heading names one of several regions of the study, such as `Erythema arms`."""
    return len(study.regions) > 1 and bool(named_region(column, study.regions)[0])


def _check_region(name: str, column: str, study: Study, cells: pd.DataFrame, problems: Problems) -> None:
    """A column that names one region has no values of other regions, or of whole cases."""
    if not names_one_region(column, study) or named_region(name, study.regions)[0]:
        return
    region, heading = named_region(column, study.regions)[0], study.columns.get("region", "region")
    scored = cells[column].str.strip() != ""
    if heading in cells:
        scored &= cells[heading].map(lambda cell: named_region(cell, study.regions)[0] or cell) != region
    if scored.any():
        problems.add(
            f"region {name}",
            f"{name}: {cut(column)} names the region {region}, and would be the value of "
            f"{names_text([r for r in study.regions if r != region])} too. Name a column with the values of all "
            "regions and a row for each of them; `casewise init` writes such a table. If the column is of all, rename "
            "it.",
            cells.index[scored],
            column,
        )


def _read_class_names(name: str, target: Target, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    if len(cells.columns) > 1:
        problems.add("columns", f"targets.{name}: classes are read from one column, found {len(cells.columns)}.")
    return _read_classes(target, cells.iloc[:, 0].str.strip())


def _read_numbers(name: str, target: Target, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    """The numbers of one column, or the mean of several."""
    labels = {column: column if column == name else f"{column} (target {name})" for column in cells}
    numbers = [
        _numbers(labels[column], target, cells[column].str.strip(), problems, setting=f"targets.{name}.range")
        for column in cells
    ]
    return pd.concat(numbers, axis=1).mean(axis=1, skipna=False) if len(numbers) > 1 else numbers[0]


def _read_indicator(name: str, target: Target, cells: pd.DataFrame, problems: Problems) -> pd.Series:
    """1 where the column has the text of `equals`, 0 where it has another one, NaN where it is empty."""
    column, indicator = cells.columns[0], target.equals or ""
    if len(cells.columns) > 1:
        problems.add("columns", f"targets.{name}: `equals` needs one column, found {len(cells.columns)}.")
    text = cells[column].str.strip()
    present = sorted((value for value in text.unique() if value), key=natural)
    if present and indicator.strip() not in present:
        listed, hint = names_text([repr(value) for value in present], 6), closest(indicator, present)
        message = f"column {column} (target {name}): no row has {cut(indicator)}.{hint} There are: {listed}."
        problems.add("equals", message)
    return (text == indicator.strip()).astype(float).where(text != "")


def check_readers(study: Study, cells: pd.DataFrame, problems: Problems) -> None:
    """Check that the columns of readers exist and contain numbers in the range of their target or score."""
    for name, columns in study.evaluation.readers.items():
        for reader, column in columns.items():
            key = f"evaluation.readers.{name}.{reader}"
            if column not in cells:
                add_unknown_column(key, column, cells.columns.tolist(), problems)
            elif column in STORED:
                problems.add("columns", f"{key}: {cut(column)} is a reserved name. Rename the column.")
            else:
                if name in study.targets:
                    _check_region(name, column, study, cells, problems)
                label = f"{column} (reader {reader} of {name})"
                setting = f"{'targets' if name in study.targets else 'scores'}.{name}.range"
                limits = Target(range=study.range_of(name))
                _numbers(label, limits, cells[column].str.strip(), problems, setting=setting)


def _numbers(label: str, target: Target, text: pd.Series, problems: Problems, *, setting: str) -> pd.Series:
    """The numbers of a column; `setting` is the key of the study file that states their range."""
    low, high = target.range
    values: dict[str, float] = {"": float("nan")}
    wrong: dict[str, str] = {}
    outside: dict[str, float] = {}
    for value in filter(None, text.unique()):
        parsed = number(value)
        if parsed is None:
            comma = re.fullmatch(r"[+-]?\d+,\d+", value)
            wrong[value] = f"{cut(value)} is not a number" + (f" (write {value.replace(',', '.')})" if comma else "")
        elif not low <= parsed <= high:
            outside[value] = parsed
        elif target.integer and not parsed.is_integer():
            wrong[value] = f"{value} is not whole"
        else:
            values[value] = parsed
    cells = text[text.isin(list(outside))]
    if len(cells) > 1:
        least, most = min(outside.values()), max(outside.values())
        span = f"{least:g} to {most:g}" if least < most else f"{most:g}"
        message = f"{counted(len(cells), 'cell')} outside {low:g}..{high:g} ({span}). Correct them, or widen {setting}."
        problems.add(f"range {label}", message, cells.index, label)
    else:
        wrong |= {value: f"{value} is outside {low:g}..{high:g}" for value in outside}
    allowed = f"Write {'a whole number' if target.integer else 'a number'} in {low:g}..{high:g}, or leave it empty if "
    for row, value in each(text[text.isin(list(wrong))]):
        widen = f" If such values are possible, widen {setting}." if value in outside else ""
        problems.add(f"value {label}", f"{wrong[value]}. {allowed}it was not scored.{widen}", [row], label)
    return pd.to_numeric(text.map(values), errors="coerce").astype(float)


def level_keys(level: Level) -> list[str]:
    """The columns that name one unit of a level."""
    return {"image": [], "region": ["case", "region"], "case": ["case"], "subject": ["subject"]}[level]


def resolve_target(name: str, study: Study, images: pd.DataFrame, problems: Problems, notes: list[str]) -> pd.Series:
    """The target with one value for every unit of its level, filled in from the other rows of the unit.

    Adds a problem if rows of a unit differ, or if a target that the network predicts differs within a panel.
    """
    values, level, panel = images[name], study.level_of(name), study.panels.by
    if keys := level_keys(level):
        _add_varying(name, images, keys, f"is at {level} level", study, problems)
        values = images.groupby(keys, sort=False)[name].transform("first")
        if filled := int((values.notna() & images[name].isna()).sum()):
            rows = counted(filled, "row without a value takes", "rows without a value take")
            notes.append(f"{name}: {rows} the value of other rows of the same {level}.")
    if name in study.outputs and _LEVELS.index(level) < _LEVELS.index(panel):
        rule = f"is at {level} level, but is predicted for a whole {panel} (panels.by)"
        _add_varying(name, images, level_keys(panel), rule, study, problems)
    return values


def _add_varying(name: str, images: pd.DataFrame, keys: list[str], rule: str, study: Study, problems: Problems) -> None:
    kind, classes = kind_named(study.kind_of(name)), study.classes_of(name)
    counts = images.groupby(keys, sort=False)[name].transform("nunique")
    for _, unit in images[counts > 1].groupby(keys, sort=False):
        recorded = unit[name].dropna()
        values = " and ".join(kind.shown(value, classes) for value in recorded.drop_duplicates())
        unit_name = unit[keys[0]].iloc[0] + (f", region {unit['region'].iloc[0]}" if "region" in keys else "")
        text = f"{values} in {keys[0]} {unit_name}; it {rule}. Correct the rows, or state its `level` in the targets."
        problems.add(f"varies {name} {rule}", text, recorded.index, name)


def panel_values(panels: pd.DataFrame, study: Study, name: str) -> np.ndarray:
    """(P,) recorded values of a target, or of a score computed from targets, of each panel; NaN if not scored."""
    if name in study.targets:
        return panels[name].to_numpy(float)
    score = next(s for s in study_scores(study) if s.name == name)
    references = score.references
    return score.value({(n, r): panel_values(panels, study, n) for n, r in references})


def label_table(panels: pd.DataFrame, study: Study) -> np.ndarray:
    """(P, T) recorded values of all outputs of the networks."""
    return np.stack([panel_values(panels, study, name) for name in study.outputs], axis=1)
