"""The visit alone, or the position of a slice, as a prediction: what other subjects have there, without any image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.judges import judge_of
from casewise.evaluation.results import Difference, Figures
from casewise.predictions.table import SAMPLE_KEY, probability_columns
from casewise.report.context import ReportContext
from casewise.report.sections.learners import gap_between
from casewise.report.tables import kind_report

# A visit is known where so many other subjects have it, and so many of the cases must have a known one.
FEWEST_SUBJECTS, KNOWN = 5, 0.9
MODEL, ALONE = "model", "visit"


def visit_alone(context: ReportContext) -> tuple[Figures, Difference | None] | None:
    """The figures of this prediction, and the difference of the reported model from it, by the metric of comparison.

    It is the share of each class, or the median, in subjects of other folds at the visit of the same name. None where
    subjects have one visit each, few visits have a name that others have, or folds are sources.
    """
    rows, outcome = context.headline_rows, context.predictions["target"] == context.outcome
    if not context.repeated or rows.empty or context.by_site or context.stage not in ("oof", "test"):
        return None
    known = context.predictions[outcome & (context.predictions["stage"] == "oof")]
    known = known.dropna(subset=["y_true"]).drop_duplicates(list(SAMPLE_KEY))
    parts = [rows] if context.stage == "test" else [part for _, part in rows.groupby("outer_fold")]
    guessed, found = [], 0
    for part in parts:
        others = known if context.stage == "test" else known[known["outer_fold"] != part["outer_fold"].iloc[0]]
        subjects = others.groupby("visit")["subject"].nunique()
        others = others.assign(visit=others["visit"].where(others["visit"].map(subjects) >= FEWEST_SUBJECTS))
        found += int(part["visit"].isin(others["visit"]).sum())
        guessed.append(_guess(part, others))
    if found < KNOWN * len(rows):
        return None
    both = pd.concat([rows.assign(model=MODEL), *(own.assign(model=ALONE) for own in guessed)], ignore_index=True)
    plan = Plan(confidence=context.study.evaluation.confidence, seed=context.study.seed, unit=context.study.unit)
    positive = context.study.positive_of(context.outcome) if context.classes else None
    judged = judge_of(both, context.classes or None, positive).judge(both, plan, whole=True)
    entry = judged.comparison.get(kind_report(context.kind).compared)
    return judged.metrics[ALONE], gap_between(entry, MODEL, ALONE) if entry else None


def _guess(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Rows predicted by what others have at the visit of this name, or at any visit where none is."""
    columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
    values = np.full((len(rows), max(len(columns), 1)), np.nan)
    for keys in (["region", "visit"], ["region"]):
        if columns:
            own = others.groupby(keys)["y_true"].value_counts(normalize=True).unstack(fill_value=0.0)
            own = own.reindex(columns=range(len(columns)), fill_value=0.0)
        else:
            own = others.groupby(keys)["y_true"].median().to_frame()
        at = rows[keys].merge(own.reset_index(), on=keys, how="left")[own.columns].to_numpy(float)
        values = np.where(np.isnan(values), at, values)
    if not columns:
        return rows.assign(y_pred=values[:, 0])
    return rows.assign(**dict(zip(columns, values.T, strict=True)), y_pred=values.argmax(axis=1))
