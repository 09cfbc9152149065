"""Readings that the table of a study already has, in the columns of `evaluation.readers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from casewise.plugins.readers.form import Form, FormField
from casewise.plugins.readers.rating.sessions import COLUMNS, OF_TABLE

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.study.schema import Study


def columns_form(study: Study) -> Form:
    """A field for each target, and for each of its regions, of `evaluation.readers`; all are numbers."""
    fields = []
    for name in study.evaluation.readers:
        low, high = study.range_of(name)
        for region in study.regions if study.level_of(name) == "region" else [""]:
            key, title = f"{name}[{region}]" if region else name, name.replace("_", " ")
            fields.append(FormField(key, name, region, title, study.kind_of(name), (), low, high, 0.1))
    return Form(tuple(fields), (), 0)


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
