"""The headline's AUROC within each value of the column that the audit found to predict the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from casewise.audit.leading_column import leading_column
from casewise.cohort.groups import table_column
from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.external import OTHER_VALUES, groups_of_rows
from casewise.evaluation.results import Results, WithinColumn
from casewise.evaluation.subgroups import headline_rows
from casewise.evaluation.within_column import within_column

if TYPE_CHECKING:
    from casewise.cohort.cohort import Cohort
    from casewise.run_folder import RunFolder
    from casewise.study.schema import Study


def within_shortcut_column(
    study: Study, cohort: Cohort, predictions: pd.DataFrame, results: Results, folder: RunFolder
) -> WithinColumn | None:
    """The figures within the column; None where the audit found no such column, or folds are sources."""
    target, main, settings = study.primary_outcome, results.main, study.evaluation
    column = leading_column(folder.audit.read_if_exists(), target, study.audit.columns)
    if column is None or not study.classes_of(target) or not main.metrics or results.by_site is not None:
        return None
    stored = table_column(study, cohort.images, column["name"])
    rows = headline_rows(predictions, main)
    if stored is None or rows.empty:
        return None
    group_of, groups = groups_of_rows(rows, cohort.images, stored)
    if len(groups) < 2 or OTHER_VALUES in groups:  # a column of many values, such as dates, is not a grouping
        return None
    by_group, means = within_column(
        rows,
        group_of,
        groups,
        classes=study.classes_of(target),
        positive=study.positive_of(target),
        plan=Plan(settings.bootstrap_resamples, settings.confidence, study.seed),
    )
    return WithinColumn(column["name"], main.target, str(main.stage), str(main.learner), by_group, means)
