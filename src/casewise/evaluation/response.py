"""Response over time: percent change from baseline and responders, by the physician and by the model.

A lower score is better throughout. Source: Xing et al., the publication of the preset `onestep-pasi`, Figure 4
(percent change from baseline in the score, as PASI75 or PASI90).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from casewise.cohort.table import names_text
from casewise.cohort.visit_order import visit_order
from casewise.evaluation.agreement import group_agreement
from casewise.evaluation.bootstrap import PLAN, Plan, by_subject
from casewise.evaluation.figures import Estimate
from casewise.evaluation.intervals import ROUGH_BELOW
from casewise.evaluation.results import GroupAgreement, Response, ResponseRates

_ZERO = 1e-9
# A rise above this counts as this where percent changes are averaged: from a baseline near 0 it has no limit.
HIGHEST_RISE = 100.0
# The baseline where subjects begin with different visits.
FIRST_VISIT = "each subject's first scored visit"


def percent_change(rows: pd.DataFrame, *, baseline: str = "first") -> pd.DataFrame:
    """One learner's rows in order of time, with the percent change from baseline of reference and prediction.

    Args:
        rows: one row for each case, columns `subject, visit, day, y_true, y_pred`.
        baseline: the name of the baseline visit, or 'first': a subject's first visit that the physician scored.

    Returns the rows with `order` (0, 1, ... within the subject), `since` (visits after the baseline; NA without one),
    `true_change` and `predicted_change` (percent, negative when better; NaN without a baseline, or with one of zero or,
    for the prediction, below). The prediction's change is from the predicted baseline.

    >>> rows = pd.DataFrame({"subject": "s", "visit": ["w0", "w4"], "day": [0., 28.]})
    >>> rows = rows.assign(y_true=[20., 5.], y_pred=[16., 8.])
    >>> percent_change(rows)[["true_change", "predicted_change"]].to_numpy().tolist()
    [[0.0, 0.0], [-75.0, -50.0]]
    """
    ranks = {visit: rank for rank, visit in enumerate(visits_in_order(rows["visit"]))}
    rows = rows.assign(_rank=rows["visit"].map(ranks))
    # days order the visits of a subject only if all of them are known
    unknown = rows["day"].isna().groupby(rows["subject"]).transform("any")
    rows = rows.assign(_day=rows["day"].where(~unknown, 0.0)).sort_values(["subject", "_day", "_rank"])
    rows["order"] = rows.groupby("subject").cumcount()
    may_be = rows["y_true"].notna() if baseline == "first" else rows["visit"] == baseline
    start = rows[may_be].drop_duplicates("subject").set_index("subject")[["order", "y_true", "y_pred"]]
    baselines = start.reindex(rows["subject"])
    rows["since"] = pd.array(rows["order"].to_numpy() - baselines["order"].to_numpy(dtype=float)).astype("Int64")
    for name, column in (("true_change", "y_true"), ("predicted_change", "y_pred")):
        base = baselines[column].to_numpy(dtype=float)
        base = np.where(base > _ZERO, base, np.nan)
        rows[name] = 100.0 * (rows[column].to_numpy(dtype=float) - base) / base
    return rows.drop(columns=["_rank", "_day"]).reset_index(drop=True)


def response(
    rows: pd.DataFrame, plan: Plan = PLAN, *, baseline: str = "first", thresholds: Sequence[float] = (50, 75, 90, 100)
) -> Response:
    """One learner's response over time and the physician's.

    Counted are the visits after the baseline where both changes are known. `change` compares the percent changes (in
    percentage points, with rises up to `HIGHEST_RISE`), `responders` holds for each threshold the confusion counts
    (no/yes, the physician's by rows) with agreement and kappa, `by_visit` the share of responders at each visit by
    each, with Wilson intervals (a subject stands once at a visit). `rough` is true below ten subjects. `undefined`
    names every other subject once, with the first reason that holds. For the threshold of 100 %, a score of the model
    counts as clear up to `clear_limit`.
    """
    change = percent_change(rows, baseline=baseline)
    clear_at = clear_limit(rows["y_true"].to_numpy(dtype=float))
    rounded = f", which rounds to zero in the reference's smallest step of {2 * clear_at:g}" if clear_at else ""
    after = change[(change["since"] > 0).fillna(False)]
    used = after[after["true_change"].notna() & after["predicted_change"].notna()]
    starts = change.loc[(change["since"] == 0).fillna(False) & change["subject"].isin(used["subject"]), "visit"]
    counts = [f"{visit}: {count} subject{'s' * (count != 1)}" for visit, count in starts.value_counts().items()]
    named = names_text(counts, 4)
    counted = Response(
        baseline=f"{FIRST_VISIT} ({named or 'none'})" if baseline == "first" else f"visit {baseline}",
        clear_rule="A reduction of 100 % means a reference of zero, and by the model a score of at most "
        f"{clear_at:g}{rounded}.",
        n_subjects=int(used["subject"].nunique()),
        n_visits=len(used),
        rough=used["subject"].nunique() < ROUGH_BELOW,
        undefined=_undefined(change),
    )
    if used.empty:
        return counted
    subjects = used["subject"].to_numpy()
    true, predicted = (used[name].clip(upper=HIGHEST_RISE).to_numpy() for name in ("true_change", "predicted_change"))
    figures = by_subject(true, {"model": predicted}, subjects, plan)["model"]
    responders: dict[str, GroupAgreement] = {}
    for threshold in thresholds:
        sides = _responders(used, threshold, clear_at)
        responders[f"{threshold:g}"] = group_agreement(*sides, subjects, plan, n_groups=2)
    rates = by_visit(used, thresholds, clear_at, plan)
    return replace(counted, change=figures, responders=responders, by_visit=rates)


def _responders(used: pd.DataFrame, threshold: float, clear_at: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether rows of `percent_change` are a response of `threshold` %, by the physician and by the model."""
    true, predicted = used["true_change"].to_numpy(), used["predicted_change"].to_numpy()
    physician = responds(true, used["y_true"].to_numpy(), threshold, clear_at=0.0)
    return physician, responds(predicted, used["y_pred"].to_numpy(), threshold, clear_at=clear_at)


def by_visit(used: pd.DataFrame, thresholds: Sequence[float], clear_at: float, plan: Plan) -> dict[str, ResponseRates]:
    """The share of responders at each visit, from rows of `percent_change` where both changes are known."""
    rates_of: dict[str, ResponseRates] = {}
    for visit in visits_in_order(used["visit"]):
        at = used[used["visit"] == visit]
        sides = {f"{threshold:g}": _responders(at, threshold, clear_at) for threshold in thresholds}
        rates = {name: {"physician": rate(own, plan), "model": rate(its, plan)} for name, (own, its) in sides.items()}
        rates_of[visit] = ResponseRates(len(at), rates)
    return rates_of


def responds(change: np.ndarray, scores: np.ndarray, threshold: float, *, clear_at: float) -> np.ndarray:
    """Whether predicted scores with these percent changes count as a response of `threshold` %.

    For 100 % a score of at most `clear_at` counts.

    >>> responds(np.array([-80.0, -50.0]), np.array([2.0, 5.0]), 75, clear_at=0.1).tolist()
    [True, False]
    """
    return np.asarray(scores <= clear_at + _ZERO if threshold == 100 else change <= -threshold + _ZERO)


def clear_limit(truth: np.ndarray) -> float:
    """The largest predicted score that counts as clear: half the smallest step between the physician's scores.

    >>> clear_limit(np.array([0.0, 0.4, 1.0, np.nan]))
    0.2
    """
    levels = np.unique(np.round(truth[~np.isnan(truth)], 6))
    return float(np.diff(levels).min()) / 2 if len(levels) > 1 else 0.0


def rate(yes: np.ndarray, plan: Plan = PLAN) -> Estimate:
    """The share of yes with its Wilson interval.

    >>> half = rate(np.array([True, True, False, False]))
    >>> half.value, round(half.low, 3), round(half.high, 3)
    (0.5, 0.15, 0.85)
    """
    from scipy.stats import binomtest

    ends = binomtest(int(np.sum(yes)), len(yes)).proportion_ci(plan.confidence, "wilson")
    return Estimate(float(np.mean(yes)), float(ends.low), float(ends.high))


def visits_in_order(visits: pd.Series) -> list[str]:
    """The distinct names of visits in the order of `visit_order`.

    >>> visits_in_order(pd.Series(["week 16", "week 4", "baseline", "week 4"]))
    ['baseline', 'week 4', 'week 16']
    """
    return sorted(map(str, visits.unique()), key=visit_order)


def _undefined(change: pd.DataFrame) -> dict[str, list[str]]:
    """The subjects without a counted visit, each under the first reason that applies.

    Reasons on the physician's scores come first, so that all but the last are the same for every learner.
    """
    start = change[(change["since"] == 0).fillna(False)].set_index("subject")
    later = change[(change["since"] > 0).fillna(False)].dropna(subset=["y_true", "y_pred"])
    reasons = {
        "no_baseline": set(change["subject"]) - set(start.index),
        "baseline_not_scored": set(start.index[start["y_true"].isna()]),
        "physician_baseline_zero": set(start.index[start["y_true"] <= _ZERO]),
        "no_later_score": set(start.index) - set(later["subject"]),
        "model_baseline_zero": set(start.index[~(start["y_pred"] > _ZERO)]),
    }
    left_out: dict[str, list[str]] = {}
    named: set[str] = set()
    for why, subjects in reasons.items():
        left_out[why] = sorted(map(str, subjects - named))
        named |= subjects
    return left_out
