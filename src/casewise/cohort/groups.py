"""Groups of cases by a column of the table: its values, or bands of its numbers; and covariates.

Covariates are columns of the table with facts of each case, such as age and sex, that a study uses besides its images.

A column is a number if all of its values are numbers and a quantity (`is_quantity`), else a
category, whose values are compared without regard to upper and lower case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from casewise.cohort.checks import STORED, add_unknown_column, closest, number
from casewise.cohort.table import Problems, names_text, natural, text_of
from casewise.cohort.table_formats import NO_VALUE, missing_words
from casewise.errors import CohortError, counted, cut, nearest
from casewise.predictions.covariates import CATEGORY, NUMBER
from casewise.study.evaluation import SKIN_TONE, UNCERTAIN
from casewise.study.schema import Study

NOT_RECORDED, SEVERAL, OTHERS = "not_recorded", "several", "others"
# A column with few distinct numbers is a code (1 = male), not a quantity.
FEW_NUMBERS = 12
MOST_GROUPS = 12


@dataclass(frozen=True)
class Group:
    """One group: its `name`, and a `code`: `value`, or what it stands for instead, such as no value or rare ones."""

    name: str
    code: str = "value"


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a column.

    Attributes:
        column: the column of the table.
        groups: in order.
        of_units: the group's number of each unit, by unit.
    """

    column: str
    groups: list[Group]
    of_units: pd.Series


def table_column(study: Study, images: pd.DataFrame, column: str) -> str | None:
    """The column of the cohort's images that contains a column of the table; None if there is none.

    A column with a standard role has its name there, and one with a reserved name has a prefix.
    """
    roles = {header: role for role, header in study.columns.items() if header}
    options = (roles.get(column, ""), f"table_{column}", column)
    return next((name for name in options if name and name in images), None)


def recorded(cells: pd.Series, *, values: Iterable[str] = ()) -> pd.Series:
    """Cells as text without outer spaces; words that mean no value among the cells become ''.

    With `values`, in lower case, these are values and all other words for a missing value are none.

    >>> recorded(pd.Series(["none", "mild", None, "n/a"])).tolist(), recorded(pd.Series(["none", "1"])).tolist()
    (['none', 'mild', '', ''], ['', '1'])
    """
    text = cells.astype(object).where(cells.notna(), "").map(text_of).astype(str)
    words = NO_VALUE - set(values) if values else missing_words(text.unique())
    return text.mask(text.str.casefold().isin(words), "")


def numbers_in(text: pd.Series) -> pd.Series | None:
    """The cells as numbers, NaN if empty; None if any other cell is not a number, or all are empty."""
    values = {cell: number(cell) for cell in text.unique() if cell}
    if not values or None in values.values():
        return None
    return pd.to_numeric(text.map(values), errors="coerce").astype(float)


def is_quantity(values: pd.Series, subjects: pd.Series) -> bool:
    """Whether numbers are a quantity, and not codes of a few categories: many differ, or most subjects differ.

    >>> import pandas as pd
    >>> people = pd.Series(list("abcdef"))
    >>> is_quantity(pd.Series([31.0, 45, 52, 60, 31, 77]), people), is_quantity(pd.Series([1.0, 2, 1, 2, 1, 2]), people)
    (True, False)
    """
    means = values.groupby(subjects.to_numpy()).mean().dropna()
    return int(values.nunique()) > FEW_NUMBERS or int(means.nunique()) > max(2, len(means) / 2)


