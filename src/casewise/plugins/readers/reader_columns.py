"""Numbers that readers did not enter on the page: columns of the table, and scores computed from what they entered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.plugins.readers.form import Form, FormField
from casewise.plugins.readers.rating.readings import COLUMNS, OF_TABLE
from casewise.predictions.scores import apply_scores
from casewise.study.scores import study_scores

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.study.schema import Study

# What one reader said at one time, in the columns of a readings table.
_READING = ["session", "reader", "occurrence"]


def _number_fields(study: Study, name: str) -> list[FormField]:
    """A field for a target or score that is a number, or for each of its regions."""
    low, high = study.range_of(name)
    regions = study.regions if study.level_of(name) == "region" else [""]
    title, kind = name.replace("_", " "), study.kind_of(name)
    keys = [(f"{name}[{region}]" if region else name, region) for region in regions]
    return [FormField(key, name, region, title, kind, (), low, high, 0.1) for key, region in keys]


def columns_form(study: Study) -> Form:
    """The fields of `evaluation.readers`; all are numbers."""
    return Form(tuple(field for name in study.evaluation.readers for field in _number_fields(study, name)), (), 0)


def column_readings(study: Study, cohort: Cohort) -> pd.DataFrame:
    """The readings table of the columns (see `rating.sessions.Readings.table`), read once, blind.

    Values of several images of a case, or of a region where the target has a value for each, are averaged. The order in
    which a reader read is not known, so there is no drift: positions are missing.
    """
    tables = []
    for name, columns in study.evaluation.readers.items():
        keys = ["case", "subject", *(["region"] if study.level_of(name) == "region" else [])]
        for reader, column in columns.items():
            values = pd.to_numeric(cohort.images[column], errors="coerce")
            means = values.groupby([cohort.images[key] for key in keys], sort=False).mean().dropna().rename("value")
            tables.append(means.reset_index().assign(target=name, reader=reader))
    facts: dict[str, object] = {"session": OF_TABLE, "kind": "blind", "occurrence": 1, "entry": 0}
    facts |= dict.fromkeys(("image", "reason", "comment", "at"), "") | {"position": np.nan, "seconds": np.nan}
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    table = table.assign(**facts)
    return table.assign(region=table["region"].fillna("") if "region" in table else "")[COLUMNS]


def with_scores(study: Study, form: Form, table: pd.DataFrame) -> tuple[Form, pd.DataFrame]:
    """The form and the readings table with the scores of cases, computed from the values of each reading.

    A case that a reader did not score completely has no score of this reader; one that cannot be judged has NaN.
    """
    if not study.scores or table.empty:
        return form, table
    reading = table.groupby(_READING, sort=False).ngroup()
    rows = table[["case", "subject", "image", "region", "target"]].assign(
        model=reading.astype(str), stage="", outer_fold=pd.NA, inner_fold=pd.NA, visit="", day=np.nan
    )
    rows = rows.assign(y_true=np.nan, y_pred=table["value"], kind="regression")
    scores = apply_scores(rows, study_scores(study)).iloc[len(rows) :]
    first = table.assign(model=reading.astype(str)).drop_duplicates(["model", "case", "image"])
    facts = first.drop(columns=["target", "region", "value", "image"]).drop_duplicates(["model", "case"])
    columns = ["model", "case", "target", "region", "image", "y_pred"]
    added = scores[columns].merge(facts, on=["model", "case"]).rename(columns={"y_pred": "value"})
    names = [name for name in study.scores if study.level_of(name) == "case"]
    added = added[added["target"].isin(names)]
    fields = [field for name in names for field in _number_fields(study, name)]
    return replace(form, fields=(*fields, *form.fields)), pd.concat([added[COLUMNS], table], ignore_index=True)
