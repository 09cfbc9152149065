"""A prediction from only the visit, or the position of a slice: other subjects' labels there, without any image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from casewise.evaluation.bootstrap import Plan
from casewise.evaluation.figures import Estimate
from casewise.evaluation.judges import judge_of
from casewise.metrics.registry import metric_of
from casewise.predictions.table import SAMPLE_KEY, probability_columns
from casewise.report.context import ReportContext
from casewise.report.tables import kind_report
from casewise.targets import kind_named

# The fewest other subjects for a visit to count as known, and the smallest share of cases with a known visit.
FEWEST_SUBJECTS, KNOWN = 5, 0.9
# The error of a prediction that says more than a guess, as a share of the guess's.
TELLING = 0.95
MODEL, ALONE = "model", "visit"


def visit_alone(context: ReportContext, guessed_by: float) -> tuple[Estimate, Estimate | None] | None:
    """The figure of this prediction, and the difference of the reported model from it, by the metric of comparison.

    It is the share of each class, or the median, in subjects of other folds at the visit of the same name. None where
    it is no better than a guess with the figure `guessed_by`, cases are not predicted as a whole, subjects have one
    visit each, few visits have a name that others have, or folds are sources.
    """
    rows, outcome = context.headline_rows, context.predictions["target"] == context.outcome
    by_case = context.study.level_of(context.outcome) == "case"
    if not (by_case and context.repeated and len(rows)) or context.by_site or context.stage not in ("oof", "test"):
        return None
    oof = context.predictions[outcome & (context.predictions["stage"] == "oof")]
    oof = oof.dropna(subset=["y_true"]).drop_duplicates(list(SAMPLE_KEY))
    on_test, guessed, n_known = context.stage == "test", [], 0
    for _, of_fold in [(None, rows)] if on_test else rows.groupby("outer_fold"):
        others = oof if on_test else oof[oof["outer_fold"] != of_fold["outer_fold"].iloc[0]]
        subjects = others.groupby("visit")["subject"].nunique()
        others = others.assign(visit=others["visit"].where(others["visit"].map(subjects) >= FEWEST_SUBJECTS))
        n_known += int(of_fold["visit"].isin(others["visit"]).sum())
        guessed.append(_guess(of_fold, others))
    alone = pd.concat(guessed, ignore_index=True).assign(model=ALONE)
    if n_known < KNOWN * len(rows) or alone["y_pred"].isna().any():
        return None
    settings = context.study.evaluation
    plan = Plan(settings.bootstrap_resamples, settings.confidence, context.study.seed, context.study.unit)
    positive = context.study.positive_of(context.outcome) if context.classes else None
    judge, metric = judge_of(rows, context.classes or None, positive), kind_report(context.kind).compared
    figures = judge.judge(alone, plan, whole=False).metrics[ALONE]
    if not _tells(figures[metric], metric, guessed_by):
        return None
    both = pd.concat([rows.assign(model=MODEL), alone], ignore_index=True)
    return figures[metric], judge.judge(both, plan, whole=True).compare().gap(metric, MODEL, ALONE)


def _tells(figure: Estimate, metric: str, guess: float) -> bool:
    """Whether a figure is better than a guess: its whole interval, or an error of at most `TELLING` of the guess's."""
    if metric_of(metric).larger_is_better:
        return figure.low is not None and figure.low > guess
    return figure.value is not None and figure.value <= TELLING * guess


def _guess(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Rows predicted by what others have at the visit of this name, or at any visit where none is."""
    columns = [name for name in probability_columns(rows) if rows[name].notna().any()]
    if columns:
        at_visit = others.groupby("visit")["y_true"].value_counts(normalize=True).unstack(fill_value=0.0)
        at_visit = at_visit.reindex(columns=range(len(columns)), fill_value=0.0)
        anywhere = others["y_true"].value_counts(normalize=True).reindex(range(len(columns)), fill_value=0.0)
    else:
        at_visit, anywhere = others.groupby("visit")["y_true"].median().to_frame(), others["y_true"].median()
    values = at_visit.reindex(rows["visit"]).to_numpy(float)
    values = np.where(np.isnan(values), np.asarray(anywhere, dtype=float), values)
    decided = kind_named(str(rows["kind"].iloc[0])).decide(values)
    return rows.assign(**dict(zip(columns, values.T, strict=True)) if columns else {}, y_pred=decided)