def grouping(
    cells: pd.Series, units: pd.Series, subjects: pd.Series, column: str, cuts: tuple[float, ...] = ()
) -> Grouping:
    """Group units, such as cases, by the cells of a column; the arguments have one entry for each image.

    With `cuts`, or where the column is a quantity, groups are bands of the unit's mean number. Else a unit with one
    recorded value is in its group, upper and lower case being the same; the least common of many values share a group.

    >>> import pandas as pd
    >>> people = pd.Series(list("aabc"))
    >>> grouping(pd.Series(["F", "f", "M", ""]), people, people, "sex").groups
    [Group(name='F', code='value'), Group(name='M', code='value'), Group(name='', code='not_recorded')]
    >>> ages = grouping(pd.Series(["30", "", "61", "?"]), people, people, "age", (40, 60))
    >>> [group.name for group in ages.groups], ages.of_units.tolist()
    (['below 40', '40 to below 60', '60 and above', ''], [0, 2, 3])
    """
    text = recorded(cells)
    values = numbers_in(text)
    if not cuts and values is not None and is_quantity(values, subjects):
        cuts = _tertiles(values.groupby(subjects.to_numpy()).mean().dropna().to_numpy())
    if cuts and values is not None:
        bands = [Group(name) for name in _band_names(cuts)]
        means = values.groupby(units.to_numpy(), sort=False).mean()
        numbers = means.map(lambda value: len(bands) if np.isnan(value) else int(np.searchsorted(cuts, value, "right")))
        return _grouping(column, bands, numbers)
    spelling = {plain: rows.value_counts().index[0] for plain, rows in text[text != ""].groupby(text.str.casefold())}
    ordered = sorted(spelling, key=natural)
    plain_text = text.str.casefold()
    by_unit = plain_text[plain_text != ""].groupby(units[plain_text != ""].to_numpy(), sort=False)
    first, several = by_unit.first(), by_unit.nunique() > 1
    frequency = first[~several].value_counts()
    rare = set() if len(ordered) <= MOST_GROUPS else {n for n in ordered if n not in frequency.index[: MOST_GROUPS - 1]}
    kept = [name for name in ordered if name not in rare]
    unclear = UNCERTAIN if column == SKIN_TONE else ""
    groups = [Group(spelling[name], UNCERTAIN if name == unclear else "value") for name in kept]
    position = {name: number for number, name in enumerate(kept)}
    extra = {SEVERAL: bool(several.any()), OTHERS: bool(rare)}
    for code in (code for code, present in extra.items() if present):
        position[code] = len(groups)
        groups.append(Group("", code))
    names = first.where(~first.isin(rare), OTHERS).where(~several, SEVERAL)
    of_units = names.map(position).reindex(units.drop_duplicates().to_numpy()).fillna(len(groups)).astype(int)
    return _grouping(column, groups, of_units)


def _grouping(column: str, groups: list[Group], of_units: pd.Series) -> Grouping:
    """Units whose number is beyond all groups have no recorded value."""
    missing = [Group("", NOT_RECORDED)] if (of_units == len(groups)).any() else []
    return Grouping(column, [*groups, *missing], of_units)


def _tertiles(values: np.ndarray) -> tuple[float, ...]:
    """The two cut points of thirds, rounded to three digits; fewer where they coincide.

    >>> _tertiles(np.arange(90.0))
    (29.7, 59.3)
    """
    cuts = [float(f"{cut:.3g}") for cut in np.quantile(values, [1 / 3, 2 / 3])]
    low = float(values.min())
    return tuple(cut for cut in dict.fromkeys(cuts) if cut > low)


def _band_names(cuts: tuple[float, ...]) -> list[str]:
    """The names of bands; a band begins with its cut point.

    >>> _band_names((40,))
    ['below 40', '40 and above']
    """
    between = [f"{low:g} to below {high:g}" for low, high in pairwise(cuts)]
    return [f"below {cuts[0]:g}", *between, f"{cuts[-1]:g} and above"]


def check_subgroups(study: Study, cells: pd.DataFrame, problems: Problems) -> None:
    """Check that the columns of subgroups exist, are not outputs, and contain numbers where cut points are stated."""
    for column, cuts in study.evaluation.subgroup_cuts.items():
        if column not in cells and column == SKIN_TONE:
            continue
        if column not in cells:
            add_unknown_column("evaluation.subgroups", column, cells.columns.tolist(), problems)
            continue
        text = recorded(cells[column])
        wrong = text[(text != "") & text.map(lambda cell: number(cell) is None)]
        if cuts and len(wrong):
            message = f"{cut(wrong.iloc[0])} is not a number, and evaluation.subgroups states cut points for it."
            message += " Correct it, or leave out the cut points."
            problems.add(f"subgroup {column}", message, wrong.index, column)


