"""Covariates: columns of the table with facts of each case, such as age and sex, that a study uses besides its images.

A column is a number if all of its values are numbers and a quantity (`casewise.cohort.groups.is_quantity`), else a
category, whose values are compared without regard to upper and lower case.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from casewise.cohort.checks import STORED, closest, number
from casewise.cohort.groups import is_quantity, numbers_in, recorded
from casewise.cohort.table import Problems, names_text
from casewise.errors import CohortError, counted, cut, nearest
from casewise.predictions.covariates import CATEGORY, NUMBER
from casewise.study.schema import Study

# A category with more values, and more than half as many as there are subjects, identifies people.
MOST_CATEGORIES = 12
# A column is compared with the targets, of which it may be a copy, if so many cases have both.
FEWEST_COMPARED = 5
# Ranks of numbers that are correlated more than this are those of a copy.
COPY = 0.9999


def spelled_alike(cells: pd.Series) -> pd.Series:
    """Cells as text in one spelling, '' for a missing value.

    >>> spelled_alike(pd.Series(["F", " f", "60.0", "n/a"])).tolist()
    ['f', 'f', '60', '']
    """
    text = recorded(cells)
    spelling = {cell: cell.casefold() if number(cell) is None else f"{float(cell):.12g}" for cell in text.unique()}
    return text.map(spelling)


def kind_of(cells: pd.Series, subjects: pd.Series) -> str:
    """Whether a column is a number or a category."""
    values = numbers_in(recorded(cells))
    return NUMBER if values is not None and is_quantity(values, subjects) else CATEGORY


def covariates_by_case(images: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The covariates of each case (index) in one spelling, '' where no image of the case has a value.

    Raises:
        CohortError: there is no such column.
    """
    if lacking := [name for name in names if name not in images]:
        raise CohortError(f"The cases have no column {cut(lacking[0])}, which the model needs.")
    values = pd.DataFrame({name: spelled_alike(images[name]) for name in names}, index=images.index)
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
    """Check the columns of the covariates; with `notes`, those of the study's own cohort, whose kinds are noted.

    Args:
        images: the rows of the table that are images, with their case and targets.
        standard: the columns with a standard role.
    """
    for name in study.covariates:
        if name not in cells:
            hint = closest(name, cells.columns.tolist())
            text = (
                f"covariates: {cut(name)} is not a column.{hint} There are: {names_text(cells.columns.tolist(), 12)}."
            )
            problems.add("columns", text)
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