def arms_of(images: pd.DataFrame, column: str) -> dict[str, str]:
    """The arm of each subject with one recorded value; upper and lower case are the same, and `none` is an arm."""
    text = recorded(images[column], values=["none"])
    text = text[text != ""]
    names = text.groupby(text.str.casefold()).transform(lambda same: same.value_counts().index[0])
    by_subject = names.groupby(images["subject"].astype(str), sort=False)
    return {str(subject): own.iloc[0] for subject, own in by_subject if own.nunique() == 1}


def control_of(arms: Iterable[str], stated: str) -> str:
    """The stated control, as it is spelled in the table; by default the first arm by name. Empty without one."""
    names = sorted(set(arms), key=natural)
    return next((name for name in names if name.casefold() == stated.strip().casefold() or not stated), "")


def check_arm(study: Study, cells: pd.DataFrame, images: pd.DataFrame, problems: Problems, notes: list[str]) -> None:
    """Check that the column of the arm exists, has one value a subject, and contains the control; note the arms."""
    column, control = study.evaluation.arm, study.evaluation.control
    if not column or column not in cells:
        if column:
            add_unknown_column("evaluation.arm", column, cells.columns.tolist(), problems)
        return
    values = recorded(cells[column].loc[images.index], values=["none"])
    present = values[values != ""]
    several = present.str.casefold().groupby(images["subject"]).nunique()
    for subject in several.index[several > 1]:
        rows = present[images["subject"].loc[present.index] == subject]
        text = f"subject {subject} is in the arms {names_text(rows.unique().tolist())}; a subject is in one."
        problems.add("arm", text, rows.index, column)
    names = present.unique().tolist()
    if len(several) and several.max() < 2 and not control_of(names, control):
        text = f"evaluation.control: {cut(control)} is none of {names_text(names, 12)}.{closest(control, names)}"
        problems.add("arm", text)
    elif not names:
        problems.add("arm", f"evaluation.arm: the column {cut(column)} is empty.")
    elif len(names) > len(several) / 2 and len(names) > MOST_GROUPS:
        problems.add("arm", f"evaluation.arm: {cut(column)} has {len(names)} values, so that they are not arms.")
    else:
        first = present.groupby(images["subject"]).first().str.casefold()
        sizes = ", ".join(f"{name} {count}" for name, count in first.value_counts().items())
        end = f"of {images['subject'].nunique()} in all. Control: {cut(control_of(names, control))}."
        notes.append(f"Subjects by arm: {sizes}, {end}")


# A category with more values, and more than half as many as there are subjects, identifies people.
MOST_CATEGORIES = 12
# A column is compared with the targets, in case it is a copy of one, if at least this many cases have both.
FEWEST_COMPARED = 5
# Columns of numbers are copies if their ranks are correlated more than this.
COPY = 0.9999


def spelled_alike(cells: pd.Series, levels: Iterable[str] = ()) -> pd.Series:
    """Cells as text in one spelling, '' for a missing value; `levels` are values that are known from other cells.

    >>> spelled_alike(pd.Series(["F", " f", "60.0", "n/a"])).tolist()
    ['f', 'f', '60', '']
    """
    text = recorded(cells, values=levels)
    spelling = {cell: cell.casefold() if number(cell) is None else f"{float(cell):.12g}" for cell in text.unique()}
    return text.map(spelling)


def kind_of(cells: pd.Series, subjects: pd.Series) -> str:
    """Whether a column is a number or a category."""
    values = numbers_in(recorded(cells))
    return NUMBER if values is not None and is_quantity(values, subjects) else CATEGORY


def covariates_by_case(
    images: pd.DataFrame, names: Sequence[str], levels: Mapping[str, Sequence[str]] | None = None
) -> pd.DataFrame:
    """The covariates of each case (index) in one spelling, '' where no image of the case has a value.

    Words such as `none` are values if they are among the `levels` by column, by default if the other cells say so.

    Raises:
        CohortError: there is no such column.
    """
    if lacking := [name for name in names if name not in images]:
        raise CohortError(f"The cases have no column {cut(lacking[0])}, which the model needs.")
    spelled = {name: spelled_alike(images[name], (levels or {}).get(name, ())) for name in names}
    values = pd.DataFrame(spelled, index=images.index)
    return values.groupby(images["case"].astype(str).to_numpy(), sort=False).max()


def check_columns(names: Sequence[str], headers: Sequence[str]) -> None:
    """Check that a table of new cases has the columns of the covariates.

    Raises:
        CohortError: names the columns that are missing.
    """
    if lacking := [name for name in names if name not in headers]:
        raise CohortError(
            f"The model needs the columns {', '.join(names)} of each case, and there is no column {cut(lacking[0])}."
            f"{nearest(lacking[0], headers)} Give a table with them; cells may be empty. Or name a learner that needs "
            "the images only."
        )


def check_covariates(
    study: Study,
    cells: pd.DataFrame,
    images: pd.DataFrame,
    standard: Sequence[str],
    problems: Problems,
    notes: list[str] | None,
) -> None:
    """Check the columns of the covariates; `notes`, given for the study's own cohort only, receives their kinds.

    Args:
        images: the rows of the table that are images, with their case and targets.
        standard: the columns with a standard role.
    """
    for name in study.covariates:
        if name not in cells:
            add_unknown_column("covariates", name, cells.columns.tolist(), problems)
            continue
        if name in standard or name in STORED:
            text = (
                f"covariates: {cut(name)} has a meaning of its own in the table; name a column with a fact of a case."
            )
            problems.add("columns", text)
            continue
        values = spelled_alike(cells[name].loc[images.index])
        present = values[values != ""]
        several = present.groupby(images["case"]).nunique()
        for case in several.index[several > 1]:
            rows = present[images["case"].loc[present.index] == case]
            text = f"case {case} has the values {' and '.join(rows.unique())}; a covariate has one value in a case."
            problems.add(f"covariate {name}", text, rows.index, name)
        if notes is not None and (several <= 1).all():
            _check_values(name, study, images.assign(value=values).drop_duplicates(["case", "value"]), problems, notes)


def _check_values(name: str, study: Study, rows: pd.DataFrame, problems: Problems, notes: list[str]) -> None:
    """Check the values of a column (`value` of `rows`) and note its kind."""
    present = rows[rows["value"] != ""]
    levels, kind = sorted(present["value"].unique()), kind_of(rows["value"], rows["subject"])
    wrong = present[present["value"].map(lambda cell: number(cell) is None)]
    identifies = kind == CATEGORY and len(levels) > max(MOST_CATEGORIES, rows["subject"].nunique() / 2)
    text = ""
    if len(levels) < 2:
        text = f"covariates: {cut(name)} has {counted(len(levels), 'value')} in the table, so that it says nothing."
    elif identifies and len(wrong) < len(present) / 2:
        text = f"{cut(wrong['value'].iloc[0])} is not a number, and most values of this covariate are. Correct it."
    elif identifies:
        text = f"covariates: {cut(name)} has {len(levels)} values, nearly one a subject, so that it identifies people."
    if text:
        problems.add(f"covariate {name}", text, wrong.index[:1] if "is not a number" in text else [], name)
        return
    for target in study.targets:
        if _is_copy(present.drop_duplicates("case")["value"], present.drop_duplicates("case")[target], kind):
            text = f"covariates: {cut(name)} is a copy of the target {target}: each value stands for one of the target."
            problems.add(f"covariate {name}", text)
    missing = rows["case"].nunique() - present["case"].nunique()
    of_kind = "a number" if kind == NUMBER else f"a category ({names_text(levels, MOST_CATEGORIES)})"
    lacking = f", missing in {counted(missing, 'case')}" if missing else ""
    notes.append(f"Covariate {name} is {of_kind}{lacking}.")


def _is_copy(values: pd.Series, truth: pd.Series, kind: str) -> bool:
    """Whether a column states a target: numbers in the same or the opposite order, or one category a value."""
    values, truth = values[truth.notna()], truth[truth.notna()]
    if len(truth) < FEWEST_COMPARED or truth.nunique() < 2:
        return False
    if kind == NUMBER:
        return bool(abs(values.astype(float).rank().corr(truth.rank())) > COPY)
    pairs = pd.DataFrame({"value": values, "truth": truth}).drop_duplicates()
    return not (pairs["value"].duplicated().any() or pairs["truth"].duplicated().any())
